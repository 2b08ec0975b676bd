//! The `ondemand` program.

fn main() {}
