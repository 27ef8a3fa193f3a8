//! Files written by the crate that reads them, in every layout that other writers use, and damaged ones.

use std::fs;

use embdb::Error;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type, Int96Type,
};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::InputOptions;
use super::*;

/// A column of a row group: values, definition levels, repetition levels.
enum Data {
    Bool(Vec<bool>, Vec<i16>, Vec<i16>),
    Int(Vec<i32>, Vec<i16>, Vec<i16>),
    Long(Vec<i64>, Vec<i16>, Vec<i16>),
    Int96(Vec<[u32; 3]>),
    Float(Vec<f32>, Vec<i16>, Vec<i16>),
    Double(Vec<f64>, Vec<i16>, Vec<i16>),
    Bytes(Vec<&'static [u8]>, Vec<i16>, Vec<i16>),
    Fixed(Vec<&'static [u8]>, Vec<i16>, Vec<i16>),
}

/// Levels as the writer wants them: none where all are the same.
fn levels(levels: &[i16]) -> Option<&[i16]> {
    (!levels.is_empty()).then_some(levels)
}

fn file(message: &str, properties: WriterProperties, groups: &[Vec<Data>]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(message).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for group in groups {
        let mut rows = writer.next_row_group().unwrap();
        for data in group {
            let mut column = rows.next_column().unwrap().unwrap();
            macro_rules! write {
                ($kind:ty, $values:expr, $definitions:expr, $repetitions:expr) => {
                    column
                        .typed::<$kind>()
                        .write_batch($values, levels($definitions), levels($repetitions))
                        .unwrap()
                };
            }
            match data {
                Data::Bool(v, d, r) => write!(BoolType, v, d, r),
                Data::Int(v, d, r) => write!(Int32Type, v, d, r),
                Data::Long(v, d, r) => write!(Int64Type, v, d, r),
                Data::Int96(v) => {
                    let values: Vec<_> = v.iter().map(|words| words.to_vec().into()).collect();
                    write!(Int96Type, &values, &[], &[])
                }
                Data::Float(v, d, r) => write!(FloatType, v, d, r),
                Data::Double(v, d, r) => write!(DoubleType, v, d, r),
                Data::Bytes(v, d, r) => {
                    let values: Vec<ByteArray> = v.iter().map(|&bytes| bytes.into()).collect();
                    write!(ByteArrayType, &values, d, r)
                }
                Data::Fixed(v, d, r) => {
                    let values: Vec<FixedLenByteArray> =
                        v.iter().map(|&bytes| ByteArray::from(bytes).into()).collect();
                    write!(FixedLenByteArrayType, &values, d, r)
                }
            };
            column.close().unwrap();
        }
        rows.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn plain(message: &str, group: Vec<Data>) -> Vec<u8> {
    file(message, WriterProperties::default(), &[group])
}

fn written(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.parquet");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn read_with(bytes: &[u8], options: &InputOptions) -> std::result::Result<Vec<Located>, (u8, String)> {
    let (folder, path) = written(bytes);
    let prefix = format!("{}/", folder.path().display());
    let found = open(&path, Fields::new(options), Arc::default()).and_then(Iterator::collect);
    found.map_err(|e: Error| (e.exit_code(), e.to_string().replace(&prefix, "")))
}

fn read(bytes: &[u8]) -> std::result::Result<Vec<Located>, (u8, String)> {
    read_with(bytes, &InputOptions::default())
}

fn meta(located: &Located) -> Value {
    Value::Object(located.document.meta.clone())
}

const RICH: &str = "message m {
    required int64 _id;
    optional binary title (UTF8);
    optional binary text (UTF8);
    optional group vector (LIST) { repeated group list { optional float element; } }
    optional group meta {
        optional binary lang (UTF8);
        optional int32 year;
        optional group tags (LIST) { repeated group list { optional binary element (UTF8); } }
    }
    optional double price;
    required boolean flag;
    optional int32 day (DATE);
    optional int64 at (TIMESTAMP(MILLIS,true));
    required int64 big (INTEGER(64,false));
    required int32 cents (DECIMAL(9,2));
    required int96 old;
}";

/// Three rows: one with everything, one with nulls, one with empty lists.
fn rich(ids: [i64; 3]) -> Vec<Data> {
    vec![
        Data::Long(ids.to_vec(), vec![], vec![]),
        Data::Bytes(vec![b"T", b""], vec![1, 0, 1], vec![]),
        Data::Bytes(vec![b"one", b"two", "drei \u{fc}".as_bytes()], vec![1, 1, 1], vec![]),
        Data::Float(vec![1.0, 0.5, -2.0, 0.25], vec![3, 3, 0, 3, 3], vec![0, 1, 0, 0, 1]),
        Data::Bytes(vec![b"en", b"de"], vec![2, 0, 2], vec![]),
        Data::Int(vec![2020], vec![2, 0, 1], vec![]),
        Data::Bytes(vec![b"a", b"b"], vec![4, 3, 4, 0, 2], vec![0, 1, 1, 0, 0]),
        Data::Double(vec![1.5, f64::NAN], vec![1, 0, 1], vec![]),
        Data::Bool(vec![true, false, true], vec![], vec![]),
        Data::Int(vec![19_782], vec![1, 0, 0], vec![]),
        Data::Long(vec![1_700_000_000_500], vec![1, 0, 0], vec![]),
        Data::Long(vec![-1, 2, 3], vec![], vec![]),
        Data::Int(vec![1_999, -5, 0], vec![], vec![]),
        // 2,440,588 is the Julian day of the Unix epoch; nanoseconds in the two words before.
        Data::Int96(vec![[0, 0, 2_440_588], [1_000_000_000, 0, 2_440_589], [0, 0, 2_440_588]]),
    ]
}

#[test]
fn columns_become_fields_in_every_compression() {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let gzip = Compression::GZIP(GzipLevel::default());
    let all =
        [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4, Compression::LZ4_RAW, zstd, gzip];
    for (compression, version) in
        all.into_iter().flat_map(|c| [(c, WriterVersion::PARQUET_1_0), (c, WriterVersion::PARQUET_2_0)])
    {
        let properties =
            WriterProperties::builder().set_compression(compression).set_writer_version(version).build();
        let bytes = file(RICH, properties, &[rich([1, 2, 3])]);
        let found = read(&bytes).unwrap();
        let ids: Vec<&str> = found.iter().map(|l| l.document.id.as_str()).collect();
        assert_eq!(ids, ["1", "2", "3"], "{compression:?}");
        let document = &found[0].document;
        assert_eq!((document.title.as_deref(), document.text.as_str()), (Some("T"), "one"));
        assert_eq!(document.vector, Some(vec![1.0, 0.5]));
        assert_eq!(
            meta(&found[0]),
            json!({
                "lang": "en", "year": 2020, "tags": ["a", null, "b"], "price": 1.5, "flag": true,
                "day": "2024-02-29", "at": "2023-11-14T22:13:20.5", "big": u64::MAX, "cents": 19.99,
                "old": "1970-01-01T00:00:00",
            })
        );
        assert_eq!((&found[1].document.title, &found[1].document.vector), (&None, &None));
        assert_eq!(
            meta(&found[1]),
            json!({"flag": false, "big": 2, "cents": -0.05, "old": "1970-01-02T00:00:01"})
        );
        assert_eq!((&found[2].document.title, found[2].document.text.as_str()), (&None, "drei \u{fc}"));
        assert_eq!(found[2].document.vector, Some(vec![-2.0, 0.25]));
        assert_eq!(meta(&found[2])["lang"], "de");
        assert_eq!(meta(&found[2])["tags"], json!([]));
        assert_eq!(found[2].place.rsplit('/').next(), Some("v.parquet: row 2"));
    }
}

#[test]
fn row_groups_follow_one_another() {
    let bytes = file(RICH, WriterProperties::default(), &[rich([1, 2, 3]), rich([4, 5, 6])]);
    let (_folder, path) = written(&bytes);
    let progress = Arc::new(ReadProgress::default());
    let documents = open(&path, Fields::new(&InputOptions::default()), Arc::clone(&progress)).unwrap();
    let found: Vec<Located> = documents.collect::<Result<_>>().unwrap();
    assert_eq!(found.len(), 6);
    assert_eq!(found[5].document.id, "6");
    assert!(found[5].place.ends_with("row 5"));
    assert!(progress.read() > 0 && progress.read() < bytes.len() as u64);
    let none = file("message m { required int64 id; }", WriterProperties::default(), &[]);
    assert_eq!(read(&none).unwrap(), []);
}

/// More rows than are decoded at a time, over many pages.
#[test]
fn long_columns_stay_in_step() {
    let rows = 5_000;
    let message = "message m { required int64 id; required group vector (LIST) { repeated group list
        { required double element; } } optional int32 n; }";
    let properties = WriterProperties::builder().set_data_page_row_count_limit(97).build();
    let group = vec![
        Data::Long((0..rows).collect(), vec![], vec![]),
        Data::Double(
            (0..3 * rows).map(|n| n as f64).collect(),
            vec![1; 3 * rows as usize],
            [0, 1, 1].repeat(rows as usize),
        ),
        Data::Int(
            (0..rows as i32).filter(|n| n % 3 == 0).collect(),
            (0..rows).map(|n| (n % 3 == 0).into()).collect(),
            vec![],
        ),
    ];
    let found = read(&file(message, properties, &[group])).unwrap();
    assert_eq!(found.len(), rows as usize);
    for (n, located) in found.iter().enumerate() {
        assert_eq!(located.document.id, n.to_string());
        let first = 3.0 * n as f32;
        assert_eq!(located.document.vector, Some(vec![first, first + 1.0, first + 2.0]));
        assert_eq!(meta(located), if n % 3 == 0 { json!({"n": n}) } else { json!({}) });
    }
}

/// Layouts of a list that are or were in use, and widths of its numbers.
#[test]
fn every_layout_of_a_list_is_a_vector() {
    let id = || Data::Long(vec![7, 8], vec![], vec![]);
    let (twice, once) = (vec![0, 1, 0, 1], vec![1; 4]);
    let cases = [
        ("repeated float vector;", Data::Float(vec![1.0, 2.0, 3.0, 4.0], once.clone(), twice.clone())),
        (
            "optional group vector (LIST) { repeated double array; }",
            Data::Double(vec![1.0, 2.0, 3.0, 4.0], vec![2; 4], twice.clone()),
        ),
        (
            "required group vector (LIST) { repeated group bag { required int32 item (INTEGER(8,true)); } }",
            Data::Int(vec![1, 2, 3, 4], once.clone(), twice.clone()),
        ),
        (
            "required group vector (LIST) { repeated group list { required int64 element; } }",
            Data::Long(vec![1, 2, 3, 4], once.clone(), twice.clone()),
        ),
        (
            "required group vector (LIST) { repeated group list
                { required fixed_len_byte_array(2) element (FLOAT16); } }",
            Data::Fixed(vec![&[0, 0x3c], &[0, 0x40], &[0, 0x42], &[0, 0x44]], once, twice),
        ),
    ];
    for (vector, data) in cases {
        let bytes = plain(&format!("message m {{ required int64 id; {vector} }}"), vec![id(), data]);
        let found = read(&bytes).unwrap();
        let vectors: Vec<_> = found.iter().map(|l| l.document.vector.clone().unwrap()).collect();
        assert_eq!(vectors, [vec![1.0, 2.0], vec![3.0, 4.0]], "{vector}");
        let (_folder, path) = written(&bytes);
        assert_eq!(read_matrix(&path).unwrap(), (2, 2, vec![1.0, 2.0, 3.0, 4.0]), "{vector}");
    }
}

