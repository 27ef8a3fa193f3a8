//! Logs: the header, and frames as given and with repaired checksums.
#![no_main]

use std::path::Path;

use embdb::format::frame::LogHeader;
use embdb::format::scan::scan;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = Path::new("log");
    LogHeader::parse(data, path).ok();
    LogHeader::parse(&embdb_fuzz::log_header(data), path).ok();
    for bytes in [data.to_vec(), embdb_fuzz::frames(data, 64, 7)] {
        let found = scan(&bytes, 64, 7, path, |batch| {
            assert!(batch.iter().all(|frame| frame.end <= 64 + bytes.len() as u64));
            Ok(())
        });
        assert!(found.is_err() || found.is_ok_and(|scan| scan.end <= 64 + bytes.len() as u64));
    }
});
