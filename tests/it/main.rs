//! The integration tests: one binary, a module for each behaviour. They run in parallel against
//! real servers, most of them against the cluster in [`support`], each in a database of its own.

mod architecture;
mod ledger_model;
mod equivalence;
mod demo;
mod cancel;
mod pooling;
mod proxy;
mod run;
mod sandbox;
mod support;
