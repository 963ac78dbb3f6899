//! PostgreSQL's md5 challenge, both ways: `md5(md5(password ‖ user) ‖ salt)`
//! (PostgreSQL, "Password Authentication" and AuthenticationMD5Password in "Message Flow").
//!
//! Weak by today's measure. It is here for clients and servers that know nothing better.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// What is stored instead of a password: `md5` and 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(String);

impl Hash {
    /// The hash of a password, or the hash itself where `secret` already is one (PostgreSQL's
    /// `get_password_type` decides in the same way).
    pub fn of(user: &str, secret: &str) -> Self {
        match secret.strip_prefix("md5") {
            Some(digits) if digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                Self(digits.to_owned())
            }
            _ => Self(digest(&[secret.as_bytes(), user.as_bytes()])),
        }
    }

    /// What a client answers to a salt: `md5` and 32 hexadecimal digits.
    pub fn answer(&self, salt: [u8; 4]) -> String {
        format!("md5{}", digest(&[self.0.as_bytes(), &salt]))
    }

    /// Whether an answer is right, in a time that doesn't depend on its text.
    pub fn accepts(&self, salt: [u8; 4], answer: &str) -> bool {
        self.answer(salt).as_bytes().ct_eq(answer.as_bytes()).into()
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hash([secret])")
    }
}

fn digest(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    parts.iter().for_each(|part| md5.update(part));
    md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by PostgreSQL 15: `SELECT 'md5' || md5('geheim' || 'alice')`.
    const STORED: &str = "md57e35a1551e6b2d7e24dc4cff2eae3ed0";

    #[test]
    fn a_password_and_its_stored_hash_are_the_same() {
        assert_eq!(Hash::of("alice", "geheim"), Hash::of("alice", STORED));
        assert_ne!(Hash::of("alice", "geheim"), Hash::of("bob", "geheim"));
    }

    #[test]
    fn answers_are_bound_to_the_salt() {
        let hash = Hash::of("alice", "geheim");
        let answer = hash.answer([1, 2, 3, 4]);
        assert!(hash.accepts([1, 2, 3, 4], &answer));
        assert!(!hash.accepts([1, 2, 3, 5], &answer));
        assert!(!hash.accepts([1, 2, 3, 4], ""));
    }

    #[test]
    fn what_only_looks_like_a_hash_is_a_password() {
        assert_ne!(Hash::of("alice", &STORED.to_uppercase().replace("MD5", "md5")), Hash::of("alice", STORED));
        assert_eq!(format!("{:?}", Hash::of("alice", STORED)), "Hash([secret])");
    }
}
