//! compact, check, backup, repair.

use std::fs;

use serde_json::json;

use super::support::{MODEL, Place, keys, vectors};

#[test]
fn compacting_leaves_one_segment_and_no_deleted_documents() {
    let place = Place::with_vectors(50);
    place.run(&["v", "delete", "3", "4"]).code(0);
    place.write_npy("q.npy", &vectors(9));
    place.run(&["v", "knn", "--queries", "q.npy", "-k", "3", "--exact", "--out", "before.npy"]).code(0);
    let report = place.json(&["v", "compact"]);
    assert_eq!((&report["documents"], &report["segments"]), (&json!(48), &json!(1)));
    assert_eq!(place.json(&["v", "info"])["deleted"], 0);
    place.run(&["v", "knn", "--queries", "q.npy", "-k", "3", "--exact", "--out", "after.npy"]).code(0);
    assert_eq!(fs::read(place.path("before.npy")).unwrap(), fs::read(place.path("after.npy")).unwrap());
}

#[test]
fn damage_is_found_with_file_and_offset() {
    let place = Place::with_vectors(50);
    place.run(&["v", "compact"]).code(0);
    let report = place.json(&["v", "check", "--deep"]);
    assert_eq!(report, json!({"ok": true, "documents": 50, "problems": [], "recall": 1.0}));
    let codes = find(&place.path("v/seg"), "codes").expect("a file of codes");
    let mut bytes = fs::read(&codes).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&codes, bytes).unwrap();
    let report = place.run(&["v", "check", "--json"]).code(2).object();
    assert_eq!(keys(&report), ["ok", "documents", "problems"]);
    assert_eq!(report["ok"], false);
    let problem = &report["problems"][0];
    assert_eq!(keys(problem), ["file", "offset", "what"]);
    assert!(problem["file"].as_str().unwrap().ends_with("codes"), "{problem}");
    assert!(place.run(&["v", "check"]).code(2).out.contains("damaged"));
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| match entry.path() {
        path if path.is_dir() => find(&path, name),
        path => path.file_name().is_some_and(|found| found == name).then_some(path),
    })
}

#[test]
fn a_manifest_that_is_damaged_stops_everything_with_2() {
    let place = Place::with_vectors(5);
    let newest = fs::read_dir(place.path("v/manifest")).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    fs::write(&newest, bytes).unwrap();
    for args in [&["v", "count"][..], &["v", "add", "--id", "x", "--vector", "[1,2,3,4]"], &["v", "check"]] {
        let run = place.run(args).code(2);
        assert!(run.err.contains("manifest") || run.out.contains("manifest"), "{run:?}");
    }
}

#[test]
fn a_backup_is_the_same_database() {
    let place = Place::with_texts();
    place.run(&["db", "backup", "copy"]).code(0);
    assert_eq!(place.run(&["db", "ids"]).out, place.run(&["copy", "ids"]).out);
    assert_eq!(
        place.json(&["db", "search", "cats"])["hits"],
        place.json(&["copy", "search", "cats"])["hits"]
    );
    place.run(&["db", "backup", "copy"]).code(1).says(&["copy"]);
    assert_eq!(place.json(&["copy", "check"])["ok"], true);
}

#[test]
fn repair_saves_what_it_can_and_lists_the_rest() {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    for n in 0..6 {
        place
            .run(&["db", "add", "--id", &format!("d{n}"), "--text", &format!("some words about {n}")])
            .code(0);
    }
    place.run(&["db", "repair"]).code(1).says(&["--out"]);
    place.run(&["none", "repair", "--out", "new"]).code(1).says(&["no database"]);
    let whole = place.json(&["db", "repair", "--out", "new"]);
    assert_eq!((&whole["documents"], &whole["lost"], &whole["notes"]), (&json!(6), &json!([]), &json!([])));
    place.run(&["db", "repair", "--out", "new"]).code(1).says(&["exists already"]);
    place.run(&["new", "check", "--deep"]).code(0);

    let log = fs::read_dir(place.path("db/log")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.windows(13).position(|window| window == b"words about 2").unwrap();
    bytes[at..at + 5].fill(b'X');
    fs::write(&log, &bytes).unwrap();
    place.run(&["db", "count"]).code(2);
    let run = place.run(&["db", "repair", "--out", "saved", "--json"]).code(2);
    let report = run.object();
    assert_eq!((&report["documents"], &report["lost"][0]["id"]), (&json!(5), &json!("d2")));
    assert_eq!(fs::read(&log).unwrap(), bytes, "the damaged database stays as it was");
    assert_eq!(place.json(&["saved", "search", "words about 3"])["hits"].as_array().unwrap().len(), 5);
    place.run(&["saved", "check"]).code(0);
}
