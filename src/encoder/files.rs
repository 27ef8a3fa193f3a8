//! The files of a model, in memory: what is read from a model folder and what a database stores.
//!
//! Only plain files with known endings are taken, at most one folder deep, and never through links.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::admission::{check_file, check_weights};
use super::prompts::{Prompts, Role};
use crate::error::{Error, Result};
use crate::options::limits;
use crate::types::Precision;

/// Weights of the transformer.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Where the weights are several files: which.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Weights as PyTorch pickles them.
const PICKLE: &str = "pytorch_model.bin";
/// The tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// Shape of the transformer.
pub(crate) const CONFIG: &str = "config.json";
/// The chain of modules.
pub(crate) const MODULES: &str = "modules.json";
/// The limit on tokens.
pub(crate) const SENTENCE_CONFIG: &str = "sentence_bert_config.json";
/// Settings of the tokenizer; read for its limit on tokens.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Prompts before texts.
pub(crate) const PROMPTS: &str = "config_sentence_transformers.json";
/// A linear map applied after the model, learned from clicks.
pub(crate) const ADAPTER: &str = "adapter.safetensors";

/// Files in a model folder, or in one folder of it, that are looked at; more is no model.
const FILES_MAX: usize = 1_000;

/// The bytes of a file: in memory, in the program, or in a map of the file.
pub(crate) type FileBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The files of a model by their path in the model's folder, `/` between the parts. Clones share the bytes.
#[derive(Clone, Default)]
pub struct ModelFiles {
    files: BTreeMap<String, FileBytes>,
}

impl ModelFiles {
    /// Reads a model folder in the layout of sentence-transformers.
    ///
    /// Takes `*.json`, `*.safetensors`, `*.txt`, `*.model` and `README.md` in the folder and in its
    /// folders (such as `1_Pooling`). Fails with [`Error::Input`] if the folder is missing, with
    /// [`Error::Corrupt`] if `config.json`, `model.safetensors` or `tokenizer.json` is, and with
    /// [`Error::Limit`] above [`limits::MODEL_BYTES`], or if a file is longer than any of its kind. The table of tensors
    /// is checked before the tensors are read, and so is whether they are about as many as the configuration says.
    pub fn read_dir(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Err(Error::input(format!("there is no model folder {}", path.display())));
        }
        let mut found = Vec::new();
        for (name, entry) in entries(path)? {
            if entry.is_dir() {
                for (inner, inner_entry) in entries(&path.join(&name))? {
                    if inner_entry.is_file() {
                        found.push((format!("{name}/{inner}"), inner_entry.len()));
                    }
                }
            } else if entry.is_file() {
                found.push((name, entry.len()));
            } else if entry.is_symlink() && (is_model_file(&name) || path.join(&name).is_dir()) {
                let what = "it is a link, which is not followed: put what it leads to into the model folder";
                return Err(Error::corrupt(path.join(name), 0, what));
            }
        }
        found.retain(|(name, _)| is_model_file(name));
        check_size(found.iter().map(|(_, length)| *length).sum())?;

