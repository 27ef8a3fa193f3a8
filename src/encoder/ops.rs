//! LayerNorm, masked softmax and GELU as candle operations with hand-written backward passes.
//!
//! candle's fused LayerNorm and softmax have no backward pass (gradients stop silently), and the
//! composed ones make about ten passes over memory. These make one, for contiguous f32 on the CPU.
//!
//! Invariants:
//! * every result is a function of its row alone (or, for the gradients of LayerNorm's weight and
//!   bias, of fixed blocks of rows added in order): the number of threads never changes a bit;
//! * masked probabilities are exact zeros. Values near 1e-38 are denormal numbers, which make a
//!   backward pass an order of magnitude slower.

use std::cell::Cell;
use std::sync::Arc;

use crate::kernel::exp::exp_negative;
use crate::kernel::threads::threads_or_cores;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

/// Elements below which an operation stays on its thread: starting one costs about 20 µs.
const PARALLEL_ELEMENTS: usize = 1 << 17;

/// Rows whose gradients of weight and bias are added up together.
const BLOCK_ROWS: usize = 256;

thread_local! {
    /// Threads that an operation may use; 0, as it is outside of tests: one a core.
    static THREADS: Cell<usize> = const { Cell::new(0) };
}

/// Runs `work` with the operations of this module on at most so many threads (0: one a core).
#[cfg(test)]
pub(crate) fn on_threads<T>(threads: usize, work: impl FnOnce() -> T) -> T {
    let before = THREADS.replace(threads);
    let result = work();
    THREADS.set(before);
    result
}

fn thread_count(elements: usize) -> usize {
    if elements < PARALLEL_ELEMENTS || THREADS.get() == 1 {
        return 1;
    }
    threads_or_cores(THREADS.get()).min(elements / (PARALLEL_ELEMENTS / 2))
}

/// Calls `work(first row, rows)` for consecutive parts of `out`, whose rows have `width` values.
fn for_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let threads = thread_count(out.len());
    if threads <= 1 {
        work(0, out);
        return;
    }
    let rows = (out.len() / width).div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (part, chunk) in out.chunks_mut(rows * width).enumerate() {
            let work = &work;
            scope.spawn(move || work(part * rows, chunk));
        }
    });
}

/// The error function, absolute error below 3e-7 (Abramowitz and Stegun, 7.1.26), given
/// `gauss` = exp(−z²).
#[inline(always)]
fn erf(z: f32, gauss: f32) -> f32 {
    let a = z.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152_1;
    p = p * t + 1.421_413_8;
    p = p * t - 0.284_496_72;
    p = p * t + 0.254_829_6;
    (1.0 - p * t * gauss).copysign(z)
}

/// Sum over a slice in eight lanes: vector code, and a fixed order of additions.
#[inline(always)]
fn lanes_sum(xs: &[f32], term: impl Fn(usize, f32) -> f32) -> f32 {
    let mut lanes = [0f32; 8];
    let mut chunks = xs.chunks_exact(8);
    let mut at = 0;
    for chunk in &mut chunks {
        for (i, (lane, &x)) in lanes.iter_mut().zip(chunk).enumerate() {
            *lane += term(at + i, x);
        }
        at += 8;
    }
    for (i, (lane, &x)) in lanes.iter_mut().zip(chunks.remainder()).enumerate() {
        *lane += term(at + i, x);
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

fn sum(xs: &[f32]) -> f32 {
    lanes_sum(xs, |_, x| x)
}

/// Σ x·(y − shift) over two slices of the same length.
fn dot(xs: &[f32], ys: &[f32], shift: f32) -> f32 {
    let mut lanes = [0f32; 8];
    let (mut xc, mut yc) = (xs.chunks_exact(8), ys.chunks_exact(8));
    for (x, y) in (&mut xc).zip(&mut yc) {
        for ((lane, x), y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += x * (y - shift);
        }
    }
    let tail: f32 = xc.remainder().iter().zip(yc.remainder()).map(|(x, y)| x * (y - shift)).sum();
    sum(&lanes) + tail
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("the operation needs contiguous 32-bit floats")
    };
    match data.get(start..end) {
        Some(slice) => Ok(slice),
        None => bail!("the layout does not fit its storage"),
    }
}

/// Calls `work` with the values of a tensor, without copying them if it is contiguous.
fn with_values<T>(tensor: &Tensor, work: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => work(values(storage, layout)?),
        _ => bail!("the operation runs on the CPU only"),
    }
}

