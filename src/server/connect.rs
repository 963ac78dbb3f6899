//! Reaching a server: addresses, TLS as libpq's `sslmode` has it, login.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::error::ConnectError;
use super::login::{self, Stage};
use crate::auth::ScramKeys;
use crate::auth::scram_client::Binding;
use crate::config::{HostAddress, HostConfig, Secret, ServerTls, SslMode};
use crate::net::Stream;
use crate::net::tls::Connector;
use crate::wire::author;

/// A silent server is probed after this (libpq leaves it to the system: two hours on Linux).
const KEEPALIVE: Duration = Duration::from_secs(60);

/// For a server that has refused a login to close its end.
const CLOSING: Duration = Duration::from_secs(1);

/// Who logs in, where, and with what settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub database: String,
    pub password: Option<Secret>,
    /// Used for SCRAM when there is no password.
    pub scram_keys: Option<ScramKeys>,
    /// Further startup parameters, in order.
    pub parameters: Vec<(String, String)>,
}

/// A connection that is logged in, idle, and read up to its ReadyForQuery exactly.
#[derive(Debug)]
pub struct Connected {
    pub stream: Stream,
    /// The backend's process id and its cancel key.
    pub pid: i32,
    pub key: Vec<u8>,
    /// What ParameterStatus reported, in order.
    pub parameters: Vec<(String, String)>,
}

/// Connects and logs in within `timeout`, name resolution and TLS included. The addresses of a
/// name are tried in turn.
///
/// Dropping the future closes the connection.
pub async fn connect(host: &HostConfig, login: &Login, timeout: Duration) -> Result<Connected, ConnectError> {
    let deadline = Instant::now() + timeout;
    check_text(host, login)?;
    let attempts = attempts(host);
    let mut failure = None;
    for encryption in attempts {
        match timeout_at(deadline, attempt(host, login, *encryption, deadline)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(Failure { error, retry: true })) => failure = Some(error),
            Ok(Err(Failure { error, retry: false })) => return Err(error),
            Err(_) => return Err(ConnectError::Timeout { host: host.name.clone(), after: timeout }),
        }
    }
    Err(failure.unwrap_or_else(|| unreachable(host, "no way to connect is left")))
}

/// How one attempt treats TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    None,
    /// TLS if the server has it.
    IfOffered,
    Required,
}

/// libpq's attempts: `allow` comes back with TLS when refused without, `prefer` the other way
/// round. On a Unix socket there is no TLS, whatever the mode.
pub(super) fn attempts(host: &HostConfig) -> &'static [Encryption] {
    match (&host.address, host.tls.mode) {
        (HostAddress::Unix(_), _) | (_, SslMode::Disable) => &[Encryption::None],
        (_, SslMode::Allow) => &[Encryption::None, Encryption::Required],
        (_, SslMode::Prefer) => &[Encryption::IfOffered, Encryption::None],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encryption::Required],
    }
}

/// An attempt that failed, and whether the next kind of attempt may do better.
struct Failure {
    error: ConnectError,
    retry: bool,
}

async fn attempt(
    host: &HostConfig,
    login: &Login,
    encryption: Encryption,
    deadline: Instant,
) -> Result<Connected, Failure> {
    let (mut stream, binding) = open(host, encryption, deadline).await.map_err(|error| Failure {
        retry: matches!(error, ConnectError::Tls { .. }) && encryption == Encryption::IfOffered,
        error,
    })?;
    // A server that hasn't asked for a proof yet has refused the connection as such (pg_hba.conf):
    // only then is it worth to come back the other way. `prefer` over plain TCP was already that way.
    let may_retry = encryption == Encryption::None || stream.is_tls();
    match login::login(&mut stream, host, login, binding).await {
        Ok(session) => Ok(Connected { stream, pid: session.pid, key: session.key, parameters: session.parameters }),
        Err((error, stage)) => {
            let refused = matches!(error, ConnectError::Refused { .. });
            if refused {
                // Its process counts until then.
                let closed = deadline.min(Instant::now() + CLOSING);
                let _ = timeout_at(closed, copy(&mut stream, &mut sink())).await;
            }
            Err(Failure { error, retry: may_retry && refused && stage == Stage::Unasked })
        }
    }
}

