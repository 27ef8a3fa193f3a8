//! What people and programs write as text.

use embdb::db::filter::Filter;
use embdb::db::ubi as ubi_lines;
use embdb::trainer::Shape;
use embdb::trainer::data::{Data, read, read_qrels};
use embdb::trainer::synth::answer::proposals;
use embdb::trainer::synth::judge::{overlaps, unfit};
use embdb::trainer::synth::prompt::PromptId;
use embdb::trainer::trec::read_run;
use embdb::types::Meta;

/// Filters to begin with: each kind of expression.
pub const FILTERS: [&str; 8] = [
    "lang = 'en' AND year >= 2020",
    "NOT (a.b IS NULL OR c IN (1, 2.5, 'x', true))",
    "title LIKE '%re_set%' ESCAPE '\\'",
    "price BETWEEN -1 AND 1e9 OR tags = 'a'",
    "\"odd key\" != 'it''s' AND id = 'd1'",
    "a IS NOT NULL AND b NOT IN ('y')",
    "((((a = 1))))",
    "day < '2024-02-30'",
];

/// Filter expressions: parsed, and evaluated on one document.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(filter) = Filter::parse(text) {
        let meta: Meta =
            serde_json::from_str(r#"{"a": 1, "b": {"c": ["x", 2.5, null]}, "d": true}"#).expect("valid");
        filter.matches("id", Some("title"), &meta);
        filter.matches("", None, &Meta::new());
        assert!(filter.keys().is_sorted());
    }
}

/// The log of searches and clicks as UBI lines: what is read survives being written and read again.
pub fn ubi(data: &[u8]) {
    if let Ok(records) = ubi_lines::read(data, "file") {
        let mut lines = Vec::new();
        ubi_lines::write(&records.events, &mut lines).expect("memory takes all");
        let again = ubi_lines::read(lines.as_slice(), "file").expect("what was written can be read");
        assert_eq!(again.events.len(), records.events.len());
    }
}

/// Answers of language models, and the ids of prompts.
pub fn answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let value = serde_json::from_slice(data).unwrap_or_else(|_| serde_json::Value::String(text.to_string()));
    for proposal in proposals(&value) {
        assert!(!proposal.query.contains('\n'));
        unfit(&proposal.query, &text);
        overlaps(&proposal.query, &text);
    }
    if let Some(id) = PromptId::parse(&text) {
        assert!(id.span.start <= id.span.end && text.ends_with(&id.id));
    }
}

/// TREC runs: each document once, in an order that reading its own lines again keeps.
pub fn trec(data: &[u8]) {
    let Ok(run) = read_run(data, "file") else { return };
    let mut lines = String::new();
    for (query, ids) in &run {
        assert!(!ids.is_empty());
        for (at, id) in ids.iter().enumerate() {
            lines.push_str(&format!("{query} Q0 {id} {at} -{at} fuzz\n"));
        }
    }
    assert_eq!(read_run(lines.as_bytes(), "file").expect("what was written can be read"), run);
}

/// Training data: JSON lines of every shape, or (after a byte of 0) queries and judgements with another 0 between them.
pub fn training_data(data: &[u8]) {
    if let Some(data) = data.strip_prefix(&[0]) {
        let mut parts = data.splitn(2, |&byte| byte == 0);
        let mut part = || parts.next().unwrap_or_default();
        if let Ok(data) = read_qrels((part(), "queries"), (part(), "qrels")) {
            check(&data);
        }
    } else if let Ok(data) = read(data, "file") {
        check(&data);
    }
}

/// What every reader promises of what it gives.
fn check(data: &Data) {
    let report = &data.report;
    assert_eq!(report.records, data.records.len());
    assert!(!data.records.is_empty() && report.records + report.duplicates + report.empty <= report.lines);
    for record in &data.records {
        let least = match data.shape {
            Shape::Classes => 1,
            Shape::Triplets => 3,
            _ => 2,
        };
        assert!(record.texts.len() >= least);
        assert!(record.targets.iter().all(|target| target.is_finite()));
        assert!(record.weight > 0.0 && record.weight <= 1.0);
        assert!(data.labels.is_empty() || (record.class as usize) < data.labels.len());
    }
}
