//! What a phase costs: CPU time of the whole process, wall time, memory.

use std::time::Instant;

use serde_json::{Map, Value, json};

/// CPU seconds of all threads of this process: what others on the machine do does not show in it.
pub fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Resident memory in MB, as the system counts it.
pub fn memory() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = ["VmRSS", "RssAnon", "RssFile", "VmHWM"];
    let field = |line: &str| {
        let (key, rest) = line.split_once(':')?;
        let kilobytes: f64 = rest.split_whitespace().next()?.parse().ok()?;
        wanted.contains(&key).then(|| (key.to_owned(), json!((kilobytes / 102.4).round() / 10.0)))
    };
    Value::Object(status.lines().filter_map(field).collect::<Map<_, _>>())
}

/// Times of many calls of one kind.
#[derive(Default)]
pub struct Times {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

impl Times {
    /// Runs and measures.
    pub fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (start, before) = (Instant::now(), cpu());
        let result = work();
        let spent = cpu() - before;
        self.wall.push(start.elapsed().as_secs_f64());
        self.cpu.push(spent);
        result
    }

    /// Calls measured.
    pub fn len(&self) -> usize {
        self.cpu.len()
    }

    /// CPU seconds of all calls.
    pub fn cpu(&self) -> f64 {
        self.cpu.iter().sum()
    }

    /// Seconds of all calls.
    pub fn wall(&self) -> f64 {
        self.wall.iter().sum()
    }

    /// Mean wall seconds.
    pub fn mean(&self) -> f64 {
        self.wall() / self.len().max(1) as f64
    }

    /// CPU seconds within which this share of the calls ended.
    pub fn cpu_at(&self, share: f64) -> f64 {
        at(&self.cpu, share)
    }

    /// Wall seconds within which this share of the calls ended.
    pub fn wall_at(&self, share: f64) -> f64 {
        at(&self.wall, share)
    }
}

/// The percentile as NumPy gives it, between the two nearest values.
fn at(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = share * sorted.len().saturating_sub(1) as f64;
    let value = |n: usize| sorted.get(n).or(sorted.last()).copied().unwrap_or_default();
    let (low, high) = (value(place as usize), value(place as usize + 1));
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_values() {
        let times = [4.0, 1.0, 2.0, 3.0];
        assert_eq!((at(&times, 0.0), at(&times, 0.5), at(&times, 1.0)), (1.0, 2.5, 4.0));
        assert_eq!(at(&[], 0.5), 0.0);
    }
}
