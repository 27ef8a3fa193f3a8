//! `--where` expressions: parsed once, evaluated over columns to the exact set of matching documents.
//!
//! The language is SQL's for conditions: `=` (also `==`), `!=` (also `<>`), `<`, `<=`, `>`, `>=`, `[NOT] IN (…)`,
//! `[NOT] LIKE`, `[NOT] ILIKE` (`%`, `_`, optional `ESCAPE`), `[NOT] BETWEEN … AND …`, `IS [NOT] NULL`, `AND`, `OR`,
//! `NOT`, parentheses, a bare key as a truth value, `TRUE` and `FALSE`. Strings stand in single quotes; keys are
//! plain, `"quoted"` or dotted (`author.name` and `"author.name"` are the same key), and case-sensitive. The operator
//! words of this paragraph, and `select`, need quotes to be keys; any other word (`date`, `type`, `order`) does not.
//!
//! # Keys
//! Every key of the metadata, nested objects flattened with dots; `id`, which is always the document's external id;
//! and `title`, which is the document's title where its metadata has no such key.
//!
//! # Truth
//! SQL's three values: a condition on a missing or null key is unknown, so is its negation, and only true matches.
//! Values of different kinds (text, number, truth value) cannot be compared: unknown. Numbers are compared by value,
//! integers with fractions exactly; strings by their bytes, `LIKE` with case, `ILIKE` without.
//!
//! A document with an array has several values under one key. A condition is true if it is true of *any* of them
//! and false if it is true of none and false of some; `!=`, `NOT IN`, `NOT LIKE` and `NOT BETWEEN` are the negations
//! of their opposites, so `tag != 'a'` means that no element is `'a'`. `IN` is unknown of a value only if it can be
//! compared with nothing in the list.

mod columns;
mod parse;
mod select;
mod test;

pub use self::columns::{Columns, SegmentColumns};
use self::test::Test;
use crate::error::Result;
pub use crate::format::attrs::Scalar;
use crate::format::attrs::scalars_of;
use crate::index::RowMask;
use crate::index::mask::RowBits;
use crate::types::Meta;

/// Key of the external id.
pub const ID: &str = "id";
/// Key of the title, where metadata has none of that name.
pub const TITLE: &str = "title";

/// A parsed `--where` expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    root: Node,
    expression: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Constant(bool),
    Leaf { key: String, test: Test },
    IsNull { key: String },
    Not(Box<Node>),
    All(Vec<Node>),
    Any(Vec<Node>),
}

impl Filter {
    /// Parses an expression.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) with the position for what is no such expression,
    /// [`Error::Limit`](crate::Error::Limit) for one that is too long or too deep.
    pub fn parse(expression: &str) -> Result<Self> {
        Ok(Self { root: parse::parse(expression)?, expression: expression.to_string() })
    }

    /// The expression as it was written.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The keys that the expression names, sorted, each once. A key that no segment has is worth a note.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys = Vec::new();
        self.root.keys(&mut keys);
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The documents of `source`, of `0..source.docs()`, for which the expression is true.
    ///
    /// # Errors
    /// Those of reading the columns.
    pub fn mask(&self, source: &dyn Columns) -> Result<RowMask> {
        self.root.mask(source, true)
    }

    /// Whether the expression is true for one document: the same answer as [`mask`](Self::mask), without columns.
    pub fn matches(&self, id: &str, title: Option<&str>, meta: &Meta) -> bool {
        self.root.truth(&Single { id, title, meta }) == Some(true)
    }
}

