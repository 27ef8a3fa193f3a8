//! Every family of models against the Python libraries that define it.
//!
//! `tools/family_models.py` made the models (the real architectures, small, with random weights) and their vectors.

#![cfg(feature = "encoder")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use embdb::encoder::{Encoder, ModelFiles, PrepareLimits, Role, TrainOptions};
use embdb::options::Task;
use embdb::types::Precision;
use embdb::{CreateOptions, Db, Document, Error, OpenOptions};

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
const BERTS: [&str; 5] = ["bge", "unpooled-prompt", "xlm-roberta", "mpnet", "distilbert"];

/// All models.
const ALL: [&str; 11] = [
    "bge",
    "unpooled-prompt",
    "xlm-roberta",
    "mpnet",
    "distilbert",
    "qwen3",
    "qwen2",
    "mistral",
    "llama",
    "static",
    "static-module",
];

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
        let lengths = exact.chunks(encoder.dim()).map(cosine_norm);
        if encoder.normalizes() {
            assert!(lengths.clone().all(|length| length == 0.0 || (length - 1.0).abs() < 1e-3), "{name}");
        }
        // Decoders this small lose more than those that are used: a rounded value is one of 32.
        let mean = coarse.iter().sum::<f64>() / coarse.len() as f64;
        let floor = if BERTS.contains(&name) { 0.995 } else { 0.95 };
        assert!(mean >= 0.995 && least_coarse >= floor, "{name}: {mean}, {least_coarse}");
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
        let adapted = plain.with_adapter(&map.collect::<Vec<_>>()).unwrap();
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
        let errors = [encoder.check_trainable(), encoder.trainable(&TrainOptions::default()).map(drop)];
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
        let mut model = encoder.trainable(&TrainOptions::default()).unwrap();
        let texts = model.prepare(&words, &PrepareLimits::default(), &Task::default()).unwrap();
        let (values, tape) = model.forward(&texts, &[0, 1, 2]).unwrap();
        let before = encoder.encode(&words, &Task::default()).unwrap();
        assert!(smallest(&cosines(&values, &before, encoder.dim())) > 0.999_99, "{name}");

        let slope: Vec<f32> = (0..values.len()).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        model.backward(tape, &slope).unwrap();
        for parameter in model.parameters().iter() {
            let largest = parameter.gradient.values().iter().fold(0f32, |most, g| most.max(g.abs()));
            assert!(
                largest.is_finite() && (parameter.name.ends_with("key.bias") || largest > 1e-6),
                "{name}: {}",
                parameter.name
            );
        }
        let again = Encoder::from_files(model.to_files().unwrap(), Precision::F32).unwrap();
        assert_eq!(again.encode(&words, &Task::default()).unwrap(), before, "{name}");
    }
}

#[test]
fn every_text_gets_a_vector() {
    let long_word = "ab".repeat(1 << 20);
    let texts = [
        "",
        " \t\r\n",
        "\u{0}\u{1}\u{7f}\u{9f}\u{feff}\u{fffe}\u{ffff}",
        "\u{202e}القطار\u{202c} הרכבת",
        "列車は朝七時に出発します。",
        "𒀀𒀁𒀂 ᚠᚢᚦ 🂡🂢",
        "<pad> <pad> [PAD] <s> </s> <|endoftext|>",
        "e\u{301}\u{301}\u{301}\u{301}",
        &long_word,
    ];
    for name in ALL {
        let encoder = load(name, Precision::F32);
        for text in texts {
            let vector = encoder.encode(&[text], &Task::default()).unwrap();
            assert!(
                vector.len() == encoder.dim() && vector.iter().all(|v| v.is_finite()),
                "{name}: {text:.20}"
            );
            assert!(
                !encoder.chunks(&text[..text.len().min(5_000)]).unwrap().is_empty(),
                "{name}: {text:.20}"
            );
        }
    }
}

#[test]
fn damaged_models_are_errors_and_never_panics() {
    for name in ALL {
        let good = ModelFiles::read_dir(folder(name)).unwrap();
        let names: Vec<String> = good.iter().map(|(name, _)| name.to_string()).collect();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for file in names {
            let bytes = good.get(&file).unwrap().to_vec();
            for round in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                let mut damaged = bytes.clone();
                if round < 3 {
                    damaged.truncate(at);
                } else {
                    damaged[at] = (state >> 20) as u8;
                }
                let mut files = good.clone();
                files.insert(file.clone(), damaged);
                match Encoder::from_files(files, Precision::F32) {
                    // A changed byte may still make a model; then it must encode or say why not.
                    Ok(encoder) => drop(encoder.encode(&["the tides", ""], &Task::default())),
                    Err(error) => {
                        assert!(matches!(error, Error::Corrupt { .. } | Error::Input(_)), "{name}: {error}");
                    }
                }
            }
        }
    }
}

