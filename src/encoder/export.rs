//! A model as sentence-transformers reads it: the adapter becomes a dense module, one for each side a router of two.

use serde_json::{Value, json};

use super::adapter::Adapters;
use super::config::{ModelConfig, Pooling};
use super::failed;
use super::family::fixed::TABLES;
use super::family::{Family, FixedConfig};
use super::files::{ADAPTER, MODULES, ModelFiles, SENTENCE_CONFIG, WEIGHTS};
use super::prompts::Role;
use super::tokenize::cutting;
use super::weights::{self, Weights};
use crate::error::{Error, Result};

/// The files of a model with its adapters, if there are any, as a module before the normalisation.
pub(crate) fn portable(files: &ModelFiles, config: &ModelConfig, adapters: &Adapters) -> Result<ModelFiles> {
    let mut files = files.clone();
    files.remove(ADAPTER);
    write_values(&mut files)?;
    let mut modules = modules(&mut files, config)?;
    if let Family::Fixed(fixed) = &config.family {
        flatten(&mut files, fixed, &mut modules)?;
    }
    let at = modules.len() - usize::from(config.normalize);
    if adapters.sided() {
        let folder = free_folder(&files, &modules, "Router");
        modules.insert(at, module("Router", &folder));
        insert_router(&mut files, &folder, config.dim(), adapters)?;
    } else if let Some(adapter) = adapters.tensor(Role::Document) {
        let folder = free_folder(&files, &modules, "Dense");
        modules.insert(at, module("Dense", &folder));
        insert_adapter(&mut files, &folder, config.dim(), adapter)?;
    }
    for (i, module) in modules.iter_mut().enumerate() {
        module["idx"] = json!(i);
        module["name"] = json!(i.to_string());
    }
    files.insert(MODULES, pretty(&Value::Array(modules)));
    Ok(files)
}

/// The chain of modules; a bare transformer gets the one that is implied.
fn modules(files: &mut ModelFiles, config: &ModelConfig) -> Result<Vec<Value>> {
    if let Some(bytes) = files.get(MODULES) {
        return serde_json::from_slice(bytes).map_err(|error| Error::corrupt(MODULES, 0, error.to_string()));
    }
    if matches!(config.family, Family::Fixed(_)) {
        let mut modules = vec![module("StaticEmbedding", "")];
        if config.normalize {
            modules.push(module("Normalize", "1_Normalize"));
        }
        return Ok(modules);
    }
    let folder = "1_Pooling";
    let pooling = json!({
        "word_embedding_dimension": config.family.hidden(),
        "pooling_mode_cls_token": config.pooling == Pooling::Cls,
        "pooling_mode_mean_tokens": config.pooling == Pooling::Mean,
        "pooling_mode_max_tokens": config.pooling == Pooling::Max,
        "pooling_mode_lasttoken": config.pooling == Pooling::Last,
        "pooling_mode_mean_sqrt_len_tokens": false,
    });
    files.insert(format!("{folder}/config.json"), pretty(&pooling));
    if files.get(SENTENCE_CONFIG).is_none() {
        let limits = json!({"max_seq_length": config.max_tokens, "do_lower_case": false});
        files.insert(SENTENCE_CONFIG, pretty(&limits));
    }
    Ok(vec![module("Transformer", ""), module("Pooling", folder)])
}

