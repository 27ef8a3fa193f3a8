//! The state of an open database, from its files: the manifest, its segments, and the logs replayed over them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::active::{Active, ActiveDocument};
use super::columns::Shape;
use super::snapshot::{Part, Snapshot, Source, shape};
use crate::error::{Error, Result};
use crate::format::frame::{Frame, FrameType, LOG_HEADER_LEN, LogHeader};
use crate::format::manifest::Manifest;
use crate::format::scan::Tail;
use crate::format::segment::{DocumentRows, parse_upsert};
use crate::storage::documents::StoredText;
use crate::storage::log::{read_batches, read_header};
use crate::storage::segment::Segment;
use crate::storage::vfs::Vfs;
use crate::storage::{LOG_DIR, manifests, numbered, numbered_path};

/// How often loading is tried again when files vanish under it (a writer published and cleaned up).
const RETRIES: usize = 20;

/// A change of one document.
pub(crate) enum Change {
    /// It is new, or replaces the one with its id.
    Upsert(Box<ActiveDocument>, DocumentRows),
    /// It is deleted.
    Delete(String),
}

/// A live log and how far it was read.
#[derive(Debug, Clone)]
pub(crate) struct LogPosition {
    /// Its file.
    pub path: PathBuf,
    /// Its header.
    pub header: LogHeader,
    /// End of what was applied.
    pub end: u64,
    /// What follows.
    pub tail: Tail,
    /// Everything before this offset is known to be on the disk.
    pub synced: u64,
}

/// What is known of the database; changes only under a mutex.
pub(crate) struct State {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// Sealed segments and logs.
    pub parts: Vec<Part>,
    /// Live logs, ascending; each has an active part.
    pub logs: Vec<LogPosition>,
    /// Highest sequence number seen.
    pub sequence: u64,
    /// Live documents in active parts: part number and document.
    ids: HashMap<String, (usize, u32)>,
    /// A part of what was added to the logs may be applied, and not the rest: only loading again helps.
    torn: bool,
}

/// A live document.
pub(crate) struct StoredDocument<'a> {
    part: &'a Part,
    document: u32,
}

impl StoredDocument<'_> {
    /// Whether it came with this sequence number and holds this text. The number alone says so once a document is
    /// sealed; of a batch that a failed write made void, the next one gets the numbers again.
    pub fn is(&self, sequence: u64, text: &StoredText) -> Result<bool> {
        if self.part.sequence(self.document)? != sequence {
            return Ok(false);
        }
        match &self.part.source {
            Source::Sealed(_) => Ok(true),
            Source::Active(_, active) => Ok(active.document(self.document).is_some_and(|d| d.text == *text)),
        }
    }
}

impl State {
    /// The state of a directory in which nothing is committed.
    pub fn empty() -> Self {
        let manifest = Manifest {
            number: 0,
            database: [0; 16],
            metric: 0,
            codec: 0,
            precision: 0,
            index: 0,
            asked_ladder: Vec::new(),
            active_generation: 0,
            next_generation: 1,
            next_segment: 1,
            first_log: 1,
            sequence: 0,
            generations: Vec::new(),
            segments: Vec::new(),
            models: Vec::new(),
            feedback: Vec::new(),
        };
        Self {
            manifest: Arc::new(manifest),
            parts: Vec::new(),
            logs: Vec::new(),
            sequence: 0,
            ids: HashMap::new(),
            torn: false,
        }
    }

