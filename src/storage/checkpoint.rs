//! The state of an unfinished `retrain`: `jobs/retrain/<n>`, so that a stop costs little of the training.
//!
//! Each state is a file of its own, written beside the one before and renamed when it is whole; then the one before goes.
//! So a crash at any moment leaves one whole state, and two need room while one is written. The highest number counts.
//! Whoever trains holds the lock; what nobody holds is removed after a cut-over like any other job, for the generation that it
//! was to better no longer answers.

use std::path::{Path, PathBuf};

use super::container::ContainerWriter;
use super::vfs::{Lock, Vfs};
use super::{JOB_DIR, numbered, remove_dir_if_present};
use crate::error::{Error, Result};
use crate::format::file::{DatabaseId, Kind, Layout};

/// The directory in [`JOB_DIR`]; no model id is like it.
pub const CHECKPOINT_DIR: &str = "retrain";
/// Section: what is trained and how, as JSON.
pub const RUN: u32 = 1;
/// Section: what is learnt from, as JSON lines.
pub const DATA: u32 = 2;
/// Section: the state of training, empty before the first.
pub const STATE: u32 = 3;

/// What the name of a state begins with that is not whole.
const UNFINISHED: &str = "new-";
/// The lock in the directory.
const LOCK: &str = "LOCK";

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The file, for messages.
    pub path: PathBuf,
    /// Section [`RUN`].
    pub run: Vec<u8>,
    /// Section [`DATA`].
    pub data: Vec<u8>,
    /// Section [`STATE`].
    pub state: Vec<u8>,
}

/// The place where this process saves its run.
pub struct Checkpoint {
    path: PathBuf,
    database: DatabaseId,
    /// Number of the newest file, whole or not; 0 if there is none.
    last: u64,
    _lock: Box<dyn Lock>,
}

/// Whether anything is left of a run, be it nothing to go on with.
pub fn is_left(vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
    vfs.exists(&dir.join(JOB_DIR).join(CHECKPOINT_DIR))
}

/// Whether there is a run to go on with.
pub fn exists(vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
    Ok(!numbered(vfs, &dir.join(JOB_DIR).join(CHECKPOINT_DIR))?.is_empty())
}

impl Checkpoint {
    /// Takes the place; `None` if another run has it.
    pub fn open(vfs: &dyn Vfs, dir: &Path, database: DatabaseId) -> Result<Option<Self>> {
        let path = dir.join(JOB_DIR).join(CHECKPOINT_DIR);
        if !vfs.exists(&path)? {
            vfs.create_dir(&path)?;
            vfs.sync_dir(&dir.join(JOB_DIR))?;
        }
        let Some(lock) = vfs.try_lock(&path.join(LOCK))? else { return Ok(None) };
        let last = numbered(vfs, &path)?.last().copied().unwrap_or(0);
        Ok(Some(Self { path, database, last, _lock: lock }))
    }

    /// The newest state, verified; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged or another database's, [`Error::TooNew`], [`Error::TooOld`].
    pub fn read(&self, vfs: &dyn Vfs) -> Result<Option<Contents>> {
        let Some(&number) = numbered(vfs, &self.path)?.last() else { return Ok(None) };
        let path = self.file(number);
        let bytes = vfs.map(&path)?;
        let layout = Layout::parse(&bytes, Kind::Checkpoint, &path)?;
        if layout.database != self.database {
            return Err(Error::corrupt(path, 0, "the checkpoint of another database"));
        }
        layout.verify(&bytes, 0, bytes.len(), &path)?;
        let section = |id| {
            let bytes = layout.section(id).and_then(|range| bytes.get(range));
            bytes
                .map(<[u8]>::to_vec)
                .ok_or_else(|| Error::corrupt(&path, 0, format!("section {id} is missing")))
        };
        let (run, data, state) = (section(RUN)?, section(DATA)?, section(STATE)?);
        Ok(Some(Contents { path, run, data, state }))
    }

    /// Saves a state instead of the one before. After an error that one still counts, unless this one is whole already.
    pub fn write(&mut self, vfs: &dyn Vfs, run: &[u8], data: &[u8], state: &[u8]) -> Result<()> {
        let number = self.last + 1;
        let new = self.path.join(format!("{UNFINISHED}{number:020}"));
        if let Err(error) = self.write_to(vfs, new.clone(), [run, data, state]) {
            // What is there of it takes room that the run needs.
            let _ = vfs.remove_file(&new);
            return Err(error);
        }
        vfs.rename(&new, &self.file(number))?;
        self.last = number;
        vfs.sync_dir(&self.path)?;
        for older in numbered(vfs, &self.path)?.into_iter().filter(|&other| other < number) {
            vfs.remove_file(&self.file(older))?;
        }
        Ok(())
    }

    fn write_to(&self, vfs: &dyn Vfs, path: PathBuf, sections: [&[u8]; 3]) -> Result<()> {
        let mut file = ContainerWriter::create(vfs, path, Kind::Checkpoint, self.database, sections.len())?;
        for (id, bytes) in [RUN, DATA, STATE].into_iter().zip(sections) {
            file.begin(id);
            file.write(bytes)?;
        }
        file.finish(String::new()).map(|_| ())
    }

