//! Append-only files of frames: the log of the database and, with the same bytes, feedback and job files.
//!
//! A log is never truncated. After a torn tail or a failed write the writer goes on in the next log, whose header
//! says where the committed part of the one before it ends.

use std::path::{Path, PathBuf};

use super::room::reserve;
use super::sync_names;
use super::vfs::{Vfs, WriteFile};
use crate::error::{Error, Result};
use crate::format::frame::{BatchBuilder, Frame, FrameType, LOG_HEADER_LEN, LogHeader};
use crate::format::scan::{PIECE, Pieces, Scan, scan_pieces};
use crate::options::Durability;

/// Appends batches to one file.
pub struct LogWriter {
    file: Box<dyn WriteFile>,
    path: PathBuf,
    header: LogHeader,
    end: u64,
    synced_to: u64,
    /// Batches were appended since the last sync.
    dirty: bool,
    /// All is on the disk, and the file does not say so yet.
    unmarked: bool,
    /// A write failed: what stands after `end` is unknown, so this file is given up.
    broken: bool,
    /// A sync failed: what the system says about this file can no longer be trusted.
    poisoned: Option<String>,
}

impl LogWriter {
    /// A new file, durable with its name when this returns.
    pub fn create(vfs: &dyn Vfs, path: &Path, header: LogHeader) -> Result<Self> {
        let mut file = vfs.create(path)?;
        file.write_at(0, &header.encode())?;
        file.sync()?;
        if let Some(parent) = path.parent() {
            vfs.sync_dir(parent)?;
        }
        Ok(Self::at(file, path, header, LOG_HEADER_LEN as u64))
    }

    /// Goes on in a file whose batches end at `end`, and brings it and its name to the disk, so that all of it can
    /// be built upon. What lies beyond `synced` is written again: after a failed sync the system may hold bytes
    /// that it believes to be on the disk and that are not.
    pub fn resume(vfs: &dyn Vfs, path: &Path, header: LogHeader, synced: u64, end: u64) -> Result<Self> {
        let mut file = vfs.open_write(path)?;
        let mut at = synced;
        while at < end {
            let bytes = vfs.read_at(path, at, (end - at).min(PIECE as u64) as usize)?;
            if bytes.is_empty() {
                return Err(Error::corrupt(path, at, "the log became shorter while it was opened"));
            }
            file.write_at(at, &bytes)?;
            at += bytes.len() as u64;
        }
        file.sync()?;
        if let Some(parent) = path.parent() {
            sync_names(vfs, parent)?;
        }
        Ok(Self::at(file, path, header, end))
    }

    fn at(file: Box<dyn WriteFile>, path: &Path, header: LogHeader, end: u64) -> Self {
        Self {
            file,
            path: path.into(),
            header,
            end,
            synced_to: end,
            dirty: false,
            unmarked: false,
            broken: false,
            poisoned: None,
        }
    }

    /// Number in the header.
    pub fn number(&self) -> u64 {
        self.header.number
    }

    /// End of the last acknowledged batch.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether this file must be given up for a new one.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Appends one batch and, at durability `Full`, waits until it is on the disk. On an error nothing of the
    /// batch will ever be visible.
    pub fn append(&mut self, frames: &[(FrameType, u64, Vec<u8>)], durability: Durability) -> Result<()> {
        self.check()?;
        let bytes = frames.iter().map(|f| f.2.len() + 64).sum::<usize>() + 64;
        let mut batch = BatchBuilder::with_capacity(self.end, self.header.salt, bytes);
        for (kind, sequence, payload) in frames {
            batch.push(*kind, *sequence, payload)?;
        }
        let last = frames.last().map_or(0, |f| f.1);
        let bytes = batch.commit(last, self.synced_to)?;
        if let Err(error) = self.file.write_at(self.end, &bytes) {
            self.broken = true;
            return Err(error);
        }
        let end = self.end + bytes.len() as u64;
        if durability == Durability::Full {
            self.sync_file()?;
        }
        self.end = end;
        self.dirty = durability != Durability::Full;
        self.unmarked = !self.dirty;
        if !self.dirty {
            self.synced_to = end;
        }
        Ok(())
    }

