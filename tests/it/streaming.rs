//! What is larger than memory may be, and who leaves in the middle of it.

use std::time::Duration;

use crate::support::eventually;
use crate::support::process::Process;
use crate::support::raw::{Endpoint, RawClient, Writer};
use crate::support::say;
use crate::support::stage::Stage;

/// What memory may grow by while hundreds of megabytes pass.
const GROWTH: usize = 16 << 20;
const MEGABYTE: usize = 1 << 20;
const COPIED: usize = 300 * MEGABYTE;
const VALUE: usize = 200 * MEGABYTE;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_data_pass_in_both_directions() {
    let mut line = Line::open(2).await;
    let RawClient { mut reader, mut writer } = RawClient::welcome(&line.endpoint).await;
    writer.send(&say::query("COPY copied FROM STDIN")).await.unwrap();
    assert_eq!(reader.until(b'G', 1).await.1, None);
    // A megabyte in one frame, and another in many.
    let row = format!("1\t{}\n", "x".repeat(1021));
    let large = say::copy_data(&row.repeat(1024));
    let small = say::copy_data(&row).repeat(1024);
    for _ in 0..COPIED / MEGABYTE / 2 {
        writer.send(&large).await.unwrap();
        writer.send(&small).await.unwrap();
        line.weigh();
    }
    writer.send(&say::copy_done()).await.unwrap();
    let (frames, _) = reader.until(b'Z', 1).await;
    let rows = COPIED / 1024;
    assert!(frames[0].body.starts_with(format!("COPY {rows}\0").as_bytes()), "{frames:?}");

    writer.send(&say::query("COPY copied TO STDOUT")).await.unwrap();
    let (mut bytes, mut seen) = (0, 0);
    loop {
        match reader.skim().await.unwrap() {
            (b'Z', _) => break,
            (b'd', length) => (bytes, seen) = (bytes + length, seen + 1),
            _ => {}
        }
        if seen % 10_000 == 0 {
            line.weigh();
        }
    }
    assert_eq!((bytes, seen), (COPIED, rows));
    line.is_at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_row_of_200_mb_passes() {
    let mut line = Line::open(2).await;
    let mut client = RawClient::welcome(&line.endpoint).await;
    client.send(&say::query(&format!("SELECT repeat('r', {VALUE}) AS r"))).await.unwrap();
    let mut lengths = Vec::new();
    while lengths.last().is_none_or(|&(tag, _)| tag != b'Z') {
        lengths.push(client.reader.skim().await.unwrap());
        line.weigh();
    }
    assert!(lengths.contains(&(b'D', VALUE + 6)), "{lengths:?}");
    line.is_at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_parameter_of_200_mb_passes() {
    let mut line = Line::open(2).await;
    let mut client = RawClient::welcome(&line.endpoint).await;
    for statement in ["", "named"] {
        let sql = "SELECT length($1::text)";
        client.send(&[say::parse(statement, sql), say::sync()].concat()).await.unwrap();
        assert_eq!(client.until_ready(1).await.1, None);
        // Portal, statement, one text parameter: the head of a Bind whose value follows in pieces.
        let head = [b"\0", statement.as_bytes(), b"\0\0\0\0\x01", &(VALUE as u32).to_be_bytes()[..]].concat();
        client.send(&say::claiming(b'B', (4 + head.len() + VALUE + 2) as u32, &head)).await.unwrap();
        let piece = vec![b'p'; MEGABYTE];
        for _ in 0..VALUE / MEGABYTE {
            client.send(&piece).await.unwrap();
            line.weigh();
        }
        client.send(&[&[0, 0][..], &say::execute("", 0), &say::sync()].concat()).await.unwrap();
        let (frames, end) = client.until_ready(1).await;
        assert_eq!(end, None, "{frames:?}");
        let row = frames.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{frames:?}"));
        assert_eq!(row.values(), [Some(VALUE.to_string())]);
    }
    line.is_at_rest().await;
}

/// Both sides' buffers fill: the client sends on without reading what is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_long_before_it_reads_gets_every_answer() {
    const BATCHES: usize = 50_000;
    let mut line = Line::open(2).await;
    for sql in ["SELECT $1::text || repeat('a', 100)", "INSERT INTO journal VALUES ($1) RETURNING x"] {
        let RawClient { mut reader, mut writer } = RawClient::welcome(&line.endpoint).await;
        writer.send(&[say::parse("s", sql), say::sync()].concat()).await.unwrap();
        assert_eq!(reader.until(b'Z', 1).await.1, None);
        let sending = tokio::spawn(async move {
            send_batches(&mut writer, BATCHES).await;
            // Not closed: who has closed does not wait for the answers to what only reads.
            writer
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        line.weigh();
        for batch in 0..BATCHES {
            let (frames, end) = reader.until(b'Z', 1).await;
            assert_eq!(end, None, "batch {batch}: {frames:?}");
            let value = frames.iter().find(|frame| frame.tag == b'D').map(|row| row.values().swap_remove(0).unwrap());
            assert!(value.is_some_and(|value| value.starts_with(&format!("{batch:06}"))), "batch {batch}: {frames:?}");
            if batch % 5_000 == 0 {
                line.weigh();
            }
        }
        drop(sending.await.unwrap());
    }
    line.is_at_rest().await;
}

/// A result that nobody reads holds the server up, and costs pgweir no memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_costs_no_memory() {
    let mut line = Line::open(4).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = RawClient::welcome(&line.endpoint).await;
        client.send(&say::query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)")).await.unwrap();
        clients.push(client);
    }
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        line.weigh();
    }
    drop(clients);
    line.is_at_rest().await;
}