#[test]
fn fields_can_be_named_and_meta_may_be_json_in_a_string() {
    let message =
        "message m { required binary key (UTF8); required binary body (UTF8); required binary meta (UTF8);
        required binary extra (JSON); repeated float emb; }";
    let group = || {
        vec![
            Data::Bytes(vec![b"k"], vec![], vec![]),
            Data::Bytes(vec![b"b"], vec![], vec![]),
            Data::Bytes(vec![b"{\"x\": [1, null]}"], vec![], vec![]),
            Data::Bytes(vec![b"[true]"], vec![], vec![]),
            Data::Float(vec![5.0], vec![1], vec![0]),
        ]
    };
    let options = InputOptions {
        id_field: Some("key".into()),
        text_field: Some("body".into()),
        vector_field: Some("emb".into()),
        ..InputOptions::default()
    };
    let found = read_with(&plain(message, group()), &options).unwrap();
    let document = &found[0].document;
    assert_eq!((document.id.as_str(), document.text.as_str()), ("k", "b"));
    assert_eq!(document.vector, Some(vec![5.0]));
    assert_eq!(meta(&found[0]), json!({"x": [1, null], "extra": [true]}));
    let mut broken = group();
    broken[2] = Data::Bytes(vec![b"[1]"], vec![], vec![]);
    let (code, text) = read_with(&plain(message, broken), &options).unwrap_err();
    assert!(code == 1 && text.starts_with("v.parquet: row 0: column \"meta\": no JSON object"), "{text}");
    let (_, text) = read(&plain(message, group())).unwrap_err();
    assert!(text.contains("row 0: no id: no field \"id\" or \"_id\""), "{text}");
}

