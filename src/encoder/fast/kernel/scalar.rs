//! Products in plain Rust: the reference for every other path.

use super::{CodePanel, CodeRows, Kernels, PANEL, Panel, QUAD, Rows, rows, slopes};

pub(super) const KERNELS: Kernels = Kernels {
    isa: "scalar",
    product,
    code_product,
    gelu: rows::gelu,
    gelu_back: slopes::gelu_back,
    norm_back: slopes::norm_back,
    softmax_back: slopes::softmax_back,
    add: rows::add,
    norm: rows::norm,
    softmax: rows::softmax,
    multiply: rows::multiply,
    quantize: rows::quantize,
    softmax_codes: rows::softmax_codes,
    quantize_signed: rows::quantize_signed,
    most: rows::most,
    interleave: rows::interleave,
};

fn product(rows: Rows<'_>, panel: Panel<'_>, out: &mut [f32], stride: usize) {
    rows.check(&panel, out, stride);
    for r in 0..rows.count {
        let mut sums = [0.0; PANEL];
        for (sum, &bias) in sums.iter_mut().zip(panel.bias) {
            *sum = bias;
        }
        let row = &rows.values[r * rows.stride..][..panel.inputs];
        for (&value, weights) in row.iter().zip(panel.values.as_chunks::<PANEL>().0) {
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum += value * weight;
            }
        }
        out[r * stride..][..PANEL].copy_from_slice(&sums);
    }
}

fn code_product(rows: CodeRows<'_>, panel: CodePanel<'_>, out: &mut [f32], stride: usize) {
    rows.check(&panel, out, stride);
    for r in 0..rows.count {
        let mut sums = [0i32; PANEL];
        let row = &rows.codes[r * rows.stride..][..panel.inputs];
        for (quad, weights) in row.as_chunks::<QUAD>().0.iter().zip(panel.codes.chunks_exact(PANEL * QUAD)) {
            for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<QUAD>().0) {
                *sum += quad.iter().zip(weights).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>();
            }
        }
        for (column, (value, sum)) in out[r * stride..][..PANEL].iter_mut().zip(sums).enumerate() {
            let exact = sum.wrapping_sub(rows.zeros[r].wrapping_mul(panel.sums[column]));
            *value = exact as f32 * panel.scales[column] * rows.scales[r] + panel.bias[column];
        }
    }
}
