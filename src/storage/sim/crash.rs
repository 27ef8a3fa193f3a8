//! What a disk may look like after the power went, or after the process was killed.
//!
//! [`CrashSeries`] walks a recorded workload operation by operation and keeps two disks: *live*, all that was
//! done, and *durable*, all that was done and synced; and between them what is pending. An image is the durable
//! disk plus what the [`CrashMode`] keeps of the pending writes and names, so it costs as much as the image is large
//! and not as long as the workload is.
//!
//! Names are kept as a journalling file system keeps them: of one directory always a prefix of its pending
//! operations, in order; different directories are independent, but a rename from one to another happens on both
//! sides or on neither. Bytes are kept by sectors of 512 bytes, each in one of the versions it had in memory.
//!
//! After a sync that failed the system holds what was pending for written, as Linux does with the pages of a file (Rebello et
//! al., "Can applications recover from fsync failures?", ATC 2020): a later sync that succeeds makes only that durable
//! which was written again. Of a directory all names are written again as soon as one of them changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::chance::Chance;
use super::disk::{Disk, Ino, Node, Op, overwrite};
use super::{Record, SimVfs};

/// The unit in which a disk writes.
const SECTOR: usize = 512;

/// What happens to the operations that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CrashMode {
    /// The process was killed, the machine runs on: nothing is lost.
    KillOnly,
    /// The power went and all is lost.
    DropAll,
    /// Each sector is kept or lost on its own, and of each directory's operations a random prefix is kept. A file
    /// may have grown without its data: then zeros or garbage are there.
    Random,
    /// All is kept, but the last write is cut at some byte or sector, with nothing or zeros behind the cut.
    Torn,
    /// Each write is kept or lost as a whole, whatever became of earlier ones; directories as in `Random`.
    Reordered,
}

impl CrashMode {
    /// All modes.
    pub const ALL: [Self; 5] = [Self::KillOnly, Self::DropAll, Self::Random, Self::Torn, Self::Reordered];
}

/// A write that was not synced.
#[derive(Debug, Clone)]
struct Pending {
    /// The position in the log.
    op: usize,
    offset: usize,
    data: Arc<[u8]>,
    /// A sync failed on it: no later sync makes it durable.
    lost: bool,
}

impl Pending {
    fn end(&self) -> usize {
        self.offset + self.data.len()
    }
}

/// A walk over the operations of a workload, with a crash image to be had at each step.
pub struct CrashSeries {
    ops: Arc<[Record]>,
    clock: u64,
    /// How many operations were done.
    at: usize,
    live: Disk,
    durable: Disk,
    /// Writes of each file that were not synced, in order.
    writes: BTreeMap<Ino, Vec<Pending>>,
    /// Positions of each directory's operations that were not synced, in order.
    names: BTreeMap<Ino, Vec<usize>>,
    /// Directories that did not change since a sync of them failed: the next one finds nothing to do.
    held_for_written: BTreeSet<Ino>,
}

impl CrashSeries {
    pub(super) fn new(base: Disk, ops: Arc<[Record]>, clock: u64) -> Self {
        Self {
            ops,
            clock,
            at: 0,
            live: base.clone(),
            durable: base,
            writes: BTreeMap::new(),
            names: BTreeMap::new(),
            held_for_written: BTreeSet::new(),
        }
    }

    /// How many operations are done: the position of the crash.
    pub fn at(&self) -> usize {
        self.at
    }

    /// How many operations the workload has.
    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    /// The last operation done, in words; `None` at the start.
    pub fn last_op(&self) -> Option<String> {
        self.ops.get(self.at.checked_sub(1)?).map(Record::to_string)
    }

