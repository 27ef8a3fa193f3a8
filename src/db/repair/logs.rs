//! What damaged logs say: the last that was written of each document.

use std::collections::HashMap;
use std::path::Path;

use super::report::RepairReport;
use super::segment::Place;
use crate::error::{Error, Result};
use crate::format::frame::FrameType;
use crate::format::segment::{DocumentRows, parse_upsert};
use crate::storage::documents::StoredText;
use crate::storage::salvage::{Damaged, Record, SalvagedLog};
use crate::storage::{LOG_DIR, numbered, numbered_path};

/// The last change of a document.
pub(super) struct Last {
    /// Its sequence number.
    pub sequence: u64,
    /// Text and rows; none if it was deleted.
    pub document: Option<(StoredText, DocumentRows)>,
}

/// What the logs say, by id.
#[derive(Default)]
pub(super) struct Logs {
    /// Last change of each document.
    pub last: HashMap<String, Last>,
}

impl Logs {
    /// Reads all logs from number `first` on; `before` is the last sequence number before it.
    pub fn read(
        place: &Place<'_>,
        first: u64,
        mut before: Option<u64>,
        report: &mut RepairReport,
    ) -> Result<Self> {
        let numbers = numbered(place.vfs, &place.dir.join(LOG_DIR))?;
        let mut opened = Vec::new();
        for number in numbers.into_iter().filter(|&number| number >= first) {
            let path = numbered_path(place.dir, LOG_DIR, number);
            match SalvagedLog::open(place.vfs, &path) {
                Ok(log) if log.header.number == number && log.header.database == place.database => {
                    opened.push((path, log));
                }
                Ok(_) => report.note(format!("{LOG_DIR}/{number:020} is not a log of this place")),
                Err(error) if place.vfs.file_len(&path)? > crate::format::frame::LOG_HEADER_LEN as u64 => {
                    report.note(format!("all that stood in a log is lost, its ids with it: {error}"));
                }
                // It was never in use.
                Err(_) => {}
            }
        }
        let mut logs = Self::default();
        for at in 0..opened.len() {
            let (path, log) = &opened[at];
            let next = opened.get(at + 1).filter(|(_, next)| next.header.number == log.header.number + 1);
            report.bits_turned += log.turned;
            let end = next.map(|(_, next)| next.header.previous_end);
            let last = logs.apply(place.dir, path, &log.records(end, before), report);
            before = last.or(before).filter(|_| next.is_some());
        }
        Ok(logs)
    }

    /// Applies the records of a log; returns the last sequence number met.
    fn apply(
        &mut self,
        dir: &Path,
        path: &Path,
        records: &[Record<'_>],
        report: &mut RepairReport,
    ) -> Option<u64> {
        let mut last = None;
        for record in records {
            if let Record::Sound(frame) = record {
                last = Some(frame.sequence);
            }
            match record {
                Record::Sound(frame) => match change(frame.kind, frame.payload) {
                    Some((id, document)) => {
                        // What was lost of it before does not matter any more.
                        report.lost.retain(|lost| lost.id.as_ref() != Some(&id));
                        self.last.insert(id, Last { sequence: frame.sequence, document });
                    }
                    None => {
                        report.lose(dir, None, 1, &Error::corrupt(path, frame.offset, "a malformed record"))
                    }
                },
                Record::Damaged(damaged) => tell(dir, path, damaged, report),
            }
        }
        last
    }
}

/// Damaged records: what their ids seem to be is told; what they did is not repeated.
fn tell(dir: &Path, path: &Path, damaged: &Damaged<'_>, report: &mut RepairReport) {
    let mut left = damaged.records;
    let why =
        |what: &str| Error::corrupt(path, damaged.offset, format!("{what} at offset {}", damaged.offset));
    for &(kind, payload) in &damaged.seen {
        match kind {
            FrameType::Upsert => {
                if let Some(id) = upsert_id(payload) {
                    left = left.saturating_sub(1);
                    report.lose(dir, Some(&id), 1, &why("its record is damaged"));
                }
            }
            FrameType::Delete => {
                left = left.saturating_sub(1);
                let id = String::from_utf8_lossy(payload);
                report.note(format!("a deletion is lost: the document {id:?} may be back"));
            }
            _ => {}
        }
    }
    if left > 0 {
        report.lose(dir, None, left, &why("records are damaged beyond reading, ids as well,"));
    }
}

type Document = (StoredText, DocumentRows);

/// The id in the payload of a record, and the document it brings.
fn change(kind: FrameType, payload: &[u8]) -> Option<(String, Option<Document>)> {
    match kind {
        FrameType::Upsert => {
            let (id, rows, record) = parse_upsert(payload)?;
            let text = StoredText {
                title: record.title.map(str::to_owned),
                text: record.text.to_owned(),
                meta: record.meta.to_owned(),
            };
            Some((id.to_owned(), Some((text, rows))))
        }
        FrameType::Delete => Some((std::str::from_utf8(payload).ok()?.to_owned(), None)),
        _ => None,
    }
}

/// The id in the payload of a damaged UPSERT, if its lengths still fit.
fn upsert_id(payload: &[u8]) -> Option<String> {
    let len = crate::format::u32_at(payload, 0)? as usize;
    let (_, rest) = DocumentRows::parse(payload.get(crate::format::segment::UPSERT_HEADER_LEN..)?)?;
    let id = std::str::from_utf8(rest.get(..len)?).ok()?;
    (!id.is_empty() && len <= crate::options::limits::ID_BYTES).then(|| id.to_owned())
}
