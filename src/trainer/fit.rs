//! The loop that every training method runs: shuffle, batch, loss, backward, step.
//!
//! The order of the rows depends on the seed alone. With a time budget the learning rate follows the
//! larger of the share of steps and the share of time used, so that a run cut short still ends at a
//! low rate.
//!
//! Each text of a batch is embedded once, however often its rows name it. A batch of more texts than fit is embedded in
//! parts without tapes; once the loss has said how each embedding should change, every part goes forward again and back
//! (GradCache: Gao et al. 2021, arXiv:2101.06983). The gradient is that of the batch in one piece.
//!
//! A run can be stopped and resumed (`checkpoint`): what follows is, to the bit, what would have
//! followed, unless a time budget makes it depend on the clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::checkpoint::{self, State};
use super::losses::Slope;
use super::losses::arithmetic::gathered;
use super::model::Model;
use super::optimiser::{AdamOptions, AdamW, rate_at};
use super::rng::Rng;
use crate::error::{Error, Result};
use crate::options::Task;

/// Steps of which the loss and the speed are told.
const TOLD: usize = 10;

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
    /// Every step.
    #[serde(skip)]
    pub records: Vec<StepRecord>,
}

impl TrainReport {
    /// Adds what was done afterwards, with the same rows and more.
    pub(super) fn extend(&mut self, further: TrainReport) {
        self.pairs = self.pairs.max(further.pairs);
        self.steps += further.steps;
        self.seconds += further.seconds;
        self.loss_last = further.loss_last;
        self.notes.extend(further.notes);
        self.records.extend(further.records);
    }
}

/// One step of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepRecord {
    /// Mean loss of its batches.
    pub loss: f64,
    /// Learning rate.
    pub rate: f64,
    /// Norm of the gradient before clipping.
    pub norm: f64,
    /// Rows trained on.
    pub rows: usize,
    /// Wall time.
    pub seconds: f64,
}

/// How a run goes over its rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    pub rows: usize,
    pub epochs: usize,
    pub batch: usize,
    /// Batches whose mean gradient makes one step.
    pub accumulate: usize,
    /// Texts that go forward and back together at most; 0: all of a batch.
    pub at_once: usize,
    pub seed: u64,
    pub time_budget: Option<Duration>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { rows: 0, epochs: 1, batch: 32, accumulate: 1, at_once: 0, seed: 0, time_budget: None }
    }
}

impl Schedule {
    /// Batches of an epoch. Rows are spread evenly, so that no batch is much smaller than the others.
    fn batches(&self) -> usize {
        self.rows.div_ceil(self.batch.max(2))
    }

    /// Steps of an epoch.
    fn epoch(&self) -> usize {
        self.batches().div_ceil(self.accumulate.max(1))
    }

    fn steps(&self) -> usize {
        self.epoch() * self.epochs
    }
}

/// What is asked of a model's embeddings.
pub(super) trait Objective {
    /// Numbers of the texts that rows are about, side by side: queries, positives, and so on.
    fn texts(&self, rows: &[usize]) -> Vec<Vec<usize>>;

    /// The loss of rows, given each side's embeddings (texts × dim), and its derivatives by them.
    fn slope(&self, rows: &[usize], sides: &[&[f32]]) -> Result<Slope>;

    /// Puts an epoch's rows, shuffled, into the order in which they are cut into so many batches.
    fn arrange(&self, _rows: &mut [usize], _batches: usize) {}
}

/// Takes the state of a run.
pub type OnSave<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<()> + Send + 'a);
/// Is told a step: its number from 1, how many there will be, and what it did.
pub type OnStep<'a> = &'a mut (dyn FnMut(usize, usize, &StepRecord) + Send + 'a);

/// What happens beside a run: its steps are told, its state is saved and taken up again.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Identity of what is trained, on what and how; a state of another is refused.
    pub run: u64,
    /// A saved state to go on from.
    pub resume: Option<Vec<u8>>,
    /// Takes a state to keep instead of the one before.
    pub save: Option<OnSave<'a>>,
    /// How much time passes from one state to the next, the last being that of the end; without it the state is saved on
    /// cancellation alone.
    pub every: Option<Duration>,
    /// Is told each step, after it.
    pub step: Option<OnStep<'a>>,
}

