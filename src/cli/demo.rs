//! `pgweir demo`: the arguments.

use clap::Args;

/// Show the proxy at work on servers of its own
///
/// Starts a primary and two streaming standbys in a temporary directory, pgweir in front of them with
/// three tenants on three tiers, and pgbench load through it; then reports what ran where, how fast,
/// and what a tenant's timeout cut off. Everything is removed at the end, also on Ctrl-C.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct DemoArgs {
    /// Keep running after the report, and print the connection strings and the metrics address
    #[arg(long)]
    pub stay: bool,
}

const AFTER_HELP: &str = "\
Needs PostgreSQL's server programs: initdb on PATH, by `pg_config --bindir`, or under
/usr/lib/postgresql/*/bin (Debian: apt-get install postgresql). As root, the servers run as an
unprivileged user.

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments.";
