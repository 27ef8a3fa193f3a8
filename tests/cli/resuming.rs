//! retrain --resume: runs that are killed or interrupted in training and in encoding, and what cannot go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::{MODEL, Place, copy_dir};

/// Training of the whole tiny encoder, published whatever it is worth.
const TRAIN: [&str; 9] =
    ["retrain", "--data", "pairs.jsonl", "--method", "full", "--force", "--batch-size", "16", "--epochs"];

/// A database of so many texts, and pairs.
fn place(documents: usize) -> Place {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    let subjects = ["cats", "rain", "bread", "trains", "music", "money"];
    let text = |n: usize| json!({"id": format!("d{n}"), "text": format!("about {} number {n} and so on", subjects[n % 6])});
    let pair = |n: usize| json!({"query": format!("{} number {n}", subjects[n % 6]), "positive": {"id": format!("d{n}")}});
    place.write("t.jsonl", (0..documents).map(|n| format!("{}\n", text(n))).collect::<String>());
    place.write("pairs.jsonl", (0..120).map(|n| format!("{}\n", pair(n))).collect::<String>());
    place.run(&["db", "import", "t.jsonl"]).code(0);
    place
}

/// The arguments of a training of `db`.
fn training<'a>(db: &'a str, epochs: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[db][..], &TRAIN, &[epochs, "--json"], more].concat()
}

/// What must be the same however often a run was stopped.
fn outcome(report: &Value) -> Value {
    let mut outcome = report.clone();
    for part in ["train", "reindex"] {
        outcome[part].as_object_mut().unwrap().remove("seconds");
    }
    outcome
}

/// The states that are saved.
fn states(place: &Place) -> Vec<PathBuf> {
    let Ok(listed) = fs::read_dir(place.path("db/jobs/retrain")) else { return Vec::new() };
    let names = listed.map(|entry| entry.unwrap().path());
    names.filter(|path| path.file_name().unwrap().to_string_lossy().parse::<u64>().is_ok()).collect()
}

/// The number of the newest saved state.
fn newest(place: &Place) -> u64 {
    let number = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().parse().unwrap();
    states(place).iter().map(number).max().unwrap_or(0)
}

/// Bytes of rows that were encoded again.
fn encoded(place: &Place) -> u64 {
    let Ok(jobs) = fs::read_dir(place.path("db/jobs")) else { return 0 };
    let rows = |job: &Path| fs::metadata(job.join("rows.0")).map_or(0, |rows| rows.len());
    jobs.map(|job| rows(&job.unwrap().path())).sum()
}

/// Waits until something is so, while the child runs.
#[track_caller]
fn until(child: &mut Child, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        assert!(begin.elapsed() < Duration::from_secs(120), "it takes too long");
        sleep(Duration::from_millis(1));
    }
}

/// The old generation answers, nothing is damaged.
fn sound(place: &Place) {
    place.run(&["db", "check"]).code(0);
    let generations = place.run(&["db", "generations", "--json"]).code(0).objects();
    assert_eq!(generations.len(), 1, "{generations:?}");
    let hits = place.run(&["db", "search", "cats number 0", "--json"]).code(0);
    assert_eq!(hits.objects()[0]["generation"], 1, "{hits:?}");
}

/// Goes on, and ends as the run that was not stopped.
fn resumed(place: &Place, uninterrupted: &Value) {
    let report = place.json(&["db", "retrain", "--resume"]);
    assert_eq!(outcome(&report), outcome(uninterrupted));
    assert_eq!(report["published"], true);
    place.run(&["db", "check"]).code(0);
    assert!(!place.path("db/jobs/retrain").exists(), "nothing is left of the run");
    place.run(&["db", "retrain", "--resume"]).code(1).says(&["no run of retrain was stopped"]);
}

#[test]
fn a_killed_training_goes_on_and_ends_as_if_it_had_not_been() {
    let place = place(120);
    copy_dir(&place.path("db"), &place.path("whole"));
    let uninterrupted = place.run(&training("whole", "80", &[])).code(0).object();
    let mut child = place.spawn(&training("db", "80", &["--checkpoint-every", "0.02"]));
    until(&mut child, || newest(&place) >= 3);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "killed by the signal");
    sound(&place);
    // What comes meanwhile does not change what is learnt, nor does the fate of the file.
    fs::remove_file(place.path("pairs.jsonl")).unwrap();
    // Killed once more.
    let before = newest(&place);
    let mut child = place.spawn(&["db", "retrain", "--resume", "--checkpoint-every", "0.02"]);
    until(&mut child, || newest(&place) > before);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "killed by the signal");
    resumed(&place, &uninterrupted);
}

