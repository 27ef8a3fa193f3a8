//! Graphs of sealed segments: which are missing, and how they come about.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Inner;
use super::check::graph_problem;
use super::heir::Heir;
use super::snapshot::{Part, Snapshot, Source};
use super::turns::Pin;
use crate::error::Result;
use crate::format::manifest::{FileEntry, Manifest, SegmentEntry, VectorSet};
use crate::index::build_graph_upon;
use crate::index::hnsw::BuildParams;
use crate::options::Task;
use crate::storage::segment::Segment;

/// Below this many rows a scan is as fast as a graph.
pub(crate) const GRAPH_ROWS: usize = 4096;

/// How the graphs of a database are built.
pub(crate) fn build_params(manifest: &Manifest) -> BuildParams {
    BuildParams { builder: manifest.builder(), ..BuildParams::of(manifest.index()) }
}

/// Sealed parts with vectors of the active generation that are long enough for a graph and have none.
fn graphless(snapshot: &Snapshot) -> Result<Vec<(&Part, VectorSet)>> {
    let Some(generation) = snapshot.generation() else { return Ok(Vec::new()) };
    let shape = snapshot.shape_of(generation.id)?;
    let mut found = Vec::new();
    for part in &snapshot.parts {
        let Source::Sealed(segment) = &part.source else { continue };
        let set = segment.entry.vectors.iter().find(|v| v.generation == generation.id);
        // A graph is measured with the codes.
        let whole = segment.vectors(generation.id).is_some_and(|vectors| vectors.damaged_codes().is_none());
        let block = part.block(0, generation.id, shape)?;
        let long = block.is_some_and(|rows| rows.vectors.len >= GRAPH_ROWS && rows.graph.is_none()) && whole;
        found.extend(set.filter(|_| long).map(|&set| (part, set)));
    }
    Ok(found)
}

