//! Every family of models against the Python libraries that define it.
//!
//! `tools/family_models.py` made the models (the real architectures, small, with random weights) and their vectors.

#![cfg(feature = "encoder")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use embdb::Error;
use embdb::encoder::{Encoder, ModelFiles, Role};
use embdb::options::Task;
use embdb::types::Precision;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder/families").join(name)
}

fn load(name: &str, precision: Precision) -> Encoder {
    Encoder::from_files(ModelFiles::read_dir(folder(name)).unwrap(), precision).unwrap()
}

/// The texts that the references were made of.
fn texts() -> Vec<String> {
    let file = std::fs::read_to_string(folder("../texts.jsonl")).unwrap();
    let text = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].clone();
    file.lines().step_by(4).map(|line| text(line).as_str().unwrap().to_string()).collect()
}

/// Values of a matrix of little-endian f32 in numpy's format: magic, version, header length, header, data.
fn expected(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder(&format!("{name}.npy"))).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    // A vector of zeros, of a text without tokens, is only like itself.
    if a == b { 1.0 } else { dot(a, b) / (dot(a, a) * dot(b, b)).sqrt() }
}

/// Vectors of the texts: as queries, then as documents.
fn vectors(encoder: &Encoder, texts: &[&str]) -> Vec<f32> {
    let mut vectors = encoder.encode_queries(texts, &Task::default()).unwrap();
    vectors.extend(encoder.encode(texts, &Task::default()).unwrap());
    vectors
}

/// Cosines of the rows of two matrices.
fn cosines(left: &[f32], right: &[f32], dim: usize) -> Vec<f64> {
    assert_eq!(left.len(), right.len());
    left.chunks(dim).zip(right.chunks(dim)).map(|(a, b)| cosine(a, b)).collect()
}

fn smallest(cosines: &[f64]) -> f64 {
    cosines.iter().fold(1.0, |least, &cosine| if cosine < least || cosine.is_nan() { cosine } else { least })
}

/// Models with transformers that can be trained.
const BERTS: [&str; 2] = ["bge", "unpooled-prompt"];

/// All models.
const ALL: [&str; 2] = BERTS;

#[test]
fn every_family_agrees_with_its_reference() {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for name in ALL {
        let encoder = load(name, Precision::F32);
        let exact = vectors(&encoder, &texts);
        let to_reference = cosines(&exact, &expected(name), encoder.dim());
        assert_eq!(to_reference.len(), 2 * texts.len(), "{name}");
        let coarse = cosines(&vectors(&load(name, Precision::Int8), &texts), &exact, encoder.dim());
        let (least, least_coarse) = (smallest(&to_reference), smallest(&coarse));
        println!("{name}: smallest cosine to the reference {least:.8}, of int8 to f32 {least_coarse:.5}");
        assert!(least >= 0.9999, "{name}: {to_reference:?}");
        let lengths = exact.chunks(encoder.dim()).map(|v| cosine_norm(v));
        if encoder.normalizes() {
            assert!(lengths.clone().all(|length| length == 0.0 || (length - 1.0).abs() < 1e-3), "{name}");
        }
        // Models this small lose more than those that are used: a rounded value is one of 24.
        let mean = coarse.iter().sum::<f64>() / coarse.len() as f64;
        assert!(mean >= 0.995 && least_coarse >= 0.95, "{name}: {mean}, {least_coarse}");
    }
}

