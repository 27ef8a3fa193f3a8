//! Saving a run of `retrain` that trains the encoder, and going on with one that was stopped.
//!
//! From the first step of training on, what the run learns from, its options and the trainer's state lie in the database
//! ([`storage::checkpoint`](crate::storage::checkpoint)), renewed every half a minute, when training ends and when the run is
//! cancelled. What comes before (vectors of the texts, adapters) takes seconds and is done again, and so is the adapter
//! behind the encoder. The rows of documents that were encoded again are in a job of their own, which belongs to the encoder
//! that made them: the resumed run makes the same encoder, and finds them there.
//!
//! Invariants: a run that is resumed ends with the weights that it would have had; no error of saving ends a run; the generation
//! that answers is never touched.

use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::RetrainOptions;
use super::saved::{self, SavedRun};
use super::sources::Lessons;
use crate::db::{Db, Inner};
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::storage::checkpoint::{self as storage, Checkpoint, Contents};
use crate::trainer::{Example, Target};

/// How often the state is saved.
const EVERY: Duration = Duration::from_secs(30);

impl Db {
    /// Whether a `retrain` was stopped that [`RetrainOptions::resume`] goes on with.
    pub fn retrain_was_stopped(&self) -> Result<bool> {
        storage::exists(self.inner.vfs.as_ref(), &self.inner.dir)
    }
}

/// Saves one run.
pub(super) struct Keeper<'a> {
    inner: &'a Inner,
    every: Duration,
    /// The sections beside the state.
    run: SavedRun,
    data: Vec<u8>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// Where the run is saved, if it is.
    place: Option<Checkpoint>,
    /// Section RUN as it is in the file.
    run: Vec<u8>,
    /// The state to go on from.
    state: Option<Vec<u8>>,
    notes: Vec<String>,
}

/// What the trainer is to know.
pub(super) struct Begun {
    /// Identity of the run.
    pub run: u64,
    /// The state to go on from.
    pub state: Option<Vec<u8>>,
    /// Time for training the encoder.
    pub budget: Option<Duration>,
    /// Whether states are kept.
    pub saves: bool,
}

impl<'a> Keeper<'a> {
    /// For a run that begins.
    pub fn fresh(
        inner: &'a Inner,
        generation: &Generation,
        options: &RetrainOptions,
        lessons: &Lessons,
    ) -> Result<Self> {
        let mut kept = Kept::default();
        if !options.plan && storage::exists(inner.vfs.as_ref(), &inner.dir)? {
            kept.notes.push(
                "this run begins anew; another one was stopped, and `retrain --resume` would have gone on with it".into(),
            );
        }
        let trains = !options.method.is_linear() && !options.plan;
        Ok(Self {
            inner,
            every: options.checkpoint_every.unwrap_or(EVERY),
            run: SavedRun::new(generation, options, &lessons.data),
            data: if trains { saved::lines(lessons)? } else { Vec::new() },
            kept: Mutex::new(kept),
        })
    }

    /// For the run that was stopped, with its options and its data. `asked` has the rest of the options.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none, or if it was to better another generation than `generation`, which answers;
    /// [`Error::Busy`] while it runs; [`Error::Corrupt`] if it is damaged.
    pub fn resumed(
        inner: &'a Inner,
        generation: &Generation,
        asked: &RetrainOptions,
    ) -> Result<(Self, RetrainOptions, Lessons)> {
        let vfs = inner.vfs.as_ref();
        let nothing = || {
            Error::input(
                "no run of retrain was stopped here that could go on (those that train the encoder are saved); begin one \
                 without --resume",
            )
        };
        if !storage::exists(vfs, &inner.dir)? {
            return Err(nothing());
        }
        let place = Checkpoint::open(vfs, &inner.dir, inner.snapshot().manifest.database)?;
        let place = place.ok_or(Error::Busy { pid: None })?;
        let contents = place.read(vfs).map_err(advised)?.ok_or_else(nothing)?;
        let odd = |what| advised(Error::corrupt(&contents.path, 0, what));
        let run = SavedRun::from_bytes(&contents.run).map_err(odd)?;
        if run.generation != generation.id || run.model_id != generation.model_id {
            return Err(Error::input(format!(
                "the run that was stopped was to better generation {}, but generation {} answers now; begin anew without \
                 --resume",
                run.generation, generation.id
            )));
        }
        let options = run.options().map_err(odd)?;
        let options = RetrainOptions {
            task: asked.task.clone(),
            checkpoint_every: asked.checkpoint_every,
            device: asked.device,
            report: asked.report.clone(),
            ..options
        };
        let lessons = run.lessons(&contents.data).map_err(odd)?;
        let Contents { run: bytes, data: lines, state, .. } = contents;
        let kept = Kept { place: Some(place), run: bytes, state: Some(state), notes: Vec::new() };
        let every = options.checkpoint_every.unwrap_or(EVERY);
        Ok((Self { inner, every, run, data: lines, kept: Mutex::new(kept) }, options, lessons))
    }

