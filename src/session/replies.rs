//! From the server to the client: forwards whole runs of frames, and takes the ledger's word for
//! what the client is not to see.

use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64;

use super::introducing::name;
use super::leasing::MOST_ATTEMPTS;
use super::ledger::{Status, Synthetic, Verdict};
use super::server_error::{REFUSED, ServerError, TimedOut};
use super::state::{LOCK_TIMEOUT, STATEMENT_TIMEOUT};
use super::statements::{Change, Unnamed, Used};
use super::{Again, Leased, Session, refusal};
use crate::cluster::Place;
use crate::pool::{OUR_NAMES, Shape};
use crate::sql::Reason;
use crate::wire::author;
use crate::wire::error::PgError;
use crate::wire::frame::{HEADER, backend, backend_header};
use crate::wire::view;

/// Bytes of an error that are looked at: its first fields, of which the SQLSTATE is one. Most errors
/// are shorter.
const PEEK: usize = 1024;
/// Bytes of a notification: its payload has less than 8,000, and its channel less than 64.
const LONGEST_NOTIFICATION: usize = 9 * 1024;
/// Bytes of a description that is remembered; of longer ones nobody is told that they have changed.
const LONGEST_DESCRIPTION: usize = 16 * 1024;

/// Tags of the statements that end a transaction; of the latter also that which goes back to a savepoint.
const COMMITTED: &[u8] = b"COMMIT\0";
const ROLLED_BACK: &[u8] = b"ROLLBACK\0";

/// Why the replies cannot be passed on any more.
#[derive(Debug)]
pub(super) enum Broken {
    /// The server does not keep to the protocol.
    Confused { tag: u8 },
    /// Settings of the session could not be made on this connection: the server's reason.
    Injection(PgError),
}

