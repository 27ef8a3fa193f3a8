//! A whole database: one that is sound, with harm done to its files and checksums that fit the harm.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use embdb::format::file::{MAGIC, TRAILER_LEN};
use embdb::format::frame::{LOG_HEADER_LEN, LOG_MAGIC, LogHeader};
use embdb::format::manifest::Manifest;
use embdb::format::u64_at;
use embdb::storage::sim::SimVfs;
use embdb::storage::vfs::Vfs;
use embdb::types::Document;
use embdb::{CreateOptions, Db, OpenOptions, Task};

use crate::patch::{Input, Patch};
use crate::repair;

/// Where the database lies.
const PATH: &str = "db";
/// Dimension of its vectors.
const DIM: usize = 4;
/// Rows from which a segment has a graph.
const LARGE_ROWS: u64 = 4200;

/// Deleted documents, two segments, a log with writes and deletes, metadata, searches and clicks; no graph.
pub static SMALL: OnceLock<Base> = OnceLock::new();
/// One segment with a graph.
static LARGE: OnceLock<Base> = OnceLock::new();

/// A sound database.
pub struct Base {
    disk: SimVfs,
    /// Its files but for the lock, by name.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

fn options() -> OpenOptions {
    let create = CreateOptions { vectors: Some(DIM), ..CreateOptions::default() };
    OpenOptions { create, background: false, threads: 1, ..OpenOptions::default() }
}

fn document(n: u64) -> Document {
    let vector = (0..DIM as u64).map(|i| ((n * 37 + i * 11) % 101) as f32 - 40.0).collect();
    let mut document = Document::from_vector(format!("d{n}"), vector).title(format!("title {n}"));
    document.text = format!("the text of document {n}");
    document
        .meta("n", n)
        .meta("lang", if n.is_multiple_of(3) { "en" } else { "de" })
        .meta("part", n as f64 / 7.0)
}

impl Base {
    /// The database without a graph.
    pub fn small() -> &'static Self {
        SMALL.get_or_init(|| {
            let disk = SimVfs::new(11);
            let db = Db::open_vfs(std::sync::Arc::new(disk.clone()), PATH, options()).expect("it opens");
            let task = Task::default();
            db.add((0..30).map(document)).expect("added");
            db.seal(&task).expect("sealed");
            db.add((20..45).map(document)).expect("replaced");
            db.delete(&["d3".into(), "d44".into()]).expect("deleted");
            db.seal(&task).expect("sealed");
            db.add((45..50).map(document)).expect("added");
            db.delete(&["d1".into(), "d46".into()]).expect("deleted");
            drop(db);
            Self::of(disk)
        })
    }

    /// The one with a graph.
    fn large() -> &'static Self {
        LARGE.get_or_init(|| {
            let disk = SimVfs::new(12);
            let db = Db::open_vfs(std::sync::Arc::new(disk.clone()), PATH, options()).expect("it opens");
            db.add((0..LARGE_ROWS).map(document)).expect("added");
            db.compact(&Task::default()).expect("compacted");
            drop(db);
            Self::of(disk)
        })
    }

    fn of(disk: SimVfs) -> Self {
        let mut files = Vec::new();
        list(&disk, Path::new(PATH), &mut files);
        files.retain(|(path, _)| !path.to_string_lossy().contains("LOCK"));
        Self { disk, files }
    }

    /// A copy on a disk of its own.
    pub fn copy(&self) -> SimVfs {
        self.disk.live_copy()
    }

    /// The newest manifest, and where it lies.
    pub fn manifest(&self) -> (usize, Manifest) {
        let newest =
            self.files.iter().rposition(|(path, _)| path.starts_with("db/manifest")).expect("a manifest");
        let (path, bytes) = &self.files[newest];
        (newest, Manifest::parse(bytes, number(path), path).expect("a sound manifest"))
    }
}

/// The number that is a file's name.
fn number(path: &Path) -> u64 {
    path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).unwrap_or_default()
}

