//! `check`: every byte that a reader uses, verified without changing anything.

mod orphans;
mod recall;

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::snapshot::{Part, Rows, Snapshot, Source};
use super::state::State;
use super::{Db, file_system};
use crate::error::{Error, Result};
use crate::format::graph::Sight;
use crate::index::hnsw::repair::unreachable;
use crate::index::{Codes, VectorBlock};
use crate::options::{Io, Task};
#[cfg(not(feature = "encoder"))]
use crate::storage::models;
use crate::storage::segment::{Segment, vectors_dir};
use crate::storage::segment_file::Damage;
use crate::storage::vfs::Vfs;
use crate::storage::{self, Presence, feedback, manifests};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, relative to the database where it lies in it.
    pub file: String,
    /// Offset of the first contradiction.
    pub offset: u64,
    /// What it is.
    pub what: String,
}

impl Problem {
    /// What is wrong with a file of the database in `dir`.
    pub(super) fn new(dir: &Path, damage: Damage) -> Self {
        let Damage { file, offset, what } = damage;
        let file = file.strip_prefix(dir).map(Path::to_path_buf).unwrap_or(file);
        Self { file: file.to_string_lossy().into_owned(), offset, what }
    }
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CheckReport {
    /// Nothing is wrong.
    pub ok: bool,
    /// Live documents.
    pub documents: u64,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Files and directories that nothing names, relative to the database: left by a process that was killed, or being
    /// written by one that is not done. Nobody reads them; a writer removes those that are of no use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<String>,
    /// Of the ten nearest by exact search, the share that an ordinary search finds: of a sample of stored vectors, by a
    /// deep check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
}

impl Db {
    /// Verifies every file. `deep`: also that stored vectors are what the encoder makes of their documents, and how many of
    /// the nearest searches find (of samples).
    pub fn check(&self, deep: bool, task: &Task) -> Result<CheckReport> {
        check_in(&self.inner.vfs, &self.inner.dir, deep, task)
    }
}

/// Checks a database, also one that does not open.
pub fn check_path(path: &Path, deep: bool, task: &Task) -> Result<CheckReport> {
    check_path_by(Io::Map, path, deep, task)
}

/// The same with its files read in this way.
pub fn check_path_by(io: Io, path: &Path, deep: bool, task: &Task) -> Result<CheckReport> {
    check_in(&file_system(io), path, deep, task)
}

/// The same in any file system.
pub(super) fn check_in(vfs: &Arc<dyn Vfs>, dir: &Path, deep: bool, task: &Task) -> Result<CheckReport> {
    let mut checker = Checker { vfs: vfs.as_ref(), dir, report: CheckReport::default() };
    match storage::presence(vfs.as_ref(), dir) {
        Ok(Presence::Absent) => {
            checker.report.ok = true;
            return Ok(checker.report);
        }
        Ok(Presence::Database) => checker.all(task)?,
        Err(error @ (Error::NotADatabase(_) | Error::TooNew { .. })) => return Err(error),
        Err(error) => checker.note(error)?,
    }
    if deep && checker.report.problems.is_empty() {
        let options = crate::options::OpenOptions { background: false, ..Default::default() };
        let db = Db::open_vfs(Arc::clone(vfs), dir, options)?;
        checker.embed_again(&db, task)?;
        checker.report.recall = recall::measure(&db, task)?;
    }
    checker.report.ok = checker.report.problems.is_empty();
    Ok(checker.report)
}

struct Checker<'a> {
    vfs: &'a dyn Vfs,
    dir: &'a Path,
    report: CheckReport,
}

