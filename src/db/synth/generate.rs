//! Asking a model in this process: a passage, one line, the same judgement as for answers from elsewhere.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::kept::Kept;
use super::{DrawOptions, ImportReport, SynthPair};
use crate::db::Db;
use crate::encoder::generator::{Beginning, Generator, Sampling, Written};
use crate::error::{Error, Result};
use crate::options::Task;
use crate::trainer::synth::ask::{lesson, question};
use crate::trainer::synth::chances;
use crate::trainer::synth::prompt::{Passage, Style};

/// How queries are made up.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Passages.
    pub draw: DrawOptions,
    /// What is asked for.
    pub style: Style,
    /// How freely is written.
    pub sampling: Sampling,
    /// Whether queries need not find their documents.
    pub keep_all: bool,
    /// A file that keeps every answer as it comes. What it holds of a run with the same model, style, sampling and seed is
    /// not asked again; it is the caller's to remove once the run has come to its end.
    pub answers: Option<PathBuf>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            draw: DrawOptions::default(),
            style: Style::Question,
            sampling: Sampling::default(),
            keep_all: false,
            answers: None,
        }
    }
}

/// What was made up.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct GenerateReport {
    /// Passages asked about.
    pub passages: usize,
    /// What became of the answers.
    #[serde(flatten)]
    pub import: ImportReport,
    /// Tokens read, lessons left out.
    pub tokens_read: usize,
    /// Tokens written.
    pub tokens_written: usize,
    /// Wall time.
    pub seconds: f64,
    /// Whether it was cancelled before its end: what is here is of the passages asked about until then.
    #[serde(skip)]
    pub stopped: bool,
    /// For the user.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// The beginnings that passages are asked after, by style, as they are needed.
struct Lessons<'a> {
    generator: &'a Generator,
    read: Vec<(Style, Beginning<'a>)>,
}

impl<'a> Lessons<'a> {
    fn of(&mut self, style: Style) -> Result<&Beginning<'a>> {
        if !self.read.iter().any(|(of, _)| *of == style) {
            let lesson = lesson(style);
            let beginning = self.generator.begin(lesson.system, &lesson.examples)?;
            self.read.push((style, beginning));
        }
        let found = self.read.iter().find(|(of, _)| *of == style).map(|(_, beginning)| beginning);
        found.ok_or_else(|| Error::input("a lesson was not read"))
    }

    /// What the model writes about a passage.
    fn ask(&mut self, passage: &Passage<'_>, prompt_id: &str, options: &GenerateOptions) -> Result<Written> {
        let mut chance = chances(options.draw.seed, prompt_id);
        let beginning = self.of(options.style.drawn(&mut chance))?;
        beginning.answer(&question(passage.title, passage.text), &options.sampling, chance)
    }
}

impl GenerateOptions {
    /// What an answer depends on beside its prompt, for people and for comparison.
    fn run(&self, generator: &Generator) -> String {
        let Sampling { temperature, top_p, tokens } = self.sampling;
        format!(
            "model {}, style {:?}, temperature {temperature}, top_p {top_p}, {tokens} tokens, seed {}",
            generator.id(),
            self.style,
            self.draw.seed
        )
        .to_lowercase()
    }
}

impl Db {
    /// Draws passages, has a model write a query for each, and hands what is fit to `take`. One seed, one result, also of
    /// a run that goes on from kept answers. A run that is cancelled hands on what was written until then, and says so in
    /// its report. Reports the stages "read" and "generate".
    ///
    /// # Errors
    /// As of [`synth_prompts`](Self::synth_prompts) and [`synth_import`](Self::synth_import), and those of the generator;
    /// [`Error::Input`] if the file of answers is of another run; [`Error::Cancelled`] only before the first passage.
    pub fn synth_generate(
        &self,
        generator: &Generator,
        options: &GenerateOptions,
        take: impl FnMut(&SynthPair) -> Result<()>,
        task: &Task,
    ) -> Result<GenerateReport> {
        let start = Instant::now();
        let mut lessons = Lessons { generator, read: Vec::new() };
        let open = |path| Kept::open(path, options.run(generator));
        let mut kept = options.answers.as_deref().map(open).transpose()?;
        let known = kept.as_ref().map_or(0, Kept::len);
        // What was written is judged also after the task was cancelled.
        let mut import = self.synth_import(options.keep_all, take, &Task::default())?;
        let (passages, again, read, wrote) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
        let ask = |passage: &Passage<'_>| -> Result<()> {
            let prompt_id = passage.prompt_id();
            let before = kept.as_ref().and_then(|kept| kept.find(&prompt_id)).cloned();
            again.set(again.get() + usize::from(before.is_some()));
            let written = match before {
                Some(written) => written,
                None => {
                    let written = lessons.ask(passage, &prompt_id, options)?;
                    if let Some(kept) = &mut kept {
                        kept.add(&prompt_id, &written)?;
                    }
                    written
                }
            };
            passages.set(passages.get() + 1);
            read.set(read.get() + written.read);
            wrote.set(wrote.get() + written.written);
            import.answer(&prompt_id, &Value::String(written.text))
        };
        let mut notes = Vec::new();
        let stopped = match self.passages(&options.draw, task, "generate", ask) {
            Ok(drawn) => {
                notes.extend(drawn.notes);
                false
            }
            Err(Error::Cancelled) if passages.get() > 0 => true,
            Err(error) => return Err(error),
        };
        if known > 0 {
            notes.push(format!("{} answers were there from a run that was stopped", again.get()));
        }
        let import = import.finish()?;
        notes.extend(import.notes());
        Ok(GenerateReport {
            passages: passages.get(),
            import,
            tokens_read: read.get(),
            tokens_written: wrote.get(),
            seconds: start.elapsed().as_secs_f64(),
            stopped,
            notes,
        })
    }
}
