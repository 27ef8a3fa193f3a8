//! Parquet files: columns named as the keys of JSON lines, one document a row.
//!
//! A vector is a list of numbers, of any width. `meta` is a group, or JSON in a string; other columns are metadata of
//! their own, and a null is an absent key. Row groups are read one after the other, and each some rows at a time, so that
//! the memory needed is that of one page of each column.
//!
//! | module | what it does |
//! |---|---|
//! | `column` | rows of a column from its levels and values |
//! | `scalar` | dates, decimals and other annotated values |
//! | `page` | pages whose headers claim too much |
//! | `source` | the file, whose end is an error |
//! | `thrift` | headers, looked over before they are read |

mod column;
mod page;
mod scalar;
mod source;
#[cfg(test)]
mod tests;
mod thrift;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embdb::options::limits;
use embdb::panics::caught;
use embdb::types::Meta;
use embdb::{Error, Result};
use parquet::errors::{self, ParquetError};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use self::column::{Column, Problem, Shape, column};
use self::source::Source;
use super::fields::Fields;
use super::{Located, ReadProgress, check, over};

/// Runs a call into the parquet crate, whose decoders stop with a panic on some malformed files.
fn guarded<T>(call: impl FnOnce() -> errors::Result<T>) -> errors::Result<T> {
    caught(call).unwrap_or_else(|| Err(ParquetError::General("it is malformed".into())))
}

/// A file, and its columns in the row group under way.
struct Table {
    file: SerializedFileReader<Source>,
    path: PathBuf,
    shapes: Vec<Shape>,
    columns: Vec<Box<dyn Column>>,
    /// Number of the next row group.
    group: usize,
    /// Rows of the present one that are not read yet.
    left: u64,
    /// Rows read in all.
    rows: u64,
}

impl Table {
    fn open(path: &Path) -> Result<Self> {
        let opened = File::open(path).map_err(Error::io("open", path))?;
        let file =
            guarded(|| SerializedFileReader::new(Source::new(opened)?)).map_err(|e| not_read(path, &e))?;
        let schema = file.metadata().file_metadata().schema_descr();
        let mut shapes: Vec<Shape> = Vec::with_capacity(schema.num_columns());
        for number in 0..schema.num_columns() {
            let name = || format!("{}: column {:?}", path.display(), schema.column(number).path().string());
            let shape =
                Shape::of(schema, number).map_err(|what| Error::input(format!("{}: {what}", name())))?;
            if shapes
                .iter()
                .any(|other| other.path.starts_with(&shape.path) || shape.path.starts_with(&other.path))
            {
                return Err(Error::input(format!("{}: there are two of that name", name())));
            }
            shapes.push(shape);
        }
        Ok(Self { file, path: path.into(), shapes, columns: Vec::new(), group: 0, left: 0, rows: 0 })
    }

    /// The column that holds vectors: that of the name.
    fn vectors(&self, name: &str) -> Result<Option<usize>> {
        let Some(number) = self.shapes.iter().position(|shape| shape.path == [name]) else { return Ok(None) };
        if !self.shapes[number].is_vector() {
            let path = self.path.display();
            return Err(Error::input(format!("{path}: column {name:?} must be a list of numbers")));
        }
        Ok(Some(number))
    }

    /// Where the present row is.
    fn place(&self) -> String {
        format!("{}: row {}", self.path.display(), self.rows)
    }

    /// Goes to the next row; false at the end. Counts the bytes of row groups.
    fn next(&mut self, progress: &ReadProgress) -> Result<bool> {
        while self.left == 0 {
            if self.group >= self.file.num_row_groups() {
                return Ok(false);
            }
            let (file, number, shapes) = (&self.file, self.group, &self.shapes);
            let opened = guarded(|| {
                let group = file.get_row_group(number)?;
                let columns = shapes.iter().enumerate();
                let info = group.metadata();
                let columns: std::result::Result<Vec<_>, ParquetError> = columns
                    .map(|(n, shape)| {
                        let pages = group.get_column_page_reader(n)?;
                        Ok(column(pages, info.column(n).column_descr_ptr(), shape))
                    })
                    .collect();
                Ok((columns?, info.num_rows(), info.compressed_size()))
            });
            let (columns, rows, bytes) = opened.map_err(|e| not_read(&self.path, &e))?;
            self.columns = columns;
            self.left = u64::try_from(rows).unwrap_or(0);
            self.group += 1;
            progress.add(u64::try_from(bytes).unwrap_or(0));
        }
        self.left -= 1;
        Ok(true)
    }

