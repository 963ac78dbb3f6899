//! Real clients at our door: tokio-postgres and PostgreSQL's own psql.

use pgweir::auth::Verifier;
use pgweir::client::Accepted;
use pgweir::config::{Secret, UserAuth};

use crate::certificates::Certificates;
use crate::door::{Door, Plan};
use crate::postgres::psql;

/// One password, known in several ways.
fn users() -> Plan {
    let secret = |text: &str| Secret::new(text);
    Plan::users(&[
        ("plain", UserAuth::Password(secret("right"))),
        ("verifier", UserAuth::Scram(secret(&stored("right")))),
        ("md5", UserAuth::Md5(secret("right"))),
        ("trusted", UserAuth::Trust),
    ])
}

/// A verifier in PostgreSQL's stored form.
fn stored(password: &str) -> String {
    use base64::Engine;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let verifier = Verifier::derive(password, b"0123456789abcdef", 4096);
    format!(
        "SCRAM-SHA-256$4096:{}${}:{}",
        encode(&verifier.salt),
        encode(&verifier.stored_key),
        encode(&verifier.server_key)
    )
}

async fn tokio_postgres(door: &Door, user: &str, password: &str) -> Result<(), String> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(door.address.port()).user(user).password(password).dbname("app");
    let connected = config.connect(tokio_postgres::NoTls).await;
    connected.map(drop).map_err(|error| error.as_db_error().map(|error| error.to_string()).unwrap_or(error.to_string()))
}

#[tokio::test]
async fn tokio_postgres_logs_in_by_every_method() {
    let mut door = Door::open(users()).await;
    for user in ["plain", "verifier", "md5", "trusted"] {
        assert_eq!(tokio_postgres(&door, user, "right").await, Ok(()), "{user}");
        let Ok(Accepted::Client(client)) = door.outcome().await else { panic!("{user}") };
        assert_eq!(client.user.name, user);
        assert_eq!(client.scram_keys.is_some(), user == "verifier");
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_one_answer() {
    let door = Door::open(users()).await;
    for user in ["plain", "verifier", "md5", "nobody", "somebody", "anybody"] {
        let error = tokio_postgres(&door, user, "wrong").await.unwrap_err();
        assert_eq!(error, format!("FATAL: password authentication failed for user \"{user}\""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_logs_in_with_and_without_tls() {
    let certificates = Certificates::for_clients(&["certified", "other"]);
    let mut plan = users().with_tls(&certificates, false);
    plan.users.push(("certified", UserAuth::Certificate));
    let door = Door::open(plan).await;
    let root = certificates.path("ca.crt").display().to_string();
    let identity = |name: &str| {
        let path = |kind: &str| certificates.path(&format!("{name}.{kind}")).display().to_string();
        format!("sslcert={} sslkey={}", path("crt"), path("key"))
    };
    let bound = "sslmode=require channel_binding=require".to_owned();
    for (user, options, password, complaint) in [
        ("plain", "sslmode=disable".to_owned(), "right", None),
        ("plain", "sslmode=disable".to_owned(), "wrong", Some("password authentication failed")),
        ("plain", bound.clone(), "right", None),
        ("plain", bound.clone(), "wrong", Some("password authentication failed")),
        ("verifier", bound.clone(), "right", None),
        ("nobody", bound.clone(), "right", Some("authentication")),
        ("plain", "sslmode=require channel_binding=disable".to_owned(), "right", None),
        ("plain", format!("sslmode=verify-full sslrootcert={root}"), "right", None),
        ("md5", "sslmode=require".to_owned(), "right", None),
        ("md5", "sslmode=disable".to_owned(), "wrong", Some("password authentication failed")),
        ("certified", format!("sslmode=require {}", identity("certified")), "", None),
        ("certified", format!("sslmode=require {}", identity("other")), "", Some("certificate authentication failed")),
        ("certified", "sslmode=require".to_owned(), "", Some("requires a valid client certificate")),
    ] {
        let conninfo = format!("host=localhost port={} dbname=app user={user} {options}", door.address.port());
        let result = psql(&conninfo, password).await;
        match complaint {
            None => assert_eq!(result, Ok("in\n".to_owned()), "{conninfo}"),
            Some(text) => assert!(result.as_ref().is_err_and(|error| error.contains(text)), "{conninfo}: {result:?}"),
        }
    }
}
