//! Cancelling what a server connection runs (PostgreSQL, "Canceling Requests in Progress").

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::connect::{Encryption, attempts, open};
use crate::config::HostConfig;
use crate::wire::author;

/// Asks the server to cancel whatever the backend `pid` runs, on a connection of its own with TLS
/// as for any other. Returns when the server has closed that connection: the signal is then sent,
/// and cannot hit what the backend is given next.
///
/// Says nothing about whether something was cancelled: the server does not tell.
///
/// Errors: the server can't be reached, or did not close the connection within `timeout`: the
/// signal may then still come, and the backend's connection must not be used again.
pub async fn cancel(host: &HostConfig, pid: i32, key: &[u8], timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("cancel request not taken within {timeout:?}"));
    timeout_at(deadline, send(host, pid, key, deadline)).await.map_err(|_| late())?
}

async fn send(host: &HostConfig, pid: i32, key: &[u8], deadline: Instant) -> io::Result<()> {
    // Only the first kind of attempt: a cancel request has no answer, so nothing would tell us to
    // try another. A server without TLS still says so, and `prefer` then goes without.
    let encryption = attempts(host).first().copied().unwrap_or(Encryption::None);
    let (mut stream, _) = open(host, encryption, deadline).await.map_err(io::Error::other)?;
    let mut request = BytesMut::new();
    author::cancel_request(&mut request, pid, key);
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut rest = [0; 64];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // PostgreSQL ends TLS without a close_notify when it has taken a cancel request.
            Err(error) if is_closed(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}
