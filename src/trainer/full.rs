//! Full fine-tuning: every weight of the encoder learns from the pairs.
//!
//! One step encodes a batch of queries and one of positives with their graphs and lowers
//! [`RankingLoss`]. A step takes seconds, so the run reports each one, can be cancelled between them and
//! keeps to a time budget.

use std::time::Duration;

use candle_core::{Tensor, Var};

use super::fit::{Schedule, TrainReport, fit};
use super::loss::{Batch, KnownPositives, RankingLoss, tensor_error};
use super::optimiser::AdamOptions;
use super::split::query_key;
use crate::encoder::{Encoder, ModelFiles, TrainableEncoder};
use crate::error::{Error, Result};
use crate::options::Task;

/// How the encoder is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FullOptions {
    /// Passes over the pairs.
    pub epochs: usize,
    /// Pairs in a batch, each the negatives of the others.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Weight decay of everything but biases and normalisations.
    pub weight_decay: f64,
    /// Seed of the order of pairs.
    pub seed: u64,
    /// Stop after this time, with the learning rate lowered towards it.
    pub time_budget: Option<Duration>,
}

impl Default for FullOptions {
    fn default() -> Self {
        Self { epochs: 1, batch: 32, lr: 2e-5, weight_decay: 0.01, seed: 0, time_budget: None }
    }
}

/// A pair of texts.
#[derive(Debug, Clone, PartialEq)]
pub struct TextPair {
    /// Text of the query.
    pub query: String,
    /// Text that it should find.
    pub positive: String,
    /// Identity of the positive ([`target_key`](super::split::target_key)).
    pub key: u64,
    /// Share in the loss.
    pub weight: f32,
}

/// Fine-tunes a copy of the encoder. Returns the files of the new model, and what was done.
///
/// # Errors
/// [`Error::Input`] with fewer than 2 pairs or if training diverges; [`Error::Cancelled`].
pub fn train_full(
    encoder: &Encoder,
    pairs: &[TextPair],
    ladder: &[usize],
    options: &FullOptions,
    task: &Task,
) -> Result<(ModelFiles, TrainReport)> {
    // A thread of its own, because flushing denormals is a setting of the thread.
    let run = || {
        crate::kernel::flush_denormals();
        let model = encoder.trainable()?;
        let report = train(&model, pairs, ladder, options, task)?;
        Ok((model.to_files()?, report))
    };
    std::thread::scope(|scope| {
        scope.spawn(run).join().unwrap_or_else(|_| Err(Error::input("training: its thread stopped")))
    })
}

/// A model whose variables can be trained.
trait Trainable {
    /// All variables with their names.
    fn variables(&self) -> Vec<(String, Var)>;
    /// Embeddings of texts, texts × dim, with their graph.
    fn embed(&self, texts: &[&str]) -> Result<Tensor>;
}

impl Trainable for TrainableEncoder {
    fn variables(&self) -> Vec<(String, Var)> {
        self.variables()
    }

    fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        self.embed(texts)
    }
}

