//! Metadata columns of a sealed segment: what `--where` reads, laid out so that a condition costs about what it
//! selects.
//!
//! Each metadata key is a column. A column lists its distinct values in order, nulls, truth values, integers, other
//! numbers, strings, and with each value the documents that have it. A range of values is therefore a range of
//! documents, found by two binary searches. Nested objects become dotted keys (`{"a": {"b": 1}}` is `a.b`), each
//! element of an array is a value of its own. Integers that do not fit 64 signed bits are kept as the nearest f64.
//!
//! | section | content |
//! |---|---|
//! | COLUMNS | a [`Column`] for each key, ascending by key |
//! | KEYS | the keys, nothing between them |
//! | VALUES | 8 bytes for each distinct value of each column: 0 for null, 0 or 1, an i64, an f64, the number of a string |
//! | STARTS | where each value's documents begin in DOCS, and their number |
//! | DOCS | the documents of each value, ascending |
//! | TEXT_OFFSETS | where each string begins in TEXTS, and its length |
//! | TEXTS | the strings of each column, ascending, nothing between them |
//!
//! A reader relies on no order: foreign bytes give other documents, or an error, and nothing else. [`AttrsView::check`]
//! verifies all of it.

mod build;
mod view;

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use serde_json::Value as Json;

pub use build::{AttrsBuilder, Columns};
pub use view::{AttrsView, ColumnView};

use crate::error::{Error, Result};
use crate::types::Meta;

/// Most bytes of all sections together; far below what 32-bit offsets can address.
pub const SECTION_BYTES: usize = 256 << 20;
/// How deep objects and arrays of metadata may nest.
pub const META_DEPTH: usize = 64;
/// Longest metadata key, dots included, in bytes.
pub const KEY_BYTES: usize = 1024;

/// A single metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar<'a> {
    /// JSON `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number that is a 64-bit integer.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A string.
    Text(&'a str),
}

impl<'a> Scalar<'a> {
    /// The scalar of a JSON value; `None` for arrays and objects.
    pub fn of(value: &'a Json) -> Option<Self> {
        match value {
            Json::Null => Some(Self::Null),
            Json::Bool(b) => Some(Self::Bool(*b)),
            Json::Number(n) => n.as_i64().map(Self::Int).or_else(|| n.as_f64().map(Self::Float)),
            Json::String(s) => Some(Self::Text(s)),
            Json::Array(_) | Json::Object(_) => None,
        }
    }
}

/// Refuses metadata that cannot become columns: nested deeper than [`META_DEPTH`], or with a key longer than
/// [`KEY_BYTES`]. To be called before a document is accepted, so that building columns never fails later.
///
/// # Errors
/// [`Error::Limit`].
pub fn check_meta(meta: &Meta) -> Result<()> {
    match flatten(meta, &mut |_, _| ()) {
        None => Ok(()),
        Some(Excess::Depth) => Err(Error::Limit {
            what: "nesting of metadata".into(),
            limit: META_DEPTH as u64,
            actual: META_DEPTH as u64 + 1,
            raise: "flatten it before importing".into(),
        }),
        Some(Excess::Key(bytes)) => Err(Error::Limit {
            what: "a metadata key, in bytes,".into(),
            limit: KEY_BYTES as u64,
            actual: bytes as u64,
            raise: "shorten the key".into(),
        }),
    }
}

/// Why a part of metadata is left out of the columns.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Excess {
    Depth,
    Key(usize),
}

/// Calls `sink` with every scalar and its dotted key, in the order of the JSON; returns the first excess, whose
/// part is skipped.
fn flatten<'m>(meta: &'m Meta, sink: &mut dyn FnMut(&str, Scalar<'m>)) -> Option<Excess> {
    let mut walk = Flatten { key: String::new(), sink, excess: None };
    walk.object(meta, 0);
    walk.excess
}

struct Flatten<'m, 's> {
    key: String,
    sink: &'s mut dyn FnMut(&str, Scalar<'m>),
    excess: Option<Excess>,
}

impl<'m> Flatten<'m, '_> {
    fn object(&mut self, object: &'m Meta, depth: usize) {
        let prefix = self.key.len();
        for (name, value) in object {
            let dot = usize::from(depth > 0);
            let bytes = prefix + dot + name.len();
            if bytes > KEY_BYTES {
                self.excess.get_or_insert(Excess::Key(bytes));
                continue;
            }
            if dot == 1 {
                self.key.push('.');
            }
            self.key.push_str(name);
            self.value(value, depth + 1);
            self.key.truncate(prefix);
        }
    }

    fn value(&mut self, value: &'m Json, depth: usize) {
        if let Some(scalar) = Scalar::of(value) {
            return (self.sink)(&self.key, scalar);
        }
        if depth > META_DEPTH {
            self.excess.get_or_insert(Excess::Depth);
            return;
        }
        match value {
            Json::Array(elements) => elements.iter().for_each(|element| self.value(element, depth + 1)),
            Json::Object(object) => self.object(object, depth),
            _ => (),
        }
    }
}

/// Calls `f` with every scalar that `meta` holds under the dotted `key`: what the column of that key has for one
/// document, found by descent instead of by building all columns.
pub fn scalars_of<'m>(meta: &'m Meta, key: &str, f: &mut dyn FnMut(Scalar<'m>)) {
    if key.len() <= KEY_BYTES {
        descend(meta, key, 1, f);
    }
}

fn descend<'m>(object: &'m Meta, key: &str, depth: usize, f: &mut dyn FnMut(Scalar<'m>)) {
    for (name, value) in object {
        let Some(rest) = key.strip_prefix(name.as_str()) else { continue };
        if rest.is_empty() {
            collect(value, None, depth, f);
        } else if let Some(rest) = rest.strip_prefix('.') {
            collect(value, Some(rest), depth, f);
        }
    }
}

fn collect<'m>(value: &'m Json, rest: Option<&str>, depth: usize, f: &mut dyn FnMut(Scalar<'m>)) {
    if depth > META_DEPTH && (value.is_array() || value.is_object()) {
        return;
    }
    match (value, rest) {
        (Json::Array(elements), _) => {
            elements.iter().for_each(|element| collect(element, rest, depth + 1, f))
        }
        (Json::Object(object), Some(rest)) => descend(object, rest, depth + 1, f),
        (Json::Object(_), None) | (_, Some(_)) => (),
        (_, None) => {
            if let Some(scalar) = Scalar::of(value) {
                f(scalar);
            }
        }
    }
}

/// One column: where its values lie. Its key begins where the one before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Column {
    /// End of its key in KEYS.
    pub key_end: u32,
    /// First of its values in VALUES: null, if a document has it.
    pub nulls: u32,
    /// First truth value.
    pub bools: u32,
    /// First integer.
    pub ints: u32,
    /// First other number.
    pub floats: u32,
    /// First string.
    pub texts: u32,
    /// End of its values.
    pub end: u32,
    /// Zero.
    pub zero: u32,
}

/// Where the bytes of the sections come from.
pub trait Sections {
    /// Bytes of a section; 0 if it is missing.
    fn size(&self, section: u32) -> usize;

    /// A range of a section's bytes, verified. The section begins at a multiple of 8 in memory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a range outside of the section, or for damaged bytes.
    fn bytes(&self, section: u32, range: Range<usize>) -> Result<&[u8]>;
}

#[cfg(test)]
mod tests;
