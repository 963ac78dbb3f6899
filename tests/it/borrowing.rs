//! Functions that run with their owner's rights, or under settings of their own, and the tenants that are strict.

use tokio_postgres::Client;
use tokio_postgres::error::DbError;

use crate::guarding::{SEEN, Stage};
use crate::support::primary_only::{config, sqlstate, try_value, value};
use crate::support::proxy::Proxy;
use crate::support::raw::{Frame, RawClient};
use crate::support::{connect, eventually, say, shared_cluster, stage};

/// Whoever calls these sees the rows of others, since policies do not bind the one who made them.
const LENDERS: &str = "\
    CREATE FUNCTION everything() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM rows'; \
    CREATE FUNCTION elsewhere() RETURNS bigint LANGUAGE sql SET \"App\".TENANT = 'beta' AS 'SELECT count(*) FROM rows'; \
    CREATE FUNCTION calls() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN everything(); END'; \
    CREATE FUNCTION calls_too() RETURNS bigint LANGUAGE sql RETURN calls() + 1; \
    CREATE PROCEDURE proceeds() LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM rows WHERE false'; \
    CREATE FUNCTION either(n int) RETURNS int LANGUAGE sql AS 'SELECT n'; \
    CREATE FUNCTION either(t text) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; \
    CREATE FUNCTION of_row(r rows) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; \
    CREATE FUNCTION adds(a bigint, b int) RETURNS bigint LANGUAGE sql AS 'SELECT a + everything()'; \
    CREATE AGGREGATE summed(int) (SFUNC = adds, STYPE = bigint, INITCOND = '0'); \
    CREATE OPERATOR ### (LEFTARG = bigint, RIGHTARG = int, PROCEDURE = adds); \
    CREATE VIEW shown AS SELECT everything(); \
    CREATE SCHEMA other; GRANT ALL ON SCHEMA other TO PUBLIC; \
    CREATE FUNCTION other.harmless() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 2'; \
    GRANT SELECT ON shown TO PUBLIC";

/// The same, run by nobody who names them.
const UNASKED: &str = "\
    CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \
     'BEGIN PERFORM everything(); RETURN NEW; END'; \
    CREATE TABLE audited (id int, seen bigint DEFAULT everything()); \
    CREATE TRIGGER audits BEFORE INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audits(); \
    CREATE TABLE ruled (id int); ALTER TABLE ruled ENABLE ROW LEVEL SECURITY; \
    CREATE POLICY own ON ruled USING (id < everything()); \
    INSERT INTO ruled VALUES (1), (100); \
    GRANT ALL ON audited, ruled TO PUBLIC";

async fn refusal(client: &Client, sql: &str) -> DbError {
    let error = client.batch_execute(sql).await.expect_err(sql);
    assert_eq!(sqlstate(&error), "42501", "{sql}: {error:?}");
    error.as_db_error().unwrap().clone()
}

