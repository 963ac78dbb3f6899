//! Who speaks: a session that may notify introduces itself to those who listen, on the server connection that it has at
//! the time ([`crate::cluster::Introductions`]). Where nobody listens through pgweir that costs nothing.

use super::ledger::Status;
use super::{Leased, Session};
use crate::cluster::Place;
use crate::config::PoolMode;
use crate::pool::Speaker;
use crate::sql::{Class, Effects, TxControl, Verdict};
use crate::wire::{author, view};

impl Session {
    /// What a server connection is told outside a transaction, ahead of a batch that may notify. `closed`: nothing comes
    /// behind that batch.
    pub(super) fn introduce_ahead(&self, leased: &mut Leased, verdict: Verdict, closed: bool) -> Option<String> {
        let known = self.to_be_known(leased)?;
        if !self.speaks(verdict) && (closed || !is_anothers(leased, known)) {
            return None;
        }
        leased.lease.speaker = Some(known);
        // A transaction of its own, for which nobody has to wait until it is on disk.
        Some(format!("SET LOCAL synchronous_commit = off; {}", self.introduction(leased)))
    }

    /// The same ahead of a statement on a connection that the session has already.
    pub(super) fn introduce_itself(&mut self, leased: &mut Leased, verdict: Verdict) {
        let Some(known) = self.to_be_known(leased) else { return };
        let notifies = verdict.effects.contains(Effects::NOTIFIES);
        match self.ledger.status() {
            Status::Idle if self.ledger.is_empty() => {
                let introduction = self.introduce_ahead(leased, verdict, false);
                introduction.iter().for_each(|sql| self.inject(leased, sql));
            }
            // It may be rolled back.
            Status::Transaction if notifies => self.introduce_for_now(leased),
            // A transaction may be open by then.
            Status::Idle if (notifies || is_anothers(leased, known)) && !self.ledger.is_unsynced() => {
                self.introduce_for_now(leased);
            }
            _ => {}
        }
    }

    /// Nobody knows whether that lasts.
    fn introduce_for_now(&mut self, leased: &mut Leased) {
        leased.lease.speaker = None;
        let introduction = self.introduction(leased);
        self.try_query(leased, &introduction);
    }

    /// `None` where nobody listens, or all who do know the session already. In session mode the server's process id is the
    /// client's.
    fn to_be_known(&self, leased: &Leased) -> Option<Speaker> {
        if leased.place != Place::Primary || self.mode == PoolMode::Session {
            return None;
        }
        let known = self.group.audience.introductions.known_as(self.process_id(leased.lease.cancel.pid))?;
        (leased.lease.speaker != Some(known)).then_some(known)
    }

    /// May it notify, or begin a transaction that does so without a word of it (by a trigger)?
    fn speaks(&self, verdict: Verdict) -> bool {
        let writes = || verdict.class == Class::Primary || verdict.tx != TxControl::None;
        verdict.effects.contains(Effects::NOTIFIES) || (self.catalog.writes_may_notify() && writes())
    }

    fn introduction(&self, leased: &Leased) -> String {
        self.group.audience.introductions.introduce(self.process_id(leased.lease.cancel.pid))
    }

    /// The process id that the client takes for its own: that of `BackendKeyData` or, once it has asked for it
    /// (`pg_backend_pid()`), that of the server process, which it keeps from then on.
    pub(super) fn process_id(&self, process: i32) -> i32 {
        let knows = self.state.knows_process() || self.effects.contains(Effects::PROCESS);
        if knows { process } else { self.slot.pid() }
    }
}

/// What comes from there would be taken for another session's.
fn is_anothers(leased: &Leased, known: Speaker) -> bool {
    leased.lease.speaker.is_some_and(|speaker| speaker.session != known.session)
}

/// A notification, of which the beginning has to be there, from the session's own server connection: where it comes from
/// that process, it is the session's own. (What others have made it say was said before it listened.)
pub(super) fn name(session: i32, process: i32, notification: &mut [u8]) {
    if view::notifier(notification) == Some(process) {
        author::notified_by(notification, session);
    }
}
