//! synth prompts, import, generate.

use std::collections::BTreeSet;
use std::fs;
#[cfg(all(feature = "generator", unix))]
use std::process::Command;

use serde_json::{Value, json};

use super::support::{MODEL, Place, keys};
#[cfg(all(feature = "generator", unix))]
use super::{importing::wait_for, support::Run};

#[cfg(feature = "generator")]
const GENERATOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/generator/tiny.gguf");

/// Keys of `synth import`, in order.
const COUNTS: [&str; 13] = [
    "answers",
    "pairs",
    "negatives",
    "by_words",
    "foreign",
    "stale",
    "unreadable",
    "empty",
    "too_long",
    "copies",
    "pointing",
    "repeated",
    "not_found",
];

/// Thirty texts of three subjects, each in a group of its own, and one that says too little.
fn with_passages() -> Place {
    let place = Place::new();
    place.run(&["db", "create", "--model", MODEL]).code(0);
    let mut texts = String::new();
    for n in 0..30 {
        let subject = ["cats", "rain", "bread"][if n < 20 { 0 } else { 1 + n % 2 }];
        let text =
            format!("A passage about {subject} tells that number {n} of them was seen near the harbour.");
        texts += &json!({"id": format!("d-{n}"), "text": text, "subject": subject}).to_string();
        texts.push('\n');
    }
    texts += "{\"id\": \"short\", \"text\": \"too short\"}\n";
    place.write("t.jsonl", texts);
    place.run(&["db", "import", "t.jsonl"]).code(0);
    place
}

fn lines(place: &Place, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(place.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Prompts about all passages.
fn prompts(place: &Place) -> Vec<Value> {
    place.json(&["db", "synth", "prompts", "p.jsonl"]);
    lines(place, "p.jsonl")
}

/// The prompt about a document.
fn prompt_of<'a>(prompts: &'a [Value], id: &str) -> &'a str {
    prompts.iter().find(|prompt| prompt["id"] == id).unwrap()["prompt_id"].as_str().unwrap()
}

#[test]
fn prompts_are_spread_over_groups_and_repeat_with_the_seed() {
    let place = with_passages();
    let report = place.json(&["db", "synth", "prompts", "p.jsonl", "--count", "9", "--seed", "5"]);
    assert_eq!(report, json!({"prompts": 9, "documents": 9, "by": "subject"}));
    let prompts = lines(&place, "p.jsonl");
    assert_eq!(keys(&prompts[0]), ["prompt_id", "id", "chunk", "task", "prompt"]);
    let about = |subject: &str| {
        prompts.iter().filter(|p| p["prompt"].as_str().unwrap().contains(&format!("about {subject}"))).count()
    };
    assert_eq!([about("cats"), about("rain"), about("bread")], [3, 3, 3]);
    place.json(&["db", "synth", "prompts", "again.jsonl", "--count", "9", "--seed", "5"]);
    assert_eq!(prompts, lines(&place, "again.jsonl"));
    place.json(&["db", "synth", "prompts", "again.jsonl", "--count", "9", "--seed", "6"]);
    assert_ne!(prompts, lines(&place, "again.jsonl"));
}

#[test]
fn no_passage_is_asked_about_twice_and_scraps_never() {
    let place = with_passages();
    let run = place.run(&["db", "synth", "prompts", "p.jsonl", "--per-document", "3", "--json"]);
    let report = run.code(0).says(&["30 passages instead of 1000"]).object();
    assert_eq!((&report["prompts"], &report["documents"]), (&json!(30), &json!(30)));
    let ids: BTreeSet<String> = lines(&place, "p.jsonl").iter().map(|p| p["id"].to_string()).collect();
    assert!(ids.len() == 30 && !ids.contains("\"short\""));
    for (style, words) in
        [("question", "is a question;"), ("keywords", "not a sentence;"), ("claim", "a statement")]
    {
        place.json(&["db", "synth", "prompts", "s.jsonl", "--style", style, "--count", "4"]);
        assert!(
            lines(&place, "s.jsonl").iter().all(|p| p["prompt"].as_str().unwrap().contains(words)),
            "{style}"
        );
    }
    place.run(&["db", "synth", "prompts", "s.jsonl", "--style", "ode"]).code(1).says(&["--style"]);
    place.run(&["db", "synth", "prompts", "s.jsonl", "--count", "0"]).code(1).says(&["--count"]);
}

