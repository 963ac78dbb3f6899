//! Settings that a tenant's sessions have and may not change, and what row-level security makes of them.

use pgweir::sandbox::User;
use pgweir::sql::{CATALOG_QUERIES, Catalog, CatalogRows};
use tokio_postgres::Client;

use crate::support::primary_only::{config, sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::raw::{Frame, RawClient};
use crate::support::stage::Stage as RawStage;
use crate::support::{TestDatabase, connect, eventually, fresh_database, say, shared_cluster, unique};

/// One table of all tenants' rows, whose policy reads a setting, and a user whom it binds.
pub struct Stage {
    pub database: TestDatabase,
    pub user: String,
}

impl Stage {
    pub async fn set() -> Self {
        let user = format!("app_{}", unique());
        shared_cluster().await.create_users(&[User::new(&user, "secret")]).await.unwrap();
        let database = fresh_database(&format!(
            "CREATE TABLE rows (tenant text NOT NULL DEFAULT current_setting('app.tenant'), id int); \
             INSERT INTO rows SELECT t, n FROM unnest('{{acme,beta}}'::text[]) AS t, generate_series(1, 5) AS n; \
             ALTER TABLE rows ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY own ON rows USING (tenant = current_setting('app.tenant')); \
             GRANT ALL ON rows TO {user}; GRANT ALL ON SCHEMA public TO {user}; \
             CREATE FUNCTION hides(t text) RETURNS text LANGUAGE sql AS 'SELECT set_config(''app.tenant'', t, false)'; \
             CREATE FUNCTION harmless() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        ))
        .await;
        Self { database, user }
    }

    pub async fn proxy(&self, pool: &str, strict: bool) -> Proxy {
        let tenant = |name: &str| {
            format!("[[tenants]]\nname = \"{name}\"\nsettings = {{ \"app.tenant\" = \"{name}\" }}\nstrict = {strict}\n")
        };
        let more = format!(
            "[tiers.standard]\nstatement_timeout = \"10s\"\n[tenancy]\nidentify = [{{ option = \"*\" }}]\nunknown = \"refuse\"\n\
             {}{}[pool]\n{pool}\n",
            tenant("acme"),
            tenant("beta")
        );
        // The user comes last.
        let text = config(shared_cluster().await, &more, &[&self.user]);
        assert!(text.contains(&format!("name = \"{}\"\n", self.user)));
        let user = format!("name = \"{}\"\n", self.user);
        Proxy::start(&text.replace(&user, &format!("{user}may_set_tenant = true\n"))).await
    }

    /// A client of each tenant.
    pub async fn both(&self, proxy: &Proxy) -> [Client; 2] {
        [connect(&self.url(proxy, "acme").await).await, connect(&self.url(proxy, "beta").await).await]
    }

    async fn url(&self, proxy: &Proxy, tenant: &str) -> String {
        let url = proxy.url(shared_cluster().await, &self.user, &self.database.name);
        format!("{url}?options=-c%20pgweir.tenant%3D{tenant}")
    }
}

pub const SEEN: &str = "SELECT string_agg(DISTINCT tenant, ',') || ' ' || current_setting('app.tenant') FROM rows";

#[tokio::test]
async fn each_tenant_sees_its_own_rows_and_no_statement_changes_that() {
    let stage = Stage::set().await;
    let proxy = stage.proxy("size = 1", false).await;
    let [acme, beta] = stage.both(&proxy).await;
    for _ in 0..3 {
        assert_eq!(value(&acme, SEEN).await, "acme acme");
        assert_eq!(value(&beta, SEEN).await, "beta beta");
    }
    for sql in [
        "SET app.tenant = 'beta'",
        "SET LOCAL app.tenant = 'beta'",
        "SET SESSION \"app\".TENANT TO beta",
        "RESET app.tenant",
        "RESET ALL",
        "DISCARD ALL",
        "SELECT set_config('app.tenant', 'beta', false)",
        "SELECT set_config('app' || '.tenant', 'beta', true)",
        "WITH s AS (SELECT set_config('App.Tenant', 'beta', true)) SELECT * FROM s, rows",
        "PREPARE p AS SELECT set_config('app.tenant', 'beta', false)",
        "SELECT 1; SET app.tenant = 'beta'; SELECT * FROM rows",
        "BEGIN; SET LOCAL app.tenant = 'beta'; SELECT * FROM rows; COMMIT",
        "EXPLAIN ANALYZE SELECT set_config('app.tenant', 'beta', false)",
        "UPDATE pg_settings SET setting = 'beta' WHERE name = 'app.tenant'",
    ] {
        let error = acme.batch_execute(sql).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{sql}: {error:?}");
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}");
    }
    let error = acme.query("SELECT set_config($1, 'beta', false)", &[&"app.tenant"]).await.unwrap_err();
    assert_eq!(sqlstate(&error), "42501");
    let error = acme.execute("SET app.tenant = 'beta'", &[]).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.message(), "permission denied to set parameter \"app.tenant\"");
    assert!(error.detail().unwrap().contains("\"acme\""), "{error:?}");
    // In a transaction, that fails.
    acme.batch_execute("BEGIN").await.unwrap();
    assert_eq!(sqlstate(&acme.batch_execute("SET app.tenant = 'beta'").await.unwrap_err()), "42501");
    assert_eq!(sqlstate(&acme.batch_execute(SEEN).await.unwrap_err()), "25P02");
    acme.batch_execute("ROLLBACK").await.unwrap();
    // What is nobody's business goes on.
    acme.batch_execute("SET work_mem = '5MB'; SET LOCAL app.other = 'x'; RESET work_mem; DISCARD PLANS").await.unwrap();
    let rows = proxy.metric("pgweir_tenant_rejections_total{reason=\"guarded_setting\",tenant=\"acme\"}");
    assert_eq!(rows, 17.0);

    for options in ["-c%20app.tenant%3Dbeta", "--app.tenant%3Dbeta"] {
        let url = format!("{}%20{options}", stage.url(&proxy, "acme").await);
        assert_eq!(proxy.refusal(&url).await.code().code(), "42501", "{options}");
    }
    let refused = proxy.metric("pgweir_tenant_rejections_total{reason=\"guarded_setting\",tenant=\"acme\"}");
    assert_eq!((refused, proxy.metric("pgweir_client_refusals_total{reason=\"guarded_setting\"}")), (19.0, 2.0));
}

/// As long as nobody knows what there is, anything that is named may be a view that calls such a function.
#[tokio::test]
async fn what_nobody_knows_of_is_hidden() {
    let stage = Stage::set().await;
    let user = &stage.user;
    let unread = format!(
        "CREATE VIEW shown AS SELECT hides('beta') AS x; GRANT ALL ON shown TO {user}; \
         REVOKE SELECT ON pg_catalog.pg_proc FROM PUBLIC"
    );
    stage.database.sql(&unread).await;
    for strict in [false, true] {
        let proxy = stage.proxy("size = 1", strict).await;
        let acme = connect(&stage.url(&proxy, "acme").await).await;
        for sql in ["SELECT 1", "SET work_mem = '1MB'", "BEGIN", "ROLLBACK"] {
            acme.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        for sql in ["SELECT * FROM shown", "BEGIN; SELECT * FROM shown", "SET work_mem = '2MB'; TABLE shown"] {
            let outcome = acme.batch_execute(sql).await;
            match strict {
                true => assert_eq!(sqlstate(&outcome.unwrap_err()), "42501", "{sql}"),
                false => {
                    outcome.unwrap();
                    assert_eq!(value(&acme, "SHOW app.tenant").await, "acme", "{sql}");
                }
            }
            acme.batch_execute("ROLLBACK").await.unwrap();
        }
        drop(acme);
        if !strict {
            let next = connect(&stage.url(&proxy, "acme").await).await;
            assert_eq!(value(&next, SEEN).await, "acme acme");
        }
    }
}

/// `q.f` calls `f` where `q` is a value: one that a function has returned, or a field.
#[tokio::test]
async fn a_call_that_looks_like_a_column_is_one() {
    let stage = Stage::set().await;
    let user = &stage.user;
    let more = format!(
        "CREATE VIEW shown AS SELECT hides('beta') AS x, id FROM rows; GRANT ALL ON shown TO {user}; \
         CREATE TABLE mine (id int); GRANT ALL ON mine TO {user}; INSERT INTO mine VALUES (1)"
    );
    stage.database.sql(&more).await;
    let ways = [
        "SELECT q.hides FROM unnest(ARRAY['beta']) AS q",
        "SELECT btrim.hides FROM trim('beta')",
        "SELECT (r).tenant.hides FROM rows r",
        "SELECT q.ts_stat FROM unnest(ARRAY['SELECT set_config(''app.tenant'', ''beta'', false)::tsvector']) AS q",
        "DELETE FROM mine USING shown WHERE shown.x IS NULL",
        "MERGE INTO mine USING shown ON shown.x IS NULL WHEN MATCHED THEN DO NOTHING",
        "SELECT table_to_xml('shown', true, true, '')",
    ];
    let proxy = stage.proxy("size = 1", false).await;
    for way in ways {
        let acme = connect(&stage.url(&proxy, "acme").await).await;
        acme.batch_execute(way).await.unwrap_or_else(|error| panic!("{way}: {error:?}"));
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{way}");
        // It may keep the one server connection for what it may have set.
        drop(acme);
        let next = connect(&stage.url(&proxy, "acme").await).await;
        assert_eq!(value(&next, SEEN).await, "acme acme", "{way}");
    }
    let proxy = stage.proxy("size = 1", true).await;
    let [acme, _beta] = stage.both(&proxy).await;
    for way in ways {
        let error = acme.batch_execute(way).await.err().unwrap_or_else(|| panic!("{way}"));
        assert_eq!(sqlstate(&error), "42501", "{way}: {error:?}");
    }
    assert_eq!(value(&acme, SEEN).await, "acme acme");
}

/// What a transaction, or a message, makes for itself and calls at once: no catalog knows of it yet.
#[tokio::test]
async fn what_is_made_and_called_at_once_is_as_hidden() {
    let stage = Stage::set().await;
    let proxy = stage.proxy("size = 1", false).await;
    let [acme, beta] = stage.both(&proxy).await;
    let function = |name: &str| {
        let set = "set_config(''app.tenant'', ''beta'', false) || set_config(''search_path'', ''nowhere'', false) || set_config(''app.x'', ''y'', false)";
        format!("CREATE FUNCTION {name}() RETURNS text LANGUAGE sql AS 'SELECT {set}'")
    };
    let aggregate = |name: &str| {
        format!("CREATE AGGREGATE {name}(text, bool) (SFUNC = 'set_config', STYPE = text, INITCOND = 'app.tenant')")
    };
    for messages in [
        vec!["BEGIN".to_owned(), function("f1"), "SELECT f1()".into(), "COMMIT".into()],
        vec![format!("{}; SELECT f2()", function("f2"))],
        vec![format!("BEGIN; {}", function("f3")), "SELECT f3()".into(), "COMMIT".into()],
        vec!["BEGIN".into(), aggregate("a4"), "SELECT a4('beta', false)".into(), "COMMIT".into()],
        vec![
            "BEGIN".into(),
            function("f6"),
            "CREATE OPERATOR ### (LEFTARG = text, RIGHTARG = text, PROCEDURE = pg_catalog.textcat)".into(),
            "CREATE FUNCTION op(text, text) RETURNS text LANGUAGE sql AS 'SELECT f6()'".into(),
            "CREATE OPERATOR #### (LEFTARG = text, RIGHTARG = text, PROCEDURE = op)".into(),
            "SELECT text 'a' #### text 'b'".into(),
            "COMMIT".into(),
        ],
        vec![format!("{}; CREATE TABLE t7 AS SELECT f7()", function("f7"))],
    ] {
        for message in &messages {
            acme.batch_execute(message).await.unwrap_or_else(|error| panic!("{message}: {error:?}"));
        }
        // On the same server connection.
        assert_eq!(value(&beta, "SHOW search_path").await, "\"$user\", public", "{messages:?}");
        let others = value(&beta, "SELECT coalesce(current_setting('app.x', true), '')").await;
        assert_eq!(others, "", "{messages:?}");
        acme.batch_execute("RESET search_path; RESET app.x").await.unwrap();
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{messages:?}");
        assert_eq!(value(&beta, SEEN).await, "beta beta", "{messages:?}");
    }
    let proxy = stage.proxy("size = 1", true).await;
    let [acme, _beta] = stage.both(&proxy).await;
    for sql in [
        &*aggregate("a"),
        "CREATE OPERATOR !!! (RIGHTARG = text, PROCEDURE = op)",
        "CREATE CAST (int AS text) WITH FUNCTION pg_catalog.chr(int)",
        "CREATE OR REPLACE AGGREGATE a(int) (SFUNC = int4pl, STYPE = int)",
    ] {
        acme.batch_execute("BEGIN").await.unwrap();
        let error = acme.batch_execute(sql).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{sql}: {error:?}");
        assert!(error.as_db_error().unwrap().detail().unwrap_or_default().contains("strict"), "{error:?}");
        acme.batch_execute("ROLLBACK").await.unwrap();
    }
    acme.batch_execute(
        "CREATE TABLE function (cast_ int); ALTER TABLE function ADD x int; CREATE TYPE mood AS ENUM ()",
    )
    .await
    .unwrap();
}

/// What triggers, defaults, checks and rules make of a tenant's settings, and its own aggregates, is as hidden.
#[tokio::test]
async fn what_writes_run_unasked_lasts_no_longer_than_their_message() {
    let stage = Stage::set().await;
    // Whoever inserts where a check hides something keeps a connection.
    let proxy = stage.proxy("size = 4", false).await;
    let [acme, beta] = stage.both(&proxy).await;
    let setups = [
        // Before the database is known to have such code.
        (
            "temporary table",
            "CREATE TEMP TABLE t (id int, x text DEFAULT hides('beta'))",
            "INSERT INTO t (id) VALUES (1)",
        ),
        (
            "trigger",
            "CREATE TABLE w (id int); \
          CREATE FUNCTION changes() RETURNS trigger LANGUAGE plpgsql AS \
          'BEGIN PERFORM set_config(''app.tenant'', ''beta'', false); RETURN NEW; END'; \
          CREATE TRIGGER changes BEFORE INSERT ON w FOR EACH ROW EXECUTE FUNCTION changes()",
            "INSERT INTO w VALUES (1)",
        ),
        ("default", "CREATE TABLE d (id int, x text DEFAULT hides('beta'))", "INSERT INTO d (id) VALUES (1)"),
        ("check", "CREATE TABLE c (id int CHECK (hides('beta') = 'beta'))", "INSERT INTO c VALUES (1)"),
        (
            "rule",
            "CREATE TABLE r (id int); CREATE RULE r AS ON INSERT TO r DO ALSO SELECT hides('beta')",
            "INSERT INTO r VALUES (1)",
        ),
        (
            "function that writes",
            "CREATE FUNCTION writes() RETURNS void LANGUAGE sql AS 'INSERT INTO w VALUES (1)'",
            "SELECT writes()",
        ),
    ];
    for (what, setup, sql) in setups {
        let maker = connect(&stage.url(&proxy, "acme").await).await;
        // With what is read of the catalog before that, and after.
        maker.batch_execute(setup).await.unwrap();
        let own = [&maker, &acme];
        for client in own.into_iter().take(if what == "temporary table" { 1 } else { 2 }) {
            client.batch_execute(sql).await.unwrap();
            assert_eq!(value(client, SEEN).await, "acme acme", "{what}");
            assert_eq!(value(&beta, SEEN).await, "beta beta", "{what}");
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute(sql).await.unwrap();
            assert_eq!(value(client, SEEN).await, "acme acme", "{what}, in a transaction");
            client.batch_execute("COMMIT").await.unwrap();
            assert_eq!(value(client, SEEN).await, "acme acme", "{what}, behind it");
        }
    }
    // Made of what came with PostgreSQL, and named as nothing but a text.
    acme.batch_execute(
        "CREATE AGGREGATE says(text, bool) (SFUNC = 'set_config', STYPE = text, INITCOND = 'app.tenant')",
    )
    .await
    .unwrap();
    acme.batch_execute("SELECT says('beta', false)").await.unwrap();
    assert_eq!(value(&acme, SEEN).await, "acme acme");
    let other = connect(&stage.url(&proxy, "acme").await).await;
    assert_eq!(value(&other, SEEN).await, "acme acme");
}

/// Nor is it known which of them a server connection has begun with.
#[tokio::test]
async fn what_a_default_search_path_brings_into_sight_is_hidden() {
    let stage = RawStage::set(
        "CREATE SCHEMA play; GRANT USAGE ON SCHEMA play TO PUBLIC; \
         CREATE FUNCTION play.h() RETURNS text LANGUAGE sql AS 'SELECT set_config(''app.tenant'', ''beta'', false)'",
    )
    .await;
    for strict in [false, true] {
        let proxy = raw_proxy(&stage, 1, strict).await;
        let endpoint = stage.endpoint(proxy.port);
        let mut client = RawClient::welcome(&endpoint).await;
        client.query(&format!("ALTER ROLE {} SET search_path = play", stage.user)).await;
        // The next one begins with that.
        client.send(&say::query("SELECT pg_terminate_backend(pg_backend_pid())")).await.unwrap();
        client.reader.rest().await;
        for _ in 0..3 {
            let mut client = RawClient::welcome(&endpoint).await;
            let code = client.query("SELECT h()").await.iter().find_map(|frame| frame.sqlstate());
            assert_eq!(code.as_deref(), strict.then_some("42501"));
            client.leave().await;
            let mut next = RawClient::welcome(&endpoint).await;
            assert_eq!(next.rows("SHOW app.tenant").await, ["acme"], "{strict}");
            next.leave().await;
        }
        stage.database.sql(&format!("ALTER ROLE {} RESET search_path", stage.user)).await;
    }
}

/// Temporary relations are in no catalog that is read.
#[tokio::test]
async fn what_a_temporary_relation_reaches_is_hidden() {
    let stage = Stage::set().await;
    stage
        .database
        .sql(
            "CREATE FUNCTION hidden() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS \
             'BEGIN PERFORM set_config(''app.tenant'', ''beta'', false); RETURN true; END'",
        )
        .await;
    let proxy = stage.proxy("size = 4", false).await;
    let other = connect(&stage.url(&proxy, "acme").await).await;
    let strict = stage.proxy("size = 4", true).await;
    for (made, read) in [
        (vec!["CREATE TEMP VIEW shown AS SELECT hides('beta')"], "TABLE shown"),
        (
            vec![
                "CREATE TEMP TABLE own AS SELECT 1 AS x",
                "CREATE POLICY p ON own USING (hidden())",
                "ALTER TABLE own ENABLE ROW LEVEL SECURITY",
                "ALTER TABLE own FORCE ROW LEVEL SECURITY",
            ],
            "SELECT x FROM own",
        ),
        (
            vec!["CREATE TEMP TABLE own AS SELECT 1 AS x", "CREATE INDEX ON own (x) WHERE hidden()"],
            "SELECT x FROM own WHERE x = 1",
        ),
    ] {
        let client = connect(&stage.url(&strict, "acme").await).await;
        let mut codes = Vec::new();
        for sql in &made {
            codes.extend(client.batch_execute(sql).await.err().map(|error| sqlstate(&error).to_owned()));
        }
        assert!(codes.iter().any(|code| code == "42501"), "{made:?}: {codes:?}");
        let client = connect(&stage.url(&proxy, "acme").await).await;
        for sql in &made {
            client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        // The catalog is read again, and settled.
        assert_eq!(value(&client, "SELECT harmless()").await, "1");
        assert_eq!(value(&other, "SELECT harmless()").await, "1");
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        for _ in 0..2 {
            client.batch_execute(read).await.unwrap();
            assert_eq!(value(&client, SEEN).await, "acme acme", "{made:?}");
        }
    }
}

/// Behind a change of `search_path`, which nobody has settled, a name may be that of another schema's function.
#[tokio::test]
async fn what_a_search_path_of_the_same_transaction_brings_into_sight_is_hidden() {
    let stage = RawStage::set(
        "CREATE SCHEMA play; GRANT USAGE ON SCHEMA play TO PUBLIC; CREATE TABLE one AS SELECT 1 AS x; \
         GRANT SELECT ON one TO PUBLIC; \
         CREATE FUNCTION play.h() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN \
         EXECUTE 'SELECT set_' || 'config(''app.tenant'', ''beta'', false), set_' || 'config(''app.x'', ''left'', false)'; \
         RETURN true; END$$; \
         CREATE VIEW play.v AS SELECT play.h(); GRANT SELECT ON play.v TO PUBLIC; \
         CREATE FUNCTION play.op(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT play.h()'; \
         CREATE OPERATOR play.= (LEFTARG = int, RIGHTARG = int, FUNCTION = play.op)",
    )
    .await;
    let seen = "SELECT concat_ws(' ', current_setting('app.tenant'), current_setting('app.x', true))";
    let set = "SET search_path = play, public";
    let extended = |statements: &[&str]| {
        let run = |sql: &&str| say::run(sql, &[]);
        [statements.iter().flat_map(run).collect(), say::sync()].concat()
    };
    let long = format!("SET LOCAL search_path = play /* {} */", "x".repeat(1 << 20));
    for strict in [false, true] {
        let proxy = raw_proxy(&stage, 1, strict).await;
        let endpoint = stage.endpoint(proxy.port);
        let call = "SELECT h()";
        for messages in [
            vec![say::query("BEGIN"), say::query("SET LOCAL search_path = play"), say::query(call)],
            vec![say::query("BEGIN"), say::query("SET LOCAL SCHEMA 'play'"), say::query("TABLE v")],
            vec![say::query("BEGIN"), say::query(&long), say::query(call)],
            vec![
                say::query("BEGIN"),
                say::query("SET LOCAL search_path = play, pg_catalog"),
                say::query("SELECT 1 IN (2)"),
            ],
            vec![say::query(&format!("{set}; {call}"))],
            vec![say::query(&format!("SELECT set_config('search_path', 'play,public', false); {call}"))],
            vec![extended(&[set, call])],
            vec![say::query("BEGIN"), extended(&[set]), extended(&[call])],
            vec![[say::parse("s", call), say::sync()].concat()],
            vec![
                say::query("BEGIN"),
                say::query(set),
                [say::parse("s", call), say::sync()].concat(),
                say::again("s", &[]),
            ],
        ] {
            let mut client = RawClient::welcome(&endpoint).await;
            client.query("SELECT count(*) FROM one").await;
            let mut codes = Vec::new();
            for message in &messages {
                client.send(message).await.unwrap();
                let (frames, _) = client.until_ready(1).await;
                codes.extend(frames.iter().find_map(|frame| frame.sqlstate()));
            }
            let head = |message: &Vec<u8>| String::from_utf8_lossy(&message[..message.len().min(100)]).into_owned();
            let shown = messages.iter().map(head).collect::<String>();
            match codes.first().map(String::as_str) {
                // There is none where nothing has moved.
                Some("42883") => assert_eq!(messages.len(), 1, "{shown}"),
                code => assert_eq!(code, strict.then_some("42501"), "{shown}"),
            }
            client.query("COMMIT").await;
            client.leave().await;
            for _ in 0..2 {
                let mut next = RawClient::welcome(&endpoint).await;
                assert_eq!(next.rows(seen).await, ["acme"], "behind {shown}");
                next.leave().await;
            }
        }
    }
}

/// Within a transaction nothing is judged by the catalog of its beginning, nor what was prepared by that of its `Parse`.
#[tokio::test]
async fn what_has_become_other_code_since_is_judged_anew() {
    const HARMLESS: &str = "CREATE OR REPLACE FUNCTION changes() RETURNS text LANGUAGE sql AS 'SELECT ''x''::text'";
    const HIDES: &str = "CREATE OR REPLACE FUNCTION changes() RETURNS text LANGUAGE sql AS \
                         'SELECT set_config(''app.tenant'', ''beta'', false)'";
    // In a transaction the server looks for a new definition when it opens a table.
    let stage = RawStage::set("CREATE TABLE one AS SELECT 1 AS x; GRANT SELECT ON one TO PUBLIC").await;
    for strict in [false, true] {
        stage.database.sql(HARMLESS).await;
        let proxy = raw_proxy(&stage, 8, strict).await;
        let endpoint = stage.endpoint(proxy.port);
        let mut other = RawClient::welcome(&endpoint).await;
        let mut is_read = async || {
            let rows = other.rows("EXPLAIN ROUTE SELECT changes()").await;
            rows.iter().any(|row| row.starts_with("class|read"))
        };
        eventually("the catalog is read", &mut is_read).await;
        let prepared = [say::parse("s", "SELECT changes() FROM one"), say::sync()].concat();
        let unnamed = [say::parse("", "SELECT changes() FROM one"), say::sync()].concat();
        let mut waiting = Vec::new();
        for (what, before, then) in [
            ("simple", say::query("SELECT changes() FROM one"), say::query("SELECT changes() FROM one")),
            ("named", prepared, say::again("s", &[])),
            ("unnamed", unnamed, say::again("", &[])),
        ] {
            let mut client = RawClient::welcome(&endpoint).await;
            for messages in [say::query("BEGIN; SELECT 1"), before] {
                client.send(&messages).await.unwrap();
                let (frames, _) = client.until_ready(1).await;
                assert!(frames.iter().all(|frame| frame.sqlstate().is_none()), "{what}: {frames:?}");
            }
            waiting.push((what, client, then));
        }
        stage.database.sql(HIDES).await;
        eventually("the catalog is read again", async || !is_read().await).await;
        for (what, mut client, then) in waiting {
            client.send(&then).await.unwrap();
            let (frames, _) = client.until_ready(1).await;
            let code = frames.iter().find_map(|frame| frame.sqlstate());
            assert_eq!(code.as_deref(), strict.then_some("42501"), "{what}: {frames:?}");
            client.query("COMMIT").await;
            assert_eq!(client.rows("SHOW app.tenant").await, ["acme"], "{what}, {strict}");
            client.leave().await;
            for _ in 0..8 {
                let mut next = RawClient::welcome(&endpoint).await;
                assert_eq!(next.rows("SHOW app.tenant").await, ["acme"], "behind {what}, {strict}");
            }
        }
    }
}

/// Code that is no trigger, default, check or rule, and runs all the same where something is inserted.
#[tokio::test]
async fn what_an_insert_reaches_by_its_relation_is_hidden() {
    let stage = Stage::set().await;
    let user = &stage.user;
    stage
        .database
        .sql(&format!(
            "CREATE TABLE plain (a text); \
             CREATE FUNCTION sets(text) RETURNS bool LANGUAGE plpgsql AS \
             'BEGIN PERFORM set_config(''app.tenant'', $1, false); RETURN true; END'; \
             CREATE VIEW checked AS SELECT a FROM plain WHERE sets(a) WITH CHECK OPTION; \
             CREATE TYPE cited AS (a text); CREATE TABLE cites (c cited); \
             CREATE FUNCTION cites(text) RETURNS cited LANGUAGE sql AS 'SELECT ROW($1)::cited FROM sets($1)'; \
             CREATE CAST (text AS cited) WITH FUNCTION cites(text) AS ASSIGNMENT; \
             CREATE FUNCTION compares(cited, cited) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
             'BEGIN PERFORM sets($1.a); RETURN 0; END'; \
             CREATE FUNCTION same(cited, cited) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1.a = $2.a'; \
             CREATE OPERATOR === (LEFTARG = cited, RIGHTARG = cited, FUNCTION = same); \
             CREATE OPERATOR CLASS cited_ops FOR TYPE cited USING btree AS \
             OPERATOR 3 ===, FUNCTION 1 compares(cited, cited); \
             CREATE TABLE ordered (c cited); CREATE INDEX ON ordered (c cited_ops); \
             INSERT INTO ordered VALUES (ROW('beta')::cited); \
             CREATE FUNCTION writes(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO checked VALUES ($1); END'; \
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}"
        ))
        .await;
    for strict in [false, true] {
        let proxy = stage.proxy("size = 1", strict).await;
        for sql in [
            "INSERT INTO checked VALUES ('beta')",
            "INSERT INTO cites VALUES ('beta'::text)",
            "INSERT INTO ordered VALUES (ROW('beta'))",
            "SELECT writes('beta')",
        ] {
            let acme = connect(&stage.url(&proxy, "acme").await).await;
            assert_eq!(value(&acme, "SELECT harmless()").await, "1");
            match (strict, acme.batch_execute(sql).await) {
                (true, outcome) => assert_eq!(sqlstate(&outcome.unwrap_err()), "42501", "{sql}"),
                (false, outcome) => outcome.unwrap_or_else(|error| panic!("{sql}: {error:?}")),
            }
            assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}, {strict}");
            drop(acme);
            let next = connect(&stage.url(&proxy, "acme").await).await;
            assert_eq!(value(&next, SEEN).await, "acme acme", "behind {sql}, {strict}");
        }
    }
}

/// An ordinary trigger that keeps something in a setting: the next client does not find it.
#[tokio::test]
async fn what_a_trigger_has_set_stays_with_its_client() {
    let stage = Stage::set().await;
    stage
        .database
        .sql(
            "CREATE TABLE audited (id int); \
         CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN SET audit.who = ''me''; PERFORM set_config(''audit.row'', NEW.id::text, false); SET work_mem = ''5MB''; RETURN NEW; END'; \
         CREATE TRIGGER audits AFTER INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audits()",
        )
        .await;
    let more = "[tiers.standard]\npinning = \"refuse\"\n[pool]\nsize = 1\n";
    let proxy = Proxy::start(&config(shared_cluster().await, more, &["postgres"])).await;
    let url = proxy.url(shared_cluster().await, "postgres", &stage.database.name);
    let [one, other] = [connect(&url).await, connect(&url).await];
    let found = "SELECT coalesce(current_setting('audit.who', true), '') || coalesce(current_setting('audit.row', true), '') \
                 || ' ' || current_setting('work_mem')";
    assert_eq!(value(&other, found).await, " 4MB");
    // Whatever their texts look like: they keep no connection to themselves.
    for sql in ["INSERT INTO audited VALUES (7)", "INSERT INTO audited VALUES (7) RETURNING 'C:\\dir\\', U&'x'"] {
        one.batch_execute(sql).await.unwrap();
        assert_eq!(value(&other, found).await, " 4MB");
        assert_eq!(value(&one, found).await, "me7 5MB");
        assert_eq!(value(&other, found).await, " 4MB");
    }
}

/// What PostgreSQL lets a role set only where it is granted, such as how much its queries may write to temporary files.
#[tokio::test]
async fn settings_of_the_server_bound_a_tenant() {
    let cluster = shared_cluster().await;
    let user = format!("bounded_{}", unique());
    cluster.create_users(&[User::new(&user, "secret")]).await.unwrap();
    let database = fresh_database(&format!("GRANT SET ON PARAMETER temp_file_limit TO {user}")).await;
    let settings = "[tiers.standard]\nstrict = true\nsettings = { temp_file_limit = \"1MB\", work_mem = \"64kB\" }\n";
    let proxy = Proxy::start(&config(cluster, settings, &[&user])).await;
    let client = connect(&proxy.url(cluster, &user, &database.name)).await;
    let sorts =
        |rows: u32| format!("SELECT count(*) FROM (SELECT n FROM generate_series(1, {rows}) n ORDER BY n DESC) s");
    assert_eq!(value(&client, &sorts(1_000)).await, "1000");
    let error = client.batch_execute(&sorts(1_000_000)).await.unwrap_err();
    assert_eq!(sqlstate(&error), "53400", "{error:?}");
    for sql in ["SET temp_file_limit = -1", "SET LOCAL work_mem = '1GB'", "RESET ALL"] {
        assert_eq!(sqlstate(&client.batch_execute(sql).await.unwrap_err()), "42501", "{sql}");
    }
    assert_eq!(value(&client, "SELECT current_setting('temp_file_limit')").await, "1MB");

    // No way leads around them.
    let sorts = sorts(1_000_000);
    let unbounded = format!(
        "ALTER ROLE {user} SET temp_file_limit = -1; \
         CREATE FUNCTION unbounded() RETURNS bigint LANGUAGE sql SET temp_file_limit = -1 AS '{sorts}'; \
         CREATE FUNCTION lifts() RETURNS bigint LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('temp_file_limit', '-1', false); RETURN ({sorts}); END $$; \
         CREATE FUNCTION runs(code text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE code; END $$"
    );
    database.sql(&unbounded).await;
    let proxy = Proxy::start(&config(cluster, settings, &[&user])).await;
    let url = proxy.url(cluster, &user, &database.name);
    let client = connect(&url).await;
    for (sql, code) in [
        (sorts.clone(), "53400"),
        (format!("SET temp_file_limit = -1; {sorts}"), "42501"),
        (format!("BEGIN; SET LOCAL temp_file_limit = -1; {sorts}"), "42501"),
        (format!("SELECT set_config('temp_file_limit', '-1', false), ({sorts})"), "42501"),
        (format!("UPDATE pg_settings SET setting = '-1' WHERE name = 'temp_file_limit'; {sorts}"), "42501"),
        (format!("RESET temp_file_limit; {sorts}"), "42501"),
        (format!("DISCARD ALL; {sorts}"), "42501"),
        (format!("DO $$ BEGIN SET temp_file_limit = -1; PERFORM ({sorts}); END $$"), "42501"),
        ("SELECT unbounded()".into(), "42501"),
        ("SELECT lifts()".into(), "42501"),
        (format!("SELECT runs('SET temp_file_limit = -1'); {sorts}"), "42501"),
        (
            format!("CREATE FUNCTION pg_temp.f() RETURNS bigint LANGUAGE sql SET temp_file_limit = -1 AS '{sorts}'"),
            "42501",
        ),
        (format!("SET temp_file_limit = -1; {sorts} /* {} */", "x".repeat(30_000)), "42501"),
    ] {
        let error = client.batch_execute(&sql).await.err().unwrap_or_else(|| panic!("{sql}"));
        assert_eq!(sqlstate(&error), code, "{sql}: {error:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    let said =
        tokio_postgres::connect(&format!("{url}?options=-c%20temp_file_limit%3D-1"), tokio_postgres::NoTls).await;
    assert_eq!(sqlstate(&said.err().unwrap()), "42501");
}

/// Triggers that change nothing of the session cost no question.
#[tokio::test]
async fn writes_are_asked_about_only_where_code_changes_settings() {
    let database = fresh_database(
        "CREATE TABLE t (id serial PRIMARY KEY, body text DEFAULT 'x', at timestamptz DEFAULT now(), v tsvector, \
         e int CHECK (e > 0) DEFAULT 1, g uuid DEFAULT gen_random_uuid()); \
         CREATE TRIGGER v BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION \
         tsvector_update_trigger(v, 'pg_catalog.english', body); \
         CREATE TRIGGER s BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger(); \
         CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.at := now(); RETURN NEW; END'; \
         CREATE TRIGGER touched BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touched(); \
         CREATE FUNCTION notes_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN EXECUTE ''SELECT 1''; END'; \
         CREATE EVENT TRIGGER notes_ddl ON ddl_command_end EXECUTE FUNCTION notes_ddl()",
    )
    .await;
    let direct = connect(&shared_cluster().await.primary().url("postgres", &database.name)).await;
    let results = {
        let mut results = Vec::new();
        for (_, sql) in CATALOG_QUERIES {
            let messages = direct.simple_query(sql).await.unwrap();
            let rows = messages.into_iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect::<Vec<_>>())
                }
                _ => None,
            });
            results.push(rows.collect::<Vec<_>>());
        }
        results
    };
    let catalog = Catalog::build(1, CatalogRows::from_results(results).unwrap());
    assert!(!catalog.writes_change_state() && catalog.ddl_changes_state());
}

