//! The prepared statements that a text speaks of: `PREPARE`, `EXECUTE`, `DEALLOCATE`.

use super::keyword::Keyword;
use super::lexer::{Kind, Reading, Token};
use super::name;
use super::tokens::Tokens;

/// The names of prepared statements in `sql`, as PostgreSQL reads them; none where it speaks of all of them
/// (`DEALLOCATE ALL`). `None` where which ones it uses does not show.
pub fn prepared_names(sql: &[u8]) -> Option<Vec<Vec<u8>>> {
    let tokens = Tokens::read(sql, Reading::USUAL);
    let mut names = Vec::new();
    let mut shows = false;
    for statement in tokens.split(|token| token.kind == Kind::Semicolon) {
        match named(statement) {
            Named::Nothing => continue,
            Named::All => {}
            Named::One(name) if name.is_name() => names.push(name::spelled(name.text(sql))),
            Named::One(_) => return None,
        }
        shows = true;
    }
    shows.then_some(names)
}

/// The name in a text that is nothing but an `EXECUTE`.
pub fn executed_name(sql: &[u8]) -> Option<Vec<u8>> {
    let tokens = Tokens::read(sql, Reading::USUAL);
    let mut statements = tokens.split(|token| token.kind == Kind::Semicolon).filter(|tokens| !tokens.is_empty());
    let (first, rest) = (statements.next()?, statements.next());
    let name = first.get(1).filter(|name| name.is_name() && first[0].keyword == Keyword::Execute && rest.is_none());
    name.map(|name| name::spelled(name.text(sql)))
}

enum Named<'a> {
    Nothing,
    All,
    One(&'a Token),
}

fn named(statement: &[Token]) -> Named<'_> {
    let keyword = |at: usize| statement.get(at).map_or(Keyword::None, |token| token.keyword);
    let one = |at: usize| statement.get(at).map_or(Named::Nothing, Named::One);
    match (keyword(0), keyword(1)) {
        (Keyword::Prepare, Keyword::Transaction) => Named::Nothing,
        (Keyword::Discard | Keyword::Deallocate, Keyword::All) => Named::All,
        (Keyword::Deallocate, Keyword::Prepare) if keyword(2) == Keyword::All => Named::All,
        (Keyword::Deallocate, Keyword::Prepare) if statement.len() > 2 => one(2),
        (Keyword::Prepare | Keyword::Execute | Keyword::Deallocate, _) => one(1),
        // `EXPLAIN EXECUTE`, `CREATE TABLE … AS EXECUTE`.
        (Keyword::Explain | Keyword::Create, _) => {
            let execute = statement.iter().rposition(|token| token.keyword == Keyword::Execute);
            execute.map_or(Named::Nothing, |at| one(at + 1))
        }
        _ => Named::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_only_executes_is_known() {
        for (sql, name) in [
            ("EXECUTE q (1);", Some("q")),
            ("execute \"Q\"", Some("Q")),
            ("EXECUTE q; SELECT 1", None),
            ("EXPLAIN EXECUTE q", None),
            ("DEALLOCATE q", None),
            ("", None),
        ] {
            assert_eq!(executed_name(sql.as_bytes()), name.map(|name| name.as_bytes().to_vec()), "{sql}");
        }
    }

    #[test]
    fn names_are_read_as_postgresql_reads_them() {
        for (sql, names) in [
            ("DEALLOCATE s1", Some(&["s1"][..])),
            (" deallocate  Prepare S1 ; ", Some(&["s1"])),
            ("DEALLOCATE prepare", Some(&["prepare"])),
            ("/* x */ DEALLOCATE\"a\"\"B\"", Some(&["a\"B"])),
            ("DEALLOCATE ALL", Some(&[])),
            ("DEALLOCATE prepare ALL", Some(&[])),
            ("DISCARD ALL", Some(&[])),
            ("EXECUTE q(1, 'x')", Some(&["q"])),
            ("PREPARE \"Q\" (int) AS SELECT $1; EXECUTE \"Q\" (2)", Some(&["Q", "Q"])),
            ("EXPLAIN (COSTS OFF) EXECUTE q", Some(&["q"])),
            ("CREATE TEMP TABLE t AS EXECUTE q (1)", Some(&["q"])),
            ("EXECUTE U&\"q\"", None),
            ("PREPARE TRANSACTION 'x'", None),
            ("SELECT drops_statements()", None),
            ("", None),
        ] {
            let found = prepared_names(sql.as_bytes());
            let names = names.map(|names| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>());
            assert_eq!(found, names, "{sql}");
        }
    }
}
