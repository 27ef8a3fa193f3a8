//! fvecs files: for each vector its dimension as a little-endian i32, then that many little-endian f32.
//!
//! All vectors have the dimension of the first; the file's length is checked against it before anything is read.
//! At most 2³²−1 rows.

use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embdb::options::limits;
use embdb::types::Document;
use embdb::{Error, Result};

use super::lines::Metered;
use super::{Located, ReadProgress, over};

/// Opens a file whose first row has the id `first`.
pub(super) fn open(path: &Path, first: u64, progress: Arc<ReadProgress>) -> Result<Rows> {
    let bytes = fs::metadata(path).map_err(Error::io("read", path))?.len();
    let mut reader = BufReader::with_capacity(1 << 16, Metered::open(path, progress)?);
    if bytes == 0 {
        return Ok(Rows { reader, path: path.into(), dim: 0, rows: 0, next: 0, first });
    }
    let refuse = |what: String| Error::input(format!("{}: {what}", path.display()));
    let dim = if bytes < 4 { 0 } else { read_dim(&mut reader, path)? };
    if dim <= 0 {
        return Err(refuse("no fvecs file: it does not begin with a dimension".into()));
    }
    let row_bytes = 4 + 4 * dim.unsigned_abs() as u64;
    if bytes % row_bytes != 0 {
        let what = format!(
            "{bytes} bytes are no whole number of vectors of dimension {dim} ({row_bytes} bytes each)"
        );
        return Err(refuse(what));
    }
    let place = path.display().to_string();
    over(
        &place,
        "the vectors' dimension",
        dim.unsigned_abs().into(),
        limits::DIM as u64,
        "use shorter vectors",
    )?;
    over(&place, "the number of rows", bytes / row_bytes, u32::MAX.into(), "split the file")?;
    Ok(Rows { reader, path: path.into(), dim, rows: bytes / row_bytes, next: 0, first })
}

fn read_dim(reader: &mut impl Read, path: &Path) -> Result<i32> {
    let mut dim = [0; 4];
    reader.read_exact(&mut dim).map_err(Error::io("read", path))?;
    Ok(i32::from_le_bytes(dim))
}

/// Reads all vectors of a file: number of rows, of columns, and the values row by row.
pub(super) fn read_matrix(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let mut file = open(path, 0, Arc::default())?;
    // The file is as long as its first vector says.
    let mut values = Vec::with_capacity(file.rows as usize * file.dim.unsigned_abs() as usize);
    while file.next < file.rows {
        file.read_row(&mut values)?;
    }
    Ok((file.rows as usize, file.dim.unsigned_abs() as usize, values))
}

/// The vectors of a file as documents.
pub(super) struct Rows {
    reader: BufReader<Metered>,
    path: PathBuf,
    dim: i32,
    rows: u64,
    next: u64,
    first: u64,
}

impl Rows {
    /// Number of rows.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    fn place(&self) -> String {
        format!("{}: row {}", self.path.display(), self.next)
    }

    /// Appends the next row to `out`.
    fn read_row(&mut self, out: &mut Vec<f32>) -> Result<()> {
        // The first row's dimension was read on opening.
        let dim = if self.next == 0 { self.dim } else { read_dim(&mut self.reader, &self.path)? };
        if dim != self.dim {
            let what = format!("dimension {dim}, the rows before have {}", self.dim);
            return Err(Error::input(format!("{}: {what}", self.place())));
        }
        let mut bytes = vec![0; 4 * dim.unsigned_abs() as usize];
        self.reader.read_exact(&mut bytes).map_err(Error::io("read", &self.path))?;
        let (values, _) = bytes.as_chunks::<4>();
        out.extend(values.iter().map(|&value| f32::from_le_bytes(value)));
        self.next += 1;
        Ok(())
    }

    fn read(&mut self) -> Result<Located> {
        let (place, id) = (self.place(), (self.first + self.next).to_string());
        let mut vector = Vec::new();
        self.read_row(&mut vector)?;
        Ok(Located { document: Document::from_vector(id, vector), place })
    }
}

impl Iterator for Rows {
    type Item = Result<Located>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.rows).then(|| self.read())
    }
}
