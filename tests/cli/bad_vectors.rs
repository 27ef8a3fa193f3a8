//! Bad vectors, bad numbers, damaged files: an error with the right exit code or the right answer, never a crash.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::support::{Place, vectors};
use super::vectors::random_rows;

#[test]
fn dimensions_out_of_range() {
    let place = Place::new();
    place.run(&["v", "create", "--vectors", "0"]).code(1).says(&["0"]);
    place.run(&["v", "create", "--vectors", "65537"]).code(5).says(&["65537", "65536"]);
    place.run(&["v", "create", "--vectors", "8", "--dims", "0,8"]).code(1).says(&["--dims"]);
    place.run(&["v", "create", "--vectors", "8", "--dims", "9"]).code(1).says(&["--dims", "9"]);
    place.run(&["v", "import", "missing.npy"]).code(1);
    for (dim, code) in [(0, 1), (65_537, 5)] {
        let mut vector = vec!["0.5"; dim].join(",");
        place.write("v.jsonl", format!("{{\"id\": \"a\", \"vector\": [{vector}]}}\n"));
        place.run(&["v", "import", "v.jsonl"]).code(code).says(&["v.jsonl:1"]);
        vector = format!("[{vector}]");
        // An argument of the system's is at most 128 KiB.
        if vector.len() < 100_000 {
            place.run(&["v", "add", "--id", "a", "--vector", &vector]).code(code);
        }
        place.write_npy("v.npy", &[vec![0.5; dim]]);
        place.run(&["v", "import", "v.npy"]).code(code).says(&["v.npy"]);
        place.write("v.fvecs", [(dim as i32).to_le_bytes().to_vec(), vec![0; 4 * dim]].concat());
        place.run(&["v", "import", "v.fvecs"]).code(code).says(&["v.fvecs"]);
    }
    assert!(!place.path("v").exists());
    place.write_npy("v.npy", &[vec![0.5; 65_536]]);
    place.run(&["v", "import", "v.npy"]).code(0);
    place.run(&["v", "knn", "--queries", "v.npy"]).code(0);
}

#[test]
fn values_that_are_no_numbers_under_every_metric() {
    let place = Place::new();
    for metric in ["cosine", "dot", "l2"] {
        place.run(&[metric, "create", "--vectors", "2", "--metric", metric]).code(0);
        for (vector, word) in [
            (vec![f32::NAN, 1.0], "NaN"),
            (vec![1.0, f32::INFINITY], "inf"),
            (vec![f32::NEG_INFINITY, 1.0], "inf"),
            (vec![f32::MAX, f32::MAX], "norm"),
        ] {
            place.write_npy("bad.npy", &[vec![1.0, 1.0], vector]);
            place.run(&[metric, "import", "bad.npy"]).code(1).says(&["bad.npy", "row 1", word]);
            place.run(&[metric, "knn", "--queries", "bad.npy"]).code(1).says(&["query 1", word]);
        }
        place.run(&[metric, "add", "--id", "x", "--vector", "[1e39, 1]"]).code(1);
        place.run(&[metric, "add", "--id", "x", "--vector", "[NaN, 1]"]).code(1);
        assert_eq!(place.count(metric), 0);
        place.write_npy("zero.npy", &[vec![0.0, 0.0]]);
        let code = if metric == "cosine" { 1 } else { 0 };
        place.run(&[metric, "import", "zero.npy"]).code(code);
        place.run(&[metric, "knn", "--queries", "zero.npy"]).code(code);
    }
}

/// 5,000 rows with a graph, and how a search of them answers.
fn with_graph() -> (Place, Vec<&'static str>) {
    let place = Place::new();
    let rows = random_rows(5_000, 16, 7);
    place.write_npy("v.npy", &rows);
    place.write_npy("q.npy", &rows[..20]);
    place.run(&["v", "import", "v.npy", "--quiet"]).code(0);
    place.run(&["v", "compact", "--quiet"]).code(0);
    (place, vec!["v", "knn", "--queries", "q.npy", "--out", "ids.npy"])
}

#[test]
fn numbers_of_hits_and_widths() {
    let (place, search) = with_graph();
    let run = |args: &[&str]| place.run(&[&search, args].concat());
    run(&["-k", "0"]).code(1).says(&["-k 0"]);
    run(&["-k", "-1"]).code(1);
    run(&["-k", "10001"]).code(5).says(&["10000"]);
    run(&["--ef", "0"]).code(1).says(&["ef"]);
    run(&["--ef", "-3"]).code(1);
    run(&["--dim", "0"]).code(1).says(&["dim"]);
    run(&["--dim", "17"]).code(1).says(&["17"]);
    run(&["--dim", "15"]).code(0);
    run(&["--target-recall", "0"]).code(1);
    run(&["--target-recall", "1.5"]).code(1);
    // A beam narrower than k still gives k hits, and k may be all rows and more.
    for (k, ef, found) in [("100", "1", 100), ("10000", "5", 5_000), ("5000", "100000", 5_000)] {
        run(&["-k", k, "--ef", ef]).code(0);
        let width: usize = k.parse().unwrap();
        let bytes = fs::read(place.path("ids.npy")).unwrap();
        let values = bytes[bytes.len() - 20 * width * 8..].as_chunks::<8>().0;
        for row in values.chunks(width) {
            let mut ids: Vec<i64> = row.iter().map(|&id| i64::from_le_bytes(id)).collect();
            assert!(ids[found..].iter().all(|&id| id == -1), "k {k}, ef {ef}");
            ids.truncate(found);
            ids.sort_unstable();
            ids.dedup();
            assert!(ids.len() == found && ids[0] >= 0, "k {k}, ef {ef}: {} ids", ids.len());
        }
    }
    place.write_npy("other.npy", &[vec![1.0; 15], vec![1.0; 15]]);
    place.run(&["v", "knn", "--queries", "other.npy"]).code(1).says(&["other.npy", "15", "16"]);
    place.run(&["v", "import", "other.npy"]).code(1).says(&["other.npy", "15", "16"]);
}

