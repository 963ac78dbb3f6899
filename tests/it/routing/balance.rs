//! Several replicas: the least busy one is taken, and one that fails costs no read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::fixture::Fixture;
use super::talk::{Way, run, value};
use crate::support::{chain, eventually};

const SCHEMA: &str = "CREATE TABLE t AS SELECT 1 AS x";
const READ: &str = "SELECT x FROM t";

#[tokio::test]
async fn the_replica_with_the_least_work_is_taken() {
    let fixture = Fixture::start(2, SCHEMA, "", "").await;
    let (slow, quick) = (fixture.connect().await, fixture.connect().await);
    for round in 0..3 {
        let mut watch = fixture.watch();
        let sleep = format!("/* pgweir: replica */ SELECT pg_sleep(1), {round}");
        let mut slowly = std::pin::pin!(slow.simple_query(&sleep));
        let mut busy = None;
        eventually("the long read runs", async || {
            let _ = tokio::time::timeout(Duration::from_millis(1), &mut slowly).await;
            let seen = watch.take();
            busy = [1, 2].into_iter().find(|&number| seen.on_standby(number, &sleep));
            busy.is_some()
        })
        .await;
        let busy = busy.expect("it runs on one");
        for _ in 0..20 {
            value(&quick, READ).await;
        }
        let seen = watch.take();
        assert!(!seen.on_standby(busy, READ) && !seen.on_primary(READ), "replica{busy} was busy");
        assert!(seen.on_standby(3 - busy, READ));
        slowly.await.unwrap();
    }
}

#[tokio::test]
async fn equally_idle_replicas_share_the_reads() {
    let fixture = Fixture::start(2, SCHEMA, "", "").await;
    let mut watch = fixture.watch();
    for _ in 0..10 {
        // A session that has not read yet is at home nowhere.
        let client = fixture.connect().await;
        for _ in 0..4 {
            value(&client, READ).await;
        }
    }
    let seen = watch.take();
    assert!(seen.on_standby(1, READ) && seen.on_standby(2, READ) && !seen.on_primary(READ));
}

#[tokio::test]
async fn a_replica_that_is_killed_fails_no_read_and_comes_back() {
    let fixture = Fixture::start(2, SCHEMA, "", "").await;
    let replica = &fixture.sandbox.replicas()[0];
    let stream = Stream::start(&fixture).await;
    for _ in 0..3 {
        stream.goes_on().await;
        replica.kill9().await.unwrap();
        eventually("it leaves the rotation", async || fixture.proxy.metric(UP) == 0.0).await;
        stream.goes_on().await;
        replica.start().await.unwrap();
        eventually("it comes back", async || fixture.proxy.metric(UP) == 1.0).await;
        let mut watch = fixture.watch();
        eventually("it takes reads again", async || watch.take().on_standby(1, READ)).await;
    }
    stream.end().await;
}

#[tokio::test]
async fn a_replica_that_is_stopped_in_order_fails_no_read() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let replica = &fixture.sandbox.replicas()[0];
    let stream = Stream::start(&fixture).await;
    stream.goes_on().await;
    replica.stop(pgweir::sandbox::StopMode::Fast).await.unwrap();
    stream.goes_on().await;
    let mut watch = fixture.watch();
    eventually("the primary takes the reads", async || watch.take().on_primary(READ)).await;
    replica.start().await.unwrap();
    eventually("the replica takes them again", async || watch.take().on_a_standby(READ)).await;
    stream.end().await;
}

#[tokio::test]
async fn a_replica_that_hangs_fails_no_read() {
    let fixture = Fixture::start(2, SCHEMA, "", "").await;
    let replica = &fixture.sandbox.replicas()[0];
    let stream = Stream::start(&fixture).await;
    stream.goes_on().await;
    replica.pause().unwrap();
    eventually("it leaves the rotation", async || fixture.proxy.metric(UP) == 0.0).await;
    stream.goes_on().await;
    replica.resume().unwrap();
    eventually("it comes back", async || fixture.proxy.metric(UP) == 1.0).await;
    stream.end().await;
}

#[tokio::test]
async fn a_replica_that_is_promoted_takes_no_more_reads() {
    let fixture = Fixture::start(2, SCHEMA, "", "").await;
    fixture.sandbox.replicas()[0].promote().await.unwrap();
    eventually("it leaves the rotation", async || fixture.proxy.metric(UP) == 0.0).await;
    let client = fixture.connect().await;
    let mut watch = fixture.watch();
    for _ in 0..20 {
        value(&client, READ).await;
    }
    assert!(!watch.take().on_standby(1, READ));
}

#[tokio::test]
async fn without_any_replica_reads_run_on_the_primary() {
    let fixture = Fixture::start(2, SCHEMA, "", "").await;
    let client = fixture.connect().await;
    for replica in fixture.sandbox.replicas() {
        replica.kill9().await.unwrap();
    }
    for _ in 0..20 {
        assert_eq!(value(&client, READ).await, "1");
    }
    fixture.sandbox.replicas()[1].start().await.unwrap();
    let mut watch = fixture.watch();
    eventually("the one that is back takes reads", async || {
        value(&client, READ).await;
        watch.take().on_standby(2, READ)
    })
    .await;
}

/// The first replica's health, as the proxy shows it.
const UP: &str = "pgweir_replica_up{host=\"replica1\"}";
/// Clients that read at the same time, each in another way than its neighbour.
const READERS: usize = 6;

/// Clients that read one after the other until the end, and none of whose reads may fail.
struct Stream {
    readers: Vec<JoinHandle<Result<(), String>>>,
    counts: Vec<Arc<AtomicU32>>,
    ending: Arc<AtomicBool>,
}

impl Stream {
    async fn start(fixture: &Fixture) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let (mut readers, mut counts) = (Vec::new(), Vec::new());
        for number in 0..READERS {
            let client = fixture.connect().await;
            let way = [Way::Simple, Way::Unnamed, Way::Named][number % 3];
            let (count, ending) = (Arc::new(AtomicU32::new(0)), ending.clone());
            counts.push(count.clone());
            readers.push(tokio::spawn(async move {
                while !ending.load(Ordering::Relaxed) {
                    let outcome = run(&client, way, READ, &[]).await;
                    outcome.map_err(|error| format!("{way:?}: {}", chain(&error)))?;
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            }));
        }
        Self { readers, counts, ending }
    }

    /// Waits until every reader has read some more.
    async fn goes_on(&self) {
        let before: Vec<_> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        eventually("every reader goes on", async || {
            let ended = self.readers.iter().any(JoinHandle::is_finished);
            let mut pairs = self.counts.iter().zip(&before);
            // One that has ended has something to say, which the end of the test shows.
            ended || pairs.all(|(count, before)| count.load(Ordering::Relaxed) > before + 20)
        })
        .await;
    }

    async fn end(self) {
        self.ending.store(true, Ordering::Relaxed);
        for reader in self.readers {
            assert_eq!(reader.await.unwrap(), Ok(()));
        }
    }
}
