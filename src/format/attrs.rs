//! Metadata columns of a sealed segment, one archived section that `--where` reads in place.
//!
//! Each metadata key is a column: its entries `(document, scalar)` in document order, and a dictionary of its
//! strings. Nested objects become dotted keys (`{"a": {"b": 1}}` is `a.b`), an array gives one entry for each of
//! its elements. Integers that do not fit 64 signed bits are kept as the nearest f64.
//!
//! Invariants, all of them checked by [`AttrsView::access`]: keys ascend strictly (by bytes), entries ascend by
//! document, a text entry points into its column's dictionary, and the section is at most [`SECTION_BYTES`] long.
//! The archive is rkyv's, little-endian with 32-bit offsets, its root at the end: the bytes must be given exactly,
//! without padding behind them, and at an address that is a multiple of 8.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rkyv::rancor;
use rkyv::vec::ArchivedVec;
use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::types::Meta;

/// Largest section, in bytes; far below what 32-bit offsets can address.
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

/// The metadata columns of a segment, in memory.
#[derive(Debug, Clone, PartialEq, Default, rkyv::Archive, rkyv::Serialize)]
pub struct Attrs {
    columns: Vec<Column>,
}

#[derive(Debug, Clone, PartialEq, rkyv::Archive, rkyv::Serialize)]
struct Column {
    key: String,
    texts: Vec<String>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, rkyv::Archive, rkyv::Serialize)]
struct Entry {
    doc: u32,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, rkyv::Archive, rkyv::Serialize)]
enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(u32),
}

#[derive(Default)]
struct ColumnBuilder {
    numbers: HashMap<Box<str>, u32>,
    entries: Vec<Entry>,
}

impl ColumnBuilder {
    fn push(&mut self, doc: u32, scalar: Scalar<'_>) {
        let value = match scalar {
            Scalar::Null => Value::Null,
            Scalar::Bool(b) => Value::Bool(b),
            Scalar::Int(i) => Value::Int(i),
            Scalar::Float(x) => Value::Float(x),
            Scalar::Text(text) => Value::Text(self.number(text)),
        };
        self.entries.push(Entry { doc, value });
    }

    /// The text's place in the dictionary. Memory ends long before 2³² distinct strings.
    fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(text.into(), number);
        number
    }

    fn finish(mut self, key: String) -> Column {
        let mut texts: Vec<(u32, Box<str>)> = self.numbers.into_iter().map(|(text, n)| (n, text)).collect();
        texts.sort_unstable_by_key(|&(number, _)| number);
        self.entries.sort_by_key(|entry| entry.doc);
        Column { key, texts: texts.into_iter().map(|(_, text)| text.into()).collect(), entries: self.entries }
    }
}

impl Attrs {
    /// Gathers the columns of `(document, metadata)` pairs. Parts that [`check_meta`] would refuse are left out.
    pub fn build<'m>(documents: impl Iterator<Item = (u32, &'m Meta)>) -> Self {
        let mut columns: BTreeMap<String, ColumnBuilder> = BTreeMap::new();
        for (doc, meta) in documents {
            flatten(meta, &mut |key, scalar| match columns.get_mut(key) {
                Some(column) => column.push(doc, scalar),
                None => columns.entry(key.to_string()).or_default().push(doc, scalar),
            });
        }
        Self { columns: columns.into_iter().map(|(key, column)| column.finish(key)).collect() }
    }

    /// A lower bound of the encoded size, so that a section that cannot fit is refused before it is built.
    fn least_bytes(&self) -> usize {
        let of = |c: &Column| {
            c.key.len() + size_of_val(&c.entries[..]) + c.texts.iter().map(String::len).sum::<usize>()
        };
        self.columns.iter().map(of).sum()
    }
}

/// The section's bytes.
///
/// # Errors
/// [`Error::Limit`] if they would be more than [`SECTION_BYTES`].
pub fn encode(attrs: &Attrs) -> Result<Vec<u8>> {
    let fits = |bytes: usize| match bytes > SECTION_BYTES {
        false => Ok(()),
        true => Err(Error::Limit {
            what: "metadata of one segment, in bytes,".into(),
            limit: SECTION_BYTES as u64,
            actual: bytes as u64,
            raise: "seal segments earlier".into(),
        }),
    };
    fits(attrs.least_bytes())?;
    let bytes = rkyv::to_bytes::<rancor::Error>(attrs)
        .map_err(|e| Error::input(format!("metadata columns cannot be encoded: {e}")))?;
    fits(bytes.len())?;
    Ok(bytes.into_vec())
}

/// The columns of a section, read in place.
#[derive(Clone, Copy)]
pub struct AttrsView<'a> {
    columns: &'a ArchivedVec<ArchivedColumn>,
}

impl std::fmt::Debug for AttrsView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys()).finish()
    }
}

