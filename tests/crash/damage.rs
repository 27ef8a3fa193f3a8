//! Bits that rot, files that are cut off or swapped: right contents or a typed error, never anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
        Self { sim, options, answers, states, files }
    }

    fn bytes(&self, file: &Path) -> Vec<u8> {
        self.sim.read(file).unwrap()
    }

    /// Asks a copy whose files were replaced. Returns whether the damage was told.
    fn with(&self, replaced: &[(&Path, &[u8])], what: &str) -> bool {
        let copy = self.sim.live_copy();
        for (file, bytes) in replaced {
            copy.remove_file(file).unwrap();
            copy.create(file).unwrap().write_at(0, bytes).unwrap();
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

    fn judge(&self, answers: &Answers, replaced: &[(&Path, &[u8])], what: &str) {
        if *answers == self.answers {
            return;
        }
        // The known gap: the end of the newest log and of a feedback file may go unnoticed.
        let cut = |(file, bytes): &(&Path, &[u8])| {
            let growing = file.starts_with("db/log") || file.starts_with("db/feedback");
            growing && self.bytes(file).starts_with(bytes)
        };
        let gap = replaced.len() == 1 && replaced.iter().all(cut);
        let texts: BTreeMap<_, _> = answers.docs.iter().map(|(id, t)| (id.as_str(), t.as_str())).collect();
        let matches = |state: &BTreeMap<String, String>| {
            state.len() == texts.len()
                && state.iter().all(|(id, text)| texts.get(id.as_str()).is_some_and(|t| t.starts_with(text)))
        };
        let earlier = self.states.iter().any(matches) && answers.events.is_subset(&self.answers.events);
        assert!(gap && earlier, "{what}: wrong answers without an error: {answers:?}");
    }
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

/// One bit in so many; different ones for each file.
const BITS: usize = 50;

fn flip(db: &Pristine, files: &[&PathBuf], every: usize) -> (usize, usize) {
    let mut cases = Vec::new();
    for (n, file) in files.iter().enumerate() {
        cases.extend((n % every..db.bytes(file).len() * 8).step_by(every).map(|bit| (*file, bit)));
    }
    let told = std::sync::atomic::AtomicUsize::new(0);
    in_parallel(cases.len(), |n| {
        let (file, bit) = cases[n];
        let mut bytes = db.bytes(file);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let was_told = db.with(&[(file, &bytes)], &format!("bit {bit} of {}", file.display()));
        told.fetch_add(usize::from(was_told), std::sync::atomic::Ordering::Relaxed);
    });
    (cases.len(), told.into_inner())
}

#[test]
fn a_rotten_bit_is_told_or_harmless() {
    let db = plain();
    let (cases, told) = flip(&db, &db.files.iter().collect::<Vec<_>>(), BITS);
    println!("{cases} flipped bits in {} files: {told} told, the others harmless", db.files.len());
    // Only the mark behind the last batch of a growing file may go unseen.
    assert!(told * 100 >= cases * 95, "{told} of {cases} told");
}

#[test]
fn a_file_that_was_cut_off_is_told_or_ends_at_a_batch() {
    let db = plain();
    let mut cases = Vec::new();
    for file in &db.files {
        let len = db.bytes(file).len();
        cases.extend(
            (0..len.min(256)).step_by(7).chain((0..len).step_by(61)).chain([len - 1]).map(|l| (file, l)),
        );
    }
    in_parallel(cases.len(), |n| {
        let (file, len) = cases[n];
        let bytes = db.bytes(file);
        db.with(&[(file, &bytes[..len])], &format!("{} cut off at {len} of {}", file.display(), bytes.len()));
    });
    println!("{} cut files", cases.len());
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
    let db = Pristine { sim, options, answers, states: Vec::new(), files };
    let bits = db.bytes(&db.files[0]).len() * 8;
    let (cases, told) = flip(&db, &[&db.files[0]], bits / 60);
    assert_eq!(cases, told);
}

#[cfg(feature = "encoder")]
#[test]
fn a_rotten_encoder_is_told() {
    let steps = [Step::Add(0..3, "first"), Step::Seal];
    let db = Pristine::new(14, workload::text_options(), &steps);
    let files: Vec<&PathBuf> = db.files.iter().filter(|f| f.starts_with("db/models")).collect();
    assert!(!files.is_empty());
    let bits: usize = files.iter().map(|f| db.bytes(f).len() * 8).sum();
    let (cases, told) = flip(&db, &files, bits / 500);
    assert_eq!(cases, told, "every bit counts for the hash that names a model");
}
