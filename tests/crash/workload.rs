//! The reference workload, step by step, and the model of what each step must leave behind.

use std::collections::{BTreeMap, BTreeSet};
#[cfg(feature = "trainer")]
use std::path::Path;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use embdb::db::generations::ReindexOptions;
#[cfg(feature = "trainer")]
use embdb::db::retrain::{Method, RetrainOptions};
use embdb::error::{Error, Result};
use embdb::options::Durability;
#[cfg(feature = "encoder")]
use embdb::options::ModelOptions;
use embdb::storage::vfs::Vfs;
use embdb::types::{Document, Event, LoggedClick, LoggedSearch};
use embdb::{CreateOptions, Db, OpenOptions, Task};

/// Where the database lies.
pub const PATH: &str = "db";
/// Dimension of plain vectors.
const DIM: u64 = 8;

/// What a database must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Model {
    /// Id → text.
    pub docs: BTreeMap<String, String>,
    /// Names of events; see [`event_name`].
    pub events: BTreeSet<String>,
    /// Number of the active generation; 0 before creation.
    pub generation: u32,
    /// How many generations there were.
    pub generations: u32,
}

/// A call on the database.
#[derive(Debug, Clone)]
pub enum Step {
    /// Adds documents of a version as one batch.
    Add(std::ops::Range<u64>, &'static str),
    /// Adds documents of a version again, with metadata of their own.
    Tag(std::ops::Range<u64>, &'static str),
    /// Deletes documents.
    Delete(&'static [u64]),
    /// Seals.
    Seal,
    /// Compacts.
    Compact,
    /// Brings all to the disk.
    Flush,
    /// Drops all handles and opens the database again.
    Reopen,
    /// Imports a search and a click, by the first handle or the second.
    Import { second: bool, number: u64 },
    /// Clicks on another hit of an imported search.
    Click { second: bool, number: u64 },
    /// Makes the next generation.
    Reindex,
    /// Goes back to an older generation.
    Rollback(u32),
    /// Learns a linear map from pairs, of everything or of queries alone, and publishes it, whatever the gate says.
    #[cfg(feature = "trainer")]
    Retrain(Method),
    /// Stores a second encoder.
    #[cfg(feature = "trainer")]
    AddModel,
    /// Makes the next generation with the second encoder.
    #[cfg(feature = "trainer")]
    Switch,
    /// The same, stopped in the midst of the cut-over, when all is embedded and the first segment has new rows.
    #[cfg(feature = "trainer")]
    StopSwitch,
}

/// The name of an event, the same wherever and whenever the workload runs.
pub fn event_name(event: &Event) -> String {
    match event {
        Event::Search(search) => search.query_id.clone(),
        Event::Click(click) => format!("{}>{}", click.query_id, click.id),
    }
}

impl Step {
    /// What an acknowledged step changes.
    pub fn apply(&self, model: &mut Model) {
        if matches!(self, Self::Add(..) | Self::Tag(..) | Self::Import { .. }) && model.generation == 0 {
            (model.generation, model.generations) = (1, 1);
        }
        match self {
            Self::Add(range, version) | Self::Tag(range, version) => {
                model.docs.extend(range.clone().map(|n| (id(n), text(n, version))));
            }
            Self::Delete(numbers) => numbers.iter().for_each(|&n| {
                model.docs.remove(&id(n));
            }),
            Self::Import { number, .. } => {
                model.events.insert(format!("q{number}"));
                model.events.insert(format!("q{number}>d1"));
            }
            Self::Click { number, .. } => {
                model.events.insert(format!("q{number}>d2"));
            }
            Self::Reindex => next_generation(model),
            #[cfg(feature = "trainer")]
            Self::Retrain(_) | Self::Switch => next_generation(model),
            #[cfg(feature = "trainer")]
            Self::AddModel | Self::StopSwitch => {}
            Self::Rollback(to) => model.generation = *to,
            Self::Seal | Self::Compact | Self::Flush | Self::Reopen => {}
        }
    }

    /// Whether all acknowledged documents are on the disk when it returns, at any durability.
    pub fn keeps_docs(&self) -> bool {
        !matches!(
            self,
            Self::Add(..) | Self::Tag(..) | Self::Delete(_) | Self::Import { .. } | Self::Click { .. }
        )
    }

    /// Whether all acknowledged events are on the disk when it returns, at any durability.
    pub fn keeps_events(&self) -> bool {
        matches!(self, Self::Flush | Self::Reopen)
    }

    /// Does it.
    pub fn run(&self, world: &mut World) -> Result<()> {
        let task = Task::default();
        match self {
            Self::Add(range, version) => {
                let plain = world.plain;
                let all = range.clone().map(|n| document(n, version, plain));
                world.db()?.add(all).map(|_| ())
            }
            Self::Tag(range, version) => {
                let plain = world.plain;
                let all = range.clone().map(|n| document(n, version, plain).meta("tag", n + 1));
                world.db()?.add(all).map(|_| ())
            }
            Self::Delete(numbers) => {
                let ids: Vec<String> = numbers.iter().map(|&n| id(n)).collect();
                world.db()?.delete(&ids).map(|_| ())
            }
            Self::Seal => world.db()?.seal(&task),
            Self::Compact => world.db()?.compact(&task),
            Self::Flush => {
                world.second()?.flush()?;
                world.db()?.flush()
            }
            Self::Reopen => {
                world.close();
                world.db().map(|_| ())
            }
            Self::Import { second, number } => world.handle(*second)?.log_import(events(*number)).map(|_| ()),
            Self::Click { second, number } => world.handle(*second)?.click(format!("q{number}"), "d2"),
            Self::Reindex => world.db()?.reindex(ReindexOptions::default(), &task).map(|_| ()),
            Self::Rollback(to) => world.db()?.rollback(Some(*to), &task).map(|_| ()),
            #[cfg(feature = "trainer")]
            Self::Retrain(method) => {
                let file = tempfile::NamedTempFile::new().map_err(Error::io("create", Path::new("pairs")))?;
                std::fs::write(file.path(), pairs()).map_err(Error::io("write", file.path()))?;
                retrain(&world.db()?, file.path(), *method)
            }
            #[cfg(feature = "trainer")]
            Self::AddModel => {
                let folder = other_model().map_err(Error::io("make", Path::new(OTHER)))?;
                world
                    .db()?
                    .model_add(
                        folder.path(),
                        &ModelOptions { name: Some(OTHER.into()), ..ModelOptions::default() },
                    )
                    .map(|_| ())
            }
            #[cfg(feature = "trainer")]
            Self::Switch => world.db()?.model_use(OTHER, &task).map(|_| ()),
            #[cfg(feature = "trainer")]
            Self::StopSwitch => match world.db()?.model_use(OTHER, &stopped_at("index")) {
                Err(Error::Cancelled) => Ok(()),
                other => other.and(Err(Error::input("it was not stopped"))),
            },
        }
    }
}

fn next_generation(model: &mut Model) {
    model.generations += 1;
    model.generation = model.generations;
}

/// A task that is cancelled when a stage begins.
pub fn stopped_at(stage: &'static str) -> Task {
    stopped_when(stage, 0)
}

/// A task that is cancelled when so much of a stage is done.
pub fn stopped_when(stage: &'static str, done: u64) -> Task {
    let own: Arc<OnceLock<Task>> = Arc::default();
    let handle = Arc::clone(&own);
    let task = Task::with_progress(move |progress| {
        if let Some(task) = handle.get().filter(|_| progress.stage == stage && progress.done >= done) {
            task.cancel();
        }
    });
    own.get_or_init(|| task.quiet());
    task
}

/// Learns a linear map from a file of pairs, in a few steps; it is published whatever it is worth.
#[cfg(feature = "trainer")]
pub fn retrain(db: &Db, pairs: &Path, method: Method) -> Result<()> {
    let data = Some(pairs.to_path_buf());
    let options = RetrainOptions { data, method, epochs: Some(1), force: true, ..Default::default() };
    let report = db.retrain(options)?;
    if report.published { Ok(()) } else { Err(Error::input(report.gate.reason)) }
}

/// Pairs in JSON lines, as few as are enough: some with texts that the database may hold, some with others.
pub fn pairs() -> String {
    let pair = |n: u64| {
        let positive = text(n % 12, if n.is_multiple_of(2) { "first" } else { "unheard of" });
        format!("{{\"query\": \"what weighs {} grams\", \"positive\": \"{positive}\"}}\n", spelt(n))
    };
    (0..40).map(pair).collect()
}

/// Name of the second encoder.
#[cfg(feature = "trainer")]
const OTHER: &str = "tiny-max";

/// The folder of the second encoder: the tiny one with another pooling.
#[cfg(feature = "trainer")]
fn other_model() -> std::io::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for from in ["tiny-bert", OTHER].map(fixture) {
        for entry in std::fs::read_dir(&from)? {
            let path = entry?.path();
            let inner: Vec<PathBuf> = match path.is_dir() {
                true => std::fs::read_dir(&path)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?,
                false => vec![path],
            };
            for file in inner {
                let to = folder.path().join(file.strip_prefix(&from).unwrap_or(&file));
                std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
                std::fs::copy(&file, to)?;
            }
        }
    }
    Ok(folder)
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder").join(name)
}

/// The handles of a run.
pub struct World {
    vfs: Arc<dyn Vfs>,
    options: OpenOptions,
    plain: bool,
    db: Option<Db>,
    second: Option<Db>,
}

impl World {
    /// No handle is open yet.
    pub fn new(vfs: Arc<dyn Vfs>, options: OpenOptions) -> Self {
        let plain = options.create.model.is_none();
        Self { vfs, options, plain, db: None, second: None }
    }

    /// The first handle; opened if it is not.
    pub fn db(&mut self) -> Result<Db> {
        if self.db.is_none() {
            self.db = Some(open(&self.vfs, &self.options)?);
        }
        self.db.clone().ok_or_else(|| Error::input("no handle"))
    }

    /// The second handle, which only logs.
    pub fn second(&mut self) -> Result<Db> {
        if self.second.is_none() {
            self.second = Some(open(&self.vfs, &self.options)?);
        }
        self.second.clone().ok_or_else(|| Error::input("no handle"))
    }

    fn handle(&mut self, second: bool) -> Result<Db> {
        if second { self.second() } else { self.db() }
    }

    /// Drops all handles.
    pub fn close(&mut self) {
        (self.db, self.second) = (None, None);
    }
}

/// Opens the database of a run.
pub fn open(vfs: &Arc<dyn Vfs>, options: &OpenOptions) -> Result<Db> {
    Db::open_vfs(Arc::clone(vfs), PATH, options.clone())
}

/// Options of a database of plain vectors that seals by itself after a few rows.
pub fn plain_options(durability: Durability) -> OpenOptions {
    let create = CreateOptions { vectors: Some(DIM as usize), ..CreateOptions::default() };
    OpenOptions { create, durability, background: false, seal_rows: 24, threads: 1, ..OpenOptions::default() }
}

/// Options of a database with a tiny encoder.
pub fn text_options() -> OpenOptions {
    let create = CreateOptions { model: Some(fixture("tiny-bert")), ..CreateOptions::default() };
    OpenOptions { create, ..plain_options(Durability::Full) }
}

/// The id of document `n`.
pub fn id(n: u64) -> String {
    format!("d{n}")
}

/// A number, spelt with the letters a to j, all of which the tiny encoder knows.
fn spelt(n: u64) -> String {
    n.to_string().bytes().map(|b| char::from(b - b'0' + b'a')).collect()
}

/// The text of document `n` in a version; no two documents look alike to the tiny encoder.
pub fn text(n: u64, version: &str) -> String {
    format!("{version} number {} weighs {} grams", spelt(n), spelt(n * n + 7))
}

/// The vector of a document with this text: no two alike.
pub fn vector(text: &str) -> Vec<f32> {
    let mut state =
        text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (0..DIM)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32) - 0.5
        })
        .collect()
}

