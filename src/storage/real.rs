//! The real file system: positioned writes, `fdatasync`, `flock`, maps.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

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
        fs::metadata(path).map(|metadata| metadata.len()).map_err(Error::io("read the length of", path))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(Error::io("create", path))?;
        Ok(Box::new(RealFile { file, path: path.to_path_buf(), len: 0 }))
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("read the length of", path))?.len();
        Ok(Box::new(RealFile { file, path: path.to_path_buf(), len }))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        fs::read(path).map_err(Error::io("read", path))
    }

    fn read_at(&self, path: &Path, offset: u64, max_len: usize) -> Result<Vec<u8>> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        read_some(&file, offset, max_len).map_err(Error::io("read", path))
    }

    fn map(&self, path: &Path) -> Result<Bytes> {
        Map::open(path).map(Bytes::from)
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
        File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("sync the directory", path))
    }

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::io("open", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { file, path: path.to_path_buf() }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", path)(error)),
        }
    }

    fn is_locked(&self, path: &Path) -> Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("open", path)(error)),
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

/// Reads up to `max_len` bytes of what the file holds at this moment.
fn read_some(file: &File, offset: u64, max_len: usize) -> io::Result<Vec<u8>> {
    let rest = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; usize::try_from(rest).unwrap_or(usize::MAX).min(max_len)];
    let mut filled = 0;
    while let Some(to) = bytes.get_mut(filled..).filter(|to| !to.is_empty()) {
        match file.read_at(to, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
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
