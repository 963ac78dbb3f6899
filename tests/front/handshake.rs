//! The traps of a handshake, one by one.

use std::sync::Arc;

use bytes::BytesMut;
use pgweir::client::{Accepted, Authenticated, HandshakeError, accept};
use pgweir::config::{Secret, UserAuth};
use pgweir::net::Stream;
use pgweir::wire::author;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::certificates::Certificates;
use crate::door::{Door, Plan, Raw, gss_request, packet, ssl_request, startup};

const ALICE: &[(&str, &str)] = &[("user", "alice"), ("database", "app")];

fn trusting() -> Plan {
    Plan::users(&[("alice", UserAuth::Trust)])
}

fn with_password() -> Plan {
    Plan::users(&[("alice", UserAuth::Password(Secret::new("right")))])
}

async fn start_tls(
    tcp: Raw<TcpStream>,
    certificates: &Certificates,
    alpn: bool,
) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificates.path("ca.crt")).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    if alpn {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp.0).await.map(Raw)
}

async fn client(door: &mut Door) -> Box<Authenticated> {
    match door.outcome().await {
        Ok(Accepted::Client(client)) => client,
        other => panic!("no client: {other:?}"),
    }
}

#[tokio::test]
async fn encryption_may_be_asked_for_in_either_order() {
    for order in [[ssl_request(), gss_request()], [gss_request(), ssl_request()]] {
        let mut door = Door::open(trusting()).await;
        let mut raw = door.connect().await;
        for request in order {
            raw.send(&request).await;
            assert_eq!(raw.byte().await, b'N');
        }
        raw.send(&startup(0, ALICE)).await;
        assert_eq!(raw.tags_to(b'Z').await, "RSSSKZ");
        assert!(!client(&mut door).await.stream.is_tls());
    }
}

#[tokio::test]
async fn encryption_may_be_asked_for_once() {
    for request in [ssl_request(), gss_request()] {
        let mut door = Door::open(trusting()).await;
        let mut raw = door.connect().await;
        raw.send(&request).await;
        assert_eq!(raw.byte().await, b'N');
        raw.send(&request).await;
        assert_eq!(raw.error().await.0, "08P01");
        assert_eq!(door.refused().await, "08P01");
    }
}

#[tokio::test]
async fn tls_works_and_takes_no_further_request() {
    let certificates = Certificates::for_clients(&[]);
    for request in [ssl_request(), gss_request()] {
        let mut door = Door::open(trusting().with_tls(&certificates, true)).await;
        let mut raw = door.connect().await;
        raw.send(&ssl_request()).await;
        assert_eq!(raw.byte().await, b'S');
        let mut raw = start_tls(raw, &certificates, false).await.unwrap();
        raw.send(&request).await;
        assert_eq!(raw.error().await.0, "08P01");
        assert_eq!(door.refused().await, "08P01");
    }
}

#[tokio::test]
async fn a_client_over_tls_is_known_by_its_server_name() {
    let certificates = Certificates::for_clients(&[]);
    let mut door = Door::open(trusting().with_tls(&certificates, true)).await;
    let mut raw = door.connect().await;
    raw.send(&gss_request()).await;
    assert_eq!(raw.byte().await, b'N');
    raw.send(&ssl_request()).await;
    assert_eq!(raw.byte().await, b'S');
    let mut raw = start_tls(raw, &certificates, false).await.unwrap();
    raw.send(&startup(0, ALICE)).await;
    assert_eq!(raw.tags_to(b'Z').await, "RSSSKZ");
    let client = client(&mut door).await;
    assert!(client.stream.is_tls());
    assert_eq!(client.server_name.as_deref(), Some("localhost"));
}

#[tokio::test]
async fn plain_bytes_behind_a_request_for_encryption_are_fatal() {
    let certificates = Certificates::for_clients(&[]);
    for (request, tls) in [(ssl_request(), true), (ssl_request(), false), (gss_request(), true)] {
        let plan = if tls { trusting().with_tls(&certificates, false) } else { trusting() };
        let mut door = Door::open(plan).await;
        let mut raw = door.connect().await;
        raw.send(&[request, startup(0, ALICE)].concat()).await;
        let (code, message) = raw.error().await;
        assert_eq!(code, "08P01");
        assert!(message.starts_with("received unencrypted data after"), "{message}");
        assert_eq!(door.refused().await, "08P01");
    }
}

