//! The encoders of a damaged database.

use std::path::Path;

use super::report::RepairReport;
use super::segment::Place;
#[cfg(feature = "encoder")]
use crate::db::encoders::Encoders;
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::storage::models;

/// Copies the encoders that can be read, and drops generations and names of others. The active generation stays if its
/// encoder can be read, or else the newest other one becomes active.
pub(super) fn usable_models(
    place: &Place<'_>,
    out: &Path,
    manifest: &Manifest,
    model: Option<&Path>,
    report: &mut RepairReport,
) -> Result<Manifest> {
    let mut ids: Vec<&str> = manifest.generations.iter().map(|g| g.model_id.as_str()).collect();
    ids.extend(manifest.models.iter().map(|m| m.model_id.as_str()));
    ids.sort_unstable();
    ids.dedup();
    let mut lost: Vec<(String, Error)> = Vec::new();
    for id in ids.into_iter().filter(|id| !id.is_empty()) {
        if let Err(error) = copy(place, out, manifest, id) {
            lost.push((id.to_owned(), error));
        }
    }
    if let Some(folder) = model {
        store_given(place, out, manifest, folder, &mut lost)?;
    }
    let mut usable = manifest.clone();
    let is_lost = |id: &str| lost.iter().any(|(lost, _)| lost == id);
    usable.generations.retain(|generation| !is_lost(&generation.model_id));
    usable.models.retain(|model| !is_lost(&model.model_id));
    for (id, error) in &lost {
        report.note(format!("the encoder {id} is lost: {error}"));
    }
    if usable.active().is_none() {
        let Some(newest) = usable.generations.last() else {
            let what =
                "no encoder of the database can be read; give the folder that it came from: --model FOLDER";
            let why = lost.first().map(|(_, error)| error.to_string()).unwrap_or_default();
            return Err(Error::corrupt(
                place.dir.join(crate::storage::MODEL_DIR),
                0,
                format!("{what} ({why})"),
            ));
        };
        report.note(format!(
            "generation {} is active instead of {}, whose encoder is lost (unless --model FOLDER brings it)",
            newest.id, manifest.active_generation
        ));
        usable.active_generation = newest.id;
    }
    Ok(usable)
}

#[cfg(feature = "encoder")]
fn copy(place: &Place<'_>, out: &Path, manifest: &Manifest, id: &str) -> Result<()> {
    Encoders::load(place.vfs, place.dir, id, manifest.precision())?;
    models::copy(place.vfs, place.dir, out, id)
}

/// Without the feature nobody can tell whether it is whole.
#[cfg(not(feature = "encoder"))]
fn copy(place: &Place<'_>, out: &Path, _: &Manifest, id: &str) -> Result<()> {
    models::copy(place.vfs, place.dir, out, id)
}

/// Stores the encoder in a folder, if it is one of those that are lost.
#[cfg(feature = "encoder")]
fn store_given(
    place: &Place<'_>,
    out: &Path,
    manifest: &Manifest,
    folder: &Path,
    lost: &mut Vec<(String, Error)>,
) -> Result<()> {
    let files = crate::encoder::ModelFiles::find(folder)?;
    let encoder = crate::encoder::Encoder::with_precision(files, Some(manifest.precision()))?;
    let Some(at) = lost.iter().position(|(id, _)| id == encoder.model_id()) else {
        let lost: Vec<&str> = lost.iter().map(|(id, _)| id.as_str()).collect();
        let what = format!(
            "{}: this encoder has the id {}; lost are: {}",
            folder.display(),
            encoder.model_id(),
            if lost.is_empty() { "none".into() } else { lost.join(", ") }
        );
        return Err(Error::input(what));
    };
    let stored = encoder.files().iter().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect();
    let (id, _) = lost.remove(at);
    models::write(place.vfs, out, &id, &stored, None)?;
    // Others may share its files.
    let again: Vec<String> = lost.iter().map(|(id, _)| id.clone()).collect();
    for id in again {
        if models::base(place.vfs, place.dir, &id).ok().flatten().as_deref() == Some(encoder.model_id())
            && models::copy_derived(place.vfs, place.dir, out, &id).is_ok()
            && Encoders::load(place.vfs, out, &id, manifest.precision()).is_ok()
        {
            lost.retain(|(lost, _)| *lost != id);
        }
    }
    Ok(())
}

#[cfg(not(feature = "encoder"))]
fn store_given(
    _place: &Place<'_>,
    _out: &Path,
    _manifest: &Manifest,
    folder: &Path,
    _lost: &mut Vec<(String, Error)>,
) -> Result<()> {
    let what = format!("{}: this program was built without the feature `encoder`", folder.display());
    Err(Error::input(what))
}