/// What a text does not show holds no longer than to the end of its message.
#[tokio::test]
async fn what_is_hidden_lasts_no_longer_than_its_message() {
    let stage = Stage::set().await;
    // Whoever may have made settings that nobody sees keeps his connection.
    let proxy = stage.proxy("size = 2", false).await;
    let [acme, beta] = stage.both(&proxy).await;
    let long = format!("SELECT set_config('app.tenant', 'beta', false) /* {} */", "x".repeat(1 << 20));
    let text = "SELECT query_to_xml('SELECT set_config(''app.tenant'', ''beta'', false)', true, false, '')";
    let hidden =
        [text, "DO $$ BEGIN PERFORM set_config('app.tenant', 'beta', false); END $$", "SELECT hides('beta')", &long];
    for sql in hidden {
        acme.batch_execute(sql).await.unwrap();
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}");
        assert_eq!(value(&beta, SEEN).await, "beta beta", "{sql}");
        acme.batch_execute("BEGIN").await.unwrap();
        acme.batch_execute(sql).await.unwrap();
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}");
        acme.batch_execute("COMMIT").await.unwrap();
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}");
        assert_eq!(value(&beta, SEEN).await, "beta beta", "{sql}");
    }
    // Nor is it undone with a savepoint, or outrun by what comes right behind it.
    let hides = "DO $$ BEGIN PERFORM set_config('app.tenant', 'beta', true); END $$";
    for sql in [hides, "SAVEPOINT s", "ROLLBACK TO s"].iter().enumerate().map(|(at, sql)| (at == 0, sql)) {
        if sql.0 {
            acme.batch_execute("BEGIN").await.unwrap();
        }
        acme.batch_execute(sql.1).await.unwrap();
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{}", sql.1);
    }
    let (_, seen) = tokio::join!(acme.batch_execute(hides), value(&acme, SEEN));
    assert_eq!(seen, "acme acme");
    acme.batch_execute("COMMIT").await.unwrap();
    let strict = stage.proxy("size = 1", true).await;
    let acme = connect(&stage.url(&strict, "acme").await).await;
    for sql in hidden.into_iter().chain([
        "CREATE FUNCTION own() RETURNS bigint LANGUAGE sql SET app.tenant = 'beta' AS 'SELECT count(*) FROM rows'",
        "ALTER FUNCTION harmless() SET app.tenant = 'beta'",
        "SET SESSION AUTHORIZATION DEFAULT",
        "LOAD 'plpgsql'",
    ]) {
        let error = acme.batch_execute(sql).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{sql}");
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}");
    }
    assert_eq!(value(&acme, "SELECT harmless() + count(*) FROM rows").await, "6");
}

