//! y = W·x + b and its way back, over rows, with W packed for both once for each step.

use super::super::fast::buffer::Buffer;
use super::super::fast::kernel::{Kernels, PANEL, Panel, Rows};
use super::super::fast::linear::padded;
use crate::kernel::threads::for_parts;

/// Rows that meet all panels before the next ones come: they stay in the first caches.
const AT_ONCE: usize = 64;

/// A matrix as panels of [`PANEL`] columns, in both directions.
#[derive(Default)]
pub(super) struct Linear {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Panels × inputs × outputs of a panel.
    ahead: Buffer<f32>,
    /// Panels × outputs × inputs of a panel; empty if no derivative passes.
    back: Buffer<f32>,
    /// Of all panels, zero beyond the last output.
    bias: Buffer<f32>,
}

impl Linear {
    /// Takes up `weights`, outputs × inputs, and `bias`; `back`: whether derivatives will pass.
    pub(super) fn pack(&mut self, weights: &[f32], bias: &[f32], back: bool, threads: usize) {
        (self.outputs, self.inputs) = (bias.len(), weights.len() / bias.len().max(1));
        let (inputs, outputs) = (self.inputs, self.outputs);
        self.bias.at_least(padded(outputs));
        self.bias[..outputs].copy_from_slice(bias);
        self.ahead.at_least(padded(outputs) * inputs);
        let panels = self.ahead.chunks_exact_mut(PANEL * inputs).zip(weights.chunks(PANEL * inputs));
        for_parts(threads, panels, || (), |(), (panel, rows)| turn(rows, inputs, panel));
        if back {
            self.back.at_least(padded(inputs) * outputs);
            let panels = self.back.chunks_exact_mut(PANEL * outputs).enumerate();
            let copy = |first: usize, panel: &mut [f32]| {
                let width = PANEL.min(inputs - first);
                for (target, row) in panel.chunks_exact_mut(PANEL).zip(weights.chunks_exact(inputs)) {
                    target[..width].copy_from_slice(&row[first..first + width]);
                }
            };
            for_parts(threads, panels, || (), |(), (number, panel)| copy(number * PANEL, panel));
        }
    }

    /// Maps `rows` into rows of `out`, `stride` apart; all padded columns are written.
    pub(super) fn apply(&self, kernels: &Kernels, rows: Rows<'_>, out: &mut [f32], stride: usize) {
        for_blocks(rows, out, stride, |rows, out| {
            let panels = self.ahead.chunks_exact(self.inputs * PANEL).zip(self.bias.chunks_exact(PANEL));
            for (number, (values, bias)) in panels.enumerate() {
                let panel = Panel { values, inputs: self.inputs, bias };
                (kernels.product)(rows, panel, &mut out[number * PANEL..], stride);
            }
        });
    }

    /// Derivatives by inputs of those by outputs, in the same way.
    pub(super) fn back(&self, kernels: &Kernels, slopes: Rows<'_>, out: &mut [f32], stride: usize) {
        for_blocks(slopes, out, stride, |slopes, out| {
            for (number, values) in self.back.chunks_exact(self.outputs * PANEL).enumerate() {
                let panel = Panel { values, inputs: self.outputs, bias: &[] };
                (kernels.product)(slopes, panel, &mut out[number * PANEL..], stride);
            }
        });
    }
}

/// Calls `work` for some rows at a time.
fn for_blocks(rows: Rows<'_>, out: &mut [f32], stride: usize, work: impl Fn(Rows<'_>, &mut [f32])) {
    for start in (0..rows.count).step_by(AT_ONCE) {
        let count = AT_ONCE.min(rows.count - start);
        let values = &rows.values[start * rows.stride..];
        work(Rows { values, count, ..rows }, &mut out[start * stride..]);
    }
}

/// Writes rows, at most [`PANEL`], as columns of a panel.
fn turn(rows: &[f32], inputs: usize, panel: &mut [f32]) {
    /// Columns turned at a time, so that both sides stay in the cache.
    const COLUMNS: usize = 16;
    for first in (0..inputs).step_by(COLUMNS) {
        let width = COLUMNS.min(inputs - first);
        for (number, row) in rows.chunks_exact(inputs).enumerate() {
            let targets = panel[first * PANEL..].chunks_exact_mut(PANEL);
            for (target, &value) in targets.zip(&row[first..first + width]) {
                target[number] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fast::kernel::kernels;
    use super::*;

    #[test]
    fn both_directions_are_their_definition() {
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
        for (inputs, outputs, count) in [(1, 1, 1), (36, 100, 3), (100, 36, 77), (63, 33, 5)] {
            let weights: Vec<f32> = (0..inputs * outputs).map(|i| value(i + 7)).collect();
            let bias: Vec<f32> = (0..outputs).map(value).collect();
            let mut linear = Linear::default();
            linear.pack(&vec![9.0; inputs * outputs], &bias, true, 2);
            linear.pack(&weights, &bias, true, 2);
            for back in [false, true] {
                let (from, to) = if back { (outputs, inputs) } else { (inputs, outputs) };
                let values: Vec<f32> = (0..count * (from + 3)).map(value).collect();
                let mut out = vec![f32::NAN; count * padded(to)];
                let rows = Rows { values: &values, stride: from + 3, count };
                match back {
                    true => linear.back(kernels(), rows, &mut out, padded(to)),
                    false => linear.apply(kernels(), rows, &mut out, padded(to)),
                }
                for (r, t) in (0..count).flat_map(|r| (0..to).map(move |t| (r, t))) {
                    let weight =
                        |f: usize| if back { weights[f * inputs + t] } else { weights[t * inputs + f] };
                    let sum: f32 = (0..from).map(|f| values[r * (from + 3) + f] * weight(f)).sum();
                    let expected = sum + if back { 0.0 } else { bias[t] };
                    assert!((out[r * padded(to) + t] - expected).abs() < 1e-4, "{inputs} {outputs} {r} {t}");
                }
            }
        }
    }
}
