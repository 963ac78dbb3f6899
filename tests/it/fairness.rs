//! Tenants that share server connections: who is served next, and how many each may have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::{Client, Error};

use crate::support::primary_only::{config, proxy, sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::{TestDatabase, connect, eventually, fresh_database, shared_cluster};

/// Clients that run a statement again and again, until dropped.
struct Flood {
    done: Arc<AtomicUsize>,
    _clients: JoinSet<()>,
}

impl Flood {
    async fn start(url: &str, clients: usize, sql: &'static str) -> Self {
        let done = Arc::<AtomicUsize>::default();
        let mut set = JoinSet::new();
        for _ in 0..clients {
            let (client, done) = (connect(url).await, done.clone());
            set.spawn(async move {
                while client.batch_execute(sql).await.is_ok() {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { done, _clients: set }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}

/// Server connections of pgweir's pools to these databases, in any state, or at work.
async fn connections(databases: &[&str], at_work: bool) -> usize {
    let names = databases.join("', '");
    let state = if at_work { "AND state <> 'idle'" } else { "" };
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('{names}') AND backend_type = 'client backend' \
         AND application_name NOT LIKE 'pgweir %' {state}"
    );
    shared_cluster().await.primary().psql(&sql).await.unwrap().trim().parse().unwrap()
}

fn by_option(url: &str, tenant: &str) -> String {
    format!("{url}?options=-c%20pgweir.tenant%3D{tenant}")
}

const TENANTS: &str = "[tiers.standard]\n[tenancy]\nidentify = [{ option = \"*\" }]\n[[tenants]]\nname = \"heavy\"\n";

/// One after the other, every short statement would wait for at least one of the long ones.
#[tokio::test]
async fn short_statements_do_not_wait_for_anothers_long_ones() {
    let database = fresh_database("").await;
    let proxy =
        proxy(&format!("{TENANTS}[[tenants]]\nname = \"light\"\n[pool]\nsize = 4\nqueue_timeout = \"60s\"\n")).await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let heavy = Flood::start(&by_option(&url, "heavy"), 20, "SELECT pg_sleep(1)").await;
    let light = connect(&by_option(&url, "light")).await;
    eventually("all connections are at work", async || connections(&[&database.name], true).await == 4).await;
    // Nobody is cut off.
    value(&light, "SELECT 1").await;
    let before = heavy.done();
    for _ in 0..200 {
        value(&light, "SELECT 1").await;
    }
    let meanwhile = heavy.done() - before;
    assert!(meanwhile < 50, "{meanwhile} long statements were done during 200 short ones");
    // The heavy one has all the others.
    eventually("the others are at work", async || connections(&[&database.name], true).await == 3).await;
    drop(light);
    eventually("what nobody needs is used", async || connections(&[&database.name], true).await == 4).await;
}

#[tokio::test]
async fn what_is_promised_to_a_tenant_is_there_when_it_comes() {
    let database = fresh_database("").await;
    let more = "[[tenants]]\nname = \"light\"\nmin_server_connections = 1\n[pool]\nsize = 3\nqueue_timeout = \"60s\"\n";
    let proxy = proxy(&format!("{TENANTS}{more}")).await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let light = connect(&by_option(&url, "light")).await;
    let heavy = Flood::start(&by_option(&url, "heavy"), 10, "SELECT pg_sleep(5)").await;
    eventually("the heavy one is at work", async || connections(&[&database.name], true).await == 2).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(connections(&[&database.name], true).await, 2);
    value(&light, "SELECT 1").await;
    assert_eq!(heavy.done(), 0, "it did not have to wait");
    drop(light);
    eventually("it is promised to nobody", async || connections(&[&database.name], true).await == 3).await;
}

/// Nor does one that has drawn from a sequence, whose connection waits for it.
#[tokio::test]
async fn what_is_promised_to_a_tenant_is_not_taken_for_the_values_of_sequences() {
    let database = fresh_database("CREATE SEQUENCE counted").await;
    let more = "[[tenants]]\nname = \"light\"\nmin_server_connections = 1\n[pool]\nsize = 2\nqueue_timeout = \"60s\"\n";
    let proxy = proxy(&format!("{TENANTS}{more}")).await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let (holder, draws) = (connect(&by_option(&url, "heavy")).await, connect(&by_option(&url, "heavy")).await);
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let drawn = value(&draws, "SELECT nextval('counted')").await;
    let light = connect(&by_option(&url, "light")).await;
    let asks = tokio::spawn(async move { value(&draws, "SELECT currval('counted')").await });
    let series = "pgweir_waiting_clients{database=\"DB\",user=\"postgres\"}".replace("DB", &database.name);
    eventually("it waits", async || proxy.metric(&series) == 1.0).await;
    value(&light, "SELECT 1").await;
    assert!(!asks.is_finished());
    // When it has its turn the values are there.
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(asks.await.unwrap(), drawn);
}

#[tokio::test]
async fn a_tenant_uses_no_more_server_connections_than_it_may() {
    let (one, two) = (fresh_database("").await, fresh_database("").await);
    let more = "max_server_connections = 2\n[[tenants]]\nname = \"light\"\n[pool]\nqueue_timeout = \"2s\"\n";
    let proxy = proxy(&format!("{TENANTS}{more}")).await;
    let urls = [&one, &two].map(|database| (&database.name, database));
    let url = async |database: &str| by_option(&proxy.url(shared_cluster().await, "postgres", database), "heavy");
    let clients: Vec<Client> = {
        let mut clients = Vec::new();
        for (name, _) in urls.iter().cycle().take(8) {
            clients.push(connect(&url(name).await).await);
        }
        clients
    };
    // Over all its pools.
    let most = Arc::<AtomicUsize>::default();
    let mut set = JoinSet::new();
    for client in clients {
        set.spawn(async move { client.batch_execute("SELECT pg_sleep(0.2)").await });
    }
    while !set.is_empty() {
        most.fetch_max(connections(&[&one.name, &two.name], true).await, Ordering::Relaxed);
        while let Some(outcome) = set.try_join_next() {
            outcome.unwrap().unwrap();
        }
    }
    assert!((1..=2).contains(&most.load(Ordering::Relaxed)), "{most:?}");

    let (first, second, third) = (
        connect(&url(&one.name).await).await,
        connect(&url(&one.name).await).await,
        connect(&url(&two.name).await).await,
    );
    for client in [&first, &second] {
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    }
    let error = third.batch_execute("SELECT 1").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.severity()), ("53300", "ERROR"));
    assert_eq!(error.message(), "too many server connections for tenant \"heavy\": 2 are in use, 2 allowed");
    assert!(error.hint().unwrap().contains("max_server_connections"), "{error:?}");
    first.batch_execute("COMMIT").await.unwrap();
    third.batch_execute("SELECT 1").await.unwrap();
    let other = connect(&by_option(&proxy.url(shared_cluster().await, "postgres", &one.name), "light")).await;
    other.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_full_queue_sends_away_who_came_first_where_all_may_wait_as_long() {
    let database = fresh_database("").await;
    for (tenants, pool) in
        [("queue_length = 2\n", ""), ("", "queue_length = 2\n"), ("queue_length = 2\nmax_server_connections = 1\n", "")]
    {
        let more = format!("{TENANTS}{tenants}[pool]\nsize = 1\nqueue_timeout = \"60s\"\n{pool}");
        let proxy = proxy(&more).await;
        let url = by_option(&proxy.url(shared_cluster().await, "postgres", &database.name), "heavy");
        let holder = connect(&url).await;
        holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
        let mut waiting = Vec::new();
        for number in 1..=3 {
            let client = connect(&url).await;
            waiting.push(tokio::spawn(async move { client.batch_execute("SELECT 1").await }));
            let series = "pgweir_waiting_clients{database=\"DB\",user=\"postgres\"}".replace("DB", &database.name);
            eventually("it waits", async || number == 3 || proxy.metric(&series) == f64::from(number.min(2))).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let error = waiting.remove(0).await.unwrap().unwrap_err();
        assert_eq!(sqlstate(&error), "53300", "{tenants}{pool}");
        let error = error.as_db_error().unwrap();
        assert!(error.hint().unwrap().contains("queue_length"), "{error:?}");
        let detail = error.detail().unwrap();
        assert!(detail.contains("2 may wait"), "{error:?}");
        // In the pool's queue only those of one tenant are compared.
        assert_eq!(detail.contains("of the tenant that has most there"), tenants.is_empty(), "{error:?}");
        holder.batch_execute("COMMIT").await.unwrap();
        for client in waiting {
            client.await.unwrap().unwrap();
        }
    }
}

/// A client of the heavy tenant, which waits beside so many.
async fn waits(proxy: &Proxy, database: &TestDatabase, all: f64) -> JoinHandle<Result<(), Error>> {
    let url = by_option(&proxy.url(shared_cluster().await, "postgres", &database.name), "heavy");
    let client = connect(&url).await;
    let waiting = tokio::spawn(async move { client.batch_execute("SELECT 1").await });
    let series = "pgweir_waiting_clients{database=\"DB\",user=\"postgres\"}".replace("DB", &database.name);
    eventually("it waits", async || proxy.metric(&series) == all).await;
    waiting
}

/// A tenant's queue is one, wherever its clients wait, and who waits keeps no connection from the others.
#[tokio::test]
async fn a_tenant_waits_in_one_queue_over_all_pools() {
    let (one, two) = (fresh_database("").await, fresh_database("").await);
    let more = "max_server_connections = 1\nqueue_length = 2\n[[tenants]]\nname = \"light\"\n\
        [pool]\nsize = 1\nqueue_timeout = \"60s\"\n";
    let proxy = proxy(&format!("{TENANTS}{more}")).await;
    let url = async |database: &str, tenant: &str| {
        by_option(&proxy.url(shared_cluster().await, "postgres", database), tenant)
    };
    // Of another tenant, which has all that there is in the first.
    let holder = connect(&url(&one.name, "light").await).await;
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let first = waits(&proxy, &one, 1.0).await;
    let other = connect(&url(&two.name, "heavy").await).await;
    other.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let second = waits(&proxy, &two, 1.0).await;
    // One too many: the time of the first is over first.
    let third = waits(&proxy, &two, 2.0).await;
    let error = first.await.unwrap().unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "53300");
    assert!(error.detail().unwrap().contains("2 may wait"), "{error:?}");
    let fourth = waits(&proxy, &one, 1.0).await;
    assert_eq!(sqlstate(&second.await.unwrap().unwrap_err()), "53300");
    // Here it lacks a connection and there the right to one.
    other.batch_execute("COMMIT").await.unwrap();
    third.await.unwrap().unwrap();
    other.batch_execute("BEGIN; SELECT 1").await.unwrap();
    holder.batch_execute("COMMIT").await.unwrap();
    holder.batch_execute("SELECT 1").await.unwrap();
    assert!(!fourth.is_finished());
    other.batch_execute("COMMIT").await.unwrap();
    fourth.await.unwrap().unwrap();
}

/// More than there is: two are left to each, and to everybody else there is one.
#[tokio::test]
async fn what_is_promised_beyond_what_a_host_may_have_is_kept_in_part() {
    let databases = [fresh_database("").await, fresh_database("").await, fresh_database("").await];
    let cluster = shared_cluster().await;
    let promised = ["one", "two"].map(|name| format!("[[tenants]]\nname = \"{name}\"\nmin_server_connections = 4\n"));
    let more = format!("{TENANTS}{}[pool]\nsize = 10\nqueue_timeout = \"60s\"\n", promised.concat());
    let text = config(cluster, &more, &["postgres"]);
    // One of them is for what pgweir asks; without replicas nobody keeps watch.
    let proxy = Proxy::start(&text.replace("[clusters.main]", "[clusters.main]\nmax_server_connections = 6")).await;
    let url = |at: usize, tenant: &str| by_option(&proxy.url(cluster, "postgres", &databases[at].name), tenant);
    let mut promised = Vec::new();
    for (at, tenant) in [(0, "one"), (0, "one"), (1, "two"), (1, "two")] {
        promised.push(connect(&url(at, tenant)).await);
    }
    let heavy = Flood::start(&url(2, "heavy"), 10, "SELECT pg_sleep(5)").await;
    let at_work = async || connections(&[&databases[2].name], true).await;
    eventually("the heavy one is at work", async || at_work().await == 1).await;
    for client in &promised {
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    }
    assert_eq!((heavy.done(), at_work().await), (0, 1), "they did not have to wait");
    eventually("it has its turn", async || heavy.done() > 0).await;
    for client in &promised {
        client.batch_execute("COMMIT").await.unwrap();
    }
    drop(promised);
    eventually("it is promised to nobody", async || at_work().await > 3).await;
}

/// Not who came first, where others would wait for less time.
#[tokio::test]
async fn a_tenants_full_queue_sends_away_whose_time_is_over_first() {
    let (one, two) = (fresh_database("").await, fresh_database("").await);
    let more = format!(
        "{TENANTS}max_server_connections = 1\nqueue_length = 2\n[pool]\nqueue_timeout = \"600s\"\n\
         [databases.\"*\"]\ncluster = \"main\"\n[databases.{two}]\ncluster = \"main\"\n\
         [databases.{two}.pool]\nqueue_timeout = \"300s\"\n",
        two = two.name
    );
    let proxy = proxy(&more).await;
    let holder = connect(&by_option(&proxy.url(shared_cluster().await, "postgres", &one.name), "heavy")).await;
    holder.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let first = waits(&proxy, &one, 1.0).await;
    let second = waits(&proxy, &two, 1.0).await;
    let third = waits(&proxy, &one, 2.0).await;
    let error = second.await.unwrap().unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "53300");
    assert!(error.detail().unwrap().contains("2 may wait"), "{error:?}");
    holder.batch_execute("COMMIT").await.unwrap();
    for client in [first, third] {
        client.await.unwrap().unwrap();
    }
}

/// Three pools that want all there is, and one that wants little.
#[tokio::test]
async fn pools_share_what_their_host_may_have() {
    let mut databases = Vec::new();
    for _ in 0..4 {
        databases.push(fresh_database("").await);
    }
    let names: Vec<_> = databases.iter().map(|database| database.name.as_str()).collect();
    let cluster = shared_cluster().await;
    // Beside those of the pools each database has one for its catalog.
    let text = config(cluster, "[pool]\nsize = 10\nqueue_timeout = \"60s\"\n", &["postgres"]);
    let text = text.replace("[clusters.main]", "[clusters.main]\nmax_server_connections = 100");
    // This host has fewer than others would.
    let text = text.replace("name = \"primary\" }", "name = \"primary\", max_server_connections = 9 }");
    assert!(text.contains("max_server_connections = 9 }"));
    let proxy = Proxy::start(&text).await;
    let url = async |name: &str| proxy.url(cluster, "postgres", name);
    let (most, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let watch = {
        let (most, stop) = (most.clone(), stop.clone());
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        tokio::spawn(async move {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            while stop.load(Ordering::Relaxed) == 0 {
                most.fetch_max(connections(&names, false).await, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let mut floods = Vec::new();
    for name in &names[..3] {
        floods.push(Flood::start(&url(name).await, 15, "SELECT pg_sleep(0.05)").await);
    }
    let light = connect(&url(names[3]).await).await;
    value(&light, "SELECT 1").await;
    let before: Vec<_> = floods.iter().map(Flood::done).collect();
    eventually("each has its share", async || {
        floods.iter().zip(&before).all(|(flood, before)| flood.done() - before > 40)
    })
    .await;
    // It does not wait for the others, as it has not been idle for long.
    let before: usize = floods.iter().map(Flood::done).sum();
    for _ in 0..200 {
        value(&light, "SELECT 1").await;
    }
    let meanwhile = floods.iter().map(Flood::done).sum::<usize>() - before;
    assert!(meanwhile < 200, "{meanwhile} long statements were done during 200 short ones");
    drop(floods);
    // Idle connections of the others make room.
    let mut set = JoinSet::new();
    for _ in 0..5 {
        let client = connect(&url(names[3]).await).await;
        set.spawn(async move { client.batch_execute("SELECT pg_sleep(0.5)").await });
    }
    while let Some(outcome) = set.join_next().await {
        outcome.unwrap().unwrap();
    }
    stop.store(1, Ordering::Relaxed);
    watch.await.unwrap();
    let most = most.load(Ordering::Relaxed);
    assert!((5..=9).contains(&most), "{most} connections");
}
