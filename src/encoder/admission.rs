//! What is looked at in a model folder before its bytes reach the crates that read them: sizes, the structure of the
//! tokenizer, the spans of tensors.
//!
//! Those crates were written for files that one trusts. Invariants: nothing here takes more memory than a fraction of the
//! file's size; a tokenizer that was let in takes time in proportion to a text's length, whatever it says.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{Ast, RepetitionKind, RepetitionRange};
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::config::parse;
use super::family::{Family, model_type};
use super::files::{CONFIG, ModelFiles};
use crate::error::{Error, Result};

/// Bytes of one file that holds no weights; the largest vocabularies have 35 MB.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of the table of tensors; 50,000 tensors have 6 MB.
const HEADER_BYTES: u64 = 8 << 20;
/// Entries of a list or an object of a tokenizer: tokens, merges.
const ENTRIES: usize = 1 << 20;
/// Added tokens.
const ADDED_TOKENS: usize = 1 << 16;
/// Bytes of a token, a merge, a regular expression.
const TEXT_BYTES: usize = 4 << 10;
/// Bytes of the one string that is a table.
const TABLE_BYTES: usize = 4 << 20;
/// Values of a tokenizer outside of its model and the added tokens.
const SETTINGS: usize = 100_000;
/// How many times longer normalisation may make a text.
const GROWTH: usize = 16;
/// Look-ahead that is let in as an alternative of its own: white space but for the last one before a word. GPT-2 brought it,
/// and Llama, Qwen and others have it in the same letters. Behind a run of white space it steps back by one.
const LOOK_AHEAD: &str = r"\s+(?!\S)";

/// How many times as long as the parameters in f32 weights may be: other types, and parts that are not used.
const WEIGHTS_FACTOR: u64 = 4;
/// Bytes of weights that are read whatever the configuration says.
const WEIGHTS_BYTES: u64 = 64 << 20;

/// Refuses weights that are far longer than the configuration says, before they are read. `weights`: paths and lengths.
pub(super) fn check_weights(files: &ModelFiles, weights: &[(String, u64)]) -> Result<()> {
    let total: u64 = weights.iter().filter(|(path, _)| !path.contains('/')).map(|(_, bytes)| bytes).sum();
    // A static model says in its weights alone how long they are.
    if total <= WEIGHTS_BYTES
        || files.get(CONFIG).is_none()
        || model_type(files)?.as_deref() == Some("model2vec")
    {
        return Ok(());
    }
    let shapes = match Family::read_transformer(files)? {
        Family::Bert(config) => config.shapes(),
        Family::Decoder(config) => config.shapes(),
        Family::Fixed(_) => return Ok(()),
    };
    let values: u64 = shapes.iter().map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>()).sum();
    let most = values.saturating_mul(WEIGHTS_FACTOR * size_of::<f32>() as u64).max(WEIGHTS_BYTES);
    if total <= most {
        return Ok(());
    }
    let what = format!("weights of {total} bytes, where the configuration describes {values} parameters");
    Err(Error::corrupt(CONFIG, 0, what))
}

/// Checks a file before it is read into memory.
pub(super) fn check_file(path: &Path, name: &str, bytes: u64) -> Result<()> {
    if !name.ends_with(".safetensors") {
        return limit(name, "the size of this file in bytes", bytes, FILE_BYTES);
    }
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut start = Vec::new();
    let read = |file: &mut File, bytes: u64, to: &mut Vec<u8>| {
        file.take(bytes).read_to_end(to).map_err(Error::io("read", path))
    };
    read(&mut file, 8, &mut start)?;
    let header = header_len(name, &start, bytes)?;
    read(&mut file, header, &mut start)?;
    check_tensors(name, &start, bytes)
}

