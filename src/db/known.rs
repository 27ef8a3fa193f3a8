//! What the database knows of a document that is written again, so that only what is new of it is encoded.
//!
//! Invariants: a vector is taken for a chunk only if it was made of the very same text by the same model, and only if
//! storing it again gives the same bytes.

use std::collections::HashMap;

use super::snapshot::{Part, Snapshot};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::format::segment::DocumentRows;
use crate::storage::documents::StoredText;
use crate::types::Document;

/// What is known of one document.
#[derive(Debug)]
pub(crate) enum Known {
    /// Nothing that helps.
    Nothing,
    /// All its rows: title and text are those stored.
    Rows {
        /// The rows.
        rows: DocumentRows,
        /// Sequence number of the stored document, if its metadata is the same too.
        unchanged: Option<u64>,
    },
    /// Vectors of some chunks, by what the encoder read.
    Chunks(HashMap<String, Vec<f32>>),
}

impl Known {
    /// Sequence number of the stored document that is the same in all.
    pub fn unchanged(&self) -> Option<u64> {
        match self {
            Self::Rows { unchanged, .. } => *unchanged,
            _ => None,
        }
    }
}

impl Snapshot {
    /// What is known of a document with metadata `meta` under a generation. What is damaged is not known: the document
    /// is encoded as if it were new, and replaces it.
    pub fn known(&self, document: &Document, meta: &str, generation: &Generation) -> Result<Known> {
        let Some(place) = self.find(&document.id)? else { return Ok(Known::Nothing) };
        let part = self.part(place.part)?;
        match self.known_at(part, place.document, document, meta, generation) {
            Err(Error::Corrupt { .. }) => Ok(Known::Nothing),
            known => known,
        }
    }

    fn known_at(
        &self,
        part: &Part,
        number: u32,
        document: &Document,
        meta: &str,
        generation: &Generation,
    ) -> Result<Known> {
        let stored = part.text(number)?;
        let shape = self.shape_of(generation.id)?;
        let Some(rows) = part.stored_rows(number, generation.id, shape)? else { return Ok(Known::Nothing) };
        let title = |title: &Option<String>| title.clone().unwrap_or_default();
        if stored.text == document.text && title(&stored.title) == title(&document.title) {
            let same = stored.title == document.title && stored.meta == meta;
            let unchanged = if same { Some(part.sequence(number)?) } else { None };
            return Ok(Known::Rows { rows, unchanged });
        }
        Ok(Known::Chunks(chunks(stored, rows)))
    }
}

/// The vectors of a stored document by what the encoder read, where the stored bounds say exactly what that was.
fn chunks(stored: StoredText, rows: DocumentRows) -> HashMap<String, Vec<f32>> {
    let length = stored.text.len();
    let document = Document { title: stored.title, ..Document::new("", stored.text) };
    let full = document.full_text();
    let title = full.len() - length;
    let single = rows.spans.len() == 1;
    let texts = rows.spans.iter().enumerate().map(|(number, &[start, end])| {
        let (start, end) = (start as usize, end as usize);
        let range = match number {
            // A document that fits one chunk is read whole.
            0 if single => (start == 0 && end == length).then_some(0..full.len()),
            // The first begins with the title; where it ends before the text does not say where in the title.
            0 => (start == 0 && end > 0).then_some(0..title + end),
            // Another one may begin in the title, for all that is known, if it begins with the text.
            _ => (start > 0).then_some(title + start..title + end),
        };
        full.get(range?)
    });
    let vectors = rows.vectors.chunks_exact((rows.dim as usize).max(1));
    let known = texts.zip(vectors).filter_map(|(text, vector)| Some((text?.to_owned(), vector.to_vec())));
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(title: Option<&str>, text: &str, spans: &[[u32; 2]]) -> Vec<(String, f32)> {
        let stored = StoredText { title: title.map(str::to_owned), text: text.into(), meta: String::new() };
        let vectors = (0..spans.len()).map(|n| n as f32).collect();
        let rows = DocumentRows { generation: 1, dim: 1, spans: spans.to_vec(), vectors };
        let mut known: Vec<_> = chunks(stored, rows).into_iter().map(|(text, v)| (text, v[0])).collect();
        known.sort_by(|a, b| a.1.total_cmp(&b.1));
        known
    }

    #[test]
    fn a_whole_document_is_known_with_its_title() {
        assert_eq!(known(Some("T"), "a b", &[[0, 3]]), [("T\na b".to_owned(), 0.0)]);
        assert_eq!(known(Some(""), "a b", &[[0, 3]]), [("a b".to_owned(), 0.0)]);
        assert_eq!(known(None, "", &[[0, 0]]), [(String::new(), 0.0)]);
    }

    #[test]
    fn chunks_are_known_by_their_bounds() {
        let found = known(Some("T"), "ab cd ef", &[[0, 5], [3, 8]]);
        assert_eq!(found, [("T\nab cd".to_owned(), 0.0), ("cd ef".to_owned(), 1.0)]);
    }

    /// A title that fills the first chunk and more: where the first ends and the second begins is not stored.
    #[test]
    fn what_bounds_do_not_say_is_not_known() {
        let found = known(Some("a title of many words"), "ab cd", &[[0, 0], [0, 2], [1, 5]]);
        assert_eq!(found, [("b cd".to_owned(), 2.0)]);
        assert_eq!(known(None, "ab", &[[0, 1]]), []);
        assert_eq!(known(None, "é", &[[0, 1], [1, 2]]), []);
        assert_eq!(known(None, "ab", &[[0, 1], [1, 9]]), [("a".to_owned(), 0.0)]);
    }
}
