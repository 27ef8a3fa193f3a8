//! Decoders (Llama and its kin) for inference: token ids of several texts to their states.
//!
//! Positions turn queries and keys (Su et al. 2021, arXiv:2104.09864), several heads of queries share one of keys and
//! values (Ainslie et al. 2023, arXiv:2305.13245), rows are divided by their root mean square (Zhang and Sennrich 2019,
//! arXiv:1910.07467), and a gate opens the feed-forward layer (Shazeer 2020, arXiv:2002.05202). Attention is that of a
//! text's earlier tokens, in f32, pair by pair.

use parking_lot::Mutex;

use super::bert::States;
use super::buffer::Buffer;
use super::kernel::{CODE_INPUTS_MAX, Kernels, Rows, kernels};
use super::linear::{CodeScratch, Linear, padded};
use super::source::Source;
use super::table::Table;
use crate::encoder::family::DecoderConfig;
use crate::encoder::files::ModelFiles;
use crate::error::{Error, Result};
use crate::kernel::dot_f32;
use crate::types::Precision;

/// Rows that pass a layer's matrices together.
const STRIP: usize = 64;

/// A decoder, its matrices packed for products.
pub(crate) struct FastDecoder {
    config: DecoderConfig,
    words: Table,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// Of each pair of a head's dimensions: by how much a position turns it.
    angles: Vec<f64>,
    /// Room that no thread uses at the moment.
    spare: Mutex<Vec<Scratch>>,
}

struct Layer {
    norm: Vec<f32>,
    /// Queries, keys and values side by side.
    attention_in: Linear,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    attention_out: Linear,
    between_norm: Vec<f32>,
    /// Gate and what it opens for, side by side.
    gated: Linear,
    out: Linear,
}

/// Room for one tile; each thread has its own.
#[derive(Default)]
struct Scratch {
    states: Buffer<f32>,
    /// Queries, keys and values.
    triples: Buffer<f32>,
    context: Buffer<f32>,
    /// Of one strip: rows on their way into a product, and out of it.
    rows: Buffer<f32>,
    gated: Buffer<f32>,
    products: Buffer<f32>,
    scores: Vec<f32>,
    /// Cosine and sine of each pair's angle: places × pairs.
    turns: Vec<[f32; 2]>,
    codes: CodeScratch,
}

