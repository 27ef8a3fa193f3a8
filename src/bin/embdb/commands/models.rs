//! `model`: the encoders that the database holds.

#[cfg(feature = "encoder")]
use std::path::PathBuf;

use clap::{Args, Subcommand};
#[cfg(feature = "encoder")]
use embdb::options::ModelOptions;
#[cfg(feature = "encoder")]
use serde_json::json;

use super::generations::print_active;
use crate::context::Context;
#[cfg(feature = "encoder")]
use crate::context::path_text;
use crate::failure::Outcome;

/// Add, list, activate, export encoders
#[derive(Debug, Args)]
pub struct Model {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Store an encoder
    #[cfg(feature = "encoder")]
    Add {
        /// Its folder, in sentence-transformers layout
        dir: PathBuf,
        /// Its name; by default the folder's
        #[arg(long)]
        name: Option<String>,
        /// What it reads before each query, if its folder does not say it
        #[arg(long, value_name = "TEXT")]
        query_prompt: Option<String>,
        /// What it reads before each document
        #[arg(long, value_name = "TEXT")]
        document_prompt: Option<String>,
    },
    /// Make a small, fast encoder out of a large one, from plain texts
    #[cfg(feature = "trainer")]
    Distil(super::distil::Distil),
    /// List the stored encoders
    List,
    /// Re-embed all documents with a stored encoder
    Use {
        /// Its name
        name: String,
    },
    /// Write the active encoder to a folder, in sentence-transformers layout
    #[cfg(feature = "encoder")]
    Export {
        /// The folder, which must not exist or be empty
        dir: PathBuf,
        /// Another encoder than the active one
        #[arg(long)]
        name: Option<String>,
    },
}

impl Model {
    /// Runs the action.
    pub fn run(self, context: &mut Context) -> Outcome {
        match self.action {
            #[cfg(feature = "encoder")]
            Action::Add { dir, name, query_prompt, document_prompt } => {
                let options = ModelOptions { name, query_prompt, document_prompt };
                let info = context.write(Default::default(), 0)?.model_add(&dir, &options)?;
                if context.out.is_json() {
                    context.out.json(&info)?;
                } else {
                    context.note(&format!("added {} ({} dimensions)", info.name, info.dim));
                }
                Ok(0)
            }
            #[cfg(feature = "trainer")]
            Action::Distil(distil) => distil.run(context),
            Action::List => {
                let models = context.read()?.models()?;
                context.out.records(&models)?;
                Ok(0)
            }
            Action::Use { name } => {
                let db = context.change()?;
                let work = context.work();
                let active = db.model_use(&name, &work.task)?;
                drop(work);
                print_active(context, &active)
            }
            #[cfg(feature = "encoder")]
            Action::Export { dir, name } => {
                context.read()?.model_export(name.as_deref(), &dir)?;
                if context.out.is_json() {
                    context.out.json(&json!({"exported": path_text(&dir)}))?;
                } else {
                    context.note(&format!("exported to {}", dir.display()));
                }
                Ok(0)
            }
        }
    }
}
