//! BEIR folders: `corpus.jsonl`, next to queries and qrels that an import leaves alone.
//!
//! Published corpora contain documents without title and text. Nobody can search for them, and they are no mistake of
//! the user's, so they are passed over and counted as skipped; elsewhere such a document is an error.

use std::path::{Path, PathBuf};

const CORPUS: &str = "corpus.jsonl";

/// Whether a file is a corpus by its name.
pub(super) fn is_corpus(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == CORPUS)
}

/// The corpus of a BEIR folder; `None` if the folder is no such.
pub(super) fn corpus(folder: &Path) -> Option<PathBuf> {
    let corpus = folder.join(CORPUS);
    corpus.is_file().then_some(corpus)
}
