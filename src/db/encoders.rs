//! Encoders of the database, loaded once and shared.

use std::path::Path;

use parking_lot::Mutex;

#[cfg(feature = "encoder")]
pub use crate::encoder::Encoder;
use crate::error::{Error, Result};
#[cfg(not(feature = "encoder"))]
use crate::options::Task;
use crate::storage::models;
use crate::storage::vfs::Vfs;
use crate::types::{Document, Precision};

/// Stands for the encoder where the crate was built without one; there is no value of it.
#[cfg(not(feature = "encoder"))]
#[derive(Debug, Clone)]
pub enum Encoder {}

#[cfg(not(feature = "encoder"))]
impl Encoder {
    /// Dimensions of the vectors.
    pub fn dim(&self) -> usize {
        match *self {}
    }

    /// The same encoder on so many threads.
    pub fn with_threads(&self, _threads: usize) -> Self {
        match *self {}
    }

    /// Vectors of texts.
    pub fn encode(&self, _texts: &[&str], _task: &Task) -> Result<Vec<f32>> {
        match *self {}
    }

    /// Vectors of queries.
    pub fn encode_queries(&self, _texts: &[&str], _task: &Task) -> Result<Vec<f32>> {
        match *self {}
    }

    /// Byte ranges of the chunks of a text.
    pub fn chunks(&self, _text: &str) -> Result<Vec<std::ops::Range<usize>>> {
        match *self {}
    }
}

/// Encoders that a handle keeps: the active one, and the one that it is compared with.
#[cfg(feature = "encoder")]
const MOST: usize = 2;

/// Loaded encoders, the last used last.
#[derive(Default)]
pub(crate) struct Encoders {
    loaded: Mutex<Vec<(String, Encoder)>>,
}

impl Encoders {
    /// The encoder with this id, loaded from the database if no database of this process has it in use.
    #[cfg(feature = "encoder")]
    pub fn get(&self, vfs: &dyn Vfs, dir: &Path, model_id: &str, precision: Precision) -> Result<Encoder> {
        let mut loaded = self.loaded.lock();
        let kept = loaded.iter().find(|(id, _)| id == model_id).map(|(_, encoder)| encoder.clone());
        let encoder = match kept.or_else(|| Encoder::loaded(model_id)) {
            Some(encoder) => encoder,
            None => Self::load(vfs, dir, model_id, precision)?,
        };
        Self::push(&mut loaded, &encoder);
        Ok(encoder)
    }

    /// The encoder with this id, out of the database's files.
    #[cfg(feature = "encoder")]
    pub fn load(vfs: &dyn Vfs, dir: &Path, model_id: &str, precision: Precision) -> Result<Encoder> {
        let mut files = crate::encoder::ModelFiles::default();
        for (name, bytes) in models::read(vfs, dir, model_id)? {
            files.insert(name, bytes);
        }
        let folder = dir.join(crate::storage::MODEL_DIR).join(model_id);
        let changed = |id: &str| Error::corrupt(&folder, 0, format!("the model's files hash to {id}"));
        let encoder = Encoder::from_files(files.clone(), precision).map_err(|error| {
            // What was stored could be read once: where the files are others now, that is what there is to tell.
            let id = files.model_id(precision);
            if id == model_id { error } else { changed(&id) }
        })?;
        if encoder.model_id() != model_id {
            return Err(changed(encoder.model_id()));
        }
        Ok(encoder)
    }

    /// Without the feature there is no encoder to load.
    #[cfg(not(feature = "encoder"))]
    pub fn get(&self, vfs: &dyn Vfs, dir: &Path, model_id: &str, _precision: Precision) -> Result<Encoder> {
        models::exists(vfs, dir, model_id)?;
        Err(Error::input("this program was built without the feature `encoder`"))
    }

    /// Keeps an encoder that was just made.
    #[cfg(feature = "encoder")]
    pub fn keep(&self, encoder: &Encoder) {
        Self::push(&mut self.loaded.lock(), encoder);
    }

    #[cfg(feature = "encoder")]
    fn push(loaded: &mut Vec<(String, Encoder)>, encoder: &Encoder) {
        loaded.retain(|(id, _)| id != encoder.model_id());
        loaded.push((encoder.model_id().to_owned(), encoder.clone()));
        let surplus = loaded.len().saturating_sub(MOST);
        loaded.drain(..surplus);
    }

    /// Forgets all but the one with this id: its generation became the active one.
    pub fn keep_only(&self, model_id: &str) {
        self.loaded.lock().retain(|(id, _)| id == model_id);
    }
}

/// One chunk to encode: its bounds in the document's text, and what the encoder reads.
pub(crate) struct ChunkText {
    /// Bounds in the text.
    pub span: [u32; 2],
    /// Title, newline and text where the document fits one chunk; else a part of that.
    pub text: String,
}

/// Cuts a document into chunks that the encoder reads whole. Bounds refer to the text without the title.
pub(crate) fn chunk_document(encoder: &Encoder, document: &Document) -> Result<Vec<ChunkText>> {
    let full = document.full_text();
    let title = full.len() - document.text.len();
    let ranges = encoder.chunks(&full)?;
    let single = ranges.len() <= 1;
    let chunk = |range: std::ops::Range<usize>| {
        let bound = |at: usize| at.saturating_sub(title).min(document.text.len()) as u32;
        let span =
            if single { [0, document.text.len() as u32] } else { [bound(range.start), bound(range.end)] };
        ChunkText { span, text: full.get(range).unwrap_or_default().to_owned() }
    };
    Ok(ranges.into_iter().map(chunk).collect())
}

