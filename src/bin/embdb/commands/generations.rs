//! `generations`, `rollback`, `reindex`: encoders with all vectors made by them.

use clap::Args;
use embdb::db::generations::{GenerationInfo, ReindexOptions};

use crate::args::positive;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// List the generations
#[derive(Debug, Args)]
pub struct Generations {}

impl Generations {
    /// One a line.
    pub fn run(self, context: &mut Context) -> Outcome {
        let generations = context.read()?.generations()?;
        context.out.records(&generations)?;
        Ok(0)
    }
}

/// Make an older generation active
#[derive(Debug, Args)]
pub struct Rollback {
    /// Its number: the newest eight, the first, and the one before are kept; by default the one before
    generation: Option<u32>,
}

impl Rollback {
    /// Activates it.
    pub fn run(self, context: &mut Context) -> Outcome {
        let db = context.change()?;
        let work = context.work();
        let active = db.rollback(self.generation, &work.task)?;
        drop(work);
        print_active(context, &active)
    }
}

/// Re-embed all documents as a new generation
#[derive(Debug, Args)]
pub struct Reindex {
    /// With this stored encoder
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// With these dimensions to be cut to, e.g. 384,128
    #[arg(long, value_name = "DIMS", value_delimiter = ',')]
    dims: Option<Vec<usize>>,
    /// Threads to encode with
    #[arg(long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,
}

impl Reindex {
    /// Builds and publishes it.
    pub fn run(self, context: &mut Context) -> Outcome {
        context.must_exist()?;
        let db = context.write(Default::default(), self.threads.unwrap_or(0))?;
        let work = context.work();
        let options = ReindexOptions { model: self.model, dims: self.dims };
        let active = db.reindex(options, &work.task)?;
        drop(work);
        print_active(context, &active)
    }
}

/// Prints the generation that answers from now on.
pub fn print_active(context: &mut Context, active: &GenerationInfo) -> Outcome {
    if context.out.is_json() {
        context.out.json(active)?;
    } else {
        context.note(&format!("generation {} is active", active.generation));
    }
    Ok::<u8, Failure>(0)
}
