//! From a statement's [`Verdict`] and the session's state to the server it goes to. Pure.
//!
//! Weighed in this order: an open transaction or a pin keeps its server; a hint for the primary is obeyed;
//! then the statement's class; a hint for a replica turns only a "primary" that was for want of knowledge.

use crate::sql::{Class, Hint, Reason, TxControl, Verdict};

/// What the router needs to know about a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionView {
    /// Where the open transaction is, if one is open.
    pub in_transaction: Option<Target>,
    /// Where the session is pinned. Also `Some(Target::Primary)` while `default_transaction_isolation` is
    /// `serializable`, which a standby refuses.
    pub pinned: Option<Target>,
    /// `default_transaction_read_only` is on.
    pub default_read_only: bool,
    /// The cluster has replicas.
    pub replicas: bool,
}

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Primary,
    Replica,
}

/// Where to, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub target: Target,
    pub reason: RouteReason,
}

/// Why a batch goes where it goes. A closed set: the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteReason {
    /// The statement itself decided.
    Statement(Reason),
    /// A transaction is open on that server.
    InTransaction,
    /// The session holds state on that server's connection.
    Pinned,
    /// `/* pgweir: primary */`.
    HintPrimary,
    /// `/* pgweir: replica */` on a statement that is not known to be unsafe there.
    HintReplica,
    /// It could have gone to a replica, but the cluster has none.
    NoReplica,
    /// It opens a read-only transaction, by its own words or by `default_transaction_read_only`.
    ReadOnlyTransaction,
    /// It could have gone to a replica, but none is fresh enough. Given by the caller.
    NotFresh,
    /// It could have gone to a replica, but none is up. Given by the caller.
    ReplicaDown,
    /// A replica refused or lost it before anything was answered, so it ran on the primary. Given by the
    /// caller.
    Healed,
    /// It could have gone to a replica, but one has refused a statement of its form before. Given by the caller.
    Refused,
    /// It could have gone to a replica, but it ends with `Flush` and has portals: what comes next belongs to the
    /// same transaction. Given by the caller.
    Unfinished,
}

impl RouteReason {
    /// The reasons that are not the statement's own.
    const OWN: [RouteReason; 11] = [
        RouteReason::InTransaction,
        RouteReason::Pinned,
        RouteReason::HintPrimary,
        RouteReason::HintReplica,
        RouteReason::NoReplica,
        RouteReason::ReadOnlyTransaction,
        RouteReason::NotFresh,
        RouteReason::ReplicaDown,
        RouteReason::Healed,
        RouteReason::Refused,
        RouteReason::Unfinished,
    ];

    /// How many there are.
    const COUNT: usize = Reason::ALL.len() + RouteReason::OWN.len();

    /// Every reason.
    pub const ALL: &[RouteReason] = &{
        let mut all = [RouteReason::InTransaction; RouteReason::COUNT];
        let mut at = 0;
        while at < RouteReason::COUNT {
            all[at] = if at < Reason::ALL.len() {
                RouteReason::Statement(Reason::ALL[at])
            } else {
                RouteReason::OWN[at - Reason::ALL.len()]
            };
            at += 1;
        }
        all
    };

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            RouteReason::Statement(reason) => reason.label(),
            RouteReason::InTransaction => "in_transaction",
            RouteReason::Pinned => "pinned",
            RouteReason::HintPrimary => "hint_primary",
            RouteReason::HintReplica => "hint_replica",
            RouteReason::NoReplica => "no_replica",
            RouteReason::ReadOnlyTransaction => "read_only_transaction",
            RouteReason::NotFresh => "not_fresh",
            RouteReason::ReplicaDown => "replica_down",
            RouteReason::Healed => "healed",
            RouteReason::Refused => "refused",
            RouteReason::Unfinished => "unfinished",
        }
    }

    /// The reason in plain words.
    pub fn describe(self) -> &'static str {
        match self {
            RouteReason::Statement(reason) => reason.describe(),
            RouteReason::InTransaction => "a transaction is open on that server",
            RouteReason::Pinned => "the session holds state on that server's connection",
            RouteReason::HintPrimary => "a comment asked for the primary",
            RouteReason::HintReplica => {
                "a comment asked for a replica, and the statement is not known to be unsafe there"
            }
            RouteReason::NoReplica => "it could go to a replica, but the cluster has none",
            RouteReason::ReadOnlyTransaction => "it opens a read-only transaction",
            RouteReason::NotFresh => "it could go to a replica, but none is fresh enough",
            RouteReason::ReplicaDown => "it could go to a replica, but none is up",
            RouteReason::Refused => "it could go to a replica, but one has refused a statement of its form before",
            RouteReason::Unfinished => "its batch goes on after a Flush, and what follows may write",
            RouteReason::Healed => {
                "a replica refused or lost it before anything was answered, so it ran on the primary"
            }
        }
    }
}

