//! From accept to authenticated (PostgreSQL, "Start-up" and "SSL Session Encryption" in the
//! chapter "Frontend/Backend Protocol"; `ProcessStartupPacket` for the order of things).

use std::io;
use std::sync::Arc;

use bytes::BytesMut;

use super::authenticate::{self, Client};
use super::inbound::Inbound;
use crate::auth::{AccountError, Accounts, MockSecret, ScramKeys};
use crate::config::{Config, DatabaseConfig, UserConfig};
use crate::net::Stream;
use crate::net::tls::{Acceptor, ClientTls};
use crate::tenant::Attempts;
use crate::wire::author;
use crate::wire::error::PgError;
use crate::wire::options;
use crate::wire::startup::{FirstPacket, Startup};

/// Startup parameters with this prefix are for us and not for a server.
const OUR_PREFIX: &str = "pgweir.";

/// What outlives a configuration. Made once for a process.
#[derive(Clone)]
pub struct Lasting {
    pub secret: MockSecret,
    pub attempts: Arc<Attempts>,
}

impl Default for Lasting {
    fn default() -> Self {
        Self { secret: MockSecret::random(), attempts: Arc::default() }
    }
}

/// What a handshake needs to know. Made for one configuration and shared by its connections; a
/// reload makes another with the same [`Lasting`].
pub struct HandshakeContext {
    pub config: Arc<Config>,
    /// TLS as loaded from `config.listen.tls`.
    pub tls: Option<Arc<Acceptor>>,
    accounts: Accounts,
    attempts: Arc<Attempts>,
}

impl HandshakeContext {
    /// Computes for about a millisecond for each user with a plain password.
    ///
    /// Errors: a stored SCRAM verifier that is not one.
    pub fn new(config: Arc<Config>, tls: Option<Arc<Acceptor>>, lasting: Lasting) -> Result<Self, AccountError> {
        let accounts = Accounts::new(&config.users, lasting.secret)?;
        Ok(Self { config, tls, accounts, attempts: lasting.attempts })
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Accepted {
    Client(Box<Authenticated>),
    /// To be matched, and then closed without an answer, whatever came of it.
    Cancel {
        pid: i32,
        key: Vec<u8>,
        /// Close it once the cancel request has been passed on, not before: a client takes the
        /// end of this connection for the sign that its next statement is safe from the cancel.
        stream: Stream,
    },
}

/// The entry of a database, or what a client is told for which there is none.
type Found = Result<Arc<DatabaseConfig>, Box<PgError>>;

/// A client that has proved who it is.
pub struct Authenticated {
    pub stream: Stream,
    pub user: Arc<UserConfig>,
    /// The entry of the configuration, which may be that of `*`. Where there is none its tenant may have a database that is
    /// served.
    pub database: Found,
    /// As the client asked.
    pub database_name: String,
    /// The settings of the startup packet in the order in which PostgreSQL applies them: those from
    /// `options` first, then the parameters of their own, which win. Names as sent.
    pub settings: Vec<(String, String)>,
    /// Those named `pgweir.…`, the prefix included, wherever they came from. The last of a name wins.
    pub pgweir_options: Vec<(String, String)>,
    /// The startup parameter `replication`, where it asks for a walsender.
    pub replication: Option<String>,
    /// The minor version of protocol 3 that both sides speak: 0 or 2.
    pub minor: u16,
    /// What the user's name had behind it ([`crate::config::Tenancy::separator`]).
    pub user_suffix: Option<String>,
    /// The host name that the client asked for in TLS (SNI).
    pub server_name: Option<String>,
    /// The common name of its certificate.
    pub certificate: Option<String>,
    /// The whole subject of that.
    pub certificate_subject: Option<String>,
    /// Learned where only a verifier of the user's password is known.
    pub scram_keys: Option<ScramKeys>,
    /// What the client sent after its last message of authentication.
    pub unread: BytesMut,
    /// AuthenticationOk and what goes before it, not yet written. The session appends its
    /// ParameterStatus, BackendKeyData and ReadyForQuery and writes all at once.
    pub out: BytesMut,
}

impl std::fmt::Debug for Authenticated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticated")
            .field("user", &self.user.name)
            .field("database", &self.database_name)
            .field("settings", &self.settings)
            .field("pgweir_options", &self.pgweir_options)
            .field("minor", &self.minor)
            .finish_non_exhaustive()
    }
}

/// Why no client came out. For the log: the client has been told already, where it could be.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Nothing worth a line in the log: a port check, a health check, a client that only asked
    /// whether there is TLS, or one without a password.
    #[error("the client closed the connection before it was authenticated")]
    Closed,
    #[error("connection lost before authentication: {0}")]
    Io(#[from] io::Error),
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error("refused: {0}")]
    Refused(#[from] PgError),
}

