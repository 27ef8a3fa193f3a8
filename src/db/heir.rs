//! Which graph a merged segment's own is built upon.

use super::assemble::blocks_of;
use super::check::graph_problem;
use super::columns::Shape;
use super::snapshot::{Part, Snapshot};
use crate::error::Result;
use crate::format::graph::NO_NODE;
use crate::index::hnsw::inherit::{Old, pays};

/// A merged segment, and the one of those in it whose graph its own is built upon.
pub(crate) struct Heir {
    /// The merged segment.
    pub segment: u64,
    /// Generation of the rows.
    pub generation: u32,
    part: Part,
    /// The number in the merged segment of each row of `part`.
    rows: Vec<u32>,
}

impl Heir {
    /// Of these parts merged into `segment`: the one that gives the most rows, if that is faster than to build anew.
    pub fn new(snapshot: &Snapshot, parts: &[&Part], segment: u64) -> Result<Option<Self>> {
        let Some(generation) = snapshot.generation().map(|generation| generation.id) else { return Ok(None) };
        let (mut total, mut most) = (0, None::<(usize, &Part, Vec<u32>)>);
        for &part in parts {
            let blocks = blocks_of(snapshot, part, generation)?;
            let mut rows: Vec<u32> =
                blocks.first().map_or_else(Vec::new, |block| vec![NO_NODE; block.vectors.len]);
            let start = total;
            for document in part.live_documents() {
                for row in blocks.iter().flat_map(|block| block.rows_of(document)) {
                    if let Some(number) = rows.get_mut(row as usize) {
                        *number = total as u32;
                    }
                    total += 1;
                }
            }
            let kept = total - start;
            let usable =
                blocks.first().is_some_and(|block| block.graph.is_some() && graph_problem(block).is_none());
            if usable && most.as_ref().is_none_or(|most| kept > most.0) {
                most = Some((kept, part, rows));
            }
        }
        let heir = most.filter(|(_, _, rows)| pays(rows, total));
        Ok(heir.map(|(_, part, rows)| Self { segment, generation, part: part.clone(), rows }))
    }

    /// The older graph.
    pub fn old<'a>(&'a self, shape: &'a Shape) -> Result<Option<Old<'a>>> {
        let block = self.part.block(0, self.generation, shape)?;
        Ok(block.and_then(|block| block.graph).map(|graph| Old { graph, rows: &self.rows }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Document, Metric};
    use crate::{CreateOptions, Db, OpenOptions, SearchOptions, Task};

    const DIM: usize = 8;

    fn vector(number: u32) -> Vec<f32> {
        let mut random = crate::index::testing::Random(u64::from(number));
        (0..DIM).map(|_| random.normal()).collect()
    }

    fn add(db: &Db, numbers: std::ops::Range<u32>) {
        db.add(numbers.map(|n| Document::from_vector(n.to_string(), vector(n)))).unwrap();
    }

    fn delete(db: &Db, numbers: impl Iterator<Item = u32>) {
        let ids: Vec<String> = numbers.map(|n| n.to_string()).collect();
        db.delete(&ids).unwrap();
    }

    /// What a compaction would build upon.
    fn heir(db: &Db) -> Option<Heir> {
        let snapshot = db.inner.snapshot();
        Heir::new(&snapshot, &snapshot.parts.iter().collect::<Vec<_>>(), 9).unwrap()
    }

    #[test]
    fn a_compaction_builds_upon_the_graph_of_the_largest_segment() {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { vectors: Some(DIM), metric: Metric::L2, ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
        add(&db, 0..6000);
        assert!(heir(&db).is_none(), "nothing has a graph");
        db.compact(&Task::default()).unwrap();
        add(&db, 6000..7000);
        delete(&db, (0..7000).filter(|n| n % 10 == 3));
        let found = heir(&db).unwrap();
        let live: Vec<u32> = (0..7000).filter(|n| n % 10 != 3).collect();
        for (old, &new) in found.rows.iter().enumerate() {
            let kept = live.iter().position(|&n| n == old as u32).map_or(NO_NODE, |n| n as u32);
            assert_eq!(new, kept);
        }
        db.compact(&Task::default()).unwrap();
        assert!(db.check(false, &Task::default()).unwrap().ok);
        let searcher = db.searcher(&SearchOptions { k: 1, ..SearchOptions::default() }).unwrap();
        let lost = live.iter().filter(|&&n| searcher.search(&vector(n)).unwrap()[0].id != n.to_string());
        assert!(lost.count() <= live.len() / 100);
        delete(&db, live.iter().copied().filter(|n| n % 2 == 0));
        assert!(heir(&db).is_none(), "half of it is gone");
    }
}
