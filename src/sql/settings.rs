//! Settings: which of them read the same on every server, and which a statement changes.

use super::Effects;
use super::keyword::Keyword;
use super::lexer::{Kind, Reading, Token};
use super::name;
use super::statement::places;
use super::tokens::Tokens;

/// The settings that a query string may change, by `SET`, `RESET`, `DISCARD` or `set_config()`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingNames {
    /// Lower-cased, each once. `role`, `session_authorization`, `timezone`, `client_encoding` and the defaults
    /// of transactions stand for the statements that have their own syntax.
    pub names: Vec<String>,
    /// There are others whose names the text does not say: a computed `set_config()`, code, a text that
    /// can't be read. (`RESET ALL` and `DISCARD ALL` make none.)
    pub unknown: bool,
    /// Names and values, where a single one is written out.
    pub values: Vec<(String, String)>,
    /// Some last longer than their transaction, as far as the text says (`SET`, not `SET LOCAL`).
    pub lasting: bool,
    /// Some go back to their defaults.
    pub resets: bool,
    /// `RESET ALL` or `DISCARD ALL`.
    pub all: bool,
    /// There is code, or something makes or changes a function: `DO`, `CREATE FUNCTION`, `ALTER ROUTINE`, `LOAD`.
    pub code: bool,
}

impl SettingNames {
    /// May names mean something else behind what has these and `effects`: by another `search_path`, or as another role, whose
    /// schema it may hold (`"$user"`)?
    pub fn move_names(&self, effects: Effects) -> bool {
        const MOVE: [&str; 3] = ["search_path", "role", "session_authorization"];
        let unseen =
            self.all || self.unknown || self.code || effects.intersects(Effects::HIDDEN.with(Effects::STATEMENTS));
        unseen || self.names.iter().any(|name| MOVE.contains(&name.as_str()))
    }
}

/// Finds the names of the settings that `sql` mentions in order to change them, `SET LOCAL` included. Not for
/// the hot path.
pub fn setting_names(sql: &[u8]) -> SettingNames {
    let usual = Tokens::read(sql, Reading::USUAL);
    let mut found = SettingNames::default();
    if !usual.ambiguous || !usual.unterminated {
        found.text(sql, &usual);
    }
    let mut readings = usize::from(!usual.unterminated);
    for tokens in usual.others(sql) {
        found.text(sql, &tokens);
        readings += 1;
    }
    found.unknown |= usual.ambiguous && readings == 0;
    for name in found.names.iter_mut().chain(found.values.iter_mut().map(|(name, _)| name)) {
        if let Some(now) = renamed(name) {
            *name = now.to_owned();
        }
    }
    found.names.sort_unstable();
    found.names.dedup();
    found
}

/// Bytes within which a `SET` in a body is done with the name.
const LONGEST_NAMING: usize = 256;

/// The custom settings (`app.tenant`) that a body makes by name, wherever in it: behind `SET`, `RESET`, `set_config(`.
pub fn custom_settings(body: &[u8]) -> impl Iterator<Item = String> {
    let statements = places(body, b"set").map(|at| {
        let rest = &body[at..body.len().min(at + LONGEST_NAMING)];
        &rest[..memchr::memchr(b';', rest).unwrap_or(rest.len())]
    });
    statements.flat_map(|statement| setting_names(statement).names).filter(|name| name.contains('.'))
}

impl SettingNames {
    fn text(&mut self, sql: &[u8], tokens: &[Token]) {
        for statement in tokens.split(|token| token.kind == Kind::Semicolon) {
            self.statement(sql, statement);
        }
    }

