//! What losses gain on real data of two shapes, by an adapter on the built-in encoder, where EMBDB_TEST_DATA names the folder
//! of the data; else these tests say that they skip. `-- --nocapture` prints the figures of every loss.

#![cfg(all(feature = "trainer", feature = "builtin"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use embdb::Task;
use embdb::encoder::Encoder;
use embdb::trainer::data::{self, Data, Target};
use embdb::trainer::examples::{Example, TrainingSet};
use embdb::trainer::judge::{Classed, RankCorrelation, class_ndcg, cosines};
use embdb::trainer::losses::{LossKind, LossOptions};
use embdb::trainer::{AdapterOptions, Keyed, Shape, SideRows, SplitOptions, adapter, query_key, split_shape};

const LADDER: [usize; 3] = [64, 128, 256];

fn folder(name: &str) -> Option<PathBuf> {
    let data = std::env::var_os("EMBDB_TEST_DATA").map(|data| PathBuf::from(data).join(name));
    if data.is_none() {
        println!("skipped: EMBDB_TEST_DATA is not set");
    }
    data
}

fn encoder() -> Encoder {
    Encoder::builtin().unwrap()
}

fn examples(data: &Data) -> Vec<Example> {
    let text = |target: &Target| match target {
        Target::Text(text) | Target::Id(text) | Target::Passage { text, .. } => text.clone(),
    };
    let example = |record: &data::Record| {
        let texts: Vec<String> = record.texts.iter().map(text).collect();
        let keys = texts.iter().map(|text| query_key(text)).collect();
        let targets = record.targets.clone();
        Example { texts, keys, targets, class: record.class, weight: record.weight, time: record.time }
    };
    data.records.iter().map(example).collect()
}

/// Trains an adapter and gives its matrix and the seconds it took.
fn trained(encoder: &Encoder, set: &TrainingSet, seed: u64) -> (Vec<f32>, f64) {
    let texts: Vec<&str> = set.texts.iter().map(|text| text.0.as_str()).collect();
    let rows = set.side_rows(&encoder.encode(&texts, &Task::default()).unwrap(), encoder.dim());
    let options = AdapterOptions { seed, ..AdapterOptions::default() };
    let rows = SideRows { rows: &rows, dim: encoder.dim() };
    let start = std::time::Instant::now();
    let matrix = adapter::train_adapter(rows, set, &LADDER, &options, &Task::default()).unwrap().matrix;
    (matrix, start.elapsed().as_secs_f64())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn intents_of_a_bank_are_learnt() {
    let Some(folder) = folder("banking77") else { return };
    let data = data::open(&folder.join("train.jsonl"), None).unwrap();
    let all = examples(&data);
    let keyed: Vec<Keyed<'_>> =
        all.iter().map(|e| Keyed { keys: &e.keys, class: e.class, time: 0 }).collect();
    let split = split_shape(Shape::Classes, &keyed, &SplitOptions::default()).unwrap();
    let train: Vec<Example> = split.train.iter().map(|&n| all[n].clone()).collect();
    let encoder = encoder();
    let texts: Vec<&str> = all.iter().map(|example| example.texts[0].as_str()).collect();
    let rows = encoder.encode(&texts, &Task::default()).unwrap();
    let dim = encoder.dim();
    let classes: Vec<u32> = all.iter().map(|example| example.class).collect();
    let judged = |rows: &[f32]| {
        let of = |n: &usize| rows[n * dim..(n + 1) * dim].to_vec();
        let asked: Vec<f32> = split.held_out.iter().flat_map(of).collect();
        let asked_classes: Vec<u32> = split.held_out.iter().map(|&n| classes[n]).collect();
        let own: Vec<Option<usize>> = split.held_out.iter().copied().map(Some).collect();
        let asked = Classed { rows: &asked, classes: &asked_classes };
        LADDER.map(|rung| {
            mean(&class_ndcg(asked, Classed { rows, classes: &classes }, &own, (dim, rung), 10).unwrap())
        })
    };
    let before = judged(&rows);
    println!("{} texts, {} held out; NDCG@10 before {before:.4?}", all.len(), split.held_out.len());
    let wide = LossOptions { margin: Some(0.5), ..LossOptions::default() };
    for (loss, options) in [
        (LossKind::Ranking, LossOptions::default()),
        (LossKind::Symmetric, LossOptions::default()),
        (LossKind::BatchHard, LossOptions::default()),
        (LossKind::BatchHard, wide),
        (LossKind::BatchHardSoft, LossOptions::default()),
    ] {
        let set = TrainingSet::new(Shape::Classes, &train, (loss, options), 0).unwrap();
        let (matrix, seconds) = trained(&encoder, &set, 0);
        let after = judged(&adapter::apply(&matrix, &rows, dim).unwrap());
        println!("{loss} {:?}: {after:.4?} in {seconds:.1} s", options.margin);
        if loss == LossKind::of_shape(Shape::Classes) {
            assert!(after.iter().zip(&before).all(|(after, before)| *after > before + 0.02), "{after:?}");
        }
    }
}

#[test]
fn similarity_of_sentences_is_learnt() {
    let Some(folder) = folder("stsb") else { return };
    let train = examples(&data::open(&folder.join("train.jsonl"), None).unwrap());
    let judging = examples(&data::open(&folder.join("test.jsonl"), None).unwrap());
    let keyed: Vec<Keyed<'_>> = train.iter().map(|e| Keyed { keys: &e.keys, class: 0, time: 0 }).collect();
    let split = split_shape(Shape::Scored, &keyed, &SplitOptions::default()).unwrap();
    println!("{} pairs, of which {} can be held out", train.len(), split.held_out.len());
    let encoder = encoder();
    let side = |side: usize| {
        let texts: Vec<&str> = judging.iter().map(|example| example.texts[side].as_str()).collect();
        encoder.encode(&texts, &Task::default()).unwrap()
    };
    let (a, b, dim) = (side(0), side(1), encoder.dim());
    let scores: Vec<f64> = judging.iter().map(|example| f64::from(example.targets[0])).collect();
    let judged = |a: &[f32], b: &[f32]| {
        LADDER.map(|rung| RankCorrelation::new(&cosines(a, b, dim, rung).unwrap(), &scores).unwrap().whole())
    };
    let before = judged(&a, &b);
    println!("rank correlation before {before:.4?}");
    for loss in [LossKind::Cosine, LossKind::CoSent, LossKind::Contrastive] {
        let set = TrainingSet::new(Shape::Scored, &train, (loss, LossOptions::default()), 0).unwrap();
        let (matrix, seconds) = trained(&encoder, &set, 0);
        let mapped = |rows: &[f32]| adapter::apply(&matrix, rows, dim).unwrap();
        let after = judged(&mapped(&a), &mapped(&b));
        println!("{loss}: {after:.4?} in {seconds:.1} s");
        if loss == LossKind::of_shape(Shape::Scored) {
            assert!(after.iter().zip(&before).all(|(after, before)| *after > before + 0.01), "{after:?}");
        }
    }
}
