//! The administrators' console: who connects to the database `pgweir` as a user with `admin = true` talks to pgweir
//! itself, in SQL's clothes, with psql or any driver that uses the simple query protocol (PostgreSQL, "Simple Query").

mod command;
mod tables;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Door;
use crate::net::Stream;
use crate::sql::commands;
use crate::wire::author;
use crate::wire::error::PgError;
use crate::wire::frame::{HEADER, backend, frontend, frontend_header};
use crate::wire::view;
use command::{Command, Outcome};

/// The longest message of an administrator, in bytes.
const LONGEST: usize = 64 * 1024;
/// The OID of `text`.
const TEXT: i32 = 25;

/// One administrator.
pub(super) struct Administrator {
    pub stream: Stream,
    /// Messages of the handshake that are not written yet.
    pub out: BytesMut,
    /// Bytes that came behind it.
    pub unread: BytesMut,
    pub user: String,
    pub peer: String,
}

/// Until the client leaves, or pgweir stops.
pub(super) async fn serve(door: &Door, administrator: Administrator) {
    let Administrator { mut stream, mut out, unread: mut inbound, user, peer } = administrator;
    greet(&mut out);
    let mut skipping = false;
    loop {
        while let Some(frame) = match take(&mut inbound) {
            Ok(frame) => frame,
            Err(error) => {
                error.encode(&mut out);
                let _ = write(&mut stream, &mut out).await;
                return;
            }
        } {
            match frame[0] {
                frontend::TERMINATE => return,
                frontend::QUERY => {
                    let text = view::query(&frame).map(String::from_utf8_lossy).unwrap_or_default();
                    run(door, &text, &user, &peer, &mut out);
                    author::ready_for_query(&mut out, b'I');
                }
                frontend::SYNC => {
                    skipping = false;
                    author::ready_for_query(&mut out, b'I');
                }
                _ if skipping => {}
                _ => {
                    skipping = true;
                    only_simple().encode(&mut out);
                }
            }
        }
        if write(&mut stream, &mut out).await.is_err() {
            return;
        }
        tokio::select! {
            read = stream.read_buf(&mut inbound) => {
                if !matches!(read, Ok(count) if count > 0) {
                    return;
                }
            }
            () = door.stops() => {
                PgError::fatal("57P01", "terminating connection due to administrator command").encode(&mut out);
                let _ = write(&mut stream, &mut out).await;
                return;
            }
        }
    }
}

/// Every statement of a text, up to the first that fails.
fn run(door: &Door, text: &str, user: &str, peer: &str, out: &mut BytesMut) {
    let statements = commands(text);
    if statements.is_empty() {
        author::message(out, backend::EMPTY_QUERY, |_| {});
    }
    for statement in statements {
        let command = command::parse(statement);
        // What only shows is nobody's concern.
        let matters = command.as_ref().map_or(true, Command::changes);
        let outcome = command.and_then(|command| command.run(door));
        if matters {
            let told = outcome.as_ref().map_or_else(|error| &*error.message, |_| "done");
            door.shared.metrics.audit.administered(user, peer, statement, told);
        }
        match outcome {
            Ok(Outcome::Done(tag)) => complete(out, &tag),
            Ok(Outcome::Rows(table)) => {
                description(out, table.columns);
                table.rows.iter().for_each(|row| data_row(out, row));
                complete(out, "SHOW");
            }
            Err(error) => return error.encode(out),
        }
    }
}

fn greet(out: &mut BytesMut) {
    let version = concat!("15.0 (pgweir ", env!("CARGO_PKG_VERSION"), ")");
    for (name, value) in [
        ("server_version", version),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
        ("DateStyle", "ISO"),
    ] {
        author::parameter_status(out, name, value);
    }
    author::backend_key_data(out, 0, &[0; 4]);
    author::ready_for_query(out, b'I');
}

/// The first whole message, if there is one.
fn take(inbound: &mut BytesMut) -> Result<Option<BytesMut>, PgError> {
    let malformed = |_| PgError::fatal("08P01", "invalid message format");
    let Some(header) = frontend_header(inbound).map_err(malformed)? else { return Ok(None) };
    if header.len > LONGEST {
        return Err(PgError::fatal("08P01", "invalid message length")
            .detail(format!("The message has {} bytes; the console takes {LONGEST}.", header.len)));
    }
    debug_assert!(header.len >= HEADER);
    Ok((inbound.len() >= header.len).then(|| inbound.split_to(header.len)))
}

fn only_simple() -> PgError {
    PgError::error("0A000", "pgweir's console speaks the simple query protocol")
        .hint("Use psql, or a driver's way to send a text without parameters.")
}

async fn write(stream: &mut Stream, out: &mut BytesMut) -> std::io::Result<()> {
    stream.write_all(&out.split()).await?;
    stream.flush().await
}

fn complete(out: &mut BytesMut, tag: &str) {
    author::message(out, backend::COMMAND_COMPLETE, |body| {
        body.put_slice(tag.as_bytes());
        body.put_u8(0);
    });
}

/// Columns of text.
fn description(out: &mut BytesMut, columns: &[&str]) {
    author::message(out, backend::ROW_DESCRIPTION, |body| {
        body.put_i16(columns.len() as i16);
        for column in columns {
            body.put_slice(column.as_bytes());
            body.put_u8(0);
            // Of no table; of text, which has no fixed length and no modifier; as text.
            body.put_i32(0);
            body.put_i16(0);
            body.put_i32(TEXT);
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_i16(0);
        }
    });
}

fn data_row(out: &mut BytesMut, row: &[Option<String>]) {
    author::message(out, backend::DATA_ROW, |body| {
        body.put_i16(row.len() as i16);
        for value in row {
            match value {
                None => body.put_i32(-1),
                Some(value) => {
                    body.put_i32(value.len() as i32);
                    body.put_slice(value.as_bytes());
                }
            }
        }
    });
}
