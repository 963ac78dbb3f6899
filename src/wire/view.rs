//! Borrowed views of the few messages that the relay has to understand. Every reader is bounded by
//! the frame it was given and returns `None` for a body that does not have the message's shape.

use xxhash_rust::xxh3::Xxh3;

use super::frame::HEADER;

/// `Query`: the text without its terminator.
pub fn query(frame: &[u8]) -> Option<&[u8]> {
    let (text, rest) = cstring(frame.get(HEADER..)?)?;
    rest.is_empty().then_some(text)
}

/// `Parse`: the client's name for the statement, its text, and what follows the text unread
/// (a count and that many type OIDs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub text: &'a [u8],
    /// Text, terminator and types: what makes two statements the same.
    pub identity: &'a [u8],
}

impl<'a> Parse<'a> {
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let (name, identity) = cstring(frame.get(HEADER..)?)?;
        let (text, types) = cstring(identity)?;
        let (&count, oids) = types.split_first_chunk::<2>()?;
        let count = usize::from(u16::from_be_bytes(count));
        (oids.len() == 4 * count).then_some(Self { name, text, identity })
    }
}

/// `Execute`: the portal's name. What is wrong with the rest is the server's to say.
pub fn executed(frame: &[u8]) -> &[u8] {
    let body = frame.get(HEADER..).unwrap_or_default();
    cstring(body).map_or(body, |(portal, _)| portal)
}

/// The head of a `Bind`, which may be far longer than what is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindHead<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
}

/// What a look at the start of a frame found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head<T> {
    Complete(T),
    /// More bytes of the frame are needed.
    Partial,
    /// The frame ends before its names do.
    Malformed,
}

impl<'a> BindHead<'a> {
    /// Reads from `bytes`, the first bytes of a frame of `len`.
    pub fn read(bytes: &'a [u8], len: usize) -> Head<Self> {
        let body = bytes.get(HEADER..bytes.len().min(len)).unwrap_or_default();
        let names = cstring(body).and_then(|(portal, rest)| Some((portal, cstring(rest)?.0)));
        match names {
            Some((portal, statement)) => Head::Complete(Self { portal, statement }),
            None if bytes.len() < len => Head::Partial,
            None => Head::Malformed,
        }
    }

    /// Bytes of the frame that this head takes, header included.
    pub fn len(&self) -> usize {
        HEADER + self.portal.len() + 1 + self.statement.len() + 1
    }

    pub fn is_empty(&self) -> bool {
        false
    }
}

/// `Describe` and `Close` share a shape: what is named, and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

impl<'a> Target<'a> {
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let (&kind, rest) = frame.get(HEADER..)?.split_first()?;
        let (name, rest) = cstring(rest)?;
        match kind {
            _ if !rest.is_empty() => None,
            b'S' => Some(Self::Statement(name)),
            b'P' => Some(Self::Portal(name)),
            _ => None,
        }
    }
}

/// A field of an `ErrorResponse` or `NoticeResponse` (PostgreSQL, "Error and Notice Message Fields").
/// `frame` may be cut short: a field that is not whole is not found.
pub fn error_field(frame: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = frame.get(HEADER..)?;
    loop {
        let (&code, after) = rest.split_first()?;
        if code == 0 {
            return None;
        }
        let (value, after) = cstring(after)?;
        if code == wanted {
            return Some(value);
        }
        rest = after;
    }
}

