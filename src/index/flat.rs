//! Search by looking at every row: exact, or int8 first and exact for the best.
//!
//! Scanning needs no graph and no luck: it is the oracle of every other search, the plan for small blocks,
//! for selective filters and for any Matryoshka dimension, and the last resort when a graph falls short.

use super::block::{Neighbour, Query, TopK, VectorBlock};
use super::distance::{CodeDistance, ExactDistance, Grade};
use super::mask::{BATCH, RowMask};
use super::shortlist::Shortlist;

/// How many candidates of an int8 pass are compared again exactly: at least forty, which held all of the
/// exact top ten in every measurement.
pub fn rescored(k: usize) -> usize {
    k.saturating_mul(4).max(40)
}

/// The `k` nearest rows by the most exact distance the block allows: f32 rows where stored, else the codes
/// against a query of two parts. Rows outside `allowed` are passed over.
pub fn scan_exact(
    block: &VectorBlock<'_>,
    query: &Query,
    k: usize,
    allowed: Option<&RowMask>,
) -> Vec<Neighbour> {
    if !matches(block, query) {
        return Vec::new();
    }
    match ExactDistance::new(block, query) {
        ExactDistance::Full(full) => nearest(block.len, query, k, allowed, |row| full.distance(row), |_| {}),
        ExactDistance::Codes(codes) => {
            if allowed.is_none() {
                codes.touch_all();
            }
            nearest(block.len, query, k, allowed, |row| codes.fine(row), |rows| codes.touch(rows))
        }
    }
}

/// The `k` nearest rows: one pass over the high plane of the codes, then the best `max(4k, 40)` compared exactly, and
/// more where that plane cannot tell these from the others. Without codes the same as [`scan_exact`].
pub fn scan(block: &VectorBlock<'_>, query: &Query, k: usize, allowed: Option<&RowMask>) -> Vec<Neighbour> {
    let found = scan_many(&[(*block, allowed)], query, k, f32::INFINITY);
    found.into_iter().map(|(_, neighbour)| neighbour).collect()
}

