//! Damage of a database at rest: searches give the right answers or an error that names the file, nothing that only
//! reads writes, and `compact` makes anew what follows from other files. `EMBDB_DAMAGE_CASES` says how many places of a large
//! database are damaged.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use embdb::db::filter::Filter;
use embdb::db::searcher::Searcher;
use embdb::storage::sim::SimVfs;
use embdb::storage::vfs::Vfs;
use embdb::types::{Codec, Document};
use embdb::{CreateOptions, Db, Error, OpenOptions, SearchOptions, Task};

const PATH: &str = "db";
/// Where a search may read of a file: what lies before is the header, what lies behind the checksums.
const BODY: std::ops::Range<f64> = 0.05..0.99;

/// Ids and distances for some queries, the last ones filtered.
type Answers = Vec<Vec<(String, f32)>>;

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }
}

/// Vectors around a hundred centres.
fn vector(row: u64, dim: usize) -> Vec<f32> {
    let (mut centre, mut own) = (Numbers(row % 100 + 7), Numbers(row + 1000));
    (0..dim).map(|_| centre.next() + 0.4 * own.next()).collect()
}

/// A database of one sealed segment on a simulated disk, and what it answers.
struct Pristine {
    disk: SimVfs,
    options: OpenOptions,
    dim: usize,
    /// By comparing every vector exactly; by codes; through the graph.
    right: [Answers; 3],
    files: Vec<PathBuf>,
}

impl Pristine {
    fn new(rows: u64, dim: usize, codec: Codec, seed: u64, deleted: &[&str]) -> Self {
        let create = CreateOptions { vectors: Some(dim), codec, ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, seal_rows: 1 << 20, ..OpenOptions::default() };
        let disk = SimVfs::new(seed);
        let db = open(&disk, &options).unwrap();
        // Some have no metadata.
        let document = |n: u64| {
            let document = Document::from_vector(format!("d{n}"), vector(n + seed, dim));
            if n % 7 == 5 { document } else { document.meta("n", n) }
        };
        db.add((0..rows).map(document)).unwrap();
        db.compact(&Task::default()).unwrap();
        db.delete(&deleted.iter().map(|&id| id.to_owned()).collect::<Vec<_>>()).unwrap();
        db.seal(&Task::default()).unwrap();
        drop(db);
        let mut files = Vec::new();
        list(&disk, &Path::new(PATH).join("seg"), &mut files);
        let mut pristine = Self { disk, options, dim, right: Default::default(), files };
        let ask =
            |disk: &SimVfs, exact| pristine.ask(&open(disk, &pristine.options).unwrap(), exact).unwrap();
        let scanned = pristine
            .files
            .iter()
            .find(|file| file.ends_with("graph"))
            .map_or_else(|| pristine.disk.live_copy(), |graph| pristine.with(graph, &Harm::Gone));
        pristine.right = [ask(&pristine.disk, true), ask(&scanned, false), ask(&pristine.disk, false)];
        pristine
    }

    fn ask(&self, db: &Db, exact: bool) -> Result<Answers, Error> {
        let mut answers = Vec::new();
        for filter in [None, Some("n >= 40 AND n < 4000")] {
            let filter = filter.map(|text| Filter::parse(text).unwrap());
            let searcher: Searcher =
                db.searcher(&SearchOptions { exact, filter, ..SearchOptions::default() })?;
            for query in 0..6 {
                let found = searcher.search(&vector(50_000 + query, self.dim))?;
                answers.push(found.iter().map(|hit| (hit.id.to_owned(), hit.distance)).collect());
            }
        }
        Ok(answers)
    }

