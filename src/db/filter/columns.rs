//! What a filter is evaluated over: the values of a key for all documents of a segment.

use roaring::RoaringBitmap;

use super::{ID, TITLE};
use crate::format::attrs::{AttrsView, Scalar};

/// Values by key, for documents `0..docs()`.
pub trait Columns {
    /// Number of documents.
    fn docs(&self) -> u32;

    /// Whether any document may have this key.
    fn has_key(&self, key: &str) -> bool;

    /// Calls `f` with each value under `key` and its document, best in ascending order of documents; several times
    /// for a document with an array. Under the key `id` every document has its external id.
    fn for_each(&self, key: &str, f: &mut dyn FnMut(u32, Scalar<'_>));
}

/// Enumerates one text for each document that has it, as `(document, text)`.
pub type Texts<'a> = &'a dyn Fn(&mut dyn FnMut(u32, &str));

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

impl SegmentColumns<'_> {
    fn meta(&self, key: &str, f: &mut dyn FnMut(u32, Scalar<'_>)) {
        if let Some(column) = self.attrs.and_then(|attrs| attrs.column(key)) {
            column.entries().for_each(|(doc, scalar)| f(doc, scalar));
        }
    }
}

impl Columns for SegmentColumns<'_> {
    fn docs(&self) -> u32 {
        self.docs
    }

    fn has_key(&self, key: &str) -> bool {
        key == ID || key == TITLE || self.attrs.is_some_and(|attrs| attrs.column(key).is_some())
    }

    fn for_each(&self, key: &str, f: &mut dyn FnMut(u32, Scalar<'_>)) {
        match key {
            ID => (self.ids)(&mut |doc, id| f(doc, Scalar::Text(id))),
            TITLE => {
                let mut titled = RoaringBitmap::new();
                self.meta(key, &mut |doc, scalar| {
                    titled.insert(doc);
                    f(doc, scalar);
                });
                (self.titles)(&mut |doc, title| {
                    if !titled.contains(doc) {
                        f(doc, Scalar::Text(title));
                    }
                });
            }
            _ => self.meta(key, f),
        }
    }
}
