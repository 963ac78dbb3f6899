//! `EXPLAIN ROUTE statement`: where the statement would go now, and why. The server is sent a query for the answer's
//! rows in its place, so that every driver gets them in its own way.

use std::time::Duration;

use super::batch::Batch;
use super::ledger::Status;
use super::{Leased, Session};
use crate::cluster::{Host, Moment, Place};
use crate::config::Consistency;
use crate::pool::literal;
use crate::router::{RouteReason, Target};
use crate::sql::{Class, explained_route};

impl Session {
    /// The query that answers `text`, if that is an `EXPLAIN ROUTE`.
    pub(super) fn explained(&self, leased: &Leased, text: &[u8]) -> Option<String> {
        let statement = explained_route(text)?;
        let rows =
            self.explain(leased, statement).map(|(item, value)| format!("({},{})", literal(item), literal(&value)));
        Some(format!("SELECT * FROM (VALUES {}) AS route (item, value)", rows.join(",")))
    }

    /// What decides, item by item.
    fn explain(&self, leased: &Leased, statement: &[u8]) -> [(&'static str, String); 6] {
        let verdict = self.shared.classifier.classify_in(self.state.scope(), statement, &self.catalog);
        let mut batch = Batch::empty();
        batch.add(verdict);
        (batch.complete, batch.synced) = (true, true);
        batch.refused = self.group.was_refused(statement);
        let wanted = self.wanted(&batch);
        let decision = self.decide(&batch);
        let (place, reason) = match decision.target {
            _ if self.ledger.status() != Status::Idle => (leased.place, RouteReason::InTransaction),
            _ if self.keeps_lease() => (leased.place, RouteReason::Pinned),
            Target::Primary => (Place::Primary, decision.reason),
            Target::Replica => match self.group.pick_replica(&wanted) {
                Some(place) => (place, decision.reason),
                None if self.group.has_live_replica() => (Place::Primary, RouteReason::NotFresh),
                None => (Place::Primary, RouteReason::ReplicaDown),
            },
        };
        let class = match verdict.class {
            Class::Read => "read",
            Class::Primary => "primary",
        };
        let now = self.group.clock.now();
        let replicas: Vec<_> = self.group.replicas().map(|host| shown(host, now)).collect();
        [
            ("host", format!("{} ({})", self.group.host(place).config.name, place.role().label())),
            ("reason", format!("{}: {}", reason.label(), reason.describe())),
            ("class", format!("{class}, {}: {}", verdict.reason.label(), verdict.reason.describe())),
            ("consistency", self.consistency_of(&batch).name().to_owned()),
            (
                "must show",
                if wanted.written.max(wanted.seen) == Moment::NEVER {
                    "nothing in particular".to_owned()
                } else {
                    format!("what was there {} ago", milliseconds(now.since(wanted.written.max(wanted.seen))))
                },
            ),
            ("replicas", replicas.join("; ")),
        ]
    }

    /// By a comment in it, by the session's own word, or as configured.
    pub(super) fn consistency_of(&self, batch: &Batch) -> Consistency {
        let own = batch.verdict.and_then(|verdict| verdict.consistency).or(self.state.consistency());
        own.unwrap_or(self.consistency)
    }
}

/// What is known of a replica.
fn shown(host: &Host, now: Moment) -> String {
    let name = &host.config.name;
    match host.lag(now) {
        _ if !host.is_up() => format!("{name} does not answer"),
        (Some(lag), bytes) => format!("{name} shows what was there {} ago ({bytes} bytes behind)", milliseconds(lag)),
        (None, _) => format!("{name} has not shown yet how far it is"),
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
