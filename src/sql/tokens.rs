//! All tokens of a text, on the stack for texts of the usual size.

use std::ops::Deref;

use smallvec::SmallVec;

use super::keyword::Keyword;
use super::lexer::{Hints, Kind, Lexer, Reading, Token};

/// The tokens of one reading of a text, and what the lexer noted along the way.
pub struct Tokens {
    list: SmallVec<[Token; 128]>,
    /// The hints in its comments.
    pub hints: Hints,
    /// Another [`Reading`] would split it differently.
    pub ambiguous: bool,
    /// A quote or comment never ends: PostgreSQL refuses such a text whole, on any server.
    pub unterminated: bool,
    /// A token that is not PostgreSQL's, or not in every version.
    pub malformed: bool,
}

impl Tokens {
    pub fn read(sql: &[u8], reading: Reading) -> Tokens {
        let mut lexer = Lexer::new(sql, reading);
        let mut tokens = Tokens {
            list: SmallVec::new(),
            hints: Hints::default(),
            ambiguous: false,
            unterminated: false,
            malformed: false,
        };
        for token in lexer.by_ref() {
            tokens.unterminated |= token.kind == Kind::Unterminated;
            tokens.malformed |= token.kind == Kind::Malformed;
            tokens.list.push(token);
        }
        tokens.hints = lexer.hints();
        tokens.ambiguous = lexer.ambiguous();
        tokens
    }

    /// The other readings of this text that PostgreSQL might take. One in which a quote never ends is none: the server refuses
    /// such a text whole.
    pub fn others<'a>(&self, sql: &'a [u8]) -> impl Iterator<Item = Tokens> + use<'a> {
        let readings = if self.ambiguous { &Reading::OTHERS[..] } else { &[] };
        readings.iter().map(|reading| Tokens::read(sql, *reading)).filter(|tokens| !tokens.unterminated)
    }
}

impl Deref for Tokens {
    type Target = [Token];

    fn deref(&self) -> &[Token] {
        &self.list
    }
}

/// Does a statement start at `at`, in the code of a function?
pub fn starts_statement(code: &[u8], tokens: &[Token], at: usize) -> bool {
    use Keyword::{Atomic, Begin, Else, Loop, Then};
    at.checked_sub(1).map(|before| &tokens[before]).is_none_or(|before| {
        before.kind == Kind::Semicolon
            || matches!(before.keyword, Atomic | Begin | Else | Loop | Then)
            || before.text(code) == b">>"
    })
}

/// The index after the parenthesis that closes the one at `open`, or `None` if none does.
pub fn after_paren(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::LeftParen => depth += 1,
            Kind::RightParen => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// Do parentheses and brackets match?
pub fn is_balanced(tokens: &[Token]) -> bool {
    let (mut parens, mut brackets) = (0i32, 0i32);
    for token in tokens {
        match token.kind {
            Kind::LeftParen => parens += 1,
            Kind::RightParen => parens -= 1,
            Kind::LeftBracket => brackets += 1,
            Kind::RightBracket => brackets -= 1,
            _ => {}
        }
        if parens < 0 || brackets < 0 {
            return false;
        }
    }
    parens == 0 && brackets == 0
}
