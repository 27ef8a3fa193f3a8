//! Prompts: what a model wants to read before a query and before a document, such as E5's `query: ` and `passage: `.
//!
//! They stand in `config_sentence_transformers.json`: `prompts` by name, and `default_prompt_name`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::config::parse;
use super::files::{ModelFiles, PROMPTS};
use crate::error::{Error, Result};

/// Most bytes of one prompt.
const BYTES_MAX: usize = 4_096;

/// Names of the prompt before documents; the first that says something is taken.
const DOCUMENT_NAMES: [&str; 3] = ["document", "passage", "corpus"];

/// What a text is to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// What is searched for.
    Query,
    /// What is found.
    #[default]
    Document,
}

/// The prompts of a model; empty where it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prompts {
    query: String,
    document: String,
}

#[derive(Deserialize, Default)]
struct Raw {
    prompts: Option<BTreeMap<String, Option<String>>>,
    default_prompt_name: Option<String>,
}

impl Prompts {
    /// Reads the prompts of a model.
    ///
    /// The query's is named `query`, the documents' `document`, `passage` or `corpus`; where a name is not there, the
    /// default prompt stands in.
    pub(crate) fn read(files: &ModelFiles) -> Result<Self> {
        let Some(bytes) = files.get(PROMPTS) else { return Ok(Self::default()) };
        let raw: Raw = parse(PROMPTS, bytes)?;
        let named = raw.prompts.unwrap_or_default();
        let default = match &raw.default_prompt_name {
            None => "",
            Some(name) => {
                named.get(name).map(|prompt| prompt.as_deref().unwrap_or_default()).ok_or_else(|| {
                    Error::corrupt(
                        PROMPTS,
                        0,
                        format!("default_prompt_name is {name:?}, and there is no such prompt"),
                    )
                })?
            }
        };
        // A prompt without a text is as none at all.
        let named = |name: &str| Some(named.get(name)?.as_deref().unwrap_or_default());
        let documents: Vec<&str> = DOCUMENT_NAMES.into_iter().filter_map(named).collect();
        let document = documents.iter().find(|prompt| !prompt.is_empty()).or(documents.first());
        let prompts = Self {
            query: named("query").unwrap_or(default).to_owned(),
            document: document.copied().unwrap_or(default).to_owned(),
        };
        prompts.check()?;
        Ok(prompts)
    }

    fn check(&self) -> Result<()> {
        let most = self.query.len().max(self.document.len());
        if most <= BYTES_MAX {
            return Ok(());
        }
        Err(Error::corrupt(PROMPTS, 0, format!("a prompt of {most} bytes; at most {BYTES_MAX} are read")))
    }

    /// The prompt before a text.
    pub(crate) fn of(&self, role: Role) -> &str {
        match role {
            Role::Query => &self.query,
            Role::Document => &self.document,
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.query.is_empty() && self.document.is_empty()
    }

    /// What the model reads of a text.
    pub(crate) fn before<'a>(&self, text: &'a str, role: Role) -> Cow<'a, str> {
        match self.of(role) {
            "" => Cow::Borrowed(text),
            prompt => Cow::Owned(format!("{prompt}{text}")),
        }
    }
}

