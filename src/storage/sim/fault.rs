//! Faults on demand: which call fails, how, and whether it keeps failing.

use std::io;

use rustix::io::Errno;

/// A kind of call to the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// [`WriteFile::write_at`](crate::storage::vfs::WriteFile::write_at).
    Write,
    /// [`WriteFile::sync`](crate::storage::vfs::WriteFile::sync).
    Sync,
    /// [`Vfs::sync_dir`](crate::storage::vfs::Vfs::sync_dir).
    SyncDir,
    /// A rename.
    Rename,
    /// A new file or directory.
    Create,
    /// The removal of a file or directory; each entry of a removed tree counts.
    Remove,
    /// Whatever only looks: reading, mapping, listing, lengths, opening, locking an existing file.
    Read,
    /// Any of these.
    Any,
}

const KINDS: [OpKind; 7] = [
    OpKind::Write,
    OpKind::Sync,
    OpKind::SyncDir,
    OpKind::Rename,
    OpKind::Create,
    OpKind::Remove,
    OpKind::Read,
];

/// What the failing call reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultError {
    /// An input/output error; nothing happened.
    Eio,
    /// No space left; nothing happened.
    Enospc,
    /// For a write: the first half lands, then no space is left. For other calls as [`FaultError::Enospc`].
    ShortWrite,
    /// For a write: the first half lands, then comes an input/output error. For other calls as [`FaultError::Eio`].
    HalfEio,
    /// A signal came; nothing happened.
    Eintr,
    /// Too many files are open; nothing happened.
    Emfile,
}

impl FaultError {
    pub(super) fn to_io(self) -> io::Error {
        match self {
            Self::Eio | Self::HalfEio => Errno::IO.into(),
            Self::Enospc | Self::ShortWrite => Errno::NOSPC.into(),
            Self::Eintr => Errno::INTR.into(),
            Self::Emfile => Errno::MFILE.into(),
        }
    }

    /// Whether half of a write lands.
    pub(super) fn is_short(self) -> bool {
        matches!(self, Self::ShortWrite | Self::HalfEio)
    }
}

/// An order to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which calls to count.
    pub op_kind: OpKind,
    /// Which of them fails, counted from the injection: 0 is the next one.
    pub nth: usize,
    /// How it fails.
    pub error: FaultError,
    /// Whether all later calls of this kind fail too.
    pub sticky: bool,
}

/// The orders given and the calls counted.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Each with the number of matching calls since.
    armed: Vec<(Fault, usize)>,
    fired: usize,
    /// By position in `KINDS`.
    calls: [usize; KINDS.len()],
}

impl Faults {
    pub(super) fn arm(&mut self, fault: Fault) {
        self.armed.push((fault, 0));
    }

    pub(super) fn clear(&mut self) {
        self.armed.clear();
    }

    pub(super) fn fired(&self) -> usize {
        self.fired
    }

    pub(super) fn calls(&self, kind: OpKind) -> usize {
        let counted = KINDS.iter().zip(&self.calls);
        counted.filter(|(k, _)| kind == OpKind::Any || kind == **k).map(|(_, n)| n).sum()
    }

    /// Counts a call and says whether it must fail.
    pub(super) fn check(&mut self, kind: OpKind) -> Option<FaultError> {
        for (_, calls) in KINDS.iter().zip(&mut self.calls).filter(|(k, _)| **k == kind) {
            *calls += 1;
        }
        let mut error = None;
        for (fault, seen) in &mut self.armed {
            if fault.op_kind != OpKind::Any && fault.op_kind != kind {
                continue;
            }
            if *seen == fault.nth || (fault.sticky && *seen > fault.nth) {
                error = error.or(Some(fault.error));
            }
            *seen += 1;
        }
        self.fired += usize::from(error.is_some());
        error
    }
}
