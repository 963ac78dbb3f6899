//! What tenants have used and come up against: series for those that have used most, and one of each kind for all others.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{CounterVec, GaugeVec, Opts};

use super::Limit;
use super::families::VALID;
use super::labels::OTHER;

/// Tenants with series of their own: those for which servers have worked for longest.
pub(super) const MOST_TENANTS: usize = 100;

/// One tenant.
#[derive(Debug, Clone, Default)]
pub struct TenantUse {
    pub tenant: String,
    pub clients: usize,
    pub tally: Tally,
}

/// What has been counted since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub transactions: u64,
    /// Time for which servers have worked.
    pub worked: Duration,
    /// Statements cut off by a ceiling.
    pub timeouts: u64,
    /// Batches that waited for a rate limit.
    pub delays: u64,
    /// What was refused or cut off, by the number of the [`Limit`].
    pub refusals: [u64; Limit::ALL.len()],
}

impl Tally {
    fn since(&self, before: &Self) -> Self {
        Self {
            transactions: self.transactions.saturating_sub(before.transactions),
            worked: self.worked.saturating_sub(before.worked),
            timeouts: self.timeouts.saturating_sub(before.timeouts),
            delays: self.delays.saturating_sub(before.delays),
            refusals: std::array::from_fn(|at| self.refusals[at].saturating_sub(before.refusals[at])),
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.transactions += more.transactions;
        self.worked += more.worked;
        self.timeouts += more.timeouts;
        self.delays += more.delays;
        for (sum, more) in self.refusals.iter_mut().zip(more.refusals) {
            *sum += more;
        }
    }
}

/// What all tenants without series of their own have used. Counters that never fall: they take what each has used
/// while it was one of them, whatever it is later.
#[derive(Debug, Default)]
pub(super) struct Others {
    tally: Tally,
    /// Of each tenant, when it was last looked at.
    seen: HashMap<String, Tally>,
}

impl Others {
    /// Those who have used most, and all others as one.
    pub(super) fn shown(&mut self, tenants: &[TenantUse]) -> Vec<TenantUse> {
        // One may be called like all the others: it always is one of them, or their counters would fall as it leaves.
        let (mut rest, mut all): (Vec<_>, Vec<_>) = tenants.iter().cloned().partition(|one| one.tenant == OTHER);
        all.sort_unstable_by(|one, two| {
            two.tally.worked.cmp(&one.tally.worked).then_with(|| one.tenant.cmp(&two.tenant))
        });
        rest.extend(all.drain(all.len().min(MOST_TENANTS)..));
        for one in &rest {
            let before = self.seen.get(&one.tenant).copied().unwrap_or_default();
            self.tally += one.tally.since(&before);
        }
        self.seen = tenants.iter().map(|one| (one.tenant.clone(), one.tally)).collect();
        if !rest.is_empty() || self.tally != Tally::default() {
            let clients = rest.iter().map(|one| one.clients).sum();
            all.push(TenantUse { tenant: OTHER.to_owned(), clients, tally: self.tally });
        }
        all
    }
}

pub(super) struct TenantFamilies {
    clients: GaugeVec,
    transactions: CounterVec,
    seconds: CounterVec,
    timeouts: CounterVec,
    delays: CounterVec,
    refusals: CounterVec,
}

impl TenantFamilies {
    pub(super) fn new() -> Self {
        let with =
            |name, what| Opts::new(name, format!("{what}, of the tenants that have used most, and of all others."));
        let counter = |name, what, labels: &[&str]| CounterVec::new(with(name, what), labels).expect(VALID);
        let tenant = ["tenant"];
        Self {
            clients: GaugeVec::new(with("pgweir_tenant_clients", "Client connections"), &tenant).expect(VALID),
            transactions: counter("pgweir_tenant_transactions_total", "Transactions finished", &tenant),
            seconds: counter("pgweir_tenant_backend_seconds_total", "Time for which servers have worked", &tenant),
            timeouts: counter(
                "pgweir_tenant_statement_timeouts_total",
                "Statements cut off by a timeout of their tenant",
                &tenant,
            ),
            delays: counter(
                "pgweir_tenant_delays_total",
                "Batches that waited for a rate limit of their tenant",
                &tenant,
            ),
            refusals: counter(
                "pgweir_tenant_rejections_total",
                "What was refused or cut off, by limit",
                &["tenant", "reason"],
            ),
        }
    }

