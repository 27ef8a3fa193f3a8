//! Maintenance: sealing the active segment, merging segments, building graphs, removing what nobody names.
//!
//! Each step writes new files beside the old ones, verifies that no document was lost, and swaps by one manifest.
//! Files are built without the writer's mutex, so that writes go on; the state after a swap is read back from
//! disk, by the same code as after a crash.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::active::parse_meta;
use super::background::giving_way;
use super::graphs::all_sound;
use super::healing::needs_codes;
use super::heir::Heir;
use super::snapshot::{Part, Rows, Snapshot, Source};
use super::state::State;
use super::write::Writing;
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::attrs::AttrsBuilder;
use crate::format::manifest::{Manifest, SegmentEntry, VectorSet};
use crate::format::segment::DocumentRecord;
use crate::index::{Codes, VectorBlock};
use crate::mmap::{faults, release_heap};
use crate::options::{Durability, Task};
use crate::storage::segment::{NewDocument, Run, Segment, SegmentBuilder, Target, VectorRuns, segment_dir};
use crate::storage::vfs::Vfs;
use crate::storage::{LOG_DIR, SEGMENT_DIR, feedback, manifests, models, numbered_path};

/// Segments of similar size that are merged into one.
const FAN_IN: usize = 4;
/// Share of deleted documents at which a segment is rewritten.
const DEAD_SHARE: f64 = 0.2;
/// Unmerged feedback files at which a writer merges them.
const FEEDBACK_FILES: usize = 32;
/// Rounds without a write after which a load is over: half a minute, as a batch may take some seconds to encode.
const QUIET_TICKS: u32 = 120;
/// Rows that wait to be sealed, as a multiple of those from which on they are: at more a seal is overdue.
const OVERDUE: usize = 16;

/// Lets one thread at a time write segments, and tells it when others wait.
#[derive(Default)]
pub(crate) struct Alone {
    lock: Mutex<()>,
    pub(super) waiting: Arc<AtomicUsize>,
    /// So much waits to be sealed that whoever builds graphs is to stop.
    pub(super) overdue: Arc<AtomicBool>,
}

impl Alone {
    /// Waits for its turn.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.lock.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Takes the turn if nobody has it.
    pub fn try_alone(&self) -> Option<MutexGuard<'_, ()>> {
        self.lock.try_lock()
    }

    /// Says whether somebody waits, or a seal is overdue.
    pub(super) fn wanted(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let (waiting, overdue) = (Arc::clone(&self.waiting), Arc::clone(&self.overdue));
        move || waiting.load(Ordering::Relaxed) > 0 || overdue.load(Ordering::Relaxed)
    }
}

/// Whether a load is under way that outran the building of graphs: then none is begun before it is over.
#[derive(Default)]
pub(crate) struct Load {
    under_way: AtomicBool,
    sequence: AtomicU64,
    ticks: AtomicU32,
}

impl Load {
    /// A load was found.
    pub(super) fn begin(&self) {
        self.ticks.store(0, Ordering::Relaxed);
        self.under_way.store(true, Ordering::Relaxed);
    }

    /// Whether there is none, as of a tick at which this is the last sequence number.
    pub(super) fn is_over(&self, sequence: u64) -> bool {
        if !self.under_way.load(Ordering::Relaxed) {
            return true;
        }
        if self.sequence.swap(sequence, Ordering::Relaxed) != sequence {
            self.ticks.store(0, Ordering::Relaxed);
            return false;
        }
        let over = self.ticks.fetch_add(1, Ordering::Relaxed) + 1 >= QUIET_TICKS;
        self.under_way.store(!over, Ordering::Relaxed);
        over
    }
}

impl Db {
    /// Leaves one sealed segment with its graph, and gives the bytes of deleted documents back: afterwards no file of the
    /// database holds their text. Searches and writes of other threads go first where all cores are busy.
    pub fn compact(&self, task: &Task) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let _alone = self.inner.maintenance.alone();
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

/// Keeps the writer's lock from being handed over while files are built that no manifest names yet.
pub(crate) struct Pin<'a>(&'a Inner);

impl<'a> Pin<'a> {
    /// Takes the writer's lock and keeps it.
    pub fn new(inner: &'a Inner, timeout: Duration) -> Result<Self> {
        inner.writing(timeout)?.writer.pinned += 1;
        Ok(Self(inner))
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.writer.lock().pinned -= 1;
    }
}

