//! `repair`: a new database of all that can be read of a damaged one. Each test damages a copy of a sound database and
//! compares what comes out with what was put in: a document is as it was, or in the list of those that are lost.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embdb::db::repair::{Lost, repair};
use embdb::storage::sim::{CrashMode, SimVfs};
use embdb::storage::vfs::Vfs;
use embdb::types::{Codec, Event, LoggedClick, LoggedSearch};
use embdb::{
    CreateOptions, Db, Document, Error, OpenOptions, RepairReport, SearchOptions, Task, check_path,
    repair_path,
};
use serde_json::json;

const DIM: usize = 16;

/// A vector like no other.
fn vector(n: u32) -> Vec<f32> {
    (0..DIM as u32)
        .map(|i| (((n * 64 + i).wrapping_mul(2_654_435_761) >> 16) as f32 / 32768.0) - 1.0)
        .collect()
}

/// A database of plain vectors: two segments, one of them with deleted documents, and a log.
fn plain(dir: &Path) -> PathBuf {
    let path = dir.join("a.embdb");
    let create = CreateOptions { vectors: Some(DIM), ..CreateOptions::default() };
    let db =
        Db::open_with(&path, OpenOptions { create, background: false, ..OpenOptions::default() }).unwrap();
    let document = |n: u32| {
        let mut document = Document::from_vector(format!("doc-{n:04}"), vector(n));
        document.title = n.is_multiple_of(3).then(|| format!("title {n}"));
        // Not to be packed to nothing, so that blocks are many.
        document.text =
            (0..40).map(|i| format!("{:x} ", (n * 7919 + i).wrapping_mul(2_654_435_761))).collect();
        document.meta.insert("year".into(), json!(1900 + n % 100));
        document
    };
    db.add((0..600).map(document)).unwrap();
    db.seal(&Task::default()).unwrap();
    db.add((600..900).map(document)).unwrap();
    db.seal(&Task::default()).unwrap();
    db.delete(&(0..50).map(|n| format!("doc-{:04}", 3 * n)).collect::<Vec<_>>()).unwrap();
    db.seal(&Task::default()).unwrap();
    for n in (900..1000).step_by(5) {
        db.add((n..n + 5).map(document)).unwrap();
    }
    db.add([document(601)]).unwrap();
    db.delete(&["doc-0602".into()]).unwrap();
    db.close().unwrap();
    path
}

/// A database whose rows are stored as codes alone, and whose lock is gone.
fn coded(dir: &Path) -> PathBuf {
    let path = dir.join("c.embdb");
    let create = CreateOptions { vectors: Some(DIM), codec: Codec::Int8, ..CreateOptions::default() };
    let db =
        Db::open_with(&path, OpenOptions { create, background: false, ..OpenOptions::default() }).unwrap();
    db.add((0..500).map(|n| Document::from_vector(format!("doc-{n:04}"), vector(n)))).unwrap();
    db.seal(&Task::default()).unwrap();
    db.close().unwrap();
    fs::remove_file(path.join("LOCK")).unwrap();
    path
}

/// Searches and clicks on what they showed, of nobody in particular.
fn logged(numbers: std::ops::Range<u64>) -> Vec<Event> {
    let of = |number: u64| {
        let (query_id, time_ms) = (format!("q{number}"), 1_700_000_000_000 + number);
        let search = LoggedSearch {
            query_id: query_id.clone(),
            text: format!("query {number}"),
            time_ms,
            generation: 1,
            shown: vec!["doc-0001".into()],
            ..LoggedSearch::default()
        };
        let click = LoggedClick {
            click_id: format!("c{number}"),
            query_id,
            id: "doc-0001".into(),
            grade: 1.0,
            time_ms,
        };
        [Event::Search(search), Event::Click(click)]
    };
    numbers.flat_map(of).collect()
}

/// A database of plain vectors with 80 searches and clicks in a merged file and 20 in one that is not.
fn searched(dir: &Path) -> PathBuf {
    let path = plain(dir);
    let open = || Db::open_with(&path, OpenOptions { background: false, ..OpenOptions::default() }).unwrap();
    let db = open();
    db.log_import(logged(0..40)).unwrap();
    db.close().unwrap();
    let db = open();
    db.compact(&Task::default()).unwrap();
    db.log_import(logged(40..50)).unwrap();
    db.close().unwrap();
    path
}

#[cfg(feature = "encoder")]
fn tiny_model() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert"))
}

