//! Bits that rot, sectors that are lost, doubled, misplaced or stale, files that are cut off, swapped or gone: right contents
//! or a typed error, never anything else. `EMBDB_DAMAGE_EVERY` says which share of the bits is flipped (1: every bit).

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use embdb::options::Durability;
use embdb::storage::sim::SimVfs;
use embdb::storage::vfs::Vfs;
use embdb::{Error, OpenOptions, Task};

use super::in_parallel;
use super::oracle::{contents, events, record};
use super::workload::{self, Model, Step, World, document, plain_options, vector};

/// Everything that is asked of a database.
#[derive(Debug, Clone, PartialEq)]
struct Answers {
    docs: BTreeMap<String, String>,
    events: BTreeSet<String>,
    /// Ids and distances for two queries, one of them filtered.
    hits: Vec<(String, f32)>,
}

/// Errors as the program tells them.
fn code(error: &Error) -> String {
    format!("code {}: {error}", error.exit_code())
}

fn ask(vfs: &Arc<dyn Vfs>, options: &OpenOptions) -> Result<(Answers, bool), String> {
    let db = workload::open(vfs, options).map_err(|e| code(&e))?;
    let mut docs = BTreeMap::new();
    for id in db.ids().map_err(|e| code(&e))? {
        let document = db.get(&id).map_err(|e| code(&e))?;
        docs.insert(id, document.map(|d| format!("{} {:?}", d.text, d.meta)).unwrap_or_default());
    }
    let names = db.log_events().map_err(|e| code(&e))?.iter().map(workload::event_name).collect();
    let query = vector("some query");
    let mut hits = Vec::new();
    for filter in [None, Some("n >= 4 AND version != 'first'")] {
        let search = match options.create.model.is_none() {
            true => db.search_vector(&query),
            false => db.search("some query"),
        };
        let search = match filter {
            Some(text) => search.k(20).filter(text).map_err(|e| code(&e))?,
            None => search.k(20),
        };
        hits.extend(search.run().map_err(|e| code(&e))?.hits.into_iter().map(|h| (h.id, h.distance)));
    }
    let report = db.check(false, &Task::default()).map_err(|e| code(&e))?;
    Ok((Answers { docs, events: names, hits }, report.ok))
}

/// A small database with every kind of file, closed.
struct Pristine {
    sim: SimVfs,
    options: OpenOptions,
    answers: Answers,
    /// What the documents were after each step: a log that is cut off is not told from one that ends there.
    states: Vec<BTreeMap<String, String>>,
    files: Vec<PathBuf>,
    /// What files held earlier, where they changed.
    older: Vec<(PathBuf, Vec<u8>)>,
}

/// The unit in which a disk writes.
const SECTOR: usize = 512;

/// What happens to a file.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// A bit is another.
    Bit(usize),
    /// Only so many bytes are left.
    Cut(usize),
    /// A sector reads as zeros.
    Zeroed(usize),
    /// A sector stands in the place of the next one too.
    Doubled(usize),
    /// A sector and the next one changed places.
    Swapped(usize),
    /// The file, or one sector of it, is what an earlier state of the database had there.
    Older(usize, Option<usize>),
    /// There is no such file.
    Gone,
}

impl Pristine {
    fn new(seed: u64, options: OpenOptions, steps: &[Step]) -> Self {
        let sim = SimVfs::new(seed);
        record(&sim, &options, steps);
        let mut states = Vec::new();
        let mut model = Model::default();
        for step in steps {
            step.apply(&mut model);
            states.push(model.docs.clone());
        }
        let vfs: Arc<dyn Vfs> = Arc::new(sim.live_copy());
        let (answers, ok) = ask(&vfs, &options).unwrap();
        assert!(ok);
        let mut files = Vec::new();
        list(&vfs, Path::new(workload::PATH), &mut files);
        let older = earlier(seed, &options, steps, &sim, &files);
        Self { sim, options, answers, states, files, older }
    }

