//! What settings of one's own cost, counted at the server's door: messages, and turns of the conversation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::primary_only;
use crate::support::proxy::Proxy;
use crate::support::raw::RawClient;
use crate::support::stage::Stage;
use crate::support::{say, shared_cluster};

/// Messages that the server has got on a connection, and how often it got something after it had said something.
#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    turns: AtomicU64,
}

/// Of every connection through the door. (pgweir has questions of its own, on a connection of its own.)
type All = Arc<Mutex<Vec<Arc<Counts>>>>;

/// What was counted since on the busiest of them.
fn since(before: &[(u64, u64)], all: &All) -> (u64, u64) {
    let nothing = std::iter::repeat(&(0, 0));
    let counted = seen(all).into_iter().zip(before.iter().chain(nothing));
    counted.map(|(now, before)| (now.0 - before.0, now.1 - before.1)).max().unwrap_or_default()
}

fn seen(all: &All) -> Vec<(u64, u64)> {
    let all = all.lock().unwrap();
    all.iter().map(|counts| (counts.messages.load(Ordering::SeqCst), counts.turns.load(Ordering::SeqCst))).collect()
}

/// A door before the server at which everybody is counted. Its port.
async fn door(server: u16, all: All) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let counts = Arc::<Counts>::default();
            all.lock().unwrap().push(counts.clone());
            tokio::spawn(pass(client, server, counts));
        }
    });
    port
}

async fn pass(mut client: TcpStream, mut server: TcpStream, counts: Arc<Counts>) {
    let (mut from_client, mut from_server) = (vec![0; 65536], vec![0; 65536]);
    // The startup packet has no tag.
    let (mut ahead, mut started, mut answered) = (Vec::new(), false, true);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(count @ 1..) = read else { return };
                ahead.extend_from_slice(&from_client[..count]);                while let Some(len) = whole(&ahead, started) {
                    ahead.drain(..len);
                    started = true;
                    counts.messages.fetch_add(1, Ordering::SeqCst);
                }
                counts.turns.fetch_add(u64::from(std::mem::take(&mut answered)), Ordering::SeqCst);
                server.write_all(&from_client[..count]).await.unwrap();
            }
            read = server.read(&mut from_server) => {
                let Ok(count @ 1..) = read else { return };
                answered = true;
                if client.write_all(&from_server[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Bytes of the first message, where it is there whole.
fn whole(bytes: &[u8], started: bool) -> Option<usize> {
    let tag = usize::from(started);
    let length = u32::from_be_bytes(bytes.get(tag..tag + 4)?.try_into().ok()?) as usize;
    (bytes.len() >= tag + length).then_some(tag + length)
}

/// Two clients take turns on one server connection: with settings of their own, each statement finds it with those of
/// the other.
#[tokio::test]
async fn two_settings_cost_one_message_and_no_turn_where_the_connection_changes_hands() {
    const ROUNDS: u64 = 50;
    let stage = Stage::set("CREATE TABLE t (x int); GRANT ALL ON t TO PUBLIC").await;
    let counts = All::default();
    let port = door(shared_cluster().await.primary().port, counts.clone()).await;
    let config = primary_only::config(shared_cluster().await, "[pool]\nsize = 1\n", &[]);
    let server = format!("127.0.0.1:{}", shared_cluster().await.primary().port);
    // Behind TLS there would be nothing to count.
    let config = config.replace(&server, &format!("127.0.0.1:{port}/?sslmode=disable"));
    let config = format!("{config}\n[[users]]\nname = \"{}\"\nauth = \"trust\"\n", stage.user);
    let proxy = Proxy::start(&config).await;
    for (settings, messages) in [
        (["SELECT 1", "SELECT 1"], 1),
        (
            ["SET work_mem = '5MB'; SET timezone = 'Asia/Tokyo'", "SET work_mem = '6MB'; SET timezone = 'Europe/Rome'"],
            2,
        ),
    ] {
        let mut clients = Vec::new();
        for settings in settings {
            let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
            client.rows(settings).await;
            client.rows("SELECT count(*) FROM t").await;
            clients.push(client);
        }
        for extended in [false, true] {
            let before = seen(&counts);
            for _ in 0..ROUNDS {
                for client in &mut clients {
                    match extended {
                        false => client.send(&say::query("SELECT x FROM t")).await.unwrap(),
                        true => client.send(&say::batch("SELECT x FROM t", &[])).await.unwrap(),
                    }
                    client.until_ready(1).await;
                }
            }
            // Parse, Bind, Execute and Sync are four of them.
            let own = if extended { 4 } else { 1 };
            let counted = since(&before, &counts);
            assert_eq!(counted, ((own + messages - 1) * 2 * ROUNDS, 2 * ROUNDS), "{settings:?}, extended: {extended}");
        }
    }
}
