//! What comments at the beginning and at the end of a text say, in the form of sqlcommenter
//! (<https://google.github.io/sqlcommenter/spec/>): `/*key='value',other='value'*/`, with both percent-encoded.

use percent_encoding::percent_decode;

use super::keyword::Keyword;
use super::lexer::{Kind, Lexer, Reading, Token};

/// The values of `key` in the comments before the first and behind the last statement of `sql`, in their order.
/// Comments that are not of this form say nothing.
pub fn commented(sql: &[u8], key: &str) -> Vec<String> {
    // Most have none.
    if memchr::memmem::find(sql, b"*/").is_none() {
        return Vec::new();
    }
    let tokens = || Lexer::new(sql, Reading::USUAL).filter(|token| token.kind != Kind::Semicolon);
    let start = tokens().next().map_or(sql.len(), |token| token.start as usize);
    let end = tokens().last().map_or(sql.len(), |token| token.end as usize);
    let comments = blocks(&sql[..start]).chain(blocks(&sql[end..]));
    comments.filter_map(|comment| value(comment, key)).collect()
}

/// The same of the comments before the first statement alone, of which `head` is the beginning.
pub fn commented_before(head: &[u8], key: &str) -> Vec<String> {
    let start = Lexer::new(head, Reading::USUAL).next().map_or(head.len(), |token| token.start as usize);
    blocks(&head[..start]).filter_map(|comment| value(comment, key)).collect()
}

/// The first statement that does not only begin a transaction, and what comes behind it.
pub fn first_statement(sql: &[u8]) -> (&[u8], &[u8]) {
    let mut start = 0;
    let tokens: Vec<Token> = Lexer::new(sql, Reading::USUAL).collect();
    for statement in tokens.split_inclusive(|token| token.kind == Kind::Semicolon) {
        let begins = matches!(statement[0].keyword, Keyword::Begin | Keyword::Start);
        let empty = statement[0].kind == Kind::Semicolon;
        let end = statement.last().map_or(sql.len(), |token| token.end as usize);
        if !begins && !empty {
            return (&sql[start..end], &sql[end..]);
        }
        start = end;
    }
    (&[], &[])
}

/// The insides of the comments in what holds nothing but white space, comments and semicolons.
fn blocks(mut blank: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        loop {
            match blank {
                [b'-', b'-', ..] => {
                    let end = blank.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(blank.len());
                    blank = &blank[end..];
                }
                [b'/', b'*', rest @ ..] => {
                    // One that has others inside does not parse, and its rest is found not to, either.
                    let end = memchr::memmem::find(rest, b"*/")?;
                    blank = &rest[end + 2..];
                    return Some(&rest[..end]);
                }
                [_, rest @ ..] => blank = rest,
                [] => return None,
            }
        }
    })
}

/// `None` also where the comment is of another form.
fn value(comment: &[u8], key: &str) -> Option<String> {
    let (mut rest, mut found) = (comment.trim_ascii(), None);
    loop {
        let equals = memchr::memchr(b'=', rest)?;
        let name = percent_decode(rest[..equals].trim_ascii()).decode_utf8().ok()?;
        let quoted = rest[equals + 1..].trim_ascii_start().strip_prefix(b"'")?;
        let end = (0..quoted.len()).find(|&at| quoted[at] == b'\'' && (at == 0 || quoted[at - 1] != b'\\'))?;
        if name == key {
            let value = percent_decode(&quoted[..end]).decode_utf8().ok()?;
            found = Some(value.replace("\\'", "'"));
        }
        rest = quoted[end + 1..].trim_ascii_start();
        match rest {
            [] => return found,
            [b',', more @ ..] => rest = more,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants(sql: &str) -> Vec<String> {
        commented(sql.as_bytes(), "tenant")
    }

    #[test]
    fn comments_before_and_behind_name_a_tenant() {
        for sql in [
            "/*tenant='acme'*/ SELECT 1",
            "SELECT 1 /*tenant='acme'*/",
            "SELECT 1 /*tenant='acme'*/;",
            "SELECT 1; /* tenant='acme' */ ;\n",
            "SELECT 1 /*action='%2Fsales*\\'s',tenant='acme',traceparent='00-5b'*/",
            "/*tenant='%61cme'*/ /* pgweir: replica */ SELECT 1 /*controller='x'*/",
            "-- all sales\n /*tenant = 'acme'*/ SELECT 1",
            "SELECT 1 /*tenant='acme'*/ -- all sales",
            "BEGIN /*tenant='acme'*/",
            "/*tenant='acme'*/",
        ] {
            assert_eq!(tenants(sql)[0], "acme", "{sql}");
        }
        assert_eq!(tenants("/*tenant='a'*/ SELECT 1 /*tenant='b'*/"), ["a", "b"]);
        assert_eq!(commented_before(b"/*tenant='a'*/ SELECT 1 /*tenant='b'*/", "tenant"), ["a"]);
        assert_eq!(tenants("SELECT 1 /*tenant='O\\'Neil%20%26%20Co'*/"), ["O'Neil & Co"]);
    }

    #[test]
    fn what_only_looks_like_one_names_nobody() {
        for sql in [
            "SELECT 1",
            "SELECT '/*tenant=''acme''*/'",
            "SELECT $$ /*tenant='acme'*/ $$",
            "SELECT /*tenant='acme'*/ 1",
            "SELECT 1 /*tenant=acme*/",
            "SELECT 1 /*tenant='acme*/",
            "SELECT 1 /* for tenant='acme' */",
            "SELECT 1 /*tenant='acme' or so*/",
            "SELECT 1 /*tenants='acme'*/",
            "SELECT 1 /* /*tenant='acme'*/ */",
            "SELECT 1 -- /*tenant='acme'*/",
            "SELECT 1 /*tenant='%ff'*/",
            "",
        ] {
            assert!(tenants(sql).is_empty(), "{sql}");
        }
    }

    #[test]
    fn what_begins_a_transaction_is_not_its_first_statement() {
        let first = |sql: &'static str| {
            let (first, rest) = first_statement(sql.as_bytes());
            (str::from_utf8(first).unwrap().trim(), str::from_utf8(rest).unwrap().trim())
        };
        assert_eq!(first("SELECT 1"), ("SELECT 1", ""));
        assert_eq!(first("; BEGIN ISOLATION LEVEL SERIALIZABLE; SET a.b = 1; COMMIT"), ("SET a.b = 1;", "COMMIT"));
        assert_eq!(first("START TRANSACTION"), ("", ""));
        assert_eq!(first("SELECT ';'; BEGIN"), ("SELECT ';';", "BEGIN"));
    }
}
