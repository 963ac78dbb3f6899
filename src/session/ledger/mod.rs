//! What the server still owes, in order. Pushed by what was sent to it, popped by what came back.
//!
//! The ledger decides for every frame of the server whether the client sees it, knows when an error
//! makes the server skip to the next `Sync`, and says when nothing is owed any more: only then can a
//! server connection be handed on. It does no I/O and looks at nothing but tags and a status byte
//! (PostgreSQL, "Message Flow").

use std::collections::VecDeque;

use crate::wire::error::PgError;
use crate::wire::frame::backend;

/// The message whose reply is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaits {
    /// A simple `Query`: anything, up to its `ReadyForQuery`.
    Query,
    /// The same, and it was too long to be looked at.
    LongQuery,
    FunctionCall,
    Sync,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    /// `CopyDone` or `CopyFail` that was sent before the server had asked for data. No reply.
    CopyEnd,
}

/// What happens to the reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// The client sees it.
    Forward,
    /// It answers something that we injected.
    Swallow,
    /// The same, and nobody minds if it fails.
    Try,
    /// The server was not asked: the reply is ours to author, once everything before it is out.
    Synthesise,
    /// The server was made to fail here, and the client gets this error in place of the server's.
    Replace(Box<PgError>),
}

/// `ReadyForQuery`'s status byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Idle,
    Transaction,
    Failed,
}

impl Status {
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Transaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What to do with a frame that the server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Forward,
    Swallow,
    /// Send this instead of the server's error.
    Replace(Box<PgError>),
    /// Something that we injected failed: the client's request cannot be carried out as asked.
    InjectionFailed,
    /// The server broke the protocol: nothing it sends can be assigned any more.
    Unexpected,
}

/// A reply that we author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synthetic {
    ParseComplete,
    CloseComplete,
}

/// An entry carries a `C`: what its message changed in our books, to be undone if the server never
/// carried it out.
#[derive(Debug)]
struct Entry<C> {
    awaits: Awaits,
    fate: Fate,
    change: Option<C>,
}

impl<C> Entry<C> {
    /// The end of one of the client's batches. A question of our own is none: it does not fail, or the session ends.
    fn ends_batch(&self) -> bool {
        let ours = match self.fate {
            Fate::Swallow => self.awaits == Awaits::Query,
            Fate::Try => true,
            _ => false,
        };
        self.awaits.is_answered_by_ready() && !ours
    }
}

/// What the front entry's reply has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Front {
    #[default]
    Unanswered,
    /// A statement of it was answered, or it failed: its `ReadyForQuery` may come.
    Answered,
    /// The server waits for `COPY` data. Until their end it reads over `Sync` and `Flush`, also over
    /// those that were already on their way, and breaks the connection at any other message.
    CopyingIn,
}

/// What the server has begun with messages that are not entries any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Batch {
    /// Nothing: it was answered with `ReadyForQuery`, or there was none.
    #[default]
    Closed,
    /// Extended messages without their `Sync`.
    Open,
    /// An error: everything is discarded up to the `Sync`, which has not been sent yet.
    Skipping,
}

/// See the module's page.
#[derive(Debug)]
pub struct Ledger<C> {
    /// Never empty but for `CopyEnd`: those at the front are dropped.
    entries: VecDeque<Entry<C>>,
    front: Front,
    batch: Batch,
    /// Oldest first: changes whose messages were not carried out.
    undone: Vec<C>,
    status: Status,
    /// Answers to a `Sync` that may still come before anything else does: each was sent before we knew
    /// that a `COPY` had failed, and the server has read it either as part of that or after it.
    doubtful_syncs: usize,
    muted: bool,
    /// Since the last `ReadyForQuery`, statements of extended messages were carried out.
    has_run: bool,
}

impl<C> Default for Ledger<C> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            front: Front::default(),
            batch: Batch::default(),
            undone: Vec::new(),
            status: Status::Idle,
            doubtful_syncs: 0,
            muted: false,
            has_run: false,
        }
    }
}

impl<C> Ledger<C> {
    /// Records a message on its way to the server (or, synthesised, past it).
    pub fn push(&mut self, awaits: Awaits, fate: Fate, change: Option<C>) {
        if self.batch == Batch::Skipping {
            if awaits != Awaits::Sync {
                self.undone.extend(change);
                return;
            }
            self.batch = Batch::Open;
        }
        self.entries.push_back(Entry { awaits, fate, change });
    }

