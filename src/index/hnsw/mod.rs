//! The HNSW graph (Malkov and Yashunin, arXiv 1603.09320): construction, repair, search, calibration.
//!
//! Construction and search are apart. A graph is built in memory, frozen into the flat layout of
//! [`crate::format::graph`], mended so that every node can be reached, and searched there in place over int8
//! codes. Our own builder serves sealed segments; hnsw_rs is the reference it is compared with, and the index
//! of a segment that still grows.
//!
//! | module | what it answers |
//! |---|---|
//! | [`mod@build`] | how a graph is asked for |
//! | `construct` | how a block of rows becomes a graph |
//! | [`inherit`] | what it takes over from an older graph of some of the rows |
//! | `points`, `links`, `prune`, `order` | its distances, its lists, its choice of links, who inserts when |
//! | `reference` | the same by hnsw_rs |
//! | [`repair`] | which nodes walks and searches miss, and how they are linked |
//! | `walk`, `pool` | how a graph is walked through, and which nodes are kept |
//! | [`search`] | the nearest rows by walking the graph |
//! | [`beam`] | how wide a walk is and how far it reaches |
//! | [`mod@calibrate`] | which of them a wanted recall takes |
//! | [`growing`] | the index of rows that are still being added |

pub mod beam;
pub mod build;
pub mod calibrate;
mod construct;
pub mod growing;
pub mod inherit;
mod links;
mod order;
mod points;
mod pool;
mod prune;
mod reference;
pub mod repair;
mod rows;
pub mod search;
mod walk;

pub use beam::Beam;
pub use build::{BuildParams, build, build_upon};
pub use calibrate::calibrate;
pub use growing::GrowingIndex;
pub use inherit::Old;
