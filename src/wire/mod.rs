//! Frames over bytes, borrowed views of messages, and the messages that we author ourselves.
//! No I/O and no state here (PostgreSQL, "Frontend/Backend Protocol").

pub mod author;
pub mod error;
pub mod frame;
pub mod guard;
pub mod options;
pub mod startup;
pub mod view;
