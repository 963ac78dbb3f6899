//! The second opinion: `sqlparser` reads the text, and whatever it takes for more than a query is vetoed.
//!
//! A text that it can't read is left to the lexer's judgement: the grammar of `sqlparser` lacks some 4 % of
//! PostgreSQL's reads. It recurses, also when a deep tree is dropped, and a stack overflow aborts the
//! process. So it is given at most [`super::MAX_TEXT`] bytes with at most [`MAX_DEEPENING`] tokens that can
//! nest or chain, which a test runs on a stack of 1 MiB.

use sqlparser::ast::{Query, Select, SetExpr, Statement, TableFactor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::keyword::Keyword;
use super::lexer::{Kind, Token};

/// Most tokens of a text that may each make the tree one level deeper: operators, keywords, brackets, casts.
const MAX_DEEPENING: usize = 2048;

/// Nesting that the parser itself may follow.
const RECURSION_LIMIT: usize = 50;

/// Does the parser see something that is not a query in `sql`, whose tokens are given?
pub fn vetoes(sql: &[u8], tokens: &[Token]) -> bool {
    if tokens.iter().filter(|token| deepens(token)).count() > MAX_DEEPENING {
        return false;
    }
    let Ok(text) = std::str::from_utf8(sql) else { return false };
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(RECURSION_LIMIT);
    let parsed = parser.try_with_sql(text).and_then(|mut parser| parser.parse_statements());
    parsed.is_ok_and(|statements| !statements.iter().all(reads))
}

fn deepens(token: &Token) -> bool {
    match token.kind {
        Kind::Operator | Kind::Cast | Kind::LeftBracket | Kind::LeftParen => true,
        Kind::Word => token.keyword != Keyword::None,
        _ => false,
    }
}

fn reads(statement: &Statement) -> bool {
    match statement {
        Statement::Query(query) => query_reads(query),
        Statement::Explain { statement, .. } => reads(statement),
        Statement::Copy { to, .. } => *to,
        Statement::ShowVariable { .. } => true,
        _ => false,
    }
}

fn query_reads(query: &Query) -> bool {
    let tables = query.with.iter().flat_map(|with| &with.cte_tables);
    query.locks.is_empty() && tables.map(|table| &*table.query).all(query_reads) && body_reads(&query.body)
}

fn body_reads(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select_reads(select),
        SetExpr::Query(query) => query_reads(query),
        SetExpr::SetOperation { left, right, .. } => body_reads(left) && body_reads(right),
        SetExpr::Values(_) | SetExpr::Table(_) => true,
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => false,
    }
}

fn select_reads(select: &Select) -> bool {
    let factors = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    select.into.is_none() && factors.into_iter().all(factor_reads)
}

fn factor_reads(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Derived { subquery, .. } => query_reads(subquery),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Reading;
    use super::super::tokens::Tokens;
    use super::*;

    fn vetoed(sql: &str) -> bool {
        vetoes(sql.as_bytes(), &Tokens::read(sql.as_bytes(), Reading::USUAL))
    }

    #[test]
    fn what_is_no_query_is_vetoed_and_what_cannot_be_parsed_is_not() {
        for sql in [
            "SELECT 1; DELETE FROM x",
            "WITH w AS (INSERT INTO x VALUES (1) RETURNING 1) SELECT * FROM w",
            "SELECT * FROM (SELECT * FROM t FOR UPDATE) s",
            "SELECT a INTO b FROM c",
            "SELECT 1 UNION (SELECT 2 FROM t FOR SHARE)",
        ] {
            assert!(vetoed(sql), "{sql}");
        }
        for sql in ["SELECT 1", "TABLE t", "SELECT 1 2 3", "EXPLAIN SELECT 1", "WITH a AS (SELECT 1) SELECT * FROM a"] {
            assert!(!vetoed(sql), "{sql}");
        }
    }

    /// Every way to make a tree deep within the length that is parsed, on half the stack of a worker thread.
    #[test]
    fn no_text_within_the_limit_overflows_the_stack() {
        let limit = super::super::MAX_TEXT;
        let chains = [
            "1+",
            "1::int::",
            "NOT ",
            "- ",
            "(",
            "a[1]",
            "1 AND ",
            "1 IS NULL ",
            "a.",
            "CASE WHEN 1 THEN ",
            "ARRAY[",
            "f(",
            "1 UNION SELECT ",
            "a COLLATE b ",
        ];
        let run = move || {
            for chain in chains {
                for repeats in [MAX_DEEPENING / 3, MAX_DEEPENING - 2, limit / chain.len()] {
                    let sql = format!("SELECT {}1", chain.repeat(repeats.min(limit / chain.len())));
                    assert!(!vetoed(&sql), "{chain}");
                }
            }
        };
        std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
    }
}
