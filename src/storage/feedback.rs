//! Feedback files: what people searched and clicked, appended by any process at any time.
//!
//! Each process appends to a file of its own, which it keeps locked while it lives; so nobody ever waits for the
//! writer's lock. The next writer merges the files whose owners are gone into one immutable file that the manifest
//! names. Events carry unique ids: a file that is seen both merged and unmerged counts once.

use std::path::{Path, PathBuf};

use super::FEEDBACK_DIR;
use super::log::{LogWriter, read_batches, read_header};
use super::segment_file::SegmentFile;
use super::segment_writer::Target;
use super::vfs::{Lock, Vfs};
use crate::error::{Error, Result};
use crate::format::file::{DatabaseId, FileBuilder, Kind};
use crate::format::frame::{FrameType, LOG_HEADER_LEN, LogHeader};
use crate::format::manifest::FileEntry;
use crate::options::Durability;

/// Section of a merged file: events as JSON, one a line, each after `Q` or `C`.
pub const EVENTS: u32 = 1;
/// Prefix of merged files.
const MERGED: &str = "merged-";
/// How often a file name is tried.
const TRIES: usize = 8;

/// One event as stored: its type and its JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEvent {
    /// `Query` or `Click`.
    pub kind: FrameType,
    /// JSON text.
    pub json: Vec<u8>,
}

/// This process's feedback file.
pub struct FeedbackWriter {
    log: LogWriter,
    sequence: u64,
    _lock: Box<dyn Lock>,
}

impl FeedbackWriter {
    /// Opens a new feedback file.
    pub fn create(vfs: &dyn Vfs, dir: &Path, database: DatabaseId) -> Result<Self> {
        let header = LogHeader { number: 0, salt: vfs.random(), previous_end: 0, database };
        for _ in 0..TRIES {
            let name = format!("{:013}-{:016x}", vfs.now_ms(), vfs.random());
            let path = dir.join(FEEDBACK_DIR).join(name);
            let log = LogWriter::create(vfs, &path, header)?;
            // Between creation and lock a merging writer may have taken the file for an orphan.
            let Some(lock) = vfs.try_lock(&path)? else { continue };
            if vfs.exists(&path)? {
                return Ok(Self { log, sequence: 0, _lock: lock });
            }
        }
        Err(Error::input("no feedback file could be opened: a writer merges them again and again"))
    }

    /// Appends events as one batch.
    pub fn append(&mut self, events: &[RawEvent], durability: Durability) -> Result<()> {
        let frames: Vec<_> = events
            .iter()
            .map(|event| {
                self.sequence += 1;
                (event.kind, self.sequence, event.json.clone())
            })
            .collect();
        self.log.append(&frames, durability)
    }

    /// Whether an earlier write failed, so that a new file is needed.
    pub fn is_broken(&self) -> bool {
        self.log.is_broken()
    }

    /// Brings all to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.log.sync()
    }
}

/// Feedback files that are not merged yet, oldest first.
pub fn unmerged(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<PathBuf>> {
    let folder = dir.join(FEEDBACK_DIR);
    if !vfs.exists(&folder)? {
        return Ok(Vec::new());
    }
    let names = vfs.read_dir(&folder)?;
    Ok(names.iter().filter(|n| !n.starts_with(MERGED)).map(|n| folder.join(n)).collect())
}

/// The events of an unmerged file; none if it has vanished or its header never became whole.
pub fn read_unmerged(vfs: &dyn Vfs, path: &Path, database: &DatabaseId) -> Result<Vec<RawEvent>> {
    let mut events = Vec::new();
    let mut collect = || -> Result<()> {
        let header = match read_header(vfs, path) {
            Ok(header) => header,
            // Its header is synced before the first event follows: a broken header alone was never in use.
            Err(Error::Corrupt { .. }) if vfs.file_len(path)? <= LOG_HEADER_LEN as u64 => return Ok(()),
            Err(error) => return Err(error),
        };
        if header.database != *database {
            return Err(Error::corrupt(path, 0, "the feedback of another database"));
        }
        read_batches(vfs, path, &header, LOG_HEADER_LEN as u64, None, |batch| {
            events.extend(batch.iter().map(|f| RawEvent { kind: f.kind, json: f.payload.to_vec() }));
            Ok(())
        })?;
        Ok(())
    };
    match collect() {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(events),
    }
}

/// The events of a merged file.
pub fn read_merged(
    vfs: &dyn Vfs,
    dir: &Path,
    entry: &FileEntry,
    database: &DatabaseId,
) -> Result<Vec<RawEvent>> {
    let file = SegmentFile::open(vfs, dir, entry, Kind::Feedback, database)?;
    let bytes: &[u8] = file.section(EVENTS)?;
    let mut events = Vec::new();
    for line in bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        let (kind, json) = match line.split_first() {
            Some((b'Q', json)) => (FrameType::Query, json),
            Some((b'C', json)) => (FrameType::Click, json),
            _ => return Err(file.corrupt(EVENTS, "an event of unknown type")),
        };
        events.push(RawEvent { kind, json: json.to_vec() });
    }
    Ok(events)
}

