//! The page that a search shows: its hits in order, or arranged so that clicks say more.
//!
//! - [`randomize`]: the hits after a rank come in random order. All of them are then equally likely at each of these
//!   ranks, so that differences in clicks are those of the ranks: position bias can be read off. The likelihoods
//!   (propensities) go to the log.
//! - [`interleave`]: the hits of two generations, drafted by turns (team draft: Radlinski, Kurup and Joachims: How Does
//!   Clickthrough Data Reflect Retrieval Quality?, 2008). Each team picks its best hit that is not there yet; who
//!   picks first in a round is left to chance. As both stand at all ranks equally often, the better one gets more
//!   clicks whatever the position bias.

use std::collections::HashSet;

use crate::types::{Hit, Teams};

/// What the log keeps of how a page came about.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Arrangement {
    /// As in [`LoggedSearch::propensities`](crate::types::LoggedSearch::propensities).
    pub propensities: Vec<f32>,
    /// As in [`LoggedSearch::teams`](crate::types::LoggedSearch::teams).
    pub teams: Option<Teams>,
}

/// Puts the hits after rank `below` in random order; `random` gives 64 random bits.
pub(crate) fn randomize(hits: &mut [Hit], below: usize, mut random: impl FnMut() -> u64) -> Arrangement {
    let count = hits.len();
    let tail = hits.get_mut(below..).unwrap_or_default();
    if tail.len() < 2 {
        return Arrangement::default();
    }
    let share = 1.0 / tail.len() as f32;
    for last in (1..tail.len()).rev() {
        // Fisher and Yates; the bias of 2^-64 is harmless here.
        let at = ((u128::from(random()) * (last as u128 + 1)) >> 64) as usize;
        tail.swap(at, last);
    }
    number(hits);
    let propensities = (0..count).map(|at| if at < below { 1.0 } else { share }).collect();
    Arrangement { propensities, teams: None }
}

/// The first `k` hits of a team draft between the hits of two generations, each best first.
pub(crate) fn interleave(
    hits: [Vec<Hit>; 2],
    generations: [u32; 2],
    k: usize,
    mut random: impl FnMut() -> u64,
) -> (Vec<Hit>, Arrangement) {
    let mut lists = hits.map(|hits| hits.into_iter().peekable());
    let mut page: Vec<Hit> = Vec::with_capacity(k);
    let (mut there, mut teams) = (HashSet::new(), Vec::with_capacity(k));
    'draft: loop {
        let first = (random() >> 63) as usize;
        for team in [first, 1 - first] {
            let Some(list) = lists.get_mut(team) else { break 'draft };
            let pick = list.find(|hit| !there.contains(&hit.id));
            // When one team has no more, the other fills the page.
            if let Some(hit) = pick.filter(|_| page.len() < k) {
                there.insert(hit.id.clone());
                page.push(hit);
                teams.push(team as u8);
            }
        }
        if page.len() >= k || lists.iter_mut().all(|list| list.peek().is_none()) {
            break;
        }
    }
    number(&mut page);
    let teams = Teams { generations, of: teams };
    (page, Arrangement { propensities: Vec::new(), teams: Some(teams) })
}

/// Ranks are those of the page.
fn number(hits: &mut [Hit]) {
    for (hit, rank) in hits.iter_mut().zip(1..) {
        hit.rank = rank;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64.
    fn chance(mut state: u64) -> impl FnMut() -> u64 {
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    fn hits(ids: &str) -> Vec<Hit> {
        let hit = |(at, id): (usize, char)| Hit {
            rank: at as u32 + 1,
            id: id.into(),
            score: 1.0,
            distance: 0.0,
            text: String::new(),
            title: None,
            meta: Default::default(),
            chunk: crate::types::ChunkRef { index: 0, start: 0, end: 0 },
        };
        ids.chars().enumerate().map(hit).collect()
    }

    fn ids(hits: &[Hit]) -> String {
        assert!(hits.iter().zip(1..).all(|(hit, rank)| hit.rank == rank));
        hits.iter().map(|hit| hit.id.as_str()).collect()
    }

    #[test]
    fn each_hit_of_the_tail_stands_at_each_of_its_ranks_equally_often() {
        let mut random = chance(1);
        let mut counts = [[0; 4]; 4];
        for _ in 0..4000 {
            let mut page = hits("abcdef");
            let arrangement = randomize(&mut page, 2, &mut random);
            assert_eq!(arrangement.propensities, [1.0, 1.0, 0.25, 0.25, 0.25, 0.25]);
            let order = ids(&page);
            assert_eq!(&order[..2], "ab");
            for (at, id) in order.bytes().skip(2).enumerate() {
                counts[(id - b'c') as usize][at] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|count| (880..1120).contains(count)), "{counts:?}");
        for (below, text) in [(5, "abcdef"), (9, "abcdef"), (0, "a"), (0, "")] {
            let mut page = hits(text);
            assert_eq!(randomize(&mut page, below, &mut random), Arrangement::default());
            assert_eq!(ids(&page), text);
        }
    }

    #[test]
    fn teams_draft_by_turns_and_chance_decides_who_begins() {
        let mut random = chance(2);
        let mut first = [0; 2];
        for _ in 0..2000 {
            let (page, arrangement) = interleave([hits("abcd"), hits("bxay")], [1, 7], 4, &mut random);
            let teams = arrangement.teams.unwrap();
            assert_eq!((page.len(), teams.generations), (4, [1, 7]));
            let order = ids(&page);
            assert!(["abcx", "abxc", "baxc", "bacx"].contains(&order.as_str()), "{order}");
            // One of each team in every round.
            assert!(teams.of.chunks(2).all(|round| round[0] != round[1]), "{teams:?}");
            assert_eq!(order.starts_with('a'), teams.of[0] == 0);
            first[teams.of[0] as usize] += 1;
        }
        assert!(first.iter().all(|count| (900..1100).contains(count)), "{first:?}");
    }

    #[test]
    fn a_team_without_more_hits_leaves_the_page_to_the_other() {
        for seed in 0..20 {
            let (page, arrangement) = interleave([hits("a"), hits("abcd")], [1, 2], 3, chance(seed));
            assert!(
                ids(&page).contains("bc") || ids(&page) == "abc" || ids(&page) == "bac",
                "{}",
                ids(&page)
            );
            assert_eq!(arrangement.teams.unwrap().of.len(), 3);
            assert_eq!(ids(&interleave([hits("ab"), hits("ba")], [1, 2], 9, chance(seed)).0).len(), 2);
            assert!(interleave([hits(""), hits("")], [1, 2], 9, chance(seed)).0.is_empty());
        }
    }
}
