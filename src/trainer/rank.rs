//! Exact ranking of documents, to judge a candidate before anything is indexed anew.
//!
//! Cosine over a prefix of the dimensions, each prefix normalised anew; a document counts by its best
//! row; equal scores go to the lower document number. One matrix product for each block of queries
//! and rows, so memory is one normalised copy of the rows' prefixes and a block of scores.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Queries scored at a time by one thread.
const QUERY_BLOCK: usize = 64;
/// Rows in one matrix product.
const ROW_BLOCK: usize = 2048;

/// The best `k` documents of each query, best first.
///
/// `queries`: n × `dim`; `rows`: m × `dim`; `doc_of_row`: for each row the number of its document;
/// `rank_dim`: how many of the first dimensions count. Vectors need not be normalised; a zero vector
/// has cosine 0 to everything.
///
/// # Errors
/// [`Error::Input`] if the lengths contradict each other.
pub fn rank_exact(
    queries: &[f32],
    rows: &[f32],
    doc_of_row: &[u32],
    dim: usize,
    rank_dim: usize,
    k: usize,
) -> Result<Vec<Vec<u32>>> {
    let whole =
        dim > 0 && queries.len().is_multiple_of(dim) && rows.len() == doc_of_row.len().saturating_mul(dim);
    if !whole || rank_dim == 0 || rank_dim > dim {
        return Err(Error::input(format!(
            "ranking: {} and {} values do not make rows of {dim} dimensions for {} documents, ranked by {rank_dim}",
            queries.len(),
            rows.len(),
            doc_of_row.len()
        )));
    }
    let documents = doc_of_row.iter().max().map_or(0, |&d| d as usize + 1);
    let blocks = row_blocks(rows, doc_of_row, dim, rank_dim)?;
    let parts: Vec<&[f32]> = queries.chunks(QUERY_BLOCK * dim).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, parts.len().max(1));
    let rank_part =
        |part: &[f32]| rank_block(&unit_prefixes(part, dim, rank_dim), &blocks, rank_dim, documents, k);
    let ranked: Result<Vec<_>> = std::thread::scope(|scope| {
        let share = parts.len().div_ceil(threads).max(1);
        let workers: Vec<_> = parts
            .chunks(share)
            .map(|parts| {
                scope.spawn(move || parts.iter().map(|part| rank_part(part)).collect::<Result<Vec<_>>>())
            })
            .collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Result<_>>| {
            worker.join().unwrap_or_else(|_| Err(Error::input("ranking: a thread stopped")))
        };
        workers.into_iter().map(join).collect()
    });
    Ok(ranked?.into_iter().flatten().flatten().collect())
}

/// A block of rows: rank_dim × n, and the document of each row.
struct RowBlock<'a> {
    columns: Tensor,
    documents: &'a [u32],
}

fn row_blocks<'a>(
    rows: &[f32],
    doc_of_row: &'a [u32],
    dim: usize,
    rank_dim: usize,
) -> Result<Vec<RowBlock<'a>>> {
    let block = |(rows, documents): (&[f32], &'a [u32])| {
        let prefixes = unit_prefixes(rows, dim, rank_dim);
        let columns = Tensor::from_vec(prefixes, (documents.len(), rank_dim), &Device::Cpu)
            .and_then(|t| t.t())
            .map_err(tensor_error)?;
        Ok(RowBlock { columns, documents })
    };
    rows.chunks(ROW_BLOCK * dim).zip(doc_of_row.chunks(ROW_BLOCK)).map(block).collect()
}

/// The first `rank_dim` dimensions of each row, normalised.
pub(super) fn unit_prefixes(rows: &[f32], dim: usize, rank_dim: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() / dim.max(1) * rank_dim);
    for row in rows.chunks_exact(dim.max(1)) {
        let prefix = row.get(..rank_dim).unwrap_or(row);
        let norm = prefix.iter().map(|v| v * v).sum::<f32>().sqrt();
        let inverse = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        out.extend(prefix.iter().map(|v| v * inverse));
    }
    out
}

