//! What a line says.
//!
//! | shape | keys |
//! |---|---|
//! | pairs | `query` or `anchor`; `positive` |
//! | triplets | the same; `negative` or `negatives`; from a teacher `margin` or `margins`, or `scores` |
//! | scored pairs | `sentence1`, `sentence2` (or `text1`, `text2`); `score`, or a `label` of 0 or 1 |
//! | texts with classes | `text`; `label` |
//!
//! Positives and negatives are texts or `{"id": …}` of stored documents. Other keys are passed over.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::clean::clean;
use super::{Data, DataReport, Record, Shape, Target};
use crate::error::{Error, Result};

/// Negatives of a triplet, at most.
pub const MAX_NEGATIVES: usize = 64;

/// What lines must look like, for messages.
pub(super) const SHAPES: &str = "every line is one of {\"query\", \"positive\"}, {\"query\", \"positive\", \"negative\"}, \
     {\"sentence1\", \"sentence2\", \"score\"}, {\"text\", \"label\"} (\"anchor\" may stand for \"query\"; \"positive\" and \
     \"negative\" are texts, or {\"id\": …} of stored documents)";

type Told<T> = std::result::Result<T, String>;

/// What has been read.
#[derive(Debug, Default)]
pub(super) struct Reader {
    shape: Option<(Shape, u64)>,
    records: Vec<Record>,
    labels: Vec<String>,
    numbers: HashMap<String, u32>,
    targets: Option<(usize, u64)>,
}

impl Reader {
    /// Takes the value of a line; the error lacks file and line.
    pub fn read(&mut self, value: Value, line: u64) -> Told<()> {
        let Value::Object(object) = value else {
            return Err(format!("not a JSON object; {SHAPES}"));
        };
        let found = shape(&object)?;
        let (shape, first) = *self.shape.get_or_insert((found, line));
        if found != shape {
            return Err(format!(
                "{}, but line {first} is {}; a file holds one shape throughout",
                found.one(),
                shape.one()
            ));
        }
        let (texts, targets, class) = match shape {
            Shape::Pairs => (query_and(&object, Vec::new())?, Vec::new(), 0),
            Shape::Triplets => {
                let negatives = negatives(&object)?;
                let targets = teacher(&object, negatives.len())?;
                self.check_teacher(targets.len() as isize - negatives.len() as isize, &targets, line)?;
                (query_and(&object, negatives)?, targets, 0)
            }
            Shape::Scored => {
                let (first, second) = sentences(&object)?;
                (vec![Target::Text(first), Target::Text(second)], vec![score(&object)?], 0)
            }
            Shape::Classes => (vec![Target::Text(text(&object, "text")?)], Vec::new(), self.class(&object)?),
        };
        self.records.push(Record { texts, targets, class, weight: 1.0, time: 0, line });
        Ok(())
    }

    /// Refuses triplets of which some have a teacher's word and others have not, or one of another kind.
    fn check_teacher(&mut self, beyond: isize, targets: &[f32], line: u64) -> Told<()> {
        let kind = match (targets.is_empty(), beyond) {
            (true, _) => 0,
            (false, 0) => 1,
            (false, _) => 2,
        };
        let (before, first) = *self.targets.get_or_insert((kind, line));
        if before == kind {
            return Ok(());
        }
        let name = |kind| ["nothing of a teacher's", "a teacher's margins", "a teacher's scores"][kind];
        Err(format!("it has {}, but line {first} has {}", name(kind), name(before)))
    }

    fn class(&mut self, object: &Map<String, Value>) -> Told<u32> {
        let label = match object.get("label") {
            Some(Value::String(label)) if !label.trim().is_empty() => label.clone(),
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => n.to_string(),
            Some(Value::Bool(label)) => label.to_string(),
            _ => return Err("\"label\" is neither a text with something in it nor an integer".into()),
        };
        let next = self.labels.len() as u32;
        Ok(*self.numbers.entry(label).or_insert_with_key(|label| {
            self.labels.push(label.clone());
            next
        }))
    }

    /// All that was read, cleaned.
    pub fn finish(self, name: &str) -> Result<Data> {
        let Some((shape, _)) = self.shape else {
            return Err(Error::Input(format!("{name}: nothing in it; {SHAPES}")));
        };
        let report = DataReport { lines: self.records.len(), ..DataReport::default() };
        clean(Data { shape, records: self.records, labels: self.labels, report }, name)
    }
}

/// The shape that a line's keys tell.
fn shape(object: &Map<String, Value>) -> Told<Shape> {
    let any = |keys: &[&str]| keys.iter().any(|key| object.contains_key(*key));
    if any(&["sentence1", "sentence2", "text1", "text2"]) {
        Ok(Shape::Scored)
    } else if any(&["negative", "negatives"]) {
        Ok(Shape::Triplets)
    } else if any(&["query", "anchor", "positive"]) {
        Ok(Shape::Pairs)
    } else if any(&["text", "label"]) {
        Ok(Shape::Classes)
    } else {
        Err(format!("no key tells what it is; {SHAPES}"))
    }
}

