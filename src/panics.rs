//! Calls into crates that stop with a panic on some malformed files: the panic becomes an answer, and a program can have it
//! print nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives; `None` if it panics. What it worked on must not be used again then: it may be half done.
pub fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let outer = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    result.ok()
}

/// Keeps panics that [`caught`] turns into answers from being printed, whose readers would take them for a crash. It
/// changes the hook of the process, so programs call it and the library does not.
pub fn hush_caught() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                before(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_none_and_the_thread_goes_on() {
        hush_caught();
        let inner = || caught(|| -> u8 { panic!("never seen") });
        assert_eq!(caught(|| (inner(), CAUGHT.get())), Some((None, true)));
        assert!(!CAUGHT.get());
    }
}
