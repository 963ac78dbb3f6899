//! Statements about whole databases, which PostgreSQL carries out only while nobody is connected to them.

use super::keyword::Keyword;
use super::lexer::{Lexer, Reading};
use super::name;

/// The names in a `DROP DATABASE`, `ALTER DATABASE` or `CREATE DATABASE … TEMPLATE …`, among them those of the databases
/// that nobody may be connected to; empty for every other text.
pub fn databases_named(sql: &[u8]) -> Vec<String> {
    let mut lexer = Lexer::new(sql, Reading::USUAL);
    let verb = lexer.next().map_or(Keyword::None, |token| token.keyword);
    if !matches!(verb, Keyword::Drop | Keyword::Alter | Keyword::Create) {
        return Vec::new();
    }
    let is_database = lexer.next().is_some_and(|token| token.is_name() && name::names(token.text(sql), b"database"));
    let names = lexer.filter(|token| is_database && token.is_name());
    names.map(|token| String::from_utf8_lossy(&name::spelled(token.text(sql))).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_found_by_their_names() {
        let has = |sql: &str, name: &str| databases_named(sql.as_bytes()).iter().any(|found| found == name);
        assert!(
            has("DROP DATABASE IF EXISTS App", "app") && has("/* x */ drop database \"My App\" (FORCE);", "My App")
        );
        assert!(has("ALTER DATABASE app RENAME TO b", "app") && has("CREATE DATABASE b WITH TEMPLATE = app", "app"));
        for other in ["DROP TABLE app", "SELECT database, app", "CREATE TABLE database (app int)", "DROP", ""] {
            assert!(!has(other, "app"), "{other}");
        }
    }
}
