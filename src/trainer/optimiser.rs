//! AdamW (Loshchilov and Hutter: Decoupled Weight Decay Regularization, 2019) in one pass per parameter.
//!
//! Biases and the parameters of normalisations do not decay. Gradients are clipped by their common
//! norm. The rate rises linearly over the first tenth of a run and falls linearly to zero
//! ([`rate_at`]). A step reads every gradient once for the norm and once for the update, on all cores; sums are formed
//! over fixed blocks, so that the number of threads changes no bit.
//!
//! A row of a table that no text has used so far stays as it is, weight decay included: there is nothing to learn about
//! it. From its first use on it is treated as any other number.

use crate::encoder::{Gradient, Parameter, Parameters};
use crate::error::{Error, Result};
use crate::kernel::threads::for_parts;

/// Settings of [`AdamW`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamOptions {
    /// Highest learning rate.
    pub rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub epsilon: f64,
    /// Share of a weight that is lost in a step of rate 1.
    pub weight_decay: f64,
    /// Largest norm of all gradients together.
    pub clip: f64,
}

impl Default for AdamOptions {
    fn default() -> Self {
        Self { rate: 2e-5, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, clip: 1.0 }
    }
}

/// Share of a run in which the rate rises.
const WARM_UP: f64 = 0.1;

/// Numbers that are added up, or changed, together.
const BLOCK: usize = 1 << 16;

/// The factor on the learning rate when `progress` (0 to 1) of the run is done.
pub fn rate_at(progress: f64) -> f64 {
    let rising = progress / WARM_UP;
    let falling = (1.0 - progress) / (1.0 - WARM_UP);
    rising.min(falling).clamp(0.0, 1.0)
}

/// The optimiser, with the state of every parameter that learns.
#[derive(Debug)]
pub struct AdamW {
    options: AdamOptions,
    threads: usize,
    pub(super) steps: u32,
    /// In the order of the parameters.
    pub(super) moments: Vec<Moments>,
}

/// The state of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    /// Means of gradients.
    pub(super) mean: Vec<f32>,
    /// Means of their squares.
    pub(super) square: Vec<f32>,
    /// Of a table, which rows were used so far; else empty.
    pub(super) used: Vec<bool>,
}

impl Moments {
    /// Those of a parameter before the first step.
    pub(super) fn of(parameter: &Parameter) -> Self {
        let zeros = vec![0.0; parameter.values.len()];
        let used = match &parameter.gradient {
            Gradient::Rows(rows) => vec![false; parameter.values.len() / rows.width().max(1)],
            _ => Vec::new(),
        };
        Self { mean: zeros.clone(), square: zeros, used }
    }
}

impl AdamW {
    /// An optimiser of the parameters that learn, on so many threads (0: one a core).
    pub fn new(parameters: &Parameters, options: AdamOptions, threads: usize) -> Self {
        let moments = parameters.learning().map(Moments::of).collect();
        Self { moments, options, threads, steps: 0 }
    }

    /// One step with a learning rate of `factor` times the highest. Returns the norm of the gradients before clipping.
    /// The gradients stay.
    ///
    /// # Errors
    /// [`Error::Input`] if the gradients are not finite; nothing has changed then.
    pub fn step(&mut self, parameters: &mut Parameters, factor: f64) -> Result<f64> {
        let norm = self.norm(parameters);
        if !norm.is_finite() {
            return Err(Error::input("training diverged: a gradient is not finite; try a lower --lr"));
        }
        self.steps = self.steps.saturating_add(1);
        let clip = if norm > self.options.clip { self.options.clip / norm } else { 1.0 };
        let learning = parameters.iter_mut().filter(|parameter| parameter.learns());
        for (number, parameter) in learning.enumerate() {
            let update = self.update(parameter, factor, clip);
            let Some(moments) = self.moments.get_mut(number) else { break };
            update.apply(parameter, moments, self.threads);
        }
        Ok(norm)
    }

    /// The norm of all gradients together.
    fn norm(&self, parameters: &Parameters) -> f64 {
        let blocks: Vec<&[f32]> =
            parameters.iter().flat_map(|parameter| parameter.gradient.values().chunks(BLOCK)).collect();
        let mut sums = vec![0.0; blocks.len()];
        for_parts(self.threads, sums.iter_mut().zip(blocks), || (), |(), (sum, block)| *sum = squares(block));
        sums.iter().sum::<f64>().sqrt()
    }

