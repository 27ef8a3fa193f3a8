//! How far a student's vectors are from its teacher's.
//!
//! For each rung of a ladder, vectors are cut to it and brought to length 1. Then two things count: one minus the cosine to
//! the teacher's vector, and the divergence of the student's similarities within the batch from the teacher's, as softmax of
//! cosines over a temperature (Kullback and Leibler; relations instead of answers: Park et al. 2019, arXiv:1904.05068).

use crate::kernel::product::{Before, Matrix, product};

/// Divided out of cosines before the softmax.
const TEMPERATURE: f32 = 0.07;
/// Share of the divergence beside one minus the cosine.
const RELATIONS: f32 = 0.3;
/// A text's similarity to itself, negative: its power is exactly 0.
const OWN: f32 = 1e4;
/// Keeps the derivative of the norm finite at a zero vector.
const NORM_EPSILON: f32 = 1e-12;

/// The loss over the prefixes of a ladder.
#[derive(Debug, Clone)]
pub(super) struct DistilLoss {
    ladder: Vec<usize>,
}

impl DistilLoss {
    pub(super) fn new(ladder: &[usize]) -> Self {
        Self { ladder: ladder.to_vec() }
    }

    /// The mean over the ladder, and its derivative by each value of the student. `student`, `teacher`: texts × dim, of
    /// any norm.
    pub(super) fn of(&self, student: &[f32], teacher: &[f32], dim: usize) -> (f64, Vec<f32>) {
        let mut slope = vec![0.0; student.len()];
        let mut total = 0.0;
        for &rung in &self.ladder {
            total += add_rung(student, teacher, dim, rung, &mut slope);
        }
        let share = 1.0 / self.ladder.len().max(1) as f32;
        slope.iter_mut().for_each(|value| *value *= share);
        (total * f64::from(share), slope)
    }
}

/// The part of one rung; adds its derivative.
fn add_rung(student: &[f32], teacher: &[f32], dim: usize, rung: usize, slope: &mut [f32]) -> f64 {
    let (ours, inverse_norms) = unit(student, dim, rung);
    let (theirs, _) = unit(teacher, dim, rung);
    let texts = inverse_norms.len();
    let share = 1.0 / texts.max(1) as f32;
    let cosines: f32 = ours.iter().zip(&theirs).map(|(a, b)| a * b).sum();
    let (wanted, mut got) = (shares(&theirs, rung, texts), shares(&ours, rung, texts));
    let mut apart = 0.0;
    // The derivative by a similarity: the share it has, less that it should have.
    for (got, wanted) in got.iter_mut().zip(&wanted) {
        apart += f64::from(wanted.exp() * (wanted - *got));
        *got = (got.exp() - wanted.exp()) * (RELATIONS * share / TEMPERATURE);
    }
    let rows = Matrix::new(&ours, texts, rung);
    let pull = Matrix::new(&got, texts, texts);
    let mut by_unit: Vec<f32> = theirs.iter().map(|value| -share * value).collect();
    product(&mut by_unit, rung, Before::Kept, pull, rows, 1.0);
    product(&mut by_unit, rung, Before::Kept, pull.t(), rows, 1.0);
    let rows = by_unit.chunks_exact(rung).zip(ours.chunks_exact(rung)).zip(&inverse_norms);
    for (((g, u), inverse), out) in rows.zip(slope.chunks_exact_mut(dim)) {
        let along: f32 = g.iter().zip(u).map(|(g, u)| g * u).sum();
        for ((out, g), u) in out.iter_mut().zip(g).zip(u) {
            *out += (g - u * along) * inverse;
        }
    }
    1.0 - f64::from(cosines * share) + f64::from(RELATIONS * share) * apart
}

/// The first values of each row, brought to length 1, and the inverses of their lengths.
fn unit(rows: &[f32], dim: usize, rung: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut values, mut inverse_norms) = (Vec::new(), Vec::new());
    for row in rows.chunks_exact(dim.max(1)) {
        let prefix = row.get(..rung).unwrap_or(row);
        let inverse = 1.0 / (prefix.iter().map(|v| v * v).sum::<f32>() + NORM_EPSILON).sqrt();
        values.extend(prefix.iter().map(|v| v * inverse));
        inverse_norms.push(inverse);
    }
    (values, inverse_norms)
}

/// Logarithms of the shares that the others have in each text's similarities; of its own place one whose power is 0.
fn shares(rows: &[f32], rung: usize, texts: usize) -> Vec<f32> {
    let mut logits = vec![0.0; texts * texts];
    let matrix = Matrix::new(rows, texts, rung);
    product(&mut logits, texts, Before::Lost, matrix, matrix.t(), 1.0 / TEMPERATURE);
    for (text, row) in logits.chunks_exact_mut(texts.max(1)).enumerate() {
        if let Some(own) = row.get_mut(text) {
            *own = -OWN;
        }
        let most = row.iter().copied().fold(-OWN, f32::max);
        let sum: f32 = row.iter().map(|logit| (logit - most).exp()).sum();
        row.iter_mut().for_each(|logit| *logit -= most + sum.ln());
    }
    logits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(seed: usize) -> Vec<f32> {
        (0..5 * 6).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 11.0 - 1.0).collect()
    }

    fn loss(student: &[f32], teacher: &[f32]) -> f64 {
        DistilLoss::new(&[3, 6]).of(student, teacher, 6).0
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
            let exp = |j: usize| {
                if i == j { 0.0 } else { (dot(&rows[i], &rows[j]) / f64::from(TEMPERATURE)).exp() }
            };
            let all: Vec<f64> = (0..5).map(exp).collect();
            let sum: f64 = all.iter().sum();
            all.iter().map(|e| e / sum).collect()
        };
        let mut total = 0.0;
        for i in 0..5 {
            let (p, q) = (shares(&b, i), shares(&a, i));
            let apart: f64 = (0..5).filter(|&j| j != i).map(|j| p[j] * (p[j] / q[j]).ln()).sum();
            total += 1.0 - dot(&a[i], &b[i]) + f64::from(RELATIONS) * apart;
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
        let gradient = DistilLoss::new(&[3, 6]).of(&student, &teacher, 6).1;
        for at in 0..student.len() {
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