    fn problem(&self, column: usize, problem: Problem) -> Error {
        let name = self.shapes.get(column).map(Shape::name).unwrap_or_default();
        let place = format!("{}: column {name:?}", self.place());
        match problem {
            Problem::What(what) => Error::input(format!("{place}: {what}")),
            Problem::TooLong(actual) => Error::Limit {
                what: format!("{place}: the vector's dimension"),
                limit: limits::DIM as u64,
                actual,
                raise: "use shorter vectors".into(),
            },
        }
    }
}

fn not_read(path: &Path, error: &ParquetError) -> Error {
    Error::input(format!("{}: no Parquet file that can be read: {error}", path.display()))
}

/// Opens a file for import.
pub(super) fn open(path: &Path, fields: Fields, progress: Arc<ReadProgress>) -> Result<Documents> {
    let table = Table::open(path)?;
    let vectors = table.vectors(&fields.vector)?;
    Ok(Documents { table, fields, vectors, progress })
}

/// The rows of a file as documents.
pub(super) struct Documents {
    table: Table,
    fields: Fields,
    vectors: Option<usize>,
    progress: Arc<ReadProgress>,
}

impl Documents {
    fn read(&mut self) -> Result<Option<Located>> {
        if !self.table.next(&self.progress)? {
            return Ok(None);
        }
        let (mut object, mut vector, mut bytes) = (Meta::new(), None, 0);
        for number in 0..self.table.columns.len() {
            if Some(number) == self.vectors {
                let mut values = Vec::new();
                let found = self.table.columns[number].floats(&mut values);
                vector = found.map_err(|e| self.table.problem(number, e))?.then_some(values);
                continue;
            }
            let found = self.table.columns[number].json(&mut bytes);
            let Some(value) = found.map_err(|e| self.table.problem(number, e))? else { continue };
            let path = &self.table.shapes[number].path;
            let value = as_meta(path, value).map_err(|what| self.table.problem(number, what.into()))?;
            put(&mut object, path, value);
        }
        let place = self.table.place();
        self.table.rows += 1;
        let document = self.fields.document_with(object, vector, &place)?;
        // Only a BEIR corpus passes documents over.
        let Some(document) = document else { return Ok(None) };
        // Written as JSON a byte takes six at most; keys and numbers are short.
        check(&document, 6 * bytes + 64 * self.table.columns.len() as u64, &place)?;
        Ok(Some(Located { document, place }))
    }
}

impl Iterator for Documents {
    type Item = Result<Located>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The object that a string in the column of metadata stands for; other values as they are.
fn as_meta(path: &[String], value: Value) -> std::result::Result<Value, String> {
    match (path, value) {
        ([name], Value::String(text)) if name == "meta" || name == "metadata" => {
            serde_json::from_str::<Meta>(&text).map(Value::Object).map_err(|e| format!("no JSON object: {e}"))
        }
        (_, value) => Ok(value),
    }
}

/// Puts a value under its path, making the objects on the way.
fn put(object: &mut Meta, path: &[String], value: Value) {
    match path {
        [] => (),
        [name] => drop(object.insert(name.clone(), value)),
        [name, rest @ ..] => {
            let inner = object.entry(name.clone()).or_insert_with(|| Value::Object(Meta::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// Reads all vectors of a file: number of rows, of columns, and the values row by row. They are in the column `vector`, or in
/// the only one that holds lists of numbers.
pub(super) fn read_matrix(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let mut table = Table::open(path)?;
    let lists: Vec<usize> = (0..table.shapes.len()).filter(|&n| table.shapes[n].is_vector()).collect();
    let number = match (table.vectors("vector")?, lists.as_slice()) {
        (Some(named), _) => named,
        (None, &[only]) => only,
        (None, []) => {
            let what = "no column is a list of numbers";
            return Err(Error::input(format!("{}: {what}", path.display())));
        }
        (None, _) => {
            let what = "several columns are lists of numbers, and none is called \"vector\"";
            return Err(Error::input(format!("{}: {what}", path.display())));
        }
    };
    let (progress, mut values, mut columns) = (ReadProgress::default(), Vec::new(), 0);
    while table.next(&progress)? {
        let before = values.len();
        let found = table.columns[number].floats(&mut values).map_err(|e| table.problem(number, e))?;
        let length = values.len() - before;
        if !found {
            return Err(table.problem(number, "it is null".to_string().into()));
        }
        if table.rows > 0 && length != columns {
            let what = format!("{length} values, the rows before have {columns}");
            return Err(table.problem(number, what.into()));
        }
        columns = length;
        table.rows += 1;
        over(
            &path.display().to_string(),
            "the number of rows",
            table.rows,
            u32::MAX.into(),
            "split the file",
        )?;
    }
    Ok((table.rows as usize, columns, values))
}
