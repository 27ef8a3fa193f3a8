//! Nearest neighbours among the rows of one block: no I/O, no ids, no generations.
//!
//! | module | what it answers |
//! |---|---|
//! | [`block`] | which rows there are, and what a query and a result look like |
//! | [`quantize`] | how an f32 row becomes int8 codes with a norm for each rung |
//! | [`flat`] | the nearest rows by looking at all of them |

pub mod block;
pub mod filter;
pub mod flat;
pub mod quantize;

#[cfg(test)]
pub(crate) mod testing;

pub use block::{Neighbour, Query, TopK, VectorBlock};
pub use filter::{SearchParams, search_block};
