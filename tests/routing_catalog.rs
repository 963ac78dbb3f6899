//! The routing cases against a real catalog: loads `routing/schema.sql` into a throw-away PostgreSQL, asks
//! it the catalog queries, and classifies every case of `routing/dev_cases.jsonl` with the answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgweir::sql::{
    CATALOG_QUERIES, CATALOG_STAMP_QUERY, Catalog, CatalogRows, Class, Classifier, Effects, Reason, Verdict,
};
use tokio_postgres::{NoTls, SimpleQueryMessage};

const CASES: &str = include_str!("routing/dev_cases.jsonl");
const TRAFFIC: &str = include_str!("routing/traffic.jsonl");
const SCHEMA: &str = include_str!("routing/schema.sql");

/// Groups every read of which must be recognised.
const READ_GROUPS: &[&str] = &[
    "django",
    "rails",
    "hibernate",
    "prisma",
    "sqlalchemy",
    "orm_misc",
    "bi",
    "read_forms",
    "psql",
    "builtin_volatile_safe",
    "decoy",
];

/// Cases marked as reads that go to the primary on purpose, all of them `lenient` in the file.
const CAUTIOUS: &[&str] = &[
    "query_to_xml",
    "f_cond_write(false)",
    "f_dyn",
    "EXPLAIN INSERT",
    "EXPLAIN (VERBOSE, ANALYZE false) UPDATE",
    "BEGIN READ ONLY; SELECT",
];

