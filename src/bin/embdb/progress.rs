//! Progress bars with rate and time left, on a terminal only.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use embdb::options::{Progress, Task};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

const KNOWN: &str = "{msg} {bar:32} {human_pos}/{human_len} {per_sec} left {eta}";
/// Where there is more to say than the rate of steps.
const DETAILED: &str = "{msg} {bar:32} {human_pos}/{human_len} left {eta}";
const UNKNOWN: &str = "{msg} {spinner} {human_pos} {per_sec} {elapsed}";
/// Where the message has its own count and rate.
const COUNTED: &str = "{msg} {bar:32} {percent}% left {eta}";

/// The stage of [`Work::documents`].
const IMPORT: &str = "import";

/// A bar on standard error; hidden unless that is a terminal.
#[derive(Clone)]
pub struct Bar {
    bar: ProgressBar,
    stage: Arc<Mutex<String>>,
}

impl Bar {
    /// A bar that shows nothing until the first step.
    pub fn new(quiet: bool) -> Self {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(Some(0), target), stage: Arc::default() }
    }

    /// Shows a step.
    pub fn show(&self, step: Progress<'_>) {
        let begins = {
            let mut stage = self.stage.lock();
            let begins = *stage != step.stage;
            if begins {
                let template = match (step.stage, step.total) {
                    (IMPORT, 1..) => COUNTED,
                    (_, 0) => UNKNOWN,
                    _ if !step.detail.is_empty() => DETAILED,
                    _ => KNOWN,
                };
                // Style and message first: whatever follows draws.
                if let Ok(style) = ProgressStyle::with_template(template) {
                    self.bar.set_style(style.progress_chars("=> "));
                }
                self.bar.set_message(step.stage.to_string());
                self.bar.set_length(step.total);
                self.bar.reset();
                self.bar.enable_steady_tick(Duration::from_millis(200));
                *stage = step.stage.to_string();
            }
            begins
        };
        self.bar.set_length(step.total);
        if !step.detail.is_empty() {
            self.bar.set_message(format!("{} {}", step.stage, step.detail));
        }
        self.bar.set_position(step.done);
        if begins && step.done > 0 {
            // What was done before tells nothing about the rate.
            self.bar.reset_eta();
        }
    }

    /// Shows documents and their rate; the time left is that of the input's bytes.
    fn documents(&self, documents: u64, read: u64, total: u64) {
        let seconds = self.bar.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { documents as f64 / seconds } else { 0.0 };
        self.show(Progress { stage: IMPORT, done: read, total, detail: "" });
        self.bar.set_message(format!("import {documents} documents, {rate:.0}/s"));
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Long work with a bar: removed from the screen when dropped, cancelled by the first Ctrl-C.
pub struct Work {
    /// To be given to the library.
    pub task: Task,
    bar: Bar,
}

impl Work {
    /// Work that reports and stops through its task.
    pub fn begin(quiet: bool, timeout: Option<Duration>) -> Self {
        let bar = Bar::new(quiet);
        let shown = bar.clone();
        let task = limited(Task::with_progress(move |step| shown.show(step)), timeout);
        crate::interrupt::cancels(&task);
        Self { task, bar }
    }

    /// Work that counts documents itself; its task does not touch the bar.
    pub fn counting(quiet: bool, timeout: Option<Duration>) -> Self {
        let task = limited(Task::default(), timeout);
        crate::interrupt::cancels(&task);
        Self { task, bar: Bar::new(quiet) }
    }

    /// Shows how many documents are done, and how much of the input was read.
    pub fn documents(&self, documents: u64, read: u64, total: u64) {
        self.bar.documents(documents, read, total);
    }
}

fn limited(task: Task, timeout: Option<Duration>) -> Task {
    timeout.map_or(task.clone(), |limit| task.within(limit))
}

impl Drop for Work {
    fn drop(&mut self) {
        self.bar.clear();
    }
}
