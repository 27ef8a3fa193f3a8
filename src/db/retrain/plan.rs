//! What a run would do, told without doing it.

use super::{LEAST_PAIRS, MOST_DOCUMENTS, Method, Run};

impl Run<'_> {
    /// The steps of the run, given how many examples train and how many queries judge.
    pub(super) fn plan(&self, train: usize, held_out: usize) -> String {
        let documents = self.corpus.documents.len();
        let adapter = format!(
            "plan: train a linear adapter on {train} pairs, judge it on {held_out} held-out queries, and map the stored \
             vectors of {documents} documents; nothing is encoded again"
        );
        let layers = match self.layers() {
            Some(layers) => format!("{layers} upper layers of the encoder"),
            None => "all weights of the encoder".into(),
        };
        match self.options.method {
            Method::Best if train >= LEAST_PAIRS && documents as u64 <= MOST_DOCUMENTS => format!(
                "{adapter}; if that is better, train {layers} as well, encode the documents again, and publish the best"
            ),
            Method::Best | Method::Adapter => adapter,
            Method::Lora => format!(
                "plan: train matrices of the encoder at rank {} on {train} pairs, judge them on {held_out} held-out queries, \
                 and encode {documents} documents again",
                self.options.low_rank.rank
            ),
            Method::Full => format!(
                "plan: train {layers} on {train} pairs, judge them on {held_out} held-out queries, and encode \
                 {documents} documents again"
            ),
        }
    }

    /// How many upper layers are trained; all weights if not given.
    pub(super) fn layers(&self) -> Option<usize> {
        let third = || self.encoder.layers().div_ceil(3);
        match self.options.method {
            Method::Full | Method::Lora => self.options.layers,
            Method::Best | Method::Adapter => Some(self.options.layers.unwrap_or_else(third)),
        }
    }
}
