//! `compact`, `check`, `backup`, `repair`, `info`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use embdb::RepairReport;
use serde_json::json;

use crate::context::{Context, path_text};
use crate::failure::{Failure, Outcome};
use crate::output::printable;

/// Exit code of a check that found damage.
const CORRUPT: u8 = 2;

/// Merge everything into one segment with its graph
#[derive(Debug, Args)]
pub struct Compact {}

impl Compact {
    /// Compacts.
    pub fn run(self, context: &mut Context) -> Outcome {
        let db = context.change()?;
        let (start, work) = (Instant::now(), context.work());
        db.compact(&work.task)?;
        drop(work);
        if context.out.is_json() {
            let info = db.info()?;
            let seconds = start.elapsed().as_secs_f64();
            context
                .out
                .json(&json!({"documents": info.documents, "segments": info.segments, "seconds": seconds}))?;
        }
        Ok(0)
    }
}

/// Look for damage
#[derive(Debug, Args)]
pub struct Check {
    /// Also embed a sample again and compare, and measure recall against exact search
    #[arg(long)]
    deep: bool,
}

impl Check {
    /// Prints what was found; the code tells whether anything was.
    pub fn run(self, context: &mut Context) -> Outcome {
        context.must_exist()?;
        let work = context.work();
        let report = embdb::check_path_by(context.settings.io, &context.path, self.deep, &work.task)?;
        drop(work);
        if context.out.is_json() {
            context.out.json(&report)?;
        } else {
            for problem in &report.problems {
                let file = problem.file.to_string();
                let line = format!(
                    "{} at offset {}: {}",
                    printable(&file),
                    problem.offset,
                    printable(&problem.what)
                );
                context.out.line(&line)?;
            }
            if !report.orphans.is_empty() {
                context.note(&format!(
                    "{} files or folders belong to nothing: {}",
                    report.orphans.len(),
                    report.orphans.join(", ")
                ));
            }
            if let Some(recall) = report.recall {
                context.out.line(&format!("recall of the ten nearest {recall:.3}"))?;
            }
            let verdict = if report.ok { "ok" } else { "damaged" };
            context.out.line(&format!("{verdict}, {} documents", report.documents))?;
        }
        Ok(if report.ok { 0 } else { CORRUPT })
    }
}

/// Copy the database as it is now
#[derive(Debug, Args)]
pub struct Backup {
    /// Where to; must not exist
    dest: PathBuf,
}

impl Backup {
    /// Copies it.
    pub fn run(self, context: &mut Context) -> Outcome {
        let db = context.read()?;
        let (start, work) = (Instant::now(), context.work());
        db.backup(&self.dest, &work.task)?;
        drop(work);
        if context.out.is_json() {
            let seconds = start.elapsed().as_secs_f64();
            context.out.json(&json!({"backup": path_text(&self.dest), "seconds": seconds}))?;
        } else {
            context.note(&format!("copied to {}", self.dest.display()));
        }
        Ok(0)
    }
}

/// What the database holds
#[derive(Debug, Args)]
pub struct Info {}

impl Info {
    /// Prints it.
    pub fn run(self, context: &mut Context) -> Outcome {
        let info = context.read()?.info()?;
        context.out.record(&info)?;
        Ok(0)
    }
}

/// Save what can be read of a damaged database into a new one
#[derive(Debug, Args)]
pub struct Repair {
    /// The new database; nothing may be there
    #[arg(long, value_name = "NEWDB")]
    out: PathBuf,
    /// Folder that the encoder came from, if its stored files are damaged
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
}

impl Repair {
    /// Prints every lost id; the code tells whether anything was lost.
    pub fn run(self, context: &mut Context) -> Outcome {
        context.must_exist()?;
        // Its own handle would count as somebody who writes.
        context.close();
        let work = context.work();
        let report = embdb::repair_path(&context.path, &self.out, self.model.as_deref(), &work.task)?;
        drop(work);
        if context.out.is_json() {
            context.out.json(&report)?;
        } else {
            print(&report, context)?;
        }
        Ok(if report.is_complete() { 0 } else { CORRUPT })
    }
}

fn print(report: &RepairReport, context: &mut Context) -> Result<(), Failure> {
    for lost in &report.lost {
        let who = match &lost.id {
            Some(id) => printable(id),
            None => format!("({} without ids)", lost.documents),
        };
        let kept = if lost.earlier_kept { "; an earlier version was saved" } else { "" };
        context.out.line(&format!(
            "lost {who}: {}: {}{kept}",
            printable(&lost.file),
            printable(&lost.what)
        ))?;
    }
    for note in &report.notes {
        context.out.line(&format!("note: {}", printable(note)))?;
    }
    let RepairReport { documents, embedded, events, bits_turned, lost_events, .. } = report;
    let lost: u64 = report.lost.iter().map(|lost| lost.documents).sum();
    context
        .out
        .line(&format!("{documents} documents saved ({embedded} of them embedded anew), {lost} lost"))?;
    context.out.line(&format!("{events} searches and clicks saved, {lost_events} lost"))?;
    if *bits_turned > 0 {
        context.out.line(&format!("{bits_turned} flipped bits turned back"))?;
    }
    Ok(())
}
