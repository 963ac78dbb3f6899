//! Prepared statements on their way to the server: the client's names become ours, and a server connection is
//! given what it lacks.

use std::sync::Arc;

use bytes::BufMut;
use xxhash_rust::xxh3::xxh3_64;

use super::intake::{LONGEST_NAMES, Sent, Step};
use super::ledger::{Awaits, Fate, Status};
use super::sending::FLUSH;
use super::statements::{Change, Named, Unnamed};
use super::{Again, Leased, Schema, Session, refusal};
use crate::pool::{OUR_NAMES, Shape, Statement, server_name};
use crate::sql::{TxControl, Verdict};
use crate::wire::error::PgError;
use crate::wire::frame::frontend;
use crate::wire::view::{BindHead, Parse};

impl Session {
    /// `Parse` of a statement with a name.
    pub(super) fn send_parse(&mut self, leased: &mut Leased, parse: Parse<'_>) -> Sent {
        if self.may_be_taken(leased, parse.name) {
            return Sent::Not(Step::Stalled);
        }
        let verdict = self.parse_verdict(&parse);
        if self.lays_out(leased, verdict, parse.text) {
            self.judged(verdict);
            return Sent::Not(Step::Stalled);
        }
        let kept = self.names.bytes() + parse.identity.len();
        let refused = match self.note(leased, verdict, parse.text) {
            // Under the client's own names the server says so.
            _ if self.names.has(parse.name) && !leased.own.is_on() => {
                self.try_parse(leased, &parse);
                Some(refusal::statement_exists(parse.name))
            }
            _ if kept > LONGEST_NAMES => Some(refusal::too_many_statements(kept, LONGEST_NAMES)),
            noted => noted.err(),
        };
        if let Some(error) = refused {
            return self.poison(leased, error);
        }
        self.begin_statement(leased);
        let environment = self.state.environment();
        let own = leased.own.is_on();
        if own {
            self.ready_own(leased, parse.name);
        }
        let statement = match own {
            true => self.group.statements.own(parse.identity, parse.name),
            false => self.group.statements.intern(parse.identity, environment),
        };
        let (name, generation) = (Arc::<[u8]>::from(parse.name), self.catalog.generation());
        let (parsed, told) = (self.generation(leased), Shape::default());
        let named = {
            let (name, statement) = (name.clone(), statement.clone());
            Named { name, statement, parsed, told, verdict, generation, environment }
        };
        let before = self.names.set(parse.name, Some(named));
        leased.renamed.push((xxh3_64(parse.name), leased.batch));
        if let Some(flight) = leased.flights.before() {
            flight.names.push((name, before.clone()));
        }
        let change = |prepared| Some(Change::Name { name: parse.name.into(), before, prepared });
        if own {
            self.put_own(leased, &statement, change(Some(statement.id())));
            return Sent::Done;
        }
        let known = leased.lease.prepared.touch_silent(statement.id(), parsed);
        // In a failed transaction PostgreSQL refuses to parse, and after a change of the schema what was
        // prepared before may be out of date: the server is asked again. Also where an earlier batch has
        // yet to show whether the transaction fails.
        let sound = self.ledger.status() != Status::Failed && !self.ledger.reaches_back();
        if known && leased.schema == Schema::Same && sound {
            conn_metrics(leased).prepared_hits.inc();
            self.ledger.push(Awaits::Parse, Fate::Synthesise, change(None));
            return Sent::Done;
        }
        conn_metrics(leased).prepared_misses.inc();
        self.put_parse(leased, &statement, Fate::Forward, change(Some(statement.id())));
        Sent::Done
    }

    /// Is it not known yet whether the name is free? An earlier batch may still fail and leave it so, or taken.
    fn may_be_taken(&mut self, leased: &mut Leased, name: &[u8]) -> bool {
        if leased.own.is_on() {
            return self.names.has(name) && !self.goes_by(leased, name) && self.awaits_answers(leased);
        }
        (self.is_renamed(leased, name) || self.names.has(name)) && self.ledger.reaches_back()
    }

