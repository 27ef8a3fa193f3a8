//! What training makes of clean labels, of simulated clicks as they are, and of the same clicks corrected.
//!
//! People are those of the position-based model (`people`); the adapter learns from pairs of a collection's training
//! queries, and its test queries measure. See README.md here.

mod data;
mod people;

use data::{Collection, Places};
use embdb::trainer::adapter::apply;
use embdb::trainer::{
    AdapterOptions, Click, ClickOptions, Example, LoggedQuery, LossKind, LossOptions, Shape, SideRows,
    Target, TrainingSet, ndcg, pairs_from_log, rank_exact, train_adapter,
};
use embdb::{Error, Result, Task};
use people::{People, Session};

/// Results on a page, and depth of the measure.
const K: usize = 10;

/// Query and document by number, and a weight.
type Labels = Vec<(usize, u32, f32)>;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut place =
        |what: &str| words.next().ok_or_else(|| Error::input(format!("{what} is missing; {USAGE}")));
    let (data, model, cache, set) = (place("DATA")?, place("MODEL")?, place("CACHE")?, place("SET")?);
    let places = Places { data: data.into(), model: model.into(), cache: cache.into() };
    let flags: Vec<String> = words.collect();
    let mut collection = Collection::open(&places, &set)?;
    let every = flag(&flags, "--every", 1.0)?.max(1.0) as usize;
    collection.train = collection.train.iter().copied().step_by(every).collect();
    let pages = ranked(&collection, &collection.train, None)?;
    let people = People {
        eta: 0.0,
        noise: flag(&flags, "--noise", 0.1)?,
        searches: flag(&flags, "--searches", 5.0)? as usize,
        shuffled: flag(&flags, "--shuffled", 0.1)?,
        fixed: flag(&flags, "--randomize-below", 1.0)? as usize,
    };
    let (from, count) = (flag(&flags, "--first-seed", 0.0)? as u64, flag(&flags, "--seeds", 3.0)? as u64);
    println!(
        "{set}: {} documents, {} training queries, {} test queries; ndcg@10 untrained {:.4}",
        collection.ids.len(),
        collection.train.len(),
        collection.test.len(),
        measure(&collection, None)?
    );
    println!(
        "seed  eta  all labels  labels of pages  right clicks  clicks  clicks corrected  pairs  relevant  eta estimated"
    );
    for seed in from..from + count {
        let judgements = AdapterOptions { seed, ..AdapterOptions::default() };
        let clicks = AdapterOptions { seed, ..AdapterOptions::of_clicks() };
        let all = trained(&collection, &judged(&collection, None), &judgements)?;
        let shown = trained(&collection, &judged(&collection, Some(&pages)), &judgements)?;
        for eta in [0.0, 1.0, 2.0] {
            let sessions = people::search(&collection, &pages, &People { eta, ..people }, seed * 1000 + 7);
            let log = log(&collection, &sessions, people.fixed);
            let found =
                pairs_from_log(&log, &ClickOptions::default(), &|text, id| cosine(&collection, text, id));
            let corrected: Labels = found.pairs.iter().filter_map(label).collect();
            let clicked = as_they_are(&sessions);
            let is_right = |&&(q, d, _): &&(usize, u32, f32)| collection.judged[q].contains_key(&d);
            let right: Labels = clicked.iter().filter(is_right).copied().collect();
            let relevant = corrected.iter().filter(is_right).count();
            println!(
                "{seed:>4}  {eta:>3}  {all:>10.4}  {shown:>15.4}  {:>12.4}  {:>6.4}  {:>16.4}  {:>5}  {relevant:>8}  {:>13.2}",
                trained(&collection, &right, &clicks)?,
                trained(&collection, &clicked, &clicks)?,
                trained(&collection, &corrected, &clicks)?,
                corrected.len(),
                found.bias.eta
            );
        }
    }
    Ok(())
}

const USAGE: &str = "embdb-click-sim DATA MODEL CACHE SET [--noise P] [--searches N] [--shuffled P] [--randomize-below R] \
     [--first-seed N] [--seeds N] [--every N]";

fn flag(flags: &[String], name: &str, default: f64) -> Result<f64> {
    let Some(at) = flags.iter().position(|flag| flag == name) else { return Ok(default) };
    let value = flags.get(at + 1).and_then(|value| value.parse().ok());
    value.ok_or_else(|| Error::input(format!("{name} needs a number; {USAGE}")))
}

/// The best documents of some queries, by the encoder alone or mapped by an adapter.
fn ranked(collection: &Collection, queries: &[usize], adapter: Option<&[f32]>) -> Result<Vec<Vec<u32>>> {
    let numbers: Vec<u32> = (0..collection.ids.len() as u32).collect();
    let (dim, queries) = (collection.dim, collection.query_rows(queries));
    match adapter {
        None => rank_exact(&queries, &collection.documents, &numbers, dim, dim, K),
        Some(matrix) => {
            let documents = apply(matrix, &collection.documents, dim)?;
            rank_exact(&apply(matrix, &queries, dim)?, &documents, &numbers, dim, dim, K)
        }
    }
}

