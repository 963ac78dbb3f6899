//! Proving who one is, twice: the client to the proxy, and the proxy to the server in the client's name.

use pgweir::sandbox::{Login, User};

use crate::support::primary_only::{config, value};
use crate::support::proxy::Proxy;
use crate::support::tls::{Tls, listen_tls};
use crate::support::{chain, connect, shared_cluster, unique};

const WHO: &str = "SELECT current_user || ' ' || session_user";

/// A user of the shared cluster.
async fn user(login: Login) -> String {
    let name = format!("login_{}", unique());
    let user = User::new(&name, "säcret 'quoted'").login(login);
    shared_cluster().await.create_users(&[user]).await.unwrap();
    name
}

/// What the server stores of a user's password.
async fn stored(name: &str) -> String {
    let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'");
    shared_cluster().await.primary().psql(&sql).await.unwrap()
}

/// A proxy for one user who is described by hand.
async fn proxy_for(name: &str, how: &str) -> Proxy {
    let cluster = shared_cluster().await;
    Proxy::start(&(config(cluster, "", &[]) + &format!("[[users]]\nname = \"{name}\"\n{how}\n"))).await
}

#[tokio::test]
async fn a_plain_password_serves_every_method_of_the_server() {
    let cluster = shared_cluster().await;
    for login in [Login::ScramSha256, Login::Md5, Login::Password, Login::Trust] {
        let name = user(login).await;
        let proxy = Proxy::start(&config(cluster, "", &[&name])).await;
        let client = connect(&proxy.url(cluster, &name, "postgres")).await;
        assert_eq!(value(&client, WHO).await, format!("{name} {name}"), "{login:?}");
    }
}

#[tokio::test]
async fn a_stored_verifier_is_enough_by_the_clients_own_keys() {
    let cluster = shared_cluster().await;
    let name = user(Login::ScramSha256).await;
    let verifier = stored(&name).await;
    assert!(verifier.starts_with("SCRAM-SHA-256$"));
    let proxy = proxy_for(&name, &format!("password = \"{verifier}\"")).await;
    let url = proxy.url(cluster, &name, "postgres");
    for _ in 0..2 {
        assert_eq!(value(&connect(&url).await, WHO).await, format!("{name} {name}"));
    }
    let wrong = proxy.refusal(&format!("postgres://{name}:wrong@127.0.0.1:{}/postgres", proxy.port)).await;
    assert_eq!(wrong.code().code(), "28P01");
}

#[tokio::test]
async fn md5_and_trust_by_configuration() {
    let cluster = shared_cluster().await;
    let md5 = user(Login::Md5).await;
    let proxy = proxy_for(&md5, &format!("password = \"{}\"", stored(&md5).await)).await;
    let client = connect(&proxy.url(cluster, &md5, "postgres")).await;
    assert_eq!(value(&client, WHO).await, format!("{md5} {md5}"));

    let trusted = user(Login::ScramSha256).await;
    let how = "auth = \"trust\"\nserver_password = \"säcret 'quoted'\"";
    let proxy = proxy_for(&trusted, how).await;
    let client = connect(&format!("postgres://{trusted}@127.0.0.1:{}/postgres", proxy.port)).await;
    assert_eq!(value(&client, WHO).await, format!("{trusted} {trusted}"));
}

