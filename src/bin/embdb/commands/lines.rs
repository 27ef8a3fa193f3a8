//! Text files line by line, with errors that name file and line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use embdb::options::limits;
use embdb::{Error, Result};
#[cfg(feature = "encoder")]
use serde_json::Value;

/// Opens a file for reading; a missing one is wrong input. `-` is standard input.
pub fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::input(format!("no file {}", path.display())),
        _ => Error::io("open", path)(error),
    })?;
    Ok(Box::new(BufReader::new(file)))
}

/// Calls `take` with every line that is not blank. What it returns as an error is told with file and line.
pub fn each(path: &Path, mut take: impl FnMut(&str) -> std::result::Result<(), String>) -> Result<()> {
    let mut reader = open(path)?;
    let limit = limits::DOCUMENT_BYTES as u64;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let at = |what: String| Error::input(format!("{}, line {number}: {what}", path.display()));
        let read =
            (&mut reader).take(limit + 1).read_until(b'\n', &mut line).map_err(Error::io("read", path))?;
        if read == 0 {
            break;
        }
        if read as u64 > limit {
            let what = format!("{}, line {number}, in bytes,", path.display());
            return Err(Error::Limit { what, limit, actual: read as u64, raise: "split the line".into() });
        }
        let text = std::str::from_utf8(&line).map_err(|error| at(format!("invalid UTF-8: {error}")))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() {
            take(text).map_err(at)?;
        }
    }
    Ok(())
}

/// All texts of a file: JSON objects with `text` (and `title`), or JSON strings.
#[cfg(feature = "trainer")]
pub fn texts(path: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    each(path, |line| {
        texts.push(text(line)?);
        Ok(())
    })?;
    if texts.is_empty() {
        return Err(Error::input(format!("{} holds no texts", path.display())));
    }
    Ok(texts)
}

/// The text of a line, below its title if it has one.
#[cfg(feature = "encoder")]
pub fn text(line: &str) -> std::result::Result<String, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("invalid JSON: {error}"))?;
    let object = match value {
        Value::String(text) => return Ok(text),
        Value::Object(object) => object,
        _ => return Err("neither a JSON object nor a string".into()),
    };
    let Some(Value::String(text)) = object.get("text") else { return Err("no `text`".into()) };
    match object.get("title") {
        Some(Value::String(title)) if !title.is_empty() => Ok(format!("{title}\n{text}")),
        _ => Ok(text.clone()),
    }
}
