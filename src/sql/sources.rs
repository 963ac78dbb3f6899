//! Functions that a statement reads from (`FROM f(x) AS q`). There a name stands for a value of any type, so that `q.g` calls
//! `g(text)`, where the name of a relation stands for a row.

use super::keyword::Keyword;
use super::lexer::{Kind, Token};
use super::name;

/// Calls without parentheses (PostgreSQL's grammar, `func_expr_common_subexpr`).
const WITHOUT_PARENTHESES: [&[u8]; 11] = [
    b"current_catalog",
    b"current_date",
    b"current_role",
    b"current_schema",
    b"current_time",
    b"current_timestamp",
    b"current_user",
    b"localtime",
    b"localtimestamp",
    b"session_user",
    b"user",
];

/// Is there one among `tokens`? What cannot be told from one counts.
pub fn reads_functions(sql: &[u8], tokens: &[Token]) -> bool {
    // Of each open parenthesis: what stands there now is a list of what is read from.
    let mut lists = vec![false];
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| &tokens[before]);
        let begins = lists.last() == Some(&true) && before.is_some_and(precedes_source);
        match token.kind {
            Kind::LeftParen => lists.push(begins),
            Kind::RightParen if lists.len() > 1 => _ = lists.pop(),
            _ if begins && is_call(sql, tokens, at) => return true,
            _ if before.is_none_or(|before| before.kind != Kind::Dot) => {
                let here = lists.last_mut().expect("one is never popped");
                *here = (*here || begins_list(token.keyword)) && !ends_list(sql, before, token.keyword);
            }
            _ => {}
        }
    }
    false
}

fn begins_list(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::From | Keyword::Join | Keyword::Using)
}

/// Reserved words, which name nothing unless a dot is before them.
fn ends_list(sql: &[u8], before: Option<&Token>, keyword: Keyword) -> bool {
    use Keyword::*;
    match keyword {
        For => before.is_none_or(|before| !name::names(before.text(sql), b"collation")),
        Group => before.is_none_or(|before| before.keyword != Within),
        Except | Fetch | Having | Intersect | Limit | Offset | Order | Returning | Select | Union | Where | Window => {
            true
        }
        _ => false,
    }
}

fn precedes_source(token: &Token) -> bool {
    matches!(token.kind, Kind::Comma | Kind::LeftParen)
        || begins_list(token.keyword)
        || matches!(token.keyword, Keyword::Lateral | Keyword::Only)
}

fn is_call(sql: &[u8], tokens: &[Token], at: usize) -> bool {
    use Keyword::{Lateral, Only, Select, Values};
    let mut last = at;
    while tokens.get(last + 1).is_some_and(|dot| dot.kind == Kind::Dot) && last + 2 < tokens.len() {
        last += 2;
    }
    let token = &tokens[at];
    let is_called = tokens.get(last + 1).is_some_and(|next| next.kind == Kind::LeftParen);
    let is_word = |word: &&[u8]| token.kind == Kind::Word && name::names(token.text(sql), word);
    token.is_name()
        && !matches!(token.keyword, Lateral | Only | Select | Values)
        && (is_called || WITHOUT_PARENTHESES.iter().any(is_word))
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Reading;
    use super::super::tokens::Tokens;
    use super::*;

    #[test]
    fn functions_are_found_wherever_they_can_be_read_from() {
        for sql in [
            "SELECT q.f FROM lower('x') q",
            "SELECT q.f FROM pg_catalog.lower('x') AS q",
            "SELECT q.f FROM \"lower\"('x') q",
            "SELECT q.f FROM current_user AS q",
            "SELECT text.f FROM CAST('x' AS text)",
            "SELECT q.f FROM t u, lower(u.name) q",
            "SELECT q.f FROM t u LEFT JOIN LATERAL lower(u.name) q ON true",
            "SELECT q.f FROM (t JOIN lower('x') q ON true)",
            "SELECT q.f FROM ((lower('x') q CROSS JOIN t))",
            "SELECT q.f FROM ROWS FROM (lower('x')) q",
            "SELECT q.f FROM t, ROWS FROM (lower('x'), lower('y')) q",
            "SELECT q.f FROM t a JOIN t b ON a.order = 1, lower('x') q",
            "SELECT q.f FROM t a JOIN t b ON collation for (a.x) = 'y', lower('x') q",
            "SELECT q.f FROM t a JOIN t b USING (x), lower('x') q",
            "SELECT q.f FROM t AS a (b, c), lower('x') q",
            "SELECT q.f FROM set, lower('x') q",
            "DELETE FROM t USING lower('x') q WHERE q.f",
            "UPDATE t SET a = b FROM lower('x') q WHERE q.f",
            "MERGE INTO t USING lower('x') q ON q.f WHEN MATCHED THEN DO NOTHING",
            "WITH a AS (SELECT 1) SELECT q.f FROM a, lower('x') q",
            "SELECT (SELECT q.f FROM lower('x') q) FROM t",
        ] {
            assert!(reads(sql), "{sql}");
        }
    }

    #[test]
    fn calls_elsewhere_are_none() {
        for sql in [
            "SELECT u.f, lower(u.name), count(*) FROM t u WHERE lower(x) = 'y' GROUP BY u.f, lower(u.name)",
            "SELECT u.f FROM t u JOIN v ON lower(u.a) = v.b WHERE u.c IN (lower('x'), upper('y')) ORDER BY 1, lower(a)",
            "SELECT s.f FROM (SELECT lower(a) AS f FROM t) s, LATERAL (SELECT 1) l",
            "SELECT v.f FROM (VALUES (1), (2)) v (f)",
            "SELECT t.f FROM ONLY (t) TABLESAMPLE system (10)",
            "WITH a (f) AS (SELECT max(x) FROM t) SELECT a.f FROM a",
            "INSERT INTO t (a, b) VALUES (lower('x'), 1) RETURNING t.f",
        ] {
            assert!(!reads(sql), "{sql}");
        }
    }

    fn reads(sql: &str) -> bool {
        reads_functions(sql.as_bytes(), &Tokens::read(sql.as_bytes(), Reading::USUAL))
    }
}
