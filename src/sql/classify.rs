//! The classifier: puts the three steps together and remembers what the parser said.

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::catalog::{Catalog, Lent, Scope, Taint};
use super::code;
use super::keyword::Keyword;
use super::lexer::{Hints, Kind, Lexer, Reading, Token};
use super::name;
use super::names::{self, ANYTHING, Found, Text};
use super::recent::Key;
use super::settings::setting_names;
use super::statement::{Nature, Statement};
use super::tokens::{Tokens, is_balanced};
use super::{Class, Effects, Reason, TxControl, Verdict, fingerprint, veto};

/// Longest text in bytes that may be a read.
pub const MAX_TEXT: usize = 16 * 1024;

/// Classifies query strings. Shared by all sessions.
pub struct Classifier {
    /// Fingerprint → did the parser veto? The answer depends on nothing else, so entries outlive changes of
    /// the catalog.
    parsed: Cache<u128, bool, PerEntry>,
    /// See [`Key::new`].
    seed: u64,
}

/// An entry costs its key, value, and place in the cache, about this many bytes.
const ENTRY_BYTES: u64 = 64;

#[derive(Clone)]
struct PerEntry;

impl Weighter<u128, bool> for PerEntry {
    fn weight(&self, _: &u128, _: &bool) -> u64 {
        ENTRY_BYTES
    }
}

impl Classifier {
    /// A classifier whose cache takes about `cache_bytes` at most.
    pub fn new(cache_bytes: usize) -> Self {
        let entries = (cache_bytes as u64 / ENTRY_BYTES).max(1);
        let parsed = Cache::with_weighter(entries as usize, entries * ENTRY_BYTES, PerEntry);
        Classifier { parsed, seed: rand::random() }
    }

    /// Where may `sql` run? `sql` is the text of a `Query` or `Parse` as the client sent it, in any encoding and
    /// not trusted. `search_path` is the session's setting as `SHOW` prints it, `None` for the default.
    pub fn classify(&self, sql: &[u8], catalog: &Catalog, search_path: Option<&str>) -> Verdict {
        self.classify_in(Scope::Session(search_path), sql, catalog)
    }

    /// The same where names are looked up there.
    pub fn classify_in(&self, scope: Scope<'_>, sql: &[u8], catalog: &Catalog) -> Verdict {
        if sql.len() > MAX_TEXT {
            return oversized(sql, catalog);
        }
        let key = Key::new(self.seed, catalog.id(), scope, sql);
        if let Some(verdict) = key.recall() {
            return verdict;
        }
        let verdict = self.judge(sql, catalog, scope);
        key.remember(verdict);
        verdict
    }

    fn judge(&self, sql: &[u8], catalog: &Catalog, scope: Scope<'_>) -> Verdict {
        let tokens = Tokens::read(sql, Reading::USUAL);
        let mut judgement = judge_readings(sql, &tokens, catalog, scope);
        if judgement.reason == Reason::Read && self.vetoes(sql, &tokens) {
            judgement.reason = Reason::ParserVeto;
        }
        judgement.verdict(tokens.hints)
    }

    fn vetoes(&self, sql: &[u8], tokens: &Tokens) -> bool {
        let fingerprint = fingerprint::of_tokens(sql, tokens);
        if let Some(vetoed) = self.parsed.get(&fingerprint) {
            return vetoed;
        }
        let vetoed = veto::vetoes(sql, tokens);
        self.parsed.insert(fingerprint, vetoed);
        vetoed
    }
}

/// What the lexer and the catalog say about a whole string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub reason: Reason,
    pub tx: TxControl,
    pub effects: Effects,
    pub lent: Lent,
}

impl Judgement {
    fn verdict(self, hints: Hints) -> Verdict {
        let class = if matches!(self.reason, Reason::Read | Reason::Empty) { Class::Read } else { Class::Primary };
        let Hints { target: hint, consistency } = hints;
        Verdict { class, reason: self.reason, hint, consistency, tx: self.tx, effects: self.effects }
    }
}

