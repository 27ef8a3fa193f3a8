//! The `embdb` program: the shell and its commands.
//!
//! | module | what it does |
//! |---|---|
//! | `args` | the command line, and the flags that commands share |
//! | `commands` | one file a command family |
//! | `shell` | statements from a terminal or a script |
//! | `input` | readers of the files that `import` takes |
//! | `context` | what a statement runs with: database, output, flags |
//! | `pipeline` | reading, work and results in stages |
//! | `output`, `progress`, `interrupt`, `failure` | results, bars, Ctrl-C, exit codes |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod args;
mod commands;
mod context;
mod failure;
mod input;
mod interrupt;
mod output;
mod pipeline;
mod progress;
mod shell;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Program;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Statement;

fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(error) => return ExitCode::from(usage(&error)),
    };
    interrupt::install();
    embdb::hush_caught_panics();
    if let Err(error) = embdb::guard_mapped_files() {
        eprintln!("warning: {error}");
    }
    let code = run(program).unwrap_or_else(|failure| {
        failure.tell();
        failure.exit_code()
    });
    ExitCode::from(code)
}

/// Prints help, version or a usage error; the exit code for it.
fn usage(error: &clap::Error) -> u8 {
    // A reader that has gone needs no message.
    drop(error.print());
    u8::from(error.use_stderr())
}

fn run(program: Program) -> Outcome {
    let mut context = Context::new(program.database, &program.common);
    match program.command {
        None => shell::run(&mut context, program.keep_going),
        Some(_) if program.keep_going => {
            Err(Failure::input("--keep-going is for the shell: it goes without a command"))
        }
        Some(command) => {
            let _interruptible = Statement::begin(false);
            commands::run(&mut context, command)
        }
    }
}