impl Checker<'_> {
    /// Keeps corruption as a finding; anything else ends the check.
    fn note(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { file, offset, what } => {
                let problem = Problem::new(self.dir, Damage { file, offset, what });
                if !self.report.problems.contains(&problem) {
                    self.report.problems.push(problem);
                }
                Ok(())
            }
            other => Err(other),
        }
    }

    fn keep<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.note(error).map(|()| None),
        }
    }

    fn all(&mut self, task: &Task) -> Result<()> {
        // Older manifests are kept for the curious alone, yet a reader may meet them.
        for number in manifests::numbers(self.vfs, self.dir)? {
            let read = manifests::read(self.vfs, self.dir, number);
            self.keep(read)?;
        }
        let loaded = State::load(self.vfs, self.dir, None);
        let Some(Some(state)) = self.keep(loaded)? else { return Ok(()) };
        let snapshot = state.snapshot();
        self.report.documents = snapshot.count();
        for (n, part) in snapshot.parts.iter().enumerate() {
            task.step("check", n as u64, snapshot.parts.len() as u64)?;
            self.part(&snapshot, part)?;
        }
        self.models(&snapshot)?;
        let manifest = &snapshot.manifest;
        self.report.orphans = orphans::find(self.vfs, self.dir, manifest)?;
        for file in &manifest.feedback {
            let read = feedback::read_merged(self.vfs, self.dir, file, &manifest.database);
            self.keep(read)?;
        }
        for path in feedback::unmerged(self.vfs, self.dir)? {
            let read = feedback::read_unmerged(self.vfs, &path, &manifest.database);
            self.keep(read)?;
        }
        Ok(())
    }

    /// Verifies all bytes of a part; what they say if all are sound that nothing could make anew.
    fn part(&mut self, snapshot: &Snapshot, part: &Part) -> Result<()> {
        let Source::Sealed(segment) = &part.source else { return Ok(()) };
        let before = self.report.problems.len();
        for file in segment.files() {
            // Of a file that can be made anew a note is kept, which tells so.
            let verified = file.verify_all();
            if file.damage().is_none_or(|found| segment.damages().all(|known| known != found)) {
                self.keep(verified)?;
            }
        }
        let sound = self.report.problems.len() == before;
        if sound {
            let checked = check_part(snapshot, part, segment);
            self.keep(checked)?;
        }
        for damage in segment.damages() {
            self.note(damage.error())?;
        }
        Ok(())
    }

    fn models(&mut self, snapshot: &Snapshot) -> Result<()> {
        let manifest = &snapshot.manifest;
        let mut ids: Vec<&str> = manifest.generations.iter().map(|g| g.model_id.as_str()).collect();
        ids.extend(manifest.models.iter().map(|m| m.model_id.as_str()));
        ids.sort_unstable();
        ids.dedup();
        for id in ids.into_iter().filter(|id| !id.is_empty()) {
            let checked = self.model(id, snapshot);
            self.keep(checked)?;
        }
        Ok(())
    }

    #[cfg(feature = "encoder")]
    fn model(&self, id: &str, snapshot: &Snapshot) -> Result<()> {
        super::Encoders::load(self.vfs, self.dir, id, snapshot.manifest.precision()).map(|_| ())
    }

    #[cfg(not(feature = "encoder"))]
    fn model(&self, id: &str, _snapshot: &Snapshot) -> Result<()> {
        models::read(self.vfs, self.dir, id).map(|_| ())
    }

    /// Embeds a sample of documents again and compares.
    fn embed_again(&mut self, db: &Db, task: &Task) -> Result<()> {
        const SAMPLE: usize = 64;
        const COSINE: f32 = 0.999;
        let snapshot = db.inner.snapshot();
        let Some(generation) = snapshot.generation().filter(|g| !g.model_id.is_empty()) else {
            return Ok(());
        };
        let shape = snapshot.shape_of(generation.id)?;
        for part in &snapshot.parts {
            let step = (part.documents() as usize / SAMPLE).max(1);
            let blocks = part.rows(generation.id, shape)?;
            for document in part.live_documents().step_by(step) {
                task.step("embed", u64::from(document), u64::from(part.documents()))?;
                let again =
                    db.inner.rows_of(shape, generation, &[part.document(document)?], &task.quiet())?;
                let block = blocks.iter().rev().find(|b| b.base <= document);
                let stored = block.map(|b| b.extract(document, generation.id));
                let same = match (&stored, again.first()) {
                    (Some(a), Some(b)) => a.spans == b.spans && cosine(&a.vectors, &b.vectors) >= COSINE,
                    _ => false,
                };
                if !same {
                    let what = format!(
                        "the vectors of document {:?} are not what its encoder makes of it",
                        part.id(document)?
                    );
                    self.report.problems.push(Problem { file: "rows".into(), offset: 0, what });
                }
            }
        }
        Ok(())
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(p, q)| p * q).sum::<f32>();
    if a.len() != b.len() { 0.0 } else { dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE) }
}

