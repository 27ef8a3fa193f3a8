//! A simulated disk: in memory, deterministic, failing on demand, and with a log of all that was done to it.
//!
//! From the log come crash images ([`CrashSeries`]): disks as the next start could find them had the power gone, or
//! the process been killed, after any operation. An image is a simulated disk itself, so recovery can crash too.
//!
//! Only what changes the disk is an operation: creating, writing, syncing, renaming, removing and syncing a
//! directory. Locks live outside: an image holds none, and the text in a lock file is not part of the log.

mod chance;
mod crash;
mod disk;
mod fault;
mod forget;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use self::chance::Chance;
use self::disk::{Disk, Ino, Node, Op, place};
use self::fault::Faults;
use super::vfs::{Bytes, Lock, Vfs, WriteFile, rename_error};
use crate::error::{Error, Result};

pub use self::crash::{CrashMode, CrashSeries};
pub use self::fault::{Fault, FaultError, OpKind};

/// The clock of a new disk: a Tuesday in November 2023.
const CLOCK_START_MS: u64 = 1_700_000_000_000;

/// A simulated file system with one directory, `/`. A clone is another handle on the same disk.
#[derive(Clone)]
pub struct SimVfs {
    state: Arc<Mutex<State>>,
}

struct State {
    /// What the log starts from; durable.
    base: Disk,
    ops: Vec<Record>,
    live: Disk,
    locked: BTreeSet<Ino>,
    faults: Faults,
    /// Most bytes in all files.
    capacity: Option<u64>,
    clock: u64,
    chance: Chance,
}

/// An operation and, for messages, the path it was called with.
#[derive(Debug, Clone)]
struct Record {
    op: Op,
    path: Arc<Path>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.op {
            Op::Create { node: Node::File(_), .. } => write!(f, "create {path}"),
            Op::Create { node: Node::Dir(_), .. } => write!(f, "create directory {path}"),
            Op::Write { offset, data, .. } => write!(f, "write {} bytes at {offset} of {path}", data.len()),
            Op::Sync { .. } => write!(f, "sync {path}"),
            Op::SyncFailed { .. } => write!(f, "failed sync {path}"),
            Op::Rename { from, .. } => write!(f, "rename {from} to {path}"),
            Op::Remove { .. } => write!(f, "remove {path}"),
            Op::SyncDir { .. } => write!(f, "sync directory {path}"),
            Op::SyncDirFailed { .. } => write!(f, "failed sync of directory {path}"),
        }
    }
}

impl State {
    /// Counts a call; an injected fault is its error.
    fn enter(&mut self, kind: OpKind) -> io::Result<()> {
        self.faults.check(kind).map_or(Ok(()), |error| Err(error.to_io()))
    }

    fn record(&mut self, path: &Path, op: Op) {
        self.live.apply(&op);
        self.ops.push(Record { op, path: path.into() });
    }

    /// Makes a node; fails if the name is taken.
    fn create(&mut self, path: &Path, node: Node) -> io::Result<Ino> {
        self.enter(OpKind::Create)?;
        let (dir, name) = self.live.resolve_parent(path)?;
        if self.live.dir(dir)?.contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        let ino = self.live.next_ino();
        self.record(path, Op::Create { dir, name, ino, node });
        Ok(ino)
    }

    fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        match self.create(path, Node::empty_dir()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let ino = self.live.resolve(path)?;
                self.live.dir(ino).map(|_| ()).map_err(|_| error)
            }
            result => result.map(|_| ()),
        }
    }

    fn write(&mut self, path: &Path, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let fault = self.faults.check(OpKind::Write);
        let at = place(offset, bytes.len())?;
        let (len, error) = match fault {
            Some(error) => (if error.is_short() { bytes.len() / 2 } else { 0 }, Some(error.to_io())),
            None => {
                let fits = self.room(ino, at, bytes.len());
                (fits, (fits < bytes.len()).then(|| Errno::NOSPC.into()))
            }
        };
        if let Some(data) = bytes.get(..len).filter(|data| !data.is_empty()) {
            self.record(path, Op::Write { ino, offset: at, data: data.into() });
        }
        error.map_or(Ok(()), Err)
    }

    /// How many of `len` bytes at `offset` the disk has room for.
    fn room(&self, ino: Ino, offset: usize, len: usize) -> usize {
        let Some(capacity) = self.capacity else { return len };
        let free = capacity.saturating_sub(self.live.used());
        let old_len = self.live.file(ino).map_or(0, |bytes| bytes.len());
        let end_max = usize::try_from(free).unwrap_or(usize::MAX).saturating_add(old_len);
        len.min(end_max.saturating_sub(offset))
    }

    fn sync(&mut self, path: &Path, ino: Ino) -> io::Result<()> {
        let result = self.enter(OpKind::Sync);
        let op = if result.is_ok() { Op::Sync { ino } } else { Op::SyncFailed { ino } };
        self.record(path, op);
        result
    }

    fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let result = self.enter(OpKind::SyncDir);
        let dir = self.live.resolve(path)?;
        self.live.dir(dir)?;
        let op = if result.is_ok() { Op::SyncDir { dir } } else { Op::SyncDirFailed { dir } };
        self.record(path, op);
        result
    }

    fn rename(&mut self, from_path: &Path, to_path: &Path) -> io::Result<()> {
        self.enter(OpKind::Rename)?;
        let ino = self.live.resolve(from_path)?;
        let (from_dir, from) = self.live.resolve_parent(from_path)?;
        let (to_dir, to) = self.live.resolve_parent(to_path)?;
        if self.live.dir(to_dir)?.contains_key(&to) {
            return Err(Errno::EXIST.into());
        }
        if to_path.starts_with(from_path) {
            return Err(Errno::INVAL.into());
        }
        self.record(to_path, Op::Rename { from_dir, from, to_dir, to, ino });
        Ok(())
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.enter(OpKind::Remove)?;
        let (dir, name) = self.live.resolve_parent(path)?;
        let ino = self.live.resolve(path)?;
        self.live.file(ino)?;
        self.record(path, Op::Remove { dir, name });
        Ok(())
    }

    fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let ino = self.live.resolve(path)?;
        let entries = self.live.dir(ino)?.clone();
        for (name, child) in entries {
            let child_path = path.join(name);
            if self.live.dir(child).is_ok() {
                self.remove_dir_all(&child_path)?;
            } else {
                self.remove_file(&child_path)?;
            }
        }
        self.enter(OpKind::Remove)?;
        let (dir, name) = self.live.resolve_parent(path)?;
        self.record(path, Op::Remove { dir, name });
        Ok(())
    }

    /// The bytes of a file.
    fn look(&mut self, path: &Path) -> io::Result<Arc<Vec<u8>>> {
        self.enter(OpKind::Read)?;
        let ino = self.live.resolve(path)?;
        self.live.file(ino).cloned()
    }

    /// The node with this name, if there is one.
    fn find(&mut self, path: &Path) -> io::Result<Option<Ino>> {
        self.enter(OpKind::Read)?;
        match self.live.resolve(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    fn try_lock(&mut self, path: &Path) -> io::Result<Option<Ino>> {
        let ino = match self.find(path)? {
            Some(ino) => ino,
            None => self.create(path, Node::empty_file())?,
        };
        self.live.file(ino)?;
        Ok(self.locked.insert(ino).then_some(ino))
    }
}

impl SimVfs {
    /// An empty disk. All its chance comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::from_disk(Disk::new(), seed, CLOCK_START_MS)
    }

    /// A disk with this content, all durable.
    fn from_disk(disk: Disk, seed: u64, clock: u64) -> Self {
        let state = State {
            base: disk.clone(),
            ops: Vec::new(),
            live: disk,
            locked: BTreeSet::new(),
            faults: Faults::default(),
            capacity: None,
            clock,
            chance: Chance::new(seed),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Another disk with the same content, all of it durable, with an empty log, no faults, limits or locks.
    pub fn live_copy(&self) -> Self {
        let state = self.state.lock();
        let mut disk = state.live.clone();
        disk.drop_unreachable();
        Self::from_disk(disk, state.chance.clone().next(), state.clock)
    }

    /// How many operations the log has.
    pub fn op_count(&self) -> usize {
        self.state.lock().ops.len()
    }

    /// An operation of the log in words.
    pub fn op_text(&self, index: usize) -> Option<String> {
        self.state.lock().ops.get(index).map(Record::to_string)
    }

    /// Orders a failure. Several can be pending.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.arm(fault);
    }

    /// Takes back all orders to fail.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// How many calls failed by order.
    pub fn faults_fired(&self) -> usize {
        self.state.lock().faults.fired()
    }

    /// How many calls of a kind there were, failed ones included: the range of [`Fault::nth`] for a sweep.
    pub fn calls(&self, kind: OpKind) -> usize {
        self.state.lock().faults.calls(kind)
    }

    /// Sets the most bytes that all files may hold together; `None` lifts the limit. A write beyond it lands as far
    /// as it fits and reports a full disk.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.state.lock().live.used()
    }

    /// Lets time pass.
    pub fn advance_clock(&self, ms: u64) {
        self.state.lock().clock += ms;
    }
}