        let (weights, settings): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(name, _)| name.ends_with(".safetensors"));
        let mut files = Self::default();
        files.read(path, settings)?;
        check_weights(&files, &weights)?;
        files.read(path, weights)?;
        // A file may have grown since its size was taken.
        check_size(files.total_bytes())?;
        files.check_complete(path)?;
        Ok(files)
    }

    /// Adds files of a folder, given with their lengths.
    fn read(&mut self, folder: &Path, found: Vec<(String, u64)>) -> Result<()> {
        for (name, length) in found {
            let file = folder.join(&name);
            check_file(&file, &name, length)?;
            self.insert(name, fs::read(&file).map_err(Error::io("read", &file))?);
        }
        Ok(())
    }

    /// The model in a folder; this program was built without one of its own. Fails as [`read_dir`](Self::read_dir) does.
    #[cfg(not(feature = "builtin"))]
    pub fn find(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_dir(path)
    }

    /// Writes the files under `path`, which is created; existing files of the same names are replaced.
    pub fn write_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        for (name, bytes) in self.iter() {
            if !is_safe_path(name) {
                return Err(Error::corrupt(name, 0, "the path leaves the model's folder"));
            }
            let file = path.join(name);
            let folder = file.parent().unwrap_or(path);
            fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
            fs::write(&file, bytes).map_err(Error::io("write", &file))?;
        }
        Ok(())
    }

    /// The bytes of one file.
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(|bytes| (**bytes).as_ref())
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, path: impl Into<String>, bytes: impl AsRef<[u8]> + Send + Sync + 'static) {
        self.files.insert(path.into(), Arc::new(bytes));
    }

    /// Removes a file; whether it was there.
    pub(crate) fn remove(&mut self, path: &str) -> bool {
        self.files.remove(path).is_some()
    }

    /// All files, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, bytes)| (path.as_str(), (**bytes).as_ref()))
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Identity of the model: 32 hexadecimal digits of a BLAKE3 hash over the precision and the path
    /// and content of every file that changes a vector: weights, tokenizer, configuration, modules,
    /// adapter, and the prompts, if there are any. Descriptions such as README.md do not count.
    pub fn model_id(&self, precision: Precision) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(b"embdb model");
        field(precision.name().as_bytes());
        for (path, bytes) in self.iter().filter(|(path, _)| changes_vectors(path)) {
            field(path.as_bytes());
            field(bytes);
        }
        // An unreadable prompt is refused when the model is loaded.
        let prompts = Prompts::read(self).unwrap_or_default();
        if !prompts.is_empty() {
            ["prompts", prompts.of(Role::Query), prompts.of(Role::Document)]
                .map(str::as_bytes)
                .into_iter()
                .for_each(field);
        }
        let mut hex = hasher.finalize().to_hex().to_string();
        hex.truncate(32);
        hex
    }

    /// The bytes of a file, to be kept.
    pub(crate) fn shared(&self, path: &str) -> Option<FileBytes> {
        self.files.get(path).cloned()
    }

    /// The bytes of a file that must be there.
    pub(crate) fn required(&self, path: &str) -> Result<&[u8]> {
        self.get(path).ok_or_else(|| Error::corrupt(path, 0, "the model lacks this file"))
    }

    fn check_complete(&self, folder: &Path) -> Result<()> {
        // A static model has everything in a folder of its own.
        let inner =
            |name: &str| self.get(MODULES).is_some() && self.files.keys().any(|path| path.ends_with(name));
        if inner(&format!("/{TOKENIZER}")) && self.get(WEIGHTS).is_none() {
            return Ok(());
        }
        let unread = |name: &str| name == WEIGHTS && self.get(INDEX).is_some();
        for name in [CONFIG, WEIGHTS, TOKENIZER] {
            if self.get(name).is_none() && !unread(name) {
                if name == WEIGHTS && folder.join(PICKLE).exists() {
                    return Err(Error::input(format!(
                        "{} has its weights in {PICKLE}, a program that Python runs to read it, which embdb does not; \
                         save the model as {WEIGHTS}",
                        folder.display()
                    )));
                }
                let what = "the model folder lacks this file";
                return Err(Error::corrupt(folder.join(name), 0, what));
            }
        }
        Ok(())
    }
}

impl PartialEq for ModelFiles {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl std::fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter().map(|(path, bytes)| (path, bytes.len()))).finish()
    }
}

/// Names and metadata of a folder's entries, links left out.
fn entries(folder: &Path) -> Result<Vec<(String, fs::Metadata)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let path: PathBuf = entry.path();
        // Of the entry itself: a link is neither a file nor a folder here.
        let metadata = fs::symlink_metadata(&path).map_err(Error::io("inspect", &path))?;
        if let Some(name) = entry.file_name().to_str() {
            found.push((name.to_string(), metadata));
        }
        if found.len() > FILES_MAX {
            let what = format!("{} holds more than {FILES_MAX} files: it is no model", folder.display());
            return Err(Error::Input(what));
        }
    }
    Ok(found)
}

