//! Databases that every version of the file format wrote, small and never changed (`tools/golden/make.py`): they open, give
//! the answers that they gave, and can be written. And each kind of file as a later version would have it: refused, with
//! what is needed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use embdb::format::file::{CHECKSUM_OFFSET, MAGIC, MAJOR_OFFSET};
use embdb::format::frame::{LOG_CHECKSUM_OFFSET, LOG_MAGIC, LOG_MAJOR_OFFSET};
use embdb::types::Document;
use embdb::{Db, Error, OpenOptions, Task};
use tempfile::TempDir;

const VERSIONS: [&str; 2] = ["2.0", "2.1"];
/// What a database may have beside the files, and no archive of sources keeps while it is empty.
const FOLDERS: [&str; 6] = ["manifest", "log", "seg", "models", "feedback", "jobs"];

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(version)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A copy of a database to work on.
struct Copy {
    place: TempDir,
}

impl Copy {
    fn new(version: &str, name: &str) -> Self {
        let place = TempDir::new().unwrap();
        let path = place.path().join("db");
        copy(&golden(version).join(name), &path);
        for folder in FOLDERS {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        if name == "text" {
            let id = fs::read_to_string(golden(version).join("text-encoder")).unwrap();
            let encoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder/tiny-bert");
            copy(&encoder, &path.join("models").join(id.trim()));
        }
        Self { place }
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("db")
    }

    fn open(&self) -> Result<Db, Error> {
        Db::open_with(self.path(), OpenOptions { background: false, ..OpenOptions::default() })
    }

    /// Every file, with what it holds.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn list(dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    list(&path, out)
                } else {
                    drop(out.insert(path.clone(), fs::read(path).unwrap()))
                }
            }
        }
        let mut files = BTreeMap::new();
        list(&self.path(), &mut files);
        files
    }
}

/// The same in `tools/golden/make.py`.
fn vector(n: u64) -> Vec<f32> {
    (0..8).map(|i| ((n * (i + 3) * 37 + i * 101) % 97) as f32 - 48.0).collect()
}

/// The same in `tools/golden/make.py`.
fn scattered(n: u64) -> Vec<f32> {
    (0..8).map(|i| ((((n * 8 + i + 1) * 2_654_435_761 % (1 << 32)) >> 16) % 2001) as f32 - 1000.0).collect()
}

fn distance(metric: &str, a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    match metric {
        "cosine" => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        "dot" => -dot(a, b),
        _ => (dot(a, a) + dot(b, b) - 2.0 * dot(a, b)).max(0.0).sqrt(),
    }
}

/// Compares searches with a look at all rows, to within what the stored form keeps of a distance.
fn finds(db: &Db, metric: &str, rows: &[u64], within: f64) {
    for query in [5, 200, 333] {
        let query = vector(query);
        for (filter, wanted) in [
            (None, rows.to_vec()),
            (
                Some("n >= 20 AND kind = 'k1'"),
                rows.iter().copied().filter(|n| *n >= 20 && n % 3 == 1).collect(),
            ),
        ] {
            let mut right: Vec<(f64, u64)> =
                wanted.iter().map(|&n| (distance(metric, &query, &vector(n)), n)).collect();
            right.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            let search = db.search_vector(&query).k(10).exact(true);
            let search = match filter {
                Some(filter) => search.filter(filter).unwrap(),
                None => search,
            };
            let hits = search.run().unwrap().hits;
            assert_eq!(hits.len(), right.len().min(10));
            for (hit, (far, _)) in hits.iter().zip(&right) {
                let n: u64 = hit.id[1..].parse().unwrap();
                assert!(wanted.contains(&n), "{metric}: {}", hit.id);
                let real = distance(metric, &query, &vector(n));
                assert!((real - f64::from(hit.distance)).abs() <= within, "{metric}: {hit:?} is at {real}");
                assert!((real - far).abs() <= 2.0 * within, "{metric}: {hit:?} instead of one at {far}");
            }
        }
    }
}

