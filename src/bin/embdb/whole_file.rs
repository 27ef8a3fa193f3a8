//! A file that gets its name when it is whole, and is removed if it never is.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use embdb::{Error, Result};

/// The file while it is written, beside its place.
pub struct WholeFile {
    file: BufWriter<File>,
    path: PathBuf,
    temporary: PathBuf,
    renamed: bool,
}

impl WholeFile {
    /// Begins a file that shall have this path.
    pub fn create(path: &Path) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(Error::input(format!("{}: not the name of a file", path.display())));
        };
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
            fs::rename(&whole.temporary, &whole.path)
        };
        body(&mut self).map_err(Error::io("write", &self.path))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if !self.renamed {
            // Whatever went wrong was told before.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
