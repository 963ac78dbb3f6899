//! A client's connection while it is being let in: a stream, the bytes read ahead of what was
//! understood, and the bytes not yet written.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::HandshakeError;
use crate::net::Stream;
use crate::wire::error::PgError;
use crate::wire::startup::FirstPacket;

/// What is read at a time: more than any packet of an ordinary client has.
const READ_AHEAD: usize = 1024;

pub(super) struct Inbound {
    pub stream: Stream,
    /// Read and not yet understood.
    pub unread: BytesMut,
    /// To be written before the next answer is awaited.
    pub out: BytesMut,
    /// The longest packet or message accepted, in bytes with its length word.
    limit: usize,
}

impl Inbound {
    pub fn new(stream: Stream, limit: usize) -> Self {
        Self { stream, unread: BytesMut::new(), out: BytesMut::new(), limit }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The next untagged packet. A ClientHello stays unread.
    pub async fn first_packet(&mut self) -> Result<FirstPacket, HandshakeError> {
        loop {
            if let Some((packet, length)) = FirstPacket::read(&self.unread, self.limit)? {
                self.unread.advance(length);
                return Ok(packet);
            }
            self.read_more().await?;
        }
    }

    /// The body of the next message of authentication, tag `p`.
    pub async fn answer(&mut self) -> Result<BytesMut, HandshakeError> {
        self.flush().await?;
        loop {
            if let Some(length) = self.answer_length()?
                && self.unread.len() > length
            {
                let mut message = self.unread.split_to(1 + length);
                message.advance(5);
                return Ok(message);
            }
            self.read_more().await?;
        }
    }

    /// The length of the message at the front, without its tag.
    fn answer_length(&self) -> Result<Option<usize>, HandshakeError> {
        match self.unread.first() {
            None | Some(b'p') => {}
            // A client that has no password to give says goodbye.
            Some(b'X') => return Err(HandshakeError::Closed),
            Some(&tag) => {
                let got = char::from(tag).escape_default();
                let error = PgError::fatal("08P01", format!("expected password response, got message type '{got}'"));
                return Err(error.into());
            }
        }
        let Some(&[_, a, b, c, d]) = self.unread.first_chunk() else { return Ok(None) };
        let claimed = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(claimed) {
            Ok(length) if (4..=self.limit).contains(&length) => Ok(Some(length)),
            _ => Err(PgError::fatal("08P01", format!("invalid length of password message: {claimed} bytes"))
                .detail(format!("During authentication a message has 4 to {} bytes.", self.limit))
                .into()),
        }
    }

    /// Waits for bytes. Memory grows with what arrives, never with what a length word claims.
    async fn read_more(&mut self) -> Result<(), HandshakeError> {
        self.unread.reserve(READ_AHEAD);
        match self.stream.read_buf(&mut self.unread).await? {
            0 if self.unread.is_empty() => Err(HandshakeError::Closed),
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    pub async fn flush(&mut self) -> Result<(), HandshakeError> {
        self.stream.write_all_buf(&mut self.out).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Writes what is due and then the error, and closes. The client may be gone: that changes nothing.
    pub async fn refuse(mut self, error: &PgError) {
        error.encode(&mut self.out);
        if self.flush().await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}
