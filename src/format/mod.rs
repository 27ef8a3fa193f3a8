//! format
pub mod attrs;
