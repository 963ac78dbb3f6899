//! `EXPLAIN ROUTE`, which no PostgreSQL knows: the statement inside.

use super::keyword::Keyword;
use super::lexer::{Lexer, Reading};
use super::name;

/// The shortest is longer than this.
const EXPLAIN: &[u8] = b"explain";

/// The statement behind `EXPLAIN ROUTE`, comments before it included; `None` for every other text.
pub fn explained_route(sql: &[u8]) -> Option<&[u8]> {
    // Most texts begin with another letter, and none of those is looked at.
    let first = sql.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if sql.len() <= EXPLAIN.len() || !matches!(first, b'e' | b'E' | b'/' | b'-') {
        return None;
    }
    let mut lexer = Lexer::new(sql, Reading::USUAL);
    let (explain, route) = (lexer.next()?, lexer.next()?);
    let is = explain.keyword == Keyword::Explain && route.is_name() && name::names(route.text(sql), b"route");
    is.then(|| &sql[route.end as usize..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_explain_route_is_one() {
        let inside = |sql: &'static str| explained_route(sql.as_bytes()).map(|text| str::from_utf8(text).unwrap());
        assert_eq!(inside("EXPLAIN ROUTE SELECT 1"), Some(" SELECT 1"));
        assert_eq!(inside("/* why? */ explain\n route/**/DELETE FROM t;"), Some("/**/DELETE FROM t;"));
        assert_eq!(inside("explain route"), Some(""));
        for other in ["EXPLAIN SELECT 1", "EXPLAIN (ANALYZE) SELECT route", "ROUTE", "", "e", "EXPLAIN routes"] {
            assert_eq!(inside(other), None, "{other}");
        }
    }
}
