//! What cargo cannot do: set-up, run, test.

fn main() {}