/// Normalisation of each row to mean 0 and variance 1, then scale and shift
/// (Ba, Kiros and Hinton 2016, arXiv:1607.06450). Arguments: x (rows × width), weight, bias (width).
pub(crate) struct LayerNorm {
    /// Added to the variance.
    pub(crate) epsilon: f32,
}

impl LayerNorm {
    /// Mean and 1/standard deviation of a row.
    #[inline(always)]
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        let width = row.len() as f32;
        let mean = sum(row) / width;
        let variance = lanes_sum(row, |_, x| (x - mean) * (x - mean)) / width;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }

    /// Gradient of x, and of weight and bias summed over the block, for a block of rows.
    fn backward_block(&self, rows: BlockRows<'_>, dx: &mut [f32], sums: &mut [f32]) {
        let width = rows.weight.len();
        let (dw, db) = sums.split_at_mut(width);
        for ((x, g), dx) in rows.x.chunks(width).zip(rows.grad.chunks(width)).zip(dx.chunks_mut(width)) {
            let (mean, inverse) = self.moments(x);
            for (((dx, g), w), (dw, (db, x))) in
                dx.iter_mut().zip(g).zip(rows.weight).zip(dw.iter_mut().zip(db.iter_mut().zip(x)))
            {
                *dx = g * w;
                *dw += g * ((x - mean) * inverse);
                *db += g;
            }
            let along_one = sum(dx) / width as f32;
            let along_x = dot(dx, x, mean) * inverse / width as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = inverse * (*dx - along_one - (x - mean) * inverse * along_x);
            }
        }
    }
}

/// The inputs of one block of rows in the backward pass.
struct BlockRows<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    weight: &'a [f32],
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "embdb-layer-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (values(s1, l1)?, values(s2, l2)?, values(s3, l3)?);
        let width = weight.len();
        if width == 0 || bias.len() != width || x.len() % width != 0 {
            bail!("layer norm: {} values, weight {width}, bias {}", x.len(), bias.len());
        }
        let mut out = x.to_vec();
        for_rows(&mut out, width, |_, part| {
            for row in part.chunks_mut(width) {
                let (mean, inverse) = self.moments(row);
                for ((y, w), b) in row.iter_mut().zip(weight).zip(bias) {
                    *y = (*y - mean) * inverse * w + b;
                }
            }
        });
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = weight.elem_count();
        let blocks = x.elem_count().div_ceil(width * BLOCK_ROWS);
        // One buffer of blocks, so that one pass fills both: the gradient of x for the block's rows,
        // then the sums for weight and bias.
        let stride = (BLOCK_ROWS + 2) * width;
        let mut work = vec![0f32; blocks * stride];
        with_values(x, |x| {
            with_values(grad, |grad| {
                with_values(weight, |weight| {
                    for_rows(&mut work, stride, |first, part| {
                        let span = BLOCK_ROWS * width;
                        let inputs = x.chunks(span).zip(grad.chunks(span)).skip(first);
                        for (buffer, (x, grad)) in part.chunks_mut(stride).zip(inputs) {
                            let (dx, sums) = buffer.split_at_mut(span);
                            self.backward_block(BlockRows { x, grad, weight }, &mut dx[..x.len()], sums);
                        }
                    });
                    Ok(())
                })
            })
        })?;
        let mut dx = Vec::with_capacity(x.elem_count());
        let mut sums = vec![0f32; 2 * width];
        for buffer in work.chunks(stride) {
            let (rows, block) = buffer.split_at(BLOCK_ROWS * width);
            dx.extend_from_slice(&rows[..rows.len().min(x.elem_count() - dx.len())]);
            for (total, part) in sums.iter_mut().zip(block) {
                *total += part;
            }
        }
        let db = sums.split_off(width);
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(sums, weight.shape(), x.device())?),
            Some(Tensor::from_vec(db, bias.shape(), x.device())?),
        ))
    }
}