    fn update(&self, parameter: &Parameter, factor: f64, clip: f64) -> Update {
        let o = &self.options;
        let rate = o.rate * factor * f64::from(parameter.rate);
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        Update {
            clip: clip as f32,
            beta1: o.beta1 as f32,
            beta2: o.beta2 as f32,
            keep: if parameter.decays { (1.0 - rate * o.weight_decay) as f32 } else { 1.0 },
            rate: (rate / (1.0 - o.beta1.powi(steps))) as f32,
            square_scale: (1.0 / (1.0 - o.beta2.powi(steps))) as f32,
            epsilon: o.epsilon as f32,
        }
    }
}

/// The sum of squares, in lanes.
fn squares(values: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    for chunk in values.chunks(8) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    lanes.iter().sum()
}

/// The numbers of one step for one parameter, with their corrections for start-up applied.
#[derive(Debug, Clone, Copy)]
struct Update {
    clip: f32,
    beta1: f32,
    beta2: f32,
    keep: f32,
    rate: f32,
    square_scale: f32,
    epsilon: f32,
}

impl Update {
    fn apply(&self, parameter: &mut Parameter, moments: &mut Moments, threads: usize) {
        let Parameter { values, gradient, .. } = parameter;
        let Moments { mean, square, used } = moments;
        match gradient {
            Gradient::Frozen => {}
            Gradient::Dense(gradient) => {
                let blocks = values.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
                let blocks = blocks.zip(mean.chunks_mut(BLOCK).zip(square.chunks_mut(BLOCK)));
                for_parts(
                    threads,
                    blocks,
                    || (),
                    |(), ((values, gradient), (mean, square))| self.change(values, gradient, mean, square),
                );
            }
            Gradient::Rows(rows) => {
                let width = rows.width().max(1);
                let zeros = vec![0.0; width];
                let each = (BLOCK / width).max(1);
                let blocks = values.chunks_mut(each * width).zip(used.chunks_mut(each));
                let blocks = blocks.zip(mean.chunks_mut(each * width).zip(square.chunks_mut(each * width)));
                let change = |first: usize,
                              values: &mut [f32],
                              used: &mut [bool],
                              mean: &mut [f32],
                              square: &mut [f32]| {
                    let moments = mean.chunks_mut(width).zip(square.chunks_mut(width));
                    let table = values.chunks_mut(width).zip(used).zip(moments).enumerate();
                    for (row, ((values, used), (mean, square))) in table {
                        let gradient = rows.row(first + row);
                        *used |= gradient.is_some();
                        if *used {
                            self.change(values, gradient.unwrap_or(&zeros), mean, square);
                        }
                    }
                };
                for_parts(
                    threads,
                    blocks.enumerate(),
                    || (),
                    |(), (block, ((values, used), (mean, square)))| {
                        change(block * each, values, used, mean, square)
                    },
                );
            }
        }
    }

    fn change(&self, values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        for (((value, &gradient), mean), square) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
            let gradient = gradient * self.clip;
            *mean = self.beta1 * *mean + (1.0 - self.beta1) * gradient;
            *square = self.beta2 * *square + (1.0 - self.beta2) * gradient * gradient;
            let step = *mean / ((*square * self.square_scale).sqrt() + self.epsilon);
            *value = *value * self.keep - self.rate * step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, values: &[f32]) -> Parameters {
        Parameters::new(vec![Parameter::new(name, vec![values.len()], values.to_vec())])
    }

    fn set(parameters: &mut Parameters, name: &str, gradient: &[f32]) {
        parameters.get_mut(name).unwrap().gradient.dense().unwrap().copy_from_slice(gradient);
    }

    /// The algorithm in f64 as the paper states it (Algorithm 2), with clipping to norm 1.
    fn plain(start: &[f64], gradients: &[Vec<f64>], o: &AdamOptions) -> Vec<f64> {
        let mut x = start.to_vec();
        let (mut m, mut v) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for (t, gradient) in gradients.iter().enumerate() {
            let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            let clip = (o.clip / norm).min(1.0);
            for i in 0..x.len() {
                let g = gradient[i] * clip;
                m[i] = o.beta1 * m[i] + (1.0 - o.beta1) * g;
                v[i] = o.beta2 * v[i] + (1.0 - o.beta2) * g * g;
                let (mh, vh) =
                    (m[i] / (1.0 - o.beta1.powi(t as i32 + 1)), v[i] / (1.0 - o.beta2.powi(t as i32 + 1)));
                x[i] -= o.rate * (mh / (vh.sqrt() + o.epsilon) + o.weight_decay * x[i]);
            }
        }
        x
    }

