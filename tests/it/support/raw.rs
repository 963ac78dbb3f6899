//! A client that says exactly the bytes it is told to and shows exactly the frames that come back. It
//! shares nothing with the product's own code, so that the two cannot be wrong together.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// How long nothing may come while something is waited for. A bound for what hangs, not a measure.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Where to connect, and as whom. The user needs no password there.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub port: u16,
    pub user: String,
    pub database: String,
}

/// Why there is no next frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The other side has closed, between two frames or inside one (then with how many bytes of it).
    Closed { inside: usize },
    /// Nothing came for [`PATIENCE`].
    Silent,
}

/// One message of the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    /// Without tag and length.
    pub body: Bytes,
}

impl Frame {
    /// A field of an `ErrorResponse` or `NoticeResponse` (PostgreSQL, "Error and Notice Message Fields").
    pub fn field(&self, code: u8) -> Option<String> {
        let fields = self.body.split(|&byte| byte == 0);
        let found = fields.into_iter().find(|field| field.first() == Some(&code))?;
        Some(String::from_utf8_lossy(&found[1..]).into_owned())
    }

    /// The SQLSTATE, where this is an `ErrorResponse`.
    pub fn sqlstate(&self) -> Option<String> {
        (self.tag == b'E').then(|| self.field(b'C')).flatten()
    }

    /// A `ReadyForQuery`'s status.
    pub fn status(&self) -> Option<u8> {
        (self.tag == b'Z').then(|| self.body.first().copied()).flatten()
    }

    /// The values of a `DataRow` as text.
    pub fn values(&self) -> Vec<Option<String>> {
        let mut body = self.body.clone();
        let count = body.get_u16();
        let value = |body: &mut Bytes| {
            let length = usize::try_from(body.get_i32()).ok()?;
            Some(String::from_utf8_lossy(&body.split_to(length)).into_owned())
        };
        (0..count).map(|_| value(&mut body)).collect()
    }
}

/// `T "name…"`: the tag, then the beginning of the body as printable text.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 300;
        let shown = &self.body[..self.body.len().min(SHOWN)];
        write!(f, "{} \"{}\"", char::from(self.tag), shown.escape_ascii())?;
        if self.body.len() > SHOWN { write!(f, "… ({} bytes)", self.body.len()) } else { Ok(()) }
    }
}

/// A connection as bytes and frames.
pub struct RawClient {
    pub reader: Reader,
    pub writer: Writer,
}

/// The half that the server's frames come from.
pub struct Reader {
    half: OwnedReadHalf,
    buffer: BytesMut,
}

/// The half that takes the client's bytes.
pub struct Writer {
    half: OwnedWriteHalf,
}

impl RawClient {
    /// Connects, and says nothing yet.
    pub async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        // Each piece is to go out as it is written.
        stream.set_nodelay(true).expect("nodelay");
        let (read, write) = stream.into_split();
        Self { reader: Reader { half: read, buffer: BytesMut::new() }, writer: Writer { half: write } }
    }

    /// Connects and starts up; gives the server's greeting up to its `ReadyForQuery` or its refusal.
    pub async fn start(endpoint: &Endpoint, parameters: &[(&str, &str)]) -> (Self, Vec<Frame>) {
        let mut client = Self::open(endpoint.port).await;
        let own = [("user", endpoint.user.as_str()), ("database", endpoint.database.as_str())];
        let all: Vec<_> = own.iter().chain(parameters).copied().collect();
        let _ = client.send(&super::say::startup(&all)).await;
        let (greeting, _) = client.until_ready(1).await;
        (client, greeting)
    }

    /// As [`Self::start`]; whoever is refused fails the test.
    pub async fn welcome(endpoint: &Endpoint) -> Self {
        let (client, greeting) = Self::start(endpoint, &[]).await;
        assert_eq!(greeting.last().and_then(Frame::status), Some(b'I'), "not welcome: {greeting:?}");
        client
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The other side has closed, or has taken nothing for [`PATIENCE`].
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.send(bytes).await
    }

    pub async fn frame(&mut self) -> Result<Frame, End> {
        self.reader.frame().await
    }

    /// Reads up to the `n`th `ReadyForQuery`, or the end.
    pub async fn until_ready(&mut self, n: usize) -> (Vec<Frame>, Option<End>) {
        self.reader.until(b'Z', n).await
    }

    /// One simple query; its frames with `ReadyForQuery`.
    pub async fn query(&mut self, sql: &str) -> Vec<Frame> {
        self.send(&super::say::query(sql)).await.expect("send a query");
        let (frames, end) = self.until_ready(1).await;
        assert_eq!(end, None, "{sql} brought {frames:?}");
        frames
    }

    /// The rows of one simple query as text, columns separated by `|`.
    pub async fn rows(&mut self, sql: &str) -> Vec<String> {
        let frames = self.query(sql).await;
        assert!(!frames.iter().any(|frame| frame.tag == b'E'), "{sql} brought {frames:?}");
        let row = |frame: &Frame| {
            let values = frame.values().into_iter().map(|value| value.unwrap_or_else(|| "NULL".to_owned()));
            values.collect::<Vec<_>>().join("|")
        };
        frames.iter().filter(|frame| frame.tag == b'D').map(row).collect()
    }

    /// Says goodbye and reads what is left. All of it, and [`End::Closed`], is what is expected.
    pub async fn leave(mut self) -> (Vec<Frame>, End) {
        let _ = self.send(&super::say::terminate()).await;
        self.reader.rest().await
    }
}

