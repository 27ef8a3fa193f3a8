use super::*;

/// Splitters of real models.
const REAL: [&str; 6] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\s+(?!\S)",
    r" {2,}",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
];

#[test]
fn splitters_of_real_models_are_let_in() {
    for regex in REAL {
        assert_eq!(check_regex(regex), Ok(()), "{regex}");
    }
}

#[test]
fn regexes_that_may_take_long_are_refused() {
    for (regex, why) in [
        ("(a+)+$", "repeats"),
        (r"(a|\s+(?!\S)|b)*c", "look-around"),
        (r"x*\s+(?!\S)", "look-around"),
        (r"\s+(?!\S)y", "look-around"),
        ("(?=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "backreference"),
        ("(?:a{2,}b?){3}", "repeats"),
        ("((((((((((((((((((((((((((((((((((((a))))))))))))))))))))))))))))))))))))", "nest"),
        ("[a", "unclosed"),
    ] {
        let error = check_regex(regex).unwrap_err();
        assert!(error.contains(why), "{regex}: {error}");
    }
    for fine in ["(?:ab)+", "a?b+|c{3}", "(a?)+", "", "a|"] {
        let expected = fine != "(a?)+";
        assert_eq!(check_regex(fine).is_ok(), expected, "{fine}");
    }
}

#[test]
fn alternatives_are_cut_outside_of_groups_and_classes() {
    assert_eq!(alternatives(r"a|(b|c)|[|]|\||d"), ["a", "(b|c)", "[|]", r"\|", "d"]);
    assert_eq!(alternatives(""), [""]);
}

fn tokenizer(fields: &str) -> Result<()> {
    check_tokenizer("tokenizer.json", format!("{{{fields}}}").as_bytes())
}

fn refusal(fields: &str) -> String {
    tokenizer(fields).unwrap_err().to_string()
}

#[test]
fn a_tokenizer_must_not_be_too_much() {
    let long = "x".repeat(TEXT_BYTES + 1);
    let entries = vec!["0"; ENTRIES + 1].join(",");
    let added = vec!["{}"; ADDED_TOKENS + 1].join(",");
    let settings = vec!["[]"; SETTINGS + 1].join(",");
    tokenizer(&format!("\"model\": {{\"vocab\": {{\"{}\": 1}}}}", &long[1..])).unwrap();
    tokenizer(&format!("\"normalizer\": {{\"precompiled_charsmap\": \"{long}\"}}")).unwrap();
    for (fields, why) in [
        (format!("\"model\": {{\"merges\": [\"{long} y\"]}}"), "limit of 4096"),
        (format!("\"model\": {{\"vocab\": {{\"{long}\": 1}}}}"), "limit of 4096"),
        (format!("\"model\": {{\"vocab\": [{entries}]}}"), "entries in one list"),
        (format!("\"added_tokens\": [{added}]"), "added tokens"),
        (format!("\"post_processor\": [{settings}]"), "settings"),
        (format!("\"a\": {}{}", "[".repeat(100_000), "]".repeat(100_000)), "recursion limit"),
        ("\"a\": 1} {".into(), "trailing"),
    ] {
        let error = refusal(&fields);
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn normalisers_must_not_blow_up_a_text() {
    let replace = |pattern: &str, content: &str| {
        format!("{{\"type\": \"Replace\", \"pattern\": {pattern}, \"content\": \"{content}\"}}")
    };
    let sequence = |step: &str, times: usize| {
        let steps = vec![step; times].join(",");
        format!("\"normalizer\": {{\"type\": \"Sequence\", \"normalizers\": [{steps}]}}")
    };
    let double = replace("{\"String\": \"a\"}", "aa");
    tokenizer(&sequence(&double, 4)).unwrap();
    assert!(refusal(&sequence(&double, 5)).contains("16 times"));
    assert!(refusal(&sequence(&sequence(&double, 5)[14..], 1)).contains("16 times"));
    assert!(refusal(&sequence(&double, 200)).contains("16 times"));
    tokenizer(&sequence(&replace("{\"Regex\": \" {2,}\"}", " "), 100)).unwrap();
    tokenizer(&sequence(&replace("{\"String\": \" \"}", "▁"), 1)).unwrap();
    assert!(refusal(&sequence(&replace("{\"String\": \"\"}", "x"), 1)).contains("empty"));
    assert!(refusal(&sequence(&replace("{\"Regex\": \"(b+)+\"}", "x"), 1)).contains("repeats"));
}

fn tensors(table: &str, data: u64) -> Result<()> {
    let mut start = (table.len() as u64).to_le_bytes().to_vec();
    start.extend_from_slice(table.as_bytes());
    let bytes = start.len() as u64 + data;
    check_tensors("model.safetensors", &start, bytes)
}

#[test]
fn tensors_must_cover_their_file() {
    let one =
        |from: u64, to: u64| format!("{{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[{from},{to}]}}");
    let two = |first: (u64, u64), second: (u64, u64)| {
        format!(
            "{{\"__metadata__\":{{\"format\":\"pt\"}},\"a\":{},\"b\":{}}}",
            one(first.0, first.1),
            one(second.0, second.1)
        )
    };
    tensors(&two((0, 8), (8, 16)), 16).unwrap();
    tensors(&two((8, 16), (0, 8)), 16).unwrap();
    tensors("{}", 0).unwrap();
    for (table, data) in [
        (two((0, 8), (4, 12)), 12),
        (two((0, 8), (9, 17)), 17),
        (two((0, 8), (8, 16)), 17),
        (two((0, 8), (8, 16)), 15),
        (two((8, 0), (8, 16)), 16),
        (two((0, 8), (8, u64::MAX)), 16),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}".into(), 8),
        ("{\"a\":{\"dtype\":\"F32\",\"shape\":[9000000000],\"data_offsets\":[0,8]}}".into(), 8),
        ("{\"a\":1}".into(), 0),
        ("[]".into(), 0),
    ] {
        assert_eq!(tensors(&table, data).unwrap_err().exit_code(), 2, "{table}");
    }
    for (start, bytes) in
        [(vec![], 0), (vec![1, 2], 2), (vec![255; 8], 100), ((1u64 << 63).to_le_bytes().to_vec(), 1 << 40)]
    {
        assert_eq!(check_tensors("m", &start, bytes).unwrap_err().exit_code(), 2, "{start:?}");
    }
    let long = (HEADER_BYTES + 1).to_le_bytes();
    assert_eq!(check_tensors("m", &long, 1 << 40).unwrap_err().exit_code(), 5);
}
