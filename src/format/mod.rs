//! format

pub mod graph;
