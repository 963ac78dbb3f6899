//! From the client to the server: gathers a batch before it is routed, then sends its messages on
//! and enters into the ledger what the server will owe for them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BufMut;

use super::batch::Batch;
use super::ledger::{Awaits, Fate, Status};
use super::request::{Malformed, Read, Request, read};
use super::statements::{Change, Named, Rows, Unnamed, deallocated};
use super::{Leased, Schema, Session, refusal};
use crate::cluster::Place;
use crate::net::buffer::ReadBuffer;
use crate::pool::{OUR_NAMES, Statement, server_name};
use crate::sql::{Class, Effects, Reason, Verdict};
use crate::wire::author;
use crate::wire::error::PgError;
use crate::wire::frame::{HEADER, frontend};
use crate::wire::view::{BindHead, Parse, Target};

/// Bytes waiting to be written beyond which no more are taken from the other side.
pub(super) const HIGH_WATER: usize = 64 * 1024;
/// Bytes of a batch that are held before it is routed; a longer one goes to the primary.
const LONGEST_BATCH: usize = 128 * 1024;
/// Messages whose replies are awaited beyond which no more are taken from the client.
const MOST_OWED: usize = 10_000;
/// Bytes of statement text that one client may keep prepared by name.
const LONGEST_NAMES: usize = 32 << 20;

/// How far the client's bytes have been taken.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// The rest of a frame that is not looked at any more.
    streaming: Option<Streaming>,
    /// Bytes at the front of the buffer that belong to a routed batch.
    admitted: usize,
    /// The routed batch goes on after those bytes, and what follows goes the same way.
    open: bool,
    /// The batch that is being gathered.
    batch: Option<Batch>,
    /// Verdicts on the admitted or gathered statements, in order.
    verdicts: VecDeque<Verdict>,
    /// After an error of ours: everything up to the next `Sync` is dropped.
    skipping: bool,
    /// The admitted batch asks for the rows of what it executes.
    describes: bool,
}

/// What became of a message.
enum Sent {
    /// It was here whole, and is taken.
    Done,
    /// It goes to the server as it is, as it comes.
    Verbatim,
    /// Its first bytes are taken; the rest goes to the server as it comes.
    Head(usize),
    /// It is dropped, also what has not come yet.
    Dropped,
    /// It stays where it is.
    Not(Step),
}

/// What gathering came to.
enum Gathered {
    Batch(Batch),
    Partial {
        before: usize,
    },
    /// A message that belongs to nothing.
    Stray {
        len: usize,
    },
    Terminate,
}

#[derive(Debug, Clone, Copy)]
struct Streaming {
    left: usize,
    to_server: bool,
}

/// What has to happen before more can be taken from the client.
#[derive(Debug)]
pub(super) enum Step {
    NeedClient,
    /// The server has not taken what it was sent.
    NeedRoom,
    /// What was sent has to be answered first.
    Stalled,
    NeedLease(Batch),
    /// The client said goodbye.
    Left,
}

impl Intake {
    /// The batch is routed: its messages may be sent.
    pub(super) fn admit(&mut self, batch: &Batch) {
        self.admitted = batch.len;
        self.describes = batch.describes;
        self.open = !batch.complete;
        self.batch = None;
    }

    /// The batch will be judged again.
    pub(super) fn gather_again(&mut self) {
        self.batch = None;
        self.verdicts.clear();
    }

    /// The batch will be routed again: its bytes are unread once more.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// The client has been told of an error after which PostgreSQL would skip its messages.
    pub(super) fn skip_to_sync(&mut self) {
        self.skipping = true;
        self.ungather();
    }

    /// The message that is being sent belongs to a batch that asks for the rows of what it executes.
    fn describes_rows(&self) -> bool {
        self.describes && self.admitted > 0
    }

    /// Nothing of a batch is half sent.
    pub(super) fn at_boundary(&self) -> bool {
        self.streaming.is_none() && self.admitted == 0
    }

