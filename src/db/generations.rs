//! Generations: publishing an encoder together with all vectors made by it, in one manifest commit, and going back.
//!
//! Re-embedding runs beside the writer. It takes the writer's lock for the commit alone; documents that came
//! meanwhile are embedded before the cut-over, under the lock only when few are left.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::columns::ColumnsBuilder;
use super::mapped::Plain;
use super::snapshot::{Part, Place, Snapshot, Source};
use super::turns::Pin;
use super::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::manifest::{Generation, Manifest, SegmentEntry, VectorSet};
use crate::format::segment::{DocumentRows, JobRows, encoded_hash};
#[cfg(feature = "encoder")]
use crate::options::ModelOptions;
use crate::options::Task;
use crate::storage::job::Job;
use crate::storage::segment::vectors_dir;
use crate::storage::segment_writer::Target;
use crate::types::{Document, checked_ladder, default_ladder};

/// Generations whose vectors are kept; older ones keep their encoder and are embedded again on rollback.
const KEPT: usize = 3;
/// Generations that can be gone back to, the newest; beside them the one that answers, its parent and the first.
const LISTED: usize = 8;
/// Documents embedded between two durable steps of a job.
const STEP: usize = 256;
/// With so few documents left the rest is embedded under the lock.
const REST: usize = 512;
/// How often the catch-up is tried before the lock is taken regardless.
const ROUNDS: usize = 8;
/// How long `retrain`, `reindex` and `rollback` wait for the lock to commit.
const COMMIT_WAIT: Duration = Duration::from_secs(60);

/// A generation, for users.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GenerationInfo {
    /// Number.
    pub generation: u32,
    /// Content hash of the encoder; null for plain vectors.
    pub model_id: Option<String>,
    /// Creation, in Unix milliseconds.
    pub created: u64,
    /// Live documents that have its vectors.
    pub documents: u64,
    /// Whether it answers.
    pub active: bool,
    /// What the gate measured, if it was learnt.
    pub metrics: serde_json::Value,
}

/// A stored encoder, for users.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// Name.
    pub name: String,
    /// Content hash.
    pub model_id: String,
    /// Dimensions of its vectors.
    pub dim: usize,
    /// Whether the active generation uses it.
    pub active: bool,
}

/// What `reindex` does.
#[derive(Debug, Clone, Default)]
pub struct ReindexOptions {
    /// Name or id of a stored encoder; by default the active one.
    pub model: Option<String>,
    /// Matryoshka ladder; by default that of the database.
    pub dims: Option<Vec<usize>>,
}

/// A generation on its way.
#[derive(Debug, Clone)]
pub(crate) struct NewGeneration {
    pub model_id: String,
    pub dim: usize,
    pub ladder: Vec<usize>,
    pub metrics: String,
}

impl Db {
    /// All generations that can be gone back to, oldest first: the newest eight, the first, the active one and its parent.
    pub fn generations(&self) -> Result<Vec<GenerationInfo>> {
        let snapshot = self.inner.snapshot();
        snapshot.manifest.generations.iter().map(|g| generation_info(&snapshot, g)).collect()
    }

    /// Makes an older generation active: the one named, or the parent of the active one. Documents that it has no
    /// vectors of are embedded first.
    pub fn rollback(&self, generation: Option<u32>, task: &Task) -> Result<GenerationInfo> {
        self.refresh()?;
        let snapshot = self.inner.snapshot();
        let active = snapshot.manifest.active_generation;
        let target = match generation {
            Some(id) => id,
            None => match snapshot.generation().map_or(0, |g| g.parent) {
                0 => return Err(Error::input("there is no older generation to go back to")),
                parent => parent,
            },
        };
        let Some(found) = snapshot.manifest.generation(target).cloned() else {
            return Err(Error::input(format!("there is no generation {target}; `generations` lists them")));
        };
        if target != active {
            self.inner.cut_over(found.clone(), source(&found.model_id), task, || Ok(()))?;
        }
        let snapshot = self.inner.snapshot();
        generation_info(&snapshot, &found)
    }