    /// Records that the client ended its `COPY` data. Where none is asked for, nobody minds.
    pub fn copy_ended(&mut self) {
        let ended = self.entries.back().is_none_or(|entry| entry.awaits == Awaits::CopyEnd);
        if !ended {
            self.push(Awaits::CopyEnd, Fate::Forward, None);
        }
    }

    /// The next reply to author, when all that comes before it has been answered. To be asked until
    /// there is none before a reply of the server is judged.
    pub fn synthetic(&mut self) -> Option<Synthetic> {
        while let Some(Entry { awaits, fate: Fate::Synthesise, .. }) = self.entries.front() {
            let reply = if *awaits == Awaits::Close { Synthetic::CloseComplete } else { Synthetic::ParseComplete };
            self.answered();
            if !self.muted {
                return Some(reply);
            }
        }
        None
    }

    /// Judges a frame of the server by its tag; `status` is the body's first byte (of `ReadyForQuery`).
    pub fn reply(&mut self, tag: u8, status: u8) -> Verdict {
        use backend::*;
        match tag {
            NOTIFICATION => return Verdict::Forward,
            NOTICE | PARAMETER_STATUS => return self.as_front(),
            READY => return self.ready(status),
            ERROR => return self.error(),
            _ => {}
        }
        let Some(front) = self.entries.front() else { return Verdict::Unexpected };
        let settles = match (front.awaits, tag) {
            (Awaits::Query | Awaits::LongQuery, DATA_ROW | ROW_DESCRIPTION | COPY_OUT | COPY_DATA | COPY_DONE) => false,
            (Awaits::Query | Awaits::LongQuery, COMMAND_COMPLETE | EMPTY_QUERY) => false,
            (Awaits::Query | Awaits::LongQuery | Awaits::Execute, COPY_IN) => false,
            (Awaits::Execute, DATA_ROW | COPY_OUT | COPY_DATA | COPY_DONE) => false,
            (Awaits::Execute, COMMAND_COMPLETE | EMPTY_QUERY | PORTAL_SUSPENDED) => true,
            (Awaits::Parse, PARSE_COMPLETE) => true,
            (Awaits::Bind, BIND_COMPLETE) => true,
            (Awaits::Close, CLOSE_COMPLETE) => true,
            (Awaits::Describe, PARAMETER_DESCRIPTION) => false,
            (Awaits::Describe, ROW_DESCRIPTION | NO_DATA) => true,
            (Awaits::FunctionCall, FUNCTION_RESULT) => false,
            _ => return Verdict::Unexpected,
        };
        let verdict = self.as_front();
        // The doubtful ones would have been answered before.
        self.doubtful_syncs = 0;
        match tag {
            COPY_IN => self.front = Front::CopyingIn,
            COMMAND_COMPLETE if self.front == Front::CopyingIn => self.copy_succeeded(),
            _ => self.front = Front::Answered,
        }
        if settles {
            self.answered();
        }
        verdict
    }

    /// What the message changed whose reply comes next.
    pub fn front_change(&self) -> Option<&C> {
        self.entries.front().and_then(|front| front.change.as_ref())
    }

    /// The message whose reply comes next, or goes on, is one that was too long to be looked at.
    pub fn answers_long_query(&self) -> bool {
        matches!(self.entries.front(), Some(Entry { awaits: Awaits::LongQuery, .. }))
    }

    /// For what an error shows of it.
    pub fn front_change_mut(&mut self) -> Option<&mut C> {
        self.entries.front_mut().and_then(|front| front.change.as_mut())
    }

    /// No reply is awaited.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Messages whose replies are awaited: what a bound on pipelining counts.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Messages whose replies are awaited and that carry statements out.
    pub fn running(&self) -> usize {
        self.entries.iter().filter(|entry| entry.awaits.runs()).count()
    }

    /// Extended messages were sent after the last `Sync`: an implicit transaction is open.
    pub fn is_unsynced(&self) -> bool {
        let ends = self.entries.iter().rev().find(|entry| entry.awaits != Awaits::CopyEnd);
        match ends {
            Some(entry) => !entry.awaits.is_answered_by_ready(),
            None => self.batch != Batch::Closed,
        }
    }