    /// A copy of the disk with a damaged file.
    fn with(&self, file: &Path, harm: &Harm) -> SimVfs {
        let disk = self.disk.live_copy();
        let mut bytes = disk.read(file).unwrap();
        disk.remove_file(file).unwrap();
        match harm {
            Harm::Gone => return disk,
            Harm::Cut(share) => bytes.truncate((bytes.len() as f64 * share) as usize),
            Harm::Flip(share) => {
                let at = (bytes.len() as f64 * share) as usize;
                bytes[at] ^= 0x10;
            }
            Harm::Zeros(share) => {
                let at = (bytes.len() as f64 * share) as usize;
                let end = bytes.len().min(at + 4096);
                bytes[at..end].iter_mut().for_each(|byte| *byte = !*byte);
            }
            Harm::Other(other) => bytes.clone_from(other),
        }
        disk.create(file).unwrap().write_at(0, &bytes).unwrap();
        disk
    }

    /// What a damaged copy answers: all right, or an error that names the file.
    fn judge(&self, db: &Db, file: &Path, what: &str) -> bool {
        let mut told = false;
        for exact in [true, false, false] {
            match self.ask(db, exact) {
                Ok(answers) => {
                    let right = if exact { &self.right[..1] } else { &self.right[..] };
                    // A walk that was begun before the damage was met is another for each query.
                    for (n, answer) in answers.iter().enumerate() {
                        let known = right.iter().any(|right| right[n] == *answer);
                        assert!(
                            known,
                            "{what}: query {n}, exact {exact}: {answer:?}, right is {:?}",
                            right[0][n]
                        );
                    }
                }
                Err(error) => {
                    names(&error, file, what);
                    told = true;
                }
            }
        }
        told
    }
}

/// What happens to a file.
enum Harm {
    Gone,
    Cut(f64),
    Flip(f64),
    Zeros(f64),
    Other(Vec<u8>),
}

fn open(disk: &SimVfs, options: &OpenOptions) -> Result<Db, Error> {
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    Db::open_vfs(vfs, PATH, options.clone())
}

fn list(disk: &SimVfs, dir: &Path, out: &mut Vec<PathBuf>) {
    for name in disk.read_dir(dir).unwrap() {
        let path = dir.join(name);
        if disk.is_dir(&path).unwrap() { list(disk, &path, out) } else { out.push(path) }
    }
}

/// A refusal says which file is damaged, and what to do.
fn names(error: &Error, file: &Path, what: &str) {
    let text = error.to_string();
    let name = file.file_name().unwrap().to_string_lossy();
    assert_eq!(error.exit_code(), 2, "{what}: {text}");
    assert!(text.contains(name.as_ref()) && text.contains("offset"), "{what}: {text}");
    assert!(text.contains("restore a backup"), "{what}: {text}");
}

fn harms() -> Vec<(&'static str, Harm)> {
    vec![
        ("gone", Harm::Gone),
        ("empty", Harm::Cut(0.0)),
        ("cut in the middle", Harm::Cut(0.5)),
        ("without its end", Harm::Cut(0.999)),
        ("a bit of the header", Harm::Flip(0.0)),
        ("a bit at the beginning", Harm::Flip(BODY.start)),
        ("a bit in the middle", Harm::Flip(0.5)),
        ("a bit near the end", Harm::Flip(BODY.end)),
        ("a page in the first half", Harm::Zeros(0.3)),
    ]
}

/// The files that follow from others; the rest is the truth.
fn follows(file: &Path, codec: Codec) -> bool {
    let codes = if codec == Codec::Int8F32 { "codes" } else { "graph" };
    ["attrs", "graph", codes].iter().any(|name| file.ends_with(name))
}

