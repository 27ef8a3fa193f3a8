//! Unfinished re-indexing: `jobs/<model id>/rows.<n>` holds the rows of documents that were re-embedded already,
//! keyed by the document's sequence number, so that a stop costs one batch and merges in between cost nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::log::{LogWriter, read_batches, read_header};
use super::vfs::{Lock, Vfs};
use super::{JOB_DIR, remove_dir_if_present};
use crate::error::{Error, Result};
use crate::format::file::DatabaseId;
use crate::format::frame::{FrameType, LOG_HEADER_LEN, LogHeader};
use crate::format::segment::{DocumentRows, encode_job_rows, parse_job_rows};
use crate::options::Durability;

/// The lock in a job's directory.
const LOCK: &str = "LOCK";

/// A job that this process works on.
pub struct Job {
    path: PathBuf,
    log: LogWriter,
    rows: HashMap<u64, DocumentRows>,
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

    /// The rows of a document, if it was done.
    pub fn rows(&self, sequence: u64) -> Option<&DocumentRows> {
        self.rows.get(&sequence)
    }

    /// Documents done.
    pub fn done(&self) -> usize {
        self.rows.len()
    }

    /// Adds documents durably.
    pub fn add(&mut self, done: Vec<(u64, DocumentRows)>) -> Result<()> {
        let frames: Vec<_> = done
            .iter()
            .map(|(sequence, rows)| (FrameType::Rows, *sequence, encode_job_rows(*sequence, rows)))
            .collect();
        self.log.append(&frames, Durability::Full)?;
        self.rows.extend(done);
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
fn read_rows(vfs: &dyn Vfs, path: &Path, rows: &mut HashMap<u64, DocumentRows>) -> Result<()> {
    let Ok(header) = read_header(vfs, path) else { return Ok(()) };
    let read = read_batches(vfs, path, &header, LOG_HEADER_LEN as u64, None, |batch| {
        rows.extend(batch.iter().filter_map(|frame| parse_job_rows(frame.payload)));
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
