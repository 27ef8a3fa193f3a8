//! An encoder whose parameters learn, for the trainer.

use candle_core::{Device, Tensor};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::device::{DeviceTape, OnDevice, TrainDevice};
use super::family::Family;
use super::family::bert::{BertConfig, DISTANCES, Kind};
use super::files::ModelFiles;
use super::packed::{HeadTape, LOW, LOW_SCALE, MATRICES, PackedHead, Tape, Transformer};
use super::parameters::{Gradient, Parameter, Parameters};
use super::pooling::write_dense;
use super::prepared::{PrepareLimits, PreparedTexts};
use super::prompts::Role;
use super::weights::{self, Weights};
use super::{Encoder, failed};
use crate::error::{Error, Result};
use crate::options::Task;

/// Which parameters of an encoder learn, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// How many of the topmost transformer layers learn, and the dense layers after them; by default everything.
    pub top: Option<usize>,
    /// If given, the matrices that it names learn at low rank, in these layers, and nothing else does.
    pub low_rank: Option<LowRank>,
    /// Factor on the learning rate from one layer to the one below (Howard and Ruder 2018, arXiv:1801.06146).
    pub layer_rate: f32,
    /// Bytes that are kept of a batch on its way forward, beside the layers' inputs; what is beyond is computed again.
    pub kept_bytes: usize,
    /// Where the transformer's passes are computed.
    pub device: TrainDevice,
}

impl Default for TrainOptions {
    fn default() -> Self {
        let device = TrainDevice::default();
        Self { top: None, low_rank: None, layer_rate: 1.0, kept_bytes: 384 << 20, device }
    }
}

/// How matrices learn at low rank: W + (alpha/rank)·B·A, where B and A learn (Hu et al. 2021, arXiv:2106.09685).
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// Factor on their product, times the rank.
    pub alpha: f32,
    /// The matrices that learn.
    pub targets: Vec<Target>,
    /// Seed of A's first values; B begins at zero.
    pub seed: u64,
}

impl Default for LowRank {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, targets: vec![Target::Query, Target::Value], seed: 0 }
    }
}

/// A matrix of a transformer layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Of queries.
    Query,
    /// Of keys.
    Key,
    /// Of values.
    Value,
    /// Behind attention.
    AttentionOutput,
    /// Before GELU.
    Intermediate,
    /// Behind it.
    Output,
}

impl std::fmt::Display for Target {
    /// The name that [`FromStr`](std::str::FromStr) takes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::AttentionOutput => "attention.output",
            Self::Intermediate => "intermediate",
            Self::Output => "output",
        })
    }
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "query" => Ok(Self::Query),
            "key" => Ok(Self::Key),
            "value" => Ok(Self::Value),
            "attention.output" => Ok(Self::AttentionOutput),
            "intermediate" => Ok(Self::Intermediate),
            "output" => Ok(Self::Output),
            _ => Err("expected query, key, value, attention.output, intermediate or output".into()),
        }
    }
}

/// A copy of an encoder that learns: transformer and dense layers, or some of them; the adapter stays as it is.
///
/// Parameters have BERT's names, without a prefix, whatever they are called in files; those of dense layers begin with
/// the layer's folder and `/`.
pub struct TrainableEncoder {
    source: Encoder,
    options: TrainOptions,
    parameters: Parameters,
    kind: Kind,
    transformer: Transformer,
    /// Computes the passes instead of `transformer`, which then makes known states alone.
    on_device: Option<OnDevice>,
    head: PackedHead,
    hidden: usize,
    /// Whether layers stand below the lowest that learns.
    below: bool,
}

/// What the way back needs of texts that went forward.
pub struct EncoderTape {
    transformer: TransformerTape,
    head: HeadTape,
}

enum TransformerTape {
    Packed(Tape),
    OnDevice(DeviceTape),
}

/// Name of the table of words.
const WORDS: &str = "embeddings.word_embeddings.weight";

impl TrainableEncoder {
    pub(crate) fn new(source: &Encoder, options: &TrainOptions) -> Result<Self> {
        source.check_trainable()?;
        let config = source.config();
        let Family::Bert(shape) = &config.family else { return Err(source.untrainable()) };
        let (bert, dense) = source.read_weights()?;
        let parameter = |(name, tensor): (String, Tensor)| {
            let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(failed)?;
            let dims = tensor.dims().to_vec();
            let mut parameter = match (options.learns(shape, &name), dims.as_slice()) {
                (false, _) => Parameter::frozen(name, dims, values),
                (true, &[rows, width]) if name == WORDS => Parameter::table(name, [rows, width], values),
                (true, _) => Parameter::new(name, dims, values),
            };
            parameter.rate = options.rate(shape, &parameter.name);
            Ok(parameter)
        };
        let parameters: Result<Vec<Parameter>> = bert.into_iter().chain(dense).map(parameter).collect();
        let mut parameters = parameters?;
        if let Some(low) = &options.low_rank {
            low.check(shape)?;
            for layer in options.first(shape)..shape.layers {
                parameters.extend(low.parameters(shape, layer, options));
            }
        }
        let parameters = Parameters::new(parameters);
        let threads = source.threads;
        let (pooling, first) = (config.pooling, options.first(shape));
        let on = |device| OnDevice::new(shape, pooling, &parameters, first, device);
        Ok(Self {
            on_device: options.device.open()?.map(on).transpose()?,
            transformer: Transformer::new(shape, pooling, &parameters, options.kept_bytes, threads)?,
            head: PackedHead::new(&config.dense, source.dim(), &parameters, source.adapter(Role::Document))?,
            hidden: shape.hidden,
            below: first > 0,
            kind: shape.kind,
            source: source.clone(),
            options: options.clone(),
            parameters,
        })
    }

