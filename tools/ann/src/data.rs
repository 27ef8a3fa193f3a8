//! The files of a data set: NumPy arrays of f32 or i32 with two dimensions or one.

use std::path::PathBuf;

use crate::Failure;

/// A row-major matrix.
pub struct Matrix<T> {
    /// All values.
    pub values: Vec<T>,
    /// Values of a row.
    pub columns: usize,
}

impl<T> Matrix<T> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.columns
    }

    /// The rows in order.
    pub fn rows(&self) -> impl Iterator<Item = &[T]> {
        self.values.chunks_exact(self.columns)
    }

    /// One row; the last one for a number past the end.
    pub fn row(&self, number: usize) -> &[T] {
        let start = number.min(self.len() - 1) * self.columns;
        &self.values[start..start + self.columns]
    }
}

/// A file of the data set, such as `_base` or `_gt100`.
fn path(dataset: &str, part: &str) -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join("embdb-bench");
    let root = std::env::var_os("BENCH_DIR").map_or_else(home, PathBuf::from);
    root.join("data").join(format!("{dataset}_{part}.npy"))
}

/// Reads f32 values.
pub fn floats(dataset: &str, part: &str) -> Result<Matrix<f32>, Failure> {
    read(dataset, part, "<f4", f32::from_le_bytes)
}

/// Reads i32 values.
pub fn integers(dataset: &str, part: &str) -> Result<Matrix<i32>, Failure> {
    read(dataset, part, "<i4", i32::from_le_bytes)
}

fn read<T>(dataset: &str, part: &str, kind: &str, value: fn([u8; 4]) -> T) -> Result<Matrix<T>, Failure> {
    let path = path(dataset, part);
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(&bytes, kind, value).ok_or_else(|| format!("{}: not a plain {kind} array", path.display()).into())
}

/// Format 1.0 of NumPy's array files: magic, version, u16 length of the header, header, values.
fn parse<T>(bytes: &[u8], kind: &str, value: fn([u8; 4]) -> T) -> Option<Matrix<T>> {
    let length = u16::from_le_bytes(*bytes.get(8..)?.first_chunk()?) as usize;
    let header = std::str::from_utf8(bytes.get(10..10 + length)?).ok()?;
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start());
    if !bytes.starts_with(b"\x93NUMPY\x01") || !after("'descr':")?.trim_start_matches('\'').starts_with(kind)
    {
        return None;
    }
    let shape = after("'shape':")?.strip_prefix('(')?.split_once(')')?.0;
    let sizes: Vec<usize> = shape.split(',').filter_map(|n| n.trim().parse().ok()).collect();
    let (cells, _) = bytes.get(10 + length..)?.as_chunks::<4>();
    let columns = sizes.get(1).copied().unwrap_or(1);
    let complete = columns > 0 && cells.len() == sizes.iter().product::<usize>() && !cells.is_empty();
    complete.then(|| Matrix { values: cells.iter().map(|&c| value(c)).collect(), columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, values: &[i32]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        bytes
    }

    #[test]
    fn matrices_and_lists_are_read_and_other_shapes_refused() {
        let header = "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }";
        let matrix = parse(&file(header, &[1, 2, 3, 4, 5, 6]), "<i4", i32::from_le_bytes).unwrap();
        assert_eq!((matrix.len(), matrix.row(1), matrix.row(9)), (2, &[4, 5, 6][..], &[4, 5, 6][..]));
        let list = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }";
        assert_eq!(parse(&file(list, &[7, 8]), "<i4", i32::from_le_bytes).unwrap().columns, 1);
        assert!(parse(&file(header, &[1]), "<i4", i32::from_le_bytes).is_none());
        assert!(parse(&file(header, &[1; 6]), "<f4", f32::from_le_bytes).is_none());
    }
}
