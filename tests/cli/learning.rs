//! retrain: shapes of data, losses, methods, hard negatives, and data that cannot be learnt from.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::support::{MODEL, Place, copy_dir};

const SUBJECTS: [&str; 6] = ["cats", "rain", "bread", "trains", "music", "money"];

/// A hundred texts on six subjects.
fn place() -> Place {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    let texts: String = (0..120)
        .map(|n| {
            format!("{{\"id\": \"d{n}\", \"text\": \"about {} number {n} and so on\"}}\n", SUBJECTS[n % 6])
        })
        .collect();
    place.write("t.jsonl", texts);
    place.run(&["db", "import", "t.jsonl"]).code(0);
    place
}

fn lines(count: usize, line: impl Fn(usize) -> Value) -> String {
    (0..count).map(|n| format!("{}\n", line(n))).collect()
}

fn subject(n: usize) -> &'static str {
    SUBJECTS[n % 6]
}

fn pairs() -> String {
    lines(
        120,
        |n| json!({"query": format!("{} number {n}", subject(n)), "positive": {"id": format!("d{n}")}}),
    )
}

/// Published by force, and sound.
fn learns(place: &Place, arguments: &[&str]) -> Value {
    let report = place.json(&[&["db", "retrain", "--force", "--epochs", "2"], arguments].concat());
    assert_eq!(report["published"], true, "{report}");
    assert!(report["train"]["loss_last"].as_f64().unwrap().is_finite());
    place.run(&["db", "check"]).code(0);
    report
}

#[test]
fn every_shape_is_learnt_and_judged_by_its_own_measure() {
    let place = place();
    place.write("pairs.jsonl", pairs());
    place.write(
        "triplets.jsonl",
        lines(120, |n| {
            let (positive, negative) = (format!("d{n}"), format!("d{}", (n + 1) % 120));
            json!({"query": format!("{} number {n}", subject(n)), "positive": {"id": positive}, "negative": {"id": negative}})
        }),
    );
    place.write(
        "scored.jsonl",
        lines(200, |n| {
            let score = if subject(n) == subject(n / 6) { 5 } else { n % 3 };
            json!({"sentence1": format!("{} {n}", subject(n)), "sentence2": format!("all on {} {n}", subject(n / 6)), "score": score})
        }),
    );
    place.write(
        "classes.jsonl",
        lines(120, |n| json!({"text": format!("{} {n}", subject(n)), "label": subject(n)})),
    );
    for (file, metric) in
        [("pairs", "ndcg@10"), ("triplets", "ndcg@10"), ("scored", "spearman"), ("classes", "ndcg@10")]
    {
        let report = learns(&place, &["--data", &format!("{file}.jsonl"), "--method", "adapter"]);
        assert_eq!(report["gate"]["metric"], metric, "{file}");
        assert!(report["gate"]["queries"].as_u64().unwrap() >= 10, "{file}: {report}");
    }
    let report =
        learns(&place, &["--data", "scored.jsonl", "--method", "full", "--loss", "cosent", "--layers", "1"]);
    assert_eq!(report["gate"]["metric"], "spearman");
    place
        .run(&["db", "retrain", "--data", "scored.jsonl", "--loss", "triplet"])
        .code(1)
        .says(&["scored pairs", "cosent"]);
    place
        .run(&["db", "retrain", "--data", "pairs.jsonl", "--loss", "nonsense"])
        .code(1)
        .says(&["--loss", "mnrl"]);
}

#[test]
fn matrices_learn_at_low_rank() {
    let place = place();
    place.write("pairs.jsonl", pairs());
    let method = ["--data", "pairs.jsonl", "--method", "lora"];
    let report = learns(&place, &[&method[..], &["--rank", "4", "--targets", "query,value,output"]].concat());
    assert_eq!(report["reindex"]["documents"], 120);
    assert!(report["train"]["loss_last"].as_f64() < report["train"]["loss_first"].as_f64(), "{report}");
    let wrong = [&["db", "retrain"][..], &method, &["--targets", "nothing"]].concat();
    place.run(&wrong).code(1).says(&["--targets", "attention.output"]);
    let plan = place.json(&[&["db", "retrain", "--plan"][..], &method].concat());
    assert!(plan["gate"]["reason"].as_str().unwrap().contains("rank 8"), "{plan}");
    let little = [&["db", "retrain", "--memory", "100KB"][..], &method].concat();
    place.run(&little).code(5).says(&["memory for training", "--method adapter"]);
}

