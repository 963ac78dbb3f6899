//! Our logins to a real PostgreSQL, and to servers that misbehave.

use std::time::Duration;

use bytes::BytesMut;
use pgweir::auth::ScramKeys;
use pgweir::client::Accepted;
use pgweir::config::{HostAddress, HostConfig, Secret, ServerTls, SslMode, UserAuth};
use pgweir::server::{ConnectError, Connected, Login, QueryError, cancel, connect, simple_query};
use pgweir::wire::author;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::door::{Door, Plan};
use crate::postgres::Postgres;

const LONG: Duration = Duration::from_secs(60);

fn as_user(user: &str, password: Option<&str>) -> Login {
    Login {
        user: user.to_owned(),
        database: "postgres".to_owned(),
        password: password.map(Secret::new),
        scram_keys: None,
        parameters: vec![("application_name".to_owned(), "front test".to_owned())],
    }
}

async fn ask(connected: &mut Connected, sql: &str) -> Vec<Vec<Option<String>>> {
    simple_query(&mut connected.stream, sql, 1 << 20).await.unwrap().sets.remove(0)
}

async fn asked(connected: &mut Connected, sql: &str) -> String {
    ask(connected, sql).await.remove(0).remove(0).unwrap()
}

const WHO: &str = "SELECT concat_ws(' ', current_user, ssl, current_setting('application_name')) \
                   FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[tokio::test]
async fn every_method_takes_the_right_password_only() {
    let server = Postgres::shared();
    for mode in [SslMode::Disable, SslMode::Require] {
        let tls = if mode == SslMode::Disable { "f" } else { "t" };
        let host = server.tcp(mode);
        for user in ["scram", "md5", "cleartext", "trusted"] {
            let mut connected = connect(&host, &as_user(user, Some("right")), LONG).await.unwrap();
            assert_eq!(asked(&mut connected, WHO).await, format!("{user} {tls} front test"));
            if user == "trusted" {
                continue;
            }
            let wrong = connect(&host, &as_user(user, Some("wrong")), LONG).await.unwrap_err();
            assert!(matches!(&wrong, ConnectError::Refused { code, .. } if code == "28P01"), "{user}: {wrong:?}");
            assert_eq!(wrong.to_client().code, "28P01");
            let none = connect(&host, &as_user(user, None), LONG).await.unwrap_err();
            assert!(matches!(none, ConnectError::Auth { .. }), "{user}: {none:?}");
        }
    }
}

#[tokio::test]
async fn a_unix_socket_works_and_has_no_tls() {
    let server = Postgres::shared();
    let mut connected = connect(&server.unix(), &as_user("scram", None), LONG).await.unwrap();
    assert!(connected.stream.is_unix());
    assert_eq!(asked(&mut connected, "SELECT pg_backend_pid()").await, connected.pid.to_string());
    assert_eq!(connected.key.len(), 4);
    let parameter = |name: &str| connected.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    assert_eq!(parameter("application_name"), Some("front test"));
    assert_eq!(parameter("server_encoding"), Some("UTF8"));
}

