//! storage

pub mod lock;
pub mod real;
pub mod sim;
pub mod vfs;
