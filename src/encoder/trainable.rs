//! An encoder whose parameters learn, for the trainer.

use candle_core::{Tensor, Var};

use super::batch::plan;
use super::bert::Bert;
use super::family::Family;
use super::family::bert::{DISTANCES, Kind};
use super::files::ModelFiles;
use super::parameters::{Gradient, Parameter, Parameters};
use super::pooling::{Head, write_dense};
use super::prepared::{PrepareLimits, PreparedTexts, prepare};
use super::weights::{self, Weights};
use super::{Encoder, failed};
use crate::error::{Error, Result};
use crate::options::Task;

/// Which parameters of an encoder learn.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TrainOptions {
    /// How many of the topmost transformer layers learn, and the dense layers after them; by default everything.
    pub top: Option<usize>,
}

/// A copy of an encoder that learns: transformer (or its topmost layers) and dense layers; the adapter stays as it is.
///
/// Parameters have BERT's names, without a prefix, whatever they are called in files; those of dense layers begin with
/// the layer's folder and `/`.
pub struct TrainableEncoder {
    source: Encoder,
    parameters: Parameters,
    kind: Kind,
    pad: u32,
    /// The first layer that learns; all below, and the embeddings if it is not 0, are fixed.
    first: usize,
}

/// What the way back needs of texts that went forward.
pub struct EncoderTape {
    variables: Vec<(String, Var)>,
    vectors: Tensor,
}

const WORDS: &str = "embeddings.word_embeddings.weight";

impl TrainableEncoder {
    pub(crate) fn new(source: &Encoder, options: &TrainOptions) -> Result<Self> {
        source.check_trainable()?;
        let Family::Bert(shape) = &source.config().family else { return Err(source.untrainable()) };
        let first = options.top.map_or(0, |top| shape.layers.saturating_sub(top));
        let learns = |name: &str| match name.strip_prefix("encoder.layer.") {
            _ if options.top.is_none() => true,
            Some(rest) => {
                rest.split('.').next().and_then(|n| n.parse().ok()).is_some_and(|n: usize| n >= first)
            }
            // What all layers share is below them.
            None => !name.starts_with("embeddings.") && name != DISTANCES,
        };
        let (bert, dense) = source.read_weights()?;
        let parameter = |(name, tensor): (String, Tensor)| {
            let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(failed)?;
            let shape = tensor.dims().to_vec();
            Ok(match (learns(&name), shape.as_slice()) {
                (false, _) => Parameter::frozen(name, shape, values),
                (true, &[rows, width]) if name == WORDS => Parameter::table(name, [rows, width], values),
                (true, _) => Parameter::new(name, shape, values),
            })
        };
        let parameters: Result<Vec<Parameter>> = bert.into_iter().chain(dense).map(parameter).collect();
        Ok(Self {
            parameters: Parameters::new(parameters?),
            kind: shape.kind,
            pad: shape.pad,
            source: source.clone(),
            first,
        })
    }

    /// Dimensions of vectors.
    pub fn dim(&self) -> usize {
        self.source.dim()
    }

    /// All parameters, sorted by name but for those of dense layers, which come last.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The same, to change; [`changed`](Self::changed) must be called then.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Takes up values of parameters that have changed.
    pub fn changed(&mut self) -> Result<()> {
        Ok(())
    }

