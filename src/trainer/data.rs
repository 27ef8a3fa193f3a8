//! Training pairs: what they are, and how a JSONL file of them is read.
//!
//! A pair says that a query should find a document. In a file every line is an object
//! `{"query": …, "positive": …}`; `anchor` may stand for `query`, and `positive` is a text or
//! `{"id": …}` of a stored document. A faulty line stops the reading and is named by its number,
//! for a file that is half understood would train something nobody asked for.

use std::collections::HashSet;
use std::io::BufRead;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::options::limits;

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
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pairs => "pairs",
            Self::Triplets => "triplets",
            Self::Scored => "scored pairs",
            Self::Classes => "texts with classes",
        })
    }
}

/// What a query should find.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A text, stored or not.
    Text(String),
    /// The stored document of this id.
    Id(String),
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

/// A pair whose positive is a stored document, with that document's text.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedPair {
    /// Text of the query.
    pub query: String,
    /// Id of the document.
    pub positive_id: String,
    /// Text of the document, or of its part that matters to the query.
    pub positive_text: String,
    /// Share in the loss.
    pub weight: f32,
    /// When it was observed, in microseconds since 1970; 0 if unknown.
    pub time: u64,
}

/// All that a training run learns from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainingSet {
    /// The pairs, in the order in which they were observed.
    pub pairs: Vec<ResolvedPair>,
}

/// What [`read_pairs`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataReport {
    /// Lines that held a pair.
    pub lines: usize,
    /// Distinct pairs kept.
    pub pairs: usize,
    /// Repeated pairs dropped.
    pub duplicates: usize,
}

/// Reads JSONL pairs. `name` is the file's name, for messages. Blank lines are skipped, repeated
/// pairs dropped and counted.
///
/// # Errors
/// [`Error::Input`] with file and line for anything that is not a pair, and for a file without any;
/// [`Error::Limit`] for a line over [`limits::DOCUMENT_BYTES`]; [`Error::Io`] if reading fails.
pub fn read_pairs(mut reader: impl BufRead, name: &str) -> Result<(Vec<Pair>, DataReport)> {
    let mut report = DataReport::default();
    let mut pairs = Vec::new();
    let mut seen = HashSet::new();
    let mut bytes = Vec::new();
    for number in 1.. {
        if !read_line(&mut reader, name, number, &mut bytes)? {
            break;
        }
        let at = |what: String| Error::Input(format!("{name}: line {number}: {what}"));
        let line = std::str::from_utf8(&bytes)
            .map_err(|e| at(format!("invalid UTF-8 at byte {}", e.valid_up_to())))?;
        let line = if number == 1 { line.trim_start_matches('\u{feff}') } else { line };
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(line).map_err(|e| at(format!("invalid JSON: {e}")))?;
        let Value::Object(object) = value else {
            return Err(at(format!("not a JSON object; {SHAPE}")));
        };
        let (query, positive) = pair(&object).map_err(at)?;
        report.lines += 1;
        if seen.insert(fingerprint(&query, &positive)) {
            pairs.push(Pair { query, positive, weight: 1.0, time: 0 });
        } else {
            report.duplicates += 1;
        }
    }
    if pairs.is_empty() {
        return Err(Error::Input(format!("{name}: no pairs in it; {SHAPE}")));
    }
    report.pairs = pairs.len();
    Ok((pairs, report))
}

/// What a line must look like, for messages.
const SHAPE: &str = "retrain learns from pairs {\"query\", \"positive\"} (\"anchor\" may stand for \"query\"; \"positive\" is \
     a text, or {\"id\": …} of a stored document)";

/// Reads the next line, without its end, into `bytes`; false at the end of the input.
fn read_line(reader: &mut impl BufRead, name: &str, number: u64, bytes: &mut Vec<u8>) -> Result<bool> {
    use std::io::Read as _;
    bytes.clear();
    let limit = limits::DOCUMENT_BYTES as u64;
    // One byte beyond the limit tells a line that is too long from one that just fits.
    let read = reader.take(limit + 2).read_until(b'\n', bytes).map_err(Error::io("read", Path::new(name)))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.len() as u64 > limit {
        return Err(Error::Limit {
            what: format!("line {number} of {name}, in bytes,"),
            limit,
            actual: bytes.len() as u64,
            raise: "shorten the text".into(),
        });
    }
    Ok(read > 0)
}

