//! Who is who: SCRAM-SHA-256 and md5, as the side that checks a password and as the side that
//! proves one. State machines without I/O that consume themselves: each step takes a message and
//! gives the answer together with the next state (PostgreSQL, "SASL Authentication"; RFC 5802,
//! 5803 and 7677).

pub mod account;
pub mod md5;
pub mod scram;
pub mod scram_client;
pub mod scram_server;

pub use account::{AccountError, Accounts, Check, MockSecret};
pub use scram::{ScramKeys, Verifier};
