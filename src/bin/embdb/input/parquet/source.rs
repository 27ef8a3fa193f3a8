//! The bytes of a file for the parquet crate: what lies beyond its end is an error at once.
//!
//! The crate makes room for what a header claims before it reads, and passes over fields whose bytes are not there as if
//! they were, so that a list of two billion of them would keep it busy for long.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::FOOTER_SIZE;
use parquet::file::reader::{ChunkReader, Length};

use super::thrift::look_over;

/// A file of a known length, of which each header is looked over before it is read.
pub(super) struct Source {
    file: File,
    len: u64,
}

impl Source {
    pub(super) fn new(file: File) -> Result<Self> {
        let len = file.metadata()?.len();
        let source = Self { file, len };
        source.look_over_footer()?;
        Ok(source)
    }

    /// The file's own header lies before its last eight bytes: its length and a mark.
    fn look_over_footer(&self) -> Result<()> {
        let Some(end) = self.len.checked_sub(FOOTER_SIZE as u64) else { return Ok(()) };
        let mut footer = [0; FOOTER_SIZE];
        self.from(end)?.read_exact(&mut footer)?;
        let [a, b, c, d, mark @ ..] = footer;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        match end.checked_sub(length) {
            Some(start) if mark == *b"PAR1" => self.look_over(start, length),
            // The crate tells what is wrong.
            _ => Ok(()),
        }
    }

    fn look_over(&self, start: u64, len: u64) -> Result<()> {
        look_over(self.from(start)?, len).map_err(|e| ParquetError::General(e.to_string()))
    }

    fn from(&self, start: u64) -> io::Result<BufReader<ToTheEnd>> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(ToTheEnd(file)))
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Source {
    type T = BufReader<ToTheEnd>;

    /// For headers of pages, and for the last bytes of the file.
    fn get_read(&self, start: u64) -> Result<Self::T> {
        let left = self.len.saturating_sub(start);
        if left != FOOTER_SIZE as u64 {
            self.look_over(start, left)?;
        }
        Ok(self.from(start)?)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            let what = format!("{length} bytes from byte {start} on, of a file of {}", self.len);
            return Err(ParquetError::EOF(what));
        }
        let mut bytes = vec![0; length];
        self.from(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A file whose end is an error.
pub(super) struct ToTheEnd(File);

impl Read for ToTheEnd {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into) {
            Ok(0) if !into.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            read => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_a_file_lacks_is_an_error_before_there_is_room_for_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let source = Source { file, len: 10 };
        assert_eq!(source.get_bytes(3, 7).unwrap().as_ref(), b"3456789");
        for (start, length) in [(3, 8), (10, 1), (11, 0), (0, usize::MAX), (u64::MAX, 1)] {
            assert!(matches!(source.get_bytes(start, length), Err(ParquetError::EOF(_))), "{start} {length}");
        }
        let mut read = source.from(8).unwrap();
        let mut two = [0; 2];
        read.read_exact(&mut two).unwrap();
        assert_eq!(two, *b"89");
        let passed_over = io::copy(&mut read.take(8), &mut io::sink());
        assert_eq!(passed_over.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
