//! Whose turn it is to maintain: one thread at a time, which others can call off, and none that builds graphs while a load
//! outruns it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::Inner;
use crate::error::Result;

/// Rounds without a write after which a load is over: half a minute, as a batch may take some seconds to encode.
const QUIET_TICKS: u32 = 120;

/// Lets one thread at a time write segments, and tells it when others wait.
#[derive(Default)]
pub(crate) struct Alone {
    lock: Mutex<()>,
    pub(super) waiting: Arc<AtomicUsize>,
    /// So much waits to be sealed that whoever builds graphs is to stop.
    pub(super) overdue: Arc<AtomicBool>,
    /// How many of those who wait will make one segment of all.
    pub(super) uniting: AtomicUsize,
}

impl Alone {
    /// Waits for its turn.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.lock.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// The same for making one segment of all: nobody need complete another before.
    pub fn alone_to_unite(&self) -> MutexGuard<'_, ()> {
        self.uniting.fetch_add(1, Ordering::Relaxed);
        let guard = self.alone();
        self.uniting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Whether someone waits who will make one segment of all.
    pub(super) fn is_superseded(&self) -> bool {
        self.uniting.load(Ordering::Relaxed) > 0
    }

    /// Takes the turn if nobody has it.
    pub fn try_alone(&self) -> Option<MutexGuard<'_, ()>> {
        self.lock.try_lock()
    }

    /// Says whether somebody waits, or a seal is overdue.
    pub(super) fn wanted(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let (waiting, overdue) = (Arc::clone(&self.waiting), Arc::clone(&self.overdue));
        move || waiting.load(Ordering::Relaxed) > 0 || overdue.load(Ordering::Relaxed)
    }
}

/// Whether a load is under way that outran the building of graphs: then none is begun before it is over.
#[derive(Default)]
pub(crate) struct Load {
    under_way: AtomicBool,
    sequence: AtomicU64,
    ticks: AtomicU32,
}

impl Load {
    /// A load was found.
    pub(super) fn begin(&self) {
        self.ticks.store(0, Ordering::Relaxed);
        self.under_way.store(true, Ordering::Relaxed);
    }

    /// Whether there is none, as of a tick at which this is the last sequence number.
    pub(super) fn is_over(&self, sequence: u64) -> bool {
        if !self.under_way.load(Ordering::Relaxed) {
            return true;
        }
        if self.sequence.swap(sequence, Ordering::Relaxed) != sequence {
            self.ticks.store(0, Ordering::Relaxed);
            return false;
        }
        let over = self.ticks.fetch_add(1, Ordering::Relaxed) + 1 >= QUIET_TICKS;
        self.under_way.store(!over, Ordering::Relaxed);
        over
    }
}

/// Keeps the writer's lock from being handed over while files are built that no manifest names yet.
pub(crate) struct Pin<'a>(&'a Inner);

impl<'a> Pin<'a> {
    /// Takes the writer's lock and keeps it.
    pub fn new(inner: &'a Inner, timeout: Duration) -> Result<Self> {
        inner.writing(timeout)?.writer.pinned += 1;
        Ok(Self(inner))
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.writer.lock().pinned -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_over_when_nothing_was_written_for_a_while() {
        let load = Load::default();
        assert!(load.is_over(5));
        load.begin();
        for sequence in [5, 6, 7] {
            assert!(!(0..QUIET_TICKS).any(|_| load.is_over(sequence)));
        }
        assert!(load.is_over(7) && load.is_over(8));
    }
}
