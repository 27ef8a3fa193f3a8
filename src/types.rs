//! Plain data that crosses module borders: documents, hits, metrics, events.

pub mod calendar;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Metadata of a document: a JSON object.
pub type Meta = Map<String, Value>;

/// A document: an id, its text, and optionally a title, metadata and (in a database of plain
/// vectors) its vector.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Document {
    /// External id, unique in the database; adding an id again replaces the document.
    pub id: String,
    /// Title; encoded together with the text.
    pub title: Option<String>,
    /// Text; may be empty where a vector is given.
    pub text: String,
    /// Metadata, for filters.
    #[serde(default)]
    pub meta: Meta,
    /// The vector, only in databases without an encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vec<f32>>,
}

impl Document {
    /// A document of text.
    pub fn new(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id: id.into(), text: text.into(), ..Self::default() }
    }

    /// A document of a plain vector.
    pub fn from_vector(id: impl Into<String>, vector: Vec<f32>) -> Self {
        Self { id: id.into(), vector: Some(vector), ..Self::default() }
    }

    /// Sets the title.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Sets one metadata key.
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// What the encoder reads: title, newline, text; or the text alone.
    pub fn full_text(&self) -> String {
        match &self.title {
            Some(title) if !title.is_empty() => format!("{title}\n{}", self.text),
            _ => self.text.clone(),
        }
    }
}

/// How two vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Cosine similarity; vectors are normalised when stored.
    #[default]
    Cosine,
    /// Inner product.
    Dot,
    /// Euclidean distance.
    L2,
}

impl Metric {
    /// The name used in commands and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::L2 => "l2",
        }
    }
}

/// Which forms of a vector are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Codec {
    /// int8 codes for search and f32 rows for the last ordering.
    #[default]
    #[serde(rename = "int8+f32")]
    Int8F32,
    /// int8 codes only.
    #[serde(rename = "int8")]
    Int8,
    /// f32 rows only.
    #[serde(rename = "f32")]
    F32,
}

impl Codec {
    /// The name used in commands and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8F32 => "int8+f32",
            Self::Int8 => "int8",
            Self::F32 => "f32",
        }
    }

    /// Whether int8 codes are stored.
    pub fn has_codes(self) -> bool {
        self != Self::F32
    }

    /// Whether f32 rows are stored.
    pub fn has_full(self) -> bool {
        self != Self::Int8
    }
}

/// How much is spent on graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    /// Built quickly, small.
    #[default]
    Fast,
    /// More links, chosen from wider beams: slower to build, fewer distances to a high recall.
    Dense,
}

impl IndexKind {
    /// The name used in commands and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Dense => "dense",
        }
    }
}

/// What builds graphs; both make the same kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Builder {
    /// Our own, over flat arrays.
    #[default]
    Flat,
    /// hnsw_rs, frozen into the same layout: the reference. Slower to build.
    HnswRs,
}

impl Builder {
    /// The name used in commands and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::HnswRs => "hnsw_rs",
        }
    }
}

/// Arithmetic of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 8-bit integers where matrices are multiplied, 32-bit floating point elsewhere.
    Int8,
}

impl Precision {
    /// Its name, as options and summaries write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }
}

/// The part of a document that matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// Number of the chunk in its document, from 0.
    pub index: u32,
    /// Byte offset of its start in the text.
    pub start: u32,
    /// Byte offset of its end in the text.
    pub end: u32,
}

/// One result of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// Rank, from 1.
    pub rank: u32,
    /// Document id.
    pub id: String,
    /// Larger is better.
    pub score: f32,
    /// Smaller is nearer.
    pub distance: f32,
    /// Text of the best chunk.
    pub text: String,
    /// Title of the document.
    pub title: Option<String>,
    /// Metadata of the document.
    pub meta: Meta,
    /// Where the chunk lies in the document's text.
    pub chunk: ChunkRef,
}

