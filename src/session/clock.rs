//! For how long a session's statements and transactions have run, and what is over a ceiling of its tenant. The session
//! writes it, and a watch over all sessions reads it, without a lock.

use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use super::ledger::Status;
use super::slot::Signal;
use crate::config::Tier;
use crate::tenant::Use;

/// How long what a session does may take, by its tenant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ceilings {
    pub statement: Option<Duration>,
    pub transaction: Option<Duration>,
    pub idle_in_transaction: Option<Duration>,
    pub lock: Option<Duration>,
}

impl Ceilings {
    pub fn of(tier: &Tier) -> Self {
        Self {
            statement: tier.statement_timeout,
            transaction: tier.transaction_timeout,
            idle_in_transaction: tier.idle_in_transaction_timeout,
            lock: tier.lock_timeout,
        }
    }
}

/// The ceiling for which a statement is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CutOff {
    Statement = 1,
    Transaction = 2,
    Lock = 3,
}

/// What is done about a session that is over a ceiling.
#[derive(Debug, Clone, Copy)]
pub enum Overrun {
    /// What runs is cut off.
    Runs(CutOff),
    /// Nothing runs: the session is told.
    Rests(Signal),
}

/// How something is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Cancel,
    /// It goes on in spite of that.
    Kill,
}

/// From a cancel to the end of what goes on in spite of it.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Servers may be slow.
    pub usual: Duration,
    /// Where it may go on on purpose, or does not hear of the cancel.
    pub stubborn: Duration,
}

/// See the module's page. With thousands of sessions it is in no processor's cache: what each statement touches comes first,
/// and fills one of the cache's lines.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Clock {
    base: Instant,
    /// Microseconds from `base` to the start of the running statement; 0 while none runs.
    busy_since: AtomicU64,
    /// The same for the transaction; 0 also where it has failed, which has let go of everything.
    transaction_since: AtomicU64,
    /// The same for the batch.
    batch_since: AtomicU64,
    /// The same for the wait for the next statement of a transaction, also of one that has failed.
    idle_since: AtomicU64,
    /// Like `busy_since`, or `transaction_since`.
    cut_since: AtomicU64,
    /// Statements that were sent and are not known to be over: servers keep back the end of those that others follow. With
    /// `u16::MAX` nobody knows how many.
    statements: AtomicU16,
    /// A client has asked for a cancel since the batch began.
    asked: AtomicBool,
    /// What runs may go on in spite of a cancel.
    stubborn: AtomicBool,
    /// Among the statements is one that may have lifted the server's own timeout.
    lifted: AtomicBool,
    /// The transaction has savepoints.
    nested: AtomicBool,
    /// What is sent may roll transactions back and begin others (`AND CHAIN`).
    chains: AtomicBool,
    /// Something is in `tally`.
    tallied: AtomicBool,
    tally: Tally,
    /// A [`CutOff`], of what has run since `cut_since`.
    why_cut: AtomicU8,
    /// When what is cut off was cancelled, like `busy_since`.
    cancelled_at: AtomicU64,
    /// Since when the client has taken nothing of much that is there for it, like `busy_since`; 0 while it does.
    full_since: AtomicU64,
}

const _: () = assert!(std::mem::offset_of!(Clock, tally) == 64);

/// What a batch has come to so far. Only its session counts.
#[derive(Debug, Default)]
struct Tally {
    /// Transactions that it has ended.
    ended: AtomicU32,
    /// What it has rolled back and that may be a transaction, or what came behind a savepoint of it.
    rolled_back: AtomicU32,
    /// Statements that were not counted when they were sent.
    counted: AtomicU32,
}

impl Clock {
    /// Nothing runs. `base`: what instants are counted from.
    pub fn new(base: Instant) -> Self {
        let [busy_since, transaction_since, batch_since, idle_since, cut_since, cancelled_at] = Default::default();
        let [asked, stubborn, lifted, nested, chains, tallied] = Default::default();
        let (statements, tally, why_cut, full_since) = Default::default();
        Self {
            base,
            busy_since,
            transaction_since,
            batch_since,
            idle_since,
            cut_since,
            statements,
            asked,
            stubborn,
            lifted,
            nested,
            chains,
            tallied,
            tally,
            why_cut,
            cancelled_at,
            full_since,
        }
    }