    /// What has been gathered meanwhile is judged again: what was settled may have changed the settings
    /// and the names by which it was judged.
    pub(super) fn settled(&mut self) {
        self.open = false;
        self.ungather();
    }

    fn ungather(&mut self) {
        self.batch = None;
        self.verdicts.clear();
    }
}

impl Session {
    /// The batch is refused before anything of it was sent: it is dropped. True when the client is to
    /// be told that it may go on, false when its `Sync` is still to come.
    pub(super) fn refuse_batch(&mut self, batch: &Batch) -> bool {
        self.intake = Intake { skipping: !batch.simple, ..Intake::default() };
        if batch.simple
            && let Ok(Read::Request { len, .. }) = read(self.inbound.data())
        {
            self.intake.streaming = Some(Streaming { left: len, to_server: false });
        }
        batch.simple
    }

    /// Takes what the client has sent, as far as that is possible now.
    pub(super) fn take_requests(&mut self) -> Result<Step, Malformed> {
        loop {
            if let Some(streaming) = self.intake.streaming {
                if let Some(step) = self.stream(streaming) {
                    return Ok(step);
                }
                continue;
            }
            if self.inbound.is_empty() {
                return Ok(Step::NeedClient);
            }
            let taken = if self.intake.skipping {
                self.skip()?
            } else if self.intake.admitted > 0 {
                self.pass_on()?
            } else if self.follows() {
                // What was gathered before it was known to follow goes on message by message.
                self.intake.ungather();
                self.pass_on()?
            } else {
                self.gather_batch()?
            };
            if let Some(step) = taken {
                return Ok(step);
            }
        }
    }

    /// Messages go where those before them went, without being routed.
    fn follows(&self) -> bool {
        let Some(leased) = &self.lease else { return false };
        let waiting = !self.ledger.settled();
        let held_up = leased.ended_early || (waiting || leased.withheld.ready) && self.may_reset();
        self.intake.open
            || self.ledger.status() != Status::Idle
            || self.ledger.is_unsynced()
            || (!held_up && (self.keeps_lease() || (waiting && leased.place == Place::Primary)))
    }

    fn stream(&mut self, Streaming { left, to_server }: Streaming) -> Option<Step> {
        let data = self.inbound.data();
        let count = left.min(data.len());
        if to_server {
            let Some(leased) = &mut self.lease else { return Some(Step::Stalled) };
            if leased.lease.outbound.len() >= HIGH_WATER {
                return Some(Step::NeedRoom);
            }
            leased.lease.outbound.push(&data[..count]);
        }
        self.inbound.consume(count);
        self.intake.admitted = self.intake.admitted.saturating_sub(count);
        let left = left - count;
        self.intake.streaming = (left > 0).then_some(Streaming { left, to_server });
        (left > 0).then_some(Step::NeedClient)
    }

    /// After an error of ours: drops messages up to `Sync`, as PostgreSQL does after one of its own.
    fn skip(&mut self) -> Result<Option<Step>, Malformed> {
        let Read::Request { request, len } = read(self.inbound.data())? else { return Ok(self.partial(0)) };
        match request {
            Request::Terminate => return Ok(Some(Step::Left)),
            Request::Sync => {
                self.intake.skipping = false;
                self.inbound.consume(len);
                refusal::ready(&mut self.outbound);
            }
            _ => self.intake.streaming = Some(Streaming { left: len, to_server: false }),
        }
        Ok(None)
    }

    /// A message is not whole yet. `before`: bytes of the buffer that come before it.
    fn partial(&mut self, before: usize) -> Option<Step> {
        if let Ok(Read::Partial { reserve: Some(len) }) = read(&self.inbound.data()[before..]) {
            self.inbound.reserve_frame(before + len);
        } else if self.inbound.is_full() {
            self.inbound.reserve_frame(self.inbound.data().len() + HEADER);
        }
        Some(Step::NeedClient)
    }

