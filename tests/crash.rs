//! The database on a simulated disk, cut off after every operation of a workload, in every way that the simulator
//! knows, and compared with what was acknowledged. `EMBDB_CRASH_IMAGES` sets how many disks are looked at in all,
//! `EMBDB_CRASH_SEED` which ones.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "crash/kill.rs"]
mod kill;
#[path = "crash/oracle.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts")]
mod oracle;
#[cfg(feature = "trainer")]
#[path = "crash/training.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts")]
mod training;
#[path = "crash/workload.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts")]
mod workload;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use embdb::OpenOptions;
use embdb::options::Durability;
use embdb::storage::sim::{CrashMode, OpKind, SimVfs};
use embdb::storage::vfs::Vfs;
#[cfg(feature = "trainer")]
use embdb::{Db, Task};

use kill::KillVfs;
use oracle::{Allowed, Depth, Mark, allowed, keeps_all, record, verify};
use workload::{Step, World, plain_options, plain_steps};

/// Each so many images, crashes in the recovery are tried too.
const TWICE_EVERY: usize = 25;
/// How many of them.
const TWICE: usize = 6;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// So many images of all that are wanted; the shares of all tests together are 100.
fn images(percent: usize) -> usize {
    setting("EMBDB_CRASH_IMAGES", 100_000) * percent / 100
}

/// Counts images that were looked at, and says how many it were in this process so far.
fn counted(images: usize) -> String {
    static ALL: AtomicUsize = AtomicUsize::new(0);
    format!("{images} images, {} so far", ALL.fetch_add(images, Ordering::Relaxed) + images)
}

/// A recorded workload and its oracle.
struct Run {
    name: &'static str,
    sim: SimVfs,
    options: OpenOptions,
    marks: Vec<Mark>,
    seed: usize,
}

impl Run {
    fn new(name: &'static str, options: OpenOptions, steps: &[Step]) -> Self {
        let seed = setting("EMBDB_CRASH_SEED", 1);
        let sim = SimVfs::new(seed as u64);
        let marks = record(&sim, &options, steps);
        Self { name, sim, options, marks, seed }
    }

    /// Looks at `wanted` images or some more.
    fn sweep(&self, wanted: usize) {
        let count = AtomicUsize::new(0);
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..workers)
                .map(|w| {
                    scope.spawn({
                        let count = &count;
                        move || self.walk(w, workers, wanted, count)
                    })
                })
                .collect();
            all.into_iter().for_each(|worker| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        });
        let count = count.into_inner();
        let (all, seed) = (counted(count), self.seed);
        println!("{}: {all}, {} operations, seed {seed}", self.name, self.sim.op_count());
        assert!(count >= wanted, "{count} images instead of {wanted}");
    }

    fn walk(&self, worker: usize, workers: usize, wanted: usize, count: &AtomicUsize) {
        let mut series = self.sim.crash_series();
        let positions = series.op_count() + 1;
        // Two modes leave nothing to chance; each of the others gets its share of the rest. Second crashes come on top.
        let each = (wanted * TWICE_EVERY).div_ceil(positions * (TWICE_EVERY + TWICE));
        let seeds = each.saturating_sub(2).div_ceil(3) + 1;
        let stride = (positions * 5 / wanted.max(1)).max(1);
        loop {
            let at = series.at();
            if at / stride % workers == worker && at.is_multiple_of(stride) {
                for mode in CrashMode::ALL {
                    let chance = !matches!(mode, CrashMode::KillOnly | CrashMode::DropAll);
                    for n in 0..if chance { seeds } else { 1 } {
                        let seed = (self.seed * 1_000_003 + n) as u64;
                        let number = count.fetch_add(1, Ordering::Relaxed);
                        let allowed = allowed(&self.marks, at, keeps_all(mode, self.options.durability));
                        let coordinates = format!(
                            "{}: prefix {at} of {}, mode {mode:?}, seed {seed} (EMBDB_CRASH_SEED={}), after {:?}",
                            self.name,
                            positions - 1,
                            self.seed,
                            series.last_op()
                        );
                        let sim = series.image(mode, seed);
                        let twice = number.is_multiple_of(TWICE_EVERY);
                        self.examine(&sim, &allowed, number, &coordinates, twice.then_some(count));
                    }
                }
            }
            if !series.advance() {
                break;
            }
        }
    }

    /// One image, and crashes in its recovery if there is a `count` for them.
    fn examine(
        &self,
        sim: &SimVfs,
        allowed: &Allowed,
        number: usize,
        coordinates: &str,
        count: Option<&AtomicUsize>,
    ) {
        let depth = Depth { search: number.is_multiple_of(8), write: true };
        let marks = self.look(sim, allowed, depth, coordinates);
        let Some(count) = count else { return };
        let mut series = sim.crash_series();
        let total = series.op_count();
        for n in 0..TWICE {
            series.advance_to(total * (n + 1) / TWICE);
            let mode = CrashMode::ALL[(number / TWICE_EVERY + n) % CrashMode::ALL.len()];
            let full = keeps_all(mode, self.options.durability);
            let allowed = oracle::allowed(&marks, series.at(), full);
            let again = series.image(mode, number as u64);
            let coordinates = format!(
                "{coordinates}; then prefix {} of {total}, mode {mode:?}, seed {number}, after {:?}",
                series.at(),
                series.last_op()
            );
            count.fetch_add(1, Ordering::Relaxed);
            self.look(&again, &allowed, depth, &coordinates);
        }
    }

    fn look(&self, sim: &SimVfs, allowed: &Allowed, depth: Depth, coordinates: &str) -> Vec<Mark> {
        let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
        let seen = catch_unwind(AssertUnwindSafe(|| verify(&vfs, sim, &self.options, allowed, depth)));
        match seen {
            Ok(Ok(marks)) => marks,
            Ok(Err(what)) => panic!("{what}\n  at {coordinates}"),
            Err(_) => panic!("a panic at {coordinates}"),
        }
    }
}

