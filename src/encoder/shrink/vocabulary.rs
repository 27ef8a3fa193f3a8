//! A vocabulary cut to the tokens that occur most often.
//!
//! WordPiece (Wu et al. 2016, arXiv:1609.08144) takes the longest pieces that it knows, so that a word whose own token is
//! gone becomes several shorter ones; single characters stay, so that none becomes unknown.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::encoder::config::parse;
use crate::encoder::files::TOKENIZER;
use crate::error::{Error, Result};

/// Cuts `tokenizer.json` to `size` tokens, or a few more where more cannot be missed. `texts`: token ids that say how often
/// each occurs. Returns the new file, and the old id of each new one, ascending.
pub(super) fn cut(bytes: &[u8], texts: &[Vec<u32>], size: usize) -> Result<(Vec<u8>, Vec<u32>)> {
    let mut file: Map<String, Value> = parse(TOKENIZER, bytes)?;
    let model = file.get("model").filter(|model| model["type"] == "WordPiece");
    let Some(vocabulary) = model.and_then(|model| model["vocab"].as_object()) else {
        return Err(Error::input("only a model with a WordPiece tokenizer can be made smaller"));
    };
    let special: Vec<&str> = file
        .get("added_tokens")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|t| t["content"].as_str())
        .collect();
    let mut tokens: Vec<(u32, &str)> =
        vocabulary.iter().filter_map(|(token, id)| Some((id.as_u64()? as u32, token.as_str()))).collect();
    let mut counts: HashMap<u32, u64> = HashMap::new();
    texts.iter().flatten().for_each(|&id| *counts.entry(id).or_default() += 1);
    let needed =
        |token: &str| special.contains(&token) || is_letter(token.strip_prefix("##").unwrap_or(token));
    // What is needed first, then by how often it occurs; ties by the old id.
    tokens.sort_by_key(|&(id, token)| {
        (!needed(token), std::cmp::Reverse(counts.get(&id).copied().unwrap_or(0)), id)
    });
    let least = tokens.iter().filter(|(_, token)| needed(token)).count();
    tokens.truncate(size.max(least));
    tokens.sort_unstable();
    let old: Vec<u32> = tokens.iter().map(|&(id, _)| id).collect();
    let new_vocabulary: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, (_, token))| ((*token).to_owned(), json!(id))).collect();
    renumber(&mut file, &new_vocabulary)?;
    file["model"]["vocab"] = Value::Object(new_vocabulary);
    file.insert("truncation".into(), Value::Null);
    file.insert("padding".into(), Value::Null);
    Ok((Value::Object(file).to_string().into_bytes(), old))
}

/// One character of those that every English text may have.
fn is_letter(token: &str) -> bool {
    token.len() == 1 && token.is_ascii()
}

/// Gives special tokens their new ids where they stand by number.
fn renumber(file: &mut Map<String, Value>, vocabulary: &Map<String, Value>) -> Result<()> {
    let id = |token: &Value| {
        let found = token.as_str().and_then(|token| vocabulary.get(token));
        found.cloned().ok_or_else(|| Error::corrupt(TOKENIZER, 0, format!("{token} is in no vocabulary")))
    };
    for token in file.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten() {
        token["id"] = id(&token["content"])?;
    }
    let special = file.get_mut("post_processor").and_then(|post| post.get_mut("special_tokens"));
    for token in special.and_then(Value::as_object_mut).into_iter().flat_map(|all| all.values_mut()) {
        let ids: Result<Vec<Value>> = token["tokens"].as_array().into_iter().flatten().map(id).collect();
        token["ids"] = Value::Array(ids?);
    }
    Ok(())
}

/// Texts in the new numbering, without the tokens that are gone, cut.
pub(super) fn renumbered(texts: &[Vec<u32>], kept: &[u32], most: usize) -> Vec<Vec<u32>> {
    let new = |id: &u32| kept.binary_search(id).ok().map(|new| new as u32);
    texts.iter().map(|ids| ids.iter().filter_map(new).take(most).collect()).collect()
}
