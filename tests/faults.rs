//! Errors of the system at every call of a workload, full disks, and damaged files: always a typed error, never a
//! panic, never wrong contents. Every call of the reference workload fails in every way, and some calls of the other workloads:
//! with `EMBDB_FAULT_STRIDE=1` all of them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "crash/damage.rs"]
mod damage;
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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use embdb::options::Durability;
use embdb::storage::sim::{CrashMode, Fault, FaultError, OpKind, SimVfs};
use embdb::storage::vfs::Vfs;
use embdb::{Error, OpenOptions};

use oracle::{Allowed, Depth, contents, events, verify};
use workload::{Model, Step, World, plain_options, plain_steps};

const SEED: u64 = 5;

fn stride(default: usize) -> usize {
    std::env::var("EMBDB_FAULT_STRIDE").ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Runs `count` jobs on all cores.
fn in_parallel(count: usize, job: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    break;
                }
                job(n);
            }
        };
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        all.into_iter().for_each(|w| w.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
    });
}

/// What may be there: a step that failed may have happened or not, but not by half.
struct Possible {
    models: Vec<Model>,
    /// Of acknowledged steps.
    events: BTreeSet<String>,
}

impl Possible {
    fn new() -> Self {
        // A database may be created by a write that fails afterwards.
        let created = Model { generation: 1, generations: 1, ..Model::default() };
        Self { models: vec![Model::default(), created], events: BTreeSet::new() }
    }

    fn acknowledged(&mut self, step: &Step) {
        self.models.iter_mut().for_each(|model| step.apply(model));
        let mut acked = Model { generation: 1, events: std::mem::take(&mut self.events), ..Model::default() };
        step.apply(&mut acked);
        self.events = acked.events;
        self.tidy();
    }

