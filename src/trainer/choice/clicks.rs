//! How searchers click, given what they want.

use super::Seen;
use crate::trainer::golden::highest;

/// How probably a position is looked at, and clicked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clicks {
    /// Position bias: rank r is looked at with probability r^-η.
    pub eta: f64,
    /// Rate of clicks on what is wanted and looked at.
    pub wanted: f64,
    /// Rate of clicks on anything else that is looked at.
    pub unwanted: f64,
    /// Rate of clicks on anything, looked at or not.
    pub anywhere: f64,
}

/// How much rarer a click that falls anywhere is on a certain document that was not on the page.
const OFF_PAGE: f64 = 0.01;
/// Clicks and other looks that are assumed: at what is wanted, at anything else, anywhere.
const PRIORS: [[f64; 2]; 3] = [[8.0, 2.0], [1.0, 49.0], [1.0, 49.0]];
/// The exponent that is assumed, and how strongly: 1 / (2 σ²).
const ETA: (f64, f64) = (1.0, 1.0);
/// Range of η.
const ETAS: [f64; 2] = [0.0, 4.0];
/// Range of the logarithm of a rate's odds.
const ODDS: [f64; 2] = [-9.0, 9.0];
/// Ranks that are told apart; those below count as the last.
const RANKS: usize = 100;

impl Default for Clicks {
    /// Those assumed.
    fn default() -> Self {
        let rate = |[clicks, others]: [f64; 2]| clicks / (clicks + others);
        let [wanted, unwanted, anywhere] = PRIORS.map(rate);
        Self { eta: ETA.0, wanted, unwanted, anywhere }
    }
}

/// What was clicked and what was not, at each position and off the page; of each the part that was wanted.
pub(super) struct Counts {
    /// By position: clicked and wanted, not clicked but wanted, clicked, not clicked.
    shown: Vec<[f64; 4]>,
    /// Clicked off the page: wanted, and not.
    off: [f64; 2],
}

impl Default for Counts {
    fn default() -> Self {
        Self { shown: vec![[0.0; 4]; RANKS], off: [0.0; 2] }
    }
}

impl Counts {
    /// Adds what is wanted with probability `wanted`.
    pub fn add(&mut self, seen: Seen, weight: f64, wanted: f64) {
        let (yes, no) = (weight * wanted, weight * (1.0 - wanted));
        let Some(position) = seen.position else {
            self.off[0] += yes;
            self.off[1] += no;
            return;
        };
        if let Some(counts) = self.shown.get_mut(position.min(RANKS - 1)) {
            let at = usize::from(!seen.clicked);
            counts[at] += yes;
            counts[2 + at] += no;
        }
    }
}

impl Clicks {
    /// How probably the result at `position`, from 0, is looked at.
    pub fn examination(&self, position: usize) -> f64 {
        ((position.min(RANKS - 1) + 1) as f64).powf(-self.eta)
    }

    /// How probably the result at a position is clicked: if it is wanted, and if it is not.
    fn rates(&self, position: usize) -> [f64; 2] {
        let looked_at = self.examination(position);
        let unwanted = 1.0 - (1.0 - self.unwanted * looked_at) * (1.0 - self.anywhere);
        let wanted = 1.0 - (1.0 - self.wanted * looked_at) * (1.0 - unwanted);
        [wanted, unwanted].map(|rate| rate.clamp(1e-12, 1.0 - 1e-12))
    }

    /// Logarithms of the likelihood of what became of a document: if it is wanted, and if it is not.
    pub(super) fn likelihood(&self, seen: Seen) -> [f64; 2] {
        let Some(position) = seen.position else {
            return [self.wanted.max(1e-12).ln(), (OFF_PAGE * self.anywhere).max(1e-12).ln()];
        };
        self.rates(position).map(|rate| if seen.clicked { rate.ln() } else { (1.0 - rate).ln() })
    }

    /// The most probable parameters by these counts; from here on.
    pub(super) fn refitted(self, counts: &Counts) -> Self {
        let used = counts.shown.iter().rposition(|c| *c != [0.0; 4]).map_or(0, |last| last + 1);
        let shown = counts.shown.get(..used).unwrap_or_default();
        let mut next = self;
        let mut improve = |range, with: fn(Self, f64) -> Self| {
            next = with(next, highest(range, |value| with(next, value).posterior(shown, counts.off)));
        };
        improve(ETAS, |clicks, eta| Self { eta, ..clicks });
        improve(ODDS, |clicks, odds| Self { wanted: rate(odds), ..clicks });
        improve(ODDS, |clicks, odds| Self { unwanted: rate(odds), ..clicks });
        improve(ODDS, |clicks, odds| Self { anywhere: rate(odds), ..clicks });
        next
    }

    /// Logarithm of what is assumed of these parameters.
    pub(super) fn assumed(&self) -> f64 {
        let rates = [self.wanted, self.unwanted, self.anywhere].into_iter().zip(PRIORS);
        let of_rates = rates.map(|(rate, [clicks, others])| clicks * rate.ln() + others * (1.0 - rate).ln());
        of_rates.sum::<f64>() - ETA.1 * (self.eta - ETA.0).powi(2)
    }

    /// The same and the logarithm of the likelihood of counts.
    fn posterior(&self, shown: &[[f64; 4]], off: [f64; 2]) -> f64 {
        let mut sum = self.assumed();
        for (position, counts) in shown.iter().enumerate() {
            let [wanted, unwanted] = self.rates(position);
            sum += counts[0] * wanted.ln() + counts[1] * (1.0 - wanted).ln();
            sum += counts[2] * unwanted.ln() + counts[3] * (1.0 - unwanted).ln();
        }
        sum + off[0] * self.wanted.ln() + off[1] * (OFF_PAGE * self.anywhere).ln()
    }
}

/// Parameters of [`Clicks`].
pub(super) const PARAMETERS: usize = 4;

impl Clicks {
    /// The parameter of this number moved by `by`: η, or the logarithm of a rate's odds. Nothing if it stands at the end of
    /// its range.
    pub(super) fn moved(mut self, number: usize, by: f64) -> Option<Self> {
        let within = |value: f64, [low, high]: [f64; 2]| value > low + 0.01 && value < high - 0.01;
        let odds = |rate: f64| Some(rate.ln() - (1.0 - rate).ln()).filter(|&odds| within(odds, ODDS));
        match number {
            0 => self.eta = Some(self.eta).filter(|&eta| within(eta, ETAS))? + by,
            1 => self.wanted = rate(odds(self.wanted)? + by),
            2 => self.unwanted = rate(odds(self.unwanted)? + by),
            _ => self.anywhere = rate(odds(self.anywhere)? + by),
        }
        Some(self)
    }

    /// Slopes of [`likelihood`](Self::likelihood) by the parameters.
    pub(super) fn slopes(&self, seen: Seen) -> [[f64; 2]; PARAMETERS] {
        const STEP: f64 = 1e-4;
        std::array::from_fn(|number| {
            let [Some(above), Some(below)] = [STEP, -STEP].map(|by| self.moved(number, by)) else {
                return [0.0; 2];
            };
            let (above, below) = (above.likelihood(seen), below.likelihood(seen));
            [0, 1].map(|which| (above[which] - below[which]) / (2.0 * STEP))
        })
    }
}

pub(super) fn rate(odds: f64) -> f64 {
    1.0 / (1.0 + (-odds).exp())
}
