//! What people did with results, and the state of a training that was stopped.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use embdb::format::file::{FileBuilder, Kind};
use embdb::format::frame::{BatchBuilder, FrameType, LOG_HEADER_LEN, LogHeader};
use embdb::format::manifest::FileEntry;
use embdb::format::u64_at;
use embdb::storage::checkpoint::{DATA, RUN, STATE};
use embdb::storage::feedback::EVENTS;
use embdb::storage::sim::SimVfs;
use embdb::storage::vfs::Vfs;
use embdb::types::Document;
use embdb::{CreateOptions, Db, Method, OpenOptions, RetrainOptions, Task};

use super::directory::Base;
use crate::patch::{Input, Patch};
use crate::repair;

/// Where the databases lie.
const PATH: &str = "db";

/// Events as they lie in feedback files: a letter for the kind, then JSON.
pub const LINES: [&str; 4] = [
    r#"Q{"query_id":"q1","text":"a query","time_ms":1700000000000,"generation":1,"shown":["d1","d2"]}"#,
    r#"C{"click_id":"c1","query_id":"q1","id":"d2","grade":1.0,"time_ms":1700000000001}"#,
    r#"Q{"query_id":"q2","text":"","time_ms":1,"generation":1,"shown":["d1"],"propensities":[0.5],"client":"x"}"#,
    r#"Q{"query_id":"q3","text":"z","time_ms":2,"generation":1,"shown":["d1","d2"],"teams":{"generations":[1,2],"of":[0,1]}}"#,
];

fn put(disk: &SimVfs, path: &str, bytes: &[u8]) {
    let path = Path::new(PATH).join(path);
    disk.create(&path).and_then(|mut file| file.write_at(0, bytes)).expect("it is written");
}

fn options(model: Option<PathBuf>) -> OpenOptions {
    let create = CreateOptions { vectors: model.is_none().then_some(4), model, ..CreateOptions::default() };
    OpenOptions { create, background: false, threads: 1, ..OpenOptions::default() }
}

/// Feedback files: 0, lines as the events of a log; 1, the same, merged; 2, any frames with repaired checksums.
pub fn feedback(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, data) = (input.byte() % 3, input.rest());
    let base = Base::small();
    let disk = base.copy();
    let (_, mut manifest) = base.manifest();
    let header = LogHeader { number: 0, salt: 7, previous_end: 0, database: manifest.database };
    let log = |frames: Vec<u8>| [header.encode(), frames].concat();
    match kind {
        0 => {
            let mut batch = BatchBuilder::new(LOG_HEADER_LEN as u64, header.salt);
            for (number, line) in data.split(|&byte| byte == b'\n').enumerate() {
                let Some((letter, json)) = line.split_first() else { continue };
                let kind = if *letter == b'C' { FrameType::Click } else { FrameType::Query };
                batch.push(kind, number as u64 + 1, json).expect("it is short enough");
            }
            put(&disk, "feedback/fuzz", &log(batch.commit(1 << 20, 0).expect("a batch")));
        }
        1 => {
            let file =
                FileBuilder::new(Kind::Feedback, manifest.database).section(EVENTS, data.to_vec()).finish();
            let checksum = u64_at(&file, file.len() - 16).unwrap_or_default();
            let path = "feedback/merged-7".to_owned();
            put(&disk, &path, &file);
            manifest.feedback.push(FileEntry { path, length: file.len() as u64, checksum });
            manifest.number += 1;
            let path = format!("manifest/{:020}", manifest.number);
            put(&disk, &path, &manifest.encode().expect("a manifest"));
        }
        _ => put(&disk, "feedback/fuzz", &log(repair::frames(data, LOG_HEADER_LEN as u64, header.salt))),
    }
    let db = Db::open_vfs(Arc::new(disk), PATH, options(None)).expect("it is sound but for its feedback");
    let before = db.log_events();
    db.log_stats().ok();
    if let Ok(before) = before
        && db.seal(&Task::default()).is_ok()
    {
        assert_eq!(db.log_events().expect("what was read can be merged"), before);
    }
}

