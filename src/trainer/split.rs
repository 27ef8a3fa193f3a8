//! The held-out part: which queries judge a training run that they had no part in.
//!
//! Invariant: no query text stands on both sides. Texts are compared without case and extra white
//! space ([`query_key`]); all pairs of one text form a group, and groups are never divided.
//! - Where times are known, the groups first seen last are held out, so that the past is trained on
//!   and the future judges. A pair that came later than the border but whose text was seen before it
//!   belongs to neither side: it is a leak, removed and counted.
//! - Otherwise a hash of the text decides, so that a pair added later moves no other.

use std::collections::HashMap;

/// How large the held-out part is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitOptions {
    /// Share of the distinct queries held out.
    pub share: f64,
    /// Held out at least (but never more than half).
    pub min_queries: usize,
    /// Held out at most.
    pub max_queries: usize,
    /// Fewer distinct queries than this are too little to learn from.
    pub least: usize,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self { share: 0.15, min_queries: 30, max_queries: 1000, least: 40 }
    }
}

/// A division of pairs, as indices into the slice that was split.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// Pairs to train on.
    pub train: Vec<usize>,
    /// Pairs that judge.
    pub held_out: Vec<usize>,
    /// Distinct queries among those that judge.
    pub held_out_queries: usize,
    /// Pairs removed because their query text stands on the other side.
    pub leaks: usize,
    /// Whether time decided (else a hash did).
    pub by_time: bool,
}

/// Why nothing can be learnt; the text is for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLittle(pub String);

/// Identity of a query text: case and white space do not count.
pub fn query_key(text: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in text.split_whitespace() {
        hasher.update(word.to_lowercase().as_bytes()).update(b" ");
    }
    key(&hasher.finalize())
}

/// Identity of a target (an id or a text), exact.
pub fn target_key(text: &str) -> u64 {
    key(&blake3::hash(text.as_bytes()))
}

fn key(hash: &blake3::Hash) -> u64 {
    let mut first = [0; 8];
    first.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(first)
}

/// Divides pairs, given as (query text, time; 0 if unknown).
///
/// # Errors
/// [`TooLittle`] with fewer than `options.least` distinct queries.
pub fn split(pairs: &[(&str, u64)], options: &SplitOptions) -> Result<Split, TooLittle> {
    let mut groups: HashMap<u64, Group> = HashMap::new();
    for (index, &(query, time)) in pairs.iter().enumerate() {
        let group = groups.entry(query_key(query)).or_insert(Group { first: u64::MAX, pairs: Vec::new() });
        group.first = group.first.min(time);
        group.pairs.push(index);
    }
    if groups.len() < options.least {
        let (n, least) = (groups.len(), options.least);
        return Err(TooLittle(format!(
            "too little to learn from: {n} distinct {}, needs at least {least}",
            if n == 1 { "query" } else { "queries" }
        )));
    }
    let first = pairs.first().map_or(0, |p| p.1);
    let by_time = pairs.iter().all(|p| p.1 > 0) && pairs.iter().any(|p| p.1 != first);
    let mut order: Vec<(u64, u64, Vec<usize>)> = groups
        .into_iter()
        .map(|(key, group)| (if by_time { group.first } else { 0 }, key, group.pairs))
        .collect();
    order.sort_unstable();
    Ok(divide(pairs, &order, held_out_count(order.len(), options), by_time))
}

/// The pairs of one query text.
struct Group {
    first: u64,
    pairs: Vec<usize>,
}

fn held_out_count(groups: usize, options: &SplitOptions) -> usize {
    let wanted = (groups as f64 * options.share).round() as usize;
    wanted.max(options.min_queries).min(options.max_queries).min(groups / 2)
}

/// Holds out the last `count` groups of `order`: (first time, key, pairs).
fn divide(pairs: &[(&str, u64)], order: &[(u64, u64, Vec<usize>)], count: usize, by_time: bool) -> Split {
    let (train, held_out) = order.split_at(order.len() - count);
    let border = held_out.first().map_or(u64::MAX, |group| group.0);
    let mut split = Split { held_out_queries: count, by_time, ..Split::default() };
    for &index in train.iter().flat_map(|group| &group.2) {
        // At the border itself several groups may have begun; those pairs are no leak.
        if by_time && pairs[index].1 > border {
            split.leaks += 1;
        } else {
            split.train.push(index);
        }
    }
    split.held_out.extend(held_out.iter().flat_map(|group| &group.2));
    split.train.sort_unstable();
    split.held_out.sort_unstable();
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("query number {i}")).collect()
    }

    fn assert_apart(pairs: &[(&str, u64)], split: &Split) {
        let keys = |side: &[usize]| {
            side.iter().map(|&i| query_key(pairs[i].0)).collect::<std::collections::HashSet<_>>()
        };
        let (train, held_out) = (keys(&split.train), keys(&split.held_out));
        assert!(train.is_disjoint(&held_out));
        assert_eq!(held_out.len(), split.held_out_queries);
        assert_eq!(split.train.len() + split.held_out.len() + split.leaks, pairs.len());
    }

    #[test]
    fn without_times_a_hash_divides_whole_groups() {
        let names = named(400);
        let mut pairs: Vec<(&str, u64)> = names.iter().map(|n| (n.as_str(), 0)).collect();
        pairs.extend(names.iter().map(|n| (n.as_str(), 0)));
        let shouted = names[3].to_uppercase();
        pairs.push((&shouted, 0));
        let split = split(&pairs, &SplitOptions::default()).unwrap();
        assert_apart(&pairs, &split);
        assert_eq!((split.held_out_queries, split.leaks, split.by_time), (60, 0, false));
    }

    #[test]
    fn with_times_the_newest_queries_judge_and_returning_ones_are_leaks() {
        let names = named(200);
        let mut pairs: Vec<(&str, u64)> =
            names.iter().enumerate().map(|(i, n)| (n.as_str(), 1000 + i as u64)).collect();
        pairs.push((&names[5], 1190)); // an old text, asked again within the held-out time
        pairs.push((&names[199], 1300)); // a held-out text, asked again
        let split = split(&pairs, &SplitOptions::default()).unwrap();
        assert_apart(&pairs, &split);
        assert!(split.by_time);
        assert_eq!((split.held_out_queries, split.leaks), (30, 1));
        assert!(split.train.iter().all(|&i| pairs[i].1 < 1170));
        assert!(split.held_out.contains(&201) && !split.train.contains(&200));
    }

    #[test]
    fn the_held_out_part_keeps_its_bounds() {
        let o = SplitOptions::default();
        let counts: Vec<usize> = [40, 100, 1000, 100_000].map(|n| held_out_count(n, &o)).into();
        assert_eq!(counts, [20, 30, 150, 1000]);
    }

    #[test]
    fn too_few_queries_are_refused_with_numbers() {
        let pairs = vec![("the same", 0); 500];
        let TooLittle(reason) = split(&pairs, &SplitOptions::default()).unwrap_err();
        assert_eq!(reason, "too little to learn from: 1 distinct query, needs at least 40");
        assert!(split(&[], &SplitOptions::default()).is_err());
    }
}
