//! Sends a client's messages on, one by one, and enters into the ledger what the server will owe for them.

use bytes::BufMut;
use xxhash_rust::xxh3::xxh3_64;

use super::intake::{Sent, Step};
use super::ledger::{Awaits, Fate, Status};
use super::preparing::{is_ours, put_parse, put_target};
use super::request::Request;
use super::statements::{Change, Unnamed};
use super::{Leased, Session, refusal};
use crate::sql::statements;
use crate::wire::author;
use crate::wire::error::PgError;
use crate::wire::frame::{HEADER, frontend};
use crate::wire::view::{BindHead, Parse, Target};

/// Who knows a statement by the name that the client uses.
enum Known {
    /// The client's own statement, which the server has by another name or not at all.
    Ours,
    /// SQL's own (`PREPARE`), or nobody: the server says so.
    Servers,
    Unnamed,
    /// What was sent before has to be answered first.
    Unsure,
}

/// What becomes of a message.
enum Course {
    /// It goes on as it is, and the server will owe this for it.
    Owed(Awaits, Option<Change>),
    /// It goes on as it is, and is not answered.
    Unanswered,
    /// It does not go on as it is.
    Done(Sent),
}

use Course::{Done, Owed, Unanswered};

impl Session {
    /// The one place where a message of the client meets a server connection. `frame` is what is here
    /// of its `len` bytes.
    pub(super) fn send(&mut self, leased: &mut Leased, request: Request<'_>, frame: &[u8], len: usize) -> Sent {
        let course = match self.pay_for(request, len) {
            Ok(()) => self.course(leased, request, len),
            Err(error) => Done(self.refuse_request(leased, request, error)),
        };
        match course {
            Done(sent) => return sent,
            Unanswered => {}
            Owed(awaits, change) => self.enter(leased, request, awaits, change),
        }
        if frame.len() < len {
            return Sent::Verbatim;
        }
        leased.lease.outbound.push(frame);
        Sent::Done
    }

    fn course(&mut self, leased: &mut Leased, request: Request<'_>, len: usize) -> Course {
        match request {
            Request::Terminate if self.ledger.is_empty() => Done(Sent::Not(Step::Left)),
            // What the server waits for will never come: it would wait for ever.
            Request::Terminate if self.ledger.wants_copy_data() || self.ledger.is_unsynced() => Done(Sent::Goodbye),
            // Everything that was asked before is answered first.
            Request::Terminate => Done(Sent::Not(Step::Stalled)),
            Request::Query(text) => self.query(leased, text),
            Request::LongQuery { head } => {
                if let Err(error) = self.may_run_unseen(leased, head) {
                    return Done(self.poison_query(leased, error));
                }
                self.note_unseen(leased);
                Owed(Awaits::LongQuery, Some(self.drop_unnamed(leased)))
            }
            Request::FunctionCall(function) => {
                if let Err(error) = self.guard_call(function) {
                    return Done(self.poison_query(leased, error));
                }
                self.note_unseen(leased);
                Owed(Awaits::FunctionCall, None)
            }
            Request::Parse(parse) => match self.explained(leased, parse.text) {
                Some(query) => self.parse_instead(leased, parse, &query),
                None => self.parse(leased, parse),
            },
            Request::LongParse { named: true, .. } => Done(self.poison(leased, refusal::statement_too_long(len))),
            Request::LongParse { named: false, head } => {
                if let Err(error) = self.may_run_unseen(leased, head) {
                    return Done(self.poison(leased, error));
                }
                self.note_unseen(leased);
                self.remember_unnamed(leased);
                let change = self.unnamed_changes(leased);
                self.unnamed = Unnamed::TooLong;
                leased.has_unnamed = true;
                Owed(Awaits::Parse, Some(change))
            }
            Request::Bind(head) => self.bind(leased, head, len),
            Request::Describe(Target::Statement(name)) => self.describe(leased, name),
            Request::Describe(Target::Portal(portal)) => {
                let bound = leased.bound.as_ref().filter(|(bound, _)| *bound == xxh3_64(portal));
                Owed(Awaits::Describe, bound.map(|(_, used)| Change::Uses(used.clone())))
            }
            Request::Close(Target::Statement(name)) => self.close(leased, name),
            Request::Close(Target::Portal(_)) => Owed(Awaits::Close, None),
            Request::Execute(portal) => self.execute(leased, portal),
            Request::Sync => Owed(Awaits::Sync, None),
            Request::Flush if self.may_end_here(leased) => self.end_here(leased),
            Request::CopyEnd => {
                self.ledger.copy_ended();
                Unanswered
            }
            Request::Flush => {
                self.stays(leased);
                Unanswered
            }
            Request::CopyData => Unanswered,
        }
    }

