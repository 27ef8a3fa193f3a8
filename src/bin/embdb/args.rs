//! The command line: `embdb DATABASE [COMMAND …]`, and what several commands share of it.
//!
//! A shell statement is parsed by the same definitions, without program and database name. What a
//! later version brings is refused here, naming the flag.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use embdb::options::{Io, limits};
use embdb::types::{Builder, Codec, IndexKind, Metric, Precision};
use embdb::{Error, Result};

use crate::commands::{
    create, documents, embed, eval, feedback, generations, import, knn, maintenance, models, retrain, search,
    synth,
};

/// An embedded vector database that learns from its users.
#[derive(Debug, Parser)]
#[command(
    name = "embdb",
    version,
    after_help = "Without COMMAND: the shell, interactive on a terminal, \
    else statements from standard input.\n\
    Exit codes: 0 done, 1 wrong usage or input, 2 corrupt, 3 busy, 4 input/output failed, 5 limit exceeded, \
    6 needs a newer program, 7 retrain did not publish, 130 interrupted.\n\
    EMBDB_SIMD=avx512, avx2 or scalar makes it compute with these instructions, where the processor has them."
)]
pub struct Program {
    /// Directory of the database, by habit NAME.embdb
    pub database: PathBuf,
    #[command(flatten)]
    pub common: Common,
    /// In a script, go on after an error
    #[arg(long)]
    pub keep_going: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// A shell statement.
#[derive(Debug, Parser)]
#[command(name = "embdb", no_binary_name = true, disable_version_flag = true)]
pub struct Statement {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// Print JSON: one object, or one a line
    #[arg(long, global = true)]
    pub json: bool,
    /// No notes and no progress
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Wait so long for the writer's lock
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub busy_timeout: Option<Duration>,
    /// Stop a command that takes longer; what it acknowledged stays
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// How files are read: map, or pread (into memory, for files of unknown origin)
    #[arg(long, global = true, value_name = "HOW", value_parser = io)]
    pub io: Option<Io>,
    /// Memory that the log and longer work may take, e.g. 500MB; what would take more is refused
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    Create(create::Create),
    Import(import::Import),
    Add(documents::Add),
    Get(documents::Get),
    Delete(documents::Delete),
    Ids(documents::Ids),
    Count(documents::Count),
    Search(search::SearchText),
    BatchSearch(search::BatchSearch),
    Knn(knn::Knn),
    Click(feedback::Click),
    Log(feedback::Log),
    Retrain(retrain::Retrain),
    Synth(synth::Synth),
    Eval(eval::Eval),
    Generations(generations::Generations),
    Rollback(generations::Rollback),
    Model(models::Model),
    Embed(embed::Embed),
    Reindex(generations::Reindex),
    Compact(maintenance::Compact),
    Check(maintenance::Check),
    Backup(maintenance::Backup),
    Info(maintenance::Info),
    Repair(maintenance::Repair),
}

/// How many hits, and of which documents.
#[derive(Debug, Args)]
pub struct Ranking {
    /// Number of hits
    #[arg(short, default_value_t = 10, allow_negative_numbers = true)]
    pub k: u64,
    /// Only documents for which this holds, e.g. "lang = 'en' AND year >= 2020"
    #[arg(long = "where", value_name = "EXPR")]
    pub filter: Option<String>,
    /// Rank by the first D dimensions alone
    #[arg(long, value_name = "D", allow_negative_numbers = true)]
    pub dim: Option<usize>,
    /// Breadth of the search in the graphs; by default what reaches the target recall
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub ef: Option<usize>,
    /// Share of the exact hits to aim at, without --ef
    #[arg(long, value_name = "R", default_value_t = 0.95, value_parser = share)]
    pub target_recall: f32,
    /// Compare with every document
    #[arg(long)]
    pub exact: bool,
}

impl Ranking {
    /// `-k`, checked.
    pub fn k(&self) -> Result<usize> {
        hits("-k", self.k)
    }
}

/// Checks a number of hits.
pub fn hits(flag: &str, k: u64) -> Result<usize> {
    let limit = limits::K as u64;
    if k == 0 {
        return Err(Error::input(format!("{flag} 0: at least one hit must be asked for")));
    }
    if k > limit {
        let raise = "ask for fewer hits".to_string();
        return Err(Error::Limit { what: flag.to_string(), limit, actual: k, raise });
    }
    Ok(k as usize)
}

/// Refuses what a later version brings; the parser adds the flag's name.
pub fn later(_: &str) -> std::result::Result<String, String> {
    Err("not in this version yet".into())
}

/// `--mode`.
pub fn mode(text: &str) -> std::result::Result<String, String> {
    match text {
        "vector" => Ok(text.into()),
        "text" | "hybrid" => later(text),
        _ => Err("expected vector".into()),
    }
}

/// `--metric`.
pub fn metric(text: &str) -> std::result::Result<Metric, String> {
    let all = [Metric::Cosine, Metric::Dot, Metric::L2];
    all.into_iter().find(|m| m.name() == text).ok_or_else(|| "expected cosine, dot or l2".into())
}

/// `--index`.
pub fn index(text: &str) -> std::result::Result<IndexKind, String> {
    match text {
        "fast" => Ok(IndexKind::Fast),
        "dense" => Ok(IndexKind::Dense),
        _ => Err("expected fast or dense".into()),
    }
}

/// `--builder`.
pub fn builder(text: &str) -> std::result::Result<Builder, String> {
    let all = [Builder::Flat, Builder::HnswRs];
    all.into_iter().find(|b| b.name() == text).ok_or_else(|| "expected flat or hnsw_rs".into())
}

/// `--codec`.
pub fn codec(text: &str) -> std::result::Result<Codec, String> {
    let all = [Codec::Int8F32, Codec::Int8, Codec::F32];
    all.into_iter().find(|c| c.name() == text).ok_or_else(|| "expected int8+f32, int8 or f32".into())
}

/// `--io`.
pub fn io(text: &str) -> std::result::Result<Io, String> {
    match text {
        "map" => Ok(Io::Map),
        "pread" => Ok(Io::Pread),
        _ => Err("expected map or pread".into()),
    }
}

/// A number of bytes: `500MB`, `2GB`, `1000000`.
pub fn size(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1 << 10,
        "M" | "MB" => 1 << 20,
        "G" | "GB" => 1 << 30,
        _ => return Err("expected a number of bytes, KB, MB or GB".into()),
    };
    let bytes = digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| "expected a number of bytes, KB, MB or GB".into())
}

