//! `LISTEN` for many: one listening connection of a database hears for all its clients
//! (PostgreSQL, "Asynchronous Notification").
//!
//! [`Channels`] keeps the book of who listens to what (`book`), and a task of its own holds the connection
//! (`ear`) for as long as anybody listens. What it hears goes to the [`Subscription`]s by their `mailbox`es, in
//! the order in which the transactions were committed.
//!
//! A *token* is a notification of ours on a channel that only the listening connection (and whoever sends the
//! token) listens to. It marks a place in that order which two connections can agree on.

mod book;
mod ear;
mod introductions;
mod mailbox;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::group::{Group, Place};
use crate::pool::{literal, quoted};
use book::Book;
pub use introductions::Introductions;
pub use mailbox::Heard;
use mailbox::Mailbox;

/// For a channel to be listened to, and for a token to be heard.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the channels begin on which tokens are sent. Whoever hears one of them has heard nothing.
pub const TOKENS: &str = "pgweir_token_";

/// Everybody who listens in one database.
#[derive(Debug, Default)]
pub struct Audience {
    pub introductions: Arc<Introductions>,
    /// By client encoding, where that is not the database's default.
    channels: Mutex<HashMap<Option<String>, Arc<Channels>>>,
}

impl Audience {
    /// Those with this client encoding, where that is not the database's default.
    pub fn channels(&self, encoding: Option<&str>) -> Arc<Channels> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Channels::new(self.introductions.clone()));
        channels.entry(encoding.map(str::to_owned)).or_insert_with(new).clone()
    }
}

/// Who listens to what in one database, under one client encoding: payloads come in the connection's.
#[derive(Debug)]
pub struct Channels {
    introductions: Arc<Introductions>,
    /// The channel of the tokens.
    sync: String,
    book: Mutex<Book>,
    /// The connection is to be told something, or may not be needed any more.
    work: Notify,
    /// Something that was asked has been answered, or will not be.
    answered: Notify,
}

impl Channels {
    pub(super) fn new(introductions: Arc<Introductions>) -> Self {
        Self {
            introductions,
            sync: format!("{TOKENS}{:032x}", rand::random::<u128>()),
            book: Mutex::default(),
            work: Notify::new(),
            answered: Notify::new(),
        }
    }

    /// Listens for one session; returns when the server is known to. A `deaf` subscription hears nothing before its
    /// first token. The error is for the log.
    ///
    /// Cancel safe.
    pub async fn subscribe(
        self: &Arc<Self>,
        group: &Group,
        encoding: Option<&str>,
        channels: BTreeSet<String>,
        deaf: bool,
    ) -> Result<Subscription, String> {
        let (id, mailbox) = self.book().add(&channels, deaf);
        let subscription = Subscription { of: self.clone(), id, channels, mailbox, tokens: 0, beside: Vec::new() };
        if self.book().begins() {
            let pool = group.pool(Place::Primary);
            let mut login = pool.login();
            login.parameters.push(("application_name".into(), "pgweir listen".into()));
            login.parameters.extend(encoding.map(|encoding| ("client_encoding".into(), encoding.to_owned())));
            let timeout = pool.settings().connect_timeout;
            group.spawn(ear::listen(self.clone(), pool.clone(), login, timeout));
        }
        self.work.notify_one();
        match tokio::time::timeout(PATIENCE, self.heard(&subscription)).await {
            Ok(outcome) => outcome.map(|()| subscription),
            Err(_) => Err(format!("the server did not listen within {} s", PATIENCE.as_secs())),
        }
    }

    async fn heard(&self, subscription: &Subscription) -> Result<(), String> {
        loop {
            let mut answered = std::pin::pin!(self.answered.notified());
            answered.as_mut().enable();
            if let Some(reason) = subscription.mailbox.lost() {
                return Err(reason);
            }
            if self.book().hears(&subscription.channels) {
                return Ok(());
            }
            answered.await;
        }
    }

