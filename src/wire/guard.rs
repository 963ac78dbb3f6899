//! The only door to the decoders of the `pgwire` crate. They trust their input: a short body
//! panics, and a string without its end reads into whatever follows. Every function here takes the
//! body of one message (what follows the length word), checks its whole shape, and only then
//! decodes it (PostgreSQL, "Message Formats").

use bytes::{Bytes, BytesMut};
use pgwire::error::PgWireError;
use pgwire::messages::response::{ErrorResponse, ReadyForQuery};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, Password, SASLInitialResponse,
};
use pgwire::messages::{DecodeContext, Message};

use super::error::PgError;

/// A message whose body does not have the shape of its kind. Holds the name of the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0} message")]
pub struct Malformed(pub &'static str);

impl From<Malformed> for PgError {
    fn from(malformed: Malformed) -> Self {
        Self::fatal("08P01", malformed.to_string())
    }
}

/// The `Authentication…` messages that a server may send us.
pub fn authentication(body: &[u8]) -> Result<Authentication, Malformed> {
    let kind = Malformed("Authentication");
    let (code, data) = body.split_first_chunk::<4>().ok_or(kind)?;
    let good = match i32::from_be_bytes(*code) {
        0 | 2 | 3 => data.is_empty(),
        5 => data.len() == 4,
        10 => data.last() == Some(&0) && (data.len() == 1 || data.ends_with(b"\0\0")),
        11 | 12 => true,
        _ => false,
    };
    decode(body, good, kind)
}

/// The mechanism that a client chose and its first message, which it may leave out.
pub fn sasl_initial_response(body: &[u8]) -> Result<(String, Option<Bytes>), Malformed> {
    let kind = Malformed("SASLInitialResponse");
    let end = body.iter().position(|&byte| byte == 0).ok_or(kind)?;
    let (length, data) = body[end + 1..].split_first_chunk::<4>().ok_or(kind)?;
    let good = match i32::from_be_bytes(*length) {
        -1 => data.is_empty(),
        length => usize::try_from(length) == Ok(data.len()),
    };
    let message: SASLInitialResponse = decode(body, good, kind)?;
    Ok((message.auth_method, message.data))
}

/// A PasswordMessage: one string and nothing after it.
pub fn password(body: &[u8]) -> Result<String, Malformed> {
    let good = strings(body) == Some(1);
    decode(body, good, Malformed("Password")).map(|message: Password| message.password)
}

/// The fields of an ErrorResponse or a NoticeResponse, in order, by their type byte.
pub fn error_response(body: &[u8]) -> Result<Vec<(u8, String)>, Malformed> {
    let kind = Malformed("ErrorResponse");
    let mut rest = body;
    while let [1..=255, text @ ..] = rest {
        let end = text.iter().position(|&byte| byte == 0).ok_or(kind)?;
        rest = &text[end + 1..];
    }
    decode(body, rest == [0], kind).map(|message: ErrorResponse| message.fields)
}

/// The name and the value of a ParameterStatus.
pub fn parameter_status(body: &[u8]) -> Result<(String, String), Malformed> {
    let good = strings(body) == Some(2);
    decode(body, good, Malformed("ParameterStatus")).map(|message: ParameterStatus| (message.name, message.value))
}

/// The process id and the cancel key (4 to 256 bytes) of a BackendKeyData.
pub fn backend_key_data(body: &[u8]) -> Result<(i32, Vec<u8>), Malformed> {
    let good = (8..=260).contains(&body.len());
    let message: BackendKeyData = decode(body, good, Malformed("BackendKeyData"))?;
    Ok((message.pid, message.secret_key.to_bytes().to_vec()))
}

/// The version word and the unsupported options of a NegotiateProtocolVersion.
pub fn negotiate_protocol_version(body: &[u8]) -> Result<(i32, Vec<String>), Malformed> {
    let kind = Malformed("NegotiateProtocolVersion");
    let (_version, rest) = body.split_first_chunk::<4>().ok_or(kind)?;
    let (count, names) = rest.split_first_chunk::<4>().ok_or(kind)?;
    let good = usize::try_from(i32::from_be_bytes(*count)).ok() == strings(names);
    let message: NegotiateProtocolVersion = decode(body, good, kind)?;
    Ok((message.newest_minor_protocol, message.unsupported_options))
}

/// The transaction status of a ReadyForQuery: `I`, `T` or `E`.
pub fn ready_for_query(body: &[u8]) -> Result<u8, Malformed> {
    let good = matches!(body, [b'I' | b'T' | b'E']);
    decode(body, good, Malformed("ReadyForQuery")).map(|message: ReadyForQuery| message.status as u8)
}

/// Decodes a body that was found good. The copy gives `pgwire` the buffer that it wants to eat.
fn decode<M: Message>(body: &[u8], good: bool, kind: Malformed) -> Result<M, Malformed> {
    if !good {
        return Err(kind);
    }
    let context = DecodeContext::default();
    M::decode_body(&mut BytesMut::from(body), body.len() + 4, &context).map_err(|_: PgWireError| kind)
}

/// How many NUL-terminated strings make up `bytes`; `None` when the last one has no end.
fn strings(bytes: &[u8]) -> Option<usize> {
    let whole = bytes.is_empty() || bytes.last() == Some(&0);
    whole.then(|| bytes.iter().filter(|&&byte| byte == 0).count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_messages_pass() {
        assert_eq!(authentication(&[0; 4]), Ok(Authentication::Ok));
        assert_eq!(authentication(b"\0\0\0\x0aA\0\0"), Ok(Authentication::SASL(vec!["A".to_owned()])));
        assert_eq!(sasl_initial_response(b"S\0\xff\xff\xff\xff"), Ok(("S".to_owned(), None)));
        assert_eq!(sasl_initial_response(b"S\0\0\0\0\x01x"), Ok(("S".to_owned(), Some(Bytes::from_static(b"x")))));
        assert_eq!(password(b"secret\0"), Ok("secret".to_owned()));
        assert_eq!(password(b"\0"), Ok(String::new()));
        assert_eq!(error_response(b"CX\0M\0\0"), Ok(vec![(b'C', "X".to_owned()), (b'M', String::new())]));
        assert_eq!(parameter_status(b"a\0\0"), Ok(("a".to_owned(), String::new())));
        assert_eq!(backend_key_data(&[0, 0, 0, 1, 9, 9, 9, 9]), Ok((1, vec![9; 4])));
        assert_eq!(negotiate_protocol_version(&[0, 3, 0, 0, 0, 0, 0, 0]), Ok((196_608, vec![])));
        assert_eq!(ready_for_query(b"T"), Ok(b'T'));
    }

    #[test]
    fn bad_shapes_are_refused() {
        assert!(authentication(&[0; 3]).is_err());
        assert!(authentication(&[0, 0, 0, 5, 1]).is_err());
        assert!(authentication(b"\0\0\0\x0aA\0").is_err());
        assert!(sasl_initial_response(b"S\0\0\0\0\x02x").is_err());
        assert!(sasl_initial_response(b"S").is_err());
        assert!(password(b"secret").is_err());
        assert!(password(b"a\0b\0").is_err());
        assert!(error_response(b"CX\0").is_err());
        assert!(error_response(b"CX\0\0\0").is_err());
        assert!(parameter_status(b"a\0b").is_err());
        assert!(backend_key_data(&[0; 7]).is_err());
        assert!(negotiate_protocol_version(&[0, 3, 0, 0, 0, 0, 0, 1]).is_err());
        assert!(ready_for_query(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..40)) {
            let _ = authentication(&body);
            let _ = sasl_initial_response(&body);
            let _ = password(&body);
            let _ = error_response(&body);
            let _ = parameter_status(&body);
            let _ = backend_key_data(&body);
            let _ = negotiate_protocol_version(&body);
            let _ = ready_for_query(&body);
        }
    }
}