/// The worst of all readings of the text that PostgreSQL might take.
fn judge_readings(sql: &[u8], usual: &Tokens, catalog: &Catalog, scope: Scope<'_>) -> Judgement {
    let mut worst = (!usual.unterminated).then(|| judge(sql, usual, catalog, scope));
    for tokens in usual.others(sql) {
        let other = judge(sql, &tokens, catalog, scope);
        worst = Some(worst.map_or(other, |worst| Judgement {
            reason: worst.reason.worse(other.reason),
            tx: if worst.tx == other.tx { worst.tx } else { TxControl::Mixed },
            effects: worst.effects | other.effects,
            lent: worst.lent | other.lent,
        }));
    }
    let (tx, effects, lent) = (TxControl::None, Effects::NONE, Lent::NOTHING);
    worst.unwrap_or(Judgement { reason: Reason::Malformed, tx, effects, lent })
}

/// Judges every statement of a string; the worst counts.
pub(super) fn judge(sql: &[u8], tokens: &Tokens, catalog: &Catalog, scope: Scope<'_>) -> Judgement {
    let mut whole = Whole::default();
    let mut scope = scope;
    let statements = tokens.split(|token| token.kind == Kind::Semicolon).filter(|tokens| !tokens.is_empty());
    let mut statements = statements.peekable();
    while let Some(statement) = statements.next() {
        let mut form = Statement::of(sql, statement);
        if form.reason == Reason::Procedure && code::hides_nothing(sql, statement, catalog) {
            form.effects = form.effects.without(Effects::HIDDEN);
        }
        let mut found = match form.nature {
            Nature::Query => names::find(sql, statement, Text::Query, catalog, scope),
            Nature::Other => names::find(sql, statement, Text::Other, catalog, scope),
            Nature::Bare => Found::default(),
        };
        if form.nature == Nature::Query && !is_balanced(statement) {
            found.reason = found.reason.worse(Reason::Malformed);
        }
        let may_move = matches!(scope, Scope::Session(_)) && statements.peek().is_some();
        if may_move && moves_names(sql, statement, form.effects | found.effects) {
            scope = Scope::Any;
        }
        whole.add(form, found);
    }
    let mut judgement = whole.judgement();
    if tokens.malformed {
        judgement.reason = judgement.reason.worse(Reason::Malformed);
        judgement.effects |= ANYTHING;
    }
    judgement
}

/// May the names in the statements behind this one mean something else than those in it?
fn moves_names(sql: &[u8], statement: &[Token], effects: Effects) -> bool {
    const MAY_SET: Effects = Effects::STATE.with(Effects::LOCAL_SETTING).with(Effects::HIDDEN);
    let ([first, ..], [.., last]) = (statement, statement) else { return false };
    let text = || &sql[first.start as usize..last.end as usize];
    effects.intersects(MAY_SET) && setting_names(text()).move_names(effects)
}

/// The sum over statements.
#[derive(Default)]
struct Whole {
    statements: usize,
    reason: Option<Reason>,
    tx: Option<TxControl>,
    effects: Effects,
    lent: Lent,
}

impl Whole {
    fn add(&mut self, form: Statement, found: Found) {
        let reason = form.reason.worse(found.reason);
        self.statements += 1;
        self.reason = Some(self.reason.map_or(reason, |so_far| so_far.worse(reason)));
        self.effects |= form.effects | found.effects;
        self.lent |= found.lent;
        self.tx = Some(match (self.tx, form.tx) {
            (None, tx) => tx,
            (Some(TxControl::None), TxControl::None) => TxControl::None,
            _ => TxControl::Mixed,
        });
    }

    fn judgement(self) -> Judgement {
        let (reason, tx) = (self.reason.unwrap_or(Reason::Empty), self.tx.unwrap_or(TxControl::None));
        Judgement { reason, tx, effects: self.effects, lent: self.lent }
    }
}

