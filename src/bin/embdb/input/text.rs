//! Text files: one document each. In a folder the path below it, with `/`, is the id; a file alone has its name.
//!
//! A folder is walked in depth, without hidden files and without following links to folders, and read in the order
//! of the ids. Files that are not text by name, are not UTF-8 although their name has no extension, or are blank are
//! passed over and counted.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embdb::options::limits;
use embdb::types::Document;
use embdb::{Error, Result};

use super::{Located, ReadProgress, check, over};

/// A file to be read as one document.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    id: String,
    pub(super) bytes: u64,
    /// Whether a file that is no text is passed over rather than refused.
    lenient: bool,
}

/// Whether a file is text by its name.
pub(super) fn has_text_name(path: &Path) -> bool {
    match path.extension() {
        None => true,
        Some(e) => ["txt", "md", "rst", "text", "log"].iter().any(|known| e.eq_ignore_ascii_case(known)),
    }
}

/// A file given alone.
pub(super) fn single(path: &Path) -> Result<File> {
    let Some(id) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(Error::input(format!(
            "{}: the file's name, which is the id, is not UTF-8",
            path.display()
        )));
    };
    let bytes = fs::metadata(path).map_err(Error::io("read", path))?.len();
    Ok(File { path: path.into(), id: id.into(), bytes, lenient: false })
}

/// The text files below a folder, in the order of their ids.
pub(super) fn folder(root: &Path, progress: &ReadProgress) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
            let entry = entry.map_err(Error::io("read", &folder))?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().map_err(Error::io("read", &path))?;
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let id = name.to_str().map(|name| format!("{prefix}{name}"));
            match (id, fs::metadata(&path)) {
                (Some(id), _) if kind.is_dir() => folders.push((path, id + "/")),
                (Some(id), Ok(found)) if found.is_file() && has_text_name(&path) => {
                    files.push(File { path, id, bytes: found.len(), lenient: true });
                }
                _ => progress.skip(1),
            }
        }
    }
    if files.is_empty() {
        let what = "no text files (.txt .md .rst .text .log or without extension) in it";
        return Err(Error::input(format!("{}: {what}, and no corpus.jsonl", root.display())));
    }
    files.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(files)
}

/// The documents of files.
pub(super) fn open(
    files: Vec<File>,
    progress: Arc<ReadProgress>,
) -> impl Iterator<Item = Result<Located>> + Send + use<> {
    files.into_iter().filter_map(move |file| read(file, &progress).transpose())
}

fn read(file: File, progress: &ReadProgress) -> Result<Option<Located>> {
    let place = file.path.display().to_string();
    let mut bytes = Vec::new();
    let limit = limits::DOCUMENT_BYTES as u64;
    let opened = fs::File::open(&file.path).map_err(Error::io("open", &file.path))?;
    opened.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io("read", &file.path))?;
    progress.add(bytes.len() as u64);
    over(&place, "the document, in bytes,", file.bytes.max(bytes.len() as u64), limit, "split it")?;
    let unsure = file.lenient && file.path.extension().is_none();
    let text = match String::from_utf8(bytes) {
        Ok(text) if unsure && text.contains('\0') => None,
        Ok(text) => Some(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text)),
        Err(_) if unsure => None,
        Err(e) => {
            let good = e.utf8_error().valid_up_to();
            let line = 1 + e.as_bytes().iter().take(good).filter(|&&b| b == b'\n').count();
            return Err(Error::input(format!(
                "{place}:{line}: invalid UTF-8 (byte {} of the file)",
                good + 1
            )));
        }
    };
    let Some(text) = text.filter(|text| !file.lenient || !text.trim().is_empty()) else {
        progress.skip(1);
        return Ok(None);
    };
    if text.trim().is_empty() {
        return Err(Error::input(format!("{place}: the text is empty")));
    }
    let document = Document::new(file.id, text);
    check(&document, file.bytes, &place)?;
    Ok(Some(Located { document, place }))
}