/// Nothing is damaged, before and after a change that writes all of it anew.
fn can_be_written(copy: &Copy, name: &str, new: Document) {
    let sound = |db: &Db| {
        let report = db.check(true, &Task::default()).unwrap();
        assert!(report.ok, "{name}: {:?}", report.problems);
    };
    let db = copy.open().unwrap();
    sound(&db);
    let (id, count) = (new.id.clone(), db.count().unwrap());
    db.add([new]).unwrap();
    drop(db);
    let db = copy.open().unwrap();
    sound(&db);
    assert!(db.get(&id).unwrap().is_some() && db.count().unwrap() == count + 1, "{name}");
    db.compact(&Task::default()).unwrap();
    sound(&db);
    assert_eq!(db.count().unwrap(), count + 1, "{name}");
}

#[test]
fn rows_of_every_stored_form_are_found() {
    for version in VERSIONS {
        for (metric, within) in [("cosine", 1e-5), ("dot", 1e-2), ("l2", 0.8)] {
            let name = format!("vectors-{metric}");
            let copy = Copy::new(version, &name);
            let rows: Vec<u64> = (0..120).collect();
            let look = |db: &Db| {
                assert_eq!(db.count().unwrap(), 120, "{version} {name}");
                let document = db.get("v7").unwrap().unwrap();
                assert_eq!((document.text.as_str(), &document.meta["kind"]), ("first 7", &"k1".into()));
                finds(db, metric, &rows, within);
            };
            look(&copy.open().unwrap());
            let far = Document::from_vector("new", vector(5000));
            can_be_written(&copy, &name, far);
            let db = copy.open().unwrap();
            db.delete(&["new".into()]).unwrap();
            look(&db);
        }
    }
}

#[test]
fn an_empty_database_takes_its_first_rows() {
    for version in VERSIONS {
        let copy = Copy::new(version, "empty");
        assert_eq!(copy.open().unwrap().count().unwrap(), 0, "{version}");
        can_be_written(&copy, "empty", Document::from_vector("v1", vector(1)));
        finds(&copy.open().unwrap(), "cosine", &[1], 1e-5);
    }
}

/// Rows in a log, deletions there of sealed rows and of others, and half of a frame at its end.
#[test]
fn a_log_that_ends_in_half_of_a_frame_is_read() {
    for version in VERSIONS {
        let copy = Copy::new(version, "tail");
        let rows: Vec<u64> = (0..90).filter(|n| ![3, 7, 70].contains(n)).collect();
        let look = |db: &Db| {
            assert_eq!(db.count().unwrap(), 87, "{version}");
            assert!(db.get("v3").unwrap().is_none() && db.get("v70").unwrap().is_none());
            for (id, text) in [("v49", "first 49"), ("v50", "second 50"), ("v89", "second 89")] {
                assert_eq!(db.get(id).unwrap().unwrap().text, text, "{version}");
            }
            finds(db, "cosine", &rows, 1e-5);
        };
        look(&copy.open().unwrap());
        can_be_written(&copy, "tail", Document::from_vector("new", vector(5000)));
        let db = copy.open().unwrap();
        db.delete(&["new".into()]).unwrap();
        look(&db);
    }
}

/// Files of every version are salvaged: one bit that flipped in any of them costs nothing.
#[test]
fn a_flipped_bit_of_an_earlier_version_is_turned_back() {
    for version in VERSIONS {
        let copy = Copy::new(version, "vectors-cosine");
        let mut repaired = 0;
        for (file, sound) in copy.files() {
            let mut bytes = sound.clone();
            let place = bytes.len() / 2;
            bytes[place] ^= 4;
            fs::write(&file, bytes).unwrap();
            let out = copy.place.path().join(format!("out-{repaired}"));
            let report = embdb::repair_path(&copy.path(), &out, None, &Task::default()).unwrap();
            assert!(
                report.is_complete() && report.documents == 120,
                "{version} {}: {report:?}",
                file.display()
            );
            finds(&Db::open(&out).unwrap(), "cosine", &(0..120).collect::<Vec<u64>>(), 1e-5);
            fs::write(&file, sound).unwrap();
            repaired += 1;
        }
        assert!(repaired > 5, "{version}: {repaired}");
    }
}

