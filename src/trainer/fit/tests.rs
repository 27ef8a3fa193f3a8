use std::cell::RefCell;

use super::super::model::testing::Sums;
use super::*;

/// Texts 2·n and 2·n + 1 should get the same embedding, for each row n; remembers the rows of each batch.
struct Near(RefCell<Vec<Vec<usize>>>);

impl Objective for Near {
    fn texts(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        self.0.borrow_mut().push(rows.to_vec());
        (0..2).map(|side| rows.iter().map(|row| 2 * row + side).collect()).collect()
    }

    fn slope(&self, rows: &[usize], sides: &[&[f32]]) -> Result<Slope> {
        let apart: Vec<f32> =
            sides[0].iter().zip(sides[1]).map(|(a, b)| (a - b) / rows.len() as f32).collect();
        let loss = apart.iter().map(|d| f64::from(d * d) / 2.0).sum::<f64>() * rows.len() as f64;
        Ok(Slope { value: loss, sides: vec![apart.clone(), apart.iter().map(|d| -d).collect()] })
    }
}

/// Words, 20, are shared by texts.
fn model() -> Sums {
    Sums::new(23, 6, (0..50).map(|text| vec![text % 20, text * 7 % 20, text * 3 % 11]).collect())
}

const ADAM: AdamOptions =
    AdamOptions { rate: 0.05, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, clip: 1.0 };

fn schedule() -> Schedule {
    Schedule { rows: 25, epochs: 4, batch: 8, seed: 3, ..Schedule::default() }
}

type Outcome = (Result<TrainReport>, Vec<Vec<usize>>, Vec<f32>);

fn run(schedule: &Schedule, hooks: &mut Hooks<'_>, task: &Task) -> Outcome {
    let (mut model, near) = (model(), Near(RefCell::default()));
    let report = fit(&mut model, &near, ADAM, schedule, hooks, task);
    (report, near.0.into_inner(), model.table().to_vec())
}

fn plain(schedule: &Schedule) -> Outcome {
    run(schedule, &mut Hooks::default(), &Task::default())
}

#[test]
fn every_epoch_sees_every_row_once_in_seeded_order() {
    let (report, batches, _) = plain(&schedule());
    let report = report.unwrap();
    assert_eq!((report.pairs, report.steps, batches.len()), (25, 16, 16));
    assert!(batches.iter().all(|b| (6..=7).contains(&b.len())), "even batches");
    for epoch in batches.chunks(4) {
        let mut rows = epoch.concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..25).collect::<Vec<_>>());
    }
    assert!(report.loss_last < 0.5 * report.loss_first, "{report:?}");
    assert_eq!(batches, plain(&schedule()).1);
    assert_ne!(batches, plain(&Schedule { seed: 4, ..schedule() }).1);
}

