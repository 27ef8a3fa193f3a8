//! Filters over parts: from an expression to the exact set of documents.

use std::collections::BTreeSet;

use super::active::parse_meta;
use super::filter::{Columns, Filter, SegmentColumns};
use super::snapshot::{Part, Snapshot, Source};
use crate::error::Result;
use crate::format::attrs::{AttrsBuilder, AttrsView};
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
        Source::Sealed(segment) => match with_columns(segment, |columns| filter.mask(columns)) {
            Err(_) if segment.damaged_attrs().is_some() => by_documents(segment, filter),
            other => other,
        },
        Source::Active(_, active) => {
            let matches = |n: &u32| {
                active.document(*n).is_some_and(|d| filter.matches(&d.id, d.text.title.as_deref(), d.meta()))
            };
            Ok(RowMask::from_rows(part.documents(), (0..part.documents()).filter(matches)))
        }
    }
}

/// The same by a look at each document, where the columns are damaged.
fn by_documents(segment: &Segment, filter: &Filter) -> Result<RowMask> {
    let mut rows = Vec::new();
    for document in 0..segment.documents() {
        let text = segment.text(document)?;
        if filter.matches(segment.id(document)?, text.title.as_deref(), &parse_meta(&text.meta)) {
            rows.push(document);
        }
    }
    Ok(RowMask::from_rows(segment.documents(), rows))
}

/// Metadata keys of a sealed segment.
fn keys_of(segment: &Segment) -> Result<BTreeSet<String>> {
    let columns = || Ok(segment.attrs()?.keys()?.into_iter().map(str::to_owned).collect());
    match columns() {
        Err(_) if segment.damaged_attrs().is_some() => {}
        other => return other,
    }
    let mut columns = AttrsBuilder::default();
    for document in 0..segment.documents() {
        columns.push(document, &parse_meta(&segment.text(document)?.meta));
    }
    let columns = columns.finish()?;
    Ok(AttrsView::new(&columns).keys()?.into_iter().map(str::to_owned).collect())
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
    let attrs = Some(segment.attrs()?);
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
        Source::Sealed(segment) => match with_columns(segment, |columns| columns.has_key(key)) {
            Err(_) if segment.damaged_attrs().is_some() => Ok(keys_of(segment)?.contains(key)),
            other => other,
        },
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
    let mut keys = BTreeSet::new();
    for part in &snapshot.parts {
        match &part.source {
            Source::Sealed(segment) => keys.extend(keys_of(segment)?),
            Source::Active(_, active) => {
                let documents = active.chunks.iter().flat_map(|c| &c.documents);
                documents.for_each(|d| keys.extend(d.meta().keys().cloned()));
            }
        }
    }
    Ok(keys.into_iter().collect())
}
