//! A database and a user for conversations of raw bytes: the user is trusted, by the servers and by pgweir, so that
//! nothing but the conversation itself is in the bytes.

use pgweir::sandbox::{Login, User};

use super::proxy::config_for;
use super::raw::Endpoint;
use super::{TestDatabase, fresh_database, shared_cluster, unique};

pub struct Stage {
    pub database: TestDatabase,
    pub user: String,
}

impl Stage {
    /// Runs the schema as superuser. `give_to('user')`, if the schema has such a procedure, is called with the user.
    pub async fn set(schema: &str) -> Self {
        let user = format!("wire_{}", unique());
        let users = [User::new(&user, "").login(Login::Trust)];
        shared_cluster().await.create_users(&users).await.expect("create the user");
        let database = fresh_database(&format!("{schema};\nGRANT ALL ON SCHEMA public TO {user};")).await;
        Self { database, user }
    }

    pub fn endpoint(&self, port: u16) -> Endpoint {
        Endpoint { port, user: self.user.clone(), database: self.database.name.clone() }
    }

    /// The primary itself.
    pub async fn direct(&self) -> Endpoint {
        self.endpoint(shared_cluster().await.primary().port)
    }

    /// pgweir before the shared cluster, for this user; `more` comes first in the file.
    pub async fn config(&self, more: &str) -> String {
        let cluster = config_for(shared_cluster().await, &[]);
        format!("{more}\n{cluster}\n[[users]]\nname = \"{}\"\nauth = \"trust\"\n", self.user)
    }

    /// What the user's server connections are doing on the primary: one line each, without those that are idle
    /// outside a transaction.
    pub async fn busy_backends(&self) -> Vec<String> {
        let sql = format!(
            "SELECT pid, state, wait_event, left(query, 60) FROM pg_stat_activity
             WHERE usename = '{}' AND state IS DISTINCT FROM 'idle'",
            self.user
        );
        let lines = self.database.sql(&sql).await;
        lines.lines().map(ToOwned::to_owned).collect()
    }
}
