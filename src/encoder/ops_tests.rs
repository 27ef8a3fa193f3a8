//! Each operation against candle's composed ones, in value and gradient, and against finite differences.

use candle_core::{D, Device, Tensor, Var};

use super::*;

/// Numbers in −2..2 that follow from `seed`.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

fn variable(shape: &[usize], seed: u64) -> Var {
    let count = shape.iter().product();
    Var::from_vec(numbers(count, seed), shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(left: &Tensor, right: &Tensor, tolerance: f32) {
    assert_eq!(left.dims(), right.dims());
    for (i, (a, b)) in flat(left).iter().zip(flat(right)).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "value {i}: {a} and {b}");
    }
}

/// Compares values and gradients of two functions of the same variables; the loss weighs every value
/// differently, so that no gradient cancels.
fn assert_same(
    variables: &[&Var],
    ours: impl Fn() -> Result<Tensor>,
    theirs: impl Fn() -> Result<Tensor>,
    tolerance: f32,
) {
    let (a, b) = (ours().unwrap(), theirs().unwrap());
    assert_near(&a, &b, tolerance);
    let weights = Tensor::from_vec(numbers(a.elem_count(), 99), a.dims(), &Device::Cpu).unwrap();
    let gradients = |y: &Tensor| (y * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let (a, b) = (gradients(&a), gradients(&b));
    for variable in variables {
        let (a, b) = (a.get(variable).unwrap(), b.get(variable).unwrap());
        assert!(flat(b).iter().any(|&g| g != 0.0));
        assert_near(a, b, 10.0 * tolerance);
    }
}

/// Compares the gradient with central differences of the loss, in a few places of each variable.
fn assert_slopes(variables: &[&Var], function: impl Fn() -> Result<Tensor>) {
    let y = function().unwrap();
    let weights = numbers(y.elem_count(), 7);
    let tensor = Tensor::from_slice(&weights, y.dims(), &Device::Cpu).unwrap();
    let gradients = (&y * &tensor).unwrap().sum_all().unwrap().backward().unwrap();
    let loss = || -> f64 {
        flat(&function().unwrap()).iter().zip(&weights).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum()
    };
    for variable in variables {
        let before = flat(variable);
        let gradient = flat(gradients.get(variable).unwrap());
        for at in (0..before.len()).step_by(before.len().div_ceil(7)) {
            let shifted = |step: f32| {
                let mut values = before.clone();
                values[at] += step;
                variable.set(&Tensor::from_vec(values, variable.dims(), &Device::Cpu).unwrap()).unwrap();
                loss()
            };
            let slope = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            shifted(0.0);
            let gradient = f64::from(gradient[at]);
            assert!((slope - gradient).abs() < 1e-3 * (1.0 + slope.abs()), "{at}: {slope} and {gradient}");
        }
    }
}

#[test]
fn layer_norm_equals_the_composed_one() {
    // More rows than one block of the backward pass, and a width that is no multiple of eight.
    let (x, w, b) = (variable(&[600, 37], 1), variable(&[37], 2), variable(&[37], 3));
    let ours = || x.apply_op3(&w, &b, LayerNorm { epsilon: 1e-5 });
    let theirs = || candle_nn::ops::layer_norm_slow(&x, &w, &b, 1e-5);
    assert_same(&[&x, &w, &b], ours, theirs, 1e-5);
    let small = variable(&[3, 37], 4);
    assert_slopes(&[&small, &w, &b], || small.apply_op3(&w, &b, LayerNorm { epsilon: 1e-5 }));
}

#[test]
fn softmax_equals_the_composed_one_and_masks_with_exact_zeros() {
    let x = variable(&[2, 3, 5, 11], 5);
    let lengths: Arc<[usize]> = [11, 4].into();
    let op = || MaskedSoftmax { scale: 0.7, lengths: Arc::clone(&lengths) };
    let mask: Vec<f32> =
        (0..22).map(|i| if i % 11 < lengths[i / 11] { 0.0 } else { f32::NEG_INFINITY }).collect();
    let mask = Tensor::from_vec(mask, (2, 1, 1, 11), &Device::Cpu).unwrap();
    let theirs = || candle_nn::ops::softmax(&(x.as_tensor() * 0.7)?.broadcast_add(&mask)?, D::Minus1);
    assert_same(&[&x], || x.apply_op1(op()), theirs, 1e-5);
    assert_slopes(&[&x], || x.apply_op1(op()));

    let y = flat(&x.apply_op1(op()).unwrap());
    assert!(y[3 * 5 * 11..].chunks(11).all(|row| row[4..].iter().all(|&p| p == 0.0)));
    assert!(y.chunks(11).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-6));
}

#[test]
fn softmax_of_far_apart_scores_has_no_denormals() {
    let scores: Vec<f32> = (0..128).map(|i| -i as f32).collect();
    let x = Tensor::from_vec(scores, (1, 1, 1, 128), &Device::Cpu).unwrap();
    let op = MaskedSoftmax { scale: 1.0, lengths: [128].into() };
    assert!(flat(&x.apply_op1(op).unwrap()).iter().all(|p| !p.is_subnormal()));
}

#[test]
fn gelu_equals_the_composed_one() {
    let x = variable(&[4, 1_000], 6);
    let wide = Var::from_tensor(&(x.as_tensor() * 4.0).unwrap()).unwrap();
    assert_same(&[&wide], || wide.apply_op1(Gelu), || wide.gelu_erf(), 1e-6);
    let small = variable(&[40], 8);
    assert_slopes(&[&small], || small.apply_op1(Gelu));
}

#[test]
fn gelu_takes_any_number() {
    let x = [0.0, -0.0, 30.0, -30.0, 1e30, -1e30, f32::MAX, f32::MIN];
    let y = flat(&Tensor::new(&x, &Device::Cpu).unwrap().apply_op1(Gelu).unwrap());
    for (x, y) in x.iter().zip(y) {
        let expected = if *x < 0.0 { 0.0 } else { *x };
        assert!((y - expected).abs() <= 1e-6 * expected.abs(), "{x}: {y}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (x, w, b) = (variable(&[1_200, 384], 1), variable(&[384], 2), variable(&[384], 3));
    let run = || {
        let y = x.apply_op3(&w, &b, LayerNorm { epsilon: 1e-12 }).unwrap().apply_op1(Gelu).unwrap();
        let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let mut all = flat(&y);
        [&x, &w, &b].iter().for_each(|v| all.extend(flat(gradients.get(v).unwrap())));
        all
    };
    for threads in 1..4 {
        assert_eq!(run(), on_threads(threads, run), "{threads}");
    }
}
