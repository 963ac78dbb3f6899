//! Why a connection to a server could not be made, for the log in full and for clients as far as
//! it concerns them.

use std::time::Duration;

use crate::wire::error::PgError;

/// A connection that did not come about. `host` is the host's name in the configuration. No
/// variant holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No address, no route, refused by the kernel, or lost on the way.
    #[error("could not reach server {host}: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("server {host} was not ready within the connect timeout of {after:?}")]
    Timeout { host: String, after: Duration },
    /// The server answered with an error of its own, and has closed its end, or has had time to.
    #[error("server {host} refused the login of user \"{user}\": {message} ({code})")]
    Refused { host: String, user: String, code: String, message: String },
    /// The login failed on our side: no password for the method asked for, or a server that could
    /// not prove itself.
    #[error("could not log in to server {host} as user \"{user}\": {reason}")]
    Auth { host: String, user: String, reason: String },
    #[error("no TLS with server {host}: {reason}")]
    Tls { host: String, reason: String },
    /// The server sent what a PostgreSQL server does not.
    #[error("server {host} broke the protocol during login: {reason}")]
    Protocol { host: String, reason: String },
    /// As many connections to the server as there may be are in use.
    #[error(
        "server {host} has no connection to spare: all {limit} of max_server_connections are in use or kept for other purposes, and none came free within {after:?}"
    )]
    NoPlace { host: String, limit: usize, after: Duration },
}

/// The errors of a server that are the client's own business and pass on in the server's words:
/// no such database, no right to it, too many connections, starting up or shutting down, and
/// settings of the client's startup packet.
const PASSED_ON: [&str; 7] = ["3D000", "42501", "53300", "57P03", "22023", "42704", "55P02"];

impl ConnectError {
    /// May be over soon, without anybody doing anything: another attempt is worth it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::NoPlace { .. } => true,
            Self::Refused { code, .. } => matches!(code.as_str(), "53300" | "57P03"),
            Self::Auth { .. } | Self::Tls { .. } | Self::Protocol { .. } => false,
        }
    }

    /// The server has no process for it any more, nor will it have one.
    pub fn leaves_nothing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Refused { .. } | Self::NoPlace { .. } => true,
            Self::Timeout { .. } | Self::Auth { .. } | Self::Tls { .. } | Self::Protocol { .. } => false,
        }
    }

    /// What a client may see of it. Whether it ends the session is the caller's to say.
    pub fn to_client(&self) -> PgError {
        match self {
            Self::Refused { code, message, .. } if let Some(code) = passed_on(code) => {
                PgError::error(code, message.clone())
            }
            Self::Refused { host, user, code, .. } if code.starts_with("28") => login_failed(host, user),
            Self::Auth { host, user, .. } => login_failed(host, user),
            Self::Timeout { host, after } => {
                PgError::error("08006", format!("server {host} was not ready within {after:?}"))
                    .hint("Try again; see connect_timeout in the section [pool].")
            }
            Self::Unreachable { host, .. } => PgError::error("08006", format!("could not reach server {host}"))
                .hint("Try again; the log of pgweir holds the reason."),
            Self::NoPlace { .. } => PgError::error("53300", self.to_string())
                .hint("Try again, use fewer connections that last (replication, LISTEN), or raise max_server_connections of the server."),
            Self::Refused { host, .. } | Self::Tls { host, .. } | Self::Protocol { host, .. } => {
                PgError::error("08006", format!("could not connect to server {host}"))
                    .hint("The log of pgweir holds the reason.")
            }
        }
    }
}

fn passed_on(code: &str) -> Option<&'static str> {
    PASSED_ON.into_iter().find(|passed| *passed == code)
}

fn login_failed(host: &str, user: &str) -> PgError {
    PgError::error("28P01", format!("pgweir could not log in to server {host} as user \"{user}\""))
        .hint("The client's own login was good: check server_user and server_password in pgweir's configuration.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str) -> ConnectError {
        ConnectError::Refused {
            host: "db1".to_owned(),
            user: "app".to_owned(),
            code: code.to_owned(),
            message: "said the server".to_owned(),
        }
    }

    #[test]
    fn clients_see_what_concerns_them_and_no_more() {
        for code in PASSED_ON {
            let error = refused(code).to_client();
            assert_eq!((&*error.code, &*error.message), (code, "said the server"));
        }
        for code in ["28P01", "28000"] {
            let error = refused(code).to_client();
            assert_eq!(error.code, "28P01");
            assert!(error.message.contains("db1") && error.message.contains("app"), "{error}");
            assert!(!error.message.contains("said the server"), "{error}");
        }
        assert_eq!(refused("XX000").to_client().code, "08006");
        assert!(!refused("XX000").to_client().message.contains("said the server"));
    }
}
