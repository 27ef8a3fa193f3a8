//! click, log, retrain, eval, generations, rollback.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::support::{MODEL, Place, copy_dir, keys};

/// Searches with `--log`; the search's id.
fn logged(place: &Place, text: &str) -> String {
    place.json(&["db", "search", text, "--log"])["query_id"].as_str().unwrap().to_string()
}

#[test]
fn clicks_are_in_the_log() {
    let place = Place::with_texts();
    let query = logged(&place, "forgot my login");
    let click = place.json(&["db", "click", &query, "a", "--grade", "0.5"]);
    assert_eq!(click, json!({"query_id": query, "id": "a", "grade": 0.5}));
    place.run(&["db", "click", "unknown", "a"]).code(1).says(&["unknown"]);
    place.run(&["db", "click", &query, "nowhere"]).code(1).says(&["nowhere"]);
    place.run(&["db", "click", &query]).code(1);
    place.run(&["db", "click", &query, "a", "--grade", "nan"]).code(1).says(&["--grade"]);
    let stats = place.json(&["db", "log", "stats"]);
    assert_eq!(keys(&stats), ["searches", "clicks", "queries", "since"]);
    assert_eq!((&stats["searches"], &stats["clicks"], &stats["queries"]), (&json!(1), &json!(1), &json!(1)));
    let lines = place.run(&["db", "log", "export"]).code(0).objects();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["query_id"], &lines[0]["user_query"]), (&json!(query), &json!("forgot my login")));
    assert_eq!(lines[1]["event_attributes"]["object"]["object_id"], "a");
}

#[test]
fn a_log_travels_and_arrives_once() {
    let place = Place::with_texts();
    let query = logged(&place, "forgot my login");
    place.run(&["db", "click", &query, "a"]).code(0);
    place.run(&["db", "log", "export", "log.jsonl"]).code(0);
    place.run(&["other", "create", "--model", MODEL]).code(0);
    let report = place.json(&["other", "log", "import", "log.jsonl"]);
    assert_eq!(report, json!({"read": 2, "imported": 2, "skipped": 0}));
    assert_eq!(place.json(&["other", "log", "import", "log.jsonl"])["imported"], 0);
    let (here, there) = (place.run(&["db", "log", "export"]).out, place.run(&["other", "log", "export"]).out);
    assert_eq!(here, there);
    place.write("bad.jsonl", "{\"user_query\": \"x\", \"query_id\": \"q\"}\n{\"nothing\": 1}\n");
    place.run(&["other", "log", "import", "bad.jsonl"]).code(1).says(&["bad.jsonl, line 2"]);
    assert_eq!(place.json(&["other", "log", "stats"])["searches"], 1);
    place.run(&["other", "log", "import", "missing"]).code(1).says(&["missing"]);
}

