//! Byte streams: TCP, Unix sockets, and TLS on either side of it; and their buffers.

pub mod buffer;
pub mod stream;
pub mod tls;

pub use stream::Stream;
