//! The sender of a notification is named by the process id that its client was told at login, whoever else has used the
//! server process that it came from.

use std::collections::BTreeMap;

use crate::support::proxy::Proxy;
use crate::support::raw::{Frame, RawClient};
use crate::support::stage::Stage;
use crate::support::{eventually, say, shared_cluster};

/// A client with the process id of its `BackendKeyData`.
struct Known {
    client: RawClient,
    process: i32,
}

impl Known {
    async fn welcome(stage: &Stage, proxy: &Proxy, parameters: &[(&str, &str)]) -> Self {
        let (client, greeting) = RawClient::start(&stage.endpoint(proxy.port), parameters).await;
        let key = greeting.iter().find(|frame| frame.tag == b'K').unwrap_or_else(|| panic!("{greeting:?}"));
        Self { process: process_of(key), client }
    }

    /// Sends all at once, and reads all answers.
    async fn say(&mut self, bytes: &[u8], answers: usize) -> Vec<Frame> {
        self.client.send(bytes).await.unwrap();
        let (frames, end) = self.client.until_ready(answers).await;
        assert_eq!(end, None, "{frames:?}");
        frames
    }
}

/// The first number of a frame.
fn process_of(frame: &Frame) -> i32 {
    i32::from_be_bytes(frame.body[..4].try_into().unwrap())
}

/// Senders by payload, up to the payload `end`.
async fn senders(listener: &mut RawClient) -> BTreeMap<String, i32> {
    let mut senders = BTreeMap::new();
    loop {
        let frame = listener.frame().await.unwrap_or_else(|end| panic!("{end:?} after {senders:?}"));
        assert_eq!(frame.tag, b'A', "{frame:?}");
        let texts: Vec<_> = frame.body[4..].split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        if texts[1] == "end" {
            return senders;
        }
        senders.insert(texts[1].to_string(), process_of(&frame));
    }
}

/// Ways of notifying; `@` is for the payload.
const WAYS: &[&[&str]] = &[
    // Each text is sent when the one before it is answered.
    &["NOTIFY c, '@'"],
    &["SELECT pg_notify('c', '@')"],
    &["SELECT say('@')"],
    &["INSERT INTO t VALUES ('@')"],
    &["BEGIN", "NOTIFY c, '@'", "COMMIT"],
    &["BEGIN", "SELECT 1", "INSERT INTO t VALUES ('@')", "COMMIT"],
    &["BEGIN READ ONLY", "NOTIFY c, '@'", "COMMIT"],
    &["BEGIN", "SAVEPOINT s", "NOTIFY c, 'never'", "ROLLBACK TO s", "NOTIFY c, '@'", "COMMIT"],
    &["BEGIN", "NOTIFY c, 'never'", "ROLLBACK"],
    &["BEGIN", "NOTIFY c, 'never'", "SELECT 1/0", "NOTIFY c, 'never'", "COMMIT"],
    &["BEGIN; NOTIFY c, '@'; COMMIT"],
    &["SELECT 1/0; NOTIFY c, 'never'"],
    &["CREATE TEMP TABLE x ()", "NOTIFY c, '@'", "DROP TABLE x"],
    &["SET app.x = '@'", "NOTIFY c, '@'", "RESET app.x"],
    &["SELECT 1"],
];

#[tokio::test]
async fn notifications_name_their_sender_as_its_client_knows_itself() {
    let schema = "CREATE TABLE t (x text);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_notify('c', NEW.x); RETURN NEW; END $$;
        CREATE FUNCTION say(text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('c', $1); END $$;
        CREATE TRIGGER told AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION tell();
        GRANT ALL ON t TO PUBLIC";
    let stage = Stage::set(schema).await;
    let proxy = Proxy::start(&stage.config("[pool]\nsize = 1\n").await).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Known::welcome(&stage, &proxy, &[]).await);
    }
    clients[0].say(&say::query("SELECT say('nobody listens, and the catalog is there')"), 1).await;
    let mut listener = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    listener.rows("LISTEN c").await;
    let mut other = Known::welcome(&stage, &proxy, &[("client_encoding", "LATIN1")]).await;

    let mut wanted = BTreeMap::new();
    for round in 0..WAYS.len() * 3 {
        if round == WAYS.len() {
            // Another one who listens, who has heard of nobody.
            other.say(&say::query("LISTEN c"), 1).await;
        }
        // Whoever comes next has another way than the last time.
        let (who, way) = (round % 3, WAYS[(round + round / WAYS.len()) % WAYS.len()]);
        for extended in [false, true] {
            let sender = &mut clients[who];
            let payload = format!("{round} {extended}");
            let batch = |text: &str| if extended { say::batch(text, &[]) } else { say::query(text) };
            let texts: Vec<_> = way.iter().map(|text| text.replace('@', &payload)).collect();
            let single = texts.iter().all(|text| !text.contains("; "));
            if way.iter().any(|text| text.contains('@')) && (single || !extended) {
                wanted.insert(payload, sender.process);
            }
            if round / WAYS.len() == 1 && single {
                // All at once: as batches of their own.
                sender.say(&texts.iter().flat_map(|text| batch(text)).collect::<Vec<_>>(), texts.len()).await;
            } else if round / WAYS.len() == 2 && extended && single {
                // In one batch.
                let all: Vec<_> = texts.iter().flat_map(|text| say::run(text, &[])).chain(say::sync()).collect();
                if sender.say(&all, 1).await.last().unwrap().status() != Some(b'I') {
                    sender.say(&say::query("ROLLBACK"), 1).await;
                }
            } else {
                for text in &texts {
                    sender.say(&batch(text), 1).await;
                }
            }
        }
    }
    clients[2].say(&say::query("NOTIFY c, 'end'"), 1).await;
    assert_eq!(senders(&mut listener).await, wanted);

    // Its own as well; and another listening connection knows nobody who has introduced himself to the last one.
    clients[0].say(&say::query("NOTIFY c, 'last'"), 1).await;
    assert_eq!(process_of(&listener.frame().await.unwrap()), clients[0].process);
    let own = clients[1].say(&say::query("LISTEN c; NOTIFY c, 'own'"), 1).await;
    let named: Vec<_> = own.iter().filter(|frame| frame.tag == b'A').map(process_of).collect();
    assert_eq!(named, [clients[1].process], "{own:?}");
}

