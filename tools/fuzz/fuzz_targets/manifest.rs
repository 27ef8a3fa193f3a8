//! Manifests: the body in a container that fits, and a container with repaired checksums.
#![no_main]

use std::path::Path;

use embdb::format::file::{FileBuilder, Kind};
use embdb::format::manifest::{BODY, Manifest};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = FileBuilder::new(Kind::Manifest, [0; 16]).section(BODY, data.to_vec()).finish();
    for bytes in [whole, embdb_fuzz::container(data, Kind::Manifest)] {
        if let Ok(manifest) = Manifest::parse(&bytes, 0, Path::new("manifest")) {
            let again = manifest.encode().expect("what was read can be written");
            assert_eq!(Manifest::parse(&again, 0, Path::new("manifest")).expect("and read again"), manifest);
        }
    }
});
