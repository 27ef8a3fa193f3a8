//! Files of training data, by what they look like from outside.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::{Data, read, read_qrels};
use crate::error::{Error, Result};

/// Reads training data: JSON lines of any shape; a folder in the manner of BEIR (`queries.jsonl` and `qrels/*.tsv`, of which
/// `train.tsv` is taken, or the only one); or judgements in a `.tsv`, whose queries are in `queries`.
///
/// # Errors
/// As of [`read()`] and [`read_qrels`]; [`Error::Input`] if the files do not make up one of these.
pub fn open(path: &Path, queries: Option<&Path>) -> Result<Data> {
    if path.is_dir() {
        let own = path.join("queries.jsonl");
        return judged(queries.unwrap_or(&own), &folder_qrels(path)?);
    }
    match (path.extension() == Some(OsStr::new("tsv")), queries) {
        (true, Some(queries)) => judged(queries, path),
        (true, None) => Err(Error::input(format!(
            "{}: judgements need their queries: name them with --queries FILE.jsonl",
            path.display()
        ))),
        (false, Some(queries)) => Err(Error::input(format!(
            "{} has its queries in it; {} belongs to judgements (.tsv)",
            path.display(),
            queries.display()
        ))),
        (false, None) => read(reader(path)?, &path.display().to_string()),
    }
}

fn judged(queries: &Path, qrels: &Path) -> Result<Data> {
    let (queries_name, qrels_name) = (queries.display().to_string(), qrels.display().to_string());
    read_qrels((reader(queries)?, &queries_name), (reader(qrels)?, &qrels_name))
}

fn reader(path: &Path) -> Result<BufReader<File>> {
    if path.is_dir() {
        return Err(Error::input(format!("{} is a folder", path.display())));
    }
    Ok(BufReader::new(File::open(path).map_err(Error::io("open", path))?))
}

/// The judgements to train on.
fn folder_qrels(folder: &Path) -> Result<PathBuf> {
    let qrels = folder.join("qrels");
    let train = qrels.join("train.tsv");
    if train.is_file() {
        return Ok(train);
    }
    let mut found = Vec::new();
    if qrels.is_dir() {
        for entry in fs::read_dir(&qrels).map_err(Error::io("list", &qrels))? {
            let path = entry.map_err(Error::io("list", &qrels))?.path();
            if path.extension() == Some(OsStr::new("tsv")) {
                found.push(path);
            }
        }
    }
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::input(format!(
            "{} is a folder without judgements: a BEIR folder has queries.jsonl and qrels/train.tsv",
            folder.display()
        ))),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Error::input(format!(
                "{} has no qrels/train.tsv; name the judgements to train on, with --queries: {}",
                folder.display(),
                names.join(", ")
            )))
        }
    }
}
