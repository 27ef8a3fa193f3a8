//! The storage engine through its public interface: plain vectors, no encoder.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use embdb::format::frame::{BatchBuilder, FrameType, LogHeader};
use embdb::options::Io;
use std::time::Duration;

use embdb::options::limits;
use embdb::types::Document;
use embdb::{CreateOptions, Db, Error, OpenOptions, SearchOptions, Task};

fn options() -> OpenOptions {
    let create = CreateOptions { vectors: Some(8), ..CreateOptions::default() };
    OpenOptions { create, background: false, ..OpenOptions::default() }
}

fn vector(n: u64) -> Vec<f32> {
    (0..8).map(|i| ((n * 37 + i * 101) % 97) as f32 - 48.0).collect()
}

fn document(n: u64, version: &str) -> Document {
    let mut document =
        Document::from_vector(format!("d{n}"), vector(n)).meta("n", n).meta("version", version);
    document.text = format!("document {n} {version}");
    document
}

/// Everything that a reader can see.
fn contents(db: &Db) -> Vec<(String, String)> {
    let ids = db.ids().unwrap();
    assert_eq!(ids.len() as u64, db.count().unwrap());
    ids.into_iter().map(|id| (id.clone(), db.get(&id).unwrap().unwrap().text)).collect()
}

#[test]
fn what_was_written_survives_reopening_sealing_and_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let db = Db::open_with(&path, options()).unwrap();
    db.add((0..20).map(|n| document(n, "old"))).unwrap();
    db.add((5..25).map(|n| document(n, "new"))).unwrap();
    assert_eq!(db.delete(&["d0".into(), "d7".into(), "nobody".into()]).unwrap(), 2);
    let expected = contents(&db);
    assert_eq!(expected.len(), 23);

    let look = |db: &Db| {
        assert_eq!(contents(db), expected);
        for n in [1, 9, 24] {
            let found = db.search_vector(&vector(n)).k(3).run().unwrap();
            assert_eq!(found.hits[0].id, format!("d{n}"));
            assert_eq!(found.hits.len(), 3);
        }
        let found =
            db.search_vector(&vector(1)).k(50).filter("version = 'old' AND n < 4").unwrap().run().unwrap();
        let mut ids: Vec<_> = found.hits.iter().map(|h| h.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["d1", "d2", "d3"]);
        assert_eq!(db.count_where("version = 'new'").unwrap().count, 19);
    };
    look(&db);
    drop(db);
    let db = Db::open_with(&path, options()).unwrap();
    look(&db);
    db.seal(&Task::default()).unwrap();
    look(&db);
    db.add([document(30, "later")]).unwrap();
    db.delete(&["d30".into()]).unwrap();
    db.seal(&Task::default()).unwrap();
    look(&db);
    drop(db);
    let db = Db::open_with(&path, options()).unwrap();
    look(&db);
    db.add((1..3).map(|n| document(n, "old"))).unwrap();
    look(&db);
    db.compact(&Task::default()).unwrap();
    look(&db);
    let info = db.info().unwrap();
    assert_eq!((info.documents, info.deleted, info.segments), (23, 0, 1));
    let report = db.check(true, &Task::default()).unwrap();
    assert!(report.ok, "{report:?}");
    let copy = dir.path().join("copy.embdb");
    db.backup(&copy, &Task::default()).unwrap();
    look(&Db::open_with(&copy, options()).unwrap());
}

#[test]
fn a_second_writer_is_told_who_holds_the_lock_and_readers_follow() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let writer = Db::open_with(&path, options()).unwrap();
    writer.add([document(1, "a")]).unwrap();
    let other = Db::open_with(&path, options()).unwrap();
    let error = other.add([document(2, "b")]).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains(&std::process::id().to_string()));
    writer.add([document(3, "c")]).unwrap();
    assert_eq!(other.count().unwrap(), 1);
    other.refresh().unwrap();
    assert_eq!(other.count().unwrap(), 2);
    writer.seal(&Task::default()).unwrap();
    writer.add([document(4, "d")]).unwrap();
    other.refresh().unwrap();
    assert_eq!(contents(&other), contents(&writer));
    drop(writer);
    other.add([document(2, "b")]).unwrap();
    assert_eq!(other.count().unwrap(), 4);
}

