//! Every path against plain Rust, on random and on extreme operands.

use proptest::prelude::*;

use super::*;

/// Numbers of xorshift64.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    }
}

fn floats(seed: u64, count: usize) -> Vec<f32> {
    let mut next = random(seed);
    (0..count).map(|_| (next() % 2001) as f32 / 1000.0 - 1.0).collect()
}

/// Shapes: rows, inputs, what strides add.
fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    (0usize..35, 0usize..130, 0usize..9)
}

proptest! {
    #[test]
    fn products_are_those_of_plain_rust((count, inputs, more) in shape(), seed: u64, biased: bool) {
        let (stride, to) = (inputs + more, PANEL + more);
        let values = floats(seed, count * stride);
        let weights = floats(seed ^ 1, inputs * PANEL);
        let bias = if biased { floats(seed ^ 2, PANEL) } else { Vec::new() };
        let rows = Rows { values: &values, stride, count };
        let panel = Panel { values: &weights, inputs, bias: &bias };
        let run = |kernels: &Kernels| {
            let mut out = vec![9.0; count * to];
            (kernels.product)(rows, panel, &mut out, to);
            out
        };
        let expected = run(&scalar::KERNELS);
        for path in available() {
            for (at, (a, b)) in run(&path).iter().zip(&expected).enumerate() {
                prop_assert!((a - b).abs() < 1e-4, "{}, {}: {} {}", path.isa, at, a, b);
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it((count, inputs, _) in shape(), seed: u64) {
        let values = floats(seed, count * inputs);
        let weights = floats(seed ^ 1, inputs * PANEL);
        let panel = Panel { values: &weights, inputs, bias: &[] };
        for path in available() {
            let mut all = vec![0.0; count * PANEL];
            (path.product)(Rows { values: &values, stride: inputs, count }, panel, &mut all, PANEL);
            for r in 0..count {
                let mut one = vec![0.0; PANEL];
                let row = Rows { values: &values[r * inputs..], stride: inputs, count: 1 };
                (path.product)(row, panel, &mut one, PANEL);
                prop_assert_eq!(&one, &all[r * PANEL..(r + 1) * PANEL], "{}", path.isa);
            }
        }
    }

    #[test]
    fn products_of_codes_are_equal((count, quads, more) in shape(), seed: u64, extreme in 0u8..4) {
        let mut next = random(seed);
        let (inputs, to) = (quads * QUAD, PANEL + more);
        let stride = inputs + more;
        let code = |n: u64| match extreme { 0 => 255, 1 => 0, _ => n as u8 };
        let weight = |n: u64| match extreme { 0 => 127, 1 => -127, 2 => if n.is_multiple_of(2) { 127 } else { -127 }, _ => n as i8 };
        let codes: Vec<u8> = (0..count * stride).map(|_| code(next())).collect();
        let weights: Vec<i8> = (0..inputs * PANEL).map(|_| weight(next())).collect();
        let sums: Vec<i32> = (0..PANEL).map(|_| (next() % 60_000) as i32 - 30_000).collect();
        let zeros: Vec<i32> = (0..count).map(|_| (next() % 256) as i32).collect();
        let (scales, factors, bias) = (floats(seed, PANEL), floats(seed ^ 1, count), floats(seed ^ 2, PANEL));
        let rows = CodeRows { codes: &codes, stride, scales: &factors, zeros: &zeros, count };
        let panel = CodePanel { codes: &weights, inputs, scales: &scales, sums: &sums, bias: &bias };
        let run = |kernels: &Kernels| {
            let mut out = vec![9.0; count * to];
            (kernels.code_product)(rows, panel, &mut out, to);
            out
        };
        let expected = run(&scalar::KERNELS);
        for path in available() {
            prop_assert_eq!(run(&path), expected.clone(), "{}", path.isa);
        }
    }

    #[test]
    fn rows_are_equal_on_every_path(len in 1usize..100, seed: u64, magnitude in -45i32..30) {
        let size = 10f32.powi(magnitude);
        let row: Vec<f32> = floats(seed, len).iter().map(|v| v * size).collect();
        let (other, weight) = (floats(seed ^ 1, len), floats(seed ^ 2, len));
        let run = |kernels: &Kernels| {
            let parameters = NormParameters { weight: &weight, bias: &other, epsilon: 1e-12 };
            let mut rows = [row.clone(), row.clone(), row.clone()];
            (kernels.gelu)(&mut rows[0]);
            (kernels.norm)(&mut rows[1], &other, parameters);
            let sum = (kernels.softmax)(&mut rows[2], len / 2 + 1);
            let mut codes = vec![0; len];
            let (scale, zero) = (kernels.quantize)(&row, &mut codes);
            let mut four = [row.clone(), row.clone(), row.clone(), row.clone()];
            let mut shares = vec![0; len];
            four[0][0] += (kernels.softmax_codes)(&mut rows[0], len / 2 + 1, &mut shares);
            codes.extend(shares);
            let mut products = vec![0.0; len];
            (kernels.multiply)(&row, &weight, &mut products);
            four[0].iter_mut().zip(products).for_each(|(value, product)| *value += product);
            let mut signed = vec![0i8; len];
            four[1][0] += (kernels.quantize_signed)(&other, &mut signed);
            codes.extend(signed.iter().map(|&code| code as u8));
            (kernels.most)(&mut four[2], &other);
            let steps: Vec<f32> = four[2].iter().map(|most| 127.0 / most.max(1e-3)).collect();
            let mut quads = vec![0u32; len];
            (kernels.interleave)([&other, &weight, &other, &weight].map(Vec::as_slice), &steps, &mut quads);
            codes.extend(quads.iter().flat_map(|quad| quad.to_ne_bytes()));
            rows[0].extend(four.concat());
            let bits: Vec<u32> = rows.concat().iter().map(|v| v.to_bits()).collect();
            (bits, sum.to_bits(), codes, scale.to_bits(), zero)
        };
        let expected = run(&scalar::KERNELS);
        for path in available() {
            prop_assert_eq!(run(&path), expected.clone(), "{}", path.isa);
        }
    }
}

#[test]
fn longest_products_of_codes_do_not_overflow() {
    let codes = vec![255u8; CODE_INPUTS_MAX];
    let weights = vec![-127i8; CODE_INPUTS_MAX * PANEL];
    let ones = [1.0; PANEL];
    let sums = [-127 * CODE_INPUTS_MAX as i32; PANEL];
    for zero in [0, 255] {
        let rows = CodeRows { codes: &codes, stride: 0, scales: &[1.0], zeros: &[zero], count: 1 };
        let panel = CodePanel {
            codes: &weights,
            inputs: CODE_INPUTS_MAX,
            scales: &ones,
            sums: &sums,
            bias: &[0.0; PANEL],
        };
        for path in available() {
            let mut out = [0.0; PANEL];
            (path.code_product)(rows, panel, &mut out, PANEL);
            let expected = -127 * (255 - i64::from(zero)) * CODE_INPUTS_MAX as i64;
            assert_eq!(out, [expected as f32; PANEL], "{}", path.isa);
        }
    }
}

#[test]
fn blocks_are_even_and_cover_all_rows() {
    for count in 0..100 {
        let mut next = 0;
        for (start, len) in blocks(count, 14) {
            assert_eq!(start, next);
            assert!(len <= 14 && (len + 1) * count.div_ceil(14).max(1) > count);
            next += len;
        }
        assert_eq!(next, count);
    }
    assert_eq!(blocks(16, 14).collect::<Vec<_>>(), [(0, 8), (8, 8)]);
}

#[test]
fn slices_that_are_too_short_are_refused() {
    for path in available() {
        let refuses = |values: usize, weights: usize, out: usize| {
            let (values, weights, mut out) = (vec![0.0; values], vec![0.0; weights], vec![0.0; out]);
            let call = std::panic::AssertUnwindSafe(|| {
                let rows = Rows { values: &values, stride: 8, count: 3 };
                let panel = Panel { values: &weights, inputs: 8, bias: &[] };
                (path.product)(rows, panel, &mut out, PANEL);
            });
            std::panic::catch_unwind(call).is_err()
        };
        assert!(!refuses(24, 8 * PANEL, 3 * PANEL));
        assert!(refuses(23, 8 * PANEL, 3 * PANEL));
        assert!(refuses(24, 8 * PANEL - 1, 3 * PANEL));
        assert!(refuses(24, 8 * PANEL, 3 * PANEL - 1));
    }
}