    /// The server is taking `COPY` data whose end has not been sent.
    pub fn wants_copy_data(&self) -> bool {
        self.front == Front::CopyingIn && self.entries.iter().all(|entry| entry.awaits != Awaits::CopyEnd)
    }

    /// Next comes the answer to a `Sync` that we injected.
    pub fn ends_at_ours(&self) -> bool {
        matches!(self.entries.front(), Some(Entry { awaits: Awaits::Sync, fate: Fate::Swallow, .. }))
    }

    /// The server is known to discard what comes before the next `Sync`.
    pub fn is_skipping(&self) -> bool {
        self.batch == Batch::Skipping
    }

    /// The server is taking `COPY` data and reads on: their end, or the `Sync` after it, has not been sent.
    pub fn reads_copy(&self) -> bool {
        self.wants_copy_data() || (self.front == Front::CopyingIn && self.syncs_in_copy() > 0)
    }

    /// Replies of an earlier batch are awaited.
    pub fn reaches_back(&self) -> bool {
        self.entries.iter().any(Entry::ends_batch)
    }

    /// Ends of batches whose replies are awaited.
    pub fn ends_awaited(&self) -> usize {
        self.entries.iter().filter(|entry| entry.ends_batch()).count()
    }

    /// The changes of what was sent and is not answered yet, in order.
    pub fn changes_mut(&mut self) -> impl Iterator<Item = &mut C> {
        self.entries.iter_mut().filter_map(|entry| entry.change.as_mut())
    }

    /// Nothing is owed: every message was answered and no implicit transaction is open.
    pub fn settled(&self) -> bool {
        self.entries.is_empty() && self.batch == Batch::Closed
    }

    /// Whether a `Sync` will still be answered is not certain: the connection cannot be handed on. The
    /// next reply that is no `ReadyForQuery` makes it certain.
    pub fn ambiguous(&self) -> bool {
        self.doubtful_syncs > 0
    }

    /// Settled, idle and certain: the server connection can serve somebody else.
    pub fn returnable(&self) -> bool {
        self.settled() && self.status == Status::Idle && !self.ambiguous()
    }

    /// Transaction status as of the last `ReadyForQuery`.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Is a transaction open, or may one be by what was carried out since?
    pub fn may_be_in_transaction(&self) -> bool {
        self.status != Status::Idle || self.has_run
    }

    /// From now on the client sees nothing until [`Self::settled`]: the batch will be run again.
    pub fn mute(&mut self) {
        self.muted = true;
    }

    pub fn muted(&self) -> bool {
        self.muted
    }

