//! Plain vectors: what builds graphs, files of queries, and the same answers on every processor.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::support::Place;

/// Rows that are all different, of `dim` values: splitmix64.
pub fn random_rows(rows: usize, dim: usize, mut seed: u64) -> Vec<Vec<f32>> {
    let mut value = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..rows).map(|_| (0..dim).map(|_| value()).collect()).collect()
}

/// The ids in an array that `knn --out` wrote, by row.
fn ids(path: &Path, k: usize) -> Vec<Vec<i64>> {
    let bytes = fs::read(path).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let (values, _) = bytes[header..].as_chunks::<8>();
    let values: Vec<i64> = values.iter().map(|&value| i64::from_le_bytes(value)).collect();
    values.chunks(k).map(<[i64]>::to_vec).collect()
}

#[test]
fn either_builder_makes_a_graph_that_is_searched_and_checked() {
    let place = Place::new();
    let rows = random_rows(5_000, 16, 1);
    place.write_npy("v.npy", &rows);
    place.write_npy("q.npy", &rows[..200]);
    for (name, flags) in [
        ("flat", &["--builder", "flat"][..]),
        ("hnsw_rs", &["--builder", "hnsw_rs"]),
        ("dense", &["--builder", "hnsw_rs", "--index", "dense"]),
    ] {
        let made = place.json(&[&[name, "create", "--vectors", "16"], flags].concat());
        let kind = if name == "dense" { "dense" } else { "fast" };
        assert_eq!((&made["builder"], &made["index"]), (&json!(flags[1]), &json!(kind)));
        place.run(&[name, "import", "v.npy", "--quiet"]).code(0);
        place.run(&[name, "compact", "--quiet"]).code(0);
        let info = place.json(&[name, "info"]);
        assert_eq!(
            (&info["builder"], &info["index"], &info["segments"]),
            (&json!(flags[1]), &json!(kind), &json!(1))
        );
        assert!(info["bytes"]["graphs"].as_u64().unwrap() > 5_000 * 4, "{info}");
        assert_eq!(place.json(&[name, "check"])["ok"], true);
        place.run(&[name, "knn", "--queries", "q.npy", "-k", "5", "--out", "ids.npy"]).code(0);
        let first: Vec<i64> = ids(&place.path("ids.npy"), 5).iter().map(|row| row[0]).collect();
        let own = (0..200).filter(|&n| first[n as usize] == n).count();
        assert!(own >= 198, "{name}: {own} of 200 rows found themselves");
    }
    place
        .run(&["x", "create", "--vectors", "16", "--builder", "other"])
        .code(1)
        .says(&["--builder", "hnsw_rs"]);
    assert!(!place.path("x").exists());
}

#[test]
fn plain_vectors_get_another_ladder_and_go_back() {
    let place = Place::new();
    let rows = random_rows(5_010, 16, 2);
    let as_json = |n: usize| json!({ "id": n.to_string(), "vector": rows[n] }).to_string();
    place.write_npy("v.npy", &rows[..5_000]);
    place.write_npy("q.npy", &rows[4_990..]);
    place.run(&["v", "create", "--vectors", "16"]).code(0);
    place.run(&["v", "import", "v.npy", "--quiet"]).code(0);
    place.run(&["v", "compact", "--quiet"]).code(0);
    let more = |from: usize| {
        place.write("more.jsonl", (from..from + 5).map(|n| as_json(n) + "\n").collect::<String>());
        place.run(&["v", "import", "more.jsonl", "--quiet"]).code(0);
    };
    let look = |generation: u32, dims: &[u32], count: usize| {
        let info = place.json(&["v", "info"]);
        let (active, ladder) = (&info["generation"], &info["dims"]);
        assert_eq!((active, ladder, &info["documents"]), (&json!(generation), &json!(dims), &json!(count)));
        place.run(&["v", "knn", "--queries", "q.npy", "-k", "1", "--out", "ids.npy"]).code(0);
        let found: Vec<i64> = ids(&place.path("ids.npy"), 1).iter().map(|row| row[0]).collect();
        let there = (4_990..5_010).take(count - 4_990);
        assert!(found.iter().copied().zip(there).all(|(found, n)| found == n), "{found:?}");
        place.run(&["v", "check", "--deep"]).code(0);
    };
    more(5_000);
    assert_eq!(place.json(&["v", "reindex", "--dims", "4,16"])["generation"], 2);
    look(2, &[4, 16], 5_005);
    // What came meanwhile the older generation gets too.
    more(5_005);
    assert_eq!(place.json(&["v", "rollback"])["generation"], 1);
    look(1, &[16], 5_010);
    place.run(&["v", "repair", "--out", "w", "--quiet"]).code(0);
    assert_eq!(place.count("w"), 5_010);
    place.run(&["v", "reindex", "--dims", "32"]).code(1).says(&["32", "16"]);
    place.run(&["v", "reindex", "--model", "m"]).code(1).says(&["plain vectors", "no encoder"]);
}

