use super::*;

fn read_text(text: impl AsRef<[u8]>) -> Result<Data> {
    read(text.as_ref(), "p.jsonl")
}

fn sound(text: &str) -> Data {
    read_text(text).unwrap()
}

fn message(text: impl AsRef<[u8]>) -> String {
    let error = read_text(text).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    error.to_string()
}

fn texts(record: &Record) -> Vec<&str> {
    let text = |target| match target {
        &Target::Text(ref text) | &Target::Id(ref text) | &Target::Passage { ref text, .. } => text.as_str(),
    };
    record.texts.iter().map(text).collect()
}

#[test]
fn the_fixture_gives_texts_and_ids_and_drops_repetitions() {
    let file = include_bytes!("../../../tests/fixtures/trainer/pairs.jsonl");
    let data = read_text(file).unwrap();
    assert_eq!(data.shape, Shape::Pairs);
    assert_eq!((data.report.lines, data.report.records, data.report.duplicates), (5, 4, 1));
    assert_eq!(data.report.notes, ["1 repeated pairs were dropped"]);
    let texts = |record: usize| data.records[record].texts.clone();
    assert_eq!(texts(0)[1], Target::Text("Choose 'forgot password' on the sign-in page.".into()));
    assert_eq!(texts(1), [Target::Text("where is my invoice".into()), Target::Id("doc-7".into())]);
    assert_eq!(texts(2)[1], Target::Id("42".into()));
    assert_eq!(texts(3)[0], Target::Text("größe ändern".into()));
    assert!(data.records.iter().all(|record| record.weight == 1.0 && record.time == 0));
}

#[test]
fn triplets_have_any_number_of_negatives_and_a_teachers_word() {
    let data = sound(
        "{\"anchor\":\"q\",\"positive\":\"p\",\"negative\":\"n\",\"source\":\"x\"}\n\
         {\"query\":\"r\",\"positive\":{\"id\":3},\"negatives\":[\"n\",{\"id\":\"m\"}]}\n",
    );
    assert_eq!(data.shape, Shape::Triplets);
    assert_eq!(texts(&data.records[0]), ["q", "p", "n"]);
    assert_eq!(
        data.records[1].texts[1..],
        [Target::Id("3".into()), Target::Text("n".into()), Target::Id("m".into())]
    );
    assert_eq!(data.records[1].line, 2);

    let margins = sound(
        "{\"query\":\"q\",\"positive\":\"p\",\"negative\":\"n\",\"margin\":8}\n\
         {\"query\":\"r\",\"positive\":\"p\",\"negatives\":[\"n\",\"m\"],\"margins\":[-2,4.0]}\n",
    );
    assert_eq!(margins.records[1].targets, [-0.25, 0.5]);
    assert_eq!(margins.report.notes, ["margins of up to 8 were divided by it, as cosines lie within 1"]);
    let scores = sound(
        "{\"query\":\"q\",\"positive\":\"p\",\"negative\":\"n\",\"scores\":[9,-1]}\n\
         {\"query\":\"r\",\"positive\":\"p\",\"negatives\":[\"n\",\"m\"],\"scores\":[3,2,1]}\n",
    );
    assert_eq!(scores.records[0].targets, [9.0, -1.0]);
    assert_eq!(scores.records[1].targets, [3.0, 2.0, 1.0]);
}

#[test]
fn scored_pairs_are_brought_to_0_to_1() {
    let data = sound(
        "{\"sentence1\":\"a\",\"sentence2\":\"b\",\"score\":5.0}\n\
         {\"text1\":\"a\",\"text2\":\"c\",\"score\":2}\n{\"text1\":\"d\",\"text2\":\"c\",\"score\":0.5}",
    );
    assert_eq!(data.shape, Shape::Scored);
    let scores: Vec<f32> = data.records.iter().flat_map(|record| record.targets.clone()).collect();
    assert_eq!(scores, [1.0, 0.4, 0.1]);
    assert_eq!(data.report.notes, ["scores from 0 to 5 were brought to 0 to 1"]);
    let signed = sound(
        "{\"text1\":\"a\",\"text2\":\"b\",\"score\":-1}\n{\"text1\":\"a\",\"text2\":\"c\",\"score\":0.5}\n\
         {\"text1\":\"a\",\"text2\":\"d\",\"score\":1}",
    );
    assert_eq!(signed.records[1].targets, [0.75]);
    let labels = sound(
        "{\"text1\":\"a\",\"text2\":\"b\",\"label\":0}\n{\"text1\":\"a\",\"text2\":\"c\",\"label\":true}",
    );
    assert_eq!(labels.records[1].targets, [1.0]);
    assert!(labels.report.notes.is_empty());
}

