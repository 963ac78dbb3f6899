//! Which overloads of a function a call can select: by the number of its arguments and by what their text
//! says about their types. (PostgreSQL documentation 10.3, "Functions".)
//!
//! A database's own function may share its name with a built-in one: `upper(users)`, which takes a row, beside
//! `upper(text)`. Calls of the built-in must stay reads, so a tainted overload counts only if these arguments
//! could reach it. Only what follows from PostgreSQL's rules is ruled out:
//!
//! - an overload that does not take that many arguments;
//! - where all types are known and a harmless overload has exactly these, every other one;
//! - a number or boolean never becomes a string, a date, an array or a row unasked; a value of any built-in
//!   scalar type never becomes a row;
//! - a lone literal prefers an overload that takes a string;
//! - no other expression is a row, if no relation has a column that is one and the statement makes none
//!   ([`rows`]).

use smallvec::SmallVec;

use super::catalog::{Argument, Catalog, Scope, Signature, pg_catalog_first};
use super::keyword::Keyword;
use super::lexer::{Kind, Token};

mod rows;

/// A call's arguments, as far as their text tells.
pub struct Call<'a> {
    sql: &'a [u8],
    statement: &'a [Token],
    catalog: &'a Catalog,
    /// The text is all there is: no variable or parameter of a function may hold a row.
    closed: bool,
    /// `None` if they are named, spread by `VARIADIC`, or not readable: any overload may be meant.
    arguments: Option<SmallVec<[Shape<'a>; 4]>>,
}

/// Can the overload be the one that is called?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub possible: bool,
    /// No, but only as long as no parameter is declared with a type of the database's own.
    pub relies_on_parameters: bool,
}

#[derive(Clone, Copy, Debug)]
enum Shape<'a> {
    Known(Argument),
    /// A string literal, whose type is yet to be chosen.
    Literal,
    Param,
    /// Any other expression.
    Expression(&'a [Token]),
}

impl<'a> Call<'a> {
    /// Reads the call of the name at `at` in `statement`; the next token is its opening parenthesis.
    pub fn read(sql: &'a [u8], statement: &'a [Token], at: usize, catalog: &'a Catalog, scope: Scope<'_>) -> Call<'a> {
        let types = pg_catalog_first(scope);
        let arguments = split(sql, &statement[at + 1..])
            .map(|arguments| arguments.into_iter().map(|argument| shape(sql, argument, types)).collect());
        Call { sql, statement, catalog, closed: true, arguments }
    }

    /// The same call in the body of a function, whose parameters and variables may be rows.
    pub fn in_code(self) -> Call<'a> {
        Call { closed: false, ..self }
    }

    /// Could the call mean `overload`, given the harmless ones that are visible as well?
    pub fn reaches<'o>(
        &self,
        overload: &Signature,
        mut harmless: impl Iterator<Item = &'o Signature> + Clone,
    ) -> Reach {
        const POSSIBLE: Reach = Reach { possible: true, relies_on_parameters: false };
        const IMPOSSIBLE: Reach = Reach { possible: false, relies_on_parameters: false };
        let curated = overload.arguments.is_empty() && overload.most.is_none();
        let Some(arguments) = self.arguments.as_ref().filter(|_| !curated) else { return POSSIBLE };
        if !overload.takes(arguments.len()) {
            return IMPOSSIBLE;
        }
        let exact = |signature: &Signature| {
            signature.arguments.len() == arguments.len()
                && signature.most.is_some()
                && arguments
                    .iter()
                    .zip(&signature.arguments)
                    .all(|(shape, argument)| matches!(shape, Shape::Known(known) if known.oid == argument.oid))
        };
        if !exact(overload) && harmless.clone().any(exact) {
            return IMPOSSIBLE;
        }
        if overload.most.is_none() {
            return POSSIBLE;
        }
        let takes_string = |signature: &Signature| {
            signature.takes(1) && signature.arguments.first().is_some_and(|a| a.category == b'S')
        };
        let string_wins = arguments.len() == 1 && harmless.any(takes_string);
        let mut reach = POSSIBLE;
        for (shape, argument) in arguments.iter().zip(&overload.arguments) {
            match self.excludes(*shape, *argument, string_wins) {
                None => {}
                Some(Exclusion::Always) => return IMPOSSIBLE,
                Some(Exclusion::UnlessDeclared) => reach = Reach { possible: false, relies_on_parameters: true },
            }
        }
        reach
    }

    /// Is it impossible that `shape` is passed as `argument`?
    fn excludes(&self, shape: Shape<'_>, argument: Argument, string_wins: bool) -> Option<Exclusion> {
        let row = argument.category == b'C';
        let excluded = match shape {
            Shape::Known(_) if self.catalog.implicit_casts() => false,
            Shape::Known(known) if matches!(known.category, b'N' | b'B') => b"SDTCEAGIRVU".contains(&argument.category),
            Shape::Known(_) => row,
            Shape::Literal => string_wins && !matches!(argument.category, b'S' | b'P'),
            Shape::Param if self.closed && row && string_wins => return Some(Exclusion::UnlessDeclared),
            Shape::Expression(tokens) => {
                row && self.closed
                    && !self.catalog.composite_columns()
                    && rows::makes_none(self.sql, self.statement, self.catalog, tokens)
            }
            Shape::Param => false,
        };
        excluded.then_some(Exclusion::Always)
    }
}

