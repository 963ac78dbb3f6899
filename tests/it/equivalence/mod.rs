//! The first promise: what a client gets through pgweir is, byte for byte, what PostgreSQL would have
//! sent it. Scripted conversations are played to the primary itself and through pgweir in each of its
//! deployments, with the client's bytes broken at every place.

mod copy;
mod extended;
mod known;
mod malformed;
mod play;
mod prepared;
mod script;
mod session;
mod simple;

use std::fmt::Write as _;

use crate::support::proxy::Proxy;
use crate::support::raw::{Endpoint, RawClient};
use crate::support::stage::Stage;
use crate::support::{say, shared_cluster};
use known::known;
use play::{Pieces, Transcript, difference, play};
use script::{Script, Step};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simple_queries_are_answered_as_by_postgresql() {
    hold(simple::scripts()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_extended_protocol_is_answered_as_by_postgresql() {
    hold(extended::scripts()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_is_answered_as_by_postgresql() {
    hold(copy::scripts()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_what_it_has_made() {
    hold(session::scripts()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_statements_of_both_kinds_are_as_in_postgresql() {
    hold(prepared::scripts()).await;
}

/// Another client's statements are on the only server connection, under the same names; whatever anybody does, each
/// has his own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_statements_are_each_clients_own() {
    let stage = stage().await;
    let direct = stage.direct().await;
    let proxy = proxy(&stage, &Settings { mode: "transaction", replicas: false, cache: "4MiB", size: 1 }).await;
    let through = stage.endpoint(proxy.port);
    let mut cleaner = RawClient::welcome(&direct).await;
    let mut failures = Vec::new();
    for script in prepared::scripts().iter().filter(|script| chosen(script)) {
        clean(&mut cleaner).await;
        let expected = play(script, &direct, Pieces::Whole).await;
        let mut other = RawClient::welcome(&through).await;
        other
            .send(&[say::parse("s", "SELECT 's of another'"), say::parse("w", "SELECT 1"), say::sync()].concat())
            .await
            .unwrap();
        assert_eq!(other.until_ready(1).await.1, None);
        clean(&mut cleaner).await;
        let seen = play(script, &through, Pieces::Whole).await;
        failures.extend(difference(script.compare, &expected, &seen).map(|text| format!("{}: {text}", script.name)));
        other.send(&say::again("s", &[])).await.unwrap();
        let (frames, end) = other.until_ready(1).await;
        assert!(end.is_none() && frames.iter().any(|frame| frame.tag == b'D'), "{}: {frames:?}", script.name);
        let names = "SELECT string_agg(name, ',' ORDER BY name) FROM pg_prepared_statements";
        assert_eq!(other.rows(names).await, ["s,w"], "{}", script.name);
        other.leave().await;
    }
    assert!(failures.is_empty(), "{} conversations went otherwise:\n  {}", failures.len(), failures.join("\n  "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_protocol_is_refused_as_by_postgresql() {
    hold([malformed::scripts(), malformed::in_a_transaction()].concat()).await;
}

/// The second promise. Each script is played on the pool's only connection, whole and up to a place in
/// its middle where the client vanishes; then the next client looks around.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_session_shows_in_the_next() {
    let stage = stage().await;
    let direct = stage.direct().await;
    let proxy = proxy(&stage, &Settings { mode: "transaction", replicas: false, cache: "4MiB", size: 1 }).await;
    let through = stage.endpoint(proxy.port);
    let mut cleaner = RawClient::welcome(&direct).await;
    let untouched = look_around(&through).await;
    let scripts =
        [simple::scripts(), extended::scripts(), copy::scripts(), session::scripts(), prepared::scripts()].concat();
    let mut failures = Vec::new();
    for script in scripts.iter().filter(|script| chosen(script)) {
        for leaves in 0..=3 {
            clean(&mut cleaner).await;
            let length = script.length();
            match leaves {
                0 => drop(play(script, &through, Pieces::Whole).await),
                part => vanish(script, &through, length * part / 4).await,
            }
            let seen = look_around(&through).await;
            if seen != untouched {
                failures.push(format!("{}, left after {leaves}/4: {seen:?}", script.name));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "otherwise {untouched:?}; these left something:\n  {}", failures.join("\n  "));
}

/// Whoever drops all statements of his session leaves others theirs, whenever he had prepared to do so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_drop_all_others_drop_their_own_sessions() {
    let stage = stage().await;
    let proxy = proxy(&stage, &Settings { mode: "transaction", replicas: false, cache: "4MiB", size: 1 }).await;
    for end in [say::flush(), say::sync()] {
        for name in ["", "d"] {
            let mut one = RawClient::welcome(&stage.endpoint(proxy.port)).await;
            let mut two = RawClient::welcome(&stage.endpoint(proxy.port)).await;
            let waits = end == say::sync();
            if !waits {
                two.send(&[say::parse("x", "SELECT 42"), say::sync()].concat()).await.unwrap();
                assert_eq!(two.until_ready(1).await.1, None);
            }
            one.send(&[say::parse(name, "DISCARD ALL"), end.clone()].concat()).await.unwrap();
            assert_eq!(one.reader.until(b'1', 1).await.1, None);
            if waits {
                two.send(&[say::parse("x", "SELECT 42"), say::sync()].concat()).await.unwrap();
                assert_eq!(two.until_ready(1).await.1, None);
            }
            one.send(&say::again(name, &[])).await.unwrap();
            assert_eq!(one.until_ready(if waits { 2 } else { 1 }).await.1, None);
            two.query("BEGIN").await;
            two.send(&say::again("x", &[])).await.unwrap();
            let (frames, end) = two.until_ready(1).await;
            assert!(end.is_none() && frames.iter().any(|frame| frame.tag == b'D'), "{frames:?}");
        }
    }
}

/// While the catalog is read again, a `COPY` with a list of columns counts as one that may do anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_goes_on_while_the_schema_changes() {
    let stage = stage().await;
    let proxy = proxy(&stage, &Settings { mode: "transaction", replicas: false, cache: "4MiB", size: 3 }).await;
    let mut one = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let (mut two, _) = RawClient::start(&stage.endpoint(proxy.port), &[("TimeZone", "Asia/Tokyo")]).await;
    two.rows("SELECT abs(1)").await;
    for round in 0..10 {
        one.rows(&format!("ALTER TABLE shifting ALTER x SET STATISTICS {round}")).await;
        two.send(&say::query("COPY copied (a, b) FROM STDIN")).await.unwrap();
        assert_eq!(two.reader.until(b'G', 1).await.1, None);
        two.send(&[say::copy_data("1\tx\n"), say::copy_done()].concat()).await.unwrap();
        assert_eq!(two.until_ready(1).await.1, None, "round {round}");
    }
}

/// What a new client finds: settings that are not what they are at the start of a session, and whatever else a
/// server session can hold.
async fn look_around(endpoint: &Endpoint) -> Vec<String> {
    let mut client = RawClient::welcome(endpoint).await;
    let frames = client.query(LOOK_AROUND).await;
    frames.iter().filter(|frame| matches!(frame.tag, b'D' | b'E')).map(|frame| format!("{frame:?}")).collect()
}

const LOOK_AROUND: &str = "
SELECT 'setting', name, setting FROM pg_settings WHERE setting IS DISTINCT FROM reset_val
  AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable')
UNION ALL SELECT 'listening', c, '' FROM pg_listening_channels() c
UNION ALL SELECT 'lock', locktype, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'
UNION ALL SELECT 'temporary', relname, '' FROM pg_class WHERE relnamespace = pg_my_temp_schema()
UNION ALL SELECT 'prepared', name, statement FROM pg_prepared_statements
UNION ALL SELECT 'cursor', name, statement FROM pg_cursors WHERE name <> ''
UNION ALL SELECT 'user', current_user, session_user
ORDER BY 1, 2";

/// Plays the beginning of a script without waiting for answers, and is gone.
async fn vanish(script: &Script, endpoint: &Endpoint, after: usize) {
    let (mut client, _) = RawClient::start(endpoint, &script.startup).await;
    let mut left = after;
    for step in &script.steps {
        let Step::Send(bytes) = step else { continue };
        let count = left.min(bytes.len());
        let _ = client.send(&bytes[..count]).await;
        left -= count;
    }
    // Half of them leave before anything can have happened.
    if after.is_multiple_of(2) {
        let _ = tokio::time::timeout(std::time::Duration::from_millis(2), client.frame()).await;
    }
}

/// Plays all scripts everywhere, and fails with everything that was different.
async fn hold(scripts: Vec<Script>) {
    let stage = stage().await;
    let direct = stage.direct().await;
    let mut deployments = Vec::new();
    for (name, broken_at, settings) in DEPLOYMENTS {
        let proxy = proxy(&stage, settings).await;
        deployments.push(Deployment {
            name,
            broken_at: *broken_at,
            endpoint: stage.endpoint(proxy.port),
            _proxy: proxy,
        });
    }
    let mut cleaner = RawClient::welcome(&direct).await;
    let mut failures = String::new();
    let mut count = 0;
    for script in scripts.iter().filter(|script| chosen(script)) {
        clean(&mut cleaner).await;
        let expected = play(script, &direct, Pieces::Whole).await;
        for deployment in &deployments {
            let text = match (deployment.differs(script, &expected, &mut cleaner).await, known(script.name)) {
                (None, None) | (Some(_), Some(_)) => continue,
                (Some(text), None) => text,
                (None, Some(why)) => format!("is the same, and known.rs says: {why}"),
            };
            count += 1;
            let _ = write!(failures, "\n  {}, {}: {text}", script.name, deployment.name);
        }
    }
    assert!(count == 0, "{count} conversations went otherwise:{failures}");
}

/// All of them, or those whose name has a part that was asked for: `SCRIPT='early Sync' cargo test …`.
fn chosen(script: &Script) -> bool {
    std::env::var("SCRIPT").map_or(true, |part| script.name.contains(&part))
}

/// Each play finds the same rows.
async fn clean(cleaner: &mut RawClient) {
    cleaner.rows("DELETE FROM journal; DELETE FROM copied").await;
}

/// How pgweir can stand before the servers: a name, in how many places a script is broken at most,
/// and the settings of the pool, with replicas or without.
const DEPLOYMENTS: &[(&str, usize, Settings)] = &[
    ("transaction mode", 400, Settings { mode: "transaction", replicas: true, cache: "4MiB", size: 3 }),
    ("no replicas", 8, Settings { mode: "transaction", replicas: false, cache: "64kB", size: 3 }),
    ("session mode", 8, Settings { mode: "session", replicas: true, cache: "4MiB", size: 3 }),
];

#[derive(Debug, Clone, Copy)]
struct Settings {
    mode: &'static str,
    replicas: bool,
    /// `prepared_cache`.
    cache: &'static str,
    size: usize,
}

struct Deployment {
    name: &'static str,
    broken_at: usize,
    endpoint: Endpoint,
    _proxy: Proxy,
}

impl Deployment {
    /// What is different here, in the first of the plays that differ.
    async fn differs(&self, script: &Script, expected: &Transcript, cleaner: &mut RawClient) -> Option<String> {
        for pieces in self.pieces(script.length()) {
            clean(cleaner).await;
            let seen = play(script, &self.endpoint, pieces).await;
            if let Some(text) = difference(script.compare, expected, &seen) {
                return Some(format!("{pieces:?}: {text}"));
            }
        }
        None
    }

    /// Twice whole, because the second time finds what the first has prepared.
    fn pieces(&self, length: usize) -> Vec<Pieces> {
        // Beyond this, the bytes are those of values, one like the other.
        const LONGEST_BYTEWISE: usize = 4_000;
        let mut pieces = vec![Pieces::Whole, Pieces::Whole];
        if length <= LONGEST_BYTEWISE {
            pieces.push(Pieces::Bytes);
        }
        let places = self.broken_at.min(if length <= LONGEST_BYTEWISE { usize::MAX } else { 8 });
        let every = length.div_ceil(places).max(1);
        pieces.extend((1..length).step_by(every).map(Pieces::Split));
        pieces
    }
}

/// The database with the tables that the scripts use.
async fn stage() -> Stage {
    let stage = Stage::set(SCHEMA).await;
    stage.database.sql(&format!("CALL give_to('{}')", stage.user)).await;
    shared_cluster().await.wait_replayed().await.expect("replay");
    stage
}

async fn proxy(stage: &Stage, settings: &Settings) -> Proxy {
    let Settings { mode, replicas, cache, size } = settings;
    let pool = format!("[pool]\nmode = \"{mode}\"\nsize = {size}\nprepared_cache = \"{cache}\"\n");
    let config = stage.config(&pool).await;
    let lines = config.lines().filter(|line| *replicas || !line.starts_with("replicas"));
    Proxy::start(&lines.collect::<Vec<_>>().join("\n")).await
}

const SCHEMA: &str = "
CREATE TABLE numbers (n int PRIMARY KEY, word text NOT NULL);
INSERT INTO numbers SELECT n, 'word ' || n FROM generate_series(1, 20) n;
CREATE TABLE journal (x text);
CREATE TABLE copied (a int, b text);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE shifting (x int);
INSERT INTO shifting VALUES (1);
CREATE TABLE retyped (x int);
INSERT INTO retyped VALUES (1);
CREATE SEQUENCE counter;
CREATE SEQUENCE own_counter;
CREATE SCHEMA other;
CREATE TABLE other.elsewhere AS SELECT 1 AS x;
CREATE FUNCTION fails(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN $1 / 0; END $$;
CREATE FUNCTION sets_zone(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN set_config('TimeZone', $1, false); END $$;
CREATE VIEW own_statements AS SELECT name, from_sql FROM pg_prepared_statements;
CREATE FUNCTION count_statements() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM pg_prepared_statements';
CREATE FUNCTION count_statements_by_text() RETURNS bigint LANGUAGE plpgsql AS
    $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT count(*) FROM pg_prepared_statements' INTO n; RETURN n; END $$;
CREATE PROCEDURE give_to(who text) LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE format('GRANT ALL ON SCHEMA public, other TO %I', who);
    EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA public, other TO %I', who);
    EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO %I', who);
    EXECUTE format('ALTER TABLE shifting OWNER TO %I', who);
    EXECUTE format('ALTER TABLE retyped OWNER TO %I', who);
END $$;
";
