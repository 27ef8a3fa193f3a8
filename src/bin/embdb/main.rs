//! The `embdb` program: the shell and its commands.
fn main() {}
