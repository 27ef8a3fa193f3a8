//! Matryoshka: any loss asked of every prefix of the rows.
//!
//! Rows are cut to each length of a ladder, brought to length 1 and given to the loss; the weighted sum counts, so that the
//! first dimensions are good by themselves (Kusupati et al.: Matryoshka Representation Learning, 2022, arXiv:2205.13147).

use super::arithmetic::{Units, add};
use super::{Batch, Loss, Slope};
use crate::error::{Error, Result};
use crate::kernel::threads::for_parts;

/// A loss on prefixes of the rows.
#[derive(Debug)]
pub struct Matryoshka {
    loss: Box<dyn Loss>,
    rungs: Vec<(usize, f32)>,
}

impl Matryoshka {
    /// `loss` on prefixes of these lengths; the mean counts.
    pub fn new(loss: Box<dyn Loss>, ladder: &[usize]) -> Self {
        let share = 1.0 / ladder.len().max(1) as f32;
        Self::weighted(loss, ladder.iter().map(|&rung| (rung, share)).collect())
    }

    /// `loss` on prefixes, given as (length, weight).
    pub fn weighted(loss: Box<dyn Loss>, rungs: Vec<(usize, f32)>) -> Self {
        Self { loss, rungs }
    }
}

impl Loss for Matryoshka {
    fn of(&self, batch: &Batch<'_>) -> Result<Slope> {
        batch.check(1..=usize::MAX)?;
        if self.rungs.is_empty() || self.rungs.iter().any(|&(rung, _)| rung == 0 || rung > batch.dim) {
            let ladder: Vec<usize> = self.rungs.iter().map(|rung| rung.0).collect();
            return Err(Error::input(format!(
                "training: rows of {} dimensions do not fit the ladder {ladder:?}",
                batch.dim
            )));
        }
        // The longest, which take longest, first.
        let mut asked: Vec<_> =
            self.rungs.iter().map(|&(rung, weight)| Asked { rung, weight, slope: None }).collect();
        let mut parts: Vec<&mut Asked> = asked.iter_mut().collect();
        parts.sort_by_key(|asked| std::cmp::Reverse(asked.rung));
        for_parts(0, parts.into_iter(), || (), |(), asked| asked.slope = Some(self.of_rung(batch, asked)));
        let mut total = batch.level();
        for slope in asked.into_iter().filter_map(|asked| asked.slope) {
            let slope = slope?;
            total.value += slope.value;
            total.sides.iter_mut().zip(&slope.sides).for_each(|(total, side)| add(total, side));
        }
        Ok(total)
    }
}

/// One rung of a batch.
struct Asked {
    rung: usize,
    weight: f32,
    slope: Option<Result<Slope>>,
}

impl Matryoshka {
    /// The loss of one rung by its weight, and its share of the derivatives.
    fn of_rung(&self, batch: &Batch<'_>, &mut Asked { rung, weight, .. }: &mut Asked) -> Result<Slope> {
        let units: Vec<Units> = batch.sides.iter().map(|side| Units::new([side], batch.dim, rung)).collect();
        let sides: Vec<&[f32]> = units.iter().map(|units| units.values.as_slice()).collect();
        let slope = self.loss.of(&Batch { sides: &sides, dim: rung, normalised: true, ..*batch })?;
        let mut share = batch.level();
        share.value = f64::from(weight) * slope.value;
        for ((units, by_unit), out) in units.iter().zip(&slope.sides).zip(&mut share.sides) {
            units.backward(by_unit, weight, batch.dim, out);
        }
        Ok(share)
    }
}
