//! Searches while the database learns: their latency beside that of an idle database.
//!
//! One thread searches by vector and by text in turn, another runs `retrain` on the judgements of a BEIR folder and publishes
//! what comes of it, new vectors and graph included.
//!
//! `EMBDB_BENCH_BEIR` names the folder, by default `fin10k` in that of `EMBDB_TEST_DATA`; without one the bench says so and
//! ends. `EMBDB_BENCH_MODEL` names the folder of an encoder in place of the built-in one.

#![allow(clippy::unwrap_used, missing_docs)]

mod shared;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use embdb::{CreateOptions, Db, Document, OpenOptions, RetrainOptions, Task};
use shared::latency::{Latencies, titles};

/// How long the idle database is searched.
const IDLE: Duration = Duration::from_secs(5);
/// Questions that are asked in turn.
const QUESTIONS: usize = 500;

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("EMBDB_BENCH_BEIR").map(PathBuf::from);
    let tests = std::env::var_os("EMBDB_TEST_DATA").map(|data| Path::new(&data).join("fin10k"));
    named.or(tests).filter(|folder| folder.join("corpus.jsonl").is_file())
}

/// The objects of a file of JSON lines.
fn objects(file: &Path) -> impl Iterator<Item = serde_json::Value> {
    let lines = BufReader::new(std::fs::File::open(file).unwrap()).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

fn text(object: &serde_json::Value, key: &str) -> String {
    object[key].as_str().unwrap_or_default().to_owned()
}

fn main() {
    // What `cargo test` and criterion's flags ask of a bench is not for this one.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    let Some(folder) = folder() else {
        println!("skipped: there is no folder in BEIR layout; EMBDB_BENCH_BEIR names one");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let model = std::env::var_os("EMBDB_BENCH_MODEL").map(PathBuf::from);
    let create = CreateOptions { model, ..CreateOptions::default() };
    let options = OpenOptions { create, ..OpenOptions::default() };
    let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
    let documents: Vec<Document> = objects(&folder.join("corpus.jsonl"))
        .map(|object| Document::new(text(&object, "_id"), text(&object, "text")))
        .filter(|document| !document.text.trim().is_empty())
        .collect();
    for batch in documents.chunks(1000) {
        db.add(batch.to_vec()).unwrap();
    }
    db.compact(&Task::default()).unwrap();
    let questions: Vec<String> =
        objects(&folder.join("queries.jsonl")).take(QUESTIONS).map(|object| text(&object, "text")).collect();
    let encoder = db.encoder().unwrap();
    let vector = |text: &String| encoder.encode_queries(&[text], &Task::default()).unwrap();
    let vectors: Vec<Vec<f32>> = questions.iter().map(vector).collect();

    println!("{} documents; searches for 10 neighbours", db.count().unwrap());
    println!("{}", titles());
    let start = Instant::now();
    search_until(&db, &questions, &vectors, "idle", || start.elapsed() >= IDLE);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let options = RetrainOptions { data: Some(folder.clone()), force: true, ..RetrainOptions::default() };
        let learning = scope.spawn(|| db.retrain(options).unwrap());
        search_until(&db, &questions, &vectors, "while it learns", || learning.is_finished());
        assert!(learning.join().unwrap().published);
    });
    let learnt = start.elapsed();
    let start = Instant::now();
    search_until(&db, &questions, &vectors, "idle", || start.elapsed() >= IDLE);
    println!("it learnt for {:.0} s", learnt.as_secs_f64());
}

/// Searches by vector and by text in turn.
fn search_until(db: &Db, questions: &[String], vectors: &[Vec<f32>], what: &str, ends: impl Fn() -> bool) {
    let [mut by_vector, mut by_text] = [Latencies::default(), Latencies::default()];
    for (question, vector) in questions.iter().zip(vectors).cycle() {
        if ends() {
            break;
        }
        by_vector.of(|| db.search_vector(vector).k(10).run().unwrap());
        by_text.of(|| db.search(question).k(10).run().unwrap());
    }
    println!("{}", by_vector.row(&format!("by vector, {what}")));
    println!("{}", by_text.row(&format!("by text, {what}")));
}