    fn bytes(&self, file: &Path) -> Vec<u8> {
        self.sim.read(file).unwrap()
    }

    /// Asks a copy whose files were replaced. Returns whether the damage was told.
    fn with(&self, replaced: &[(&Path, &[u8])], what: &str) -> bool {
        let files: Vec<_> = replaced.iter().map(|(file, bytes)| (*file, Some(*bytes))).collect();
        self.with_or_without(&files, what)
    }

    /// The same; a file without bytes is gone.
    fn with_or_without(&self, replaced: &[(&Path, Option<&[u8]>)], what: &str) -> bool {
        let copy = self.sim.live_copy();
        for (file, bytes) in replaced {
            copy.remove_file(file).unwrap();
            if let Some(bytes) = bytes {
                copy.create(file).unwrap().write_at(0, bytes).unwrap();
            }
        }
        let vfs: Arc<dyn Vfs> = Arc::new(copy);
        match catch_unwind(AssertUnwindSafe(|| ask(&vfs, &self.options))) {
            Err(_) => panic!("{what}: a panic"),
            Ok(Err(error)) => {
                assert!(error.starts_with("code 2:") || error.starts_with("code 6:"), "{what}: {error}");
                true
            }
            Ok(Ok((answers, ok))) => {
                self.judge(&answers, replaced, what);
                !ok
            }
        }
    }

    /// Every way to damage a file; of its bits one in `every`, and at most `most`.
    fn harms(&self, file: &Path, every: usize, most: usize) -> Vec<Harm> {
        let len = self.bytes(file).len();
        let sectors = len.div_ceil(SECTOR);
        let some = |total: usize, every: usize| (0..total).step_by(every.max(total.div_ceil(most)).max(1));
        let mut harms: Vec<Harm> = some(len * 8, every).map(Harm::Bit).collect();
        let beside = |at: usize| [at.saturating_sub(1), at, at + 1];
        let cuts: BTreeSet<usize> =
            some(sectors, 1).flat_map(|sector| beside(sector * SECTOR)).chain(some(len, 61)).collect();
        harms.extend(
            cuts.into_iter().chain(len.saturating_sub(17)..len).filter(|&cut| cut < len).map(Harm::Cut),
        );
        harms.extend(some(sectors, 1).map(Harm::Zeroed));
        harms.extend(some(sectors.saturating_sub(1), 1).flat_map(|s| [Harm::Doubled(s), Harm::Swapped(s)]));
        for (n, (_, bytes)) in self.older.iter().enumerate().filter(|(_, (path, _))| path == file) {
            harms.push(Harm::Older(n, None));
            let shared = bytes.len().min(len).div_ceil(SECTOR);
            harms.extend((0..shared).map(|sector| Harm::Older(n, Some(sector))));
        }
        harms.push(Harm::Gone);
        harms
    }

    /// The damaged file; `None` if it is gone, or if this harm changes nothing.
    fn harmed(&self, file: &Path, harm: Harm) -> Option<Vec<u8>> {
        let mut bytes = self.bytes(file);
        let sector = |n: usize| n * SECTOR..bytes.len().min((n + 1) * SECTOR);
        let place = |n: usize, with: &[u8], bytes: &mut [u8]| {
            let len = with.len().min(bytes.len() - n * SECTOR);
            bytes[n * SECTOR..][..len].copy_from_slice(&with[..len]);
        };
        match harm {
            Harm::Bit(bit) => bytes[bit / 8] ^= 1 << (bit % 8),
            Harm::Cut(len) => bytes.truncate(len),
            Harm::Zeroed(n) => {
                let range = sector(n);
                bytes[range].fill(0);
            }
            Harm::Doubled(n) => {
                let copy = bytes[sector(n)].to_vec();
                place(n + 1, &copy, &mut bytes);
            }
            Harm::Swapped(n) => {
                let (first, second) = (bytes[sector(n)].to_vec(), bytes[sector(n + 1)].to_vec());
                place(n, &second, &mut bytes);
                place(n + 1, &first, &mut bytes);
            }
            Harm::Older(n, None) => bytes.clone_from(&self.older[n].1),
            Harm::Older(n, Some(at)) => {
                let old = &self.older[n].1;
                place(at, &old[at * SECTOR..old.len().min((at + 1) * SECTOR)], &mut bytes);
            }
            Harm::Gone => return None,
        }
        Some(bytes)
    }

