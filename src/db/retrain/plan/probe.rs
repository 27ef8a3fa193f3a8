//! Short measurements: what adapters gain on a sample, and how long a run's work takes on these data.

use std::collections::HashSet;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64;

use super::super::Run;
use super::course::adapter_work;
use crate::db::columns::ColumnsBuilder;
use crate::db::graphs::{GRAPH_ROWS, build_params};
use crate::db::snapshot;
use crate::encoder::{Role, TrainOptions};
use crate::error::Result;
use crate::format::segment::DocumentRows;
use crate::index::build_graph;
use crate::trainer::adapter::apply;
use crate::trainer::{self, FullOptions, GateReport, Guard, HeldOut, Shape, Split};

/// Examples from which an adapter of the sample learns, and queries that judge it, at most …
const LEARNING: usize = 1200;
const JUDGING: usize = 300;
/// … as long as neither takes more operations than this: a few seconds.
const MOST_WORK: f64 = 5e10;
/// With so many seconds spent on it, the sample is left as it is.
const ENOUGH: f64 = 4.0;
/// Seconds for measuring how fast texts are encoded …
const ENCODING: f64 = 0.5;
/// … in parts of so many texts, and so many parts at most.
const PART: usize = 16;
const PARTS: usize = 8;
/// Seconds that the steps of a training that is measured should take.
const TRAINING: f64 = 1.5;
/// A step of training takes about as long as encoding its texts so often: forward and back, in f32.
const STEP: f64 = 6.0;
/// Texts of which the tokens are counted.
const COUNTED: usize = 512;
/// Rows of which columns and a graph are made.
const INDEXED: usize = 1024;

/// What the sample told.
pub(super) struct Sample {
    pub verdict: GateReport,
    /// Examples of the largest adapter.
    pub pairs: usize,
    /// Seconds that reading and encoding took until here: a run does the same.
    pub read: f64,
    pub encoded: f64,
    /// Seconds of an operation of training adapters, and of one of judging.
    pub training: f64,
    pub judging: f64,
    /// Seconds of resampling a query's gain.
    pub resampling: f64,
}

/// Seconds of encoding a query, and what a row of the corpus is made of.
pub(super) struct Encoding {
    pub query: f64,
    pub row: f64,
}

/// What training the encoder takes.
pub(super) struct Training {
    /// Examples.
    pub pairs: usize,
    /// Seconds of all steps.
    pub steps: f64,
    /// Seconds of passing texts forward before the steps and behind them.
    pub passes: f64,
    /// Seconds whatever the number of steps is.
    pub fixed: f64,
    /// Bytes held while it trains, and how many more these are than were held for the measurement.
    pub held_bytes: usize,
    pub grown_bytes: usize,
    /// Bytes of a saved state.
    pub state_bytes: usize,
    /// Bytes of the new model.
    pub file_bytes: usize,
}

/// What the vectors and graphs of a new generation take.
pub(super) struct Indexing {
    pub seconds: f64,
    pub stored_bytes: u64,
    pub graph_bytes: u64,
}