/// Who writes in a loop does not keep others out for ever, and sees what they wrote.
#[test]
fn the_lock_is_handed_to_who_waits_between_two_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let writer = Db::open_with(&path, options()).unwrap();
    writer.add([document(0, "a")]).unwrap();
    let patient = OpenOptions { busy_timeout: Duration::from_secs(60), ..options() };
    let written = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let db = Db::open_with(&path, patient).unwrap();
            db.add([document(1, "b")]).unwrap();
        });
        let mut next = 2;
        while !waiter.is_finished() {
            writer.add([document(next, "a")]).unwrap();
            next += 1;
        }
        waiter.join().unwrap();
        next
    });
    writer.add([document(written, "a")]).unwrap();
    assert_eq!(writer.count().unwrap(), written + 1);
    assert_eq!(writer.get("d1").unwrap().unwrap().text, "document 1 b");

    writer.release_writer().unwrap();
    let other = Db::open_with(&path, options()).unwrap();
    other.add([document(written + 1, "b")]).unwrap();
    other.release_writer().unwrap();
    other.release_writer().unwrap();
    writer.delete(&["d1".into()]).unwrap();
    assert_eq!(writer.count().unwrap(), written + 1);
}

#[test]
fn what_is_over_a_limit_is_refused_by_name_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let db = Db::open_with(&path, options()).unwrap();
    db.add([document(1, "a")]).unwrap();
    assert_eq!(db.add([]).unwrap().documents, 0);
    let sound = contents(&db);
    let limited = |error: Error, what: &str, most: usize, found: usize| {
        let text = error.to_string();
        assert!(error.exit_code() == 5 && text.contains(what), "{text}");
        let Error::Limit { limit, actual, raise, .. } = error else { panic!("{text}") };
        assert_eq!((limit, actual), (most as u64, found as u64));
        assert!(!raise.is_empty());
    };
    let refused = |result: embdb::Result<()>, what: &str| {
        let error = result.unwrap_err();
        assert!(error.exit_code() == 1 && error.to_string().contains(what), "{error}");
    };
    let add = |document| db.add([document]).map(|_| ());

    refused(add(Document::from_vector("", vector(2))), "must not be empty");
    let id = "x".repeat(limits::ID_BYTES + 1);
    limited(add(Document::from_vector(id, vector(2))).unwrap_err(), "id", limits::ID_BYTES, 513);
    let mut large = document(2, "a");
    large.text = "x".repeat(limits::DOCUMENT_BYTES);
    let bytes = limits::DOCUMENT_BYTES + 2 + r#"{"n":2,"version":"a"}"#.len();
    limited(add(large).unwrap_err(), "document \"d2\"", limits::DOCUMENT_BYTES, bytes);
    // A batch is taken whole or not at all.
    assert!(db.add([document(3, "a"), Document::from_vector("", vector(4))]).is_err());

    let search =
        |options: SearchOptions| db.searcher(&options).and_then(|s| s.search(&vector(1)).map(|_| ()));
    refused(search(SearchOptions { k: 0, ..SearchOptions::default() }), "k is 0");
    let most = SearchOptions { k: limits::K + 1, ..SearchOptions::default() };
    limited(search(most).unwrap_err(), "k", limits::K, limits::K + 1);
    assert_eq!(contents(&db), sound);

    refused(Db::create(&path, options()).map(|_| ()), "is a database already");
    let create = |dim| {
        let create = CreateOptions { vectors: Some(dim), ..CreateOptions::default() };
        Db::create(dir.path().join("b.embdb"), OpenOptions { create, ..options() }).map(|_| ())
    };
    refused(create(0), "dimension of vectors is 0");
    limited(create(limits::DIM + 1).unwrap_err(), "dimension", limits::DIM, limits::DIM + 1);
    assert!(!dir.path().join("b.embdb/manifest").exists());
    create(limits::DIM).unwrap();
}