    fn judge(&self, answers: &Answers, replaced: &[(&Path, Option<&[u8]>)], what: &str) {
        if *answers == self.answers {
            return;
        }
        let gap = replaced.len() == 1 && replaced.iter().all(|(file, bytes)| self.is_known_gap(file, *bytes));
        let texts: BTreeMap<_, _> = answers.docs.iter().map(|(id, t)| (id.as_str(), t.as_str())).collect();
        let matches = |state: &BTreeMap<String, String>| {
            state.len() == texts.len()
                && state.iter().all(|(id, text)| texts.get(id.as_str()).is_some_and(|t| t.starts_with(text)))
        };
        let earlier = self.states.iter().any(matches) && answers.events.is_subset(&self.answers.events);
        assert!(gap && earlier, "{what}: wrong answers without an error: {answers:?}");
    }

    /// What is not promised: that the end of the newest log and of a feedback file is missed, where nothing behind it says that
    /// it was on the disk; and that a feedback file is, which no manifest names before it is merged.
    fn is_known_gap(&self, file: &Path, bytes: Option<&[u8]>) -> bool {
        let growing = file.starts_with("db/log") || file.starts_with("db/feedback");
        let whole = self.bytes(file);
        let Some(bytes) = bytes else { return file.starts_with("db/feedback") };
        let same = whole.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        growing && (same == bytes.len() || same + SECTOR >= whole.len())
    }
}

/// What the files held after each step, where that is not what they hold at the end.
fn earlier(
    seed: u64,
    options: &OpenOptions,
    steps: &[Step],
    end: &SimVfs,
    files: &[PathBuf],
) -> Vec<(PathBuf, Vec<u8>)> {
    let sim = SimVfs::new(seed);
    let mut world = World::new(Arc::new(sim.clone()), options.clone());
    let mut found = BTreeSet::new();
    for step in steps {
        step.run(&mut world).unwrap();
        for file in files.iter().filter(|file| sim.exists(file).unwrap()) {
            let bytes = sim.read(file).unwrap();
            if bytes != end.read(file).unwrap() {
                found.insert((file.clone(), bytes));
            }
        }
    }
    found.into_iter().collect()
}

fn list(vfs: &Arc<dyn Vfs>, dir: &Path, out: &mut Vec<PathBuf>) {
    for name in vfs.read_dir(dir).unwrap() {
        let path = dir.join(name);
        if vfs.is_dir(&path).unwrap() {
            list(vfs, &path, out);
        } else if !path.ends_with("LOCK") {
            out.push(path);
        }
    }
}

fn small_steps() -> Vec<Step> {
    use Step::*;
    vec![
        Add(0..6, "first"),
        Import { second: false, number: 1 },
        Seal,
        Delete(&[2]),
        Add(5..9, "second"),
        Reopen,
        Seal,
        Compact,
        Delete(&[4]),
        Seal,
        Import { second: false, number: 2 },
        Add(8..11, "third"),
        Delete(&[0]),
        Add(11..12, "fourth"),
    ]
}

fn plain() -> Pristine {
    let db = Pristine::new(11, plain_options(Durability::Full), &small_steps());
    for kind in
        ["manifest/", "log/", "/ids", "/docs", "/attrs", "/del.", "/rows", "/codes", "/full", "/merged-"]
    {
        assert!(db.files.iter().any(|f| f.to_string_lossy().contains(kind)), "no file of kind {kind}");
    }
    db
}

/// One bit in so many, of a database of vectors and of one that learns.
fn every() -> [usize; 2] {
    asked().map_or([10, 50], |every| [every; 2])
}

