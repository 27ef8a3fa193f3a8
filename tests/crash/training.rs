//! A training of the encoder that is cut off: old or new as a whole, and it goes on to the same end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use embdb::db::generations::GenerationInfo;
use embdb::db::retrain::RetrainReport;
use embdb::error::Result;
use embdb::storage::sim::SimVfs;
use embdb::storage::vfs::Vfs;
use embdb::{Db, Method, RetrainOptions, Task};
use tempfile::NamedTempFile;

use super::oracle::contents;
use super::workload::{document, open, pairs, text_options};

/// A small database on an empty disk.
pub fn create(sim: &SimVfs) -> Db {
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let db = open(&vfs, &text_options()).unwrap();
    db.add((0..8).map(|n| document(n, "first", false))).unwrap();
    db.seal(&Task::default()).unwrap();
    db
}

/// That database on a disk after a crash: its documents are there, and nothing is damaged.
pub fn found(sim: &SimVfs, context: &str) -> Db {
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let db = open(&vfs, &text_options()).unwrap_or_else(|e| panic!("{context}: {e}"));
    let wanted = (0..8).map(|n| document(n, "first", false)).map(|d| (d.id, d.text)).collect();
    assert_eq!(contents(&db).unwrap(), wanted, "{context}");
    let report = db.check(false, &Task::default()).unwrap();
    assert!(report.ok, "{context}: {:?}", report.problems);
    db
}

/// The generation that answers.
pub fn active(db: &Db) -> GenerationInfo {
    db.generations().unwrap().into_iter().find(|g| g.active).unwrap()
}

/// A disk with a database, and what its training must come to.
pub struct Training {
    /// The disk after the training.
    pub sim: SimVfs,
    /// Operations on it before the training.
    pub begin: usize,
    pairs: NamedTempFile,
    /// The encoder that is published.
    pub model_id: String,
}

impl Training {
    /// Trains without a stop.
    pub fn new(seed: u64) -> Self {
        let pairs_file = NamedTempFile::new().unwrap();
        std::fs::write(pairs_file.path(), pairs()).unwrap();
        let sim = SimVfs::new(seed);
        let mut training = Self { sim, begin: 0, pairs: pairs_file, model_id: String::new() };
        let db = create(&training.sim);
        training.begin = training.sim.op_count();
        let report = training.train(&db, Task::default()).unwrap();
        assert!(report.published && !db.retrain_was_stopped().unwrap());
        training.model_id = report.model_id;
        training
    }

    /// The training from its beginning, every state saved.
    pub fn train(&self, db: &Db, task: Task) -> Result<RetrainReport> {
        self.run(db, false, task)
    }

    /// Goes on from what was saved; which encoder that published.
    pub fn go_on(&self, db: &Db) -> Result<String> {
        self.run(db, true, Task::default()).map(|report| report.model_id)
    }

    fn run(&self, db: &Db, resume: bool, task: Task) -> Result<RetrainReport> {
        let data: &Path = self.pairs.path();
        db.retrain(RetrainOptions {
            data: (!resume).then(|| data.to_path_buf()),
            method: if resume { Method::Best } else { Method::Full },
            layers: (!resume).then_some(1),
            batch_size: (!resume).then_some(16),
            force: !resume,
            resume,
            task,
            checkpoint_every: Some(Duration::ZERO),
            ..RetrainOptions::default()
        })
    }

    /// Looks at a disk: the documents are there, the generation is the old one or the new one, whole. With `go_on` the
    /// old one is trained to the end, from where it was stopped if there is a state. Returns whether there was one.
    pub fn examine(&self, sim: &SimVfs, go_on: bool, context: &str) -> bool {
        let db = found(sim, context);
        let stopped = db.retrain_was_stopped().unwrap_or_else(|e| panic!("{context}: {e}"));
        let found = active(&db);
        if found.generation > 1 {
            assert_eq!(found.model_id.as_deref(), Some(&*self.model_id), "{context}");
            if stopped {
                let error = self.run(&db, true, Task::default()).unwrap_err();
                assert!(error.to_string().contains("answers now"), "{context}: {error}");
            }
        } else if go_on {
            let report = self.run(&db, stopped, Task::default()).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(report.published, "{context}");
            assert_eq!(report.model_id, self.model_id, "{context}");
            assert_eq!(active(&db).documents, 8, "{context}");
            assert!(!db.retrain_was_stopped().unwrap(), "{context}");
            assert!(db.check(false, &Task::default()).unwrap().ok, "{context}");
        }
        stopped
    }
}
