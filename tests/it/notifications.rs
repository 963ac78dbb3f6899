//! `LISTEN` and `NOTIFY`: one connection of a database listens for all its clients, and each of them hears what a
//! connection of its own would have heard, in its order, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::proxy::Proxy;
use crate::support::raw::{Frame, RawClient};
use crate::support::stage::Stage;
use crate::support::{TestDatabase, connect, eventually, fresh_database, say, shared_cluster};

/// Channel and payload of each notification among the frames.
fn heard(frames: &[Frame]) -> Vec<(String, String)> {
    let notification = |frame: &Frame| {
        let mut texts = frame.body[4..].split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        (texts.next().unwrap_or_default(), texts.next().unwrap_or_default())
    };
    frames.iter().filter(|frame| frame.tag == b'A').map(notification).collect()
}

fn payloads(frames: &[Frame]) -> Vec<String> {
    heard(frames).into_iter().map(|(_, payload)| payload).collect()
}

/// The tags of the frames, as text.
fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}

async fn stage(schema: &str, pool: &str) -> (Stage, Proxy) {
    let stage = Stage::set(schema).await;
    let proxy = Proxy::start(&stage.config(pool).await).await;
    (stage, proxy)
}

async fn sender(database: &TestDatabase) -> tokio_postgres::Client {
    connect(&shared_cluster().await.primary().url("postgres", &database.name)).await
}

/// Server processes of the database that listen for pgweir.
async fn ears(database: &TestDatabase) -> String {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND application_name = 'pgweir listen'",
        database.name
    );
    shared_cluster().await.primary().psql(&sql).await.unwrap().trim().to_owned()
}

/// What the client hears until it has heard this payload.
async fn hears_until(client: &mut RawClient, last: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    loop {
        let frame = client.frame().await.unwrap_or_else(|end| panic!("{end:?} after {all:?}, and no {last}"));
        all.extend(heard(&[frame]));
        if all.last().is_some_and(|(_, payload)| payload == last) {
            return all;
        }
    }
}

#[tokio::test]
async fn many_listen_on_one_connection_and_hold_none() {
    const CLIENTS: usize = 30;
    let (stage, proxy) = stage("SELECT 1", "[pool]\nsize = 1\n").await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        client.rows(&format!("LISTEN all_of_them; LISTEN \"Some {}\"", n % 3)).await;
        clients.push(client);
    }
    assert_eq!(ears(&stage.database).await, "1");
    let sender = sender(&stage.database).await;
    for (n, client) in clients.iter_mut().enumerate().take(20) {
        sender.batch_execute(&format!("NOTIFY all_of_them, '{n}'; NOTIFY \"Some {}\", '{n}'", n % 3)).await.unwrap();
        // Everybody else works on, over the one connection.
        assert_eq!(client.rows("BEGIN; SELECT 1; COMMIT").await, ["1"]);
    }
    sender.batch_execute("NOTIFY all_of_them, 'end'").await.unwrap();
    for (n, client) in clients.iter_mut().enumerate() {
        let all = hears_until(client, "end").await;
        let mut wanted: Vec<_> = (0..20)
            .flat_map(|sent| {
                let to_all = (true, ("all_of_them".to_owned(), sent.to_string()));
                let to_some = (sent % 3 == n % 3, (format!("Some {}", sent % 3), sent.to_string()));
                [to_all, to_some].into_iter().filter(|(is_for_him, _)| *is_for_him).map(|(_, heard)| heard)
            })
            .collect();
        wanted.push(("all_of_them".to_owned(), "end".to_owned()));
        // The one who asked something meanwhile may have heard a part of it with his answer.
        if n >= 20 {
            assert_eq!(all, wanted, "client {n}");
        } else {
            assert!(wanted.ends_with(&all), "client {n}: {all:?}");
        }
    }
    drop(clients);
    eventually("nobody listens any more", async || ears(&stage.database).await == "0").await;
}

