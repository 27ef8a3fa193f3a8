//! How many of the nearest an ordinary search finds.

use crate::db::Db;
use crate::db::search::SearchOptions;
use crate::error::Result;
use crate::options::Task;

/// Hits that are compared.
const K: usize = 10;
/// Stored vectors that are searched for.
const SAMPLE: usize = 100;

/// The share of the [`K`] nearest, as exact search tells them, that a search finds: over a sample of stored vectors. `None`
/// for an empty database.
pub(super) fn measure(db: &Db, task: &Task) -> Result<Option<f64>> {
    let snapshot = db.inner.snapshot();
    let Some(generation) = snapshot.generation() else { return Ok(None) };
    let shape = snapshot.shape_of(generation.id)?;
    let options = SearchOptions { k: K, ..SearchOptions::default() };
    let (search, exact) =
        (db.searcher(&options)?, db.searcher(&SearchOptions { exact: true, ..options.clone() })?);
    let step = (snapshot.count() as usize / SAMPLE).max(1);
    let (mut found, mut wanted, mut at) = (0, 0, 0);
    for part in &snapshot.parts {
        for rows in part.rows(generation.id, shape)? {
            for document in part.live_documents().filter(|document| rows.documents().contains(document)) {
                at += 1;
                if at % step != 0 {
                    continue;
                }
                task.step("recall", at as u64, snapshot.count())?;
                let vectors = rows.extract(document, generation.id).vectors;
                let Some(vector) = vectors.get(..shape.dim) else { continue };
                let nearest = exact.search(vector)?;
                let hits = search.search(vector)?;
                // A hit as near as the farthest of the nearest is one of them.
                let farthest = nearest.last().map_or(f32::NEG_INFINITY, |hit| hit.distance);
                let near = hits.iter().filter(|hit| hit.distance <= farthest).count();
                wanted += nearest.len();
                found += near.min(nearest.len());
            }
        }
    }
    Ok((wanted > 0).then(|| found as f64 / wanted as f64))
}