#[test]
fn what_cannot_be_read_is_named_with_file_row_and_column() {
    let list = "required group vector (LIST) { repeated group list { optional float element; } }";
    let id = || Data::Long(vec![1, 2], vec![], vec![]);
    let with = |columns: &str, data: Vec<Data>| {
        plain(&format!("message m {{ required int64 id; {columns} }}"), data)
    };
    let cases = [
        (
            with(list, vec![id(), Data::Float(vec![1.0, 2.0], vec![2, 2, 1], vec![0, 0, 1])]),
            "v.parquet: row 1: column \"vector\": value 1 is no number",
        ),
        (
            with(list, vec![id(), Data::Float(vec![1.0], vec![2, 0], vec![0, 0])]),
            "v.parquet: row 1: column \"vector\": it is empty",
        ),
        (
            with("required float vector;", vec![id(), Data::Float(vec![1.0, 2.0], vec![], vec![])]),
            "v.parquet: column \"vector\" must be a list of numbers",
        ),
        (
            with(
                "repeated binary vector (UTF8);",
                vec![id(), Data::Bytes(vec![b"1", b"2"], vec![1, 1], vec![0, 0])],
            ),
            "v.parquet: column \"vector\" must be a list of numbers",
        ),
        (
            with("required binary text;", vec![id(), Data::Bytes(vec![b"ok", b"\xff"], vec![], vec![])]),
            "v.parquet: row 1: column \"text\": invalid UTF-8",
        ),
        (
            with("required int32 text;", vec![id(), Data::Int(vec![1, 2], vec![], vec![])]),
            "v.parquet: row 0: \"text\" must be a string",
        ),
        (
            with(
                "required double x; required binary text (UTF8);",
                vec![
                    id(),
                    Data::Double(vec![0.0, f64::INFINITY], vec![], vec![]),
                    Data::Bytes(vec![b"a", b"b"], vec![], vec![]),
                ],
            ),
            "v.parquet: row 1: column \"x\": it is inf",
        ),
        (
            with("optional binary text (UTF8);", vec![id(), Data::Bytes(vec![b"a"], vec![1, 0], vec![])]),
            "v.parquet: row 1: no text and no vector",
        ),
        (
            with(
                "required binary text (UTF8); required fixed_len_byte_array(3) x;",
                vec![
                    id(),
                    Data::Bytes(vec![b"a", b"b"], vec![], vec![]),
                    Data::Fixed(vec![b"abc", b"abc"], vec![], vec![]),
                ],
            ),
            "v.parquet: column \"x\": bytes of a fixed length are not read",
        ),
        (
            with(
                "required group x (LIST) { repeated group list { required group element (LIST) { repeated group list { required float element; } } } }",
                vec![id(), Data::Float(vec![1.0, 1.0], vec![2, 2], vec![0, 0])],
            ),
            "lists of lists are not read",
        ),
        (
            with(
                "required group x (LIST) { repeated group list { required group element { required float a; required float b; } } }",
                vec![
                    id(),
                    Data::Float(vec![1.0, 1.0], vec![1, 1], vec![0, 0]),
                    Data::Float(vec![1.0, 1.0], vec![1, 1], vec![0, 0]),
                ],
            ),
            "lists of groups are not read",
        ),
        (
            with(
                "required group x (MAP) { repeated group key_value { required binary key (UTF8); required float value; } }",
                vec![
                    id(),
                    Data::Bytes(vec![b"k", b"k"], vec![1, 1], vec![0, 0]),
                    Data::Float(vec![1.0, 1.0], vec![1, 1], vec![0, 0]),
                ],
            ),
            "v.parquet: column \"x.key_value.key\": maps are not read",
        ),
    ];
    for (bytes, message) in cases {
        let (code, text) = read(&bytes).unwrap_err();
        assert!(code == 1 && text.contains(message), "{message:?} is not in {text:?}");
    }
    let long = limits::DIM + 1;
    let mut repetitions = vec![1; long];
    repetitions[0] = 0;
    let bytes = plain(
        "message m { required int64 id; repeated float vector; }",
        vec![Data::Long(vec![1], vec![], vec![]), Data::Float(vec![0.5; long], vec![1; long], repetitions)],
    );
    let (code, text) = read(&bytes).unwrap_err();
    assert!(
        code == 5 && text.contains("row 0: column \"vector\": the vector's dimension is 65537"),
        "{text}"
    );
}

