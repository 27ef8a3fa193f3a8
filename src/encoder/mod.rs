//! The text encoder: a sentence-transformers model, run in this process.
//!
//! | file | what it holds |
//! |---|---|
//! | `files` | the model's files, and its id |
//! | `admission` | what is checked before other crates read the files |
//! | `config`, `family` | what they say about modules, and the shapes of each family |
//! | `weights` | safetensors in and out |
//! | `prompts` | what is read before queries and documents |
//! | `tokenize`, `chunks` | text to ids, long texts to chunks |
//! | `fast` | ids to vectors |
//! | `adapter` | linear maps to follow the model |
//! | `precision` | whether a model bears int8 |
//! | `run` | many texts on several threads |
//! | `packed` | texts to vectors and back, for training |
//! | `batch`, `ops`, `bert`, `pooling`, `reference` | the same on tensors, on padded batches: the reference |
//! | `device` | that for training on other devices |
//! | `parameters` | what is learnt, with gradients |
//! | `trainable`, `prepared` | an encoder that learns; texts made ready for many passes |
//! | `export` | the model as sentence-transformers reads it |
//! | `builtin` | the encoder in the program itself |
//! | `shrink` | a smaller model out of its parts |
//! | `generator` | a language model that writes queries |
//!
//! Invariants: a text's vector does not depend on the texts encoded with it, to the bit.
//! Files are checked before anything in them is used.

mod adapter;
mod admission;
mod batch;
mod bert;
#[cfg(feature = "builtin")]
mod builtin;
mod chunks;
mod config;
mod device;
mod export;
mod family;
mod fast;
mod files;
#[cfg(feature = "generator")]
pub mod generator;
mod ops;
mod packed;
mod parameters;
mod pooling;
mod precision;
mod prepared;
mod prompts;
mod reference;
mod run;
mod shrink;
mod tokenize;
mod trainable;
mod weights;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use self::batch::TokenBatch;
#[cfg(feature = "builtin")]
pub use self::builtin::BUILTIN;
pub use self::device::TrainDevice;
pub use self::files::ModelFiles;
pub use self::parameters::{Gradient, Parameter, Parameters, RowGradient};
pub use self::precision::INT8_COSINE_MIN;
pub use self::prepared::{PrepareLimits, PreparedTexts};
pub use self::prompts::Role;
pub use self::shrink::Kept;
pub use self::trainable::{EncoderTape, LowRank, Target, TrainOptions, TrainableEncoder};

use self::adapter::Adapters;
use self::config::ModelConfig;
use self::family::Family;
use self::family::fixed::TOKENS;
use self::fast::{FastHead, Model};
use self::files::{ADAPTER, PROMPTS};
use self::prompts::Prompts;
use self::tokenize::{TextTokenizer, TokenizerOptions};
use self::weights::Weights;
use crate::error::{Error, Result};
use crate::options::Task;
use crate::types::Precision;

/// An encoder: text in, vectors out. Clones share everything.
#[derive(Clone)]
pub struct Encoder {
    inner: Arc<Inner>,
    /// Threads to encode with; 0: one a core.
    threads: usize,
}

struct Inner {
    files: ModelFiles,
    model_id: String,
    precision: Precision,
    config: Arc<ModelConfig>,
    prompts: Arc<Prompts>,
    tokenizer: Arc<TextTokenizer>,
    model: Arc<Model>,
    head: Arc<FastHead>,
    adapters: Adapters,
}

/// Encoders in use, by id, which tells their content.
static LOADED: Mutex<BTreeMap<String, Weak<Inner>>> = Mutex::new(BTreeMap::new());

impl Encoder {
    /// Loads a model.
    ///
    /// `files` may hold `adapter.safetensors`: a tensor `adapter`, dim × dim (outputs × inputs), applied
    /// after pooling and dense layers, before the last normalisation; for queries `query_adapter` in its place, if it is there.
    ///
    /// In int8 it may turn the vectors more than [`INT8_COSINE_MIN`] allows; [`with_precision`](Self::with_precision) checks.
    ///
    /// Fails with [`Error::Input`] if the model is of a kind that is not supported, and with
    /// [`Error::Corrupt`] if a file is missing or contradicts itself or the others.
    pub fn from_files(files: ModelFiles, precision: Precision) -> Result<Self> {
        let config = Arc::new(ModelConfig::read(&files)?);
        let file = config.tokenizer_file();
        let options = TokenizerOptions {
            max_tokens: config.max_tokens,
            vocabulary: config.family.vocabulary(),
            pad: config.family.pad(),
            special: !matches!(config.family, Family::Fixed(_)),
            drops_unknown: matches!(&config.family, Family::Fixed(fixed) if fixed.drops_unknown),
            end: match config.family {
                Family::Decoder(_) => config::end_token(&files)?,
                _ => None,
            },
        };
        let tokenizer = files.required(&file)?;
        // Each takes a third of the time.
        let (tokenizer, model, model_id) = side_by_side(
            || TextTokenizer::from_bytes(&file, tokenizer, options),
            || Model::read(&files, &config, precision),
            || files.model_id(precision),
        );
        let tokenizer = tokenizer?;
        let prompts = Prompts::read(&files)?;
        for role in [Role::Query, Role::Document] {
            let tokens = tokenizer.count(prompts.of(role))?;
            if tokens >= tokenizer.content_tokens() {
                let what = format!("a prompt of {tokens} tokens leaves no room in {}", config.max_tokens);
                return Err(Error::corrupt(PROMPTS, 0, what));
            }
        }
        let dense = pooling::read_dense(&files, &config)?;
        let adapters = Adapters::read(&files, config.dim())?;
        Ok(Self::shared(Inner {
            model_id,
            precision,
            prompts: Arc::new(prompts),
            tokenizer: Arc::new(tokenizer),
            model: Arc::new(model?),
            head: Arc::new(FastHead::new(&config, &dense)?),
            adapters,
            config,
            files,
        }))
    }