impl Node {
    fn keys<'a>(&'a self, keys: &mut Vec<&'a str>) {
        match self {
            Self::Constant(_) => (),
            Self::Leaf { key, .. } | Self::IsNull { key } => keys.push(key),
            Self::Not(inner) => inner.keys(keys),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.keys(keys)),
        }
    }

    /// The documents for which the node is `wanted`. Of the rest it is the opposite, or unknown.
    fn mask(&self, source: &dyn Columns, wanted: bool) -> Result<RowMask> {
        match self {
            Self::Constant(value) if *value == wanted => Ok(RowMask::all(source.docs())),
            Self::Constant(_) => Ok(RowMask::none(source.docs())),
            Self::Leaf { key, test } => match source.column(key)? {
                Some(column) => select::documents(&column, test, wanted, source.docs()),
                None => scan(source, key, test, wanted),
            },
            Self::IsNull { key } => {
                let present = match source.column(key)? {
                    Some(column) => select::present(&column, source.docs())?,
                    None => present(source, key)?,
                };
                Ok(if wanted { RowMask::all(source.docs()).minus(&present) } else { present })
            }
            Self::Not(inner) => inner.mask(source, !wanted),
            // AND is true where all parts are, and false where any is; OR the other way round.
            Self::All(parts) if wanted => intersection(parts, source, wanted),
            Self::Any(parts) if !wanted => intersection(parts, source, wanted),
            Self::All(parts) | Self::Any(parts) => {
                let mut any = RowMask::none(source.docs());
                for part in parts {
                    any = part.mask(source, wanted)?.or(&any);
                }
                Ok(any)
            }
        }
    }

    fn truth(&self, document: &Single<'_>) -> Option<bool> {
        match self {
            Self::Constant(value) => Some(*value),
            Self::Leaf { key, test } => {
                let mut answer = None;
                document.for_each(key, &mut |scalar| {
                    // `None < Some(false) < Some(true)` is the order in which values of an array decide.
                    answer = answer.max(test.of(scalar));
                });
                answer
            }
            Self::IsNull { key } => {
                let mut null = true;
                document.for_each(key, &mut |scalar| null &= scalar == Scalar::Null);
                Some(null)
            }
            Self::Not(inner) => inner.truth(document).map(|value| !value),
            Self::All(parts) => fold(parts.iter().map(|part| part.truth(document)), false),
            Self::Any(parts) => fold(parts.iter().map(|part| part.truth(document)), true),
        }
    }
}

/// AND (`decisive` false) or OR (`decisive` true) of three-valued parts.
fn fold(parts: impl Iterator<Item = Option<bool>>, decisive: bool) -> Option<bool> {
    let mut answer = Some(!decisive);
    for part in parts {
        if part == Some(decisive) {
            return part;
        }
        if part.is_none() {
            answer = None;
        }
    }
    answer
}

/// The documents for which each part is `wanted`.
fn intersection(parts: &[Node], source: &dyn Columns, wanted: bool) -> Result<RowMask> {
    let Some((first, rest)) = parts.split_first() else { return Ok(RowMask::all(source.docs())) };
    let mut all = first.mask(source, wanted)?;
    for part in rest {
        if all.is_empty() {
            break;
        }
        all = all.and(&part.mask(source, wanted)?);
    }
    Ok(all)
}

/// A condition on a key without a column, value by value.
fn scan(source: &dyn Columns, key: &str, test: &Test, wanted: bool) -> Result<RowMask> {
    let (mut yes, mut no) = (RowBits::new(source.docs()), RowBits::new(source.docs()));
    for_each(source, key, &mut |doc, scalar| match test.of(scalar) {
        Some(true) => yes.insert(doc),
        Some(false) => no.insert(doc),
        None => (),
    })?;
    let yes = yes.finish();
    Ok(if wanted { yes } else { no.finish().minus(&yes) })
}

/// The documents that have a value under a key without a column.
fn present(source: &dyn Columns, key: &str) -> Result<RowMask> {
    let mut present = RowBits::new(source.docs());
    for_each(source, key, &mut |doc, scalar| {
        if scalar != Scalar::Null {
            present.insert(doc);
        }
    })?;
    Ok(present.finish())
}

/// A source's values of a key, without documents that it says it does not have.
fn for_each(source: &dyn Columns, key: &str, f: &mut dyn FnMut(u32, Scalar<'_>)) -> Result<()> {
    let docs = source.docs();
    source.for_each(key, &mut |doc, scalar| {
        if doc < docs {
            f(doc, scalar);
        }
    })
}

/// One document outside of any columns.
struct Single<'a> {
    id: &'a str,
    title: Option<&'a str>,
    meta: &'a Meta,
}

impl<'a> Single<'a> {
    fn for_each(&self, key: &str, f: &mut dyn FnMut(Scalar<'a>)) {
        if key == ID {
            return f(Scalar::Text(self.id));
        }
        let mut found = false;
        scalars_of(self.meta, key, &mut |scalar| {
            found = true;
            f(scalar);
        });
        if let (TITLE, false, Some(title)) = (key, found, self.title) {
            f(Scalar::Text(title));
        }
    }
}

#[cfg(test)]
mod grid;
#[cfg(test)]
mod tests;
