//! BERT (Devlin et al. 2018, arXiv:1810.04805) and what follows it.
//!
//! RoBERTa (Liu et al. 2019, arXiv:1907.11692) and XLM-R count positions from behind the padding's id; MPNet (Song et al.
//! 2020, arXiv:2004.09297) does so too, has no token types, and adds to each score of attention a bias by distance, as T5
//! does; DistilBERT (Sanh et al. 2019, arXiv:1910.01108) has no token types. Parameters have BERT's names here, whatever
//! they are called in files.

use serde::Deserialize;

use super::super::config::parse;
use super::super::files::{CONFIG, ModelFiles};
use super::{HEADS_MAX, INTERMEDIATE_MAX, LAYERS_MAX, POSITIONS_MAX, VOCABULARY_MAX, size, small, supported};
use crate::encoder::weights::{Shapes, Stored, Weights};
use crate::error::{Error, Result};
use crate::options::limits;

/// Tokens apart from which on MPNet makes no difference; it stands in no file.
const DISTANCE_MAX: f32 = 128.0;

/// Name of the table of biases, buckets × heads.
pub(crate) const DISTANCES: &str = "encoder.relative_attention_bias.weight";

/// A branch of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bert,
    Roberta,
    Mpnet,
    DistilBert,
}

/// MPNet's names in files, for ours, in the order in which they are replaced.
const MPNET: [(&str, &str); 5] = [
    ("attention.self.query", "attention.attn.q"),
    ("attention.self.key", "attention.attn.k"),
    ("attention.self.value", "attention.attn.v"),
    ("attention.output.dense", "attention.attn.o"),
    ("attention.output.LayerNorm", "attention.LayerNorm"),
];

/// DistilBERT's.
const DISTIL: [(&str, &str); 9] = [
    ("encoder.layer.", "transformer.layer."),
    ("attention.self.query", "attention.q_lin"),
    ("attention.self.key", "attention.k_lin"),
    ("attention.self.value", "attention.v_lin"),
    ("attention.output.dense", "attention.out_lin"),
    ("attention.output.LayerNorm", "sa_layer_norm"),
    ("intermediate.dense", "ffn.lin1"),
    ("output.dense", "ffn.lin2"),
    ("output.LayerNorm", "output_layer_norm"),
];

impl Kind {
    /// The branch of this `model_type`; a file that does not say it is BERT's.
    pub(crate) fn of(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("bert") => Some(Self::Bert),
            Some("roberta" | "xlm-roberta" | "camembert") => Some(Self::Roberta),
            Some("mpnet") => Some(Self::Mpnet),
            Some("distilbert") => Some(Self::DistilBert),
            Some(_) => None,
        }
    }

    /// What a parameter is called in files.
    pub(crate) fn in_files(self, name: &str) -> String {
        let names: &[(&str, &str)] = match self {
            Self::Bert | Self::Roberta => &[],
            Self::Mpnet => &MPNET,
            Self::DistilBert => &DISTIL,
        };
        names.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
    }
}

/// Shape of a BERT.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BertConfig {
    pub(crate) kind: Kind,
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    /// Rows of the table of positions.
    pub(crate) positions: usize,
    /// 0 where the model has none.
    pub(crate) token_types: usize,
    pub(crate) epsilon: f64,
    pub(crate) pad: u32,
    /// Classes of distances that attention tells apart; 0 where it does not.
    pub(crate) distances: usize,
}

#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    layer_norm_eps: Option<f64>,
    pad_token_id: Option<u32>,
    #[serde(alias = "activation")]
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    relative_attention_num_buckets: Option<usize>,
}