    /// Removes a state that was not written to its end.
    pub fn remove_unfinished(&self, vfs: &dyn Vfs) -> Result<()> {
        for name in vfs.read_dir(&self.path)?.iter().filter(|name| name.starts_with(UNFINISHED)) {
            vfs.remove_file(&self.path.join(name))?;
        }
        Ok(())
    }

    /// Removes all of it: the run has ended.
    pub fn finish(self, vfs: &dyn Vfs) -> Result<()> {
        remove_dir_if_present(vfs, &self.path)
    }

    fn file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:020}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sim::{CrashMode, Fault, FaultError, OpKind, SimVfs};
    use super::*;

    const ID: DatabaseId = [3; 16];

    fn disk() -> SimVfs {
        let vfs = SimVfs::new(1);
        super::super::create_dirs(&vfs, Path::new("db")).unwrap();
        vfs
    }

    fn open(vfs: &SimVfs) -> Checkpoint {
        Checkpoint::open(vfs, Path::new("db"), ID).unwrap().unwrap()
    }

    fn state(vfs: &SimVfs) -> Option<Vec<u8>> {
        open(vfs).read(vfs).unwrap().map(|contents| contents.state)
    }

    #[test]
    fn the_newest_state_counts_and_one_run_has_the_place() {
        let vfs = disk();
        assert!(!exists(&vfs, Path::new("db")).unwrap());
        let mut place = open(&vfs);
        assert!(Checkpoint::open(&vfs, Path::new("db"), ID).unwrap().is_none());
        assert_eq!(place.read(&vfs).unwrap(), None);
        for number in 0..3 {
            place.write(&vfs, b"run", b"data", &[number; 200_000]).unwrap();
        }
        drop(place);
        let place = open(&vfs);
        let found = place.read(&vfs).unwrap().unwrap();
        assert_eq!((&*found.run, &*found.data, found.state), (&b"run"[..], &b"data"[..], vec![2; 200_000]));
        assert_eq!(vfs.read_dir(&place.path).unwrap().len(), 2, "one state and the lock");
        assert!(exists(&vfs, Path::new("db")).unwrap());
        place.finish(&vfs).unwrap();
        assert!(!exists(&vfs, Path::new("db")).unwrap());
    }

    #[test]
    fn a_crash_leaves_the_state_before_or_the_new_one() {
        let vfs = disk();
        let mut place = open(&vfs);
        place.write(&vfs, b"run", b"data", b"old").unwrap();
        let begin = vfs.op_count();
        place.write(&vfs, b"run", b"data", b"new").unwrap();
        for at in begin..=vfs.op_count() {
            for mode in CrashMode::ALL {
                let image = vfs.crash_image(at, mode, at as u64);
                let found = state(&image).unwrap();
                assert!(found == b"old" || found == b"new", "{at} {mode:?}");
                if at == vfs.op_count() {
                    assert_eq!(found, b"new", "{mode:?}");
                }
            }
        }
    }

    #[test]
    fn an_error_while_saving_leaves_the_state_before() {
        for op_kind in [OpKind::Create, OpKind::Write, OpKind::Sync, OpKind::Rename] {
            let vfs = disk();
            let mut place = open(&vfs);
            place.write(&vfs, b"run", b"data", b"old").unwrap();
            vfs.inject(Fault { op_kind, nth: 0, error: FaultError::Enospc, sticky: false });
            assert_eq!(place.write(&vfs, b"run", b"data", b"new").unwrap_err().exit_code(), 4, "{op_kind:?}");
            assert_eq!(place.read(&vfs).unwrap().unwrap().state, b"old", "{op_kind:?}");
            place.write(&vfs, b"run", b"data", b"newest").unwrap();
            drop(place);
            assert_eq!(state(&vfs).unwrap(), b"newest", "{op_kind:?}");
        }
    }

    #[test]
    fn damage_and_other_databases_are_told() {
        let vfs = disk();
        open(&vfs).write(&vfs, b"run", b"data", &[1; 100]).unwrap();
        let stranger = Checkpoint::open(&vfs, Path::new("db"), [4; 16]).unwrap().unwrap();
        assert!(stranger.read(&vfs).unwrap_err().to_string().contains("another database"));
        drop(stranger);
        let place = open(&vfs);
        let file = place.file(1);
        let length = vfs.file_len(&file).unwrap();
        for at in 0..length {
            let byte = vfs.read_at(&file, at, 1).unwrap()[0];
            vfs.open_write(&file).unwrap().write_at(at, &[byte ^ 1]).unwrap();
            assert!(matches!(place.read(&vfs), Err(Error::Corrupt { .. } | Error::TooNew { .. })), "{at}");
            vfs.open_write(&file).unwrap().write_at(at, &[byte]).unwrap();
        }
        assert!(place.read(&vfs).unwrap().is_some());
    }
}
