//! What a model folder says about its model: the chain of modules that turns texts into vectors
//! (sentence-transformers' `modules.json`), with the shape of each.
//!
//! Every size is checked here, before anything is allocated for it.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::family::{Family, FixedConfig, model_type};
use super::files::{MODULES, ModelFiles, SENTENCE_CONFIG, TOKENIZER, TOKENIZER_CONFIG, is_safe_path};
use crate::error::{Error, Result};
use crate::options::limits;

const MODULES_MAX: usize = 16;

/// How token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The first token's state.
    Cls,
    /// Mean over the text's tokens.
    Mean,
    /// Largest value of each dimension over the text's tokens.
    Max,
    /// The last token's state, which in a decoder has seen all others.
    Last,
}

/// What a dense module applies to its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Tanh,
}

/// A linear layer after pooling.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DenseConfig {
    /// Its folder.
    pub(crate) path: String,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) bias: bool,
    pub(crate) activation: Activation,
}

/// Everything the folder says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelConfig {
    pub(crate) family: Family,
    pub(crate) pooling: Pooling,
    /// Whether the tokens of a prompt are pooled too.
    pub(crate) include_prompt: bool,
    pub(crate) dense: Vec<DenseConfig>,
    pub(crate) normalize: bool,
    /// Tokens of a text that are read, the special ones included.
    pub(crate) max_tokens: usize,
}

impl ModelConfig {
    /// Reads and checks the configuration of a model.
    pub(crate) fn read(files: &ModelFiles) -> Result<Self> {
        let chain = Chain::read(files)?;
        let max_tokens = match &chain.family {
            Family::Fixed(fixed) => fixed.tokens,
            family => max_tokens(files, family.positions())?,
        };
        Ok(Self {
            family: chain.family,
            pooling: chain.pooling,
            include_prompt: chain.include_prompt,
            dense: chain.dense,
            normalize: chain.normalize,
            max_tokens,
        })
    }

    /// Path of the tokenizer.
    pub(crate) fn tokenizer_file(&self) -> String {
        match &self.family {
            Family::Fixed(fixed) => fixed.tokenizer_file(),
            _ => TOKENIZER.to_owned(),
        }
    }

    /// Dimensions of the vectors.
    pub(crate) fn dim(&self) -> usize {
        self.dense.last().map_or(self.family.hidden(), |dense| dense.outputs)
    }
}

#[derive(Deserialize)]
struct RawModule {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct RawPooling {
    pooling_mode: Option<Modes>,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: Option<bool>,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
    include_prompt: Option<bool>,
}

/// Newer files name the mode, or several; older ones have a switch for each.
#[derive(Deserialize)]
#[serde(untagged)]
enum Modes {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct RawDense {
    in_features: usize,
    out_features: usize,
    #[serde(default = "default_bias")]
    bias: bool,
    activation_function: Option<String>,
    #[serde(default)]
    use_residual: bool,
    module_input_name: Option<String>,
    module_output_name: Option<String>,
}

fn default_bias() -> bool {
    true
}

/// The modules of a model.
struct Chain {
    family: Family,
    pooling: Pooling,
    include_prompt: bool,
    dense: Vec<DenseConfig>,
    normalize: bool,
}

impl Chain {
    fn new(family: Family) -> Self {
        // A static model says itself whether it normalises.
        let normalize = matches!(&family, Family::Fixed(fixed) if fixed.normalize);
        Self { family, pooling: Pooling::Mean, include_prompt: true, dense: Vec::new(), normalize }
    }