    /// Loads the newest state; segments that `before` has open are used again. `None` if nothing is committed.
    pub fn load(vfs: &dyn Vfs, dir: &Path, before: Option<&Self>) -> Result<Option<Self>> {
        let mut last_error = None;
        for _ in 0..RETRIES {
            let manifest = match manifests::newest(vfs, dir) {
                Ok(Some(manifest)) => manifest,
                Ok(None) => return Ok(None),
                // It was the newest when it was listed, and is too old to be kept now.
                Err(error) if error.is_not_found() => {
                    last_error = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let number = manifest.number;
            match Self::from_manifest(vfs, dir, manifest, before) {
                Ok(state) => return Ok(Some(state)),
                Err(error) if manifests::numbers(vfs, dir)?.last() == Some(&number) => {
                    return Err(if error.is_not_found() { missing(error) } else { error });
                }
                // Meanwhile a writer removed files that an older manifest names, or wrote on with another generation.
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| Error::input("the database changes faster than it can be read")))
    }

    fn from_manifest(vfs: &dyn Vfs, dir: &Path, manifest: Manifest, before: Option<&Self>) -> Result<Self> {
        let mut state = Self::empty();
        state.sequence = manifest.sequence;
        for entry in &manifest.segments {
            let open = before
                .and_then(|b| b.segment(entry.id))
                .filter(|s| s.entry == *entry && s.damages().next().is_none());
            let segment = match open {
                Some(segment) => Arc::clone(segment),
                None => Arc::new(Segment::open(vfs, dir, entry, &manifest.database)?),
            };
            let dead = segment.tombstones(vfs, dir, &manifest.database)?;
            state.parts.push(Part { source: Source::Sealed(segment), dead: Arc::new(dead) });
        }
        state.manifest = Arc::new(manifest);
        state.replay(vfs, dir)?;
        Ok(state)
    }

    fn segment(&self, id: u64) -> Option<&Arc<Segment>> {
        self.parts.iter().find_map(|part| match &part.source {
            Source::Sealed(segment) if segment.entry.id == id => Some(segment),
            _ => None,
        })
    }

    /// Reads the logs from the manifest's first one on: each as far as its successor says, and the last one up to where
    /// it ends now.
    fn replay(&mut self, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
        let database = self.manifest.database;
        let mut next = open_log(vfs, dir, self.manifest.first_log, &database)?;
        while let Some(position) = next {
            next = open_log(vfs, dir, position.header.number + 1, &database)?;
            self.add_log(position);
            match &next {
                Some(next) => self.finish_log(vfs, next.header.previous_end)?,
                None => self.tail(vfs)?,
            }
        }
        if self.logs.is_empty() {
            let path = numbered_path(dir, LOG_DIR, self.manifest.first_log);
            return Err(Error::Io {
                op: "open",
                path,
                source: std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    "the log that the manifest names is missing",
                ),
            });
        }
        Ok(())
    }

    /// Applies what was appended to the last log since it was read.
    fn tail(&mut self, vfs: &dyn Vfs) -> Result<()> {
        let Some(position) = self.logs.last().cloned() else { return Ok(()) };
        let scan = read_batches(vfs, &position.path, &position.header, position.end, None, |batch| {
            self.apply(changes(batch, &position.path)?)
        })?;
        if let Some(last) = self.logs.last_mut() {
            last.end = scan.end;
            last.tail = scan.tail;
            last.synced = last.synced.max(scan.synced);
        }
        Ok(())
    }

    /// Reads the rest of the last log, whose successor says where it ends. What lies behind is not looked at.
    fn finish_log(&mut self, vfs: &dyn Vfs, end: u64) -> Result<()> {
        let Some(position) = self.logs.last().cloned() else { return Ok(()) };
        read_batches(vfs, &position.path, &position.header, position.end, Some(end), |batch| {
            self.apply(changes(batch, &position.path)?)
        })?;
        if let Some(last) = self.logs.last_mut() {
            last.end = end;
            last.tail = Tail::Clean;
        }
        Ok(())
    }

    /// Sees what other processes committed. Returns whether anything changed.
    pub fn refresh(&mut self, vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
        let newest = manifests::numbers(vfs, dir)?.last().copied().unwrap_or_default();
        if newest == 0 && self.manifest.number == 0 {
            return Ok(false);
        }
        let before = (self.logs.len(), self.logs.last().map(|l| l.end));
        if newest == self.manifest.number && !self.torn {
            self.torn = true;
            // What went wrong, loading tells, if it was not that a writer went on between the two looks.
            if self.catch_up(vfs, dir).is_ok_and(|caught_up| caught_up) {
                self.torn = false;
                return Ok(before != (self.logs.len(), self.logs.last().map(|l| l.end)));
            }
        }
        let loaded = Self::load(vfs, dir, Some(self))?;
        *self = loaded.unwrap_or_else(Self::empty);
        Ok(true)
    }

    /// Reads what was added to the logs. Returns false if a part was applied that the next log says is none: then only
    /// loading again helps.
    fn catch_up(&mut self, vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
        loop {
            let next = self.logs.last().map_or(self.manifest.first_log, |l| l.header.number + 1);
            let Some(position) = open_log(vfs, dir, next, &self.manifest.database)? else {
                return self.tail(vfs).map(|()| true);
            };
            let end = position.header.previous_end;
            if self.logs.last().is_some_and(|last| last.end > end) {
                return Ok(false);
            }
            self.finish_log(vfs, end)?;
            self.add_log(position);
        }
    }

    /// Starts a new active part for a new log.
    pub fn add_log(&mut self, position: LogPosition) {
        let number = position.header.number;
        self.logs.push(position);
        self.parts.push(Part { source: Source::Active(number, Active::default()), dead: Arc::default() });
    }

    /// Applies one committed batch.
    pub fn apply(&mut self, batch: Vec<Change>) -> Result<()> {
        let shape = self.manifest.active().map(|g| shape(&self.manifest, g));
        for change in batch {
            match change {
                Change::Delete(id) => self.kill(&id)?,
                Change::Upsert(document, rows) => {
                    let Some(shape) =
                        shape.as_ref().filter(|_| rows.generation == self.manifest.active_generation)
                    else {
                        let path = self.logs.last().map(|l| l.path.clone()).unwrap_or_default();
                        let what = format!(
                            "a document with vectors of generation {}, which is not active",
                            rows.generation
                        );
                        return Err(Error::corrupt(path, 0, what));
                    };
                    self.kill(&document.id)?;
                    self.insert(*document, &rows, shape)?;
                }
            }
            self.sequence += 1;
        }
        if let Some(Part { source: Source::Active(_, active), .. }) = self.parts.last_mut() {
            active.lay_out();
        }
        Ok(())
    }

    fn insert(&mut self, document: ActiveDocument, rows: &DocumentRows, shape: &Shape) -> Result<()> {
        let part = self.parts.len().saturating_sub(1);
        let Some(Part { source: Source::Active(_, active), .. }) = self.parts.last_mut() else {
            return Err(Error::corrupt("log", 0, "no active segment"));
        };
        let id = document.id.clone();
        let number = active.push(document, rows, shape)?;
        self.ids.insert(id, (part, number));
        Ok(())
    }

    /// The live document with this id.
    pub fn stored(&self, id: &str) -> Result<Option<StoredDocument<'_>>> {
        if let Some(&(part, document)) = self.ids.get(id) {
            return Ok(self.parts.get(part).map(|part| StoredDocument { part, document }));
        }
        for part in &self.parts {
            if let Source::Sealed(segment) = &part.source
                && let Some(document) = segment.find(id)?.filter(|&document| !part.dead.contains(document))
            {
                return Ok(Some(StoredDocument { part, document }));
            }
        }
        Ok(None)
    }

