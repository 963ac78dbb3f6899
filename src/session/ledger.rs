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

/// See the module's page.
#[derive(Debug)]
pub struct Ledger<C> {
    entries: VecDeque<Entry<C>>,
    /// Newest first: changes whose messages were not carried out.
    undone: Vec<C>,
    status: Status,
    /// Extended messages were sent after the last `Sync`.
    unsynced: bool,
    /// An error was answered and the `Sync` that ends the skipping has not been sent yet.
    skipping: bool,
    copy_in: bool,
    /// A `Sync` was sent while the server was taking `COPY` data.
    eaten_syncs: bool,
    /// The server may have taken a `Sync` as part of a `COPY` or as the end of its skipping, and
    /// nothing that it sends can tell us which.
    ambiguous: bool,
    muted: bool,
}

impl<C> Default for Ledger<C> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            undone: Vec::new(),
            status: Status::Idle,
            unsynced: false,
            skipping: false,
            copy_in: false,
            eaten_syncs: false,
            ambiguous: false,
            muted: false,
        }
    }
}

impl<C> Ledger<C> {
    /// Records a message on its way to the server (or, synthesised, past it).
    pub fn push(&mut self, awaits: Awaits, fate: Fate, change: Option<C>) {
        match awaits {
            Awaits::Sync if self.copy_in => {
                // `COPY` ignores it, unless the server has failed and we have not heard yet.
                self.eaten_syncs = true;
                return;
            }
            Awaits::Sync => (self.unsynced, self.skipping) = (false, false),
            _ if self.skipping => {
                self.undone.extend(change);
                return;
            }
            Awaits::Query | Awaits::FunctionCall => self.unsynced = false,
            Awaits::CopyEnd => {}
            _ if fate != Fate::Swallow => self.unsynced = true,
            _ => {}
        }
        self.entries.push_back(Entry { awaits, fate, change });
    }

    /// Records that the client ended its `COPY` data.
    pub fn copy_ended(&mut self) {
        if self.copy_in {
            self.copy_in = false;
        } else if !self.entries.is_empty() {
            self.push(Awaits::CopyEnd, Fate::Forward, None);
        }
    }

