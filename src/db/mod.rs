//! db
pub mod filter;
