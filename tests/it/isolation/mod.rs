//! Tenants that share two server connections, with aborts, cancels, timeouts, cut sockets and lost servers among their
//! transactions: not one row and not one setting of another's.

mod bytes;
mod kinds;
mod model;
mod scene;
mod visitor;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;

use kinds::Then;
use scene::{CLIENTS, Scene};
use visitor::{Identity, Outcome, Random, Visitor};

/// As pgweir counts them; by hand 100,000 (`PGWEIR_ISOLATION_TRANSACTIONS`).
const TRANSACTIONS: usize = 8_000;

/// Kinds of transactions for which a client stays at most.
const STAYS: usize = 10;

/// What has happened.
#[derive(Default)]
struct Counts {
    cut: AtomicUsize,
    lost: AtomicUsize,
    ended: AtomicUsize,
    over: AtomicBool,
}

#[tokio::test]
async fn interleaved_transactions_are_kept_apart() {
    let wanted = std::env::var("PGWEIR_ISOLATION_TRANSACTIONS").ok().map(|count| count.parse().unwrap());
    let transactions: usize = wanted.unwrap_or(TRANSACTIONS);
    let scene = Arc::new(Scene::set().await);
    let counts = Arc::<Counts>::default();
    let administrator = tokio::spawn(end_processes(scene.clone(), counts.clone()));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (scene, counts) = (scene.clone(), counts.clone());
        let identity = Identity::new(scene.clone(), number);
        clients.spawn(async move {
            let mut random = Random(number as u64 + 1);
            while scene.transactions() < transactions {
                let seed = random.below(u64::MAX);
                if comes_and_goes(&identity, random, &counts).await.is_err() {
                    counts.lost.fetch_add(1, Relaxed);
                }
                random = Random(seed);
            }
        });
    }
    while let Some(outcome) = clients.join_next().await {
        if let Err(error) = outcome {
            clients.shutdown().await;
            panic!("{error}");
        }
    }
    counts.over.store(true, Relaxed);
    administrator.await.unwrap();
    let done = scene.transactions();
    let [cut, lost, ended] = [&counts.cut, &counts.lost, &counts.ended].map(|count| count.load(Relaxed));
    println!("{done} transactions, {cut} connections cut, {lost} lost by {ended} ends of server processes");
    assert!(done >= transactions && cut >= CLIENTS);
    // Whoever has lost a server connection has lost one of these.
    assert!(lost <= ended, "{lost} clients have lost {ended} server processes");
    scene.is_sound().await;
}

/// An administrator ends server processes now and then.
async fn end_processes(scene: Arc<Scene>, counts: Arc<Counts>) {
    while !counts.over.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Before it is done: whoever loses it may be faster.
        counts.ended.fetch_add(1, Relaxed);
        scene.ends_a_process().await;
    }
}

/// One connection of a client, from its login until it is cut.
async fn comes_and_goes(identity: &Identity, random: Random, counts: &Counts) -> Outcome {
    let mut visitor = Visitor::arrive(identity, random).await?;
    for _ in 0..STAYS {
        if visitor.tarries && visitor.random.one_in(3) {
            break;
        }
        let then = visitor.does_something().await?;
        if then == Then::Leaves {
            break;
        }
    }
    let random = visitor.leaves().await;
    counts.cut.fetch_add(1, Relaxed);
    bytes::speak(identity, random).await
}
