//! Lines of a file, within the limit of a document.

use std::io::{BufRead, Read as _};
use std::path::Path;

use crate::error::{Error, Result};
use crate::options::limits;

/// A reader of lines that have something in them.
pub(super) struct Lines<'a, R> {
    reader: R,
    name: &'a str,
    bytes: Vec<u8>,
    number: u64,
}

impl<'a, R: BufRead> Lines<'a, R> {
    /// `name`: the file's, for messages.
    pub fn new(reader: R, name: &'a str) -> Self {
        Self { reader, name, bytes: Vec::new(), number: 0 }
    }

    /// The next line that is not blank, without its end, and its number from 1.
    ///
    /// # Errors
    /// [`Error::Input`] for invalid UTF-8, [`Error::Limit`] for a line over [`limits::DOCUMENT_BYTES`], [`Error::Io`].
    pub fn next(&mut self) -> Result<Option<(u64, &str)>> {
        loop {
            if !self.fill()? {
                return Ok(None);
            }
            // Asked twice, as a borrow that may be returned cannot be given up in the other case.
            if !self.line()?.trim().is_empty() {
                break;
            }
        }
        Ok(Some((self.number, self.line()?)))
    }

    fn line(&self) -> Result<&str> {
        let (name, number) = (self.name, self.number);
        let line = std::str::from_utf8(&self.bytes).map_err(|e| {
            Error::Input(format!("{name}: line {number}: invalid UTF-8 at byte {}", e.valid_up_to()))
        })?;
        Ok(if number == 1 { line.trim_start_matches('\u{feff}') } else { line })
    }

    /// Reads the next line; false at the end of the input.
    fn fill(&mut self) -> Result<bool> {
        self.bytes.clear();
        self.number += 1;
        let limit = limits::DOCUMENT_BYTES as u64;
        // One byte beyond the limit tells a line that is too long from one that just fits.
        let mut reader = (&mut self.reader).take(limit + 2);
        let read =
            reader.read_until(b'\n', &mut self.bytes).map_err(Error::io("read", Path::new(self.name)))?;
        if self.bytes.last() == Some(&b'\n') {
            self.bytes.pop();
        }
        if self.bytes.len() as u64 > limit {
            return Err(Error::Limit {
                what: format!("line {} of {}, in bytes,", self.number, self.name),
                limit,
                actual: self.bytes.len() as u64,
                raise: "shorten the text".into(),
            });
        }
        Ok(read > 0)
    }
}
