//! `add`, `get`, `delete`, `ids`, `count`: documents one by one.

use clap::Args;
use embdb::db::write::AddReport;
use embdb::types::{Document, Meta};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{Mode, printable};

/// Add a document; one with the same id is replaced
#[derive(Debug, Args)]
pub struct Add {
    /// Its id
    #[arg(long)]
    id: String,
    /// Its text
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,
    /// Its title, encoded together with the text
    #[arg(long, allow_hyphen_values = true)]
    title: Option<String>,
    /// Its metadata, a JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    meta: Option<Meta>,
    /// Its vector, a JSON array, in a database of plain vectors
    #[arg(long, value_name = "JSON", value_parser = vector, allow_hyphen_values = true)]
    vector: Option<Vector>,
}

#[derive(Debug, Clone)]
struct Vector(Vec<f32>);

fn object(text: &str) -> Result<Meta, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("expected a JSON object".into()),
        Err(error) => Err(format!("invalid JSON: {error}")),
    }
}

fn vector(text: &str) -> Result<Vector, String> {
    serde_json::from_str(text)
        .map(Vector)
        .map_err(|error| format!("expected a JSON array of numbers: {error}"))
}

impl Add {
    /// Adds it.
    pub fn run(self, context: &mut Context) -> Outcome {
        if self.text.is_none() && self.title.is_none() && self.vector.is_none() {
            return Err(Failure::input("add needs --text (or, in a database of plain vectors, --vector)"));
        }
        let document = Document {
            id: self.id,
            title: self.title.filter(|title| !title.is_empty()),
            text: self.text.unwrap_or_default(),
            meta: self.meta.unwrap_or_default(),
            vector: self.vector.map(|v| v.0),
        };
        let report = context.write(Default::default(), 0)?.add([document])?;
        if context.out.is_json() {
            context.out.json(&json!({
                "documents": report.documents,
                "replaced": report.replaced,
                "chunks": report.chunks,
                "unchanged": report.unchanged,
            }))?;
        } else {
            context.note(match report {
                AddReport { unchanged: 1.., .. } => "1 document is unchanged",
                AddReport { replaced: 1.., .. } => "replaced 1 document",
                _ => "added 1 document",
            });
        }
        Ok(0)
    }
}

/// Print documents
#[derive(Debug, Args)]
pub struct Get {
    /// Their ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

impl Get {
    /// Prints those that are there; fails if one is not.
    pub fn run(self, context: &mut Context) -> Outcome {
        let db = context.read()?;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for id in self.ids {
            match db.get(&id)? {
                Some(document) => found.push(document_json(document)),
                None => missing.push(id),
            }
        }
        if context.out.mode() == Mode::Table {
            for document in &found {
                context.out.record(document)?;
            }
        } else {
            context.out.records(&found)?;
        }
        match missing.as_slice() {
            [] => Ok(0),
            missing => Err(Failure::input(format!("no document has the id {:?}", missing.join("\", \"")))),
        }
    }
}

fn document_json(document: Document) -> Value {
    let Document { id, title, text, meta, vector } = document;
    let mut value = json!({"id": id, "title": title, "text": text, "meta": meta});
    if let (Some(vector), Some(object)) = (vector, value.as_object_mut()) {
        object.insert("vector".into(), json!(vector));
    }
    value
}

/// Delete documents
#[derive(Debug, Args)]
pub struct Delete {
    /// Their ids
    #[arg(value_name = "ID", required_unless_present = "filter")]
    ids: Vec<String>,
    /// All documents for which this holds
    #[arg(long = "where", value_name = "EXPR")]
    filter: Option<String>,
}

impl Delete {
    /// Deletes them and tells how many there were.
    pub fn run(self, context: &mut Context) -> Outcome {
        let db = context.change()?;
        let mut deleted = if self.ids.is_empty() { 0 } else { db.delete(&self.ids)? };
        if let Some(filter) = &self.filter {
            let counted = db.delete_where(filter)?;
            deleted += counted.count;
            context.notes(&counted.notes);
        }
        if context.out.is_json() {
            context.out.json(&json!({"deleted": deleted}))?;
        } else {
            context.note(&format!("deleted {deleted}"));
        }
        Ok(0)
    }
}

/// Print the ids of all documents, sorted
#[derive(Debug, Args)]
pub struct Ids {}

impl Ids {
    /// One a line.
    pub fn run(self, context: &mut Context) -> Outcome {
        for id in context.read()?.ids()? {
            if context.out.is_json() {
                context.out.json(&json!({"id": id}))?;
            } else {
                context.out.line(&printable(&id))?;
            }
        }
        Ok(0)
    }
}

/// Print the number of documents
#[derive(Debug, Args)]
pub struct Count {
    /// Of those for which this holds
    #[arg(long = "where", value_name = "EXPR")]
    filter: Option<String>,
}

impl Count {
    /// Prints it.
    pub fn run(self, context: &mut Context) -> Outcome {
        let db = context.read()?;
        let count = match &self.filter {
            None => db.count()?,
            Some(filter) => {
                let counted = db.count_where(filter)?;
                context.notes(&counted.notes);
                counted.count
            }
        };
        if context.out.is_json() {
            context.out.json(&json!({"count": count}))?;
        } else {
            context.out.line(&count.to_string())?;
        }
        Ok(0)
    }
}
