//! TLS offered to clients.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::subject::subject;
use super::{ALPN, TlsError, certificate, certificates, private_key, provider, root_store};
use crate::config::ListenTls;
use crate::net::Stream;

/// A certificate and what is asked of clients. Built again on a reload; connections that are
/// already there keep what they were made with.
pub struct Acceptor {
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
}

/// What a finished TLS handshake tells about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// The host name that the client asked for (SNI), in lower case.
    pub server_name: Option<String>,
    /// Whether ALPN agreed on `postgresql`. A client without ALPN gets through the handshake, too.
    pub alpn: bool,
    /// The common name of the client's certificate, verified against `client_ca`.
    pub common_name: Option<String>,
    /// Its whole subject, in the form of RFC 2253.
    pub subject: Option<String>,
    /// `tls-server-end-point` of our certificate, if it has one.
    pub end_point: Option<Vec<u8>>,
}

impl Acceptor {
    /// Reads the files. A client certificate is asked for when `client_ca` is set, but a client
    /// without one is let through the handshake: whether it needs one depends on its user.
    pub fn load(tls: &ListenTls) -> Result<Self, TlsError> {
        let chain = certificates("TLS certificate", &tls.certificate)?;
        let end_point = chain.first().and_then(|leaf| certificate::end_point(leaf));
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match &tls.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(root_store("certificate authority of clients", path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| TlsError::Setup(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, private_key(&tls.key)?)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Connections are long: resumption would cost memory and bring nothing. PostgreSQL has it
        // off as well.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), end_point })
    }

    /// The handshake with a client. Nothing but TLS may have been read from `tcp` that is still in
    /// a buffer of ours. Dropping the future drops the connection.
    pub async fn accept(&self, tcp: TcpStream) -> io::Result<(Stream, ClientTls)> {
        let stream = TlsAcceptor::from(self.config.clone()).accept(tcp).await?;
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let facts = ClientTls {
            server_name: session.server_name().map(str::to_ascii_lowercase),
            alpn: session.alpn_protocol() == Some(ALPN),
            common_name: leaf.and_then(|leaf| certificate::common_name(leaf)),
            subject: leaf.and_then(|leaf| subject(leaf)),
            end_point: self.end_point.clone(),
        };
        Ok((Stream::TlsServerSide(Box::new(stream)), facts))
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("channel_binding", &self.end_point.is_some()).finish_non_exhaustive()
    }
}
