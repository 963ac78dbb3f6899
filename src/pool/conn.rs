//! One server connection: its stream, its buffers, and what is known of its session state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::fence::{CancelTarget, Fence};
use super::lease::Hold;
use super::prepared::Prepared;
use super::seat::{Seat, Seated};
use crate::config::HostConfig;
use crate::net::buffer::{ReadBuffer, WriteBuffer};
use crate::server::query::{Answer, QueryError, simple_query};
use crate::tenant::Taken;
use crate::wire::frame::{HEADER, backend, backend_header};

/// Settings of a session by lower-case name, values as `set_config` takes them.
pub type Settings = BTreeMap<String, String>;

/// The longest answer to a question of our own, in bytes.
const ANSWER_LIMIT: usize = 4 << 20;

/// For the answer to one: a server that is silent for longer is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Who may have taken a value from a sequence last in a server session (`currval`, `lastval`): by the process id that its
/// client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences {
    /// Nobody, or they were discarded.
    None,
    Of(i32),
}

impl Sequences {
    /// There are none but this session's.
    pub fn are_at_most(self, session: i32) -> bool {
        self == Self::None || self == Self::Of(session)
    }
}

/// Custom settings (`app.tenant`) of a server session that its books do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    None,
    /// Code may have made some under names of its own making, which nothing shows.
    Any,
}

/// A session that has introduced itself to those who listen: notifications of this server process are known to be its.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaker {
    /// By the process id that its client was told.
    pub session: i32,
    /// To whom: listening connections come and go, and none knows what another was told.
    pub to: u64,
}

/// A connection to a server, logged in. Its books (`settings`, `prepared`) say what the server's
/// session has; whoever sends something that changes it keeps them true.
#[derive(Debug)]
pub struct Conn {
    pub stream: Seat,
    pub inbound: ReadBuffer,
    pub outbound: WriteBuffer,
    /// What `SET` has done in this server session, as far as it differs from its defaults.
    pub settings: Arc<Settings>,
    pub unlisted: Unlisted,
    pub prepared: Prepared,
    pub sequences: Sequences,
    /// Its place among those that are kept for the values of their sequences, where it has one.
    pub kept: Option<Taken>,
    /// `None` where it is not known who speaks.
    pub speaker: Option<Speaker>,
    pub cancel: Arc<CancelTarget>,
    /// `ParameterStatus` as reported at login.
    pub parameters: Arc<[(String, String)]>,
    pub(super) opened: Instant,
    pub(super) lifetime: Duration,
    pub(super) idle_since: Instant,
    /// While it is leased.
    pub(super) hold: Option<Hold>,
}

impl Conn {
    pub fn new(seated: Seated, host: Arc<HostConfig>, lifetime: Duration) -> Self {
        let now = Instant::now();
        let fence = Arc::new(Fence::default());
        Self {
            stream: seated.stream,
            inbound: ReadBuffer::default(),
            outbound: WriteBuffer::default(),
            settings: Arc::default(),
            unlisted: Unlisted::None,
            prepared: Prepared::default(),
            sequences: Sequences::None,
            kept: None,
            speaker: None,
            cancel: Arc::new(CancelTarget { host, pid: seated.pid, key: seated.key, fence }),
            parameters: seated.parameters.into(),
            opened: now,
            lifetime,
            idle_since: now,
            hold: None,
        }
    }

    /// Since it was opened.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Asks a question of our own. Only when nothing is owed on the connection; after an error of
    /// [`QueryError::Broken`] it must be dropped.
    pub async fn ask(&mut self, sql: &str) -> Result<Answer, QueryError> {
        let answer = simple_query(&mut *self.stream, sql, ANSWER_LIMIT);
        let late = |_| Err(QueryError::Broken(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())));
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(late)
    }

    /// Reads what the server may have sent while nobody used the connection. False when it is to be
    /// dropped: closed, about to be (57P01), or saying things that nobody asked for.
    pub fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // What came with the last answer first.
        while self.skip_harmless() {
            match self.inbound.poll_fill(&mut cx, &mut *self.stream) {
                Poll::Pending => return self.inbound.is_empty(),
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return false,
            }
        }
        false
    }

    /// Drops whole notices and parameter reports from the front of what came in.
    fn skip_harmless(&mut self) -> bool {
        loop {
            let data = self.inbound.data();
            let header = match backend_header(data) {
                Ok(Some(header)) => header,
                Ok(None) => return data.len() < HEADER,
                Err(_) => return false,
            };
            if !matches!(header.tag, backend::NOTICE | backend::PARAMETER_STATUS) {
                return false;
            }
            if data.len() < header.len {
                self.inbound.reserve_frame(header.len);
                return header.len < ANSWER_LIMIT;
            }
            self.inbound.consume(header.len);
        }
    }

    pub(super) fn is_too_old(&self, now: Instant) -> bool {
        now.duration_since(self.opened) >= self.lifetime
    }
}
