//! What the classifier says about a statement. Small and `Copy`: it travels with the batch.

use std::ops::{BitOr, BitOrAssign};

use crate::config::Consistency;

/// The classifier's answer about one query string; over several statements, the worst of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where it may run.
    pub class: Class,
    /// Why, for people and for metrics.
    pub reason: Reason,
    /// What a comment in it asked for. [`crate::router::route`] decides whether that is granted.
    pub hint: Option<Hint>,
    /// What it has to see, by a comment in it.
    pub consistency: Option<Consistency>,
    /// What it does to the transaction.
    pub tx: TxControl,
    /// What it may leave behind. Complete also where the class is `Primary`.
    pub effects: Effects,
}

impl Verdict {
    /// The same with more effects.
    pub fn with(self, effects: Effects) -> Self {
        Self { effects: self.effects | effects, ..self }
    }

    /// May a client's `/* pgweir: replica */` have its way? Not where the statement is known to be unsafe there, nor where
    /// it may leave something in the session, which then would stay on the replica with all that follows.
    pub fn yields_to_hint(&self) -> bool {
        self.reason.yields_to_hint() && !self.effects.intersects(LEFT_BEHIND)
    }

    /// Of what reads nothing and changes nothing.
    pub const fn harmless() -> Self {
        let (hint, consistency, tx, effects) = (None, None, TxControl::None, Effects::NONE);
        Self { class: Class::Read, reason: Reason::Read, hint, consistency, tx, effects }
    }

    /// Of what was not looked at: it may do anything.
    pub const fn opaque(reason: Reason) -> Self {
        let effects = Effects::STATE.with(Effects::MAYBE_DDL).with(Effects::NOTIFIES).with(Effects::CHANNELS);
        Self { class: Class::Primary, reason, hint: None, consistency: None, tx: TxControl::None, effects }
    }
}

/// Effects by which a statement's session stays where the statement has run.
const LEFT_BEHIND: Effects = Effects::STATE.with(Effects::STICKY).with(Effects::SHOWS_STATEMENTS);

impl Verdict {
    /// May it take a value from a sequence? (A default of a column's does, without a word of it.)
    pub fn may_take_from_sequence(self) -> bool {
        use Reason::{Notification, ServerSetting, ServerState, SessionState, Transaction};
        // Heavier reasons could hide a `nextval` beside them.
        let takes_none = matches!(self.reason, Notification | ServerSetting | ServerState | SessionState | Transaction)
            && !self.effects.intersects(Effects::HIDDEN.with(Effects::MAYBE_DDL));
        self.class == Class::Primary && !takes_none
    }
}

impl Verdict {
    /// May it write, and so run what its text does not name: triggers, defaults, checks, rules?
    pub fn may_write(self) -> bool {
        use Reason::{Cursor, Oversized, PreparedStatement, TwoPhase};
        // What is weightier could hide a write, and nothing is weightier than one.
        matches!(self.reason, Cursor | Oversized | PreparedStatement) || self.reason.worse(TwoPhase) != TwoPhase
    }
}

/// Where a statement may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Known to be safe on a standby and to answer the same there.
    Read,
    /// Everything else.
    Primary,
}

/// `/* pgweir: primary */` or `/* pgweir: replica */`, in a comment anywhere in the text, also together with
/// `consistency=…`, separated by commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    Primary,
    Replica,
}

/// What a query string does to the transaction (documentation, part VI, `BEGIN` and its neighbours).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxControl {
    /// Nothing.
    None,
    /// `BEGIN`, `START TRANSACTION`. With [`Reason::PrimaryTransaction`]: one that asks for what a standby
    /// refuses (`READ WRITE`, `SERIALIZABLE`).
    Begin,
    /// `BEGIN READ ONLY`, without `SERIALIZABLE`.
    BeginReadOnly,
    /// `COMMIT`, `END`, `ROLLBACK`, `ABORT`, `PREPARE TRANSACTION`.
    End,
    /// Savepoints, `SET TRANSACTION`, `COMMIT AND CHAIN`: the transaction goes on.
    Inside,
    /// A string of several statements of which one or more is one of the above.
    Mixed,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident $label:literal $words:literal)*) => {
        /// Why a statement got its class.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)* }

        impl Reason {
            /// Every reason, the order in which they are declared.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The name in metrics.
            pub fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)* }
            }

            /// The reason in plain words.
            pub fn describe(self) -> &'static str {
                match self { $(Reason::$name => $words,)* }
            }
        }
    };
}