fn list(disk: &SimVfs, folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for name in disk.read_dir(folder).expect("a folder") {
        let path = folder.join(name);
        match disk.is_dir(&path).expect("it is there") {
            true => list(disk, &path, files),
            false => files.push((path.clone(), disk.read(&path).expect("it can be read"))),
        }
    }
}

/// The same file with a patch, and whatever must fit it: checksums, lengths.
fn repaired(path: &Path, sound: &[u8], patch: &Patch) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    if sound.starts_with(&LOG_MAGIC) {
        let mut head: Vec<u8> = bytes.drain(..LOG_HEADER_LEN).collect();
        // Places before the end of the header are of the header.
        match usize::from(patch.at) < LOG_HEADER_LEN && !patch.from_end {
            true => patch.apply(&mut head),
            false => Patch { at: patch.at.saturating_sub(LOG_HEADER_LEN as u16), ..patch.clone() }
                .apply(&mut bytes),
        }
        head.resize(LOG_HEADER_LEN, 0);
        let head = repair::log_header(&head);
        let salt = LogHeader::parse(&head, path).map_or(0, |header| header.salt);
        return [head, repair::frames(&bytes, LOG_HEADER_LEN as u64, salt)].concat();
    }
    if sound.starts_with(&MAGIC) {
        let body = u64_at(sound, sound.len() - TRAILER_LEN).unwrap_or_default() as usize;
        bytes.truncate(body);
        patch.apply(&mut bytes);
        return repair::sums(&bytes);
    }
    patch.apply(&mut bytes);
    bytes
}

/// One number of a manifest changed.
fn change(manifest: &mut Manifest, field: u8, at: u8, value: u64) {
    let small = value as u32;
    match field % 18 {
        0 => manifest.active_generation = small,
        1 => manifest.next_generation = small,
        2 => manifest.next_segment = value,
        3 => manifest.first_log = value,
        4 => manifest.sequence = value,
        5 => manifest.metric = value as u8,
        6 => manifest.codec = value as u8,
        7 => manifest.precision = value as u8,
        8 => manifest.index = value as u8,
        9 => {
            manifest.generations.iter_mut().for_each(|generation| {
                generation.dim = small;
                generation.ladder = vec![small];
            });
        }
        10 => manifest.generations.iter_mut().for_each(|generation| generation.ladder.insert(0, small)),
        11 => manifest
            .generations
            .iter_mut()
            .for_each(|generation| generation.model_id = format!("{value:032x}")),
        12 => manifest.generations.iter_mut().for_each(|generation| generation.id = small),
        13..=16 => {
            let count = manifest.segments.len().max(1);
            if let Some(segment) = manifest.segments.get_mut(usize::from(at) % count) {
                match field % 18 {
                    13 => segment.documents = small,
                    14 => segment.deleted = small,
                    15 => segment.tombstones = small,
                    _ => segment.vectors.iter_mut().for_each(|set| set.version = small),
                }
            }
        }
        _ => {
            let mut files = manifest.segments.iter_mut().flat_map(|segment| &mut segment.files);
            if let Some(file) = files.nth(usize::from(at) % 16) {
                file.length = value;
            }
        }
    }
}