#[tokio::test]
async fn modes_come_back_the_other_way_as_libpq_does() {
    let server = Postgres::shared();
    for (mode, user, tls) in [
        (SslMode::Disable, "only_plain", Some(false)),
        (SslMode::Disable, "only_tls", None),
        (SslMode::Allow, "only_plain", Some(false)),
        (SslMode::Allow, "only_tls", Some(true)),
        (SslMode::Allow, "trusted", Some(false)),
        (SslMode::Prefer, "only_plain", Some(false)),
        (SslMode::Prefer, "only_tls", Some(true)),
        (SslMode::Prefer, "trusted", Some(true)),
        (SslMode::Require, "only_plain", None),
        (SslMode::Require, "only_tls", Some(true)),
        (SslMode::VerifyFull, "only_tls", Some(true)),
    ] {
        match (connect(&server.tcp(mode), &as_user(user, None), LONG).await, tls) {
            (Ok(connected), Some(tls)) => assert_eq!(connected.stream.is_tls(), tls, "{mode:?} {user}"),
            (Err(ConnectError::Refused { code, .. }), None) => assert_eq!(code, "28000", "{mode:?} {user}"),
            (other, _) => panic!("{mode:?} {user}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn verify_full_checks_the_name_and_verify_ca_does_not() {
    let server = Postgres::shared();
    // The certificate names localhost only.
    let by_address = |mode| {
        let address = HostAddress::Tcp { host: "127.0.0.1".to_owned(), port: server.port };
        HostConfig { address, ..server.tcp(mode) }
    };
    let login = as_user("trusted", None);
    assert!(connect(&by_address(SslMode::VerifyCa), &login, LONG).await.is_ok());
    let error = connect(&by_address(SslMode::VerifyFull), &login, LONG).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");

    let mut distrusting = server.tcp(SslMode::VerifyCa);
    distrusting.tls.root_cert = Some(server.certificates.path("other.crt"));
    let error = connect(&distrusting, &login, LONG).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_certificate_logs_in() {
    let server = Postgres::shared();
    let with = |name: &str| {
        let mut host = server.tcp(SslMode::VerifyFull);
        host.tls.cert = Some(server.certificates.path(&format!("{name}.crt")));
        host.tls.key = Some(server.certificates.path(&format!("{name}.key")));
        host
    };
    assert!(connect(&with("certified"), &as_user("certified", None), LONG).await.is_ok());
    let wrong = connect(&with("other"), &as_user("certified", None), LONG).await.unwrap_err();
    assert!(matches!(&wrong, ConnectError::Refused { code, .. } if code == "28000"), "{wrong:?}");
}

/// The keys that our door learns from a client that logs in against the server's own verifier.
async fn keys_of_a_client(server: &Postgres, password: &str) -> Option<ScramKeys> {
    let mut admin = connect(&server.unix(), &as_user("postgres", None), LONG).await.unwrap();
    let verifier = asked(&mut admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'scram'").await;
    let mut door = Door::open(Plan::users(&[("scram", UserAuth::Scram(Secret::new(verifier)))])).await;
    let conninfo = format!("host=127.0.0.1 port={} user=scram password={password} dbname=app", door.address.port());
    let _ = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await;
    match door.outcome().await {
        Ok(Accepted::Client(client)) => client.scram_keys,
        _ => None,
    }
}

#[tokio::test]
async fn a_clients_keys_log_in_to_the_server_with_the_same_verifier() {
    let server = Postgres::shared();
    assert_eq!(keys_of_a_client(&server, "wrong").await, None);
    let keys = keys_of_a_client(&server, "right").await;
    assert!(keys.is_some());
    let login = Login { scram_keys: keys, ..as_user("scram", None) };
    for mode in [SslMode::Disable, SslMode::Require] {
        assert!(connect(&server.tcp(mode), &login, LONG).await.is_ok(), "{mode:?}");
    }
}

#[tokio::test]
async fn a_servers_refusal_keeps_its_code() {
    let server = Postgres::shared();
    let nowhere = Login { database: "nowhere".to_owned(), ..as_user("trusted", None) };
    let error = connect(&server.tcp(SslMode::Disable), &nowhere, LONG).await.unwrap_err();
    assert_eq!(
        (&*error.to_client().code, &*error.to_client().message),
        ("3D000", "database \"nowhere\" does not exist")
    );
    let setting = Login { parameters: vec![("TimeZone".into(), "Mars".into())], ..as_user("trusted", None) };
    assert_eq!(connect(&server.tcp(SslMode::Disable), &setting, LONG).await.unwrap_err().to_client().code, "22023");
}

#[tokio::test]
async fn a_running_statement_is_cancelled() {
    let server = Postgres::shared();
    for mode in [SslMode::Disable, SslMode::Require] {
        let host = server.tcp(mode);
        let mut connected = connect(&host, &as_user("trusted", None), LONG).await.unwrap();
        let (pid, key) = (connected.pid, connected.key.clone());
        let mut watcher = connect(&host, &as_user("trusted", None), LONG).await.unwrap();
        let sleep = simple_query(&mut connected.stream, "SELECT pg_sleep(600)", 1000);
        let stop = async {
            let active = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'");
            while asked(&mut watcher, &active).await != "1" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            cancel(&host, pid, &key, LONG).await
        };
        let (slept, cancelled) = tokio::join!(sleep, stop);
        cancelled.unwrap();
        assert!(matches!(&slept, Err(QueryError::Server { code, .. }) if code == "57014"), "{slept:?}");
        assert_eq!(asked(&mut connected, "SELECT 1").await, "1");
    }
}

#[tokio::test]
async fn questions_are_answered_set_by_set() {
    let server = Postgres::shared();
    let mut connected = connect(&server.unix(), &as_user("trusted", None), LONG).await.unwrap();
    let value = |text: &str| Some(text.to_owned());
    let sets =
        simple_query(&mut connected.stream, "VALUES (1, NULL), (2, 'ä'); SET work_mem = '1MB'; SELECT 3", 1000).await;
    let first = vec![vec![value("1"), None], vec![value("2"), value("ä")]];
    assert_eq!(sets.map(|answer| answer.sets), Ok(vec![first, vec![], vec![vec![value("3")]]]));

    let error = simple_query(&mut connected.stream, "SELECT 1; SELECT 1/0; SELECT 2", 1000).await;
    assert!(matches!(&error, Err(QueryError::Server { code, .. }) if code == "22012"), "{error:?}");
    assert_eq!(asked(&mut connected, "SELECT repeat('x', 100000)").await.len(), 100_000);

    let too_large = simple_query(&mut connected.stream, "SELECT repeat('x', 100000)", 1000).await;
    assert!(too_large.is_err_and(|error| error.is_broken()));
    let mut other = connect(&server.unix(), &as_user("trusted", None), LONG).await.unwrap();
    assert!(simple_query(&mut other.stream, "BEGIN", 1000).await.is_err_and(|error| error.is_broken()));
}

/// A server that takes a startup packet, sends the messages given, and then keeps silent until we
/// leave.
async fn fake(messages: &[Vec<u8>]) -> HostConfig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = messages.concat();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(answer_with(tcp, answer.clone()));
        }
    });
    let tls = ServerTls { mode: SslMode::Disable, root_cert: None, cert: None, key: None };
    HostConfig {
        name: "fake".into(),
        address: HostAddress::Tcp { host: "127.0.0.1".into(), port },
        tls,
        max_server_connections: None,
    }
}

async fn answer_with(mut tcp: TcpStream, answer: Vec<u8>) {
    let mut read = [0; 1024];
    let _ = tcp.read(&mut read).await;
    let _ = tcp.write_all(&answer).await;
    while matches!(tcp.read(&mut read).await, Ok(1..)) {}
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    author::message(&mut out, tag, |out| out.extend_from_slice(body));
    out.to_vec()
}

/// An Authentication message.
fn asks(code: u8, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&[0, 0, 0, code], data].concat())
}

