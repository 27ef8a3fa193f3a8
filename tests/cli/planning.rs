//! retrain --plan: gain, time, memory and disk told beforehand, and nothing changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::support::{MODEL, Place, keys};

const SUBJECTS: [&str; 6] = ["cats", "rain", "bread", "trains", "music", "money"];

/// 120 texts on six subjects, and a query for each.
fn place() -> Place {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    let subject = |n: usize| SUBJECTS[n % 6];
    let lines =
        |line: &dyn Fn(usize) -> Value| -> String { (0..120).map(|n| format!("{}\n", line(n))).collect() };
    let text = |n: usize| json!({"id": format!("d{n}"), "text": format!("about {} number {n} and so on", subject(n))});
    place.write("t.jsonl", lines(&text));
    place.run(&["db", "import", "t.jsonl"]).code(0);
    let pair = |n: usize| json!({"query": format!("{} number {n}", subject(n)), "positive": {"id": format!("d{n}")}});
    place.write("pairs.jsonl", lines(&pair));
    let scored = |n: usize| json!({"sentence1": subject(n), "sentence2": format!("all on {} {n}", subject(n / 6)), "score": n % 5});
    place.write("scored.jsonl", lines(&scored));
    let class = |n: usize| json!({"text": format!("{} {n}", subject(n)), "label": subject(n)});
    place.write("classes.jsonl", lines(&class));
    place.write("one.jsonl", pair(1).to_string());
    place
}

/// Every file below a directory with what is in it.
fn files(under: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

#[test]
fn a_plan_tells_gain_and_cost_and_changes_nothing() {
    let place = place();
    let before = files(&place.path("db"));
    let told = |data: &str, method: &str| {
        let report = place.json(&["db", "retrain", "--plan", "--data", data, "--method", method]);
        let plan = report["plan"].clone();
        assert_eq!(
            keys(&plan),
            [
                "method",
                "gain",
                "ci95",
                "sample_queries",
                "sample_pairs",
                "seconds",
                "memory_bytes",
                "disk_bytes",
                "pairs",
                "held_out_queries",
                "documents"
            ],
            "{method}"
        );
        assert_eq!((&plan["method"], &plan["documents"]), (&json!(method), &json!(120)));
        assert_eq!((&report["published"], &report["generation"]), (&json!(false), &json!(1)));
        for number in ["sample_queries", "memory_bytes", "disk_bytes", "pairs", "held_out_queries"] {
            assert!(plan[number].as_u64().unwrap() > 0, "{method}: {number} of {plan}");
        }
        let bounds = [&plan["ci95"][0], &plan["gain"], &plan["ci95"][1]].map(|n| n.as_f64().unwrap());
        assert!(bounds.is_sorted() && bounds.iter().all(|n| n.abs() <= 2.0), "{method}: {plan}");
        let seconds = &plan["seconds"];
        assert_eq!(keys(seconds), ["read", "encode", "train", "judge", "reindex", "total"]);
        let second = |stage: &str| seconds[stage].as_f64().filter(|s| s.is_finite()).unwrap();
        let stages = ["read", "encode", "train", "judge", "reindex"].map(second);
        assert!(
            stages.iter().all(|&s| s > 0.0) && (second("total") - stages.iter().sum::<f64>()).abs() < 1e-6
        );
        let reason = report["gate"]["reason"].as_str().unwrap();
        assert!(reason.contains("of memory") && reason.contains("by a sample of"), "{reason}");
        plan
    };
    let adapter = told("pairs.jsonl", "adapter");
    let full = told("pairs.jsonl", "full");
    told("pairs.jsonl", "lora");
    told("pairs.jsonl", "best");
    told("scored.jsonl", "adapter");
    told("classes.jsonl", "full");
    assert!(full["disk_bytes"].as_u64() > adapter["disk_bytes"].as_u64());
    assert!(full["memory_bytes"].as_u64() >= adapter["memory_bytes"].as_u64());
    assert_eq!(files(&place.path("db")), before);
}

#[test]
fn with_too_little_to_learn_from_there_is_no_plan() {
    let place = place();
    let report = place.json(&["db", "retrain", "--plan", "--data", "one.jsonl"]);
    assert_eq!(report.get("plan"), None);
    assert!(report["gate"]["reason"].as_str().unwrap().contains("too little to learn from"), "{report}");
}
