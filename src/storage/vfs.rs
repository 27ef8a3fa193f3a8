//! The file system as the storage engine sees it: files, directories, locks, the clock and chance.
//!
//! Everything the engine asks of the world outside goes through [`Vfs`], so that the same engine runs on the
//! real disk ([`RealVfs`](super::real::RealVfs)) and on a simulated one ([`SimVfs`](super::sim::SimVfs)) that fails on
//! demand and can be cut off at any operation.
//!
//! What is durable: the bytes of a file after [`WriteFile::sync`] on it; a name (created, renamed or removed)
//! after [`Vfs::sync_dir`] on the directory that holds it. Nothing else.

use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::mmap::Map;

/// A file system, a clock and a source of chance.
///
/// Every error is [`Error::Io`] with the verb and the path; a full disk keeps the system's own
/// kind and message. What is no regular file where one is asked for (a named pipe, a socket, a device, a directory) is
/// [`Error::Corrupt`], and never waited for.
pub trait Vfs: Send + Sync + 'static {
    /// Makes a directory. Its parent must exist; an existing directory is fine, an existing file is not.
    fn create_dir(&self, path: &Path) -> Result<()>;

    /// The names in a directory, sorted. Names that are not UTF-8 come with replacement characters.
    fn read_dir(&self, path: &Path) -> Result<Vec<String>>;

    /// Whether anything has this name.
    fn exists(&self, path: &Path) -> Result<bool>;

    /// Whether this is a directory; `false` if there is nothing.
    fn is_dir(&self, path: &Path) -> Result<bool>;

    /// The length of a file in bytes.
    fn file_len(&self, path: &Path) -> Result<u64>;

    /// Makes a new, empty file; fails if the name is taken.
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>>;

    /// Opens an existing file for positioned writes.
    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>>;

    /// The whole file. Callers that do not trust its length ask for [`file_len`](Vfs::file_len) first.
    fn read(&self, path: &Path) -> Result<Vec<u8>>;

    /// Up to `max_len` bytes from `offset`: fewer at the end of the file, none past it.
    fn read_at(&self, path: &Path, offset: u64, max_len: usize) -> Result<Vec<u8>>;

    /// The first offset, `offset` or above, where something else than zeros may stand; [`u64::MAX`] if there is none.
    /// So a file that is long by its holes alone costs nothing to look through.
    fn next_data(&self, path: &Path, offset: u64) -> Result<u64>;

    /// The bytes of a file that will never change again.
    fn map(&self, path: &Path) -> Result<Bytes>;

    /// Renames a file or a directory in one step. Never replaces: a taken name is an error of kind
    /// `AlreadyExists`.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file. Open handles and maps stay valid.
    fn remove_file(&self, path: &Path) -> Result<()>;

    /// Removes a directory and all that is in it, entry by entry: a crash can leave a part.
    fn remove_dir_all(&self, path: &Path) -> Result<()>;

    /// Makes the names in this directory durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Takes the exclusive lock on a file, made if missing. `None` if anyone holds it, another handle of this
    /// process included. Released on drop and by the death of the process.
    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>>;

    /// Whether someone holds the lock on this file; `false` if the file is missing.
    fn is_locked(&self, path: &Path) -> Result<bool>;

    /// Wall clock, milliseconds since 1970-01-01 UTC.
    fn now_ms(&self) -> u64;

    /// 64 random bits, for names and salts; not for secrets.
    fn random(&self) -> u64;
}

/// A file open for writing.
pub trait WriteFile: Send {
    /// Writes all of `bytes` at `offset`. Writing past the end leaves zeros between.
    ///
    /// On an error an unknown part of `bytes` is in the file.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Makes what was written durable, with the length (`fdatasync`). After a failure what was written before
    /// may be lost even if a later sync succeeds: the caller must give the file up.
    fn sync(&mut self) -> Result<()>;

    /// The length in bytes as this handle knows it: at opening, or the end of its furthest write.
    fn len(&self) -> u64;

    /// Whether the length is zero.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A lock that is held.
pub trait Lock: Send + Sync {
    /// Puts a text into the lock file, for people and for [`lock_holder`](super::lock::lock_holder). Not synced.
    fn set_text(&mut self, text: &str) -> Result<()>;
}

/// The error of a rename: about the new name if that is taken, else about the old one.
pub(super) fn rename_error(from: &Path, to: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::io("rename to", to)(error),
        _ => Error::io("rename", from)(error),
    }
}

/// The bytes of an immutable file: a map, or owned memory. Cheap to clone.
///
/// The first byte is aligned to 64 bytes, so a range whose offset in the file is a multiple of a number's size
/// can be cast to a slice of that number.
#[derive(Clone)]
pub struct Bytes(Inner);

#[derive(Clone)]
enum Inner {
    Map(Arc<Map>),
    Owned { lines: Arc<[Line]>, len: usize },
}

