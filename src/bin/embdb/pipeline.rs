//! Work in stages: one thread reads, some work, and the caller gets the results in the order of the reading.
//!
//! Invariants: at most `ahead` results are made and not yet taken; an error comes in its place, and nothing after it.
//! The threads are not joined: after an error or an interrupt the reader may wait for input that never comes. They hold
//! nothing that matters then, and end when they notice that nobody listens.

use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use embdb::options::Task;
use embdb::{Error, Result};

/// How soon an interrupt is noticed while there is no result.
const NOTICE: Duration = Duration::from_millis(100);

/// Where the reader puts what it read.
pub struct Feed<T, U> {
    work: Sender<(T, Sender<Result<U>>)>,
    order: Sender<Receiver<Result<U>>>,
}

impl<T, U> Feed<T, U> {
    /// Hands something on to be worked on; false if nobody listens any more.
    pub fn send(&self, item: T) -> bool {
        let (result, place) = bounded(1);
        self.order.send(place).is_ok() && self.work.send((item, result)).is_ok()
    }

    /// Hands on a result, or the error that ends the input; false if nobody listens any more.
    pub fn done(&self, result: Result<U>) -> bool {
        let (done, place) = bounded(1);
        done.send(result).is_ok() && self.order.send(place).is_ok()
    }
}

/// The results, in order.
pub struct Results<U> {
    order: Receiver<Receiver<Result<U>>>,
}

impl<U> Results<U> {
    /// The next result; `None` at the end. Fails with [`Error::Cancelled`] soon after the task was cancelled.
    pub fn next(&self, task: &Task) -> Result<Option<U>> {
        let Some(place) = receive(&self.order, task)? else { return Ok(None) };
        match receive(&place, task)? {
            Some(result) => result.map(Some),
            None => Err(Error::input("a thread stopped before its work was done")),
        }
    }
}

/// What comes next; `None` if nothing can come any more.
fn receive<T>(from: &Receiver<T>, task: &Task) -> Result<Option<T>> {
    loop {
        task.quiet().step("wait", 0, 0)?;
        match from.recv_timeout(NOTICE) {
            Ok(item) => return Ok(Some(item)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// Starts `workers` threads that do `work` with what `read` feeds.
pub fn start<T: Send + 'static, U: Send + 'static>(
    ahead: usize,
    workers: usize,
    work: impl Fn(T) -> Result<U> + Clone + Send + 'static,
    read: impl FnOnce(Feed<T, U>) + Send + 'static,
) -> Results<U> {
    let (to_work, items) = unbounded::<(T, Sender<Result<U>>)>();
    let (to_order, order) = bounded(ahead);
    for _ in 0..workers.max(1) {
        let (items, work) = (items.clone(), work.clone());
        thread::spawn(move || {
            // Who does not listen any more is not told.
            items.iter().for_each(|(item, result)| drop(result.send(work(item))));
        });
    }
    thread::spawn(move || read(Feed { work: to_work, order: to_order }));
    Results { order }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<U>(results: &Results<U>) -> (Vec<U>, Option<Error>) {
        let mut found = Vec::new();
        loop {
            match results.next(&Task::default()) {
                Ok(Some(item)) => found.push(item),
                Ok(None) => return (found, None),
                Err(error) => return (found, Some(error)),
            }
        }
    }

    #[test]
    fn results_come_in_the_order_of_the_input() {
        let work = |n: u64| {
            thread::sleep(Duration::from_millis(7 * n % 5));
            Ok(n)
        };
        let results = start(3, 4, work, |feed| assert!((0..40).all(|n| feed.send(n))));
        assert_eq!(all(&results).0, (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_comes_in_its_place() {
        let work = |n: u64| if n == 2 { Err(Error::input("two")) } else { Ok(n) };
        let (found, error) = all(&start(3, 2, work, |feed| while feed.send(2) && feed.send(3) {}));
        assert!(found.is_empty() && error.is_some());
        let read = |feed: Feed<u64, u64>| {
            feed.send(0);
            feed.done(Ok(7));
            feed.done(Err(Error::input("read")));
        };
        let (found, error) = all(&start(3, 2, work, read));
        assert_eq!(found, [0, 7]);
        assert!(error.unwrap().to_string().contains("read"));
    }

    #[test]
    fn no_more_is_read_than_may_wait() {
        let (count, counted) = unbounded();
        let read = move |feed: Feed<u64, u64>| {
            for n in 0..100 {
                count.send(n).unwrap();
                if !feed.send(n) {
                    return;
                }
            }
        };
        let results = start(2, 1, Ok, read);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(counted.len(), 3);
        drop(results);
        assert!(counted.iter().count() < 6, "the reader ends when nobody listens");
    }

    #[test]
    fn what_waits_can_be_cancelled() {
        let (keep, never) = unbounded::<u64>();
        let results = start(1, 1, Ok, move |feed| {
            never.iter().for_each(|n| assert!(feed.send(n)));
        });
        let task = Task::default();
        task.cancel();
        assert!(matches!(results.next(&task), Err(Error::Cancelled)));
        drop(keep);
        assert!(matches!(results.next(&Task::default()), Ok(None)));
    }
}