/// Who has asked the server for it goes by that number, to himself and to others, as he keeps the process.
#[tokio::test]
async fn who_knows_his_server_process_goes_by_that() {
    let stage = Stage::set("SELECT 1").await;
    let proxy = Proxy::start(&stage.config("[pool]\nsize = 2\n").await).await;
    let mut listener = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    listener.rows("LISTEN c").await;
    let mut sender = Known::welcome(&stage, &proxy, &[]).await;
    sender.say(&say::query("NOTIFY c, 'before'"), 1).await;
    assert_eq!(process_of(&listener.frame().await.unwrap()), sender.process);
    let process: i32 = sender.client.rows("SELECT pg_backend_pid()").await[0].parse().unwrap();
    for text in ["NOTIFY c, 'others'", "BEGIN; NOTIFY c, 'in a transaction'; COMMIT"] {
        sender.say(&say::query(text), 1).await;
        assert_eq!(process_of(&listener.frame().await.unwrap()), process, "{text}");
    }
    for text in ["LISTEN c; NOTIFY c, 'own'", "NOTIFY c, 'own again'"] {
        let frames = sender.say(&say::query(text), 1).await;
        let named: Vec<_> = frames.iter().filter(|frame| frame.tag == b'A').map(process_of).collect();
        assert_eq!(named, [process], "{text}: {frames:?}");
        assert_eq!(process_of(&listener.frame().await.unwrap()), process, "{text}");
    }
    // Also within the transaction in which he asks.
    let mut asking = Known::welcome(&stage, &proxy, &[]).await;
    let text = "BEGIN; SELECT pg_backend_pid(); LISTEN c; NOTIFY c, 'asking'; COMMIT";
    let frames = asking.say(&say::query(text), 1).await;
    let asked = frames.iter().find(|frame| frame.tag == b'D').unwrap().values().remove(0).unwrap();
    let named: Vec<_> = frames.iter().filter(|frame| frame.tag == b'A').map(process_of).collect();
    assert_eq!(named, [asked.parse::<i32>().unwrap()], "{frames:?}");
    listener.frame().await.unwrap();
    drop(asking);
    // Whoever has the process next is somebody else.
    drop(sender);
    let mut next = Known::welcome(&stage, &proxy, &[]).await;
    next.say(&say::query("NOTIFY c, 'next'"), 1).await;
    assert_eq!(process_of(&listener.frame().await.unwrap()), next.process);
    // Also to who begins to listen to another channel, and hears with his own server connection meanwhile.
    listener.send(&say::query("LISTEN d; SELECT pg_sleep(0.5)")).await.unwrap();
    let sleeps = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE 'LISTEN d%'",
        stage.database.name
    );
    eventually("it sleeps", async || shared_cluster().await.primary().psql(&sleeps).await.unwrap().trim() == "1").await;
    next.say(&say::query("NOTIFY c, 'meanwhile'"), 1).await;
    let (frames, _) = listener.until_ready(1).await;
    let named: Vec<_> = frames.iter().filter(|frame| frame.tag == b'A').map(process_of).collect();
    assert_eq!(named, [next.process], "{frames:?}");
}

/// Who introduces himself does so outside of a transaction that is to be prepared: one that has notified cannot be.
#[tokio::test]
async fn what_may_notify_by_a_trigger_does_not_within_a_transaction() {
    let schema = "CREATE TABLE t (x text);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.x <> 'quiet' THEN PERFORM pg_notify('c', NEW.x); END IF; RETURN NEW; END $$;
        CREATE TRIGGER told AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION tell();
        GRANT ALL ON t TO PUBLIC";
    let stage = Stage::set(schema).await;
    let proxy = Proxy::start(&stage.config("[pool]\nsize = 2\n").await).await;
    let mut sender = Known::welcome(&stage, &proxy, &[]).await;
    sender.say(&say::query("INSERT INTO t VALUES ('nobody listens, and the catalog is there')"), 1).await;
    sender.say(&say::query("BEGIN"), 1).await;
    let mut listener = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    listener.rows("LISTEN c").await;
    let frames = sender.say(&say::query("INSERT INTO t VALUES ('quiet')"), 1).await;
    assert_eq!(frames.last().unwrap().status(), Some(b'T'), "{frames:?}");
    let frames = sender.say(&say::query("PREPARE TRANSACTION 'quiet'"), 1).await;
    assert_eq!(frames.iter().find_map(Frame::sqlstate), None, "{frames:?}");
    sender.say(&say::query("INSERT INTO t VALUES ('loud'); NOTIFY c, 'end'"), 1).await;
    assert_eq!(senders(&mut listener).await, BTreeMap::from([("loud".to_owned(), sender.process)]));
    sender.say(&say::query("ROLLBACK PREPARED 'quiet'"), 1).await;
}