    fn statement(&mut self, sql: &[u8], tokens: &[Token]) {
        let Some(first) = tokens.first() else { return };
        self.resets |= matches!(first.keyword, Keyword::Reset | Keyword::Discard)
            || (first.keyword == Keyword::Set && resets(tokens));
        let second = tokens.get(1).map_or(Keyword::None, |token| token.keyword);
        self.all |= matches!(first.keyword, Keyword::Reset | Keyword::Discard) && second == Keyword::All;
        self.code |= carries_code(sql, tokens);
        match first.keyword {
            Keyword::Set => self.set(sql, &tokens[1..]),
            Keyword::Reset => self.reset(sql, &tokens[1..]),
            // `EXECUTE` makes what its `PREPARE` has said. The code of `DO` and `CALL` is judged as such.
            Keyword::Load => self.unknown = true,
            _ => {}
        }
        let mut views = false;
        for (at, token) in tokens.iter().enumerate() {
            match token.kind {
                Kind::Malformed | Kind::Unterminated | Kind::UnicodeEscape => self.unknown = true,
                _ if token.is_name() && name::names(token.text(sql), b"set_config") => {
                    self.call(sql, &tokens[at + 1..])
                }
                _ => views |= token.is_name() && is_view_of_settings(sql, token),
            }
        }
        // UPDATE pg_settings SET setting = …, or what lets others do that.
        let changes = [Keyword::Update, Keyword::Create, Keyword::Alter];
        self.unknown |= views && tokens.iter().any(|token| changes.contains(&token.keyword));
    }

    fn set(&mut self, sql: &[u8], tokens: &[Token]) {
        let scoped = matches!(tokens, [token, next, ..]
            if matches!(token.keyword, Keyword::Session | Keyword::Local) && !is_assignment(sql, next) && next.kind != Kind::Dot);
        self.lasting |= !(scoped && tokens[0].keyword == Keyword::Local);
        let tokens = if scoped { &tokens[1..] } else { tokens };
        let is_class = tokens.get(1).is_some_and(|token| token.kind == Kind::Dot);
        match tokens.first().map(|token| token.keyword).filter(|_| !is_class) {
            Some(Keyword::Characteristics) => self.add_all(TRANSACTION_DEFAULTS),
            Some(Keyword::Transaction | Keyword::Constraints) => {}
            _ => self.named(sql, tokens),
        }
    }

    fn reset(&mut self, sql: &[u8], tokens: &[Token]) {
        self.lasting = true;
        match tokens.first().map(|token| token.keyword) {
            Some(Keyword::All) => {}
            _ => self.named(sql, tokens),
        }
    }

    /// The name, or the words that stand for one.
    fn named(&mut self, sql: &[u8], tokens: &[Token]) {
        let Some(first) = tokens.first() else { return };
        let second = tokens.get(1);
        match first.keyword {
            _ if second.is_some_and(|token| token.kind == Kind::Dot) => self.one(sql, tokens),
            Keyword::Time if second.is_some_and(|t| t.keyword == Keyword::Zone) => self.add("timezone"),
            Keyword::Names => self.add("client_encoding"),
            Keyword::Session if second.is_some_and(|t| name::names(t.text(sql), b"authorization")) => {
                self.add_all(&["session_authorization", "role"]);
            }
            _ if name::names(first.text(sql), b"authorization") => self.add_all(&["session_authorization", "role"]),
            _ if name::names(first.text(sql), b"schema") && second.is_some_and(|t| is_literal(t.kind)) => {
                self.add("search_path")
            }
            _ if name::names(first.text(sql), b"xml") => self.add("xmloption"),
            _ => self.one(sql, tokens),
        }
    }

    fn one(&mut self, sql: &[u8], tokens: &[Token]) {
        let name = dotted(sql, tokens);
        self.unknown |= name.is_none();
        let assigned = tokens.iter().position(|token| is_assignment(sql, token));
        if let Some(name) = &name
            && let Some([value]) = assigned.map(|at| &tokens[at + 1..])
        {
            self.value(name, sql, value);
        }
        self.names.extend(name);
    }

    /// The arguments of `set_config`.
    fn call(&mut self, sql: &[u8], tokens: &[Token]) {
        self.lasting = true;
        match tokens {
            [open, literal, comma, rest @ ..]
                if open.kind == Kind::LeftParen && literal.kind == Kind::Literal && comma.kind == Kind::Comma =>
            {
                let name = String::from_utf8_lossy(literal_value(literal.text(sql))).to_lowercase();
                // Anything else is computed.
                if let [value, end, ..] = rest
                    && (value.kind, end.kind) == (Kind::Literal, Kind::Comma)
                {
                    self.value(&name, sql, value);
                }
                self.names.push(name);
            }
            _ => self.unknown = true,
        }
    }

