//! Work on several threads whose result does not depend on how many there are: it is cut into parts beforehand, and each
//! part is done by one thread alone. Work within a part has the part's share of the cores.

use std::cell::Cell;

use parking_lot::Mutex;

thread_local! {
    /// Cores that the work of this thread may take; 0: all.
    static SHARE: Cell<usize> = const { Cell::new(0) };
}

/// A number of threads, where 0 stands for one a core, of those that this thread's work may take.
pub(crate) fn threads_or_cores(threads: usize) -> usize {
    match (threads, SHARE.get()) {
        (0, 0) => std::thread::available_parallelism().map_or(1, |n| n.get()),
        (0, share) => share,
        (n, _) => n,
    }
}

/// Does two things at the same time, if this thread's work may take two cores.
pub(crate) fn both<A, B: Send>(a: impl FnOnce() -> A, b: impl FnOnce() -> B + Send) -> (A, B) {
    let cores = threads_or_cores(0);
    if cores < 2 {
        return (a(), b());
    }
    let share = cores / 2;
    std::thread::scope(|scope| {
        let b = scope.spawn(|| sharing(share, b));
        let a = sharing(cores - share, a);
        (a, b.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Does work that may take so many cores.
fn sharing<T>(share: usize, work: impl FnOnce() -> T) -> T {
    let before = SHARE.replace(share);
    let result = work();
    SHARE.set(before);
    result
}

/// Does `work` on every part, on at most `threads` threads (0: one a core), each with room of its own that `room` makes.
pub(crate) fn for_parts<P: Send, R>(
    threads: usize,
    parts: impl ExactSizeIterator<Item = P> + Send,
    room: impl Fn() -> R + Sync,
    work: impl Fn(&mut R, P) + Sync,
) {
    let threads = threads_or_cores(threads).min(parts.len());
    if threads <= 1 {
        let mut room = room();
        parts.for_each(|part| work(&mut room, part));
        return;
    }
    let parts = Mutex::new(parts);
    let share = (threads_or_cores(0) / threads).max(1);
    let all = || {
        let mut room = room();
        loop {
            let part = parts.lock().next();
            let Some(part) = part else { break };
            work(&mut room, part);
        }
    };
    let run = || sharing(share, all);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_within_a_part_shares_the_cores() {
        let cores = threads_or_cores(0);
        let (a, b) = both(|| threads_or_cores(0), || threads_or_cores(0));
        assert!(a + b == cores.max(2) && threads_or_cores(0) == cores, "{a} and {b} of {cores}");
        let most = Mutex::new(0);
        for_parts(cores, 0..2 * cores, || (), |(), _| *most.lock() = threads_or_cores(0));
        assert_eq!((*most.lock(), threads_or_cores(0), threads_or_cores(3)), (1, cores, 3));
    }

    #[test]
    fn every_part_is_done_once() {
        for threads in [0, 1, 2, 5] {
            let mut values: Vec<usize> = (0..100).collect();
            for_parts(
                threads,
                values.chunks_mut(7),
                || 3,
                |more, part| part.iter_mut().for_each(|value| *value += *more),
            );
            assert_eq!(values, (3..103).collect::<Vec<_>>());
        }
        for_parts(2, Vec::<usize>::new().into_iter(), || (), |(), _| unreachable!());
    }
}
