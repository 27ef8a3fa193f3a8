//! What a filter is evaluated over: the values of a key for all documents of a segment.

use super::{ID, TITLE};
use crate::error::Result;
use crate::format::attrs::{AttrsView, ColumnView, Scalar};
use crate::index::mask::RowBits;

/// Values by key, for documents `0..docs()`.
pub trait Columns {
    /// Number of documents.
    fn docs(&self) -> u32;

    /// Whether any document may have this key.
    fn has_key(&self, key: &str) -> Result<bool>;

    /// The key's column, if its values are in one.
    fn column(&self, key: &str) -> Result<Option<ColumnView<'_>>>;

    /// Calls `f` with each value under `key` and its document, in any order; several times for a document with an
    /// array. Under the key `id` every document has its external id.
    fn for_each(&self, key: &str, f: &mut dyn FnMut(u32, Scalar<'_>)) -> Result<()>;
}

/// Enumerates one text for each document that has it, as `(document, text)`.
pub type Texts<'a> = &'a dyn Fn(&mut dyn FnMut(u32, &str)) -> Result<()>;

/// The metadata columns of a segment together with its ids and titles, which are stored elsewhere and read only if
/// a filter names them.
pub struct SegmentColumns<'a> {
    /// Metadata; `None` if no document of the segment has any.
    pub attrs: Option<AttrsView<'a>>,
    /// Number of documents.
    pub docs: u32,
    /// Enumerates the external ids.
    pub ids: Texts<'a>,
    /// Enumerates the titles.
    pub titles: Texts<'a>,
}

impl<'a> SegmentColumns<'a> {
    fn attrs(&self, key: &str) -> Result<Option<ColumnView<'a>>> {
        self.attrs.map_or(Ok(None), |attrs| attrs.column(key))
    }
}

impl Columns for SegmentColumns<'_> {
    fn docs(&self) -> u32 {
        self.docs
    }

    fn has_key(&self, key: &str) -> Result<bool> {
        Ok(key == ID || key == TITLE || self.attrs(key)?.is_some())
    }

    fn column(&self, key: &str) -> Result<Option<ColumnView<'_>>> {
        if key == ID || key == TITLE { Ok(None) } else { self.attrs(key) }
    }

    fn for_each(&self, key: &str, f: &mut dyn FnMut(u32, Scalar<'_>)) -> Result<()> {
        if key == ID {
            return (self.ids)(&mut |doc, id| f(doc, Scalar::Text(id)));
        }
        let mut listed = RowBits::new(self.docs);
        if let Some(column) = self.attrs(key)? {
            column.for_each(&mut |doc, scalar| {
                listed.insert(doc);
                f(doc, scalar);
            })?;
        }
        if key != TITLE {
            return Ok(());
        }
        let listed = listed.finish();
        (self.titles)(&mut |doc, title| {
            if !listed.contains(doc) {
                f(doc, Scalar::Text(title));
            }
        })
    }
}
