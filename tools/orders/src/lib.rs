//! The types whose threads share numbers without a lock, in every order of their steps and with every value that the memory
//! model of C11 lets a load see. Each function here is one model: it runs all orders, and fails in the first that is wrong.

#![allow(clippy::unwrap_used)]

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use links::{Link, Links};
use newest::Newest;
use seen::Seen;

/// The sources take locks and atomic numbers from here.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
    use loom::sync::{LockResult, MutexGuard, RwLockReadGuard, RwLockWriteGuard};

    /// As in parking_lot, taking a lock gives the guard at once: a model ends with its first panic.
    fn sound<T>(result: LockResult<T>) -> T {
        result.unwrap()
    }

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            sound(self.0.lock())
        }
    }

    pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            sound(self.0.read())
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            sound(self.0.write())
        }
    }
}

#[allow(dead_code, reason = "the models use a part")]
#[path = "../../../src/index/hnsw/links.rs"]
mod links;
#[path = "../../../src/db/newest.rs"]
mod newest;
#[allow(dead_code, reason = "the models use a part")]
#[path = "../../../src/format/seen.rs"]
mod seen;

/// Runs a model in all orders, and returns how many there were.
fn all_orders(model: impl Fn() + Send + Sync + 'static) -> usize {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let runs = std::sync::Arc::clone(&count);
    Builder::new().check(move || {
        runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        model();
    });
    count.load(std::sync::atomic::Ordering::Relaxed)
}

/// A link whose distance tells its node.
fn link(node: u32) -> Link {
    Link { distance: node as f32, node }
}

fn nodes(links: &Links, node: u32) -> Vec<u32> {
    let mut out = Vec::new();
    links.for_each(node, |link| out.push(link));
    out
}

/// A walk that reads the links of node 0, on a thread of its own, beside what the model's thread does.
///
/// Loom turns to a reader only where what was written last is read: so who writes runs before who reads.
fn walk(links: &Arc<Links>) -> thread::JoinHandle<Vec<u32>> {
    let links = Arc::clone(links);
    thread::spawn(move || nodes(&links, 0))
}

/// A thread adds a link to a node while a walk reads them: the walk sees links alone.
pub fn links_added_beside_a_walk() -> usize {
    all_orders(|| {
        let links = Arc::new(Links::new(1, 2));
        let walk = walk(&links);
        [3, 4].into_iter().for_each(|node| assert!(links.push(0, link(node))));
        let seen = walk.join().unwrap();
        assert!([3, 4].starts_with(&seen), "{seen:?}");
    })
}

/// A thread prunes a full list while a walk reads it: the walk sees links that were there once, and in the end each distance
/// is that of its link.
pub fn links_pruned_beside_a_walk() -> usize {
    all_orders(|| {
        let links = Arc::new(Links::new(1, 3));
        [1, 2].into_iter().for_each(|node| assert!(links.push(0, link(node))));
        let walk = walk(&links);
        links.update(0, &mut Vec::new(), |list| *list = vec![link(3), link(4), link(5)]);
        let seen = walk.join().unwrap();
        assert!(seen.len() >= 2 && seen.iter().all(|node| (1..=5).contains(node)), "{seen:?}");
        let mut all = Vec::new();
        links.of(0, &mut all);
        assert_eq!(all, [3, 4, 5].map(link));
    })
}

/// Two threads add links to one node, another prunes it: none is lost that was added after.
pub fn links_changed_by_three_threads() -> usize {
    all_orders(|| {
        let links = Arc::new(Links::new(1, 4));
        assert!(links.push(0, link(1)));
        let add = [2, 3].map(|node| {
            let links = Arc::clone(&links);
            thread::spawn(move || assert!(links.push(0, link(node))))
        });
        // As far as it is there by then, the first is taken out.
        links.update(0, &mut Vec::new(), |list| list.retain(|link| link.node != 1));
        add.into_iter().for_each(|thread| thread.join().unwrap());
        let mut all = Vec::new();
        links.of(0, &mut all);
        all.sort_by_key(|link| link.node);
        assert_eq!(all, [2, 3].map(link));
    })
}

/// Two threads verify pages, one of them both: each counts once, and who sees that none is left sees all of them verified.
pub fn pages_verified_by_two_threads() -> usize {
    all_orders(|| {
        // In two words, so that no single load can tell.
        let seen = Arc::new(Seen::none(65));
        (1..64).for_each(|page| seen.note(page));
        let threads = [[0, 64], [64, 64]].map(|pages| {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                pages.into_iter().filter(|&page| !seen.has(page)).for_each(|page| seen.note(page))
            })
        });
        let left = seen.left();
        assert!(left <= 2, "counted twice: {left}");
        if left == 0 {
            assert!(seen.has(0) && seen.has(64));
            assert!(seen.next_unseen(0) >= 65);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(seen.left(), 0);
    })
}

/// A reader beside a writer that replaces the state twice: it never sees an older state after a newer one, keeps what it got,
/// and of what was replaced nothing stays.
pub fn states_replaced_beside_a_reader() -> usize {
    all_orders(|| {
        let newest = Arc::new(Newest::new(0));
        let read = Arc::clone(&newest);
        let reader = thread::spawn(move || {
            let (first, second) = (read.get(), read.get());
            assert!(*second >= *first);
            [*first, *second]
        });
        let before = [1, 2].map(|state| *newest.replace(std::sync::Arc::new(state)));
        assert_eq!(before, [0, 1]);
        assert!(reader.join().unwrap() <= [2, 2]);
        let last = newest.get();
        assert_eq!((*last, std::sync::Arc::strong_count(&last)), (2, 2));
    })
}
