//! Progress bars with rate and time left, on a terminal only.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use embdb::options::{Progress, Task};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

const KNOWN: &str = "{msg:<10} {bar:32} {human_pos}/{human_len} {per_sec} left {eta}";
const UNKNOWN: &str = "{msg:<10} {spinner} {human_pos} {per_sec} {elapsed}";

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
        {
            let mut stage = self.stage.lock();
            if *stage != step.stage {
                self.bar.reset();
                self.bar.set_message(step.stage.to_string());
                let template = if step.total > 0 { KNOWN } else { UNKNOWN };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    self.bar.set_style(style.progress_chars("=> "));
                }
                self.bar.enable_steady_tick(Duration::from_millis(200));
                *stage = step.stage.to_string();
            }
        }
        self.bar.set_length(step.total);
        self.bar.set_position(step.done);
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
    pub fn begin(quiet: bool) -> Self {
        let bar = Bar::new(quiet);
        let shown = bar.clone();
        let task = Task::with_progress(move |step| shown.show(step));
        crate::interrupt::cancels(&task);
        Self { task, bar }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.bar.clear();
    }
}
