//! A search prepared once for many vectors.
//!
//! Everything that does not depend on the vector is done when a [`Searcher`] is made: the snapshot is taken, the
//! filter evaluated, the rows that may be hits counted. What remains for each vector beyond the search of the
//! blocks themselves is a look at the vector and at the ids of the hits: a microsecond or two.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::cap::Cap;
use super::growing::{Growing, GrowingSlot};
use super::mask;
use super::search::SearchOptions;
use super::snapshot::{Place, Rows, Snapshot, Source};
use crate::error::{Error, Result};
use crate::index::flat::scan_many;
use crate::index::{Neighbour, Query, RowMask, SearchParams, search_block};
use crate::mmap::faults;
use crate::options::Task;
use crate::types::{ChunkRef, Document, Metric, vector_problem};

/// Up to so many documents with several rows, a list is faster than a set.
const FEW: usize = 64;

/// A search prepared for many vectors, over one unchanging view of the database. May be shared by threads.
pub struct Searcher {
    snapshot: Arc<Snapshot>,
    generation: u32,
    blocks: Vec<Block>,
    /// Which of the blocks are of logs: small, and in memory.
    active: Range<usize>,
    /// Index of the growing segment, and the range of its blocks.
    growing: Option<(Growing, Range<usize>)>,
    options: SearchOptions,
    pub(crate) metric: Metric,
    dim: usize,
    rank_dim: usize,
    /// Documents that may be hits and have rows.
    matches: usize,
    /// Rows that may be hits.
    rows: usize,
    /// Bound on mapped memory.
    cap: Option<Cap>,
    /// Whose search it is.
    task: Task,
}

/// Rows that are searched.
#[derive(Debug)]
struct Block {
    part: u32,
    /// Which of the part's blocks.
    number: usize,
    /// Those that may be hits, if not all.
    allowed: Option<RowMask>,
}

/// A document that was found, without its contents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Match<'a> {
    /// Id.
    pub id: &'a str,
    /// Larger is better.
    pub score: f32,
    /// Smaller is nearer.
    pub distance: f32,
    /// The best chunk.
    pub chunk: ChunkRef,
}

/// A document that was found, by place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub place: Place,
    pub chunk: ChunkRef,
    pub distance: f32,
}

impl std::fmt::Debug for Searcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Searcher");
        shown.field("options", &self.options).field("matches", &self.matches).finish_non_exhaustive()
    }
}

