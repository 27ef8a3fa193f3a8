//! The commands, one file a family: their flags, what they call, what they print.

pub mod create;
#[cfg(feature = "trainer")]
pub mod distil;
pub mod documents;
pub mod embed;
pub mod eval;
pub mod feedback;
pub mod generations;
pub mod import;
pub mod knn;
pub mod lines;
pub mod maintenance;
pub mod models;
#[cfg(feature = "trainer")]
pub mod qrels;
pub mod queries;
pub mod retrain;
pub mod search;
pub mod synth;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Outcome;

/// Runs a command and hands its output on.
pub fn run(context: &mut Context, command: Command) -> Outcome {
    let code = dispatch(context, command);
    // What was printed before an error is still due; the error is the one to tell.
    let flushed = context.out.flush();
    let code = code?;
    flushed.map(|()| code)
}

fn dispatch(context: &mut Context, command: Command) -> Outcome {
    match command {
        Command::Create(command) => command.run(context),
        Command::Import(command) => command.run(context),
        Command::Add(command) => command.run(context),
        Command::Get(command) => command.run(context),
        Command::Delete(command) => command.run(context),
        Command::Ids(command) => command.run(context),
        Command::Count(command) => command.run(context),
        Command::Search(command) => command.run(context),
        Command::BatchSearch(command) => command.run(context),
        Command::Knn(command) => command.run(context),
        Command::Click(command) => command.run(context),
        Command::Log(command) => command.run(context),
        Command::Retrain(command) => command.run(context),
        Command::Synth(command) => command.run(context),
        Command::Eval(command) => command.run(context),
        Command::Generations(command) => command.run(context),
        Command::Rollback(command) => command.run(context),
        Command::Model(command) => command.run(context),
        Command::Embed(command) => command.run(context),
        Command::Reindex(command) => command.run(context),
        Command::Compact(command) => command.run(context),
        Command::Check(command) => command.run(context),
        Command::Backup(command) => command.run(context),
        Command::Info(command) => command.run(context),
        Command::Repair(command) => command.run(context),
    }
}
