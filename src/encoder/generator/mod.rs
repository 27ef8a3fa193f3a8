//! A small language model in this process: it goes on with a text, for queries that nobody has asked yet.
//!
//! Llama-type models out of a GGUF file (SmolLM2 and others that talk in ChatML), run by candle-transformers.
//!
//! | file | what it holds |
//! |---|---|
//! | `gguf` | the header of the file, checked before candle sees it |
//! | `shape` | the sizes that it states, against the tensors |
//! | `vocabulary` | its tokenizer |
//! | `sample` | the choice of the next token |
//!
//! Invariants: a file is refused or gives texts, it never ends the process; what is written depends on the file, the
//! prompt, the options and the chances that the caller draws, on nothing else.

pub mod gguf;
mod sample;
mod shape;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Content};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

use self::gguf::Header;
use self::shape::Shape;
use self::vocabulary::{TURN, TURN_END, Vocabulary};
use super::admission::check_file;
use super::files::TOKENIZER;
use crate::error::{Error, Result};
use crate::options::limits;
use crate::panics::caught;

pub use self::sample::Sampling;

/// Values in a block of candle's fastest type, of which a row must be a multiple.
const FAST_BLOCK: usize = 32;

/// A language model.
pub struct Generator {
    name: String,
    id: String,
    model: ModelWeights,
    vocabulary: Vocabulary,
    positions: usize,
}

/// A beginning that many texts share, already read.
pub struct Beginning<'a> {
    generator: &'a Generator,
    model: ModelWeights,
    tokens: usize,
}

/// What a generator wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// The text, up to the end of the line.
    pub text: String,
    /// Tokens read for it, the shared beginning left out.
    pub read: usize,
    /// Tokens written.
    pub written: usize,
}

impl Generator {
    /// Loads a GGUF file, or the one GGUF file in a folder; `tokenizer.json` beside it goes before its own tokenizer.
    ///
    /// # Errors
    /// [`Error::Input`] for a model of another kind, [`Error::Corrupt`] for a file that contradicts itself,
    /// [`Error::Limit`] above [`limits::MODEL_BYTES`].
    pub fn load(path: &Path) -> Result<Self> {
        let file = find(path)?;
        let name = file.display().to_string();
        let bytes = fs::metadata(&file).map_err(Error::io("inspect", &file))?.len();
        if bytes > limits::MODEL_BYTES {
            return Err(Error::Limit {
                what: format!("the size of {name} in bytes"),
                limit: limits::MODEL_BYTES,
                actual: bytes,
                raise: "use a smaller model".into(),
            });
        }
        let beside = file.with_file_name(TOKENIZER);
        let tokenizer = match fs::symlink_metadata(&beside) {
            Ok(found) if found.is_file() => {
                check_file(&beside, TOKENIZER, found.len())?;
                Some(fs::read(&beside).map_err(Error::io("read", &beside))?)
            }
            _ => None,
        };
        // Read, not mapped: others may change the file at any time.
        let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
        Self::from_bytes(&name, bytes, tokenizer.as_deref())
    }

    /// Loads a model from the bytes of a file. `name` is for messages.
    pub fn from_bytes(name: &str, bytes: Vec<u8>, tokenizer: Option<&[u8]>) -> Result<Self> {
        let mut hash = blake3::Hasher::new();
        hash.update(&bytes).update(tokenizer.unwrap_or_default());
        let id = hash.finalize().to_hex().chars().take(16).collect();
        let header = Header::read(name, &bytes)?;
        let shape = Shape::read(name, &header)?;
        let beside = tokenizer.map(|bytes| (TOKENIZER, bytes));
        let vocabulary = Vocabulary::read(&header, name, beside, shape.vocabulary)?;
        drop(header);
        let model = guarded(name, || {
            let bytes = with_fast_types(bytes)?;
            let mut reader = Cursor::new(bytes);
            let content = Content::read(&mut reader)?;
            ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)
        })?;
        Ok(Self { name: name.to_owned(), id, model, vocabulary, positions: shape.positions })
    }

    /// Identity: of the bytes of the file, and of the tokenizer beside it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Reads a conversation that many texts begin with: what the system says, then questions with their answers.
    pub fn begin(&self, system: &str, examples: &[(&str, &str)]) -> Result<Beginning<'_>> {
        let mut text = turn("system", system);
        for (question, answer) in examples {
            text.push_str(&turn("user", question));
            text.push_str(&turn("assistant", answer));
        }
        let ids = self.vocabulary.encode(&text)?;
        if ids.is_empty() || ids.len() >= self.positions {
            let what = format!("{}: {} tokens leave no room in {}", self.name, ids.len(), self.positions);
            return Err(Error::input(what));
        }
        let mut model = self.model.clone();
        guarded(&self.name, || model.forward(&row(&ids)?, 0).map(|_| ()))?;
        Ok(Beginning { generator: self, model, tokens: ids.len() })
    }
}