/// Damages every file of a database in every way, and looks at the answers, at `check`, and at what `compact` leaves.
fn every_file_in_every_way(db: &Pristine, others: &[&Pristine], compacts: impl Fn(&Path, &str) -> bool) {
    let codec = db.options.create.codec;
    for file in &db.files {
        let name = file.file_name().unwrap();
        let mut harms = harms();
        for other in others {
            let same = other.files.iter().find(|other| other.file_name().unwrap() == name);
            harms
                .extend(same.map(|path| ("another database's", Harm::Other(other.disk.read(path).unwrap()))));
        }
        for (kind, harm) in harms {
            let what = format!("{}, {kind}", file.display());
            let disk = db.with(file, &harm);
            let before = disk.read(file).ok();
            let told = match open(&disk, &db.options) {
                Ok(reader) => {
                    let told = db.judge(&reader, file, &what);
                    let report = reader.check(false, &Task::default()).unwrap();
                    let named = |file: &str| file.ends_with(&*name.to_string_lossy());
                    assert!(report.problems.iter().any(|problem| named(&problem.file)), "{what}: {report:?}");
                    told
                }
                Err(error) => {
                    names(&error, file, &what);
                    true
                }
            };
            assert!(!(told && follows(file, codec)), "{what}: searches can do without it");
            assert_eq!(disk.read(file).ok(), before, "{what}: a reader wrote");
            if follows(file, codec) && compacts(file, kind) {
                is_healed(db, &disk, file, &what);
            }
        }
    }
}