#[test]
fn classes_are_numbered_in_their_order() {
    let data = sound(
        "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":7}\n{\"text\":\"c\",\"label\":\"x\"}\n",
    );
    assert_eq!(data.shape, Shape::Classes);
    assert_eq!(data.labels, ["x", "7"]);
    assert_eq!(data.records.iter().map(|r| r.class).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn contradictions_are_dropped_or_averaged_and_counted() {
    let scored = sound(
        "{\"text1\":\"a\",\"text2\":\"b\",\"score\":0.25}\n{\"text1\":\"b\",\"text2\":\"a\",\"score\":0.75}\n\
         {\"text1\":\"a\",\"text2\":\"c\",\"score\":1}\n{\"text1\":\"c\",\"text2\":\"a\",\"score\":1}",
    );
    assert_eq!(scored.records.len(), 2);
    assert_eq!(scored.records[0].targets, [0.5]);
    assert_eq!((scored.report.contradictions, scored.report.duplicates), (2, 1));
    assert_eq!(scored.report.notes[0], "1 pairs of texts (2 lines) scored differently got the mean");

    let labelled = sound(
        "{\"text1\":\"a\",\"text2\":\"b\",\"label\":0}\n{\"text1\":\"a\",\"text2\":\"b\",\"label\":1}\n\
         {\"text1\":\"a\",\"text2\":\"c\",\"label\":1}\n{\"text1\":\"a\",\"text2\":\"d\",\"label\":0}",
    );
    assert_eq!((labelled.records.len(), labelled.report.contradictions), (2, 2));

    let classes = sound(
        "{\"text\":\"a\",\"label\":1}\n{\"text\":\"a\",\"label\":2}\n{\"text\":\"b\",\"label\":1}\n\
         {\"text\":\"c\",\"label\":1}\n{\"text\":\"d\",\"label\":2}\n{\"text\":\"d\",\"label\":2}",
    );
    assert_eq!((classes.records.len(), classes.report.contradictions, classes.report.duplicates), (3, 2, 1));
    assert_eq!(classes.report.notes[0], "2 lines were dropped: 1 texts stand there with several labels");

    let triplets = sound(
        "{\"query\":\"q\",\"positive\":\"p\",\"negatives\":[\"n\",\"r\",\"m\"],\"scores\":[4,3,2,1]}\n\
         {\"query\":\"q\",\"positive\":\"r\",\"negative\":\"p\",\"scores\":[4,3]}\n",
    );
    assert_eq!(triplets.records.len(), 1);
    assert_eq!(texts(&triplets.records[0]), ["q", "p", "n", "m"]);
    assert_eq!(triplets.records[0].targets, [4.0, 3.0, 1.0]);
    assert_eq!(triplets.report.contradictions, 2);
}

#[test]
fn what_finds_itself_is_dropped() {
    let data = sound(
        "{\"query\":\"q\",\"positive\":\" q\"}\n{\"query\":\"q\",\"positive\":\"p\"}\n\
         {\"query\":\"r\",\"positive\":\"s\"}",
    );
    assert_eq!((data.records.len(), data.report.empty), (2, 1));
}

#[test]
fn a_text_equal_to_an_id_is_another_pair() {
    let data = sound(
        "{\"query\":\"q\",\"positive\":\"7\"}\n{\"query\":\"q\",\"positive\":{\"id\":\"7\"}}\n\
         {\"query\":\"r\",\"positive\":\"7\"}",
    );
    assert_eq!(data.records.len(), 3);
}

#[test]
fn faults_are_named_with_their_line() {
    let pair = "{\"query\":\"q\",\"positive\":\"p\"}";
    let triplet = "{\"query\":\"q\",\"positive\":\"p\",\"negative\":\"n\"}";
    let taught = "{\"query\":\"q\",\"positive\":\"p\",\"negative\":\"n\",\"margin\":1}";
    let scored = "{\"sentence1\":\"a\",\"sentence2\":\"b\",\"score\":1}";
    let class = "{\"text\":\"a\",\"label\":\"x\"}";
    for (good, line, needle) in [
        (pair, "{\"query\":\"q\"}", "no \"positive\""),
        (pair, "{\"positive\":\"p\"}", "no \"query\""),
        (pair, "{\"query\":\" \",\"positive\":\"p\"}", "\"query\" is not a text"),
        (pair, "{\"query\":\"q\",\"positive\":3}", "\"positive\" is neither"),
        (pair, "{\"query\":\"q\",\"positive\":{\"id\":\"\"}}", "without an \"id\""),
        (pair, "{\"query\":\"q\",\"anchor\":\"q\",\"positive\":\"p\"}", "only one"),
        (pair, triplet, "a triplet, but line 1 is a pair; a file holds one shape throughout"),
        (pair, scored, "a scored pair, but line 1 is a pair"),
        (class, pair, "a pair, but line 1 is a text with a class"),
        (pair, "{\"words\":1}", "no key tells what it is"),
        (pair, "[1]", "not a JSON object"),
        (pair, "{\"query\":", "invalid JSON"),
        (triplet, "{\"query\":\"q\",\"positive\":\"p\",\"negatives\":[]}", "empty list"),
        (triplet, "{\"query\":\"q\",\"positive\":\"p\",\"negatives\":[\"\"]}", "\"negatives\" is neither"),
        (triplet, "{\"query\":\"q\",\"positive\":\"p\",\"negatives\":1,\"negative\":2}", "only one"),
        (triplet, taught, "it has a teacher's margins, but line 1 has nothing of a teacher's"),
        (taught, triplet, "it has nothing of a teacher's, but line 1 has a teacher's margins"),
        (taught, "{\"query\":\"q\",\"positive\":\"p\",\"negative\":\"n\",\"scores\":[1]}", "makes 2"),
        (taught, "{\"query\":\"q\",\"positive\":\"p\",\"negative\":\"n\",\"margin\":\"1\"}", "finite number"),
        (scored, "{\"sentence1\":\"a\",\"sentence2\":\"b\"}", "no \"score\""),
        (scored, "{\"sentence1\":\"a\",\"sentence2\":\"b\",\"score\":1e39}", "not a finite number"),
        (scored, "{\"sentence1\":\"a\",\"sentence2\":\"b\",\"score\":1,\"label\":1}", "only one"),
        (scored, "{\"sentence1\":\"a\",\"text2\":\"b\",\"score\":1}", "no \"sentence2\""),
        (class, "{\"text\":\"a\",\"label\":1.5}", "\"label\" is neither"),
        (class, "{\"text\":\"\",\"label\":1}", "\"text\" is not a text"),
    ] {
        let text = message(format!("{good}\n\n{line}\n"));
        assert!(text.starts_with("p.jsonl: line 3: ") && text.contains(needle), "{line}: {text}");
    }
}

#[test]
fn files_without_a_difference_are_refused_with_counts() {
    let lines = |line: fn(usize) -> String| (0..4).map(line).collect::<Vec<_>>().join("\n");
    for (text, needle) in [
        (
            lines(|i| format!("{{\"query\":\"q{i}\",\"positive\":\"p\"}}")),
            "4 pairs (lines 1 to 4) have the same positive",
        ),
        (lines(|i| format!("{{\"query\":\"q\",\"positive\":\"p{i}\"}}")), "have the same query"),
        (lines(|i| format!("{{\"text1\":\"q\",\"text2\":\"{i}\",\"score\":1}}")), "have the same score"),
        (lines(|i| format!("{{\"text\":\"{i}\",\"label\":1}}")), "have the same label"),
        (lines(|i| format!("{{\"text\":\"{i}\",\"label\":{i}}}")), "have a label of their own"),
        (lines(|_| "{\"query\":\"q\",\"positive\":\"q\"}".into()), "nothing is left of its 4 lines"),
    ] {
        let text = message(&text);
        assert!(text.contains(needle), "{text}");
    }
    // One line is for whoever divides the data to refuse, and so are four that are the same.
    assert_eq!(sound(&lines(|_| "{\"query\":\"q\",\"positive\":\"p\"}".into())).records.len(), 1);
}

#[test]
fn invalid_utf8_and_empty_files_are_refused() {
    assert_eq!(message(b"{\"query\":\"\xff\"}"), "p.jsonl: line 1: invalid UTF-8 at byte 10");
    assert!(message("\n \n").contains("nothing in it"));
}

#[test]
fn a_line_over_the_limit_is_refused_without_reading_it_all() {
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    assert_eq!(read(endless, "p.jsonl").unwrap_err().exit_code(), 5);
}

#[test]
fn a_text_of_a_hundred_thousand_words_is_read() {
    let long = "word ".repeat(100_000);
    let data = sound(&format!("{{\"query\":\"q\",\"positive\":\"{long}\"}}\r\n"));
    assert_eq!(texts(&data.records[0])[1], long);
}

const QUERIES: &str = "{\"_id\":\"q1\",\"text\":\"one\"}\n{\"id\":2,\"text\":\"two\"}\n";

fn judged(queries: &str, qrels: &str) -> Result<Data> {
    read_qrels((queries.as_bytes(), "q.jsonl"), (qrels.as_bytes(), "r.tsv"))
}

#[test]
fn judgements_make_pairs_with_grades_as_weights() {
    let beir = "query-id\tcorpus-id\tscore\nq1\td 1\t2\n2\td2\t1\n2\td3\t0\nq9\td1\t1\nq1\td 1\t2\n";
    let data = judged(QUERIES, beir).unwrap();
    assert_eq!(data.shape, Shape::Pairs);
    let weights: Vec<f32> = data.records.iter().map(|record| record.weight).collect();
    assert_eq!(weights, [1.0, 0.5]);
    assert_eq!(data.records[0].texts, [Target::Text("one".into()), Target::Id("d 1".into())]);
    assert_eq!(data.records[1].line, 3);
    assert_eq!(
        data.report.notes,
        [
            "1 repeated judgements were dropped",
            "1 judgements that are not above 0 were dropped",
            "1 judgements of unknown queries were dropped"
        ]
    );
    let trec = judged(QUERIES, "q1 0 d1 1\n2 0 d2 3\n").unwrap();
    assert_eq!(trec.records.len(), 2);
}

#[test]
fn false_judgements_are_refused() {
    for (queries, qrels, needle) in [
        (QUERIES, "a\tb\tscore\nq1\td1\tmuch\n", "r.tsv: line 2: \"q1\", \"d1\", \"much\" are no two ids"),
        (QUERIES, "q1 d1\n", "r.tsv: line 1: neither three columns"),
        (QUERIES, "q9\td1\t1\n", "of 1 judgements none makes a pair"),
        (QUERIES, "", "of 0 judgements none makes a pair"),
        ("{\"_id\":\"q\"}", "q\td\t1", "q.jsonl: line 1: \"text\""),
        ("{\"text\":\"q\"}", "q\td\t1", "q.jsonl: line 1: no \"_id\""),
        (
            "{\"id\":1,\"text\":\"q\"}\n{\"id\":1,\"text\":\"q\"}",
            "q\td\t1",
            "q.jsonl: line 2: the query \"1\"",
        ),
    ] {
        let error = judged(queries, qrels).unwrap_err();
        assert!(error.exit_code() == 1 && error.to_string().contains(needle), "{error}");
    }
}

#[test]
fn a_folder_a_tsv_and_a_file_are_told_apart() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let fault = |path: &str, queries: Option<&str>| {
        open(&at(path), queries.map(at).as_deref()).unwrap_err().to_string()
    };
    std::fs::write(at("queries.jsonl"), QUERIES).unwrap();
    assert!(fault(".", None).contains("without judgements"));
    std::fs::create_dir(at("qrels")).unwrap();
    std::fs::write(at("qrels/dev.tsv"), "q1\td1\t1\n").unwrap();
    assert_eq!(open(place.path(), None).unwrap().records.len(), 1);
    std::fs::write(at("qrels/test.tsv"), "q1\td1\t1\n").unwrap();
    assert!(fault(".", None).contains("no qrels/train.tsv"));
    std::fs::write(at("qrels/train.tsv"), "q1\td1\t1\n2\td2\t1\n").unwrap();
    assert_eq!(open(place.path(), None).unwrap().records.len(), 2);
    assert!(fault("qrels/train.tsv", None).contains("--queries"));
    assert_eq!(open(&at("qrels/dev.tsv"), Some(&at("queries.jsonl"))).unwrap().records.len(), 1);
    std::fs::write(at("p.jsonl"), "{\"query\":\"q\",\"positive\":\"p\"}\n").unwrap();
    assert_eq!(open(&at("p.jsonl"), None).unwrap().records.len(), 1);
    assert!(fault("p.jsonl", Some("queries.jsonl")).contains("belongs to judgements"));
    assert_eq!(open(&at("missing.jsonl"), None).unwrap_err().exit_code(), 4);
}

#[test]
fn mutilated_lines_give_data_or_a_named_fault() {
    let seeds = [
        "{\"query\":\"q\",\"positive\":\"p\",\"negatives\":[\"n\",{\"id\":1}],\"scores\":[3,2,1]}\n\
         {\"anchor\":\"r\",\"positive\":\"n\",\"negative\":\"p\",\"scores\":[1,-5e3]}\n",
        "{\"sentence1\":\"a\",\"sentence2\":\"b\",\"score\":0.5}\n{\"text1\":\"b\",\"text2\":\"a\",\"label\":1}\n",
        "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":1}\n{\"text\":\"c\",\"label\":1}\n",
        "{\"query\":\"q\",\"positive\":{\"id\":7}}\n{\"query\":\"r\",\"positive\":\"p\"}\n",
    ];
    let mut rng = crate::trainer::rng::Rng::new(8);
    let mut sound = 0;
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len());
            match rng.below(3) {
                0 => bytes[at] = b"\"{}[],:0-e\n\\xq"[rng.below(14)],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, bytes[rng.below(bytes.len())]),
            }
        }
        match read_text(&bytes) {
            Ok(data) => {
                sound += 1;
                assert_eq!(data.records.len(), data.report.records);
                let numbers = data.records.iter().flat_map(|record| &record.targets);
                assert!(numbers.clone().all(|target| target.is_finite()));
            }
            Err(error) => {
                assert!(error.exit_code() == 1 && error.to_string().starts_with("p.jsonl: "), "{error}")
            }
        }
    }
    assert!(sound > 200, "{sound}");
}
