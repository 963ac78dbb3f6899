//! From the client: gathers a batch before it is routed, and then takes its messages one by one for
//! `sending`.

use std::collections::VecDeque;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64;

use super::batch::Batch;
use super::guarding::Guards;
use super::ledger::Status;
use super::moving::belongs_on_primary;
use super::request::{LONGEST_QUERY, Malformed, Read, Request, is_long, read};
use super::sending::FLUSH;
use super::statements::Unnamed;
use super::{Leased, Opened, Session, refusal};
use crate::cluster::Place;
use crate::net::buffer::ReadBuffer;
use crate::sql::{Catalog, Class, Effects, Reason, TxControl, Verdict, statements};
use crate::wire::frame::HEADER;
use crate::wire::view::{BindHead, Parse, Target};

/// Bytes waiting to be written beyond which no more are taken from the other side.
pub(super) const HIGH_WATER: usize = 64 * 1024;
/// Bytes of a batch that are held before it is routed; a longer one goes to the primary.
const LONGEST_BATCH: usize = 128 * 1024;
/// Messages whose replies are awaited beyond which no more are taken from the client.
const MOST_OWED: usize = 10_000;
/// Bytes of statement text that one client may keep prepared by name.
pub(super) const LONGEST_NAMES: usize = 32 << 20;

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
    /// Verdicts on the admitted or gathered statements, in order, with the number of the catalog by which they were judged.
    verdicts: VecDeque<(u64, Verdict)>,
    /// After an error of ours: everything up to the next `Sync` is dropped.
    skipping: bool,
    /// Bytes at the front of the buffer that were counted for the tenant's rate limits.
    paid: u32,
    /// For each `Bind` among the admitted or gathered messages, in order: its portal, by a hash of the name, and whether
    /// that is described before anything else is bound to it.
    bound: VecDeque<(u64, bool)>,
}

/// What became of a message.
pub(super) enum Sent {
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
    /// The client says goodbye while it is still owed something.
    Goodbye,
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
    /// What it asks for can only begin when it is here: how many of the ledger's entries are its own that run.
    begins: Option<usize>,
}

impl Streaming {
    fn dropped(left: usize) -> Self {
        Self { left, to_server: false, begins: None }
    }

    fn sent(left: usize, begins: Option<usize>) -> Self {
        Self { left, to_server: true, begins }
    }
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
        self.open = !batch.complete;
        self.batch = None;
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

    /// The client asks for the rows of the portal that is being bound.
    pub(super) fn describes_rows(&self) -> bool {
        self.admitted > 0 && self.bound.front().is_some_and(|(_, described)| *described)
    }

    /// `Bind` messages that are gathered.
    pub(super) fn binds(&self) -> usize {
        self.bound.len()
    }

    /// The end of the batch has been sent: what follows is a batch of its own.
    pub(super) fn ends(&mut self) {
        self.open = false;
    }

    /// So many bytes were counted for the tenant's rate limits: with their batch, or as they are sent once more.
    pub(super) fn has_paid(&self, bytes: usize) -> bool {
        self.paid as usize >= bytes
    }

    pub(super) fn paid(&mut self, bytes: usize) {
        self.paid = u32::try_from(bytes).unwrap_or(u32::MAX);
    }