/// Does the harm that an input asks for.
fn harm(base: &Base, input: &mut Input<'_>, keeps_entries: bool) -> SimVfs {
    let disk = base.copy();
    let (newest, mut manifest) = base.manifest();
    let mut harmed: Vec<Option<Vec<u8>>> = base.files.iter().map(|(_, bytes)| Some(bytes.clone())).collect();
    let mut raw_manifest = false;
    while !input.is_empty() {
        let (file, kind) = (usize::from(input.byte()) % base.files.len(), input.byte());
        let path = &base.files[file].0;
        raw_manifest |= file == newest && kind % 6 != 5;
        let now = harmed[file].clone().unwrap_or_default();
        harmed[file] = match kind % 6 {
            0 | 1 if now.len() < TRAILER_LEN + LOG_HEADER_LEN => Some(now),
            0 => Some(repaired(path, &now, &Patch::read(input))),
            1 => {
                let mut bytes = now;
                Patch::read(input).apply(&mut bytes);
                Some(bytes)
            }
            2 => Some(now[..now.len() * usize::from(input.short()) / 65_536].to_vec()),
            3 => None,
            4 => harmed[usize::from(input.byte()) % base.files.len()].clone(),
            _ => {
                let (field, at, value) = (input.byte(), input.byte(), input.long());
                change(&mut manifest, field, at, value);
                Some(now)
            }
        };
    }
    if !keeps_entries {
        name_harmed(base, &mut manifest, &harmed);
    }
    if !raw_manifest {
        harmed[newest] = manifest.encode().ok();
    }
    for ((path, sound), bytes) in base.files.iter().zip(harmed) {
        if bytes.as_ref() != Some(sound) {
            disk.remove_file(path).expect("it was there");
            if let Some(bytes) = bytes {
                disk.create(path).and_then(|mut file| file.write_at(0, &bytes)).expect("it is written");
            }
        }
    }
    disk
}

/// Has the manifest name the files as they are now, lengths and checksums.
fn name_harmed(base: &Base, manifest: &mut Manifest, harmed: &[Option<Vec<u8>>]) {
    let entries =
        manifest.segments.iter_mut().flat_map(|segment| &mut segment.files).chain(&mut manifest.feedback);
    for entry in entries {
        let path = Path::new(PATH).join(&entry.path);
        let at = base.files.iter().position(|(name, _)| *name == path);
        let sound = at.map(|at| &base.files[at].1);
        if let Some(bytes) = at.and_then(|at| harmed[at].as_ref()).filter(|bytes| Some(*bytes) != sound) {
            entry.length = bytes.len() as u64;
            entry.checksum = u64_at(bytes, bytes.len().saturating_sub(16)).unwrap_or_default();
        }
    }
}

/// Reads and writes all that there is; each call gives something or an error.
fn visit(db: &Db, small: bool) {
    let task = Task::default();
    let count = db.count().unwrap_or_default();
    if small {
        db.ids().map(|ids| assert_eq!(ids.len() as u64, count)).ok();
    }
    ["d0", "d21", "d47", "no"].iter().for_each(|id| _ = db.get(id).ok());
    // A filter whose columns are damaged reads each document, of which the large one has many.
    for query in 0..if small { 10 } else { 4 } {
        let vector: Vec<f32> = (0..DIM).map(|i| (query * 7 + i) as f32 - 9.0).collect();
        let search = db.search_vector(&vector).k(1 + query).exact(query % 4 == 3);
        let search = match query % 3 {
            1 => search.filter("n >= 10 AND lang = 'de'").expect("a filter"),
            2 => search.filter("title LIKE '%4%' OR part IS NULL").expect("a filter"),
            _ => search,
        };
        if let Ok(found) = search.run() {
            assert!(found.hits.len() <= 1 + query && found.hits.iter().all(|hit| !hit.id.is_empty()));
        }
    }
    db.info().ok();
    db.meta_keys().ok();
    db.generations().ok();
    db.log_events().ok();
    db.check(small, &task).ok();
    if small {
        db.add([document(7), document(100)]).ok();
        db.delete(&["d8".into(), "d100".into()]).ok();
        db.seal(&task).ok();
        db.compact(&task).ok();
    }
}

/// A database with harm: bits (1, and not 4 nor 8: the large one, which takes long; 2: the manifest keeps its entries), then
/// what is done to which file.
pub fn directory(data: &[u8]) {
    let mut input = Input::new(data);
    let bits = input.byte();
    let small = bits & 13 != 1;
    let base = if small { Base::small() } else { Base::large() };
    let disk = harm(base, &mut input, bits & 2 != 0);
    for _ in 0..1 + u8::from(small) {
        if let Ok(db) = Db::open_vfs(std::sync::Arc::new(disk.clone()), PATH, options()) {
            visit(&db, small);
        }
    }
}
