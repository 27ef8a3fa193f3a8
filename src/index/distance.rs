//! Distances between a query and the rows of a block, in three grades.
//!
//! | grade | what it reads of a row | who asks |
//! |---|---|---|
//! | rough | the high plane of its codes | scans at first; walks, where calibration found it good enough |
//! | coarse | both planes | other walks; scans that the high plane cannot decide |
//! | fine | both planes, against a query of two codes; f32 values where stored | the last choice |

use std::ops::Range;

use super::block::{OnDisk, Query, VectorBlock};
use super::quantize::{SECOND_PART, inverse_root};
use crate::format::graph::GraphView;
use crate::format::guard::{Guard, Touch};
use crate::kernel;
use crate::kernel::planes::{GROUP_BYTES, GROUP_CODES, Plane, join, plane_len};
use crate::mmap;
use crate::types::Metric;

/// Which planes of the codes take part in a distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    /// The high plane.
    Rough,
    /// Both.
    Coarse,
}

impl Grade {
    /// What walks through a graph compare.
    pub(crate) fn of(graph: &GraphView<'_>) -> Self {
        if graph.sight().rough { Self::Rough } else { Self::Coarse }
    }
}

/// Distances through codes: what traversals and first passes use.
pub(crate) struct CodeDistance<'a> {
    block: VectorBlock<'a>,
    query: &'a Query,
    grade: Grade,
    norms: Option<&'a [f32]>,
    high: Plane<'a>,
    low: Plane<'a>,
    /// Whether the low plane may not be in memory.
    low_on_disk: bool,
    /// What verifies the planes.
    guard: Option<Guard<'a>>,
}

impl<'a> CodeDistance<'a> {
    pub(crate) fn new(block: &VectorBlock<'a>, query: &'a Query, grade: Grade) -> Self {
        let of_head =
            query.rank_dim <= block.head.dims && (grade == Grade::Rough || !block.head.codes.low.is_empty());
        let (codes, dims) =
            if of_head { (block.head.codes, block.head.dims) } else { (block.codes, block.dim) };
        let [high, low] = [codes.high, codes.low].map(|bytes| Plane { bytes, stride: plane_len(dims) });
        let low_on_disk = if of_head { block.on_disk.head } else { block.on_disk.low };
        let guard = if of_head { block.guards.head } else { block.guards.codes };
        let norms = block.norm_column(query.rank_dim);
        Self { block: *block, query, grade, norms, high, low, low_on_disk, guard }
    }

    /// Verifies what the distances of rows are about to read.
    #[inline]
    pub(crate) fn touch(&self, rows: &[u32]) {
        self.touch_planes(rows, self.grade == Grade::Coarse);
    }

    /// The same, with both planes.
    pub(crate) fn touch_whole(&self, rows: &[u32]) {
        self.touch_planes(rows, true);
    }

    #[inline]
    fn touch_planes(&self, rows: &[u32], both: bool) {
        if self.guard.is_none() && self.block.guards.codes.is_none() {
            return;
        }
        let len = self.query.parts[0].plane_len();
        for &row in rows {
            self.guard.touch(self.high.row(row, len));
            if both {
                self.guard.touch(self.low.row(row, len));
            }
            self.touch_columns(row as usize..row as usize + 1);
        }
    }

    /// The same for all rows.
    pub(crate) fn touch_all(&self) {
        self.guard.touch(self.high.bytes);
        if self.grade == Grade::Coarse {
            self.guard.touch(self.low.bytes);
        }
        self.touch_columns(0..self.block.len);
    }

    #[inline]
    fn touch_columns(&self, rows: Range<usize>) {
        let Some(guard) = &self.block.guards.codes else { return };
        if let Some(norms) = self.norms {
            guard.touch(norms.get(rows.clone()).unwrap_or_default());
        }
        if self.query.metric != Metric::Cosine {
            guard.touch(self.block.scales.get(rows).unwrap_or_default());
        }
    }