    /// A batch begins.
    pub fn statement_starts(&self, now: Instant) {
        self.cut_since.store(0, Relaxed);
        self.idle_since.store(0, Relaxed);
        self.batch_starts(now);
        self.takes_tally();
        if self.transaction_since.load(Relaxed) == 0 {
            self.transaction_since.store(self.at(now), Relaxed);
        }
        self.next_statement(now);
    }

    fn batch_starts(&self, now: Instant) {
        self.batch_since.store(self.at(now), Relaxed);
        self.asked.store(false, Relaxed);
    }

    /// A client asks for a cancel of what runs.
    pub fn note_asked(&self) {
        self.asked.store(true, Relaxed);
    }

    /// What is about to run may go on in spite of a cancel, until everything is answered.
    pub fn note_stubborn(&self) {
        self.stubborn.store(true, Relaxed);
    }

    /// Whether as much is there for the client as there may be: a server that cannot send does not hear of a cancel.
    pub fn note_full(&self, is_full: bool, now: impl FnOnce() -> Instant) {
        match (is_full, self.full_since.load(Relaxed)) {
            (true, 0) => self.full_since.store(self.at(now()), Relaxed),
            (false, 1..) => self.full_since.store(0, Relaxed),
            (true, _) | (false, 0) => {}
        }
    }

    /// What is about to run may lift the server's own timeout, until its transaction is over.
    pub fn note_lifted(&self) {
        self.lifted.store(true, Relaxed);
    }

    /// The transaction has savepoints: one that has failed may go on from there.
    pub fn note_savepoint(&self) {
        self.nested.store(true, Relaxed);
    }

    /// What is about to run may begin transactions behind those that it rolls back.
    pub fn note_chain(&self) {
        self.chains.store(true, Relaxed);
    }

    /// So many statements are sent.
    pub fn more_statements(&self, count: u32) {
        // Nobody else changes it.
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        self.statements.store(self.statements.load(Relaxed).saturating_add(count), Relaxed);
    }

    /// Everything that was sent is answered, and the server waits for more of the batch (`Sync`).
    pub fn rests_in_batch(&self, now: Instant) {
        if self.idle_since.load(Relaxed) == 0 {
            self.busy_since.store(0, Relaxed);
            self.idle_since.store(self.at(now), Relaxed);
        }
    }

    /// More of a batch is sent. `now` is only asked for where it has rested.
    pub fn goes_on_in_batch(&self, now: impl FnOnce() -> Instant) {
        if self.idle_since.load(Relaxed) != 0 {
            self.idle_since.store(0, Relaxed);
            self.next_statement(now());
        }
    }

    /// A statement of the batch has ended: the time of the next one runs from now.
    pub fn statement_is_over(&self, now: Instant) {
        match self.statements.load(Relaxed) {
            u16::MAX => {}
            statements => self.statements.store(statements.saturating_sub(1), Relaxed),
        }
        self.next_statement(now);
    }

    /// The time of a statement runs from now.
    pub fn next_statement(&self, now: Instant) {
        self.busy_since.store(self.at(now), Relaxed);
    }

    /// The batch has ended its transaction.
    pub fn has_ended(&self) {
        self.counts(&self.tally.ended);
    }

    /// It has rolled it back: to a savepoint, where there may be any.
    pub fn has_rolled_back(&self) {
        match self.nested.load(Relaxed) {
            true => self.counts(&self.tally.rolled_back),
            false => self.has_ended(),
        }
    }

    /// A statement of it has ended that was not counted when it was sent.
    pub fn has_counted(&self) {
        self.counts(&self.tally.counted);
    }

    fn counts(&self, one: &AtomicU32) {
        one.fetch_add(1, Relaxed);
        self.tallied.store(true, Relaxed);
    }

    /// What was counted: transactions that were ended, what was rolled back, and statements.
    fn takes_tally(&self) -> [u32; 3] {
        if !self.tallied.load(Relaxed) {
            return [0; 3];
        }
        self.tallied.store(false, Relaxed);
        let Tally { ended, rolled_back, counted } = &self.tally;
        [ended, rolled_back, counted].map(|count| count.swap(0, Relaxed))
    }

