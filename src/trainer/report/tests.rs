use std::collections::BTreeMap;

use super::super::bias::{Evidence, RankBias};
use super::super::fit::StepRecord;
use super::super::gate::KindReport;
use super::super::guard::GuardReport;
use super::*;

/// What a page must survive in every text.
const NASTY: &str = "</style><script>alert(1)</script><img src=x onerror='y'> \" ' & \u{202e}\u{0}";

fn gate() -> GateReport {
    let by_dim = [("1024", [0.5, 0.6]), ("256", [0.45, 0.55]), ("64", [0.4, 0.38])];
    let ci95 = [("1024", [0.08, 0.12]), ("256", [0.07, 0.13]), ("64", [-0.05, 0.01])];
    GateReport {
        before: 0.5,
        after: 0.6,
        gain: 0.1,
        ci95: [0.08, 0.12],
        by_dim: by_dim.map(|(dim, means)| (dim.to_owned(), means)).into(),
        ci95_by_dim: ci95.map(|(dim, ci95)| (dim.to_owned(), ci95)).into(),
        queries: 640,
        by_kind: vec![KindReport { kind: "titles", queries: 40, before: 0.5, after: 0.625 }],
        guard: Some(GuardReport { documents: 481, before: 0.8, after: 0.81, older: None }),
        ..GateReport::refused("it is better")
    }
}

fn train() -> TrainReport {
    let record = |step: u32| StepRecord {
        loss: 3.0 / f64::from(step + 1),
        rate: 2e-3,
        norm: 0.25,
        rows: 64,
        seconds: 0.5,
    };
    let records: Vec<StepRecord> = (0..57).map(record).collect();
    TrainReport { pairs: 3619, steps: 57, seconds: 28.5, records, ..TrainReport::default() }
}

fn asked(query: &str, before: f64, after: f64) -> Asked {
    let shown = |n: usize| Shown { id: Some(format!("d{n}")), text: format!("text {n}"), wanted: n == 3 };
    let strange = Shown { id: None, text: NASTY.into(), wanted: false };
    let hits = [(0..10).map(shown).collect(), (3..9).map(shown).chain([strange]).collect()];
    Asked { query: query.into(), before, after, hits }
}

fn bias() -> PositionBias {
    let rank = |rank: usize| RankBias { rank, examination: 1.0 / rank as f64, shown: 100, clicks: 7 };
    PositionBias {
        evidence: Evidence::Moved,
        informative: 400,
        eta: 1.0,
        curve: (1..11).map(rank).collect(),
        note: None,
    }
}

/// A page with everything in it, by the texts given.
fn page<'a>(
    gate: &'a GateReport,
    train: &'a TrainReport,
    rest: &'a (Vec<Asked>, PositionBias, Vec<Stage>, Vec<String>),
) -> Page<'a> {
    let (asked, bias, stages, notes) = rest;
    Page {
        outcome: Outcome::Published,
        database: "fin.embdb".into(),
        ended_ms: 1_709_251_199_000,
        generations: [2, 1],
        model_id: "b1a968be8bba0f72c8677b735260338f",
        documents: 6755,
        train,
        gate,
        asked,
        bias: Some(bias),
        stages,
        peak_bytes: Some(921_000_000),
        notes,
    }
}

fn rest() -> (Vec<Asked>, PositionBias, Vec<Stage>, Vec<String>) {
    let asked = vec![asked("revenue of cloud services", 0.0, 1.0), asked(NASTY, 0.6, 0.3)];
    let stages = [("encode", 12.0), ("train", 28.5)].map(|(name, seconds)| Stage { name, seconds });
    (asked, bias(), stages.into(), vec![NASTY.into()])
}

/// Names of tags and of their attributes, of a page whose texts are escaped.
fn markup(html: &str) -> (Vec<String>, Vec<String>) {
    let (mut tags, mut attributes) = (Vec::new(), Vec::new());
    for tag in html.split('<').skip(1) {
        let (inside, text) = tag.split_once('>').unwrap_or_else(|| panic!("unclosed: {tag}"));
        assert!(!text.contains('>') || text.contains("summary {"), "a loose >: {text}");
        let name = inside.split_whitespace().next().unwrap();
        tags.push(name.to_owned());
        // Values stand at odd places between the quotes.
        let outside: String = inside[name.len()..].split('"').step_by(2).collect();
        attributes.extend(outside.split([' ', '=', '/']).filter(|word| !word.is_empty()).map(str::to_owned));
    }
    (tags, attributes)
}