/// A stream to the server, TLS included, before any startup packet.
pub(super) async fn open(
    host: &HostConfig,
    encryption: Encryption,
    deadline: Instant,
) -> Result<(Stream, Binding), ConnectError> {
    let (name, port) = match &host.address {
        HostAddress::Tcp { host, port } => (host.as_str(), *port),
        HostAddress::Unix(path) => {
            let socket = UnixStream::connect(path).await.map_err(|error| unreachable(host, error))?;
            return Ok((Stream::Unix(socket), Binding::Impossible));
        }
    };
    let mut tcp = dial(name, port, deadline).await.map_err(|error| unreachable(host, error))?;
    if encryption == Encryption::None {
        return Ok((tuned(host, Stream::Tcp(tcp))?, Binding::Impossible));
    }
    match (ask_for_tls(&mut tcp).await.map_err(|error| unreachable(host, error))?, encryption) {
        (b'S', _) => {
            let (stream, binding) = start_tls(&host.tls, name, tcp)
                .await
                .map_err(|reason| ConnectError::Tls { host: host.name.clone(), reason })?;
            Ok((tuned(host, stream)?, binding))
        }
        (b'N', Encryption::Required) => Err(ConnectError::Tls {
            host: host.name.clone(),
            reason: format!("the server does not offer it, and sslmode is {:?}", host.tls.mode),
        }),
        (b'N', _) => Ok((tuned(host, Stream::Tcp(tcp))?, Binding::Impossible)),
        // `E` would be an error text that anybody could have put there (CVE-2024-10977): not read.
        (other, _) => Err(ConnectError::Protocol {
            host: host.name.clone(),
            reason: format!("the answer to SSLRequest is {other:#04x} and neither 'S' nor 'N'"),
        }),
    }
}

/// Connects to the addresses of a name in turn, each within an equal share of the time left.
async fn dial(name: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((name, port)).await?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("the name {name:?} has no address"));
    for (tried, address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / untried;
        match timeout_at(Instant::now() + share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => failure = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => {
                failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer within {share:?}"))
            }
        }
    }
    Err(failure)
}

/// Sends SSLRequest and reads the one byte of the answer. Not more: what follows it in plain must
/// not pass for encrypted (CVE-2021-23222).
async fn ask_for_tls(tcp: &mut TcpStream) -> io::Result<u8> {
    let mut request = bytes::BytesMut::new();
    author::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    tcp.read_u8().await
}

async fn start_tls(tls: &ServerTls, name: &str, tcp: TcpStream) -> Result<(Stream, Binding), String> {
    let tls = tls.clone();
    // Reads files, perhaps the system's whole store of authorities.
    let connector = tokio::task::spawn_blocking(move || Connector::load(&tls))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let (stream, channel) = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
    Ok((stream, channel.end_point.map_or(Binding::Impossible, Binding::EndPoint)))
}

fn tuned(host: &HostConfig, stream: Stream) -> Result<Stream, ConnectError> {
    stream.tune(KEEPALIVE).map_err(|error| unreachable(host, error))?;
    Ok(stream)
}

fn unreachable(host: &HostConfig, reason: impl ToString) -> ConnectError {
    ConnectError::Unreachable { host: host.name.clone(), reason: reason.to_string() }
}

/// A NUL would end a field of the startup packet early and turn the rest into parameters.
fn check_text(host: &HostConfig, login: &Login) -> Result<(), ConnectError> {
    let parameters = login.parameters.iter().flat_map(|(name, value)| [name, value]);
    let mut texts = [&login.user, &login.database].into_iter().chain(parameters).map(String::as_str);
    let password = login.password.as_ref().map_or("", Secret::expose);
    if texts.any(|text| text.contains('\0')) || password.contains('\0') {
        return Err(ConnectError::Auth {
            host: host.name.clone(),
            user: login.user.replace('\0', " "),
            reason: "the user, password, database or a setting holds a NUL character".to_owned(),
        });
    }
    Ok(())
}
