//! What classification costs.
fn main() {}
