//! Whether code may make settings under names that it makes up when it runs. PostgreSQL lists no custom settings
//! (`app.tenant`): of those, nobody could ask for what there is.
//!
//! SQL that code puts together is read where it consists of literals, and of names and values that are quoted as such
//! (`format` with `%I` and `%L`, `quote_ident`, `quote_literal`). Any other may be anything.

use super::rows::{CatalogRows, FunctionRow};
use super::{Catalog, PG_CATALOG};
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Kind, Reading, Token};
use crate::sql::settings::literal_value;
use crate::sql::tokens::{Tokens, after_paren};
use crate::sql::{Effects, SettingNames, mentions, name, setting_names};

/// What stands in a template for a name, and for a value.
const NAME: &[u8] = b"\"?\"";
const VALUE: &[u8] = b"'?'";

/// Does a database have code that may? `counts` are the functions that matter. What an extension brings only counts
/// where something of the database's own speaks of it.
pub(super) fn is_in<'a>(rows: &'a CatalogRows, catalog: &Catalog, counts: impl Fn(&FunctionRow) -> bool + 'a) -> bool {
    let own = || rows.functions.iter().filter(|function| function.extension.is_none());
    let runs_unasked = |oid: u32| rows.implied.iter().any(|(implied, ..)| *implied == oid);
    let is_named = |name: &str| own().filter_map(|own| own.body.as_ref()).any(|body| says(body, name));
    let matters =
        |function: &FunctionRow| function.extension.is_none() || runs_unasked(function.oid) || is_named(&function.name);
    let directly = |name: &String| name == "set_config" || runs_text(catalog, name.as_bytes());
    rows.implied.iter().any(|(_, builtin, _)| builtin.as_ref().is_some_and(directly))
        || rows.functions.iter().any(|function| counts(function) && may(function, catalog) && matters(function))
}

fn says(body: &str, name: &str) -> bool {
    mentions(body.as_bytes(), name.as_bytes())
}

fn may(function: &FunctionRow, catalog: &Catalog) -> bool {
    let code = [&function.body, &function.defaults].into_iter().flatten();
    function.body.is_none() || code.into_iter().any(|code| makes_up(code.as_bytes(), catalog))
}

/// Is this a function of PostgreSQL's own that runs the SQL which it is given?
fn runs_text(catalog: &Catalog, name: &[u8]) -> bool {
    let entry = catalog.names.get_name(name);
    let own = entry.into_iter().flat_map(|entry| &entry.functions).map(|function| function.taint);
    own.into_iter().any(|taint| taint.schema == PG_CATALOG && taint.effects.contains(Effects::HIDDEN))
}

/// May this code, in PL/pgSQL or SQL?
fn makes_up(code: &[u8], catalog: &Catalog) -> bool {
    let tokens = Tokens::read(code, Reading::USUAL);
    if tokens.unterminated || tokens.malformed || tokens.ambiguous {
        return true;
    }
    let text = |at: usize| tokens.get(at).map_or(&b""[..], |token| token.text(code));
    (0..tokens.len()).any(|at| {
        let (token, rest) = (tokens[at], &tokens[at + 1..]);
        let called = rest.first().is_some_and(|next| next.kind == Kind::LeftParen);
        match token.keyword {
            Keyword::Execute => template(code, rest).is_none_or(|sql| is_open(&sql, catalog)),
            // A block, and not what is done about a conflict.
            Keyword::Do => {
                !matches!(text(at + 1).to_ascii_lowercase().as_slice(), b"nothing" | b"update" | b"also" | b"instead")
            }
            _ if token.kind == Kind::UnicodeEscape => text(at).get(2) == Some(&b'"'),
            _ if !token.is_name() => false,
            _ if name::names(text(at), b"set_config") => !(called && is_written_out(code, rest)),
            _ => called && runs_text(catalog, &name::spelled(text(at))),
        }
    })
}

/// Is the first of the arguments, whose parenthesis comes first, a whole name?
fn is_written_out(code: &[u8], arguments: &[Token]) -> bool {
    matches!(arguments, [_, literal, comma, ..] if literal.kind == Kind::Literal && comma.kind == Kind::Comma
        && !literal.text(code).contains(&VALUE[1]))
}