/// A database whose training was stopped.
pub struct Stopped {
    disk: SimVfs,
    options: OpenOptions,
    database: [u8; 16],
    /// Sections of the checkpoint: the run, its data, the trainer's state.
    pub sections: [Vec<u8>; 3],
}

/// The one that inputs change.
pub fn stopped() -> &'static Stopped {
    static STOPPED: OnceLock<Stopped> = OnceLock::new();
    STOPPED.get_or_init(stop)
}

fn stop() -> Stopped {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/encoder/families/bge");
    let options = options(Some(model));
    let disk = SimVfs::new(13);
    let db = Db::open_vfs(Arc::new(disk.clone()), PATH, options.clone()).expect("it opens");
    db.add((0..6).map(|n| Document::new(format!("d{n}"), format!("text {n} of {}", n * 7)))).expect("added");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let pair = |n: u32| {
        format!("{{\"query\": \"what is {n}\", \"positive\": \"text {} of {}\"}}\n", n % 6, n % 6 * 7)
    };
    std::fs::write(file.path(), (0..40).map(pair).collect::<String>()).expect("it is written");
    let wanted = RetrainOptions {
        data: Some(file.path().to_path_buf()),
        method: Method::Full,
        layers: Some(1),
        batch_size: Some(16),
        checkpoint_every: Some(Duration::ZERO),
        force: true,
        ..RetrainOptions::default()
    };
    db.retrain(RetrainOptions { task: until(2), ..wanted }).expect_err("it was stopped");
    let folder = Path::new("db/jobs/retrain");
    let names = disk.read_dir(folder).expect("a checkpoint");
    let name = names.iter().find(|name| name.starts_with('0')).expect("a numbered one");
    let bytes = disk.read(&folder.join(name)).expect("it can be read");
    let layout = embdb::format::file::Layout::parse(&bytes, Kind::Checkpoint, folder).expect("it is sound");
    let sections = [RUN, DATA, STATE].map(|id| bytes[layout.section(id).expect("a section")].to_vec());
    disk.remove_dir_all(folder).expect("it is removed");
    Stopped { disk, options, database: layout.database, sections }
}

/// A task that is cancelled at the `step`-th step of training.
fn until(step: u64) -> Task {
    let own: Arc<OnceLock<Task>> = Arc::default();
    let handle = Arc::clone(&own);
    let task = Task::with_progress(move |progress| {
        if let Some(task) = handle.get().filter(|_| progress.stage == "train" && progress.done >= step) {
            task.cancel();
        }
    });
    own.get_or_init(|| task.quiet());
    task
}

/// The checkpoint of a stopped training with patched sections: for each patch the section, then the patch. It goes on for
/// a step, or is refused, or too little is left to learn from.
pub fn checkpoint(data: &[u8]) {
    let stopped = stopped();
    let mut input = Input::new(data);
    let mut sections = stopped.sections.clone();
    while !input.is_empty() {
        let section = usize::from(input.byte() % 4);
        match sections.get_mut(section) {
            Some(section) => Patch::read(&mut input).apply(section),
            // The trainer's own checksum, as far as the state has the room.
            None => repair::trainer_state(&mut sections[2]),
        }
    }
    let disk = stopped.disk.live_copy();
    let mut file = FileBuilder::new(Kind::Checkpoint, stopped.database);
    for (id, section) in [RUN, DATA, STATE].into_iter().zip(sections) {
        file = file.section(id, section);
    }
    disk.create_dir(Path::new("db/jobs/retrain")).expect("a folder");
    put(&disk, "jobs/retrain/00000000000000000001", &file.finish());
    let db = Db::open_vfs(Arc::new(disk), PATH, stopped.options.clone()).expect("the rest is sound");
    let found = db.retrain(RetrainOptions { resume: true, task: until(0), ..RetrainOptions::default() });
    let published = found.is_ok_and(|report| report.published);
    assert!(!published, "it was stopped again, refused, or found too little left to learn from");
}