    /// Vectors of `texts`, texts × dim: after dense layers and adapter, not normalised.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<f32>> {
        let limits = PrepareLimits { tokens: usize::MAX, bytes: 0 };
        let ready = self.prepare(texts, &limits, &Task::default())?;
        self.embed_prepared(&ready, &(0..texts.len()).collect::<Vec<_>>())
    }

    /// Makes texts ready for many passes: tokens, and what the fixed layers make of them, as long as there is
    /// room. Reports the stage "prepare".
    pub fn prepare(&self, texts: &[&str], limits: &PrepareLimits, task: &Task) -> Result<PreparedTexts> {
        let ids = self.source.tokenizer().encode_batch(texts)?;
        prepare(&self.model(&mut Vec::new())?.0, ids, self.first, self.pad, limits, task)
    }

    /// Vectors of the texts of these numbers, in this order; as of [`embed`](Self::embed).
    pub fn embed_prepared(&self, texts: &PreparedTexts, numbers: &[usize]) -> Result<Vec<f32>> {
        self.forward(texts, numbers).map(|(vectors, _)| vectors)
    }

    /// The same with a tape for [`backward`](Self::backward).
    ///
    /// Texts of nearly equal lengths are computed together, so that little of the work is padding.
    pub fn forward(&self, texts: &PreparedTexts, numbers: &[usize]) -> Result<(Vec<f32>, EncoderTape)> {
        let lengths: Option<Vec<usize>> = numbers.iter().map(|&number| texts.length(number)).collect();
        let lengths =
            lengths.ok_or_else(|| Error::input("a text that was not prepared cannot be trained on"))?;
        let mut variables = Vec::new();
        let (bert, head) = self.model(&mut variables)?;
        let (order, ranges) = plan(&lengths);
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let group: Vec<usize> = order
                .get(range)
                .unwrap_or_default()
                .iter()
                .filter_map(|&at| numbers.get(at).copied())
                .collect();
            let (batch, states) = texts.states(&bert, &group)?;
            let states = bert.above(states, &batch, self.first).map_err(failed)?;
            parts.push(head.apply(&states, &batch)?);
        }
        let mut places = vec![0u32; order.len()];
        for (place, &at) in (0..).zip(&order) {
            if let Some(slot) = places.get_mut(at) {
                *slot = place;
            }
        }
        let places = Tensor::from_vec(places, order.len(), &candle_core::Device::Cpu);
        let vectors = Tensor::cat(&parts, 0).and_then(|sorted| sorted.index_select(&places?, 0));
        let vectors = vectors.map_err(failed)?;
        let values = vectors.flatten_all().and_then(|v| v.to_vec1()).map_err(failed)?;
        Ok((values, EncoderTape { variables, vectors }))
    }

    /// Adds to the parameters' gradients what `slope`, the derivative of a loss by each value of the vectors, makes of
    /// them.
    pub fn backward(&mut self, tape: EncoderTape, slope: &[f32]) -> Result<()> {
        let slope = Tensor::from_slice(slope, tape.vectors.shape(), tape.vectors.device());
        let sum = slope.and_then(|slope| (&tape.vectors * slope)?.sum_all());
        let gradients = sum.and_then(|sum| sum.backward()).map_err(failed)?;
        for (name, variable) in &tape.variables {
            let Some(gradient) = gradients.get(variable.as_tensor()) else { continue };
            let values: Vec<f32> = gradient.flatten_all().and_then(|g| g.to_vec1()).map_err(failed)?;
            match self.parameters.get_mut(name).map(|parameter| &mut parameter.gradient) {
                Some(Gradient::Dense(sum)) => {
                    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value)
                }
                Some(Gradient::Rows(rows)) => {
                    for (number, row) in values.chunks(rows.width()).enumerate() {
                        if row.iter().any(|&value| value != 0.0)
                            && let Some(used) = rows.used(number)
                        {
                            used.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The model on tensors, whose parameters that learn are variables.
    fn model(&self, variables: &mut Vec<(String, Var)>) -> Result<(Bert, Head)> {
        let Family::Bert(shape) = &self.source.config().family else { return Err(self.source.untrainable()) };
        let mut tensors = self.tensors()?;
        for parameter in self.parameters.learning() {
            if let Some(tensor) = tensors.get_mut(&parameter.name) {
                let variable = Var::from_tensor(tensor).map_err(failed)?;
                *tensor = variable.as_tensor().clone();
                variables.push((parameter.name.clone(), variable));
            }
        }
        let bert = Bert::new(shape, &tensors).map_err(failed)?;
        Ok((bert, Head::new(self.source.config(), &tensors, self.source.adapter_tensor().cloned())))
    }

    /// All parameters as they are.
    fn tensors(&self) -> Result<Weights> {
        let tensor = |parameter: &Parameter| {
            let shape = parameter.shape.as_slice();
            let tensor = Tensor::from_slice(&parameter.values, shape, &candle_core::Device::Cpu);
            Ok((parameter.name.clone(), tensor.map_err(failed)?))
        };
        self.parameters.iter().map(tensor).collect()
    }

    /// The model's files with the parameters' present values, in f32; tensors that the encoder does
    /// not use stay as they are.
    pub fn to_files(&self) -> Result<ModelFiles> {
        let all = self.tensors()?;
        let mut files = self.source.files().clone();
        let named = all.iter().map(|(name, tensor)| (self.kind.in_files(name), tensor.clone())).collect();
        for file in weights::files_of(&files)? {
            let bytes = weights::replace(&file, files.required(&file)?, &named)?;
            files.insert(file, bytes);
        }
        write_dense(&mut files, self.source.config(), &all)?;
        Ok(files)
    }
}
