//! Clients that say for which tenant they work.

use crate::support::primary_only::{config, sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::raw::RawClient;
use crate::support::stage::Stage;
use crate::support::{connect, fresh_database, say, shared_cluster};

const TENANTS: &str = "[tenancy]\nunknown = \"refuse\"\n[tiers.standard]\n\
     [[tenants]]\nname = \"acme\"\nstatement_timeout = \"300ms\"\nsettings = { \"app.tenant\" = \"acme\" }\nmatch = { option = \"acme\" }\n\
     [[tenants]]\nname = \"beta\"\nmax_clients = 1\nsettings = { \"app.tenant\" = \"beta\" }\nmatch = { option = \"beta\" }\n\
     [[tenants]]\nname = \"shared\"\nmatch = { user = \"USER\" }\n";
const SEEN: &str = "SELECT current_setting('app.tenant', true)";

/// Of a configuration whose only user is this one.
fn of_user(user: &str, text: &str) -> String {
    text.replace("USER", user)
}

fn trusted(text: &str) -> String {
    text.replace("name = \"postgres\"\npassword", "name = \"postgres\"\nmay_set_tenant = true\npassword")
}

#[tokio::test]
async fn a_client_works_for_the_tenant_that_it_names() {
    let (cluster, database) = (shared_cluster().await, fresh_database("").await);
    let text = trusted(&config(cluster, &of_user("postgres", &format!("{TENANTS}[pool]\nsize = 1\n")), &["postgres"]));
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
    let proxy =
        Proxy::start(&format!("{}may_set_tenant = true\n", stage.config(&of_user(&stage.user, TENANTS)).await)).await;
    let endpoint = stage.endpoint(proxy.port);
    let mut client = RawClient::welcome(&endpoint).await;
    let set = "SET pgweir.tenant = 'acme'";
    for (messages, answers, expected) in [
        (say::query("SET pgweir.tenant = 'nobody'"), 1, Some("22023")),
        (say::query("SELECT set_config('pgweir.tenant', current_user, false)"), 1, Some("22023")),
        (say::query(&format!("SELECT 1; {set}")), 1, Some("25001")),
        (say::query(&format!("{set}; SET pgweir.tenant = 'beta'")), 1, Some("25001")),
        ([say::run("SELECT 1", &[]), say::batch(set, &[])].concat(), 1, Some("25001")),
        (say::query("SELECT 1 /*tenant='acme'*/; SELECT 2 /*tenant='beta'*/"), 1, None),
        (say::query("/*tenant='acme'*/ SELECT 1 /*tenant='beta'*/"), 1, Some("25001")),
        (say::query("SELECT 1 /*tenant='nobody'*/"), 1, Some("22023")),
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
    ] {
        assert_eq!(code(&mut client, messages, answers).await.as_deref(), expected);
    }
    let proxy = Proxy::start(&stage.config(&of_user(&stage.user, TENANTS)).await).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    assert_eq!(code(&mut client, say::query(set), 1).await.as_deref(), Some("42501"));
    let refused = "pgweir_tenant_rejections_total{reason=\"guarded_setting\",tenant=\"shared\"}";
    assert_eq!(proxy.metric(refused), 1.0);
    assert_eq!(code(&mut client, say::query("SET app.tenant = 'own' /*tenant='acme'*/"), 1).await, None);
}

/// Whose a transaction is may be said behind its beginning; each statement counts for him all the same.
#[tokio::test]
async fn a_message_that_names_its_tenant_within_a_transaction_is_counted_whole() {
    let stage = Stage::set("").await;
    let rated = TENANTS.replace("max_clients = 1\n", "rate_limits = [\"10/h\"]\n");
    assert_ne!(rated, TENANTS);
    let proxy =
        Proxy::start(&format!("{}may_set_tenant = true\n", stage.config(&of_user(&stage.user, &rated)).await)).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let message = say::query(&format!("{}SELECT 1 /*tenant='beta'*/", "SELECT 1; ".repeat(5)));
    for expected in [None, Some("53400")] {
        assert_eq!(code(&mut client, say::query("BEGIN"), 1).await, None);
        assert_eq!(code(&mut client, message.clone(), 1).await.as_deref(), expected);
        assert_eq!(code(&mut client, say::query("ROLLBACK"), 1).await, None);
    }
}

/// Where those who are not known are not refused.
#[tokio::test]
async fn a_name_that_is_nobodys_is_that_of_everybody_else() {
    let (cluster, database) = (shared_cluster().await, fresh_database("").await);
    let tenants = "default_tier = \"others\"\n[tiers.others]\nmax_clients = 2\nsettings = { \"app.tenant\" = \"nobody's\" }\n\
        [tiers.standard]\n\
        [[tenants]]\nname = \"acme\"\ntier = \"standard\"\nmatch = { option = \"acme\" }\nsettings = { \"app.tenant\" = \"acme\" }\n\
        [[tenants]]\nname = \"shared\"\ntier = \"standard\"\nmatch = { user = \"postgres\" }\n[pool]\nsize = 1\n";
    let proxy = Proxy::start(&trusted(&config(cluster, tenants, &["postgres"]))).await;
    let url = proxy.url(cluster, "postgres", &database.name);
    let (one, two, three) = (connect(&url).await, connect(&url).await, connect(&url).await);
    let home = async |client| assert!(["", "NULL"].contains(&&*value(client, SEEN).await));
    for _ in 0..2 {
        assert_eq!(value(&one, &format!("{SEEN} /*tenant='x'*/")).await, "nobody's");
        home(&one).await;
        one.batch_execute("BEGIN").await.unwrap();
        one.batch_execute("SET LOCAL pgweir.tenant = 'y'").await.unwrap();
        assert_eq!(value(&one, SEEN).await, "nobody's");
        // That is the same tenant.
        assert_eq!(value(&one, &format!("{SEEN} /*tenant='z'*/")).await, "nobody's");
        assert_eq!(sqlstate(&one.batch_execute("SELECT 1 /*tenant='acme'*/").await.unwrap_err()), "25001");
        one.batch_execute("ROLLBACK").await.unwrap();
        home(&one).await;
        two.batch_execute("SET pgweir.tenant = 'shared'").await.unwrap();
        for name in ["x", "default", "y"] {
            one.batch_execute(&format!("SET pgweir.tenant = '{name}'")).await.unwrap();
            two.batch_execute(&format!("SET pgweir.tenant = '{name}'")).await.unwrap();
            for _ in 0..2 {
                assert_eq!(value(&one, SEEN).await, "nobody's");
                assert_eq!(value(&one, "SHOW pgweir.tenant").await, name);
            }
            // Its places are taken, by two clients, whatever they call it.
            let error = three.batch_execute("SET pgweir.tenant = 'z'").await.unwrap_err();
            assert_eq!(sqlstate(&error), "53300", "{name}");
            assert_eq!(value(&one, &format!("{SEEN} /*tenant='acme'*/")).await, "acme");
        }
        // Of several names the last is what it has said.
        one.batch_execute("RESET pgweir.tenant").await.unwrap();
        one.batch_execute("BEGIN; SET pgweir.tenant = 'v'; SET pgweir.tenant = 'w'; COMMIT").await.unwrap();
        assert_eq!(value(&one, SEEN).await, "nobody's");
        assert_eq!(value(&one, "SHOW pgweir.tenant").await, "w");
        one.batch_execute("BEGIN; SET pgweir.tenant = 'acme'; ROLLBACK").await.unwrap();
        assert_eq!(value(&one, SEEN).await, "nobody's");
        one.batch_execute("SET pgweir.tenant = 'acme'").await.unwrap();
        assert_eq!(value(&one, SEEN).await, "acme");
        two.batch_execute("RESET pgweir.tenant").await.unwrap();
        one.batch_execute("RESET pgweir.tenant").await.unwrap();
        home(&one).await;
        assert_eq!(value(&one, "SELECT coalesce(current_setting('pgweir.tenant', true), '')").await, "");
    }
    // Who was nobody is known from now on, also by the clients that had named it.
    one.batch_execute("SET pgweir.tenant = 'newcomer'").await.unwrap();
    assert_eq!(value(&one, SEEN).await, "nobody's");
    let newcomer = "[[tenants]]\nname = \"newcomer\"\ntier = \"standard\"\nmatch = { option = \"new\" }\nsettings = { \"app.tenant\" = \"new\" }\n";
    proxy
        .reload(&trusted(&config(cluster, &tenants.replace("[pool]", &format!("{newcomer}[pool]")), &["postgres"])))
        .await
        .unwrap();
    one.batch_execute("SET pgweir.tenant = 'newcomer'").await.unwrap();
    for _ in 0..2 {
        assert_eq!(value(&one, SEEN).await, "new");
    }
}

/// The first statement of a transaction says whose it is.
#[tokio::test]
async fn a_transaction_is_of_the_tenant_that_its_first_statement_names() {
    let stage = Stage::set("").await;
    let text = format!(
        "{}may_set_tenant = true\n",
        stage.config(&of_user(&stage.user, &format!("{TENANTS}[pool]\nsize = 2\n"))).await
    );
    let proxy = Proxy::start(&text).await;
    let url = format!("postgres://{}@127.0.0.1:{}/{}", stage.user, proxy.port, stage.database.name);
    let client = connect(&url).await;
    let (local, set) = ("SET LOCAL pgweir.tenant = 'acme'", "SET pgweir.tenant = 'acme'");
    let commented = format!("{SEEN} /*action='x',tenant='acme'*/");
    let seen = async || Some(value(&client, SEEN).await).filter(|seen| seen != "NULL").unwrap_or_default();
    for _ in 0..3 {
        for begin in
            ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY, DEFERRABLE", "START TRANSACTION READ ONLY"]
        {
            for first in [local, set, &commented, "SELECT set_config('pgweir.tenant', 'acme', true)"] {
                client.batch_execute(begin).await.unwrap();
                client.batch_execute(first).await.unwrap();
                assert_eq!(seen().await, "acme", "{begin}; {first}");
                let shown = value(
                    &client,
                    "SELECT concat_ws(' ', current_setting('transaction_isolation'), \
                    current_setting('transaction_read_only'), current_setting('transaction_deferrable'))",
                )
                .await;
                let expected = match begin {
                    "BEGIN" => "read committed off off",
                    "START TRANSACTION READ ONLY" => "read committed on off",
                    _ => "repeatable read on on",
                };
                assert_eq!(shown, expected, "{begin}; {first}");
                client.batch_execute("ROLLBACK").await.unwrap();
                assert_eq!(seen().await, "", "{begin}; {first}");
            }
        }
        client
            .batch_execute(&format!(
                "BEGIN; {local}; CREATE TABLE IF NOT EXISTS t (who text DEFAULT current_setting('app.tenant')); \
            INSERT INTO t DEFAULT VALUES; COMMIT"
            ))
            .await
            .unwrap();
        assert_eq!(seen().await, "");
        client.batch_execute(&format!("BEGIN; {set}; COMMIT")).await.unwrap();
        assert_eq!(seen().await, "acme");
        client.batch_execute("BEGIN; RESET pgweir.tenant; COMMIT").await.unwrap();
        assert_eq!(seen().await, "");
        assert_eq!(value(&client, &commented).await, "acme");
        let row = client.query_one(&commented, &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), "acme");
        client.batch_execute("BEGIN /*tenant='beta'*/").await.unwrap();
        assert_eq!(seen().await, "beta");
        let error = client.batch_execute(&commented).await.unwrap_err();
        assert_eq!(sqlstate(&error), "25001");
        assert_eq!(sqlstate(&client.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
        client.batch_execute("ROLLBACK /*tenant='beta'*/").await.unwrap();
        assert_eq!(seen().await, "");
        for late in [set, local, &commented, "SET pgweir.tenant = 'nobody'"] {
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute("SELECT 1").await.unwrap();
            let expected = if late.ends_with("'nobody'") { "22023" } else { "25001" };
            assert_eq!(sqlstate(&client.batch_execute(late).await.unwrap_err()), expected, "{late}");
            client.batch_execute("ROLLBACK").await.unwrap();
            client.batch_execute("BEGIN").await.unwrap();
            let unknown = client.batch_execute("SELECT 1 /*tenant='nobody'*/").await.unwrap_err();
            assert_eq!(sqlstate(&unknown), "22023");
            assert_eq!(sqlstate(&client.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
            client.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    assert_eq!(value(&client, "SELECT string_agg(DISTINCT who, ',') FROM t").await, "acme");
    // Its limits hold.
    let slow = "SELECT pg_sleep(60) /*tenant='acme'*/";
    assert_eq!(sqlstate(&client.batch_execute(slow).await.unwrap_err()), "57014");
    let guarded = "SET app.tenant = 'x' /*tenant='acme'*/";
    assert_eq!(sqlstate(&client.batch_execute(guarded).await.unwrap_err()), "42501");
    // Everything at once: each batch waits until it is known whose it is.
    let mut raw = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let messages = [
        &commented,
        SEEN,
        "BEGIN",
        local,
        SEEN,
        "COMMIT",
        &commented.replace("acme", "beta"),
        set,
        SEEN,
        "RESET pgweir.tenant",
        SEEN,
    ];
    raw.send(&messages.map(say::query).concat()).await.unwrap();
    let (frames, end) = raw.until_ready(messages.len()).await;
    assert!(end.is_none());
    let seen: Vec<_> = frames
        .iter()
        .filter(|frame| frame.tag == b'D')
        .map(|frame| frame.values()[0].clone().unwrap_or_default())
        .collect();
    let errors: Vec<_> = frames.iter().filter_map(|frame| frame.sqlstate()).collect();
    assert_eq!(
        (seen, errors),
        (["acme", "", "acme", "beta", "acme", ""].map(String::from).to_vec(), Vec::<String>::new())
    );
    // An unnamed statement that was prepared for somebody else.
    for (messages, answers, expected) in [
        ([say::parse("", "SET app.tenant = 'x'"), say::sync()].concat(), 1, None),
        (say::query("SELECT 1"), 1, None),
        ([say::parse("r", set), say::parse("", "SELECT 1 /*tenant='beta'*/"), say::sync()].concat(), 1, Some("25001")),
        ([say::parse("s", set), say::sync(), say::parse("", "SET app.tenant = 'x'"), say::sync()].concat(), 2, None),
        (say::again("s", &[]), 1, None),
        ([say::bind("", "", &[]), say::execute("", 0), say::sync()].concat(), 1, Some("42501")),
        (say::query("BEGIN"), 1, None),
        (say::query("SELECT 1"), 1, None),
        ([say::parse("", "SELECT 2 /*tenant='beta'*/"), say::sync()].concat(), 1, Some("25001")),
        (say::query("ROLLBACK"), 1, None),
    ] {
        assert_eq!(code(&mut raw, messages, answers).await.as_deref(), expected);
    }
}

/// Whatever its length, up to 1 MiB; of what is longer its beginning counts.
#[tokio::test]
async fn long_texts_say_whose_they_are() {
    let (stage, patient) = (Stage::set("").await, TENANTS.replace("300ms", "5s"));
    let text = format!(
        "{}may_set_tenant = true\n",
        stage.config(&of_user(&stage.user, &format!("{patient}[pool]\nsize = 1\n"))).await
    );
    let proxy = Proxy::start(&text).await;
    let url = format!("postgres://{}@127.0.0.1:{}/{}", stage.user, proxy.port, stage.database.name);
    let (client, other) = (connect(&url).await, connect(&url).await);
    let seen = async |sql: &str| Some(value(&client, sql).await).filter(|seen| seen != "NULL").unwrap_or_default();
    client
        .batch_execute("CREATE TABLE t (who text DEFAULT current_setting('app.tenant', true), x text)")
        .await
        .unwrap();
    for length in [10, 30_000, 900_000] {
        let padding = "x".repeat(length);
        let (insert, acme) = (format!("INSERT INTO t (x) VALUES ('{padding}')"), "/*tenant='acme'*/");
        let local = "SET LOCAL pgweir.tenant = 'acme'";
        for sql in [
            format!("{insert} {acme}"),
            format!("{acme} {insert}"),
            format!("/* {padding} */ {acme} INSERT INTO t DEFAULT VALUES"),
            format!("BEGIN; {local}; {insert}; COMMIT"),
            format!("BEGIN /* {padding} */; {local}; INSERT INTO t DEFAULT VALUES; COMMIT"),
            format!("{local}; {insert}"),
            format!("SET pgweir.tenant = 'acme'; {insert}; RESET pgweir.tenant"),
        ] {
            let what = format!("{length}: {}", &sql[..sql.len().min(60)]);
            let refused = sql.contains("RESET").then_some("25001");
            let done = client.batch_execute(&sql).await;
            assert_eq!(done.as_ref().err().map(sqlstate), refused, "{what}: {done:?}");
            let rows =
                "WITH gone AS (DELETE FROM t RETURNING coalesce(who, '')) SELECT string_agg(coalesce, ',') FROM gone";
            assert_eq!(seen(rows).await, if refused.is_some() { "" } else { "acme" }, "{what}");
            assert_eq!(seen(SEEN).await, "", "{what}");
            assert_eq!(value(&other, &format!("{SEEN} /*tenant='beta'*/")).await, "beta", "{what}");
        }
        for (sql, code) in [
            (format!("{acme} {insert} /*tenant='beta'*/"), "25001"),
            (format!("{insert} /*tenant='nobody'*/"), "22023"),
            (format!("{insert}; SET pgweir.tenant = 'acme'"), "25001"),
            (format!("{insert}; SET app.tenant = 'x' {acme}"), "42501"),
        ] {
            assert_eq!(sqlstate(&client.batch_execute(&sql).await.unwrap_err()), code, "{length}");
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute("SELECT 1").await.unwrap();
            let late = if code == "22023" { code } else { "25001" };
            assert_eq!(sqlstate(&client.batch_execute(&sql).await.unwrap_err()), late, "{length}, in a transaction");
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute(&format!("{insert} {acme}")).await.unwrap();
        assert_eq!(seen(SEEN).await, "acme", "{length}");
        client.batch_execute("ROLLBACK").await.unwrap();
        client.batch_execute(&format!("SET pgweir.tenant = 'acme' /* {padding} */")).await.unwrap();
        assert_eq!(seen(SEEN).await, "acme", "{length}");
        client.batch_execute(&format!("RESET pgweir.tenant /* {padding} */")).await.unwrap();
        assert_eq!(seen(SEEN).await, "", "{length}");
    }
    let slow = format!("SELECT pg_sleep(60), '{}' /*tenant='acme'*/", "x".repeat(900_000));
    assert_eq!(sqlstate(&client.batch_execute(&slow).await.unwrap_err()), "57014");
    let longer = format!("SELECT current_setting('app.tenant', true) AS x{}", " ".repeat(3_000_000));
    assert_eq!(seen(&format!("/*tenant='acme'*/ {longer}")).await, "acme");
    assert_eq!(seen(&format!("{longer} /*tenant='acme'*/")).await, "");
}

/// Sent at once, and by pieces: a server connection waits for none of them.
#[tokio::test]
async fn long_texts_are_whole_before_they_are_anybodys() {
    let (stage, patient) = (Stage::set("").await, TENANTS.replace("300ms", "60s"));
    let text = format!(
        "{}may_set_tenant = true\n",
        stage.config(&of_user(&stage.user, &format!("{patient}[pool]\nsize = 1\nqueue_timeout = \"60s\"\n"))).await
    );
    let proxy = Proxy::start(&text).await;
    let endpoint = stage.endpoint(proxy.port);
    let (mut one, mut other) = (RawClient::welcome(&endpoint).await, RawClient::welcome(&endpoint).await);
    let long = |length: usize, tenant: &str| format!("{SEEN} /* {} */ /*tenant='{tenant}'*/", "x".repeat(length));
    let texts = [
        (long(900_000, "acme"), "acme"),
        (SEEN.to_owned(), ""),
        (long(30_000, "beta"), "beta"),
        (format!("{SEEN} /*tenant='acme'*/"), "acme"),
        ("BEGIN".to_owned(), ""),
        (long(500_000, "acme"), "acme"),
        (SEEN.to_owned(), "acme"),
        (long(1 << 20, "acme"), "acme"),
        (SEEN.to_owned(), "acme"),
        ("COMMIT".to_owned(), ""),
        (SEEN.to_owned(), ""),
    ];
    let messages: Vec<u8> = texts.iter().flat_map(|(sql, _)| say::query(sql)).collect();
    let expected: Vec<_> = texts.iter().filter(|(sql, _)| sql.contains("SELECT")).map(|(_, seen)| *seen).collect();
    for pieces in [1, 7] {
        for piece in messages.chunks(messages.len().div_ceil(pieces)) {
            one.send(piece).await.unwrap();
            if pieces > 1 {
                // Unless a transaction is open this has a server connection at once.
                other.send(&say::query("SELECT 1 /*tenant='beta'*/")).await.unwrap();
            }
        }
        let (frames, end) = one.until_ready(texts.len()).await;
        assert!(end.is_none());
        let rows = frames.iter().filter(|frame| frame.tag == b'D');
        let seen: Vec<_> = rows.map(|frame| frame.values()[0].clone().unwrap_or_default()).collect();
        let errors: Vec<_> = frames.iter().filter_map(|frame| frame.sqlstate()).collect();
        assert_eq!((seen, errors), (expected.iter().map(ToString::to_string).collect(), Vec::<String>::new()));
    }
    assert!(other.until_ready(7).await.1.is_none());
    let half = say::query(&long(900_000, "acme"));
    one.send(&half[..half.len() / 2]).await.unwrap();
    assert_eq!(other.rows(&long(30_000, "beta")).await, ["beta"]);
    one.send(&half[half.len() / 2..]).await.unwrap();
    let (frames, end) = one.until_ready(1).await;
    assert!(end.is_none());
    assert!(frames.iter().any(|frame| frame.tag == b'D' && frame.values()[0].as_deref() == Some("acme")));
    assert_eq!(one.rows(SEEN).await, [""]);
}

/// A session's own settings are its own again behind another tenant's transaction, and what it makes in that stays.
#[tokio::test]
async fn what_a_session_has_made_it_has_for_each_tenant() {
    let cluster = shared_cluster().await;
    let tenants = "[tiers.standard]\nstatement_timeout = \"20s\"\n\
        [[tenants]]\nname = \"acme\"\nstatement_timeout = \"3s\"\nlock_timeout = \"2s\"\nconsistency = \"eventual\"\nmatch = { option = \"acme\" }\nsettings = { work_mem = \"5MB\", \"app.tenant\" = \"acme\" }\n";
    for mode in ["transaction", "session"] {
        let database = fresh_database("").await;
        let text = trusted(&config(cluster, &format!("{tenants}[pool]\nmode = \"{mode}\"\n"), &["postgres"]));
        let proxy = Proxy::start(&text).await;
        let client = connect(&proxy.url(cluster, "postgres", &database.name)).await;
        let settings = "SELECT concat_ws(' ', current_setting('work_mem'), current_setting('statement_timeout'), \
            current_setting('lock_timeout'), current_setting('app.other', true), current_setting('app.tenant', true))";
        let acme = format!("{settings} /*tenant='acme'*/");
        client.batch_execute("SET work_mem = '7MB'; SET statement_timeout = '10s'; SET app.other = 'x'").await.unwrap();
        for _ in 0..2 {
            assert_eq!(value(&client, settings).await.trim_end(), "7MB 10s 0 x", "{mode}");
            assert_eq!(value(&client, &acme).await, "5MB 3s 2s x acme", "{mode}");
        }
        client.batch_execute("SET app.other = 'y' /*tenant='acme'*/").await.unwrap();
        client.batch_execute("SET lock_timeout = '1s' /*tenant='acme'*/").await.unwrap();
        assert_eq!(value(&client, settings).await.trim_end(), "7MB 10s 1s y", "{mode}");
        assert_eq!(value(&client, &acme).await, "5MB 3s 1s y acme", "{mode}");
        client.batch_execute("SET pgweir.tenant = 'acme'; SET statement_timeout = '2s'").await.unwrap();
        assert_eq!(value(&client, settings).await, "5MB 2s 1s y acme", "{mode}");
        client.batch_execute("RESET pgweir.tenant").await.unwrap();
        assert_eq!(value(&client, settings).await.trim_end(), "7MB 2s 1s y", "{mode}");
        // A server connection that is kept is made up to date.
        client.batch_execute("CREATE TEMP TABLE t AS SELECT 1 /*tenant='acme'*/").await.unwrap();
        for _ in 0..2 {
            assert_eq!(value(&client, settings).await.trim_end(), "7MB 2s 1s y", "{mode}");
            assert_eq!(value(&client, &acme).await, "5MB 2s 1s y acme", "{mode}");
            assert_eq!(value(&client, "SELECT count(*) FROM t").await, "1");
            client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await.unwrap();
            client.batch_execute("SET LOCAL pgweir.tenant = 'acme'").await.unwrap();
            assert_eq!(value(&client, settings).await, "5MB 2s 1s y acme", "{mode}");
            assert_eq!(value(&client, "SHOW transaction_isolation").await, "serializable");
            client.batch_execute("COMMIT").await.unwrap();
        }
        let consistency = async || {
            let rows = client.query("EXPLAIN ROUTE SELECT 1", &[]).await.unwrap();
            rows.iter().find(|row| row.get::<_, &str>(0) == "consistency").unwrap().get::<_, String>(1)
        };
        assert_eq!(consistency().await, "session");
        client.batch_execute("SET pgweir.tenant = 'acme'").await.unwrap();
        assert_eq!(consistency().await, "eventual");
        client.batch_execute("RESET pgweir.tenant").await.unwrap();
        assert_eq!(consistency().await, "session");
    }
}

/// With replicas, and tenants that hold nothing or little.
#[tokio::test]
async fn whose_a_transaction_is_stays_true_whatever_goes_wrong() {
    let stage = Stage::set("").await;
    let more = "[[tenants]]\nname = \"free\"\nmatch = { option = \"free\" }\n\
        [[tenants]]\nname = \"rare\"\nrate_limits = [{ rate = \"2/h\", counts = \"transactions\" }]\nmatch = { option = \"rare\" }\n";
    let text =
        format!("{}may_set_tenant = true\n", stage.config(&of_user(&stage.user, &format!("{more}{TENANTS}"))).await);
    let proxy = Proxy::start(&text).await;
    let endpoint = stage.endpoint(proxy.port);
    let lock = "SELECT pg_advisory_xact_lock(1), current_setting('app.tenant', true)";
    let mut client = RawClient::welcome(&endpoint).await;
    for (messages, answers, expected, status, shown) in [
        // What takes it to the primary does not take it to another tenant.
        (say::query("BEGIN READ ONLY /*tenant='acme'*/"), 1, None, b'T', ""),
        (say::query(lock), 1, None, b'T', "acme"),
        (say::query("ROLLBACK /*tenant='acme'*/"), 1, None, b'I', ""),
        // What is refused fails the transaction, wherever it belongs.
        (say::query("BEGIN READ ONLY"), 1, None, b'T', ""),
        (say::query(&format!("{lock} /*tenant='nobody'*/")), 1, Some("22023"), b'E', ""),
        (say::query("ROLLBACK"), 1, None, b'I', ""),
        (say::query("BEGIN /*tenant='beta'*/"), 1, None, b'T', ""),
        (say::query("SELECT 1 /*tenant='nobody'*/"), 1, Some("22023"), b'E', ""),
        (say::query("ROLLBACK; SET work_mem = '8MB'"), 1, None, b'I', ""),
        (say::query(SEEN), 1, None, b'I', ""),
        (say::query("BEGIN /*tenant='beta'*/"), 1, None, b'T', ""),
        (say::query("SELECT 1 /*tenant='acme'*/; SELECT 2"), 1, None, b'T', "2"),
        (say::query("SELECT 1/0"), 1, Some("22012"), b'E', ""),
        // Whatever the comment says.
        (say::query("ROLLBACK /*tenant='acme'*/"), 1, None, b'I', ""),
        (say::query("BEGIN"), 1, None, b'T', ""),
        (
            [say::parse("", "SELECT nope /*tenant='acme'*/"), say::describe_statement(""), say::sync()].concat(),
            1,
            Some("42703"),
            b'E',
            "",
        ),
        (say::query("ROLLBACK"), 1, None, b'I', ""),
        (say::query("BEGIN"), 1, None, b'T', ""),
        (
            [say::parse("", "SELECT nope /*tenant='acme'*/"), say::describe_statement(""), say::flush(), say::sync()]
                .concat(),
            1,
            Some("42703"),
            b'E',
            "",
        ),
        (say::query("ROLLBACK"), 1, None, b'I', ""),
        (say::query("SET PgWeir.Tenant = ACME"), 1, None, b'I', ""),
        (say::query(SEEN), 1, None, b'I', "acme"),
        (say::query("SET pgweir.tenant = 'free'"), 1, None, b'I', ""),
        (say::query("SELECT 1; RESET ALL"), 1, None, b'I', "1"),
        (say::query("SHOW pgweir.tenant"), 1, None, b'I', ""),
        // Each transaction counts for whom it is.
        (say::query("BEGIN"), 1, None, b'T', ""),
        (say::query("SET LOCAL pgweir.tenant = 'rare'"), 1, None, b'T', ""),
        (say::query("COMMIT"), 1, None, b'I', ""),
        (say::query("SELECT 1 /*tenant='rare'*/"), 1, None, b'I', "1"),
        (say::query("BEGIN"), 1, None, b'T', ""),
        (say::query("SET LOCAL pgweir.tenant = 'rare'"), 1, Some("53400"), b'E', ""),
        (say::query("ROLLBACK"), 1, None, b'I', ""),
        // Sent at once.
        (say::query("BEGIN READ ONLY"), 1, None, b'T', ""),
        (
            ["SELECT 1", "SELECT * FROM nope", "COMMIT", "SELECT 2"].map(say::query).concat(),
            4,
            Some("42P01"),
            b'I',
            "2",
        ),
    ] {
        let what = String::from_utf8_lossy(&messages).into_owned();
        client.send(&messages).await.unwrap();
        let (frames, end) = client.until_ready(answers).await;
        assert!(end.is_none(), "{what}: {frames:?}");
        assert_eq!(frames.iter().find_map(|frame| frame.sqlstate()).as_deref(), expected, "{what}");
        assert_eq!(frames.last().unwrap().status(), Some(status), "{what}");
        let rows = frames.iter().filter(|frame| frame.tag == b'D');
        let last = rows.last().and_then(|row| row.values().last().cloned().flatten()).unwrap_or_default();
        assert_eq!(last, shown, "{what}: {frames:?}");
    }
    // What a session makes as one tenant's does not lift what is held for another.
    let url = format!("postgres://{}@127.0.0.1:{}/{}", stage.user, proxy.port, stage.database.name);
    let beta = connect(&format!("{url}?options=-c%20pgweir.tenant%3Dbeta")).await;
    beta.batch_execute("SET app.tenant = 'x' /*tenant='free'*/").await.unwrap();
    assert_eq!(value(&beta, SEEN).await, "beta");
}

/// A client that takes its leave has left, whatever it keeps.
#[tokio::test]
async fn a_goodbye_is_heard() {
    let stage = Stage::set("").await;
    let rated = "[tiers.standard]\nrate_limits = [\"1000/s\"]\n";
    for (more, may, before) in [
        ("", "may_set_tenant = true", "BEGIN"),
        ("", "may_set_tenant = true", "BEGIN READ ONLY"),
        ("", "", "BEGIN READ ONLY"),
        ("", "may_set_tenant = true", "CREATE TEMP TABLE t (x int)"),
        (rated, "", "CREATE TEMP TABLE t (x int)"),
        ("[pool]\nmode = \"session\"\n", "may_set_tenant = true", "SELECT 1"),
        (&format!("{rated}[pool]\nmode = \"session\"\n"), "", "SELECT 1"),
    ] {
        let proxy = Proxy::start(&format!("{}{may}\n", stage.config(more).await)).await;
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        client.query(before).await;
        client.send(&say::terminate()).await.unwrap();
        let (frames, end) = client.until_ready(1).await;
        assert!(frames.is_empty() && end.is_some(), "{more} {may} {before}: {frames:?}");
    }
}

#[tokio::test]
async fn a_reset_that_is_rolled_back_leaves_nothing_to_the_next_client() {
    let stage = Stage::set("").await;
    let proxy = Proxy::start(&stage.config("[pool]\nsize = 1\n").await).await;
    let endpoint = stage.endpoint(proxy.port);
    let (mut one, mut two) = (RawClient::welcome(&endpoint).await, RawClient::welcome(&endpoint).await);
    for sql in ["SET app.who = 'u7'", "BEGIN; RESET ALL", "ROLLBACK"] {
        let frames = one.query(sql).await;
        assert!(frames.iter().all(|frame| frame.sqlstate().is_none()), "{frames:?}");
    }
    // A write, so that it runs where the other has been.
    let user = "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1; SELECT current_setting('app.who', true)";
    assert_ne!(two.rows(user).await.last().map(String::as_str), Some("u7"));
    assert_eq!(one.rows(user).await.last().map(String::as_str), Some("u7"));
}

async fn code(client: &mut RawClient, messages: Vec<u8>, answers: usize) -> Option<String> {
    client.send(&messages).await.unwrap();
    let (frames, end) = client.until_ready(answers).await;
    assert!(end.is_none(), "{frames:?}");
    frames.iter().find_map(|frame| frame.sqlstate())
}
