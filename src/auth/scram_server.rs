//! SCRAM-SHA-256 as the side that checks: [`Offer`] → [`AwaitProof`] → the client's keys
//! (RFC 5802, section 5; PostgreSQL's `auth-scram.c`, whose words the errors are).

use super::scram::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramKeys, Verifier};
use crate::wire::error::PgError;

/// Why an exchange ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The password is wrong or the user unknown: nobody is to learn which.
    WrongPassword,
    /// The client broke the protocol; it may be told how.
    Protocol(PgError),
}

impl From<PgError> for Failure {
    fn from(error: PgError) -> Self {
        Self::Protocol(error)
    }
}

/// The start: mechanisms are offered and the client's first message awaited.
pub struct Offer {
    verifier: Verifier,
    genuine: bool,
    end_point: Option<Vec<u8>>,
}

/// The salt is sent and the client's proof awaited.
pub struct AwaitProof {
    verifier: Verifier,
    genuine: bool,
    /// The header of the first message and the channel's data, as they must come back.
    binding: Vec<u8>,
    nonce: String,
    /// `client-first-message-bare,server-first-message`.
    so_far: String,
}

impl Offer {
    /// `genuine` is false for a made-up verifier, against which every proof fails. `end_point` is
    /// the channel's `tls-server-end-point`, if it has one: -PLUS is offered then.
    pub fn new(verifier: Verifier, genuine: bool, end_point: Option<Vec<u8>>) -> Self {
        Self { verifier, genuine, end_point }
    }

    /// What AuthenticationSASL lists.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.end_point {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
            None => &[SCRAM_SHA_256],
        }
    }

    /// Takes the client's choice and its first message; gives the answer to it. `nonce` is our
    /// share of the nonce ([`scram::nonce`]).
    pub fn client_first(self, mechanism: &str, message: &[u8], nonce: &str) -> Result<(String, AwaitProof), Failure> {
        if !self.mechanisms().contains(&mechanism) {
            return Err(violation("client selected an invalid SASL authentication mechanism", "").into());
        }
        let message = text(message)?;
        let (flag, after_flag) = message.split_once(',').ok_or_else(|| malformed("Comma expected."))?;
        let data = self.channel_data(flag, mechanism == SCRAM_SHA_256_PLUS)?;
        let (identity, bare) = after_flag.split_once(',').ok_or_else(|| malformed("Comma expected."))?;
        if identity.starts_with("a=") {
            return Err(unsupported("client uses authorization identity, but it is not supported").into());
        }
        if !identity.is_empty() {
            return Err(malformed("Unexpected attribute in client-first-message.").into());
        }
        let client_nonce = client_nonce(bare)?;

        let header = format!("{flag},{identity},");
        let nonce = format!("{client_nonce}{nonce}");
        let answer = format!("r={nonce},s={},i={}", scram::encode(&self.verifier.salt), self.verifier.iterations);
        let state = AwaitProof {
            binding: [header.as_bytes(), data].concat(),
            so_far: format!("{bare},{answer}"),
            nonce,
            genuine: self.genuine,
            verifier: self.verifier,
        };
        Ok((answer, state))
    }

    /// What the channel must be bound to, after the flag that opens the client's message.
    fn channel_data(&self, flag: &str, plus: bool) -> Result<&[u8], PgError> {
        match (flag.split_once('=').unwrap_or((flag, "")), &self.end_point) {
            (("n" | "y", ""), _) if plus => Err(malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
            )),
            (("n", ""), _) | (("y", ""), None) => Ok(&[]),
            // The client could bind and believes that we can't, although we said so: someone
            // between us took -PLUS off our list.
            (("y", ""), Some(_)) => Err(PgError::fatal("28000", "SCRAM channel binding negotiation error").detail(
                "The client supports SCRAM channel binding but thinks the server does not. \
                 However, this server does support channel binding.",
            )),
            (("p", "tls-server-end-point"), Some(end_point)) if plus => Ok(end_point),
            (("p", _), _) if !plus => Err(malformed(
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
            )),
            (("p", kind), _) => Err(violation("unsupported SCRAM channel-binding type", "")
                .detail(format!("The client asked for {kind:?}; the server has tls-server-end-point."))),
            _ => Err(malformed("Unexpected channel-binding flag.")),
        }
    }
}

