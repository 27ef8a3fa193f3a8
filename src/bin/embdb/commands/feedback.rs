//! `click` and `log`: what people searched for and chose.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use embdb::Error;
use embdb::db::ubi;
use embdb::types::Event;
use serde_json::json;

use super::lines;
use crate::args::finite;
use crate::context::{Context, Memory};
use crate::failure::{Failure, Outcome};

/// Give feedback on a logged search
#[derive(Debug, Args)]
pub struct Click {
    /// The search: its query_id; in the shell, `click N` is hit N of the last result
    query_id: String,
    /// The document
    id: Option<String>,
    /// How good it was
    #[arg(long, default_value_t = 1.0, value_parser = finite, allow_negative_numbers = true)]
    grade: f32,
}

impl Click {
    /// Logs the click.
    pub fn run(self, context: &mut Context) -> Outcome {
        let (query_id, id) = match (self.id, &context.shell) {
            (Some(id), _) => (self.query_id, id),
            (None, Some(memory)) => hit_of_last(memory, &self.query_id)?,
            (None, None) => return Err(Failure::input("click needs QUERY_ID and ID")),
        };
        context.change()?.click_graded(&query_id, &id, self.grade)?;
        if context.out.is_json() {
            context.out.json(&json!({"query_id": query_id, "id": id, "grade": self.grade}))?;
        } else {
            context.note(&format!("clicked {id}"));
        }
        Ok(0)
    }
}

fn hit_of_last(memory: &Memory, number: &str) -> Result<(String, String), Failure> {
    let rank: usize =
        number.parse().map_err(|_| Failure::input("click needs QUERY_ID and ID, or the number of a hit"))?;
    let (query_id, ids) =
        memory.last.as_ref().ok_or_else(|| Failure::input("no search yet that could be clicked"))?;
    let id = rank.checked_sub(1).and_then(|at| ids.get(at));
    let id =
        id.ok_or_else(|| Failure::input(format!("the last result has {} hits, not {rank}", ids.len())))?;
    let query_id = query_id
        .as_ref()
        .ok_or_else(|| Failure::input("the last search was not logged: search with --log"))?;
    Ok((query_id.clone(), id.clone()))
}

/// The log of searches and clicks, as UBI 1.3 JSON lines
#[derive(Debug, Args)]
pub struct Log {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write it to FILE or standard output
    Export {
        /// Where to
        file: Option<PathBuf>,
    },
    /// Add the searches and clicks of FILE
    Import {
        /// Where from
        file: PathBuf,
    },
    /// Count what it holds
    Stats,
}

impl Log {
    /// Runs the action.
    pub fn run(self, context: &mut Context) -> Outcome {
        match self.action {
            Action::Export { file } => export(context, file.as_deref())?,
            Action::Import { file } => import(context, &file)?,
            Action::Stats => {
                let stats = context.read()?.log_stats()?;
                context.out.record(&stats)?;
            }
        }
        Ok(0)
    }
}

fn export(context: &mut Context, file: Option<&Path>) -> Result<(), Failure> {
    let events = context.read()?.log_events()?;
    let Some(path) = file else {
        let mut bytes = Vec::new();
        ubi::write(&events, &mut bytes).map_err(Failure::output)?;
        return context.out.bytes(&bytes);
    };
    let file = File::create(path).map_err(Error::io("create", path))?;
    let mut out = BufWriter::new(file);
    ubi::write(&events, &mut out).and_then(|()| out.flush()).map_err(Error::io("write", path))?;
    let searches = events.iter().filter(|event| matches!(event, Event::Search(_))).count();
    let clicks = events.len() - searches;
    if context.out.is_json() {
        context.out.json(&json!({"searches": searches, "clicks": clicks}))
    } else {
        context.note(&format!("exported {searches} searches and {clicks} clicks"));
        Ok(())
    }
}

fn import(context: &mut Context, path: &Path) -> Result<(), Failure> {
    let records = ubi::read(lines::open(path)?, &path.to_string_lossy())?;
    let read = records.events.len();
    let imported = context.change()?.log_import(records.events)?;
    if context.out.is_json() {
        context.out.json(&json!({"read": read, "imported": imported, "skipped": records.skipped}))
    } else {
        let skipped = records.skipped;
        context.note(&format!(
            "read {read} searches and clicks, {imported} of them new; skipped {skipped} records"
        ));
        Ok(())
    }
}