/// `compact` leaves a sound database that answers as ever.
fn is_healed(db: &Pristine, disk: &SimVfs, file: &Path, what: &str) {
    let writer = open(disk, &db.options).unwrap();
    writer.compact(&Task::default()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(db.ask(&writer, true).unwrap(), db.right[0], "{what}");
    assert!(writer.info().unwrap().damaged.is_empty(), "{what}");
    let report = writer.check(false, &Task::default()).unwrap();
    assert!(report.ok, "{what}: {report:?}");
    let graphs = |files: &[PathBuf]| files.iter().filter(|file| file.ends_with("graph")).count();
    let mut files = Vec::new();
    list(disk, &Path::new(PATH).join("seg"), &mut files);
    assert_eq!(graphs(&files), graphs(&db.files), "{what}");
    drop(writer);
    assert_eq!(db.ask(&open(disk, &db.options).unwrap(), true).unwrap(), db.right[0], "{what}");
    // Where nothing was deleted the segment stays, and what follows from the rest is the same again.
    if files == db.files && !file.ends_with("graph") {
        assert_eq!(disk.read(file).unwrap(), db.disk.read(file).unwrap(), "{what}");
    }
}

#[test]
fn every_damaged_file_of_a_small_database_is_told_or_healed() {
    let other = Pristine::new(300, 8, Codec::Int8F32, 2, &[]);
    for (codec, deleted) in [(Codec::Int8F32, &["d3", "d5"][..]), (Codec::Int8F32, &[]), (Codec::Int8, &[])] {
        let db = Pristine::new(300, 8, codec, 1, deleted);
        assert_eq!(
            db.files.len(),
            5 + usize::from(codec == Codec::Int8F32) + usize::from(!deleted.is_empty())
        );
        every_file_in_every_way(&db, &[&other], |_, _| true);
    }
}

/// Graphs, codes and f32 rows are longer than what is looked at when a database is opened.
static LARGE: LazyLock<Pristine> = LazyLock::new(|| Pristine::new(18_000, 128, Codec::Int8F32, 3, &[]));

#[test]
fn every_damaged_file_of_a_large_database_is_told_or_healed() {
    let db = &*LARGE;
    let length =
        |name| db.disk.read(db.files.iter().find(|file| file.ends_with(name)).unwrap()).unwrap().len();
    assert!(length("graph") > 1 << 20 && length("codes") > 2 << 20 && length("full") > 8 << 20);
    // To build the graph again takes seconds.
    let compacts = |file: &Path, kind: &str| {
        kind == if file.ends_with("graph") { "a bit in the middle" } else { "cut in the middle" }
    };
    every_file_in_every_way(db, &[], compacts);
}

/// Anywhere: a bit, or a sector that reads as zeros, as another one of the file, or as it was in another database.
#[test]
fn damage_anywhere_in_a_large_database_is_told_or_harmless() {
    const SECTOR: usize = 512;
    let db = &*LARGE;
    let other = Pristine::new(18_000, 16, Codec::Int8F32, 5, &[]);
    let cases = std::env::var("EMBDB_DAMAGE_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(60);
    let (next, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let case = next.fetch_add(1, Ordering::Relaxed);
            if case >= cases {
                break;
            }
            let mut chance = Numbers(case as u64 * 7919 + 1);
            let mut below = |end: usize| ((chance.next() + 0.5) * end as f32) as usize % end.max(1);
            let file = &db.files[case % db.files.len()];
            let mut bytes = db.disk.read(file).unwrap();
            // The file of the rows' bounds is shorter than a sector.
            let len = bytes.len().min(SECTOR);
            let (at, from) = (below(bytes.len() / len) * len, below(bytes.len() / len) * len);
            let kind = case / db.files.len() % 4;
            let sector = match kind {
                0 => {
                    let mut same = bytes[at..at + len].to_vec();
                    same[below(len)] ^= 1 << below(8);
                    same
                }
                1 => vec![0; len],
                2 => bytes[from..from + len].to_vec(),
                _ => {
                    let path = other.files.iter().find(|f| f.file_name() == file.file_name()).unwrap();
                    let theirs = other.disk.read(path).unwrap();
                    let at = at.min(theirs.len().saturating_sub(len));
                    theirs[at..theirs.len().min(at + len)].to_vec()
                }
            };
            bytes[at..at + sector.len()].copy_from_slice(&sector);
            let what = format!("case {case}: {}, sector at {at}, kind {kind}", file.display());
            let disk = db.with(file, &Harm::Other(bytes));
            let was_told = open(&disk, &db.options).map_or(true, |reader| db.judge(&reader, file, &what));
            told.fetch_add(usize::from(was_told), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let all = [0, 1].map(|_| scope.spawn(work));
        all.into_iter().for_each(|worker| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
    });
    println!(
        "{cases} damages to a large database: searches refuse {}, and do without the others",
        told.into_inner()
    );
}

#[test]
fn a_writer_heals_in_the_background() {
    let db = Pristine::new(5_000, 16, Codec::Int8F32, 4, &[]);
    for file in db.files.iter().filter(|file| follows(file, Codec::Int8F32)) {
        let disk = db.with(file, &Harm::Cut(0.5));
        let options = OpenOptions { background: true, ..db.options.clone() };
        let writer = open(&disk, &options).unwrap();
        assert_eq!(writer.info().unwrap().damaged.len(), 1, "{}", file.display());
        assert_eq!(db.ask(&writer, true).unwrap(), db.right[0]);
        writer.add([Document::from_vector("far", vec![-100.0; 16])]).unwrap();
        let start = Instant::now();
        let graphs = || {
            let mut files = Vec::new();
            list(&disk, &Path::new(PATH).join("seg"), &mut files);
            files.iter().filter(|file| file.ends_with("graph")).count()
        };
        while !writer.info().unwrap().damaged.is_empty() || graphs() == 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "{} is still damaged", file.display());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(writer.check(false, &Task::default()).unwrap().ok, "{}", file.display());
        writer.delete(&["far".into()]).unwrap();
        assert_eq!(db.ask(&writer, true).unwrap(), db.right[0]);
    }
}

/// A copy of a database is sound, whatever of it could be made anew.
#[test]
fn a_backup_makes_anew_first_what_follows_from_other_files() {
    let db = Pristine::new(5_000, 16, Codec::Int8F32, 5, &["d7"]);
    for file in db.files.iter().filter(|file| follows(file, Codec::Int8F32)) {
        for harm in [Harm::Cut(0.5), Harm::Gone] {
            let disk = db.with(file, &harm);
            let writer = open(&disk, &db.options).unwrap();
            writer.backup(Path::new("copy"), &Task::default()).unwrap();
            drop(writer);
            let copy = Db::open_vfs(Arc::new(disk.clone()), "copy", db.options.clone()).unwrap();
            assert_eq!(db.ask(&copy, true).unwrap(), db.right[0], "{}", file.display());
            assert!(copy.check(false, &Task::default()).unwrap().ok, "{}", file.display());
        }
    }
}
