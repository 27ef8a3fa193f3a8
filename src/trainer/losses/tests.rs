//! Every loss against sentence-transformers' value and gradient on the same numbers (`tools/fixtures/losses.py`), and against
//! finite differences of its own value.

use serde::Deserialize;

use super::super::rng::Rng;
use super::*;

#[derive(Deserialize)]
struct Fixture {
    dim: usize,
    guide_dim: usize,
    sides: Vec<Vec<f32>>,
    guide: Vec<Vec<f32>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    sides: Vec<usize>,
    targets: Option<Vec<f32>>,
    scale: Option<f32>,
    margin: Option<f32>,
    distance: Option<String>,
    similarity: Option<String>,
    temperatures: Option<[f32; 2]>,
    absolute: Option<f32>,
    relative: Option<f32>,
    dims: Option<Vec<usize>>,
    weights: Option<Vec<f32>>,
    value: f64,
    slopes: Vec<Vec<f64>>,
}

impl Case {
    fn loss(&self) -> Box<dyn Loss> {
        let distance = match self.distance.as_deref() {
            Some("cosine") => Distance::Cosine,
            _ => Distance::Euclidean,
        };
        let similarity =
            if self.similarity.as_deref() == Some("dot") { Similarity::Dot } else { Similarity::Cosine };
        let margin = || self.margin.unwrap();
        let guide = self.absolute.map(Margin::Absolute).or(self.relative.map(Margin::Relative));
        let scale = self.scale.unwrap_or(SCALE);
        let ranking = RankingLoss { scale, ..RankingLoss::default() };
        let loss: Box<dyn Loss> = match self.name.as_str() {
            "ranking" => Box::new(ranking),
            "symmetric" => Box::new(RankingLoss::symmetric()),
            "all-ways" => Box::new(RankingLoss { against_queries: true, against_positives: true, ..ranking }),
            "guided" => Box::new(RankingLoss { guided: guide, ..ranking }),
            "gist" => Box::new(RankingLoss::guided(guide.unwrap())),
            "triplet" => Box::new(Triplet { distance, margin: margin() }),
            "batch-hard" => Box::new(BatchHard { distance, margin: Some(margin()) }),
            "batch-hard-soft" => Box::new(BatchHard { distance, margin: None }),
            "contrastive" => Box::new(Contrastive { distance, margin: margin() }),
            "online-contrastive" => Box::new(OnlineContrastive { distance, margin: margin() }),
            "cosine" => Box::new(CosineScores),
            "cosent" => Box::new(CoSent { scale }),
            "margin-mse" => Box::new(MarginMse { similarity }),
            "distil-scores" => {
                let [temperature, teacher_temperature] = self.temperatures.unwrap();
                Box::new(Distillation { similarity, temperature, teacher_temperature })
            }
            other => panic!("no loss {other}"),
        };
        match (&self.dims, &self.weights) {
            (Some(dims), Some(weights)) => {
                let rungs = dims.iter().copied().zip(weights.iter().copied()).collect();
                Box::new(Matryoshka::weighted(loss, rungs))
            }
            _ => loss,
        }
    }
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../../tests/fixtures/trainer/losses.json")).unwrap()
}

#[test]
fn values_and_gradients_are_those_of_sentence_transformers() {
    let fixture = fixture();
    assert_eq!(fixture.cases.len(), 33);
    for (number, case) in fixture.cases.iter().enumerate() {
        let sides: Vec<&[f32]> = case.sides.iter().map(|&side| fixture.sides[side].as_slice()).collect();
        let guide: Vec<&[f32]> = fixture.guide[..sides.len().min(3)].iter().map(Vec::as_slice).collect();
        let targets = case.targets.clone().unwrap_or_default();
        let classes: Vec<u32> = targets.iter().map(|&class| class as u32).collect();
        let batch = Batch {
            sides: &sides,
            dim: fixture.dim,
            targets: &targets,
            classes: &classes,
            guide: Some(Guide { sides: &guide, dim: fixture.guide_dim }),
            ..Batch::default()
        };
        let slope = case.loss().of(&batch).unwrap();
        let near = |a: f64, b: f64, scale: f64| (a - b).abs() <= 2e-5 * scale.max(0.1);
        assert!(near(slope.value, case.value, case.value), "{number} {}: {}", case.name, slope.value);
        assert_eq!(slope.sides.len(), case.slopes.len());
        let largest = case.slopes.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        for (side, (ours, theirs)) in slope.sides.iter().zip(&case.slopes).enumerate() {
            assert_eq!(ours.len(), theirs.len());
            for (at, (&ours, &theirs)) in ours.iter().zip(theirs).enumerate() {
                let what = format!("{number} {}: side {side}, value {at}: {ours} {theirs}", case.name);
                assert!(near(f64::from(ours), theirs, largest), "{what}");
            }
        }
    }
}

const COUNT: usize = 7;
const DIM: usize = 10;

fn rows(seed: u64, dim: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..COUNT * dim).map(|_| rng.below(2000) as f32 / 1000.0 - 1.0).collect()
}