    fn failed(&mut self, step: &Step, error: &Error, context: &str) {
        let expected = matches!(error, Error::Io { .. } | Error::Poisoned { .. });
        // Without the search that failed to be logged there is nothing to click on; without documents no document.
        let follows = matches!((step, error), (Step::Click { .. }, Error::Input(_)));
        assert!(expected || follows, "{context}: {step:?}: not an i/o error: {error}");
        if matches!(error, Error::Io { .. }) {
            let mut happened = self.models.clone();
            happened.iter_mut().for_each(|model| step.apply(model));
            self.models.extend(happened);
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        self.models.sort_unstable();
        self.models.dedup();
        assert!(self.models.len() < 200, "too many possibilities to mean anything");
    }

    fn check(&self, world: &mut World, context: &str) {
        let Ok(db) = world.db() else { return };
        let found = contents(&db).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(
            self.models.iter().any(|m| m.docs == found),
            "{context}: {found:?} is none of {:?}",
            self.models
        );
    }

    fn allowed(&self) -> Allowed {
        Allowed { models: self.models.clone(), events: self.events.clone() }
    }
}

/// Does the steps with one fault: whatever step fails, nothing half-done is visible, and the rest goes on with the same handles.
fn steps_with(sim: &SimVfs, options: &OpenOptions, steps: &[Step], fault: Fault) -> Possible {
    let context = format!("{fault:?}");
    let mut world = World::new(Arc::new(sim.clone()), options.clone());
    let mut possible = Possible::new();
    sim.inject(fault);
    let mut failed = Vec::new();
    for step in steps {
        match step.run(&mut world) {
            Ok(()) => possible.acknowledged(step),
            Err(error) => {
                possible.failed(step, &error, &context);
                failed.push(format!("{step:?}: {error}"));
                if fault.sticky && failed.len() == 3 {
                    break;
                }
            }
        }
        if !fault.sticky {
            possible.check(&mut world, &format!("{context}: after {step:?}, failed {failed:?}"));
        }
    }
    possible
}

/// One run with one fault; after it a reopened database and one after a power cut hold every acknowledged step. Returns
/// whether the fault came.
fn run_with(options: &OpenOptions, steps: &[Step], fault: Fault) -> bool {
    let context = format!("{fault:?}");
    let sim = SimVfs::new(SEED);
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let possible = steps_with(&sim, options, steps, fault);
    let fired = sim.faults_fired() > 0;
    sim.clear_faults();
    if options.durability != Durability::Full {
        // What the power takes is the crash test's matter; here it is the errors.
        let _ = workload::open(&vfs, options).and_then(|db| db.hold_writer().and_then(|()| db.flush()));
    }
    let depth = Depth { search: false, write: true };
    if options.durability == Durability::Full {
        for mode in [CrashMode::DropAll, CrashMode::Random] {
            let image = sim.crash_image(sim.op_count(), mode, SEED);
            let its_vfs: Arc<dyn Vfs> = Arc::new(image.clone());
            verify(&its_vfs, &image, options, &possible.allowed(), depth)
                .unwrap_or_else(|e| panic!("{context}: after a power cut ({mode:?}): {e}"));
        }
    }
    verify(&vfs, &sim, options, &possible.allowed(), depth)
        .unwrap_or_else(|e| panic!("{context}: after reopening: {e}"));
    if options.durability == Durability::Full {
        // What was written on after the fault survives a power cut too.
        let image = sim.crash_image(sim.op_count(), CrashMode::DropAll, SEED);
        let its_vfs: Arc<dyn Vfs> = Arc::new(image.clone());
        let db = workload::open(&its_vfs, options).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(db.get("d500").unwrap().is_some(), "{context}: lost after writing on");
    }
    fired
}

/// Every call of a kind, or one in `stride`, with each error, once; and for good, of errors of reading only the first kind.
fn all_faults(cases: &[(OpKind, FaultError)], calls: impl Fn(OpKind) -> usize, stride: usize) -> Vec<Fault> {
    let mut faults = Vec::new();
    for &(op_kind, error) in cases {
        let lasting = op_kind != OpKind::Read || error == FaultError::Eio;
        for sticky in if lasting { &[false, true][..] } else { &[false] } {
            let calls = (0..calls(op_kind)).step_by(stride);
            faults.extend(calls.map(|nth| Fault { op_kind, nth, error, sticky: *sticky }));
        }
    }
    faults
}

fn sweep(name: &str, options: &OpenOptions, steps: &[Step], cases: &[(OpKind, FaultError)], stride: usize) {
    let sim = SimVfs::new(SEED);
    let never = Fault { op_kind: OpKind::Any, nth: usize::MAX, error: FaultError::Eio, sticky: false };
    steps_with(&sim, options, steps, never);
    let faults = all_faults(cases, |kind| sim.calls(kind), stride);
    let fired = AtomicUsize::new(0);
    in_parallel(faults.len(), |n| {
        fired.fetch_add(usize::from(run_with(options, steps, faults[n])), Ordering::Relaxed);
    });
    let fired = fired.into_inner();
    let calls = sim.calls(OpKind::Any);
    println!("{name}: {} faults, {fired} of them came, {calls} calls, seed {SEED}", faults.len());
    assert!(fired * 100 > faults.len() * 97, "{fired} of {} faults came", faults.len());
}

const CASES: [(OpKind, FaultError); 23] = [
    (OpKind::Write, FaultError::Eio),
    (OpKind::Write, FaultError::Enospc),
    (OpKind::Write, FaultError::ShortWrite),
    (OpKind::Write, FaultError::HalfEio),
    (OpKind::Write, FaultError::Eintr),
    (OpKind::Sync, FaultError::Eio),
    (OpKind::Sync, FaultError::Enospc),
    (OpKind::Sync, FaultError::Eintr),
    (OpKind::SyncDir, FaultError::Eio),
    (OpKind::SyncDir, FaultError::Enospc),
    (OpKind::SyncDir, FaultError::Eintr),
    (OpKind::Rename, FaultError::Eio),
    (OpKind::Rename, FaultError::Enospc),
    (OpKind::Rename, FaultError::Eintr),
    (OpKind::Create, FaultError::Eio),
    (OpKind::Create, FaultError::Enospc),
    (OpKind::Create, FaultError::Emfile),
    (OpKind::Remove, FaultError::Eio),
    (OpKind::Remove, FaultError::Enospc),
    (OpKind::Remove, FaultError::Eintr),
    (OpKind::Read, FaultError::Eio),
    (OpKind::Read, FaultError::Eintr),
    (OpKind::Read, FaultError::Emfile),
];

#[test]
fn every_call_may_fail() {
    sweep("full", &plain_options(Durability::Full), &plain_steps(), &CASES, stride(1));
}

#[test]
fn every_call_may_fail_at_normal_durability() {
    sweep("normal", &plain_options(Durability::Normal), &plain_steps(), &CASES[..17], stride(5));
}

#[cfg(feature = "trainer")]
#[test]
fn every_call_may_fail_while_generations_change() {
    sweep("generations", &workload::text_options(), &workload::text_steps(), &CASES, stride(11));
}

/// Errors at every call of a training: the old generation stays, or the new one is published; what was stopped goes on.
#[cfg(feature = "trainer")]
#[test]
fn every_call_may_fail_while_the_encoder_is_trained() {
    let training = training::Training::new(SEED);
    let fresh = SimVfs::new(SEED);
    drop(training::create(&fresh));
    let calls = |kind| training.sim.calls(kind) - fresh.calls(kind);
    let faults = all_faults(&CASES, calls, stride(7));
    let published = AtomicUsize::new(0);
    in_parallel(faults.len(), |n| {
        let context = format!("{:?}", faults[n]);
        let sim = SimVfs::new(SEED);
        let db = training::create(&sim);
        sim.inject(faults[n]);
        let outcome = training.train(&db, embdb::Task::default());
        sim.clear_faults();
        match outcome {
            Ok(report) => {
                published.fetch_add(1, Ordering::Relaxed);
                assert!(report.published, "{context}");
            }
            Err(error) => {
                assert!(matches!(error, Error::Io { .. } | Error::Poisoned { .. }), "{context}: {error}");
            }
        }
        drop(db);
        training.examine(&sim, true, &context);
    });
    let published = published.into_inner();
    let once = faults.iter().filter(|fault| !fault.sticky).count();
    println!(
        "training: {} faults, of {once} that come once {published} runs published all the same",
        faults.len()
    );
    assert!(published * 4 > once, "an error of saving a state ends no run: {published} of {once}");
}

/// A disk that has no room for a single state: the run goes on, says so, and ends as it would have ended.
#[cfg(feature = "trainer")]
#[test]
fn a_training_that_cannot_be_saved_goes_on() {
    let training = training::Training::new(SEED);
    let sim = SimVfs::new(SEED);
    let db = training::create(&sim);
    let disk = sim.clone();
    let task = embdb::Task::with_progress(move |progress| {
        if progress.stage == "train" {
            let room = if progress.done < progress.total { Some(disk.used()) } else { None };
            disk.set_capacity(room);
        }
    });
    let report = training.train(&db, task).unwrap();
    assert!(report.notes.iter().any(|note| note.contains("could not be saved")), "{:?}", report.notes);
    assert!(!db.retrain_was_stopped().unwrap());
    drop(db);
    training.examine(&sim, true, "a full disk");
}

/// After a failed sync of the log nothing is written any more, by whatever call; reads go on; and who opens the database
/// again finds what was acknowledged, and can write.
#[test]
fn after_a_failed_sync_the_handle_only_reads() {
    let names = |range: std::ops::Range<u64>| range.map(workload::id).collect::<BTreeSet<String>>();
    let add = |db: &embdb::Db, range: std::ops::Range<u64>| {
        db.add(range.map(|n| workload::document(n, "first", true))).map(|_| ())
    };
    for error in [FaultError::Eio, FaultError::Enospc, FaultError::Eintr] {
        for durability in [Durability::Full, Durability::Normal, Durability::Bulk] {
            let context = format!("{error:?}, {durability:?}");
            let options = plain_options(durability);
            let sim = SimVfs::new(SEED);
            let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
            let db = workload::open(&vfs, &options).unwrap();
            add(&db, 0..3).unwrap();
            db.seal(&embdb::Task::default()).unwrap();
            add(&db, 3..5).unwrap();
            sim.inject(Fault { op_kind: OpKind::Sync, nth: 0, error, sticky: false });
            // Below `Full` it is the flush that syncs, and the batch is acknowledged before.
            let (failed, seen) = match durability {
                Durability::Full => (add(&db, 5..7), names(0..5)),
                _ => (add(&db, 5..7).and_then(|()| db.flush()), names(0..7)),
            };
            assert!(matches!(failed, Err(Error::Io { .. })), "{context}: {failed:?}");
            assert_eq!(sim.faults_fired(), 1, "{context}");
            let task = embdb::Task::default();
            let writes = || {
                [
                    ("add", add(&db, 7..8)),
                    ("delete", db.delete(&[workload::id(1)]).map(|_| ())),
                    ("delete what is not there", db.delete(&["nobody".into()]).map(|_| ())),
                    ("delete_where", db.delete_where("n = 1").map(|_| ())),
                    ("flush", db.flush()),
                    ("seal", db.seal(&task)),
                    ("compact", db.compact(&task)),
                ]
            };
            for _ in 0..2 {
                for (name, outcome) in writes() {
                    let poisoned = matches!(outcome, Err(Error::Poisoned { .. }));
                    assert!(poisoned, "{context}: {name}: {outcome:?}");
                    assert_eq!(outcome.unwrap_err().exit_code(), 4);
                }
                let found: BTreeSet<String> = contents(&db).unwrap().into_keys().collect();
                assert_eq!(found, seen, "{context}: what was not acknowledged is not seen, the rest is");
                let query = workload::vector(&workload::text(3, "first"));
                let hits = db.search_vector(&query).k(1).run().unwrap().hits;
                assert_eq!(hits[0].id, "d3", "{context}");
            }
            drop(db);
            let db = workload::open(&vfs, &options).unwrap();
            let found: BTreeSet<String> = contents(&db).unwrap().into_keys().collect();
            assert!(found.is_superset(&seen) && found.is_subset(&names(0..7)), "{context}: {found:?}");
            add(&db, 8..9).unwrap();
            db.flush().unwrap();
            let image: Arc<dyn Vfs> = Arc::new(sim.crash_image(sim.op_count(), CrashMode::DropAll, SEED));
            let after: BTreeSet<String> =
                contents(&workload::open(&image, &options).unwrap()).unwrap().into_keys().collect();
            let expected: BTreeSet<String> = found.into_iter().chain(names(8..9)).collect();
            assert_eq!(after, expected, "{context}: after a power cut");
        }
    }
}

/// When space is back, the same handles write again.
#[test]
fn writes_resume_when_the_disk_has_space_again() {
    let options = plain_options(Durability::Full);
    let steps = plain_steps();
    let sim = SimVfs::new(SEED);
    oracle::record(&sim, &options, &steps);
    let calls = sim.calls(OpKind::Write);
    let tried: Vec<usize> = (0..calls).step_by(stride(1)).collect();
    in_parallel(tried.len(), |n| {
        let nth = tried[n];
        for error in [FaultError::Enospc, FaultError::ShortWrite] {
            let context = format!("{error:?} from write {nth} on");
            let sim = SimVfs::new(SEED);
            let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
            let mut world = World::new(Arc::clone(&vfs), options.clone());
            let mut possible = Possible::new();
            sim.inject(Fault { op_kind: OpKind::Write, nth, error, sticky: true });
            for step in &steps {
                if let Err(error) = step.run(&mut world) {
                    possible.failed(step, &error, &context);
                    possible.check(&mut world, &context);
                    sim.clear_faults();
                    step.run(&mut world)
                        .unwrap_or_else(|e| panic!("{context}: {step:?} with space again: {e}"));
                }
                possible.acknowledged(step);
                possible.check(&mut world, &context);
            }
            drop(world);
            sim.clear_faults();
            verify(&vfs, &sim, &options, &possible.allowed(), Depth { search: false, write: true })
                .unwrap_or_else(|e| panic!("{context}: {e}"));
        }
    });
}

/// A disk of every size, too small for the workload, then larger.
#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let options = plain_options(Durability::Full);
    let steps = plain_steps();
    let sim = SimVfs::new(SEED);
    oracle::record(&sim, &options, &steps);
    let most = sim.used() + 20_000;
    in_parallel(60, |n| {
        let capacity = most * n as u64 / 60;
        let context = format!("a disk of {capacity} bytes");
        let sim = SimVfs::new(SEED);
        let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
        let mut world = World::new(Arc::clone(&vfs), options.clone());
        let mut model = Model::default();
        sim.set_capacity(Some(capacity));
        for step in &steps {
            if let Err(error) = step.run(&mut world) {
                assert_eq!(error.exit_code(), 4, "{context}: {step:?}: {error}");
                let db = world.db().unwrap_or_else(|e| panic!("{context}: reading needs no space: {e}"));
                assert_eq!(contents(&db).unwrap(), model.docs, "{context}: after {step:?}");
                sim.set_capacity(Some(sim.used() + 100_000));
                step.run(&mut world).unwrap_or_else(|e| panic!("{context}: {step:?} on a larger disk: {e}"));
            }
            step.apply(&mut model);
        }
        let db = world.db().unwrap();
        assert_eq!(
            (contents(&db).unwrap(), events(&db).unwrap()),
            (model.docs.clone(), model.events.clone())
        );
        drop((db, world));
        let allowed = Allowed { events: model.events.clone(), models: vec![model] };
        verify(&vfs, &sim, &options, &allowed, Depth { search: true, write: true })
            .unwrap_or_else(|e| panic!("{context}: {e}"));
    });
}