/// A database of texts with searches and clicks.
#[cfg(feature = "encoder")]
fn texts(dir: &Path) -> PathBuf {
    let path = dir.join("t.embdb");
    let create = CreateOptions { model: Some(tiny_model()), ..CreateOptions::default() };
    let db =
        Db::open_with(&path, OpenOptions { create, background: false, ..OpenOptions::default() }).unwrap();
    db.add((0..60).map(|n| Document::new(format!("t{n}"), format!("text number {n} about {}", n * n))))
        .unwrap();
    db.seal(&Task::default()).unwrap();
    db.add((60..80).map(|n| Document::new(format!("t{n}"), format!("another text {n}")))).unwrap();
    for n in 0..30 {
        let results = db.search(&format!("text {n}")).log(true).run().unwrap();
        db.click(results.query_id.unwrap(), &results.hits[0].id).unwrap();
    }
    db.close().unwrap();
    path
}

type Contents = BTreeMap<String, (Document, Vec<String>)>;

/// All documents, each with its nearest neighbours by its own text or vector.
fn contents(path: &Path) -> Contents {
    let db = Db::open_with(path, OpenOptions { background: false, ..OpenOptions::default() }).unwrap();
    let is_plain = db.info().unwrap().model.is_none();
    let of = |id: String| {
        let document = db.get(&id).unwrap().unwrap();
        let hits = if is_plain {
            let found = db.searcher(&SearchOptions { k: 5, ..SearchOptions::default() }).unwrap();
            found
                .search(&vector(id.trim_start_matches("doc-").parse().unwrap()))
                .unwrap()
                .iter()
                .filter(|hit| hit.id == id)
                .map(|hit| format!("{:.5}", hit.score))
                .collect()
        } else {
            let found = db.search(&document.text).k(1).run().unwrap();
            found.hits.iter().map(|hit| format!("{} {:.5}", hit.id, hit.score)).collect()
        };
        (id, (document, hits))
    };
    db.ids().unwrap().into_iter().map(of).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).map(|_| ()).unwrap()
        }
    }
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// All bytes below a directory.
fn image(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(root).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

struct Case {
    dir: tempfile::TempDir,
    sound: PathBuf,
    expected: Contents,
}

impl Case {
    fn new(make: impl Fn(&Path) -> PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sound = make(dir.path());
        let expected = contents(&sound);
        Self { dir, sound, expected }
    }

    /// A damaged copy, repaired: nothing of it changed, and what came of it.
    fn repaired(&self, damage: impl FnOnce(&Path)) -> (Contents, RepairReport) {
        self.try_repaired(None, damage).unwrap()
    }

    fn try_repaired(
        &self,
        model: Option<&Path>,
        damage: impl FnOnce(&Path),
    ) -> Result<(Contents, RepairReport), Error> {
        let (broken, out) = (self.dir.path().join("broken"), self.dir.path().join("out"));
        for old in [&broken, &out] {
            let _ = fs::remove_dir_all(old);
        }
        copy(&self.sound, &broken);
        damage(&broken);
        let before = image(&broken);
        let report = repair_path(&broken, &out, model, &Task::default());
        assert!(image(&broken) == before, "repair changed the damaged database");
        assert_eq!(out.exists(), report.is_ok());
        assert!(!self.dir.path().join("out.unfinished").exists());
        let report = report?;
        let checked = check_path(&out, false, &Task::default()).unwrap();
        assert!(checked.ok, "{checked:?}");
        let found = contents(&out);
        assert_eq!(found.len() as u64, report.documents);
        Ok((found, report))
    }

    /// What is there is as it was; what is not is in the list, and nothing else is.
    fn list_is_true(&self, found: &Contents, report: &RepairReport) {
        let truth: BTreeSet<&String> =
            self.expected.iter().filter(|(id, was)| found.get(*id) != Some(was)).map(|(id, _)| id).collect();
        // The id in a damaged record may be damaged.
        let named = |lost: &&Lost| lost.id.as_ref().is_some_and(|id| self.expected.contains_key(id));
        let told: BTreeSet<&String> =
            report.lost.iter().filter(named).filter_map(|lost| lost.id.as_ref()).collect();
        let unnamed: u64 = report.lost.iter().filter(|lost| !named(lost)).map(|lost| lost.documents).sum();
        assert!(told.is_subset(&truth), "{:?}", told.difference(&truth));
        let untold = (truth.len() - told.len()) as u64;
        // Of a segment without ids nobody can tell which documents the log has replaced (one) or deleted (one).
        assert!((untold..=untold + 2).contains(&unnamed), "{:?} {:?}", truth.difference(&told), report.lost);
        assert!(found.keys().all(|id| self.expected.contains_key(id)), "a deleted document is back");
    }
}

fn only(root: &Path, name: &str) -> PathBuf {
    let found: Vec<PathBuf> =
        files(root).into_iter().filter(|path| path.to_string_lossy().contains(name)).collect();
    found.last().unwrap_or_else(|| panic!("no {name}")).clone()
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Databases of vectors, and one of texts where there is an encoder.
fn all() -> Vec<Case> {
    vec![
        Case::new(plain),
        Case::new(coded),
        #[cfg(feature = "encoder")]
        Case::new(texts),
    ]
}

#[test]
fn of_a_sound_database_nothing_is_lost() {
    for case in all() {
        let (found, report) = case.repaired(|_| {});
        assert!(found == case.expected);
        assert!(report.is_complete() && report.bits_turned == 0 && report.embedded == 0, "{report:?}");
        assert_eq!(report.events, if case.expected.contains_key("t1") { 60 } else { 0 });
    }
}

/// Checksums prove each bit that is turned back.
#[test]
fn by_one_flipped_bit_nothing_is_lost_wherever_it_is() {
    for case in all() {
        for file in files(&case.sound) {
            let name = file.strip_prefix(&case.sound).unwrap().to_path_buf();
            let bits = 8 * fs::metadata(&file).unwrap().len();
            // The text of a lock, and models, have no checksum that a bit could be turned by.
            if bits == 0 || name.starts_with("LOCK") || name.starts_with("models") {
                continue;
            }
            let places = [3, bits / 3, bits / 2 + 5, bits - 2];
            for bit in places.into_iter().skip(if case.expected.len() > 100 { 0 } else { 2 }) {
                let (found, report) = case.repaired(|broken| {
                    change(&broken.join(&name), |bytes| bytes[(bit / 8) as usize] ^= 1 << (bit % 8));
                });
                assert!(found == case.expected, "{} bit {bit}: {report:?}", name.display());
                assert!(report.is_complete(), "{} bit {bit}: {report:?}", name.display());
                let derived = ["attrs", "codes", "graph"].iter().any(|name| file.ends_with(name));
                assert!(
                    derived || report.bits_turned == 1 || name.starts_with("manifest"),
                    "{}",
                    name.display()
                );
            }
        }
    }
}

#[test]
fn a_damaged_sector_costs_what_lay_in_it_and_the_list_tells() {
    let case = Case::new(plain);
    let mut lost_somewhere = 0;
    for file in files(&case.sound) {
        let name = file.strip_prefix(&case.sound).unwrap().to_path_buf();
        if name.starts_with("LOCK") {
            continue;
        }
        let sectors = fs::metadata(&file).unwrap().len() as usize / 512;
        for sector in [1, sectors / 2, sectors.saturating_sub(2)] {
            let damaged = case.try_repaired(None, |broken| {
                change(&broken.join(&name), |bytes| {
                    bytes.iter_mut().skip(512 * sector).take(512).for_each(|b| *b = 0xa5)
                });
            });
            let (found, report) =
                damaged.unwrap_or_else(|error| panic!("{} sector {sector}: {error}", name.display()));
            println!("{} sector {sector}: {} of {}", name.display(), found.len(), case.expected.len());
            // A log whose end is gone ends earlier, and without its manifest nobody knows what was deleted.
            let is_end_of_log = name.starts_with("log") && sector + 2 >= sectors;
            if !(name.starts_with("manifest") || is_end_of_log) && report.notes.is_empty() {
                case.list_is_true(&found, &report);
            }
            assert!(found.len() > 500, "{} sector {sector}", name.display());
            lost_somewhere += report.lost.len();
        }
    }
    assert!(lost_somewhere > 20, "{lost_somewhere}");
}

#[test]
fn the_list_of_a_damaged_log_is_the_truth() {
    let case = Case::new(plain);
    let length = fs::metadata(only(&case.sound, "log/")).unwrap().len() as usize;
    for at in (64..length - 2000).step_by(997) {
        let (found, report) = case.repaired(|broken| {
            change(&only(broken, "log/"), |bytes| {
                bytes[at..at + 40].iter_mut().for_each(|byte| *byte ^= 0x5a)
            });
        });
        if report.notes.is_empty() {
            case.list_is_true(&found, &report);
        }
        assert!(report.lost.len() <= 2, "{report:?}");
    }
}

#[test]
fn without_its_newest_manifest_documents_are_found_beside_an_older_one() {
    let case = Case::new(plain);
    let (found, report) = case.repaired(|broken| fs::write(only(broken, "manifest/"), b"nothing").unwrap());
    assert!(report.notes.iter().any(|note| note.contains("newest manifest")), "{report:?}");
    for (id, was) in &case.expected {
        assert!(found.get(id) == Some(was), "{id}");
    }
    let all = case.try_repaired(None, |broken| {
        files(broken)
            .iter()
            .filter(|path| path.to_string_lossy().contains("manifest/"))
            .for_each(|path| fs::write(path, b"").unwrap());
    });
    assert_eq!(all.unwrap_err().exit_code(), 2);
}

#[test]
fn without_codes_rows_that_were_stored_so_are_lost() {
    let case = Case::new(coded);
    let (found, report) = case.repaired(|broken| fs::remove_file(only(broken, "/codes")).unwrap());
    case.list_is_true(&found, &report);
    assert!(found.is_empty() && report.lost.len() == 500);
    let (found, report) =
        case.repaired(|broken| change(&only(broken, "/codes"), |bytes| bytes[5000..5040].fill(1)));
    case.list_is_true(&found, &report);
    assert!((200..500).contains(&found.len()), "{}", found.len());
}

/// What was put in place of a file of this database by mistake says nothing about it.
#[test]
fn files_of_another_database_count_for_nothing() {
    let case = Case::new(plain);
    let beside = tempfile::tempdir().unwrap();
    let other = plain(beside.path());
    for (name, least) in [("/codes", 950), ("/ids", 350), ("/docs", 350), ("/full", 350), ("/rows", 350)] {
        let (found, report) =
            case.repaired(|broken| assert!(fs::copy(only(&other, name), only(broken, name)).unwrap() > 0));
        case.list_is_true(&found, &report);
        assert!(
            found.len() < 950 && found.len() >= least || found == case.expected,
            "{name}: {}",
            found.len()
        );
        assert_eq!(report.lost.is_empty(), least == 950, "{name}");
    }
}

#[test]
fn files_that_are_gone_cost_only_what_stood_in_them() {
    let case = Case::new(plain);
    for (name, least) in
        [("/attrs", 950), ("/codes", 950), ("/ids", 400), ("/docs", 400), ("/full", 400), ("/rows", 400)]
    {
        let (found, report) = case.repaired(|broken| fs::remove_file(only(broken, name)).unwrap());
        case.list_is_true(&found, &report);
        assert!(found.len() >= least - 50, "{name}: {}", found.len());
        assert_eq!(report.lost.is_empty(), least == 950, "{name}");
    }
}

#[test]
#[cfg(not(feature = "encoder"))]
fn without_an_encoder_no_model_is_taken() {
    let case = Case::new(plain);
    let error = case.try_repaired(Some(Path::new("model")), |_| {}).unwrap_err();
    assert!(error.exit_code() == 1 && error.to_string().contains("without the feature"), "{error}");
}

#[test]
#[cfg(feature = "encoder")]
fn lost_vectors_are_made_anew_from_texts() {
    let case = Case::new(texts);
    let (found, report) = case.repaired(|broken| fs::remove_file(only(broken, "/full")).unwrap());
    assert!(found == case.expected, "the encoder makes the same again");
    assert_eq!((report.embedded, report.lost.len(), report.documents), (60, 0, 80));
}

#[test]
#[cfg(feature = "encoder")]
fn a_lost_encoder_is_asked_for_and_taken_from_a_folder() {
    let case = Case::new(texts);
    let damage = |broken: &Path| {
        change(&only(broken, "model.safetensors"), |bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 255;
        })
    };
    let error = case.try_repaired(None, damage).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("--model"), "{error}");
    let (found, report) = case.try_repaired(Some(&tiny_model()), damage).unwrap();
    assert!(found == case.expected && report.is_complete(), "{report:?}");
    let other = tiny_model().with_file_name("no-such-model");
    assert_eq!(case.try_repaired(Some(&other), damage).unwrap_err().exit_code(), 1);
}

