//! The whole proxy in front of real servers: letting clients in, reloading, ending.

use crate::support::fresh_database;
use crate::support::proxy::Proxy;

#[tokio::test]
async fn a_client_logs_in_and_gets_its_answer() {
    let database = fresh_database("CREATE TABLE t AS SELECT 42 AS x").await;
    let proxy = Proxy::for_shared_cluster("").await;
    let client = proxy.connect(&database.name).await;
    let rows = client.simple_query("SELECT x FROM t").await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(row, Some("42"));
    let row = client.query_one("SELECT x + $1 FROM t", &[&1i32]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 43);
}
