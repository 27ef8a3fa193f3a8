//! The `embdb` program: the shell and its commands.
mod input;

fn main() {}