/// Document `n` in a version.
pub fn document(n: u64, version: &str, plain: bool) -> Document {
    let text = text(n, version);
    let mut document =
        if plain { Document::from_vector(id(n), vector(&text)) } else { Document::new(id(n), "") };
    document.text = text;
    document.meta("n", n).meta("version", version)
}

fn events(number: u64) -> Vec<Event> {
    let (query_id, time_ms) = (format!("q{number}"), 1_700_000_000_000 + number);
    let search = LoggedSearch {
        query_id: query_id.clone(),
        text: format!("query {number}"),
        time_ms,
        generation: 1,
        shown: vec!["d1".into(), "d2".into()],
        ..LoggedSearch::default()
    };
    let click = LoggedClick {
        click_id: format!("c{number}"),
        query_id,
        id: "d1".into(),
        grade: 1.0,
        time_ms: time_ms + 1,
    };
    vec![Event::Search(search), Event::Click(click)]
}

/// The workload on plain vectors.
pub fn plain_steps() -> Vec<Step> {
    use Step::*;
    vec![
        Add(0..6, "first"),
        Import { second: false, number: 1 },
        Add(4..9, "second"),
        Import { second: true, number: 2 },
        Delete(&[0, 7]),
        Click { second: true, number: 1 },
        Seal,
        Add(0..2, "third"),
        Delete(&[5]),
        Add(10..35, "fourth"),
        Click { second: false, number: 2 },
        Reopen,
        Delete(&[11, 12, 13]),
        Add(36..38, "fifth"),
        Flush,
        Add(11..12, "sixth"),
        Delete(&[36]),
        Import { second: true, number: 3 },
        Compact,
        Add(1..3, "seventh"),
        Add(40..66, "eighth"),
        Reopen,
        Import { second: false, number: 4 },
        Delete(&[1, 40, 41]),
        Seal,
        Delete(&[20]),
        Compact,
        Add(70..71, "last"),
    ]
}

