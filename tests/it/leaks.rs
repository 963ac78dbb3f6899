//! Many clients, each with state of its own, over few server connections, with errors, rollbacks, cancels, clients that
//! break off, killed server processes and a failover among them: nobody ever sees anything but his own.
//!
//! `PGWEIR_LEAK_CLIENTS` and `PGWEIR_LEAK_OPERATIONS` (of each client) make it larger and longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pgweir::sandbox::{Sandbox, SandboxOptions, Server, StopMode};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error, NoTls};

use crate::support::primary_only::try_value;
use crate::support::proxy::{Proxy, config_for};
use crate::support::{chain, eventually, fresh_database, shared_cluster, start, unique};

/// How many there are, and how many operations of each, where the environment says nothing else.
const CLIENTS: u64 = 40;
const OPERATIONS: u64 = 40;
/// Server connections on each host, and how many of them may be kept by sessions that need one to themselves.
const POOL: &str = "[pool]\nsize = 4\nqueue_timeout = \"120s\"\n";
const MOST_KEPT: usize = 2;

/// Names of settings and the values that they are given, as the server shows them.
const SETTINGS: [(&str, [&str; 3]); 5] = [
    ("work_mem", ["1MB", "5MB", "64MB"]),
    ("search_path", ["one, public", "two, public", "public"]),
    ("app.tenant", ["acme", "globex", "it's"]),
    ("TimeZone", ["Asia/Tokyo", "Europe/Berlin", "America/New_York"]),
    ("bytea_output", ["escape", "hex", "escape"]),
];

/// With which a server or pgweir says that the client's connection ends, or that there is no server for the moment.
const ENDS: [&str; 4] = ["57P01", "57P02", "08006", "25006"];

struct World {
    url: String,
    roles: [String; 2],
    /// For state that keeps a server connection.
    may_keep: Arc<Semaphore>,
    /// Server processes are killed: connections are lost.
    is_rough: bool,
    transactions: AtomicU64,
    lost: AtomicU64,
}

/// What a client has made, and thinks that it has.
struct Actor {
    world: Arc<World>,
    random: StdRng,
    client: Client,
    connection: JoinHandle<()>,
    settings: BTreeMap<&'static str, &'static str>,
    role: Option<String>,
    channels: BTreeSet<&'static str>,
    kept: Option<Kept>,
}

/// State that only one server connection has.
struct Kept {
    /// As [`Actor::holds`] shows it.
    shown: String,
    /// How it shows that it is there and works, and its answer.
    works: (String, String),
    undo: String,
    _permit: OwnedSemaphorePermit,
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

impl World {
    /// The roles and tables that the actors need.
    fn schema(roles: &[String; 2]) -> String {
        format!(
            "CREATE ROLE \"{}\"; CREATE ROLE \"{}\"; CREATE SCHEMA one; CREATE SCHEMA two;
             GRANT ALL ON SCHEMA one, two, public TO PUBLIC;
             CREATE TABLE one.who AS SELECT 'one' AS name; CREATE TABLE two.who AS SELECT 'two' AS name;
             CREATE TABLE public.who AS SELECT 'public' AS name;
             GRANT ALL ON one.who, two.who, public.who TO PUBLIC",
            roles[0], roles[1]
        )
    }

    fn new(url: String, roles: [String; 2], is_rough: bool) -> Arc<Self> {
        let may_keep = Arc::new(Semaphore::new(MOST_KEPT));
        Arc::new(Self { url, roles, may_keep, is_rough, transactions: AtomicU64::new(0), lost: AtomicU64::new(0) })
    }

