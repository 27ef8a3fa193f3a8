//! Typed errors. Each variant belongs to exactly one exit code of the `embdb` program.

use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible call in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and (in its text) what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Wrong usage or wrong input; nothing was changed. Exit code 1.
    #[error("{0}")]
    Input(String),
    /// The directory holds files, but none of ours. Exit code 1.
    #[error("{0} is not an embdb database: nothing in it is ours")]
    NotADatabase(PathBuf),
    /// Bytes of the database or of a model contradict their format or checksum. Exit code 2.
    #[error("{} is corrupt at offset {offset}: {what}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Offset of the first contradiction, in bytes.
        offset: u64,
        /// What was expected and what was found.
        what: String,
    },
    /// Another process (or another handle of this one) holds the writer's lock. Exit code 3.
    #[error("the database is busy: {} holds the writer's lock; wait with --busy-timeout SECONDS",
        pid.map_or("another process".to_string(), |p| format!("process {p}")))]
    Busy {
        /// Process id of the holder, where it could be read.
        pid: Option<u32>,
    },
    /// The operating system refused an operation. Exit code 4.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A write failed earlier, so this handle refuses further writes until reopened. Exit code 4.
    #[error(
        "an earlier write to {} failed ({what}); this handle writes no more: reopen the database",
        path.display()
    )]
    Poisoned {
        /// The file whose write or sync failed.
        path: PathBuf,
        /// The first failure.
        what: String,
    },
    /// A limit was exceeded. Exit code 5.
    #[error("{what} is {actual}, over the limit of {limit}; {raise}")]
    Limit {
        /// The quantity.
        what: String,
        /// Its limit.
        limit: u64,
        /// The value met.
        actual: u64,
        /// How to raise the limit, or what to do instead.
        raise: String,
    },
    /// The file was written by a newer program. Exit code 6.
    #[error("{} needs embdb {needs} or newer", file.display())]
    TooNew {
        /// The file concerned.
        file: PathBuf,
        /// The version that can read it.
        needs: String,
    },
    /// The file was written by an earlier development version. Exit code 6.
    #[error(
        "{} is of file format {format}, of an earlier development version, which this program does not read: import \
         the documents again into a new database",
        file.display()
    )]
    TooOld {
        /// The file concerned.
        file: PathBuf,
        /// Its format.
        format: String,
    },
    /// The caller cancelled the operation; everything acknowledged stays. Exit code 130.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// An input error with the given message.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// A corruption error.
    pub fn corrupt(file: impl Into<PathBuf>, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.into(), offset, what: what.into() }
    }

    /// The error of a file of another major version of the format than `known`.
    pub(crate) fn other_format(file: &Path, major: u16, minor: u16, known: u16) -> Self {
        let file = file.to_path_buf();
        if major < known {
            return Self::TooOld { file, format: format!("{major}.{minor}") };
        }
        Self::TooNew { file, needs: format!("{major}.0 of the file format") }
    }

    /// Wraps an operating system error with its verb and path, for `map_err`.
    pub fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { op, path, source }
    }

    /// The exit code of the `embdb` program for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) | Self::NotADatabase(_) => 1,
            Self::Corrupt { .. } => 2,
            Self::Busy { .. } => 3,
            Self::Io { .. } | Self::Poisoned { .. } => 4,
            Self::Limit { .. } => 5,
            Self::TooNew { .. } | Self::TooOld { .. } => 6,
            Self::Cancelled => 130,
        }
    }

    /// Whether the file was missing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
