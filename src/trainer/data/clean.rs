//! Which lines can be learnt from.
//!
//! - Repeated lines are dropped.
//! - *Contradictions.* A text with two labels is dropped with both, and so is a pair of texts labelled 0 and 1, for one of
//!   them is wrong and nobody can say which. A pair with different scores gets their mean, for raters differ. A negative
//!   that elsewhere is the same query's positive is no negative.
//! - A query that is the same text as its positive teaches nothing and is dropped.
//! - Scores beyond 0..=1 are brought into that range by the largest (and smallest, if it is below zero) of the file; a
//!   teacher's margins beyond -1..=1, which cosines cannot reach, by the largest.
//!
//! What is left must hold a difference: a file in which all positives, labels or scores are the same is refused.

use std::collections::{HashMap, HashSet};

use super::{Data, Record, Shape, Target};
use crate::error::{Error, Result};

/// A text or an id, known by its hash, for finding repetitions without keeping every text twice.
type Key = [u8; 16];

fn key(target: &Target) -> Key {
    let mut hasher = blake3::Hasher::new();
    match target {
        Target::Text(text) => hasher.update(b"t").update(text.as_bytes()),
        Target::Id(id) => hasher.update(b"i").update(id.as_bytes()),
        Target::Passage { id, text } => {
            hasher.update(b"p").update(&id.len().to_le_bytes()).update(id.as_bytes()).update(text.as_bytes())
        }
    };
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

fn keys(record: &Record) -> Vec<Key> {
    record.texts.iter().map(key).collect()
}

/// Leaves out what teaches nothing, and tells. `name`: the file's.
pub(super) fn clean(mut data: Data, name: &str) -> Result<Data> {
    match data.shape {
        Shape::Pairs => {}
        Shape::Triplets => drop_contradicted_negatives(&mut data),
        Shape::Scored => {
            join_scores(&mut data);
            scale_scores(&mut data);
        }
        Shape::Classes => drop_ambiguous(&mut data),
    }
    if data.shape == Shape::Triplets {
        scale_margins(&mut data);
    }
    if data.shape.has_query() {
        drop_trivial(&mut data);
    }
    drop_repeated(&mut data);
    data.report.records = data.records.len();
    check_differences(&data, name)?;
    Ok(data)
}

fn drop_repeated(data: &mut Data) {
    let mut seen = HashSet::new();
    let before = data.records.len();
    data.records.retain(|record| seen.insert(keys(record)));
    let dropped = before - data.records.len();
    data.report.duplicates += dropped;
    if data.report.duplicates > 0 {
        data.report.notes.push(format!("{} repeated {} were dropped", data.report.duplicates, data.shape));
    }
}

fn drop_trivial(data: &mut Data) {
    let before = data.records.len();
    let trivial = |record: &Record| match record.texts.as_slice() {
        [Target::Text(query), Target::Text(positive), ..] => query.trim() == positive.trim(),
        _ => false,
    };
    data.records.retain(|record| !trivial(record));
    let dropped = before - data.records.len();
    data.report.empty += dropped;
    if dropped > 0 {
        let what = format!("{dropped} {} were dropped whose query is the positive itself", data.shape);
        data.report.notes.push(what);
    }
}

/// Takes out the negatives that are positives of the same query, here or on another line.
fn drop_contradicted_negatives(data: &mut Data) {
    let mut positives: HashSet<(Key, Key)> = HashSet::new();
    for record in &data.records {
        if let [query, positive, ..] = record.texts.as_slice() {
            positives.insert((key(query), key(positive)));
        }
    }
    let (mut negatives, mut lines) = (0, 0);
    data.records.retain_mut(|record| {
        let Some((query, rest)) = record.texts.split_first() else { return false };
        let query = key(query);
        let wrong: Vec<bool> = rest
            .iter()
            .enumerate()
            .map(|(at, text)| at > 0 && positives.contains(&(query, key(text))))
            .collect();
        let found = wrong.iter().filter(|&&wrong| wrong).count();
        if found == 0 {
            return true;
        }
        negatives += found;
        lines += 1;
        // Margins belong to the negatives, scores to the positive as well.
        let skipped = rest.len() - record.targets.len().min(rest.len());
        let sound = |at: usize| !wrong.get(at).copied().unwrap_or(false);
        record.targets = keep(std::mem::take(&mut record.targets), |at| sound(at + skipped));
        record.texts = keep(std::mem::take(&mut record.texts), |at| at == 0 || sound(at - 1));
        record.texts.len() > 2
    });
    data.report.contradictions += lines;
    if negatives > 0 {
        data.report.notes.push(format!(
            "{negatives} negatives in {lines} triplets were dropped, for the same query has them as positives"
        ));
    }
}

fn keep<T>(from: Vec<T>, kept: impl Fn(usize) -> bool) -> Vec<T> {
    from.into_iter().enumerate().filter(|(at, _)| kept(*at)).map(|(_, value)| value).collect()
}

/// Drops texts that have several labels.
fn drop_ambiguous(data: &mut Data) {
    let mut classes: HashMap<Key, Option<u32>> = HashMap::new();
    for record in &data.records {
        for key in keys(record) {
            let class = classes.entry(key).or_insert(Some(record.class));
            if *class != Some(record.class) {
                *class = None;
            }
        }
    }
    let before = data.records.len();
    data.records
        .retain(|record| keys(record).iter().all(|key| classes.get(key).is_some_and(Option::is_some)));
    let dropped = before - data.records.len();
    data.report.contradictions += dropped;
    if dropped > 0 {
        let texts = classes.values().filter(|class| class.is_none()).count();
        let what = format!("{dropped} lines were dropped: {texts} texts stand there with several labels");
        data.report.notes.push(what);
    }
}

/// The same two texts, in either order, with different scores: labels are dropped, scores averaged.
fn join_scores(data: &mut Data) {
    let labels = data.records.iter().flat_map(|record| &record.targets).all(|&s| s == 0.0 || s == 1.0);
    let pair = |record: &Record| {
        let mut keys = keys(record);
        keys.sort_unstable();
        keys
    };
    let mut scores: HashMap<Vec<Key>, Vec<f32>> = HashMap::new();
    for record in &data.records {
        scores.entry(pair(record)).or_default().extend(&record.targets);
    }
    let differ = |scores: &[f32]| scores.iter().any(|score| Some(score) != scores.first());
    let (mut seen, mut pairs, mut lines, mut repeated) = (HashSet::new(), 0, 0, 0);
    data.records.retain_mut(|record| {
        let pair = pair(record);
        let Some(all) = scores.get(&pair) else { return false };
        let first = seen.insert(pair);
        if differ(all) {
            lines += 1;
            pairs += usize::from(first);
            let mean = all.iter().map(|&s| f64::from(s)).sum::<f64>() / all.len() as f64;
            record.targets = vec![mean as f32];
            return first && !labels;
        }
        repeated += usize::from(!first);
        first
    });
    data.report.duplicates += repeated;
    data.report.contradictions += lines;
    if pairs > 0 {
        let what =
            if labels { "labelled both 0 and 1 were dropped" } else { "scored differently got the mean" };
        data.report.notes.push(format!("{pairs} pairs of texts ({lines} lines) {what}"));
    }
}

fn scale_scores(data: &mut Data) {
    let scores = || data.records.iter().flat_map(|record| &record.targets).copied();
    let (least, most) = (scores().fold(0.0, f32::min), scores().fold(0.0, f32::max));
    if least >= 0.0 && most <= 1.0 {
        return;
    }
    let range = f64::from(most) - f64::from(least);
    for score in data.records.iter_mut().flat_map(|record| &mut record.targets) {
        *score = ((f64::from(*score) - f64::from(least)) / range) as f32;
    }
    data.report.notes.push(format!("scores from {least} to {most} were brought to 0 to 1"));
}

fn scale_margins(data: &mut Data) {
    let is_margin = |record: &&Record| record.targets.len() + 2 == record.texts.len();
    let margins = data.records.iter().filter(is_margin).flat_map(|record| &record.targets);
    let most = margins.fold(0.0f32, |most, margin| most.max(margin.abs()));
    if most <= 1.0 {
        return;
    }
    for record in data.records.iter_mut().filter(|record| is_margin(&&**record)) {
        record.targets.iter_mut().for_each(|margin| *margin /= most);
    }
    data.report.notes.push(format!("margins of up to {most} were divided by it, as cosines lie within 1"));
}

/// Refuses data in which everything is the same.
fn check_differences(data: &Data, name: &str) -> Result<()> {
    let n = data.records.len();
    let (Some(first), Some(last)) = (data.records.first(), data.records.last()) else {
        let report = &data.report;
        let what = format!(
            "{name}: nothing is left of its {} lines: {} contradict each other, {} teach nothing",
            report.lines, report.contradictions, report.empty
        );
        return Err(Error::Input(what));
    };
    let all_have = |of: fn(&Record) -> Option<Key>| {
        let wanted = of(first);
        data.records.iter().all(|record| of(record) == wanted)
    };
    let same = match data.shape {
        _ if n < 2 => None,
        Shape::Pairs if all_have(|record| record.texts.first().map(key)) => Some("have the same query"),
        Shape::Pairs if all_have(|record| record.texts.get(1).map(key)) => Some("have the same positive"),
        Shape::Scored if data.records.iter().all(|record| record.targets == first.targets) => {
            Some("have the same score")
        }
        Shape::Classes if data.records.iter().all(|record| record.class == first.class) => {
            Some("have the same label")
        }
        Shape::Classes
            if data.records.iter().map(|record| record.class).collect::<HashSet<_>>().len() == n =>
        {
            Some("have a label of their own")
        }
        _ => None,
    };
    let Some(same) = same else { return Ok(()) };
    let (shape, first, last) = (data.shape, first.line, last.line);
    Err(Error::Input(format!(
        "{name}: all {n} {shape} (lines {first} to {last}) {same}: there is nothing to tell apart"
    )))
}
