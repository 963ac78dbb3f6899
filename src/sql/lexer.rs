//! Splits a statement's bytes into tokens the way PostgreSQL's own scanner does
//! (`src/backend/parser/scan.l`; documentation chapter 4.1, "Lexical Structure").
//!
//! One pass, no copying: a token is a kind and a range of the text. Words and quoted identifiers carry
//! the hash of the name that PostgreSQL would see (folded, unescaped, truncated), so that looking one up
//! does not read it again. Whatever the scanner of some supported version would refuse becomes
//! [`Kind::Malformed`], which nobody may take for a read.
//!
//! The text is bytes in an unknown client encoding. Bytes from 0x80 up belong to identifiers, as in
//! PostgreSQL. Encodings whose second byte can be an ASCII one (SJIS, BIG5, GBK, UHC, GB18030) can only
//! confuse a scanner by a backslash: [`Reading`] covers them.

use super::Hint;
use super::keyword::{Keyword, keyword};
use super::name;
use crate::config::Consistency;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An unquoted identifier or keyword.
    Word,
    /// `"identifier"`.
    Quoted,
    /// `'…'` or `N'…'`, with no backslash in it.
    Literal,
    /// `E'…'`, `B'…'`, `X'…'`, `$tag$…$tag$`, or `'…'` with a backslash: not compared by content.
    OtherLiteral,
    /// Digits that fit PostgreSQL's `integer` in any case (at most nine).
    Integer,
    /// Any other number.
    Number,
    /// `$1`.
    Param,
    /// One operator; `*` and `=` are operators too.
    Operator,
    LeftParen,
    RightParen,
    LeftBracket,
    RightBracket,
    Comma,
    Semicolon,
    Dot,
    /// `:`, `:=`, `..`.
    Colon,
    /// `::`.
    Cast,
    /// `=>`.
    Arrow,
    /// `U&'…'` or `U&"…"`: what it spells is not looked at.
    UnicodeEscape,
    /// A quote or comment that never ends: PostgreSQL refuses the whole text.
    Unterminated,
    /// Some version of PostgreSQL would not accept this token.
    Malformed,
}

/// One token: its kind, the keyword that it spells, its place, and for a name its hash.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    pub kind: Kind,
    pub keyword: Keyword,
    pub start: u32,
    pub end: u32,
    /// [`name::hash`] of the name; 0 for what is no name.
    pub hash: u32,
}

impl Token {
    /// The token's bytes as written.
    pub fn text<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        &sql[self.start as usize..self.end as usize]
    }

    /// Is it an identifier or keyword, quoted or not?
    pub fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted)
    }
}

/// How a backslash in a literal is read, which is for the session's settings to say. Texts in which it makes
/// no difference where a literal ends are the rule: see [`Lexer::ambiguous`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// `standard_conforming_strings = off`: a backslash escapes in `'…'` too.
    pub escapes: bool,
    /// The client encoding is one of those in which a backslash can be the second byte of a character.
    pub multibyte: bool,
}

impl Reading {
    /// PostgreSQL's defaults.
    pub const USUAL: Reading = Reading { escapes: false, multibyte: false };
    /// All the others.
    pub const OTHERS: [Reading; 3] = [
        Reading { escapes: true, multibyte: false },
        Reading { escapes: false, multibyte: true },
        Reading { escapes: true, multibyte: true },
    ];
}

/// What comments asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `primary` wins over `replica`.
    pub target: Option<Hint>,
    /// The last one counts.
    pub consistency: Option<Consistency>,
}

/// The scanner. An iterator over the tokens, which also notes what the comments and literals said.
pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    reading: Reading,
    hints: Hints,
    ambiguous: bool,
}

impl<'a> Lexer<'a> {
    /// Scans `sql`, at most `u32::MAX` bytes of it.
    pub fn new(sql: &'a [u8], reading: Reading) -> Self {
        let sql = &sql[..sql.len().min(u32::MAX as usize)];
        Lexer { sql, at: 0, reading, hints: Hints::default(), ambiguous: false }
    }

    /// The hints in the comments seen so far.
    pub fn hints(&self) -> Hints {
        self.hints
    }

