//! The sizes of a Llama-type model, as its settings say them, checked against its tensors.

use super::gguf::{Header, Setting, Tensor};
use crate::error::{Error, Result};

/// Layers, at most.
const LAYERS_MOST: u32 = 256;
/// Tokens that candle's tables of rotations reach to.
const POSITIONS_MOST: usize = 4_096;

/// Sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// Tokens that it reads and writes in one go.
    pub positions: usize,
}

impl Shape {
    /// Reads and checks the sizes. All that candle computes from them was computed here first.
    pub fn read(name: &str, header: &Header) -> Result<Self> {
        let wrong = |what: String| Error::corrupt(name, 0, what);
        match header.settings.get("general.architecture") {
            Some(Setting::Text(kind)) if kind == "llama" => {}
            other => {
                let kind = if let Some(Setting::Text(kind)) = other { kind.as_str() } else { "unknown" };
                let what = format!(
                    "{name} holds a model of the kind {kind:?}; those of the kind llama can generate"
                );
                return Err(Error::input(what));
            }
        }
        let number = |key: &str| match header.settings.get(&format!("llama.{key}")) {
            Some(Setting::U32(number)) if *number > 0 => Ok(u64::from(*number)),
            Some(other) => Err(wrong(format!("the setting llama.{key} is {other:?}, not a number above 0"))),
            None => Err(wrong(format!("the setting llama.{key} is missing"))),
        };
        let float = |key: &str| match header.settings.get(&format!("llama.{key}")) {
            Some(Setting::F32(value)) if value.is_finite() && *value > 0.0 => Ok(()),
            other => Err(wrong(format!("the setting llama.{key} is {other:?}, not a number above 0"))),
        };
        let experts = header.settings.get("llama.expert_count");
        if experts.is_some_and(|experts| !matches!(experts, Setting::U32(0))) {
            return Err(Error::input(format!("{name} is a mixture of experts, which is not supported")));
        }
        float("attention.layer_norm_rms_epsilon")?;
        if header.settings.contains_key("llama.rope.freq_base") {
            float("rope.freq_base")?;
        }
        let layers = number("block_count")?;
        let (hidden, inner) = (number("embedding_length")?, number("feed_forward_length")?);
        let (heads, key_heads) = (number("attention.head_count")?, number("attention.head_count_kv")?);
        let (turned, positions) = (number("rope.dimension_count")?, number("context_length")?);
        if layers > u64::from(LAYERS_MOST) {
            return Err(wrong(format!("it has {layers} layers, more than {LAYERS_MOST}")));
        }
        if hidden % heads != 0 || heads % key_heads != 0 || hidden / heads != turned || turned % 2 != 0 {
            return Err(wrong(format!(
                "{hidden} values, {heads} heads, {key_heads} heads of keys and {turned} values that turn do not go \
                 together"
            )));
        }
        let words = header.tensors.get("token_embd.weight");
        let Some(&[_, vocabulary]) = words.map(|tensor| tensor.sizes.as_slice()) else {
            return Err(wrong("it has no table of tokens token_embd.weight".into()));
        };
        let mut expected = vec![
            ("token_embd.weight".to_owned(), vec![hidden, vocabulary]),
            ("output_norm.weight".to_owned(), vec![hidden]),
        ];
        if header.tensors.contains_key("output.weight") {
            expected.push(("output.weight".to_owned(), vec![hidden, vocabulary]));
        }
        let keys = key_heads * turned;
        for layer in 0..layers {
            let sizes = [
                ("attn_q", vec![hidden, hidden]),
                ("attn_k", vec![hidden, keys]),
                ("attn_v", vec![hidden, keys]),
                ("attn_output", vec![hidden, hidden]),
                ("attn_norm", vec![hidden]),
                ("ffn_gate", vec![hidden, inner]),
                ("ffn_up", vec![hidden, inner]),
                ("ffn_down", vec![inner, hidden]),
                ("ffn_norm", vec![hidden]),
            ];
            expected.extend(sizes.map(|(part, sizes)| (format!("blk.{layer}.{part}.weight"), sizes)));
        }
        for (tensor, sizes) in &expected {
            match header.tensors.get(tensor) {
                Some(Tensor { sizes: found, .. }) if found == sizes => {}
                Some(found) => {
                    let what = format!("the tensor {tensor} has the sizes {:?}, not {sizes:?}", found.sizes);
                    return Err(wrong(what));
                }
                None => return Err(wrong(format!("the tensor {tensor} is missing"))),
            }
        }
        Ok(Self { vocabulary: vocabulary as usize, positions: (positions as usize).min(POSITIONS_MOST) })
    }
}
