//! The families as a scraper sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::proto::MetricType;

use super::*;

struct Fixed(CensusSnapshot);

impl Census for Fixed {
    fn census(&self) -> CensusSnapshot {
        self.0.clone()
    }
}

fn clients(database: &str, user: &str, state: &'static str, count: usize) -> ClientCount {
    ClientCount { database: database.into(), user: user.into(), state, count }
}

fn snapshot() -> CensusSnapshot {
    let (database, user, host) = (String::from("shop"), String::from("app"), String::from("db1"));
    let wait = |count, seconds| WaitCount {
        database: database.clone(),
        user: user.clone(),
        count,
        longest: Duration::from_secs(seconds),
    };
    let mut tally = Tally { timeouts: 1, ..Tally::default() };
    tally.refusals[Limit::MaxClients as usize] = 2;
    CensusSnapshot {
        tenants: vec![TenantUse { tenant: "acme".into(), clients: 1, tally }],
        clients: vec![clients("shop", "app", "idle", 7), clients("shop", "app", "idle", 1)],
        waiting: vec![wait(2, 3), wait(4, 1)],
        servers: vec![ServerCount { database, user, host, role: "primary", state: "leased", count: 5 }],
        replicas: vec![
            ReplicaState {
                cluster: "main".into(),
                host: "db2".into(),
                up: true,
                lag: Some(Duration::from_millis(20)),
                lag_bytes: Some(100),
            },
            ReplicaState { cluster: "main".into(), host: "db3".into(), up: false, lag: None, lag_bytes: None },
        ],
    }
}

/// Every family with at least one sample.
fn all() -> Arc<Metrics> {
    let metrics = Metrics::new("1.2.3");
    metrics.host("shop", "app", "db1", "primary").queries.inc();
    metrics.pool("shop", "app").wait_seconds.observe(0.000_07);
    metrics.error("57014");
    metrics.routed("replica", "read");
    metrics.pinned("listen");
    metrics.client_accepted();
    metrics.client_refused("password");
    metrics.cancelled("sent");
    metrics.reloaded("ok");
    metrics.set_census(Arc::new(Fixed(snapshot())));
    metrics
}

/// Samples by name and labels, from the text itself; panics on a line that is no sample.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn names_and_units_follow_the_conventions() {
    let families = all().registry.gather();
    assert!(families.len() >= 35, "{}", families.len());
    for family in &families {
        let name = family.name();
        assert!(name.starts_with("pgweir_") || name.starts_with("process_"), "{name}");
        assert!(family.help().ends_with('.') && family.help().len() > 10, "{name}: {}", family.help());
        assert_eq!(family.get_field_type() == MetricType::COUNTER, name.ends_with("_total"), "{name}");
        if family.get_field_type() == MetricType::HISTOGRAM {
            assert!(name.ends_with("_seconds"), "{name}");
        }
        for unit in ["_ms", "_milliseconds", "_us", "_kb", "_mb", "_minutes", "_percent"] {
            assert!(!name.contains(unit), "{name}");
        }
        let labels = family.get_metric().iter().flat_map(|metric| metric.get_label());
        for label in labels {
            assert!(
                label.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{name}: {}",
                label.name()
            );
        }
    }
}

#[test]
fn what_is_counted_is_rendered() {
    let metrics = all();
    let host = metrics.host("shop", "app", "db1", "primary");
    host.queries.inc_by(2);
    host.bytes_to_server.inc_by(300);
    let samples = samples(&metrics.render());
    let host = "database=\"shop\",host=\"db1\",role=\"primary\",user=\"app\"";
    assert_eq!(samples[&format!("pgweir_queries_total{{{host}}}")], 3.0);
    assert_eq!(samples[&format!("pgweir_server_sent_bytes_total{{{host}}}")], 300.0);
    assert_eq!(samples["pgweir_errors_total{class=\"57\"}"], 1.0);
    assert_eq!(samples["pgweir_tenant_rejections_total{reason=\"max_clients\",tenant=\"acme\"}"], 2.0);
    assert_eq!(samples["pgweir_routing_decisions_total{reason=\"read\",target=\"replica\"}"], 1.0);
    let bucket = |le| {
        samples[&format!("pgweir_pool_wait_duration_seconds_bucket{{database=\"shop\",user=\"app\",le=\"{le}\"}}")]
    };
    assert_eq!([bucket("0.00005"), bucket("0.0001"), bucket("60"), bucket("+Inf")], [0.0, 1.0, 1.0, 1.0]);
}

#[test]
fn the_census_is_read_and_added_up() {
    let samples = samples(&all().render());
    let login = "database=\"shop\",user=\"app\"";
    assert_eq!(samples["pgweir_clients{database=\"shop\",state=\"idle\",user=\"app\"}"], 8.0);
    assert_eq!(samples[&format!("pgweir_waiting_clients{{{login}}}")], 6.0);
    assert_eq!(samples[&format!("pgweir_longest_wait_seconds{{{login}}}")], 3.0);
    assert_eq!(samples["pgweir_replica_up{cluster=\"main\",host=\"db3\"}"], 0.0);
    assert_eq!(samples["pgweir_replica_lag_seconds{cluster=\"main\",host=\"db2\"}"], 0.02);
    assert!(!samples.contains_key("pgweir_replica_lag_seconds{cluster=\"main\",host=\"db3\"}"));
}

#[test]
fn names_beyond_the_bound_share_one_series() {
    let metrics = Metrics::new("1.2.3");
    for number in 0..MOST_LABEL_SETS + 50 {
        metrics.pool(&format!("db{number}"), "app").wait_seconds.observe(0.1);
    }
    let clients = vec![clients("late", "app", "idle", 2), clients("later", "app", "idle", 3)];
    metrics.set_census(Arc::new(Fixed(CensusSnapshot { clients, ..CensusSnapshot::default() })));
    let samples = samples(&metrics.render());
    assert_eq!(samples["pgweir_pool_wait_duration_seconds_count{database=\"other\",user=\"other\"}"], 50.0);
    assert_eq!(samples["pgweir_clients{database=\"other\",state=\"idle\",user=\"other\"}"], 5.0);
}

#[test]
fn labels_that_clients_choose_cannot_break_the_format() {
    let metrics = Metrics::new("1.2.3");
    metrics.pool("a\"} 1\nb\\", "ü").wait_seconds.observe(0.1);
    let rendered = metrics.render();
    assert!(rendered.contains("_count{database=\"a\\\"} 1\\nb\\\\\",user=\"ü\"} 1\n"), "{rendered}");
}
