//! What is done to a sound model folder: one harm a case.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// One harm.
pub struct Case {
    pub name: &'static str,
    /// A word of the refusal.
    pub says: &'static str,
    /// Does it to a folder.
    pub spoil: Box<dyn Fn(&Path)>,
}

fn case(name: &'static str, says: &'static str, spoil: impl Fn(&Path) + 'static) -> Case {
    Case { name, says, spoil: Box::new(spoil) }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    [configurations(), tables(), weights(), vocabularies(), splitters(), tokenizers(), modules(), folders()]
        .into_iter()
        .flatten()
        .collect()
}

fn configurations() -> Vec<Case> {
    let field = |name, says, field: &'static str, value: Value| {
        case(name, says, move |folder| edit(folder, "config.json", |config| config[field] = value.clone()))
    };
    let file = |name, says, text: &'static [u8]| {
        case(name, says, move |folder| fs::write(folder.join("config.json"), text).unwrap())
    };
    vec![
        field("hidden size", "hidden_size", "hidden_size", json!(1u64 << 31)),
        field("no width", "hidden_size", "hidden_size", json!(0)),
        field("less than no width", "integer `-32`", "hidden_size", json!(-32)),
        field("half a dimension", "32.5", "hidden_size", json!(32.5)),
        field("layers", "num_hidden_layers", "num_hidden_layers", json!(1_000_000)),
        field("no heads", "num_attention_heads", "num_attention_heads", json!(0)),
        field("heads that do not divide", "5 heads do not divide", "num_attention_heads", json!(5)),
        field("vocabulary", "vocab_size", "vocab_size", json!(1u64 << 40)),
        field("a vocabulary too small", "shape", "vocab_size", json!(10)),
        field("inner width", "intermediate_size", "intermediate_size", json!(1u64 << 40)),
        field("positions", "max_position_embeddings", "max_position_embeddings", json!(1u64 << 40)),
        field("no positions", "max_position_embeddings", "max_position_embeddings", json!(0)),
        field("token types", "type_vocab_size", "type_vocab_size", json!(1u64 << 40)),
        field("an unknown activation", "hidden_act", "hidden_act", json!("system")),
        field("an unknown family", "model_type", "model_type", json!("../../bert")),
        field(
            "relative positions",
            "position_embedding_type",
            "position_embedding_type",
            json!("relative_key"),
        ),
        field("a norm of text", "1e-12", "layer_norm_eps", json!("1e-12")),
        case("nested configuration", "config.json", |f| nested(f, "config.json")),
        file("an empty configuration", "config.json", b""),
        file("a configuration that is a list", "config.json", b"[]"),
        file("a configuration that is no text", "config.json", b"{\"model_type\": \"\xff\xfe\"}"),
        case("a configuration of 3 GB", "config.json", |f| sparse(f, "config.json", 3 << 30)),
    ]
}

/// Tables of tensors.
fn tables() -> Vec<Case> {
    let entry = |name, says, field: &'static str, value: Value| {
        case(name, says, move |folder| {
            tensors(folder, None, |table| {
                let name = some_tensor(table);
                table[&name][field] = value.clone();
            });
        })
    };
    let raw = |name, says, bytes: Vec<u8>| {
        case(name, says, move |folder| fs::write(folder.join("model.safetensors"), &bytes).unwrap())
    };
    let table = |text: &[u8]| [&(text.len() as u64).to_le_bytes(), text].concat();
    let many: Vec<String> = (0..1_000_000)
        .map(|n| format!("\"{n}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"))
        .collect();
    vec![
        case("table of 2^63 bytes", "table of tensors", |f| tensors(f, Some(1 << 63), |_| {})),
        case("a table of 1 GB", "1073741824 bytes", |f| tensors(f, Some(1 << 30), |_| {})),
        case("a table of no bytes", "EOF", |f| tensors(f, Some(0), |_| {})),
        case("overlapping tensors", "overlap", |folder| {
            tensors(folder, None, |table| {
                let name = some_tensor(table);
                let from = table[&name]["data_offsets"][0].as_u64().unwrap();
                table[&name]["data_offsets"][0] = json!(from - 4);
            });
        }),
        case("a hole", "hole", |folder| {
            tensors(folder, None, |table| {
                let name = some_tensor(table);
                table.as_object_mut().unwrap().remove(&name);
            });
        }),
        entry("a shape that overflows", "shape", "shape", json!([1u64 << 40, 1u64 << 40])),
        entry("a shape that does not fit", "shape", "shape", json!([3, 5])),
        entry("a shape without end", "invalid shape", "shape", json!(vec![1; 100_000])),
        entry("a type that nobody knows", "F1", "dtype", json!("F1")),
        entry("numbers that are none of weights", "stored as I32", "dtype", json!("I32")),
        entry("a tensor beyond the file", "0 to 1099511627776", "data_offsets", json!([0, 1u64 << 40])),
        entry("a tensor that ends before it begins", "128 to 0", "data_offsets", json!([128, 0])),
        entry("a tensor before the file", "integer `-128`", "data_offsets", json!([-128, 0])),
        raw("no weights", "too short", Vec::new()),
        raw("five bytes of weights", "too short", vec![1; 5]),
        raw("a table that is no text", "unicode", table(b"{\"\xff\": {}}")),
        raw("a nested table", "recursion", table(format!("{{\"a\": {}", "[".repeat(500_000)).as_bytes())),
        raw("a million tensors", "limit of 8388608", table(format!("{{{}}}", many.join(",")).as_bytes())),
    ]
}