impl Searcher {
    /// Evaluates the filter and counts what may be found in a generation.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        generation: u32,
        options: SearchOptions,
        growing: Option<&GrowingSlot>,
        task: &Task,
    ) -> Result<Self> {
        let shape = snapshot.shape_of(generation)?;
        let rank_dim = options.dim.unwrap_or(shape.dim);
        if rank_dim == 0 || rank_dim > shape.dim {
            return Err(Error::input(format!(
                "--dim {rank_dim} is not between 1 and the database's dimension {}",
                shape.dim
            )));
        }
        let mut searcher = Self {
            metric: shape.metric,
            dim: shape.dim,
            snapshot: Arc::clone(&snapshot),
            generation,
            blocks: Vec::new(),
            active: 0..0,
            growing: None,
            options,
            rank_dim,
            matches: 0,
            rows: 0,
            cap: None,
            task: task.clone(),
        };
        for number in 0..snapshot.parts.len() {
            task.check()?;
            searcher.add_part(number as u32, growing)?;
        }
        Ok(searcher)
    }

    fn add_part(&mut self, number: u32, growing: Option<&GrowingSlot>) -> Result<()> {
        let snapshot = Arc::clone(&self.snapshot);
        let (part, shape) = (snapshot.part(number)?, snapshot.shape_of(self.generation)?);
        let begin = self.blocks.len();
        let documents = mask::allowed(part, self.options.filter.as_ref())?;
        // One chunk for each search: a bulk load does not pay for what nobody searches, and a search some hundred
        // microseconds at most.
        if let Source::Active(_, active) = &part.source
            && !(documents.is_some() || self.options.exact || self.rank_dim < self.dim)
            && let Some(number) = active.unsketched()
            && let Some(rows) = part.block(number, self.generation, shape)?
        {
            active.chunks[number].sketch(&rows.vectors);
        }
        for block in 0..part.blocks() {
            let Some(rows) = part.block(block, self.generation, shape)? else { continue };
            let masked = documents.as_ref().map(|d| rows.mask(d));
            let (count, matches) = match &masked {
                Some((allowed, matches)) => (allowed.len(), *matches),
                None => (rows.vectors.len, rows.documents().len()),
            };
            self.rows += count;
            self.matches += matches;
            if let Source::Sealed(segment) = &part.source
                && (rows.graph.is_none() || self.options.exact || self.rank_dim < self.dim)
                && let Some(vectors) = segment.vectors(self.generation)
                && count > 0
            {
                vectors.expect_scan(self.options.exact);
            }
            if count > 0 || matches!(part.source, Source::Active(..)) {
                self.blocks.push(Block { part: number, number: block, allowed: masked.map(|m| m.0) });
            }
        }
        if matches!(part.source, Source::Active(..)) {
            let first = if self.active.is_empty() { begin } else { self.active.start };
            self.active = first..self.blocks.len();
        }
        if let (Source::Active(log, active), Some(slot)) = (&part.source, growing) {
            let index = slot.wanted(*log, self.generation, active.rows());
            self.growing = index.map(|index| (index, begin..self.blocks.len())).or(self.growing.take());
        }
        Ok(())
    }

    /// The same, holding a bound on mapped memory after each search.
    pub(crate) fn within(self, cap: Option<Cap>) -> Self {
        Self { cap, ..self }
    }

    /// Dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Documents that may be hits.
    pub fn matches(&self) -> usize {
        self.matches
    }

    /// The best documents for a vector, best first: `k` of them, or as many as there are.
    ///
    /// # Errors
    /// [`Error::Input`] for a vector of another dimension, or one without a distance to anything.
    pub fn search(&self, vector: &[f32]) -> Result<Vec<Match<'_>>> {
        if let Some(problem) = vector_problem(vector, self.dim, self.metric) {
            return Err(Error::input(format!("the query: {problem}")));
        }
        let named = |found: &Found| {
            let (distance, score) = (found.distance, self.metric.score(found.distance));
            Ok(Match { id: self.id(found)?, score, distance, chunk: found.chunk })
        };
        let found = self.find(vector)?;
        self.expect_ids(&found);
        found.iter().map(named).collect()
    }

    /// Requests the ids of what was found from where they lie.
    fn expect_ids(&self, found: &[Found]) {
        for (number, part) in self.snapshot.parts.iter().enumerate() {
            if let Source::Sealed(segment) = &part.source {
                let places = found.iter().map(|found| found.place);
                let here = places.filter(move |place| place.part as usize == number);
                segment.expect_ids(here.map(|place| place.document));
            }
        }
    }

    /// A document of this view by id.
    pub fn document(&self, id: &str) -> Result<Option<Document>> {
        self.snapshot.find(id)?.map(|place| self.snapshot.document(place)).transpose()
    }

    /// The id of a document that was found.
    pub(crate) fn id(&self, found: &Found) -> Result<&str> {
        self.snapshot.part(found.place.part)?.id_of(found.place.document)
    }

    /// As [`Self::search`], for a vector that was looked at, by place.
    pub(crate) fn find(&self, vector: &[f32]) -> Result<Vec<Found>> {
        let query = Query::new(vector, self.metric, self.dim, self.rank_dim).of(&self.task);
        let wanted = self.options.k.min(self.matches);
        let mut k = self.options.k;
        loop {
            let mut found = self.best(&query, k)?;
            // With fewer distinct documents than wanted, several rows were of one document: look at more rows.
            if found.len() >= wanted || k >= self.rows {
                found.truncate(wanted);
                self.cap.iter().for_each(|cap| cap.hold(&self.snapshot));
                faults::check()?;
                return Ok(found);
            }
            k = (k * 4).min(self.rows);
        }
    }

    fn rows_of<'a>(&'a self, block: &Block) -> Result<Rows<'a>> {
        let shape = self.snapshot.shape_of(self.generation)?;
        let rows = self.snapshot.part(block.part)?.block(block.number, self.generation, shape)?;
        rows.ok_or_else(|| Error::corrupt("rows", 0, "a block of rows vanished from a snapshot"))
    }

    /// Distinct documents among the best `k` rows.
    fn best(&self, query: &Query, k: usize) -> Result<Vec<Found>> {
        let params = SearchParams {
            k,
            ef: self.options.ef,
            target_recall: self.options.target_recall,
            exact: self.options.exact,
            within: f32::INFINITY,
        };
        let mut chosen = Chosen::new(k);
        let covered = self.search_growing(query, &params, &mut chosen)?;
        let small = if params.exact { 0..0 } else { self.active.clone() };
        let searched = |n: &usize| covered.contains(n) || small.contains(n);
        for (n, block) in self.blocks.iter().enumerate().filter(|(n, _)| !searched(n)) {
            let params = SearchParams { within: chosen.keep_nearest(k), ..params };
            let (rows, found) = loop {
                let (rows, found) = self.search_block(block, query, &params)?;
                // Each time a file is found damaged the rows are without it, or an error.
                if !rows.is_damaged() {
                    break (rows, found);
                }
            };
            if self.blocks.len() == 1 {
                // Sorted already: no second look at the block.
                return Ok(chosen.documents(found.iter().map(|f| (f.distance, f.row)), block.part, &rows));
            }
            chosen.rows.extend(found.into_iter().map(|f| (f.distance, n, f.row)));
        }
        // After the graphs: what they found tells nearly all rows of a log that they are too far.
        self.search_together(small.filter(|n| !covered.contains(n)), query, k, &mut chosen)?;
        chosen.keep_nearest(k);
        for (distance, n, row) in std::mem::take(&mut chosen.rows) {
            let Some(block) = self.blocks.get(n) else { continue };
            chosen.push(distance, row, block.part, &self.rows_of(block)?);
        }
        Ok(chosen.found)
    }

    /// The rows of a block, and the nearest of them: of no worth if the rows are damaged.
    fn search_block<'a>(
        &'a self,
        block: &Block,
        query: &Query,
        params: &SearchParams,
    ) -> Result<(Rows<'a>, Vec<Neighbour>)> {
        let mut rows = self.rows_of(block)?;
        let paging = self.snapshot.part(block.part)?.paging(self.generation);
        paging.into_iter().for_each(|paging| rows.read_with(paging));
        let search =
            || search_block(&rows.vectors, rows.graph.as_ref(), query, params, block.allowed.as_ref());
        let found = match paging {
            None => search(),
            Some(paging) => {
                let found = paging.watch(search);
                rows.request_next(paging);
                found
            }
        };
        // What a scan found that was stopped is of no worth.
        self.task.check()?;
        Ok((rows, found))
    }

    /// Adds hits of small blocks that have no graph.
    fn search_together(
        &self,
        numbers: impl Iterator<Item = usize>,
        query: &Query,
        k: usize,
        chosen: &mut Chosen,
    ) -> Result<()> {
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for number in numbers {
            let Some(block) = self.blocks.get(number) else { continue };
            places.push(number);
            rows.push((self.rows_of(block)?.vectors, block.allowed.as_ref()));
        }
        let place = |n: usize| places.get(n).copied().unwrap_or_default();
        let found = scan_many(&rows, query, k, chosen.keep_nearest(k));
        self.task.check()?;
        chosen.rows.extend(found.into_iter().map(|(n, hit)| (hit.distance, place(n), hit.row)));
        Ok(())
    }

    /// Adds hits from the index of the growing segment; returns the blocks that need no scan any more.
    fn search_growing(
        &self,
        query: &Query,
        params: &SearchParams,
        chosen: &mut Chosen,
    ) -> Result<Range<usize>> {
        let Some((growing, range)) = &self.growing else { return Ok(0..0) };
        let blocks = self.blocks.get(range.clone()).unwrap_or_default();
        let rows: Vec<Rows<'_>> = blocks.iter().map(|b| self.rows_of(b)).collect::<Result<_>>()?;
        let masked: Vec<_> = rows.iter().zip(blocks).map(|(r, b)| (r, b.allowed.as_ref())).collect();
        let Some((hits, covered)) = growing.search(&masked, query, params) else { return Ok(0..0) };
        chosen.rows.extend(hits.into_iter().map(|(n, hit)| (hit.distance, range.start + n, hit.row)));
        Ok(range.start..range.start + covered)
    }
}

