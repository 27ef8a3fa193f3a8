//! Metadata columns: checked once, then every entry is read.
#![no_main]

use std::path::Path;

use embdb::format::attrs::AttrsView;
use embdb::storage::vfs::Bytes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::from(data);
    if let Ok(view) = AttrsView::access(&bytes, Path::new("attrs")) {
        for key in view.keys() {
            let column = view.column(key).expect("a listed key has a column");
            assert!(column.entries().map(|entry| entry.0).is_sorted());
        }
    }
});
