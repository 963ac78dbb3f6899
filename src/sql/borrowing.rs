//! What a text borrows from the functions that it calls: their owners' rights, and their own values of settings.

use super::catalog::{Catalog, Lent, Scope};
use super::lexer::{Kind, Reading, Token};
use super::name;
use super::names::{self, Text};
use super::statement::{Nature, Statement};
use super::tokens::Tokens;

/// The first thing that a text borrows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Borrowed {
    /// The name, or operator, by which it is reached.
    pub by: String,
    pub what: Loan,
}

/// What is borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loan {
    /// The rights of a function's owner (`SECURITY DEFINER`).
    Rights,
    /// A value of a function's own for this setting.
    Setting(String),
}

/// Does `sql` reach, by any of its names, a function that is `SECURITY DEFINER` or sets what is `held` (a name in lower
/// case)? Any overload counts. Not for the hot path.
pub fn borrows(sql: &[u8], catalog: &Catalog, scope: Scope<'_>, held: impl Fn(&str) -> bool) -> Option<Borrowed> {
    let lenders = catalog.lenders()?;
    let counted = lenders.counted(&held);
    let in_reading = |tokens: &Tokens| {
        let mut statements = tokens.split(|token| token.kind == Kind::Semicolon).filter(|tokens| !tokens.is_empty());
        statements.find_map(|tokens| find(sql, tokens, &lenders.names, scope, counted))
    };
    let usual = Tokens::read(sql, Reading::USUAL);
    let found = if usual.unterminated { None } else { in_reading(&usual) };
    let (token, lent) = found.or_else(|| usual.others(sql).find_map(|tokens| in_reading(&tokens)))?;
    let by = String::from_utf8_lossy(&name::spelled(token.text(sql))).into_owned();
    let setting = lenders.setting(lent, held).filter(|_| (lent & Lent::RIGHTS).is_nothing());
    let what = setting.map_or(Loan::Rights, |name| Loan::Setting(name.to_owned()));
    Some(Borrowed { by, what })
}