impl AwaitProof {
    /// Takes the client's final message; gives the server's and the keys that the client proved.
    pub fn client_final(self, message: &[u8]) -> Result<(String, ScramKeys), Failure> {
        let message = text(message)?;
        let (unproved, proof) = message.rsplit_once(",p=").ok_or_else(|| malformed("Attribute p expected."))?;
        let (binding, rest) = scram::attribute(unproved, 'c').ok_or_else(|| malformed("Attribute c expected."))?;
        let (nonce, _extensions) = scram::attribute(rest, 'r').ok_or_else(|| malformed("Attribute r expected."))?;
        if scram::decode(binding).as_deref() != Some(&self.binding) {
            return Err(PgError::fatal("28000", "SCRAM channel binding check failed").into());
        }
        if !scram::same(nonce.as_bytes(), self.nonce.as_bytes()) {
            return Err(violation("invalid SCRAM response", "Nonce does not match.").into());
        }
        let proof = scram::decode_key(proof).ok_or_else(|| malformed("Malformed proof in client-final-message."))?;

        let signed = format!("{},{unproved}", self.so_far);
        let signature = scram::hmac(&self.verifier.stored_key, signed.as_bytes());
        let client_key = scram::xor(&proof, &signature);
        // Both are always computed, so that the time tells nothing.
        let proved = scram::same(&scram::hash(&client_key), &self.verifier.stored_key);
        if !(proved & self.genuine) {
            return Err(Failure::WrongPassword);
        }
        let server_key = self.verifier.server_key;
        let answer = format!("v={}", scram::encode(&scram::hmac(&server_key, signed.as_bytes())));
        Ok((answer, ScramKeys { client_key, server_key }))
    }
}

/// `n=<ignored>,r=<nonce>[,extensions]`. The user is the one of the startup packet, as in PostgreSQL.
fn client_nonce(bare: &str) -> Result<&str, PgError> {
    if bare.starts_with("m=") {
        return Err(unsupported("client requires an unsupported SCRAM extension"));
    }
    let (_user, rest) = scram::attribute(bare, 'n').ok_or_else(|| malformed("Attribute n expected."))?;
    let (nonce, _extensions) = scram::attribute(rest, 'r').ok_or_else(|| malformed("Attribute r expected."))?;
    if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(violation("non-printable characters in SCRAM nonce", ""));
    }
    Ok(nonce)
}

fn text(message: &[u8]) -> Result<&str, PgError> {
    std::str::from_utf8(message)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| malformed("The message is no text."))
}

fn malformed(detail: &'static str) -> PgError {
    violation("malformed SCRAM message", detail)
}

fn violation(message: &'static str, detail: &'static str) -> PgError {
    let error = PgError::fatal("08P01", message);
    if detail.is_empty() { error } else { error.detail(detail) }
}