/// A text that is not blank.
fn text(object: &Map<String, Value>, key: &str) -> Told<String> {
    match object.get(key) {
        None => Err(format!("no \"{key}\"; {SHAPES}")),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
        Some(_) => Err(format!("\"{key}\" is not a text with something in it")),
    }
}

/// The query, its positive, and what follows them.
fn query_and(object: &Map<String, Value>, negatives: Vec<Target>) -> Told<Vec<Target>> {
    if object.contains_key("query") && object.contains_key("anchor") {
        return Err("both \"query\" and \"anchor\"; only one of them may be there".into());
    }
    let query = text(object, if object.contains_key("anchor") { "anchor" } else { "query" })?;
    let Some(positive) = object.get("positive") else {
        return Err(format!("no \"positive\"; {SHAPES}"));
    };
    let mut texts = vec![Target::Text(query), target(positive, "positive")?];
    texts.extend(negatives);
    Ok(texts)
}

/// A text, or the id in `{"id": …}`; an integer becomes its decimal string, as on import.
fn target(value: &Value, key: &str) -> Told<Target> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Ok(Target::Text(text.clone())),
        Value::Object(target) => match target.get("id") {
            Some(Value::String(id)) if !id.is_empty() => Ok(Target::Id(id.clone())),
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => Ok(Target::Id(n.to_string())),
            _ => Err(format!("\"{key}\" is an object without an \"id\" (a text or an integer)")),
        },
        _ => Err(format!("\"{key}\" is neither a text with something in it nor {{\"id\": …}}")),
    }
}

fn negatives(object: &Map<String, Value>) -> Told<Vec<Target>> {
    let key = match (object.contains_key("negative"), object.contains_key("negatives")) {
        (true, true) => {
            return Err("both \"negative\" and \"negatives\"; only one of them may be there".into());
        }
        (true, false) => "negative",
        _ => "negatives",
    };
    match object.get(key) {
        Some(Value::Array(list)) if list.is_empty() => Err(format!("\"{key}\" is an empty list")),
        Some(Value::Array(list)) if list.len() > MAX_NEGATIVES => {
            Err(format!("{} negatives are over the limit of {MAX_NEGATIVES}", list.len()))
        }
        Some(Value::Array(list)) => list.iter().map(|value| target(value, key)).collect(),
        Some(value) => Ok(vec![target(value, key)?]),
        None => Ok(Vec::new()),
    }
}

/// A teacher's margins or scores, if there are any.
fn teacher(object: &Map<String, Value>, negatives: usize) -> Told<Vec<f32>> {
    let keys = ["margin", "margins", "scores"];
    let mut given = keys.into_iter().filter_map(|key| object.get(key).map(|value| (key, value)));
    let Some((key, value)) = given.next() else { return Ok(Vec::new()) };
    if let Some((other, _)) = given.next() {
        return Err(format!("both \"{key}\" and \"{other}\"; only one of them may be there"));
    }
    let numbers = match value {
        Value::Array(list) => list.iter().map(|value| number(value, key)).collect::<Told<Vec<f32>>>()?,
        value => vec![number(value, key)?],
    };
    let wanted = if key == "scores" { negatives + 1 } else { negatives };
    if numbers.len() != wanted {
        let what = if key == "scores" { "the positive and each negative" } else { "each negative" };
        return Err(format!("\"{key}\" has {} numbers; one for {what} makes {wanted}", numbers.len()));
    }
    Ok(numbers)
}

fn number(value: &Value, key: &str) -> Told<f32> {
    let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
    number.ok_or_else(|| format!("\"{key}\" is not a finite number"))
}

fn sentences(object: &Map<String, Value>) -> Told<(String, String)> {
    let pairs = [("sentence1", "sentence2"), ("text1", "text2")];
    let named =
        pairs.iter().find(|(first, second)| object.contains_key(*first) || object.contains_key(*second));
    let (first, second) = named.unwrap_or(&pairs[0]);
    Ok((text(object, first)?, text(object, second)?))
}

fn score(object: &Map<String, Value>) -> Told<f32> {
    match (object.get("score"), object.get("label")) {
        (Some(_), Some(_)) => Err("both \"score\" and \"label\"; only one of them may be there".into()),
        (Some(value), None) => number(value, "score"),
        (None, Some(Value::Bool(label))) => Ok(f32::from(u8::from(*label))),
        (None, Some(value)) => number(value, "label"),
        (None, None) => Err(format!("no \"score\"; {SHAPES}")),
    }
}
