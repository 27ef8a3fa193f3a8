//! What nobody names any more is removed.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::storage::segment::segment_dir;
use crate::storage::vfs::Vfs;
use crate::storage::{LOG_DIR, SEGMENT_DIR, manifests, models, numbered_path};

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

/// Bytes of all files under a directory. What is removed meanwhile, as others may, counts nothing.
pub(crate) fn bytes_under(vfs: &dyn Vfs, path: &Path) -> Result<u64> {
    let names = unless_gone(vfs.read_dir(path))?.unwrap_or_default();
    let mut total = 0;
    for name in names {
        total += bytes_at(vfs, &path.join(name))?;
    }
    Ok(total)
}

/// How often a name is looked at that is a directory at one look and none at the other.
const LOOKS: usize = 8;

fn bytes_at(vfs: &dyn Vfs, path: &Path) -> Result<u64> {
    let mut last = Ok(None);
    for _ in 0..LOOKS {
        if vfs.is_dir(path)? {
            return bytes_under(vfs, path);
        }
        last = unless_gone(vfs.file_len(path));
        if last.is_ok() {
            break;
        }
    }
    last.map(Option::unwrap_or_default)
}

/// Nothing where there is no such file any more.
fn unless_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::storage::real::RealVfs;
    use crate::storage::sync_names;

    #[test]
    fn bytes_are_counted_while_names_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), [0; 7]).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..1000).for_each(|_| sync_names(&RealVfs, dir.path()).unwrap());
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                assert_eq!(bytes_under(&RealVfs, dir.path()).unwrap(), 7);
            }
        });
        assert_eq!(bytes_under(&RealVfs, &dir.path().join("none")).unwrap(), 0);
    }
}
