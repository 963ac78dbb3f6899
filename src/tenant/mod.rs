//! Who a client belongs to, and what it is held to: identity, limits and the count of live clients.
//! No I/O here.

mod attempts;
mod count;
mod gate;
mod identity;
mod rate;
mod tally;
mod timeout;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::config::{Pinning, Tier, show_wait};
use crate::wire::error::{PgError, Severity};
use gate::Gate;
use rate::{Exceeded, Rates};
use tally::Met;

pub use attempts::Attempts;
pub use count::{Count, Taken};
pub use gate::{Pass, Passes, Queue, Standing};
pub use identity::{Tenants, Traits};
pub use rate::Use;
pub use timeout::{clamp, parse_guc_milliseconds};

/// One tenant as its clients see it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub name: Arc<str>,
    pub limits: Arc<Tier>,
    counters: Arc<Counters>,
}

/// What is counted for a tenant, over reloads too. What every transaction touches comes first, close together: where there
/// are thousands, having that in the processor's cache is most of what a tenant costs.
#[derive(Debug)]
#[repr(C)]
struct Counters {
    /// Server connections that its sessions use.
    taken: AtomicU32,
    /// As many they may use at once; any number where that is [`ANY`].
    most_taken: AtomicU32,
    /// As many wait for one, in whatever queues. Changed with their line locked.
    waiting: AtomicU32,
    /// Its clients have to wait, whatever its limits are.
    closed: AtomicBool,
    /// There are limits to its rates.
    rated: AtomicBool,
    /// Microseconds for which servers have worked for it.
    worked: AtomicU64,
    transactions: AtomicU64,
    rates: Rates,
    gate: Gate,
    last_write: AtomicU64,
    /// Its clients.
    live: Count,
    /// Server connections that its sessions keep to themselves.
    pinned: Count,
    /// Those of the configuration, or what an administrator has put in their place.
    limits: ArcSwap<Tier>,
    changed: Notify,
    /// What follows from the limits is changed together.
    holding: Mutex<()>,
    met: Met,
}

const ANY: u32 = u32::MAX;

/// How often the limits of any tenant have changed.
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// A number that is another one whenever the limits of a tenant have changed: whoever has seen it need not look at those of
/// his own, which would have to be fetched from memory.
pub fn changes() -> u32 {
    CHANGES.load(Ordering::Acquire)
}

impl Default for Counters {
    fn default() -> Self {
        let [taken, waiting] = Default::default();
        let [worked, transactions, last_write] = Default::default();
        let [closed, rated] = Default::default();
        let [live, pinned] = Default::default();
        Self {
            taken,
            most_taken: AtomicU32::new(ANY),
            waiting,
            closed,
            rated,
            worked,
            transactions,
            rates: Rates::new(Instant::now()),
            gate: Gate::default(),
            last_write,
            live,
            pinned,
            limits: ArcSwap::from_pointee(Tier::unlimited("")),
            changed: Notify::new(),
            holding: Mutex::default(),
            met: Met::default(),
        }
    }
}

impl Counters {
    fn hold_to(self: &Arc<Self>, limits: &Arc<Tier>) {
        let _one_at_a_time = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        self.rates.limit(&limits.rate_limits, Instant::now());
        self.rated.store(!limits.rate_limits.is_empty(), Ordering::Relaxed);
        self.let_pass(limits.max_server_connections, limits.queue_length);
        // Whoever sees these sees the others.
        self.limits.store(limits.clone());
        CHANGES.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }
}

impl Tenant {
    /// The same, held to the limits of now.
    pub fn with_current_limits(&self) -> Self {
        Self { limits: self.current_limits(), ..self.clone() }
    }

    /// Returns once its limits are others than those that it is held to here.
    pub async fn limits_change(&self) {
        loop {
            let mut changed = std::pin::pin!(self.counters.changed.notified());
            changed.as_mut().enable();
            if *self.counters.limits.load_full() != *self.limits {
                return;
            }
            changed.await;
        }
    }

    /// Takes one of the tenant's places for a client.
    ///
    /// Errors: 53300, to be sent in place of the authentication's end, when all are taken.
    pub fn admit(&self) -> Result<Taken, PgError> {
        let most = self.counters.limits.load().max_clients.unwrap_or(usize::MAX);
        self.counters.live.take(most).map_err(|live| self.full(live, most))
    }