    /// Every client does what it does, and looks around after each operation.
    async fn play(self: &Arc<Self>) {
        let operations = from_environment("PGWEIR_LEAK_OPERATIONS", OPERATIONS);
        let play = |seed| {
            let world = self.clone();
            tokio::spawn(async move {
                let mut actor = Actor::enter(world, seed).await;
                for number in 0..operations {
                    if let Err(wrong) = actor.act_and_look().await {
                        return Err(format!("client {seed}, operation {number}: {wrong}"));
                    }
                }
                Ok(())
            })
        };
        let actors: Vec<_> = (0..from_environment("PGWEIR_LEAK_CLIENTS", CLIENTS)).map(play).collect();
        for actor in actors {
            assert_eq!(actor.await.unwrap(), Ok(()));
        }
        let [transactions, lost] = [&self.transactions, &self.lost].map(|count| count.load(Ordering::Relaxed));
        println!("{transactions} transactions, {lost} connections lost");
        assert!(!self.is_rough || lost > 0, "nothing was lost: it was not rough");
    }
}

#[tokio::test]
async fn nobody_sees_what_another_has_made() {
    let roles = [format!("leak_{}", unique()), format!("leak {}", unique())];
    let database = fresh_database(&World::schema(&roles)).await;
    let proxy = Proxy::for_shared_cluster(POOL).await;
    let cluster = shared_cluster().await;
    let world = World::new(proxy.url(cluster, "postgres", &database.name), roles, false);
    world.play().await;
    nothing_is_left(cluster.primary(), &database.name).await;
    drop(proxy);
    let [one, two] = &world.roles;
    database.sql(&format!("DROP OWNED BY \"{one}\", \"{two}\"; DROP ROLE \"{one}\", \"{two}\"")).await;
}

/// The same while server processes are killed, and while another server becomes the primary.
#[tokio::test]
async fn nobody_sees_what_another_has_made_when_servers_are_lost() {
    let sandbox = start(SandboxOptions { replicas: 2, ..SandboxOptions::default() }).await;
    // Which of them is the primary is asked.
    let config = config_for(&sandbox, &["postgres"]).replace("primary = ", "hosts = [").replace("\nreplicas = [", ", ");
    let proxy = Proxy::start(&format!("{POOL}\n{config}")).await;
    let roles = ["leak one".to_owned(), "leak_two".to_owned()];
    sandbox.primary().psql(&World::schema(&roles)).await.unwrap();
    sandbox.wait_replayed().await.unwrap();
    let world = World::new(proxy.url(&sandbox, "postgres", "postgres"), roles, true);
    let (one, two) = (&sandbox.replicas()[0], &sandbox.replicas()[1]);
    let rough = async {
        let mut primary = sandbox.primary();
        for round in 0.. {
            kill_somebody(primary).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if round == 20 {
                switch_over(&sandbox, one, two).await;
                primary = one;
            }
        }
    };
    tokio::select! {
        () = world.play() => {}
        () = rough => {}
    }
    nothing_is_left(one, "postgres").await;
}

/// Ends one of the server processes that serve pgweir's clients.
async fn kill_somebody(server: &Server) {
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'
        AND pid <> pg_backend_pid() AND application_name NOT LIKE 'pgweir%' ORDER BY random() LIMIT 1";
    server.psql(kill).await.unwrap();
}

async fn switch_over(sandbox: &Sandbox, heir: &Server, other: &Server) {
    sandbox.primary().stop(StopMode::Fast).await.unwrap();
    heir.promote().await.unwrap();
    for follower in [sandbox.primary(), other] {
        follower.follow(heir).await.unwrap();
    }
}

/// When everybody has left, no lock is held.
async fn nothing_is_left(server: &Server, database: &str) {
    let locks = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
         AND database = (SELECT oid FROM pg_database WHERE datname = '{database}')"
    );
    eventually("all locks are gone", async || server.psql(&locks).await.unwrap().trim() == "0").await;
}

/// Why an operation was not completed.
enum Trouble {
    /// The connection is lost, or there is no server.
    Ended(String),
    Wrong(String),
}

type Done<T = String> = Result<T, Trouble>;

