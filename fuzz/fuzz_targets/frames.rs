//! Frame headers and the client's requests: no bytes panic, and what is read does not depend on how
//! the bytes were cut into pieces on their way.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::session::request::{Malformed, Read, read};
use pgweir::wire::frame::{BadFrame, HEADER, Header, backend_header, frontend_header};

fuzz_target!(|input: (&[u8], Vec<u16>)| {
    let (bytes, cuts) = input;
    headers_are_stable(bytes, frontend_header);
    headers_are_stable(bytes, backend_header);
    let whole = requests([bytes]);
    assert_eq!(requests(pieces(bytes, &cuts)), whole, "cut at {cuts:?}");
    assert_eq!(requests(bytes.chunks(1)), whole, "cut everywhere");
});

/// A header that was read from few bytes is not read otherwise from more.
fn headers_are_stable(bytes: &[u8], read: fn(&[u8]) -> Result<Option<Header>, BadFrame>) {
    let whole = read(bytes);
    for length in 0..bytes.len().min(HEADER + 1) {
        let part = read(&bytes[..length]);
        assert!(part == Ok(None) || part == whole, "{part:?}, then {whole:?}");
        assert!(length < HEADER || part != Ok(None), "{HEADER} bytes are enough");
    }
    if let Ok(Some(header)) = whole {
        assert!(header.len >= HEADER);
    }
}

/// The bytes in pieces of these lengths, and a last one with the rest.
fn pieces<'a>(bytes: &'a [u8], lengths: &[u16]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for &length in lengths {
        let (piece, after) = rest.split_at(usize::from(length).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// Reads as the session does, which does not keep the rest of a frame once it knows what it is.
fn requests<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, Option<Malformed>) {
    let mut buffer = Vec::new();
    let mut streaming = 0;
    let mut requests = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let streamed = buffer.len().min(streaming);
            buffer.drain(..streamed);
            streaming -= streamed;
            if streaming > 0 {
                break;
            }
            match read(&buffer) {
                Ok(Read::Request { request, len }) => {
                    assert!(len >= HEADER);
                    requests.push(format!("{request:?} {len}"));
                    streaming = len;
                }
                Ok(Read::Partial { reserve }) => {
                    assert!(reserve.is_none_or(|len| len > buffer.len()), "what is here is enough");
                    break;
                }
                Err(malformed) => {
                    assert!(!malformed.to_error().message.is_empty());
                    return (requests, Some(malformed));
                }
            }
        }
    }
    (requests, None)
}