impl Beginning<'_> {
    /// The answer to `question`, one line of at most `sampling.tokens` tokens. A question that is too long loses its end.
    /// `chance` draws numbers from 0 to below 1.
    pub fn answer(
        &self,
        question: &str,
        sampling: &Sampling,
        mut chance: impl FnMut() -> f64,
    ) -> Result<Written> {
        let generator = self.generator;
        let vocabulary = &generator.vocabulary;
        let mut asked = vocabulary.encode(&format!("{TURN}user\n{}", plain(question)))?;
        let closing = vocabulary.encode(&format!("{TURN_END}\n{TURN}assistant\n"))?;
        let room = generator.positions.saturating_sub(self.tokens + closing.len() + sampling.tokens);
        if room == 0 {
            let what =
                format!("{}: no room for a question in {} tokens", generator.name, generator.positions);
            return Err(Error::input(what));
        }
        asked.truncate(room);
        asked.extend(closing);
        let mut model = self.model.clone();
        let mut written: Vec<u32> = Vec::new();
        let mut next = asked.clone();
        let mut place = self.tokens;
        while written.len() < sampling.tokens {
            let scores = guarded(&generator.name, || {
                model.forward(&row(&next)?, place)?.flatten_all()?.to_vec1::<f32>()
            })?;
            place += next.len();
            let token = sample::choose(&scores, sampling, chance());
            if token == vocabulary.end {
                break;
            }
            written.push(token);
            // A new line may be a part of a token: only the text tells.
            if !written.is_empty() && vocabulary.decode(&written)?.trim_start().contains('\n') {
                break;
            }
            next = vec![token];
        }
        let text = vocabulary.decode(&written)?;
        let text = text.trim_start().lines().next().unwrap_or_default().trim().to_owned();
        Ok(Written { text, read: asked.len(), written: written.len() })
    }
}

/// One turn of a conversation.
fn turn(who: &str, text: &str) -> String {
    format!("{TURN}{who}\n{}{TURN_END}\n", plain(text))
}

/// A text in which nothing is taken for the end of a turn.
fn plain(text: &str) -> String {
    text.replace("<|", "< |")
}

fn row(ids: &[u32]) -> candle_core::Result<Tensor> {
    Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)
}

/// The file at `path`, or the one GGUF file in the folder.
fn find(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if !path.is_dir() {
        return Err(Error::input(format!("no file or folder {}", path.display())));
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
        let file = entry.map_err(Error::io("list", path))?.path();
        let named = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        if named && fs::symlink_metadata(&file).is_ok_and(|found| found.is_file()) {
            found.push(file);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        several => {
            Err(Error::input(format!("{} holds {} GGUF files: name one", path.display(), several.len())))
        }
    }
}

/// The same model with matrices in 8 bits where candle has no fast product for their type. With Q4_1 a text takes many
/// times as long.
fn with_fast_types(bytes: Vec<u8>) -> candle_core::Result<Vec<u8>> {
    let mut reader = Cursor::new(bytes);
    let content = Content::read(&mut reader)?;
    let slow = |name: &str| {
        content.tensor_infos.get(name).is_some_and(|info| {
            use GgmlDType::{BF16, F16, F32, Q4_1, Q5_0, Q5_1};
            let dims = info.shape.dims();
            let rows =
                dims.len() == 2 && dims.last().is_some_and(|&columns| columns.is_multiple_of(FAST_BLOCK));
            rows && matches!(info.ggml_dtype, F32 | F16 | BF16 | Q4_1 | Q5_0 | Q5_1)
        })
    };
    if !content.tensor_infos.keys().any(|name| slow(name)) {
        return Ok(reader.into_inner());
    }
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort_unstable();
    let mut tensors: Vec<(&str, QTensor)> = Vec::with_capacity(names.len());
    for name in names {
        let tensor = content.tensor(&mut reader, name, &Device::Cpu)?;
        let tensor = match slow(name) {
            true => QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::Q8_0)?,
            false => tensor,
        };
        tensors.push((name, tensor));
    }
    drop(reader);
    // The tokens were read before.
    let settings: Vec<(&str, &gguf_file::Value)> = content
        .metadata
        .iter()
        .filter(|(key, _)| key.starts_with("llama.") || *key == "general.architecture")
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut out = Cursor::new(Vec::new());
    gguf_file::write(&mut out, &settings, &tensors)?;
    Ok(out.into_inner())
}

/// Runs `work`, turning its failure into an error.
///
/// Sizes were checked, so that candle has no cause to fail; it was not written for files that nobody vouches for, though,
/// and panics where it finds one. What is left half done is dropped with the error.
fn guarded<T>(name: &str, work: impl FnOnce() -> candle_core::Result<T>) -> Result<T> {
    match caught(work) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(Error::corrupt(name, 0, error.to_string())),
        None => Err(Error::corrupt(name, 0, "the computation broke off on it")),
    }
}
