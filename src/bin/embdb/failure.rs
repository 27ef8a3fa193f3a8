//! Why a command ended early, and the exit code that says so.

use std::io;
use std::path::Path;

use embdb::Error;

/// Exit code after an interrupt.
pub const INTERRUPTED: u8 = 130;

/// What stops a command.
#[derive(Debug)]
pub enum Failure {
    /// An error to be told.
    Error(Error),
    /// The reader of standard output has gone: nothing left to do, and no error.
    ClosedPipe,
    /// The statement failed and said so; only its exit code is left to pass on.
    Told(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// An input error.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Error(Error::input(message))
    }

    /// A failure to write to standard output.
    pub fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ClosedPipe;
        }
        Self::Error(Error::io("write", Path::new("standard output"))(error))
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Error(error) => error.exit_code(),
            Self::ClosedPipe => 0,
            Self::Told(code) => *code,
        }
    }

    /// Writes the message to standard error.
    pub fn tell(&self) {
        if let Self::Error(error) = self {
            crate::output::error_line(&error.to_string());
        }
    }
}

/// The exit code of a command that ran to its end, or what stopped it.
pub type Outcome = Result<u8, Failure>;
