//! The untagged packets that open a connection: SSLRequest, GSSENCRequest, CancelRequest and the
//! StartupMessage (PostgreSQL, "Message Formats"). Pure: bytes in, a [`FirstPacket`] or the error
//! that the client is to see out.

use super::error::PgError;

/// The newest minor version of protocol 3 that we speak.
pub const NEWEST_MINOR: u16 = 2;

const CANCEL_REQUEST: i32 = 80_877_102;
const SSL_REQUEST: i32 = 80_877_103;
const GSS_ENC_REQUEST: i32 = 80_877_104;
/// The record type "handshake" of TLS. As the first byte of a length it would mean 369 MB, so it
/// can't open a packet of ours.
const TLS_HANDSHAKE: u8 = 0x16;
/// Length and code: nothing shorter is a packet.
const SHORTEST: usize = 8;

/// What a client may open a connection with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    SslRequest,
    GssEncRequest,
    Cancel {
        pid: i32,
        /// 4 bytes up to protocol 3.1, 4 to 256 from 3.2.
        key: Vec<u8>,
    },
    Startup(Startup),
    /// A TLS ClientHello without an SSLRequest before it (`sslnegotiation=direct`).
    DirectTls,
}

/// A StartupMessage of protocol 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The minor version asked for, whether or not we speak it.
    pub minor: u16,
    /// In the order sent, `user`, `database`, `options` and `replication` among them, the
    /// `_pq_.` names not.
    pub parameters: Vec<(String, String)>,
    /// Protocol options (`_pq_.` names). None is defined yet, so all are unsupported.
    pub unsupported: Vec<String>,
}

impl FirstPacket {
    /// Reads the packet at the start of `buffer` and says how many bytes it took; `None` while it
    /// is incomplete. [`FirstPacket::DirectTls`] takes none: its bytes belong to TLS.
    ///
    /// `limit` is the longest packet accepted, in bytes with its length word.
    ///
    /// Errors: 08P01 for a bad length or layout, 0A000 for another major version, 22021 for
    /// text that is not UTF-8. All are fatal.
    pub fn read(buffer: &[u8], limit: usize) -> Result<Option<(Self, usize)>, PgError> {
        if buffer.first() == Some(&TLS_HANDSHAKE) {
            return Ok(Some((Self::DirectTls, 0)));
        }
        let Some((length, _)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
        let claimed = i32::from_be_bytes(*length);
        let length =
            usize::try_from(claimed).ok().filter(|length| (SHORTEST..=limit).contains(length)).ok_or_else(|| {
                PgError::fatal("08P01", format!("invalid length of startup packet: {claimed} bytes"))
                    .detail(format!("A startup packet has {SHORTEST} to {limit} bytes."))
                    .hint("Is this a PostgreSQL client? See max_startup_packet in the section [listen].")
            })?;
        if buffer.len() < length {
            return Ok(None);
        }
        Self::parse(&buffer[4..length]).map(|packet| Some((packet, length)))
    }

    /// `packet` is without its length word and at least 4 bytes long.
    fn parse(packet: &[u8]) -> Result<Self, PgError> {
        let Some((code, body)) = packet.split_first_chunk::<4>() else { return Err(bad_layout()) };
        match i32::from_be_bytes(*code) {
            SSL_REQUEST if body.is_empty() => Ok(Self::SslRequest),
            GSS_ENC_REQUEST if body.is_empty() => Ok(Self::GssEncRequest),
            CANCEL_REQUEST => parse_cancel(body),
            SSL_REQUEST | GSS_ENC_REQUEST => Err(bad_layout()),
            _ => {
                let [a, b, c, d] = *code;
                let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Startup::parse(major, minor, body).map(Self::Startup)
            }
        }
    }
}

impl Startup {
    fn parse(major: u16, minor: u16, body: &[u8]) -> Result<Self, PgError> {
        if major != 3 {
            return Err(unsupported_protocol(major, minor));
        }
        let mut startup = Self { minor, parameters: Vec::new(), unsupported: Vec::new() };
        let mut rest = body;
        loop {
            let (name, after_name) = cstring(rest)?;
            if name.is_empty() {
                return if after_name.is_empty() { Ok(startup) } else { Err(bad_layout()) };
            }
            let (value, after_value) = cstring(after_name)?;
            startup.add(name, value)?;
            rest = after_value;
        }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), PgError> {
        let name = std::str::from_utf8(name).map_err(|_| not_utf8(&String::from_utf8_lossy(name)))?;
        if self.parameters.iter().any(|(known, _)| known == name) || self.unsupported.iter().any(|n| n == name) {
            return Err(PgError::fatal(
                "08P01",
                format!("invalid startup packet layout: parameter \"{name}\" given twice"),
            ));
        }
        if name.starts_with("_pq_.") {
            self.unsupported.push(name.to_owned());
            return Ok(());
        }
        let value = match std::str::from_utf8(value) {
            Ok(value) => value.to_owned(),
            // PostgreSQL keeps only the printable ASCII of this one, and so never refuses it.
            Err(_) if name == "application_name" => clean_ascii(value),
            Err(_) => return Err(not_utf8(name)),
        };
        self.parameters.push((name.to_owned(), value));
        Ok(())
    }