/// May a template be filled in so that it makes settings that it does not name?
fn is_open(sql: &[u8], catalog: &Catalog) -> bool {
    let SettingNames { names, unknown, code, .. } = setting_names(sql);
    let tokens = Tokens::read(sql, Reading::USUAL);
    let is_name = |token: &Token| token.text(sql) == NAME;
    let verb = |statement: &[Token]| statement.first().is_some_and(is_name);
    let called = |at: usize| {
        let opens = tokens.get(at + 1).is_some_and(|next| next.kind == Kind::LeftParen);
        is_name(&tokens[at]) && opens && !is_columns(&tokens, at)
    };
    unknown
        || code
        || is_part_of_a_word(sql)
        || names.iter().any(|name| name.as_bytes().contains(&NAME[1]))
        || tokens.split(|token| token.kind == Kind::Semicolon).any(verb)
        || (0..tokens.len()).any(called)
        || makes_up(sql, catalog)
}

/// Does a name or value that is filled in go on with what stands beside it?
fn is_part_of_a_word(sql: &[u8]) -> bool {
    let goes_on = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || !byte.is_ascii() || b"_$&'\"?".contains(byte))
    };
    let mut filled = (0..sql.len()).filter(|at| sql[*at..].starts_with(NAME) || sql[*at..].starts_with(VALUE));
    filled.any(|at| goes_on(at.checked_sub(1).and_then(|at| sql.get(at))) || goes_on(sql.get(at + NAME.len())))
}

/// Is what comes in parentheses behind the name at `at` the columns of a relation?
fn is_columns(tokens: &[Token], at: usize) -> bool {
    let qualified = at >= 2 && tokens[at - 1].kind == Kind::Dot;
    let before = at.checked_sub(if qualified { 3 } else { 1 }).map(|at| tokens[at].keyword);
    matches!(before, Some(Keyword::Into | Keyword::Table | Keyword::On | Keyword::Exists))
}

/// The SQL that the expression at the beginning of `tokens` (behind `EXECUTE`) gives, with stand-ins for the names and
/// values in it; `None` where it may give anything.
fn template(code: &[u8], mut tokens: &[Token]) -> Option<Vec<u8>> {
    let mut sql = Vec::new();
    loop {
        let taken = part(code, tokens, &mut sql)?;
        tokens = &tokens[taken..];
        match tokens {
            [concatenates, rest @ ..] if concatenates.text(code) == b"||" => tokens = rest,
            [] => return Some(sql),
            [ends, ..] if ends.kind == Kind::Semicolon => return Some(sql),
            [ends, ..] if matches!(ends.keyword, Keyword::Using | Keyword::Into | Keyword::Loop) => return Some(sql),
            _ => return None,
        }
    }
}

/// Adds what one operand gives: how many tokens it has.
fn part(code: &[u8], tokens: &[Token], sql: &mut Vec<u8>) -> Option<usize> {
    if let [literal, ..] = tokens
        && let Some(content) = content(code, literal)
    {
        sql.extend(content);
        return Some(1);
    }
    let [called, open, rest @ ..] = tokens else { return None };
    if !called.is_name() || open.kind != Kind::LeftParen {
        return None;
    }
    let is = |known: &[u8]| name::names(called.text(code), known);
    let taken = after_paren(tokens, 1)?;
    match rest {
        [literal, next, ..] if is(b"format") && matches!(next.kind, Kind::Comma | Kind::RightParen) => {
            fill(&content(code, literal)?, sql)?
        }
        _ if is(b"quote_ident") => sql.extend(NAME),
        _ if is(b"quote_literal") || is(b"quote_nullable") => sql.extend(VALUE),
        _ => return None,
    }
    Some(taken)
}

/// What a literal stands for, where no backslash has a say in it.
pub(super) fn content(code: &[u8], token: &Token) -> Option<Vec<u8>> {
    let text = token.text(code);
    match token.kind {
        Kind::Literal => Some(literal_value(text).to_vec()),
        // With quotes in it, which are doubled, and not in several pieces.
        Kind::OtherLiteral if text.starts_with(b"'") && !text.contains(&b'\\') => {
            let inner = std::str::from_utf8(literal_value(text)).ok()?;
            (!inner.replace("''", "").contains('\'')).then(|| inner.replace("''", "'").into_bytes())
        }
        Kind::OtherLiteral if text.starts_with(b"$") => {
            let tag = memchr::memchr(b'$', &text[1..])? + 2;
            text.get(tag..text.len().checked_sub(tag)?).map(<[u8]>::to_vec)
        }
        _ => None,
    }
}