    fn gather_batch(&mut self) -> Result<Option<Step>, Malformed> {
        // Judged by the catalog of now, not by that of this session's last batch.
        if self.catalog.generation() != self.group.schema_generation() {
            self.catalog = self.group.catalog();
        }
        // Taken out while a request borrows from it.
        let inbound = std::mem::take(&mut self.inbound);
        let gathered = self.gather_from(&inbound);
        self.inbound = inbound;
        Ok(match gathered? {
            Gathered::Batch(batch) => self.place_batch(batch),
            Gathered::Partial { before } => self.partial(before),
            Gathered::Stray { len } => {
                self.intake.streaming = Some(Streaming { left: len, to_server: false });
                None
            }
            Gathered::Terminate => Some(if self.lease.is_some() { Step::Stalled } else { Step::Left }),
        })
    }

    fn gather_from(&mut self, inbound: &ReadBuffer) -> Result<Gathered, Malformed> {
        let mut batch = self.intake.batch.take().unwrap_or_else(|| {
            self.intake.verdicts.clear();
            Batch::empty()
        });
        if batch.complete {
            // It has waited for the one before it.
            return Ok(Gathered::Batch(batch));
        }
        loop {
            let rest = &inbound.data()[batch.len..];
            let Read::Request { request, len } = read(rest)? else {
                // `COPY … FROM` is answered at its `Execute`, and its data come only then.
                if batch.len > 0 && (inbound.data().len() >= LONGEST_BATCH || batch.executes_on_primary()) {
                    return Ok(Gathered::Batch(batch));
                }
                self.intake.batch = Some(batch);
                return Ok(Gathered::Partial { before: batch.len });
            };
            match request {
                Request::Terminate if batch.len == 0 => return Ok(Gathered::Terminate),
                Request::Terminate => return Ok(Gathered::Batch(batch)),
                // Left over from a COPY that has failed: PostgreSQL ignores it as well.
                Request::CopyData | Request::CopyEnd if batch.len == 0 && self.lease.is_none() => {
                    return Ok(Gathered::Stray { len });
                }
                _ => {}
            }
            let ended = self.weigh(&mut batch, request);
            if len > rest.len() {
                return Ok(Gathered::Batch(batch));
            }
            batch.len += len;
            if ended {
                batch.complete = true;
                return Ok(Gathered::Batch(batch));
            }
        }
    }

    /// Adds a message to a batch's balance; true when it is the batch's last.
    fn weigh(&mut self, batch: &mut Batch, request: Request<'_>) -> bool {
        match request {
            Request::Query(text) => {
                let verdict = self.classify(text);
                self.intake.verdicts.push_back(verdict);
                batch.add(verdict);
                batch.calls |= may_call(text, verdict);
                (batch.simple, batch.synced) = (true, true);
                return true;
            }
            Request::LongQuery | Request::FunctionCall => {
                batch.add(Verdict::opaque(Reason::Oversized));
                (batch.simple, batch.synced) = (true, true);
                return true;
            }
            Request::Parse(parse) => {
                let verdict = self.classify_parse(&parse);
                self.intake.verdicts.push_back(verdict);
                batch.add(verdict);
                batch.calls |= may_call(parse.text, verdict);
            }
            Request::LongParse { .. } => batch.add(Verdict::opaque(Reason::Oversized)),
            Request::Bind(BindHead { statement, .. }) | Request::Describe(Target::Statement(statement)) => {
                batch.needs_server = true;
                batch.portals |= matches!(request, Request::Bind(_));
                if let Some(verdict) = self.verdict_of(statement) {
                    batch.add(verdict);
                    batch.calls |=
                        self.names.get(statement).is_some_and(|named| may_call(named.statement.text(), verdict));
                }
            }
            Request::Execute => (batch.needs_server, batch.portals, batch.executes) = (true, true, true),
            Request::Describe(_) => (batch.needs_server, batch.portals, batch.describes) = (true, true, true),
            Request::Close(Target::Portal(_)) | Request::CopyData | Request::CopyEnd => {
                (batch.needs_server, batch.portals) = (true, true);
            }
            Request::Close(Target::Statement(name)) => batch.needs_server |= name.is_empty(),
            Request::Sync => {
                batch.synced = true;
                return true;
            }
            Request::Flush => return true,
            Request::Terminate => {}
        }
        false
    }

