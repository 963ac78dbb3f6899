//! Reads the client's frames: the one match on frontend tags. What comes out is a [`Request`], which
//! says how much of the frame has to be understood and how much may just stream past.

use crate::wire::frame::{BadFrame, HEADER, Header, frontend, frontend_header};
use crate::wire::view::{self, BindHead, Head, Parse, Target};

/// A `Query` up to this long, in bytes, is read whole before it is routed; a longer one is not
/// classified and streams to the primary.
pub const LONGEST_QUERY: usize = 20 * 1024;
/// A `Parse` up to this long is read whole, so that it can be repeated on another connection; and a `Query` of those whose
/// every word counts.
pub const LONGEST_WHOLE: usize = 1 << 20;
/// Bytes of a longer one that are looked at.
const LONG_HEAD: usize = 512;
/// PostgreSQL has no limit of its own on a name in `Bind`; identifiers are 63 bytes.
const LONGEST_BIND_HEAD: usize = 16 * 1024;

/// One message of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    Query(&'a [u8]),
    /// Too long to be looked at, save its beginning.
    LongQuery {
        head: &'a [u8],
    },
    Parse(Parse<'a>),
    /// Too long to be kept: whether it has a name, and the beginning of its text where it has none.
    LongParse {
        named: bool,
        head: &'a [u8],
    },
    Bind(BindHead<'a>),
    Describe(Target<'a>),
    Close(Target<'a>),
    /// Of the portal with this name.
    Execute(&'a [u8]),
    /// Of the function with this OID.
    FunctionCall(u32),
    Flush,
    Sync,
    CopyData,
    /// `CopyDone` or `CopyFail`.
    CopyEnd,
    Terminate,
}

/// What the buffer holds at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read<'a> {
    /// The frame's length is `len`; it may be longer than the buffer.
    Request { request: Request<'a>, len: usize },
    /// More bytes are needed. `reserve` is the length of the frame when all of it is.
    Partial { reserve: Option<usize> },
}

/// Is the text of a simple query too long for most to be read whole?
pub fn is_long(text: &[u8]) -> bool {
    text.len() + HEADER + 1 > LONGEST_QUERY
}

/// The request at the start of `data`. `longest_query`: of a `Query` that is read whole, in bytes, [`LONGEST_QUERY`] or more.
pub fn read(data: &[u8], longest_query: usize) -> Result<Read<'_>, Malformed> {
    let Some(Header { tag, len }) = frontend_header(data)? else { return Ok(Read::Partial { reserve: None }) };
    let malformed = Malformed::Body(tag);
    let whole = data.get(..len);
    let wait = Ok(Read::Partial { reserve: Some(len) });
    let request = match tag {
        frontend::QUERY if len > longest_query => match data.get(HEADER..HEADER + LONG_HEAD) {
            Some(head) => Request::LongQuery { head },
            None => return Ok(Read::Partial { reserve: None }),
        },
        frontend::QUERY => match whole {
            Some(frame) => Request::Query(view::query(frame).ok_or(malformed)?),
            None => return wait,
        },
        frontend::PARSE if len > LONGEST_WHOLE => match data.get(HEADER..HEADER + LONG_HEAD) {
            Some([0, head @ ..]) => Request::LongParse { named: false, head },
            Some(_) => Request::LongParse { named: true, head: &[] },
            None => return Ok(Read::Partial { reserve: None }),
        },
        frontend::PARSE => match whole {
            Some(frame) => Request::Parse(Parse::read(frame).ok_or(malformed)?),
            None => return wait,
        },
        // Never more than its longest head, so that it does not matter how much has come.
        frontend::BIND => match BindHead::read(&data[..data.len().min(LONGEST_BIND_HEAD)], len) {
            Head::Complete(head) => Request::Bind(head),
            Head::Partial if data.len() < LONGEST_BIND_HEAD => return Ok(Read::Partial { reserve: None }),
            Head::Partial | Head::Malformed => return Err(malformed),
        },
        frontend::DESCRIBE | frontend::CLOSE => match whole {
            None => return wait,
            Some(frame) => {
                let target = Target::read(frame).ok_or(malformed)?;
                if tag == frontend::CLOSE { Request::Close(target) } else { Request::Describe(target) }
            }
        },
        _ if whole.is_none() && !matches!(tag, frontend::COPY_DATA | frontend::FUNCTION_CALL) => return wait,
        // PostgreSQL fails at these too, but the ledger has no place for the error of a `Flush`.
        frontend::FLUSH | frontend::SYNC if len != HEADER => return Err(malformed),
        frontend::EXECUTE => Request::Execute(view::executed(&data[..len])),
        frontend::FUNCTION_CALL => match data.get(HEADER..HEADER + 4) {
            Some(oid) => Request::FunctionCall(u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]])),
            None if whole.is_some() => return Err(malformed),
            None => return Ok(Read::Partial { reserve: None }),
        },
        frontend::FLUSH => Request::Flush,
        frontend::SYNC => Request::Sync,
        frontend::COPY_DATA => Request::CopyData,
        frontend::COPY_DONE | frontend::COPY_FAIL => Request::CopyEnd,
        frontend::TERMINATE => Request::Terminate,
        _ => return Err(Malformed::Frame(BadFrame::Tag(tag))),
    };
    Ok(Read::Request { request, len })
}

