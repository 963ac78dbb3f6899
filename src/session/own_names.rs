//! Prepared statements under the client's own names.
//!
//! SQL's `PREPARE`, `EXECUTE` and `DEALLOCATE` and the protocol's messages share their names, and
//! `pg_prepared_statements` shows them. Before a statement that speaks of them in SQL, those that it speaks of are laid
//! out on the server connection under the client's own names, and from there on the server decides: what the client
//! calls by its name goes on as it is. Once all is settled the server is asked what has become of them, and the
//! connection is cleared, unless the session has statements of SQL's: then it stays.

use std::sync::Arc;

use super::ledger::{Awaits, Fate, Status};
use super::preparing::{is_ours, put_parse};
use super::sending::{FLUSH, SYNC};
use super::statements::{Change, Unnamed};
use super::{Leased, Session};
use crate::pool::{Statement, server_name};
use crate::server::QueryError;
use crate::sql::{Effects, Verdict, executed_name, prepared_names};
use crate::wire::view;

/// What of a session's statements is on its server connection under its own names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Own {
    reach: Reach,
    /// The server is asked to parse some; a message of the client's waits for them.
    laying: bool,
    /// The server was asked for its answers so far.
    asked: bool,
    /// How often those that the waiting message needs were laid out.
    tries: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reach {
    /// Nothing.
    #[default]
    None,
    /// What was needed, and whatever is prepared now.
    Some,
    /// The same, and there are none of ours.
    Only,
}

impl Own {
    pub(super) fn is_on(self) -> bool {
        self.reach != Reach::None
    }

    pub(super) fn is_laying(self) -> bool {
        self.laying
    }

    /// Nothing is waited for any more.
    pub(super) fn rests(&mut self) {
        *self = Self { reach: self.reach, ..Self::default() };
    }
}

impl Session {
    /// Before a statement is sent: has it to wait until the prepared statements are there that it speaks of?
    pub(super) fn lays_out(&mut self, leased: &mut Leased, verdict: Verdict, text: &[u8]) -> bool {
        let waits = verdict.effects.contains(Effects::STATEMENTS) && self.makes_ready(leased, verdict, text);
        if !waits {
            leased.own.rests();
        }
        waits
    }

    /// The same for the unnamed statement as it was parsed before.
    pub(super) fn unnamed_waits(&mut self, leased: &mut Leased) -> bool {
        let Unnamed::Kept { identity, verdict } = &self.unnamed else { return false };
        let verdict = *verdict;
        let speaks = verdict.effects.contains(Effects::STATEMENTS);
        let text = speaks.then(|| view::cstring(identity).map_or(&[][..], |(text, _)| text).to_vec());
        text.is_some_and(|text| self.lays_out(leased, verdict, &text))
    }

    /// The same for what the client has prepared as `name`.
    pub(super) fn named_waits(&mut self, leased: &mut Leased, verdict: Verdict, name: &[u8]) -> bool {
        let named = self.names.get(name).filter(|_| verdict.effects.contains(Effects::STATEMENTS));
        let statement = named.map(|named| named.statement.clone());
        statement.is_some_and(|statement| self.lays_out(leased, verdict, statement.text()))
    }

    fn makes_ready(&mut self, leased: &mut Leased, verdict: Verdict, text: &[u8]) -> bool {
        // It will not be carried out, or refused as it is.
        if self.ledger.is_skipping() || self.ledger.wants_copy_data() || leased.again.is_some() {
            return false;
        }
        let shows = verdict.effects.contains(Effects::SHOWS_STATEMENTS);
        let names = if shows { None } else { prepared_names(text) };
        if names.as_ref().is_none_or(|names| !names.is_empty()) && self.awaits_answers(leased) {
            return true;
        }
        if self.ledger.settled() && self.ledger.status() == Status::Failed {
            return false;
        }
        self.enter_own(leased);
        if names.as_ref().is_none_or(|names| names.iter().any(|name| is_ours(name))) {
            self.sweep(leased);
        }
        let names = names.unwrap_or_else(|| self.names.all());
        let missing = names.into_iter().filter(|name| self.names.has(name) && !self.is_own(leased, name)).collect();
        // First as they are, then something in their place, save in that of one that is to be executed.
        let tries = if leased.own.tries > 0 && executed_name(text).is_some() { 1 } else { 2 };
        leased.own.tries < tries && self.lay_out_all(leased, missing)
    }

