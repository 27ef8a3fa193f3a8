//! Rows of a table where they lie in a file: of tens of thousands, a text needs a few.

use safetensors::Dtype;

use crate::encoder::files::FileBytes;
use crate::encoder::weights::decode;

/// A table of rows, read from its file's bytes.
pub(crate) struct Table {
    /// The file.
    bytes: FileBytes,
    /// Where the first row begins.
    start: usize,
    rows: usize,
    width: usize,
    dtype: Dtype,
    /// Bytes of a value.
    size: usize,
    /// What each row of I8 is multiplied by; of other types nothing.
    scales: Option<Vec<f32>>,
}

impl Table {
    /// A table of rows × `width` values that begins at `start` of `bytes` and lies within them.
    pub(crate) fn new(
        bytes: FileBytes,
        start: usize,
        [rows, width]: [usize; 2],
        dtype: Dtype,
        scales: Option<Vec<f32>>,
    ) -> Self {
        Self { bytes, start, rows, width, dtype, size: dtype.bitsize() / 8, scales }
    }

    /// Writes a row to `out`, as long as a row is; nothing if there is no such row.
    pub(crate) fn row(&self, number: usize, out: &mut [f32]) -> Option<()> {
        if number >= self.rows {
            return None;
        }
        let length = self.width * self.size;
        let data = (*self.bytes).as_ref().get(self.start + number * length..)?.get(..length)?;
        decode(self.dtype, data, out.get_mut(..self.width)?)?;
        if let Some(scale) = self.scales.as_ref().and_then(|scales| scales.get(number)) {
            out.iter_mut().for_each(|value| *value *= scale);
        }
        Some(())
    }

    /// Whether all values are finite.
    pub(crate) fn is_finite(&self) -> bool {
        // What is decoded from bytes is.
        let mut row = vec![0.0; self.width];
        self.dtype == Dtype::I8
            || (0..self.rows).all(|number| {
                self.row(number, &mut row).is_some() && row.iter().fold(true, |all, v| all & v.is_finite())
            })
    }
}
