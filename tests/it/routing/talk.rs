//! Speaking SQL in each of the ways that drivers do, with parameters as text.

use std::error::Error;
use std::pin::pin;
use std::task::Poll;

use bytes::BytesMut;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

pub type Rows = Vec<Vec<Option<String>>>;

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One `Query`.
    Simple,
    /// The unnamed statement, all in one batch.
    Unnamed,
    /// A named statement: `Parse` and `Describe` in one batch, `Bind` and `Execute` in the next.
    Named,
}

/// Runs a statement and drops its rows.
pub async fn run(client: &Client, way: Way, sql: &str, params: &[Text]) -> Result<(), tokio_postgres::Error> {
    match way {
        Way::Simple => client.simple_query(sql).await.map(drop),
        Way::Unnamed => {
            let params: Vec<_> = params.iter().map(|param| (param as &(dyn ToSql + Sync), Type::UNKNOWN)).collect();
            client.query_typed(sql, &params).await.map(drop)
        }
        Way::Named => {
            let statement = client.prepare(sql).await?;
            let params: Vec<_> = params.iter().map(|param| param as &(dyn ToSql + Sync)).collect();
            client.query(&statement, &params).await.map(drop)
        }
    }
}

/// The rows of a simple `Query`.
pub async fn rows(client: &Client, sql: &str) -> Result<Rows, tokio_postgres::Error> {
    Ok(rows_of(client.simple_query(sql).await?))
}

/// The first column of its first row.
pub async fn value(client: &Client, sql: &str) -> String {
    let rows = rows(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {}", crate::support::chain(&error)));
    rows.into_iter().flatten().flatten().next().unwrap_or_else(|| panic!("{sql}: no rows"))
}

/// The rows of a prepared statement, whose columns are texts.
pub async fn prepared_rows(
    client: &Client,
    statement: &Statement,
    params: &[Text],
) -> Result<Rows, tokio_postgres::Error> {
    let params: Vec<_> = params.iter().map(|param| param as &(dyn ToSql + Sync)).collect();
    let rows = client.query(statement, &params).await?;
    let text = |row: &tokio_postgres::Row, at| row.get::<_, Option<Raw>>(at).map(|raw| raw.0);
    Ok(rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect()).collect())
}

/// Sends simple queries one behind the other without waiting for answers; the rows of all.
pub async fn pipeline(client: &Client, statements: &[String]) -> Result<Rows, tokio_postgres::Error> {
    let mut queries: Vec<_> = statements.iter().map(|sql| Box::pin(client.simple_query(sql))).collect();
    let mut answers: Vec<Option<_>> = queries.iter().map(|_| None).collect();
    // The first poll of each sends it.
    std::future::poll_fn(|cx| {
        for (query, answer) in queries.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
            if let Poll::Ready(outcome) = pin!(query).poll(cx) {
                *answer = Some(outcome);
            }
        }
        if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let mut rows = Vec::new();
    for answer in answers.into_iter().flatten() {
        rows.extend(rows_of(answer?));
    }
    Ok(rows)
}

/// The SQLSTATE of an error that a server (or the proxy) sent.
pub fn sqlstate(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("none", |code| code.code())
}

fn rows_of(messages: Vec<SimpleQueryMessage>) -> Rows {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
        _ => None,
    });
    rows.collect()
}

/// A parameter in text format, whatever its type.
#[derive(Debug, Clone)]
pub struct Text(pub String);

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A column's bytes, which are its text where the type is one of texts.
struct Raw(String);

impl FromSql<'_> for Raw {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(String::from_utf8(raw.to_vec())?))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