/// Losses with the number of sides and of targets for each example that they take.
fn plain() -> Vec<(Box<dyn Loss>, usize, usize)> {
    let guided = |margin| RankingLoss { guided: Some(margin), ..RankingLoss::default() };
    let every_way = RankingLoss { scale: 9.0, symmetric: true, ..RankingLoss::guided(Margin::Relative(0.1)) };
    vec![
        (Box::new(RankingLoss::default()), 2, 0),
        (Box::new(RankingLoss::default()), 4, 0),
        (Box::new(RankingLoss::symmetric()), 3, 0),
        (Box::new(guided(Margin::Absolute(0.1))), 3, 0),
        (Box::new(every_way), 3, 0),
        (Box::new(Triplet::default()), 4, 0),
        (Box::new(Triplet { distance: Distance::Cosine, margin: 0.3 }), 3, 0),
        (Box::new(BatchHard::default()), 1, 0),
        (Box::new(BatchHard { distance: Distance::Cosine, margin: Some(0.4) }), 1, 0),
        (Box::new(BatchHard::soft()), 1, 0),
        (Box::new(Contrastive::default()), 2, 1),
        (Box::new(Contrastive { distance: Distance::Euclidean, margin: 3.0 }), 2, 1),
        (Box::new(OnlineContrastive { distance: Distance::Cosine, margin: 1.5 }), 2, 1),
        (Box::new(CosineScores), 2, 1),
        (Box::new(CoSent::default()), 2, 1),
        (Box::new(MarginMse::default()), 4, 2),
        (Box::new(MarginMse { similarity: Similarity::Cosine }), 4, 3),
        (Box::new(Distillation::default()), 4, 3),
    ]
}

/// All of them, and all of them on a ladder.
fn all() -> Vec<(Box<dyn Loss>, usize, usize)> {
    let wrap = |(loss, sides, targets): (Box<dyn Loss>, usize, usize)| {
        let rungs = vec![(4, 0.5), (7, 1.0), (DIM, 2.0)];
        (Box::new(Matryoshka::weighted(loss, rungs)) as Box<dyn Loss>, sides, targets)
    };
    plain().into_iter().chain(plain().into_iter().map(wrap)).collect()
}

/// What every loss takes as it needs it.
struct Given {
    sides: Vec<Vec<f32>>,
    guide: Vec<Vec<f32>>,
    targets: Vec<f32>,
    excluded: Vec<bool>,
}

const CLASSES: [u32; COUNT] = [0, 1, 0, 1, 2, 2, 0];
const WEIGHTS: [f32; COUNT] = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 0.25];

impl Given {
    fn new(sides: usize, targets: usize) -> Self {
        let mut rng = Rng::new(99);
        let excluded = |_| rng.below(9) == 0;
        let documents = sides.saturating_sub(1) * COUNT;
        let mut rng = Rng::new(98);
        // Labels where one is wanted, else any numbers.
        let target =
            |at: usize| if targets == 1 { (at % 2) as f32 } else { rng.below(300) as f32 / 100.0 - 1.0 };
        Self {
            sides: (1..).map(|seed| rows(seed, DIM)).take(sides).collect(),
            guide: (11..).map(|seed| rows(seed, 4)).take(sides).collect(),
            targets: (0..COUNT * targets).map(target).collect(),
            excluded: (0..COUNT * documents).map(excluded).collect(),
        }
    }

    fn with(&self, sides: Vec<Vec<f32>>) -> Self {
        let (guide, targets, excluded) = (self.guide.clone(), self.targets.clone(), self.excluded.clone());
        Self { sides, guide, targets, excluded }
    }

    fn slope(&self, loss: &dyn Loss) -> Slope {
        let sides: Vec<&[f32]> = self.sides.iter().map(Vec::as_slice).collect();
        let guide: Vec<&[f32]> = self.guide.iter().map(Vec::as_slice).collect();
        let batch = Batch {
            sides: &sides,
            dim: DIM,
            normalised: false,
            weights: &WEIGHTS,
            targets: &self.targets,
            classes: &CLASSES,
            excluded: &self.excluded,
            guide: Some(Guide { sides: &guide, dim: 4 }),
        };
        loss.of(&batch).unwrap()
    }
}

#[test]
fn derivatives_are_those_of_finite_differences() {
    const STEP: f32 = 2e-3;
    for (loss, sides, targets) in all() {
        let given = Given::new(sides, targets);
        let slope = given.slope(loss.as_ref());
        let largest = slope.sides.iter().flatten().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(largest > 1e-3 && slope.value > 0.0, "{loss:?}: {}", slope.value);
        for side in 0..sides {
            for at in 0..COUNT * DIM {
                let moved = |by: f32| {
                    let mut sides = given.sides.clone();
                    sides[side][at] += by;
                    // What lies between the steps in f32 is not exactly twice the step.
                    let value = f64::from(sides[side][at]);
                    (given.with(sides).slope(loss.as_ref()).value, value)
                };
                let ((above, high), (below, low)) = (moved(STEP), moved(-STEP));
                let measured = (above - below) / (high - low);
                let derivative = f64::from(slope.sides[side][at]);
                assert!(
                    (measured - derivative).abs() < 4e-3 * f64::from(largest),
                    "{loss:?}: side {side}, value {at}: {measured} {derivative} of {largest}"
                );
            }
        }
    }
}