// In the order of weight: of the reasons of several statements or names the last one counts, so that one
// about which nothing is known never hides one that is known to write.
reasons! {
    /// A query that only reads.
    Read "read" "it only reads, and everything it names is known to be safe on a standby"
    /// Nothing but white space, comments and semicolons.
    Empty "empty" "there is no statement in it"
    /// The database's catalog has not been loaded yet, so names can't be judged.
    CatalogNotLoaded "catalog_not_loaded" "it names something, and the database's catalog has not been loaded yet"
    /// A built-in function that this version of pgweir has not been taught about.
    UnknownBuiltin "unknown_builtin" "it calls a built-in function that is not known to be safe on a standby"
    /// A function whose code can't be read: another language, or dynamic SQL.
    OpaqueFunction "opaque_function" "it reaches a function whose code cannot be judged (another language or dynamic SQL)"
    /// A built-in function or view that answers for the server or the session, so a standby answers differently.
    ServerState "server_state" "it asks for the state of the server or the session, which differs on a standby"
    /// `SHOW` of a setting that may differ on a standby.
    ServerSetting "server_setting" "it shows a setting that may differ on a standby"
    /// A name whose bytes are not UTF-8 and so can't be compared with the catalog.
    ForeignEncoding "foreign_encoding" "it spells a name in an encoding other than UTF-8"
    /// `U&"…"` or `U&'…'`, which can spell any name.
    UnicodeEscape "unicode_escape" "it contains a Unicode escape (U&), which can hide a name"
    /// The text is not what PostgreSQL's scanner accepts, or its parentheses don't match.
    Malformed "malformed" "PostgreSQL's scanner would not accept it"
    /// The first keyword is not one of a known statement.
    UnknownStatement "unknown_statement" "it starts with a word that starts no known statement"
    /// The text is longer than the classifier reads.
    Oversized "oversized" "its text is too long to be judged"
    /// The parser saw something else than a query.
    ParserVeto "parser_veto" "the parser sees more in it than a query"
    /// `BEGIN`, `COMMIT`, savepoints.
    Transaction "transaction" "it opens, ends or shapes a transaction"
    /// `SHOW`-less session commands: `SET`, `RESET`, `DISCARD`, `set_config()`.
    SessionState "session_state" "it changes the session's state"
    /// SQL-level `PREPARE`, `EXECUTE`, `DEALLOCATE`.
    PreparedStatement "prepared_statement" "it uses a statement that was prepared with SQL, which lives in one server connection"
    /// `DECLARE`, `FETCH`, `MOVE`, `CLOSE`.
    Cursor "cursor" "it uses a cursor, which lives in one server connection"
    /// `LISTEN`, `UNLISTEN`, `NOTIFY`.
    Notification "notification" "it listens or notifies, which is done on the primary"
    /// A temporary table is made or named.
    Temporary "temporary" "it makes or names a temporary object"
    /// An unlogged or foreign table.
    UnavailableRelation "unavailable_relation" "it reads an unlogged or foreign table, which a standby does not have"
    /// A sequence, read or advanced.
    Sequence "sequence" "it reads or advances a sequence"
    /// Advisory locks are per server.
    AdvisoryLock "advisory_lock" "it takes or releases an advisory lock, and a standby has its own"
    /// A built-in function that runs SQL given as text.
    RunsText "runs_text" "it calls a function that runs SQL given as text"
    /// Large objects, whose functions write or need a transaction of their own.
    LargeObject "large_object" "it uses the functions for large objects"
    /// Reloading, terminating, slots, files, backups: acts on the server itself.
    ServerControl "server_control" "it calls a function that acts on the server itself"
    /// A transaction that a standby refuses: `READ WRITE`, `SERIALIZABLE`, `DEFERRABLE`.
    PrimaryTransaction "primary_transaction" "it asks for a transaction that a standby refuses"
    /// `PREPARE TRANSACTION`, `COMMIT PREPARED`, `ROLLBACK PREPARED`.
    TwoPhase "two_phase" "it is part of a two-phase commit"
    /// `LOCK TABLE`, `VACUUM`, `CHECKPOINT` and their like.
    Maintenance "maintenance" "it locks or maintains tables or the server"
    /// `COPY` from the client, or from or to a file or program.
    Copy "copy" "it copies into a table, or from or to a file or program on the server"
    /// `CALL`, `DO`.
    Procedure "procedure" "it runs a procedure or a block of code"
    /// A function that writes, by its own code or by what it calls.
    FunctionWrites "function_writes" "it reaches a function that writes"
    /// `FOR UPDATE`, `FOR SHARE` and the two between.
    RowLock "row_lock" "it locks rows"
    /// `SELECT … INTO`.
    SelectInto "select_into" "it creates a table (SELECT INTO)"
    /// Changes the catalog.
    Ddl "ddl" "it changes the database's catalog"
    /// `INSERT`, `UPDATE`, `DELETE`, `MERGE`, `TRUNCATE`, also within `WITH`.
    Write "write" "it writes"
}

