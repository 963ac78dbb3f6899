//! The messages that we write ourselves, appended to a buffer: those of a server to its client
//! first, then those of a client to its server (PostgreSQL, "Message Formats").
//!
//! `pgwire` encodes what it can hold. Where it can't (a value that is not UTF-8, a packet
//! whose parameters keep their order) a message is written by hand through [`message`].
//!
//! Text given to these functions must hold no NUL: it would end the field early. Text from the
//! wire never does, and `server::connect` checks what comes from the configuration.

use bytes::{BufMut, Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::response::{NoticeResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, GssEncRequest, NegotiateProtocolVersion, Password, SASLInitialResponse,
    SASLResponse, SecretKey, SslRequest,
};
use pgwire::messages::terminate::Terminate;

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    encode(out, &Authentication::Ok);
}

/// AuthenticationMD5Password with its salt.
pub fn authentication_md5(out: &mut BytesMut, salt: [u8; 4]) {
    encode(out, &Authentication::MD5Password(salt.to_vec()));
}

/// AuthenticationSASL: the mechanisms, the preferred one first.
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    encode(out, &Authentication::SASL(mechanisms.iter().map(|name| name.to_string()).collect()));
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut BytesMut, data: &str) {
    encode(out, &Authentication::SASLContinue(Bytes::copy_from_slice(data.as_bytes())));
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut BytesMut, data: &str) {
    encode(out, &Authentication::SASLFinal(Bytes::copy_from_slice(data.as_bytes())));
}

/// NegotiateProtocolVersion: `version` is the whole version word (see
/// [`Startup::negotiate`](super::startup::Startup::negotiate)).
pub fn negotiate_protocol_version(out: &mut BytesMut, version: i32, unsupported: &[String]) {
    encode(out, &NegotiateProtocolVersion::new(version, unsupported.to_vec()));
}

/// ParameterStatus. Bytes rather than text, as a value may be in any encoding and of any length.
pub fn parameter_status(out: &mut BytesMut, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
    message(out, b'S', |out| {
        put_cstring(out, name.as_ref());
        put_cstring(out, value.as_ref());
    });
}

/// BackendKeyData with a key of 4 bytes (protocol 3.0) or up to 256 (3.2).
pub fn backend_key_data(out: &mut BytesMut, pid: i32, key: &[u8]) {
    encode(out, &BackendKeyData::new(pid, SecretKey::Bytes(Bytes::copy_from_slice(key))));
}

/// A message that a server has sent, with its body.
pub fn passed_on(out: &mut BytesMut, tag: u8, body: &[u8]) {
    message(out, tag, |out| out.put_slice(body));
}

/// Where a NotificationResponse has its sender's process id.
const NOTIFIER: std::ops::Range<usize> = super::frame::HEADER..super::frame::HEADER + 4;

/// Names another sender, by process id, in a whole NotificationResponse.
pub fn notified_by(frame: &mut [u8], process: i32) {
    if let Some(place) = frame.get_mut(NOTIFIER) {
        place.copy_from_slice(&process.to_be_bytes());
    }
}

/// ReadyForQuery with `I` (idle), `T` (in a transaction) or `E` (in a failed one).
pub fn ready_for_query(out: &mut BytesMut, status: u8) {
    let status = match status {
        b'T' => TransactionStatus::Transaction,
        b'E' => TransactionStatus::Error,
        _ => TransactionStatus::Idle,
    };
    encode(out, &ReadyForQuery::new(status));
}

/// NoticeResponse of severity NOTICE.
pub fn notice(out: &mut BytesMut, code: &str, text: &str) {
    notice_of(out, "NOTICE", code, text);
}

/// NoticeResponse of severity WARNING.
pub fn warning(out: &mut BytesMut, code: &str, text: &str) {
    notice_of(out, "WARNING", code, text);
}

fn notice_of(out: &mut BytesMut, severity: &str, code: &str, text: &str) {
    let fields = [(b'S', severity), (b'V', severity), (b'C', code), (b'M', text)];
    encode(out, &NoticeResponse::new(fields.map(|(tag, value)| (tag, value.replace('\0', " "))).to_vec()));
}

/// SSLRequest.
pub fn ssl_request(out: &mut BytesMut) {
    encode(out, &SslRequest::new());
}

/// GSSENCRequest. We never ask for it ourselves; it serves the tests of those who do.
pub fn gss_enc_request(out: &mut BytesMut) {
    encode(out, &GssEncRequest::new());
}