/// Only version 2.1 has one that is long enough.
#[test]
fn a_graph_leads_to_the_nearest() {
    let copy = Copy::new("2.1", "graph");
    let look = |db: &Db| {
        assert_eq!(db.count().unwrap(), 4200);
        let (mut found, queries) = (0, 100);
        for n in 0..queries {
            // Between two rows.
            let query: Vec<f32> =
                scattered(41 * n).iter().zip(scattered(17 * n + 3)).map(|(a, b)| a + 0.5 * b).collect();
            let right = db.search_vector(&query).k(10).exact(true).run().unwrap().hits;
            let hits = db.search_vector(&query).k(10).run().unwrap().hits;
            assert_eq!(hits.len(), 10);
            for hit in hits {
                let real = distance("cosine", &query, &scattered(hit.id[1..].parse().unwrap()));
                assert!((real - f64::from(hit.distance)).abs() < 1e-2, "{hit:?} is at {real}");
                found += usize::from(right.iter().any(|right| right.id == hit.id));
            }
        }
        assert!(found as f64 >= 0.95 * 10.0 * queries as f64, "{found} of {queries} times ten");
    };
    look(&copy.open().unwrap());
    // Without its graph the segment is scanned, and `check` tells.
    let graph = copy.path().join("seg/0000000001/gen.1.2/graph");
    let bytes = fs::read(&graph).unwrap();
    fs::write(&graph, &bytes[..bytes.len() / 2]).unwrap();
    assert!(!copy.open().unwrap().check(false, &Task::default()).unwrap().ok);
    look(&copy.open().unwrap());
    fs::write(&graph, &bytes).unwrap();
    can_be_written(&copy, "graph", Document::from_vector("new", scattered(5000)));
    let db = copy.open().unwrap();
    db.delete(&["new".into()]).unwrap();
    look(&db);
}

#[cfg(feature = "encoder")]
#[test]
fn texts_are_found_as_when_they_were_written() {
    for version in VERSIONS {
        let copy = Copy::new(version, "text");
        let pinned = fs::read_to_string(golden(version).join("text-answers.json")).unwrap();
        let pinned: serde_json::Value = serde_json::from_str(&pinned).unwrap();
        let look = |db: &Db, added: usize| {
            assert_eq!(db.count().unwrap() as usize, 8 + added, "{version}");
            for answer in pinned.as_array().unwrap() {
                let query = answer["query"].as_str().unwrap();
                let hits = db.search(query).k(5).filter("n < 8").unwrap().exact(true).run().unwrap().hits;
                let right = answer["hits"].as_array().unwrap();
                assert_eq!(hits.len(), right.len());
                for (hit, right) in hits.iter().zip(right) {
                    assert_eq!(hit.id, right[0].as_str().unwrap(), "{version}: {query}: {hits:?}");
                    let far = f64::from(hit.distance) - right[1].as_f64().unwrap();
                    assert!(far.abs() < 1e-3, "{version}: {query}: {hit:?}, not {right}");
                }
            }
        };
        let db = copy.open().unwrap();
        look(&db, 0);
        let generations = db.generations().unwrap();
        assert_eq!(generations.iter().find(|g| g.active).unwrap().generation, 2);
        assert_eq!(db.log_events().unwrap().len(), 2, "a search and a click");
        drop(db);
        can_be_written(&copy, "text", Document::new("new", "the moon is full").meta("n", 100));
        let db = copy.open().unwrap();
        look(&db, 1);
        db.rollback(Some(1), &Task::default()).unwrap();
        assert_eq!(db.search("rain").k(3).run().unwrap().generation, 1);
    }
}

