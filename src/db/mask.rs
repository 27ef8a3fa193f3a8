//! Filters over parts: from an expression to the exact set of documents.

use super::filter::{Columns, Filter, SegmentColumns};
use super::snapshot::{Part, Snapshot, Source};
use crate::error::Result;
use crate::index::RowMask;
use crate::storage::segment::Segment;

/// Live documents of a part that a filter lets through; `None` if all of them may.
pub(crate) fn allowed(part: &Part, filter: Option<&Filter>) -> Result<Option<RowMask>> {
    match filter {
        None if part.dead.is_empty() => Ok(None),
        None => Ok(Some(RowMask::all(part.documents()).minus_bitmap(&part.dead))),
        Some(filter) => Ok(Some(matching(part, filter)?.minus_bitmap(&part.dead))),
    }
}

fn matching(part: &Part, filter: &Filter) -> Result<RowMask> {
    match &part.source {
        Source::Sealed(segment) => with_columns(segment, |columns| filter.mask(columns)),
        Source::Active(_, active) => {
            let matches = |n: &u32| {
                active.document(*n).is_some_and(|d| filter.matches(&d.id, d.text.title.as_deref(), d.meta()))
            };
            Ok(RowMask::from_rows(part.documents(), (0..part.documents()).filter(matches)))
        }
    }
}

/// Hands the columns of a sealed segment to `f`.
fn with_columns<T>(segment: &Segment, f: impl FnOnce(&dyn Columns) -> Result<T>) -> Result<T> {
    let ids = |each: &mut dyn FnMut(u32, &str)| {
        (0..segment.documents()).try_for_each(|document| segment.id(document).map(|id| each(document, id)))
    };
    let titles = |each: &mut dyn FnMut(u32, &str)| {
        (0..segment.documents()).try_for_each(|document| {
            segment.text(document).map(|text| text.title.iter().for_each(|title| each(document, title)))
        })
    };
    let attrs = Some(segment.attrs());
    f(&SegmentColumns { attrs, docs: segment.documents(), ids: &ids, titles: &titles })
}

/// Keys of a filter that no document has: they match nothing, which the user should know.
pub(crate) fn unknown_keys(snapshot: &Snapshot, filter: &Filter) -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    for key in filter.keys() {
        let mut known = matches!(key, super::filter::ID | super::filter::TITLE);
        for part in &snapshot.parts {
            known = known || has_key(part, key)?;
        }
        if !known {
            unknown.push(format!("no document has the key {key:?}"));
        }
    }
    Ok(unknown)
}

fn has_key(part: &Part, key: &str) -> Result<bool> {
    match &part.source {
        Source::Sealed(segment) => with_columns(segment, |columns| columns.has_key(key)),
        Source::Active(_, active) => {
            let mut found = false;
            let documents = active.chunks.iter().flat_map(|c| &c.documents);
            for document in documents {
                crate::format::attrs::scalars_of(document.meta(), key, &mut |_| found = true);
                if found {
                    break;
                }
            }
            Ok(found)
        }
    }
}

/// Metadata keys of all documents, sorted.
pub(crate) fn keys(snapshot: &Snapshot) -> Result<Vec<String>> {
    let mut keys = std::collections::BTreeSet::new();
    for part in &snapshot.parts {
        match &part.source {
            Source::Sealed(segment) => {
                keys.extend(segment.attrs().keys()?.into_iter().map(str::to_owned));
            }
            Source::Active(_, active) => {
                let documents = active.chunks.iter().flat_map(|c| &c.documents);
                documents.for_each(|d| keys.extend(d.meta().keys().cloned()));
            }
        }
    }
    Ok(keys.into_iter().collect())
}
