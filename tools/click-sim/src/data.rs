//! A test collection in BEIR's layout, embedded once and kept.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use embdb::encoder::{Encoder, ModelFiles};
use embdb::types::Precision;
use embdb::{Error, Result, Task};
use serde_json::Value;

/// A collection with its embeddings.
pub struct Collection {
    /// Dimensions.
    pub dim: usize,
    /// A row for each document.
    pub documents: Vec<f32>,
    /// Ids of the documents.
    pub ids: Vec<String>,
    /// A row for each query.
    pub queries: Vec<f32>,
    /// Texts of the queries.
    pub texts: Vec<String>,
    /// For each query its relevant documents (by number) with grades.
    pub judged: Vec<HashMap<u32, f64>>,
    /// Numbers of the queries that are learnt from.
    pub train: Vec<usize>,
    /// Numbers of those that measure.
    pub test: Vec<usize>,
}

/// Where things are.
pub struct Places {
    /// Folder of the collections.
    pub data: PathBuf,
    /// Folder of the model.
    pub model: PathBuf,
    /// Folder in which embeddings are kept.
    pub cache: PathBuf,
}

impl Collection {
    /// Reads a collection; embeds it unless the cache has it.
    pub fn open(places: &Places, name: &str) -> Result<Self> {
        let folder = places.data.join(name);
        let corpus = objects(&folder.join("corpus.jsonl"))?;
        let queries = objects(&folder.join("queries.jsonl"))?;
        let (ids, contents): (Vec<String>, Vec<String>) = corpus.iter().map(content).unzip();
        let (query_ids, texts): (Vec<String>, Vec<String>) = queries.iter().map(content).unzip();
        let documents = embedded(places, &format!("{name}-corpus.f32"), &contents)?;
        let rows = embedded(places, &format!("{name}-queries.f32"), &texts)?;
        let dim = documents.len() / ids.len().max(1);
        let document_of: HashMap<&str, u32> = ids.iter().map(String::as_str).zip(0..).collect();
        let query_of: HashMap<&str, usize> = query_ids.iter().map(String::as_str).zip(0..).collect();
        let mut judged = vec![HashMap::new(); texts.len()];
        let (mut train, mut test) = (Vec::new(), Vec::new());
        let splits =
            ["train", "test"].map(|split| (split, folder.join("qrels").join(format!("{split}.tsv"))));
        let alone = !splits[1].1.exists();
        for (split, path) in splits.iter().filter(|(_, path)| path.exists()) {
            let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
            for line in text.lines().skip(1) {
                let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
                let &[query, document, grade] = fields.as_slice() else {
                    return Err(Error::input(format!("{}: not three columns: {line:?}", path.display())));
                };
                let grade: f64 = grade
                    .parse()
                    .map_err(|_| Error::input(format!("{}: no grade: {line:?}", path.display())))?;
                if let Some((&query, &document)) = query_of.get(query).zip(document_of.get(document))
                    && let Some(judged) = judged.get_mut(query)
                    && grade > 0.0
                {
                    let first = judged.is_empty();
                    judged.insert(document, grade);
                    let held_out = *split == "test" || alone && hash(&texts[query]).is_multiple_of(5);
                    if first && held_out {
                        test.push(query);
                    } else if first {
                        train.push(query);
                    }
                }
            }
        }
        Ok(Self { dim, documents, ids, queries: rows, texts, judged, train, test })
    }

    /// The rows of some queries.
    pub fn query_rows(&self, numbers: &[usize]) -> Vec<f32> {
        numbers.iter().flat_map(|n| &self.queries[n * self.dim..(n + 1) * self.dim]).copied().collect()
    }
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)) >> 16
}

fn content(object: &Value) -> (String, String) {
    let field = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let (title, text) = (field("title"), field("text"));
    (field("_id"), if title.is_empty() { text } else { format!("{title}\n{text}") })
}

fn objects(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let parse =
        |line| serde_json::from_str(line).map_err(|e| Error::input(format!("{}: {e}", path.display())));
    text.lines().map(parse).collect()
}

fn embedded(places: &Places, name: &str, texts: &[String]) -> Result<Vec<f32>> {
    let path = places.cache.join(name);
    if let Ok(bytes) = std::fs::read(&path) {
        return Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
    }
    let encoder = Encoder::from_files(ModelFiles::read_dir(&places.model)?, Precision::F32)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let rows = encoder.encode(&texts, &Task::default())?;
    let bytes: Vec<u8> = rows.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    Ok(rows)
}
