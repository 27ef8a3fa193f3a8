//! What a run spends: the time of its stages, and memory.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::trainer::report::Stage;

/// Times of stages, in the order in which they were first entered. A stage that is entered again adds to its time.
#[derive(Debug, Default)]
pub(super) struct Spent(Mutex<Vec<Stage>>);

impl Spent {
    /// Does something as part of a stage.
    pub fn on<T>(&self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let made = work();
        self.add(name, start.elapsed());
        made
    }

    /// Adds time that a stage took.
    pub fn add(&self, name: &'static str, time: Duration) {
        let seconds = time.as_secs_f64();
        let mut stages = self.0.lock();
        match stages.iter_mut().find(|stage| stage.name == name) {
            Some(stage) => stage.seconds += seconds,
            None => stages.push(Stage { name, seconds }),
        }
    }

    /// Time that a stage has taken so far, in seconds.
    pub fn seconds(&self, name: &str) -> f64 {
        self.0.lock().iter().find(|stage| stage.name == name).map_or(0.0, |stage| stage.seconds)
    }

    /// The stages.
    pub fn stages(&self) -> Vec<Stage> {
        self.0.lock().clone()
    }
}

/// The most memory that this process ever had, in bytes; nothing where the system does not tell.
pub(super) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_in_their_order() {
        let spent = Spent::default();
        let wait = || std::thread::sleep(std::time::Duration::from_millis(2));
        spent.on("train", wait);
        assert_eq!(spent.on("judge", || 7), 7);
        let once = spent.stages();
        spent.on("train", wait);
        let twice = spent.stages();
        assert_eq!(twice.iter().map(|stage| stage.name).collect::<Vec<_>>(), ["train", "judge"]);
        assert!(twice[0].seconds >= once[0].seconds + 0.002 && twice[1] == once[1]);
        assert_eq!((spent.seconds("train"), spent.seconds("sleep")), (twice[0].seconds, 0.0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_at_its_peak_is_at_least_what_was_held() {
        let held = vec![1_u8; 32 << 20];
        assert!(held.iter().map(|&one| u64::from(one)).sum::<u64>() <= peak_bytes().unwrap());
    }
}
