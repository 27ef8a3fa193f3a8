//! Answers of language models, and the ids of prompts.
#![no_main]

use embdb::trainer::synth::answer::proposals;
use embdb::trainer::synth::judge::{overlaps, unfit};
use embdb::trainer::synth::prompt::PromptId;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let value = serde_json::from_slice(data).unwrap_or_else(|_| serde_json::Value::String(text.to_string()));
    for proposal in proposals(&value) {
        assert!(!proposal.query.contains('\n'));
        unfit(&proposal.query, &text);
        overlaps(&proposal.query, &text);
    }
    if let Some(id) = PromptId::parse(&text) {
        assert!(id.span.start <= id.span.end && text.ends_with(&id.id));
    }
});