    /// What the books say of names is sure when all is answered. The server answers before the end of a batch when it
    /// is asked to.
    pub(super) fn awaits_answers(&mut self, leased: &mut Leased) -> bool {
        self.synthesise(leased, &mut 0);
        let waits = !self.ledger.is_empty();
        if waits && self.ledger.is_unsynced() && !std::mem::replace(&mut leased.own.asked, true) {
            leased.lease.outbound.push(&FLUSH);
        }
        waits
    }

    /// An `EXECUTE` of what cannot be parsed any more fails as its text does. Returns the text.
    pub(super) fn unparsable(&self, leased: &Leased, verdict: Verdict, text: &[u8]) -> Option<Vec<u8>> {
        let speaks = leased.own.is_on() && verdict.effects.contains(Effects::STATEMENTS);
        if !speaks || self.ledger.is_skipping() || self.ledger.status() == Status::Failed {
            return None;
        }
        let name = executed_name(text).filter(|name| !self.is_own(leased, name))?;
        self.names.get(&name).map(|named| named.statement.text().to_vec())
    }

    fn enter_own(&mut self, leased: &mut Leased) {
        if leased.own.is_on() {
            return;
        }
        leased.own.reach = Reach::Some;
        // The connection has to be asked before anybody else gets it, also when nothing comes of the statement.
        self.effects |= Effects::STATEMENTS;
        self.state.ask_everything();
        self.stays(leased);
    }

    /// Takes ours off the connection: they are nothing for the client to see, nor in the way of names like theirs.
    fn sweep(&mut self, leased: &mut Leased) {
        if leased.own.reach == Reach::Only {
            return;
        }
        leased.own.reach = Reach::Only;
        let swept = leased.lease.prepared.take_shared();
        let settled = self.ledger.settled();
        let any = !swept.is_empty();
        for (id, cost) in swept {
            self.put_close(leased, server_name(id).as_bytes(), Some(Change::Closed { id, cost }));
        }
        if any && settled {
            self.put_sync(leased);
        }
    }

    /// True when they have to be waited for: whether the server can parse them still is not known.
    fn lay_out_all(&mut self, leased: &mut Leased, missing: Vec<Vec<u8>>) -> bool {
        if missing.is_empty() {
            return false;
        }
        if self.ledger.is_unsynced() {
            // What fails here fails the batch, with the reason.
            missing.iter().for_each(|name| self.lay_out(leased, name, Fate::Swallow));
            return false;
        }
        self.begin_statement(leased);
        for name in missing {
            // Prepared statements outlive a transaction that is rolled back, and one that cannot be parsed must not
            // make the client's fail.
            let within = self.ledger.status() == Status::Transaction;
            if within {
                self.try_query(leased, "SAVEPOINT pgweir_aside");
            }
            self.lay_out(leased, &name, Fate::Try);
            self.put_sync(leased);
            if within {
                self.try_query(leased, "ROLLBACK TO SAVEPOINT pgweir_aside; RELEASE SAVEPOINT pgweir_aside");
            }
        }
        leased.own.tries += 1;
        leased.own.laying = true;
        true
    }

    /// Puts a statement of the client's on the server connection under its own name. What cannot be parsed any more is
    /// there all the same, and fails when it is executed.
    fn lay_out(&mut self, leased: &mut Leased, name: &[u8], fate: Fate) {
        let generation = self.generation(leased);
        let Some(named) = self.names.get_mut(name) else { return };
        let statement = self.group.statements.own(named.statement.identity(), name);
        let before = std::mem::replace(&mut named.statement, statement.clone());
        self.close_last(leased, before);
        self.put_close(leased, name, None);
        put_parse(leased, name, if leased.own.tries > 0 { STAND_IN } else { statement.identity() });
        self.ledger.push(Awaits::Parse, fate, Some(Change::Prepared(statement.id())));
        leased.lease.prepared.insert(&statement, generation);
        leased.lease.pool().metrics.prepared_misses.inc();
    }

