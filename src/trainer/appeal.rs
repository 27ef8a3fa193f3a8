//! Whether a document that was clicked is what people want.
//!
//! People who look at a document click it often if it is what they want (rate a) and now and then if it is not (rate
//! b: a slip, a promising title). All that searches for one text told of a document is weighed against both:
//! P(wanted | clicks) by Bayes' rule. The prior is the share of wanted documents at its rank, one for texts with another
//! document that is wanted and one for texts without: where people want one document, what is clicked beside it was
//! hardly wanted, too, and where they want many, it was. Both rates and the shares are fitted to the log by expectation maximisation (Dempster, Laird and Rubin: Maximum
//! Likelihood from Incomplete Data via the EM Algorithm, 1977); with documents shown once each, from which nobody can
//! tell a from b, they stay near what is assumed (`WANTED`, `UNWANTED`).
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
    /// Share of wanted documents at each rank: of texts without another wanted document, and of those with one.
    shares: [Vec<f64>; 2],
}

/// Sums of one iteration.
struct Sums {
    wanted: (f64, f64),
    unwanted: (f64, f64),
    /// For each of [`Appeal::shares`] the number of documents, and how many are wanted.
    shares: [Vec<(f64, f64)>; 2],
}

impl Appeal {
    /// Fits the rates to what was shown; each item holds the documents of one text.
    pub fn fit(texts: &[Vec<Evidence>]) -> Self {
        let shares = [vec![0.1; RANKS], vec![0.1; RANKS]];
        let mut appeal = Self { wanted: WANTED.0 / WANTED.1, unwanted: UNWANTED.0 / UNWANTED.1, shares };
        for _ in 0..ROUNDS {
            let next = appeal.refitted(texts);
            let done = (next.wanted - appeal.wanted).abs() + (next.unwanted - appeal.unwanted).abs() < 1e-5;
            appeal = next;
            if done {
                break;
            }
        }
        appeal
    }

    fn refitted(&self, texts: &[Vec<Evidence>]) -> Self {
        let none = || vec![(0.0, 0.0); RANKS];
        let mut sums = Sums { wanted: WANTED, unwanted: UNWANTED, shares: [none(), none()] };
        for documents in texts {
            let probable = self.wanted(documents);
            let others = others_wanted(&probable);
            for ((evidence, probable), other) in documents.iter().zip(&probable).zip(&others) {
                sums.add(evidence, *probable, *other);
            }
        }
        let rate = (sums.wanted.0 / sums.wanted.1).min(0.999);
        // What is clicked less is the unwanted.
        let unwanted = (sums.unwanted.0 / sums.unwanted.1).min(rate);
        Self { wanted: rate, unwanted, shares: sums.shares.map(|counts| smoothed(&counts)) }
    }

    /// How probably each of the documents of a text is wanted.
    pub fn wanted(&self, documents: &[Evidence]) -> Vec<f64> {
        let alone: Vec<f64> = documents.iter().map(|evidence| self.probable(evidence, 0.0)).collect();
        let given_others = |(evidence, other): (&Evidence, f64)| self.probable(evidence, other);
        documents.iter().zip(others_wanted(&alone)).map(given_others).collect()
    }

    /// With the probability that another document is wanted.
    fn probable(&self, evidence: &Evidence, other: f64) -> f64 {
        let at = |which: &Vec<f64>| which.get(evidence.rank()).copied().unwrap_or(0.5);
        let [alone, beside] = &self.shares;
        let share = (1.0 - other) * at(alone) + other * at(beside);
        let odds = share.ln() - (1.0 - share).ln();
        let odds = odds + evidence.likelihood(self.wanted) - evidence.likelihood(self.unwanted);
        1.0 / (1.0 + (-odds).exp())
    }
}

impl Sums {
    fn add(&mut self, evidence: &Evidence, probable: f64, other: f64) {
        self.wanted.0 += probable * evidence.clicked;
        self.wanted.1 += probable * evidence.looked_at;
        self.unwanted.0 += (1.0 - probable) * evidence.clicked;
        self.unwanted.1 += (1.0 - probable) * evidence.looked_at;
        for (counts, part) in self.shares.iter_mut().zip([1.0 - other, other]) {
            if let Some((count, sum)) = counts.get_mut(evidence.rank()) {
                *count += part;
                *sum += part * probable;
            }
        }
    }
}

/// For each document how probable the most probable other one is.
fn others_wanted(probable: &[f64]) -> Vec<f64> {
    let (mut first, mut second) = (0.0f64, 0.0f64);
    for &p in probable {
        second = second.max(p.min(first));
        first = first.max(p);
    }
    probable.iter().map(|&p| if p == first { second } else { first }).collect()
}