/// Decides where a batch with this verdict goes.
pub fn route(verdict: &Verdict, view: &SessionView) -> Decision {
    if let Some(target) = view.in_transaction {
        return Decision { target, reason: RouteReason::InTransaction };
    }
    if let Some(target) = view.pinned {
        return Decision { target, reason: RouteReason::Pinned };
    }
    if verdict.hint == Some(Hint::Primary) {
        return Decision { target: Target::Primary, reason: RouteReason::HintPrimary };
    }
    match for_replica(verdict, view) {
        Some(_) if !view.replicas => Decision { target: Target::Primary, reason: RouteReason::NoReplica },
        Some(reason) => Decision { target: Target::Replica, reason },
        None => Decision { target: Target::Primary, reason: RouteReason::Statement(verdict.reason) },
    }
}

/// Why it may go to a replica, if it may.
fn for_replica(verdict: &Verdict, view: &SessionView) -> Option<RouteReason> {
    let plain_begin = verdict.tx == TxControl::Begin && verdict.reason == Reason::Transaction;
    match (verdict.class, verdict.tx) {
        (_, TxControl::BeginReadOnly) if verdict.reason == Reason::Transaction => {
            Some(RouteReason::ReadOnlyTransaction)
        }
        (_, TxControl::Begin) if plain_begin && view.default_read_only => Some(RouteReason::ReadOnlyTransaction),
        (Class::Read, _) => Some(RouteReason::Statement(verdict.reason)),
        (Class::Primary, TxControl::None) if verdict.hint == Some(Hint::Replica) && verdict.yields_to_hint() => {
            Some(RouteReason::HintReplica)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Catalog, CatalogRows, Classifier};

    const OPEN: SessionView =
        SessionView { in_transaction: None, pinned: None, default_read_only: false, replicas: true };

    fn routed(sql: &str, view: SessionView) -> (Target, &'static str) {
        let catalog = Catalog::build(1, CatalogRows::default());
        let verdict = Classifier::new(1 << 16).classify(sql.as_bytes(), &catalog, None);
        let decision = route(&verdict, &view);
        (decision.target, decision.reason.label())
    }

    #[test]
    fn an_open_transaction_or_a_pin_keeps_its_server() {
        let inside = SessionView { in_transaction: Some(Target::Replica), ..OPEN };
        assert_eq!(routed("INSERT INTO x VALUES (1)", inside), (Target::Replica, "in_transaction"));
        let pinned = SessionView { pinned: Some(Target::Primary), ..OPEN };
        assert_eq!(routed("SELECT 1", pinned), (Target::Primary, "pinned"));
    }

    #[test]
    fn read_only_transactions_go_to_a_replica() {
        let read_only = SessionView { default_read_only: true, ..OPEN };
        for (sql, view, target) in [
            ("BEGIN", OPEN, Target::Primary),
            ("BEGIN READ ONLY", OPEN, Target::Replica),
            ("START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", OPEN, Target::Replica),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", OPEN, Target::Primary),
            ("BEGIN READ ONLY DEFERRABLE", OPEN, Target::Primary),
            ("BEGIN READ ONLY NOT DEFERRABLE", OPEN, Target::Replica),
            ("BEGIN", read_only, Target::Replica),
            ("BEGIN READ WRITE", read_only, Target::Primary),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", read_only, Target::Primary),
            ("BEGIN READ ONLY; INSERT INTO x VALUES (1); COMMIT", OPEN, Target::Primary),
            ("INSERT INTO x VALUES (1)", read_only, Target::Primary),
        ] {
            assert_eq!(routed(sql, view).0, target, "{sql}");
        }
    }

    #[test]
    fn a_hint_is_obeyed_unless_it_would_send_a_write_to_a_replica() {
        assert_eq!(routed("/* pgweir: primary */ SELECT 1", OPEN), (Target::Primary, "hint_primary"));
        assert_eq!(routed("/* pgweir: replica */ SELECT pg_is_in_recovery()", OPEN), (Target::Replica, "hint_replica"));
        assert_eq!(
            routed("/* pgweir: replica */ SELECT pg_advisory_lock(1)", OPEN),
            (Target::Primary, "advisory_lock")
        );
        assert_eq!(routed("/* pgweir: replica */ SELECT nextval('s')", OPEN), (Target::Primary, "sequence"));
        assert_eq!(routed("/* pgweir: replica */ DELETE FROM x", OPEN), (Target::Primary, "write"));
        assert_eq!(routed("/* pgweir: replica */ BEGIN", OPEN), (Target::Primary, "transaction"));
    }

    #[test]
    fn without_replicas_everything_goes_to_the_primary() {
        assert_eq!(routed("SELECT 1", SessionView { replicas: false, ..OPEN }), (Target::Primary, "no_replica"));
    }

    #[test]
    fn every_reason_has_its_own_label() {
        let mut labels: Vec<_> = RouteReason::ALL.iter().map(|reason| reason.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), RouteReason::COUNT);
    }
}