/// Mean NDCG@10 of the test queries.
fn measure(collection: &Collection, adapter: Option<&[f32]>) -> Result<f64> {
    let ranked = ranked(collection, &collection.test, adapter)?;
    let scores =
        ranked.iter().zip(&collection.test).map(|(ids, &query)| ndcg(ids, &collection.judged[query], K));
    Ok(scores.sum::<f64>() / collection.test.len().max(1) as f64)
}

/// NDCG@10 after training on labels. Texts are the numbers of queries and documents; their rows are known.
fn trained(collection: &Collection, labels: &Labels, options: &AdapterOptions) -> Result<f64> {
    let example = |&(query, document, weight): &(usize, u32, f32)| Example {
        texts: vec![query.to_string(), document.to_string()],
        keys: vec![query as u64, u64::from(document)],
        weight,
        ..Example::default()
    };
    let examples: Vec<Example> = labels.iter().map(example).collect();
    let loss = (LossKind::Ranking, LossOptions::default());
    let set = TrainingSet::new(Shape::Pairs, &examples, loss, options.seed)?;
    let dim = collection.dim;
    let mut rows = Vec::new();
    for (side, from) in set.sides().iter().zip([&collection.queries, &collection.documents]) {
        for number in side.iter().filter_map(|&text| set.texts.get(text)?.0.parse::<usize>().ok()) {
            rows.extend_from_slice(from.get(number * dim..(number + 1) * dim).unwrap_or_default());
        }
    }
    let ladder: Vec<usize> = [64, 128, 256].into_iter().filter(|&rung| rung < dim).chain([dim]).collect();
    let matrix =
        train_adapter(SideRows { rows: &rows, dim }, &set, &ladder, options, &Task::default())?.matrix;
    measure(collection, Some(&matrix))
}

/// The judgements of the training queries; with `pages` only those of documents that people were shown.
fn judged(collection: &Collection, pages: Option<&[Vec<u32>]>) -> Labels {
    let mut labels = Labels::new();
    for (at, &query) in collection.train.iter().enumerate() {
        let page = pages.map(|pages| &pages[at]);
        let known = collection.judged[query].keys().filter(|d| page.is_none_or(|page| page.contains(d)));
        labels.extend(known.map(|&document| (query, document, 1.0)));
    }
    labels.sort_unstable_by_key(|(query, document, _)| (*query, *document));
    labels
}

/// Every document that was clicked for a query, whatever its rank and however seldom.
fn as_they_are(sessions: &[Session]) -> Labels {
    let clicked =
        sessions.iter().flat_map(|s| s.shown.iter().zip(&s.clicked).map(move |(d, c)| (s.query, *d, *c)));
    let mut labels: Labels =
        clicked.filter(|(.., c)| *c).map(|(query, document, _)| (query, document, 1.0)).collect();
    labels.sort_unstable_by_key(|(query, document, _)| (*query, *document));
    labels.dedup_by_key(|(query, document, _)| (*query, *document));
    labels
}

/// The log that sessions leave. Texts begin with the number of their query.
fn log(collection: &Collection, sessions: &[Session], fixed: usize) -> Vec<LoggedQuery> {
    let entry = |(at, session): (usize, &Session)| {
        let time = 1_000_000 * (at as u64 + 1);
        let count = session.shown.len();
        let share = |rank| if rank < fixed { 1.0 } else { 1.0 / (count - fixed) as f32 };
        let clicked = session.shown.iter().zip(&session.clicked).filter(|(_, clicked)| **clicked);
        LoggedQuery {
            query_id: at.to_string(),
            text: format!("{} {}", session.query, collection.texts[session.query]),
            time,
            generation: 1,
            shown: session.shown.iter().map(u32::to_string).collect(),
            propensities: if session.shuffled { (0..count).map(share).collect() } else { Vec::new() },
            client: None,
            clicks: clicked.map(|(id, _)| Click { id: id.to_string(), grade: 1.0, time }).collect(),
        }
    };
    sessions.iter().enumerate().map(entry).collect()
}

/// Cosine of a query with a document, as the log names them.
fn cosine(collection: &Collection, text: &str, id: &str) -> Option<f64> {
    let row = |rows: &[f32], number: usize| -> Option<Vec<f64>> {
        let row = rows.get(number * collection.dim..(number + 1) * collection.dim)?;
        Some(row.iter().map(|&value| f64::from(value)).collect())
    };
    let query = row(&collection.queries, text.split(' ').next()?.parse().ok()?)?;
    let document = row(&collection.documents, id.parse().ok()?)?;
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    Some(dot(&query, &document) / (dot(&query, &query) * dot(&document, &document)).sqrt())
}

/// A pair by numbers.
fn label(pair: &embdb::trainer::Pair) -> Option<(usize, u32, f32)> {
    let query = pair.query.split(' ').next()?.parse().ok()?;
    let Target::Id(id) = &pair.positive else { return None };
    Some((query, id.parse().ok()?, pair.weight))
}