/// Checks the table at the beginning of a file of tensors of `bytes` bytes: spans follow one another without gap or
/// overlap, and cover the file.
pub(super) fn check_tensors(name: &str, start: &[u8], bytes: u64) -> Result<()> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default, rename = "__metadata__")]
        _metadata: IgnoredAny,
        #[serde(flatten)]
        tensors: BTreeMap<String, Tensor>,
    }
    #[derive(Deserialize)]
    struct Tensor {
        shape: Vec<u64>,
        data_offsets: [u64; 2],
    }
    let length = header_len(name, start, bytes)?;
    let table = start.get(8..8 + length as usize);
    let table = table.ok_or_else(|| Error::corrupt(name, 0, "the table of tensors is cut off"))?;
    let header: Header = parse(name, table)?;
    let mut spans = Vec::with_capacity(header.tensors.len());
    for (tensor, Tensor { shape, data_offsets: [from, to] }) in &header.tensors {
        let values = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        if values.is_none_or(|values| values > bytes.saturating_mul(8)) {
            let what =
                format!("the tensor {tensor:.80} has the shape {shape:.80?}, more than the file can hold");
            return Err(Error::corrupt(name, 0, what));
        }
        spans.push((*from, *to, tensor));
    }
    spans.sort_unstable();
    let mut end = 0;
    for (from, to, tensor) in spans {
        if from != end || to < from {
            let what = format!(
                "the tensor {tensor:.80} lies at {from} to {to}, where {end} is due: tensors overlap, or leave a hole"
            );
            return Err(Error::corrupt(name, 8 + length, what));
        }
        end = to;
    }
    if end != bytes - 8 - length {
        let what = format!("its tensors take {end} bytes, and the file has {}", bytes - 8 - length);
        return Err(Error::corrupt(name, 8 + length, what));
    }
    Ok(())
}

/// Bytes of the table of tensors.
fn header_len(name: &str, start: &[u8], bytes: u64) -> Result<u64> {
    let length = start.first_chunk().map(|&length| u64::from_le_bytes(length));
    match length {
        Some(length) if length > bytes.saturating_sub(8) => {
            let what = format!("its table of tensors shall have {length} bytes, and the file has {bytes}");
            Err(Error::corrupt(name, 0, what))
        }
        Some(length) => limit(name, "its table of tensors, in bytes,", length, HEADER_BYTES).map(|()| length),
        None => Err(Error::corrupt(name, 0, "the file is too short to hold tensors")),
    }
}

fn limit(name: &str, what: &str, actual: u64, limit: u64) -> Result<()> {
    if actual <= limit {
        return Ok(());
    }
    let raise = "embdb reads no model like that: use another one".to_owned();
    Err(Error::Limit { what: format!("{name}: {what}"), limit, actual, raise })
}

/// Checks `tokenizer.json`: how much it holds, and what it does with a text before it looks tokens up.
pub(super) fn check_tokenizer(name: &str, bytes: &[u8]) -> Result<()> {
    limit(name, "the size of this file in bytes", bytes.len() as u64, FILE_BYTES)?;
    let bad = |what: String| Error::corrupt(name, 0, what);
    let mut settings = 0;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let walk = Walk { key: "", level: 0, settings: &mut settings };
    walk.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|error| bad(error.to_string()))?;

    #[derive(Deserialize)]
    struct Steps {
        #[serde(default)]
        normalizer: Value,
        #[serde(default)]
        pre_tokenizer: Value,
        #[serde(default)]
        post_processor: Value,
        #[serde(default)]
        decoder: Value,
    }
    let steps: Steps = parse(name, bytes)?;
    for step in [&steps.normalizer, &steps.pre_tokenizer, &steps.post_processor, &steps.decoder] {
        check_regexes(step).map_err(bad)?;
    }
    let growth = growth(&steps.normalizer).map_err(bad)?;
    if growth > GROWTH {
        return Err(bad(format!("normalisation may make a text more than {GROWTH} times as long")));
    }
    Ok(())
}

/// Visits all values and counts them, keeping none.
struct Walk<'a> {
    /// The key under which this value stands, if it is one that matters.
    key: &'a str,
    /// Depth: 0 for the whole file.
    level: usize,
    /// Values so far that are neither of the model nor added tokens.
    settings: &'a mut usize,
}

