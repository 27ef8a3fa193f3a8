//! Whether a document that was clicked is what people want.
//!
//! People who look at a document click it often if it is what they want (rate a) and now and then if it is not (rate
//! b: a slip, a promising title). All that searches for one text told of a document is weighed against both:
//! P(wanted | clicks) by Bayes' rule, with the share of wanted documents at its rank as the prior. Both
//! rates and the shares are fitted to the log by expectation maximisation (Dempster, Laird and Rubin: Maximum
//! Likelihood from Incomplete Data via the EM Algorithm, 1977); with documents shown once each, from which nobody can
//! tell a from b, they stay near what is assumed ([`WANTED`], [`UNWANTED`]).
//!
//! The chance to look at a rank is that of [`bias`](super::bias), so a document that nobody clicked where nobody
//! looks is not held to be unwanted.

/// Clicks and looks that are assumed at wanted documents.
const WANTED: (f64, f64) = (8.0, 10.0);
/// Clicks and looks that are assumed at others.
const UNWANTED: (f64, f64) = (1.0, 50.0);
/// Documents of the overall share that the share of a rank starts with.
const SHARE: f64 = 5.0;
/// Ranks with shares of their own; those below have one together.
const RANKS: usize = 20;
/// Most iterations.
const ROUNDS: usize = 60;

/// What searches for one text told of a document.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evidence {
    /// Weight of the searches that showed it.
    shown: f64,
    /// The same times how probably its rank was looked at.
    looked_at: f64,
    /// Weight of those in which it was clicked.
    clicked: f64,
    /// Weighted sum of its positions, from 0.
    positions: f64,
}

impl Evidence {
    /// Adds a search of the given weight that showed the document at `position`, from 0, which is looked at with the
    /// probability `examination`.
    pub fn add(&mut self, position: usize, weight: f64, examination: f64, clicked: bool) {
        self.shown += weight;
        self.looked_at += weight * examination.min(1.0);
        self.clicked += if clicked { weight } else { 0.0 };
        self.positions += weight * position as f64;
    }

    /// For each time that it was looked at, how often it was shown; at most `most`.
    pub fn inverse_propensity(&self, most: f64) -> f64 {
        if self.looked_at > 0.0 { (self.shown / self.looked_at).min(most) } else { 1.0 }
    }

    fn examination(&self) -> f64 {
        if self.shown > 0.0 { self.looked_at / self.shown } else { 1.0 }
    }

    fn rank(&self) -> usize {
        if self.shown > 0.0 {
            ((self.positions / self.shown).round() as usize).min(RANKS - 1)
        } else {
            RANKS - 1
        }
    }

    /// Logarithm of the likelihood of the clicks if those who look click at this rate.
    fn likelihood(&self, rate: f64) -> f64 {
        let click = (rate * self.examination()).clamp(1e-9, 1.0 - 1e-9);
        self.clicked * click.ln() + (self.shown - self.clicked).max(0.0) * (1.0 - click).ln()
    }
}

/// How clicks tell wanted documents from others.
#[derive(Debug, Clone, PartialEq)]
pub struct Appeal {
    /// Rate of clicks on wanted documents that are looked at.
    wanted: f64,
    /// The same for others.
    unwanted: f64,
    /// Share of wanted documents at each rank.
    shares: Vec<f64>,
}

