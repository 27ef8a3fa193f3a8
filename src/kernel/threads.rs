//! Work on several threads whose result does not depend on how many there are: it is cut into parts beforehand, and each
//! part is done by one thread alone.

use parking_lot::Mutex;

/// A number of threads, where 0 stands for one a core.
pub(crate) fn threads_or_cores(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    }
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
    let run = || {
        let mut room = room();
        loop {
            let part = parts.lock().next();
            let Some(part) = part else { break };
            work(&mut room, part);
        }
    };
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