/// Nor does it come back with what undoes what made it again: nothing goes on behind that in one message.
#[tokio::test]
async fn what_is_hidden_does_not_come_back_with_what_is_undone() {
    const HIDES: &str = "DO $$ BEGIN PERFORM set_config('app.tenant', 'beta', false); END $$";
    const SEES: &str = "SELECT string_agg(DISTINCT tenant, ',') FROM rows";
    let stage = raw_stage().await;
    let more = "[tiers.standard]\nsettings = { \"app.tenant\" = \"acme\" }\n[pool]\nsize = 2\n";
    let proxy = Proxy::start(&stage.config(more).await).await;
    let query = |sql: &str| say::query(&sql.replace("HIDES", HIDES).replace("SEES", SEES));
    let run = |sql: &str| say::run(&sql.replace("HIDES", HIDES).replace("SEES", SEES), &[]);
    let batch = |statements: &[&str]| {
        let all: Vec<_> = statements.iter().map(|sql| run(sql)).collect();
        [all.concat(), say::sync()].concat()
    };
    let local = "DO $$ BEGIN PERFORM set_config('app.tenant', 'beta', true); END $$; SAVEPOINT a";
    let padding = "x".repeat(30_000);
    let kept = say::bind("kept", "", &[]);
    let refused = [
        vec![query("BEGIN"), query("HIDES"), query("COMMIT; SEES")],
        vec![query("BEGIN"), query("HIDES"), batch(&["COMMIT", "SEES"])],
        vec![query("BEGIN"), query("HIDES"), query("COMMIT AND CHAIN; SEES")],
        vec![query("BEGIN"), query("HIDES"), query("COMMIT AND CHAIN"), query("COMMIT; SEES")],
        vec![query("BEGIN; HIDES; COMMIT AND CHAIN"), query("ROLLBACK; SEES")],
        vec![query("BEGIN; HIDES; COMMIT AND CHAIN"), query("COMMIT; SEES")],
        vec![query("BEGIN; HIDES; COMMIT AND CHAIN"), batch(&["ROLLBACK", "SEES"])],
        vec![query("HIDES; COMMIT; BEGIN"), query("ROLLBACK; BEGIN; SEES")],
        vec![query("BEGIN"), query("HIDES; SAVEPOINT a"), query("ROLLBACK TO a; SEES")],
        vec![query("BEGIN"), query("HIDES; SAVEPOINT a"), query(&format!("ROLLBACK TO a; SEES /* {padding} */"))],
        vec![query("BEGIN"), query(local), query("ROLLBACK TO a; SEES")],
        vec![query("BEGIN"), query("HIDES; SAVEPOINT a"), query("SAVEPOINT b; ROLLBACK TO a; SEES")],
        vec![query("BEGIN"), batch(&["HIDES", "SAVEPOINT a"]), batch(&["ROLLBACK TO a", "SEES"])],
        vec![query("BEGIN"), query("HIDES; SAVEPOINT a"), [run("ROLLBACK TO a"), query("SEES")].concat()],
        vec![query("BEGIN"), query("HIDES; SAVEPOINT a"), query("SELECT 1/0"), query("ROLLBACK TO a; SEES")],
        vec![query("BEGIN"), query("HIDES; SAVEPOINT a"), query("SELECT 1/0"), batch(&["ROLLBACK TO a", "SEES"])],
        // Under a name, and bound before.
        vec![
            [say::parse("back", "ROLLBACK TO a"), say::parse("see", SEES), say::sync()].concat(),
            query("BEGIN"),
            query("HIDES; SAVEPOINT a"),
            [say::again("back", &[])[..].strip_suffix(&say::sync()[..]).unwrap(), &say::again("see", &[])].concat(),
        ],
        vec![
            query("BEGIN"),
            query("HIDES; SAVEPOINT a"),
            [say::parse("", "ROLLBACK TO a"), kept, say::sync()].concat(),
            [say::execute("kept", 0), run("SEES"), say::sync()].concat(),
        ],
    ];
    let fine = [
        vec![
            query("BEGIN"),
            query("HIDES; SAVEPOINT a"),
            query("ROLLBACK TO a; RELEASE a; SAVEPOINT b"),
            query("SEES"),
        ],
        vec![query("BEGIN"), query("HIDES"), query("SAVEPOINT a; SEES"), query("RELEASE a; SEES")],
        vec![query("BEGIN"), query("HIDES"), batch(&["SAVEPOINT a", "SEES"]), batch(&["RELEASE a", "SEES"])],
        vec![query("BEGIN"), query("HIDES"), query("COMMIT; BEGIN"), query("SEES; COMMIT")],
        vec![query("BEGIN"), query("HIDES"), batch(&["COMMIT", "BEGIN"]), batch(&["SEES", "ROLLBACK"])],
        vec![query("BEGIN; HIDES; COMMIT AND CHAIN"), query(&format!("ROLLBACK /* {padding} */")), query("SEES")],
        vec![query("BEGIN; HIDES; COMMIT"), query("BEGIN; SEES; COMMIT; SEES")],
    ];
    let ways = refused.iter().map(|way| (way, true)).chain(fine.iter().map(|way| (way, false)));
    for (way, is_refused) in ways {
        let shown: Vec<_> = way.iter().map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(200)])).collect();
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        let mut frames = Vec::new();
        for message in way {
            client.send(message).await.unwrap();
            frames = client.until_ready(1).await.0;
        }
        let seen: Vec<_> = frames.iter().filter(|frame| frame.tag == b'D').flat_map(Frame::values).collect();
        assert!(seen.iter().all(|seen| seen.as_deref() == Some("acme")), "{shown:?}: {seen:?}");
        let code = frames.iter().find_map(Frame::sqlstate);
        assert_eq!(code.as_deref(), is_refused.then_some("42501"), "{shown:?}: {frames:?}");
        client.query("ROLLBACK").await;
        assert_eq!(client.rows(SEES).await, ["acme"], "{shown:?}");
    }
    assert!(proxy.metric("pgweir_tenant_rejections_total{reason=\"guarded_setting\",tenant=\"default\"}") >= 18.0);
}

