//! add, get, delete, ids, count.

use serde_json::json;

use super::support::{MODEL, Place};

#[test]
fn documents_come_back_as_they_went_in() {
    let place = Place::with_texts();
    let documents = place.run(&["db", "get", "a", "b", "7", "--json"]).code(0).objects();
    assert_eq!(
        documents,
        [
            json!({"id": "a", "title": null, "text": "how do i reset my password", "meta": {"lang": "en", "year": 2020}}),
            json!({"id": "b", "title": "weather", "text": "it rains in paris today", "meta": {"lang": "fr"}}),
            json!({"id": "7", "title": null, "text": "cats and dogs", "meta": {"lang": "en", "year": 2024}}),
        ]
    );
    assert_eq!(place.run(&["db", "ids"]).code(0).out, "7\na\nb\n");
    assert_eq!(place.run(&["db", "ids", "--json"]).objects()[0], json!({"id": "7"}));
    assert!(place.run(&["db", "get", "a"]).code(0).out.contains("reset"));
    let missing = place.run(&["db", "get", "a", "nope", "--json"]).code(1).says(&["nope"]);
    assert_eq!(missing.objects().len(), 1);
}

#[test]
fn adding_an_id_again_replaces_it() {
    let place = Place::with_texts();
    let added =
        place.json(&["db", "add", "--id", "a", "--text", "new text", "--meta", "{\"x\": [1, \"y\"]}"]);
    assert_eq!((&added["documents"], &added["replaced"]), (&json!(1), &json!(1)));
    assert_eq!(place.count("db"), 3);
    let document = place.json(&["db", "get", "a"]);
    assert_eq!(document["text"], "new text");
    assert_eq!(document["meta"], json!({"x": [1, "y"]}));
    place.run(&["db", "add", "--id", "c", "--text", "t", "--meta", "[1]"]).code(1).says(&["--meta"]);
    place.run(&["db", "add", "--id", "c", "--text", "t", "--meta", "{"]).code(1).says(&["--meta"]);
    place.run(&["db", "add", "--id", "c"]).code(1).says(&["--text"]);
    place.run(&["db", "add", "--id", "", "--text", "t"]).code(1);
    place.run(&["db", "add", "--id", &"x".repeat(513), "--text", "t"]).code(5).says(&["512"]);
    place.run(&["db", "add", "--id", "c", "--vector", "[1,2]"]).code(1);
    assert_eq!(place.count("db"), 3);
}

#[test]
fn deleting_by_id_and_by_expression() {
    let place = Place::with_texts();
    assert_eq!(place.json(&["db", "delete", "b", "nope"]), json!({"deleted": 1}));
    assert_eq!(place.json(&["db", "delete", "--where", "year >= 2021"]), json!({"deleted": 1}));
    assert_eq!(place.run(&["db", "ids"]).out, "a\n");
    place.run(&["db", "delete"]).code(1);
    place.run(&["db", "delete", "--where", "year >="]).code(1);
    assert_eq!(place.count("db"), 1);
}

#[test]
fn counting_with_expressions() {
    let place = Place::with_texts();
    assert_eq!(place.run(&["db", "count"]).code(0).out, "3\n");
    for (expression, count) in [
        ("lang = 'en'", 2),
        ("lang = 'en' AND year > 2020", 1),
        ("NOT lang = 'en'", 1),
        ("id IN ('a', 'zz')", 1),
        ("year IS NULL", 1),
        ("nothing = 1", 0),
    ] {
        assert_eq!(place.json(&["db", "count", "--where", expression])["count"], count, "{expression}");
    }
}

#[test]
fn plain_vectors_one_by_one() {
    let place = Place::new();
    place.run(&["v", "add", "--id", "a", "--vector", "[1, -0.5]"]).code(0);
    place.run(&["v", "add", "--id", "b", "--vector", "[1]"]).code(1).says(&["1", "2"]);
    place.run(&["v", "add", "--id", "b", "--vector", "[\"x\"]"]).code(1).says(&["--vector"]);
    place.run(&["v", "add", "--id", "b", "--text", "no vector"]).code(1);
    assert_eq!(place.count("v"), 1);
    assert_eq!(place.json(&["v", "info"])["model"], json!(null));
}

#[test]
fn embedding_needs_no_database() {
    let place = Place::new();
    let one = place.json(&["none", "embed", "--model", MODEL, "hello world", "a second text"]);
    assert_eq!(one["texts"], 2);
    assert_eq!(one["vectors"].as_array().unwrap().len(), 2);
    assert!(!place.path("none").exists());
    place.write(
        "in.jsonl",
        "{\"text\": \"hello world\"}\n\"a second text\"\n{\"title\": \"t\", \"text\": \"x\"}\n",
    );
    let three = place.json(&["none", "embed", "--model", MODEL, "--input", "in.jsonl", "--out", "v.npy"]);
    assert_eq!(super::support::keys(&three), ["texts", "dim", "seconds", "model_id"]);
    assert_eq!((&three["texts"], &three["dim"]), (&json!(3), &one["dim"]));
    let dim = three["dim"].as_u64().unwrap();
    let bytes = std::fs::read(place.path("v.npy")).unwrap();
    assert_eq!(bytes.len() as u64 % 64, (3 * dim * 4) % 64);
    assert!(String::from_utf8_lossy(&bytes[..100]).contains(&format!("(3, {dim})")));
    place.write("bad.jsonl", "\"ok\"\n[1]\n");
    place
        .run(&["none", "embed", "--model", MODEL, "--input", "bad.jsonl"])
        .code(1)
        .says(&["bad.jsonl, line 2"]);
    place.run(&["none", "embed", "--model", "nowhere", "x"]).code(1).says(&["nowhere"]);
    place.run(&["none", "embed", "x"]).code(1).says(&["no database"]);
    assert!(!place.path("none").exists());
}

#[test]
fn embedding_with_the_encoders_of_the_database() {
    let place = Place::with_texts();
    let own = place.json(&["db", "embed", "hello"]);
    let named = place.json(&["db", "embed", "--model", "tiny-bert", "hello"]);
    assert_eq!(own["vectors"], named["vectors"]);
    assert_eq!(own["model_id"], place.json(&["db", "info"])["model"]);
    place.run(&["db", "embed", "--model", "other", "hello"]).code(1).says(&["other"]);
}

#[test]
fn a_database_keeps_the_precision_it_was_created_with() {
    let place = Place::new();
    // The tiny model bears int8, which is therefore the default.
    for (db, flags, precision) in [
        ("a", &[][..], "int8"),
        ("b", &["--precision", "f32"], "f32"),
        ("c", &["--precision", "int8"], "int8"),
    ] {
        place.run(&[&[db, "create", "--model", MODEL], flags].concat()).code(0);
        assert_eq!(place.json(&[db, "info"])["precision"], precision);
        let ours = place.json(&[db, "embed", "hello"]);
        let same = place.json(&[db, "embed", "--model", MODEL, "--precision", precision, "hello"]);
        assert_eq!(ours["vectors"], same["vectors"], "{db}");
        assert_eq!(ours["model_id"], same["model_id"], "{db}");
    }
    place.run(&["d", "create", "--model", MODEL, "--precision", "int4"]).code(1).says(&["--precision"]);
}
