//! The first promise: what a client gets through pgweir is, byte for byte, what PostgreSQL would have
//! sent it. Scripted conversations are played to the primary itself and through pgweir in each of its
//! deployments, with the client's bytes broken at every place.

mod copy;
mod extended;
mod malformed;
mod play;
mod script;
mod session;
mod simple;

use std::fmt::Write as _;

use crate::support::proxy::{Proxy, config_for};
use crate::support::raw::{Endpoint, RawClient};
use crate::support::say;
use crate::support::{TestDatabase, fresh_database, shared_cluster, unique};
use pgweir::sandbox::{Login, User};
use play::{Pieces, Transcript, difference, play};
use script::Script;

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
async fn what_is_no_protocol_is_refused_as_by_postgresql() {
    hold([malformed::scripts(), malformed::in_a_transaction()].concat()).await;
}

/// Plays all scripts everywhere, and fails with everything that was different.
async fn hold(scripts: Vec<Script>) {
    let stage = Stage::set().await;
    let direct = stage.endpoint(shared_cluster().await.primary().port);
    let mut deployments = Vec::new();
    for (name, broken_at, settings) in DEPLOYMENTS {
        let proxy = stage.proxy(settings).await;
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
            if let Some(text) = deployment.differs(script, &expected, &mut cleaner).await {
                count += 1;
                let _ = write!(failures, "\n  {}, {}: {text}", script.name, deployment.name);
            }
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
    ("transaction mode", 3, Settings { mode: "transaction", replicas: true, cache: "4MiB" }),
    ("no replicas", 8, Settings { mode: "transaction", replicas: false, cache: "64kB" }),
    ("session mode", 8, Settings { mode: "session", replicas: true, cache: "4MiB" }),
];

#[derive(Debug, Clone, Copy)]
struct Settings {
    mode: &'static str,
    replicas: bool,
    /// `prepared_cache`.
    cache: &'static str,
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

/// A user and a database with the tables that the scripts use.
struct Stage {
    database: TestDatabase,
    user: String,
}

impl Stage {
    async fn set() -> Self {
        let user = format!("wire_{}", unique());
        let users = [User::new(&user, "").login(Login::Trust)];
        shared_cluster().await.create_users(&users).await.expect("create the user");
        let database = fresh_database(&format!("{SCHEMA}\nCALL give_to('{user}');")).await;
        Self { database, user }
    }

    fn endpoint(&self, port: u16) -> Endpoint {
        Endpoint { port, user: self.user.clone(), database: self.database.name.clone() }
    }

    async fn proxy(&self, settings: &Settings) -> Proxy {
        let Settings { mode, replicas, cache } = settings;
        let mut config = format!("[pool]\nmode = \"{mode}\"\nsize = 3\nprepared_cache = \"{cache}\"\n");
        config += &config_for(shared_cluster().await, &[]);
        if !replicas {
            let lines = config.lines().filter(|line| !line.starts_with("replicas"));
            config = lines.collect::<Vec<_>>().join("\n");
        }
        Proxy::start(&format!("{config}\n[[users]]\nname = \"{}\"\nauth = \"trust\"\n", self.user)).await
    }
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
CREATE PROCEDURE give_to(who text) LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE format('GRANT ALL ON SCHEMA public, other TO %I', who);
    EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA public, other TO %I', who);
    EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO %I', who);
    EXECUTE format('ALTER TABLE shifting OWNER TO %I', who);
    EXECUTE format('ALTER TABLE retyped OWNER TO %I', who);
END $$;
";
