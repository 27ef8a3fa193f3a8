//! The shell: statements from a terminal, from standard input, from files.
//!
//! | module | what it does |
//! |---|---|
//! | `line` | what a line asks for |
//! | `prompt` | lines from a terminal, with history and completion |
//! | `complete` | what could follow |
//!
//! Invariants: a statement means the same in every place; in a script the first error ends it with
//! its exit code, at the prompt never; between two statements the writer's lock is free.

mod complete;
mod line;
mod prompt;

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::time::Instant;

use embdb::Error;
use embdb::options::limits;

use crate::args::{Common, Statement};
use crate::commands;
use crate::commands::search::SearchText;
use crate::context::{Context, Memory, Settings};
use crate::failure::{Failure, INTERRUPTED, Outcome};
use crate::interrupt;
use crate::output::{Mode, Output, note_line};
use line::{Builtin, Line};

/// How deep files may read files.
const DEPTH: usize = 16;

/// What outlives a statement.
struct Shell<'a> {
    context: &'a mut Context,
    mode: Mode,
    quiet: bool,
    settings: Settings,
    timer: bool,
    keep_going: bool,
    /// At a prompt, errors do not end the shell.
    interactive: bool,
    depth: usize,
}

/// Whether the shell goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Quit,
}

/// Runs the shell: at a prompt on a terminal, else over standard input.
pub fn run(context: &mut Context, keep_going: bool) -> Outcome {
    context.shell = Some(Memory { log: true, last: None });
    let interactive = io::stdin().is_terminal();
    let mut shell = Shell {
        mode: context.out.mode(),
        quiet: context.quiet,
        settings: context.settings,
        timer: false,
        keep_going,
        interactive,
        depth: 0,
        context,
    };
    if interactive {
        return prompt::run(&mut shell);
    }
    let (code, _) = shell.script(&mut BufReader::new(io::stdin()), "standard input")?;
    Ok(code)
}

impl Shell<'_> {
    /// Runs every line; the code is that of the first error.
    fn script(&mut self, reader: &mut dyn BufRead, name: &str) -> Result<(u8, Next), Failure> {
        let (mut code, mut bytes) = (0, Vec::new());
        for number in 1_u64.. {
            bytes.clear();
            let limit = limits::DOCUMENT_BYTES as u64;
            let read = (&mut *reader).take(limit).read_until(b'\n', &mut bytes);
            if read.map_err(Error::io("read", Path::new(name)))? == 0 {
                break;
            }
            let done = match std::str::from_utf8(&bytes) {
                Ok(line) => self.statement(line),
                Err(error) => Err(Failure::input(format!("invalid UTF-8: {error}"))),
            };
            match done {
                Ok((0, Next::Go)) => {}
                Ok((0, Next::Quit)) => return Ok((code, Next::Quit)),
                Ok((failed, _)) => code = if code == 0 { failed } else { code },
                Err(Failure::ClosedPipe) => return Err(Failure::ClosedPipe),
                Err(failure) => {
                    tell(name, number, &failure);
                    code = if code == 0 { failure.exit_code() } else { code };
                    if failure.exit_code() == INTERRUPTED {
                        return Err(Failure::Told(INTERRUPTED));
                    }
                }
            }
            if code != 0 && !self.keep_going {
                return Err(Failure::Told(code));
            }
        }
        Ok((code, Next::Go))
    }

    /// Runs one line.
    fn statement(&mut self, line: &str) -> Result<(u8, Next), Failure> {
        let start = Instant::now();
        let done = match line::parse(line)? {
            Line::Blank => return Ok((0, Next::Go)),
            Line::Usage(error) => match crate::usage(&error) {
                0 => Ok((0, Next::Go)),
                code => Err(Failure::Told(code)),
            },
            Line::Builtin(builtin) => self.builtin(builtin),
            Line::Search(text) => {
                let (common, search) = (Common::default(), SearchText::plain(text));
                let command = crate::args::Command::Search(search);
                self.command(Statement { common, command }).map(|code| (code, Next::Go))
            }
            Line::Command(statement) => self.command(*statement).map(|code| (code, Next::Go)),
        };
        if self.timer {
            note_line(&format!("time: {:.3} s", start.elapsed().as_secs_f64()));
        }
        done
    }

    fn command(&mut self, statement: Statement) -> Outcome {
        let flags = statement.common;
        let mode = if flags.json { Mode::Json } else { self.mode };
        if self.context.out.mode() != mode {
            self.context.out = Output::new(mode);
        }
        self.context.quiet = flags.quiet || self.quiet;
        self.context.settings = self.settings.overridden(&flags);
        let _interruptible = interrupt::Statement::begin(self.interactive);
        let done = commands::run(self.context, statement.command);
        let rested = self.context.rest();
        let code = done?;
        rested.map(|()| code)
    }

    fn builtin(&mut self, builtin: Builtin) -> Result<(u8, Next), Failure> {
        match builtin {
            Builtin::Mode(mode) => self.mode = mode,
            Builtin::Timer(on) => self.timer = on,
            Builtin::Logging(on) => {
                if let Some(memory) = &mut self.context.shell {
                    memory.log = on;
                }
            }
            Builtin::Help => {
                self.context.out.bytes(line::help().as_bytes())?;
                self.context.out.flush()?;
            }
            Builtin::Quit => return Ok((0, Next::Quit)),
            Builtin::Read(path) => {
                if self.depth >= DEPTH {
                    return Err(Failure::input(format!(".read: files read one another over {DEPTH} deep")));
                }
                let file = File::open(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => Error::input(format!("no file {}", path.display())),
                    _ => Error::io("open", &path)(error),
                })?;
                self.depth += 1;
                let done = self.script(&mut BufReader::new(file), &path.to_string_lossy());
                self.depth -= 1;
                return done;
            }
        }
        Ok((0, Next::Go))
    }
}

/// Tells what went wrong, and where in the script.
fn tell(name: &str, line: u64, failure: &Failure) {
    match failure {
        Failure::Error(error) => crate::output::error_line(&format!("{name}, line {line}: {error}")),
        Failure::ClosedPipe | Failure::Told(_) => {}
    }
}