/// Values, and files of them.
fn weights() -> Vec<Case> {
    let value = |name, value: f32| {
        case(name, "not finite", move |folder| {
            let path = folder.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.len() - 4;
            bytes[at..].copy_from_slice(&value.to_le_bytes());
            fs::write(path, bytes).unwrap();
        })
    };
    let shards = |name, says, file: &'static str| {
        case(name, says, move |folder| {
            fs::remove_file(folder.join("model.safetensors")).unwrap();
            let index = json!({"weight_map": {"embeddings.word_embeddings.weight": file}});
            fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        })
    };
    vec![
        value("values that are no numbers", f32::NAN),
        value("values without end", f32::INFINITY),
        case("weights of 10 GB", "limit", |f| sparse(f, "model.safetensors", 10 << 30)),
        case("weights of 3 GB of zeros", "parameters", |f| sparse(f, "model.safetensors", 3 << 30)),
        case("3 GB of sound weights for a small model", "parameters", |f| vast(f, 3 << 30)),
        case("weights that run a program when read", "a program that Python runs", |folder| {
            let pickle = b"cposix\nsystem\n(S'touch ../harmed'\ntR.";
            fs::write(folder.join("pytorch_model.bin"), pickle).unwrap();
            fs::remove_file(folder.join("model.safetensors")).unwrap();
        }),
        shards("weights outside", "../../w.safetensors", "../../w.safetensors"),
        shards("weights at a place of their own", "/etc/passwd", "/etc/passwd"),
        shards("a list of weights that names itself", "table of tensors", "model.safetensors.index.json"),
        case("a nested list of weights", "weight_map", |folder| {
            fs::remove_file(folder.join("model.safetensors")).unwrap();
            nested(folder, "model.safetensors.index.json");
        }),
    ]
}

/// Tokens and merges.
fn vocabularies() -> Vec<Case> {
    let model = |name, says, model: Value| {
        case(name, says, move |folder| edit(folder, "tokenizer.json", |t| t["model"] = model.clone()))
    };
    vec![
        case("a tokenizer of 1 GB", "tokenizer.json", |f| sparse(f, "tokenizer.json", 1 << 30)),
        case("a word list of 3 GB", "vocab.txt", |f| sparse(f, "vocab.txt", 3 << 30)),
        case("two million tokens", "entries in one list", |folder| {
            edit(folder, "tokenizer.json", |tokenizer| {
                let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
                vocabulary.extend((0..2_000_000).map(|n| (format!("x{n}"), json!(n))));
            });
        }),
        model(
            "a merge of 1 MB",
            "limit of 4096",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["a".repeat(1 << 20) + " a"]}),
        ),
        model(
            "merges of what is no token",
            "out of vocabulary",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}),
        ),
        model("no tokens", "EmptyVocabulary", json!({"type": "Unigram", "unk_id": 7, "vocab": []})),
        model(
            "an unknown token beyond the list",
            "UnkIdNotInVocabulary",
            json!({"type": "Unigram", "unk_id": 7, "vocab": [["a", -1.0]]}),
        ),
        model("a model that nobody knows", "did not match", json!({"type": "Shell", "vocab": {"a": 0}})),
        model("no model", "did not match", Value::Null),
    ]
}

