//! The engine on a simulated disk, with its threads in many orders: at each lock and each call of the disk any other thread
//! may go on. What must hold in all of them: nothing acknowledged is lost or comes back, a batch is there whole or not at all,
//! a reader sees one state until it refreshes and then everything acknowledged before, and nobody waits for ever.
//!
//! EMBDB_SCHEDULES=N  schedules of each test and scheduler; see README.md here for a failing one.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use embdb_scheduled::db::generations::ReindexOptions;
use embdb_scheduled::storage::sim::SimVfs;
use embdb_scheduled::types::Document;
use embdb_scheduled::{CreateOptions, Db, OpenOptions, SearchOptions, Task};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner, thread};

/// Where the database lies.
const PATH: &str = "db";
/// Schedules of each test and scheduler by default: 20,000 in all.
const SCHEDULES: usize = 2_500;
/// Depth of orders that PCT looks for: how many turns must fall right for a defect to show.
const DEPTH: usize = 4;

/// Documents by id, and the version of each.
type Contents = BTreeMap<String, u32>;

/// The disk of one schedule, its writing handle, and what is acknowledged. Its lock is never held where a thread may be
/// turned from, so the standard one does.
struct World {
    disk: SimVfs,
    db: Db,
    acknowledged: Arc<Mutex<Contents>>,
}

fn options(seal_rows: usize) -> OpenOptions {
    let create = CreateOptions { vectors: Some(2), ..CreateOptions::default() };
    OpenOptions { create, background: false, threads: 1, seal_rows, ..OpenOptions::default() }
}

fn document(id: &str, version: u32) -> Document {
    let mut document = Document::from_vector(id, vec![version as f32 + 1.0, id.len() as f32]);
    document.text = version.to_string();
    document
}

/// What a handle sees.
fn seen(db: &Db) -> Contents {
    let text = |id: &String| db.get(id).unwrap().map(|document| document.text.parse().unwrap());
    db.ids().unwrap().into_iter().filter_map(|id| text(&id).map(|version| (id, version))).collect()
}

impl World {
    fn new(seal_rows: usize) -> Self {
        let disk = SimVfs::new(1);
        let db = Db::open_vfs(Arc::new(disk.clone()), PATH, options(seal_rows)).unwrap();
        let world = Self { disk, db, acknowledged: Arc::default() };
        world.writer("first", 1)();
        world
    }

    /// A thread that writes batches of two documents, a version after the other, and deletes one in between.
    fn writer(&self, name: &'static str, versions: u32) -> impl FnOnce() + Send + 'static {
        let (db, acknowledged) = (self.db.clone(), Arc::clone(&self.acknowledged));
        move || {
            let ids = [format!("{name}-a"), format!("{name}-b")];
            for version in 1..=versions {
                db.add(ids.iter().map(|id| document(id, version))).unwrap();
                acknowledged.lock().unwrap().extend(ids.iter().map(|id| (id.clone(), version)));
                let now = seen(&db);
                assert!(ids.iter().all(|id| now.get(id) == Some(&version)), "own writes: {now:?}");
            }
            if versions > 1 {
                // From here on it may be gone, and once acknowledged it must be.
                acknowledged.lock().unwrap().remove(&ids[0]);
                assert_eq!(db.delete(&ids[..1]).unwrap(), 1);
                assert!(!seen(&db).contains_key(&ids[0]), "its own delete");
            }
        }
    }

    /// A handle of another process.
    fn reader(&self) -> Db {
        Db::open_vfs(Arc::new(self.disk.clone()), PATH, options(1000)).unwrap()
    }

    /// A reader in another process: it sees a state until it refreshes, and then no older one than was acknowledged.
    fn follower(&self) -> impl FnOnce() + Send + 'static {
        let (reader, acknowledged) = (self.reader(), Arc::clone(&self.acknowledged));
        move || {
            for _ in 0..3 {
                let due = acknowledged.lock().unwrap().clone();
                reader.refresh().unwrap();
                let saw = seen(&reader);
                let allowed = acknowledged.lock().unwrap().clone();
                for (id, version) in &due {
                    // One that is deleted meanwhile may be missing.
                    let now = saw.get(id).or_else(|| (!allowed.contains_key(id)).then_some(version));
                    assert!(now >= Some(version), "{id} {version} was acknowledged: {saw:?}");
                }
                whole(&saw, &allowed);
                thread::yield_now();
                assert_eq!(seen(&reader), saw, "a reader that did not refresh");
            }
        }
    }

