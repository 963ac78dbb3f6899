//! The passwords that a sandbox gave out, for its own connection strings.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::server::encode;
use super::users::User;

/// By user name. Not `Debug` in full: passwords stay out of logs, also those of throw-away servers.
#[derive(Default)]
pub(super) struct Passwords(Mutex<BTreeMap<String, String>>);

impl Passwords {
    pub fn remember(&self, user: &User) {
        let mut passwords = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        passwords.insert(user.name.clone(), user.password.clone());
    }

    /// `user:password` for a URL, or `user` alone when we do not know the password.
    pub fn credentials(&self, user: &str) -> String {
        let passwords = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match passwords.get(user) {
            Some(password) => format!("{}:{}", encode(user), encode(password)),
            None => encode(user),
        }
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_survive_special_characters() {
        let passwords = Passwords::default();
        passwords.remember(&User::new("a@b", "p/w:d"));
        assert_eq!(passwords.credentials("a@b"), "a%40b:p%2Fw%3Ad");
        assert_eq!(passwords.credentials("else"), "else");
    }
}
