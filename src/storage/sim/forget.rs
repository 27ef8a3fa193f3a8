//! Disks that forget to sync: what a test that looks for lost data must notice.

use std::path::{Path, PathBuf};

use super::disk::Op;
use super::{OpKind, Record, SimVfs};

impl SimVfs {
    /// Every order to make something durable so far: of a file ([`OpKind::Sync`]) or of a directory ([`OpKind::SyncDir`]).
    pub fn syncs(&self) -> Vec<(OpKind, PathBuf)> {
        let state = self.state.lock();
        state.ops.iter().filter_map(|record| Some((kind(record)?, record.path.to_path_buf()))).collect()
    }

    /// The same history on a disk that does nothing when it is ordered to make durable what `forgets` holds for. Operations
    /// keep their numbers.
    pub fn forgetting(&self, forgets: impl Fn(OpKind, &Path) -> bool) -> Self {
        let state = self.state.lock();
        let other = Self::from_disk(state.base.clone(), 0, state.clock);
        let kept = |record: &Record| match kind(record) {
            Some(kind) if forgets(kind, &record.path) => {
                Record { op: nothing(record), path: record.path.clone() }
            }
            _ => record.clone(),
        };
        {
            let mut changed = other.state.lock();
            changed.ops = state.ops.iter().map(kept).collect();
            changed.live = state.live.clone();
        }
        other
    }
}

fn kind(record: &Record) -> Option<OpKind> {
    match record.op {
        Op::Sync { .. } => Some(OpKind::Sync),
        Op::SyncDir { .. } => Some(OpKind::SyncDir),
        _ => None,
    }
}

/// An operation that changes nothing, in place of a sync: it writes no bytes.
fn nothing(record: &Record) -> Op {
    let ino = match record.op {
        Op::Sync { ino } => ino,
        Op::SyncDir { dir } => dir,
        _ => return record.op.clone(),
    };
    Op::Write { ino, offset: 0, data: [].into() }
}