#[test]
fn what_is_no_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("file"), dir.path().join("folder"));
    std::fs::write(&file, "mine").unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    for place in [&file, &folder] {
        let error = Db::open_with(place, options()).and_then(|db| db.add([document(1, "a")])).unwrap_err();
        assert!(matches!(error, Error::NotADatabase(_)), "{error}");
        let error = embdb::check_path(place, false, &Task::default()).unwrap_err();
        assert!(matches!(error, Error::NotADatabase(_)), "{error}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    // An empty folder will do.
    std::fs::remove_file(folder.join("notes.txt")).unwrap();
    Db::open_with(&folder, options()).unwrap().add([document(1, "a")]).unwrap();
}

/// A log that has a successor ends where that one says. Whatever lies behind, even whole batches or marks that it had
/// been synced, is nothing.
#[test]
fn what_lies_behind_the_committed_end_of_a_log_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let [first, second] = [1, 2].map(|n| path.join(format!("log/{n:020}")));
    let write = |range: std::ops::Range<u64>| {
        let db = Db::open_with(&path, options()).unwrap();
        db.add(range.map(|n| document(n, "new"))).unwrap();
        db.close().unwrap();
    };
    write(0..3);
    let committed = std::fs::read(&first).unwrap();
    // A torn tail makes the writer go on in the next log.
    std::fs::write(&first, [committed.as_slice(), &[7; 40]].concat()).unwrap();
    write(3..5);
    let header = LogHeader::parse(&committed[..64], &first).unwrap();
    let end = committed.len() as u64;
    assert_eq!(LogHeader::parse(&std::fs::read(&second).unwrap()[..64], &second).unwrap().previous_end, end);

    let mut batch = BatchBuilder::new(end, header.salt);
    batch.push(FrameType::Delete, 9, b"d0").unwrap();
    let batch = batch.commit(9, end).unwrap();
    let mut mark = BatchBuilder::new(end + 40, header.salt);
    mark.push(FrameType::Synced, 0, &(end + 40).to_le_bytes()).unwrap();
    let damage = [[9; 40].as_slice(), &mark.into_bytes()].concat();
    for behind in [batch.as_slice(), &damage, &[0; 5]] {
        std::fs::write(&first, [committed.as_slice(), behind].concat()).unwrap();
        let db = Db::open_with(&path, options()).unwrap();
        assert_eq!(contents(&db).len(), 5);
        assert!(db.check(true, &Task::default()).unwrap().ok);
    }

    // A reader that came before the successor takes the batch for one, and gives it up.
    std::fs::write(&first, [committed.as_slice(), &batch].concat()).unwrap();
    let later = std::fs::read(&second).unwrap();
    std::fs::remove_file(&second).unwrap();
    let db = Db::open_with(&path, options()).unwrap();
    assert_eq!(contents(&db).len(), 2);
    std::fs::write(&second, later).unwrap();
    db.refresh().unwrap();
    assert_eq!(contents(&db).len(), 5);
}

/// Without maps nothing that happens to a file later reaches who has it open.
#[test]
fn files_that_are_read_instead_of_mapped_may_be_cut_short() {
    fn cut(folder: &std::path::Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                cut(&path);
            } else {
                std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let vector = |n: u32| (0..8).map(|i| ((n * 37 + i * 11) % 101) as f32 + 1.0).collect::<Vec<f32>>();
    let options = OpenOptions { io: Io::Pread, ..options() };
    let db = Db::open_with(&path, options.clone()).unwrap();
    db.add((0..500).map(|n| Document::from_vector(format!("{n}"), vector(n)))).unwrap();
    db.compact(&Task::default()).unwrap();
    drop(db);
    let db = Db::open_with(&path, options).unwrap();
    let found = || db.search_vector(&vector(7)).k(3).run().unwrap().hits;
    let before = found();
    cut(&path.join("seg"));
    assert_eq!(found(), before);
    assert_eq!(db.ids().unwrap().len(), 500);
}
