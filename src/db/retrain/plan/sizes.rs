//! Memory and disk of a run, by the sizes of what it holds and writes.

use super::course::Course;
use super::probe::{Indexing, Training};
use super::{PlannedSeconds, Run};
use crate::db::maintain::bytes_under;
use crate::db::snapshot::Source;
use crate::error::Result;
use crate::storage::LOG_DIR;

/// Bytes of numbers.
const F32: usize = size_of::<f32>();

impl Run<'_> {
    /// Bytes that the run holds before it trains, where the system does not tell.
    pub(super) fn held_bytes(&self) -> u64 {
        let texts = self.material.examples.iter().flat_map(|e| &e.texts).map(String::len).sum::<usize>();
        (self.corpus.rows.len() * F32 + texts) as u64 + self.encoder.files().total_bytes()
    }

    /// Bytes that are held at the peak, beside those held now.
    pub(super) fn memory(&self, course: &Course, training: Option<&Training>, indexing: &Indexing) -> u64 {
        let shape = self.shape();
        let corpus = self.corpus.rows.len() * F32;
        let examples = course.adapters.iter().copied().max().unwrap_or(0);
        // Vectors of the examples, once more as batches are gathered; matrix, gradient, moments and what is mapped.
        let adapter = 2 * examples * shape.sides * shape.dim * F32 + 6 * shape.dim * shape.dim * F32;
        // The candidate's rows, or those of the new generation beside its columns.
        let rows = 2 * corpus + indexing.stored_bytes as usize;
        let encoder = training.map_or(0, |training| {
            let trains = training.held_bytes + training.state_bytes;
            // The new files beside the encoder that they make.
            trains.max(2 * training.file_bytes + rows)
        });
        adapter.max(rows).max(encoder) as u64
    }

    /// Bytes written at the most at once, beside those on disk now.
    pub(super) fn disk(
        &self,
        seconds: &PlannedSeconds,
        training: Option<&Training>,
        indexing: &Indexing,
    ) -> Result<u64> {
        let generation = indexing.stored_bytes + indexing.graph_bytes + self.sealed(indexing)?;
        let dim = self.encoder.dim();
        let adapter = (dim * dim * F32) as u64;
        let Some(training) = training else { return Ok(generation + adapter) };
        let state = training.state_bytes as u64;
        // A state is replaced once the new one is whole; a short run saves that of its end alone.
        let replaced = seconds.train > self.keeper.every().as_secs_f64();
        let job = (self.corpus.stored_rows() * dim * F32) as u64;
        let model = training.file_bytes as u64 + adapter;
        Ok(most_on_disk(state, replaced, job + generation + model))
    }

    /// What is written when the documents that still are in the log are put into a segment, at the most: they take part
    /// with their vectors of today.
    fn sealed(&self, indexing: &Indexing) -> Result<u64> {
        let active = |part: &&crate::db::snapshot::Part| matches!(part.source, Source::Active(..));
        let documents: u64 = self.snapshot.parts.iter().filter(active).map(|part| part.live()).sum();
        if documents == 0 {
            return Ok(0);
        }
        let share = documents as f64 / self.corpus.documents.len().max(1) as f64;
        let log = bytes_under(self.inner.vfs.as_ref(), &self.inner.dir.join(LOG_DIR))?;
        let vectors = share * (self.corpus.stored_rows() * self.encoder.dim() * F32) as f64;
        Ok((share * indexing.stored_bytes as f64) as u64 + log.saturating_sub(vectors as u64))
    }
}

/// The larger of what training and publishing have on disk.
fn most_on_disk(state: u64, replaced: bool, published: u64) -> u64 {
    let training = if replaced { 2 * state } else { state };
    training.max(state + published)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_there_twice_only_while_it_is_replaced() {
        assert_eq!(most_on_disk(100, false, 20), 120);
        assert_eq!(most_on_disk(100, true, 20), 200);
        assert_eq!(most_on_disk(100, true, 130), 230);
        assert_eq!(most_on_disk(0, true, 7), 7);
    }
}