/// Documents chosen so far, each once.
struct Chosen {
    /// Rows of several blocks that are to be brought into order: distance, block, row.
    rows: Vec<(f32, usize, u32)>,
    found: Vec<Found>,
    /// Documents with several rows that were met, while they are few.
    few: Vec<Place>,
    many: HashSet<Place>,
}

impl Chosen {
    fn new(k: usize) -> Self {
        let found = Vec::with_capacity(k.min(1 << 10));
        Self { rows: Vec::new(), found, few: Vec::new(), many: HashSet::new() }
    }

    /// Keeps the `k` nearest of the rows so far, in order; the distance of the last of them, if they are so many.
    fn keep_nearest(&mut self, k: usize) -> f32 {
        self.rows.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        self.rows.truncate(k);
        let last = self.rows.last().filter(|_| self.rows.len() == k);
        last.map_or(f32::INFINITY, |&(distance, ..)| distance)
    }

    fn documents(mut self, rows: impl Iterator<Item = (f32, u32)>, part: u32, of: &Rows<'_>) -> Vec<Found> {
        rows.for_each(|(distance, row)| self.push(distance, row, part, of));
        self.found
    }

    /// Takes the document of a row, unless a better row of it came before.
    fn push(&mut self, distance: f32, row: u32, part: u32, of: &Rows<'_>) {
        let (document, chunk) = of.locate(row);
        let place = Place { part, document };
        if of.rows_of(document).len() <= 1 || self.is_new(place) {
            self.found.push(Found { place, chunk, distance });
        }
    }

