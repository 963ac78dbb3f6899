//! A certificate authority for one test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A directory with `ca.crt`, and for `localhost` `server.crt` and `server.key`; for each client
/// name `<name>.crt` and `<name>.key`.
pub struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    pub fn for_clients(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        write(dir.path(), "ca.crt", &ca.pem());
        let hosts = vec!["localhost".to_owned()];
        for (name, hosts) in std::iter::once(("server", hosts)).chain(names.iter().map(|name| (*name, vec![]))) {
            let mut params = CertificateParams::new(hosts).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            write(dir.path(), &format!("{name}.crt"), &params.signed_by(&key, &ca).unwrap().pem());
            write(dir.path(), &format!("{name}.key"), &key.serialize_pem());
        }
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Keys are private to their owner: PostgreSQL and libpq insist.
fn write(dir: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
