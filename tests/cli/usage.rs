//! Flags, help, exit codes of wrong usage.

use std::process::Stdio;

use super::support::{Place, keys, vectors};

#[test]
fn help_and_version_are_no_errors() {
    let place = Place::new();
    let version = place.run(&["--version"]).code(0);
    assert_eq!(version.out, concat!("embdb ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = place.run(&["--help"]).code(0).out;
    for command in ["create", "import", "batch-search", "retrain", "backup"] {
        assert!(help.contains(command), "{command}");
    }
    assert!(place.run(&["db", "search", "--help"]).code(0).out.contains("--where"));
    assert!(!place.path("db").exists());
}

#[test]
fn wrong_usage_is_1_and_names_the_flag() {
    let place = Place::with_texts();
    place.run(&[]).code(1);
    place.run(&["db", "nonsense"]).code(1);
    place.run(&["db", "search"]).code(1);
    place.run(&["db", "count", "--nonsense"]).code(1).says(&["--nonsense"]);
    place.run(&["db", "count", "--busy-timeout", "soon"]).code(1).says(&["--busy-timeout"]);
    place.run(&["db", "search", "x", "-k", "ten"]).code(1).says(&["-k"]);
    place.run(&["db", "search", "x", "-k", "-1"]).code(1).says(&["-1", "-k"]);
    place.run(&["db", "search", "x", "--target-recall", "2"]).code(1).says(&["--target-recall"]);
    place.run(&["db", "count", "--keep-going"]).code(1);
}

#[test]
fn what_comes_later_is_refused_by_name() {
    let place = Place::with_texts();
    for (args, flag) in [
        (&["search", "x", "--mode", "hybrid"][..], "--mode"),
        (&["search", "x", "--mode", "text"], "--mode"),
        (&["search", "x", "--as-of", "1"], "--as-of"),
    ] {
        place.run(&[&["db"], args].concat()).code(1).says(&[flag]);
    }
}

#[test]
fn common_flags_stand_anywhere_after_the_command() {
    let place = Place::with_texts();
    let first = place.run(&["db", "count", "--json", "--where", "lang = 'en'", "--quiet"]).code(0);
    let last = place.run(&["db", "count", "--quiet", "--where", "lang = 'en'", "--json"]).code(0);
    assert_eq!(first.out, "{\"count\":2}\n");
    assert_eq!(first.out, last.out);
    place.run(&["db", "count", "--busy-timeout", "0.5"]).code(0);
}

#[test]
fn quiet_silences_notes_but_not_errors() {
    let place = Place::with_texts();
    place.run(&["db", "count", "--where", "nokey = 1"]).code(0).says(&["nokey"]);
    assert_eq!(place.run(&["db", "count", "--where", "nokey = 1", "--quiet"]).code(0).err, "");
    place.run(&["db", "get", "zz", "--quiet"]).code(1).says(&["zz"]);
}

#[test]
fn a_missing_database_is_not_created_by_reading() {
    let place = Place::new();
    place.write_npy("q.npy", &[vec![1.0]]);
    for args in [
        &["count"][..],
        &["ids"],
        &["get", "a"],
        &["search", "x"],
        &["knn", "--queries", "q.npy"],
        &["click", "q", "a"],
        &["delete", "a"],
        &["log", "stats"],
        &["generations"],
        &["rollback"],
        &["model", "list"],
        &["reindex"],
        &["compact"],
        &["check"],
        &["backup", "copy"],
        &["info"],
        &["retrain"],
    ] {
        place.run(&[&["db"], args].concat()).code(1).says(&["no database at db"]);
        assert!(!place.path("db").exists(), "{args:?}");
    }
}

#[test]
fn an_empty_directory_is_an_empty_database() {
    let place = Place::new();
    std::fs::create_dir(place.path("db")).unwrap();
    assert_eq!(place.count("db"), 0);
    assert_eq!(place.run(&["db", "ids"]).code(0).out, "");
    assert!(place.json(&["db", "search", "x"])["hits"].as_array().unwrap().is_empty());
    assert_eq!(place.json(&["db", "check"])["ok"], true);
    assert_eq!(place.json(&["db", "info"])["documents"], 0);
    place.run(&["db", "create", "--vectors", "2"]).code(0);
}

#[test]
fn foreign_directories_are_left_alone() {
    let place = Place::new();
    std::fs::create_dir(place.path("other")).unwrap();
    place.write("other/letter.txt", "hello");
    place.write("file", "hello");
    place.write("t.jsonl", "{\"id\": \"a\", \"vector\": [1]}");
    for name in ["other", "file"] {
        place.run(&[name, "count"]).code(1).says(&[name]);
        place.run(&[name, "import", "t.jsonl"]).code(1).says(&[name]);
        place.run(&[name, "create", "--vectors", "3"]).code(1).says(&[name]);
    }
    assert_eq!(std::fs::read_dir(place.path("other")).unwrap().count(), 1);
}

#[test]
fn creation_says_what_was_made_and_happens_once() {
    let place = Place::new();
    let info = place.json(&[
        "db",
        "create",
        "--vectors",
        "100",
        "--metric",
        "l2",
        "--dims",
        "10,50",
        "--codec",
        "int8",
    ]);
    assert_eq!(info["dims"], serde_json::json!([10, 50, 100]));
    assert_eq!((&info["metric"], &info["codec"]), (&"l2".into(), &"int8".into()));
    place.run(&["db", "create", "--vectors", "3"]).code(1).says(&["already"]);
    place.run(&["x", "create", "--vectors", "0"]).code(1).says(&["dimension"]);
    place.run(&["x", "create", "--vectors", "70000"]).code(5);
    place.run(&["x", "create", "--vectors", "9", "--dims", "10"]).code(1).says(&["--dims"]);
    place.run(&["x", "create", "--vectors", "9", "--model", "m"]).code(1);
    place.run(&["x", "create", "--model", "missing"]).code(1).says(&["missing"]);
    place.run(&["x", "create", "--metric", "hamming", "--vectors", "9"]).code(1).says(&["--metric"]);
    assert!(!place.path("x").exists());
}

#[test]
fn info_has_the_keys_of_the_interface() {
    let place = Place::with_texts();
    let info = place.json(&["db", "info"]);
    assert_eq!(
        keys(&info),
        [
            "documents",
            "deleted",
            "segments",
            "generation",
            "model",
            "dims",
            "codec",
            "precision",
            "metric",
            "index",
            "builder",
            "bytes",
            "format"
        ]
    );
    assert_eq!(keys(&info["bytes"]), ["log", "vectors", "graphs", "documents", "models", "feedback"]);
    let text = place.run(&["db", "info"]).code(0).out;
    assert!(text.contains("documents  ") && text.contains("bytes.models"), "{text}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::with_vectors(20_000);
    let mut child =
        place.command(&["v", "ids"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_4() {
    let place = Place::with_texts();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.command(&["db", "ids"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn time_is_limited_where_it_is_asked_for_and_files_are_read_as_asked() {
    let place = Place::with_vectors(50);
    for command in [&["check"][..], &["compact"], &["backup", "copy"], &["repair", "--out", "new"]] {
        let limited = [&["v"][..], command, &["--timeout", "0"]].concat();
        place.run(&limited).code(5).says(&["the time of this call", "--timeout"]);
        let enough = [&["v"][..], command, &["--timeout", "3600", "--io", "pread"]].concat();
        place.run(&enough).code(0);
    }
    place.run(&["v", "count", "--timeout", "soon"]).code(1).says(&["seconds"]);
    place.run(&["v", "count", "--io", "wishes"]).code(1).says(&["map or pread"]);
    let refused = place.run(&["v", "count", "--io", "pread", "--memory", "1KB"]);
    refused.code(5).says(&["memory for the files", "1024"]);
    place.run(&["v", "count", "--io", "pread", "--memory", "1GB"]).code(0);
    place.run(&["v", "count", "--memory", "lots"]).code(1).says(&["number of bytes"]);
    let search = |more: &[&str]| {
        let all = [&["v", "knn", "--queries", "q.npy", "-k", "3", "--out", "o.npy"][..], more].concat();
        place.write_npy("q.npy", &vectors(9));
        place.run(&all).code(0);
        std::fs::read(place.path("o.npy")).unwrap()
    };
    assert_eq!(search(&["--io", "pread"]), search(&[]));
}
