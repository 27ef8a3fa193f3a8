//! One column of a Parquet file, row by row.
//!
//! A column is a leaf of a tree of fields. Beside its values it has levels, as in Dremel (Melnik et al., VLDB 2010): the definition level
//! counts how many of the optional and repeated fields above a value are there, the repetition level is 0 where a row
//! begins. Lists of scalars are read, in each of the layouts that writers have used; lists of lists, lists of groups and maps
//! are refused by name.

use embdb::options::limits;
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::page::PageReader;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, Type};
use serde_json::Value;

use super::guarded;
use super::page::{Pages, Taken};
use super::scalar::{Cell, Scalar};

/// Rows that are decoded at a time.
const ROWS: usize = 64;

/// What the levels of a column mean.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// Names of the fields down to the value, without those that only make up a list.
    pub(super) path: Vec<String>,
    /// In a list: the definition level from which on there is an element, if only a null.
    list: Option<i16>,
    /// The definition level of a value.
    defined: i16,
    scalar: Scalar,
    physical: Physical,
}

impl Shape {
    /// The shape of column `number`, or why it is not read.
    pub(super) fn of(schema: &SchemaDescriptor, number: usize) -> Result<Self, String> {
        let column = schema.column(number);
        let mut node = schema.root_schema();
        let (mut path, mut list, mut defined) = (Vec::new(), None, 0);
        for part in column.path().parts() {
            let fields = if node.is_group() { node.get_fields() } else { &[] };
            let Some(child) = fields.iter().find(|field| field.name() == part) else {
                return Err("its place among the fields is not clear".into());
            };
            match repetition(child) {
                Repetition::REQUIRED => (),
                Repetition::OPTIONAL => defined += 1,
                Repetition::REPEATED => {
                    defined += 1;
                    if list.is_some() {
                        return Err("lists of lists are not read".into());
                    }
                    if is(node, ConvertedType::MAP, LogicalType::Map)
                        || is(node, ConvertedType::MAP_KEY_VALUE, LogicalType::Map)
                    {
                        return Err("maps are not read".into());
                    }
                    if child.is_group() && child.get_fields().len() != 1 {
                        return Err("lists of groups are not read".into());
                    }
                    list = Some(defined);
                    if !is(node, ConvertedType::LIST, LogicalType::List) {
                        path.push(part.clone());
                    }
                    node = child;
                    continue;
                }
            }
            if list.is_none() {
                path.push(part.clone());
            } else if child.is_group() && repetition_below(child) != Some(Repetition::REPEATED) {
                return Err("lists of groups are not read".into());
            }
            node = child;
        }
        Ok(Self { path, list, defined, scalar: Scalar::of(&column)?, physical: column.physical_type() })
    }

    /// Whether this is a list of numbers.
    pub(super) fn is_vector(&self) -> bool {
        self.list.is_some() && self.scalar.is_number(self.physical)
    }

    /// The column's name in messages.
    pub(super) fn name(&self) -> String {
        self.path.join(".")
    }
}

fn repetition(field: &Type) -> Repetition {
    let info = field.get_basic_info();
    if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED }
}

/// The repetition of the first field in a group.
fn repetition_below(group: &Type) -> Option<Repetition> {
    group.get_fields().first().map(|field| repetition(field))
}

fn is(field: &Type, converted: ConvertedType, logical: LogicalType) -> bool {
    let info = field.get_basic_info();
    info.converted_type() == converted || info.logical_type_ref() == Some(&logical)
}

/// Why a row of a column cannot be read.
#[derive(Debug)]
pub(super) enum Problem {
    What(String),
    /// A list of so many elements.
    TooLong(u64),
}

impl From<ParquetError> for Problem {
    fn from(error: ParquetError) -> Self {
        Self::What(error.to_string())
    }
}

impl From<String> for Problem {
    fn from(what: String) -> Self {
        Self::What(what)
    }
}

/// A column of one row group.
pub(super) trait Column: Send {
    /// The next row's value; `None` where there is none. Counts its bytes.
    fn json(&mut self, bytes: &mut u64) -> Result<Option<Value>, Problem>;

    /// Appends the next row's numbers; false where there is no list. The shape is a vector's.
    fn floats(&mut self, out: &mut Vec<f32>) -> Result<bool, Problem>;
}

/// A column from its pages.
pub(super) fn column(pages: Box<dyn PageReader>, of: ColumnDescPtr, shape: &Shape) -> Box<dyn Column> {
    let taken = Taken::default();
    let pages = Box::new(Pages::new(pages, &of, taken.clone()));
    match get_column_reader(of, pages) {
        ColumnReader::BoolColumnReader(reader) => Cells::boxed(reader, shape, taken),
        ColumnReader::Int32ColumnReader(reader) => Cells::boxed(reader, shape, taken),
        ColumnReader::Int64ColumnReader(reader) => Cells::boxed(reader, shape, taken),
        ColumnReader::Int96ColumnReader(reader) => Cells::boxed(reader, shape, taken),
        ColumnReader::FloatColumnReader(reader) => Cells::boxed(reader, shape, taken),
        ColumnReader::DoubleColumnReader(reader) => Cells::boxed(reader, shape, taken),
        ColumnReader::ByteArrayColumnReader(reader) => Cells::boxed(reader, shape, taken),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => Cells::boxed(reader, shape, taken),
    }
}