#[test]
#[cfg(feature = "encoder")]
fn damaged_searches_and_clicks_are_counted() {
    let case = Case::new(texts);
    let (_, report) = case.repaired(|broken| {
        let path = files(&broken.join("feedback")).pop().unwrap();
        change(&path, |bytes| {
            let at = bytes.len() / 2;
            bytes[at..at + 30].fill(7);
        });
    });
    assert!((1..=2).contains(&report.lost_events), "{report:?}");
    assert_eq!(report.events + report.lost_events, 60);
    let (_, report) = case.repaired(|broken| {
        let path = files(&broken.join("feedback")).pop().unwrap();
        change(&path, |bytes| bytes[..64].fill(0));
    });
    assert!(!report.is_complete() && report.notes[0].contains("searches and clicks are lost"), "{report:?}");
    assert_eq!(report.events, 0);
}

/// Bytes in the middle of all manifests are wrong: none is believed, and the newest is better than nothing.
#[test]
fn of_damaged_manifests_the_newest_that_makes_sense_is_used() {
    let case = Case::new(plain);
    let length = fs::metadata(only(&case.sound, "manifest/")).unwrap().len() as usize;
    let mut saved = 0;
    for at in (64..length).step_by(29) {
        let damaged = case.try_repaired(None, |broken| {
            let manifests = files(&broken.join("manifest"));
            manifests.iter().for_each(|path| {
                change(path, |bytes| bytes.iter_mut().skip(at).take(2).for_each(|b| *b ^= 3))
            });
        });
        match damaged {
            Ok((found, report)) => {
                let told = report.notes.iter().any(|note| note.contains("no manifest is sound"));
                assert!(!report.notes.is_empty() || found == case.expected, "{at}: {report:?}");
                saved += u32::from(told && found == case.expected);
            }
            Err(error) => assert!([2, 5, 6].contains(&error.exit_code()), "{at}: {error}"),
        }
    }
    assert!(saved > 0);
}

