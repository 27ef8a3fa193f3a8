//! A bound on the heap that a database takes in this process: what would take more is refused before it begins, or done in
//! smaller pieces.
//!
//! | what takes heap | under a bound |
//! |---|---|
//! | rows and texts of the log | a quarter of it: then a write seals them itself, if nobody else does |
//! | one batch | a quarter of it, else the write is refused |
//! | files, with [`Io::Pread`](crate::options::Io::Pread) | all of it, else the file is not opened |
//! | construction of a graph | all of it, else there is none: segments are merged only as far as theirs fits, and compaction of more is refused |
//! | training | all of it by the prediction of `retrain --plan`, else it is refused |
//!
//! The pieces are looked at one by one, so that several at the same time may take more.

use std::path::Path;

use super::Inner;
use super::graphs::{GRAPH_ROWS, build_params};
use super::snapshot::{Part, Snapshot};
use super::turns::Pin;
use crate::error::{Error, Result};
use crate::options::{Io, OpenOptions, Task};
use crate::storage::manifests;
use crate::storage::vfs::Vfs;

/// Share of the bound that rows of the log may take, and that a batch may.
const LOG_SHARE: u64 = 4;

/// The bound.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget(pub u64);

impl Budget {
    /// Refuses what takes more.
    pub fn check(self, what: &str, bytes: u64, instead: &str) -> Result<()> {
        self.check_share(1, what, bytes, instead)
    }

    /// Refuses a batch that takes more than its share.
    pub fn check_batch(self, bytes: u64) -> Result<()> {
        self.check_share(
            LOG_SHARE,
            "memory for a batch",
            bytes,
            "write smaller batches or raise the bound on memory",
        )
    }

    fn check_share(self, share: u64, what: &str, bytes: u64, instead: &str) -> Result<()> {
        let limit = self.0 / share;
        if bytes <= limit {
            return Ok(());
        }
        Err(Error::Limit {
            what: format!("{what}, in bytes,"),
            limit,
            actual: bytes,
            raise: instead.to_owned(),
        })
    }

    /// Bytes of logs that may wait to be sealed.
    pub fn log_bytes(self) -> u64 {
        self.0 / LOG_SHARE
    }
}

impl Inner {
    /// The bound, if there is one.
    pub fn budget(&self) -> Option<Budget> {
        self.options.memory_bytes.map(Budget)
    }

    /// Bytes of logs at which they are sealed.
    pub fn seal_bytes(&self) -> u64 {
        self.budget().map_or(u64::MAX, Budget::log_bytes).min(self.options.seal_bytes)
    }

    /// Refuses a graph over the rows of all these parts that there is not enough memory for.
    pub fn check_graph<'a>(
        &self,
        snapshot: &Snapshot,
        parts: impl IntoIterator<Item = &'a Part>,
    ) -> Result<()> {
        let (Some(budget), Some(generation)) = (self.budget(), snapshot.generation()) else { return Ok(()) };
        let shape = snapshot.shape_of(generation.id)?;
        let mut rows = 0;
        for part in parts {
            for number in 0..part.blocks() {
                rows += part.block(number, generation.id, shape)?.map_or(0, |block| block.vectors.len as u64);
            }
        }
        if rows < GRAPH_ROWS as u64 {
            return Ok(());
        }
        let bytes = build_params(&snapshot.manifest).heap_bytes(rows, shape.dim);
        budget.check("memory for a graph of these rows", bytes, "raise the bound on memory")
    }

    /// Before a write: seals the log if it has its share of the memory, so that others wait for it.
    pub fn make_room(&self) -> Result<()> {
        let full = || self.budget().is_some_and(|budget| self.unsealed().1 > budget.log_bytes());
        if !full() {
            return Ok(());
        }
        let _alone = self.maintenance.alone();
        let _pin = Pin::new(self, self.options.busy_timeout)?;
        if full() { self.seal(&Task::default()) } else { Ok(()) }
    }
}

