//! Maintenance: sealing the active segment, merging segments, one round after the other, and compaction.
//!
//! Each step writes new files beside the old ones, verifies that no document was lost, and swaps by one manifest.
//! Files are built without the writer's mutex, so that writes go on; the state after a swap is read back from
//! disk, by the same code as after a crash.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::background::giving_way;
use super::clean::clean;
use super::graphs::all_sound;
use super::heir::Heir;
use super::snapshot::{Part, Snapshot, Source};
use super::state::State;
use super::turns::Pin;
use super::write::Writing;
use super::{Db, Inner};
use crate::error::Result;
use crate::format::manifest::{Manifest, SegmentEntry};
use crate::mmap::{faults, release_heap};
use crate::options::{Durability, Task};
use crate::storage::segment::{Segment, segment_dir};
use crate::storage::segment_writer::Target;
use crate::storage::{feedback, manifests};

/// Segments of similar size that are merged into one.
const FAN_IN: usize = 4;
/// Share of deleted documents at which a segment is rewritten.
const DEAD_SHARE: f64 = 0.2;
/// Unmerged feedback files at which a writer merges them.
const FEEDBACK_FILES: usize = 32;
/// Rows that wait to be sealed, as a multiple of those from which on they are: at more a seal is overdue.
const OVERDUE: usize = 16;
/// The same: at more the segment is sealed before its graph is built.
const STEADY: usize = 2;

impl Db {
    /// Leaves one sealed segment with its graph, and gives the bytes of deleted documents back: afterwards no file of the
    /// database holds their text. Searches and writes of other threads go first where all cores are busy.
    pub fn compact(&self, task: &Task) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let _alone = self.inner.maintenance.alone_to_unite();
        let _pin = Pin::new(&self.inner, self.inner.options.busy_timeout)?;
        self.inner.behind(|| self.inner.compact(task))
    }

    /// Seals the active segment now.
    pub fn seal(&self, task: &Task) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let _alone = self.inner.maintenance.alone();
        let _pin = Pin::new(&self.inner, self.inner.options.busy_timeout)?;
        self.inner.seal(task)
    }
}

