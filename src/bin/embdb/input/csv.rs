//! CSV (and, for `.tsv`, tab-separated) files with a header line.
//!
//! A cell of metadata that looks like a number or a truth value becomes one; numbers that would not come back as
//! they were written (`007`, `+1`, integers beyond 64 bits) stay strings. An empty cell is an absent key, or no title. A column
//! without a name is called `column_N`.
//!
//! Lines end in a line feed, with or without a carriage return; the csv reader is told of the line feed alone, so that
//! each record has exactly one that is not in a cell, and its line can be told from the reader's position.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder, Terminator};
use embdb::types::Document;
use embdb::{Error, Result};
use serde_json::Value;

use super::fields::{Fields, vector};
use super::lines::{Metered, name};
use super::{LINE_BYTES, Located, ReadProgress, check, over};

/// The documents of a file, or of standard input for `-`.
pub(super) fn open(path: &Path, fields: Fields, progress: Arc<ReadProgress>) -> Result<Documents> {
    let used = Arc::new(Used::default());
    let bounded = Bounded { inner: Metered::open(path, progress)?.chain(END), used: Arc::clone(&used) };
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    let reader = ReaderBuilder::new()
        .delimiter(if tabs { b'\t' } else { b',' })
        .terminator(Terminator::Any(b'\n'))
        .has_headers(false)
        .flexible(true)
        .from_reader(bounded);
    let mut documents =
        Documents { reader, path: path.into(), record: ByteRecord::new(), used, columns: Vec::new(), fields };
    documents.read_header()?;
    Ok(documents)
}

/// Ends the last line of a file, in case it does not.
const END: &[u8] = b"\n";

/// What the present record has made the reader read.
#[derive(Default)]
struct Used {
    bytes: AtomicU64,
    /// Whether it went on to the end of the file.
    ended: AtomicBool,
}

/// Fails once a record has used up its bytes, so that an unclosed quote does not read a whole file into memory.
struct Bounded {
    inner: io::Chain<Metered, &'static [u8]>,
    used: Arc<Used>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used.bytes.load(Ordering::Relaxed) > LINE_BYTES {
            return Err(io::Error::other("the record is too long"));
        }
        let bytes = self.inner.read(buffer)?;
        self.used.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.used.ended.store(bytes == 0 && !buffer.is_empty(), Ordering::Relaxed);
        Ok(bytes)
    }
}

/// What a column holds.
enum Column {
    Id,
    Text,
    Title,
    Vector,
    Meta(String),
}

/// The records of a file as documents.
pub(super) struct Documents {
    reader: Reader<Bounded>,
    path: PathBuf,
    record: ByteRecord,
    used: Arc<Used>,
    columns: Vec<Column>,
    fields: Fields,
}

impl Iterator for Documents {
    type Item = Result<Located>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_document().transpose()
    }
}

impl Documents {
    fn place(&self, line: u64) -> String {
        format!("{}:{line}", name(&self.path))
    }

    /// Reads the next record that is not blank; gives its place, or `None` at the end.
    fn read_record(&mut self) -> Result<Option<String>> {
        loop {
            self.used.bytes.store(0, Ordering::Relaxed);
            let before = self.reader.position().line();
            match self.reader.read_byte_record(&mut self.record) {
                Ok(false) => return Ok(None),
                Ok(true) if self.record.as_slice() == b"\r" => (),
                Ok(true) => {
                    let within = self.record.as_slice().iter().filter(|&&b| b == b'\n').count() as u64;
                    let after = self.reader.position().line().saturating_sub(within);
                    // The last line has an end, so a record that needed the file's has swallowed it.
                    if self.used.ended.load(Ordering::Relaxed) {
                        return Err(Error::input(format!("{}: a quote is not closed", self.place(after))));
                    }
                    return Ok(Some(self.place(after.saturating_sub(1))));
                }
                Err(e) => return Err(self.not_read(e, before)),
            }
        }
    }

    fn not_read(&self, error: csv::Error, line: u64) -> Error {
        let (used, place) = (self.used.bytes.load(Ordering::Relaxed), self.place(line));
        let what = "the record (is a quote not closed?), in bytes,";
        if let Err(limit) = over(&place, what, used, LINE_BYTES, "split the document") {
            return limit;
        }
        match error.into_kind() {
            ErrorKind::Io(source) => Error::io("read", &self.path)(source),
            other => Error::input(format!("{place}: invalid CSV: {other:?}")),
        }
    }

