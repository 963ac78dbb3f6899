//! TLS, with rustls and its `ring` provider: [`Acceptor`] towards clients, [`Connector`] towards
//! servers. The provider is named in every configuration; the process has no default one.

mod acceptor;
mod certificate;
mod connector;
mod subject;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use acceptor::{Acceptor, ClientTls};
pub use connector::{Connector, ServerChannel};

/// The protocol name of PostgreSQL in TLS's ALPN (PostgreSQL, "SSL Session Encryption").
pub const ALPN: &[u8] = b"postgresql";

/// A certificate, key or authority that can't be used. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{what} {}: {reason}", path.display())]
    File { what: &'static str, path: PathBuf, reason: String },
    #[error("a client certificate needs both a certificate and a key; only one of them is given")]
    HalfAnIdentity,
    #[error("no usable certificate authority in the system's store: name a root certificate")]
    NoSystemRoots,
    #[error("{0}")]
    Setup(String),
}

impl From<tokio_rustls::rustls::Error> for TlsError {
    fn from(error: tokio_rustls::rustls::Error) -> Self {
        Self::Setup(error.to_string())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// All certificates of a PEM file, at least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |reason: String| TlsError::File { what, path: path.to_owned(), reason };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| fail(error.to_string()))?.collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(fail("holds no PEM certificate".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// The first private key of a PEM file: PKCS#8, PKCS#1 or SEC1, not encrypted.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::File {
        what: "TLS key",
        path: path.to_owned(),
        reason: format!("{error} (expected an unencrypted PEM key)"),
    })
}

fn root_store(what: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(what, path)? {
        roots.add(certificate).map_err(|error| TlsError::File {
            what,
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}
