//! The fuzzer of the target `import_jsonl`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: embdb_fuzz::quiet(), |data: &[u8]| embdb_fuzz::run("import_jsonl", data));
