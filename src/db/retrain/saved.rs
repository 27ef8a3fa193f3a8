//! What a checkpoint says of its run: options, records and searches, as JSON.
//!
//! Records and searches themselves are kept, and not where they came from: the log grows, files change, and documents come, while the run
//! has to end as if it had not been stopped. Numbers with a fraction are kept as their bits, since decimal digits could cost the
//! last one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::searches::Searched;
use super::sources::Lessons;
use super::{Method, RetrainOptions};
use crate::encoder::LowRank;
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::trainer::{Data, Record, Shape, Target};

/// What is trained and how: section RUN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedRun {
    /// The generation that is to be bettered.
    pub generation: u32,
    /// Its encoder.
    pub model_id: String,
    /// Hash of the examples that the encoder learns from.
    pub examples: u64,
    /// Nanoseconds for training the encoder.
    pub budget: Option<u64>,
    shape: String,
    labels: Vec<String>,
    notes: Vec<String>,
    options: SavedOptions,
}

/// [`RetrainOptions`] but for where records come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SavedOptions {
    method: Method,
    loss: Option<String>,
    dims: Option<Vec<usize>>,
    layers: Option<usize>,
    rank: usize,
    alpha: u32,
    targets: Vec<String>,
    low_rank_seed: u64,
    hard_negatives: usize,
    accumulate: Option<usize>,
    epochs: Option<usize>,
    batch_size: Option<usize>,
    lr: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer_rate: Option<u32>,
    seed: u64,
    time_budget: Option<u64>,
    force: bool,
}

/// A line of section DATA.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Record(SavedRecord),
    Searched(Searched),
}

/// A record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SavedRecord {
    texts: Vec<SavedTarget>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    targets: Vec<u32>,
    class: u32,
    weight: u32,
    time: u64,
    line: u64,
}

/// A text, `{"id": …}`, or `{"id": …, "text": …}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum SavedTarget {
    Text(String),
    // Before the next one, which would take it and leave out the text.
    Passage { id: String, text: String },
    Id { id: String },
}

impl SavedRun {
    /// What a run begins with; the examples are not known yet.
    pub fn new(generation: &Generation, options: &RetrainOptions, data: &Data) -> Self {
        Self {
            generation: generation.id,
            model_id: generation.model_id.clone(),
            examples: 0,
            budget: None,
            shape: data.shape.to_string(),
            labels: data.labels.clone(),
            notes: data.report.notes.clone(),
            options: SavedOptions::new(options),
        }
    }

    /// The same once it is known what the encoder learns from, and for how long.
    pub fn begun(self, examples: u64, budget: Option<u64>) -> Self {
        Self { examples, budget, ..self }
    }

    /// The section.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(unwritable)
    }

    /// The run of a section; the error is for people.
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// The options with which it goes on.
    pub fn options(&self) -> std::result::Result<RetrainOptions, String> {
        let saved = &self.options;
        let target = |name: &String| name.parse();
        Ok(RetrainOptions {
            method: saved.method,
            loss: saved
                .loss
                .as_ref()
                .map(|name| name.parse())
                .transpose()
                .map_err(|e: Error| e.to_string())?,
            dims: saved.dims.clone(),
            layers: saved.layers,
            low_rank: LowRank {
                rank: saved.rank,
                alpha: f32::from_bits(saved.alpha),
                targets: saved.targets.iter().map(target).collect::<std::result::Result<_, String>>()?,
                seed: saved.low_rank_seed,
            },
            hard_negatives: saved.hard_negatives,
            accumulate: saved.accumulate,
            epochs: saved.epochs,
            batch_size: saved.batch_size,
            lr: saved.lr.map(f64::from_bits),
            layer_rate: saved.layer_rate.map(f32::from_bits),
            seed: saved.seed,
            time_budget: saved.time_budget.map(Duration::from_nanos),
            force: saved.force,
            resume: true,
            ..RetrainOptions::default()
        })
    }

    /// The data, with the records and searches of the other section.
    pub fn lessons(&self, lines: &[u8]) -> std::result::Result<Lessons, String> {
        let shape = Shape::ALL.into_iter().find(|shape| shape.to_string() == self.shape);
        let shape = shape.ok_or_else(|| format!("{:?} is no shape of records", self.shape))?;
        let mut data = Data::of_pairs(Vec::new());
        let mut searched = Vec::new();
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line).map_err(|error| error.to_string())? {
                Line::Record(record) => data.records.push(record.into()),
                Line::Searched(text) => searched.push(text),
            }
        }
        (data.shape, data.labels) = (shape, self.labels.clone());
        (data.report.lines, data.report.records) = (data.records.len(), data.records.len());
        data.report.notes.clone_from(&self.notes);
        Ok(Lessons { searched, ..Lessons::of(data) })
    }
}

impl SavedOptions {
    fn new(options: &RetrainOptions) -> Self {
        let low_rank = &options.low_rank;
        Self {
            method: options.method,
            loss: options.loss.map(|loss| loss.to_string()),
            dims: options.dims.clone(),
            layers: options.layers,
            rank: low_rank.rank,
            alpha: low_rank.alpha.to_bits(),
            targets: low_rank.targets.iter().map(ToString::to_string).collect(),
            low_rank_seed: low_rank.seed,
            hard_negatives: options.hard_negatives,
            accumulate: options.accumulate,
            epochs: options.epochs,
            batch_size: options.batch_size,
            lr: options.lr.map(f64::to_bits),
            layer_rate: options.layer_rate.map(f32::to_bits),
            seed: options.seed,
            time_budget: options.time_budget.map(nanoseconds),
            force: options.force,
        }
    }
}

