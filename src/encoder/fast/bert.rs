//! BERT (Devlin et al. 2018, arXiv:1810.04805) for inference: token ids of several texts to their states.

use parking_lot::Mutex;

use super::attention::{DistanceBias, Heads};
use super::kernel::{CODE_INPUTS_MAX, kernels};
use super::layer::{Layer, Norm, Scratch};
use super::linear::{Linear, padded};
use super::source::Source;
use super::table::Table;
use crate::encoder::family::BertConfig;
use crate::encoder::family::bert::DISTANCES;
use crate::encoder::files::ModelFiles;
use crate::error::{Error, Result};
use crate::types::Precision;

/// A transformer, its matrices packed for products.
pub(crate) struct FastBert {
    config: BertConfig,
    words: Table,
    /// With the first token type added, if there are types: a single text is all of that type.
    positions: Vec<f32>,
    bias: Option<DistanceBias>,
    norm: Norm,
    layers: Vec<Layer>,
    /// Room that no thread uses at the moment.
    spare: Mutex<Vec<Scratch>>,
}

/// Token states of one text: rows of `hidden` values, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct States<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) hidden: usize,
}

impl<'a> States<'a> {
    /// Those of texts of these lengths, one after the other.
    pub(super) fn of_texts(
        states: &'a [f32],
        hidden: usize,
        lengths: &'a [usize],
    ) -> impl Iterator<Item = Self> {
        let stride = padded(hidden);
        lengths.iter().scan(states, move |rest, length| {
            let (values, behind) = rest.split_at_checked(length * stride)?;
            *rest = behind;
            Some(Self { values, stride, hidden })
        })
    }

    /// Without the first `count` tokens, but not without the last.
    pub(crate) fn after(self, count: usize) -> Self {
        let count = count.min((self.values.len() / self.stride).saturating_sub(1));
        Self { values: &self.values[count * self.stride..], ..self }
    }

    /// The states, first token first.
    pub(crate) fn rows(self) -> impl ExactSizeIterator<Item = &'a [f32]> + DoubleEndedIterator {
        self.values.chunks_exact(self.stride).map(move |row| &row[..self.hidden])
    }
}

impl FastBert {
    /// Packs the parameters in `files`, which has the tensors of [`BertConfig::shapes`]; the table of words stays where it
    /// is.
    pub(crate) fn new(config: &BertConfig, files: &ModelFiles, precision: Precision) -> Result<Self> {
        if precision == Precision::Int8 && config.intermediate.max(config.hidden) > CODE_INPUTS_MAX {
            let what =
                format!("a model whose layers have more than {CODE_INPUTS_MAX} inputs does not run in int8");
            return Err(Error::Input(what));
        }
        let kind = config.kind;
        let called = move |name: &str| kind.in_files(name);
        let source = Source::new(files, config.shapes(), called, precision, config.epsilon)?;
        let heads = Heads { hidden: config.hidden, count: config.heads };
        let mut positions = source.take("embeddings.position_embeddings.weight")?;
        if config.token_types > 0 {
            let types = source.take("embeddings.token_type_embeddings.weight")?;
            for row in positions.chunks_exact_mut(config.hidden) {
                row.iter_mut().zip(&types).for_each(|(value, of_type)| *value += of_type);
            }
        }
        let distances = (config.distances > 0).then(|| source.take(DISTANCES)).transpose()?;
        let layers: Result<Vec<Layer>> = (0..config.layers)
            .map(|number| layer(&source, &format!("encoder.layer.{number}"), heads, config.intermediate))
            .collect();
        Ok(Self {
            config: config.clone(),
            bias: distances.map(|table| DistanceBias::new(config, &table)),
            words: source.table("embeddings.word_embeddings.weight")?,
            positions,
            norm: source.norm("embeddings.LayerNorm")?,
            layers: layers?,
            spare: Mutex::default(),
        })
    }

    /// Token states of `texts`, given by their ids, one text after the other. They are computed together, without
    /// padding; none changes another's. Fails if a text has no token, too many, or one that the model does not know.
    pub(crate) fn forward<T>(&self, texts: &[&[u32]], each: impl FnMut(States<'_>) -> T) -> Result<Vec<T>> {
        let mut scratch = self.spare.lock().pop().unwrap_or_default();
        let lengths: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        self.embed(texts, &mut scratch)?;
        for layer in &self.layers {
            layer.apply(kernels(), &mut scratch, &lengths, self.bias.as_ref());
        }
        let results = States::of_texts(&scratch.states, self.config.hidden, &lengths).map(each).collect();
        self.spare.lock().push(scratch);
        Ok(results)
    }

    /// The states that enter the first layer.
    fn embed(&self, texts: &[&[u32]], scratch: &mut Scratch) -> Result<()> {
        let (hidden, stride) = (self.config.hidden, padded(self.config.hidden));
        let tokens: usize = texts.iter().map(|ids| ids.len()).sum();
        scratch.states.at_least(tokens * stride);
        let mut states = scratch.states.chunks_exact_mut(stride);
        for ids in texts {
            if ids.is_empty() {
                return Err(Error::input("a text to encode has no token"));
            }
            for ((&id, place), state) in ids.iter().zip(self.config.places(ids)).zip(&mut states) {
                let state = &mut state[..hidden];
                let word = self.words.row(id as usize, state);
                let position = self.positions.get(place * hidden..(place + 1) * hidden);
                let (Some(()), Some(position)) = (word, position) else {
                    return Err(Error::input(format!("the model has no token {id}, or no position {place}")));
                };
                self.norm.apply(kernels(), state, position);
            }
        }
        Ok(())
    }
}

fn layer(source: &Source<'_>, prefix: &str, heads: Heads, inner: usize) -> Result<Layer> {
    Ok(Layer {
        attention_in: attention_in(source, &format!("{prefix}.attention.self"), heads)?,
        attention_out: source.linear(&format!("{prefix}.attention.output.dense"))?,
        attention_norm: source.norm(&format!("{prefix}.attention.output.LayerNorm"))?,
        intermediate: source.linear(&format!("{prefix}.intermediate.dense"))?,
        out: source.linear(&format!("{prefix}.output.dense"))?,
        norm: source.norm(&format!("{prefix}.output.LayerNorm"))?,
        heads,
        in_codes: source.precision == Precision::Int8 && heads.in_codes(),
        inner,
    })
}

/// Queries, keys and values as one layer, so that states are read once.
fn attention_in(source: &Source<'_>, prefix: &str, heads: Heads) -> Result<Linear> {
    let mut weights = source.take(&format!("{prefix}.query.weight"))?;
    let mut bias = source.take(&format!("{prefix}.query.bias"))?;
    let factor = std::f32::consts::LOG2_E / (heads.dim() as f32).sqrt();
    weights.iter_mut().chain(&mut bias).for_each(|value| *value *= factor);
    for part in ["key", "value"] {
        weights.extend(source.take(&format!("{prefix}.{part}.weight"))?);
        bias.extend(source.take(&format!("{prefix}.{part}.bias"))?);
    }
    Ok(Linear::new(&weights, &bias, source.precision))
}