    /// A `NotificationResponse` has come, whole.
    fn hear(&self, frame: &[u8]) {
        if !self.book().hear(frame, &self.sync, &self.introductions.channel) {
            self.introductions.again();
        }
    }

    /// Nothing more is heard: every subscription is told, and forgotten.
    pub fn lose(&self, reason: &str) {
        self.book().lose(reason);
        self.answered.notify_waiters();
        self.work.notify_one();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one session listens to. Dropping it ends that.
#[derive(Debug)]
pub struct Subscription {
    of: Arc<Channels>,
    id: u64,
    channels: BTreeSet<String>,
    mailbox: Arc<Mailbox>,
    /// Sent so far.
    tokens: u64,
    /// Bodies of what the session's own server connection has heard meanwhile, which listens to all of it as well, and
    /// perhaps to more.
    beside: Vec<Vec<u8>>,
}

impl Subscription {
    pub fn channels(&self) -> &BTreeSet<String> {
        &self.channels
    }

    /// Is it one of these channels' (another encoding has others)?
    pub fn is_of(&self, channels: &Arc<Channels>) -> bool {
        Arc::ptr_eq(&self.of, channels)
    }

    /// The channel that whoever sends a token listens to in order to hear it too.
    pub fn sync_channel(&self) -> String {
        self.of.sync.clone()
    }

    /// A new token: its number, its payload, and the statement that sends it.
    pub fn token(&mut self) -> (u64, String, String) {
        self.tokens += 1;
        let payload = format!("{} {}", self.id, self.tokens);
        let sql = format!("NOTIFY {}, {}", quoted(&self.of.sync), literal(&payload));
        (self.tokens, payload, sql)
    }

    /// What was heard next. Cancel safe.
    pub fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<Heard> {
        self.mailbox.poll_take(cx)
    }

    /// What the session's own server connection has heard waits for its turn. Where what the subscription has heard was
    /// too much to be kept, so is this.
    pub fn set_aside(&mut self, body: Vec<u8>) {
        if self.mailbox.lost().is_none() {
            self.beside.push(body);
        }
    }

    /// What was set aside, and is no more.
    pub fn take_beside(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.beside)
    }

    /// Nothing was heard that has not been taken.
    pub fn is_silent(&self) -> bool {
        self.mailbox.is_empty()
    }

    /// What was heard so far, up to where something may have been missed.
    pub fn take_heard(&self) -> Vec<Bytes> {
        self.mailbox.take_heard()
    }

    /// Everything that was heard before a token; an error where that is not known, for the subscription was lost or
    /// the token does not come.
    pub async fn until(&self, token: u64) -> Result<Vec<Bytes>, String> {
        let mut notifications = Vec::new();
        let heard = async {
            loop {
                match std::future::poll_fn(|cx| self.poll_heard(cx)).await {
                    Heard::Notification(frame) => notifications.push(frame),
                    Heard::Token(number) if number >= token => return Ok(()),
                    Heard::Token(_) => {}
                    Heard::Lost(reason) => return Err(reason),
                }
            }
        };
        let late = |_| Err(format!("what was heard is not known after {} s", PATIENCE.as_secs()));
        match tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(late) {
            Ok(()) => Ok(notifications),
            Err(reason) => {
                self.mailbox.put_back(notifications);
                self.mailbox.lose(&reason);
                Err(reason)
            }
        }
    }

    /// Hears nothing more on other channels than these.
    pub fn restrict(&mut self, to: &BTreeSet<String>) {
        self.channels.retain(|channel| to.contains(channel));
        self.of.book().restrict(self.id, to);
        self.mailbox.restrict(&self.channels);
        self.of.work.notify_one();
    }

    /// Something was missed: that is what comes next.
    pub fn lose(&self, reason: &str) {
        self.mailbox.lose(reason);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.of.book().remove(self.id);
        self.of.work.notify_one();
    }
}