    #[test]
    fn steps_agree_with_the_paper() {
        let options = AdamOptions { rate: 0.05, weight_decay: 0.1, ..AdamOptions::default() };
        let start = [0.5f32, -1.0, 2.0];
        let gradients = [[0.1f32, -0.2, 0.3], [3.0, 4.0, 0.0], [-0.1, 0.0, 0.2]];
        let mut x = one("weight", &start);
        let mut adam = AdamW::new(&x, options, 1);
        for gradient in &gradients {
            set(&mut x, "weight", gradient);
            adam.step(&mut x, 1.0).unwrap();
        }
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let expected = plain(&wide(&start), &gradients.map(|g| wide(&g)), &options);
        for (&got, expected) in x.get("weight").unwrap().values.iter().zip(expected) {
            assert!((f64::from(got) - expected).abs() < 1e-5, "{got} {expected}");
        }
    }

    #[test]
    fn weights_decay_biases_do_not_and_rates_are_factors() {
        let options = AdamOptions { rate: 0.1, weight_decay: 0.5, ..AdamOptions::default() };
        let mut slow = Parameter::new("slow.weight", vec![1], vec![1.0]);
        slow.rate = 0.5;
        let mut all = Parameters::new(vec![
            Parameter::new("weight", vec![1], vec![1.0]),
            Parameter::frozen("frozen.weight", vec![1], vec![1.0]),
            Parameter::new("bias", vec![1], vec![1.0]),
            slow,
        ]);
        AdamW::new(&all, options, 1).step(&mut all, 1.0).unwrap();
        let values: Vec<f32> = all.iter().map(|parameter| parameter.values[0]).collect();
        assert_eq!(values, [0.95, 1.0, 1.0, 0.975]);
    }

    #[test]
    fn gradients_that_are_not_finite_change_nothing() {
        let mut x = one("weight", &[1.0, 2.0]);
        let mut adam = AdamW::new(&x, AdamOptions::default(), 1);
        set(&mut x, "weight", &[f32::NAN, 0.0]);
        assert!(adam.step(&mut x, 1.0).unwrap_err().to_string().contains("diverged"));
        assert_eq!(x.get("weight").unwrap().values, [1.0, 2.0]);
        set(&mut x, "weight", &[3.0, 4.0]);
        assert_eq!(adam.step(&mut x, 0.0).unwrap(), 5.0);
        assert_eq!(x.get("weight").unwrap().values, [1.0, 2.0], "a rate of zero moves nothing");
    }

    /// Rows in use are as if the table were any parameter; the others stay.
    #[test]
    fn a_table_learns_where_it_is_used() {
        let start: Vec<f32> = (0..12).map(|i| i as f32 / 4.0 - 1.0).collect();
        let options = AdamOptions { rate: 0.1, ..AdamOptions::default() };
        let mut dense = one("weight", &start);
        let mut table = Parameters::new(vec![Parameter::table("weight", [4, 3], start.clone())]);
        let (mut of_dense, mut of_table) = (AdamW::new(&dense, options, 2), AdamW::new(&table, options, 2));
        for rows in [[1, 3], [3, 3], [1, 1]] {
            dense.clear();
            table.clear();
            for row in rows {
                let gradient = dense.get_mut("weight").unwrap().gradient.dense().unwrap();
                gradient[row * 3..row * 3 + 3].fill(0.25 + row as f32);
                let Gradient::Rows(used) = &mut table.get_mut("weight").unwrap().gradient else {
                    unreachable!()
                };
                used.used(row).unwrap().fill(0.25 + row as f32);
            }
            assert_eq!(of_dense.step(&mut dense, 1.0).unwrap(), of_table.step(&mut table, 1.0).unwrap());
        }
        let (dense, table) = (&dense.get("weight").unwrap().values, &table.get("weight").unwrap().values);
        for row in 0..4 {
            let expected = if row % 2 == 1 { dense } else { &start };
            assert_eq!(table[row * 3..row * 3 + 3], expected[row * 3..row * 3 + 3], "{row}");
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let values: Vec<f32> = (0..3 * BLOCK + 17).map(|i| (i * 37 % 1001) as f32 / 500.0 - 1.0).collect();
        let run = |threads| {
            let mut x = one("weight", &values);
            let mut adam = AdamW::new(&x, AdamOptions::default(), threads);
            let norms: Vec<f64> = (0..3)
                .map(|step| {
                    let gradient: Vec<f32> = values.iter().map(|v| v * (step + 1) as f32).collect();
                    set(&mut x, "weight", &gradient);
                    adam.step(&mut x, 1.0).unwrap()
                })
                .collect();
            (norms, x.get("weight").unwrap().values.clone())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn the_rate_rises_and_falls() {
        for (progress, factor) in [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0), (1.5, 0.0)] {
            assert!((rate_at(progress) - factor).abs() < 1e-12, "{progress}");
        }
    }
}
