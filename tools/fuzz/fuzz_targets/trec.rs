//! TREC runs: each document once, in an order that reading its own lines again keeps.
#![no_main]

use embdb::trainer::trec::read_run;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(run) = read_run(data, "file") else { return };
    let mut lines = String::new();
    for (query, ids) in &run {
        assert!(!ids.is_empty());
        for (at, id) in ids.iter().enumerate() {
            lines.push_str(&format!("{query} Q0 {id} {at} -{at} fuzz\n"));
        }
    }
    assert_eq!(read_run(lines.as_bytes(), "file").expect("what was written can be read"), run);
});
