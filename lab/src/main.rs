//! The whole system on one machine, without Docker.
fn main() {}
