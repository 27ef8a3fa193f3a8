//! Every reader on good files, and on each kind of bad one.

use std::fs;
use std::path::{Path, PathBuf};

use embdb::{Error, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A folder with files of the given names and contents.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn with_format(format: Format) -> InputOptions {
    InputOptions { format: Some(format), ..InputOptions::default() }
}

fn read(paths: &[PathBuf], options: &InputOptions) -> Result<Vec<Located>> {
    open(paths, options)?.collect()
}

/// The documents of one file called `name`, with the file's folder cut from places and errors.
fn read_as(
    name: &str,
    bytes: &[u8],
    options: &InputOptions,
) -> std::result::Result<Vec<Located>, (u8, String)> {
    let folder = folder(&[(name, bytes)]);
    let prefix = format!("{}/", folder.path().display());
    let short = |text: String| text.replace(&prefix, "");
    let found =
        read(&[folder.path().join(name)], options).map_err(|e| (e.exit_code(), short(e.to_string())))?;
    Ok(found.into_iter().map(|l| Located { place: short(l.place), ..l }).collect())
}

fn auto(name: &str, bytes: impl AsRef<[u8]>) -> std::result::Result<Vec<Located>, (u8, String)> {
    read_as(name, bytes.as_ref(), &InputOptions::default())
}

#[track_caller]
fn refused(name: &str, bytes: impl AsRef<[u8]>, code: u8, message: &str) {
    let (found, text) = auto(name, bytes).expect_err(message);
    assert!(text.contains(message), "{message:?} is not in {text:?}");
    assert_eq!(found, code, "{text}");
}

fn ids(found: &[Located]) -> Vec<&str> {
    found.iter().map(|located| located.document.id.as_str()).collect()
}

fn meta(located: &Located) -> Value {
    Value::Object(located.document.meta.clone())
}

#[test]
fn jsonl_fields_find_their_places() {
    let lines = concat!(
        "\u{feff}{\"id\": \"a\", \"text\": \"one\", \"title\": \"T\", \"z\": 1, \"lang\": \"en\", \"meta\": {\"lang\": \"de\", \"x\": [1]}}\r\n",
        "\n  \r\n",
        "{\"_id\": 7, \"text\": \"two\", \"title\": null, \"metadata\": {}, \"vector\": null}\n",
        "{\"id\": 18446744073709551615, \"vector\": [1, 0.5, -2e1], \"text\": \"\"}\n",
        "{\"_id\": \"n\", \"title\": \"only\", \"text\": \"\"}\n",
        "{\"_id\": \"e\", \"title\": \"\", \"text\": \"five\"}",
    );
    let found = auto("d.jsonl", lines).unwrap();
    assert_eq!(ids(&found), ["a", "7", "18446744073709551615", "n", "e"]);
    let places: Vec<&str> = found.iter().map(|located| located.place.as_str()).collect();
    assert_eq!(places, ["d.jsonl:1", "d.jsonl:4", "d.jsonl:5", "d.jsonl:6", "d.jsonl:7"]);
    assert_eq!(meta(&found[0]).to_string(), r#"{"lang":"de","x":[1],"z":1}"#);
    assert_eq!((found[0].document.title.as_deref(), found[0].document.text.as_str()), (Some("T"), "one"));
    assert_eq!((meta(&found[1]), &found[1].document.title), (json!({}), &None));
    assert_eq!(found[2].document.vector, Some(vec![1.0, 0.5, -20.0]));
    assert_eq!((found[3].document.title.as_deref(), &found[4].document.title), (Some("only"), &None));
}

#[test]
fn fields_can_be_named() {
    let options = InputOptions {
        id_field: Some("key".into()),
        text_field: Some("body".into()),
        vector_field: Some("emb".into()),
        ..InputOptions::default()
    };
    let line = br#"{"key": 5, "body": "b", "emb": [1], "id": "x", "text": "t"}"#;
    let found = read_as("d.jsonl", line, &options).unwrap();
    let document = &found[0].document;
    assert_eq!(
        (document.id.as_str(), document.text.as_str(), &document.vector),
        ("5", "b", &Some(vec![1.0]))
    );
    assert_eq!(meta(&found[0]), json!({"id": "x", "text": "t"}));
    let found = read_as("d.csv", b"key,body,emb,id\n5,b,[1],x\n", &options).unwrap();
    assert_eq!((found[0].document.id.as_str(), meta(&found[0])), ("5", json!({"id": "x"})));
    let (_, text) = read_as("d.jsonl", br#"{"id": "x", "body": "b"}"#, &options).unwrap_err();
    assert!(text.contains("d.jsonl:1: no id: no field \"key\""), "{text}");
}

#[test]
fn bad_json_lines_are_refused_with_their_place() {
    let good = "{\"id\": \"a\", \"text\": \"x\"}\n";
    let after_good = |line: &str| format!("{good}{line}");
    let cases = [
        ("{\"id\": \"b\", \"text\": }", "d.jsonl:2: invalid JSON at column 21: expected value"),
        ("{\"id\": \"b\"", "d.jsonl:2: invalid JSON at column 10: EOF"),
        ("[1]", "d.jsonl:2: a JSON object is expected"),
        ("\"x\"", "d.jsonl:2: a JSON object is expected"),
        ("{\"text\": \"x\"}", "d.jsonl:2: no id: no field \"id\" or \"_id\""),
        ("{\"id\": null, \"text\": \"x\"}", "d.jsonl:2: no id"),
        ("{\"id\": 1.5, \"text\": \"x\"}", "d.jsonl:2: \"id\" must be a string or a 64-bit integer"),
        ("{\"id\": 99999999999999999999, \"text\": \"x\"}", "must be a string or a 64-bit integer"),
        ("{\"id\": \"\", \"text\": \"x\"}", "d.jsonl:2: the id is empty"),
        ("{\"id\": \"b\"}", "d.jsonl:2: no text and no vector: no field \"text\" and no \"vector\""),
        ("{\"id\": \"b\", \"title\": \"t\"}", "d.jsonl:2: no text and no vector"),
        ("{\"id\": \"b\", \"text\": \"\"}", "d.jsonl:2: the text is empty"),
        ("{\"id\": \"b\", \"text\": 5}", "d.jsonl:2: \"text\" must be a string"),
        ("{\"id\": \"b\", \"text\": \"x\", \"title\": []}", "d.jsonl:2: \"title\" must be a string"),
        ("{\"id\": \"b\", \"text\": \"x\", \"meta\": 1}", "d.jsonl:2: \"meta\" must be an object"),
        ("{\"id\": \"b\", \"vector\": 1}", "d.jsonl:2: \"vector\" must be an array of numbers"),
        ("{\"id\": \"b\", \"vector\": []}", "d.jsonl:2: \"vector\" is empty"),
        ("{\"id\": \"b\", \"vector\": [1, \"2\"]}", "d.jsonl:2: value 1 of \"vector\" is not a number"),
        ("{\"id\": \"b\", \"vector\": [1e39]}", "d.jsonl:2: value 0 of \"vector\" is beyond 32-bit"),
    ];
    for (line, message) in cases {
        refused("d.jsonl", after_good(line), 1, message);
    }
    let mut bytes = good.as_bytes().to_vec();
    bytes.extend(b"{\"id\": \"\xff\"}");
    refused("d.jsonl", bytes, 1, "d.jsonl:2: invalid UTF-8 at byte 9 of the line");
    refused("d.jsonl", after_good(&"[".repeat(200_000)), 1, "d.jsonl:2: ");
    refused(
        "d.jsonl",
        format!("{{\"id\": \"b\", \"x\": {}", "[".repeat(200_000)),
        1,
        "recursion limit exceeded",
    );
}

#[test]
fn what_is_too_long_is_a_limit() {
    let id = |bytes: usize| format!("{{\"id\": \"{}\", \"text\": \"x\"}}", "i".repeat(bytes));
    assert_eq!(auto("d.jsonl", id(limits::ID_BYTES)).unwrap().len(), 1);
    refused(
        "d.jsonl",
        id(limits::ID_BYTES + 1),
        5,
        "d.jsonl:1: the id, in bytes, is 513, over the limit of 512",
    );
    let text = "x".repeat(limits::DOCUMENT_BYTES);
    refused(
        "d.jsonl",
        format!("{{\"id\": \"b\", \"text\": \"{text}\"}}"),
        5,
        "d.jsonl:1: the document, in bytes, is 16777217",
    );
    refused("d.csv", format!("id,text\nb,{text}\n"), 5, "d.csv:2: the document, in bytes, is 16777217");
    refused("d.txt", format!("{text}x"), 5, "d.txt: the document, in bytes, is 16777217");
    let escaped = "\\u0041".repeat(limits::DOCUMENT_BYTES / 3);
    assert_eq!(auto("d.jsonl", format!("{{\"id\": \"b\", \"text\": \"{escaped}\"}}")).unwrap().len(), 1);
    let vector = vec!["1"; limits::DIM + 1].join(",");
    refused(
        "d.jsonl",
        format!("{{\"id\": \"b\", \"vector\": [{vector}]}}"),
        5,
        "d.jsonl:1: the vector's dimension is 65537",
    );
}

/// The rest of a line that is too long is not read.
#[test]
fn an_endless_line_is_not_read_to_its_end() {
    for (name, head) in [("d.jsonl", "{\"id\": \"b\", \"text\": \"x\"}\n"), ("d.csv", "id,text\na,b\nb,\"")] {
        let folder = folder(&[(name, head.as_bytes())]);
        let path = folder.path().join(name);
        let length = 3 * LINE_BYTES;
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let mut input = open(&[path], &InputOptions::default()).unwrap();
        assert!(input.next().unwrap().is_ok());
        let error = input.next().unwrap().unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
        assert!(error.to_string().contains(if name == "d.csv" {
            "d.csv:3: the record"
        } else {
            "d.jsonl:2: the line"
        }));
        assert!(input.next().is_none());
        let progress = input.progress();
        assert_eq!(progress.total(), length);
        assert!(progress.read() < LINE_BYTES + (1 << 20), "{}", progress.read());
    }
}

#[test]
fn csv_columns_become_fields_and_typed_metadata() {
    let lines = "\u{feff}_id,title,text,year,price,flag,zip,note,\r\n\
        1,T,\"a \"\"b\"\",\nc\",2020,1.5,true,01234,,q\r\n\
        \r\n\
        x,,t,,,,,n,\r\n";
    let found = auto("d.csv", lines).unwrap();
    assert_eq!(ids(&found), ["1", "x"]);
    assert_eq!(found[0].document.text, "a \"b\",\nc");
    assert_eq!((found[0].document.title.as_deref(), &found[1].document.title), (Some("T"), &None));
    let expected = json!({"year": 2020, "price": 1.5, "flag": true, "zip": "01234", "column_9": "q"});
    assert_eq!((meta(&found[0]), meta(&found[1])), (expected, json!({"note": "n"})));
    assert_eq!((found[0].place.as_str(), found[1].place.as_str()), ("d.csv:2", "d.csv:5"));
    let found = auto("d.tsv", "id\ttext\tvector\na\t\t[1, 2]\nb\tx,y\t\n").unwrap();
    assert_eq!(found[0].document.vector, Some(vec![1.0, 2.0]));
    assert_eq!((found[1].document.text.as_str(), &found[1].document.vector), ("x,y", &None));
    let found = auto("d.csv", "id,text\na,\"b\n\"\n\nc,\"d\n\"").unwrap();
    let all: Vec<_> = found.iter().map(|l| (l.document.text.as_str(), l.place.as_str())).collect();
    assert_eq!(all, [("b\n", "d.csv:2"), ("d\n", "d.csv:5")]);
    let found = auto("d.csv", "_id,id,text\n1,2,x\n").unwrap();
    assert_eq!((ids(&found), meta(&found[0])), (vec!["2"], json!({"_id": 1})));
}

#[test]
fn bad_csv_is_refused_with_its_place() {
    let cases: [(&[u8], &str); 14] = [
        (b"", "d.csv: no header line"),
        (b"a,text\n", "d.csv:1: no column \"id\" or \"_id\" for the id; the columns are a, text"),
        (b"id,a\n", "d.csv:1: no column \"text\" and no \"vector\"; the columns are id, a"),
        (b"id,text,a,a\n", "d.csv:1: two columns are called \"a\""),
        (b"id,text\na,b\n1,2,3\n", "d.csv:3: 3 fields, the header has 2"),
        (b"id,text\na,b\n\n\n1\n", "d.csv:5: 1 fields, the header has 2"),
        (b"id,text\n,b\n", "d.csv:2: the id is empty"),
        (b"id,text\na,\n", "d.csv:2: the text is empty"),
        (b"id,text\na,\xff\n", "d.csv:2: invalid UTF-8 in column 2"),
        (b"id,vector\na,1;2\n", "d.csv:2: \"vector\" is no JSON array of numbers"),
        (b"id,text\na,b\nc,\"d\ne,f\n", "d.csv:3: a quote is not closed"),
        (b"id,text\na,\"b", "d.csv:2: a quote is not closed"),
        (b"\"id,text\na,b", "d.csv:1: a quote is not closed"),
        (b"id,vector\na,\n", "d.csv:2: no text and no vector"),
    ];
    for (bytes, message) in cases {
        refused("d.csv", bytes, 1, message);
    }
}

#[test]
fn a_beir_folder_is_its_corpus() {
    let line = b"{\"_id\": \"d1\", \"title\": \"T\", \"text\": \"x\", \"metadata\": {\"u\": 1}}\n";
    let beir = folder(&[("corpus.jsonl", line), ("queries.jsonl", b"junk"), ("notes.txt", b"n")]);
    for options in [InputOptions::default(), with_format(Format::Beir)] {
        let input = open(&[beir.path().into()], &options).unwrap();
        assert_eq!(input.progress().total(), line.len() as u64);
        let found = input.collect::<Result<Vec<_>>>().unwrap();
        assert_eq!((ids(&found), meta(&found[0])), (vec!["d1"], json!({"u": 1})));
    }
    let found = read(&[beir.path().into()], &with_format(Format::Text)).unwrap();
    assert_eq!(ids(&found), ["notes.txt"]);
    let found = read(&[beir.path().join("corpus.jsonl")], &with_format(Format::Beir)).unwrap();
    assert_eq!(ids(&found), ["d1"]);
    let holed = folder(&[(
        "corpus.jsonl",
        b"{\"_id\": \"0\", \"title\": \"\", \"text\": \"\"}\n{\"_id\": \"1\", \"text\": \"x\"}",
    )]);
    for path in [holed.path().to_path_buf(), holed.path().join("corpus.jsonl")] {
        let mut input = open(std::slice::from_ref(&path), &InputOptions::default()).unwrap();
        let found: Vec<Located> = input.by_ref().collect::<Result<_>>().unwrap();
        assert_eq!((ids(&found), input.progress().skipped()), (vec!["1"], 1));
    }
    let error = read(&[holed.path().join("corpus.jsonl")], &with_format(Format::Jsonl)).unwrap_err();
    assert!(error.to_string().contains("corpus.jsonl:1: the text is empty"), "{error}");
    let empty = folder(&[("a.txt", b"x")]);
    let error = read(&[empty.path().into()], &with_format(Format::Beir)).unwrap_err();
    assert!(error.to_string().ends_with("no corpus.jsonl in it"), "{error}");
}

#[test]
fn text_folders_are_read_in_the_order_of_their_paths() {
    let root = folder(&[
        ("b/z.MD", b"# z"),
        ("b/a/README", "über".as_bytes()),
        ("b.txt", b"\xEF\xBB\xBFbee\r\n"),
        ("a.rst", b"a"),
        ("picture.png", b"\x89PNG"),
        ("binary", b"\xff\xfe"),
        ("program", b"\x7fELF\0"),
        ("blank.txt", b" \n"),
        (".hidden.txt", b"h"),
        (".git/config", b"c"),
    ]);
    std::os::unix::fs::symlink(root.path(), root.path().join("b/loop")).unwrap();
    std::os::unix::fs::symlink(root.path().join("a.rst"), root.path().join("link.log")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.path().join("dangling.txt")).unwrap();
    let mut input = open(&[root.path().into()], &InputOptions::default()).unwrap();
    let found: Vec<Located> = input.by_ref().collect::<Result<_>>().unwrap();
    assert_eq!(ids(&found), ["a.rst", "b.txt", "b/a/README", "b/z.MD", "link.log"]);
    assert_eq!(found[1].document.text, "bee\r\n");
    assert_eq!(input.progress().skipped(), 6);
    assert_eq!(input.progress().read(), input.progress().total());
}

#[test]
fn bad_text_is_refused() {
    refused("t.txt", b"good\nb\xffd", 1, "t.txt:2: invalid UTF-8 (byte 7 of the file)");
    refused("t.txt", b" \n", 1, "t.txt: the text is empty");
    refused("LICENSE", b"\xff", 1, "LICENSE:1: invalid UTF-8");
    assert_eq!(ids(&auto("t.txt", "x").unwrap()), ["t.txt"]);
    assert_eq!(ids(&read_as("t.html", b"x", &with_format(Format::Text)).unwrap()), ["t.html"]);
    let root = folder(&[("a.txt", b"fine"), ("b.txt", b"\xff")]);
    let error = read(&[root.path().into()], &InputOptions::default()).unwrap_err();
    assert!(error.to_string().contains("b.txt:1: invalid UTF-8"), "{error}");
    let empty = folder(&[("x.png", b"p")]);
    let error = read(&[empty.path().into()], &InputOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no text files"), "{error}");
}

#[test]
fn paths_are_checked_before_anything_is_read() {
    let root = folder(&[("a.jsonl", b"junk"), ("x.zip", b"")]);
    let at = |name: &str| root.path().join(name);
    let message = |paths: &[PathBuf], options: &InputOptions| match open(paths, options).err() {
        Some(Error::Input(message)) => message,
        other => panic!("{other:?}"),
    };
    let default = InputOptions::default();
    assert!(
        message(&[at("a.jsonl"), at("missing.csv")], &default)
            .ends_with("missing.csv: no such file or folder")
    );
    assert!(message(&[at("x.zip")], &default).contains("the extension .zip tells no format; give --format"));
    assert!(message(&[root.path().into()], &with_format(Format::Csv)).contains("is a folder"));
    assert!(
        message(&["-".into()], &with_format(Format::Npy))
            .contains("standard input is read as jsonl or csv only")
    );
    assert_eq!(Format::from_name("auto").unwrap(), None);
    assert_eq!(Format::from_name("fvecs").unwrap(), Some(Format::Fvecs));
    assert_eq!(Format::from_name("parquet").unwrap(), Some(Format::Parquet));
    assert!(Format::from_name("xml").unwrap_err().to_string().contains("--format xml is unknown"));
}

#[test]
fn files_are_read_one_after_the_other_until_an_error() {
    let line = |id: &str| format!("{{\"id\": \"{id}\", \"text\": \"x\"}}\n");
    let (a, c) = (line("a"), line("c"));
    let root = folder(&[
        ("1.jsonl", a.as_bytes()),
        ("2.csv", b"id,text\nb,x\n"),
        ("3.jsonl", b"junk"),
        ("4.jsonl", c.as_bytes()),
    ]);
    let paths: Vec<PathBuf> =
        ["1.jsonl", "2.csv", "3.jsonl", "4.jsonl"].iter().map(|n| root.path().join(n)).collect();
    let mut input = open(&paths, &InputOptions::default()).unwrap();
    assert_eq!(input.next().unwrap().unwrap().document.id, "a");
    assert_eq!(input.next().unwrap().unwrap().document.id, "b");
    assert!(input.next().unwrap().unwrap_err().to_string().contains("3.jsonl:1: invalid JSON"));
    assert!(input.next().is_none());
    fs::remove_file(&paths[3]).unwrap();
    assert_eq!(open(&[], &InputOptions::default()).unwrap().count(), 0);
}

fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    match version {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn array(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    npy(1, &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), data)
}

#[test]
fn npy_rows_of_every_type_become_vectors() {
    let f32s: Vec<u8> = [1.5f32, -2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let f64s: Vec<u8> = [1.5f64, -2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let f16s: Vec<u8> = [0x3e00u16, 0xc000, 0x4200, 0x4400].iter().flat_map(|v| v.to_le_bytes()).collect();
    for (descr, data, first) in [
        ("<f4", f32s.as_slice(), 1.5),
        ("<f8", &f64s, 1.5),
        ("<f2", &f16s, 1.5),
        ("|i1", &[1, 0xfe, 3, 4], 1.0),
        ("|u1", &[1, 2, 3, 4], 1.0),
    ] {
        let found = auto("v.npy", array(descr, "(2, 2)", data)).unwrap();
        assert_eq!(ids(&found), ["0", "1"]);
        let second = if descr == "|u1" { 2.0 } else { -2.0 };
        assert_eq!(found[0].document.vector, Some(vec![first, second]), "{descr}");
        assert_eq!(found[1].document.vector, Some(vec![3.0, 4.0]), "{descr}");
        assert_eq!(found[1].place, "v.npy: row 1");
    }
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}";
    for version in [2, 3] {
        assert_eq!(auto("v.npy", npy(version, header, &f32s)).unwrap().len(), 2);
    }
    assert_eq!(auto("v.npy", array("<f4", "(0, 2)", b"")).unwrap(), []);
}

#[test]
fn npy_files_go_on_numbering() {
    let two = array("|i1", "(2, 1)", &[1, 2]);
    let fvecs = [1i32.to_le_bytes(), 5f32.to_le_bytes()].concat();
    let root = folder(&[("a.npy", &two), ("b.fvecs", &fvecs), ("c.npy", &two)]);
    let paths: Vec<PathBuf> = ["a.npy", "b.fvecs", "c.npy"].iter().map(|n| root.path().join(n)).collect();
    assert_eq!(ids(&read(&paths, &InputOptions::default()).unwrap()), ["0", "1", "2", "3", "4"]);
}

#[test]
fn bad_npy_is_refused() {
    let cases: [(Vec<u8>, u8, &str); 15] = [
        (b"".into(), 1, "v.npy: no npy file, or one that is cut short"),
        (b"PK\x03\x04 a zip file".into(), 1, "no npy file"),
        (npy(1, "{", b"")[..10].into(), 1, "cut short"),
        (npy(9, "{}", b""), 1, "npy format version 9 is not known"),
        (npy(1, "{'descr': 1}", b""), 1, "the npy header cannot be read"),
        (npy(2, &" ".repeat(70_000), b""), 5, "the npy header, in bytes, is 70000"),
        (array(">f4", "(1, 1)", &[0; 4]), 1, "elements of type >f4; f2, f4, f8, i1 and u1"),
        (array("<i8", "(1, 1)", &[0; 8]), 1, "elements of type <i8"),
        (array("<f4", "(2,)", &[0; 8]), 1, "1 dimensions; an array of vectors has 2"),
        (array("<f4", "(2, 0)", b""), 1, "its vectors have dimension 0"),
        (array("<f4", "(1, 65537)", &[0; 4]), 5, "the vectors' dimension is 65537"),
        (array("<f4", "(4294967296, 1)", &[0; 4]), 5, "the number of rows is 4294967296"),
        (array("<f4", "(4000000000, 60000)", &[0; 4]), 1, "shape (4000000000, 60000) makes"),
        (array("<f4", "(2, 2)", &[0; 12]), 1, "bytes, the file has"),
        (array("<f4", "(1, 2)", &[0; 12]), 1, "bytes, the file has"),
    ];
    for (bytes, code, message) in cases {
        refused("v.npy", &bytes, code, message);
        let folder = folder(&[("v.npy", &bytes)]);
        let error = npy::read_matrix(&folder.path().join("v.npy")).unwrap_err();
        assert!(error.exit_code() == code && error.to_string().contains(message), "{error}");
    }
    let fortran = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }";
    refused("v.npy", npy(1, fortran, &[0; 16]), 1, "in Fortran order");
    assert!(npy::read_matrix(Path::new("missing.npy")).unwrap_err().to_string().contains("no such file"));
}

/// Whatever the bytes, reading ends in rows or in an error.
#[test]
fn damaged_vector_files_never_panic() {
    let fvecs: Vec<u8> = (0..3).flat_map(|i| [2i32.to_le_bytes(), [0, 0, i, 64], [0; 4]].concat()).collect();
    for (name, good) in [("v.npy", array("<f4", "(3, 2)", &[7; 24])), ("v.fvecs", fvecs)] {
        let root = folder(&[(name, &good)]);
        let path = root.path().join(name);
        let count = || read(std::slice::from_ref(&path), &InputOptions::default()).map(|found| found.len());
        assert_eq!(count().unwrap(), 3);
        for at in 0..good.len() {
            for damage in [0, 1, 0x7f, 0xff, good[at] ^ 1] {
                let mut bytes = good.clone();
                bytes[at] = damage;
                fs::write(&path, &bytes).unwrap();
                assert!(count().map_or(true, |rows| rows <= 24));
            }
            fs::write(&path, &good[..at]).unwrap();
            assert!(count().map_or(true, |rows| rows < 3));
        }
    }
}

#[test]
fn arrays_come_back_as_they_were_written() {
    let root = folder(&[]);
    let path = root.path().join("v.npy");
    let values = [1.0, -0.0, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, 0.1];
    npy::write_f32(&path, 3, 2, &values).unwrap();
    assert_eq!(npy::read_matrix(&path).unwrap(), (3, 2, values.to_vec()));
    npy::write_f32(&path, 0, 2, &[]).unwrap();
    assert_eq!(npy::read_matrix(&path).unwrap(), (0, 2, vec![]));
    npy::write_i64(&path, 1, 2, &[-1, i64::MAX]).unwrap();
    let bytes = fs::read(&path).unwrap();
    let (header, data) = bytes.split_at(bytes.len() - 16);
    assert_eq!(header.len() % 64, 0);
    assert!(header.ends_with(b" \n") && String::from_utf8_lossy(header).contains("'<i8'"));
    assert_eq!(data, [(-1i64).to_le_bytes(), i64::MAX.to_le_bytes()].concat());
    assert_eq!(npy::write_f32(&path, 2, 2, &[1.0]).unwrap_err().exit_code(), 1);
    let occupied = root.path().join("folder");
    fs::create_dir(&occupied).unwrap();
    assert_eq!(npy::write_f32(&occupied, 1, 1, &[1.0]).unwrap_err().exit_code(), 1);
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[cfg(feature = "encoder")]
#[test]
fn an_array_has_its_name_when_it_is_whole() {
    let root = folder(&[]);
    let path = root.path().join("v.npy");
    let names = || fs::read_dir(root.path()).unwrap().count();
    let mut half = npy::F32Writer::create(&path, 2).unwrap();
    half.write(&[1.0; 4]).unwrap();
    assert_eq!((names(), path.exists()), (1, false));
    drop(half);
    assert_eq!(names(), 0);
    let mut whole = npy::F32Writer::create(&path, 2).unwrap();
    (0..300).for_each(|row| whole.write(&[row as f32, 0.5]).unwrap());
    whole.finish().unwrap();
    let (rows, cols, values) = npy::read_matrix(&path).unwrap();
    assert_eq!((rows, cols, values[598], names()), (300, 2, 299.0, 1));
}

#[test]
fn fvecs_rows_become_vectors() {
    let row = |dim: i32, values: &[f32]| {
        let mut bytes = dim.to_le_bytes().to_vec();
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        bytes
    };
    let two = [row(2, &[1.0, 2.0]), row(2, &[-3.0, 0.5])].concat();
    let found = auto("v.fvecs", &two).unwrap();
    assert_eq!(ids(&found), ["0", "1"]);
    assert_eq!(found[1].document.vector, Some(vec![-3.0, 0.5]));
    assert_eq!(auto("v.fvecs", "").unwrap(), []);
    refused(
        "v.fvecs",
        &two[..20],
        1,
        "20 bytes are no whole number of vectors of dimension 2 (12 bytes each)",
    );
    refused(
        "v.fvecs",
        [row(2, &[1.0, 2.0]), row(3, &[0.0, 0.0])].concat(),
        1,
        "v.fvecs: row 1: dimension 3, the rows before have 2",
    );
    refused("v.fvecs", row(0, &[]), 1, "does not begin with a dimension");
    refused("v.fvecs", row(-1, &[1.0]), 1, "does not begin with a dimension");
    refused("v.fvecs", "abc", 1, "does not begin with a dimension");
    refused("v.fvecs", row(65_537, &vec![0.0; 65_537]), 5, "the vectors' dimension is 65537");
}
