//! A space in which queries are turned against documents: learnable, so the adapter must learn it, and
//! the gate must tell it from noise.

use super::super::examples::Example;
use super::super::gate::{GateOptions, HeldOut, Paired, decide};
use super::super::guard::Guard;
use super::super::losses::{LossKind, LossOptions};
use super::*;

const DIM: usize = 32;
const LADDER: [usize; 2] = [16, 32];
const DOCUMENTS: usize = 600;
const HELD_OUT: usize = 150;

/// A number from a normal distribution, near enough: the sum of twelve uniform ones.
fn normal(rng: &mut Rng) -> f32 {
    (0..12).map(|_| rng.below(1 << 20) as f32 / (1 << 20) as f32).sum::<f32>() - 6.0
}

/// Documents, and a query for each: the document seen through a common distortion, plus noise.
fn space() -> (Vec<f32>, Vec<f32>) {
    let mut rng = Rng::new(11);
    let documents: Vec<f32> = (0..DOCUMENTS * DIM).map(|_| normal(&mut rng)).collect();
    let distortion: Vec<f32> = (0..DIM * DIM).map(|_| 0.22 * normal(&mut rng)).collect();
    let turned = apply(&towards(&distortion, DIM, 1.0), &documents, DIM).unwrap();
    let queries = turned.iter().map(|v| v + 0.5 * normal(&mut rng)).collect();
    (queries, documents)
}

/// NDCG@10 of the held-out queries over all documents at each rung, where query i wants `wanted[i]`.
fn scores(
    [queries, documents]: [&[f32]; 2],
    wanted: &[u32],
    matrix: Option<&[f32]>,
    queries_only: bool,
) -> Vec<Vec<f64>> {
    let mapped = |rows: &[f32], on: bool| match matrix.filter(|_| on) {
        Some(matrix) => apply(matrix, rows, DIM).unwrap(),
        None => rows.to_vec(),
    };
    let (queries, documents) = (mapped(queries, true), mapped(documents, !queries_only));
    let doc_of_row: Vec<u32> = (0..DOCUMENTS as u32).collect();
    let at = |rung: usize| {
        let ranked = rank_exact(&queries[..HELD_OUT * DIM], &documents, &doc_of_row, DIM, rung, 10).unwrap();
        ranked.iter().zip(wanted).map(|(r, &w)| ndcg(r, &HashMap::from([(w, 1.0)]), 10)).collect()
    };
    LADDER.into_iter().map(at).collect()
}

/// An example whose texts are named by their keys.
fn example(keys: &[u64], targets: &[f32], class: u32) -> Example {
    let texts = keys.iter().map(u64::to_string).collect();
    Example { texts, keys: keys.to_vec(), targets: targets.to_vec(), class, weight: 1.0, time: 0 }
}

fn set(shape: Shape, loss: LossKind, examples: &[Example]) -> TrainingSet {
    TrainingSet::new(shape, examples, (loss, LossOptions::default()), 0).unwrap()
}

/// Trains on all but the held-out queries, where query i wants `wanted[i]`, and asks the gate.
fn retrain(wanted: &[u32]) -> (Vec<f32>, TrainReport, super::super::gate::GateReport) {
    retrain_sides(wanted, false)
}

fn retrain_sides(
    wanted: &[u32],
    queries_only: bool,
) -> (Vec<f32>, TrainReport, super::super::gate::GateReport) {
    let (queries, documents) = space();
    let positives: Vec<f32> =
        wanted.iter().flat_map(|&w| documents[w as usize * DIM..][..DIM].to_vec()).collect();
    let pairs = (HELD_OUT..DOCUMENTS).map(|query| [query as u64, u64::from(wanted[query])]);
    let set =
        set(Shape::Pairs, LossKind::Ranking, &pairs.map(|keys| example(&keys, &[], 0)).collect::<Vec<_>>());
    let rows = [&queries[HELD_OUT * DIM..], &positives[HELD_OUT * DIM..]].concat();
    let rows = SideRows { rows: &rows, dim: DIM };
    let options =
        AdapterOptions { batch: 64, epochs: 20, lr: 3e-3, queries_only, ..AdapterOptions::default() };
    let Adapter { matrix, report, .. } =
        train_adapter(rows, &set, &LADDER, &options, &Task::default()).unwrap();
    let paired = |before: Vec<Vec<f64>>, after: Vec<Vec<f64>>| {
        before.into_iter().zip(after).map(|(before, after)| Paired { before, after })
    };
    let both = [&queries[..], &documents[..]];
    let before = scores(both, wanted, None, queries_only);
    let after = scores(both, wanted, Some(&matrix), queries_only);
    let rungs: Vec<(usize, Paired)> = LADDER.into_iter().zip(paired(before, after)).collect();
    // The guard: documents are found by themselves, a little blurred.
    let mut rng = Rng::new(5);
    let blurred: Vec<f32> = documents.iter().map(|v| v + 0.5 * normal(&mut rng)).collect();
    let own: Vec<u32> = (0..DOCUMENTS as u32).collect();
    let guard = |matrix| scores([&blurred, &documents], &own, matrix, queries_only).pop().unwrap();
    let documents = Paired { before: guard(None), after: guard(Some(&matrix)) };
    let guard = Guard { documents, ..Guard::default() };
    (matrix, report, decide(&HeldOut { rungs, ..HeldOut::default() }, &guard, &GateOptions::default()))
}

