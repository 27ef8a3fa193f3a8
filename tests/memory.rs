//! The bound on mapped memory, in a process of its own: what other tests map would be counted as well.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

use embdb::mmap::mapped_bytes;
use embdb::types::Document;
use embdb::{CreateOptions, Db, OpenOptions, SearchOptions, Task};

const DIM: u64 = 256;
const ROWS: u64 = 8000;

fn vector(seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..DIM).map(|_| next()).collect()
}

/// Searches for every fourth vector; returns the ids, and how many bytes were mapped after each search at most, beyond
/// what was before.
fn search(path: &std::path::Path, bound: Option<u64>) -> (Vec<String>, u64) {
    let before = mapped_bytes();
    let options = OpenOptions { background: false, mapped_bytes: bound, ..OpenOptions::default() };
    let db = Db::open_with(path, options).unwrap();
    let searcher = db.searcher(&SearchOptions { k: 3, ..SearchOptions::default() }).unwrap();
    let mut most = 0;
    let ids = (0..ROWS).step_by(4).flat_map(|row| {
        let found = searcher.search(&vector(row)).unwrap();
        most = most.max(mapped_bytes().saturating_sub(before));
        found.iter().map(|hit| hit.id.to_owned()).collect::<Vec<_>>()
    });
    (ids.collect(), most)
}

#[test]
fn searches_keep_to_the_bound_and_find_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let create = CreateOptions { vectors: Some(DIM as usize), ..CreateOptions::default() };
    let options = OpenOptions { create, background: false, ..OpenOptions::default() };
    let db = Db::open_with(&path, options).unwrap();
    db.add((0..ROWS).map(|row| Document::from_vector(row.to_string(), vector(row)))).unwrap();
    db.compact(&Task::default()).unwrap();
    drop(db);

    let (expected, free) = search(&path, None);
    assert!(free > 8 << 20, "without a bound most of the file is mapped: {free}");
    let bound = 2 << 20;
    let (found, most) = search(&path, Some(bound));
    assert_eq!(found, expected);
    // The ids of the hits are read after the bound was held.
    assert!(most < bound + (512 << 10), "{most}");
}