/// What model2vec's own library makes of a folder, said in a way that sentence-transformers understands: one row for each
/// token, zeros for what is not known (which is left out of the mean; its direction is the same), the cut in the tokenizer,
/// and the normalisation as a module.
fn flatten(files: &mut ModelFiles, fixed: &FixedConfig, modules: &mut Vec<Value>) -> Result<()> {
    let has =
        |kind: &str| modules.iter().any(|m| m["type"].as_str().is_some_and(|name| name.ends_with(kind)));
    if fixed.normalize && !has("Normalize") {
        modules.push(module("Normalize", "9_Normalize"));
    }
    if !fixed.drops_unknown && !fixed.has_mapping && !fixed.has_weights {
        return Ok(());
    }
    let mut table = fixed.read_table(files)?.flat(fixed.vocabulary)?;
    if fixed.drops_unknown {
        let file = fixed.tokenizer_file();
        let (tokenizer, unknown) = cutting(&file, files.required(&file)?, fixed.tokens)?;
        files.insert(file, tokenizer);
        let unknown = unknown.and_then(|id| table.chunks_exact_mut(fixed.dim).nth(id as usize));
        unknown.into_iter().for_each(|row| row.fill(0.0));
    }
    let table =
        candle_core::Tensor::from_vec(table, (fixed.vocabulary, fixed.dim), &candle_core::Device::Cpu);
    let file = fixed.weights_file();
    let tensors = Weights::from([(TABLES[0].to_string(), table.map_err(failed)?)]);
    let bytes = weights::write(&file, &tensors)?;
    files.insert(file, bytes);
    Ok(())
}

/// Writes matrices of bytes, which are our own way, as everybody's numbers.
fn write_values(files: &mut ModelFiles) -> Result<()> {
    let names: Vec<String> = files.iter().map(|(name, _)| name.to_owned()).collect();
    for name in names.into_iter().filter(|name| name.ends_with(".safetensors")) {
        if let Some(bytes) = weights::without_codes(&name, files.required(&name)?)? {
            files.insert(name, bytes);
        }
    }
    Ok(())
}

fn insert_adapter(
    files: &mut ModelFiles,
    folder: &str,
    dim: usize,
    adapter: &candle_core::Tensor,
) -> Result<()> {
    let settings = json!({
        "in_features": dim,
        "out_features": dim,
        "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity",
    });
    files.insert(format!("{folder}/config.json"), pretty(&settings));
    let file = format!("{folder}/{WEIGHTS}");
    let tensors = Weights::from([("linear.weight".to_string(), adapter.clone())]);
    let bytes = weights::write(&file, &tensors)?;
    files.insert(file, bytes);
    Ok(())
}

/// A module for each side. Texts that are not said to be queries are documents.
fn insert_router(files: &mut ModelFiles, folder: &str, dim: usize, adapters: &Adapters) -> Result<()> {
    let (mut types, mut structure) = (serde_json::Map::new(), serde_json::Map::new());
    for (role, route) in [(Role::Query, "query"), (Role::Document, "document")] {
        let name = format!("{route}_0_Dense");
        let identity = candle_core::Tensor::eye(dim, candle_core::DType::F32, &candle_core::Device::Cpu);
        let map = match adapters.tensor(role) {
            Some(map) => map.clone(),
            None => identity.map_err(failed)?,
        };
        insert_adapter(files, &format!("{folder}/{name}"), dim, &map)?;
        types.insert(name.clone(), json!("sentence_transformers.models.Dense"));
        structure.insert(route.to_owned(), json!([name]));
    }
    let parameters = json!({"default_route": "document", "allow_empty_key": true});
    let router = json!({"types": types, "structure": structure, "parameters": parameters});
    files.insert(format!("{folder}/router_config.json"), pretty(&router));
    Ok(())
}

fn module(kind: &str, path: &str) -> Value {
    json!({"idx": 0, "name": "", "path": path, "type": format!("sentence_transformers.models.{kind}")})
}

/// A folder name for another module of a kind.
fn free_folder(files: &ModelFiles, modules: &[Value], kind: &str) -> String {
    let taken = |folder: &str| {
        let inside = format!("{folder}/");
        files.iter().any(|(path, _)| path.starts_with(&inside)) || modules.iter().any(|m| m["path"] == folder)
    };
    let mut number = modules.len();
    while taken(&format!("{number}_{kind}")) {
        number += 1;
    }
    format!("{number}_{kind}")
}

/// JSON as people read it.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}
