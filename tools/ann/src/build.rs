//! The phase `build`: a new database, all rows with their attribute, one segment with its graph.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use embdb::options::Durability;
use embdb::types::Document;
use embdb::{Db, Task};
use serde_json::{Map, Value, json};

use crate::options::Options;
use crate::{Failure, data, measure};

/// Builds and says what each stage cost.
pub fn build(options: &Options) -> Result<Value, Failure> {
    let base = data::floats(&options.dataset, "base")?;
    let bucket = data::integers(&options.dataset, "bucket")?;
    let before = measure::memory();
    let (start, cpu) = (Instant::now(), measure::cpu());
    let stages = Stages::starting("ingest");
    let db = Db::create(&options.path, options.open(base.columns, Durability::Bulk))?;
    for first in (0..base.len()).step_by(options.batch.max(1)) {
        let rows = first..(first + options.batch.max(1)).min(base.len());
        db.add(rows.map(|n| {
            let document = Document::from_vector(n.to_string(), base.row(n).to_vec());
            document.meta("bucket", bucket.values.get(n).copied().unwrap_or_default())
        }))?;
    }
    stages.enter("write");
    let task = stages.task();
    if options.no_graph {
        db.seal(&task)?
    } else {
        db.compact(&task)?
    }
    stages.enter("end");
    let (built, build_cpu) = (start.elapsed().as_secs_f64(), measure::cpu() - cpu);
    let save = Instant::now();
    db.close()?;
    Ok(json!({
        "build_cpu_s": build_cpu,
        "build_s": built,
        "save_s": save.elapsed().as_secs_f64(),
        "stages": stages.seconds(),
        "mem0": before,
        "mem": measure::memory(),
        "version": env!("CARGO_PKG_VERSION"),
        "kind": "db",
    }))
}

/// CPU seconds by the stage that the work reports.
#[derive(Clone)]
struct Stages(Arc<Mutex<Now>>);

struct Now {
    stage: String,
    /// CPU time at which it began.
    since: f64,
    spent: Map<String, Value>,
}

impl Stages {
    fn starting(stage: &str) -> Self {
        let now = Now { stage: stage.to_owned(), since: measure::cpu(), spent: Map::new() };
        Self(Arc::new(Mutex::new(now)))
    }

    /// Ends the stage under way and begins another.
    fn enter(&self, stage: &str) {
        let Ok(mut now) = self.0.lock() else { return };
        if now.stage != stage {
            let cpu = measure::cpu();
            let key = format!("{}_cpu_s", now.stage);
            let before = now.spent.get(&key).and_then(Value::as_f64).unwrap_or_default();
            let spent = before + cpu - now.since;
            now.spent.insert(key, json!(spent));
            (now.stage, now.since) = (stage.to_owned(), cpu);
        }
    }

    fn task(&self) -> Task {
        let stages = self.clone();
        Task::with_progress(move |step| stages.enter(step.stage))
    }

    fn seconds(&self) -> Value {
        self.0.lock().map(|now| Value::Object(now.spent.clone())).unwrap_or_default()
    }
}
