//! What is read from configurations, and what is refused.

use serde_json::{Value, json};

use super::*;
use crate::encoder::files::CONFIG;

fn bert() -> Value {
    json!({"model_type": "bert", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
        "hidden_act": "gelu", "layer_norm_eps": 1e-12})
}

fn with(name: &str, value: &Value) -> ModelFiles {
    let mut files = ModelFiles::default();
    files.insert(CONFIG, serde_json::to_vec(&bert()).unwrap());
    files.insert(name, serde_json::to_vec(value).unwrap());
    files
}

fn module(kind: &str, path: &str) -> Value {
    json!({"type": format!("sentence_transformers.models.{kind}"), "path": path})
}

#[test]
fn a_bare_transformer_is_pooled_by_the_mean_and_not_normalised() {
    let config = ModelConfig::read(&with(CONFIG, &bert())).unwrap();
    assert_eq!((config.pooling, config.normalize, config.dim()), (Pooling::Mean, false, 32));
    assert_eq!(config.max_tokens, 64);
}

#[test]
fn the_chain_is_read_in_order() {
    let chain = json!([
        module("Transformer", ""),
        module("Pooling", "1_Pooling"),
        module("Dense", "2_Dense"),
        module("Normalize", "3_Normalize")
    ]);
    let mut files = with(MODULES, &chain);
    files.insert("1_Pooling/config.json", br#"{"pooling_mode_cls_token": true}"#.to_vec());
    let dense = br#"{"in_features": 32, "out_features": 16, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity"}"#;
    files.insert("2_Dense/config.json", dense.to_vec());
    let config = ModelConfig::read(&files).unwrap();
    assert_eq!((config.pooling, config.normalize, config.dim()), (Pooling::Cls, true, 16));
    assert_eq!(config.dense[0].activation, Activation::Identity);
    assert!(!config.dense[0].bias);
}

#[test]
fn the_limit_on_tokens_is_the_folders_and_at_most_the_positions() {
    let read = |file: &str, value: Value| ModelConfig::read(&with(file, &value)).map(|c| c.max_tokens);
    assert_eq!(read(SENTENCE_CONFIG, json!({"max_seq_length": 16})).unwrap(), 16);
    assert_eq!(read(SENTENCE_CONFIG, json!({"max_seq_length": 1000})).unwrap(), 64);
    assert_eq!(read(SENTENCE_CONFIG, json!({"max_seq_length": null})).unwrap(), 64);
    assert_eq!(read(TOKENIZER_CONFIG, json!({"model_max_length": 1e30})).unwrap(), 64);
    assert_eq!(read(TOKENIZER_CONFIG, json!({"model_max_length": 20})).unwrap(), 20);
    assert!(read(SENTENCE_CONFIG, json!({"max_seq_length": 0})).is_err());
}

#[test]
fn other_families_are_refused_by_name() {
    for (key, value) in
        [("model_type", "electra"), ("hidden_act", "relu"), ("position_embedding_type", "relative_key")]
    {
        let mut config = bert();
        config[key] = json!(value);
        let error = ModelConfig::read(&with(CONFIG, &config)).unwrap_err();
        assert!(matches!(&error, Error::Input(text) if text.contains(value)), "{error}");
    }
    // Another family lacks keys of ours; its name is what must be said.
    let error = ModelConfig::read(&with(CONFIG, &json!({"model_type": "gpt2"}))).unwrap_err();
    assert!(matches!(&error, Error::Input(text) if text.contains("gpt2")), "{error}");
}

#[test]
fn impossible_sizes_are_corrupt() {
    for (key, value) in [
        ("hidden_size", json!(1u64 << 40)),
        ("hidden_size", json!(0)),
        ("num_hidden_layers", json!(100_000)),
        ("num_attention_heads", json!(5)),
        ("vocab_size", json!(-1)),
        ("layer_norm_eps", json!(-1.0)),
        ("pad_token_id", json!(100)),
    ] {
        let mut config = bert();
        config[key] = value;
        let error = ModelConfig::read(&with(CONFIG, &config)).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { .. }), "{key}: {error}");
    }
}

#[test]
fn unknown_modules_and_poolings_are_refused() {
    let chain = |kinds: &[&str]| Value::Array(kinds.iter().map(|k| module(k, "")).collect());
    for kinds in [
        &["Pooling"][..],
        &["Transformer", "Normalize"],
        &["Transformer", "Pooling", "WeightedLayerPooling"],
        &["Transformer", "Pooling", "Normalize", "Dense"],
    ] {
        assert!(ModelConfig::read(&with(MODULES, &chain(kinds))).is_err(), "{kinds:?}");
    }
    let mut files = with(MODULES, &json!([module("Transformer", ""), module("Pooling", "1_Pooling")]));
    files.insert(
        "1_Pooling/config.json",
        br#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#.to_vec(),
    );
    let error = ModelConfig::read(&files).unwrap_err();
    assert!(error.to_string().contains("cls and max"), "{error}");
    files.insert("1_Pooling/config.json", br#"{"pooling_mode_mean_tokens": false}"#.to_vec());
    let error = ModelConfig::read(&files).unwrap_err();
    assert!(error.to_string().contains("pools by nothing"), "{error}");
    files.insert("1_Pooling/config.json", br#"{"word_embedding_dimension": 32}"#.to_vec());
    assert_eq!(ModelConfig::read(&files).unwrap().pooling, Pooling::Mean);
    let without = with(MODULES, &json!([module("Transformer", ""), module("Pooling", "1_Pooling")]));
    let error = ModelConfig::read(&without).unwrap_err();
    assert!(error.to_string().contains("1_Pooling/config.json"), "{error}");
}
