//! One immutable file of a segment, mapped: found to be the one that the manifest names when it is opened, its pages
//! verified when they are first touched.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytemuck::Pod;

use super::vfs::{Bytes, Vfs};
use crate::error::{Error, Result};
use crate::format::attrs::Sections;
use crate::format::file::{DatabaseId, Kind, Layout};
use crate::format::guard::{Guard, Verify};
use crate::format::manifest::FileEntry;
use crate::format::seen::Seen;

/// What is read from end to end is taken out of this process's memory after so many bytes: it is not read again soon,
/// and a merge reads more than may be in memory.
pub(super) const RELEASED_AFTER: usize = 32 << 20;

/// What to do about damage of a file that nothing else tells the contents of.
pub(super) const LOST: &str = "; nothing in the database can make it anew: restore a backup, or save the rest with `repair --out NEWDB`";

/// A file of sections that are read in parts, each verified.
pub trait Parts: Sections {
    /// Elements `from..from + count` of a section.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for elements outside of the section, and for damaged ones.
    fn section_range<T: Pod>(&self, id: u32, from: usize, count: usize) -> Result<&[T]>;

    /// A corruption error in section `id`.
    fn corrupt(&self, id: u32, what: &str) -> Error;
}

/// One mapped file of a segment.
pub struct SegmentFile {
    bytes: Bytes,
    layout: Layout,
    path: PathBuf,
    /// What to do about damage.
    cure: &'static str,
    verified: Seen,
    /// The first damage that was found.
    damage: OnceLock<Damage>,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Offset of the first contradiction, in bytes.
    pub offset: u64,
    /// What was expected and found, and what to do.
    pub what: String,
}

impl Damage {
    /// What an error says about a file that is damaged or missing.
    ///
    /// # Errors
    /// The error itself, if it says something else.
    pub fn of(error: Error) -> Result<Self> {
        match error {
            Error::Corrupt { file, offset, what } => Ok(Self { file, offset, what }),
            Error::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                let what = format!("a file that the manifest names: {source}");
                Ok(Self { file: path, offset: 0, what })
            }
            other => Err(other),
        }
    }

    /// As an error.
    pub fn error(&self) -> Error {
        Error::corrupt(&self.file, self.offset, self.what.clone())
    }
}

/// Says what to do about damage.
pub(super) fn cured(error: Error, cure: &str) -> Error {
    match error {
        Error::Corrupt { file, offset, what } => Error::Corrupt { file, offset, what: what + cure },
        other => other,
    }
}

impl SegmentFile {
    /// Maps a file and checks that it is the one the manifest names.
    pub fn open(
        vfs: &dyn Vfs,
        dir: &Path,
        entry: &FileEntry,
        kind: Kind,
        database: &DatabaseId,
    ) -> Result<Self> {
        Self::map(vfs, dir, entry, kind, database).map_err(|error| cured(error, LOST))
    }

    /// The same of a file for whose damage there is a cure; what is wrong with it is told without.
    pub(super) fn map(
        vfs: &dyn Vfs,
        dir: &Path,
        entry: &FileEntry,
        kind: Kind,
        database: &DatabaseId,
    ) -> Result<Self> {
        let path = dir.join(&entry.path);
        let length = vfs.file_len(&path)?;
        if length != entry.length {
            let what = format!("the file has {length} bytes, the manifest says {}", entry.length);
            return Err(Error::corrupt(path, length.min(entry.length), what));
        }
        let bytes = vfs.map(&path)?;
        // Opening looks at both ends; reading ahead from there would cost more than all the rest of it.
        bytes.advise_random();
        let layout = Layout::parse(&bytes, kind, &path)?;
        // Of vectors and graphs searches read single pages, which they request themselves.
        if !matches!(kind, Kind::Codes | Kind::Full | Kind::Graph) {
            bytes.advise_normal();
        }
        if layout.checksum != entry.checksum || layout.database != *database {
            return Err(Error::corrupt(path, 0, "not the file that the manifest names"));
        }
        let verified = Seen::none(layout.pages());
        Ok(Self { bytes, layout, path, cure: LOST, verified, damage: OnceLock::new() })
    }

    /// The same file with another cure.
    pub(super) fn cured_by(self, cure: &'static str) -> Self {
        Self { cure, ..self }
    }

