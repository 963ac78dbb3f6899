//! The sockets that clients connect to: TCP addresses and PostgreSQL's Unix socket.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::net::Stream;

/// Connections that the kernel keeps until they are accepted; it takes fewer where
/// `net.core.somaxconn` is lower.
const BACKLOG: i32 = 4096;

/// A socket that clients connect to.
#[derive(Debug)]
pub enum ClientSocket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl ClientSocket {
    /// Port 0 takes a free one: see [`Self::address`].
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // A restart need not wait for connections that linger in TIME_WAIT.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // As PostgreSQL: `::` does not claim the IPv4 port, which may be listed by itself.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self::Tcp(TcpListener::from_std(socket.into())?))
    }

    /// `.s.PGSQL.<port>` in `directory`, open to every user of the machine as PostgreSQL's own. One
    /// that a process which has ended left behind is replaced.
    pub fn unix(directory: &Path, port: u16) -> io::Result<Self> {
        let path = directory.join(format!(".s.PGSQL.{port}"));
        remove_stale(&path)?;
        let listener = UnixListener::bind(&path)?;
        let file = SocketFile::new(path)?;
        fs::set_permissions(&file.path, fs::Permissions::from_mode(0o777))?;
        Ok(Self::Unix(listener, file))
    }

    /// Cancel safe: a connection is either returned or still in the backlog.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }

    /// The address that it listens on; `None` of a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// The path of a Unix socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, file) => Some(&file.path),
        }
    }
}

/// The file of a Unix socket, removed when dropped unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: PathBuf) -> io::Result<Self> {
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nobody is left to tell; the next start removes it as stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in its place"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Any other answer, a full backlog or missing rights among them, may come from a living process.
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.6432");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file");

        let socket = ClientSocket::unix(directory.path(), 6432).unwrap();
        assert_eq!(socket.path(), Some(&*path));
        let error = ClientSocket::unix(directory.path(), 6432).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".s.PGSQL.6432");
        fs::write(&path, "precious").unwrap();
        assert_eq!(ClientSocket::unix(directory.path(), 6432).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&path).unwrap();

        let socket = ClientSocket::unix(directory.path(), 6432).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a successor's").unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn both_families_may_listen_on_one_port() {
        let four = ClientSocket::tcp("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = four.address().unwrap().port();
        let six = ClientSocket::tcp(format!("[::]:{port}").parse().unwrap());
        // A machine without IPv6 has no such address family.
        assert!(six.as_ref().map_or_else(|error| error.kind() != io::ErrorKind::AddrInUse, |_| true), "{six:?}");
    }
}
