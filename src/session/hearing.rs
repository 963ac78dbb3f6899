//! What a session hears, passed on as PostgreSQL would have: between its transactions, before the end of one is told, and
//! in the order in which it was committed, wherever it was heard.

use std::task::{Context, Poll};

use super::introducing::name;
use super::ledger::Status;
use super::listening::{Listening, Told, tell_missed};
use super::relay::Event;
use super::{Leased, Session};
use crate::cluster::{Heard, Subscription, TOKENS};
use crate::pool::Conn;
use crate::server::query::QueryError;
use crate::sql::Effects;
use crate::wire::author;
use crate::wire::frame::{HEADER, backend};
use crate::wire::view;

/// Bytes for the client that may wait while more is passed on.
const ENOUGH: usize = 64 * 1024;

impl Session {
    /// Passes on what was heard while nothing else is going on, as PostgreSQL does. Ready when something was missed.
    pub(super) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.listening.is_none() || !self.is_at_rest() {
            return Poll::Pending;
        }
        match self.listening.as_deref_mut() {
            Some(Listening::To(subscription)) => {
                while self.outbound.len() < ENOUGH {
                    match subscription.poll_heard(cx) {
                        Poll::Ready(Heard::Notification(frame)) => self.outbound.push(&frame),
                        Poll::Ready(Heard::Token(_)) => {}
                        Poll::Ready(Heard::Lost(reason)) => return Poll::Ready(Event::Missed(reason)),
                        Poll::Pending => break,
                    }
                }
            }
            Some(Listening::Again { coming, .. }) => {
                if let Poll::Ready(Ok(subscription)) = std::pin::Pin::new(coming).poll(cx) {
                    self.listening = Some(Box::new(Listening::To(subscription)));
                    tell_missed(&mut self.outbound);
                    return self.poll_heard(cx);
                }
            }
            None => {}
        }
        Poll::Pending
    }

    /// Notifications wait to be passed on: with the end of the transaction, as PostgreSQL does.
    pub(super) fn has_heard(&self) -> bool {
        matches!(self.listening.as_deref(), Some(Listening::To(subscription)) if !subscription.is_silent())
    }

    /// Passes on what was heard so far.
    pub(super) fn pass_what_is_heard(&mut self) {
        if let Some(Listening::To(subscription)) = self.listening.as_deref() {
            subscription.take_heard().iter().for_each(|frame| self.outbound.push(frame));
        }
    }

    /// No transaction is open, nothing is owed, and the client has been told so.
    fn is_at_rest(&self) -> bool {
        let rests = |leased: &Leased| !leased.active && self.ledger.settled() && self.ledger.status() == Status::Idle;
        self.intake.is_at_rest() && self.lease.as_ref().is_none_or(rests)
    }

    /// The session may have notified itself: the client is told that its transaction is over when it has its
    /// notifications.
    pub(super) fn hears_itself(&self, leased: &Leased) -> bool {
        self.listening.is_some()
            && (self.effects.contains(Effects::NOTIFIES) || (leased.writes && self.catalog.writes_may_notify()))
    }

    /// A frame from the session's own server connection that its subscription hears as well, or that has its place among
    /// what that hears. `at`, `len`: where it is in the server's buffer.
    pub(super) fn hears_it_elsewhere(&mut self, leased: &Leased, tag: u8, at: usize, len: usize) -> bool {
        let Some(Listening::To(subscription)) = self.listening.as_deref_mut().filter(|_| tag == backend::NOTIFICATION)
        else {
            return false;
        };
        let frame = &leased.lease.inbound.data()[at..];
        match frame.get(HEADER..len).filter(|_| leased.told == Told::Everything) {
            Some(body) => subscription.set_aside(body.to_vec()),
            None => return view::notification_channel(frame).is_some_and(|channel| listens_to(subscription, channel)),
        }
        true
    }

    /// Passes on everything that was committed before now and heard for the session. `conn` is idle.
    pub(super) async fn catch_up(&mut self, conn: &mut Conn) -> Result<(), QueryError> {
        let Some(Listening::To(subscription)) = self.listening.as_deref_mut() else { return Ok(()) };
        let (token, _, sql) = subscription.token();
        let answer = conn.ask(&sql).await?;
        // Where it is not known what was heard, that is told when the subscription is asked next.
        let heard = subscription.until(token).await.unwrap_or_default();
        heard.iter().for_each(|frame| self.outbound.push(frame));
        self.pass_notifications(conn.cancel.pid, &answer.notifications);
        Ok(())
    }

    /// What came with an answer to a question of our own.
    pub(super) fn hear_beside(&mut self, leased: &Leased, bodies: Vec<Vec<u8>>) {
        match self.listening.as_deref_mut() {
            Some(Listening::To(subscription)) if leased.told == Told::Everything => {
                bodies.into_iter().for_each(|body| subscription.set_aside(body));
            }
            _ => self.pass_notifications(leased.lease.cancel.pid, &bodies),
        }
    }

    /// Passes on what a server process has sent to the session alone.
    pub(super) fn pass_notifications(&mut self, process: i32, bodies: &[Vec<u8>]) {
        for body in bodies {
            let channel = view::notification_channel_of(body).unwrap_or_default();
            let elsewhere = match self.listening.as_deref() {
                Some(Listening::To(subscription)) => listens_to(subscription, channel),
                _ => false,
            };
            if !elsewhere {
                self.pass_body(process, body);
            }
        }
    }

    /// The tokens of other sessions are nobody's.
    fn pass_body(&mut self, process: i32, body: &[u8]) {
        if !view::notification_channel_of(body).unwrap_or_default().starts_with(TOKENS.as_bytes()) {
            let own = self.process_id(process);
            let out = self.outbound.bytes();
            let at = out.len();
            author::passed_on(out, backend::NOTIFICATION, body);
            name(own, process, &mut out[at..]);
        }
    }

    /// Passes on what was heard before a token by the subscription and by the server connection, which has listened to
    /// the same and to more since some moment before the token. An error: the first is not known.
    pub(super) async fn pass_both(
        &mut self,
        subscription: &mut Subscription,
        token: u64,
        process: i32,
        before: Vec<Vec<u8>>,
    ) -> Result<(), String> {
        let mut beside = subscription.take_beside();
        beside.extend(before);
        let is_double = |body: &Vec<u8>| {
            view::notification_channel_of(body).is_some_and(|channel| listens_to(subscription, channel))
        };
        let doubles = beside.iter().filter(|body| is_double(body)).count();
        let heard = subscription.until(token).await;
        let (mut frames, outcome) = heard.map_or_else(|reason| (Vec::new(), Err(reason)), |frames| (frames, Ok(())));
        // Those that both have heard are the last of the subscription's, which knows who has sent them.
        let mut last = frames.split_off(frames.len().saturating_sub(doubles)).into_iter();
        frames.iter().for_each(|frame| self.outbound.push(frame));
        for body in &beside {
            match if is_double(body) { last.next() } else { None } {
                Some(frame) => self.outbound.push(&frame),
                None => self.pass_body(process, body),
            }
        }
        outcome
    }

    /// The subscription goes on: it has heard itself what it listens to.
    pub(super) fn pass_beside(&mut self, process: i32) {
        if let Some(Listening::To(subscription)) = self.listening.as_deref_mut() {
            let beside = subscription.take_beside();
            self.pass_notifications(process, &beside);
        }
    }
}

fn listens_to(subscription: &Subscription, channel: &[u8]) -> bool {
    str::from_utf8(channel).is_ok_and(|channel| subscription.channels().contains(channel))
}
