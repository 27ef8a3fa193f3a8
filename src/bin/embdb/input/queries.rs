//! The vectors of a file as queries of `knn`: the files of vectors that `import` reads, as one matrix.

use std::fs;
use std::io;
use std::path::Path;

use embdb::{Error, Result};

use super::{Format, fvecs, npy, parquet};

/// Reads all vectors of a file, whose name tells its format (without a known ending: a NumPy array): number of rows, of columns,
/// and the values row by row.
///
/// # Errors
/// [`Error::Input`] for a file that is missing or malformed, [`Error::Limit`], [`Error::Io`].
pub fn read(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    if let Err(error) = fs::metadata(path) {
        return Err(match error.kind() {
            io::ErrorKind::NotFound => Error::input(format!("{}: no such file", path.display())),
            _ => Error::io("read", path)(error),
        });
    }
    match super::format_of(path) {
        Ok(Format::Parquet) => parquet::read_matrix(path),
        Ok(Format::Fvecs) => fvecs::read_matrix(path),
        _ => npy::read_matrix(path),
    }
}
