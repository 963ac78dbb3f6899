//! TEMPORARY: stands in for the router until its branch is merged.
use crate::sql::*;
pub struct SessionView {
    pub in_transaction: Option<Target>,
    pub pinned: Option<Target>,
    pub default_read_only: bool,
    pub replicas: bool,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Primary,
    Replica,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteReason {
    Statement(Reason),
    SessionMode,
    NotFresh,
    ReplicaDown,
    NoReplica,
}
impl RouteReason {
    pub fn label(self) -> &'static str {
        match self {
            Self::Statement(r) => r.label(),
            Self::SessionMode => "session_mode",
            Self::NotFresh => "not_fresh",
            Self::ReplicaDown => "replica_down",
            Self::NoReplica => "no_replica",
        }
    }
    pub fn all() -> impl Iterator<Item = Self> {
        Reason::ALL.iter().map(|r| Self::Statement(*r)).chain([
            Self::SessionMode,
            Self::NotFresh,
            Self::ReplicaDown,
            Self::NoReplica,
        ])
    }
}
pub struct Decision {
    pub target: Target,
    pub reason: RouteReason,
}
pub fn route(v: &Verdict, view: &SessionView) -> Decision {
    let target = if v.class == Class::Read && view.replicas { Target::Replica } else { Target::Primary };
    Decision { target, reason: RouteReason::Statement(v.reason) }
}