/// Whether every graph of the active generation leads to all rows of its segment.
pub(super) fn all_sound(snapshot: &Snapshot) -> Result<bool> {
    let Some(generation) = snapshot.generation() else { return Ok(true) };
    let shape = snapshot.shape_of(generation.id)?;
    for part in &snapshot.parts {
        if let Some(rows) = part.block(0, generation.id, shape)?
            && graph_problem(&rows).is_some()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Inner {
    /// Builds missing graphs with one thread.
    pub(super) fn build_graphs_aside(&self, heir: Option<&Heir>, task: &Task) -> Result<()> {
        if graphless(&self.snapshot())?.is_empty() {
            return Ok(());
        }
        let _pin = Pin::new(self, self.options.busy_timeout)?;
        let built = self.build_graphs(heir, 1, task);
        if self.maintenance.overdue.load(Ordering::Relaxed) {
            self.load.begin();
        }
        built
    }

    /// Builds the graph of each segment that is long enough and has none yet; that of `heir` upon an older one. The
    /// caller holds the maintenance lock and a pin.
    pub fn build_graphs(&self, heir: Option<&Heir>, threads: usize, task: &Task) -> Result<()> {
        let snapshot = self.snapshot();
        for (part, set) in graphless(&snapshot)? {
            let Source::Sealed(segment) = &part.source else { continue };
            self.check_graph(&snapshot, [part])?;
            let Some(file) = self.written_graph(&snapshot, part, set, heir, (threads, task))? else {
                continue;
            };
            self.commit(|manifest| {
                if let Some(entry) = manifest.segments.iter_mut().find(|s| s.id == segment.entry.id) {
                    // One that was found damaged since.
                    entry.files.retain(|old| old.path != file.path);
                    entry.files.push(file.clone());
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Gives a merged segment its graph before the segment counts, so that searches have those of the merged ones until then.
    /// Where that has to stop, the segment stays without. The caller holds the maintenance lock and a pin.
    pub(super) fn give_graph(
        &self,
        snapshot: &Snapshot,
        entry: &mut SegmentEntry,
        heir: Option<&Heir>,
        (threads, task): (usize, &Task),
    ) -> Result<()> {
        let Some(generation) = snapshot.generation() else { return Ok(()) };
        let Some(&set) = entry.vectors.iter().find(|set| set.generation == generation.id) else {
            return Ok(());
        };
        let segment = Segment::open(self.vfs.as_ref(), &self.dir, entry, &snapshot.manifest.database)?;
        let part = Part { source: Source::Sealed(Arc::new(segment)), dead: Arc::default() };
        if self.check_graph(snapshot, [&part]).is_err() {
            return Ok(());
        }
        match self.written_graph(snapshot, &part, set, heir, (threads, task)) {
            Ok(file) => entry.files.extend(file),
            Err(_) if task.check().is_err() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Builds and writes the graph of a sealed part, if that is long enough for one.
    fn written_graph(
        &self,
        snapshot: &Snapshot,
        part: &Part,
        set: VectorSet,
        heir: Option<&Heir>,
        (threads, task): (usize, &Task),
    ) -> Result<Option<FileEntry>> {
        let Source::Sealed(segment) = &part.source else { return Ok(None) };
        let (params, shape) = (build_params(&snapshot.manifest), snapshot.shape_of(set.generation)?);
        let id = segment.entry.id;
        let heir = heir.filter(|heir| heir.segment == id && heir.generation == set.generation);
        let old = heir.map(|heir| heir.old(shape)).transpose()?.flatten();
        let rows = part.rows(set.generation, shape)?;
        let Some(rows) = rows.first().filter(|rows| rows.vectors.len >= GRAPH_ROWS) else { return Ok(None) };
        let graph = build_graph_upon(&rows.vectors, old.as_ref(), &params, task, threads)?;
        let head = rows.vectors.cut_head(graph.sight);
        self.target().write_graph(id, set, &graph.encode(), &head).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::types::Document;
    use crate::{CreateOptions, Db, OpenOptions};

    fn vector(n: u32) -> Vec<f32> {
        (0..4).map(|i| ((n * 37 + i * 11) % 101) as f32 + 1.0).collect()
    }

    /// A database of so many rows more than a graph needs, in two segments.
    fn database(dir: &tempfile::TempDir) -> Db {
        let create = CreateOptions { vectors: Some(4), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
        for first in [0, GRAPH_ROWS as u32] {
            let rows = first..first + GRAPH_ROWS as u32;
            db.add(rows.map(|n| Document::from_vector(format!("{n}"), vector(n)))).unwrap();
            db.seal(&Task::default()).unwrap();
        }
        db
    }

    fn missing(db: &Db) -> usize {
        graphless(&db.inner.snapshot()).unwrap().len()
    }

    #[test]
    fn a_merged_segment_comes_with_its_graph_unless_that_has_to_stop() {
        for stops in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let db = database(&dir);
            assert_eq!(missing(&db), 2);
            let snapshot = db.inner.snapshot();
            let ids: Vec<u64> = snapshot.manifest.segments.iter().map(|segment| segment.id).collect();
            let building = Task::default();
            if stops {
                building.cancel();
            }
            db.inner.merge(&ids, Some(&building), &Task::default()).unwrap();
            let snapshot = db.inner.snapshot();
            assert_eq!((snapshot.manifest.segments.len(), missing(&db)), (1, usize::from(stops)));
            assert_eq!(db.count().unwrap(), 2 * GRAPH_ROWS as u64);
            let found = db.search_vector(&vector(7)).k(3).run().unwrap();
            assert_eq!(found.hits.len(), 3);
            assert!(db.check(false, &Task::default()).unwrap().ok);
        }
    }

    #[test]
    fn a_log_is_sealed_with_its_graph_unless_that_has_to_stop() {
        for (stops, superseded) in [(false, false), (true, false), (true, true)] {
            let dir = tempfile::tempdir().unwrap();
            let create = CreateOptions { vectors: Some(4), ..CreateOptions::default() };
            let options = OpenOptions { create, background: false, ..OpenOptions::default() };
            let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
            let rows = GRAPH_ROWS as u32;
            db.add((0..rows).map(|n| Document::from_vector(format!("{n}"), vector(n)))).unwrap();
            let building = Task::default();
            if stops {
                building.cancel();
            }
            db.inner.maintenance.uniting.store(usize::from(superseded), Ordering::Relaxed);
            db.inner.seal_with(Some(&building), &Task::default()).unwrap();
            let segments = db.inner.snapshot().manifest.segments.len();
            assert_eq!(
                (segments, missing(&db)),
                (usize::from(!superseded), usize::from(stops && !superseded))
            );
            db.delete(&["7".to_string()]).unwrap();
            db.inner.seal(&Task::default()).unwrap();
            assert_eq!(db.count().unwrap(), u64::from(rows) - 1);
            assert_eq!(db.search_vector(&vector(9)).k(3).run().unwrap().hits.len(), 3);
            assert!(db.check(false, &Task::default()).unwrap().ok);
        }
    }

    /// Segments with graphs are not given up for one without, which would be scanned until all are one.
    #[test]
    fn a_merge_that_stops_for_a_compaction_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(&dir);
        db.inner.build_graphs(None, 1, &Task::default()).unwrap();
        let ids: Vec<u64> = db.inner.snapshot().manifest.segments.iter().map(|segment| segment.id).collect();
        std::thread::scope(|scope| {
            let turn = db.inner.maintenance.alone();
            let compacting = scope.spawn(|| db.compact(&Task::default()));
            while !db.inner.maintenance.is_superseded() {
                std::thread::yield_now();
            }
            let building = Task::default().unless(db.inner.maintenance.wanted());
            db.inner.merge(&ids, Some(&building), &Task::default()).unwrap();
            let segments = db.inner.snapshot().manifest.segments.len();
            assert_eq!((segments, missing(&db)), (2, 0));
            drop(turn);
            compacting.join().unwrap().unwrap();
        });
        assert_eq!((db.inner.snapshot().manifest.segments.len(), missing(&db)), (1, 0));
        assert_eq!(db.count().unwrap(), 2 * GRAPH_ROWS as u64);
    }

    #[test]
    fn missing_graphs_are_built_aside_unless_somebody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(&dir);
        let building = || Task::default().unless(db.inner.maintenance.wanted());
        let aside = || db.inner.build_graphs_aside(None, &building());
        db.inner.maintenance.overdue.store(true, Ordering::Relaxed);
        assert!(matches!(aside(), Err(Error::Cancelled)));
        assert!(!db.inner.load.is_over(1), "it had to stop for a seal: a load is under way");
        db.inner.maintenance.overdue.store(false, Ordering::Relaxed);
        db.inner.maintenance.waiting.fetch_add(1, Ordering::Relaxed);
        assert!(matches!(aside(), Err(Error::Cancelled)));
        assert_eq!(missing(&db), 2);
        db.inner.maintenance.waiting.fetch_sub(1, Ordering::Relaxed);
        aside().unwrap();
        assert_eq!(missing(&db), 0);
        assert_eq!(db.search_vector(&vector(7)).k(3).run().unwrap().hits.len(), 3);
    }
}
