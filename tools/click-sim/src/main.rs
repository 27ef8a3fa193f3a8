//! sim
mod data;
mod people;
use data::{Collection, Places};
use std::io::Write;
use embdb::trainer::{Click, ClickOptions, LoggedQuery, Target, pairs_from_log, AdapterOptions, PairRows, adapter::apply, ndcg, rank_exact, train_adapter};
use people::{People, Session, search};
use std::collections::HashMap;

fn page(c: &Collection, k: usize) -> Vec<Vec<u32>> {
    let d: Vec<u32> = (0..c.ids.len() as u32).collect();
    rank_exact(&c.query_rows(&c.train), &c.documents, &d, c.dim, c.dim, k).unwrap()
}
fn measure(c: &Collection, m: Option<&[f32]>) -> f64 {
    let d: Vec<u32> = (0..c.ids.len() as u32).collect();
    let q = c.query_rows(&c.test);
    let (q, docs) = match m {
        Some(m) => (apply(m, &q, c.dim).unwrap(), apply(m, &c.documents, c.dim).unwrap()),
        None => (q, c.documents.clone()),
    };
    let r = rank_exact(&q, &docs, &d, c.dim, c.dim, 10).unwrap();
    r.iter().zip(&c.test).map(|(r, &t)| ndcg(r, &c.judged[t], 10)).sum::<f64>() / c.test.len() as f64
}
fn train(c: &Collection, pairs: &[(usize, u32, f32)], seed: u64) -> f64 {
    let pairs: Vec<_> = pairs.iter().filter(|p| p.2 > 0.0).collect();
    if pairs.len() < 2 {
        return measure(c, None);
    }
    let numbers: Vec<usize> = pairs.iter().map(|p| p.0).collect();
    let q = c.query_rows(&numbers);
    let p: Vec<f32> = pairs
        .iter()
        .flat_map(|p| &c.documents[p.1 as usize * c.dim..(p.1 as usize + 1) * c.dim])
        .copied()
        .collect();
    let qk: Vec<u64> = pairs.iter().map(|p| p.0 as u64).collect();
    let pk: Vec<u64> = pairs.iter().map(|p| u64::from(p.1)).collect();
    let w: Vec<f32> = pairs.iter().map(|p| p.2).collect();
    let rows =
        PairRows { queries: &q, positives: &p, query_keys: &qk, positive_keys: &pk, weights: &w, dim: c.dim };
    let (m, _) = train_adapter(
        &rows,
        &[64, 128, 256, c.dim],
        &AdapterOptions { seed, ..Default::default() },
        &Default::default(),
    )
    .unwrap();
    measure(c, Some(&m))
}

fn log(c: &Collection, sessions: &[Session], fixed: usize) -> Vec<LoggedQuery> {
    sessions.iter().enumerate().map(|(n, s)| LoggedQuery {
        query_id: n.to_string(), text: format!("{} {}", s.query, c.texts[s.query]), time: 1_000_000 * (n as u64 + 1), generation: 1,
        shown: s.shown.iter().map(|d| d.to_string()).collect(),
        propensities: if s.shuffled { (0..s.shown.len()).map(|at| if at < fixed { 1.0 } else { 1.0 / (s.shown.len() - fixed) as f32 }).collect() } else { Vec::new() },
        client: None,
        clicks: s.shown.iter().zip(&s.clicked).filter(|(_, c)| **c).map(|(d, _)| Click { id: d.to_string(), grade: 1.0, time: 1_000_000 * (n as u64 + 1) }).collect(),
    }).collect()
}
fn main() {
    let arg: Vec<String> = std::env::args().collect();
    let places =
        Places { data: arg[1].clone().into(), model: arg[2].clone().into(), cache: arg[3].clone().into() };
    let mut c = Collection::open(&places, &arg[4]).unwrap();
    let part: usize = arg[10].parse().unwrap();
    c.train = c.train.iter().copied().step_by(part).collect();
    if part > 1 {
        c.test = c.test.iter().copied().step_by(2).collect();
    }
    let c = c;
    let f = |i: usize| arg[i].parse::<f64>().unwrap();
    let pages = page(&c, 10);
    println!(
        "{} docs {} train {} test; untrained {:.4}",
        c.ids.len(),
        c.train.len(),
        c.test.len(),
        measure(&c, None)
    );
    let clean: Vec<(usize, u32, f32)> =
        c.train.iter().flat_map(|&q| c.judged[q].keys().map(move |d| (q, *d, 1.0))).collect();
    let mut shown: Vec<(usize, u32, f32)> = Vec::new();
    for (&q, p) in c.train.iter().zip(&pages) {
        for &d in p {
            if c_has(&c, q, d) {
                shown.push((q, d, 1.0))
            }
        }
    }
    for seed in 0..f(9) as u64 {
        let (a, b) = (train(&c, &clean, seed), train(&c, &shown, seed));
        if seed == 0 {
            let mut sorted = shown.clone(); sorted.sort_by_key(|p| (p.0, p.1));
            let mut ch = people::Chance(1); let w: Vec<_> = sorted.iter().map(|p| (p.0, p.1, 0.9 + 0.1 * ch.unit() as f32)).collect();
            println!("sorted {:.4} weights {:.4} other seed {:.4} ", train(&c, &sorted, 0), train(&c, &w, 0), train(&c, &shown, 77));
        }
        println!("seed {seed} clean {a:.4} ({}) clean-shown {b:.4} ({})", clean.len(), shown.len());
        for eta in [0.0, 1.0, 2.0] {
            let people =
                People { eta, noise: f(5), searches: f(6) as usize, shuffled: f(7), fixed: f(8) as usize };
            let s = search(&c, &pages, &people, seed * 1000 + 7);
            let found = pairs_from_log(&log(&c, &s, people.fixed), &ClickOptions::default());
            let made: Vec<(usize, u32, f32)> = found.pairs.iter().map(|p| {
                let Target::Id(id) = &p.positive else { unreachable!() };
                (p.query.split(' ').next().unwrap().parse().unwrap(), id.parse().unwrap(), p.weight)
            }).collect();
            let good = made.iter().filter(|p| c_has(&c, p.0, p.1)).count();
            let mut naive: Vec<(usize, u32, f32)> = s.iter().flat_map(|s| s.shown.iter().zip(&s.clicked).filter(|(_, c)| **c).map(|(d, _)| (s.query, *d, 1.0))).collect();
            naive.sort_by_key(|p| (p.0, p.1)); naive.dedup_by_key(|p| (p.0, p.1));
            print!("seed {seed} eta {eta} est {:.2} {:?} inf {} pairs {} relevant {good} {:?}\n  ", found.bias.eta, found.bias.evidence, found.bias.informative, made.len(), found.report);
            let variants: Vec<(&str, Box<dyn Fn(f32) -> f32>)> = vec![
                ("as is", Box::new(|w| w)), ("min1", Box::new(|w| w.min(1.0))), ("sqrt", Box::new(|w| w.sqrt())), ("min3", Box::new(|w| w.min(3.0))),
            ];
            for (name, f) in &variants {
                let pairs: Vec<_> = made.iter().map(|p| (p.0, p.1, f(p.2))).collect();
                print!(" {name} {:.4}", train(&c, &pairs, seed)); std::io::stdout().flush().unwrap();
            }
            println!(" naive[{}] {:.4}", naive.len(), train(&c, &naive, seed));
        }
    }
}
fn c_has(c: &Collection, q: usize, d: u32) -> bool { c.judged[q].contains_key(&d) }
