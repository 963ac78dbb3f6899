//! Frame headers: one tag byte and four bytes of length that count themselves
//! (PostgreSQL, "Messaging Overview"). Nothing here looks into a body.

use super::error::PgError;

/// Bytes of a header.
pub const HEADER: usize = 5;

/// Tags that a client sends (PostgreSQL, "Message Formats", marked F).
pub mod frontend {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// Tags that a server sends (PostgreSQL, "Message Formats", marked B).
pub mod backend {
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN: u8 = b'G';
    pub const COPY_OUT: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const ERROR: u8 = b'E';
    pub const FUNCTION_RESULT: u8 = b'V';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// PostgreSQL's `PQ_SMALL_MESSAGE_LIMIT` and `PQ_LARGE_MESSAGE_LIMIT`, in bytes after the tag.
const SMALL: usize = 10_000;
const LARGE: usize = 0x3fff_ffff;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes of the whole frame, header included.
    pub len: usize,
}

/// Why a header cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadFrame {
    /// A tag that this side does not send.
    Tag(u8),
    /// A length that this tag cannot have.
    Length { tag: u8, claimed: u32 },
}

impl BadFrame {
    /// What the peer is told before the connection is closed: nothing after a bad frame can be trusted.
    pub fn to_error(self) -> PgError {
        match self {
            Self::Tag(tag) => PgError::fatal("08P01", format!("invalid frontend message type {tag}")),
            Self::Length { tag, claimed } => PgError::fatal("08P01", "invalid message length")
                .detail(format!("A message of type {:?} claims {claimed} bytes.", char::from(tag))),
        }
    }
}

/// The header at the start of `bytes` from a client; `None` until all five bytes are there.
///
/// The limits are PostgreSQL's own (`SocketBackend` in `tcop/postgres.c`).
pub fn frontend_header(bytes: &[u8]) -> Result<Option<Header>, BadFrame> {
    use frontend::*;
    let Some((tag, claimed)) = split(bytes) else {
        return match bytes.first() {
            Some(&tag) if limit(tag).is_none() => Err(BadFrame::Tag(tag)),
            _ => Ok(None),
        };
    };
    fn limit(tag: u8) -> Option<usize> {
        match tag {
            QUERY | PARSE | BIND | FUNCTION_CALL | COPY_DATA => Some(LARGE),
            CLOSE | DESCRIBE | EXECUTE | FLUSH | SYNC | TERMINATE | COPY_DONE | COPY_FAIL => Some(SMALL),
            _ => None,
        }
    }
    let limit = limit(tag).ok_or(BadFrame::Tag(tag))?;
    whole(tag, claimed, limit)
}

/// The header at the start of `bytes` from a server; `None` until all five bytes are there.
pub fn backend_header(bytes: &[u8]) -> Result<Option<Header>, BadFrame> {
    match split(bytes) {
        Some((tag, claimed)) => whole(tag, claimed, i32::MAX as usize),
        None => Ok(None),
    }
}

fn split(bytes: &[u8]) -> Option<(u8, u32)> {
    let (&[tag, a, b, c, d], _) = bytes.split_first_chunk::<HEADER>()?;
    Some((tag, u32::from_be_bytes([a, b, c, d])))
}

fn whole(tag: u8, claimed: u32, limit: usize) -> Result<Option<Header>, BadFrame> {
    if claimed < 4 || claimed as usize > limit {
        return Err(BadFrame::Length { tag, claimed });
    }
    Ok(Some(Header { tag, len: claimed as usize + 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_five_bytes() {
        assert_eq!(frontend_header(b"Q\0\0\0"), Ok(None));
        assert_eq!(frontend_header(b"Q\0\0\0\x05"), Ok(Some(Header { tag: b'Q', len: 6 })));
        assert_eq!(backend_header(b""), Ok(None));
    }

    #[test]
    fn an_unknown_tag_is_refused_at_its_first_byte() {
        assert_eq!(frontend_header(b"!"), Err(BadFrame::Tag(b'!')));
        assert_eq!(frontend_header(b"!\0\0\0\x04"), Err(BadFrame::Tag(b'!')));
    }

    #[test]
    fn lengths_keep_to_postgresqls_limits() {
        assert_eq!(frontend_header(b"S\0\0\0\x03"), Err(BadFrame::Length { tag: b'S', claimed: 3 }));
        assert_eq!(frontend_header(b"S\0\0\x27\x11"), Err(BadFrame::Length { tag: b'S', claimed: 10_001 }));
        assert!(frontend_header(b"d\x3f\xff\xff\xff").is_ok());
        assert!(frontend_header(b"d\x40\0\0\0").is_err());
        assert!(backend_header(b"D\x7f\xff\xff\xff").is_ok());
        assert!(backend_header(b"D\x80\0\0\0").is_err());
    }
}
