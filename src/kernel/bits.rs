//! Products of a coarse query with rows of one bit a value, eight rows at a time.
//!
//! The words of eight rows lie side by side: first the first word of each, then the second. One instruction then counts
//! the bits of eight rows, and their sums need no addition across lanes.

/// Rows whose words lie side by side.
pub const LANES: usize = 8;
/// Bits of a value of the query.
const PLANES: usize = 4;
/// Values of the query go from −15 to 15 in steps of two.
const MOST: i32 = (1 << PLANES) - 1;

/// The same word of eight rows.
pub type Lanes = [u64; LANES];

/// The values of a query, odd numbers from −15 to 15, bit by bit.
#[derive(Debug, Clone, Default)]
pub struct BitQuery {
    /// For each 64 values a word of each of their bits.
    words: Vec<[u64; PLANES]>,
    /// The sum of the values.
    pub sum: i32,
}

impl BitQuery {
    /// From values between −15 and 15, each rounded to the nearest odd number.
    pub fn new(values: &[f32]) -> Self {
        let (mut words, mut sum) = (vec![[0; PLANES]; values.len().div_ceil(64)], 0);
        for (words, values) in words.iter_mut().zip(values.chunks(64)) {
            for &value in values.iter().rev() {
                let level = Self::level(value);
                sum += 2 * level - MOST;
                for (plane, word) in words.iter_mut().enumerate() {
                    *word = *word << 1 | (level as u64 >> plane & 1);
                }
            }
        }
        Self { words, sum }
    }

    #[inline]
    fn level(value: f32) -> i32 {
        ((value + (MOST + 1) as f32) * 0.5).clamp(0.0, MOST as f32) as i32
    }

    /// What a value becomes.
    #[inline]
    pub fn rounded(value: f32) -> f32 {
        (2 * Self::level(value) - MOST) as f32
    }

    /// Words of a row.
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// For each 64 values a word of each of their bits.
    pub(super) fn planes(&self) -> &[[u64; PLANES]] {
        &self.words
    }
}

/// From the bits of each plane that meet a row's, and those of the row, the product.
#[inline(always)]
fn product(met: [u64; PLANES], ones: u64) -> i32 {
    let weighted: u64 = met.iter().enumerate().map(|(plane, count)| count << plane).sum();
    2 * weighted as i32 - MOST * ones as i32
}

/// The reference: for each row the sum of the query's values where its bits are 1. `rows` are groups of [`LANES`] rows, as many
/// words each as the query has, and no bits set past its values; `out` takes one product for each row.
#[inline(always)]
pub(super) fn dot_bits(query: &BitQuery, rows: &[Lanes], out: &mut [i32]) {
    let groups = rows.chunks_exact(query.words.len().max(1));
    for (group, out) in groups.zip(out.chunks_mut(LANES)) {
        let (mut met, mut ones) = ([[0; PLANES]; LANES], [0; LANES]);
        for (query, lanes) in query.words.iter().zip(group) {
            for (lane, &word) in lanes.iter().enumerate() {
                ones[lane] += u64::from(word.count_ones());
                for (met, plane) in met[lane].iter_mut().zip(query) {
                    *met += u64::from((word & plane).count_ones());
                }
            }
        }
        let products = met.into_iter().zip(ones).map(|(met, ones)| product(met, ones));
        out.iter_mut().zip(products).for_each(|(out, product)| *out = product);
    }
}

#[cfg(test)]
mod tests {
    use super::super::available;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_rounded_to_odd_numbers() {
        for (value, rounded) in
            [(-20.0, -15.0), (-15.0, -15.0), (-0.1, -1.0), (0.1, 1.0), (1.9, 1.0), (2.1, 3.0), (99.0, 15.0)]
        {
            assert_eq!(BitQuery::rounded(value), rounded, "{value}");
        }
        assert_eq!(BitQuery::new(&[-15.0, 3.0, f32::NAN]).sum, -15 + 3 - 15);
    }

    proptest! {
        #[test]
        fn every_path_sums_the_values_where_bits_are_set(
            values in prop::collection::vec(-16.0f32..16.0, 1..600),
            words in prop::collection::vec(any::<Lanes>(), 0..60),
        ) {
            let query = BitQuery::new(&values);
            let rows = words.len() / query.words() * LANES;
            let expected = |row: usize| -> i32 {
                let group = &words[row / LANES * query.words()..];
                let is_set = |at: usize| group[at / 64][row % LANES] >> (at % 64) & 1 == 1;
                (0..values.len()).filter(|&at| is_set(at)).map(|at| BitQuery::rounded(values[at]) as i32).sum()
            };
            // Bits past the end of the query count for nothing.
            let last = values.len() % 64;
            let clean = if last == 0 { u64::MAX } else { (1 << last) - 1 };
            let mut given = words.clone();
            let ends = given.iter_mut().skip(query.words() - 1).step_by(query.words());
            ends.for_each(|lanes| lanes.iter_mut().for_each(|word| *word &= clean));
            for path in available() {
                let mut out = vec![i32::MAX; rows];
                (path.dot_bits)(&query, &given, &mut out);
                for (n, &product) in out.iter().enumerate() {
                    prop_assert_eq!(product, expected(n), "{}, row {}", path.isa, n);
                }
            }
        }
    }
}