fn unsupported(message: &'static str) -> PgError {
    PgError::fatal("0A000", message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7677, section 3: the user "user" with the password "pencil".
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str =
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn offer(genuine: bool, end_point: Option<&[u8]>) -> Offer {
        let verifier = Verifier::derive("pencil", &scram::decode(SALT).unwrap(), 4096);
        Offer::new(verifier, genuine, end_point.map(<[u8]>::to_vec))
    }

    fn refusal(result: Result<impl Sized, Failure>) -> std::borrow::Cow<'static, str> {
        match result.err() {
            Some(Failure::Protocol(error)) => error.code,
            Some(Failure::WrongPassword) => "wrong password".into(),
            None => "accepted".into(),
        }
    }

    #[test]
    fn the_exchange_of_rfc_7677() {
        let (answer, state) = offer(true, None).client_first(SCRAM_SHA_256, CLIENT_FIRST.as_bytes(), NONCE).unwrap();
        assert_eq!(answer, SERVER_FIRST);
        let (answer, keys) = state.client_final(CLIENT_FINAL.as_bytes()).unwrap();
        assert_eq!(answer, SERVER_FINAL);
        assert_eq!(keys, scram::keys_of("pencil", &scram::decode(SALT).unwrap(), 4096));
    }

    #[test]
    fn a_made_up_verifier_accepts_no_proof() {
        let (answer, state) = offer(false, None).client_first(SCRAM_SHA_256, CLIENT_FIRST.as_bytes(), NONCE).unwrap();
        assert_eq!(answer, SERVER_FIRST);
        assert_eq!(state.client_final(CLIENT_FINAL.as_bytes()), Err(Failure::WrongPassword));
    }

    #[test]
    fn final_messages_that_do_not_fit_are_refused() {
        let last = |message: String| {
            let (_, state) = offer(true, None).client_first(SCRAM_SHA_256, CLIENT_FIRST.as_bytes(), NONCE).unwrap();
            refusal(state.client_final(message.as_bytes()))
        };
        assert_eq!(last(CLIENT_FINAL.replace("p=d", "p=e")), "wrong password");
        assert_eq!(last(CLIENT_FINAL.replace("k0,", "k1,")), "08P01");
        assert_eq!(last(CLIENT_FINAL.replace("biws", "eSws")), "28000");
        assert_eq!(last(CLIENT_FINAL.replace(",p=", ",q=")), "08P01");
        assert_eq!(last(format!("{CLIENT_FINAL},x=y")), "08P01");
        assert_eq!(last(String::new()), "08P01");
    }

    #[test]
    fn channel_binding_is_asked_and_given_in_agreement() {
        let first = |mechanism: &str, header: &str, end_point: Option<&[u8]>| {
            let message = format!("{header}n=,r=abc");
            refusal(offer(true, end_point).client_first(mechanism, message.as_bytes(), "xyz"))
        };
        let bound: Option<&[u8]> = Some(b"hash");
        assert_eq!(first(SCRAM_SHA_256, "n,,", None), "accepted");
        assert_eq!(first(SCRAM_SHA_256, "y,,", None), "accepted");
        assert_eq!(first(SCRAM_SHA_256, "n,,", bound), "accepted");
        assert_eq!(first(SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,", bound), "accepted");
        assert_eq!(first(SCRAM_SHA_256, "y,,", bound), "28000");
        assert_eq!(first(SCRAM_SHA_256_PLUS, "n,,", bound), "08P01");
        assert_eq!(first(SCRAM_SHA_256_PLUS, "p=tls-unique,,", bound), "08P01");
        assert_eq!(first(SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,", None), "08P01");
        assert_eq!(first(SCRAM_SHA_256, "p=tls-server-end-point,,", bound), "08P01");
        assert_eq!(first(SCRAM_SHA_256, "n,a=root,", None), "0A000");
        assert_eq!(first("SCRAM-SHA-1", "n,,", None), "08P01");
    }

    proptest! {
        #[test]
        fn no_message_panics(first in any::<Vec<u8>>(), rest in "[a-z=,]{0,20}", last in "[cnrp=,]{0,20}") {
            let offer = |end_point| Offer::new(Verifier::derive("pencil", b"salt", 1), true, end_point);
            let _ = offer(None).client_first(SCRAM_SHA_256, &first, NONCE);
            let _ = offer(Some(vec![7])).client_first(SCRAM_SHA_256_PLUS, rest.as_bytes(), NONCE);
            let (_, state) = offer(None).client_first(SCRAM_SHA_256, b"n,,n=,r=a", NONCE).unwrap();
            let _ = state.client_final(last.as_bytes());
        }
    }
}