    /// Enters into the books a message that goes on.
    fn enter(&mut self, leased: &mut Leased, request: Request<'_>, awaits: Awaits, change: Option<Change>) {
        self.begin_statement(leased);
        if awaits.is_query() {
            leased.unnamed_portal = None;
        }
        if self.tenant.limits.statement_timeout.is_some() {
            self.slot.clock.more_statements(match request {
                Request::Query(text) => statements(text),
                Request::Execute(_) => 1,
                _ => 0,
            });
        }
        let ends = awaits.is_answered_by_ready();
        leased.batch += u32::from(ends);
        if ends {
            self.intake.ends();
        }
        let portal = matches!(
            request,
            Request::Bind(_)
                | Request::Execute(_)
                | Request::Describe(Target::Portal(_))
                | Request::Close(Target::Portal(_))
        );
        leased.portals = !ends && (leased.portals || portal);
        self.ledger.push(awaits, Fate::Forward, change);
    }

    fn query(&mut self, leased: &mut Leased, text: &[u8]) -> Course {
        let verdict = self.next_verdict(text);
        if self.lays_out(leased, verdict, text) {
            self.judged(verdict);
            return Done(Sent::Not(Step::Stalled));
        }
        if let Err(error) = self.note_query(leased, verdict, text) {
            return Done(self.poison_query(leased, error));
        }
        let change = self.drop_unnamed(leased);
        let explained = self.explained(leased, text).map(String::into_bytes);
        let Some(text) = explained.or_else(|| self.unparsable(leased, verdict, text)) else {
            return Owed(Awaits::Query, Some(change));
        };
        author::query(leased.lease.outbound.bytes(), &text);
        self.enter(leased, Request::Query(b""), Awaits::Query, Some(change));
        Done(Sent::Done)
    }

    fn parse(&mut self, leased: &mut Leased, parse: Parse<'_>) -> Course {
        if parse.name.is_empty() { self.parse_unnamed(leased, parse) } else { Done(self.send_parse(leased, parse)) }
    }

    /// `query` in place of the client's text.
    fn parse_instead(&mut self, leased: &mut Leased, parse: Parse<'_>, query: &str) -> Course {
        let identity = [query.as_bytes(), NO_TYPES].concat();
        let parse = Parse { name: parse.name, text: query.as_bytes(), identity: &identity };
        match self.parse(leased, parse) {
            Owed(awaits, change) => {
                put_parse(leased, b"", &identity);
                self.enter(leased, Request::Parse(parse), awaits, change);
                Done(Sent::Done)
            }
            other => other,
        }
    }

    fn parse_unnamed(&mut self, leased: &mut Leased, parse: Parse<'_>) -> Course {
        let verdict = self.parse_verdict(&parse);
        if self.lays_out(leased, verdict, parse.text) {
            self.judged(verdict);
            return Done(Sent::Not(Step::Stalled));
        }
        if let Err(error) = self.note(leased, verdict, parse.text) {
            return Done(self.poison(leased, error));
        }
        self.remember_unnamed(leased);
        let change = self.unnamed_changes(leased);
        self.keep_unnamed(parse.identity, verdict);
        leased.has_unnamed = true;
        Owed(Awaits::Parse, Some(change))
    }