#[test]
fn pages_are_randomized_and_say_so_in_the_log() {
    let place = Place::with_texts();
    let k = place.json(&["db", "search", "x"])["hits"].as_array().unwrap().len();
    let asked = ["db", "search", "x", "--log", "--client", "me", "--randomize-below", "1"];
    let plain = place.json(&["db", "search", "x"])["hits"][0]["id"].clone();
    for _ in 0..5 {
        let found = place.json(&asked);
        assert_eq!((&found["hits"][0]["id"], found["hits"].as_array().unwrap().len()), (&plain, k));
    }
    place.run(&["db", "log", "export", "log.jsonl"]).code(0);
    let lines: Vec<Value> = fs::read_to_string(place.path("log.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let shares = lines[0]["query_attributes"]["propensities"].as_array().unwrap();
    assert_eq!((shares.len(), &shares[0], &lines[0]["client_id"]), (k, &json!(1.0), &json!("me")));
    assert!((shares[1].as_f64().unwrap() - 1.0 / (k as f64 - 1.0)).abs() < 1e-6);
    place.run(&["other", "create", "--model", MODEL]).code(0);
    place.run(&["other", "log", "import", "log.jsonl"]).code(0);
    assert_eq!(place.run(&["other", "log", "export"]).objects(), lines);
    for (wrong, word) in [
        (&["--randomize-below", "1"][..], "--log"),
        (&["--client", "me"], "--log"),
        (&["--interleave", "1"], "--log"),
        (&["--log", "--randomize-below", "10"], "fewer than two"),
        (&["--log", "--randomize-below", "1", "--interleave", "1"], "--interleave"),
        (&["--log", "--interleave", "1"], "active"),
        (&["--log", "--interleave", "9"], "no generation 9"),
        (&["--log", "--client", ""], "--client"),
    ] {
        place.run(&[&["db", "search", "x"], wrong].concat()).code(1).says(&[word]);
    }
}

#[test]
fn interleaved_searches_are_won_by_whose_hits_are_clicked() {
    let place = with_judgements();
    place.run(&["db", "retrain", "--data", "p.jsonl", "--method", "adapter", "--force", "--json"]).code(0);
    assert!(place.json(&["db", "log", "stats"]).get("interleaving").is_none());
    for n in 0..4 {
        let text = format!("cats number {n}");
        let found = place.json(&["db", "search", &text, "--log", "--interleave", "1"]);
        assert_eq!((&found["generation"], found["hits"].as_array().unwrap().len()), (&json!(2), 10));
        let query = found["query_id"].as_str().unwrap();
        let lines = place.run(&["db", "log", "export"]).objects();
        let search = lines.iter().find(|line| line["query_id"] == query).unwrap();
        let drafted = &search["query_attributes"]["interleaved"];
        assert_eq!(drafted["generations"], json!([2, 1]));
        // The first three searches are won by the active generation; the last has no click.
        let teams = drafted["teams"].as_array().unwrap();
        let at = teams.iter().position(|team| team == 0).unwrap();
        if n < 3 {
            place.run(&["db", "click", query, found["hits"][at]["id"].as_str().unwrap()]).code(0);
        }
    }
    let stats = place.json(&["db", "log", "stats"]);
    let contest = &stats["interleaving"][0];
    assert_eq!(keys(contest), ["generations", "searches", "wins", "ties", "p_value"]);
    assert_eq!((&contest["generations"], &contest["searches"]), (&json!([2, 1]), &json!(4)));
    assert_eq!((&contest["wins"], &contest["ties"]), (&json!([3, 0]), &json!(0)));
    // Two-sided: all three on one side or the other, 2 · (1/2)³.
    assert!((contest["p_value"].as_f64().unwrap() - 0.25).abs() < 1e-9, "{contest}");
}

#[test]
fn the_position_bias_of_a_log_is_told_once_it_has_clicks() {
    let place = Place::with_texts();
    let mut log = String::new();
    for n in 0..60 {
        let (query, first) = (format!("q{n}"), n % 2);
        let ids = if first == 0 { ["a", "b"] } else { ["b", "a"] };
        log += &json!({"query_id": query, "user_query": "x", "query_response_hit_ids": ids}).to_string();
        log += "\n";
        // The first hit is always clicked, the second in a third of the searches.
        for (at, id) in ids.iter().enumerate().take(if n % 3 == 0 { 2 } else { 1 }) {
            log += &json!({"action_name": "click", "query_id": query,
                "event_attributes": {"object": {"object_id": id}, "position": {"ordinal": at + 1}}})
            .to_string();
            log += "\n";
        }
    }
    place.write("log.jsonl", log);
    place.run(&["db", "log", "import", "log.jsonl"]).code(0);
    let bias = place.json(&["db", "log", "stats"])["position_bias"].clone();
    assert_eq!(keys(&bias), ["evidence", "informative", "eta", "curve"]);
    assert_eq!((&bias["evidence"], &bias["informative"]), (&json!("moved"), &json!(80)));
    assert_eq!((&bias["curve"][1]["shown"], &bias["curve"][1]["clicks"]), (&json!(60), &json!(20)));
    let second = bias["curve"][1]["examination"].as_f64().unwrap();
    assert!((second - 1.0 / 3.0).abs() < 0.1, "{second}");
}

#[test]
fn a_search_without_log_leaves_nothing() {
    let place = Place::with_texts();
    place.run(&["db", "search", "x"]).code(0);
    assert_eq!(place.json(&["db", "log", "stats"])["searches"], 0);
}

/// Sixty texts on five subjects, with queries and judgements in both layouts.
fn with_judgements() -> Place {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    let subjects = ["cats", "rain", "bread", "trains", "music"];
    let (mut texts, mut queries, mut pairs) = (String::new(), String::new(), String::new());
    let (mut beir, mut trec) = ("query-id\tcorpus-id\tscore\n".to_string(), String::new());
    for n in 0..60 {
        let subject = subjects[n % 5];
        texts += &format!("{{\"id\": \"d{n}\", \"text\": \"about {subject} number {n}\"}}\n");
        queries += &format!("{{\"_id\": \"q{n}\", \"text\": \"{subject} number {n}\"}}\n");
        pairs += &format!("{{\"query\": \"{subject} number {n}\", \"positive\": {{\"id\": \"d{n}\"}}}}\n");
        beir += &format!("q{n}\td{n}\t1\n");
        trec += &format!("q{n} 0 d{n} 1\n");
    }
    for (name, text) in
        [("t.jsonl", texts), ("q.jsonl", queries), ("p.jsonl", pairs), ("beir.tsv", beir), ("trec.txt", trec)]
    {
        place.write(name, text);
    }
    place.run(&["db", "import", "t.jsonl"]).code(0);
    place
}

#[test]
fn measures_have_the_keys_of_the_interface_and_layouts_agree() {
    let place = with_judgements();
    let beir = place.json(&["db", "eval", "--queries", "q.jsonl", "--qrels", "beir.tsv"]);
    let names =
        ["ndcg@10", "mrr@10", "recall@10", "precision@10", "map@10", "recall@100", "map@100", "queries"];
    assert_eq!(keys(&beir), names);
    assert_eq!((&beir["queries"], &beir["recall@100"]), (&json!(60), &json!(1.0)));
    assert!(beir["ndcg@10"].as_f64().unwrap() > 0.1);
    let trec =
        place.json(&["db", "eval", "--queries", "q.jsonl", "--qrels", "trec.txt", "--generation", "1"]);
    assert_eq!(beir, trec);
    let five =
        place.json(&["db", "eval", "--queries", "q.jsonl", "--qrels", "trec.txt", "-k", "5", "--dim", "8"]);
    assert!(five.get("ndcg@5").is_some());
    place.write("bad.tsv", "q0 0 d0 1\nq1 0 d1\n");
    place
        .run(&["db", "eval", "--queries", "q.jsonl", "--qrels", "bad.tsv"])
        .code(1)
        .says(&["bad.tsv, line 2"]);
    place.write("other.tsv", "zz 0 d0 1\n");
    place.run(&["db", "eval", "--queries", "q.jsonl", "--qrels", "other.tsv"]).code(1).says(&["other.tsv"]);
    place.run(&["db", "eval", "--queries", "q.jsonl", "--qrels", "beir.tsv", "--generation", "9"]).code(1);
}

#[test]
fn runs_and_single_queries_are_measured_alike() {
    let place = with_judgements();
    let judged = ["--qrels", "trec.txt", "--per-query"];
    let search = [&["db", "eval", "--queries", "q.jsonl"], &judged[..], &["a.jsonl"]].concat();
    let searched = place.json(&search);
    place
        .run(&["db", "batch-search", "--queries", "q.jsonl", "-k", "100", "--exact", "--trec", "run.txt"])
        .code(0);
    let measured = place.json(&[&["none", "eval", "--run", "run.txt"], &judged[..], &["b.jsonl"]].concat());
    assert_eq!(searched, measured);
    let rows = |file: &str| -> Vec<Value> {
        let text = fs::read_to_string(place.path(file)).unwrap();
        let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        rows.sort_by_key(|row| row["query"].as_str().unwrap().to_owned());
        rows
    };
    let (a, b) = (rows("a.jsonl"), rows("b.jsonl"));
    assert_eq!((a.len(), &a), (60, &b));
    let mean = a.iter().map(|row| row["ndcg@10"].as_f64().unwrap()).sum::<f64>() / 60.0;
    assert!((mean - searched["ndcg@10"].as_f64().unwrap()).abs() < 1e-9);
    place.write("bad.txt", "q0 Q0 d0 1 0.5 t\nq0 Q0 d0 2 0.4 t\n");
    place
        .run(&["none", "eval", "--run", "bad.txt", "--qrels", "trec.txt"])
        .code(1)
        .says(&["bad.txt, line 2", "twice"]);
    place.write("other.txt", "zz Q0 d0 1 0.5 t\n");
    place.run(&["none", "eval", "--run", "other.txt", "--qrels", "trec.txt"]).code(1).says(&["run"]);
    place.run(&["db", "eval", "--qrels", "trec.txt"]).code(1).says(&["--queries"]);
}

#[test]
fn generations_are_compared_with_their_significance() {
    let place = with_judgements();
    place.run(&["db", "retrain", "--data", "p.jsonl", "--method", "adapter", "--force", "--json"]).code(0);
    let eval = ["db", "eval", "--queries", "q.jsonl", "--qrels", "trec.txt"];
    let compared = place.json(&[&eval[..], &["--compare", "1", "2", "--per-query", "c.jsonl"]].concat());
    assert_eq!(compared["generations"], json!([1, 2]));
    let one = place.json(&[&eval[..], &["--generation", "1"]].concat());
    let two = place.json(&[&eval[..], &["--generation", "2"]].concat());
    for name in ["ndcg@10", "mrr@10", "recall@10", "precision@10", "map@10", "recall@100", "map@100"] {
        assert_eq!(compared[name], json!([one[name], two[name]]), "{name}");
        assert!(compared["measures"][name]["p_value"].as_f64().is_some(), "{name}");
    }
    let ndcg = &compared["measures"]["ndcg@10"];
    for name in ["difference", "ci95", "p_value", "gained", "lost", "equal"] {
        assert_eq!(compared[name], ndcg[name], "{name}");
    }
    let counts = ["gained", "lost", "equal"].map(|name| compared[name].as_u64().unwrap());
    assert_eq!(counts.iter().sum::<u64>(), 60);
    let rows = fs::read_to_string(place.path("c.jsonl")).unwrap();
    let gained = rows.lines().filter(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        row["ndcg@10"][1].as_f64() > row["ndcg@10"][0].as_f64()
    });
    assert_eq!(gained.count() as u64, counts[0]);
    let same = place.json(&[&eval[..], &["--compare", "2", "2"]].concat());
    assert_eq!(
        (&same["difference"], &same["p_value"], &same["equal"]),
        (&json!(0.0), &json!(1.0), &json!(60))
    );
    place.run(&[&eval[..], &["--compare", "1", "9"]].concat()).code(1).says(&["9"]);
    place.run(&[&eval[..], &["--compare", "1"]].concat()).code(1).says(&["--compare"]);
}

#[test]
fn too_little_to_learn_from_is_7_with_the_reason() {
    let place = Place::with_texts();
    let query = logged(&place, "forgot my login");
    place.run(&["db", "click", &query, "a"]).code(0);
    let report = place.run(&["db", "retrain", "--json"]).code(7).object();
    assert_eq!(
        keys(&report),
        ["published", "generation", "previous", "model_id", "train", "gate", "reindex"]
    );
    assert_eq!(report["published"], false);
    assert!(!report["gate"]["reason"].as_str().unwrap().is_empty());
    assert_eq!(place.run(&["db", "generations", "--json"]).objects().len(), 1);
}

#[test]
fn each_method_says_its_plan_and_the_encoder_is_trained_on_demand() {
    let place = with_judgements();
    let plan = |more: &[&str]| {
        let report = place.json(&[&["db", "retrain", "--data", "p.jsonl", "--plan"], more].concat());
        report["gate"]["reason"].as_str().unwrap().to_owned()
    };
    assert!(
        plan(&[]).contains("linear adapter") && plan(&["--method", "adapter"]).contains("linear adapter")
    );
    assert!(plan(&["--method", "full"]).contains("all weights"));
    assert!(plan(&["--method", "full", "--layers", "1"]).contains("1 upper layers"));
    place
        .run(&["db", "retrain", "--data", "p.jsonl", "--method", "adapter", "--layers", "1"])
        .code(1)
        .says(&["layers"]);
    let before = place.json(&["db", "info"])["model"].clone();
    let report = place.json(&[
        "db",
        "retrain",
        "--data",
        "p.jsonl",
        "--method",
        "full",
        "--layers",
        "1",
        "--force",
        "--batch-size",
        "16",
    ]);
    assert_eq!((&report["published"], &report["generation"]), (&json!(true), &json!(2)));
    assert!(report["train"]["steps"].as_u64().unwrap() >= 2);
    assert_ne!(place.json(&["db", "info"])["model"], before);
    assert_eq!(place.json(&["db", "search", "bread number 7"])["hits"][0]["rank"], 1);
}

/// Words that are asked for, each followed by the one that stands for it in the documents.
const SYNONYMS: [(&str, &str); 24] = [
    ("old", "museum"),
    ("repairs", "clocks"),
    ("forgets", "rules"),
    ("follows", "chess"),
    ("paints", "bakery"),
    ("doubles", "neighbour"),
    ("keeps", "violin"),
    ("misses", "letters"),
    ("closes", "flock"),
    ("avoids", "railway"),
    ("reports", "noise"),
    ("describes", "traffic"),
    ("small", "cells"),
    ("every", "rescue"),
    ("new", "bread"),
    ("abroad", "coast"),
    ("under", "choir"),
    ("two", "village"),
    ("annual", "lamps"),
    ("eleven", "harbour"),
    ("broken", "lighthouse"),
    ("honest", "council"),
    ("retired", "ferry"),
    ("winter", "border"),
];

#[test]
fn with_enough_pairs_the_encoder_competes_with_the_adapter() {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    let (mut texts, mut pairs) = (String::new(), String::new());
    for n in 0..1_440 {
        let (a, b) = (SYNONYMS[n % 12], SYNONYMS[12 + n / 12 % 12]);
        if n < 144 {
            texts += &format!("{{\"id\": \"d{n}\", \"text\": \"{} {}\"}}\n", a.1, b.1);
        }
        // Said twice, so that the number does not drown what is asked for.
        let query = format!("{} {} {n} {} {}", a.0, b.0, a.0, b.0);
        pairs += &format!("{{\"query\": \"{query}\", \"positive\": {{\"id\": \"d{}\"}}}}\n", n % 144);
    }
    place.write("t.jsonl", texts);
    place.write("p.jsonl", pairs);
    place.run(&["db", "import", "t.jsonl"]).code(0);
    let plan = place.json(&["db", "retrain", "--data", "p.jsonl", "--plan"]);
    assert!(plan["gate"]["reason"].as_str().unwrap().contains("1 upper layers"), "{plan}");
    let run = place
        .run(&["db", "retrain", "--data", "p.jsonl", "--json"])
        .code(0)
        .says(&["the adapter alone gains"]);
    let report = run.object();
    assert_eq!((&report["published"], &report["generation"]), (&json!(true), &json!(2)));
    assert!(report["gate"]["ci95"][0].as_f64().unwrap() > 0.0);
    assert_eq!(report["reindex"]["documents"], 144);
    place.run(&["db", "check"]).code(0);
}

#[test]
fn learning_publishes_and_rollback_takes_it_back() {
    let place = with_judgements();
    let hits = |place: &Place| -> Vec<Value> {
        place.json(&["db", "search", "bread number 7"])["hits"].as_array().unwrap().clone()
    };
    let before = hits(&place);
    place.run(&["db", "retrain", "--data", "p.jsonl", "--plan"]).code(0);
    assert_eq!(place.run(&["db", "generations", "--json"]).objects().len(), 1);
    let report =
        place.json(&["db", "retrain", "--data", "p.jsonl", "--force", "--epochs", "2", "--seed", "3"]);
    assert_eq!(
        (&report["published"], &report["generation"], &report["previous"]),
        (&json!(true), &json!(2), &json!(1))
    );
    assert_eq!(keys(&report["train"]), ["pairs", "steps", "seconds", "loss_first", "loss_last"]);
    let gate = [
        "metric",
        "before",
        "after",
        "gain",
        "ci95",
        "by_dim",
        "ci95_by_dim",
        "queries",
        "guard",
        "queries_wanted",
        "reason",
    ];
    assert_eq!(keys(&report["gate"]), gate);
    assert_eq!(keys(&report["reindex"]), ["documents", "seconds"]);
    let generations = place.run(&["db", "generations", "--json"]).code(0).objects();
    assert_eq!(
        keys(&generations[1]),
        ["generation", "model_id", "created", "documents", "active", "metrics"]
    );
    assert_eq!((&generations[0]["active"], &generations[1]["active"]), (&json!(false), &json!(true)));
    assert_eq!(place.json(&["db", "rollback"])["generation"], 1);
    assert_eq!(hits(&place), before);
    place.run(&["db", "rollback", "9"]).code(1).says(&["9"]);
    place.write("bad.jsonl", "{\"query\": \"x\", \"positive\": \"y\"}\n{\"query\": \"x\"}\n");
    place.run(&["db", "retrain", "--data", "bad.jsonl"]).code(1).says(&["bad.jsonl"]);
    place.run(&["db", "retrain", "--data", "missing.jsonl"]).code(1);
}

#[test]
fn encoders_go_in_and_out() {
    let place = Place::with_texts();
    let models = place.run(&["db", "model", "list", "--json"]).code(0).objects();
    assert_eq!(keys(&models[0]), ["name", "model_id", "dim", "active"]);
    assert_eq!((&models[0]["name"], &models[0]["active"]), (&json!("tiny-bert"), &json!(true)));
    place.run(&["db", "model", "export", "out"]).code(0);
    assert!(place.path("out/model.safetensors").exists());
    place.run(&["db", "model", "export", "out"]).code(1).says(&["out"]);
    let added = place.json(&["db", "model", "add", "out", "--name", "again"]);
    assert_eq!(added["name"], "again");
    // The same weights under another pooling are another encoder.
    copy_dir(&place.path("out"), &place.path("max"));
    copy_dir(Path::new(&MODEL.replace("tiny-bert", "tiny-max")), &place.path("max"));
    place.run(&["db", "model", "add", "max"]).code(0);
    let active = place.json(&["db", "model", "use", "max"]);
    assert_eq!((&active["generation"], &active["documents"]), (&json!(2), &json!(3)));
    place.run(&["db", "model", "use", "nobody"]).code(1).says(&["nobody"]);
    place.run(&["db", "model", "add", "missing"]).code(1).says(&["missing"]);
    assert_eq!(place.json(&["db", "rollback", "1"])["generation"], 1);
    let again = place.json(&["db", "reindex", "--dims", "8,16"]);
    assert_eq!(again["documents"], 3);
    assert_eq!(place.json(&["db", "info"])["dims"].as_array().unwrap()[..2], [json!(8), json!(16)]);
    fs::remove_dir_all(place.path("out")).unwrap();
}
