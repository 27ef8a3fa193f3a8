//! The fast model against the differentiable one, on random parameters.

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::FastBert;
use crate::encoder::batch::TokenBatch;
use crate::encoder::bert::Bert;
use crate::encoder::family::BertConfig;
use crate::encoder::family::bert::Kind;
use crate::encoder::files::{ModelFiles, WEIGHTS};
use crate::encoder::weights::{self, Weights};
use crate::types::Precision;

/// Numbers of xorshift64, uniform in −1..1.
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn config(heads: usize, head_dim: usize, layers: usize, intermediate: usize) -> BertConfig {
    BertConfig {
        kind: Kind::Bert,
        vocabulary: 50,
        hidden: heads * head_dim,
        layers,
        heads,
        intermediate,
        positions: 600,
        token_types: 2,
        epsilon: 1e-12,
        pad: 0,
        distances: 0,
    }
}

/// Parameters of the size that training leaves: products neither vanish nor grow.
fn weights(config: &BertConfig, seed: u64) -> Weights {
    let mut next = random(seed);
    let mut weights = Weights::new();
    for (name, shape) in config.shapes() {
        let around = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let size = match shape.as_slice() {
            [_, inputs] => 2.0 / (*inputs as f32).sqrt(),
            _ => 0.2,
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| around + size * next()).collect();
        weights.insert(name, Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap());
    }
    weights
}

fn files(config: &BertConfig, seed: u64) -> ModelFiles {
    let mut files = ModelFiles::default();
    files.insert(WEIGHTS, weights::write(WEIGHTS, &weights(config, seed)).unwrap());
    files
}

fn ids(lengths: &[usize], seed: u64) -> Vec<Vec<u32>> {
    let mut next = random(seed ^ 77);
    lengths.iter().map(|&n| (0..n).map(|_| ((next() + 1.0) * 25.0) as u32 % 50).collect()).collect()
}

fn states(config: &BertConfig, seed: u64, precision: Precision, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let bert = FastBert::new(config, &files(config, seed), precision).unwrap();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    bert.forward(&texts, |states| states.rows().flatten().copied().collect()).unwrap()
}

/// What the differentiable model makes of each text.
fn expected(config: &BertConfig, seed: u64, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let bert = Bert::new(config, &weights(config, seed)).unwrap();
    let one = |ids: &Vec<u32>| {
        let batch = TokenBatch::new(&[ids], 0).unwrap();
        bert.forward(&batch).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    texts.iter().map(one).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Largest difference, and smallest cosine of two texts' states.
fn compare(left: &[Vec<f32>], right: &[Vec<f32>]) -> (f32, f64) {
    assert_eq!(left.len(), right.len());
    let mut worst = (0f32, 1f64);
    for (a, b) in left.iter().zip(right) {
        assert_eq!(a.len(), b.len());
        let difference = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        worst = (worst.0.max(difference), worst.1.min(cosine(a, b)));
    }
    worst
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn states_are_those_of_the_differentiable_model(
        heads in 1usize..4,
        head_dim in prop::sample::select(vec![1usize, 4, 12, 25, 32, 36, 64]),
        layers in 1usize..4,
        intermediate in prop::sample::select(vec![1usize, 30, 64, 100]),
        lengths in prop::collection::vec(1usize..80, 1..5),
        seed: u64,
    ) {
        let config = config(heads, head_dim, layers, intermediate);
        let texts = ids(&lengths, seed);
        let states = states(&config, seed, Precision::F32, &texts);
        // A state of one or two dimensions is a sign after LayerNorm: rounding alone may turn it.
        if config.hidden > 2 {
            let (difference, cosine) = compare(&states, &expected(&config, seed, &texts));
            prop_assert!(difference < 5e-4 && cosine > 0.999_99, "{} {}", difference, cosine);
        }
    }
}

#[test]
fn odd_sizes_and_extreme_lengths_agree() {
    for (heads, head_dim, intermediate) in [(3, 12, 100), (4, 25, 400), (2, 64, 36)] {
        let config = config(heads, head_dim, 2, intermediate);
        let texts = ids(&[1, 600, 2, 257, 33], 5);
        let (difference, cosine) =
            compare(&states(&config, 9, Precision::F32, &texts), &expected(&config, 9, &texts));
        assert!(difference < 1e-4 && cosine > 0.999_99, "{heads} × {head_dim}: {difference} {cosine}");
    }
}

#[test]
fn int8_stays_near() {
    for (heads, head_dim, intermediate) in [(3, 12, 100), (4, 25, 400), (4, 32, 512)] {
        let config = config(heads, head_dim, 3, intermediate);
        let texts = ids(&[1, 300, 7, 64], 5);
        let (_, cosine) =
            compare(&states(&config, 9, Precision::Int8, &texts), &expected(&config, 9, &texts));
        assert!(cosine > 0.995, "{heads} × {head_dim}: {cosine}");
    }
}

#[test]
fn texts_beside_one_another_change_no_bit() {
    let config = config(3, 12, 2, 100);
    let texts = ids(&[5, 90, 1, 33, 64, 2, 130], 3);
    for precision in [Precision::F32, Precision::Int8] {
        let together = states(&config, 4, precision, &texts);
        let reversed: Vec<Vec<u32>> = texts.iter().rev().cloned().collect();
        let reversed = states(&config, 4, precision, &reversed);
        for (number, text) in texts.iter().enumerate() {
            let alone = states(&config, 4, precision, std::slice::from_ref(text));
            assert_eq!(alone[0], together[number], "{precision:?}, text {number}");
            assert_eq!(alone[0], reversed[texts.len() - 1 - number], "{precision:?}, text {number}");
        }
    }
}

#[test]
fn what_the_model_does_not_know_is_refused() {
    let config = config(1, 4, 1, 4);
    let bert = FastBert::new(&config, &files(&config, 1), Precision::F32).unwrap();
    let refused = |texts: &[&[u32]]| bert.forward(texts, |_| ()).is_err();
    assert!(!refused(&[&[1, 49]]));
    assert!(!refused(&[]));
    assert!(refused(&[&[1], &[]]));
    assert!(refused(&[&[50]]));
    assert!(refused(&[&[0; 601]]));
    let wide = BertConfig { intermediate: 65_537, ..config };
    assert!(FastBert::new(&wide, &ModelFiles::default(), Precision::Int8).is_err());
}
