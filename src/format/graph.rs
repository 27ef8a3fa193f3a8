//! placeholder
/// A graph.
#[derive(Debug, Clone)]
pub struct GraphView<'a> {
    _x: &'a [u8],
}