    fn bind(&mut self, leased: &mut Leased, head: BindHead<'_>, len: usize) -> Course {
        if head.portal.is_empty() && !self.ledger.is_skipping() {
            leased.unnamed_portal = Some(leased.batch);
        }
        self.note_bound(&head);
        match self.knows(leased, head.statement) {
            Known::Unsure => Done(Sent::Not(Step::Stalled)),
            Known::Ours => Done(self.send_bind(leased, head, len)),
            Known::Servers => {
                leased.bound = None;
                Owed(Awaits::Bind, None)
            }
            Known::Unnamed => {
                if let Err(error) = self.ready_unnamed(leased) {
                    return Done(self.poison(leased, error));
                }
                leased.bound = None;
                Owed(Awaits::Bind, None)
            }
        }
    }

    fn describe(&mut self, leased: &mut Leased, name: &[u8]) -> Course {
        if let Err(error) = self.may_go_on(leased) {
            return Done(self.poison(leased, error));
        }
        let ready = match self.knows(leased, name) {
            Known::Unsure => return Done(Sent::Not(Step::Stalled)),
            Known::Servers => return Owed(Awaits::Describe, None),
            Known::Unnamed => self.ready_unnamed(leased).map(|()| None),
            Known::Ours => self.ready_named(leased, name).map(Some),
        };
        match ready {
            Err(error) => Done(self.poison(leased, error)),
            Ok(None) => Owed(Awaits::Describe, None),
            Ok(Some(named)) => {
                put_target(leased, frontend::DESCRIBE, named.statement.server_name());
                self.ledger.push(Awaits::Describe, Fate::Forward, Some(Change::Uses(named.used())));
                Done(Sent::Done)
            }
        }
    }

    fn knows(&mut self, leased: &mut Leased, name: &[u8]) -> Known {
        if name.is_empty() {
            let unsure = leased.awaits(leased.unnamed_changed, &self.ledger) || self.unnamed_waits(leased);
            return if unsure { Known::Unsure } else { Known::Unnamed };
        }
        let verdict = self.names.get(name).map(|named| named.verdict);
        if verdict.is_some_and(|verdict| self.named_waits(leased, verdict, name)) {
            return Known::Unsure;
        }
        match verdict {
            _ if leased.own.is_on() => self.knows_own(leased, name),
            // An earlier batch may still fail to close it.
            None if !is_ours(name) && self.ledger.reaches_back() => Known::Unsure,
            None if !is_ours(name) => Known::Servers,
            _ if self.is_unsure(leased, name) => Known::Unsure,
            _ => Known::Ours,
        }
    }

    /// The same where the server connection has statements under the client's own names.
    fn knows_own(&mut self, leased: &mut Leased, name: &[u8]) -> Known {
        match (self.goes_by(leased, name), self.names.has(name)) {
            (true, true) => Known::Ours,
            (true, false) => Known::Servers,
            (false, _) if self.awaits_answers(leased) => Known::Unsure,
            (false, _) => Known::Ours,
        }
    }

    /// `Close` of a statement; the server connection keeps those with names for others.
    fn close(&mut self, leased: &mut Leased, name: &[u8]) -> Course {
        if name.is_empty() {
            return Owed(Awaits::Close, Some(self.drop_unnamed(leased)));
        }
        if self.goes_by(leased, name) {
            let before = self.names.set(name, None);
            before.iter().for_each(|named| leased.lease.prepared.remove(named.statement.id()));
            let change = before.is_some().then(|| Change::Name { name: name.into(), before, prepared: None });
            return Owed(Awaits::Close, change);
        }
        if self.is_renamed(leased, name) {
            return Done(Sent::Not(Step::Stalled));
        }
        if !self.names.has(name) && !is_ours(name) {
            return Owed(Awaits::Close, None);
        }
        let before = self.names.set(name, None);
        leased.renamed.push((xxh3_64(name), leased.batch));
        if let Some(flight) = leased.flights.before() {
            flight.names.push((name.into(), before.clone()));
        }
        let change = before.is_some().then(|| Change::Name { name: name.into(), before, prepared: None });
        self.ledger.push(Awaits::Close, Fate::Synthesise, change);
        Done(Sent::Done)
    }

