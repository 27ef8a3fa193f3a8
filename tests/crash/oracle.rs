//! What may be found on a disk, and whether it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use embdb::options::Durability;
use embdb::storage::sim::SimVfs;
use embdb::storage::vfs::Vfs;
use embdb::{Db, OpenOptions, Task};

use super::workload::{Model, Step, World, document, event_name, open, vector};

/// When a step ended, counted in operations of the disk, and what must hold after it.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Operations when it was acknowledged.
    pub end: usize,
    /// What it was.
    pub name: String,
    /// The contents after it.
    pub model: Model,
    keeps_docs: bool,
    keeps_events: bool,
}

/// What a crash may leave.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// Each of these, whole, is right.
    pub models: Vec<Model>,
    /// These events must be there.
    pub events: BTreeSet<String>,
}

/// Runs steps; all must succeed.
pub fn record(sim: &SimVfs, options: &OpenOptions, steps: &[Step]) -> Vec<Mark> {
    let mut world = World::new(Arc::new(sim.clone()), options.clone());
    let mut model = Model::default();
    let mut marks = vec![mark(sim, "start", &model, true, true)];
    for step in steps {
        step.run(&mut world).unwrap_or_else(|error| panic!("{step:?}: {error}"));
        step.apply(&mut model);
        marks.push(mark(sim, &format!("{step:?}"), &model, step.keeps_docs(), step.keeps_events()));
        let db = world.db().unwrap();
        assert_eq!(contents(&db).unwrap(), model.docs, "{step:?}");
        assert_eq!(events(&db).unwrap(), model.events, "{step:?}");
    }
    marks
}

fn mark(sim: &SimVfs, name: &str, model: &Model, keeps_docs: bool, keeps_events: bool) -> Mark {
    Mark { end: sim.op_count(), name: name.into(), model: model.clone(), keeps_docs, keeps_events }
}

/// What a crash after `at` operations may leave. With `all`, everything acknowledged must be there.
pub fn allowed(marks: &[Mark], at: usize, all: bool) -> Allowed {
    let acked = marks.iter().rposition(|mark| mark.end <= at).unwrap_or(0);
    let last = (acked + 1).min(marks.len() - 1);
    let kept = |keeps: fn(&Mark) -> bool| match all {
        true => acked,
        false => marks[..=acked].iter().rposition(keeps).unwrap_or(0),
    };
    let mut models: Vec<Model> =
        marks[kept(|m| m.keeps_docs)..=last].iter().map(|m| m.model.clone()).collect();
    if models[0].generation == 0 {
        // The first write creates the database first.
        models.push(Model { generation: 1, ..models[0].clone() });
    }
    Allowed { models, events: marks[kept(|m| m.keeps_events)].model.events.clone() }
}

/// Whether a crash of this kind keeps everything acknowledged.
pub fn keeps_all(mode: embdb::storage::sim::CrashMode, durability: Durability) -> bool {
    durability == Durability::Full || mode == embdb::storage::sim::CrashMode::KillOnly
}

/// Everything that a reader can see of the documents.
pub fn contents(db: &Db) -> Result<BTreeMap<String, String>, String> {
    let ids = db.ids().map_err(|e| format!("ids: {e}"))?;
    if ids.len() as u64 != db.count().map_err(|e| e.to_string())? {
        return Err("ids and count differ".into());
    }
    let mut found = BTreeMap::new();
    for id in ids {
        match db.get(&id) {
            Ok(Some(document)) => found.insert(id, document.text),
            Ok(None) => return Err(format!("{id} is listed but not there")),
            Err(error) => return Err(format!("get {id}: {error}")),
        };
    }
    Ok(found)
}

/// The names of all events.
pub fn events(db: &Db) -> Result<BTreeSet<String>, String> {
    let events = db.log_events().map_err(|e| format!("log_events: {e}"))?;
    let names: BTreeSet<String> = events.iter().map(event_name).collect();
    if names.len() != events.len() { Err("an event is there twice".into()) } else { Ok(names) }
}

/// How thoroughly a disk is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Depth {
    /// Search for documents of a text database too, which costs an encoding.
    pub search: bool,
    /// Write after looking.
    pub write: bool,
}

