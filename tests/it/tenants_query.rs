//! Tenants that come from a query.

use crate::support::primary_only::{config, sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::{connect, eventually, fresh_database, shared_cluster};

#[tokio::test]
async fn tenants_come_and_change_without_a_restart() {
    let cluster = shared_cluster().await;
    let database = fresh_database(
        "CREATE TABLE tenants (name text, tier text, max_clients int, settings json); \
         INSERT INTO tenants VALUES ('acme', 'small', NULL, '{\"app.tenant\": \"acme\"}'), ('default', NULL, NULL, NULL), \
         ('filed', NULL, 1, NULL)",
    )
    .await;
    let text = |query: &str| {
        let tenancy = format!(
            "[tiers.standard]\n[tiers.small]\nmax_clients = 1\n[tenancy]\nidentify = [\"option\"]\nunknown = \"refuse\"\n\
             {query}[databases.{name}]\n[[tenants]]\nname = \"filed\"\n",
            name = database.name
        );
        config(cluster, &tenancy, &["postgres"])
    };
    let query = format!(
        "tenants_query = {{ query = \"SELECT * FROM tenants;\", database = \"{}\", user = \"postgres\", refresh = \"100ms\" }}\n",
        database.name
    );
    let proxy = Proxy::start(&text(&query)).await;
    let url = proxy.url(cluster, "postgres", &database.name);
    let of = |tenant: &str| format!("{url}?options=-c%20pgweir.tenant%3D{tenant}");
    let comes = async |tenant: &str| tokio_postgres::connect(&of(tenant), tokio_postgres::NoTls).await.is_ok();
    eventually("acme is known", async || comes("acme").await).await;
    eventually("its last client has left", async || comes("acme").await).await;
    let acme = loop {
        if let Ok((client, connection)) = tokio_postgres::connect(&of("acme"), tokio_postgres::NoTls).await {
            tokio::spawn(connection);
            break client;
        }
    };
    assert_eq!(value(&acme, "SHOW app.tenant").await, "acme");
    assert_eq!(sqlstate(&acme.batch_execute("SET app.tenant = 'x'").await.unwrap_err()), "42501");
    assert_eq!(proxy.refusal(&of("acme")).await.code().code(), "53300");
    assert_eq!(proxy.refusal(&of("beta")).await.code().code(), "28000");
    // The file's has no limit.
    let _filed = (connect(&of("filed")).await, connect(&of("filed")).await);

    database.sql("INSERT INTO tenants VALUES ('beta', 'nothing', NULL, NULL), ('gamma', 'small', 5, NULL)").await;
    eventually("gamma is known", async || comes("gamma").await).await;
    assert_eq!(proxy.refusal(&of("beta")).await.code().code(), "28000");
    // What was counted is counted still, and what cannot be asked for changes nothing.
    assert_eq!(proxy.refusal(&of("acme")).await.code().code(), "53300");
    database.sql("ALTER TABLE tenants RENAME TO others").await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(comes("gamma").await);
    proxy.reload(&text(&query)).await.unwrap();
    assert!(comes("gamma").await);
    proxy.reload(&text("")).await.unwrap();
    assert_eq!(proxy.refusal(&of("gamma")).await.code().code(), "28000");
    assert_eq!(value(&acme, "SELECT 1").await, "1");
}

#[tokio::test]
async fn until_the_query_is_answered_nobody_is_taken_for_another() {
    let cluster = shared_cluster().await;
    let database = fresh_database("").await;
    let name = &database.name;
    for (unknown, beta) in [("refuse", "28000"), ("default", "let in")] {
        let text = config(
            cluster,
            &format!(
                "[tiers.standard]\n[tenancy]\nidentify = [\"option\", \"application_name\"]\nunknown = \"{unknown}\"\n\
                 tenants_query = {{ query = \"SELECT * FROM tenants\", database = \"{name}\", user = \"postgres\", \
                 refresh = \"100ms\" }}\n[databases.{name}]\n[[tenants]]\nname = \"filed\"\n\
                 [[tenants]]\nname = \"matched\"\nmatch = {{ application_name = \"batch\" }}\n"
            ),
            &["postgres"],
        );
        let may_set = "name = \"postgres\"\nmay_set_tenant = true\n";
        let proxy = Proxy::start(&text.replace("name = \"postgres\"\n", may_set)).await;
        let url = proxy.url(cluster, "postgres", name);
        let of = |tenant: &str| format!("{url}?options=-c%20pgweir.tenant%3D{tenant}");
        // By its second name it is one that is known, and by its first one that may be soon.
        let both = format!("{}&application_name=filed", of("acme"));
        for url in [&of("acme"), &url, &both] {
            let refusal = proxy.refusal(url).await;
            assert_eq!(refusal.code().code(), "57P03", "{unknown}: {refusal}");
            assert!(refusal.detail().is_some() && refusal.hint().is_some(), "{refusal:?}");
        }
        let refused = |reason: &str| proxy.metric(&format!("pgweir_client_refusals_total{{reason=\"{reason}\"}}"));
        assert_eq!((refused("not_ready"), refused("authorization")), (3.0, 0.0));
        let filed = connect(&of("filed")).await;
        connect(&format!("{url}?application_name=batch")).await;
        for said in ["/*tenant='acme'*/ SELECT 1", "SET pgweir.tenant = 'acme'"] {
            let error = filed.batch_execute(said).await.unwrap_err();
            assert_eq!(sqlstate(&error), "57P03", "{unknown}: {said}: {error:?}");
        }
        assert_eq!(value(&filed, "/*tenant='matched'*/ SELECT 1").await, "1");

        database.sql("CREATE TABLE tenants AS SELECT 'acme' AS name").await;
        let outcome = async |tenant: &str| {
            let outcome = tokio_postgres::connect(&of(tenant), tokio_postgres::NoTls).await;
            outcome.err().map_or("let in".to_owned(), |error| sqlstate(&error).to_owned())
        };
        eventually("acme is known", async || outcome("acme").await == "let in").await;
        assert_eq!(outcome("beta").await, beta);
        assert_eq!(value(&filed, "/*tenant='acme'*/ SELECT 1").await, "1");
        database.sql("DROP TABLE tenants").await;
    }
}

#[tokio::test]
async fn a_reload_holds_for_the_rows_that_were_read_last() {
    let cluster = shared_cluster().await;
    let database = fresh_database(
        "CREATE TABLE tenants AS SELECT * FROM (VALUES ('acme', 'small'), ('beta', 'lost')) AS t (name, tier)",
    )
    .await;
    let text = |tiers: &str| {
        let tenancy = format!(
            "[tiers.standard]\n{tiers}[tenancy]\nidentify = [\"option\"]\nunknown = \"refuse\"\n\
             tenants_query = {{ query = \"SELECT * FROM tenants\", database = \"{name}\", user = \"postgres\", refresh = \"1h\" }}\n\
             [databases.{name}]\n",
            name = database.name
        );
        config(cluster, &tenancy, &["postgres"])
    };
    let tiers = |timeout: &str| format!("[tiers.small]\nstatement_timeout = \"{timeout}\"\n");
    let lost = "[tiers.lost]\nstatement_timeout = \"3s\"\n";
    let proxy = Proxy::start(&text(&(tiers("7s") + lost))).await;
    let url = proxy.url(cluster, "postgres", &database.name);
    let of = |tenant: &str| format!("{url}?options=-c%20pgweir.tenant%3D{tenant}");
    let timeout = async |tenant: &str| value(&connect(&of(tenant)).await, "SHOW statement_timeout").await;
    eventually("they are known", async || tokio_postgres::connect(&of("acme"), tokio_postgres::NoTls).await.is_ok())
        .await;
    assert_eq!((timeout("acme").await, timeout("beta").await), ("7s".into(), "3s".into()));
    proxy.reload(&text(&tiers("9s"))).await.unwrap();
    // What is no tenant any more changes none.
    assert_eq!((timeout("acme").await, timeout("beta").await), ("9s".into(), "3s".into()));
    proxy.reload(&text(&(tiers("9s") + &lost.replace('3', "5")))).await.unwrap();
    assert_eq!(timeout("beta").await, "5s");
}

#[tokio::test]
async fn a_query_that_failed_is_asked_again_soon_and_a_changed_one_at_once() {
    let cluster = shared_cluster().await;
    let database = fresh_database("CREATE TABLE others AS SELECT 'beta' AS name").await;
    let text = |table: &str| {
        let name = &database.name;
        let tenancy = format!(
            "[tiers.standard]\n[tenancy]\nidentify = [\"option\"]\nunknown = \"refuse\"\n\
             tenants_query = {{ query = \"SELECT * FROM {table}\", database = \"{name}\", user = \"postgres\", refresh = \"1h\" }}\n\
             [databases.{name}]\n"
        );
        config(cluster, &tenancy, &["postgres"])
    };
    let proxy = Proxy::start(&text("tenants")).await;
    let url = proxy.url(cluster, "postgres", &database.name);
    let comes = async |tenant: &str| {
        let url = format!("{url}?options=-c%20pgweir.tenant%3D{tenant}");
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_ok()
    };
    // The first attempt has most likely failed by then.
    assert!(!comes("acme").await);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    database.sql("CREATE TABLE tenants AS SELECT 'acme' AS name").await;
    eventually("acme is known", async || comes("acme").await).await;
    proxy.reload(&text("others")).await.unwrap();
    eventually("beta is known", async || comes("beta").await).await;
}

/// As it may have mended what was amiss: a password, or where the servers are.
#[tokio::test]
async fn a_reload_asks_at_once_while_nothing_was_answered() {
    let cluster = shared_cluster().await;
    let database =
        fresh_database("CREATE SEQUENCE attempts; CREATE TABLE tenants AS SELECT 'acme' AS name, 0 AS ready").await;
    let name = &database.name;
    // Also what fails draws from a sequence.
    let query = "SELECT name FROM tenants WHERE nextval('attempts') / ready > 0";
    let tenancy = format!(
        "[tiers.standard]\n[tenancy]\nidentify = [\"option\"]\nunknown = \"refuse\"\n\
         tenants_query = {{ query = \"{query}\", database = \"{name}\", user = \"postgres\", refresh = \"1h\" }}\n\
         [databases.{name}]\n"
    );
    let text = config(cluster, &tenancy, &["postgres"]);
    let proxy = Proxy::start(&text).await;
    let url = format!("{}?options=-c%20pgweir.tenant%3Dacme", proxy.url(cluster, "postgres", name));
    let comes = async || tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_ok();
    // From then on it is asked every eight seconds or less often.
    eventually("it was asked four times", async || {
        database.sql("SELECT last_value >= 4 FROM attempts").await.trim() == "t"
    })
    .await;
    assert!(!comes().await);
    database.sql("UPDATE tenants SET ready = 1").await;
    proxy.reload(&text).await.unwrap();
    let known = eventually("acme is known", comes);
    tokio::time::timeout(std::time::Duration::from_secs(5), known).await.expect("it was asked at once");
}