/// An `ErrorResponse` in which the first quoted name of `prefix` and digits is `name` instead. `None` where
/// there is no such name in it.
pub fn renamed(frame: &[u8], prefix: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let quoted = [b"\"", prefix].concat();
    let start = memchr::memmem::find(frame, &quoted)? + 1;
    let digits = frame[start + prefix.len()..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let end = start + prefix.len() + digits;
    if digits == 0 || start <= HEADER || frame.get(end) != Some(&b'"') {
        return None;
    }
    let mut renamed = [&frame[..start], name, &frame[end..]].concat();
    let length = u32::try_from(renamed.len() - 1).ok()?;
    renamed[1..HEADER].copy_from_slice(&length.to_be_bytes());
    Some(renamed)
}

/// A hash of the columns' names, types and type modifiers in a whole `RowDescription`, or of a `NoData`: what
/// PostgreSQL compares when it plans a prepared statement anew. `None` where the frame is cut short.
pub fn rows(frame: &[u8]) -> Option<u64> {
    let mut hasher = Xxh3::new();
    hasher.update(frame.get(..1)?);
    let mut rest = frame.get(HEADER..)?;
    if rest.is_empty() {
        return Some(hasher.digest());
    }
    rest = rest.get(2..)?;
    while !rest.is_empty() {
        let (name, after) = cstring(rest)?;
        // Table and its column; type, its length and modifier; format.
        let (fixed, after) = after.split_at_checked(18)?;
        hasher.update(name);
        hasher.update(&[0]);
        hasher.update(&fixed[6..10]);
        hasher.update(&fixed[12..16]);
        rest = after;
    }
    Some(hasher.digest())
}

/// `ParameterStatus`: name and value.
pub fn parameter_status(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = cstring(frame.get(HEADER..)?)?;
    Some((name, cstring(rest)?.0))
}

/// Splits at the first NUL, which belongs to neither half.
pub fn cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The channel of a NotificationResponse, of which as much has to be there.
pub fn notification_channel(frame: &[u8]) -> Option<&[u8]> {
    notification_channel_of(frame.get(HEADER..)?)
}

/// The same, by the body.
pub fn notification_channel_of(body: &[u8]) -> Option<&[u8]> {
    // A process id comes first.
    let rest = body.get(4..)?;
    Some(&rest[..memchr::memchr(0, rest)?])
}

/// The sender's process id in a NotificationResponse, of which as much has to be there.
pub fn notifier(frame: &[u8]) -> Option<i32> {
    let (process, _) = frame.get(HEADER..)?.split_first_chunk()?;
    Some(i32::from_be_bytes(*process))
}

/// The sender's process id, channel and payload of a NotificationResponse, a whole frame; both texts end with a zero byte
/// there.
pub fn notification(frame: &[u8]) -> Option<(i32, &[u8], &[u8])> {
    let channel = notification_channel(frame)?;
    let payload = frame.get(HEADER + 4 + channel.len() + 1..)?;
    Some((notifier(frame)?, channel, payload.strip_suffix(b"\0")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![tag];
        frame.extend((body.len() as u32 + 4).to_be_bytes());
        frame.extend(body);
        frame
    }

    #[test]
    fn rows_are_told_by_names_and_types_not_by_formats_or_tables() {
        // Name, table, column, type, length, modifier, format.
        let rows = |columns: &[(&str, i32, i32, i32, i16)]| {
            let mut body = (columns.len() as i16).to_be_bytes().to_vec();
            for (name, table, type_oid, modifier, format) in columns {
                body.extend([name.as_bytes(), &[0], &table.to_be_bytes(), &1i16.to_be_bytes()].concat());
                body.extend([type_oid.to_be_bytes(), [0, 4, 0, 0]].concat().get(..6).unwrap());
                body.extend([&modifier.to_be_bytes()[..], &format.to_be_bytes()].concat());
            }
            [&b"T"[..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
        };
        let one = rows(&[("x", 7, 23, -1, 0)]);
        let told = super::rows(&one);
        assert!(told.is_some());
        assert_eq!(super::rows(&rows(&[("x", 8, 23, -1, 1)])), told);
        for other in [
            &[("y", 7, 23, -1, 0)][..],
            &[("x", 7, 20, -1, 0)],
            &[("x", 7, 23, 5, 0)],
            &[("x", 7, 23, -1, 0), ("y", 7, 23, -1, 0)],
            &[],
        ] {
            assert_ne!(super::rows(&rows(other)), told, "{other:?}");
        }
        assert_ne!(super::rows(b"n\0\0\0\x04"), told);
        assert_eq!(super::rows(&one[..one.len() - 1]), None);
    }

    #[test]
    fn parse_is_read_whole_or_not_at_all() {
        let good = frame(b'P', b"s1\0SELECT $1\0\0\x01\0\0\0\x17");
        let view = Parse::read(&good).unwrap();
        assert_eq!((view.name, view.text), (&b"s1"[..], &b"SELECT $1"[..]));
        assert_eq!(Parse::read(&frame(b'P', b"s1\0SELECT $1\0\0\x02\0\0\0\x17")), None);
        assert_eq!(Parse::read(&frame(b'P', b"s1\0SELECT $1")), None);
    }

    #[test]
    fn a_bind_head_is_found_in_a_cut_frame() {
        let whole = frame(b'B', b"p\0s\0\0\0\0\0\0\0");
        assert_eq!(BindHead::read(&whole[..7], whole.len()), Head::Partial);
        let Head::Complete(head) = BindHead::read(&whole[..9], whole.len()) else { panic!("complete") };
        assert_eq!((head.portal, head.statement, head.len()), (&b"p"[..], &b"s"[..], 9));
        let short = frame(b'B', b"p\0s");
        assert_eq!(BindHead::read(&short, short.len()), Head::Malformed);
    }

    #[test]
    fn a_name_never_reaches_into_the_next_frame() {
        let mut bytes = frame(b'B', b"p\0s");
        let len = bytes.len();
        bytes.extend(b"\0\0\0");
        assert_eq!(BindHead::read(&bytes, len), Head::Malformed);
    }

    #[test]
    fn error_fields_are_found_by_code() {
        let error = frame(b'E', b"SERROR\0C42P01\0Mgone\0\0");
        assert_eq!(error_field(&error, b'C'), Some(&b"42P01"[..]));
        assert_eq!(error_field(&error, b'H'), None);
        assert_eq!(error_field(&error[..14], b'C'), None);
    }

    #[test]
    fn a_name_is_exchanged_and_the_length_kept_true() {
        let error = frame(b'E', b"C26000\0Mstatement \"ours_12\" is not \"ours_13\"\0\0");
        let expected = frame(b'E', b"C26000\0Mstatement \"a b\" is not \"ours_13\"\0\0");
        assert_eq!(renamed(&error, b"ours_", b"a b"), Some(expected));
        assert_eq!(renamed(&frame(b'E', b"M\"ours_\" \"ours_1\0\0"), b"ours_", b"x"), None);
    }

    proptest! {
        #[test]
        fn no_view_panics_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64), len in 0usize..80) {
            let _ = (query(&bytes), Parse::read(&bytes), BindHead::read(&bytes, len), Target::read(&bytes));
            let _ = (error_field(&bytes, b'C'), parameter_status(&bytes), renamed(&bytes, b"", b"x"));
        }
    }
}
