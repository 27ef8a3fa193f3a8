//! The HNSW graph (Malkov and Yashunin, arXiv 1603.09320): construction, repair, search, calibration.
//!
//! Construction and search are apart. hnsw_rs builds, in memory, with an object for each edge; the result is
//! frozen into the flat layout of [`crate::format::graph`], mended so that every node can be reached, and
//! searched there in place over int8 codes. A segment that still grows is searched in hnsw_rs itself.
//!
//! | module | what it answers |
//! |---|---|
//! | [`mod@build`] | how a block of rows becomes a graph |
//! | [`repair`] | which nodes walks and searches miss, and how they are linked |
//! | [`search`] | the nearest rows by walking the graph |
//! | [`mod@calibrate`] | how wide the beam must be for a wanted recall |
//! | [`growing`] | the index of rows that are still being added |

pub mod build;
pub mod calibrate;
pub mod growing;
pub mod repair;
mod rows;
pub mod search;

pub use build::{BuildParams, build};
pub use calibrate::{calibrate, ef_for};
pub use growing::GrowingIndex;