#[test]
fn every_acknowledged_write_survives_every_crash() {
    let run = Run::new("full", plain_options(Durability::Full), &plain_steps());
    run.sweep(images(55));
}

/// What is synced: the kind, and the path without its numbers.
fn class(kind: OpKind, path: &Path) -> String {
    let name = path.to_string_lossy();
    let name: String = name.chars().filter(|c| !c.is_ascii_digit()).collect();
    format!("{kind:?} {name}")
}

/// Syncs without which nothing is lost, each with the reason.
const NEEDLESS: [(&str, &str); 0] = [];

/// The tests themselves are tried: on a disk that forgets one kind of sync, they must find what is lost.
#[test]
fn each_kind_of_sync_is_needed() {
    let run = Run::new("forgetful", plain_options(Durability::Full), &plain_steps());
    let classes: BTreeSet<String> = run.sim.syncs().iter().map(|(kind, path)| class(*kind, path)).collect();
    assert!(classes.len() > 8, "{classes:?}");
    let mut missed = Vec::new();
    for forgotten in &classes {
        let sim = run.sim.forgetting(|kind, path| class(kind, path) == *forgotten);
        match first_loss(&run, &sim) {
            Some(loss) => println!("without {forgotten}: {loss}"),
            None => missed.push(forgotten.as_str()),
        }
    }
    let needless: Vec<&str> = NEEDLESS.iter().map(|(class, _)| *class).collect();
    assert_eq!(missed, needless, "nothing is lost without these");
}

/// What a power cut takes of a disk that forgets, if it takes anything: found in every way that the other tests look.
fn first_loss(run: &Run, sim: &SimVfs) -> Option<String> {
    let mut series = sim.crash_series();
    loop {
        for mode in CrashMode::ALL.into_iter().filter(|mode| *mode != CrashMode::KillOnly) {
            let allowed = allowed(&run.marks, series.at(), true);
            let image = series.image(mode, 1);
            let vfs: Arc<dyn Vfs> = Arc::new(image.clone());
            let depth = Depth { search: true, write: false };
            let seen = catch_unwind(AssertUnwindSafe(|| verify(&vfs, &image, &run.options, &allowed, depth)));
            match seen {
                Ok(Ok(_)) => {}
                Ok(Err(what)) => return Some(format!("prefix {}, {mode:?}: {what}", series.at())),
                Err(_) => return Some(format!("prefix {}, {mode:?}: a panic", series.at())),
            }
        }
        if !series.advance() {
            return None;
        }
    }
}

#[test]
fn at_lower_durability_a_power_cut_loses_a_suffix_and_a_kill_nothing() {
    for (name, durability) in [("normal", Durability::Normal), ("bulk", Durability::Bulk)] {
        Run::new(name, plain_options(durability), &plain_steps()).sweep(images(6));
    }
}

/// Re-indexing and going back are all or nothing too: the generation and the documents belong together.
#[cfg(feature = "trainer")]
#[test]
fn generations_change_as_a_whole() {
    Run::new("generations", workload::text_options(), &workload::text_steps()).sweep(images(6));
}