#[tokio::test]
async fn a_strict_tenant_borrows_nothing() {
    let stage = Stage::set().await;
    stage.database.sql(LENDERS).await;
    let proxy = stage.proxy("size = 2", true).await;
    let [acme, _beta] = stage.both(&proxy).await;
    for sql in [
        "SELECT everything()",
        "SELECT PUBLIC . \"everything\" ()",
        "SELECT * FROM everything()",
        "SELECT 1 WHERE 1 < (SELECT everything())",
        "INSERT INTO rows (id) VALUES (everything())",
        "UPDATE rows SET id = everything()",
        "EXPLAIN ANALYZE SELECT everything()",
        "CREATE TABLE t AS SELECT everything()",
        "CREATE TABLE t (n bigint DEFAULT everything())",
        "CREATE VIEW v AS SELECT everything()",
        "PREPARE p AS SELECT everything()",
        "DECLARE c CURSOR FOR SELECT everything()",
        "COPY (SELECT everything()) TO STDOUT",
        "SELECT 1; SELECT everything()",
        "SELECT elsewhere()",
        "SELECT calls()",
        "SELECT calls_too()",
        "CALL proceeds()",
        "SELECT either('x')",
        "SELECT either(7)",
        "SELECT either($1) FROM (SELECT 1) AS s",
        "SELECT of_row(r) FROM rows r",
        "SELECT r.of_row FROM rows r",
        "SELECT summed(id) FROM rows",
        "SELECT 1::bigint ### 1",
        "SELECT * FROM shown",
        "SELECT other.harmless()",
        "SET search_path = other; SELECT harmless()",
        "BEGIN; SET LOCAL search_path = other; SELECT harmless()",
    ] {
        refusal(&acme, sql).await;
        acme.batch_execute("ROLLBACK; RESET search_path").await.unwrap();
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}");
    }
    // In a transaction what is said before counts.
    acme.batch_execute("BEGIN; SET LOCAL search_path = other").await.unwrap();
    refusal(&acme, "SELECT harmless()").await;
    acme.batch_execute("ROLLBACK").await.unwrap();

    let error = refusal(&acme, "SELECT 1 + Everything()").await;
    assert_eq!(
        error.message(),
        "permission denied for \"everything\", which is or calls a function that is SECURITY DEFINER"
    );
    assert!(error.detail().unwrap().contains("\"acme\"") && error.hint().unwrap().contains("SECURITY INVOKER"));
    let error = refusal(&acme, "SELECT elsewhere()").await;
    assert_eq!(
        error.message(),
        "permission denied for \"elsewhere\", which is or calls a function that sets parameter \"app.tenant\""
    );
    assert!(error.detail().unwrap().contains("\"acme\"") && error.hint().unwrap().contains("RESET"), "{error:?}");
}

#[tokio::test]
async fn what_lends_nothing_is_not_refused() {
    let stage = Stage::set().await;
    stage.database.sql(LENDERS).await;
    stage.database.sql(UNASKED).await;
    stage
        .database
        .sql("CREATE FUNCTION frugal() RETURNS int LANGUAGE sql SET work_mem = '1MB' SET search_path = public AS 'SELECT 1'")
        .await;
    let proxy = stage.proxy("size = 2", true).await;
    let [acme, _beta] = stage.both(&proxy).await;
    for (sql, expected) in [
        ("SELECT harmless()", "1"),
        ("SELECT public.harmless()", "1"),
        ("SELECT frugal()", "1"),
        ("SELECT everything FROM (SELECT 3 AS everything) AS calls", "3"),
        ("SELECT calls.everything FROM (SELECT 3 AS everything) AS calls", "3"),
        ("SELECT 'everything()' /* everything() */", "everything()"),
        // Whoever has made these has allowed them.
        ("INSERT INTO audited (id) VALUES (1) RETURNING seen", "10"),
        ("SELECT string_agg(id::text, ',') FROM ruled", "1"),
    ] {
        assert_eq!(value(&acme, sql).await, expected, "{sql}");
    }
    let proxy = stage.proxy("size = 2", false).await;
    let [acme, _beta] = stage.both(&proxy).await;
    for (sql, expected) in [("SELECT everything()", "10"), ("SELECT calls()", "10"), ("SELECT elsewhere()", "5")] {
        assert_eq!(value(&acme, sql).await, expected, "{sql}");
        // What such a function sets ends with it.
        assert_eq!(value(&acme, SEEN).await, "acme acme", "{sql}");
    }
}

