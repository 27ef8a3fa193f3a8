//! Sound inputs to begin with, made by the code that writes such things.

use embdb::db::ubi;
use embdb::format::attrs::AttrsBuilder;
use embdb::format::file::{FileBuilder, Kind};
use embdb::format::frame::{BatchBuilder, FrameType, LogHeader};
use embdb::format::segment::{DocumentRecord, DocumentRows, JobRows, encode_job_rows, encode_upsert};
use embdb::types::{Event, LoggedClick, LoggedSearch, Meta, Metric};

use crate::targets::{FAMILIES, FILTERS, LINES, family, weights_header};

/// The sound inputs of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "answers" => texts(&[
            r#"{"queries": ["how to reset a password", "password forgotten"]}"#,
            r#"[{"query": "a"}, {"query": "b"}]"#,
            "1. first query\n2. second query\n",
            "d1:3-9",
        ]),
        "attrs" => vec![columns()],
        "config" => family_files("config.json"),
        "container" => vec![container(Kind::Docs)],
        "directory" => directory(),
        "feedback" => (0..2).map(|kind| [&[kind][..], LINES.join("\n").as_bytes()].concat()).collect(),
        "filter" => texts(&FILTERS),
        "frames" => vec![frames(), log_header()],
        "graph" => vec![graph()],
        "import_csv" => texts(&[
            "id,text,lang,n\na,\"one, \"\"two\"\"\",en,1\nb,three,de,2.5\n",
            "id;text\r\nx;y\r\n",
            "id\ttext\tvector\n1\tt\t\"[1, 2, 3]\"\n",
        ]),
        "import_fvecs" => vec![fvecs()],
        "import_jsonl" => texts(&[
            "{\"id\": \"a\", \"text\": \"one\", \"title\": \"t\", \"n\": 1, \"tags\": [\"x\"], \"deep\": {\"y\": null}}\n",
            "{\"_id\": 7, \"vector\": [1, 2.5, -3e2]}\n\n{\"id\": \"b\", \"text\": \"\\u00e9\"}",
        ]),
        "import_npy" => npy(),
        "import_parquet" => parquet::seeds(),
        "manifest" => vec![manifest()],
        "model" => {
            (0..FAMILIES.len() as u8).flat_map(|family| (0..4).map(move |file| vec![family, file])).collect()
        }
        "operations" => operations(),
        "records" => vec![upsert(), encode_job_rows(&JobRows { sequence: 3, hash: 4, rows: rows() })],
        "safetensors" => (0..FAMILIES.len() as u8)
            .map(|number| [&[number][..], weights_header(family(number)).0].concat())
            .collect(),
        "tokenizer" => family_files("tokenizer.json"),
        "training_data" => texts(&[
            "{\"query\": \"q\", \"positive\": \"p\"}\n{\"query\": \"q2\", \"positive\": \"p2\", \"negative\": \"n\"}\n",
            "{\"sentence1\": \"a\", \"sentence2\": \"b\", \"score\": 0.5}\n",
            "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": 2}\n",
            "\0{\"_id\": \"q1\", \"text\": \"a query\"}\n\0q1 0 d1 2\nq1 0 d2 0\n",
        ]),
        "trec" => texts(&["q1 Q0 d1 1 9.5 run\nq1 Q0 d2 2 -1e-3 run\nq2\tQ0\td1\t1\tnan\trun\n"]),
        "ubi" => vec![events()],
        "gguf" | "checkpoint" => vec![Vec::new(), vec![2, 0, 24, 0, 1, 1, 9]],
        _ => Vec::new(),
    }
}

/// For each family its number and one file of it.
fn family_files(path: &str) -> Vec<Vec<u8>> {
    let file = |number: u8| {
        let (_, bytes) = family(number).iter().find(|(name, _)| *name == path).expect("each family has it");
        [&[number][..], bytes].concat()
    };
    (0..FAMILIES.len() as u8).map(file).collect()
}