#[test]
fn steps_are_recorded_and_told() {
    let mut told = Vec::new();
    let mut step = |number: usize, total: usize, record: &StepRecord| told.push((number, total, *record));
    let mut hooks = Hooks { step: Some(&mut step), ..Hooks::default() };
    let report = run(&schedule(), &mut hooks, &Task::default()).0.unwrap();
    assert_eq!(report.records.len(), 16);
    assert!(report.records.iter().all(|r| r.loss > 0.0 && r.norm > 0.0 && r.rate > 0.0 && r.rows > 5));
    let most = report.records.iter().map(|r| r.rate).fold(0.0, f64::max);
    assert!(most > 0.9 * ADAM.rate && most <= ADAM.rate);
    assert!(told.iter().zip(1..).all(|((number, total, _), at)| (*number, *total) == (at, 16)));
    assert!(told.iter().map(|(_, _, record)| record).eq(&report.records));
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn a_batch_in_parts_has_the_gradient_of_the_whole() {
    let whole = plain(&schedule());
    for at_once in [1, 3, 5, 14] {
        let parts = plain(&Schedule { at_once, ..schedule() });
        assert!(near(&whole.2, &parts.2), "{at_once}");
        assert!((whole.0.as_ref().unwrap().loss_last - parts.0.unwrap().loss_last).abs() < 1e-6);
    }
}

/// The loss is a mean over rows, so that batches of equal length add up to one.
#[test]
fn accumulated_batches_are_one() {
    let rows = Schedule { rows: 24, ..schedule() };
    let (one, several) =
        (plain(&Schedule { batch: 12, ..rows }), plain(&Schedule { batch: 4, accumulate: 3, ..rows }));
    assert_eq!((one.0.as_ref().unwrap().steps, several.0.as_ref().unwrap().steps), (8, 8));
    assert!(near(&one.2, &several.2));
    // Six batches in fours: the last two make a step of their own.
    let uneven = plain(&Schedule { batch: 4, accumulate: 4, ..rows }).0.unwrap();
    assert_eq!(uneven.records.iter().map(|r| r.rows).collect::<Vec<_>>(), [16, 8].repeat(4));
}

#[test]
fn a_spent_budget_and_a_cancelled_task_stop() {
    let (report, ..) = plain(&Schedule { time_budget: Some(Duration::ZERO), ..schedule() });
    let report = report.unwrap();
    assert_eq!(report.steps, 0);
    assert_eq!(report.notes, ["stopped by --time-budget after 0 of 16 steps"]);
    let task = Task::default();
    task.cancel();
    assert!(matches!(run(&schedule(), &mut Hooks::default(), &task).0, Err(Error::Cancelled)));
    assert_eq!(plain(&Schedule { rows: 1, ..schedule() }).0.unwrap_err().exit_code(), 1);
}

/// The state when the run is stopped before the batch of this number.
fn stopped(schedule: &Schedule, batch: u64) -> Vec<u8> {
    let task = Task::default();
    let stop = task.clone();
    let seen = std::sync::atomic::AtomicU64::new(0);
    let task = task.unless(move || seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == batch);
    let mut state = Vec::new();
    let mut save = |bytes: &[u8]| {
        state = bytes.to_vec();
        Ok(())
    };
    let mut hooks = Hooks { run: 7, save: Some(&mut save), ..Hooks::default() };
    let outcome = run(schedule, &mut hooks, &task).0;
    assert!(matches!(outcome, Err(Error::Cancelled)));
    stop.cancel();
    state
}

#[test]
fn a_resumed_run_ends_as_if_it_had_not_stopped() {
    for schedule in [schedule(), Schedule { batch: 4, accumulate: 3, at_once: 3, ..schedule() }] {
        let (report, batches, table) = plain(&schedule);
        let report = report.unwrap();
        for at in [0, 1, 4, 7, batches.len() - 1] {
            let state = stopped(&schedule, at as u64);
            let mut hooks = Hooks { run: 7, resume: Some(state), ..Hooks::default() };
            let (resumed, left, resumed_table) = run(&schedule, &mut hooks, &Task::default());
            let resumed = resumed.unwrap();
            assert!(left.iter().eq(&batches[batches.len() - left.len()..]), "{at}");
            assert!(left.len() <= batches.len() - at + 2, "{at}");
            assert_eq!(resumed_table, table, "{at}");
            assert_eq!((resumed.steps, resumed.loss_last), (report.steps, report.loss_last), "{at}");
        }
    }
}

#[test]
fn states_are_saved_as_often_as_wanted() {
    let count = |every| {
        let mut states = 0;
        let mut save = |_: &[u8]| {
            states += 1;
            Ok(())
        };
        let mut hooks = Hooks { save: Some(&mut save), every, ..Hooks::default() };
        run(&schedule(), &mut hooks, &Task::default()).0.unwrap();
        states
    };
    assert_eq!((count(Some(Duration::ZERO)), count(Some(Duration::MAX)), count(None)), (16, 1, 0));
}

#[test]
fn another_runs_state_is_refused() {
    let state = stopped(&schedule(), 5);
    let other = [
        (8, schedule()),
        (7, Schedule { seed: 4, ..schedule() }),
        (7, Schedule { batch: 9, ..schedule() }),
        (7, Schedule { epochs: 5, ..schedule() }),
    ];
    for (identity, schedule) in other {
        let mut hooks = Hooks { run: identity, resume: Some(state.clone()), ..Hooks::default() };
        let error = run(&schedule, &mut hooks, &Task::default()).0.unwrap_err();
        assert!(matches!(&error, Error::Input(what) if what.contains("another run")), "{error}");
    }
}

#[test]
fn the_report_has_the_agreed_keys() {
    let json = serde_json::to_value(TrainReport::default()).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["pairs", "steps", "seconds", "loss_first", "loss_last"]);
}
