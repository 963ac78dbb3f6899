//! The settings that are made, by names that are written out, where a write runs code without naming it: triggers, defaults,
//! checks, rules. A function's own `SET` clauses are none of them: PostgreSQL puts back what was there.

use std::collections::{BTreeSet, HashMap};

use super::fixpoint;
use super::lent::Lent;
use super::made_up::content;
use super::rows::{CatalogRows, FunctionRow};
use crate::sql::keyword::Keyword;
use crate::sql::lexer::{Kind, Reading};
use crate::sql::tokens::{Tokens, starts_statement};
use crate::sql::{mentions, name, setting_names};

/// How deep code is looked for in the literals of code.
const DEEPEST: usize = 3;

/// See the module's page.
#[derive(Clone, Debug)]
pub struct Unasked {
    /// What any function of the database makes, in lower case and in order.
    settings: Vec<String>,
    /// Those of them that a write may make without naming what does.
    by_writes: Lent,
    /// It may make any: some are reset together, or made by an expression that was not read.
    any: bool,
}

/// The settings that some code makes.
#[derive(Debug, Default)]
struct Made {
    names: BTreeSet<String>,
    /// `RESET ALL`.
    all: bool,
}

impl Unasked {
    /// What the rows describe; `None` if there is no such code. `changes_state`: something that runs unasked does so.
    pub(super) fn build(rows: &CatalogRows, changes_state: bool) -> Option<Box<Unasked>> {
        let made = |function: &FunctionRow| (function.oid, made_by(function));
        let made: HashMap<_, _> = rows.functions.iter().map(made).collect();
        let settings: BTreeSet<_> = made.values().flat_map(|made| made.names.iter().cloned()).collect();
        let settings: Vec<_> = settings.into_iter().collect();
        let directly = rows.implied.iter().any(|(_, builtin, _)| builtin.as_deref() == Some("set_config"));
        let any = directly || rows.implied.iter().any(|(oid, ..)| made.get(oid).is_some_and(|made| made.all));
        if settings.is_empty() && !any {
            return None;
        }
        let place = |name: &String| settings.binary_search(name).map_or(Lent::NOTHING, Lent::setting);
        let lent = |made: &Made| made.names.iter().map(place).fold(Lent::NOTHING, |lent, one| lent | one);
        let lent = made.iter().map(|(oid, made)| (*oid, lent(made))).filter(|(_, lent)| !lent.is_nothing());
        let by_writes = match changes_state {
            true => fixpoint::lent_unasked(rows, lent.collect()),
            false => Lent::NOTHING,
        };
        Some(Box::new(Unasked { settings, by_writes, any }))
    }

    /// The first that is `held`, of those that a write may make, or any function. `Some(None)` where it may be any.
    pub fn makes(&self, by_any: bool, held: impl Fn(&str) -> bool) -> Option<Option<&str>> {
        let counts = |at: usize| by_any || !(self.by_writes & Lent::setting(at)).is_nothing();
        let mut settings = self.settings.iter().enumerate().filter(|(at, name)| counts(*at) && held(name));
        settings.next().map(|(_, name)| Some(&**name)).or_else(|| self.any.then_some(None))
    }
}

fn made_by(function: &FunctionRow) -> Made {
    let mut made = Made::default();
    for code in [&function.body, &function.defaults].into_iter().flatten() {
        made.look(code.as_bytes(), DEEPEST);
    }
    made
}

impl Made {
    fn look(&mut self, code: &[u8], deepest: usize) {
        // Nothing else makes one.
        if !mentions(code, b"set") {
            return;
        }
        let tokens = Tokens::read(code, Reading::USUAL);
        for (at, token) in tokens.iter().enumerate() {
            let sets = matches!(token.keyword, Keyword::Set | Keyword::Reset) && starts_statement(code, &tokens, at);
            if sets || (token.is_name() && name::names(token.text(code), b"set_config")) {
                let end = tokens[at..].iter().find(|token| token.kind == Kind::Semicolon);
                let statement = &code[token.start as usize..end.map_or(code.len(), |end| end.start as usize)];
                let found = setting_names(statement);
                self.names.extend(found.names);
                self.all |= found.all;
            }
            // SQL that it puts together.
            if let Some(inner) = content(code, token).filter(|_| deepest > 0) {
                self.look(&inner, deepest - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_code_makes_are_told_from_what_looks_like_them() {
        for (code, expected) in [
            ("BEGIN SET App.Tenant = 'x'; RETURN NEW; END", "app.tenant"),
            ("BEGIN IF a THEN SET LOCAL role = x; ELSE RESET search_path; END IF; END", "role search_path"),
            ("BEGIN PERFORM 1, set_config('app.x', a, b), pg_catalog.set_config('app.y', a, b); END", "app.x app.y"),
            (
                "BEGIN EXECUTE 'SET app.x = 1'; EXECUTE format('SELECT set_config(''app.y'', %L)', a); END",
                "app.x app.y",
            ),
            ("BEGIN EXECUTE $q$ DO $r$ BEGIN SET app.x = 1; END $r$ $q$; END", "app.x"),
            ("SELECT 1; SET TIME ZONE 'UTC'", "timezone"),
            (
                "BEGIN UPDATE t SET role = 'x', a = 1; INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET role = 1; END",
                "",
            ),
            ("BEGIN PERFORM set_config(a, b, c); PERFORM current_setting('app.x'); END", ""),
            ("CREATE OR REPLACE FUNCTION f() SET search_path TO 'x' BEGIN ATOMIC SELECT 1; END", ""),
        ] {
            let mut made = Made::default();
            made.look(code.as_bytes(), DEEPEST);
            assert_eq!(made.names.into_iter().collect::<Vec<_>>().join(" "), expected, "{code}");
        }
    }
}