fn check_part(snapshot: &Snapshot, part: &Part, segment: &Segment) -> Result<()> {
    if segment.damaged_attrs().is_none() {
        segment.attrs()?.check(segment.documents())?;
    }
    for document in 0..part.documents() {
        let id = segment.id(document)?;
        if segment.find(id)? != Some(document) {
            return Err(Error::corrupt(
                "ids",
                0,
                format!("the id {id:?} does not lead back to its document"),
            ));
        }
        segment.text(document)?;
    }
    for set in &segment.entry.vectors {
        for rows in part.rows(set.generation, snapshot.shape_of(set.generation)?)? {
            if !rows.first.is_sorted() {
                let what = "the first rows of the documents are out of order";
                return Err(Error::corrupt("rows", 0, what));
            }
            check_norms(&rows)?;
            if let Some(what) = graph_problem(&rows) {
                let file = format!("{}/graph", vectors_dir(segment.entry.id, *set));
                return Err(Error::corrupt(file, 0, what));
            }
        }
    }
    Ok(())
}

/// What is wrong with the graph of rows, if they have one: searches find only the nodes that can be reached.
pub(super) fn graph_problem(rows: &Rows<'_>) -> Option<String> {
    const CURE: &str = "; compact builds it anew";
    let (graph, vectors) = (rows.graph.as_ref()?, &rows.vectors);
    let rows = vectors.len;
    if is_head_wrong(vectors, graph.sight()) {
        return Some(format!("the heads of rows are not what their codes begin with{CURE}"));
    }
    let lost = unreachable(graph).len();
    let what = || format!("{lost} of {rows} nodes of the graph cannot be reached from its entry{CURE}");
    (lost > 0).then(what)
}

/// Heads are copies, so they are made again.
fn is_head_wrong(block: &VectorBlock<'_>, sight: Sight) -> bool {
    let Codes { high, low } = block.head.codes;
    let [expected_high, expected_low] = block.cut_head(sight);
    !high.is_empty() && high != expected_high || !low.is_empty() && low != expected_low
}