#[test]
fn queries_are_a_matrix_of_one_column() {
    let refused = |message: &str, data: Vec<Data>| {
        let (_folder, path) = written(&plain(message, data));
        let error = read_matrix(&path).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        error.to_string()
    };
    let floats = |repetitions| Data::Float(vec![1.0, 2.0, 3.0], vec![1; 3], repetitions);
    let text = refused("message m { repeated float q; }", vec![floats(vec![0, 1, 0])]);
    assert!(text.contains("row 1: column \"q\": 1 values, the rows before have 2"), "{text}");
    let text = refused("message m { required int64 id; }", vec![Data::Long(vec![1], vec![], vec![])]);
    assert!(text.contains("no column is a list of numbers"), "{text}");
    let two = || vec![floats(vec![0, 0, 0]), floats(vec![0, 0, 0])];
    let text = refused("message m { repeated float a; repeated float b; }", two());
    assert!(text.contains("several columns are lists of numbers"), "{text}");
    let (_folder, path) = written(&plain("message m { repeated float a; repeated float vector; }", two()));
    assert_eq!(read_matrix(&path).unwrap(), (3, 1, vec![1.0, 2.0, 3.0]));
    let text = refused(
        "message m { optional group q (LIST) { repeated group list { required float element; } } }",
        vec![Data::Float(vec![1.0], vec![2, 0], vec![0, 0])],
    );
    assert!(text.contains("row 1: column \"q\": it is null"), "{text}");
}