    /// Makes an encoder known to [`loaded`](Self::loaded).
    fn shared(inner: Inner) -> Self {
        let inner = Arc::new(inner);
        let mut loaded = LOADED.lock();
        loaded.retain(|_, encoder| encoder.strong_count() > 0);
        loaded.insert(inner.model_id.clone(), Arc::downgrade(&inner));
        Self { inner, threads: 0 }
    }

    /// The encoder with this id, if one is in use in this process: databases share it.
    pub(crate) fn loaded(model_id: &str) -> Option<Self> {
        let inner = LOADED.lock().get(model_id)?.upgrade()?;
        Some(Self { inner, threads: 0 })
    }

    /// The same encoder on at most so many threads; 0, as it is loaded: one for each core. The vectors are the same.
    pub fn with_threads(&self, threads: usize) -> Self {
        Self { inner: Arc::clone(&self.inner), threads }
    }

    /// Identity of the model; see [`ModelFiles::model_id`].
    pub fn model_id(&self) -> &str {
        &self.inner.model_id
    }

    /// Dimensions of the vectors.
    pub fn dim(&self) -> usize {
        self.inner.config.dim()
    }

    /// Transformer layers.
    pub fn layers(&self) -> usize {
        self.inner.config.family.layers()
    }

    /// Tokens of a text that are read, special ones included; the rest of it is cut off.
    pub fn max_tokens(&self) -> usize {
        self.inner.config.max_tokens
    }

    /// Whether vectors have length 1.
    pub fn normalizes(&self) -> bool {
        self.inner.config.normalize
    }

    /// Arithmetic of the encoder.
    pub fn precision(&self) -> Precision {
        self.inner.precision
    }

    /// The files the model was loaded from, an adapter included.
    pub fn files(&self) -> &ModelFiles {
        &self.inner.files
    }

    /// Vectors of `texts`, row by row (texts × dim), in the order of the texts, after the prompt that the model wants
    /// before documents, if it wants one.
    ///
    /// Reports the stage "embed" and stops with [`Error::Cancelled`] between groups of texts.
    pub fn encode(&self, texts: &[&str], task: &Task) -> Result<Vec<f32>> {
        run::encode(self, texts, Role::Document, task)
    }

    /// The same for texts that are searched for, after the prompt before queries.
    pub fn encode_queries(&self, texts: &[&str], task: &Task) -> Result<Vec<f32>> {
        run::encode(self, texts, Role::Query, task)
    }

    /// What the model reads before a text; empty if nothing.
    pub fn prompt(&self, role: Role) -> &str {
        self.inner.prompts.of(role)
    }

