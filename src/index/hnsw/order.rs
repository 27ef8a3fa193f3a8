//! In which order nodes come into a graph, and on how many threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::Result;
use crate::index::random::Random;
use crate::options::Task;

/// Nodes between two reports of progress.
const STEP: usize = 256;
/// Nodes inserted by one thread before others join in: in a small graph they would be in each other's way.
const ALONE: usize = 1024;

/// All rows, shuffled by a seed; 0 leaves them in order.
pub(super) fn insertion_order(len: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    if seed != 0 {
        let mut random = Random(seed);
        for i in (1..len).rev() {
            order.swap(i, random.below(i + 1));
        }
    }
    order
}

/// Calls `insert` for each node, in order on one thread, nearly so on several, each with room of its own.
///
/// # Errors
/// [`Cancelled`](crate::Error::Cancelled) where the task was.
pub(super) fn insert_all<R: Default>(
    order: &[u32],
    insert: impl Fn(u32, &mut R) + Sync,
    task: &Task,
    threads: usize,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = |end: usize| {
        let mut room = R::default();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(&node) = order.get(i).filter(|_| i < end) else { break };
            if i.is_multiple_of(STEP)
                && let Err(error) = task.step("graph", i as u64, order.len() as u64)
            {
                next.store(order.len(), Ordering::Relaxed);
                *failure.lock() = Some(error);
                break;
            }
            insert(node, &mut room);
        }
    };
    let alone = if threads == 1 { order.len() } else { ALONE.min(order.len()) };
    work(alone);
    if alone < order.len() && failure.lock().is_none() {
        next.store(alone, Ordering::Relaxed);
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(|| work(order.len())))));
    }
    failure.into_inner().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn every_node_is_inserted_once() {
        for (len, threads) in [(0, 2), (1, 1), (5000, 1), (5000, 3)] {
            let order = insertion_order(len, 7);
            let inserted = Mutex::new(Vec::new());
            insert_all(&order, |node, (): &mut ()| inserted.lock().push(node), &Task::default(), threads)
                .unwrap();
            let mut inserted = inserted.into_inner();
            assert!(threads > 1 || inserted == order);
            inserted.sort_unstable();
            assert_eq!(inserted, insertion_order(len, 0));
        }
    }

    #[test]
    fn a_task_that_is_cancelled_on_the_way_stops_all_threads() {
        let task = Task::default();
        let count = AtomicUsize::new(0);
        let insert = |_, (): &mut ()| {
            if count.fetch_add(1, Ordering::Relaxed) == 2000 {
                task.cancel();
            }
        };
        let order = insertion_order(100_000, 0);
        assert!(matches!(insert_all(&order, insert, &task, 3), Err(Error::Cancelled)));
        assert!(count.into_inner() < 10_000);
    }
}