pub(super) fn sealed(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Segment>> {
    snapshot.parts.iter().filter_map(|part| match &part.source {
        Source::Sealed(segment) => Some(segment),
        Source::Active(..) => None,
    })
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
        if self.wants_seal() {
            let _pin = Pin::new(self, self.options.busy_timeout)?;
            self.seal(task)?;
            release_heap();
        }
        super::growing::feed(&self.growing, &self.snapshot(), self.options.seal_rows)?;
        if self.wants_healing() {
            let _pin = Pin::new(self, self.options.busy_timeout)?;
            self.heal(false, task)?;
        }
        let sequence = self.state.lock().sequence;
        // In a bulk load `compact` builds graphs.
        let builds = self.load.is_over(sequence) && self.options.durability != Durability::Bulk;
        // Until anyone else wants to maintain: what a merge is about to throw away is not worth waiting for, and what
        // waits to be sealed fills the memory.
        let building = task.unless(self.maintenance.wanted());
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
        let (snapshot, sequence) = {
            let mut writing = self.writing(self.options.busy_timeout)?;
            if !writing.has_records() {
                return Ok(());
            }
            writing.rotate()?
        };
        self.commit(self.sealing(&snapshot, sequence, task)?)
    }

    /// Writes the active parts of a view as a segment; the change of the manifest that makes it count.
    fn sealing<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        sequence: u64,
        task: &Task,
    ) -> Result<impl FnMut(&mut Manifest) -> Result<()> + 'a> {
        // The last active part belongs to the log that was just started.
        let frozen = &snapshot.parts[..snapshot.parts.len() - 1];
        let active: Vec<&Part> = frozen.iter().filter(|p| matches!(p.source, Source::Active(..))).collect();
        let id = snapshot.manifest.next_segment;
        let written = self.write_segment(snapshot, &active, id, task)?;
        let first_log = self.last_log_of(snapshot);
        Ok(move |manifest: &mut Manifest| {
            manifest.first_log = first_log;
            manifest.sequence = sequence;
            self.write_deaths(manifest, frozen)?;
            manifest.next_segment = id + 1;
            manifest.segments.extend(written.clone());
            Ok(())
        })
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
        let united: Vec<&Part> = snapshot.parts.iter().take(snapshot.parts.len() - 1).collect();
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

    /// Merges segments into one, with its graph if there is a task for building it. The caller holds the maintenance lock
    /// and a pin.
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

    /// Writes the live documents of `parts` as one segment; `None` if there are none.
    pub fn write_segment(
        &self,
        snapshot: &Snapshot,
        parts: &[&Part],
        id: u64,
        task: &Task,
    ) -> Result<Option<SegmentEntry>> {
        let total: u64 = parts.iter().map(|p| p.live()).sum();
        if total == 0 {
            return Ok(None);
        }
        let version = snapshot.manifest.number as u32 + 1;
        let target = self.target();
        let mut builder = SegmentBuilder::create(&target, id)?;
        let mut attrs = AttrsBuilder::default();
        for part in parts {
            if let Source::Sealed(segment) = &part.source {
                segment.expect_all();
            }
            for document in part.live_documents() {
                if builder.len() % 1024 == 0 {
                    task.step("seal", u64::from(builder.len()), total)?;
                    if let Source::Sealed(segment) = &part.source {
                        segment.release(false);
                    }
                }
                let (title, text, meta) = raw_text(part, document)?;
                let record = DocumentRecord { title: title.as_deref(), text: &text, meta: &meta };
                let name = part.id_of(document)?;
                let number =
                    builder.push(&NewDocument { id: name, sequence: part.sequence(document)?, record })?;
                if !meta.is_empty() {
                    attrs.push(number, &parse_meta(&meta));
                }
            }
        }
        let documents = builder.len();
        if u64::from(documents) != total {
            return Err(Error::corrupt(
                &self.dir,
                0,
                format!("{documents} documents of {total} were written"),
            ));
        }
        let mut files = builder.finish(&target, &attrs.finish()?)?;
        let mut vectors = Vec::new();
        for generation in &snapshot.manifest.generations {
            let segments = parts.iter().filter_map(|part| match &part.source {
                Source::Sealed(segment) => Some(Arc::clone(segment)),
                Source::Active(..) => None,
            });
            let mut runs = VectorRuns { segments: segments.collect(), ..VectorRuns::default() };
            for part in parts {
                let blocks = blocks_of(snapshot, part, generation.id)?;
                if let Source::Sealed(segment) = &part.source {
                    needs_codes(segment, generation.id)?;
                }
                add_runs(part, &blocks, &mut runs);
            }
            if runs.spans.is_empty() {
                continue;
            }
            let set = VectorSet { generation: generation.id, version };
            files.extend(target.write_runs(id, set, &runs)?);
            vectors.push(set);
        }
        Ok(Some(SegmentEntry { id, documents, deleted: 0, tombstones: 0, vectors, files }))
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
        self.commit_manifest(self.inner.sealing(&snapshot, sequence, task)?)
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

/// Blocks of a generation's rows in a part; none in an active part of another generation.
pub(super) fn blocks_of<'a>(
    snapshot: &'a Snapshot,
    part: &'a Part,
    generation: u32,
) -> Result<Vec<Rows<'a>>> {
    let active = generation == snapshot.manifest.active_generation;
    match part.source {
        Source::Active(..) if !active => Ok(Vec::new()),
        _ => part.rows(generation, snapshot.shape_of(generation)?),
    }
}

