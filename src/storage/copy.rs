//! The files of one generation in a segment as those of another: for rows that do not change.

use super::segment::vectors_dir;
use super::segment_writer::Target;
use super::{remove_dir_if_present, segment::segment_dir};
use crate::error::{Error, Result};
use crate::format::manifest::{FileEntry, SegmentEntry, VectorSet};

/// Bytes that are copied at once.
const PIECE: usize = 8 << 20;

impl Target<'_> {
    /// Copies and syncs the files of the set `from` of a segment, its graph included, as those of `to`. They say nothing of the
    /// generation that they belong to.
    ///
    /// # Errors
    /// [`Error::Input`] if the segment has no such set; [`Error::Io`].
    pub fn copy_vectors(
        &self,
        segment: &SegmentEntry,
        from: VectorSet,
        to: VectorSet,
    ) -> Result<Vec<FileEntry>> {
        let folders = [from, to].map(|set| vectors_dir(segment.id, set));
        let [from, to] = folders.each_ref().map(String::as_str);
        let inside =
            |file: &&FileEntry| file.path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/'));
        let files: Vec<&FileEntry> = segment.files.iter().filter(inside).collect();
        if files.is_empty() {
            return Err(Error::input(format!("segment {} has no {from}", segment.id)));
        }
        remove_dir_if_present(self.vfs, &self.dir.join(to))?;
        self.vfs.create_dir(&self.dir.join(to))?;
        let mut copies = Vec::with_capacity(files.len());
        for file in files {
            let path = format!("{to}{}", file.path.strip_prefix(from).unwrap_or_default());
            self.copy(&file.path, &path)?;
            copies.push(FileEntry { path, ..file.clone() });
        }
        self.vfs.sync_dir(&self.dir.join(to))?;
        self.vfs.sync_dir(&self.dir.join(segment_dir(segment.id)))?;
        Ok(copies)
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let bytes = self.vfs.map(&self.dir.join(from))?;
        let mut file = self.vfs.create(&self.dir.join(to))?;
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            file.write_at((number * PIECE) as u64, piece)?;
        }
        file.sync()
    }
}