    /// Has there been a literal whose end depends on the [`Reading`]?
    pub fn ambiguous(&self) -> bool {
        self.ambiguous
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.sql.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Skips white space and comments; false if a comment never ends.
    fn skip_blank(&mut self) -> bool {
        while let Some(&byte) = self.sql.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0c => self.at += 1,
                b'-' if self.peek(1) == b'-' => self.skip_line(),
                b'/' if self.peek(1) == b'*' => {
                    if !self.skip_block() {
                        return false;
                    }
                }
                _ => break,
            }
        }
        true
    }

    fn skip_line(&mut self) {
        let start = self.at;
        self.at += self.sql[start..].iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(self.sql.len() - start);
        self.read_hint(start);
    }

    /// `/* … */`, which nests.
    fn skip_block(&mut self) -> bool {
        let start = self.at;
        let mut depth = 0u32;
        loop {
            match (self.sql.get(self.at), self.peek(1)) {
                (None, _) => return false,
                (Some(b'/'), b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        break;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.read_hint(start);
        true
    }

    /// Looks for `pgweir:` in the comment from `start` to here, and for `primary`, `replica` or `consistency=…` behind
    /// it, several of them separated by commas.
    fn read_hint(&mut self, start: usize) {
        const MARK: &[u8] = b"pgweir:";
        let comment = &self.sql[start..self.at];
        let Some(found) = memchr::memmem::find(comment, MARK) else { return };
        for hint in comment[found + MARK.len()..].split(|&byte| byte == b',') {
            let hint = hint.trim_ascii_start();
            let end = hint.iter().position(|b| !b.is_ascii_alphabetic() && *b != b'=').unwrap_or(hint.len());
            match &hint[..end] {
                b"primary" => self.hints.target = Some(Hint::Primary),
                b"replica" if self.hints.target.is_none() => self.hints.target = Some(Hint::Replica),
                other => {
                    let value = other.strip_prefix(b"consistency=").and_then(|value| str::from_utf8(value).ok());
                    let Some(consistency) = value.and_then(Consistency::named) else { return };
                    self.hints.consistency = Some(consistency);
                }
            }
        }
    }

    fn scan(&mut self) -> (Kind, Keyword, u32) {
        let first = self.sql[self.at];
        let plain = match first {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' | 0x80.. => return self.word(),
            b'"' => return self.quoted(),
            b'\'' => self.string(self.reading.escapes, true),
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            b'.' if self.peek(1) == b'.' => self.take(2, Kind::Colon),
            b'.' => self.take(1, Kind::Dot),
            b'$' => self.dollar(),
            b'(' => self.take(1, Kind::LeftParen),
            b')' => self.take(1, Kind::RightParen),
            b'[' => self.take(1, Kind::LeftBracket),
            b']' => self.take(1, Kind::RightBracket),
            b',' => self.take(1, Kind::Comma),
            b';' => self.take(1, Kind::Semicolon),
            b':' if self.peek(1) == b':' => self.take(2, Kind::Cast),
            b':' if self.peek(1) == b'=' => self.take(2, Kind::Colon),
            b':' => self.take(1, Kind::Colon),
            _ if is_operator(first) => self.operator(),
            _ => self.take(1, Kind::Malformed),
        };
        (plain, Keyword::None, 0)
    }

    fn take(&mut self, bytes: usize, kind: Kind) -> Kind {
        self.at += bytes;
        kind
    }

    /// An identifier, a keyword, or the letter before a literal.
    fn word(&mut self) -> (Kind, Keyword, u32) {
        let start = self.at;
        let length = self.sql[start..].iter().position(|&b| !is_identifier(b)).unwrap_or(self.sql.len() - start);
        let next = self.sql.get(start + length).copied().unwrap_or(0);
        if length == 1
            && let Some(kind) = self.prefixed(self.sql[start] | 0x20, next)
        {
            return (kind, Keyword::None, 0);
        }
        self.at += length;
        let text = &self.sql[start..self.at];
        (Kind::Word, keyword(text, name::first_bytes(text)), name::hash_word(text))
    }

    /// `E'…'`, `N'…'`, `B'…'`, `X'…'`, `U&'…'`, `U&"…"`: the letter and the byte after it.
    fn prefixed(&mut self, letter: u8, next: u8) -> Option<Kind> {
        match (letter, next) {
            (b'e', b'\'') => {
                self.at += 1;
                Some(as_other(self.string(true, false)))
            }
            (b'n', b'\'') => {
                self.at += 1;
                Some(self.string(self.reading.escapes, true))
            }
            (b'b' | b'x', b'\'') => {
                self.at += 1;
                Some(as_other(self.string(false, true)))
            }
            (b'u', b'&') if matches!(self.peek(2), b'\'' | b'"') => {
                self.at += 2;
                let kind = if self.peek(0) == b'"' { self.quoted().0 } else { self.string(false, true) };
                Some(if matches!(kind, Kind::Malformed | Kind::Unterminated) { kind } else { Kind::UnicodeEscape })
            }
            _ => None,
        }
    }

    fn quoted(&mut self) -> (Kind, Keyword, u32) {
        let start = self.at;
        self.at += 1;
        loop {
            match self.sql[self.at..].iter().position(|&b| b == b'"') {
                None => {
                    self.at = self.sql.len();
                    return (Kind::Unterminated, Keyword::None, 0);
                }
                Some(quote) => self.at += quote + 1,
            }
            if self.peek(0) != b'"' {
                break;
            }
            self.at += 1;
        }
        match name::hash_quoted(&self.sql[start..self.at]) {
            Some(hash) => (Kind::Quoted, Keyword::None, hash),
            None => (Kind::Malformed, Keyword::None, 0),
        }
    }

    /// `'…'` from its opening quote, with the parts that follow on later lines. `plain`: it is the session's
    /// setting that made it `escapes` or not.
    fn string(&mut self, escapes: bool, plain: bool) -> Kind {
        let mut kind = Kind::Literal;
        self.at += 1;
        loop {
            match self.sql[self.at..].iter().position(|b| matches!(b, b'\'' | b'\\')) {
                None => {
                    self.at = self.sql.len();
                    return Kind::Unterminated;
                }
                Some(stop) => self.at += stop,
            }
            if self.peek(0) == b'\\' {
                kind = Kind::OtherLiteral;
                self.backslash(escapes, plain);
                if self.at > self.sql.len() {
                    self.at = self.sql.len();
                    return Kind::Unterminated;
                }
            } else if self.peek(1) == b'\'' {
                kind = Kind::OtherLiteral;
                self.at += 2;
            } else {
                self.at += 1;
                if !self.continued() {
                    return kind;
                }
                kind = Kind::OtherLiteral;
            }
        }
    }

    /// Moves past a backslash and what it escapes; notes whether another reading would go elsewhere.
    fn backslash(&mut self, escapes: bool, plain: bool) {
        let in_character = self.sql[self.at - 1] >= 0x80;
        if matches!(self.peek(1), b'\'' | b'\\') {
            self.ambiguous |= in_character || (plain && self.peek(1) == b'\'');
        }
        let escapes = escapes && !(self.reading.multibyte && in_character);
        self.at += if escapes { 2 } else { 1 };
    }

    /// After a closing quote: is there, past white space with a line break in it, another part of the same
    /// literal? If so, moves behind its opening quote.
    fn continued(&mut self) -> bool {
        let mut at = self.at;
        let mut newline = false;
        while let Some(&byte) = self.sql.get(at) {
            match byte {
                b'\n' | b'\r' => {
                    newline = true;
                    at += 1;
                }
                b' ' | b'\t' | 0x0c => at += 1,
                b'-' if self.sql.get(at + 1) == Some(&b'-') => {
                    while self.sql.get(at).is_some_and(|b| !matches!(b, b'\n' | b'\r')) {
                        at += 1;
                    }
                }
                b'\'' if newline => {
                    self.at = at + 1;
                    return true;
                }
                _ => return false,
            }
        }
        false
    }

    /// Digits, a fraction, an exponent. What follows directly (`0x1F`, `1_000`, `1and`) is a number, two
    /// tokens or an error by version: it is left to the next token, which is the reading with more names in it.
    fn number(&mut self) -> Kind {
        let start = self.at;
        self.digits();
        let mut kind = if self.at - start <= 9 { Kind::Integer } else { Kind::Number };
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            self.digits();
            kind = Kind::Number;
        }
        if self.peek(0) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.digits();
                kind = Kind::Number;
            }
        }
        if is_identifier(self.peek(0)) { Kind::Number } else { kind }
    }

    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
    }

    /// `$1` or `$tag$…$tag$`.
    fn dollar(&mut self) -> Kind {
        let start = self.at;
        self.at += 1;
        if self.peek(0).is_ascii_digit() {
            self.digits();
            return Kind::Param;
        }
        while is_identifier(self.peek(0)) && self.peek(0) != b'$' {
            self.at += 1;
        }
        if self.peek(0) != b'$' {
            return Kind::Malformed;
        }
        self.at += 1;
        let tag = &self.sql[start..self.at];
        while let Some(next) = self.sql[self.at..].iter().position(|&b| b == b'$') {
            self.at += next;
            if self.sql[self.at..].starts_with(tag) {
                self.at += tag.len();
                return Kind::OtherLiteral;
            }
            self.at += 1;
        }
        self.at = self.sql.len();
        Kind::Unterminated
    }

    /// The longest run of operator characters that neither contains the start of a comment nor, unless it
    /// has one of ``~!@#%^&|`?``, ends in `+` or `-` (documentation 4.1.3).
    fn operator(&mut self) -> Kind {
        // PostgreSQL takes none of more than 63 bytes.
        let rest = &self.sql[self.at..];
        let rest = &rest[..rest.len().min(LONGEST_OPERATOR)];
        let mut length = rest.iter().position(|&b| !is_operator(b)).unwrap_or(rest.len());
        if let Some(comment) = rest[..length].windows(2).position(|w| w == b"--" || w == b"/*") {
            length = comment;
        }
        let loose = |b: &u8| matches!(b, b'~' | b'!' | b'@' | b'#' | b'%' | b'^' | b'&' | b'|' | b'`' | b'?');
        let loose = rest[..length].iter().position(loose).unwrap_or(length);
        while length > 1 && matches!(rest[length - 1], b'+' | b'-') && loose >= length - 1 {
            length -= 1;
        }
        let kind = if &rest[..length] == b"=>" { Kind::Arrow } else { Kind::Operator };
        self.take(length.max(1), kind)
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let open = self.at;
        if !self.skip_blank() {
            self.at = self.sql.len();
            let end = self.at as u32;
            return Some(Token { kind: Kind::Unterminated, keyword: Keyword::None, start: open as u32, end, hash: 0 });
        }
        if self.at >= self.sql.len() {
            return None;
        }
        let start = self.at as u32;
        let (kind, keyword, hash) = self.scan();
        Some(Token { kind, keyword, start, end: self.at as u32, hash })
    }
}

