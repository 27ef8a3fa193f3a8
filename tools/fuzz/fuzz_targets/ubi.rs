//! The log of searches and clicks as UBI lines: what is read survives being written and read again.
#![no_main]

use embdb::db::ubi;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(records) = ubi::read(data, "file") {
        let mut lines = Vec::new();
        ubi::write(&records.events, &mut lines).expect("memory takes all");
        let again = ubi::read(lines.as_slice(), "file").expect("what was written can be read");
        assert_eq!(again.events.len(), records.events.len());
    }
});
