//! Bounded reading: a file (or standard input) that counts what was read, and its lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embdb::{Error, Result};

use super::{LINE_BYTES, ReadProgress, over};

/// Whether the path means standard input.
pub(super) fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The path's name in messages.
pub(super) fn name(path: &Path) -> String {
    if is_standard_input(path) { "standard input".into() } else { path.display().to_string() }
}

/// A reader that counts its bytes.
pub(super) struct Metered {
    inner: Box<dyn Read + Send>,
    progress: Arc<ReadProgress>,
}

impl Metered {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(path: &Path, progress: Arc<ReadProgress>) -> Result<Self> {
        let inner: Box<dyn Read + Send> = if is_standard_input(path) {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(Error::io("open", path))?)
        };
        Ok(Self { inner, progress })
    }
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.progress.add(bytes as u64);
        Ok(bytes)
    }
}

/// The lines of a text file that are not blank, without line ends and byte order mark.
pub(super) struct Lines {
    reader: BufReader<Metered>,
    path: PathBuf,
    number: u64,
    buffer: Vec<u8>,
}

impl Lines {
    pub(super) fn open(path: &Path, progress: Arc<ReadProgress>) -> Result<Self> {
        let reader = BufReader::with_capacity(1 << 16, Metered::open(path, progress)?);
        Ok(Self { reader, path: path.into(), number: 0, buffer: Vec::new() })
    }

    /// Where the last line is: `FILE:LINE`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", name(&self.path), self.number)
    }

    /// The next line; `None` at the end.
    pub(super) fn read(&mut self) -> Result<Option<&str>> {
        loop {
            self.buffer.clear();
            let mut bounded = (&mut self.reader).take(LINE_BYTES + 1);
            let bytes = bounded.read_until(b'\n', &mut self.buffer).map_err(Error::io("read", &self.path))?;
            if bytes == 0 {
                return Ok(None);
            }
            self.number += 1;
            if bytes as u64 > LINE_BYTES {
                over(&self.place(), "the line, in bytes,", bytes as u64, LINE_BYTES, "split the document")?;
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        let mut line = self.buffer.as_slice();
        if self.number == 1 {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        match std::str::from_utf8(line) {
            Ok(line) => Ok(Some(line.trim_end_matches(['\n', '\r']))),
            Err(e) => {
                let what =
                    format!("{}: invalid UTF-8 at byte {} of the line", self.place(), e.valid_up_to() + 1);
                Err(Error::input(what))
            }
        }
    }
}
