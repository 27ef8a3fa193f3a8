//! Real processes on a real disk: writers that are killed at random moments, readers that must not notice, threads
//! that get in one another's way. `EMBDB_KILLS` sets how often the writer is killed, `EMBDB_TORTURE_SEED` when.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "crash/oracle.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts")]
mod oracle;
#[path = "crash/workload.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts")]
mod workload;

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, OpenOptions as FileOptions};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use embdb::db::generations::ReindexOptions;
use embdb::options::Durability;
use embdb::types::{Event, LoggedClick, LoggedSearch};
use embdb::{Db, OpenOptions, Task};

use oracle::{contents, events};
use workload::{Model, document, id, plain_options, text, text_options, vector};

/// Set in the process that is to be killed: the directory to work in.
const CHILD: &str = "EMBDB_TORTURE_DIR";
/// Ids are below this.
const IDS: u64 = 300;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A small generator: what matters is that it can be repeated.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// One call, as it stands in the file of acknowledgements.
#[derive(Debug, Clone, Copy)]
enum Call {
    /// Adds documents from a number on.
    Add(u64, u64),
    /// Deletes a document.
    Delete(u64),
    /// Logs a search with a click.
    Log,
    Seal,
    Compact,
    Flush,
    Reindex,
    /// Learns a linear map and publishes it.
    Retrain,
}

impl Call {
    fn draw(chance: &mut Chance, plain: bool) -> Self {
        // Where there are generations, one call in eight changes them: these take long, and are to be cut short.
        match chance.below(if plain { 40 } else { 46 }) {
            0..20 => Self::Add(chance.below(IDS), 1 + chance.below(if plain { 40 } else { 6 })),
            20..26 => Self::Delete(chance.below(IDS)),
            26..32 => Self::Log,
            32..36 => Self::Seal,
            36 | 37 => Self::Compact,
            40..43 => Self::Reindex,
            43.. => Self::Retrain,
            _ => Self::Flush,
        }
    }

    fn line(self) -> String {
        match self {
            Self::Add(from, count) => format!("add {from} {count}"),
            Self::Delete(n) => format!("delete {n} 0"),
            Self::Log => "log 0 0".into(),
            Self::Seal => "seal 0 0".into(),
            Self::Compact => "compact 0 0".into(),
            Self::Flush => "flush 0 0".into(),
            Self::Reindex => "reindex 0 0".into(),
            Self::Retrain => "retrain 0 0".into(),
        }
    }

    fn parse(words: &[&str]) -> Option<Self> {
        let [name, a, b] = words else { return None };
        let (a, b) = (a.parse().ok()?, b.parse().ok()?);
        Some(match *name {
            "add" => Self::Add(a, b),
            "delete" => Self::Delete(a),
            "log" => Self::Log,
            "seal" => Self::Seal,
            "compact" => Self::Compact,
            "flush" => Self::Flush,
            "reindex" => Self::Reindex,
            "retrain" => Self::Retrain,
            _ => return None,
        })
    }

    fn run(self, db: &Db, number: u64, plain: bool, dir: &Path) -> embdb::Result<()> {
        let task = Task::default();
        match self {
            Self::Add(from, count) => {
                let version = format!("v{number}");
                db.add((from..from + count).map(|n| document(n, &version, plain))).map(|_| ())
            }
            Self::Delete(n) => db.delete(&[id(n)]).map(|_| ()),
            Self::Log => db.log_import(logged(number)).map(|_| ()),
            Self::Seal => db.seal(&task),
            Self::Compact => db.compact(&task),
            Self::Flush => db.flush(),
            Self::Reindex => db.reindex(ReindexOptions::default(), &task).map(|_| ()),
            Self::Retrain => retrain(db, dir),
        }
    }

    fn apply(self, model: &mut Model, number: u64) {
        if matches!(self, Self::Add(..) | Self::Log) && model.generation == 0 {
            (model.generation, model.generations) = (1, 1);
        }
        match self {
            Self::Add(from, count) => {
                let version = format!("v{number}");
                model.docs.extend((from..from + count).map(|n| (id(n), text(n, &version))));
            }
            Self::Delete(n) => {
                model.docs.remove(&id(n));
            }
            Self::Log => model.events.extend([format!("q{number}"), format!("q{number}>d1")]),
            Self::Reindex | Self::Retrain if model.generation > 0 => {
                model.generations += 1;
                model.generation = model.generations;
            }
            Self::Seal | Self::Compact | Self::Flush | Self::Reindex | Self::Retrain => {}
        }
    }
}