impl Run<'_> {
    /// Adapters from a part of the examples, judged by others.
    pub(super) fn sample(&mut self, split: &Split) -> Result<Sample> {
        let [read, encoded] = ["read", "encode"].map(|stage| self.spent.seconds(stage));
        let (shape, options) = (self.shape(), self.adapter_options());
        let learning = halved(LEARNING, |n| adapter_work(n, shape, &options, true));
        let judging = halved(JUDGING, |n| self.ranking(2 * n, shape.rungs));
        let folds = if self.material.shape.has_query() { self.folds() } else { vec![split.clone()] };
        let before = ["train", "judge"].map(|stage| self.spent.seconds(stage));
        let (start, mut all, mut pairs, mut work) = (Instant::now(), HeldOut::default(), 0, [0.0; 2]);
        // Where time decides, the last part is what people search for now.
        for fold in folds.iter().rev() {
            let train = thinned(&fold.train, learning, |n| self.group(n));
            let held_out = match self.searched.is_empty() {
                true => thinned(&fold.held_out, judging, |n| self.group(n)),
                false => thinned(&fold.held_out, judging, |n| n as u64),
            };
            self.read_searched(&held_out)?;
            let exam = self.exam(&held_out)?;
            let candidate = self.train_adapter(&train)?;
            let [judged] = self.compare(&candidate, [&exam], None)?;
            let queries =
                judged.rungs.first().map_or(0, |(_, paired)| paired.before.len()).max(judged.searched.len());
            work[0] += adapter_work(train.len(), shape, &options, options.alpha.is_none());
            work[1] += self.ranking(2 * queries, shape.rungs) + self.mapping();
            all.append(judged);
            pairs = train.len().max(pairs);
            if start.elapsed().as_secs_f64() > ENOUGH {
                break;
            }
        }
        let start = Instant::now();
        let verdict = self.decide(&all, &Guard::default());
        let resampling = start.elapsed().as_secs_f64() / verdict.queries.max(1) as f64;
        let after = ["train", "judge"].map(|stage| self.spent.seconds(stage));
        let [training, judging] = [0, 1].map(|n| (after[n] - before[n]) / work[n].max(1.0));
        Ok(Sample { verdict, pairs, read, encoded, training, judging, resampling })
    }

    /// What examples of one query have in common.
    fn group(&self, number: usize) -> u64 {
        let query = self.material.examples.get(number).filter(|_| self.material.shape.has_query());
        query.and_then(|example| example.keys.first()).copied().unwrap_or(number as u64)
    }

    /// How fast texts are encoded.
    pub(super) fn encoding(&self) -> Result<Encoding> {
        let all = self.material.examples.len();
        let queries = spread(all.min(PART * PARTS)).filter_map(|share| {
            let example = self.material.examples.get((share * all as f64) as usize)?;
            example.texts.first().map(|text| text.to_owned())
        });
        let rows = self.corpus.stored_rows();
        let passages: Result<Vec<String>> = spread(rows.min(PART * PARTS))
            .map(|share| self.corpus.passage(&self.snapshot, (share * rows as f64) as usize))
            .collect();
        Ok(Encoding {
            query: self.each(&queries.collect::<Vec<_>>(), Role::Query)?,
            row: self.each(&passages?, Role::Document)?,
        })
    }

    /// Seconds of encoding a text.
    fn each(&self, texts: &[String], role: Role) -> Result<f64> {
        let task = self.options.task.quiet();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let encode = |texts: &[&str]| match role {
            Role::Query => self.encoder.encode_queries(texts, &task),
            Role::Document => self.encoder.encode(texts, &task),
        };
        // The first pass makes room.
        encode(texts.get(..1).unwrap_or_default())?;
        let (start, mut done) = (Instant::now(), 0);
        for part in texts.chunks(PART) {
            encode(part)?;
            done += part.len();
            if start.elapsed().as_secs_f64() > ENCODING {
                break;
            }
        }
        Ok(start.elapsed().as_secs_f64() / done.max(1) as f64)
    }

    /// Trains a copy of the encoder for two steps, and counts what training it holds.
    pub(super) fn training(&self, split: &Split, encoding: &Encoding) -> Result<Training> {
        let options = self.full_options();
        let sides = self.shape().sides;
        let of_example = STEP * sides as f64 * encoding.row.max(encoding.query);
        let batch =
            ((TRAINING / 2.0 / of_example.max(f64::MIN_POSITIVE)) as usize).clamp(4, options.batch.max(4));
        let mut order = split.train.clone();
        // Texts of a class are to meet others of it.
        if self.material.shape == Shape::Classes {
            order.sort_by_key(|&n| self.material.examples.get(n).map_or(0, |example| example.class));
        } else {
            order = spread(order.len().min(2 * batch))
                .filter_map(|share| order.get((share * order.len() as f64) as usize).copied())
                .collect();
        }
        order.truncate(2 * batch);
        let set = self.training_set(&order)?;
        let few = FullOptions { batch, accumulate: 1, epochs: 1, ..options.clone() };
        let task = self.options.task.quiet();
        let start = Instant::now();
        let trained = trainer::train_full(&self.encoder, &set, &self.ladder, &few, &task)?;
        let taken = start.elapsed().as_secs_f64();
        let records = &trained.report.records;
        let stepped: f64 = records.iter().map(|record| record.seconds).sum();
        // The first step makes room; what follows has it.
        let last = records.last().map_or(0.0, |record| record.seconds / record.rows.max(1) as f64);
        let pairs = split.train.len();
        let steps = last * (pairs * options.epochs) as f64;
        // Forward is a third of a step; layers that do not learn go forward once.
        let layers = self.encoder.layers().max(1);
        let learning = options.layers.map_or(layers, |top| top.clamp(1, layers));
        let forward = last / 3.0 / sides as f64 * layers as f64 / learning as f64;
        let fixed = (taken - stepped - forward * set.texts.len() as f64).max(0.0);
        let texts = self.texts(&split.train);
        let (tokens, words) = self.tokens(&texts, options.limits.tokens)?;
        let learns =
            TrainOptions { top: options.layers, low_rank: options.low_rank, ..TrainOptions::default() };
        let copy = self.encoder.trainable(&learns)?;
        let states = match options.layers.is_some_and(|top| top < layers) {
            true => {
                ((texts.len() as f64 * tokens) as usize * self.encoder.dim() * 2).min(options.limits.bytes)
            }
            false => 0,
        };
        let state = copy.parameters().iter().filter(|parameter| parameter.learns()).map(|parameter| {
            // Of a table the rows of words that occur.
            match (&parameter.gradient, parameter.shape.as_slice()) {
                (crate::encoder::Gradient::Rows(rows), _) => words * rows.width(),
                _ => parameter.values.len(),
            }
        });
        let bytes = |batch: usize| copy.bytes((batch.min(pairs) as f64 * sides as f64 * tokens) as usize);
        let held = bytes(options.batch);
        Ok(Training {
            pairs,
            steps,
            passes: forward * texts.len() as f64,
            fixed,
            held_bytes: held + states,
            grown_bytes: held.saturating_sub(bytes(batch)) + states,
            state_bytes: 3 * size_of::<f32>() * state.sum::<usize>(),
            file_bytes: trained.files.total_bytes() as usize,
        })
    }

    /// Distinct texts of examples.
    fn texts(&self, numbers: &[usize]) -> Vec<&str> {
        let examples = numbers.iter().filter_map(|&number| self.material.examples.get(number));
        let texts: HashSet<&str> = examples.flat_map(|example| &example.texts).map(String::as_str).collect();
        let mut texts: Vec<&str> = texts.into_iter().collect();
        texts.sort_unstable();
        texts
    }

    /// Tokens of a text of these, cut to `most`, and how many different ones occur in all of them.
    fn tokens(&self, texts: &[&str], most: usize) -> Result<(f64, usize)> {
        let some: Vec<&str> = spread(texts.len().min(COUNTED))
            .filter_map(|share| texts.get((share * texts.len() as f64) as usize).copied())
            .collect();
        let ids = self.encoder.tokenizer().encode_batch(&some)?;
        let ids: Vec<&[u32]> = ids.iter().map(|ids| ids.get(..most).unwrap_or(ids)).collect();
        let tokens: usize = ids.iter().map(|ids| ids.len()).sum();
        let different = ids.iter().copied().flatten().collect::<HashSet<_>>().len();
        let each = tokens as f64 / ids.len().max(1) as f64;
        Ok((each, words_of_all(different, texts.len() as f64 / ids.len().max(1) as f64)))
    }

    /// Makes columns and a graph of some rows.
    pub(super) fn indexing(&self) -> Result<Indexing> {
        let (rows, dim) = (self.corpus.stored_rows(), self.encoder.dim());
        let generation = self.draft(&self.encoder);
        let shape = snapshot::shape(&self.snapshot.manifest, &generation);
        let count = rows.min(INDEXED);
        let numbers = (0..count).map(|n| n * rows / count.max(1));
        let some: Vec<f32> = numbers.flat_map(|row| self.corpus.row(row)).copied().collect();
        let start = Instant::now();
        let mapped = apply(&vec![0.0; dim * dim], &some, dim)?;
        let mut columns = ColumnsBuilder::new(shape.clone());
        for values in some.chunks_exact(dim) {
            let vectors = shape.stored(values.to_vec());
            columns.push(&DocumentRows {
                generation: generation.id,
                dim: dim as u32,
                spans: vec![[0; 2]],
                vectors,
            })?;
        }
        let columns = columns.finish();
        drop(mapped);
        let share = rows as f64 / count.max(1) as f64;
        let mut seconds = start.elapsed().as_secs_f64() * share;
        let codes = crate::index::Codes { high: &columns.high, low: &columns.low };
        let numbers =
            columns.scales.len() + columns.norms.len() + columns.full.len() + 2 * columns.spans.len();
        let stored = columns.high.len() + columns.low.len() + numbers * size_of::<f32>();
        let (parts, mut graph_bytes) = (self.rows_of_parts(), 0.0);
        if count > 1 && parts.iter().any(|&rows| rows >= GRAPH_ROWS) {
            let block =
                snapshot::block(&shape, count, codes, &columns.scales, &columns.norms, &columns.full)?;
            let params = build_params(&self.snapshot.manifest);
            let start = Instant::now();
            let graph = build_graph(&block, &params, &self.options.task.quiet(), self.inner.options.threads)?;
            let (taken, [high, low]) = (start.elapsed().as_secs_f64(), block.cut_head(graph.sight));
            let bytes = graph.encode().len() + high.len() + low.len();
            for rows in parts.into_iter().filter(|&rows| rows >= GRAPH_ROWS) {
                let (share, log) = (rows as f64 / count as f64, (rows as f64).ln() / (count as f64).ln());
                seconds += taken * share * log;
                graph_bytes += bytes as f64 * share;
            }
        }
        Ok(Indexing {
            seconds,
            stored_bytes: (stored as f64 * share) as u64,
            graph_bytes: graph_bytes as u64,
        })
    }

    /// Rows of each part of the database.
    fn rows_of_parts(&self) -> Vec<usize> {
        let mut parts = vec![0; self.snapshot.parts.len()];
        let numbers = self.corpus.document_of.iter().take(self.corpus.stored_rows());
        for (place, _) in numbers.filter_map(|&number| self.corpus.documents.get(number as usize)) {
            if let Some(rows) = parts.get_mut(place.part as usize) {
                *rows += 1;
            }
        }
        parts
    }
}