    /// Re-embeds and rebuilds everything as a new generation. After a stop, calling it again goes on where it was. Plain
    /// vectors stay as they are; their ladder may change.
    pub fn reindex(&self, options: ReindexOptions, task: &Task) -> Result<GenerationInfo> {
        self.refresh()?;
        let snapshot = self.inner.snapshot();
        let active = snapshot.generation().ok_or_else(|| Error::input("there is no database to re-index"))?;
        let plain = active.model_id.is_empty();
        let model_id = match &options.model {
            Some(_) if plain => {
                return Err(Error::input(
                    "this database stores plain vectors: there is no encoder to embed with",
                ));
            }
            Some(name) => self.inner.named_model(name)?,
            None => active.model_id.clone(),
        };
        let dim = if plain { active.dim as usize } else { self.inner.encoder(&model_id)?.dim() };
        let ladder = self.inner.ladder(options.dims.as_deref(), dim)?;
        let new = NewGeneration { model_id, dim, ladder, metrics: String::new() };
        let publish = || self.inner.publish_generation(&new, source(&new.model_id), task, || Ok(()));
        self.inner.behind(publish)?;
        let snapshot = self.inner.snapshot();
        let active = snapshot.generation().ok_or_else(|| Error::input("the new generation vanished"))?;
        generation_info(&snapshot, active)
    }

    /// Stored encoders.
    pub fn models(&self) -> Result<Vec<ModelInfo>> {
        let snapshot = self.inner.snapshot();
        let active = snapshot.generation().map(|g| g.model_id.clone()).unwrap_or_default();
        let info = |name: &str, id: &str| -> Result<ModelInfo> {
            let dim = self.inner.encoder(id)?.dim();
            Ok(ModelInfo { name: name.to_owned(), model_id: id.to_owned(), dim, active: id == active })
        };
        let mut all = Vec::new();
        for model in &snapshot.manifest.models {
            all.push(info(&model.name, &model.model_id)?);
        }
        for generation in &snapshot.manifest.generations {
            let id = &generation.model_id;
            if !id.is_empty() && !all.iter().any(|m| m.model_id == *id) {
                all.push(info(&format!("generation-{}", generation.id), id)?);
            }
        }
        Ok(all)
    }

    /// Re-indexes with a stored encoder.
    pub fn model_use(&self, name: &str, task: &Task) -> Result<GenerationInfo> {
        self.reindex(ReindexOptions { model: Some(name.to_owned()), dims: None }, task)
    }
}

#[cfg(feature = "encoder")]
impl Db {
    /// Stores an encoder folder under a name.
    pub fn model_add(&self, dir: &std::path::Path, wish: &ModelOptions) -> Result<ModelInfo> {
        use crate::format::manifest::NamedModel;
        let folder = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        let default =
            folder.file_name().map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned());
        let name = wish.name.clone().unwrap_or(default);
        if name.trim().is_empty() {
            return Err(Error::input("a model's name must not be empty"));
        }
        if !self.exists() {
            let mut options = self.inner.options.clone();
            options.create.model = Some(dir.to_path_buf());
            options.create.query_prompt.clone_from(&wish.query_prompt);
            options.create.document_prompt.clone_from(&wish.document_prompt);
            options.background = false;
            Db::create(&self.inner.dir, options)?;
            self.refresh()?;
        }
        // All of a database's encoders have its precision.
        let precision = self.inner.snapshot().manifest.precision();
        let mut files = crate::encoder::ModelFiles::find(dir)?;
        files.set_prompts(wish.query_prompt.as_deref(), wish.document_prompt.as_deref())?;
        let encoder = super::Encoder::with_precision(files, Some(precision))?;
        let model_id = encoder.model_id().to_owned();
        let taken = |m: &NamedModel| m.name == name && m.model_id != model_id;
        // A commit removes files that no manifest names: not while a segment is being written.
        let _alone = self.inner.maintenance.alone();
        let mut writing = self.inner.writing(self.inner.options.busy_timeout)?;
        if self.inner.snapshot().manifest.models.iter().any(taken) {
            return Err(Error::input(format!("another model has the name {name:?}; choose one with --name")));
        }
        self.inner.store_model(&encoder, None)?;
        writing.commit_manifest(|manifest| {
            if !manifest.models.iter().any(|m| m.name == name) {
                manifest.models.push(NamedModel { name: name.clone(), model_id: model_id.clone() });
            }
            Ok(())
        })?;
        let active = self.inner.snapshot().generation().is_some_and(|g| g.model_id == model_id);
        Ok(ModelInfo { name, model_id, dim: encoder.dim(), active })
    }

    /// Writes an encoder (by default the active one) as a folder that sentence-transformers loads.
    pub fn model_export(&self, name: Option<&str>, dir: &std::path::Path) -> Result<()> {
        let encoder = match name {
            Some(name) => self.inner.encoder(&self.inner.named_model(name)?)?,
            None => self.encoder()?,
        };
        if dir.exists() && dir.read_dir().map_err(Error::io("list", dir))?.next().is_some() {
            return Err(Error::input(format!("{} is not empty: export into a new folder", dir.display())));
        }
        encoder.export(dir)
    }
}

