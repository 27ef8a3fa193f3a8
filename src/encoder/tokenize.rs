//! Text to token ids: a wrapper around the tokenizers crate that never pads, always truncates, and
//! turns every failure into an error.

use std::ops::Range;

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{Encoding, Tokenizer, TruncationParams};

use super::admission::check_tokenizer;
use super::config::parse;
use crate::error::{Error, Result};
use crate::panics::caught;

/// Bytes of a text that are tokenized at first when only its beginning counts.
const HEAD_BYTES: usize = 8 << 10;

/// The same for models that read very long texts.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// Bytes without white space from which on a text may be cut anywhere.
const WORD_BYTES: usize = 64 << 10;

/// Bytes without white space behind which nothing is looked at: a tokenizer takes a hundred times its input in memory, and
/// makes one unknown token of a word that is far too long.
const WORD_BYTES_MAX: usize = 256 << 10;

/// Tokens before such a cut that it may change.
const WORD_TOKENS: usize = 64;

/// What a model wants of its tokenizer.
pub(crate) struct TokenizerOptions {
    /// Tokens of a text that are read, special ones included.
    pub(crate) max_tokens: usize,
    /// All ids lie below.
    pub(crate) vocabulary: usize,
    /// Stands for a text without any token; without it such a text has none.
    pub(crate) pad: Option<u32>,
    /// Whether special tokens are added.
    pub(crate) special: bool,
    /// Whether tokens that the tokenizer does not know are left out.
    pub(crate) drops_unknown: bool,
    /// The token that stands behind each text, if the tokenizer's file need not say so.
    pub(crate) end: Option<String>,
}

/// A model's tokenizer, cutting at the model's limit.
pub(crate) struct TextTokenizer {
    /// Where it was read.
    file: String,
    /// Truncates to `max_tokens`.
    cutting: Tokenizer,
    /// Does not truncate.
    whole: Tokenizer,
    options: TokenizerOptions,
    special_tokens: usize,
    /// What is left out.
    dropped: Option<u32>,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, which lies at `file` of the model.
    pub(crate) fn from_bytes(file: &str, bytes: &[u8], options: TokenizerOptions) -> Result<Self> {
        check_tokenizer(file, bytes)?;
        let mut whole = guarded(file, || Tokenizer::from_bytes(bytes))?;
        whole.with_padding(None);
        guarded(file, || whole.with_truncation(None).map(|_| ()))?;
        if let Some(end) = &options.end {
            add_end(file, &mut whole, end)?;
        }
        let special_tokens = match options.special {
            true => guarded(file, || whole.encode("", true))?.len(),
            false => 0,
        };
        // Checked here because the crate subtracts one from the other.
        if special_tokens >= options.max_tokens {
            let what = format!("{special_tokens} special tokens leave no room in {}", options.max_tokens);
            return Err(Error::corrupt(file, 0, what));
        }
        let mut cutting = whole.clone();
        let truncation = TruncationParams { max_length: options.max_tokens, ..TruncationParams::default() };
        guarded(file, || cutting.with_truncation(Some(truncation)).map(|_| ()))?;
        let dropped = if options.drops_unknown { unknown(file, bytes, &whole)? } else { None };
        Ok(Self { file: file.to_owned(), cutting, whole, options, special_tokens, dropped })
    }

    /// Tokens of a text that are read, special ones left out.
    pub(crate) fn content_tokens(&self) -> usize {
        self.options.max_tokens - self.special_tokens
    }

