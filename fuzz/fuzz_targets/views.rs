//! Message bodies: no bytes panic, borrowed views stay inside their frame, and the guard in front of
//! the `pgwire` crate lets nothing through that its decoders fall over.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::wire::frame::HEADER;
use pgweir::wire::guard;
use pgweir::wire::view::{BindHead, Head, Parse, Target, error_field, parameter_status, query, renamed, rows};

fuzz_target!(|input: (u8, u16, &[u8])| {
    let (field, shown, body) = input;
    views(field, shown, body);
    guarded(body);
});

fn views(field: u8, shown: u16, body: &[u8]) {
    let mut frame = vec![b'?'];
    frame.extend((body.len() as u32 + 4).to_be_bytes());
    frame.extend(body);
    if let Some(text) = query(&frame) {
        assert_eq!(text.len() + 1, body.len());
    }
    if let Some(Parse { name, text, identity }) = Parse::read(&frame) {
        assert_eq!(name.len() + 1 + identity.len(), body.len());
        assert!(identity.starts_with(text) && identity.len() >= text.len() + 3);
    }
    if let Some(Target::Statement(name) | Target::Portal(name)) = Target::read(&frame) {
        assert_eq!(name.len() + 2, body.len());
    }
    parameter_status(&frame);
    rows(&frame);
    renamed(&frame, b"x", b"");
    let cut = &frame[..frame.len().min(usize::from(shown))];
    if let (Some(part), Some(whole)) = (error_field(cut, field), error_field(&frame, field)) {
        assert_eq!(part, whole);
    }
    bind(cut, &frame);
}

/// The head of a `Bind` is the same from a part of its frame and from more than its frame.
fn bind(cut: &[u8], frame: &[u8]) {
    let whole = BindHead::read(frame, frame.len());
    match BindHead::read(cut, frame.len()) {
        Head::Complete(head) => {
            assert_eq!(Head::Complete(head), whole);
            assert!(head.len() >= HEADER + 2 && head.len() <= cut.len());
        }
        Head::Partial => assert!(cut.len() < frame.len()),
        Head::Malformed => assert_eq!(cut.len(), frame.len()),
    }
    let more = [frame, b"\0\0\0\0"].concat();
    assert_eq!(BindHead::read(&more, frame.len()), whole);
}

fn guarded(body: &[u8]) {
    let _ = guard::authentication(body);
    let _ = guard::sasl_initial_response(body);
    let _ = guard::password(body);
    let _ = guard::backend_key_data(body);
    let _ = guard::negotiate_protocol_version(body);
    let _ = guard::ready_for_query(body);
    if let Ok((name, value)) = guard::parameter_status(body) {
        assert!(!name.contains('\0') && !value.contains('\0'));
    }
    if let Ok(fields) = guard::error_response(body) {
        assert!(fields.iter().all(|(code, text)| *code != 0 && !text.contains('\0')));
    }
}
