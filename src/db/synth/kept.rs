//! Answers of a run that has not come to its end, kept in a file: the next run with the same model and options goes on from
//! there.
//!
//! JSON lines `{prompt_id, answer, read, written, run}`, written one by one as the answers come; `synth import` reads them
//! too. `run` says what an answer depends on beside its prompt. A stop may leave the last line unfinished; it is cut off.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::encoder::generator::Written;
use crate::error::{Error, Result};

#[derive(Serialize, Deserialize)]
struct Line {
    prompt_id: String,
    answer: String,
    read: usize,
    written: usize,
    run: String,
}

/// The file, and what it held when it was opened.
pub(super) struct Kept {
    path: PathBuf,
    file: File,
    run: String,
    answers: HashMap<String, Written>,
}

impl Kept {
    /// Opens or creates the file of a run.
    ///
    /// # Errors
    /// [`Error::Input`] if the file holds something else, or answers of another run; [`Error::Io`].
    pub fn open(path: &Path, run: String) -> Result<Self> {
        let open = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = open.map_err(Error::io("open", path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let lines = bytes.get(..whole).unwrap_or_default().split(|&byte| byte == b'\n');
        let mut answers = HashMap::new();
        for (number, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
            let at = || format!("{}, line {}", path.display(), number + 1);
            let line: Line = serde_json::from_slice(line).map_err(|error| {
                Error::input(format!(
                    "{}: no answer of an earlier run ({error}); remove the file, or write to another",
                    at()
                ))
            })?;
            if line.run != run {
                return Err(Error::input(format!(
                    "{}: the answer of a run with {}, and this one is with {run}; run that one to its end, or remove the \
                     file to begin anew",
                    at(),
                    line.run
                )));
            }
            let written = Written { text: line.answer, read: line.read, written: line.written };
            answers.insert(line.prompt_id, written);
        }
        // Only now is it certain that the file is ours.
        if whole < bytes.len() {
            file.set_len(whole as u64).map_err(Error::io("shorten", path))?;
        }
        Ok(Self { path: path.to_path_buf(), file, run, answers })
    }

    /// Answers that were there.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// The answer to a prompt, if it was there.
    pub fn find(&self, prompt_id: &str) -> Option<&Written> {
        self.answers.get(prompt_id)
    }

    /// Keeps an answer.
    pub fn add(&mut self, prompt_id: &str, written: &Written) -> Result<()> {
        let line = Line {
            prompt_id: prompt_id.to_owned(),
            answer: written.text.clone(),
            read: written.read,
            written: written.written,
            run: self.run.clone(),
        };
        let mut bytes = serde_json::to_vec(&line).map_err(|error| Error::input(error.to_string()))?;
        bytes.push(b'\n');
        self.file.write_all(&bytes).map_err(Error::io("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Written {
        Written { text: text.into(), read: 5, written: 3 }
    }

    #[test]
    fn answers_are_found_again_and_an_unfinished_line_is_cut_off() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a");
        let mut kept = Kept::open(&path, "run".into()).unwrap();
        kept.add("one", &written("first\n\"answer\"")).unwrap();
        kept.add("two", &written("second")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for end in first..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let mut kept = Kept::open(&path, "run".into()).unwrap();
            assert_eq!((kept.len(), kept.find("one")), (1, Some(&written("first\n\"answer\""))));
            kept.add("two", &written("second")).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        assert_eq!(Kept::open(&path, "run".into()).unwrap().find("two"), Some(&written("second")));
    }

    #[test]
    fn what_is_of_another_run_or_no_answer_is_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a");
        Kept::open(&path, "seed 1".into()).unwrap().add("one", &written("first")).unwrap();
        let error = Kept::open(&path, "seed 2".into()).map(|_| ()).unwrap_err();
        assert!(error.exit_code() == 1 && error.to_string().contains("line 1"), "{error}");
        assert!(error.to_string().contains("seed 1") && error.to_string().contains("seed 2"), "{error}");
        let text = "{\"query\": \"somebody's pairs\"}\nand notes";
        std::fs::write(&path, text).unwrap();
        let error = Kept::open(&path, "seed 1".into()).map(|_| ()).unwrap_err();
        assert!(error.exit_code() == 1 && error.to_string().contains("line 1"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