    fn execute(&mut self, leased: &mut Leased, portal: &[u8]) -> Course {
        let bound_here = leased.unnamed_portal == Some(leased.batch);
        if portal.is_empty() && !bound_here && self.ledger.reaches_back() {
            return Done(Sent::Not(Step::Stalled));
        }
        // PostgreSQL keeps the portal of a simple query that has failed in a transaction, but not what it points to:
        // executing it reads freed memory, and may crash the server.
        if portal.is_empty() && leased.unnamed_portal.is_none() && self.ledger.status() == Status::Failed {
            return Done(self.poison(leased, refusal::transaction_is_aborted()));
        }
        if let Err(error) = self.guard_portal(portal) {
            return Done(self.poison(leased, error));
        }
        Owed(Awaits::Execute, None)
    }

    /// Whoever has prepared a statement may take his time: the connection does not wait for him.
    fn end_here(&mut self, leased: &mut Leased) -> Course {
        self.begin_statement(leased);
        self.intake.ends();
        leased.lease.outbound.push(&SYNC);
        leased.batch += 1;
        self.ledger.push(Awaits::Sync, Fate::Swallow, None);
        leased.ended_early = true;
        Done(Sent::Done)
    }

    /// A `Flush` behind nothing but `Parse`, `Describe` and `Close` of statements, outside a transaction.
    fn may_end_here(&self, leased: &Leased) -> bool {
        !leased.portals
            && !self.keeps_lease()
            && !leased.own.is_on()
            && self.ledger.status() == Status::Idle
            && !self.state.is_in_transaction()
            && self.ledger.is_unsynced()
            && !self.ledger.is_skipping()
            && !self.ledger.reaches_back()
            && match &self.unnamed {
                Unnamed::None => true,
                // Another connection might be given it only as the client has written it, or not at all.
                Unnamed::Kept { verdict, .. } => !super::batch::needs_probe(verdict.effects),
                Unnamed::TooLong => false,
            }
    }

    /// Makes the server fail where the client's message would have failed, so that it skips and
    /// aborts as it should; the client gets `error` in place of the server's.
    pub(super) fn poison(&mut self, leased: &mut Leased, error: PgError) -> Sent {
        const NO_SUCH_PORTAL: &[u8] = b"pgweir: no such portal\0\0\0\0\0";
        let out = leased.lease.outbound.bytes();
        out.put_u8(frontend::EXECUTE);
        out.put_u32(NO_SUCH_PORTAL.len() as u32 + 4);
        out.put_slice(NO_SUCH_PORTAL);
        self.begin_statement(leased);
        self.ledger.push(Awaits::Execute, Fate::Replace(Box::new(error)), None);
        Sent::Dropped
    }

    fn refuse_request(&mut self, leased: &mut Leased, request: Request<'_>, error: PgError) -> Sent {
        match request {
            Request::Query(_) | Request::LongQuery { .. } | Request::FunctionCall(_) => {
                self.poison_query(leased, error)
            }
            _ => self.poison(leased, error),
        }
    }

    /// The same for a simple `Query`, in whose place the server gets one that is no SQL.
    fn poison_query(&mut self, leased: &mut Leased, error: PgError) -> Sent {
        author::query(leased.lease.outbound.bytes(), "refused_by_pgweir");
        self.begin_statement(leased);
        leased.batch += 1;
        self.ledger.push(Awaits::Query, Fate::Replace(Box::new(error)), None);
        Sent::Dropped
    }
}

/// The end of a `Parse` without types for its parameters.
const NO_TYPES: &[u8] = b"\0\0\0";
/// A whole `Sync`.
pub(super) const SYNC: [u8; HEADER] = [frontend::SYNC, 0, 0, 0, 4];

/// A whole `Flush`.
pub(super) const FLUSH: [u8; HEADER] = [frontend::FLUSH, 0, 0, 0, 4];
