//! `compact`, `check`, `backup`, `info`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
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
    /// Also embed a sample again and compare
    #[arg(long)]
    deep: bool,
}

impl Check {
    /// Prints what was found; the code tells whether anything was.
    pub fn run(self, context: &mut Context) -> Outcome {
        context.must_exist()?;
        let work = context.work();
        let report = embdb::check_path(&context.path, self.deep, &work.task)?;
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

/// Salvage a damaged database
#[derive(Debug, Args)]
pub struct Repair {
    /// Where to
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

impl Repair {
    /// Refuses.
    pub fn run(self, _context: &mut Context) -> Outcome {
        let flags = self.rest.join(" ");
        Err(Failure::input(format!("repair {flags}: repair is not in this version yet")))
    }
}
