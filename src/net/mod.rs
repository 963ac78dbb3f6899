//! Streams to clients and servers, and their buffers.

pub mod buffer;
