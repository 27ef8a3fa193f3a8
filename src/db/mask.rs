//! Filters over parts: from an expression to the exact set of documents.

use std::path::Path;

use roaring::RoaringBitmap;

use super::filter::{Columns, Filter, SegmentColumns};
use super::snapshot::{Part, Snapshot, Source};
use crate::error::{Error, Result};
use crate::format::attrs::AttrsView;

/// Live documents of a part that a filter lets through; `None` if all of them may.
pub(crate) fn allowed(part: &Part, filter: Option<&Filter>) -> Result<Option<RoaringBitmap>> {
    match filter {
        None if part.dead.is_empty() => Ok(None),
        None => Ok(Some(everything(part) - part.dead.as_ref())),
        Some(filter) => Ok(Some(matching(part, filter)? - part.dead.as_ref())),
    }
}

fn everything(part: &Part) -> RoaringBitmap {
    let mut all = RoaringBitmap::new();
    all.insert_range(0..part.documents());
    all
}

fn matching(part: &Part, filter: &Filter) -> Result<RoaringBitmap> {
    match &part.source {
        Source::Sealed(_) => with_columns(part, |columns| filter.mask(columns)),
        Source::Active(_, active) => {
            let matches = |n: &u32| {
                active.document(*n).is_some_and(|d| filter.matches(&d.id, d.text.title.as_deref(), d.meta()))
            };
            Ok((0..part.documents()).filter(matches).collect())
        }
    }
}

/// Hands the columns of a sealed part to `f`; an error met while ids or titles were read comes back.
fn with_columns<T>(part: &Part, f: impl FnOnce(&dyn Columns) -> T) -> Result<T> {
    let Source::Sealed(segment) = &part.source else {
        return Err(Error::input("an active part has no columns"));
    };
    let problem = std::cell::RefCell::new(None);
    let ids = |each: &mut dyn FnMut(u32, &str)| {
        for document in 0..part.documents() {
            match segment.id(document) {
                Ok(id) => each(document, id),
                Err(error) => *problem.borrow_mut() = Some(error),
            }
        }
    };
    let titles = |each: &mut dyn FnMut(u32, &str)| {
        for document in 0..part.documents() {
            match segment.text(document) {
                Ok(text) => text.title.iter().for_each(|title| each(document, title)),
                Err(error) => *problem.borrow_mut() = Some(error),
            }
        }
    };
    let attrs = AttrsView::access(segment.attrs()?, Path::new("attrs"))?;
    let columns = SegmentColumns { attrs: Some(attrs), docs: part.documents(), ids: &ids, titles: &titles };
    let result = f(&columns);
    problem.into_inner().map_or(Ok(result), Err)
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
        Source::Sealed(_) => with_columns(part, |columns| columns.has_key(key)),
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
                let view = AttrsView::access(segment.attrs()?, Path::new("attrs"))?;
                keys.extend(view.keys().map(str::to_owned));
            }
            Source::Active(_, active) => {
                let documents = active.chunks.iter().flat_map(|c| &c.documents);
                documents.for_each(|d| keys.extend(d.meta().keys().cloned()));
            }
        }
    }
    Ok(keys.into_iter().collect())
}