/// Trains a model.
///
/// # Errors
/// [`Error::Input`] with fewer than 2 rows, if training diverges, or if the state to resume is of another run;
/// [`Error::Corrupt`] if it is damaged; [`Error::Cancelled`], after saving.
pub(super) fn fit<M: Model>(
    model: &mut M,
    objective: &impl Objective,
    adam: AdamOptions,
    schedule: &Schedule,
    hooks: &mut Hooks<'_>,
    task: &Task,
) -> Result<TrainReport> {
    if schedule.rows < 2 || schedule.epochs == 0 {
        return Err(Error::input("training needs at least 2 pairs and 1 epoch"));
    }
    let threads = model.threads();
    let mut run = Run {
        optimiser: AdamW::new(model.parameters(), adam, threads),
        rate: adam.rate,
        schedule,
        records: Vec::with_capacity(schedule.steps()),
        before: Duration::ZERO,
        start: Instant::now(),
        saved: Instant::now(),
        saved_steps: 0,
    };
    if let Some(bytes) = hooks.resume.take() {
        run.resume(model, &bytes, hooks.run)?;
    }
    let outcome = run.go(model, objective, hooks, task);
    if matches!(outcome, Err(Error::Cancelled)) {
        run.save(model, hooks)?;
    }
    let notes = outcome?;
    if hooks.every.is_some() && run.saved_steps < run.records.len() {
        run.save(model, hooks)?;
    }
    let losses: Vec<f64> = run.records.iter().map(|record| record.loss).collect();
    let tenth = losses.len().div_ceil(10);
    Ok(TrainReport {
        pairs: schedule.rows,
        steps: losses.len(),
        seconds: run.time().as_secs_f64(),
        loss_first: mean(losses.iter().take(tenth)),
        loss_last: mean(losses.iter().rev().take(tenth)),
        notes,
        records: run.records,
    })
}

/// A run under way.
struct Run<'a> {
    schedule: &'a Schedule,
    optimiser: AdamW,
    rate: f64,
    records: Vec<StepRecord>,
    /// Time used before the run was resumed.
    before: Duration,
    start: Instant,
    saved: Instant,
    /// Steps in the newest saved state.
    saved_steps: usize,
}

impl Run<'_> {
    /// Makes all steps that are left; returns notes.
    fn go<M: Model>(
        &mut self,
        model: &mut M,
        objective: &impl Objective,
        hooks: &mut Hooks<'_>,
        task: &Task,
    ) -> Result<Vec<String>> {
        let schedule = self.schedule;
        let total = schedule.steps();
        let mut rng = Rng::new(schedule.seed);
        let mut order: Vec<usize> = (0..schedule.rows).collect();
        for epoch in 0..schedule.epochs {
            rng.shuffle(&mut order);
            let mut arranged = order.clone();
            objective.arrange(&mut arranged, schedule.batches());
            let batches: Vec<&[usize]> = even_parts(&arranged, schedule.batches()).collect();
            // Those of an earlier part of the run are left out.
            let done = self.records.len().saturating_sub(epoch * schedule.epoch());
            for batches in batches.chunks(schedule.accumulate.max(1)).skip(done) {
                let by_time = schedule.time_budget.map_or(0.0, |budget| share_of(budget, self.time()));
                if by_time >= 1.0 {
                    let done = self.records.len();
                    return Ok(vec![format!("stopped by --time-budget after {done} of {total} steps")]);
                }
                let by_steps = (self.records.len() as f64 + 0.5) / total as f64;
                let record = self.step(model, objective, batches, rate_at(by_steps.max(by_time)), task)?;
                self.records.push(record);
                if let Some(step) = &mut hooks.step {
                    step(self.records.len(), total, &record);
                }
                if hooks.every.is_some_and(|every| self.saved.elapsed() >= every) {
                    self.save(model, hooks)?;
                }
            }
        }
        task.step("train", self.records.len() as u64, total as u64)?;
        Ok(Vec::new())
    }

    /// One step of the optimiser.
    fn step<M: Model>(
        &mut self,
        model: &mut M,
        objective: &impl Objective,
        batches: &[&[usize]],
        factor: f64,
        task: &Task,
    ) -> Result<StepRecord> {
        let start = Instant::now();
        let mut record = StepRecord { rate: self.rate * factor, ..StepRecord::default() };
        model.parameters().clear();
        for rows in batches {
            task.tell("train", self.records.len() as u64, self.schedule.steps() as u64, &self.told())?;
            record.loss += backward(model, objective, rows, self.schedule.at_once)? / batches.len() as f64;
            record.rows += rows.len();
        }
        if batches.len() > 1 {
            model.parameters().scale(1.0 / batches.len() as f32);
        }
        record.norm = self.optimiser.step(model.parameters(), factor)?;
        model.changed()?;
        record.seconds = start.elapsed().as_secs_f64();
        Ok(record)
    }

    /// How it goes, for people: the loss and the pairs a second of the last steps.
    fn told(&self) -> String {
        let last = self.records.len().saturating_sub(TOLD);
        let last = self.records.get(last..).unwrap_or_default();
        let seconds: f64 = last.iter().map(|record| record.seconds).sum();
        let rows: usize = last.iter().map(|record| record.rows).sum();
        let rate = rows as f64 / seconds.max(f64::MIN_POSITIVE);
        match last.is_empty() {
            true => "loss …".into(),
            false => format!("loss {:.4}, {rate:.0} pairs/s", mean(last.iter().map(|record| &record.loss))),
        }
    }

    /// Time used so far.
    fn time(&self) -> Duration {
        self.before + self.start.elapsed()
    }

    fn save<M: Model>(&mut self, model: &mut M, hooks: &mut Hooks<'_>) -> Result<()> {
        let run = checkpoint::identity(hooks.run, self.schedule);
        if let Some(save) = &mut hooks.save {
            let state = State { run, time: self.time(), records: &self.records, optimiser: &self.optimiser };
            save(&checkpoint::write(&state, model.parameters()))?;
            (self.saved, self.saved_steps) = (Instant::now(), self.records.len());
        }
        Ok(())
    }

    fn resume<M: Model>(&mut self, model: &mut M, bytes: &[u8], run: u64) -> Result<()> {
        let run = checkpoint::identity(run, self.schedule);
        let saved = checkpoint::read(bytes, run, model.parameters(), &mut self.optimiser)?;
        if saved.records.len() > self.schedule.steps() {
            return Err(checkpoint::other_run());
        }
        (self.records, self.before) = (saved.records, saved.time);
        self.saved_steps = self.records.len();
        model.changed()
    }
}

