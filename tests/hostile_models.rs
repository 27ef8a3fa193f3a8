//! Model folders made to do harm: each is refused soon, within little memory, with a word about what is wrong; nothing
//! is written beside the database, and the model that was there goes on to serve.
//!
//! Memory and processor time are those of the program as a process of its own.

#![cfg(all(feature = "shell", feature = "trainer", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "cli/support.rs"]
#[allow(dead_code, reason = "shared with other tests, which use other parts")]
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
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

/// Changes a file of JSON.
fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn config(folder: &Path, field: &str, value: u64) {
    edit(folder, "config.json", |config| config[field] = json!(value));
}

fn splitter(folder: &Path, regex: &str) {
    edit(folder, "tokenizer.json", |tokenizer| {
        tokenizer["pre_tokenizer"] =
            json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    });
}

fn nested(folder: &Path, file: &str) {
    let text = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    fs::write(folder.join(file), text).unwrap();
}

/// A file of so many bytes that takes no room on the disk.
fn sparse(folder: &Path, file: &str, bytes: u64) {
    File::create(folder.join(file)).unwrap().set_len(bytes).unwrap();
}

/// Weights of so many bytes in one tensor, in a file that takes no room on the disk.
fn vast(folder: &Path, bytes: u64) {
    let table = json!({"a": {"dtype": "U8", "shape": [bytes], "data_offsets": [0, bytes]}}).to_string();
    let start = [&(table.len() as u64).to_le_bytes(), table.as_bytes()].concat();
    fs::write(folder.join("model.safetensors"), &start).unwrap();
    let file = File::options().write(true).open(folder.join("model.safetensors")).unwrap();
    file.set_len(start.len() as u64 + bytes).unwrap();
}

/// Changes the table of tensors, and its length as given, or as it is.
fn tensors(folder: &Path, length: Option<u64>, change: impl FnOnce(&mut Value)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (start, rest) = bytes.split_at(8);
    let (table, data) = rest.split_at(u64::from_le_bytes(start.try_into().unwrap()) as usize);
    let mut table = serde_json::from_slice(table).unwrap();
    change(&mut table);
    let table = table.to_string();
    let length = length.unwrap_or(table.len() as u64);
    fs::write(path, [&length.to_le_bytes(), table.as_bytes(), data].concat()).unwrap();
}

/// Some tensor of the table, by name.
fn some_tensor(table: &Value) -> String {
    table.as_object().unwrap().keys().find(|name| name.ends_with("LayerNorm.weight")).unwrap().clone()
}

type Spoil = Box<dyn Fn(&Path)>;