impl<'a> AttrsView<'a> {
    /// Checks a section completely (one walk over it) and gives access to its columns. `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for bytes that break an invariant, also when they do not start at a multiple of 8.
    pub fn access(bytes: &'a [u8], file: &Path) -> Result<Self> {
        let corrupt = |what: String| Error::corrupt(file, 0, format!("metadata columns: {what}"));
        if bytes.len() > SECTION_BYTES {
            return Err(corrupt(format!("{} bytes, at most {SECTION_BYTES} are possible", bytes.len())));
        }
        let attrs =
            rkyv::access::<ArchivedAttrs, rancor::Error>(bytes).map_err(|e| corrupt(e.to_string()))?;
        let view = Self { columns: &attrs.columns };
        if !view.columns.is_sorted_by(|a, b| a.key.as_bytes() < b.key.as_bytes()) {
            return Err(corrupt("keys are not in order".into()));
        }
        match view.columns.iter().find_map(|column| column.problem().map(|what| (column, what))) {
            Some((column, what)) => Err(corrupt(format!("column {:?}: {what}", column.key.as_str()))),
            None => Ok(view),
        }
    }

    /// All keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.columns.iter().map(|column| column.key.as_str())
    }

    /// The column of `key`.
    pub fn column(&self, key: &str) -> Option<ColumnView<'a>> {
        let found = self.columns.binary_search_by(|column| column.key.as_bytes().cmp(key.as_bytes())).ok()?;
        self.columns.get(found).map(|column| ColumnView { column })
    }
}

impl ArchivedColumn {
    fn problem(&self) -> Option<&'static str> {
        if !self.entries.is_sorted_by_key(|entry| entry.doc.to_native()) {
            return Some("documents are not in order");
        }
        let dangling = |entry: &ArchivedEntry| match entry.value {
            ArchivedValue::Text(number) => number.to_native() as usize >= self.texts.len(),
            _ => false,
        };
        self.entries.iter().any(dangling).then_some("a text is not in the dictionary")
    }
}

/// One column of a section.
#[derive(Clone, Copy)]
pub struct ColumnView<'a> {
    column: &'a ArchivedColumn,
}