#[tokio::test]
async fn a_certificate_proves_its_user_and_nobody_else() {
    let cluster = shared_cluster().await;
    let certificates = cluster.certificates().unwrap();
    let files = tempfile::tempdir().unwrap();
    let name = user(Login::ScramSha256).await;
    let toml = config(cluster, &listen_tls(cluster, files.path()), &[])
        + &format!("[[users]]\nname = \"{name}\"\nauth = \"cert\"\nserver_password = \"säcret 'quoted'\"\n");
    let proxy = Proxy::start(&toml).await;
    let url = format!("postgres://{name}@127.0.0.1:{}/postgres?sslmode=require", proxy.port);
    let own = certificates.client(&name).unwrap();
    let client = Tls::trusting(certificates, Some(&own)).connect(&url).await.unwrap();
    assert_eq!(value(&client, WHO).await, format!("{name} {name}"));
    let others = certificates.client("somebody_else").unwrap();
    for identity in [Some(&others), None] {
        let error = Tls::trusting(certificates, identity).connect(&url).await.err().unwrap();
        assert_eq!(error.code().map(|code| code.code()), Some("28000"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn scram_over_tls_is_bound_to_the_channel() {
    let cluster = shared_cluster().await;
    let files = tempfile::tempdir().unwrap();
    let name = user(Login::ScramSha256).await;
    let proxy = Proxy::start(&config(cluster, &listen_tls(cluster, files.path()), &[&name])).await;
    let url = format!("{}?sslmode=require&channel_binding=require", proxy.url(cluster, &name, "postgres"));
    let client = Tls::trusting(cluster.certificates().unwrap(), None).connect(&url).await.unwrap();
    assert_eq!(value(&client, WHO).await, format!("{name} {name}"));
}

#[tokio::test]
async fn the_servers_certificate_is_checked_as_far_as_asked() {
    let cluster = shared_cluster().await;
    let name = user(Login::ScramSha256).await;
    let port = cluster.primary().port;
    let authority = cluster.authority_file().unwrap();
    let with = |host: &str, options: &str| {
        let from = format!("postgres://127.0.0.1:{port}\"");
        let to = format!("postgres://{host}:{port}?{options}\"");
        let text = config(cluster, "", &[&name]);
        assert!(text.contains(&from));
        text.replace(&from, &to)
    };
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let full = format!("sslmode=verify-full&sslrootcert={}", authority.display());
    for (host, options, wanted) in [
        ("127.0.0.1", &*full, "t"),
        ("localhost", &full, "t"),
        ("127.0.0.1", "sslmode=require", "t"),
        ("127.0.0.1", "sslmode=disable", "f"),
    ] {
        let proxy = Proxy::start(&with(host, options)).await;
        let client = connect(&proxy.url(cluster, &name, "postgres")).await;
        assert_eq!(value(&client, encrypted).await, wanted, "{host} {options}");
    }
    let files = tempfile::tempdir().unwrap();
    let foreign = files.path().join("foreign.crt");
    std::fs::write(&foreign, pgweir::sandbox::Certificates::generate().unwrap().authority).unwrap();
    let proxy =
        Proxy::start(&with("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={}", foreign.display()))).await;
    let refusal = proxy.refusal(&proxy.url(cluster, &name, "postgres")).await;
    assert_eq!((refusal.code().code(), refusal.severity()), ("08006", "FATAL"));
}

#[tokio::test]
async fn an_unknown_user_is_answered_as_a_wrong_password() {
    let cluster = shared_cluster().await;
    let name = user(Login::ScramSha256).await;
    let proxy = Proxy::start(&config(cluster, "", &[&name])).await;
    let answers = [&*name, "nobody_of_this_name"]
        .map(|user| (user, format!("postgres://{user}:wrong@127.0.0.1:{}/postgres", proxy.port)));
    let mut seen = Vec::new();
    for (user, url) in &answers {
        let refusal = proxy.refusal(url).await;
        assert_eq!(refusal.message(), format!("password authentication failed for user \"{user}\""));
        seen.push(format!("{:?} {:?} {:?} {:?}", refusal.severity(), refusal.code(), refusal.detail(), refusal.hint()));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn unknown_databases_and_databases_that_a_user_may_not_use() {
    let cluster = shared_cluster().await;
    let proxy = Proxy::start(&config(cluster, "", &["postgres"])).await;
    let refusal = proxy.refusal(&proxy.url(cluster, "postgres", "no_such_database")).await;
    assert_eq!((refusal.code().code(), refusal.severity()), ("3D000", "FATAL"));
    assert_eq!(refusal.message(), "database \"no_such_database\" does not exist");
    let listed = Proxy::start(&config(cluster, "[databases.app]\nserver_name = \"postgres\"", &["postgres"])).await;
    let client = connect(&listed.url(cluster, "postgres", "app")).await;
    assert_eq!(value(&client, "SELECT current_database()").await, "postgres");
    assert_eq!(listed.refusal(&listed.url(cluster, "postgres", "postgres")).await.code().code(), "3D000");
}

#[tokio::test]
async fn one_client_too_many_is_refused_and_has_a_place_when_another_leaves() {
    let cluster = shared_cluster().await;
    let toml = config(cluster, "[listen]\naddress = \"127.0.0.1:0\"\nmax_clients = 2\n", &["postgres"]);
    let proxy = Proxy::start(&toml).await;
    let url = proxy.url(cluster, "postgres", "postgres");
    let (one, _other) = (connect(&url).await, connect(&url).await);
    let refusal = proxy.refusal(&url).await;
    assert_eq!((refusal.code().code(), refusal.severity()), ("53300", "FATAL"));
    assert!(refusal.hint().is_some_and(|hint| hint.contains("max_clients")), "{refusal:?}");
    drop(one);
    crate::support::eventually("there is room again", async || {
        tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_ok()
    })
    .await;
    for (place, more) in [("user", ""), ("tenant", "default_tier = \"narrow\"\n[tiers.narrow]\nmax_clients = 1\n")] {
        let limit = if place == "user" { "max_clients = 1\n" } else { "" };
        let proxy = Proxy::start(&(config(cluster, more, &["postgres"]) + limit)).await;
        let url = proxy.url(cluster, "postgres", "postgres");
        let _one = connect(&url).await;
        let refusal = proxy.refusal(&url).await;
        assert_eq!((refusal.code().code(), refusal.severity()), ("53300", "FATAL"), "{place}");
        assert!(refusal.hint().is_some(), "{refusal:?}");
    }
}
