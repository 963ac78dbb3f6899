//! Frames that are not PostgreSQL's protocol. PostgreSQL goes on after some of them; pgweir may do the
//! same or close, with the same SQLSTATE.

use super::say::*;
use super::script::{Compare, Script, script};

pub fn scripts() -> Vec<Script> {
    let bad = |name| script(name).compare(Compare::EndAndSqlstate);
    let cases: Vec<(&'static str, Vec<u8>)> = vec![
        ("an unknown tag", message(b'!', b"")),
        ("a tag of the server", message(b'Z', b"I")),
        ("a length of nothing", claiming(b'Q', 0, b"SELECT 1\0")),
        ("a length under itself", claiming(b'S', 3, b"")),
        ("a length over every limit", claiming(b'Q', u32::MAX, b"SELECT 1\0")),
        ("a negative length", claiming(b'd', 0x8000_0000, b"")),
        ("a Sync of 1 MB", claiming(b'S', 1 << 20, b"")),
        ("a Query without its end", message(b'Q', b"SELECT 1")),
        ("a Query with something behind", message(b'Q', b"SELECT 1\0more\0")),
        ("an empty Query", message(b'Q', b"")),
        ("an empty Parse", message(b'P', b"")),
        ("a Parse without a text", message(b'P', b"s\0")),
        ("a Parse without types", message(b'P', b"s\0SELECT 1\0")),
        ("a Parse with too few types", message(b'P', b"s\0SELECT 1\0\0\x02\0\0\0\x17")),
        ("an empty Bind", message(b'B', b"")),
        ("a Bind without its counts", message(b'B', b"\0\0")),
        ("an empty Describe", message(b'D', b"")),
        ("a Describe of something else", message(b'D', b"Xs\0")),
        ("a Describe without its end", message(b'D', b"Ss")),
        ("a Close of something else", message(b'C', b"Xs\0")),
        ("an empty Execute", message(b'E', b"")),
        ("an Execute without a limit", message(b'E', b"\0")),
        ("an Execute with a long limit", message(b'E', b"\0\0\0\0\0\0")),
        ("an empty function call", message(b'F', b"")),
        ("a function call without arguments", message(b'F', b"\0\0\0\xb1")),
        ("a Sync with a body", message(b'S', b"x")),
    ];
    // With the Sync at which PostgreSQL itself goes on after an error.
    let alone = cases.iter().map(|(name, bytes)| bad(name).send([bytes.clone(), sync()]));
    alone.map(|script| script.closed()).collect()
}

/// The same where the conversation is already in the middle of something.
pub fn in_a_transaction() -> Vec<Script> {
    let bad = |name| script(name).compare(Compare::EndAndSqlstate);
    vec![
        bad("an unknown tag in a transaction").query("BEGIN").send([message(b'!', b"")]).closed(),
        bad("an unknown tag in COPY")
            .send([query("COPY copied FROM STDIN")])
            .until(b'G', 1)
            .send([message(b'!', b"")])
            .closed(),
        bad("a bad length in COPY")
            .send([query("COPY copied FROM STDIN")])
            .until(b'G', 1)
            .send([claiming(b'd', 2, b"")])
            .closed(),
        bad("an unknown tag behind a query").send([query("SELECT 1"), message(b'!', b"")]).closed(),
    ]
}
