//! Threads that work while a handle is open: one brings acknowledged writes to the disk, another maintains. Of the two the
//! first is never long about it, so that neither a merge nor a graph delays a sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::Inner;
use crate::error::{Error, Result};
use crate::options::Task;

/// How often each looks for something to do.
const TICK: Duration = Duration::from_millis(250);
/// What the maintaining thread adds to the process's nice value: searches and writes go first where all cores are busy.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// The threads of a database.
pub(crate) struct Background {
    _syncing: Ticker,
    _maintenance: Ticker,
}

impl Background {
    /// Starts the threads.
    pub fn start(inner: &Arc<Inner>) -> Result<Self> {
        Ok(Self {
            _syncing: Ticker::start(inner, "embdb-sync", || {}, Inner::sync_round)?,
            _maintenance: Ticker::start(inner, "embdb-maintenance", give_way, Inner::maintenance_round)?,
        })
    }
}

/// Lets the other threads of the process go before this one, from now on. A hint: failure is ignored.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Ok(now) = rustix::process::getpriority_process(None) {
        // On Linux that of the calling thread alone.
        let _ = rustix::process::setpriority_process(None, (now + NICER).min(19));
    }
}

/// Does long work on a thread that lets the others go first, and waits for it.
pub(super) fn giving_way<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let run = || {
        give_way();
        work()
    };
    match std::thread::scope(|scope| scope.spawn(run).join()) {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A thread that does something again and again. It holds no handle, so it ends with the last one.
struct Ticker {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    stopped: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
    task: Task,
}

impl Ticker {
    fn start(
        inner: &Arc<Inner>,
        name: &str,
        begin: fn(),
        round: fn(&Inner, &Task) -> Result<()>,
    ) -> Result<Self> {
        let stop = Arc::new(Stop::default());
        let (weak, its_stop) = (Arc::downgrade(inner), Arc::clone(&stop));
        let run = move || {
            begin();
            while !its_stop.stopped.load(Ordering::Relaxed) {
                let mut guard = its_stop.lock.lock();
                if !its_stop.stopped.load(Ordering::Relaxed) {
                    its_stop.wake.wait_for(&mut guard, TICK);
                }
                drop(guard);
                let Some(inner) = weak.upgrade() else { break };
                // What fails here fails again, and is told, when the user writes or compacts.
                let _ = round(&inner, &its_stop.task);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        let thread = thread.map_err(Error::io("start a thread for", &inner.dir))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // Under the lock, so that the thread is not just about to wait.
        let guard = self.stop.lock.lock();
        self.stop.stopped.store(true, Ordering::Relaxed);
        drop(guard);
        self.stop.task.cancel();
        self.stop.wake.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::options::Durability;
    use crate::storage::sim::{CrashMode, SimVfs};
    use crate::{CreateOptions, Db, Document, OpenOptions};

    #[test]
    fn a_long_merge_does_not_keep_writes_from_the_disk() {
        let sim = SimVfs::new(1);
        let create = CreateOptions { vectors: Some(2), ..CreateOptions::default() };
        let options = OpenOptions { create, durability: Durability::Normal, ..OpenOptions::default() };
        let db = Db::open_vfs(Arc::new(sim.clone()), "db", options.clone()).unwrap();
        let _merging = db.inner.maintenance.alone();
        for n in 0..3 {
            db.add([Document::from_vector(format!("{n}"), vec![1.0, 2.0])]).unwrap();
            let survivors = || {
                let disk = sim.crash_image(sim.op_count(), CrashMode::DropAll, 1);
                let options = OpenOptions { background: false, ..options.clone() };
                Db::open_vfs(Arc::new(disk), "db", options).unwrap().count().unwrap()
            };
            let start = Instant::now();
            while survivors() <= n {
                assert!(start.elapsed() < Duration::from_secs(20), "write {n} is not synced");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn maintenance_gives_way_and_nobody_else() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let nice = std::thread::spawn(|| {
            give_way();
            rustix::process::getpriority_process(None).unwrap()
        });
        assert_eq!(nice.join().unwrap(), (before + NICER).min(19));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }
}
