//! Documents of a batch that are no negatives, by what the data say.

use std::collections::{HashMap, HashSet};

/// Which targets are known to answer which queries; keys as of
/// [`query_key`](crate::trainer::split::query_key) and [`target_key`](crate::trainer::split::target_key).
#[derive(Debug, Clone, Default)]
pub struct KnownPositives(HashMap<u64, Vec<u64>>);

impl KnownPositives {
    /// Learns from all pairs, given by keys.
    pub fn new(query_keys: &[u64], positive_keys: &[u64]) -> Self {
        let mut known: HashMap<u64, Vec<u64>> = HashMap::new();
        for (&query, &positive) in query_keys.iter().zip(positive_keys) {
            let positives = known.entry(query).or_default();
            if !positives.contains(&positive) {
                positives.push(positive);
            }
        }
        Self(known)
    }

    /// The mask of a batch, queries × documents, row-major. `document_keys`: the positives in the order of their
    /// queries, then any negatives. True where the column's document is known to answer the row's query, or is the same
    /// as that of an earlier column, which would count it twice; never for a query's own positive.
    pub fn mask(&self, query_keys: &[u64], document_keys: &[u64]) -> Vec<bool> {
        let mut seen = HashSet::with_capacity(document_keys.len());
        let repeated: Vec<bool> = document_keys.iter().map(|key| !seen.insert(*key)).collect();
        let mut mask = Vec::with_capacity(query_keys.len() * document_keys.len());
        for (row, query) in query_keys.iter().enumerate() {
            let positives = self.0.get(query).map_or(&[][..], Vec::as_slice);
            let columns = document_keys.iter().zip(&repeated).enumerate();
            mask.extend(columns.map(|(column, (document, &repeated))| {
                row != column && (repeated || positives.contains(document))
            }));
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(mask: &[bool], columns: usize) -> Vec<(usize, usize)> {
        (0..mask.len()).filter(|&at| mask[at]).map(|at| (at / columns, at % columns)).collect()
    }

    #[test]
    fn known_positives_are_masked_off_the_diagonal() {
        let known = KnownPositives::new(&[1, 2, 1, 3, 4, 2], &[10, 20, 30, 20, 40, 40]);
        let mask = known.mask(&[1, 2, 1, 3, 4], &[10, 20, 30, 20, 40]);
        // Rows 0 and 2 share a query; rows 1 and 3 a positive, so that the latter's column counts for nobody else;
        // row 1 has row 4's positive in another batch.
        assert_eq!(excluded(&mask, 5), [(0, 2), (0, 3), (1, 3), (1, 4), (2, 0), (2, 3), (3, 1), (4, 3)]);
    }

    #[test]
    fn negatives_are_masked_where_they_answer_or_repeat() {
        let known = KnownPositives::new(&[1, 2], &[10, 20]);
        // Negatives 20 (the other's positive), 50, and 50 again.
        let mask = known.mask(&[1, 2], &[10, 20, 20, 50, 50, 60]);
        assert_eq!(excluded(&mask, 6), [(0, 2), (0, 4), (1, 2), (1, 4)]);
    }
}