#[test]
fn answers_of_every_kind_are_read_or_left_out_for_a_reason() {
    let place = with_passages();
    let prompts = prompts(&place);
    place.write("changed.jsonl", "{\"id\": \"d-1\", \"text\": \"Something else stands here now, and it is long enough to be asked about.\"}\n");
    place.run(&["db", "import", "changed.jsonl"]).code(0);
    place.run(&["db", "delete", "d-2"]).code(0);
    let of = |n: usize| prompt_of(&prompts, &format!("d-{n}")).to_owned();
    let answers = [
        (
            of(3),
            json!({"query": "cats number 3 seen near harbour", "hard_negative": "Cats never go near water."}),
        ),
        (of(4), json!("```json\n{\"query\": \"cats number 4 seen near harbour\"}\n```")),
        (of(5), json!("Query: \"cats number 5 seen near harbour\"")),
        (
            of(6),
            json!([{"query": "cats number 6 seen near harbour"}, {"query": "harbour cats seen, number 6"}]),
        ),
        (of(7), json!({"query": "Cats  number 3 seen NEAR harbour"})),
        (of(8), json!({"query": "?"})),
        (of(9), json!({"query": "why ".repeat(100)})),
        (
            of(10),
            json!({"query": "A passage about cats tells that number 10 of them was seen near the harbour."}),
        ),
        (of(11), json!("What is the text about?")),
        (of(12), json!(17)),
        (of(1), json!({"query": "cats number 1 seen near harbour"})),
        (of(2), json!({"query": "cats number 2 seen near harbour"})),
        ("somebody else's".into(), json!({"query": "cats number 2 seen near harbour"})),
    ];
    let text: String = answers
        .iter()
        .map(|(id, answer)| json!({"prompt_id": id, "answer": answer, "model": "m"}).to_string() + "\n")
        .collect();
    place.write("a.jsonl", text);
    let run = place.run(&["db", "synth", "import", "a.jsonl", "--out", "pairs.jsonl", "--json"]);
    let report =
        run.code(0).says(&["2 answers are about no document", "1 about passages that have changed"]).object();
    assert_eq!(keys(&report), COUNTS);
    let counts =
        |names: &[&str]| -> Vec<u64> { names.iter().map(|name| report[*name].as_u64().unwrap()).collect() };
    assert_eq!(counts(&["answers", "pairs", "negatives", "not_found"]), [13, 5, 1, 0]);
    assert_eq!(counts(&["foreign", "stale", "unreadable", "empty"]), [2, 1, 1, 1]);
    assert_eq!(counts(&["too_long", "copies", "pointing", "repeated"]), [1, 1, 1, 1]);
    let pairs = lines(&place, "pairs.jsonl");
    assert_eq!(
        pairs[0],
        json!({
            "query": "cats number 3 seen near harbour",
            "positive": {"id": "d-3"},
            "negative": "Cats never go near water."
        })
    );
    assert_eq!(pairs[1], json!({"query": "cats number 4 seen near harbour", "positive": {"id": "d-4"}}));
}

#[test]
fn a_query_that_does_not_find_its_passage_is_left_out_unless_all_are_kept() {
    let place = with_passages();
    let prompts = prompts(&place);
    // Found neither by the encoder, whose first 20 hits are about something else, nor by its words.
    let mut answers = String::new();
    for n in 0..30 {
        let answer = json!({"prompt_id": prompt_of(&prompts, &format!("d-{n}")), "answer": format!("zebra crossing {n}")});
        answers += &format!("{answer}\n");
    }
    place.write("a.jsonl", answers);
    let report = place.json(&["db", "synth", "import", "a.jsonl", "--out", "pairs.jsonl"]);
    assert_eq!(report["pairs"].as_u64().unwrap() + report["not_found"].as_u64().unwrap(), 30);
    assert!(report["not_found"].as_u64().unwrap() >= 5, "{report}");
    let all = place.json(&["db", "synth", "import", "a.jsonl", "--out", "pairs.jsonl", "--keep-all"]);
    assert_eq!((&all["pairs"], &all["not_found"]), (&json!(30), &json!(0)));
    assert_eq!(lines(&place, "pairs.jsonl").len(), 30);
}

