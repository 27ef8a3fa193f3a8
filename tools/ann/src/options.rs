//! The command line: `PHASE PATH DATASET [FLAGS]`.

use std::path::PathBuf;

use embdb::options::Durability;
use embdb::types::{Builder, Codec, IndexKind};
use embdb::{CreateOptions, OpenOptions};

use crate::Failure;

/// What a phase is to do.
pub struct Options {
    /// Name of the phase.
    pub phase: String,
    /// The database.
    pub path: PathBuf,
    /// Name of the data set.
    pub dataset: String,
    /// Stored forms of the vectors.
    pub codec: Codec,
    /// How much is spent on graphs.
    pub index: IndexKind,
    /// What builds them.
    pub builder: Builder,
    /// Documents of a batch while building.
    pub batch: usize,
    /// Threads that build; 0: one a core.
    pub threads: usize,
    /// Neighbours asked for.
    pub k: usize,
    /// Widths of the beam to try, instead of the usual ones.
    pub sweep: Vec<usize>,
    /// Rows to insert in the phase `insert`.
    pub inserts: usize,
    /// Leave the graph out.
    pub no_graph: bool,
}

impl Options {
    /// Reads the arguments.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut next = |what: &str| args.next().ok_or_else(|| Failure::from(format!("missing: {what}")));
        let mut options = Self {
            phase: next("the phase")?,
            path: next("the path of the database")?.into(),
            dataset: next("the data set")?,
            codec: Codec::Int8F32,
            index: IndexKind::Fast,
            builder: Builder::Flat,
            batch: 1024,
            threads: 0,
            k: 10,
            sweep: Vec::new(),
            inserts: 200,
            no_graph: false,
        };
        while let Ok(flag) = next("") {
            match flag.as_str() {
                "--codec" => {
                    let all = [Codec::Int8F32, Codec::Int8, Codec::F32];
                    options.codec = named(&all, Codec::name, &next("the codec")?)?;
                }
                "--index" => {
                    let all = [IndexKind::Fast, IndexKind::Dense];
                    options.index = named(&all, IndexKind::name, &next("the kind of index")?)?;
                }
                "--builder" => {
                    let all = [Builder::Flat, Builder::HnswRs];
                    options.builder = named(&all, Builder::name, &next("the builder")?)?;
                }
                "--batch" => options.batch = next("the batch")?.parse()?,
                "--threads" => options.threads = next("the threads")?.parse()?,
                "--k" => options.k = next("k")?.parse()?,
                "--inserts" => options.inserts = next("the number of inserts")?.parse()?,
                "--no-graph" => options.no_graph = true,
                "--ef" => {
                    let list = next("the widths")?;
                    options.sweep = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                other => return Err(format!("unknown flag {other}").into()),
            }
        }
        Ok(options)
    }

    /// How the database is opened.
    pub fn open(&self, dim: usize, durability: Durability) -> OpenOptions {
        let create = CreateOptions {
            vectors: Some(dim),
            codec: self.codec,
            index: self.index,
            builder: self.builder,
            ..CreateOptions::default()
        };
        OpenOptions { create, durability, threads: self.threads, ..OpenOptions::default() }
    }
}

/// The value that goes by a name.
fn named<T: Copy>(all: &[T], name_of: fn(T) -> &'static str, name: &str) -> Result<T, Failure> {
    let known = all.iter().copied().find(|&value| name_of(value) == name);
    let names = || all.iter().map(|&value| name_of(value)).collect::<Vec<_>>().join(", ");
    known.ok_or_else(|| format!("{name:?} is none of {}", names()).into())
}
