//! The real file system: positioned writes, `fdatasync`, `flock`, maps.
//!
//! Whatever stands in the place of a file, opening it neither waits nor goes on with anything but a regular file.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, FileType, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, SeekFrom, renameat_with};
use rustix::io::Errno;

use super::room::reserve;
use super::vfs::{Bytes, Lock, Vfs, WriteFile, rename_error};
use crate::error::{Error, Result};
use crate::mmap::Map;

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealVfs;

impl Vfs for RealVfs {
    fn create_dir(&self, path: &Path) -> Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result.map_err(Error::io("create the directory", path)),
        }
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        let list = || -> io::Result<Vec<String>> {
            fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        let mut names = list().map_err(Error::io("list", path))?;
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        path.try_exists().map_err(Error::io("look up", path))
    }

    fn is_dir(&self, path: &Path) -> Result<bool> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("look up", path)(error)),
        }
    }

    fn file_len(&self, path: &Path) -> Result<u64> {
        let metadata = fs::metadata(path).map_err(Error::io("read the length of", path))?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(not_a_file(path, metadata.file_type())) }
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(Error::io("create", path))?;
        Ok(Box::new(RealFile { file, path: path.to_path_buf(), len: 0 }))
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = open(path, OpenOptions::new().write(true), "open")?;
        let len = file.metadata().map_err(Error::io("read the length of", path))?.len();
        Ok(Box::new(RealFile { file, path: path.to_path_buf(), len }))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let file = open(path, OpenOptions::new().read(true), "read")?;
        read_some(&file, 0, usize::MAX).map_err(Error::io("read", path))
    }

    fn read_at(&self, path: &Path, offset: u64, max_len: usize) -> Result<Vec<u8>> {
        let file = open(path, OpenOptions::new().read(true), "open")?;
        read_some(&file, offset, max_len).map_err(Error::io("read", path))
    }

    fn next_data(&self, path: &Path, offset: u64) -> Result<u64> {
        let file = open(path, OpenOptions::new().read(true), "open")?;
        match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
            Ok(found) => Ok(found),
            Err(Errno::NXIO) => Ok(u64::MAX),
            // A file system that does not tell: the bytes will.
            Err(_) => Ok(offset),
        }
    }

    fn map(&self, path: &Path) -> Result<Bytes> {
        let file = open(path, OpenOptions::new().read(true), "open")?;
        Map::of(&file, path).map(Bytes::from)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let result = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system does not know the flag: a check must do, which a second writer could race with,
            // but writers hold a lock.
            Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => rename_after_check(from, to),
            other => other.map_err(io::Error::from),
        };
        result.map_err(rename_error(from, to))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(Error::io("remove", path))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).map_err(Error::io("remove", path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let mut options = OpenOptions::new();
        let dir = options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK).open(path);
        dir.and_then(|dir| dir.sync_all()).map_err(Error::io("sync the directory", path))
    }

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        let mut options = OpenOptions::new();
        let file = open(path, options.read(true).write(true).create(true).truncate(false), "open")?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { file, path: path.to_path_buf() }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    fn is_locked(&self, path: &Path) -> Result<bool> {
        let file = match open(path, OpenOptions::new().read(true), "open") {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        };
        // Shared, so that two who ask at the same time do not see one another.
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u64 {
        // The keys of a new state come from the system's random numbers, and no two states share them.
        RandomState::new().build_hasher().finish()
    }
}

/// Opens a regular file. Without `O_NONBLOCK` a named pipe would wait for someone at its other end, for ever.
fn open(path: &Path, options: &mut OpenOptions, verb: &'static str) -> Result<File> {
    match options.custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => {
            let metadata = file.metadata().map_err(Error::io(verb, path))?;
            if metadata.is_file() { Ok(file) } else { Err(not_a_file(path, metadata.file_type())) }
        }
        Err(error) => match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => Err(not_a_file(path, metadata.file_type())),
            _ => Err(Error::io(verb, path)(error)),
        },
    }
}

fn not_a_file(path: &Path, found: FileType) -> Error {
    let found = match () {
        () if found.is_dir() => "a directory",
        () if found.is_fifo() => "a named pipe",
        () if found.is_socket() => "a socket",
        () if found.is_char_device() || found.is_block_device() => "a device",
        () => "something else",
    };
    let what = format!(
        "{found} stands where a regular file belongs; remove it, and unless it is in the place of a lock put the \
         file back from a backup"
    );
    Error::corrupt(path, 0, what)
}