/// What is done to a folder, and a word of the refusal.
fn cases() -> Vec<(&'static str, &'static str, Spoil)> {
    let mut cases: Vec<(&'static str, &'static str, Spoil)> = Vec::new();
    let mut case = |name, says, spoil: Spoil| cases.push((name, says, spoil));
    case("hidden size", "hidden_size", Box::new(|f| config(f, "hidden_size", 1 << 31)));
    case("layers", "num_hidden_layers", Box::new(|f| config(f, "num_hidden_layers", 1_000_000)));
    case("no heads", "num_attention_heads", Box::new(|f| config(f, "num_attention_heads", 0)));
    case("vocabulary", "vocab_size", Box::new(|f| config(f, "vocab_size", 1 << 40)));
    case("nested configuration", "config.json", Box::new(|f| nested(f, "config.json")));
    case("nested tokenizer", "recursion", Box::new(|f| nested(f, "tokenizer.json")));
    case("nested modules", "modules.json", Box::new(|f| nested(f, "modules.json")));
    case("table of 2^63 bytes", "table of tensors", Box::new(|f| tensors(f, Some(1 << 63), |_| {})));
    case(
        "overlapping tensors",
        "overlap",
        Box::new(|f| {
            tensors(f, None, |table| {
                let name = some_tensor(table);
                let from = table[&name]["data_offsets"][0].as_u64().unwrap();
                table[&name]["data_offsets"][0] = json!(from - 4);
            });
        }),
    );
    case(
        "a hole",
        "hole",
        Box::new(|f| {
            tensors(f, None, |table| {
                let name = some_tensor(table);
                table.as_object_mut().unwrap().remove(&name);
            });
        }),
    );
    case(
        "a shape that overflows",
        "shape",
        Box::new(|f| {
            tensors(f, None, |table| {
                let name = some_tensor(table);
                table[&name]["shape"] = json!([1u64 << 40, 1u64 << 40]);
            });
        }),
    );
    case(
        "values that are no numbers",
        "not finite",
        Box::new(|f| {
            let path = f.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() - 4;
            bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
            fs::write(path, bytes).unwrap();
        }),
    );
    case("weights of 10 GB", "limit", Box::new(|f| sparse(f, "model.safetensors", 10 << 30)));
    case("weights of 3 GB of zeros", "parameters", Box::new(|f| sparse(f, "model.safetensors", 3 << 30)));
    case("3 GB of sound weights for a small model", "parameters", Box::new(|f| vast(f, 3 << 30)));
    case("a tokenizer of 1 GB", "tokenizer.json", Box::new(|f| sparse(f, "tokenizer.json", 1 << 30)));
    case("a word list of 3 GB", "vocab.txt", Box::new(|f| sparse(f, "vocab.txt", 3 << 30)));
    case(
        "two million tokens",
        "entries in one list",
        Box::new(|f| {
            edit(f, "tokenizer.json", |tokenizer| {
                let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
                vocabulary.extend((0..2_000_000).map(|n| (format!("x{n}"), json!(n))));
            });
        }),
    );
    case(
        "a merge of 1 MB",
        "limit of 4096",
        Box::new(|f| {
            edit(f, "tokenizer.json", |tokenizer| {
                tokenizer["model"] =
                    json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["a".repeat(1 << 20) + " a"]});
            });
        }),
    );
    case("nested quantifiers", "repeats", Box::new(|f| splitter(f, "(a+)+$")));
    case("look-ahead", "look-around", Box::new(|f| splitter(f, "(?=(a|b)*c)x")));
    case("a back-reference", "backreference", Box::new(|f| splitter(f, r"(a*)\1b")));
    case(
        "a text that grows",
        "as long",
        Box::new(|f| {
            edit(f, "tokenizer.json", |tokenizer| {
                let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
                tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": vec![double; 40]});
            });
        }),
    );
    case(
        "a link",
        "is a link",
        Box::new(|f| {
            fs::rename(f.join("config.json"), f.join("../outside.json")).unwrap();
            std::os::unix::fs::symlink("../outside.json", f.join("config.json")).unwrap();
        }),
    );
    case(
        "a link to a folder",
        "1_Pooling",
        Box::new(|f| {
            fs::rename(f.join("1_Pooling"), f.join("../outside")).unwrap();
            std::os::unix::fs::symlink("../outside", f.join("1_Pooling")).unwrap();
        }),
    );
    case(
        "a pipe",
        "config.json",
        Box::new(|f| {
            fs::remove_file(f.join("config.json")).unwrap();
            assert!(
                std::process::Command::new("mkfifo").arg(f.join("config.json")).status().unwrap().success()
            );
        }),
    );
    case(
        "a module outside",
        "../..",
        Box::new(|f| {
            edit(f, "modules.json", |modules| modules[1]["path"] = json!("../../etc"));
        }),
    );
    case(
        "weights outside",
        "../../w.safetensors",
        Box::new(|f| {
            fs::remove_file(f.join("model.safetensors")).unwrap();
            let index = json!({"weight_map": {"embeddings.word_embeddings.weight": "../../w.safetensors"}});
            fs::write(f.join("model.safetensors.index.json"), index.to_string()).unwrap();
        }),
    );
    cases
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
    for (name, says, spoil) in cases() {
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
        assert!(matches!(run.code, 1 | 2 | 5), "{name}: {run:?}");
        assert!(run.err.contains(says) && !run.err.contains("panicked"), "{name}: {run:?}");
        assert!(resident_kib > 0 && resident_kib <= RESIDENT_KIB, "{name}: {resident_kib} KiB");
        assert!(ticks <= TICKS, "{name}: {ticks} hundredths of a second");
        assert_eq!(list(), before, "{name}: something was written beside the database");
        // What stands alone is refused like what is added.
        let alone = place.run(&["none", "embed", "--model", folder.to_str().unwrap(), "a text"]);
        assert!(matches!(alone.code, 1 | 2 | 5), "{name}: {alone:?}");
        println!("{name}: exit {}, {} MiB, {ticks} ticks: {}", run.code, resident_kib >> 10, run.err.trim());
    }
    assert_eq!(place.run(&["db", "model", "list", "--json"]).out, listed);
    assert_eq!(place.json(&["db", "info"])["model"], known);
    let found = place.run(&["db", "search", "how do i reset my password", "--json"]).code(0).out;
    assert!(found.contains("\"a\""), "{found}");
    // The folder from which all were made is fine.
    add(&fresh, "other").run.code(0);
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