/// Values out of range are refused by file and key, before anything is allocated for them.
#[test]
fn impossible_settings_are_refused_by_name() {
    for (name, key, value) in [
        ("xlm-roberta", "pad_token_id", "274000"),
        ("xlm-roberta", "max_position_embeddings", "2"),
        ("xlm-roberta", "vocab_size", "1000000000000"),
        ("mpnet", "relative_attention_num_buckets", "30"),
        ("mpnet", "relative_attention_num_buckets", "1000000000"),
        ("distilbert", "n_layers", "100000"),
        ("distilbert", "dim", "-1"),
        ("qwen3", "head_dim", "2147483648"),
        ("qwen3", "head_dim", "7"),
        ("qwen2", "num_key_value_heads", "3"),
        ("qwen2", "num_key_value_heads", "0"),
        ("llama", "intermediate_size", "18446744073709551615"),
        ("mistral", "rms_norm_eps", "-1"),
        ("mistral", "rope_parameters", r#"{"rope_theta": -1, "rope_type": "default"}"#),
        ("mistral", "rope_parameters", r#"{"rope_theta": 1, "rope_type": "yarn"}"#),
        ("llama", "hidden_act", "\"relu\""),
        ("llama", "model_type", "\"gpt2\""),
    ] {
        let mut files = ModelFiles::read_dir(folder(name)).unwrap();
        let mut config: serde_json::Value =
            serde_json::from_slice(files.get("config.json").unwrap()).unwrap();
        assert!(config.get(key).is_some(), "{name}: {key}");
        config[key] = serde_json::from_str(value).unwrap();
        files.insert("config.json", serde_json::to_vec(&config).unwrap());
        let error = Encoder::from_files(files, Precision::F32).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. } | Error::Input(_)), "{name}: {key}: {error}");
        println!("{name}, {key} = {value}: {error}");
    }
}

#[test]
fn a_shard_that_is_missing_and_a_pickle_are_named() {
    let mut files = ModelFiles::default();
    for (name, bytes) in ModelFiles::read_dir(folder("mistral")).unwrap().iter() {
        if !name.starts_with("model-00002") {
            files.insert(name, bytes.to_vec());
        }
    }
    let error = Encoder::from_files(files.clone(), Precision::F32).unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt { file, .. } if file.ends_with("model-00002-of-00002.safetensors"))
    );
    let target = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::write(target.path().join(name), files.get(name).unwrap()).unwrap();
    }
    std::fs::write(target.path().join("pytorch_model.bin"), "x").unwrap();
    let error = ModelFiles::read_dir(target.path()).unwrap_err();
    assert!(matches!(&error, Error::Input(what) if what.contains("pytorch_model.bin")), "{error}");
}

#[test]
fn a_decoder_reads_the_end_that_its_settings_ask_for() {
    let json = |files: &ModelFiles, name: &str| -> serde_json::Value {
        serde_json::from_slice(files.get(name).unwrap()).unwrap()
    };
    let mut files = ModelFiles::read_dir(folder("mistral")).unwrap();
    let mut tokenizer = json(&files, "tokenizer.json");
    let single = tokenizer["post_processor"]["single"].as_array_mut().unwrap();
    assert_eq!(single.pop().unwrap()["SpecialToken"]["id"], "</s>");
    files.insert("tokenizer.json", tokenizer.to_string().into_bytes());
    let texts = ["the tides", "", "snow on the pass"];
    let whole = vectors(&load("mistral", Precision::F32), &texts);
    let endless = Encoder::from_files(files.clone(), Precision::F32).unwrap();
    assert_ne!(vectors(&endless, &texts), whole);
    let mut settings = json(&files, "tokenizer_config.json");
    settings["add_eos_token"] = true.into();
    for end in [serde_json::json!("</s>"), serde_json::json!({"content": "</s>", "special": true})] {
        settings["eos_token"] = end;
        files.insert("tokenizer_config.json", settings.to_string().into_bytes());
        assert_eq!(vectors(&Encoder::from_files(files.clone(), Precision::F32).unwrap(), &texts), whole);
    }
    settings["eos_token"] = "<none>".into();
    files.insert("tokenizer_config.json", settings.to_string().into_bytes());
    assert!(matches!(Encoder::from_files(files, Precision::F32), Err(Error::Corrupt { .. })));
}

#[test]
fn a_database_keeps_prompts_and_applies_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompts.embdb");
    let open = |create| {
        Db::open_with(&path, OpenOptions { create, background: false, ..OpenOptions::default() }).unwrap()
    };
    let create = CreateOptions {
        model: Some(folder("mpnet")),
        precision: Some(Precision::F32),
        query_prompt: Some("query: ".into()),
        document_prompt: Some("passage: ".into()),
        ..CreateOptions::default()
    };
    open(create).add([Document::new("a", "the tides")]).unwrap();
    let db = open(CreateOptions::default());
    let encoder = db.encoder().unwrap();
    assert_eq!((encoder.prompt(Role::Query), encoder.prompt(Role::Document)), ("query: ", "passage: "));
    let plain = load("mpnet", Precision::F32);
    assert_ne!(plain.model_id(), encoder.model_id());
    let texts = plain.encode(&["query: the tides", "passage: the tides"], &Task::default()).unwrap();
    let (query, document) = texts.split_at(plain.dim());
    let distance = 1.0 - cosine(query, document);
    assert!(distance > 1e-3);
    let found = db.search("the tides").k(1).run().unwrap();
    assert!((f64::from(found.hits[0].distance) - distance).abs() < 1e-4, "{distance}");
}