    /// May a statement bind its session to its server connection?
    ///
    /// Errors: 0A000 where the tenant wants that refused, 53300 where as many as it may have are bound.
    pub fn may_pin(&self) -> Result<(), PgError> {
        let (pinned, most) = (self.counters.pinned.get(), self.most_pinned());
        match self.limits.pinning {
            Pinning::Refuse => Err(self.refuses_pins()),
            Pinning::Allow if pinned >= most => Err(self.too_many_pinned(pinned, most, STATEMENT)),
            Pinning::Allow => Ok(()),
        }
    }

    /// A session is bound to its server connection.
    ///
    /// Errors: as for [`Self::may_pin`].
    pub fn pin(&self) -> Result<Taken, PgError> {
        self.may_pin()?;
        self.take_pin(STATEMENT)
    }

    /// A client replicates, on a server connection of its own. (Whether it may is said for each user, and not by `pinning`.)
    ///
    /// Errors: 53300, fatal, as for [`Self::may_pin`].
    pub fn replicate(&self) -> Result<Taken, PgError> {
        let outcome = self.take_pin("A replication connection keeps a server connection to itself.");
        outcome.map_err(|error| PgError { severity: Severity::Fatal, ..error })
    }

    fn take_pin(&self, why: &'static str) -> Result<Taken, PgError> {
        let most = self.most_pinned();
        self.counters.pinned.take(most).map_err(|pinned| self.too_many_pinned(pinned, most, why))
    }

    fn most_pinned(&self) -> usize {
        self.limits.max_pinned.unwrap_or(usize::MAX)
    }

    fn refuses_pins(&self) -> PgError {
        let name = &self.name;
        PgError::error("0A000", "this statement makes state that only one server connection has")
            .detail(format!("The tenant \"{name}\" does not let a session keep a server connection to itself (pinning = \"refuse\")."))
            .hint("Do without temporary tables, session-level advisory locks, cursors WITH HOLD and PREPARE, or within one transaction.")
    }

    fn too_many_pinned(&self, pinned: usize, most: usize, why: &'static str) -> PgError {
        let (name, tier) = (&self.name, &self.limits.name);
        let message =
            format!("too many pinned server connections for tenant \"{name}\": {pinned} are pinned, {most} allowed");
        PgError::error("53300", message).detail(why).hint(format!(
            "Let go of such state in other sessions, or raise max_pinned of the tenant or of its tier \"{tier}\"."
        ))
    }

    /// Its server connections, for those who give them out.
    pub fn passes(&self) -> Passes {
        Passes::of(&self.counters)
    }

    /// The right to one more server connection, for what does not wait.
    ///
    /// Errors: 53300, fatal.
    pub fn connect_at_once(&self) -> Result<Pass, PgError> {
        self.passes()
            .take()
            .ok_or_else(|| PgError { severity: Severity::Fatal, ..self.too_many_connections(Duration::ZERO) })
    }

    /// May it use no more server connections than it does, for now?
    pub fn is_at_its_most(&self) -> bool {
        self.passes().left() == 0
    }

    /// None of its server connections became free in time (`waited`).
    pub fn too_many_connections(&self, waited: Duration) -> PgError {
        if self.counters.is_closed() {
            return self.still_paused(waited);
        }
        let (name, tier) = (&self.name, &self.limits.name);
        let (in_use, waiting) = self.counters.passes();
        let most = self.counters.limits.load().max_server_connections.unwrap_or(usize::MAX);
        PgError::error(
            "53300",
            format!("too many server connections for tenant \"{name}\": {in_use} are in use, {most} allowed"),
        )
        .detail(format!("Waited {:.1} s; {waiting} others wait.", waited.as_secs_f64()))
        .hint(format!(
            "Make transactions shorter, or raise max_server_connections of the tenant or of its tier \"{tier}\"."
        ))
    }

    /// It was not resumed in time.
    pub fn still_paused(&self, waited: Duration) -> PgError {
        let (_, waiting) = self.counters.passes();
        PgError::error("53300", format!("tenant \"{}\" is paused", self.name))
            .detail(format!("Waited {:.1} s; {waiting} others wait.", waited.as_secs_f64()))
            .hint("An administrator has paused it (PAUSE TENANT) and can resume it; try again later.")
    }

