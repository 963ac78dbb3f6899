//! Moves bytes both ways until something has to be decided, and decides it: the session's main loop.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::intake::{HIGH_WATER, Step};
use super::leasing::NoLease;
use super::ledger::Status;
use super::replies::Broken;
use super::request::Malformed;
use super::settling::Settled;
use super::slot::Signal;
use super::{Leased, Session, refusal};
use crate::cluster::Place;
use crate::metrics::Limit;
use crate::net::stream::Stream;
use crate::wire::error::PgError;

/// How long a client may take to take the last words.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a client that was told of the end may take to close.
const LINGER: Duration = Duration::from_millis(200);
/// For what a killed session runs, from the cancel to the end of the server's process.
const STUBBORN: Duration = Duration::from_millis(500);

/// Why the relay stops.
#[derive(Debug)]
pub(super) enum Event {
    /// A batch wants a server connection.
    Batch(super::batch::Batch),
    /// Everything that was sent is answered.
    Settled,
    /// The client has left, with or without saying so.
    Left,
    Malformed(Malformed),
    ServerLost(io::Error),
    Broken(Broken),
    Signal(u32),
    /// Notifications may not have been heard: why.
    Missed(String),
}

impl Session {
    /// Serves the client until it leaves or has to be sent away.
    pub(super) async fn run(&mut self) -> Result<(), PgError> {
        loop {
            let event = poll_fn(|cx| self.poll_relay(cx)).await;
            let end = match event {
                Event::Batch(batch) if self.await_catalog(&batch).await => None,
                Event::Batch(batch) => match self.lease_for(&batch).await {
                    Ok(()) => None,
                    Err(NoLease::Refused(error)) => {
                        self.refuse(&batch, &error);
                        None
                    }
                    Err(NoLease::Ended(error)) => Some(Err(error)),
                    Err(NoLease::ClientGone) => Some(Ok(())),
                },
                Event::Settled => match self.lease.as_ref().and_then(|leased| leased.again) {
                    Some(how) => {
                        self.repeat(how).await;
                        None
                    }
                    None => lost(self.settle().await),
                },
                Event::Left => Some(Ok(())),
                Event::Malformed(malformed) => Some(Err(malformed.to_error())),
                Event::ServerLost(error) => self.server_lost(&error),
                Event::Broken(broken) => Some(Err(self.broken(broken))),
                Event::Signal(signals) => self.signalled(signals),
                Event::Missed(reason) => self.missed(&reason),
            };
            if let Some(outcome) = end {
                return self.end(outcome).await;
            }
        }
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let signals = self.slot.take_signals(cx.waker());
            if signals & self.heeded() != 0 {
                if signals & Signal::Kill as u32 != 0 {
                    let _ = self.poll_message_end(cx);
                }
                return Poll::Ready(Event::Signal(signals));
            }
            if let Poll::Ready(event) = self.poll_heard(cx) {
                return Poll::Ready(event);
            }
            let step = match self.take_requests() {
                Ok(step) => step,
                Err(malformed) => return Poll::Ready(Event::Malformed(malformed)),
            };
            match step {
                Step::NeedLease(batch) => {
                    // Where there is a queue, the answers before it do not wait in it.
                    let _ = self.flush_client(cx);
                    return Poll::Ready(Event::Batch(batch));
                }
                Step::Left => return Poll::Ready(Event::Left),
                Step::NeedClient | Step::NeedRoom | Step::Stalled => {}
            }
            let mut progress = false;
            let client_was_slow = self.outbound.len() >= HIGH_WATER;
            if let Some(mut leased) = self.lease.take() {
                let event = self.poll_server(&mut leased, cx);
                self.lease = Some(leased);
                match event {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(event)) => return Poll::Ready(event),
                    Poll::Pending => {}
                }
            }
            if self.flush_client(cx).is_ready_err() {
                return Poll::Ready(Event::Left);
            }
            // Whoever was not polled because the other side was slow has no waker: it is polled now.
            progress |= client_was_slow && self.outbound.len() < HIGH_WATER;
            progress |= matches!(step, Step::NeedRoom) && self.server_has_room();
            if self.has_settled() {
                return Poll::Ready(Event::Settled);
            }
            if self.client_gone {
                if self.nothing_to_wait_for(&step) {
                    return Poll::Ready(Event::Left);
                }
            } else if !matches!(step, Step::NeedRoom) {
                progress |= self.poll_client(cx).is_ready();
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Reads from the client once. Ready when something happened, which may be its end.
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.client_gone || self.inbound.is_full() {
            return Poll::Pending;
        }
        let outcome = ready!(self.inbound.poll_fill(cx, &mut self.client));
        self.client_gone = !matches!(outcome, Ok(count) if count > 0);
        Poll::Ready(())
    }

