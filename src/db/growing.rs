//! The index of the growing segment: hnsw_rs over the rows of the last log, once they are many.
//!
//! Logs grow that long in bulk loads, which seal by bytes alone, and where `seal_rows` says so. The maintenance thread
//! alone feeds the index, a time slice at a time, so that writes never wait for it, and only after a search has met many
//! rows in the log, and while few come. Rows that it does not have yet are scanned; so is everything where it finds too
//! little. It is never stored: a sealed segment gets a frozen graph instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::columns::Shape;
use super::snapshot::{Rows, Snapshot, Source};
use crate::error::Result;
use crate::index::hnsw::GrowingIndex;
use crate::index::{Neighbour, Query, RowMask, SearchParams, flat};

/// Rows from which an index pays; below, a scan is as fast, and its time more even.
const ROWS: usize = if cfg!(test) { 8_000 } else { 32_768 };
/// Where more rows come from one round of feeding to the next, the index would not catch up, and only be in the way.
const COMING: usize = 128;
/// How long one round of feeding may take.
const SLICE: Duration = Duration::from_millis(100);
/// Width of the beam where the search does not say.
const WIDTH: usize = 128;

/// The index, if there is one. It is made only when a search has met so many rows that it pays: whoever loads
/// vectors in bulk does not pay for it.
#[derive(Default)]
pub(crate) struct GrowingSlot {
    index: Mutex<Option<Growing>>,
    wanted: AtomicBool,
    /// Rows of the log at the last round of feeding.
    rows: AtomicUsize,
}

impl GrowingSlot {
    /// The index of a log's rows for a search that met so many of them; asks for one if there is none.
    pub fn wanted(&self, log: u64, generation: u32, rows: usize) -> Option<Growing> {
        if rows < ROWS {
            return None;
        }
        self.wanted.store(true, Ordering::Relaxed);
        self.index.lock().clone().filter(|g| g.log == log && g.generation == generation)
    }
}

/// The index of one log's rows.
#[derive(Clone)]
pub(crate) struct Growing {
    /// The log.
    pub log: u64,
    /// Generation of its rows.
    pub generation: u32,
    index: Arc<GrowingIndex>,
}

/// Feeds the index with rows of the last active part that it lacks, for one time slice.
pub(crate) fn feed(slot: &GrowingSlot, snapshot: &Snapshot, capacity: usize) -> Result<()> {
    if !slot.wanted.load(Ordering::Relaxed) {
        return Ok(());
    }
    let (slot, wanted, before) = (&slot.index, &slot.wanted, &slot.rows);
    let Some(generation) = snapshot.generation() else { return Ok(()) };
    let Some(part) = snapshot.parts.last() else { return Ok(()) };
    let Source::Active(log, active) = &part.source else { return Ok(()) };
    let shape = snapshot.shape_of(generation.id)?;
    if active.rows() < ROWS {
        // Sealed meanwhile: the next log gets an index only if it is searched too.
        wanted.store(false, Ordering::Relaxed);
        *slot.lock() = None;
        return Ok(());
    }
    let rows = active.rows();
    if rows.saturating_sub(before.swap(rows, Ordering::Relaxed)) > COMING {
        return Ok(());
    }
    let current = slot.lock().clone().filter(|g| g.log == *log && g.generation == generation.id);
    let growing = current.unwrap_or_else(|| Growing::new(*log, generation.id, shape, capacity));
    *slot.lock() = Some(growing.clone());
    let begun = Instant::now();
    let mut base = 0;
    let mut values = Vec::new();
    for block in part.rows(generation.id, shape)? {
        for row in 0..block.vectors.len as u32 {
            if (base + row) as usize >= growing.index.len() {
                block.vectors.values_of(row, &mut values);
                growing.index.insert(base + row, &values)?;
                if begun.elapsed() >= SLICE {
                    return Ok(());
                }
            }
        }
        base += block.vectors.len as u32;
    }
    Ok(())
}

impl std::fmt::Debug for Growing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Growing")
            .field("log", &self.log)
            .field("rows", &self.index.len())
            .finish_non_exhaustive()
    }
}