    fn read(files: &ModelFiles) -> Result<Self> {
        let Some(bytes) = files.get(MODULES) else {
            if model_type(files)?.as_deref() == Some("model2vec") {
                return Ok(Self::new(Family::Fixed(FixedConfig::read(files, "")?)));
            }
            // A bare transformer: sentence-transformers pools it by the mean and does not normalise.
            return Ok(Self::new(Family::read_transformer(files)?));
        };
        let modules: Vec<RawModule> = parse(MODULES, bytes)?;
        if modules.len() > MODULES_MAX {
            return Err(Error::corrupt(MODULES, 0, format!("more than {MODULES_MAX} modules")));
        }
        let leaves = |m: &&RawModule| {
            let path = m.path.trim_end_matches('/');
            !matches!(path, "" | ".") && !is_safe_path(path)
        };
        if let Some(module) = modules.iter().find(leaves) {
            let what = format!("the path {:.80?} leaves the model's folder", module.path);
            return Err(Error::corrupt(MODULES, 0, what));
        }
        let mut kinds = modules.iter().map(|m| (m.kind.rsplit('.').next().unwrap_or(""), m.path.as_str()));
        let mut chain = match kinds.next() {
            Some(("StaticEmbedding", path)) => Self::new(Family::Fixed(FixedConfig::read(files, path)?)),
            Some(("Transformer", "")) => {
                let mut chain = Self::new(Family::read_transformer(files)?);
                let Some(("Pooling", path)) = kinds.next() else {
                    return Err(Error::input("the model's second module must be a Pooling"));
                };
                (chain.pooling, chain.include_prompt) = pooling(files, path)?;
                chain
            }
            _ => {
                let what = "the model's first module must be a Transformer in the folder itself, or a StaticEmbedding";
                return Err(Error::input(what));
            }
        };
        let mut normalized = false;
        for (kind, path) in kinds {
            match kind {
                _ if normalized => {
                    return Err(Error::input(
                        "the model has a module after Normalize; that is not supported",
                    ));
                }
                "Dense" => {
                    let inputs = chain.dense.last().map_or(chain.family.hidden(), |dense| dense.outputs);
                    chain.dense.push(dense(files, path, inputs)?);
                }
                "Normalize" => (chain.normalize, normalized) = (true, true),
                // No effect outside training.
                "Dropout" => {}
                other => {
                    return Err(Error::input(format!("the model's module {other} is not supported")));
                }
            }
        }
        Ok(chain)
    }
}

fn pooling(files: &ModelFiles, path: &str) -> Result<(Pooling, bool)> {
    let file = format!("{path}/config.json");
    // Without it nothing would tell, and vectors pooled in another way than in training find little.
    let raw: RawPooling = parse(&file, files.required(&file)?)?;
    let mut modes: Vec<String> = [
        (raw.pooling_mode_cls_token, "cls"),
        (raw.pooling_mode_mean_tokens == Some(true), "mean"),
        (raw.pooling_mode_max_tokens, "max"),
        (raw.pooling_mode_mean_sqrt_len_tokens, "mean_sqrt_len_tokens"),
        (raw.pooling_mode_weightedmean_tokens, "weightedmean"),
        (raw.pooling_mode_lasttoken, "lasttoken"),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .map(|(_, name)| name.to_string())
    .collect();
    match raw.pooling_mode {
        Some(Modes::One(name)) => modes.push(name),
        Some(Modes::Several(names)) => modes.extend(names),
        None => {}
    }
    let pooling = match modes.join(" and ").as_str() {
        "mean" => Pooling::Mean,
        // What sentence-transformers takes where no mode is named.
        "" if raw.pooling_mode_mean_tokens.is_none() => Pooling::Mean,
        "cls" => Pooling::Cls,
        "max" => Pooling::Max,
        "lasttoken" => Pooling::Last,
        other => {
            return Err(Error::input(format!(
                "the model pools by {}; supported are cls, mean, max and lasttoken, one of them",
                if other.is_empty() { "nothing" } else { other }
            )));
        }
    };
    Ok((pooling, raw.include_prompt.unwrap_or(true)))
}

fn dense(files: &ModelFiles, path: &str, inputs: usize) -> Result<DenseConfig> {
    let file = format!("{path}/config.json");
    let raw: RawDense = parse(&file, files.required(&file)?)?;
    if raw.in_features != inputs || raw.out_features == 0 || raw.out_features > limits::DIM {
        let what = format!(
            "it maps {} values to {}; it gets {inputs}, and may give 1 to {}",
            raw.in_features,
            raw.out_features,
            limits::DIM
        );
        return Err(Error::corrupt(file, 0, what));
    }
    let names = [&raw.module_input_name, &raw.module_output_name];
    if raw.use_residual || names.iter().any(|n| n.as_ref().is_some_and(|n| n != "sentence_embedding")) {
        let what = format!("{file} describes a dense module on something else than the text's vector");
        return Err(Error::input(format!("{what}; that is not supported")));
    }
    let name = raw.activation_function.as_deref().unwrap_or("torch.nn.modules.activation.Tanh");
    let activation = match name.rsplit('.').next().unwrap_or(name) {
        "Identity" => Activation::Identity,
        "Tanh" => Activation::Tanh,
        _ => {
            return Err(Error::input(format!(
                "the activation {name} in {file} is not supported; Identity and Tanh are"
            )));
        }
    };
    Ok(DenseConfig { path: path.to_string(), inputs, outputs: raw.out_features, bias: raw.bias, activation })
}

/// Tokens of a text that are read: what the sentence-transformers configuration says, else the
/// tokenizer's, at most the positions the transformer has, and [`limits::TOKENS`].
fn max_tokens(files: &ModelFiles, positions: usize) -> Result<usize> {
    #[derive(Deserialize, Default)]
    struct Limits {
        max_seq_length: Option<f64>,
        model_max_length: Option<f64>,
    }
    let read = |file: &str| match files.get(file) {
        Some(bytes) => parse::<Limits>(file, bytes),
        None => Ok(Limits::default()),
    };
    let sentence = read(SENTENCE_CONFIG)?.max_seq_length.map(|n| (n, SENTENCE_CONFIG));
    let tokenizer = read(TOKENIZER_CONFIG)?.model_max_length.map(|n| (n, TOKENIZER_CONFIG));
    let Some((tokens, file)) = sentence.or(tokenizer) else {
        return Ok(positions.min(limits::TOKENS));
    };
    // "No limit" is written as a number near 1e30, which the conversion turns into the largest integer.
    if tokens >= 1.0 {
        return Ok((tokens as usize).min(positions).min(limits::TOKENS));
    }
    Err(Error::corrupt(file, 0, format!("the limit on tokens is {tokens}")))
}

/// The token that stands behind each text where the settings of the tokenizer ask for one: Python's libraries put it
/// there whatever `tokenizer.json` says.
pub(crate) fn end_token(files: &ModelFiles) -> Result<Option<String>> {
    #[derive(Deserialize, Default)]
    struct Settings {
        add_eos_token: Option<bool>,
        eos_token: Option<Token>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Described { content: String },
    }
    let settings = match files.get(TOKENIZER_CONFIG) {
        Some(bytes) => parse(TOKENIZER_CONFIG, bytes)?,
        None => Settings::default(),
    };
    let asked = settings.add_eos_token == Some(true);
    Ok(settings.eos_token.filter(|_| asked).map(|token| match token {
        Token::Text(text) | Token::Described { content: text } => text,
    }))
}

/// Reads JSON.
pub(crate) fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::corrupt(file, 0, error.to_string()))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