/// Lets a client in: TLS if asked for, the startup packet, the proof of who it is.
///
/// Waits for the client without a limit of its own: the caller puts `startup_timeout` around it.
/// Dropping the future closes the connection.
pub async fn accept(stream: Stream, context: &HandshakeContext) -> Result<Accepted, HandshakeError> {
    let mut inbound = Inbound::new(stream, context.config.listen.max_startup_packet);
    let mut tls = None;
    let mut asked = Asked::default();
    if is_direct_tls(&inbound.stream).await? {
        asked = Asked { ssl: true, gss: true };
        let (encrypted, facts) = start_direct_tls(inbound, context).await?;
        (inbound, tls) = (encrypted, Some(facts));
    }
    let startup = loop {
        match negotiate(&mut inbound, context, &mut asked).await {
            Ok(Negotiated::Tls(acceptor)) => {
                let (encrypted, facts) = start_tls(inbound, acceptor).await?;
                (inbound, tls) = (encrypted, Some(facts));
            }
            Ok(Negotiated::Cancel { pid, key }) => {
                return Ok(Accepted::Cancel { pid, key, stream: inbound.stream });
            }
            Ok(Negotiated::Startup(startup)) => break startup,
            Err(error) => return Err(tell(inbound, error).await),
        }
    };
    match enter(&mut inbound, context, &startup, tls).await {
        Ok(entered) => Ok(Accepted::Client(Box::new(entered.with(inbound, startup.negotiated_minor())))),
        Err(error) => Err(tell(inbound, error).await),
    }
}

/// Sends the client the error that is meant for it.
async fn tell(inbound: Inbound, error: HandshakeError) -> HandshakeError {
    if let HandshakeError::Refused(error) = &error {
        inbound.refuse(error).await;
    }
    error
}

/// The requests for encryption that came already. Encryption itself rules out both.
#[derive(Default)]
struct Asked {
    ssl: bool,
    gss: bool,
}

/// What ends a round of negotiation.
enum Negotiated<'a> {
    /// `S` was answered: the next byte is TLS.
    Tls(&'a Acceptor),
    Cancel {
        pid: i32,
        key: Vec<u8>,
    },
    Startup(Startup),
}

/// Answers SSLRequest and GSSENCRequest, in either order and each at most once, until TLS is to
/// start or a packet comes that asks for something else.
async fn negotiate<'a>(
    inbound: &mut Inbound,
    context: &'a HandshakeContext,
    asked: &mut Asked,
) -> Result<Negotiated<'a>, HandshakeError> {
    loop {
        match inbound.first_packet().await? {
            FirstPacket::SslRequest if !asked.ssl => {
                asked.ssl = true;
                nothing_ahead(inbound, "SSL")?;
                match context.tls.as_deref() {
                    Some(acceptor) if matches!(inbound.stream, Stream::Tcp(_)) => {
                        asked.gss = true;
                        answer(inbound, b'S').await?;
                        return Ok(Negotiated::Tls(acceptor));
                    }
                    _ => answer(inbound, b'N').await?,
                }
            }
            FirstPacket::GssEncRequest if !asked.gss => {
                asked.gss = true;
                nothing_ahead(inbound, "GSSAPI encryption")?;
                answer(inbound, b'N').await?;
            }
            FirstPacket::SslRequest => return Err(repeated("SSL").into()),
            FirstPacket::GssEncRequest => return Err(repeated("GSSAPI encryption").into()),
            FirstPacket::DirectTls => {
                let error = PgError::fatal("08P01", "received a TLS handshake where a startup packet was expected")
                    .hint("Direct TLS opens the connection and takes no request before it.");
                return Err(error.into());
            }
            FirstPacket::Cancel { pid, key } => return Ok(Negotiated::Cancel { pid, key }),
            FirstPacket::Startup(startup) => return Ok(Negotiated::Startup(startup)),
        }
    }
}

/// Looks at the first byte without taking it: a ClientHello belongs to TLS as a whole.
async fn is_direct_tls(stream: &Stream) -> io::Result<bool> {
    let Stream::Tcp(tcp) = stream else { return Ok(false) };
    let mut first = [0];
    let length = tcp.peek(&mut first).await?;
    Ok(matches!(FirstPacket::read(&first[..length], usize::MAX), Ok(Some((FirstPacket::DirectTls, _)))))
}

async fn start_direct_tls(
    inbound: Inbound,
    context: &HandshakeContext,
) -> Result<(Inbound, ClientTls), HandshakeError> {
    let acceptor = context.tls.as_deref().ok_or_else(|| no_tls("direct TLS asked for, but [listen] has no tls"))?;
    let (inbound, facts) = start_tls(inbound, acceptor).await?;
    // Without the name of the protocol this may be any TLS client, led here by an attacker
    // (the ALPACA attack). PostgreSQL closes without a word as well.
    if facts.alpn { Ok((inbound, facts)) } else { Err(no_tls("direct TLS without the ALPN protocol \"postgresql\"")) }
}