    /// Token ids of a text, special ones included, cut at the model's limit; at least one if
    /// the model has one that stands for none.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let head = self.head(text)?;
        self.checked(&guarded(&self.file, || self.cutting.encode_fast(head, self.options.special))?)
    }

    /// The same for each of many texts, on all cores.
    pub(crate) fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let heads: Result<Vec<&str>> = texts.iter().map(|text| self.head(text)).collect();
        let encodings = guarded(&self.file, || self.cutting.encode_batch_fast(heads?, self.options.special))?;
        encodings.into_iter().map(|encoding| self.checked(&encoding)).collect()
    }

    /// Tokens of a text in all, special ones left out.
    pub(crate) fn count(&self, text: &str) -> Result<usize> {
        Ok(guarded(&self.file, || self.whole.encode_fast(text, false))?.len())
    }

    /// Tokens of a prompt and of what stands before it, but not of what stands behind.
    pub(crate) fn count_leading(&self, prompt: &str) -> Result<usize> {
        let all = guarded(&self.file, || self.whole.encode_fast(prompt, self.options.special))?;
        let behind = all.get_special_tokens_mask().iter().rev().take_while(|&&special| special == 1).count();
        Ok(all.len() - behind.min(1))
    }

    /// Byte ranges of all tokens of each text, special ones left out, in order.
    pub(crate) fn offsets(&self, texts: &[&str]) -> Result<Vec<Vec<Range<usize>>>> {
        let encodings = guarded(&self.file, || self.whole.encode_batch(texts.to_vec(), false))?;
        let ranges = |encoding: Encoding| encoding.get_offsets().iter().map(|&(a, b)| a..b).collect();
        Ok(encodings.into_iter().map(ranges).collect())
    }

    /// The beginning of a text that holds at least as many tokens as are read: a megabyte need not be
    /// tokenized for its first page. Cuts at white space, where tokens end.
    fn head<'a>(&self, text: &'a str) -> Result<&'a str> {
        let mut bytes = HEAD_BYTES.max(16 * self.options.max_tokens).min(HEAD_BYTES_MAX);
        while bytes < text.len() {
            let all = &text[..text.floor_char_boundary(bytes)];
            let end = all.rfind(char::is_whitespace).unwrap_or(0);
            if self.count(&all[..end])? >= self.content_tokens() {
                return Ok(&all[..end]);
            }
            // A word this long is cut, and well behind what is read of it, if the tokenizer makes anything of it.
            let word = all.len() - end;
            if word >= WORD_BYTES_MAX
                || word >= WORD_BYTES && self.count(all)? >= self.content_tokens() + WORD_TOKENS
            {
                return Ok(all);
            }
            bytes *= 2;
        }
        Ok(text)
    }

    fn checked(&self, encoding: &Encoding) -> Result<Vec<u32>> {
        let ids = encoding.get_ids();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.options.vocabulary) {
            let what = format!("it gives the token {id}, but the model knows {}", self.options.vocabulary);
            return Err(Error::corrupt(&self.file, 0, what));
        }
        let mut ids = ids.to_vec();
        if let Some(dropped) = self.dropped {
            ids.retain(|&id| id != dropped);
        }
        if ids.is_empty() {
            ids.extend(self.options.pad);
        }
        Ok(ids)
    }
}

/// Puts a token behind each text, unless it stands there already.
fn add_end(file: &str, tokenizer: &mut Tokenizer, end: &str) -> Result<()> {
    let unknown =
        || Error::corrupt(file, 0, format!("it does not know the token {end:?}, with which texts shall end"));
    let id = tokenizer.token_to_id(end).ok_or_else(unknown)?;
    let around = guarded(file, || tokenizer.encode("", true))?;
    if around.get_ids().last() == Some(&id) {
        return Ok(());
    }
    let mut parts: Vec<String> = around.get_tokens().to_vec();
    let mut special: Vec<(String, u32)> =
        parts.iter().cloned().zip(around.get_ids().iter().copied()).collect();
    parts.extend(["$A".to_owned(), end.to_owned()]);
    special.push((end.to_owned(), id));
    let processor = TemplateProcessing::builder()
        .try_single(parts)
        .map_err(|error| error.to_string())
        .and_then(|builder| builder.special_tokens(special).build().map_err(|error| error.to_string()))
        .map_err(|what| Error::corrupt(file, 0, what))?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}

/// A tokenizer that cuts at so many tokens by itself, and the id of its token for what is not known.
pub(crate) fn cutting(file: &str, bytes: &[u8], tokens: usize) -> Result<(Vec<u8>, Option<u32>)> {
    let mut settings: serde_json::Map<String, serde_json::Value> = parse(file, bytes)?;
    let unknown = unknown(file, bytes, &guarded(file, || Tokenizer::from_bytes(bytes))?)?;
    let truncation = serde_json::json!({
        "direction": "Right", "max_length": tokens, "strategy": "LongestFirst", "stride": 0,
    });
    settings.insert("truncation".into(), truncation);
    Ok((serde_json::Value::Object(settings).to_string().into_bytes(), unknown))
}

/// The id of the token for what is not known, if there is one.
fn unknown(file: &str, bytes: &[u8], tokenizer: &Tokenizer) -> Result<Option<u32>> {
    #[derive(serde::Deserialize)]
    struct Raw {
        model: RawModel,
    }
    #[derive(serde::Deserialize)]
    struct RawModel {
        unk_token: Option<String>,
        unk_id: Option<u32>,
    }
    let raw: Raw = parse(file, bytes)?;
    Ok(raw.model.unk_id.or_else(|| tokenizer.token_to_id(&raw.model.unk_token?)))
}

/// Runs `work`, turning its failure into [`Error::Corrupt`].
///
/// The tokenizers crate indexes by ids and offsets that stand in the file, so that a hostile file can
/// make it panic, when it is read as well as when it is used. Nothing here is left half changed: the
/// tokenizer is either dropped with the error or only read.
pub(super) fn guarded<T>(
    file: &str,
    work: impl FnOnce() -> std::result::Result<T, tokenizers::Error>,
) -> Result<T> {
    match caught(work) {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(Error::corrupt(file, 0, error.to_string())),
        None => Err(Error::corrupt(file, 0, "the tokenizer broke off on it")),
    }
}
