//! Can an expression in this statement be a row?
//!
//! Where no relation of the database has a column of a composite type, a row can only be made by the statement
//! itself: by a whole-row reference (`SELECT u AS x FROM users u`), a row constructor, a cast to a type of the
//! database's own, or a function that returns one. This looks for any of these, anywhere in the statement,
//! and says no when in doubt.

use std::ops::RangeInclusive;

use smallvec::SmallVec;

use super::super::catalog::Catalog;
use super::super::keyword::Keyword;
use super::super::lexer::{Kind, Token};
use super::super::name;
use super::super::tokens::after_paren;

/// What the tokens at one depth of parentheses are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Region {
    SelectList,
    From,
    /// A join's condition, after which `FROM` goes on.
    On,
    Other,
}

/// One open parenthesis.
#[derive(Clone, Copy)]
struct Level {
    region: Region,
    /// It would be a row constructor if it had a comma.
    may_be_row: bool,
    /// Rows directly in it are only compared (`IN ((1, 2), …)`) or are rows of a table (`VALUES (1, 2), …`).
    lists_rows: bool,
    /// Where it opens.
    open: usize,
}

/// Does nothing in the statement make a row, and is no name in `argument` a whole row?
pub(super) fn makes_none(sql: &[u8], statement: &[Token], catalog: &Catalog, argument: &[Token]) -> bool {
    let (relations, uses) = (SmallVec::new(), SmallVec::new());
    let reach = if is_single(statement) { argument } else { statement };
    let within = reach.first().map_or(0, |first| first.start)..=reach.last().map_or(0, |last| last.start);
    let mut walk = Walk { sql, statement, catalog, within, relations, uses, closed: None };
    if !walk.run() {
        return false;
    }
    let is_relation = |token: &Token| walk.relations.iter().any(|relation| same(sql, relation, token));
    let whole = |at: usize| {
        let after_dot = at > 0 && argument[at - 1].kind == Kind::Dot;
        let before_other = argument.get(at + 1).is_some_and(|next| matches!(next.kind, Kind::Dot | Kind::LeftParen));
        argument[at].is_name() && !after_dot && !before_other && is_relation(&argument[at])
    };
    let counts = |token: &&&Token| walk.within.contains(&token.start);
    !walk.uses.iter().filter(counts).any(|token| is_relation(token)) && !(0..argument.len()).any(whole)
}

fn same(sql: &[u8], left: &Token, right: &Token) -> bool {
    left.hash == right.hash && name::spelled(left.text(sql)) == name::spelled(right.text(sql))
}

/// One query without any inside: what its select list makes nobody can pass on.
fn is_single(statement: &[Token]) -> bool {
    let is_query = |token: &&Token| {
        matches!(token.keyword, Keyword::Select | Keyword::Values | Keyword::Table | Keyword::With | Keyword::Returning)
    };
    statement.iter().filter(is_query).count() == 1
}

