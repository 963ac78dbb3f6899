//! What the demo tells.

use std::fmt::Write;
use std::time::Duration;

use super::load::{Answer, Kind, Run};
use super::scene::{POOL_SIZE, Scene, Tenant};

/// Who takes part.
pub(super) fn cast(scene: &Scene) -> String {
    let mut text = String::from("\nThree tenants share one database, each on a tier of its own:\n");
    for Tenant { name, tier, timeout, .. } in &scene.tenants {
        line(&mut text, format_args!("  {name:<10} {tier:<14} a statement may run for {timeout}"));
    }
    let (writers, readers) = (Kind::Writes.clients(), Kind::Reads.clients());
    line(
        &mut text,
        format_args!(
            "\nRunning pgbench for all of them at once through pgweir: {writers} clients each that write (TPC-B-like),\n\
             then {readers} clients each that read (select-only) ..."
        ),
    );
    text
}

/// Everything that was measured.
pub(super) fn summary(scene: &Scene, runs: &[Run], cut: &Answer) -> String {
    let mut text = String::new();
    for run in runs {
        connections(&mut text, run);
    }
    statements(&mut text, runs);
    latencies(&mut text, scene, runs);
    timeout(&mut text, scene, cut);
    text
}

/// How to go on by hand.
pub(super) fn invitation(scene: &Scene) -> String {
    let mut text = String::from("\nTRY IT (Ctrl-C ends everything and removes it)\n");
    for tenant in scene.tenants.iter().chain([&scene.trial]) {
        let target = scene.target(tenant);
        line(
            &mut text,
            format_args!(
                "  psql postgres://{}:{}@{}:{}/{}",
                target.user, target.password, target.host, target.port, target.database
            ),
        );
    }
    if let Some(address) = scene.app.metrics_address() {
        line(&mut text, format_args!("\n  curl http://{address}/metrics    (and /healthz, /readyz)"));
    }
    line(&mut text, format_args!("  configuration: {}", scene.config_path.display()));
    let hosts: Vec<_> =
        scene.sandbox.servers().iter().map(|server| format!("{} on {}", server.name, server.port)).collect();
    line(&mut text, format_args!("  servers: {}, superuser postgres", hosts.join(", ")));
    text.push_str(
        "\n  SELECT current_setting('cluster_name');              where am I? asked of the primary, for the answer differs\n  \
         SELECT count(*) FROM pgbench_accounts;                a read: runs on a standby\n  \
         UPDATE pgbench_branches SET bbalance = 0;             a write: runs on the primary\n",
    );
    text
}

fn connections(text: &mut String, run: &Run) {
    let connections = &run.connections;
    line(
        text,
        format_args!(
            "\nCONNECTIONS while {}\n  {:>6} clients connected to pgweir\n  {:>6} server connections of pgweir's, at most \
             {POOL_SIZE} for each tenant on each server ({} by the servers' own pg_stat_activity)",
            match run.kind {
                Kind::Writes => "writing",
                Kind::Reads => "reading",
            },
            connections.clients,
            connections.servers,
            connections.backends
        ),
    );
}

fn statements(text: &mut String, runs: &[Run]) {
    text.push_str(
        "\nSTATEMENTS by server: counted by the server itself (pg_stat_statements), and by pgweir's metrics\n",
    );
    let title = |kind| match kind {
        Kind::Writes => "writing",
        Kind::Reads => "reading",
    };
    let titles: String = runs.iter().map(|run| format!(" {:>14} {:>12}", title(run.kind), "(metrics)")).collect();
    line(text, format_args!("  {:<10}{titles}", ""));
    for index in 0..runs.first().map_or(0, |run| run.hosts.len()) {
        let host = runs.first().and_then(|run| run.hosts.get(index)).map_or("", |count| &count.host);
        let counts: String = runs
            .iter()
            .filter_map(|run| run.hosts.get(index))
            .map(|count| {
                format!(" {:>14} {:>12}", grouped(count.by_server), format!("({})", grouped(count.by_metrics)))
            })
            .collect();
        line(text, format_args!("  {host:<10}{counts}"));
    }
}

fn latencies(text: &mut String, scene: &Scene, runs: &[Run]) {
    line(
        text,
        format_args!(
            "\nLATENCY of a transaction as pgbench saw it, in milliseconds (one machine runs everything)\n  {:<10} {:<8} \
             {:>8} {:>15} {:>8} {:>8} {:>8}",
            "tenant", "", "clients", "transactions/s", "p50", "p95", "p99"
        ),
    );
    for run in runs {
        let kind = match run.kind {
            Kind::Writes => "writes",
            Kind::Reads => "reads",
        };
        for (tenant, report) in scene.tenants.iter().zip(&run.tenants) {
            // None of a run in which no transaction was sampled.
            let times = report.latencies.map(|found| [found.p50, found.p95, found.p99].map(milliseconds));
            let [p50, p95, p99] = times.unwrap_or_else(|| std::array::from_fn(|_| "-".to_owned()));
            let (clients, rate) = (run.kind.clients(), report.tps);
            line(
                text,
                format_args!("  {:<10} {kind:<8} {clients:>8} {rate:>15.0} {p50:>8} {p95:>8} {p99:>8}", tenant.name),
            );
        }
    }
}

fn timeout(text: &mut String, scene: &Scene, cut: &Answer) {
    let Tenant { name, timeout, .. } = &scene.trial;
    line(
        text,
        format_args!(
            "\nTIMEOUT\n  A fourth tenant, {name}, may run a statement for {timeout} (so that you need not wait for the others'). It sent\n    \
             SET statement_timeout = 0; SELECT pg_sleep(30);\n  and this came back after {:.1} s:",
            cut.took.as_secs_f64()
        ),
    );
    // Where in the server's source it was raised concerns nobody here.
    for said in cut.text.lines().filter(|line| !line.starts_with("LOCATION:")) {
        line(text, format_args!("    {said}"));
    }
    let counted = scene.metrics().sum("pgweir_tenant_statement_timeouts_total", &[("tenant", name)]);
    line(text, format_args!("  pgweir_tenant_statement_timeouts_total{{tenant=\"{name}\"}} {counted}"));
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1e3)
}

/// `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, expected) in cases {
            assert_eq!(grouped(number), expected);
        }
        assert_eq!(milliseconds(Duration::from_micros(1_234)), "1.23");
    }
}
