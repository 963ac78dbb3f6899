//! SCRAM-SHA-256 as the side that proves: [`AwaitSalt`] → [`AwaitSignature`] → done
//! (RFC 5802, section 5; libpq's `fe-auth-scram.c`).

use super::scram::{self, Key, MOST_ITERATIONS, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramKeys};
use crate::config::Secret;

/// What a login is proved with.
#[derive(Debug, Clone)]
pub enum Proof {
    Password(Secret),
    /// Learned from a client; good only where the same verifier is stored.
    Keys(ScramKeys),
}

/// What the channel to the server allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// No TLS, or a certificate without a usable hash.
    Impossible,
    /// The server's `tls-server-end-point`.
    EndPoint(Vec<u8>),
}

/// Why a login by SCRAM failed on our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the server offers no SASL mechanism that pgweir knows (SCRAM-SHA-256 or SCRAM-SHA-256-PLUS)")]
    NoMechanism,
    #[error("the server sent a malformed SCRAM message")]
    Malformed,
    #[error("the server refused the SCRAM exchange")]
    Refused,
    #[error("the server's SCRAM nonce does not continue ours")]
    Nonce,
    #[error("the server asks for {0} SCRAM iterations, more than the {MOST_ITERATIONS} that pgweir computes")]
    Iterations(u32),
    #[error("the server could not prove that it knows the password: its SCRAM signature is wrong")]
    Signature,
}

/// The first message is sent and the server's salt awaited.
pub struct AwaitSalt {
    proof: Proof,
    /// `c=` of the final message, in base64.
    binding: String,
    nonce: String,
    bare: String,
}

/// The proof is sent and the server's own awaited.
pub struct AwaitSignature {
    expected: Key,
}

/// A client's first message and the mechanism it is for.
pub struct First {
    pub mechanism: &'static str,
    pub message: String,
}

impl AwaitSalt {
    /// Chooses among the mechanisms that the server offers. `nonce` is [`scram::nonce`].
    pub fn start(proof: Proof, offered: &[String], binding: Binding, nonce: String) -> Result<(First, Self), Failure> {
        let offers = |mechanism| offered.iter().any(|offer| offer == mechanism);
        let (mechanism, header, data) = match binding {
            Binding::EndPoint(hash) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,", hash)
            }
            _ if !offers(SCRAM_SHA_256) => return Err(Failure::NoMechanism),
            // Says that we could bind, so that a server that can, too, notices a stripped offer.
            Binding::EndPoint(_) => (SCRAM_SHA_256, "y,,", Vec::new()),
            Binding::Impossible => (SCRAM_SHA_256, "n,,", Vec::new()),
        };
        // PostgreSQL takes the user from the startup packet and ignores this one.
        let bare = format!("n=,r={nonce}");
        let first = First { mechanism, message: format!("{header}{bare}") };
        let binding = scram::encode(&[header.as_bytes(), &data].concat());
        Ok((first, Self { proof, binding, nonce, bare }))
    }

    /// Takes the server's first message; gives our final one. With a password this computes for
    /// as long as the server's iteration count asks: keep it off the runtime's threads.
    pub fn server_first(self, message: &[u8]) -> Result<(String, AwaitSignature), Failure> {
        let message = std::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
        let (nonce, rest) = scram::attribute(message, 'r').ok_or(Failure::Malformed)?;
        let (salt, rest) = scram::attribute(rest, 's').ok_or(Failure::Malformed)?;
        let (iterations, _) = scram::attribute(rest, 'i').ok_or(Failure::Malformed)?;
        let salt = scram::decode(salt).filter(|salt| !salt.is_empty()).ok_or(Failure::Malformed)?;
        let iterations = iterations.parse().ok().filter(|&count: &u32| count > 0).ok_or(Failure::Malformed)?;
        if iterations > MOST_ITERATIONS {
            return Err(Failure::Iterations(iterations));
        }
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(Failure::Nonce);
        }

        let keys = match self.proof {
            Proof::Password(password) => scram::keys_of(password.expose(), &salt, iterations),
            Proof::Keys(keys) => keys,
        };
        let unproved = format!("c={},r={nonce}", self.binding);
        let signed = format!("{},{message},{unproved}", self.bare);
        let signature = scram::hmac(&scram::hash(&keys.client_key), signed.as_bytes());
        let proof = scram::encode(&scram::xor(&keys.client_key, &signature));
        let expected = scram::hmac(&keys.server_key, signed.as_bytes());
        Ok((format!("{unproved},p={proof}"), AwaitSignature { expected }))
    }
}

