//! The transformers of BERT's family for training on a device of the tensor library, with the gradients that it finds.
//!
//! What [`packed`](super::packed) does by hand on the processor, `Bert` does here on padded batches. Parameters and
//! gradients live in [`Parameters`] as ever, and so does the optimiser: what learns is carried to the device after each
//! step, and its gradients back. The order of sums is the device's, so that a seed need not repeat a run bit by bit.

use candle_core::{Device, Tensor, Var};

use super::batch::TokenBatch;
use super::bert::Bert;
use super::config::Pooling;
use super::failed;
use super::family::BertConfig;
use super::packed::{Input, LOW, LOW_SCALE};
use super::parameters::{Gradient, Parameters};
use super::reference::Head;
use super::weights::Weights;
use crate::error::{Error, Result};

/// Where an encoder is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrainDevice {
    /// On the processor, by operations of our own.
    #[default]
    Processor,
    /// On the processor, by those of the tensor library: slow, and what a graphics processor is compared with.
    Tensors,
    /// On the graphics processor of this number; needs the feature `cuda`.
    Cuda(usize),
}

impl TrainDevice {
    /// Whether it is there.
    ///
    /// # Errors
    /// [`Error::Input`] if not, or if embdb was built without it.
    pub fn check(self) -> Result<()> {
        self.open().map(drop)
    }

    /// The tensor library's device, unless that is not needed.
    pub(super) fn open(self) -> Result<Option<Device>> {
        match self {
            Self::Processor => Ok(None),
            Self::Tensors => Ok(Some(Device::Cpu)),
            Self::Cuda(_) if cfg!(not(feature = "cuda")) => Err(Error::input(
                "training on cuda: this embdb was built without it; build with --features cuda, or train on cpu",
            )),
            Self::Cuda(number) => Device::new_cuda(number).map(Some).map_err(|error| {
                let error = error.to_string();
                let error = error.lines().next().unwrap_or_default();
                Error::input(format!(
                    "training on cuda:{number}: {error}; is there such a device, with a driver?"
                ))
            }),
        }
    }
}

impl std::fmt::Display for TrainDevice {
    /// The name that [`FromStr`](std::str::FromStr) takes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Processor => f.write_str("cpu"),
            Self::Tensors => f.write_str("tensors"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl std::str::FromStr for TrainDevice {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let number = |name: &str| match name.strip_prefix("cuda") {
            Some("") => Some(0),
            Some(number) => number.strip_prefix(':')?.parse().ok(),
            None => None,
        };
        match name {
            "cpu" => Ok(Self::Processor),
            "tensors" => Ok(Self::Tensors),
            _ => number(name).map(Self::Cuda).ok_or_else(|| "expected cpu, cuda, cuda:N or tensors".into()),
        }
    }
}

/// A transformer with its parameters on a device.
pub(crate) struct OnDevice {
    config: BertConfig,
    pooling: Pooling,
    device: Device,
    /// In the order of the parameters.
    copies: Vec<DeviceCopy>,
    /// The lowest layer that learns; 0 if embeddings do.
    first: usize,
}

/// A parameter's copy on the device.
enum DeviceCopy {
    Fixed(Tensor),
    Learning(Var),
}

impl DeviceCopy {
    fn tensor(&self) -> &Tensor {
        match self {
            Self::Fixed(tensor) => tensor,
            Self::Learning(variable) => variable.as_tensor(),
        }
    }
}

/// What texts left behind on their way forward.
pub(crate) struct DeviceTape {
    /// Pooled states, texts × hidden, which remember how they came about.
    pooled: Tensor,
    /// The different tokens of the texts.
    tokens: Vec<u32>,
}

impl OnDevice {
    /// One with these parameters, as [`Transformer`](super::packed::Transformer) wants them, of whose layers the lowest
    /// that learns is `first`.
    pub(crate) fn new(
        config: &BertConfig,
        pooling: Pooling,
        parameters: &Parameters,
        first: usize,
        device: Device,
    ) -> Result<Self> {
        let copy = |parameter: &super::parameters::Parameter| {
            let tensor = Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &device)?;
            Ok(match parameter.learns() {
                true => DeviceCopy::Learning(Var::from_tensor(&tensor)?),
                false => DeviceCopy::Fixed(tensor),
            })
        };
        let copies: candle_core::Result<_> = parameters.iter().map(copy).collect();
        Ok(Self { copies: copies.map_err(failed)?, config: config.clone(), pooling, first, device })
    }