fn generation_info(snapshot: &Snapshot, generation: &Generation) -> Result<GenerationInfo> {
    let shape = snapshot.shape_of(generation.id)?;
    let active = snapshot.manifest.active_generation == generation.id;
    let mut documents = 0;
    for part in &snapshot.parts {
        if matches!(part.source, Source::Active(..)) && !active {
            continue;
        }
        for rows in part.rows(generation.id, shape)? {
            let range = rows.documents();
            documents +=
                range.filter(|&d| !part.dead.contains(d) && !rows.rows_of(d).is_empty()).count() as u64;
        }
    }
    Ok(GenerationInfo {
        generation: generation.id,
        model_id: Some(generation.model_id.clone()).filter(|m| !m.is_empty()),
        created: generation.created_ms,
        documents,
        active,
        metrics: serde_json::from_str(&generation.metrics).unwrap_or(serde_json::Value::Null),
    })
}

/// Rows made by a model; where there is none, the plain vectors.
pub(super) fn source(model_id: &str) -> Box<dyn RowSource> {
    if model_id.is_empty() { Box::new(Plain) } else { Box::<Embedded>::default() }
}

/// Where a cut-over gets rows that a generation lacks.
pub(crate) trait RowSource {
    /// The generation whose rows are these, so that a segment's files of it may be copied.
    fn copied(&self) -> Option<u32> {
        None
    }

    /// Does as much as possible before the writer's lock is taken: nothing, where rows cost little.
    fn before(&mut self, _inner: &Inner, _generation: &Generation, _task: &Task) -> Result<()> {
        Ok(())
    }

    /// Rows of documents (number and sequence number) of one part, in their order.
    fn rows(
        &mut self,
        inner: &Inner,
        snapshot: &Snapshot,
        generation: &Generation,
        documents: &[(Place, u64)],
        task: &Task,
    ) -> Result<Vec<DocumentRows>>;

    /// Everything is published: jobs are removed.
    fn finish(self: Box<Self>, inner: &Inner) -> Result<()> {
        crate::storage::job::clean(inner.vfs.as_ref(), &inner.dir, None)
    }
}

/// Rows made by the generation's encoder, kept in a job so that a stop costs little.
#[derive(Default)]
pub(crate) struct Embedded {
    job: Option<Job>,
}

#[cfg(feature = "trainer")]
impl Embedded {
    /// The rows of a document, if they were made.
    pub fn made(&self, sequence: u64) -> Option<&DocumentRows> {
        self.job.as_ref().and_then(|job| job.rows(sequence))
    }

    /// Throws the work away.
    pub fn discard(self, inner: &Inner) -> Result<()> {
        self.job.map_or(Ok(()), |job| job.finish(inner.vfs.as_ref()))
    }
}

impl RowSource for Embedded {
    fn before(&mut self, inner: &Inner, generation: &Generation, task: &Task) -> Result<()> {
        for _ in 0..ROUNDS {
            inner.refresh()?;
            let snapshot = inner.snapshot();
            let job = &self.job;
            let has = |sequence| job.as_ref().is_some_and(|j| j.rows(sequence).is_some());
            let missing = missing(&snapshot, generation.id, has)?;
            if missing.is_empty() {
                break;
            }
            let job = match self.job.take() {
                Some(job) => job,
                None => open_job(inner, &snapshot, generation, &missing)?,
            };
            let job = self.job.insert(job);
            let missing: Vec<_> = missing.into_iter().filter(|m| job.rows(m.1).is_none()).collect();
            let total = (job.done() + missing.len()) as u64;
            for part in missing.chunks(STEP) {
                task.step("embed", job.done() as u64, total)?;
                let documents = self::documents(&snapshot, part)?;
                let rows = inner.embed(&snapshot, generation, &documents, task)?;
                let done = part.iter().zip(&documents).zip(rows);
                let done = done.map(|((&(_, sequence), d), rows)| JobRows { sequence, hash: hash(d), rows });
                job.add(done.collect())?;
            }
            if missing.len() < REST {
                break;
            }
        }
        Ok(())
    }

