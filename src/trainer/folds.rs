//! Cross-validation: every query judges once, by what was trained without it.
//!
//! For logs too small to hold a part out. Groups of pairs with one query text are never divided, as in
//! [`split`](mod@super::split). Where times are known the parts are stretches of time, so that what people search
//! for in one week is judged by what was learnt in the others; otherwise a hash of the text deals them out.

use std::collections::HashMap;

use super::split::{Keyed, Split};

/// Divides pairs, of which the first key is the query's, `count` times, each time with another part held out. Parts hold
/// equal numbers of queries, within one.
pub fn folds(pairs: &[Keyed<'_>], count: usize) -> Vec<Split> {
    let mut groups: HashMap<u64, (u64, Vec<usize>)> = HashMap::new();
    for (index, pair) in pairs.iter().enumerate() {
        let query = pair.keys.first().copied().unwrap_or_default();
        let (first, members) = groups.entry(query).or_insert((pair.time, Vec::new()));
        *first = pair.time.min(*first);
        members.push(index);
    }
    let by_time =
        pairs.iter().all(|pair| pair.time > 0) && pairs.windows(2).any(|two| two[0].time != two[1].time);
    let mut order: Vec<(u64, u64, Vec<usize>)> = groups
        .into_iter()
        .map(|(key, (first, members))| (if by_time { first } else { 0 }, key, members))
        .collect();
    order.sort_unstable();
    let count = count.clamp(2, order.len().max(2));
    let part = |number: usize| number * order.len() / count..(number + 1) * order.len() / count;
    let fold = |number: usize| {
        let held = part(number);
        let mut split = Split { held_out_queries: held.len(), by_time, ..Split::default() };
        for (place, group) in order.iter().enumerate() {
            let side = if held.contains(&place) { &mut split.held_out } else { &mut split.train };
            side.extend(&group.2);
        }
        split.train.sort_unstable();
        split.held_out.sort_unstable();
        split
    };
    (0..count).map(fold).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn pairs(keys: &[[u64; 2]], time: impl Fn(usize) -> u64) -> Vec<Keyed<'_>> {
        keys.iter().enumerate().map(|(n, keys)| Keyed { keys, class: 0, time: time(n) }).collect()
    }

    #[test]
    fn every_query_judges_once_and_never_where_it_taught() {
        let keys: Vec<[u64; 2]> = (0..43).map(|n| [n % 31, n]).collect();
        let pairs = pairs(&keys, |_| 0);
        let folds = folds(&pairs, 5);
        let mut judged: Vec<usize> = folds.iter().flat_map(|fold| fold.held_out.clone()).collect();
        judged.sort_unstable();
        assert_eq!(judged, (0..43).collect::<Vec<_>>());
        for fold in &folds {
            let queries = |side: &[usize]| side.iter().map(|&n| keys[n][0]).collect::<HashSet<_>>();
            assert!(queries(&fold.train).is_disjoint(&queries(&fold.held_out)));
            assert_eq!(fold.train.len() + fold.held_out.len(), 43);
            assert!((6..=7).contains(&fold.held_out_queries) && !fold.by_time);
        }
    }

    #[test]
    fn with_times_the_parts_follow_one_another() {
        let keys: Vec<[u64; 2]> = (0..20).map(|n| [n * 7 % 20, n]).collect();
        let pairs = pairs(&keys, |n| 20 - n as u64);
        let folds = folds(&pairs, 4);
        assert!(folds.iter().all(|fold| fold.by_time && fold.held_out.len() == 5));
        assert_eq!(folds[0].held_out, [15, 16, 17, 18, 19]);
        assert_eq!(folds[3].held_out, [0, 1, 2, 3, 4]);
    }
}