    /// Takes up parameters that have learnt.
    pub(crate) fn changed(&mut self, parameters: &Parameters) -> Result<()> {
        for (parameter, copy) in parameters.iter().zip(&self.copies) {
            if let DeviceCopy::Learning(variable) = copy {
                Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &self.device)
                    .and_then(|values| variable.set(&values))
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Pooled states of texts, texts × hidden, with a tape. The texts must be as the model wants them.
    pub(crate) fn forward(
        &self,
        parameters: &Parameters,
        texts: &[Input<'_>],
    ) -> Result<(Vec<f32>, DeviceTape)> {
        let pooled = self.pooled(parameters, texts).map_err(failed)?;
        let values = pooled.flatten_all().and_then(|pooled| pooled.to_vec1()).map_err(failed)?;
        let mut tokens: Vec<u32> = texts.iter().flat_map(|text| text.ids).copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        Ok((values, DeviceTape { pooled, tokens }))
    }

    fn pooled(&self, parameters: &Parameters, texts: &[Input<'_>]) -> candle_core::Result<Tensor> {
        let ids: Vec<&[u32]> = texts.iter().map(|text| text.ids).collect();
        let batch = TokenBatch::new(&ids, self.config.pad).map_err(candle_core::Error::wrap)?;
        let batch = TokenBatch { ids: batch.ids.to_device(&self.device)?, ..batch };
        let weights = self.weights(parameters)?;
        let bert = Bert::of_plain_operations(&self.config, &weights)?;
        let known: Option<Vec<_>> = texts.iter().map(|text| text.states).collect();
        let (states, from) = match known.filter(|_| self.first > 0) {
            Some(known) => (self.padded(&known, batch.width)?, self.first),
            None => (bert.below(&batch, 0)?, 0),
        };
        let states = bert.above(states, &batch, from)?;
        Head::new(self.pooling, &[], &weights, None).apply(&states, &batch)
    }

    /// States of texts, (texts · width) × hidden.
    fn padded(&self, states: &[&[half::f16]], width: usize) -> candle_core::Result<Tensor> {
        let hidden = self.config.hidden;
        let mut all = vec![0.0; states.len() * width * hidden];
        for (text, states) in all.chunks_mut(width * hidden).zip(states) {
            text.iter_mut().zip(*states).for_each(|(value, state)| *value = state.to_f32());
        }
        Tensor::from_vec(all, (states.len() * width, hidden), &self.device)
    }

    /// The copies by name; what learns at low rank is added to its matrix.
    fn weights(&self, parameters: &Parameters) -> candle_core::Result<Weights> {
        let named = parameters.iter().map(|parameter| parameter.name.clone());
        let mut weights: Weights = named.zip(self.copies.iter().map(|copy| copy.tensor().clone())).collect();
        for parameter in parameters.iter() {
            let Some(matrix) = parameter.name.strip_suffix(LOW_SCALE) else { continue };
            let [a, b] = LOW.map(|end| weights.get(&format!("{matrix}{end}")));
            let name = format!("{matrix}weight");
            let (Some(a), Some(b), Some(weight), Some(&scale)) =
                (a, b, weights.get(&name), parameter.values.first())
            else {
                continue;
            };
            let sum = (weight + (b.matmul(a)? * f64::from(scale))?)?;
            weights.insert(name, sum);
        }
        Ok(weights)
    }

    /// Adds to the parameters' gradients what `slope`, the derivative of a loss by each pooled value, makes of them.
    pub(crate) fn back(&self, parameters: &mut Parameters, tape: &DeviceTape, slope: &[f32]) -> Result<()> {
        let gradients = Tensor::from_slice(slope, tape.pooled.dims(), &self.device)
            .and_then(|slope| (&tape.pooled * slope)?.sum_all()?.backward())
            .map_err(failed)?;
        for (parameter, copy) in parameters.iter_mut().zip(&self.copies) {
            let DeviceCopy::Learning(variable) = copy else { continue };
            if let Some(gradient) = gradients.get(variable.as_tensor()) {
                add(&mut parameter.gradient, gradient, &tape.tokens).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Adds what came from the device; of a table, its rows of these tokens.
fn add(gradient: &mut Gradient, from: &Tensor, tokens: &[u32]) -> candle_core::Result<()> {
    match gradient {
        Gradient::Frozen => {}
        Gradient::Dense(values) => {
            let from: Vec<f32> = from.flatten_all()?.to_vec1()?;
            values.iter_mut().zip(from).for_each(|(value, from)| *value += from);
        }
        Gradient::Rows(rows) => {
            let numbers = Tensor::from_slice(tokens, tokens.len(), from.device())?;
            let from: Vec<Vec<f32>> = from.index_select(&numbers, 0)?.to_vec2()?;
            for (&token, from) in tokens.iter().zip(from) {
                let values = rows.used(token as usize).unwrap_or_default();
                values.iter_mut().zip(from).for_each(|(value, from)| *value += from);
            }
        }
    }
    Ok(())
}
