//! Asking a model in this process: a passage, one line, the same judgement as for answers from elsewhere.

use std::cell::RefCell;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use super::{DrawOptions, ImportReport, SynthPair};
use crate::db::Db;
use crate::encoder::generator::{Beginning, Generator, Sampling};
use crate::error::{Error, Result};
use crate::options::Task;
use crate::trainer::synth::ask::{lesson, question};
use crate::trainer::synth::chances;
use crate::trainer::synth::prompt::{Passage, Style};

/// How queries are made up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// Passages.
    pub draw: DrawOptions,
    /// What is asked for.
    pub style: Style,
    /// How freely is written.
    pub sampling: Sampling,
    /// Whether queries need not find their documents.
    pub keep_all: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            draw: DrawOptions::default(),
            style: Style::Question,
            sampling: Sampling::default(),
            keep_all: false,
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
}

impl Db {
    /// Draws passages, has a model write a query for each, and hands what is fit to `take`. One seed, one result.
    /// Reports the stages "read" and "generate".
    ///
    /// # Errors
    /// As of [`synth_prompts`](Self::synth_prompts) and [`synth_import`](Self::synth_import), and those of the generator.
    pub fn synth_generate(
        &self,
        generator: &Generator,
        options: &GenerateOptions,
        take: impl FnMut(&SynthPair) -> Result<()>,
        task: &Task,
    ) -> Result<GenerateReport> {
        let start = Instant::now();
        let mut lessons = Lessons { generator, read: Vec::new() };
        let mut import = self.synth_import(options.keep_all, take, &task.quiet())?;
        let tokens = RefCell::new((0, 0));
        let ask = |passage: &Passage<'_>| -> Result<()> {
            let prompt_id = passage.prompt_id();
            let mut chance = chances(options.draw.seed, &prompt_id);
            let beginning = lessons.of(options.style.drawn(&mut chance))?;
            let asked = question(passage.title, passage.text);
            let written = beginning.answer(&asked, &options.sampling, chance)?;
            let mut tokens = tokens.borrow_mut();
            tokens.0 += written.read;
            tokens.1 += written.written;
            import.answer(&prompt_id, &Value::String(written.text))
        };
        let drawn = self.passages(&options.draw, task, "generate", ask)?;
        let import = import.finish()?;
        let (tokens_read, tokens_written) = tokens.into_inner();
        let mut notes = drawn.notes;
        notes.extend(import.notes());
        let seconds = start.elapsed().as_secs_f64();
        Ok(GenerateReport { passages: drawn.prompts, import, tokens_read, tokens_written, seconds, notes })
    }
}