/// Nobody can tell then which documents were deleted, but of each the newest version is known.
#[test]
fn without_manifest_and_deletions_the_newest_version_of_a_document_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("a.embdb"), dir.path().join("out"));
    let create = CreateOptions { vectors: Some(DIM), ..CreateOptions::default() };
    let options = OpenOptions { create, background: false, ..OpenOptions::default() };
    let db = Db::open_with(&path, options).unwrap();
    for version in 0..3u32 {
        let document = |n: u32| {
            let mut document = Document::from_vector(format!("doc-{n:04}"), vector(n + 1000 * version));
            document.text = format!("version {version}");
            document
        };
        // Each time fewer, so that segments are not merged.
        db.add((0..400 >> (2 * version)).map(document)).unwrap();
        db.seal(&Task::default()).unwrap();
    }
    db.close().unwrap();
    let deletions: Vec<PathBuf> =
        files(&path).into_iter().filter(|file| file.to_string_lossy().contains("/del.")).collect();
    assert!(!deletions.is_empty());
    deletions.iter().for_each(|file| fs::remove_file(file).unwrap());
    fs::write(only(&path, "manifest/"), b"nothing").unwrap();

    let report = repair_path(&path, &out, None, &Task::default()).unwrap();
    assert!(report.lost.is_empty() && report.documents == 400, "{report:?}");
    let db = Db::open(&out).unwrap();
    for n in 0..400 {
        let version = if n < 25 { 2 } else { u32::from(n < 100) };
        let found = db.get(&format!("doc-{n:04}")).unwrap().unwrap();
        assert_eq!(found.text, format!("version {version}"), "{n}");
    }
}