/// Some decoded rows, and what reads more.
struct Cells<T: DataType> {
    reader: ColumnReaderImpl<T>,
    taken: Taken,
    shape: Shape,
    /// Empty where every value is there.
    definitions: Vec<i16>,
    /// Empty without lists.
    repetitions: Vec<i16>,
    values: Vec<T::T>,
    levels: usize,
    next_level: usize,
    next_value: usize,
}

impl<T> Cells<T>
where
    T: DataType,
    T::T: Cell,
    ColumnReaderImpl<T>: Send,
{
    fn boxed(reader: ColumnReaderImpl<T>, shape: &Shape, taken: Taken) -> Box<dyn Column> {
        Box::new(Self {
            reader,
            taken,
            shape: shape.clone(),
            definitions: Vec::new(),
            repetitions: Vec::new(),
            values: Vec::new(),
            levels: 0,
            next_level: 0,
            next_value: 0,
        })
    }

    fn decode(&mut self) -> Result<(), Problem> {
        self.definitions.clear();
        self.repetitions.clear();
        self.values.clear();
        self.taken.restart();
        let (reader, values) = (&mut self.reader, &mut self.values);
        let (definitions, repetitions) = (&mut self.definitions, &mut self.repetitions);
        let (rows, _, levels) =
            guarded(|| reader.read_records(ROWS, Some(definitions), Some(repetitions), values))?;
        if rows == 0 || levels == 0 {
            return Err(Problem::What("it ends before its row group does".into()));
        }
        (self.levels, self.next_level, self.next_value) = (levels, 0, 0);
        Ok(())
    }

    /// The definition level at a place.
    fn definition(&self, level: usize) -> i16 {
        self.definitions.get(level).copied().unwrap_or(self.shape.defined)
    }

    /// The levels of the next row.
    fn row(&mut self) -> Result<std::ops::Range<usize>, Problem> {
        if self.next_level >= self.levels {
            self.decode()?;
        }
        let start = self.next_level;
        let mut end = start + 1;
        while end < self.levels && self.repetitions.get(end).is_some_and(|&level| level != 0) {
            end += 1;
        }
        self.next_level = end;
        Ok(start..end)
    }

    /// The value at a place; `None` for a null.
    fn value(&mut self, level: usize) -> Result<Option<&T::T>, Problem> {
        if self.definition(level) < self.shape.defined {
            return Ok(None);
        }
        self.next_value += 1;
        match self.values.get(self.next_value - 1) {
            Some(value) => Ok(Some(value)),
            None => Err(Problem::What("it has fewer values than it says".into())),
        }
    }
}

impl<T> Column for Cells<T>
where
    T: DataType,
    T::T: Cell,
    ColumnReaderImpl<T>: Send,
{
    fn json(&mut self, bytes: &mut u64) -> Result<Option<Value>, Problem> {
        let (row, scalar) = (self.row()?, self.shape.scalar);
        let Some(element) = self.shape.list else {
            return match self.value(row.start)? {
                Some(value) => {
                    *bytes += value.size() as u64;
                    Ok(value.json(scalar)?)
                }
                None => Ok(None),
            };
        };
        let first = self.definition(row.start);
        if first < element {
            return Ok((first + 1 == element).then(|| Value::Array(Vec::new())));
        }
        let mut list = Vec::with_capacity(row.len());
        for level in row {
            let value = self.value(level)?;
            *bytes += value.map_or(0, Cell::size) as u64;
            list.push(value.map(|value| value.json(scalar)).transpose()?.flatten().unwrap_or(Value::Null));
        }
        Ok(Some(Value::Array(list)))
    }

    fn floats(&mut self, out: &mut Vec<f32>) -> Result<bool, Problem> {
        let (row, scalar) = (self.row()?, self.shape.scalar);
        let element = self.shape.list.unwrap_or_default();
        let first = self.definition(row.start);
        if first < element {
            return if first + 1 == element { Err(Problem::What("it is empty".into())) } else { Ok(false) };
        }
        if row.len() > limits::DIM {
            return Err(Problem::TooLong(row.len() as u64));
        }
        out.reserve(row.len());
        for (number, level) in row.enumerate() {
            match self.value(level)?.and_then(|value| value.float(scalar)) {
                Some(value) => out.push(value),
                None => return Err(Problem::What(format!("value {number} is no number"))),
            }
        }
        Ok(true)
    }
}