    fn place_batch(&mut self, batch: Batch) -> Option<Step> {
        let settled = self.ledger.settled();
        if self.lease.is_none() {
            if batch.needs_server || !batch.complete {
                return Some(Step::NeedLease(batch));
            }
            // `Close` and `Sync` outside any transaction: nothing that a server knows of.
            self.intake.admit(&batch);
            return None;
        }
        let verdict = batch.verdict();
        let ended_early = self.lease.as_ref().is_some_and(|leased| leased.ended_early);
        let rides = !settled
            && !ended_early
            && !self.may_reset()
            && batch.is_closed()
            && batch.needs_server
            && verdict.class == Class::Read;
        self.not_repeatable();
        if rides && verdict.tx == crate::sql::TxControl::None && !crate::session::batch::needs_probe(verdict.effects) {
            self.intake.admit(&batch);
            return None;
        }
        self.intake.batch = Some(batch);
        Some(Step::Stalled)
    }

    /// A client may pipeline as much as it likes, but our books are bounded. The server may be sitting on
    /// its replies until somebody asks for them.
    fn owes_too_much(&mut self) -> bool {
        let too_much = self.ledger.len() >= MOST_OWED;
        if let Some(leased) = &mut self.lease {
            if too_much && !leased.flushed {
                leased.lease.outbound.push(&FLUSH);
            }
            leased.flushed = too_much;
        }
        too_much
    }

    /// Sends one message on.
    fn pass_on(&mut self) -> Result<Option<Step>, Malformed> {
        if self.lease.as_ref().is_some_and(|leased| leased.lease.outbound.len() >= HIGH_WATER) {
            return Ok(Some(Step::NeedRoom));
        }
        if self.owes_too_much() {
            return Ok(Some(Step::Stalled));
        }
        // Taken out while a request borrows from it.
        let inbound = std::mem::take(&mut self.inbound);
        let sent = match read(inbound.data()) {
            Ok(Read::Request { request, len }) => {
                let sent = match self.lease.take() {
                    Some(mut leased) => {
                        let sent =
                            self.send(&mut leased, request, &inbound.data()[..len.min(inbound.data().len())], len);
                        self.lease = Some(leased);
                        sent
                    }
                    None => self.answer_locally(request),
                };
                Ok(Some((sent, len)))
            }
            Ok(Read::Partial { .. }) => Ok(None),
            Err(malformed) => Err(malformed),
        };
        self.inbound = inbound;
        if let Some(mut leased) = self.lease.take_if(|_| self.ledger.has_undone()) {
            // The server skips: nothing that is sent to it is carried out.
            self.undo(&mut leased);
            self.lease = Some(leased);
        }
        let Some((sent, len)) = sent? else { return Ok(self.partial(0)) };
        if self.intake.admitted == 0 {
            self.not_repeatable();
        }
        match sent {
            Sent::Done => self.consume(len),
            Sent::Verbatim => self.intake.streaming = Some(Streaming { left: len, to_server: true }),
            Sent::Head(head) => {
                self.consume(head);
                self.intake.streaming = (len > head).then_some(Streaming { left: len - head, to_server: true });
            }
            Sent::Dropped => self.intake.streaming = Some(Streaming { left: len, to_server: false }),
            Sent::Not(step) => return Ok(Some(step)),
        }
        Ok(None)
    }

