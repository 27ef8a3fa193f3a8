//! search, batch-search, knn.

use std::fs;

use serde_json::json;

use super::support::{Place, keys, vectors};

#[test]
fn a_result_has_the_keys_of_the_interface() {
    let place = Place::with_texts();
    let result = place.json(&["db", "search", "how do i reset my password", "-k", "2"]);
    assert_eq!(keys(&result), ["query_id", "generation", "took_us", "hits"]);
    assert_eq!((&result["query_id"], &result["generation"]), (&json!(null), &json!(1)));
    let hits = result["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 2);
    assert_eq!(keys(&hits[0]), ["rank", "id", "score", "distance", "text", "title", "meta", "chunk"]);
    assert_eq!((&hits[0]["rank"], &hits[0]["id"]), (&json!(1), &json!("a")));
    assert_eq!(hits[0]["chunk"], json!({"index": 0, "start": 0, "end": 26}));
    assert_eq!(hits[0]["meta"], json!({"lang": "en", "year": 2020}));
    assert!(hits[0]["score"].as_f64().unwrap() > 0.99);
}

#[test]
fn text_output_shows_rank_score_id_and_text() {
    let place = Place::with_texts();
    let run = place.run(&["db", "search", "it rains in paris today", "--where", "lang = 'fr'"]).code(0);
    let lines: Vec<&str> = run.out.lines().collect();
    assert!(lines[0].trim_start().starts_with("1  ") && lines[0].ends_with("b  weather"), "{run:?}");
    assert!(lines[1].ends_with("it rains in paris today"));
    assert!(!run.out.contains('\x1b'));
}

#[test]
fn filters_give_every_match_up_to_k() {
    let place = Place::with_texts();
    let result = place.json(&["db", "search", "anything", "--where", "lang = 'en'", "-k", "10"]);
    assert_eq!(result["hits"].as_array().unwrap().len(), 2);
    for flags in [&["--exact"][..], &["--ef", "5"], &["--target-recall", "0.5"], &["--dim", "8"]] {
        let result = place.json(&[&["db", "search", "cats and dogs"], flags].concat());
        assert_eq!(result["hits"][0]["id"], "7", "{flags:?}");
    }
}

#[test]
fn many_queries_as_lines_and_as_a_run_file() {
    let place = Place::with_texts();
    place.write(
        "q.jsonl",
        "{\"_id\": \"q1\", \"text\": \"cats and dogs\"}\n{\"id\": 2, \"text\": \"how do i reset my password\"}\n",
    );
    let results =
        place.run(&["db", "batch-search", "--queries", "q.jsonl", "-k", "2", "--json"]).code(0).objects();
    assert_eq!(results.len(), 2);
    assert_eq!((&results[0]["query"], &results[0]["hits"][0]["id"]), (&json!("q1"), &json!("7")));
    assert_eq!((&results[1]["query"], &results[1]["hits"][0]["id"]), (&json!("2"), &json!("a")));
    place.run(&["db", "batch-search", "--queries", "q.jsonl", "-k", "2", "--trec", "run"]).code(0);
    let run = fs::read_to_string(place.path("run")).unwrap();
    let first: Vec<&str> = run.lines().next().unwrap().split(' ').collect();
    assert_eq!((first.len(), first[0], first[1], first[2], first[3]), (6, "q1", "Q0", "7", "1"));
    assert_eq!(run.lines().count(), 4);
    place.write("bad.jsonl", "{\"_id\": \"q1\", \"text\": \"x\"}\n{\"_id\": \"q1\", \"text\": \"y\"}\n");
    place.run(&["db", "batch-search", "--queries", "bad.jsonl"]).code(1).says(&["bad.jsonl, line 2"]);
    place.run(&["db", "batch-search", "--queries", "missing"]).code(1).says(&["missing"]);
}

#[test]
fn many_vectors_with_their_ids_as_an_array() {
    let place = Place::with_vectors(5);
    place.write_npy("q.npy", &vectors(3));
    let report =
        place.json(&["v", "knn", "--queries", "q.npy", "-k", "7", "--threads", "2", "--out", "ids.npy"]);
    assert_eq!(keys(&report), ["queries", "qps", "qps_cpu", "p50_us", "p99_us", "k", "ef"]);
    assert_eq!((&report["queries"], &report["k"]), (&json!(3), &json!(7)));
    assert!(report["qps"].as_f64().unwrap() > 0.0);
    let bytes = fs::read(place.path("ids.npy")).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..120]).contains("'<i8'"));
    let ids: Vec<i64> =
        bytes[bytes.len() - 21 * 8..].chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!((ids[0], ids[7], ids[14]), (0, 1, 2));
    assert_eq!(ids[5..7], [-1, -1]);
    let filtered =
        place.run(&["v", "knn", "--queries", "q.npy", "--where", "id = '4'", "-k", "1", "--out", "one.npy"]);
    filtered.code(0);
    let bytes = fs::read(place.path("one.npy")).unwrap();
    assert_eq!(bytes[bytes.len() - 24..], [4_i64, 4, 4].map(i64::to_le_bytes).concat());
    place.run(&["v", "add", "--id", "word", "--vector", "[1,0,0,-0.5]"]).code(0);
    place.run(&["v", "knn", "--queries", "q.npy", "--out", "ids.npy"]).code(1).says(&["word"]);
    place.run(&["v", "knn", "--queries", "q.npy"]).code(0);
    place.write_npy("wide.npy", &[vec![1.0; 8]]);
    place.run(&["v", "knn", "--queries", "wide.npy"]).code(1).says(&["8", "4"]);
    place.write("no.npy", "hello");
    place.run(&["v", "knn", "--queries", "no.npy"]).code(1).says(&["no.npy"]);
}

#[test]
fn where_nothing_is_stored_nothing_is_found() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    place.run(&["made", "create", "--vectors", "4"]).code(0);
    place.write_npy("q.npy", &vectors(2));
    for database in ["empty", "made"] {
        let args = [database, "knn", "--queries", "q.npy", "-k", "3", "--out", "ids.npy"];
        let report = place.json(&args);
        assert_eq!((&report["queries"], &report["k"]), (&json!(2), &json!(3)), "{database}");
        let bytes = fs::read(place.path("ids.npy")).unwrap();
        assert!(bytes[bytes.len() - 6 * 8..].iter().all(|&b| b == 0xff), "{database}: ids were found");
        for (name, bad) in [("nan.npy", vec![1.0, f32::NAN, 0.0, 0.0]), ("huge.npy", vec![3e38; 4])] {
            place.write_npy(name, &[vec![1.0; 4], bad]);
            place.run(&[database, "knn", "--queries", name]).code(1).says(&["query 1"]);
        }
        place.write("no.npy", "hello");
        place.run(&[database, "knn", "--queries", "no.npy"]).code(1).says(&["no.npy"]);
        place.run(&[database, "knn", "--queries", "q.npy", "--ef", "0"]).code(1).says(&["ef"]);
        place.run(&[database, "knn", "--queries", "q.npy", "-k", "0"]).code(1);
    }
    place.run(&["missing", "knn", "--queries", "q.npy"]).code(1).says(&["missing"]);
    assert_eq!(fs::read_dir(place.path("empty")).unwrap().count(), 0, "looking changes nothing");
}
