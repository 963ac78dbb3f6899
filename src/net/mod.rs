<<<<<<< HEAD
//! Streams to clients and servers, and their buffers.

pub mod buffer;
=======
//! Byte streams: TCP, Unix sockets, and TLS on either side of it.

pub mod stream;
pub mod tls;

pub use stream::Stream;
>>>>>>> front