#[test]
fn a_run_killed_while_documents_are_encoded_again_needs_no_new_training() {
    let place = place(3_000);
    copy_dir(&place.path("db"), &place.path("whole"));
    let uninterrupted = place.run(&training("whole", "2", &[])).code(0).object();
    let mut child = place.spawn(&training("db", "2", &[]));
    until(&mut child, || encoded(&place) > 1_000);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "killed by the signal");
    sound(&place);
    let done = encoded(&place);
    assert!(done > 1_000);
    // The encoder is made anew from the last state, to the bit: its rows are found by its name.
    let mut child = place.spawn(&["db", "retrain", "--resume"]);
    let jobs = || fs::read_dir(place.path("db/jobs")).map_or(0, Iterator::count);
    until(&mut child, || encoded_again(&place));
    assert_eq!(jobs(), 2, "the rows go on where they were, beside the checkpoint");
    child.kill().unwrap();
    child.wait().unwrap();
    resumed(&place, &uninterrupted);
}

/// Whether rows were added to a job by a process after the first.
fn encoded_again(place: &Place) -> bool {
    let Ok(jobs) = fs::read_dir(place.path("db/jobs")) else { return false };
    jobs.filter_map(Result::ok).any(|job| job.path().join("rows.1").exists())
}

#[test]
fn an_interrupt_says_how_to_go_on() {
    let place = place(120);
    copy_dir(&place.path("db"), &place.path("whole"));
    let uninterrupted = place.run(&training("whole", "80", &[])).code(0).object();
    let mut child = place.spawn(&training("db", "80", &[]));
    until(&mut child, || newest(&place) >= 1);
    sleep(Duration::from_millis(100));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let run: super::support::Run = child.wait_with_output().unwrap().into();
    run.code(130).says(&["retrain --resume"]);
    assert!(newest(&place) >= 2, "the state of the interrupt is saved");
    sound(&place);
    resumed(&place, &uninterrupted);
}

#[test]
fn what_cannot_go_on_is_refused_and_changes_nothing() {
    let place = place(120);
    place.run(&["db", "retrain", "--resume"]).code(1).says(&["no run of retrain was stopped", "--resume"]);
    place.run(&["db", "retrain", "--resume", "--seed", "3"]).code(1).says(&["--seed"]);
    let mut child = place.spawn(&training("db", "80", &["--checkpoint-every", "0.02"]));
    until(&mut child, || newest(&place) >= 2);
    let run = place.run(&["db", "retrain", "--resume"]);
    child.kill().unwrap();
    child.wait().unwrap();
    run.code(3);
    copy_dir(&place.path("db"), &place.path("stopped"));
    let again = |what: &str, code: i32, words: &[&str]| {
        let run = place.run(&["db", "retrain", "--resume"]);
        assert_eq!(run.code, code, "{what}: {run:?}");
        run.says(words);
        place.run(&["db", "check"]).code(0);
        fs::remove_dir_all(place.path("db")).unwrap();
        copy_dir(&place.path("stopped"), &place.path("db"));
    };
    for state in states(&place) {
        let mut bytes = fs::read(&state).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&state, bytes).unwrap();
    }
    again("damage", 2, &["begin the run anew without --resume"]);
    place.run(&["db", "add", "--id", "d5", "--text", "other words"]).code(0);
    again("a changed document", 1, &["documents that it learns from were changed"]);
    place.run(&["db", "reindex"]).code(0);
    again("another generation", 1, &["no run of retrain was stopped"]);
    place.run(&["db", "backup", "copy"]).code(0);
    assert!(!place.path("copy/jobs/retrain").exists(), "a backup has no use for it");
    place.run(&["db", "compact"]).code(0);
    assert_eq!(states(&place).len(), 1, "compaction leaves it");
    let anew = place.run(&training("db", "1", &[])).code(0).says(&["begins anew", "--resume"]);
    assert_eq!(anew.object()["published"], true);
    assert!(!place.path("db/jobs/retrain").exists());
}
