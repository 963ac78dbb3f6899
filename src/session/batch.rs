//! A batch, the unit of routing: one simple `Query`, or extended messages up to a `Sync` or `Flush`.

use crate::sql::{Class, Effects, Reason, TxControl, Verdict};

/// What is known of a batch before it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Bytes in the client's buffer that belong to it.
    pub len: usize,
    /// The worst of its statements.
    pub verdict: Option<Verdict>,
    /// Statements that it carries out: of a simple query those in its text, where anybody counts them.
    pub statements: u32,
    /// Something in it may call a function.
    pub calls: bool,
    /// Something in it needs a server: a batch of nothing but `Close` and `Sync` does not.
    pub needs_server: bool,
    /// What a name in it stands for is not known before what was sent is answered.
    pub unsure: bool,
    /// A replica has refused a statement like one of its.
    pub refused: bool,
    /// There is an `Execute` in it.
    pub executes: bool,
    /// There is a portal in it, which lives until the end of the transaction.
    pub portals: bool,
    /// It is a single simple `Query`: an error of ours is followed by `ReadyForQuery` at once.
    pub simple: bool,
    /// Its end (`Query`, `Sync`, `Flush`) is in the buffer; an open one goes on after it.
    pub complete: bool,
    /// Its end is one that the server answers with `ReadyForQuery`.
    pub synced: bool,
}

impl Batch {
    pub fn empty() -> Self {
        Self {
            len: 0,
            verdict: None,
            statements: 0,
            calls: false,
            needs_server: false,
            unsure: false,
            refused: false,
            executes: false,
            portals: false,
            simple: false,
            complete: false,
            synced: false,
        }
    }

    /// Adds a statement.
    pub fn add(&mut self, verdict: Verdict) {
        self.needs_server = true;
        self.verdict = Some(match self.verdict {
            Some(so_far) => worse(so_far, verdict),
            None => verdict,
        });
    }

    /// Nothing that comes after it belongs to the same transaction, or could tell that it does: what ends with
    /// `Flush` and has only prepared and described is as good as ended with `Sync`.
    pub fn is_closed(&self) -> bool {
        self.complete && (self.synced || !self.portals)
    }

    /// Where it goes is known before its end, and it may be one whose answer comes before its end.
    pub fn executes_on_primary(&self) -> bool {
        self.executes && self.verdict.is_some_and(|verdict| verdict.class == Class::Primary)
    }

    /// The verdict for routing; a batch without any statement (`Execute` of an old portal, a part of
    /// a batch whose end was not seen) belongs on the primary.
    pub fn verdict(&self) -> Verdict {
        match self.verdict {
            Some(verdict) if self.complete || verdict.class == Class::Primary => verdict,
            Some(verdict) => Verdict { class: Class::Primary, reason: Reason::Oversized, ..verdict },
            None => Verdict::opaque(Reason::Oversized),
        }
    }
}

fn worse(a: Verdict, b: Verdict) -> Verdict {
    let (worst, other) = if a.class == Class::Read { (b, a) } else { (a, b) };
    let tx = match (a.tx, b.tx) {
        (TxControl::None, tx) | (tx, TxControl::None) => tx,
        // `Parse` and then `Bind` of one statement.
        (one, two) if one == two => one,
        _ => TxControl::Mixed,
    };
    Verdict {
        tx,
        effects: a.effects | b.effects,
        hint: worst.hint.or(other.hint),
        consistency: worst.consistency.or(other.consistency),
        ..worst
    }
}

/// Effects after which the server session has to be asked what it holds.
pub fn needs_probe(effects: Effects) -> bool {
    effects.intersects(Effects::STATE.with(Effects::STICKY).with(Effects::STATEMENTS))
}
