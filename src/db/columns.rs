//! Vectors in columns: how the rows of documents become the arrays that are searched and stored.

use crate::error::{Error, Result};
use crate::format::segment::DocumentRows;
use crate::index::VectorBlock;
use crate::index::quantize::{normalize, quantize, rung_norms};
use crate::kernel::planes::split;
use crate::storage::segment_writer::VectorColumns;
use crate::types::{Codec, Metric};

/// Shape of all rows of a generation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    /// Dimension.
    pub dim: usize,
    /// Matryoshka ladder, ascending.
    pub ladder: Vec<usize>,
    /// Metric of the database.
    pub metric: Metric,
    /// Stored forms.
    pub codec: Codec,
}

impl Shape {
    /// A vector as it is stored: normalised under cosine.
    pub fn stored(&self, mut vector: Vec<f32>) -> Vec<f32> {
        if self.metric == Metric::Cosine {
            normalize(&mut vector);
        }
        vector
    }
}

/// Collects rows, document by document.
#[derive(Debug, Clone)]
pub(crate) struct ColumnsBuilder {
    shape: Shape,
    columns: VectorColumns,
    /// Inverse norms row by row; laid out rung by rung at the end.
    norms: Vec<f32>,
}

impl ColumnsBuilder {
    /// No rows yet.
    pub fn new(shape: Shape) -> Self {
        let columns = VectorColumns { first: vec![0], ..VectorColumns::default() };
        Self { shape, columns, norms: Vec::new() }
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.columns.spans.len()
    }

    /// Appends a document with its rows, which are in stored form.
    pub fn push(&mut self, rows: &DocumentRows) -> Result<()> {
        let dim = self.shape.dim;
        if rows.dim as usize != dim || rows.vectors.len() != rows.spans.len() * dim {
            let what = format!("rows of {} dimensions where {dim} are stored", rows.dim);
            return Err(Error::corrupt("rows", 0, what));
        }
        for (span, vector) in rows.spans.iter().zip(rows.vectors.chunks_exact(dim)) {
            self.push_vector(*span, vector);
        }
        self.end_document();
        Ok(())
    }

    /// Appends a document with rows `rows` of another block, bit for bit.
    pub fn copy(
        &mut self,
        block: &VectorBlock<'_>,
        spans: &[[u32; 2]],
        rows: std::ops::Range<u32>,
    ) -> Result<()> {
        let dim = self.shape.dim;
        let mut values = Vec::with_capacity(dim);
        for row in rows {
            let span = spans.get(row as usize).copied().unwrap_or_default();
            if block.has_full() || !block.has_codes() {
                values.clear();
                values.extend_from_slice(block.full_of(row));
                self.push_vector(span, &values);
            } else {
                let mut codes = vec![0; dim];
                block.codes_of(row, &mut codes);
                self.push_codes(&codes, block.scale_of(row));
                self.columns.spans.push(span);
            }
        }
        self.end_document();
        Ok(())
    }

    /// Ends a document that has no (more) rows.
    pub fn end_document(&mut self) {
        self.columns.first.push(self.columns.spans.len() as u32);
    }

    fn push_vector(&mut self, span: [u32; 2], vector: &[f32]) {
        if self.shape.codec.has_codes() {
            let mut codes = vec![0; vector.len()];
            let scale = quantize(vector, &mut codes);
            self.push_codes(&codes, scale);
        }
        if self.shape.codec.has_full() {
            self.columns.full.extend_from_slice(vector);
        }
        self.columns.spans.push(span);
    }

    fn push_codes(&mut self, codes: &[i8], scale: f32) {
        split(codes, &mut self.columns.high, &mut self.columns.low);
        // Under cosine lengths do not count.
        if self.shape.metric != Metric::Cosine {
            self.columns.scales.push(scale);
        }
        let at = self.norms.len();
        self.norms.resize(at + self.shape.ladder.len(), 0.0);
        rung_norms(codes, &self.shape.ladder, &mut self.norms[at..]);
    }

    /// Brings the norms into rung order, so that [`Self::columns`] is complete.
    pub fn lay_out(&mut self) {
        let rungs = self.shape.ladder.len();
        let rows = self.norms.len() / rungs;
        self.columns.norms.clear();
        for rung in 0..rungs {
            self.columns.norms.extend((0..rows).map(|row| self.norms[row * rungs + rung]));
        }
    }

    /// The columns as of the last [`Self::lay_out`].
    pub fn columns(&self) -> &VectorColumns {
        &self.columns
    }

    /// The finished columns.
    pub fn finish(mut self) -> VectorColumns {
        self.lay_out();
        self.columns
    }
}
