//! Model folders made to do harm: each is refused soon, within little memory, with a word about what is wrong; nothing
//! is written beside the database, and the model that was there goes on to serve.
//!
//! Memory and processor time are those of the program as a process of its own.

#![cfg(all(feature = "shell", feature = "trainer", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "hostile_models/cases.rs"]
mod cases;
#[path = "cli/support.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts")]
mod support;

use std::fmt::Debug;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cases::{Case, cases, edit};
use support::{MODEL, Place, Run, copy_dir};

/// Most memory of a process that refuses, in KiB.
const RESIDENT_KIB: u64 = 300 << 10;
/// Most processor time, in hundredths of a second.
const TICKS: u64 = 500;

/// What a process needed.
struct Needs {
    run: Run,
    resident_kib: u64,
    ticks: u64,
}

/// Runs the program and watches it.
fn watched(place: &Place, arguments: &[&str]) -> Needs {
    let files = tempfile::TempDir::new().unwrap();
    let (out, err) = (files.path().join("out"), files.path().join("err"));
    let mut command = place.command(arguments);
    command.stdout(Stdio::from(File::create(&out).unwrap())).stderr(Stdio::from(File::create(&err).unwrap()));
    let mut child = command.spawn().unwrap();
    let (mut resident_kib, mut ticks) = (0, 0);
    let status = loop {
        let proc = PathBuf::from(format!("/proc/{}", child.id()));
        let field = |name: &str| {
            let status = fs::read_to_string(proc.join("status")).ok()?;
            status.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok())
        };
        resident_kib = resident_kib.max(field("VmHWM:").unwrap_or(0));
        let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
        // Fields 14 and 15, counted from behind the name.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        ticks = ticks.max(number(11) + number(12));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let run = Run { code: status.code().expect("not ended by a signal"), out: read(&out), err: read(&err) };
    Needs { run, resident_kib, ticks }
}

/// A place with a database, one folder deeper than what a test may write beside it.
fn place() -> (tempfile::TempDir, Place) {
    let place = Place::with_texts();
    (tempfile::TempDir::new().unwrap(), place)
}

/// Names of all entries under a folder, with their lengths; the database aside.
fn entries(folder: &Path, found: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() && !path.ends_with("db") {
            entries(&path, found);
        }
        found.push((path, if metadata.is_dir() { 0 } else { metadata.len() }));
    }
    found.sort();
}

#[test]
fn each_is_refused_soon_and_within_little_memory() {
    let (models, place) = place();
    let add = |folder: &Path, name: &str| {
        watched(&place, &["db", "model", "add", folder.to_str().unwrap(), "--name", name])
    };
    let fresh = models.path().join("model");
    copy_dir(Path::new(MODEL), &fresh);
    let known = place.json(&["db", "info"])["model"].clone();
    let listed = place.run(&["db", "model", "list", "--json"]).out;
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = Vec::new();
    for Case { name, says, spoil } in cases {
        let mut expect = |holds: bool, what: &dyn Debug| {
            if !holds {
                wrong.push(format!("{name}: {what:?}"));
            }
        };
        let outer = models.path().join(name.replace(' ', "-"));
        let folder = outer.join("model");
        copy_dir(&fresh, &folder);
        spoil(&folder);
        let list = || {
            let mut found = Vec::new();
            entries(models.path(), &mut found);
            entries(&place.path(""), &mut found);
            found
        };
        let before = list();
        let Needs { run, resident_kib, ticks } = add(&folder, "hostile");
        expect(matches!(run.code, 1 | 2 | 5), &run);
        expect(run.err.contains(says) && !run.err.contains("panicked"), &run);
        expect(resident_kib > 0 && resident_kib <= RESIDENT_KIB, &format_args!("{resident_kib} KiB"));
        expect(ticks <= TICKS, &format_args!("{ticks} hundredths of a second"));
        expect(list() == before, &"something was written beside the database");
        // What stands alone is refused like what is added.
        let alone = place.run(&["none", "embed", "--model", folder.to_str().unwrap(), "a text"]);
        expect(matches!(alone.code, 1 | 2 | 5), &alone);
        println!("{name}: exit {}, {} MiB, {ticks} ticks: {}", run.code, resident_kib >> 10, run.err.trim());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(place.run(&["db", "model", "list", "--json"]).out, listed);
    assert_eq!(place.json(&["db", "info"])["model"], known);
    let found = place.run(&["db", "search", "how do i reset my password", "--json"]).code(0).out;
    assert!(found.contains("\"a\""), "{found}");
    // The folder from which all were made is fine.
    add(&fresh, "other").run.code(0);
}

/// Nobody can tell from a tokenizer alone which tokens a text will have.
#[test]
fn a_token_that_the_model_does_not_know_is_refused_where_it_is_met() {
    let (models, place) = place();
    let folder = models.path().join("model");
    copy_dir(Path::new(MODEL), &folder);
    edit(&folder, "tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]["rain"] = 4_000_000_000u64.into();
    });
    let embed = |text| place.run(&["none", "embed", "--model", folder.to_str().unwrap(), text]);
    embed("how do i reset my password").code(0);
    let run = embed("rain").code(2);
    assert!(run.err.contains("it gives the token 4000000000, but the model knows 600"), "{run:?}");
}

/// A hard link is a file like any other: installers make them. It is read, and never written through.
#[test]
fn files_with_two_names_are_read_and_left_alone() {
    let (models, place) = place();
    let folder = models.path().join("model");
    copy_dir(Path::new(MODEL), &folder);
    let outside = models.path().join("weights");
    fs::hard_link(folder.join("model.safetensors"), &outside).unwrap();
    let before = (fs::read(&outside).unwrap(), fs::metadata(&outside).unwrap().modified().unwrap());
    place.run(&["db", "model", "add", folder.to_str().unwrap(), "--name", "linked"]).code(0);
    place.run(&["db", "model", "use", "linked"]).code(0);
    let after = (fs::read(&outside).unwrap(), fs::metadata(&outside).unwrap().modified().unwrap());
    assert!(after == before);
}
