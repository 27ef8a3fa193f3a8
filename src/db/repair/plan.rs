//! What a damaged database should hold, by its newest manifest that can be read, and the empty database that takes it.

use std::collections::HashMap;
use std::path::Path;

use super::Sink;
use super::logs::Logs;
use super::models::usable_models;
use super::report::RepairReport;
use super::segment::{Place, SalvagedSegment};
use crate::db::snapshot::shape;
use crate::error::{Error, Result};
use crate::format::attrs::Sections;
use crate::format::file::Kind;
use crate::format::frame::{FrameType, LOG_HEADER_LEN, LogHeader};
use crate::format::manifest::{FileEntry, Manifest, SegmentEntry, VectorSet};
use crate::storage::feedback::{EVENTS, RawEvent, unmerged, write_merged};
use crate::storage::log::LogWriter;
use crate::storage::salvage::{Record, Salvaged, SalvagedLog};
use crate::storage::segment::segment_dir;
use crate::storage::segment_file::Parts;
use crate::storage::segment_writer::Target;
use crate::storage::vfs::Vfs;
use crate::storage::{FEEDBACK_DIR, LOG_DIR, SEGMENT_DIR, create_dirs, manifests, numbered, numbered_path};

/// What to save.
pub(super) struct Plan {
    /// The manifest that is believed.
    pub manifest: Manifest,
    /// Whether it is the newest one, and sound: then nothing counts that it does not name.
    current: bool,
}

impl Plan {
    /// Finds the manifest to go by: the newest, else an older one, else the newest although its checksum does not hold.
    pub fn make(vfs: &dyn Vfs, dir: &Path, report: &mut RepairReport) -> Result<Self> {
        let numbers = manifests::numbers(vfs, dir)?;
        let newest = numbers.last().copied();
        let mut doubtful = None;
        for &number in numbers.iter().rev() {
            let path = numbered_path(dir, crate::storage::MANIFEST_DIR, number);
            let file = match Salvaged::open(vfs, path.clone(), Kind::Manifest, None) {
                Ok(file) => file,
                // Not damage: what another version wrote must not be taken back to an older state.
                Err(error @ (Error::TooNew { .. } | Error::TooOld { .. })) => return Err(error),
                Err(_) => continue,
            };
            let Ok(manifest) = Manifest::parse(file.all(), number, &path) else { continue };
            if file.is_damaged() {
                doubtful.get_or_insert(manifest);
                continue;
            }
            report.bits_turned += file.turned();
            let current = Some(number) == newest;
            if !current {
                report.note(format!(
                    "the newest manifest cannot be read: saved is what the one before says (manifest {number}) and what \
                     is found beside it; documents deleted since may be back, encoders learnt since are not used"
                ));
            }
            return Ok(Self { manifest, current });
        }
        let what = "no manifest can be read: nothing says what the files of this database are";
        let manifest =
            doubtful.ok_or_else(|| Error::corrupt(dir.join(crate::storage::MANIFEST_DIR), 0, what))?;
        report.note("no manifest is sound: the newest was used although a part of it is damaged".into());
        Ok(Self { manifest, current: false })
    }

    /// The first log whose records count.
    pub fn first_log(&self) -> u64 {
        if self.current { self.manifest.first_log } else { 0 }
    }

    /// The sequence number of the last record before that log, if it is known.
    pub fn before(&self) -> Option<u64> {
        self.current.then_some(self.manifest.sequence)
    }

    /// Makes an empty database of the same kind at `out`, with encoders, searches and clicks.
    pub fn create(
        &self,
        place: &Place<'_>,
        out: &Path,
        model: Option<&Path>,
        report: &mut RepairReport,
    ) -> Result<Manifest> {
        create_dirs(place.vfs, out)?;
        let mut manifest = usable_models(place, out, &self.manifest, model, report)?;
        manifest.number = 1;
        manifest.next_segment = 1;
        manifest.first_log = 1;
        manifest.sequence = 0;
        manifest.segments = Vec::new();
        let events = self.events(place, report)?;
        manifest.feedback = Vec::new();
        if !events.is_empty() {
            let target = Target { vfs: place.vfs, dir: out, database: place.database };
            manifest.feedback.push(write_merged(&target, 1, &events)?);
        }
        let header =
            LogHeader { number: 1, salt: place.vfs.random(), previous_end: 0, database: place.database };
        LogWriter::create(place.vfs, &numbered_path(out, LOG_DIR, 1), header)?;
        manifests::commit(place.vfs, out, &manifest)?;
        Ok(manifest)
    }

    /// Hands on the documents of all segments that no log replaces or deletes.
    pub fn segments(
        &self,
        place: &Place<'_>,
        logs: &Logs,
        sink: &mut Sink<'_>,
        report: &mut RepairReport,
    ) -> Result<()> {
        let entries = if self.current {
            self.manifest.segments.clone()
        } else {
            found_segments(place, &self.manifest)?
        };
        let (generation, codec) = (sink.generation.clone(), self.manifest.codec());
        let shape = shape(&self.manifest, &generation);
        let open = |entry: &SegmentEntry, report: &mut RepairReport| {
            SalvagedSegment::open(place, entry, generation.id, codec, report)
        };
        let best = if self.current { HashMap::new() } else { newest_places(&entries, open) };
        for entry in &entries {
            let segment = open(entry, report);
            let mut unnamed = 0;
            for document in segment.live() {
                let Some(id) = segment.id(document) else {
                    unnamed += 1;
                    continue;
                };
                let sequence = segment.sequence(document);
                let replaced = logs.last.get(id).is_some_and(|last| last.sequence >= sequence);
                if replaced || best.get(id).is_some_and(|&place| place != (sequence, entry.id, document)) {
                    continue;
                }
                match segment.text(document) {
                    Ok(text) => {
                        let rows = segment.rows(document, generation.id, &shape).ok();
                        sink.push(id.to_owned(), text, rows, report)?;
                    }
                    Err(error) => report.lose(place.dir, Some(id), 1, &error),
                }
            }
            if unnamed > 0 {
                report.lose(place.dir, None, unnamed, &segment.ids_error());
            }
        }
        Ok(())
    }

