//! Encoder folders inside the database: `models/<model id>/`, immutable, named by content.
//!
//! An encoder that differs from another only by a linear adapter stores the adapter and the name of its base, so
//! that a retrained generation costs kilobytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::vfs::{Bytes, Vfs};
use super::{MODEL_DIR, remove_dir_if_present, sync_names, write_new};
use crate::error::{Error, Result};
use crate::options::limits;

/// Names the base model in the folder of a derived one.
pub const BASE_FILE: &str = "base";

/// Relative path → content.
pub type Files = BTreeMap<String, Bytes>;

/// Whether the model is stored.
pub fn exists(vfs: &dyn Vfs, dir: &Path, model_id: &str) -> Result<bool> {
    vfs.exists(&folder(dir, model_id)?)
}

/// Stores a model durably; does nothing if it is there. `base` names a stored model whose files it shares: then
/// `files` are only what differs.
pub fn write(vfs: &dyn Vfs, dir: &Path, model_id: &str, files: &Files, base: Option<&str>) -> Result<()> {
    let target = folder(dir, model_id)?;
    let models = dir.join(MODEL_DIR);
    if vfs.exists(&target)? {
        // Who stored it may have been killed, or met an error, before its name was durable.
        return sync_names(vfs, &models);
    }
    let temporary = models.join(format!("new-{model_id}"));
    remove_dir_if_present(vfs, &temporary)?;
    vfs.create_dir(&temporary)?;
    if let Some(base) = base {
        write_new(vfs, &temporary.join(BASE_FILE), base.as_bytes())?;
    }
    for (name, bytes) in files {
        let path = checked(name).map(|name| temporary.join(name))?;
        if let Some(parent) = path.parent().filter(|p| *p != temporary) {
            vfs.create_dir(parent)?;
        }
        write_new(vfs, &path, bytes)?;
        if let Some(parent) = path.parent().filter(|p| *p != temporary) {
            vfs.sync_dir(parent)?;
        }
    }
    vfs.sync_dir(&temporary)?;
    vfs.rename(&temporary, &target)?;
    vfs.sync_dir(&models)
}

/// All files of a model, those of its base included. Who loads them compares their hash with `model_id`.
pub fn read(vfs: &dyn Vfs, dir: &Path, model_id: &str) -> Result<Files> {
    let mut files = own_files(vfs, dir, model_id)?;
    if let Some(base) = files.remove(BASE_FILE) {
        let path = folder(dir, model_id)?.join(BASE_FILE);
        let base = String::from_utf8(base.to_vec())
            .map_err(|_| Error::corrupt(&path, 0, "not the name of a model"))?;
        let mut shared = own_files(vfs, dir, base.trim())?;
        if shared.contains_key(BASE_FILE) {
            return Err(Error::corrupt(&path, 0, "the base of a model must not have a base itself"));
        }
        shared.append(&mut files);
        return Ok(shared);
    }
    Ok(files)
}

/// Stores a model of another database as it is, with its base.
pub fn copy(vfs: &dyn Vfs, from: &Path, to: &Path, model_id: &str) -> Result<()> {
    if let Some(base) = base(vfs, from, model_id)? {
        write(vfs, to, &base, &own_files(vfs, from, &base)?, None)?;
    }
    copy_derived(vfs, from, to, model_id)
}

/// The same without its base.
pub fn copy_derived(vfs: &dyn Vfs, from: &Path, to: &Path, model_id: &str) -> Result<()> {
    let mut files = own_files(vfs, from, model_id)?;
    files.remove(BASE_FILE);
    write(vfs, to, model_id, &files, base(vfs, from, model_id)?.as_deref())
}

/// The base of a derived model, if it has one.
pub fn base(vfs: &dyn Vfs, dir: &Path, model_id: &str) -> Result<Option<String>> {
    let path = folder(dir, model_id)?.join(BASE_FILE);
    if !vfs.exists(&path)? {
        return Ok(None);
    }
    let name = String::from_utf8(vfs.read_at(&path, 0, 256)?);
    name.map(|n| Some(n.trim().to_owned())).map_err(|_| Error::corrupt(&path, 0, "not the name of a model"))
}

/// Removes models that are not in `keep` (nor a base of one). Only the holder of the writer's lock may.
pub fn clean(vfs: &dyn Vfs, dir: &Path, keep: &[String]) -> Result<()> {
    let mut wanted = keep.to_vec();
    for model in keep {
        wanted.extend(base(vfs, dir, model)?);
    }
    for name in vfs.read_dir(&dir.join(MODEL_DIR))? {
        if !wanted.contains(&name) {
            vfs.remove_dir_all(&dir.join(MODEL_DIR).join(name))?;
        }
    }
    Ok(())
}

fn own_files(vfs: &dyn Vfs, dir: &Path, model_id: &str) -> Result<Files> {
    let root = folder(dir, model_id)?;
    if !vfs.exists(&root)? {
        return Err(Error::corrupt(&root, 0, "the model is missing"));
    }
    let mut files = Files::new();
    let mut total = 0;
    for (path, name) in list(vfs, &root)? {
        total += vfs.file_len(&path)?;
        if total > limits::MODEL_BYTES {
            return Err(Error::Limit {
                what: "the model, in bytes,".into(),
                limit: limits::MODEL_BYTES,
                actual: total,
                raise: "use a smaller model".into(),
            });
        }
        files.insert(name, vfs.map(&path)?);
    }
    Ok(files)
}

/// Files of a model folder and of the folders in it, with their relative names.
fn list(vfs: &dyn Vfs, root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for name in vfs.read_dir(root)? {
        let path = root.join(&name);
        if vfs.is_dir(&path)? {
            for inner in vfs.read_dir(&path)? {
                found.push((path.join(&inner), format!("{name}/{inner}")));
            }
        } else {
            found.push((path, name));
        }
    }
    Ok(found)
}

