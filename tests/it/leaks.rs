//! Many clients, each with state of its own, over few server connections, with errors, rollbacks, cancels and clients
//! that break off among them: nobody ever sees anything but his own. `PGWEIR_LEAK_OPERATIONS` makes it longer.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio_postgres::{Client, NoTls};

use crate::support::primary_only::{connect_cuttable, try_value};
use crate::support::proxy::Proxy;
use crate::support::{TestDatabase, chain, eventually, fresh_database, shared_cluster, unique};

const CLIENTS: u64 = 40;
/// Of each client.
const OPERATIONS: usize = 60;

/// Names of settings and the values that they are given, as the server shows them.
const SETTINGS: [(&str, [&str; 3]); 5] = [
    ("work_mem", ["1MB", "5MB", "64MB"]),
    ("search_path", ["one, public", "two, public", "public"]),
    ("app.tenant", ["acme", "globex", "it's"]),
    ("TimeZone", ["Asia/Tokyo", "Europe/Berlin", "America/New_York"]),
    ("bytea_output", ["escape", "hex", "escape"]),
];

struct World {
    url: String,
    roles: [String; 2],
}

/// What a client has made, and thinks that it has.
struct Actor {
    world: Arc<World>,
    random: StdRng,
    client: Client,
    connection: tokio::task::JoinHandle<()>,
    settings: BTreeMap<&'static str, &'static str>,
    role: Option<String>,
}

#[tokio::test]
async fn nobody_sees_what_another_has_made() {
    let operations = std::env::var("PGWEIR_LEAK_OPERATIONS").ok().map(|text| text.parse().expect("a number"));
    let roles = [format!("leak_{}", unique()), format!("leak {}", unique())];
    let database = fresh_database(&format!(
        "CREATE ROLE {}; CREATE ROLE \"{}\"; CREATE SCHEMA one; CREATE SCHEMA two; GRANT ALL ON SCHEMA one, two, public TO PUBLIC;
         CREATE TABLE one.who AS SELECT 'one' AS name; CREATE TABLE two.who AS SELECT 'two' AS name;
         CREATE TABLE public.who AS SELECT 'public' AS name; GRANT ALL ON one.who, two.who, public.who TO PUBLIC",
        roles[0], roles[1]
    ))
    .await;
    let proxy = Proxy::for_shared_cluster("[pool]\nsize = 4\nqueue_timeout = \"120s\"\n").await;
    let world = Arc::new(World { url: proxy.url(shared_cluster().await, "postgres", &database.name), roles });
    let play = |seed| {
        let world = world.clone();
        tokio::spawn(async move {
            let mut actor = Actor::enter(world, seed).await;
            for number in 0..operations.unwrap_or(OPERATIONS) {
                let done = actor.act().await;
                if let Err(wrong) = actor.look().await {
                    return Err(format!("client {seed}, operation {number}, {done}: {wrong}"));
                }
            }
            Ok(())
        })
    };
    let actors: Vec<_> = (0..CLIENTS).map(play).collect();
    for actor in actors {
        assert_eq!(actor.await.unwrap(), Ok(()));
    }
    nothing_is_left(&database).await;
    drop(proxy);
    let [one, two] = &world.roles;
    database.sql(&format!("DROP OWNED BY {one}, \"{two}\"; DROP ROLE {one}, \"{two}\"")).await;
}

/// When everybody has left, no lock is held.
async fn nothing_is_left(database: &TestDatabase) {
    let locks = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = '{}')",
        database.name
    );
    eventually("all locks are gone", async || {
        shared_cluster().await.primary().psql(&locks).await.unwrap().trim() == "0"
    })
    .await;
}

impl Actor {
    async fn enter(world: Arc<World>, seed: u64) -> Self {
        let (client, connection) = connect_cuttable(&world.url).await;
        let random = StdRng::seed_from_u64(seed);
        Self { world, random, client, connection, settings: BTreeMap::new(), role: None }
    }

