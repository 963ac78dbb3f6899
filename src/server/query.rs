//! Our own questions to a server: catalog, probes, the monitor (PostgreSQL, "Simple Query").

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::reply::{ReadError, Replies, Reply};
use crate::wire::{author, guard};

/// A column in text format; `None` is NULL. Text that is not UTF-8 has its bad bytes replaced.
pub type Value = Option<String>;
/// One row, its values in the order of the columns.
pub type Row = Vec<Value>;

/// What a question came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// One for each statement that ran, empty for those without rows.
    pub sets: Vec<Vec<Row>>,
    /// Changed parameters (`ParameterStatus`) that came with it, in order.
    pub reports: Vec<(String, String)>,
    /// Bodies of the `NotificationResponse`s on the way: the server says them once.
    pub notifications: Vec<Vec<u8>>,
    /// Bodies of the `NoticeResponse`s.
    pub notices: Vec<Vec<u8>>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The server refused it. The connection is idle and good for the next one.
    #[error("{message} ({code})")]
    Server { code: String, message: String },
    /// The connection must be closed.
    #[error("connection lost during a query of pgweir's own: {0}")]
    Broken(String),
}

impl QueryError {
    /// The statement was cancelled (`57014`), by a request or by a timeout of the session's.
    pub fn is_cancel(&self) -> bool {
        matches!(self, Self::Server { code, .. } if code == "57014")
    }

    /// Whether the connection must be closed.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}

/// Runs `sql`, which may hold several statements and no NUL. On success and on
/// [`QueryError::Server`] the connection is idle outside of a transaction and read exactly up to
/// its ReadyForQuery.
///
/// `limit_bytes` bounds the rows together: more than that breaks the connection.
///
/// Not cancel-safe: close the connection of a dropped future.
pub async fn simple_query<S>(stream: &mut S, sql: &str, limit_bytes: usize) -> Result<Answer, QueryError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = BytesMut::new();
    author::query(&mut out, sql);
    stream.write_all(&out).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;

    let mut answer = Collector { left: limit_bytes, ..Collector::default() };
    let mut replies = Replies::default();
    loop {
        // An error text or a column list may be long although no row may.
        let reply = replies.next(stream, answer.left.max(LONGEST_OTHER)).await.map_err(|error| match error {
            ReadError::TooLong { tag: b'D', .. } => too_large(limit_bytes),
            error => broken(error),
        })?;
        if answer.take(reply, limit_bytes)? {
            return answer.result();
        }
    }
}

/// The longest message accepted that is not a row, in bytes.
const LONGEST_OTHER: usize = 64 * 1024;

#[derive(Default)]
struct Collector {
    answer: Answer,
    rows: Vec<Row>,
    error: Option<QueryError>,
    /// Bytes of rows still accepted.
    left: usize,
}

impl Collector {
    /// Takes in one message. True with the ReadyForQuery that ends the answer.
    fn take(&mut self, Reply { tag, body }: Reply, limit: usize) -> Result<bool, QueryError> {
        match tag {
            b'T' => {}
            b'N' => self.answer.notices.push(body),
            b'A' => self.answer.notifications.push(body),
            b'S' => self.answer.reports.push(guard::parameter_status(&body).map_err(broken)?),
            b'D' => {
                self.left = self.left.checked_sub(body.len()).ok_or_else(|| too_large(limit))?;
                self.rows.push(row(&body).ok_or_else(|| broken("malformed DataRow"))?);
            }
            b'C' | b'I' => self.answer.sets.push(std::mem::take(&mut self.rows)),
            b'E' => self.error = Some(server_error(&body)?),
            b'Z' => {
                return match guard::ready_for_query(&body).map_err(broken)? {
                    b'I' => Ok(true),
                    status => Err(broken(format!("left in a transaction (status '{}')", char::from(status)))),
                };
            }
            // A copy would wait for us, and anything else is none of our questions' answers.
            _ => return Err(broken(format!("unexpected message of type '{}'", char::from(tag).escape_default()))),
        }
        Ok(false)
    }

    fn result(self) -> Result<Answer, QueryError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.answer),
        }
    }
}

/// A DataRow: a count, then for each column a length (-1 for NULL) and its bytes.
fn row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        row.push(match i32::from_be_bytes(*length) {
            -1 => None,
            length => {
                let (value, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                Some(String::from_utf8_lossy(value).into_owned())
            }
        });
    }
    rest.is_empty().then_some(row)
}

/// A FATAL error is followed by the end of the connection.
fn server_error(body: &[u8]) -> Result<QueryError, QueryError> {
    let fields = guard::error_response(body).map_err(broken)?;
    let field = |tag| fields.iter().find(|(t, _)| *t == tag).map(|(_, text)| text.as_str()).unwrap_or_default();
    let (code, message) = (field(b'C'), field(b'M'));
    match field(b'V') {
        "FATAL" | "PANIC" => Err(broken(format!("{message} ({code})"))),
        _ => Ok(QueryError::Server { code: code.to_owned(), message: message.to_owned() }),
    }
}

fn too_large(limit: usize) -> QueryError {
    broken(format!("the rows take more than the {limit} bytes allowed"))
}

fn broken(reason: impl ToString) -> QueryError {
    QueryError::Broken(reason.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    /// What `simple_query` makes of a server that answers with these bytes, and what is left unread.
    async fn ask(answer: &[u8], limit: usize) -> (Result<Answer, QueryError>, Vec<u8>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut stream = ours;
        let result = simple_query(&mut stream, "SELECT", limit).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (result, rest)
    }

    const ROW: &[u8] = b"D\0\0\0\x10\0\x02\0\0\0\x02ab\xff\xff\xff\xff";
    const DONE: &[u8] = b"C\0\0\0\x06x\0Z\0\0\0\x05I";

    #[tokio::test]
    async fn rows_are_read_up_to_ready_for_query() {
        let notice = b"N\0\0\0\x05\0";
        let (result, rest) = ask(&[ROW, notice, ROW, DONE, notice].concat(), 100).await;
        let row = vec![Some("ab".to_owned()), None];
        let sets = vec![vec![row.clone(), row]];
        assert_eq!(result, Ok(Answer { sets, notices: vec![vec![0]], ..Answer::default() }));
        assert_eq!(rest, notice);
    }

    #[tokio::test]
    async fn an_error_leaves_the_connection_good_unless_it_is_fatal() {
        let (result, _) = ask(b"E\0\0\0\x13VERROR\0CX\0Mno\0\0Z\0\0\0\x05I", 100).await;
        assert_eq!(result, Err(QueryError::Server { code: "X".to_owned(), message: "no".to_owned() }));
        let (result, _) = ask(b"E\0\0\0\x13VFATAL\0CX\0Mno\0\0", 100).await;
        assert_eq!(result, Err(QueryError::Broken("no (X)".to_owned())));
    }

    #[tokio::test]
    async fn what_cannot_go_on_is_broken() {
        for (answer, limit) in [
            (&[ROW, ROW, DONE].concat()[..], 20),
            (b"Z\0\0\0\x05T", 20),
            (b"G\0\0\0\x07\0\0\0", 20),
            (b"D\0\0\0\x08\0\x01\0\0", 20),
            (b"D\x7f\xff\xff\xff", 20),
            (b"", 20),
        ] {
            let (result, _) = ask(answer, limit).await;
            assert!(result.as_ref().is_err_and(QueryError::is_broken), "{answer:?}: {result:?}");
        }
    }

    proptest! {
        #[test]
        fn no_row_panics(body in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..40)) {
            let _ = row(&body);
        }
    }
}
