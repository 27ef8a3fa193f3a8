//! A model folder with one file of it replaced: it loads and encodes, or is refused.
#![no_main]

use embdb::Task;
use embdb::encoder::{Encoder, ModelFiles};
use embdb::types::Precision;

macro_rules! tiny {
    ($($path:literal),+) => {
        [$(($path, include_bytes!(concat!("../../../tests/fixtures/encoder/tiny-bert/", $path)).as_slice())),+]
    };
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
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
