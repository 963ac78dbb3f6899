//! Clients that say for which tenant they work.

use crate::support::primary_only::{config, sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::raw::RawClient;
use crate::support::stage::Stage;
use crate::support::{connect, fresh_database, say, shared_cluster};

const TENANTS: &str = "[tiers.standard]\n\
     [[tenants]]\nname = \"acme\"\nstatement_timeout = \"300ms\"\nsettings = { \"app.tenant\" = \"acme\" }\nmatch = { option = \"acme\" }\n\
     [[tenants]]\nname = \"beta\"\nmax_clients = 1\nsettings = { \"app.tenant\" = \"beta\" }\nmatch = { option = \"beta\" }\n";
const SEEN: &str = "SELECT current_setting('app.tenant', true)";

fn trusted(text: &str) -> String {
    text.replace("name = \"postgres\"\npassword", "name = \"postgres\"\nmay_set_tenant = true\npassword")
}

#[tokio::test]
async fn a_client_works_for_the_tenant_that_it_names() {
    let (cluster, database) = (shared_cluster().await, fresh_database("").await);
    let text = trusted(&config(cluster, &format!("{TENANTS}[pool]\nsize = 1\n"), &["postgres"]));
    let proxy = Proxy::start(&text).await;
    let url = proxy.url(cluster, "postgres", &database.name);
    let (one, two) = (connect(&url).await, connect(&url).await);
    let nobody = ["", "NULL"];
    for _ in 0..2 {
        one.batch_execute("SET pgweir.tenant = 'acme'").await.unwrap();
        two.execute("SET pgweir.tenant TO beta", &[]).await.unwrap();
        for _ in 0..2 {
            assert_eq!(value(&one, SEEN).await, "acme");
            assert_eq!(value(&two, SEEN).await, "beta");
        }
        assert_eq!(value(&one, "SHOW pgweir.tenant").await, "acme");
        assert_eq!(sqlstate(&one.batch_execute("SET app.tenant = 'x'").await.unwrap_err()), "42501");
        assert_eq!(sqlstate(&one.batch_execute("SELECT pg_sleep(60)").await.unwrap_err()), "57014");
        // The other's place is taken.
        assert_eq!(sqlstate(&one.batch_execute("SET pgweir.tenant = 'beta'").await.unwrap_err()), "53300");
        assert_eq!(value(&one, SEEN).await, "acme");
        two.batch_execute("RESET pgweir.tenant").await.unwrap();
        value(&one, "SELECT set_config('pgweir.tenant', 'beta', false)").await;
        assert_eq!(value(&one, SEEN).await, "beta");
        // What comes right behind it belongs to the tenant that it names.
        let (_, seen) = tokio::join!(one.batch_execute("RESET pgweir.tenant"), value(&one, SEEN));
        assert!(nobody.contains(&&*seen), "{seen}");
        assert!(nobody.contains(&&*value(&two, SEEN).await));
        one.batch_execute("SET app.tenant = 'own'; SELECT pg_sleep(0.5)").await.unwrap();
        one.batch_execute("RESET app.tenant").await.unwrap();
    }
    // Back where it has logged in.
    let acme = connect(&format!("{url}?options=-c%20pgweir.tenant%3Dacme")).await;
    acme.batch_execute("SET pgweir.tenant = 'beta'").await.unwrap();
    assert_eq!(value(&acme, SEEN).await, "beta");
    acme.batch_execute("RESET pgweir.tenant").await.unwrap();
    assert_eq!(value(&acme, SEEN).await, "acme");
}

#[tokio::test]
async fn no_transaction_has_two_tenants_and_nobody_names_one_who_may_not() {
    let stage = Stage::set("").await;
    // The user comes last.
    let proxy = Proxy::start(&format!("{}may_set_tenant = true\n", stage.config(TENANTS).await)).await;
    let endpoint = stage.endpoint(proxy.port);
    let mut client = RawClient::welcome(&endpoint).await;
    let set = "SET pgweir.tenant = 'acme'";
    for (messages, answers, expected) in [
        (say::query("SET pgweir.tenant = 'nobody'"), 1, Some("22023")),
        (say::query("SELECT set_config('pgweir.tenant', current_user, false)"), 1, Some("22023")),
        (say::query(&format!("SELECT 1; {set}")), 1, Some("25001")),
        (say::query(&format!("{set}; SELECT 1")), 1, Some("25001")),
        ([say::query("BEGIN"), say::query(set), say::query("ROLLBACK")].concat(), 3, Some("25001")),
        ([say::run(set, &[]), say::batch("SELECT 1", &[])].concat(), 1, Some("25001")),
        ([say::run("SELECT 1", &[]), say::batch(set, &[])].concat(), 1, Some("25001")),
        // Nobody has seen that, and it takes no effect.
        (say::query("DO $$ BEGIN PERFORM set_config('pgweir.tenant', 'acme', false); END $$"), 1, None),
        (say::query("SET app.tenant = 'own'"), 1, None),
    ] {
        assert_eq!(code(&mut client, messages, answers).await.as_deref(), expected);
    }
    // The first one has hidden something, and keeps its connection.
    let mut client = RawClient::welcome(&endpoint).await;
    for (messages, answers, expected) in [
        ([say::parse("s", set), say::sync()].concat(), 1, None),
        (say::query("SET app.tenant = 'mine'"), 1, None),
        (say::again("s", &[]), 1, None),
        (say::query("SET app.tenant = 'x'"), 1, Some("42501")),
        (say::query("RESET pgweir.tenant"), 1, None),
        (say::query("SET app.tenant = 'x'"), 1, None),
        (say::query("CREATE TEMP TABLE t (x int)"), 1, None),
        (say::query(set), 1, Some("0A000")),
    ] {
        assert_eq!(code(&mut client, messages, answers).await.as_deref(), expected);
    }
    let proxy = Proxy::start(&stage.config(TENANTS).await).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let frames = client.query(set).await;
    assert_eq!(frames.iter().find_map(|frame| frame.sqlstate()).as_deref(), Some("42501"));
}

async fn code(client: &mut RawClient, messages: Vec<u8>, answers: usize) -> Option<String> {
    client.send(&messages).await.unwrap();
    let (frames, end) = client.until_ready(answers).await;
    assert!(end.is_none(), "{frames:?}");
    frames.iter().find_map(|frame| frame.sqlstate())
}
