//! Files whose contents follow from others: damaged, they count as not there until they are made anew.
//!
//! Texts and vectors are the truth. Graphs, metadata columns, and codes where f32 rows are stored too, are made of them
//! to save time. Readers do without a damaged one; who may write makes it anew.

use std::sync::OnceLock;

use super::segment_file::{Damage, LOST, SegmentFile};
use crate::error::{Error, Result};

/// What to do about damage.
const CURE: &str = "; searches do without it, compact makes it anew";

/// Such a file.
pub struct Derived {
    file: Option<SegmentFile>,
    /// Whether what it follows from is stored.
    follows: bool,
    /// What is wrong with it, unless its checksums tell.
    damage: OnceLock<Damage>,
}

impl Derived {
    /// A file that was opened, or could not be because it is damaged or missing. Nothing can make it anew unless what it
    /// `follows` from is stored.
    ///
    /// # Errors
    /// Those that say something else.
    pub fn new(opened: Result<SegmentFile>, follows: bool) -> Result<Self> {
        let mut derived = Self { file: None, follows, damage: OnceLock::new() };
        match opened {
            Ok(file) => derived.file = Some(file.cured_by(derived.cure())),
            Err(error) => derived.condemn(error)?,
        }
        Ok(derived)
    }

    /// What to do about damage.
    fn cure(&self) -> &'static str {
        if self.follows { CURE } else { LOST }
    }

    /// The file, unless it is known to be damaged.
    pub fn file(&self) -> Option<&SegmentFile> {
        self.file.as_ref().filter(|_| self.damage().is_none())
    }

    /// What is wrong with it, as far as is known.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.get().or_else(|| self.file.as_ref()?.damage())
    }

    /// What is read of the file; `None` where it is damaged.
    ///
    /// # Errors
    /// Those that do not tell of damage.
    pub fn read<'a, T>(&'a self, read: impl FnOnce(&'a SegmentFile) -> Result<T>) -> Result<Option<T>> {
        let Some(file) = self.file() else { return Ok(None) };
        match read(file) {
            Ok(found) => Ok(Some(found)),
            Err(error) => self.condemn(error).map(|()| None),
        }
    }

    /// Notes that the file is damaged.
    ///
    /// # Errors
    /// The error itself, if it says something else.
    pub fn condemn(&self, error: Error) -> Result<()> {
        let mut damage = Damage::of(error)?;
        if self.damage().is_some() {
            return Ok(());
        }
        if let Some(file) = &self.file {
            damage.file = file.path().to_path_buf();
        }
        if !damage.what.ends_with(self.cure()) {
            damage.what += self.cure();
        }
        // Another thread may have been faster.
        let _ = self.damage.set(damage);
        Ok(())
    }

    /// Whether it is known to be damaged, and can be made anew.
    pub fn is_healable(&self) -> bool {
        self.follows && self.damage().is_some()
    }

    /// That there is no reading it.
    pub fn error(&self) -> Error {
        self.damage().map_or_else(|| Error::corrupt("a derived file", 0, "it is damaged"), Damage::error)
    }
}