#[cfg(feature = "trainer")]
fn retrain(db: &Db, dir: &Path) -> embdb::Result<()> {
    let file = dir.join("pairs.jsonl");
    fs::write(&file, workload::pairs()).map_err(embdb::Error::io("write", &file))?;
    workload::retrain(db, &file, embdb::Method::Adapter)
}

#[cfg(not(feature = "trainer"))]
fn retrain(_: &Db, _: &Path) -> embdb::Result<()> {
    Err(embdb::Error::input("built without the trainer"))
}

fn logged(number: u64) -> Vec<Event> {
    let (query_id, time_ms) = (format!("q{number}"), 1_700_000_000_000 + number);
    let (text, shown) = (format!("query {number}"), vec!["d1".to_owned()]);
    let search = LoggedSearch {
        query_id: query_id.clone(),
        text,
        time_ms,
        generation: 1,
        shown,
        ..Default::default()
    };
    let click_id = format!("c{number}");
    let click = LoggedClick { click_id, query_id, id: "d1".into(), grade: 1.0, time_ms };
    vec![Event::Search(search), Event::Click(click)]
}

fn options(plain: bool, cycle: u64) -> OpenOptions {
    // A kill loses nothing at any durability.
    let durability = [Durability::Full, Durability::Normal, Durability::Bulk][(cycle % 3) as usize];
    let base = if plain { plain_options(durability) } else { text_options() };
    // Every other writer seals and merges in the background.
    OpenOptions { durability, background: cycle.is_multiple_of(2), seal_rows: 100, ..base }
}

/// The process that is killed. Does nothing in an ordinary test run.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let (plain, cycle) = (setting("EMBDB_TORTURE_PLAIN", 1) == 1, setting("EMBDB_TORTURE_CYCLE", 0));
    let mut number = setting("EMBDB_TORTURE_NUMBER", 0);
    let mut acks = FileOptions::new().append(true).create(true).open(dir.join("acks")).unwrap();
    let mut chance = Chance(setting("EMBDB_TORTURE_SEED", 1).wrapping_mul(7919) + cycle);
    let db = Db::open_with(dir.join("t.embdb"), options(plain, cycle)).unwrap();
    loop {
        number += 1;
        let call = Call::draw(&mut chance, plain);
        if !db.exists() && matches!(call, Call::Reindex | Call::Retrain) {
            continue;
        }
        acks.write_all(format!("try {number} {}\n", call.line()).as_bytes()).unwrap();
        if let Err(error) = call.run(&db, number, plain, &dir) {
            acks.write_all(format!("failed {number} {error:?}\n").as_bytes()).unwrap();
            panic!("{call:?}: {error}");
        }
        acks.write_all(format!("ok {number}\n").as_bytes()).unwrap();
    }
}

/// What the acknowledgements of one life say: the model after the last acknowledged call, and after the one that the
/// kill may have cut short.
fn replay(acks: &str, model: &mut Model) -> (Model, u64) {
    let mut pending = None;
    let mut number = 0;
    for line in acks.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["try", n, call @ ..] => {
                number = n.parse().unwrap();
                pending = Some(Call::parse(call).unwrap());
            }
            ["ok", n] => {
                assert_eq!(*n, number.to_string());
                pending.take().unwrap().apply(model, number);
            }
            other => panic!("the writer failed: {other:?}"),
        }
    }
    let mut after = model.clone();
    if let Some(call) = pending {
        call.apply(&mut after, number);
    }
    (after, number)
}

