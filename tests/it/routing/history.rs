//! What concurrent sessions read and wrote while standbys were held back, killed and started again, checked afterwards:
//! no read may miss a write that it had to see, and no session may go back in time. The same run under `eventual` must
//! break both, or the check would prove nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::fixture::Fixture;
use crate::support::{chain, connect};

/// Each holds the number of writes that it has seen.
const REGISTERS: usize = 4;
const SESSIONS: usize = 8;
/// Of each session.
const STEPS: usize = 300;
const TENANTS: [&str; 2] = ["red", "blue"];
const SCHEMA: &str = "CREATE TABLE r AS SELECT id, 0::int8 AS v FROM generate_series(1, 4) id;
    ALTER TABLE r ADD PRIMARY KEY (id);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_misses_none_of_its_writes_and_never_goes_back() {
    let run = Run::play("session").await;
    assert_eq!(run.missed(|write, read| write.session == read.session), Vec::<String>::new());
    assert_eq!(run.went_back(), Vec::<String>::new());
    assert!(run.on_replicas > 100.0, "{} reads went to replicas", run.on_replicas);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_misses_none_of_its_writes_and_never_goes_back() {
    let run = Run::play("tenant").await;
    assert_eq!(run.missed(|write, read| write.tenant() == read.tenant()), Vec::<String>::new());
    assert_eq!(run.went_back(), Vec::<String>::new());
    assert!(run.on_replicas > 10.0, "{} reads went to replicas", run.on_replicas);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_either_promise_the_check_finds_what_is_missed() {
    let run = Run::play("eventual").await;
    assert!(!run.missed(|write, read| write.session == read.session).is_empty());
    assert!(!run.went_back().is_empty());
}

/// What a session did, and when it knew of it.
#[derive(Debug, Clone)]
struct Event {
    session: usize,
    began: Instant,
    ended: Instant,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    /// Made the register this old.
    Wrote { register: usize, version: i64 },
    /// Of all registers.
    Read([i64; REGISTERS]),
}

impl Event {
    fn tenant(&self) -> usize {
        self.session % TENANTS.len()
    }
}

/// All that happened.
struct Run {
    /// By session, in the order of its own doing.
    sessions: Vec<Vec<Event>>,
    on_replicas: f64,
}

impl Run {
    async fn play(consistency: &str) -> Self {
        let tenants =
            TENANTS.map(|name| format!("[[tenants]]\nname = \"{name}\"\nmatch = {{ option = \"{name}\" }}\n"));
        let fixture = Fixture::start(2, SCHEMA, &tenants.concat(), &format!("consistency = \"{consistency}\"")).await;
        let before = fixture.proxy.metric(ON_REPLICAS);
        let ending = Arc::new(AtomicBool::new(false));
        let sessions: Vec<_> = (0..SESSIONS)
            .map(|number| {
                let url = format!("{}?options=-c%20pgweir.tenant%3D{}", fixture.url(), TENANTS[number % TENANTS.len()]);
                tokio::spawn(async move { act(number, &connect(&url).await).await })
            })
            .collect();
        let trouble = trouble(&fixture, &ending);
        let acted = async {
            let mut all = Vec::new();
            for session in sessions {
                all.push(session.await.unwrap());
            }
            ending.store(true, Ordering::Relaxed);
            all
        };
        let (sessions, ()) = tokio::join!(acted, trouble);
        Self { sessions, on_replicas: fixture.proxy.metric(ON_REPLICAS) - before }
    }

    /// Reads that do not show a write which was answered before they began, where `had_to` says so.
    fn missed(&self, had_to: impl Fn(&Event, &Event) -> bool) -> Vec<String> {
        let events = || self.sessions.iter().flatten();
        let mut missed = Vec::new();
        for read in events() {
            let What::Read(versions) = read.what else { continue };
            let misses = events().find(|write| match write.what {
                What::Wrote { register, version } => {
                    write.ended < read.began && versions[register] < version && had_to(write, read)
                }
                What::Read(_) => false,
            });
            missed.extend(misses.map(|write| format!("{read:?} misses {write:?}")));
        }
        missed
    }

    /// Reads that show less than the session's read before.
    fn went_back(&self) -> Vec<String> {
        let mut went_back = Vec::new();
        for session in &self.sessions {
            let mut known = [0; REGISTERS];
            for event in session {
                let What::Read(versions) = event.what else { continue };
                if versions.iter().zip(known).any(|(now, before)| *now < before) {
                    went_back.push(format!("{event:?} after {known:?}"));
                }
                known = versions;
            }
        }
        went_back
    }
}

const ON_REPLICAS: &str = "pgweir_routing_decisions_total{target=\"replica\"}";

/// Reads and writes at random, now in a hurry and now not.
async fn act(number: usize, client: &Client) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(number as u64);
    let prepared = client.prepare("SELECT v FROM r ORDER BY id").await.unwrap();
    let mut events = Vec::new();
    for _ in 0..STEPS {
        let began = Instant::now();
        let what = if random.random_bool(0.1) {
            let register = random.random_range(0..REGISTERS);
            let sql = format!("UPDATE r SET v = v + 1 WHERE id = {} RETURNING v", register + 1);
            What::Wrote { register, version: numbers(client, &sql).await[0] }
        } else if random.random_bool(0.5) {
            let rows = client.query(&prepared, &[]).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
            What::Read(std::array::from_fn(|register| rows[register].get(0)))
        } else {
            What::Read(numbers(client, "SELECT v FROM r ORDER BY id").await.try_into().unwrap())
        };
        events.push(Event { session: number, began, ended: Instant::now(), what });
        if random.random_bool(0.3) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        }
    }
    events
}

async fn numbers(client: &Client, sql: &str) -> Vec<i64> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", chain(&error)));
    let number = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0)?.parse().unwrap()),
        _ => None,
    };
    messages.iter().filter_map(number).collect()
}

/// One standby lags all the time, the other one stops to replay, is killed, and comes back.
async fn trouble(fixture: &Fixture, ending: &AtomicBool) {
    let [changing, late] = fixture.sandbox.replicas() else { panic!("two standbys") };
    late.psql("ALTER SYSTEM SET recovery_min_apply_delay = '40ms'").await.unwrap();
    late.psql("SELECT pg_reload_conf()").await.unwrap();
    for round in 0.. {
        changing.pause_replay().await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        changing.resume_replay().await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        if round % 4 == 1 {
            changing.kill9().await.unwrap();
            changing.start().await.unwrap();
        }
        if ending.load(Ordering::Relaxed) {
            return;
        }
    }
}