    /// The first damage that was found in its bytes.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.get()
    }

    /// A whole section, as numbers.
    pub fn section<T: Pod>(&self, id: u32) -> Result<&[T]> {
        let range = self.locate(id)?;
        self.verify(range.start, range.end)?;
        self.cast(id, range)
    }

    /// Elements `from..from + count` of a section; only their pages are verified.
    pub fn section_range<T: Pod>(&self, id: u32, from: usize, count: usize) -> Result<&[T]> {
        let range = self.locate(id)?;
        let part = from.checked_mul(size_of::<T>()).and_then(|start| {
            let start = range.start.checked_add(start)?;
            let end = start.checked_add(count.checked_mul(size_of::<T>())?)?;
            (end <= range.end).then_some(start..end)
        });
        let part = part.ok_or_else(|| self.corrupt(id, "an element lies outside its section"))?;
        self.verify(part.start, part.end)?;
        self.cast(id, part)
    }

    /// Requests the pages of elements that are read soon from the disk, unless they were read before.
    pub(super) fn request<T: Pod>(&self, id: u32, from: usize, count: usize) {
        let Some(section) = self.layout.section(id) else { return };
        let start = section.start.saturating_add(from.saturating_mul(size_of::<T>()));
        let end = start.saturating_add(count.saturating_mul(size_of::<T>())).min(section.end);
        let len = self.layout.page_len();
        for page in (start / len..end.div_ceil(len)).filter(|&page| !self.verified.has(page)) {
            self.bytes.advise_willneed(page * len..(page + 1) * len);
        }
    }

    /// A whole section that searches read here and there: nothing of it is verified, so that the cost does not depend
    /// on its length. Whoever reads it asks the [`guard`](Self::guard) to touch it.
    pub fn scattered<T: Pod>(&self, id: u32) -> Result<&[T]> {
        self.cast(id, self.locate(id)?)
    }

    /// Verifies what is read of [`scattered`](Self::scattered) sections; none once every page was verified.
    pub fn guard(&self) -> Option<Guard<'_>> {
        let shift = self.layout.page_len().trailing_zeros();
        (self.verified.left() > 0).then(|| Guard::new(&self.bytes, shift, &self.verified, self))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of elements of a section, without a look at them.
    pub fn count<T: Pod>(&self, id: u32) -> Result<usize> {
        self.locate(id).map(|range| range.len() / size_of::<T>())
    }

    /// Whether it holds codes or a graph.
    pub(super) fn is_walked(&self) -> bool {
        ["codes", "graph"].iter().any(|name| self.path.ends_with(name))
    }

    /// Tells the system that the file is about to be read from end to end.
    pub fn expect_all(&self) {
        self.bytes.advise_normal();
    }

    /// Takes the file out of this process's memory until it is read again.
    pub fn release(&self) {
        self.bytes.release();
    }

    /// Verifies the pages that were not verified before.
    pub fn verify_rest(&self) -> Result<()> {
        self.expect_all();
        let end = self.layout.body_len();
        for start in (0..end).step_by(RELEASED_AFTER) {
            self.verify(start, (start + RELEASED_AFTER).min(end))?;
            if end > RELEASED_AFTER {
                self.release();
            }
        }
        Ok(())
    }

    /// Whether the file has this section.
    pub fn has(&self, id: u32) -> bool {
        self.layout.section(id).is_some()
    }

    /// Verifies every page, whatever was verified before: what `check` does.
    pub fn verify_all(&self) -> Result<()> {
        self.expect_all();
        let verified = self.layout.verify(&self.bytes, 0, self.bytes.len(), &self.path);
        verified.map_err(|error| self.condemn(error))
    }

    /// A corruption error in section `id`.
    pub fn corrupt(&self, id: u32, what: &str) -> Error {
        let offset = self.layout.section(id).map_or(0, |r| r.start);
        Error::corrupt(&self.path, offset as u64, format!("{what}{}", self.cure))
    }

    /// Notes damage, and says what to do about it.
    #[cold]
    fn condemn(&self, error: Error) -> Error {
        let error = cured(error, self.cure);
        if let Error::Corrupt { file, offset, what } = &error {
            let damage = Damage { file: file.clone(), offset: *offset, what: what.clone() };
            let _ = self.damage.set(damage);
        }
        error
    }

    fn locate(&self, id: u32) -> Result<std::ops::Range<usize>> {
        self.layout
            .section(id)
            .ok_or_else(|| Error::corrupt(&self.path, 0, format!("section {id} is missing{}", self.cure)))
    }

    fn cast<T: Pod>(&self, id: u32, range: std::ops::Range<usize>) -> Result<&[T]> {
        let bytes = self.bytes.get(range).unwrap_or_default();
        bytemuck::try_cast_slice(bytes)
            .map_err(|_| self.corrupt(id, "the section's length does not fit its type"))
    }

    fn verify(&self, start: usize, end: usize) -> Result<()> {
        let len = self.layout.page_len();
        let end = end.min(self.layout.body_len()).div_ceil(len);
        let mut page = self.verified.next_unseen(start / len);
        while page < end {
            self.verify_anew(page)?;
            page = self.verified.next_unseen(page + 1);
        }
        Ok(())
    }

    fn verify_anew(&self, page: usize) -> Result<()> {
        let verified = self.layout.verify_page(&self.bytes, page, &self.path);
        verified.map_err(|error| self.condemn(error))?;
        self.verified.note(page);
        Ok(())
    }
}

