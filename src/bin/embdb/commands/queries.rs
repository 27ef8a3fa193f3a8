//! Queries from a file: JSON lines `{"_id" or "id", "text"}`.

use std::collections::HashSet;
use std::path::Path;

use embdb::{Error, Result};
use serde_json::Value;

use super::lines;

/// A query of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Its id.
    pub id: String,
    /// What is searched for.
    pub text: String,
}

/// Reads all queries of a file.
///
/// # Errors
/// [`Error::Input`] with file and line for a line that is no query and for an id that comes twice.
pub fn read(path: &Path) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    let mut ids = HashSet::new();
    lines::each(path, |line| {
        let query = query(line)?;
        if !ids.insert(query.id.clone()) {
            return Err(format!("the id {:?} comes twice", query.id));
        }
        queries.push(query);
        Ok(())
    })?;
    if queries.is_empty() {
        return Err(Error::input(format!("{} holds no queries", path.display())));
    }
    Ok(queries)
}

fn query(line: &str) -> std::result::Result<Query, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("invalid JSON: {error}"))?;
    let Value::Object(object) = value else { return Err("not a JSON object".into()) };
    let id = match object.get("_id").or_else(|| object.get("id")) {
        Some(Value::String(id)) if !id.is_empty() => id.clone(),
        Some(Value::Number(id)) if !id.is_f64() => id.to_string(),
        Some(_) => return Err("the id is neither a string nor an integer".into()),
        None => return Err("no `_id` or `id`".into()),
    };
    match object.get("text") {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(Query { id, text: text.clone() }),
        Some(Value::String(_)) => Err("the text is empty".into()),
        Some(_) => Err("the text is not a string".into()),
        None => Err("no `text`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Query>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path())
    }

    #[test]
    fn both_names_of_the_id_and_integers() {
        let queries = parse("{\"_id\": \"a\", \"text\": \"x\"}\n\n{\"id\": 7, \"text\": \"y\"}\n").unwrap();
        assert_eq!(queries.iter().map(|q| q.id.as_str()).collect::<Vec<_>>(), ["a", "7"]);
    }

    #[test]
    fn faulty_lines_are_named() {
        for bad in [
            "{",
            "[]",
            "{\"text\": \"x\"}",
            "{\"id\": 1.5, \"text\": \"x\"}",
            "{\"id\": \"a\"}",
            "{\"id\": \"b\", \"text\": \" \"}",
            "{\"id\": \"a\", \"text\": \"again\"}",
        ] {
            let error = parse(&format!("{{\"id\": \"a\", \"text\": \"x\"}}\n{bad}\n")).unwrap_err();
            assert!(error.exit_code() == 1 && error.to_string().contains(", line 2: "), "{error}");
        }
        assert!(parse("\n").is_err());
    }
}
