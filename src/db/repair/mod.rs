//! `repair`: a new database of all that can be read of a damaged one, and a list of all that cannot.
//!
//! Nothing is written to the damaged one. What the newest manifest names is read page by page and record by record;
//! bits that flipped are turned back where a checksum proves it ([`format::mend`](crate::format::mend)); vectors that
//! are lost are made anew from their text; graphs and columns follow from the rest. The new database appears in one
//! rename, when it is whole.

mod logs;
mod models;
mod plan;
mod report;
mod segment;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use report::{Lost, RepairReport};

use super::Db;
use super::write::StoredDocument;
use crate::error::{Error, Result};
use crate::format::manifest::{Generation, Manifest};
use crate::format::segment::DocumentRows;
use crate::options::{Durability, OpenOptions, Task};
use crate::storage::documents::StoredText;
use crate::storage::lock::{LOCK_FILE, lock_holder};
use crate::storage::real::RealVfs;
use crate::storage::vfs::Vfs;
use logs::Logs;
use plan::Plan;
use segment::Place;

/// Documents that are written at once.
const BATCH: usize = 256;
/// Bytes of text that are written at once.
const BATCH_BYTES: usize = 8 << 20;

/// Saves what can be read of the database at `path` into a new one at `out`, where nothing may be. `model` is a folder
/// that an encoder of the database came from, for one whose stored files are damaged.
///
/// # Errors
/// [`Error::Busy`] while someone writes to the database; [`Error::Corrupt`] if no manifest can be read, or no encoder
/// of the database and none is given; [`Error::TooNew`] for one of another version; then nothing is left at `out`.
pub fn repair_path(path: &Path, out: &Path, model: Option<&Path>, task: &Task) -> Result<RepairReport> {
    repair(&(Arc::new(RealVfs) as Arc<dyn Vfs>), path, out, model, task)
}

/// The same in another file system: what the crash tests do.
pub fn repair(
    vfs: &Arc<dyn Vfs>,
    path: &Path,
    out: &Path,
    model: Option<&Path>,
    task: &Task,
) -> Result<RepairReport> {
    let unfinished = check_places(vfs.as_ref(), path, out)?;
    let result = salvage(vfs, path, &unfinished, model, task).and_then(|report| {
        vfs.rename(&unfinished, out)?;
        vfs.sync_dir(parent(out))?;
        Ok(report)
    });
    if result.is_err() && vfs.exists(&unfinished)? {
        // It is of no use to anybody, and in the way of the next attempt.
        vfs.remove_dir_all(&unfinished)?;
    }
    result
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses places that will not do; returns where the new database is made.
fn check_places(vfs: &dyn Vfs, path: &Path, out: &Path) -> Result<PathBuf> {
    if !vfs.exists(path)? {
        return Err(Error::input(format!("no database at {}", path.display())));
    }
    if !vfs.is_dir(path)? {
        return Err(Error::NotADatabase(path.to_path_buf()));
    }
    if vfs.exists(out)? {
        return Err(Error::input(format!("{} exists already: repair into a new directory", out.display())));
    }
    if out.starts_with(path) {
        return Err(Error::input(format!("{} lies within the damaged database", out.display())));
    }
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    let unfinished = out.with_file_name(name);
    if vfs.exists(&unfinished)? {
        let what = "was left by a repair that was killed (or still runs): remove it first";
        return Err(Error::input(format!("{} {what}", unfinished.display())));
    }
    let lock = path.join(LOCK_FILE);
    if vfs.exists(&lock)? && vfs.is_locked(&lock).unwrap_or(false) {
        return Err(Error::Busy { pid: lock_holder(vfs, &lock) });
    }
    Ok(unfinished)
}

fn salvage(
    vfs: &Arc<dyn Vfs>,
    path: &Path,
    out: &Path,
    model: Option<&Path>,
    task: &Task,
) -> Result<RepairReport> {
    let mut report = RepairReport::default();
    let plan = Plan::make(vfs.as_ref(), path, &mut report)?;
    let place = Place { vfs: vfs.as_ref(), dir: path, database: plan.manifest.database };
    let logs = Logs::read(&place, plan.first_log(), plan.before(), &mut report)?;
    let manifest = plan.create(&place, out, model, &mut report)?;
    let options = OpenOptions { background: false, durability: Durability::Bulk, ..OpenOptions::default() };
    let db = Db::open_vfs(Arc::clone(vfs), out, options)?;
    let mut sink = Sink::new(&db, &manifest, task)?;
    plan.segments(&place, &logs, &mut sink, &mut report)?;
    let mut logged: Vec<_> = logs.last.into_iter().collect();
    logged.sort_by_key(|(_, last)| last.sequence);
    for (id, last) in logged {
        if let Some((text, rows)) = last.document {
            sink.push(id, text, Some(rows), &mut report)?;
        }
    }
    sink.write(&mut report)?;
    drop(sink);
    db.compact(task)?;
    for lost in &mut report.lost {
        lost.earlier_kept = match &lost.id {
            Some(id) => db.inner.snapshot().find(id)?.is_some(),
            None => false,
        };
    }
    report.documents = db.count()?;
    report.events = db.log_events()?.len() as u64;
    db.close()?;
    Ok(report)
}

/// Writes documents into the new database.
struct Sink<'a> {
    db: &'a Db,
    generation: Generation,
    task: &'a Task,
    pending: Vec<(String, StoredText, Option<DocumentRows>)>,
    bytes: usize,
    done: u64,
}