    /// Has it any rate limits? Those of the configuration of now, whenever the client has come.
    pub fn is_rated(&self) -> bool {
        self.counters.rated.load(Ordering::Relaxed)
    }

    /// What is about to be asked of these counters is fetched from memory, all at once, while the processor goes on with other
    /// things: the lock of the buckets would have it wait for each in turn.
    pub fn is_about_to_pay(&self) {
        std::hint::black_box(self.counters.taken.load(Ordering::Relaxed));
        self.counters.rates.fetch();
    }

    /// How long to wait before this is done.
    ///
    /// Errors: 53400 where that is longer than the tenant's limits let anybody wait. Nothing has been counted then.
    pub fn pay(&self, what: Use, now: Instant) -> Result<Duration, PgError> {
        self.counters.rates.take(what, now).map_err(|exceeded| self.too_often(&exceeded))
    }

    /// The same for what does not wait: false, and nothing has been counted, where it would have to.
    pub fn pays_at_once(&self, what: Use, now: Instant) -> bool {
        self.counters.rates.take_at_once(what, now)
    }

    /// Counts what is done in any case.
    pub fn owe(&self, what: Use, now: Instant) {
        self.counters.rates.owe(what, now);
    }

    fn too_often(&self, exceeded: &Exceeded) -> PgError {
        let (name, tier) = (&self.name, &self.limits.name);
        let limit = &exceeded.limit;
        PgError::error("53400", format!("rate limit of tenant \"{name}\" exceeded: {limit}"))
            .detail(format!("There is room again in {}.", show_wait(exceeded.wait.saturating_sub(limit.delay))))
            .hint(format!("Try again then, or raise rate_limits of the tenant or of its tier \"{tier}\"."))
    }

    /// A write of this tenant was answered, at a moment of its cluster's clock (see `cluster::Clock`).
    pub fn wrote(&self, moment: u64) {
        self.counters.last_write.fetch_max(moment, Ordering::AcqRel);
    }

    /// The latest moment given to [`Self::wrote`]; 0 when there was none.
    pub fn last_write(&self) -> u64 {
        self.counters.last_write.load(Ordering::Acquire)
    }

    /// A server has worked for it for so long.
    pub fn worked(&self, time: Duration, transaction: bool) {
        self.counters.worked.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
        self.counters.transactions.fetch_add(u64::from(transaction), Ordering::Relaxed);
    }

    /// The limits for those who come now.
    pub fn current_limits(&self) -> Arc<Tier> {
        self.counters.limits.load_full()
    }

    /// From now on, until the configuration is read again: what is counted for the whole tenant at once, and the rest from
    /// the next transaction of each of its clients on.
    pub fn limit(&self, limits: Tier) {
        self.counters.hold_to(&Arc::new(limits));
    }

    /// No more of its transactions begin until it is resumed: they wait, as for a server connection.
    pub fn pause(&self) {
        self.counters.close();
    }

    pub fn resume(&self) {
        self.counters.open();
    }

    /// Returns at once where it is not paused.
    pub async fn resumed(&self) {
        self.counters.opened().await;
    }

    pub fn is_paused(&self) -> bool {
        self.counters.is_closed()
    }

    /// Server connections that its sessions keep to themselves.
    pub fn pinned(&self) -> usize {
        self.counters.pinned.get()
    }

    /// Clients that hold a permit.
    pub fn live_clients(&self) -> usize {
        self.counters.live.get()
    }

    fn full(&self, live: usize, most: usize) -> PgError {
        let (name, tier) = (&self.name, &self.limits.name);
        PgError::fatal("53300", format!("too many connections for tenant \"{name}\": {live} are open, {most} allowed"))
            .hint(format!(
                "Close connections that are not in use, use a smaller connection pool in the application, \
                 or raise max_clients of the tenant or of its tier \"{tier}\"."
            ))
    }
}

