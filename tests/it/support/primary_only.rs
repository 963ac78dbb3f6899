//! A proxy in front of one server alone, where pools and sessions are to be looked at without routing
//! having a say in it.

use pgweir::sandbox::Sandbox;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::proxy::{Proxy, config_for};
use super::{TestDatabase, chain, shared_cluster};

/// In front of the shared cluster's primary, for its superuser. `more` comes first in the file.
pub async fn proxy(more: &str) -> Proxy {
    Proxy::start(&config(shared_cluster().await, more, &["postgres"])).await
}

/// The same for a sandbox of the test's own, and for some of its users.
pub fn config(sandbox: &Sandbox, more: &str, users: &[&str]) -> String {
    let all = config_for(sandbox, users);
    let lines = all.lines().filter(|line| !line.starts_with("replicas = "));
    lines.fold(format!("{more}\n"), |text, line| text + line + "\n")
}

/// A client whose socket can be cut: aborting the task closes it without a goodbye.
pub async fn connect_cuttable(url: &str) -> (Client, JoinHandle<()>) {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.unwrap_or_else(|error| panic!("connecting: {}", chain(&error)));
    let task = tokio::spawn(async move {
        // How it ends is seen on the client's side.
        let _ = connection.await;
    });
    (client, task)
}

/// The first column of the only row of a simple query.
pub async fn value(client: &Client, sql: &str) -> String {
    try_value(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {}", chain(&error)))
}

/// The same, or the error.
pub async fn try_value(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    Ok(row.unwrap_or_default())
}

/// SQLSTATE of an error that a server or the proxy sent.
pub fn sqlstate(error: &tokio_postgres::Error) -> &str {
    error.code().unwrap_or_else(|| panic!("no SQLSTATE but {}", chain(error))).code()
}

/// Process ids of the server connections of a database, in ascending order.
pub async fn backends(database: &TestDatabase) -> Vec<String> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'client backend' AND application_name <> 'pgweir catalog' ORDER BY 1",
        database.name
    );
    // From another database, so as not to be counted itself.
    let pids = shared_cluster().await.primary().psql(&sql).await.unwrap();
    pids.lines().map(ToOwned::to_owned).collect()
}