    /// The value of one parameter, by its exact name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The minor version that both sides speak from here on: 0 or 2. PostgreSQL 18 takes 3.1
    /// without a word and treats it as 3.0, and so do we.
    pub fn negotiated_minor(&self) -> u16 {
        if self.minor >= NEWEST_MINOR { NEWEST_MINOR } else { 0 }
    }

    /// The version word of the NegotiateProtocolVersion that this startup needs, if it needs one:
    /// the lesser of what was asked for and what we speak, as PostgreSQL 18 answers. The manual
    /// calls this field a minor version, but every server sends, and libpq expects, the whole
    /// version with its major number.
    pub fn negotiate(&self) -> Option<i32> {
        let needed = self.minor > NEWEST_MINOR || !self.unsupported.is_empty();
        needed.then(|| (3 << 16) | i32::from(self.minor.min(NEWEST_MINOR)))
    }
}

fn parse_cancel(body: &[u8]) -> Result<FirstPacket, PgError> {
    match body.split_first_chunk::<4>() {
        Some((pid, key)) if (4..=256).contains(&key.len()) => {
            Ok(FirstPacket::Cancel { pid: i32::from_be_bytes(*pid), key: key.to_vec() })
        }
        _ => Err(PgError::fatal("08P01", format!("invalid length of cancel request: {} bytes", body.len() + 8))
            .detail("A cancel key has 4 to 256 bytes.")),
    }
}

/// Splits off the text before the next NUL.
fn cstring(bytes: &[u8]) -> Result<(&[u8], &[u8]), PgError> {
    let end = bytes.iter().position(|&byte| byte == 0).ok_or_else(bad_layout)?;
    Ok((&bytes[..end], &bytes[end + 1..]))
}

fn clean_ascii(value: &[u8]) -> String {
    value.iter().map(|&byte| if (32..127).contains(&byte) { char::from(byte) } else { '?' }).collect()
}

fn bad_layout() -> PgError {
    PgError::fatal("08P01", "invalid startup packet layout: expected terminator as last byte")
}

fn not_utf8(name: &str) -> PgError {
    PgError::fatal("22021", format!("invalid byte sequence for encoding \"UTF8\" in startup parameter \"{name}\""))
        .hint("Startup parameters pass through pgweir as UTF-8.")
}

fn unsupported_protocol(major: u16, minor: u16) -> PgError {
    PgError::fatal(
        "0A000",
        format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 10_000;

    fn packet(code: i32, body: &[u8]) -> Vec<u8> {
        let mut packet = (body.len() as i32 + 8).to_be_bytes().to_vec();
        packet.extend(code.to_be_bytes());
        packet.extend(body);
        packet
    }

    fn startup(body: &[u8]) -> Result<Startup, PgError> {
        match FirstPacket::read(&packet(3 << 16, body), LIMIT)? {
            Some((FirstPacket::Startup(startup), _)) => Ok(startup),
            other => panic!("not a startup: {other:?}"),
        }
    }

    #[test]
    fn requests_are_told_apart() {
        let read = |code, body: &[u8]| FirstPacket::read(&packet(code, body), LIMIT).unwrap().unwrap().0;
        assert_eq!(read(SSL_REQUEST, b""), FirstPacket::SslRequest);
        assert_eq!(read(GSS_ENC_REQUEST, b""), FirstPacket::GssEncRequest);
        let cancel = read(CANCEL_REQUEST, &[0, 0, 0, 7, 1, 2, 3, 4, 5]);
        assert_eq!(cancel, FirstPacket::Cancel { pid: 7, key: vec![1, 2, 3, 4, 5] });
        assert_eq!(FirstPacket::read(&[0x16], LIMIT), Ok(Some((FirstPacket::DirectTls, 0))));
    }

    #[test]
    fn cancel_keys_have_4_to_256_bytes() {
        for (length, good) in [(3, false), (4, true), (256, true), (257, false)] {
            let body = vec![0; 4 + length];
            assert_eq!(FirstPacket::read(&packet(CANCEL_REQUEST, &body), LIMIT).is_ok(), good, "{length}");
        }
    }

    #[test]
    fn lengths_outside_the_limits_are_refused_before_the_body_comes() {
        for claimed in [i32::MIN, -1, 0, 7, 10_001, i32::MAX & 0x15ff_ffff] {
            let error = FirstPacket::read(&claimed.to_be_bytes(), LIMIT).unwrap_err();
            assert_eq!(error.code, "08P01", "{claimed}");
        }
        assert_eq!(FirstPacket::read(&8i32.to_be_bytes(), LIMIT), Ok(None));
        assert_eq!(FirstPacket::read(&10_000i32.to_be_bytes(), LIMIT), Ok(None));
    }

    #[test]
    fn layout_errors_are_protocol_violations() {
        let bodies: [&[u8]; 6] = [b"", b"user\0", b"user\0a", b"user\0a\0", b"user\0a\0\0x", b"user\0a\0user\0b\0\0"];
        for body in bodies {
            assert_eq!(startup(body).unwrap_err().code, "08P01", "{body:?}");
        }
    }

    #[test]
    fn other_major_versions_are_refused_in_postgres_words() {
        let error = FirstPacket::read(&packet(2 << 16, b"\0"), LIMIT).unwrap_err();
        assert_eq!(error.code, "0A000");
        assert_eq!(error.message, "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
    }

    #[test]
    fn minor_versions_are_negotiated_as_postgres_18_does() {
        let asked =
            |minor: u16, body: &[u8]| match FirstPacket::read(&packet((3 << 16) | i32::from(minor), body), LIMIT)
                .unwrap()
                .unwrap()
                .0
            {
                FirstPacket::Startup(startup) => (startup.negotiated_minor(), startup.negotiate()),
                other => panic!("{other:?}"),
            };
        assert_eq!(asked(0, b"\0"), (0, None));
        assert_eq!(asked(1, b"\0"), (0, None));
        assert_eq!(asked(2, b"\0"), (2, None));
        assert_eq!(asked(3, b"\0"), (2, Some(196_610)));
        assert_eq!(asked(9999, b"\0"), (2, Some(196_610)));
        assert_eq!(asked(0, b"_pq_.x\0on\0\0"), (0, Some(196_608)));
    }

    #[test]
    fn text_that_is_not_utf8_is_named_or_cleaned() {
        assert_eq!(startup(b"application_name\0caf\xe9\0\0").unwrap().get("application_name"), Some("caf?"));
        assert_eq!(startup(b"user\0caf\xe9\0\0").unwrap_err().code, "22021");
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = FirstPacket::read(&bytes, LIMIT);
            let _ = startup(&bytes);
        }

        #[test]
        fn a_startup_comes_back_as_sent(pairs in proptest::collection::btree_map("[a-z]{1,8}", "[^\0]{0,16}", 0..8)) {
            let mut body = Vec::new();
            for (name, value) in &pairs {
                body.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
            }
            body.push(0);
            let parameters: Vec<_> = pairs.into_iter().collect();
            prop_assert_eq!(startup(&body).unwrap().parameters, parameters);
        }

        #[test]
        fn a_prefix_is_incomplete(cut in 1usize..20) {
            let whole = packet(3 << 16, b"user\0alice\0\0");
            prop_assert_eq!(FirstPacket::read(&whole[..cut.min(whole.len() - 1)], LIMIT), Ok(None));
        }
    }
}
