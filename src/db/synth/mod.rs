//! `synth`: queries for passages of the database, made up by a language model elsewhere or in this process.
//!
//! | file | what it holds |
//! |---|---|
//! | `draw` | which passages are asked about |
//! | `import` | which answers are learnt from |
//! | `generate` | asking a model in this process |
//! | `kept` | its answers, until a run has come to its end |

mod draw;
#[cfg(feature = "generator")]
mod generate;
mod import;
#[cfg(feature = "generator")]
mod kept;

use serde::Serialize;

use super::Db;
use crate::error::Result;
use crate::options::Task;
use crate::trainer::synth::prompt::{Passage, Style, prompt};

pub use self::draw::DrawOptions;
#[cfg(feature = "generator")]
pub use self::generate::{GenerateOptions, GenerateReport};
pub use self::import::{FOUND_WITHIN, ImportReport, SynthImport, SynthPair};

/// Bytes of a document's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The first.
    pub start: u32,
    /// The one behind the last.
    pub end: u32,
}

/// A prompt for a language model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SynthPrompt {
    /// What the answer must name.
    pub prompt_id: String,
    /// The document.
    pub id: String,
    /// The passage.
    pub chunk: Span,
    /// The search that was thought up.
    pub task: String,
    /// What to ask.
    pub prompt: String,
}

/// What was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DrawReport {
    /// Prompts.
    pub prompts: usize,
    /// Documents that they are about.
    pub documents: usize,
    /// The metadata key whose values took turns, if there is one.
    pub by: Option<String>,
    /// For the user.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl Db {
    /// Draws passages and hands a prompt about each to `take`. Reports the stages "read" and "prompts".
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) for a database without an encoder or without documents; those of `take`.
    pub fn synth_prompts(
        &self,
        draw: &DrawOptions,
        style: Style,
        mut take: impl FnMut(&SynthPrompt) -> Result<()>,
        task: &Task,
    ) -> Result<DrawReport> {
        self.passages(draw, task, "prompts", |passage| {
            let (start, end) = passage.span;
            let (about, text) = prompt(passage, style, draw.seed)?;
            take(&SynthPrompt {
                prompt_id: passage.prompt_id(),
                id: passage.id.to_owned(),
                chunk: Span { start, end },
                task: about,
                prompt: text,
            })
        })
    }

    /// Draws passages and hands them out.
    fn passages(
        &self,
        options: &DrawOptions,
        task: &Task,
        stage: &str,
        take: impl FnMut(&Passage<'_>) -> Result<()>,
    ) -> Result<DrawReport> {
        self.refresh()?;
        let (snapshot, encoder) = (self.inner.snapshot(), self.encoder()?);
        draw::Draw { snapshot: &snapshot, encoder: &encoder, options, task }.run(stage, take)
    }
}
