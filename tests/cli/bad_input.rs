//! Bad input: a clear message, the right exit code, nothing changed.

use std::fs;
use std::path::Path;

use super::support::{MODEL, Place, copy_dir};

fn unchanged(place: &Place, database: &str, before: u64) {
    assert_eq!(place.count(database), before);
    assert_eq!(place.json(&[database, "check"])["ok"], true);
}

#[test]
fn vectors_that_cannot_be_stored() {
    let place = Place::with_vectors(3);
    for (vector, word) in [
        (vec![1.0, 2.0], "2 values"),
        (vec![1.0, f32::NAN, 0.0, 0.0], "NaN"),
        (vec![1.0, f32::INFINITY, 0.0, 0.0], "inf"),
        (vec![0.0; 4], "zero"),
    ] {
        place.write_npy("bad.npy", &[vector]);
        place.run(&["v", "import", "bad.npy"]).code(1).says(&["bad.npy", "row 0", word]);
        place.run(&["v", "knn", "--queries", "bad.npy"]).code(1).says(&[word]);
    }
    place.write("text.jsonl", "{\"id\": \"t\", \"text\": \"no vector\"}\n");
    place.run(&["v", "import", "text.jsonl"]).code(1).says(&["text.jsonl:1"]);
    place.run(&["v", "search", "text"]).code(1).says(&["plain vectors"]);
    unchanged(&place, "v", 3);
    // Under L2 a zero is a vector like any other.
    place.write_npy("zero.npy", &[vec![0.0; 4]]);
    place.run(&["l2", "create", "--vectors", "4", "--metric", "l2"]).code(0);
    place.run(&["l2", "import", "zero.npy"]).code(0);
}

#[test]
fn documents_that_cannot_be_stored() {
    let place = Place::with_texts();
    let long = format!("{{\"id\": \"{}\", \"text\": \"x\"}}", "i".repeat(513));
    let huge = format!("{{\"id\": \"h\", \"text\": \"{}\"}}", "word ".repeat(10 << 20));
    let first = "{\"id\": \"ok\", \"text\": \"fine\"}\n";
    for (line, code, word) in [
        (long.as_bytes(), 5, "512"),
        (huge.as_bytes(), 5, "limit"),
        (b"{\"id\": \"\", \"text\": \"x\"}", 1, "empty"),
        (b"{\"text\": \"x\"}", 1, "id"),
        (b"{\"id\": \"x\"}", 1, "text"),
        (b"{\"id\": \"x\", \"vector\": [1, 2]}", 1, "vector"),
        (b"{\"id\": \"x\", \"text\": \"\xff\"}", 1, "UTF-8"),
        (b"{\"id\": \"x\", ", 1, "JSON"),
        (b"[1, 2]", 1, "object"),
    ] {
        let mut bytes = first.as_bytes().to_vec();
        bytes.extend_from_slice(line);
        place.write("bad.jsonl", bytes);
        place.run(&["db", "import", "bad.jsonl"]).code(code).says(&["bad.jsonl:2", word]);
    }
    unchanged(&place, "db", 3);
}

#[test]
fn expressions_that_do_not_parse_or_match() {
    let place = Place::with_texts();
    for args in [&["search", "x"][..], &["count"], &["delete"]] {
        let args = [&["db"], args, &["--where", "lang = = 'en'"]].concat();
        place.run(&args).code(1).says(&["line 1", "column 8"]);
    }
    let run =
        place.run(&["db", "search", "x", "--where", "colour = 'red'", "--json"]).code(0).says(&["colour"]);
    assert!(run.object()["hits"].as_array().unwrap().is_empty());
    unchanged(&place, "db", 3);
}

#[test]
fn numbers_of_hits() {
    let place = Place::with_texts();
    place.write_npy("q.npy", &[vec![1.0; 4]]);
    place.write("q.jsonl", "{\"id\": \"q\", \"text\": \"x\"}\n");
    for args in [
        &["search", "x"][..],
        &["knn", "--queries", "q.npy"],
        &["batch-search", "--queries", "q.jsonl"],
        &["eval", "--queries", "q.jsonl", "--qrels", "q.tsv"],
    ] {
        place.run(&[&["db"], args, &["-k", "0"]].concat()).code(1).says(&["-k 0"]);
        place.run(&[&["db"], args, &["-k", "10001"]].concat()).code(5).says(&["10000"]);
    }
    place.run(&["db", "search", "x", "--ef", "0"]).code(1);
    place.run(&["db", "search", "x", "--dim", "0"]).code(1);
    place.run(&["db", "search", "x", "--dim", "99999"]).code(1);
    place.run(&["db", "search", " "]).code(1);
}

#[test]
fn damaged_models_are_refused() {
    let place = Place::new();
    copy_dir(Path::new(MODEL), &place.path("m"));
    let weights = place.path("m/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    place.run(&["db", "create", "--model", "m"]).code(2).says(&["model.safetensors"]);
    fs::write(&weights, &bytes).unwrap();
    fs::write(place.path("m/tokenizer.json"), "{").unwrap();
    place.run(&["db", "create", "--model", "m"]).code(2).says(&["tokenizer.json"]);
    fs::create_dir(place.path("empty")).unwrap();
    let run = place.run(&["db", "create", "--model", "empty"]);
    assert!(run.code == 1 || run.code == 2, "{run:?}");
    assert!(!place.path("db").exists());
}
