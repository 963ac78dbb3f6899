//! `pgweir check`: every mistake of a configuration, or what it says in a few lines.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::ConfigArgs;
use crate::config::{
    Config, DatabaseConfig, HostAddress, HostConfig, PoolMode, Roles, SslMode, Tier, Unknown, UserAuth, UserConfig,
    show_duration,
};

/// Check a configuration and show what it says
///
/// Prints every mistake at once, each with file, line, column, key and what was expected. Secrets are
/// looked up and files opened, but no server is contacted and nothing is changed. The same check runs
/// before `pgweir run` starts and at every reload.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct CheckArgs {
    #[command(flatten)]
    pub source: ConfigArgs,
}

const AFTER_HELP: &str = "\
Examples:
  pgweir check --config /etc/pgweir/pgweir.toml
  pgweir check --config pgweir.toml && systemctl reload pgweir
  DATABASE_URL=postgres://app:secret@10.0.0.1/shop pgweir check

Without --config FILE, the environment (DATABASE_URL and others, see `pgweir --help`) is checked.
Secrets are not shown. Warnings and mistakes go to standard error.

Exit codes: 0 valid (there may be warnings), 1 mistakes, 2 wrong arguments.";

/// Checks, prints, and says so in the exit code.
pub fn main(args: &CheckArgs) -> ExitCode {
    match args.source.load() {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            print!("{}", summary(&config));
            ExitCode::SUCCESS
        }
        Err(errors) => {
            let count = errors.iter().len();
            eprintln!("{errors}\n{count} {}", if count == 1 { "mistake" } else { "mistakes" });
            ExitCode::FAILURE
        }
    }
}

/// What holds, one topic per paragraph.
fn summary(config: &Config) -> String {
    let mut lines = vec![("clients", clients(config)), ("metrics", metrics(config))];
    lines.extend(config.clusters.values().map(|cluster| {
        let replicas: Vec<String> = cluster.replicas.iter().map(shown_host).collect();
        let consistency = cluster.consistency.name();
        let primary = shown_host(&cluster.primary);
        let hosts = match cluster.roles {
            Roles::Asked => {
                format!("hosts {}, asked who is the primary", [vec![primary], replicas].concat().join(", "))
            }
            Roles::Configured if replicas.is_empty() => format!("primary {primary}; replicas none"),
            Roles::Configured => format!("primary {primary}; replicas {}", replicas.join(", ")),
        };
        ("cluster", format!("{}: {hosts}; consistency {consistency}", cluster.name))
    }));
    lines.extend(config.databases.values().map(|database| ("database", shown_database(database))));
    lines.extend(config.users.values().map(|user| ("user", shown_user(user))));
    lines.extend(config.tenants.iter().map(|tenant| ("tenant", shown_tenant(&tenant.name, &tenant.limits))));
    lines.push(match config.tenancy.unknown {
        Unknown::Default => ("tenant", shown_tenant("everyone else", &config.default_tier)),
        Unknown::Refuse => ("tenant", "everyone else: refused".to_owned()),
    });

    let mut out = String::from("The configuration is valid.\n");
    for (topic, text) in lines {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {topic:<9} {text}");
    }
    out
}

fn clients(config: &Config) -> String {
    let listen = &config.listen;
    let mut places: Vec<String> = listen.addresses.iter().map(ToString::to_string).collect();
    places.extend(listen.unix_socket_dir.iter().map(|folder| folder.display().to_string()));
    let tls = match &listen.tls {
        None => "no TLS",
        Some(tls) if tls.required => "TLS required",
        Some(_) => "TLS offered",
    };
    format!("{}; at most {}; {tls}", places.join(", "), listen.max_clients)
}

fn metrics(config: &Config) -> String {
    config.http.as_ref().map_or_else(|| "none".to_owned(), |http| format!("http://{}/metrics", http.address))
}

/// The name, with the address where that is another word, and how it is reached.
fn shown_host(host: &HostConfig) -> String {
    let name = &host.name;
    let mode = match host.tls.mode {
        SslMode::Disable => "disable",
        SslMode::Allow => "allow",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    };
    match &host.address {
        HostAddress::Unix(path) if path.display().to_string() == *name => name.clone(),
        HostAddress::Unix(path) => format!("{name} ({})", path.display()),
        HostAddress::Tcp { host, port } if format!("{host}:{port}") == *name => format!("{name} (sslmode {mode})"),
        HostAddress::Tcp { host, port } => format!("{name} ({host} port {port}, sslmode {mode})"),
    }
}

fn shown_database(database: &DatabaseConfig) -> String {
    let name = if database.name == "*" { "every other name" } else { &database.name };
    let server_name = database.server_name.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
    let mode = match database.pool.mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
        PoolMode::Statement => "statement",
    };
    let size = database.pool.size;
    format!(
        "{name}: on {}{server_name}; {mode} mode; {size} server connections per user and host; queue {}",
        database.cluster,
        show_duration(database.pool.queue_timeout)
    )
}

fn shown_user(user: &UserConfig) -> String {
    let auth = match user.auth {
        UserAuth::Password(_) => "scram with a password",
        UserAuth::Scram(_) => "scram with a verifier",
        UserAuth::Md5(_) => "md5",
        UserAuth::Certificate => "certificate",
        UserAuth::Trust => "trust",
    };
    let databases = if user.databases.is_empty() { "every database".to_owned() } else { user.databases.join(", ") };
    let server = user.server_user.as_ref().map(|name| format!("; on the server {name}")).unwrap_or_default();
    format!("{}: {auth}; {databases}{server}", user.name)
}

fn shown_tenant(name: &str, limits: &Tier) -> String {
    let timeout = limits.statement_timeout.map_or_else(|| "none".to_owned(), |limit: Duration| show_duration(limit));
    let clients = limits.max_clients.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    let database = limits.layout.database.as_ref().map(|name| format!("; database {name}")).unwrap_or_default();
    let cluster = limits.layout.cluster.as_ref().map(|name| format!("; cluster {name}")).unwrap_or_default();
    format!("{name}: tier {}; statement_timeout {timeout}; max_clients {clients}{database}{cluster}", limits.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layout, load};

    #[test]
    fn a_tenants_place_is_shown() {
        let layout = Layout { cluster: Some("eu".to_owned()), database: Some("acme_db".to_owned()) };
        let shown = shown_tenant("acme", &Tier { layout, ..Tier::unlimited("gold") });
        assert_eq!(
            shown,
            "acme: tier gold; statement_timeout none; max_clients no limit; database acme_db; cluster eu"
        );
    }

    #[test]
    fn the_summary_of_the_reference_file() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pgweir.toml");
        let config = load(&path, &|_| Some("a secret".to_owned())).unwrap();
        let expected = "\
The configuration is valid.
  clients   127.0.0.1:6432; at most 10000; no TLS
  metrics   http://127.0.0.1:9127/metrics
  cluster   main: primary db1 (10.0.0.1 port 5432, sslmode prefer); replicas 10.0.0.2:5432 (sslmode prefer), 10.0.0.3:5432 (sslmode prefer); consistency session
  database  app: on main; transaction mode; 40 server connections per user and host; queue 5s
  user      acme: scram with a password; every database
  user      app: scram with a password; every database
  tenant    acme: tier enterprise; statement_timeout 1min; max_clients no limit
  tenant    reports: tier professional; statement_timeout 30s; max_clients no limit
  tenant    nightly: tier standard; statement_timeout 15s; max_clients 1000
  tenant    everyone else: tier standard; statement_timeout 15s; max_clients 1000
";
        assert_eq!(summary(&config), expected);
    }
}
