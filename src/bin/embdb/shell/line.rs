//! What a line of the shell asks for.
//!
//! A line whose first word is a command, with or without a leading dot, is that command; its words
//! are split and quoted as in a POSIX shell. Any other line is searched for as it stands, so that
//! an apostrophe in it does no harm. Lines that begin with `#` are comments.

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::{CommandFactory, Parser, ValueEnum};

use crate::args::Statement;
use crate::failure::Failure;
use crate::output::Mode;

/// What a line asks for.
#[derive(Debug)]
pub enum Line {
    /// Nothing.
    Blank,
    /// Something of the shell itself.
    Builtin(Builtin),
    /// A command.
    Command(Box<Statement>),
    /// A search for this text.
    Search(String),
    /// Help, or a command that is used wrongly.
    Usage(clap::Error),
}

/// Commands of the shell itself.
#[derive(Debug, PartialEq)]
pub enum Builtin {
    /// How results are written.
    Mode(Mode),
    /// Whether the time of each statement is told.
    Timer(bool),
    /// Whether searches are logged also without `--log`.
    Logging(bool),
    /// Run the statements of a file.
    Read(PathBuf),
    /// List the commands.
    Help,
    /// End.
    Quit,
}

/// Names of the built-in commands, with their usage.
pub const BUILTINS: [(&str, &str, &str); 7] = [
    ("mode", "table|json|csv|markdown", "How results are written"),
    ("timer", "on|off", "Tell the time of each statement"),
    ("logging", "on|off", "Keep searches for `click` and `retrain` (on)"),
    ("read", "FILE", "Run the statements of a file"),
    ("help", "", "This list; `COMMAND --help` tells more"),
    ("quit", "", "End"),
    ("exit", "", "End"),
];

/// Names of the commands of the program.
pub fn commands() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let command = Statement::command();
        let mut names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_string()).collect();
        names.push("help".into());
        names
    })
}

/// Parses a line.
pub fn parse(line: &str) -> Result<Line, Failure> {
    let line = line.trim();
    let Some(first) = line.split_whitespace().next() else { return Ok(Line::Blank) };
    if first.starts_with('#') {
        return Ok(Line::Blank);
    }
    let name = first.strip_prefix('.').unwrap_or(first);
    let dotted = name.len() < first.len();
    let known = |name: &str| BUILTINS.iter().any(|(builtin, ..)| *builtin == name);
    if dotted && known(name) {
        let arguments = split(line)?.split_off(1);
        return builtin(name, &arguments).map(Line::Builtin);
    }
    if line == "help" || line == "quit" || line == "exit" {
        return builtin(line, &[]).map(Line::Builtin);
    }
    if commands().iter().any(|command| command == name) {
        let mut words = split(line)?;
        if let Some(first) = words.first_mut() {
            *first = name.to_string();
        }
        return Ok(match Statement::try_parse_from(words) {
            Ok(statement) => Line::Command(Box::new(statement)),
            Err(error) => Line::Usage(error),
        });
    }
    if dotted {
        return Err(Failure::input(format!("there is no command .{name}; .help lists them")));
    }
    Ok(Line::Search(unquoted(line).to_string()))
}

fn split(line: &str) -> Result<Vec<String>, Failure> {
    shlex::split(line).ok_or_else(|| Failure::input("a quote is not closed, or a backslash ends the line"))
}

/// A text without the quotes around it.
fn unquoted(text: &str) -> &str {
    let inner = |quote| text.strip_prefix(quote).and_then(|text: &str| text.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

fn builtin(name: &str, arguments: &[String]) -> Result<Builtin, Failure> {
    let usage = || {
        let usage = BUILTINS.iter().find(|(builtin, ..)| *builtin == name).map_or("", |(_, usage, _)| usage);
        Failure::input(format!("usage: .{name} {usage}"))
    };
    let switch = |text: &str| match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(usage()),
    };
    match (name, arguments) {
        ("mode", [mode]) => Ok(Builtin::Mode(Mode::from_str(mode, false).map_err(|_| usage())?)),
        ("timer", [on]) => Ok(Builtin::Timer(switch(on)?)),
        ("logging", [on]) => Ok(Builtin::Logging(switch(on)?)),
        ("read", [file]) => Ok(Builtin::Read(file.into())),
        ("help", []) => Ok(Builtin::Help),
        ("quit" | "exit", []) => Ok(Builtin::Quit),
        _ => Err(usage()),
    }
}

/// What `.help` prints.
pub fn help() -> String {
    let mut text = String::from("Commands (with or without a leading dot):\n");
    for command in Statement::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("  {:<14} {about}\n", command.get_name()));
    }
    text.push_str("Of the shell:\n");
    for (name, usage, about) in BUILTINS {
        text.push_str(&format!("  {:<30} {about}\n", format!(".{name} {usage}")));
    }
    text.push_str("Any other line is a search; after it, `click N` says that hit N was good.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;

    fn search(line: &str) -> String {
        match parse(line).unwrap() {
            Line::Search(text) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn lines_that_are_no_command_are_searches() {
        assert_eq!(search("what's new in 2024?"), "what's new in 2024?");
        assert_eq!(search("  \"how do I reset\" "), "how do I reset");
        assert_eq!(search("'"), "'");
        assert_eq!(search("searching"), "searching");
    }

    #[test]
    fn commands_go_with_and_without_dot_and_with_quotes() {
        for line in ["add --id 'a b' --text \"it's\"", ".add --id a\\ b --text it\\'s"] {
            let Line::Command(statement) = parse(line).unwrap() else { panic!("{line}") };
            assert!(matches!(statement.command, Command::Add(_)), "{line}");
            assert!(
                format!("{statement:?}").contains("\"a b\"") && format!("{statement:?}").contains("it's")
            );
        }
        assert!(matches!(parse("count --json").unwrap(), Line::Command(s) if s.common.json));
        assert!(matches!(parse("count --nonsense").unwrap(), Line::Usage(_)));
        assert!(parse("get 'a").is_err());
    }

    #[test]
    fn builtins() {
        let builtin = |line| match parse(line) {
            Ok(Line::Builtin(builtin)) => Some(builtin),
            _ => None,
        };
        assert_eq!(builtin(".mode json"), Some(Builtin::Mode(Mode::Json)));
        assert_eq!(builtin(".timer on"), Some(Builtin::Timer(true)));
        assert_eq!(builtin(".read 'a b'"), Some(Builtin::Read("a b".into())));
        assert_eq!(builtin("quit"), Some(Builtin::Quit));
        assert_eq!(builtin(".help"), Some(Builtin::Help));
        for bad in [".mode xml", ".timer", ".read", ".nonsense", ".quit now"] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 1, "{bad}");
        }
        for blank in ["", "  \n", "# a comment"] {
            assert!(matches!(parse(blank).unwrap(), Line::Blank));
        }
    }

    #[test]
    fn help_lists_every_command() {
        let help = help();
        assert!(commands().iter().all(|name| help.contains(name.as_str())));
    }
}