impl Walk<'_> {
    fn is_setting(&self) -> bool {
        self.level > 0 && !matches!(self.key, "model" | "added_tokens" | "precompiled_charsmap")
    }

    fn entries(&self) -> usize {
        if self.key == "added_tokens" { ADDED_TOKENS } else { ENTRIES }
    }

    fn text<E: serde::de::Error>(&self, text: &str) -> std::result::Result<(), E> {
        let most = if self.key == "precompiled_charsmap" { TABLE_BYTES } else { TEXT_BYTES };
        if text.len() <= most {
            return Ok(());
        }
        let shown: String = text.chars().take(24).collect();
        Err(E::custom(format!("the text {shown:?}… has {} bytes, over the limit of {most}", text.len())))
    }

    fn count<E: serde::de::Error>(&mut self) -> std::result::Result<(), E> {
        *self.settings += usize::from(self.is_setting());
        if *self.settings <= SETTINGS {
            return Ok(());
        }
        Err(E::custom(format!("more than {SETTINGS} settings: it is no tokenizer")))
    }

    fn too_many<E: serde::de::Error>(&self) -> E {
        let of = if self.key == "added_tokens" { "added tokens" } else { "entries in one list" };
        E::custom(format!("more than {} {of}: it is no tokenizer", self.entries()))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(
        mut self,
        deserializer: D,
    ) -> std::result::Result<(), D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<(), E> {
        self.text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        let mut count = 0;
        let (key, level) = (self.key, self.level + 1);
        while items.next_element_seed(Walk { key, level, settings: &mut *self.settings })?.is_some() {
            count += 1;
            if count > self.entries() {
                return Err(self.too_many());
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> std::result::Result<(), A::Error> {
        let mut count = 0;
        while let Some(name) = items.next_key::<String>()? {
            count += 1;
            if count > self.entries() {
                return Err(self.too_many());
            }
            self.text::<A::Error>(&name)?;
            let key = match (self.level, name.as_str()) {
                (0, "model" | "added_tokens") | (_, "precompiled_charsmap") => name.as_str(),
                _ => self.key,
            };
            items.next_value_seed(Walk { key, level: self.level + 1, settings: &mut *self.settings })?;
        }
        Ok(())
    }
}

/// Checks every regular expression of a step.
fn check_regexes(step: &Value) -> std::result::Result<(), String> {
    match step {
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| match (key.as_str(), value) {
            ("Regex", Value::String(regex)) => check_regex(regex),
            _ => check_regexes(value),
        }),
        Value::Array(items) => items.iter().try_for_each(check_regexes),
        _ => Ok(()),
    }
}

/// Lets in regular expressions that are matched in linear time: no look-around but the one that is known, no
/// back-references, and no repetition within a repetition, which takes exponential time where it is matched by trying.
fn check_regex(regex: &str) -> std::result::Result<(), String> {
    for alternative in alternatives(regex).into_iter().filter(|alternative| *alternative != LOOK_AHEAD) {
        let shown: String = alternative.chars().take(60).collect();
        let parsed = ParserBuilder::new().nest_limit(32).build().parse(alternative);
        let ast = parsed.map_err(|error| {
            let kind = error.kind();
            format!("the regular expression {shown:?} is not one that takes linear time: {kind}")
        })?;
        if repeats(&ast, false) {
            return Err(format!("the regular expression {shown:?} repeats what repeats itself"));
        }
    }
    Ok(())
}

/// The alternatives of a regular expression, those within groups left alone. A wrong cut leaves parts that do not parse.
fn alternatives(regex: &str) -> Vec<&str> {
    let (mut found, mut start) = (Vec::new(), 0);
    let (mut groups, mut classes, mut escaped) = (0usize, 0usize, false);
    for (at, c) in regex.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => classes += 1,
            ']' => classes = classes.saturating_sub(1),
            '(' if classes == 0 => groups += 1,
            ')' if classes == 0 => groups = groups.saturating_sub(1),
            '|' if classes == 0 && groups == 0 => {
                found.push(&regex[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&regex[start..]);
    found
}

/// Whether something is repeated more than once `within` such a repetition, or holds such a pair.
fn repeats(ast: &Ast, within: bool) -> bool {
    match ast {
        Ast::Repetition(repetition) => {
            let many = !matches!(
                repetition.op.kind,
                RepetitionKind::ZeroOrOne
                    | RepetitionKind::Range(
                        RepetitionRange::Exactly(0 | 1) | RepetitionRange::Bounded(0 | 1, 0 | 1)
                    )
            );
            within || repeats(&repetition.ast, many)
        }
        Ast::Group(group) => repeats(&group.ast, within),
        Ast::Alternation(all) => all.asts.iter().any(|ast| repeats(ast, within)),
        Ast::Concat(all) => all.asts.iter().any(|ast| repeats(ast, within)),
        _ => false,
    }
}

/// How many times longer the steps of a normaliser may make a text: each replaces what the one before it made.
fn growth(step: &Value) -> std::result::Result<usize, String> {
    if let Some(steps) = step.get("normalizers").and_then(Value::as_array) {
        return steps.iter().try_fold(1usize, |all, step| Ok(all.saturating_mul(growth(step)?)));
    }
    let Some(pattern) = step.get("pattern") else { return Ok(1) };
    let content = step.get("content").and_then(Value::as_str).unwrap_or_default();
    // A regular expression may match a single byte.
    let replaced = match pattern.get("String").and_then(Value::as_str) {
        Some("") => return Err("it replaces an empty text, which is everywhere".into()),
        Some(text) => text.len(),
        None => 1,
    };
    Ok(content.len().div_ceil(replaced).max(1))
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