/// What `schema.sql` has no example of.
const MORE: &str = r#"
CREATE TABLE tenants (id int, tenant text);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON tenants USING (tenant = current_setting('app.tenant', true));
CREATE FUNCTION f_row_variable() RETURNS text LANGUAGE plpgsql AS 'DECLARE r users; BEGIN SELECT * INTO r FROM users LIMIT 1; RETURN upper(r); END';
CREATE FUNCTION f_upper(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN upper($1::text); END';
CREATE FUNCTION f_atomic(int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT nextval('order_no_seq'); END;
CREATE FUNCTION f_atomic_read(int) RETURNS bigint LANGUAGE sql RETURN (SELECT count(*) FROM users WHERE id = $1);
CREATE FUNCTION f_default(bigint DEFAULT nextval('order_no_seq')) RETURNS bigint LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION f_domain(logged_text) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
CREATE FUNCTION f_path() RETURNS bigint LANGUAGE sql SET search_path = public AS 'SELECT count(*) FROM users';
CREATE FUNCTION f_set() RETURNS int LANGUAGE plpgsql AS 'BEGIN SET work_mem = 65536; RETURN 1; END';
CREATE VIEW v_shadow AS SELECT id, upper(name) AS name, now() AS at FROM users;
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE UNLOGGED TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE typed (x logged_text);
CREATE TYPE pair AS (a int);
CREATE FUNCTION pair_text(pair) RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO log(msg) VALUES (1); RETURN 1; END';
CREATE CAST (pair AS text) WITH FUNCTION pair_text(pair);
CREATE FUNCTION same_again(anyelement) RETURNS anyelement LANGUAGE sql AS 'SELECT $1';
CREATE TABLE typed_array (id int, tags logged_text[]);
CREATE TYPE wrapped AS (d logged_text);
CREATE FUNCTION ticket_number(ticket) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''order_no_seq''); RETURN 1; END';
CREATE CAST (ticket AS int) WITH FUNCTION ticket_number(ticket) AS IMPLICIT;
CREATE FUNCTION my_lock(bigint) RETURNS void LANGUAGE internal IMMUTABLE STRICT AS 'pg_advisory_lock_int8';
CREATE FUNCTION lie_true() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM f_write(''lie''); RETURN true; END';
CREATE TABLE planned_index (id int, k int); CREATE INDEX ON planned_index (k) WHERE lie_true();
CREATE TABLE planned_check (id int, CHECK (lie_true())); CREATE TABLE planned_child () INHERITS (planned_check);
CREATE TABLE planned_statistics (id int, k text); CREATE STATISTICS st ON (k || lie_true()::text), id FROM planned_statistics;
CREATE TABLE indexed (id int, k text); CREATE INDEX ON indexed (lower(k)) WHERE id > 3;
CREATE FUNCTION same(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2';
CREATE FUNCTION differs(text, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN INSERT INTO log(msg) VALUES (1); RETURN true; END';
CREATE OPERATOR =% (LEFTARG = text, RIGHTARG = text, FUNCTION = same, NEGATOR = <>%);
CREATE OPERATOR <>% (LEFTARG = text, RIGHTARG = text, FUNCTION = differs, NEGATOR = =%);
CREATE FUNCTION "zählen"() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('order_no_seq')$$;
"#;

/// A type whose equality writes.
const COMPARED: &str = r#"
CREATE TYPE graded AS ENUM ('p', 'q');
CREATE FUNCTION graded_eq(graded, graded) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM f_write(''eq''); RETURN true; END';
CREATE FUNCTION graded_lt(graded, graded) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT text_lt($1::text, $2::text)';
CREATE FUNCTION graded_cmp(graded, graded) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT bttextcmp($1::text, $2::text)';
CREATE OPERATOR audit.= (LEFTARG = graded, RIGHTARG = graded, FUNCTION = graded_eq);
CREATE OPERATOR audit.< (LEFTARG = graded, RIGHTARG = graded, FUNCTION = graded_lt);
CREATE OPERATOR CLASS graded_ops DEFAULT FOR TYPE graded USING btree AS OPERATOR 1 audit.<, OPERATOR 3 audit.=, FUNCTION 1 graded_cmp(graded, graded);
CREATE TABLE grades (id int, g graded);
"#;

/// Code that makes a setting, by whatever reaches it.
const LEAVES: &str = r#"
CREATE FUNCTION leaves(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM set_config(''app.x'', $1, false); RETURN $1; END';
CREATE FUNCTION leaves(text, text) RETURNS bool LANGUAGE sql AS 'SELECT leaves($1) = $2';
CREATE OPERATOR %%% (LEFTARG = text, RIGHTARG = text, FUNCTION = leaves);
CREATE DOMAIN leaving AS text CHECK (leaves(value) <> '');
CREATE TYPE cited AS (a text);
CREATE FUNCTION cites(cited) RETURNS text LANGUAGE sql AS 'SELECT leaves($1.a)';
CREATE CAST (cited AS text) WITH FUNCTION cites(cited);
CREATE FUNCTION graded_like(cited, text) RETURNS bool LANGUAGE sql AS 'SELECT leaves($1.a) = $2';
CREATE OPERATOR ~~ (LEFTARG = cited, RIGHTARG = text, FUNCTION = graded_like);
CREATE VIEW left_by AS SELECT leaves('x') AS a;
"#;

struct Case {
    sql: String,
    route: String,
    severity: String,
    group: String,
    search_path: Option<String>,
}

fn cases() -> Vec<Case> {
    let parse = |line: &str| {
        let case: serde_json::Value = serde_json::from_str(line).expect("a case is one JSON object");
        let field = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
        let before = case["session_pre"].as_array().into_iter().flatten().filter_map(|sql| sql.as_str());
        let search_path =
            before.filter_map(|sql| sql.strip_prefix("SET search_path TO ")).next_back().map(str::to_owned);
        Case {
            sql: field("sql"),
            route: field("route"),
            severity: field("severity"),
            group: field("group"),
            search_path,
        }
    };
    CASES.lines().map(parse).collect()
}

fn classify(case: &Case, catalog: &Catalog) -> Verdict {
    Classifier::new(1 << 20).classify(case.sql.as_bytes(), catalog, case.search_path.as_deref())
}

/// Every case that is classified as it must not be, as a line of a table.
fn misses(catalog: &Catalog, wrong: impl Fn(&Case, Verdict) -> bool) -> Vec<String> {
    let line = |case: &Case| {
        let verdict = classify(case, catalog);
        wrong(case, verdict).then(|| {
            format!(
                "{:<22} {:<8} {:<8} {:<20} {}",
                case.group,
                case.route,
                case.severity,
                verdict.reason.label(),
                case.sql
            )
        })
    };
    cases().iter().filter_map(line).collect()
}

fn is_dangerous(case: &Case) -> bool {
    case.route == "primary" && matches!(case.severity.as_str(), "fails" | "unsafe" | "silent" | "differs")
        // Decided by the transaction that is open, not by the statement.
        && !case.sql.starts_with("SELECT id FROM orgs WHERE id=1")
}

fn show(title: &str, misses: &[String]) {
    assert!(misses.is_empty(), "{title}: {}\n{}", misses.len(), misses.join("\n"));
}

#[tokio::test]
async fn every_case_is_classified_by_a_real_catalog() {
    let (_server, client) = database(&[SCHEMA]).await;
    let catalog = load(&client).await;
    let primary_only = misses(&catalog, |case, verdict| is_dangerous(case) && verdict.class == Class::Read);
    show("cases for the primary that were taken for reads", &primary_only);
    let lost = misses(&catalog, |case, verdict| {
        let cautious = CAUTIOUS.iter().any(|text| case.sql.contains(text));
        case.route == "replica"
            && verdict.class == Class::Primary
            && (READ_GROUPS.contains(&case.group.as_str()) || !cautious)
            && !case.sql.contains("query_to_xml")
    });
    show("reads that were lost to the primary", &lost);
}

/// Reads as frameworks, tools and psql make them. Those that go to the primary ask about the server or its settings,
/// which a replica may answer otherwise, or change a setting.
#[tokio::test]
async fn realistic_reads_are_not_lost() {
    let (_server, client) = database(&[SCHEMA]).await;
    let catalog = load(&client).await;
    let (mut reads, mut about_servers, mut lost) = (0, 0, Vec::new());
    for line in TRAFFIC.lines() {
        let statement: serde_json::Value = serde_json::from_str(line).expect("a statement is one JSON object");
        let sql = statement["sql"].as_str().expect("with its text");
        if client.batch_execute(sql).await.is_err() {
            // Of another version of PostgreSQL or another schema.
            continue;
        }
        let verdict = Classifier::new(1 << 16).classify(sql.as_bytes(), &catalog, None);
        match (verdict.class, verdict.reason) {
            (Class::Read, _) => reads += 1,
            (_, Reason::ServerState | Reason::ServerSetting | Reason::SessionState) => about_servers += 1,
            (_, reason) => lost.push(format!("{}: {} ({})", statement["source"], sql, reason.label())),
        }
    }
    show("reads that were lost to the primary", &lost);
    assert!(reads >= 400 && about_servers <= 12, "{reads} reads, {about_servers} about servers");
}

/// What is too long for a read is known by what it may leave behind all the same.
#[tokio::test]
async fn a_long_text_may_do_what_the_short_one_may() {
    let (_server, client) = database(&[SCHEMA, LEAVES]).await;
    let catalog = load(&client).await;
    let classifier = Classifier::new(1 << 20);
    let long = |sql: &str| format!("{sql} /* {} */", "x".repeat(20_000));
    let leave = [
        "SELECT leaves('x')",
        "SELECT ('x'::text).leaves",
        "SELECT t.leaves FROM unnest(ARRAY['x']) AS t",
        "SELECT 'a' %%% 'b'",
        "SELECT 'a' OPERATOR(public.%%%) 'b'",
        "SELECT 'a' %%% ANY (ARRAY['b'])",
        "SELECT 'a'::leaving",
        "SELECT CAST('a' AS \"leaving\")",
        "SELECT leaving 'a'",
        "SELECT row('a')::cited::text",
        "SELECT row('a')::cited LIKE 'b'",
        "SELECT * FROM left_by",
        "SELECT 1 INTO TEMP t",
        "INSERT INTO kv SELECT 'a' %%% 'b'",
        "UPDATE pg_settings SET setting = 'x' WHERE name = 'search_path'",
        "UPDATE pg_catalog.\"pg_settings\" SET setting = 'on' WHERE name = 'default_transaction_read_only'",
    ];
    for sql in leave {
        let effects = classifier.classify(sql.as_bytes(), &catalog, None).effects;
        assert!(effects.contains(Effects::STATE), "{sql}: {effects:?}");
    }
    let texts: Vec<_> = cases().into_iter().map(|case| (case.sql, case.search_path)).collect();
    let leave = leave.map(|sql| (sql.to_owned(), None));
    let missed = texts.iter().chain(&leave).filter_map(|(sql, path)| {
        let [short, long] =
            [sql, &long(sql)].map(|sql| classifier.classify(sql.as_bytes(), &catalog, path.as_deref()).effects);
        (!long.contains(short)).then(|| format!("{sql}: {short:?}, {long:?}"))
    });
    show("effects that are not known of long texts", &missed.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_search_path_brings_shadows_into_sight() {
    let (_server, client) = database(&[SCHEMA, MORE]).await;
    let catalog = load(&client).await;
    let classifier = Classifier::new(1 << 20);
    for (sql, path, class) in [
        ("SELECT log('x'::text)", Some("audit, public"), Class::Primary),
        ("SELECT count(1)", Some("audit, public"), Class::Primary),
        ("SELECT count(*) FROM orgs", Some("audit, public"), Class::Read),
        ("SELECT log(100)", Some("audit, public"), Class::Read),
        ("SELECT count(1)", None, Class::Read),
        ("SELECT log(2)", Some("\"$user\", public"), Class::Read),
        ("SELECT audit.count(1)", None, Class::Primary),
        ("SELECT 'a' + 'b'", Some("audit"), Class::Primary),
        ("SELECT 1 + 1", None, Class::Read),
        ("SELECT 1 OPERATOR(audit.+) 1", None, Class::Primary),
        ("SELECT upper(email) FROM users", None, Class::Read),
        ("SELECT upper(u) FROM users u", None, Class::Primary),
        ("SELECT u.upper FROM users u", None, Class::Primary),
        ("SELECT u.touch FROM users u", None, Class::Primary),
        ("SELECT ('x').f_write", None, Class::Primary),
        ("SELECT $1.nextval", None, Class::Primary),
        ("SELECT u.nextval FROM users u", None, Class::Read),
        ("SELECT q.nextval FROM unnest(ARRAY['order_no_seq'::regclass]) AS q", None, Class::Primary),
        ("SELECT q.f_write FROM users, lower('x') AS q", None, Class::Primary),
        ("SELECT (u).name.f_write FROM users u", None, Class::Primary),
        ("SELECT ('order_no_seq'::regclass).nextval", None, Class::Primary),
        ("SELECT upper($1)", None, Class::Read),
        (
            "SELECT lower(upper(name)) FROM (SELECT name FROM users WHERE id IN (SELECT user_id FROM orders)) s",
            None,
            Class::Read,
        ),
        ("SELECT system_identifier FROM pg_control_system()", None, Class::Read),
        ("SELECT * FROM pg_control_system()", None, Class::Primary),
        ("SELECT pg_control_system FROM pg_control_system()", None, Class::Primary),
        ("SELECT pg_control_last_modified FROM pg_control_system()", None, Class::Primary),
        (
            "SELECT upper(name) FROM (SELECT name FROM users WHERE id IN (SELECT user_id FROM orders)) s",
            None,
            Class::Read,
        ),
        ("SELECT upper(x) FROM (SELECT u AS x FROM users u) s", None, Class::Primary),
        ("SELECT now()", None, Class::Read),
        ("SELECT now(1)", None, Class::Primary),
        ("SELECT sum_log(id) FROM orgs", None, Class::Primary),
        ("SELECT 5::ticket", None, Class::Primary),
        ("SELECT 'x'::_logged_text", None, Class::Primary),
        ("SELECT f_over('x')", None, Class::Primary),
        ("SELECT k FROM u_cache", None, Class::Primary),
        ("SELECT last_value FROM order_no_seq", None, Class::Primary),
        ("SELECT * FROM v_next2", None, Class::Primary),
        ("SELECT * FROM v_op", None, Class::Primary),
        ("SELECT * FROM v_stable", None, Class::Read),
        ("SELECT n FROM mv_sales", None, Class::Read),
        ("TABLE secrets", None, Class::Primary),
        ("COPY orgs TO STDOUT", None, Class::Read),
        ("COPY secrets TO STDOUT", None, Class::Primary),
        ("SELECT * FROM log", None, Class::Read),
        ("SELECT * FROM information_schema.columns", None, Class::Read),
        ("SELECT 1 FROM information_schema.tables WHERE table_name = 'x'", None, Class::Read),
        ("SELECT setting FROM pg_settings WHERE name = 'server_version'", None, Class::Read),
        ("SELECT setting FROM pg_settings WHERE name = 'server_version' OR true", None, Class::Primary),
        ("SELECT upper(trim(coalesce(name, ''))) FROM users", None, Class::Read),
        ("SELECT upper((SELECT u FROM users u LIMIT 1))", None, Class::Primary),
        ("SELECT * FROM (v_next CROSS JOIN orgs)", None, Class::Primary),
        ("SELECT orgs.id FROM orgs, public.\"v_next\" AS o", None, Class::Primary),
        ("SELECT nextval FROM (SELECT 1 AS nextval) s", None, Class::Read),
        ("SELECT * FROM pg_stat_activity", None, Class::Primary),
        ("SELECT current_setting('app.tenant', true)", None, Class::Read),
        ("SELECT current_setting('transaction_read_only')", None, Class::Primary),
        ("SELECT domain_in('x', 'logged_text'::regtype, -1)", None, Class::Primary),
        ("SELECT id FROM events WHERE at > '2024-06-01'", None, Class::Read),
        ("SELECT f_where()", None, Class::Primary),
        ("SELECT * FROM tenants", None, Class::Read),
        ("SELECT f_row_variable()", None, Class::Primary),
        ("SELECT f_upper('x')", None, Class::Read),
        ("SELECT f_atomic(1)", None, Class::Primary),
        ("SELECT f_atomic_read(1)", None, Class::Read),
        ("SELECT f_default()", None, Class::Primary),
        ("SELECT f_domain('x')", None, Class::Primary),
        ("SELECT f_path()", None, Class::Read),
        ("SELECT f_set()", None, Class::Primary),
        ("SELECT id FROM v_shadow", None, Class::Read),
        ("SELECT id FROM parted", None, Class::Primary),
        ("SELECT x FROM typed", None, Class::Read),
        ("SELECT id FROM typed_array WHERE tags = '{x}'", None, Class::Primary),
        ("SELECT my_lock(42)", None, Class::Primary),
        ("SELECT id FROM planned_index", None, Class::Primary),
        ("SELECT id FROM planned_check", None, Class::Primary),
        ("SELECT id FROM planned_child", None, Class::Primary),
        ("SELECT id FROM planned_statistics WHERE k = 'a'", None, Class::Primary),
        ("SELECT id FROM indexed WHERE lower(k) = 'a'", None, Class::Read),
        ("SELECT id FROM orgs WHERE NOT (name =% ANY (ARRAY['a']))", None, Class::Primary),
        // Names and rows that are none of the tainted.
        ("WITH x AS (SELECT id, email FROM users) SELECT upper(x.email) FROM x", None, Class::Read),
        ("WITH x AS MATERIALIZED (SELECT email FROM users) SELECT upper(email) FROM x", None, Class::Read),
        ("WITH u AS (SELECT u FROM users u) SELECT upper(u.u) FROM u", None, Class::Primary),
        ("SELECT id FROM users WHERE (id, org_id) IN ((1, 2), (2, 3)) AND upper(email) = 'X'", None, Class::Read),
        ("SELECT upper(b) FROM (VALUES (1, 'a'), (2, 'b')) v(a, b)", None, Class::Read),
        ("SELECT upper(b) FROM (VALUES (1, (2, 3)), (2, (3, 4))) v(a, b)", None, Class::Primary),
        ("SELECT upper(name) FROM orgs WHERE 'sad'::mood = 'sad'", None, Class::Read),
        ("SELECT upper(name), '1'::pg_catalog.jsonb FROM orgs", None, Class::Read),
        ("SELECT upper(name), g FROM orgs, generate_series(1, 2) g", None, Class::Read),
        ("SELECT upper(name), g FROM orgs, generate_series(1, 2) WITH ORDINALITY g", None, Class::Primary),
        ("SELECT upper(word) FROM orgs, regexp_split_to_table(name, ' ') AS word", None, Class::Read),
        ("SELECT upper(u) FROM f_stable_rs(1) u", None, Class::Primary),
        ("SELECT row(id, upper(email)), (id, upper(name)), '(1)'::users FROM users", None, Class::Read),
        ("SELECT upper(y) FROM users u, same_again(u) AS y", None, Class::Primary),
        ("SELECT upper(y) FROM jsonb_populate_record(NULL::users, '{}') AS y", None, Class::Primary),
        ("SELECT upper(y) FROM coalesce('(1)'::users) y", None, Class::Primary),
        ("SELECT upper(y.email) FROM jsonb_populate_record(NULL::users, '{}') AS y", None, Class::Read),
        ("SELECT upper(row(id, email)) FROM users", None, Class::Primary),
        ("SELECT upper((id, email)) FROM users", None, Class::Primary),
        ("SELECT upper('(1)'::users)", None, Class::Primary),
        ("SELECT upper(x) FROM (SELECT row(id, email) AS x FROM users) s", None, Class::Primary),
        ("SELECT id AS ticket FROM orgs", None, Class::Read),
        ("SELECT id ticket FROM orgs", None, Class::Read),
        ("SELECT ticket.id FROM orgs ticket", None, Class::Read),
        ("SELECT CAST(5 AS ticket)", None, Class::Primary),
        ("SELECT ticket '(5)'", None, Class::Primary),
        ("SELECT * FROM json_to_recordset('[]') AS t(a int, b logged_text)", None, Class::Primary),
        ("SELECT '{}'::ticket[]", None, Class::Primary),
        ("SELECT max(\"delete\"), count(delete) FROM \"update\"", None, Class::Read),
        ("WITH x AS (SELECT 1 AS update) SELECT update FROM x", None, Class::Read),
        ("WITH x AS (SELECT 1), y AS MATERIALIZED (DELETE FROM kv RETURNING k) SELECT 1", None, Class::Primary),
        ("WITH RECURSIVE t(i) AS (SELECT 1) CYCLE i SET c USING p DELETE FROM kv", None, Class::Primary),
        ("SELECT '(x)'::typed", None, Class::Primary),
        ("SELECT CAST('{}' AS public.typed[])", None, Class::Primary),
        ("SELECT 'größe', zähler FROM orgs", None, Class::Read),
        ("SELECT \"zählen\"()", None, Class::Primary),
        ("SELECT ZäHLEN()", None, Class::Primary),
    ] {
        let verdict = classifier.classify(sql.as_bytes(), &catalog, path);
        assert_eq!(verdict.class, class, "{sql} with {path:?}: {:?}", verdict.reason);
    }
}

#[tokio::test]
async fn columns_that_hold_rows_take_the_certainty_away() {
    const TABLES: &str = "CREATE TABLE casting (id int, x pair); CREATE TABLE typed_field (id int, c wrapped);
        CREATE TABLE tickets (id int, ts ticket[])";
    let (_server, client) = database(&[SCHEMA, MORE, TABLES]).await;
    let catalog = load(&client).await;
    let class = |sql: &str| Classifier::new(1 << 16).classify(sql.as_bytes(), &catalog, None).class;
    assert_eq!(class("SELECT x::text FROM casting"), Class::Primary);
    assert_eq!(class("SELECT coalesce(c, '(1,x)') FROM typed_field"), Class::Primary);
    assert_eq!(class("SELECT ts[1] + 1 FROM tickets"), Class::Primary);
    assert_eq!(class("SELECT upper(email) FROM users"), Class::Primary);
    assert_eq!(class("SELECT upper(email::text) FROM users"), Class::Read);
}

/// The operators of a type's operator class are called though nobody names them, whatever the `search_path`.
#[tokio::test]
async fn what_compares_values_unnamed_counts() {
    let (_server, client) = database(&[SCHEMA, COMPARED]).await;
    let catalog = load(&client).await;
    let class = |sql: &str| Classifier::new(1 << 16).classify(sql.as_bytes(), &catalog, None).class;
    assert_eq!(class("SELECT DISTINCT g FROM grades"), Class::Primary);
    assert_eq!(class("SELECT DISTINCT name FROM orgs WHERE id = 1"), Class::Read);
}

#[tokio::test]
async fn the_stamp_changes_with_the_catalog_and_not_with_data() {
    const OBJECTS: &str = "CREATE TABLE t (id int); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    let (_server, client) = database(&[OBJECTS]).await;
    let first = stamp(&client).await;
    client.batch_execute("INSERT INTO t VALUES (1); ANALYZE; CREATE TEMP TABLE tt (id int)").await.expect("data");
    assert_eq!(stamp(&client).await, first);
    for change in [
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'",
        "CREATE VIEW v AS SELECT f()",
        "CREATE OR REPLACE VIEW v AS SELECT f() + 0 AS f",
        "CREATE DOMAIN d AS int CHECK (VALUE > 0)",
        "ALTER TABLE t SET UNLOGGED",
        "ALTER TABLE t SET LOGGED",
        "CREATE POLICY p ON t USING (f() = 1)",
        "CREATE OPERATOR ==~ (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)",
        "CREATE INDEX ON t ((id + 1))",
        "ALTER TABLE t ADD CHECK (id > 0)",
        "CREATE STATISTICS st ON (id + 1), (id + 2) FROM t",
        "CREATE SCHEMA s",
        "DROP FUNCTION f() CASCADE",
    ] {
        let before = stamp(&client).await;
        client.batch_execute(change).await.unwrap_or_else(|error| panic!("{change}: {error}"));
        assert_ne!(stamp(&client).await, before, "{change}");
    }
}

#[test]
fn without_a_catalog_nothing_dangerous_is_a_read() {
    let catalog = Catalog::unloaded();
    let dangerous = misses(&catalog, |case, verdict| {
        let session = case.route == "session" && case.severity != "empty" && case.group != "empty";
        (is_dangerous(case) || session) && verdict.class == Class::Read && verdict.reason.label() != "empty"
    });
    show("cases for the primary that were taken for reads", &dangerous);
    let reads = ["SELECT 1", "SELECT 'x' AS a, 2", "VALUES (1)", "SHOW server_version", "SELECT 1; SELECT 2"];
    for sql in reads {
        assert_eq!(Classifier::new(1 << 16).classify(sql.as_bytes(), &catalog, None).class, Class::Read, "{sql}");
    }
    for sql in [
        "SELECT n FROM v",
        "SELECT f()",
        "SELECT 'x'::d",
        "TABLE v",
        "SELECT d 'x'",
        "SELECT 'a' ==~ 'b'",
        "SELECT names 'x'",
    ] {
        assert_eq!(Classifier::new(1 << 16).classify(sql.as_bytes(), &catalog, None).class, Class::Primary, "{sql}");
    }
}

/// A database with all this, and its server.
async fn database(scripts: &[&str]) -> (Server, tokio_postgres::Client) {
    let server = Server::start();
    let client = server.connect().await;
    for script in scripts {
        client.batch_execute(script).await.unwrap_or_else(|error| panic!("{script}: {error}"));
    }
    (server, client)
}

async fn load(client: &tokio_postgres::Client) -> Catalog {
    let mut results = Vec::new();
    for (name, sql) in CATALOG_QUERIES {
        results.push(rows(client, sql).await.unwrap_or_else(|error| panic!("catalog query {name}: {error:?}")));
    }
    let rows = CatalogRows::from_results(results).expect("the rows have the shape asked for");
    Catalog::build(1, rows)
}

async fn stamp(client: &tokio_postgres::Client) -> String {
    let mut rows = rows(client, CATALOG_STAMP_QUERY).await.expect("the stamp query runs");
    rows.remove(0).remove(0).expect("a stamp")
}

async fn rows(client: &tokio_postgres::Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(rows.collect())
}

/// A PostgreSQL of its own in a temporary directory, reached by a Unix socket; stopped on drop.
struct Server {
    directory: tempfile::TempDir,
    bin: PathBuf,
}

impl Server {
    fn start() -> Server {
        let bin = newest_bin();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let server = Server { directory, bin };
        run(Command::new("chown").arg("postgres").arg(server.path()));
        server.pg("initdb", &["-D", "data", "-A", "trust", "-U", "postgres", "--no-sync"]);
        let options = format!("-k {} -c listen_addresses='' -c fsync=off", server.path().display());
        server.pg("pg_ctl", &["-D", "data", "-w", "-l", "log", "-o", &options, "start"]);
        server
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs one of PostgreSQL's programs as the user postgres, who may run a server where root may not.
    fn pg(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(self.bin.join(program)).args(arguments);
        run(command.current_dir(self.path()));
    }

    async fn connect(&self) -> tokio_postgres::Client {
        let address = format!("host={} user=postgres dbname=postgres", self.path().display());
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.expect("the server answers");
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.pg("pg_ctl", &["-D", "data", "-m", "immediate", "stop"]);
    }
}

fn newest_bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is missing: apt-get install postgresql");
    let newest = versions.filter_map(Result::ok).max_by_key(|entry| entry.file_name());
    newest.expect("PostgreSQL is missing: apt-get install postgresql").path().join("bin")
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What may be written otherwise in a statement that keeps its fingerprint: literals, numbers, case, white space.
fn written_otherwise(sql: &str, random: &mut impl rand::RngExt) -> String {
    let mut other = String::with_capacity(sql.len() + 16);
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' if random.random_bool(0.2) => other += ["  ", "\n", " /* x */ ", "\t"][random.random_range(0..4)],
            '0'..='9' if random.random_bool(0.2) => other.push(char::from(b'0' + random.random_range(0..10))),
            'a'..='z' if random.random_bool(0.05) => other.push(c.to_ascii_uppercase()),
            '\'' if random.random_bool(0.3) => {
                // Something else between two quotes, or as much of it as there is.
                other.push('\'');
                other +=
                    ["", "a", "nextval", "''", "server_version", "; DELETE FROM x", "\\"][random.random_range(0..7)];
                while chars.peek().is_some_and(|next| *next != '\'') {
                    chars.next();
                }
            }
            _ => other.push(c),
        }
    }
    if random.random_bool(0.1) {
        other.insert_str(random.random_range(0..=1) * other.len(), " ; ");
    }
    other
}

/// Statements of one fingerprint are of one class: what is remembered of one holds for all.
#[tokio::test]
async fn statements_of_one_fingerprint_are_of_one_class() {
    use rand::SeedableRng;

    let (_server, client) = database(&[SCHEMA]).await;
    let catalog = load(&client).await;
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let cases = cases();
    let (mut same, mut seen) = (0u32, std::collections::HashMap::new());
    while same < 100_000 {
        let case = &cases[rand::RngExt::random_range(&mut random, 0..cases.len())];
        let sql = written_otherwise(&case.sql, &mut random);
        let mark = pgweir::sql::fingerprint(sql.as_bytes());
        // A cache would answer by the fingerprint.
        let class = Classifier::new(0).classify(sql.as_bytes(), &catalog, None).class;
        match seen.entry(mark) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert((class, sql));
            }
            std::collections::hash_map::Entry::Occupied(entry) => {
                same += 1;
                let (known, like) = entry.get();
                assert_eq!(*known, class, "{like:?} and {sql:?} share a fingerprint");
            }
        }
    }
    assert!(seen.len() > cases.len(), "only {} forms", seen.len());
}
