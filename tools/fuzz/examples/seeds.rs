//! Writes the sound inputs of each target to FOLDER/TARGET/, where fuzzers begin:
//!
//! cargo run -p embdb-fuzz --example seeds FOLDER

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use embdb_fuzz::seeds;
use embdb_fuzz::targets::TARGETS;

fn main() {
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap());
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for (at, data) in seeds::of(target.name).into_iter().enumerate() {
            fs::write(folder.join(format!("sound-{at:02}")), data).unwrap();
        }
    }
}
