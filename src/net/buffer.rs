//! The buffers of a connection. An idle connection owns none: storage is lent by a pool of the
//! thread while there are bytes in it, and goes back when the last one is consumed.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Storage of a buffer, in bytes: one `read` takes at most this much.
pub const CAPACITY: usize = 32 * 1024;
/// Spare storage that a thread keeps (64 of each kind are 4 MiB).
const SPARE: usize = 64;

thread_local! {
    static READ_STORAGE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static WRITE_STORAGE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that came and are not yet consumed. What was consumed can be held for a second look
/// ([`ReadBuffer::hold`], [`ReadBuffer::rewind`]) as long as nothing needs its place.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    storage: Vec<u8>,
    held: Option<usize>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// The bytes that are there.
    pub fn data(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// The same, for what is written over in place.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Drops the first `count` bytes of [`Self::data`].
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "consumed more than there is");
        self.start += count;
        self.give_back();
    }

    /// From here on consumed bytes are kept, so that [`Self::rewind`] can bring them back.
    pub fn hold(&mut self) {
        self.held = Some(self.start);
    }

    /// Lets held bytes go.
    pub fn release(&mut self) {
        self.held = None;
        self.give_back();
    }

    /// Lets the first `count` of the bytes go that are held and were consumed.
    pub fn let_go(&mut self, count: usize) {
        self.held = self.held.map(|held| held + count);
        debug_assert!(self.held.is_none_or(|held| held <= self.start), "let go before they were consumed");
    }

    /// Makes the held bytes unread again; false when they were let go.
    pub fn rewind(&mut self) -> bool {
        match self.held {
            Some(held) => {
                self.start = held;
                true
            }
            None => false,
        }
    }

    /// Puts bytes in front that were read before this buffer existed.
    pub fn preload(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.make_room(bytes.len());
            self.storage[self.end..self.end + bytes.len()].copy_from_slice(bytes);
            self.end += bytes.len();
        }
    }

    /// Makes sure that a frame of `len` bytes, whose start is the start of the data, will fit.
    pub fn reserve_frame(&mut self, len: usize) {
        self.make_room(len.saturating_sub(self.end - self.start));
    }

    /// True when a fill would find no place: the caller has to consume or reserve first.
    pub fn is_full(&self) -> bool {
        !self.storage.is_empty() && self.end - self.held.unwrap_or(self.start) >= self.storage.len()
    }

    /// Reads once into the free part; `0` is the end of the stream. Cancel safe.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        self.make_room(1);
        let mut free = ReadBuf::new(&mut self.storage[self.end..]);
        let outcome = Pin::new(stream).poll_read(cx, &mut free);
        let count = free.filled().len();
        self.end += count;
        if self.is_empty() {
            self.give_back();
        }
        ready!(outcome)?;
        Poll::Ready(Ok(count))
    }

    fn make_room(&mut self, wanted: usize) {
        if self.storage.is_empty() {
            self.storage = READ_STORAGE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; CAPACITY]);
        }
        if self.storage.len() - self.end < wanted {
            let keep = self.held.unwrap_or(self.start);
            self.storage.copy_within(keep..self.end, 0);
            (self.start, self.end) = (self.start - keep, self.end - keep);
            self.held = self.held.map(|_| 0);
        }
        if self.storage.len() - self.end < wanted {
            self.storage.resize(self.end + wanted, 0);
        }
    }

    fn give_back(&mut self) {
        if self.start != self.end || self.held.is_some() {
            return;
        }
        (self.start, self.end) = (0, 0);
        let storage = std::mem::take(&mut self.storage);
        if storage.len() == CAPACITY {
            READ_STORAGE.with_borrow_mut(|spare| {
                if spare.len() < SPARE {
                    spare.push(storage);
                }
            });
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.held = None;
        self.start = self.end;
        self.give_back();
    }
}

/// Bytes that have to go out, in order.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    bytes: BytesMut,
    /// The stream has taken bytes that it may not have sent.
    in_stream: bool,
}