    /// Writes what is there for the client, as far as it takes that.
    pub(super) fn flush_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let was_full = self.outbound.len() >= HIGH_WATER;
        let flushed = self.outbound.poll_flush(cx, &mut self.client);
        let is_full = self.outbound.len() >= HIGH_WATER;
        if was_full || is_full {
            self.slot.clock.note_full(is_full, Instant::now);
        }
        flushed
    }

    /// In the middle of a message the client can be told nothing: the rest of one goes to it, where that is not long and has
    /// come.
    fn poll_message_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(leased) = &mut self.lease else { return Poll::Ready(()) };
        if leased.holding_back || leased.passing > HIGH_WATER {
            return Poll::Ready(());
        }
        while leased.passing > 0 {
            let conn = &mut *leased.lease;
            if conn.inbound.is_empty() && !matches!(ready!(conn.inbound.poll_fill(cx, &mut *conn.stream)), Ok(1..)) {
                break;
            }
            let count = leased.passing.min(conn.inbound.data().len());
            if !leased.swallowing {
                self.outbound.push(&conn.inbound.data()[..count]);
            }
            conn.inbound.consume(count);
            leased.passing -= count;
        }
        Poll::Ready(())
    }

    fn server_has_room(&self) -> bool {
        self.lease.as_ref().is_none_or(|leased| leased.lease.outbound.len() < HIGH_WATER)
    }

    /// A lease whose every message is answered and of which nobody has been told yet.
    fn has_settled(&self) -> bool {
        let Some(leased) = &self.lease else { return false };
        let answered = leased.active && self.ledger.settled() && leased.passing == 0;
        answered && self.intake.at_boundary() && !leased.own.is_laying()
    }

    /// The client is gone: what it has sent is carried out, as PostgreSQL would, unless that only reads.
    fn nothing_to_wait_for(&self, step: &Step) -> bool {
        let all_taken = matches!(step, Step::NeedClient);
        let only_reads = |leased: &Leased| !leased.writes && self.ledger.status() == Status::Idle;
        // The server waits for what will never come: the rest of a message, `Sync`, or the end of `COPY` data.
        let cut_off = !self.intake.at_boundary() || self.ledger.is_unsynced() || self.ledger.wants_copy_data();
        let over = |leased: &Leased| cut_off || self.ledger.is_empty() || only_reads(leased);
        all_taken && self.lease.as_ref().is_none_or(over)
    }

    /// Both directions of the server's socket. Ready when bytes moved.
    fn poll_server(&mut self, leased: &mut Leased, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        self.synthesise(leased, &mut 0);
        if !leased.lease.outbound.is_flushed() {
            let waiting = leased.lease.outbound.len();
            let conn = &mut *leased.lease;
            let flushed = conn.outbound.poll_flush(cx, &mut *conn.stream);
            let written = waiting - conn.outbound.len();
            leased.lease.pool().metrics.bytes_to_server.inc_by(written as u64);
            match flushed {
                Poll::Ready(Err(error)) => {
                    // What the server said before it closed may explain it.
                    leased.write_error.get_or_insert(error);
                    leased.lease.outbound.clear();
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        if self.outbound.len() >= HIGH_WATER {
            return Poll::Pending;
        }
        let conn = &mut *leased.lease;
        match ready!(conn.inbound.poll_fill(cx, &mut *conn.stream)) {
            Ok(0) => {
                let error = leased.write_error.take();
                return Poll::Ready(Err(Event::ServerLost(
                    error.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()),
                )));
            }
            Ok(count) => leased.lease.pool().metrics.bytes_from_server.inc_by(count as u64),
            Err(error) => return Poll::Ready(Err(Event::ServerLost(error))),
        }
        self.pass_replies(leased, cx).map_err(Event::Broken)?;
        Poll::Ready(Ok(()))
    }

    /// Takes the replies; a run that the client is to get as it is goes straight from the server's
    /// buffer to the client's socket.
    fn pass_replies(&mut self, leased: &mut Leased, cx: &mut Context<'_>) -> Result<(), Broken> {
        let mut run = self.take_replies(leased)?;
        if self.rests_in_batch() && leased.passing == 0 {
            self.slot.clock.rests_in_batch(Instant::now());
        }
        self.receives();
        if run > 0 {
            self.inbound_is_answered(leased);
        }
        if run > 0
            && self.outbound.is_empty()
            && let Poll::Ready(Ok(count)) =
                Pin::new(&mut self.client).poll_write(cx, &leased.lease.inbound.data()[..run])
        {
            leased.lease.inbound.consume(count);
            run -= count;
        }
        self.outbound.push(&leased.lease.inbound.data()[..run]);
        leased.lease.inbound.consume(run);
        Ok(())
    }

    /// The client has got a part of the answer: what it asked cannot be asked again.
    fn inbound_is_answered(&mut self, leased: &mut Leased) {
        if !leased.untouched && !leased.flights.is_empty() {
            let seen = leased.flights.front_stays();
            self.let_go(leased, seen);
        }
    }

    /// Signals that matter in the state that the session is in.
    fn heeded(&self) -> u32 {
        let between = self.lease.is_none() || (self.ledger.settled() && self.ledger.status() == Status::Idle);
        let over = Signal::Kill as u32 | Signal::TransactionTimeout as u32 | Signal::IdleTimeout as u32;
        let always = over | Signal::End as u32 | Signal::HostLost as u32 | Signal::Fenced as u32;
        if between && self.intake.at_boundary() { always | Signal::Shutdown as u32 } else { always }
    }

    /// Still: what was said of it may have come late.
    fn rests_too_long(&self, signal: Signal) -> bool {
        self.lease.is_some() && self.slot.clock.rests_too_long(self.slot.ceilings(), signal)
    }

    /// Everything that was sent is answered, and the end of the batch is still to come.
    fn rests_in_batch(&self) -> bool {
        self.ledger.is_empty() && self.ledger.is_unsynced()
    }

    fn signalled(&mut self, signals: u32) -> Option<Result<(), PgError>> {
        let is = |signal| signals & signal as u32 != 0;
        let error = if is(Signal::Shutdown) || is(Signal::End) {
            refusal::shutting_down()
        } else if is(Signal::HostLost) && self.lease.as_ref().is_some_and(Leased::may_move) {
            return self.server_lost(&io::ErrorKind::TimedOut.into());
        } else if is(Signal::Fenced) && self.lease.is_some() {
            self.fenced()
        } else if is(Signal::Kill)
            && let Some(over) = self.slot.was_cut_off().filter(|_| self.lease.is_some() && !self.ledger.is_empty())
        {
            self.tenant_timed_out();
            // The cancel had no effect: the server's process is ended, and with it the client's connection, which is in
            // the middle of an answer that will never be complete.
            PgError { severity: crate::wire::error::Severity::Fatal, ..self.ceiling_error(over) }
        } else if is(Signal::TransactionTimeout) && self.rests_too_long(Signal::TransactionTimeout) {
            self.limited(Limit::TransactionTimeout);
            let ceiling = self.tenant.limits.transaction_timeout.unwrap_or_default();
            refusal::transaction_timeout(&self.tenant.name, ceiling)
        } else if is(Signal::IdleTimeout) && self.rests_too_long(Signal::IdleTimeout) {
            self.limited(Limit::IdleInTransactionTimeout);
            let ceiling = self.tenant.limits.idle_in_transaction_timeout.unwrap_or_default();
            refusal::idle_in_transaction_timeout(&self.tenant.name, ceiling)
        } else {
            return None;
        };
        let leased = self.closes();
        let in_mid_frame = leased.as_ref().is_some_and(|leased| leased.passing > 0);
        if let Some(leased) = leased.filter(|_| is(Signal::Kill) || is(Signal::End)) {
            match self.ledger.is_empty() {
                true => drop(leased),
                false if is(Signal::Kill) => self.shared.ends(leased.lease.terminate()),
                false => self.shared.ends(leased.lease.end(STUBBORN)),
            }
        }
        self.ledger.abandon();
        // Nothing can be said in the middle of a message.
        Some(if in_mid_frame { Ok(()) } else { Err(error) })
    }

    /// The server that the session has to itself is not the primary any more.
    pub(super) fn fenced(&self) -> PgError {
        let in_transaction = self.ledger.status() != Status::Idle;
        self.lost(Place::Primary, "another server has become the primary", in_transaction)
    }

    /// A read that has not been answered at all runs elsewhere; everything else is lost with its server.
    fn server_lost(&mut self, error: &io::Error) -> Option<Result<(), PgError>> {
        let mut leased = self.lease.take()?;
        self.owes_for_what_has_run();
        self.slot.rests();
        let in_transaction = self.ledger.status() != Status::Idle;
        self.ledger.abandon();
        self.undo(&mut leased);
        let place = leased.place;
        if leased.may_move() {
            let flights = std::mem::take(&mut leased.flights);
            drop(leased);
            self.attempts += 1;
            self.start_over(flights);
            return None;
        }
        if leased.said_fatal {
            // The server's own words have reached the client.
            return Some(Ok(()));
        }
        Some(Err(self.lost(place, &error.to_string(), in_transaction)))
    }

    /// The server connection is closed, whatever it does: a cancel may strike that.
    fn closes(&mut self) -> Option<Leased> {
        let leased = self.lease.take()?;
        self.owes_for_what_has_run();
        self.slot.leases(&leased.lease.cancel);
        Some(leased)
    }

    fn broken(&mut self, broken: Broken) -> PgError {
        let place = self.closes().map_or(Place::Primary, |leased| leased.place);
        match broken {
            Broken::Confused { tag } => refusal::server_confused(&self.group.host(place).config.name, tag),
            Broken::Injection(error) => error,
        }
    }

    /// The batch gets an error of ours instead of a server.
    fn refuse(&mut self, batch: &super::batch::Batch, error: &PgError) {
        self.shared.metrics.error(&error.code);
        error.encode(self.outbound.bytes());
        self.stands();
        if self.refuse_batch(batch) {
            refusal::ready(&mut self.outbound);
        }
    }

    async fn end(&mut self, outcome: Result<(), PgError>) -> Result<(), PgError> {
        // Whoever gets the server connection next may be told its process id.
        self.shared.registry.unregister(&self.slot);
        self.release().await;
        self.inbound.release();
        if let Err(error) = &outcome {
            self.shared.metrics.error(&error.code);
            error.encode(self.outbound.bytes());
        }
        let rest = std::mem::take(self.outbound.bytes());
        farewell(&mut self.client, rest).await;
        outcome
    }
}

fn lost(settled: Settled) -> Option<Result<(), PgError>> {
    match settled {
        Settled::Fine => None,
        Settled::Lost(error) => Some(Err(error)),
    }
}

/// Writes the last words and closes, without waiting for ever: for a moment also for the client to close. What it has
/// sent meanwhile and nobody has read would have the system reset the connection, and the last words be lost.
pub(super) async fn farewell(stream: &mut Stream, out: BytesMut) {
    let said = tokio::time::timeout(FAREWELL, async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    });
    if matches!(said.await, Ok(Ok(()))) {
        // How it closes does not matter any more.
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(stream, &mut tokio::io::sink())).await;
    }
}

trait PollExt {
    fn is_ready_err(&self) -> bool;
}

impl PollExt for Poll<io::Result<()>> {
    fn is_ready_err(&self) -> bool {
        matches!(self, Poll::Ready(Err(_)))
    }
}
