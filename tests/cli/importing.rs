//! import: formats, batches, acknowledgements, errors, the lock, interrupts.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{MODEL, Place, Run, keys, vectors};

#[test]
fn a_report_and_acknowledgements_in_input_order() {
    let place = Place::new();
    place.write_npy("v.npy", &vectors(10));
    let report = place.json(&["v", "import", "v.npy", "--batch", "4", "--acks", "acks"]);
    assert_eq!(keys(&report), ["documents", "batches", "seconds", "skipped", "unchanged"]);
    assert_eq!(
        (&report["documents"], &report["batches"], &report["skipped"]),
        (&json!(10), &json!(3), &json!(0))
    );
    assert_eq!(fs::read_to_string(place.path("acks")).unwrap(), "1 0 3 4\n2 4 7 4\n3 8 9 2\n");
    // A second run appends, counting from 1 again, and replaces what is there.
    place.run(&["v", "import", "v.npy", "--acks", "acks"]).code(0);
    assert!(fs::read_to_string(place.path("acks")).unwrap().ends_with("\n1 0 9 10\n"));
    assert_eq!(place.count("v"), 10);
}

#[test]
fn of_equal_ids_in_a_batch_the_last_wins() {
    let place = Place::new();
    let lines: String =
        ["1, 0", "0, 1", "1, 1"].iter().map(|v| format!("{{\"id\": \"a\", \"vector\": [{v}]}}\n")).collect();
    place.write("v.jsonl", lines);
    let report = place.json(&["v", "import", "v.jsonl"]);
    assert_eq!((&report["documents"], &report["skipped"]), (&json!(1), &json!(2)));
    let hit = place.json(&["v", "get", "a"]);
    assert_eq!(hit["id"], "a");
    assert_eq!(place.count("v"), 1);
}

