use super::super::data::Shape;
use super::super::examples::Example;
use super::super::losses::{LossKind, LossOptions};
use super::super::model::testing::Sums;
use super::super::split::query_key;
use super::*;
use crate::types::Precision;

/// A table of letters, of which texts are made.
fn letters(set: &TrainingSet) -> Sums {
    let letters =
        |(text, _): &(String, Role)| text.bytes().map(|letter| usize::from(letter - b'a')).collect();
    Sums::new(26, 8, set.texts.iter().map(letters).collect())
}

fn pair(query: &str, positive: &str, key: u64) -> Example {
    let (texts, keys) = (vec![query.to_owned(), positive.to_owned()], vec![query_key(query), key]);
    Example { texts, keys, weight: 1.0, ..Example::default() }
}

fn learnt_by(loss: LossKind, pairs: &[Example]) -> TrainingSet {
    TrainingSet::new(Shape::Pairs, pairs, (loss, LossOptions::default()), 0).unwrap()
}

/// Each of the first 13 letters should find the one 13 places on.
fn pairs() -> Vec<Example> {
    let letter = |at: u8| char::from(b'a' + at).to_string();
    (0..13).map(|i| pair(&letter(i), &letter(i + 13), u64::from(i))).collect()
}

fn run(pairs: &[Example], ladder: &[usize], options: &FullOptions) -> (Sums, Result<TrainReport>) {
    run_by(LossKind::Ranking, pairs, ladder, options)
}

fn run_by(
    loss: LossKind,
    pairs: &[Example],
    ladder: &[usize],
    options: &FullOptions,
) -> (Sums, Result<TrainReport>) {
    let set = learnt_by(loss, pairs);
    let mut model = letters(&set);
    let report = train(&mut model, &set, ladder, options, &mut Hooks::default(), &Task::default());
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
fn a_cached_loss_learns_the_same_in_portions() {
    let table = |loss, at_once| {
        let options = FullOptions { epochs: 5, batch: 13, lr: 0.05, at_once, ..FullOptions::default() };
        let (model, report) = run_by(loss, &pairs(), &[4, 8], &options);
        report.unwrap();
        model.table().to_vec()
    };
    let whole = table(LossKind::Ranking, 0);
    let near = |other: Vec<f32>| whole.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(near(table(LossKind::CachedRanking, 5)));
    assert!(near(table(LossKind::CachedRanking, 0)));
}

#[test]
fn a_guided_loss_has_the_model_as_it_was_for_its_guide() {
    let options = FullOptions { epochs: 100, batch: 13, lr: 0.05, ..FullOptions::default() };
    let report = run_by(LossKind::Guided, &pairs(), &[8], &options).1.unwrap();
    assert!(report.loss_last < 0.5 * report.loss_first, "{report:?}");
}

#[test]
fn the_adapter_afterwards_improves_on_the_model() {
    let pairs = pairs();
    let set = learnt_by(LossKind::Ranking, &pairs);
    let model = letters(&set);
    let Adapter { matrix, report, .. } =
        train_adapter_after(&model, &set, &[8], 0, &Task::default()).unwrap();
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
fn word_pairs(words: &[&str]) -> TrainingSet {
    let key = super::super::split::target_key;
    let pair = |(query, positive): (&&str, &&str)| pair(query, &format!("the {positive}"), key(positive));
    learnt_by(LossKind::Ranking, &words.iter().zip(words.iter().rev()).map(pair).collect::<Vec<_>>())
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
        let after = after.with_adapter(&trained.adapter).unwrap();
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

#[test]
fn what_harms_stays_between_the_old_weights_and_the_new() {
    let encoder = tiny();
    let low_rank = FullOptions::of_low_rank(None, LowRank::default());
    for options in [FullOptions::default(), low_rank] {
        let options = FullOptions { lr: 3e-3, epochs: 10, batch: 8, ..options };
        let trained = |objections: usize| {
            let left = std::sync::atomic::AtomicUsize::new(objections);
            let harmless = |_| {
                let counted = |left: usize| left.checked_sub(1);
                let order = std::sync::atomic::Ordering::Relaxed;
                Ok(left.fetch_update(order, order, counted).is_err())
            };
            let beside = (&mut Hooks::default(), &harmless as Harmless<'_>);
            let (pairs, ladder) = (word_pairs(&WORDS), [encoder.dim()]);
            train_full_from(&encoder, &pairs, &ladder, &options, beside, &Task::default()).unwrap()
        };
        let weights = |encoder: &Encoder| -> Vec<f32> {
            let all = encoder.trainable(&TrainOptions::default()).unwrap();
            all.parameters().iter().flat_map(|parameter| parameter.values.clone()).collect()
        };
        let of = |trained: Trained| weights(&Encoder::from_files(trained.files, Precision::F32).unwrap());
        let (old, new) = (weights(&encoder), of(trained(0)));
        assert!(old.iter().zip(&new).any(|(a, b)| (a - b).abs() > 1e-3), "nothing was learnt");
        // The fifth objection changes nothing: a quarter of the way is always taken.
        for (objections, share) in [(1, 0.75), (2, 0.5), (4, 0.25)] {
            let kept = trained(objections);
            assert!(kept.report.notes.concat().contains(&format!("taken {share} of the way")));
            let near =
                |((old, new), kept): ((&f32, &f32), &f32)| (old + share * (new - old) - kept).abs() < 1e-4;
            assert!(old.iter().zip(&new).zip(&of(kept)).all(near), "{share}");
        }
    }
}
