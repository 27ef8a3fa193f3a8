//! Pairs from queries and judgements, in the manner of BEIR.
//!
//! Queries are JSON lines `{"_id" or "id", "text"}`. Judgements are `query-id corpus-id score` with tabs and a header (BEIR)
//! or `query iteration document grade` (TREC). A judgement above 0 makes a pair of the query's text and the stored document
//! of that id; its weight is the grade as a share of the highest.

use std::collections::{HashMap, HashSet};
use std::io::BufRead;

use serde_json::Value;

use super::lines::Lines;
use super::{Data, DataReport, Record, Shape, Target};
use crate::error::{Error, Result};

/// Reads queries and judgements, each with the file's name for messages.
///
/// # Errors
/// [`Error::Input`] with file and line for what is neither, for a query that is there twice, and if no pair comes out;
/// [`Error::Limit`] for a line that is too long; [`Error::Io`] if reading fails.
pub fn read_qrels(
    (queries, queries_name): (impl BufRead, &str),
    (qrels, qrels_name): (impl BufRead, &str),
) -> Result<Data> {
    let texts = read_queries(queries, queries_name)?;
    let mut report = DataReport::default();
    let (mut records, mut seen, mut unknown) = (Vec::new(), HashSet::new(), 0usize);
    let mut lines = Lines::new(qrels, qrels_name);
    while let Some((line, text)) = lines.next()? {
        let fault = |what: String| Error::Input(format!("{qrels_name}: line {line}: {what}"));
        let Some((query, document, grade)) = judgement(text, line).map_err(fault)? else { continue };
        report.lines += 1;
        if !seen.insert((query.to_owned(), document.to_owned())) {
            report.duplicates += 1;
        } else if grade <= 0.0 {
            report.empty += 1;
        } else if let Some(text) = texts.get(query) {
            let texts = vec![Target::Text(text.clone()), Target::Id(document.to_owned())];
            records.push(Record { texts, targets: Vec::new(), class: 0, weight: grade, time: 0, line });
        } else {
            unknown += 1;
        }
    }
    if records.is_empty() {
        return Err(Error::Input(format!(
            "{qrels_name}: of {} judgements none makes a pair: {} are not above 0, {unknown} are of queries that are not \
             in {queries_name}",
            report.lines, report.empty
        )));
    }
    let highest = records.iter().fold(0.0, |most: f32, record| most.max(record.weight));
    // The smallest of grades must not vanish beside the largest.
    records.iter_mut().for_each(|r| r.weight = (r.weight / highest).max(f32::MIN_POSITIVE));
    for (count, what) in [
        (report.duplicates, "repeated judgements were dropped"),
        (report.empty, "judgements that are not above 0 were dropped"),
        (unknown, "judgements of unknown queries were dropped"),
    ] {
        if count > 0 {
            report.notes.push(format!("{count} {what}"));
        }
    }
    report.records = records.len();
    Ok(Data { shape: Shape::Pairs, records, labels: Vec::new(), report })
}

fn read_queries(reader: impl BufRead, name: &str) -> Result<HashMap<String, String>> {
    let mut texts: HashMap<String, String> = HashMap::new();
    let mut lines = Lines::new(reader, name);
    while let Some((number, line)) = lines.next()? {
        let fault = |what: String| Error::Input(format!("{name}: line {number}: {what}"));
        let value: Value = serde_json::from_str(line).map_err(|e| fault(format!("invalid JSON: {e}")))?;
        let id = match value.get("_id").or_else(|| value.get("id")) {
            Some(Value::String(id)) if !id.is_empty() => id.clone(),
            Some(Value::Number(id)) if id.is_i64() || id.is_u64() => id.to_string(),
            _ => return Err(fault("no \"_id\" or \"id\" (a text or an integer)".into())),
        };
        let text = match value.get("text") {
            Some(Value::String(text)) if !text.trim().is_empty() => text.clone(),
            _ => return Err(fault("\"text\" is not a text with something in it".into())),
        };
        if texts.insert(id.clone(), text).is_some() {
            return Err(fault(format!("the query {id:?} is there twice")));
        }
    }
    Ok(texts)
}

/// Query, document and grade of a line; nothing for a header.
fn judgement(text: &str, line: u64) -> std::result::Result<Option<(&str, &str, f32)>, String> {
    let tabs: Vec<&str> = text.split('\t').map(str::trim).collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    let (query, document, grade) = match (tabs.as_slice(), words.as_slice()) {
        (&[query, document, grade], _) => (query, document, grade),
        (_, &[query, _, document, grade]) => (query, document, grade),
        _ => return Err("neither three columns with tabs (BEIR) nor four (TREC)".into()),
    };
    match grade.parse::<f32>() {
        Ok(grade) if grade.is_finite() && !query.is_empty() && !document.is_empty() => {
            Ok(Some((query, document, grade)))
        }
        Err(_) if line == 1 => Ok(None),
        _ => Err(format!("{query:?}, {document:?}, {grade:?} are no two ids and a grade")),
    }
}
