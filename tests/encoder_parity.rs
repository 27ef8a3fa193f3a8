//! The encoder against sentence-transformers, and what it promises beyond: gradients, adapters,
//! export, refusal of damaged models.
//!
//! `tools/reference_vectors.py` made the fixtures. The tiny model is tested everywhere; MiniLM where
//! EMBDB_TEST_MINILM names its folder (see `tools/fetch-minilm.sh`).

#![cfg(feature = "encoder")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use embdb::Error;
use embdb::encoder::{
    Encoder, Gradient, ModelFiles, Parameter, PrepareLimits, PreparedTexts, Role, TrainOptions,
    TrainableEncoder,
};
use embdb::options::Task;
use embdb::types::Precision;

const COSINE_LEAST: f64 = 0.9999;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder")
}

fn texts() -> Vec<String> {
    let file = std::fs::read_to_string(fixtures().join("texts.jsonl")).unwrap();
    let text = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].clone();
    file.lines().map(|line| text(line).as_str().unwrap().to_string()).collect()
}

/// A matrix of little-endian f32 in numpy's format: magic, version, header length, header, data.
fn read_npy(name: &str) -> (usize, Vec<f32>) {
    let bytes = std::fs::read(fixtures().join(format!("{name}.npy"))).unwrap();
    let header_length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_length]).unwrap();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
    let columns = header.split(", ").nth(3).unwrap().trim_matches(|c: char| !c.is_ascii_digit());
    let data = bytes[10 + header_length..].as_chunks().0;
    (columns.parse().unwrap(), data.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

/// The tiny model with the files of a variant laid over it.
fn tiny_files(variant: &str) -> ModelFiles {
    let mut files = ModelFiles::read_dir(fixtures().join("tiny-bert")).unwrap();
    let root = fixtures().join(variant);
    for entry in std::fs::read_dir(&root).unwrap().map(Result::unwrap) {
        let folder = entry.path();
        if folder.is_dir() {
            for file in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                let path = file.path();
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_string();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files.insert("modules.json", std::fs::read(root.join("modules.json")).unwrap());
    files
}

fn tiny(variant: &str) -> Encoder {
    Encoder::from_files(tiny_files(variant), Precision::F32).unwrap()
}

fn encode(encoder: &Encoder, texts: &[&str]) -> Vec<f32> {
    encoder.encode(texts, &Task::default()).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Asserts that two sets of vectors agree in direction and length; returns the smallest cosine.
fn assert_agree(left: &[f32], right: &[f32], dim: usize, least: f64) -> f64 {
    assert_eq!(left.len(), right.len());
    let mut smallest = f64::INFINITY;
    for (row, (a, b)) in left.chunks(dim).zip(right.chunks(dim)).enumerate() {
        let similarity = cosine(a, b);
        assert!(similarity >= least, "text {row}: cosine {similarity}");
        let (a, b) = (cosine_norm(a), cosine_norm(b));
        assert!((a / b - 1.0).abs() < 1e-3, "text {row}: lengths {a} and {b}");
        smallest = smallest.min(similarity);
    }
    smallest
}

fn cosine_norm(v: &[f32]) -> f64 {
    v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

fn assert_parity(name: &str, encoder: &Encoder) {
    let (dim, expected) = read_npy(name);
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!((encoder.dim(), texts.len()), (dim, 200));

    let batched = encode(encoder, &texts);
    let to_reference = assert_agree(&batched, &expected, dim, COSINE_LEAST);
    let single: Vec<f32> = texts.iter().flat_map(|text| encode(encoder, &[text])).collect();
    let single_to_reference = assert_agree(&single, &expected, dim, COSINE_LEAST);
    let to_single = assert_agree(&batched, &single, dim, 0.99999);
    println!(
        "{name}: smallest cosine to the reference {to_reference:.8} batched, \
         {single_to_reference:.8} single; batched to single {to_single:.8}"
    );
    assert_eq!(batched, encode(encoder, &texts), "the same call gives the same bits");
}

#[test]
fn the_tiny_model_and_its_variants_agree_with_the_reference() {
    for variant in ["tiny-bert", "tiny-cls", "tiny-max", "tiny-dense"] {
        let encoder = tiny(variant);
        assert_eq!(encoder.normalizes(), variant != "tiny-cls");
        assert_eq!(encoder.max_tokens(), 48);
        assert_parity(variant, &encoder);
    }
}

#[test]
fn the_number_of_threads_changes_no_vector() {
    let texts: Vec<String> =
        (0..300).map(|n| format!("text number {n} {}", "and more ".repeat(n % 9))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let encoder = tiny("tiny-bert");
    let expected = encode(&encoder, &texts);
    for threads in [1, 2, 5] {
        assert_eq!(encode(&encoder.with_threads(threads), &texts), expected, "{threads} threads");
    }
}

#[test]
fn minilm_agrees_with_the_reference() {
    let Some(folder) = std::env::var_os("EMBDB_TEST_MINILM") else {
        println!("skipped: EMBDB_TEST_MINILM does not name a folder with MiniLM");
        return;
    };
    let encoder = Encoder::from_files(ModelFiles::read_dir(folder).unwrap(), Precision::F32).unwrap();
    assert_eq!((encoder.dim(), encoder.max_tokens(), encoder.normalizes()), (384, 256, true));
    assert_parity("minilm", &encoder);
}

#[test]
fn int8_gives_one_text_one_vector_whatever_is_encoded_with_it() {
    let encoder = Encoder::from_files(tiny_files("tiny-bert"), Precision::Int8).unwrap();
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = encode(&encoder, &texts);
    let single: Vec<f32> = texts.iter().flat_map(|text| encode(&encoder, &[text])).collect();
    assert_eq!(together, single);
    assert_eq!(together, encode(&encoder.with_threads(2), &texts));
}

#[test]
fn minilm_bears_int8() {
    let Some(folder) = std::env::var_os("EMBDB_TEST_MINILM") else {
        println!("skipped: EMBDB_TEST_MINILM does not name a folder with MiniLM");
        return;
    };
    let encoder = Encoder::with_precision(ModelFiles::read_dir(folder).unwrap(), None).unwrap();
    assert_eq!(encoder.precision(), Precision::Int8);
    let (dim, expected) = read_npy("minilm");
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let vectors = encode(&encoder, &texts);
    // Among the texts are empty ones, whose vectors turn the furthest.
    let smallest = assert_agree(&vectors, &expected, dim, 0.99);
    let cosines = vectors.chunks(dim).zip(expected.chunks(dim)).map(|(a, b)| cosine(a, b));
    let mean = cosines.sum::<f64>() / texts.len() as f64;
    println!("minilm in int8: smallest cosine to the reference {smallest:.5}, mean {mean:.5}");
    assert!(mean > 0.997, "{mean}");
}

/// The derivative of a loss that weighs every value of the vectors differently.
fn slope(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
}

fn loss(vectors: &[f32]) -> f64 {
    vectors.iter().zip(slope(vectors.len())).map(|(v, s)| f64::from(*v) * f64::from(s)).sum()
}

/// Gradients of that loss for these texts, which are made ready first.
fn learn(model: &mut TrainableEncoder, texts: &PreparedTexts, numbers: &[usize]) {
    model.parameters_mut().clear();
    let (vectors, tape) = model.forward(texts, numbers).unwrap();
    model.backward(tape, &slope(vectors.len())).unwrap();
}

fn ready(model: &TrainableEncoder, texts: &[&str]) -> PreparedTexts {
    model.prepare(texts, &PrepareLimits::default(), &Task::default()).unwrap()
}

fn everything() -> TrainOptions {
    TrainOptions::default()
}

fn topmost(layers: usize) -> TrainOptions {
    TrainOptions { top: Some(layers), ..TrainOptions::default() }
}

/// The largest number of a gradient, all of which must be finite.
fn steepest(parameter: &Parameter) -> f32 {
    assert!(parameter.gradient.values().iter().all(|g| g.is_finite()), "{}", parameter.name);
    parameter.gradient.values().iter().fold(0f32, |most, g| most.max(g.abs()))
}

const TRAINING_TEXTS: [&str; 3] =
    ["The ferry measures the tides before sunrise.", "Why?", "snow on the pass and a list of names"];

#[test]
fn every_parameter_gets_its_gradient() {
    for variant in ["tiny-bert", "tiny-cls", "tiny-max", "tiny-dense"] {
        let mut model = tiny(variant).trainable(&everything()).unwrap();
        let texts = ready(&model, &TRAINING_TEXTS);
        learn(&mut model, &texts, &[0, 1, 2]);
        assert!(model.parameters().learning().count() >= 5 + 2 * 16);
        for parameter in model.parameters().iter() {
            // A key's bias adds the same to all scores of a query, which softmax takes away again.
            let steepest = steepest(parameter);
            assert!(
                parameter.name.ends_with("key.bias") || steepest > 1e-6,
                "{variant}: {}: {steepest}",
                parameter.name
            );
        }
    }
}

#[test]
fn only_the_upper_layers_get_gradients() {
    let encoder = tiny("tiny-dense");
    let layers = encoder.layers();
    for top in [0, 1, layers, layers + 1] {
        let mut model = encoder.trainable(&topmost(top)).unwrap();
        let texts = ready(&model, &TRAINING_TEXTS);
        assert_eq!(texts.kept(), if top < layers { TRAINING_TEXTS.len() } else { 0 });
        learn(&mut model, &texts, &[2, 0, 1, 2]);
        let learning: Vec<&Parameter> = model.parameters().learning().collect();
        let layer = |parameter: &&Parameter| {
            parameter.name.strip_prefix("encoder.layer.")?.split('.').next()?.parse::<usize>().ok()
        };
        let trained: std::collections::BTreeSet<usize> = learning.iter().filter_map(layer).collect();
        assert!(trained.into_iter().eq(layers.saturating_sub(top)..layers), "{top}");
        assert!(learning.iter().all(|parameter| !parameter.name.starts_with("embeddings.")));
        assert!(learning.iter().any(|parameter| parameter.name == "3_Dense/linear.weight"));
        for parameter in learning {
            let steepest = steepest(parameter);
            assert!(
                parameter.name.ends_with("key.bias") || steepest > 1e-6,
                "{}: {steepest}",
                parameter.name
            );
        }
    }
}

#[test]
fn prepared_texts_give_the_vectors_of_the_encoder() {
    let encoder = tiny("tiny-cls");
    let dim = encoder.dim();
    // Long and short, so that several groups are computed.
    let texts: Vec<String> = (0..60).map(|i| "the list of names ".repeat(1 + i * 7 % 12)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let numbers: Vec<usize> = (0..60).map(|i| i * 17 % 60).collect();
    let mixed: Vec<&str> = numbers.iter().map(|&number| texts[number]).collect();
    let expected = encode(&encoder, &mixed);
    let model = encoder.trainable(&topmost(1)).unwrap();
    for bytes in [1 << 20, 60_000, 0] {
        let limits = PrepareLimits { bytes, ..PrepareLimits::default() };
        let ready = model.prepare(&texts, &limits, &Task::default()).unwrap();
        assert_eq!(ready.kept() == 60, bytes == 1 << 20, "{}", ready.kept());
        let vectors = model.embed_prepared(&ready, &numbers).unwrap();
        assert_agree(&vectors, &expected, dim, 0.9999);
    }
    assert!(
        model
            .embed_prepared(
                &model.prepare(&texts, &PrepareLimits::default(), &Task::default()).unwrap(),
                &[60]
            )
            .is_err()
    );

    let whole = encode(&encoder, &["snow on the pass"]);
    let cut = |tokens| {
        let limits = PrepareLimits { tokens, ..PrepareLimits::default() };
        let ready =
            model.prepare(&["snow on the pass and a list of names"], &limits, &Task::default()).unwrap();
        model.embed_prepared(&ready, &[0]).unwrap()
    };
    let most = encoder.count_tokens("snow on the pass").unwrap() + 2;
    assert_agree(&cut(most), &whole, dim, 0.9999);
}

#[test]
fn fixed_layers_are_written_as_they_were() {
    let encoder = tiny("tiny-dense");
    let model = encoder.trainable(&topmost(1)).unwrap();
    let again = Encoder::from_files(model.to_files().unwrap(), Precision::F32).unwrap();
    assert_eq!(encode(&again, &TRAINING_TEXTS), encode(&encoder, &TRAINING_TEXTS));
}

#[test]
fn gradients_equal_finite_differences() {
    for variant in ["tiny-dense", "tiny-cls"] {
        let mut model = tiny(variant).trainable(&everything()).unwrap();
        let texts = ready(&model, &TRAINING_TEXTS);
        learn(&mut model, &texts, &[0, 1, 2]);
        for number in 0..model.parameters().iter().count() {
            let parameter = model.parameters().iter().nth(number).unwrap();
            let name = parameter.name.clone();
            let (at, expected) = match &parameter.gradient {
                Gradient::Rows(rows) => {
                    let row = rows.rows()[0] as usize;
                    (row * rows.width() + 1, rows.row(row).unwrap()[1])
                }
                // Where the slope is steepest, so that it stands out of the rounding.
                gradient => gradient
                    .values()
                    .iter()
                    .copied()
                    .enumerate()
                    .fold((0, 0f32), |most, (at, g)| if g.abs() > most.1.abs() { (at, g) } else { most }),
            };
            let mut moved = |step: f32| {
                let values = &mut model.parameters_mut().iter_mut().nth(number).unwrap().values;
                let before = values[at];
                values[at] += step;
                model.changed().unwrap();
                let loss = loss(&model.embed_prepared(&texts, &[0, 1, 2]).unwrap());
                model.parameters_mut().iter_mut().nth(number).unwrap().values[at] = before;
                model.changed().unwrap();
                loss
            };
            let measured = (moved(2e-3) - moved(-2e-3)) / 4e-3;
            let expected = f64::from(expected);
            assert!(
                (measured - expected).abs() < 0.02 * expected.abs() + 5e-3,
                "{variant}: {name}: {measured}, {expected}"
            );
        }
    }
}

#[test]
fn the_trainable_copy_gives_the_same_vectors_and_files() {
    let encoder = tiny("tiny-cls");
    let mut model = encoder.trainable(&everything()).unwrap();
    let trained = model.embed(&TRAINING_TEXTS).unwrap();
    let before = encode(&encoder, &TRAINING_TEXTS);
    assert_agree(&trained, &before, encoder.dim(), 0.999999);

    let files = model.to_files().unwrap();
    let again = Encoder::from_files(files, Precision::F32).unwrap();
    assert_eq!(encode(&again, &TRAINING_TEXTS), before);

    let words = model.parameters_mut().get_mut("embeddings.word_embeddings.weight").unwrap();
    words.values.iter_mut().for_each(|value| *value *= 0.5);
    model.changed().unwrap();
    let changed = Encoder::from_files(model.to_files().unwrap(), Precision::F32).unwrap();
    assert_ne!(changed.model_id(), encoder.model_id());
    assert_ne!(encode(&changed, &TRAINING_TEXTS), before);
}

#[test]
fn dense_layers_are_trained_and_written_too() {
    let mut model = tiny("tiny-dense").trainable(&everything()).unwrap();
    let dense = model.parameters_mut().get_mut("3_Dense/linear.weight").unwrap();
    dense.values.iter_mut().for_each(|value| *value *= -1.0);
    model.changed().unwrap();
    let negated = Encoder::from_files(model.to_files().unwrap(), Precision::F32).unwrap();
    let expected: Vec<f32> = encode(&tiny("tiny-dense"), &TRAINING_TEXTS).iter().map(|v| -v).collect();
    assert_eq!(encode(&negated, &TRAINING_TEXTS), expected);
}

/// A map that is no rotation: ones on the diagonal, and small numbers beside.
fn map(dim: usize, seed: usize) -> Vec<f32> {
    let entry = |i: usize| if i / dim == i % dim { 1.0 } else { ((i * 31 + seed) % 17) as f32 / 40.0 - 0.2 };
    (0..dim * dim).map(entry).collect()
}

fn apply(map: &[f32], vectors: &[f32], dim: usize) -> Vec<f32> {
    let product = |row: &[f32], x: &[f32]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
    vectors.chunks(dim).flat_map(|x| map.chunks(dim).map(move |row| product(row, x))).collect()
}

#[test]
fn adapters_are_applied_in_order_and_survive_storage() {
    // Without normalisation, so that lengths are compared as well.
    let plain = tiny("tiny-cls");
    let dim = plain.dim();
    let (first, second) = (map(dim, 3), map(dim, 11));
    let once = plain.with_adapter(&first).unwrap();
    let twice = once.with_adapter(&second).unwrap();
    let expected_once = apply(&first, &encode(&plain, &TRAINING_TEXTS), dim);
    assert_agree(&encode(&once, &TRAINING_TEXTS), &expected_once, dim, 0.999999);
    let expected_twice = apply(&second, &expected_once, dim);
    assert_agree(&encode(&twice, &TRAINING_TEXTS), &expected_twice, dim, 0.999999);

    assert!(plain.adapter(Role::Document).is_none());
    assert_eq!(once.adapter(Role::Document), Some(first.as_slice()));
    assert_ne!(once.model_id(), plain.model_id());
    assert_ne!(twice.model_id(), once.model_id());

    let stored = Encoder::from_files(twice.files().clone(), Precision::F32).unwrap();
    assert_eq!(stored.model_id(), twice.model_id());
    assert_eq!(stored.adapter(Role::Document), twice.adapter(Role::Document));
    assert_eq!(encode(&stored, &TRAINING_TEXTS), encode(&twice, &TRAINING_TEXTS));
    let trainable = twice.trainable(&everything()).unwrap().embed(&TRAINING_TEXTS).unwrap();
    assert_agree(&trainable, &encode(&twice, &TRAINING_TEXTS), dim, 0.999999);

    for wrong in [vec![0.0; 3], vec![f32::NAN; dim * dim]] {
        assert!(matches!(plain.with_adapter(&wrong), Err(Error::Input(_))));
    }
}

#[test]
fn an_exported_adapter_is_a_dense_module() {
    for variant in ["tiny-bert", "tiny-cls", "tiny-dense"] {
        let plain = tiny(variant);
        let adapted = plain.with_adapter(&map(plain.dim(), 5)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        adapted.export(folder.path()).unwrap();
        assert!(!folder.path().join("adapter.safetensors").exists());
        let files = ModelFiles::read_dir(folder.path()).unwrap();
        let read = Encoder::from_files(files, Precision::F32).unwrap();
        assert!(read.adapter(Role::Document).is_none());
        assert_eq!(read.normalizes(), plain.normalizes());
        assert_eq!(encode(&read, &TRAINING_TEXTS), encode(&adapted, &TRAINING_TEXTS), "{variant}");
    }
}

#[test]
fn a_bare_transformer_is_exported_with_its_modules() {
    let mut files = ModelFiles::default();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        files.insert(name, tiny_files("tiny-bert").get(name).unwrap().to_vec());
    }
    let bare = Encoder::from_files(files, Precision::F32).unwrap();
    assert!(!bare.normalizes());
    assert_eq!(bare.max_tokens(), 64);
    let folder = tempfile::tempdir().unwrap();
    bare.export(folder.path()).unwrap();
    let read = ModelFiles::read_dir(folder.path()).unwrap();
    assert!(read.get("modules.json").is_some());
    let read = Encoder::from_files(read, Precision::F32).unwrap();
    assert_eq!(encode(&read, &TRAINING_TEXTS), encode(&bare, &TRAINING_TEXTS));
}

#[test]
fn progress_reaches_the_total_and_cancelling_stops() {
    let encoder = tiny("tiny-bert");
    let texts = vec!["the tides"; 500];
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&seen);
    let task = Task::with_progress(move |step| log.lock().unwrap().push((step.done, step.total)));
    encoder.encode(&texts, &task).unwrap();
    let steps = seen.lock().unwrap().clone();
    assert!(steps.is_sorted() && steps.last() == Some(&(500, 500)), "{steps:?}");

    let task = Task::default();
    task.cancel();
    assert!(matches!(encoder.encode(&texts, &task), Err(Error::Cancelled)));
    assert!(encoder.encode(&[], &Task::default()).unwrap().is_empty());
}

#[test]
fn chunks_are_read_whole_and_cover_the_text() {
    let encoder = tiny("tiny-bert");
    for text in texts() {
        let chunks = encoder.chunks(&text).unwrap();
        assert_eq!(chunks[0].start, 0);
        assert_eq!(chunks.last().unwrap().end, text.len());
        for pair in chunks.windows(2) {
            let between = &text[pair[0].end.min(pair[1].start)..pair[1].start];
            assert!(between.trim().is_empty(), "lost {between:?}");
        }
        if text.contains(' ') {
            for chunk in chunks {
                assert!(encoder.count_tokens(&text[chunk]).unwrap() + 2 <= encoder.max_tokens());
            }
        }
    }
    assert_eq!(encoder.chunks("").unwrap(), vec![0..0]);
}

#[test]
fn only_the_head_of_a_long_text_counts() {
    let encoder = tiny("tiny-bert");
    let long = texts().join(" ").repeat(20);
    let unspaced = "ab".repeat(50_000);
    for text in [long.as_str(), &unspaced] {
        let same = [text, "x", text, ""];
        let vectors = encode(&encoder, &same);
        assert!(vectors.iter().all(|v| v.is_finite()));
    }
    let head: String = long.chars().take(3_000).collect();
    let dim = encoder.dim();
    assert_agree(&encode(&encoder, &[&long]), &encode(&encoder, &[&head]), dim, 0.999999);
}

#[test]
fn damaged_models_are_errors_and_never_panics() {
    let good = tiny_files("tiny-dense");
    let names: Vec<String> = good.iter().map(|(name, _)| name.to_string()).collect();
    for name in names {
        let bytes = good.get(&name).unwrap().to_vec();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..24 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize % bytes.len();
            let mut damaged = bytes.clone();
            if round < 8 {
                damaged.truncate(at);
            } else {
                damaged[at] = (state >> 20) as u8;
            }
            let mut files = good.clone();
            files.insert(name.clone(), damaged);
            match Encoder::from_files(files, Precision::F32) {
                // A changed byte may still make a model; then it must encode or say why not.
                Ok(encoder) => drop(encoder.encode(&TRAINING_TEXTS, &Task::default())),
                Err(error) => assert!(matches!(error, Error::Corrupt { .. } | Error::Input(_)), "{error}"),
            }
        }
    }
}

#[test]
fn a_token_beyond_the_vocabulary_is_corrupt() {
    let mut files = tiny_files("tiny-bert");
    let tokenizer = String::from_utf8(files.get("tokenizer.json").unwrap().to_vec()).unwrap();
    files.insert("tokenizer.json", tokenizer.replace("\"ferry\":", "\"ferry\":9").into_bytes());
    let encoder = Encoder::from_files(files, Precision::F32).unwrap();
    let error = encoder.encode(&["the ferry"], &Task::default()).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { file, .. } if file.ends_with("tokenizer.json")), "{error}");
}

#[test]
fn a_map_of_queries_leaves_documents_as_they_are() {
    let plain = tiny("tiny-cls");
    let dim = plain.dim();
    let (both, queries) = (map(dim, 3), map(dim, 11));
    let as_queries = |encoder: &Encoder| encoder.encode_queries(&TRAINING_TEXTS, &Task::default()).unwrap();
    let sided = plain.with_adapter(&both).unwrap().with_query_adapter(&queries).unwrap();
    let expected = apply(&both, &encode(&plain, &TRAINING_TEXTS), dim);
    assert_agree(&encode(&sided, &TRAINING_TEXTS), &expected, dim, 0.999999);
    assert_agree(&as_queries(&sided), &apply(&queries, &expected, dim), dim, 0.999999);

    let stored = Encoder::from_files(sided.files().clone(), Precision::F32).unwrap();
    assert_eq!(stored.model_id(), sided.model_id());
    assert_eq!(as_queries(&stored), as_queries(&sided));
    // What would become of the queries' map is not known.
    assert!(matches!(sided.trainable(&everything()), Err(Error::Input(_))));

    let folder = tempfile::tempdir().unwrap();
    sided.export(folder.path()).unwrap();
    let modules = std::fs::read_to_string(folder.path().join("modules.json")).unwrap();
    assert!(modules.contains("models.Router"), "{modules}");
}