/// Puts TLS in the place of the TCP stream. Nothing read in plain goes along: see [`nothing_ahead`].
async fn start_tls(inbound: Inbound, acceptor: &Acceptor) -> Result<(Inbound, ClientTls), HandshakeError> {
    let limit = inbound.limit();
    let Stream::Tcp(tcp) = inbound.stream else { return Err(no_tls("TLS runs over TCP only")) };
    let (stream, facts) = acceptor.accept(tcp).await.map_err(HandshakeError::Tls)?;
    Ok((Inbound::new(stream, limit), facts))
}

fn no_tls(reason: &str) -> HandshakeError {
    HandshakeError::Tls(io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// Bytes that came along with a request for encryption were sent in plain, perhaps not by the
/// client, and would pass for encrypted ones (CVE-2021-23222).
fn nothing_ahead(inbound: &Inbound, request: &str) -> Result<(), PgError> {
    if inbound.unread.is_empty() {
        return Ok(());
    }
    Err(PgError::fatal("08P01", format!("received unencrypted data after {request} request"))
        .detail("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack."))
}

async fn answer(inbound: &mut Inbound, byte: u8) -> Result<(), HandshakeError> {
    inbound.out.extend_from_slice(&[byte]);
    inbound.flush().await
}

fn repeated(request: &str) -> PgError {
    PgError::fatal("08P01", format!("received a second {request} request"))
        .detail("Each request for encryption may be sent once, and none once the connection is encrypted.")
}

/// A client that may enter, before its connection is handed over.
struct Entered {
    user: Arc<UserConfig>,
    database: Found,
    database_name: String,
    settings: Vec<(String, String)>,
    pgweir_options: Vec<(String, String)>,
    replication: Option<String>,
    user_suffix: Option<String>,
    server_name: Option<String>,
    certificate: Option<String>,
    certificate_subject: Option<String>,
    scram_keys: Option<ScramKeys>,
}

impl Entered {
    fn with(self, inbound: Inbound, minor: u16) -> Authenticated {
        Authenticated {
            stream: inbound.stream,
            user: self.user,
            database: self.database,
            database_name: self.database_name,
            settings: self.settings,
            pgweir_options: self.pgweir_options,
            replication: self.replication,
            minor,
            user_suffix: self.user_suffix,
            server_name: self.server_name,
            certificate: self.certificate,
            certificate_subject: self.certificate_subject,
            scram_keys: self.scram_keys,
            unread: inbound.unread,
            out: inbound.out,
        }
    }
}

/// From the startup packet to AuthenticationOk and the checks that PostgreSQL makes after it.
async fn enter(
    inbound: &mut Inbound,
    context: &HandshakeContext,
    startup: &Startup,
    tls: Option<ClientTls>,
) -> Result<Entered, HandshakeError> {
    if let Some(version) = startup.negotiate() {
        author::negotiate_protocol_version(&mut inbound.out, version, &startup.unsupported);
    }
    let name = requested_user(startup)?;
    let replication = replication(startup)?;
    if context.config.listen.tls.as_ref().is_some_and(|tls| tls.required) && !may_skip_tls(&inbound.stream) {
        return Err(tls_required(name).into());
    }
    let address = inbound.stream.peer().map(|peer| peer.ip());
    let (account, suffix) = account(&context.config, name);
    // By whatever suffix a password is tried, it is that of one user.
    context.attempts.admit(&context.config.listen.login_limits, address, account)?;
    let client = Client { name, account, tls: tls.as_ref() };
    let scram_keys = authenticate::authenticate(inbound, context.accounts(), &client).await?;
    author::authentication_ok(&mut inbound.out);

    // Only now, as PostgreSQL does: nobody unproved learns which databases there are.
    let database_name = startup.get("database").filter(|name| !name.is_empty()).unwrap_or(account);
    let user = context.config.users.get(account).cloned().ok_or_else(|| authenticate::failed(name))?;
    let database = match replication.filter(|mode| !mode.eq_ignore_ascii_case("database")) {
        Some(_) => whole_cluster(&context.config, database_name),
        None => find_database(&context.config, &user, database_name)?,
    };
    if replication.is_some() && !user.replication {
        return Err(not_for_replication(&user.name).into());
    }
    let (settings, pgweir_options) = split_settings(startup)?;
    Ok(Entered {
        user,
        database,
        database_name: database_name.to_owned(),
        settings,
        pgweir_options,
        replication: replication.map(str::to_owned),
        user_suffix: suffix.map(str::to_owned),
        certificate: tls.as_ref().and_then(|tls| tls.common_name.clone()),
        certificate_subject: tls.as_ref().and_then(|tls| tls.subject.clone()),
        server_name: tls.and_then(|tls| tls.server_name),
        scram_keys,
    })
}

fn requested_user(startup: &Startup) -> Result<&str, PgError> {
    startup
        .get("user")
        .filter(|name| !name.is_empty())
        .ok_or_else(|| PgError::fatal("28000", "no PostgreSQL user name specified in startup packet"))
}

/// The user whose name this is, and what stands behind it: `app` and `acme` for `app@acme`, where there is no user of the
/// whole name.
fn account<'n>(config: &Config, name: &'n str) -> (&'n str, Option<&'n str>) {
    let parted = config.tenancy.separator.as_ref().and_then(|separator| name.rsplit_once(&**separator));
    match parted.filter(|(user, suffix)| config.users.contains_key(*user) && !suffix.is_empty()) {
        Some((user, suffix)) if !config.users.contains_key(name) => (user, Some(suffix)),
        _ => (name, None),
    }
}

/// The mode of a replication connection, as the client wrote it.
fn replication(startup: &Startup) -> Result<Option<&str>, PgError> {
    let Some(value) = startup.get("replication") else { return Ok(None) };
    match (value, parse_bool(value)) {
        (_, Some(false)) => Ok(None),
        ("database", _) | (_, Some(true)) => Ok(Some(value)),
        _ => Err(PgError::fatal("22023", format!("invalid value for parameter \"replication\": \"{value}\""))
            .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")),
    }
}

/// PostgreSQL's `parse_bool`: unique prefixes of the words, in any case.
fn parse_bool(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Some(false)
    } else {
        None
    }
}

fn may_skip_tls(stream: &Stream) -> bool {
    stream.is_tls() || stream.is_unix()
}

fn tls_required(user: &str) -> PgError {
    PgError::fatal("28000", format!("connection of user \"{user}\" refused: no encryption"))
        .detail("This pgweir takes TLS connections only ([listen] tls.required).")
        .hint("Connect with sslmode=require or better.")
}

/// Errors: the outer one is for whichever tenant.
fn find_database(config: &Config, user: &UserConfig, name: &str) -> Result<Found, PgError> {
    if name == CONSOLE && user.admin {
        let (name, cluster) = (name.to_owned(), String::new());
        return Ok(Ok(Arc::new(DatabaseConfig { name, cluster, server_name: None, pool: config.pool.clone() })));
    }
    if !user.databases.is_empty() && !user.databases.iter().any(|allowed| allowed == name) {
        return Err(PgError::fatal("42501", format!("permission denied for database \"{name}\""))
            .detail("User does not have CONNECT privilege.")
            .hint("See databases in the user's entry of pgweir's configuration."));
    }
    Ok(config.database(name).cloned().ok_or_else(|| {
        let error = PgError::fatal("3D000", format!("database \"{name}\" does not exist"));
        error.hint("pgweir serves the databases that its configuration lists.").into()
    }))
}

/// The database of the console, for users with `admin`.
pub const CONSOLE: &str = "pgweir";

/// Physical replication is of a whole server, whatever database is named: libpq names "replication".
fn whole_cluster(config: &Config, name: &str) -> Found {
    let only = || config.databases.values().next().filter(|_| config.clusters.len() == 1);
    config.database(name).or_else(only).cloned().ok_or_else(|| {
        let error = PgError::fatal("3D000", format!("database \"{name}\" does not exist"))
            .detail(format!(
                "There are {} clusters: the database says which one is to be replicated.",
                config.clusters.len()
            ))
            .hint("Name one of the cluster's databases (dbname in the connection string).");
        error.into()
    })
}

fn not_for_replication(user: &str) -> PgError {
    PgError::fatal("42501", format!("permission denied for user \"{user}\" to start a replication connection"))
        .detail("On the server this is another user (server_user), whose privileges are not the client's.")
        .hint("Set replication = true in the user's entry of pgweir's configuration.")
}

type Settings = Vec<(String, String)>;

/// The settings for the server and those for us.
fn split_settings(startup: &Startup) -> Result<(Settings, Settings), PgError> {
    let from_options = match startup.get("options") {
        Some(text) => options::settings(&options::parse_options(text))?,
        None => Vec::new(),
    };
    let own = startup
        .parameters
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "user" | "database" | "options" | "replication"));
    let is_ours =
        |name: &str| name.get(..OUR_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(OUR_PREFIX));
    let (ours, settings) = from_options.into_iter().chain(own.cloned()).partition(|(name, _)| is_ours(name));
    Ok((settings, ours))
}
