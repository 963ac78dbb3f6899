//! What opens a connection: no bytes panic, a packet is read the same in one piece or byte by byte,
//! and the startup parameter `options` is read for all its text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::wire::options::{parse_options, settings};
use pgweir::wire::startup::{FirstPacket, Startup};

/// Bytes of the longest packet, as in the shipped configuration.
const LIMIT: usize = 10_000;

fuzz_target!(|bytes: &[u8]| {
    let whole = FirstPacket::read(bytes, LIMIT);
    let told = (0..=bytes.len()).map(|length| FirstPacket::read(&bytes[..length], LIMIT));
    let first = told.into_iter().find(|read| *read != Ok(None)).unwrap_or(Ok(None));
    assert_eq!(first, whole, "byte by byte");
    match whole {
        Ok(Some((FirstPacket::Startup(startup), length))) => {
            assert!((8..=bytes.len()).contains(&length));
            check(&startup);
        }
        Ok(Some((_, length))) => assert!(length <= bytes.len()),
        Ok(None) => assert!(bytes.len() < LIMIT),
        Err(error) => assert!(!error.message.is_empty()),
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        options(text);
    }
});

fn check(startup: &Startup) {
    assert!(startup.negotiated_minor() <= startup.minor);
    for (index, (name, value)) in startup.parameters.iter().enumerate() {
        assert!(!name.is_empty() && !name.contains('\0') && !value.contains('\0'));
        assert!(startup.parameters[..index].iter().all(|(other, _)| other != name), "{name} twice");
    }
    startup.negotiate();
    startup.get("options").into_iter().for_each(options);
}

fn options(text: &str) {
    match settings(&parse_options(text)) {
        Ok(settings) => assert!(settings.len() <= text.len()),
        Err(error) => assert!(!error.message.is_empty()),
    }
}
