//! A smaller model out of a model's parts: some of its layers, the inner units that matter, and the tokens that occur.
//!
//! What is left out is not replaced: the result is a start for training, which distillation does.
//! Behind the pooled states stands a dense layer onto given axes, so that vectors may be cut (Kusupati et al. 2022,
//! arXiv:2205.13147).

mod vocabulary;

use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};

use super::batch::TokenBatch;
use super::bert::Bert;
use super::config::parse;
use super::export::pretty;
use super::family::Family;
use super::family::bert::{BertConfig, Kind};
use super::files::{CONFIG, MODULES, SENTENCE_CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS};
use super::prompts::Role;
use super::weights::{self, Weights};
use super::{Encoder, ModelFiles, failed};
use crate::error::{Error, Result};

/// Texts on which inner units are judged.
const JUDGING_TEXTS: usize = 256;

/// Folder of the dense layer.
const DENSE: &str = "2_Dense";

/// What is kept of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Transformer layers, counted from 0, ascending.
    pub layers: Vec<usize>,
    /// Units inside each layer's second half.
    pub inner: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Tokens of a text that are read, special ones included.
    pub tokens: usize,
}

impl Encoder {
    /// The files of a smaller model, untrained. `texts` say which tokens and inner units are kept; `axes` (dim × dimensions
    /// of this encoder, row by row) what becomes of a pooled state.
    ///
    /// Fails with [`Error::Input`] unless this is a BERT with a WordPiece tokenizer and without dense layers, which has what
    /// shall be kept.
    pub fn shrunk(&self, kept: &Kept, texts: &[&str], axes: &[f32]) -> Result<ModelFiles> {
        let config = self.checked(kept, axes)?;
        let tokenizer = self.files().required(TOKENIZER)?;
        let ids = self.tokenizer().encode_batch(texts)?;
        let (tokenizer, tokens) = vocabulary::cut(tokenizer, &ids, kept.vocabulary)?;
        let config = BertConfig {
            vocabulary: tokens.len(),
            layers: kept.layers.len(),
            positions: kept.tokens,
            ..config
        };
        let (mut all, _) = self.read_weights()?;
        cut_tables(&mut all, &tokens, kept.tokens).map_err(failed)?;
        choose_layers(&mut all, &kept.layers);
        let new_ids = vocabulary::renumbered(&ids, &tokens, kept.tokens);
        prune(&mut all, &config, &new_ids, kept.inner)?;
        self.write_shrunk(&BertConfig { intermediate: kept.inner, ..config }, &all, tokenizer, axes)
    }

    /// The shape of this model, if it has what shall be kept.
    fn checked(&self, kept: &Kept, axes: &[f32]) -> Result<BertConfig> {
        let Family::Bert(config) = &self.config().family else { return Err(self.untrainable()) };
        let ascending = kept.layers.is_sorted_by(|a, b| a < b);
        let problem = if config.kind != Kind::Bert {
            "only a BERT can be made smaller".to_owned()
        } else if !self.config().dense.is_empty() {
            "a model with dense layers cannot be made smaller".to_owned()
        } else if kept.layers.is_empty()
            || !ascending
            || kept.layers.last().is_some_and(|&l| l >= config.layers)
        {
            format!("the layers to keep are {:?}; the model has 0 to {}", kept.layers, config.layers - 1)
        } else if !(1..=config.intermediate).contains(&kept.inner) {
            format!("{} inner units cannot be kept of {}", kept.inner, config.intermediate)
        } else if !(16..=config.tokens()).contains(&kept.tokens) {
            format!(
                "{} tokens of a text cannot be kept of {}; the least are 16",
                kept.tokens,
                config.tokens()
            )
        } else if axes.is_empty() || !axes.len().is_multiple_of(config.hidden) {
            format!("axes have {} values each", config.hidden)
        } else {
            return Ok(config.clone());
        };
        Err(Error::Input(problem))
    }