impl AwaitSignature {
    /// Takes the server's final message: only a server that knows the verifier can make it.
    pub fn server_final(self, message: &[u8]) -> Result<(), Failure> {
        let message = std::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
        if message.starts_with("e=") {
            return Err(Failure::Refused);
        }
        let (signature, _) = scram::attribute(message, 'v').ok_or(Failure::Malformed)?;
        let signature = scram::decode(signature).ok_or(Failure::Malformed)?;
        if scram::same(&signature, &self.expected) { Ok(()) } else { Err(Failure::Signature) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::scram::Verifier;
    use super::super::scram_server::Offer;
    use super::*;

    fn both() -> Vec<String> {
        vec![SCRAM_SHA_256_PLUS.to_owned(), SCRAM_SHA_256.to_owned()]
    }

    fn password() -> Proof {
        Proof::Password(Secret::new("pencil"))
    }

    /// The exchange of RFC 7677, section 3, from the salt on (its first message names a user).
    #[test]
    fn the_exchange_of_rfc_7677() {
        let state = AwaitSalt {
            proof: password(),
            binding: "biws".to_owned(),
            nonce: "rOprNGfwEbeRWgbNEkqO".to_owned(),
            bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned(),
        };
        let salt = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (answer, state) = state.server_first(salt).unwrap();
        assert_eq!(
            answer,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(state.server_final(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
    }

    /// Plays both sides against each other; gives the keys that the server learned.
    fn play(proof: Proof, stored: &str, binding: Binding) -> Result<ScramKeys, String> {
        let end_point = match &binding {
            Binding::EndPoint(hash) => Some(hash.clone()),
            Binding::Impossible => None,
        };
        let offer = Offer::new(Verifier::derive(stored, b"salt", 64), true, end_point);
        let offered: Vec<_> = offer.mechanisms().iter().map(|name| name.to_string()).collect();
        let (first, client) =
            AwaitSalt::start(proof, &offered, binding, "abc".to_owned()).map_err(|e| e.to_string())?;
        let (salt, server) =
            offer.client_first(first.mechanism, first.message.as_bytes(), "xyz").map_err(|e| format!("{e:?}"))?;
        let (last, client) = client.server_first(salt.as_bytes()).map_err(|e| e.to_string())?;
        let (signature, keys) = server.client_final(last.as_bytes()).map_err(|e| format!("{e:?}"))?;
        client.server_final(signature.as_bytes()).map_err(|e| e.to_string())?;
        Ok(keys)
    }

    #[test]
    fn both_sides_agree_with_and_without_binding() {
        for binding in [Binding::Impossible, Binding::EndPoint(vec![7; 32])] {
            assert!(play(password(), "pencil", binding.clone()).is_ok());
            assert_eq!(play(password(), "pen", binding), Err("WrongPassword".to_owned()));
        }
    }

    #[test]
    fn keys_learned_from_one_login_serve_for_another() {
        let keys = play(password(), "pencil", Binding::Impossible).unwrap();
        assert_eq!(play(Proof::Keys(keys.clone()), "pencil", Binding::Impossible), Ok(keys.clone()));
        assert_eq!(play(Proof::Keys(keys), "other", Binding::Impossible), Err("WrongPassword".to_owned()));
    }

    #[test]
    fn servers_that_misbehave_are_found_out() {
        let start = || AwaitSalt::start(password(), &both(), Binding::Impossible, "abc".to_owned()).unwrap().1;
        let salt = |message: &[u8]| start().server_first(message).err();
        assert_eq!(salt(b"r=abc,s=c2FsdA==,i=1"), Some(Failure::Nonce));
        assert_eq!(salt(b"r=xyz,s=c2FsdA==,i=1"), Some(Failure::Nonce));
        assert_eq!(salt(b"r=abcd,s=c2FsdA==,i=0"), Some(Failure::Malformed));
        assert_eq!(salt(b"r=abcd,s=,i=1"), Some(Failure::Malformed));
        assert_eq!(salt(b"r=abcd,s=c2FsdA==,i=99999999"), Some(Failure::Iterations(99_999_999)));
        let last = |message: &[u8]| start().server_first(b"r=abcd,s=c2FsdA==,i=1").unwrap().1.server_final(message);
        assert_eq!(last(b"v=AAAA"), Err(Failure::Signature));
        assert_eq!(last(b"e=other-error"), Err(Failure::Refused));
        assert_eq!(last(b""), Err(Failure::Malformed));
        let none = AwaitSalt::start(password(), &["SCRAM-SHA-1".to_owned()], Binding::Impossible, "abc".to_owned());
        assert_eq!(none.err(), Some(Failure::NoMechanism));
    }

    proptest! {
        #[test]
        fn no_message_panics(message in any::<Vec<u8>>(), text in "[rsi=,a0]{0,20}") {
            let start = || AwaitSalt::start(password(), &both(), Binding::Impossible, "a".to_owned()).unwrap().1;
            let _ = start().server_first(&message);
            let _ = start().server_first(text.as_bytes());
            let _ = AwaitSignature { expected: [0; 32] }.server_final(&message);
        }
    }
}