impl Session {
    /// Goes through what the server has sent. Returns how many bytes at the front of the server's
    /// buffer are for the client as they are; everything else is dealt with.
    pub(super) fn take_replies(&mut self, leased: &mut Leased) -> Result<usize, Broken> {
        let mut run = 0;
        loop {
            let data = leased.lease.inbound.data();
            if leased.passing > 0 {
                let count = leased.passing.min(data.len() - run);
                leased.passing -= count;
                run = self.dispose(leased, run, count);
            }
            // Behind a frame that is done, and before the next one is judged.
            self.synthesise(leased, &mut run);
            if leased.passing == 0 && self.lets_go(leased) {
                return Ok(run);
            }
            let rest = &leased.lease.inbound.data()[run..];
            let header = backend_header(rest).map_err(|_| Broken::Confused { tag: rest[0] })?;
            let described =
                header.is_some_and(|header| is_description(header.tag)).then(|| self.described_next()).flatten();
            let enough = |tag, len| rest.len() >= looked_at(tag, len, described.is_some(), leased.own.is_on());
            let Some(header) = header.filter(|header| enough(header.tag, header.len)) else { return Ok(run) };
            if let Some(used) = described {
                let told = rest.get(..header.len).filter(|_| header.len <= LONGEST_DESCRIPTION);
                let told = told.and_then(|frame| hash_of(header.tag, frame));
                self.told(leased, &used, header.tag, told);
            }
            if header.tag == backend::ERROR {
                self.portal_fails(leased);
            }
            if header.tag == backend::COMMAND_COMPLETE && leased.own.is_on() {
                self.completes(leased, run);
            }
            let rest = &leased.lease.inbound.data()[run..];
            let status = rest.get(HEADER).copied().filter(|_| header.len > HEADER);
            let renamed = (header.tag == backend::ERROR).then(|| self.in_other_words(rest, header.len)).flatten();
            let failed = (header.tag == backend::ERROR).then(|| self.failing()).flatten();
            let verdict = match self.ledger.reply(header.tag, status.unwrap_or(0)) {
                Verdict::Forward if header.tag == backend::ERROR => {
                    let seen = ServerError::read(&rest[..header.len.min(rest.len())]);
                    self.judge_error(leased, &seen, failed)
                }
                verdict => verdict,
            };
            if header.tag == backend::NOTICE {
                self.noticed(leased);
            }
            if header.tag == backend::ERROR && self.ledger.ends_at_ours() && verdict != Verdict::Swallow {
                self.intake.skip_to_sync();
            }
            match verdict {
                Verdict::Forward => {
                    self.observe(leased, header.tag, run);
                    leased.swallowing = renamed.is_some()
                        || self.withholds(leased, header.tag, run)
                        || self.hears_it_elsewhere(leased, header.tag, run, header.len);
                    if header.tag == backend::NOTIFICATION {
                        let conn = &mut *leased.lease;
                        name(self.process_id(conn.cancel.pid), conn.cancel.pid, &mut conn.inbound.data_mut()[run..]);
                    }
                    leased.holding_back = leased.may_move() && is_preamble(header.tag);
                    if !leased.holding_back {
                        self.touch(leased);
                    }
                    if header.tag == backend::READY {
                        self.next_flight(leased);
                    }
                    if let Some(renamed) = renamed {
                        self.flush_run(leased, &mut run);
                        self.outbound.push(&renamed);
                    }
                }
                Verdict::Swallow => {
                    leased.swallowing = true;
                    if header.tag == backend::READY && leased.ahead > 0 {
                        self.told_ahead(leased);
                    }
                    if header.tag == backend::READY
                        && leased.ended_early
                        && leased.again.is_none()
                        && self.ledger.settled()
                    {
                        // For the client it is over without a word.
                        self.touch(leased);
                    }
                }
                Verdict::Replace(error) => {
                    self.flush_run(leased, &mut run);
                    self.touch(leased);
                    error.encode(self.outbound.bytes());
                    leased.swallowing = true;
                }
                Verdict::InjectionFailed => {
                    let frame = &leased.lease.inbound.data()[run..];
                    let error = ServerError::read(&frame[..header.len.min(frame.len())]);
                    return Err(Broken::Injection(refusal::settings_refused(&error.code, &error.message)));
                }
                Verdict::Unexpected => return Err(Broken::Confused { tag: header.tag }),
            }
            leased.passing = header.len;
            if self.ledger.has_undone() {
                self.undo(leased);
            }
        }
    }

    /// One more statement of ours ahead of the batch is answered. From there on a cancel strikes what is the client's.
    fn told_ahead(&mut self, leased: &mut Leased) {
        leased.ahead -= 1;
        if leased.ahead == 0 {
            self.slot.leases(&leased.lease.cancel);
        }
    }

    /// Everything is answered and the connection goes back: what comes next is not for this client, not even
    /// that the server shuts down.
    fn lets_go(&self, leased: &Leased) -> bool {
        leased.active
            && self.ledger.returnable()
            && !self.keeps_lease()
            && !super::batch::needs_probe(self.effects)
            && self.intake.at_boundary()
    }

    /// `count` bytes behind the run are forwarded (the run grows), held back or dropped.
    fn dispose(&mut self, leased: &mut Leased, mut run: usize, count: usize) -> usize {
        if !leased.swallowing && !leased.holding_back {
            return run + count;
        }
        self.flush_run(leased, &mut run);
        if !leased.swallowing {
            leased.held_back.push(&leased.lease.inbound.data()[..count]);
        }
        leased.lease.inbound.consume(count);
        0
    }

    /// The client gets the beginning of its answer: from here on the batch stays where it is.
    fn touch(&mut self, leased: &mut Leased) {
        leased.untouched = false;
        self.outbound.append(&mut leased.held_back);
    }

    /// The client has the whole answer to a batch: that to the next one can still be another's.
    fn next_flight(&mut self, leased: &mut Leased) {
        if !leased.flights.is_empty() {
            let answered = leased.flights.front_is_over();
            leased.untouched = !leased.flights.is_empty();
            self.let_go(leased, answered);
        }
    }