/// Softmax of `scale`·x over the keys of each query, with padded keys exactly zero.
/// Argument: scores of shape texts × heads × queries × keys.
pub(crate) struct MaskedSoftmax {
    /// Factor on the scores, 1/√(width of a head).
    pub(crate) scale: f32,
    /// Tokens of each text; keys from there on are padding. At least 1 each.
    pub(crate) lengths: Arc<[usize]>,
}

impl CustomOp1 for MaskedSoftmax {
    fn name(&self) -> &'static str {
        "embdb-masked-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (texts, heads, queries, keys) = layout.shape().dims4()?;
        if texts != self.lengths.len() || keys == 0 || self.lengths.iter().any(|&l| l == 0 || l > keys) {
            bail!("masked softmax: {texts} texts of {keys} keys do not fit their lengths");
        }
        let mut out = values(storage, layout)?.to_vec();
        for_rows(&mut out, keys, |first, part| {
            for (row, scores) in part.chunks_mut(keys).enumerate() {
                let length = self.lengths[(first + row) / (heads * queries)];
                let (seen, padding) = scores.split_at_mut(length);
                padding.fill(0.0);
                let mut largest = f32::MIN;
                for &x in seen.iter() {
                    largest = if x > largest { x } else { largest };
                }
                for x in seen.iter_mut() {
                    *x = exp_negative((*x - largest) * self.scale);
                }
                let inverse = 1.0 / sum(seen);
                for x in seen.iter_mut() {
                    *x *= inverse;
                }
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _arg: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, _, keys) = res.dims4()?;
        let mut out = grad.flatten_all()?.to_vec1::<f32>()?;
        with_values(res, |probabilities| {
            for_rows(&mut out, keys, |first, part| {
                for (grads, probs) in part.chunks_mut(keys).zip(probabilities.chunks(keys).skip(first)) {
                    let mean = dot(grads, probs, 0.0);
                    for (g, p) in grads.iter_mut().zip(probs) {
                        *g = self.scale * p * (*g - mean);
                    }
                }
            });
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(out, res.shape(), res.device())?))
    }
}

/// x·Φ(x), with the exact normal distribution (Hendrycks and Gimpel 2016, arXiv:1606.08415).
pub(crate) struct Gelu;

impl Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        let z = x * std::f32::consts::FRAC_1_SQRT_2;
        0.5 * x * (1.0 + erf(z, exp_negative(-z * z)))
    }

    #[inline(always)]
    fn slope(x: f32) -> f32 {
        // 1/√(2π)
        const DENSITY: f32 = 0.398_942_3;
        let z = x * std::f32::consts::FRAC_1_SQRT_2;
        let gauss = exp_negative(-z * z);
        0.5 * (1.0 + erf(z, gauss)) + x * DENSITY * gauss
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "embdb-gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = values(storage, layout)?.to_vec();
        for_rows(&mut out, 1, |_, part| {
            for x in part {
                *x = Self::value(*x);
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = grad.flatten_all()?.to_vec1::<f32>()?;
        with_values(arg, |xs| {
            for_rows(&mut out, 1, |first, part| {
                for (g, x) in part.iter_mut().zip(xs.iter().skip(first)) {
                    *g *= Self::slope(*x);
                }
            });
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(out, arg.shape(), arg.device())?))
    }
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