/// Who begins at the same moment as others hears nothing of how they come to hear.
#[tokio::test]
async fn many_begin_to_listen_at_once() {
    let (stage, proxy) = stage("SELECT 1", "[pool]\nsize = 20\n").await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(RawClient::welcome(&stage.endpoint(proxy.port)).await);
    }
    for round in 0..4 {
        for client in &mut clients {
            client.send(&say::query("LISTEN crowd")).await.unwrap();
        }
        for client in &mut clients {
            let (frames, _) = client.until_ready(1).await;
            assert_eq!(tags(&frames), "CZ");
        }
        sender(&stage.database).await.batch_execute("NOTIFY crowd, 'end'").await.unwrap();
        for client in &mut clients {
            let all = hears_until(client, "end").await;
            assert_eq!(all, [("crowd".to_owned(), "end".to_owned())], "round {round}");
            assert_eq!(tags(&client.query("UNLISTEN crowd").await), "CZ");
        }
    }
}

/// A sender that counts on two channels without a pause.
struct Counter {
    /// The number that was sent last, or is about to be.
    at: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Counter {
    async fn start(database: &TestDatabase) -> Self {
        let (sender, at) = (sender(database).await, Arc::<AtomicU64>::default());
        let count = at.clone();
        let task = tokio::spawn(async move {
            loop {
                let n = count.fetch_add(1, Ordering::SeqCst) + 1;
                sender.batch_execute(&format!("NOTIFY one, '{n}'; NOTIFY two, '{n}'")).await.unwrap();
            }
        });
        Self { at, task }
    }

    fn at(&self) -> u64 {
        self.at.load(Ordering::SeqCst)
    }
}

/// What a client hears of a [`Counter`], by channel and in all.
#[derive(Default)]
struct Count(BTreeMap<String, Vec<u64>>, Vec<(u64, String)>);

impl Count {
    fn enter(&mut self, frames: &[Frame]) {
        for (channel, payload) in heard(frames) {
            let number = payload.parse().unwrap();
            self.0.entry(channel.clone()).or_default().push(number);
            self.1.push((number, channel));
        }
    }

    /// As it was committed, also from one channel to the other.
    fn assert_in_order(&self, what: &str) {
        let behind = self.1.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(behind, None, "{what}");
    }

