//! Files that nothing names.

use std::collections::HashSet;
use std::path::Path;

use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::storage::vfs::Vfs;
use crate::storage::{
    DIRS, FEEDBACK_DIR, JOB_DIR, LOG_DIR, MANIFEST_DIR, MODEL_DIR, SEGMENT_DIR, lock, models,
};

/// Paths below `dir` of what belongs to nothing; of a directory all of which does, the directory alone. Jobs are left
/// out: a later run goes on with them or removes them.
pub(super) fn find(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest) -> Result<Vec<String>> {
    let named: HashSet<&str> = manifest.files().map(|file| file.path.as_str()).collect();
    let mut wanted_models = HashSet::new();
    let of_generations = manifest.generations.iter().map(|generation| &generation.model_id);
    for id in of_generations.chain(manifest.models.iter().map(|model| &model.model_id)) {
        if !id.is_empty() {
            wanted_models.extend(models::base(vfs, dir, id).ok().flatten());
            wanted_models.insert(id.clone());
        }
    }
    let mut orphans = Vec::new();
    for name in vfs.read_dir(dir)? {
        let ours = match name.as_str() {
            JOB_DIR => continue,
            MANIFEST_DIR => list(vfs, dir, &name, &|path| number(path).is_some(), &mut orphans)?,
            LOG_DIR => {
                let live = |path: &str| number(path).is_some_and(|number| number >= manifest.first_log);
                list(vfs, dir, &name, &live, &mut orphans)?
            }
            SEGMENT_DIR => list(vfs, dir, &name, &|path| named.contains(path), &mut orphans)?,
            FEEDBACK_DIR => {
                let live = |path: &str| !path.contains("merged-") || named.contains(path);
                list(vfs, dir, &name, &live, &mut orphans)?
            }
            MODEL_DIR => {
                let of = |path: &str| path.split('/').nth(1).map(str::to_owned).unwrap_or_default();
                list(vfs, dir, &name, &|path| wanted_models.contains(&of(path)), &mut orphans)?
            }
            other => other.starts_with(lock::LOCK_FILE),
        };
        if !ours && !DIRS.contains(&name.as_str()) {
            orphans.push(name);
        }
    }
    orphans.sort_unstable();
    Ok(orphans)
}

/// Adds what is not wanted below a directory; returns whether anything in it is.
fn list(
    vfs: &dyn Vfs,
    dir: &Path,
    path: &str,
    wanted: &dyn Fn(&str) -> bool,
    orphans: &mut Vec<String>,
) -> Result<bool> {
    let mut any = false;
    for name in vfs.read_dir(&dir.join(path))? {
        let inner = format!("{path}/{name}");
        let before = orphans.len();
        let kept = if vfs.is_dir(&dir.join(&inner))? {
            list(vfs, dir, &inner, wanted, orphans)?
        } else {
            wanted(&inner)
        };
        if !kept {
            orphans.truncate(before);
            orphans.push(inner);
        }
        any |= kept;
    }
    Ok(any)
}

fn number(path: &str) -> Option<u64> {
    path.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::{CreateOptions, Db, Document, OpenOptions, Task};

    #[test]
    fn what_nothing_names_is_told_and_is_no_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.embdb");
        let create = CreateOptions { vectors: Some(2), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(&path, options).unwrap();
        db.add([Document::from_vector("a", vec![1.0, 2.0])]).unwrap();
        db.seal(&Task::default()).unwrap();
        db.close().unwrap();
        let check = || crate::check_path(&path, true, &Task::default()).unwrap();
        let report = check();
        assert!(report.ok && report.orphans.is_empty(), "{report:?}");
        assert_eq!(report.recall, Some(1.0));
        fs::create_dir(path.join("seg/0000000009")).unwrap();
        fs::create_dir(path.join("seg/0000000001/gen.7.7")).unwrap();
        let stray = [
            "seg/0000000009/ids",
            "seg/0000000001/del.77",
            "manifest/new-00000000000000000009",
            "notes.txt",
            "feedback/merged-1",
        ];
        stray.iter().for_each(|name| fs::write(path.join(name), b"x").unwrap());
        let report = check();
        assert!(report.ok, "{report:?}");
        let found = [
            "feedback/merged-1",
            "manifest/new-00000000000000000009",
            "notes.txt",
            "seg/0000000001/del.77",
            "seg/0000000001/gen.7.7",
            "seg/0000000009",
        ];
        assert_eq!(report.orphans, found);
    }
}
