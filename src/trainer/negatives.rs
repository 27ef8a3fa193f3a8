//! Hard negatives: documents that stand high for a query and answer it not.
//!
//! What stands highest beside the known answer is often another answer that nobody has named yet; taught as a
//! negative it does more harm than a random one. So of the documents that the index finds for a query only those are
//! taken that
//! - are not known to answer it (all pairs of all queries of this text count);
//! - are no near copy of the positive;
//! - are less like the query than the positive by a margin, unless searchers passed them over for another (what stood above
//!   a click and was not clicked was probably seen and not wanted: Joachims et al.: Accurately Interpreting Clickthrough Data
//!   as Implicit Feedback, 2005): below a share of the positive's similarity (Moreira et al.:
//!   NV-Retriever, 2024, arXiv:2407.15831, found .95 best). The margin is a share of the similarity's size, for a plain
//!   factor would turn around where similarities are negative.
//!
//! Of the nearest that remain some are drawn at random, so that not every epoch and every seed repeats the same few.

use super::rng::Rng;

/// How negatives are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NegativeOptions {
    /// Negatives of each query.
    pub count: usize,
    /// Documents searched for.
    pub depth: usize,
    /// Of so many of the nearest that may be negatives they are drawn.
    pub pool: usize,
    /// Share of the positive's similarity above which a document may be an answer, too.
    pub share: f32,
    /// Similarity to the positive from which on a document is its copy.
    pub copy: f32,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for NegativeOptions {
    fn default() -> Self {
        Self { count: 1, depth: 50, pool: 20, share: 0.95, copy: 0.97, seed: 0 }
    }
}

/// A document that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Its number.
    pub document: u32,
    /// Cosine to the query.
    pub to_query: f32,
    /// Cosine to the positive.
    pub to_positive: f32,
    /// Whether it is known to answer the query.
    pub known: bool,
    /// Whether it was passed over in searches for the query.
    pub passed_over: bool,
}

/// What became of the documents found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NegativeReport {
    /// Queries for which documents were searched.
    pub queries: usize,
    /// Documents found.
    pub found: usize,
    /// Left out: known answers.
    pub known: usize,
    /// Left out: near copies of the positive.
    pub copies: usize,
    /// Left out: too like the query.
    pub near: usize,
    /// Queries for which too few remained.
    pub short: usize,
}

/// The negatives of one query among the documents `found` for it, nearest first. `positive`: cosine of the positive to the
/// query; `key`: the query's identity, which together with the seed decides the draw.
pub fn choose(
    found: &[Found],
    positive: f32,
    key: u64,
    options: &NegativeOptions,
    report: &mut NegativeReport,
) -> Vec<u32> {
    let most = positive - (1.0 - options.share) * positive.abs();
    report.queries += 1;
    report.found += found.len();
    let mut pool: Vec<u32> = Vec::with_capacity(options.pool);
    for one in found {
        if one.known {
            report.known += 1;
        } else if one.to_positive >= options.copy {
            report.copies += 1;
        } else if one.to_query >= most && !one.passed_over {
            report.near += 1;
        } else if pool.len() < options.pool {
            pool.push(one.document);
        }
    }
    Rng::new(key ^ options.seed).shuffle(&mut pool);
    pool.truncate(options.count);
    report.short += usize::from(pool.len() < options.count);
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: u32, to_query: f32) -> Found {
        Found { document, to_query, to_positive: 0.5, known: false, passed_over: false }
    }

    fn chosen(found: &[Found], positive: f32, options: &NegativeOptions) -> (Vec<u32>, NegativeReport) {
        let mut report = NegativeReport::default();
        let mut chosen = choose(found, positive, 7, options, &mut report);
        chosen.sort_unstable();
        (chosen, report)
    }

    #[test]
    fn answers_copies_and_what_is_too_near_are_no_negatives() {
        let list = [
            Found { known: true, ..found(0, 0.9) },
            Found { to_positive: 0.98, ..found(1, 0.6) },
            found(2, 0.77),
            found(3, 0.75),
            found(4, 0.2),
            Found { passed_over: true, ..found(5, 0.85) },
            Found { passed_over: true, to_positive: 0.98, ..found(6, 0.85) },
        ];
        let options = NegativeOptions { count: 4, ..NegativeOptions::default() };
        let (chosen, report) = chosen(&list, 0.8, &options);
        assert_eq!(chosen, [3, 4, 5]);
        let expected = NegativeReport { queries: 1, found: 7, known: 1, copies: 2, near: 1, short: 1 };
        assert_eq!(report, expected);
    }

    #[test]
    fn the_margin_keeps_its_side_where_similarities_are_negative() {
        let list = [found(0, -0.1), found(1, -0.205), found(2, -0.3)];
        let options = NegativeOptions { count: 3, ..NegativeOptions::default() };
        // 5 % of .2 below -.2.
        assert_eq!(chosen(&list, -0.2, &options).0, [2]);
    }

    #[test]
    fn the_draw_is_from_the_nearest_and_seeded() {
        let list: Vec<Found> = (0..50).map(|n| found(n, 0.5 - n as f32 * 0.001)).collect();
        let of = |seed| {
            let options = NegativeOptions { count: 4, pool: 10, seed, ..NegativeOptions::default() };
            chosen(&list, 0.9, &options).0
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!((0..20).flat_map(of).all(|document| document < 10));
    }
}
