//! What both sides of SCRAM-SHA-256 share: the keys, the stored verifier, and the text of the
//! messages (RFC 5802 and 7677; PostgreSQL's `scram-common.c`).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The mechanism without and with channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// PostgreSQL's default `scram_iterations`.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// A server may ask for any number of iterations. More than this (some seconds of computing) is
/// taken for an attack.
pub const MOST_ITERATIONS: u32 = 10_000_000;

/// Bytes of SHA-256.
pub const KEY_LENGTH: usize = 32;
/// Random bytes in a nonce, before base64 (PostgreSQL's `SCRAM_RAW_NONCE_LEN`).
const NONCE_LENGTH: usize = 18;

pub type Key = [u8; KEY_LENGTH];

/// What a client's login reveals to the one who holds its verifier, and what is enough to log in
/// elsewhere where the very same verifier (salt and iterations included) is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub client_key: Key,
    pub server_key: Key,
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramKeys([secret])")
    }
}

/// What is stored instead of a password:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the last three in base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub iterations: u32,
    pub salt: Vec<u8>,
    pub stored_key: Key,
    pub server_key: Key,
}

impl Verifier {
    /// Reads the stored form, as in `pg_authid.rolpassword`. `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: iterations.parse().ok().filter(|&iterations| iterations > 0)?,
            salt: decode(salt).filter(|salt| !salt.is_empty())?,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// Makes the verifier of a password. Costs `iterations` hashes: about a millisecond for
    /// [`DEFAULT_ITERATIONS`].
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        let stored_key = hash(&hmac(&salted, b"Client Key"));
        Self { iterations, salt: salt.to_vec(), stored_key, server_key: hmac(&salted, b"Server Key") }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier([secret], {} iterations)", self.iterations)
    }
}

/// Both keys of a password under a server's salt and iterations.
pub(super) fn keys_of(password: &str, salt: &[u8], iterations: u32) -> ScramKeys {
    let salted = salted_password(password, salt, iterations);
    ScramKeys { client_key: hmac(&salted, b"Client Key"), server_key: hmac(&salted, b"Server Key") }
}

fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    pbkdf2::pbkdf2_hmac_array::<Sha256, KEY_LENGTH>(normalized(password).as_bytes(), salt, iterations)
}

/// SASLprep (RFC 4013) where the password allows it and the password as it is where not, as
/// PostgreSQL does on both sides.
fn normalized(password: &str) -> Cow<'_, str> {
    match stringprep::saslprep(password) {
        // PostgreSQL treats a password that prepares to nothing as one that can't be prepared.
        Ok(prepared) if !prepared.is_empty() => prepared,
        _ => Cow::Borrowed(password),
    }
}

pub(super) fn hmac(key: &[u8], data: &[u8]) -> Key {
    // HMAC takes keys of every length, so there is no error to see.
    let mut mac = match <Hmac<Sha256> as KeyInit>::new_from_slice(key) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of every length"),
    };
    mac.update(data);
    mac.finalize().into_bytes().into()
}

pub(super) fn hash(data: &[u8]) -> Key {
    Sha256::digest(data).into()
}

pub(super) fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Equality whose time doesn't depend on the bytes.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

pub(super) fn decode_key(text: &str) -> Option<Key> {
    decode(text)?.try_into().ok()
}

/// A fresh nonce, printable and without a comma.
pub fn nonce() -> String {
    encode(&rand::random::<[u8; NONCE_LENGTH]>())
}

/// The value of the next attribute `name=value` of a message, which must be the one named, and
/// what follows its comma.
pub(super) fn attribute(message: &str, name: char) -> Option<(&str, &str)> {
    let rest = message.strip_prefix(name)?.strip_prefix('=')?;
    Some(rest.split_once(',').unwrap_or((rest, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by PostgreSQL 15 with `SET password_encryption = 'scram-sha-256'`.
    const POSTGRES: &str = "SCRAM-SHA-256$4096:jkaECcUqCI/ThQG0trnZSw==$\
         OR/djciNzGh/7a7EHUAHW9iB4Te/WnNrN+0XEgJRr7Q=:K6svu9yRB4q19Nt/LUIm7RJFB3g8LsKhXnj6JzhMJkU=";

    #[test]
    fn a_verifier_of_postgres_is_derived_from_its_password() {
        let stored = Verifier::parse(POSTGRES).unwrap();
        assert_eq!(Verifier::derive("geheim", &stored.salt, stored.iterations), stored);
        assert_ne!(Verifier::derive("Geheim", &stored.salt, stored.iterations), stored);
    }

    #[test]
    fn what_is_not_a_verifier_is_refused() {
        let bad = [
            "",
            "geheim",
            "md53175bce1d3201d16594cebf9d7eb3f9d",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:c2FsdA==$a:b",
            "SCRAM-SHA-256$4096:$a:b",
            "SCRAM-SHA-256$4096:c2FsdA==$c2FsdA==:c2FsdA==",
        ];
        for text in bad {
            assert!(Verifier::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn passwords_are_prepared_or_taken_as_they_are() {
        // RFC 4013: a soft hyphen maps to nothing, a no-break space to a space.
        assert_eq!(normalized("I\u{ad}X"), "IX");
        assert_eq!(normalized("a\u{a0}b"), "a b");
        // Prohibited output, and text that prepares to nothing, stay as they are.
        assert_eq!(normalized("\u{7}"), "\u{7}");
        assert_eq!(normalized("\u{ad}"), "\u{ad}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?} {:?}", Verifier::parse(POSTGRES), keys_of("geheim", b"salt", 1));
        assert_eq!(shown, "Some(Verifier([secret], 4096 iterations)) ScramKeys([secret])");
    }
}