fn cosine_norm(v: &[f32]) -> f64 {
    v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn texts_beside_one_another_change_no_bit() {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for name in ALL {
        for precision in [Precision::F32, Precision::Int8] {
            let encoder = load(name, precision);
            let together = encoder.encode(&texts, &Task::default()).unwrap();
            let alone: Vec<f32> =
                texts.iter().flat_map(|text| encoder.encode(&[text], &Task::default()).unwrap()).collect();
            assert_eq!(together, alone, "{name}, {precision:?}");
        }
    }
}

#[test]
fn an_exported_model_is_the_same_and_takes_its_adapter_along() {
    let words = ["The ferry measures the tides before sunrise.", "Why?", ""];
    for name in ALL {
        let plain = load(name, Precision::F32);
        let dim = plain.dim();
        let map = (0..dim * dim).map(|i| if i / dim == i % dim { 1.0 } else { (i * 31 % 17) as f32 / 99.0 });
        let adapted = plain.with_adapter(map.collect()).unwrap();
        for encoder in [plain, adapted] {
            let target = tempfile::tempdir().unwrap();
            encoder.export(target.path()).unwrap();
            let again =
                Encoder::from_files(ModelFiles::read_dir(target.path()).unwrap(), Precision::F32).unwrap();
            let (left, right) = (vectors(&again, &words), vectors(&encoder, &words));
            assert!(smallest(&cosines(&left, &right, dim)) > 0.999_999, "{name}");
        }
    }
}

#[test]
fn chunks_leave_room_for_the_prompt() {
    let mut files = ModelFiles::read_dir(folder("bge")).unwrap();
    let text = "the choir of the village closes the price of wool ".repeat(20);
    let room = |files: &ModelFiles| {
        let encoder = Encoder::from_files(files.clone(), Precision::F32).unwrap();
        let longest = encoder.chunks(&text).unwrap().into_iter().map(|chunk| &text[chunk]);
        let longest = longest.map(|chunk| encoder.count_tokens(chunk).unwrap()).max().unwrap();
        (longest, encoder.count_tokens(encoder.prompt(Role::Document)).unwrap())
    };
    let (without, none) = room(&files);
    assert_eq!(none, 0);
    files.set_prompts(None, Some("one two three four five six seven eight nine ten: ")).unwrap();
    let (with, prompt) = room(&files);
    assert!(prompt >= 10 && with + prompt <= 70 && with < without, "{without}, {with}, {prompt}");
    files.set_prompts(None, Some(&"the tides ".repeat(72))).unwrap();
    let refused = Encoder::from_files(files, Precision::F32).unwrap_err();
    assert!(refused.to_string().contains("leaves no room"), "{refused}");
}

#[test]
fn what_cannot_be_trained_says_so_and_takes_an_adapter() {
    for name in ALL.into_iter().filter(|name| !BERTS.contains(name) || *name == "unpooled-prompt") {
        let encoder = load(name, Precision::F32);
        let errors =
            [encoder.check_trainable(), encoder.trainable().map(drop), encoder.trainable_top(1).map(drop)];
        for error in errors.map(Result::unwrap_err) {
            assert!(matches!(&error, Error::Input(what) if what.contains("adapter")), "{name}: {error}");
        }
    }
}

/// The trainable copy reads texts as they are; prompts come from the caller.
#[test]
fn trainable_copies_agree_with_their_models() {
    let words =
        ["The ferry measures the tides before sunrise.", "Why?", "snow on the pass and a list of names"];
    for name in BERTS.into_iter().filter(|name| *name != "unpooled-prompt") {
        let mut files = ModelFiles::read_dir(folder(name)).unwrap();
        files.set_prompts(Some(""), Some("")).unwrap();
        let encoder = Encoder::from_files(files, Precision::F32).unwrap();
        let model = encoder.trainable().unwrap();
        let vectors = model.embed(&words).unwrap();
        let values: Vec<f32> = vectors.flatten_all().unwrap().to_vec1().unwrap();
        let before = encoder.encode(&words, &Task::default()).unwrap();
        assert!(smallest(&cosines(&values, &before, encoder.dim())) > 0.999_99, "{name}");

        let weights: Vec<f32> = (0..values.len()).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let weights = candle_core::Tensor::from_vec(weights, vectors.dims(), vectors.device()).unwrap();
        let gradients = (vectors * weights).unwrap().sum_all().unwrap().backward().unwrap();
        for (variable, tensor) in model.variables() {
            let gradient = gradients.get(&tensor).unwrap_or_else(|| panic!("{name}: {variable} has none"));
            let values: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            let largest = values.iter().fold(0f32, |most, g| most.max(g.abs()));
            assert!(
                largest.is_finite() && (variable.ends_with("key.bias") || largest > 1e-6),
                "{name}: {variable}"
            );
        }
        let again = Encoder::from_files(model.to_files().unwrap(), Precision::F32).unwrap();
        assert_eq!(again.encode(&words, &Task::default()).unwrap(), before, "{name}");
    }
}