    /// Brings all appended batches to the disk, and notes that in the file. Batches that were synced one by one leave
    /// the note to this, so that each costs one write and one sync.
    pub fn sync(&mut self) -> Result<()> {
        self.check()?;
        if self.dirty {
            self.sync_file()?;
            (self.synced_to, self.dirty, self.unmarked) = (self.end, false, true);
        }
        if std::mem::take(&mut self.unmarked) && !self.broken {
            self.mark_synced();
        }
        Ok(())
    }

    /// Brings every byte to the disk, marks included, and says where they end: what the header of the next log
    /// says must never be more than what a power cut leaves.
    pub fn finish(&mut self) -> Result<u64> {
        self.check()?;
        if self.synced_to < self.end {
            self.sync_file()?;
            (self.synced_to, self.dirty) = (self.end, false);
        }
        Ok(self.end)
    }

    fn sync_file(&mut self) -> Result<()> {
        self.file.sync().inspect_err(|error| self.poisoned = Some(error.to_string()))
    }

    /// Notes that all is on the disk, so that later damage is told from a torn tail. Failing costs only that.
    fn mark_synced(&mut self) {
        let mut mark = BatchBuilder::new(self.end, self.header.salt);
        if mark.push(FrameType::Synced, 0, &self.synced_to.to_le_bytes()).is_err() {
            return;
        }
        let bytes = mark.into_bytes();
        match self.file.write_at(self.end, &bytes) {
            Ok(()) => self.end += bytes.len() as u64,
            Err(_) => self.broken = true,
        }
    }

    /// Fails if a sync has failed: then nothing more may be promised.
    pub fn check(&self) -> Result<()> {
        match &self.poisoned {
            Some(what) => Err(Error::Poisoned { path: self.path.clone(), what: what.clone() }),
            None => Ok(()),
        }
    }
}

/// Reads the header of a log.
pub fn read_header(vfs: &dyn Vfs, path: &Path) -> Result<LogHeader> {
    LogHeader::parse(&vfs.read_at(path, 0, LOG_HEADER_LEN)?, path)
}

/// A log as its reader sees it.
struct InFile<'a> {
    vfs: &'a dyn Vfs,
    path: &'a Path,
}

impl Pieces for InFile<'_> {
    fn read(&mut self, offset: u64, max: usize, into: &mut Vec<u8>) -> Result<()> {
        let bytes = self.vfs.read_at(self.path, offset, max)?;
        reserve(into, bytes.len()).map_err(Error::io("read", self.path))?;
        into.extend_from_slice(&bytes);
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> Result<u64> {
        self.vfs.next_data(self.path, offset)
    }
}

