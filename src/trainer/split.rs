//! The held-out part: what judges a training run that it had no part in.
//!
//! Pairs are divided by query. Invariant: no query text stands on both sides. Texts are compared without case
//! and extra white space ([`query_key`]); all pairs of one text form a group, and groups are never divided.
//! - Where times are known, the groups first seen last are held out, so that the past is trained on
//!   and the future judges. A pair that came later than the border but whose text was seen before it
//!   belongs to neither side: it is a leak, removed and counted. A random few of those that came before are set aside, to
//!   guard that what was asked before is still answered.
//! - Otherwise a hash of the text decides, so that a pair added later moves no other.
//!
//! Other shapes are divided as wholes ([`split_shape`]):
//! - Of scored pairs and triplets no text stands on both sides at all: those that share one hang together, and what hangs
//!   together is held out or trained on as a whole. Where negatives connect everything, as mined ones do, triplets hang
//!   together by query and positive only, and those to train on that have a held-out text as negative are counted.
//! - Texts with classes are divided within each class in the same proportion, equal texts together.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::data::Shape;
use super::rng::Rng;

/// How large the held-out part is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitOptions {
    /// Share of the distinct queries held out.
    pub share: f64,
    /// Held out at least (but never more than half).
    pub min_queries: usize,
    /// Held out at most.
    pub max_queries: usize,
    /// Share of the older queries that are set aside where time divides.
    pub older: f64,
    /// Fewer distinct queries than this are too little to learn from.
    pub least: usize,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self { share: 0.15, min_queries: 30, max_queries: 1000, older: 0.06, least: 40 }
    }
}

/// A division of pairs, as indices into the slice that was split.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// Pairs to train on.
    pub train: Vec<usize>,
    /// Pairs that judge.
    pub held_out: Vec<usize>,
    /// Pairs of older queries, neither trained on nor held out, where time decided.
    pub older: Vec<usize>,
    /// Distinct queries among those that judge; of shapes without queries, all that judge.
    pub held_out_queries: usize,
    /// Pairs removed because their query text stands on the other side.
    pub leaks: usize,
    /// Triplets to train on in which a held-out text is a negative.
    pub shared: usize,
    /// Whether time decided (else a hash did).
    pub by_time: bool,
}

impl Split {
    /// Sets whole groups of the pairs to train on aside; a hash of the query draws them.
    fn set_older_aside(&mut self, pairs: &[(u64, u64)], share: f64) {
        let drawn = |&number: &usize| {
            let key = pairs.get(number).map_or(0, |pair| pair.0);
            (Rng::new(key ^ OLDER).below(1 << 20) as f64) < share * f64::from(1 << 20)
        };
        (self.older, self.train) = self.train.iter().copied().partition(drawn);
    }
}

/// Draws other queries than a seed of the same value elsewhere.
const OLDER: u64 = 0x6f_6c64_6572;

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