impl<'a> ColumnView<'a> {
    /// The entries `(document, value)`, ascending by document; a document with an array has several.
    pub fn entries(&self) -> impl Iterator<Item = (u32, Scalar<'a>)> + use<'a> {
        let column = self.column;
        column.entries.iter().filter_map(move |entry| {
            let scalar = match entry.value {
                ArchivedValue::Null => Scalar::Null,
                ArchivedValue::Bool(b) => Scalar::Bool(b),
                ArchivedValue::Int(i) => Scalar::Int(i.to_native()),
                ArchivedValue::Float(x) => Scalar::Float(x.to_native()),
                ArchivedValue::Text(number) => {
                    Scalar::Text(column.texts.get(number.to_native() as usize)?.as_str())
                }
            };
            Some((entry.doc.to_native(), scalar))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkyv::util::AlignedVec;
    use serde_json::json;

    fn meta(value: Json) -> Meta {
        let Json::Object(map) = value else { panic!("not an object") };
        map
    }

    fn aligned(bytes: &[u8]) -> AlignedVec<64> {
        let mut out = AlignedVec::new();
        out.extend_from_slice(bytes);
        out
    }

    fn sample() -> Vec<Meta> {
        vec![
            meta(
                json!({"lang": "en", "year": 2020, "tags": ["a", "b", null, 3], "score": 0.5, "old": false}),
            ),
            meta(json!({"lang": "de", "author": {"name": "Ada Lovelace, Countess", "born": 1815}})),
            meta(json!({"lang": "en", "tags": [], "rows": [{"n": 1}, {"n": [2, 3]}], "big": u64::MAX})),
            meta(json!({})),
        ]
    }

    fn encoded(metas: &[Meta]) -> AlignedVec<64> {
        let numbered = metas.iter().enumerate().map(|(i, m)| (i as u32, m));
        aligned(&encode(&Attrs::build(numbered)).unwrap())
    }

    fn column<'a>(view: &AttrsView<'a>, key: &str) -> Vec<(u32, Scalar<'a>)> {
        view.column(key).map(|c| c.entries().collect()).unwrap_or_default()
    }

    #[test]
    fn columns_come_back_flattened_and_in_order() {
        let bytes = encoded(&sample());
        let view = AttrsView::access(&bytes, Path::new("attrs")).unwrap();
        let keys: Vec<&str> = view.keys().collect();
        assert_eq!(
            keys,
            ["author.born", "author.name", "big", "lang", "old", "rows.n", "score", "tags", "year"]
        );
        assert_eq!(
            column(&view, "lang"),
            [(0, Scalar::Text("en")), (1, Scalar::Text("de")), (2, Scalar::Text("en"))]
        );
        assert_eq!(
            column(&view, "tags"),
            [(0, Scalar::Text("a")), (0, Scalar::Text("b")), (0, Scalar::Null), (0, Scalar::Int(3))]
        );
        assert_eq!(column(&view, "rows.n"), [(2, Scalar::Int(1)), (2, Scalar::Int(2)), (2, Scalar::Int(3))]);
        assert_eq!(column(&view, "big"), [(2, Scalar::Float(u64::MAX as f64))]);
        assert_eq!(column(&view, "score"), [(0, Scalar::Float(0.5))]);
        assert!(view.column("author").is_none());
        assert_eq!(view.column("lang").unwrap().column.texts.len(), 2);
    }

    #[test]
    fn an_empty_segment_has_no_columns() {
        let bytes = encoded(&[]);
        assert_eq!(AttrsView::access(&bytes, Path::new("attrs")).unwrap().keys().count(), 0);
    }

    #[test]
    fn descent_agrees_with_the_columns() {
        let metas = sample();
        let bytes = encoded(&metas);
        let view = AttrsView::access(&bytes, Path::new("attrs")).unwrap();
        for key in view.keys().chain(["author", "", ".", "lang.", "rows"]) {
            let mut found = Vec::new();
            for (doc, meta) in metas.iter().enumerate() {
                scalars_of(meta, key, &mut |scalar| found.push((doc as u32, scalar)));
            }
            assert_eq!(found, column(&view, key), "{key}");
        }
    }

    #[test]
    fn deep_or_long_keyed_metadata_is_refused_and_skipped() {
        let nested = |levels: usize| {
            let mut value = json!(1);
            for _ in 0..levels {
                value = json!([value]);
            }
            meta(json!({"x": value, "y": 1}))
        };
        assert!(check_meta(&nested(META_DEPTH)).is_ok());
        let deep = nested(META_DEPTH + 1);
        assert_eq!(check_meta(&deep).unwrap_err().exit_code(), 5);
        let long = meta(json!({ "k".repeat(KEY_BYTES): {"y": 1}, "y": 1 }));
        assert!(check_meta(&long).unwrap_err().to_string().contains("1026, over the limit of 1024"));
        for meta in [&deep, &long] {
            let bytes = aligned(&encode(&Attrs::build([(7, meta)].into_iter())).unwrap());
            let view = AttrsView::access(&bytes, Path::new("attrs")).unwrap();
            assert_eq!(view.keys().collect::<Vec<_>>(), ["y"]);
            assert_eq!(column(&view, "y"), [(7, Scalar::Int(1))]);
            let mut count = 0;
            scalars_of(meta, "x", &mut |_| count += 1);
            assert_eq!(count, 0);
        }
    }

    #[test]
    fn broken_invariants_are_corrupt() {
        let column = |key: &str, entries: &[(u32, Value)]| Column {
            key: key.into(),
            texts: vec!["a".into()],
            entries: entries.iter().map(|&(doc, value)| Entry { doc, value }).collect(),
        };
        let cases = [
            (vec![column("b", &[]), column("a", &[])], "keys are not in order"),
            (vec![column("a", &[]), column("a", &[])], "keys are not in order"),
            (vec![column("a", &[(2, Value::Null), (1, Value::Null)])], "documents are not in order"),
            (vec![column("a", &[(2, Value::Text(1))])], "not in the dictionary"),
        ];
        for (columns, what) in cases {
            let bytes = aligned(&encode(&Attrs { columns }).unwrap());
            let error = AttrsView::access(&bytes, Path::new("attrs")).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[test]
    fn unaligned_bytes_are_an_error() {
        let mut shifted = AlignedVec::<64>::new();
        shifted.push(0);
        shifted.extend_from_slice(&encoded(&sample()));
        assert_eq!(AttrsView::access(&shifted[1..], Path::new("attrs")).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_section_over_the_limit_is_refused() {
        let texts = vec!["x".repeat(SECTION_BYTES / 8); 9];
        let attrs = Attrs { columns: vec![Column { key: "k".into(), texts, entries: vec![] }] };
        assert_eq!(encode(&attrs).unwrap_err().exit_code(), 5);
    }

    /// Whatever the bytes, access either fails or gives columns that can be read to their end.
    #[test]
    fn damaged_bytes_never_panic() {
        let good = encoded(&sample());
        let read = |bytes: &[u8]| match AttrsView::access(bytes, Path::new("attrs")) {
            Ok(view) => view.keys().map(|key| column(&view, key).len()).sum::<usize>(),
            Err(error) => usize::from(error.exit_code() != 2) * usize::MAX,
        };
        assert_eq!(read(&good), 16);
        let mut bytes = good.clone();
        for at in 0..bytes.len() {
            for damage in [0, 1, 0x7f, 0x80, 0xff, good[at] ^ 1, good[at] ^ 0x80, good[at].wrapping_add(8)] {
                bytes[at] = damage;
                assert!(read(&bytes) < 10_000, "byte {at} as {damage}");
            }
            bytes[at] = good[at];
        }
        for length in 0..good.len() {
            assert_ne!(read(&aligned(&good[..length])), usize::MAX);
        }
    }
}