/// A unit of memory that gives owned bytes their alignment.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Bytes {
    /// Tells the system that reads will jump about. A hint; nothing happens for owned bytes.
    pub fn advise_random(&self) {
        if let Inner::Map(map) = &self.0 {
            map.advise_random();
        }
    }

    /// Takes [`Self::advise_random`] back.
    pub fn advise_normal(&self) {
        if let Inner::Map(map) = &self.0 {
            map.advise_normal();
        }
    }

    /// Takes the bytes out of this process's memory until they are read again. Nothing happens for owned bytes.
    pub fn release(&self) {
        if let Inner::Map(map) = &self.0 {
            map.release();
        }
    }

    /// Asks the system to load these bytes soon. A hint; nothing happens for owned bytes.
    pub fn advise_willneed(&self, range: Range<usize>) {
        if let Inner::Map(map) = &self.0 {
            map.advise_willneed(range);
        }
    }
}

impl From<Map> for Bytes {
    fn from(map: Map) -> Self {
        Self(Inner::Map(Arc::new(map)))
    }
}

impl From<&[u8]> for Bytes {
    /// Copies into aligned memory.
    fn from(bytes: &[u8]) -> Self {
        let mut lines = vec![Line::zeroed(); bytes.len().div_ceil(size_of::<Line>())];
        let room: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
        if let Some(room) = room.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
        }
        Self(Inner::Owned { lines: lines.into(), len: bytes.len() })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Map(map) => map,
            Inner::Owned { lines, len } => bytemuck::cast_slice(lines).get(..*len).unwrap_or_default(),
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Inner::Map(_) => "mapped",
            Inner::Owned { .. } => "owned",
        };
        write!(f, "Bytes({} {kind})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::real::RealVfs;
    use super::super::sim::SimVfs;
    use super::*;

    fn kind<T>(result: Result<T>) -> io::ErrorKind {
        match result {
            Err(Error::Io { source, .. }) => source.kind(),
            Err(other) => panic!("not an i/o error: {other}"),
            Ok(_) => panic!("no error"),
        }
    }

    fn files_behave(vfs: &dyn Vfs, root: &Path) {
        let file = root.join("file");
        let content: Vec<u8> = (0..5000u32).map(|i| (i % 247) as u8).collect();
        let mut writer = vfs.create(&file).unwrap();
        assert!(writer.is_empty());
        writer.write_at(0, &content[..3000]).unwrap();
        writer.write_at(3000, &content[3000..]).unwrap();
        writer.write_at(9000, b"").unwrap();
        assert_eq!(writer.len(), 5000);
        writer.sync().unwrap();
        drop(writer);

        assert_eq!(vfs.file_len(&file).unwrap(), 5000);
        assert_eq!(vfs.read(&file).unwrap(), content);
        assert_eq!(vfs.read_at(&file, 4000, 100).unwrap(), &content[4000..4100]);
        assert_eq!(vfs.read_at(&file, 4990, 100).unwrap(), &content[4990..]);
        assert_eq!(vfs.read_at(&file, 6000, 100).unwrap(), b"");
        assert_eq!(vfs.read_at(&file, u64::MAX / 2, usize::MAX).unwrap(), b"");
        assert_eq!(vfs.next_data(&file, 4321).unwrap(), 4321);
        assert_eq!(vfs.next_data(&file, 5000).unwrap(), u64::MAX);

        let map = vfs.map(&file).unwrap();
        assert_eq!(&map[..], &content[..]);
        assert_eq!(map.as_ptr().align_offset(64), 0);
        map.advise_random();
        map.advise_willneed(0..100);

        let mut writer = vfs.open_write(&file).unwrap();
        assert_eq!(writer.len(), 5000);
        writer.write_at(5002, b"end").unwrap();
        assert_eq!(writer.len(), 5005);
        assert_eq!(vfs.read_at(&file, 4999, 10).unwrap(), [content[4999], 0, 0, b'e', b'n', b'd']);
        vfs.remove_file(&file).unwrap();
        writer.write_at(0, b"still open").unwrap();
        assert_eq!(map.len(), 5000, "a map outlives the name");
        drop(vfs.create(&file).unwrap());
        assert_eq!(vfs.map(&file).unwrap().len(), 0);
        assert_eq!(vfs.file_len(&file).unwrap(), 0);
    }

    fn names_behave(vfs: &dyn Vfs, root: &Path) {
        let (dir, a, b) = (root.join("dir"), root.join("dir/a"), root.join("dir/b"));
        vfs.create_dir(&dir).unwrap();
        vfs.create_dir(&dir).unwrap();
        drop(vfs.create(&b).unwrap());
        vfs.create(&a).unwrap().write_at(0, b"a").unwrap();
        assert_eq!(vfs.read_dir(&dir).unwrap(), ["a", "b"]);
        assert!(
            vfs.is_dir(&dir).unwrap() && !vfs.is_dir(&a).unwrap() && !vfs.is_dir(&root.join("no")).unwrap()
        );
        assert!(vfs.exists(&a).unwrap() && !vfs.exists(&root.join("no")).unwrap());
        vfs.sync_dir(&dir).unwrap();

        assert_eq!(kind(vfs.rename(&a, &b)), io::ErrorKind::AlreadyExists);
        assert_eq!(vfs.read(&a).unwrap(), b"a");
        assert_eq!(vfs.read(&b).unwrap(), b"");
        vfs.remove_file(&b).unwrap();
        vfs.rename(&a, &b).unwrap();
        assert_eq!(vfs.read(&b).unwrap(), b"a");

        let (moved, other) = (root.join("moved"), root.join("other"));
        vfs.create_dir(&other).unwrap();
        assert_eq!(kind(vfs.rename(&dir, &other)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(vfs.rename(&dir, &b)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(vfs.rename(&dir, &dir.join("in"))), io::ErrorKind::InvalidInput);
        vfs.rename(&dir, &moved).unwrap();
        assert_eq!(vfs.read(&moved.join("b")).unwrap(), b"a");
        vfs.create_dir(&moved.join("deep")).unwrap();
        drop(vfs.create(&moved.join("deep/c")).unwrap());
        vfs.remove_dir_all(&moved).unwrap();
        assert!(!vfs.exists(&moved).unwrap());
        assert_eq!(vfs.read_dir(root).unwrap(), ["file", "other"]);
    }

    fn errors_behave(vfs: &dyn Vfs, root: &Path) {
        let (no, file) = (root.join("no"), root.join("file"));
        assert_eq!(kind(vfs.read_dir(&no)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.read(&no)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.read_at(&no, 0, 1)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.map(&no)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.file_len(&no)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.open_write(&no)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.rename(&no, &root.join("new"))), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.remove_file(&no)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.remove_dir_all(&no)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.sync_dir(&no)), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.create(&no.join("below"))), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.create_dir(&no.join("below"))), io::ErrorKind::NotFound);
        assert_eq!(kind(vfs.create(&file)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(vfs.create_dir(&file)), io::ErrorKind::AlreadyExists);
        assert_eq!(kind(vfs.read_dir(&file)), io::ErrorKind::NotADirectory);
        assert_eq!(kind(vfs.create(&file.join("below"))), io::ErrorKind::NotADirectory);
        assert!(vfs.read(&root.join("other")).is_err(), "a directory has no bytes");
        let text = vfs.read(&no).unwrap_err().to_string();
        assert!(text.starts_with("cannot read ") && text.contains("/no: No such file"), "{text}");
    }

    fn locks_behave(vfs: &dyn Vfs, root: &Path) {
        let path = root.join("lock");
        assert!(!vfs.is_locked(&path).unwrap());
        assert!(!vfs.exists(&path).unwrap(), "asking makes no file");
        let mut lock = vfs.try_lock(&path).unwrap().unwrap();
        assert!(vfs.is_locked(&path).unwrap());
        assert!(vfs.try_lock(&path).unwrap().is_none());
        lock.set_text("some text\n").unwrap();
        lock.set_text("12\n").unwrap();
        assert_eq!(vfs.read(&path).unwrap(), b"12\n");
        drop(lock);
        assert!(!vfs.is_locked(&path).unwrap());
        assert!(vfs.try_lock(&path).unwrap().is_some(), "free again");
    }

    /// One suite for both, so that what holds in the simulator holds on a disk.
    fn suite(vfs: &dyn Vfs, root: &Path) {
        files_behave(vfs, root);
        names_behave(vfs, root);
        errors_behave(vfs, root);
        locks_behave(vfs, root);
        assert_ne!(vfs.random(), vfs.random());
    }

    #[test]
    fn the_real_file_system_behaves() {
        let dir = tempfile::tempdir().unwrap();
        suite(&RealVfs, dir.path());
        let dir = tempfile::tempdir().unwrap();
        suite(&super::super::pread::PreadVfs, dir.path());
    }

    #[test]
    fn the_simulated_file_system_behaves() {
        suite(&SimVfs::new(3), Path::new("/"));
    }

    #[test]
    fn owned_bytes_are_aligned_and_exact() {
        for len in [0, 1, 63, 64, 65, 1000, 4096] {
            let content: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let bytes = Bytes::from(&content[..]);
            assert_eq!(&bytes[..], &content[..]);
            assert_eq!(bytes.as_ptr().align_offset(64), 0);
            assert_eq!(bytes.clone().as_ptr(), bytes.as_ptr(), "a clone shares");
        }
    }

    #[test]
    fn ranges_cast_to_numbers() {
        let numbers: Vec<u64> = (0..40).collect();
        let bytes = Bytes::from(bytemuck::cast_slice(&numbers));
        let tail: &[u64] = bytemuck::try_cast_slice(&bytes[64..]).unwrap();
        assert_eq!(tail, &numbers[8..]);
        assert!(bytemuck::try_cast_slice::<u8, f32>(&bytes[4..]).is_ok());
    }
}
