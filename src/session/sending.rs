//! Sends a client's messages on, one by one, and enters into the ledger what the server will owe for them.

use bytes::BufMut;
use xxhash_rust::xxh3::xxh3_64;

use super::intake::{Sent, Step};
use super::ledger::{Awaits, Fate, Status};
use super::preparing::{is_ours, put_parse, put_target};
use super::request::Request;
use super::statements::{Change, Unnamed, deallocated};
use super::{Leased, Session, refusal};
use crate::sql::{Reason, Verdict};
use crate::wire::author;
use crate::wire::error::PgError;
use crate::wire::frame::{HEADER, frontend};
use crate::wire::view::{BindHead, Target};

impl Session {
    /// The one place where a message of the client meets a server connection. `frame` is what is here
    /// of its `len` bytes.
    pub(super) fn send(&mut self, leased: &mut Leased, request: Request<'_>, frame: &[u8], len: usize) -> Sent {
        let mut change = None;
        match request {
            Request::Bind(BindHead { portal: b"", .. }) => leased.unnamed_portal = Some(leased.batch),
            Request::Query(_) | Request::LongQuery => leased.unnamed_portal = None,
            _ => {}
        }
        let awaits = match request {
            Request::Terminate if self.ledger.is_empty() => return Sent::Not(Step::Left),
            Request::Terminate => return Sent::Not(Step::Stalled),
            Request::Query(text) => {
                let verdict = self.next_verdict(text);
                if let Err(error) = self.note(leased, verdict, text) {
                    return self.poison_query(leased, error);
                }
                self.unnamed = Unnamed::None;
                if let Some(text) = self.deallocate(leased, text, verdict) {
                    self.begin_statement(leased);
                    author::query(leased.lease.outbound.bytes(), &text);
                    self.ledger.push(Awaits::Query, Fate::Forward, None);
                    return Sent::Done;
                }
                Some(Awaits::Query)
            }
            Request::LongQuery => {
                self.note_unseen(leased);
                self.unnamed = Unnamed::None;
                Some(Awaits::Query)
            }
            Request::FunctionCall => {
                self.note_unseen(leased);
                Some(Awaits::FunctionCall)
            }
            Request::Parse(parse) if parse.name.is_empty() => {
                let verdict = self.parse_verdict(&parse);
                if let Err(error) = self.note(leased, verdict, parse.text) {
                    return self.poison(leased, error);
                }
                let unnamed = self.unnamed_changes(leased);
                self.keep_unnamed(parse.identity, verdict);
                leased.has_unnamed = true;
                if let Some(text) = self.deallocate(leased, parse.text, verdict) {
                    self.begin_statement(leased);
                    put_parse(leased, b"", &[text.as_bytes(), b"\0\0\0"].concat());
                    self.ledger.push(Awaits::Parse, Fate::Forward, Some(unnamed));
                    return Sent::Done;
                }
                change = Some(unnamed);
                Some(Awaits::Parse)
            }
            Request::Parse(parse) => return self.send_parse(leased, parse),
            Request::LongParse { named: true } => return self.poison(leased, refusal::statement_too_long(len)),
            Request::LongParse { named: false } => {
                self.note_unseen(leased);
                change = Some(self.unnamed_changes(leased));
                self.unnamed = Unnamed::TooLong;
                leased.has_unnamed = true;
                Some(Awaits::Parse)
            }
            Request::Bind(BindHead { statement: b"", .. }) | Request::Describe(Target::Statement(b"")) => {
                if let Err(error) = self.ready_unnamed(leased) {
                    return self.poison(leased, error);
                }
                if matches!(request, Request::Bind(_)) {
                    leased.bound = None;
                    self.unnamed_drops(leased);
                    Some(Awaits::Bind)
                } else {
                    Some(Awaits::Describe)
                }
            }
            // An earlier batch may still fail to close it; otherwise it is SQL's own, or the server says no.
            Request::Bind(head) if !self.names.has(head.statement) && !is_ours(head.statement) => {
                if self.ledger.reaches_back() {
                    return Sent::Not(Step::Stalled);
                }
                leased.bound = None;
                Some(Awaits::Bind)
            }
            Request::Bind(head) if self.is_unsure(leased, head.statement) => return Sent::Not(Step::Stalled),
            Request::Bind(head) => return self.send_bind(leased, head, len),
            Request::Describe(Target::Statement(name)) if !self.names.has(name) && !is_ours(name) => {
                if self.ledger.reaches_back() {
                    return Sent::Not(Step::Stalled);
                }
                Some(Awaits::Describe)
            }
            Request::Describe(Target::Statement(name)) if self.is_unsure(leased, name) => {
                return Sent::Not(Step::Stalled);
            }
            Request::Describe(Target::Statement(name)) => {
                return match self.ready_named(leased, name) {
                    Ok(named) => {
                        put_target(leased, frontend::DESCRIBE, named.statement.server_name().as_bytes());
                        self.ledger.push(Awaits::Describe, Fate::Forward, Some(Change::Uses(named.used())));
                        Sent::Done
                    }
                    Err(error) => self.poison(leased, error),
                };
            }
            Request::Describe(Target::Portal(portal)) => {
                let bound = leased.bound.as_ref().filter(|(bound, _)| *bound == xxh3_64(portal));
                change = bound.map(|(_, used)| Change::Uses(used.clone()));
                Some(Awaits::Describe)
            }
            Request::Close(Target::Statement(b"")) => {
                change = Some(self.unnamed_changes(leased));
                self.unnamed = Unnamed::None;
                Some(Awaits::Close)
            }
            Request::Close(Target::Statement(name)) if !self.names.has(name) && !is_ours(name) => Some(Awaits::Close),
            Request::Close(Target::Statement(name)) => {
                let before = self.names.set(name, None);
                if leased.repeatable {
                    leased.names_before.push((name.into(), before.clone()));
                }
                let change = before.is_some().then(|| Change::Name { name: name.into(), before, prepared: None });
                self.ledger.push(Awaits::Close, Fate::Synthesise, change);
                return Sent::Done;
            }
            Request::Close(Target::Portal(_)) => Some(Awaits::Close),
            // A server that takes the portal which a failed `Query` has left behind reads freed memory.
            Request::Execute(b"") if leased.unnamed_portal != Some(leased.batch) && self.ledger.reaches_back() => {
                return Sent::Not(Step::Stalled);
            }
            Request::Execute(b"") if leased.unnamed_portal.is_none() && self.ledger.status() == Status::Failed => {
                return self.poison(leased, refusal::transaction_is_aborted());
            }
            Request::Execute(_) => Some(Awaits::Execute),
            Request::Sync => Some(Awaits::Sync),
            Request::CopyEnd => {
                self.ledger.copy_ended();
                None
            }
            Request::Flush if self.may_end_here(leased) => {
                // Whoever has prepared a statement may take his time: the connection does not wait for him.
                self.begin_statement(leased);
                self.intake.ends();
                leased.lease.outbound.push(&SYNC);
                self.ledger.push(Awaits::Sync, Fate::Swallow, None);
                leased.ended_early = true;
                return Sent::Done;
            }
            Request::Flush | Request::CopyData => None,
        };
        if let Some(awaits) = awaits {
            self.begin_statement(leased);
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
        if frame.len() < len {
            return Sent::Verbatim;
        }
        leased.lease.outbound.push(frame);
        Sent::Done
    }

    /// A `Flush` behind nothing but `Parse`, `Describe` and `Close` of statements, outside a transaction.
    fn may_end_here(&self, leased: &Leased) -> bool {
        !leased.portals
            && !self.keeps_lease()
            && self.ledger.status() == Status::Idle
            && self.ledger.is_unsynced()
            && !self.ledger.is_skipping()
            && !self.ledger.reaches_back()
            && match &self.unnamed {
                Unnamed::None => true,
                // Another connection might be given it only as the client has written it, or not at all.
                Unnamed::Kept { verdict, .. } => {
                    verdict.reason != Reason::PreparedStatement && !super::batch::needs_probe(verdict.effects)
                }
                Unnamed::TooLong => false,
            }
    }

    /// SQL's `DEALLOCATE` of a statement that was prepared by the protocol (they share their names): the
    /// server knows it by another name, and is made to have it.
    fn deallocate(&mut self, leased: &mut Leased, text: &[u8], verdict: Verdict) -> Option<String> {
        if verdict.reason != Reason::PreparedStatement || self.ledger.status() == Status::Failed {
            return None;
        }
        let name = deallocated(text)?;
        let named = self.ready_named(leased, name.as_bytes()).ok()?;
        self.names.set(name.as_bytes(), None);
        leased.lease.prepared.remove(named.statement.id());
        Some(format!("DEALLOCATE {}", named.statement.server_name()))
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

    /// The same for a simple `Query`, in whose place the server gets one that is no SQL.
    fn poison_query(&mut self, leased: &mut Leased, error: PgError) -> Sent {
        author::query(leased.lease.outbound.bytes(), "refused_by_pgweir");
        self.begin_statement(leased);
        leased.batch += 1;
        self.ledger.push(Awaits::Query, Fate::Replace(Box::new(error)), None);
        Sent::Dropped
    }
}

/// A whole `Sync`.
const SYNC: [u8; HEADER] = [frontend::SYNC, 0, 0, 0, 4];

/// A whole `Flush`.
pub(super) const FLUSH: [u8; HEADER] = [frontend::FLUSH, 0, 0, 0, 4];