    /// A search that goes on while others write: its answers stay.
    fn searcher(&self) -> impl FnOnce() + Send + 'static {
        let db = self.db.clone();
        move || {
            let searcher = db.searcher(&SearchOptions { k: 10, ..SearchOptions::default() }).unwrap();
            let search = || -> Vec<(String, f32)> {
                let found = searcher.search(&[1.0, 2.0]).unwrap();
                found.iter().map(|hit| (hit.id.to_owned(), hit.distance)).collect()
            };
            let first = search();
            assert!(first.len() >= 2, "{first:?}");
            for _ in 0..2 {
                thread::yield_now();
                assert_eq!(search(), first);
            }
        }
    }

    /// A thread that refreshes the writing handle, as a reader of it may: it must not bring back an older state.
    fn refresher(&self) -> impl FnOnce() + Send + 'static {
        let db = self.db.clone();
        move || (0..3).for_each(|_| db.refresh().unwrap())
    }

    /// What must hold when all have ended, also for who opens it anew.
    fn end(self) {
        let Self { disk, db, acknowledged } = self;
        let right = acknowledged.lock().unwrap().clone();
        assert_eq!(seen(&db), right);
        assert_eq!((db.count().unwrap() as usize, found(&db)), (right.len(), right.len()));
        drop(db);
        let again = Db::open_vfs(Arc::new(disk), PATH, options(1000)).unwrap();
        assert_eq!((seen(&again), found(&again)), (right.clone(), right.len()), "opened again");
        let report = again.check(false, &Task::default()).unwrap();
        assert!(report.ok, "{:?}", report.problems);
    }
}

/// Documents that a search may find.
fn found(db: &Db) -> usize {
    db.searcher(&SearchOptions::default()).unwrap().matches()
}

/// Both documents of a batch have one version, unless one of them is deleted.
fn whole(saw: &Contents, acknowledged: &Contents) {
    for (id, version) in saw.iter().filter(|(id, _)| id.ends_with("-a")) {
        let other = id.replace("-a", "-b");
        assert!(saw.get(&other) == Some(version), "half a batch: {saw:?}, acknowledged {acknowledged:?}");
    }
}

/// Runs a test under both schedulers.
fn schedules(test: fn()) {
    let wanted = std::env::var("EMBDB_SCHEDULES").ok().and_then(|number| number.parse().ok());
    let count = wanted.unwrap_or(SCHEDULES);
    let seed = std::env::var("EMBDB_SEED").ok().and_then(|number| number.parse().ok()).unwrap_or(20);
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::Print;
    config.stack_size = 1 << 20;
    let start = std::time::Instant::now();
    let random = Runner::new(RandomScheduler::new_from_seed(seed, count), config.clone()).run(test);
    let depth = Runner::new(PctScheduler::new_from_seed(seed, DEPTH, count), config).run(test);
    assert_eq!(random + depth, 2 * count);
    println!("{} schedules in {:?}", random + depth, start.elapsed());
}

#[test]
fn readers_beside_two_writers() {
    schedules(|| {
        let world = World::new(1000);
        let threads = [
            thread::spawn(world.writer("one", 2)),
            thread::spawn(world.writer("two", 2)),
            thread::spawn(world.refresher()),
            thread::spawn(world.follower()),
            thread::spawn(world.searcher()),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.end();
    });
}

#[test]
fn a_writer_and_readers_beside_seals_and_compactions() {
    schedules(|| {
        let world = World::new(1000);
        let db = world.db.clone();
        let maintain = move || {
            db.seal(&Task::default()).unwrap();
            db.compact(&Task::default()).unwrap();
        };
        let threads = [
            thread::spawn(world.writer("one", 3)),
            thread::spawn(maintain),
            thread::spawn(world.refresher()),
            thread::spawn(world.follower()),
            thread::spawn(world.searcher()),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.end();
    });
}

#[test]
fn writers_that_seal_beside_a_compaction() {
    schedules(|| {
        let world = World::new(3);
        let db = world.db.clone();
        let threads = [
            thread::spawn(world.writer("one", 2)),
            thread::spawn(world.writer("two", 2)),
            thread::spawn(move || db.compact(&Task::default()).unwrap()),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        world.end();
    });
}

#[test]
fn generations_change_beside_a_writer_and_readers() {
    schedules(|| {
        let world = World::new(3);
        let (db, reader) = (world.db.clone(), world.reader());
        let change = move || {
            let options = ReindexOptions { dims: Some(vec![1, 2]), ..ReindexOptions::default() };
            assert_eq!(db.reindex(options, &Task::default()).unwrap().generation, 2);
            assert_eq!(db.rollback(None, &Task::default()).unwrap().generation, 1);
        };
        // Whichever generation answers, it has rows of every document.
        let look = move || {
            for _ in 0..3 {
                reader.refresh().unwrap();
                assert_eq!(found(&reader), seen(&reader).len());
            }
        };
        let threads = [
            thread::spawn(world.writer("one", 3)),
            thread::spawn(change),
            thread::spawn(look),
            thread::spawn(world.follower()),
            thread::spawn(world.searcher()),
        ];
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(world.db.generations().unwrap().len(), 2);
        world.end();
    });
}