impl Growing {
    fn new(log: u64, generation: u32, shape: &Shape, capacity: usize) -> Self {
        let index = Arc::new(GrowingIndex::new(shape.dim, shape.metric, shape.codec, capacity));
        Self { log, generation, index }
    }

    /// Searches the leading blocks that the index covers whole; `blocks` are those of its part, in order, each with
    /// the rows that may be hits. Returns hits as (block, neighbour) and the number of blocks covered.
    pub fn search(
        &self,
        blocks: &[(&Rows<'_>, Option<&RowMask>)],
        query: &Query,
        params: &SearchParams,
    ) -> Option<(Vec<(usize, Neighbour)>, usize)> {
        if params.exact || query.rank_dim < query.dim {
            return None;
        }
        let mut starts = vec![0usize];
        for (rows, _) in blocks {
            let next = starts.last().copied().unwrap_or_default() + rows.vectors.len;
            if next > self.index.len() {
                break;
            }
            starts.push(next);
        }
        let covered = starts.len() - 1;
        let allowed = |n: usize| blocks.get(n).map_or(0, |(r, a)| a.map_or(r.vectors.len, |a| a.len()));
        let possible: usize = (0..covered).map(allowed).sum();
        // A filter that leaves little is served better, and exactly, by the scan.
        if covered == 0 || possible * 2 < starts[covered] {
            return None;
        }
        let wanted = flat::rescored(params.k);
        let ef = params.ef.unwrap_or(WIDTH).max(wanted);
        let mut by_block: Vec<Vec<Neighbour>> = vec![Vec::new(); covered];
        for found in self.index.search(query, ef, ef) {
            let n = starts.partition_point(|&s| s <= found.row as usize) - 1;
            let (Some(list), Some((_, mask))) = (by_block.get_mut(n), blocks.get(n)) else { continue };
            let row = found.row - starts[n] as u32;
            if mask.is_none_or(|m| m.contains(row)) {
                list.push(Neighbour { row, distance: found.distance });
            }
        }
        let mut hits = Vec::new();
        for (n, list) in by_block.iter().enumerate() {
            let exact = flat::rescore(&blocks[n].0.vectors, query, list, params.k, f32::INFINITY);
            hits.extend(exact.into_iter().map(|found| (n, found)));
        }
        (hits.len() >= params.k.min(possible)).then_some((hits, covered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;
    use crate::types::Document;
    use crate::{CreateOptions, OpenOptions};

    fn vector(n: u64) -> Vec<f32> {
        let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..16).map(|_| next()).collect()
    }

    #[test]
    fn a_growing_segment_is_searched_through_its_index_and_misses_nothing_new() {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { vectors: Some(16), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, seal_rows: 1 << 20, ..OpenOptions::default() };
        let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
        let n = ROWS as u64 + 600;
        db.add((0..n).map(|i| Document::from_vector(format!("{i}"), vector(i)))).unwrap();
        feed(&db.inner.growing, &db.inner.snapshot(), 10_000).unwrap();
        assert!(db.inner.growing.index.lock().is_none(), "nobody searched, and yet there is an index");
        db.search_vector(&vector(1)).run().unwrap();
        while db.inner.growing.index.lock().as_ref().is_none_or(|g| g.index.len() < n as usize) {
            feed(&db.inner.growing, &db.inner.snapshot(), 10_000).unwrap();
        }
        db.delete(&["5".into()]).unwrap();
        db.add([Document::from_vector("late", vector(n + 7))]).unwrap();
        let found = |v: &[f32]| db.search_vector(v).k(10).run().unwrap();
        assert_eq!(found(&vector(n + 7)).hits[0].id, "late");
        assert_ne!(found(&vector(5)).hits[0].id, "5");
        let mut recall = 0;
        for i in (0..n).step_by(200) {
            let query: Vec<f32> = vector(i).iter().zip(vector(i + 1)).map(|(a, b)| a + 0.4 * b).collect();
            let exact = db.search_vector(&query).k(10).exact(true).run().unwrap();
            let fast = found(&query);
            assert_eq!(fast.hits.len(), 10);
            recall += fast.hits.iter().filter(|h| exact.hits.iter().any(|e| e.id == h.id)).count();
        }
        let most = 10 * (n as usize).div_ceil(200);
        assert!(recall * 100 >= most * 95, "{recall} of {most}");
    }
}
