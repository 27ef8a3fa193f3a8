//! How long searches take that are made one after the other.
//!
//! Times are of the wall, so that they show waits for locks and for other threads: on a machine with few cores the
//! background takes its share of them. Beside them stands the processor time of the searching thread alone: what a search
//! itself has to do.

use std::time::{Duration, Instant};

/// Titles of the columns of [`Latencies::row`].
pub fn titles() -> String {
    format!("{:<40} {:>9} {:>8} {:>8} {:>8} {:>8}", "", "searches", "p50 µs", "p99 µs", "max µs", "cpu p99")
}

/// The times of searches.
#[derive(Default)]
pub struct Latencies {
    wall: Vec<Duration>,
    processor: Vec<Duration>,
}

impl Latencies {
    /// Makes a search, and takes its time.
    pub fn of<T>(&mut self, search: impl FnOnce() -> T) -> T {
        let (began, used) = (Instant::now(), thread_time());
        let found = search();
        self.wall.push(began.elapsed());
        self.processor.push(thread_time() - used);
        found
    }

    /// How many searches were made.
    pub fn count(&self) -> usize {
        self.wall.len()
    }

    /// A row of the table whose columns are [`titles`].
    pub fn row(&mut self, what: &str) -> String {
        self.wall.sort_unstable();
        self.processor.sort_unstable();
        let at = |times: &[Duration], share: f64| match times {
            [] => 0,
            _ => times[((times.len() - 1) as f64 * share) as usize].as_micros(),
        };
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| at(&self.wall, share));
        let own = at(&self.processor, 0.99);
        format!("{what:<40} {:>9} {half:>8} {most:>8} {all:>8} {own:>8}", self.count())
    }
}

/// Processor time of this thread so far.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
