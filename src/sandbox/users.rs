//! Users of a sandbox, and how each logs in.
//!
//! PostgreSQL decides the authentication method by `pg_hba.conf` and not by user. Membership in
//! a role per method makes it a matter of the user after all, so that users can be made at any time
//! without touching files: `CREATE ROLE … IN ROLE login_md5`.

use super::sql::{identifier, literal};

/// How a user proves who it is on a TCP connection (PostgreSQL, "Authentication Methods").
/// On the Unix socket everyone is trusted: the socket's directory lets nobody else in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Login {
    #[default]
    ScramSha256,
    Md5,
    /// The password in clear text.
    Password,
    /// Needs no password.
    Trust,
    /// A client certificate whose common name is the user's name; only with `tls`.
    Certificate,
}

/// A role with `LOGIN`, to be made on the primary.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
    pub login: Login,
}

impl User {
    /// A user that logs in by SCRAM-SHA-256.
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: password.into(), login: Login::default() }
    }

    pub fn login(self, login: Login) -> Self {
        Self { login, ..self }
    }

    /// The statements that make this user.
    pub(super) fn create(&self) -> String {
        let encryption = if self.login == Login::Md5 { "md5" } else { "scram-sha-256" };
        let group = self.login.group().map(|group| format!(" IN ROLE {group}")).unwrap_or_default();
        format!(
            "SET password_encryption = '{encryption}';\nCREATE ROLE {} LOGIN PASSWORD {}{group};\n",
            identifier(&self.name),
            literal(&self.password),
        )
    }
}

/// The password stays out of logs and failed assertions.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("login", &self.login).finish_non_exhaustive()
    }
}

impl Login {
    const GROUPED: [Self; 4] = [Self::Md5, Self::Password, Self::Trust, Self::Certificate];

    /// The role whose members log in this way; SCRAM is for everyone else.
    fn group(self) -> Option<&'static str> {
        match self {
            Self::ScramSha256 => None,
            Self::Md5 => Some("login_md5"),
            Self::Password => Some("login_password"),
            Self::Trust => Some("login_trust"),
            Self::Certificate => Some("login_certificate"),
        }
    }

    fn hba_method(self) -> &'static str {
        match self {
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Trust => "trust",
            Self::Certificate => "cert",
        }
    }
}

/// The statements that make the roles for the login methods.
pub(super) fn create_groups() -> String {
    let groups = Login::GROUPED.iter().filter_map(|login| login.group());
    groups.map(|group| format!("CREATE ROLE {group};\n")).collect()
}

/// The whole `pg_hba.conf`; the first line that matches a connection decides. `extra` lines come
/// before everything but the superuser's own access.
pub(super) fn hba(extra: &[String], tls: bool) -> String {
    let mut lines = vec!["local all postgres trust".to_owned(), "local replication postgres trust".to_owned()];
    lines.extend(extra.iter().cloned());
    lines.push("local all all trust".to_owned());
    let offered = Login::GROUPED.iter().filter(|&&login| tls || login != Login::Certificate);
    for login in offered {
        let kind = if *login == Login::Certificate { "hostssl" } else { "host" };
        let group = login.group().unwrap_or("all");
        lines.push(format!("{kind} all +{group} 127.0.0.1/32 {}", login.hba_method()));
    }
    for database in ["all", "replication"] {
        lines.push(format!("host {database} all 127.0.0.1/32 {}", Login::ScramSha256.hba_method()));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_are_quoted() {
        let sql = User::new("a\"b", "it's").create();
        assert!(sql.ends_with("CREATE ROLE \"a\"\"b\" LOGIN PASSWORD 'it''s';\n"), "{sql}");
    }

    #[test]
    fn a_password_is_not_shown() {
        assert!(!format!("{:?}", User::new("app", "opensesame")).contains("opensesame"));
    }

    #[test]
    fn extra_lines_come_before_the_general_ones() {
        let hba = hba(&["host all eve 127.0.0.1/32 reject".to_owned()], false);
        assert!(hba.find("eve").unwrap() < hba.find("host all all").unwrap());
        assert!(!hba.contains("hostssl"), "certificates need TLS: {hba}");
    }
}