    /// Does something by chance. Returns what, for the report.
    async fn act(&mut self) -> String {
        match self.random.random_range(0..18) {
            0..=3 => self.set("", |_| true).await,
            4 => self.set("BEGIN; SELECT 1", |random| random.random_bool(0.5)).await,
            5 => self.set_and_fail().await,
            6 => self.set_locally().await,
            7 => self.reset().await,
            8 | 9 => self.take_role().await,
            10 => self.discard().await,
            11 => self.run(&["SELECT pg_advisory_lock(1, 2)", "SELECT pg_advisory_unlock(1, 2)"]).await,
            12 => self.run(&["CREATE TEMP TABLE mine AS SELECT 1 AS x", "SELECT x FROM mine", "DROP TABLE mine"]).await,
            13 => self.run(&["LISTEN leak", "UNLISTEN leak"]).await,
            14 => self.prepare().await,
            15 => self.prepare_by_sql().await,
            16 => self.cancel().await,
            _ => self.leave().await,
        }
    }

    async fn execute(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", chain(&error)));
    }

    async fn run(&mut self, statements: &[&str]) -> String {
        for sql in statements {
            self.execute(sql).await;
        }
        statements.join("; ")
    }

    fn choose(&mut self) -> (&'static str, &'static str) {
        let (name, values) = SETTINGS.choose(&mut self.random).expect("there are some");
        (name, values.choose(&mut self.random).expect("there are some"))
    }

    /// Several settings, in a transaction that is committed or not, or in none.
    async fn set(&mut self, begin: &str, commits: impl Fn(&mut StdRng) -> bool) -> String {
        let chosen = [self.choose(), self.choose()];
        let mut sql = vec![begin.to_owned()];
        for (name, value) in chosen {
            let literal = value.replace('\'', "''");
            sql.push(match self.random.random_range(0..3) {
                0 if name != "search_path" => format!("SET {name} = '{literal}'"),
                0 => format!("SET search_path TO {value}"),
                1 => format!("SELECT set_config('{name}', '{literal}', false)"),
                _ => format!("WITH x AS (SELECT set_config('{name}', '{literal}', false)) SELECT * FROM x"),
            });
        }
        let commits = commits(&mut self.random);
        if !begin.is_empty() {
            sql.push(if commits { "COMMIT" } else { "ROLLBACK" }.to_owned());
        }
        // One after the other, or as one string.
        if self.random.random_bool(0.5) {
            for sql in &sql {
                self.execute(sql).await;
            }
        } else {
            self.execute(&sql.join("; ")).await;
        }
        if commits {
            self.settings.extend(chosen);
        }
        sql.join("; ")
    }

    async fn set_and_fail(&mut self) -> String {
        let (name, value) = self.choose();
        let sql = format!("SELECT set_config('{name}', '{}', false); SELECT 1/0", value.replace('\'', "''"));
        assert!(self.client.batch_execute(&sql).await.is_err(), "{sql}");
        sql
    }

    async fn set_locally(&mut self) -> String {
        let (name, value) = self.choose();
        let sql =
            format!("BEGIN; SELECT set_config('{name}', '{}', true); SELECT 1; COMMIT", value.replace('\'', "''"));
        self.execute(&sql).await;
        // Once it was set locally it is there for good, and empty.
        if name.contains('.') {
            self.settings.entry(name).or_insert("");
        }
        sql
    }

    async fn reset(&mut self) -> String {
        let (name, _) = self.choose();
        let sql = format!("RESET {name}");
        self.execute(&sql).await;
        match name.contains('.') {
            true => self.settings.insert(name, ""),
            false => self.settings.remove(name),
        };
        sql
    }

    async fn take_role(&mut self) -> String {
        let role = self.world.roles.choose(&mut self.random).cloned().filter(|_| self.random.random_bool(0.6));
        let sql = role.as_ref().map_or("RESET ROLE".to_owned(), |role| format!("SET ROLE \"{role}\""));
        self.execute(&sql).await;
        self.role = role;
        sql
    }

    async fn discard(&mut self) -> String {
        self.execute("DISCARD ALL").await;
        self.settings.retain(|name, _| name.contains('.'));
        self.settings.values_mut().for_each(|value| *value = "");
        self.role = None;
        "DISCARD ALL".to_owned()
    }

