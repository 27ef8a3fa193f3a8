//! A process that is killed at an operation while the machine runs on: from then on nothing it does reaches the
//! disk, and what it did stays pending there, so that a power cut can still take it.

use std::io;
use std::path::Path;

use embdb::error::{Error, Result};
use embdb::storage::sim::SimVfs;
use embdb::storage::vfs::{Bytes, Lock, Vfs, WriteFile};

/// A file system that stops when the disk has seen `limit` operations.
#[derive(Clone)]
pub struct KillVfs {
    /// The disk.
    pub sim: SimVfs,
    /// Operations until the kill.
    pub limit: usize,
}

impl KillVfs {
    fn alive(&self, path: &Path) -> Result<()> {
        if self.sim.op_count() < self.limit {
            return Ok(());
        }
        Err(Error::io("go on after the kill with", path)(io::Error::other("killed")))
    }
}

impl Vfs for KillVfs {
    fn create_dir(&self, path: &Path) -> Result<()> {
        self.alive(path)?;
        self.sim.create_dir(path)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        self.alive(path)?;
        self.sim.read_dir(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.alive(path)?;
        self.sim.exists(path)
    }

    fn is_dir(&self, path: &Path) -> Result<bool> {
        self.alive(path)?;
        self.sim.is_dir(path)
    }

    fn file_len(&self, path: &Path) -> Result<u64> {
        self.alive(path)?;
        self.sim.file_len(path)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.alive(path)?;
        let file = self.sim.create(path)?;
        Ok(Box::new(KillFile { vfs: self.clone(), path: path.into(), file }))
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        self.alive(path)?;
        let file = self.sim.open_write(path)?;
        Ok(Box::new(KillFile { vfs: self.clone(), path: path.into(), file }))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.alive(path)?;
        self.sim.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, max_len: usize) -> Result<Vec<u8>> {
        self.alive(path)?;
        self.sim.read_at(path, offset, max_len)
    }

    fn next_data(&self, path: &Path, offset: u64) -> Result<u64> {
        self.alive(path)?;
        self.sim.next_data(path, offset)
    }

    fn map(&self, path: &Path) -> Result<Bytes> {
        self.alive(path)?;
        self.sim.map(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.alive(from)?;
        self.sim.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.alive(path)?;
        self.sim.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        // Entry by entry, so that the kill can come in between.
        for name in self.read_dir(path)? {
            let inner = path.join(name);
            if self.is_dir(&inner)? {
                self.remove_dir_all(&inner)?;
            } else {
                self.remove_file(&inner)?;
            }
        }
        self.alive(path)?;
        self.sim.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.alive(path)?;
        self.sim.sync_dir(path)
    }

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        self.alive(path)?;
        self.sim.try_lock(path)
    }

    fn is_locked(&self, path: &Path) -> Result<bool> {
        self.alive(path)?;
        self.sim.is_locked(path)
    }

    fn now_ms(&self) -> u64 {
        self.sim.now_ms()
    }

    fn random(&self) -> u64 {
        self.sim.random()
    }
}

struct KillFile {
    vfs: KillVfs,
    path: std::path::PathBuf,
    file: Box<dyn WriteFile>,
}

impl WriteFile for KillFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.vfs.alive(&self.path)?;
        self.file.write_at(offset, bytes)
    }

    fn sync(&mut self) -> Result<()> {
        self.vfs.alive(&self.path)?;
        self.file.sync()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }
}
