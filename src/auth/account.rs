//! What a login is checked against, for known users and for unknown ones.
//!
//! Everything that costs time is computed once, when the configuration is loaded: a login then
//! takes a few hashes, the same few whether the password is right, wrong, or the user doesn't
//! exist. An unknown user gets the same messages with a salt that is its own and stays the same
//! (PostgreSQL's "mock authentication").

use std::collections::BTreeMap;
use std::sync::Arc;

use super::md5;
use super::scram::{self, DEFAULT_ITERATIONS, Key, Verifier};
use crate::config::{UserAuth, UserConfig};

/// Bytes of a salt (PostgreSQL's `SCRAM_DEFAULT_SALT_LEN`).
const SALT_LENGTH: usize = 16;

/// A secret of this process, from which the salts of unknown users are made. Make it once and keep
/// it across reloads: a salt that changes gives the unknown user away.
#[derive(Clone)]
pub struct MockSecret(Key);

impl MockSecret {
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Bytes that belong to `user` and to one `purpose`.
    fn bytes(&self, purpose: &str, user: &str) -> Key {
        scram::hmac(&self.0, format!("{purpose}\0{user}").as_bytes())
    }

    fn salt(&self, user: &str) -> Vec<u8> {
        self.bytes("salt", user)[..SALT_LENGTH].to_vec()
    }
}

/// How one user's login is checked. `genuine` is false for a user that doesn't exist: the whole
/// exchange takes place, and fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Scram {
        verifier: Verifier,
        genuine: bool,
        /// Only the verifier is known, so the client's keys are needed to log in to a server.
        keep_keys: bool,
    },
    Md5 {
        hash: md5::Hash,
        genuine: bool,
    },
    Certificate,
    Trust,
}

/// A user whose login could never work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "user \"{user}\": the stored SCRAM verifier is not one: expected SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, as in pg_authid.rolpassword"
)]
pub struct AccountError {
    pub user: String,
}

/// The checks of all users.
pub struct Accounts {
    secret: MockSecret,
    checks: BTreeMap<String, Check>,
    /// Users with a password, whose kinds of check the unknown users imitate.
    with_password: Vec<String>,
}

impl Accounts {
    /// Takes about a millisecond for each user with a plain password.
    pub fn new(users: &BTreeMap<String, Arc<UserConfig>>, secret: MockSecret) -> Result<Self, AccountError> {
        let mut checks = BTreeMap::new();
        for (name, user) in users {
            checks.insert(name.clone(), check_of(user, &secret)?);
        }
        let has_password = |check: &Check| matches!(check, Check::Scram { .. } | Check::Md5 { .. });
        let with_password =
            checks.iter().filter(|(_, check)| has_password(check)).map(|(name, _)| name.clone()).collect();
        Ok(Self { secret, checks, with_password })
    }

    /// How to check a login as `user`, who may not exist.
    pub fn check(&self, user: &str) -> Check {
        // Computed for known users as well, so that both take the same time.
        let mock = self.mock(user);
        self.checks.get(user).cloned().unwrap_or(mock)
    }

    /// A check that fails, of the kind that a real user picked by the name has: unknown users are
    /// then spread over the kinds as the known ones are.
    fn mock(&self, user: &str) -> Check {
        let verifier = Verifier {
            iterations: DEFAULT_ITERATIONS,
            salt: self.secret.salt(user),
            stored_key: self.secret.bytes("stored key", user),
            server_key: self.secret.bytes("server key", user),
        };
        let [a, b, c, d, ..] = self.secret.bytes("kind", user);
        let pick = u32::from_be_bytes([a, b, c, d]) as usize % self.with_password.len().max(1);
        match self.with_password.get(pick).and_then(|model| self.checks.get(model)) {
            Some(Check::Md5 { .. }) => {
                Check::Md5 { hash: md5::Hash::of(user, &scram::encode(&verifier.stored_key)), genuine: false }
            }
            _ => Check::Scram { verifier, genuine: false, keep_keys: false },
        }
    }
}

fn check_of(user: &UserConfig, secret: &MockSecret) -> Result<Check, AccountError> {
    let name = &user.name;
    Ok(match &user.auth {
        UserAuth::Password(password) => Check::Scram {
            verifier: Verifier::derive(password.expose(), &secret.salt(name), DEFAULT_ITERATIONS),
            genuine: true,
            keep_keys: false,
        },
        UserAuth::Scram(stored) => Check::Scram {
            verifier: Verifier::parse(stored.expose()).ok_or_else(|| AccountError { user: name.clone() })?,
            genuine: true,
            keep_keys: true,
        },
        UserAuth::Md5(secret) => Check::Md5 { hash: md5::Hash::of(name, secret.expose()), genuine: true },
        UserAuth::Certificate => Check::Certificate,
        UserAuth::Trust => Check::Trust,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn accounts(users: &[(&str, UserAuth)]) -> Accounts {
        let users = users.iter().map(|(name, auth)| (name.to_string(), Arc::new(user(name, auth.clone())))).collect();
        Accounts::new(&users, MockSecret([7; 32])).unwrap()
    }

    fn user(name: &str, auth: UserAuth) -> UserConfig {
        UserConfig {
            name: name.to_owned(),
            auth,
            server_user: None,
            server_password: None,
            databases: Vec::new(),
            max_clients: None,
            replication: true,
            admin: false,
            may_set_tenant: false,
        }
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[test]
    fn an_unknown_user_looks_like_a_known_one() {
        let accounts = accounts(&[("alice", UserAuth::Password(secret("x")))]);
        let (Check::Scram { verifier: known, genuine: true, .. }, Check::Scram { verifier, genuine: false, .. }) =
            (accounts.check("alice"), accounts.check("bob"))
        else {
            panic!("both are checked by SCRAM");
        };
        assert_eq!((verifier.iterations, verifier.salt.len()), (known.iterations, known.salt.len()));
        assert_eq!(accounts.check("bob"), accounts.check("bob"));
        assert_ne!(accounts.check("bob"), accounts.check("carol"));
    }

    #[test]
    fn unknown_users_imitate_the_kinds_of_the_known() {
        let only = accounts(&[("alice", UserAuth::Md5(secret("x"))), ("trusted", UserAuth::Trust)]);
        assert!(matches!(only.check("bob"), Check::Md5 { genuine: false, .. }));
        let none = accounts(&[("trusted", UserAuth::Trust), ("certified", UserAuth::Certificate)]);
        assert!(matches!(none.check("bob"), Check::Scram { genuine: false, .. }));
        let mixed = accounts(&[("a", UserAuth::Md5(secret("x"))), ("b", UserAuth::Password(secret("x")))]);
        let md5 = (0..100).filter(|i| matches!(mixed.check(&format!("u{i}")), Check::Md5 { .. })).count();
        assert!((20..=80).contains(&md5), "{md5} of 100");
    }

    #[test]
    fn a_broken_verifier_is_named_without_being_shown() {
        let users = BTreeMap::from([("alice".to_owned(), Arc::new(user("alice", UserAuth::Scram(secret("hush")))))]);
        let error = Accounts::new(&users, MockSecret([7; 32])).err().unwrap().to_string();
        assert!(error.contains("alice") && !error.contains("hush"), "{error}");
    }
}