    fn rows(
        &mut self,
        inner: &Inner,
        snapshot: &Snapshot,
        generation: &Generation,
        documents: &[(Place, u64)],
        task: &Task,
    ) -> Result<Vec<DocumentRows>> {
        let done = |sequence| self.job.as_ref().and_then(|j| j.rows(sequence)).cloned();
        let left: Vec<(Place, u64)> = documents.iter().filter(|d| done(d.1).is_none()).copied().collect();
        let mut fresh =
            inner.embed(snapshot, generation, &self::documents(snapshot, &left)?, task)?.into_iter();
        let pick = |d: &(Place, u64)| done(d.1).or_else(|| fresh.next());
        let rows: Option<Vec<DocumentRows>> = documents.iter().map(pick).collect();
        rows.ok_or_else(|| Error::input("fewer rows than documents were embedded"))
    }

    fn finish(self: Box<Self>, inner: &Inner) -> Result<()> {
        if let Some(job) = self.job {
            job.finish(inner.vfs.as_ref())?;
        }
        crate::storage::job::clean(inner.vfs.as_ref(), &inner.dir, None)
    }
}

/// Starts the job for a generation, or takes it up again with the rows of those `missing` documents that are still what
/// they were when the rows were made.
fn open_job(
    inner: &Inner,
    snapshot: &Snapshot,
    generation: &Generation,
    missing: &[(Place, u64)],
) -> Result<Job> {
    let database = snapshot.manifest.database;
    let mut job = Job::open(inner.vfs.as_ref(), &inner.dir, &generation.model_id, database)?;
    let mut hashes = HashMap::new();
    for &(place, sequence) in missing.iter().filter(|m| job.rows(m.1).is_some()) {
        hashes.insert(sequence, hash(&snapshot.document(place)?));
    }
    job.retain(|sequence, hash| hashes.get(&sequence) == Some(&hash));
    Ok(job)
}

fn hash(document: &Document) -> u64 {
    encoded_hash(document.title.as_deref(), &document.text)
}

fn documents(snapshot: &Snapshot, places: &[(Place, u64)]) -> Result<Vec<Document>> {
    places.iter().map(|(place, _)| snapshot.document(*place)).collect()
}

/// Live documents that lack rows of a generation and that `done` does not know, with their sequence numbers.
fn missing(snapshot: &Snapshot, generation: u32, done: impl Fn(u64) -> bool) -> Result<Vec<(Place, u64)>> {
    let mut missing = Vec::new();
    for (number, part) in snapshot.parts.iter().enumerate() {
        for document in lacking(snapshot, part, generation)? {
            let sequence = part.sequence(document)?;
            if !done(sequence) {
                missing.push((Place { part: number as u32, document }, sequence));
            }
        }
    }
    Ok(missing)
}

/// Live documents of a part that have no rows of a generation.
fn lacking(snapshot: &Snapshot, part: &Part, generation: u32) -> Result<Vec<u32>> {
    let active = matches!(part.source, Source::Active(..));
    let listed = snapshot.manifest.generation(generation).is_some();
    if !listed || (active && generation != snapshot.manifest.active_generation) {
        return Ok(part.live_documents().collect());
    }
    let blocks = part.rows(generation, snapshot.shape_of(generation)?)?;
    let has = |d: u32| blocks.iter().any(|b| !b.rows_of(d).is_empty());
    Ok(part.live_documents().filter(|&d| !has(d)).collect())
}

impl Inner {
    /// The id of a stored encoder, by name or id.
    pub fn named_model(&self, name: &str) -> Result<String> {
        let manifest = self.snapshot().manifest.clone();
        let named =
            manifest.models.iter().find(|m| m.name == name || m.model_id == name).map(|m| m.model_id.clone());
        let known = |g: &&Generation| g.model_id == name || format!("generation-{}", g.id) == name;
        let found = named.or_else(|| manifest.generations.iter().find(known).map(|g| g.model_id.clone()));
        found.filter(|id| !id.is_empty()).ok_or_else(|| {
            Error::input(format!("no stored model is named {name:?}; `model list` shows them"))
        })
    }

