//! Room for what a file says its length is: it may be more than there is memory, which is an error and not the end of the
//! process. A test (`db::memory`) makes each of these allocations fail in turn.

use std::io;

/// Makes room for `more` values.
pub(crate) fn reserve<T>(values: &mut Vec<T>, more: usize) -> io::Result<()> {
    #[cfg(test)]
    failing::count()?;
    values.try_reserve_exact(more).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// Which allocation fails on this thread.
#[cfg(test)]
pub(crate) mod failing {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        /// Allocations until the one that fails; 0: none fails.
        static LEFT: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count() -> io::Result<()> {
        match LEFT.get() {
            0 => Ok(()),
            left => {
                LEFT.set(left - 1);
                if left == 1 { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
            }
        }
    }

    /// Does work of which the `number`th allocation, from 1, fails. Whether there were so many, and what came of it.
    pub fn at<T>(number: u64, work: impl FnOnce() -> T) -> (bool, T) {
        LEFT.set(number);
        let result = work();
        (LEFT.replace(0) == 0, result)
    }
}