impl Reason {
    /// The weightier of two.
    pub fn worse(self, other: Reason) -> Reason {
        if other as u8 > self as u8 { other } else { self }
    }

    /// Is this about something unknown, or about an answer that merely differs?
    fn yields_to_hint(self) -> bool {
        matches!(self, Reason::UnknownBuiltin | Reason::OpaqueFunction | Reason::ServerState | Reason::ServerSetting)
    }
}

/// What a statement may leave behind: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects(u16);

impl Effects {
    pub const NONE: Effects = Effects(0);
    /// May change session state: settings, prepared statements, temporary tables, cursors that outlive the
    /// transaction, `LISTEN`, session advisory locks, or code that may do any of these.
    pub const STATE: Effects = Effects(1);
    /// Changes the catalog.
    pub const DDL: Effects = Effects(1 << 1);
    /// May change the catalog, but in most cases does not: code that cannot be read, `CALL`, temporary tables.
    pub const MAYBE_DDL: Effects = Effects(1 << 2);
    /// Leaves state that the server can't be asked about and that no reset undoes (`LOAD`, `setseed`).
    pub const STICKY: Effects = Effects(1 << 3);
    /// May change `default_transaction_read_only` or another default of transactions.
    pub const READ_ONLY_SETTING: Effects = Effects(1 << 4);
    /// The class holds unless a parameter is declared with a type of the database's own (an OID from 16384
    /// up): such a value could select another overload of a function.
    pub const PARAMETER_TYPES: Effects = Effects(1 << 5);

    /// The state is changed by code that the text does not show (a function of the database's own): which
    /// settings it makes cannot be known.
    pub const HIDDEN: Effects = Effects(1 << 6);
    /// Changes a setting until the end of the transaction (`SET LOCAL`).
    pub const LOCAL_SETTING: Effects = Effects(1 << 7);

    /// Makes state that only one server connection has: a temporary table, a session's advisory lock …
    pub const PINS: Effects = Effects(1 << 8);
    /// May send a notification: `NOTIFY`, `pg_notify`, or a function that reaches one.
    pub const NOTIFIES: Effects = Effects(1 << 9);
    /// Depends on what the session listens to so far: `UNLISTEN`, `DISCARD`, `pg_listening_channels()`, or code
    /// that may do any of these.
    pub const CHANNELS: Effects = Effects(1 << 10);
    /// Tells the client which server process it has: `pg_backend_pid()`, by which another session may end or cancel
    /// what that process does.
    pub const PROCESS: Effects = Effects(1 << 11);
    /// Makes, uses or drops prepared statements by their names, in SQL: the client's own names have to be there.
    pub const STATEMENTS: Effects = Effects(1 << 12);
    /// Shows which prepared statements there are: the client's own, and no others, have to be there.
    pub const SHOWS_STATEMENTS: Effects = Effects(1 << 13);
    /// Reads what a sequence last gave to the session: `currval`, `lastval`.
    pub const READS_SEQUENCES: Effects = Effects(1 << 14);