/// The answer to a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchResult {
    /// Identity for `click`, when the search was logged.
    pub query_id: Option<String>,
    /// Generation that answered.
    pub generation: u32,
    /// Time taken, in microseconds.
    pub took_us: u64,
    /// Hits, best first, one for each document.
    pub hits: Vec<Hit>,
    /// Notes for the user (an unknown key in the filter, a log that could not be written).
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// Default Matryoshka ladder: 64, 128, 256, 512, 1024 below `dim`, then `dim` itself.
pub fn default_ladder(dim: usize) -> Vec<usize> {
    let mut rungs: Vec<usize> = [64, 128, 256, 512, 1024].into_iter().filter(|&r| r < dim).collect();
    rungs.push(dim);
    rungs
}

/// Checks and sorts a ladder: rungs in `1..=dim`, no repeats, at most 16; `dim` is added.
pub fn checked_ladder(rungs: &[usize], dim: usize) -> Result<Vec<usize>> {
    let mut ladder = rungs.to_vec();
    if let Some(bad) = ladder.iter().find(|&&r| r == 0 || r > dim) {
        return Err(Error::input(format!("--dims: {bad} is not between 1 and the model's dimension {dim}")));
    }
    ladder.push(dim);
    ladder.sort_unstable();
    ladder.dedup();
    if ladder.len() > 16 {
        return Err(Error::input("--dims: at most 16 dimensions"));
    }
    Ok(ladder)
}

/// The sum of squares, in eight lanes so that it costs a fraction of a microsecond: each query and each row pays it.
fn squares(vector: &[f32]) -> f64 {
    let (lanes, rest) = vector.as_chunks::<8>();
    let mut sums = [0.0f64; 8];
    for lane in lanes {
        for (sum, &value) in sums.iter_mut().zip(lane) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>()
}

/// Why a vector cannot be stored or searched for, or `None` if it can.
pub fn vector_problem(vector: &[f32], dim: usize, metric: Metric) -> Option<String> {
    if vector.len() != dim {
        return Some(format!("the vector has {} values, the database {dim}", vector.len()));
    }
    let norm = squares(vector);
    // The sum of finite values is finite: it has far more room than they.
    if !norm.is_finite()
        && let Some(i) = vector.iter().position(|v| !v.is_finite())
    {
        return Some(format!("value {i} of the vector is {}, not a finite number", vector[i]));
    }
    if metric == Metric::Cosine && norm == 0.0 {
        return Some("the vector is zero, which has no direction under the cosine metric".into());
    }
    if !(norm as f32).is_finite() {
        return Some("the vector's norm overflows 32-bit floating point".into());
    }
    None
}

impl Metric {
    /// The score of a distance: larger is better. Cosine: the cosine; dot: the product; L2: 1/(1+d).
    pub fn score(self, distance: f32) -> f32 {
        match self {
            Self::Cosine => 1.0 - distance,
            Self::Dot => -distance,
            Self::L2 => 1.0 / (1.0 + distance),
        }
    }
}

/// Who put which hit on a page that interleaves two generations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Teams {
    /// The generations; the first was active.
    pub generations: [u32; 2],
    /// For each hit, best first, which of them drafted it: 0 or 1.
    pub of: Vec<u8>,
}

/// A search that was logged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LoggedSearch {
    /// Identity, unique everywhere.
    pub query_id: String,
    /// What was searched.
    pub text: String,
    /// When, in Unix milliseconds.
    pub time_ms: u64,
    /// Generation that answered.
    pub generation: u32,
    /// Ids of the hits, by rank.
    pub shown: Vec<String>,
    /// For each hit, how likely it was to stand at its rank: 1 where the ranking decided, less where chance did. Empty if
    /// the ranking decided all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub propensities: Vec<f32>,
    /// Who searched, as the application names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Who drafted the hits, if they are those of two generations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teams: Option<Teams>,
}

/// Feedback on a logged search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedClick {
    /// Identity, unique everywhere.
    pub click_id: String,
    /// The search.
    pub query_id: String,
    /// The document.
    pub id: String,
    /// How good it was; 1 for a plain click.
    pub grade: f32,
    /// When, in Unix milliseconds.
    pub time_ms: u64,
}

/// One entry of the log of queries and clicks.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A search.
    Search(LoggedSearch),
    /// A click.
    Click(LoggedClick),
}

impl Event {
    /// When, in Unix milliseconds.
    pub fn time_ms(&self) -> u64 {
        match self {
            Self::Search(search) => search.time_ms,
            Self::Click(click) => click.time_ms,
        }
    }
}
