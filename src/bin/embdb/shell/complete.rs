//! What could follow at the prompt: commands, flags, ids, keys of the metadata, file names.

use std::sync::Arc;

use clap::CommandFactory;
use embdb::Db;
use parking_lot::Mutex;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::{Helper, Highlighter, Hinter, Validator};

use super::line::{BUILTINS, commands};
use crate::args::Statement;

/// Documents up to which all ids are looked through at a key press.
const IDS_LOOKED_THROUGH: u64 = 200_000;
/// Ids offered at once.
const IDS_OFFERED: usize = 100;

/// What the database can say about a word to come.
pub trait Vocabulary {
    /// Ids that begin with `prefix`.
    fn ids(&self, prefix: &str) -> Vec<String>;
    /// Keys that `--where` knows.
    fn keys(&self) -> Vec<String>;
}

/// The database of the shell, once a statement opened it.
pub type Opened = Arc<Mutex<Option<Db>>>;

impl Vocabulary for Opened {
    fn ids(&self, prefix: &str) -> Vec<String> {
        let db = self.lock();
        let Some(db) = db.as_ref() else { return Vec::new() };
        if !db.count().is_ok_and(|count| count <= IDS_LOOKED_THROUGH) {
            return Vec::new();
        }
        let ids = db.ids().unwrap_or_default().into_iter();
        ids.filter(|id| id.starts_with(prefix)).take(IDS_OFFERED).collect()
    }

    fn keys(&self) -> Vec<String> {
        let db = self.lock();
        let mut keys = db.as_ref().and_then(|db| db.meta_keys().ok()).unwrap_or_default();
        keys.push("id".into());
        keys
    }
}

/// What is offered for a word.
#[derive(Debug, PartialEq)]
enum Offer {
    /// These words.
    Words(Vec<String>),
    /// Names of files.
    Files,
}

/// Where the last word of `line` begins, and what could stand there.
fn offer(line: &str, vocabulary: &impl Vocabulary) -> (usize, Offer) {
    let start =
        line.rfind(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '(')).map_or(0, |at| at + 1);
    let word = line.get(start..).unwrap_or_default();
    let before: Vec<&str> = line.get(..start).unwrap_or_default().split_whitespace().collect();
    let Some(first) = before.first() else {
        let dots = BUILTINS.iter().map(|(name, ..)| format!(".{name}"));
        let names = commands().iter().cloned().chain(commands().iter().map(|name| format!(".{name}")));
        return (start, Offer::Words(matching(names.chain(dots), word)));
    };
    let name = first.strip_prefix('.').unwrap_or(first);
    let last_flag = before.iter().rev().find(|word| word.starts_with("--"));
    let words: Vec<String> = match (name, last_flag) {
        ("mode", _) if before.len() == 1 => ["table", "json", "csv", "markdown"].map(String::from).to_vec(),
        ("timer" | "logging", _) => vec!["on".into(), "off".into()],
        ("read", _) => return (start, Offer::Files),
        _ if word.starts_with('-') => flags(name),
        (_, Some(flag)) if *flag == "--where" => vocabulary.keys(),
        (_, Some(&("--queries" | "--qrels" | "--out" | "--acks" | "--data" | "--input" | "--trec"))) => {
            return (start, Offer::Files);
        }
        ("import" | "backup", _) => return (start, Offer::Files),
        ("create" | "embed", Some(&"--model")) => return (start, Offer::Files),
        ("log" | "model", _) if before.len() == 1 => actions(name),
        ("log" | "model", _) => return (start, Offer::Files),
        ("get" | "delete" | "click", _) => vocabulary.ids(word).iter().filter_map(|id| quoted(id)).collect(),
        _ => Vec::new(),
    };
    (start, Offer::Words(matching(words, word)))
}

fn matching(words: impl IntoIterator<Item = String>, prefix: &str) -> Vec<String> {
    let mut words: Vec<String> = words.into_iter().filter(|word| word.starts_with(prefix)).collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn quoted(id: &str) -> Option<String> {
    shlex::try_quote(id).ok().map(|quoted| quoted.into_owned())
}

fn flags(name: &str) -> Vec<String> {
    let statement = Statement::command();
    let common = statement.get_arguments();
    let own = statement.find_subcommand(name).into_iter().flat_map(|command| command.get_arguments());
    let shown = own.chain(common).filter(|argument| !argument.is_hide_set());
    shown.filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect()
}

fn actions(name: &str) -> Vec<String> {
    let statement = Statement::command();
    let command = statement.find_subcommand(name).into_iter();
    command
        .flat_map(|command| command.get_subcommands())
        .map(|action| action.get_name().to_string())
        .collect()
}

/// Completion for the line editor.
#[derive(Helper, Highlighter, Hinter, Validator)]
pub struct Completion {
    opened: Opened,
    files: FilenameCompleter,
}

impl Completion {
    /// Completion with the words of a database.
    pub fn new(opened: Opened) -> Self {
        Self { opened, files: FilenameCompleter::new() }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        match offer(line.get(..pos).unwrap_or(line), &self.opened) {
            (_, Offer::Files) => self.files.complete(line, pos, context),
            (start, Offer::Words(words)) => {
                let pairs =
                    words.into_iter().map(|word| Pair { display: word.clone(), replacement: word + " " });
                Ok((start, pairs.collect()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample;

    impl Vocabulary for Sample {
        fn ids(&self, prefix: &str) -> Vec<String> {
            ["doc 1", "doc-2"].iter().filter(|id| id.starts_with(prefix)).map(ToString::to_string).collect()
        }

        fn keys(&self) -> Vec<String> {
            vec!["lang".into(), "year".into(), "id".into()]
        }
    }

    fn words(line: &str) -> Vec<String> {
        match offer(line, &Sample) {
            (_, Offer::Words(words)) => words,
            (_, Offer::Files) => panic!("files for {line}"),
        }
    }

    #[test]
    fn commands_flags_ids_and_keys() {
        assert_eq!(words("gen"), ["generations"]);
        assert_eq!(words(".ti"), [".timer"]);
        assert_eq!(words("search x --ex"), ["--exact"]);
        assert_eq!(words("search x --as"), Vec::<String>::new(), "what comes later is not offered");
        assert_eq!(words("count --q"), ["--quiet"]);
        assert_eq!(words("get doc-"), ["doc-2"]);
        assert_eq!(words("get "), ["'doc 1'", "doc-2"]);
        assert_eq!(words("count --where \"la"), ["lang"]);
        assert_eq!(words("search x --where lang = 'en' AND y"), ["year"]);
        assert_eq!(words("log ex"), ["export"]);
        assert_eq!(words(".mode m"), ["markdown"]);
        assert_eq!(offer("import da", &Sample), (7, Offer::Files));
        assert_eq!(offer("get dü", &Sample).0, 4);
    }
}
