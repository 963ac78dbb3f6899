//! The integration tests: one binary, a module for each behaviour. They run in parallel against
//! real servers, most of them against the cluster in [`support`], each in a database of its own.

mod architecture;
mod borrowing;
mod budget;
mod cancel;
mod ceilings;
mod clients;
mod console;
mod cost;
mod defaults;
mod demo;
mod equivalence;
mod fairness;
mod guarding;
mod hostile;
mod introductions;
mod isolation;
mod layouts;
mod leaks;
mod ledger_model;
mod login;
mod notifications;
mod pooling;
mod proxy;
mod rates;
mod replication;
mod routing;
mod run;
mod sandbox;
mod state;
mod streaming;
mod support;
mod switching;
mod tenants;
mod tenants_query;
