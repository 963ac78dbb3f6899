//! The start of a client's connection: encryption, startup packet, authentication. What comes out
//! is an [`Authenticated`] client, a cancel request, or an error that the client was already told.

mod authenticate;
pub mod handshake;
mod inbound;

pub use handshake::{Accepted, Authenticated, CONSOLE, HandshakeContext, HandshakeError, Lasting, accept};
