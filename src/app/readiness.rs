//! Whether clients can be served: the primary of every cluster takes connections.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::{HostAddress, HostConfig};
use crate::listener::Door;

/// For one connection. What cannot be reached in this time cannot serve anybody either.
const PATIENCE: Duration = Duration::from_secs(1);
/// An answer is as old as this at most, and the time that finding it took.
const BEAT: Duration = Duration::from_secs(1);

/// The latest answer, kept by [`watch`].
#[derive(Debug)]
pub struct Readiness {
    found: ArcSwap<Result<(), String>>,
    /// Why no more clients are wanted, whatever the watch finds.
    stopped: OnceLock<&'static str>,
}

impl Readiness {
    pub fn get(&self) -> Result<(), String> {
        match self.stopped.get() {
            Some(reason) => Err((*reason).to_owned()),
            None => Result::clone(&self.found.load()),
        }
    }

    /// Says no for good, for the first reason that is given.
    pub fn stop(&self, reason: &'static str) {
        self.stopped.get_or_init(|| reason);
    }
}

impl Default for Readiness {
    fn default() -> Self {
        let unknown = Err("the primary has not been reached yet".to_owned());
        Self { found: ArcSwap::from_pointee(unknown), stopped: OnceLock::new() }
    }
}

/// Looks again and again, for as long as it is polled.
pub async fn watch(readiness: Arc<Readiness>, door: Arc<Door>) {
    loop {
        let snapshot = door.snapshot();
        let hosts = snapshot.clusters().map(|cluster| (cluster.config.name.clone(), cluster.primary.config.clone()));
        let probes: Vec<_> = hosts.map(|(cluster, host)| tokio::spawn(probe(cluster, host))).collect();
        drop(snapshot);
        let mut unreachable = Vec::new();
        for probe in probes {
            // A probe neither panics nor is it aborted.
            if let Ok(Err(reason)) = probe.await {
                unreachable.push(reason);
            }
        }
        let answer = if unreachable.is_empty() { Ok(()) } else { Err(unreachable.join("; ")) };
        readiness.found.store(Arc::new(answer));
        tokio::time::sleep(BEAT).await;
    }
}

async fn probe(cluster: String, host: Arc<HostConfig>) -> Result<(), String> {
    let outcome = match timeout(PATIENCE, reach(&host.address)).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no connection within {} ms", PATIENCE.as_millis())),
    };
    outcome.map_err(|reason| format!("the primary of cluster {cluster}, {}, cannot be reached: {reason}", host.name))
}

async fn reach(address: &HostAddress) -> io::Result<()> {
    match address {
        HostAddress::Tcp { host, port } => TcpStream::connect((host.as_str(), *port)).await.map(drop),
        HostAddress::Unix(path) => UnixStream::connect(path).await.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServerTls, SslMode};

    fn host(port: u16) -> Arc<HostConfig> {
        let tls = ServerTls { mode: SslMode::Disable, root_cert: None, cert: None, key: None };
        let address = HostAddress::Tcp { host: "127.0.0.1".to_owned(), port };
        Arc::new(HostConfig { name: "db1".to_owned(), address, tls, max_server_connections: None })
    }

    #[tokio::test]
    async fn a_primary_that_takes_connections_is_reached() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(probe("main".to_owned(), host(port)).await, Ok(()));
        drop(listener);
        let reason = probe("main".to_owned(), host(port)).await.unwrap_err();
        assert!(reason.starts_with("the primary of cluster main, db1, cannot be reached: "), "{reason}");
    }
}