    pub(crate) fn block(&self) -> &VectorBlock<'a> {
        &self.block
    }

    pub(crate) fn query(&self) -> &'a Query {
        self.query
    }

    /// Distances of rows by the first code of the query, in order; `room` is twice as long as `rows`.
    #[inline]
    pub(crate) fn rows(&self, rows: &[u32], room: &mut [i32], distances: &mut [f32]) {
        self.touch(rows);
        let [first, _] = &self.query.parts;
        let (high, low) = room.split_at_mut(rows.len().min(room.len()));
        kernel::dot_plane_rows(first, self.high, rows, high);
        if self.grade == Grade::Coarse {
            kernel::dot_plane_rows(first, self.low, rows, low);
        }
        self.of_planes(rows.iter().copied(), high, low, distances);
    }

    /// The same for the rows from `first` on, one for each place in `distances`; they were [touched](Self::touch_all).
    pub(crate) fn run(&self, first: u32, room: &mut [i32], distances: &mut [f32]) {
        let [query, _] = &self.query.parts;
        let (high, low) = room.split_at_mut(distances.len().min(room.len()));
        kernel::dot_plane_run(query, self.high, first, high);
        if self.grade == Grade::Coarse {
            kernel::dot_plane_run(query, self.low, first, low);
        }
        let start = first as usize;
        let norms = self.norms.and_then(|norms| norms.get(start..start + distances.len()));
        match norms {
            // One loop without a choice in it, of which the compiler makes wide instructions.
            Some(norms) if self.query.metric == Metric::Cosine && self.grade == Grade::Rough => {
                for ((distance, &high), &norm) in distances.iter_mut().zip(&*high).zip(norms) {
                    *distance = 1.0 - query.rough(high) * self.query.inverse_norm * norm;
                }
            }
            _ => self.of_planes(first.., high, low, distances),
        }
    }

    /// Distances of rows from the products with their planes.
    #[inline]
    fn of_planes(&self, rows: impl Iterator<Item = u32>, high: &[i32], low: &[i32], distances: &mut [f32]) {
        let [first, _] = &self.query.parts;
        if self.grade == Grade::Rough {
            for ((distance, &high), row) in distances.iter_mut().zip(high).zip(rows) {
                *distance = self.of_first(first.rough(high), row);
            }
            return;
        }
        for (((distance, &high), &low), row) in distances.iter_mut().zip(high).zip(low).zip(rows) {
            *distance = self.of_first(first.exact(high, low) as f32, row);
        }
    }

    /// Requests the codes of a row from where they lie, if that is not memory.
    #[inline]
    pub(crate) fn request_pages(&self, row: u32) {
        let len = self.query.parts[0].plane_len();
        if self.block.on_disk.head {
            mmap::request_pages(self.high.row(row, len));
        }
        if self.low_on_disk && self.grade == Grade::Coarse {
            mmap::request_pages(self.low.row(row, len));
        }
    }

    /// Requests what all rows share, where pages have to be requested: a norm for each, and a scale.
    pub(crate) fn request_columns(&self) {
        /// Of longer columns a search needs too little.
        const SHORT: usize = 4 << 20;
        let columns = [self.norms.unwrap_or_default(), self.block.scales].map(bytemuck::cast_slice);
        if self.block.on_disk.head {
            columns
                .iter()
                .filter(|column| column.len() <= SHORT)
                .for_each(|column| mmap::request_pages(column));
        }
    }

    /// Requests the beginnings of rows that are compared soon, so that their addresses are known by then: of long
    /// rows that lie apart each is in a page of its own.
    #[inline]
    pub(crate) fn announce(&self, rows: &[u32]) {
        const LONG: usize = 256;
        if self.block.on_disk != OnDisk::default() {
            rows.iter().for_each(|&row| self.request_pages(row));
        } else if self.query.rank_dim >= LONG {
            rows.iter().for_each(|&row| self.prefetch_start(row));
        }
    }

    fn prefetch_start(&self, row: u32) {
        self.request(row, false);
        let planes = [Some(self.high), (self.grade == Grade::Coarse).then_some(self.low)];
        let starts = planes.into_iter().flatten().filter_map(|plane| plane.row(row, 1).first());
        starts.for_each(kernel::prefetch_value);
    }

    /// Distance of a row by the first code of the query; the row was [touched](Self::touch).
    #[inline]
    pub(crate) fn row(&self, row: u32) -> f32 {
        let [first, _] = &self.query.parts;
        let len = first.plane_len();
        let high = kernel::dot_plane(first, self.high.row(row, len));
        if self.grade == Grade::Rough {
            return self.of_first(first.rough(high), row);
        }
        let low = kernel::dot_plane(first, self.low.row(row, len));
        self.of_first(first.exact(high, low) as f32, row)
    }

    /// How much the high plane alone makes a row's distance err, squared under L2, if the lower bits are as good as random:
    /// the standard deviation.
    pub(crate) fn rough_error(&self, row: u32) -> f32 {
        /// Of sixteen equally likely values.
        const LOWER_BITS: f32 = 4.61;
        match self.query.metric {
            Metric::Cosine => LOWER_BITS * self.inverse_norm(row),
            metric => {
                let product = LOWER_BITS * self.query.squares[0].sqrt() * self.block.scale_of(row);
                if metric == Metric::L2 { 2.0 * product } else { product }
            }
        }
    }

    /// How far a row may be by both codes of the query and both planes that is `within` a distance: five standard deviations
    /// farther of what rounding to codes makes it err.
    pub(crate) fn beyond(&self, within: f32, row: u32) -> f32 {
        /// Lower bits are rounded by a sixteenth of what the high plane leaves out.
        const ERROR: f32 = 5.0 / 16.0;
        farther(self.query.metric, within, ERROR * self.rough_error(row))
    }

    /// Distances of rows by both codes of the query and both planes, in order.
    pub(crate) fn fine_rows(&self, rows: &[u32], distances: &mut [f32]) {
        rows.iter().for_each(|&row| self.request_pages(row));
        self.touch_whole(rows);
        let planes = [self.high, self.low];
        let mut products = vec![0; 4 * rows.len()];
        for (n, products) in products.chunks_exact_mut(rows.len().max(1)).enumerate() {
            kernel::dot_plane_rows(&self.query.parts[n / 2], planes[n % 2], rows, products);
        }
        let (first_products, second_products) = products.split_at(2 * rows.len());
        let (first_high, first_low) = first_products.split_at(rows.len());
        let (second_high, second_low) = second_products.split_at(rows.len());
        let [first, second] = &self.query.parts;
        for (n, (&row, distance)) in rows.iter().zip(distances).enumerate() {
            let first = first.exact(first_high[n], first_low[n]) as f32;
            let second = second.exact(second_high[n], second_low[n]) as f32;
            *distance = self.of_product(first + second / SECOND_PART, self.query.squares[1], row);
        }
    }

    /// Distance by both codes of the query and both planes; the row was [touched](Self::touch).
    #[inline]
    pub(crate) fn fine(&self, row: u32) -> f32 {
        let [first, second] = [0, 1].map(|part| {
            let query = &self.query.parts[part];
            let [high, low] = [self.high, self.low]
                .map(|plane| kernel::dot_plane(query, plane.row(row, query.plane_len())));
            query.exact(high, low) as f32
        });
        self.of_product(first + second / SECOND_PART, self.query.squares[1], row)
    }

    /// Distance from the product of the first codes.
    #[inline]
    fn of_first(&self, product: f32, row: u32) -> f32 {
        if self.query.metric == Metric::Cosine {
            return 1.0 - product * self.query.inverse_norm * self.inverse_norm(row);
        }
        self.of_product(product, self.query.squares[0], row)
    }

    /// Distance where `product` times the query's scale is the product of the query's values and the codes, and
    /// `squares` the squared length of these values.
    #[inline]
    fn of_product(&self, product: f32, squares: f32, row: u32) -> f32 {
        let product = product * self.query.codes.scale;
        match self.query.metric {
            Metric::Cosine => 1.0 - product * self.inverse_norm(row),
            Metric::Dot => -product * self.block.scale_of(row),
            Metric::L2 => {
                let scale = self.block.scale_of(row);
                let inverse = self.inverse_norm(row);
                let norm = if inverse > 0.0 { scale / inverse } else { 0.0 };
                (squares + norm * norm - 2.0 * scale * product).max(0.0).sqrt()
            }
        }
    }

    #[inline]
    fn inverse_norm(&self, row: u32) -> f32 {
        match self.norms.and_then(|norms| norms.get(row as usize)) {
            Some(&norm) => norm,
            None => self.norm_of_prefix(row),
        }
    }

    /// For a number of dimensions that is no rung.
    #[cold]
    fn norm_of_prefix(&self, row: u32) -> f32 {
        let [high, low] = self.block.planes_of(row);
        [high, low].iter().for_each(|plane| self.block.guards.codes.touch(plane));
        let groups = high.chunks(GROUP_BYTES).zip(low.chunks(GROUP_BYTES));
        let mut rest = self.query.rank_dim;
        let mut squares = 0;
        for (high, low) in groups {
            let mut codes = [0; GROUP_CODES];
            join(high, low, &mut codes);
            let codes = codes.get(..rest).unwrap_or(&codes);
            squares += kernel::dot_i8(codes, codes);
            rest -= codes.len();
        }
        inverse_root(squares)
    }

    /// Requests from memory what a row's distance needs; its codes only if `whole`.
    #[inline]
    pub(crate) fn request(&self, row: u32, whole: bool) {
        if let Some(norm) = self.norms.and_then(|norms| norms.get(row as usize)) {
            kernel::prefetch_value(norm);
        }
        if self.query.metric != Metric::Cosine
            && let Some(scale) = self.block.scales.get(row as usize)
        {
            kernel::prefetch_value(scale);
        }
        if whole {
            let len = self.query.parts[0].plane_len();
            kernel::prefetch(self.high.row(row, len));
            if self.grade == Grade::Coarse {
                kernel::prefetch(self.low.row(row, len));
            }
        }
    }

    /// Requests from memory both planes of a row.
    pub(crate) fn request_whole(&self, row: u32) {
        let len = self.query.parts[0].plane_len();
        [self.high, self.low].iter().for_each(|plane| kernel::prefetch(plane.row(row, len)));
    }
}

