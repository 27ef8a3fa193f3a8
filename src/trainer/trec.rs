//! Runs: what a program ranked for each query, in TREC's file format, and trec_eval's order of it.
//!
//! A line holds `query iteration document rank score tag`, separated by white space. As trec_eval does, the
//! rank column is ignored: documents are ordered by score, as 32-bit numbers, and among equal scores by id
//! in byte order, both descending. A document twice for one query is an error there and here.

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::Path;

use crate::error::{Error, Result};
use crate::options::limits;

/// The ids that were ranked for each query, best first.
pub type Run = HashMap<String, Vec<String>>;

/// Reads a run. `name` is the file's name, for messages. Blank lines are skipped.
///
/// # Errors
/// [`Error::Input`] with file and line for anything that is no line of a run and for a document that is
/// ranked twice, and for a file without any line; [`Error::Limit`] for a line over
/// [`limits::DOCUMENT_BYTES`]; [`Error::Io`] if reading fails.
pub fn read_run(mut reader: impl BufRead, name: &str) -> Result<Run> {
    let mut scored: HashMap<String, HashMap<String, f64>> = HashMap::new();
    let mut bytes = Vec::new();
    for number in 1_u64.. {
        bytes.clear();
        let limit = limits::DOCUMENT_BYTES as u64;
        let read = (&mut reader).take(limit + 1).read_until(b'\n', &mut bytes);
        let read = read.map_err(Error::io("read", Path::new(name)))? as u64;
        if read == 0 {
            break;
        }
        if read > limit {
            let what = format!("{name}, line {number}, in bytes,");
            return Err(Error::Limit { what, limit, actual: read, raise: "split the line".into() });
        }
        let at = |what: String| Error::input(format!("{name}, line {number}: {what}"));
        let text = std::str::from_utf8(&bytes).map_err(|error| at(format!("invalid UTF-8: {error}")))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        if text.trim().is_empty() {
            continue;
        }
        let (query, document, score) = line(text).map_err(at)?;
        if scored.entry(query.to_owned()).or_default().insert(document.to_owned(), score).is_some() {
            return Err(at(format!("{document:?} is ranked twice for {query:?}")));
        }
    }
    if scored.is_empty() {
        return Err(Error::input(format!("{name} holds no ranked documents")));
    }
    Ok(scored.into_iter().map(|(query, documents)| (query, ranked(documents))).collect())
}

/// Query, document and score of a line.
fn line(text: &str) -> std::result::Result<(&str, &str, f64), String> {
    let columns: Vec<&str> = text.split_ascii_whitespace().collect();
    let &[query, _, document, _, score, _] = columns.as_slice() else {
        return Err(format!(
            "{} columns instead of the 6 of a run (query Q0 document rank score tag)",
            columns.len()
        ));
    };
    match score.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((query, document, number)),
        _ => Err(format!("the score {score:?} is no number")),
    }
}

/// Documents with their scores, as trec_eval orders them.
pub fn ranked(scored: impl IntoIterator<Item = (String, f64)>) -> Vec<String> {
    // Adding 0 makes -0, which is equal to it, the same to an order of bits, too.
    let mut scored: Vec<(f32, String)> =
        scored.into_iter().map(|(id, score)| (score as f32 + 0.0, id)).collect();
    scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| b.1.as_bytes().cmp(a.1.as_bytes())));
    scored.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Run> {
        read_run(text.as_ref(), "run.txt")
    }

    #[test]
    fn order_is_by_score_and_then_by_id_both_descending() {
        let run = read("q Q0 a 1 .5 t\nq Q0 b 9 0.5 t\r\n\nq\tQ0\tc\t2\t2e0\tt\nr Q0 a 1 -1 t").unwrap();
        assert_eq!(run["q"], ["c", "b", "a"]);
        assert_eq!(run["r"], ["a"]);
        // Equal as 32-bit numbers.
        let close = ranked([("a".to_owned(), 0.1 + 1e-12), ("b".to_owned(), 0.1)]);
        assert_eq!(close, ["b", "a"]);
        // trec_eval's -0 and 0 are equal; so must be ours.
        assert_eq!(ranked([("a".to_owned(), 0.0), ("b".to_owned(), -0.0)]), ["b", "a"]);
    }

    #[test]
    fn faulty_lines_are_named() {
        for (line, what) in [
            ("q Q0 d 1 0.5", "5 columns"),
            ("q Q0 d 1 x t", "no number"),
            ("q Q0 d 1 nan t", "no number"),
            ("q Q0 a 2 0.1 t", "twice"),
        ] {
            let error = read(format!("q Q0 a 1 0.5 t\n{line}\n")).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("run.txt, line 2: ") && text.contains(what), "{text}");
        }
        assert!(read(b"\xff").unwrap_err().to_string().contains("UTF-8"));
        assert!(read("\n").unwrap_err().to_string().contains("no ranked documents"));
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        assert_eq!(read_run(endless, "run.txt").unwrap_err().exit_code(), 5);
    }
}
