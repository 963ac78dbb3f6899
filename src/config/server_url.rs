//! `postgres://` URLs (PostgreSQL, "Connection URIs"), with one host.
//!
//! Taken apart by hand because libpq's form is wider than the URL standard: `postgres://user@/db?host=/run/postgresql`
//! has credentials but no host, which the standard forbids and every managed database documents.

use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::{HostAddress, Secret, ServerTls, SslMode};

pub(super) const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const DEFAULT_PORT: u16 = 5432;

/// What a URL says; nothing is filled in except the port.
#[derive(Debug, PartialEq)]
pub(super) struct ServerUrl {
    pub(super) address: HostAddress,
    pub(super) tls: ServerTls,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<String>,
    /// Names of parameters that mean nothing here.
    pub(super) unknown: Vec<String>,
}

/// Why a URL was refused. Holds no part of the URL that could be a password.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum UrlError {
    #[error("expected a URL that begins with postgres:// or postgresql://")]
    Scheme,
    #[error("expected a host in the URL: postgres://host:5432, or postgres:///?host=/run/postgresql for a Unix socket")]
    NoHost,
    #[error("expected one host in the URL, found {0}")]
    ManyHosts(usize),
    #[error("expected a port from 1 to 65535 in the URL (an IPv6 address stands in brackets: [::1]:5432)")]
    Port,
    #[error("expected `]` after the IPv6 address in the URL")]
    Bracket,
    #[error("expected two hexadecimal digits after each % in the URL, and no %00 (a % itself is written %25)")]
    Encoding,
    #[error("expected `name=value` pairs separated by & after the ? in the URL")]
    Parameter,
    #[error("expected sslmode=disable, allow, prefer, require, verify-ca or verify-full in the URL, found sslmode={0}")]
    SslMode(String),
    #[error("expected sslcert and sslkey in the URL together, found only {0}")]
    HalfCertificate(&'static str),
    #[error("expected sslmode=verify-full with sslrootcert=system in the URL, as libpq does, found sslmode={0}")]
    WeakSystem(String),
}

impl ServerUrl {
    /// Parses a URL; relative paths of its files start from `base`.
    pub(super) fn parse(text: &str, base: &Path) -> Result<Self, UrlError> {
        let rest =
            text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")).ok_or(UrlError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));

        let mut parts = Parts { user: decode(user)?, password: decode(password)?, ..Parts::default() };
        parts.database = decode(database)?;
        parts.host_and_port(host)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(UrlError::Parameter)?;
            parts.parameter(&decode(name)?, decode(value)?);
        }
        parts.build(base)
    }
}

/// Decoded strings; empty where the URL says nothing, as in libpq.
#[derive(Default)]
struct Parts {
    user: String,
    password: String,
    host: String,
    port: String,
    database: String,
    sslmode: String,
    sslrootcert: String,
    sslcert: String,
    sslkey: String,
    unknown: Vec<String>,
}

impl Parts {
    fn host_and_port(&mut self, text: &str) -> Result<(), UrlError> {
        let hosts = text.split(',').count();
        if hosts > 1 {
            return Err(UrlError::ManyHosts(hosts));
        }
        if let Some(literal) = text.strip_prefix('[') {
            let (host, port) = literal.split_once(']').ok_or(UrlError::Bracket)?;
            self.host = decode(host)?;
            self.port = match port {
                "" => String::new(),
                _ => port.strip_prefix(':').ok_or(UrlError::Port)?.to_owned(),
            };
            return Ok(());
        }
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        self.host = decode(host)?;
        self.port = port.to_owned();
        Ok(())
    }

    /// A parameter wins over the same thing in the URL's body, as in libpq.
    fn parameter(&mut self, name: &str, value: String) {
        let field = match name {
            "user" => &mut self.user,
            "password" => &mut self.password,
            "host" => &mut self.host,
            "port" => &mut self.port,
            "dbname" => &mut self.database,
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            other => return self.unknown.push(other.to_owned()),
        };
        *field = value;
    }

    fn build(self, base: &Path) -> Result<ServerUrl, UrlError> {
        let hosts = self.host.split(',').count();
        if hosts > 1 {
            return Err(UrlError::ManyHosts(hosts));
        }
        let port = match self.port.as_str() {
            "" => DEFAULT_PORT,
            port => port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?,
        };
        let address = match self.host.as_str() {
            "" => return Err(UrlError::NoHost),
            directory if directory.starts_with('/') => {
                HostAddress::Unix(Path::new(directory).join(format!(".s.PGSQL.{port}")))
            }
            host => HostAddress::Tcp { host: host.to_owned(), port },
        };
        Ok(ServerUrl {
            tls: self.tls(&address, base)?,
            address,
            user: some(self.user),
            password: some(self.password).map(Secret::new),
            database: some(self.database),
            unknown: self.unknown,
        })
    }

