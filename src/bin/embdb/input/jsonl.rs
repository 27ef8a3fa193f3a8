//! JSON lines: one object on each line.

use std::path::Path;
use std::sync::Arc;

use embdb::types::Meta;
use embdb::{Error, Result};

use super::fields::Fields;
use super::lines::Lines;
use super::{Located, ReadProgress, check};

/// The documents of a file, or of standard input for `-`.
pub(super) fn open(
    path: &Path,
    fields: Fields,
    progress: Arc<ReadProgress>,
) -> Result<impl Iterator<Item = Result<Located>> + Send + use<>> {
    let mut lines = Lines::open(path, Arc::clone(&progress))?;
    Ok(std::iter::from_fn(move || next(&mut lines, &fields, &progress).transpose()))
}

fn next(lines: &mut Lines, fields: &Fields, progress: &ReadProgress) -> Result<Option<Located>> {
    loop {
        let Some(line) = lines.read()? else { return Ok(None) };
        let (parsed, bytes) = (serde_json::from_str::<Meta>(line), line.len() as u64);
        let place = lines.place();
        let object = parsed.map_err(|e| not_json(&e, &place))?;
        if let Some(document) = fields.document(object, &place)? {
            check(&document, bytes, &place)?;
            return Ok(Some(Located { document, place }));
        }
        progress.skip(1);
    }
}

fn not_json(error: &serde_json::Error, place: &str) -> Error {
    let message = error.to_string();
    let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
    match error.classify() {
        serde_json::error::Category::Data => {
            Error::input(format!("{place}: a JSON object is expected: {what}"))
        }
        _ => Error::input(format!("{place}: invalid JSON at column {}: {what}", error.column())),
    }
}