impl Verify for SegmentFile {
    #[cold]
    fn verify_page(&self, page: usize) {
        if page < self.layout.pages() {
            // Damage is noted, which whoever reads asks for at the end.
            let _ = self.verify_anew(page);
            // With half of it behind, the other half costs no more than that did, and no search need ask again.
            let left = self.verified.left();
            if left > 0 && 2 * left < self.layout.pages() {
                let _ = self.verify(0, self.layout.body_len());
            }
        }
    }

    fn is_damaged(&self) -> bool {
        self.damage.get().is_some()
    }
}

impl Parts for SegmentFile {
    fn section_range<T: Pod>(&self, id: u32, from: usize, count: usize) -> Result<&[T]> {
        self.section_range(id, from, count)
    }

    fn corrupt(&self, id: u32, what: &str) -> Error {
        self.corrupt(id, what)
    }
}

impl Sections for SegmentFile {
    fn size(&self, section: u32) -> usize {
        self.layout.section(section).map_or(0, |range| range.len())
    }

    fn bytes(&self, section: u32, range: Range<usize>) -> Result<&[u8]> {
        self.section_range(section, range.start, range.end.saturating_sub(range.start))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sim::SimVfs;
    use super::super::write_new;
    use super::*;
    use crate::format::file::FileBuilder;

    const DATABASE: DatabaseId = [5; 16];

    #[test]
    fn elements_lie_within_their_section_and_the_file_is_as_long_as_the_manifest_says() {
        let vfs = SimVfs::new(1);
        let numbers: Vec<u8> = (0..5u64).flat_map(u64::to_le_bytes).collect();
        let bytes =
            FileBuilder::new(Kind::Ids, DATABASE).section(1, numbers).section(2, vec![7; 640]).finish();
        write_new(&vfs, Path::new("ids"), &bytes).unwrap();
        let checksum = Layout::parse(&bytes, Kind::Ids, Path::new("ids")).unwrap().checksum;
        let entry = FileEntry { path: "ids".into(), length: bytes.len() as u64, checksum };
        let open = |entry: &FileEntry| SegmentFile::open(&vfs, Path::new(""), entry, Kind::Ids, &DATABASE);
        let file = open(&entry).unwrap();
        assert_eq!(file.section_range::<u64>(1, 3, 2).unwrap(), [3, 4]);
        for (from, count) in [(3, 3), (5, 1), (6, 0), (usize::MAX, 2), (2, usize::MAX)] {
            assert_eq!(
                file.section_range::<u64>(1, from, count).unwrap_err().exit_code(),
                2,
                "{from} {count}"
            );
        }
        for wrong in [
            FileEntry { length: entry.length + 1, ..entry.clone() },
            FileEntry { checksum: checksum ^ 1, ..entry.clone() },
        ] {
            assert_eq!(open(&wrong).err().unwrap().exit_code(), 2, "{wrong:?}");
        }
        assert!(SegmentFile::open(&vfs, Path::new(""), &entry, Kind::Ids, &[6; 16]).is_err());
    }

    #[test]
    fn whoever_touches_a_damaged_page_is_told_in_the_end() {
        let vfs = SimVfs::new(1);
        let mut bytes = FileBuilder::new(Kind::Ids, DATABASE).section(1, vec![7; 100_000]).finish();
        let checksum = Layout::parse(&bytes, Kind::Ids, Path::new("ids")).unwrap().checksum;
        let entry = FileEntry { path: "ids".into(), length: bytes.len() as u64, checksum };
        bytes[60_000] ^= 4;
        write_new(&vfs, Path::new("ids"), &bytes).unwrap();
        let file = SegmentFile::open(&vfs, Path::new(""), &entry, Kind::Ids, &DATABASE).unwrap();
        let (section, guard) = (file.scattered::<u8>(1).unwrap(), file.guard().unwrap());
        guard.touch(&section[..5_000]);
        assert!(!guard.is_damaged());
        guard.touch(&section[55_000..65_000]);
        assert!(guard.is_damaged());
    }
}
