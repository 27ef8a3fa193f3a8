//! The tokenizer of a GGUF file: byte-level BPE out of its settings, or `tokenizer.json` from beside it.
//!
//! The settings are written as the `tokenizer.json` that they stand for, so that one way of checking admits both.

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::gguf::{Header, Setting};
use crate::encoder::admission::check_tokenizer;
use crate::encoder::tokenize::guarded;
use crate::error::{Error, Result};

/// Begins a turn of a conversation (ChatML).
pub(super) const TURN: &str = "<|im_start|>";
/// Ends it.
pub(super) const TURN_END: &str = "<|im_end|>";

/// The tokens that are none of a text's own: `llama_token_type` 2 to 5.
const SPECIAL: std::ops::RangeInclusive<i64> = 2..=5;

/// How Llama 3 cuts a text before it looks for tokens.
const LLAMA3: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// How Qwen 2 does: the same, but for each digit by itself.
const QWEN2: &str = concat!(
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Texts to tokens and back.
pub(super) struct Vocabulary {
    file: String,
    tokenizer: Tokenizer,
    size: usize,
    /// Ends a turn.
    pub end: u32,
}

impl Vocabulary {
    /// Out of `tokenizer.json`, given with its name, or else out of the settings. `size`: tokens that the model knows.
    pub fn read(header: &Header, file: &str, beside: Option<(&str, &[u8])>, size: usize) -> Result<Self> {
        let (file, bytes) = match beside {
            Some((name, bytes)) => (name, bytes.to_vec()),
            None => (file, written(header, file)?.to_string().into_bytes()),
        };
        check_tokenizer(file, &bytes)?;
        let mut tokenizer = guarded(file, || Tokenizer::from_bytes(&bytes))?;
        tokenizer.with_padding(None);
        guarded(file, || tokenizer.with_truncation(None).map(|_| ()))?;
        let token = |text: &str| tokenizer.token_to_id(text).filter(|&id| (id as usize) < size);
        let (Some(_), Some(end)) = (token(TURN), token(TURN_END)) else {
            return Err(Error::input(format!(
                "{file} lacks the tokens {TURN} and {TURN_END}: only models that talk in ChatML can be asked (SmolLM2, \
                 Qwen and others)"
            )));
        };
        Ok(Self { file: file.to_owned(), size, end, tokenizer })
    }

    /// Tokens of a text, of which turns may be a part.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = guarded(&self.file, || self.tokenizer.encode_fast(text, false))?;
        let ids = encoding.get_ids().to_vec();
        match ids.iter().find(|&&id| id as usize >= self.size) {
            None => Ok(ids),
            Some(id) => {
                let what = format!("it gives the token {id}, but the model knows {}", self.size);
                Err(Error::corrupt(&self.file, 0, what))
            }
        }
    }

    /// The text of tokens, turns left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(&self.file, || self.tokenizer.decode(ids, true))
    }
}

/// The settings as `tokenizer.json`.
fn written(header: &Header, file: &str) -> Result<Value> {
    let missing = |what: &str| {
        Error::input(format!(
            "{file} {what}: put the model's tokenizer.json beside it, in a folder of its own"
        ))
    };
    let text = |key: &str| match header.settings.get(key) {
        Some(Setting::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let texts = |key: &str| match header.settings.get(key) {
        Some(Setting::Texts(texts)) => Some(texts),
        _ => None,
    };
    let model = text("tokenizer.ggml.model").unwrap_or("nothing");
    if model != "gpt2" {
        return Err(missing(&format!("has a tokenizer of the kind {model:?}, not byte-level BPE")));
    }
    let (tokens, merges) = (texts("tokenizer.ggml.tokens"), texts("tokenizer.ggml.merges"));
    let (Some(tokens), Some(merges)) = (tokens, merges) else {
        return Err(missing("lacks the tokens or the merges"));
    };
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let sequence =
        |first: Value, regex: bool| json!({"type": "Sequence", "pretokenizers": [first, byte_level(regex)]});
    let cut = match text("tokenizer.ggml.pre").unwrap_or("default") {
        "default" | "gpt-2" | "gpt2" => byte_level(true),
        "smollm" => sequence(json!({"type": "Digits", "individual_digits": true}), true),
        "llama-bpe" | "llama3" | "smaug-bpe" => sequence(split(LLAMA3), false),
        "qwen2" => sequence(split(QWEN2), false),
        other => return Err(missing(&format!("cuts texts as {other:?} does, which is not known"))),
    };
    let types = match header.settings.get("tokenizer.ggml.token_type") {
        Some(Setting::Numbers(types)) => types.as_slice(),
        _ => &[],
    };
    let added: Vec<Value> = tokens
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (_, kind))| SPECIAL.contains(*kind))
        .map(|(id, (token, _))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let vocabulary: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    if vocabulary.len() != tokens.len() {
        return Err(Error::corrupt(file, 0, "a token stands twice in its list"));
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": cut,
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges,
        },
    }))
}