/// Divides pairs, given as (identity of the query, time; 0 if unknown).
fn split_keyed(pairs: &[(u64, u64)], options: &SplitOptions) -> Result<Split, TooLittle> {
    let mut groups: HashMap<u64, Group> = HashMap::new();
    for (index, &(query, time)) in pairs.iter().enumerate() {
        let group = groups.entry(query).or_insert(Group { first: u64::MAX, pairs: Vec::new() });
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
    let mut split = divide(pairs, &order, held_out_count(order.len(), options), by_time);
    if by_time {
        split.set_older_aside(pairs, options.older);
    }
    Ok(split)
}

/// Divides records of any shape, given as the identities of their texts ([`query_key`]), class and time.
///
/// # Errors
/// [`TooLittle`] with too few records, or if too few can be held out because they hang together.
pub fn split_shape(shape: Shape, records: &[Keyed<'_>], options: &SplitOptions) -> Result<Split, TooLittle> {
    if shape == Shape::Pairs {
        let keyed: Vec<(u64, u64)> =
            records.iter().map(|r| (r.keys.first().copied().unwrap_or(0), r.time)).collect();
        return split_keyed(&keyed, options);
    }
    if records.len() < options.least {
        let (n, least) = (records.len(), options.least);
        return Err(TooLittle(format!("too little to learn from: {n} {shape}, needs at least {least}")));
    }
    match shape {
        Shape::Classes => Ok(split_classes(records, options)),
        Shape::Scored | Shape::Pairs => split_connected(shape, records, usize::MAX, options),
        Shape::Triplets => split_connected(shape, records, usize::MAX, options)
            .or_else(|_| split_connected(shape, records, 2, options)),
    }
}

/// What decides where a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyed<'a> {
    /// Identity of each of its texts.
    pub keys: &'a [u64],
    /// Its class, where it has one.
    pub class: u32,
    /// When it was observed, in microseconds since 1970; 0 if unknown.
    pub time: u64,
}

/// Holds out whole components of records that share a text; of each record the first `texts` count.
fn split_connected(
    shape: Shape,
    records: &[Keyed<'_>],
    texts: usize,
    options: &SplitOptions,
) -> Result<Split, TooLittle> {
    let components = components(records, texts);
    let wanted = held_out_count(records.len(), options);
    let mut held_out = HashSet::new();
    for (_, members) in &components {
        if held_out.len() + members.len() <= wanted {
            held_out.extend(members.iter().copied());
        }
    }
    if held_out.len() * 2 < wanted {
        let most = components.iter().map(|(_, members)| members.len()).max().unwrap_or(0);
        return Err(TooLittle(format!(
            "{most} of {} {shape} hang together by texts that they share: only {} can be held out to judge by, {wanted} \
             should be",
            records.len(),
            held_out.len()
        )));
    }
    let (held_out, train): (Vec<usize>, Vec<usize>) = (0..records.len()).partition(|n| held_out.contains(n));
    let keys = |n: &usize| records.get(*n).map_or(&[][..], |record| record.keys);
    let judging: HashSet<u64> = held_out.iter().flat_map(|n| keys(n).iter().take(texts).copied()).collect();
    let shares = |n: &&usize| keys(n).iter().any(|key| judging.contains(key));
    let shared = train.iter().filter(shares).count();
    Ok(Split { held_out_queries: held_out.len(), train, held_out, shared, ..Split::default() })
}

/// Records that share a text, directly or through others, in an order that their texts decide and not their number.
fn components(records: &[Keyed<'_>], texts: usize) -> Vec<(u64, Vec<usize>)> {
    let mut parents: Vec<usize> = (0..records.len()).collect();
    let mut owners: HashMap<u64, usize> = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        for &key in record.keys.iter().take(texts) {
            let owner = *owners.entry(key).or_insert(number);
            let (a, b) = (root(&mut parents, owner), root(&mut parents, number));
            if let Some(parent) = parents.get_mut(a.max(b)) {
                *parent = a.min(b);
            }
        }
    }
    let mut found: HashMap<usize, (u64, Vec<usize>)> = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        let least = record.keys.iter().take(texts).copied().min().unwrap_or(u64::MAX);
        let component = found.entry(root(&mut parents, number)).or_insert((u64::MAX, Vec::new()));
        component.0 = component.0.min(least);
        component.1.push(number);
    }
    // The least of many keys is small: hashed anew, large components come no earlier than small ones.
    let mut components: Vec<(u64, Vec<usize>)> =
        found.into_values().map(|(key, members)| (Rng::new(key).bits(), members)).collect();
    components.sort_unstable();
    components
}

/// The record at the top of a tree of connected ones; shortens the way to it.
fn root(parents: &mut [usize], mut at: usize) -> usize {
    while let Some(parent) = parents.get(at).copied().filter(|&parent| parent != at) {
        let above = parents.get(parent).copied().unwrap_or(parent);
        if let Some(slot) = parents.get_mut(at) {
            *slot = above;
        }
        at = parent;
    }
    at
}

/// Holds out the same share of each class, a text with all its copies.
fn split_classes(records: &[Keyed<'_>], options: &SplitOptions) -> Split {
    let mut classes: BTreeMap<u32, BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
    let mut copies: HashMap<u64, u32> = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        let key = record.keys.first().copied().unwrap_or(0);
        // Copies in another class go with the first.
        let class = *copies.entry(key).or_insert(record.class);
        classes.entry(class).or_default().entry(key).or_default().push(number);
    }
    let total: usize = classes.values().map(BTreeMap::len).sum();
    let share = held_out_count(total, options) as f64 / total.max(1) as f64;
    let mut split = Split::default();
    let (mut wanted, mut taken) = (0.0, 0usize);
    for texts in classes.values() {
        wanted += share * texts.len() as f64;
        // What rounding leaves goes to the next class; at least one text of each is trained on.
        let quota = ((wanted - taken as f64).round() as usize).min(texts.len().saturating_sub(1));
        taken += quota;
        for (place, numbers) in texts.values().enumerate() {
            let side = if place < quota { &mut split.held_out } else { &mut split.train };
            side.extend(numbers);
        }
    }
    split.train.sort_unstable();
    split.held_out.sort_unstable();
    split.held_out_queries = split.held_out.len();
    split
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
fn divide(pairs: &[(u64, u64)], order: &[(u64, u64, Vec<usize>)], count: usize, by_time: bool) -> Split {
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

    fn split(pairs: &[(&str, u64)], options: &SplitOptions) -> Result<Split, TooLittle> {
        let keyed: Vec<(u64, u64)> = pairs.iter().map(|&(query, time)| (query_key(query), time)).collect();
        split_keyed(&keyed, options)
    }

    fn assert_apart(pairs: &[(&str, u64)], split: &Split) {
        let keys = |side: &[usize]| {
            side.iter().map(|&i| query_key(pairs[i].0)).collect::<std::collections::HashSet<_>>()
        };
        let (train, held_out) = (keys(&split.train), keys(&split.held_out));
        assert!(train.is_disjoint(&held_out));
        assert_eq!(held_out.len(), split.held_out_queries);
        let judging = split.held_out.len() + split.older.len();
        assert_eq!(split.train.len() + judging + split.leaks, pairs.len());
        assert!(keys(&split.older).is_disjoint(&train) && keys(&split.older).is_disjoint(&held_out));
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
        assert!((4..20).contains(&split.older.len()) && split.older.iter().all(|&i| pairs[i].1 < 1170));
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

    const NONE: SplitOptions =
        SplitOptions { share: 0.2, min_queries: 10, max_queries: 1000, older: 0.06, least: 40 };

    fn divided(shape: Shape, keys: &[Vec<u64>], classes: &[u32]) -> Result<Split, TooLittle> {
        let class = |n: usize| classes.get(n).copied().unwrap_or(0);
        let records: Vec<Keyed<'_>> =
            keys.iter().enumerate().map(|(n, keys)| Keyed { keys, class: class(n), time: 0 }).collect();
        let split = split_shape(shape, &records, &NONE)?;
        let mut all = [split.train.clone(), split.held_out.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..keys.len()).collect::<Vec<_>>());
        Ok(split)
    }

    fn texts(keys: &[Vec<u64>], side: &[usize], first: usize) -> HashSet<u64> {
        side.iter().flat_map(|&n| keys[n].iter().take(first).copied()).collect()
    }

    #[test]
    fn scored_pairs_and_triplets_share_no_text_with_those_held_out() {
        // Chains of three that share texts, and single ones.
        let scored: Vec<Vec<u64>> = (0..300)
            .map(|i| {
                if i % 4 == 3 {
                    vec![9000 + i, 9500 + i]
                } else {
                    vec![i / 4 * 10 + i % 4, i / 4 * 10 + i % 4 + 1]
                }
            })
            .collect();
        let split = divided(Shape::Scored, &scored, &[]).unwrap();
        assert!((50..=60).contains(&split.held_out_queries), "{split:?}");
        assert!(texts(&scored, &split.train, 2).is_disjoint(&texts(&scored, &split.held_out, 2)));
        let triplets: Vec<Vec<u64>> = (0..100).map(|i| vec![i, 1000 + i / 2, 2000 + i / 2]).collect();
        let split = divided(Shape::Triplets, &triplets, &[]).unwrap();
        assert_eq!((split.held_out_queries, split.shared), (20, 0));
        assert!(texts(&triplets, &split.train, 3).is_disjoint(&texts(&triplets, &split.held_out, 3)));
        // More records move none.
        let more: Vec<Vec<u64>> =
            triplets.iter().cloned().chain((0..5).map(|i| vec![7000 + i, 7100 + i, 7200 + i])).collect();
        let again = divided(Shape::Triplets, &more, &[]).unwrap();
        let stayed = split.held_out.iter().filter(|n| again.held_out.contains(n)).count();
        assert!(stayed >= 18, "{stayed}");
    }

    #[test]
    fn mined_negatives_do_not_keep_triplets_together() {
        // Every negative is another's positive: all hang together.
        let triplets: Vec<Vec<u64>> = (0..100).map(|i| vec![i, 1000 + i, 1000 + (i + 1) % 100]).collect();
        let split = divided(Shape::Triplets, &triplets, &[]).unwrap();
        assert_eq!(split.held_out_queries, 20);
        assert!(texts(&triplets, &split.train, 2).is_disjoint(&texts(&triplets, &split.held_out, 2)));
        let held_out = texts(&triplets, &split.held_out, 2);
        let shared = split.train.iter().filter(|&&n| held_out.contains(&triplets[n][2])).count();
        assert!(shared > 0);
        assert_eq!(split.shared, shared);
        let TooLittle(reason) = divided(Shape::Scored, &triplets, &[]).unwrap_err();
        assert!(reason.starts_with("100 of 100 scored pairs hang together"), "{reason}");
    }

    #[test]
    fn every_class_gives_its_share() {
        let keys: Vec<Vec<u64>> = (0..230).map(|i| vec![if i >= 220 { i - 220 } else { i } * 7919]).collect();
        let classes: Vec<u32> =
            (0..230).map(|i| if i >= 220 { 9 } else { i % 10 + u32::from(i == 40) }).collect();
        let split = divided(Shape::Classes, &keys, &classes).unwrap();
        assert!(texts(&keys, &split.train, 1).is_disjoint(&texts(&keys, &split.held_out, 1)));
        for class in 0..9 {
            let of = |side: &[usize]| side.iter().filter(|&&n| n < 220 && classes[n] == class).count();
            assert!((3..=6).contains(&of(&split.held_out)), "{class}: {}", of(&split.held_out));
        }
        let single: Vec<u32> = (0..230).collect();
        assert_eq!(divided(Shape::Classes, &keys, &single).unwrap().held_out_queries, 0);
        assert!(
            divided(Shape::Classes, &keys[..39], &classes).unwrap_err().0.contains("39 texts with classes")
        );
    }
}
