//! TLS towards servers, with libpq's modes (PostgreSQL, "SSL Support" in the libpq chapter).

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::{ALPN, TlsError, certificate, certificates, private_key, provider};
use crate::config::{ServerTls, SslMode};
use crate::net::Stream;

/// How to speak TLS with one server.
pub struct Connector {
    config: Arc<ClientConfig>,
}

/// What a finished handshake with a server gives besides the stream.
#[derive(Debug)]
pub struct ServerChannel {
    /// `tls-server-end-point` of the server's certificate, if it has one.
    pub end_point: Option<Vec<u8>>,
}

impl Connector {
    /// Reads the files (blocking). As in libpq, a root certificate that is given is used in every
    /// mode, so `require` with one is `verify-ca`. The verifying modes without one use the
    /// system's authorities, as `sslrootcert=system` does.
    pub fn load(tls: &ServerTls) -> Result<Self, TlsError> {
        let verifier = Arc::new(Verifier { provider: provider(), trust: Trust::load(tls)? });
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => {
                builder.with_client_auth_cert(certificates("TLS client certificate", cert)?, private_key(key)?)?
            }
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(TlsError::HalfAnIdentity),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config) })
    }

    /// The handshake with the server named `host`. An IP address is checked against the
    /// certificate's addresses and not sent as SNI.
    pub async fn connect(&self, host: &str, tcp: TcpStream) -> io::Result<(Stream, ServerChannel)> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{host:?} is no host name for TLS")))?;
        let stream = TlsConnector::from(self.config.clone()).connect(name, tcp).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let channel = ServerChannel { end_point: leaf.and_then(|leaf| certificate::end_point(leaf)) };
        Ok((Stream::TlsClientSide(Box::new(stream)), channel))
    }
}

/// What a server's certificate must satisfy.
#[derive(Debug)]
enum Trust {
    /// TLS against eavesdroppers only.
    Anything,
    /// A chain to one of these authorities.
    Chain(Roots),
    /// That, and the host name.
    ChainAndName(Roots),
}

#[derive(Debug)]
struct Roots {
    store: RootCertStore,
    /// The certificates themselves: a server whose own certificate is in the file is trusted as it
    /// is. OpenSSL does so; a chain of one self-signed certificate is no chain for webpki.
    pinned: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn load(tls: &ServerTls) -> Result<Self, TlsError> {
        let roots = match &tls.root_cert {
            Some(path) => {
                let pinned = certificates("root certificate", path)?;
                let mut store = RootCertStore::empty();
                // A leaf among them need not parse as an authority; then it is only pinned.
                store.add_parsable_certificates(pinned.iter().cloned());
                Roots { store, pinned }
            }
            None if tls.mode < SslMode::VerifyCa => return Ok(Self::Anything),
            None => Roots { store: system_roots()?, pinned: Vec::new() },
        };
        Ok(if tls.mode == SslMode::VerifyFull { Self::ChainAndName(roots) } else { Self::Chain(roots) })
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(TlsError::NoSystemRoots) } else { Ok(store) }
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Trust,
}

impl Verifier {
    fn verify_chain(
        &self,
        roots: &Roots,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if roots.pinned.iter().any(|pinned| pinned == leaf) {
            return match certificate::is_current(leaf, now.as_secs()) {
                true => Ok(()),
                false => Err(Error::InvalidCertificate(CertificateError::Expired)),
            };
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots.store, intermediates, now, algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Anything => {}
            Trust::Chain(roots) => self.verify_chain(roots, end_entity, intermediates, now)?,
            Trust::ChainAndName(roots) => {
                self.verify_chain(roots, end_entity, intermediates, now)?;
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::ListenTls;
    use crate::net::tls::Acceptor;

    /// A directory with an authority `ca.crt`, a certificate of it for `db.example`
    /// (`server.crt`, `server.key`), and a self-signed one (`self.crt`, `self.key`).
    fn files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        write("ca.crt", ca.pem());
        write("server.crt", leaf.signed_by(&key, &ca).unwrap().pem());
        write("server.key", key.serialize_pem());
        let mut own = CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("self.crt", own.self_signed(&key).unwrap().pem());
        write("self.key", key.serialize_pem());
        dir
    }

    /// Whether a connector in `mode` that trusts `root` takes the server with certificate `own`.
    async fn accepted(dir: &Path, own: &str, mode: SslMode, root: Option<&str>, host: &str) -> bool {
        let listen = ListenTls {
            certificate: dir.join(format!("{own}.crt")),
            key: dir.join(format!("{own}.key")),
            client_ca: None,
            required: false,
        };
        let acceptor = Acceptor::load(&listen).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await });
        let tls = ServerTls { mode, root_cert: root.map(|name| dir.join(name)), cert: None, key: None };
        let tcp = TcpStream::connect(address).await.unwrap();
        let connected = Connector::load(&tls).unwrap().connect(host, tcp).await;
        let facts = server.await.unwrap();
        if let (Ok((_, channel)), Ok((_, client))) = (&connected, &facts) {
            assert_eq!(channel.end_point, client.end_point);
            assert!(client.alpn);
        }
        connected.is_ok()
    }

    #[tokio::test]
    async fn each_mode_checks_what_libpq_checks() {
        use SslMode::*;
        let dir = files();
        let good = "db.example";
        for (own, mode, root, host, expected) in [
            ("server", Require, None, "other.example", true),
            ("server", Require, Some("ca.crt"), "other.example", true),
            ("server", Require, Some("self.crt"), good, false),
            ("server", Prefer, Some("self.crt"), good, false),
            ("server", VerifyCa, Some("ca.crt"), "other.example", true),
            ("server", VerifyCa, Some("self.crt"), good, false),
            ("server", VerifyFull, Some("ca.crt"), good, true),
            ("server", VerifyFull, Some("ca.crt"), "other.example", false),
            ("server", VerifyFull, Some("ca.crt"), "127.0.0.1", false),
            ("server", VerifyFull, Some("self.crt"), good, false),
            ("self", VerifyFull, Some("self.crt"), good, true),
            ("self", VerifyFull, Some("self.crt"), "other.example", false),
            ("self", VerifyCa, Some("ca.crt"), good, false),
        ] {
            assert_eq!(accepted(dir.path(), own, mode, root, host).await, expected, "{own} {mode:?} {root:?} {host}");
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = files();
        let tls = |root: &str| ServerTls {
            mode: SslMode::VerifyCa,
            root_cert: Some(dir.path().join(root)),
            cert: None,
            key: None,
        };
        let error = |root| Connector::load(&tls(root)).err().unwrap().to_string();
        assert!(error("missing.crt").contains("missing.crt"));
        assert!(error("server.key").contains("holds no PEM certificate"));
        let half = ServerTls { cert: Some(dir.path().join("server.crt")), ..tls("ca.crt") };
        assert!(matches!(Connector::load(&half), Err(TlsError::HalfAnIdentity)));
    }
}
