//! The families of events: their names, help texts and labels.
//! Names follow Prometheus' conventions: prefix, base unit, `_total` for counters.

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::{HostMetrics, PoolMetrics};

/// From a round trip on one machine to the longest tier's ceiling, with the shipped ceilings as bounds.
const BUCKETS: [f64; 20] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 15.0, 30.0, 60.0,
];

/// What the proxy itself adds is a few microseconds.
const FINE_BUCKETS: [f64; 4] = [0.000_002_5, 0.000_005, 0.000_01, 0.000_025];

const HOST: [&str; 4] = ["database", "user", "host", "role"];
const LOGIN: [&str; 2] = ["database", "user"];

pub(super) struct Families {
    queries: IntCounterVec,
    transactions: IntCounterVec,
    bytes_to_server: IntCounterVec,
    bytes_from_server: IntCounterVec,
    query_seconds: HistogramVec,
    prepared_hits: IntCounterVec,
    prepared_misses: IntCounterVec,
    connects: IntCounterVec,
    connect_failures: IntCounterVec,
    connect_seconds: HistogramVec,
    wait_seconds: HistogramVec,
    proxy_overhead_seconds: HistogramVec,
    pub(super) errors: IntCounterVec,
    pub(super) routes: IntCounterVec,
    pub(super) pins: IntCounterVec,
    pub(super) clients_accepted: IntCounter,
    pub(super) clients_refused: IntCounterVec,
    pub(super) cancels: IntCounterVec,
    pub(super) reloads: IntCounterVec,
    pub(super) primary_changes: IntCounterVec,
}

impl Families {
    pub(super) fn register(registry: &Registry, version: &str) -> Self {
        build_info(registry, version);
        let counter = |name, help, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels).expect(VALID))
        };
        let histogram = |name, help, labels: &[&str], buckets: &[&[f64]]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.concat());
            register(registry, HistogramVec::new(options, labels).expect(VALID))
        };
        let accepted = Opts::new("pgweir_client_connections_total", "Client connections accepted.");
        Self {
            queries: counter("pgweir_queries_total", "Statements run, by server.", &HOST),
            transactions: counter("pgweir_transactions_total", "Transactions finished, by server.", &HOST),
            bytes_to_server: counter("pgweir_server_sent_bytes_total", "Bytes sent to servers.", &HOST),
            bytes_from_server: counter("pgweir_server_received_bytes_total", "Bytes received from servers.", &HOST),
            query_seconds: histogram(
                "pgweir_query_duration_seconds",
                "Time from a batch's first byte to the server until its last byte back.",
                &HOST,
                &[&BUCKETS],
            ),
            prepared_hits: counter(
                "pgweir_prepared_statement_hits_total",
                "Prepared statements found prepared on the server connection.",
                &HOST,
            ),
            prepared_misses: counter(
                "pgweir_prepared_statement_misses_total",
                "Prepared statements that had to be prepared on the server connection.",
                &HOST,
            ),
            connects: counter("pgweir_server_connects_total", "Server connections opened.", &HOST),
            connect_failures: counter(
                "pgweir_server_connect_failures_total",
                "Server connections that could not be opened.",
                &HOST,
            ),
            connect_seconds: histogram(
                "pgweir_server_connect_duration_seconds",
                "Time to open a server connection: TCP, TLS and login.",
                &HOST,
                &[&BUCKETS],
            ),
            wait_seconds: histogram(
                "pgweir_pool_wait_duration_seconds",
                "Time that clients waited for a server connection.",
                &LOGIN,
                &[&BUCKETS],
            ),
            proxy_overhead_seconds: histogram(
                "pgweir_proxy_overhead_duration_seconds",
                "Time that batches spent inside the proxy, neither waiting nor on a server.",
                &LOGIN,
                &[&FINE_BUCKETS, &BUCKETS],
            ),
            errors: counter("pgweir_errors_total", "Errors sent to clients, by class of SQLSTATE.", &["class"]),
            routes: counter("pgweir_routing_decisions_total", "Routed batches, by reason.", &["target", "reason"]),
            pins: counter(
                "pgweir_session_pins_total",
                "Sessions bound to their server connection, by what bound them.",
                &["reason"],
            ),
            clients_accepted: register(registry, IntCounter::with_opts(accepted).expect(VALID)),
            clients_refused: counter(
                "pgweir_client_refusals_total",
                "Client connections that did not get through authentication, by reason.",
                &["reason"],
            ),
            cancels: counter("pgweir_cancel_requests_total", "Cancel requests from clients, by outcome.", &["outcome"]),
            primary_changes: counter(
                "pgweir_primary_changes_total",
                "Times that another server was found to be a cluster's primary.",
                &["cluster"],
            ),
            reloads: counter("pgweir_config_reloads_total", "Reloads of the configuration, by outcome.", &["outcome"]),
        }
    }

    pub(super) fn host(&self, labels: &[&str; 4]) -> HostMetrics {
        HostMetrics {
            queries: self.queries.with_label_values(labels),
            transactions: self.transactions.with_label_values(labels),
            bytes_to_server: self.bytes_to_server.with_label_values(labels),
            bytes_from_server: self.bytes_from_server.with_label_values(labels),
            query_seconds: self.query_seconds.with_label_values(labels),
            prepared_hits: self.prepared_hits.with_label_values(labels),
            prepared_misses: self.prepared_misses.with_label_values(labels),
            connects_total: self.connects.with_label_values(labels),
            connect_failures: self.connect_failures.with_label_values(labels),
            connect_seconds: self.connect_seconds.with_label_values(labels),
        }
    }

    pub(super) fn pool(&self, labels: &[&str; 2]) -> PoolMetrics {
        PoolMetrics {
            wait_seconds: self.wait_seconds.with_label_values(labels),
            proxy_overhead_seconds: self.proxy_overhead_seconds.with_label_values(labels),
        }
    }
}

/// Names and labels are constants of this module; a test builds them all.
pub(super) const VALID: &str = "a constant metric name is valid and registered once";

pub(super) fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect(VALID);
    collector
}

fn build_info(registry: &Registry, version: &str) {
    let options =
        Opts::new("pgweir_build_info", "Always 1; the label tells the version.").const_label("version", version);
    register(registry, IntGauge::with_opts(options).expect(VALID)).set(1);
}
