//! Many texts on several threads: batches of nearly equal lengths, one thread for each core unless fewer are asked for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::batch::{TokenBatch, plan};
use super::{Encoder, ops};
use crate::error::{Error, Result};
use crate::options::Task;

/// Texts tokenized and sorted together: enough for batches of equal lengths, little enough memory.
const GROUP_TEXTS: usize = 4_096;

/// Vectors of `texts`, in their order.
pub(crate) fn encode(encoder: &Encoder, texts: &[&str], task: &Task) -> Result<Vec<f32>> {
    let total = texts.len() as u64;
    let mut vectors = Vec::with_capacity(texts.len() * encoder.dim());
    task.step("embed", 0, total)?;
    for group in texts.chunks(GROUP_TEXTS) {
        let done = (vectors.len() / encoder.dim()) as u64;
        let ids = encoder.tokenizer().encode_batch(group)?;
        let group = Group { encoder, ids: &ids, progress: Progress { task, done, total } };
        vectors.extend(group.encode()?);
    }
    Ok(vectors)
}

struct Progress<'a> {
    task: &'a Task,
    /// Texts done in earlier groups.
    done: u64,
    total: u64,
}

/// Texts that are encoded together, tokenized.
struct Group<'a> {
    encoder: &'a Encoder,
    ids: &'a [Vec<u32>],
    progress: Progress<'a>,
}

/// What the threads of a group share.
struct Shared {
    /// The next batch to take.
    next: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    vectors: Vec<f32>,
    done: u64,
    failure: Option<Error>,
}

impl Group<'_> {
    fn encode(&self) -> Result<Vec<f32>> {
        let lengths: Vec<usize> = self.ids.iter().map(Vec::len).collect();
        let (order, ranges) = plan(&lengths);
        let batches: Vec<&[usize]> = ranges.iter().filter_map(|range| order.get(range.clone())).collect();
        let shared = Shared {
            next: AtomicUsize::new(0),
            state: Mutex::new(State {
                vectors: vec![0.0; self.ids.len() * self.encoder.dim()],
                done: 0,
                failure: None,
            }),
        };
        let allowed = ops::threads_or_cores(self.encoder.threads);
        let threads = allowed.min(batches.len());
        if threads <= 1 {
            ops::on_threads(allowed, || self.work(&batches, &shared));
        } else {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| ops::on_threads(1, || self.work(&batches, &shared)));
                }
            });
        }
        let state = shared.state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        match state.failure {
            Some(error) => Err(error),
            None => Ok(state.vectors),
        }
    }

    /// Takes batches until none is left or one has failed.
    fn work(&self, batches: &[&[usize]], shared: &Shared) {
        while let Some(batch) = batches.get(shared.next.fetch_add(1, Ordering::Relaxed)) {
            let rows = self.embed(batch);
            // Another thread's panic leaves the state whole: it is changed in single steps.
            let mut state = shared.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let step = rows.and_then(|rows| self.store(&mut state, batch, &rows));
            if let Err(error) = step {
                state.failure.get_or_insert(error);
                shared.next.store(batches.len(), Ordering::Relaxed);
                return;
            }
        }
    }

    fn embed(&self, batch: &[usize]) -> Result<Vec<f32>> {
        let rows: Vec<&[u32]> = batch.iter().map(|&i| self.ids[i].as_slice()).collect();
        self.encoder.embed(&TokenBatch::new(&rows, self.encoder.config().bert.pad)?)
    }

    fn store(&self, state: &mut State, batch: &[usize], rows: &[f32]) -> Result<()> {
        let dim = self.encoder.dim();
        for (&text, row) in batch.iter().zip(rows.chunks(dim)) {
            state.vectors[text * dim..(text + 1) * dim].copy_from_slice(row);
        }
        state.done += batch.len() as u64;
        self.progress.task.step("embed", self.progress.done + state.done, self.progress.total)
    }
}
