//! Text to token ids: a wrapper around the tokenizers crate that never pads, always truncates, and
//! turns every failure into an error.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::{Encoding, Tokenizer, TruncationParams};

use super::files::TOKENIZER;
use crate::error::{Error, Result};

/// Bytes of a text that are tokenized at first when only its beginning counts.
const HEAD_BYTES: usize = 8 << 10;

/// A model's tokenizer, cutting at the model's limit.
pub(crate) struct TextTokenizer {
    /// Truncates to `max_tokens`.
    cutting: Tokenizer,
    /// Does not truncate.
    whole: Tokenizer,
    max_tokens: usize,
    special_tokens: usize,
    vocabulary: usize,
    pad: u32,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`. Ids must lie below `vocabulary`; `pad` stands for a text without any token.
    pub(crate) fn from_bytes(bytes: &[u8], max_tokens: usize, vocabulary: usize, pad: u32) -> Result<Self> {
        let mut whole = guarded(|| Tokenizer::from_bytes(bytes))?;
        whole.with_padding(None);
        guarded(|| whole.with_truncation(None).map(|_| ()))?;
        let special_tokens = guarded(|| whole.encode("", true))?.len();
        // Checked here because the crate subtracts one from the other.
        if special_tokens >= max_tokens {
            let what = format!("{special_tokens} special tokens leave no room in {max_tokens}");
            return Err(Error::corrupt(TOKENIZER, 0, what));
        }
        let mut cutting = whole.clone();
        let truncation = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
        guarded(|| cutting.with_truncation(Some(truncation)).map(|_| ()))?;
        Ok(Self { cutting, whole, max_tokens, special_tokens, vocabulary, pad })
    }

    /// Tokens of a text that are read, special ones left out.
    pub(crate) fn content_tokens(&self) -> usize {
        self.max_tokens - self.special_tokens
    }

    /// Token ids of a text, special ones included, cut at the model's limit; at least one.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let head = self.head(text)?;
        self.checked(&guarded(|| self.cutting.encode_fast(head, true))?)
    }

    /// The same for each of many texts, on all cores.
    pub(crate) fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let heads: Result<Vec<&str>> = texts.iter().map(|text| self.head(text)).collect();
        let encodings = guarded(|| self.cutting.encode_batch_fast(heads?, true))?;
        encodings.into_iter().map(|encoding| self.checked(&encoding)).collect()
    }

    /// Tokens of a text in all, special ones left out.
    pub(crate) fn count(&self, text: &str) -> Result<usize> {
        Ok(guarded(|| self.whole.encode_fast(text, false))?.len())
    }

    /// Tokens of a prompt and of what stands before it, but not of what stands behind.
    pub(crate) fn count_leading(&self, prompt: &str) -> Result<usize> {
        let all = guarded(|| self.whole.encode_fast(prompt, true))?;
        let behind = all.get_special_tokens_mask().iter().rev().take_while(|&&special| special == 1).count();
        Ok(all.len() - behind.min(1))
    }

    /// Byte ranges of all tokens of each text, special ones left out, in order.
    pub(crate) fn offsets(&self, texts: &[&str]) -> Result<Vec<Vec<Range<usize>>>> {
        let encodings = guarded(|| self.whole.encode_batch(texts.to_vec(), false))?;
        let ranges = |encoding: Encoding| encoding.get_offsets().iter().map(|&(a, b)| a..b).collect();
        Ok(encodings.into_iter().map(ranges).collect())
    }

    /// The beginning of a text that holds at least as many tokens as are read: a megabyte need not be
    /// tokenized for its first page. Cuts at white space, where tokens end.
    fn head<'a>(&self, text: &'a str) -> Result<&'a str> {
        let mut bytes = HEAD_BYTES.max(16 * self.max_tokens);
        while bytes < text.len() {
            let Some(end) = text[..text.floor_char_boundary(bytes)].rfind(char::is_whitespace) else {
                bytes *= 2;
                continue;
            };
            let head = &text[..end];
            if self.count(head)? >= self.content_tokens() {
                return Ok(head);
            }
            bytes *= 2;
        }
        Ok(text)
    }

    fn checked(&self, encoding: &Encoding) -> Result<Vec<u32>> {
        let ids = encoding.get_ids();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            let what = format!("it gives the token {id}, but the model knows {}", self.vocabulary);
            return Err(Error::corrupt(TOKENIZER, 0, what));
        }
        Ok(if ids.is_empty() { vec![self.pad] } else { ids.to_vec() })
    }
}

/// Runs `work`, turning its failure into [`Error::Corrupt`].
///
/// The tokenizers crate indexes by ids and offsets that stand in the file, so that a hostile file can
/// make it panic, when it is read as well as when it is used. Nothing here is left half changed: the
/// tokenizer is either dropped with the error or only read.
fn guarded<T>(work: impl FnOnce() -> std::result::Result<T, tokenizers::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::corrupt(TOKENIZER, 0, error.to_string())),
        Err(_) => Err(Error::corrupt(TOKENIZER, 0, "the tokenizer broke off on it")),
    }
}
