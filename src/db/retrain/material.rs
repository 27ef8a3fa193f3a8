//! What a run learns from: records whose texts are found, each with its vector.

use std::collections::HashMap;

use super::corpus::{Corpus, stranger_id};
use super::vectors::Vectors;
use crate::db::encoders::Encoder;
use crate::db::snapshot::Snapshot;
use crate::encoder::Role;
use crate::error::{Error, Result};
use crate::format::manifest::Generation;
use crate::options::Task;
use crate::trainer::{self, Data, Example, Record, Shape, Target};

/// Lines that a message names at most.
const NAMED_LINES: usize = 5;

/// Examples with all that is known of their texts.
pub(super) struct Material {
    pub shape: Shape,
    pub examples: Vec<Example>,
    /// Of pairs and triplets: for each the id that its query should find.
    pub positives: Vec<String>,
    /// Vectors of all texts, by the generation that answers.
    pub vectors: Vectors,
    /// For the user.
    pub notes: Vec<String>,
}

/// Where the texts of records are.
struct Finder<'a> {
    snapshot: &'a Snapshot,
    corpus: &'a Corpus,
    by_id: HashMap<String, u32>,
    by_text: HashMap<u64, u32>,
}

/// A text of a record.
struct Named {
    text: String,
    /// Identity as a document: the key of the stored id, or of the text.
    key: u64,
    /// The stored document's id, or what stands for one.
    id: String,
    /// The row of a stored one.
    row: Option<usize>,
}

impl Material {
    /// Finds what records name; some vectors may be known already. Texts of pairs and triplets that the database lacks join the corpus.
    pub fn new(
        (data, vectors): (Data, Vectors),
        corpus: &mut Corpus,
        (snapshot, generation, encoder): (&Snapshot, &Generation, &Encoder),
        task: &Task,
    ) -> Result<Self> {
        let shape = data.shape;
        let mut material = Self {
            shape,
            examples: Vec::with_capacity(data.records.len()),
            positives: Vec::new(),
            vectors,
            notes: Vec::new(),
        };
        if shape.has_query() {
            let queries = data.records.iter().filter_map(|record| match record.texts.first() {
                Some(Target::Text(text)) => Some(text.as_str()),
                _ => None,
            });
            material.vectors.encode(encoder, queries, Role::Query, task)?;
        }
        let finder = Finder::new(snapshot, corpus, &data)?;
        let mut unknown = Vec::new();
        for record in data.records {
            let line = record.line;
            if !material.add(record, &finder)? {
                unknown.push(line);
            }
        }
        material.tell_unknown(&unknown);
        let texts =
            material.examples.iter().flat_map(|e| e.texts.iter().skip(usize::from(shape.has_query())));
        material.vectors.encode(encoder, texts.map(String::as_str), Role::Document, task)?;
        if shape.has_query() {
            material.add_strangers(corpus, snapshot, generation)?;
        }
        Ok(material)
    }

    /// Adds a record; false if it names documents that are not there, and nothing is left of it.
    fn add(&mut self, record: Record, finder: &Finder<'_>) -> Result<bool> {
        let mut targets = record.texts.into_iter();
        let mut example = Example {
            texts: Vec::new(),
            keys: Vec::new(),
            targets: record.targets,
            class: record.class,
            weight: record.weight,
            time: record.time,
        };
        let mut near = Vec::new();
        if self.shape.has_query() {
            let Some(Target::Text(query)) = targets.next() else { return Ok(false) };
            near = self.vectors.row(&query, Role::Query).to_vec();
            example.keys.push(trainer::query_key(&query));
            example.texts.push(query);
        }
        let mut positive = None;
        let taught = !example.targets.is_empty();
        for target in targets {
            let Some(named) = finder.find(target, &near)? else {
                // A negative may be missing, but not where a teacher judged it.
                if positive.is_none() || self.shape != Shape::Triplets || taught {
                    return Ok(false);
                }
                continue;
            };
            if let Some(row) = named.row {
                self.vectors.keep(&named.text, Role::Document, finder.corpus.row(row));
            }
            positive.get_or_insert(named.id);
            example.texts.push(named.text);
            example.keys.push(named.key);
        }
        if self.shape == Shape::Triplets && example.texts.len() < 3 {
            return Ok(false);
        }
        self.positives.extend(positive.filter(|_| self.shape.has_query()));
        self.examples.push(example);
        Ok(true)
    }

