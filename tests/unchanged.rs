//! Documents that are written again: what is encoded, what is written, and that the vectors are those of a first write.

#![cfg(feature = "encoder")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use embdb::db::write::AddReport;
use embdb::types::{Codec, Document, Metric};
use embdb::{CreateOptions, Db, OpenOptions, Task};

const CODECS: [Codec; 3] = [Codec::Int8, Codec::F32, Codec::Int8F32];

fn options(codec: Codec, metric: Metric) -> OpenOptions {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder/tiny-bert");
    let create = CreateOptions { model: Some(model), codec, metric, ..CreateOptions::default() };
    OpenOptions { create, background: false, ..OpenOptions::default() }
}

/// Adds documents; what was done, and how many texts were encoded.
fn add(db: &Db, documents: Vec<Document>) -> (AddReport, u64) {
    let encoded = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&encoded);
    let task = Task::with_progress(move |progress| {
        if progress.stage == "embed" {
            seen.store(progress.total, Ordering::Relaxed);
        }
    });
    let batch = db.prepare(documents, &task).unwrap();
    (db.commit(batch).unwrap(), encoded.load(Ordering::Relaxed))
}

/// Sentences of different words, so many that the tiny encoder reads them in several chunks.
fn long(first: &str) -> String {
    let tail = (0..30).map(|n| {
        let words: Vec<String> = (0..6).map(|w| format!("{}{}", letter(n + w), letter(n * w + 3))).collect();
        format!("{}. ", words.join(" "))
    });
    std::iter::once(format!("{first}.\n\n")).chain(tail).collect()
}

fn letter(n: u32) -> char {
    char::from(b'a' + (n % 26) as u8)
}

fn documents() -> Vec<Document> {
    let titled = Document { title: Some("the weather".into()), ..Document::new("b", "it rains in paris") };
    let long_titled = Document { title: Some("a long one".into()), ..Document::new("d", long("second")) };
    vec![
        Document::new("a", "how do i reset my password").meta("n", 1),
        titled,
        Document::new("c", long("first")),
        long_titled,
    ]
}

/// All distances of a few queries, to the bit.
fn distances(db: &Db) -> Vec<(String, u32, u32)> {
    let queries = ["reset the password", "rain", "abc dgh xyz", "a b c d e"];
    let hits = queries.iter().flat_map(|query| db.search(query).k(100).exact(true).run().unwrap().hits);
    // Of equal distances the row decides, which may be another one.
    let mut all: Vec<_> = hits.map(|hit| (hit.id, hit.distance.to_bits(), hit.chunk.index)).collect();
    all.sort();
    all
}

#[test]
fn what_is_the_same_is_neither_encoded_nor_written() {
    for codec in CODECS {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_with(dir.path().join("db"), options(codec, Metric::Cosine)).unwrap();
        let (first, encoded) = add(&db, documents());
        assert_eq!((first.documents, first.unchanged, first.chunks), (4, 0, encoded));
        assert!(encoded > 6, "{encoded}: the long ones are several chunks");
        let before = distances(&db);
        for sealed in [false, true] {
            if sealed {
                db.seal(&Task::default()).unwrap();
            }
            let (again, encoded) = add(&db, documents());
            assert_eq!(again, AddReport { documents: 4, unchanged: 4, ..AddReport::default() });
            assert_eq!(encoded, 0);
            assert_eq!(distances(&db), before);
        }
        // The encoder is not even loaded.
        drop(db);
        let db = Db::open_with(dir.path().join("db"), options(codec, Metric::Cosine)).unwrap();
        std::fs::remove_dir_all(dir.path().join("db/models")).unwrap();
        assert_eq!(add(&db, documents()).0.unchanged, 4);
    }
}

#[test]
fn other_metadata_keeps_the_vectors_to_the_bit() {
    for (codec, metric) in
        CODECS.into_iter().flat_map(|c| [(c, Metric::Cosine), (c, Metric::Dot), (c, Metric::L2)])
    {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_with(dir.path().join("db"), options(codec, metric)).unwrap();
        let chunks = add(&db, documents()).1;
        let before = distances(&db);
        for round in 1..4 {
            let tagged = documents().into_iter().map(|d| d.meta("round", round)).collect();
            let (report, encoded) = add(&db, tagged);
            assert_eq!((report.replaced, report.unchanged, report.chunks), (4, 0, chunks));
            // Scales do not always survive: then the text is encoded, and the same comes out.
            if codec != Codec::Int8 || metric == Metric::Cosine {
                assert_eq!(encoded, 0, "{codec:?} {metric:?}");
            }
            assert_eq!(db.get("a").unwrap().unwrap().meta["round"], round);
            assert_eq!(distances(&db), before, "{codec:?} {metric:?}");
            db.seal(&Task::default()).unwrap();
            assert_eq!(distances(&db), before, "{codec:?} {metric:?} sealed");
        }
    }
}

#[test]
fn of_a_changed_text_only_the_new_chunks_are_encoded() {
    for (codec, sealed) in CODECS.into_iter().flat_map(|codec| [(codec, false), (codec, true)]) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_with(dir.path().join("db"), options(codec, Metric::Cosine)).unwrap();
        let chunks = add(&db, documents()).1;
        if sealed {
            db.seal(&Task::default()).unwrap();
        }
        let mut changed = documents();
        changed[0].text = "how do i change my password".into();
        changed[1].title = Some("the climate".into());
        changed[2].text.push_str("And one more sentence.");
        changed[3].text.push_str("And another one.");
        let (report, encoded) = add(&db, changed.clone());
        assert_eq!((report.replaced, report.unchanged), (4, 0));
        assert!(report.chunks >= chunks && (4..=6).contains(&encoded), "{encoded} of {}", report.chunks);
        let fresh = Db::open_with(dir.path().join("fresh"), options(codec, Metric::Cosine)).unwrap();
        add(&fresh, changed);
        assert_eq!(distances(&db), distances(&fresh));
        assert!(db.check(true, &Task::default()).unwrap().problems.is_empty());
    }
}

#[test]
fn a_text_that_a_batch_has_twice_is_encoded_once() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open_with(dir.path().join("db"), options(Codec::Int8, Metric::Cosine)).unwrap();
    let same = |id: &str| Document::new(id, "the same for all");
    let (report, encoded) = add(&db, vec![same("a"), same("b"), Document::new("c", "another"), same("d")]);
    assert_eq!((report.documents, report.chunks, encoded), (4, 4, 2));
    let hits = db.search("the same for all").k(4).run().unwrap().hits;
    assert!(hits.iter().filter(|hit| hit.distance == hits[0].distance).count() >= 3, "{hits:?}");
}

/// Between the two halves of a write another one may come.
#[test]
fn what_changed_meanwhile_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open_with(dir.path().join("db"), options(Codec::Int8, Metric::Cosine)).unwrap();
    add(&db, documents());
    let before = distances(&db);
    let batch = db.prepare(documents(), &Task::default()).unwrap();
    db.delete(&["a".into()]).unwrap();
    db.add([Document::new("c", "something else")]).unwrap();
    // Written again with the same content: what was seen is not what is there, which is no reason not to write.
    db.delete(&["d".into()]).unwrap();
    db.add([documents().remove(3)]).unwrap();
    let report = db.commit(batch).unwrap();
    assert_eq!((report.documents, report.unchanged, report.replaced), (4, 1, 2));
    assert_eq!(distances(&db), before);
    assert_eq!(db.get("c").unwrap().unwrap().text, documents()[2].text);
}
