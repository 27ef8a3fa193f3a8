//! The encoder in the program itself, for who brings none: 8 MB of English, vectors of 256 dimensions that may be cut to
//! 128 or 64. What it was made from, and how good it is, says `models/builtin/README.md`.

use std::path::Path;

use super::files::WEIGHTS;
use super::{Encoder, ModelFiles};
use crate::error::Result;
use crate::types::Precision;

/// What it is called where a folder is expected.
pub const BUILTIN: &str = "builtin";

macro_rules! files {
    ($($name:literal)*) => {
        [$(($name, include_bytes!(concat!("../../models/builtin/", $name)).as_slice())),*]
    };
}

/// Its folder.
static FILES: [(&str, &[u8]); 10] = files!(
    "1_Pooling/config.json" "2_Dense/config.json" "2_Dense/model.safetensors" "README.md" "config.json" "model.safetensors"
    "modules.json" "sentence_bert_config.json" "tokenizer.json" "tokenizer_config.json"
);

impl Encoder {
    /// The built-in encoder, in int8.
    pub fn builtin() -> Result<Self> {
        Self::from_files(ModelFiles::builtin(), Precision::Int8)
    }
}

impl ModelFiles {
    /// The files of the built-in encoder; nothing is copied.
    pub fn builtin() -> Self {
        let mut files = Self::default();
        FILES.iter().for_each(|&(name, bytes)| files.insert(name, bytes));
        files
    }

    /// The model in a folder, or the built-in one if the path is [`BUILTIN`] and there is no such folder. Fails as
    /// [`read_dir`](Self::read_dir) does.
    pub fn find(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path == Path::new(BUILTIN) && !path.exists() { Ok(Self::builtin()) } else { Self::read_dir(path) }
    }

    /// Whether the weights are those of the built-in encoder, which are known to bear int8.
    pub(crate) fn is_builtin(&self) -> bool {
        let own = FILES.iter().find(|(name, _)| *name == WEIGHTS).map(|(_, bytes)| *bytes);
        own.zip(self.get(WEIGHTS)).is_some_and(|(own, found)| std::ptr::eq(own, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Task;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn it_tells_what_belongs_together() {
        let encoder = Encoder::builtin().unwrap();
        assert_eq!(encoder.dim(), 256);
        let texts = [
            "How do I reset my password?",
            "forgot my login credentials",
            "The patient has a high fever and a cough.",
            "symptoms of influenza",
        ];
        let vectors = encoder.encode(&texts, &Task::default()).unwrap();
        let rows: Vec<&[f32]> = vectors.chunks(256).collect();
        for (a, near, far) in [(0, 1, 3), (2, 3, 1), (1, 0, 2), (3, 2, 0)] {
            assert!(cosine(rows[a], rows[near]) > cosine(rows[a], rows[far]) + 0.1, "{}", texts[a]);
        }
    }

    #[test]
    fn it_is_known_to_bear_int8() {
        let files = ModelFiles::builtin();
        assert!(files.is_builtin());
        let mut copy = files.clone();
        copy.insert(WEIGHTS, files.get(WEIGHTS).unwrap().to_vec());
        assert!(!copy.is_builtin());
        // The copy is judged by its vectors.
        assert_eq!(
            Encoder::with_precision(copy, Some(Precision::Int8)).unwrap().precision(),
            Precision::Int8
        );
    }

    #[test]
    fn the_folder_holds_nothing_else_and_fits() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/builtin");
        let read = ModelFiles::read_dir(folder).unwrap();
        assert_eq!(read, ModelFiles::builtin());
        assert!(read.total_bytes() <= 9_000_000, "{}", read.total_bytes());
    }

    #[test]
    fn it_goes_by_its_name() {
        assert_eq!(ModelFiles::find(BUILTIN).unwrap(), ModelFiles::builtin());
        assert!(ModelFiles::find("no such folder").is_err());
    }
}
