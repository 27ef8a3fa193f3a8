//! Arithmetic of the fast encoder: products of rows with packed matrices, and what is done to single rows.
//!
//! | file | what it holds |
//! |---|---|
//! | `rows` | softmax, GELU, LayerNorm and quantization of a row, in plain Rust that compilers vectorise |
//! | `slopes` | the way back through these, in the same manner |
//! | `scalar` | products in plain Rust: the reference |
//! | `avx2`, `avx512` | products by hand, and `rows` compiled for these instructions |
//!
//! The instructions are those that [`crate::kernel::isa`] names, chosen once. Sums of int8 products are exact, and
//! every operation on floats outside of f32 products is written without fused steps: int8 results are equal on all
//! paths. An f32 product adds up the terms of each value in the order of the inputs, whatever the number of rows: a
//! row's result does not depend on the rows computed with it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod rows;
mod scalar;
mod slopes;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

/// Columns of a packed matrix that lie together.
pub(in crate::encoder) const PANEL: usize = 32;

/// Inputs of a column of codes that lie together.
pub(super) const QUAD: usize = 4;

/// Most inputs of a product of codes: its sums fit 32 bits.
pub(super) const CODE_INPUTS_MAX: usize = 65_536;

/// Rows of values, `stride` apart.
#[derive(Clone, Copy)]
pub(in crate::encoder) struct Rows<'a> {
    pub(in crate::encoder) values: &'a [f32],
    pub(in crate::encoder) stride: usize,
    pub(in crate::encoder) count: usize,
}

/// [`PANEL`] columns of a matrix: inputs × columns.
#[derive(Clone, Copy)]
pub(in crate::encoder) struct Panel<'a> {
    pub(in crate::encoder) values: &'a [f32],
    pub(in crate::encoder) inputs: usize,
    /// What is added to each row's products; nothing where empty.
    pub(in crate::encoder) bias: &'a [f32],
}

/// Rows of unsigned codes, `stride` apart: value = (code − zero) · scale.
#[derive(Clone, Copy)]
pub(super) struct CodeRows<'a> {
    pub(super) codes: &'a [u8],
    pub(super) stride: usize,
    pub(super) scales: &'a [f32],
    pub(super) zeros: &'a [i32],
    pub(super) count: usize,
}

/// [`PANEL`] columns of signed codes: quads of inputs × columns × [`QUAD`]. Value = code · scale.
#[derive(Clone, Copy)]
pub(super) struct CodePanel<'a> {
    pub(super) codes: &'a [i8],
    /// A multiple of [`QUAD`].
    pub(super) inputs: usize,
    pub(super) scales: &'a [f32],
    /// Sum of each column's codes.
    pub(super) sums: &'a [i32],
    pub(super) bias: &'a [f32],
}

/// Parameters of a LayerNorm.
#[derive(Clone, Copy)]
pub(in crate::encoder) struct NormParameters<'a> {
    pub(in crate::encoder) weight: &'a [f32],
    pub(in crate::encoder) bias: &'a [f32],
    pub(in crate::encoder) epsilon: f32,
}

