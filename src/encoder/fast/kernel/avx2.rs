//! Products by AVX2 with FMA: halves of a panel at a time, six rows of values or two of codes.
//!
//! Codes are widened to 16 bits before they are multiplied: the instruction for bytes saturates its sums.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::{CodePanel, CodeRows, Kernels, PANEL, Panel, QUAD, Rows, blocks, rows, slopes};

/// Rows of a block of values: twelve registers of sums leave four for operands.
const ROWS: usize = 6;

/// Rows of a block of codes: eight registers of sums, four of widened weights.
const CODE_ROWS: usize = 2;

/// Values of a register.
const WIDTH: usize = 8;

/// Columns of half a panel.
const HALF: usize = PANEL / 2;

/// This path, where the processor has it.
pub(super) fn kernels() -> Option<Kernels> {
    let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    found.then_some(Kernels {
        isa: "avx2",
        // SAFETY: the features were found on the line above; so for all that follow.
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

#[target_feature(enable = "avx2,fma")]
fn product(rows: Rows<'_>, panel: Panel<'_>, out: &mut [f32], stride: usize) {
    rows.check(&panel, out, stride);
    for (start, count) in blocks(rows.count, ROWS) {
        let values = rows.values[start * rows.stride..].as_ptr();
        let out = out[start * stride..].as_mut_ptr();
        for column in [0, HALF] {
            // SAFETY: `check` made sure that `count` rows from `start` on are inside their slices, to read `inputs`
            // values of each and to write `PANEL`, and that the panel has `inputs` rows of `PANEL` values.
            unsafe {
                match count {
                    1 => block::<1>(values, rows.stride, panel, column, out, stride),
                    2 => block::<2>(values, rows.stride, panel, column, out, stride),
                    3 => block::<3>(values, rows.stride, panel, column, out, stride),
                    4 => block::<4>(values, rows.stride, panel, column, out, stride),
                    5 => block::<5>(values, rows.stride, panel, column, out, stride),
                    6 => block::<6>(values, rows.stride, panel, column, out, stride),
                    _ => {}
                }
            }
        }
    }
}

/// The columns from `column` on, half a panel.
///
/// # Safety
/// `values` and `out` must have `R` rows, `from` and `to` apart, of the panel's inputs and of [`PANEL`] values;
/// `column` must be at most [`HALF`].
#[target_feature(enable = "avx2,fma")]
unsafe fn block<const R: usize>(
    values: *const f32,
    from: usize,
    panel: Panel<'_>,
    column: usize,
    out: *mut f32,
    to: usize,
) {
    let bias = match panel.bias {
        [] => [_mm256_setzero_ps(); 2],
        // SAFETY: a bias that is not empty has `PANEL` values, of which two registers from `column` on are read.
        bias => unsafe {
            let bias = bias.as_ptr().add(column);
            [_mm256_loadu_ps(bias), _mm256_loadu_ps(bias.add(WIDTH))]
        },
    };
    let mut sums = [bias; R];
    // SAFETY: the panel has `PANEL` values for each input, of which two registers from `column` on are read; an input
    // is one value of each row; each row of `out` has room for `PANEL` values.
    unsafe {
        let weights = panel.values.as_ptr().add(column);
        for i in 0..panel.inputs {
            let first = _mm256_loadu_ps(weights.add(i * PANEL));
            let second = _mm256_loadu_ps(weights.add(i * PANEL + WIDTH));
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = _mm256_set1_ps(*values.add(r * from + i));
                sums[0] = _mm256_fmadd_ps(value, first, sums[0]);
                sums[1] = _mm256_fmadd_ps(value, second, sums[1]);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            _mm256_storeu_ps(out.add(r * to + column), sums[0]);
            _mm256_storeu_ps(out.add(r * to + column + WIDTH), sums[1]);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn code_product(rows: CodeRows<'_>, panel: CodePanel<'_>, out: &mut [f32], stride: usize) {
    rows.check(&panel, out, stride);
    for (start, count) in blocks(rows.count, CODE_ROWS) {
        let part = CodeRows {
            codes: &rows.codes[start * rows.stride..],
            scales: &rows.scales[start..],
            zeros: &rows.zeros[start..],
            count,
            ..rows
        };
        let out = out[start * stride..].as_mut_ptr();
        for column in [0, HALF] {
            // SAFETY: `check` made sure that `count` rows from `start` on are inside their slices, with a scale and a
            // zero each, and that the panel has codes for all inputs and `PANEL` scales, sums and biases.
            unsafe {
                match count {
                    1 => code_block::<1>(part, panel, column, out, stride),
                    2 => code_block::<2>(part, panel, column, out, stride),
                    _ => {}
                }
            }
        }
    }
}

/// The columns from `column` on, half a panel.
///
/// # Safety
/// `rows` and `out` must have `R` rows, of the panel's inputs and of [`PANEL`] values; the panel must be whole, and
/// `column` at most [`HALF`].
#[target_feature(enable = "avx2,fma")]
unsafe fn code_block<const R: usize>(
    rows: CodeRows<'_>,
    panel: CodePanel<'_>,
    column: usize,
    out: *mut f32,
    to: usize,
) {
    // Each register holds two sums for each of four columns: of the first and of the second half of a quad.
    let mut sums = [[_mm256_setzero_si256(); QUAD]; R];
    for quad in 0..panel.inputs / QUAD {
        // SAFETY: the panel has `PANEL · QUAD` codes for each quad of inputs, of which 64 from `column` on are read; a
        // quad of inputs is one quad of each row; none of the loads needs alignment.
        unsafe {
            let weights = panel.codes.as_ptr().add((quad * PANEL + column) * QUAD);
            let weights = [
                _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.add(16).cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.add(32).cast())),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.add(48).cast())),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let code = rows.codes.as_ptr().add(r * rows.stride + quad * QUAD).cast::<i32>();
                let code = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(code.read_unaligned()));
                let code = _mm256_broadcastq_epi64(code);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(code, weights));
                }
            }
        }
    }
    for half in 0..2 {
        let at = column + half * WIDTH;
        // SAFETY: the panel has `PANEL` scales, sums and biases.
        let (scales, offsets, bias) = unsafe {
            (
                _mm256_loadu_ps(panel.scales.as_ptr().add(at)),
                _mm256_loadu_si256(panel.sums.as_ptr().add(at).cast()),
                _mm256_loadu_ps(panel.bias.as_ptr().add(at)),
            )
        };
        for (r, sums) in sums.iter().enumerate() {
            // Sums of neighbours come out as columns 0 1 4 5 2 3 6 7.
            let joined = _mm256_hadd_epi32(sums[2 * half], sums[2 * half + 1]);
            let joined = _mm256_permute4x64_epi64::<0b11_01_10_00>(joined);
            // SAFETY: there are `R` rows, with a scale and a zero each and room for `PANEL` values.
            unsafe {
                let zero = _mm256_set1_epi32(*rows.zeros.get_unchecked(r));
                let scale = _mm256_set1_ps(*rows.scales.get_unchecked(r));
                let exact = _mm256_sub_epi32(joined, _mm256_mullo_epi32(zero, offsets));
                let value = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(exact), scales), scale);
                _mm256_storeu_ps(out.add(r * to + at), _mm256_add_ps(value, bias));
            }
        }
    }
}

rows::compiled_for!("avx2,fma");