#[test]
fn a_filter_on_a_key_that_no_document_has() {
    let (place, search) = with_graph();
    for (expression, matching) in
        [("nothing = 1", 0), ("nothing IS NULL", 5_000), ("NOT nothing IN (1, 2)", 0)]
    {
        let count = place.json(&["v", "count", "--where", expression])["count"].as_u64().unwrap();
        place.run(&[&search[..], &["-k", "3", "--where", expression]].concat()).code(0);
        let bytes = fs::read(place.path("ids.npy")).unwrap();
        let first = i64::from_le_bytes(bytes[bytes.len() - 20 * 3 * 8..][..8].try_into().unwrap());
        assert_eq!((count, first >= 0), (matching, matching > 0), "{expression}");
    }
    place.run(&[&search[..], &["--where", "= 3"]].concat()).code(1).says(&["column"]);
}

/// A file of vectors that ends too early holds no vectors.
#[test]
fn files_of_vectors_cut_short() {
    let place = Place::new();
    place.write_npy("whole.npy", &vectors(3));
    let npy = fs::read(place.path("whole.npy")).unwrap();
    let fvecs: Vec<u8> =
        (0..3).flat_map(|n| [4i32.to_le_bytes(), [0, 0, n, 64], [1; 4], [2; 4], [3; 4]].concat()).collect();
    place.run(&["v", "create", "--vectors", "4"]).code(0);
    for (name, whole, cuts) in [
        ("cut.npy", &npy, vec![0, 1, 6, 8, 9, 10, 60, 127, 128, 129, npy.len() - 1]),
        ("cut.fvecs", &fvecs, vec![1, 3, 4, 5, 19, 21, 24, fvecs.len() - 1]),
    ] {
        for cut in cuts {
            place.write(name, &whole[..cut]);
            for command in [&["import", name][..], &["knn", "--queries", name]] {
                place.run(&[&["v"], command].concat()).code(1).says(&[name]);
            }
        }
    }
    let header = |descr: &str, fortran: &str, shape: &str| {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    };
    for (text, word) in [
        (header("<i8", "False", "(1, 4)"), "<i8"),
        (header(">f4", "False", "(1, 4)"), ">f4"),
        (header("|O", "False", "(1, 4)"), "|O"),
        (header("<f4", "True", "(2, 2)"), "Fortran"),
        (header("<f4", "False", "(4,)"), "1 dimensions"),
        (header("<f4", "False", "(2, 2, 1)"), "3 dimensions"),
    ] {
        let length = (text.len() as u16).to_le_bytes();
        place.write("odd.npy", [b"\x93NUMPY\x01\x00", &length[..], text.as_bytes(), &[0; 16]].concat());
        for command in [&["import", "odd.npy"][..], &["knn", "--queries", "odd.npy"]] {
            place.run(&[&["v"], command].concat()).code(1).says(&["odd.npy", word]);
        }
    }
    assert_eq!(place.count("v"), 0);
}

/// Files of the segment, the names of which say what is in them.
fn segment_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { segment_files(&path, found) } else { found.push(path) }
    }
}

/// A search over damaged files fails as corrupt or answers as before; `check` sees all damage.
#[test]
fn damaged_segments_are_noticed() {
    let (place, search) = with_graph();
    let answer = |run: i32| (run == 0).then(|| fs::read(place.path("ids.npy")).unwrap());
    let before = answer(place.run(&search).code(0).code).unwrap();
    let mut files = Vec::new();
    segment_files(&place.path("v/seg"), &mut files);
    let names: Vec<_> = files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
    for name in ["codes", "full", "graph", "ids"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    for file in &files {
        let whole = fs::read(file).unwrap();
        let zeroed = |from: usize, to: usize| {
            let mut bytes = whole.clone();
            bytes[from.min(whole.len())..to.min(whole.len())].fill(0);
            bytes
        };
        let half = whole.len() / 2;
        let mut cases = vec![
            Vec::new(),
            whole[..1].to_vec(),
            whole[..half].to_vec(),
            whole[..whole.len() - 1].to_vec(),
            [whole.as_slice(), &[0; 8]].concat(),
            zeroed(0, 64),
            zeroed(64, 512),
            zeroed(half, half + 4096),
            zeroed(whole.len().saturating_sub(64), whole.len()),
            zeroed(0, whole.len()),
        ];
        cases.retain(|bytes| *bytes != whole);
        for (n, bytes) in cases.iter().enumerate() {
            fs::write(file, bytes).unwrap();
            let run = place.run(&search);
            assert!(
                run.code == 2 || answer(run.code).as_ref() == Some(&before),
                "{file:?} case {n}: {run:?}"
            );
            let check = place.run(&["v", "check", "--json"]).code(2).object();
            let problems: &Vec<Value> = check["problems"].as_array().unwrap();
            assert!(check["ok"] == json!(false) && !problems.is_empty(), "{file:?} case {n}: {check}");
        }
        fs::write(file, &whole).unwrap();
    }
    assert_eq!(place.json(&["v", "check"])["ok"], true);
}