fn kill_again_and_again(plain: bool, kills: u64) {
    let seed = setting("EMBDB_TORTURE_SEED", 1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.embdb");
    let mut chance = Chance(seed);
    let (mut model, mut number, mut calls) = (Model::default(), 0, 0);
    let mut cut = 0;
    for cycle in 0..kills {
        let acks = dir.path().join("acks");
        let _ = fs::remove_file(&acks);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .env("EMBDB_TORTURE_PLAIN", u8::from(plain).to_string())
            .env("EMBDB_TORTURE_CYCLE", cycle.to_string())
            .env("EMBDB_TORTURE_NUMBER", number.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Generations take longer to change.
        let life = 5 + chance.below(if plain { 196 } else { 596 });
        std::thread::sleep(Duration::from_millis(life));
        child.kill().unwrap();
        child.wait().unwrap();
        let text = fs::read_to_string(&acks).unwrap_or_default();
        let context = format!(
            "plain {plain}, seed {seed}, cycle {cycle}, killed after {life} ms, {:?}",
            text.lines().last()
        );
        let (after, last) = replay(&text, &mut model);
        cut += u64::from(after.generations > model.generations.max(1));
        calls += last.saturating_sub(number);
        number = number.max(last);
        model = look(&path, plain, model, after, cycle, &context);
    }
    println!(
        "plain {plain}: {kills} kills, {calls} calls, {} documents and {} generations at the end, {cut} cut short, seed {seed}",
        model.docs.len(),
        model.generations
    );
    assert!(calls > kills, "the writers hardly came to anything");
}

/// Opens what a killed writer left; returns which of the two states it is.
fn look(path: &Path, plain: bool, acked: Model, after: Model, cycle: u64, context: &str) -> Model {
    let db = Db::open_with(path, options(plain, 1)).unwrap_or_else(|e| panic!("{context}: open: {e}"));
    let found = contents(&db).unwrap_or_else(|e| panic!("{context}: {e}"));
    let names = events(&db).unwrap_or_else(|e| panic!("{context}: {e}"));
    let all = db.generations().unwrap_or_else(|e| panic!("{context}: {e}"));
    let generation = all.iter().find(|g| g.active).map_or(0, |g| g.generation);
    let created = Model { generation: 1, generations: 1, ..acked.clone() };
    let mut right = vec![acked, after];
    if right[0].generation == 0 {
        right.push(created);
    }
    let matches = |m: &&Model| m.docs == found && m.events == names && m.generation == generation;
    let Some(model) = right.iter().find(matches).cloned() else {
        let m = &right[0];
        let lost: Vec<_> = m.docs.iter().filter(|(k, v)| found.get(*k) != Some(v)).collect();
        let extra: Vec<_> = found.iter().filter(|(k, v)| m.docs.get(*k) != Some(v)).collect();
        let events: Vec<_> = m.events.difference(&names).collect();
        panic!(
            "{context}: generation {generation} for {}, lost {lost:?}, extra {extra:?}, events lost {events:?}",
            m.generation
        );
    };
    if let Some((id, text)) = found.iter().nth(cycle as usize % found.len().max(1)) {
        let result = match plain {
            true => db.search_vector(&vector(text)).k(1).run(),
            false => db.search(text).k(1).run(),
        };
        let hits = result.unwrap_or_else(|e| panic!("{context}: search: {e}")).hits;
        assert_eq!(hits.first().map(|h| &h.id), Some(id), "{context}");
    }
    let report = db.check(false, &Task::default()).unwrap_or_else(|e| panic!("{context}: check: {e}"));
    assert!(report.ok, "{context}: {:?}", report.problems);
    model
}

#[test]
fn a_killed_writer_loses_nothing() {
    kill_again_and_again(true, setting("EMBDB_KILLS", 130));
}

#[cfg(feature = "trainer")]
#[test]
fn a_writer_killed_while_generations_change_loses_nothing() {
    kill_again_and_again(false, setting("EMBDB_KILLS", 70));
}

/// Everything that a reader sees, as one number.
fn fingerprint(db: &Db) -> u64 {
    let mut hasher = DefaultHasher::new();
    contents(db).unwrap().hash(&mut hasher);
    for n in 0..20 {
        let found = db.search_vector(&vector(&format!("query {n}"))).k(10).run().unwrap();
        for hit in found.hits {
            (hit.id, hit.distance.to_bits(), hit.text).hash(&mut hasher);
        }
    }
    db.count_where("n >= 100").unwrap().count.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn readers_keep_what_they_saw_until_they_refresh() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.embdb");
    let quiet = OpenOptions { seal_rows: 200, ..plain_options(Durability::Bulk) };
    let writer = Db::open_with(&path, quiet.clone()).unwrap();
    writer.add((0..300).map(|n| document(n, "first", true))).unwrap();
    writer.seal(&Task::default()).unwrap();
    writer.add((250..400).map(|n| document(n, "second", true))).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let db = Db::open_with(&path, quiet.clone()).unwrap();
                let pinned = fingerprint(&db);
                let done = &done;
                scope.spawn(move || {
                    let mut looks = 0;
                    while !done.load(Ordering::Relaxed) || looks < 3 {
                        assert_eq!(fingerprint(&db), pinned, "a pinned view changed");
                        looks += 1;
                    }
                    db.refresh().unwrap();
                    (looks, fingerprint(&db))
                })
            })
            .collect();
        for round in 0..6u64 {
            let victims: Vec<String> = (0..400).filter(|n| n % 12 == round).map(id).collect();
            writer.delete(&victims).unwrap();
            writer.add((round * 50..round * 50 + 70).map(|n| document(n, "third", true))).unwrap();
            writer.compact(&Task::default()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let last = fingerprint(&writer);
        for reader in readers {
            let (looks, seen) = reader.join().unwrap();
            assert!(looks >= 3);
            assert_eq!(seen, last, "after a refresh everything is there");
        }
    });
}

