//! Conditions on a column whose values are in order: from ranges of values to documents.
//!
//! Along ascending values of one kind the answer of a comparison changes only at its constants, which binary searches
//! find. Between them one value answers for all. Where the answer may change anywhere (`LIKE`), each distinct value is
//! asked once.

use std::cmp::Ordering;
use std::ops::Range;

use super::test::{Test, compare};
use crate::error::Result;
use crate::format::attrs::{ColumnView, Scalar};
use crate::index::RowMask;

/// Asking a value costs about a quarter of finding a constant.
const BINARY_FROM: usize = 4;

/// The documents of `0..docs` for which the condition is `wanted`.
pub(super) fn documents(column: &ColumnView<'_>, test: &Test, wanted: bool, docs: u32) -> Result<RowMask> {
    let bounds = test.bounds();
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    for kind in column.kinds().into_iter().filter(|kind| !kind.is_empty()) {
        for piece in pieces(column, kind, bounds.as_deref())? {
            match test.of(column.value(piece.start)?) {
                Some(true) => push(&mut yes, piece),
                Some(false) if !wanted => push(&mut no, piece),
                _ => {}
            }
        }
    }
    // A document with several values is true if any of them is.
    let yes = gather(column, &yes, docs)?;
    Ok(if wanted { yes } else { gather(column, &no, docs)?.minus(&yes) })
}

/// The documents of `0..docs` with any value but null.
pub(super) fn present(column: &ColumnView<'_>, docs: u32) -> Result<RowMask> {
    let [_, values @ ..] = column.kinds();
    gather(column, &values, docs)
}

/// Cuts the values of one kind where the answer may change.
fn pieces(
    column: &ColumnView<'_>,
    kind: Range<usize>,
    bounds: Option<&[Scalar<'_>]>,
) -> Result<Vec<Range<usize>>> {
    let Some(bounds) = bounds.filter(|bounds| bounds.len() * BINARY_FROM < kind.len()) else {
        return Ok(kind.map(|value| value..value + 1).collect());
    };
    let sample = column.value(kind.start)?;
    let mut cuts = vec![kind.start, kind.end];
    for &bound in bounds.iter().filter(|bound| compare(sample, **bound).is_some()) {
        let order = |value: Scalar<'_>| compare(value, bound).unwrap_or(Ordering::Equal);
        let first = column.lower_bound(kind.clone(), order)?;
        let after = column.lower_bound(first..kind.end, |value| match order(value) {
            Ordering::Greater => Ordering::Greater,
            _ => Ordering::Less,
        })?;
        cuts.extend([first, after]);
    }
    cuts.sort_unstable();
    cuts.dedup();
    Ok(cuts.windows(2).map(|cut| cut[0]..cut[1]).collect())
}

fn push(ranges: &mut Vec<Range<usize>>, piece: Range<usize>) {
    match ranges.last_mut().filter(|last| last.end == piece.start) {
        Some(last) => last.end = piece.end,
        None => ranges.push(piece),
    }
}

/// The documents of ranges of values, as a set.
fn gather(column: &ColumnView<'_>, values: &[Range<usize>], docs: u32) -> Result<RowMask> {
    let lists = values.iter().filter(|range| !range.is_empty()).map(|range| column.documents(range.clone()));
    let lists: Vec<&[u32]> = lists.collect::<Result<_>>()?;
    Ok(RowMask::from_lists(docs, &lists))
}