/// Adds a format of `format()`; `None` where something comes into it as it is (`%s`).
fn fill(format: &[u8], sql: &mut Vec<u8>) -> Option<()> {
    let mut parts = format.split(|byte| *byte == b'%');
    sql.extend(parts.next()?);
    while let Some(part) = parts.next() {
        let digits = part.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let at = if part.get(digits) == Some(&b'$') { digits + 1 } else { 0 };
        match part.get(at) {
            Some(b'I') => sql.extend(NAME),
            Some(b'L') => sql.extend(VALUE),
            // A percent sign.
            None => {
                sql.push(b'%');
                sql.extend(parts.next()?);
                continue;
            }
            Some(_) => return None,
        }
        sql.extend(&part[at + 1..]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn makes_up_settings(code: &str) -> bool {
        makes_up(code.as_bytes(), &Catalog::build(1, CatalogRows::default()))
    }

    #[test]
    fn code_that_may_make_up_the_name_of_a_setting_is_told() {
        for code in [
            "EXECUTE format('SET audit.%I = %L', NEW.a, NEW.b);",
            "EXECUTE 'SET audit.' || quote_ident(a) || ' = 1';",
            "EXECUTE 'SET ' || name || ' = 1' USING x;",
            "EXECUTE format('SELECT set_config(%L, ''x'', false)', a);",
            "EXECUTE 'SELECT set_config(''a.' || quote_ident(x) || ''', ''x'', false)';",
            "EXECUTE 'SELECT ' || quote_ident(f) || '(''audit.x'', ''v'', false)';",
            "EXECUTE format('SELECT %I.%I(1)', a, b);",
            "EXECUTE format('%I audit.x = 1', a);",
            "EXECUTE format('SELECT 1; %1$I x = 1', a);",
            "EXECUTE format('INSERT INTO %s VALUES (1)', a);",
            "EXECUTE format('%%s', a) || a;",
            "EXECUTE 'DO ' || quote_literal(code);",
            "EXECUTE E'SELECT 1';",
            "EXECUTE 'SELECT ''x'\n', set_config(y, 1, false)';",
            "EXECUTE text;",
            "EXECUTE format(a, b);",
            "EXECUTE (SELECT 1);",
            "EXECUTE format('set_%I', a);",
            "FOR r IN EXECUTE a LOOP NULL; END LOOP;",
            "PERFORM set_config('audit.' || a, b, false);",
            "PERFORM pg_catalog.set_config(a, b, false);",
            "PERFORM ts_stat(a);",
            "DO $x$ BEGIN END $x$;",
            "SELECT U&\"set\\005fconfig\"('a.b', 'c', false)",
            "x := 'never ends",
        ] {
            assert!(makes_up_settings(code), "{code}");
        }
        for code in [
            "EXECUTE format('INSERT INTO %I VALUES ($1.*)', NEW.part) USING NEW;",
            "EXECUTE format('INSERT INTO %I.%I (a, b) VALUES (%L, %2$L)', s, t) INTO x;",
            "EXECUTE format('UPDATE %I SET %I = %L', t, c, v);",
            "EXECUTE 'UPDATE ' || quote_ident(t) || $q$ SET a = 'b' WHERE id = $1$q$ USING OLD.id;",
            "EXECUTE format('CREATE TABLE IF NOT EXISTS %I (CHECK (at >= %L)) INHERITS (t)', a, b);",
            "FOR r IN EXECUTE 'SELECT 1' LOOP NULL; END LOOP;",
            "EXECUTE 'SET audit.x = 1';",
            "EXECUTE 'SELECT set_config(''audit.x'', $1, false)' USING a;",
            "EXECUTE 'SELECT 100 % 3';",
            "EXECUTE format('SELECT 100 %% 3');",
            "PERFORM set_config('audit.x', a, false); SET audit.y = 1;",
            "UPDATE t SET a = 'set_config(x)';",
            "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING; INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1;",
        ] {
            assert!(!makes_up_settings(code), "{code}");
        }
    }
}