    /// So many of the bytes that are held for the batches under way are needed no longer.
    pub(super) fn let_go(&mut self, leased: &Leased, count: usize) {
        match leased.flights.is_empty() {
            true => self.inbound.release(),
            false => self.inbound.let_go(count),
        }
    }

    /// Moves the run into the client's buffer, so that something else can follow it.
    fn flush_run(&mut self, leased: &mut Leased, run: &mut usize) {
        self.outbound.push(&leased.lease.inbound.data()[..*run]);
        leased.lease.inbound.consume(std::mem::take(run));
    }

    /// Authors the replies whose turn it is.
    pub(super) fn synthesise(&mut self, leased: &mut Leased, run: &mut usize) {
        if leased.passing > 0 {
            return;
        }
        while let Some(reply) = self.ledger.synthetic() {
            self.flush_run(leased, run);
            let tag = match reply {
                Synthetic::ParseComplete => backend::PARSE_COMPLETE,
                Synthetic::CloseComplete => backend::CLOSE_COMPLETE,
            };
            let frame = [tag, 0, 0, 0, 4];
            if leased.may_move() {
                leased.held_back.push(&frame);
            } else {
                self.touch(leased);
                self.outbound.push(&frame);
            }
        }
    }

    /// What forwarding a frame of this tag tells us. `at`: where in the server's buffer it begins.
    fn observe(&mut self, leased: &mut Leased, tag: u8, at: usize) {
        match tag {
            backend::EMPTY_QUERY | backend::PORTAL_SUSPENDED => {
                leased.lease.pool().metrics.queries.inc();
                self.slot.clock.statement_is_over(Instant::now());
            }
            // A server that waits for data does not hear of a cancel.
            backend::COPY_IN => self.slot.clock.note_stubborn(),
            backend::ERROR if self.ledger.answers_long_query() => self.slot.clock.has_counted(),
            backend::COMMAND_COMPLETE | backend::READY => {
                if tag == backend::COMMAND_COMPLETE {
                    leased.lease.pool().metrics.queries.inc();
                }
                if leased.writes {
                    // Before the client sees it: what it asks next must find this.
                    self.has_written();
                }
                if tag == backend::READY && self.ledger.status() == Status::Idle {
                    // Likewise.
                    self.schema_settles(leased);
                }
                leased.answered = Instant::now();
                if tag == backend::COMMAND_COMPLETE {
                    self.slot.clock.statement_is_over(leased.answered);
                    if self.ledger.answers_long_query() {
                        self.slot.clock.has_counted();
                    }
                    match leased.lease.inbound.data().get(at + HEADER..) {
                        Some(tag) if tag.starts_with(COMMITTED) => self.slot.clock.has_ended(),
                        Some(tag) if tag.starts_with(ROLLED_BACK) => self.slot.clock.has_rolled_back(),
                        _ => {}
                    }
                } else {
                    let more = self.slot.clock.batch_is_over(self.ledger.status());
                    self.owes(more);
                    if !self.ledger.settled() {
                        self.slot.clock.next_batch(leased.answered, self.ledger.status(), self.ledger.running());
                    }
                    self.slot.clock.next_statement(leased.answered);
                }
            }
            _ => {}
        }
    }

    /// A server's error that is not for the client as it is.
    fn in_other_words(&self, rest: &[u8], len: usize) -> Option<Vec<u8>> {
        let frame = rest.get(..len)?;
        self.in_the_clients_words(frame).or_else(|| self.names_ceiling(frame))
    }