/// By the operations that a graphics processor has, and the numbers that our own give.
#[test]
fn an_encoder_learns_on_a_device_of_the_tensor_library() {
    let place = place();
    place.write("pairs.jsonl", pairs());
    copy_dir(&place.path("db"), &place.path("other"));
    let report = |database: &str, device: &str| {
        let run = place.run(
            &[
                &[database, "retrain", "--data", "pairs.jsonl", "--method", "full", "--force", "--json"][..],
                &["--device", device],
            ]
            .concat(),
        );
        run.object()
    };
    let [own, tensors] = [report("db", "cpu"), report("other", "tensors")];
    for loss in ["loss_first", "loss_last"] {
        let [own, tensors] = [&own, &tensors].map(|report| report["train"][loss].as_f64().unwrap());
        assert!((own - tensors).abs() < 1e-3 * own, "{loss}: {own}, {tensors}");
    }
    let wrong = place.run(&["db", "retrain", "--data", "pairs.jsonl", "--device", "gpu"]);
    wrong.code(1).says(&["--device", "cuda:N"]);
    #[cfg(not(feature = "cuda"))]
    place
        .run(&["db", "retrain", "--data", "pairs.jsonl", "--device", "cuda"])
        .code(1)
        .says(&["--features cuda"]);
}

#[test]
fn a_map_of_queries_leaves_everything_stored_as_it_is() {
    let place = place();
    place.write("pairs.jsonl", pairs());
    place.run(&["db", "compact"]).code(0);
    place.run(&["db", "delete", "d7"]).code(0);
    place.run(&["db", "add", "--id", "late", "--text", "something that is in no segment yet"]).code(0);
    let hits = |query: &str| place.json(&["db", "search", query, "--exact"])["hits"].to_string();
    // Documents are found by what they say; queries only after the map.
    let (before, bytes) = (hits("cats number 0"), place.json(&["db", "info"])["bytes"]["graphs"].clone());
    // What follows from other files is made anew before it is copied.
    std::fs::remove_file(place.path("db/seg/0000000001/gen.1.2/codes")).unwrap();
    let report = learns(&place, &["--data", "pairs.jsonl", "--method", "query-adapter"]);
    assert_eq!(report["reindex"]["documents"], 120);
    assert_ne!(hits("cats number 0"), before);
    // The graph was copied, and is that of the same rows.
    let info = place.json(&["db", "info"]);
    assert_eq!(info["bytes"]["graphs"].as_u64(), bytes.as_u64().map(|bytes| 2 * bytes), "{info}");
    place.run(&["db", "check", "--deep"]).code(0);
    // An adapter of both sides may follow, but not the encoder itself.
    let error = place.run(&["db", "retrain", "--data", "pairs.jsonl", "--method", "full", "--force"]);
    error.code(1).says(&["queries alone", "roll back"]);
    learns(&place, &["--data", "pairs.jsonl", "--method", "adapter"]);
    place.run(&["db", "rollback", "1"]).code(0);
    assert_eq!(hits("cats number 0"), before);
    place.write(
        "classes.jsonl",
        lines(120, |n| json!({"text": format!("{} {n}", subject(n)), "label": subject(n)})),
    );
    place
        .run(&["db", "retrain", "--data", "classes.jsonl", "--method", "query-adapter"])
        .code(1)
        .says(&["no queries"]);
}

#[test]
fn hard_negatives_come_from_the_index() {
    let place = place();
    place.write("pairs.jsonl", pairs());
    let run = place.run(&[
        "db",
        "retrain",
        "--data",
        "pairs.jsonl",
        "--force",
        "--hard-negatives",
        "2",
        "--method",
        "adapter",
        "--json",
    ]);
    let run = run.code(0).says(&["hard negatives", "for 120 queries"]);
    assert_eq!(run.object()["published"], true);
    let classes = lines(60, |n| json!({"text": format!("{} {n}", subject(n)), "label": subject(n)}));
    place.write("classes.jsonl", classes);
    let wrong = ["db", "retrain", "--data", "classes.jsonl", "--hard-negatives", "1"];
    place.run(&wrong).code(1).says(&["hard negatives", "texts with classes"]);
}

#[test]
fn what_cannot_be_learnt_from_is_refused_and_changes_nothing() {
    let place = place();
    let same = lines(60, |_| json!({"query": "the same", "positive": "the same text"}));
    let empty = lines(3, |n| json!({"query": "", "positive": format!("text {n}")}));
    let ids = lines(60, |n| json!({"query": format!("query {n}"), "positive": {"id": format!("none{n}")}}));
    let one = lines(1, |_| json!({"query": "one", "positive": {"id": "d1"}}));
    for (name, text, code, needle) in [
        ("same", same, 7, "1 distinct query"),
        ("empty", empty, 1, "line 1"),
        ("ids", ids, 7, "too little to learn from"),
        ("one", one, 7, "needs at least"),
    ] {
        let file = format!("{name}.jsonl");
        place.write(&file, text);
        let run = place.run(&["db", "retrain", "--data", &file]);
        assert!(run.out.contains(needle) || run.err.contains(needle), "{name}: {} {}", run.out, run.err);
        run.code(code);
    }
    let words = "word ".repeat(20_000);
    let long = lines(
        60,
        |n| json!({"query": format!("query {n} on {}", subject(n)), "positive": format!("{n} {words}")}),
    );
    place.write("long.jsonl", long);
    let run = place.run(&["db", "retrain", "--data", "long.jsonl", "--method", "adapter", "--json"]);
    assert!(run.object()["gate"]["after"].as_f64().unwrap().is_finite());
    place.run(&["db", "check"]).code(0);
}

