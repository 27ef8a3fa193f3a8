//! Real documents, queries and judgements, where EMBDB_TEST_DATA names their folder; else these tests say that
//! they skip.

#![cfg(feature = "trainer")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use embdb::db::eval::Qrels;
use embdb::{CreateOptions, Db, Document, EvalOptions, OpenOptions, Task};
use serde_json::Value;

fn lines(path: PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn field(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

#[test]
fn cranfield_goes_in_is_found_and_survives_compaction() {
    let Some(data) = std::env::var_os("EMBDB_TEST_DATA").map(PathBuf::from) else {
        println!("skipped: EMBDB_TEST_DATA is not set");
        return;
    };
    let data = data.join("cranfield");
    let dir = tempfile::tempdir().unwrap();
    let create =
        CreateOptions { model: Some("tests/fixtures/encoder/tiny-bert".into()), ..Default::default() };
    let options = OpenOptions { create, background: false, ..OpenOptions::default() };
    let db = Db::open_with(dir.path().join("c.embdb"), options).unwrap();
    let corpus: Vec<Document> = lines(data.join("corpus.jsonl"))
        .iter()
        .map(|d| Document::new(field(d, "_id"), field(d, "text")).title(field(d, "title")))
        .filter(|d| !d.full_text().trim().is_empty())
        .collect();
    for batch in corpus.chunks(256) {
        db.add(batch.to_vec()).unwrap();
    }
    assert_eq!(db.count().unwrap(), corpus.len() as u64);

    let queries: Vec<(String, String)> =
        lines(data.join("queries.jsonl")).iter().map(|q| (field(q, "_id"), field(q, "text"))).collect();
    let mut qrels = Qrels::new();
    let judgements = std::fs::read_to_string(data.join("qrels/test.tsv")).unwrap();
    for line in judgements.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        qrels.entry(fields[0].into()).or_default().insert(fields[1].into(), fields[2].parse().unwrap());
    }
    let eval = || db.eval(&queries, &qrels, &EvalOptions::default(), &embdb::Task::default()).unwrap();
    let before = eval();
    assert_eq!(before.queries, qrels.len());
    assert!(before.scores.ndcg > 0.0 && before.scores.ndcg <= 1.0, "{before:?}");
    db.compact(&Task::default()).unwrap();
    assert_eq!(eval(), before);
    for document in corpus.iter().step_by(200) {
        let found = db.search(&document.full_text()).k(10).run().unwrap();
        assert_eq!(found.hits.len(), 10);
        assert_eq!(db.get(&document.id).unwrap().unwrap().text, document.text);
    }
    assert!(db.check(true, &Task::default()).unwrap().ok);
}
