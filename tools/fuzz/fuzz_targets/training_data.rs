//! Training data: JSON lines of every shape, or (after a byte of 0) queries and judgements with another 0 between them.
#![no_main]

use embdb::trainer::data::{Data, read, read_qrels};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(data) = data.strip_prefix(&[0]) {
        let mut parts = data.splitn(2, |&byte| byte == 0);
        let mut part = || parts.next().unwrap_or_default();
        if let Ok(data) = read_qrels((part(), "queries"), (part(), "qrels")) {
            check(&data);
        }
    } else if let Ok(data) = read(data, "file") {
        check(&data);
    }
});

/// What every reader promises of what it gives.
fn check(data: &Data) {
    let report = &data.report;
    assert_eq!(report.records, data.records.len());
    assert!(!data.records.is_empty() && report.records + report.duplicates + report.empty <= report.lines);
    for record in &data.records {
        let least = match data.shape {
            embdb::trainer::Shape::Classes => 1,
            embdb::trainer::Shape::Triplets => 3,
            _ => 2,
        };
        assert!(record.texts.len() >= least);
        assert!(record.targets.iter().all(|target| target.is_finite()));
        assert!(record.weight > 0.0 && record.weight <= 1.0);
        assert!(data.labels.is_empty() || (record.class as usize) < data.labels.len());
    }
}
