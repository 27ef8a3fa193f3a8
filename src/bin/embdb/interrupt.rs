//! Ctrl-C, SIGTERM and SIGHUP: the first asks the work under way to stop at its next safe point, the
//! second ends the process at once. Either way nothing acknowledged is lost, as that is on the disk.

use std::sync::Arc;

use embdb::options::Task;
use parking_lot::Mutex;
use signal_hook::consts::SIGXFSZ;

use crate::failure::INTERRUPTED;

struct State {
    /// The work under way, where it can be stopped.
    task: Option<Task>,
    /// Signals since the statement began.
    signals: u32,
    /// Whether to outlive a statement that cannot be stopped.
    stay: bool,
}

static STATE: Mutex<State> = Mutex::new(State { task: None, signals: 0, stay: false });

/// Installs the handler. Without one (a second call, an exotic system) signals end the process as usual.
pub fn install() {
    let handler = || {
        let mut state = STATE.lock();
        state.signals += 1;
        match &state.task {
            Some(task) if state.signals == 1 => task.cancel(),
            None if state.signals == 1 && state.stay => {}
            _ => std::process::exit(i32::from(INTERRUPTED)),
        }
    };
    drop(ctrlc::set_handler(handler));
    // A write beyond the file size limit is to be an error like a full disk, not the end of the process.
    drop(signal_hook::flag::register(SIGXFSZ, Arc::default()));
}

/// A statement that may be interrupted; ends with the value.
pub struct Statement(());

impl Statement {
    /// Begins a statement. With `stay`, one that cannot be stopped goes on to its end at the first signal.
    pub fn begin(stay: bool) -> Self {
        *STATE.lock() = State { task: None, signals: 0, stay };
        Self(())
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        *STATE.lock() = State { task: None, signals: 0, stay: false };
    }
}

/// Lets the first signal cancel `task` for the rest of the statement; cancelled at once if a
/// signal has come before.
pub fn cancels(task: &Task) {
    let mut state = STATE.lock();
    if state.signals > 0 {
        task.cancel();
    }
    state.task = Some(task.clone());
}
