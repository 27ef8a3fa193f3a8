//! Files that `import` reads. The readers open files by name, so each input is written to one.

use std::path::{Path, PathBuf};

use crate::input::{self, Format, InputOptions};

/// Documents that are read of one input: the first ones tell as much as all.
const MOST: usize = 2000;

thread_local! {
    /// Where inputs are written, one over the other: in memory, if there is such a place.
    static FOLDER: tempfile::TempDir =
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder for inputs");
}

/// Puts an input into a file with this ending, and reads it.
fn import(data: &[u8], format: Format, ending: &str) {
    let path = FOLDER.with(|folder| folder.path().join(format!("input.{ending}")));
    std::fs::write(&path, data).expect("the input is written");
    read(&path, format);
    if matches!(format, Format::Npy | Format::Fvecs | Format::Parquet)
        && let Ok((rows, columns, values)) = input::queries::read(&path)
    {
        assert_eq!(rows * columns, values.len());
    }
}

fn read(path: &Path, format: Format) {
    let options = InputOptions { format: Some(format), ..InputOptions::default() };
    let Ok(documents) = input::open(&[PathBuf::from(path)], &options) else { return };
    for found in documents.take(MOST).map_while(Result::ok) {
        assert!(!found.document.id.is_empty());
        let bytes = found.document.text.len();
        assert!(bytes <= embdb::options::limits::DOCUMENT_BYTES, "a text of {bytes} bytes");
    }
}

/// One JSON object a line.
pub fn jsonl(data: &[u8]) {
    import(data, Format::Jsonl, "jsonl");
}

/// Values separated by commas.
pub fn csv(data: &[u8]) {
    import(data, Format::Csv, "csv");
}

/// A NumPy array.
pub fn npy(data: &[u8]) {
    import(data, Format::Npy, "npy");
}

/// Vectors, each after its dimension.
pub fn fvecs(data: &[u8]) {
    import(data, Format::Fvecs, "fvecs");
}

/// Columns.
pub fn parquet(data: &[u8]) {
    import(data, Format::Parquet, "parquet");
}
