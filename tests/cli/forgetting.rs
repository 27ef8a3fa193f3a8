//! What is deleted is gone from every file once the database was compacted: searched for byte by byte, and in whatever is
//! packed.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{MODEL, Place};

/// Words that no other file has.
const SECRET: &str = "xylograph-quokka-7391";

/// The first bytes of what zstd packed.
const PACKED: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Files that hold the secret, packed or not.
fn holders(root: &Path) -> Vec<String> {
    let has = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    let mut found = Vec::new();
    for path in files(root) {
        let bytes = fs::read(&path).unwrap();
        let starts = bytes.windows(4).enumerate().filter(|(_, window)| *window == PACKED).map(|(at, _)| at);
        let unpacked = |at: usize| {
            let mut out = Vec::new();
            // What follows the frame is none, so an error comes at its end.
            let _ = std::io::copy(&mut zstd::Decoder::new(&bytes[at..]).unwrap().single_frame(), &mut out);
            out
        };
        if has(&bytes) || starts.map(unpacked).any(|bytes| has(&bytes)) {
            found.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

#[test]
fn no_file_holds_the_text_of_a_deleted_document_after_compact() {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    let subjects = ["cats", "rain", "bread", "trains", "music", "money"];
    let words = |n: usize| if n == 17 { SECRET.to_owned() } else { format!("nothing of number {}", n * n) };
    let text = |n: usize| {
        let subject = subjects[n % 6];
        let sentence =
            |i: usize| format!("The {} thing that is told about {subject} is {} in {n}{i}.", i + 1, words(n));
        (0..6).map(sentence).collect::<Vec<_>>().join(" ")
    };
    let documents = |from: usize, to: usize| {
        let line = |n: usize| json!({"id": format!("d{n}"), "title": format!("What {} tell of {}", subjects[n % 6], words(n)), "text": text(n), "said": words(n)});
        (from..to).map(|n| format!("{}\n", line(n))).collect::<String>()
    };
    place.write("t.jsonl", documents(0, 150));
    place.write("more.jsonl", documents(150, 180));
    place.run(&["db", "import", "t.jsonl"]).code(0);
    assert!(holders(&place.path("db")).iter().all(|file| file.starts_with("log/")), "it is in the log");
    place.run(&["db", "compact"]).code(0);
    place.run(&["db", "import", "more.jsonl"]).code(0);

    // A training that was stopped keeps what it learns from.
    let structure = [
        "db",
        "retrain",
        "--from",
        "structure",
        "--method",
        "full",
        "--epochs",
        "500",
        "--checkpoint-every",
        "0.02",
    ];
    let mut child = place.spawn(&structure);
    let start = Instant::now();
    while !holders(&place.path("db")).iter().any(|file| file.starts_with("jobs/retrain/0")) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was saved");
        assert!(start.elapsed() < Duration::from_secs(120));
        sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = holders(&place.path("db"));
    assert!(
        before.iter().any(|file| file.ends_with("/docs"))
            && before.iter().any(|file| file.ends_with("/attrs")),
        "{before:?}"
    );

    place.run(&["db", "compact"]).code(0);
    assert!(place.path("db/jobs/retrain").exists(), "nothing was deleted");
    let log = ["db", "search", "something", "--log", "--json"];
    place.run(&log).code(0);
    place.run(&["db", "delete", "d17"]).code(0);
    place.run(&["db", "compact"]).code(0);
    assert_eq!(holders(&place.path("db")), [""; 0]);
    assert_eq!(place.run(&["db", "count"]).code(0).out.trim(), "179");
    place.run(&["db", "check", "--deep"]).code(0);

    // Replaced is deleted as well.
    place.run(&["db", "add", "--id", "d3", "--text", SECRET]).code(0);
    place.run(&["db", "compact"]).code(0);
    assert_ne!(holders(&place.path("db")), [""; 0]);
    place.run(&["db", "add", "--id", "d3", "--text", "other words"]).code(0);
    place.run(&["db", "compact"]).code(0);
    assert_eq!(holders(&place.path("db")), [""; 0]);
}