    /// Dimensions of vectors.
    pub fn dim(&self) -> usize {
        self.source.dim()
    }

    /// Threads to work with; 0: one a core.
    pub fn threads(&self) -> usize {
        self.source.threads
    }

    /// Bytes that training holds while no batch has more than so many tokens: parameters, gradients, the two moments of
    /// each number that learns, and what a pass keeps.
    pub fn bytes(&self, tokens: usize) -> usize {
        let numbers = |parameter: &Parameter| {
            let each = match parameter.gradient {
                Gradient::Frozen => 1,
                Gradient::Dense(_) => 4,
                Gradient::Rows(_) => 3,
            };
            each * parameter.values.len()
        };
        let numbers: usize = self.parameters.iter().map(numbers).sum();
        numbers * size_of::<f32>() + self.transformer.bytes(tokens)
    }

    /// All parameters: the transformer's, those of dense layers, and those of low rank.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The same, to change; [`changed`](Self::changed) must be called then.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Sets the weights to `share` of the way from those that the model had to `learnt`, the values of all parameters. Of
    /// what is learnt at low rank the product counts, not its factors.
    ///
    /// # Errors
    /// [`Error::Input`] if there are not as many values.
    pub fn interpolate(&mut self, learnt: &[Vec<f32>], share: f32) -> Result<()> {
        let before = Self::new(&self.source, &self.options)?;
        let fits = |(a, b): (&Parameter, &Vec<f32>)| a.values.len() == b.len();
        if learnt.len() != before.parameters.iter().count() || !before.parameters.iter().zip(learnt).all(fits)
        {
            return Err(Error::input("these are not the values of this encoder's parameters"));
        }
        let all = self.parameters.iter_mut().zip(before.parameters.iter()).zip(learnt);
        for ((parameter, before), learnt) in all {
            // B begins at zero: with A as learnt, the product is a share of what was learnt.
            if parameter.name.ends_with(LOW[0]) {
                parameter.values.clone_from(learnt);
                continue;
            }
            let between = |(old, new): (&f32, &f32)| old + share * (new - old);
            parameter.values = before.values.iter().zip(learnt).map(between).collect();
        }
        self.changed()
    }

    /// Takes up values of parameters that have changed.
    ///
    /// # Errors
    /// Those of a device other than the processor.
    pub fn changed(&mut self) -> Result<()> {
        match &mut self.on_device {
            Some(on_device) => on_device.changed(&self.parameters),
            None => {
                self.transformer.changed(&self.parameters);
                Ok(())
            }
        }
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
        let mut texts = PreparedTexts::new(self.source.tokenizer().encode_batch(texts)?, limits.tokens);
        if self.below {
            texts.keep_states(&self.transformer, &self.parameters, self.hidden, limits.bytes, task)?;
        }
        Ok(texts)
    }

    /// Vectors of the texts of these numbers, in this order; as of [`embed`](Self::embed).
    pub fn embed_prepared(&self, texts: &PreparedTexts, numbers: &[usize]) -> Result<Vec<f32>> {
        self.pass(texts, numbers, false).map(|(vectors, _)| vectors)
    }

    /// The same with a tape for [`backward`](Self::backward).
    pub fn forward(&self, texts: &PreparedTexts, numbers: &[usize]) -> Result<(Vec<f32>, EncoderTape)> {
        self.pass(texts, numbers, true)
    }

    fn pass(&self, texts: &PreparedTexts, numbers: &[usize], keep: bool) -> Result<(Vec<f32>, EncoderTape)> {
        let inputs = texts.inputs(numbers)?;
        let (pooled, transformer) = match &self.on_device {
            Some(on_device) => {
                self.transformer.check(&inputs)?;
                let (pooled, tape) = on_device.forward(&self.parameters, &inputs)?;
                (pooled, TransformerTape::OnDevice(tape))
            }
            None => {
                let (pooled, tape) = self.transformer.forward(&self.parameters, &inputs, keep)?;
                (pooled, TransformerTape::Packed(tape))
            }
        };
        let (vectors, head) = self.head.forward(&self.parameters, pooled);
        Ok((vectors, EncoderTape { transformer, head }))
    }