    /// Begins to listen: `LISTEN`.
    pub const LISTENS: Effects = Effects(1 << 15);

    const NAMES: &[(Effects, &str)] = &[
        (Effects::STATE, "it may change the session's state"),
        (Effects::DDL, "it changes the catalog"),
        (Effects::MAYBE_DDL, "it may change the catalog"),
        (Effects::STICKY, "it may leave state that cannot be reset"),
        (Effects::READ_ONLY_SETTING, "it may change the defaults of transactions"),
        (Effects::HIDDEN, "what state it changes is hidden in the code of a function"),
        (Effects::LOCAL_SETTING, "it changes a setting for its transaction"),
        (Effects::PINS, "it makes state that only one server connection has"),
        (Effects::NOTIFIES, "it may notify"),
        (Effects::LISTENS, "it begins to listen"),
        (Effects::CHANNELS, "it may end or show what the session listens to"),
        (Effects::PROCESS, "it tells which server process the session has"),
        (Effects::STATEMENTS, "it uses prepared statements by name"),
        (Effects::SHOWS_STATEMENTS, "it shows which prepared statements there are"),
        (Effects::READS_SEQUENCES, "it reads what a sequence last gave to the session"),
        (Effects::PARAMETER_TYPES, "its class depends on its parameters having built-in types"),
    ];

    /// Are all of `other` in this set?
    pub fn contains(self, other: Effects) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is any of `other` in this set?
    pub fn intersects(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    /// This set less those.
    pub const fn without(self, others: Effects) -> Effects {
        Effects(self.0 & !others.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Effects {
    type Output = Effects;

    fn bitor(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Effects) {
        self.0 |= other.0;
    }
}

impl Effects {
    /// `a | b` where a constant is needed.
    pub const fn with(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }
}

/// The verdict in plain words, one fact a line.
pub fn explain(verdict: Verdict) -> String {
    let class = match verdict.class {
        Class::Read => "read",
        Class::Primary => "primary",
    };
    let mut lines =
        vec![format!("class: {class}"), format!("reason: {} ({})", verdict.reason.label(), verdict.reason.describe())];
    let transaction = match verdict.tx {
        TxControl::None => None,
        TxControl::Begin => Some("it opens a transaction"),
        TxControl::BeginReadOnly => Some("it opens a read-only transaction"),
        TxControl::End => Some("it ends the transaction"),
        TxControl::Inside => Some("it acts within the transaction"),
        TxControl::Mixed => Some("it controls transactions among other statements"),
    };
    lines.extend(transaction.map(|words| format!("transaction: {words}")));
    lines.extend(verdict.hint.map(|hint| {
        let asked = match hint {
            Hint::Primary => "primary",
            Hint::Replica if verdict.class == Class::Read || verdict.yields_to_hint() => "replica",
            Hint::Replica => {
                "replica, which is refused: the statement is unsafe there, or may leave state in the session"
            }
        };
        format!("hint: {asked}")
    }));
    lines.extend(verdict.consistency.map(|consistency| format!("consistency: {}, by a comment", consistency.name())));
    let effects = Effects::NAMES.iter().filter(|(effect, _)| verdict.effects.contains(*effect));
    lines.extend(effects.map(|(_, words)| format!("effect: {words}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_fit_metrics() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert!(labels.iter().all(|l| l.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn a_known_write_outweighs_the_unknown() {
        assert_eq!(Reason::OpaqueFunction.worse(Reason::Write), Reason::Write);
        assert_eq!(Reason::AdvisoryLock.worse(Reason::ServerState), Reason::AdvisoryLock);
        assert_eq!(Reason::Read.worse(Reason::Read), Reason::Read);
    }

    #[test]
    fn an_explanation_names_class_reason_and_refused_hint() {
        let verdict = Verdict {
            class: Class::Primary,
            reason: Reason::Write,
            hint: Some(Hint::Replica),
            consistency: None,
            tx: TxControl::None,
            effects: Effects::STATE,
        };
        let text = explain(verdict);
        assert!(
            text.contains("class: primary") && text.contains("refused") && text.contains("session's state"),
            "{text}"
        );
    }
}