    /// What nobody else holds would be of no use on the connection, and in the way of what is.
    fn close_last(&mut self, leased: &mut Leased, before: Arc<Statement>) {
        let (id, cost) = (before.id(), before.cost());
        if !before.is_own() && leased.lease.prepared.has(id) && Arc::into_inner(before).is_some() {
            leased.lease.prepared.remove(id);
            self.put_close(leased, server_name(id).as_bytes(), Some(Change::Closed { id, cost }));
        }
    }

    /// The client is about to use or to make a statement of this name: the connection has it if the client has.
    pub(super) fn ready_own(&mut self, leased: &mut Leased, name: &[u8]) {
        if is_ours(name) {
            self.sweep(leased);
        }
        if self.names.has(name) && !self.is_own(leased, name) {
            self.lay_out(leased, name, Fate::Swallow);
        }
    }

    /// Does the server know by this name what the client means by it?
    pub(super) fn goes_by(&self, leased: &Leased, name: &[u8]) -> bool {
        leased.own.is_on()
            && match self.names.has(name) {
                true => self.is_own(leased, name),
                false => !is_ours(name) || leased.own.reach == Reach::Only,
            }
    }

    fn is_own(&self, leased: &Leased, name: &[u8]) -> bool {
        let own = self.names.get(name).filter(|named| named.statement.is_own());
        own.is_some_and(|named| leased.lease.prepared.has(named.statement.id()))
    }

    /// A `Sync` of ours between the client's batches.
    fn put_sync(&mut self, leased: &mut Leased) {
        leased.lease.outbound.push(&SYNC);
        self.ledger.push(Awaits::Sync, Fate::Try, None);
    }

    /// The server has dropped every statement, save those that were sent behind the one that did it.
    pub(super) fn all_dropped(&mut self, leased: &mut Leased) {
        let (mut names, mut ids) = (Vec::new(), Vec::new());
        for change in self.ledger.changes_mut() {
            match change {
                Change::Name { name, before, prepared } => {
                    *before = None;
                    names.push(name.clone());
                    ids.extend(*prepared);
                }
                Change::Prepared(id) => ids.push(*id),
                _ => {}
            }
        }
        self.names.retain(|name, _| names.iter().any(|later| **later == *name));
        leased.lease.prepared.retain(|id| ids.contains(&id));
    }

    /// All is settled: finds out what has become of the statements, and clears the connection.
    pub(super) async fn gather_in(&mut self, leased: &mut Leased) -> Result<(), QueryError> {
        let ours = if leased.own.reach == Reach::Only { "" } else { NOT_OURS };
        let answer = leased.lease.ask(&format!("{STATEMENTS} {ours}")).await?;
        self.hear_beside(leased, answer.notifications);
        let (mut of_sql, mut own) = (false, Vec::new());
        for row in answer.sets.into_iter().flatten() {
            match &row[..] {
                [Some(name), Some(from_sql)] if from_sql == "f" => own.push(name.clone()),
                _ => of_sql = true,
            }
        }
        let prepared = &mut leased.lease.prepared;
        self.names.retain(|name, named| {
            let id = named.statement.id();
            let gone = named.statement.is_own() && prepared.has(id) && !own.iter().any(|own| is_called(own, name));
            if gone {
                prepared.remove(id);
            }
            !gone
        });
        if of_sql {
            return Ok(());
        }
        leased.own = Own::default();
        leased.lease.prepared.forget_own();
        if own.is_empty() {
            return Ok(());
        }
        leased.lease.prepared.clear();
        let answer = leased.lease.ask("DEALLOCATE ALL").await?;
        self.hear_beside(leased, answer.notifications);
        Ok(())
    }
}

/// Is `name` the client's for a statement that the server shows as `shown`? It keeps 63 bytes of it, and those that
/// are no text are not shown.
fn is_called(shown: &str, name: &[u8]) -> bool {
    const LONGEST: usize = 63;
    let name = String::from_utf8_lossy(name);
    shown == name || (shown.len() >= LONGEST - 3 && name.starts_with(shown))
}

/// In place of a statement that cannot be parsed any more: no parameters, no types for them.
const STAND_IN: &[u8] = b"EXECUTE \"pgweir: this statement can no longer be parsed\"\0\0\0";

const STATEMENTS: &str = "SELECT name, from_sql FROM pg_catalog.pg_prepared_statements";
const NOT_OURS: &str = "WHERE NOT pg_catalog.starts_with(name, 'pgweir_')";