#[test]
fn documents_alone_make_pairs() {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    let document = |n: usize| {
        let (one, other) = (subject(n), subject(n / 6 + 1));
        let text = format!(
            "Report {n} is on {one} and what people who keep them ought to know. In the year {n} somebody wrote of {other} in \
             a letter to his sister. Nobody has answered that letter number {n} until the present day, as far as is known."
        );
        json!({"id": format!("d{n}"), "title": format!("The great book of {one} and {other}, volume {n}"), "text": text})
    };
    place.write("t.jsonl", lines(90, document));
    place.run(&["db", "import", "t.jsonl"]).code(0);
    let run =
        place.run(&["db", "retrain", "--from", "structure", "--force", "--method", "adapter", "--json"]);
    let run = run.code(0).says(&["pairs from the structure of 90 documents"]);
    let run = run.object();
    assert!(run["train"]["pairs"].as_u64().unwrap() >= 40, "{run}");
    let kinds = run["gate"]["by_kind"].as_array().unwrap();
    let names: Vec<&str> = kinds.iter().map(|of| of["kind"].as_str().unwrap()).collect();
    assert_eq!(names, ["titles", "sentences", "words"], "{run}");
    for of in kinds {
        let told = format!("{} {}", of["queries"], of["kind"].as_str().unwrap());
        assert!(run["gate"]["reason"].as_str().unwrap().contains(&told), "{told}: {run}");
    }
    let judged: u64 = kinds.iter().map(|of| of["queries"].as_u64().unwrap()).sum();
    assert_eq!(judged, run["gate"]["queries"].as_u64().unwrap());
    place.run(&["db", "retrain", "--from", "nothing"]).code(1).says(&["--from", "structure"]);
}

/// Opens a page in Chromium, where there is one.
fn renders(page: &Path) {
    let named = std::env::var_os("CHROMIUM");
    let found =
        |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|run| run.status.success());
    if named.is_none() && !["chromium", "chromium-browser", "google-chrome"].iter().any(found) {
        eprintln!("skipped: there is no Chromium here to open {} in", page.display());
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/report-check/check.sh");
    let run = Command::new(script).arg(page).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn a_report_shows_every_run() {
    let place = place();
    let nasty = "<script>alert(1)</script>";
    let pair = |n: usize| {
        let query = format!("{} number {n} {nasty}", subject(n));
        json!({"query": query, "positive": {"id": format!("d{n}")}})
    };
    place.write("pairs.jsonl", lines(120, pair));
    place.write("one.jsonl", lines(1, pair));
    let page = place.path("page.html");
    let shows = |needles: &[&str]| {
        let html = fs::read_to_string(&page).unwrap();
        for needle in needles {
            assert!(html.contains(needle), "{needle} is missing");
        }
        assert!(html.ends_with("</html>\n") && !html.contains("<script") && !html.contains("http:"));
        renders(&page);
        fs::remove_file(&page).unwrap();
    };
    let learn = ["db", "retrain", "--method", "adapter", "--report", "page.html", "--data"];
    let plan = place.run(&[&learn[..], &["pairs.jsonl", "--plan"]].concat());
    plan.code(0);
    shows(&["What a run would do", "plan: train a linear adapter"]);
    place.run(&[&learn[..], &["one.jsonl"]].concat()).code(7);
    shows(&["Nothing was changed", "too little to learn from", "Nothing was trained"]);
    // A rate of nothing learns nothing, and nothing is refused.
    let report =
        place.run(&[&learn[..], &["pairs.jsonl", "--lr", "1e-30", "--json"]].concat()).code(7).object();
    let reason = report["gate"]["reason"].as_str().unwrap();
    shows(&[
        "Nothing was changed",
        reason,
        "gain with its 95 % interval",
        "No held-out query is found better",
    ]);
    place.run(&[&learn[..], &["pairs.jsonl", "--force", "--epochs", "3"]].concat()).code(0);
    shows(&["loss of each step", "&lt;script&gt;alert(1)", "1 → 2", "120 documents were indexed anew"]);
    let log = place.run(&["db", "retrain", "--report", "page.html"]);
    log.code(7);
    shows(&["Position bias", "Assumed", "The log shows no hits"]);
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_is_done() {
    let place = place();
    place.write("pairs.jsonl", pairs());
    for (file, needle) in [("none/page.html", "there is no folder none"), ("db", "not the name of a file")] {
        let learn = ["db", "retrain", "--data", "pairs.jsonl", "--force", "--report", file];
        place.run(&learn).code(1).says(&[file, needle]);
    }
    assert_eq!(place.run(&["db", "generations", "--json"]).objects().len(), 1);
}
