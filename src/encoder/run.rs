//! Many texts on several threads.
//!
//! Each thread takes some texts at a time, tokenizes them, and passes them through the model in tiles. A vector does
//! not depend on the texts beside its own, so that any division gives the same result.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fast::TILE_TOKENS;
use super::{Encoder, Role};
use crate::error::{Error, Result};
use crate::kernel::threads::threads_or_cores;
use crate::options::Task;

/// Most bytes of texts that a thread takes at a time, if they are several: some tiles of tokens, so that few are not
/// full, and a fraction of a second of work, so that threads end together.
const PART_BYTES: usize = 16 << 10;

/// Fewest bytes worth a thread of their own, or a part of their own: about as long as it takes to start one, a hundred
/// times over.
const PART_BYTES_MIN: usize = 1 << 10;

/// Parts for each thread, so that threads end together.
const PARTS: usize = 8;

/// Vectors of `texts`, in their order.
pub(crate) fn encode(encoder: &Encoder, texts: &[&str], role: Role, task: &Task) -> Result<Vec<f32>> {
    task.step("embed", 0, texts.len() as u64)?;
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    let threads = threads_or_cores(encoder.threads).min(bytes / PART_BYTES_MIN).max(1);
    let part_bytes = match threads {
        1 => PART_BYTES,
        _ => (bytes / threads / PARTS).clamp(PART_BYTES_MIN, PART_BYTES),
    };
    let parts = parts(texts, part_bytes);
    let work = Work {
        encoder,
        texts,
        role,
        skipped: encoder.skipped(role)?,
        task,
        parts: &parts,
        next: AtomicUsize::new(0),
        state: Mutex::new(State { vectors: vec![0.0; texts.len() * encoder.dim()], done: 0, failure: None }),
    };
    match threads.min(parts.len()) {
        0 | 1 => work.run(),
        threads => std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| work.run());
            }
            work.run();
        }),
    }
    let state = work.state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match state.failure {
        Some(error) => Err(error),
        None => Ok(state.vectors),
    }
}

/// Cuts texts into runs of at most `most` bytes, each at least one text.
fn parts(texts: &[&str], most: usize) -> Vec<Range<usize>> {
    runs(texts.iter().map(|text| text.len()), most)
}

/// Cuts a sequence of sizes into runs whose sum is at most `most`, each at least one long.
pub(super) fn runs(sizes: impl Iterator<Item = usize>, most: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut room = 0;
    for (at, size) in sizes.enumerate() {
        match runs.last_mut() {
            Some(run) if size <= room => {
                run.end = at + 1;
                room -= size;
            }
            _ => {
                runs.push(at..at + 1);
                room = most.saturating_sub(size);
            }
        }
    }
    runs
}

/// What the threads share.
struct Work<'a> {
    encoder: &'a Encoder,
    texts: &'a [&'a str],
    role: Role,
    /// Tokens of the prompt that are not pooled.
    skipped: usize,
    task: &'a Task,
    parts: &'a [Range<usize>],
    /// The next part to take.
    next: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    vectors: Vec<f32>,
    done: u64,
    failure: Option<Error>,
}

impl Work<'_> {
    /// Takes parts until none is left or one has failed.
    fn run(&self) {
        while let Some(part) = self.parts.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let vectors = self.vectors(self.texts.get(part.clone()).unwrap_or_default());
            // Another thread's panic leaves the state whole: it is changed in single steps.
            let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let step = vectors.and_then(|vectors| self.store(&mut state, part.start, &vectors));
            if let Err(error) = step {
                state.failure.get_or_insert(error);
                self.next.store(self.parts.len(), Ordering::Relaxed);
                return;
            }
        }
    }

    /// Vectors of a part, in order.
    fn vectors(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let encode = |text: &&str| self.encoder.tokenizer().encode(&self.encoder.prompted(text, self.role));
        let ids: Result<Vec<Vec<u32>>> = texts.iter().map(encode).collect();
        let ids = ids?;
        let mut vectors = Vec::with_capacity(texts.len());
        for tile in runs(ids.iter().map(Vec::len), TILE_TOKENS) {
            let tile: Vec<&[u32]> = ids.get(tile).unwrap_or_default().iter().map(Vec::as_slice).collect();
            vectors.extend(self.encoder.embed(&tile, self.role, self.skipped)?);
        }
        Ok(vectors)
    }

    fn store(&self, state: &mut State, first: usize, vectors: &[Vec<f32>]) -> Result<()> {
        let dim = self.encoder.dim();
        let rows = state.vectors.chunks_exact_mut(dim).skip(first);
        rows.zip(vectors).for_each(|(row, vector)| row.copy_from_slice(vector));
        state.done += vectors.len() as u64;
        self.task.step("embed", state.done, self.texts.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_everything_once_within_their_budget() {
        assert_eq!(runs([3, 4, 5, 20, 0, 1].into_iter(), 10), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(runs([0, 0, 12].into_iter(), 0), [0..2, 2..3]);
        assert!(runs([].into_iter(), 10).is_empty());
    }
}
