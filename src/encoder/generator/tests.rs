use super::*;

/// Made by `tools/tiny_generator.py`: writes letters and spaces.
const TINY: &[u8] = include_bytes!("../../../tests/fixtures/generator/tiny.gguf");

fn tiny() -> Generator {
    Generator::from_bytes("tiny.gguf", TINY.to_vec(), None).unwrap()
}

/// Chances that repeat themselves.
fn chances() -> impl FnMut() -> f64 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[test]
fn answers_are_one_line_and_the_same_again() {
    let generator = tiny();
    let sampling = Sampling { tokens: 24, ..Sampling::default() };
    let beginning = generator.begin("Say something.", &[("a", "b")]).unwrap();
    let answer = |question| beginning.answer(question, &sampling, chances()).unwrap();
    let first = answer("the keeper of the hall");
    assert_eq!(first.written, 24);
    assert!(first.text.chars().filter(|c| c.is_ascii_lowercase()).count() > 8, "{first:?}");
    assert!(!first.text.contains('\n') && first.read > 20);
    let other = answer("another question");
    assert_ne!(first.text, other.text);
    // What was asked between leaves no trace.
    assert_eq!(answer("the keeper of the hall"), first);
    let again = tiny();
    let again = again.begin("Say something.", &[("a", "b")]).unwrap();
    assert_eq!(again.answer("the keeper of the hall", &sampling, chances()).unwrap(), first);
}

#[test]
fn a_shared_beginning_gives_what_the_whole_text_gives() {
    let generator = tiny();
    let whole =
        format!("{}{}{TURN}assistant\n", turn("system", "Say something."), turn("user", "a question"));
    let ids = generator.vocabulary.encode(&whole).unwrap();
    let mut model = generator.model.clone();
    let expected: Vec<f32> =
        model.forward(&row(&ids).unwrap(), 0).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let begun = generator.begin("Say something.", &[]).unwrap();
    let mut model = begun.model.clone();
    let rest = row(&ids[begun.tokens..]).unwrap();
    let found: Vec<f32> =
        model.forward(&rest, begun.tokens).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert!(
        expected.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-2),
        "{:?}",
        expected.first().zip(found.first())
    );
}

#[test]
fn a_question_that_is_too_long_loses_its_end_and_no_turn_can_be_forged() {
    let generator = tiny();
    let sampling = Sampling { tokens: 4, ..Sampling::default() };
    let beginning = generator.begin("Say something.", &[]).unwrap();
    let long = beginning.answer(&"word ".repeat(2_000), &sampling, chances()).unwrap();
    assert!(long.read + 4 + beginning.tokens <= generator.positions && long.read > 900, "{long:?}");
    assert_eq!(turn("user", "<|im_end|>"), "<|im_start|>user\n< |im_end|><|im_end|>\n");
    assert!(generator.begin(&"word ".repeat(2_000), &[]).is_err());
}

#[test]
fn a_model_of_another_kind_is_refused_with_what_to_do() {
    let changed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = TINY.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = TINY.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        Generator::from_bytes("m.gguf", bytes, None).map(|_| ()).unwrap_err().to_string()
    };
    for (from, to, words) in [
        ("llama", "qwen2", "\"qwen2\"; those of the kind llama"),
        ("gpt2", "bert", "tokenizer.json beside it"),
        ("smollm", "smolmo", "\"smolmo\""),
        ("<|im_end|>", "<|im_emd|>", "ChatML"),
        ("blk.1.ffn_down.weight", "blk.1.ffn_dawn.weight", "blk.1.ffn_down.weight is missing"),
        ("llama.block_count", "llama.block_caunt", "llama.block_count is missing"),
    ] {
        let message = changed(from, to);
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn any_byte_of_the_header_may_be_wrong() {
    // What lies behind are weights, of which any value is one.
    let end = TINY.len().min(9_000);
    let mut loaded = 0;
    for at in (0..end).step_by(41) {
        let mut bytes = TINY.to_vec();
        bytes[at] ^= 0x41;
        if let Ok(generator) = Generator::from_bytes("m.gguf", bytes, None) {
            let sampling = Sampling { tokens: 2, ..Sampling::default() };
            if let Ok(beginning) = generator.begin("x", &[]) {
                beginning.answer("y", &sampling, chances()).ok();
            }
            loaded += 1;
        }
    }
    assert!(loaded > 0);
}

#[test]
fn a_folder_must_hold_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| Generator::load(path).map(|_| ()).unwrap_err().to_string();
    assert!(message(folder.path()).contains("0 GGUF files"));
    fs::write(folder.path().join("a.gguf"), TINY).unwrap();
    assert!(Generator::load(folder.path()).is_ok() && Generator::load(&folder.path().join("a.gguf")).is_ok());
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert!(message(folder.path()).contains("tokenizer.json"));
    fs::write(folder.path().join("b.GGUF"), TINY).unwrap();
    assert!(message(folder.path()).contains("2 GGUF files"));
    assert!(message(&folder.path().join("none")).contains("no file or folder"));
}
