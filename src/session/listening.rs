//! `LISTEN` without a server connection of one's own: what a session listens to is listened to for it
//! ([`crate::cluster::Channels`]), and its server connection goes back to the pool.
//!
//! The server stays the judge of what a session listens to: a statement that depends on it finds it on its server
//! connection ([`Session::tell_channels`]), and what is found there afterwards is taken over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::ledger::Status;
use super::{Leased, Session, refusal};
use crate::cluster::{Group, Subscription};
use crate::config::{LostNotifications, PoolMode};
use crate::net::buffer::WriteBuffer;
use crate::pool::{Conn, Held, MARK, literal, quoted};
use crate::server::query::QueryError;
use crate::sql::Effects;
use crate::wire::author;
use crate::wire::error::PgError;

/// Between two attempts to listen again.
const PAUSE: Duration = Duration::from_millis(500);

/// Who listens for the session.
#[derive(Debug)]
pub(super) enum Listening {
    To(Subscription),
    /// Nobody, since the subscription was lost, until another one comes.
    Again {
        channels: BTreeSet<String>,
        coming: oneshot::Receiver<Subscription>,
    },
}

impl Listening {
    fn channels(&self) -> &BTreeSet<String> {
        match self {
            Self::To(subscription) => subscription.channels(),
            Self::Again { channels, .. } => channels,
        }
    }
}

/// What of that the leased server connection was told to listen to as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Everything,
    /// Everything, if the transaction is committed in which it was told: last with this batch.
    WithTransaction {
        batch: u32,
    },
}

impl Session {
    /// Something may have been missed: the client is told as configured.
    pub(super) fn missed(&mut self, reason: &str) -> Option<Result<(), PgError>> {
        if self.group.lost_notifications == LostNotifications::Close {
            return Some(Err(refusal::notifications_lost(reason)));
        }
        let channels = self.listening.take()?.channels().clone();
        let (give, coming) = oneshot::channel();
        let encoding = self.state.client_encoding().map(str::to_owned);
        tokio::spawn(listen_again(self.group.clone(), encoding, channels.clone(), give));
        self.listening = Some(Box::new(Listening::Again { channels, coming }));
        None
    }

    /// A statement with these effects depends on what the session listens to.
    pub(super) fn depends_on_channels(&self, effects: Effects) -> bool {
        effects.contains(Effects::CHANNELS) && self.listening.is_some()
    }

    /// What a server connection is to be told so that it listens to everything that the session does.
    pub(super) fn tell_channels(&self) -> String {
        let channels = self.listening.iter().flat_map(|listening| listening.channels());
        channels.map(|channel| format!("LISTEN {};", quoted(channel))).collect()
    }

    /// The same ahead of a statement that depends on it, within a transaction, which may be rolled back: also to a
    /// savepoint, and so it is told once for each batch.
    pub(super) fn tell_within_transaction(&mut self, leased: &mut Leased, effects: Effects) {
        let told = match leased.told {
            Told::Nothing => false,
            Told::Everything => true,
            Told::WithTransaction { batch } => batch == leased.batch,
        };
        if told || !self.depends_on_channels(effects) || self.ledger.status() != Status::Transaction {
            return;
        }
        leased.told = Told::WithTransaction { batch: leased.batch };
        // What was told before and is still in force has been changed since.
        let code = format!(
            "BEGIN IF pg_catalog.current_setting('{MARK}', true) IS DISTINCT FROM 'on' THEN {} \
             PERFORM pg_catalog.set_config('{MARK}', 'on', false); END IF; END",
            self.tell_channels()
        );
        self.inject(leased, &format!("DO LANGUAGE plpgsql {}", literal(&code)));
    }

    /// Takes over what the server connection was found to listen to, and makes it listen to nothing; unless the
    /// session keeps the connection anyhow. It is idle.
    pub(super) async fn take_channels(
        &mut self,
        leased: &mut Leased,
        found: BTreeSet<String>,
        marked: bool,
    ) -> Result<(), QueryError> {
        let told = match leased.told {
            Told::Nothing => false,
            Told::Everything => true,
            Told::WithTransaction { .. } => marked,
        };
        if marked {
            let answer = leased.lease.ask(&format!("RESET {MARK}")).await?;
            self.hear_beside(leased, answer.notifications);
        }
        leased.told = Told::Nothing;
        if self.mode == PoolMode::Session || (self.listening.is_none() && found.is_empty()) {
            return Ok(());
        }
        if told {
            self.listens_only_to(&found);
        }
        match self.state.held {
            Some(held) if held != Held::Listen => self.listen_here(&mut leased.lease).await,
            _ => self.listen_elsewhere(leased, found).await,
        }
    }

    /// The server connection was told to listen, and nothing that depends on it has been said.
    pub(super) async fn listens_no_more(&mut self, leased: &mut Leased) -> Result<(), QueryError> {
        let answer = leased.lease.ask("UNLISTEN *").await?;
        leased.told = Told::Nothing;
        self.pass_beside(leased.lease.cancel.pid);
        self.pass_notifications(leased.lease.cancel.pid, &answer.notifications);
        Ok(())
    }