    /// The error of the server's own timeout, with the ceiling that it stands for. Not where the client has asked for less.
    fn names_ceiling(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let error = ServerError::read(frame);
        let (limits, timed_out) = (&self.tenant.limits, self.has_timed_out(&error));
        let (setting, ceiling) = match error {
            _ if timed_out => (STATEMENT_TIMEOUT, limits.statement_timeout?),
            _ if error.is_lock_timeout() => (LOCK_TIMEOUT, limits.lock_timeout?),
            _ => return None,
        };
        let now = Instant::now();
        // Code may have lowered it unseen: then less time has gone by.
        let is_own = (self.state.is_at_ceiling(setting, ceiling) && self.slot.clock.batch_has_taken(ceiling, now))
            || (timed_out && self.slot.clock.is_over_statement(self.slot.ceilings(), now));
        is_own.then(|| author::with_detail(frame, &refusal::of_tenant(&self.tenant.name, ceiling)))
    }

    /// By the server's own timeout of statements. Where its words do not tell that from a cancel, time does: the server
    /// lets nothing run for as long as the ceiling, and nobody has cancelled through pgweir.
    fn has_timed_out(&self, error: &ServerError) -> bool {
        match error.timed_out() {
            TimedOut::OrCancelled => self.slot.clock.may_have_timed_out(self.slot.ceilings(), Instant::now()),
            known => known == TimedOut::Yes,
        }
    }

    /// One that speaks of a statement by our name for it, with the client's name instead. `None` for every other.
    fn in_the_clients_words(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let (Change::Uses(used) | Change::ReliesOn(used) | Change::Checks(used)) = self.ledger.front_change()? else {
            return None;
        };
        view::renamed(frame, OUR_NAMES.as_bytes(), &used.name)
    }

    /// The client is told of its settings, and that it may go on, when they are those that it will find.
    /// `at`: where in the server's buffer the frame begins.
    fn withholds(&mut self, leased: &mut Leased, tag: u8, at: usize) -> bool {
        let may_reset = self.may_reset();
        if tag == backend::PARAMETER_STATUS {
            let report = view::parameter_status(&leased.lease.inbound.data()[at..]);
            let report = report.and_then(|(name, value)| {
                Some((str::from_utf8(name).ok()?.to_owned(), str::from_utf8(value).ok()?.to_owned()))
            });
            let withheld = report.filter(|_| may_reset);
            let withholds = withheld.is_some();
            leased.withheld.reported |= !withholds;
            leased.withheld.reports.extend(withheld);
            return withholds;
        }
        let ends = || self.ledger.settled() && self.ledger.status() == Status::Idle;
        if tag == backend::READY && (self.holds_the_end(leased) || self.has_heard()) && ends() {
            leased.withheld.ready = true;
            return true;
        }
        if !leased.withheld.reports.is_empty() {
            leased.withheld.reported = true;
            leased.withheld.tell(&mut self.outbound);
        }
        false
    }

    /// The statement that is described next.
    fn described_next(&self) -> Option<Used> {
        match self.ledger.front_change()? {
            Change::Uses(used) | Change::Checks(used) => Some(used.clone()),
            _ => None,
        }
    }

    /// The client is told of a statement's parameters or rows, or we are. `told`: by a hash.
    fn told(&mut self, leased: &mut Leased, used: &Used, tag: u8, told: Option<u64>) {
        let enter = |shape: &mut Shape, told| match tag {
            backend::PARAMETER_DESCRIPTION => shape.parameters = told,
            _ => shape.rows = told,
        };
        if let Some(shape) = leased.lease.prepared.shape_mut(used.id) {
            enter(shape, told.or(Some(Shape::TOO_LONG)));
        }
        if matches!(self.ledger.front_change(), Some(Change::Checks(_))) {
            leased.checking &= tag == backend::PARAMETER_DESCRIPTION;
            return;
        }
        // The name may stand for another by now.
        let named = self.names.get_mut(&used.name).filter(|named| named.statement.id() == used.id);
        let Some(named) = named.filter(|_| !self.ledger.muted()) else { return };
        if has_no_shape(named.verdict.reason) {
            return;
        }
        if let Some(before) = leased.flights.front_before() {
            // Should it be run again, the client has not been told.
            before.names.push((used.name.clone(), Some(named.clone())));
        }
        enter(&mut named.told, told);
        if let Some(kept) = leased.lease.prepared.touch(used.id, 0) {
            named.parsed = named.parsed.max(kept.generation);
        }
    }