fn done() -> [Vec<u8>; 2] {
    [asks(0, b""), message(b'Z', b"I")]
}

#[tokio::test]
async fn a_server_that_misbehaves_is_found_out() {
    let login = as_user("alice", Some("right"));
    assert!(connect(&fake(&done()).await, &login, LONG).await.is_ok());
    let scram = || asks(10, b"SCRAM-SHA-256\0\0");
    let [ok, ready] = done();
    for (messages, expected) in [
        // AuthenticationOk in the place of the server's own proof.
        (vec![scram(), ok.clone(), ready], "Auth"),
        (vec![asks(10, b"SCRAM-SHA-1\0\0")], "Auth"),
        (vec![scram(), asks(11, b"r=guess,s=c2FsdA==,i=1")], "Auth"),
        (vec![asks(7, b"")], "Auth"),
        (vec![asks(5, b"\x01\x02\x03")], "Auth"),
        (vec![message(b'R', b"\0")], "Protocol"),
        (vec![asks(11, b"")], "Protocol"),
        (vec![message(b'v', b"\0\x02\0\0\0\0\0\0")], "Protocol"),
        (vec![message(b'D', b"\0\0"), ok.clone()], "Protocol"),
        (vec![b"E\x7f\xff\xff\xff".to_vec()], "Protocol"),
        (vec![message(b'E', b"C\0")], "Protocol"),
        (vec![message(b'E', b"CX\0M\0\0")], "Refused"),
        (vec![ok.clone(), message(b'S', b"name\0"), ok.clone()], "Protocol"),
        (vec![ok.clone(), message(b'K', b"\0\0\0\x01"), ok.clone()], "Protocol"),
        (vec![ok.clone(), message(b'Z', b"X")], "Protocol"),
    ] {
        let error = connect(&fake(&messages).await, &login, LONG).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{messages:?}: {error:?}");
    }
}

#[tokio::test]
async fn waiting_has_an_end() {
    let silent = fake(&[]).await;
    let error = connect(&silent, &as_user("alice", None), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error:?}");
    let error = cancel(&silent, 1, &[0; 4], Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);

    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let closed = HostConfig { address: HostAddress::Tcp { host: "127.0.0.1".into(), port }, ..silent };
    let error = connect(&closed, &as_user("alice", None), LONG).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert_eq!(error.to_client().code, "08006");
}

#[tokio::test]
async fn nothing_that_would_change_the_startup_packet_is_sent() {
    let server = fake(&done()).await;
    for login in [
        as_user("alice\0database\0other", None),
        Login { database: "a\0b".to_owned(), ..as_user("alice", None) },
        Login { parameters: vec![("a".into(), "b\0c".into())], ..as_user("alice", None) },
        as_user("alice", Some("a\0b")),
    ] {
        assert!(matches!(connect(&server, &login, LONG).await, Err(ConnectError::Auth { .. })), "{login:?}");
    }
}
