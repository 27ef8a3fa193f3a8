//! `synth`: queries to learn from that a language model makes up.

use clap::Args;

use crate::context::Context;
#[cfg(not(feature = "trainer"))]
use crate::failure::Failure;
use crate::failure::Outcome;

/// Make up queries to learn from, with a language model elsewhere or here
#[derive(Debug, Args)]
pub struct Synth {
    #[cfg(feature = "trainer")]
    #[command(subcommand)]
    action: with_trainer::Action,
    #[cfg(not(feature = "trainer"))]
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

impl Synth {
    /// Runs the action.
    #[cfg(feature = "trainer")]
    pub fn run(self, context: &mut Context) -> Outcome {
        self.action.run(context)
    }

    /// Without the trainer there is nothing to run.
    #[cfg(not(feature = "trainer"))]
    pub fn run(self, _context: &mut Context) -> Outcome {
        Err(Failure::input("this program was built without the feature `trainer`"))
    }
}

#[cfg(feature = "trainer")]
mod with_trainer {
    #[cfg(feature = "generator")]
    use std::fs;
    use std::io::Write;
    use std::path::{Path, PathBuf};

    use clap::{Args, Subcommand};
    #[cfg(feature = "generator")]
    use embdb::Error;
    use embdb::Result;
    use embdb::db::synth::DrawOptions;
    use embdb::storage::whole_file::WholeFile;
    use embdb::trainer::synth::prompt::Style;
    use serde::Serialize;
    use serde_json::Value;

    use super::super::lines;
    use crate::args::positive;
    use crate::context::Context;
    #[cfg(feature = "generator")]
    use crate::failure::Failure;
    use crate::failure::Outcome;

    #[derive(Debug, Subcommand)]
    pub enum Action {
        Prompts(Prompts),
        Import(Import),
        #[cfg(feature = "generator")]
        Generate(Generate),
    }

    impl Action {
        pub fn run(self, context: &mut Context) -> Outcome {
            match self {
                Self::Prompts(prompts) => prompts.run(context),
                Self::Import(import) => import.run(context),
                #[cfg(feature = "generator")]
                Self::Generate(generate) => generate.run(context),
            }
        }
    }

    /// Which passages are asked about.
    #[derive(Debug, Args)]
    pub struct Draw {
        /// Passages that are asked about
        #[arg(long, value_name = "N", default_value_t = DrawOptions::default().count, value_parser = positive)]
        count: usize,
        /// Seed of all draws
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
        /// Passages of one document, at most
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
        per_document: usize,
    }

    impl Draw {
        fn options(&self) -> DrawOptions {
            DrawOptions { count: self.count, seed: self.seed, per_document: self.per_document }
        }
    }

    fn style(text: &str) -> std::result::Result<Style, String> {
        match text {
            "question" => Ok(Style::Question),
            "keywords" => Ok(Style::Keywords),
            "claim" => Ok(Style::Claim),
            "mixed" => Ok(Style::Mixed),
            _ => Err("expected question, keywords, claim or mixed".into()),
        }
    }

    /// Write prompts about passages, for any language model
    #[derive(Debug, Args)]
    pub struct Prompts {
        /// Where to: JSON lines {prompt_id, id, chunk, task, prompt}
        out: PathBuf,
        #[command(flatten)]
        draw: Draw,
        /// What is asked for: question, keywords, claim or mixed
        #[arg(long, default_value = "mixed", value_parser = style)]
        style: Style,
    }

    impl Prompts {
        fn run(self, context: &mut Context) -> Outcome {
            let db = context.read()?;
            let mut file = Lines::create(&self.out)?;
            let work = context.work();
            let report = db.synth_prompts(&self.draw.options(), self.style, |p| file.write(p), &work.task)?;
            file.finish()?;
            drop(work);
            context.notes(&report.notes);
            context.out.summary(&report)?;
            Ok(0)
        }
    }

    /// Turn answers into pairs for `retrain --data`
    #[derive(Debug, Args)]
    pub struct Import {
        /// Answers: JSON lines {prompt_id, answer}, the answer an object {query, hard_negative}, or a text
        answers: PathBuf,
        /// Where to: JSON lines {query, positive, negative}
        #[arg(long, value_name = "PAIRS.jsonl")]
        out: PathBuf,
        /// Also queries that do not find their document
        #[arg(long)]
        keep_all: bool,
    }

    impl Import {
        fn run(self, context: &mut Context) -> Outcome {
            let db = context.read()?;
            let mut file = Lines::create(&self.out)?;
            let work = context.work();
            let mut import = db.synth_import(self.keep_all, |pair| file.write(pair), &work.task)?;
            // What goes wrong behind a line keeps its kind, and with it its exit code.
            let mut failed = None;
            let read = lines::each(&self.answers, |line| {
                let (prompt_id, answer) = answer(line)?;
                import.answer(&prompt_id, &answer).map_err(|error| {
                    let message = error.to_string();
                    failed = Some(error);
                    message
                })
            });
            match failed {
                Some(error) => return Err(error.into()),
                None => read?,
            }
            let report = import.finish()?;
            file.finish()?;
            drop(work);
            context.notes(&report.notes());
            context.out.summary(&report)?;
            Ok(0)
        }
    }

