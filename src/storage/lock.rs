//! The writer's lock: at most one writer at a time, and a fair way to take turns.
//!
//! `LOCK` carries an exclusive `flock` as long as its holder lives, so a killed process leaves nothing behind. The
//! process id in it is for messages only: without the `flock` it means nothing. Neither file is ever removed.
//!
//! Who waits for the lock holds a second one, on `LOCK.wait`, so that the holder can see it and hand over between
//! two batches. With several waiters one is visible and the others poll; all get their turn.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::vfs::{Lock, Vfs};
use crate::error::{Error, Result};

/// The name of the lock file in the database directory.
pub const LOCK_FILE: &str = "LOCK";
/// The name of the file that a waiter locks.
pub const WAIT_FILE: &str = "LOCK.wait";

/// Time between two tries of a waiter.
const POLL: Duration = Duration::from_millis(10);
/// How long a holder that hands over stays away for a waiter that does not come.
const HAND_OVER_MAX: Duration = Duration::from_millis(200);

/// The right to write to a database. Released on drop.
pub struct WriterLock {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    /// Held for its drop.
    _lock: Box<dyn Lock>,
}

impl WriterLock {
    /// Takes the lock of the database in `dir`, trying for at most `timeout`; with zero, fails at once.
    ///
    /// # Errors
    /// [`Error::Busy`] with the holder's process id when the time is over, [`Error::Io`] when the lock file cannot
    /// be opened or locked.
    pub fn acquire(vfs: &Arc<dyn Vfs>, dir: &Path, timeout: Duration) -> Result<Self> {
        let path = dir.join(LOCK_FILE);
        let start = Instant::now();
        let mut mark = None;
        let mut tries = 0u32;
        loop {
            if let Some(mut lock) = vfs.try_lock(&path)? {
                // Only for messages: a full disk must not keep a writer from, say, removing things.
                let _ = lock.set_text(&format!("{}\n", std::process::id()));
                return Ok(Self { vfs: Arc::clone(vfs), dir: dir.to_path_buf(), _lock: lock });
            }
            tries += 1;
            let waited = start.elapsed();
            // One more try even without a timeout: someone asking `is_locked` holds a shared lock for a moment.
            if waited >= timeout && tries > 1 {
                return Err(Error::Busy { pid: lock_holder(vfs.as_ref(), &path) });
            }
            if timeout.is_zero() {
                sleep(Duration::from_millis(1));
                continue;
            }
            if mark.is_none() {
                mark = vfs.try_lock(&dir.join(WAIT_FILE))?;
            }
            sleep(POLL.min(timeout.saturating_sub(waited)));
        }
    }

    /// Whether someone waits for this lock. Cheap enough to ask between two batches.
    ///
    /// # Errors
    /// [`Error::Io`] when the wait file exists but cannot be opened.
    pub fn someone_waits(&self) -> Result<bool> {
        self.vfs.is_locked(&self.dir.join(WAIT_FILE))
    }

    /// Releases the lock, lets a waiter have it, and takes it again after that, trying for at most `timeout`.
    ///
    /// The database may have changed meanwhile.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn hand_over(self, timeout: Duration) -> Result<Self> {
        let (vfs, dir) = (Arc::clone(&self.vfs), self.dir.clone());
        drop(self);
        let start = Instant::now();
        // The waiter lets its mark go when it has the lock.
        while start.elapsed() < HAND_OVER_MAX && vfs.is_locked(&dir.join(WAIT_FILE))? {
            sleep(Duration::from_millis(2));
        }
        Self::acquire(&vfs, &dir, timeout)
    }
}

/// The process id in a lock file, if it can be read. It may be stale: ask
/// [`is_locked`](Vfs::is_locked) whether anyone holds the lock.
pub fn lock_holder(vfs: &dyn Vfs, path: &Path) -> Option<u32> {
    let text = vfs.read_at(path, 0, 32).ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::real::RealVfs;
    use super::super::sim::SimVfs;
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// Runs a check on both file systems.
    fn on_both(check: impl Fn(Arc<dyn Vfs>, &Path)) {
        let dir = tempfile::tempdir().unwrap();
        check(Arc::new(RealVfs), dir.path());
        check(Arc::new(SimVfs::new(1)), Path::new("/"));
    }

    fn wait_until(mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < LONG, "in vain");
            sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_second_writer_is_told_who_is_busy() {
        on_both(|vfs, dir| {
            let lock = WriterLock::acquire(&vfs, dir, Duration::ZERO).unwrap();
            let start = Instant::now();
            match WriterLock::acquire(&vfs, dir, Duration::ZERO) {
                Err(Error::Busy { pid }) => assert_eq!(pid, Some(std::process::id())),
                _ => panic!("two writers"),
            }
            assert!(start.elapsed() < Duration::from_secs(1), "at once");
            assert!(!lock.someone_waits().unwrap());
            drop(lock);
            assert!(WriterLock::acquire(&vfs, dir, Duration::ZERO).is_ok());
        });
    }

    #[test]
    fn a_waiter_gives_up_in_time() {
        on_both(|vfs, dir| {
            let lock = WriterLock::acquire(&vfs, dir, Duration::ZERO).unwrap();
            let start = Instant::now();
            let second = WriterLock::acquire(&vfs, dir, Duration::from_millis(50));
            assert!(matches!(second, Err(Error::Busy { .. })));
            assert!(start.elapsed() >= Duration::from_millis(50));
            assert!(!lock.someone_waits().unwrap(), "the mark is gone");
        });
    }

    #[test]
    fn a_holder_sees_a_waiter_and_hands_over() {
        on_both(|vfs, dir| {
            let lock = WriterLock::acquire(&vfs, dir, Duration::ZERO).unwrap();
            std::thread::scope(|scope| {
                let (done, is_done) = std::sync::mpsc::channel();
                let vfs = &vfs;
                scope.spawn(move || {
                    let lock = WriterLock::acquire(vfs, dir, LONG).unwrap();
                    sleep(Duration::from_millis(30));
                    done.send(()).unwrap();
                    drop(lock);
                });
                wait_until(|| lock.someone_waits().unwrap());
                let lock = lock.hand_over(LONG).unwrap();
                assert!(is_done.try_recv().is_ok(), "the waiter had its turn first");
                assert!(!lock.someone_waits().unwrap());
            });
        });
    }

    #[test]
    fn garbage_in_the_lock_file_is_no_holder() {
        on_both(|vfs, dir| {
            let path = dir.join(LOCK_FILE);
            assert_eq!(lock_holder(vfs.as_ref(), &path), None);
            let mut file = vfs.create(&path).unwrap();
            file.write_at(0, &[0xff; 100]).unwrap();
            assert_eq!(lock_holder(vfs.as_ref(), &path), None);
            let lock = WriterLock::acquire(&vfs, dir, Duration::ZERO).unwrap();
            assert_eq!(lock_holder(vfs.as_ref(), &path), Some(std::process::id()));
            drop(lock);
        });
    }
}
