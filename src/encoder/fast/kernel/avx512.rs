//! Products by AVX-512 with VNNI: up to 14 rows by two registers of columns, all sums in registers.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{CodePanel, CodeRows, Kernels, PANEL, Panel, QUAD, Rows, blocks, rows, slopes};

/// Rows of a block: 28 registers of sums leave four for operands.
const ROWS: usize = 14;

/// Values of a register.
const WIDTH: usize = 16;

/// This path, where the processor has it.
pub(super) fn kernels() -> Option<Kernels> {
    let found = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    found.then_some(Kernels {
        isa: "avx512",
        // SAFETY: the features were found on the lines above; so for all that follow.
        product: |rows, panel, out, stride| unsafe { product(rows, panel, out, stride) },
        // SAFETY: as above.
        code_product: |rows, panel, out, stride| unsafe { code_product(rows, panel, out, stride) },
        // SAFETY: as above.
        gelu: |row| unsafe { gelu(row) },
        // SAFETY: as above.
        norm: |row, other, parameters| unsafe { norm(row, other, parameters) },
        // SAFETY: as above.
        softmax: |row, len| unsafe { softmax(row, len) },
        // SAFETY: as above.
        gelu_back: |slope, inputs| unsafe { gelu_back(slope, inputs) },
        // SAFETY: as above.
        norm_back: |slope, x, parameters, weight, bias| unsafe {
            norm_back(slope, x, parameters, weight, bias)
        },
        // SAFETY: as above.
        softmax_back: |slope, shares| unsafe { softmax_back(slope, shares) },
        // SAFETY: as above.
        add: |row, other| unsafe { add(row, other) },
        // SAFETY: as above.
        multiply: |row, factors, out| unsafe { multiply(row, factors, out) },
        // SAFETY: as above.
        quantize: |row, codes| unsafe { quantize(row, codes) },
        // SAFETY: as above.
        softmax_codes: |row, len, codes| unsafe { softmax_codes(row, len, codes) },
        // SAFETY: as above.
        quantize_signed: |row, codes| unsafe { quantize_signed(row, codes) },
        // SAFETY: as above.
        most: |most, row| unsafe { largest(most, row) },
        // SAFETY: as above.
        interleave: |rows, steps, codes| unsafe { interleave(rows, steps, codes) },
    })
}