/// A text too long to be a read, in every way in which PostgreSQL might read it.
fn oversized(sql: &[u8], catalog: &Catalog) -> Verdict {
    let (mut verdict, ambiguous) = oversized_by(sql, catalog, Reading::USUAL);
    for reading in Reading::OTHERS.into_iter().filter(|_| ambiguous) {
        let (other, _) = oversized_by(sql, catalog, reading);
        verdict.reason = verdict.reason.worse(other.reason);
        verdict.tx = if verdict.tx == other.tx { verdict.tx } else { TxControl::Mixed };
        verdict.effects |= other.effects;
    }
    verdict
}

/// Its statements' first words and the names and operators in it tell the effects, without keeping its tokens: whatever may be
/// meant by one counts. Also: would another reading split it differently?
fn oversized_by(sql: &[u8], catalog: &Catalog, reading: Reading) -> (Verdict, bool) {
    const HEAD: usize = 32;
    let mut lexer = Lexer::new(sql, reading);
    let mut unterminated = false;
    let mut whole = Whole::default();
    let mut head: Vec<Token> = Vec::with_capacity(HEAD);
    let mut effects = catalog.everything().map_or(Effects::NONE, |taint| taint.effects);
    let mut last: Option<Token> = None;
    for token in lexer.by_ref() {
        match token.kind {
            Kind::Semicolon => whole.close(sql, &mut head),
            Kind::Malformed | Kind::UnicodeEscape => effects |= ANYTHING,
            Kind::Unterminated => unterminated = true,
            Kind::Word | Kind::Quoted => effects |= name_effects(sql, last, token, catalog),
            Kind::Operator => effects |= all(catalog.operator(token.text(sql))),
            Kind::LeftParen => {
                let name = last.filter(|last| last.is_name());
                effects |= name.map_or(Effects::NONE, |name| call_effects(sql, name, catalog));
            }
            _ => {}
        }
        if token.kind != Kind::Semicolon && head.len() < HEAD {
            head.push(token);
        }
        last = Some(token);
    }
    whole.close(sql, &mut head);
    if sql.len() > u32::MAX as usize {
        effects |= ANYTHING;
    }
    let mut judgement = whole.judgement();
    if unterminated {
        // The server refuses such a text whole.
        (judgement.effects, effects) = (Effects::NONE, Effects::NONE);
    }
    judgement.reason = judgement.reason.worse(Reason::Oversized);
    judgement.effects |= effects;
    (judgement.verdict(lexer.hints()), lexer.ambiguous())
}

impl Whole {
    fn close(&mut self, sql: &[u8], head: &mut Vec<Token>) {
        if !head.is_empty() {
            self.add(Statement::of(sql, head), Found::default());
            head.clear();
        }
    }
}

/// The effects of any overload of a function.
fn call_effects(sql: &[u8], name: Token, catalog: &Catalog) -> Effects {
    let entry = catalog.entry(name.hash, name.text(sql));
    let functions = entry.map_or(&[][..], |entry| &entry.functions);
    functions.iter().fold(Effects::NONE, |effects, function| effects | function.taint.effects)
}

/// The effects of whatever this name may be, behind that token: what is read, a type, or a function in attribute notation.
fn name_effects(sql: &[u8], last: Option<Token>, name: Token, catalog: &Catalog) -> Effects {
    let text = name.text(sql);
    let mut effects = keyword_effects(last, name.keyword, catalog);
    if names::is_temporary_schema(text) {
        effects |= Effects::STATE;
    }
    // Updating the view sets.
    if name::names(text, b"pg_settings") {
        effects |= Effects::STATE | Effects::READ_ONLY_SETTING;
    }
    if catalog.beyond_ascii() && !text.is_ascii() && std::str::from_utf8(text).is_err() {
        effects |= ANYTHING;
    }
    if let Some(entry) = catalog.entry(name.hash, text) {
        effects |= all(&entry.relations) | all(&entry.types) | all(&entry.row_types);
    }
    match last {
        Some(last) if last.kind == Kind::Dot => effects | call_effects(sql, name, catalog),
        _ => effects,
    }
}