impl fmt::Debug for SimVfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimVfs({} operations)", self.op_count())
    }
}

impl Vfs for SimVfs {
    fn create_dir(&self, path: &Path) -> Result<()> {
        self.state.lock().create_dir(path).map_err(Error::io("create the directory", path))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        let mut state = self.state.lock();
        let mut list = || {
            state.enter(OpKind::Read)?;
            let ino = state.live.resolve(path)?;
            Ok(state.live.dir(ino)?.keys().cloned().collect())
        };
        list().map_err(Error::io("list", path))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        let found = self.state.lock().find(path);
        found.map(|ino| ino.is_some()).map_err(Error::io("look up", path))
    }

    fn is_dir(&self, path: &Path) -> Result<bool> {
        let mut state = self.state.lock();
        let found = state.find(path).map_err(Error::io("look up", path))?;
        Ok(found.is_some_and(|ino| state.live.dir(ino).is_ok()))
    }

    fn file_len(&self, path: &Path) -> Result<u64> {
        let bytes = self.state.lock().look(path).map_err(Error::io("read the length of", path))?;
        Ok(bytes.len() as u64)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let ino = self.state.lock().create(path, Node::empty_file()).map_err(Error::io("create", path))?;
        Ok(Box::new(SimFile { vfs: self.clone(), ino, path: path.into(), len: 0 }))
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let mut state = self.state.lock();
        let len = state.look(path).map_err(Error::io("open", path))?.len() as u64;
        let ino = state.live.resolve(path).map_err(Error::io("open", path))?;
        Ok(Box::new(SimFile { vfs: self.clone(), ino, path: path.into(), len }))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let bytes = self.state.lock().look(path).map_err(Error::io("read", path))?;
        Ok(bytes.to_vec())
    }

    fn read_at(&self, path: &Path, offset: u64, max_len: usize) -> Result<Vec<u8>> {
        let bytes = self.state.lock().look(path).map_err(Error::io("read", path))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(max_len).min(bytes.len());
        Ok(bytes.get(start..end).unwrap_or_default().to_vec())
    }

    fn next_data(&self, path: &Path, offset: u64) -> Result<u64> {
        let bytes = self.state.lock().look(path).map_err(Error::io("read", path))?;
        Ok(if offset < bytes.len() as u64 { offset } else { u64::MAX })
    }

    fn map(&self, path: &Path) -> Result<Bytes> {
        let bytes = self.state.lock().look(path).map_err(Error::io("map", path))?;
        Ok(Bytes::from(bytes.as_slice()))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.state.lock().rename(from, to).map_err(rename_error(from, to))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.state.lock().remove_file(path).map_err(Error::io("remove", path))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        self.state.lock().remove_dir_all(path).map_err(Error::io("remove", path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.state.lock().sync_dir(path).map_err(Error::io("sync the directory", path))
    }

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        let taken = self.state.lock().try_lock(path).map_err(Error::io("lock", path))?;
        Ok(taken.map(|ino| Box::new(SimLock { vfs: self.clone(), ino }) as Box<dyn Lock>))
    }

    fn is_locked(&self, path: &Path) -> Result<bool> {
        let mut state = self.state.lock();
        let found = state.find(path).map_err(Error::io("lock", path))?;
        Ok(found.is_some_and(|ino| state.locked.contains(&ino)))
    }

    fn now_ms(&self) -> u64 {
        let mut state = self.state.lock();
        state.clock += 1;
        state.clock
    }

    fn random(&self) -> u64 {
        self.state.lock().chance.next()
    }
}

struct SimFile {
    vfs: SimVfs,
    ino: Ino,
    path: Arc<Path>,
    len: u64,
}

impl WriteFile for SimFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let result = self.vfs.state.lock().write(&self.path, self.ino, offset, bytes);
        result.map_err(Error::io("write to", &self.path))?;
        if !bytes.is_empty() {
            self.len = self.len.max(offset.saturating_add(bytes.len() as u64));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.vfs.state.lock().sync(&self.path, self.ino).map_err(Error::io("sync", &self.path))
    }

    fn len(&self) -> u64 {
        self.len
    }
}

struct SimLock {
    vfs: SimVfs,
    ino: Ino,
}

impl Lock for SimLock {
    fn set_text(&mut self, text: &str) -> Result<()> {
        let node = Node::File(Arc::new(text.as_bytes().to_vec()));
        self.vfs.state.lock().live.put_node(self.ino, node);
        Ok(())
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.vfs.state.lock().locked.remove(&self.ino);
    }
}

#[cfg(test)]
mod tests;
