//! What the drivers' tests, written for servers on fixed ports, and those in `tests` connect by.

pub use paste;
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Database, Pool};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: the tests are run by run.py"))
}

/// A connection string of a driver's test, or `host:port`, made to lead to this run's server.
pub fn here(string: &str) -> String {
    let mut string = string.replace("5433", &variable("PGPORT"));
    if string.contains("user=postgres") {
        string += &format!(" password={}", variable("PGPASSWORD"));
    }
    string
}

/// How the tests in `tests` connect.
pub fn parameters() -> String {
    here(&format!("host={} port=5433 user=postgres dbname={}", variable("PGHOST"), variable("PGDATABASE")))
}

pub fn setup_if_needed() {}

pub async fn new<DB: Database>() -> anyhow::Result<DB::Connection> {
    Ok(DB::Connection::connect(&variable("DATABASE_URL")).await?)
}

pub async fn pool<DB: Database>() -> anyhow::Result<Pool<DB>> {
    Ok(PoolOptions::new().max_connections(5).connect(&variable("DATABASE_URL")).await?)
}

/// Is a value the same to the server, and does it come back, bound to a prepared statement and in a simple query?
#[macro_export]
macro_rules! test_type {
    ($name:ident<$ty:ty>($($rest:tt)+)) => {
        $crate::test_prepared_type!($name<$ty>($($rest)+));
        $crate::test_unprepared_type!($name<$ty>($($rest)+));
    };
    ($name:ident($($rest:tt)+)) => { $crate::test_type!($name<$name>($($rest)+)); };
}

#[macro_export]
macro_rules! test_prepared_type {
    ($name:ident<$ty:ty>($db:ident, $sql:literal, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::paste::paste! {
            #[tokio::test]
            async fn [<test_prepared_type_ $name>]() -> anyhow::Result<()> {
                let mut connection = $crate::new::<$db>().await?;
                $(
                    let query = sqlx::AssertSqlSafe(format!($sql, $text));
                    let row = sqlx::query(query).bind($value).bind($value).fetch_one(&mut connection).await?;
                    let (same, first, second): (i32, $ty, $ty) = {
                        use sqlx::Row;
                        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)
                    };
                    assert_eq!(same, 1, "the server has another value for {}", $text);
                    assert!($value == first && $value == second, "{} came back as another value", $text);
                )+
                Ok(())
            }
        }
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::test_prepared_type!($name<$ty>($db,
            "SELECT ({0} IS NOT DISTINCT FROM $1)::int4, {0}, $2", $($text == $value),+));
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal ~= $value:expr),+ $(,)?)) => {
        $crate::test_prepared_type!($name<$ty>($db, "SELECT ({0} ~= $1)::int4, {0}, $2", $($text == $value),+));
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal @= $value:expr),+ $(,)?)) => {
        $crate::test_prepared_type!($name<$ty>($db,
            "SELECT (({0})::text = $1::text)::int4, {0}, $2", $($text == $value),+));
    };
    ($name:ident($($rest:tt)+)) => { $crate::test_prepared_type!($name<$name>($($rest)+)); };
}

#[macro_export]
macro_rules! test_unprepared_type {
    ($name:ident<$ty:ty>($db:ident, $sql:literal, $($rest:tt)+)) => {
        $crate::test_unprepared_type!($name<$ty>($db, $($rest)+));
    };
    ($name:ident<$ty:ty>($db:ident, $($text:literal $(==)? $(~=)? $(@=)? $value:expr),+ $(,)?)) => {
        $crate::paste::paste! {
            #[tokio::test]
            async fn [<test_unprepared_type_ $name>]() -> anyhow::Result<()> {
                use sqlx::{Executor, Row};
                let mut connection = $crate::new::<$db>().await?;
                $(
                    let query = sqlx::AssertSqlSafe(concat!("SELECT ", $text).to_owned());
                    let row = connection.fetch_one(sqlx::raw_sql(query)).await?;
                    let value: $ty = row.try_get(0)?;
                    assert!($value == value, "{} came back as another value", $text);
                )+
                Ok(())
            }
        }
    };
}

#[macro_export]
macro_rules! test_decode_type {
    ($name:ident<$ty:ty>($db:ident, $($text:literal == $value:expr),+ $(,)?)) => {
        $crate::paste::paste! {
            #[tokio::test]
            async fn [<test_decode_type_ $name>]() -> anyhow::Result<()> {
                use sqlx::Row;
                let mut connection = $crate::new::<$db>().await?;
                $(
                    let query = sqlx::AssertSqlSafe(concat!("SELECT ", $text).to_owned());
                    let value: $ty = sqlx::query(query).fetch_one(&mut connection).await?.try_get(0)?;
                    assert!($value == value, "{} came back as another value", $text);
                )+
                Ok(())
            }
        }
    };
    ($name:ident($($rest:tt)+)) => { $crate::test_decode_type!($name<$name>($($rest)+)); };
}
