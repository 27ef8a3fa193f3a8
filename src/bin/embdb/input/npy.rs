//! NumPy's `.npy` files: two-dimensional arrays of vectors, in and out.
//!
//! Read are little-endian f2, f4, f8, i1 and u1 in C order, format versions 1 to 3; every value becomes an f32. The
//! header is not trusted: its shape must account for every byte of the file before anything is allocated for it. At
//! most 2³²−1 rows. Written are version 1 files of f4 or i8 (64-bit integers), under a temporary name first, so that
//! a file of the right name is always whole.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embdb::options::limits;
use embdb::storage::whole_file::WholeFile;
use embdb::types::Document;
use embdb::{Error, Result};

use super::lines::Metered;
use super::{Located, ReadProgress, over};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header, in bytes; those of arrays have about 100.
const HEADER_BYTES: u64 = 64 << 10;

/// Type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Element {
    F16,
    F32,
    F64,
    I8,
    U8,
}

impl Element {
    fn from_descr(descr: &str) -> Option<Self> {
        Some(match descr {
            "<f2" => Self::F16,
            "<f4" => Self::F32,
            "<f8" => Self::F64,
            "|i1" | "<i1" => Self::I8,
            "|u1" | "<u1" => Self::U8,
            _ => return None,
        })
    }

    fn bytes(self) -> u64 {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F64 => out.extend(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::F16 => out.extend(bytes.as_chunks().0.iter().map(|&b| f16_to_f32(u16::from_le_bytes(b)))),
            Self::I8 => out.extend(bytes.iter().map(|&b| f32::from(b as i8))),
            Self::U8 => out.extend(bytes.iter().map(|&b| f32::from(b))),
        }
    }
}

/// IEEE 754 half precision: sign, 5 bits of exponent (bias 15), 10 of fraction.
pub(super) fn f16_to_f32(half: u16) -> f32 {
    let sign = if half >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(half >> 10 & 31), f32::from(half & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

/// The rows of an array, read one after the other.
struct Matrix<R> {
    reader: R,
    path: PathBuf,
    element: Element,
    rows: u64,
    cols: usize,
    buffer: Vec<u8>,
}

impl<R: Read> Matrix<R> {
    /// Reads the header and checks it against the file's length.
    fn open(mut reader: R, path: &Path) -> Result<Self> {
        let refuse = |what: String| Error::input(format!("{}: {what}", path.display()));
        let file_bytes = fs::metadata(path).map_err(Error::io("read", path))?.len();
        let header = read_header(&mut reader, path)?;
        let Some(Header { descr, fortran, shape }) = parse_header(&header.text) else {
            return Err(refuse(format!("the npy header cannot be read: {:?}", header.text.trim())));
        };
        let Some(element) = Element::from_descr(&descr) else {
            return Err(refuse(format!(
                "elements of type {descr}; f2, f4, f8, i1 and u1, little-endian, are read"
            )));
        };
        let &[rows, cols] = shape.as_slice() else {
            return Err(refuse(format!("{} dimensions; an array of vectors has 2", shape.len())));
        };
        if fortran && rows > 1 && cols > 1 {
            return Err(refuse("in Fortran order; save it with numpy.ascontiguousarray".into()));
        }
        if cols == 0 {
            return Err(refuse("its vectors have dimension 0".into()));
        }
        let place = path.display().to_string();
        over(&place, "the vectors' dimension", cols, limits::DIM as u64, "use shorter vectors")?;
        over(&place, "the number of rows", rows, u32::MAX.into(), "split the file")?;
        // No overflow: each factor was just bounded.
        let expected = header.bytes + rows * cols * element.bytes();
        if expected != file_bytes {
            return Err(refuse(format!(
                "shape ({rows}, {cols}) makes {expected} bytes, the file has {file_bytes}"
            )));
        }
        let buffer = vec![0; (cols * element.bytes()) as usize];
        Ok(Self { reader, path: path.into(), element, rows, cols: cols as usize, buffer })
    }

    /// Appends the next row to `out`.
    fn read_row(&mut self, out: &mut Vec<f32>) -> Result<()> {
        self.reader.read_exact(&mut self.buffer).map_err(Error::io("read", &self.path))?;
        self.element.decode(&self.buffer, out);
        Ok(())
    }
}

/// Text of a header, and where the data begin.
struct HeaderText {
    text: String,
    bytes: u64,
}

fn read_header(reader: &mut impl Read, path: &Path) -> Result<HeaderText> {
    let no_npy = || Error::input(format!("{}: no npy file, or one that is cut short", path.display()));
    let mut fixed = [0; 8];
    read_or(reader, &mut fixed, path, no_npy)?;
    let [.., major, _minor] = fixed;
    if !fixed.starts_with(MAGIC) {
        return Err(no_npy());
    }
    let mut length = [0; 4];
    let (width, length) = match major {
        1 => {
            let mut short = [0; 2];
            read_or(reader, &mut short, path, no_npy)?;
            (2, u64::from(u16::from_le_bytes(short)))
        }
        2 | 3 => {
            read_or(reader, &mut length, path, no_npy)?;
            (4, u64::from(u32::from_le_bytes(length)))
        }
        _ => {
            return Err(Error::input(format!("{}: npy format version {major} is not known", path.display())));
        }
    };
    over(
        &path.display().to_string(),
        "the npy header, in bytes,",
        length,
        HEADER_BYTES,
        "save the array anew",
    )?;
    let mut text = vec![0; length as usize];
    read_or(reader, &mut text, path, no_npy)?;
    let text = String::from_utf8(text).map_err(|_| no_npy())?;
    Ok(HeaderText { text, bytes: fixed.len() as u64 + width + length })
}

/// Fills `buffer`; `short` is the error of a file that ends before.
fn read_or(reader: &mut impl Read, buffer: &mut [u8], path: &Path, short: impl Fn() -> Error) -> Result<()> {
    reader.read_exact(buffer).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => short(),
        _ => Error::io("read", path)(e),
    })
}