fn find(sql: &[u8], tokens: &[Token], catalog: &Catalog, scope: Scope<'_>, counted: Lent) -> Option<(Token, Lent)> {
    let text = match Statement::of(sql, tokens).nature {
        Nature::Query => Text::Query,
        Nature::Other => Text::Other,
        Nature::Bare => return None,
    };
    let (at, lent) = names::find_lent(sql, tokens, text, catalog, scope, counted)?;
    Some((tokens[at], lent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{CATALOG_QUERIES, CatalogRows, Class, Classifier};

    const SCHEMAS: &[&str] = &["2200|public|f", "16384|other|f"];

    /// OID, schema, name, arguments, return type, body, `SECURITY DEFINER`, settings.
    const FUNCTIONS: &[[&str; 8]] = &[
        ["16400", "2200", "lends", "", "23", "SELECT 1", "t", ""],
        ["16401", "2200", "sets", "", "23", "SELECT 1", "f", "App.Tenant"],
        ["16402", "2200", "plain", "", "23", "SELECT 1", "f", ""],
        ["16403", "2200", "calls", "", "23", "SELECT sets() FROM \"lends\"()", "f", ""],
        ["16404", "2200", "frugal", "", "23", "SELECT 1", "f", "work_mem"],
        ["16405", "2200", "either", "23:N", "23", "SELECT 1", "f", ""],
        ["16406", "2200", "either", "25:S", "23", "SELECT 1", "t", ""],
        ["16407", "16384", "plain", "", "23", "SELECT 1", "t", ""],
        ["16408", "2200", "of_row", "16500:C", "23", "SELECT 1", "t", ""],
        ["16409", "2200", "audits", "", "2279", "SELECT 1", "t", ""],
        ["16410", "2200", "becomes", "", "23", "SELECT 1", "f", "role\nsession_authorization"],
        // As a superuser may have altered it.
        ["1200", "13000", "built_in", "", "23", "SELECT 1", "t", ""],
    ];

    fn catalog(functions: &[[&str; 8]]) -> Catalog {
        let lines = |lines: &[&str]| {
            lines.iter().map(|line| line.split('|').map(|value| Some(value.to_owned())).collect()).collect()
        };
        let function = |[oid, schema, name, arguments, returns, body, rights, settings]: &[&str; 8]| {
            let count = arguments.split_whitespace().count().to_string();
            let columns = [
                oid, schema, name, "f", "sql", "i", &count, "0", "f", returns, "f", arguments, "", body, "", "",
                rights, settings,
            ];
            columns.map(|column| Some(column.to_owned())).to_vec()
        };
        let results = CATALOG_QUERIES.iter().map(|(query, _)| match *query {
            "context" => lines(&["150000|public||f|f|f"]),
            "schemas" => lines(SCHEMAS),
            "functions" => functions.iter().map(function).collect(),
            "relations" => {
                lines(&["16600|2200|shown|v|p|16601||SELECT lends() AS one|f", "16602|2200|guarded|r|p|16603||x|f"])
            }
            "policies" => lines(&["16602|(lends() > 0)"]),
            "types" => lines(&["16700|2200|small|d|N|23|CHECK (lends() > 0)|f"]),
            "operators" => lines(&["2200|###|16400"]),
            _ => Vec::new(),
        });
        Catalog::build(1, CatalogRows::from_results(results.collect()).unwrap())
    }

    fn borrowed(sql: &str, held: &[&str], scope: Scope<'_>) -> Option<Borrowed> {
        borrows(sql.as_bytes(), &catalog(FUNCTIONS), scope, |name| held.contains(&name))
    }

    #[test]
    fn what_reaches_a_lender_borrows() {
        let (held, scope) = (&["app.tenant"][..], Scope::Session(None));
        for (sql, by) in [
            ("SELECT lends()", "lends"),
            ("SELECT * FROM Public.\"lends\" ( )", "lends"),
            ("CALL lends()", "lends"),
            ("INSERT INTO t VALUES (lends())", "lends"),
            ("CREATE TABLE t (n int DEFAULT lends())", "lends"),
            ("CREATE TRIGGER t BEFORE INSERT ON t EXECUTE FUNCTION audits()", "audits"),
            ("SELECT 1; SELECT plain(), lends()", "lends"),
            ("SELECT '\\', lends() --'", "lends"),
            ("SELECT '\\' 'x', '\\', lends() --'", "lends"),
            ("SELECT calls()", "calls"),
            ("SELECT either('x')", "either"),
            ("SELECT either(1)", "either"),
            ("SELECT of_row(t) FROM t", "of_row"),
            ("SELECT t.of_row FROM t", "of_row"),
            ("SELECT * FROM shown", "shown"),
            ("SELECT 1 ### 2", "###"),
            ("SELECT other.plain()", "plain"),
        ] {
            let expected = Some(Borrowed { by: by.into(), what: Loan::Rights });
            assert_eq!(borrowed(sql, held, scope), expected, "{sql}");
        }
        for sql in [
            "SELECT plain(), public.plain()",
            "SELECT frugal(), built_in()",
            "SELECT t.lends, lends FROM t",
            "SELECT 'lends()', $$ lends() $$ -- lends()",
            "SELECT other.lends()",
            "SELECT * FROM guarded",
            "SELECT 1::small",
            "SHOW lends",
        ] {
            assert_eq!(borrowed(sql, held, scope), None, "{sql}");
        }
        assert!(borrowed("SELECT plain()", held, Scope::Session(Some("other"))).is_some());
        assert!(borrowed("SELECT plain()", held, Scope::Any).is_some());
    }

    #[test]
    fn a_setting_counts_where_it_is_held() {
        let what = |sql: &str, held: &[&str]| borrowed(sql, held, Scope::Session(None)).map(|borrowed| borrowed.what);
        let setting = |name: &str| Some(Loan::Setting(name.into()));
        assert_eq!(what("SELECT sets()", &["app.tenant"]), setting("app.tenant"));
        assert_eq!(what("SELECT sets()", &["app.other"]), None);
        assert_eq!(what("SELECT frugal()", &["work_mem"]), setting("work_mem"));
        assert_eq!(what("SELECT becomes()", &["session_authorization"]), setting("session_authorization"));
        assert_eq!(what("SELECT calls()", &[]), Some(Loan::Rights));
    }

    #[test]
    fn of_many_settings_none_is_missed() {
        let names: Vec<_> = (10..60).map(|number| format!("app.s{number}")).collect();
        let (oids, functions): (Vec<_>, Vec<_>) = (10..60).map(|n| (format!("165{n}"), format!("f{n}"))).unzip();
        let row = |at: usize| [&*oids[at], "2200", &functions[at], "", "23", "SELECT 1", "f", &names[at]];
        let catalog = catalog(&(0..50).map(row).collect::<Vec<_>>());
        for (name, function) in names.iter().zip(&functions) {
            let sql = format!("SELECT {function}()");
            let found = borrows(sql.as_bytes(), &catalog, Scope::Session(None), |held| held == name);
            assert!(found.is_some(), "{name}");
        }
        assert!(borrows(b"SELECT f10()", &catalog, Scope::Session(None), |held| held == "app.s11").is_none());
    }

    #[test]
    fn a_lender_stays_as_safe_on_a_standby_as_it_was() {
        let plain = FUNCTIONS.iter().map(|row| [row[0], row[1], row[2], row[3], row[4], row[5], "f", ""]);
        let plain = catalog(&plain.collect::<Vec<_>>());
        assert!(plain.lenders().is_none());
        let classifier = Classifier::new(0);
        for sql in ["SELECT lends()", "SELECT calls(), sets()", "SELECT either($1)", "SELECT * FROM shown"] {
            let verdict = |catalog: &Catalog| classifier.classify(sql.as_bytes(), catalog, None);
            assert_eq!(verdict(&catalog(FUNCTIONS)), verdict(&plain), "{sql}");
            assert_eq!(verdict(&plain).class, Class::Read, "{sql}");
        }
    }
}