pub(super) fn sealed(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Segment>> {
    snapshot.parts.iter().filter_map(|part| match &part.source {
        Source::Sealed(segment) => Some(segment),
        Source::Active(..) => None,
    })
}

/// The parts of a view without the last, which belongs to the log that was just started.
fn frozen(snapshot: &Snapshot) -> &[Part] {
    snapshot.parts.split_last().map_or(&[], |(_, frozen)| frozen)
}

impl Inner {
    /// See [`Db::compact`]. The caller holds the maintenance lock and a pin.
    fn compact(&self, task: &Task) -> Result<()> {
        self.heal(true, task)?;
        let snapshot = self.snapshot();
        self.check_graph(&snapshot, &snapshot.parts)?;
        let heir = self.unite(task)?;
        self.merge_feedback(0)?;
        #[cfg(feature = "trainer")]
        self.forget_stopped_run()?;
        self.build_graphs(heir.as_ref(), self.options.threads, task)
    }

    /// Does long work behind searches and writes, on a thread that gives way to them; without threads of its own a database
    /// works on those of its callers alone.
    pub(super) fn behind<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if self.options.background { giving_way(work) } else { work() }
    }

    pub(super) fn target(&self) -> Target<'_> {
        Target { vfs: self.vfs.as_ref(), dir: &self.dir, database: self.snapshot().manifest.database }
    }

    /// One round of syncing: brings what was acknowledged to the disk at durability `Normal`; at `Full` it is there, and a
    /// note says so. Hands the writer's lock to whoever waits for it.
    pub(super) fn sync_round(&self, _task: &Task) -> Result<()> {
        if self.options.durability == Durability::Normal {
            self.feedback.lock().flush()?;
        }
        let mut writer = self.writer.lock();
        let Some(lock) = &writer.lock else { return Ok(()) };
        let waited_for = writer.pinned == 0 && lock.someone_waits()?;
        if let Some(log) = writer.log.as_mut()
            && (waited_for || self.options.durability != Durability::Bulk)
        {
            log.sync()?;
        }
        if waited_for {
            writer.log = None;
            writer.lock = None;
        }
        Ok(())
    }

    /// One round of maintenance: only where this process holds the writer's lock.
    pub(super) fn maintenance_round(&self, task: &Task) -> Result<()> {
        if self.writer.try_lock().is_none_or(|writer| writer.lock.is_none()) {
            return Ok(());
        }
        let Some(_alone) = self.maintenance.try_alone() else { return Ok(()) };
        self.maintenance.overdue.store(false, Ordering::Relaxed);
        let sequence = self.state.lock().sequence;
        // In a bulk load `compact` builds graphs.
        let builds = self.load.is_over(sequence) && self.options.durability != Durability::Bulk;
        // Until anyone else wants to maintain: what a merge is about to throw away is not worth waiting for, and what
        // waits to be sealed fills the memory.
        let building = task.unless(self.maintenance.wanted());
        if self.wants_seal() {
            let _pin = Pin::new(self, self.options.busy_timeout)?;
            // Where rows come faster than graphs are built, the graph comes after.
            let steady = self.unsealed().0 / STEADY < self.options.seal_rows;
            self.seal_with((builds && steady).then_some(&building), task)?;
            release_heap();
        }
        super::growing::feed(&self.growing, &self.snapshot(), self.options.seal_rows)?;
        if self.wants_healing() {
            let _pin = Pin::new(self, self.options.busy_timeout)?;
            self.heal(false, task)?;
        }
        let candidates = self.merge_candidates();
        let mut heir = None;
        if !candidates.is_empty() {
            let _pin = Pin::new(self, self.options.busy_timeout)?;
            heir = self.merge(&candidates, builds.then_some(&building), task)?;
            release_heap();
        }
        if builds { self.build_graphs_aside(heir.as_ref(), &building) } else { Ok(()) }
    }

    /// What is due right after a write, where no background thread does it. The write is acknowledged: what fails
    /// here fails again, and is told, when the user compacts.
    pub fn after_write(&self) {
        let _ = self.tidy();
    }

    fn tidy(&self) -> Result<()> {
        let fresh = std::mem::take(&mut self.writer.lock().fresh);
        let seals = !self.options.background && self.wants_seal();
        if self.options.background && self.is_seal_overdue() {
            self.maintenance.overdue.store(true, Ordering::Relaxed);
        }
        if !fresh && !seals {
            return Ok(());
        }
        let Some(_alone) = self.maintenance.try_alone() else { return Ok(()) };
        if fresh {
            self.merge_feedback(FEEDBACK_FILES)?;
        }
        if !seals {
            return Ok(());
        }
        let _pin = Pin::new(self, self.options.busy_timeout)?;
        self.seal(&Task::default())
    }

    fn wants_seal(&self) -> bool {
        let (rows, bytes) = self.unsealed();
        // In a bulk load nobody waits for a scan of the rows, and the fewer segments the less is written twice.
        let many = rows >= self.options.seal_rows && self.options.durability != Durability::Bulk;
        many || bytes >= self.seal_bytes()
    }

    fn is_seal_overdue(&self) -> bool {
        let (rows, bytes) = self.unsealed();
        let many = rows / OVERDUE >= self.options.seal_rows && self.options.durability != Durability::Bulk;
        many || bytes >= self.seal_bytes()
    }

    /// Rows that are not sealed, and bytes of their logs.
    pub(super) fn unsealed(&self) -> (usize, u64) {
        let snapshot = self.snapshot();
        let rows = snapshot.parts.iter().map(|part| match &part.source {
            Source::Active(_, active) => active.rows(),
            Source::Sealed(_) => 0,
        });
        (rows.sum(), self.state.lock().logs.iter().map(|l| l.end).sum())
    }

    /// Segments that should become one: a run of similar size, or one with many deleted documents.
    fn merge_candidates(&self) -> Vec<u64> {
        if self.options.durability == Durability::Bulk {
            // More of the load would only be merged with it again.
            return Vec::new();
        }
        let snapshot = self.snapshot();
        let mut sizes: Vec<(u64, u64)> = Vec::new();
        for part in &snapshot.parts {
            if let Source::Sealed(segment) = &part.source {
                if part.dead.len() as f64 > DEAD_SHARE * f64::from(part.documents()) && part.dead.len() > 1000
                {
                    return vec![segment.entry.id];
                }
                sizes.push((part.live(), segment.entry.id));
            }
        }
        sizes.sort_unstable();
        let fits = |ids: &[(u64, u64)]| {
            let chosen = |part: &&Part| matches!(&part.source, Source::Sealed(s) if ids.iter().any(|i| i.1 == s.entry.id));
            self.check_graph(&snapshot, snapshot.parts.iter().filter(chosen)).is_ok()
        };
        let alike = |w: &&[(u64, u64)]| w[FAN_IN - 1].0 <= w[0].0.saturating_mul(FAN_IN as u64);
        let similar = sizes.windows(FAN_IN).find(alike).filter(|w| fits(w));
        similar.map(|w| w.iter().map(|s| s.1).collect()).unwrap_or_default()
    }

    /// Turns all active parts into one sealed segment. The caller holds the maintenance lock and a pin.
    pub fn seal(&self, task: &Task) -> Result<()> {
        self.seal_with(None, task)
    }

    /// The same, with the segment's graph if there is a task for building it: until then searches have the rows of the logs,
    /// which they rule out faster than those of a segment without a graph. Nothing is sealed if that has to stop for someone who
    /// merges all.
    pub(super) fn seal_with(&self, building: Option<&Task>, task: &Task) -> Result<()> {
        let (snapshot, sequence) = {
            let mut writing = self.writing(self.options.busy_timeout)?;
            if !writing.has_records() {
                return Ok(());
            }
            writing.rotate()?
        };
        let mut written = self.write_active(&snapshot, task)?;
        if let (Some(entry), Some(building)) = (&mut written, building) {
            self.give_graph(&snapshot, entry, None, (1, building))?;
            if building.check().is_err() && self.maintenance.is_superseded() {
                return Ok(());
            }
        }
        self.commit(self.sealing(&snapshot, sequence, written))
    }

    /// Writes the active parts of a view as a segment, if they have any document.
    fn write_active(&self, snapshot: &Snapshot, task: &Task) -> Result<Option<SegmentEntry>> {
        let frozen = frozen(snapshot).iter();
        let active: Vec<&Part> = frozen.filter(|p| matches!(p.source, Source::Active(..))).collect();
        self.write_segment(snapshot, &active, snapshot.manifest.next_segment, task)
    }

    /// The change of the manifest that makes a segment count in the place of the active parts of a view.
    fn sealing<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        sequence: u64,
        written: Option<SegmentEntry>,
    ) -> impl FnMut(&mut Manifest) -> Result<()> + 'a {
        let first_log = self.last_log_of(snapshot);
        move |manifest: &mut Manifest| {
            manifest.first_log = first_log;
            manifest.sequence = sequence;
            self.write_deaths(manifest, frozen(snapshot))?;
            manifest.next_segment = snapshot.manifest.next_segment + 1;
            manifest.segments.extend(written.clone());
            Ok(())
        }
    }

    /// Makes one segment without deleted documents of all segments and active parts, each row being read and
    /// written once. One that is whole already stays, unless its graph does not lead to all of its rows. The caller
    /// holds the maintenance lock and a pin.
    fn unite(&self, task: &Task) -> Result<Option<Heir>> {
        let mut writing = self.writing(self.options.busy_timeout)?;
        let snapshot = self.snapshot();
        let dead = snapshot.parts.iter().any(|part| !part.dead.is_empty());
        if !writing.has_records() && !dead && sealed(&snapshot).count() <= 1 && all_sound(&snapshot)? {
            return Ok(None);
        }
        let (snapshot, sequence) = writing.rotate()?;
        drop(writing);
        let united: Vec<&Part> = frozen(&snapshot).iter().collect();
        let id = snapshot.manifest.next_segment;
        let mut written = self.write_segment(&snapshot, &united, id, task)?;
        let heir = Heir::new(&snapshot, &united, id)?;
        if let Some(entry) = &mut written {
            self.give_graph(&snapshot, entry, heir.as_ref(), (self.options.threads, task))?;
        }
        let first_log = self.last_log_of(&snapshot);
        self.commit(|manifest| {
            manifest.first_log = first_log;
            manifest.sequence = sequence;
            manifest.next_segment = id + 1;
            manifest.segments = written.clone().into_iter().collect();
            Ok(())
        })?;
        Ok(heir)
    }

    /// Merges segments into one, with its graph if there is a task for building it; nothing is merged if that has to stop for
    /// someone who merges all. The caller holds the maintenance lock and a pin.
    pub(super) fn merge(
        &self,
        segments: &[u64],
        building: Option<&Task>,
        task: &Task,
    ) -> Result<Option<Heir>> {
        let snapshot = {
            let mut writing = self.writing(self.options.busy_timeout)?;
            if let Some(log) = writing.writer.log.as_mut() {
                // Deaths that only the log knows are about to become final.
                log.sync()?;
            }
            self.snapshot()
        };
        let chosen = |id: u64| segments.contains(&id);
        let parts: Vec<&Part> = snapshot
            .parts
            .iter()
            .filter(|p| matches!(&p.source, Source::Sealed(s) if chosen(s.entry.id)))
            .collect();
        let id = snapshot.manifest.next_segment;
        let mut written = self.write_segment(&snapshot, &parts, id, task)?;
        let heir = Heir::new(&snapshot, &parts, id)?;
        if let (Some(entry), Some(building)) = (&mut written, building) {
            self.give_graph(&snapshot, entry, heir.as_ref(), (1, building))?;
            if building.check().is_err() && self.maintenance.is_superseded() {
                // Until that is done, searches are faster with the graphs of the segments that there are.
                return Ok(None);
            }
        }
        self.commit(|manifest| {
            manifest.next_segment = id + 1;
            manifest.segments.retain(|s| !chosen(s.id));
            manifest.segments.extend(written.clone());
            Ok(())
        })?;
        Ok(heir)
    }

    /// Merges feedback files of processes that are gone, if there are more than `more_than`. The caller holds the maintenance lock.
    pub fn merge_feedback(&self, more_than: usize) -> Result<()> {
        let vfs = self.vfs.as_ref();
        if feedback::unmerged(vfs, &self.dir)?.len() <= more_than {
            return Ok(());
        }
        let taken = feedback::take_over(vfs, &self.dir, &self.snapshot().manifest.database)?;
        if taken.is_empty() {
            return Ok(());
        }
        let mut files = Vec::new();
        self.commit(|manifest| {
            let mut events = Vec::new();
            if manifest.feedback.len() >= FAN_IN {
                for file in std::mem::take(&mut manifest.feedback) {
                    events.extend(feedback::read_merged(vfs, &self.dir, &file, &manifest.database)?);
                }
            }
            events.extend(taken.events.iter().cloned());
            if !events.is_empty() {
                let merged = feedback::write_merged(&self.target(), manifest.number, &events)?;
                manifest.feedback.push(merged);
            }
            files.clone_from(&manifest.feedback);
            Ok(())
        })?;
        taken.remove(vfs)?;
        feedback::clean(vfs, &self.dir, &files)
    }

    /// Publishes a changed manifest, then reads the state back and removes what nobody names any more.
    pub fn commit(&self, change: impl FnMut(&mut Manifest) -> Result<()>) -> Result<()> {
        self.writing(self.options.busy_timeout)?.commit_manifest(change)
    }

    fn last_log_of(&self, snapshot: &Snapshot) -> u64 {
        match snapshot.parts.last().map(|p| &p.source) {
            Some(Source::Active(number, _)) => *number,
            _ => snapshot.manifest.first_log,
        }
    }

    /// Writes tombstone files for sealed parts with more deaths than the manifest knows.
    fn write_deaths(&self, manifest: &mut Manifest, parts: &[Part]) -> Result<()> {
        let version = manifest.number as u32;
        for part in parts {
            let Source::Sealed(segment) = &part.source else { continue };
            let Some(entry) = manifest.segments.iter_mut().find(|s| s.id == segment.entry.id) else {
                continue;
            };
            if part.dead.len() == u64::from(entry.deleted) {
                continue;
            }
            let file = self.target().write_tombstones(entry.id, version, &part.dead)?;
            let old = format!("{}/del.{}", segment_dir(entry.id), entry.tombstones);
            entry.files.retain(|f| f.path != old);
            entry.files.push(file);
            entry.tombstones = version;
            entry.deleted = part.dead.len() as u32;
        }
        Ok(())
    }
}

