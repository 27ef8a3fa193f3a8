//! A file for the user, outside any database, that gets its name when it is whole, and is removed if it never is.
//!
//! What had the name before stays until then, and is replaced in one step. The engine's own files go through the
//! [`vfs`](super::vfs) instead, where nothing is ever replaced.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The file while it is written, beside its place.
#[derive(Debug)]
pub struct WholeFile {
    file: BufWriter<File>,
    path: PathBuf,
    temporary: PathBuf,
    renamed: bool,
}

impl WholeFile {
    /// Begins a file that shall have this path.
    ///
    /// # Errors
    /// [`Error::Input`] if the path names a directory, or its folder is not there; [`Error::Io`] if nothing can be written
    /// in it.
    pub fn create(path: &Path) -> Result<Self> {
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(Error::input(format!("{}: not the name of a file", path.display())));
        };
        if !folder(path).is_dir() {
            let folder = folder(path).display();
            return Err(Error::input(format!(
                "{}: there is no folder {folder} to write it in",
                path.display()
            )));
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = File::create(&temporary).map_err(Error::io("write", path))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { file, path: path.to_path_buf(), temporary, renamed: false })
    }

    /// Writes by `body`, whose errors name the path.
    pub fn write(&mut self, body: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
        body(&mut self.file).map_err(Error::io("write", &self.path))
    }

    /// Writes `bytes` over the beginning.
    pub fn begin_with(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(|file| {
            file.rewind()?;
            file.write_all(bytes)
        })
    }

    /// Brings it to the disk and to its place.
    pub fn finish(mut self) -> Result<()> {
        let body = |whole: &mut Self| -> std::io::Result<()> {
            whole.file.flush()?;
            whole.file.get_ref().sync_all()?;
            fs::rename(&whole.temporary, &whole.path)?;
            whole.renamed = true;
            File::open(folder(&whole.path))?.sync_all()
        };
        body(&mut self).map_err(Error::io("write", &self.path))
    }
}

/// Where a file stands.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.renamed {
            // Whatever went wrong was told before.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_is_whole_or_not_there() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("page");
        fs::write(&path, "old").unwrap();
        let mut file = WholeFile::create(&path).unwrap();
        file.write(|file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(file);
        assert_eq!((fs::read(&path).unwrap(), names(place.path())), (b"old".to_vec(), vec!["page".into()]));
        let mut file = WholeFile::create(&path).unwrap();
        file.write(|file| file.write_all(b"new")).unwrap();
        file.begin_with(b"N").unwrap();
        file.finish().unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(place.path())), (b"New".to_vec(), vec!["page".into()]));
    }

    #[test]
    fn what_cannot_be_written_is_told_at_once() {
        let place = tempfile::tempdir().unwrap();
        for (path, needle) in [
            (place.path().to_path_buf(), "not the name of a file"),
            (place.path().join("none/page"), "there is no folder"),
            (PathBuf::from("/"), "not the name of a file"),
        ] {
            let error = WholeFile::create(&path).unwrap_err();
            assert!(error.exit_code() == 1 && error.to_string().contains(needle), "{error}");
        }
        assert!(names(place.path()).is_empty());
    }
}
