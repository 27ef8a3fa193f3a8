//! The real file system without maps: files are read into memory when they are opened.
//!
//! For files of unknown origin, and for file systems that may vanish: whatever becomes of a file afterwards, reading it
//! can neither fail nor change. A database takes as much memory as its files.

use std::path::Path;

use super::real::RealVfs;
use super::room::reserve;
use super::vfs::{Bytes, Lock, Vfs, WriteFile};
use crate::error::{Error, Result};

/// The file system of this machine, its files read instead of mapped.
#[derive(Debug, Clone, Copy, Default)]
pub struct PreadVfs;

impl Vfs for PreadVfs {
    fn map(&self, path: &Path) -> Result<Bytes> {
        const PIECE: usize = 16 << 20;
        let length = self.file_len(path)?;
        let mut bytes: Vec<u8> = Vec::new();
        reserve(&mut bytes, usize::try_from(length).unwrap_or(usize::MAX))
            .map_err(Error::io("read", path))?;
        while (bytes.len() as u64) < length {
            let piece = RealVfs.read_at(path, bytes.len() as u64, PIECE)?;
            if piece.is_empty() {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Bytes::from(bytes.as_slice()))
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        RealVfs.create_dir(path)
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<String>> {
        RealVfs.read_dir(path)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        RealVfs.exists(path)
    }

    fn is_dir(&self, path: &Path) -> Result<bool> {
        RealVfs.is_dir(path)
    }

    fn file_len(&self, path: &Path) -> Result<u64> {
        RealVfs.file_len(path)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        RealVfs.create(path)
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        RealVfs.open_write(path)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        RealVfs.read(path)
    }

    fn read_at(&self, path: &Path, offset: u64, max_len: usize) -> Result<Vec<u8>> {
        RealVfs.read_at(path, offset, max_len)
    }

    fn next_data(&self, path: &Path, offset: u64) -> Result<u64> {
        RealVfs.next_data(path, offset)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        RealVfs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        RealVfs.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        RealVfs.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        RealVfs.sync_dir(path)
    }

    fn try_lock(&self, path: &Path) -> Result<Option<Box<dyn Lock>>> {
        RealVfs.try_lock(path)
    }

    fn is_locked(&self, path: &Path) -> Result<bool> {
        RealVfs.is_locked(path)
    }

    fn now_ms(&self) -> u64 {
        RealVfs.now_ms()
    }

    fn random(&self) -> u64 {
        RealVfs.random()
    }
}