#[test]
fn a_log_that_is_anothers_or_unreadable_is_told_and_one_never_used_is_not() {
    let case = Case::new(plain);
    let beside = tempfile::tempdir().unwrap();
    let others = only(&plain(beside.path()), "log/");
    let next = |broken: &Path| {
        let last = only(broken, "log/");
        let number: u64 = last.file_name().unwrap().to_str().unwrap().parse().unwrap();
        last.with_file_name(format!("{:020}", number + 1))
    };
    let (found, report) = case.repaired(|broken| assert!(fs::copy(&others, next(broken)).unwrap() > 0));
    assert!(found == case.expected && report.lost.is_empty());
    assert!(report.notes[0].contains("is not a log of this place"), "{report:?}");
    let (found, report) =
        case.repaired(|broken| assert!(fs::copy(only(broken, "log/"), next(broken)).unwrap() > 0));
    assert!(found == case.expected, "its number is that of another");
    assert!(report.notes[0].contains("is not a log of this place"), "{report:?}");
    let (found, report) = case.repaired(|broken| fs::write(next(broken), [7; 64]).unwrap());
    assert!(found == case.expected && report.is_complete(), "{report:?}");

    let (found, report) = case.repaired(|broken| change(&only(broken, "log/"), |log| log[..64].fill(7)));
    assert!(report.notes[0].contains("all that stood in a log is lost"), "{report:?}");
    assert!(found.len() < case.expected.len() && found.len() > 800, "{}", found.len());
}