fn train(
    model: &impl Trainable,
    pairs: &[TextPair],
    ladder: &[usize],
    options: &FullOptions,
    task: &Task,
) -> Result<TrainReport> {
    let query_keys: Vec<u64> = pairs.iter().map(|pair| query_key(&pair.query)).collect();
    let positive_keys: Vec<u64> = pairs.iter().map(|pair| pair.key).collect();
    let known = KnownPositives::new(&query_keys, &positive_keys);
    let loss = RankingLoss::new(ladder);
    let adam = AdamOptions { rate: options.lr, weight_decay: options.weight_decay, ..AdamOptions::default() };
    let schedule = Schedule {
        rows: pairs.len(),
        epochs: options.epochs,
        batch: options.batch,
        seed: options.seed,
        time_budget: options.time_budget,
    };
    fit(model.variables(), adam, &schedule, task, |rows| {
        let batch: Vec<&TextPair> = rows.iter().filter_map(|&row| pairs.get(row)).collect();
        let queries: Vec<&str> = batch.iter().map(|pair| pair.query.as_str()).collect();
        let positives: Vec<&str> = batch.iter().map(|pair| pair.positive.as_str()).collect();
        let keys = |of: &[u64]| rows.iter().filter_map(|&row| of.get(row).copied()).collect::<Vec<_>>();
        let mask = known.mask(&keys(&query_keys), &keys(&positive_keys));
        let weights: Vec<f32> = batch.iter().map(|pair| pair.weight).collect();
        let (queries, positives) = (model.embed(&queries)?, model.embed(&positives)?);
        let values = |of: &Tensor| of.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(tensor_error);
        let slope = loss.of(&Batch {
            queries: &values(&queries)?,
            positives: &values(&positives)?,
            dim: queries.dims().last().copied().unwrap_or(0),
            mask: &mask,
            weights: &weights,
        })?;
        Ok((slope.value, slope.carrier(&queries, &positives)?))
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    /// A static table: a text is the mean of its letters' rows.
    struct Letters(Var);

    impl Trainable for Letters {
        fn variables(&self) -> Vec<(String, Var)> {
            vec![("letters.weight".into(), self.0.clone())]
        }

        fn embed(&self, texts: &[&str]) -> Result<Tensor> {
            let counts: Vec<f32> = texts
                .iter()
                .flat_map(|text| (b'a'..=b'z').map(|c| text.bytes().filter(|b| *b == c).count() as f32))
                .collect();
            Tensor::from_vec(counts, (texts.len(), 26), &Device::Cpu)
                .and_then(|counts| counts.matmul(self.0.as_tensor()))
                .map_err(tensor_error)
        }
    }

    fn letters() -> Letters {
        let mut rng = super::super::rng::Rng::new(1);
        let values: Vec<f32> = (0..26 * 8).map(|_| rng.below(2000) as f32 / 1000.0 - 1.0).collect();
        Letters(Var::from_tensor(&Tensor::from_vec(values, (26, 8), &Device::Cpu).unwrap()).unwrap())
    }

    /// Each of the first 13 letters should find the one 13 places on.
    fn pairs() -> Vec<TextPair> {
        let letter = |at: u8| char::from(b'a' + at).to_string();
        (0..13)
            .map(|i| TextPair { query: letter(i), positive: letter(i + 13), key: u64::from(i), weight: 1.0 })
            .collect()
    }

    #[test]
    fn one_batch_is_overfitted() {
        let options = FullOptions { epochs: 200, batch: 13, lr: 0.05, ..FullOptions::default() };
        let report = train(&letters(), &pairs(), &[4, 8], &options, &Task::default()).unwrap();
        assert_eq!((report.pairs, report.steps), (13, 200));
        assert!(report.loss_last < 0.1 && report.loss_first > 1.0, "{report:?}");
    }

    #[test]
    fn one_seed_gives_one_model() {
        let run = |seed| {
            let model = letters();
            let options = FullOptions { epochs: 3, batch: 4, lr: 0.05, seed, ..FullOptions::default() };
            train(&model, &pairs(), &[8], &options, &Task::default()).unwrap();
            model.0.as_tensor().to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn false_shapes_are_input_errors() {
        for (pairs, ladder, epochs) in [(vec![], vec![8], 1), (pairs(), vec![9], 1), (pairs(), vec![8], 0)] {
            let options = FullOptions { epochs, ..FullOptions::default() };
            let error = train(&letters(), &pairs, &ladder, &options, &Task::default()).unwrap_err();
            assert_eq!(error.exit_code(), 1, "{error}");
        }
    }
    #[test]
    fn an_encoder_learns_and_its_files_load_again() {
        use crate::types::Precision;
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert");
        let encoder = Encoder::from_files(ModelFiles::read_dir(folder).unwrap(), Precision::F32).unwrap();
        let words = ["red", "green", "blue", "money", "water", "house", "music", "doctor"];
        let pairs: Vec<TextPair> = words
            .iter()
            .zip(words.iter().rev())
            .map(|(query, positive)| TextPair {
                query: (*query).into(),
                positive: format!("the {positive}"),
                key: super::super::split::target_key(positive),
                weight: 1.0,
            })
            .collect();
        let options = FullOptions { epochs: 30, batch: 8, lr: 3e-3, ..FullOptions::default() };
        let ladder = [encoder.dim()];
        let (files, report) = train_full(&encoder, &pairs, &ladder, &options, &Task::default()).unwrap();
        assert!(report.loss_last < 0.5 * report.loss_first, "{report:?}");
        let trained = Encoder::from_files(files, Precision::F32).unwrap();
        assert_ne!(trained.model_id(), encoder.model_id());
        assert!(trained.encode(&words, &Task::default()).unwrap().iter().all(|v| v.is_finite()));
    }
}
