//! A space in which queries are turned against documents: learnable, so the adapter must learn it, and
//! the gate must tell it from noise.

use super::super::gate::{GateOptions, HeldOut, Paired, decide};
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
fn scores(queries: &[f32], documents: &[f32], wanted: &[u32], matrix: Option<&[f32]>) -> Vec<Vec<f64>> {
    let mapped = |rows: &[f32]| matrix.map_or_else(|| rows.to_vec(), |m| apply(m, rows, DIM).unwrap());
    let (queries, documents) = (mapped(queries), mapped(documents));
    let doc_of_row: Vec<u32> = (0..DOCUMENTS as u32).collect();
    let at = |rung: usize| {
        let ranked = rank_exact(&queries[..HELD_OUT * DIM], &documents, &doc_of_row, DIM, rung, 10).unwrap();
        ranked.iter().zip(wanted).map(|(r, &w)| ndcg(r, &HashMap::from([(w, 1.0)]), 10)).collect()
    };
    LADDER.into_iter().map(at).collect()
}

/// Trains on all but the held-out queries, where query i wants `wanted[i]`, and asks the gate.
fn retrain(wanted: &[u32]) -> (Vec<f32>, TrainReport, super::super::gate::GateReport) {
    let (queries, documents) = space();
    let positives: Vec<f32> =
        wanted.iter().flat_map(|&w| documents[w as usize * DIM..][..DIM].to_vec()).collect();
    let keys: Vec<u64> = (0..DOCUMENTS as u64).collect();
    let positive_keys: Vec<u64> = wanted.iter().map(|&w| u64::from(w)).collect();
    let pairs = PairRows {
        queries: &queries[HELD_OUT * DIM..],
        positives: &positives[HELD_OUT * DIM..],
        query_keys: &keys[HELD_OUT..],
        positive_keys: &positive_keys[HELD_OUT..],
        weights: &vec![1.0; DOCUMENTS - HELD_OUT],
        dim: DIM,
    };
    let options = AdapterOptions { batch: 64, epochs: 20, lr: 3e-3, ..AdapterOptions::default() };
    let (matrix, report) = train_adapter(&pairs, &LADDER, &options, &Task::default()).unwrap();
    let paired = |before: Vec<Vec<f64>>, after: Vec<Vec<f64>>| {
        before.into_iter().zip(after).map(|(before, after)| Paired { before, after })
    };
    let before = scores(&queries, &documents, wanted, None);
    let after = scores(&queries, &documents, wanted, Some(&matrix));
    let rungs: Vec<(usize, Paired)> = LADDER.into_iter().zip(paired(before, after)).collect();
    // The guard: documents are found by themselves, a little blurred.
    let mut rng = Rng::new(5);
    let blurred: Vec<f32> = documents.iter().map(|v| v + 0.5 * normal(&mut rng)).collect();
    let own: Vec<u32> = (0..DOCUMENTS as u32).collect();
    let guard = |matrix| scores(&blurred, &documents, &own, matrix).pop().unwrap();
    let guard = Paired { before: guard(None), after: guard(Some(&matrix)) };
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
fn pairs_at_random_are_refused() {
    let mut shuffled: Vec<u32> = (0..DOCUMENTS as u32).collect();
    Rng::new(2).shuffle(&mut shuffled);
    let (_, _, gate) = retrain(&shuffled);
    assert!(!gate.publish, "{gate:?}");
}

#[test]
fn few_pairs_and_false_shapes() {
    let rows = PairRows {
        queries: &[1.0, 0.0, 0.0, 1.0],
        positives: &[0.6, 0.8, 0.8, -0.6],
        query_keys: &[1, 2],
        positive_keys: &[3, 4],
        weights: &[1.0, 1.0],
        dim: 2,
    };
    let train = |rows: &PairRows<'_>, ladder: &[usize]| {
        train_adapter(rows, ladder, &AdapterOptions::default(), &Task::default())
    };
    let (matrix, report) = train(&rows, &[1, 2]).unwrap();
    assert!(matrix.iter().all(|v| v.is_finite()) && report.steps == 15);
    for broken in [
        PairRows { dim: 3, ..rows },
        PairRows { query_keys: &[1], ..rows },
        PairRows { weights: &[1.0, f32::NAN], ..rows },
        PairRows { positives: &[0.6], ..rows },
    ] {
        assert_eq!(train(&broken, &[2]).unwrap_err().exit_code(), 1);
    }
    assert!(train(&rows, &[3]).is_err() && train(&rows, &[]).is_err());
    assert!(apply(&[1.0; 3], &[1.0; 2], 2).is_err());
}