    /// Does the next operation; `false` at the end.
    pub fn advance(&mut self) -> bool {
        let ops = Arc::clone(&self.ops);
        let Some(Record { op, .. }) = ops.get(self.at) else { return false };
        let at = self.at;
        self.at += 1;
        self.live.apply(op);
        match op {
            Op::Create { dir, ino, node, .. } => {
                self.durable.put_node(*ino, node.clone());
                self.name_changed(*dir, at);
            }
            Op::Remove { dir, .. } => self.name_changed(*dir, at),
            Op::Rename { from_dir, to_dir, .. } => {
                self.name_changed(*from_dir, at);
                if from_dir != to_dir {
                    self.name_changed(*to_dir, at);
                }
            }
            Op::Write { ino, offset, data } => self.writes.entry(*ino).or_default().push(Pending {
                op: at,
                offset: *offset,
                data: Arc::clone(data),
                lost: false,
            }),
            Op::Sync { ino } => {
                for write in self.writes.remove(ino).unwrap_or_default().iter().filter(|write| !write.lost) {
                    self.durable.write(*ino, write.offset, &write.data);
                }
            }
            Op::SyncFailed { ino } => {
                self.writes.entry(*ino).or_default().iter_mut().for_each(|write| write.lost = true);
            }
            Op::SyncDir { dir } if self.held_for_written.contains(dir) => {}
            Op::SyncDir { dir } => self.settle(*dir),
            Op::SyncDirFailed { dir } => {
                self.held_for_written.insert(*dir);
            }
        }
        true
    }

    fn name_changed(&mut self, dir: Ino, at: usize) {
        self.names.entry(dir).or_default().push(at);
        self.held_for_written.remove(&dir);
    }

    /// Goes on until `at` operations are done, or all.
    pub fn advance_to(&mut self, at: usize) {
        while self.at < at && self.advance() {}
    }

    /// The disk that the next start finds if the crash comes now. Same seed, same image.
    pub fn image(&self, mode: CrashMode, seed: u64) -> SimVfs {
        let mut chance = Chance::new(seed ^ (self.at as u64).rotate_left(32) ^ ((mode as u64) << 61));
        let mut disk = match mode {
            CrashMode::KillOnly => self.live.clone(),
            _ => self.power_cut(mode, &mut chance),
        };
        disk.drop_unreachable();
        SimVfs::from_disk(disk, chance.next(), self.clock)
    }

    /// Makes the names of one directory durable.
    fn settle(&mut self, dir: Ino) {
        let done =
            apply_prefixes(&mut self.durable, &self.ops, &self.names, BTreeMap::from([(dir, self.at)]));
        for list in self.names.values_mut() {
            list.retain(|op| !done.contains(op));
        }
        self.names.retain(|_, list| !list.is_empty());
    }

    fn power_cut(&self, mode: CrashMode, chance: &mut Chance) -> Disk {
        let mut disk = self.durable.clone();
        let mut ends = BTreeMap::new();
        for (dir, list) in &self.names {
            let end = match mode {
                CrashMode::DropAll => 0,
                CrashMode::Random | CrashMode::Reordered => {
                    list.get(chance.up_to(list.len())).copied().unwrap_or(self.at)
                }
                CrashMode::Torn | CrashMode::KillOnly => self.at,
            };
            ends.insert(*dir, end);
        }
        apply_prefixes(&mut disk, &self.ops, &self.names, ends);
        let keep_percent = 10 + 40 * chance.up_to(2);
        let last = self.writes.values().flatten().filter(|write| !write.lost).map(|write| write.op).max();
        for (ino, writes) in &self.writes {
            let Ok(old) = disk.file(*ino) else { continue };
            let new = match mode {
                CrashMode::DropAll => continue,
                CrashMode::Random => keep_sectors(old, writes, keep_percent, chance),
                CrashMode::Reordered => keep_writes(old, writes, keep_percent, chance),
                CrashMode::Torn | CrashMode::KillOnly => tear(old, writes, last, chance),
            };
            disk.put_node(*ino, Node::File(Arc::new(new)));
        }
        disk
    }
}

/// Applies to each directory its pending operations before `ends`, all in the order of the log, and says which.
///
/// A rename between directories draws the prefix of the other one along.
fn apply_prefixes(
    disk: &mut Disk,
    ops: &[Record],
    names: &BTreeMap<Ino, Vec<usize>>,
    mut ends: BTreeMap<Ino, usize>,
) -> BTreeSet<usize> {
    let mut done = BTreeSet::new();
    loop {
        let before = done.len();
        for (dir, list) in names {
            let end = ends.get(dir).copied().unwrap_or(0);
            for op in list.iter().copied().take_while(|op| *op < end) {
                done.insert(op);
                if let Some(Record { op: Op::Rename { from_dir, to_dir, .. }, .. }) = ops.get(op) {
                    for dir in [from_dir, to_dir] {
                        let end = ends.entry(*dir).or_default();
                        *end = (*end).max(op + 1);
                    }
                }
            }
        }
        if done.len() == before {
            break;
        }
    }
    for record in done.iter().filter_map(|op| ops.get(*op)) {
        disk.apply_names(&record.op);
    }
    done
}

