//! Where a transformer's parameters stand among all.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::encoder::family::BertConfig;
use crate::encoder::family::bert::DISTANCES;
use crate::encoder::parameters::Parameters;
use crate::error::{Error, Result};

/// The matrices of a layer, in the order used everywhere here.
pub(crate) const MATRICES: [&str; 6] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];

/// Ends of the names of what a matrix learns at low rank: rank × inputs, and outputs × rank.
pub(crate) const LOW: [&str; 2] = ["low_rank_a", "low_rank_b"];
/// End of the name of the factor on their product; one number that does not learn.
pub(crate) const LOW_SCALE: &str = "low_rank_scale";

/// Places of a transformer's parameters.
pub(super) struct Places {
    pub(super) words: usize,
    pub(super) positions: usize,
    pub(super) types: Option<usize>,
    /// Weight and bias.
    pub(super) norm: [usize; 2],
    pub(super) distances: Option<usize>,
    pub(super) layers: Vec<LayerPlaces>,
}

/// Those of a layer.
pub(super) struct LayerPlaces {
    /// In the order of [`MATRICES`].
    pub(super) weights: [usize; 6],
    pub(super) biases: [usize; 6],
    pub(super) low: [Option<LowRankPlaces>; 6],
    /// Weight and bias of the normalisation behind attention, then of the last one.
    pub(super) norms: [usize; 4],
}

/// Those of a matrix that learns at low rank.
#[derive(Debug, Clone, Copy)]
pub(super) struct LowRankPlaces {
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) rank: usize,
    pub(super) scale: f32,
}

/// A layer's matrices, each outputs × inputs with its bias.
pub(super) struct Matrices<'a> {
    /// Queries, keys and values: weights and biases.
    pub(super) joined: [Vec<f32>; 2],
    pub(super) others: [(Cow<'a, [f32]>, &'a [f32]); 3],
}

impl Places {
    /// Finds all; their shapes must be those of [`BertConfig::shapes`].
    pub(super) fn find(config: &BertConfig, parameters: &Parameters) -> Result<Self> {
        let names: HashMap<&str, usize> = parameters
            .iter()
            .enumerate()
            .map(|(place, parameter)| (parameter.name.as_str(), place))
            .collect();
        let find = |name: &str| {
            let place = names.get(name).copied();
            place.ok_or_else(|| Error::input(format!("the parameter {name} is missing")))
        };
        for (name, shape) in config.shapes() {
            let count = parameters.iter().nth(find(&name)?).map(|parameter| parameter.values.len());
            if count != Some(shape.iter().product()) {
                return Err(Error::input(format!("the parameter {name} is not of the shape {shape:?}")));
            }
        }
        let layer = |number: usize| {
            let prefix = format!("encoder.layer.{number}");
            let mut places = LayerPlaces { weights: [0; 6], biases: [0; 6], low: [None; 6], norms: [0; 4] };
            for (at, matrix) in MATRICES.into_iter().enumerate() {
                places.weights[at] = find(&format!("{prefix}.{matrix}.weight"))?;
                places.biases[at] = find(&format!("{prefix}.{matrix}.bias"))?;
                let low = |end: &str| names.get(format!("{prefix}.{matrix}.{end}").as_str()).copied();
                if let (Some(a), Some(b), Some(scale)) = (low(LOW[0]), low(LOW[1]), low(LOW_SCALE)) {
                    let rank = parameters.iter().nth(a).and_then(|a| a.shape.first().copied()).unwrap_or(0);
                    let scale = parameters.iter().nth(scale).and_then(|s| s.values.first().copied());
                    places.low[at] =
                        Some(LowRankPlaces { a, b, rank: rank.max(1), scale: scale.unwrap_or(0.0) });
                }
            }
            let norms = ["attention.output.LayerNorm", "output.LayerNorm"];
            for (at, norm) in norms.into_iter().enumerate() {
                places.norms[2 * at] = find(&format!("{prefix}.{norm}.weight"))?;
                places.norms[2 * at + 1] = find(&format!("{prefix}.{norm}.bias"))?;
            }
            Ok(places)
        };
        Ok(Self {
            words: find("embeddings.word_embeddings.weight")?,
            positions: find("embeddings.position_embeddings.weight")?,
            types: (config.token_types > 0)
                .then(|| find("embeddings.token_type_embeddings.weight"))
                .transpose()?,
            norm: [find("embeddings.LayerNorm.weight")?, find("embeddings.LayerNorm.bias")?],
            distances: (config.distances > 0).then(|| find(DISTANCES)).transpose()?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
        })
    }

    /// Those below the layers; what all layers share among them.
    pub(super) fn embeddings(&self) -> Vec<usize> {
        let always = [self.words, self.positions, self.norm[0], self.norm[1]];
        always.into_iter().chain(self.types).chain(self.distances).collect()
    }
}

impl LayerPlaces {
    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        let low = self.low.into_iter().flatten().flat_map(|low| [low.a, low.b]);
        self.weights.into_iter().chain(self.biases).chain(self.norms).chain(low)
    }
}