    /// A `Parse` that has something to say says so each time: it is not to be answered in its stead.
    fn noticed(&self, leased: &mut Leased) {
        if let Some(&Change::Name { prepared: Some(id), .. } | &Change::Prepared(id)) = self.ledger.front_change() {
            leased.lease.prepared.noticed(id);
        }
    }

    /// A statement is carried out by whose tag every prepared statement may be gone. `at`: where its frame begins.
    fn completes(&mut self, leased: &mut Leased, at: usize) {
        if drops_all(&leased.lease.inbound.data()[at..]) {
            self.all_dropped(leased);
        }
    }

    /// An error: the unnamed portal was not bound, or is of no use, if that was in the same batch.
    fn portal_fails(&self, leased: &mut Leased) {
        let failing = leased.failing_batch(&self.ledger);
        leased.unnamed_portal = leased.unnamed_portal.filter(|&batch| batch != failing);
    }

    /// The server is asked for answers before the end of the batch: it cannot run elsewhere any more.
    pub(super) fn stays(&mut self, leased: &mut Leased) {
        if leased.again.is_none() {
            leased.flights.clear();
            self.touch(leased);
        }
    }

    /// What the client calls the statement of whose rows it was told, and whose use fails next.
    fn failing(&mut self) -> Option<Used> {
        match self.ledger.front_change_mut()? {
            // PostgreSQL drops the unnamed statement before it looks at the new one, which is wrong.
            Change::Unnamed { before, had } => (*before, *had) = (None, true),
            Change::ReliesOn(used) | Change::Checks(used) => return Some(used.clone()),
            _ => {}
        }
        None
    }

    /// Is this error the client's to see, or ours to repair?
    /// `failed`: the client's name for a statement of whose rows it was told.
    fn judge_error(&mut self, leased: &mut Leased, error: &ServerError, failed: Option<Used>) -> Verdict {
        self.shared.metrics.error(&error.code);
        self.state.failed();
        let on_replica = leased.place != Place::Primary;
        let unseen = leased.untouched && !leased.flights.is_empty() && self.attempts < MOST_ATTEMPTS;
        if unseen && on_replica && error.fatal {
            // The connection is about to close: the batch then runs elsewhere.
            return Verdict::Swallow;
        }
        leased.said_fatal |= error.fatal;
        if let Some(used) = failed.filter(|_| error.is_stale_plan() && error.code == "0A000") {
            // As PostgreSQL has it: a driver that knows the rows has to ask for them again.
            self.forget_stale(leased, &used);
        } else if unseen && error.is_stale_plan() {
            leased.again = Some(Again::Prepared);
        } else if unseen && on_replica && error.is_for_the_primary() {
            leased.again = Some(Again::OnPrimary);
            self.refused = REFUSED.contains(&&*error.code);
        }
        if !on_replica && self.refused && REFUSED.contains(&&*error.code) {
            self.group.refused_anywhere(self.slot.pid());
        }
        if leased.again.is_some() {
            self.ledger.mute();
            return Verdict::Swallow;
        }
        if error.code == "57014"
            && let Some(over) = self.slot.was_cut_off()
        {
            self.tenant_timed_out();
            return Verdict::Replace(Box::new(self.ceiling_error(over)));
        }
        let at_ceiling = |ceiling| self.state.is_at_ceiling(LOCK_TIMEOUT, ceiling);
        if self.has_timed_out(error)
            || (error.is_lock_timeout() && self.tenant.limits.lock_timeout.is_some_and(at_ceiling))
        {
            self.tenant_timed_out();
        }
        Verdict::Forward
    }