#[test]
fn equal_weights_are_as_none_and_others_matter() {
    for (loss, sides, targets) in plain() {
        let given = Given::new(sides, targets);
        let sides: Vec<&[f32]> = given.sides.iter().map(Vec::as_slice).collect();
        let guide: Vec<&[f32]> = given.guide.iter().map(Vec::as_slice).collect();
        let batch = Batch {
            sides: &sides,
            dim: DIM,
            targets: &given.targets,
            classes: &CLASSES,
            guide: Some(Guide { sides: &guide, dim: 4 }),
            ..Batch::default()
        };
        let ones = loss.of(&Batch { weights: &[1.0; COUNT], ..batch }).unwrap();
        assert_eq!(loss.of(&batch).unwrap(), ones, "{loss:?}");
        let more = loss.of(&Batch { weights: &WEIGHTS, ..batch }).unwrap();
        assert!(more.value.is_finite() && more != ones, "{loss:?}");
    }
}

#[test]
fn rows_of_zeros_and_equal_rows_stay_finite() {
    for (loss, sides, targets) in all() {
        for value in [0.0, 0.5, 1e-30, 1e15] {
            let given = Given::new(sides, targets);
            let same = vec![vec![value; COUNT * DIM]; sides];
            let slope = given.with(same).slope(loss.as_ref());
            assert!(slope.value.is_finite(), "{loss:?} {value}");
            assert!(slope.sides.iter().flatten().all(|v| v.is_finite()), "{loss:?} {value}");
        }
    }
}

#[test]
fn a_batch_that_does_not_fit_is_refused() {
    for (loss, sides, targets) in all() {
        let given = Given::new(sides, targets);
        let sides: Vec<&[f32]> = given.sides.iter().map(Vec::as_slice).collect();
        let guide: Vec<&[f32]> = given.guide.iter().map(Vec::as_slice).collect();
        let whole = Batch {
            sides: &sides,
            dim: DIM,
            normalised: false,
            weights: &WEIGHTS,
            targets: &given.targets,
            classes: &CLASSES,
            excluded: &given.excluded,
            guide: Some(Guide { sides: &guide, dim: 4 }),
        };
        assert!(loss.of(&whole).is_ok());
        let short: Vec<&[f32]> = sides.iter().map(|side| &side[1..]).collect();
        let name = format!("{loss:?}");
        let ranks = name.contains("RankingLoss");
        for (wrong, concerned) in [
            (Batch { sides: &[], ..whole }, true),
            (Batch { sides: &short, ..whole }, true),
            (Batch { dim: 0, ..whole }, true),
            (Batch { weights: &[1.0], ..whole }, true),
            (Batch { targets: &[1.0], ..whole }, targets > 0),
            (Batch { classes: &[1], ..whole }, name.contains("BatchHard")),
            (Batch { excluded: &[true], ..whole }, ranks),
            (Batch { guide: None, ..whole }, name.contains("guided: Some")),
        ] {
            assert_eq!(loss.of(&wrong).is_err(), concerned, "{name}: {wrong:?}");
        }
    }
    let side = [1.0; 8];
    for ladder in [&[][..], &[0], &[5]] {
        let loss = Matryoshka::new(Box::new(RankingLoss::default()), ladder);
        assert!(loss.of(&Batch { sides: &[&side, &side], dim: 4, ..Batch::default() }).is_err());
    }
}

#[test]
fn an_excluded_document_counts_as_if_it_were_not_there() {
    let side = |seed| rows(seed, DIM);
    let (queries, positives) = (side(1), side(2));
    let slope = |excluded: &[bool], negatives: &[f32]| {
        let batch =
            Batch { sides: &[&queries, &positives, negatives], dim: DIM, excluded, ..Batch::default() };
        RankingLoss::default().of(&batch).unwrap()
    };
    let hidden: Vec<bool> = (0..COUNT * 2 * COUNT).map(|at| at % (2 * COUNT) >= COUNT).collect();
    let plain = RankingLoss::default()
        .of(&Batch { sides: &[&queries, &positives], dim: DIM, ..Batch::default() })
        .unwrap();
    for negatives in [side(3), side(4)] {
        let with = slope(&hidden, &negatives);
        assert!((with.value - plain.value).abs() < 1e-9);
        assert!(with.sides[2].iter().all(|&v| v == 0.0));
    }
}

#[test]
fn batch_hard_without_a_triplet_is_level() {
    let side = rows(5, DIM);
    for classes in [[0; COUNT], [0, 1, 2, 3, 4, 5, 6]] {
        let batch = Batch { sides: &[&side], dim: DIM, classes: &classes, ..Batch::default() };
        let slope = BatchHard::default().of(&batch).unwrap();
        assert_eq!(slope.value, 0.0);
        assert!(slope.sides[0].iter().all(|&v| v == 0.0));
    }
}