#[test]
fn generations_of_long_ago_are_forgotten_and_the_first_is_not() {
    let place = Place::with_vectors(20);
    let listed = || {
        let lines = place.run(&["v", "generations", "--json"]).code(0).out;
        let number =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["generation"].as_u64().unwrap();
        lines.lines().map(number).collect::<Vec<_>>()
    };
    (0..9).for_each(|_| drop(place.json(&["v", "reindex"])));
    assert_eq!(listed(), [1, 3, 4, 5, 6, 7, 8, 9, 10]);
    place.run(&["v", "rollback", "2"]).code(1).says(&["no generation 2"]);
    // What answers stays, and where it came from.
    assert_eq!(place.json(&["v", "rollback", "3"])["generation"], 3);
    (0..9).for_each(|_| drop(place.json(&["v", "reindex"])));
    assert_eq!(listed(), [1, 12, 13, 14, 15, 16, 17, 18, 19]);
    assert_eq!(place.json(&["v", "rollback", "1"])["documents"], 20);
    place.json(&["v", "reindex"]);
    assert_eq!(listed(), [1, 13, 14, 15, 16, 17, 18, 19, 20]);
    place.run(&["v", "check"]).code(0);
}

#[test]
fn queries_come_from_arrays_and_fvecs() {
    let place = Place::with_vectors(20);
    let rows = super::support::vectors(3);
    place.write_npy("q.npy", &rows);
    let fvecs = rows.iter().flat_map(|row| {
        4i32.to_le_bytes().into_iter().chain(row.iter().flat_map(|value| value.to_le_bytes()))
    });
    place.write("q.fvecs", fvecs.collect::<Vec<u8>>());
    for file in ["q.npy", "q.fvecs"] {
        let report = place.json(&["v", "knn", "--queries", file, "-k", "2", "--out", "ids.npy"]);
        assert_eq!(report["queries"], 3);
        let found = ids(&place.path("ids.npy"), 2);
        assert_eq!(found.iter().map(|row| row[0]).collect::<Vec<_>>(), [0, 1, 2], "{file}");
    }
    place.write("q.parquet", "no parquet");
    place.run(&["v", "knn", "--queries", "q.parquet"]).code(1).says(&["q.parquet", "Parquet"]);
    place.run(&["v", "import", "q.parquet"]).code(1).says(&["q.parquet", "Parquet"]);
    place.run(&["v", "knn", "--queries", "missing.parquet"]).code(1).says(&["no such file"]);
    place.write("none.fvecs", "");
    assert_eq!(place.json(&["v", "knn", "--queries", "none.fvecs"])["queries"], 0);
}

/// Integer sums do not depend on their order, so the answer is the same to the byte.
#[test]
fn codes_give_the_same_answer_on_every_instruction_set() {
    let place = Place::new();
    let mut rows = random_rows(6_000, 67, 2);
    for (n, row) in rows.iter_mut().enumerate() {
        // Norms from 0.05 to 20 times the usual one.
        let factor = [0.05, 1.0, 20.0][n % 3];
        row.iter_mut().for_each(|value| *value *= factor);
    }
    place.write_npy("v.npy", &rows);
    place.write_npy("q.npy", &random_rows(100, 67, 3));
    for metric in ["cosine", "dot", "l2"] {
        place.run(&[metric, "create", "--vectors", "67", "--metric", metric, "--codec", "int8"]).code(0);
        place.run(&[metric, "import", "v.npy", "--quiet"]).code(0);
        place.run(&[metric, "compact", "--quiet"]).code(0);
        for search in [&["--ef", "40"][..], &["--exact"], &["--dim", "64", "--ef", "64"]] {
            let answers = ["scalar", "avx2", "avx512"].map(|path| {
                let args = [&[metric, "knn", "--queries", "q.npy", "--out", "ids.npy"], search].concat();
                let output = place.command(&args).env("EMBDB_SIMD", path).output().unwrap();
                assert!(output.status.success(), "{output:?}");
                fs::read(place.path("ids.npy")).unwrap()
            });
            assert!(answers.iter().all(|answer| *answer == answers[0]), "{metric} {search:?}");
        }
    }
}

/// One processor without AVX, one with it alone (2012), one with AVX2 (2013): every command runs, and codes give the same answers.
#[test]
#[ignore = "needs qemu-x86_64 (Debian's qemu-user) and a minute"]
fn old_processors_run_the_program() {
    let place = Place::new();
    place.write_npy("v.npy", &random_rows(5_000, 40, 4));
    place.write_npy("q.npy", &random_rows(20, 40, 5));
    let run = |processor: &str, args: &[&str]| {
        let mut emulated = std::process::Command::new("qemu-x86_64");
        emulated.args(["-cpu", processor, env!("CARGO_BIN_EXE_embdb")]).args(args);
        let output = emulated.current_dir(place.path("")).output().unwrap();
        assert!(output.status.success(), "{processor} {args:?}: {output:?}");
    };
    let answers = ["Nehalem", "IvyBridge", "Haswell"].map(|processor| {
        for args in [
            &["create", "--vectors", "40", "--codec", "int8"][..],
            &["import", "v.npy"],
            &["compact"],
            &["knn", "--queries", "q.npy"],
            &["knn", "--queries", "q.npy", "--exact", "--out", "ids.npy"],
            &["count", "--where", "id = '7'"],
            &["check", "--deep"],
        ] {
            run(processor, &[&[processor], args].concat());
        }
        ids(&place.path("ids.npy"), 10)
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}