/// Whatever the bytes, reading ends in rows or in an error; what is cut short is always an error.
#[test]
fn damaged_files_never_panic() {
    let properties = || WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let good = file(RICH, properties(), &[rich([1, 2, 3])]);
    let (_folder, path) = written(&good);
    let count = || {
        let fields = Fields::new(&InputOptions::default());
        open(&path, fields, Arc::default())?.collect::<Result<Vec<_>>>().map(|found| found.len())
    };
    assert_eq!(count().unwrap(), 3);
    for at in 0..good.len() {
        fs::write(&path, &good[..at]).unwrap();
        assert_eq!(count().unwrap_err().exit_code(), 1, "cut at {at}");
        for damage in [0, 0x7f, 0xff, good[at] ^ 1] {
            let mut bytes = good.clone();
            bytes[at] = damage;
            fs::write(&path, &bytes).unwrap();
            if let Err(error) = count() {
                assert!([1, 5].contains(&error.exit_code()), "{damage} at {at}: {error}");
            }
        }
    }
}

/// The parquet crate would make room for as many values as the header of a dictionary claims.
#[test]
fn a_dictionary_that_claims_more_than_it_holds_is_refused() {
    let mut bytes = plain(
        "message m { required int64 id; required binary text (UTF8); }",
        vec![Data::Long(vec![1, 2], vec![], vec![]), Data::Bytes(vec![b"a", b"b"], vec![], vec![])],
    );
    assert_eq!(read(&bytes).unwrap().len(), 2);
    // The header of the first page: its kind (a dictionary), its size twice, and in a structure the number of values, as numbers
    // of Thrift's compact protocol.
    let header = [0x15, 0x04, 0x15, 0x20, 0x15, 0x20, 0x4c, 0x15, 0x04];
    assert!(bytes[4..].starts_with(&header));
    bytes[4 + header.len() - 1] = 0x7e;
    let (code, text) = read(&bytes).unwrap_err();
    let what = "row 0: column \"id\": Parquet error: a dictionary of 16 bytes cannot hold 63 values";
    assert!(code == 1 && text.contains(what), "{text}");
}