    /// A message of a batch that needs no server.
    fn answer_locally(&mut self, request: Request<'_>) -> Sent {
        match request {
            Request::Close(Target::Statement(name)) => {
                self.names.set(name, None);
                refusal::close_complete(&mut self.outbound);
            }
            Request::Sync => refusal::ready(&mut self.outbound),
            // `Flush`: there is nothing to flush.
            _ => {}
        }
        Sent::Done
    }

    /// The one place where a message of the client meets a server connection. `frame` is what is here
    /// of its `len` bytes.
    fn send(&mut self, leased: &mut Leased, request: Request<'_>, frame: &[u8], len: usize) -> Sent {
        let mut change = None;
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
                leased.bound = None;
                Some(if matches!(request, Request::Bind(_)) { Awaits::Bind } else { Awaits::Describe })
            }
            // An earlier batch may still fail to close it; otherwise it is SQL's own, or the server says no.
            Request::Bind(head) if !self.names.has(head.statement) && !is_ours(head.statement) => {
                if self.ledger.reaches_back() {
                    return Sent::Not(Step::Stalled);
                }
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
                    Ok((named, _)) => {
                        put_target(leased, frontend::DESCRIBE, named.statement.server_name().as_bytes());
                        self.ledger.push(Awaits::Describe, Fate::Forward, Some(Change::Uses(named.name)));
                        Sent::Done
                    }
                    Err(error) => self.poison(leased, error),
                };
            }
            Request::Describe(Target::Portal(_)) => {
                change = leased.bound.clone().map(Change::Uses);
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
            Request::Execute => Some(Awaits::Execute),
            Request::Sync => Some(Awaits::Sync),
            Request::CopyEnd => {
                self.ledger.copy_ended();
                None
            }
            Request::Flush if self.may_end_here(leased) => {
                // Whoever has prepared a statement may take his time: the connection does not wait for him.
                leased.lease.outbound.push(&SYNC);
                self.ledger.push(Awaits::Sync, Fate::Swallow, None);
                leased.ended_early = true;
                return Sent::Done;
            }
            Request::Flush | Request::CopyData => None,
        };
        if let Some(awaits) = awaits {
            self.begin_statement(leased);
            let ends = matches!(awaits, Awaits::Sync | Awaits::Query | Awaits::FunctionCall);
            leased.batch += u32::from(ends);
            let portal = matches!(
                request,
                Request::Bind(_)
                    | Request::Execute
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
    }

    /// SQL's `DEALLOCATE` of a statement that was prepared by the protocol (they share their names): the
    /// server knows it by another name, and is made to have it.
    fn deallocate(&mut self, leased: &mut Leased, text: &[u8], verdict: Verdict) -> Option<String> {
        if verdict.reason != Reason::PreparedStatement || self.ledger.status() == Status::Failed {
            return None;
        }
        let name = deallocated(text)?;
        let (named, _) = self.ready_named(leased, name.as_bytes()).ok()?;
        self.names.set(name.as_bytes(), None);
        leased.lease.prepared.remove(named.statement.id());
        Some(format!("DEALLOCATE {}", named.statement.server_name()))
    }

    /// `Parse` of a statement with a name.
    fn send_parse(&mut self, leased: &mut Leased, parse: Parse<'_>) -> Sent {
        if self.names.has(parse.name) && self.ledger.reaches_back() {
            // An earlier batch may still fail and leave the name free.
            return Sent::Not(Step::Stalled);
        }
        let verdict = self.parse_verdict(&parse);
        let kept = self.names.bytes() + parse.identity.len();
        let refused = match self.note(leased, verdict, parse.text) {
            _ if self.names.has(parse.name) => {
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
        let statement = self.group.statements.intern(parse.identity, environment);
        let (name, generation) = (Arc::<[u8]>::from(parse.name), self.catalog.generation());
        let (parsed, rows) = (self.generation(leased), Rows::Untold);
        let statement_named = statement.clone();
        let named =
            Named { name: name.clone(), statement: statement_named, parsed, rows, verdict, generation, environment };
        let before = self.names.set(parse.name, Some(named));
        if leased.repeatable {
            leased.names_before.push((name, before.clone()));
        }
        let change = |prepared| Some(Change::Name { name: parse.name.into(), before, prepared });
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

    /// PostgreSQL looks at the statement before it looks at its name: what is wrong with that is said first.
    fn try_parse(&mut self, leased: &mut Leased, parse: &Parse<'_>) {
        let statement = self.group.statements.intern(parse.identity, self.state.environment());
        let generation = self.generation(leased);
        if leased.lease.prepared.touch(statement.id(), generation).is_none() {
            self.put_parse(leased, &statement, Fate::Swallow, Some(Change::Prepared(statement.id())));
        }
    }

    /// `Bind` of a statement with a name: the server knows it by another.
    fn send_bind(&mut self, leased: &mut Leased, head: BindHead<'_>, len: usize) -> Sent {
        if leased.checking {
            return Sent::Not(Step::Stalled);
        }
        let (named, generation) = match self.ready_named(leased, head.statement) {
            Ok(ready) => ready,
            Err(error) => return self.poison(leased, error),
        };
        if self.checks_rows(leased, &named, generation) {
            return Sent::Not(Step::Stalled);
        }
        if matches!(named.rows, Rows::Changed { .. }) && !self.intake.describes_rows() {
            return self.poison(leased, refusal::rows_have_changed());
        }
        if let Err(error) = self.note(leased, named.verdict, named.statement.text()) {
            return self.poison(leased, error);
        }
        self.begin_statement(leased);
        let name = named.statement.server_name().as_bytes();
        let rewritten = len - head.statement.len() + name.len();
        let out = leased.lease.outbound.bytes();
        leased.portals = true;
        leased.bound = Some(named.name.clone());
        out.put_u8(frontend::BIND);
        out.put_u32((rewritten - 1) as u32);
        out.put_slice(head.portal);
        out.put_u8(0);
        out.put_slice(name);
        out.put_u8(0);
        let relies = named.rows != Rows::Untold && !self.intake.describes_rows();
        let change = if relies { Change::ReliesOn(named.name) } else { Change::Uses(named.name) };
        self.ledger.push(Awaits::Bind, Fate::Forward, Some(change));
        Sent::Head(head.len())
    }

    /// Whether the server connection has the statement is not known before an earlier batch is answered,
    /// which may fail before it comes to its `Parse`.
    fn is_unsure(&mut self, leased: &mut Leased, name: &[u8]) -> bool {
        if leased.parsed.is_empty() || self.ledger.is_empty() {
            leased.parsed.clear();
            return false;
        }
        let Some(named) = self.names.get(name) else { return false };
        let (id, batch) = (named.statement.id(), leased.batch);
        leased.parsed.iter().any(|&(parsed, within)| parsed == id && within != batch) && self.ledger.reaches_back()
    }

    /// Makes sure that the server connection has the statement that the client calls `name`; a name
    /// that stands for nothing fails as PostgreSQL would fail it.
    ///
    /// Also the schema's generation when the server parsed it.
    fn ready_named(&mut self, leased: &mut Leased, name: &[u8]) -> Result<(Named, u64), PgError> {
        let named = self.names.get(name).cloned().ok_or_else(|| refusal::no_such_statement(name))?;
        // Parsed in a transaction that was rolled back, it may be ahead of everybody.
        let since = named.parsed.min(self.generation(leased));
        if let Some(generation) = leased.lease.prepared.touch(named.statement.id(), since) {
            conn_metrics(leased).prepared_hits.inc();
            return Ok((named, generation));
        }
        let named = self.under_present_settings(named);
        if let Some(generation) = leased.lease.prepared.touch(named.statement.id(), since) {
            conn_metrics(leased).prepared_hits.inc();
            return Ok((named, generation));
        }
        conn_metrics(leased).prepared_misses.inc();
        let change = Change::Prepared(named.statement.id());
        self.put_parse(leased, &named.statement, Fate::Swallow, Some(change));
        Ok((named, self.generation(leased)))
    }

    /// The server has parsed a statement after the client did, between which the schema has changed: are
    /// its rows still those that the client was told of? True while the server is being asked.
    fn checks_rows(&mut self, leased: &mut Leased, named: &Named, generation: u64) -> bool {
        let known = match named.rows {
            Rows::Untold => true,
            Rows::Told(_) => false,
            Rows::Changed { since, .. } => since == generation,
        };
        if known || self.intake.describes_rows() || generation <= named.parsed || self.ledger.is_skipping() {
            return false;
        }
        if !std::mem::replace(&mut leased.checking, true) {
            self.begin_statement(leased);
            put_target(leased, frontend::DESCRIBE, named.statement.server_name().as_bytes());
            self.ledger.push(Awaits::Describe, Fate::Swallow, Some(Change::Checks(named.name.clone())));
            leased.lease.outbound.push(&FLUSH);
        }
        true
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
    fn ready_unnamed(&mut self, leased: &mut Leased) -> Result<(), PgError> {
        match &self.unnamed {
            Unnamed::None => {
                leased.forget_unnamed(&mut self.ledger);
                Ok(())
            }
            Unnamed::TooLong if leased.has_unnamed => Ok(()),
            Unnamed::TooLong => Err(refusal::unnamed_too_long()),
            Unnamed::Kept { identity, verdict } => {
                let verdict = *verdict;
                if !leased.has_unnamed {
                    put_parse(leased, b"", identity);
                    self.ledger.push(Awaits::Parse, Fate::Swallow, Some(Change::HasUnnamed));
                    leased.has_unnamed = true;
                }
                self.note(leased, verdict, b"")
            }
        }
    }

    /// Gives the connection a statement, and takes from it what is over its limit. The name is closed
    /// first: where an earlier `Close` of ours was skipped after an error, the server still has it.
    fn put_parse(&mut self, leased: &mut Leased, statement: &Statement, fate: Fate, change: Option<Change>) {
        let name = statement.server_name().as_bytes();
        self.put_close(leased, name, None);
        put_parse(leased, name, statement.identity());
        self.ledger.push(Awaits::Parse, fate, change);
        leased.parsed.push((statement.id(), leased.batch));
        let generation = self.generation(leased);
        leased.lease.prepared.insert(statement, generation);
        let limit = leased.prepared_limit;
        while let Some((id, cost)) = leased.lease.prepared.evict(limit) {
            self.put_close(leased, server_name(id).as_bytes(), Some(Change::Closed { id, cost }));
        }
    }

    fn put_close(&mut self, leased: &mut Leased, name: &[u8], change: Option<Change>) {
        put_target(leased, frontend::CLOSE, name);
        self.ledger.push(Awaits::Close, Fate::Swallow, change);
    }

    /// What a message that changes the unnamed statement has to be able to take back. The first message
    /// of a batch is not skipped: it is carried out or fails.
    fn unnamed_changes(&mut self, leased: &Leased) -> Change {
        let before = self.ledger.is_unsynced().then(|| Box::new(std::mem::take(&mut self.unnamed)));
        Change::Unnamed { before, had: leased.has_unnamed }
    }

    fn keep_unnamed(&mut self, identity: &[u8], verdict: Verdict) {
        let mut kept = match std::mem::take(&mut self.unnamed) {
            Unnamed::Kept { identity, .. } => identity,
            _ => Vec::new(),
        };
        kept.clear();
        kept.extend_from_slice(identity);
        self.unnamed = Unnamed::Kept { identity: kept, verdict };
    }

    /// Makes the server fail where the client's message would have failed, so that it skips and
    /// aborts as it should; the client gets `error` in place of the server's.
    fn poison(&mut self, leased: &mut Leased, error: PgError) -> Sent {
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

    fn parse_verdict(&mut self, parse: &Parse<'_>) -> Verdict {
        match self.intake.verdicts.pop_front() {
            Some(verdict) => verdict,
            None => self.classify_parse(parse),
        }
    }

    fn next_verdict(&mut self, text: &[u8]) -> Verdict {
        match self.intake.verdicts.pop_front() {
            Some(verdict) => verdict,
            None => self.classify(text),
        }
    }

    fn classify_parse(&mut self, parse: &Parse<'_>) -> Verdict {
        let verdict = self.classify(parse.text);
        let custom = |oid: &[u8]| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]) >= FIRST_CUSTOM_OID;
        let types = parse.identity.get(parse.text.len() + 3..).unwrap_or_default();
        if verdict.effects.contains(Effects::PARAMETER_TYPES) && types.chunks_exact(4).any(custom) {
            return Verdict { class: Class::Primary, reason: Reason::OpaqueFunction, ..verdict };
        }
        verdict
    }

    /// The verdict on a statement that the client has prepared, under the catalog of now.
    fn verdict_of(&mut self, name: &[u8]) -> Option<Verdict> {
        if name.is_empty() {
            return match &self.unnamed {
                Unnamed::Kept { verdict, .. } if self.intake.verdicts.is_empty() => Some(*verdict),
                _ => None,
            };
        }
        let (generation, environment) = (self.catalog.generation(), self.state.environment());
        let named = self.names.get(name)?;
        if named.generation == generation && named.environment.is(environment) {
            return Some(named.verdict);
        }
        let statement = named.statement.clone();
        let verdict = self.classify_parse(&Parse { name, text: statement.text(), identity: statement.identity() });
        let named = self.names.get_mut(name)?;
        (named.verdict, named.generation, named.environment) = (verdict, generation, environment);
        Some(verdict)
    }

    /// More than one batch is under way: they cannot be run again as if they were one.
    fn not_repeatable(&mut self) {
        if let Some(leased) = &mut self.lease
            && std::mem::take(&mut leased.repeatable)
        {
            self.inbound.release();
        }
    }

    fn consume(&mut self, count: usize) {
        self.inbound.consume(count);
        self.intake.admitted = self.intake.admitted.saturating_sub(count);
    }
}

/// A whole `Sync`.
const SYNC: [u8; HEADER] = [frontend::SYNC, 0, 0, 0, 4];

/// A whole `Flush`.
const FLUSH: [u8; HEADER] = [frontend::FLUSH, 0, 0, 0, 4];

/// May a statement call a function of the database's own? Those of a change of the schema matter when
/// they are used.
pub(super) fn may_call(text: &[u8], verdict: Verdict) -> bool {
    verdict.reason != Reason::Ddl && memchr::memchr(b'(', text).is_some()
}

/// PostgreSQL's `FirstNormalObjectId`: types from here on are the database's own.
const FIRST_CUSTOM_OID: u32 = 16384;

/// A name that only statements of ours have on a server connection.
fn is_ours(name: &[u8]) -> bool {
    name.starts_with(OUR_NAMES.as_bytes())
}

fn conn_metrics(leased: &Leased) -> &crate::metrics::HostMetrics {
    &leased.lease.pool().metrics
}

fn put_parse(leased: &mut Leased, name: &[u8], identity: &[u8]) {
    let out = leased.lease.outbound.bytes();
    out.put_u8(frontend::PARSE);
    out.put_u32((4 + name.len() + 1 + identity.len()) as u32);
    out.put_slice(name);
    out.put_u8(0);
    out.put_slice(identity);
}

fn put_target(leased: &mut Leased, tag: u8, statement: &[u8]) {
    let out = leased.lease.outbound.bytes();
    out.put_u8(tag);
    out.put_u32((4 + 1 + statement.len() + 1) as u32);
    out.put_u8(b'S');
    out.put_slice(statement);
    out.put_u8(0);
}