/// What the encoder read to make a row: the whole document, or the chunk of these bounds in its text.
#[cfg(feature = "trainer")]
pub(crate) fn passage(document: &Document, span: Option<[u32; 2]>) -> String {
    let full = document.full_text();
    let Some([start, end]) = span.map(|span| span.map(|bound| bound as usize)) else { return full };
    let title = full.len() - document.text.len();
    // The first chunk begins with the title.
    let start = if start == 0 { 0 } else { title + start };
    full.get(start..title + end).unwrap_or(&full).to_owned()
}

#[cfg(all(test, feature = "encoder"))]
mod tests {
    use crate::{CreateOptions, Db, OpenOptions};

    fn weights_of(db: &Db) -> *const u8 {
        let encoder = db.encoder().unwrap();
        encoder.files().get("model.safetensors").unwrap().as_ptr()
    }

    #[test]
    #[cfg(feature = "trainer")]
    fn a_passage_is_what_was_read() {
        let document =
            crate::Document { title: Some("Title".into()), ..crate::Document::new("a", "one two three") };
        let passage = |span| super::passage(&document, span);
        assert_eq!(passage(None), "Title\none two three");
        assert_eq!(passage(Some([0, 7])), "Title\none two");
        assert_eq!(passage(Some([4, 13])), "two three");
    }

    #[test]
    fn databases_of_one_process_share_an_encoder() {
        let folder = tempfile::tempdir().unwrap();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert");
        let open = |name: &str| {
            let create = CreateOptions { model: Some(model.into()), ..CreateOptions::default() };
            let options = OpenOptions { create, background: false, ..OpenOptions::default() };
            let db = Db::open_with(folder.path().join(name), options).unwrap();
            db.add([crate::Document::new("a", "some text")]).unwrap();
            db
        };
        // Created apart, and opened again: only the second finds the first's in use.
        drop((open("a"), open("b")));
        let (a, b) = (open("a"), open("b"));
        assert_eq!(weights_of(&a), weights_of(&b));
        assert_ne!(a.encoder().unwrap().model_id(), "");
    }

    #[test]
    #[cfg(feature = "trainer")]
    fn encoders_that_no_longer_answer_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert");
        let files = crate::encoder::ModelFiles::read_dir(model).unwrap();
        let base = super::Encoder::from_files(files, super::Precision::F32).unwrap();
        let learnt = |turn: f32| {
            let matrix: Vec<f32> = (0..base.dim() * base.dim())
                .map(|n| if n % (base.dim() + 1) == 0 { 1.0 } else { turn * (n % 3) as f32 })
                .collect();
            base.with_adapter(&matrix).unwrap()
        };
        let encoders = super::Encoders::default();
        let kept = || encoders.loaded.lock().iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        let three: Vec<_> = [0.1, 0.2, 0.3].map(learnt).into();
        let [first, second, third] = &three[..] else { panic!() };
        three.iter().for_each(|encoder| encoders.keep(encoder));
        assert_eq!(kept(), [second.model_id(), third.model_id()]);
        // One that is asked for stays longer than one that is not.
        let vfs = crate::storage::real::RealVfs;
        encoders.get(&vfs, folder.path(), second.model_id(), base.precision()).unwrap();
        encoders.keep(first);
        assert_eq!(kept(), [second.model_id(), first.model_id()]);
        encoders.keep_only(first.model_id());
        assert_eq!(kept(), [first.model_id()]);
    }

    #[test]
    #[cfg(feature = "trainer")]
    fn a_handle_whose_encoder_was_removed_is_told_to_refresh() {
        use crate::db::generations::{NewGeneration, source};
        let folder = tempfile::tempdir().unwrap();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert");
        let create = CreateOptions { model: Some(model.into()), ..CreateOptions::default() };
        let options = OpenOptions { create, background: false, ..OpenOptions::default() };
        let db = Db::open_with(folder.path().join("a.embdb"), options.clone()).unwrap();
        db.add([crate::Document::new("a", "some text")]).unwrap();
        let (base, task) = (db.encoder().unwrap(), crate::Task::default());
        let learn = |turn: usize| {
            let matrix: Vec<f32> = (0..base.dim() * base.dim())
                .map(|n| if n % (base.dim() + 1) == 0 { 1.0 } else { 0.01 * (turn * (n % 3)) as f32 })
                .collect();
            let encoder = base.with_adapter(&matrix).unwrap();
            let model_id = encoder.model_id().to_owned();
            let (dim, metrics) = (base.dim(), String::new());
            let new = NewGeneration { ladder: vec![dim], model_id, dim, metrics };
            let store = || db.inner.store_model(&encoder, Some(base.model_id()));
            db.inner.publish_generation(&new, source(&new.model_id), &task, store).unwrap();
        };
        learn(1);
        let reader = Db::open_with(folder.path().join("a.embdb"), options).unwrap();
        (2..=10).for_each(learn);
        let error = reader.encoder().err().unwrap();
        assert!(error.exit_code() == 1 && error.to_string().contains("refresh"), "{error}");
        reader.refresh().unwrap();
        assert_eq!(reader.encoder().unwrap().model_id(), db.encoder().unwrap().model_id());
    }
}
