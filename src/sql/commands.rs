//! Texts that are not for a server but quoted like SQL: the console's commands.

use super::lexer::{Kind, Lexer, Reading, Token};
use super::tokens::Tokens;

/// What semicolons separate outside of quotes and comments, without the blanks and comments around it; nothing where nothing
/// is said.
pub fn commands(text: &str) -> Vec<&str> {
    let tokens = Tokens::read(text.as_bytes(), Reading::USUAL);
    let commands = tokens.split(|token| token.kind == Kind::Semicolon);
    commands.filter_map(|command| said(text, command.first()?, command.last()?)).collect()
}

/// A word of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// As it is written, up to a blank or a quote.
    Plain(&'a str),
    /// What stands in quotes: `"…"` or `'…'`, in which the quote itself is written twice.
    Quoted(String),
}

/// The first word and what follows it. `None` where there is none, a quote that does not end or has no name in it, or a word
/// at whose end a comment begins: it may be meant as part of a name.
pub fn first_word(text: &str) -> Option<(Word<'_>, &str)> {
    let is_plain = |token: &Token| is_plain(token.kind) && token.text(text.as_bytes())[0] != b'"';
    let mut tokens = Lexer::new(text.as_bytes(), Reading::USUAL).peekable();
    let first = tokens.next()?;
    let written = said(text, &first, &first)?;
    let word = match (first.kind, written.as_bytes()) {
        (Kind::Quoted, _) => Word::Quoted(unquoted(written, "\"")),
        (Kind::Literal | Kind::OtherLiteral, [b'\'', ..]) => Word::Quoted(unquoted(written, "'")),
        _ if !is_plain(&first) => return None,
        _ => {
            let mut last = first;
            while let Some(next) = tokens.next_if(|next| next.start == last.end && is_plain(next)) {
                last = next;
            }
            let goes_on = text.get(last.end as usize..)?;
            if ["--", "/*"].iter().any(|comment| goes_on.starts_with(comment)) {
                return None;
            }
            Word::Plain(said(text, &first, &last)?)
        }
    };
    let rest = tokens.next().map_or(Some(""), |next| text.get(next.start as usize..));
    Some((word, rest?))
}

fn is_plain(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Quoted | Kind::Literal | Kind::OtherLiteral | Kind::UnicodeEscape | Kind::Unterminated | Kind::Semicolon
    )
}

fn said<'a>(text: &'a str, first: &Token, last: &Token) -> Option<&'a str> {
    text.get(first.start as usize..last.end as usize)
}

fn unquoted(written: &str, quote: &str) -> String {
    written[1..written.len() - 1].replace(&quote.repeat(2), quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_end_at_semicolons_that_are_not_quoted() {
        for (text, expected) in [
            ("", &[][..]),
            (" ; -- nothing; here\n;", &[]),
            ("a; b c ;", &["a", "b c"]),
            ("a \"x;y\" ';' /* ; */; b -- c; d", &["a \"x;y\" ';'", "b"]),
            ("a \"x\"\";\"; b 'it''s;'", &["a \"x\"\";\"", "b 'it''s;'"]),
            ("a { b = \"x;y\", c = [1] }; d", &["a { b = \"x;y\", c = [1] }", "d"]),
            ("a; b \"c; d", &["a", "b \"c; d"]),
            ("a 'ä;'; ö", &["a 'ä;'", "ö"]),
        ] {
            assert_eq!(commands(text), expected, "{text}");
        }
    }

    #[test]
    fn a_word_ends_at_a_blank_and_a_quoted_one_at_its_quote() {
        let quoted = |word: &str| Word::Quoted(word.to_owned());
        for (text, word, rest) in [
            ("a b  c", Word::Plain("a"), "b  c"),
            (" acme-corp.eu@1 /* x */ x", Word::Plain("acme-corp.eu@1"), "x"),
            ("12ab", Word::Plain("12ab"), ""),
            ("Müller ", Word::Plain("Müller"), ""),
            ("\"a b;\" c", quoted("a b;"), "c"),
            ("\"a\"\"b\"c", quoted("a\"b"), "c"),
            ("'it''s \"so\"'", quoted("it's \"so\""), ""),
            ("'a\\b' c", quoted("a\\b"), "c"),
            ("'' a", quoted(""), "a"),
            ("a\"b\"", Word::Plain("a"), "\"b\""),
        ] {
            assert_eq!(first_word(text), Some((word, rest)), "{text}");
        }
        let long = "x".repeat(100);
        assert_eq!(first_word(&format!("\"{long}\"")), Some((quoted(&long), "")));
        for text in [
            "xn--mller-kva",
            "acme--old -- x",
            "a/*b*/",
            "",
            " -- a",
            "\"a",
            "'a",
            "/* a",
            "E'a'",
            "$$a$$",
            "U&\"a\"",
            "\"\" a",
            ";",
        ] {
            assert_eq!(first_word(text), None, "{text}");
        }
    }
}