/// One thread writes, others look for what is new, compact, and log, all through clones of one handle.
#[test]
fn threads_of_one_handle_do_not_disturb_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.embdb");
    let options = OpenOptions { seal_rows: 150, ..plain_options(Durability::Normal) };
    let db = Db::open_with(&path, options.clone()).unwrap();
    db.add([document(0, "first", true)]).unwrap();
    let done = AtomicBool::new(false);
    let mut model = Model::default();
    Call::Add(0, 1).apply(&mut model, 0);
    std::thread::scope(|scope| {
        for worker in 0..3u64 {
            let (db, done) = (db.clone(), &done);
            scope.spawn(move || {
                let mut number = worker << 32;
                while !done.load(Ordering::Relaxed) {
                    number += 1;
                    match worker {
                        0 => db.refresh().unwrap(),
                        1 => db.compact(&Task::default()).unwrap(),
                        _ => drop(db.log_import(logged(number)).unwrap()),
                    }
                }
            });
        }
        for number in 1..250 {
            let call = match number % 5 {
                4 => Call::Delete(number * 7 % IDS),
                _ => Call::Add(number * 13 % IDS, 20),
            };
            call.run(&db, number, true, dir.path()).unwrap();
            call.apply(&mut model, number);
        }
        done.store(true, Ordering::Relaxed);
    });
    model.docs.entry(id(0)).and_modify(|text| {
        if *text == workload::text(0, "v0") {
            *text = workload::text(0, "first");
        }
    });
    assert_eq!(contents(&db).unwrap(), model.docs);
    drop(db);
    let db = Db::open_with(&path, options).unwrap();
    assert_eq!(contents(&db).unwrap(), model.docs);
    let report = db.check(false, &Task::default()).unwrap();
    assert!(report.ok, "{report:?}");
}

/// A generation is cut over while another thread adds documents: none may come with vectors of the old one.
#[cfg(feature = "trainer")]
#[test]
fn documents_added_during_a_cut_over_get_its_vectors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("g.embdb");
    let db = Db::open_with(&path, text_options()).unwrap();
    db.add((0..40).map(|n| document(n, "first", false))).unwrap();
    let done = AtomicBool::new(false);
    let added = std::thread::scope(|scope| {
        let adder = scope.spawn(|| {
            let mut n = 100;
            while !done.load(Ordering::Relaxed) {
                db.add([document(n, "meanwhile", false)]).unwrap();
                n += 1;
            }
            n - 100
        });
        for _ in 0..8 {
            db.reindex(ReindexOptions::default(), &Task::default()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        adder.join().unwrap()
    });
    drop(db);
    let db = Db::open_with(&path, text_options()).unwrap();
    assert_eq!(db.count().unwrap(), 40 + added);
    let active = db.generations().unwrap().into_iter().find(|g| g.active).unwrap();
    assert_eq!((active.generation, active.documents), (9, 40 + added));
    assert!(db.check(true, &Task::default()).unwrap().ok);
}