    /// A statement with a name, parsed under the settings of now.
    async fn prepare(&mut self) -> String {
        let sql = "SELECT name FROM who WHERE $1::int = 7";
        let statement = self.client.prepare(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", chain(&error)));
        let row =
            self.client.query_one(&statement, &[&7_i32]).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(row.get::<_, String>(0), self.own_schema());
        sql.to_owned()
    }

    /// Both kinds, under names that everybody uses.
    async fn prepare_by_sql(&mut self) -> String {
        let sql = "PREPARE leaking AS SELECT name FROM who";
        self.execute(sql).await;
        let statement = self.client.prepare("SELECT 7").await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let names = "SELECT string_agg(name ~ '^s[0-9]+$' || ' ' || from_sql, ', ' ORDER BY from_sql) FROM pg_prepared_statements";
        assert_eq!(self.see(names).await, Ok("true false, false true".to_owned()));
        assert_eq!(self.see("EXECUTE leaking").await, Ok(self.own_schema().to_owned()));
        self.execute("DEALLOCATE leaking").await;
        let row = self.client.query_one(&statement, &[]).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(row.get::<_, i32>(0), 7);
        sql.to_owned()
    }

    async fn cancel(&mut self) -> String {
        let token = self.client.cancel_token();
        let (slept, ()) = tokio::join!(self.client.batch_execute("SELECT pg_sleep(0.05)"), async {
            let pause = std::time::Duration::from_millis(u64::from(std::process::id() % 7) * 10);
            tokio::time::sleep(pause).await;
            token.cancel_query(NoTls).await.unwrap();
        });
        let cancelled = slept.is_err_and(|error| error.code().is_some_and(|code| code.code() == "57014"));
        format!("a sleep, cancelled: {cancelled}")
    }

    /// Breaks off in the middle of something, and comes back as somebody new.
    async fn leave(&mut self) -> String {
        let sql =
            "BEGIN; SET work_mem = '99MB'; SET ROLE pg_monitor; SELECT pg_advisory_lock(3, 4); SELECT pg_sleep(0.01)";
        let _ = tokio::time::timeout(std::time::Duration::from_millis(5), self.client.batch_execute(sql)).await;
        self.connection.abort();
        let seed = self.random.random();
        *self = Self::enter(self.world.clone(), seed).await;
        "broke off".to_owned()
    }

    fn own_schema(&self) -> &'static str {
        let path = self.settings.get("search_path").copied().unwrap_or("public");
        path.split(',').next().expect("a path has a first schema")
    }

    /// A cancel of the client's own that comes late may strike what it asks next, as with PostgreSQL.
    async fn see(&self, sql: &str) -> Result<String, String> {
        for _ in 0..2 {
            match try_value(&self.client, sql).await {
                Err(error) if error.code().is_some_and(|code| code.code() == "57014") => {}
                seen => return seen.map_err(|error| chain(&error)),
            }
        }
        try_value(&self.client, sql).await.map_err(|error| chain(&error))
    }

    /// Compares all that can be seen with what was made, on the primary and where reads go.
    async fn look(&mut self) -> Result<(), String> {
        for (name, _) in SETTINGS {
            let default = match name {
                "work_mem" => "4MB",
                "search_path" => "\"$user\", public",
                // The driver's own, at its startup.
                "TimeZone" => "UTC",
                "bytea_output" => "hex",
                // Empty or absent, as others have made it on that connection.
                _ => "",
            };
            let expected = self.settings.get(name).copied().unwrap_or(default);
            let seen = self.see(&format!("SELECT coalesce(current_setting('{name}', true), '')")).await?;
            if seen != expected {
                return Err(format!("{name} is {seen:?} and should be {expected:?}"));
            }
        }
        let who = "SELECT name || '|' || current_user FROM who";
        let expected = format!("{}|{}", self.own_schema(), self.role.as_deref().unwrap_or("postgres"));
        let seen = self.see(who).await?;
        if seen != expected {
            return Err(format!("who is there is {seen:?} and should be {expected:?}"));
        }
        Ok(())
    }
}
