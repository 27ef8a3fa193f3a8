//! The report of a run: which queries it shows, with their hits, and the file.

use std::io::Write;
use std::path::Path;

use super::RetrainReport;
use super::spent::peak_bytes;
use crate::error::{Error, Result};
use crate::storage::whole_file::WholeFile;
use crate::trainer::PositionBias;
use crate::trainer::report::{Asked, Outcome, Page, Stage};

/// What a run leaves for its report.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Details {
    /// Held-out queries that gained most, then those that lost most; of runs with [`report`](super::RetrainOptions::report)
    /// alone.
    pub asked: Vec<Asked>,
    /// The stages with their times.
    pub stages: Vec<Stage>,
    /// Position bias of the log, if that was learnt from.
    pub bias: Option<PositionBias>,
}

/// Makes sure that a report can be written, before anything is spent on a run; what is there stays.
///
/// # Errors
/// As of [`WholeFile::create`].
pub(super) fn check(path: &Path) -> Result<()> {
    WholeFile::create(path).map(drop)
}

/// Writes the report of a run that ended at `ended_ms`.
///
/// # Errors
/// [`Error::Io`], which says so if the run has published.
pub(super) fn write(
    path: &Path,
    report: &RetrainReport,
    database: &Path,
    planned: bool,
    ended_ms: u64,
) -> Result<()> {
    let outcome = match (planned, report.published, report.gate.publish) {
        (true, ..) => Outcome::Planned,
        (_, false, _) => Outcome::Refused,
        (_, true, false) => Outcome::Forced,
        (_, true, true) => Outcome::Published,
    };
    let page = Page {
        outcome,
        database: database.display().to_string(),
        ended_ms,
        generations: [report.generation, report.previous],
        model_id: &report.model_id,
        documents: report.reindex.documents,
        train: &report.train,
        gate: &report.gate,
        asked: &report.details.asked,
        bias: report.details.bias.as_ref(),
        stages: &report.details.stages,
        peak_bytes: peak_bytes(),
        notes: &report.notes,
    };
    let write = || {
        let mut file = WholeFile::create(path)?;
        file.write(|file| file.write_all(page.html().as_bytes()))?;
        file.finish()
    };
    // Whoever reads the error must not think that nothing has changed.
    write().map_err(|error| match error {
        Error::Io { path, source, .. } if report.published => {
            Error::Io { op: "write (a new generation was published) the report", path, source }
        }
        Error::Input(what) if report.published => {
            Error::input(format!("a new generation was published, but not its report: {what}"))
        }
        error => error,
    })
}
