//! A bound on the memory that mapped files take in this process.

use super::snapshot::{Snapshot, Source};
use crate::mmap::mapped_bytes;

/// How many bytes of files may stay mapped from one search to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cap {
    limit: u64,
    /// What was mapped before the database was opened: the program.
    before: u64,
}

impl Cap {
    /// A bound on what is mapped from now on.
    pub fn new(limit: u64) -> Self {
        Self { limit, before: mapped_bytes() }
    }

    fn is_exceeded(&self) -> bool {
        mapped_bytes().saturating_sub(self.before) > self.limit
    }

    /// Gives back what is too much: first what walks do not read.
    pub fn hold(&self, snapshot: &Snapshot) {
        for all in [false, true] {
            if !self.is_exceeded() {
                return;
            }
            for part in &snapshot.parts {
                if let Source::Sealed(segment) = &part.source {
                    segment.release(all);
                }
            }
        }
    }
}