impl Writing<'_> {
    /// Seals without letting other threads write in between. The caller holds the maintenance lock and a pin.
    pub fn seal(&mut self, task: &Task) -> Result<()> {
        if !self.has_records() {
            return Ok(());
        }
        let (snapshot, sequence) = self.rotate()?;
        let written = self.inner.write_active(&snapshot, task)?;
        self.commit_manifest(self.inner.sealing(&snapshot, sequence, written))
    }

    /// Whether the logs hold any record.
    fn has_records(&self) -> bool {
        let state = self.inner.state.lock();
        state.logs.iter().any(|l| l.end > crate::format::frame::LOG_HEADER_LEN as u64)
            && (state.sequence > state.manifest.sequence)
    }

    /// Ends the current log and starts the next one; the view just after that, and the last sequence number in it.
    fn rotate(&mut self) -> Result<(Snapshot, u64)> {
        let end = self.writer.log.as_mut().map(|log| log.finish()).transpose()?;
        // From here on the next log may exist, so that this one must not grow, whatever fails.
        self.writer.log = None;
        let mut state = self.inner.state.lock();
        if let (Some(end), Some(last)) = (end, state.logs.last_mut()) {
            last.end = end;
        }
        let log = self.next_log(&mut state)?;
        self.writer.log = Some(log);
        self.inner.publish(&state);
        Ok((state.snapshot(), state.sequence))
    }

    /// See [`Inner::commit`].
    pub fn commit_manifest(&mut self, mut change: impl FnMut(&mut Manifest) -> Result<()>) -> Result<()> {
        let inner = self.inner;
        let vfs = inner.vfs.as_ref();
        if let Some(log) = &self.writer.log {
            log.check()?;
        }
        faults::check()?;
        // Given back when all is well. If not, the new manifest may be there or not: the next write looks.
        let log = self.writer.log.take();
        let mut state = inner.state.lock();
        let mut manifest = Manifest::clone(&state.manifest);
        manifest.number += 1;
        drop(state);
        change(&mut manifest)?;
        manifests::commit(vfs, &inner.dir, &manifest)?;
        state = inner.state.lock();
        let loaded = State::load(vfs, &inner.dir, Some(&state))?;
        *state = loaded.unwrap_or_else(State::empty);
        inner.publish(&state);
        self.writer.log = log;
        // It is committed. What cannot be removed now is in nobody's way, and the next commit tries again.
        let _ = clean(vfs, &inner.dir, &state.manifest);
        Ok(())
    }
}