/// How texts are split and changed before they are looked up.
fn splitters() -> Vec<Case> {
    let split = |name, says, regex: String| {
        case(name, says, move |folder| {
            let pattern = json!({"Regex": regex});
            let step = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
            edit(folder, "tokenizer.json", |tokenizer| tokenizer["pre_tokenizer"] = step);
        })
    };
    vec![
        split("nested quantifiers", "repeats", "(a+)+$".into()),
        split("look-ahead", "look-around", "(?=(a|b)*c)x".into()),
        split("a back-reference", "backreference", r"(a*)\1b".into()),
        split("counts of counts", "repeats", "((a{1000}){1000}){1000}".into()),
        split("an expression that is none", "unclosed group", "(((".into()),
        split("an expression of 1 MB", "limit of 4096", "a|".repeat(1 << 19)),
        split("nested groups", "limit of 4096", "(".repeat(100_000) + "a" + &")".repeat(100_000)),
        case("a text that grows", "as long", |folder| {
            edit(folder, "tokenizer.json", |tokenizer| {
                let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
                tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": vec![double; 40]});
            });
        }),
        case("a text that grows at its start", "limit of 4096", |folder| {
            edit(folder, "tokenizer.json", |tokenizer| {
                tokenizer["normalizer"] = json!({"type": "Prepend", "prepend": "x".repeat(1 << 24)});
            });
        }),
        case("a map of characters that is none", "broke off", |folder| {
            edit(folder, "tokenizer.json", |tokenizer| {
                tokenizer["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
            });
        }),
        case("steps within steps", "recursion", |folder| {
            let text = fs::read_to_string(folder.join("tokenizer.json")).unwrap();
            let mut value: Value = serde_json::from_str(&text).unwrap();
            value["normalizer"] = json!("HERE");
            let deep = r#"{"type": "Sequence", "normalizers": ["#.repeat(50_000) + &"]}".repeat(50_000);
            fs::write(folder.join("tokenizer.json"), value.to_string().replace("\"HERE\"", &deep)).unwrap();
        }),
    ]
}

/// The rest of a tokenizer.
fn tokenizers() -> Vec<Case> {
    let file = |name, says, text: &'static [u8]| {
        case(name, says, move |folder| fs::write(folder.join("tokenizer.json"), text).unwrap())
    };
    vec![
        case("nested tokenizer", "recursion", |f| nested(f, "tokenizer.json")),
        file("an empty tokenizer", "tokenizer.json", b""),
        file("a tokenizer that is a list", "tokenizer.json", b"[1, 2]"),
        file("a tokenizer that is no text", "tokenizer.json", b"\x00\xff\xfe\x00"),
        case("a frame of tokens that are not there", "broke off", |folder| {
            edit(folder, "tokenizer.json", |tokenizer| {
                tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"] = json!("[NONE]");
            });
        }),
        case("a frame of tokens without end", "more than 100000 settings", |folder| {
            edit(folder, "tokenizer.json", |tokenizer| {
                tokenizer["post_processor"]["special_tokens"]["[CLS]"]["ids"] = json!(vec![2; 100_000]);
            });
        }),
        case("a frame of tokens beyond the vocabulary", "the model knows 600", |folder| {
            edit(folder, "tokenizer.json", |tokenizer| {
                tokenizer["post_processor"]["special_tokens"]["[CLS]"]["ids"] = json!([4_000_000_000u64]);
            });
        }),
    ]
}

fn modules() -> Vec<Case> {
    let modules = |name, says, change: fn(&mut Value)| {
        case(name, says, move |folder| edit(folder, "modules.json", change))
    };
    let pooling = |name, says, field: &'static str, value: Value| {
        case(name, says, move |folder| {
            edit(folder, "1_Pooling/config.json", |config| config[field] = value.clone());
        })
    };
    vec![
        case("nested modules", "modules.json", |f| nested(f, "modules.json")),
        modules("a module outside", "../..", |modules| modules[1]["path"] = json!("../../etc")),
        modules("a module at a place of its own", "leaves the model", |modules| {
            modules[1]["path"] = json!("/etc")
        }),
        modules("a module that is not there", "3_Pooling/config.json", |modules| {
            modules[1]["path"] = json!("3_Pooling")
        }),
        modules("a module that nobody knows", "must be a Pooling", |modules| {
            modules[1]["type"] = json!("os.system")
        }),
        modules("no modules", "must be a Transformer", |modules| *modules = json!([])),
        modules("modules that are text", "invalid type", |modules| *modules = json!("Transformer")),
        modules("a thousand modules", "more than 16 modules", |modules| {
            let one = modules[1].clone();
            modules.as_array_mut().unwrap().extend(vec![one; 1000]);
        }),
        pooling("pooling in no way", "pools by nothing", "pooling_mode_mean_tokens", json!(false)),
        pooling("pooling in all ways", "cls and mean", "pooling_mode_cls_token", json!(true)),
        case("a limit of tokens that is none", "-1", |folder| {
            edit(folder, "sentence_bert_config.json", |config| config["max_seq_length"] = json!(-1));
        }),
    ]
}