/// What a header says.
#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<u64>,
}

/// Reads the Python dictionary of a header, such as
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse_header(text: &str) -> Option<Header> {
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        rest = match key {
            "descr" => {
                let (name, after) = quoted(value)?;
                descr = Some(name.to_string());
                after
            }
            "fortran_order" => {
                let (order, after) = match value.strip_prefix("True") {
                    Some(after) => (true, after),
                    None => (false, value.strip_prefix("False")?),
                };
                fortran = Some(order);
                after
            }
            "shape" => {
                let (inside, after) = value.strip_prefix('(')?.split_once(')')?;
                let sizes = inside.split(',').map(str::trim).filter(|size| !size.is_empty());
                shape = Some(sizes.map(|size| size.parse().ok()).collect::<Option<Vec<u64>>>()?);
                after
            }
            _ => return None,
        }
        .trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(Header { descr: descr?, fortran: fortran?, shape: shape? })
}

/// A quoted string at the start of `text`, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text.strip_prefix(quote)?.split_once(quote)
}

/// Opens a file for import; its first row has the id `first`.
pub(super) fn open(path: &Path, first: u64, progress: Arc<ReadProgress>) -> Result<Rows> {
    let reader = BufReader::with_capacity(1 << 16, Metered::open(path, progress)?);
    Ok(Rows { matrix: Matrix::open(reader, path)?, next: 0, first })
}

/// The rows of a file as documents.
pub(super) struct Rows {
    matrix: Matrix<BufReader<Metered>>,
    next: u64,
    first: u64,
}

impl Rows {
    /// Number of rows.
    pub(super) fn rows(&self) -> u64 {
        self.matrix.rows
    }

    fn read(&mut self) -> Result<Located> {
        let place = format!("{}: row {}", self.matrix.path.display(), self.next);
        let mut vector = Vec::with_capacity(self.matrix.cols);
        self.matrix.read_row(&mut vector)?;
        let document = Document::from_vector((self.first + self.next).to_string(), vector);
        self.next += 1;
        Ok(Located { document, place })
    }
}

impl Iterator for Rows {
    type Item = Result<Located>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.matrix.rows).then(|| self.read())
    }
}

/// Reads a whole array: number of rows, of columns, and the values row by row.
///
/// # Errors
/// [`Error::Input`] for a file that is missing or no such array, [`Error::Limit`], [`Error::Io`].
pub fn read_matrix(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let file = File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::input(format!("{}: no such file", path.display())),
        _ => Error::io("open", path)(e),
    })?;
    let mut matrix = Matrix::open(BufReader::with_capacity(1 << 20, file), path)?;
    // The file is as long as its shape says, so this is at most four times what is on the disk.
    let mut values = Vec::with_capacity(matrix.rows as usize * matrix.cols);
    for _ in 0..matrix.rows {
        matrix.read_row(&mut values)?;
    }
    Ok((matrix.rows as usize, matrix.cols, values))
}