    fn is_new(&mut self, place: Place) -> bool {
        if self.few.len() < FEW {
            let new = !self.few.contains(&place);
            if new {
                self.few.push(place);
            }
            return new;
        }
        !self.few.contains(&place) && self.many.insert(place)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::db::Db;
    use crate::db::filter::Filter;
    use crate::options::Durability;
    use crate::{CreateOptions, OpenOptions};

    fn vector(n: u64) -> Vec<f32> {
        (0..8).map(|i| ((n * 37 + i * 101) % 97) as f32 - 48.0).collect()
    }

    fn documents(range: Range<u64>) -> impl Iterator<Item = Document> {
        range.map(|n| Document::from_vector(format!("d{n}"), vector(n)).meta("n", n))
    }

    fn database(dir: &tempfile::TempDir, durability: Durability) -> Db {
        let create = CreateOptions { vectors: Some(8), ..CreateOptions::default() };
        let options = OpenOptions {
            create,
            durability,
            background: false,
            seal_bytes: 8 << 10,
            ..OpenOptions::default()
        };
        Db::open_with(dir.path().join("a.embdb"), options).unwrap()
    }

    #[test]
    fn a_search_stops_when_its_time_is_over_or_its_task_is_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(&dir, Durability::Full);
        db.add(documents(0..40)).unwrap();
        let query = vector(1);
        let search = || db.search_vector(&query).k(3);
        assert_eq!(search().timeout(Duration::from_secs(3600)).run().unwrap().hits.len(), 3);
        let error = search().timeout(Duration::ZERO).run().unwrap_err();
        assert!(error.exit_code() == 5 && error.to_string().contains("--timeout"), "{error}");
        let task = Task::default();
        assert_eq!(search().task(&task).run().unwrap().hits.len(), 3);
        task.cancel();
        assert!(matches!(search().task(&task).run(), Err(Error::Cancelled)));
        let limited = Task::default().within(Duration::ZERO);
        assert_eq!(db.compact(&limited).unwrap_err().exit_code(), 5);
        db.compact(&Task::default()).unwrap();
    }

