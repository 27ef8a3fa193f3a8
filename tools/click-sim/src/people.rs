//! People who look at a page by the position-based model: rank r is looked at with probability r^-η; what is looked at
//! is clicked often if it is relevant, and now and then if it is not.

use crate::data::Collection;

/// What people do.
#[derive(Clone, Copy)]
pub struct People {
    /// Strength of the position bias.
    pub eta: f64,
    /// Share of the irrelevant documents that are clicked when looked at, and of the relevant that are not.
    pub noise: f64,
    /// Searches for each query.
    pub searches: usize,
    /// Share of the searches whose results after rank `fixed` come in random order.
    pub shuffled: f64,
    /// Results that keep their ranks in them.
    pub fixed: usize,
}

/// One search: who was shown at which rank, and what was clicked.
pub struct Session {
    /// Number of the query.
    pub query: usize,
    /// Documents, by rank.
    pub shown: Vec<u32>,
    /// Whether ranks after `fixed` are random.
    pub shuffled: bool,
    /// For each rank whether it was clicked.
    pub clicked: Vec<bool>,
}

/// A splitmix64 stream.
pub struct Chance(pub u64);

impl Chance {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n.saturating_sub(1))
    }
}

/// Lets people search: round after round every query once, in random order. `pages`: for each of `collection.train` the
/// documents of its page.
pub fn search(collection: &Collection, pages: &[Vec<u32>], people: &People, seed: u64) -> Vec<Session> {
    let mut chance = Chance(seed);
    let mut order: Vec<usize> = (0..pages.len()).collect();
    let mut sessions = Vec::new();
    for _ in 0..people.searches {
        shuffle(&mut order, &mut chance);
        for &at in &order {
            let query = collection.train[at];
            let mut shown = pages[at].clone();
            let shuffled = chance.unit() < people.shuffled;
            if let Some(tail) = shown.get_mut(people.fixed..).filter(|_| shuffled) {
                shuffle(tail, &mut chance);
            }
            let mut click = |(at, document): (usize, &u32)| {
                let looked_at = chance.unit() < ((at + 1) as f64).powf(-people.eta);
                let relevant = collection.judged[query].contains_key(document);
                let wanted = if relevant { 1.0 - people.noise } else { people.noise };
                chance.unit() < wanted && looked_at
            };
            let clicked = shown.iter().enumerate().map(&mut click).collect();
            sessions.push(Session { query, shown, shuffled, clicked });
        }
    }
    sessions
}

fn shuffle<T>(items: &mut [T], chance: &mut Chance) {
    for i in (1..items.len()).rev() {
        items.swap(i, chance.below(i + 1));
    }
}