/// Calls the block of as many rows as there are, 1 to [`ROWS`].
macro_rules! by_rows {
    ($rows:expr, $block:ident($($argument:expr),*)) => {
        match $rows {
            1 => $block::<1>($($argument),*),
            2 => $block::<2>($($argument),*),
            3 => $block::<3>($($argument),*),
            4 => $block::<4>($($argument),*),
            5 => $block::<5>($($argument),*),
            6 => $block::<6>($($argument),*),
            7 => $block::<7>($($argument),*),
            8 => $block::<8>($($argument),*),
            9 => $block::<9>($($argument),*),
            10 => $block::<10>($($argument),*),
            11 => $block::<11>($($argument),*),
            12 => $block::<12>($($argument),*),
            13 => $block::<13>($($argument),*),
            14 => $block::<14>($($argument),*),
            _ => {}
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn product(rows: Rows<'_>, panel: Panel<'_>, out: &mut [f32], stride: usize) {
    rows.check(&panel, out, stride);
    for (start, count) in blocks(rows.count, ROWS) {
        let values = rows.values[start * rows.stride..].as_ptr();
        let out = out[start * stride..].as_mut_ptr();
        // SAFETY: `check` made sure that `count` rows from `start` on are inside their slices, to read `inputs` values
        // of each and to write `PANEL`, and that the panel has `inputs` rows of `PANEL` values.
        unsafe { by_rows!(count, block(values, rows.stride, panel, out, stride)) };
    }
}

/// # Safety
/// `values` and `out` must have `R` rows, `from` and `to` apart, of the panel's inputs and of [`PANEL`] values.
#[target_feature(enable = "avx512f")]
unsafe fn block<const R: usize>(values: *const f32, from: usize, panel: Panel<'_>, out: *mut f32, to: usize) {
    let bias = match panel.bias {
        [] => [_mm512_setzero_ps(); 2],
        // SAFETY: a bias that is not empty has `PANEL` values.
        bias => unsafe { [_mm512_loadu_ps(bias.as_ptr()), _mm512_loadu_ps(bias.as_ptr().add(WIDTH))] },
    };
    let mut sums = [bias; R];
    let weights = panel.values.as_ptr();
    for i in 0..panel.inputs {
        // SAFETY: the panel has `PANEL` values for each input, which is one value of each row.
        unsafe {
            let first = _mm512_loadu_ps(weights.add(i * PANEL));
            let second = _mm512_loadu_ps(weights.add(i * PANEL + WIDTH));
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*values.add(r * from + i));
                sums[0] = _mm512_fmadd_ps(value, first, sums[0]);
                sums[1] = _mm512_fmadd_ps(value, second, sums[1]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: each of the `R` rows of `out` has room for `PANEL` values.
        unsafe {
            _mm512_storeu_ps(out.add(r * to), sums[0]);
            _mm512_storeu_ps(out.add(r * to + WIDTH), sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn code_product(rows: CodeRows<'_>, panel: CodePanel<'_>, out: &mut [f32], stride: usize) {
    rows.check(&panel, out, stride);
    for (start, count) in blocks(rows.count, ROWS) {
        let part = CodeRows {
            codes: &rows.codes[start * rows.stride..],
            scales: &rows.scales[start..],
            zeros: &rows.zeros[start..],
            count,
            ..rows
        };
        let out = out[start * stride..].as_mut_ptr();
        // SAFETY: `check` made sure that `count` rows from `start` on are inside their slices, with a scale and a zero
        // each, and that the panel has codes for all inputs and `PANEL` scales, sums and biases.
        unsafe { by_rows!(count, code_block(part, panel, out, stride)) };
    }
}

/// # Safety
/// `rows` and `out` must have `R` rows, of the panel's inputs and of [`PANEL`] values; the panel must be whole.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn code_block<const R: usize>(rows: CodeRows<'_>, panel: CodePanel<'_>, out: *mut f32, to: usize) {
    // SAFETY: the panel has `PANEL` sums.
    let offsets = unsafe {
        let offsets = panel.sums.as_ptr();
        [_mm512_loadu_si512(offsets.cast()), _mm512_loadu_si512(offsets.add(WIDTH).cast())]
    };
    // What zeros stand for is taken off first.
    let mut sums = [offsets; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: there are `R` rows, with a zero each.
        let zero = unsafe { *rows.zeros.get_unchecked(r) };
        let zero = _mm512_set1_epi32(zero.wrapping_neg());
        sums[0] = _mm512_mullo_epi32(sums[0], zero);
        sums[1] = _mm512_mullo_epi32(sums[1], zero);
    }
    let (codes, weights) = (rows.codes.as_ptr(), panel.codes.as_ptr());
    for quad in 0..panel.inputs / QUAD {
        // SAFETY: the panel has `PANEL · QUAD` codes for each quad of inputs, which is one quad of each row; 32-bit
        // loads through `read_unaligned` need no alignment.
        unsafe {
            let first = _mm512_loadu_si512(weights.add(quad * PANEL * QUAD).cast());
            let second = _mm512_loadu_si512(weights.add((quad * PANEL + WIDTH) * QUAD).cast());
            for (r, sums) in sums.iter_mut().enumerate() {
                let code = codes.add(r * rows.stride + quad * QUAD).cast::<i32>().read_unaligned();
                let code = _mm512_set1_epi32(code);
                sums[0] = _mm512_dpbusd_epi32(sums[0], code, first);
                sums[1] = _mm512_dpbusd_epi32(sums[1], code, second);
            }
        }
    }
    for half in 0..2 {
        let at = half * WIDTH;
        // SAFETY: the panel has `PANEL` scales and biases.
        let (scales, bias) = unsafe {
            (_mm512_loadu_ps(panel.scales.as_ptr().add(at)), _mm512_loadu_ps(panel.bias.as_ptr().add(at)))
        };
        for (r, sums) in sums.iter().enumerate() {
            // SAFETY: there are `R` rows, with a scale each and room for `PANEL` values.
            unsafe {
                let scale = _mm512_set1_ps(*rows.scales.get_unchecked(r));
                let value = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[half]), scales), scale);
                _mm512_storeu_ps(out.add(r * to + at), _mm512_add_ps(value, bias));
            }
        }
    }
}

rows::compiled_for!("avx512f,avx512bw,avx512dq,avx512vl");