    /// Adds to the parameters' gradients what `slope`, the derivative of a loss by each value of the vectors, makes of
    /// them.
    ///
    /// # Errors
    /// [`Error::Input`] if there are not as many values, and those of a device other than the processor.
    pub fn backward(&mut self, tape: EncoderTape, slope: &[f32]) -> Result<()> {
        if slope.len() != tape.head.texts() * self.dim() {
            let texts = tape.head.texts();
            return Err(Error::input(format!("{} derivatives are not those of {texts} texts", slope.len())));
        }
        let pooled = self.head.back(&mut self.parameters, &tape.head, slope);
        match (tape.transformer, &self.on_device) {
            (TransformerTape::OnDevice(tape), Some(on_device)) => {
                return on_device.back(&mut self.parameters, &tape, &pooled);
            }
            (TransformerTape::Packed(tape), _) => {
                self.transformer.back(&mut self.parameters, tape, &pooled);
            }
            (TransformerTape::OnDevice(_), None) => {
                return Err(Error::input("a tape of a device cannot be played back without it"));
            }
        }
        Ok(())
    }

    /// The model's files with the parameters' present values, in f32, what was learnt at low rank merged; tensors that
    /// the encoder does not use stay as they are.
    pub fn to_files(&self) -> Result<ModelFiles> {
        let tensor = |(name, shape, values): (&str, &[usize], &[f32])| {
            let tensor = Tensor::from_slice(values, shape, &Device::Cpu).map_err(failed)?;
            Ok((name.to_owned(), tensor))
        };
        let all: Result<Weights> = (self.parameters.iter())
            .filter(|parameter| ![LOW[0], LOW[1], LOW_SCALE].iter().any(|end| parameter.name.ends_with(end)))
            .map(|parameter| tensor((&parameter.name, &parameter.shape, &parameter.values)))
            .collect();
        let mut all = all?;
        for (place, values) in self.transformer.merged(&self.parameters) {
            if let Some(parameter) = self.parameters.iter().nth(place) {
                all.extend([tensor((&parameter.name, &parameter.shape, &values))?]);
            }
        }
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

/// The layer of a parameter of this name.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("encoder.layer.")?.split('.').next()?.parse().ok()
}

impl TrainOptions {
    /// The lowest layer that learns; all below, and the embeddings if it is not 0, are fixed.
    fn first(&self, shape: &BertConfig) -> usize {
        self.top.map_or(0, |top| shape.layers.saturating_sub(top))
    }

    /// Whether a parameter of the model's own learns.
    fn learns(&self, shape: &BertConfig, name: &str) -> bool {
        match layer_of(name) {
            _ if self.low_rank.is_some() => false,
            _ if self.top.is_none() => true,
            Some(layer) => layer >= self.first(shape),
            // What all layers share is below them.
            None => !name.starts_with("embeddings.") && name != DISTANCES,
        }
    }

    fn rate(&self, shape: &BertConfig, name: &str) -> f32 {
        let below_top = match layer_of(name) {
            Some(layer) => shape.layers.saturating_sub(layer + 1),
            None if name.starts_with("embeddings.") || name == DISTANCES => shape.layers,
            None => 0,
        };
        self.layer_rate.powi(below_top as i32)
    }
}

impl LowRank {
    fn check(&self, shape: &BertConfig) -> Result<()> {
        let most = shape.hidden.min(shape.intermediate);
        if self.rank == 0 || self.rank > most || self.targets.is_empty() || !self.alpha.is_finite() {
            return Err(Error::input(format!(
                "low rank: the rank must be 1 to {most}, not {}; alpha finite; and a matrix must be named",
                self.rank
            )));
        }
        Ok(())
    }

    /// A, B and the factor of each target in a layer.
    fn parameters(&self, shape: &BertConfig, layer: usize, options: &TrainOptions) -> Vec<Parameter> {
        let mut all = Vec::new();
        for (number, matrix) in MATRICES.into_iter().enumerate() {
            if !self.targets.iter().any(|&target| target as usize == number) {
                continue;
            }
            let outputs =
                if number == Target::Intermediate as usize { shape.intermediate } else { shape.hidden };
            let inputs = if number == Target::Output as usize { shape.intermediate } else { shape.hidden };
            let name = |end: &str| format!("encoder.layer.{layer}.{matrix}.{end}");
            // Uniform up to the root of the inputs' inverse, as in the authors' code.
            let most = 1.0 / (inputs as f32).sqrt();
            let random = |at: usize| {
                let place = [layer as u64, number as u64, at as u64].map(u64::to_le_bytes).concat();
                let share = (xxh3_64_with_seed(&place, self.seed) >> 40) as f32 / (1u64 << 24) as f32;
                (2.0 * share - 1.0) * most
            };
            let a = (0..self.rank * inputs).map(random).collect();
            let b = vec![0.0; outputs * self.rank];
            let mut learning = [
                Parameter::new(name(LOW[0]), vec![self.rank, inputs], a),
                Parameter::new(name(LOW[1]), vec![outputs, self.rank], b),
            ];
            learning.iter_mut().for_each(|parameter| parameter.rate = options.rate(shape, &parameter.name));
            all.extend(learning);
            all.push(Parameter::frozen(name(LOW_SCALE), vec![1], vec![self.alpha / self.rank as f32]));
        }
        all
    }
}