/// Reads whole batches from offset `from` up to `to` (or the end of the file) and hands each to `apply`.
/// Returns where the last whole batch ends, what follows it, and how far all is known to be on the disk.
pub fn read_batches(
    vfs: &dyn Vfs,
    path: &Path,
    header: &LogHeader,
    from: u64,
    to: Option<u64>,
    apply: impl FnMut(&[Frame<'_>]) -> Result<()>,
) -> Result<Scan> {
    let length = vfs.file_len(path)?;
    let until = to.unwrap_or(length);
    if until > length {
        return Err(Error::corrupt(
            path,
            length,
            format!("the log is cut off: its committed part ends at {until}"),
        ));
    }
    let scan = scan_pieces(&mut InFile { vfs, path }, from..until.max(from), header.salt, path, apply)?;
    if to.is_some() && scan.end != until {
        return Err(Error::corrupt(path, scan.end, format!("damaged before its committed end {until}")));
    }
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use super::super::real::RealVfs;
    use super::super::sim::{Fault, FaultError, OpKind, SimVfs};
    use super::*;
    use crate::format::scan::Tail;

    const HEADER: LogHeader = LogHeader { number: 1, salt: 99, previous_end: 0, database: [1; 16] };

    fn batches(vfs: &SimVfs, path: &Path) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        read_batches(vfs, path, &HEADER, LOG_HEADER_LEN as u64, None, |batch| {
            found.extend(batch.iter().map(|f| f.payload.to_vec()));
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn a_log_that_became_shorter_is_not_written_on() {
        let vfs = SimVfs::new(1);
        let path = Path::new("log1");
        let mut writer = LogWriter::create(&vfs, path, HEADER).unwrap();
        writer.append(&[(FrameType::Delete, 1, vec![1; 5])], Durability::Full).unwrap();
        let end = writer.end();
        drop(writer);
        let error = LogWriter::resume(&vfs, path, HEADER, end, end + 8).err().unwrap();
        assert!(error.exit_code() == 2 && error.to_string().contains("shorter"), "{error}");
        assert_eq!(batches(&vfs, path), [vec![1; 5]]);
    }

    #[test]
    fn what_was_appended_is_read_and_can_be_resumed() {
        let vfs = SimVfs::new(1);
        let path = Path::new("log1");
        let mut writer = LogWriter::create(&vfs, path, HEADER).unwrap();
        for (i, durability) in [Durability::Full, Durability::Bulk, Durability::Full].into_iter().enumerate()
        {
            writer.append(&[(FrameType::Delete, i as u64, vec![i as u8; 5])], durability).unwrap();
        }
        let end = writer.end();
        drop(writer);
        let mut writer = LogWriter::resume(&vfs, path, HEADER, 0, end).unwrap();
        writer.append(&[(FrameType::Delete, 9, vec![9])], Durability::Full).unwrap();
        assert_eq!(batches(&vfs, path), [vec![0; 5], vec![1; 5], vec![2; 5], vec![9]]);
        assert_eq!(read_header(&vfs, path).unwrap(), HEADER);
    }

    /// Half a batch may lie behind its end: who writes on does so in another log.
    #[test]
    fn a_log_is_given_up_after_a_failed_write() {
        let vfs = SimVfs::new(1);
        let path = Path::new("log1");
        let mut writer = LogWriter::create(&vfs, path, HEADER).unwrap();
        let append = |writer: &mut LogWriter, n: u64| {
            writer.append(&[(FrameType::Delete, n, vec![n as u8; 50])], Durability::Bulk)
        };
        append(&mut writer, 1).unwrap();
        assert!(!writer.is_broken());
        vfs.inject(Fault { op_kind: OpKind::Write, nth: 0, error: FaultError::ShortWrite, sticky: false });
        assert_eq!(append(&mut writer, 2).unwrap_err().exit_code(), 4);
        assert!(writer.is_broken());
        assert_eq!(batches(&vfs, path), [vec![1; 50]]);
    }

    /// The next log says where this one ends: nothing less is taken for all of it.
    #[test]
    fn a_log_that_ends_before_its_known_end_is_damaged() {
        let vfs = SimVfs::new(1);
        let path = Path::new("log1");
        let mut writer = LogWriter::create(&vfs, path, HEADER).unwrap();
        let mut ends = Vec::new();
        for n in 0..3u64 {
            writer.append(&[(FrameType::Delete, n, vec![n as u8; 5])], Durability::Bulk).unwrap();
            ends.push(writer.end());
        }
        let read = |to| read_batches(&vfs, path, &HEADER, LOG_HEADER_LEN as u64, Some(to), |_| Ok(()));
        assert_eq!(read(ends[1]).unwrap().end, ends[1]);
        let longer = read(ends[2] + 8).unwrap_err();
        assert!(longer.exit_code() == 2 && longer.to_string().contains("cut off"), "{longer}");
        let within = read(ends[2] - 8).unwrap_err();
        assert!(
            within.exit_code() == 2 && within.to_string().contains("before its committed end"),
            "{within}"
        );
    }

    /// Zeros behind the last batch are a torn tail, however many: what was acknowledged is there, and neither the time
    /// nor the memory of reading it depends on the length.
    #[test]
    fn a_log_that_was_extended_by_a_hole_reads_like_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = LogWriter::create(&RealVfs, &path, HEADER).unwrap();
        writer.append(&[(FrameType::Delete, 1, vec![7; 5])], Durability::Full).unwrap();
        writer.sync().unwrap();
        let end = writer.end();
        drop(writer);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10 << 30).unwrap();
        let start = std::time::Instant::now();
        let mut found = Vec::new();
        let scan = read_batches(&RealVfs, &path, &HEADER, LOG_HEADER_LEN as u64, None, |batch| {
            found.extend(batch.iter().map(|f| f.payload.to_vec()));
            Ok(())
        });
        let scan = scan.unwrap();
        assert_eq!((scan.end, scan.tail), (end, Tail::Torn));
        assert_eq!(found, [vec![7; 5]]);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        // The same with its successor's word for where it ends.
        let known = read_batches(&RealVfs, &path, &HEADER, LOG_HEADER_LEN as u64, Some(end), |_| Ok(()));
        assert_eq!(known.unwrap().tail, Tail::Clean);
    }
}