/// The `k` nearest rows of many blocks, each as (block, neighbour), nearest first, found as [`scan`] does in one: to
/// compare the best forty of each small block again would cost more than the scan. Rows farther than `within` are not
/// wanted, as so many nearer ones are known already from other blocks.
pub fn scan_many(
    blocks: &[(VectorBlock<'_>, Option<&RowMask>)],
    query: &Query,
    k: usize,
    within: f32,
) -> Vec<(usize, Neighbour)> {
    if blocks.iter().all(|(block, _)| block.has_codes() && matches(block, query)) {
        return Shortlist::of(blocks, query, k, within).nearest();
    }
    let found = blocks.iter().enumerate().flat_map(|(number, (block, allowed))| {
        scan_exact(block, query, k, *allowed).into_iter().map(move |neighbour| (number, neighbour))
    });
    best_of(found.collect(), k)
}

/// The `k` nearest, nearest first.
pub(super) fn best_of(mut found: Vec<(usize, Neighbour)>, k: usize) -> Vec<(usize, Neighbour)> {
    let by_distance = |(a_block, a): &(usize, Neighbour), (b_block, b): &(usize, Neighbour)| {
        a.distance.total_cmp(&b.distance).then((a_block, a.row).cmp(&(b_block, b.row)))
    };
    found.sort_unstable_by(by_distance);
    found.truncate(k);
    found
}

/// The `k` nearest of `candidates`, compared exactly. Where f32 rows are stored, both codes of the query choose
/// `2k` of the candidates first, and of these the ones that may be `within` a distance: their codes are at hand from the
/// search, their f32 rows are not.
pub fn rescore(
    block: &VectorBlock<'_>,
    query: &Query,
    candidates: &[Neighbour],
    k: usize,
    within: f32,
) -> Vec<Neighbour> {
    let few = k.saturating_mul(2);
    let chooses = candidates.len() > few || within < f32::INFINITY;
    let chosen: Vec<u32> = if block.has_full() && block.has_codes() && chooses {
        by_both_codes(block, query, candidates, few, within)
    } else {
        candidates.iter().map(|n| n.row).collect()
    };
    nearest_of(block, query, chosen.into_iter(), k)
}

/// The `k` nearest of some rows, compared exactly.
pub(super) fn nearest_of(
    block: &VectorBlock<'_>,
    query: &Query,
    rows: impl Iterator<Item = u32>,
    k: usize,
) -> Vec<Neighbour> {
    let exact = ExactDistance::new(block, query);
    let rows: Vec<u32> = rows.collect();
    if block.on_disk.tail || block.on_disk.low {
        exact.request_pages(&rows);
    }
    exact.touch(&rows);
    let mut top = TopK::new(k);
    rows.iter().for_each(|&row| top.push(row, exact.distance(row)));
    top.into_sorted()
}

/// The `k` nearest of `candidates` by both codes of the query that may be `within` a distance.
fn by_both_codes(
    block: &VectorBlock<'_>,
    query: &Query,
    candidates: &[Neighbour],
    k: usize,
    within: f32,
) -> Vec<u32> {
    let codes = CodeDistance::new(block, query, Grade::Coarse);
    let rows: Vec<u32> = candidates.iter().map(|n| n.row).collect();
    let mut distances = vec![0.0; rows.len()];
    codes.fine_rows(&rows, &mut distances);
    let mut top = TopK::new(k);
    rows.iter().zip(distances).for_each(|(&row, distance)| top.push(row, distance));
    let nearest = top.into_sorted().into_iter();
    nearest.filter(|n| n.distance <= codes.beyond(within, n.row)).map(|n| n.row).collect()
}

/// Whether the query was prepared for rows like the block's.
pub(super) fn matches(block: &VectorBlock<'_>, query: &Query) -> bool {
    query.dim == block.dim && query.metric == block.metric
}

/// Hands out all rows with their distances by the first code of the query: some that follow each other at a time, by the
/// first of them.
pub(super) fn for_all_by_codes(codes: &CodeDistance<'_>, mut each: impl FnMut(u32, &[f32])) {
    codes.touch_all();
    let (mut room, mut distances) = ([0; 2 * BATCH], [0.0; BATCH]);
    let len = codes.block().len as u32;
    for first in (0..len).step_by(BATCH) {
        if (first as usize).is_multiple_of(Query::ASKED) && codes.query().is_over() {
            break;
        }
        let distances = &mut distances[..BATCH.min((len - first) as usize)];
        codes.run(first, &mut room, distances);
        each(first, distances);
    }
}

/// Hands out the allowed rows with their distances by the first code of the query. Rows that lie apart are compared
/// many at a time, since the next are then requested from memory; for rows one after the other the processor does
/// that better by itself.
pub(super) fn for_each_by_codes(
    codes: &CodeDistance<'_>,
    allowed: &RowMask,
    mut each: impl FnMut(&[u32], &[f32]),
) {
    let (mut room, mut distances) = ([0; 2 * BATCH], [0.0; BATCH]);
    let mut over = Over::new(codes.query());
    allowed.for_each_batch(|rows| {
        if over.after(rows.len()) {
            return;
        }
        codes.announce(rows);
        codes.rows(rows, &mut room, &mut distances);
        each(rows, &distances);
    });
}

/// Whether a scan of scattered rows goes on.
struct Over<'a> {
    query: &'a Query,
    /// Rows since the query was asked.
    since: usize,
    is_over: bool,
}

impl<'a> Over<'a> {
    fn new(query: &'a Query) -> Self {
        Self { query, since: Query::ASKED, is_over: false }
    }

    /// Asks, if so many rows more are due.
    fn after(&mut self, rows: usize) -> bool {
        if self.since >= Query::ASKED {
            self.is_over = self.query.is_over();
            self.since = 0;
        }
        self.since += rows;
        self.is_over
    }
}

/// The `k` nearest rows; of those allowed each batch is touched before it is compared.
#[inline]
fn nearest(
    len: usize,
    query: &Query,
    k: usize,
    allowed: Option<&RowMask>,
    distance: impl Fn(u32) -> f32,
    touch: impl Fn(&[u32]),
) -> Vec<Neighbour> {
    let mut top = TopK::new(k);
    match allowed {
        None => {
            for first in (0..len).step_by(Query::ASKED).take_while(|_| !query.is_over()) {
                let rows = first as u32..len.min(first + Query::ASKED) as u32;
                rows.for_each(|row| top.push(row, distance(row)));
            }
        }
        Some(rows) => {
            let mut over = Over::new(query);
            rows.below(len).for_each_batch(|rows| {
                if !over.after(rows.len()) {
                    touch(rows);
                    rows.iter().for_each(|&row| top.push(row, distance(row)));
                }
            });
        }
    }
    top.into_sorted()
}

#[cfg(test)]
mod tests {
    use super::super::block::Codes;
    use super::super::sketch::Sketches;
    use super::super::testing::{Data, METRICS, overlap};
    use super::*;
    use crate::options::Task;
    use crate::types::{Codec, Metric};

    fn brute(data: &Data, vector: &[f32], rank_dim: usize, k: usize) -> Vec<u32> {
        let unit = |v: &[f32]| {
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            v.iter().map(|x| x / norm).collect::<Vec<f32>>()
        };
        let mut all: Vec<(f32, u32)> = (0..data.len as u32)
            .map(|row| {
                let x = &data.rows[row as usize * data.dim..][..rank_dim];
                let q = &vector[..rank_dim];
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
                let distance = match data.metric {
                    Metric::Cosine => 1.0 - dot(&unit(q), &unit(x)),
                    Metric::Dot => -dot(q, x),
                    Metric::L2 => q.iter().zip(x).map(|(a, b)| (a - b) * (a - b)).sum::<f32>(),
                };
                (distance, row)
            })
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.truncate(k);
        all.into_iter().map(|(_, row)| row).collect()
    }

    /// Its second question is answered no.
    #[test]
    fn a_scan_ends_where_its_task_is_over() {
        let data = Data::clustered(8 * Query::ASKED, 8, Metric::Dot, Codec::Int8F32, 3);
        let vector = &data.queries(1, 4)[0];
        let block = data.block();
        let some = RowMask::from_rows(block.len as u32, (0..block.len as u32).step_by(3));
        for scan in [scan_exact, scan] {
            for (allowed, looked_at) in [(None, Query::ASKED), (Some(&some), 3 * (Query::ASKED + 2 * BATCH))]
            {
                let asked = std::sync::atomic::AtomicUsize::new(0);
                let no = move || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0;
                let query = || Query::new(vector, Metric::Dot, 8, 8);
                let found = scan(&block, &query().of(&Task::default().unless(no)), 50, allowed);
                let last = found.iter().map(|found| found.row).max().unwrap() as usize;
                assert!(last < looked_at, "row {last}");
                let whole =
                    scan(&block, &query(), 50, allowed).iter().map(|found| found.row).max().unwrap() as usize;
                assert!(whole > looked_at, "row {whole}");
            }
        }
    }

    #[test]
    fn exact_and_two_stage_scans_find_the_nearest_at_any_dimension() {
        for metric in METRICS {
            for codec in [Codec::Int8F32, Codec::Int8, Codec::F32] {
                let data = Data::clustered(600, 48, metric, codec, 11);
                let (mut exact, mut staged) = (0.0, 0.0);
                let dims = [16, 29, 48];
                for rank_dim in dims {
                    for vector in data.queries(20, 5) {
                        let query = Query::new(&vector, metric, 48, rank_dim);
                        let truth = brute(&data, &vector, rank_dim, 10);
                        exact += overlap(&truth, &scan_exact(&data.block(), &query, 10, None)) / 60.0;
                        staged += overlap(&truth, &scan(&data.block(), &query, 10, None)) / 60.0;
                    }
                }
                let floor = if codec == Codec::Int8 { 0.94 } else { 0.995 };
                assert!(exact >= floor, "{metric:?} {codec:?}: exact {exact}");
                assert!(staged >= floor, "{metric:?} {codec:?}: staged {staged}");
            }
        }
    }

    /// The rows of blocks of a hundred, each third of which lets through only what `allowed` says.
    fn many(data: &Data, codec: Codec, allowed: impl Fn(u32) -> bool) -> Vec<(Data, Option<RowMask>)> {
        let rows = data.rows.chunks(100 * data.dim).enumerate();
        let block = |(number, rows): (usize, &[f32])| {
            let block = Data::new(rows.to_vec(), data.dim, data.metric, codec);
            let first = 100 * number as u32;
            let inside = (0..block.len as u32).filter(|row| allowed(first + row));
            let mask = RowMask::from_rows(block.len as u32, inside);
            let mask = (number % 3 == 0 || mask.len() < block.len).then_some(mask);
            (block, mask)
        };
        rows.map(block).collect()
    }

    /// What was found in such blocks, by the rows of all.
    fn in_all(found: &[(usize, Neighbour)]) -> Vec<Neighbour> {
        let row = |block: usize, found: &Neighbour| 100 * block as u32 + found.row;
        found.iter().map(|(block, n)| Neighbour { row: row(*block, n), ..*n }).collect()
    }

    /// Sketches rule out no row that is found without them, but one of many thousands.
    #[test]
    fn rows_with_sketches_are_searched_as_without() {
        for metric in METRICS {
            let data = Data::clustered(4000, 160, metric, Codec::Int8F32, 11);
            let blocks = many(&data, Codec::Int8F32, |_| true);
            let sketches: Vec<_> = blocks.iter().map(|(data, _)| Sketches::of(&data.block())).collect();
            let plain: Vec<_> = blocks.iter().map(|(data, _)| (data.block(), None)).collect();
            let with: Vec<_> = plain
                .iter()
                .zip(&sketches)
                .map(|((block, _), s)| (block.sketched(s.as_ref()), None))
                .collect();
            let (mut rows, mut lost) = (0, 0);
            for vector in data.queries(60, 5) {
                let query = Query::new(&vector, metric, 160, 160);
                let all = scan_many(&plain, &query, 10, f32::INFINITY);
                for within in [f32::INFINITY, all[4].1.distance] {
                    let expected = scan_many(&plain, &query, 10, within);
                    let expected = expected.iter().filter(|(_, hit)| hit.distance <= within);
                    let found = scan_many(&with, &query, 10, within);
                    for hit in expected {
                        rows += 1;
                        lost += usize::from(!found.contains(hit));
                    }
                }
            }
            assert!(rows >= 60 * 14 && lost * 500 <= rows, "{metric:?}: {lost} of {rows} lost");
            // Of fewer dimensions a sketch tells nothing.
            let query = Query::new(data.row(3), metric, 160, 40);
            assert_eq!(scan_many(&with, &query, 10, 0.5), scan_many(&plain, &query, 10, 0.5));
        }
    }

    #[test]
    fn many_blocks_are_searched_as_one_is() {
        for metric in METRICS {
            for codec in [Codec::Int8F32, Codec::Int8, Codec::F32] {
                let data = Data::clustered(1250, 48, metric, codec, 11);
                let allowed = |row: u32| !(300..400).contains(&row) || row.is_multiple_of(3);
                let mask = RowMask::from_rows(1250, (0..1250).filter(|&row| allowed(row)));
                let blocks = many(&data, codec, allowed);
                let views: Vec<_> = blocks.iter().map(|(data, mask)| (data.block(), mask.as_ref())).collect();
                let mut recall = 0.0;
                for rank_dim in [16, 48] {
                    for vector in data.queries(20, 5) {
                        let query = Query::new(&vector, metric, 48, rank_dim);
                        let found = scan_many(&views, &query, 10, f32::INFINITY);
                        assert!(found.len() == 10 && found.iter().is_sorted_by_key(|(_, n)| n.distance));
                        assert!(in_all(&found).iter().all(|n| allowed(n.row)));
                        let within = found[4].1.distance;
                        let near = scan_many(&views, &query, 10, within);
                        assert_eq!(
                            near.iter().take(5).collect::<Vec<_>>(),
                            found[..5].iter().collect::<Vec<_>>()
                        );
                        let one: Vec<u32> =
                            scan(&data.block(), &query, 10, Some(&mask)).iter().map(|n| n.row).collect();
                        recall += overlap(&one, &in_all(&found)) / 40.0;
                    }
                }
                assert!(recall > 0.99, "{metric:?} {codec:?}: {recall}");
                let query = Query::new(&data.queries(1, 9)[0], metric, 48, 48);
                assert_eq!(scan_many(&views, &query, 2000, f32::INFINITY).len(), mask.len());
                assert_eq!(scan_many(&views, &query, 0, f32::INFINITY).len(), 0);
                assert_eq!(scan_many(&[], &query, 10, f32::INFINITY).len(), 0);
            }
        }
    }

    /// Rows that the best forty by codes miss are found in many blocks too.
    #[test]
    fn the_nearest_of_a_crowd_in_many_blocks_are_found() {
        let data = Data::clustered(6000, 24, Metric::Cosine, Codec::Int8F32, 3);
        let mut recall = 0.0;
        for vector in data.queries(10, 8) {
            let query = Query::new(&vector, Metric::Cosine, 24, 24);
            let all = scan_exact(&data.block(), &query, 6000, None);
            let far: Vec<u32> = all.iter().skip(2500).map(|n| n.row).collect();
            let allowed: std::collections::HashSet<u32> = far.iter().copied().collect();
            let blocks = many(&data, Codec::Int8F32, |row| allowed.contains(&row));
            let views: Vec<_> = blocks.iter().map(|(data, mask)| (data.block(), mask.as_ref())).collect();
            recall += overlap(&far[..10], &in_all(&scan_many(&views, &query, 10, f32::INFINITY))) / 10.0;
        }
        assert!(recall > 0.97, "{recall}");
    }

    /// Rows that lie on few lines, so that each has many others as near as codes err: none may be lost among them.
    #[test]
    fn each_row_of_a_crowd_finds_itself() {
        let value = |n: u32| ((n.wrapping_mul(2_654_435_761)) >> 16) as f32 / 32768.0 - 1.0;
        let rows: Vec<f32> = (0..950 * 16).map(|n| value(n / 16 * 64 + n % 16)).collect();
        for codec in [Codec::Int8F32, Codec::Int8] {
            let data = Data::new(rows.clone(), 16, Metric::Cosine, codec);
            let blocks = many(&data, codec, |_| true);
            let views: Vec<_> = blocks.iter().map(|(data, mask)| (data.block(), mask.as_ref())).collect();
            for row in 0..950 {
                let query = Query::new(&data.rows[row as usize * 16..][..16], Metric::Cosine, 16, 16);
                let one = scan(&data.block(), &query, 5, None);
                let found = in_all(&scan_many(&views, &query, 5, f32::INFINITY));
                let lost = |found: &[Neighbour]| found.iter().all(|n| n.row != row);
                // Without f32 rows equal codes tell nothing apart.
                if codec == Codec::Int8F32 {
                    assert!(!lost(&one) && !lost(&found), "{row}");
                }
                let bits = |found: &[Neighbour]| found.iter().map(|n| n.distance).collect::<Vec<_>>();
                assert!(bits(&one).iter().zip(bits(&found)).all(|(a, b)| (a - b).abs() < 1e-3), "{row}");
            }
        }
    }

    /// Thousands of rows at nearly one distance, of which codes alone would find a few of the nearest.
    #[test]
    fn the_nearest_of_a_crowd_are_found() {
        for (metric, codec) in [(Metric::Cosine, Codec::Int8F32), (Metric::L2, Codec::Int8F32)] {
            let data = Data::clustered(6000, 24, metric, codec, 3);
            let mut recall = 0.0;
            for vector in data.queries(10, 8) {
                let query = Query::new(&vector, metric, 24, 24);
                let all = scan_exact(&data.block(), &query, 6000, None);
                let allowed = RowMask::from_rows(6000, all.iter().skip(2500).map(|n| n.row));
                let truth: Vec<u32> = all.iter().skip(2500).take(10).map(|n| n.row).collect();
                let found = scan(&data.block(), &query, 10, Some(&allowed));
                assert_eq!(found.len(), 10);
                recall += overlap(&truth, &found) / 10.0;
            }
            assert!(recall > 0.97, "{metric:?}: {recall}");
        }
    }

    #[test]
    fn distances_are_those_of_the_metric() {
        let rows = [3.0, 4.0, 0.0, 1.0];
        for (metric, expected) in [(Metric::L2, [0.0, 18f32.sqrt()]), (Metric::Dot, [-25.0, -4.0])] {
            let block = VectorBlock::new(2, metric, &[2], 2, Codes::default(), &[], &[], &rows).unwrap();
            let found = scan_exact(&block, &Query::new(&[3.0, 4.0], metric, 2, 2), 2, None);
            assert_eq!(found.iter().map(|n| n.row).collect::<Vec<_>>(), [0, 1]);
            assert!(found.iter().zip(expected).all(|(n, d)| (n.distance - d).abs() < 1e-5), "{found:?}");
        }
    }

    #[test]
    fn only_allowed_rows_are_returned_and_ties_go_to_the_lower_row() {
        let rows = [1.0f32; 20];
        let block = VectorBlock::new(2, Metric::L2, &[2], 10, Codes::default(), &[], &[], &rows).unwrap();
        let query = Query::new(&[1.0, 1.0], Metric::L2, 2, 2);
        let allowed = RowMask::from_rows(10, [3, 5, 7, 12]);
        let found = |k, allowed| scan(&block, &query, k, allowed).iter().map(|n| n.row).collect::<Vec<_>>();
        assert_eq!(found(2, Some(&allowed)), [3, 5]);
        assert_eq!(found(9, Some(&allowed)), [3, 5, 7]);
        assert_eq!(found(3, None), [0, 1, 2]);
        assert!(found(0, None).is_empty());
    }

    #[test]
    fn a_query_for_other_rows_finds_nothing() {
        let data = Data::clustered(20, 8, Metric::Dot, Codec::Int8F32, 1);
        assert!(scan(&data.block(), &Query::new(&[1.0; 9], Metric::Dot, 9, 9), 3, None).is_empty());
        assert!(scan_exact(&data.block(), &Query::new(&[1.0; 8], Metric::L2, 8, 8), 3, None).is_empty());
    }

    #[test]
    fn zero_rows_have_no_direction() {
        let block = VectorBlock::new(
            2,
            Metric::Cosine,
            &[1, 2],
            2,
            Codes::default(),
            &[],
            &[],
            &[0.0, 1.0, 1.0, 0.0],
        );
        let found = scan_exact(&block.unwrap(), &Query::new(&[1.0, 0.0], Metric::Cosine, 2, 1), 2, None);
        assert_eq!(found.iter().map(|n| (n.row, n.distance)).collect::<Vec<_>>(), [(1, 0.0), (0, 1.0)]);
    }

    /// Rows within a distance are compared exactly, the others as far as codes cannot tell that they are others.
    #[test]
    fn nothing_within_a_distance_is_left_out() {
        for metric in METRICS {
            for (dim, rank_dim) in [(3, 3), (48, 48), (64, 32)] {
                let data = Data::clustered(3000, dim, metric, Codec::Int8F32, 17);
                let (mut compared, mut wanted) = (0, 0);
                for vector in data.queries(200, 3) {
                    let query = Query::new(&vector, metric, dim, rank_dim);
                    let candidates = scan(&data.block(), &query, 40, None);
                    let all = rescore(&data.block(), &query, &candidates, 10, f32::INFINITY);
                    for last in [0, 2, 9] {
                        let found = rescore(&data.block(), &query, &candidates, 10, all[last].distance);
                        assert_eq!(found[..=last], all[..=last], "{metric:?}, {rank_dim} of {dim}");
                        compared += found.len();
                        wanted += last + 1;
                    }
                }
                // Of three dimensions codes tell next to nothing apart.
                assert!(dim == 3 || compared < wanted * 3 / 2, "{metric:?} {dim}: {compared} for {wanted}");
            }
        }
    }
}