#[test]
fn a_lost_deletion_is_told() {
    let case = Case::new(plain);
    let (found, report) = case.repaired(|broken| {
        change(&only(broken, "log/"), |log| {
            let at = log.windows(8).rposition(|window| window == b"doc-0602").unwrap();
            log[at + 6..at + 8].copy_from_slice(b"xx");
        });
    });
    assert!(report.notes[0].contains("a deletion is lost: the document \"doc-06xx\""), "{report:?}");
    assert!(found.contains_key("doc-0602") && !case.expected.contains_key("doc-0602"));
}

/// More text than is written at once.
#[test]
fn large_documents_are_saved_too() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("a.embdb"), dir.path().join("out"));
    let create = CreateOptions { vectors: Some(DIM), ..CreateOptions::default() };
    let db =
        Db::open_with(&path, OpenOptions { create, background: false, ..OpenOptions::default() }).unwrap();
    let text = |n: u32| format!("{n} ").repeat(1_500_000);
    db.add((0..4).map(|n| {
        let mut document = Document::from_vector(n.to_string(), vector(n));
        document.text = text(n);
        document
    }))
    .unwrap();
    db.close().unwrap();
    let report = repair_path(&path, &out, None, &Task::default()).unwrap();
    assert!(report.is_complete() && report.documents == 4, "{report:?}");
    let db = Db::open(&out).unwrap();
    assert!((0..4).all(|n| db.get(&n.to_string()).unwrap().unwrap().text == text(n)));
}

#[test]
fn of_damaged_searches_and_clicks_the_others_are_saved() {
    let case = Case::new(searched);
    let events = |case: &Case| Db::open(case.dir.path().join("out")).unwrap().log_events().unwrap();
    let (_, report) = case.repaired(|_| {});
    assert!(report.is_complete() && report.events == 100, "{report:?}");
    let all = events(&case);
    let merged = |broken: &Path| only(broken, "merged-");
    let other = |broken: &Path| {
        let mut found = files(&broken.join("feedback"));
        found.retain(|path| !path.to_string_lossy().contains("merged-"));
        found.pop().unwrap()
    };

    // A page of the merged file.
    let (_, report) = case.repaired(|broken| change(&merged(broken), |bytes| bytes[6000..6040].fill(b'x')));
    assert!((20..80).contains(&report.events) && report.events + report.lost_events == 100, "{report:?}");
    assert!(events(&case).iter().all(|event| all.contains(event)));
    // All of it, by its header, by its name, and by its absence.
    let (_, report) = case.repaired(|broken| change(&merged(broken), |bytes| bytes[..4096].fill(b'x')));
    assert!(report.events == 20 && report.notes[0].contains("searches and clicks are lost"), "{report:?}");
    let (_, report) = case.repaired(|broken| fs::remove_file(merged(broken)).unwrap());
    assert!(report.events == 20 && report.notes[0].contains("is missing"), "{report:?}");
    let (_, report) = case.repaired(|broken| fs::remove_dir_all(broken.join("feedback")).unwrap());
    assert!(report.events == 0 && report.notes[0].contains("is missing"), "{report:?}");
    // One that no manifest names counts only where the newest cannot be read.
    let unnamed = |broken: &Path| {
        let name = merged(broken);
        fs::rename(&name, name.with_file_name("merged-00000000000000000099")).unwrap();
    };
    let (_, report) = case.repaired(unnamed);
    assert_eq!((report.events, report.is_complete()), (20, false), "{report:?}");
    let (_, report) = case.repaired(|broken| {
        unnamed(broken);
        fs::write(only(broken, "manifest/"), b"nothing").unwrap();
    });
    assert_eq!(report.events, 100, "{report:?}");

    // Records of the file that is not merged, its header, and one that was never in use.
    let (_, report) = case.repaired(|broken| {
        change(&other(broken), |bytes| {
            let at = bytes.len() / 2;
            bytes[at..at + 30].fill(7);
        });
    });
    assert!((1..=2).contains(&report.lost_events) && report.events + report.lost_events == 100, "{report:?}");
    let (_, report) = case.repaired(|broken| change(&other(broken), |bytes| bytes[..64].fill(0)));
    assert!(report.events == 80 && report.notes[0].contains("searches and clicks are lost"), "{report:?}");
    let (_, report) = case.repaired(|broken| change(&other(broken), |bytes| bytes.truncate(30)));
    assert!(report.events == 80 && report.is_complete(), "{report:?}");
}