    /// A text as the model reads it: after its prompt.
    pub(crate) fn prompted<'a>(&self, text: &'a str, role: Role) -> std::borrow::Cow<'a, str> {
        self.inner.prompts.before(text, role)
    }

    /// Tokens of a text in all, special ones left out.
    pub fn count_tokens(&self, text: &str) -> Result<usize> {
        self.inner.tokenizer.count(text)
    }

    /// Byte ranges of the chunks in which a text is stored, each short enough to be encoded whole; at
    /// least one, also for the empty text. There is room for the prompt before documents.
    pub fn chunks(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let tokenizer = &self.inner.tokenizer;
        let prompt = tokenizer.count(self.prompt(Role::Document))?;
        let room = match self.inner.config.family {
            Family::Fixed(_) => tokenizer.content_tokens().min(TOKENS),
            _ => tokenizer.content_tokens(),
        };
        chunks::chunks(tokenizer, text, room.saturating_sub(prompt).max(1))
    }

    /// The encoder followed by a linear map, dim × dim (outputs × inputs, row by row). A map that is
    /// there already is applied first. The model id changes.
    pub fn with_adapter(&self, adapter: &[f32]) -> Result<Self> {
        self.with_adapters(self.inner.adapters.then(adapter, self.dim())?)
    }

    /// The same for queries alone: documents have the vectors that they had.
    pub fn with_query_adapter(&self, adapter: &[f32]) -> Result<Self> {
        self.with_adapters(self.inner.adapters.then_of_queries(adapter, self.dim())?)
    }

    fn with_adapters(&self, adapters: Adapters) -> Result<Self> {
        let mut files = self.inner.files.clone();
        files.insert(ADAPTER, adapters.to_file()?);
        let encoder = Self::shared(Inner {
            model_id: files.model_id(self.inner.precision),
            files,
            precision: self.inner.precision,
            config: Arc::clone(&self.inner.config),
            prompts: Arc::clone(&self.inner.prompts),
            tokenizer: Arc::clone(&self.inner.tokenizer),
            model: Arc::clone(&self.inner.model),
            head: Arc::clone(&self.inner.head),
            adapters,
        });
        Ok(encoder.with_threads(self.threads))
    }

    /// The linear map after the model for texts of a role, dim × dim, if there is one.
    pub fn adapter(&self, role: Role) -> Option<&[f32]> {
        self.inner.adapters.of(role)
    }

    /// Fails with [`Error::Input`], and says why, if the parameters of a model of this kind cannot be trained. A linear
    /// adapter can follow any model.
    pub fn check_trainable(&self) -> Result<()> {
        let unpooled = !self.inner.config.include_prompt && !self.inner.prompts.is_empty();
        match self.inner.config.family {
            _ if self.inner.adapters.sided() => Err(Error::input(
                "a model with a map of its queries alone cannot be trained itself; use the methods adapter or query-adapter, \
                 or roll back first",
            )),
            Family::Bert(_) if !unpooled => Ok(()),
            _ => Err(self.untrainable()),
        }
    }

    /// Says why.
    pub(crate) fn untrainable(&self) -> Error {
        let what = match self.inner.config.family {
            Family::Bert(_) => "a model that leaves its prompt out of pooling",
            Family::Decoder(_) => "a decoder",
            Family::Fixed(_) => "a static model",
        };
        Error::input(format!(
            "{what} cannot be trained itself; use the method adapter, which learns a map after it"
        ))
    }

    /// A copy that learns. It reads texts as they are, without prompts.
    pub fn trainable(&self, options: &TrainOptions) -> Result<TrainableEncoder> {
        TrainableEncoder::new(self, options)
    }

    /// Writes the model to a folder that sentence-transformers loads; an adapter becomes a dense
    /// module before the normalisation.
    pub fn export(&self, folder: &Path) -> Result<()> {
        export::portable(&self.inner.files, &self.inner.config, &self.inner.adapters)?.write_dir(folder)
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        &self.inner.config
    }

    pub(crate) fn tokenizer(&self) -> &TextTokenizer {
        &self.inner.tokenizer
    }

    pub(crate) fn adapters(&self) -> &Adapters {
        &self.inner.adapters
    }

    /// The parameters of transformer and dense layers, read from the files again.
    pub(crate) fn read_weights(&self) -> Result<(Weights, Weights)> {
        let Family::Bert(bert) = &self.inner.config.family else { return Err(self.untrainable()) };
        Ok((
            bert.read_weights(&self.inner.files)?,
            pooling::read_dense(&self.inner.files, &self.inner.config)?,
        ))
    }

    /// Tokens at the beginning of texts that are not pooled: those of a prompt that the model wants left out.
    pub(crate) fn skipped(&self, role: Role) -> Result<usize> {
        match self.prompt(role) {
            "" => Ok(0),
            _ if self.inner.config.include_prompt => Ok(0),
            prompt => self.inner.tokenizer.count_leading(prompt),
        }
    }

    /// Vectors of texts of a role given by their tokens, normalised if the model does so.
    /// `skipped`: tokens at the beginning that are read but not pooled.
    pub(crate) fn embed(&self, texts: &[&[u32]], role: Role, skipped: usize) -> Result<Vec<Vec<f32>>> {
        let (head, adapter) = (&self.inner.head, self.adapter(role));
        self.inner.model.vectors(texts, head, adapter, skipped)
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("model_id", &self.inner.model_id).finish_non_exhaustive()
    }
}

/// Runs three pieces of work at the same time.
fn side_by_side<A: Send, B: Send, C: Send>(
    a: impl FnOnce() -> A + Send,
    b: impl FnOnce() -> B + Send,
    c: impl FnOnce() -> C,
) -> (A, B, C) {
    fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
    std::thread::scope(|scope| {
        let (a, b) = (scope.spawn(a), scope.spawn(b));
        let c = c();
        (joined(a), joined(b), c)
    })
}

/// An error of the tensor library: shapes are checked when a model is read, so that memory is what is
/// left to fail.
fn failed(error: candle_core::Error) -> Error {
    Error::input(format!("the encoder failed: {error}"))
}
