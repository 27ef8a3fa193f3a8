//! AdamW (Loshchilov and Hutter: Decoupled Weight Decay Regularization, 2019) in one pass per variable.
//!
//! Biases and the parameters of normalisations do not decay. Gradients are clipped by their common
//! norm. The rate rises linearly over the first tenth of a run and falls linearly to zero
//! ([`rate_at`]). A step reads every gradient once for the norm and once for the update, and
//! allocates nothing.

use std::cell::RefCell;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp1, Layout, Storage, Tensor, Var};

use super::losses::arithmetic::tensor_error;
use crate::error::{Error, Result};

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

/// The factor on the learning rate when `progress` (0 to 1) of the run is done.
pub fn rate_at(progress: f64) -> f64 {
    let rising = progress / WARM_UP;
    let falling = (1.0 - progress) / (1.0 - WARM_UP);
    rising.min(falling).clamp(0.0, 1.0)
}

/// The optimiser, with the state of every variable.
#[derive(Debug)]
pub struct AdamW {
    parameters: Vec<Parameter>,
    options: AdamOptions,
    steps: i32,
}

#[derive(Debug)]
struct Parameter {
    variable: Var,
    decays: bool,
    moments: RefCell<Moments>,
}

#[derive(Debug)]
struct Moments {
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl AdamW {
    /// An optimiser of variables, given with their names, which tell biases and normalisations.
    pub fn new(variables: Vec<(String, Var)>, options: AdamOptions) -> Self {
        let parameter = |(name, variable): (String, Var)| {
            let zeros = vec![0.0; variable.elem_count()];
            let moments = RefCell::new(Moments { mean: zeros.clone(), square: zeros });
            Parameter { decays: decays(&name), moments, variable }
        };
        Self { parameters: variables.into_iter().map(parameter).collect(), options, steps: 0 }
    }

    /// One step with a learning rate of `factor` times the highest. Variables without a gradient stay
    /// as they are. Returns the norm of the gradients before clipping.
    ///
    /// # Errors
    /// [`Error::Input`] if the gradients are not finite; nothing has changed then.
    pub fn step(&mut self, gradients: &GradStore, factor: f64) -> Result<f64> {
        let mut squares = 0.0;
        for parameter in &self.parameters {
            if let Some(gradient) = gradients.get(parameter.variable.as_tensor()) {
                squares +=
                    with_values(gradient, |g| g.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>())?;
            }
        }
        let norm = squares.sqrt();
        if !norm.is_finite() {
            return Err(Error::input("training diverged: a gradient is not finite; try a lower --lr"));
        }
        self.steps = self.steps.saturating_add(1);
        let clip = if norm > self.options.clip { self.options.clip / norm } else { 1.0 };
        for parameter in &self.parameters {
            if let Some(gradient) = gradients.get(parameter.variable.as_tensor()) {
                let update = self.update(parameter.decays, factor, clip);
                with_values(gradient, |gradient| {
                    let fused = Fused { gradient, moments: &parameter.moments, update };
                    parameter.variable.inplace_op1(&fused).map_err(tensor_error)
                })??;
            }
        }
        Ok(norm)
    }

    fn update(&self, decays: bool, factor: f64, clip: f64) -> Update {
        let o = &self.options;
        let rate = o.rate * factor;
        Update {
            clip: clip as f32,
            beta1: o.beta1 as f32,
            beta2: o.beta2 as f32,
            keep: if decays { (1.0 - rate * o.weight_decay) as f32 } else { 1.0 },
            rate: (rate / (1.0 - o.beta1.powi(self.steps))) as f32,
            square_scale: (1.0 / (1.0 - o.beta2.powi(self.steps))) as f32,
            epsilon: o.epsilon as f32,
        }
    }
}

/// Whether weight decay applies to a variable of this name.
fn decays(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !(lower.ends_with("bias")
        || lower.contains("layernorm")
        || lower.contains("layer_norm")
        || lower.contains("norm."))
}

/// Calls `read` with the values of an f32 tensor in the processor's memory.
fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = tensor.contiguous().map_err(tensor_error)?;
    let (storage, layout) = tensor.storage_and_layout();
    let values = match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => values.get(start..end),
        _ => None,
    };
    values.map(read).ok_or_else(|| Error::input("training failed: a gradient is not f32 in main memory"))
}

/// The numbers of one step, with their corrections for start-up applied.
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

