//! pgweir: a PostgreSQL proxy. Many client connections share a few server connections, reads go to
//! replicas and everything else to the primary, and every tenant stays inside its own limits.

pub mod app;
pub mod auth;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod listener;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod router;
pub mod sandbox;
pub mod server;
pub mod session;
pub mod sql;
pub mod tenant;
pub mod wire;