fn smoothed(counts: &[(f64, f64)]) -> Vec<f64> {
    let (count, sum) = counts.iter().fold((0.0, 0.0), |(n, s), (count, sum)| (n + count, s + sum));
    let overall = (sum + 0.1) / (count + 1.0);
    counts
        .iter()
        .map(|(count, sum)| ((sum + SHARE * overall) / (count + SHARE)).clamp(1e-4, 0.9999))
        .collect()
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
        let (mut truth, mut texts) = (Vec::new(), Vec::new());
        for _ in 0..2000 {
            let page = (0..6)
                .map(|at| shown(&mut rng, at, 1.0 / (at + 1) as f64, 5, if at == 0 { 0.6 } else { 0.06 }));
            let (wanted, evidence): (Vec<bool>, Vec<Evidence>) = page.unzip();
            truth.push(wanted);
            texts.push(evidence);
        }
        let appeal = Appeal::fit(&texts);
        assert!((appeal.wanted - 0.9).abs() < 0.03 && (appeal.unwanted - 0.1).abs() < 0.02, "{appeal:?}");
        // Here documents are wanted whatever else is.
        assert!(
            appeal.shares.iter().all(|s| (s[0] - 0.6).abs() < 0.12 && s[1] < 0.12),
            "{:?}",
            appeal.shares
        );
        let probable = texts.iter().flat_map(|text| appeal.wanted(text));
        let said: Vec<(bool, f64)> = truth.into_iter().flatten().zip(probable).collect();
        // Whoever is said to be wanted with probability p is so in a share p of cases.
        for (low, high) in [(0.0, 0.2), (0.2, 0.8), (0.8, 1.01)] {
            let within = said.iter().filter(|(_, p)| (low..high).contains(p));
            let (n, said, is) = within
                .fold((0.0, 0.0, 0.0), |(n, s, i), (w, p)| (n + 1.0, s + p, i + f64::from(u8::from(*w))));
            assert!(n > 20.0 && ((said - is) / n).abs() < 0.08, "{low}: {said} {is} of {n}");
        }
    }

    #[test]
    fn where_one_document_is_wanted_clicks_beside_it_are_slips() {
        let mut rng = Rng::new(5);
        let one = |rng: &mut Rng| -> Vec<Evidence> {
            let wanted = rng.below(4);
            (0..4).map(|at| shown(rng, at, 1.0, 4, if at == wanted { 1.0 } else { 0.0 }).1).collect()
        };
        let texts: Vec<Vec<Evidence>> = (0..1000).map(|_| one(&mut rng)).collect();
        let appeal = Appeal::fit(&texts);
        let clicked = |clicks: usize| {
            let mut evidence = Evidence::default();
            (0..4).for_each(|n| evidence.add(1, 1.0, 1.0, n < clicks));
            evidence
        };
        let (alone, beside) =
            (appeal.wanted(&[clicked(2), clicked(0)]), appeal.wanted(&[clicked(2), clicked(4)]));
        assert!(alone[0] > 0.6 && beside[0] < 0.2 && beside[1] > 0.9, "{alone:?} {beside:?}");
    }

    #[test]
    fn documents_shown_once_leave_the_rates_as_assumed_and_low_ranks_count() {
        let mut rng = Rng::new(4);
        let texts: Vec<Vec<Evidence>> =
            (0..300).map(|_| (0..10).map(|at| shown(&mut rng, at, 1.0, 1, 0.3).1).collect()).collect();
        let appeal = Appeal::fit(&texts);
        assert!(appeal.wanted > 0.5 && appeal.unwanted < 0.2, "{appeal:?}");
        let mut one = Evidence::default();
        one.add(9, 1.0, 0.1, true);
        assert!(appeal.wanted(&[one])[0] > 0.4);
    }

    #[test]
    fn nothing_and_extremes_give_numbers() {
        let appeal = Appeal::fit(&[]);
        let mut always = Evidence::default();
        (0..1000).for_each(|_| always.add(0, 1.0, 1.0, true));
        let mut never = Evidence::default();
        (0..1000).for_each(|_| never.add(999, 1.0, 1e-4, false));
        let probable = appeal.wanted(&[Evidence::default(), always, never]);
        assert!(probable.iter().all(|p| (0.0..=1.0).contains(p)), "{probable:?}");
        assert!(probable[1] > 0.99 && appeal.wanted(&[]).is_empty());
        assert!(Appeal::fit(&vec![vec![always]; 9]).wanted(&[always])[0] > 0.5);
        assert!(Appeal::fit(&vec![vec![never]; 9]).wanted(&[never])[0] < 0.5);
    }
}