/// Documents that come again are written, or not, as a whole, and have the vectors of their texts; without a sync of each
/// batch what is found to be there may be lost with what was written before it, and never without that.
#[cfg(feature = "encoder")]
#[test]
fn documents_that_come_again_survive_like_others() {
    for (name, durability) in [("repeated", Durability::Full), ("repeated, bulk", Durability::Bulk)] {
        let options = OpenOptions { durability, ..workload::text_options() };
        Run::new(name, options, &workload::repeated_steps()).sweep(images(3));
    }
}

/// What an earlier process left unsynced is on the disk when it is acknowledged as unchanged.
#[cfg(feature = "encoder")]
#[test]
fn unchanged_documents_are_durable_when_that_is_acknowledged() {
    let bulk = OpenOptions { durability: Durability::Bulk, ..workload::text_options() };
    let steps = [Step::Add(0..3, "first"), Step::Add(3..6, "first")];
    // As many operations as the two steps take, without those of closing.
    let sim = SimVfs::new(3);
    let limit = record(&sim, &bulk, &steps).last().unwrap().end;
    let sim = SimVfs::new(3);
    let mut world = World::new(Arc::new(KillVfs { sim: sim.clone(), limit }), bulk);
    steps.iter().for_each(|step| step.run(&mut world).unwrap());
    world.close();
    let lost = |sim: &SimVfs| {
        let mut series = sim.crash_series();
        series.advance_to(sim.op_count());
        let image: Arc<dyn Vfs> = Arc::new(series.image(CrashMode::DropAll, 0));
        6 - workload::open(&image, &workload::text_options()).unwrap().count().unwrap()
    };
    assert!(lost(&sim) > 0, "a power cut takes what was not synced");
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let db = workload::open(&vfs, &workload::text_options()).unwrap();
    let report = db.add((0..6).map(|n| workload::document(n, "first", false))).unwrap();
    assert_eq!((report.documents, report.unchanged), (6, 6));
    assert_eq!(lost(&sim), 0);
}

/// So are learning, and changing to another encoder, also where a change that was stopped half-way is taken up again.
#[cfg(feature = "trainer")]
#[test]
fn what_was_learnt_is_published_as_a_whole() {
    Run::new("learning", workload::text_options(), &workload::learning_steps()).sweep(images(6));
}

/// After every single write of a training of the encoder the database is the old one or the new one, and the training goes
/// on to the same encoder, or is begun anew.
#[cfg(feature = "trainer")]
#[test]
fn a_training_that_was_cut_off_goes_on_to_the_same_end() {
    let training = training::Training::new(11);
    let (begin, end) = (training.begin, training.sim.op_count());
    let resumed = AtomicUsize::new(0);
    every_write(&training.sim, begin, |image, go_on, context| {
        let stopped = training.examine(image, go_on, context);
        resumed.fetch_add(usize::from(stopped && go_on), Ordering::Relaxed);
    });
    let resumed = resumed.into_inner();
    let images = counted((end - begin + 1) * CrashMode::ALL.len());
    println!("training: {images}, {} operations, {resumed} runs went on from a state", end - begin);
    assert!(resumed * 3 > end - begin, "{resumed} of {}", end - begin);
}

/// The same for a re-indexing.
#[cfg(feature = "trainer")]
#[test]
fn a_reindexing_that_was_cut_off_goes_on() {
    let sim = SimVfs::new(13);
    let db = training::create(&sim);
    let begin = sim.op_count();
    db.reindex(Default::default(), &Task::default()).unwrap();
    let ends = AtomicUsize::new(0);
    every_write(&sim, begin, |image, go_on, context| {
        let db = training::found(image, context);
        let before = training::active(&db).generation;
        assert!(before <= 2, "{context}");
        ends.fetch_or(1 << before, Ordering::Relaxed);
        if go_on {
            db.reindex(Default::default(), &Task::default()).unwrap_or_else(|e| panic!("{context}: {e}"));
            let after = training::active(&training::found(image, context));
            assert_eq!((after.generation, after.documents), (before + 1, 8), "{context}");
        }
    });
    let operations = sim.op_count() - begin;
    println!("re-indexing: {}, {operations} operations", counted((operations + 1) * CrashMode::ALL.len()));
    assert_eq!(ends.into_inner(), 0b110, "the old generation is met, and the new one");
}

/// Looks at the disks that a crash after each operation from `begin` on leaves; one of each operation is to be gone on with.
#[cfg(feature = "trainer")]
fn every_write(sim: &SimVfs, begin: usize, look: impl Fn(&SimVfs, bool, &str) + Sync) {
    let end = sim.op_count();
    let next = AtomicUsize::new(begin);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at > end {
                break;
            }
            for (n, mode) in CrashMode::ALL.into_iter().enumerate() {
                let context = format!("prefix {at} of {begin}..={end}, mode {mode:?}");
                let go_on = at % CrashMode::ALL.len() == n;
                look(&sim.crash_image(at, mode, at as u64), go_on, &context);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        all.into_iter().for_each(|worker| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
    });
}

