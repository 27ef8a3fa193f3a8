//! The program as others call it: every command, its output, its exit codes.
//!
//! Texts are encoded with the tiny model of `tests/fixtures`, vectors written by the tests themselves.

#![cfg(all(feature = "shell", feature = "trainer"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod documents;
mod feedback;
mod importing;
mod maintenance;
mod searching;
mod shell;
mod support;
mod usage;