    /// The prompt that a line answers, and the answer.
    fn answer(line: &str) -> std::result::Result<(String, Value), String> {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("invalid JSON: {error}"))?;
        let Value::Object(mut object) = value else { return Err("not a JSON object".into()) };
        let Some(Value::String(prompt_id)) = object.remove("prompt_id") else {
            return Err("no \"prompt_id\"; an answer is {\"prompt_id\", \"answer\"}".into());
        };
        let Some(answer) = object.remove("answer") else {
            return Err("no \"answer\"; an answer is {\"prompt_id\", \"answer\"}".into());
        };
        Ok((prompt_id, answer))
    }

    /// Have a small language model write queries in this process
    ///
    /// Answers are kept in PAIRS.jsonl.answers until the run has come to its end: after Ctrl-C or a crash the same command
    /// goes on from there.
    #[cfg(feature = "generator")]
    #[derive(Debug, Args)]
    pub struct Generate {
        /// A Llama-type model that talks in ChatML: a GGUF file, or a folder with one (and tokenizer.json)
        #[arg(long, value_name = "GGUF|DIR")]
        model: PathBuf,
        /// Where to: JSON lines {query, positive}
        #[arg(long, value_name = "PAIRS.jsonl")]
        out: PathBuf,
        #[command(flatten)]
        draw: Draw,
        /// What is asked for: question, keywords, claim or mixed
        #[arg(long, default_value = "question", value_parser = style)]
        style: Style,
        /// How freely is written; 0: always the likeliest word
        #[arg(long, value_name = "T", default_value_t = embdb::encoder::generator::Sampling::default().temperature, value_parser = temperature)]
        temperature: f64,
        /// Also queries that do not find their document
        #[arg(long)]
        keep_all: bool,
        /// Threads to write and encode with; by default as many as there are cores
        #[arg(long, value_name = "N", value_parser = positive)]
        threads: Option<usize>,
    }

    #[cfg(feature = "generator")]
    fn temperature(text: &str) -> std::result::Result<f64, String> {
        match text.parse::<f64>() {
            Ok(temperature) if (0.0..=10.0).contains(&temperature) => Ok(temperature),
            _ => Err("expected a number from 0 to 10".into()),
        }
    }

    #[cfg(feature = "generator")]
    impl Generate {
        fn run(self, context: &mut Context) -> Outcome {
            use embdb::db::synth::GenerateOptions;
            use embdb::encoder::generator::{Generator, Sampling};

            if let Some(threads) = self.threads {
                limit_threads(context, threads)?;
            }
            context.must_exist()?;
            let db = context.write(Default::default(), self.threads.unwrap_or(0))?;
            let generator = Generator::load(&self.model)?;
            let mut file = Lines::create(&self.out)?;
            let mut answers = self.out.clone().into_os_string();
            answers.push(".answers");
            let answers = PathBuf::from(answers);
            let work = context.work();
            let options = GenerateOptions {
                draw: self.draw.options(),
                style: self.style,
                sampling: Sampling { temperature: self.temperature, ..Sampling::default() },
                keep_all: self.keep_all,
                answers: Some(answers.clone()),
            };
            let report = db.synth_generate(&generator, &options, |pair| file.write(pair), &work.task)?;
            file.finish()?;
            drop(work);
            context.notes(&report.notes);
            if report.stopped {
                context.note(&format!(
                    "stopped after {} passages of {}: {} pairs are in {}, and the same command goes on from there",
                    report.passages,
                    options.draw.count,
                    report.import.pairs,
                    self.out.display()
                ));
                return Err(Error::Cancelled.into());
            }
            fs::remove_file(&answers).map_err(Error::io("remove", &answers))?;
            context.out.summary(&report)?;
            Ok(0)
        }
    }

    /// Lets the language model compute with so many threads. candle takes their number from the environment once, so the
    /// program is begun again with it there.
    #[cfg(feature = "generator")]
    fn limit_threads(context: &Context, threads: usize) -> std::result::Result<(), Failure> {
        use std::os::unix::process::CommandExt;

        const VARIABLE: &str = "CANDLE_NUM_THREADS";
        let wanted = threads.to_string();
        if std::env::var(VARIABLE).is_ok_and(|set| set == wanted) {
            return Ok(());
        }
        if context.shell.is_some() {
            return Err(Failure::input(format!(
                "--threads: the shell keeps the threads that it began with; leave it, and run \
                 `embdb {} synth generate … --threads {threads}`",
                context.path.display()
            )));
        }
        let own = std::env::current_exe().map_err(Error::io("find", Path::new("this program")))?;
        let failed =
            std::process::Command::new(&own).args(std::env::args_os().skip(1)).env(VARIABLE, wanted).exec();
        Err(Error::io("start", &own)(failed).into())
    }

    /// A file of JSON lines.
    struct Lines(WholeFile);

    impl Lines {
        fn create(path: &Path) -> Result<Self> {
            WholeFile::create(path).map(Self)
        }

        fn write(&mut self, value: &impl Serialize) -> Result<()> {
            self.0.write(|file| {
                serde_json::to_writer(&mut *file, value)?;
                file.write_all(b"\n")
            })
        }

        fn finish(self) -> Result<()> {
            self.0.finish()
        }
    }
}
