//! What a run would do, gain and cost, told without doing it: nothing is published, and nothing is written.
//!
//! Times come from short measurements on the data themselves ([`probe`]), multiplied by how often a run does the same
//! ([`course`]); memory and disk from the sizes of what is held and written ([`sizes`]). The gain is that of adapters that
//! learn from a sample of the examples, each judged by queries that it has not seen, as the gate judges; an encoder that
//! learns is followed by an adapter, so that for it this is the least to expect.

mod course;
mod probe;
mod sizes;

use std::fmt;

use serde::Serialize;

use self::course::Course;
use super::spent::peak_bytes;
use super::{LEAST_PAIRS, MOST_DOCUMENTS, Method, Run};
use crate::error::Result;
use crate::trainer::Split;

/// What a run would gain and cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// How it would learn.
    pub method: Method,
    /// What an adapter gains by a sample, in the gate's measure; none if no query of the sample could judge.
    pub gain: Option<f64>,
    /// 95 % interval of that.
    pub ci95: Option<[f64; 2]>,
    /// Queries of the sample that judged.
    pub sample_queries: usize,
    /// Examples from which each adapter of the sample learnt: more of them teach more.
    pub sample_pairs: usize,
    /// Wall time of a run that the gate passes.
    pub seconds: PlannedSeconds,
    /// The process's memory at its peak.
    pub memory_bytes: u64,
    /// Bytes on disk beside those of today, at the most at once; some are given back when the run ends.
    pub disk_bytes: u64,
    /// Examples that train.
    pub pairs: usize,
    /// Queries that judge.
    pub held_out_queries: usize,
    /// Documents.
    pub documents: u64,
}

/// Times of a run's stages, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct PlannedSeconds {
    /// Reading documents and examples.
    pub read: f64,
    /// Vectors of queries, and of documents if the encoder learns.
    pub encode: f64,
    /// Training.
    pub train: f64,
    /// Ranking what judges.
    pub judge: f64,
    /// Vectors and graphs of the new generation.
    pub reindex: f64,
    /// All of it.
    pub total: f64,
}

impl PlannedSeconds {
    /// With the total.
    fn summed(self) -> Self {
        Self { total: self.read + self.encode + self.train + self.judge + self.reindex, ..self }
    }
}

impl fmt::Display for Plan {
    /// Cost and gain in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [memory, disk] = [self.memory_bytes, self.disk_bytes].map(megabytes);
        write!(f, "about {}, {memory} of memory, {disk} of disk; ", time(self.seconds.total))?;
        let Some([low, high]) = self.ci95 else {
            return write!(f, "no query of a sample could tell the gain");
        };
        let least = if self.method.is_linear() { "gain" } else { "gain of the adapter alone" };
        write!(
            f,
            "{least} {low:+.3} to {high:+.3} by a sample of {} queries and {} pairs",
            self.sample_queries, self.sample_pairs
        )
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "1 s".into(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn megabytes(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        mb if mb < 10.0 => format!("{mb:.1} MB"),
        mb => format!("{mb:.0} MB"),
    }
}

impl Run<'_> {
    /// The prediction.
    pub(super) fn plan(&mut self, split: &Split) -> Result<Plan> {
        let sample = self.sample(split)?;
        let course = Course::of(self, split);
        let encoding = self.encoding()?;
        let training = if course.encoder { Some(self.training(split, &encoding)?) } else { None };
        let indexing = self.indexing()?;
        let seconds = self.predicted(&course, &sample, &encoding, training.as_ref(), &indexing);
        let peak = peak_bytes().unwrap_or_else(|| self.held_bytes(training.as_ref()));
        let judged = sample.verdict.queries > 0 && sample.verdict.gain.is_finite();
        Ok(Plan {
            method: self.options.method,
            gain: judged.then_some(sample.verdict.gain),
            ci95: judged.then_some(sample.verdict.ci95),
            sample_queries: sample.verdict.queries,
            sample_pairs: sample.pairs,
            memory_bytes: peak + self.memory(&course, training.as_ref(), &indexing),
            disk_bytes: self.disk(&seconds, training.as_ref(), &indexing)?,
            seconds,
            pairs: split.train.len(),
            held_out_queries: split.held_out_queries,
            documents: self.corpus.documents.len() as u64,
        })
    }

    /// The steps of the run.
    pub(super) fn steps(&self, split: &Split) -> String {
        let (train, held_out) = (split.train.len(), split.held_out_queries);
        let documents = self.corpus.documents.len();
        let adapter = format!(
            "train a linear adapter on {train} pairs, judge it on {held_out} held-out queries, and map the stored \
             vectors of {documents} documents; nothing is encoded again"
        );
        let layers = match self.layers() {
            Some(layers) => format!("{layers} upper layers of the encoder"),
            None => "all weights of the encoder".into(),
        };
        match self.options.method {
            Method::Best
                if self.tries_encoder() && train >= LEAST_PAIRS && documents as u64 <= MOST_DOCUMENTS =>
            {
                format!(
                    "{adapter}; if that is better, train {layers} as well, encode the documents again, and publish the best"
                )
            }
            Method::Best | Method::Adapter => adapter,
            Method::QueryAdapter => format!(
                "train a linear map of queries on {train} pairs and judge it on {held_out} held-out queries; the stored \
                 vectors of {documents} documents stay what they are"
            ),
            Method::Lora => format!(
                "train matrices of the encoder at rank {} on {train} pairs, judge them on {held_out} held-out queries, \
                 and encode {documents} documents again",
                self.options.low_rank.rank
            ),
            Method::Full => format!(
                "train {layers} on {train} pairs, judge them on {held_out} held-out queries, and encode \
                 {documents} documents again"
            ),
        }
    }

    /// How many upper layers are trained; all weights if not given.
    pub(super) fn layers(&self) -> Option<usize> {
        let third = || self.encoder.layers().div_ceil(3);
        match self.options.method {
            Method::Full | Method::Lora => self.options.layers,
            Method::Best | Method::Adapter | Method::QueryAdapter => {
                Some(self.options.layers.unwrap_or_else(third))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_tells_cost_and_gain() {
        let plan = Plan {
            method: Method::Adapter,
            gain: Some(0.035),
            ci95: Some([0.02, 0.05]),
            sample_queries: 300,
            sample_pairs: 800,
            seconds: PlannedSeconds { encode: 30.0, train: 9.6, ..PlannedSeconds::default() }.summed(),
            memory_bytes: 900_000_000,
            disk_bytes: 4_250_000,
            pairs: 1000,
            held_out_queries: 150,
            documents: 5000,
        };
        let told = "about 40 s, 900 MB of memory, 4.2 MB of disk; gain +0.020 to +0.050 by a sample of 300 queries and 800 pairs";
        assert_eq!(plan.to_string(), told);
        let full = Plan { method: Method::Full, ..plan.clone() };
        assert!(full.to_string().contains("gain of the adapter alone +0.020"));
        let blind = Plan { gain: None, ci95: None, ..plan };
        assert!(blind.to_string().ends_with("no query of a sample could tell the gain"));
        assert_eq!([0.2, 119.0, 3600.0, 9000.0].map(time), ["1 s", "119 s", "60 min", "2.5 h"]);
    }
}