/// Distances from one query to the f32 rows of one block.
pub(crate) struct FullDistance<'a> {
    block: VectorBlock<'a>,
    query: &'a Query,
}

impl<'a> FullDistance<'a> {
    pub(crate) fn new(block: &VectorBlock<'a>, query: &'a Query) -> Self {
        Self { block: *block, query }
    }

    /// The values of a row that take part.
    #[inline]
    pub(crate) fn prefix(&self, row: u32) -> &'a [f32] {
        let start = row as usize * self.block.dim;
        self.block.full.get(start..start + self.query.rank_dim).unwrap_or(&[])
    }

    /// Requests a row from where it lies.
    pub(crate) fn request_pages(&self, row: u32) {
        mmap::request_pages(bytemuck::cast_slice(self.prefix(row)));
    }

    #[inline]
    pub(crate) fn distance(&self, row: u32) -> f32 {
        let values = self.prefix(row);
        self.block.guards.full.touch(values);
        match self.query.metric {
            Metric::L2 => kernel::l2_sq_f32(&self.query.values, values).sqrt(),
            Metric::Dot => -kernel::dot_f32(&self.query.values, values),
            Metric::Cosine => {
                let product = kernel::dot_f32(&self.query.values, values);
                if self.query.rank_dim == self.block.dim {
                    return 1.0 - product;
                }
                let squares = kernel::dot_f32(values, values);
                if squares > 0.0 { 1.0 - product / squares.sqrt() } else { 1.0 }
            }
        }
    }
}