fn meta(n: u64) -> Meta {
    let text =
        format!(r#"{{"n": {n}, "x": {}.5, "lang": "l{}", "deep": {{"a": [true, null, "s"]}}}}"#, n, n % 3);
    serde_json::from_str(&text).expect("valid")
}

fn columns() -> Vec<u8> {
    let mut builder = AttrsBuilder::default();
    (0..9).for_each(|n| builder.push(n, &meta(u64::from(n))));
    let columns = builder.finish().expect("few columns");
    let mut sections = columns.sections();
    sections.sort_by_key(|(id, _)| *id);
    let mut out = Vec::new();
    for (_, bytes) in sections {
        out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out
}

fn container(kind: Kind) -> Vec<u8> {
    let section = |n: u8| (0..n).map(|i| i.wrapping_mul(7)).collect();
    FileBuilder::new(kind, [9; 16])
        .section(1, section(100))
        .section(2, Vec::new())
        .section(7, section(3))
        .finish()
}

fn rows() -> DocumentRows {
    let vectors = (0..6).map(|n| n as f32 - 2.5).collect();
    DocumentRows { generation: 1, dim: 3, spans: vec![[0, 4], [5, 9]], vectors }
}

fn upsert() -> Vec<u8> {
    let record = DocumentRecord { title: Some("title"), text: "some text", meta: r#"{"n":1}"# };
    encode_upsert("d1", &rows(), &record)
}

fn frames() -> Vec<u8> {
    let mut batch = BatchBuilder::new(64, 7);
    batch.push(FrameType::Upsert, 1, &upsert()).expect("short");
    batch.push(FrameType::Delete, 2, b"d0").expect("short");
    batch.commit(2, 64).expect("a batch")
}

fn log_header() -> Vec<u8> {
    LogHeader { number: 3, salt: 7, previous_end: 640, database: [9; 16] }.encode()
}

fn graph() -> Vec<u8> {
    use embdb::index::hnsw::build;
    let values: Vec<f32> = (0..2 * 60).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    let block =
        embdb::index::VectorBlock::new(2, Metric::L2, &[2], 60, Default::default(), &[], &[], &values);
    build::build(&block.expect("it fits"), &build::BuildParams::default(), &embdb::Task::default(), 1)
        .expect("built")
        .encode()
}

fn manifest() -> Vec<u8> {
    use crate::targets::Base;
    let (_, mut manifest) = Base::small().manifest();
    (manifest.number, manifest.database) = (0, [0; 16]);
    let bytes = manifest.encode().expect("a manifest");
    let layout =
        embdb::format::file::Layout::parse(&bytes, Kind::Manifest, "manifest".as_ref()).expect("sound");
    bytes[layout.section(embdb::format::manifest::BODY).expect("a body")].to_vec()
}

/// A little harm of each kind.
fn directory() -> Vec<Vec<u8>> {
    let mut all = vec![vec![0], vec![1]];
    for file in 0..24 {
        // A patch of one byte with repaired checksums, not too near to the beginning.
        all.push(vec![0, file, 0, 0, 80, 0, 0, 1, 0xFF]);
        all.push(vec![0, file, 0, 0, 140, 0, 0, 4, 0xFF, 0xFF, 0xFF, 0x7F]);
        all.push(vec![0, file, 3]);
    }
    for field in 0..18 {
        all.push(vec![0, 0, 5, field, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        all.push(vec![0, 0, 5, field, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
    }
    for file in 3..9 {
        all.push(vec![1, file, 0, 0, 80, 3, 0, 2, 0xFF, 0xFF]);
    }
    all
}

/// Adds, then each kind of call.
fn operations() -> Vec<Vec<u8>> {
    let add = |first: u8, count: u8| {
        let mut call = vec![0, count - 1];
        (first..first + count).for_each(|n| call.extend([n, n.wrapping_mul(37), n ^ 0x55, 3]));
        call
    };
    let calls: [&[u8]; 9] = [
        &[3, 1, 2, 5],
        &[4],
        &[5],
        &[6],
        &[7, 1, 9, 0],
        &[8, 1, 2, 3, 4],
        &[10, 9, 2, 3, 15],
        &[11],
        &[12, 5],
    ];
    let mut all = Vec::new();
    for kind in 0..9 {
        let mut input = vec![kind];
        for (at, call) in calls.into_iter().enumerate() {
            input.extend(add(at as u8 * 3, 6));
            input.extend_from_slice(call);
        }
        input.extend([7, kind % 5, 1, 0]);
        all.push(input);
    }
    all
}

fn fvecs() -> Vec<u8> {
    let row = |n: u32| {
        [3u32.to_le_bytes(), (n as f32).to_le_bytes(), 2f32.to_le_bytes(), 3f32.to_le_bytes()].concat()
    };
    (0..3).flat_map(row).collect()
}

/// Arrays of several types, in row order and in column order.
fn npy() -> Vec<Vec<u8>> {
    let file = |kind: &str, fortran: &str, width: usize| {
        let mut header = format!("{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': (2, 3), }}");
        header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
        header.push('\n');
        let length = (header.len() as u16).to_le_bytes();
        [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), &vec![0x3C; 6 * width]].concat()
    };
    vec![file("<f4", "False", 4), file("<f8", "True", 8), file("<f2", "False", 2), file("|i1", "False", 1)]
}

fn events() -> Vec<u8> {
    let search = LoggedSearch {
        query_id: "q1".into(),
        text: "a query".into(),
        time_ms: 1_700_000_000_000,
        generation: 1,
        shown: vec!["d1".into(), "d2".into()],
        propensities: vec![1.0, 0.5],
        client: Some("somebody".into()),
        ..LoggedSearch::default()
    };
    let click = LoggedClick {
        click_id: "c1".into(),
        query_id: "q1".into(),
        id: "d2".into(),
        grade: 0.5,
        time_ms: 1_700_000_000_500,
    };
    let mut out = Vec::new();
    ubi::write(&[Event::Search(search), Event::Click(click)], &mut out).expect("memory takes all");
    out
}

/// Files of columns.
mod parquet {
    use std::sync::Arc;

    use parquet::basic::Compression;
    use parquet::data_type::{ByteArrayType, DoubleType, FloatType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    const SCHEMA: &str = "message schema {
        required binary id (UTF8);
        optional binary text (UTF8);
        optional int64 n;
        optional double x;
        optional group vector (LIST) { repeated group list { required float element; } }
    }";

    /// Plain and packed.
    pub fn seeds() -> Vec<Vec<u8>> {
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4_RAW].into_iter().map(file).collect()
    }

    fn file(compression: Compression) -> Vec<u8> {
        let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
        let properties = WriterProperties::builder().set_compression(compression).build();
        let mut writer =
            SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).expect("a writer");
        let mut rows = writer.next_row_group().expect("a group");
        macro_rules! column {
            ($kind:ty, $values:expr, $definitions:expr, $repetitions:expr) => {{
                let mut column = rows.next_column().expect("no error").expect("a column");
                let written = column.typed::<$kind>().write_batch($values, $definitions, $repetitions);
                written.expect("written");
                column.close().expect("closed");
            }};
        }
        column!(ByteArrayType, &["a".into(), "b".into()], None, None);
        column!(ByteArrayType, &["some text".into()], Some(&[1, 0]), None);
        column!(Int64Type, &[7, -1], Some(&[1, 1]), None);
        column!(DoubleType, &[0.5], Some(&[0, 1]), None);
        column!(FloatType, &[1.0, 2.0, 3.0, 4.0], Some(&[2, 2, 2, 2]), Some(&[0, 1, 0, 1]));
        rows.close().expect("closed");
        writer.into_inner().expect("a file")
    }
}
