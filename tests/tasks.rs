//! Long work as its caller sees it: it reports, it stops when asked and leaves nothing half-done, and it uses the
//! threads that it may.

#![cfg(feature = "encoder")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, ThreadId};

use embdb::db::search::SearchOptions;
use embdb::{CreateOptions, Db, Document, Error, OpenOptions, Task};

fn open(path: &Path, threads: usize) -> Db {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder/tiny-bert");
    let create = CreateOptions { model: Some(model), ..CreateOptions::default() };
    Db::open_with(path, OpenOptions { create, threads, background: false, ..OpenOptions::default() }).unwrap()
}

fn documents(count: usize) -> Vec<Document> {
    (0..count)
        .map(|n| Document::new(format!("d{n}"), format!("text {n} {}", "and more ".repeat(n % 7))))
        .collect()
}

/// A task that cancels itself at a step of a stage.
fn stopped_at(stage: &'static str, at: u64) -> Task {
    let own: Arc<OnceLock<Task>> = Arc::default();
    let handle = Arc::clone(&own);
    let task = Task::with_progress(move |step| {
        if let Some(task) = handle.get().filter(|_| step.stage == stage && step.done >= at) {
            task.cancel();
        }
    });
    own.get_or_init(|| task.quiet());
    task
}

#[test]
fn a_batch_of_searches_stops_between_two_searches_and_logs_none() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir.path().join("a"), 0);
    db.add(documents(5)).unwrap();
    let texts: Vec<String> = (0..20).map(|n| format!("query {n}")).collect();
    let options = SearchOptions { log: true, ..SearchOptions::default() };
    for (stage, at) in [("embed", 0), ("search", 0), ("search", 7)] {
        let stopped = db.search_batch(&texts, &options, &stopped_at(stage, at));
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stage} {at}: {stopped:?}");
    }
    assert!(db.log_events().unwrap().is_empty());
    let found = db.search_batch(&texts, &options, &stopped_at("search", 20)).unwrap();
    assert_eq!((found.len(), db.log_events().unwrap().len()), (20, 20));
}

#[cfg(feature = "trainer")]
#[test]
fn a_measurement_stops_between_two_queries() {
    use embdb::db::eval::{EvalOptions, Qrels};
    let dir = tempfile::tempdir().unwrap();
    let db = open(&dir.path().join("a"), 0);
    db.add(documents(5)).unwrap();
    let queries: Vec<(String, String)> = (0..20).map(|n| (format!("q{n}"), format!("query {n}"))).collect();
    let judged = |(id, _): &(String, String)| (id.clone(), [("d1".to_owned(), 1.0)].into());
    let qrels: Qrels = queries.iter().map(judged).collect();
    let options = EvalOptions::default();
    for (stage, at) in [("embed", 0), ("search", 0), ("search", 7)] {
        let stopped = db.eval(&queries, &qrels, &options, &stopped_at(stage, at));
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stage} {at}: {stopped:?}");
    }
    assert_eq!(db.eval(&queries, &qrels, &options, &stopped_at("search", 20)).unwrap().queries, 20);
}

#[test]
fn encoding_uses_the_threads_of_the_options() {
    let dir = tempfile::tempdir().unwrap();
    for threads in [1, 3] {
        let db = open(&dir.path().join(threads.to_string()), threads);
        let seen: Arc<Mutex<HashSet<ThreadId>>> = Arc::default();
        let task = Task::with_progress({
            let seen = Arc::clone(&seen);
            move |_| {
                seen.lock().unwrap().insert(thread::current().id());
            }
        });
        let batch = db.prepare(documents(400), &task).unwrap();
        assert_eq!(batch.len(), 400);
        let mut others = seen.lock().unwrap().clone();
        others.remove(&thread::current().id());
        if threads == 1 {
            assert!(others.is_empty(), "{others:?}");
        } else {
            assert!((1..=threads).contains(&others.len()), "{others:?}");
        }
    }
}
