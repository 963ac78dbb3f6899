//! One type for every byte stream to a client or to a server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A connection to a client or to a server. Small: the TLS state is boxed.
///
/// Flush after writing: TLS keeps what the socket did not take at once, and only a flush sends it.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// We are the TLS client: a connection to a server.
    TlsClientSide(Box<client::TlsStream<TcpStream>>),
    /// We are the TLS server: a connection from a client.
    TlsServerSide(Box<server::TlsStream<TcpStream>>),
}

impl Stream {
    /// The other end's address. `None` on a Unix socket, and once the connection is gone.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.tcp()?.peer_addr().ok()
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::TlsClientSide(_) | Self::TlsServerSide(_))
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Sends small writes at once, and lets the kernel probe a silent peer after `keepalive`, then
    /// three times in ten-second steps. Does nothing on a Unix socket.
    pub fn tune(&self, keepalive: Duration) -> io::Result<()> {
        let Some(tcp) = self.tcp() else { return Ok(()) };
        tcp.set_nodelay(true)?;
        let probes = TcpKeepalive::new().with_time(keepalive).with_interval(Duration::from_secs(10)).with_retries(3);
        SockRef::from(tcp).set_tcp_keepalive(&probes)
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) => None,
            Self::TlsClientSide(tls) => Some(tls.get_ref().0),
            Self::TlsServerSide(tls) => Some(tls.get_ref().0),
        }
    }
}

/// Calls one method on whichever stream is inside.
macro_rules! inner {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Stream::TlsClientSide(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            Stream::TlsServerSide(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        inner!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        inner!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::TlsClientSide(stream) => stream.is_write_vectored(),
            Self::TlsServerSide(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_stream_is_small() {
        assert!(size_of::<Stream>() <= 48, "{} bytes", size_of::<Stream>());
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_over_a_unix_socket() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut stream = Stream::Unix(ours);
        assert!(stream.is_unix() && !stream.is_tls() && stream.peer().is_none());
        stream.tune(Duration::from_secs(60)).unwrap();
        stream.write_all(b"ask").await.unwrap();
        theirs.write_all(b"answer").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"answer");
        drop(stream);
        read.clear();
        theirs.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"ask");
    }
}