/// The stage's user is the tenant acme.
async fn raw_proxy(stage: &RawStage, size: usize, strict: bool) -> Proxy {
    let more = format!(
        "[tiers.standard]\n[[tenants]]\nname = \"acme\"\nmatch = {{ user = \"{}\" }}\nstrict = {strict}\n\
         settings = {{ \"app.tenant\" = \"acme\" }}\n[pool]\nsize = {size}\n",
        stage.user
    );
    Proxy::start(&stage.config(&more).await).await
}

/// The same table, for conversations of raw bytes.
async fn raw_stage() -> RawStage {
    RawStage::set(
        "CREATE TABLE rows (tenant text); INSERT INTO rows VALUES ('acme'), ('beta'); \
         ALTER TABLE rows ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON rows USING (tenant = current_setting('app.tenant')); GRANT SELECT ON rows TO PUBLIC",
    )
    .await
}

/// What would change a setting is found however much stands beside it, up to 1 MiB.
#[tokio::test]
async fn what_is_guarded_is_so_in_long_texts() {
    let stage = Stage::set().await;
    for strict in [false, true] {
        let proxy = stage.proxy("size = 1", strict).await;
        let [acme, beta] = stage.both(&proxy).await;
        for length in [30_000, 900_000] {
            let padding = "x".repeat(length);
            for sql in [
                "SET app.tenant = 'beta'",
                "SET LOCAL \"app\".tenant TO beta",
                "RESET app.tenant",
                "RESET ALL",
                "DISCARD ALL",
                "SELECT set_config('app.tenant', 'beta', false)",
                "SELECT set_config('app.' || 'tenant', 'beta', false)",
                "PREPARE p AS SELECT set_config('app.tenant', 'beta', false)",
            ] {
                let select = "SELECT * FROM rows";
                for text in [
                    format!("{sql}; {select} /* {padding} */"),
                    format!("/* {padding} */ {sql}; {select}"),
                    format!("SELECT length('{padding}'); {sql}"),
                    format!("SELECT {} 1; {sql}", "1, ".repeat(length / 3)),
                ] {
                    let what = || format!("strict: {strict}, {sql}, {}", text.len());
                    let error = acme.batch_execute(&text).await.expect_err(&what());
                    assert_eq!(sqlstate(&error), "42501", "{}: {error:?}", what());
                    assert_eq!(value(&acme, SEEN).await, "acme acme", "{}", what());
                    assert_eq!(value(&beta, SEEN).await, "beta beta", "{}", what());
                }
            }
            acme.batch_execute("BEGIN").await.unwrap();
            let error = acme.batch_execute(&format!("SET app.tenant = 'beta' /* {padding} */")).await.unwrap_err();
            assert_eq!(sqlstate(&error), "42501");
            assert_eq!(sqlstate(&acme.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
            acme.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    // What they only say in passing, or for themselves.
    let proxy = stage.proxy("size = 1", false).await;
    let [acme, beta] = stage.both(&proxy).await;
    for length in [500_000, 3_000_000] {
        let words = "SET app.tenant = beta; ".repeat(length / 23);
        for text in [
            format!("INSERT INTO rows (id) SELECT 1 FROM (SELECT '{words}') s"),
            format!("INSERT INTO rows (id) VALUES (1){}", ", (2)".repeat(length / 5)),
            format!(r"INSERT INTO rows (id) SELECT length('C:\set\') + length('it\''s{}')", " set".repeat(length / 4)),
            format!("SET work_mem = '5MB'; SET app.other = 'x'; SELECT '{words}'"),
        ] {
            acme.batch_execute(&text).await.unwrap_or_else(|error| panic!("{length}: {error:?}"));
            assert_eq!(value(&acme, SEEN).await, "acme acme");
            assert_eq!(value(&beta, SEEN).await, "beta beta");
        }
        let own = "SELECT current_setting('work_mem') || coalesce(current_setting('app.other', true), '')";
        assert_eq!((value(&acme, own).await, value(&beta, own).await), ("5MBx".into(), "4MB".into()));
        acme.batch_execute("RESET work_mem; SET app.other = ''").await.unwrap();
    }
    assert_eq!(value(&beta, "SELECT count(*) FROM rows").await, "5");
    // Code that the text does not show, up to the end of its message.
    let proxy = stage.proxy("size = 2", false).await;
    let [acme, beta] = stage.both(&proxy).await;
    let code = "DO $$ BEGIN PERFORM set_config('app.tenant', 'beta', false); END $$";
    acme.batch_execute(&format!("{code} /* {} */", "x".repeat(900_000))).await.unwrap();
    assert_eq!(value(&acme, SEEN).await, "acme acme");
    assert_eq!(value(&beta, SEEN).await, "beta beta");
}

/// Also where the statement is long, and prepared.
#[tokio::test]
async fn what_only_an_operator_a_cast_or_an_attribute_reaches_is_hidden_too() {
    let stage = Stage::set().await;
    let proxy = stage.proxy("size = 2", false).await;
    let [maker, beta] = stage.both(&proxy).await;
    maker
        .batch_execute(
            "CREATE FUNCTION hides(text, text) RETURNS bool LANGUAGE sql AS \
             'SELECT set_config(''app.x'', $1, false) || hides($2) IS NOT NULL'; \
             CREATE OPERATOR %%% (LEFTARG = text, RIGHTARG = text, FUNCTION = hides); \
             CREATE DOMAIN hiding AS text CHECK (value %%% value)",
        )
        .await
        .unwrap();
    let strict = stage.proxy("size = 2", true).await;
    let [refused, _beta] = stage.both(&strict).await;
    for sql in ["SELECT text 'x' %%% 'beta'", "SELECT 'beta'::hiding", "SELECT (text 'beta').hides"] {
        // The first one while the catalog is being read.
        for length in [0, 30_000, 900_000] {
            let text = format!("{sql} /* {} */", "x".repeat(length));
            let acme = connect(&stage.url(&proxy, "acme").await).await;
            acme.query(&text, &[]).await.unwrap();
            assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}, {length}");
            assert_eq!(value(&beta, SEEN).await, "beta beta", "{sql}, {length}");
            let others = value(&beta, "SELECT coalesce(current_setting('app.x', true), '')").await;
            assert_eq!(others, "", "{sql}, {length}");
            let error = refused.query(&text, &[]).await.unwrap_err();
            assert_eq!(sqlstate(&error), "42501", "{sql}, {length}: {error:?}");
        }
    }
}

/// The same of an operator that was made in a way that nobody has seen, while the catalog is the one of before.
#[tokio::test]
async fn what_an_operator_reaches_right_behind_code_that_may_have_made_it_is_hidden() {
    let stage = Stage::set().await;
    let proxy = stage.proxy("size = 2", false).await;
    let [acme, beta] = stage.both(&proxy).await;
    assert_eq!(value(&acme, "SELECT harmless()").await, "1");
    for round in 0..3 {
        let (name, operator) = (format!("hides{round}"), "%".repeat(round + 3));
        let function = format!(
            "EXECUTE 'CREA' || 'TE FUNC' || 'TION {name}(text, text) RETURNS text LANGUAGE sql AS ''SELECT hides($2)'''"
        );
        let made = format!(
            "EXECUTE 'CREA' || 'TE OPERA' || 'TOR {operator} (LEFTARG = text, RIGHTARG = text, PROCEDURE = {name})'"
        );
        acme.batch_execute(&format!("DO $$ BEGIN {function}; {made}; END $$")).await.unwrap();
        acme.batch_execute(&format!("SELECT text 'x' {operator} 'beta'")).await.unwrap();
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{round}");
        assert_eq!(value(&beta, SEEN).await, "beta beta", "{round}");
    }
}

/// Whoever is strict changes no schema where that sets what is held, also while the catalog is read again for another's change.
#[tokio::test]
async fn what_changes_of_the_schema_run_unasked_is_known_while_the_catalog_is_read_again() {
    let stage = Stage::set().await;
    let names = "CREATE FUNCTION strays() RETURNS event_trigger LANGUAGE plpgsql AS \
                 'BEGIN PERFORM set_config(''app.tenant'', ''beta'', false); END'; \
                 CREATE EVENT TRIGGER strays ON ddl_command_end EXECUTE FUNCTION strays()";
    stage.database.sql(names).await;
    let more = "[tiers.standard]\n[tenancy]\nidentify = [{ option = \"*\" }]\nunknown = \"refuse\"\n\
                [[tenants]]\nname = \"acme\"\nsettings = { \"app.tenant\" = \"acme\" }\nstrict = true\n\
                [[tenants]]\nname = \"beta\"\n[pool]\nsize = 4\n";
    let proxy = Proxy::start(&config(shared_cluster().await, more, &[&stage.user])).await;
    let [acme, beta] = stage.both(&proxy).await;
    for round in 0..10 {
        beta.batch_execute(&format!("CREATE TABLE made_{round} (x int)")).await.unwrap();
        let error = acme.batch_execute("CREATE TEMP TABLE mine AS SELECT 1").await.expect_err("it is refused");
        assert_eq!(sqlstate(&error), "42501", "{error:?}");
    }
}

/// The same of the role.
#[tokio::test]
async fn a_role_is_guarded_in_long_texts() {
    let cluster = shared_cluster().await;
    let (user, role) = (format!("app_{}", unique()), format!("own_{}", unique()));
    cluster.create_users(&[User::new(&user, "secret")]).await.unwrap();
    let database = fresh_database(&format!("CREATE ROLE {role}; GRANT {role} TO {user}")).await;
    let with = |settings: &str| config(cluster, &format!("[tiers.standard]\n{settings}\n[pool]\nsize = 1\n"), &[&user]);
    let (free, held) = (with(""), with(&format!("settings = {{ role = \"{role}\" }}")));
    // From the first statement on that comes after a reload.
    let proxy = Proxy::start(&free).await;
    for length in [25_000, 900_000] {
        let client = connect(&proxy.url(cluster, &user, &database.name)).await;
        let set = format!("SET ROLE none /* {} */", "x".repeat(length));
        client.batch_execute(&set).await.unwrap();
        proxy.reload(&held).await.unwrap();
        assert_eq!(sqlstate(&client.batch_execute(&set).await.unwrap_err()), "42501", "{length}");
        assert_eq!(value(&client, "SELECT current_user").await, role, "{length}");
        proxy.reload(&free).await.unwrap();
        client.batch_execute(&set).await.unwrap();
        assert_eq!(value(&client, "SELECT current_user").await, user, "{length}");
    }
    let proxy = Proxy::start(&held).await;
    let client = connect(&proxy.url(cluster, &user, &database.name)).await;
    for sql in ["SET ROLE none", "RESET ROLE", "SET SESSION AUTHORIZATION DEFAULT", "DISCARD ALL"] {
        for length in [30_000, 900_000] {
            let error = client.batch_execute(&format!("{sql} /* {} */", "x".repeat(length))).await.unwrap_err();
            assert_eq!(sqlstate(&error), "42501", "{sql}: {error:?}");
            assert_eq!(value(&client, "SELECT current_user").await, role, "{sql}");
        }
    }
}

/// A schema, a role, or a database for each tenant.
#[tokio::test]
async fn other_layouts_come_from_the_same_configuration() {
    let cluster = shared_cluster().await;
    let (user, role) = (format!("app_{}", unique()), format!("own_{}", unique()));
    cluster.create_users(&[User::new(&user, "secret")]).await.unwrap();
    let database = fresh_database(&format!(
        "CREATE SCHEMA acme; CREATE TABLE acme.who AS SELECT 'acme' AS name; CREATE SCHEMA beta; \
         CREATE TABLE beta.who AS SELECT 'beta' AS name; CREATE ROLE {role}; GRANT {role} TO {user}; \
         GRANT USAGE ON SCHEMA acme, beta TO PUBLIC; GRANT ALL ON acme.who, beta.who TO PUBLIC"
    ))
    .await;
    let other = fresh_database("CREATE TABLE who AS SELECT 'gamma' AS name; GRANT ALL ON who TO PUBLIC").await;
    let more = format!(
        "[tiers.standard]\n[tenancy]\nidentify = [{{ option = \"*\" }}]\n\
         [databases.{own}]\n[databases.gamma]\nserver_name = \"{other}\"\n\
         [[tenants]]\nname = \"acme\"\nsettings = {{ search_path = \"acme, public\", role = \"{role}\" }}\n\
         [[tenants]]\nname = \"beta\"\nsettings = {{ search_path = \"beta\" }}\n\
         [[tenants]]\nname = \"gamma\"\ndatabase = \"gamma\"\n[pool]\nsize = 1\n",
        own = database.name,
        other = other.name,
    );
    // The tenant's database is not one that the user may ask for.
    let restricted = format!("name = \"{user}\"\ndatabases = [\"{}\"]\n", database.name);
    let text = config(cluster, &more, &[&user]).replace(&format!("name = \"{user}\"\n"), &restricted);
    assert!(text.contains("databases = ["));
    let proxy = Proxy::start(&text).await;
    let url = proxy.url(cluster, &user, &database.name);
    let mut clients = Vec::new();
    for tenant in ["acme", "beta", "gamma"] {
        clients.push((tenant, connect(&format!("{url}?options=-c%20pgweir.tenant%3D{tenant}")).await));
    }
    for _ in 0..2 {
        for (tenant, client) in &clients {
            let expected = if *tenant == "acme" { &role } else { &user };
            assert_eq!(
                value(client, "SELECT name || ' ' || current_user FROM who").await,
                format!("{tenant} {expected}")
            );
        }
        proxy.reload(&text).await.unwrap();
    }
    for sql in [
        "SET search_path = beta",
        "SET SCHEMA 'beta'",
        "SET ROLE none",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION DEFAULT",
    ] {
        assert_eq!(sqlstate(&clients[0].1.batch_execute(sql).await.unwrap_err()), "42501", "{sql}");
    }
    clients[0].1.batch_execute("UPDATE who SET name = 'acme' WHERE name = 'search_path'").await.unwrap();
    clients[1].1.batch_execute("SET ROLE none; SET work_mem = '5MB'").await.unwrap();
}

/// Also while the catalog is read once more, because of what another tenant makes there.
#[tokio::test]
async fn a_strict_tenant_is_refused_what_hides_settings_and_nothing_else() {
    let stage = Stage::set().await;
    let proxy = stage.proxy("size = 4", true).await;
    let [acme, beta] = stage.both(&proxy).await;
    let changes = tokio::spawn(async move {
        for _ in 0..20 {
            beta.batch_execute("CREATE TABLE t (id int); DROP TABLE t").await.unwrap();
        }
    });
    while !changes.is_finished() {
        assert_eq!(value(&acme, SEEN).await, "acme acme");
        let error = acme.batch_execute("SELECT hides('beta')").await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{error:?}");
    }
    changes.await.unwrap();
}

/// Code that makes up the name of a custom setting: nothing shows that there is one, and the next client does not find it.
#[tokio::test]
async fn what_code_sets_under_a_name_of_its_own_making_is_nobody_elses() {
    let stage = Stage::set().await;
    let sets = "BEGIN EXECUTE format('SET audit.%I = %L', NEW.a, NEW.b); RETURN NEW; END";
    let keeps = "BEGIN PERFORM set_config('audit.' || NEW.a, NEW.b, false); RETURN NEW; END";
    stage
        .database
        .sql(&format!(
            "CREATE TABLE noted (a text, b text); CREATE TABLE kept (a text, b text); \
             CREATE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql AS $f${sets}$f$; \
             CREATE TRIGGER sets BEFORE INSERT ON noted FOR EACH ROW EXECUTE FUNCTION sets(); \
             CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $f${keeps}$f$; \
             CREATE TRIGGER keeps BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION keeps(); \
             CREATE TABLE given (a text, b text DEFAULT set_config('audit.' || 'd', 'v', false)); \
             CREATE FUNCTION called(a text) RETURNS void LANGUAGE plpgsql AS \
             $f$BEGIN EXECUTE format('SET audit.%I = 1', a); END$f$; \
             GRANT ALL ON noted, kept, given TO PUBLIC"
        ))
        .await;
    let proxy = stage.proxy("size = 1", false).await;
    let [acme, beta] = stage.both(&proxy).await;
    let made = |body: &str| {
        format!(
            "CREATE FUNCTION new() RETURNS text LANGUAGE plpgsql AS $f$BEGIN {body} RETURN ''; END$f$; \
             SELECT new(); DROP FUNCTION new()"
        )
    };
    let long = format!("{} /* {} */", "DO $$ BEGIN EXECUTE 'SET ' || 'audit.l = 1'; END $$", "x".repeat(1 << 20));
    for (name, messages) in [
        ("t", vec!["INSERT INTO noted VALUES ('t', 'v')".to_owned()]),
        ("k", vec!["INSERT INTO kept VALUES ('k', 'v') RETURNING a".to_owned()]),
        ("d", vec!["INSERT INTO given (a) VALUES ('d')".to_owned()]),
        ("i", vec!["BEGIN".into(), "INSERT INTO noted VALUES ('i', 'v')".into(), "SELECT 1".into(), "COMMIT".into()]),
        ("b", vec!["DO $$ BEGIN INSERT INTO noted VALUES ('b', 'v'); END $$".into()]),
        ("n", vec!["BEGIN".into(), made("EXECUTE 'SET audit.' || 'n' || ' = 1';"), "COMMIT".into()]),
        ("m", vec![made("EXECUTE 'SET audit.' || 'm' || ' = 1';")]),
        ("c", vec!["DO $$ BEGIN CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT set_config(''audit.'' || ''c'', ''v'', false)'; \
                    PERFORM f(); END $$".into()]),
        ("l", vec![long]),
    ] {
        for message in &messages {
            acme.batch_execute(message).await.unwrap_or_else(|error| panic!("{message}: {error:?}"));
        }
        let found = format!("SELECT coalesce(current_setting('audit.{name}', true), '')");
        assert_eq!(value(&beta, &found).await, "", "{name}");
        // What the session has itself stays.
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{name}");
    }
    acme.batch_execute("SET audit.mine = 'x'; SET work_mem = '5MB'; SET ROLE none").await.unwrap();
    acme.batch_execute("INSERT INTO noted VALUES ('t', 'v')").await.unwrap();
    let mine = "SELECT current_setting('audit.mine', true) || current_setting('work_mem')";
    assert_eq!(value(&beta, "SELECT current_setting('work_mem')").await, "4MB");
    assert_eq!(value(&acme, mine).await, "x5MB");
    drop(beta);
    // What is called keeps its server connection, until its client leaves.
    for (name, sql) in [
        ("f", "SELECT called('f')"),
        ("o", "DO $$ BEGIN EXECUTE 'SET audit.' || 'o' || ' = 1'; END $$"),
        ("p", "DO $$ BEGIN PERFORM set_config('audit.' || 'p', 'v', false); END $$"),
    ] {
        let [acme, beta] = stage.both(&proxy).await;
        acme.batch_execute(sql).await.unwrap();
        drop(acme);
        let found = format!("SELECT coalesce(current_setting('audit.{name}', true), '')");
        assert_eq!(value(&beta, &found).await, "", "{sql}");
    }
}

/// Whoever is strict is not shown another's rows by a trigger either, not even to the end of the message.
#[tokio::test]
async fn a_strict_tenant_is_refused_writes_where_triggers_set_what_is_held() {
    let stage = Stage::set().await;
    stage
        .database
        .sql(
            "CREATE TABLE w (id int); GRANT ALL ON w TO PUBLIC; \
             CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS \
             'BEGIN PERFORM set_config(''audit.who'', ''me'', false); UPDATE rows SET tenant = tenant WHERE false; RETURN NEW; END'; \
             CREATE TRIGGER notes BEFORE INSERT ON w FOR EACH ROW EXECUTE FUNCTION notes(); \
             CREATE FUNCTION unused() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN PERFORM hides('beta'); RETURN NEW; END$f$",
        )
        .await;
    let proxy = stage.proxy("size = 2", true).await;
    let [acme, beta] = stage.both(&proxy).await;
    // What triggers do otherwise is nobody's business.
    acme.batch_execute("INSERT INTO w VALUES (1); UPDATE w SET id = 2").await.unwrap();
    let trigger = "CREATE TRIGGER unused BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION unused()";
    acme.batch_execute("BEGIN; CREATE TABLE mine (id int)").await.unwrap();
    let error = acme.batch_execute(trigger).await.unwrap_err();
    assert_eq!(sqlstate(&error), "42501", "{error:?}");
    acme.batch_execute("ROLLBACK").await.unwrap();
    let acme = connect(&stage.url(&proxy, "acme").await).await;
    for (what, setup) in [
        (
            "trigger",
            "CREATE FUNCTION strays() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN IF true THEN \
             PERFORM set_config('App.Tenant', 'beta', false); END IF; RETURN NEW; END$f$; \
             CREATE TRIGGER strays BEFORE INSERT ON w FOR EACH ROW EXECUTE FUNCTION strays()",
        ),
        (
            "SET",
            "CREATE OR REPLACE FUNCTION strays() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN \
             SET LOCAL app.tenant = 'beta'; RETURN NEW; END$f$",
        ),
        (
            "dynamic SQL",
            "CREATE OR REPLACE FUNCTION strays() RETURNS trigger LANGUAGE plpgsql AS $f$BEGIN \
             EXECUTE 'SELECT set_config(''app.tenant'', ''beta'', false)'; RETURN NEW; END$f$",
        ),
        (
            "function that it calls",
            "CREATE OR REPLACE FUNCTION strays() RETURNS trigger LANGUAGE plpgsql AS \
             $f$BEGIN PERFORM hides('beta'); RETURN NEW; END$f$",
        ),
        ("default", "DROP FUNCTION strays CASCADE; ALTER TABLE w ADD x text DEFAULT hides('beta')"),
        ("default of its own", "ALTER TABLE w ALTER x SET DEFAULT set_config('app.tenant', 'beta', false)"),
    ] {
        stage.database.sql(setup).await;
        for sql in [
            "INSERT INTO w VALUES (1); SELECT * FROM rows",
            "WITH w AS (INSERT INTO w VALUES (1) RETURNING 1) SELECT * FROM rows, w",
            "UPDATE w SET id = 2",
            "PREPARE p AS INSERT INTO w VALUES (1)",
            "COPY w FROM STDIN",
        ] {
            let refused = async || match acme.batch_execute(sql).await {
                Err(error) if sqlstate(&error) == "42501" => error.to_string() + &format!("{error:?}"),
                other => format!("{other:?}"),
            };
            // Until the catalog is read.
            eventually(&format!("{what}: {sql}"), async || refused().await.contains("runs unasked")).await;
            acme.batch_execute("DEALLOCATE ALL").await.unwrap();
        }
        for sql in ["SELECT * FROM rows", "SELECT count(*) FROM w", "BEGIN; SET LOCAL work_mem = '5MB'; COMMIT"] {
            acme.batch_execute(sql).await.unwrap();
        }
    }
    drop(beta);
}
