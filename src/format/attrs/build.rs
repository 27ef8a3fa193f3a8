//! Building the columns of a segment.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::{Column, SECTION_BYTES, Scalar, Sections, flatten};
use crate::error::{Error, Result};
use crate::format::segment::attrs;
use crate::types::Meta;

/// Gathers metadata, document by document in ascending order.
#[derive(Debug, Default)]
pub struct AttrsBuilder {
    columns: BTreeMap<String, Gathered>,
}

/// Values of one key with their documents, by kind.
#[derive(Debug, Default)]
struct Gathered {
    nulls: Vec<u32>,
    bools: Vec<(bool, u32)>,
    ints: Vec<(i64, u32)>,
    floats: Vec<(f64, u32)>,
    /// Number of the string, in order of appearance.
    texts: Vec<(u32, u32)>,
    numbers: HashMap<Box<str>, u32>,
}

impl Gathered {
    fn push(&mut self, document: u32, scalar: Scalar<'_>) {
        match scalar {
            Scalar::Null => self.nulls.push(document),
            Scalar::Bool(value) => self.bools.push((value, document)),
            Scalar::Int(value) => self.ints.push((value, document)),
            Scalar::Float(value) => self.floats.push((value, document)),
            Scalar::Text(text) => {
                let number = self.number(text);
                self.texts.push((number, document));
            }
        }
    }

    /// Memory ends long before 2³² distinct strings.
    fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(text.into(), number);
        number
    }
}

impl AttrsBuilder {
    /// Takes a document's metadata. Parts that [`check_meta`](super::check_meta) would refuse are left out.
    pub fn push(&mut self, document: u32, meta: &Meta) {
        flatten(meta, &mut |key, scalar| match self.columns.get_mut(key) {
            Some(column) => column.push(document, scalar),
            None => self.columns.entry(key.to_owned()).or_default().push(document, scalar),
        });
    }

    /// The sections.
    ///
    /// # Errors
    /// [`Error::Limit`] if they are longer than [`SECTION_BYTES`] together.
    pub fn finish(self) -> Result<Columns> {
        let mut columns = Columns { text_offsets: vec![0], ..Columns::default() };
        for (key, gathered) in self.columns {
            columns.add(&key, gathered);
            let bytes = columns.size();
            if bytes > SECTION_BYTES {
                return Err(Error::Limit {
                    what: "metadata of one segment, in bytes,".into(),
                    limit: SECTION_BYTES as u64,
                    actual: bytes as u64,
                    raise: "seal segments earlier".into(),
                });
            }
        }
        columns.starts.push(columns.docs.len() as u32);
        Ok(columns)
    }
}

/// The sections of an attributes file, in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Columns {
    pub(super) columns: Vec<Column>,
    pub(super) keys: Vec<u8>,
    pub(super) values: Vec<u64>,
    pub(super) starts: Vec<u32>,
    pub(super) docs: Vec<u32>,
    pub(super) text_offsets: Vec<u32>,
    pub(super) texts: Vec<u8>,
}

impl Columns {
    /// All sections as id and bytes, in order.
    pub fn sections(&self) -> [(u32, &[u8]); 7] {
        [
            (attrs::COLUMNS, bytemuck::cast_slice(&self.columns)),
            (attrs::KEYS, &self.keys),
            (attrs::VALUES, bytemuck::cast_slice(&self.values)),
            (attrs::STARTS, bytemuck::cast_slice(&self.starts)),
            (attrs::DOCS, bytemuck::cast_slice(&self.docs)),
            (attrs::TEXT_OFFSETS, bytemuck::cast_slice(&self.text_offsets)),
            (attrs::TEXTS, &self.texts),
        ]
    }

    fn size(&self) -> usize {
        self.sections().iter().map(|section| section.1.len()).sum()
    }

    fn add(&mut self, key: &str, gathered: Gathered) {
        let Gathered { nulls, mut bools, mut ints, mut floats, texts, numbers } = gathered;
        self.keys.extend_from_slice(key.as_bytes());
        let mut column = Column { key_end: self.keys.len() as u32, ..Column::default() };
        column.nulls = self.values.len() as u32;
        self.group(nulls.into_iter().map(|document| (0, document)));
        column.bools = self.values.len() as u32;
        bools.sort_unstable();
        self.group(bools.into_iter().map(|(value, document)| (u64::from(value), document)));
        column.ints = self.values.len() as u32;
        ints.sort_unstable();
        self.group(ints.into_iter().map(|(value, document)| (value as u64, document)));
        column.floats = self.values.len() as u32;
        floats.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        self.group(floats.into_iter().map(|(value, document)| (value.to_bits(), document)));
        column.texts = self.values.len() as u32;
        let mut texts = self.add_texts(numbers, texts);
        texts.sort_unstable();
        self.group(texts.into_iter().map(|(number, document)| (u64::from(number), document)));
        column.end = self.values.len() as u32;
        self.columns.push(column);
    }

    /// Appends strings in order; returns the entries with their new numbers.
    fn add_texts(
        &mut self,
        numbers: HashMap<Box<str>, u32>,
        mut entries: Vec<(u32, u32)>,
    ) -> Vec<(u32, u32)> {
        let first = self.text_offsets.len() as u32 - 1;
        let mut sorted: Vec<(Box<str>, u32)> = numbers.into_iter().collect();
        sorted.sort_unstable();
        let mut place = vec![0; sorted.len()];
        for (n, (text, number)) in sorted.iter().enumerate() {
            place[*number as usize] = first + n as u32;
            self.texts.extend_from_slice(text.as_bytes());
            self.text_offsets.push(self.texts.len() as u32);
        }
        entries.iter_mut().for_each(|entry| entry.0 = place[entry.0 as usize]);
        entries
    }

    /// Appends entries that are in order: each distinct value once, each document of a value once.
    fn group(&mut self, entries: impl Iterator<Item = (u64, u32)>) {
        let mut last = None;
        for (value, document) in entries {
            if last.is_none_or(|(before, _)| before != value) {
                self.values.push(value);
                self.starts.push(self.docs.len() as u32);
            }
            if last != Some((value, document)) {
                self.docs.push(document);
            }
            last = Some((value, document));
        }
    }
}

impl Sections for Columns {
    fn size(&self, section: u32) -> usize {
        self.sections().iter().find(|s| s.0 == section).map_or(0, |s| s.1.len())
    }

    fn bytes(&self, section: u32, range: Range<usize>) -> Result<&[u8]> {
        let found = self.sections().into_iter().find(|s| s.0 == section).and_then(|s| s.1.get(range));
        found.ok_or_else(|| Error::corrupt("attrs", 0, "a range outside of its section"))
    }
}
