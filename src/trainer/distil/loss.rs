//! How far a student's vectors are from its teacher's.
//!
//! For each rung of a ladder, vectors are cut to it and brought to length 1. Then two things count: one minus the cosine to
//! the teacher's vector, and the divergence of the student's similarities within the batch from the teacher's, as softmax of
//! cosines over a temperature (Kullback and Leibler; relations instead of answers: Park et al. 2019, arXiv:1904.05068).

use candle_core::{D, Device, Result, Tensor};

/// Divided out of cosines before the softmax.
const TEMPERATURE: f64 = 0.07;
/// Share of the divergence beside one minus the cosine.
const RELATIONS: f64 = 0.3;
/// Added to a text's similarity to itself: its exponential is exactly 0.
const EXCLUDED: f32 = -1e4;
/// Keeps the derivative of the norm finite at a zero vector.
const NORM_EPSILON: f64 = 1e-12;

/// The loss over the prefixes of a ladder.
#[derive(Debug, Clone)]
pub(super) struct DistilLoss {
    ladder: Vec<usize>,
}

impl DistilLoss {
    pub(super) fn new(ladder: &[usize]) -> Self {
        Self { ladder: ladder.to_vec() }
    }

    /// The mean over the ladder, a scalar with its graph. `student`, `teacher`: texts × dim, of any norm.
    pub(super) fn of(&self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        let texts = student.dim(0)?;
        let excluded: Vec<f32> =
            (0..texts * texts).map(|at| if at / texts == at % texts { EXCLUDED } else { 0.0 }).collect();
        let excluded = Tensor::from_vec(excluded, (texts, texts), &Device::Cpu)?;
        let mut total = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
        for &rung in &self.ladder {
            let (ours, theirs) = (unit(student, rung)?, unit(teacher, rung)?);
            let cosine = (&ours * &theirs)?.sum(1)?.mean(0)?;
            let wanted = log_shares(&theirs, &excluded)?;
            let apart = (wanted.exp()? * (&wanted - log_shares(&ours, &excluded)?)?)?.sum(1)?.mean(0)?;
            total = ((total - cosine)? + (apart * RELATIONS)?)?;
        }
        total.affine(1.0 / self.ladder.len().max(1) as f64, 1.0)
    }
}

/// The first values of each row, brought to length 1.
fn unit(rows: &Tensor, rung: usize) -> Result<Tensor> {
    let cut = rows.narrow(1, 0, rung)?.contiguous()?;
    let norm = (cut.sqr()?.sum_keepdim(1)? + NORM_EPSILON)?.sqrt()?;
    cut.broadcast_div(&norm)
}

/// Logarithms of the shares that the others have in each text's similarities.
fn log_shares(rows: &Tensor, excluded: &Tensor) -> Result<Tensor> {
    let logits = ((rows.matmul(&rows.t()?)? / TEMPERATURE)? + excluded)?;
    let above = logits.max_keepdim(D::Minus1)?.detach();
    let logits = logits.broadcast_sub(&above)?;
    logits.broadcast_sub(&logits.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    fn rows(seed: usize) -> Vec<f32> {
        (0..5 * 6).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 11.0 - 1.0).collect()
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (5, 6), &Device::Cpu).unwrap()
    }

    fn loss(student: &[f32], teacher: &[f32]) -> f64 {
        let value = DistilLoss::new(&[3, 6]).of(&tensor(student), &tensor(teacher)).unwrap();
        f64::from(value.to_scalar::<f32>().unwrap())
    }

    /// The definition, in f64.
    fn plain(student: &[f32], teacher: &[f32], rung: usize) -> f64 {
        let unit = |values: &[f32]| -> Vec<Vec<f64>> {
            let cut = |row: &[f32]| row[..rung].iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
            let scaled = |row: Vec<f64>| {
                let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                row.iter().map(|v| v / norm).collect()
            };
            values.chunks(6).map(|row| scaled(cut(row))).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let (a, b) = (unit(student), unit(teacher));
        let shares = |rows: &[Vec<f64>], i: usize| -> Vec<f64> {
            let exp = |j: usize| if i == j { 0.0 } else { (dot(&rows[i], &rows[j]) / TEMPERATURE).exp() };
            let all: Vec<f64> = (0..5).map(exp).collect();
            let sum: f64 = all.iter().sum();
            all.iter().map(|e| e / sum).collect()
        };
        let mut total = 0.0;
        for i in 0..5 {
            let (p, q) = (shares(&b, i), shares(&a, i));
            let apart: f64 = (0..5).filter(|&j| j != i).map(|j| p[j] * (p[j] / q[j]).ln()).sum();
            total += 1.0 - dot(&a[i], &b[i]) + RELATIONS * apart;
        }
        total / 5.0
    }

    #[test]
    fn the_loss_is_its_definition() {
        let (student, teacher) = (rows(1), rows(2));
        let expected = (plain(&student, &teacher, 3) + plain(&student, &teacher, 6)) / 2.0;
        assert!((loss(&student, &teacher) - expected).abs() < 1e-5, "{expected}");
        assert!(loss(&teacher, &teacher).abs() < 1e-5);
        assert!(expected > 0.1);
    }

    #[test]
    fn its_gradient_is_that_of_finite_differences() {
        let (student, teacher) = (rows(3), rows(4));
        let variable = Var::from_tensor(&tensor(&student)).unwrap();
        let value = DistilLoss::new(&[3, 6]).of(variable.as_tensor(), &tensor(&teacher)).unwrap();
        let gradients = value.backward().unwrap();
        let gradient: Vec<f32> =
            gradients.get(variable.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for at in [0, 4, 13, 29] {
            let moved = |by: f32| {
                let mut values = student.clone();
                values[at] += by;
                (plain(&values, &teacher, 3) + plain(&values, &teacher, 6)) / 2.0
            };
            let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
            assert!((f64::from(gradient[at]) - slope).abs() < 1e-3, "{at}: {} {slope}", gradient[at]);
        }
    }
}
