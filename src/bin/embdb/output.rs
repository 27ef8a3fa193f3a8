//! Results on standard output (text, JSON, CSV, Markdown), notes and errors on standard error.
//!
//! Invariants: JSON is the same in every place, one object a line; text from the database never
//! reaches a terminal with control characters in it; colour only on a terminal without NO_COLOR.

use std::io::{self, BufWriter, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// For people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// Markdown tables.
    Markdown,
}

/// Columns and rows of text.
#[derive(Debug, Default, PartialEq)]
pub struct Rows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// One cell for each column.
    pub cells: Vec<Vec<String>>,
}

impl Rows {
    /// Rows of JSON objects: a column for each key that occurs, in order of appearance.
    pub fn of(objects: &[Value]) -> Self {
        let mut columns: Vec<String> = Vec::new();
        for key in objects.iter().filter_map(Value::as_object).flat_map(|object| object.keys()) {
            if !columns.contains(key) {
                columns.push(key.clone());
            }
        }
        let row = |object: &Value| {
            columns.iter().map(|key| object.get(key).map(cell).unwrap_or_default()).collect()
        };
        let cells = objects.iter().map(row).collect();
        Self { columns, cells }
    }
}

/// A JSON value in a cell.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Standard output in one mode.
pub struct Output {
    mode: Mode,
    out: BufWriter<io::Stdout>,
    terminal: bool,
    colour: bool,
}

impl Output {
    /// Standard output.
    pub fn new(mode: Mode) -> Self {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { mode, out: BufWriter::new(io::stdout()), terminal, colour }
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.mode == Mode::Json
    }

    /// `text` in bold, where colour is allowed.
    pub fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_string() }
    }

    /// Writes one line.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(Failure::output)
    }

    /// Writes one JSON object on one line, whatever the mode.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::output(error.into()))?;
        self.line(&text)
    }

    /// Writes one object: JSON, or a name and a value a line.
    pub fn record(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let value = to_value(value)?;
        match (self.mode, value.as_object()) {
            (Mode::Json, _) | (_, None) => self.json(&value),
            (Mode::Csv, _) => self.rows(&Rows::of(&[value])),
            (Mode::Table, Some(object)) => self.fields("", object),
            (Mode::Markdown, Some(object)) => self.rows(&Rows {
                columns: vec!["key".into(), "value".into()],
                cells: object.iter().map(|(key, value)| vec![key.clone(), cell(value)]).collect(),
            }),
        }
    }

    /// Writes an object that is JSON for programs also without `--json`: as [`record`](Self::record)
    /// on a terminal, as JSON elsewhere.
    pub fn summary(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        if self.mode == Mode::Table && !self.terminal { self.json(value) } else { self.record(value) }
    }

    /// Writes a stream of objects: JSON lines, or one table.
    pub fn records<T: Serialize>(&mut self, values: &[T]) -> Result<(), Failure> {
        if values.is_empty() {
            return Ok(());
        }
        let values = values.iter().map(to_value).collect::<Result<Vec<_>, _>>()?;
        if self.is_json() {
            return values.iter().try_for_each(|value| self.json(value));
        }
        self.rows(&Rows::of(&values))
    }

    /// Writes rows in the mode; as JSON, objects of text.
    pub fn rows(&mut self, rows: &Rows) -> Result<(), Failure> {
        match self.mode {
            Mode::Csv => self.csv(rows),
            Mode::Markdown => self.markdown(rows),
            Mode::Table => self.table(rows),
            Mode::Json => {
                for cells in &rows.cells {
                    let cells = cells.iter().map(|cell| Value::from(cell.as_str()));
                    let object: Map<String, Value> = rows.columns.iter().cloned().zip(cells).collect();
                    self.json(&object)?;
                }
                Ok(())
            }
        }
    }

    /// A name and a value a line; nested objects with dotted names.
    fn fields(&mut self, prefix: &str, object: &Map<String, Value>) -> Result<(), Failure> {
        let width = object.keys().map(|key| key.chars().count()).max().unwrap_or(0) + prefix.len();
        for (key, value) in object {
            let name = format!("{prefix}{key}");
            match value {
                Value::Object(inner) if !inner.is_empty() => self.fields(&format!("{name}."), inner)?,
                _ => self.line(format!("{name:<width$}  {}", printable(&cell(value))).trim_end())?,
            }
        }
        Ok(())
    }

    fn csv(&mut self, rows: &Rows) -> Result<(), Failure> {
        let mut writer = csv::Writer::from_writer(&mut self.out);
        for row in std::iter::once(&rows.columns).chain(&rows.cells) {
            writer.write_record(row).map_err(|error| Failure::output(error.into()))?;
        }
        writer.flush().map_err(Failure::output)
    }

    fn markdown(&mut self, rows: &Rows) -> Result<(), Failure> {
        let escape = |cell: &String| printable(cell).replace('|', "\\|");
        let line = |row: &[String]| format!("| {} |", row.iter().map(escape).collect::<Vec<_>>().join(" | "));
        self.line(&line(&rows.columns))?;
        self.line(&format!("|{}", " --- |".repeat(rows.columns.len())))?;
        rows.cells.iter().try_for_each(|row| self.line(&line(row)))
    }

    fn table(&mut self, rows: &Rows) -> Result<(), Failure> {
        let cells: Vec<Vec<String>> =
            rows.cells.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let mut widths: Vec<usize> = rows.columns.iter().map(|name| name.chars().count()).collect();
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |row: &[String]| {
            let cells =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        if !rows.columns.is_empty() {
            let header = self.bold(&line(&rows.columns));
            self.line(&header)?;
        }
        cells.iter().try_for_each(|row| self.line(&line(row)))
    }

    /// Writes raw bytes, such as exported log lines.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(Failure::output)
    }

    /// Hands everything to the operating system.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::output)
    }
}

fn to_value(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::output(error.into()))
}

/// `text` on one line without control characters, which could steer a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The first `width` characters of `text` with its white space collapsed; "…" marks a cut.
pub fn snippet(text: &str, width: usize) -> String {
    let mut short = String::new();
    let mut left = width;
    for word in text.split_whitespace() {
        let length = word.chars().count() + usize::from(!short.is_empty());
        if length > left {
            if short.is_empty() {
                short.extend(word.chars().take(width.saturating_sub(1)));
            }
            short.push('…');
            break;
        }
        if !short.is_empty() {
            short.push(' ');
        }
        short.push_str(word);
        left -= length;
    }
    printable(&short)
}

/// Writes an error to standard error; a closed one is nothing to complain about.
pub fn error_line(message: &str) {
    drop(writeln!(io::stderr(), "embdb: {message}"));
}

/// Writes a note to standard error.
pub fn note_line(message: &str) {
    drop(writeln!(io::stderr(), "{message}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_take_every_key_in_order() {
        let rows = Rows::of(&[json!({"a": 1, "b": null}), json!({"a": "x", "c": {"d": [1]}})]);
        assert_eq!(rows.columns, ["a", "b", "c"]);
        assert_eq!(rows.cells, [["1", "", ""], ["x", "", "{\"d\":[1]}"]]);
    }

    #[test]
    fn snippets_are_one_line_and_cut_at_words() {
        assert_eq!(snippet("one\n two  three", 100), "one two three");
        assert_eq!(snippet("one two three", 8), "one two…");
        assert_eq!(snippet("incomprehensibilities", 6), "incom…");
        assert_eq!(snippet("a\u{1b}[2Jb", 20), "a [2Jb");
        assert_eq!(snippet("", 5), "");
    }
}