#[tokio::test]
async fn a_function_that_becomes_a_lender_is_refused_where_it_was_prepared() {
    let stage = Stage::set().await;
    for name in ["f1", "f2"] {
        let counts = "RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM rows'";
        stage.database.sql(&format!("CREATE FUNCTION {name}() {counts}")).await;
    }
    let strict = "[tiers.standard]\nsettings = { \"app.tenant\" = \"acme\" }\nstrict = true\n";
    let cluster = shared_cluster().await;
    let proxy = Proxy::start(&config(cluster, strict, &["postgres", &stage.user])).await;
    // The catalog is read by the first one's connections, who leaves it to the other.
    let url = |user: &str| proxy.url(cluster, user, &stage.database.name);
    let first = connect(&url("postgres")).await;
    assert_eq!(value(&first, "SELECT harmless()").await, "1");
    let acme = connect(&url(&stage.user)).await;
    for (name, lends) in [("f1", "SECURITY DEFINER"), ("f2", "SET app.tenant = 'beta'")] {
        let call = format!("SELECT {name}()");
        let prepared = acme.prepare(&call).await.unwrap();
        assert_eq!(acme.query_one(&prepared, &[]).await.unwrap().get::<_, i64>(0), 5);
        // Past pgweir, by whoever owns it.
        stage.database.sql(&format!("ALTER FUNCTION {name}() {lends}")).await;
        eventually(&format!("{lends} is known"), async || try_value(&acme, &call).await.is_err()).await;
        refusal(&acme, &call).await;
        let error = acme.query(&prepared, &[]).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{error:?}");
        let error = acme.query_typed(&call, &[]).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42501", "{error:?}");
        assert_eq!(value(&acme, SEEN).await, "acme acme");
        let takes_back = if lends.starts_with("SET") { "RESET ALL" } else { "SECURITY INVOKER" };
        stage.database.sql(&format!("ALTER FUNCTION {name}() {takes_back}")).await;
        eventually(&format!("{takes_back} is known"), async || try_value(&acme, &call).await.is_ok()).await;
        assert_eq!(acme.query_one(&prepared, &[]).await.unwrap().get::<_, i64>(0), 5);
    }
}

/// Statements without a name, those that SQL executes, and calls without any text.
#[tokio::test]
async fn no_form_of_the_protocol_borrows() {
    let stage = stage::Stage::set(
        "CREATE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         CREATE FUNCTION lends() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    )
    .await;
    let strict = "[tiers.standard]\nsettings = { \"app.tenant\" = \"acme\" }\nstrict = true\n";
    let proxy = Proxy::start(&stage.config(strict).await).await;
    let [mut raw, mut other] = [welcome(&stage, &proxy).await, welcome(&stage, &proxy).await];
    let oid = stage.database.sql("SELECT 'lends()'::regprocedure::oid").await.trim().parse().unwrap();
    let run = |statement: &str| [say::bind("", statement, &[]), say::execute("", 0), say::sync()].concat();
    for bytes in [
        say::function_call(oid, &[]),
        [say::parse("", "SELECT lends()"), run("")].concat(),
        [say::parse("named", "SELECT lends()"), say::sync()].concat(),
    ] {
        assert_eq!(errors(&mut raw, &bytes).await, ["42501"]);
    }
    // What was harmless when it was parsed.
    let parses = [say::parse("named", "SELECT later()"), say::parse("", "SELECT later()"), run("")].concat();
    assert!(errors(&mut raw, &parses).await.is_empty());
    stage.database.sql("ALTER FUNCTION later() SECURITY DEFINER").await;
    eventually("the change is known", async || !errors(&mut other, &say::query("SELECT later()")).await.is_empty())
        .await;
    for bytes in [run(""), run("named"), say::query("EXECUTE named"), say::query("EXPLAIN ANALYZE EXECUTE named")] {
        assert_eq!(errors(&mut raw, &bytes).await, ["42501"]);
    }
    assert!(errors(&mut raw, &say::query("DEALLOCATE named")).await.is_empty());
}

async fn welcome(stage: &stage::Stage, proxy: &Proxy) -> RawClient {
    RawClient::welcome(&stage.endpoint(proxy.port)).await
}

/// The SQLSTATEs that come before the server is ready.
async fn errors(raw: &mut RawClient, bytes: &[u8]) -> Vec<String> {
    raw.send(bytes).await.unwrap();
    let (frames, end) = raw.until_ready(1).await;
    assert_eq!(end, None, "{frames:?}");
    frames.iter().filter_map(Frame::sqlstate).collect()
}
