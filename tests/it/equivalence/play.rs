//! Plays a script on one connection and writes down what came back.

use std::fmt::Write as _;

use super::script::{Compare, Script, Step};
use crate::support::raw::{End, Endpoint, Frame, RawClient};
use crate::support::say;

/// How the client's bytes are written.
#[derive(Debug, Clone, Copy)]
pub enum Pieces {
    /// Each step with one write.
    Whole,
    /// Broken once, behind this many bytes of the script.
    Split(usize),
    /// Each byte by itself.
    Bytes,
}

/// What the client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    pub frames: Vec<Frame>,
    pub end: Ending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The script was played to its end, and after `Terminate` the server closed.
    Left,
    /// The server closed although the script went on.
    Early(End),
    /// After a frame that is no protocol: the connection served on.
    WentOn,
}

/// Plays it from connect to close.
pub async fn play(script: &Script, endpoint: &Endpoint, pieces: Pieces) -> Transcript {
    let (mut client, greeting) = RawClient::start(endpoint, &script.startup).await;
    let mut frames = greeting;
    let mut sent = 0;
    for step in &script.steps {
        let end = match step {
            Step::Send(bytes) => {
                // Whoever has closed shows in what is read.
                let _ = send(&mut client, bytes, sent, pieces).await;
                sent += bytes.len();
                continue;
            }
            Step::Until { tag, n } => {
                let (more, end) = client.reader.until(*tag, *n).await;
                frames.extend(more);
                end
            }
            Step::Closed if script.compare == Compare::EndAndSqlstate => {
                let end = until_error_or_end(&mut client, &mut frames).await;
                return Transcript { frames: normal(frames, script.compare), end };
            }
            Step::Closed => {
                let (more, end) = client.reader.rest().await;
                frames.extend(more);
                Some(end)
            }
        };
        if let Some(end) = end {
            return Transcript { frames: normal(frames, script.compare), end: Ending::Early(end) };
        }
    }
    let (more, end) = client.leave().await;
    frames.extend(more);
    let end = if end == (End::Closed { inside: 0 }) { Ending::Left } else { Ending::Early(end) };
    Transcript { frames: normal(frames, script.compare), end }
}

/// `before`: bytes of the script that earlier steps have sent.
async fn send(client: &mut RawClient, bytes: &[u8], before: usize, pieces: Pieces) -> std::io::Result<()> {
    match pieces {
        Pieces::Split(at) if (before + 1..before + bytes.len()).contains(&at) => {
            let (head, tail) = bytes.split_at(at - before);
            client.send(head).await?;
            pause().await;
            client.send(tail).await
        }
        Pieces::Bytes => {
            for byte in bytes {
                client.send(std::slice::from_ref(byte)).await?;
                tokio::task::yield_now().await;
            }
            Ok(())
        }
        _ => client.send(bytes).await,
    }
}

/// Long enough for the other side to see the first piece alone, as a rule; the outcome may not depend on it.
async fn pause() {
    tokio::time::sleep(std::time::Duration::from_micros(300)).await;
}

/// Reads up to the first error, and finds out whether the connection goes on behind it.
async fn until_error_or_end(client: &mut RawClient, frames: &mut Vec<Frame>) -> Ending {
    let (more, end) = client.reader.until(b'E', 1).await;
    frames.extend(more);
    if let Some(end) = end {
        return Ending::Early(end);
    }
    let _ = client.send(&say::query("SELECT 'on'")).await;
    match client.reader.until(b'C', 1).await.1 {
        None => Ending::WentOn,
        Some(end) => Ending::Early(end),
    }
}

/// Only what cannot be the same is made the same: keys to cancel with, process ids in notifications and,
/// where a script says so, the place in the server's source.
fn normal(frames: Vec<Frame>, compare: Compare) -> Vec<Frame> {
    let without_number = |frame: Frame| {
        let rest = frame.body.get(4..).unwrap_or_default().to_vec();
        Frame { body: [b"pid:", &rest[..]].concat().into(), ..frame }
    };
    let normalised = frames.into_iter().map(|frame| match frame.tag {
        b'K' => Frame { body: vec![b'k'; frame.body.len()].into(), ..frame },
        b'A' => without_number(frame),
        b'E' if compare == Compare::BytesSaveSource => without_source(frame),
        _ => frame,
    });
    normalised.collect()
}

fn without_source(frame: Frame) -> Frame {
    let fields = frame.body.split(|&byte| byte == 0).filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
    Frame { body: fields.collect::<Vec<_>>().join(&0).into(), ..frame }
}

/// What is wrong with `seen`, where `expected` is what PostgreSQL itself said; `None` when nothing is.
pub fn difference(compare: Compare, expected: &Transcript, seen: &Transcript) -> Option<String> {
    if compare == Compare::EndAndSqlstate {
        return refused_alike(expected, seen);
    }
    if expected == seen {
        return None;
    }
    let same = expected.frames.iter().zip(&seen.frames).take_while(|(a, b)| a == b).count();
    let mut text = format!("{same} frames are the same, then");
    for (who, transcript) in [("PostgreSQL", expected), ("pgweir", seen)] {
        let _ = write!(text, "\n      {who}:");
        for frame in transcript.frames.iter().skip(same.saturating_sub(1)).take(5) {
            let _ = write!(text, "\n        {frame:?}");
        }
        if transcript.frames.len() <= same + 4 {
            let _ = write!(text, "\n        {:?}", transcript.end);
        }
    }
    Some(text)
}

/// PostgreSQL closes without a word, or for a lost connection, where a length cannot be; pgweir says why.
fn refused_alike(expected: &Transcript, seen: &Transcript) -> Option<String> {
    const PROTOCOL_VIOLATION: &str = "08P01";
    let first = |transcript: &Transcript| transcript.frames.iter().find_map(Frame::sqlstate);
    let closed = matches!(seen.end, Ending::Early(End::Closed { inside: 0 }));
    let (wanted, got) = (first(expected), first(seen));
    let same_code = got == wanted || got.as_deref() == Some(PROTOCOL_VIOLATION);
    if same_code && (closed || seen.end == expected.end) {
        return None;
    }
    Some(format!("PostgreSQL: {wanted:?}, {:?}; pgweir: {got:?}, {:?}", expected.end, seen.end))
}
