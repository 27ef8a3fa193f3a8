//! The program as others call it: every command, its output, its exit codes.
//!
//! Texts are encoded with the tiny model of `tests/fixtures`, vectors written by the tests themselves.

#![cfg(feature = "shell")]
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(not(feature = "trainer"), allow(dead_code, reason = "helpers of the tests with texts"))]

#[cfg(feature = "trainer")]
mod bad_input;
mod bad_vectors;
#[cfg(feature = "trainer")]
mod documents;
#[cfg(feature = "trainer")]
mod embedding;
#[cfg(feature = "trainer")]
mod feedback;
#[cfg(feature = "trainer")]
mod forgetting;
#[cfg(feature = "trainer")]
mod importing;
#[cfg(feature = "trainer")]
mod learning;
#[cfg(feature = "trainer")]
mod maintenance;
#[cfg(feature = "trainer")]
mod planning;
#[cfg(feature = "trainer")]
mod resuming;
#[cfg(feature = "trainer")]
mod searching;
#[cfg(feature = "trainer")]
mod shell;
mod support;
#[cfg(feature = "trainer")]
mod synth;
#[cfg(feature = "trainer")]
mod usage;
mod vectors;