    fn value(&mut self, name: &str, sql: &[u8], token: &Token) {
        let value = match token.kind {
            Kind::Literal => String::from_utf8_lossy(literal_value(token.text(sql))).into_owned(),
            Kind::Integer | Kind::Number => String::from_utf8_lossy(token.text(sql)).into_owned(),
            Kind::Word if token.keyword == Keyword::Default => return,
            // As PostgreSQL reads names.
            Kind::Word | Kind::Quoted => String::from_utf8_lossy(&name::spelled(token.text(sql))).into_owned(),
            _ => return,
        };
        self.values.push((name.to_owned(), value));
    }

    fn add(&mut self, name: &str) {
        self.names.push(name.to_owned());
    }

    fn add_all(&mut self, names: &[&str]) {
        self.names.extend(names.iter().map(|name| name.to_string()));
    }
}

/// Code, and what calls functions that it may name as it likes.
const MADE_OF_CODE: [&[u8]; 7] =
    [b"function", b"procedure", b"routine", b"extension", b"aggregate", b"operator", b"cast"];

fn carries_code(sql: &[u8], tokens: &[Token]) -> bool {
    let is =
        |token: &Token, words: &[&[u8]]| token.is_name() && words.iter().any(|word| name::names(token.text(sql), word));
    let Some(first) = tokens.first() else { return false };
    match first.keyword {
        Keyword::Load => true,
        // What a statement makes is said at its beginning: CREATE OR REPLACE FUNCTION.
        Keyword::Create | Keyword::Alter => {
            let made = tokens[1..].iter().find(|token| !is(token, &[b"or", b"replace"]));
            made.is_some_and(|token| is(token, &MADE_OF_CODE))
        }
        _ => is(first, &[b"do"]),
    }
}

/// `SET … TO DEFAULT`, `SET TIME ZONE LOCAL`, `SET NAMES` without a name; also what makes only some of its settings.
fn resets(set: &[Token]) -> bool {
    let has = |keyword| set.iter().any(|token| token.keyword == keyword);
    let last = set.last().map_or(Keyword::None, |token| token.keyword);
    has(Keyword::Default)
        || has(Keyword::Characteristics)
        || last == Keyword::Names
        || (has(Keyword::Zone) && last == Keyword::Local)
}

/// What a setting is called now that has had another name (PostgreSQL's `map_old_guc_names`). Lower-cased.
pub fn renamed(name: &str) -> Option<&'static str> {
    match name {
        "sort_mem" => Some("work_mem"),
        "vacuum_mem" => Some("maintenance_work_mem"),
        _ => None,
    }
}

fn is_view_of_settings(sql: &[u8], token: &Token) -> bool {
    [&b"pg_settings"[..], b"pg_show_all_settings"].iter().any(|name| name::names(token.text(sql), name))
}

const TRANSACTION_DEFAULTS: &[&str] =
    &["default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"];

fn is_assignment(sql: &[u8], token: &Token) -> bool {
    token.keyword == Keyword::To || token.text(sql) == b"="
}

fn is_literal(kind: Kind) -> bool {
    matches!(kind, Kind::Literal | Kind::OtherLiteral)
}

/// The content of a [`Kind::Literal`].
pub(super) fn literal_value(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(b"N").or(text.strip_prefix(b"n")).unwrap_or(text);
    &text[1..text.len() - 1]
}

/// `name` or `class.name`, lower-cased as PostgreSQL compares settings.
pub(super) fn dotted(sql: &[u8], tokens: &[Token]) -> Option<String> {
    let mut whole = String::new();
    for (at, token) in tokens.iter().enumerate() {
        match (at % 2, token.kind) {
            (0, Kind::Word | Kind::Quoted) => {
                whole += &String::from_utf8_lossy(&name::spelled(token.text(sql))).to_lowercase()
            }
            (1, Kind::Dot) => whole.push('.'),
            (1, _) => break,
            _ => return None,
        }
    }
    (!whole.is_empty()).then_some(whole)
}

