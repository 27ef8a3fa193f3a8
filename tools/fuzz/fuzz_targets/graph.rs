//! Graphs: parsed, walked, and searched whatever their links say.
#![no_main]

use embdb::format::graph::GraphView;
use embdb::index::hnsw::search::search;
use embdb::index::{Codes, Query, VectorBlock};
use embdb::storage::vfs::Bytes;
use embdb::types::Metric;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    GraphView::parse(&Bytes::from(data)).ok();
    let bytes = Bytes::from(embdb_fuzz::graph(data).as_slice());
    let Ok(graph) = GraphView::parse(&bytes) else { return };
    for node in 0..graph.nodes() as u32 + 2 {
        graph.links(node).count();
        (0..20).for_each(|layer| _ = graph.upper_links(layer, node));
    }
    // One row more and one less than the graph has: a graph may belong to another segment.
    for rows in graph.nodes().saturating_sub(1)..=graph.nodes() + 1 {
        let values: Vec<f32> = (0..2 * rows).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
        let block = VectorBlock::new(2, Metric::L2, &[2], rows, Codes::default(), &[], &[], &values).expect("it fits");
        let query = Query::new(&[3.0, 4.0], Metric::L2, 2, 2);
        let found = search(&block, &graph, &query, 5, 20, None);
        assert!(found.len() <= 5 && found.iter().all(|neighbour| (neighbour.row as usize) < rows));
    }
});