    /// PostgreSQL looks at the statement before it looks at its name: what is wrong with that is said first.
    fn try_parse(&mut self, leased: &mut Leased, parse: &Parse<'_>) {
        let statement = self.group.statements.intern(parse.identity, self.state.environment());
        let generation = self.generation(leased);
        if leased.lease.prepared.touch(statement.id(), generation).is_none() {
            self.put_parse(leased, &statement, Fate::Swallow, Some(Change::Prepared(statement.id())));
        }
    }

    /// `Bind` of a statement with a name: the server knows it by another.
    pub(super) fn send_bind(&mut self, leased: &mut Leased, head: BindHead<'_>, len: usize) -> Sent {
        if leased.checking {
            return Sent::Not(Step::Stalled);
        }
        let ready = self.ready_named(leased, head.statement);
        let named = match ready.and_then(|named| self.as_told(leased, named)) {
            Ok(Some(named)) => named,
            Ok(None) => return Sent::Not(Step::Stalled),
            Err(error) => return self.poison(leased, error),
        };
        let verdict = self.verdict_of(head.statement).unwrap_or(named.verdict);
        if let Err(error) = self.note(leased, verdict, named.statement.text()) {
            return self.poison(leased, error);
        }
        self.begin_statement(leased);
        let name = named.statement.server_name();
        let rewritten = len - head.statement.len() + name.len();
        let out = leased.lease.outbound.bytes();
        leased.portals = true;
        leased.bound = Some((xxh3_64(head.portal), named.used()));
        out.put_u8(frontend::BIND);
        out.put_u32((rewritten - 1) as u32);
        out.put_slice(head.portal);
        out.put_u8(0);
        out.put_slice(name);
        out.put_u8(0);
        let relies = named.told.rows.is_some() && !self.intake.describes_rows();
        let change = if relies { Change::ReliesOn(named.used()) } else { Change::Uses(named.used()) };
        self.ledger.push(Awaits::Bind, Fate::Forward, Some(change));
        Sent::Head(head.len())
    }

    /// Whether the server connection has the statement is not known before an earlier batch is answered,
    /// which may fail before it comes to its `Parse`.
    pub(super) fn is_unsure(&mut self, leased: &mut Leased, name: &[u8]) -> bool {
        if self.ledger.is_empty() {
            leased.parsed.clear();
            leased.renamed.clear();
            return false;
        }
        let Some(named) = self.names.get(name) else { return false };
        let mut id = named.statement.id();
        let environment = self.state.environment();
        if !named.statement.environment().is(environment) && leased.lease.prepared.touch(id, 0).is_none() {
            // Under the settings of now it is another.
            id = self.group.statements.intern(named.statement.identity(), environment).id();
        }
        let parsed = leased.parsed.iter().any(|&(parsed, batch)| parsed == id && leased.awaits(batch, &self.ledger));
        parsed || self.is_renamed(leased, name)
    }

    /// Whether a name means what it seems to is not known before an earlier batch is answered.
    pub(super) fn is_renamed(&self, leased: &Leased, name: &[u8]) -> bool {
        let hash = if leased.renamed.is_empty() { 0 } else { xxh3_64(name) };
        leased.renamed.iter().any(|&(renamed, batch)| renamed == hash && leased.awaits(batch, &self.ledger))
    }

    /// Makes sure that the server connection has the statement that the client calls `name`; a name
    /// that stands for nothing fails as PostgreSQL would fail it.
    pub(super) fn ready_named(&mut self, leased: &mut Leased, name: &[u8]) -> Result<Named, PgError> {
        if leased.own.is_on() {
            self.ready_own(leased, name);
            return self.names.get(name).cloned().ok_or_else(|| refusal::no_such_statement(name));
        }
        let named = self.names.get(name).cloned().ok_or_else(|| refusal::no_such_statement(name))?;
        // Parsed in a transaction that was rolled back, it may be ahead of everybody.
        let since = named.parsed.min(self.generation(leased));
        if leased.lease.prepared.touch(named.statement.id(), since).is_some() {
            conn_metrics(leased).prepared_hits.inc();
            return Ok(named);
        }
        let named = self.under_present_settings(named);
        if leased.lease.prepared.touch(named.statement.id(), since).is_some() {
            conn_metrics(leased).prepared_hits.inc();
            return Ok(named);
        }
        conn_metrics(leased).prepared_misses.inc();
        let change = Change::Prepared(named.statement.id());
        self.put_parse(leased, &named.statement, Fate::Swallow, Some(change));
        Ok(named)
    }