    /// All searches and clicks that can be read.
    fn events(&self, place: &Place<'_>, report: &mut RepairReport) -> Result<Vec<RawEvent>> {
        let mut events = Vec::new();
        let folder = place.dir.join(FEEDBACK_DIR);
        let listed: Vec<&str> = self.manifest.feedback.iter().map(|file| file.path.as_str()).collect();
        let names = if place.vfs.exists(&folder)? { place.vfs.read_dir(&folder)? } else { Vec::new() };
        let merged =
            names.iter().map(|name| format!("{FEEDBACK_DIR}/{name}")).filter(|path| path.contains("merged-"));
        let merged = merged.filter(|path| !self.current || listed.contains(&path.as_str()));
        for path in merged {
            match Salvaged::open(place.vfs, place.dir.join(&path), Kind::Feedback, Some(&place.database)) {
                Ok(file) => merged_events(&file, &mut events, report),
                Err(error) => {
                    report.lost_events += 1;
                    report.note(format!("searches and clicks are lost: {error}"));
                }
            }
        }
        let gone = listed.iter().filter(|path| !names.iter().any(|name| path.ends_with(name.as_str())));
        gone.for_each(|path| report.note(format!("searches and clicks are lost: {path} is missing")));
        for path in unmerged(place.vfs, place.dir)? {
            let log = match SalvagedLog::open(place.vfs, &path) {
                Ok(log) => log,
                // It was never in use.
                Err(_) if place.vfs.file_len(&path)? <= LOG_HEADER_LEN as u64 => continue,
                Err(error) => {
                    report.lost_events += 1;
                    report.note(format!("searches and clicks are lost: {error}"));
                    continue;
                }
            };
            report.bits_turned += log.turned;
            for record in log.records(None, Some(0)) {
                match record {
                    Record::Sound(frame) if is_event(frame.kind, frame.payload) => {
                        events.push(RawEvent { kind: frame.kind, json: frame.payload.to_vec() });
                    }
                    Record::Sound(_) => report.lost_events += 1,
                    Record::Damaged(damaged) => report.lost_events += damaged.records,
                }
            }
        }
        Ok(events)
    }
}

fn merged_events(file: &Salvaged, events: &mut Vec<RawEvent>, report: &mut RepairReport) {
    report.bits_turned += file.turned();
    let Some((bytes, _)) = file.raw::<u8>(EVENTS, 0, file.size(EVENTS)) else { return };
    let mut at = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let sound = file.section_range::<u8>(EVENTS, at, line.len()).is_ok();
        at += line.len();
        let event = match line.trim_ascii_end().split_first() {
            Some((b'Q', json)) => Some((FrameType::Query, json)),
            Some((b'C', json)) => Some((FrameType::Click, json)),
            _ => None,
        };
        match event.filter(|(kind, json)| sound && is_event(*kind, json)) {
            Some((kind, json)) => events.push(RawEvent { kind, json: json.to_vec() }),
            None => report.lost_events += 1,
        }
    }
}

fn is_event(kind: FrameType, json: &[u8]) -> bool {
    crate::db::feedback::is_event(&RawEvent { kind, json: json.to_vec() })
}

/// The segments whose directories are found, as far as their names tell what they hold.
fn found_segments(place: &Place<'_>, manifest: &Manifest) -> Result<Vec<SegmentEntry>> {
    let mut entries = Vec::new();
    for id in numbered(place.vfs, &place.dir.join(SEGMENT_DIR))? {
        let names = place.vfs.read_dir(&place.dir.join(segment_dir(id)))?;
        let tombstones = names.iter().filter_map(|name| name.strip_prefix("del.")?.parse().ok()).max();
        let mut sets: HashMap<u32, u32> = HashMap::new();
        for name in names.iter().filter_map(|name| name.strip_prefix("gen.")) {
            if let Some((generation, version)) = name.split_once('.')
                && let (Ok(generation), Ok(version)) = (generation.parse(), version.parse::<u32>())
            {
                let newest = sets.entry(generation).or_default();
                *newest = version.max(*newest);
            }
        }
        let vectors =
            sets.into_iter().map(|(generation, version)| VectorSet { generation, version }).collect();
        let listed = manifest.segments.iter().find(|entry| entry.id == id);
        let (documents, files) = (listed.map_or(0, |entry| entry.documents), Vec::<FileEntry>::new());
        let tombstones = tombstones.unwrap_or_default();
        entries.push(SegmentEntry { id, documents, deleted: 0, tombstones, vectors, files });
    }
    Ok(entries)
}

/// Where the newest version of each id lies: sequence number, segment, document.
fn newest_places(
    entries: &[SegmentEntry],
    open: impl Fn(&SegmentEntry, &mut RepairReport) -> SalvagedSegment,
) -> HashMap<String, (u64, u64, u32)> {
    let mut best: HashMap<String, (u64, u64, u32)> = HashMap::new();
    for entry in entries {
        // What is wrong with it is told when its documents are read.
        let segment = open(entry, &mut RepairReport::default());
        for document in segment.live() {
            if let Some(id) = segment.id(document) {
                let found = (segment.sequence(document), entry.id, document);
                let place = best.entry(id.to_owned()).or_insert(found);
                *place = found.max(*place);
            }
        }
    }
    best
}
