//! Reading the columns of a segment in place.

use std::cmp::Ordering;
use std::ops::Range;

use bytemuck::Pod;

use super::{Column, Scalar, Sections};
use crate::error::{Error, Result};
use crate::format::segment::attrs;

/// The columns of a segment. Only what is asked for is touched.
#[derive(Clone, Copy)]
pub struct AttrsView<'a> {
    sections: &'a dyn Sections,
}

fn corrupt(what: &str) -> Error {
    Error::corrupt("attrs", 0, format!("metadata columns: {what}"))
}

impl<'a> AttrsView<'a> {
    /// The columns in these sections.
    pub fn new(sections: &'a dyn Sections) -> Self {
        Self { sections }
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.sections.size(attrs::COLUMNS) / size_of::<Column>()
    }

    /// Whether there are no columns.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Key number `number`, ascending.
    pub fn key(&self, number: usize) -> Result<&'a str> {
        let end = self.record(number)?.key_end;
        let start = number.checked_sub(1).map_or(Ok(0), |before| self.record(before).map(|c| c.key_end))?;
        text(self.sections.bytes(attrs::KEYS, start as usize..end.max(start) as usize)?)
    }

    /// All keys, ascending.
    pub fn keys(&self) -> Result<Vec<&'a str>> {
        (0..self.len()).map(|number| self.key(number)).collect()
    }

    /// The column of `key`.
    pub fn column(&self, key: &str) -> Result<Option<ColumnView<'a>>> {
        let at = lower_bound(0..self.len(), |number| Ok(self.key(number)? < key))?;
        if at < self.len() && self.key(at)? == key {
            return self.record(at).map(|record| Some(ColumnView { sections: self.sections, record }));
        }
        Ok(None)
    }

    fn record(&self, number: usize) -> Result<Column> {
        element(self.sections, attrs::COLUMNS, number)
    }

    /// Verifies all of it: order, bounds, and that no document lies beyond `docs`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] with the first thing that is wrong.
    pub fn check(&self, docs: u32) -> Result<()> {
        let keys = self.keys()?;
        if !keys.is_sorted_by(|a, b| a < b) {
            return Err(corrupt("keys are not in order"));
        }
        let mut next = 0;
        for number in 0..self.len() {
            let column = ColumnView { sections: self.sections, record: self.record(number)? };
            if column.record.nulls != next {
                return Err(corrupt("values between the columns"));
            }
            column.check(docs)?;
            next = column.record.end;
        }
        if self.sections.size(attrs::VALUES) != next as usize * size_of::<u64>() {
            return Err(corrupt("values after the last column"));
        }
        Ok(())
    }
}

/// Elements of a section.
fn elements<T: Pod>(sections: &dyn Sections, section: u32, range: Range<usize>) -> Result<&[T]> {
    let bytes = |n: usize| n.checked_mul(size_of::<T>()).ok_or_else(|| corrupt("an impossible offset"));
    let found = sections.bytes(section, bytes(range.start)?..bytes(range.end.max(range.start))?)?;
    bytemuck::try_cast_slice(found).map_err(|_| corrupt("a section that is not aligned"))
}

fn element<T: Pod>(sections: &dyn Sections, section: u32, number: usize) -> Result<T> {
    let found: &[T] = elements(sections, section, number..number.saturating_add(1))?;
    found.first().copied().ok_or_else(|| corrupt("an element is missing"))
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| corrupt("a text is not UTF-8"))
}