/// The way back through a LayerNorm: derivatives, inputs, parameters, and the sums for weight and bias.
type NormBack = fn(&mut [f32], &[f32], NormParameters<'_>, &mut [f32], &mut [f32]);

/// One implementation of every kernel. Those of products panic if a slice is shorter than the shapes say.
#[derive(Clone, Copy)]
pub(in crate::encoder) struct Kernels {
    pub(super) isa: &'static str,
    /// Products of rows with a panel, into rows of [`PANEL`] values, `stride` apart.
    pub(in crate::encoder) product: fn(Rows<'_>, Panel<'_>, &mut [f32], stride: usize),
    /// The same for codes.
    pub(super) code_product: fn(CodeRows<'_>, CodePanel<'_>, &mut [f32], stride: usize),
    /// GELU of each value, by the error function.
    pub(in crate::encoder) gelu: fn(&mut [f32]),
    /// LayerNorm of the sum of two rows, into the first.
    pub(in crate::encoder) norm: fn(&mut [f32], &[f32], NormParameters<'_>),
    /// Powers of two of a row, relative to the largest of the first `len`; all others become next to nothing. Returns
    /// the sum of the powers: a softmax, not yet divided, of what was multiplied by log₂e.
    pub(in crate::encoder) softmax: fn(&mut [f32], len: usize) -> f32,
    /// Multiplies derivatives by GELU's at these inputs.
    pub(in crate::encoder) gelu_back: fn(&mut [f32], &[f32]),
    /// Turns the derivatives by a LayerNorm's output into those by its input, the second; adds those by weight and bias to
    /// the last two.
    pub(in crate::encoder) norm_back: NormBack,
    /// Turns the derivatives by shares of a softmax, the second, into those by its exponents (base e).
    pub(in crate::encoder) softmax_back: fn(&mut [f32], &[f32]),
    /// Adds a row to another.
    pub(in crate::encoder) add: fn(&mut [f32], &[f32]),
    /// Products of two rows, value by value.
    pub(super) multiply: fn(&[f32], &[f32], &mut [f32]),
    /// Codes of a row; returns scale and zero.
    pub(super) quantize: fn(&[f32], &mut [u8]) -> (f32, i32),
    /// The same as `softmax` with codes for powers, 255 for the largest; returns the sum of the codes of the first `len`.
    pub(super) softmax_codes: fn(&mut [f32], len: usize, &mut [u8]) -> f32,
    /// Signed codes of a row, −127 to 127; returns the scale.
    pub(super) quantize_signed: fn(&[f32], &mut [i8]) -> f32,
    /// Raises each value to the magnitude of the other row's, if that is larger.
    pub(super) most: fn(&mut [f32], &[f32]),
    /// Signed codes of four rows, side by side: of each column, whose steps in 1 are given, four bytes.
    pub(super) interleave: fn([&[f32]; QUAD], &[f32], &mut [u32]),
}

/// The paths this processor can run, the widest first.
fn available() -> Vec<Kernels> {
    let mut paths = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        paths.extend(avx512::kernels());
        paths.extend(avx2::kernels());
    }
    paths.push(scalar::KERNELS);
    paths
}

/// The path in use.
pub(in crate::encoder) fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let isa = crate::kernel::isa();
        available().into_iter().find(|path| path.isa == isa).unwrap_or(scalar::KERNELS)
    })
}

impl Rows<'_> {
    /// Panics unless the slices hold what the shapes say.
    fn check(&self, panel: &Panel<'_>, out: &[f32], stride: usize) {
        assert!(holds(self.values.len(), self.count, self.stride, panel.inputs), "rows are missing");
        assert!(panel.values.len() / PANEL >= panel.inputs, "a panel is too short");
        assert!(panel.bias.is_empty() || panel.bias.len() >= PANEL, "a bias is too short");
        assert!(holds(out.len(), self.count, stride, PANEL), "no room for products");
    }
}

impl CodeRows<'_> {
    /// Panics unless the slices hold what the shapes say.
    fn check(&self, panel: &CodePanel<'_>, out: &[f32], stride: usize) {
        assert!(holds(self.codes.len(), self.count, self.stride, panel.inputs), "rows are missing");
        assert!(self.scales.len() >= self.count && self.zeros.len() >= self.count, "scales are missing");
        assert!(
            panel.inputs.is_multiple_of(QUAD) && panel.inputs <= CODE_INPUTS_MAX,
            "a wrong number of inputs"
        );
        assert!(panel.codes.len() / PANEL >= panel.inputs, "a panel is too short");
        let columns = panel.scales.len().min(panel.sums.len()).min(panel.bias.len());
        assert!(columns >= PANEL, "scales, sums or bias are too short");
        assert!(holds(out.len(), self.count, stride, PANEL), "no room for products");
    }
}

/// Whether `len` values hold `count` rows of `width`, `stride` apart.
fn holds(len: usize, count: usize, stride: usize, width: usize) -> bool {
    let last =
        count.checked_sub(1).map(|last| last.checked_mul(stride).and_then(|start| start.checked_add(width)));
    last.is_none_or(|end| end.is_some_and(|end| end <= len))
}

/// Cuts `count` rows into blocks of at most `most`, as even as possible: starts and lengths.
fn blocks(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = count.div_ceil(most).max(1);
    let (each, more) = (count / parts, count % parts);
    (0..parts).map(move |part| (part * each + part.min(more), each + usize::from(part < more)))
}