/// A client that is gone at any byte of what it says or is told: its transaction is rolled back, and its server
/// connection closed or ready for the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disappears_leaves_nothing() {
    let mut line = Line::open(2).await;
    let insert = "INSERT INTO journal VALUES ('gone')";
    let conversations: Vec<Vec<u8>> = vec![
        [say::query("BEGIN"), say::query(insert), say::query("SELECT pg_sleep(0.01)")].concat(),
        [say::run("BEGIN", &[]), say::run(insert, &[]), say::sync(), say::run(insert, &[]), say::flush()].concat(),
        [say::query("BEGIN"), say::query("COPY journal FROM STDIN"), say::copy_data("gone\ngone\n")].concat(),
        [say::query("COPY journal FROM STDIN"), say::copy_data("gone\ngone\n")].concat(),
        [say::run("COPY journal FROM STDIN", &[]), say::copy_data("gone\n"), say::sync()].concat(),
        say::query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"),
        say::query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT"),
        say::query("BEGIN; SELECT pg_advisory_xact_lock(1)"),
        say::run(insert, &[]),
    ];
    for conversation in &conversations {
        for cut in (1..=conversation.len()).rev().step_by(3) {
            let mut client = RawClient::welcome(&line.endpoint).await;
            client.send(&conversation[..cut]).await.unwrap();
            if cut % 2 == 0 {
                // Something of the answer has been read, and more is on its way.
                let _ = tokio::time::timeout(Duration::from_millis(3), client.frame()).await;
            }
            drop(client);
        }
        line.is_at_rest().await;
    }
    let mut client = RawClient::welcome(&line.endpoint).await;
    assert_eq!(client.rows("SELECT count(*) FROM journal WHERE x = 'gone'").await, ["0"]);
}

/// A client that is gone while 200 MB are half-way to the server, or from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disappears_in_a_large_message_leaves_nothing() {
    let mut line = Line::open(1).await;
    let head = [b"\0\0\0\0\0\x01", &(VALUE as u32).to_be_bytes()[..]].concat();
    let parameter =
        [say::parse("", "SELECT length($1::text)"), say::claiming(b'B', (4 + head.len() + VALUE + 2) as u32, &head)];
    let copy = [say::query("COPY journal FROM STDIN"), say::claiming(b'd', 100 << 20, b"")];
    for start in [parameter.concat(), copy.concat()] {
        let mut client = RawClient::welcome(&line.endpoint).await;
        client.send(&start).await.unwrap();
        for _ in 0..10 {
            client.send(&vec![b'p'; MEGABYTE]).await.unwrap();
        }
        drop(client);
        line.is_at_rest().await;
    }
    let mut client = RawClient::welcome(&line.endpoint).await;
    client.send(&say::query(&format!("SELECT repeat('r', {VALUE}) AS r"))).await.unwrap();
    client.frame().await.unwrap();
    drop(client);
    line.is_at_rest().await;
}

/// pgweir in a process that is weighed, with so many server connections.
struct Line {
    process: Process,
    stage: Stage,
    endpoint: Endpoint,
    size: usize,
    resident: usize,
}

impl Line {
    async fn open(size: usize) -> Self {
        let stage = Stage::set("CREATE TABLE copied (a int, b text); CREATE TABLE journal (x text)").await;
        stage.database.sql(&format!("GRANT ALL ON copied, journal TO {}", stage.user)).await;
        let process = Process::start(&stage.config(&format!("[pool]\nsize = {size}\n")).await);
        let endpoint = stage.endpoint(process.port);
        RawClient::welcome(&endpoint).await.rows("SELECT 1").await;
        let resident = process.resident();
        Self { process, stage, endpoint, size, resident }
    }

    fn weigh(&mut self) {
        let grown = self.process.resident().saturating_sub(self.resident);
        assert!(grown < GROWTH, "memory has grown by {} kB", grown >> 10);
    }

    /// Nothing runs and no transaction is open on the servers, and every connection of the pool can be had.
    async fn is_at_rest(&mut self) {
        self.process.assert_sound();
        eventually("no server connection is left busy", async || self.stage.busy_backends().await.is_empty()).await;
        let mut clients = Vec::new();
        for _ in 0..self.size {
            let mut client = RawClient::welcome(&self.endpoint).await;
            let frames = client.query("BEGIN; SELECT 'free'").await;
            assert!(frames.iter().all(|frame| frame.tag != b'E'), "a connection of the pool is lost: {frames:?}");
            clients.push(client);
        }
        for client in clients {
            client.leave().await;
        }
        self.weigh();
    }
}

async fn send_batches(writer: &mut Writer, batches: usize) {
    for batch in 0..batches {
        writer.send(&say::again("s", &[&format!("{batch:06}")])).await.unwrap();
    }
}
