//! What learns, as the loop of training sees it: texts known by number go in, embeddings come out, and derivatives go back.

use crate::encoder::Parameters;
use crate::error::Result;

/// A model whose parameters learn.
///
/// Gradients are explicit: [`forward`](Self::forward) keeps on a tape what [`backward`](Self::backward) needs. The
/// embeddings of texts do not depend on the texts embedded with them.
pub(crate) trait Model {
    /// What a way back needs.
    type Tape;

    /// Dimensions of embeddings.
    fn dim(&self) -> usize;

    /// Embeddings of texts, texts × dim, of any norm.
    fn embed(&self, texts: &[usize]) -> Result<Vec<f32>>;

    /// The same with a tape.
    fn forward(&self, texts: &[usize]) -> Result<(Vec<f32>, Self::Tape)>;

    /// Adds to the parameters' gradients what `slope`, the derivative of the loss by each value of the embeddings
    /// (texts × dim), makes of them.
    fn backward(&mut self, tape: Self::Tape, slope: &[f32]) -> Result<()>;

    /// The parameters with their gradients.
    fn parameters(&mut self) -> &mut Parameters;

    /// Called when the parameters' values have changed.
    fn changed(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod testing {
    //! The smallest model: a table of words, of which a text is the sum.

    use super::*;
    use crate::encoder::{Gradient, Parameter};
    use crate::trainer::rng::Rng;

    /// A table, and the words of each text.
    pub(in crate::trainer) struct Sums {
        pub(in crate::trainer) parameters: Parameters,
        texts: Vec<Vec<usize>>,
        dim: usize,
    }

    impl Sums {
        /// A table of so many random words.
        pub(in crate::trainer) fn new(words: usize, dim: usize, texts: Vec<Vec<usize>>) -> Self {
            let mut rng = Rng::new(1);
            let values = (0..words * dim).map(|_| rng.below(2000) as f32 / 1000.0 - 1.0).collect();
            let table = Parameter::table("words.weight", [words, dim], values);
            Self { parameters: Parameters::new(vec![table]), texts, dim }
        }

        pub(in crate::trainer) fn table(&self) -> &[f32] {
            &self.parameters.get("words.weight").unwrap().values
        }
    }

    impl Model for Sums {
        type Tape = Vec<usize>;

        fn dim(&self) -> usize {
            self.dim
        }

        fn embed(&self, texts: &[usize]) -> Result<Vec<f32>> {
            let mut rows = vec![0.0; texts.len() * self.dim];
            for (row, &text) in rows.chunks_mut(self.dim).zip(texts) {
                for &word in &self.texts[text] {
                    let values = &self.table()[word * self.dim..];
                    row.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            }
            Ok(rows)
        }

        fn forward(&self, texts: &[usize]) -> Result<(Vec<f32>, Vec<usize>)> {
            Ok((self.embed(texts)?, texts.to_vec()))
        }

        fn backward(&mut self, tape: Vec<usize>, slope: &[f32]) -> Result<()> {
            let table = self.parameters.get_mut("words.weight").unwrap();
            let Gradient::Rows(gradient) = &mut table.gradient else { unreachable!() };
            for (slope, text) in slope.chunks(self.dim).zip(tape) {
                for &word in &self.texts[text] {
                    let row = gradient.used(word).unwrap();
                    row.iter_mut().zip(slope).for_each(|(sum, value)| *sum += value);
                }
            }
            Ok(())
        }

        fn parameters(&mut self) -> &mut Parameters {
            &mut self.parameters
        }
    }
}