/// What stands where files and folders belong.
fn folders() -> Vec<Case> {
    let instead = |name, says, file: &'static str, put: fn(&Path)| {
        case(name, says, move |folder| {
            let path = folder.join(file);
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap()
            } else {
                fs::remove_file(&path).unwrap()
            }
            put(&path);
        })
    };
    let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    vec![
        case("a link", "is a link", |folder| {
            fs::rename(folder.join("config.json"), folder.join("../outside.json")).unwrap();
            symlink("../outside.json", folder.join("config.json")).unwrap();
        }),
        case("a link to a folder", "1_Pooling", |folder| {
            fs::rename(folder.join("1_Pooling"), folder.join("../outside")).unwrap();
            symlink("../outside", folder.join("1_Pooling")).unwrap();
        }),
        instead("a link to itself", "is a link", "config.json", |path| symlink("config.json", path).unwrap()),
        instead("a link to a device", "is a link", "model.safetensors", |path| {
            symlink("/dev/zero", path).unwrap()
        }),
        instead("a pipe", "config.json", "config.json", pipe),
        instead("weights from a pipe", "model.safetensors", "model.safetensors", pipe),
        instead("a tokenizer from a pipe", "tokenizer.json", "tokenizer.json", pipe),
        instead("a socket", "config.json", "config.json", |path| drop(UnixListener::bind(path).unwrap())),
        instead("a folder for a file", "config.json", "config.json", |path| fs::create_dir(path).unwrap()),
        instead("a file for a folder", "1_Pooling/config.json", "1_Pooling", |path| {
            fs::write(path, "{}").unwrap()
        }),
        instead("no weights at all", "model.safetensors", "model.safetensors", |_| ()),
        instead("no tokenizer at all", "tokenizer.json", "tokenizer.json", |_| ()),
        instead("no configuration at all", "config.json", "config.json", |_| ()),
        case("an archive", "no model folder", |folder| {
            fs::remove_dir_all(folder).unwrap();
            fs::write(folder, b"\x28\xb5\x2f\xfd").unwrap();
        }),
        case("nothing", "lacks", |folder| {
            fs::remove_dir_all(folder).unwrap();
            fs::create_dir(folder).unwrap();
        }),
    ]
}

/// Changes a file of JSON.
pub fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn nested(folder: &Path, file: &str) {
    let text = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    fs::write(folder.join(file), text).unwrap();
}

/// A file of so many bytes that takes no room on the disk.
fn sparse(folder: &Path, file: &str, bytes: u64) {
    File::create(folder.join(file)).unwrap().set_len(bytes).unwrap();
}

/// Weights of so many bytes in one tensor, in a file that takes no room on the disk.
fn vast(folder: &Path, bytes: u64) {
    let table = json!({"a": {"dtype": "U8", "shape": [bytes], "data_offsets": [0, bytes]}}).to_string();
    let start = [&(table.len() as u64).to_le_bytes(), table.as_bytes()].concat();
    fs::write(folder.join("model.safetensors"), &start).unwrap();
    let file = File::options().write(true).open(folder.join("model.safetensors")).unwrap();
    file.set_len(start.len() as u64 + bytes).unwrap();
}

/// Changes the table of tensors, and its length as given, or as it is.
fn tensors(folder: &Path, length: Option<u64>, change: impl FnOnce(&mut Value)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (start, rest) = bytes.split_at(8);
    let (table, data) = rest.split_at(u64::from_le_bytes(start.try_into().unwrap()) as usize);
    let mut table = serde_json::from_slice(table).unwrap();
    change(&mut table);
    let table = table.to_string();
    let length = length.unwrap_or(table.len() as u64);
    fs::write(path, [&length.to_le_bytes(), table.as_bytes(), data].concat()).unwrap();
}

/// Some tensor of the table, by name.
fn some_tensor(table: &Value) -> String {
    table.as_object().unwrap().keys().find(|name| name.ends_with("LayerNorm.weight")).unwrap().clone()
}
