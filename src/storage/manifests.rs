//! Manifests on disk: the newest wins, a new one appears in one rename, three are kept.

use std::path::Path;

use super::vfs::Vfs;
use super::{MANIFEST_DIR, numbered, numbered_path, write_new};
use crate::error::{Error, Result};
use crate::format::manifest::{MANIFEST_BYTES, Manifest};

/// How many manifests are kept, for the curious; only the newest counts.
const KEPT: usize = 3;

/// Numbers of the manifests, ascending.
pub fn numbers(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<u64>> {
    numbered(vfs, &dir.join(MANIFEST_DIR))
}

/// The newest manifest, if there is one. It was synced before it got its name, so a bad one is corruption,
/// and never a reason to fall back to an older one.
pub fn newest(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Manifest>> {
    match numbers(vfs, dir)?.last() {
        Some(&number) => read(vfs, dir, number).map(Some),
        None => Ok(None),
    }
}

/// Reads manifest `number`.
pub fn read(vfs: &dyn Vfs, dir: &Path, number: u64) -> Result<Manifest> {
    let path = numbered_path(dir, MANIFEST_DIR, number);
    let length = vfs.file_len(&path)?;
    if length > MANIFEST_BYTES {
        return Err(Error::corrupt(&path, 0, format!("a manifest of {length} bytes is over the limit")));
    }
    Manifest::parse(&vfs.read(&path)?, number, &path)
}

/// Publishes a manifest: written under another name, synced, renamed, and the directory synced. What it names
/// must be durable already.
pub fn commit(vfs: &dyn Vfs, dir: &Path, manifest: &Manifest) -> Result<()> {
    let folder = dir.join(MANIFEST_DIR);
    let temporary = folder.join(format!("new-{:020}", manifest.number));
    write_new(vfs, &temporary, &manifest.encode()?)?;
    vfs.rename(&temporary, &numbered_path(dir, MANIFEST_DIR, manifest.number))?;
    vfs.sync_dir(&folder)
}

/// Removes all but the newest manifests, and unfinished ones. Only the holder of the writer's lock may.
pub fn clean(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let folder = dir.join(MANIFEST_DIR);
    for name in vfs.read_dir(&folder)?.iter().filter(|n| n.starts_with("new-")) {
        vfs.remove_file(&folder.join(name))?;
    }
    let numbers = numbers(vfs, dir)?;
    for &old in numbers.iter().take(numbers.len().saturating_sub(KEPT)) {
        vfs.remove_file(&numbered_path(dir, MANIFEST_DIR, old))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::real::RealVfs;
    use super::*;

    #[test]
    fn a_manifest_that_is_too_long_is_refused_unread() {
        let place = tempfile::tempdir().unwrap();
        super::super::create_dirs(&RealVfs, place.path()).unwrap();
        let path = numbered_path(place.path(), MANIFEST_DIR, 1);
        // A hole, which takes no room.
        std::fs::File::create(&path).unwrap().set_len(MANIFEST_BYTES + 1).unwrap();
        let error = newest(&RealVfs, place.path()).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("over the limit"), "{error}");
    }
}