    fn kill(&mut self, id: &str) -> Result<()> {
        if let Some((part, document)) = self.ids.remove(id) {
            if let Some(part) = self.parts.get_mut(part) {
                Arc::make_mut(&mut part.dead).insert(document);
            }
            return Ok(());
        }
        for part in &mut self.parts {
            if let Source::Sealed(segment) = &part.source
                && let Some(document) = segment.find(id)?
                && !part.dead.contains(document)
            {
                Arc::make_mut(&mut part.dead).insert(document);
                return Ok(());
            }
        }
        Ok(())
    }

    /// The view that readers get.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.manifest), self.parts.clone())
    }
}

/// The log file a manifest names must exist as long as that manifest is the newest.
fn missing(error: Error) -> Error {
    match error {
        Error::Io { path, source, .. } => {
            Error::corrupt(path, 0, format!("a file that the manifest names: {source}; restore a backup"))
        }
        other => other,
    }
}

/// The position at the start of log `number`; `None` if it does not exist, or never became whole.
fn open_log(vfs: &dyn Vfs, dir: &Path, number: u64, database: &[u8; 16]) -> Result<Option<LogPosition>> {
    let path = numbered_path(dir, LOG_DIR, number);
    if !vfs.exists(&path)? {
        return Ok(None);
    }
    let header = match read_header(vfs, &path) {
        Ok(header) => header,
        // Its header is synced before the first frame follows: a broken header alone was never in use.
        Err(Error::Corrupt { .. }) if vfs.file_len(&path)? <= LOG_HEADER_LEN as u64 => return Ok(None),
        Err(error) => return Err(error),
    };
    if header.number != number || header.database != *database {
        return Err(Error::corrupt(&path, 0, "the log of another place or another database"));
    }
    Ok(Some(LogPosition { path, header, end: LOG_HEADER_LEN as u64, tail: Tail::Clean, synced: 0 }))
}

