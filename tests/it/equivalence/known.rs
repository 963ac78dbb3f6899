//! Where pgweir answers otherwise than PostgreSQL, and knows it. Each must go on being different: what
//! has become the same leaves this list.

/// A script, and why it is answered otherwise in every deployment.
const KNOWN: &[(&str, &str)] = &[(
    "a RESET pipelined before a COMMIT",
    "until the transaction ends, RESET goes to the server's default and not to the client's startup setting",
)];

/// Why this script is known to be answered otherwise.
pub fn known(script: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(name, _)| *name == script).map(|(_, why)| *why)
}