    fn tls(&self, address: &HostAddress, base: &Path) -> Result<ServerTls, UrlError> {
        let path = |text: &str| (!text.is_empty()).then(|| base.join(text));
        let system = self.sslrootcert == "system";
        let mode = match self.sslmode.as_str() {
            "" if system => SslMode::VerifyFull,
            "" => SslMode::Prefer,
            word => {
                let known = SSL_MODES.iter().find(|(known, _)| *known == word);
                known.map(|(_, mode)| *mode).ok_or_else(|| UrlError::SslMode(word.to_owned()))?
            }
        };
        if system && mode != SslMode::VerifyFull {
            return Err(UrlError::WeakSystem(self.sslmode.clone()));
        }
        let (cert, key) = (path(&self.sslcert), path(&self.sslkey));
        match (&cert, &key) {
            (Some(_), None) => return Err(UrlError::HalfCertificate("sslcert")),
            (None, Some(_)) => return Err(UrlError::HalfCertificate("sslkey")),
            _ => {}
        }
        // libpq ignores sslmode on a Unix socket: the server would refuse TLS there.
        let mode = if matches!(address, HostAddress::Unix(_)) { SslMode::Disable } else { mode };
        let root_cert: Option<PathBuf> = if system { None } else { path(&self.sslrootcert) };
        Ok(ServerTls { mode, root_cert, cert, key })
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Percent-decoding as strict as libpq's `conninfo_uri_decode`.
fn decode(text: &str) -> Result<String, UrlError> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3).ok_or(UrlError::Encoding)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) || digits == b"00" {
            return Err(UrlError::Encoding);
        }
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Encoding)?;
    if decoded.contains('\0') {
        return Err(UrlError::Encoding);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ServerUrl, UrlError> {
        ServerUrl::parse(text, Path::new("/etc/pgweir"))
    }

    fn tcp(host: &str, port: u16) -> HostAddress {
        HostAddress::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn hosts_in_all_of_libpq_s_forms() {
        let cases = [
            ("postgres://db", tcp("db", 5432)),
            ("postgresql://db:5433/", tcp("db", 5433)),
            ("postgres://10.0.0.1:/app", tcp("10.0.0.1", 5432)),
            ("postgres://[::1]:5434", tcp("::1", 5434)),
            ("postgres://[2001:db8::1]", tcp("2001:db8::1", 5432)),
            ("postgres:///?host=/run/postgresql&port=5433", HostAddress::Unix("/run/postgresql/.s.PGSQL.5433".into())),
            ("postgres://%2Frun%2Fpostgresql:5433/app", HostAddress::Unix("/run/postgresql/.s.PGSQL.5433".into())),
            ("postgres://u:p@/app?host=/cloud", HostAddress::Unix("/cloud/.s.PGSQL.5432".into())),
        ];
        for (text, address) in cases {
            assert_eq!(parse(text).map(|url| url.address), Ok(address), "{text}");
        }
    }

    #[test]
    fn logins_are_decoded() {
        let url = parse("postgres://us%20er:p%40ss%2F+@db/my%2Fdb?application_name=x").unwrap();
        assert_eq!(url.user.as_deref(), Some("us er"));
        assert_eq!(url.password.as_ref().map(Secret::expose), Some("p@ss/+"));
        assert_eq!(url.database.as_deref(), Some("my/db"));
        assert_eq!(url.unknown, ["application_name"]);
    }

    #[test]
    fn tls_files_start_from_the_base() {
        let url = parse("postgres://db?sslmode=verify-ca&sslrootcert=ca.crt&sslcert=/x/c.crt&sslkey=c.key").unwrap();
        let expected = ServerTls {
            mode: SslMode::VerifyCa,
            root_cert: Some("/etc/pgweir/ca.crt".into()),
            cert: Some("/x/c.crt".into()),
            key: Some("/etc/pgweir/c.key".into()),
        };
        assert_eq!(url.tls, expected);
        assert_eq!(parse("postgres://db").unwrap().tls.mode, SslMode::Prefer);
        assert_eq!(parse("postgres://db?sslrootcert=system").unwrap().tls.mode, SslMode::VerifyFull);
        assert_eq!(parse("postgres:///?host=/run&sslmode=require").unwrap().tls.mode, SslMode::Disable);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("host=db user=app", UrlError::Scheme),
            ("mysql://db", UrlError::Scheme),
            ("postgres://", UrlError::NoHost),
            ("postgres:///app", UrlError::NoHost),
            ("postgres://a:1,b:2/app", UrlError::ManyHosts(2)),
            ("postgres:///?host=a,b,c", UrlError::ManyHosts(3)),
            ("postgres://db:0", UrlError::Port),
            ("postgres://db:70000", UrlError::Port),
            ("postgres://::1:5432", UrlError::Port),
            ("postgres://[::1", UrlError::Bracket),
            ("postgres://d%zz", UrlError::Encoding),
            ("postgres://u:%00@db", UrlError::Encoding),
            ("postgres://db?sslmode", UrlError::Parameter),
            ("postgres://db?sslmode=on", UrlError::SslMode("on".to_owned())),
            ("postgres://db?sslcert=a", UrlError::HalfCertificate("sslcert")),
            ("postgres://db?sslmode=require&sslrootcert=system", UrlError::WeakSystem("require".to_owned())),
        ];
        for (text, error) in cases {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(postgres://)?[a-z%@:/?&=\\[\\],0-9é]{0,40}") {
            let _ = parse(&text);
        }
    }
}