impl WriteBuffer {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Where messages are appended.
    pub fn bytes(&mut self) -> &mut BytesMut {
        if self.bytes.capacity() == 0 {
            self.bytes = WRITE_STORAGE.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(CAPACITY));
        }
        &mut self.bytes
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bytes().extend_from_slice(bytes);
        }
    }

    /// Takes over everything that another buffer has.
    pub fn append(&mut self, other: &mut Self) {
        if !other.is_empty() {
            self.push(&other.bytes);
            other.clear();
        }
    }

    /// Forgets what was not written: for a connection that is given up.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.give_back();
    }

    /// Writes until nothing is left. Cancel safe: what was written is gone from the buffer.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>, stream: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.advance(count);
            self.in_stream = true;
        }
        self.give_back();
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.in_stream = false;
        Poll::Ready(Ok(()))
    }

    /// Everything was sent: without this, an empty buffer still has to be flushed.
    pub fn is_flushed(&self) -> bool {
        self.is_empty() && !self.in_stream
    }

    fn give_back(&mut self) {
        if self.bytes.capacity() == 0 {
            return;
        }
        let mut storage = std::mem::take(&mut self.bytes);
        storage.clear();
        // What was advanced over comes back with `reserve` when nobody else shares the storage.
        storage.reserve(CAPACITY);
        if storage.capacity() <= 2 * CAPACITY {
            WRITE_STORAGE.with_borrow_mut(|spare| {
                if spare.len() < SPARE {
                    spare.push(storage);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn fill(buffer: &mut ReadBuffer, mut bytes: &[u8]) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        match buffer.poll_fill(&mut cx, &mut bytes) {
            Poll::Ready(Ok(count)) => count,
            other => panic!("a slice is always ready: {other:?}"),
        }
    }

    #[test]
    fn an_empty_buffer_owns_nothing() {
        let mut buffer = ReadBuffer::default();
        fill(&mut buffer, b"hello");
        assert_eq!(buffer.storage.len(), CAPACITY);
        buffer.consume(5);
        assert_eq!(buffer.storage.capacity(), 0);
    }

    #[test]
    fn held_bytes_come_back_even_after_the_buffer_moved() {
        let mut buffer = ReadBuffer::default();
        fill(&mut buffer, b"gone");
        buffer.preload(b"kept");
        buffer.consume(4);
        buffer.hold();
        buffer.consume(4);
        buffer.preload(&vec![b'x'; CAPACITY - 4]);
        assert!(buffer.is_full());
        assert!(buffer.rewind());
        assert!(buffer.data().starts_with(b"keptxxx"));
        buffer.release();
        buffer.consume(CAPACITY);
        assert_eq!(buffer.storage.capacity(), 0);
    }

    /// Takes every byte and needs a second flush to send them, as TLS over a full socket does.
    #[derive(Default)]
    struct Late(bool);

    impl AsyncWrite for Late {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if std::mem::replace(&mut self.0, true) { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_the_stream_keeps_is_not_flushed() {
        let (mut buffer, mut stream) = (WriteBuffer::default(), Late::default());
        let mut cx = Context::from_waker(Waker::noop());
        buffer.push(b"hello");
        assert!(buffer.poll_flush(&mut cx, &mut stream).is_pending());
        assert!(buffer.is_empty() && !buffer.is_flushed());
        assert!(buffer.poll_flush(&mut cx, &mut stream).is_ready());
        assert!(buffer.is_flushed());
    }

    #[test]
    fn a_reserved_frame_fits() {
        let mut buffer = ReadBuffer::default();
        fill(&mut buffer, b"head");
        buffer.reserve_frame(3 * CAPACITY);
        let rest = vec![7; 3 * CAPACITY - 4];
        let mut sent = 0;
        while sent < rest.len() {
            sent += fill(&mut buffer, &rest[sent..]);
        }
        assert_eq!(buffer.data().len(), 3 * CAPACITY);
    }
}