    #[test]
    fn a_searcher_finds_what_a_search_finds_and_keeps_its_view() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(&dir, Durability::Full);
        db.add(documents(0..40)).unwrap();
        db.seal(&Task::default()).unwrap();
        db.add(documents(30..60)).unwrap();
        db.delete(&["d3".into(), "d35".into()]).unwrap();
        for filter in [None, Some("n < 45 AND n != 7")] {
            let filter = filter.map(|text| Filter::parse(text).unwrap());
            let options = SearchOptions { k: 7, filter, ..SearchOptions::default() };
            let searcher = db.searcher(&options).unwrap();
            for n in 0..60 {
                let query = vector(n);
                let mut search = db.search_vector(&query).k(7);
                if let Some(filter) = &options.filter {
                    search = search.filter(filter.expression()).unwrap();
                }
                let hits = search.run().unwrap().hits;
                let expected: Vec<_> = hits.iter().map(|h| (h.id.as_str(), h.distance, h.score)).collect();
                let found = searcher.search(&vector(n)).unwrap();
                assert_eq!(found.iter().map(|m| (m.id, m.distance, m.score)).collect::<Vec<_>>(), expected);
            }
        }
        let searcher = db.searcher(&SearchOptions { k: 100, ..SearchOptions::default() }).unwrap();
        db.delete(&["d20".into()]).unwrap();
        db.compact(&Task::default()).unwrap();
        assert_eq!(searcher.search(&vector(20)).unwrap()[0].id, "d20");
        assert_eq!((searcher.search(&vector(1)).unwrap().len(), searcher.matches()), (58, 58));
        assert_eq!(searcher.search(&[1.0; 7]).unwrap_err().exit_code(), 1);
    }

    #[test]
    fn many_queries_can_be_cancelled() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(&dir, Durability::Full);
        db.add(documents(0..40)).unwrap();
        let queries: Vec<f32> = (0..100).flat_map(vector).collect();
        let task = Task::default();
        let report = db.knn(&queries, &SearchOptions::default(), 2, &task).unwrap();
        assert_eq!((report.ids.len(), report.ids[5][0].as_str()), (100, "d5"));
        task.cancel();
        let stopped = db.knn(&queries, &SearchOptions::default(), 2, &task);
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }

    #[test]
    fn a_bulk_load_is_compacted_to_what_was_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(&dir, Durability::Bulk);
        for start in (0..600).step_by(50) {
            db.add(documents(start..start + 60)).unwrap();
        }
        assert!(db.info().unwrap().segments > 3, "the load was to be sealed on the way");
        db.compact(&Task::default()).unwrap();
        let look = |db: &Db| {
            assert_eq!((db.info().unwrap().segments, db.count().unwrap()), (1, 610));
            let searcher = db.searcher(&SearchOptions { k: 1, ..SearchOptions::default() }).unwrap();
            for n in (0..97).step_by(5) {
                let found = searcher.search(&vector(n)).unwrap();
                assert!(found[0].distance.abs() < 1e-6, "{n}: {found:?}");
            }
            assert_eq!(db.count_where("n >= 600").unwrap().count, 10);
            assert!(db.check(false, &Task::default()).unwrap().ok);
        };
        look(&db);
        drop(db);
        look(&database(&dir, Durability::Full));
    }

    /// Two documents of three rows and one of none, in one block.
    #[test]
    fn a_document_with_several_rows_is_one_hit() {
        let (first, spans) = ([0, 3, 3, 6], [[0, 1], [1, 2], [2, 3], [0, 4], [4, 5], [5, 6]]);
        let full = [1.0f32, 0.0, 0.9, 0.1, 0.0, 1.0, 0.5, 0.5, 0.6, 0.4, 0.2, 0.8];
        let ladder = [2];
        let vectors = crate::index::VectorBlock::new(
            2,
            Metric::Dot,
            &ladder,
            6,
            crate::index::Codes::default(),
            &[],
            &[],
            &full,
        )
        .unwrap();
        let rows = Rows { vectors, graph: None, first: &first, spans: &spans, base: 0 };
        let ranked = [(0.1, 0), (0.2, 4), (0.3, 1), (0.4, 3), (0.5, 5)];
        let found = Chosen::new(5).documents(ranked.into_iter(), 0, &rows);
        let places: Vec<_> = found.iter().map(|f| (f.place.document, f.chunk.index, f.distance)).collect();
        assert_eq!(places, [(0, 0, 0.1), (2, 1, 0.2)]);
        let (mask, count) = rows.mask(&RowMask::from_rows(8, [0, 1, 7]));
        assert_eq!((mask, count), (RowMask::from_rows(6, [0, 1, 2]), 1));
    }
}