/// The first of `range` for which `below` is false.
fn lower_bound(range: Range<usize>, below: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if below(middle)? { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

/// One column. Its distinct values are numbered as in VALUES.
#[derive(Clone, Copy)]
pub struct ColumnView<'a> {
    sections: &'a dyn Sections,
    record: Column,
}

impl<'a> ColumnView<'a> {
    /// Numbers of the values of each kind: null, truth values, integers, other numbers, strings; each kind in
    /// ascending order.
    pub fn kinds(&self) -> [Range<usize>; 5] {
        let Column { nulls, bools, ints, floats, texts, end, .. } = self.record;
        [nulls..bools, bools..ints, ints..floats, floats..texts, texts..end]
            .map(|range| range.start as usize..range.end.max(range.start) as usize)
    }

    /// A value.
    pub fn value(&self, number: usize) -> Result<Scalar<'a>> {
        let bits: u64 = element(self.sections, attrs::VALUES, number)?;
        let at = number as u64;
        let Column { bools, ints, floats, texts, .. } = self.record;
        Ok(match () {
            () if at < u64::from(bools) => Scalar::Null,
            () if at < u64::from(ints) => Scalar::Bool(bits != 0),
            () if at < u64::from(floats) => Scalar::Int(bits as i64),
            () if at < u64::from(texts) => Scalar::Float(f64::from_bits(bits)),
            () => Scalar::Text(self.text(bits)?),
        })
    }

    fn text(&self, number: u64) -> Result<&'a str> {
        let number = usize::try_from(number).map_err(|_| corrupt("an impossible text"))?;
        let bounds: &[u32] = elements(self.sections, attrs::TEXT_OFFSETS, number..number.saturating_add(2))?;
        let &[start, end] = bounds else { return Err(corrupt("a text is missing")) };
        text(self.sections.bytes(attrs::TEXTS, start as usize..end.max(start) as usize)?)
    }

    /// The documents that have one of the values `values`; ascending for each value.
    pub fn documents(&self, values: Range<usize>) -> Result<&'a [u32]> {
        let start: u32 = element(self.sections, attrs::STARTS, values.start)?;
        let end: u32 = element(self.sections, attrs::STARTS, values.end)?;
        elements(self.sections, attrs::DOCS, start as usize..end as usize)
    }

    /// The first value of `range`, which is of one kind, that is not below what `order` compares with.
    pub fn lower_bound(&self, range: Range<usize>, order: impl Fn(Scalar<'a>) -> Ordering) -> Result<usize> {
        lower_bound(range, |number| Ok(order(self.value(number)?).is_lt()))
    }

    /// Calls `f` with each value and each of its documents, in order of values.
    pub fn for_each(&self, f: &mut dyn FnMut(u32, Scalar<'a>)) -> Result<()> {
        for number in self.kinds().into_iter().flatten() {
            let value = self.value(number)?;
            self.documents(number..number + 1)?.iter().for_each(|&document| f(document, value));
        }
        Ok(())
    }

    fn check(&self, docs: u32) -> Result<()> {
        let Column { nulls, bools, ints, floats, texts, end, .. } = self.record;
        if ![nulls, bools, ints, floats, texts, end].is_sorted() || bools - nulls > 1 {
            return Err(corrupt("kinds are not in order"));
        }
        for kind in self.kinds() {
            let mut before: Option<Scalar<'_>> = None;
            for number in kind {
                let value = self.value(number)?;
                if before.is_some_and(|before| !ascending(before, value)) {
                    return Err(corrupt("values are not in order"));
                }
                before = Some(value);
                let documents = self.documents(number..number + 1)?;
                if documents.is_empty() || !documents.is_sorted_by(|a, b| a < b) {
                    return Err(corrupt("documents are not in order"));
                }
                if documents.last().is_some_and(|&last| last >= docs) {
                    return Err(corrupt("a document that the segment does not have"));
                }
            }
        }
        Ok(())
    }
}

fn ascending(a: Scalar<'_>, b: Scalar<'_>) -> bool {
    match (a, b) {
        (Scalar::Bool(a), Scalar::Bool(b)) => !a & b,
        (Scalar::Int(a), Scalar::Int(b)) => a < b,
        (Scalar::Float(a), Scalar::Float(b)) => a.total_cmp(&b).is_lt(),
        (Scalar::Text(a), Scalar::Text(b)) => a < b,
        _ => false,
    }
}