enum Exclusion {
    Always,
    UnlessDeclared,
}

/// The arguments between the parenthesis that `tokens` start with and the one that closes it. `f()` and
/// `f(*)` have none.
fn split<'a>(sql: &[u8], tokens: &'a [Token]) -> Option<SmallVec<[&'a [Token]; 4]>> {
    let mut arguments = SmallVec::new();
    let (mut depth, mut start) = (0usize, 1);
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::LeftParen | Kind::LeftBracket => depth += 1,
            Kind::RightParen | Kind::RightBracket => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    if at > 1 && !is_star(&tokens[1..at]) {
                        arguments.push(&tokens[start..at]);
                    }
                    return Some(arguments);
                }
            }
            Kind::Comma if depth == 1 => {
                arguments.push(&tokens[start..at]);
                start = at + 1;
            }
            Kind::Arrow | Kind::Colon if depth == 1 => return None,
            Kind::Word if at == start && token.text(sql).eq_ignore_ascii_case(b"variadic") => return None,
            _ => {}
        }
    }
    None
}

/// A lone `*`: no argument. (The only operator that can be an argument by itself.)
fn is_star(argument: &[Token]) -> bool {
    matches!(argument, [star] if star.kind == Kind::Operator)
}

fn shape<'a>(sql: &[u8], argument: &'a [Token], types: bool) -> Shape<'a> {
    match argument {
        [token] => match token.kind {
            Kind::Integer => known(23, b'N'),
            Kind::Literal | Kind::OtherLiteral => Shape::Literal,
            Kind::Param => Shape::Param,
            Kind::Word if matches!(token.keyword, Keyword::True | Keyword::False) => known(16, b'B'),
            Kind::Word if token.keyword == Keyword::Null => Shape::Literal,
            _ => Shape::Expression(argument),
        },
        [value @ .., cast, name] if types && cast.kind == Kind::Cast && is_primary(value) => {
            built_in_type(name.text(sql)).map_or(Shape::Expression(argument), Shape::Known)
        }
        _ => Shape::Expression(argument),
    }
}

fn known<'a>(oid: u32, category: u8) -> Shape<'a> {
    Shape::Known(Argument { oid, category })
}

/// `a.b.c`.
fn is_chain(tokens: &[Token]) -> bool {
    tokens.len() % 2 == 1
        && tokens
            .iter()
            .enumerate()
            .all(|(at, token)| if at % 2 == 0 { token.is_name() } else { token.kind == Kind::Dot })
}

/// A single value, to which a cast after it applies as a whole: a token, a chain, one parenthesis.
fn is_primary(tokens: &[Token]) -> bool {
    match tokens {
        [token] => !matches!(token.kind, Kind::Operator),
        [open, .., _] if open.kind == Kind::LeftParen => super::tokens::after_paren(tokens, 0) == Some(tokens.len()),
        chain => is_chain(chain),
    }
}

/// The common scalar types that a single word names.
fn built_in_type(text: &[u8]) -> Option<Argument> {
    let lower = super::name::spelled(text);
    let (oid, category) = match lower.as_slice() {
        b"bool" | b"boolean" => (16, b'B'),
        b"bytea" => (17, b'U'),
        b"int8" | b"bigint" => (20, b'N'),
        b"int2" | b"smallint" => (21, b'N'),
        b"int4" | b"int" | b"integer" => (23, b'N'),
        b"text" => (25, b'S'),
        b"json" => (114, b'U'),
        b"float4" | b"real" => (700, b'N'),
        b"float8" => (701, b'N'),
        b"varchar" => (1043, b'S'),
        b"date" => (1082, b'D'),
        b"timestamp" => (1114, b'D'),
        b"timestamptz" => (1184, b'D'),
        b"interval" => (1186, b'T'),
        b"numeric" | b"decimal" => (1700, b'N'),
        b"uuid" => (2950, b'U'),
        b"jsonb" => (3802, b'U'),
        _ => return None,
    };
    Some(Argument { oid, category })
}

