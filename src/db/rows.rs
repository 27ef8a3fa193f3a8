//! Rows of documents: their own vectors, what is known already, or chunks encoded.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::Inner;
use super::columns::Shape;
use super::encoders::{ChunkText, Encoder, chunk_document};
use super::known::Known;
use super::write::StoredDocument;
use crate::error::Result;
use crate::format::manifest::Generation;
use crate::format::segment::DocumentRows;
use crate::options::Task;
use crate::storage::documents::StoredText;
use crate::types::{Document, Meta};

/// A document whose rows are being made.
enum Plan {
    /// They are known.
    Rows(DocumentRows),
    /// Bounds of each chunk, and where its vector comes from.
    Chunks(Vec<([u32; 2], Origin)>),
}

/// Where a vector comes from.
enum Origin {
    /// It is known, in stored form.
    Stored(Vec<f32>),
    /// It is made of the text with this number.
    Encoded(usize),
}

impl Inner {
    /// Rows of documents in a generation: their own vectors, or chunks encoded.
    pub fn rows_of(
        &self,
        shape: &Shape,
        generation: &Generation,
        documents: &[Document],
        task: &Task,
    ) -> Result<Vec<DocumentRows>> {
        if generation.model_id.is_empty() {
            let one =
                |d: &Document| plain_rows(d, generation, shape.stored(d.vector.clone().unwrap_or_default()));
            return Ok(documents.iter().map(one).collect());
        }
        let known = documents.iter().map(|_| Known::Nothing).collect();
        self.rows_beside(shape, generation, documents, known, task)
    }

    /// Stored texts with rows made anew.
    pub fn embedded(
        &self,
        texts: Vec<(String, StoredText)>,
        generation: &Generation,
        task: &Task,
    ) -> Result<Vec<StoredDocument>> {
        let document = |(id, text): &(String, StoredText)| Document {
            id: id.clone(),
            title: text.title.clone(),
            text: text.text.clone(),
            meta: Meta::default(),
            vector: None,
        };
        let documents: Vec<Document> = texts.iter().map(document).collect();
        let snapshot = self.snapshot();
        let rows = self.rows_of(snapshot.shape_of(generation.id)?, generation, &documents, task)?;
        let stored = texts.into_iter().zip(rows).map(|((id, text), rows)| StoredDocument { id, text, rows });
        Ok(stored.collect())
    }

    /// A stored encoder with its share of the threads, where several batches are being prepared.
    fn sharing_encoder(&self, model_id: &str) -> Result<Encoder> {
        let all = match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let threads = all.div_ceil(self.preparing.load(Ordering::Relaxed).max(1));
        self.encoder(model_id).map(|encoder| encoder.with_threads(threads))
    }

    /// Rows of documents of which something is known; the encoder is loaded only if something is not. Each text is
    /// encoded once.
    pub fn rows_beside(
        &self,
        shape: &Shape,
        generation: &Generation,
        documents: &[Document],
        known: Vec<Known>,
        task: &Task,
    ) -> Result<Vec<DocumentRows>> {
        let mut texts = Texts::default();
        let mut encoder = None;
        let mut plans = Vec::with_capacity(documents.len());
        for (document, known) in documents.iter().zip(known) {
            task.step("chunk", 0, 0)?;
            let stored = match known {
                Known::Rows { rows, .. } => {
                    plans.push(Plan::Rows(rows));
                    continue;
                }
                Known::Chunks(stored) => stored,
                Known::Nothing => HashMap::new(),
            };
            let encoder = match &encoder {
                Some(encoder) => encoder,
                None => encoder.insert(self.sharing_encoder(&generation.model_id)?),
            };
            plans.push(Plan::Chunks(plan(chunk_document(encoder, document)?, stored, &mut texts)));
        }
        let vectors = match &encoder {
            Some(encoder) => texts.encode(encoder, shape, task)?,
            None => Vec::new(),
        };
        let rows = plans.into_iter().map(|plan| match plan {
            Plan::Rows(rows) => DocumentRows { generation: generation.id, ..rows },
            Plan::Chunks(chunks) => chunk_rows(chunks, generation, &vectors),
        });
        Ok(rows.collect())
    }
}

fn plan(
    chunks: Vec<ChunkText>,
    mut stored: HashMap<String, Vec<f32>>,
    texts: &mut Texts,
) -> Vec<([u32; 2], Origin)> {
    let origin = |ChunkText { span, text }| {
        let origin = match stored.remove(&text) {
            Some(vector) => Origin::Stored(vector),
            None => Origin::Encoded(texts.number(text)),
        };
        (span, origin)
    };
    chunks.into_iter().map(origin).collect()
}

fn chunk_rows(
    chunks: Vec<([u32; 2], Origin)>,
    generation: &Generation,
    encoded: &[Vec<f32>],
) -> DocumentRows {
    let (dim, mut spans) = (generation.dim, Vec::with_capacity(chunks.len()));
    let mut vectors = Vec::with_capacity(chunks.len() * dim as usize);
    for (span, origin) in chunks {
        spans.push(span);
        match origin {
            Origin::Stored(vector) => vectors.extend(vector),
            Origin::Encoded(number) => vectors.extend(encoded.get(number).into_iter().flatten()),
        }
    }
    DocumentRows { generation: generation.id, dim, spans, vectors }
}

/// The one row of a document with a vector of its own, which is in stored form.
pub(crate) fn plain_rows(document: &Document, generation: &Generation, vectors: Vec<f32>) -> DocumentRows {
    let spans = vec![[0, document.text.len() as u32]];
    DocumentRows { generation: generation.id, dim: generation.dim, spans, vectors }
}

/// Texts to encode, no two alike.
#[derive(Default)]
struct Texts {
    numbers: HashMap<String, usize>,
}

impl Texts {
    /// The number of a text.
    fn number(&mut self, text: String) -> usize {
        let next = self.numbers.len();
        *self.numbers.entry(text).or_insert(next)
    }

    /// Vectors of all texts, by number, in stored form.
    fn encode(&self, encoder: &Encoder, shape: &Shape, task: &Task) -> Result<Vec<Vec<f32>>> {
        if self.numbers.is_empty() {
            return Ok(Vec::new());
        }
        let mut texts: Vec<(&str, usize)> =
            self.numbers.iter().map(|(text, &n)| (text.as_str(), n)).collect();
        texts.sort_unstable_by_key(|&(_, number)| number);
        let texts: Vec<&str> = texts.into_iter().map(|(text, _)| text).collect();
        let vectors = encoder.encode(&texts, task)?;
        Ok(vectors.chunks_exact(shape.dim.max(1)).map(|vector| shape.stored(vector.to_vec())).collect())
    }
}
