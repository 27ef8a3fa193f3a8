//! A folder of its own for each test, and the program run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The tiny encoder.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/encoder/tiny-bert");

/// What a run of the program did.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Self {
            code: output.status.code().expect("not ended by a signal"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Run {
    /// Asserts the exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Asserts that an error or note has all these words.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} is missing: {self:?}");
        }
        self
    }

    /// The output as JSON lines.
    #[track_caller]
    pub fn objects(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// The output as one JSON object.
    #[track_caller]
    pub fn object(&self) -> Value {
        let objects = self.objects();
        assert_eq!(objects.len(), 1, "{self:?}");
        objects[0].clone()
    }
}

/// A folder for a test.
pub struct Place(TempDir);

impl Place {
    /// An empty one.
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// One with the database `db` of three texts.
    pub fn with_texts() -> Self {
        let place = Self::new();
        place.write(
            "texts.jsonl",
            concat!(
                "{\"id\": \"a\", \"text\": \"how do i reset my password\", \"lang\": \"en\", \"year\": 2020}\n",
                "{\"id\": \"b\", \"title\": \"weather\", \"text\": \"it rains in paris today\", \"lang\": \"fr\"}\n",
                "{\"_id\": 7, \"text\": \"cats and dogs\", \"meta\": {\"lang\": \"en\", \"year\": 2024}}\n",
            ),
        );
        place.run(&["db", "create", "--model", MODEL]).code(0);
        place.run(&["db", "import", "texts.jsonl"]).code(0);
        place
    }

    /// One with the database `v` of `rows` plain vectors of 4 dimensions, ids "0" and on.
    pub fn with_vectors(rows: usize) -> Self {
        let place = Self::new();
        place.write_npy("v.npy", &vectors(rows));
        place.run(&["v", "import", "v.npy"]).code(0);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Writes vectors as a NumPy array of 32-bit floats.
    pub fn write_npy(&self, name: &str, rows: &[Vec<f32>]) {
        let columns = rows.first().map_or(0, Vec::len);
        let mut header =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {columns}), }}", rows.len());
        while !(10 + header.len() + 1).is_multiple_of(64) {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(rows.iter().flatten().flat_map(|value| value.to_le_bytes()));
        self.write(name, bytes);
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embdb"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Run {
        self.command(args).output().unwrap().into()
    }

    /// Runs and parses the one object that it prints with `--json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).code(0).object()
    }

    /// Starts with pipes.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs with `input` as standard input.
    #[track_caller]
    pub fn feed(&self, args: &[&str], input: impl AsRef<[u8]>) -> Run {
        self.write(".stdin", input);
        let file = fs::File::open(self.path(".stdin")).unwrap();
        self.command(args).stdin(file).output().unwrap().into()
    }

    /// Number of documents.
    #[track_caller]
    pub fn count(&self, database: &str) -> u64 {
        self.json(&[database, "count"])["count"].as_u64().unwrap()
    }
}

/// Vectors that differ.
pub fn vectors(rows: usize) -> Vec<Vec<f32>> {
    (0..rows).map(|row| vec![1.0, row as f32, ((row * 7) % 11) as f32, -0.5]).collect()
}

/// Keys of an object, in order.
pub fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Copies a folder with all that is in it, over what is there.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