#[test]
fn a_distorted_space_is_learnt_and_published() {
    let truth: Vec<u32> = (0..DOCUMENTS as u32).collect();
    let (matrix, report, gate) = retrain(&truth);
    assert_eq!((matrix.len(), report.pairs), (DIM * DIM, DOCUMENTS - HELD_OUT));
    assert!(report.loss_last < report.loss_first, "{report:?}");
    assert!(gate.publish && gate.gain > 0.05, "{gate:?}");
    assert!(gate.by_dim["16"][1] > gate.by_dim["16"][0] + 0.05, "{gate:?}");
    assert_eq!(retrain(&truth).0, matrix, "one seed, one result");
}

#[test]
fn a_map_of_queries_alone_is_learnt_as_well() {
    let truth: Vec<u32> = (0..DOCUMENTS as u32).collect();
    let (matrix, report, gate) = retrain_sides(&truth, true);
    assert!(report.loss_last < report.loss_first && gate.gain > 0.05, "{gate:?}");
    assert_ne!(matrix, retrain(&truth).0);
}

/// An adapter that lacked some pairs learns them, and keeps what it knew.
#[test]
fn an_adapter_is_trained_further() {
    let (queries, documents) = space();
    let train = |from: usize, begun: Option<Adapter>| {
        let pairs = (from..DOCUMENTS).map(|at| example(&[at as u64, at as u64], &[], 0));
        let set = set(Shape::Pairs, LossKind::Ranking, &pairs.collect::<Vec<_>>());
        let rows = [&queries[from * DIM..], &documents[from * DIM..]].concat();
        let rows = SideRows { rows: &rows, dim: DIM };
        let options = AdapterOptions { batch: 64, lr: 3e-3, alpha: Some(1.25), ..AdapterOptions::default() };
        let task = Task::default();
        match begun {
            None => train_adapter(rows, &set, &LADDER, &options, &task),
            Some(begun) => train_adapter_further(begun, rows, &set, &LADDER, &options, &task),
        }
    };
    let truth: Vec<u32> = (0..DOCUMENTS as u32).collect();
    let score = |adapter: &Adapter| {
        let scores = scores([&queries, &documents], &truth, Some(&adapter.matrix), false).pop().unwrap();
        scores.iter().sum::<f64>() / scores.len() as f64
    };
    let part = train(500, None).unwrap();
    let steps = part.report.steps;
    let further = train(0, Some(part.clone())).unwrap();
    let whole = train(0, None).unwrap();
    assert_eq!((further.alpha, further.report.pairs), (1.25, DOCUMENTS));
    assert_eq!(further.report.records.len(), further.report.steps);
    assert!(further.report.steps > steps && further.report.loss_first == part.report.loss_first);
    let [part, further, whole] = [&part, &further, &whole].map(score);
    assert!(further > part + 0.02 && further > whole - 0.005, "{part}, further {further}, whole {whole}");
    let cut = Adapter { matrix: vec![0.0; 3], alpha: 1.0, report: TrainReport::default() };
    assert!(matches!(train(0, Some(cut)), Err(Error::Input(_))));
}

#[test]
fn pairs_at_random_are_refused() {
    let mut shuffled: Vec<u32> = (0..DOCUMENTS as u32).collect();
    Rng::new(2).shuffle(&mut shuffled);
    let (_, _, gate) = retrain(&shuffled);
    assert!(!gate.publish, "{gate:?}");
}