    /// The ladder that was asked for now, or at creation, or the default.
    pub fn ladder(&self, asked: Option<&[usize]>, dim: usize) -> Result<Vec<usize>> {
        let created: Vec<usize> = self.snapshot().manifest.asked_ladder.iter().map(|&r| r as usize).collect();
        match asked {
            Some(asked) => checked_ladder(asked, dim),
            None if created.iter().any(|&r| r < dim) => {
                checked_ladder(&created.into_iter().filter(|&r| r <= dim).collect::<Vec<_>>(), dim)
            }
            None => Ok(default_ladder(dim)),
        }
    }

    /// Stores an encoder; with `base`, only its adapter.
    #[cfg(feature = "encoder")]
    pub fn store_model(&self, encoder: &super::Encoder, base: Option<&str>) -> Result<()> {
        let shared = match base {
            Some(base) => crate::storage::models::read(self.vfs.as_ref(), &self.dir, base)?,
            None => Default::default(),
        };
        let differs = |name: &str, bytes: &[u8]| shared.get(name).is_none_or(|b| **b != *bytes);
        let own = encoder.files().iter().filter(|(n, b)| differs(n, b));
        let files = own.map(|(n, b)| (n.to_owned(), b.into())).collect();
        crate::storage::models::write(self.vfs.as_ref(), &self.dir, encoder.model_id(), &files, base)?;
        self.encoders.keep(encoder);
        Ok(())
    }

    /// Makes `new` the active generation with rows from `source`; `store` puts its encoder in place, under the lock.
    pub fn publish_generation(
        &self,
        new: &NewGeneration,
        source: Box<dyn RowSource + '_>,
        task: &Task,
        store: impl Fn() -> Result<()>,
    ) -> Result<u32> {
        let manifest = self.snapshot().manifest.clone();
        let generation = Generation {
            id: manifest.next_generation,
            model_id: new.model_id.clone(),
            parent: manifest.active_generation,
            dim: new.dim as u32,
            ladder: new.ladder.iter().map(|&r| r as u32).collect(),
            created_ms: self.vfs.now_ms(),
            metrics: new.metrics.clone(),
        };
        self.cut_over(generation, source, task, store)
    }

    /// Gives every live document rows of a generation and makes it active, in one manifest commit.
    fn cut_over(
        &self,
        mut generation: Generation,
        mut source: Box<dyn RowSource + '_>,
        task: &Task,
        store: impl Fn() -> Result<()>,
    ) -> Result<u32> {
        source.before(self, &generation, task)?;
        let _alone = self.maintenance.alone();
        let _pin = Pin::new(self, COMMIT_WAIT)?;
        self.seal(&task.quiet())?;
        if source.copied().is_some() {
            // A graph that is damaged or missing would be copied as it is.
            self.heal(true, &task.quiet())?;
        }
        store()?;
        // From here on no other thread writes: a document with vectors of the old generation must not slip in.
        let mut writing = self.writing(COMMIT_WAIT)?;
        writing.seal(&task.quiet())?;
        let snapshot = self.snapshot();
        if snapshot.manifest.generation(generation.id).is_none_or(|g| g.model_id != generation.model_id) {
            generation.id = snapshot.manifest.next_generation;
        }
        let version = snapshot.manifest.number as u32 + 1;
        let set = VectorSet { generation: generation.id, version };
        let mut written = HashMap::new();
        for (number, part) in snapshot.parts.iter().enumerate() {
            let Source::Sealed(segment) = &part.source else { continue };
            let lacking = lacking(&snapshot, part, generation.id)?;
            if lacking.is_empty() && segment.vectors(generation.id).is_some() {
                continue;
            }
            let target =
                Target { vfs: self.vfs.as_ref(), dir: &self.dir, database: snapshot.manifest.database };
            let sets = &segment.entry.vectors;
            let copied = source.copied().and_then(|from| sets.iter().find(|set| set.generation == from));
            let files = match copied {
                Some(&from) => {
                    task.step("index", number as u64, snapshot.parts.len() as u64)?;
                    segment.vectors(from.generation).map_or(Ok(()), |vectors| vectors.verify())?;
                    target.copy_vectors(&segment.entry, from, set)?
                }
                None => {
                    let number = number as u32;
                    let columns =
                        self.complete(&snapshot, number, &generation, &lacking, source.as_mut(), task)?;
                    target.write_vectors(segment.entry.id, set, &columns)?
                }
            };
            written.insert(segment.entry.id, files);
        }
        writing.commit_manifest(|manifest| {
            if manifest.generation(generation.id).is_none() {
                manifest.generations.push(generation.clone());
                manifest.next_generation = generation.id + 1;
            }
            manifest.active_generation = generation.id;
            for entry in &mut manifest.segments {
                if let Some(files) = written.get(&entry.id) {
                    drop_vectors(entry, |v| v.generation != generation.id);
                    entry.vectors.push(set);
                    entry.files.extend(files.iter().cloned());
                }
            }
            retire(manifest);
            Ok(())
        })?;
        drop(writing);
        // It is published; what is left over is in nobody's way, and missing graphs are built by `compact`.
        let _ = self.build_graphs(None, self.options.threads, task);
        let _ = self.merge_feedback(0).and_then(|()| source.finish(self));
        Ok(generation.id)
    }

