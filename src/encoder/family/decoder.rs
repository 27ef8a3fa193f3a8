//! Decoders used as encoders, as in E5-Mistral (Wang et al. 2023, arXiv:2401.00368): Llama (Touvron et al. 2023,
//! arXiv:2302.13971), Mistral, Qwen2 and Qwen3.
//!
//! They are run, not trained.

use serde::Deserialize;

use super::super::config::parse;
use super::super::files::{CONFIG, ModelFiles};
use super::{HEADS_MAX, INTERMEDIATE_MAX, LAYERS_MAX, POSITIONS_MAX, VOCABULARY_MAX, size, small, supported};
use crate::encoder::weights::Shapes;
use crate::error::{Error, Result};
use crate::options::limits;

/// A branch of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Kind {
    /// The branch of this `model_type`.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "mistral" => Some(Self::Mistral),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }
}

/// Shape of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DecoderConfig {
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Heads of keys and values, each shared by as many heads of queries.
    pub(crate) shared_heads: usize,
    /// Dimensions of a head; even.
    pub(crate) head_dim: usize,
    pub(crate) intermediate: usize,
    /// Tokens of a text; where attention slides, its window, within which that changes nothing.
    pub(crate) positions: usize,
    pub(crate) epsilon: f64,
    /// Base of the angles by which queries and keys are turned.
    pub(crate) rope_base: f64,
    /// Whether queries, keys and values have biases.
    pub(crate) bias: bool,
    /// Whether what attention gives has a bias.
    pub(crate) out_bias: bool,
    /// Whether queries and keys are normalised, head by head.
    pub(crate) head_norms: bool,
    pub(crate) pad: u32,
}

#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    /// Of older and of newer files.
    #[serde(alias = "rope_parameters")]
    rope_scaling: Option<RawRope>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<usize>,
    pad_token_id: Option<u32>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

impl DecoderConfig {
    pub(crate) fn read(files: &ModelFiles, kind: Kind) -> Result<Self> {
        let raw: Raw = parse(CONFIG, files.required(CONFIG)?)?;
        supported("hidden_act", raw.hidden_act.as_deref(), "silu")?;
        let rope = raw.rope_scaling.as_ref();
        supported("rope_type", rope.and_then(|rope| rope.rope_type.as_deref()), "default")?;
        if raw.mlp_bias == Some(true) {
            return Err(Error::input("the model's mlp_bias is true; that is not supported"));
        }
        let heads = size("num_attention_heads", raw.num_attention_heads, HEADS_MAX)?;
        let hidden = size("hidden_size", raw.hidden_size, limits::DIM)?;
        // Qwen has the switch, Mistral only the window.
        let slides = raw.use_sliding_window.unwrap_or(kind == Kind::Mistral);
        let window = raw.sliding_window.filter(|_| slides).unwrap_or(POSITIONS_MAX);
        let positions = size("max_position_embeddings", raw.max_position_embeddings, usize::MAX)?;
        let bias = raw.attention_bias.unwrap_or(kind == Kind::Qwen2);
        let config = Self {
            vocabulary: size("vocab_size", raw.vocab_size, VOCABULARY_MAX)?,
            hidden,
            layers: size("num_hidden_layers", raw.num_hidden_layers, LAYERS_MAX)?,
            heads,
            shared_heads: size("num_key_value_heads", raw.num_key_value_heads.unwrap_or(heads), heads)?,
            head_dim: size("head_dim", raw.head_dim.unwrap_or(hidden / heads), limits::DIM)?,
            intermediate: size("intermediate_size", raw.intermediate_size, INTERMEDIATE_MAX)?,
            positions: positions.min(POSITIONS_MAX).min(size("sliding_window", window, usize::MAX)?),
            epsilon: small("rms_norm_eps", raw.rms_norm_eps.unwrap_or(1e-6))?,
            rope_base: rope.and_then(|rope| rope.rope_theta).or(raw.rope_theta).unwrap_or(10_000.0),
            bias,
            out_bias: bias && kind != Kind::Qwen2,
            head_norms: kind == Kind::Qwen3,
            pad: raw.pad_token_id.unwrap_or(0),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let problem = if !self.heads.is_multiple_of(self.shared_heads) {
            format!("num_key_value_heads is {}, which does not divide {}", self.shared_heads, self.heads)
        } else if !self.head_dim.is_multiple_of(2) || self.heads * self.head_dim > 4 * limits::DIM {
            format!("head_dim is {}: it must be even, and heads must not be that large", self.head_dim)
        } else if !(self.rope_base.is_finite() && self.rope_base > 0.0) {
            format!("rope_theta is {}", self.rope_base)
        } else if self.pad as usize >= self.vocabulary {
            format!("pad_token_id {} is not in the vocabulary of {}", self.pad, self.vocabulary)
        } else {
            return Ok(());
        };
        Err(Error::corrupt(CONFIG, 0, problem))
    }

    /// Names and shapes of all parameters.
    pub(crate) fn shapes(&self) -> Shapes {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let (queries, keys) = (self.heads * self.head_dim, self.shared_heads * self.head_dim);
        let mut shapes: Shapes = vec![
            ("embed_tokens.weight".into(), vec![self.vocabulary, hidden]),
            ("norm.weight".into(), vec![hidden]),
        ];
        for i in 0..self.layers {
            for (part, outputs, inputs, bias) in [
                ("self_attn.q_proj", queries, hidden, self.bias),
                ("self_attn.k_proj", keys, hidden, self.bias),
                ("self_attn.v_proj", keys, hidden, self.bias),
                ("self_attn.o_proj", hidden, queries, self.out_bias),
                ("mlp.gate_proj", inner, hidden, false),
                ("mlp.up_proj", inner, hidden, false),
                ("mlp.down_proj", hidden, inner, false),
            ] {
                shapes.push((format!("layers.{i}.{part}.weight"), vec![outputs, inputs]));
                if bias {
                    shapes.push((format!("layers.{i}.{part}.bias"), vec![outputs]));
                }
            }
            for part in ["input_layernorm", "post_attention_layernorm"] {
                shapes.push((format!("layers.{i}.{part}.weight"), vec![hidden]));
            }
            if self.head_norms {
                for part in ["q_norm", "k_norm"] {
                    shapes.push((format!("layers.{i}.self_attn.{part}.weight"), vec![self.head_dim]));
                }
            }
        }
        shapes
    }
}