    /// Makes sure that the statement is on this server connection what the client was told of it: between the two
    /// `Parse`s the schema may have changed. `None` while the server is being asked.
    fn as_told(&mut self, leased: &mut Leased, named: Named) -> Result<Option<Named>, PgError> {
        let mut told = named.told;
        if self.intake.describes_rows() {
            told.rows = None;
        }
        let Some(kept) = leased.lease.prepared.touch(named.statement.id(), 0) else { return Ok(Some(named)) };
        match kept.shape.agrees_with(told) {
            // The server will say no, and to what.
            _ if leased.again.is_some() || self.ledger.is_skipping() || self.ledger.status() == Status::Failed => {}
            Some(true) => {}
            None => {
                self.ask_for_shape(leased, &named);
                return Ok(None);
            }
            Some(false) if leased.may_move() => {
                // A replica that is behind the schema, or a connection that is.
                leased.lease.prepared.retire(named.statement.id());
                leased.again = Some(Again::OnPrimary);
                self.ledger.mute();
            }
            Some(false) if kept.generation <= named.parsed => {
                // Which of them is older nobody knows; but the schema has changed.
                leased.lease.prepared.remove(named.statement.id());
                self.group.schema_changed();
                let named = self.ready_named(leased, &named.name)?;
                self.ask_for_shape(leased, &named);
                return Ok(None);
            }
            Some(false) if kept.generation < self.generation(leased) => {
                // The schema has changed since, perhaps back to what the client knows.
                leased.lease.prepared.remove(named.statement.id());
                let named = self.ready_named(leased, &named.name)?;
                self.ask_for_shape(leased, &named);
                return Ok(None);
            }
            Some(false) => return Err(refusal::rows_have_changed()),
        }
        Ok(Some(named))
    }

    fn ask_for_shape(&mut self, leased: &mut Leased, named: &Named) {
        leased.checking = true;
        self.begin_statement(leased);
        put_target(leased, frontend::DESCRIBE, named.statement.server_name());
        self.ledger.push(Awaits::Describe, Fate::Swallow, Some(Change::Checks(named.used())));
        leased.lease.outbound.push(&FLUSH);
    }

    /// A server connection that parses it now does so under the settings of now, and it must not pass for
    /// the same as where it was parsed under others.
    fn under_present_settings(&mut self, mut named: Named) -> Named {
        let environment = self.state.environment();
        if !named.statement.environment().is(environment) {
            named.statement = self.group.statements.intern(named.statement.identity(), environment);
            if let Some(known) = self.names.get_mut(&named.name) {
                known.statement = named.statement.clone();
            }
        }
        named
    }

    /// Makes sure that the server connection has this session's unnamed statement. When there is none
    /// the server says so itself.
    pub(super) fn ready_unnamed(&mut self, leased: &mut Leased) -> Result<(), PgError> {
        match &self.unnamed {
            Unnamed::None => {
                leased.forget_unnamed(&mut self.ledger);
                Ok(())
            }
            Unnamed::TooLong if leased.has_unnamed => Ok(()),
            Unnamed::TooLong => Err(refusal::unnamed_too_long()),
            Unnamed::Kept { .. } => self.ready_kept(leased),
        }
    }

    fn ready_kept(&mut self, leased: &mut Leased) -> Result<(), PgError> {
        // What came right before it was judged when it came.
        let judged = leased.unnamed_changed == leased.batch && !self.state.names_have_moved();
        let Some(verdict) = self.unnamed_verdict(judged) else { return Ok(()) };
        // Whoever has become another tenant's since he has prepared it is held to that one's settings. And a
        // savepoint is one of the transaction that it is in now. What it calls may have become another since.
        let is_held = self.switching.is_some() || self.has_held_settings();
        let read = is_held || verdict.tx == TxControl::Inside || !self.group.catalog_is_read();
        let kept = std::mem::take(&mut self.unnamed);
        // First, because what that sends ahead may drop the statement.
        let noted = self.note(leased, verdict, if read { kept.text() } else { b"" });
        self.unnamed = kept;
        noted?;
        if let Unnamed::Kept { identity, .. } = &self.unnamed
            && !leased.has_unnamed
        {
            put_parse(leased, b"", identity);
            self.ledger.push(Awaits::Parse, Fate::Swallow, Some(Change::HasUnnamed));
            leased.has_unnamed = true;
            leased.unnamed_changed = leased.batch;
        }
        Ok(())
    }