/// Below full durability a power cut can take documents whose new vectors are on the disk already, and the next ones get
/// their sequence numbers: they must not get the vectors too.
#[cfg(feature = "trainer")]
#[test]
fn vectors_of_documents_that_a_power_cut_took_are_not_given_to_others() {
    let options = OpenOptions { durability: Durability::Bulk, ..workload::text_options() };
    let sim = SimVfs::new(7);
    let add = |db: &Db, range: std::ops::Range<u64>, version: &str| {
        db.add(range.map(|n| workload::document(n, version, false))).unwrap();
    };
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let db = workload::open(&vfs, &options).unwrap();
    add(&db, 0..3, "first");
    db.flush().unwrap();
    add(&db, 3..6, "first");
    let begin = sim.op_count();
    db.reindex(Default::default(), &Task::default()).unwrap();
    let mut series = sim.crash_series();
    series.advance_to(begin);
    let mut resumed = 0;
    loop {
        let image: Arc<dyn Vfs> = Arc::new(series.image(CrashMode::DropAll, 0));
        let db = workload::open(&image, &options).unwrap();
        if db.count().unwrap() > 3 {
            break;
        }
        let jobs = image.read_dir(Path::new("db/jobs")).unwrap();
        resumed += usize::from(!jobs.is_empty());
        add(&db, 3..6, "second");
        db.reindex(Default::default(), &Task::default()).unwrap();
        for (id, text) in oracle::contents(&db).unwrap() {
            let hits = db.search(&text).k(1).run().unwrap().hits;
            assert!(
                hits[0].id == id && hits[0].distance < 1e-3,
                "{id} got the vector of another text: {:?}, after {:?}",
                hits[0],
                series.last_op()
            );
        }
        assert!(series.advance(), "the log was never synced");
    }
    println!("power cuts below full durability: {resumed} with a job, of {begin}");
    assert!(resumed > 3, "{resumed}: hardly any cut came when there was a job");
}

/// A process is killed, another one goes on with what it left, and then the power goes: names and bytes that the
/// first one had not made durable must not be built upon.
#[test]
fn what_a_killed_process_left_is_made_durable_before_it_is_built_upon() {
    let options = plain_options(Durability::Full);
    let steps = plain_steps();
    let run = Run::new("kill, then power", options.clone(), &steps);
    let total = run.sim.op_count();
    // After each kill there are more than 50 operations.
    let wanted = images(15);
    let kills = (wanted / 150).clamp(10, total);
    let draws = wanted.div_ceil(50 * kills).saturating_sub(1).max(2);
    let mut images = 0;
    for n in 0..kills {
        let limit = 1 + n * total / kills;
        let sim = SimVfs::new(run.seed as u64);
        let mut world = World::new(Arc::new(KillVfs { sim: sim.clone(), limit }), options.clone());
        for step in &steps {
            if step.run(&mut world).is_err() {
                break;
            }
        }
        drop(world);
        assert_eq!(sim.op_count(), limit, "the run is the same each time");
        let coordinates = format!("kill after {limit} operations (EMBDB_CRASH_SEED={})", run.seed);
        let before = allowed(&run.marks, limit, true);
        let marks = run.look(&sim, &before, Depth { search: false, write: true }, &coordinates);
        let mut series = sim.crash_series();
        series.advance_to(limit);
        loop {
            let at = series.at();
            let mut right = allowed(&marks, at, true);
            if marks[1].end > at {
                // Nothing was acknowledged since the kill.
                right.models.extend(before.models.iter().cloned());
            }
            right.events = before.events.clone();
            let chances = [CrashMode::Random, CrashMode::Reordered];
            let modes = chances.into_iter().cycle().take(draws).enumerate();
            for (draw, mode) in modes.chain([(0, CrashMode::DropAll)]) {
                let seed = (n + draw / 2 * total) as u64;
                let coordinates = format!(
                    "{coordinates}, then power off at {at} after {:?}, mode {mode:?}, seed {seed}",
                    series.last_op()
                );
                let image = series.image(mode, seed);
                run.look(&image, &right, Depth { search: false, write: at.is_multiple_of(4) }, &coordinates);
                images += 1;
            }
            if !series.advance() {
                break;
            }
        }
    }
    println!("kill, then power: {}, {kills} kills, seed {}", counted(images), run.seed);
    assert!(images >= wanted, "{images} images instead of {wanted}");
}
