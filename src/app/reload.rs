//! Taking over a configuration that was read again, without dropping a client.

use std::sync::Arc;

use super::{App, SnapshotError, snapshot};
use crate::config::{Config, Log};

impl App {
    /// Takes effect for clients who come from now on, and for pool sizes at once. Sessions whose pools
    /// are on servers that the configuration no longer names end with 57P01 when they next need one.
    ///
    /// Errors: TLS files or accounts that cannot be used; nothing has changed then.
    pub async fn reload(&self, config: Config) -> Result<(), SnapshotError> {
        let metrics = &self.door.shared.metrics;
        let prepared = snapshot::prepare(config, self.lasting.clone()).await;
        let handshake = prepared.inspect_err(|_| metrics.reloaded("failed"))?;
        let _one_at_a_time = self.snapshots.changing.lock().await;
        let before = self.door.snapshot();
        let next = Arc::new(before.next(handshake, metrics));
        for setting in needs_restart(before.config(), next.config()) {
            tracing::warn!(setting, "this change takes effect at the next start of pgweir");
        }
        self.snapshots.current.send_replace(next.clone());
        next.succeed(&before);
        next.warm();
        metrics.reloaded("ok");
        Ok(())
    }

    /// Counts a reload that failed before it came here.
    pub fn reload_failed(&self) {
        self.door.shared.metrics.reloaded("failed");
    }
}

/// Settings that differ and cannot change while the process runs.
fn needs_restart(before: &Config, after: &Config) -> Vec<&'static str> {
    let log = |log: &Log| (log.format, log.statements);
    let http = |config: &Config| config.http.as_ref().map(|http| http.address);
    let changes = [
        ("listen.address", before.listen.addresses != after.listen.addresses),
        ("listen.unix_socket_dir", before.listen.unix_socket_dir != after.listen.unix_socket_dir),
        ("http.address", http(before) != http(after)),
        ("log.format or log.statements", log(&before.log) != log(&after.log)),
        ("workers", before.workers != after.workers),
    ];
    changes.into_iter().filter(|(_, changed)| *changed).map(|(setting, _)| setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_env;

    #[test]
    fn what_needs_a_restart_is_named() {
        let url = |name: &str| (name == "DATABASE_URL").then(|| "postgres://u:p@db/app".to_owned());
        let before = from_env(&url).unwrap();
        let mut after = before.clone();
        after.listen.max_clients += 1;
        assert_eq!(needs_restart(&before, &after), Vec::<&str>::new());
        after.listen.addresses.clear();
        after.workers += 1;
        assert_eq!(needs_restart(&before, &after), ["listen.address", "workers"]);
    }
}
