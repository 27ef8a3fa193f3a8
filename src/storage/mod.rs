//! Bytes on disk: the log, segments, manifests, models and feedback, all through the [`vfs`] trait.
//!
//! ```text
//! x.embdb/  LOCK  manifest/<n>  log/<n>  seg/<id>/{ids, docs, attrs, del.<n>, gen.<g>.<v>/{rows, codes, full, graph}}
//!           models/<model id>/  feedback/<n>  jobs/{<model id>, retrain}/
//! ```
//!
//! Rules that make the promises cheap: files are appended to (logs, feedback) or immutable (all else), never
//! changed or truncated (who resumes a log writes its unsynced end again, byte for byte); a file and the directories above it are synced before a manifest names it; a manifest is
//! the only commit point besides a COMMIT frame.

use std::path::{Path, PathBuf};

pub mod checkpoint;
pub mod container;
mod copy;
pub mod derived;
pub mod documents;
pub mod feedback;
pub mod job;
pub mod lock;
pub mod log;
pub mod manifests;
pub mod models;
pub mod paging;
pub mod pread;
pub mod real;
pub(crate) mod room;
pub mod salvage;
pub mod segment;
pub mod segment_file;
pub mod segment_writer;
pub mod sim;
pub mod vfs;
pub mod whole_file;

use crate::error::{Error, Result};
use vfs::Vfs;

/// Directory of manifests.
pub const MANIFEST_DIR: &str = "manifest";
/// Directory of logs.
pub const LOG_DIR: &str = "log";
/// Directory of segments.
pub const SEGMENT_DIR: &str = "seg";
/// Directory of encoders.
pub const MODEL_DIR: &str = "models";
/// Directory of feedback files.
pub const FEEDBACK_DIR: &str = "feedback";
/// Directory of unfinished re-indexing.
pub const JOB_DIR: &str = "jobs";

/// All directories of a database.
pub const DIRS: [&str; 6] = [MANIFEST_DIR, LOG_DIR, SEGMENT_DIR, MODEL_DIR, FEEDBACK_DIR, JOB_DIR];

/// What stands in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Nothing, an empty directory, or a creation that did not finish.
    Absent,
    /// A database.
    Database,
}

/// Tells a database from an empty place; anything else is refused.
pub fn presence(vfs: &dyn Vfs, dir: &Path) -> Result<Presence> {
    if !vfs.exists(dir)? {
        return Ok(Presence::Absent);
    }
    if !vfs.is_dir(dir)? {
        return Err(Error::NotADatabase(dir.to_path_buf()));
    }
    let names = vfs.read_dir(dir)?;
    let ours = |name: &String| DIRS.contains(&name.as_str()) || name.starts_with(lock::LOCK_FILE);
    if !names.is_empty() && !names.iter().any(ours) {
        return Err(Error::NotADatabase(dir.to_path_buf()));
    }
    if !manifests::numbers(vfs, dir)?.is_empty() {
        return Ok(Presence::Database);
    }
    // Documents are written only after the first manifest: any without one mean that manifests were lost.
    let segments = dir.join(SEGMENT_DIR);
    let mut lost = vfs.exists(&segments)? && !vfs.read_dir(&segments)?.is_empty();
    for number in numbered(vfs, &dir.join(LOG_DIR))? {
        let path = numbered_path(dir, LOG_DIR, number);
        lost |= vfs.file_len(&path)? > crate::format::frame::LOG_HEADER_LEN as u64;
    }
    if lost {
        return Err(Error::corrupt(dir.join(MANIFEST_DIR), 0, "no manifest, although there are documents"));
    }
    Ok(Presence::Absent)
}

/// Makes the directories of a database, durably. Harmless where they exist: who made them may have been killed
/// before their names were durable, so that is seen to again.
pub fn create_dirs(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let was_there = vfs.exists(dir)?;
    vfs.create_dir(dir)?;
    for sub in DIRS {
        vfs.create_dir(&dir.join(sub))?;
    }
    sync_names(vfs, dir)?;
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if was_there {
        // As in `sync_names`; but who made the database's directory for us may not let us write beside it.
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let passing = parent.join(format!(".{name}.{:016x}", vfs.random()));
        if vfs.create_dir(&passing).is_ok() {
            vfs.remove_dir_all(&passing)?;
        }
    }
    vfs.sync_dir(parent)
}

/// Makes the names in a folder durable, whoever made them. Where an earlier sync failed the system may hold them for
/// written, and a second one would find nothing to do; so a name comes and goes first, and the folder is written again.
pub fn sync_names(vfs: &dyn Vfs, folder: &Path) -> Result<()> {
    let passing = folder.join("new-name");
    vfs.create_dir(&passing)?;
    vfs.remove_dir_all(&passing)?;
    vfs.sync_dir(folder)
}

/// Writes a new file and syncs it; the caller syncs the directory. A left-over of the same name is removed first.
pub fn write_new(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) -> Result<()> {
    if vfs.exists(path)? {
        vfs.remove_file(path)?;
    }
    let mut file = vfs.create(path)?;
    file.write_at(0, bytes)?;
    file.sync()
}

/// Removes a directory if it is there.
pub fn remove_dir_if_present(vfs: &dyn Vfs, path: &Path) -> Result<()> {
    if vfs.exists(path)? { vfs.remove_dir_all(path) } else { Ok(()) }
}

/// Entries of `dir/sub` whose names are plain numbers, ascending.
pub(crate) fn numbered(vfs: &dyn Vfs, path: &Path) -> Result<Vec<u64>> {
    if !vfs.exists(path)? {
        return Ok(Vec::new());
    }
    let mut numbers: Vec<u64> = vfs.read_dir(path)?.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Path of a numbered file, zero-padded so that a listing is in order.
pub(crate) fn numbered_path(dir: &Path, sub: &str, number: u64) -> PathBuf {
    dir.join(sub).join(format!("{number:020}"))
}
