//! Reads a server's messages one at a time and not a byte further, so that a connection can be
//! handed on after ReadyForQuery with nothing lost.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A tag and a body.
#[derive(Debug)]
pub(super) struct Reply {
    pub tag: u8,
    pub body: Vec<u8>,
}

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a message of type '{}' claims {claimed} bytes; at most {limit} are accepted", char::from(*tag).escape_default())]
    TooLong { tag: u8, claimed: u32, limit: usize },
}

/// Reads messages. Holds at most the header of a message whose coming was certain.
#[derive(Default)]
pub(super) struct Replies {
    ahead: Option<[u8; HEADER]>,
}

/// Tag and length word.
const HEADER: usize = 5;

impl Replies {
    /// The next message. `limit` is the longest body accepted, in bytes.
    ///
    /// Not cancel-safe: a dropped future leaves the stream inside a message.
    pub async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Reply, ReadError> {
        let header = match self.ahead.take() {
            Some(header) => header,
            None => {
                let mut header = [0; HEADER];
                stream.read_exact(&mut header).await?;
                header
            }
        };
        let [tag, length @ ..] = header;
        let claimed = u32::from_be_bytes(length);
        let length = usize::try_from(claimed).ok().and_then(|length| length.checked_sub(4));
        let Some(length) = length.filter(|&length| length <= limit) else {
            return Err(ReadError::TooLong { tag, claimed, limit });
        };
        let more = if is_followed(tag) { HEADER } else { 0 };
        let mut body = read_growing(stream, length + more).await?;
        if let Some(header) = body[length..].first_chunk() {
            self.ahead = Some(*header);
            body.truncate(length);
        }
        Ok(Reply { tag, body })
    }
}

/// Whether another message is sure to come before the server waits for us. Its header is then read
/// along, which halves the system calls.
fn is_followed(tag: u8) -> bool {
    matches!(tag, b'S' | b'K' | b'T' | b'D' | b'C' | b'N' | b'I')
}

/// Reads exactly `length` bytes into memory that grows as they come.
async fn read_growing(stream: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length.min(8 * 1024));
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_after_ready_for_query_is_taken() {
        let mut stream: &[u8] = b"C\0\0\0\x06x\0Z\0\0\0\x05INotice";
        let mut replies = Replies::default();
        let first = replies.next(&mut stream, 100).await.unwrap();
        assert_eq!((first.tag, &*first.body), (b'C', &b"x\0"[..]));
        let second = replies.next(&mut stream, 100).await.unwrap();
        assert_eq!((second.tag, &*second.body), (b'Z', &b"I"[..]));
        assert_eq!(stream, b"Notice");
    }

    #[tokio::test]
    async fn lengths_that_cannot_be_are_refused() {
        for bad in [&b"Z\0\0\0\x03"[..], b"Z\x7f\xff\xff\xff", b"Z\xff\xff\xff\xff", b"Z\0\0\0\x69"] {
            let mut stream = bad;
            let read = Replies::default().next(&mut stream, 100).await;
            assert!(matches!(read, Err(ReadError::TooLong { tag: b'Z', .. })), "{bad:?}");
        }
        let mut cut: &[u8] = b"Z\0\0\0\x05";
        assert!(matches!(Replies::default().next(&mut cut, 100).await, Err(ReadError::Io(_))));
    }
}