/// Rows of texts in a space of which one half only matters, whose classes are the quadrants there.
fn half_space() -> (Vec<f32>, Vec<u32>) {
    let mut rng = Rng::new(3);
    let rows: Vec<f32> = (0..400 * DIM).map(|_| normal(&mut rng)).collect();
    let class = |row: &[f32]| u32::from(row[20] > 0.0) + 2 * u32::from(row[25] > 0.0);
    let classes = rows.chunks(DIM).map(class).collect();
    (rows, classes)
}

#[test]
fn classes_are_learnt_by_losses_of_classes_and_of_pairs() {
    let (rows, classes) = half_space();
    let examples: Vec<Example> = (0..400).map(|i| example(&[i], &[], classes[i as usize])).collect();
    let own: Vec<Option<usize>> = (0..400).map(Some).collect();
    let found = |rows: &[f32]| {
        let all = Classed { rows, classes: &classes };
        class_ndcg(all, all, &own, (DIM, DIM), 10).unwrap().iter().sum::<f64>() / 400.0
    };
    let before = found(&rows);
    for loss in [LossKind::BatchHard, LossKind::BatchHardSoft, LossKind::Ranking] {
        let set = set(Shape::Classes, loss, &examples);
        let rows_of = set.side_rows(&rows, DIM);
        let Adapter { matrix, .. } = train_adapter(
            SideRows { rows: &rows_of, dim: DIM },
            &set,
            &LADDER,
            &AdapterOptions::default(),
            &Task::default(),
        )
        .unwrap();
        let after = found(&apply(&matrix, &rows, DIM).unwrap());
        assert!(after > before + 0.02, "{loss}: {before} {after}");
    }
}

#[test]
fn scores_are_learnt_and_judged_by_rank_correlation() {
    let (rows, _) = half_space();
    let half = |row: &[f32]| row[20..].to_vec();
    let (a, b) = rows.split_at(200 * DIM);
    let score = |i: usize| {
        let of = |side: &[f32]| half(&side[i * DIM..][..DIM]);
        cosines(&of(a), &of(b), DIM - 20, DIM - 20).unwrap()[0] / 2.0 + 0.5
    };
    let scores: Vec<f64> = (0..200).map(score).collect();
    let examples: Vec<Example> =
        (0..200).map(|i| example(&[i, 1000 + i], &[scores[i as usize] as f32], 0)).collect();
    let correlation = |a: &[f32], b: &[f32]| {
        RankCorrelation::new(&cosines(a, b, DIM, DIM).unwrap(), &scores).unwrap().whole()
    };
    let before = correlation(a, b);
    for loss in [LossKind::CoSent, LossKind::Cosine, LossKind::Contrastive] {
        let set = set(Shape::Scored, loss, &examples);
        let job = SideRows { rows: &rows, dim: DIM };
        let options = AdapterOptions::default();
        let Adapter { matrix, .. } = train_adapter(job, &set, &LADDER, &options, &Task::default()).unwrap();
        let after = correlation(&apply(&matrix, a, DIM).unwrap(), &apply(&matrix, b, DIM).unwrap());
        assert!(after > before + 0.02, "{loss}: {before} {after}");
    }
}

#[test]
fn few_pairs_and_false_shapes() {
    let set = set(Shape::Pairs, LossKind::Ranking, &[example(&[1, 3], &[], 0), example(&[2, 4], &[], 0)]);
    let rows = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8, 0.8, -0.6];
    let train = |rows: &[f32], dim: usize, ladder: &[usize]| {
        train_adapter(SideRows { rows, dim }, &set, ladder, &AdapterOptions::default(), &Task::default())
    };
    let Adapter { matrix, report, .. } = train(&rows, 2, &[1, 2]).unwrap();
    assert!(matrix.iter().all(|v| v.is_finite()) && report.steps == 15);
    for error in
        [train(&rows, 3, &[2]), train(&rows[1..], 2, &[2]), train(&[], 0, &[]), train(&rows, 2, &[3])]
    {
        assert_eq!(error.unwrap_err().exit_code(), 1);
    }
    assert!(train(&rows, 2, &[]).is_err());
    assert!(apply(&[1.0; 3], &[1.0; 2], 2).is_err());
}