/// Adds the gradient of some rows' loss to the model's; returns the loss. At most `at_once` texts (0: all) go forward
/// and back together.
fn backward<M: Model>(
    model: &mut M,
    objective: &impl Objective,
    rows: &[usize],
    at_once: usize,
) -> Result<f64> {
    let sides = objective.texts(rows);
    let (texts, places) = distinct(&sides);
    let at_once = if at_once == 0 { texts.len() } else { at_once };
    let dim = model.dim();
    let mut tape = None;
    let mut embedded = Vec::with_capacity(texts.len() * dim);
    for part in texts.chunks(at_once.max(1)) {
        if texts.len() <= at_once {
            let (rows, of_all) = model.forward(part)?;
            embedded.extend(rows);
            tape = Some(of_all);
        } else {
            embedded.extend(model.embed(part)?);
        }
    }
    let gathered: Vec<Vec<f32>> = places.iter().map(|places| gathered(&embedded, places, dim)).collect();
    let views: Vec<&[f32]> = gathered.iter().map(Vec::as_slice).collect();
    let Slope { value: loss, sides: slopes } = objective.slope(rows, &views)?;
    if !loss.is_finite() {
        return Err(Error::input("training diverged: the loss is not finite; try a lower --lr"));
    }
    let mut slope = vec![0.0; embedded.len()];
    for (of_side, places) in slopes.iter().zip(&places) {
        scatter(of_side, places, dim, &mut slope);
    }
    if let Some(tape) = tape {
        model.backward(tape, &slope)?;
        return Ok(loss);
    }
    for (part, slope) in texts.chunks(at_once.max(1)).zip(slope.chunks(at_once.max(1) * dim)) {
        let (_, tape) = model.forward(part)?;
        model.backward(tape, slope)?;
    }
    Ok(loss)
}

/// The texts of all sides, each once, and where those of each side stand among them.
fn distinct(sides: &[Vec<usize>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let (mut texts, mut found) = (Vec::new(), HashMap::new());
    let mut place = |&text: &usize| {
        *found.entry(text).or_insert_with(|| {
            texts.push(text);
            texts.len() - 1
        })
    };
    let places = sides.iter().map(|side| side.iter().map(&mut place).collect()).collect();
    (texts, places)
}

fn scatter(from: &[f32], places: &[usize], dim: usize, onto: &mut [f32]) {
    for (row, &place) in from.chunks_exact(dim.max(1)).zip(places) {
        if let Some(target) = onto.get_mut(place * dim..(place + 1) * dim) {
            target.iter_mut().zip(row).for_each(|(target, value)| *target += value);
        }
    }
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
mod tests;
