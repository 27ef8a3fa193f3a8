//! Lines from a terminal, with history and completion.

use std::path::PathBuf;
use std::sync::Arc;

use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};

use super::complete::{Completion, Opened};
use super::{Next, Shell};
use crate::failure::{Failure, Outcome};

/// Lines of history that are kept.
const HISTORY: usize = 2000;

/// Runs statements until the end of input. Errors are told and forgotten.
pub fn run(shell: &mut Shell<'_>) -> Outcome {
    let config = Config::builder().max_history_size(HISTORY).map_err(editor)?;
    let config = config.completion_type(CompletionType::List).history_ignore_space(true).build();
    let mut lines: Editor<Completion, DefaultHistory> = Editor::with_config(config).map_err(editor)?;
    let opened = Opened::default();
    lines.set_helper(Some(Completion::new(Arc::clone(&opened))));
    let history = history_path();
    if let Some(path) = &history {
        // The first session has none.
        drop(lines.load_history(path));
    }
    shell.context.note("embdb shell: a line is a search, .help lists the commands, .quit ends");
    loop {
        *opened.lock() = shell.context.opened().cloned();
        let line = match lines.readline("embdb> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(editor(error)),
        };
        // Opening with other options must find the database closed.
        *opened.lock() = None;
        drop(lines.add_history_entry(line.as_str()));
        match shell.statement(&line) {
            Ok((_, Next::Go)) => {}
            Ok((_, Next::Quit)) => break,
            Err(Failure::ClosedPipe) => return Err(Failure::ClosedPipe),
            Err(failure) => failure.tell(),
        }
    }
    if let Some(path) = &history {
        // A home that cannot be written loses the history, nothing else.
        drop(lines.save_history(path));
    }
    Ok(0)
}

/// `EMBDB_HISTORY`, or a file in the home directory.
fn history_path() -> Option<PathBuf> {
    match std::env::var_os("EMBDB_HISTORY") {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(path.into()),
        None => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".embdb_history")),
    }
}

fn editor(error: ReadlineError) -> Failure {
    match error {
        ReadlineError::Io(error) => Failure::output(error),
        other => Failure::input(format!("the terminal cannot be used: {other}")),
    }
}