/// Ranks a block of normalised query prefixes against all rows.
fn rank_block(
    queries: &[f32],
    blocks: &[RowBlock<'_>],
    rank_dim: usize,
    documents: usize,
    k: usize,
) -> Result<Vec<Vec<u32>>> {
    let n = queries.len() / rank_dim;
    let queries = Tensor::from_slice(queries, (n, rank_dim), &Device::Cpu).map_err(tensor_error)?;
    let mut best = vec![f32::NEG_INFINITY; n * documents];
    for block in blocks {
        let scores = queries.matmul(&block.columns).and_then(|s| s.flatten_all()?.to_vec1::<f32>());
        let scores = scores.map_err(tensor_error)?;
        let width = block.documents.len();
        for (scores, best) in scores.chunks_exact(width.max(1)).zip(best.chunks_exact_mut(documents.max(1))) {
            for (&score, &document) in scores.iter().zip(block.documents) {
                if let Some(slot) = best.get_mut(document as usize) {
                    *slot = slot.max(score);
                }
            }
        }
    }
    if documents == 0 {
        return Ok(vec![Vec::new(); n]);
    }
    Ok(best.chunks_exact(documents).map(|scores| top(scores, k)).collect())
}

/// The numbers of the `k` largest scores, largest first, without documents that have no row.
fn top(scores: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<(f32, u32)> =
        scores.iter().copied().zip(0..).filter(|(score, _)| *score > f32::NEG_INFINITY).collect();
    let better = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if k < order.len() {
        order.select_nth_unstable_by(k, better);
        order.truncate(k);
    }
    order.sort_unstable_by(better);
    order.into_iter().map(|(_, document)| document).collect()
}

/// Turns a failed tensor operation into our error.
fn tensor_error(error: candle_core::Error) -> Error {
    Error::Input(format!("ranking failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    const DIM: usize = 10;

    fn random(seed: u64, rows: usize) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        (0..rows * DIM).map(|_| rng.below(1000) as f32 / 500.0 - 1.0).collect()
    }

    /// The definition: every cosine, in f64.
    fn plain(query: &[f32], rows: &[f32], doc_of_row: &[u32], rank_dim: usize, k: usize) -> Vec<u32> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).take(rank_dim).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let mut best = std::collections::BTreeMap::new();
        for (row, &document) in rows.chunks(DIM).zip(doc_of_row) {
            let cosine = dot(query, row) / (dot(query, query) * dot(row, row)).sqrt();
            let slot = best.entry(document).or_insert(cosine);
            *slot = cosine.max(*slot);
        }
        let mut order: Vec<(u32, f64)> = best.into_iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        order.iter().take(k).map(|(document, _)| *document).collect()
    }

    #[test]
    fn agrees_with_the_definition_over_several_blocks() {
        let (queries, rows) = (random(1, 150), random(2, 4500));
        // Several rows a document, not in order, and numbers without any row.
        let doc_of_row: Vec<u32> = (0..4500u32).map(|r| (r * 7919) % 1500 * 2).collect();
        for (rank_dim, k) in [(DIM, 10), (4, 3)] {
            let ranked = rank_exact(&queries, &rows, &doc_of_row, DIM, rank_dim, k).unwrap();
            assert_eq!(ranked.len(), 150);
            let same = ranked
                .iter()
                .zip(queries.chunks(DIM))
                .filter(|(ranked, query)| **ranked == plain(query, &rows, &doc_of_row, rank_dim, k));
            // f32 may swap neighbours that differ in the seventh digit.
            assert!(same.count() >= 147, "rank_dim {rank_dim}");
        }
    }

    #[test]
    fn ties_go_to_the_lower_number_and_k_may_exceed_the_documents() {
        let row: Vec<f32> = vec![1.0; DIM];
        let rows = [row.clone(), row.clone(), row.clone()].concat();
        assert_eq!(rank_exact(&row, &rows, &[2, 0, 1], DIM, DIM, 9).unwrap(), [[0, 1, 2]]);
        assert_eq!(rank_exact(&row, &[], &[], DIM, DIM, 9).unwrap(), [Vec::<u32>::new()]);
        assert!(rank_exact(&[], &rows, &[0, 1, 2], DIM, DIM, 9).unwrap().is_empty());
    }

    #[test]
    fn lengths_that_contradict_are_refused() {
        let row = vec![1.0; DIM];
        for (queries, docs, dim, rank_dim) in
            [(3, 1, DIM, DIM), (DIM, 2, DIM, DIM), (DIM, 1, DIM, 11), (DIM, 1, DIM, 0)]
        {
            assert!(rank_exact(&vec![0.0; queries], &row, &vec![0; docs], dim, rank_dim, 1).is_err());
        }
        assert!(rank_exact(&[], &[], &[], 0, 0, 1).is_err());
    }
}