    /// The next reply to author, when all that comes before it has been answered.
    pub fn synthetic(&mut self) -> Option<Synthetic> {
        let front = self.entries.front()?;
        if front.fate != Fate::Synthesise {
            return None;
        }
        let reply = match front.awaits {
            Awaits::Close => Synthetic::CloseComplete,
            _ => Synthetic::ParseComplete,
        };
        self.entries.pop_front();
        if self.muted { self.synthetic() } else { Some(reply) }
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
        self.drop_copy_ends();
        let Some(front) = self.entries.front() else { return Verdict::Unexpected };
        let settles = match (front.awaits, tag) {
            (Awaits::Query, DATA_ROW | ROW_DESCRIPTION | COMMAND_COMPLETE | EMPTY_QUERY | COPY_OUT | COPY_DATA) => {
                false
            }
            (Awaits::Execute, DATA_ROW | COPY_OUT | COPY_DATA) => false,
            (Awaits::Query | Awaits::Execute, COPY_DONE) => false,
            (Awaits::Query | Awaits::Execute, COPY_IN) => {
                self.copy_begins();
                false
            }
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
        if settles {
            self.entries.pop_front();
            self.drop_copy_ends();
        }
        verdict
    }

    /// No reply is awaited.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Extended messages were sent after the last `Sync`: an implicit transaction is open.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// Replies of an earlier batch are awaited.
    pub fn reaches_back(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.awaits, Awaits::Sync | Awaits::Query | Awaits::FunctionCall))
    }

    /// Nothing is owed: every message was answered and no implicit transaction is open.
    pub fn settled(&self) -> bool {
        self.entries.is_empty() && !self.unsynced && !self.copy_in
    }

    /// What the server will still send is not certain: the connection cannot be handed on, ever.
    pub fn ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// Settled, idle and certain: the server connection can serve somebody else.
    pub fn returnable(&self) -> bool {
        self.settled() && self.status == Status::Idle && !self.ambiguous
    }

    /// Transaction status as of the last `ReadyForQuery`.
    pub fn status(&self) -> Status {
        self.status
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
        self.undone.drain(..)
    }

    pub fn has_undone(&self) -> bool {
        !self.undone.is_empty()
    }

    /// Gives everything up (the connection is lost): all that was owed counts as not carried out.
    pub fn abandon(&mut self) {
        let dropped = self.entries.drain(..).rev().filter_map(|entry| entry.change);
        self.undone.extend(dropped);
        let undone = std::mem::take(&mut self.undone);
        *self = Self { undone, ..Self::default() };
    }

    fn ready(&mut self, status: u8) -> Verdict {
        self.drop_copy_ends();
        let Some(status) = Status::from_byte(status) else { return Verdict::Unexpected };
        let Some(front) = self.entries.front() else {
            if !self.ambiguous {
                return Verdict::Unexpected;
            }
            // The answer to a `Sync` that was taken for eaten.
            (self.unsynced, self.skipping, self.status) = (false, false, status);
            return Verdict::Forward;
        };
        if !matches!(front.awaits, Awaits::Query | Awaits::FunctionCall | Awaits::Sync) {
            return Verdict::Unexpected;
        }
        let verdict = self.as_front();
        self.entries.pop_front();
        self.drop_copy_ends();
        self.status = status;
        self.copy_in = false;
        if self.muted && self.settled() {
            self.muted = false;
        }
        verdict
    }

    fn error(&mut self) -> Verdict {
        self.drop_copy_ends();
        let was_copying = std::mem::take(&mut self.copy_in);
        let Some(front) = self.entries.front_mut() else {
            // Between messages: an administrator's command, a timeout. The connection ends with it.
            return Verdict::Forward;
        };
        let simple = matches!(front.awaits, Awaits::Query | Awaits::FunctionCall | Awaits::Sync);
        let verdict = match &mut front.fate {
            _ if self.muted => Verdict::Swallow,
            Fate::Swallow if front.awaits == Awaits::Query => Verdict::InjectionFailed,
            Fate::Replace(_) => match std::mem::replace(&mut front.fate, Fate::Forward) {
                Fate::Replace(error) => Verdict::Replace(error),
                _ => Verdict::Forward,
            },
            _ => Verdict::Forward,
        };
        if !simple {
            self.skip_to_sync();
            self.ambiguous |= was_copying && self.eaten_syncs;
        }
        verdict
    }

    /// PostgreSQL reads and discards messages until a `Sync` after an error in the extended protocol.
    fn skip_to_sync(&mut self) {
        let sync = self.entries.iter().position(|entry| entry.awaits == Awaits::Sync);
        self.skipping = sync.is_none();
        let skipped = self.entries.drain(..sync.unwrap_or(self.entries.len()));
        self.undone.extend(skipped.rev().filter_map(|entry| entry.change));
    }

    /// The server waits for data. Until the client's `CopyDone` it ignores `Sync` and `Flush`, also
    /// those that were already on their way.
    fn copy_begins(&mut self) {
        (self.copy_in, self.eaten_syncs) = (true, false);
        let extended = self.entries.front().is_some_and(|front| front.awaits == Awaits::Execute);
        while let Some(next) = self.entries.get(1).map(|entry| entry.awaits) {
            match next {
                Awaits::Sync => self.unsynced |= extended,
                Awaits::CopyEnd => self.copy_in = false,
                _ => return,
            }
            self.entries.remove(1);
            if next == Awaits::CopyEnd {
                // What follows the end of the data counts again.
                self.unsynced &= !self.entries.iter().any(|entry| entry.awaits == Awaits::Sync);
                return;
            }
        }
    }

    fn drop_copy_ends(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.awaits == Awaits::CopyEnd) {
            self.entries.pop_front();
        }
    }

    fn as_front(&self) -> Verdict {
        match self.entries.front() {
            _ if self.muted => Verdict::Swallow,
            Some(Entry { fate: Fate::Swallow, .. }) => Verdict::Swallow,
            _ => Verdict::Forward,
        }
    }
}