/// Reads up to `max_len` bytes of what the file holds at this moment.
fn read_some(file: &File, offset: u64, max_len: usize) -> io::Result<Vec<u8>> {
    let rest = file.metadata()?.len().saturating_sub(offset);
    let len = usize::try_from(rest).unwrap_or(usize::MAX).min(max_len);
    let mut bytes = Vec::new();
    // The length is whatever the file says, so it may be more than there is memory.
    reserve(&mut bytes, len)?;
    bytes.resize(len, 0);
    let filled = fill(&mut bytes, |to, filled| file.read_at(to, offset + filled as u64))?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Fills a buffer by as many reads as it takes: one may give less than there is, or be interrupted. Returns how much there
/// was, which is less only at the end of the file.
fn fill(bytes: &mut [u8], mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(to) = bytes.get_mut(filled..).filter(|to| !to.is_empty()) {
        match read(to, filled) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn rename_after_check(from: &Path, to: &Path) -> io::Result<()> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
    }
}

struct RealFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl WriteFile for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        // Continues after short writes and interruptions.
        self.file.write_all_at(bytes, offset).map_err(Error::io("write to", &self.path))?;
        if !bytes.is_empty() {
            self.len = self.len.max(offset.saturating_add(bytes.len() as u64));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    fn len(&self) -> u64 {
        self.len
    }
}

struct RealLock {
    file: File,
    path: PathBuf,
}

impl Drop for RealLock {
    /// Closing the file would do, but for copies of it: a process that is just being started has one until it runs its
    /// own program.
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Lock for RealLock {
    fn set_text(&mut self, text: &str) -> Result<()> {
        let write = || -> io::Result<()> {
            self.file.set_len(0)?;
            self.file.write_all_at(text.as_bytes(), 0)
        };
        write().map_err(Error::io("write to", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_after_a_check_does_not_replace() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        assert_eq!(rename_after_check(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&b).unwrap();
        rename_after_check(&a, &b).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"a");
        // Below a file nothing can be, which is not the same as nothing being there.
        let error = rename_after_check(&b, &b.join("below")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        assert_eq!(RealVfs.is_dir(&b.join("below")).unwrap_err().exit_code(), 4);
        assert!(!RealVfs.is_dir(&b).unwrap() && !RealVfs.is_dir(&a).unwrap());
    }

    #[test]
    fn reads_stop_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        let content: Vec<u8> = (0..2_500_000u32).map(|i| (i % 253) as u8).collect();
        fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_some(&file, 10, usize::MAX).unwrap(), &content[10..]);
        assert_eq!(read_some(&file, 10, 1_500_000).unwrap(), &content[10..1_500_010]);
        assert_eq!(read_some(&file, 2_600_000, 10).unwrap(), b"");
    }

    /// What is no regular file, by its name.
    fn strange_files(dir: &Path) -> Vec<(PathBuf, &'static str)> {
        let (pipe, socket, folder) = (dir.join("pipe"), dir.join("socket"), dir.join("folder"));
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        fs::create_dir(&folder).unwrap();
        let link = dir.join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        vec![
            (pipe, "a named pipe"),
            (link, "a named pipe"),
            (socket, "a socket"),
            (folder, "a directory"),
            (PathBuf::from("/dev/null"), "a device"),
        ]
    }

    #[test]
    fn nothing_but_a_regular_file_is_opened_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        for (path, name) in strange_files(dir.path()) {
            let tries = [
                RealVfs.file_len(&path).err(),
                RealVfs.read(&path).err(),
                RealVfs.read_at(&path, 0, 10).err(),
                RealVfs.next_data(&path, 0).err(),
                RealVfs.map(&path).err(),
                RealVfs.open_write(&path).err(),
                RealVfs.try_lock(&path).err(),
                RealVfs.is_locked(&path).err(),
            ];
            for (n, error) in tries.into_iter().enumerate() {
                let error = error.unwrap_or_else(|| panic!("{name}: call {n} succeeded"));
                assert_eq!(error.exit_code(), 2, "{name}: call {n}: {error}");
                let text = error.to_string();
                assert!(text.contains(name) && text.contains(path.to_str().unwrap()), "{text}");
            }
            assert!(RealVfs.create(&path).is_err(), "{name}: the name is taken");
            assert_eq!(RealVfs.sync_dir(&path).is_ok(), name == "a directory");
        }
    }

    #[test]
    fn short_and_interrupted_reads_are_gone_on_with() {
        let content: Vec<u8> = (0..100).collect();
        let mut calls = 0;
        let mut read_at = |to: &mut [u8], at: usize| {
            calls += 1;
            if calls % 3 == 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = to.len().min(7).min(content.len() - at);
            to[..len].copy_from_slice(&content[at..at + len]);
            Ok(len)
        };
        let mut bytes = vec![0; 80];
        assert_eq!(fill(&mut bytes, &mut read_at).unwrap(), 80);
        assert_eq!(bytes, content[..80]);
        let mut bytes = vec![0; 120];
        assert_eq!(fill(&mut bytes, read_at).unwrap(), 100, "the end of the file");
        assert!(fill(&mut bytes, |_, _| Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }

    #[test]
    fn a_lock_ends_with_its_owner_whoever_has_a_copy_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let file = File::create(&path).unwrap();
        file.try_lock().unwrap();
        let copy = file.try_clone().unwrap();
        let lock = RealLock { file, path: path.clone() };
        assert!(RealVfs.try_lock(&path).unwrap().is_none() && RealVfs.is_locked(&path).unwrap());
        drop(lock);
        assert!(RealVfs.try_lock(&path).unwrap().is_some());
        drop(copy);
    }

    #[test]
    fn holes_are_skipped_and_data_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.write_all_at(b"x", 1 << 30).unwrap();
        file.set_len(1 << 40).unwrap();
        // Where a file system does not know holes, everything is data.
        let found = RealVfs.next_data(&path, 5).unwrap();
        assert!((5..=1 << 30).contains(&found), "{found}");
        assert_eq!(RealVfs.next_data(&path, 1 << 30).unwrap(), 1 << 30);
    }

    #[test]
    fn the_lock_text_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let mut lock = RealVfs.try_lock(&path).unwrap().unwrap();
        lock.set_text("123456\n").unwrap();
        lock.set_text("7\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"7\n");
    }

    #[test]
    fn chance_and_the_clock_move() {
        assert_ne!(RealVfs.random(), RealVfs.random());
        assert!(RealVfs.now_ms() > 1_700_000_000_000);
    }
}