/// Looks at a disk: opens it, compares, searches, checks, and writes on. The contents as found, and after the
/// write, as marks in the terms of the disk's own operations.
pub fn verify(
    vfs: &Arc<dyn Vfs>,
    sim: &SimVfs,
    options: &OpenOptions,
    allowed: &Allowed,
    depth: Depth,
) -> Result<Vec<Mark>, String> {
    let db = open(vfs, options).map_err(|e| format!("open: {e}"))?;
    let found = Model {
        docs: contents(&db)?,
        events: events(&db)?,
        generation: active_generation(&db)?,
        generations: 0,
    };
    if !allowed.models.iter().any(|m| m.docs == found.docs && m.generation == found.generation) {
        return Err(difference(&found, allowed));
    }
    if let Some(odd) =
        found.events.iter().find(|e| e.ends_with(">d1") && !found.events.contains(&e[..e.len() - 3]))
    {
        return Err(format!("half of the batch of {odd} is there"));
    }
    if let Some(lost) = allowed.events.difference(&found.events).next() {
        return Err(format!("the acknowledged event {lost} is lost"));
    }
    search(&db, &found, options, depth)?;
    let report = db.check(false, &Task::default()).map_err(|e| format!("check: {e}"))?;
    if !report.ok {
        return Err(format!("check: {:?}", report.problems));
    }
    let mut marks = vec![mark(sim, "found", &found, true, true)];
    if depth.write {
        write_on(&db, sim, found, options, &mut marks)?;
    }
    Ok(marks)
}

fn write_on(
    db: &Db,
    sim: &SimVfs,
    mut model: Model,
    options: &OpenOptions,
    marks: &mut Vec<Mark>,
) -> Result<(), String> {
    let new = document(500, "after the crash", options.create.model.is_none());
    model.docs.insert(new.id.clone(), new.text.clone());
    model.generation = model.generation.max(1);
    let full = options.durability == Durability::Full;
    db.add([new]).map_err(|e| format!("add after the crash: {e}"))?;
    marks.push(mark(sim, "add", &model, full, full));
    if let Some(victim) = model.docs.keys().find(|id| *id != "d500").cloned() {
        db.delete(std::slice::from_ref(&victim)).map_err(|e| format!("delete after the crash: {e}"))?;
        model.docs.remove(&victim);
        marks.push(mark(sim, "delete", &model, full, full));
    }
    db.seal(&Task::default()).map_err(|e| format!("seal after the crash: {e}"))?;
    marks.push(mark(sim, "seal", &model, true, full));
    if contents(db)? != model.docs {
        return Err("the contents after writing on are wrong".into());
    }
    Ok(())
}

fn active_generation(db: &Db) -> Result<u32, String> {
    let all = db.generations().map_err(|e| format!("generations: {e}"))?;
    Ok(all.iter().find(|g| g.active).map_or(0, |g| g.generation))
}

/// Some documents are found by their own vector.
fn search(db: &Db, found: &Model, options: &OpenOptions, depth: Depth) -> Result<(), String> {
    let plain = options.create.model.is_none();
    if !plain && !depth.search {
        return Ok(());
    }
    for (id, text) in found.docs.iter().take(1).chain(found.docs.iter().next_back()) {
        let result = match plain {
            true => db.search_vector(&vector(text)).k(3).run(),
            false => db.search(text).k(3).run(),
        };
        let result = result.map_err(|e| format!("search: {e}"))?;
        if result.hits.len() != found.docs.len().min(3) {
            return Err(format!("{} hits of {} documents", result.hits.len(), found.docs.len()));
        }
        match result.hits.first() {
            Some(hit) if hit.id == *id && hit.distance.abs() < 1e-3 => {}
            other => {
                return Err(format!("{id} is not the first hit: {:?}", other.map(|h| (&h.id, h.distance))));
            }
        }
    }
    Ok(())
}

fn difference(found: &Model, allowed: &Allowed) -> String {
    let best = allowed.models.iter().min_by_key(|m| distance(m, found)).cloned().unwrap_or_default();
    let lost: Vec<_> = best.docs.iter().filter(|(k, v)| found.docs.get(*k) != Some(v)).collect();
    let extra: Vec<_> = found.docs.iter().filter(|(k, v)| best.docs.get(*k) != Some(v)).collect();
    format!(
        "generation {} with wrong contents; the nearest of {} right ones has generation {}, lost {lost:?}, extra {extra:?}",
        found.generation,
        allowed.models.len(),
        best.generation
    )
}

fn distance(a: &Model, b: &Model) -> usize {
    let missing = |a: &Model, b: &Model| a.docs.iter().filter(|(k, v)| b.docs.get(*k) != Some(v)).count();
    missing(a, b) + missing(b, a)
}