    /// Gives the connection a statement, and takes from it what is over its limit. The name is closed
    /// first: where an earlier `Close` of ours was skipped after an error, the server still has it.
    fn put_parse(&mut self, leased: &mut Leased, statement: &Statement, fate: Fate, change: Option<Change>) {
        let name = statement.server_name();
        self.put_close(leased, name, None);
        put_parse(leased, name, statement.identity());
        self.ledger.push(Awaits::Parse, fate, change);
        leased.parsed.push((statement.id(), leased.batch));
        let generation = self.generation(leased);
        leased.lease.prepared.insert(statement, generation);
        let limit = leased.lease.pool().prepared_limit();
        while let Some((id, cost)) = leased.lease.prepared.evict(limit) {
            self.put_close(leased, server_name(id).as_bytes(), Some(Change::Closed { id, cost }));
        }
    }

    /// The same for one that the client prepares under its own name: the server decides whether that is free.
    fn put_own(&mut self, leased: &mut Leased, statement: &Statement, change: Option<Change>) {
        put_parse(leased, statement.server_name(), statement.identity());
        self.ledger.push(Awaits::Parse, Fate::Forward, change);
        let generation = self.generation(leased);
        leased.lease.prepared.insert(statement, generation);
    }

    pub(super) fn put_close(&mut self, leased: &mut Leased, name: &[u8], change: Option<Change>) {
        put_target(leased, frontend::CLOSE, name);
        self.ledger.push(Awaits::Close, Fate::Swallow, change);
    }

    /// What a message that changes the unnamed statement has to be able to take back. The first message
    /// of a batch is not skipped: it is carried out or fails.
    pub(super) fn unnamed_changes(&mut self, leased: &mut Leased) -> Change {
        leased.unnamed_changed = leased.batch;
        let before = self.ledger.is_unsynced().then(|| Box::new(std::mem::take(&mut self.unnamed)));
        Change::Unnamed { before, had: leased.has_unnamed }
    }

    /// Should the batch be run again, it finds the unnamed statement as it is now.
    pub(super) fn remember_unnamed(&self, leased: &mut Leased) {
        if let Some(before) = leased.flights.before() {
            before.unnamed.get_or_insert_with(|| self.unnamed.clone());
        }
    }

    /// The unnamed statement goes. A session that has none, as most that send simple queries, pays nothing.
    pub(super) fn drop_unnamed(&mut self, leased: &mut Leased) -> Change {
        if !matches!(self.unnamed, Unnamed::None) {
            self.remember_unnamed(leased);
        }
        let change = self.unnamed_changes(leased);
        self.unnamed = Unnamed::None;
        change
    }

    pub(super) fn keep_unnamed(&mut self, identity: &[u8], verdict: Verdict) {
        let mut kept = match std::mem::take(&mut self.unnamed) {
            Unnamed::Kept { identity, .. } => identity,
            _ => Vec::new(),
        };
        kept.clear();
        kept.extend_from_slice(identity);
        self.unnamed = Unnamed::Kept { identity: kept, verdict };
    }
}

/// A name that only statements of ours have on a server connection.
pub(super) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(OUR_NAMES.as_bytes())
}

fn conn_metrics(leased: &Leased) -> &crate::metrics::HostMetrics {
    &leased.lease.pool().metrics
}

pub(super) fn put_parse(leased: &mut Leased, name: &[u8], identity: &[u8]) {
    let out = leased.lease.outbound.bytes();
    out.put_u8(frontend::PARSE);
    out.put_u32((4 + name.len() + 1 + identity.len()) as u32);
    out.put_slice(name);
    out.put_u8(0);
    out.put_slice(identity);
}

pub(super) fn put_target(leased: &mut Leased, tag: u8, statement: &[u8]) {
    let out = leased.lease.outbound.bytes();
    out.put_u8(tag);
    out.put_u32((4 + 1 + statement.len() + 1) as u32);
    out.put_u8(b'S');
    out.put_slice(statement);
    out.put_u8(0);
}