impl Writer {
    /// See [`RawClient::send`].
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = timeout(PATIENCE, self.half.write(rest)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Closes this direction only.
    pub async fn finish(&mut self) {
        let _ = self.half.shutdown().await;
    }
}

impl Reader {
    /// The next frame, whole.
    pub async fn frame(&mut self) -> Result<Frame, End> {
        let (tag, length) = self.header().await?;
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(Frame { tag, body: self.buffer.split_to(length).freeze() })
    }

    /// The next frame, of which only tag and body length are kept: it may be larger than memory.
    pub async fn skim(&mut self) -> Result<(u8, usize), End> {
        let (tag, length) = self.header().await?;
        let mut left = length;
        loop {
            let here = left.min(self.buffer.len());
            self.buffer.advance(here);
            left -= here;
            if left == 0 {
                return Ok((tag, length));
            }
            self.fill().await?;
        }
    }

    /// Reads up to and with the `n`th frame of `tag`, or to the end.
    pub async fn until(&mut self, tag: u8, n: usize) -> (Vec<Frame>, Option<End>) {
        let (mut frames, mut found) = (Vec::new(), 0);
        while found < n {
            match self.frame().await {
                Ok(frame) => {
                    found += usize::from(frame.tag == tag);
                    frames.push(frame);
                }
                Err(end) => return (frames, Some(end)),
            }
        }
        (frames, None)
    }

    /// Everything up to the end.
    pub async fn rest(&mut self) -> (Vec<Frame>, End) {
        let mut frames = Vec::new();
        loop {
            match self.frame().await {
                Ok(frame) => frames.push(frame),
                Err(end) => return (frames, end),
            }
        }
    }

    /// One byte that is not a frame: the answer to a request for encryption.
    pub async fn byte(&mut self) -> Result<u8, End> {
        while self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.buffer.get_u8())
    }

    /// Tag, and length of the body.
    async fn header(&mut self) -> Result<(u8, usize), End> {
        while self.buffer.len() < 5 {
            self.fill().await?;
        }
        let tag = self.buffer.get_u8();
        let length = self.buffer.get_u32() as usize;
        assert!(length >= 4, "a frame '{}' of {length} bytes", char::from(tag));
        Ok((tag, length - 4))
    }

    async fn fill(&mut self) -> Result<(), End> {
        self.buffer.reserve(16 * 1024);
        match timeout(PATIENCE, self.half.read_buf(&mut self.buffer)).await {
            Err(_) => Err(End::Silent),
            // A reset is an end as well: it is how a socket closes on which something was unread.
            Ok(Ok(0) | Err(_)) => Err(End::Closed { inside: self.buffer.len() }),
            Ok(Ok(_)) => Ok(()),
        }
    }
}