/// Keeps some sectors, each as one of the versions that the pending writes gave it.
fn keep_sectors(old: &[u8], writes: &[Pending], keep_percent: usize, chance: &mut Chance) -> Vec<u8> {
    let full_len = writes.iter().map(Pending::end).fold(old.len(), usize::max);
    // First how often each sector was written, then how many of these writes it gets.
    let mut versions = vec![0usize; full_len.div_ceil(SECTOR)];
    for write in writes {
        versions.get_mut(sectors(write)).into_iter().flatten().for_each(|count| *count += 1);
    }
    for count in versions.iter_mut().filter(|count| **count > 0) {
        *count = match (chance.percent(keep_percent), chance.percent(10)) {
            (_, true) => chance.up_to(*count),
            (true, false) => *count,
            (false, false) => 0,
        };
    }
    let mut bytes = old.to_vec();
    bytes.resize(full_len, 0);
    if chance.percent(25) {
        let new = versions.iter().enumerate().skip(old.len().div_ceil(SECTOR));
        for (sector, _) in new.filter(|(_, count)| **count == 0) {
            bytes.iter_mut().skip(sector * SECTOR).take(SECTOR).for_each(|byte| *byte = chance.next() as u8);
        }
    }
    for write in writes {
        for sector in sectors(write) {
            let Some(left) = versions.get_mut(sector).filter(|left| **left > 0) else { continue };
            *left -= 1;
            let start = write.offset.max(sector * SECTOR);
            let end = write.end().min((sector + 1) * SECTOR);
            let part = write.data.get(start - write.offset..end - write.offset);
            overwrite(&mut bytes, start, part.unwrap_or_default());
        }
    }
    bytes.truncate(some_len(old.len(), full_len, chance));
    bytes
}

/// The sectors that a write touches.
fn sectors(write: &Pending) -> std::ops::Range<usize> {
    write.offset / SECTOR..write.end().div_ceil(SECTOR)
}

/// A length that a file may have after a crash that caught it growing.
fn some_len(old: usize, full: usize, chance: &mut Chance) -> usize {
    match chance.up_to(3) {
        0 => old,
        1 => old + chance.up_to(full - old),
        _ => full,
    }
}

/// Keeps some writes whole.
fn keep_writes(old: &[u8], writes: &[Pending], keep_percent: usize, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = old.to_vec();
    for write in writes {
        if chance.percent(keep_percent) {
            overwrite(&mut bytes, write.offset, &write.data);
        }
    }
    bytes
}

/// Keeps all writes but a part of the one at position `last`.
fn tear(old: &[u8], writes: &[Pending], last: Option<usize>, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = old.to_vec();
    for write in writes.iter().filter(|write| !write.lost) {
        if Some(write.op) != last {
            overwrite(&mut bytes, write.offset, &write.data);
            continue;
        }
        let mut cut = write.offset + chance.up_to(write.data.len().saturating_sub(1));
        if chance.percent(50) {
            cut = (cut / SECTOR * SECTOR).max(write.offset);
        }
        overwrite(&mut bytes, write.offset, write.data.get(..cut - write.offset).unwrap_or_default());
        if chance.percent(50) && bytes.len() < write.end() {
            bytes.resize(write.end(), 0);
        }
    }
    bytes
}

impl SimVfs {
    /// A walk over all operations so far, for many crash images.
    pub fn crash_series(&self) -> CrashSeries {
        let state = self.state.lock();
        CrashSeries::new(state.base.clone(), state.ops.as_slice().into(), state.clock)
    }

    /// The disk after a crash right after the first `at` operations. For many images use
    /// [`crash_series`](Self::crash_series), which is much cheaper.
    pub fn crash_image(&self, at: usize, mode: CrashMode, seed: u64) -> SimVfs {
        let mut series = self.crash_series();
        series.advance_to(at);
        series.image(mode, seed)
    }
}

impl fmt::Debug for CrashSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrashSeries({} of {} operations)", self.at, self.ops.len())
    }
}