/// Numbers of the logs that are there, ascending.
pub(crate) fn log_numbers(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<u64>> {
    numbered(vfs, &dir.join(LOG_DIR))
}

fn changes(batch: &[Frame<'_>], path: &Path) -> Result<Vec<Change>> {
    batch.iter().map(|frame| change(frame, path)).collect()
}

fn change(frame: &Frame<'_>, path: &Path) -> Result<Change> {
    let malformed =
        || Error::corrupt(path, frame.offset, "a record is malformed although its checksum holds");
    match frame.kind {
        FrameType::Upsert => {
            let (id, rows, record) = parse_upsert(frame.payload).ok_or_else(malformed)?;
            let text = StoredText {
                title: record.title.map(str::to_owned),
                text: record.text.to_owned(),
                meta: record.meta.to_owned(),
            };
            Ok(Change::Upsert(Box::new(ActiveDocument::new(id.to_owned(), frame.sequence, text)), rows))
        }
        FrameType::Delete => {
            let id = std::str::from_utf8(frame.payload).map_err(|_| malformed())?;
            Ok(Change::Delete(id.to_owned()))
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::snapshot::Source;
    use crate::storage::sim::{Fault, FaultError, OpKind, SimVfs};
    use crate::types::Document;
    use crate::{CreateOptions, Db, OpenOptions, Task};

    fn database(vfs: &SimVfs, path: &str) -> Db {
        let create = CreateOptions { vectors: Some(2), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        Db::open_vfs(Arc::new(vfs.clone()), path, options).unwrap()
    }

    fn filled(vfs: &SimVfs, path: &str) {
        let db = database(vfs, path);
        db.add((0..9).map(|n| Document::from_vector(format!("{path}{n}"), vec![1.0, n as f32]))).unwrap();
        db.seal(&Task::default()).unwrap();
        db.delete(&[format!("{path}3")]).unwrap();
        db.seal(&Task::default()).unwrap();
        db.add([Document::from_vector(format!("{path}late"), vec![1.0, 2.0])]).unwrap();
        db.close().unwrap();
    }

    /// Two looks at what was added, the first of which fails at its n-th reading call: the second sees all of it, once.
    #[test]
    fn a_refresh_that_fails_half_way_does_not_apply_twice() {
        let mut failed = 0;
        for nth in 0..20 {
            let vfs = SimVfs::new(1);
            filled(&vfs, "a");
            let mut state = State::load(&vfs, Path::new("a"), None).unwrap().unwrap();
            let db = database(&vfs, "a");
            // The log is read in pieces of less.
            let text = "long ".repeat(300_000);
            for n in 0..3 {
                let document = Document::from_vector(format!("new{n}"), vec![2.0, n as f32]);
                db.add([Document { text: text.clone(), ..document }]).unwrap();
            }
            vfs.inject(Fault { op_kind: OpKind::Read, nth, error: FaultError::Eio, sticky: true });
            failed += usize::from(state.refresh(&vfs, Path::new("a")).is_err());
            vfs.clear_faults();
            state.refresh(&vfs, Path::new("a")).unwrap();
            let right = State::load(&vfs, Path::new("a"), None).unwrap().unwrap();
            let told = |state: &State| {
                (state.sequence, state.logs.last().map(|log| log.end), state.snapshot().count())
            };
            assert_eq!(told(&state), told(&right), "reading call {nth}");
        }
        assert!(failed > 2, "{failed}");
    }

    /// Its frames are sound: only its header says whose it is.
    #[test]
    fn a_log_of_another_database_or_another_number_is_told() {
        let vfs = SimVfs::new(1);
        for path in ["a", "b"] {
            filled(&vfs, path);
        }
        let number = *log_numbers(&vfs, Path::new("a")).unwrap().last().unwrap();
        assert_eq!(log_numbers(&vfs, Path::new("b")).unwrap().last(), Some(&number));
        let [mine, other] = ["a", "b"].map(|path| numbered_path(Path::new(path), LOG_DIR, number));
        let bytes = vfs.read(&other).unwrap();
        let own = vfs.read(&mine).unwrap();
        crate::storage::write_new(&vfs, &mine, &bytes).unwrap();
        let told = State::load(&vfs, Path::new("a"), None).err().unwrap();
        assert!(told.exit_code() == 2 && told.to_string().contains("another"), "{told}");
        crate::storage::write_new(&vfs, &mine, &own).unwrap();
        crate::storage::write_new(&vfs, &numbered_path(Path::new("a"), LOG_DIR, number + 1), &own).unwrap();
        assert!(State::load(&vfs, Path::new("a"), None).is_err(), "a log under another number");
    }

    /// The files are those that the manifest names: only what it counts is not what they hold.
    #[test]
    fn a_manifest_that_counts_other_documents_or_tombstones_is_told() {
        let vfs = SimVfs::new(1);
        filled(&vfs, "a");
        let state = State::load(&vfs, Path::new("a"), None).unwrap().unwrap();
        let entry = state.manifest.segments[0].clone();
        let load = |change: &dyn Fn(&mut crate::format::manifest::SegmentEntry)| {
            let mut entry = entry.clone();
            change(&mut entry);
            let segment = Segment::open(&vfs, Path::new("a"), &entry, &state.manifest.database)?;
            segment.tombstones(&vfs, Path::new("a"), &state.manifest.database)
        };
        assert_eq!(load(&|_| {}).unwrap().len(), 1);
        assert!(matches!(state.parts[0].source, Source::Sealed(_)));
        for wrong in [8, 10] {
            assert_eq!(
                load(&|entry| entry.documents = wrong).unwrap_err().exit_code(),
                2,
                "{wrong} documents"
            );
        }
        for wrong in [0, 2] {
            assert_eq!(load(&|entry| entry.deleted = wrong).unwrap_err().exit_code(), 2, "{wrong} deleted");
        }
    }
}
