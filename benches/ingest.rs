//! Searches while rows come in steadily: latency beside that of an idle database, and whether the newest rows are found.
//!
//! One thread searches, another adds batches at a fixed rate; sealing, merging and building of graphs go on in the
//! background as they do in a program.

#![allow(clippy::unwrap_used, missing_docs)]

mod shared;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use embdb::types::Document;
use embdb::{Db, OpenOptions, Task};
use shared::latency::{Latencies, titles};
use shared::{clustered, plain};

const DIM: usize = 384;
const ROWS: u64 = 50_000;
const BATCH: u64 = 100;
/// Batches a second.
const RATE: u32 = 20;

fn main() {
    // What `cargo test` and criterion's flags ask of a bench is not for this one.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    let seconds =
        Duration::from_secs(std::env::var("EMBDB_INGEST_SECONDS").map_or(20, |s| s.parse().unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let filled = Db::open_with(&path, plain(DIM)).unwrap();
    (0..ROWS).step_by(1000).for_each(|first| add(&filled, first..first + 1000));
    filled.compact(&Task::default()).unwrap();
    drop(filled);
    let db = Db::open_with(&path, OpenOptions { background: true, ..plain(DIM) }).unwrap();

    println!("{ROWS} rows of {DIM} dimensions with a graph; searches for 10 neighbours");
    println!("{} {:>8} {:>8}", titles(), "found", "newest");
    let until = |time: Duration| move |elapsed: Duration| elapsed >= time;
    report("idle", search_until(&db, until(seconds / 4), &AtomicU64::new(ROWS)));
    let (added, stop) = (AtomicU64::new(ROWS), AtomicBool::new(false));
    let times = std::thread::scope(|scope| {
        let writer = scope.spawn(|| add_until(&db, &stop, &added));
        let times = search_until(&db, until(seconds), &added);
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        times
    });
    report(&format!("while {} rows a second come in", BATCH * u64::from(RATE)), times);
    let came = added.load(Ordering::Relaxed) - ROWS;
    let times = std::thread::scope(|scope| {
        let compacting = scope.spawn(|| db.compact(&Task::default()).unwrap());
        search_until(&db, |_| compacting.is_finished(), &added)
    });
    report("while it is compacted", times);
    report("idle", search_until(&db, until(seconds / 4), &added));
    println!("{came} rows came in, {:.0} a second", came as f64 / seconds.as_secs_f64());
}

fn add(db: &Db, rows: std::ops::Range<u64>) {
    db.add(rows.map(|n| Document::from_vector(n.to_string(), clustered(n, DIM)))).unwrap();
}

/// Adds batches at a fixed rate.
fn add_until(db: &Db, stop: &AtomicBool, added: &AtomicU64) {
    let start = Instant::now();
    for batch in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let first = added.load(Ordering::Relaxed);
        add(db, first..first + BATCH);
        added.fetch_add(BATCH, Ordering::Relaxed);
        std::thread::sleep(
            (start + Duration::from_secs(1) / RATE * batch).saturating_duration_since(Instant::now()),
        );
    }
}

/// What searches came to.
#[derive(Default)]
struct Searches {
    latencies: Latencies,
    /// How many found the row that they were made from: one of all, or one of the newest hundred.
    found: [usize; 2],
    made: [usize; 2],
}

/// Searches one after the other, each for a row that was there before it began, one in ten among the newest.
fn search_until(db: &Db, ends: impl Fn(Duration) -> bool, added: &AtomicU64) -> Searches {
    let start = Instant::now();
    let mut searches = Searches::default();
    while !ends(start.elapsed()) {
        let rows = added.load(Ordering::Relaxed);
        let n = searches.latencies.count() as u64;
        let newest = n.is_multiple_of(10);
        let row = if newest { rows - 1 - n % BATCH } else { n * 7_919 % rows };
        let query = clustered(row, DIM);
        let found = searches.latencies.of(|| db.search_vector(&query).k(10).run().unwrap());
        let id = row.to_string();
        searches.made[usize::from(newest)] += 1;
        searches.found[usize::from(newest)] += usize::from(found.hits.iter().any(|hit| hit.id == id));
    }
    searches
}

fn report(what: &str, searches: Searches) {
    let Searches { mut latencies, found, made } = searches;
    let [any, newest] = [0, 1].map(|i| found[i] as f64 / made[i].max(1) as f64);
    println!("{} {any:>8.3} {newest:>8.3}", latencies.row(what));
}
