//! Bytes that no driver sends: truncated, oversized, unterminated and random frames, before and after
//! authentication. Each ends in an error or a closed connection within a bound, and leaves no panic, no memory and
//! no server connection behind.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use pgweir::sandbox::{Login, SandboxOptions, User};

use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::raw::{End, Endpoint, Frame, RawClient};
use crate::support::say;
use crate::support::stage::Stage;
use crate::support::{eventually, primary_only, start};

/// Every tag that a client may send, and some that it may not.
const TAGS: &[u8] = b"QPBDECSHFdcfXp!Z\0\xff";
/// What memory may grow by, over all that a test does: buffers of the connections that are open at once.
const GROWTH: usize = 48 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_startup_packet_nothing_holds_the_door() {
    let mut hall = Hall::open("").await;
    for bytes in startups(&hall.endpoint) {
        hall.is_shown_out(&bytes).await;
    }
    let valid = say::startup(&[("user", &hall.endpoint.user), ("database", &hall.endpoint.database)]);
    for cut in 0..valid.len() {
        hall.is_shown_out(&valid[..cut]).await;
    }
    hall.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_at_the_door_end_the_connection() {
    let mut hall = Hall::open("").await;
    let mut random = StdRng::seed_from_u64(0x5eed);
    for _ in 0..300 {
        let mut bytes = vec![0; random.random_range(1..200)];
        random.fill_bytes(&mut bytes);
        if random.random_bool(0.5) {
            // A length that fits, so that the rest of it is read.
            let length = bytes.len().max(4) as u32;
            bytes.resize(length as usize, 0);
            bytes[..4].copy_from_slice(&length.to_be_bytes());
        }
        hall.is_shown_out(&bytes).await;
    }
    hall.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_instead_of_a_password_ends_the_connection() {
    let secret = "[[users]]\nname = \"guarded\"\npassword = \"opensesame\"\n\
                  [[users]]\nname = \"hashed\"\npassword = \"opensesame\"\nauth = \"md5\"\n";
    let mut hall = Hall::open(secret).await;
    for user in ["guarded", "hashed", "nobody"] {
        let startup = say::startup(&[("user", user), ("database", &hall.endpoint.database)]);
        for answer in passwords() {
            hall.is_shown_out(&[&startup[..], &answer].concat()).await;
        }
    }
    hall.serves().await;
}

/// In a transaction that a simple query has failed, PostgreSQL keeps the query's portal but not the memory that it
/// points to. Whoever executes it then reads what has been freed, and where that crashes the server, it ends
/// everybody's connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_query_left_behind_does_not_crash_the_server() {
    let user = "wire";
    let sandbox =
        start(SandboxOptions { users: vec![User::new(user, "").login(Login::Trust)], ..Default::default() }).await;
    let cluster = primary_only::config(&sandbox, "", &[]);
    let proxy = Proxy::start(&format!("{cluster}\n[[users]]\nname = \"{user}\"\nauth = \"trust\"\n")).await;
    let endpoint = |port| Endpoint { port, user: user.to_owned(), database: "postgres".to_owned() };
    let mut witness = RawClient::welcome(&endpoint(sandbox.primary().port)).await;

    let begin = [say::query("BEGIN"), say::query("SELECT 1 / x FROM generate_series(0, 3) x")];
    // Refused, but its text takes the memory.
    let parse = [say::parse("", &format!("SELECT '{}'", "x".repeat(12_000))), say::sync()].concat();
    let bind = [say::bind("", "", &[]), say::sync()].concat();
    let end = vec![[say::execute("", 0), say::sync()].concat()];
    let flushed = [&parse[..parse.len() - 5], &say::flush()].concat();
    for refused in [vec![parse.clone(); 3], vec![parse.clone(), parse, bind.clone()]].iter().cycle().take(6) {
        let batches = [&begin[..], refused, &end].concat();
        for together in [1, batches.len()] {
            let mut client = RawClient::welcome(&endpoint(proxy.port)).await;
            let mut last = Vec::new();
            for batches in batches.chunks(together) {
                client.send(&batches.concat()).await.unwrap();
                let (frames, end) = client.until_ready(batches.len()).await;
                assert_eq!(end, None, "{frames:?}");
                last = frames;
            }
            let codes: Vec<_> = last.iter().filter_map(Frame::sqlstate).collect();
            assert_eq!(codes.last().map(String::as_str), Some("25P02"));
        }
    }
    // A `Bind` is discarded where an error has been told of before.
    for _ in 0..12 {
        let mut client = RawClient::welcome(&endpoint(proxy.port)).await;
        client.send(&begin.concat()).await.unwrap();
        assert_eq!(client.until_ready(2).await.1, None);
        client.send(&flushed).await.unwrap();
        assert_eq!(client.reader.until(b'E', 1).await.1, None);
        for message in [&bind, &end[0]] {
            client.send(message).await.unwrap();
            assert_eq!(client.until_ready(1).await.1, None);
        }
    }
    assert_eq!(witness.rows("SELECT 'alive'").await, ["alive"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_frames_end_the_session_or_are_answered() {
    let mut hall = Hall::open("").await;
    for frame in broken_frames() {
        hall.answers_or_closes(&frame).await;
    }
    hall.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_cut_at_any_byte_leave_nothing_behind() {
    let mut hall = Hall::open("").await;
    for conversation in conversations() {
        for cut in 0..conversation.len() {
            let mut client = RawClient::welcome(&hall.endpoint).await;
            let _ = client.send(&conversation[..cut]).await;
            client.writer.finish().await;
            let (_, end) = client.reader.rest().await;
            assert!(matches!(end, End::Closed { .. }), "cut at {cut}: {end:?}");
        }
    }
    hall.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_frames_end_the_session_or_are_answered() {
    let mut hall = Hall::open("").await;
    let mut random = StdRng::seed_from_u64(0xf4a3e5);
    for _ in 0..400 {
        let count = random.random_range(1..6);
        let frames: Vec<u8> = (0..count).flat_map(|_| random_frame(&mut random)).collect();
        hall.answers_or_closes(&frames).await;
    }
    hall.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claimed_length_is_not_memory() {
    let mut hall = Hall::open("").await;
    let claim = |tag| say::claiming(tag, 0x3fff_ffff, b"s\0SELECT 1");
    // A function call is passed on as it comes, and so has a server connection, of which there are four.
    let calls = [b'F'; 2].map(claim);
    let claims = b"QPBd".map(claim);
    let mut clients = Vec::new();
    for claim in calls.iter().chain(claims.iter().cycle().take(48)) {
        let mut client = RawClient::welcome(&hall.endpoint).await;
        client.send(claim).await.unwrap();
        clients.push(client);
    }
    // As far as the startup packet and a password may claim to be.
    for claim in [0x3fff_ffff_u32, 10_000] {
        for _ in 0..50 {
            let mut client = RawClient::open(hall.endpoint.port).await;
            client.send(&claim.to_be_bytes()).await.unwrap();
            clients.push(client);
        }
    }
    hall.serves().await;
    drop(clients);
    hall.serves().await;
}

/// pgweir with a trusted user, in a process whose memory and panics are seen.
struct Hall {
    process: Process,
    stage: Stage,
    endpoint: Endpoint,
    resident: usize,
}

impl Hall {
    async fn open(more: &str) -> Self {
        let stage = Stage::set("CREATE TABLE copied (a int, b text)").await;
        stage.database.sql(&format!("GRANT ALL ON copied TO {}", stage.user)).await;
        let listen = "[listen]\naddress = \"127.0.0.1:0\"\nstartup_timeout = \"1s\"\n[pool]\nsize = 4\n";
        let process = Process::start(&stage.config(&format!("{listen}{more}")).await);
        let endpoint = stage.endpoint(process.port);
        // The first clients make what stays: pools, the catalog, the classifier's cache.
        for _ in 0..4 {
            RawClient::welcome(&endpoint).await.rows("SELECT 1").await;
        }
        let resident = process.resident();
        Self { process, stage, endpoint, resident }
    }

    /// Whoever says this, and whether or not it then closes, is rid of within the startup timeout.
    async fn is_shown_out(&mut self, bytes: &[u8]) {
        let since = Instant::now();
        let mut client = RawClient::open(self.endpoint.port).await;
        let _ = client.send(bytes).await;
        if bytes.len() % 2 == 1 {
            client.writer.finish().await;
        }
        while client.reader.byte().await.is_ok() {}
        let lasted = since.elapsed();
        assert!(lasted < Duration::from_secs(9), "{}: {lasted:?}", bytes.escape_ascii());
        self.process.assert_sound();
    }

    /// Sends this, then what brings PostgreSQL back from any error, and a query: an answer to that or the end has
    /// to come.
    async fn answers_or_closes(&mut self, frames: &[u8]) {
        let mut client = RawClient::welcome(&self.endpoint).await;
        let rest = [say::copy_done(), say::sync(), say::sync(), say::query("SELECT 'still here'")].concat();
        let _ = client.send(&[frames, &rest].concat()).await;
        client.writer.finish().await;
        let (seen, end) = client.reader.rest().await;
        assert!(matches!(end, End::Closed { .. }), "{}: {end:?} after {seen:?}", frames.escape_ascii());
        self.process.assert_sound();
    }

    /// It still does its work, has not grown, and nothing is left on the servers.
    async fn serves(&mut self) {
        self.process.assert_sound();
        assert_eq!(RawClient::welcome(&self.endpoint).await.rows("SELECT 'served'").await, ["served"]);
        eventually("no server connection is left busy", async || self.stage.busy_backends().await.is_empty()).await;
        let grown = self.process.resident().saturating_sub(self.resident);
        assert!(grown < GROWTH, "memory has grown by {} kB", grown >> 10);
    }
}

/// Startup packets, and what else may come first.
fn startups(endpoint: &Endpoint) -> Vec<Vec<u8>> {
    let version = |number: u32, rest: &[u8]| say::untagged(&[&number.to_be_bytes()[..], rest].concat());
    let user = format!("user\0{}\0", endpoint.user);
    let lengths = [0u32, 1, 3, 4, 7, 10_001, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let mut all: Vec<Vec<u8>> = lengths.iter().map(|length| length.to_be_bytes().to_vec()).collect();
    all.extend([
        version(0x0001_0000, b"\0"),
        version(0x0002_0000, user.as_bytes()),
        version(0x0004_0000, &[user.as_bytes(), b"\0"].concat()),
        version(0xffff_ffff, &[user.as_bytes(), b"\0"].concat()),
        version(0x0003_0000, b""),
        version(0x0003_0000, b"\0"),
        version(0x0003_0000, b"user"),
        version(0x0003_0000, b"user\0"),
        version(0x0003_0000, b"user\0nobody"),
        version(0x0003_0000, b"user\0\0\0"),
        version(0x0003_0000, user.as_bytes()),
        version(0x0003_0000, &[user.as_bytes(), b"database\0"].concat()),
        version(0x0003_0000, &[user.as_bytes(), b"\0trailing"].concat()),
        version(0x0003_0000, &[user.as_bytes(), b"no_such_setting\0x\0\0"].concat()),
        version(0x0003_0000, &[user.as_bytes(), b"options\0-c\0\0"].concat()),
        version(0x0003_0000, &[user.as_bytes(), b"options\0--=\\\0\0"].concat()),
        version(0x0003_0000, &[user.as_bytes(), b"client_encoding\0\xff\xfe\0\0"].concat()),
        version(0x0003_0000, &[user.as_bytes(), &b"x".repeat(9_000)[..], b"\0y\0\0"].concat()),
        // CancelRequest: too short, too long, for nobody.
        version(80_877_102, b""),
        version(80_877_102, b"\0\0\0\x01"),
        version(80_877_102, b"\0\0\0\x01\0\0\0\x02"),
        version(80_877_102, &[7; 300]),
        // SSLRequest and GSSENCRequest: with more than they have, twice, and what then is no handshake.
        version(80_877_103, b"more"),
        [version(80_877_103, b""), version(80_877_103, b"")].concat(),
        [version(80_877_104, b""), version(80_877_104, b"")].concat(),
        [version(80_877_103, b""), b"\x16\x03\x01\x00\x05nope!".to_vec()].concat(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
    ]);
    all
}

fn passwords() -> Vec<Vec<u8>> {
    let sasl =
        |body: &[u8]| say::message(b'p', &[b"SCRAM-SHA-256\0", &(body.len() as u32).to_be_bytes()[..], body].concat());
    vec![
        say::message(b'p', b""),
        say::message(b'p', b"wrong\0"),
        say::message(b'p', b"unterminated"),
        say::message(b'p', b"SCRAM-SHA-256\0"),
        say::message(b'p', b"SCRAM-SHA-256\0\0\0\0\x7fshort"),
        say::message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
        say::message(b'p', b"NO-SUCH-MECHANISM\0\0\0\0\0"),
        say::message(b'p', &b"x".repeat(60_000)),
        sasl(b""),
        sasl(b"n,,"),
        sasl(b"y,,n=,r="),
        sasl(b"p=tls-unique,,n=,r=nonce"),
        sasl(b"n,,n=\xff\xfe,r=nonce"),
        sasl(b"n,a=other,n=,r=nonce"),
        sasl(b"n,,m=ext,n=,r=nonce"),
        [sasl(b"n,,n=,r=nonce"), say::message(b'p', b"c=biws,r=nonce,p=AAAA")].concat(),
        [sasl(b"n,,n=,r=nonce"), say::message(b'p', b"")].concat(),
        [sasl(b"n,,n=,r=nonce"), say::message(b'p', b"p=")].concat(),
        say::claiming(b'p', 0, b""),
        say::claiming(b'p', 3, b""),
        say::claiming(b'p', 0x3fff_ffff, b"wrong\0"),
        say::claiming(b'p', u32::MAX, b"wrong\0"),
        say::query("SELECT 1"),
        say::terminate(),
        say::sync(),
    ]
}

/// Every tag with bodies that are not its own, and with lengths that are none.
fn broken_frames() -> Vec<Vec<u8>> {
    let bodies: [&[u8]; 11] = [
        b"",
        b"\0",
        b"\0\0",
        b"x",
        b"S",
        b"P\0",
        b"name\0",
        b"name\0SELECT 1\0",
        b"\0\0\xff\xff\0\0\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0",
    ];
    let lengths = [0, 1, 3, 10_001, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let shapes = TAGS.iter().flat_map(|&tag| bodies.map(|body| say::message(tag, body)));
    let claims = TAGS.iter().flat_map(|&tag| lengths.map(|length| say::claiming(tag, length, b"\0\0\0\0\0\0")));
    shapes.chain(claims).collect()
}

/// One frame of each kind, in an order that means something.
fn conversations() -> Vec<Vec<u8>> {
    let extended = [
        say::parse_typed("s", "SELECT $1", &[23]),
        say::describe_statement("s"),
        say::bind("p", "s", &["1"]),
        say::execute("p", 1),
        say::flush(),
        say::close_portal("p"),
        say::close_statement("s"),
        say::sync(),
        say::function_call(177, &[Some(&[0; 4]), Some(&[0; 4])]),
    ];
    let copy = [
        say::query("BEGIN"),
        say::query("COPY copied FROM STDIN"),
        say::copy_data("1\tone\n"),
        say::copy_fail("enough"),
        say::query("ROLLBACK"),
        say::run("COPY copied FROM STDIN", &[]),
        say::copy_data("2\ttwo\n"),
        say::copy_done(),
        say::sync(),
        say::terminate(),
    ];
    vec![extended.concat(), copy.concat()]
}

fn random_frame(random: &mut StdRng) -> Vec<u8> {
    let tag = TAGS[random.random_range(0..TAGS.len())];
    let mut body = vec![0; random.random_range(0..40)];
    random.fill_bytes(&mut body);
    // Bytes that mean something to a decoder, more often than chance would have them.
    for byte in &mut body {
        if random.random_bool(0.4) {
            *byte = [0, 0, 1, 4, b'S', b'P', 0xff][random.random_range(0..7)];
        }
    }
    match random.random_range(0..4) {
        0 => say::claiming(tag, random.random_range(0..64), &body),
        _ => say::message(tag, &body),
    }
}

/// Bytes that nobody has read when a connection is closed would have it reset, and what was said last be lost.
#[tokio::test]
async fn the_last_words_reach_a_client_that_is_still_sending() {
    let stage = Stage::set("SELECT 1").await;
    let proxy = Proxy::start(&stage.config("").await).await;
    for _ in 0..10 {
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        let bad = [&[b'~', 0, 0, 0, 4][..], &[0; 100_000]].concat();
        client.send(&bad).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        // It may be closed by now.
        let _ = client.send(&bad).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let (frames, _) = client.reader.rest().await;
        assert_eq!(frames.first().and_then(Frame::sqlstate).as_deref(), Some("08P01"), "{frames:?}");
    }
}