impl<'a> Sink<'a> {
    fn new(db: &'a Db, manifest: &Manifest, task: &'a Task) -> Result<Self> {
        let generation = manifest.active().cloned();
        let generation =
            generation.ok_or_else(|| Error::corrupt("manifest", 0, "no generation is active"))?;
        Ok(Self { db, generation, task, pending: Vec::new(), bytes: 0, done: 0 })
    }

    /// Takes a document; rows of another shape or generation count for none.
    fn push(
        &mut self,
        id: String,
        text: StoredText,
        rows: Option<DocumentRows>,
        report: &mut RepairReport,
    ) -> Result<()> {
        let Generation { id: generation, dim, .. } = self.generation;
        let fits = |rows: &DocumentRows| rows.generation == generation && rows.dim == dim;
        self.bytes += text.text.len() + 4 * rows.as_ref().map_or(0, |rows| rows.vectors.len());
        self.pending.push((id, text, rows.filter(fits)));
        if self.pending.len() >= BATCH || self.bytes >= BATCH_BYTES { self.write(report) } else { Ok(()) }
    }

    fn write(&mut self, report: &mut RepairReport) -> Result<()> {
        self.bytes = 0;
        self.done += self.pending.len() as u64;
        self.task.step("repair", self.done, 0)?;
        let pending = std::mem::take(&mut self.pending);
        let (whole, without): (Vec<_>, Vec<_>) = pending.into_iter().partition(|(_, _, rows)| rows.is_some());
        let mut documents: Vec<StoredDocument> = whole
            .into_iter()
            .filter_map(|(id, text, rows)| Some(StoredDocument { id, text, rows: rows? }))
            .collect();
        if self.generation.model_id.is_empty() {
            for (id, ..) in &without {
                report.lose(Path::new(""), Some(id), 1, &Error::corrupt("seg", 0, "its vector is lost"));
            }
        } else if !without.is_empty() {
            let texts: Vec<_> = without.into_iter().map(|(id, text, _)| (id, text)).collect();
            report.embedded += texts.len() as u64;
            documents.extend(self.db.inner.embedded(texts, &self.generation, self.task)?);
        }
        self.db.commit(super::write::Batch::of_stored(documents, &self.generation.model_id)).map(|_| ())
    }
}
