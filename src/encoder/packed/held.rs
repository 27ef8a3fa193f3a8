//! How much memory passes take, by arithmetic.

use super::Transformer;
use super::plan::STRIP;

impl Transformer {
    /// Bytes held for passes forward and back over so many tokens, beside the parameters: packed matrices, what is kept
    /// between the two, and the derivatives of one strip.
    pub(crate) fn bytes(&self, tokens: usize) -> usize {
        let (config, strides) = (&self.config, self.strides());
        let learning = config.layers.saturating_sub(self.first);
        let matrices = (4 * config.hidden + 2 * config.intermediate) * config.hidden;
        let packed = matrices * (config.layers + learning);
        let inputs = learning * tokens * strides.state;
        let rest = (learning * tokens * strides.kept()).min(self.kept / size_of::<f32>());
        // The derivatives by what is kept, and what is computed again.
        let strip = tokens.min(STRIP) * 2 * (strides.kept() + strides.state);
        (packed + inputs + rest + strip) * size_of::<f32>()
    }
}