/// The number, halved until it is little enough work; but not below 40.
fn halved(mut number: usize, work: impl Fn(usize) -> f64) -> usize {
    while number > 80 && work(number) > MOST_WORK {
        number /= 2;
    }
    number
}

/// About `most` of some numbers; those of one group stay together.
fn thinned(numbers: &[usize], most: usize, group: impl Fn(usize) -> u64) -> Vec<usize> {
    let share = most as f64 / numbers.len().max(1) as f64;
    let stays = |&number: &usize| {
        let hash = xxh3_64(&group(number).to_le_bytes()) >> 32;
        (hash as f64) < share * f64::from(u32::MAX)
    };
    numbers.iter().copied().filter(|number| share >= 1.0 || stays(number)).collect()
}

/// So many places in 0..1, of which the first lie as evenly as all: by the golden ratio.
fn spread(count: usize) -> impl Iterator<Item = f64> {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    (0..count).map(|n| (n as f64 * GOLDEN).fract())
}

/// Different words of `share` times as many texts as those in which `some` occur: about with the root (Heaps 1978).
fn words_of_all(some: usize, share: f64) -> usize {
    (some as f64 * share.max(1.0).sqrt()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_keeps_groups_together_and_about_so_many() {
        let numbers: Vec<usize> = (0..10_000).collect();
        let some = thinned(&numbers, 1000, |n| n as u64 / 4);
        assert!((800..1200).contains(&some.len()), "{}", some.len());
        let groups: HashSet<usize> = some.iter().map(|n| n / 4).collect();
        assert_eq!(some.len(), 4 * groups.len());
        assert_eq!(thinned(&numbers[..100], 100, |n| n as u64).len(), 100);
        assert!(thinned(&[], 10, |n| n as u64).is_empty());
    }

    #[test]
    fn samples_shrink_with_the_work_and_places_are_spread() {
        assert_eq!(halved(1200, |n| n as f64), 1200);
        assert_eq!(halved(1200, |n| n as f64 * 1e8), 300);
        assert_eq!(halved(1200, |_| f64::INFINITY), 75);
        let mut places: Vec<f64> = spread(100).collect();
        assert!(places.iter().all(|place| (0.0..1.0).contains(place)));
        places.sort_by(f64::total_cmp);
        assert!(places.windows(2).all(|two| two[1] - two[0] < 0.03));
        assert_eq!((words_of_all(500, 4.0), words_of_all(500, 0.1)), (1000, 500));
    }
}
