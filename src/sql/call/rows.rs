//! Can a column in this statement hold a row?
//!
//! Where no relation of the database has a column of a composite type, such a column can only be made by the
//! statement itself: from a whole-row reference (`SELECT u AS x FROM users u`), a row constructor, a cast to a
//! type of the database's own, or a function that returns a row. This looks for any of these and says no
//! when in doubt.

use smallvec::SmallVec;

use super::super::catalog::Catalog;
use super::super::keyword::Keyword;
use super::super::lexer::{Kind, Token};
use super::super::name;

/// What the tokens at one depth of parentheses are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Region {
    SelectList,
    From,
    Other,
}

/// One open parenthesis.
#[derive(Clone, Copy)]
struct Level {
    region: Region,
    /// It would be a row constructor if it had a comma.
    may_be_row: bool,
}

/// Is every column reference of the statement a scalar? `column`: a name that stands alone, which must not be
/// that of a relation or alias either.
pub(super) fn columns_are_scalars(sql: &[u8], statement: &[Token], catalog: &Catalog, column: Option<&Token>) -> bool {
    let mut walk = Walk { sql, statement, catalog, relations: SmallVec::new(), uses: SmallVec::new() };
    if !walk.run() {
        return false;
    }
    let is_relation = |token: &Token| walk.relations.iter().any(|relation| same(sql, relation, token));
    !walk.uses.iter().any(|token| is_relation(token)) && column.is_none_or(|token| !is_relation(token))
}

fn same(sql: &[u8], left: &Token, right: &Token) -> bool {
    left.hash == right.hash && name::spelled(left.text(sql)) == name::spelled(right.text(sql))
}

struct Walk<'a> {
    sql: &'a [u8],
    statement: &'a [Token],
    catalog: &'a Catalog,
    /// Names of relations and aliases: all names in `FROM`.
    relations: SmallVec<[&'a Token; 16]>,
    /// Names that stand alone elsewhere, columns or whole rows.
    uses: SmallVec<[&'a Token; 32]>,
}

impl<'a> Walk<'a> {
    /// False as soon as something makes a row.
    fn run(&mut self) -> bool {
        let mut levels: SmallVec<[Level; 16]> = SmallVec::new();
        let mut level = Level { region: Region::Other, may_be_row: false };
        for (at, token) in self.statement.iter().enumerate() {
            match token.kind {
                Kind::LeftParen => {
                    let region = if level.region == Region::From { Region::From } else { Region::Other };
                    levels.push(level);
                    level = Level { region, may_be_row: self.may_open_row(at) };
                }
                Kind::RightParen => match levels.pop() {
                    Some(outer) => level = outer,
                    None => return false,
                },
                Kind::Comma if level.may_be_row && level.region == Region::Other => return false,
                Kind::Cast if !self.casts_to_scalar(at) => return false,
                Kind::Operator if self.is_row_star(at, level.region) => return false,
                Kind::Word | Kind::Quoted => {
                    if matches!(token.keyword, Keyword::Row | Keyword::Cast)
                        || self.is_typed_literal(at)
                        || self.returns_row(at)
                    {
                        return false;
                    }
                    level = self.region_after(at, level);
                    self.note(at, token, level.region);
                }
                _ => {}
            }
        }
        true
    }

    fn kind(&self, at: usize) -> Option<Kind> {
        self.statement.get(at).map(|token| token.kind)
    }

    fn before(&self, at: usize) -> Option<&'a Token> {
        self.statement.get(at.checked_sub(1)?)
    }

    fn region_after(&self, at: usize, level: Level) -> Level {
        use Keyword::{
            Distinct, Except, Fetch, For, From, Group, Having, Intersect, Limit, Offset, Order, Select, Union, Values,
            Where, Window,
        };
        let region = match self.statement[at].keyword {
            Select => Region::SelectList,
            From if level.region == Region::SelectList && self.before(at).is_none_or(|b| b.keyword != Distinct) => {
                Region::From
            }
            Where | Group | Order | Having | Limit | Offset | Fetch | Window | Union | Intersect | Except | For
            | Values => Region::Other,
            _ => level.region,
        };
        Level { region, may_be_row: level.may_be_row && self.statement[at].keyword != Select }
    }

    fn note(&mut self, at: usize, token: &'a Token, region: Region) {
        let after_dot = self.before(at).is_some_and(|before| before.kind == Kind::Dot);
        let label = self.before(at).is_some_and(|before| before.keyword == Keyword::As);
        match (region, self.kind(at + 1)) {
            (_, Some(Kind::Dot)) => {}
            (Region::From, _) => self.relations.push(token),
            (_, Some(Kind::LeftParen)) => {}
            _ if after_dot || label => {}
            _ => self.uses.push(token),
        }
    }

    /// `(a, b)` as a value, and not the arguments of something or a list after `IN`.
    fn may_open_row(&self, at: usize) -> bool {
        use Keyword::{All, Case, Distinct, Else, Select, Then, When};
        self.before(at).is_none_or(|before| {
            matches!(before.kind, Kind::Comma | Kind::LeftParen)
                || matches!(before.keyword, All | Case | Distinct | Else | Select | Then | When)
        })
    }

    fn casts_to_scalar(&self, at: usize) -> bool {
        let Some(target) = self.statement.get(at + 1) else { return false };
        super::built_in_type(target.text(self.sql)).is_some() && self.kind(at + 2) != Some(Kind::Dot)
    }

    /// `users '(1)'`, where the word is not a keyword.
    fn is_typed_literal(&self, at: usize) -> bool {
        let token = &self.statement[at];
        let literal = matches!(self.kind(at + 1), Some(Kind::Literal | Kind::OtherLiteral));
        literal && token.keyword == Keyword::None && super::built_in_type(token.text(self.sql)).is_none()
    }

    fn returns_row(&self, at: usize) -> bool {
        let token = &self.statement[at];
        self.kind(at + 1) == Some(Kind::LeftParen)
            && self.catalog.entry(token.hash, token.text(self.sql)).is_some_and(|entry| entry.returns_row)
    }

    /// `u.*` other than as an item of a select list, where it stands for columns.
    fn is_row_star(&self, at: usize, region: Region) -> bool {
        let token = &self.statement[at];
        let star =
            token.text(self.sql).starts_with(b"*") && self.before(at).is_some_and(|before| before.kind == Kind::Dot);
        star && (region != Region::SelectList || !self.is_item(at))
    }

    fn is_item(&self, star: usize) -> bool {
        let mut first = star;
        while first >= 2 && self.statement[first - 1].kind == Kind::Dot && self.statement[first - 2].is_name() {
            first -= 2;
        }
        let starts = self.before(first).is_some_and(|before| {
            matches!(before.kind, Kind::Comma | Kind::RightParen)
                || matches!(before.keyword, Keyword::Select | Keyword::Distinct | Keyword::All)
        });
        let ends = self.statement.get(star + 1).is_none_or(|next| {
            matches!(next.kind, Kind::Comma | Kind::RightParen | Kind::Semicolon) || next.keyword == Keyword::From
        });
        starts && ends
    }
}