impl ModelFiles {
    /// Sets the prompts of a model that comes without, as E5 and BGE do; `None` leaves what is there. They are part of
    /// the model: of its id, and of what is stored and exported.
    ///
    /// Fails with [`Error::Input`] for a prompt of more than 4,096 bytes, and with [`Error::Corrupt`] if the file that
    /// holds prompts does not hold a JSON object.
    pub fn set_prompts(&mut self, query: Option<&str>, document: Option<&str>) -> Result<()> {
        if query.is_none() && document.is_none() {
            return Ok(());
        }
        if [query, document].into_iter().flatten().any(|prompt| prompt.len() > BYTES_MAX) {
            return Err(Error::input(format!("a prompt must not be longer than {BYTES_MAX} bytes")));
        }
        // What is not set stays as it is, though the names that stand for it may change.
        let before = Prompts::read(self)?;
        let mut settings: Map<String, Value> = match self.get(PROMPTS) {
            Some(bytes) => parse(PROMPTS, bytes)?,
            None => Map::new(),
        };
        let mut named = match settings.remove("prompts") {
            Some(Value::Object(named)) => named,
            _ => Map::new(),
        };
        DOCUMENT_NAMES.iter().for_each(|&name| drop(named.remove(name)));
        named.insert("query".into(), json!(query.unwrap_or(&before.query)));
        named.insert("document".into(), json!(document.unwrap_or(&before.document)));
        settings.insert("prompts".into(), Value::Object(named));
        let default = settings.get("default_prompt_name").and_then(Value::as_str);
        // A default of one of the names just removed says what `document` says now.
        if default.is_some_and(|name| DOCUMENT_NAMES.contains(&name)) {
            settings.insert("default_prompt_name".into(), json!("document"));
        }
        self.insert(PROMPTS, format!("{:#}\n", Value::Object(settings)).into_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(String, String)> {
        let mut files = ModelFiles::default();
        files.insert(PROMPTS, json.as_bytes().to_vec());
        Prompts::read(&files).map(|prompts| (prompts.query, prompts.document))
    }

    fn pair(query: &str, document: &str) -> (String, String) {
        (query.into(), document.into())
    }

    #[test]
    fn prompts_are_found_by_their_names() {
        assert_eq!(read("{}").unwrap(), pair("", ""));
        assert_eq!(read(r#"{"prompts": {"query": "q: ", "passage": "p: "}}"#).unwrap(), pair("q: ", "p: "));
        // As sentence-transformers saves a model that has a passage's prompt alone.
        let saved = r#"{"prompts": {"query": "", "document": null, "passage": "p: "}}"#;
        assert_eq!(read(saved).unwrap(), pair("", "p: "));
        let default = r#"{"prompts": {"all": "a ", "query": "q "}, "default_prompt_name": "all"}"#;
        assert_eq!(read(default).unwrap(), pair("q ", "a "));
        let silent = r#"{"prompts": {"all": "a ", "document": ""}, "default_prompt_name": "all"}"#;
        assert_eq!(read(silent).unwrap(), pair("a ", ""));
    }

    #[test]
    fn what_is_wrong_is_corrupt() {
        let long = format!(r#"{{"prompts": {{"query": "{}"}}}}"#, "x".repeat(BYTES_MAX + 1));
        for json in ["", "[]", r#"{"prompts": 3}"#, r#"{"default_prompt_name": "none"}"#, &long] {
            assert!(matches!(read(json), Err(Error::Corrupt { .. })), "{json}");
        }
    }

    #[test]
    fn prompts_that_are_set_are_read_again_and_change_the_id() {
        let mut files = ModelFiles::default();
        let plain = files.model_id(Default::default());
        files.set_prompts(None, None).unwrap();
        assert!(files.get(PROMPTS).is_none());
        let old = r#"{"similarity_fn_name": "cosine", "prompts": {"passage": "p: "}, "default_prompt_name": "passage"}"#;
        files.insert(PROMPTS, old.as_bytes().to_vec());
        let with_passage = files.model_id(Default::default());
        assert_ne!(with_passage, plain);
        files.set_prompts(Some("query: "), None).unwrap();
        let prompts = Prompts::read(&files).unwrap();
        assert_eq!((prompts.of(Role::Query), prompts.of(Role::Document)), ("query: ", "p: "));
        assert_eq!(prompts.before("a", Role::Query), "query: a");
        assert!(std::str::from_utf8(files.get(PROMPTS).unwrap()).unwrap().contains("cosine"));
        assert_ne!(files.model_id(Default::default()), with_passage);
        files.set_prompts(Some(""), Some("")).unwrap();
        assert_eq!(files.model_id(Default::default()), plain);
        assert!(files.set_prompts(Some(&"x".repeat(BYTES_MAX + 1)), None).is_err());
    }
}