#[tokio::test]
async fn direct_tls_needs_its_protocol_name() {
    let certificates = Certificates::for_clients(&[]);
    let mut door = Door::open(trusting().with_tls(&certificates, false)).await;
    let mut raw = start_tls(door.connect().await, &certificates, true).await.unwrap();
    raw.send(&startup(0, ALICE)).await;
    assert_eq!(raw.tags_to(b'Z').await, "RSSSKZ");
    assert!(client(&mut door).await.stream.is_tls());

    // The TLS handshake itself succeeds; the connection is closed behind it.
    let mut raw = start_tls(door.connect().await, &certificates, false).await.unwrap();
    raw.closed().await;
    assert!(matches!(door.outcome().await, Err(HandshakeError::Tls(_))));

    let mut raw = start_tls(door.connect().await, &certificates, true).await.unwrap();
    raw.send(&ssl_request()).await;
    assert_eq!(raw.error().await.0, "08P01");
}

#[tokio::test]
async fn direct_tls_without_tls_of_ours_is_closed() {
    let certificates = Certificates::for_clients(&[]);
    let mut door = Door::open(trusting()).await;
    assert!(start_tls(door.connect().await, &certificates, true).await.is_err());
    assert!(matches!(door.outcome().await, Err(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn a_handshake_that_is_no_tls_is_closed() {
    let certificates = Certificates::for_clients(&[]);
    let mut door = Door::open(trusting().with_tls(&certificates, false)).await;
    let mut raw = door.connect().await;
    raw.send(&ssl_request()).await;
    assert_eq!(raw.byte().await, b'S');
    raw.send(&startup(0, ALICE)).await;
    assert!(matches!(door.outcome().await, Err(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn unix_sockets_have_no_tls_and_need_none() {
    let certificates = Certificates::for_clients(&[]);
    let context = trusting().with_tls(&certificates, true).context();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut raw = Raw(theirs);
    raw.send(&ssl_request()).await;
    let dialog = async {
        assert_eq!(raw.byte().await, b'N');
        raw.send(&startup(0, ALICE)).await;
    };
    let (outcome, ()) = tokio::join!(accept(Stream::Unix(ours), &context), dialog);
    assert!(matches!(outcome, Ok(Accepted::Client(_))), "{outcome:?}");
}

#[tokio::test]
async fn tls_is_required_where_the_configuration_says_so() {
    let certificates = Certificates::for_clients(&[]);
    let mut door = Door::open(with_password().with_tls(&certificates, true)).await;
    for user in ["alice", "nobody"] {
        let mut raw = door.connect().await;
        raw.send(&startup(0, &[("user", user)])).await;
        let (code, message) = raw.error().await;
        assert_eq!((&*code, message), ("28000", format!("connection of user \"{user}\" refused: no encryption")));
        assert_eq!(door.refused().await, "28000");
    }
}

#[tokio::test]
async fn versions_are_negotiated_once_and_before_authentication() {
    let mut door = Door::open(trusting()).await;
    let unknown = &[("user", "alice"), ("database", "app"), ("_pq_.x", "1"), ("_pq_.y", "2")];
    for (minor, parameters, tags, version, negotiated) in [
        (0, ALICE, "RSSSKZ", 0, 0),
        (1, ALICE, "RSSSKZ", 0, 0),
        (2, ALICE, "RSSSKZ", 0, 2),
        (3, ALICE, "vRSSSKZ", 2, 2),
        (9999, ALICE, "vRSSSKZ", 2, 2),
        (0, unknown, "vRSSSKZ", 0, 0),
        (2, unknown, "vRSSSKZ", 2, 2),
    ] {
        let mut raw = door.connect().await;
        raw.send(&startup(minor, parameters)).await;
        let mut seen = String::new();
        if tags.starts_with('v') {
            let (tag, body) = raw.message().await;
            seen.push(char::from(tag));
            assert_eq!(body[..4], [0, 3, 0, version], "3.{minor}");
            let names: &[u8] = if parameters.len() > 2 { b"\0\0\0\x02_pq_.x\0_pq_.y\0" } else { b"\0\0\0\0" };
            assert_eq!(&body[4..], names, "3.{minor}");
        }
        seen.push_str(&raw.tags_to(b'Z').await);
        assert_eq!(seen, tags, "3.{minor}");
        assert_eq!(client(&mut door).await.minor, negotiated);
    }
}

#[tokio::test]
async fn bad_first_packets_are_refused_in_postgres_words() {
    let mut door = Door::open(trusting()).await;
    let user = b"user\0alice\0";
    for (bytes, code, message) in [
        (packet(2 << 16, b"\0"), "0A000", "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"),
        (packet(4 << 16, b"\0"), "0A000", "unsupported frontend protocol 4.0: server supports 3.0 to 3.2"),
        (packet(3 << 16, b"\0"), "28000", "no PostgreSQL user name specified in startup packet"),
        (packet(3 << 16, b"user\0\0\0"), "28000", "no PostgreSQL user name specified in startup packet"),
        (packet(3 << 16, user), "08P01", "invalid startup packet layout: expected terminator as last byte"),
        (
            packet(3 << 16, &[user, user, &b"\0"[..]].concat()),
            "08P01",
            "invalid startup packet layout: parameter \"user\" given twice",
        ),
        (
            startup(0, &[("user", "alice"), ("replication", "maybe")]),
            "22023",
            "invalid value for parameter \"replication\": \"maybe\"",
        ),
        (vec![0, 0, 0, 7], "08P01", "invalid length of startup packet: 7 bytes"),
        (vec![0, 0, 0x27, 0x11], "08P01", "invalid length of startup packet: 10001 bytes"),
        (b"GET / HTTP/1.1\r\n".to_vec(), "08P01", "invalid length of startup packet: 1195725856 bytes"),
    ] {
        let mut raw = door.connect().await;
        raw.send(&bytes).await;
        assert_eq!(raw.error().await, (code.to_owned(), message.to_owned()));
        assert_eq!(door.refused().await, code);
    }
}

#[tokio::test]
async fn databases_are_looked_up_after_authentication() {
    let mut door = Door::open(Plan::users(&[
        ("alice", UserAuth::Trust),
        ("limited", UserAuth::Trust),
        ("bob", UserAuth::Password(Secret::new("right"))),
    ]))
    .await;
    // Its tenant may have another: whoever knows the tenant tells.
    for database in ["nowhere", ""] {
        let mut raw = door.connect().await;
        raw.send(&startup(0, &[("user", "alice"), ("database", database)])).await;
        raw.tags_to(b'Z').await;
        assert_eq!(client(&mut door).await.database.unwrap_err().code, "3D000");
    }
    let mut raw = door.connect().await;
    raw.send(&startup(0, &[("user", "limited"), ("database", "app")])).await;
    assert_eq!(raw.tags_to(b'R').await, "R");
    assert_eq!(raw.error().await.0, "42501");
    assert_eq!(door.refused().await, "42501");
    // No word about the database to someone who has not proved anything.
    let mut raw = door.connect().await;
    raw.send(&startup(0, &[("user", "bob"), ("database", "nowhere")])).await;
    let (tag, body) = raw.message().await;
    assert_eq!((tag, &body[..4]), (b'R', &[0, 0, 0, 10][..]));
}

#[tokio::test]
async fn settings_come_in_the_order_in_which_postgres_applies_them() {
    let mut door = Door::open(trusting()).await;
    let mut raw = door.connect().await;
    let parameters = [
        ("user", "alice"),
        ("application_name", "psql"),
        ("PGWEIR.tenant", "acme"),
        ("options", r"-c application_name=low -c a.b=x\ y --pgweir.route=primary"),
        ("database", "app"),
        ("replication", "off"),
    ];
    raw.send(&[startup(0, &parameters), b"Q\0\0\0\x05\0".to_vec()].concat()).await;
    raw.tags_to(b'Z').await;
    let client = client(&mut door).await;
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Vec<_>>();
    assert_eq!(client.settings, pairs(&[("application_name", "low"), ("a.b", "x y"), ("application_name", "psql")]));
    assert_eq!(client.pgweir_options, pairs(&[("pgweir.route", "primary"), ("PGWEIR.tenant", "acme")]));
    assert_eq!(client.database_name, "app");
    assert_eq!(&client.unread[..], b"Q\0\0\0\x05\0");
}

#[tokio::test]
async fn cancel_requests_come_out_as_they_are() {
    let certificates = Certificates::for_clients(&[]);
    let mut door = Door::open(trusting().with_tls(&certificates, true)).await;
    for length in [4, 32, 256] {
        let mut raw = door.connect().await;
        raw.send(&packet(80_877_102, &[&[0, 0, 0, 9], &vec![7; length][..]].concat())).await;
        match door.outcome().await {
            Ok(Accepted::Cancel { pid, key, .. }) => assert_eq!((pid, key), (9, vec![7; length])),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_packet_may_come_byte_by_byte() {
    let mut door = Door::open(trusting()).await;
    let mut raw = door.connect().await;
    for byte in startup(0, ALICE) {
        raw.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.tags_to(b'Z').await, "RSSSKZ");
    client(&mut door).await;
}

#[tokio::test]
async fn a_client_may_leave_at_any_byte() {
    let mut door = Door::open(with_password()).await;
    let whole = startup(0, ALICE);
    for cut in 0..=whole.len() {
        let mut raw = door.connect().await;
        raw.send(&whole[..cut]).await;
        drop(raw);
        match door.outcome().await {
            Err(HandshakeError::Closed | HandshakeError::Io(_)) => {}
            other => panic!("after {cut} bytes: {other:?}"),
        }
    }
}

#[tokio::test]
async fn messages_that_are_no_password_are_refused() {
    let mut door = Door::open(with_password()).await;
    for (bytes, expected) in [
        (&b"Q\0\0\0\x05\0"[..], Some("08P01")),
        (b"p\0\0\0\x03", Some("08P01")),
        (b"p\x7f\xff\xff\xff", Some("08P01")),
        (b"p\0\0\x27\x11", Some("08P01")),
        (b"p\0\0\0\x04", Some("08P01")),
        (b"p\0\0\0\x0eSCRAM-SHA-", Some("08P01")),
        (b"p\0\0\0\x16SCRAM-SHA-256\0\0\0\0\x05", Some("08P01")),
        (b"p\0\0\0\x16SCRAM-SHA-512\0\0\0\0\0", Some("08P01")),
        (b"p\0\0\0\x16SCRAM-SHA-256\0\0\0\0\0", Some("08P01")),
        (b"X\0\0\0\x04", None),
    ] {
        let mut raw = door.connect().await;
        raw.send(&startup(0, ALICE)).await;
        assert_eq!(raw.message().await.0, b'R');
        raw.send(bytes).await;
        match (door.outcome().await, expected) {
            (Err(HandshakeError::Refused(error)), Some(code)) => assert_eq!(error.code, code, "{bytes:?}"),
            (Err(HandshakeError::Closed), None) => {}
            (other, _) => panic!("{bytes:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn certificates_prove_their_common_name() {
    let certificates = Certificates::for_clients(&["alice"]);
    let plan = || Plan::users(&[("alice", UserAuth::Certificate), ("bob", UserAuth::Certificate)]);
    let mut door = Door::open(plan().with_tls(&certificates, false)).await;
    // Without TLS, and with TLS but without a certificate; the right ones are psql's to show.
    let mut raw = door.connect().await;
    raw.send(&startup(0, ALICE)).await;
    assert_eq!(raw.error().await.1, "connection requires a valid client certificate");
    assert_eq!(door.refused().await, "28000");
    let mut raw = start_tls(door.connect().await, &certificates, true).await.unwrap();
    raw.send(&startup(0, ALICE)).await;
    assert_eq!(raw.error().await.1, "connection requires a valid client certificate");
    assert_eq!(door.refused().await, "28000");
}

/// Plays a SCRAM login with a proof made of zeros. Gives the challenge without its nonce, and the
/// error without the user's name.
async fn guess(door: &Door, user: &str) -> (String, String, String) {
    let mut raw = door.connect().await;
    raw.send(&startup(0, &[("user", user), ("database", "app")])).await;
    let offer = raw.message().await;
    assert_eq!(&offer.1[4..], b"SCRAM-SHA-256\0\0");
    let mut out = BytesMut::new();
    author::sasl_initial_response(&mut out, "SCRAM-SHA-256", "n,,n=,r=abc");
    raw.send(&out.split()).await;
    let challenge = String::from_utf8(raw.message().await.1[4..].to_vec()).unwrap();
    let (nonce, rest) = challenge.split_once(',').unwrap();
    author::sasl_response(&mut out, &format!("c=biws,{nonce},p={}=", "A".repeat(43)));
    raw.send(&out).await;
    let (code, message) = raw.error().await;
    (rest.to_owned(), code, message.replace(user, "<user>"))
}

#[tokio::test]
async fn an_unknown_user_plays_the_same_exchange_as_a_known_one() {
    let door = Door::open(with_password()).await;
    let known = guess(&door, "alice").await;
    let unknown = guess(&door, "nobody").await;
    assert_eq!((&known.1, &known.2), (&unknown.1, &unknown.2));
    assert_eq!(known.1, "28P01");
    assert_eq!(known.0.len(), unknown.0.len());
    // The salt is the user's own and stays.
    assert_eq!(guess(&door, "nobody").await.0, unknown.0);
    assert_eq!(guess(&door, "alice").await.0, known.0);
    assert_ne!(guess(&door, "somebody").await.0, unknown.0);
}

#[tokio::test]
async fn a_client_may_send_its_first_sasl_message_late() {
    let mut door = Door::open(with_password()).await;
    let mut raw = door.connect().await;
    raw.send(&startup(0, ALICE)).await;
    assert_eq!(raw.message().await.0, b'R');
    let mut out = BytesMut::new();
    author::message(&mut out, b'p', |out| out.extend_from_slice(b"SCRAM-SHA-256\0\xff\xff\xff\xff"));
    raw.send(&out.split()).await;
    assert_eq!(raw.message().await, (b'R', vec![0, 0, 0, 11]));
    author::sasl_response(&mut out, "n,,n=,r=abc");
    raw.send(&out).await;
    assert!(raw.message().await.1.starts_with(b"\0\0\0\x0br=abc"));
    drop(raw);
    assert!(matches!(door.outcome().await, Err(HandshakeError::Closed | HandshakeError::Io(_))));
}
