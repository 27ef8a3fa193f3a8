//! `storage-format.md` is the law for bytes: its tables, the constants in `src/format` and the bytes that are written
//! must say the same.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::path::Path;

use embdb::format::{MAJOR, MINOR, u16_at, u32_at, u64_at};
use embdb::format::{attrs, file, frame, graph, manifest, segment};
use embdb::options::{CreateOptions, OpenOptions, Task, limits};
use embdb::storage::{DIRS, checkpoint, feedback, lock};
use embdb::types::{Event, LoggedSearch};
use embdb::{Db, Document};

fn source(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rows of the first table under a heading, cell by cell.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = source("storage-format.md");
    let is_heading = |line: &&str| line.starts_with('#') && line.trim_start_matches('#').trim() == heading;
    let lines = text.lines().skip_while(|line| !is_heading(line)).skip(1);
    let section = lines.take_while(|line| !line.starts_with('#'));
    let rows = section.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| -> Vec<String> {
        let inner = row.trim_start_matches('|').trim_end().trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows: Vec<_> = rows.skip(2).map(cells).collect();
    assert!(!rows.is_empty(), "no table under {heading:?}");
    rows
}

/// A field with a fixed offset.
#[derive(Debug, PartialEq)]
struct Field {
    offset: usize,
    size: usize,
    name: String,
}

/// The fixed fields of a table, gaps left out; they follow one another without holes.
fn fields(heading: &str) -> (Vec<Field>, usize) {
    let mut found = Vec::new();
    let mut end = 0;
    let mut variable = false;
    for row in table(heading) {
        let Ok(offset) = row[0].parse::<usize>() else {
            assert_eq!(row[0], "then", "{heading}: {row:?}");
            variable = true;
            continue;
        };
        assert!(!variable, "{heading}: a fixed field after a variable one");
        assert_eq!(offset, end, "{heading}: {row:?} leaves a hole or overlaps");
        let size: usize = row[1].parse().unwrap();
        end += size;
        if row[2] != "zero" && row[2] != "padding" {
            found.push(Field { offset, size, name: row[2].clone() });
        }
    }
    (found, end)
}

#[track_caller]
fn agree(heading: &str, length: usize, expected: &[(&str, usize, usize)]) {
    let (found, end) = fields(heading);
    let expected: Vec<_> =
        expected.iter().map(|&(name, offset, size)| Field { offset, size, name: name.into() }).collect();
    assert_eq!(found, expected, "{heading}");
    assert_eq!(end, length, "{heading}: the sizes do not add up");
}

/// Where a field lies by the table.
fn place(heading: &str, name: &str, base: usize) -> Range<usize> {
    let (found, _) = fields(heading);
    let field = found.iter().find(|f| f.name == name).unwrap_or_else(|| panic!("{heading}: no {name}"));
    base + field.offset..base + field.offset + field.size
}

/// The number at a field.
fn number(bytes: &[u8], heading: &str, name: &str, base: usize) -> u64 {
    let range = place(heading, name, base);
    match range.len() {
        1 => u64::from(bytes[range.start]),
        2 => u64::from(u16_at(bytes, range.start).unwrap()),
        4 => u64::from(u32_at(bytes, range.start).unwrap()),
        8 => u64_at(bytes, range.start).unwrap(),
        size => panic!("{heading}: {name} of {size} bytes is no number"),
    }
}

#[test]
fn containers_lie_as_the_tables_say() {
    agree(
        "Container header",
        file::HEADER_LEN,
        &[
            ("magic", 0, file::MAGIC.len()),
            ("kind", file::KIND_OFFSET, 2),
            ("major", file::MAJOR_OFFSET, 2),
            ("minor", file::MINOR_OFFSET, 2),
            ("flags", file::FLAGS_OFFSET, 2),
            ("incompat", file::INCOMPAT_OFFSET, 8),
            ("rocompat", file::ROCOMPAT_OFFSET, 8),
            ("database", file::DATABASE_OFFSET, size_of::<file::DatabaseId>()),
            ("count", file::COUNT_OFFSET, 4),
            ("checksum", file::CHECKSUM_OFFSET, 8),
        ],
    );
    agree(
        "Section table entry",
        file::SECTION_LEN,
        &[
            ("id", file::SECTION_ID_OFFSET, 4),
            ("start", file::SECTION_START_OFFSET, 8),
            ("length", file::SECTION_LENGTH_OFFSET, 8),
        ],
    );
    agree(
        "Container trailer",
        file::TRAILER_LEN,
        &[
            ("body", file::TRAILER_BODY_OFFSET, 8),
            ("length", file::TRAILER_LENGTH_OFFSET, 8),
            ("checksum", file::TRAILER_CHECKSUM_OFFSET, 8),
            ("magic", file::TRAILER_MAGIC_OFFSET, file::END_MAGIC.len()),
        ],
    );
    let constants = [
        file::HEADER_LEN,
        file::SECTION_LEN,
        file::TRAILER_LEN,
        file::BLOCK_LEN,
        file::PAGE_LEN,
        file::ALIGN,
        file::SECTIONS_MAX,
    ];
    let written: Vec<usize> = table("Container constants").iter().map(|r| r[1].parse().unwrap()).collect();
    assert_eq!(written, constants);
}

#[test]
fn a_written_container_has_its_fields_there() {
    let database = *b"0123456789abcdef";
    let bytes = file::FileBuilder::new(file::Kind::Docs, database)
        .section(7, vec![1; 100])
        .section(9, vec![2; file::BLOCK_LEN])
        .finish();
    let header = "Container header";
    assert_eq!(&bytes[place(header, "magic", 0)], b"EMBDB\0\0\0");
    assert_eq!(number(&bytes, header, "kind", 0), file::Kind::Docs as u64);
    assert_eq!(number(&bytes, header, "major", 0), u64::from(MAJOR));
    assert_eq!(number(&bytes, header, "minor", 0), u64::from(MINOR));
    assert_eq!(number(&bytes, header, "count", 0), 2);
    assert_eq!(bytes[place(header, "database", 0)], database);
    let checksum = place(header, "checksum", 0);
    assert_eq!(number(&bytes, header, "checksum", 0), xxhash(&bytes[..checksum.start]));

    let entry = "Section table entry";
    let second = file::HEADER_LEN + file::SECTION_LEN;
    assert_eq!(number(&bytes, entry, "id", second), 9);
    assert_eq!(number(&bytes, entry, "length", second), file::BLOCK_LEN as u64);
    let start = number(&bytes, entry, "start", second) as usize;
    assert!(
        start.is_multiple_of(file::ALIGN) && bytes[start..start + file::BLOCK_LEN].iter().all(|&b| b == 2)
    );

    let (trailer, at) = ("Container trailer", bytes.len() - file::TRAILER_LEN);
    assert_eq!(&bytes[place(trailer, "magic", at)], b"EMBDBEND");
    assert_eq!(number(&bytes, trailer, "length", at), bytes.len() as u64);
    let body = number(&bytes, trailer, "body", at) as usize;
    let sums = |bytes: &[u8], len| -> Vec<u8> {
        bytes.chunks(len).flat_map(|part| xxhash(part).to_le_bytes()).collect()
    };
    let pages = sums(&bytes[..body], file::PAGE_LEN);
    let blocks = sums(&pages, 8 * file::BLOCK_LEN / file::PAGE_LEN);
    assert_eq!(bytes[body..at], [&pages[..], &blocks].concat());
    let checksum = place(trailer, "checksum", at).start;
    assert_eq!(number(&bytes, trailer, "checksum", at), xxhash(&bytes[body + pages.len()..checksum]));
    assert_eq!(number(&bytes, header, "incompat", 0), file::PAGE_SUMS);
}

fn xxhash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

#[test]
fn kinds_and_frame_types_are_numbered_as_the_tables_say() {
    for (heading, path, name) in
        [("Kinds", "src/format/file.rs", "Kind"), ("Frame types", "src/format/frame.rs", "FrameType")]
    {
        let written: Vec<String> =
            table(heading).iter().map(|row| format!("{} = {},", row[1], row[0])).collect();
        let text = source(path);
        let body = text.lines().skip_while(|line| !line.starts_with(&format!("pub enum {name} {{"))).skip(1);
        let variants =
            body.take_while(|line| *line != "}").map(str::trim).filter(|line| !line.starts_with("//"));
        assert_eq!(written, variants.collect::<Vec<_>>(), "{heading}");
    }
}

#[test]
fn sections_are_numbered_as_the_table_says() {
    use segment::{attrs, docs, ids, rows, tombstones, vectors};
    let expected = [
        ("Manifest", "BODY", manifest::BODY),
        ("Ids", "OFFSETS", ids::OFFSETS),
        ("Ids", "BYTES", ids::BYTES),
        ("Ids", "HASHES", ids::HASHES),
        ("Ids", "ORDER", ids::ORDER),
        ("Ids", "SEQUENCES", ids::SEQUENCES),
        ("Docs", "DICTIONARY", docs::DICTIONARY),
        ("Docs", "BLOCK_OFFSETS", docs::BLOCK_OFFSETS),
        ("Docs", "BLOCK_LENGTHS", docs::BLOCK_LENGTHS),
        ("Docs", "PLACES", docs::PLACES),
        ("Docs", "BLOCKS", docs::BLOCKS),
        ("Attrs", "COLUMNS", attrs::COLUMNS),
        ("Attrs", "KEYS", attrs::KEYS),
        ("Attrs", "VALUES", attrs::VALUES),
        ("Attrs", "STARTS", attrs::STARTS),
        ("Attrs", "DOCS", attrs::DOCS),
        ("Attrs", "TEXT_OFFSETS", attrs::TEXT_OFFSETS),
        ("Attrs", "TEXTS", attrs::TEXTS),
        ("Tombstones", "BITMAP", tombstones::BITMAP),
        ("Rows", "FIRST", rows::FIRST),
        ("Rows", "SPANS", rows::SPANS),
        ("Codes", "HIGH", vectors::HIGH),
        ("Codes", "LOW", vectors::LOW),
        ("Codes", "SCALES", vectors::SCALES),
        ("Codes", "NORMS", vectors::NORMS),
        ("Full", "FULL", vectors::FULL),
        ("Graph", "GRAPH", vectors::GRAPH),
        ("Graph", "HEAD_HIGH", vectors::HEAD_HIGH),
        ("Graph", "HEAD_LOW", vectors::HEAD_LOW),
        ("Feedback", "EVENTS", feedback::EVENTS),
        ("Checkpoint", "RUN", checkpoint::RUN),
        ("Checkpoint", "DATA", checkpoint::DATA),
        ("Checkpoint", "STATE", checkpoint::STATE),
    ];
    let written: Vec<_> = table("Section ids");
    let expected: Vec<_> =
        expected.map(|(kind, name, id)| [kind.to_owned(), id.to_string(), name.to_owned()]).to_vec();
    assert_eq!(written.iter().map(|row| &row[..3]).collect::<Vec<_>>(), expected);
    // One that is added to the code has to be added here and there.
    let in_code = source("src/format/segment.rs").matches("    pub const ").count();
    assert_eq!(in_code + 5, expected.len());
}

macro_rules! archived {
    ($heading:literal, $archived:ty, $($field:ident: $size:literal),+) => {
        agree($heading, size_of::<$archived>(), &[$((stringify!($field), offset_of!($archived, $field), $size)),+])
    };
}

#[test]
fn the_manifest_is_archived_as_the_tables_say() {
    use manifest::*;
    archived!("Archived Manifest", ArchivedManifest,
        number: 8, database: 16, metric: 1, codec: 1, precision: 1, index: 1, asked_ladder: 8, active_generation: 4,
        next_generation: 4, next_segment: 8, first_log: 8, sequence: 8, generations: 8, segments: 8, models: 8,
        feedback: 8);
    archived!("Archived Generation", ArchivedGeneration,
        id: 4, model_id: 8, parent: 4, dim: 4, ladder: 8, created_ms: 8, metrics: 8);
    archived!("Archived SegmentEntry", ArchivedSegmentEntry,
        id: 8, documents: 4, deleted: 4, tombstones: 4, vectors: 8, files: 8);
    archived!("Archived VectorSet", ArchivedVectorSet, generation: 4, version: 4);
    archived!("Archived FileEntry", ArchivedFileEntry, path: 8, length: 8, checksum: 8);
    archived!("Archived NamedModel", ArchivedNamedModel, name: 8, model_id: 8);
    for name in ["Manifest", "Generation", "SegmentEntry", "VectorSet", "FileEntry", "NamedModel"] {
        let rows = table(&format!("Archived {name}"));
        let fields = rows.iter().filter(|row| row[2] != "padding");
        let written: Vec<String> = fields.map(|row| format!("{}: {}", row[2], row[3])).collect();
        assert_eq!(written, struct_fields("src/format/manifest.rs", name));
    }
}

#[test]
fn metadata_columns_have_the_fields_of_the_table() {
    macro_rules! column {
        ($($field:ident),+) => {
            agree("Column record", size_of::<attrs::Column>(), &[$((stringify!($field), offset_of!(attrs::Column, $field), 4)),+])
        };
    }
    column!(key_end, nulls, bools, ints, floats, texts, end);
}

/// The fields of a struct in a source file, `name: type`, with the types in the words of the tables.
fn struct_fields(path: &str, name: &str) -> Vec<String> {
    let text = source(path);
    let opens = |line: &&str| line.trim_start_matches("pub ") == format!("struct {name} {{");
    let body = text.lines().skip_while(|line| !opens(line)).skip(1).take_while(|line| *line != "}");
    let fields = body.map(str::trim).filter(|line| !line.starts_with("//"));
    let word = |kind: &str| kind.replace("String", "string").replace("DatabaseId", "bytes");
    let fields = fields.map(|line| {
        let (name, kind) = line.trim_start_matches("pub ").trim_end_matches(',').split_once(": ").unwrap();
        let list = kind.strip_prefix("Vec<").and_then(|inner| inner.strip_suffix('>'));
        format!("{name}: {}", list.map_or_else(|| word(kind), |inner| format!("list of {}", word(inner))))
    });
    fields.collect()
}

#[test]
fn the_graph_header_lies_as_the_table_says() {
    macro_rules! header {
        ($($field:ident: $size:expr),+) => {
            agree("Graph", graph::HEADER_LEN, &[$((stringify!($field), offset_of!(graph::Header, $field), $size)),+])
        };
    }
    let (curve, upper) = (size_of::<graph::RecallPoint>(), size_of::<graph::UpperSize>());
    header!(magic: 4, version: 4, nodes: 4, stride: 4, layers: 4, entry: 4, m: 4, ef_construction: 4, seed: 8,
        repaired: 4, curve_len: 4, curve: graph::MAX_CURVE * curve, upper: graph::MAX_LAYERS * upper, length: 8, folds: 4,
        rough: 4, rung: 4, longest: 4);
}

#[test]
fn logs_lie_as_the_tables_say() {
    agree(
        "Log header",
        frame::LOG_HEADER_LEN,
        &[
            ("magic", 0, frame::LOG_MAGIC.len()),
            ("major", frame::LOG_MAJOR_OFFSET, 2),
            ("minor", frame::LOG_MINOR_OFFSET, 2),
            ("number", frame::NUMBER_OFFSET, 8),
            ("salt", frame::SALT_OFFSET, 8),
            ("previous_end", frame::PREVIOUS_END_OFFSET, 8),
            ("database", frame::LOG_DATABASE_OFFSET, size_of::<file::DatabaseId>()),
            ("checksum", frame::LOG_CHECKSUM_OFFSET, 4),
        ],
    );
    agree(
        "Frame header",
        frame::FRAME_HEADER_LEN,
        &[
            ("magic", 0, 4),
            ("checksum", frame::FRAME_CHECKSUM_OFFSET, 4),
            ("length", frame::FRAME_LENGTH_OFFSET, 4),
            ("type", frame::FRAME_TYPE_OFFSET, 1),
            ("sequence", frame::FRAME_SEQUENCE_OFFSET, 8),
            ("salt", frame::FRAME_SALT_OFFSET, 4),
        ],
    );
    agree(
        "COMMIT payload",
        frame::COMMIT_LEN,
        &[
            ("start", frame::COMMIT_START_OFFSET, 8),
            ("synced", frame::COMMIT_SYNCED_OFFSET, 8),
            ("frames", frame::COMMIT_FRAMES_OFFSET, 4),
            ("digest", frame::COMMIT_DIGEST_OFFSET, 4),
        ],
    );
    agree("SYNCED payload", frame::SYNCED_LEN, &[("synced", 0, 8)]);
}

#[test]
fn a_written_log_has_its_fields_there() {
    let (salt, database) = (0x1122_3344_5566_7788, [9; 16]);
    let header = frame::LogHeader { number: 5, salt, previous_end: 77, database }.encode();
    assert_eq!(header.len(), frame::LOG_HEADER_LEN);
    assert_eq!(&header[place("Log header", "magic", 0)], b"EMBDBLOG");
    assert_eq!(number(&header, "Log header", "major", 0), u64::from(MAJOR));
    assert_eq!(number(&header, "Log header", "minor", 0), u64::from(MINOR));
    assert_eq!(number(&header, "Log header", "number", 0), 5);
    assert_eq!(number(&header, "Log header", "salt", 0), salt);
    assert_eq!(number(&header, "Log header", "previous_end", 0), 77);
    assert_eq!(header[place("Log header", "database", 0)], database);
    let checksum = place("Log header", "checksum", 0).start;
    assert_eq!(number(&header, "Log header", "checksum", 0), u64::from(crc32c::crc32c(&header[..checksum])));

    let start = frame::LOG_HEADER_LEN as u64;
    let mut batch = frame::BatchBuilder::new(start, salt);
    batch.push(frame::FrameType::Delete, 41, b"an id").unwrap();
    let bytes = batch.commit(41, 13).unwrap();
    assert_eq!(&bytes[place("Frame header", "magic", 0)], b"EFRM");
    assert_eq!(number(&bytes, "Frame header", "length", 0), 5);
    assert_eq!(number(&bytes, "Frame header", "type", 0), frame::FrameType::Delete as u64);
    assert_eq!(number(&bytes, "Frame header", "sequence", 0), 41);
    assert_eq!(number(&bytes, "Frame header", "salt", 0), salt & 0xffff_ffff);
    let sum = place("Frame header", "checksum", 0);
    let payload = frame::FRAME_HEADER_LEN;
    let covered = [
        &bytes[..sum.start],
        &bytes[sum.end..payload],
        &salt.to_le_bytes(),
        &start.to_le_bytes(),
        &bytes[payload..payload + 5],
    ];
    let crc = crc32c::crc32c(&covered.concat());
    assert_eq!(number(&bytes, "Frame header", "checksum", 0), u64::from(crc));

    let commit = payload + 8; // the id and its padding
    assert_eq!(number(&bytes, "Frame header", "type", commit), frame::FrameType::Commit as u64);
    let payload = commit + frame::FRAME_HEADER_LEN;
    assert_eq!(number(&bytes, "COMMIT payload", "start", payload), start);
    assert_eq!(number(&bytes, "COMMIT payload", "synced", payload), 13);
    assert_eq!(number(&bytes, "COMMIT payload", "frames", payload), 1);
    assert_eq!(
        number(&bytes, "COMMIT payload", "digest", payload),
        u64::from(crc32c::crc32c(&crc.to_le_bytes()))
    );
}

#[test]
fn records_lie_as_the_tables_say() {
    agree(
        "Document record",
        segment::RECORD_HEADER_LEN,
        &[
            ("title_length", segment::RECORD_TITLE_OFFSET, 4),
            ("text_length", segment::RECORD_TEXT_OFFSET, 4),
            ("meta_length", segment::RECORD_META_OFFSET, 4),
        ],
    );
    agree(
        "Rows record",
        segment::ROWS_HEADER_LEN,
        &[
            ("generation", segment::ROWS_GENERATION_OFFSET, 4),
            ("dim", segment::ROWS_DIM_OFFSET, 4),
            ("rows", segment::ROWS_COUNT_OFFSET, 4),
        ],
    );
    agree("UPSERT payload", segment::UPSERT_HEADER_LEN, &[("id_length", 0, 4)]);
    agree(
        "ROWS payload",
        segment::JOB_HEADER_LEN,
        &[("sequence", segment::JOB_SEQUENCE_OFFSET, 8), ("hash", segment::JOB_HASH_OFFSET, 8)],
    );

    let rows =
        segment::DocumentRows { generation: 3, dim: 2, spans: vec![[1, 2], [3, 4]], vectors: vec![0.5; 4] };
    let record = segment::DocumentRecord { title: Some("T"), text: "text", meta: "{}" };
    let payload = segment::encode_upsert("id7", &rows, &record);
    assert_eq!(number(&payload, "UPSERT payload", "id_length", 0), 3);
    let at = segment::UPSERT_HEADER_LEN;
    assert_eq!(number(&payload, "Rows record", "generation", at), 3);
    assert_eq!(number(&payload, "Rows record", "dim", at), 2);
    assert_eq!(number(&payload, "Rows record", "rows", at), 2);
    let spans = at + segment::ROWS_HEADER_LEN;
    let id = spans + 2 * 8 + 4 * 4;
    assert_eq!(u32_at(&payload, spans + 4), Some(2));
    assert_eq!(&payload[id..id + 3], b"id7");
    let at = id + 3;
    assert_eq!(number(&payload, "Document record", "title_length", at), 1);
    assert_eq!(number(&payload, "Document record", "text_length", at), 4);
    assert_eq!(number(&payload, "Document record", "meta_length", at), 2);
    assert_eq!(&payload[at + segment::RECORD_HEADER_LEN..], b"Ttext{}");
    let hash = segment::encoded_hash(Some("T"), "text");
    let mut bare = Vec::new();
    segment::DocumentRecord { meta: "", ..record }.encode(&mut bare);
    assert_eq!(hash, xxhash_rust::xxh3::xxh3_64(&bare));
    let payload = segment::encode_job_rows(&segment::JobRows { sequence: 8, hash, rows });
    assert_eq!(number(&payload, "ROWS payload", "sequence", 0), 8);
    assert_eq!(number(&payload, "ROWS payload", "hash", 0), hash);
    assert!(source("storage-format.md").contains(&segment::NO_TITLE.to_string()));
}

#[test]
fn limits_are_those_of_the_table() {
    let expected = [
        limits::ID_BYTES as u64,
        limits::DOCUMENT_BYTES as u64,
        limits::DIM as u64,
        limits::TOKENS as u64,
        limits::FRAME_BYTES as u64,
        manifest::MANIFEST_BYTES,
        attrs::SECTION_BYTES as u64,
        attrs::KEY_BYTES as u64,
        attrs::META_DEPTH as u64,
        limits::MODEL_BYTES,
    ];
    let written: Vec<u64> = table("16. Limits").iter().map(|row| row[1].parse().unwrap()).collect();
    assert_eq!(written, expected);
}

#[test]
fn version_is_the_one_described() {
    let title = format!("# Storage format of embdb, version {MAJOR}.{MINOR}\n");
    assert!(source("storage-format.md").starts_with(&title));
}

#[test]
fn every_file_of_a_database_is_in_the_table() {
    let patterns: Vec<String> =
        table("2. Files and directories").into_iter().map(|row| row[0].clone()).collect();
    for name in DIRS {
        assert!(patterns.iter().any(|p| p.starts_with(&format!("{name}/"))), "{name}");
    }
    assert!(patterns.iter().any(|p| p == lock::LOCK_FILE) && patterns.iter().any(|p| p == lock::WAIT_FILE));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.embdb");
    let create = CreateOptions { vectors: Some(4), ..CreateOptions::default() };
    let options = || OpenOptions { create: create.clone(), background: false, ..OpenOptions::default() };
    let mut met = BTreeSet::new();
    let mut look = || {
        for name in files_under(&path, "") {
            let fit: Vec<&String> = patterns.iter().filter(|pattern| fits(pattern, &name)).collect();
            // A literal name may also fit a pattern with a variable part, as `new-…` does.
            assert!(!fit.is_empty(), "{name} is not in the table");
            met.extend(fit.into_iter().cloned());
        }
    };
    let vector = |n: usize| (0..4).map(|i| ((n * 7 + i * 13) % 101) as f32 - 50.5).collect();
    let search = LoggedSearch {
        query_id: "q".into(),
        text: "what".into(),
        time_ms: 1,
        generation: 1,
        shown: vec!["1".into()],
        ..LoggedSearch::default()
    };
    let db = Db::open_with(&path, options()).unwrap();
    db.add((0..4200).map(|n| Document::from_vector(n.to_string(), vector(n)))).unwrap();
    db.seal(&Task::default()).unwrap();
    db.delete(&["1".into()]).unwrap();
    db.add([Document::from_vector("x", vector(5))]).unwrap();
    db.seal(&Task::default()).unwrap();
    db.log_import(vec![Event::Search(search)]).unwrap();
    look();
    db.close().unwrap();
    let db = Db::open_with(&path, options()).unwrap();
    db.compact(&Task::default()).unwrap();
    look();

    let transient = |p: &&String| {
        p.contains("new-")
            || p.starts_with("models/")
            || p.starts_with("jobs/")
            || p.as_str() == lock::WAIT_FILE
    };
    let unmet: Vec<_> = patterns.iter().filter(|p| !transient(p) && !met.contains(*p)).collect();
    assert!(unmet.is_empty(), "never written: {unmet:?}");
}

fn files_under(root: &Path, below: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files_under(root, &path)),
            false => found.push(path),
        }
    }
    found
}

