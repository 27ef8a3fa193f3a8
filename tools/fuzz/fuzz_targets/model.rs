//! A model folder with one file of it replaced: it loads and encodes, or is refused.
//!
//! The tokenizers crate panics at hostile files, which the encoder catches and turns into an error. libFuzzer's hook would
//! end the process at the panic itself, so it is replaced; a panic that nobody catches still ends it.
#![no_main]

use std::panic::{self, PanicHookInfo};

use embdb::Task;
use embdb::encoder::{Encoder, ModelFiles};
use embdb::types::Precision;

macro_rules! tiny {
    ($($path:literal),+) => {
        [$(($path, include_bytes!(concat!("../../../tests/fixtures/encoder/tiny-bert/", $path)).as_slice())),+]
    };
}

fn catchable(info: &PanicHookInfo<'_>) {
    if !info.location().is_some_and(|at| at.file().contains("/tokenizers-")) {
        eprintln!("{info}");
    }
}

libfuzzer_sys::fuzz_target!(init: panic::set_hook(Box::new(catchable)), |data: &[u8]| {
    let fixture = tiny![
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "tokenizer_config.json"
    ];
    let Some((&which, replacement)) = data.split_first() else { return };
    let mut files = ModelFiles::default();
    for (path, bytes) in fixture {
        files.insert(path, bytes.to_vec());
    }
    files.insert(fixture[which as usize % fixture.len()].0, replacement.to_vec());
    if let Ok(encoder) = Encoder::from_files(files, Precision::F32) {
        encoder.encode(&["a short text"], &Task::default()).ok();
    }
});