fn asked() -> Option<usize> {
    std::env::var("EMBDB_DAMAGE_EVERY").ok().and_then(|v| v.parse().ok())
}

/// Bits, sectors and so on of a file of a database that learns: so many by default, which bounds those of its encoders.
#[cfg(feature = "trainer")]
fn most() -> usize {
    if asked().is_some() { usize::MAX } else { 2000 }
}

/// Damages files in every way; how many cases there were, and how many were told.
fn damage(db: &Pristine, files: &[&PathBuf], every: usize, most: usize) -> (usize, usize) {
    let cases: Vec<(&PathBuf, Harm)> = files
        .iter()
        .flat_map(|file| db.harms(file, every, most).into_iter().map(|harm| (*file, harm)))
        .collect();
    let told = AtomicUsize::new(0);
    in_parallel(cases.len(), |n| {
        let (file, harm) = cases[n];
        let bytes = db.harmed(file, harm);
        let what = format!("{harm:?} of {} ({} bytes)", file.display(), db.bytes(file).len());
        let was_told = db.with_or_without(&[(file, bytes.as_deref())], &what);
        told.fetch_add(usize::from(was_told), Ordering::Relaxed);
    });
    (cases.len(), told.into_inner())
}

#[test]
fn a_damaged_file_is_told_or_harmless() {
    let db = plain();
    let (cases, told) = damage(&db, &db.files.iter().collect::<Vec<_>>(), every()[0], usize::MAX);
    println!("{cases} damages to {} files: {told} told, the others harmless", db.files.len());
    // Only what stands behind the last batch of a growing file may go unseen, and what is the same as before.
    assert!(told * 100 >= cases * 85, "{told} of {cases} told");
}

/// A database with two encoders, two generations of which one is unfinished, and what people searched and clicked.
#[cfg(feature = "trainer")]
#[test]
fn a_damaged_file_of_a_database_that_learns_is_told_or_harmless() {
    use Step::*;
    let steps = [
        Add(0..5, "first"),
        Import { second: false, number: 1 },
        Seal,
        Add(4..7, "second"),
        Delete(&[1]),
        Reindex,
        AddModel,
        Reopen,
        Click { second: true, number: 1 },
        Add(7..9, "third"),
        StopSwitch,
    ];
    let db = Pristine::new(15, workload::text_options(), &steps);
    for kind in ["db/models/", "db/jobs/", "db/feedback/", "/gen.2."] {
        assert!(db.files.iter().any(|f| f.to_string_lossy().contains(kind)), "no file of kind {kind}");
    }
    let (cases, told) = damage(&db, &db.files.iter().collect::<Vec<_>>(), every()[1], most());
    println!("{cases} damages to {} files: {told} told, the others harmless", db.files.len());
    assert!(told * 100 >= cases * 50, "{told} of {cases} told");
}