    fn write_shrunk(
        &self,
        config: &BertConfig,
        weights: &Weights,
        tokenizer: Vec<u8>,
        axes: &[f32],
    ) -> Result<ModelFiles> {
        let dim = axes.len() / config.hidden;
        let mut matrix = Tensor::from_slice(axes, (dim, config.hidden), &Device::Cpu).map_err(failed)?;
        if let Some(adapter) = self.adapters().tensor(Role::Document) {
            matrix = matrix.matmul(adapter).map_err(failed)?;
        }
        let bias = Tensor::zeros(dim, candle_core::DType::F32, &Device::Cpu).map_err(failed)?;
        let dense = Weights::from([("linear.weight".to_owned(), matrix), ("linear.bias".to_owned(), bias)]);
        let mut files = ModelFiles::default();
        files.insert(CONFIG, pretty(&Value::Object(self.settings(config)?)));
        describe(&mut files, config, dim);
        files.insert(TOKENIZER, tokenizer);
        files.insert(WEIGHTS, weights::write(WEIGHTS, weights)?);
        let path = format!("{DENSE}/{WEIGHTS}");
        files.insert(path.as_str(), weights::write(&path, &dense)?);
        Ok(files)
    }

    /// What `config.json` says of the smaller model: what this one's says, with other sizes.
    fn settings(&self, config: &BertConfig) -> Result<Map<String, Value>> {
        let mut settings: Map<String, Value> = parse(CONFIG, self.files().required(CONFIG)?)?;
        settings.retain(|key, _| !key.starts_with('_') && key != "transformers_version");
        for (key, value) in [
            ("vocab_size", config.vocabulary),
            ("num_hidden_layers", config.layers),
            ("intermediate_size", config.intermediate),
            ("max_position_embeddings", config.positions),
        ] {
            settings.insert(key.to_owned(), json!(value));
        }
        Ok(settings)
    }
}

/// Adds what sentence-transformers reads beside `config.json`: the mean of the states, the dense layer, length 1.
fn describe(files: &mut ModelFiles, config: &BertConfig, dim: usize) {
    let modules =
        ["Transformer", "Pooling", "Dense", "Normalize"].iter().enumerate().map(|(number, kind)| {
            let path = if number == 0 { String::new() } else { format!("{number}_{kind}") };
            let kind = format!("sentence_transformers.models.{kind}");
            json!({"idx": number, "name": number.to_string(), "path": path, "type": kind})
        });
    let mean = json!({"word_embedding_dimension": config.hidden, "pooling_mode_mean_tokens": true,
        "pooling_mode_cls_token": false, "pooling_mode_max_tokens": false, "pooling_mode_mean_sqrt_len_tokens": false});
    let dense = json!({"in_features": config.hidden, "out_features": dim, "bias": true,
        "activation_function": "torch.nn.modules.linear.Identity"});
    files.insert(MODULES, pretty(&modules.collect()));
    files.insert(format!("1_Pooling/{CONFIG}"), pretty(&mean));
    files.insert(format!("{DENSE}/{CONFIG}"), pretty(&dense));
    let limits = json!({"max_seq_length": config.positions, "do_lower_case": false});
    files.insert(SENTENCE_CONFIG, pretty(&limits));
    let tokenizer = json!({"tokenizer_class": "BertTokenizer", "model_max_length": config.positions});
    files.insert(TOKENIZER_CONFIG, pretty(&tokenizer));
}

impl ModelFiles {
    /// The same model with all matrices as bytes, a scale for each row: a quarter of the size. In int8 it computes what it
    /// computed before.
    pub fn in_codes(&self) -> Result<Self> {
        let mut files = self.clone();
        for (name, bytes) in self.iter().filter(|(name, _)| name.ends_with(".safetensors")) {
            files.insert(name, weights::with_codes(name, bytes)?);
        }
        Ok(files)
    }
}

/// Keeps rows of the tables of words and positions.
fn cut_tables(all: &mut Weights, tokens: &[u32], positions: usize) -> candle_core::Result<()> {
    let rows = |table: &Tensor, ids: Vec<u32>| {
        let count = ids.len();
        table.index_select(&Tensor::from_vec(ids, count, &Device::Cpu)?, 0)
    };
    if let Some(table) = all.get_mut("embeddings.word_embeddings.weight") {
        *table = rows(table, tokens.to_vec())?;
    }
    if let Some(table) = all.get_mut("embeddings.position_embeddings.weight") {
        *table = rows(table, (0..positions as u32).collect())?;
    }
    Ok(())
}

