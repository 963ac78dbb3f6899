//! Making the data directories of a sandbox and what PostgreSQL reads in them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::account::Account;
use super::certificates::Certificates;
use super::error::{Doing, SandboxError};
use super::server::{SUPERUSER, Server};
use super::sql::setting;
use super::tools::{self, Tools};
use super::{SandboxOptions, users};

/// In the sandbox's directory.
const TLS: &str = "tls";
pub(super) const AUTHORITY: &str = "tls/authority.crt";

/// Makes the data directories of a primary and its standbys, configured and ready to start.
///
/// `initdb` runs once, and each standby gets a copy: before its first start a cluster is a complete and
/// consistent backup of itself, so this is what `pg_basebackup` would give, sooner.
pub(super) async fn data_directories(
    tools: &Tools,
    servers: &[Server],
    superuser_password: &str,
    options: &SandboxOptions,
) -> Result<(), SandboxError> {
    let Some((primary, replicas)) = servers.split_first() else { return Ok(()) };
    initdb(tools, primary.data_directory(), superuser_password).await?;
    for replica in replicas {
        copy(tools, primary.data_directory(), replica.data_directory()).await?;
    }
    for server in servers {
        let write = |file: &str, content: &str| tools.account.write(&server.data_directory().join(file), content);
        write("postgresql.conf", &configuration(tools, server, options))?;
        write("pg_hba.conf", &users::hba(&options.hba, options.tls))?;
    }
    for replica in replicas {
        let write = |file: &str, content: &str| tools.account.write(&replica.data_directory().join(file), content);
        write("postgresql.auto.conf", &setting("primary_conninfo", &replica.conninfo(primary)))?;
        write("standby.signal", "")?;
    }
    Ok(())
}

/// Writes what `ssl_ca_file`, `ssl_cert_file` and `ssl_key_file` will name.
pub(super) fn tls_files(certificates: &Certificates, account: Account, home: &Path) -> Result<(), SandboxError> {
    account.make_directory(&home.join(TLS))?;
    account.write(&home.join(AUTHORITY), &certificates.authority)?;
    account.write(&home.join(TLS).join("server.crt"), &certificates.server.certificate)?;
    account.write(&home.join(TLS).join("server.key"), &certificates.server.key)
}

async fn initdb(tools: &Tools, data: &Path, password: &str) -> Result<(), SandboxError> {
    let password_file = tools.directory.join("password");
    tools.account.write(&password_file, password)?;
    // The servers' user may not write in the sandbox's directory itself.
    tools.account.make_directory(data)?;
    let mut initdb = tools.server("initdb")?;
    initdb
        .args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8"])
        .args(["--auth-local=trust", "--auth-host=scram-sha-256", "--username", SUPERUSER])
        .arg("--pwfile")
        .arg(&password_file)
        .arg("--pgdata")
        .arg(data);
    tools::output(initdb).await?;
    fs::remove_file(&password_file).doing(|| format!("remove {}", password_file.display()))
}

async fn copy(tools: &Tools, from: &Path, to: &Path) -> Result<(), SandboxError> {
    tools.account.make_directory(to)?;
    let mut copy = Command::new("cp");
    copy.arg("-Rp").arg(from.join(".")).arg(to).current_dir(&tools.directory).stdin(Stdio::null());
    tools.account.run(&mut copy);
    tools::output(copy).await.map(drop)
}

/// The whole `postgresql.conf`. The last of several lines for the same parameter holds.
fn configuration(tools: &Tools, server: &Server, options: &SandboxOptions) -> String {
    let given = options.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    let settings = own_settings(server, options).into_iter().chain(tls_settings(tools, options)).chain(given);
    settings.map(|(name, value)| setting(name, &value)).collect()
}

/// Small, quick and deterministic; durability is what throw-away servers can do without.
fn own_settings(server: &Server, options: &SandboxOptions) -> Vec<(&'static str, String)> {
    let mut settings: Vec<(&'static str, String)> = vec![
        ("cluster_name", server.name.clone()),
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", server.port.to_string()),
        ("unix_socket_directories", server.socket_dir.display().to_string()),
        ("max_connections", options.max_connections.to_string()),
    ];
    if options.statement_statistics {
        settings.push(("shared_preload_libraries", "pg_stat_statements".to_owned()));
    }
    let fixed = [
        ("shared_buffers", "32MB"),
        // In files of ours, where a killed server leaves nothing behind in /dev/shm.
        ("dynamic_shared_memory_type", "mmap"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_line_prefix", "%m [%p] %q%u@%d "),
        ("password_encryption", "scram-sha-256"),
        // Replication: quick to follow, quick to come back, and enough WAL for a standby that was away.
        ("wal_level", "replica"),
        ("wal_keep_size", "512MB"),
        ("max_wal_senders", "10"),
        ("hot_standby", "on"),
        ("hot_standby_feedback", "on"),
        ("wal_receiver_status_interval", "1s"),
        ("wal_retrieve_retry_interval", "100ms"),
        // A read on a standby may hold replay up for this long; then it is cancelled (40001).
        ("max_standby_streaming_delay", "5s"),
    ];
    settings.extend(fixed.map(|(name, value)| (name, value.to_owned())));
    settings
}

fn tls_settings(tools: &Tools, options: &SandboxOptions) -> Vec<(&'static str, String)> {
    if !options.tls {
        return Vec::new();
    }
    let file = |name: &str| tools.directory.join(name).display().to_string();
    vec![
        ("ssl", "on".to_owned()),
        ("ssl_ca_file", file(AUTHORITY)),
        ("ssl_cert_file", file("tls/server.crt")),
        ("ssl_key_file", file("tls/server.key")),
    ]
}