#[test]
fn everything_is_shown() {
    let (gate, train, rest) = (gate(), train(), rest());
    let html = page(&gate, &train, &rest).html();
    for needle in [
        "A better generation answers now",
        "it is better",
        "2024-02-29 23:59 UTC",
        "0.5000 → 0.6000",
        "+0.0800 to +0.1200",
        "−0.0500 to +0.0100",
        "481",
        "3619",
        "loss of each step",
        "learning rate",
        "revenue of cloud services",
        "from the data, not stored",
        "documents that were shown at several ranks: 400 clicks",
        "921 MB",
        "time of each stage",
        "6755 documents were indexed anew",
    ] {
        assert!(html.contains(needle), "{needle:?} is missing");
    }
    assert_eq!(html.matches("<svg").count(), 6);
    // The full dimension first, by number and not by letters.
    let rows = ["<td>1024</td>", "<td>256</td>", "<td>64</td>"].map(|row| html.find(row).unwrap());
    assert!(rows.is_sorted());
}

#[test]
fn texts_cannot_break_the_page_nor_load_anything() {
    let (mut gate, train, rest) = (gate(), train(), rest());
    gate.reason = NASTY.into();
    gate.by_dim.insert(NASTY.into(), [0.1, 0.2]);
    let mut page = page(&gate, &train, &rest);
    page.database = NASTY.into();
    page.model_id = NASTY;
    let html = page.html();
    let (tags, attributes) = markup(&html);
    let plain = |tag: &String| {
        let tag = tag.trim_start_matches('/');
        !["script", "img", "link", "iframe", "object", "embed", "base", "a", "form", "image", "use"]
            .contains(&tag)
    };
    assert!(tags.iter().all(plain), "{tags:?}");
    let allowed = [
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "id",
        "viewBox",
        "role",
        "aria-label",
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "cx",
        "cy",
        "r",
        "width",
        "height",
        "points",
        "text-anchor",
        "scope",
        "open",
        "html",
    ];
    assert!(attributes.iter().all(|a| allowed.contains(&a.as_str())), "{attributes:?}");
    let ours = html.replace("&lt;img src=x", "");
    for forbidden in ["http:", "https:", "src=", "url(", "@import", "href", "javascript", "\u{0}"] {
        assert!(!ours.contains(forbidden), "{forbidden}");
    }
    // Each opened tag is closed.
    for tag in tags.iter().filter(|tag| !tag.starts_with(['/', '!'])) {
        let (opened, closed) =
            (tags.iter().filter(|t| *t == tag), tags.iter().filter(|t| **t == format!("/{tag}")));
        let void = ["meta", "line", "circle", "rect", "polyline"].contains(&tag.as_str());
        assert_eq!(opened.count() * usize::from(!void), closed.count(), "{tag}");
    }
}

#[test]
fn what_there_is_nothing_of_is_said() {
    let gate = GateReport::refused("too little to learn from: 1 distinct query");
    let train = TrainReport::default();
    let none = (Vec::new(), PositionBias::default(), Vec::new(), Vec::new());
    let mut page = page(&gate, &train, &none);
    page.outcome = Outcome::Refused;
    page.generations = [1, 1];
    page.peak_bytes = None;
    page.documents = 0;
    let html = page.html();
    for needle in [
        "Nothing was changed",
        "too little to learn from",
        "Nothing was judged",
        "Nothing was trained",
        "No query was judged",
        "The log shows no hits",
        "does not tell how much memory",
    ] {
        assert!(html.contains(needle), "{needle:?} is missing");
    }
    assert!(!html.contains("NaN") && !html.contains("indexed anew") && !html.contains("gain with"));
    page.bias = None;
    assert!(!page.html().contains("Position bias"));
}

#[test]
fn numbers_that_are_none_do_not_break_it() {
    let (mut gate, mut train, mut rest) = (gate(), train(), rest());
    (gate.after, gate.gain, gate.ci95) = (f64::NAN, f64::NAN, [f64::NAN; 2]);
    gate.by_dim = BTreeMap::from([("64".to_owned(), [f64::NAN, f64::INFINITY])]);
    gate.ci95_by_dim.clear();
    train.records.iter_mut().for_each(|record| (record.loss, record.rate) = (f64::NAN, f64::INFINITY));
    rest.2 = vec![Stage { name: "train", seconds: f64::NAN }];
    let html = page(&gate, &train, &rest).html();
    assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
}

#[test]
fn a_long_run_makes_no_long_page() {
    let (gate, mut train, mut rest) = (gate(), train(), rest());
    train.records = train.records.iter().copied().cycle().take(100_000).collect();
    rest.0 = (0..20).map(|_| asked(&"long ".repeat(10_000), 0.1, 0.2)).collect();
    assert!(page(&gate, &train, &rest).html().len() < 200_000);
}

#[test]
fn the_most_changed_are_those_that_gained_and_those_that_lost() {
    let gains: Vec<f64> = (0..50).map(|n| f64::from(n) / 50.0 - 0.1).collect();
    let chosen = most_changed(&gains);
    // 45 gain, 5 lose, one stays.
    assert_eq!(chosen[..3], [49, 48, 47]);
    assert_eq!(chosen[MOST_ASKED..], [0, 1, 2, 3, 4]);
    assert!(most_changed(&[0.0, f64::NAN, -0.0]).is_empty());
}