/// Keeps some layers, numbered anew.
fn choose_layers(all: &mut Weights, layers: &[usize]) {
    let old = std::mem::take(all);
    for (name, tensor) in old {
        let Some(rest) = name.strip_prefix("encoder.layer.") else {
            all.insert(name, tensor);
            continue;
        };
        let Some((number, part)) = rest.split_once('.') else { continue };
        let place = layers.iter().position(|layer| layer.to_string() == number);
        if let Some(place) = place {
            all.insert(format!("encoder.layer.{place}.{part}"), tensor);
        }
    }
}

/// Keeps the inner units that matter most to what leaves each layer: those of the largest variance times the squared
/// length of what they add. The means of the others go into the bias.
fn prune(all: &mut Weights, config: &BertConfig, texts: &[Vec<u32>], inner: usize) -> Result<()> {
    let moments = moments(all, config, texts)?;
    for (number, (means, variances)) in moments.into_iter().enumerate() {
        prune_layer(all, &format!("encoder.layer.{number}"), &means, &variances, inner).map_err(failed)?;
    }
    Ok(())
}

fn prune_layer(
    all: &mut Weights,
    layer: &str,
    means: &[f32],
    variances: &[f32],
    inner: usize,
) -> candle_core::Result<()> {
    let named = |part: &str| format!("{layer}.{part}");
    let (into, out) = (named("intermediate.dense"), named("output.dense"));
    let get = |name: String| match all.get(&name) {
        Some(tensor) => Ok(tensor.clone()),
        None => candle_core::bail!("the parameter {name} is missing"),
    };
    let out_weight = get(format!("{out}.weight"))?;
    let lengths: Vec<f32> = out_weight.sqr()?.sum(0)?.to_vec1()?;
    let worth: Vec<f32> =
        variances.iter().zip(&lengths).map(|(variance, length)| variance * length).collect();
    let mut order: Vec<u32> = (0..worth.len() as u32).collect();
    order.sort_by(|&a, &b| worth[b as usize].total_cmp(&worth[a as usize]).then(a.cmp(&b)));
    let kept = &order[..inner.min(order.len())];
    let mut left: Vec<f32> = means.to_vec();
    kept.iter().for_each(|&unit| left[unit as usize] = 0.0);
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let kept = Tensor::new(kept, &Device::Cpu)?;
    let lost = out_weight.matmul(&Tensor::new(left, &Device::Cpu)?.unsqueeze(1)?)?.squeeze(1)?;
    let changed = [
        (format!("{into}.weight"), get(format!("{into}.weight"))?.index_select(&kept, 0)?),
        (format!("{into}.bias"), get(format!("{into}.bias"))?.index_select(&kept, 0)?),
        (format!("{out}.weight"), out_weight.index_select(&kept, 1)?),
        (format!("{out}.bias"), (get(format!("{out}.bias"))? + lost)?),
    ];
    all.extend(changed);
    Ok(())
}

/// Mean and variance of each layer's inner units over the tokens of some texts.
fn moments(all: &Weights, config: &BertConfig, texts: &[Vec<u32>]) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
    let bert = Bert::new(config, all).map_err(failed)?;
    let mut sums = vec![(vec![0f64; config.intermediate], vec![0f64; config.intermediate]); config.layers];
    let mut tokens = 0;
    let step = texts.len().div_ceil(JUDGING_TEXTS).max(1);
    for ids in texts.iter().step_by(step).filter(|ids| !ids.is_empty()) {
        tokens += ids.len();
        // One text at a time has no padding.
        let batch = TokenBatch::new(&[ids], config.pad)?;
        for ((sum, squares), inner) in sums.iter_mut().zip(bert.inner(&batch).map_err(failed)?) {
            for row in inner.to_vec2::<f32>().map_err(failed)? {
                for ((sum, square), value) in sum.iter_mut().zip(squares.iter_mut()).zip(row) {
                    *sum += f64::from(value);
                    *square += f64::from(value) * f64::from(value);
                }
            }
        }
    }
    let count = tokens.max(1) as f64;
    let moments = |(sum, squares): (Vec<f64>, Vec<f64>)| {
        let variance = |(sum, square): (&f64, &f64)| (square / count - (sum / count) * (sum / count)) as f32;
        (
            sum.iter().map(|sum| (sum / count) as f32).collect(),
            sum.iter().zip(&squares).map(variance).collect(),
        )
    };
    Ok(sums.into_iter().map(moments).collect())
}

#[cfg(test)]
mod tests;