/// CancelRequest.
pub fn cancel_request(out: &mut BytesMut, pid: i32, key: &[u8]) {
    encode(out, &CancelRequest::new(pid, SecretKey::Bytes(Bytes::copy_from_slice(key))));
}

/// StartupMessage of protocol 3.`minor`, the parameters in the order given.
pub fn startup_message<'a>(out: &mut BytesMut, minor: u16, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    sized(out, |out| {
        out.put_u16(3);
        out.put_u16(minor);
        for (name, value) in parameters {
            put_cstring(out, name.as_bytes());
            put_cstring(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

/// PasswordMessage: a password in plain or an md5 answer.
pub fn password_message(out: &mut BytesMut, password: &str) {
    encode(out, &Password::new(password.to_owned()));
}

/// SASLInitialResponse.
pub fn sasl_initial_response(out: &mut BytesMut, mechanism: &str, data: &str) {
    let data = Bytes::copy_from_slice(data.as_bytes());
    encode(out, &SASLInitialResponse::new(mechanism.to_owned(), Some(data)));
}

/// SASLResponse.
pub fn sasl_response(out: &mut BytesMut, data: &str) {
    encode(out, &SASLResponse::new(Bytes::copy_from_slice(data.as_bytes())));
}

/// Query.
pub fn query(out: &mut BytesMut, sql: impl AsRef<[u8]>) {
    message(out, b'Q', |out| {
        out.put_slice(sql.as_ref());
        out.put_u8(0);
    });
}

/// A whole `ErrorResponse` with one more field, its detail.
pub fn with_detail(frame: &[u8], detail: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    message(&mut out, frame[0], |out| {
        // Without the byte that ends the fields.
        out.put_slice(&frame[super::frame::HEADER..frame.len() - 1]);
        out.put_u8(b'D');
        out.put_slice(detail.as_bytes());
        out.put_slice(&[0, 0]);
    });
    out.to_vec()
}

/// Terminate.
pub fn terminate(out: &mut BytesMut) {
    encode(out, &Terminate::new());
}

/// Appends a tagged message whose body `body` writes, with the length filled in afterwards.
pub fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    sized(out, body);
}

fn sized(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_i32(0);
    body(out);
    // Bodies here are far below 2 GiB.
    let length = (out.len() - start) as i32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn put_cstring(out: &mut BytesMut, text: &[u8]) {
    debug_assert!(!text.contains(&0), "a NUL would end the field early");
    out.put_slice(text);
    out.put_u8(0);
}

fn encode(out: &mut BytesMut, message: &impl Message) {
    let start = out.len();
    let encoded = message.encode(out);
    debug_assert!(encoded.is_ok(), "{encoded:?}");
    if encoded.is_err() {
        // `pgwire` writes the tag before it finds a message too large: leave no half of one.
        out.truncate(start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::from(&b"before"[..]);
        write(&mut out);
        out[6..].to_vec()
    }

    #[test]
    fn messages_have_the_manuals_layout() {
        assert_eq!(written(authentication_ok), b"R\0\0\0\x08\0\0\0\0");
        assert_eq!(written(|out| authentication_md5(out, [1, 2, 3, 4])), b"R\0\0\0\x0c\0\0\0\x05\x01\x02\x03\x04");
        assert_eq!(written(|out| authentication_sasl(out, &["A", "B"])), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0");
        assert_eq!(written(|out| parameter_status(out, "a", b"\xff")), b"S\0\0\0\x08a\0\xff\0");
        assert_eq!(written(|out| backend_key_data(out, 1, &[9; 4])), b"K\0\0\0\x0c\0\0\0\x01\x09\x09\x09\x09");
        assert_eq!(written(|out| ready_for_query(out, b'E')), b"Z\0\0\0\x05E");
        assert_eq!(
            written(|out| startup_message(out, 0, [("b", "1"), ("a", "")])),
            b"\0\0\0\x10\0\x03\0\0b\x001\0a\0\0\0"
        );
        assert_eq!(
            written(|out| cancel_request(out, 1, &[9; 4])),
            b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\x09\x09\x09\x09"
        );
        let options = ["_pq_.x".to_owned()];
        assert_eq!(
            written(|out| negotiate_protocol_version(out, 196_610, &options)),
            b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0"
        );
    }

    #[test]
    fn a_long_parameter_status_is_written_whole() {
        let value = vec![b'x'; 100_000];
        assert_eq!(written(|out| parameter_status(out, "search_path", &value)).len(), 1 + 4 + 12 + 100_001);
    }
}