/// Refuses to read the files of a database into memory where there is not enough.
pub(crate) fn check_files(options: &OpenOptions, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let (Some(bound), Io::Pread) = (options.memory_bytes, options.io) else { return Ok(()) };
    let Some(manifest) = manifests::newest(vfs, dir)? else { return Ok(()) };
    let bytes = manifest.files().map(|file| file.length).sum();
    Budget(bound).check("memory for the files", bytes, "raise the bound on memory, or map them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Durability;
    use crate::storage::room::failing;
    use crate::types::Document;
    use crate::{CreateOptions, Db};

    const DIM: usize = 64;

    fn options(memory_bytes: Option<u64>) -> OpenOptions {
        let create = CreateOptions { vectors: Some(DIM), ..CreateOptions::default() };
        OpenOptions { create, background: false, memory_bytes, ..OpenOptions::default() }
    }

    fn documents(numbers: std::ops::Range<usize>) -> Vec<Document> {
        let vector = |n: usize| (0..DIM).map(|i| ((n * 37 + i * 11) % 101) as f32 - 50.0).collect();
        numbers.map(|n| Document::from_vector(n.to_string(), vector(n))).collect()
    }

    fn is_refused<T: std::fmt::Debug>(result: Result<T>) {
        let error = result.unwrap_err();
        assert!(error.exit_code() == 5 && error.to_string().contains("memory"), "{error}");
    }

    #[test]
    fn a_batch_beyond_the_bound_is_refused_and_smaller_ones_seal_the_log_in_time() {
        for durability in [Durability::Full, Durability::Bulk] {
            for background in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let options = OpenOptions { durability, background, ..options(Some(400_000)) };
                let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
                is_refused(db.add(documents(0..1000)));
                for first in (0..2000).step_by(100) {
                    db.add(documents(first..first + 100)).unwrap();
                    assert!(db.inner.unsealed().1 <= 200_000, "{} bytes wait", db.inner.unsealed().1);
                }
                assert_eq!(db.count().unwrap(), 2000);
            }
        }
    }

    #[test]
    fn graphs_beyond_the_bound_are_not_built() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.embdb");
        let db = Db::open_with(&path, options(None)).unwrap();
        db.add(documents(0..5000)).unwrap();
        drop(db);
        let db = Db::open_with(&path, options(Some(1 << 20))).unwrap();
        is_refused(db.compact(&Task::default()));
        assert_eq!(db.search_vector(&[1.0; DIM]).k(3).run().unwrap().hits.len(), 3);
        drop(db);
        let db = Db::open_with(&path, options(Some(16 << 20))).unwrap();
        db.compact(&Task::default()).unwrap();
        drop(db);
        let pread = |bytes| OpenOptions { io: Io::Pread, ..options(Some(bytes)) };
        is_refused(Db::open_with(&path, pread(1 << 20)).map(|_| ()));
        assert_eq!(Db::open_with(&path, pread(16 << 20)).unwrap().count().unwrap(), 5000);
    }

    /// Reads of every kind, then a write; how many documents there are.
    fn use_it(path: &std::path::Path, io: Io) -> Result<u64> {
        let options = OpenOptions { background: false, io, ..OpenOptions::default() };
        let db = Db::open_with(path, options)?;
        for id in ["a7", "b7"] {
            let document = db.get(id)?;
            assert!(document.is_some_and(|document| document.text.ends_with('7')));
        }
        assert_eq!(db.search_vector(&[1.0, 2.0]).k(3).run()?.hits.len(), 3);
        assert!(db.check(false, &Task::default())?.ok, "memory is short, nothing is damaged");
        db.add([Document::from_vector("late", vec![2.0, 1.0])])?;
        let count = db.count()?;
        db.delete(&["late".into()])?;
        db.compact(&Task::default())?;
        Ok(count)
    }

    #[test]
    fn each_allocation_that_a_file_asks_for_may_fail() {
        for io in [Io::Map, Io::Pread] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.embdb");
            let create = CreateOptions { vectors: Some(2), ..CreateOptions::default() };
            let db =
                Db::open_with(&path, OpenOptions { create, background: false, ..OpenOptions::default() });
            let db = db.unwrap();
            for prefix in ["a", "b"] {
                let document = |n: u32| Document {
                    text: format!("text {n}"),
                    ..Document::from_vector(format!("{prefix}{n}"), vec![1.0, n as f32 + 1.0])
                };
                db.add((0..50).map(document)).unwrap();
                if prefix == "a" {
                    db.seal(&Task::default()).unwrap();
                }
            }
            drop(db);
            let mut failed = 0;
            for number in 1.. {
                // Each time another copy: what fails leaves logs and files behind that the next compaction removes.
                let copy = dir.path().join(format!("{number}"));
                Db::open(&path).unwrap().backup(&copy, &Task::default()).unwrap();
                let (met, result) = failing::at(number, || use_it(&copy, io));
                match result {
                    Ok(count) => assert_eq!(count, 101),
                    Err(Error::Io { source, .. }) => {
                        assert_eq!(source.kind(), std::io::ErrorKind::OutOfMemory);
                        failed += 1;
                    }
                    Err(error) => panic!("allocation {number}: {error}"),
                }
                if number.is_multiple_of(8) || !met {
                    assert_eq!(use_it(&copy, io).unwrap(), 101);
                }
                if !met {
                    break;
                }
            }
            assert!(failed > 5, "{failed}");
        }
    }
}
