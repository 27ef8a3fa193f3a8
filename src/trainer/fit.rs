//! The loop that every training method runs: shuffle, batch, loss, backward, step.
//!
//! The order of the rows depends on the seed alone. With a time budget the learning rate follows the
//! larger of the share of steps and the share of time used, so that a run cut short still ends at a
//! low rate.

use std::time::{Duration, Instant};

use candle_core::{Tensor, Var};
use serde::Serialize;

use super::losses::arithmetic::tensor_error;
use super::optimiser::{AdamOptions, AdamW, rate_at};
use super::rng::Rng;
use crate::error::{Error, Result};
use crate::options::Task;

/// What a training run did; serialises to the `train` object of `retrain`.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct TrainReport {
    /// Pairs trained on.
    pub pairs: usize,
    /// Steps of the optimiser.
    pub steps: usize,
    /// Wall time.
    pub seconds: f64,
    /// Mean loss over the first tenth of the steps.
    pub loss_first: f64,
    /// Mean loss over the last tenth of the steps.
    pub loss_last: f64,
    /// Anything the user should know, such as a run cut short.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// How a run goes over its rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub rows: usize,
    pub epochs: usize,
    pub batch: usize,
    pub seed: u64,
    pub time_budget: Option<Duration>,
}

impl Schedule {
    /// Batches of an epoch. Rows are spread evenly, so that no batch is much smaller than the others.
    fn batches(&self) -> usize {
        self.rows.div_ceil(self.batch.max(2))
    }

    fn steps(&self) -> usize {
        self.batches() * self.epochs
    }
}

/// Trains `variables` on what `loss` gives for each batch of row numbers: the loss, and a scalar whose
/// graph has its gradient.
pub(super) fn fit(
    variables: Vec<(String, Var)>,
    adam: AdamOptions,
    schedule: &Schedule,
    task: &Task,
    mut loss: impl FnMut(&[usize]) -> Result<(f64, Tensor)>,
) -> Result<TrainReport> {
    if schedule.rows < 2 || schedule.epochs == 0 {
        return Err(Error::input("training needs at least 2 pairs and 1 epoch"));
    }
    let start = Instant::now();
    let mut optimiser = AdamW::new(variables, adam);
    let mut losses = Vec::with_capacity(schedule.steps());
    let mut notes = Vec::new();
    let mut rng = Rng::new(schedule.seed);
    let mut order: Vec<usize> = (0..schedule.rows).collect();
    let total = schedule.steps();
    'epochs: for _ in 0..schedule.epochs {
        rng.shuffle(&mut order);
        for rows in even_parts(&order, schedule.batches()) {
            let by_time = schedule.time_budget.map_or(0.0, |budget| share_of(budget, start.elapsed()));
            if by_time >= 1.0 {
                notes.push(format!("stopped by --time-budget after {} of {total} steps", losses.len()));
                break 'epochs;
            }
            task.step("train", losses.len() as u64, total as u64)?;
            let by_steps = (losses.len() as f64 + 0.5) / total as f64;
            let (value, carrier) = loss(rows)?;
            if !value.is_finite() {
                return Err(Error::input("training diverged: the loss is not finite; try a lower --lr"));
            }
            losses.push(value);
            let gradients = carrier.backward().map_err(tensor_error)?;
            optimiser.step(&gradients, rate_at(by_steps.max(by_time)))?;
        }
    }
    task.step("train", losses.len() as u64, total as u64)?;
    let tenth = losses.len().div_ceil(10);
    Ok(TrainReport {
        pairs: schedule.rows,
        steps: losses.len(),
        seconds: start.elapsed().as_secs_f64(),
        loss_first: mean(losses.iter().take(tenth)),
        loss_last: mean(losses.iter().rev().take(tenth)),
        notes,
    })
}

/// The share of a budget that is spent, at most 1.
fn share_of(budget: Duration, spent: Duration) -> f64 {
    if spent >= budget { 1.0 } else { spent.as_secs_f64() / budget.as_secs_f64() }
}

fn even_parts(order: &[usize], parts: usize) -> impl Iterator<Item = &[usize]> {
    (0..parts).filter_map(move |i| order.get(i * order.len() / parts..(i + 1) * order.len() / parts))
}

fn mean<'a>(values: impl ExactSizeIterator<Item = &'a f64>) -> f64 {
    let n = values.len().max(1);
    values.sum::<f64>() / n as f64
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn run(schedule: Schedule, task: &Task) -> (Result<TrainReport>, Vec<Vec<usize>>) {
        let x = Var::from_tensor(&Tensor::new(&[4f32], &Device::Cpu).unwrap()).unwrap();
        let mut batches = Vec::new();
        let adam = AdamOptions { rate: 0.1, ..AdamOptions::default() };
        let report = fit(vec![("weight".into(), x.clone())], adam, &schedule, task, |rows| {
            batches.push(rows.to_vec());
            let loss = x.as_tensor().sqr().and_then(|s| s.sum_all()).map_err(tensor_error)?;
            Ok((f64::from(loss.to_scalar::<f32>().unwrap()), loss))
        });
        (report, batches)
    }

    const SCHEDULE: Schedule = Schedule { rows: 25, epochs: 4, batch: 8, seed: 3, time_budget: None };

    #[test]
    fn every_epoch_sees_every_row_once_in_seeded_order() {
        let (report, batches) = run(SCHEDULE, &Task::default());
        let report = report.unwrap();
        assert_eq!((report.pairs, report.steps, batches.len()), (25, 16, 16));
        assert!(batches.iter().all(|b| (6..=7).contains(&b.len())), "even batches");
        for epoch in batches.chunks(4) {
            let mut rows = epoch.concat();
            rows.sort_unstable();
            assert_eq!(rows, (0..25).collect::<Vec<_>>());
        }
        assert!(report.loss_last < report.loss_first);
        assert_eq!(batches, run(SCHEDULE, &Task::default()).1);
        assert_ne!(batches, run(Schedule { seed: 4, ..SCHEDULE }, &Task::default()).1);
    }

    #[test]
    fn a_spent_budget_and_a_cancelled_task_stop() {
        let (report, _) = run(Schedule { time_budget: Some(Duration::ZERO), ..SCHEDULE }, &Task::default());
        let report = report.unwrap();
        assert_eq!(report.steps, 0);
        assert_eq!(report.notes, ["stopped by --time-budget after 0 of 16 steps"]);
        let task = Task::default();
        task.cancel();
        assert!(matches!(run(SCHEDULE, &task).0, Err(Error::Cancelled)));
        assert_eq!(run(Schedule { rows: 1, ..SCHEDULE }, &Task::default()).0.unwrap_err().exit_code(), 1);
    }

    #[test]
    fn the_report_has_the_agreed_keys() {
        let json = serde_json::to_value(TrainReport::default()).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["pairs", "steps", "seconds", "loss_first", "loss_last"]);
    }
}
