//! Pieces of the database's files, as given and with repaired checksums.

use std::ops::Range;
use std::path::Path;

use embdb::Error;
use embdb::format::attrs::{AttrsView, Sections};
use embdb::format::file::{FileBuilder, Kind, Layout};
use embdb::format::frame::LogHeader;
use embdb::format::graph::GraphView;
use embdb::format::manifest::{BODY, Manifest};
use embdb::format::scan::scan;
use embdb::format::segment::{DocumentRecord, DocumentRows, encode_upsert, parse_job_rows, parse_upsert};
use embdb::index::hnsw::search::search;
use embdb::index::{Codes, Query, VectorBlock};
use embdb::storage::vfs::Bytes;
use embdb::types::Metric;

use crate::repair;

/// Containers: as given, and with repaired checksums.
pub fn container(data: &[u8]) {
    let path = Path::new("file");
    for bytes in [data.to_vec(), repair::container(data, Kind::Docs)] {
        if let Ok(layout) = Layout::parse(&bytes, Kind::Docs, path) {
            layout.verify(&bytes, 0, usize::MAX, path).ok();
            for id in 0..16 {
                assert!(layout.section(id).is_none_or(|range| bytes.get(range).is_some()));
            }
        }
    }
}

/// Manifests: the body in a container that fits, and a container with repaired checksums.
pub fn manifest(data: &[u8]) {
    let whole = FileBuilder::new(Kind::Manifest, [0; 16]).section(BODY, data.to_vec()).finish();
    for bytes in [whole, repair::container(data, Kind::Manifest)] {
        if let Ok(manifest) = Manifest::parse(&bytes, 0, Path::new("manifest")) {
            let again = manifest.encode().expect("what was read can be written");
            assert_eq!(Manifest::parse(&again, 0, Path::new("manifest")).expect("and read again"), manifest);
        }
    }
}

/// Logs: the header, and frames as given and with repaired checksums.
pub fn frames(data: &[u8]) {
    let path = Path::new("log");
    LogHeader::parse(data, path).ok();
    LogHeader::parse(&repair::log_header(data), path).ok();
    for bytes in [data.to_vec(), repair::frames(data, 64, 7)] {
        let found = scan(&bytes, 64, 7, path, |batch| {
            assert!(batch.iter().all(|frame| frame.end <= 64 + bytes.len() as u64));
            Ok(())
        });
        assert!(found.is_err() || found.is_ok_and(|scan| scan.end <= 64 + bytes.len() as u64));
    }
}

/// Documents and rows: what is accepted is written again byte by byte.
pub fn records(data: &[u8]) {
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
}

/// Graphs: parsed, walked, and searched whatever their links say.
pub fn graph(data: &[u8]) {
    GraphView::parse(&Bytes::from(data)).ok();
    let bytes = Bytes::from(repair::graph(data).as_slice());
    let Ok(graph) = GraphView::parse(&bytes) else { return };
    for node in 0..graph.nodes() as u32 + 2 {
        graph.links(node).count();
        (0..20).for_each(|layer| _ = graph.upper_links(layer, node));
    }
    // One row more and one less than the graph has: a graph may belong to another segment.
    for rows in graph.nodes().saturating_sub(1)..=graph.nodes() + 1 {
        let values: Vec<f32> = (0..2 * rows).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let block = VectorBlock::new(2, Metric::L2, &[2], rows, Codes::default(), &[], &[], &values)
            .expect("it fits");
        let query = Query::new(&[3.0, 4.0], Metric::L2, 2, 2);
        let found = search(&block, &graph, &query, 5, 20, None);
        assert!(found.len() <= 5 && found.iter().all(|neighbour| (neighbour.row as usize) < rows));
    }
}

/// Sections cut out of one input, each as long as the two bytes before it say.
struct Cut(Vec<Bytes>);

impl Sections for Cut {
    fn size(&self, section: u32) -> usize {
        self.0.get(section as usize).map_or(0, |bytes| bytes.len())
    }

    fn bytes(&self, section: u32, range: Range<usize>) -> embdb::Result<&[u8]> {
        let found = self.0.get(section as usize).and_then(|bytes| bytes.get(range));
        found.ok_or_else(|| Error::corrupt("attrs", 0, "outside"))
    }
}

/// Metadata columns: any bytes as sections; each read fails or gives something.
pub fn attrs(data: &[u8]) {
    let mut rest = data;
    let mut sections = vec![Bytes::from(&[][..])];
    while let Some((&[low, high], after)) = rest.split_first_chunk() {
        let (section, after) = after.split_at(after.len().min(u16::from_le_bytes([low, high]) as usize));
        sections.push(Bytes::from(section));
        rest = after;
    }
    let cut = Cut(sections);
    let view = AttrsView::new(&cut);
    let sound = view.check(1000).is_ok();
    for key in view.keys().unwrap_or_default() {
        if let Ok(Some(column)) = view.column(key) {
            let read = column.for_each(&mut |_, _| ());
            assert!(read.is_ok() || !sound);
        }
    }
}
