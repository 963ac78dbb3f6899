//! Why a proxy does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::snapshot::SnapshotError;

/// Names the setting and the value. Nothing has been left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("[listen] address: cannot listen on {address}: {source}{}", advice(source))]
    Listen { address: SocketAddr, source: io::Error },
    #[error("[listen] unix_socket_dir: cannot listen in {}: {source}{}", directory.display(), advice(source))]
    UnixSocket { directory: PathBuf, source: io::Error },
    #[error("[http] address: cannot listen on {address}: {source}{}", advice(source))]
    Http { address: SocketAddr, source: io::Error },
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ". Is pgweir running already? Stop what listens there, or choose another port",
        io::ErrorKind::AddrNotAvailable => ". Use an address of this machine, or 0.0.0.0 or [::] for all of them",
        io::ErrorKind::PermissionDenied => ". Use a port above 1023 and a folder that this user may write to",
        io::ErrorKind::NotFound => ". The folder has to exist",
        _ => "",
    }
}
