//! Quoting for the little SQL and configuration that the sandbox writes itself.

/// A quoted identifier (PostgreSQL, "Identifiers and Key Words").
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant; holds for `standard_conforming_strings = on`, the default.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// One line of `postgresql.conf`, where a backslash also needs doubling (PostgreSQL, "Setting
/// Parameters").
pub(super) fn setting(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_survive() {
        assert_eq!(identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(setting("search_path", r"it's\x"), "search_path = 'it''s\\\\x'\n");
    }
}