/// Norms follow from the codes, so they are recomputed.
fn check_norms(rows: &Rows<'_>) -> Result<()> {
    let block = &rows.vectors;
    if !block.has_codes() {
        return Ok(());
    }
    let (mut codes, mut norms) = (vec![0; block.dim], vec![0.0; block.ladder.len()]);
    for row in 0..block.len {
        block.codes_of(row as u32, &mut codes);
        crate::index::quantize::rung_norms(&codes, block.ladder, &mut norms);
        let stored = (0..block.ladder.len()).map(|rung| block.norms.get(rung * block.len + row).copied());
        if !stored.zip(&norms).all(|(stored, &found)| stored == Some(found)) {
            return Err(Error::corrupt(
                "codes",
                0,
                format!("the stored norms of row {row} are not those of its codes"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::file::{FileBuilder, Kind, Layout};
    use crate::format::graph::HEADER_LEN;
    use crate::format::links::{bits_of, list_len};
    use crate::format::manifest::{FileEntry, Manifest};
    use crate::format::segment::{ids, tombstones, vectors};
    use crate::storage::segment::SegmentVectors;
    use crate::types::Document;
    use crate::{CreateOptions, OpenOptions};

    fn of_only_segment<T>(db: &Db, read: impl FnOnce(&SegmentVectors) -> T) -> T {
        let snapshot = db.inner.snapshot();
        let set = snapshot.manifest.segments[0].vectors[0];
        let Source::Sealed(segment) = &snapshot.parts[0].source else { panic!("it is sealed") };
        read(segment.vectors(set.generation).unwrap())
    }

    /// Writes a graph file of right checksums in place of that of the only segment; returns its path.
    fn replace_graph(db: &Db, graph: &[u8], head: &[Vec<u8>; 2]) -> String {
        let snapshot = db.inner.snapshot();
        let entry = &snapshot.manifest.segments[0];
        let database = snapshot.manifest.database;
        let target =
            storage::segment_writer::Target { vfs: db.inner.vfs.as_ref(), dir: &db.inner.dir, database };
        let file = target.write_graph(entry.id, entry.vectors[0], graph, head).unwrap();
        let replace = |manifest: &mut crate::format::manifest::Manifest| {
            let files = &mut manifest.segments[0].files;
            files.retain(|old| old.path != file.path);
            files.push(file.clone());
            Ok(())
        };
        db.inner.commit(replace).unwrap();
        file.path
    }

    /// Rows that differ in their first dimensions alone are walked by these, and the copy of them is checked.
    #[test]
    fn heads_that_are_not_what_codes_begin_with_are_found_and_cured_by_compact() {
        const ROWS: u32 = 5000;
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { vectors: Some(192), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
        let value = |n: u32, i: u32| ((n * 97 + i * 31) as f32).sin() * if i < 64 { 1.0 } else { 0.01 };
        let vector = |n: u32| (0..192).map(|i| value(n, i)).collect();
        db.add((0..ROWS).map(|n| Document::from_vector(n.to_string(), vector(n)))).unwrap();
        db.compact(&Task::default()).unwrap();
        assert!(db.check(false, &Task::default()).unwrap().ok);

        let (graph, mut head) = of_only_segment(&db, |vectors| {
            let found = vectors.graph().unwrap().unwrap();
            (found.graph.to_vec(), found.head.map(<[u8]>::to_vec))
        });
        assert_eq!(head[0].len(), 32 * ROWS as usize, "64 dimensions tell these rows apart");
        head[0][77] ^= 1;
        let path = replace_graph(&db, &graph, &head);
        let report = db.check(false, &Task::default()).unwrap();
        let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
        assert_eq!((report.ok, &problem.file), (false, &path));
        assert!(problem.what.contains("heads") && problem.what.contains("compact"), "{problem:?}");
        db.compact(&Task::default()).unwrap();
        assert!(db.check(false, &Task::default()).unwrap().ok);
    }

    /// Its checksums hold, so only a walk tells.
    #[test]
    fn a_graph_whose_links_are_cut_is_found_and_cured_by_compact() {
        const ROWS: u32 = 5000;
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { vectors: Some(4), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(dir.path().join("a.embdb"), options).unwrap();
        let vector = |n: u32| vec![(n % 71) as f32 + 1.0, (n / 71) as f32, 3.0, 1.0];
        db.add((0..ROWS).map(|n| Document::from_vector(n.to_string(), vector(n)))).unwrap();
        db.compact(&Task::default()).unwrap();
        assert!(db.check(false, &Task::default()).unwrap().ok);

        let mut graph = of_only_segment(&db, |vectors| vectors.graph().unwrap().unwrap().graph.to_vec());
        // All but the lists of the first hundred nodes.
        let len = list_len(32, bits_of(ROWS as usize));
        graph[HEADER_LEN..][100 * len..ROWS as usize * len].fill(0xff);
        let cut = replace_graph(&db, &graph, &Default::default());
        let report = db.check(false, &Task::default()).unwrap();
        let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
        assert_eq!((report.ok, &problem.file), (false, &cut));
        let lost: usize = problem.what.split(' ').next().unwrap().parse().unwrap();
        let fewest = ROWS as usize - 101 * 32;
        assert!((fewest..ROWS as usize).contains(&lost) && problem.what.contains("compact"), "{problem:?}");
        db.compact(&Task::default()).unwrap();
        assert!(db.check(false, &Task::default()).unwrap().ok);
        assert_eq!(db.count().unwrap(), u64::from(ROWS));
    }

    /// A database of twenty sealed documents.
    fn of_twenty(dir: &Path) -> Db {
        let create = CreateOptions { vectors: Some(4), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(dir.join("a.embdb"), options).unwrap();
        let document = |n: u32| Document::from_vector(n.to_string(), vec![n as f32, 1.0, -2.0, 3.0]);
        db.add((0..20).map(document)).unwrap();
        db.compact(&Task::default()).unwrap();
        db
    }

    /// Changes a section of a file of the only segment, puts right checksums to it, and has the manifest name that.
    fn rewrite(db: &Db, (name, kind): (&str, Kind), section: u32, change: impl Fn(&mut [u8])) -> Result<()> {
        let snapshot = db.inner.snapshot();
        let named = |file: &&FileEntry| file.path.ends_with(name);
        let entry = snapshot.manifest.segments[0].files.iter().find(named).unwrap();
        let (vfs, path) = (db.inner.vfs.as_ref(), db.inner.dir.join(&entry.path));
        let bytes = vfs.read_at(&path, 0, entry.length as usize).unwrap();
        let layout = Layout::parse(&bytes, kind, &path).unwrap();
        let sections = (0..16).filter_map(|id| Some((id, bytes[layout.section(id)?].to_vec())));
        let rewritten = sections.fold(FileBuilder::new(kind, layout.database), |file, (id, mut bytes)| {
            if id == section {
                change(&mut bytes);
            }
            file.section(id, bytes)
        });
        let bytes = rewritten.finish();
        let checksum = Layout::parse(&bytes, kind, &path).unwrap().checksum;
        vfs.remove_file(&path).unwrap();
        storage::write_new(vfs, &path, &bytes).unwrap();
        let rename = |manifest: &mut Manifest| {
            let files = &mut manifest.segments[0].files;
            let file = files.iter_mut().find(|file| file.path == entry.path).unwrap();
            (file.length, file.checksum) = (bytes.len() as u64, checksum);
            Ok(())
        };
        db.inner.commit(rename).map(|_| ())
    }

    /// What files say of each other is compared: checksums only tell that bytes are those which were written.
    #[test]
    fn contradictions_behind_right_checksums_are_found() {
        const IDS: (&str, Kind) = ("/ids", Kind::Ids);
        const CODES: (&str, Kind) = ("/codes", Kind::Codes);
        type Change = fn(&mut [u8]);
        let cases: [(_, u32, Change, &str); 4] = [
            (IDS, ids::ORDER, |order| order.rotate_left(4), "does not lead back"),
            (IDS, ids::HASHES, |hashes| hashes[3] ^= 1, "does not lead back"),
            (
                CODES,
                vectors::NORMS,
                |norms| norms[4..8].copy_from_slice(&9.0f32.to_le_bytes()),
                "norms of row 1",
            ),
            (CODES, vectors::HIGH, |high| high[0] ^= 1, "norms of row 0"),
        ];
        for (file, section, change, what) in cases {
            let dir = tempfile::tempdir().unwrap();
            let db = of_twenty(dir.path());
            rewrite(&db, file, section, |_| ()).unwrap();
            assert!(db.check(false, &Task::default()).unwrap().ok);
            rewrite(&db, file, section, change).unwrap();
            let report = db.check(false, &Task::default()).unwrap();
            let told = report.problems.iter().any(|problem| problem.what.contains(what));
            assert!(!report.ok && told, "{what}: {:?}", report.problems);
            // What contradicts itself is not searched.
            assert_eq!(db.check(true, &Task::default()).unwrap(), report);
        }
    }

    #[test]
    fn tombstones_of_documents_that_are_not_there_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let db = of_twenty(dir.path());
        db.delete(&["3".into()]).unwrap();
        db.seal(&Task::default()).unwrap();
        assert!(db.check(false, &Task::default()).unwrap().ok);
        let dead = |document: u32| {
            let mut bytes = Vec::new();
            roaring::RoaringBitmap::from([document]).serialize_into(&mut bytes).unwrap();
            bytes
        };
        let other = |bitmap: &mut [u8]| {
            assert_eq!(bitmap, dead(3));
            bitmap.copy_from_slice(&dead(20));
        };
        let version = db.inner.snapshot().manifest.segments[0].tombstones;
        let deletions = (&*format!("/del.{version}"), Kind::Tombstones);
        let error = rewrite(&db, deletions, tombstones::BITMAP, other).unwrap_err();
        assert!(error.to_string().contains("not those that the manifest counts"), "{error}");
        let report = db.check(false, &Task::default()).unwrap();
        assert!(report.problems.iter().any(|p| p.what.contains("the manifest counts")), "{report:?}");
    }

    #[test]
    fn a_database_that_does_not_open_is_checked_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.embdb");
        assert!(check_path(&path, true, &Task::default()).unwrap().ok, "where nothing is, nothing is wrong");
        of_twenty(dir.path()).close().unwrap();
        let manifests = std::fs::read_dir(path.join("manifest")).unwrap();
        let newest = manifests.map(|manifest| manifest.unwrap().path()).max().unwrap();
        std::fs::write(&newest, b"nothing").unwrap();
        let report = check_path(&path, true, &Task::default()).unwrap();
        let [problem] = report.problems.as_slice() else { panic!("{report:?}") };
        assert!(!report.ok && problem.file.starts_with("manifest/"), "{problem:?}");
    }

    #[test]
    fn a_graph_of_another_number_of_rows_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let create = CreateOptions { vectors: Some(4), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let vector = |n: u32| vec![(n % 71) as f32 + 1.0, (n / 71) as f32, 3.0, 1.0];
        let [few, many] = [5000, 5001].map(|rows| {
            let db = Db::open_with(dir.path().join(format!("{rows}.embdb")), options.clone()).unwrap();
            db.add((0..rows).map(|n| Document::from_vector(n.to_string(), vector(n)))).unwrap();
            db.compact(&Task::default()).unwrap();
            db
        });
        let graph = of_only_segment(&few, |vectors| vectors.graph().unwrap().unwrap().graph.to_vec());
        replace_graph(&many, &graph, &Default::default());
        let report = many.check(false, &Task::default()).unwrap();
        assert!(report.problems.iter().any(|p| p.what.contains("5000 nodes for 5001 rows")), "{report:?}");
        assert_eq!(many.search_vector(&vector(4_999)).k(1).run().unwrap().hits[0].id, "4999", "by a scan");
    }
}
