//! Models for inference, several times as fast as on tensors.
//!
//! | file | what it holds |
//! |---|---|
//! | `kernel` | products and rows, for each kind of processor |
//! | `buffer` | memory that starts at a cache line |
//! | `linear` | weights, packed once, in f32 or int8 |
//! | `attention`, `code_attention`, `layer`, `bert` | token ids to token states |
//! | `decoder`, `fixed` | the same for other families |
//! | `model` | any family |
//! | `head` | token states to a vector |
//!
//! Texts are packed one after the other, without padding; attention runs text by text. Some 256 tokens pass the layers
//! at a time, so that their states stay in the second-level cache. Every row is computed by the same steps whatever
//! stands beside it: the texts encoded together change no bit of a vector.
//!
//! In int8, weights have a scale for each output and inputs a scale and a zero for each token, found as they come
//! (as in Zafrir et al. 2019, arXiv:1910.06188, but without training); so do queries, keys, values and shares of
//! attention. Sums are exact. Everything else is f32.
//!
//! The same model with gradients, `Bert`, is what this one is tested against.

pub(super) mod attention;
mod bert;
pub(super) mod buffer;
mod code_attention;
mod decoder;
mod fixed;
mod head;
pub(super) mod kernel;
mod layer;
pub(super) mod linear;
mod model;
mod source;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::bert::FastBert;
pub(crate) use self::decoder::FastDecoder;
pub(crate) use self::fixed::FixedTable;
pub(crate) use self::head::FastHead;
pub(crate) use self::model::Model;
pub(crate) use self::table::Table;

/// Tokens that pass the layers together, if the texts are not longer.
pub(crate) const TILE_TOKENS: usize = 256;
