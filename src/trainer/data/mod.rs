//! Training data: what it may look like, and how files of it are read.
//!
//! A file is JSON lines of one [`Shape`], told by the keys of its first line, or judgements in the manner of BEIR. A faulty
//! line stops the reading and is named by its number, for a file that is half understood would train something nobody asked
//! for. What is sound but teaches nothing (repeated lines, contradictions, a text that should find itself) is left out,
//! counted and told.
//!
//! | file | question it answers |
//! |---|---|
//! | `lines` | what is the next line? |
//! | `record` | what does a line say? |
//! | `clean` | which of the lines can be learnt from? |
//! | `qrels` | which pairs do queries and judgements make? |
//! | `open` | which of these is this file? |

mod clean;
mod lines;
mod open;
mod qrels;
mod record;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::BufRead;

use serde_json::Value;

pub use self::open::open;
pub use self::qrels::read_qrels;
pub use self::record::MAX_NEGATIVES;

use self::lines::Lines;
use self::record::Reader;
use crate::error::{Error, Result};

/// What every line of a data file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A query and what it should find.
    Pairs,
    /// A query, what it should find, and what it should not.
    Triplets,
    /// Two texts and how alike they are.
    Scored,
    /// A text and its class.
    Classes,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pairs, Self::Triplets, Self::Scored, Self::Classes];

    /// One line of it, for messages.
    pub fn one(self) -> &'static str {
        match self {
            Self::Pairs => "a pair",
            Self::Triplets => "a triplet",
            Self::Scored => "a scored pair",
            Self::Classes => "a text with a class",
        }
    }

    /// Whether its first text is a query and its others are documents; else they are all of a kind.
    pub fn has_query(self) -> bool {
        matches!(self, Self::Pairs | Self::Triplets)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pairs => "pairs",
            Self::Triplets => "triplets",
            Self::Scored => "scored pairs",
            Self::Classes => "texts with classes",
        })
    }
}

/// What a line may name in place of a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A text, stored or not.
    Text(String),
    /// The stored document of this id.
    Id(String),
    /// A part of the stored document of this id, as training is to read it: nothing in place of the document counts as
    /// wrong, and where it judges, the document is to be found.
    Passage {
        /// The document.
        id: String,
        /// The part.
        text: String,
    },
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Pairs: query and positive. Triplets: query, positive, one or more negatives. Scored: both texts. Classes: the text.
    pub texts: Vec<Target>,
    /// Scored: the score, in 0..=1. Triplets, if a teacher gave them: the margin to each negative, or the scores of positive
    /// and negatives. Else nothing.
    pub targets: Vec<f32>,
    /// Classes: which of [`Data::labels`].
    pub class: u32,
    /// Share in the loss: 1, or for judgements the grade as a share of the highest.
    pub weight: f32,
    /// When it was observed, in microseconds since 1970; 0 if unknown.
    pub time: u64,
    /// Its line in the file, from 1.
    pub line: u64,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    /// What each record is.
    pub shape: Shape,
    /// In the order of the file.
    pub records: Vec<Record>,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// What was read and left out.
    pub report: DataReport,
}

/// What reading found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DataReport {
    /// Lines that held something.
    pub lines: usize,
    /// Lines kept.
    pub records: usize,
    /// Repeated lines dropped.
    pub duplicates: usize,
    /// Lines dropped because others say the opposite, or joined with those that say something else.
    pub contradictions: usize,
    /// Lines dropped because they teach nothing: a text that should find itself, judgements of grade 0.
    pub empty: usize,
    /// All of this and whatever else was done to the data, for the user.
    pub notes: Vec<String>,
}

/// A query and what it should find.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Text of the query.
    pub query: String,
    /// What it should find.
    pub positive: Target,
    /// Share in the loss; 1 for a pair from a file.
    pub weight: f32,
    /// When it was observed, in microseconds since 1970; 0 if unknown.
    pub time: u64,
}

impl From<Pair> for Record {
    fn from(pair: Pair) -> Self {
        let texts = vec![Target::Text(pair.query), pair.positive];
        Self { texts, targets: Vec::new(), class: 0, weight: pair.weight, time: pair.time, line: 0 }
    }
}

impl Data {
    /// Pairs that come from no file.
    pub fn of_pairs(pairs: Vec<Pair>) -> Self {
        let records: Vec<Record> = pairs.into_iter().map(Record::from).collect();
        let report = DataReport { lines: records.len(), records: records.len(), ..DataReport::default() };
        Self { shape: Shape::Pairs, records, labels: Vec::new(), report }
    }
}

/// Reads JSON lines of any shape. `name` is the file's name, for messages. Blank lines are skipped.
///
/// # Errors
/// [`Error::Input`] with file and line for anything that is not of the first line's shape, for a file without anything, and
/// for one in which nothing can be told apart; [`Error::Limit`] for a line over
/// [`limits::DOCUMENT_BYTES`](crate::options::limits::DOCUMENT_BYTES); [`Error::Io`] if reading fails.
pub fn read(reader: impl BufRead, name: &str) -> Result<Data> {
    let mut lines = Lines::new(reader, name);
    let mut records = Reader::default();
    while let Some((number, line)) = lines.next()? {
        let at = |what: String| Error::Input(format!("{name}: line {number}: {what}"));
        let value: Value = serde_json::from_str(line).map_err(|e| at(format!("invalid JSON: {e}")))?;
        records.read(value, number).map_err(at)?;
    }
    records.finish(name)
}