impl Appeal {
    /// Fits the rates to what was shown.
    pub fn fit<'a>(evidence: impl IntoIterator<Item = &'a Evidence>) -> Self {
        let evidence: Vec<&Evidence> = evidence.into_iter().filter(|e| e.shown > 0.0).collect();
        let mut appeal =
            Self { wanted: WANTED.0 / WANTED.1, unwanted: UNWANTED.0 / UNWANTED.1, shares: vec![0.1; RANKS] };
        for _ in 0..ROUNDS {
            let next = appeal.refitted(&evidence);
            let done = (next.wanted - appeal.wanted).abs() + (next.unwanted - appeal.unwanted).abs() < 1e-5;
            appeal = next;
            if done {
                break;
            }
        }
        appeal
    }

    fn refitted(&self, evidence: &[&Evidence]) -> Self {
        let (mut wanted, mut unwanted) = (WANTED, UNWANTED);
        let (mut counts, mut sums) = (vec![0.0; RANKS], vec![0.0; RANKS]);
        for evidence in evidence {
            let probable = self.wanted(evidence);
            wanted.0 += probable * evidence.clicked;
            wanted.1 += probable * evidence.looked_at.max(evidence.clicked);
            unwanted.0 += (1.0 - probable) * evidence.clicked;
            unwanted.1 += (1.0 - probable) * evidence.looked_at.max(evidence.clicked);
            if let Some((count, sum)) = counts.get_mut(evidence.rank()).zip(sums.get_mut(evidence.rank())) {
                *count += 1.0;
                *sum += probable;
            }
        }
        let overall = sums.iter().sum::<f64>() / counts.iter().sum::<f64>().max(1.0);
        let share =
            |(count, sum): (&f64, &f64)| ((sum + SHARE * overall) / (count + SHARE)).clamp(1e-4, 0.9999);
        let rate = (wanted.0 / wanted.1).min(0.999);
        Self {
            wanted: rate,
            // What is clicked less is the unwanted.
            unwanted: (unwanted.0 / unwanted.1).min(rate),
            shares: counts.iter().zip(&sums).map(share).collect(),
        }
    }

    /// How probably a document is wanted.
    pub fn wanted(&self, evidence: &Evidence) -> f64 {
        let share = self.shares.get(evidence.rank()).copied().unwrap_or(0.5);
        let odds = share.ln() - (1.0 - share).ln();
        let odds = odds + evidence.likelihood(self.wanted) - evidence.likelihood(self.unwanted);
        1.0 / (1.0 + (-odds).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    /// Documents shown at `position` in some searches; a share of them is wanted and clicked at .9, the others at .1.
    fn shown(
        rng: &mut Rng,
        position: usize,
        examination: f64,
        searches: usize,
        share: f64,
    ) -> (bool, Evidence) {
        let mut chance = |p: f64| (rng.bits() >> 11) as f64 / (1u64 << 53) as f64 >= 1.0 - p;
        let wanted = chance(share);
        let mut evidence = Evidence::default();
        for _ in 0..searches {
            let clicked = chance(examination) && chance(if wanted { 0.9 } else { 0.1 });
            evidence.add(position, 1.0, examination, clicked);
        }
        (wanted, evidence)
    }

    #[test]
    fn rates_are_found_and_wanted_documents_told_from_others() {
        let mut rng = Rng::new(3);
        let mut all = Vec::new();
        for _ in 0..2000 {
            all.push(shown(&mut rng, 0, 1.0, 5, 0.6));
            all.extend((1..6).map(|at| shown(&mut rng, at, 1.0 / (at + 1) as f64, 5, 0.06)));
        }
        let appeal = Appeal::fit(all.iter().map(|(_, evidence)| evidence));
        assert!((appeal.wanted - 0.9).abs() < 0.03 && (appeal.unwanted - 0.1).abs() < 0.02, "{appeal:?}");
        assert!((appeal.shares[0] - 0.6).abs() < 0.05 && appeal.shares[1] < 0.12, "{:?}", appeal.shares);
        // Whoever is said to be wanted with probability p is so in a share p of cases.
        for (low, high) in [(0.0, 0.2), (0.2, 0.8), (0.8, 1.01)] {
            let within: Vec<(bool, f64)> = all
                .iter()
                .map(|(wanted, evidence)| (*wanted, appeal.wanted(evidence)))
                .filter(|(_, p)| (low..high).contains(p))
                .collect();
            let n = within.len() as f64;
            let (said, is) =
                within.iter().fold((0.0, 0.0), |(s, i), (w, p)| (s + p, i + f64::from(u8::from(*w))));
            assert!(n > 20.0 && ((said - is) / n).abs() < 0.08, "{low}: {said} {is} of {n}");
        }
    }

    #[test]
    fn documents_shown_once_leave_the_rates_as_assumed_and_low_ranks_count() {
        let mut rng = Rng::new(4);
        let all: Vec<Evidence> = (0..3000).map(|n| shown(&mut rng, n % 10, 1.0, 1, 0.3).1).collect();
        let appeal = Appeal::fit(&all);
        assert!(appeal.wanted > 0.5 && appeal.unwanted < 0.2, "{appeal:?}");
        let mut one = Evidence::default();
        one.add(9, 1.0, 0.1, true);
        assert!(appeal.wanted(&one) > 0.5);
        assert_eq!((one.inverse_propensity(100.0), one.inverse_propensity(3.0)), (10.0, 3.0));
    }

    #[test]
    fn nothing_and_extremes_give_numbers() {
        let appeal = Appeal::fit(&[]);
        let mut always = Evidence::default();
        (0..1000).for_each(|_| always.add(0, 1.0, 1.0, true));
        let mut never = Evidence::default();
        (0..1000).for_each(|_| never.add(999, 1.0, 1e-4, false));
        for evidence in [Evidence::default(), always, never] {
            let probable = appeal.wanted(&evidence);
            assert!((0.0..=1.0).contains(&probable), "{probable}");
        }
        assert!(appeal.wanted(&always) > 0.99 && Appeal::fit(&[always; 9]).wanted(&always) > 0.5);
        assert!(Appeal::fit(&[never; 9]).wanted(&never) < 0.5);
    }
}