    /// A batch is answered. A transaction that is open in spite of an end is another one (`AND CHAIN`). Within the batch
    /// nothing tells when it began, as servers keep back what they say: no sooner than the batch. The result: what it
    /// was beside one transaction, and beside one statement where those were not counted before.
    pub fn batch_is_over(&self, status: Status) -> Use {
        let [ended, rolled_back, counted] = self.takes_tally();
        let goes_on = ended > 0 && status == Status::Transaction;
        if goes_on {
            self.transaction_since.store(self.batch_since.load(Relaxed), Relaxed);
        }
        // Whether those were transactions nothing tells: as many as it can be. A last one without another behind it is none.
        let rolled_back = rolled_back.saturating_sub(u32::from(status == Status::Idle));
        let chained = if self.chains.load(Relaxed) { rolled_back } else { 0 };
        Use {
            statements: counted.saturating_sub(1),
            transactions: (ended + u32::from(goes_on)).saturating_sub(1) + chained,
        }
    }

    /// Others that were sent behind it, with so many statements, are not answered yet.
    pub fn next_batch(&self, now: Instant, status: Status, statements: usize) {
        self.statements.store(u16::try_from(statements).unwrap_or(u16::MAX), Relaxed);
        self.batch_starts(now);
        if self.lets_go(status) {
            self.transaction_since.store(self.at(now), Relaxed);
        }
    }

    /// A transaction that has failed holds nothing any more, unless it may go on from a savepoint.
    fn lets_go(&self, status: Status) -> bool {
        match status {
            Status::Idle => true,
            Status::Failed => !self.nested.load(Relaxed),
            Status::Transaction => false,
        }
    }

    /// Since when a transaction waits for its next statement, like `busy_since`.
    pub fn waits_since(&self) -> u64 {
        self.idle_since.load(Relaxed)
    }

    /// It goes on to wait since then: of the next statement there is only the beginning.
    pub fn waits_on(&self, since: u64) {
        self.idle_since.store(since, Relaxed);
    }

    /// The rest of a message is awaited, before anything of it can run. Within a transaction all of it counts as a wait, as
    /// in PostgreSQL, however often a part of it comes.
    pub fn receives(&self, now: Instant, in_transaction: bool) {
        self.busy_since.store(0, Relaxed);
        if !in_transaction || self.idle_since.load(Relaxed) == 0 {
            self.idle_since.store(self.at(now), Relaxed);
        }
    }

    /// It has come.
    pub fn has_received(&self, now: Instant) {
        self.idle_since.store(0, Relaxed);
        self.next_statement(now);
    }

    /// Everything is answered.
    pub fn statement_ends(&self, now: Instant, status: Status) {
        self.ends(if status == Status::Idle { 0 } else { self.at(now) }, status);
    }

    /// The session has no server connection.
    pub fn rests(&self) {
        self.ends(0, Status::Idle);
    }

    fn ends(&self, idle_since: u64, status: Status) {
        self.busy_since.store(0, Relaxed);
        self.stubborn.store(false, Relaxed);
        self.statements.store(0, Relaxed);
        self.chains.store(false, Relaxed);
        if status == Status::Idle {
            self.lifted.store(false, Relaxed);
            self.nested.store(false, Relaxed);
        }
        self.cut_since.store(0, Relaxed);
        self.idle_since.store(idle_since, Relaxed);
        if self.lets_go(status) {
            self.transaction_since.store(0, Relaxed);
        }
    }

    /// See [`super::slot::Slot::was_cut_off`].
    pub fn was_cut_off(&self, ceilings: Ceilings, now: Instant) -> Option<CutOff> {
        // What the server has kept back of those before it may come with its error.
        if self.cut_since.load(Relaxed) == 0 {
            // By a cancel that was meant for the one before it in its transaction.
            let late =
                !self.asked.load(Relaxed) && self.overdue(&self.transaction_since, ceilings.transaction, now).is_some();
            return late.then_some(CutOff::Transaction);
        }
        match self.why_cut.load(Relaxed) {
            1 => Some(CutOff::Statement),
            2 => Some(CutOff::Transaction),
            3 => Some(CutOff::Lock),
            _ => None,
        }
    }

    /// Something runs.
    pub fn is_busy(&self) -> bool {
        self.busy_since.load(Relaxed) != 0
    }

    /// Neither runs anything nor is a transaction open.
    pub fn is_at_rest(&self) -> bool {
        [&self.busy_since, &self.transaction_since, &self.idle_since].iter().all(|since| since.load(Relaxed) == 0)
    }

    /// A transaction waits for its next statement.
    pub fn is_idle(&self) -> bool {
        self.idle_since.load(Relaxed) != 0
    }

