//! Looking at a database: counts, sizes, metadata keys; and a copy of it.

use std::path::Path;

use serde::Serialize;

use super::check::Problem;
use super::clean::bytes_under;
use super::filter::Filter;
use super::maintain::sealed;
use super::snapshot::Source;
use super::{Db, mask};
use crate::error::{Error, Result};
use crate::format::{MAJOR, MINOR};
use crate::options::Task;
use crate::storage::{self, FEEDBACK_DIR, LOG_DIR, MODEL_DIR, log::read_header};
use crate::types::Precision;

/// A count with notes for the user.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counted {
    /// The count.
    pub count: u64,
    /// Such as a key that no document has.
    pub notes: Vec<String>,
}

/// Bytes on disk by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Bytes {
    /// Logs.
    pub log: u64,
    /// Codes, f32 rows and chunk bounds.
    pub vectors: u64,
    /// Graphs.
    pub graphs: u64,
    /// Documents, ids, metadata, tombstones.
    pub documents: u64,
    /// Encoders.
    pub models: u64,
    /// Searches and clicks.
    pub feedback: u64,
}

/// What a database is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Info {
    /// Live documents.
    pub documents: u64,
    /// Deleted or replaced documents whose bytes are not given back yet.
    pub deleted: u64,
    /// Sealed segments.
    pub segments: usize,
    /// Active generation.
    pub generation: u32,
    /// Content hash of its encoder; null for plain vectors.
    pub model: Option<String>,
    /// Matryoshka ladder.
    pub dims: Vec<u32>,
    /// Stored forms of vectors.
    pub codec: &'static str,
    /// Precision of the encoder.
    pub precision: &'static str,
    /// Metric.
    pub metric: &'static str,
    /// Kind of index.
    pub index: &'static str,
    /// What builds graphs.
    pub builder: &'static str,
    /// Bytes on disk.
    pub bytes: Bytes,
    /// Version of the format.
    pub format: String,
    /// Files that were found damaged and that searches do without, as far as this handle has read; `check` reads all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Problem>,
}

impl Db {
    /// Number of documents for which the expression is true.
    pub fn count_where(&self, expression: &str) -> Result<Counted> {
        let filter = Filter::parse(expression)?;
        let snapshot = self.inner.snapshot();
        let mut count = 0;
        for part in &snapshot.parts {
            count += mask::allowed(part, Some(&filter))?.map_or(0, |m| m.len() as u64);
        }
        let notes = if count == 0 { mask::unknown_keys(&snapshot, &filter)? } else { Vec::new() };
        Ok(Counted { count, notes })
    }

    /// Deletes the documents for which the expression is true.
    pub fn delete_where(&self, expression: &str) -> Result<Counted> {
        let filter = Filter::parse(expression)?;
        let snapshot = self.inner.snapshot();
        let mut ids = Vec::new();
        for part in &snapshot.parts {
            for document in mask::allowed(part, Some(&filter))?.iter().flat_map(|m| m.iter()) {
                ids.push(part.id(document)?);
            }
        }
        let notes = if ids.is_empty() { mask::unknown_keys(&snapshot, &filter)? } else { Vec::new() };
        Ok(Counted { count: self.delete(&ids)?, notes })
    }

    /// Metadata keys of all documents, sorted.
    pub fn meta_keys(&self) -> Result<Vec<String>> {
        mask::keys(&self.inner.snapshot())
    }

    /// Arithmetic of its encoders.
    pub fn precision(&self) -> Precision {
        self.inner.snapshot().manifest.precision()
    }

    /// What the database is.
    pub fn info(&self) -> Result<Info> {
        let snapshot = self.inner.snapshot();
        let manifest = &snapshot.manifest;
        let generation = snapshot.generation();
        let segments = snapshot.parts.iter().filter(|p| matches!(p.source, Source::Sealed(_))).count();
        Ok(Info {
            documents: snapshot.count(),
            deleted: snapshot.parts.iter().map(|p| p.dead.len()).sum(),
            segments,
            generation: manifest.active_generation,
            model: generation.map(|g| g.model_id.clone()).filter(|m| !m.is_empty()),
            dims: generation.map(|g| g.ladder.clone()).unwrap_or_default(),
            codec: manifest.codec().name(),
            precision: manifest.precision().name(),
            metric: manifest.metric().name(),
            index: manifest.index().name(),
            builder: manifest.builder().name(),
            bytes: self.bytes()?,
            format: format!("{MAJOR}.{MINOR}"),
            damaged: sealed(&snapshot)
                .flat_map(|segment| segment.damages())
                .map(|damage| Problem::new(&self.inner.dir, damage.clone()))
                .collect(),
        })
    }