/// The pair in a line's object, or why there is none.
fn pair(object: &Map<String, Value>) -> std::result::Result<(String, Target), String> {
    let other = [("negative", "a triplet"), ("negatives", "a triplet"), ("sentence1", "a scored pair")];
    if let Some((key, what)) = other.into_iter().find(|(key, _)| object.contains_key(*key)) {
        return Err(format!("\"{key}\" makes this {what}, which this version cannot learn from; {SHAPE}"));
    }
    if object.contains_key("label") && !object.contains_key("positive") {
        return Err(format!(
            "\"label\" makes this a labelled text, which this version cannot learn from; {SHAPE}"
        ));
    }
    let query = match (object.get("query"), object.get("anchor")) {
        (Some(_), Some(_)) => {
            return Err("both \"query\" and \"anchor\"; only one of them may be there".into());
        }
        (Some(query), None) | (None, Some(query)) => query,
        (None, None) => return Err(format!("no \"query\"; {SHAPE}")),
    };
    let query = text(query).ok_or("\"query\" is not a text with something in it")?;
    let positive = match object.get("positive") {
        None => return Err(format!("no \"positive\"; {SHAPE}")),
        Some(Value::Object(target)) => Target::Id(id(target)?),
        Some(value) => Target::Text(
            text(value).ok_or("\"positive\" is neither a text with something in it nor {\"id\": …}")?,
        ),
    };
    Ok((query, positive))
}

/// A string that is not blank.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|s| !s.trim().is_empty()).map(str::to_owned)
}

/// The id in `{"id": …}`; an integer becomes its decimal string, as on import.
fn id(target: &Map<String, Value>) -> std::result::Result<String, String> {
    match target.get("id") {
        Some(Value::String(id)) if !id.is_empty() => Ok(id.clone()),
        Some(Value::Number(n)) if n.is_i64() || n.is_u64() => Ok(n.to_string()),
        _ => Err("\"positive\" is an object without an \"id\" (a text or an integer)".into()),
    }
}

/// Identity of a pair, for finding repetitions without keeping every text twice.
fn fingerprint(query: &str, positive: &Target) -> [u8; 16] {
    let (kind, target) = match positive {
        Target::Text(text) => (b't', text),
        Target::Id(id) => (b'i', id),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]).update(&(query.len() as u64).to_le_bytes());
    hasher.update(query.as_bytes()).update(target.as_bytes());
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<(Vec<Pair>, DataReport)> {
        read_pairs(text.as_ref(), "p.jsonl")
    }

    fn message(text: impl AsRef<[u8]>) -> String {
        let error = read(text).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        error.to_string()
    }

    #[test]
    fn the_fixture_gives_texts_and_ids_and_drops_repetitions() {
        let file = include_bytes!("../../tests/fixtures/trainer/pairs.jsonl");
        let (pairs, report) = read(file).unwrap();
        assert_eq!(report, DataReport { lines: 5, pairs: 4, duplicates: 1 });
        assert_eq!(pairs[0].positive, Target::Text("Choose 'forgot password' on the sign-in page.".into()));
        assert_eq!(pairs[1].query, "where is my invoice");
        assert_eq!(pairs[1].positive, Target::Id("doc-7".into()));
        assert_eq!(pairs[2].positive, Target::Id("42".into()));
        assert_eq!(pairs[3].query, "größe ändern");
        assert!(pairs.iter().all(|p| p.weight == 1.0 && p.time == 0));
    }

    #[test]
    fn a_text_equal_to_an_id_is_another_pair() {
        let (pairs, _) =
            read("{\"query\":\"q\",\"positive\":\"7\"}\n{\"query\":\"q\",\"positive\":{\"id\":\"7\"}}")
                .unwrap();
        assert_eq!(pairs.len(), 2);
    }

    #[test]
    fn faults_are_named_with_their_line() {
        let good = "{\"query\":\"q\",\"positive\":\"p\"}\n\n";
        for (line, needle) in [
            ("{\"query\":\"q\"}", "no \"positive\""),
            ("{\"positive\":\"p\"}", "no \"query\""),
            ("{\"query\":\" \",\"positive\":\"p\"}", "\"query\" is not a text"),
            ("{\"query\":\"q\",\"positive\":3}", "\"positive\" is neither"),
            ("{\"query\":\"q\",\"positive\":{\"id\":\"\"}}", "without an \"id\""),
            ("{\"query\":\"q\",\"anchor\":\"q\",\"positive\":\"p\"}", "only one"),
            ("{\"query\":\"q\",\"positive\":\"p\",\"negative\":\"n\"}", "a triplet"),
            ("{\"sentence1\":\"a\",\"sentence2\":\"b\",\"score\":1}", "a scored pair"),
            ("{\"text\":\"a\",\"label\":3}", "a labelled text"),
            ("[1]", "not a JSON object"),
            ("{\"query\":", "invalid JSON"),
        ] {
            let text = message(format!("{good}{line}\n"));
            assert!(text.starts_with("p.jsonl: line 3: ") && text.contains(needle), "{line}: {text}");
        }
    }

    #[test]
    fn invalid_utf8_and_empty_files_are_refused() {
        assert_eq!(message(b"{\"query\":\"\xff\"}"), "p.jsonl: line 1: invalid UTF-8 at byte 10");
        assert!(message("\n \n").contains("no pairs in it"));
    }

    #[test]
    fn a_line_over_the_limit_is_refused_without_reading_it_all() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let error = read_pairs(endless, "p.jsonl").unwrap_err();
        assert_eq!(error.exit_code(), 5);
    }
}
