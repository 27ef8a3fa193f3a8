//! Distillation: a small encoder that gives nearly the vectors of a large one, from plain texts alone.
//!
//! The student begins as parts of the teacher ([`Encoder::shrunk`]) with a dense layer onto the principal axes of the
//! teacher's vectors, so that its first dimensions hold most of what tells texts apart. It learns the teacher's vectors
//! along those axes, in full and cut to each rung of the ladder. At the end its matrices become bytes.
//!
//! | file | what it holds |
//! |---|---|
//! | `axes` | principal axes of vectors |
//! | `loss` | how far the student's vectors are from the teacher's |

mod axes;
mod loss;

use self::axes::{principal_axes, project};
use self::loss::DistilLoss;
use super::fit::{Hooks, Objective, Schedule, TrainReport, fit};
use super::full::Prepared;
use super::optimiser::AdamOptions;
use crate::encoder::{Encoder, Kept, ModelFiles, PrepareLimits, TrainOptions};
use crate::error::{Error, Result};
use crate::options::Task;
use crate::types::Precision;

/// What is made, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct DistilOptions {
    /// What is kept of the teacher.
    pub kept: Kept,
    /// Lengths of vectors that shall be good, ascending; the last is the student's dimension.
    pub ladder: Vec<usize>,
    /// Passes over the texts.
    pub epochs: usize,
    /// Texts in a batch.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Seed of the order of texts.
    pub seed: u64,
}

impl Default for DistilOptions {
    /// Of a teacher such as all-MiniLM-L6-v2, an encoder of 8 MB: first and last layer, half of their inner units.
    fn default() -> Self {
        let kept = Kept { layers: vec![0, 5], inner: 768, vocabulary: 13_500, tokens: 128 };
        Self { kept, ladder: vec![64, 128, 256], epochs: 1, batch: 96, lr: 5e-4, seed: 0 }
    }
}

/// A distilled encoder.
pub struct Distilled {
    /// Its files, matrices as bytes.
    pub files: ModelFiles,
    /// what was done.
    pub report: TrainReport,
}

/// Distils `teacher` on `texts`; each once is best.
///
/// Reports the stages "embed", "prepare" and "train".
///
/// # Errors
/// [`Error::Input`] for a teacher that cannot be made smaller, too few texts, a ladder beyond the teacher's dimension, or
/// training that diverges; [`Error::Cancelled`].
pub fn distil(teacher: &Encoder, texts: &[&str], options: &DistilOptions, task: &Task) -> Result<Distilled> {
    let dim = options.ladder.last().copied().unwrap_or(0);
    if dim == 0 || dim > teacher.dim() || !options.ladder.is_sorted_by(|a, b| a < b) {
        let what = format!("the ladder {:?} does not ascend to at most {}", options.ladder, teacher.dim());
        return Err(Error::Input(what));
    }
    if texts.len() < 2 * dim {
        let what = format!(
            "{} texts are too few to learn {dim} dimensions from; bring {} or more",
            texts.len(),
            2 * dim
        );
        return Err(Error::Input(what));
    }
    let vectors = teacher.encode(texts, task)?;
    let axes = principal_axes(&vectors, teacher.dim(), dim);
    let targets = project(&vectors, teacher.dim(), &axes);
    drop(vectors);
    let start = teacher.shrunk(&options.kept, texts, &axes)?;
    // Flushing denormals is a setting of the thread; those it starts inherit it.
    let run = || {
        crate::kernel::flush_denormals();
        train(start, texts, &targets, options, task)
    };
    std::thread::scope(|scope| {
        scope.spawn(run).join().unwrap_or_else(|_| Err(Error::input("training: its thread stopped")))
    })
}

fn train(
    start: ModelFiles,
    texts: &[&str],
    targets: &[f32],
    options: &DistilOptions,
    task: &Task,
) -> Result<Distilled> {
    let student = Encoder::from_files(start, Precision::F32)?;
    let dim = student.dim();
    let student = student.trainable(&TrainOptions::default())?;
    let limits = PrepareLimits { tokens: options.kept.tokens, ..PrepareLimits::default() };
    let prepared = student.prepare(texts, &limits, task)?;
    let mut student = Prepared { encoder: student, texts: prepared };
    let nearness = Nearness { targets, dim, loss: DistilLoss::new(&options.ladder) };
    let adam = AdamOptions { rate: options.lr, weight_decay: 0.0, ..AdamOptions::default() };
    let schedule = Schedule {
        rows: texts.len(),
        epochs: options.epochs,
        batch: options.batch,
        seed: options.seed,
        ..Schedule::default()
    };
    let report = fit(&mut student, &nearness, adam, &schedule, &mut Hooks::default(), task)?;
    Ok(Distilled { files: student.encoder.to_files()?.in_codes()?, report })
}

/// Texts should get their targets.
struct Nearness<'a> {
    /// Texts × dim.
    targets: &'a [f32],
    dim: usize,
    loss: DistilLoss,
}

impl Objective for Nearness<'_> {
    fn texts(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        vec![rows.to_vec()]
    }

    fn slope(&self, rows: &[usize], sides: &[&[f32]]) -> Result<(f64, Vec<Vec<f32>>)> {
        let target =
            |&row: &usize| self.targets.get(row * self.dim..(row + 1) * self.dim).unwrap_or_default();
        let wanted: Vec<f32> = rows.iter().flat_map(target).copied().collect();
        let (value, slope) = self.loss.of(sides.first().copied().unwrap_or_default(), &wanted, self.dim);
        Ok((value, vec![slope]))
    }
}

#[cfg(test)]
mod tests;
