//! The model that the ledger is tested against, tested against PostgreSQL itself: random scripts are
//! played to a real server over a socket, and its answers must be those of the model, tag by tag.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[allow(dead_code)] // The unit tests and the fuzz targets use the rest.
#[path = "../../src/session/ledger/tests/model.rs"]
mod model;
#[path = "../../src/session/ledger/tests/scripts.rs"]
mod scripts;

use model::{Message, Server, Statement};

use crate::support::{fresh_database, shared_cluster};

/// What the statements of the model need.
const SCHEMA: &str = "
    CREATE TABLE takes (x int);
    CREATE VIEW refuses AS SELECT 1 AS x;
    CREATE TABLE rejects (x int);
    CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'rejected'; END $$;
    CREATE TRIGGER reject AFTER INSERT ON rejects FOR EACH STATEMENT EXECUTE FUNCTION reject();
    CREATE TABLE fails_at_commit (x int UNIQUE DEFERRABLE INITIALLY DEFERRED);
";

/// Scripts played in one run; each is a connection of its own.
const SCRIPTS: u32 = 300;

#[tokio::test]
async fn the_model_answers_as_postgresql_does() {
    let database = fresh_database(SCHEMA).await;
    let server = shared_cluster().await.primary();
    let socket = server.socket_dir.join(format!(".s.PGSQL.{}", server.port));
    let name = database.name.clone();
    let played = tokio::task::spawn_blocking(move || {
        let config = Config { cases: SCRIPTS, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
        TestRunner::new(config).run(&scripts::script(), |script| {
            let script = without_leftovers(&script);
            let stream = UnixStream::connect(&socket).expect("the server's socket");
            let answers = play(stream, &name, &script).expect("the conversation");
            prop_assert_eq!(readable(&answers), readable(&expected(&script)));
            Ok(())
        })
    });
    if let Err(failure) = played.await.unwrap() {
        panic!("{failure}");
    }
}

/// PostgreSQL keeps the portal of a query that has failed in a transaction but not what it points to, and crashes
/// where that is executed. Another portal that cannot be executed stands in for it.
fn without_leftovers(script: &[Message]) -> Vec<Message> {
    let mut server = Server::default();
    let mut safe = Vec::new();
    for (number, message) in script.iter().enumerate() {
        let leftover = matches!(message, Message::Execute(_)) && server.has_leftover_portal();
        safe.push(if leftover { Message::ExecuteNowhere } else { message.clone() });
        server.read(number, message);
    }
    safe
}

/// The server drops on `Terminate` what it has not flushed.
const END: [Message; 2] = [Message::Flush, Message::Terminate];

/// What the model answers, as tags and status bytes.
fn expected(script: &[Message]) -> Vec<u8> {
    let mut server = Server::default();
    let mut answers = Vec::new();
    for (number, message) in script.iter().chain(&END).enumerate() {
        for frame in server.read(number, message).0 {
            answers.push(frame.tag);
            answers.extend((frame.tag == b'Z').then_some(frame.status));
        }
    }
    answers
}

/// What the server answers, likewise, once it has let us in.
fn play(mut stream: UnixStream, database: &str, script: &[Message]) -> std::io::Result<Vec<u8>> {
    let mut out = startup(database);
    script.iter().chain(&END).enumerate().for_each(|(number, message)| put(&mut out, number, message));
    stream.write_all(&out)?;
    let mut answers = Vec::new();
    let mut greeted = false;
    let mut header = [0; 5];
    while stream.read_exact(&mut header).is_ok() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize - 4;
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        match header[0] {
            b'Z' if !greeted => greeted = true,
            _ if !greeted => {}
            // Comes when it comes.
            b'S' => {}
            b'Z' => answers.extend([b'Z', body[0]]),
            tag => answers.push(tag),
        }
    }
    Ok(answers)
}

fn readable(answers: &[u8]) -> String {
    String::from_utf8_lossy(answers).into_owned()
}

fn startup(database: &str) -> Vec<u8> {
    let parameters = format!("user\0postgres\0database\0{database}\0\0");
    let mut packet = (parameters.len() as u32 + 8).to_be_bytes().to_vec();
    packet.extend((3u32 << 16).to_be_bytes());
    packet.extend(parameters.bytes());
    packet
}

fn put(out: &mut Vec<u8>, number: usize, message: &Message) {
    let (tag, body) = match message {
        Message::Query(statements) => {
            let text: Vec<_> = statements.iter().map(|statement| sql(*statement)).collect();
            (b'Q', format!("{}\0", text.join(";")).into_bytes())
        }
        // pg_backend_pid(), and a function that does not exist.
        Message::FunctionCall(exists) => {
            let oid: u32 = if *exists { 2026 } else { 1 };
            (b'F', [&oid.to_be_bytes()[..], &[0; 6]].concat())
        }
        Message::Parse(statement) => (b'P', format!("\0{}\0\0\0", sql(*statement)).into_bytes()),
        Message::Bind => (b'B', vec![0; 8]),
        Message::DescribeStatement => (b'D', b"S\0".to_vec()),
        Message::DescribePortal => (b'D', b"P\0".to_vec()),
        Message::Execute(limit) => (b'E', vec![0, 0, 0, 0, *limit]),
        Message::ExecuteNowhere => (b'E', b"nowhere\0\0\0\0\0".to_vec()),
        Message::ParseOther => (b'P', format!("other{number}\0SELECT 1\0\0\0").into_bytes()),
        Message::CloseOther => (b'C', b"Sother\0".to_vec()),
        Message::CloseStatement => (b'C', b"S\0".to_vec()),
        Message::ClosePortal => (b'C', b"P\0".to_vec()),
        Message::Flush => (b'H', Vec::new()),
        Message::Sync => (b'S', Vec::new()),
        Message::CopyData(good) => (b'd', if *good { b"1\n".to_vec() } else { b"bad\n".to_vec() }),
        Message::CopyDone => (b'c', Vec::new()),
        Message::CopyFail => (b'f', b"enough\0".to_vec()),
        Message::Terminate => (b'X', Vec::new()),
    };
    out.push(tag);
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(body);
}

/// A statement that does what the model says.
fn sql(statement: Statement) -> String {
    match statement {
        Statement::Empty => String::new(),
        Statement::Select(rows) => format!("SELECT x FROM generate_series(1, {rows}) x"),
        Statement::Set => "SET work_mem = '4MB'".into(),
        Statement::Notice => "DO $$ BEGIN RAISE NOTICE 'noted'; END $$".into(),
        Statement::FailsInParse => "SELECT no_such_column".into(),
        Statement::FailsInBind => "SELECT 1 / 0".into(),
        Statement::FailsInExecute => "SELECT 1 / (random() * 0)::int".into(),
        Statement::FailsAtCommit => "INSERT INTO fails_at_commit VALUES (1), (1)".into(),
        Statement::Begin => "BEGIN".into(),
        Statement::Commit => "COMMIT".into(),
        Statement::Rollback => "ROLLBACK".into(),
        Statement::CopyOut => "COPY (SELECT 1) TO STDOUT".into(),
        Statement::CopyInMissing => "COPY missing FROM STDIN".into(),
        Statement::CopyIn => "COPY takes FROM STDIN".into(),
        Statement::CopyInRefused => "COPY refuses FROM STDIN".into(),
        Statement::CopyInRejected => "COPY rejects FROM STDIN".into(),
    }
}