struct Walk<'a> {
    sql: &'a [u8],
    statement: &'a [Token],
    catalog: &'a Catalog,
    /// Where a row that is made in passing could become the argument: at these places in the text.
    within: RangeInclusive<u32>,
    /// Names of relations and aliases: all names in `FROM`.
    relations: SmallVec<[&'a Token; 16]>,
    /// Names that stand alone elsewhere, columns or whole rows.
    uses: SmallVec<[&'a Token; 32]>,
    /// The parenthesis that was closed last: where it opens and closes.
    closed: Option<(usize, usize)>,
}

impl<'a> Walk<'a> {
    /// False as soon as something makes a row.
    fn run(&mut self) -> bool {
        let mut levels: SmallVec<[Level; 16]> = SmallVec::new();
        let mut level = Level { region: Region::Other, may_be_row: false, lists_rows: false, open: 0 };
        for (at, token) in self.statement.iter().enumerate() {
            match token.kind {
                Kind::LeftParen => {
                    levels.push(level);
                    level = Level {
                        region: self.region_within(at, level.region),
                        may_be_row: !level.lists_rows && self.may_open_row(at),
                        lists_rows: self.before(at).is_some_and(|before| before.keyword == Keyword::In),
                        open: at,
                    };
                }
                Kind::RightParen => match levels.pop() {
                    Some(outer) => {
                        self.closed = Some((level.open, at));
                        level = outer;
                    }
                    None => return false,
                },
                Kind::Comma
                    if level.may_be_row && level.region == Region::Other && self.within.contains(&token.start) =>
                {
                    return false;
                }
                Kind::Comma if level.region == Region::On => level.region = Region::From,
                Kind::Cast if self.within.contains(&token.start) && !self.is_scalar_type(at + 1) => return false,
                Kind::Operator if self.is_row_star(at, level.region) => return false,
                Kind::Word | Kind::Quoted if self.makes_row(at) => return false,
                Kind::Word | Kind::Quoted => {
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

    /// The parenthesis at `at` within `outer`: of a join, or of the arguments of a function.
    fn region_within(&self, at: usize, outer: Region) -> Region {
        let arguments = self.before(at).is_some_and(|before| before.is_name() && before.keyword == Keyword::None);
        if outer == Region::From && !arguments { Region::From } else { Region::Other }
    }

    fn region_after(&self, at: usize, level: Level) -> Level {
        use Keyword::{
            Cross, Distinct, Except, Fetch, For, From, Full, Group, Having, Inner, Intersect, Join, Left, Limit,
            Natural, Offset, On, Order, Right, Select, Union, Values, Where, Window,
        };
        let keyword = self.statement[at].keyword;
        let distinct = self.before(at).is_some_and(|before| before.keyword == Distinct);
        let region = match (keyword, level.region) {
            (Select, _) => Region::SelectList,
            (From, Region::SelectList) if !distinct => Region::From,
            (On, Region::From) => Region::On,
            (Join | Cross | Full | Inner | Left | Natural | Right, Region::On) => Region::From,
            (
                Where | Group | Order | Having | Limit | Offset | Fetch | Window | Union | Intersect | Except | For
                | Values,
                _,
            ) => Region::Other,
            (_, region) => region,
        };
        let lists_rows = match keyword {
            Values => true,
            _ if region == level.region => level.lists_rows,
            _ => false,
        };
        Level { region, may_be_row: level.may_be_row && keyword != Select, lists_rows, ..level }
    }

    fn note(&mut self, at: usize, token: &'a Token, region: Region) {
        let after_dot = self.before(at).is_some_and(|before| before.kind == Kind::Dot);
        let label = self.before(at).is_some_and(|before| before.keyword == Keyword::As);
        match (region, self.kind(at + 1)) {
            _ if token.keyword.is_reserved() => {}
            (_, Some(Kind::Dot)) => {}
            (Region::From, _) if self.is_alias_of_values(at) => {}
            (Region::From, _) => self.relations.push(token),
            _ if self.defines_query(at) => {}
            (_, Some(Kind::LeftParen)) => {}
            _ if after_dot || label => {}
            _ => self.uses.push(token),
        }
    }

    /// `WITH name AS (`, also with what says how to carry it out.
    fn defines_query(&self, at: usize) -> bool {
        let is = |at, keyword| self.statement.get(at).is_some_and(|token: &Token| token.keyword == keyword);
        let opens = |at| self.kind(at) == Some(Kind::LeftParen);
        let materialized = if is(at + 2, Keyword::Not) { at + 3 } else { at + 2 };
        is(at + 1, Keyword::As)
            && (opens(at + 2) || (is(materialized, Keyword::Materialized) && opens(materialized + 1)))
    }

    /// `generate_series(1, 9) AS n`: of a function that is known to return values, whose alias is no row either. Of others
    /// what they return may be what they are given (`jsonb_populate_record(NULL::users, …) AS u`).
    fn is_alias_of_values(&self, at: usize) -> bool {
        let labelled = self.before(at).is_some_and(|before| before.keyword == Keyword::As);
        let end = if labelled { at.checked_sub(2) } else { at.checked_sub(1) };
        let Some((open, _)) = self.closed.filter(|(_, close)| Some(*close) == end) else { return false };
        self.before(open).is_some_and(|function| {
            let text = function.text(self.sql);
            // The catalog has overloads of a name only where somebody has made one.
            let entry = self.catalog.entry(function.hash, text);
            let shadowed = entry.is_some_and(|entry| !entry.functions.is_empty() || !entry.harmless.is_empty());
            !shadowed && VALUE_SETS.iter().any(|known| name::names(text, known))
        })
    }

    /// `(a, b)` as a value, and not the arguments of something or a list after `IN`.
    fn may_open_row(&self, at: usize) -> bool {
        use Keyword::{All, Case, Distinct, Else, Select, Then, When};
        self.before(at).is_none_or(|before| {
            matches!(before.kind, Kind::Comma | Kind::LeftParen)
                || matches!(before.keyword, All | Case | Distinct | Else | Select | Then | When)
        })
    }

    /// A word that makes a row, or that brings a type which may be one.
    fn makes_row(&self, at: usize) -> bool {
        let token = &self.statement[at];
        let text = token.text(self.sql);
        match token.keyword {
            Keyword::Returning | Keyword::XmlTable => true,
            Keyword::Row => self.within.contains(&token.start),
            Keyword::Cast => self.within.contains(&token.start) && !self.casts_to_scalar(at),
            Keyword::None if self.kind(at + 1) == Some(Kind::LeftParen) => {
                text.eq_ignore_ascii_case(b"json_table")
                    || self.catalog.entry(token.hash, text).is_some_and(|entry| entry.returns_row)
            }
            // A literal with a type before it.
            Keyword::None => {
                self.within.contains(&token.start)
                    && matches!(self.kind(at + 1), Some(Kind::Literal | Kind::OtherLiteral))
                    && !self.is_scalar_type(at)
            }
            _ => false,
        }
    }

    /// `CAST(… AS type)` with a single word.
    fn casts_to_scalar(&self, at: usize) -> bool {
        let Some(end) = after_paren(self.statement, at + 1) else { return false };
        end >= 3 && self.statement[end - 3].keyword == Keyword::As && self.is_scalar_type(end - 2)
    }

    fn is_scalar_type(&self, at: usize) -> bool {
        let Some(word) = self.statement.get(at) else { return false };
        if self.kind(at + 1) == Some(Kind::Dot) {
            let name = self.statement.get(at + 2).filter(|_| name::names(word.text(self.sql), b"pg_catalog"));
            return name
                .is_some_and(|name| is_scalar_type(name.text(self.sql)) && self.kind(at + 3) != Some(Kind::Dot));
        }
        let entry = self.catalog.entry(word.hash, word.text(self.sql));
        is_scalar_type(word.text(self.sql)) || entry.is_some_and(|entry| entry.is_enum)
    }

    /// `u.*` other than as an item of a select list, where it stands for columns.
    fn is_row_star(&self, at: usize, region: Region) -> bool {
        let token = &self.statement[at];
        let after_dot = self.before(at).is_some_and(|before| before.kind == Kind::Dot);
        let star = token.text(self.sql).starts_with(b"*") && after_dot;
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

/// Built-in functions in `FROM` that return values, whatever they are given.
const VALUE_SETS: &[&[u8]] = &[
    b"generate_series",
    b"generate_subscripts",
    b"json_array_elements",
    b"json_array_elements_text",
    b"json_object_keys",
    b"jsonb_array_elements",
    b"jsonb_array_elements_text",
    b"jsonb_object_keys",
    b"regexp_matches",
    b"regexp_split_to_table",
    b"string_to_table",
];

/// Words that name, or start the name of, a built-in type that is no row.
fn is_scalar_type(text: &[u8]) -> bool {
    const MORE: &[&[u8]] = &[
        b"bit",
        b"bpchar",
        b"char",
        b"character",
        b"cidr",
        b"daterange",
        b"double",
        b"inet",
        b"int4range",
        b"int8range",
        b"interval",
        b"jsonpath",
        b"macaddr",
        b"money",
        b"name",
        b"numrange",
        b"oid",
        b"point",
        b"regclass",
        b"regconfig",
        b"regproc",
        b"regtype",
        b"time",
        b"timetz",
        b"tsquery",
        b"tsrange",
        b"tstzrange",
        b"tsvector",
        b"xml",
    ];
    super::built_in_type(text).is_some() || MORE.contains(&name::spelled(text).as_slice())
}