impl FastDecoder {
    /// Packs the parameters in `files`, which has the tensors of [`DecoderConfig::shapes`].
    pub(crate) fn new(config: &DecoderConfig, files: &ModelFiles, precision: Precision) -> Result<Self> {
        let inputs = config.intermediate.max(config.hidden).max(config.heads * config.head_dim);
        if precision == Precision::Int8 && inputs > CODE_INPUTS_MAX {
            let what =
                format!("a model whose layers have more than {CODE_INPUTS_MAX} inputs does not run in int8");
            return Err(Error::Input(what));
        }
        let source = Source::new(files, config.shapes(), str::to_owned, precision, config.epsilon)?;
        let layers = (0..config.layers).map(|i| Layer::new(&source, &format!("layers.{i}"), config));
        let pairs = config.head_dim / 2;
        let angle = |pair: usize| config.rope_base.powf(-(pair as f64) / pairs as f64);
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            words: source.table("embed_tokens.weight")?,
            norm: source.take("norm.weight")?,
            angles: (0..pairs).map(angle).collect(),
            config: config.clone(),
            spare: Mutex::default(),
        })
    }

    /// As of [`FastBert`](super::FastBert).
    pub(crate) fn forward<T>(&self, texts: &[&[u32]], each: impl FnMut(States<'_>) -> T) -> Result<Vec<T>> {
        let mut scratch = self.spare.lock().pop().unwrap_or_default();
        let lengths: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        self.embed(texts, &mut scratch)?;
        self.find_turns(lengths.iter().copied().max().unwrap_or(0), &mut scratch.turns);
        for layer in &self.layers {
            self.layer(layer, kernels(), &mut scratch, &lengths);
        }
        let (hidden, stride) = (self.config.hidden, padded(self.config.hidden));
        let tokens: usize = lengths.iter().sum();
        for row in scratch.states.chunks_exact_mut(stride).take(tokens) {
            rms_norm(&mut row[..hidden], &self.norm, self.config.epsilon);
        }
        let results = States::of_texts(&scratch.states, hidden, &lengths).map(each).collect();
        self.spare.lock().push(scratch);
        Ok(results)
    }

    fn embed(&self, texts: &[&[u32]], scratch: &mut Scratch) -> Result<()> {
        let (hidden, stride) = (self.config.hidden, padded(self.config.hidden));
        let tokens: usize = texts.iter().map(|ids| ids.len()).sum();
        scratch.states.at_least(tokens * stride);
        let mut states = scratch.states.chunks_exact_mut(stride);
        for ids in texts {
            if ids.is_empty() || ids.len() > self.config.positions {
                return Err(Error::input("a text to encode has no token, or more than the model reads"));
            }
            for (&id, state) in ids.iter().zip(&mut states) {
                let row = self.words.row(id as usize, &mut state[..hidden]);
                row.ok_or_else(|| Error::input(format!("the model has no token {id}")))?;
            }
        }
        Ok(())
    }

    fn layer(&self, layer: &Layer, kernels: &Kernels, scratch: &mut Scratch, lengths: &[usize]) {
        let config = &self.config;
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (width, context_width) = (padded(hidden), padded(config.heads * config.head_dim));
        let (gated_width, inner_width) = (padded(2 * inner), padded(inner));
        let tokens = lengths.iter().sum();
        self.attend(layer, kernels, scratch, lengths);
        scratch.rows.at_least(STRIP * width.max(inner_width));
        scratch.products.at_least(STRIP * width);
        scratch.gated.at_least(STRIP * gated_width);
        for start in (0..tokens).step_by(STRIP) {
            let count = STRIP.min(tokens - start);
            let states = &mut scratch.states[start * width..][..count * width];
            let context =
                Rows { values: &scratch.context[start * context_width..], stride: context_width, count };
            layer.attention_out.apply(kernels, context, &mut scratch.codes, &mut scratch.products, width);
            add(states, &scratch.products, width, hidden);
            normed(states, &mut scratch.rows, width, &layer.between_norm, config.epsilon);
            let rows = Rows { values: &scratch.rows, stride: width, count };
            layer.gated.apply(kernels, rows, &mut scratch.codes, &mut scratch.gated, gated_width);
            let opened = scratch.rows.chunks_exact_mut(inner_width);
            for (row, gated) in opened.zip(scratch.gated.chunks_exact(gated_width)).take(count) {
                let (gates, values) = gated.split_at(inner);
                for ((out, &gate), &value) in row.iter_mut().zip(gates).zip(values) {
                    *out = gate / (1.0 + (-gate).exp()) * value;
                }
            }
            let rows = Rows { values: &scratch.rows, stride: inner_width, count };
            layer.out.apply(kernels, rows, &mut scratch.codes, &mut scratch.products, width);
            add(states, &scratch.products, width, hidden);
        }
    }

    /// Attention of each text, into `context`.
    fn attend(&self, layer: &Layer, kernels: &Kernels, scratch: &mut Scratch, lengths: &[usize]) {
        let config = &self.config;
        let (width, heads) = (padded(config.hidden), config.heads * config.head_dim);
        let shared = config.shared_heads * config.head_dim;
        let (triple, context_width) = (padded(heads + 2 * shared), padded(heads));
        let tokens: usize = lengths.iter().sum();
        scratch.triples.at_least(tokens * triple);
        scratch.context.at_least(tokens * context_width);
        scratch.rows.at_least(STRIP * width);
        for start in (0..tokens).step_by(STRIP) {
            let count = STRIP.min(tokens - start);
            let states = &scratch.states[start * width..][..count * width];
            normed(states, &mut scratch.rows, width, &layer.norm, config.epsilon);
            let rows = Rows { values: &scratch.rows, stride: width, count };
            let triples = &mut scratch.triples[start * triple..];
            layer.attention_in.apply(kernels, rows, &mut scratch.codes, triples, triple);
        }
        let mut start = 0;
        for &count in lengths {
            let triples = &mut scratch.triples[start * triple..][..count * triple];
            let turns = scratch.turns.chunks_exact(self.angles.len().max(1));
            for (row, turns) in triples.chunks_exact_mut(triple).zip(turns) {
                let (queries, rest) = row.split_at_mut(heads);
                self.turn(queries, turns, layer.query_norm.as_deref());
                self.turn(&mut rest[..shared], turns, layer.key_norm.as_deref());
            }
            let context = &mut scratch.context[start * context_width..][..count * context_width];
            self.attend_one(triples, triple, context, context_width, &mut scratch.scores);
            start += count;
        }
    }

    /// By how much the first `places` of a text turn each pair, the same in all layers and heads.
    fn find_turns(&self, places: usize, turns: &mut Vec<[f32; 2]>) {
        let known = turns.len() / self.angles.len().max(1);
        for place in known..places {
            let turn = |angle: &f64| {
                let (sin, cos) = (place as f64 * angle).sin_cos();
                [cos as f32, sin as f32]
            };
            turns.extend(self.angles.iter().map(turn));
        }
    }

    /// Normalises heads, if they are, and turns them by their place in the text.
    fn turn(&self, heads: &mut [f32], turns: &[[f32; 2]], norm: Option<&[f32]>) {
        for head in heads.chunks_exact_mut(self.config.head_dim) {
            if let Some(norm) = norm {
                rms_norm(head, norm, self.config.epsilon);
            }
            let (left, right) = head.split_at_mut(self.config.head_dim / 2);
            for ((a, b), &[cos, sin]) in left.iter_mut().zip(right).zip(turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }

    /// Attention of one text's tokens to themselves and those before them.
    fn attend_one(
        &self,
        triples: &[f32],
        stride: usize,
        out: &mut [f32],
        out_stride: usize,
        scores: &mut Vec<f32>,
    ) {
        let config = &self.config;
        let dim = config.head_dim;
        let keys_at = config.heads * dim;
        let values_at = keys_at + config.shared_heads * dim;
        let scale = 1.0 / (dim as f32).sqrt();
        for head in 0..config.heads {
            let shared = head / (config.heads / config.shared_heads) * dim;
            let rows = triples.chunks_exact(stride).zip(out.chunks_exact_mut(out_stride));
            for (place, (row, out)) in rows.enumerate() {
                let query = &row[head * dim..][..dim];
                let before = || triples.chunks_exact(stride).take(place + 1);
                scores.clear();
                scores.extend(before().map(|row| dot_f32(query, &row[keys_at + shared..][..dim]) * scale));
                let most = scores.iter().copied().fold(f32::MIN, f32::max);
                scores.iter_mut().for_each(|score| *score = (*score - most).exp());
                let factor = 1.0 / scores.iter().sum::<f32>();
                let out = &mut out[head * dim..][..dim];
                out.fill(0.0);
                for (row, share) in before().zip(scores.iter()) {
                    let values = &row[values_at + shared..][..dim];
                    out.iter_mut().zip(values).for_each(|(out, value)| *out += value * (share * factor));
                }
            }
        }
    }
}

impl Layer {
    fn new(source: &Source<'_>, prefix: &str, config: &DecoderConfig) -> Result<Self> {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let beside = |parts: &[&str], outputs: usize, bias: bool| {
            let (mut weights, mut biases) = (Vec::new(), Vec::new());
            for part in parts {
                weights.extend(source.take(&format!("{prefix}.{part}.weight"))?);
                if bias {
                    biases.extend(source.take(&format!("{prefix}.{part}.bias"))?);
                }
            }
            biases.resize(outputs, 0.0);
            Ok::<_, Error>(Linear::new(&weights, &biases, source.precision))
        };
        let triple = (config.heads + 2 * config.shared_heads) * config.head_dim;
        let attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let attention_in = beside(&attention, triple, config.bias)?;
        let attention_out = beside(&["self_attn.o_proj"], hidden, config.out_bias)?;
        let gated = beside(&["mlp.gate_proj", "mlp.up_proj"], 2 * inner, false)?;
        let out = beside(&["mlp.down_proj"], hidden, false)?;
        let norm = |name: &str| source.take(&format!("{prefix}.{name}.weight"));
        let has = config.head_norms;
        Ok(Self {
            norm: norm("input_layernorm")?,
            between_norm: norm("post_attention_layernorm")?,
            query_norm: has.then(|| norm("self_attn.q_norm")).transpose()?,
            key_norm: has.then(|| norm("self_attn.k_norm")).transpose()?,
            attention_in,
            attention_out,
            gated,
            out,
        })
    }
}

/// Adds the first `hidden` values of rows.
fn add(states: &mut [f32], rows: &[f32], width: usize, hidden: usize) {
    for (state, row) in states.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
        state[..hidden].iter_mut().zip(row).for_each(|(state, value)| *state += value);
    }
}

/// Copies rows, normalised.
fn normed(states: &[f32], rows: &mut [f32], width: usize, weight: &[f32], epsilon: f64) {
    for (row, state) in rows.chunks_exact_mut(width).zip(states.chunks_exact(width)) {
        row.copy_from_slice(state);
        rms_norm(&mut row[..weight.len()], weight, epsilon);
    }
}

/// Divides a row by its root mean square.
fn rms_norm(row: &mut [f32], weight: &[f32], epsilon: f64) {
    let mean = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / row.len().max(1) as f64;
    let factor = 1.0 / (mean + epsilon).sqrt();
    row.iter_mut().zip(weight).for_each(|(v, w)| *v = (f64::from(*v) * factor) as f32 * w);
}