/// The saved state of a training that was stopped: who goes on from it ends where the training would have ended, or is told, and
/// can begin anew.
#[cfg(feature = "trainer")]
#[test]
fn a_damaged_state_of_a_training_is_told_or_harmless() {
    use super::training::{self, Training};
    let training = Training::new(16);
    let sim = SimVfs::new(16);
    let db = training::create(&sim);
    let error = training.train(&db, workload::stopped_when("train", 1)).unwrap_err();
    assert!(matches!(error, Error::Cancelled) && db.retrain_was_stopped().unwrap(), "{error}");
    drop(db);
    let vfs: Arc<dyn Vfs> = Arc::new(sim.live_copy());
    let options = workload::text_options();
    let (answers, ok) = ask(&vfs, &options).unwrap();
    assert!(ok);
    let mut files = Vec::new();
    list(&vfs, Path::new("db/jobs/retrain"), &mut files);
    assert_eq!(files.len(), 1, "one state: {files:?}");
    let db = Pristine { sim, options, answers, states: Vec::new(), files, older: Vec::new() };
    let file = &db.files[0];
    let harms = db.harms(file, every()[1], most());
    let told = AtomicUsize::new(0);
    in_parallel(harms.len(), |n| {
        let what = format!("{:?} of {} ({} bytes)", harms[n], file.display(), db.bytes(file).len());
        let copy = db.sim.live_copy();
        copy.remove_file(file).unwrap();
        if let Some(bytes) = db.harmed(file, harms[n]) {
            copy.create(file).unwrap().write_at(0, &bytes).unwrap();
        }
        let found = training::found(&copy, &what);
        match training.go_on(&found) {
            Ok(model_id) => assert_eq!(model_id, training.model_id, "{what}"),
            Err(error) => {
                let missing = matches!(harms[n], Harm::Gone) && error.exit_code() == 1;
                assert!(missing || [2, 6].contains(&error.exit_code()), "{what}: {error}");
                if told.fetch_add(1, Ordering::Relaxed).is_multiple_of(40) {
                    let anew = training.train(&found, Task::default()).unwrap();
                    assert_eq!(anew.model_id, training.model_id, "{what}");
                }
            }
        }
    });
    let told = told.into_inner();
    println!("{} damages to the state of a training: {told} told, the others harmless", harms.len());
    assert!(told * 100 >= harms.len() * 95, "{told} of {} told", harms.len());
}

#[test]
fn files_that_changed_places_are_told() {
    let db = plain();
    let other = Pristine::new(12, plain_options(Durability::Full), &small_steps());
    let mut cases = 0;
    for (n, a) in db.files.iter().enumerate() {
        for b in &db.files[n + 1..] {
            let (in_a, in_b) = (db.bytes(a), db.bytes(b));
            db.with(&[(a, &in_b), (b, &in_a)], &format!("{} and {} swapped", a.display(), b.display()));
            cases += 1;
        }
        for foreign in other.files.iter() {
            let bytes = other.bytes(foreign);
            db.with(
                &[(a, &bytes)],
                &format!("{} from another database as {}", foreign.display(), a.display()),
            );
            cases += 1;
        }
    }
    println!("{cases} misplaced files");
}

/// A segment large enough for a graph: damage in it must not lead a search astray.
#[test]
fn a_rotten_graph_is_told() {
    let options = OpenOptions { seal_rows: 1 << 20, ..plain_options(Durability::Full) };
    let sim = SimVfs::new(13);
    let mut world = World::new(Arc::new(sim.clone()), options.clone());
    world.db().unwrap().add((0..4200).map(|n| document(n, "many", true))).unwrap();
    world.db().unwrap().compact(&Task::default()).unwrap();
    assert_eq!(
        (contents(&world.db().unwrap()).unwrap().len(), events(&world.db().unwrap()).unwrap().len()),
        (4200, 0)
    );
    drop(world);
    let vfs: Arc<dyn Vfs> = Arc::new(sim.live_copy());
    let (answers, ok) = ask(&vfs, &options).unwrap();
    assert!(ok);
    let mut files = Vec::new();
    list(&vfs, Path::new(workload::PATH), &mut files);
    files.retain(|f| f.ends_with("graph"));
    assert_eq!(files.len(), 1);
    let db = Pristine { sim, options, answers, states: Vec::new(), files, older: Vec::new() };
    let (cases, told) = damage(&db, &[&db.files[0]], every()[0], 25);
    println!("{cases} damages to a graph: {told} told");
    assert_eq!(cases, told);
}

#[cfg(feature = "encoder")]
#[test]
fn a_rotten_encoder_is_told() {
    let steps = [Step::Add(0..3, "first"), Step::Seal];
    let db = Pristine::new(14, workload::text_options(), &steps);
    let files: Vec<&PathBuf> = db.files.iter().filter(|f| f.starts_with("db/models")).collect();
    assert!(!files.is_empty());
    let (cases, told) = damage(&db, &files, every()[0], 80);
    assert_eq!(cases, told, "every bit counts for the hash that names a model");
}