    fn taken(&mut self, bytes: usize) {
        self.admitted = self.admitted.saturating_sub(bytes);
        self.paid = self.paid.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Nothing is half taken, and nothing is to be dropped.
    pub(super) fn is_at_rest(&self) -> bool {
        self.at_boundary() && !self.skipping
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

    /// What has been gathered will be gathered and judged again.
    pub(super) fn ungather(&mut self) {
        self.batch = None;
        self.verdicts.clear();
        self.bound.clear();
    }
}

impl Session {
    /// The batch is refused before anything of it was sent: it is dropped. True when the client is to
    /// be told that it may go on, false when its `Sync` is still to come.
    pub(super) fn refuse_batch(&mut self, batch: &Batch) -> bool {
        self.intake = Intake { skipping: !batch.simple, ..Intake::default() };
        if batch.simple
            && let Ok(Read::Request { len, .. }) = read(self.inbound.data(), LONGEST_QUERY)
        {
            self.intake.streaming = Some(Streaming::dropped(len));
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
            if self.intake.admitted == 0 && self.lease.as_ref().is_some_and(|leased| leased.again.is_some()) {
                // What comes next waits until that is run again.
                return Ok(Step::Stalled);
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
        if self.is_opened() {
            return false;
        }
        let under_way = self.intake.open || self.ledger.is_unsynced() || self.ledger.reads_copy();
        if !under_way && self.is_looked_at(leased) {
            return false;
        }
        let waiting = !self.ledger.settled();
        let held_up = leased.ended_early
            || (waiting && self.is_held_otherwise())
            || (waiting || leased.withheld.ready) && self.holds_the_end(leased);
        // What is held for its tenant may have to be made again first.
        if waiting && self.state.guards != Guards::Kept && !under_way {
            return false;
        }
        let over = waiting && leased.is_ending(&self.ledger) && self.holds_the_end(leased);
        under_way
            || (self.ledger.status() != Status::Idle && !over)
            // Where a session is listened for, what a batch depends on has to be known before it is sent.
            || (!held_up
                && (self.keeps_lease()
                    || (waiting && leased.place == Place::Primary && self.listening.is_none())))
    }

    /// Has a batch to be seen before it is sent to where the one before it was: whose it is, whether it has to wait, and to
    /// what it is held?
    fn is_looked_at(&self, leased: &Leased) -> bool {
        let may_wait = || self.is_rated() || self.is_held_otherwise();
        let at_rest = || self.ledger.settled() && self.ledger.status() == Status::Idle;
        self.tells_tenants_apart(leased) || (self.keeps_lease() && may_wait() && at_rest())
    }

    /// What was sent before was held to other limits than what comes next, or its tenant is paused by now.
    pub(super) fn is_held_otherwise(&self) -> bool {
        self.tenant.is_paused() || !self.has_current_limits()
    }

    fn stream(&mut self, Streaming { left, to_server, begins }: Streaming) -> Option<Step> {
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
        self.intake.taken(count);
        let left = left - count;
        self.intake.streaming = (left > 0).then_some(Streaming { left, to_server, begins });
        match left {
            0 if begins.is_some() && !self.ledger.is_skipping() => self.slot.clock.has_received(Instant::now()),
            _ => self.receives(),
        }
        (left > 0).then_some(Step::NeedClient)
    }

    /// Nothing runs until the rest of a message is here.
    pub(super) fn receives(&self) {
        let begins = self.intake.streaming.and_then(|streaming| streaming.begins);
        if begins.is_some_and(|own| self.ledger.running() <= own) {
            self.slot.clock.receives(Instant::now(), self.ledger.may_be_in_transaction());
        }
    }

    /// After an error of ours: drops messages up to `Sync`, as PostgreSQL does after one of its own.
    fn skip(&mut self) -> Result<Option<Step>, Malformed> {
        let Read::Request { request, len } = read(self.inbound.data(), LONGEST_QUERY)? else {
            return Ok(self.partial(0, LONGEST_QUERY));
        };
        match request {
            Request::Terminate => return Ok(Some(Step::Left)),
            // The error is not out yet.
            Request::Sync if self.lease.as_ref().is_some_and(|leased| leased.passing > 0) => {
                return Ok(Some(Step::Stalled));
            }
            Request::Sync => {
                self.intake.skipping = false;
                self.inbound.consume(len);
                refusal::ready(&mut self.outbound);
            }
            _ => self.intake.streaming = Some(Streaming::dropped(len)),
        }
        Ok(None)
    }

    /// A message is not whole yet. `before`: bytes of the buffer that come before it.
    fn partial(&mut self, before: usize, longest_query: usize) -> Option<Step> {
        if let Ok(Read::Partial { reserve: Some(len) }) = read(&self.inbound.data()[before..], longest_query) {
            self.inbound.reserve_frame(before + len);
        } else if self.inbound.is_full() {
            self.inbound.reserve_frame(self.inbound.data().len() + HEADER);
        }
        Some(Step::NeedClient)
    }

    fn gather_batch(&mut self) -> Result<Option<Step>, Malformed> {
        // Taken out while a request borrows from it.
        let inbound = std::mem::take(&mut self.inbound);
        let gathered = self.gather_from(&inbound);
        self.inbound = inbound;
        Ok(match gathered? {
            Gathered::Batch(batch) => self.place_batch(batch),
            Gathered::Partial { before } => self.partial(before, self.longest_query),
            Gathered::Stray { len } => {
                self.intake.streaming = Some(Streaming::dropped(len));
                None
            }
            Gathered::Terminate if self.ledger.settled() => Some(Step::Left),
            Gathered::Terminate => Some(Step::Stalled),
        })
    }

    fn gather_from(&mut self, inbound: &ReadBuffer) -> Result<Gathered, Malformed> {
        let mut batch = self.intake.batch.take().unwrap_or_else(|| {
            self.intake.verdicts.clear();
            self.intake.bound.clear();
            self.switching.iter_mut().for_each(|switching| switching.gathers());
            Batch::empty()
        });
        if batch.complete {
            // It has waited for the one before it.
            return Ok(Gathered::Batch(batch));
        }
        loop {
            let rest = &inbound.data()[batch.len..];
            let Read::Request { request, len } = read(rest, self.longest_query)? else {
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
                self.switching.iter_mut().for_each(|switching| switching.gathered(text, verdict));
                self.intake.verdicts.push_back((self.catalog.generation(), verdict));
                batch.add(if is_long(text) { verdict.with(Verdict::opaque(verdict.reason).effects) } else { verdict });
                batch.statements = self.counted(text);
                batch.calls |= may_call(text, verdict);
                batch.refused |= self.was_refused(text);
                (batch.simple, batch.synced) = (true, true);
                return true;
            }
            Request::LongQuery { .. } | Request::FunctionCall(_) => {
                if let Request::LongQuery { head } = request {
                    self.switching.iter_mut().for_each(|switching| switching.gathered_long(head));
                }
                batch.add(Verdict::opaque(Reason::Oversized));
                batch.statements = 1;
                (batch.simple, batch.synced) = (true, true);
                return true;
            }
            Request::Parse(parse) => {
                let verdict = self.classify_parse(&parse);
                self.switching.iter_mut().for_each(|switching| switching.gathered(parse.text, verdict));
                self.intake.verdicts.push_back((self.catalog.generation(), verdict));
                batch.add(verdict);
                batch.calls |= may_call(parse.text, verdict);
                batch.refused |= self.was_refused(parse.text);
            }
            Request::LongParse { head, .. } => {
                self.switching.iter_mut().for_each(|switching| switching.gathered_long(head));
                batch.add(Verdict::opaque(Reason::Oversized));
            }
            Request::Bind(BindHead { statement, .. }) | Request::Describe(Target::Statement(statement)) => {
                batch.needs_server = true;
                batch.unsure |= self.is_speculative(statement);
                if let Request::Bind(head) = request {
                    batch.portals = true;
                    batch.statements = batch.statements.saturating_add(1);
                    self.intake.bound.push_back((xxh3_64(head.portal), false));
                }
                if let Some(verdict) = self.verdict_of(statement) {
                    batch.add(verdict);
                    let named = self.names.get(statement);
                    let text = named.map_or(self.unnamed.text(), |named| named.statement.text());
                    self.switching.iter_mut().for_each(|switching| switching.gathered(text, verdict));
                    if let Some(named) = named {
                        batch.calls |= may_call(named.statement.text(), verdict);
                        batch.refused |= self.was_refused(named.statement.text());
                    }
                }
            }
            Request::Execute(_) => (batch.needs_server, batch.portals, batch.executes) = (true, true, true),
            Request::Describe(Target::Portal(portal)) => {
                (batch.needs_server, batch.portals) = (true, true);
                let hash = xxh3_64(portal);
                if let Some((_, described)) = self.intake.bound.iter_mut().rev().find(|(bound, _)| *bound == hash) {
                    *described = true;
                }
            }
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

    /// What a statement's name stands for depends on a batch that may still fail.
    fn is_speculative(&self, name: &[u8]) -> bool {
        let Some(leased) = &self.lease else { return false };
        match name {
            b"" => self.intake.verdicts.is_empty() && leased.awaits(leased.unnamed_changed, &self.ledger),
            _ => self.is_renamed(leased, name),
        }
    }

    /// Has a replica refused a statement like this? Where it was this one, which is about to be run again, that is
    /// remembered.
    fn was_refused(&self, text: &[u8]) -> bool {
        if self.refused {
            self.group.refused(text, self.slot.pid());
        }
        self.group.was_refused(text)
    }

    fn place_batch(&mut self, batch: Batch) -> Option<Step> {
        let settled = self.ledger.settled();
        if self.lease.is_none() {
            if batch.needs_server || !batch.complete {
                return self.judged_for_its_tenant(batch);
            }
            // `Close` and `Sync` outside any transaction: nothing that a server knows of.
            self.intake.admit(&batch);
            return None;
        }
        if settled && self.is_opened() {
            return self.place_first(batch);
        }
        if settled && self.keeps_lease() && self.lease.as_ref().is_some_and(|leased| !leased.active) {
            if self.goes_on_at_once(&batch) {
                self.opens_here(&batch);
                self.intake.admit(&batch);
                return None;
            }
            return self.judged_for_its_tenant(batch);
        }
        if !settled && self.rides(&batch) && self.pays_at_once(&batch) {
            self.join(&batch);
            self.intake.admit(&batch);
            return None;
        }
        self.intake.batch = Some(batch);
        Some(Step::Stalled)
    }

    /// The first batch of a transaction that was begun by itself.
    fn place_first(&mut self, batch: Batch) -> Option<Step> {
        if self.lease.as_ref().is_some_and(|leased| leased.opened == Opened::Leaves) {
            return Some(Step::NeedLease(batch));
        }
        if !batch.needs_server && batch.complete {
            // Names of statements that are given up.
            self.intake.admit(&batch);
            return None;
        }
        let opened = match self.moves_to_its_tenant(&batch) {
            Ok(true) => Opened::Leaves,
            Err(error) => Opened::Refused(Box::new(error)),
            Ok(false) => {
                let on_replica = self.lease.as_ref().is_some_and(|leased| leased.place != Place::Primary);
                let belongs = on_replica && batch.complete && belongs_on_primary(batch.verdict());
                if belongs && self.pays_within(&batch, false).is_ok() {
                    return Some(Step::NeedLease(batch));
                }
                Opened::No
            }
        };
        if let Some(leased) = &mut self.lease {
            leased.opened = opened;
        }
        // Where it moves it is judged once more, under the settings of that tenant.
        self.intake.ungather();
        None
    }

    /// A batch that may be leased for is judged under the settings of the tenant whose it is.
    fn judged_for_its_tenant(&mut self, batch: Batch) -> Option<Step> {
        if !self.is_of_this_tenant() && self.works_for_its_tenant().is_ok() {
            self.intake.ungather();
            return None;
        }
        Some(Step::NeedLease(batch))
    }

    /// May a batch go where the one before it is still being answered, without being routed? It would go there anyway.
    fn rides(&self, batch: &Batch) -> bool {
        let Some(leased) = &self.lease else { return false };
        let verdict = batch.verdict();
        let plain = verdict.class == Class::Read
            && verdict.tx == TxControl::None
            && verdict.hint.is_none()
            && !super::batch::needs_probe(verdict.effects);
        plain
            && self.ledger.status() == Status::Idle
            && !self.keeps_lease()
            && leased.flights.bytes() + batch.len <= LONGEST_BATCH
            && !leased.ended_early
            && !self.holds_the_end(leased)
            && batch.is_closed()
            && batch.needs_server
            && !batch.refused
            && !batch.unsure
            && self.is_of_this_tenant()
            && !self.is_held_otherwise()
            && self.group.shows(leased.place, self.wanted(batch).written)
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
        let waits_since = self.slot.clock.waits_since();
        let sent = match read(inbound.data(), self.longest_query) {
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
                let begins = match request {
                    Request::LongQuery { .. } | Request::FunctionCall(_) => Some(1),
                    Request::LongParse { .. } | Request::Bind(_) => Some(0),
                    _ => None,
                };
                let taken = !matches!(sent, Sent::Not(_));
                if taken && matches!(request, Request::Bind(_)) {
                    self.intake.bound.pop_front();
                }
                Ok(Some((sent, len, begins)))
            }
            Ok(Read::Partial { .. }) => Ok(None),
            Err(malformed) => Err(malformed),
        };
        self.inbound = inbound;
        if self.lease.as_ref().is_none_or(|leased| leased.flights.is_empty()) {
            self.inbound.release();
        }
        if let Some(mut leased) = self.lease.take_if(|_| self.ledger.has_undone()) {
            // The server skips: nothing that is sent to it is carried out.
            self.undo(&mut leased);
            self.lease = Some(leased);
        }
        let Some((sent, len, begins)) = sent? else { return Ok(self.partial(0, self.longest_query)) };
        if self.intake.admitted == 0 {
            self.not_repeatable();
        }
        match sent {
            Sent::Done => self.consume(len),
            Sent::Verbatim => self.intake.streaming = Some(Streaming::sent(len, begins)),
            Sent::Head(head) => {
                self.consume(head);
                self.intake.streaming = (len > head).then_some(Streaming::sent(len - head, begins));
            }
            Sent::Dropped => self.intake.streaming = Some(Streaming::dropped(len)),
            Sent::Not(step) => return Ok(Some(step)),
            Sent::Goodbye => self.says_goodbye(),
        }
        if self.intake.streaming.is_some_and(|rest| rest.begins.is_some() && rest.left > 0) {
            self.slot.clock.waits_on(waits_since);
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

    pub(super) fn parse_verdict(&mut self, parse: &Parse<'_>) -> Verdict {
        match self.gathered_verdict() {
            Some(verdict) => verdict,
            None => self.classify_parse(parse),
        }
    }

    pub(super) fn next_verdict(&mut self, text: &[u8]) -> Verdict {
        match self.gathered_verdict() {
            Some(verdict) => verdict,
            None => self.classify(text),
        }
    }

    /// What the statement was judged to be before there was a server connection for it, unless the catalog is another by now
    /// or what came before it in its batch moves its names.
    fn gathered_verdict(&mut self) -> Option<Verdict> {
        let (generation, verdict) = self.intake.verdicts.pop_front()?;
        self.follow_catalog();
        (generation == self.catalog.generation() && !self.state.names_have_moved()).then_some(verdict)
    }

    /// A statement that has been judged is not taken yet.
    pub(super) fn judged(&mut self, verdict: Verdict) {
        self.intake.verdicts.push_front((self.catalog.generation(), verdict));
    }

    /// What is judged from here on is judged by the catalog of now.
    pub(super) fn follow_catalog(&mut self) {
        if !self.group.is_catalog(&self.catalog) {
            self.catalog = self.group.catalog();
        }
    }

    fn classify_parse(&mut self, parse: &Parse<'_>) -> Verdict {
        let verdict = self.classify(parse.text);
        let custom = |oid: &[u8]| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]) >= FIRST_CUSTOM_OID;
        let types = parse.identity.get(parse.text.len() + 3..).unwrap_or_default();
        let tainted = |oid: &[u8]| self.catalog.taints_type(u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]));
        let selects_other = verdict.effects.contains(Effects::PARAMETER_TYPES) && types.chunks_exact(4).any(custom);
        if verdict.class == Class::Read && (selects_other || types.chunks_exact(4).any(tainted)) {
            return Verdict { class: Class::Primary, reason: Reason::OpaqueFunction, ..verdict };
        }
        verdict
    }

    /// The verdict on a statement that the client has prepared, under the catalog of now.
    pub(super) fn verdict_of(&mut self, name: &[u8]) -> Option<Verdict> {
        if name.is_empty() {
            // One that is gathered with it comes in its place.
            return if self.intake.verdicts.is_empty() { self.unnamed_verdict(false) } else { None };
        }
        self.follow_catalog();
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

    /// The same of the unnamed one; `judged`: it was, a moment ago.
    pub(super) fn unnamed_verdict(&mut self, judged: bool) -> Option<Verdict> {
        let Unnamed::Kept { identity, verdict } = &mut self.unnamed else { return None };
        if judged {
            return Some(*verdict);
        }
        let identity = std::mem::take(identity);
        let text = crate::wire::view::cstring(&identity).map_or(&[][..], |(text, _)| text);
        let verdict = self.classify_parse(&Parse { name: b"", text, identity: &identity });
        self.unnamed = Unnamed::Kept { identity, verdict };
        Some(verdict)
    }

    /// The batch goes behind those that are being answered, and can be run again like them.
    fn join(&mut self, batch: &Batch) {
        let Some(leased) = &mut self.lease else { return };
        if leased.flights.is_empty() {
            self.inbound.hold();
            leased.untouched = false;
        }
        leased.flights.join(batch.len);
        leased.opened = Opened::No;
    }

    /// What follows is not routed: nothing of it can be run again by itself.
    fn not_repeatable(&mut self) {
        if let Some(leased) = self.lease.as_mut().filter(|leased| leased.again.is_none()) {
            leased.flights.clear();
            self.inbound.release();
        }
    }

    /// From here on the client is as good as gone: nothing that it may have sent behind its goodbye counts.
    fn says_goodbye(&mut self) {
        self.not_repeatable();
        self.inbound.consume(self.inbound.data().len());
        (self.intake.admitted, self.client_gone) = (0, true);
    }

    fn consume(&mut self, count: usize) {
        self.inbound.consume(count);
        self.intake.taken(count);
    }
}

/// May a statement call a function of the database's own? Those of a change of the schema matter when
/// they are used.
pub(super) fn may_call(text: &[u8], verdict: Verdict) -> bool {
    verdict.reason != Reason::Ddl && memchr::memchr(b'(', text).is_some()
}

/// May a statement reach such a function by a name, as that of a view, or by an operator? `catalog`: by which it was judged.
/// What is a read without one names nothing.
pub(super) fn may_reach(text: &[u8], verdict: Verdict, catalog: &Catalog) -> bool {
    match verdict.reason {
        Reason::Empty => false,
        Reason::Read => catalog.is_loaded(),
        Reason::Transaction | Reason::PrimaryTransaction | Reason::SessionState => statements(text) > 1,
        _ => true,
    }
}

/// PostgreSQL's `FirstNormalObjectId`: types from here on are the database's own.
const FIRST_CUSTOM_OID: u32 = 16384;