/// The most exact distance the block allows: f32 rows where stored, else both codes of the query.
pub(crate) enum ExactDistance<'a> {
    Full(FullDistance<'a>),
    Codes(CodeDistance<'a>),
}

impl<'a> ExactDistance<'a> {
    pub(crate) fn new(block: &VectorBlock<'a>, query: &'a Query) -> Self {
        if block.has_full() {
            Self::Full(FullDistance::new(block, query))
        } else {
            Self::Codes(CodeDistance::new(block, query, Grade::Coarse))
        }
    }

    /// Requests rows that are compared soon from where they lie.
    pub(crate) fn request_pages(&self, rows: &[u32]) {
        match self {
            Self::Full(full) => rows.iter().for_each(|&row| full.request_pages(row)),
            Self::Codes(codes) => rows.iter().for_each(|&row| codes.request_pages(row)),
        }
    }

    /// Verifies what the distances of rows are about to read.
    #[inline]
    pub(crate) fn touch(&self, rows: &[u32]) {
        if let Self::Codes(codes) = self {
            codes.touch(rows);
        }
    }

    #[inline]
    pub(crate) fn distance(&self, row: u32) -> f32 {
        match self {
            Self::Full(full) => full.distance(row),
            Self::Codes(codes) => codes.fine(row),
        }
    }
}

/// The distance that is by an error beyond another; under L2 codes make squares of distances err, as much near as far.
pub(super) fn farther(metric: Metric, distance: f32, error: f32) -> f32 {
    if metric == Metric::L2 { (distance * distance + error).sqrt() } else { distance + error }
}

#[cfg(test)]
mod tests {
    use super::super::block::Codes;
    use super::super::quantize;
    use super::*;
    use crate::kernel::planes::split;

    /// A query that is shorter than its codes say, near rows that are far from 0.
    #[test]
    fn near_rows_are_not_held_for_equal() {
        let (codes, scales) = ([100i8, 60, 99, 60, 100, 61], [0.1f32; 3]);
        let norms: Vec<f32> = codes.chunks(2).map(quantize::inverse_norm).collect();
        let (mut high, mut low) = (vec![], vec![]);
        codes.chunks(2).for_each(|codes| split(codes, &mut high, &mut low));
        let planes = Codes { high: &high, low: &low };
        let block = VectorBlock::new(2, Metric::L2, &[2], 3, planes, &scales, &norms, &[]).unwrap();
        // 127 steps of the first value; the second is rounded up by nearly half a step.
        let query = Query::new(&[10.0, 5.945], Metric::L2, 2, 2);
        let distance = CodeDistance::new(&block, &query, Grade::Coarse);
        for (row, [x, y]) in [[10.0, 6.0], [9.9, 6.0], [10.0, 6.1f32]].into_iter().enumerate() {
            let rounded = (5.945 / 10.0 * 127.0f32).round() * 10.0 / 127.0;
            let coarse = ((10.0 - x).powi(2) + (rounded - y).powi(2)).sqrt();
            let fine = ((10.0 - x).powi(2) + (5.945 - y).powi(2)).sqrt();
            assert!((distance.row(row as u32) - coarse).abs() < 0.005, "row {row}");
            assert!((distance.fine(row as u32) - fine).abs() < 0.005, "row {row}");
        }
    }
}