#[test]
fn faulty_files_are_named_with_their_line_and_leave_nothing_behind() {
    let place = with_passages();
    let prompts = prompts(&place);
    let good = json!({"prompt_id": prompt_of(&prompts, "d-3"), "answer": "cats number 3 seen near harbour"});
    place.write("before.jsonl", "what was there");
    for (line, words) in [
        ("{\"prompt_id\": \"x\"", "invalid JSON"),
        ("[]", "not a JSON object"),
        ("{\"answer\": \"q\"}", "no \"prompt_id\""),
        ("{\"prompt_id\": \"x\"}", "no \"answer\""),
        ("{\"prompt_id\": 7, \"answer\": \"q\"}", "no \"prompt_id\""),
    ] {
        place.write("a.jsonl", format!("{good}\n\n{line}\n"));
        place
            .run(&["db", "synth", "import", "a.jsonl", "--out", "before.jsonl"])
            .code(1)
            .says(&["a.jsonl, line 3", words]);
        assert_eq!(fs::read_to_string(place.path("before.jsonl")).unwrap(), "what was there");
    }
    place.run(&["db", "synth", "import", "none.jsonl", "--out", "o.jsonl"]).code(1).says(&["none.jsonl"]);
    place.run(&["db", "synth", "prompts", "no/where.jsonl"]).code(1).says(&["no/where.jsonl"]);
    place.run(&["nowhere", "synth", "prompts", "o.jsonl"]).code(1).says(&["nowhere"]);
    place.write_npy("v.npy", &super::support::vectors(5));
    place.run(&["v", "import", "v.npy"]).code(0);
    place.run(&["v", "synth", "prompts", "o.jsonl"]).code(1).says(&["no encoder"]);
    place.run(&["empty", "create", "--model", MODEL]).code(0);
    place.run(&["empty", "synth", "prompts", "o.jsonl"]).code(1).says(&["empty"]);
    let left: Vec<String> = fs::read_dir(place.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tmp") || name == "o.jsonl")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn pairs_are_learnt_from() {
    let place = with_passages();
    let prompts = prompts(&place);
    let mut answers = String::new();
    for n in 0..30 {
        let prompt_id = prompt_of(&prompts, &format!("d-{n}"));
        for query in [format!("who saw number {n}"), format!("harbour and {n} of them")] {
            answers += &format!("{}\n", json!({"prompt_id": prompt_id, "answer": query}));
        }
    }
    place.write("a.jsonl", answers);
    place.json(&["db", "synth", "import", "a.jsonl", "--out", "pairs.jsonl", "--keep-all"]);
    let plan = place.json(&["db", "retrain", "--data", "pairs.jsonl", "--plan"]);
    assert!(plan["gate"]["reason"].as_str().unwrap().contains("linear adapter"), "{plan}");
}

#[cfg(feature = "generator")]
#[test]
fn a_small_model_writes_queries_which_a_seed_repeats() {
    let place = with_passages();
    let generate = |out: &str, seed: &str| {
        let args =
            ["db", "synth", "generate", "--model", GENERATOR, "--out", out, "--count", "6", "--seed", seed];
        // More threads would wait for one another in a loop, while other tests have the cores.
        place.json(&[&args[..], &["--keep-all", "--threads", "1"]].concat())
    };
    let report = generate("a.jsonl", "1");
    let expected: Vec<&str> =
        ["passages"].into_iter().chain(COUNTS).chain(["tokens_read", "tokens_written", "seconds"]).collect();
    assert_eq!(keys(&report), expected);
    assert_eq!((&report["passages"], &report["answers"]), (&json!(6), &json!(6)));
    assert!(report["pairs"].as_u64().unwrap() >= 3, "{report}");
    assert_eq!(lines(&place, "a.jsonl").len() as u64, report["pairs"].as_u64().unwrap());
    generate("b.jsonl", "1");
    assert_eq!(lines(&place, "a.jsonl"), lines(&place, "b.jsonl"));
    generate("b.jsonl", "2");
    assert_ne!(lines(&place, "a.jsonl"), lines(&place, "b.jsonl"));
    assert!(!place.path("a.jsonl.answers").exists());
}

#[cfg(all(feature = "generator", unix))]
#[test]
fn an_interrupted_run_keeps_its_pairs_and_the_same_command_goes_on() {
    const PASSAGES: usize = 200;
    let place = with_passages();
    let text =
        |n: usize| format!("Somebody at the harbour wrote down in book {n} what the tide had brought.");
    let texts: String =
        (0..PASSAGES).map(|n| json!({"id": format!("t-{n}"), "text": text(n)}).to_string() + "\n").collect();
    place.write("more.jsonl", texts);
    place.run(&["db", "import", "more.jsonl"]).code(0);
    let generate = |out| {
        let args = ["db", "synth", "generate", "--model", GENERATOR, "--out", out, "--count", "200"];
        [&args[..], &["--keep-all", "--threads", "1", "--json"]].concat()
    };
    let kept = || fs::read_to_string(place.path("a.jsonl.answers")).map_or(0, |text| text.lines().count());
    let child = place.spawn(&generate("a.jsonl"));
    wait_for(|| kept() >= 5);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let words = ["of 200", "a.jsonl", "the same command goes on"];
    Run::from(child.wait_with_output().unwrap()).code(130).says(&words);
    let (first, stopped) = (kept(), lines(&place, "a.jsonl"));
    assert!(
        (5..PASSAGES).contains(&first) && !stopped.is_empty(),
        "{first} answers, {} pairs",
        stopped.len()
    );

    let other = [&generate("a.jsonl")[..], &["--seed", "9"]].concat();
    place.run(&other).code(1).says(&["a.jsonl.answers, line 1", "seed 0", "seed 9"]);
    let read = place.json(&["db", "synth", "import", "a.jsonl.answers", "--out", "c.jsonl", "--keep-all"]);
    assert_eq!(read["answers"], first);

    let words = format!("{first} answers were there");
    let report = place.run(&generate("a.jsonl")).code(0).says(&[&words]).object();
    assert_eq!((&report["passages"], report.get("stopped")), (&json!(PASSAGES), None));
    assert!(!place.path("a.jsonl.answers").exists());
    let whole = lines(&place, "a.jsonl");
    assert_eq!(whole[..stopped.len()], stopped);
    place.run(&generate("b.jsonl")).code(0);
    assert_eq!(whole, lines(&place, "b.jsonl"));
}

#[cfg(feature = "generator")]
#[test]
fn threads_are_a_number_and_not_for_the_shell() {
    let place = with_passages();
    let args = ["synth", "generate", "--model", GENERATOR, "--out", "o.jsonl", "--count", "2", "--threads"];
    place.run(&[&["db"], &args[..], &["0"]].concat()).code(1).says(&["--threads"]);
    let statement = format!("{} 2\n", args.join(" "));
    place.feed(&["db"], &statement).code(1).says(&["--threads", "embdb db synth generate"]);
    assert!(!place.path("o.jsonl").exists());
}

#[cfg(feature = "generator")]
#[test]
fn what_is_no_generator_is_refused() {
    let place = with_passages();
    let refused = |model: &str, words: &str, code: i32| {
        place
            .run(&["db", "synth", "generate", "--model", model, "--out", "o.jsonl"])
            .code(code)
            .says(&[model, words]);
        assert!(!place.path("o.jsonl").exists());
    };
    refused("none.gguf", "no file", 1);
    place.write("text.gguf", "GGU");
    refused("text.gguf", "no GGUF file", 1);
    let whole = fs::read(GENERATOR).unwrap();
    place.write("cut.gguf", &whole[..whole.len() / 2]);
    refused("cut.gguf", "shall lie at", 2);
    place.write("short.gguf", &whole[..100]);
    refused("short.gguf", "ends within its header", 2);
    let mut many = whole.clone();
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    place.write("many.gguf", many);
    refused("many.gguf", "the number of tensors", 5);
    place
        .run(&["db", "synth", "generate", "--model", GENERATOR, "--out", "o.jsonl", "--temperature", "x"])
        .code(1)
        .says(&["--temperature"]);
}