/// Files taken over from processes that are gone; removed by [`TakenOver::remove`] once a manifest names the merged file.
pub struct TakenOver {
    files: Vec<(PathBuf, Box<dyn Lock>)>,
    /// Their events.
    pub events: Vec<RawEvent>,
}

/// Takes over the unmerged files that nobody holds. Only the holder of the writer's lock may.
pub fn take_over(vfs: &dyn Vfs, dir: &Path, database: &DatabaseId) -> Result<TakenOver> {
    let mut taken = TakenOver { files: Vec::new(), events: Vec::new() };
    for path in unmerged(vfs, dir)? {
        if let Some(lock) = vfs.try_lock(&path)? {
            taken.events.extend(read_unmerged(vfs, &path, database)?);
            taken.files.push((path, lock));
        }
    }
    Ok(taken)
}

impl TakenOver {
    /// Whether there is anything to merge.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Removes the files.
    pub fn remove(self, vfs: &dyn Vfs) -> Result<()> {
        for (path, _lock) in self.files {
            vfs.remove_file(&path)?;
        }
        Ok(())
    }
}

/// Writes a merged file.
pub fn write_merged(target: &Target<'_>, number: u64, events: &[RawEvent]) -> Result<FileEntry> {
    let mut bytes = Vec::new();
    for event in events {
        bytes.push(if event.kind == FrameType::Query { b'Q' } else { b'C' });
        bytes.extend_from_slice(&event.json);
        bytes.push(b'\n');
    }
    let file = FileBuilder::new(Kind::Feedback, target.database).section(EVENTS, bytes).finish();
    let entry = target.write(format!("{FEEDBACK_DIR}/{MERGED}{number:020}"), file)?;
    target.vfs.sync_dir(&target.dir.join(FEEDBACK_DIR))?;
    Ok(entry)
}

/// Removes merged files that the manifest no longer names. Only the holder of the writer's lock may.
pub fn clean(vfs: &dyn Vfs, dir: &Path, keep: &[FileEntry]) -> Result<()> {
    for name in vfs.read_dir(&dir.join(FEEDBACK_DIR))? {
        let path = format!("{FEEDBACK_DIR}/{name}");
        if name.starts_with(MERGED) && !keep.iter().any(|f| f.path == path) {
            vfs.remove_file(&dir.join(path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimVfs;
    use super::*;

    #[test]
    fn a_file_that_vanished_has_no_events_and_one_of_another_database_is_refused() {
        let (vfs, dir, database) = (SimVfs::new(1), Path::new("db"), [1; 16]);
        super::super::create_dirs(&vfs, dir).unwrap();
        let event = RawEvent { kind: FrameType::Query, json: b"{}".to_vec() };
        let mut writer = FeedbackWriter::create(&vfs, dir, database).unwrap();
        writer.append(std::slice::from_ref(&event), Durability::Full).unwrap();
        let [path] = unmerged(&vfs, dir).unwrap().try_into().unwrap();
        assert_eq!(read_unmerged(&vfs, &path, &database).unwrap(), [event]);
        assert_eq!(read_unmerged(&vfs, &path, &[2; 16]).unwrap_err().exit_code(), 2);
        drop(writer);
        vfs.remove_file(&path).unwrap();
        assert!(read_unmerged(&vfs, &path, &database).unwrap().is_empty());
    }
}
