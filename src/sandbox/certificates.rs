//! A certificate authority for one sandbox or one test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use super::error::{Doing, SandboxError};

/// An authority of its own, with a server certificate for `localhost` and 127.0.0.1.
/// Keys are ECDSA P-256.
pub struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The authority's certificate (PEM): what `sslrootcert` and `ssl_ca_file` want.
    pub authority: String,
    pub server: Identity,
}

/// A certificate and its private key, both PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Certificates {
    pub fn generate() -> Result<Self, SandboxError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "sandbox authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let server = server(&issuer, &["localhost", "127.0.0.1"])?;
        Ok(Self { authority: issuer.pem(), issuer, server })
    }

    /// A server certificate for other names or addresses; the first is also the common name.
    pub fn server_for(&self, names: &[&str]) -> Result<Identity, SandboxError> {
        server(&self.issuer, names)
    }

    /// A client certificate; PostgreSQL's `cert` method compares the common name with the user's.
    pub fn client(&self, common_name: &str) -> Result<Identity, SandboxError> {
        self.client_of(&[(DnType::CommonName, common_name)])
    }

    /// The same with more of a subject, its broadest part first.
    pub fn client_of(&self, subject: &[(DnType, &str)]) -> Result<Identity, SandboxError> {
        issue(&self.issuer, subject, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }
}

impl Identity {
    /// Writes `<stem>.crt` and `<stem>.key` and gives their paths. The key is for the owner only,
    /// as libpq and PostgreSQL demand.
    pub fn write(&self, directory: &Path, stem: &str) -> Result<(PathBuf, PathBuf), SandboxError> {
        let (certificate, key) = (directory.join(format!("{stem}.crt")), directory.join(format!("{stem}.key")));
        fs::write(&certificate, &self.certificate)
            .and_then(|()| fs::write(&key, &self.key))
            .and_then(|()| fs::set_permissions(&key, fs::Permissions::from_mode(0o600)))
            .doing(|| format!("write {}", key.display()))?;
        Ok((certificate, key))
    }
}

fn server(issuer: &CertifiedIssuer<'static, KeyPair>, names: &[&str]) -> Result<Identity, SandboxError> {
    let subject = (DnType::CommonName, *names.first().unwrap_or(&""));
    issue(issuer, &[subject], names, ExtendedKeyUsagePurpose::ServerAuth)
}

fn issue(
    issuer: &CertifiedIssuer<'static, KeyPair>,
    subject: &[(DnType, &str)],
    names: &[&str],
    purpose: ExtendedKeyUsagePurpose,
) -> Result<Identity, SandboxError> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    for (kind, name) in subject {
        params.distinguished_name.push(kind.clone(), *name);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}