    fn cell(&self, column: usize, place: &str) -> Result<&str> {
        let mut bytes = self.record.get(column).unwrap_or_default();
        if column + 1 == self.record.len() {
            bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        }
        std::str::from_utf8(bytes)
            .map_err(|_| Error::input(format!("{place}: invalid UTF-8 in column {}", column + 1)))
    }

    fn read_header(&mut self) -> Result<()> {
        let Some(place) = self.read_record()? else {
            return Err(Error::input(format!("{}: no header line", name(&self.path))));
        };
        let mut names: Vec<String> = Vec::new();
        for column in 0..self.record.len() {
            let cell = self.cell(column, &place)?.trim();
            let name = if cell.is_empty() { format!("column_{}", column + 1) } else { cell.to_string() };
            if names.contains(&name) {
                return Err(Error::input(format!("{place}: two columns are called {name:?}")));
            }
            names.push(name);
        }
        let Some(id) = self.fields.ids.iter().find(|&id| names.contains(id)).cloned() else {
            let what = format!("no column {} for the id", self.fields.id_names());
            return Err(Error::input(format!("{place}: {what}; the columns are {}", names.join(", "))));
        };
        if !names.contains(&self.fields.text) && !names.contains(&self.fields.vector) {
            let what = format!("no column {:?} and no {:?}", self.fields.text, self.fields.vector);
            return Err(Error::input(format!("{place}: {what}; the columns are {}", names.join(", "))));
        }
        let role = |name: String| match name.as_str() {
            _ if name == id => Column::Id,
            _ if name == self.fields.text => Column::Text,
            _ if name == self.fields.vector => Column::Vector,
            "title" => Column::Title,
            _ => Column::Meta(name),
        };
        self.columns = names.into_iter().map(role).collect();
        Ok(())
    }

    fn read_document(&mut self) -> Result<Option<Located>> {
        let Some(place) = self.read_record()? else { return Ok(None) };
        let (fields, expected) = (self.record.len(), self.columns.len());
        if fields != expected {
            return Err(Error::input(format!("{place}: {fields} fields, the header has {expected}")));
        }
        let mut document = Document::default();
        let mut text = None;
        for (at, column) in self.columns.iter().enumerate() {
            let cell = self.cell(at, &place)?;
            match column {
                Column::Id => document.id = cell.to_string(),
                Column::Text => text = Some(cell.to_string()),
                Column::Title => document.title = (!cell.is_empty()).then(|| cell.to_string()),
                Column::Vector if cell.trim().is_empty() => (),
                Column::Vector => {
                    let field = &self.fields.vector;
                    let value = serde_json::from_str(cell).map_err(|_| {
                        Error::input(format!("{place}: {field:?} is no JSON array of numbers"))
                    })?;
                    document.vector = Some(vector(&value, field, &place)?);
                }
                Column::Meta(_) if cell.is_empty() => (),
                Column::Meta(key) => drop(document.meta.insert(key.clone(), typed(cell))),
            }
        }
        // Only a BEIR corpus passes documents over.
        let Some(document) = self.fields.with_text(document, text, &place)? else { return Ok(None) };
        check(&document, self.record.as_slice().len() as u64, &place)?;
        Ok(Some(Located { document, place }))
    }
}

/// The value that a cell looks like.
fn typed(cell: &str) -> Value {
    match cell {
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => (),
    }
    // JSON's grammar for numbers has neither leading zeros nor a plus sign, and knows no infinity.
    match serde_json::from_str::<Value>(cell) {
        Ok(Value::Number(_)) if cell.trim() != cell => Value::String(cell.to_string()),
        Ok(Value::Number(number)) if number.is_i64() || cell.contains(['.', 'e', 'E']) => {
            Value::Number(number)
        }
        _ => Value::String(cell.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_typed_only_when_nothing_is_lost() {
        let cases = [
            ("12", json!(12)),
            ("-3", json!(-3)),
            ("0.50", json!(0.5)),
            ("1e3", json!(1000.0)),
            ("True", json!(true)),
            ("FALSE", json!(false)),
            ("007", json!("007")),
            ("+1", json!("+1")),
            (" 1", json!(" 1")),
            ("1.", json!("1.")),
            ("nan", json!("nan")),
            ("inf", json!("inf")),
            ("18446744073709551615", json!("18446744073709551615")),
            ("99999999999999999999", json!("99999999999999999999")),
            ("[1]", json!("[1]")),
            ("\"x\"", json!("\"x\"")),
            ("null", json!("null")),
            ("2021-03-01", json!("2021-03-01")),
        ];
        for (cell, value) in cases {
            assert_eq!(typed(cell), value, "{cell}");
        }
    }
}