/// The rows of live documents of a part, in order; documents that lack them get none.
fn add_runs<'a>(part: &Part, blocks: &[Rows<'a>], out: &mut VectorRuns<'a>) {
    let mut total = out.runs.iter().map(|run| run.rows.len()).sum::<usize>();
    if out.first.is_empty() {
        out.first.push(0);
    }
    let mut blocks = blocks.iter().peekable();
    let mut last = None;
    for document in part.live_documents() {
        while blocks.next_if(|b| document >= b.documents().end).is_some() {
            last = None;
        }
        let rows = blocks.peek().map_or(0..0, |block| block.rows_of(document));
        let rows = rows.start as usize..rows.end as usize;
        if let Some(block) = blocks.peek().filter(|_| !rows.is_empty()) {
            total += rows.len();
            out.spans.extend(rows.clone().map(|row| block.spans.get(row).copied().unwrap_or_default()));
            match out.runs.last_mut().filter(|_| last == Some(rows.start)) {
                Some(run) => run.rows.end = rows.end,
                None => {
                    let VectorBlock { codes, scales, norms, full, len, .. } = block.vectors;
                    let Codes { high, low } = codes;
                    out.runs.push(Run { rows: rows.clone(), of: len, high, low, scales, norms, full });
                }
            }
            // The next row, if it is of this block, belongs to the same run.
            last = Some(rows.end);
        }
        out.first.push(total as u32);
    }
}

/// Title, text and metadata JSON of a document, as stored.
fn raw_text(part: &Part, document: u32) -> Result<(Option<String>, String, String)> {
    let text = match &part.source {
        Source::Sealed(segment) => segment.text(document)?,
        Source::Active(_, active) => match active.document(document) {
            Some(found) => found.text.clone(),
            None => return Err(Error::corrupt("log", 0, format!("no document {document} in memory"))),
        },
    };
    Ok((text.title, text.text, text.meta))
}

/// Removes logs, segments, manifests and models that the newest manifest does not name. Only the holder of the
/// writer's lock may.
pub(crate) fn clean(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest) -> Result<()> {
    for number in super::state::log_numbers(vfs, dir)? {
        if number < manifest.first_log {
            vfs.remove_file(&numbered_path(dir, LOG_DIR, number))?;
        }
    }
    let named: HashSet<&str> = manifest.files().map(|f| f.path.as_str()).collect();
    let segments: Vec<String> = manifest.segments.iter().map(|s| segment_dir(s.id)).collect();
    for name in vfs.read_dir(&dir.join(SEGMENT_DIR))? {
        let path = format!("{SEGMENT_DIR}/{name}");
        if segments.contains(&path) {
            clean_segment(vfs, dir, &path, &named)?;
        } else {
            vfs.remove_dir_all(&dir.join(path))?;
        }
    }
    manifests::clean(vfs, dir)?;
    let generations = manifest.generations.iter().map(|g| g.model_id.clone());
    let models = generations.chain(manifest.models.iter().map(|m| m.model_id.clone()));
    let keep: Vec<String> = models.filter(|m| !m.is_empty()).collect();
    models::clean(vfs, dir, &keep)
}

fn clean_segment(vfs: &dyn Vfs, dir: &Path, segment: &str, named: &HashSet<&str>) -> Result<()> {
    for name in vfs.read_dir(&dir.join(segment))? {
        let path = format!("{segment}/{name}");
        if vfs.is_dir(&dir.join(&path))? {
            if named.iter().any(|f| f.starts_with(&format!("{path}/"))) {
                for inner in vfs.read_dir(&dir.join(&path))? {
                    let file = format!("{path}/{inner}");
                    if !named.contains(file.as_str()) {
                        vfs.remove_file(&dir.join(file))?;
                    }
                }
            } else {
                vfs.remove_dir_all(&dir.join(path))?;
            }
        } else if !named.contains(path.as_str()) {
            vfs.remove_file(&dir.join(path))?;
        }
    }
    Ok(())
}

/// Bytes of all files under a directory.
pub(crate) fn bytes_under(vfs: &dyn Vfs, path: &Path) -> Result<u64> {
    if !vfs.exists(path)? {
        return Ok(0);
    }
    let mut total = 0;
    for name in vfs.read_dir(path)? {
        let inner = path.join(name);
        total += if vfs.is_dir(&inner)? { bytes_under(vfs, &inner)? } else { vfs.file_len(&inner)? };
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_over_when_nothing_was_written_for_a_while() {
        let load = Load::default();
        assert!(load.is_over(5));
        load.begin();
        for sequence in [5, 6, 7] {
            assert!(!(0..QUIET_TICKS).any(|_| load.is_over(sequence)));
        }
        assert!(load.is_over(7) && load.is_over(8));
    }
}