/// The update of one variable, in place.
struct Fused<'a> {
    gradient: &'a [f32],
    moments: &'a RefCell<Moments>,
    update: Update,
}

impl InplaceOp1 for Fused<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("a trained variable is not contiguous f32");
        };
        let Some(values) = values.get_mut(start..end) else {
            candle_core::bail!("a trained variable is shorter than its shape");
        };
        let Moments { mean, square } = &mut *self.moments.borrow_mut();
        let u = self.update;
        for (((value, &gradient), mean), square) in values.iter_mut().zip(self.gradient).zip(mean).zip(square)
        {
            let gradient = gradient * u.clip;
            *mean = u.beta1 * *mean + (1.0 - u.beta1) * gradient;
            *square = u.beta2 * *square + (1.0 - u.beta2) * gradient * gradient;
            *value = *value * u.keep - u.rate * *mean / ((*square * u.square_scale).sqrt() + u.epsilon);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn variable(values: &[f32]) -> Var {
        Var::from_tensor(&Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()).unwrap()
    }

    /// Gradients equal to `gradients`, by the loss ⟨x, gradients⟩.
    fn store(variable: &Var, gradients: &[f32]) -> GradStore {
        let g = Tensor::from_slice(gradients, gradients.len(), &Device::Cpu).unwrap();
        (variable.as_tensor() * g).unwrap().sum_all().unwrap().backward().unwrap()
    }

    fn read(variable: &Var) -> Vec<f32> {
        variable.as_tensor().to_vec1().unwrap()
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
    fn steps_agree_with_the_definition() {
        let options = AdamOptions { rate: 0.05, weight_decay: 0.1, ..AdamOptions::default() };
        let start = [0.5f32, -1.0, 2.0];
        let gradients = [[0.1f32, -0.2, 0.3], [3.0, 4.0, 0.0], [-0.5, 0.1, 0.01]];
        let x = variable(&start);
        let mut adam = AdamW::new(vec![("dense.weight".into(), x.clone())], options);
        for g in &gradients {
            adam.step(&store(&x, g), 1.0).unwrap();
        }
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let expected = plain(&wide(&start), &gradients.map(|g| wide(&g)), &options);
        for (got, expected) in read(&x).into_iter().zip(expected) {
            assert!((f64::from(got) - expected).abs() < 1e-5, "{got} {expected}");
        }
    }

    #[test]
    fn only_weights_decay() {
        for (name, expected) in [
            ("encoder.layer.0.output.dense.weight", true),
            ("embeddings.word_embeddings.weight", true),
            ("encoder.layer.0.output.dense.bias", false),
            ("encoder.layer.0.output.LayerNorm.weight", false),
            ("layers.0.attn_norm.weight", false),
        ] {
            assert_eq!(decays(name), expected, "{name}");
        }
        let (weight, bias) = (variable(&[1.0]), variable(&[1.0]));
        let options = AdamOptions { rate: 0.1, weight_decay: 0.5, ..AdamOptions::default() };
        let mut adam =
            AdamW::new(vec![("weight".into(), weight.clone()), ("bias".into(), bias.clone())], options);
        let zero = Tensor::new(&[0f32], &Device::Cpu).unwrap();
        let both = (weight.as_tensor() + bias.as_tensor()).unwrap();
        adam.step(&(both * zero).unwrap().sum_all().unwrap().backward().unwrap(), 1.0).unwrap();
        assert_eq!((read(&weight), read(&bias)), (vec![0.95], vec![1.0]));
    }

    #[test]
    fn gradients_that_are_not_finite_change_nothing() {
        let x = variable(&[1.0, 2.0]);
        let mut adam = AdamW::new(vec![("weight".into(), x.clone())], AdamOptions::default());
        let error = adam.step(&store(&x, &[f32::NAN, 0.0]), 1.0).unwrap_err();
        assert!(error.to_string().contains("diverged"));
        assert_eq!(read(&x), [1.0, 2.0]);
        assert_eq!(adam.step(&store(&x, &[3.0, 4.0]), 0.0).unwrap(), 5.0);
        assert_eq!(read(&x), [1.0, 2.0], "a rate of zero moves nothing");
    }

    #[test]
    fn the_rate_rises_and_falls() {
        for (progress, factor) in [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0), (1.5, 0.0)] {
            assert!((rate_at(progress) - factor).abs() < 1e-12, "{progress}");
        }
    }
}
