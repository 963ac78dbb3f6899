//! What `DO` and `CALL` may leave behind, by the code that they run.

use super::catalog::{Catalog, Scope};
use super::keyword::Keyword;
use super::lexer::{Kind, Token};
use super::{Effects, name, names};

/// Does the code of a `DO` or `CALL` leave nothing that is hidden: settings of which nobody could be asked? `statement`
/// starts with its keyword.
pub(super) fn hides_nothing(sql: &[u8], statement: &[Token], catalog: &Catalog) -> bool {
    match statement {
        [first, rest @ ..] if first.keyword == Keyword::Do => {
            // Whichever `search_path` it sets for itself.
            let found = block(sql, rest).and_then(|body| names::find_in_code(body, catalog, Scope::Any));
            found.is_some_and(|found| !found.effects.intersects(Effects::STATE.with(Effects::HIDDEN)))
        }
        // What its procedure does is found by its name, where that is known.
        [first, rest @ ..] if first.keyword == Keyword::Call => {
            let open = rest.iter().position(|token| token.kind == Kind::LeftParen);
            let called = open.and_then(|open| rest.get(open.checked_sub(1)?)).filter(|token| token.is_name());
            called.is_some_and(|token| {
                let entry = catalog.entry(token.hash, token.text(sql));
                entry.is_some_and(|entry| !entry.functions.is_empty() || !entry.harmless.is_empty())
            })
        }
        _ => false,
    }
}

/// The block's text, of a `DO` in PL/pgSQL whose literal is quoted by dollars.
fn block<'a>(sql: &'a [u8], rest: &[Token]) -> Option<&'a [u8]> {
    let text = match rest {
        [body] => body,
        [language, plpgsql, body] | [body, language, plpgsql]
            if name::names(language.text(sql), b"language") && name::names(plpgsql.text(sql), b"plpgsql") =>
        {
            body
        }
        _ => return None,
    }
    .text(sql);
    let tag = text.strip_prefix(b"$").and_then(|rest| Some(memchr::memchr(b'$', rest)? + 2))?;
    text.get(tag..text.len().checked_sub(tag)?)
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Reading;
    use super::super::tokens::Tokens;
    use super::*;
    use crate::sql::CatalogRows;

    fn hides(sql: &str) -> bool {
        let tokens = Tokens::read(sql.as_bytes(), Reading::USUAL);
        !hides_nothing(sql.as_bytes(), &tokens, &Catalog::build(1, CatalogRows::default()))
    }

    #[test]
    fn a_block_whose_code_makes_no_settings_hides_none() {
        for sql in [
            "DO $$ BEGIN PERFORM 1; END $$",
            "DO LANGUAGE plpgsql $do$ BEGIN UPDATE t SET a = 1; RAISE NOTICE 'SET x'; END $do$",
            "DO $$ DECLARE n int; BEGIN FOR n IN SELECT 1 LOOP INSERT INTO t VALUES (n); END LOOP; END $$ LANGUAGE plpgsql",
        ] {
            assert!(!hides(sql), "{sql}");
        }
        for sql in [
            "DO $$ BEGIN EXECUTE 'SET a.b = 1'; END $$",
            "DO $$ BEGIN SET a.b = 1; END $$",
            "DO $$ BEGIN PERFORM set_config('a.b', 'c', false); END $$",
            "DO $$ BEGIN IF true THEN SET a.b = 1; END IF; END $$",
            "DO $$ BEGIN CALL p(); END $$",
            "DO LANGUAGE plperl $$ 1 $$",
            "DO 'BEGIN PERFORM 1; END'",
            "CALL unknown()",
        ] {
            assert!(hides(sql), "{sql}");
        }
    }
}
