//! Relevance judgements: BEIR (`query-id corpus-id score`, tab-separated, with a header) or TREC
//! (`query iteration document grade`, separated by white space), told apart by the first line.

use std::collections::HashMap;
use std::path::Path;

use embdb::db::eval::Qrels;
use embdb::{Error, Result};

use super::lines;

#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Beir,
    Trec,
}

/// Reads the judgements of a file.
///
/// # Errors
/// [`Error::Input`] with file and line for a line of neither layout and for one that contradicts an earlier one.
pub fn read(path: &Path) -> Result<Qrels> {
    let mut qrels: Qrels = HashMap::new();
    let mut layout = None;
    lines::each(path, |line| {
        let layout = match layout {
            Some(layout) => layout,
            None => {
                let (found, header) = first_line(line)?;
                layout = Some(found);
                if header {
                    return Ok(());
                }
                found
            }
        };
        let (query, document, grade) = judgement(layout, line)?;
        let before = qrels.entry(query.to_string()).or_default().insert(document.to_string(), grade);
        match before {
            Some(before) if before != grade => {
                Err(format!("{document:?} was judged {before} for {query:?} before"))
            }
            _ => Ok(()),
        }
    })?;
    if qrels.is_empty() {
        return Err(Error::input(format!("{} holds no judgements", path.display())));
    }
    Ok(qrels)
}

/// The layout, and whether the line is a header.
fn first_line(line: &str) -> std::result::Result<(Layout, bool), String> {
    let tabs: Vec<&str> = line.split('\t').collect();
    match (tabs.as_slice(), line.split_whitespace().count()) {
        ([_, _, score], _) => Ok((Layout::Beir, score.trim().parse::<f64>().is_err())),
        (_, 4) => Ok((Layout::Trec, false)),
        _ => Err("neither three columns with tabs (BEIR) nor four (TREC)".into()),
    }
}

fn judgement(layout: Layout, line: &str) -> std::result::Result<(&str, &str, f64), String> {
    let columns: Vec<&str> = match layout {
        Layout::Beir => line.split('\t').map(str::trim).collect(),
        Layout::Trec => line.split_whitespace().collect(),
    };
    let (query, document, grade) = match (layout, columns.as_slice()) {
        (Layout::Beir, &[query, document, grade]) => (query, document, grade),
        (Layout::Trec, &[query, _, document, grade]) => (query, document, grade),
        (Layout::Beir, other) => return Err(format!("{} columns instead of 3", other.len())),
        (Layout::Trec, other) => return Err(format!("{} columns instead of 4", other.len())),
    };
    if query.is_empty() || document.is_empty() {
        return Err("an id is empty".into());
    }
    match grade.parse::<f64>() {
        Ok(grade) if grade.is_finite() => Ok((query, document, grade)),
        _ => Err(format!("the grade {grade:?} is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Qrels> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn both_layouts_say_the_same() {
        let beir = parse("query-id\tcorpus-id\tscore\nq 1\td1\t2\nq2\td2\t0\n").unwrap();
        assert_eq!(beir["q 1"]["d1"], 2.0);
        assert_eq!(beir["q2"]["d2"], 0.0);
        let trec = parse("q1 0 d1 2\nq2\t0\td2\t-1\n").unwrap();
        assert_eq!(trec["q1"]["d1"], 2.0);
        assert_eq!(trec["q2"]["d2"], -1.0);
        assert_eq!(parse("q1\td1\t1\n").unwrap()["q1"]["d1"], 1.0, "no header");
    }

    #[test]
    fn faulty_lines_are_named() {
        for (text, line) in [
            ("a b\n", 1),
            ("query-id\tcorpus-id\tscore\nq\td\tx\n", 2),
            ("query-id\tcorpus-id\tscore\nq\td\t1\nq\td\t2\n", 3),
            ("query-id\tcorpus-id\tscore\n\td\t1\n", 2),
            ("q 0 d 1\nq 0 d\n", 2),
            ("q 0 d nan\n", 1),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!(", line {line}: ")), "{text:?}: {error}");
        }
        assert_eq!(parse("query-id\tcorpus-id\tscore\n").unwrap_err().exit_code(), 1);
    }
}