/// Bytes of a run of operator characters that are looked at.
const LONGEST_OPERATOR: usize = 72;

fn as_other(kind: Kind) -> Kind {
    if kind == Kind::Literal { Kind::OtherLiteral } else { kind }
}

/// Can `byte` continue an unquoted identifier?
#[inline]
pub fn is_identifier(byte: u8) -> bool {
    IDENTIFIER[byte as usize]
}

const IDENTIFIER: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let ascii = byte as u8;
        table[byte] = ascii.is_ascii_alphanumeric() || ascii == b'_' || ascii == b'$' || byte >= 0x80;
        byte += 1;
    }
    table
};

fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lex(sql: &str) -> Vec<(Kind, &str)> {
        Lexer::new(sql.as_bytes(), Reading::USUAL).map(|t| (t.kind, &sql[t.start as usize..t.end as usize])).collect()
    }

    fn kinds(sql: &str) -> Vec<Kind> {
        lex(sql).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn every_quoting_form_is_one_token() {
        use Kind::*;
        for (sql, kind) in [
            ("'it''s; DELETE'", OtherLiteral),
            ("'plain'", Literal),
            (r"'C:\'", OtherLiteral),
            (r"E'\'; x'", OtherLiteral),
            ("e'a'\n  'b\\'c'", OtherLiteral),
            ("N'x'", Literal),
            ("b'01'", OtherLiteral),
            ("X'ff'", OtherLiteral),
            ("$$; x$$", OtherLiteral),
            ("$tag$ it's $$ $tag2$ $tag$", OtherLiteral),
            ("$ünï$x; delete$ünï$", OtherLiteral),
            ("\"for update; \"\"\"", Quoted),
            ("U&\"n\\0065xtval\"", UnicodeEscape),
            ("u&'\\0061'", UnicodeEscape),
            ("\"\"", Malformed),
            ("'open", Unterminated),
            ("\"open", Unterminated),
            ("$a$ open $b$", Unterminated),
            ("/* /* */ open", Unterminated),
            ("\u{b}", Malformed),
        ] {
            assert_eq!(kinds(sql), [kind], "{sql}");
        }
    }

    #[test]
    fn comments_nest_and_end_where_postgres_ends_them() {
        assert_eq!(lex("/*/* */ ' */SELECT 3"), [(Kind::Word, "SELECT"), (Kind::Integer, "3")]);
        assert_eq!(lex("--SELECT\rSELECT 1").len(), 2);
        assert_eq!(lex("1 -- x;\n; 2").len(), 3);
    }

    #[test]
    fn operators_follow_the_rule_about_trailing_signs_and_comments() {
        assert_eq!(
            lex("1<-2"),
            [(Kind::Integer, "1"), (Kind::Operator, "<"), (Kind::Operator, "-"), (Kind::Integer, "2")]
        );
        assert_eq!(lex("a @- b")[1], (Kind::Operator, "@-"));
        assert_eq!(lex("a +/* c */ b").len(), 3);
        assert_eq!(lex("a *-- c\nb").len(), 3);
        assert_eq!(lex("f(a=>1)")[3], (Kind::Arrow, "=>"));
        assert_eq!(lex("k ==~ v")[1], (Kind::Operator, "==~"));
    }

    #[test]
    fn numbers_leave_what_follows_to_the_next_token() {
        use Kind::*;
        assert_eq!(kinds("SELECT.5"), [Word, Number]);
        assert_eq!(kinds("1e5 1.5 12345678901 1..2"), [Number, Number, Number, Integer, Colon, Integer]);
        assert_eq!(kinds("1_000"), [Number, Word]);
        assert_eq!(kinds("0x1F"), [Number, Word]);
        assert_eq!(kinds(r"1e'\''"), [Number, OtherLiteral]);
        assert_eq!(kinds("$1$$x$$"), [Param, OtherLiteral]);
    }

    #[test]
    fn a_backslash_before_a_quote_depends_on_the_session() {
        let sql = br"'\' FROM orgs FOR UPDATE --'";
        let mut on = Lexer::new(sql, Reading::USUAL);
        assert_eq!(on.by_ref().count(), 5);
        assert!(on.ambiguous());
        assert_eq!(Lexer::new(sql, Reading::OTHERS[0]).count(), 1);
    }

    #[test]
    fn hints_come_from_comments_only() {
        let hint = |sql: &str| {
            let mut lexer = Lexer::new(sql.as_bytes(), Reading::USUAL);
            lexer.by_ref().count();
            lexer.hints()
        };
        let target = |sql| hint(sql).target;
        assert_eq!(target("/* pgweir: replica */ SELECT 1"), Some(Hint::Replica));
        assert_eq!(target("SELECT 1 -- pgweir:primary"), Some(Hint::Primary));
        assert_eq!(target("/* pgweir: primary */ SELECT 1 /* pgweir: replica */"), Some(Hint::Primary));
        assert_eq!(target("SELECT '/* pgweir: primary */'"), None);
        assert_eq!(target("/* pgweir: primarily */ SELECT 1"), None);
        let both = Hints { target: Some(Hint::Replica), consistency: Some(Consistency::Eventual) };
        assert_eq!(hint("/* pgweir: replica, consistency=eventual */ SELECT 1"), both);
        assert_eq!(hint("/* pgweir: consistency=tenant */ SELECT 1").consistency, Some(Consistency::Tenant));
        assert_eq!(hint("/* pgweir: consistency=none */ SELECT 1"), Hints::default());
    }

    proptest! {
        #[test]
        fn any_bytes_give_tokens_in_order_that_cover_the_text(sql in proptest::collection::vec(any::<u8>(), 0..300)) {
            for reading in [Reading::USUAL, Reading::OTHERS[0], Reading::OTHERS[2]] {
                let mut end = 0;
                for token in Lexer::new(&sql, reading) {
                    prop_assert!(token.start >= end && token.end > token.start && token.end as usize <= sql.len());
                    end = token.end;
                }
            }
        }

        #[test]
        fn what_was_quoted_is_one_token_whatever_it_says(body in "[ -~\u{e4}\n]{0,40}") {
            let single = format!("SELECT '{}', 1", body.replace('\'', "''"));
            prop_assert_eq!(lex(&single).len(), 4);
            let double = format!("SELECT \"x{}\", 1", body.replace('"', "\"\""));
            prop_assert_eq!(lex(&double).len(), 4);
            let escaped = format!("SELECT E'x{}', 1", body.replace('\u{e4}', "").replace('\\', "\\\\").replace('\'', "\\'"));
            prop_assert_eq!(lex(&escaped).len(), 4);
            let comment = format!("SELECT /* {} */ x, 1", body.replace(['/', '*'], ""));
            prop_assert_eq!(lex(&comment).len(), 4);
            let dollar = format!("SELECT $q${}$q$, 1", body.replace('$', ""));
            prop_assert_eq!(lex(&dollar).len(), 4);
        }
    }
}