/// Why a frame cannot be read: the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    Frame(BadFrame),
    /// The body does not have the shape of its tag.
    Body(u8),
}

impl From<BadFrame> for Malformed {
    fn from(bad: BadFrame) -> Self {
        Self::Frame(bad)
    }
}

impl Malformed {
    pub fn to_error(self) -> crate::wire::error::PgError {
        match self {
            Self::Frame(bad) => bad.to_error(),
            Self::Body(tag) => crate::wire::error::PgError::fatal("08P01", "invalid message format")
                .detail(format!("The body of a message of type {:?} does not have its shape.", char::from(tag)))
                .hint("The client driver does not keep to PostgreSQL's protocol, or bytes were lost."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(data: &[u8]) -> Result<Read<'_>, Malformed> {
        super::read(data, LONGEST_QUERY)
    }

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![tag];
        frame.extend((body.len() as u32 + 4).to_be_bytes());
        frame.extend(body);
        frame
    }

    #[test]
    fn a_query_waits_until_it_is_whole() {
        let whole = frame(b'Q', b"SELECT 1\0");
        for cut in 0..whole.len() {
            assert!(matches!(read(&whole[..cut]), Ok(Read::Partial { .. })), "cut at {cut}");
        }
        let request = Request::Query(b"SELECT 1");
        assert_eq!(read(&whole), Ok(Read::Request { request, len: whole.len() }));
    }

    #[test]
    fn what_only_streams_is_known_by_its_header() {
        let mut head = vec![b'd'];
        head.extend((1u32 << 29).to_be_bytes());
        assert_eq!(read(&head), Ok(Read::Request { request: Request::CopyData, len: (1 << 29) + 1 }));
    }

    #[test]
    fn what_is_too_long_is_known_by_its_beginning() {
        let long = |tag: u8, body: &[u8]| [&[tag], &(1u32 << 29).to_be_bytes()[..], body].concat();
        let (text, len) = ([b'x'; LONG_HEAD], (1 << 29) + 1);
        let whole = long(b'Q', &text);
        assert_eq!(read(&whole[..whole.len() - 1]), Ok(Read::Partial { reserve: None }));
        assert_eq!(read(&whole), Ok(Read::Request { request: Request::LongQuery { head: &text }, len }));
        let named = Request::LongParse { named: true, head: &[] };
        assert_eq!(read(&long(b'P', &text)), Ok(Read::Request { request: named, len }));
        let unnamed = long(b'P', &[&[0], &text[1..]].concat());
        let request = Request::LongParse { named: false, head: &text[1..] };
        assert_eq!(read(&unnamed), Ok(Read::Request { request, len }));
    }

    #[test]
    fn a_query_is_read_as_far_as_its_session_has_to_be_heard() {
        let text = vec![b'x'; LONGEST_QUERY];
        let whole = frame(b'Q', &[&text[..], b"\0"].concat());
        let (len, longest) = (whole.len(), whole.len());
        assert!(is_long(&text) && !is_long(&text[HEADER + 1..]));
        assert_eq!(read(&whole), Ok(Read::Request { request: Request::LongQuery { head: &text[..LONG_HEAD] }, len }));
        assert_eq!(super::read(&whole, longest), Ok(Read::Request { request: Request::Query(&text), len }));
        assert_eq!(super::read(&whole[..len - 1], longest), Ok(Read::Partial { reserve: Some(len) }));
        let request = Request::LongQuery { head: &text[..LONG_HEAD] };
        assert_eq!(super::read(&whole, longest - 1), Ok(Read::Request { request, len }));
    }

    #[test]
    fn bodies_without_their_shape_are_refused() {
        assert_eq!(read(&frame(b'Q', b"SELECT 1")), Err(Malformed::Body(b'Q')));
        assert_eq!(read(&frame(b'Q', b"SELECT\x001\0")), Err(Malformed::Body(b'Q')));
        assert_eq!(read(&frame(b'C', b"Xname\0")), Err(Malformed::Body(b'C')));
        assert_eq!(read(&frame(b'B', b"p\0s")), Err(Malformed::Body(b'B')));
    }

    #[test]
    fn names_that_are_too_long_are_refused_however_they_come() {
        let whole = frame(b'B', &[&[b'p'; LONGEST_BIND_HEAD][..], &[0; 8]].concat());
        assert_eq!(read(&whole), Err(Malformed::Body(b'B')));
        assert_eq!(read(&whole[..LONGEST_BIND_HEAD]), Err(Malformed::Body(b'B')));
        assert_eq!(read(&whole[..LONGEST_BIND_HEAD - 1]), Ok(Read::Partial { reserve: None }));
    }

    #[test]
    fn messages_without_a_body_have_none() {
        for tag in [b'H', b'S'] {
            assert!(matches!(read(&frame(tag, b"")), Ok(Read::Request { .. })));
            assert_eq!(read(&frame(tag, b"x")), Err(Malformed::Body(tag)));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Read::Request { len, .. }) = read(&bytes) {
                prop_assert!(len >= 5);
            }
        }
    }
}
