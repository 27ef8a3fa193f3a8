//! The pages of a column, refused where a header claims more than can be true or kept.
//!
//! The parquet crate makes room for as many values as a header claims before it looks for them, so that a file of a
//! kilobyte could ask for all memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::basic::Type as Physical;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::schema::types::ColumnDescriptor;

/// Values of a list's pages that are read for one call: four times those of as many of the longest vectors as are decoded at a
/// time.
const VALUES: u64 = 1 << 24;

/// How many values the pages held that were read for the call under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken(Arc<AtomicU64>);

impl Taken {
    /// Begins with the next call.
    pub(super) fn restart(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn add(&self, values: u64) -> u64 {
        self.0.fetch_add(values, Ordering::Relaxed).saturating_add(values)
    }
}

/// A column's pages, each looked at before it is decoded.
pub(super) struct Pages {
    inner: Box<dyn PageReader>,
    /// Bits that a value of a dictionary takes at least.
    value_bits: u64,
    /// In a list a row may take any number of values.
    list: bool,
    taken: Taken,
}

impl Pages {
    pub(super) fn new(inner: Box<dyn PageReader>, column: &ColumnDescriptor, taken: Taken) -> Self {
        let value_bits = match column.physical_type() {
            Physical::BOOLEAN => 1,
            // Of bytes there is the length at least.
            Physical::INT32 | Physical::FLOAT | Physical::BYTE_ARRAY => 32,
            Physical::INT64 | Physical::DOUBLE => 64,
            Physical::INT96 => 96,
            Physical::FIXED_LEN_BYTE_ARRAY => 8 * u64::try_from(column.type_length()).unwrap_or(0).max(1),
        };
        Self { inner, value_bits, list: column.max_rep_level() > 0, taken }
    }

    fn check(&self, page: &Page) -> Result<()> {
        let (values, bytes) = (u64::from(page.num_values()), page.buffer().len() as u64);
        if page.is_dictionary_page() {
            if values * self.value_bits > 8 * bytes {
                let what = format!("a dictionary of {bytes} bytes cannot hold {values} values");
                return Err(ParquetError::General(what));
            }
        } else if self.list && self.taken.add(values) > VALUES {
            let what =
                format!("its pages hold more than {VALUES} values for a few rows; write smaller pages");
            return Err(ParquetError::General(what));
        }
        Ok(())
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.get_next_page()?;
        page.as_ref().map_or(Ok(()), |page| self.check(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

#[cfg(test)]
mod tests {
    use parquet::basic::Encoding;
    use parquet::schema::parser::parse_message_type;
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    struct Given(Vec<Page>);

    impl PageReader for Given {
        fn get_next_page(&mut self) -> Result<Option<Page>> {
            Ok(self.0.pop())
        }

        fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
            Ok(None)
        }

        fn skip_next_page(&mut self) -> Result<()> {
            Ok(())
        }
    }

    impl Iterator for Given {
        type Item = Result<Page>;

        fn next(&mut self) -> Option<Self::Item> {
            self.get_next_page().transpose()
        }
    }

    fn pages(column: &str, pages: Vec<Page>, taken: &Taken) -> Pages {
        let schema = Arc::new(parse_message_type(&format!("message m {{ {column}; }}")).unwrap());
        let column = SchemaDescriptor::new(schema).column(0);
        Pages::new(Box::new(Given(pages)), &column, taken.clone())
    }

    #[test]
    fn a_dictionary_holds_no_more_values_than_its_bytes() {
        let columns = [
            ("required boolean x", 96),
            ("required int32 x", 3),
            ("required float x", 3),
            ("required binary x", 3),
            ("required int64 x", 1),
            ("required double x", 1),
            ("required int96 x", 1),
            ("required fixed_len_byte_array(5) x", 2),
        ];
        for (column, most) in columns {
            let dictionary = |num_values| Page::DictionaryPage {
                buf: vec![0; 12].into(),
                num_values,
                encoding: Encoding::PLAIN,
                is_sorted: false,
            };
            let of = |values| pages(column, vec![dictionary(values)], &Taken::default()).get_next_page();
            assert!(of(most).unwrap().is_some(), "{column}");
            let error = of(most + 1).unwrap_err().to_string();
            assert!(error.contains("a dictionary of 12 bytes cannot hold"), "{column}: {error}");
            of(u32::MAX).unwrap_err();
        }
    }

    #[test]
    fn a_few_rows_of_a_list_take_a_bounded_number_of_values() {
        let page = || Page::DataPage {
            buf: vec![0; 12].into(),
            num_values: (VALUES / 2) as u32,
            encoding: Encoding::PLAIN,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let taken = Taken::default();
        let mut list = pages("repeated float x", vec![page(), page(), page(), page()], &taken);
        assert!(list.get_next_page().unwrap().is_some() && list.get_next_page().unwrap().is_some());
        let error = list.get_next_page().unwrap_err().to_string();
        assert!(error.contains("write smaller pages"), "{error}");
        taken.restart();
        assert!(list.get_next_page().unwrap().is_some());
        let mut single = pages("optional float x", vec![page(), page(), page()], &taken);
        assert_eq!((0..4).filter(|_| single.get_next_page().unwrap().is_some()).count(), 3);
    }
}