fn keyword_effects(last: Option<Token>, keyword: Keyword, catalog: &Catalog) -> Effects {
    let after = last.map_or(Keyword::None, |last| last.keyword);
    match keyword {
        Keyword::Temp | Keyword::Temporary if after == Keyword::Into => {
            Effects::STATE | Effects::MAYBE_DDL | Effects::PINS
        }
        Keyword::Temp | Keyword::Temporary => Effects::STATE | Effects::MAYBE_DDL,
        // `SELECT … INTO`.
        Keyword::Into if !matches!(after, Keyword::Insert | Keyword::Merge) => Effects::DDL,
        _ if keyword.implies_operator() => all(catalog.implied_operators()),
        _ => Effects::NONE,
    }
}

fn all(taints: &[Taint]) -> Effects {
    taints.iter().fold(Effects::NONE, |effects, taint| effects | taint.effects)
}

#[cfg(test)]
mod tests {
    use super::super::{CatalogRows, Hint};
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn built_ins() -> &'static Catalog {
        static CATALOG: LazyLock<Catalog> = LazyLock::new(|| Catalog::build(1, CatalogRows::default()));
        &CATALOG
    }

    fn verdict(sql: &str) -> Verdict {
        Classifier::new(1 << 16).classify(sql.as_bytes(), built_ins(), None)
    }

    #[test]
    fn the_worst_statement_of_a_string_counts() {
        for (sql, reason) in [
            ("SELECT 1; SELECT 2", Reason::Read),
            ("SELECT 1;;; UPDATE kv SET n = 0", Reason::Write),
            ("SELECT 1; SELECT nextval('s')", Reason::Sequence),
            ("/* a */ SELECT 1; /* b */ SELECT 2 /* ; DELETE FROM users */", Reason::Read),
            ("SELECT 1; SELEC 2", Reason::UnknownStatement),
            ("COMMIT; INSERT INTO log VALUES (1)", Reason::Write),
        ] {
            assert_eq!(verdict(sql).reason, reason, "{sql}");
        }
    }

    #[test]
    fn what_writes_locks_or_creates_within_a_query_is_seen() {
        for (sql, reason) in [
            ("SELECT a FROM t FOR NO KEY UPDATE", Reason::RowLock),
            ("SELECT * FROM (SELECT a FROM t FOR SHARE) s", Reason::RowLock),
            ("SELECT a FROM t FOR READ ONLY", Reason::Read),
            ("SELECT substring(a FROM 1 FOR 2) FROM t", Reason::Read),
            ("SELECT a INTO b FROM c", Reason::SelectInto),
            ("SELECT a AS into FROM c", Reason::Read),
            ("WITH x AS (DELETE FROM a RETURNING 1) SELECT 1", Reason::Write),
            ("WITH x AS (SELECT 1) DELETE FROM a", Reason::Write),
            ("WITH RECURSIVE t(i) AS (SELECT 1) CYCLE i SET c USING p UPDATE a SET b = 1", Reason::Write),
            ("SELECT \"update\".\"insert\" FROM \"delete\"", Reason::Read),
            ("EXPLAIN (ANALYZE, BUFFERS) SELECT 1", Reason::Read),
            ("EXPLAIN ANALYZE INSERT INTO a VALUES (1)", Reason::Write),
            ("EXPLAIN EXECUTE p", Reason::PreparedStatement),
            ("COPY (SELECT 1) TO STDOUT", Reason::Read),
            ("COPY t (a, b) TO STDOUT WITH (FORMAT csv)", Reason::Read),
            ("COPY t TO PROGRAM 'x'", Reason::Copy),
            ("COPY (DELETE FROM t RETURNING 1) TO STDOUT", Reason::Write),
            ("COPY t FROM STDIN", Reason::Copy),
            ("SHOW server_version", Reason::Read),
            ("SHOW ALL", Reason::ServerSetting),
            ("SELECT U&\"n\\0065xtval\"('s')", Reason::UnicodeEscape),
            ("SELECT (1", Reason::Malformed),
            ("SELECT 'open", Reason::Malformed),
        ] {
            assert_eq!(verdict(sql).reason, reason, "{sql}");
        }
    }

    #[test]
    fn a_literal_that_ends_elsewhere_under_other_settings_is_read_both_ways() {
        assert_eq!(verdict(r"SELECT 'C:\'; ").reason, Reason::Read);
        assert_eq!(verdict(r"SELECT '\' FROM orgs FOR UPDATE --'").reason, Reason::RowLock);
        assert_eq!(verdict(r"SELECT 'it\'s', nextval('s') --'").reason, Reason::Sequence);
        assert_eq!(verdict(r"SELECT 'it\'s'").reason, Reason::Read);
        let sjis = b"SELECT E'\x83\x5c', nextval(E's')";
        let sql: Vec<u8> = [b"SELECT E'\x83\x5c' , nextval(E's') --'".as_slice()].concat();
        let class = |sql: &[u8]| Classifier::new(1 << 16).classify(sql, built_ins(), None).class;
        assert_eq!((class(sjis), class(&sql)), (Class::Primary, Class::Primary));
    }

    #[test]
    fn effects_tell_what_may_be_left_behind() {
        const NONE: Effects = Effects::NONE;
        let shows = Effects::STATEMENTS | Effects::SHOWS_STATEMENTS;
        let (anything, pins) = (Effects::STATE | Effects::MAYBE_DDL, Effects::STATE | Effects::PINS);
        for (sql, effects) in [
            ("SELECT 1", NONE),
            (" ; -- x", NONE),
            ("SET work_mem = 1", Effects::STATE),
            ("SET LOCAL work_mem = 1", Effects::LOCAL_SETTING),
            ("SET TRANSACTION READ ONLY", NONE),
            ("SET \"Default_Transaction_Read_Only\" = on", Effects::STATE | Effects::READ_ONLY_SETTING),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Effects::STATE | Effects::READ_ONLY_SETTING),
            ("RESET ALL", Effects::STATE | Effects::READ_ONLY_SETTING),
            ("DISCARD PLANS", Effects::STATE),
            ("DISCARD ALL", Effects::STATE | Effects::READ_ONLY_SETTING | Effects::STATEMENTS | Effects::CHANNELS),
            ("DEALLOCATE a", Effects::STATE | Effects::STATEMENTS),
            ("SELECT name FROM pg_prepared_statements", shows),
            ("SELECT name FROM pg_catalog.pg_prepared_statement()", shows),
            ("SELECT set_config('a.b', 'x', false)", Effects::STATE),
            ("SELECT set_config($1, 'x', false)", Effects::STATE | Effects::READ_ONLY_SETTING),
            ("INSERT INTO t SELECT pg_advisory_lock(1)", pins),
            ("SELECT pg_advisory_unlock(1)", Effects::STATE),
            ("SELECT pg_advisory_xact_lock(1)", NONE),
            ("LOAD 'x'", pins | Effects::STICKY),
            ("SELECT setseed(0.5)", pins | Effects::STICKY),
            ("CREATE TABLE t (a int)", Effects::DDL),
            ("CREATE TEMP TABLE t (a int)", anything | Effects::PINS),
            ("CREATE TEMP TABLE t (a int) ON COMMIT DROP", anything),
            ("DROP TABLE t", Effects::STATE | Effects::DDL),
            ("SELECT 1 INTO TEMP t", anything | Effects::PINS),
            ("SELECT * FROM pg_temp.t", Effects::STATE),
            ("DECLARE c CURSOR FOR SELECT 1", NONE),
            ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", pins),
            ("LISTEN x", Effects::STATE | Effects::LISTENS),
            ("UNLISTEN x", Effects::STATE | Effects::CHANNELS),
            ("SELECT pg_listening_channels()", Effects::STATE | Effects::CHANNELS),
            ("SELECT pg_backend_pid()", Effects::PROCESS | Effects::PINS),
            ("INSERT INTO t SELECT pg_backend_pid()", Effects::PROCESS | Effects::PINS),
            ("SELECT * FROM pg_stat_activity WHERE pid <> pg_backend_pid()", NONE),
            ("SELECT pg_catalog.pg_backend_pid() = pid FROM pg_locks", NONE),
            ("NOTIFY x, 'y'", Effects::NOTIFIES),
            ("SELECT pg_notify('x', 'y')", Effects::NOTIFIES),
            ("COPY t FROM STDIN", NONE),
            ("INSERT INTO t VALUES (1)", NONE),
        ] {
            assert_eq!(verdict(sql).effects, effects, "{sql}");
        }
    }

    #[test]
    fn transactions_are_told_apart() {
        for (sql, tx) in [
            ("BEGIN", TxControl::Begin),
            ("/* x */ START TRANSACTION READ ONLY", TxControl::BeginReadOnly),
            ("COMMIT AND NO CHAIN", TxControl::End),
            ("COMMIT AND CHAIN", TxControl::Inside),
            ("ROLLBACK TO SAVEPOINT a", TxControl::Inside),
            ("ROLLBACK TO a", TxControl::Inside),
            ("ABORT", TxControl::End),
            ("PREPARE TRANSACTION 'x'", TxControl::End),
            ("PREPARE p AS SELECT 1", TxControl::None),
            ("COMMIT PREPARED 'x'", TxControl::None),
            ("BEGIN; SELECT 1; COMMIT", TxControl::Mixed),
            ("SELECT 1; SELECT 2", TxControl::None),
        ] {
            assert_eq!(verdict(sql).tx, tx, "{sql}");
        }
        assert_eq!(verdict("BEGIN READ WRITE").reason, Reason::PrimaryTransaction);
        assert_eq!(verdict("BEGIN READ ONLY DEFERRABLE").reason, Reason::PrimaryTransaction);
    }

    #[test]
    fn a_long_text_is_no_read_but_its_effects_are_known() {
        let long = format!("SELECT '{}'", "x".repeat(MAX_TEXT));
        assert_eq!(verdict(&long).reason, Reason::Oversized);
        assert_eq!(verdict(&format!("/* pgweir: replica */{long}; SET a.b = 1")).effects, Effects::STATE);
        assert_eq!(
            verdict(&format!("INSERT INTO t VALUES ({}pg_advisory_unlock(1))", "1, ".repeat(MAX_TEXT))).effects,
            Effects::STATE
        );
        assert_eq!(verdict(&format!("{long} -- pgweir: primary")).hint, Some(Hint::Primary));
    }

    #[test]
    fn a_second_look_comes_from_the_cache_and_is_the_same() {
        let (classifier, catalog) = (Classifier::new(1 << 16), built_ins());
        let first = classifier.classify(b"SELECT a FROM t WHERE b = 1", catalog, None);
        assert_eq!(classifier.classify(b"SELECT a FROM t WHERE b = 2", catalog, None), first);
        assert_eq!(classifier.parsed.len(), 1);
    }

    #[test]
    fn so_it_is_in_a_text_that_is_too_long_to_be_a_read() {
        let effects = |sql: &str| verdict(&format!("{sql} /* {} */", "x".repeat(MAX_TEXT))).effects;
        let pins = Effects::STATE | Effects::PINS;
        assert_eq!(effects(r"INSERT INTO t VALUES ('C:\'), ('it\''s')"), Effects::NONE);
        assert_eq!(effects("INSERT INTO t SELECT '\\', pg_advisory_lock(1) --'\n"), pins);
        assert_eq!(effects("INSERT INTO t SELECT '\\', ', pg_advisory_lock(1) --'\n"), pins);
    }

    #[test]
    fn the_cache_stays_within_its_bytes() {
        let (classifier, catalog) = (Classifier::new(1 << 14), built_ins());
        for n in 0..2000 {
            classifier.classify(format!("SELECT a{n} FROM t").as_bytes(), catalog, None);
        }
        assert!(classifier.parsed.weight() <= 1 << 14);
    }

    /// Pieces that make statements which mean something.
    const PIECES: &[&str] = &[
        "SELECT",
        "a",
        "1",
        "2",
        "12345678901",
        "'x'",
        "'y'",
        "E'z'",
        "$1",
        "FROM",
        "t",
        ",",
        "(",
        ")",
        "(",
        ")",
        "nextval",
        "now",
        "set_config",
        "current_setting",
        "'port'",
        "'role'",
        "FOR",
        "UPDATE",
        "INTO",
        "WITH",
        "AS",
        "DELETE",
        ";",
        "BEGIN",
        "SET",
        "work_mem",
        "=",
        "*",
        "::",
        "int",
        ".",
        "\"nextval\"",
        "pg_settings",
        "WHERE",
        "name",
        "U&\"a\"",
        "COPY",
        "TO",
        "STDOUT",
        "VALUES",
        "EXPLAIN",
    ];

    fn soup() -> impl Strategy<Value = Vec<&'static str>> {
        proptest::collection::vec(proptest::sample::select(PIECES), 0..14)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn nothing_panics(sql in proptest::collection::vec(any::<u8>(), 0..200), pieces in soup()) {
            let (classifier, catalog) = (Classifier::new(1 << 16), built_ins());
            classifier.classify(&sql, catalog, None);
            classifier.classify(pieces.join(" ").as_bytes(), &Catalog::unloaded(), Some("\"$user"));
            super::super::setting_names(&sql);
        }

        #[test]
        fn comments_and_white_space_change_nothing(pieces in soup()) {
            let plain = verdict(&pieces.join(" "));
            prop_assert_eq!(verdict(&pieces.join("/* DELETE /* ; */ ' */")), plain);
            prop_assert_eq!(verdict(&pieces.join(" -- FOR UPDATE\n\t")), plain);
        }

        #[test]
        fn equal_fingerprints_have_equal_verdicts(pieces in soup(), other in soup(), swaps in proptest::collection::vec((0usize..14, 0usize..PIECES.len()), 0..3)) {
            let mut mutated = pieces.clone();
            for (at, piece) in swaps {
                if let Some(place) = mutated.get_mut(at) {
                    *place = PIECES[piece];
                }
            }
            for (left, right) in [(&pieces, &mutated), (&pieces, &other)] {
                let (left, right) = (left.join(" "), right.join(" "));
                if fingerprint::fingerprint(left.as_bytes()) == fingerprint::fingerprint(right.as_bytes()) {
                    prop_assert_eq!(verdict(&left), verdict(&right), "{} and {}", left, right);
                }
            }
        }

        #[test]
        fn what_a_literal_says_changes_nothing(body in "[ -~]{0,30}") {
            let body = body.replace('\\', "").replace('\'', "''");
            prop_assert_eq!(verdict(&format!("SELECT a FROM t WHERE b = '{body}'")), verdict("SELECT a FROM t WHERE b = 'x'"));
            prop_assert_eq!(verdict(&format!("DELETE FROM t WHERE b = '{body}'")).reason, Reason::Write);
        }

        #[test]
        fn a_write_anywhere_in_a_string_is_for_the_primary(pieces in soup()) {
            let sql = format!("{} ; DELETE FROM t", pieces.join(" "));
            prop_assert_eq!(verdict(&sql).class, Class::Primary);
        }
    }
}