/// Writes an array of 32-bit floats, replacing a file of that name.
///
/// # Errors
/// [`Error::Input`] if `values` are not `rows` × `cols`, [`Error::Io`].
#[cfg(test)]
pub fn write_f32(path: &Path, rows: usize, cols: usize, values: &[f32]) -> Result<()> {
    write(path, "<f4", (rows, cols), values, |value| value.to_le_bytes())
}

/// Writes an array of 64-bit integers, replacing a file of that name.
///
/// # Errors
/// [`Error::Input`] if `values` are not `rows` × `cols`, [`Error::Io`].
pub fn write_i64(path: &Path, rows: usize, cols: usize, values: &[i64]) -> Result<()> {
    write(path, "<i8", (rows, cols), values, |value| value.to_le_bytes())
}

fn write<T: Copy, const N: usize>(
    path: &Path,
    descr: &'static str,
    (rows, cols): (usize, usize),
    values: &[T],
    bytes_of: impl Fn(T) -> [u8; N],
) -> Result<()> {
    if rows.checked_mul(cols) != Some(values.len()) {
        return Err(Error::input(format!("{} values are not {rows} rows of {cols}", values.len())));
    }
    let mut array = ArrayWriter::create(path, descr, cols)?;
    array.write(values, bytes_of)?;
    array.finish(rows)
}

/// An array of 32-bit floats that is written row by row. Nothing of it is visible under its name before
/// [`finish`](Self::finish), and nothing is left if that does not come.
#[cfg(feature = "encoder")]
pub struct F32Writer {
    array: ArrayWriter,
    values: usize,
}

#[cfg(feature = "encoder")]
impl F32Writer {
    /// Begins an array of rows of `cols` values, to replace a file of that name.
    pub fn create(path: &Path, cols: usize) -> Result<Self> {
        Ok(Self { array: ArrayWriter::create(path, "<f4", cols)?, values: 0 })
    }

    /// Appends rows.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        self.values += values.len();
        self.array.write(values, f32::to_le_bytes)
    }

    /// Completes the file.
    pub fn finish(self) -> Result<()> {
        let rows = self.values / self.array.cols.max(1);
        self.array.finish(rows)
    }
}

/// An array on its way: its header is as long with the number of rows as without.
struct ArrayWriter {
    file: WholeFile,
    descr: &'static str,
    cols: usize,
}

impl ArrayWriter {
    fn create(path: &Path, descr: &'static str, cols: usize) -> Result<Self> {
        let mut file = WholeFile::create(path)?;
        file.begin_with(&header_bytes(descr, 0, cols))?;
        Ok(Self { file, descr, cols })
    }

    fn write<T: Copy, const N: usize>(
        &mut self,
        values: &[T],
        bytes_of: impl Fn(T) -> [u8; N],
    ) -> Result<()> {
        self.file.write(|file| values.iter().try_for_each(|&value| file.write_all(&bytes_of(value))))
    }

    fn finish(mut self, rows: usize) -> Result<()> {
        self.file.begin_with(&header_bytes(self.descr, rows, self.cols))?;
        self.file.finish()
    }
}

/// A version 1 header, padded so that the data begin at a multiple of 64: at 128, for any number of rows and columns.
fn header_bytes(descr: &str, rows: usize, cols: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let fixed = MAGIC.len() + 4;
    let padded = (fixed + text.len() + 1).next_multiple_of(128) - fixed;
    text.push_str(&" ".repeat(padded - 1 - text.len()));
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((padded as u16).to_le_bytes());
    bytes.extend(text.into_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_python_writes_them() {
        let good = Header { descr: "<f4".into(), fortran: false, shape: vec![3, 4] };
        for text in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }     \n",
            "{\"shape\":(3,4),\"descr\":\"<f4\",\"fortran_order\":False}",
        ] {
            assert_eq!(parse_header(text).as_ref(), Some(&good));
        }
        for text in [
            "",
            "{}",
            "{'descr': '<f4'",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 4)}",
            "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (3, 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, -4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 99999999999999999999)}",
            "{'descr': '<f4', 'fortran_order': False 'shape': (3, 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'other': (3, 4)}",
        ] {
            assert_eq!(parse_header(text), None, "{text}");
        }
    }

    #[test]
    fn halves_widen_exactly() {
        let cases = [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0001, 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (half, float) in cases {
            assert_eq!(f16_to_f32(half), float, "{half:#06x}");
        }
        assert!(f16_to_f32(0x7e00).is_nan() && f16_to_f32(0x8000).is_sign_negative());
    }
}