impl Actor {
    async fn enter(world: Arc<World>, seed: u64) -> Self {
        let mut attempts = 0;
        let (client, connection) = loop {
            match tokio_postgres::connect(&world.url, NoTls).await {
                Ok(connected) => break connected,
                Err(error) if !world.is_rough || attempts == 600 => panic!("{}", chain(&error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            attempts += 1;
        };
        let connection = tokio::spawn(async move {
            // How it ends is seen on the client's side.
            let _ = connection.await;
        });
        let random = StdRng::seed_from_u64(seed);
        let (settings, channels) = (BTreeMap::new(), BTreeSet::new());
        Self { world, random, client, connection, settings, role: None, channels, kept: None }
    }

    /// Comes back as somebody new, who has nothing.
    async fn enter_anew(&mut self) {
        self.connection.abort();
        let seed = self.random.random();
        // What it kept goes with its connection, and others may keep something again.
        self.kept = None;
        *self = Self::enter(self.world.clone(), seed).await;
    }

    async fn act_and_look(&mut self) -> Result<(), String> {
        let (done, trouble) = match self.act().await {
            Ok(done) => (done, self.look().await.err()),
            Err(trouble) => ("what it did".to_owned(), Some(trouble)),
        };
        match trouble {
            None => Ok(()),
            Some(Trouble::Ended(_)) if self.world.is_rough => {
                self.world.lost.fetch_add(1, Ordering::Relaxed);
                self.enter_anew().await;
                Ok(())
            }
            Some(Trouble::Ended(wrong) | Trouble::Wrong(wrong)) => Err(format!("{done}: {wrong}")),
        }
    }

    /// Does something by chance. Returns what, for the report.
    async fn act(&mut self) -> Done {
        match self.random.random_range(0..21) {
            0..=3 => self.set("", |_| true).await,
            4 => self.set("BEGIN; SELECT 1", |random| random.random_bool(0.5)).await,
            5 => self.set_and_fail().await,
            6 => self.set_locally().await,
            7 => self.reset().await,
            8 | 9 => self.take_role().await,
            10 => self.discard().await,
            11 | 12 => self.listen().await,
            13..=15 => self.keep().await,
            16 | 17 => self.prepare().await,
            18 => self.prepare_by_sql().await,
            19 => self.cancel().await,
            _ => self.leave().await,
        }
    }

    fn trouble(&self, sql: &str, error: &Error) -> Trouble {
        let text = format!("{sql}: {}", chain(error));
        let ended = self.client.is_closed() || error.code().is_some_and(|code| ENDS.contains(&code.code()));
        if ended { Trouble::Ended(text) } else { Trouble::Wrong(text) }
    }

    async fn execute(&self, sql: &str) -> Done<()> {
        self.world.transactions.fetch_add(1, Ordering::Relaxed);
        self.client.batch_execute(sql).await.map_err(|error| self.trouble(sql, &error))
    }

    /// A statement that has to fail with this SQLSTATE.
    async fn fails(&self, sql: &str, code: &str) -> Done<()> {
        match self.client.batch_execute(sql).await {
            Err(error) if error.code().is_some_and(|found| found.code() == code) => Ok(()),
            Err(error) => Err(self.trouble(sql, &error)),
            Ok(()) => Err(Trouble::Wrong(format!("{sql} did not fail"))),
        }
    }

    fn choose(&mut self) -> (&'static str, &'static str) {
        let (name, values) = SETTINGS.choose(&mut self.random).expect("there are some");
        (name, values.choose(&mut self.random).expect("there are some"))
    }

    /// Several settings, in a transaction that is committed or not, or in none.
    async fn set(&mut self, begin: &str, commits: impl Fn(&mut StdRng) -> bool) -> Done {
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
                self.execute(sql).await?;
            }
        } else {
            self.execute(&sql.join("; ")).await?;
        }
        if commits {
            self.settings.extend(chosen);
        }
        Ok(sql.join("; "))
    }

    async fn set_and_fail(&mut self) -> Done {
        let (name, value) = self.choose();
        let sql = format!("SELECT set_config('{name}', '{}', false); SELECT 1/0", value.replace('\'', "''"));
        self.fails(&sql, "22012").await?;
        Ok(sql)
    }

    async fn set_locally(&mut self) -> Done {
        let (name, value) = self.choose();
        let sql =
            format!("BEGIN; SELECT set_config('{name}', '{}', true); SELECT 1; COMMIT", value.replace('\'', "''"));
        self.execute(&sql).await?;
        // Once it was set locally it is there for good, and empty.
        if name.contains('.') {
            self.settings.entry(name).or_insert("");
        }
        Ok(sql)
    }

    async fn reset(&mut self) -> Done {
        let (name, _) = self.choose();
        let sql = format!("RESET {name}");
        self.execute(&sql).await?;
        match name.contains('.') {
            true => self.settings.insert(name, ""),
            false => self.settings.remove(name),
        };
        Ok(sql)
    }

    async fn take_role(&mut self) -> Done {
        let role = self.world.roles.choose(&mut self.random).cloned().filter(|_| self.random.random_bool(0.6));
        let sql = role.as_ref().map_or("RESET ROLE".to_owned(), |role| format!("SET ROLE \"{role}\""));
        self.execute(&sql).await?;
        self.role = role;
        Ok(sql)
    }

    async fn discard(&mut self) -> Done {
        self.execute("DISCARD ALL").await?;
        self.settings.retain(|name, _| name.contains('.'));
        self.settings.values_mut().for_each(|value| *value = "");
        self.role = None;
        self.channels.clear();
        self.kept = None;
        Ok("DISCARD ALL".to_owned())
    }

    /// Begins to listen, or stops, in a transaction that is committed or not, or in none.
    async fn listen(&mut self) -> Done {
        let channel = *["one", "two", "Three"].choose(&mut self.random).expect("there are some");
        let begins = self.random.random_bool(0.6);
        let statement = format!("{} \"{channel}\"", if begins { "LISTEN" } else { "UNLISTEN" });
        let (sql, counts) = match self.random.random_range(0..4) {
            0 => (format!("BEGIN; {statement}; ROLLBACK"), false),
            1 => (format!("BEGIN; {statement}; COMMIT"), true),
            _ => (statement, true),
        };
        self.execute(&sql).await?;
        match (counts, begins) {
            (true, true) => drop(self.channels.insert(channel)),
            (true, false) => drop(self.channels.remove(channel)),
            (false, _) => {}
        }
        Ok(sql)
    }

    /// Makes state that needs a server connection, or ends what it has.
    async fn keep(&mut self) -> Done {
        if let Some(kept) = self.kept.take() {
            self.execute("RESET ROLE").await?;
            self.role = None;
            self.execute(&kept.undo).await?;
            return Ok(kept.undo);
        }
        let Ok(permit) = self.world.may_keep.clone().try_acquire_owned() else { return Ok("nothing".to_owned()) };
        let number = self.random.random_range(1..1_000_000).to_string();
        let (makes, shown, works, undo) = match self.random.random_range(0..4) {
            0 => (
                format!("CREATE TEMP TABLE mine AS SELECT {number} AS x; GRANT ALL ON mine TO PUBLIC"),
                "mine|0|0",
                ("SELECT x FROM mine".to_owned(), number),
                "DROP TABLE mine".to_owned(),
            ),
            1 => (
                format!("SELECT pg_advisory_lock({number})"),
                "|1|0",
                (
                    "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()".to_owned(),
                    number.clone(),
                ),
                format!("SELECT pg_advisory_unlock({number})"),
            ),
            2 => (
                format!("PREPARE mine AS SELECT {number}"),
                "|0|0",
                ("EXECUTE mine".to_owned(), number),
                "DEALLOCATE mine".to_owned(),
            ),
            _ => (
                format!("BEGIN; DECLARE mine SCROLL CURSOR WITH HOLD FOR SELECT {number}; COMMIT"),
                "|0|1",
                ("FETCH ABSOLUTE 1 FROM mine".to_owned(), number),
                "CLOSE mine".to_owned(),
            ),
        };
        // A temporary table is made by whoever may.
        self.execute("RESET ROLE").await?;
        self.role = None;
        self.execute(&makes).await?;
        self.kept = Some(Kept { shown: shown.to_owned(), works, undo, _permit: permit });
        Ok(makes)
    }

    /// A statement with a name, parsed under the settings of now.
    async fn prepare(&mut self) -> Done {
        let sql = "SELECT name FROM who WHERE $1::int = 7";
        let statement = self.client.prepare(sql).await.map_err(|error| self.trouble(sql, &error))?;
        let row = self.client.query_one(&statement, &[&7_i32]).await.map_err(|error| self.trouble(sql, &error))?;
        let (seen, expected) = (row.get::<_, String>(0), self.own_schema());
        if seen != expected {
            return Err(Trouble::Wrong(format!("{sql} finds {seen:?} and should find {expected:?}")));
        }
        Ok(sql.to_owned())
    }

    /// Both kinds, under names that everybody uses.
    async fn prepare_by_sql(&mut self) -> Done {
        let Ok(_permit) = self.world.may_keep.clone().try_acquire_owned() else { return Ok("nothing".to_owned()) };
        if self.kept.is_some() {
            return Ok("nothing".to_owned());
        }
        let sql = "PREPARE leaking AS SELECT name FROM who";
        self.execute(sql).await?;
        let statement = self.client.prepare("SELECT 7").await.map_err(|error| self.trouble(sql, &error))?;
        let names = "SELECT string_agg(name ~ '^s[0-9]+$' || ' ' || from_sql, ', ' ORDER BY from_sql) FROM pg_prepared_statements";
        self.expect(names, "true false, false true").await?;
        self.expect("EXECUTE leaking", self.own_schema()).await?;
        self.execute("DEALLOCATE leaking").await?;
        let row = self.client.query_one(&statement, &[]).await.map_err(|error| self.trouble(sql, &error))?;
        match row.get::<_, i32>(0) {
            7 => Ok(sql.to_owned()),
            other => Err(Trouble::Wrong(format!("SELECT 7 finds {other}"))),
        }
    }

    async fn cancel(&mut self) -> Done {
        let token = self.client.cancel_token();
        let pause = Duration::from_millis(self.random.random_range(0..60));
        let (slept, cancelled) = tokio::join!(self.client.batch_execute("SELECT pg_sleep(0.05)"), async {
            tokio::time::sleep(pause).await;
            token.cancel_query(NoTls).await
        });
        cancelled.map_err(|error| Trouble::Ended(chain(&error)))?;
        match slept {
            Err(error) if error.code().is_some_and(|code| code.code() == "57014") => {
                Ok("a sleep, cancelled".to_owned())
            }
            Err(error) => Err(self.trouble("a sleep", &error)),
            Ok(()) => Ok("a sleep, cancelled too late".to_owned()),
        }
    }

    /// Breaks off in the middle of something, and comes back as somebody new.
    async fn leave(&mut self) -> Done {
        let sql =
            "BEGIN; SET work_mem = '99MB'; SET ROLE pg_monitor; SELECT pg_advisory_lock(3, 4); SELECT pg_sleep(0.01)";
        let _ = tokio::time::timeout(Duration::from_millis(5), self.client.batch_execute(sql)).await;
        self.enter_anew().await;
        Ok("broke off".to_owned())
    }

    fn own_schema(&self) -> &'static str {
        let path = self.settings.get("search_path").copied().unwrap_or("public");
        path.split(',').next().expect("a path has a first schema")
    }

