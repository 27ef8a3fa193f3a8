use super::super::rng::Rng;
use super::super::significance::interval;
use super::*;
use crate::trainer::metrics::discount;

/// Documents of each text.
const DOCUMENTS: usize = 40;

/// Searchers whose wishes and clicks are those of the model.
struct World {
    taste: [f64; 2],
    eta: f64,
    /// Rate of clicks by those who look: at what is wanted, at anything else.
    rates: [f64; 2],
}

struct Chance(Rng);

impl Chance {
    fn unit(&mut self) -> f64 {
        (self.0.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Roughly normal.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

impl World {
    /// Texts with one search each, of whom ten documents are shown; and the true gain of the candidate.
    fn texts(&self, count: usize, seed: u64) -> (Vec<Text>, f64) {
        let mut chance = Chance(Rng::new(seed));
        let mut gain = 0.0;
        let texts = (0..count).map(|_| self.text(&mut chance, &mut gain)).collect();
        (texts, gain / count as f64)
    }

    fn text(&self, chance: &mut Chance, gain: &mut f64) -> Text {
        let scores: Vec<[f64; 2]> = (0..DOCUMENTS)
            .map(|_| {
                let common = chance.normal();
                [0.1, 0.1].map(|width| 0.5 + width * (0.8 * common + 0.6 * chance.normal()))
            })
            .collect();
        let ranked = [0, 1].map(|side| {
            let mut order: Vec<usize> = (0..DOCUMENTS).collect();
            order.sort_by(|&a, &b| scores[b][side].total_cmp(&scores[a][side]));
            order
        });
        let mut discounts = vec![[0.0; 2]; DOCUMENTS];
        for (side, order) in ranked.iter().enumerate() {
            for (position, &document) in order.iter().take(10).enumerate() {
                discounts[document][side] = discount(position) as f32;
            }
        }
        let values = scores.iter().map(|[s, t]| (self.taste[0] * s + self.taste[1] * t).exp());
        let mut place = chance.unit() * values.clone().sum::<f64>();
        let wanted = values.into_iter().position(|value| {
            place -= value;
            place <= 0.0
        });
        let wanted = wanted.unwrap_or(DOCUMENTS - 1);
        *gain += f64::from(discounts[wanted][1] - discounts[wanted][0]);
        let seen = ranked[0].iter().take(10).enumerate().map(|(position, &document)| {
            let looked_at = ((position + 1) as f64).powf(-self.eta);
            let rate = self.rates[usize::from(document != wanted)];
            Seen { document, position: Some(position), clicked: chance.unit() < looked_at * rate }
        });
        let seen = seen.collect();
        Text { scores, discounts: vec![discounts], searches: vec![Search { weight: 1.0, seen }] }
    }
}

/// Gain of each text, with its influence.
fn gains(scored: &Scored) -> Vec<f64> {
    let [before, after] = &scored.rungs[0];
    let gains = before.iter().zip(after).zip(&scored.influence[0]);
    gains.map(|((before, after), influence)| after - before + influence).collect()
}

fn mean_gain(scored: &Scored) -> f64 {
    let gains = gains(scored).into_iter().zip(&scored.weights).map(|(gain, weight)| weight * gain);
    gains.sum::<f64>() / scored.weights.iter().sum::<f64>()
}

fn gain_interval(scored: &Scored) -> [f64; 2] {
    let differences: Vec<(f64, f64)> = gains(scored).into_iter().map(|gain| (1.0, gain)).collect();
    interval(&differences, 2000, 0)
}

/// The gain if what was clicked were all that counts.
fn gain_by_clicks(texts: &[Text]) -> f64 {
    let clicked = texts.iter().flat_map(|text| text.searches[0].seen.iter().map(move |seen| (text, seen)));
    let gains: Vec<f64> = clicked
        .filter(|(_, seen)| seen.clicked)
        .map(|(text, seen)| text.discounts[0][seen.document])
        .map(|[before, after]| f64::from(after - before))
        .collect();
    gains.iter().sum::<f64>() / gains.len() as f64
}

#[test]
fn the_true_gain_is_found_where_clicks_deny_it() {
    for (eta, seed) in [(0.0, 1), (1.0, 2), (2.0, 3)] {
        // Both scores tell, the candidate's more.
        let world = World { taste: [6.0, 18.0], eta, rates: [0.9, 0.02] };
        let (texts, gain) = world.texts(2000, seed);
        let (scored, model) = scored(&texts);
        let found = mean_gain(&scored);
        let [low, high] = gain_interval(&scored);
        assert!(gain > 0.08 && gain_by_clicks(&texts) < 0.2 * gain, "{gain} {}", gain_by_clicks(&texts));
        // Where hardly anybody looks below the first rank, less is told, and what is not told counts as no gain.
        assert!((0.7..1.1).contains(&(found / gain)) && low > 0.0, "η {eta}: {found} for {gain}");
        assert!(eta > 1.0 || high > gain, "η {eta}: {high} for {gain}");
        assert!(scored.evidence > CERTAIN, "{}", scored.evidence);
        assert!((model.clicks.eta - eta).abs() < 0.3, "{model:?}");
        assert!((model.taste[0] - 6.0).abs() < 4.0 && (model.taste[1] - 18.0).abs() < 4.0, "{model:?}");
    }
}

#[test]
fn a_candidate_that_is_worse_is_seen_to_be() {
    let world = World { taste: [18.0, 2.0], eta: 1.0, rates: [0.9, 0.02] };
    let (texts, gain) = world.texts(2000, 4);
    let (scored, _) = scored(&texts);
    assert!(gain < -0.1 && (mean_gain(&scored) - gain).abs() < 0.03, "{gain} {}", mean_gain(&scored));
    assert!(gain_interval(&scored)[1] < 0.0);
}

#[test]
fn clicks_at_random_make_nothing_certain() {
    // All documents are alike to those who search.
    let world = World { taste: [0.0, 0.0], eta: 0.0, rates: [0.2, 0.2] };
    let mut sure = 0;
    for seed in 0..10 {
        let (texts, _) = world.texts(500, 10 + seed);
        let (scored, _) = scored(&texts);
        let [low, _] = gain_interval(&scored);
        assert!(low <= 0.0 || scored.evidence < CERTAIN, "{low} {}", scored.evidence);
        sure += usize::from(low > 0.0);
    }
    assert!(sure <= 2, "{sure} of 10");
}

#[test]
fn influence_is_what_leaving_a_text_out_does() {
    let world = World { taste: [6.0, 12.0], eta: 1.0, rates: [0.9, 0.02] };
    let (texts, _) = world.texts(1500, 7);
    let (whole, _) = scored(&texts);
    let of_all = mean_gain(&whole);
    let n = texts.len() as f64;
    let (mut product, mut squares) = (0.0, [0.0; 2]);
    for out in (0..texts.len()).step_by(75) {
        let others: Vec<Text> =
            texts.iter().enumerate().filter(|(at, _)| *at != out).map(|(_, text)| text.clone()).collect();
        let (without, _) = scored(&others);
        // First order: the mean moves by a text's share of its distance from the mean.
        let moved = (of_all - mean_gain(&without)) * (n - 1.0);
        let told = gains(&whole)[out] - of_all;
        product += moved * told;
        squares = [squares[0] + moved * moved, squares[1] + told * told];
    }
    let [moved, told] = squares.map(f64::sqrt);
    assert!(product / (moved * told) > 0.95, "correlation {}", product / (moved * told));
    assert!((0.7..2.0).contains(&(told / moved)), "{told} {moved}");
}

#[test]
fn clicks_on_what_was_not_shown_tell_what_was_wanted() {
    let world = World { taste: [6.0, 12.0], eta: 1.0, rates: [0.9, 0.02] };
    let (mut texts, _) = world.texts(200, 8);
    let mut gain = 0.0;
    for (number, text) in texts.iter_mut().enumerate() {
        let document = number % DOCUMENTS;
        text.searches[0].seen = vec![Seen { document, position: None, clicked: true }];
        gain += f64::from(text.discounts[0][document][1] - text.discounts[0][document][0]) / 200.0;
    }
    let (scored, _) = scored(&texts);
    assert!((mean_gain(&scored) - gain).abs() < 0.005, "{} {gain}", mean_gain(&scored));
}

#[test]
fn texts_weigh_as_much_as_their_searches() {
    let world = World { taste: [6.0, 12.0], eta: 1.0, rates: [0.9, 0.02] };
    let (mut texts, _) = world.texts(100, 9);
    let (once, model) = scored(&texts);
    for text in &mut texts {
        text.searches[0].weight = 0.5;
        let again = text.searches[0].clone();
        text.searches.push(again);
    }
    let (twice, same) = scored(&texts);
    assert_eq!(once.weights, twice.weights);
    assert!((mean_gain(&once) - mean_gain(&twice)).abs() < 1e-6);
    assert!((model.taste[1] - same.taste[1]).abs() < 1e-3 && (model.nothing - same.nothing).abs() < 1e-6);
}

#[test]
fn equal_searches_count_as_one_of_their_weight() {
    let world = World { taste: [20.0, 10.0], eta: 1.0, rates: [0.8, 0.05] };
    let (mut texts, _) = world.texts(200, 5);
    for text in &mut texts {
        let (mut again, mut unclicked) = (text.searches[0].clone(), text.searches[0].clone());
        again.weight = 0.5;
        unclicked.seen.iter_mut().for_each(|seen| seen.clicked = false);
        text.searches.extend([unclicked, again]);
    }
    let merged: Vec<Text> = texts.iter().map(Text::merged).collect();
    assert!(merged.iter().all(|text| text.searches.len() <= 2));
    assert!(merged.iter().any(|text| text.searches.len() == 2));
    let ((by_all, all), (by_merged, merged)) = (Wanting::fit(&texts), Wanting::fit(&merged));
    assert!((all - merged).abs() < 1e-6 * all.abs(), "{all} {merged}");
    for (a, b) in by_all.taste.into_iter().zip(by_merged.taste) {
        assert!((a - b).abs() < 1e-3, "{by_all:?} {by_merged:?}");
    }
}

#[test]
fn any_log_gives_numbers() {
    let (none, model) = scored(&[]);
    assert!(none == Scored::default() && model.taste.iter().all(|taste| taste.is_finite()));
    let seen = |position, clicked| Seen { document: 0, position, clicked };
    let search = |seen: Vec<Seen>| Search { weight: 1.0, seen };
    let same = vec![[0.7, 0.7]; 3];
    let discounts = vec![vec![[1.0, 1.0], [0.5, 0.5], [0.0, 0.0]]];
    for searches in [
        vec![search(vec![])],
        vec![search(vec![seen(Some(0), true)]); 50],
        vec![search(vec![seen(Some(5000), true), seen(None, true)])],
        vec![search(vec![Seen { document: 9, position: Some(0), clicked: true }])],
        vec![Search { weight: 1e-9, seen: vec![seen(Some(0), false)] }],
    ] {
        let text = Text { scores: same.clone(), discounts: discounts.clone(), searches: searches.clone() };
        let bare = Text { searches, discounts: vec![vec![]], scores: vec![] };
        let (scored, model) = scored(&[text, bare]);
        let numbers = scored.rungs[0].iter().flatten().chain(&scored.influence[0]).chain(&model.taste);
        assert!(numbers.copied().all(f64::is_finite), "{scored:?} {model:?}");
    }
}