    /// How long something has been over a ceiling.
    fn overdue(&self, since: &AtomicU64, ceiling: Option<Duration>, now: Instant) -> Option<Duration> {
        let since = match since.load(Relaxed) {
            0 => return None,
            micros => self.base + Duration::from_micros(micros),
        };
        now.saturating_duration_since(since).checked_sub(ceiling?)
    }

    /// The ceiling over which the session is. `grace`: the server's own timeout of a statement comes first.
    pub fn over_ceiling(&self, ceilings: Ceilings, now: Instant, grace: Duration) -> Option<Overrun> {
        let Ceilings { statement, transaction, idle_in_transaction, .. } = ceilings;
        // Each has its own time, as far as the server's timeout sees to that.
        let statements = if self.lifted.load(Relaxed) { 1 } else { self.statements.load(Relaxed) };
        let statement = statement.map(|ceiling| ceiling.saturating_mul(statements.max(1).into()));
        if self.overdue(&self.busy_since, statement, now).is_some_and(|over| over >= grace) {
            return Some(Overrun::Runs(CutOff::Statement));
        }
        if self.overdue(&self.transaction_since, transaction, now).is_some() {
            return Some(match self.busy_since.load(Relaxed) {
                0 => Overrun::Rests(Signal::TransactionTimeout),
                _ => Overrun::Runs(CutOff::Transaction),
            });
        }
        self.overdue(&self.idle_since, idle_in_transaction, now).map(|_| Overrun::Rests(Signal::IdleTimeout))
    }

    /// Is it over the ceiling of which this signal tells?
    pub fn rests_too_long(&self, ceilings: Ceilings, signal: Signal) -> bool {
        let over = self.over_ceiling(ceilings, Instant::now(), Duration::ZERO);
        matches!(over, Some(Overrun::Rests(found)) if found == signal)
    }

    /// Has the statement that runs come to its ceiling?
    pub fn is_over_statement(&self, ceilings: Ceilings, now: Instant) -> bool {
        self.statements.load(Relaxed) <= 1 && self.overdue(&self.busy_since, ceilings.statement, now).is_some()
    }

    /// Has a statement of the batch come to its ceiling, if it was not cancelled?
    pub fn may_have_timed_out(&self, ceilings: Ceilings, now: Instant) -> bool {
        !self.asked.load(Relaxed) && ceilings.statement.is_some_and(|ceiling| self.batch_has_taken(ceiling, now))
    }

    /// So much time has gone by since the batch began.
    pub fn batch_has_taken(&self, time: Duration, now: Instant) -> bool {
        self.overdue(&self.batch_since, Some(time), now).is_some()
    }

    /// Since when that runs which has run for longer than this.
    pub fn runs_beyond(&self, limit: Duration, now: Instant) -> Option<u64> {
        let since = self.busy_since.load(Relaxed);
        self.overdue(&self.busy_since, Some(limit), now).map(|_| since)
    }

    /// Since when that runs for which `why` is a reason to cut it off; 0 where nothing does.
    pub fn runs_since(&self, why: CutOff) -> u64 {
        match (why, self.busy_since.load(Relaxed)) {
            (_, 0) => 0,
            (CutOff::Transaction, _) => self.transaction_since.load(Relaxed),
            (CutOff::Statement | CutOff::Lock, since) => since,
        }
    }

    /// What is done next about what has run since then, if it still runs and anything is to be done.
    pub fn next_cut(&self, since: u64, why: CutOff, patience: Patience) -> Option<Cut> {
        if self.runs_since(why) != since || since == 0 {
            return None;
        }
        if self.cut_since.swap(since, AcqRel) != since {
            self.why_cut.store(why as u8, Relaxed);
            self.cancelled_at.store(0, Relaxed);
            return Some(Cut::Cancel);
        }
        let now = Instant::now();
        let is_deaf =
            self.stubborn.load(Relaxed) || self.overdue(&self.full_since, Some(patience.stubborn), now).is_some();
        let patience = if is_deaf { patience.stubborn } else { patience.usual };
        self.overdue(&self.cancelled_at, Some(patience), now).map(|_| Cut::Kill)
    }

    /// The cancel is under way, and it goes on.
    pub fn note_cancel(&self, now: Instant) {
        self.cancelled_at.store(self.at(now), Relaxed);
    }

    /// Since the base, and never 0.
    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.base).as_micros() as u64 | 1
    }
}