/// `--precision`.
pub fn precision(text: &str) -> std::result::Result<Precision, String> {
    let all = [Precision::F32, Precision::Int8];
    all.into_iter().find(|p| p.name() == text).ok_or_else(|| "expected f32 or int8".into())
}

/// A number of seconds, with a fraction if need be.
pub fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if seconds <= 1e9 => Ok(duration),
        _ => Err("expected 0 to 1e9 seconds".into()),
    }
}

/// A time such as `90s`, `10m`, `2h`; without a unit, seconds.
pub fn duration(text: &str) -> std::result::Result<Duration, String> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err("expected a time such as 90s, 10m, 2h or 30d".into()),
    };
    let number: f64 =
        number.parse().map_err(|_| "expected a time such as 90s, 10m, 2h or 30d".to_string())?;
    seconds(&(number * factor).to_string())
}

pub fn share(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("expected a number above 0, at most 1".into()),
    }
}

/// A finite number.
pub fn finite(text: &str) -> std::result::Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("expected a number".into()),
    }
}

/// A number of at least 1.
pub fn positive(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number of at least 1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_consistent() {
        Program::command().debug_assert();
        Statement::command().debug_assert();
    }

    #[test]
    fn common_flags_stand_anywhere() {
        for line in [
            ["d", "count", "--json", "--quiet"],
            ["d", "--json", "--quiet", "count"],
            ["--json", "d", "count", "--quiet"],
        ] {
            let program = Program::try_parse_from(["embdb"].into_iter().chain(line)).unwrap();
            assert!(program.common.json && program.common.quiet);
            assert!(matches!(program.command, Some(Command::Count(_))));
        }
    }

    #[test]
    fn later_flags_are_named() {
        for (line, flag) in [
            (vec!["search", "x", "--mode", "hybrid"], "--mode"),
            (vec!["search", "x", "--as-of", "1"], "--as-of"),
            (vec!["eval", "--queries", "q", "--qrels", "r", "--mode", "text"], "--mode"),
            (vec!["batch-search", "--queries", "q", "--mode", "text"], "--mode"),
        ] {
            let error = Statement::try_parse_from(line).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(flag) && text.contains("not in this version"), "{text}");
        }
    }

    #[test]
    fn times_and_numbers() {
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        for bad in ["", "m", "-1s", "5w", "nan", "1e99h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(hits("-k", 10_000).unwrap(), 10_000);
        assert_eq!(hits("-k", 0).unwrap_err().exit_code(), 1);
        assert_eq!(hits("-k", 10_001).unwrap_err().exit_code(), 5);
    }
}
