//! Our front door on a loopback port: it takes handshakes and nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use pgweir::client::Lasting;
use pgweir::client::{Accepted, HandshakeContext, HandshakeError, accept};
use pgweir::config::*;
use pgweir::net::Stream;
use pgweir::net::tls::Acceptor;
use pgweir::wire::author;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::certificates::Certificates;

/// Everything that makes one door differ from another.
pub struct Plan {
    pub users: Vec<(&'static str, UserAuth)>,
    pub tls: Option<ListenTls>,
}

impl Plan {
    pub fn users(users: &[(&'static str, UserAuth)]) -> Self {
        Self { users: users.to_vec(), tls: None }
    }

    pub fn with_tls(mut self, certificates: &Certificates, required: bool) -> Self {
        self.tls = Some(ListenTls {
            certificate: certificates.path("server.crt"),
            key: certificates.path("server.key"),
            client_ca: Some(certificates.path("ca.crt")),
            required,
        });
        self
    }

    pub fn context(self) -> HandshakeContext {
        let tls = self.tls.as_ref().map(|tls| Arc::new(Acceptor::load(tls).unwrap()));
        HandshakeContext::new(Arc::new(self.config()), tls, Lasting::default()).unwrap()
    }

    fn config(self) -> Config {
        let pool = PoolSettings {
            mode: PoolMode::Transaction,
            size: 1,
            min_idle: 0,
            queue_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            max_lifetime: Duration::from_secs(1),
            check_after: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            prepared_cache: 0,
            queue_length: 100,
            reuse: true,
        };
        let app = DatabaseConfig { name: "app".into(), cluster: "main".into(), server_name: None, pool: pool.clone() };
        let user = |(name, auth): (&'static str, UserAuth)| {
            let databases = if name == "limited" { vec!["other".to_owned()] } else { Vec::new() };
            let user = UserConfig {
                name: name.to_owned(),
                auth,
                server_user: None,
                server_password: None,
                databases,
                max_clients: None,
                replication: true,
                admin: false,
                may_set_tenant: false,
            };
            (name.to_owned(), Arc::new(user))
        };
        let tier = Tier::unlimited("standard");
        Config {
            listen: Listen {
                addresses: vec!["127.0.0.1:0".parse().unwrap()],
                unix_socket_dir: None::<PathBuf>,
                tls: self.tls,
                max_clients: 100,
                max_unauthenticated: 100,
                startup_timeout: Duration::from_secs(10),
                max_startup_packet: 10_000,
                tcp_keepalive: Duration::from_secs(60),
                login_limits: LoginLimits::default(),
            },
            http: None,
            log: Log { level: "info".into(), format: LogFormat::Text, statements: false },
            pool,
            clusters: BTreeMap::new(),
            databases: BTreeMap::from([("app".to_owned(), Arc::new(app))]),
            users: self.users.into_iter().map(user).collect(),
            tenants: Vec::new(),
            tenancy: Tenancy::default(),
            tiers: Default::default(),
            default_tier: Arc::new(tier),
            shutdown_timeout: Duration::from_secs(1),
            workers: 1,
            warnings: Vec::new(),
        }
    }
}

type Outcome = Result<Accepted, HandshakeError>;

/// A running door. What came of each connection arrives in `outcomes`.
pub struct Door {
    pub address: SocketAddr,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    task: tokio::task::JoinHandle<()>,
}

impl Door {
    pub async fn open(plan: Plan) -> Self {
        let context = Arc::new(plan.context());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, outcomes) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (context, sender) = (context.clone(), sender.clone());
                tokio::spawn(async move {
                    let outcome = welcome(accept(Stream::Tcp(tcp), &context).await).await;
                    let _ = sender.send(outcome);
                });
            }
        });
        Self { address, outcomes, task }
    }

    pub async fn connect(&self) -> Raw<TcpStream> {
        Raw(TcpStream::connect(self.address).await.unwrap())
    }

    /// What came of the next connection that ended its handshake.
    pub async fn outcome(&mut self) -> Outcome {
        self.outcomes.recv().await.unwrap()
    }

    /// The SQLSTATE that the next connection was refused with.
    pub async fn refused(&mut self) -> std::borrow::Cow<'static, str> {
        match self.outcome().await {
            Err(HandshakeError::Refused(error)) => error.code,
            other => panic!("not refused: {other:?}"),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends an accepted client what a session would send first.
async fn welcome(outcome: Outcome) -> Outcome {
    let Ok(Accepted::Client(mut client)) = outcome else { return outcome };
    let mut out = std::mem::take(&mut client.out);
    for (name, value) in
        [("server_version", "15.0"), ("client_encoding", "UTF8"), ("standard_conforming_strings", "on")]
    {
        author::parameter_status(&mut out, name, value);
    }
    author::backend_key_data(&mut out, 1, &[1, 2, 3, 4]);
    author::ready_for_query(&mut out, b'I');
    client.stream.write_all(&out).await?;
    client.stream.flush().await?;
    Ok(Accepted::Client(client))
}

/// A client that speaks the protocol by hand.
pub struct Raw<S>(pub S);

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Raw<S> {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub async fn byte(&mut self) -> u8 {
        self.0.read_u8().await.unwrap()
    }

    /// The next message: its tag and body.
    pub async fn message(&mut self) -> (u8, Vec<u8>) {
        let tag = self.byte().await;
        let length = self.0.read_u32().await.unwrap() as usize;
        let mut body = vec![0; length - 4];
        self.0.read_exact(&mut body).await.unwrap();
        (tag, body)
    }

    /// The tags of all messages up to and with `last`.
    pub async fn tags_to(&mut self, last: u8) -> String {
        let mut tags = String::new();
        loop {
            let (tag, _) = self.message().await;
            tags.push(char::from(tag));
            if tag == last {
                return tags;
            }
        }
    }

    /// The SQLSTATE and the message of an ErrorResponse, which must be fatal and end the connection.
    pub async fn error(&mut self) -> (String, String) {
        let (tag, body) = self.message().await;
        assert_eq!(tag, b'E');
        let fields = pgweir::wire::guard::error_response(&body).unwrap();
        let field = |tag| fields.iter().find(|(t, _)| *t == tag).unwrap().1.clone();
        assert_eq!(field(b'V'), "FATAL");
        self.closed().await;
        (field(b'C'), field(b'M'))
    }

    /// Waits for the end of the connection, which must come without another byte.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        // Closing with bytes unread resets the connection: closed as well.
        let _ = self.0.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// An untagged packet.
pub fn packet(code: u32, body: &[u8]) -> Vec<u8> {
    let mut packet = BytesMut::new();
    packet.put_u32(body.len() as u32 + 8);
    packet.put_u32(code);
    packet.put_slice(body);
    packet.to_vec()
}

/// A startup packet of protocol 3.`minor`.
pub fn startup(minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut out = BytesMut::new();
    author::startup_message(&mut out, minor, parameters.iter().copied());
    out.to_vec()
}

pub fn ssl_request() -> Vec<u8> {
    packet(80_877_103, &[])
}

pub fn gss_request() -> Vec<u8> {
    packet(80_877_104, &[])
}
