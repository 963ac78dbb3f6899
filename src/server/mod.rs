//! One connection to a PostgreSQL server: reaching it, logging in, asking our own questions,
//! cancelling.

pub mod cancel;
pub mod connect;
pub mod error;
mod login;
pub mod query;
mod reply;

pub use cancel::cancel;
pub use connect::{Connected, Login, connect};
pub use error::ConnectError;
pub use query::{QueryError, simple_query};
