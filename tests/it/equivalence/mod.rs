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

use crate::support::raw::{Endpoint, RawClient};
use crate::support::say;
use crate::support::{TestDatabase, fresh_database, shared_cluster, unique};
use pgweir::sandbox::{Login, User};
use play::{Pieces, difference, play};
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
    let mut failures = Vec::new();
    let mut cleaner = RawClient::welcome(&direct).await;
    for script in &scripts {
        cleaner.rows("DELETE FROM journal; DELETE FROM copied").await;
        let expected = play(script, &direct, Pieces::Whole).await;
        cleaner.rows("DELETE FROM journal; DELETE FROM copied").await;
        let again = play(script, &direct, Pieces::Whole).await;
        if let Some(text) = difference(script.compare, &expected, &again) {
            failures.push(format!("{}: not repeatable on PostgreSQL itself: {text}", script.name));
        }
        if std::env::var("SHOW").is_ok() {
            println!("== {}\n{:#?} {:?}", script.name, expected.frames.iter().filter(|f| !matches!(f.tag, b'S' | b'K' | b'R')).map(|f| format!("{f:?}")).collect::<Vec<_>>(), expected.end);
        }
    }
    let count = failures.len();
    let text = failures.into_iter().fold(String::new(), |mut text, failure| {
        let _ = write!(text, "\n  {failure}");
        text
    });
    assert!(count == 0, "{count} conversations went otherwise:{text}");
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
        let database = fresh_database(&format!("{SCHEMA}\nGRANT ALL ON ALL TABLES IN SCHEMA public, other TO {user};\nGRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {user};\nGRANT ALL ON SCHEMA public, other TO {user};\nALTER TABLE shifting OWNER TO {user};\nALTER TABLE retyped OWNER TO {user};")).await;
        Self { database, user }
    }

    fn endpoint(&self, port: u16) -> Endpoint {
        Endpoint { port, user: self.user.clone(), database: self.database.name.clone() }
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
";
