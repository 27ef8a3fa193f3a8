//! Unfinished re-indexing: `jobs/<model id>/rows.<n>` holds the rows of documents that were re-embedded already, so
//! that a stop costs one batch and merges in between cost nothing.
//!
//! Rows are keyed by the document's sequence number and by a hash of what was encoded. The number alone is not enough:
//! below durability `full` a power cut can take documents whose rows are on the disk, and give their numbers to others.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::log::{LogWriter, read_batches, read_header};
use super::vfs::{Lock, Vfs};
use super::{JOB_DIR, remove_dir_if_present};
use crate::error::{Error, Result};
use crate::format::file::DatabaseId;
use crate::format::frame::{FrameType, LOG_HEADER_LEN, LogHeader};
use crate::format::segment::{DocumentRows, JobRows, encode_job_rows, parse_job_rows};
use crate::options::Durability;

/// The lock in a job's directory.
const LOCK: &str = "LOCK";

/// A job that this process works on.
pub struct Job {
    path: PathBuf,
    log: LogWriter,
    rows: HashMap<u64, JobRows>,
    _lock: Box<dyn Lock>,
}

impl Job {
    /// Starts or resumes the job for `model_id`. [`Error::Busy`] if another process works on it.
    pub fn open(vfs: &dyn Vfs, dir: &Path, model_id: &str, database: DatabaseId) -> Result<Self> {
        let path = dir.join(JOB_DIR).join(model_id);
        if !vfs.exists(&path)? {
            vfs.create_dir(&path)?;
            vfs.sync_dir(&dir.join(JOB_DIR))?;
        }
        let lock = vfs.try_lock(&path.join(LOCK))?.ok_or(Error::Busy { pid: None })?;
        let mut rows = HashMap::new();
        let mut next = 0;
        for number in files(vfs, &path)? {
            next = number + 1;
            read_rows(vfs, &file_path(&path, number), &mut rows)?;
        }
        let header = LogHeader { number: next, salt: vfs.random(), previous_end: 0, database };
        let log = LogWriter::create(vfs, &file_path(&path, next), header)?;
        Ok(Self { path, log, rows, _lock: lock })
    }

    /// The rows of a document, if it was done. Of what an earlier process left, this is true only after
    /// [`Job::retain`].
    pub fn rows(&self, sequence: u64) -> Option<&DocumentRows> {
        self.rows.get(&sequence).map(|done| &done.rows)
    }

    /// Forgets the rows of all documents but those for which `is_that` holds, given sequence number and hash.
    pub fn retain(&mut self, is_that: impl Fn(u64, u64) -> bool) {
        self.rows.retain(|&sequence, done| is_that(sequence, done.hash));
    }

    /// Documents done.
    pub fn done(&self) -> usize {
        self.rows.len()
    }

    /// Adds documents durably.
    pub fn add(&mut self, done: Vec<JobRows>) -> Result<()> {
        let frames: Vec<_> =
            done.iter().map(|rows| (FrameType::Rows, rows.sequence, encode_job_rows(rows))).collect();
        self.log.append(&frames, Durability::Full)?;
        self.rows.extend(done.into_iter().map(|rows| (rows.sequence, rows)));
        Ok(())
    }

    /// Removes the job: its result was published.
    pub fn finish(self, vfs: &dyn Vfs) -> Result<()> {
        remove_dir_if_present(vfs, &self.path)
    }
}

fn file_path(job: &Path, number: u64) -> PathBuf {
    job.join(format!("rows.{number}"))
}

fn files(vfs: &dyn Vfs, job: &Path) -> Result<Vec<u64>> {
    let names = vfs.read_dir(job)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| n.strip_prefix("rows.")?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A damaged file of a job is only lost work: what cannot be read is embedded again.
fn read_rows(vfs: &dyn Vfs, path: &Path, rows: &mut HashMap<u64, JobRows>) -> Result<()> {
    let Ok(header) = read_header(vfs, path) else { return Ok(()) };
    let read = read_batches(vfs, path, &header, LOG_HEADER_LEN as u64, None, |batch| {
        let parsed =
            batch.iter().filter(|f| f.kind == FrameType::Rows).filter_map(|f| parse_job_rows(f.payload));
        rows.extend(parsed.map(|done| (done.sequence, done)));
        Ok(())
    });
    match read {
        Err(Error::Corrupt { .. }) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Removes jobs that nobody works on, except the one for `keep`. Only the holder of the writer's lock may.
pub fn clean(vfs: &dyn Vfs, dir: &Path, keep: Option<&str>) -> Result<()> {
    for name in vfs.read_dir(&dir.join(JOB_DIR))? {
        let path = dir.join(JOB_DIR).join(&name);
        if Some(name.as_str()) != keep && vfs.try_lock(&path.join(LOCK))?.is_some() {
            vfs.remove_dir_all(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimVfs;
    use super::*;

    /// A database's directory with a place for jobs.
    fn place() -> (SimVfs, &'static Path) {
        let (vfs, dir) = (SimVfs::new(1), Path::new("db"));
        vfs.create_dir(dir).unwrap();
        vfs.create_dir(&dir.join(JOB_DIR)).unwrap();
        (vfs, dir)
    }

    fn done(sequence: u64, hash: u64) -> JobRows {
        let rows = DocumentRows { generation: 2, dim: 1, spans: vec![[0, 3]], vectors: vec![hash as f32] };
        JobRows { sequence, hash, rows }
    }

    #[test]
    fn a_resumed_job_has_the_latest_rows_of_each_document_and_forgets_those_of_others() {
        let (vfs, dir) = place();
        let mut job = Job::open(&vfs, dir, "m", [1; 16]).unwrap();
        job.add(vec![done(1, 10), done(2, 20), done(3, 30)]).unwrap();
        drop(job);
        let mut job = Job::open(&vfs, dir, "m", [1; 16]).unwrap();
        job.retain(|sequence, hash| sequence != 3 && hash != 10);
        assert_eq!((job.done(), job.rows(2)), (1, Some(&done(2, 20).rows)));
        job.add(vec![done(1, 11)]).unwrap();
        drop(job);
        let job = Job::open(&vfs, dir, "m", [1; 16]).unwrap();
        assert_eq!(job.rows(1), Some(&done(1, 11).rows), "what was added last counts");
    }

    #[test]
    fn of_a_damaged_job_the_rest_counts() {
        let (vfs, dir) = place();
        let open = || Job::open(&vfs, dir, "m", [1; 16]).unwrap();
        open().add(vec![done(1, 10)]).unwrap();
        open().add(vec![done(2, 20)]).unwrap();
        let first = file_path(&dir.join(JOB_DIR).join("m"), 0);
        vfs.open_write(&first).unwrap().write_at(0, &[7; LOG_HEADER_LEN]).unwrap();
        let job = open();
        assert_eq!((job.rows(1), job.rows(2)), (None, Some(&done(2, 20).rows)));
    }

    #[test]
    fn a_job_that_somebody_works_on_or_that_is_to_be_kept_is_not_removed() {
        let (vfs, dir) = place();
        let worked_on = Job::open(&vfs, dir, "m1", [1; 16]).unwrap();
        drop(Job::open(&vfs, dir, "m2", [1; 16]).unwrap());
        drop(Job::open(&vfs, dir, "m3", [1; 16]).unwrap());
        let left = || vfs.read_dir(&dir.join(JOB_DIR)).unwrap();
        clean(&vfs, dir, Some("m2")).unwrap();
        assert_eq!(left(), ["m1", "m2"]);
        drop(worked_on);
        clean(&vfs, dir, None).unwrap();
        assert!(left().is_empty());
    }
}