/// Whether a path fits a pattern, in which `<…>` stands for one or more characters but `/`, `.` and `-`.
fn fits(pattern: &str, path: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('<') else { return pattern == path };
    let Some(path) = path.strip_prefix(before) else { return false };
    let (_, after) = rest.split_once('>').unwrap();
    let run = path.find(['/', '.', '-']).unwrap_or(path.len());
    run > 0 && fits(after, &path[run..])
}

/// Section 7: keys that a search does not need are missing, so that old logs read as new ones and the other way round.
#[test]
fn searches_logged_before_propensities_clients_and_teams_are_read() {
    let old = r#"{"query_id":"q","text":"what","time_ms":7,"generation":1,"shown":["a","b"]}"#;
    let search: LoggedSearch = serde_json::from_str(old).unwrap();
    assert!(search.propensities.is_empty() && search.client.is_none() && search.teams.is_none());
    assert_eq!(serde_json::to_string(&search).unwrap(), old);
    let newer =
        r#"{"query_id":"q","text":"what","time_ms":7,"generation":1,"shown":["a","b"],"yet":{"to":"come"}}"#;
    assert_eq!(serde_json::from_str::<LoggedSearch>(newer).unwrap(), search);
    let teams = Some(embdb::types::Teams { generations: [1, 2], of: vec![0, 1] });
    let all = LoggedSearch { propensities: vec![1.0, 0.5], client: Some("c".into()), teams, ..search };
    let json = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<LoggedSearch>(&json).unwrap(), all);
    let section = std::fs::read_to_string("storage-format.md").unwrap();
    for key in serde_json::to_value(&all).unwrap().as_object().unwrap().keys() {
        assert!(section.contains(&format!("`{key}`")), "{key} is not in the document");
    }
}

