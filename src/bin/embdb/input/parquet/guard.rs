//! Calls into the parquet crate, whose decoders stop with a panic on some malformed files: it becomes an error, and
//! prints nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use parquet::errors::{ParquetError, Result};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`. What it worked on must not be used again after an error: it may be half done.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    result.unwrap_or_else(|_| Err(ParquetError::General("it is malformed".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let error = guarded(|| -> Result<()> { panic!("never seen") }).unwrap_err();
        assert!(error.to_string().contains("malformed"), "{error}");
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
        assert!(!GUARDED.get());
    }
}
