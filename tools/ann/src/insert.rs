//! The phase `insert`: one durable row at a time, beside the bare cost of that on this disk.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use embdb::options::Durability;
use embdb::types::Document;
use embdb::{Db, SearchOptions};
use serde_json::{Value, json};

use crate::measure::Times;
use crate::options::Options;
use crate::{Failure, data};

/// Seconds after which the phase ends.
const BUDGET: f64 = 4.0;

/// Inserts rows, each acknowledged only when it is on the disk. After each, as many bytes are appended to a file of
/// our own and synced: the least that a durable insert can cost here and now.
pub fn insert(options: &Options) -> Result<Value, Failure> {
    let queries = data::floats(&options.dataset, "q")?;
    let rows = data::floats(&options.dataset, "base")?.len();
    let start = Instant::now();
    let db = Db::open_with(&options.path, options.open(queries.columns, Durability::Full))?;
    db.hold_writer()?;
    let opened = start.elapsed().as_secs_f64();
    let log = || log_bytes(options);
    let mut bare = Bare::create(options)?;
    let (mut times, mut bare_times) = (Times::default(), Times::default());
    let mut bytes = 0;
    while times.len() < options.inserts && (times.len() < 3 || times.wall() < BUDGET) {
        let n = times.len();
        let document =
            Document::from_vector((rows + n).to_string(), queries.row(n).to_vec()).meta("bucket", 7);
        let before = log()?;
        times.measure(|| db.add([document]))?;
        bytes = log()?.saturating_sub(before);
        bare_times.measure(|| bare.append(bytes))?;
    }
    let searcher = db.searcher(&SearchOptions { ef: Some(64), ..SearchOptions::default() })?;
    let visible = searcher.search(queries.row(0))?.iter().any(|hit| hit.id == rows.to_string());
    Ok(json!({
        "open_rw_s": opened,
        "n": times.len(),
        "mean_ms": times.mean() * 1e3,
        "p50_ms": times.wall_at(0.5) * 1e3,
        "p99_ms": times.wall_at(0.99) * 1e3,
        "max_ms": times.wall_at(1.0) * 1e3,
        "cpu_p50_us": times.cpu_at(0.5) * 1e6,
        "bare_ms": bare_times.wall_at(0.5) * 1e3,
        "bare_mean_ms": bare_times.mean() * 1e3,
        "bytes": bytes,
        "visible": visible,
    }))
}

fn log_bytes(options: &Options) -> Result<u64, Failure> {
    let mut total = 0;
    for entry in fs::read_dir(options.path.join("log"))? {
        total += entry?.metadata()?.len();
    }
    Ok(total)
}

/// A file that grows by plain writes.
struct Bare {
    file: File,
    end: u64,
}

impl Bare {
    fn create(options: &Options) -> Result<Self, Failure> {
        let path = options.path.with_extension("bare");
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        // The name is not needed, only the blocks on the same disk.
        fs::remove_file(path)?;
        Ok(Self { file, end: 0 })
    }

    fn append(&mut self, bytes: u64) -> Result<(), Failure> {
        self.file.write_all_at(&vec![7; bytes as usize], self.end)?;
        self.end += bytes;
        Ok(self.file.sync_data()?)
    }
}