fn check_size(bytes: u64) -> Result<()> {
    if bytes <= limits::MODEL_BYTES {
        return Ok(());
    }
    Err(Error::Limit {
        what: "the size of the model in bytes".into(),
        limit: limits::MODEL_BYTES,
        actual: bytes,
        raise: "use a smaller model".into(),
    })
}

fn is_model_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name == "README.md"
        || [".json", ".safetensors", ".txt", ".model"].iter().any(|ending| name.ends_with(ending))
}

fn changes_vectors(path: &str) -> bool {
    let settings = [CONFIG, MODULES, SENTENCE_CONFIG, TOKENIZER_CONFIG, TOKENIZER];
    path.ends_with(".safetensors")
        || path.ends_with("/tokenizer.json")
        || settings.contains(&path)
        || path.ends_with("/config.json")
}

/// Whether a path names a file inside the folder it is joined to.
pub(crate) fn is_safe_path(path: &str) -> bool {
    let mut parts = path.split('/');
    !path.contains(['\\', ':', '\0']) && parts.all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> ModelFiles {
        let mut files = ModelFiles::default();
        for name in [CONFIG, TOKENIZER, "README.md"] {
            files.insert(name, name.as_bytes().to_vec());
        }
        // A file of no tensors.
        files.insert(WEIGHTS, [&2u64.to_le_bytes()[..], b"{}"].concat());
        files.insert("1_Pooling/config.json", b"{}".to_vec());
        files
    }

    #[test]
    fn a_folder_round_trips_and_leaves_out_what_is_no_model_file() {
        let folder = tempfile::tempdir().unwrap();
        minimal().write_dir(folder.path()).unwrap();
        fs::write(folder.path().join("evil.py"), "x").unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c.json"), "x").unwrap();
        assert_eq!(ModelFiles::read_dir(folder.path()).unwrap(), minimal());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        minimal().write_dir(folder.path()).unwrap();
        let weights = folder.path().join(WEIGHTS);
        fs::rename(&weights, folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &weights).unwrap();
        let error = ModelFiles::read_dir(folder.path()).unwrap_err();
        assert!(error.to_string().contains(WEIGHTS), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("nowhere");
        let error = ModelFiles::read_dir(&nowhere).unwrap_err();
        assert!(matches!(&error, Error::Input(text) if text.contains("nowhere")), "{error}");
        for name in [CONFIG, WEIGHTS, TOKENIZER] {
            let folder = tempfile::tempdir().unwrap();
            let mut files = minimal();
            assert!(files.remove(name));
            files.write_dir(folder.path()).unwrap();
            let error = ModelFiles::read_dir(folder.path()).unwrap_err();
            assert!(matches!(&error, Error::Corrupt { file, .. } if file.ends_with(name)), "{error}");
        }
    }

    #[test]
    fn the_id_depends_on_what_changes_vectors_only() {
        let id = minimal().model_id(Precision::F32);
        assert_eq!(id.len(), 32);
        let mut described = minimal();
        described.insert("README.md", b"other".to_vec());
        described.insert("vocab.txt", b"other".to_vec());
        assert_eq!(described.model_id(Precision::F32), id);
        for name in [CONFIG, WEIGHTS, TOKENIZER, MODULES, ADAPTER, "1_Pooling/config.json"] {
            let mut changed = minimal();
            changed.insert(name, b"other".to_vec());
            assert_ne!(changed.model_id(Precision::F32), id, "{name}");
        }
    }

    #[test]
    fn a_path_out_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../x.json", "/x.json", "a//x.json", "a\\x.json"] {
            let mut files = ModelFiles::default();
            files.insert(name, Vec::new());
            assert!(files.write_dir(folder.path()).is_err(), "{name}");
        }
    }
}