    pub(super) fn all(&self) -> [&dyn Collector; 6] {
        [&self.clients, &self.transactions, &self.seconds, &self.timeouts, &self.delays, &self.refusals]
    }

    pub(super) fn fill(&self, tenants: &[TenantUse]) {
        for TenantUse { tenant, clients, tally } in tenants {
            let labels = [&**tenant];
            self.clients.with_label_values(&labels).set(*clients as f64);
            self.transactions.with_label_values(&labels).inc_by(tally.transactions as f64);
            self.seconds.with_label_values(&labels).inc_by(tally.worked.as_secs_f64());
            self.timeouts.with_label_values(&labels).inc_by(tally.timeouts as f64);
            self.delays.with_label_values(&labels).inc_by(tally.delays as f64);
            for (limit, count) in Limit::ALL.into_iter().zip(tally.refusals).filter(|(_, count)| *count > 0) {
                self.refusals.with_label_values(&[tenant, limit.name()]).inc_by(count as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With as many of everything as seconds.
    fn tenant(name: impl ToString, worked: u64) -> TenantUse {
        let mut tally = Tally { transactions: worked, worked: Duration::from_secs(worked), ..Tally::default() };
        tally.timeouts = worked;
        tally.delays = worked;
        tally.refusals[Limit::RateLimit as usize] = worked;
        TenantUse { tenant: name.to_string(), clients: 1, tally }
    }

    fn numbered(number: u64, worked: u64) -> TenantUse {
        tenant(format!("t{number}"), worked)
    }

    #[test]
    fn those_who_have_used_most_are_shown_and_what_the_others_have_used_never_falls() {
        let mut all: Vec<_> = (0..105).map(|number| numbered(number, number)).collect();
        let mut others = Others::default();
        let shown = others.shown(&all);
        assert_eq!(shown.len(), MOST_TENANTS + 1);
        assert_eq!((&*shown[0].tenant, &*shown[99].tenant), ("t104", "t5"));
        let other = &shown[100];
        assert_eq!((&*other.tenant, other.clients, other.tally), (OTHER, 5, tenant("", 10).tally));
        // One of the others overtakes one of the first; another one uses more.
        all[4] = numbered(4, 50);
        assert_eq!(others.shown(&all)[100].tally, tenant("", 10).tally);
        all[3] = numbered(3, 4);
        assert_eq!(others.shown(&all)[100].tally, tenant("", 11).tally);
        // The one that has been overtaken is one of the others with what it uses from then on.
        (all[5], all[6]) = (numbered(5, 6), numbered(6, 60));
        let shown = others.shown(&all);
        assert!(shown.iter().all(|one| one.tenant != "t5"));
        assert_eq!(shown[100].tally, tenant("", 12).tally);
        assert_eq!(Others::default().shown(&all[..3]).len(), 3);
    }

    #[test]
    fn what_is_refused_to_tenants_of_little_use_is_in_the_sum_by_its_limit() {
        let mut all: Vec<_> = (0..110).map(|number| numbered(number, 1000 + number)).collect();
        for (number, one) in all.iter_mut().enumerate() {
            one.tally.refusals = std::array::from_fn(|at| (number * at) as u64);
        }
        let shown = Others::default().shown(&all);
        assert_eq!(shown.len(), MOST_TENANTS + 1);
        for at in 0..Limit::ALL.len() {
            let sum = |tenants: &[TenantUse]| tenants.iter().map(|one| one.tally.refusals[at]).sum::<u64>();
            assert_eq!(sum(&shown), sum(&all), "{:?}", Limit::ALL[at]);
        }
    }

    #[test]
    fn a_tenant_called_like_all_others_is_one_of_them() {
        let mut others = Others::default();
        let mut all = vec![tenant(OTHER, 50), numbered(1, 1)];
        let named_other = |shown: &[TenantUse]| {
            let found: Vec<_> = shown.iter().filter(|one| one.tenant == OTHER).map(|one| one.tally).collect();
            assert_eq!(found.len(), 1);
            found[0]
        };
        assert_eq!(named_other(&others.shown(&all)), tenant("", 50).tally);
        // Nor does anything fall when there are more than can be shown, or when it leaves.
        all.extend((2..200).map(|number| numbered(number, 100)));
        assert_eq!(named_other(&others.shown(&all)).transactions, 50 + 98 * 100);
        assert_eq!(named_other(&others.shown(&all[1..])).transactions, 50 + 98 * 100);
    }
}