    fn bytes(&self) -> Result<Bytes> {
        let (vfs, dir) = (self.inner.vfs.as_ref(), &self.inner.dir);
        let mut bytes = Bytes {
            log: bytes_under(vfs, &dir.join(LOG_DIR))?,
            models: bytes_under(vfs, &dir.join(MODEL_DIR))?,
            feedback: bytes_under(vfs, &dir.join(FEEDBACK_DIR))?,
            ..Bytes::default()
        };
        for file in self.inner.snapshot().manifest.segments.iter().flat_map(|s| &s.files) {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            match name {
                "graph" => bytes.graphs += file.length,
                "codes" | "full" | "rows" => bytes.vectors += file.length,
                _ => bytes.documents += file.length,
            }
        }
        Ok(bytes)
    }

    /// Copies one consistent state to a new directory while others read and write; the copy is verified. Damaged files that
    /// follow from others are made anew first.
    pub fn backup(&self, dest: &Path, task: &Task) -> Result<()> {
        if !self.exists() {
            return Err(Error::input(format!("there is no database at {}", self.inner.dir.display())));
        }
        let vfs = self.inner.vfs.as_ref();
        if vfs.exists(dest)? && (!vfs.is_dir(dest)? || !vfs.read_dir(dest)?.is_empty()) {
            return Err(Error::input(format!(
                "{} exists already: back up into a new directory",
                dest.display()
            )));
        }
        // Whoever writes would remove or extend files under the copy: hold the lock, and let nothing be sealed.
        let _alone = self.inner.maintenance.alone();
        let _pin = super::turns::Pin::new(&self.inner, self.inner.options.busy_timeout)?;
        // The copy is to be sound, and what follows from other files can be made so.
        self.inner.heal(true, task)?;
        self.flush()?;
        let was_there = vfs.exists(dest)?;
        let copied = self.copy_to(dest, task);
        if copied.is_err() && vfs.exists(dest)? {
            // A part of a copy is of no use.
            vfs.remove_dir_all(dest)?;
            if was_there {
                vfs.create_dir(dest)?;
            }
        }
        copied
    }

    /// Copies what is committed into a new directory, and verifies the copy.
    fn copy_to(&self, dest: &Path, task: &Task) -> Result<()> {
        let vfs = self.inner.vfs.as_ref();
        storage::create_dirs(vfs, dest)?;
        let snapshot = self.inner.snapshot();
        let manifest = &snapshot.manifest;
        let logs: Vec<(String, u64)> = self
            .inner
            .state
            .lock()
            .logs
            .iter()
            .map(|l| {
                let name = l.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                (format!("{LOG_DIR}/{name}"), l.end)
            })
            .collect();
        let mut files: Vec<(String, Option<u64>)> =
            manifest.files().map(|f| (f.path.clone(), Some(f.length))).collect();
        files.extend(logs.into_iter().map(|(path, end)| (path, Some(end))));
        list_under(vfs, &self.inner.dir, MODEL_DIR, &mut files)?;
        list_under(vfs, &self.inner.dir, FEEDBACK_DIR, &mut files)?;
        files.sort();
        files.dedup_by(|a, b| a.0 == b.0);
        for (n, (path, length)) in files.iter().enumerate() {
            task.step("backup", n as u64, files.len() as u64)?;
            copy(vfs, &self.inner.dir, dest, path, *length)?;
        }
        storage::manifests::commit(vfs, dest, manifest)?;
        let report = super::check::check_in(&self.inner.vfs, dest, false, &task.quiet())?;
        match report.problems.first() {
            None => Ok(()),
            Some(problem) => Err(Error::corrupt(
                dest.join(&problem.file),
                problem.offset,
                format!("in the copy: {}", problem.what),
            )),
        }
    }
}

fn list_under(
    vfs: &dyn storage::vfs::Vfs,
    dir: &Path,
    sub: &str,
    out: &mut Vec<(String, Option<u64>)>,
) -> Result<()> {
    for name in vfs.read_dir(&dir.join(sub))? {
        let path = format!("{sub}/{name}");
        if vfs.is_dir(&dir.join(&path))? {
            list_under(vfs, dir, &path, out)?;
        } else {
            out.push((path, None));
        }
    }
    Ok(())
}

/// Copies up to `length` bytes of a file, in pieces, making the directories above it.
fn copy(vfs: &dyn storage::vfs::Vfs, from: &Path, to: &Path, path: &str, length: Option<u64>) -> Result<()> {
    const PIECE: usize = 8 << 20;
    let mut parent = to.to_path_buf();
    let parts: Vec<&str> = path.split('/').collect();
    for part in &parts[..parts.len() - 1] {
        parent.push(part);
        vfs.create_dir(&parent)?;
    }
    let length = length.map_or_else(|| vfs.file_len(&from.join(path)), Ok)?;
    let mut file = vfs.create(&to.join(path))?;
    let mut at = 0;
    while at < length {
        let piece = vfs.read_at(&from.join(path), at, PIECE.min((length - at) as usize))?;
        if piece.is_empty() {
            return Err(Error::corrupt(from.join(path), at, "the file is shorter than the manifest says"));
        }
        file.write_at(at, &piece)?;
        at += piece.len() as u64;
    }
    file.sync()?;
    if path.starts_with(LOG_DIR) {
        read_header(vfs, &to.join(path))?;
    }
    vfs.sync_dir(&parent)
}