    /// All rows of a generation in a sealed part: those it has, and those that `source` makes.
    fn complete(
        &self,
        snapshot: &Snapshot,
        number: u32,
        generation: &Generation,
        lacking: &[u32],
        source: &mut dyn RowSource,
        task: &Task,
    ) -> Result<crate::storage::segment_writer::VectorColumns> {
        let part = snapshot.part(number)?;
        let shape = super::snapshot::shape(&snapshot.manifest, generation);
        let mut made = HashMap::with_capacity(lacking.len());
        for (n, chunk) in lacking.chunks(STEP).enumerate() {
            task.step("index", (n * STEP) as u64, lacking.len() as u64)?;
            let places: Result<Vec<(Place, u64)>> = chunk
                .iter()
                .map(|&document| Ok((Place { part: number, document }, part.sequence(document)?)))
                .collect();
            let rows = source.rows(self, snapshot, generation, &places?, task)?;
            made.extend(chunk.iter().copied().zip(rows));
        }
        let listed = snapshot.manifest.generation(generation.id).is_some();
        let blocks = if listed { part.rows(generation.id, &shape)? } else { Vec::new() };
        let mut columns = ColumnsBuilder::new(shape.clone());
        for document in 0..part.documents() {
            match (made.get(&document), blocks.first()) {
                (Some(rows), _) => columns.push(rows)?,
                (None, Some(block)) => columns.copy(&block.vectors, block.spans, block.rows_of(document))?,
                (None, None) => columns.end_document(),
            }
        }
        Ok(columns.finish())
    }

    fn embed(
        &self,
        snapshot: &Snapshot,
        generation: &Generation,
        documents: &[Document],
        task: &Task,
    ) -> Result<Vec<DocumentRows>> {
        let shape = super::snapshot::shape(&snapshot.manifest, generation);
        self.rows_of(&shape, generation, documents, &task.quiet())
    }
}

fn drop_vectors(entry: &mut SegmentEntry, keep: impl Fn(&VectorSet) -> bool) {
    let gone: Vec<String> = entry
        .vectors
        .iter()
        .filter(|v| !keep(v))
        .map(|&v| format!("{}/", vectors_dir(entry.id, v)))
        .collect();
    entry.vectors.retain(|v| keep(v));
    entry.files.retain(|f| !gone.iter().any(|g| f.path.starts_with(g)));
}

/// Forgets generations of long ago with their encoders, so that a database that learns for years does not grow by them;
/// of the others drops the vectors of all but the active one, its parent and the newest.
fn retire(manifest: &mut Manifest) {
    let mut keep = vec![manifest.active_generation];
    keep.extend(manifest.active().map(|g| g.parent));
    let newest = manifest.generations.iter().rev().map(|g| g.id);
    let listed: Vec<u32> = keep.iter().copied().chain(newest.clone().take(LISTED)).collect();
    keep.extend(newest);
    let mut kept: Vec<u32> = Vec::new();
    for id in keep {
        if !kept.contains(&id) && kept.len() < KEPT {
            kept.push(id);
        }
    }
    for entry in &mut manifest.segments {
        drop_vectors(entry, |v| kept.contains(&v.generation));
    }
    let first = manifest.generations.first().map(|g| g.id);
    manifest.generations.retain(|g| Some(g.id) == first || listed.contains(&g.id));
}