    /// Every number from the first on, once and in order; and that is not after `by`.
    fn assert_whole(&self, channel: &str, by: u64, what: &str) {
        let numbers = self.0.get(channel).unwrap_or_else(|| panic!("{what}: nothing on {channel}"));
        let wanted: Vec<u64> = (numbers[0]..numbers[0] + numbers.len() as u64).collect();
        assert_eq!(*numbers, wanted, "{what}: channel {channel}");
        assert!(numbers[0] <= by + 1, "{what}: channel {channel} begins with {} after {by}", numbers[0]);
    }
}

/// Clients begin to listen and stop again, each in its way: each hears every number from some moment on, once and in
/// order, and that moment is not after the reply.
#[tokio::test]
async fn nothing_is_missed_or_doubled_when_a_session_begins_to_listen() {
    let (stage, proxy) = stage("SELECT 1", "[pool]\nsize = 2\n").await;
    let counter = Counter::start(&stage.database).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let ways: [&[&str]; 7] = [
        &["LISTEN one", "LISTEN two", "SELECT 1"],
        &["BEGIN; LISTEN one; COMMIT", "BEGIN; LISTEN two; LISTEN one; COMMIT", "SELECT 1"],
        &["LISTEN one", "LISTEN two", "UNLISTEN one; LISTEN one", "LISTEN two; SELECT pg_sleep(0.01)"],
        &[
            "LISTEN two",
            "SELECT pg_sleep(0.01); LISTEN one; SELECT pg_sleep(0.01)",
            "SELECT 1",
            "BEGIN; SELECT 1; COMMIT",
        ],
        &["LISTEN one; LISTEN two", "CREATE TEMP TABLE t (x int)", "SELECT 1", "DROP TABLE t", "SELECT 1"],
        &["LISTEN one; LISTEN two", "SET client_encoding = 'LATIN1'", "SELECT 1", "RESET client_encoding"],
        &["LISTEN one; LISTEN two", "BEGIN; UNLISTEN one; ROLLBACK", "DO $$ BEGIN PERFORM 1; END $$", "SELECT 1"],
    ];
    for round in 0..21 {
        let mut count = Count::default();
        let mut begun = BTreeMap::new();
        let way = ways[round % ways.len()];
        for statement in way {
            count.enter(&client.query(statement).await);
            for channel in ["one", "two"] {
                if statement.contains(&format!("LISTEN {channel}")) {
                    begun.entry(channel).or_insert(counter.at());
                }
            }
            for _ in 0..10 {
                count.enter(&[client.frame().await.unwrap()]);
            }
        }
        count.enter(&client.query("UNLISTEN *").await);
        for (channel, by) in begun {
            count.assert_whole(channel, by, &format!("round {round}, {way:?}"));
        }
        count.assert_in_order(&format!("round {round}, {way:?}"));
        // Nothing comes any more.
        for _ in 0..3 {
            assert_eq!(tags(&client.query("SELECT 1").await), "TDCZ");
        }
    }
    counter.task.abort();
}

/// As PostgreSQL has it: the notifications of one's own transaction come before its end is told.
#[tokio::test]
async fn a_session_hears_itself_before_it_is_told_that_its_transaction_is_over() {
    let schema = "CREATE TABLE t (x int);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_notify('c', 'trigger ' || NEW.x); RETURN NEW; END $$;
        CREATE FUNCTION say(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('c', $1); END $$;
        CREATE TRIGGER told AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION tell();
        GRANT ALL ON t TO PUBLIC";
    let (stage, proxy) = stage(schema, "[pool]\nsize = 2\n").await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let mut other = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    other.rows("SELECT say('the catalog is loaded')").await;
    assert_eq!(tags(&client.query("LISTEN c; NOTIFY c, 'at once'").await), "CCAZ");
    let long = "x".repeat(7900);
    for (says, wanted) in [
        (say::query("NOTIFY c, 'one'"), "one"),
        (say::query("SELECT pg_notify('c', 'two')"), "two"),
        (say::query("BEGIN; NOTIFY c, 'three'; COMMIT"), "three"),
        (say::batch("NOTIFY c, 'four'", &[]), "four"),
        (say::query("INSERT INTO t VALUES (5)"), "trigger 5"),
        (say::batch("INSERT INTO t VALUES ($1::int)", &["6"]), "trigger 6"),
        (say::query("SELECT say('seven')"), "seven"),
        (say::query("DO $$ BEGIN NOTIFY c, 'eight'; END $$"), "eight"),
        (say::query(&format!("NOTIFY c, '{long}'")), &long),
        (say::query("UNLISTEN d; NOTIFY c, 'ten'"), "ten"),
        (say::query("LISTEN d; NOTIFY c, 'eleven'"), "eleven"),
    ] {
        client.send(&says).await.unwrap();
        let (frames, _) = client.until_ready(1).await;
        assert_eq!(payloads(&frames), [wanted], "{frames:?}");
        assert_eq!(frames.last().unwrap().status(), Some(b'I'));
    }
    // Not while its transaction is open, and nothing of one that is rolled back.
    assert_eq!(tags(&client.query("BEGIN; NOTIFY c, 'later'").await), "CCZ");
    assert_eq!(other.rows("SELECT 1").await, ["1"]);
    assert_eq!(tags(&client.query("INSERT INTO t VALUES (12)").await), "CZ");
    assert_eq!(tags(&client.query("COMMIT").await), "CAAZ");
    assert_eq!(tags(&client.query("BEGIN; NOTIFY c, 'never'; ROLLBACK").await), "CCCZ");
    // Batches behind one another: each is told of its own.
    let both = [say::query("NOTIFY c, 'first'"), say::query("SELECT 1"), say::query("NOTIFY c, 'second'")].concat();
    client.send(&both).await.unwrap();
    let (frames, _) = client.until_ready(3).await;
    assert_eq!(tags(&frames), "CAZTDCZCAZ", "{frames:?}");
}

#[tokio::test]
async fn nothing_comes_within_a_transaction_and_all_of_it_behind_it() {
    let (stage, proxy) = stage("SELECT 1", "[pool]\nsize = 2\n").await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    client.rows("LISTEN c").await;
    let mut other = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    other.rows("LISTEN c").await;
    let sender = sender(&stage.database).await;
    client.rows("BEGIN").await;
    let wanted: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    for payload in &wanted {
        sender.batch_execute(&format!("NOTIFY c, '{payload}'")).await.unwrap();
    }
    hears_until(&mut other, "99").await;
    for _ in 0..5 {
        assert_eq!(tags(&client.query("SELECT 1").await), "TDCZ");
    }
    assert_eq!(tags(&client.query("SELECT 1/0").await), "EZ");
    // Before it is told that its transaction is over.
    assert_eq!(payloads(&client.query("COMMIT").await), wanted);
    // One that is not told of a message by halves.
    client.send(&say::parse("s", "SELECT 1")).await.unwrap();
    sender.batch_execute("NOTIFY c, 'between'").await.unwrap();
    client.send(&[say::bind("", "s", &[]), say::execute("", 0), say::sync()].concat()).await.unwrap();
    let (frames, _) = client.until_ready(1).await;
    assert!(["A12DCZ", "12DCAZ", "12DCZ"].contains(&&*tags(&frames)), "{frames:?}");
}

/// Each way of ending it, and of not ending it after all; `pg_listening_channels()` shows what is there.
#[tokio::test]
async fn what_a_session_listens_to_is_what_the_server_says() {
    let schema = "CREATE FUNCTION deaf() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UNLISTEN b; END $$;
        CREATE FUNCTION channels() RETURNS SETOF text LANGUAGE sql AS 'SELECT pg_listening_channels()'";
    let (stage, proxy) = stage(schema, "[pool]\nsize = 2\n").await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let sender = sender(&stage.database).await;
    for (statements, wanted) in [
        (&["SELECT 1"][..], "abc"),
        (&["UNLISTEN b"], "ac"),
        (&["UNLISTEN b; LISTEN d"], "acd"),
        (&["UNLISTEN *"], ""),
        (&["UNLISTEN *; LISTEN b"], "b"),
        (&["DISCARD ALL"], ""),
        (&["RESET ALL"], "abc"),
        (&["BEGIN", "UNLISTEN b", "COMMIT"], "ac"),
        (&["BEGIN", "UNLISTEN b", "LISTEN d", "ROLLBACK"], "abc"),
        (&["BEGIN", "LISTEN d", "COMMIT"], "abcd"),
        (&["BEGIN", "UNLISTEN *", "COMMIT"], ""),
        (&["BEGIN", "UNLISTEN *", "LISTEN e", "COMMIT"], "e"),
        (&["BEGIN", "SAVEPOINT s", "UNLISTEN a", "ROLLBACK TO s", "UNLISTEN b", "COMMIT"], "ac"),
        (&["BEGIN", "SAVEPOINT s", "UNLISTEN a", "ROLLBACK TO s", "COMMIT"], "abc"),
        (&["BEGIN", "UNLISTEN a", "SELECT 1/0", "COMMIT"], "abc"),
        (&["BEGIN", "UNLISTEN a", "UNLISTEN b", "COMMIT"], "c"),
        (&["BEGIN", "UNLISTEN a", "SAVEPOINT s", "UNLISTEN b", "ROLLBACK TO s", "UNLISTEN c", "COMMIT"], "b"),
        (&["BEGIN", "UNLISTEN a", "SELECT pg_listening_channels()", "COMMIT"], "bc"),
        (&["BEGIN", "UNLISTEN *", "COMMIT", "LISTEN a", "BEGIN", "UNLISTEN a", "COMMIT"], ""),
        (&["SELECT deaf()"], "ac"),
        (&["BEGIN", "SELECT deaf()", "COMMIT"], "ac"),
        (&["DO $$ BEGIN EXECUTE 'UNLISTEN a'; END $$"], "bc"),
        (&["UNLISTEN a; SELECT 1/0"], "abc"),
        (&["CREATE TEMP TABLE t (x int)", "UNLISTEN a", "DROP TABLE t"], "bc"),
        (&["CREATE TEMP TABLE t (x int)", "BEGIN; LISTEN d; COMMIT", "DROP TABLE t"], "abcd"),
        (&["CREATE TEMP TABLE t (x int)", "DISCARD ALL"], ""),
    ] {
        for extended in [false, true] {
            // As often as not, what comes next finds the session listened for by another connection than its own.
            client.query("LISTEN a").await;
            client.query("LISTEN b; LISTEN c").await;
            for statement in statements {
                let messages: Vec<_> = match extended {
                    true => statement.split("; ").map(|statement| say::batch(statement, &[])).collect(),
                    false => vec![say::query(statement)],
                };
                for message in messages {
                    client.send(&message).await.unwrap();
                    client.until_ready(1).await;
                }
            }
            let together =
                statements.iter().any(|statement| statement.starts_with("UNLISTEN") && statement.contains(';'));
            if extended && (together || statements.iter().any(|statement| statement.contains("$$"))) {
                // Statements of one message, and code that is cut at its semicolons, are another matter.
                client.query("UNLISTEN *").await;
                continue;
            }
            let what = format!("after {statements:?}, extended: {extended}");
            for question in ["SELECT pg_listening_channels() ORDER BY 1", "SELECT channels() ORDER BY 1"] {
                assert_eq!(client.rows(question).await.concat(), wanted, "{what}");
            }
            client.rows("LISTEN end_of_it").await;
            sender.batch_execute("NOTIFY a, 'a'; NOTIFY b, 'b'; NOTIFY c, 'c'; NOTIFY d, 'd'").await.unwrap();
            sender.batch_execute("NOTIFY end_of_it, 'end'").await.unwrap();
            let all: String = hears_until(&mut client, "end").await.into_iter().map(|(channel, _)| channel).collect();
            assert_eq!(all, wanted.replace('e', "") + "end_of_it", "{what}");
            client.query("UNLISTEN *").await;
        }
    }
}

#[tokio::test]
async fn a_transaction_shows_what_was_listened_to_before_it() {
    let (stage, proxy) = stage("SELECT 1", "[pool]\nsize = 1\n").await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let mut other = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    const LISTENED: &str = "SELECT pg_listening_channels() ORDER BY 1";
    client.rows("LISTEN a; LISTEN b").await;
    for (begin, within, after) in [
        ("BEGIN", "SELECT 1", "ab"),
        ("BEGIN READ ONLY", "SELECT 1", "ab"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "LISTEN c", "abc"),
        ("BEGIN", "UNLISTEN c", "ab"),
        ("BEGIN", "NOTIFY b", "ab"),
        ("BEGIN", "UNLISTEN a", "b"),
        ("BEGIN; UNLISTEN b", "UNLISTEN *", ""),
    ] {
        let before = client.rows(LISTENED).await;
        client.query(begin).await;
        client.query(within).await;
        assert_eq!(client.rows(LISTENED).await, before, "{begin}; {within}");
        client.query("COMMIT").await;
        assert_eq!(client.rows(LISTENED).await.concat(), after, "after {begin}; {within}");
        // A transaction in which nobody asks leaves nothing either.
        for text in ["BEGIN", "SELECT 1", "COMMIT"] {
            client.query(text).await;
        }
        assert_eq!(other.rows(LISTENED).await.concat(), "", "after {begin}; {within}");
    }
}

/// Ends the server process that listens, from outside.
async fn cut_the_ear(database: &TestDatabase) {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = '{}' AND application_name = 'pgweir listen'",
        database.name
    );
    assert_ne!(shared_cluster().await.primary().psql(&sql).await.unwrap().trim(), "0", "nobody listens");
}

#[tokio::test]
async fn whoever_may_have_missed_something_is_told() {
    let (stage, proxy) = stage("SELECT 1", "[pool]\nsize = 2\n").await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let mut bystander = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    client.rows("LISTEN c").await;
    // Until its server connection has been relieved, nothing would be missed.
    client.rows("SELECT 1").await;
    cut_the_ear(&stage.database).await;
    let (frames, _) = client.reader.rest().await;
    assert_eq!(frames.last().unwrap().sqlstate().as_deref(), Some("08006"), "{frames:?}");
    assert!(frames.last().unwrap().field(b'H').unwrap().contains("lost_notifications"), "{frames:?}");
    assert_eq!(bystander.rows("SELECT 1").await, ["1"]);

    // Where that is configured, by a notice: and all that comes behind it is heard.
    let config = stage.config("[pool]\nsize = 2\n").await;
    let config = config.replace("primary = ", "lost_notifications = \"notice\"\nprimary = ");
    let proxy = Proxy::start(&config).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    client.rows("LISTEN c; LISTEN d").await;
    client.rows("SELECT 1").await;
    let sender = sender(&stage.database).await;
    cut_the_ear(&stage.database).await;
    let told = client.frame().await.unwrap();
    assert_eq!(told.tag, b'N', "{told:?}");
    assert!(told.field(b'M').unwrap().contains("may have been missed"), "{told:?}");
    sender.batch_execute("NOTIFY c, 'one'; NOTIFY d, 'two'").await.unwrap();
    assert_eq!(hears_until(&mut client, "two").await.len(), 2);
}

/// Payloads are converted by the server, and so there is a listening connection for each encoding.
#[tokio::test]
async fn payloads_come_in_the_clients_encoding() {
    let (stage, proxy) = stage("SELECT 1", "[pool]\nsize = 1\n").await;
    let (mut latin, greeting) = RawClient::start(&stage.endpoint(proxy.port), &[("client_encoding", "LATIN1")]).await;
    assert_eq!(greeting.last().and_then(Frame::status), Some(b'I'), "{greeting:?}");
    let mut utf8 = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    latin.rows("LISTEN c").await;
    utf8.rows("LISTEN c").await;
    // Another encoding from here on, also for what is already listened to.
    let mut later = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    later.rows("LISTEN c").await;
    later.query("SET client_encoding = 'LATIN1'").await;
    sender(&stage.database).await.batch_execute("NOTIFY c, 'é'").await.unwrap();
    for (client, wanted) in
        [(&mut latin, &b"c\0\xe9\0"[..]), (&mut utf8, "c\0é\0".as_bytes()), (&mut later, b"c\0\xe9\0")]
    {
        assert_eq!(client.frame().await.unwrap().body[4..], *wanted);
    }
    // What pgweir cannot name in every encoding, the session listens to itself.
    utf8.rows("LISTEN \"é\"").await;
    sender(&stage.database).await.batch_execute("NOTIFY \"é\", 'x'; NOTIFY c, 'y'").await.unwrap();
    assert_eq!(hears_until(&mut utf8, "y").await.len(), 2);
    assert_eq!(utf8.rows("SELECT pg_listening_channels() ORDER BY 1").await, ["c", "é"]);
}

/// Listening is no reason to be refused a connection of one's own, for none is needed.
#[tokio::test]
async fn listening_pins_nobody() {
    let database = fresh_database("").await;
    let tiers = "[pool]\nsize = 1\n[tiers.standard]\npinning = \"refuse\"\n";
    let proxy = Proxy::for_shared_cluster(tiers).await;
    let (client, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
    for client in [&client, &other, &client] {
        client.batch_execute("LISTEN c").await.unwrap();
        client.batch_execute("BEGIN; SELECT 1; COMMIT").await.unwrap();
    }
    assert_eq!(proxy.metric("pgweir_session_pins_total{reason=\"listen\"}"), 0.0);
}

/// Whatever else a session keeps its server connection for.
#[tokio::test]
async fn what_is_listened_to_is_known_on_a_connection_that_is_kept() {
    let (stage, proxy) = stage("CREATE SEQUENCE counted", "[pool]\nsize = 2\n").await;
    stage.database.sql(&format!("GRANT ALL ON SEQUENCE counted TO {}", stage.user)).await;
    const LISTENED: &str = "SELECT pg_listening_channels() ORDER BY 1";
    for keeps in
        ["SELECT nextval('counted'); SELECT currval('counted')", "SELECT pg_backend_pid()", "CREATE TEMP TABLE t ()"]
    {
        for (first, second) in [(keeps, "LISTEN a; LISTEN b"), ("LISTEN a; LISTEN b", keeps)] {
            let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
            client.query(first).await;
            client.query(second).await;
            client.query("SELECT 1").await;
            assert_eq!(client.rows(LISTENED).await, ["a", "b"], "{first}, {second}");
            client.query("UNLISTEN a").await;
            assert_eq!(client.rows(LISTENED).await, ["b"], "{first}, {second}");
            client.query("UNLISTEN *").await;
            assert!(client.rows(LISTENED).await.is_empty(), "{first}, {second}");
            client.leave().await;
        }
    }
}