/// Is this setting one of those that decide what transactions are by default?
pub(super) fn is_transaction_default(name: &[u8]) -> bool {
    TRANSACTION_DEFAULTS.iter().any(|default| name.eq_ignore_ascii_case(default.as_bytes()))
}

/// Does `SHOW name` answer the same on a standby as on the primary? True for settings of an application
/// (with a dot) and those of [`SAME_EVERYWHERE`]: the session carries its own, and the others follow from the
/// version, the cluster's data or the role and database, which are the same.
pub(super) fn same_everywhere(name: &[u8]) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.contains(&b'.') || SAME_EVERYWHERE.iter().any(|known| known.as_bytes() == lower)
}

const SAME_EVERYWHERE: &[&str] = &[
    "application_name",
    "array_nulls",
    "backslash_quote",
    "block_size",
    "bytea_output",
    "check_function_bodies",
    "client_encoding",
    "client_min_messages",
    "data_checksums",
    "datestyle",
    "debug_assertions",
    "default_table_access_method",
    "default_tablespace",
    "default_text_search_config",
    "default_toast_compression",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "escape_string_warning",
    "extra_float_digits",
    "integer_datetimes",
    "intervalstyle",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lo_compat_privileges",
    "max_connections",
    "max_function_args",
    "max_identifier_length",
    "max_index_keys",
    "quote_all_identifiers",
    "role",
    "row_security",
    "search_path",
    "segment_size",
    "server_encoding",
    "server_version",
    "server_version_num",
    "session_authorization",
    "standard_conforming_strings",
    "synchronize_seqscans",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "wal_block_size",
    "wal_segment_size",
    "xmlbinary",
    "xmloption",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sql: &str) -> Vec<String> {
        let found = setting_names(sql.as_bytes());
        assert!(!found.unknown, "{sql}");
        found.names
    }

    #[test]
    fn every_way_to_change_a_setting_is_named() {
        for (sql, expected) in [
            ("SET search_path TO tenant2, public", vec!["search_path"]),
            ("set session \"Work_Mem\" = '1MB'", vec!["work_mem"]),
            ("SET LOCAL app.tenant = 'x'", vec!["app.tenant"]),
            ("SET TIME ZONE 'UTC'", vec!["timezone"]),
            ("SET NAMES 'latin1'", vec!["client_encoding"]),
            ("SET SCHEMA 'x'", vec!["search_path"]),
            ("SET ROLE rc", vec!["role"]),
            ("SET sort_mem = 1; RESET Vacuum_Mem", vec!["maintenance_work_mem", "work_mem"]),
            ("SET names.x = 1; SET time.zone = 2; RESET transaction.x", vec!["names.x", "time.zone", "transaction.x"]),
            ("SET session.x = 1; SET LOCAL local.x = 2", vec!["local.x", "session.x"]),
            ("SET SESSION AUTHORIZATION x", vec!["role", "session_authorization"]),
            ("RESET statement_timeout", vec!["statement_timeout"]),
            ("SELECT set_config('App.Tenant', $1, false)", vec!["app.tenant"]),
            ("SELECT pg_catalog.\"set_config\"('a', 'b', true); SET b = 1", vec!["a", "b"]),
            ("SET TRANSACTION READ ONLY", vec![]),
            ("SELECT 'set_config(x)'", vec![]),
        ] {
            assert_eq!(names(sql), expected, "{sql}");
        }
        assert_eq!(names("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY").len(), 3);
    }

    #[test]
    fn values_are_known_where_they_are_written_out() {
        let values = |sql: &str| setting_names(sql.as_bytes()).values;
        let one = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        assert_eq!(values("SET pgweir.consistency = 'eventual'"), one("pgweir.consistency", "eventual"));
        assert_eq!(values("set local Pgweir.\"consistency\" to Tenant;"), one("pgweir.consistency", "tenant"));
        assert_eq!(values("SET a.b = \"Tenant\""), one("a.b", "Tenant"));
        assert_eq!(values("SET LOCAL a = 0"), one("a", "0"));
        assert_eq!(values("SET a TO 1.5; SET b = -1"), one("a", "1.5"));
        assert_eq!(values("SELECT set_config('a.b', 'c', true)"), one("a.b", "c"));
        assert_eq!(values("SET a.b TO DEFAULT; RESET a.b; SET a = b, c; SELECT set_config('a', $1, true)"), []);
        assert_eq!(values("SELECT set_config('a', 'b' || c, true), set_config('a', b, true)"), []);
    }

    #[test]
    fn what_the_text_does_not_say_is_unknown() {
        for sql in [
            "SELECT set_config($1, 'x', false)",
            "SELECT set_config('a'||'b', 'x', false)",
            "UPDATE pg_settings SET setting = 'x' WHERE name = 'role'",
        ] {
            assert!(setting_names(sql.as_bytes()).unknown, "{sql}");
        }
    }

    #[test]
    fn a_literal_that_ends_elsewhere_under_other_settings_is_read_both_ways() {
        assert_eq!(names(r"INSERT INTO t VALUES ('C:\'), ('it\''s set'); SET a.b = 1"), ["a.b"]);
        assert_eq!(names(r"SELECT '\'; SET a.b = 1 --'"), ["a.b"]);
        assert_eq!(names(r"SELECT '\', set_config('a', 'b', true) --'), set_config('c', 'd', true) --'"), ["a", "c"]);
        assert!(setting_names(br"SELECT '\' || set_config($1, 'x', false) --'").unknown);
    }

    #[test]
    fn what_goes_back_to_a_default_is_told() {
        let resets = |sql: &str| setting_names(sql.as_bytes()).resets;
        for sql in
            ["SET a.b = 1", "SET TIME ZONE 'UTC'", "SET search_path TO a, b", "SELECT set_config('a', 'b', false)"]
        {
            assert!(!resets(sql), "{sql}");
        }
        for sql in [
            "SET a.b TO DEFAULT",
            "RESET a.b",
            "DISCARD ALL",
            "SET TIME ZONE LOCAL",
            "SET NAMES",
            "SET a = 1; RESET b",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        ] {
            assert!(resets(sql), "{sql}");
        }
    }

    #[test]
    fn what_concerns_all_settings_and_what_carries_code_is_told() {
        let told = |sql: &str| {
            let found = setting_names(sql.as_bytes());
            (found.all, found.code)
        };
        for sql in ["RESET ALL", "SELECT 1; discard all"] {
            assert_eq!(told(sql), (true, false), "{sql}");
        }
        for sql in [
            "DO $$ BEGIN END $$",
            "SELECT 1; do language plpgsql 'BEGIN END'",
            "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE PROCEDURE p() LANGUAGE sql AS ''",
            "ALTER ROUTINE f() SET search_path = x",
            "ALTER FUNCTION f() SECURITY DEFINER",
            "CREATE EXTENSION x",
            "LOAD 'x'",
        ] {
            assert_eq!(told(sql), (false, true), "{sql}");
        }
        for sql in ["RESET a", "DISCARD PLANS", "CREATE TABLE t (x int)", "UPDATE t SET role = 'x'", "SELECT 'do'"] {
            assert_eq!(told(sql), (false, false), "{sql}");
        }
    }

    #[test]
    fn what_a_text_repeats_is_read_in_time() {
        let classifier = crate::sql::Classifier::new(0);
        for (length, piece) in [(20_000, "+"), (400_000, "pg_settings "), (100_000, "set "), (100_000, "set/*")] {
            let (text, since) = (format!("SELECT {}", piece.repeat(length / piece.len())), std::time::Instant::now());
            setting_names(text.as_bytes());
            custom_settings(text.as_bytes()).for_each(drop);
            classifier.classify(text.as_bytes(), &crate::sql::Catalog::unloaded(), None);
            assert!(since.elapsed().as_secs() < 10, "{piece}: {:?}", since.elapsed());
        }
    }

    #[test]
    fn settings_of_the_server_are_not_the_same_everywhere() {
        assert!(same_everywhere(b"Server_Version") && same_everywhere(b"app.tenant"));
        for name in ["in_hot_standby", "port", "transaction_read_only", "cluster_name", "data_directory", "all"] {
            assert!(!same_everywhere(name.as_bytes()), "{name}");
        }
        assert!(SAME_EVERYWHERE.is_sorted());
    }
}