    /// What the session listens to, and what its server connection was found to, is listened to for it from now on. Where
    /// that cannot be it keeps the connection.
    async fn listen_elsewhere(&mut self, leased: &mut Leased, found: BTreeSet<String>) -> Result<(), QueryError> {
        let mut wanted = self.listening.as_ref().map(|listening| listening.channels().clone()).unwrap_or_default();
        wanted.extend(found.iter().cloned());
        let group = self.group.clone();
        let channels = group.audience.channels(self.state.client_encoding());
        let same = match self.listening.as_deref() {
            Some(Listening::To(subscription)) => *subscription.channels() == wanted && subscription.is_of(&channels),
            Some(Listening::Again { .. }) => false,
            None => wanted.is_empty(),
        };
        if !same && !wanted.is_empty() {
            // How the server spells other names in this client's encoding is not known to us.
            let plain = wanted.iter().all(|channel| channel.is_ascii());
            let encoding = self.state.client_encoding();
            let next = match plain {
                true => channels.subscribe(&group, encoding, wanted, true).await,
                false => Err("the name of a channel is not ASCII".to_owned()),
            };
            match next {
                Ok(next) => self.hand_over(leased, next).await?,
                Err(reason) => {
                    tracing::warn!(%reason, "a session that listens keeps its server connection");
                    self.state.held = Some(Held::Listen);
                    return self.listen_here(&mut leased.lease).await;
                }
            }
        }
        if !found.is_empty() || !same {
            // Whatever comes with that is heard elsewhere.
            leased.lease.ask("UNLISTEN *").await?;
        }
        self.pass_beside(leased.lease.cancel.pid);
        Ok(())
    }

    /// What comes before this moment comes from the old subscription and the server connection, everything else from
    /// the new subscription.
    async fn hand_over(&mut self, leased: &mut Leased, mut next: Subscription) -> Result<(), QueryError> {
        let (_, here, token) = next.token();
        let mut sql = format!("LISTEN {}; {token}", quoted(&next.sync_channel()));
        let mut old = None;
        if let Some(Listening::To(subscription)) = self.listening.as_deref_mut() {
            let (number, _, token) = subscription.token();
            sql += &format!("; {token}");
            old = Some(number);
        }
        let mut answer = leased.lease.ask(&sql).await?;
        let before = up_to_token(&mut answer.notifications, &here)?;
        let process = leased.lease.cancel.pid;
        match (self.listening.take().map(|listening| *listening), old) {
            (Some(Listening::To(mut subscription)), Some(token)) => {
                if let Err(reason) = self.pass_both(&mut subscription, token, process, before).await {
                    next.lose(&reason);
                }
            }
            (was, _) => {
                self.pass_notifications(process, &before);
                was.iter().for_each(|_| tell_missed(&mut self.outbound));
            }
        }
        self.listening = Some(Box::new(Listening::To(next)));
        Ok(())
    }

    /// The session keeps its server connection, and listens there itself.
    async fn listen_here(&mut self, conn: &mut Conn) -> Result<(), QueryError> {
        let Some(listening) = self.listening.as_deref_mut() else { return Ok(()) };
        let Listening::To(subscription) = listening else {
            let sql = self.tell_channels();
            let answer = conn.ask(&sql).await?;
            self.listening = None;
            tell_missed(&mut self.outbound);
            self.pass_notifications(conn.cancel.pid, &answer.notifications);
            return Ok(());
        };
        let (token, here, send) = subscription.token();
        let sync = subscription.sync_channel();
        let sql = format!("{}LISTEN {}; {send}", self.tell_channels(), quoted(&sync));
        let mut answer = conn.ask(&sql).await?;
        let after = conn.ask(&format!("UNLISTEN {}", quoted(&sync))).await?;
        let before = up_to_token(&mut answer.notifications, &here)?;
        if let Some(Listening::To(mut subscription)) = self.listening.take().map(|listening| *listening)
            && self.pass_both(&mut subscription, token, conn.cancel.pid, before).await.is_err()
        {
            tell_missed(&mut self.outbound);
        }
        self.pass_notifications(conn.cancel.pid, &answer.notifications);
        self.pass_notifications(conn.cancel.pid, &after.notifications);
        Ok(())
    }

    /// What was unlistened is heard no more.
    fn listens_only_to(&mut self, found: &BTreeSet<String>) {
        match self.listening.as_deref_mut() {
            Some(Listening::To(subscription)) => subscription.restrict(found),
            Some(Listening::Again { channels, .. }) => channels.retain(|channel| found.contains(channel)),
            None => {}
        }
        self.listening.take_if(|listening| listening.channels().is_empty());
    }
}

/// Takes out of what a server connection has heard what came before a token of its own, and the token.
fn up_to_token(heard: &mut Vec<Vec<u8>>, token: &str) -> Result<Vec<Vec<u8>>, QueryError> {
    let is_token = |body: &Vec<u8>| body.strip_suffix(b"\0").is_some_and(|body| body.ends_with(token.as_bytes()));
    let Some(count) = heard.iter().position(is_token) else {
        return Err(QueryError::Broken("a notification of its own did not reach a session that listens".to_owned()));
    };
    let mut before: Vec<_> = heard.drain(..=count).collect();
    before.pop();
    Ok(before)
}

pub(super) fn tell_missed(out: &mut WriteBuffer) {
    author::notice(
        out.bytes(),
        "01000",
        "notifications may have been missed: the connection on which pgweir listens was lost, and is there again",
    );
}

/// Tries until it succeeds, with the servers of the configuration of the time, or until nobody wants it any more.
async fn listen_again(
    mut group: Arc<Group>,
    encoding: Option<String>,
    channels: BTreeSet<String>,
    mut give: oneshot::Sender<Subscription>,
) {
    loop {
        if let Some(successor) = group.successor() {
            group = successor;
        }
        let found = group.audience.channels(encoding.as_deref());
        let subscription = found.subscribe(&group, encoding.as_deref(), channels.clone(), false);
        tokio::select! {
            outcome = subscription => if let Ok(subscription) = outcome {
                // Whoever is gone wants nothing.
                let _ = give.send(subscription);
                return;
            },
            () = give.closed() => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}