impl BertConfig {
    pub(crate) fn read(files: &ModelFiles, kind: Kind) -> Result<Self> {
        let raw: Raw = parse(CONFIG, files.required(CONFIG)?)?;
        supported("hidden_act", raw.hidden_act.as_deref(), "gelu")?;
        supported("position_embedding_type", raw.position_embedding_type.as_deref(), "absolute")?;
        let token_types = match kind {
            Kind::Bert | Kind::Roberta => size("type_vocab_size", raw.type_vocab_size.unwrap_or(2), 1_024)?,
            Kind::Mpnet | Kind::DistilBert => 0,
        };
        let distances = match kind {
            Kind::Mpnet => size(
                "relative_attention_num_buckets",
                raw.relative_attention_num_buckets.unwrap_or(32),
                1_024,
            )?,
            _ => 0,
        };
        let pad = match kind {
            // Fixed in the model's code.
            Kind::Mpnet => 1,
            Kind::Roberta => raw.pad_token_id.unwrap_or(1),
            Kind::Bert | Kind::DistilBert => raw.pad_token_id.unwrap_or(0),
        };
        let config = Self {
            kind,
            vocabulary: size("vocab_size", raw.vocab_size, VOCABULARY_MAX)?,
            hidden: size("hidden_size", raw.hidden_size, limits::DIM)?,
            layers: size("num_hidden_layers", raw.num_hidden_layers, LAYERS_MAX)?,
            heads: size("num_attention_heads", raw.num_attention_heads, HEADS_MAX)?,
            intermediate: size("intermediate_size", raw.intermediate_size, INTERMEDIATE_MAX)?,
            positions: size("max_position_embeddings", raw.max_position_embeddings, POSITIONS_MAX)?,
            token_types,
            epsilon: small("layer_norm_eps", raw.layer_norm_eps.unwrap_or(1e-12))?,
            pad,
            distances,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let problem = if !self.hidden.is_multiple_of(self.heads) {
            format!("{} heads do not divide {} dimensions", self.heads, self.hidden)
        } else if self.pad as usize >= self.vocabulary {
            format!("pad_token_id {} is not in the vocabulary of {}", self.pad, self.vocabulary)
        } else if self.first_position() >= self.positions {
            format!("max_position_embeddings is {}, but texts begin behind {}", self.positions, self.pad)
        } else if !self.distances.is_multiple_of(4) {
            format!("relative_attention_num_buckets is {}, not a multiple of 4", self.distances)
        } else {
            return Ok(());
        };
        Err(Error::corrupt(CONFIG, 0, problem))
    }

    /// Row of the first token in the table of positions.
    pub(crate) fn first_position(&self) -> usize {
        match self.kind {
            Kind::Bert | Kind::DistilBert => 0,
            Kind::Roberta | Kind::Mpnet => self.pad as usize + 1,
        }
    }

    /// Rows of the tokens of a text in the table of positions. Where they are counted from behind the padding's id, a
    /// token of that id, which a text may well contain, has that row, and is not counted.
    pub(crate) fn places<'a>(&'a self, ids: &'a [u32]) -> impl Iterator<Item = usize> + 'a {
        let first = self.first_position();
        let mut next = first;
        ids.iter().map(move |&id| {
            if first > 0 && id == self.pad {
                return first - 1;
            }
            next += 1;
            next - 1
        })
    }

    /// Tokens that a text can have.
    pub(crate) fn tokens(&self) -> usize {
        self.positions - self.first_position()
    }

    /// The class of the distance from a query to a key that stands `ahead` tokens behind it in the text.
    ///
    /// Half of the classes are for keys ahead; of each half, half are exact distances, and the others grow by a constant
    /// factor (Raffel et al. 2019, arXiv:1910.10683).
    pub(crate) fn distance(&self, ahead: isize) -> usize {
        let half = self.distances / 2;
        let (exact, apart) = (half / 2, ahead.unsigned_abs());
        let class = if apart < exact {
            apart
        } else {
            // In the order, and the precision, of the code that trained the model.
            let steps = (apart as f32 / exact as f32).ln() / (DISTANCE_MAX / exact as f32).ln()
                * (half - exact) as f32;
            exact.saturating_add(steps as usize).min(half - 1)
        };
        if ahead > 0 { half + class } else { class }
    }

    /// All parameters, by our names.
    pub(crate) fn read_weights(&self, files: &ModelFiles) -> Result<Weights> {
        Stored::transformer(files)?.read(&self.shapes(), |name| self.kind.in_files(name))
    }

    /// Names and shapes of all parameters.
    pub(crate) fn shapes(&self) -> Shapes {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let mut shapes: Shapes = vec![
            ("embeddings.word_embeddings.weight".into(), vec![self.vocabulary, hidden]),
            ("embeddings.position_embeddings.weight".into(), vec![self.positions, hidden]),
            ("embeddings.LayerNorm.weight".into(), vec![hidden]),
            ("embeddings.LayerNorm.bias".into(), vec![hidden]),
        ];
        if self.token_types > 0 {
            shapes.push(("embeddings.token_type_embeddings.weight".into(), vec![self.token_types, hidden]));
        }
        if self.distances > 0 {
            shapes.push((DISTANCES.into(), vec![self.distances, self.heads]));
        }
        for i in 0..self.layers {
            for (part, outputs, inputs) in [
                ("attention.self.query", hidden, hidden),
                ("attention.self.key", hidden, hidden),
                ("attention.self.value", hidden, hidden),
                ("attention.output.dense", hidden, hidden),
                ("intermediate.dense", inner, hidden),
                ("output.dense", hidden, inner),
            ] {
                shapes.push((format!("encoder.layer.{i}.{part}.weight"), vec![outputs, inputs]));
                shapes.push((format!("encoder.layer.{i}.{part}.bias"), vec![outputs]));
            }
            for part in ["attention.output.LayerNorm", "output.LayerNorm"] {
                for kind in ["weight", "bias"] {
                    shapes.push((format!("encoder.layer.{i}.{part}.{kind}"), vec![hidden]));
                }
            }
        }
        shapes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_reference() {
        let config = BertConfig {
            kind: Kind::Mpnet,
            vocabulary: 2,
            hidden: 1,
            layers: 1,
            heads: 1,
            intermediate: 1,
            positions: 514,
            token_types: 0,
            epsilon: 0.0,
            pad: 1,
            distances: 32,
        };
        // MPNetEncoder.relative_position_bucket of transformers 5.23, of −n and n.
        for (n, before, ahead) in [
            (0, 0, 0),
            (1, 1, 17),
            (7, 7, 23),
            (8, 8, 24),
            (11, 8, 24),
            (12, 9, 25),
            (16, 10, 26),
            (32, 12, 28),
            (63, 13, 29),
            (64, 14, 30),
            (128, 15, 31),
            (500, 15, 31),
        ] {
            assert_eq!((config.distance(-n), config.distance(n)), (before, ahead), "{n}");
        }
        assert_eq!(config.tokens(), 512);
        assert!(config.places(&[0, 9, 1, 9, 2]).eq([2, 3, 1, 4, 5]));
    }
}
