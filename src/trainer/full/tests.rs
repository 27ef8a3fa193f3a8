use super::super::model::testing::Sums;
use super::*;
use crate::types::Precision;

/// A table of letters, of which texts are made.
fn letters(pairs: &Numbered<'_>) -> Sums {
    let letters = |text: &&str| text.bytes().map(|letter| usize::from(letter - b'a')).collect();
    Sums::new(26, 8, pairs.texts.iter().map(letters).collect())
}

/// Each of the first 13 letters should find the one 13 places on.
fn pairs() -> Vec<TextPair> {
    let letter = |at: u8| char::from(b'a' + at).to_string();
    (0..13)
        .map(|i| TextPair { query: letter(i), positive: letter(i + 13), key: u64::from(i), weight: 1.0 })
        .collect()
}

fn run(pairs: &[TextPair], ladder: &[usize], options: &FullOptions) -> (Sums, Result<TrainReport>) {
    let numbered = Numbered::new(pairs);
    let mut model = letters(&numbered);
    let report = train(&mut model, &numbered, ladder, options, &mut Hooks::default(), &Task::default());
    (model, report)
}

#[test]
fn one_batch_is_overfitted() {
    let options = FullOptions { epochs: 200, batch: 13, lr: 0.05, ..FullOptions::default() };
    let report = run(&pairs(), &[4, 8], &options).1.unwrap();
    assert_eq!((report.pairs, report.steps), (13, 200));
    assert!(report.loss_last < 0.1 && report.loss_first > 1.0, "{report:?}");
}

#[test]
fn one_seed_gives_one_model() {
    let table = |seed| {
        let options = FullOptions { epochs: 3, batch: 4, lr: 0.05, seed, ..FullOptions::default() };
        let (model, report) = run(&pairs(), &[8], &options);
        report.unwrap();
        model.table().to_vec()
    };
    assert_eq!(table(1), table(1));
    assert_ne!(table(1), table(2));
}

#[test]
fn equal_texts_have_one_number() {
    let mut pairs = pairs();
    pairs[1].positive = pairs[0].positive.clone();
    let numbered = Numbered::new(&pairs);
    assert_eq!(numbered.texts.len(), 25);
    assert_eq!(numbered.positives[0], numbered.positives[1]);
    let text = |number: usize| numbered.texts[number];
    assert!(pairs.iter().zip(&numbered.queries).all(|(pair, &number)| pair.query == text(number)));
    assert!(pairs.iter().zip(&numbered.positives).all(|(pair, &number)| pair.positive == text(number)));
}

#[test]
fn the_adapter_afterwards_improves_on_the_model() {
    let pairs = pairs();
    let numbered = Numbered::new(&pairs);
    let model = letters(&numbered);
    let (matrix, report) = train_adapter_after(&model, &numbered, &[8], 0, &Task::default()).unwrap();
    assert_eq!(matrix.len(), 64);
    assert!(report.loss_last < report.loss_first, "{report:?}");
}

#[test]
fn false_shapes_are_input_errors() {
    for (pairs, ladder, epochs) in [(vec![], vec![8], 1), (pairs(), vec![9], 1), (pairs(), vec![8], 0)] {
        let options = FullOptions { epochs, ..FullOptions::default() };
        let error = run(&pairs, &ladder, &options).1.unwrap_err();
        assert_eq!(error.exit_code(), 1, "{error}");
    }
}

fn tiny() -> Encoder {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert");
    Encoder::from_files(ModelFiles::read_dir(folder).unwrap(), Precision::F32).unwrap()
}

/// Each word should find another.
fn word_pairs(words: &[&str]) -> Vec<TextPair> {
    let pair = |(query, positive): (&&str, &&str)| TextPair {
        query: (*query).into(),
        positive: format!("the {positive}"),
        key: super::super::split::target_key(positive),
        weight: 1.0,
    };
    words.iter().zip(words.iter().rev()).map(pair).collect()
}

const WORDS: [&str; 8] = ["red", "green", "blue", "money", "water", "house", "music", "doctor"];

#[test]
fn an_encoder_learns_and_its_files_load_again() {
    let encoder = tiny();
    for layers in [None, Some(1)] {
        let options = FullOptions { epochs: 30, batch: 8, lr: 3e-3, ..FullOptions::of_layers(layers) };
        let ladder = [encoder.dim()];
        let trained = train_full(&encoder, &word_pairs(&WORDS), &ladder, &options, &Task::default()).unwrap();
        let report = trained.report;
        assert!(report.loss_last < 0.6 * report.loss_first, "{layers:?} {report:?}");
        let after = Encoder::from_files(trained.files, Precision::F32).unwrap();
        assert_ne!(after.model_id(), encoder.model_id());
        let after = after.with_adapter(trained.adapter).unwrap();
        assert!(after.encode(&WORDS, &Task::default()).unwrap().iter().all(|v| v.is_finite()));
    }
}

#[test]
fn one_seed_gives_one_encoder_whether_states_are_kept_or_not() {
    let encoder = tiny();
    let files = |bytes| {
        let limits = PrepareLimits { bytes, ..PrepareLimits::default() };
        let options = FullOptions { epochs: 2, limits, ..FullOptions::of_layers(Some(1)) };
        let (pairs, ladder) = (word_pairs(&WORDS), [encoder.dim()]);
        let trained = train_full(&encoder, &pairs, &ladder, &options, &Task::default()).unwrap();
        Encoder::from_files(trained.files, Precision::F32).unwrap()
    };
    let (kept, again, computed) = (files(1 << 20), files(1 << 20), files(0));
    assert_eq!(kept.model_id(), again.model_id());
    let vectors = |encoder: &Encoder| encoder.encode(&WORDS, &Task::default()).unwrap();
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-2;
    assert!(vectors(&kept).iter().zip(&vectors(&computed)).all(near));
}

#[test]
fn a_cancelled_task_stops_the_training() {
    let task = Task::default();
    task.cancel();
    let encoder = tiny();
    let options = FullOptions::of_layers(Some(1));
    let stopped = train_full(&encoder, &word_pairs(&WORDS), &[encoder.dim()], &options, &task);
    assert!(matches!(stopped.err(), Some(Error::Cancelled)));
}