/// Numbers in a row of the tiny encoder's tables.
#[cfg(feature = "trainer")]
const HIDDEN: usize = 32;

/// A training that is stopped leaves what the document says.
#[cfg(feature = "trainer")]
#[test]
fn a_checkpoint_lies_as_the_tables_say() {
    let folder = tempfile::tempdir().unwrap();
    let (path, pairs) = (folder.path().join("db"), folder.path().join("pairs.jsonl"));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder/tiny-bert");
    let options = CreateOptions { model: Some(model), ..CreateOptions::default() };
    let db =
        Db::open_with(&path, OpenOptions { create: options, background: false, ..OpenOptions::default() })
            .unwrap();
    db.add((0..40).map(|n| Document::new(format!("d{n}"), format!("text number {n}")))).unwrap();
    let line = |n: u32| format!("{{\"query\": \"number {n}\", \"positive\": {{\"id\": \"d{n}\"}}}}\n");
    fs::write(&pairs, (0..40).map(line).collect::<String>()).unwrap();
    let own: std::sync::Arc<std::sync::OnceLock<Task>> = std::sync::Arc::default();
    let handle = std::sync::Arc::clone(&own);
    let task = Task::with_progress(move |progress| {
        if let Some(task) = handle.get().filter(|_| progress.stage == "train" && progress.done == 2) {
            task.cancel();
        }
    });
    own.get_or_init(|| task.quiet());
    let run = embdb::RetrainOptions {
        data: Some(pairs),
        method: embdb::Method::Full,
        batch_size: Some(4),
        force: true,
        task,
        ..Default::default()
    };
    assert_eq!(db.retrain(run).unwrap_err().exit_code(), 130);

    let kept = path.join(embdb::storage::JOB_DIR).join(checkpoint::CHECKPOINT_DIR);
    let names: BTreeSet<String> =
        fs::read_dir(&kept).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["LOCK".into(), format!("{:020}", 2)]));
    let file = kept.join(format!("{:020}", 2));
    let bytes = fs::read(&file).unwrap();
    let layout = file::Layout::parse(&bytes, file::Kind::Checkpoint, &file).unwrap();
    let section = |id| &bytes[layout.section(id).unwrap()];
    let run: serde_json::Value = serde_json::from_slice(section(checkpoint::RUN)).unwrap();
    let keys: Vec<&String> = run.as_object().unwrap().keys().collect();
    let wanted = ["generation", "model_id", "examples", "budget", "shape", "labels", "notes", "options"];
    assert_eq!(keys, wanted);
    let lines = section(checkpoint::DATA).split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<serde_json::Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[7]["texts"][1]["id"]), (40, &"d7".into()));
    assert_eq!(lines[7]["weight"], 1.0f32.to_bits());

    let (state, heading) = (section(checkpoint::STATE), "State of a training");
    let (_, fixed) = fields(heading);
    assert_eq!(&state[place(heading, "magic", 0)], b"EMBDBTRN");
    assert_eq!((number(state, heading, "version", 0), number(state, heading, "steps", 0)), (1, 3));
    let covered = place(heading, "checksum", 0).end;
    assert_eq!(number(state, heading, "checksum", 0), xxhash(&state[covered..]));
    let mut at = fixed + 40 * 3;
    let loss = f64::from_bits(u64_at(state, fixed).unwrap());
    assert!(loss > 0.0 && loss.is_finite());
    let count = u32_at(state, at).unwrap();
    at += 4;
    let mut tables = 0;
    for _ in 0..count {
        let length = u32_at(state, at).unwrap() as usize;
        let name = std::str::from_utf8(&state[at + 4..at + 4 + length]).unwrap();
        at += 4 + length;
        let values = u64_at(state, at).unwrap() as usize;
        let table = state[at + 8];
        at += 9;
        let mut stored = values;
        if table == 1 {
            tables += 1;
            let used = u32_at(state, at).unwrap() as usize;
            let numbers: Vec<u32> = (0..used).map(|n| u32_at(state, at + 4 + 4 * n).unwrap()).collect();
            assert!(numbers.is_sorted() && used > 0, "{name}");
            at += 4 + 4 * used;
            stored = used * HIDDEN;
        }
        at += 3 * 4 * stored;
    }
    assert!(tables > 0, "the table of words at least");
    assert_eq!(at, state.len(), "nothing follows the last parameter");
}