#[cfg(test)]
mod tests {
    use super::super::lexer::Reading;
    use super::super::tokens::Tokens;
    use super::*;

    const USERS: Argument = Argument { oid: 16400, category: b'C' };
    const TEXT: Argument = Argument { oid: 25, category: b'S' };
    const INT: Argument = Argument { oid: 23, category: b'N' };

    fn overload(arguments: &[Argument]) -> Signature {
        Signature { schema: 1, least: arguments.len(), most: Some(arguments.len()), arguments: arguments.to_vec() }
    }

    /// The call is the second token of `sql`.
    fn reach(sql: &str, tainted: &[Argument], harmless: &[&[Argument]]) -> Reach {
        let tokens = Tokens::read(sql.as_bytes(), Reading::USUAL);
        let catalog = Catalog::build(1, super::super::CatalogRows::default());
        let call = Call::read(sql.as_bytes(), &tokens, 1, &catalog, Scope::Session(None));
        let harmless: Vec<Signature> = harmless.iter().map(|arguments| overload(arguments)).collect();
        call.reaches(&overload(tainted), harmless.iter())
    }

    fn possible(sql: &str, tainted: &[Argument], harmless: &[&[Argument]]) -> bool {
        reach(sql, tainted, harmless).possible
    }

    #[test]
    fn an_overload_that_takes_a_row_is_not_reached_by_scalars() {
        for sql in [
            "SELECT upper('x')",
            "SELECT upper(u.email::text) FROM u",
            "SELECT upper(email) FROM users",
            "SELECT upper(u.email) AS e FROM users AS u",
        ] {
            assert!(!possible(sql, &[USERS], &[&[TEXT]]), "{sql}");
        }
        for sql in [
            "SELECT upper(u) FROM users u",
            "SELECT upper(users) FROM users",
            "SELECT upper(u.*) FROM users u",
            "SELECT upper(x) FROM (SELECT u AS x FROM users u) s",
            "SELECT upper(s.x) FROM (SELECT u AS x FROM users u) s",
            "SELECT upper(x) FROM (SELECT '(1)'::users AS x) s",
            "SELECT upper(x) FROM (SELECT ROW(1, 2) AS x) s",
            "SELECT upper(x) FROM (SELECT (1, 2) AS x) s",
            "SELECT upper(x) FROM (SELECT coalesce(u.*, null) AS x FROM users u) s",
            "SELECT upper((SELECT u FROM users u))",
            "SELECT upper(coalesce(u, null)) FROM users u",
            "SELECT upper(x) FROM json_to_recordset('[]') AS t(x users), JSON_TABLE('1', '$' COLUMNS (a users)) j",
            "SELECT a.id FROM users a JOIN users b ON upper(b) = 'x'",
        ] {
            assert!(possible(sql, &[USERS], &[&[TEXT]]), "{sql}");
        }
        assert!(possible("SELECT upper('x')", &[USERS], &[]));
    }

    #[test]
    fn a_parameter_is_no_row_unless_it_is_declared_as_one() {
        let reach = reach("SELECT upper($1)", &[USERS], &[&[TEXT]]);
        assert_eq!(reach, Reach { possible: false, relies_on_parameters: true });
        assert!(possible("SELECT f($1)", &[TEXT], &[&[INT]]));
    }

    #[test]
    fn the_number_of_arguments_decides() {
        assert!(!possible("SELECT now()", &[INT], &[&[]]));
        assert!(!possible("SELECT count(*) FROM x", &[INT], &[]));
        assert!(possible("SELECT now(1)", &[INT], &[&[]]));
        assert!(possible("SELECT f(VARIADIC x)", &[INT, INT], &[]));
        assert!(possible("SELECT f(b => 1)", &[INT, INT], &[]));
    }

    #[test]
    fn exact_types_and_categories_decide() {
        assert!(!possible("SELECT f(1)", &[TEXT], &[&[INT]]));
        assert!(possible("SELECT f('x')", &[TEXT], &[&[INT]]));
        assert!(possible("SELECT f(1)", &[INT], &[&[TEXT]]));
        assert!(!possible("SELECT f(1)", &[TEXT], &[]));
        assert!(possible("SELECT f(12345678901)", &[TEXT], &[]));
        assert!(possible("SELECT f('x'::text)", &[TEXT], &[&[INT]]));
    }
}
