//! Files of encoders and generators. The families are the small ones of the encoder's own tests.

use embdb::Task;
use embdb::encoder::generator::gguf::Header;
use embdb::encoder::generator::{Generator, Sampling};
use embdb::encoder::{Encoder, ModelFiles};
use embdb::types::Precision;

use crate::patch::{Input, patched};

/// Names and bytes of the files of one encoder.
type Family = &'static [(&'static str, &'static [u8])];

macro_rules! fixture {
    ($path:expr) => {
        include_bytes!(concat!("../../../../tests/fixtures/", $path)).as_slice()
    };
}

macro_rules! family {
    ($name:literal: $($path:literal),+) => {
        &[$(($path, fixture!(concat!("encoder/families/", $name, "/", $path)))),+]
    };
}

/// Encoders, one of each kind.
pub const FAMILIES: [Family; 5] = [
    family!(
        "bge": "config.json", "tokenizer.json", "model.safetensors", "modules.json", "1_Pooling/config.json",
        "sentence_bert_config.json", "tokenizer_config.json", "config_sentence_transformers.json"
    ),
    family!(
        "qwen3": "config.json", "tokenizer.json", "model.safetensors", "modules.json", "1_Pooling/config.json",
        "sentence_bert_config.json", "tokenizer_config.json", "config_sentence_transformers.json"
    ),
    family!("static": "config.json", "tokenizer.json", "model.safetensors", "modules.json"),
    family!(
        "llama": "config.json", "tokenizer.json", "model.safetensors", "modules.json", "1_Pooling/config.json",
        "sentence_bert_config.json", "tokenizer_config.json"
    ),
    family!(
        "xlm-roberta": "config.json", "tokenizer.json", "model.safetensors", "modules.json", "1_Pooling/config.json",
        "sentence_bert_config.json", "tokenizer_config.json", "config_sentence_transformers.json"
    ),
];

const GENERATOR: &[u8] = fixture!("generator/tiny.gguf");

/// The encoder that a byte chooses.
pub fn family(byte: u8) -> Family {
    FAMILIES[usize::from(byte) % FAMILIES.len()]
}

/// Loads an encoder with a file replaced, and encodes if it loads.
fn load(family: Family, path: &str, replacement: Vec<u8>) {
    let mut files = ModelFiles::default();
    for (path, bytes) in family {
        files.insert(*path, *bytes);
    }
    files.insert(path, replacement);
    for precision in [Precision::F32, Precision::Int8] {
        if let Ok(encoder) = Encoder::from_files(files.clone(), precision) {
            let found = encoder.with_threads(1).encode(&["a short text", ""], &Task::default());
            assert!(found.is_err() || found.is_ok_and(|vectors| vectors.len() == 2 * encoder.dim()));
            encoder.chunks("a text of some words").ok();
        }
    }
}

/// An encoder with a patched file: which encoder, which file, patches.
pub fn model(data: &[u8]) {
    let mut input = Input::new(data);
    let family = family(input.byte());
    let (path, sound) = family[usize::from(input.byte()) % family.len()];
    load(family, path, patched(sound, &mut input));
}

/// A `config.json`: which encoder it comes with, then the file.
pub fn config(data: &[u8]) {
    let mut input = Input::new(data);
    load(family(input.byte()), "config.json", input.rest().to_vec());
}

/// A `tokenizer.json`: which encoder it comes with, then the file.
pub fn tokenizer(data: &[u8]) {
    let mut input = Input::new(data);
    load(family(input.byte()), "tokenizer.json", input.rest().to_vec());
}

/// The header of an encoder's weights.
pub fn weights_header(family: Family) -> (&'static [u8], &'static [u8]) {
    let found = family.iter().find(|(path, _)| *path == "model.safetensors");
    let (length, rest) = found.and_then(|(_, bytes)| bytes.split_first_chunk()).expect("weights");
    rest.split_at(u64::from_le_bytes(*length) as usize)
}

/// Weights with another header, whose length is put before it: which encoder, then the header.
pub fn safetensors(data: &[u8]) {
    let mut input = Input::new(data);
    let family = family(input.byte());
    let header = input.rest();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(weights_header(family).1);
    load(family, "model.safetensors", bytes);
}

/// A GGUF file: whole, or the small generator with patches, which loads and writes, or is refused.
pub fn gguf(data: &[u8]) {
    // Only the bytes themselves: what stands in a message is no concern.
    Header::read("file", data).ok();
    let bytes = patched(GENERATOR, &mut Input::new(data));
    if let Ok(generator) = Generator::from_bytes("file", bytes, None)
        && let Ok(beginning) = generator.begin("x", &[])
    {
        let sampling = Sampling { tokens: 2, ..Sampling::default() };
        beginning.answer("y", &sampling, || 0.5).ok();
    }
}