/// Makes a file one of the next major version, its checksum included; `false` if it has none.
fn of_the_next_version(bytes: &mut [u8]) -> bool {
    if bytes.starts_with(&MAGIC) {
        bytes[MAJOR_OFFSET] += 1;
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..CHECKSUM_OFFSET]);
        bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 8].copy_from_slice(&sum.to_le_bytes());
    } else if bytes.starts_with(&LOG_MAGIC) {
        bytes[LOG_MAJOR_OFFSET] += 1;
        let sum = crc32c::crc32c(&bytes[..LOG_CHECKSUM_OFFSET]);
        bytes[LOG_CHECKSUM_OFFSET..LOG_CHECKSUM_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
    } else {
        return false;
    }
    true
}

/// What a user asks of a database.
fn ask(copy: &Copy) -> Result<(), Error> {
    let db = copy.open()?;
    db.ids()?.iter().try_for_each(|id| db.get(id).map(|_| ()))?;
    db.count_where("n >= 0")?;
    db.log_events()?;
    db.search_vector(&vector(1)).exact(true).run()?;
    db.search_vector(&vector(1)).run().map(|_| ())
}

/// Every kind of file with a version, in the place of the newest of its kind.
#[test]
fn a_file_of_the_next_version_is_refused_with_what_it_needs() {
    let mut kinds = BTreeMap::new();
    for name in ["vectors-cosine", "tail", "graph"] {
        let copy = Copy::new("2.1", name);
        ask(&copy).unwrap();
        let files = copy.files();
        for (path, bytes) in files.clone() {
            // Of manifests only the newest counts.
            let later = files.keys().any(|other| other > &path && other.parent() == path.parent());
            if path.parent().unwrap().ends_with("manifest") && later {
                continue;
            }
            let mut newer = bytes.clone();
            assert!(of_the_next_version(&mut newer), "{} has no version", path.display());
            fs::write(&path, &newer).unwrap();
            let told = ask(&copy).err();
            let followed = ["attrs", "codes", "graph"].iter().any(|kind| path.ends_with(kind));
            match &told {
                Some(Error::TooNew { file, needs }) => {
                    assert!(path.ends_with(file) || *file == path, "{file:?} instead of {path:?}");
                    assert!(needs.contains("3.0"), "{needs}");
                }
                // Searches do without what follows from other files, and `check` says so.
                None if followed => {
                    assert!(!copy.open().unwrap().check(false, &Task::default()).unwrap().ok, "{path:?}");
                }
                other => panic!("{}: {other:?}", path.display()),
            }
            kinds.insert(path.file_name().unwrap().to_owned(), told.is_some());
            #[cfg(feature = "shell")]
            if told.is_some() {
                the_program_says_so(&copy, &path);
            }
            fs::write(&path, &bytes).unwrap();
        }
        ask(&copy).unwrap();
    }
    println!("refused: {kinds:?}");
    assert!(kinds.len() >= 8, "{kinds:?}");
}

/// Exit code 6, and a message with the file and what it needs.
#[cfg(feature = "shell")]
fn the_program_says_so(copy: &Copy, path: &Path) {
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_embdb"));
        command.arg(copy.path()).args(args).output().unwrap()
    };
    let output = run(&["check"]);
    let text = String::from_utf8(output.stderr).unwrap();
    let name = path.file_name().unwrap().to_string_lossy();
    let told = [text, String::from_utf8(output.stdout).unwrap()].concat();
    assert!(told.contains(&*name) && told.contains("3.0"), "check of {name}: {told}");
    let codes =
        [run(&["count", "--where", "n >= 0"]), run(&["get", "v5"]), run(&["check"])].map(|o| o.status.code());
    assert!(codes.contains(&Some(6)), "{name}: exit codes {codes:?}: {told}");
}
