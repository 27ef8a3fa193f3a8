//! What a statement runs with: the database, its output, its flags, and what the shell remembers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use embdb::options::{CreateOptions, Io, OpenOptions};
use embdb::types::SearchResult;
use embdb::{Db, Error};

use crate::args::Common;
use crate::failure::Failure;
use crate::output::{Mode, Output, note_line};
use crate::progress::Work;

/// What the shell keeps from statement to statement.
#[derive(Debug, Default)]
pub struct Memory {
    /// Whether searches are logged also without `--log`, so that `click 2` works.
    pub log: bool,
    /// The last search: its id, if it was logged, and the ids of its hits.
    pub last: Option<(Option<String>, Vec<String>)>,
}

/// How a statement waits and reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// How long to wait for the writer's lock.
    pub busy_timeout: Duration,
    /// How long a command may take.
    pub timeout: Option<Duration>,
    /// How files are read.
    pub io: Io,
    /// Memory that the log and longer work may take.
    pub memory: Option<u64>,
}

impl Settings {
    /// What the flags say, and these settings otherwise.
    pub fn overridden(self, flags: &Common) -> Self {
        Self {
            busy_timeout: flags.busy_timeout.unwrap_or(self.busy_timeout),
            timeout: flags.timeout.or(self.timeout),
            io: flags.io.unwrap_or(self.io),
            memory: flags.memory.or(self.memory),
        }
    }
}

/// The surroundings of a statement.
pub struct Context {
    /// Directory of the database.
    pub path: PathBuf,
    /// Where results go.
    pub out: Output,
    /// No notes, no progress.
    pub quiet: bool,
    /// In the shell, its memory.
    pub shell: Option<Memory>,
    /// How it waits and reads.
    pub settings: Settings,
    /// The database, once it is open.
    open: Option<(OpenOptions, Db)>,
}

impl Context {
    /// The surroundings of the first statement.
    pub fn new(path: PathBuf, common: &Common) -> Self {
        let mode = if common.json { Mode::Json } else { Mode::Table };
        Self {
            path,
            out: Output::new(mode),
            quiet: common.quiet,
            shell: None,
            settings: Settings::default().overridden(common),
            open: None,
        }
    }

    /// The database for a command that only reads: it must be there.
    pub fn read(&mut self) -> Result<Db, Failure> {
        self.must_exist()?;
        self.open(CreateOptions::default(), 0)
    }

    /// The database for a command that changes what is there.
    pub fn change(&mut self) -> Result<Db, Failure> {
        self.read()
    }

    /// The database for a command that creates a missing one; `threads` as in [`OpenOptions`].
    pub fn write(&mut self, create: CreateOptions, threads: usize) -> Result<Db, Failure> {
        self.open(create, threads)
    }

    /// Fails if nothing is at the path.
    pub fn must_exist(&self) -> Result<(), Failure> {
        match self.path.try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::input(format!("no database at {}", self.path.display()))),
            Err(error) => Err(Error::io("open", &self.path)(error).into()),
        }
    }

    fn open(&mut self, create: CreateOptions, threads: usize) -> Result<Db, Failure> {
        let options = self.options(create, threads);
        if let Some((before, db)) = &self.open
            && before.create == options.create
            && before.busy_timeout == options.busy_timeout
            && before.threads == options.threads
            && before.io == options.io
            && before.memory_bytes == options.memory_bytes
        {
            db.refresh()?;
            return Ok(db.clone());
        }
        // Two handles of one process would keep each other from writing.
        self.open = None;
        let db = Db::open_with(&self.path, options.clone())?;
        self.open = Some((options, db.clone()));
        Ok(db)
    }

    /// Options for opening the database.
    pub fn options(&self, create: CreateOptions, threads: usize) -> OpenOptions {
        let Settings { busy_timeout, io, memory, .. } = self.settings;
        OpenOptions { create, threads, busy_timeout, io, memory_bytes: memory, ..OpenOptions::default() }
    }

    /// Closes the database, if it is open.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// The database as far as it is open.
    pub fn opened(&self) -> Option<&Db> {
        self.open.as_ref().map(|(_, db)| db)
    }

    /// Ends a statement of the shell: other processes may write until the next.
    pub fn rest(&mut self) -> Result<(), Failure> {
        match &self.open {
            Some((_, db)) => Ok(db.release_writer()?),
            None => Ok(()),
        }
    }

    /// Tells something beside the results.
    pub fn note(&self, message: &str) {
        if !self.quiet {
            note_line(message);
        }
    }

    /// Tells what a call had to say.
    pub fn notes(&self, notes: &[String]) {
        notes.iter().for_each(|note| self.note(&format!("note: {note}")));
    }

    /// Long work with progress on a terminal.
    pub fn work(&self) -> Work {
        Work::begin(self.quiet, self.settings.timeout)
    }

    /// Long work that counts documents itself.
    pub fn counting(&self) -> Work {
        Work::counting(self.quiet, self.settings.timeout)
    }

    /// Keeps the last result for `click N`.
    pub fn remember(&mut self, result: &SearchResult) {
        if let Some(memory) = &mut self.shell {
            let ids = result.hits.iter().map(|hit| hit.id.clone()).collect();
            memory.last = Some((result.query_id.clone(), ids));
        }
    }
}

/// A path as text in JSON.
pub fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
