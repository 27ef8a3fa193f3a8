//! What a repair saved, and what it could not.

use std::path::Path;

use serde::Serialize;

use crate::error::Error;

/// Documents that could not be saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The document's id; none where that is lost as well. That of a damaged record in a log is what can be read of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How many documents: 1 where there is an id. Without ids those count that a log has replaced or deleted since.
    pub documents: u64,
    /// The file that held what is missing, relative to the database.
    pub file: String,
    /// What is missing, and why.
    pub what: String,
    /// Whether an earlier version of the document was saved in place of the one that is lost.
    pub earlier_kept: bool,
}

/// What came of a repair.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RepairReport {
    /// Documents in the new database.
    pub documents: u64,
    /// Those among them whose vectors were lost and made anew from their text.
    pub embedded: u64,
    /// Searches and clicks in the new database.
    pub events: u64,
    /// Flipped bits that were turned back, so that nothing was lost by them.
    pub bits_turned: u64,
    /// Every document that is lost.
    pub lost: Vec<Lost>,
    /// Searches and clicks that are lost, as far as they can be counted.
    pub lost_events: u64,
    /// What else is not as it was.
    pub notes: Vec<String>,
}

impl RepairReport {
    /// Whether all documents, searches and clicks were saved as they were.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty() && self.lost_events == 0 && self.notes.is_empty()
    }

    /// Notes that a document is lost for a reason.
    pub(super) fn lose(&mut self, dir: &Path, id: Option<&str>, documents: u64, why: &Error) {
        let (file, what) = match why {
            Error::Corrupt { file, what, .. } => (file.as_path(), what.clone()),
            Error::Io { path, source, .. } => (path.as_path(), source.to_string()),
            other => (dir, other.to_string()),
        };
        let file = file.strip_prefix(dir).unwrap_or(file).to_string_lossy().into_owned();
        self.lost.push(Lost { id: id.map(str::to_owned), documents, file, what, earlier_kept: false });
    }

    /// Notes that something is not as it was, once.
    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}