/// The workload with an encoder: generations come and go.
pub fn text_steps() -> Vec<Step> {
    use Step::*;
    vec![
        Add(0..5, "first"),
        Import { second: false, number: 1 },
        Seal,
        Add(4..7, "second"),
        Delete(&[1]),
        Reindex,
        Add(6..9, "third"),
        Delete(&[0]),
        Reopen,
        Click { second: true, number: 1 },
        Rollback(1),
        Add(9..10, "fourth"),
        Reindex,
        Compact,
        Add(2..3, "fifth"),
        Rollback(2),
        Delete(&[3]),
    ]
}

/// The workload of documents that come again: the same, with other metadata, or in part new.
pub fn repeated_steps() -> Vec<Step> {
    use Step::*;
    vec![
        Add(0..5, "first"),
        Add(0..5, "first"),
        Add(3..8, "first"),
        Seal,
        Add(0..8, "first"),
        Tag(2..4, "first"),
        Delete(&[1, 5]),
        Add(0..6, "first"),
        Reopen,
        Add(0..8, "first"),
        Tag(0..8, "first"),
        Add(6..9, "second"),
        Compact,
        Tag(0..6, "first"),
        Reindex,
        Add(0..9, "first"),
        Rollback(1),
        Add(0..9, "first"),
    ]
}

/// The workload of an encoder that learns and is replaced, also by one that was stopped half-way.
#[cfg(feature = "trainer")]
pub fn learning_steps() -> Vec<Step> {
    use Step::*;
    vec![
        Add(0..5, "first"),
        Seal,
        Add(4..7, "second"),
        Import { second: false, number: 1 },
        Retrain(Method::Best),
        Add(7..9, "third"),
        Delete(&[0]),
        AddModel,
        Click { second: true, number: 1 },
        StopSwitch,
        Add(9..11, "fourth"),
        Delete(&[5]),
        Reopen,
        Switch,
        Add(2..3, "fifth"),
        Compact,
        Rollback(2),
        Delete(&[3]),
        Retrain(Method::QueryAdapter),
        Add(11..12, "sixth"),
    ]
}