    /// Takes the changes that were not carried out, newest first.
    pub fn take_undone(&mut self) -> impl Iterator<Item = C> + '_ {
        self.undone.drain(..).rev()
    }

    pub fn has_undone(&self) -> bool {
        !self.undone.is_empty()
    }

    /// Gives everything up (the connection is lost): all that was owed counts as not carried out.
    pub fn abandon(&mut self) {
        let mut undone = std::mem::take(&mut self.undone);
        undone.extend(self.entries.drain(..).filter_map(|entry| entry.change));
        *self = Self { undone, ..Self::default() };
    }

    fn ready(&mut self, status: u8) -> Verdict {
        let Some(status) = Status::from_byte(status) else { return Verdict::Unexpected };
        let doubtful = self.doubtful_syncs > 0;
        let verdict = match self.entries.front().map(|front| front.awaits) {
            Some(Awaits::Sync) => self.end_batch(),
            Some(Awaits::Query | Awaits::LongQuery | Awaits::FunctionCall)
                if self.front != Front::Unanswered || !doubtful =>
            {
                self.end_batch()
            }
            _ if doubtful => {
                self.doubtful_syncs -= 1;
                self.batch = Batch::Closed;
                if self.muted { Verdict::Swallow } else { Verdict::Forward }
            }
            _ => return Verdict::Unexpected,
        };
        (self.status, self.has_run) = (status, false);
        self.muted &= !self.settled();
        verdict
    }

    fn end_batch(&mut self) -> Verdict {
        let verdict = self.as_front();
        self.answered();
        self.batch = Batch::Closed;
        verdict
    }

    fn error(&mut self) -> Verdict {
        match self.entries.front().map(|front| front.awaits) {
            _ if self.front == Front::CopyingIn => self.copy_failed(),
            Some(Awaits::Sync) | None => {}
            // The doubtful ones would have been answered before.
            Some(_) => self.doubtful_syncs = 0,
        }
        let muted = self.muted;
        let Some(front) = self.entries.front_mut() else {
            // An administrator's command or a timeout, with which the connection ends; or a Flush that is
            // not one, after which the server skips as after any extended message.
            self.batch = Batch::Skipping;
            return Verdict::Forward;
        };
        let verdict = match &mut front.fate {
            _ if muted => Verdict::Swallow,
            Fate::Try => Verdict::Swallow,
            Fate::Swallow if front.awaits == Awaits::Query => Verdict::InjectionFailed,
            Fate::Replace(_) => match std::mem::replace(&mut front.fate, Fate::Forward) {
                Fate::Replace(error) => Verdict::Replace(error),
                _ => Verdict::Forward,
            },
            _ => Verdict::Forward,
        };
        if front.awaits.is_answered_by_ready() {
            self.front = Front::Answered;
        } else {
            self.skip_to_sync();
        }
        verdict
    }

    /// PostgreSQL reads and discards messages until a `Sync` after an error in the extended protocol.
    fn skip_to_sync(&mut self) {
        let sync = self.entries.iter().position(|entry| entry.awaits == Awaits::Sync);
        self.batch = if sync.is_some() { Batch::Open } else { Batch::Skipping };
        let skipped = self.entries.drain(..sync.unwrap_or(self.entries.len()));
        self.undone.extend(skipped.filter_map(|entry| entry.change));
        self.front = Front::Unanswered;
    }

    /// The server has read all data: also every `Sync` before their end.
    fn copy_succeeded(&mut self) {
        self.front = Front::Answered;
        let syncs = self.syncs_in_copy();
        if self.entries.get(1 + syncs).is_some_and(|next| next.awaits == Awaits::CopyEnd) {
            self.entries.drain(1..=1 + syncs);
        }
    }

    /// The server has failed at some point of the data; which `Sync` came after it, nothing tells. After
    /// `Execute` it matters what ends the skipping: where a command follows, it is taken to be the last
    /// `Sync` before it, since `COPY` breaks the connection when it reads a command.
    fn copy_failed(&mut self) {
        self.doubtful_syncs = self.syncs_in_copy();
        let next = self.entries.get(1 + self.doubtful_syncs).map(|entry| entry.awaits);
        let skips = self.entries.front().is_some_and(|front| front.awaits == Awaits::Execute);
        let kept = skips && next.is_some_and(|next| next != Awaits::CopyEnd);
        self.entries.drain(1..1 + self.doubtful_syncs - usize::from(kept && self.doubtful_syncs > 0));
    }

    fn syncs_in_copy(&self) -> usize {
        self.entries.iter().skip(1).take_while(|entry| entry.awaits == Awaits::Sync).count()
    }

    /// The front entry's reply is complete.
    fn answered(&mut self) {
        let answered = self.entries.pop_front();
        self.has_run |= answered.is_some_and(|entry| entry.awaits.runs());
        while self.entries.front().is_some_and(|entry| entry.awaits == Awaits::CopyEnd) {
            self.entries.pop_front();
        }
        (self.front, self.batch) = (Front::Unanswered, Batch::Open);
    }

    fn as_front(&self) -> Verdict {
        match self.entries.front() {
            _ if self.muted => Verdict::Swallow,
            Some(Entry { fate: Fate::Swallow | Fate::Try, .. }) => Verdict::Swallow,
            _ => Verdict::Forward,
        }
    }
}

impl Awaits {
    /// It ends a batch.
    pub fn is_answered_by_ready(self) -> bool {
        self.is_query() || matches!(self, Self::FunctionCall | Self::Sync)
    }

    pub fn is_query(self) -> bool {
        matches!(self, Self::Query | Self::LongQuery)
    }

    /// It carries statements out.
    fn runs(self) -> bool {
        self.is_query() || matches!(self, Self::Execute | Self::FunctionCall)
    }
}

#[cfg(test)]
mod tests;