const STATEMENT: &str = "This statement makes state that only one server connection has.";

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::identity::tests::{config, of_user, tier};
    use super::*;

    #[test]
    fn a_full_tenant_refuses_and_names_its_limit() {
        let tenants = Tenants::new(&config(&[("acme", &["user=a"], tier("small", 15, Some(2)))]));
        let tenant = of_user(&tenants, "a");
        let (first, _second) = (tenant.admit().unwrap(), tenant.admit().unwrap());
        let error = of_user(&tenants, "a").admit().unwrap_err();
        assert_eq!(error.code, "53300");
        assert_eq!(error.message, "too many connections for tenant \"acme\": 2 are open, 2 allowed");
        assert!(error.hint.unwrap().contains("tier \"small\""));
        drop(first);
        assert_eq!(tenant.live_clients(), 1);
        assert!(tenant.admit().is_ok());
    }

    #[test]
    fn matches_of_one_tenant_share_its_places() {
        let tenants = Tenants::new(&config(&[("acme", &["user=a", "user=b"], tier("small", 15, Some(1)))]));
        let _permit = of_user(&tenants, "a").admit().unwrap();
        assert!(of_user(&tenants, "b").admit().is_err());
    }

    #[test]
    fn live_clients_survive_a_reload_by_name() {
        let with = |most| config(&[("acme", &["user=a"], tier("small", 15, Some(most)))]);
        let before = Tenants::new(&with(3));
        let permits: Vec<_> = (0..3).map(|_| of_user(&before, "a").admit().unwrap()).collect();
        let after = before.reload(&with(2), &[]);
        let tenant = of_user(&after, "a");
        assert_eq!(tenant.live_clients(), 3);
        assert!(tenant.admit().is_err());
        drop(permits);
        assert_eq!(tenant.live_clients(), 0);
        assert!(tenant.admit().is_ok());
    }

    #[test]
    fn a_tenant_that_has_left_is_known_while_it_has_clients_and_counts_on_when_it_is_back() {
        let with = config(&[("acme", &["user=a"], tier("small", 15, Some(1)))]);
        let before = Tenants::new(&with);
        let permit = of_user(&before, "a").admit().unwrap();
        let without = before.reload(&config(&[]), &[]);
        assert_eq!(without.all().count(), 1);
        without.named("acme").unwrap().pause();
        let back = without.reload(&with, &[]);
        let tenant = of_user(&back, "a");
        assert!(tenant.is_paused() && tenant.admit().is_err());
        drop((permit, tenant, without));
        let without = back.reload(&config(&[]), &[]);
        drop((before, back));
        assert!(without.reload(&config(&[]), &[]).named("acme").is_none());
    }

    #[test]
    fn of_two_who_limit_a_tenant_at_once_one_has_his_way() {
        let counters = Arc::<Counters>::default();
        let rate = crate::config::Rate { count: 9, per: Duration::from_secs(3600), burst: 9 };
        let rate = crate::config::RateLimit { rate, counts: crate::config::Counted::Statements, delay: Duration::ZERO };
        let none = Arc::new(Tier::unlimited("none"));
        let some = Tier { max_server_connections: Some(5), rate_limits: Arc::from([rate]), ..Tier::unlimited("some") };
        let some = Arc::new(some);
        let (both, torn) = (Barrier::new(2), AtomicU32::new(0));
        let limit = |limits| {
            for _ in 0..20_000 {
                both.wait();
                counters.hold_to(limits);
                both.wait();
                let limited = counters.limits.load().max_server_connections.is_some();
                let held = [
                    Passes::of(&counters).left() != usize::MAX,
                    counters.rated.load(Ordering::Relaxed),
                    counters.rates.any(),
                ];
                torn.fetch_add(u32::from(held != [limited; 3]), Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| [&none, &some].map(|limits| scope.spawn(|| limit(limits))).map(drop));
        assert_eq!(torn.into_inner(), 0);
    }

    #[test]
    fn what_an_administrator_has_limited_stays_while_others_come() {
        let with = config(&[("acme", &["user=a"], tier("small", 15, Some(9)))]);
        let tenants = Tenants::new(&with);
        let limited = Tier { max_clients: Some(1), ..(*of_user(&tenants, "a").limits).clone() };
        tenants.named("acme").unwrap().limit(limited);
        let with_more = tenants.with_more(&with, &[]);
        assert_eq!(of_user(&with_more, "a").limits.max_clients, Some(1));
        assert_eq!(of_user(&with_more.reload(&with, &[]), "a").limits.max_clients, Some(9));
    }
}