/// A state before that of a newer program is no salvage.
#[test]
fn a_database_of_another_version_is_refused() {
    let case = Case::new(plain);
    let newer = case.try_repaired(None, |broken| {
        change(&only(broken, "manifest/"), |bytes| {
            bytes[10] += 1;
            let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..56]);
            bytes[56..64].copy_from_slice(&sum.to_le_bytes());
        });
    });
    assert_eq!(newer.unwrap_err().exit_code(), 6);
}

#[test]
fn places_that_will_not_do_are_refused_and_a_stop_leaves_nothing() {
    let case = Case::new(plain);
    let out = case.dir.path().join("new");
    let repair = |from: &Path, to: &Path| repair_path(from, to, None, &Task::default()).map(|_| ());
    assert_eq!(repair(&case.dir.path().join("none"), &out).unwrap_err().exit_code(), 1);
    assert_eq!(repair(&case.sound, &case.sound).unwrap_err().exit_code(), 1);
    assert_eq!(repair(&case.sound, &case.sound.join("log/new")).unwrap_err().exit_code(), 1);
    assert_eq!(repair(&only(&case.sound, "log/"), &out).unwrap_err().exit_code(), 1);
    fs::create_dir(case.dir.path().join("new.unfinished")).unwrap();
    assert!(repair(&case.sound, &out).unwrap_err().to_string().contains("remove it first"));
    fs::remove_dir(case.dir.path().join("new.unfinished")).unwrap();

    let db = Db::open(&case.sound).unwrap();
    db.hold_writer().unwrap();
    assert_eq!(repair(&case.sound, &out).unwrap_err().exit_code(), 3);
    drop(db);

    let task = Task::default();
    task.cancel();
    assert!(matches!(repair_path(&case.sound, &out, None, &task), Err(Error::Cancelled)));
    assert!(!out.exists() && !case.dir.path().join("new.unfinished").exists());
    repair(&case.sound, &out).unwrap();
    assert!(contents(&out) == case.expected);
}

/// The new database is whole or not there, whenever the power fails; the damaged one is never touched.
#[test]
fn a_repair_that_is_cut_off_leaves_all_or_nothing() {
    let sim = SimVfs::new(5);
    let create = CreateOptions { vectors: Some(DIM), ..CreateOptions::default() };
    let options = OpenOptions { create, background: false, ..OpenOptions::default() };
    let open =
        |sim: &SimVfs, path: &str| Db::open_vfs(Arc::new(sim.live_copy()), path, options.clone()).unwrap();
    let db = Db::open_vfs(Arc::new(sim.clone()), "a", options.clone()).unwrap();
    let documents =
        |from: u32| (from..from + 20).map(|n| Document::from_vector(format!("doc-{n:04}"), vector(n)));
    db.add(documents(0)).unwrap();
    db.seal(&Task::default()).unwrap();
    db.add(documents(20)).unwrap();
    db.close().unwrap();
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let start = sim.op_count();
    repair(&vfs, Path::new("a"), Path::new("b"), None, &Task::default()).unwrap();
    let (mut whole, mut none) = (0, 0);
    for at in start..=sim.op_count() {
        for (mode, seed) in [
            (CrashMode::KillOnly, 0),
            (CrashMode::DropAll, 0),
            (CrashMode::Random, 1),
            (CrashMode::Random, 2),
        ] {
            let image = sim.crash_image(at, mode, seed);
            assert_eq!(open(&image, "a").count().unwrap(), 40);
            if image.exists(Path::new("b")).unwrap() {
                assert_eq!(open(&image, "b").count().unwrap(), 40, "operation {at} {mode:?} {seed}");
                whole += 1;
            } else {
                none += 1;
            }
        }
    }
    assert!(whole > 0 && none > 0, "{whole} {none}");
}