    /// A cancel of the client's own that comes late may strike what it asks next, as with PostgreSQL.
    async fn see(&self, sql: &str) -> Done {
        self.world.transactions.fetch_add(1, Ordering::Relaxed);
        for _ in 0..2 {
            match try_value(&self.client, sql).await {
                Err(error) if error.code().is_some_and(|code| code.code() == "57014") => {}
                seen => return seen.map_err(|error| self.trouble(sql, &error)),
            }
        }
        try_value(&self.client, sql).await.map_err(|error| self.trouble(sql, &error))
    }

    async fn expect(&self, sql: &str, expected: &str) -> Done<()> {
        let seen = self.see(sql).await?;
        if seen == expected {
            return Ok(());
        }
        Err(Trouble::Wrong(format!("{sql} shows {seen:?} and should show {expected:?}")))
    }

    /// Compares all that can be seen with what was made, on the primary and where reads go.
    async fn look(&mut self) -> Done<()> {
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
            self.expect(&format!("SELECT coalesce(current_setting('{name}', true), '')"), expected).await?;
        }
        let who = format!("{}|{}", self.own_schema(), self.role.as_deref().unwrap_or("postgres"));
        self.expect("SELECT name || '|' || current_user FROM who", &who).await?;
        self.holds().await
    }

    /// What only one server connection has, and what it listens to.
    async fn holds(&mut self) -> Done<()> {
        let holds = "SELECT concat_ws('|', coalesce(to_regclass('pg_temp.mine')::text, ''),
            (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
            (SELECT count(*) FROM pg_cursors WHERE is_holdable))";
        self.expect(holds, self.kept.as_ref().map_or("|0|0", |kept| &kept.shown)).await?;
        if let Some(kept) = &self.kept {
            self.expect(&kept.works.0, &kept.works.1).await?;
        }
        if self.random.random_bool(0.25) {
            let channels =
                "SELECT coalesce(string_agg(c, ',' ORDER BY c COLLATE \"C\"), '') FROM pg_listening_channels() c";
            let expected: Vec<_> = self.channels.iter().copied().collect();
            self.expect(channels, &expected.join(",")).await?;
        }
        Ok(())
    }
}
