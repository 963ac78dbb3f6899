//! The task that holds the listening connection of a database, for as long as anybody listens.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::Channels;
use super::introductions::HearsThem;
use crate::net::buffer::{ReadBuffer, WriteBuffer};
use crate::pool::{Pool, Purpose, Seat, quoted};
use crate::server::Login;
use crate::wire::author;
use crate::wire::frame::{backend, backend_header};
use crate::wire::view;

/// The connection is kept for this long when nobody listens: shorter than `DROP DATABASE` waits for it to go.
const LINGER: Duration = Duration::from_secs(2);
/// For a place among the connections of its host. Whoever wants to listen keeps his own connection then.
const PATIENCE: Duration = Duration::from_secs(2);
/// A connection that is silent for this long is asked whether it is still there, and given up when it does not answer
/// for as long again.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest message of a server to a connection that only listens: payloads have less than 8,000 bytes.
const LONGEST: usize = 64 * 1024;

/// Listens until nobody does any more, or the connection is lost. However the task ends, and if it never begins, whoever
/// listens is told.
pub(super) fn listen(
    channels: Arc<Channels>,
    pool: Arc<Pool>,
    login: Login,
    timeout: Duration,
) -> impl Future<Output = ()> {
    let loses = Loses { channels, reason: Some(format!("pgweir has let {} go", pool.host.name)) };
    async move {
        let mut loses = loses;
        let host = &pool.host;
        let place = pool.budget().place_within(Purpose::Service, host, PATIENCE).await;
        let connected = match place {
            Ok(place) => place.connect(host, &login, timeout).await,
            Err(error) => Err(error),
        };
        let outcome = match connected {
            Ok(connected) => Ear::new(connected.stream).hear(&loses.channels).await,
            Err(error) => Err(error.to_string()),
        };
        loses.reason = outcome.err().map(|reason| {
            tracing::warn!(host = %host.name, database = %login.database, %reason, "the connection that listens for clients is lost");
            format!("the connection to {} on which pgweir listens is lost: {reason}", host.name)
        });
    }
}

struct Loses {
    channels: Arc<Channels>,
    /// `None` where nobody listened any more.
    reason: Option<String>,
}

impl Drop for Loses {
    fn drop(&mut self) {
        if let Some(reason) = &self.reason {
            self.channels.lose(reason);
        }
    }
}

struct Ear {
    stream: Seat,
    inbound: ReadBuffer,
    outbound: WriteBuffer,
    /// For each question that is not answered yet, whether it is one of the book's. (Others only ask whether the server
    /// is there.)
    asked: VecDeque<bool>,
    /// Since the first of them was answered.
    introductions: Option<HearsThem>,
}

impl Ear {
    fn new(stream: Seat) -> Self {
        let (inbound, outbound) = Default::default();
        Self { stream, inbound, outbound, asked: VecDeque::new(), introductions: None }
    }

    /// The error is why the connection is lost.
    async fn hear(mut self, channels: &Channels) -> Result<(), String> {
        let [sync, introductions] = [&channels.sync, &channels.introductions.channel].map(|channel| quoted(channel));
        self.ask(&format!("LISTEN {sync}; LISTEN {introductions}"), false);
        let mut last_heard = Instant::now();
        let mut lonely_since = None;
        loop {
            let question = channels.book().next_question();
            if let Some(sql) = question {
                self.ask(&sql, true);
            }
            if channels.book().is_empty() {
                let since = *lonely_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= LINGER && self.leaves(channels) {
                    return Ok(());
                }
            } else {
                lonely_since = None;
            }
            let pause = if lonely_since.is_some() { LINGER } else { SILENCE };
            tokio::select! {
                moved = poll_fn(|cx| self.poll(cx, channels)) => {
                    moved?;
                    last_heard = Instant::now();
                }
                () = channels.work.notified() => {}
                () = tokio::time::sleep(pause) => {
                    if last_heard.elapsed() >= SILENCE * 2 {
                        return Err(format!("it has not answered for {} s", last_heard.elapsed().as_secs()));
                    }
                    if last_heard.elapsed() >= SILENCE {
                        self.ask("", false);
                    }
                }
            }
        }
    }

    /// Nobody listens any more, and whoever begins to needs another connection.
    fn leaves(&mut self, channels: &Channels) -> bool {
        let mut book = channels.book();
        if !book.is_empty() {
            return false;
        }
        book.lose("nobody listened");
        author::terminate(self.outbound.bytes());
        let _ = self.outbound.poll_flush(&mut Context::from_waker(std::task::Waker::noop()), &mut *self.stream);
        true
    }

    fn ask(&mut self, sql: &str, of_the_book: bool) {
        author::query(self.outbound.bytes(), sql);
        self.asked.push_back(of_the_book);
    }

    /// The server has done what it was asked first.
    fn take_answer(&mut self, channels: &Channels) {
        self.introductions.get_or_insert_with(|| channels.introductions.clone().heard());
        if self.asked.pop_front() == Some(true) {
            channels.book().answered();
            channels.answered.notify_waiters();
        }
    }

    /// Both directions of the socket. Ready when something came. Cancel safe.
    fn poll(&mut self, cx: &mut Context<'_>, channels: &Channels) -> Poll<Result<(), String>> {
        if let Poll::Ready(Err(error)) = self.outbound.poll_flush(cx, &mut *self.stream) {
            return Poll::Ready(Err(error.to_string()));
        }
        match ready!(self.inbound.poll_fill(cx, &mut *self.stream)) {
            Ok(0) => Poll::Ready(Err("the server has closed it".to_owned())),
            Ok(_) => Poll::Ready(self.take(channels)),
            Err(error) => Poll::Ready(Err(error.to_string())),
        }
    }

    /// Takes the frames that are there whole.
    fn take(&mut self, channels: &Channels) -> Result<(), String> {
        loop {
            let data = self.inbound.data();
            let header = backend_header(data).map_err(|bad| bad.to_error().message)?;
            let Some(header) = header else { return Ok(()) };
            if header.len > LONGEST {
                return Err(format!("it has sent a message of {} bytes", header.len));
            }
            let Some(frame) = data.get(..header.len) else {
                self.inbound.reserve_frame(header.len);
                return Ok(());
            };
            match header.tag {
                backend::NOTIFICATION => channels.hear(frame),
                backend::ERROR => {
                    let message = view::error_field(frame, b'M').unwrap_or_default();
                    return Err(String::from_utf8_lossy(message).into_owned());
                }
                backend::READY => self.take_answer(channels),
                _ => {}
            }
            self.inbound.consume(header.len);
        }
    }
}
