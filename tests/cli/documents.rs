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
    assert!(!place.path("none").exists());
}

#[test]
fn who_brings_no_encoder_gets_the_built_in_one() {
    let place = Place::new();
    let own = place.json(&["none", "embed", "a house by the sea"]);
    assert_eq!(own["dim"], 256);
    assert!(!place.path("none").exists());
    let named = place.json(&["none", "embed", "--model", "builtin", "a house by the sea"]);
    assert_eq!(own["vectors"], named["vectors"]);

    place.write(
        "t.jsonl",
        "{\"id\": \"login\", \"text\": \"How do I reset my password?\"}\n{\"id\": \"flu\", \"text\": \"fever and a cough\"}\n",
    );
    place.run(&["db", "import", "t.jsonl"]).code(0);
    assert_eq!(place.json(&["db", "search", "forgot my credentials", "-k", "1"])["hits"][0]["id"], "login");
    let info = place.json(&["db", "info"]);
    assert_eq!((&info["model"], &info["precision"]), (&own["model_id"], &json!("int8")));
    assert_eq!(place.json(&["db", "model", "list"])["name"], "builtin");

    place.run(&["f", "create", "--model", "builtin", "--precision", "f32"]).code(0);
    // A folder of that name is meant where one is asked for, and nowhere else.
    std::fs::create_dir(place.path("builtin")).unwrap();
    place.run(&["g", "create", "--model", "builtin"]).code(2).says(&["config.json"]);
    place.run(&["g", "create"]).code(0);
    assert_ne!(place.json(&["f", "info"])["model"], own["model_id"]);
    place.run(&["db", "model", "export", "out"]).code(0);
    let again = place.json(&["none", "embed", "--model", "out", "--precision", "f32", "a house by the sea"]);
    let exact = place.json(&["f", "embed", "a house by the sea"]);
    let value = |of: &serde_json::Value, at: usize| of["vectors"][0][at].as_f64().unwrap();
    assert!((0..256).all(|at| (value(&again, at) - value(&exact, at)).abs() < 1e-5));
}

#[test]
fn a_small_encoder_is_distilled_from_a_large_one() {
    let place = Place::new();
    let words = ["red", "green", "blue", "money", "water", "house", "music", "doctor"];
    let line =
        |i: usize| format!("{{\"text\": \"{} {} {}\"}}\n", words[i % 8], words[i / 8 % 8], words[i % 7]);
    place.write("t.jsonl", (0..120).map(line).collect::<String>());
    let flags =
        ["--texts", "t.jsonl", "--layers", "1", "--inner", "32", "--vocabulary", "150", "--tokens", "32"];
    let distil = |out: &'static str, dims: &'static str| {
        [&["none", "model", "distil", MODEL, out][..], &flags, &["--dims", dims]].concat()
    };
    let done = place.json(&distil("small", "16,4"));
    assert_eq!((&done["texts"], &done["model"]), (&json!(120), &json!("small")));
    assert_eq!(place.json(&["none", "embed", "--model", "small", "red house"])["dim"], 16);
    place.run(&distil("small", "16,4")).code(1).says(&["not empty"]);
    place.run(&distil("other", "400")).code(1).says(&["400"]);
    assert!(!place.path("other").exists() && !place.path("none").exists());
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
fn prompts_are_part_of_a_stored_encoder() {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    place.run(&["db", "model", "add", MODEL, "--name", "asking", "--query-prompt", "query: "]).code(0);
    let vectors = |flags: &[&str], text: &str| {
        place.json(&[&["db", "embed", "--model", "asking"], flags, &[text]].concat())["vectors"].clone()
    };
    assert_eq!(vectors(&["--query"], "red"), vectors(&[], "query: red"));
    assert_ne!(vectors(&["--query"], "red"), vectors(&[], "red"));
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
