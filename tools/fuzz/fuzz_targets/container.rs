//! Containers: as given, and with repaired checksums.
#![no_main]

use std::path::Path;

use embdb::format::file::{Kind, Layout};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = Path::new("file");
    for bytes in [data.to_vec(), embdb_fuzz::container(data, Kind::Docs)] {
        if let Ok(layout) = Layout::parse(&bytes, Kind::Docs, path) {
            layout.verify(&bytes, 0, usize::MAX, path).ok();
            for id in 0..16 {
                layout.section(id).map(|range| assert!(bytes.get(range).is_some()));
            }
        }
    }
});
