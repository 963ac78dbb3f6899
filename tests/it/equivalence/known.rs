//! Where pgweir answers otherwise than PostgreSQL, and knows it. Each must go on being different: what
//! has become the same leaves this list.

/// A script, the deployment (`None`: every one), and why.
type Known = (&'static str, Option<&'static str>, &'static str);

const SPLIT: Option<&str> = Some("transaction mode");

const KNOWN: &[Known] = &[
    (
        "a read-only transaction becomes a writing one",
        SPLIT,
        "BEGIN READ ONLY goes to a replica, and stays there when it changes its mind: refused with 0A000",
    ),
    (
        "what a read-only transaction of a primary may do",
        SPLIT,
        "a transaction id in a read-only transaction, which is on a replica: refused with 25006",
    ),
    ("NOTIFY in a read-only transaction", SPLIT, "the transaction is on a replica: refused with 25006"),
    ("LISTEN in a read-only transaction", SPLIT, "the transaction is on a replica: refused with 25006"),
    (
        "a RESET pipelined before a COMMIT",
        None,
        "until the transaction ends, RESET goes to the server's default and not to the client's startup setting",
    ),
    (
        "SQL's EXECUTE of a protocol's statement",
        None,
        "statements of the protocol have other names on the server: refused with 26000",
    ),
];

/// Why this script is known to be answered otherwise in this deployment.
pub fn known(script: &str, deployment: &str) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(name, within, _)| *name == script && within.is_none_or(|it| it == deployment));
    known.map(|(_, _, why)| *why)
}