/// As many as fit: 584 years.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Section DATA.
pub(super) fn lines(lessons: &Lessons) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for record in &lessons.data.records {
        serde_json::to_writer(&mut out, &SavedRecord::from(record)).map_err(unwritable)?;
        out.push(b'\n');
    }
    for text in &lessons.searched {
        serde_json::to_writer(&mut out, text).map_err(unwritable)?;
        out.push(b'\n');
    }
    Ok(out)
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::input(format!("the run cannot be written as JSON: {error}"))
}

impl From<&Record> for SavedRecord {
    fn from(record: &Record) -> Self {
        let text = |target: &Target| match target {
            Target::Text(text) => SavedTarget::Text(text.clone()),
            Target::Id(id) => SavedTarget::Id { id: id.clone() },
            Target::Passage { id, text } => SavedTarget::Passage { id: id.clone(), text: text.clone() },
        };
        Self {
            texts: record.texts.iter().map(text).collect(),
            targets: record.targets.iter().map(|value| value.to_bits()).collect(),
            class: record.class,
            weight: record.weight.to_bits(),
            time: record.time,
            line: record.line,
        }
    }
}

impl From<SavedRecord> for Record {
    fn from(saved: SavedRecord) -> Self {
        let target = |saved: SavedTarget| match saved {
            SavedTarget::Text(text) => Target::Text(text),
            SavedTarget::Id { id } => Target::Id(id),
            SavedTarget::Passage { id, text } => Target::Passage { id, text },
        };
        Self {
            texts: saved.texts.into_iter().map(target).collect(),
            targets: saved.targets.into_iter().map(f32::from_bits).collect(),
            class: saved.class,
            weight: f32::from_bits(saved.weight),
            time: saved.time,
            line: saved.line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::searches::searched;
    use super::*;
    use crate::trainer::{Click, ClickOptions, LoggedQuery};

    #[test]
    fn run_and_records_come_back_to_the_bit() {
        let options = RetrainOptions {
            method: Method::Lora,
            loss: Some("cosent".parse().unwrap()),
            dims: Some(vec![64, 32]),
            layers: Some(2),
            low_rank: LowRank { alpha: 0.1 + 0.2, ..LowRank::default() },
            lr: Some(f64::from_bits(0x3f1a_36e2_eb1c_432d)),
            time_budget: Some(Duration::from_nanos(1_000_000_007)),
            force: true,
            ..RetrainOptions::default()
        };
        let record = |n: u32| Record {
            texts: vec![
                Target::Text(format!("\n\"{n}\"")),
                Target::Id("d\u{0}é".into()),
                Target::Passage { id: format!("{n}"), text: "a part".into() },
            ],
            targets: vec![f32::from_bits(0x3dcc_cccd + n), -0.0],
            class: n,
            weight: f32::from_bits(0x3f00_0001 + n),
            time: u64::MAX,
            line: 7,
        };
        let mut data = Data::of_pairs(Vec::new());
        data.records = (0..3).map(record).collect();
        (data.shape, data.labels) = (Shape::Scored, vec!["a label".into()]);
        data.report.notes = vec!["a note".into()];
        let generation = Generation { id: 3, model_id: "ab".into(), ..generation() };
        let run = SavedRun::new(&generation, &options, &data).begun(5, Some(9));
        let read = SavedRun::from_bytes(&run.to_bytes().unwrap()).unwrap();
        assert_eq!(read, run);
        let again = SavedRun::new(&generation, &read.options().unwrap(), &data);
        assert_eq!(again.begun(5, Some(9)), run);
        let searches = searched(
            vec![LoggedQuery {
                text: "a query".into(),
                shown: vec!["a".into(), "\"b".into()],
                clicks: vec![Click { id: "a".into(), grade: 1.0, time: 3 }],
                ..LoggedQuery::default()
            }],
            &ClickOptions::default(),
        );
        let lessons = Lessons { searched: searches, ..Lessons::of(data) };
        let back = read.lessons(&lines(&lessons).unwrap()).unwrap();
        let data = lessons.data;
        assert_eq!(
            (back.data.records, back.data.shape, back.data.labels),
            (data.records, data.shape, data.labels)
        );
        assert_eq!((back.data.report.notes, back.searched), (data.report.notes, lessons.searched));
    }

    fn generation() -> Generation {
        Generation {
            id: 1,
            model_id: String::new(),
            parent: 0,
            dim: 64,
            ladder: vec![64],
            created_ms: 0,
            metrics: String::new(),
        }
    }

    #[test]
    fn what_is_no_run_is_told() {
        assert!(SavedRun::from_bytes(b"{}").is_err());
        let run = SavedRun::new(&generation(), &RetrainOptions::default(), &Data::of_pairs(Vec::new()));
        assert!(run.lessons(b"{\"texts\": 3}\n").is_err());
        assert!(SavedRun { shape: "odd".into(), ..run.clone() }.lessons(b"").unwrap_err().contains("odd"));
        let mut odd = run;
        odd.options.targets = vec!["nothing".into()];
        assert!(odd.options().is_err());
    }
}
