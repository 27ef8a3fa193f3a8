//! BEIR folders: `corpus.jsonl`, next to queries and qrels that an import leaves alone.

use std::path::{Path, PathBuf};

/// The corpus of a BEIR folder; `None` if the folder is no such.
pub(super) fn corpus(folder: &Path) -> Option<PathBuf> {
    let corpus = folder.join("corpus.jsonl");
    corpus.is_file().then_some(corpus)
}
