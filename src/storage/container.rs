//! Containers written piece by piece: what a segment holds need not be in memory a second time.

use std::path::PathBuf;

use super::vfs::{Vfs, WriteFile};
use crate::error::{Error, Result};
use crate::format::file::{ALIGN, BLOCK_LEN, DatabaseId, Kind, head, page_checksums, tail};
use crate::format::manifest::FileEntry;

/// Bytes that are written at once.
const BUFFER: usize = 8 * BLOCK_LEN;

/// Writes one container. The lengths of sections are known only at its end: the first block, which holds their table, is
/// written once more then.
pub struct ContainerWriter {
    file: Box<dyn WriteFile>,
    path: PathBuf,
    kind: Kind,
    database: DatabaseId,
    /// Ids and lengths; the last one is under way.
    sections: Vec<(u32, u64)>,
    /// Sections in all.
    count: usize,
    /// The first block of the file, once it is in it.
    first: Vec<u8>,
    /// What is not in the file yet; begins at a multiple of the block length.
    buffer: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    /// Checksums of its pages.
    sums: Vec<u64>,
}

impl ContainerWriter {
    /// Begins a new file of `count` sections; a left-over of the same name is removed.
    pub fn create(
        vfs: &dyn Vfs,
        path: PathBuf,
        kind: Kind,
        database: DatabaseId,
        count: usize,
    ) -> Result<Self> {
        if vfs.exists(&path)? {
            vfs.remove_file(&path)?;
        }
        let file = vfs.create(&path)?;
        let buffer = vec![0; head(kind, database, &vec![(0, 0); count]).len()];
        let (sections, first, sums) = (Vec::with_capacity(count), Vec::new(), Vec::new());
        Ok(Self { file, path, kind, database, sections, count, first, buffer, written: 0, sums })
    }

    /// Ends the section under way and begins the next one.
    pub fn begin(&mut self, id: u32) {
        self.align();
        self.sections.push((id, 0));
    }

    /// Appends bytes to the section under way.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Some((_, length)) = self.sections.last_mut() else {
            return Err(Error::corrupt(&self.path, self.written, "bytes before the first section"));
        };
        *length += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BUFFER.saturating_sub(self.buffer.len())));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() >= BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn align(&mut self) {
        // The buffer begins at a multiple of the alignment.
        self.buffer.resize(self.buffer.len().next_multiple_of(ALIGN), 0);
    }

    fn flush(&mut self) -> Result<()> {
        let whole = self.buffer.len() / BLOCK_LEN * BLOCK_LEN;
        if self.written == 0 {
            self.first = self.buffer.iter().take(BLOCK_LEN).copied().collect();
        }
        self.sums.extend(page_checksums(&self.buffer[..whole]));
        self.file.write_at(self.written, &self.buffer[..whole])?;
        self.written += whole as u64;
        self.buffer.drain(..whole);
        Ok(())
    }

    /// Writes what remains and the table of sections, and syncs; the caller syncs the directory. `path` is that of the
    /// entry.
    pub fn finish(mut self, path: String) -> Result<FileEntry> {
        if self.sections.len() != self.count {
            let what = format!("{} sections where {} were announced", self.sections.len(), self.count);
            return Err(Error::corrupt(&self.path, self.written, what));
        }
        self.align();
        let head = head(self.kind, self.database, &self.sections);
        let first = if self.written == 0 { &mut self.buffer } else { &mut self.first };
        first.iter_mut().zip(&head).for_each(|(byte, &of_head)| *byte = of_head);
        if !self.sums.is_empty() {
            self.sums.iter_mut().zip(page_checksums(&self.first)).for_each(|(sum, of_first)| *sum = of_first);
            self.file.write_at(0, &self.first)?;
        }
        self.sums.extend(page_checksums(&self.buffer));
        let tail = tail(self.written + self.buffer.len() as u64, &self.sums);
        // The trailer ends in the checksum and the end mark.
        let checksum = crate::format::u64_at(&tail, tail.len() - 16).unwrap_or_default();
        self.buffer.extend_from_slice(&tail);
        self.file.write_at(self.written, &self.buffer)?;
        self.file.sync()?;
        Ok(FileEntry { path, length: self.written + self.buffer.len() as u64, checksum })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::sim::SimVfs;
    use super::*;
    use crate::format::file::FileBuilder;

    /// The bytes of a file of these sections, handed over in pieces of `piece` bytes.
    fn streamed(vfs: &SimVfs, sections: &[(u32, Vec<u8>)], piece: usize) -> (Vec<u8>, FileEntry) {
        let mut writer =
            ContainerWriter::create(vfs, "f".into(), Kind::Docs, [7; 16], sections.len()).unwrap();
        for (id, bytes) in sections {
            writer.begin(*id);
            bytes.chunks(piece).for_each(|part| writer.write(part).unwrap());
        }
        let entry = writer.finish("f".into()).unwrap();
        (vfs.read(Path::new("f")).unwrap(), entry)
    }

    #[test]
    fn pieces_make_the_same_file_as_the_whole() {
        let vfs = SimVfs::new(1);
        let long = |n: usize| (0..n).map(|i| (i * i) as u8).collect::<Vec<u8>>();
        for sections in [
            vec![],
            vec![(1, vec![])],
            vec![(1, vec![]), (2, long(5)), (3, vec![]), (4, long(64))],
            vec![(1, long(BLOCK_LEN - 128)), (2, long(1))],
            vec![(1, long(3 * BUFFER + 17)), (2, long(BUFFER)), (3, vec![])],
        ] {
            let whole = sections
                .iter()
                .fold(FileBuilder::new(Kind::Docs, [7; 16]), |file, (id, bytes)| {
                    file.section(*id, bytes.clone())
                })
                .finish();
            for piece in [1000, BLOCK_LEN, 1 << 22] {
                let (bytes, entry) = streamed(&vfs, &sections, piece);
                assert!(bytes == whole, "{} sections in pieces of {piece}", sections.len());
                assert_eq!(entry.length, whole.len() as u64);
                assert_eq!(Some(entry.checksum), crate::format::u64_at(&whole, whole.len() - 16));
            }
        }
    }

    #[test]
    fn sections_that_were_not_announced_are_refused() {
        let vfs = SimVfs::new(1);
        let mut writer = ContainerWriter::create(&vfs, "f".into(), Kind::Docs, [7; 16], 2).unwrap();
        assert!(writer.write(&[0]).is_err());
        writer.begin(1);
        assert!(writer.finish("f".into()).is_err());
    }
}
