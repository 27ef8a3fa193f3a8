//! Training pairs in JSONL.
#![no_main]

use embdb::trainer::data::read_pairs;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok((pairs, report)) = read_pairs(data, "file") {
        assert_eq!(report.pairs, pairs.len());
        assert_eq!(report.lines, report.pairs + report.duplicates);
    }
});
