//! From the fields of a JSON object to a document.

use embdb::options::limits;
use embdb::types::{Document, Meta};
use embdb::{Error, Result};
use serde_json::Value;

use super::{InputOptions, over};

/// Which fields are id, text and vector.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    pub(super) ids: Vec<String>,
    pub(super) text: String,
    pub(super) vector: String,
    /// Whether a document with nothing in it is passed over, as it happens in BEIR's corpora, rather than refused.
    pub(super) skip_empty: bool,
}

impl Fields {
    pub(super) fn new(options: &InputOptions) -> Self {
        let or = |field: &Option<String>, default: &str| field.clone().unwrap_or_else(|| default.into());
        Self {
            ids: options
                .id_field
                .clone()
                .map_or_else(|| vec!["id".into(), "_id".into()], |field| vec![field]),
            text: or(&options.text_field, "text"),
            vector: or(&options.vector_field, "vector"),
            skip_empty: false,
        }
    }

    /// What was looked for, for messages: `"id" or "_id"`.
    pub(super) fn id_names(&self) -> String {
        self.ids.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or ")
    }

    /// The document of an object. What is not id, title, text, vector, `meta` or `metadata` becomes metadata, after
    /// that of `meta`, whose keys win over others of the same name. An empty title is none. `None`: passed over.
    pub(super) fn document(&self, mut object: Meta, place: &str) -> Result<Option<Document>> {
        let vector = match object.shift_remove(&self.vector) {
            None | Some(Value::Null) => None,
            Some(value) => Some(vector(&value, &self.vector, place)?),
        };
        self.document_with(object, vector, place)
    }

    /// The same where the vector is known.
    pub(super) fn document_with(
        &self,
        mut object: Meta,
        vector: Option<Vec<f32>>,
        place: &str,
    ) -> Result<Option<Document>> {
        let id = self.id(&mut object, place)?;
        let text = string(object.shift_remove(&self.text), &self.text, place)?;
        let title = string(object.shift_remove("title"), "title", place)?.filter(|title| !title.is_empty());
        let document = Document { id, title, text: String::new(), meta: meta(object, place)?, vector };
        self.with_text(document, text, place)
    }

    /// Puts the text in. Without a vector there must be something to encode: a text, or a title above an empty one.
    pub(super) fn with_text(
        &self,
        mut document: Document,
        text: Option<String>,
        place: &str,
    ) -> Result<Option<Document>> {
        if document.vector.is_none() {
            let titled = document.title.is_some();
            match &text {
                None => {
                    let looked = format!("{:?} and no {:?}", self.text, self.vector);
                    return Err(Error::input(format!("{place}: no text and no vector: no field {looked}")));
                }
                Some(text) if text.is_empty() && !titled && self.skip_empty => return Ok(None),
                Some(text) if text.is_empty() && !titled => {
                    return Err(Error::input(format!("{place}: the text is empty, and there is no vector")));
                }
                Some(_) => (),
            }
        }
        document.text = text.unwrap_or_default();
        Ok(Some(document))
    }

    fn id(&self, object: &mut Meta, place: &str) -> Result<String> {
        for name in &self.ids {
            match object.shift_remove(name) {
                None | Some(Value::Null) => (),
                Some(Value::String(id)) => return Ok(id),
                Some(Value::Number(n)) if n.is_i64() || n.is_u64() => return Ok(n.to_string()),
                Some(_) => {
                    return Err(Error::input(format!(
                        "{place}: {name:?} must be a string or a 64-bit integer"
                    )));
                }
            }
        }
        Err(Error::input(format!("{place}: no id: no field {}; name it with --id-field", self.id_names())))
    }
}

fn string(value: Option<Value>, field: &str, place: &str) -> Result<Option<String>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::input(format!("{place}: {field:?} must be a string"))),
    }
}

/// The numbers of a JSON array, in 32-bit floating point.
pub(super) fn vector(value: &Value, field: &str, place: &str) -> Result<Vec<f32>> {
    let Value::Array(elements) = value else {
        return Err(Error::input(format!("{place}: {field:?} must be an array of numbers")));
    };
    if elements.is_empty() {
        return Err(Error::input(format!("{place}: {field:?} is empty")));
    }
    over(place, "the vector's dimension", elements.len() as u64, limits::DIM as u64, "use shorter vectors")?;
    let number = |(i, element): (usize, &Value)| match element.as_f64().map(|x| x as f32) {
        Some(x) if x.is_finite() => Ok(x),
        Some(_) => {
            Err(Error::input(format!("{place}: value {i} of {field:?} is beyond 32-bit floating point")))
        }
        None => Err(Error::input(format!("{place}: value {i} of {field:?} is not a number"))),
    };
    elements.iter().enumerate().map(number).collect()
}

fn meta(mut object: Meta, place: &str) -> Result<Meta> {
    let mut meta = Meta::new();
    for name in ["meta", "metadata"] {
        match object.shift_remove(name) {
            None | Some(Value::Null) => (),
            Some(Value::Object(inner)) => inner.into_iter().for_each(|(key, value)| {
                meta.entry(key).or_insert(value);
            }),
            Some(_) => return Err(Error::input(format!("{place}: {name:?} must be an object"))),
        }
    }
    for (key, value) in object {
        meta.entry(key).or_insert(value);
    }
    Ok(meta)
}
