//! Conversations with PostgreSQL and with pgweir that have to be the same to the byte, hostile input,
//! and large values. Takes many minutes: run by `cargo test --test protocol`, not by `make test`.

mod equivalence;
mod hostile;
mod streaming;
mod support;