#[test]
fn what_is_there_already_is_told() {
    let place = Place::with_texts();
    let log = || {
        fs::read_dir(place.path("db/log")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    let before = log();
    let report = place.json(&["db", "import", "texts.jsonl", "--acks", "acks"]);
    assert_eq!((&report["documents"], &report["unchanged"]), (&json!(3), &json!(3)));
    assert_eq!(fs::read_to_string(place.path("acks")).unwrap(), "1 a 7 3\n");
    assert_eq!(log(), before);
    let added = place.json(&["db", "add", "--id", "7", "--text", "cats and dogs"]);
    assert_eq!((&added["replaced"], &added["unchanged"]), (&json!(1), &json!(0)));
    let again = place.json(&["db", "add", "--id", "7", "--text", "cats and dogs"]);
    assert_eq!(
        (&again["replaced"], &again["unchanged"], &again["chunks"]),
        (&json!(0), &json!(1), &json!(0))
    );
}

#[test]
fn every_format_of_text() {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    place.write("t.csv", "id,text,lang\nc1,hello there,en\n");
    fs::create_dir_all(place.path("folder/sub")).unwrap();
    place.write("folder/sub/one.md", "# one\n\ntext");
    fs::create_dir(place.path("beir")).unwrap();
    place.write(
        "beir/corpus.jsonl",
        "{\"_id\": \"b1\", \"title\": \"T\", \"text\": \"x\", \"metadata\": {\"k\": 1}}\n",
    );
    let report = place.json(&["db", "import", "t.csv", "folder", "beir"]);
    assert_eq!(report["documents"], 3);
    assert_eq!(place.run(&["db", "ids"]).out, "b1\nc1\nsub/one.md\n");
    assert_eq!(place.json(&["db", "get", "b1"])["meta"], json!({"k": 1}));
    place.write("odd.jsonl", "{\"key\": \"o1\", \"body\": \"hello\"}\n");
    place.run(&["db", "import", "odd.jsonl", "--id-field", "key", "--text-field", "body"]).code(0);
    let report =
        place.feed(&["db", "import", "-", "--json"], "{\"id\": \"s\", \"text\": \"stdin\"}\n").code(0);
    assert_eq!(report.object()["documents"], 1);
    assert_eq!(place.count("db"), 5);
}

#[test]
fn a_bad_line_stops_the_import_and_earlier_batches_stay() {
    let place = Place::new();
    let good = |n: usize| format!("{{\"id\": \"{n}\", \"vector\": [1, {n}]}}\n");
    let mut lines: String = (0..5).map(good).collect();
    lines.push_str("{\"id\": \"5\", \"vector\": [1, }\n");
    lines.extend((6..9).map(good));
    place.write("v.jsonl", lines);
    let run =
        place.run(&["v", "import", "v.jsonl", "--batch", "2", "--acks", "acks"]).code(1).says(&["v.jsonl:6"]);
    assert_eq!(run.out, "");
    assert_eq!(fs::read_to_string(place.path("acks")).unwrap(), "1 0 1 2\n2 2 3 2\n");
    assert_eq!(place.count("v"), 4);
}

#[test]
fn paths_are_looked_at_before_anything_is_created() {
    let place = Place::new();
    place.run(&["v", "import", "missing.jsonl"]).code(1).says(&["missing.jsonl"]);
    place.write("x.bin", "?");
    place.run(&["v", "import", "x.bin"]).code(1).says(&["--format"]);
    place.write("t.jsonl", "{\"id\": \"a\", \"text\": \"no encoder yet\"}\n");
    place.run(&["v", "import", "t.jsonl", "--batch", "0"]).code(1).says(&["--batch"]);
    assert!(!place.path("v").exists());
}

/// Waits until `ready`, for at most a minute.
pub fn wait_for(ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing happened for a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_second_writer_is_told_who_holds_the_lock_and_readers_go_on() {
    let place = Place::with_vectors(3);
    let mut holder = place.spawn(&["v", "import", "-", "--batch", "1", "--acks", "acks"]);
    let mut input = holder.stdin.take().unwrap();
    input.write_all(b"{\"id\": \"new\", \"vector\": [1, 1, 1, 1]}\n").unwrap();
    input.flush().unwrap();
    wait_for(|| fs::read_to_string(place.path("acks")).is_ok_and(|acks| acks == "1 new new 1\n"));
    let pid = holder.id().to_string();
    place.run(&["v", "delete", "0"]).code(3).says(&[&pid]);
    place.write_npy("w.npy", &vectors(2));
    place.run(&["v", "import", "w.npy"]).code(3).says(&[&pid]);
    assert_eq!(place.count("v"), 4);
    place.write_npy("q.npy", &vectors(1));
    place.run(&["v", "knn", "--queries", "q.npy", "-k", "2"]).code(0);
    drop(input);
    assert_eq!(Run::from(holder.wait_with_output().unwrap()).code(0).object()["documents"], 1);
    place.run(&["v", "delete", "0"]).code(0);
}

#[test]
#[cfg(unix)]
fn an_interrupt_keeps_what_was_acknowledged_and_is_130() {
    let place = Place::with_vectors(1);
    let mut child = place.spawn(&["v", "import", "-", "--batch", "2", "--acks", "acks"]);
    let mut input = child.stdin.take().unwrap();
    let line = |n: usize| format!("{{\"id\": \"n{n}\", \"vector\": [1, {n}, 0, 0]}}\n");
    input.write_all((0..3).map(line).collect::<String>().as_bytes()).unwrap();
    wait_for(|| fs::read_to_string(place.path("acks")).is_ok_and(|acks| acks == "1 n0 n1 2\n"));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    // It waits for input that does not come: the batch that had begun is dropped whole.
    Run::from(child.wait_with_output().unwrap()).code(130);
    drop(input);
    assert_eq!(place.count("v"), 3);
    assert_eq!(place.json(&["v", "check"])["ok"], true);
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_4_and_loses_nothing_acknowledged() {
    let place = Place::with_vectors(1);
    place.write_npy("big.npy", &vectors(40_000));
    // A limit on the size of files stands for the full disk; its signal is switched off as a service would.
    let script = "trap '' XFSZ; ulimit -f 600; exec \"$0\" v import big.npy --acks acks";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_embdb")])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    Run::from(output).code(4).says(&["log"]);
    let acks = fs::read_to_string(place.path("acks")).unwrap();
    let acknowledged: u64 =
        acks.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert!(acknowledged > 0 && acknowledged < 40_000, "{acks}");
    // Batches are whole: the first one holds the id that was there before.
    assert_eq!(place.count("v"), acknowledged);
    place.run(&["v", "import", "big.npy"]).code(0);
    assert_eq!(place.count("v"), 40_000);
}

#[test]
fn an_empty_title_is_none() {
    let place = Place::with_texts();
    place.write("a.jsonl", "{\"id\": \"j\", \"title\": \"\", \"text\": \"one\"}\n");
    place.write("b.csv", "id,title,text\nc,,two\n");
    place.run(&["db", "import", "a.jsonl", "b.csv"]).code(0);
    place.run(&["db", "add", "--id", "o", "--title", "", "--text", "three"]).code(0);
    for id in ["j", "c", "o"] {
        assert!(place.json(&["db", "get", id])["title"].is_null(), "{id}");
    }
}
