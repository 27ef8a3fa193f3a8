//! Documents and rows: what is accepted is written again byte by byte.
#![no_main]

use embdb::format::segment::{DocumentRecord, DocumentRows, encode_upsert, parse_job_rows, parse_upsert};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    parse_job_rows(data);
    DocumentRows::parse(data);
    if let Some(record) = DocumentRecord::parse(data) {
        let mut again = Vec::new();
        record.encode(&mut again);
        assert!(data.starts_with(&again));
    }
    if let Some((id, rows, record)) = parse_upsert(data) {
        let again = encode_upsert(id, &rows, &record);
        let (same_id, same_rows, same_record) = parse_upsert(&again).expect("what was written can be read");
        assert!(same_id == id && same_rows.spans == rows.spans && same_record == record);
    }
});
