//! What an answer of a language model holds: queries, and hard negatives for them.
//!
//! Models answer as they like. Read are an object `{"query", "hard_negative"?}`, a list of such objects or of texts, either
//! of them in a text among other words or in a code fence, and a plain line, which is taken for the query.

use serde_json::{Map, Value};

/// Queries of one answer, at most.
const QUERIES_MOST: usize = 20;
/// Bytes of a hard negative, at most.
const NEGATIVE_BYTES: usize = 8 << 10;
/// Keys that models use for the query, against what they were asked.
const QUERY_KEYS: [&str; 4] = ["query", "user_query", "question", "claim"];
const NEGATIVE_KEYS: [&str; 3] = ["hard_negative", "negative", "hard_negative_document"];
/// Words with which some begin the line.
const LABELS: [&str; 6] = ["query:", "question:", "search query:", "keywords:", "claim:", "statement:"];

/// A query that an answer proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The query; may be empty.
    pub query: String,
    /// A text that looks like an answer and is none.
    pub hard_negative: Option<String>,
}

/// The proposals of an answer; none if nothing can be made of it.
pub fn proposals(answer: &Value) -> Vec<Proposal> {
    let mut found = match answer {
        Value::String(text) => of_text(text),
        other => of_value(other),
    };
    found.truncate(QUERIES_MOST);
    found
}

fn of_value(value: &Value) -> Vec<Proposal> {
    match value {
        Value::Object(object) => of_object(object),
        Value::Array(items) => items.iter().take(QUERIES_MOST).flat_map(of_item).collect(),
        _ => Vec::new(),
    }
}

fn of_item(item: &Value) -> Vec<Proposal> {
    match item {
        Value::Object(object) => of_object(object),
        Value::String(text) => vec![Proposal { query: tidy(text), hard_negative: None }],
        _ => Vec::new(),
    }
}

fn of_object(object: &Map<String, Value>) -> Vec<Proposal> {
    let text = |keys: &[&str]| keys.iter().find_map(|key| object.get(*key)).and_then(Value::as_str);
    if let Some(query) = text(&QUERY_KEYS) {
        let hard_negative = text(&NEGATIVE_KEYS)
            .map(str::trim)
            .filter(|negative| !negative.is_empty() && negative.len() <= NEGATIVE_BYTES)
            .map(str::to_owned);
        return vec![Proposal { query: tidy(query), hard_negative }];
    }
    match object.get("queries").or_else(|| object.get("questions")) {
        Some(Value::Array(items)) => items.iter().take(QUERIES_MOST).flat_map(of_item).collect(),
        _ => Vec::new(),
    }
}

/// The JSON in a text, or else its first line that says something.
fn of_text(text: &str) -> Vec<Proposal> {
    if let Some(value) = embedded(text) {
        let found = of_value(&value);
        if !found.is_empty() {
            return found;
        }
    }
    // Braces that do not parse are a broken answer, not a query.
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("```"));
    match lines.next() {
        Some(line) if !line.starts_with(['{', '[']) => {
            vec![Proposal { query: tidy(line), hard_negative: None }]
        }
        _ => Vec::new(),
    }
}

/// The first JSON object or list in a text that parses.
fn embedded(text: &str) -> Option<Value> {
    // Each start is tried once, and only the first few: a text of nothing but braces takes no time.
    text.match_indices(['{', '[']).take(8).find_map(|(at, _)| {
        let rest = text.get(at..)?;
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        values.next()?.ok()
    })
}

/// A query on one line, without quotes, list marks and labels around it.
fn tidy(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let joined = words.join(" ");
    let marks = joined.trim_start_matches(['-', '*', '•', '#', '>']);
    // A mark stands apart; what does not may be emphasis, or a number's sign.
    let mut line = if marks.starts_with(' ') { marks.trim_start() } else { joined.as_str() };
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    if (1..=2).contains(&digits)
        && let Some(rest) = line.get(digits..).and_then(|rest| rest.strip_prefix(['.', ')']))
        && let Some(rest) = rest.strip_prefix(' ')
    {
        line = rest;
    }
    for label in LABELS {
        let head = line.get(..label.len()).filter(|head| head.eq_ignore_ascii_case(label));
        if head.is_some() {
            line = line.get(label.len()..).unwrap_or_default().trim_start();
        }
    }
    let quoted = [('"', '"'), ('“', '”'), ('\'', '\''), ('`', '`'), ('*', '*')];
    while let Some(inner) =
        quoted.iter().find_map(|&(open, close)| line.strip_prefix(open)?.strip_suffix(close))
    {
        line = inner.trim();
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn queries(answer: Value) -> Vec<String> {
        proposals(&answer).into_iter().map(|proposal| proposal.query).collect()
    }

    #[test]
    fn objects_lists_and_fences_are_read() {
        let both = json!({"query": "q", "hard_negative": "n"});
        let expected = vec![Proposal { query: "q".into(), hard_negative: Some("n".into()) }];
        assert_eq!(proposals(&both), expected);
        let fenced = format!("Sure! Here it is:\n```json\n{both}\n```\nAnything else?");
        assert_eq!(proposals(&json!(fenced)), expected);
        assert_eq!(proposals(&json!(both.to_string())), expected);
        assert_eq!(queries(json!([both, {"query": "r"}, "s", 3])), ["q", "r", "s"]);
        assert_eq!(queries(json!({"queries": ["q", {"question": "r"}]})), ["q", "r"]);
        assert_eq!(queries(json!("[\"q\", \"r\"]")), ["q", "r"]);
    }

    #[test]
    fn a_plain_line_is_the_query_without_what_stands_around_it() {
        for text in [
            "what is it",
            "  what   is it\n\nI hope that helps.",
            "Query: \"what is it\"",
            "1. what is it",
            "- **what is it**",
            "```\nwhat is it\n```",
        ] {
            assert_eq!(queries(json!(text)), ["what is it"], "{text}");
        }
        assert_eq!(queries(json!("10.5 % of what")), ["10.5 % of what"]);
        assert_eq!(queries(json!("costs {a} and [b]")), ["costs {a} and [b]"]);
    }

    #[test]
    fn what_is_no_answer_gives_nothing() {
        for answer in
            [json!(null), json!(3), json!({}), json!({"query": 3}), json!("{\"query\": \"cut o"), json!("``")]
        {
            assert!(proposals(&answer).iter().all(|proposal| proposal.query.is_empty()), "{answer}");
        }
        assert_eq!(queries(json!("")), [""; 0]);
        assert_eq!(queries(json!({"query": " "})), [""]);
        assert_eq!(proposals(&json!(vec!["q"; 1000])).len(), QUERIES_MOST);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "([a-z0-9 \\[\\]{}\":,.'`*é\n-]|query){0,80}") {
            prop_assert!(proposals(&json!(text)).len() <= QUERIES_MOST);
        }
    }
}
