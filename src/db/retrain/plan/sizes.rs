//! Memory and disk of a run, by the sizes of what it holds and writes.

use super::course::Course;
use super::probe::{Indexing, Training};
use super::{PlannedSeconds, Run};
use crate::db::clean::bytes_under;
use crate::db::snapshot::{Part, Source};
use crate::error::Result;
use crate::storage::LOG_DIR;

/// Bytes of numbers.
const F32: usize = size_of::<f32>();

impl Run<'_> {
    /// Bytes that were held until here, where the system does not tell.
    pub(super) fn held_bytes(&self, training: Option<&Training>) -> u64 {
        let texts = self.material.examples.iter().flat_map(|e| &e.texts).map(String::len).sum::<usize>();
        let training = training.map_or(0, |training| training.held_bytes);
        (3 * self.corpus.rows.len() * F32 + texts + training) as u64 + self.encoder.files().total_bytes()
    }

    /// Bytes that are held at the peak beside those that the plan itself held, which has ranked the corpus, and trained a
    /// little.
    pub(super) fn memory(&self, course: &Course, training: Option<&Training>, indexing: &Indexing) -> u64 {
        let (shape, options) = (self.shape(), self.adapter_options());
        let corpus = self.corpus.rows.len() * F32;
        let examples = course.adapters.iter().copied().max().unwrap_or(0).max(course.further);
        // Vectors of the examples, once more where they are gathered; scores of each batch at each rung with their derivatives.
        let batch = options.batch.min(examples);
        let adapter =
            2 * examples * shape.sides * shape.dim * F32 + 8 * batch * batch * self.ladder.len() * F32;
        // Rows and columns of the new generation, beside the documents that are sealed.
        let rows = corpus + 2 * indexing.stored_bytes as usize;
        let Some(training) = training else {
            // What a model derives from is read again.
            return (adapter + rows) as u64 + self.encoder.files().total_bytes();
        };
        let trains = training.grown_bytes + training.state_bytes;
        // The new files beside the encoder that they make, and its rows as they are encoded and as they judge.
        let after = 2 * training.file_bytes + corpus + rows;
        (adapter.max(trains).max(after)) as u64
    }

    /// Bytes written at the most at once, beside those on disk now.
    pub(super) fn disk(
        &self,
        seconds: &PlannedSeconds,
        training: Option<&Training>,
        indexing: &Indexing,
    ) -> Result<u64> {
        let [sealed, log] = self.sealed(indexing)?;
        let dim = self.encoder.dim();
        let adapter = (dim * dim * F32) as u64;
        // Once documents are sealed their log is given back.
        let generation =
            (sealed + indexing.stored_bytes + indexing.graph_bytes + adapter).saturating_sub(log);
        let Some(training) = training else { return Ok(generation.max(sealed)) };
        let state = training.state_bytes as u64;
        // A state is replaced once the new one is whole; a short run saves that of its end alone.
        let replaced = seconds.train > self.keeper.every().as_secs_f64();
        let job = (self.corpus.stored_rows() * dim * F32) as u64;
        let published = generation.max(sealed) + training.file_bytes as u64;
        Ok(most_on_disk(state, replaced, job + published))
    }

    /// Bytes that are written when the documents that still are in the log are put into a segment, at the most, and those of
    /// the log. The documents take part with their vectors of today.
    fn sealed(&self, indexing: &Indexing) -> Result<[u64; 2]> {
        let active = |part: &&Part| matches!(part.source, Source::Active(..));
        let documents: u64 = self.snapshot.parts.iter().filter(active).map(Part::live).sum();
        if documents == 0 {
            return Ok([0; 2]);
        }
        let share = documents as f64 / self.corpus.documents.len().max(1) as f64;
        let log = bytes_under(self.inner.vfs.as_ref(), &self.inner.dir.join(LOG_DIR))?;
        let vectors = share * (self.corpus.stored_rows() * self.encoder.dim() * F32) as f64;
        Ok([(share * indexing.stored_bytes as f64) as u64 + log.saturating_sub(vectors as u64), log])
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