    fn tell_unknown(&mut self, lines: &[u64]) {
        if lines.is_empty() {
            return;
        }
        let named: Vec<String> =
            lines.iter().filter(|&&line| line > 0).take(NAMED_LINES).map(u64::to_string).collect();
        let at = match (named.is_empty(), lines.len() > named.len()) {
            (true, _) => String::new(),
            (false, true) => format!(" (lines {}, …)", named.join(", ")),
            (false, false) => format!(" (lines {})", named.join(", ")),
        };
        self.notes.push(format!(
            "{} of {} {} name documents that are not stored (any more) and were left out{at}",
            lines.len(),
            self.examples.len() + lines.len(),
            self.shape
        ));
    }

    /// Texts of queries' documents that the database lacks, by what stands for their id.
    pub fn strangers(&self) -> HashMap<String, &str> {
        let documents = self.examples.iter().flat_map(|e| e.texts.iter().zip(&e.keys).skip(1));
        // The key of a stored document is that of its id.
        let strange = documents.filter(|(text, key)| **key == trainer::target_key(text.trim()));
        strange.map(|(text, _)| (stranger_id(text), text.as_str())).collect()
    }

    fn add_strangers(&self, corpus: &mut Corpus, snapshot: &Snapshot, generation: &Generation) -> Result<()> {
        let stored = snapshot.shape_of(generation.id)?;
        let mut strangers: Vec<&str> = self.strangers().into_values().collect();
        strangers.sort_unstable();
        for text in strangers {
            corpus.add(text, stored.stored(self.vectors.row(text, Role::Document).to_vec()));
        }
        Ok(())
    }
}

impl<'a> Finder<'a> {
    fn new(snapshot: &'a Snapshot, corpus: &'a Corpus, data: &Data) -> Result<Self> {
        let skipped = usize::from(data.shape.has_query());
        let mut targets = data.records.iter().flat_map(|record| record.texts.iter().skip(skipped));
        let by_text = match data.shape.has_query() && targets.any(|t| matches!(t, Target::Text(_))) {
            true => corpus.by_text(snapshot)?,
            false => HashMap::new(),
        };
        Ok(Self { snapshot, corpus, by_id: corpus.by_id(), by_text })
    }

    /// What a record names; nothing if that is an id of no document. Of a stored document of several passages it is the
    /// one nearest to `near`.
    fn find(&self, target: Target, near: &[f32]) -> Result<Option<Named>> {
        let number = match target {
            Target::Id(id) => match self.by_id.get(&id) {
                Some(&number) => number,
                None => return Ok(None),
            },
            Target::Text(text) => match self.by_text.get(&trainer::target_key(text.trim())) {
                Some(&number) => number,
                None => {
                    let (key, id) = (trainer::target_key(text.trim()), stranger_id(&text));
                    return Ok(Some(Named { text, key, id, row: None }));
                }
            },
            // By the document's key, so that neither the document nor another part of it is taken for a wrong answer.
            Target::Passage { id, text } => {
                let known = self.by_id.contains_key(&id);
                return Ok(known.then(|| Named { key: trainer::target_key(&id), text, id, row: None }));
            }
        };
        let row = self.corpus.nearest(number, near);
        let row = row.ok_or_else(|| Error::input("a document has no vectors"))?;
        let id = self.corpus.ids.get(number as usize).cloned().unwrap_or_default();
        let text = self.corpus.passage(self.snapshot, row)?;
        Ok(Some(Named { text, key: trainer::target_key(&id), id, row: Some(row) }))
    }
}
