//! Errors of the system at every call of a workload, full disks, and damaged files: always a typed error, never a
//! panic, never wrong contents. `EMBDB_FAULT_STRIDE` thins the sweep out (1: every call).

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

fn stride() -> usize {
    std::env::var("EMBDB_FAULT_STRIDE").ok().and_then(|v| v.parse().ok()).unwrap_or(3)
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

/// One run with one fault: after it, whatever step fails, nothing half-done is visible, the rest goes on with the
/// same handles, and a reopened database and one after a power cut hold every acknowledged step.
fn run_with(options: &OpenOptions, steps: &[Step], fault: Fault) -> bool {
    let context = format!("{fault:?}");
    let sim = SimVfs::new(SEED);
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let mut world = World::new(Arc::clone(&vfs), options.clone());
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
    let fired = sim.faults_fired() > 0;
    sim.clear_faults();
    if options.durability != Durability::Full {
        // What the power takes is the crash test's matter; here it is the errors.
        let _ = world.db().and_then(|db| db.flush());
    }
    drop(world);
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

fn sweep(name: &str, options: &OpenOptions, steps: &[Step], cases: &[(OpKind, FaultError)], stride: usize) {
    let sim = SimVfs::new(SEED);
    oracle::record(&sim, options, steps);
    let mut faults = Vec::new();
    for &(op_kind, error) in cases {
        let stride = if op_kind == OpKind::Read { stride * 13 } else { stride };
        for sticky in [false, true] {
            for nth in (0..sim.calls(op_kind)).step_by(stride) {
                faults.push(Fault { op_kind, nth, error, sticky });
            }
        }
    }
    let fired = AtomicUsize::new(0);
    in_parallel(faults.len(), |n| {
        fired.fetch_add(usize::from(run_with(options, steps, faults[n])), Ordering::Relaxed);
    });
    let fired = fired.into_inner();
    println!("{name}: {} runs, {fired} faults fired, seed {SEED}", faults.len());
    assert!(fired * 10 > faults.len() * 7, "{fired} of {} faults fired", faults.len());
}

const CASES: [(OpKind, FaultError); 11] = [
    (OpKind::Write, FaultError::Eio),
    (OpKind::Write, FaultError::Enospc),
    (OpKind::Write, FaultError::ShortWrite),
    (OpKind::Sync, FaultError::Eio),
    (OpKind::SyncDir, FaultError::Eio),
    (OpKind::Rename, FaultError::Eio),
    (OpKind::Rename, FaultError::Enospc),
    (OpKind::Create, FaultError::Eio),
    (OpKind::Create, FaultError::Enospc),
    (OpKind::Remove, FaultError::Eio),
    (OpKind::Read, FaultError::Eio),
];

#[test]
fn every_call_may_fail() {
    sweep("full", &plain_options(Durability::Full), &plain_steps(), &CASES, stride());
}

#[test]
fn every_call_may_fail_at_normal_durability() {
    sweep("normal", &plain_options(Durability::Normal), &plain_steps(), &CASES[..9], stride() * 2);
}

#[cfg(feature = "trainer")]
#[test]
fn every_call_may_fail_while_generations_change() {
    sweep("generations", &workload::text_options(), &workload::text_steps(), &CASES, stride() * 3);
}

/// Errors at every call of a training: the old generation stays, or the new one is published; what was stopped goes on.
#[cfg(feature = "trainer")]
#[test]
fn every_call_may_fail_while_the_encoder_is_trained() {
    let training = training::Training::new(SEED);
    let calls = |sim: &SimVfs| CASES.map(|(op_kind, _)| sim.calls(op_kind));
    let fresh = SimVfs::new(SEED);
    drop(training::create(&fresh));
    let (first, last) = (calls(&fresh), calls(&training.sim));
    let mut faults = Vec::new();
    for (n, (op_kind, error)) in CASES.into_iter().enumerate() {
        let stride = if op_kind == OpKind::Read { stride() * 13 } else { stride() };
        for sticky in [false, true] {
            faults.extend((0..last[n] - first[n]).step_by(stride).map(|nth| Fault {
                op_kind,
                nth,
                error,
                sticky,
            }));
        }
    }
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

/// When space is back, the same handles write again.
#[test]
fn writes_resume_when_the_disk_has_space_again() {
    let options = plain_options(Durability::Full);
    let steps = plain_steps();
    let sim = SimVfs::new(SEED);
    oracle::record(&sim, &options, &steps);
    let calls = sim.calls(OpKind::Write);
    let tried: Vec<usize> = (0..calls).step_by(stride().div_ceil(2)).collect();
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