fn folder(dir: &Path, model_id: &str) -> Result<PathBuf> {
    if model_id.is_empty() || !model_id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Error::corrupt(dir.join(MODEL_DIR), 0, format!("{model_id:?} is not a model id")));
    }
    Ok(dir.join(MODEL_DIR).join(model_id))
}

fn checked(name: &str) -> Result<&str> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if name.split('/').count() <= 2 && name.split('/').all(plain) && !name.contains('\\') {
        return Ok(name);
    }
    Err(Error::input(format!("{name:?} is not a plain file name of a model folder")))
}

#[cfg(test)]
mod tests {
    use super::super::real::RealVfs;
    use super::super::sim::SimVfs;
    use super::*;

    fn files(names: &[(&str, &str)]) -> Files {
        names.iter().map(|(n, c)| (n.to_string(), c.as_bytes().into())).collect()
    }

    #[test]
    fn a_derived_model_shares_the_files_of_its_base() {
        let vfs = SimVfs::new(1);
        let dir = Path::new("db");
        super::super::create_dirs(&vfs, dir).unwrap();
        write(&vfs, dir, "aa", &files(&[("config.json", "{}"), ("1_Pooling/config.json", "p")]), None)
            .unwrap();
        write(&vfs, dir, "bb", &files(&[("adapter", "w")]), Some("aa")).unwrap();
        let read_back = read(&vfs, dir, "bb").unwrap();
        assert_eq!(read_back.keys().collect::<Vec<_>>(), ["1_Pooling/config.json", "adapter", "config.json"]);
        clean(&vfs, dir, &["bb".into()]).unwrap();
        assert!(exists(&vfs, dir, "aa").unwrap());
        clean(&vfs, dir, &["aa".into()]).unwrap();
        assert!(!exists(&vfs, dir, "bb").unwrap());
    }

    #[test]
    fn a_model_is_copied_with_its_base_and_stored_once() {
        let vfs = SimVfs::new(1);
        let [from, to] = ["from", "to"].map(Path::new);
        [from, to].into_iter().for_each(|dir| super::super::create_dirs(&vfs, dir).unwrap());
        write(&vfs, from, "aa", &files(&[("config.json", "{}")]), None).unwrap();
        write(&vfs, from, "bb", &files(&[("adapter", "w")]), Some("aa")).unwrap();
        let stored = |dir| ["aa", "bb"].map(|model| read(&vfs, dir, model).ok().map(|files| files.len()));
        for _ in 0..2 {
            copy(&vfs, from, to, "bb").unwrap();
            assert_eq!(stored(to), [Some(1), Some(2)]);
        }
        assert_eq!(
            (base(&vfs, to, "bb").unwrap().as_deref(), base(&vfs, to, "aa").unwrap()),
            (Some("aa"), None)
        );
        // What is there stays as it is.
        write(&vfs, to, "aa", &files(&[("config.json", "other"), ("more", "")]), None).unwrap();
        assert_eq!(stored(to), stored(from));
    }

    #[test]
    fn a_base_that_is_none_is_told() {
        let vfs = SimVfs::new(1);
        let dir = Path::new("db");
        super::super::create_dirs(&vfs, dir).unwrap();
        write(&vfs, dir, "aa", &files(&[("config.json", "{}")]), None).unwrap();
        write(&vfs, dir, "bb", &files(&[("adapter", "w")]), Some("aa")).unwrap();
        write(&vfs, dir, "cc", &files(&[("adapter", "w")]), Some("bb")).unwrap();
        write(&vfs, dir, "dd", &files(&[("adapter", "w")]), Some("gone")).unwrap();
        write(&vfs, dir, "ee", &files(&[("adapter", "w")]), Some("../aa")).unwrap();
        write(&vfs, dir, "ff", &[(BASE_FILE.to_owned(), [0xff, 0xfe].as_slice().into())].into(), None)
            .unwrap();
        for (model, what) in [
            ("cc", "must not have a base itself"),
            ("dd", "the model is missing"),
            ("ee", "is not a model id"),
            ("ff", "not the name of a model"),
            ("", "is not a model id"),
        ] {
            let error = read(&vfs, dir, model).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(what), "{model}: {error}");
        }
        assert_eq!(base(&vfs, dir, "ff").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn no_name_leaves_the_folder() {
        let vfs = SimVfs::new(1);
        let dir = Path::new("db");
        super::super::create_dirs(&vfs, dir).unwrap();
        for name in ["../x", "/etc/x", "a/b/c", "a//b", "", ".", "..", "a/.", "a\\b"] {
            assert!(write(&vfs, dir, "aa", &files(&[(name, "")]), None).is_err(), "{name:?}");
        }
        assert!(read(&vfs, dir, "../aa").is_err());
    }

    #[test]
    fn a_model_that_is_too_large_is_refused_unread() {
        let place = tempfile::tempdir().unwrap();
        let (vfs, dir) = (RealVfs, place.path());
        super::super::create_dirs(&vfs, dir).unwrap();
        write(&vfs, dir, "aa", &files(&[("config.json", "{}")]), None).unwrap();
        let weights = std::fs::File::create(dir.join(MODEL_DIR).join("aa/model.safetensors")).unwrap();
        // A hole, which takes no room.
        weights.set_len(limits::MODEL_BYTES).unwrap();
        let error = read(&vfs, dir, "aa").unwrap_err();
        assert!(error.exit_code() == 5 && error.to_string().contains("smaller model"), "{error}");
        weights.set_len(100).unwrap();
        assert_eq!(read(&vfs, dir, "aa").unwrap().len(), 2);
    }
}