    /// The unnamed statement is what it was before, unless a later batch has made it another: then that is what it
    /// was before that.
    fn undo_unnamed(&mut self, leased: &mut Leased, before: Option<Box<Unnamed>>, had: bool) {
        match self.ledger.changes_mut().find_map(Change::unnamed_mut) {
            Some((later_before, later_had)) => {
                *later_had = had;
                if let Some(later_before) = later_before {
                    **later_before = before.map_or(Unnamed::None, |before| *before);
                }
            }
            None => {
                self.unnamed = before.map_or(Unnamed::None, |before| *before);
                leased.has_unnamed = had;
            }
        }
    }

    /// Nobody runs the statement again as it was parsed before a change of the schema.
    fn forget_stale(&mut self, leased: &mut Leased, used: &Used) {
        leased.lease.prepared.retire(used.id);
        self.group.schema_changed();
    }

    /// Takes back what messages changed in our books that the server did not carry out.
    pub(super) fn undo(&mut self, leased: &mut Leased) {
        let undone: Vec<_> = self.ledger.take_undone().collect();
        for change in undone {
            match change {
                Change::Name { name, before, prepared } => {
                    self.names.set(&name, before);
                    prepared.into_iter().for_each(|id| leased.lease.prepared.remove(id));
                }
                Change::Uses(_) | Change::ReliesOn(_) => {}
                Change::Checks(_) => leased.checking = false,
                Change::Prepared(id) => leased.lease.prepared.remove(id),
                Change::Closed { id, cost } => leased.lease.prepared.restore(id, cost),
                Change::Unnamed { before, had } => self.undo_unnamed(leased, before, had),
                Change::HasUnnamed => match self.ledger.changes_mut().find_map(Change::unnamed_mut) {
                    Some((_, later_had)) => *later_had = false,
                    None => leased.has_unnamed = false,
                },
            }
        }
    }
}

/// `FETCH` and SQL's `EXECUTE` have the rows of what they name at the time, and PostgreSQL lets them.
fn has_no_shape(reason: Reason) -> bool {
    matches!(reason, Reason::Cursor | Reason::PreparedStatement)
}

fn is_description(tag: u8) -> bool {
    matches!(tag, backend::PARAMETER_DESCRIPTION | backend::ROW_DESCRIPTION | backend::NO_DATA)
}

/// By a hash.
fn hash_of(tag: u8, frame: &[u8]) -> Option<u64> {
    if tag == backend::PARAMETER_DESCRIPTION { Some(xxh3_64(frame)) } else { view::rows(frame) }
}

/// Does a frame only prepare for an answer? The server may still fail, or be lost, before it gives any.
fn is_preamble(tag: u8) -> bool {
    use backend::{BIND_COMPLETE, CLOSE_COMPLETE, NO_DATA, PARAMETER_DESCRIPTION, PARSE_COMPLETE, ROW_DESCRIPTION};
    matches!(tag, PARSE_COMPLETE | BIND_COMPLETE | CLOSE_COMPLETE | NO_DATA | PARAMETER_DESCRIPTION | ROW_DESCRIPTION)
}

/// Does a `CommandComplete` say that no prepared statement is left?
fn drops_all(frame: &[u8]) -> bool {
    frame.get(HEADER..).is_some_and(|body| body.starts_with(b"DEALLOCATE ALL\0") || body.starts_with(b"DISCARD ALL\0"))
}

/// Bytes of a frame that have to be there before it is judged.
fn looked_at(tag: u8, len: usize, described: bool, own: bool) -> usize {
    match tag {
        backend::COMMAND_COMPLETE if own => len.min(PEEK),
        backend::COMMAND_COMPLETE => len.min(HEADER + ROLLED_BACK.len()),
        backend::ROW_DESCRIPTION | backend::PARAMETER_DESCRIPTION if described && len <= LONGEST_DESCRIPTION => len,
        backend::ERROR | backend::PARAMETER_STATUS => len.min(PEEK),
        backend::READY => len.min(HEADER + 1),
        backend::NOTIFICATION => len.min(LONGEST_NOTIFICATION),
        _ => HEADER,
    }
}