    /// How often states are wanted.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// The training of the encoder begins: from now on the run can be gone on with.
    ///
    /// # Errors
    /// [`Error::Input`] if a resumed run would learn from other examples than before.
    pub fn begin(&self, examples: u64, budget: Option<Duration>) -> Result<Begun> {
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        let budget = if let Some(state) = kept.state.take() {
            if self.run.examples != examples {
                return Err(Error::input(
                    "the run that was stopped cannot go on: documents that it learns from were changed or deleted since, or \
                     the index finds other hard negatives; begin anew without --resume",
                ));
            }
            kept.state = Some(state).filter(|state| !state.is_empty());
            self.run.budget.map(Duration::from_nanos)
        } else {
            let nanoseconds = budget.map(saved::nanoseconds);
            kept.run = self.run.clone().begun(examples, nanoseconds).to_bytes()?;
            self.take_place(kept);
            budget
        };
        let mut hash = Xxh3::new();
        hash.update(&xxh3_64(&kept.run).to_le_bytes());
        hash.update(&self.data);
        Ok(Begun { run: hash.digest(), state: kept.state.take(), budget, saves: kept.place.is_some() })
    }

    /// Takes the place where runs are saved, with a first checkpoint: this run is the one to go on with.
    fn take_place(&self, kept: &mut Kept) {
        let vfs = self.inner.vfs.as_ref();
        match Checkpoint::open(vfs, &self.inner.dir, self.inner.snapshot().manifest.database) {
            Ok(Some(place)) => {
                kept.place = Some(place);
                self.write(kept, &[]);
            }
            Ok(None) => kept.notes.push(
                "another retrain runs on this database: this one could not be gone on with after a stop"
                    .into(),
            ),
            Err(error) => unsaved(kept, &error),
        }
    }

    /// Keeps a state. A run that cannot be saved goes on.
    pub fn save(&self, state: &[u8]) {
        self.write(&mut self.kept.lock(), state);
    }

    fn write(&self, kept: &mut Kept, state: &[u8]) {
        let Some(place) = &mut kept.place else { return };
        if let Err(error) = place.write(self.inner.vfs.as_ref(), &kept.run, &self.data, state) {
            unsaved(kept, &error);
        }
    }

    /// The run has ended, published or not: nothing is left to go on with. Returns notes.
    pub fn finish(self) -> Vec<String> {
        let mut kept = self.kept.into_inner();
        if let Some(place) = kept.place.take()
            && let Err(error) = place.finish(self.inner.vfs.as_ref())
        {
            kept.notes.push(format!("the checkpoint of this run, of no more use, was not removed: {error}"));
        }
        kept.notes
    }
}

impl Inner {
    /// Removes a run that was stopped if it learns from texts of documents that were changed or deleted since: it could not
    /// go on, and would keep them.
    pub(crate) fn forget_stopped_run(&self) -> Result<()> {
        let vfs = self.vfs.as_ref();
        if !storage::is_left(vfs, &self.dir)? {
            return Ok(());
        }
        let database = self.snapshot().manifest.database;
        let Some(place) = Checkpoint::open(vfs, &self.dir, database)? else { return Ok(()) };
        place.remove_unfinished(vfs)?;
        let keeps = match place.read(vfs) {
            Ok(None) => Ok(false),
            Ok(Some(contents)) => self.has_all_of(&contents),
            Err(Error::Corrupt { .. }) => Ok(false),
            Err(error) => Err(error),
        };
        if keeps? { Ok(()) } else { place.finish(vfs) }
    }

    /// Whether every text that a run learns from is one of a document still, as far as it came from one.
    fn has_all_of(&self, contents: &Contents) -> Result<bool> {
        let lessons = SavedRun::from_bytes(&contents.run).and_then(|run| run.lessons(&contents.data));
        let Ok(lessons) = lessons else { return Ok(false) };
        let snapshot = self.snapshot();
        for target in lessons.data.records.iter().flat_map(|record| &record.texts) {
            let (id, part) = match target {
                Target::Text(_) => continue,
                Target::Id(id) => (id, ""),
                Target::Passage { id, text } => (id, text.as_str()),
            };
            let document = snapshot.find(id)?.map(|place| snapshot.document(place)).transpose()?;
            if document.is_none_or(|document| !is_left_of(part, &document.full_text())) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether the words of a passage are those of a text, in their order: some may be left out.
fn is_left_of(passage: &str, text: &str) -> bool {
    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
    }
    let mut all = words(text);
    words(passage).all(|word| all.any(|other| other == word))
}

/// Tells once that a run could not be saved.
fn unsaved(kept: &mut Kept, error: &Error) {
    const SAYS: &str = "the run could not be saved while it went on";
    if !kept.notes.iter().any(|note| note.starts_with(SAYS)) {
        kept.notes.push(format!("{SAYS}: {error}"));
    }
}

/// The same error with what to do.
fn advised(error: Error) -> Error {
    match error {
        Error::Corrupt { file, offset, what } => Error::Corrupt {
            file,
            offset,
            what: format!("{what}; the database is not concerned: begin the run anew without --resume"),
        },
        other => other,
    }
}

/// A hash of the examples that the encoder learns from.
pub(super) fn hash<'e>(examples: impl Iterator<Item = &'e Example>) -> u64 {
    let mut hash = Xxh3::new();
    for example in examples {
        for text in &example.texts {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        let bits = example.targets.iter().chain([&example.weight]).map(|value| u64::from(value.to_bits()));
        let numbers = example.keys.iter().copied().chain(bits).chain([u64::from(example.class)]);
        numbers.for_each(|number| hash.update(&number.to_le_bytes()));
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::is_left_of;

    #[test]
    fn a_passage_may_lack_words_of_its_text_and_have_no_others() {
        let text = "# Title\nOne two. Three four, five!";
        for passage in ["", "One two.", "One two five", "Title Three"] {
            assert!(is_left_of(passage, text), "{passage}");
        }
        assert!(!is_left_of("two One", text) && !is_left_of("six", text) && !is_left_of("One", ""));
    }
}
