//! PostgreSQL's own clients, psql and pgbench, through few server connections with reads on the standbys.

use std::process::Output;
use std::time::Duration;

use pgweir::sandbox::{Load, Protocol, Script, Target};

use crate::support::proxy::Proxy;
use crate::support::{TestDatabase, fresh_database, shared_cluster};

#[tokio::test]
async fn pgbench_runs_in_each_of_its_protocols() {
    let cluster = shared_cluster().await;
    let database = fresh_database("").await;
    let proxy = Proxy::for_shared_cluster("[pool]\nsize = 3\n").await;
    let target = target(&proxy, &database).await;
    cluster.pgbench_initialize(&target, 1).await.unwrap_or_else(|error| panic!("{error}"));
    let mut written = 0;
    for protocol in [Protocol::Simple, Protocol::Extended, Protocol::Prepared] {
        for script in [Script::TpcbLike, Script::SelectOnly] {
            // As many threads as clients: one that waits for its turn does not keep another from ending his.
            let (clients, threads, duration) = (8, 8, Duration::from_secs(1));
            let load = Load { script: script.clone(), protocol, clients, threads, duration, sampling: None };
            let report = cluster.pgbench(&target, &load).await.unwrap_or_else(|error| panic!("{load:?}: {error}"));
            assert!(report.transactions > 0 && report.failed == 0, "{load:?}: {report:?}");
            written += if script == Script::TpcbLike { report.transactions } else { 0 };
        }
    }
    let seen = database
        .sql(
            "SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts)
              AND sum(delta) = (SELECT sum(bbalance) FROM pgbench_branches)
              AND sum(delta) = (SELECT sum(tbalance) FROM pgbench_tellers) FROM pgbench_history",
        )
        .await;
    assert_eq!(seen.trim(), format!("{written}|t"));
    let replicas = "pgweir_transactions_total{role=\"replica\"}";
    assert!(proxy.metric(replicas) > 0.0, "no read went to a standby");
}

/// Its questions about the catalog are long, and it asks them in both protocols of a session that changes. Of what
/// the whole cluster has, roles and databases, it shows only what no other test makes or drops meanwhile.
#[tokio::test]
async fn psql_shows_through_pgweir_what_it_shows_directly() {
    let database = fresh_database(
        "CREATE TABLE parent (id int PRIMARY KEY, word text DEFAULT 'w' CHECK (word <> ''));
         CREATE TABLE child (id int REFERENCES parent, at timestamptz) PARTITION BY RANGE (at);
         CREATE VIEW both_of_them AS SELECT * FROM parent JOIN child USING (id);
         CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
         CREATE INDEX ON child (at); CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE SEQUENCE counter",
    )
    .await;
    let proxy = Proxy::for_shared_cluster("[pool]\nsize = 2\n").await;
    let direct = Target { port: shared_cluster().await.primary().port, ..target(&proxy, &database).await };
    let through = target(&proxy, &database).await;
    let script = r"
\set ON_ERROR_ROLLBACK on
\d
\d parent
\d+ child
\d+ both_of_them
\df+ twice
\dT+ mood
\di
\ds
\dn+
\du postgres
\l template?
\dx
\copy parent (id, word) FROM STDIN
1	one
2	two
\.
BEGIN;
INSERT INTO parent VALUES (1, 'again');
INSERT INTO parent VALUES (3, twice(2)::text);
COMMIT;
SELECT * FROM parent ORDER BY id;
\copy (SELECT word FROM parent ORDER BY id) TO STDOUT
SELECT id, word FROM parent ORDER BY id \gdesc
SELECT 'id', twice(21) \gset a_
\echo :a_twice
\set FETCH_COUNT 2
SELECT n FROM generate_series(1, 5) n;
\unset FETCH_COUNT
SET TimeZone = 'Asia/Tokyo'; SELECT timestamptz '2020-01-01 00:00+00';
SHOW TimeZone;
\encoding LATIN1
SHOW client_encoding;
CREATE TEMP TABLE own AS SELECT 1 AS x;
SELECT * FROM own;
SELECT no_such_column FROM parent;
\errverbose
DELETE FROM parent;
";
    let [direct, through] = [psql(&direct, script).await, psql(&through, script).await];
    let [direct, through] = [direct, through].map(|output| {
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text.lines().map(ToOwned::to_owned).collect::<Vec<_>>())
    });
    for (through, direct) in through.1.iter().zip(&direct.1) {
        assert_eq!(through, direct);
    }
    assert_eq!((through.0, through.1.len()), (direct.0, direct.1.len()));
    assert!(direct.1.iter().any(|line| line.contains("Foreign-key constraints")), "{direct:?}");
}

/// A dump is one long session of transactions, settings, locks and copies; with several jobs it is many that share a
/// snapshot.
#[tokio::test]
async fn a_dump_and_a_restore_are_those_of_the_server() {
    let schema = "CREATE TABLE parent (id int PRIMARY KEY, word text, bytes bytea);
         INSERT INTO parent SELECT n, repeat('w', n), decode('00ff', 'hex') FROM generate_series(1, 500) n;
         CREATE TABLE child (id int REFERENCES parent, at timestamptz DEFAULT '2020-01-01');
         INSERT INTO child SELECT n FROM generate_series(1, 500) n;
         CREATE VIEW both_of_them AS SELECT * FROM parent JOIN child USING (id);
         CREATE SEQUENCE counter; SELECT nextval('counter');
         SELECT lo_from_bytea(0, 'large');
         CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'";
    let (database, copy) = (fresh_database(schema).await, fresh_database("").await);
    let proxy = Proxy::for_shared_cluster("[pool]\nsize = 4\n").await;
    let through = target(&proxy, &database).await;
    let direct = Target { port: shared_cluster().await.primary().port, ..through.clone() };
    let plain = dump(&direct, &["--no-comments"]).await;
    assert!(plain.lines().count() > 1000, "{plain}");
    let dumped = dump(&through, &["--no-comments"]).await;
    for (through, direct) in dumped.lines().zip(plain.lines()) {
        assert_eq!(through, direct);
    }
    assert_eq!(dumped.len(), plain.len());

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dump").into_os_string().into_string().unwrap();
    dump(&through, &["--format=directory", "--jobs=3", "--file", &file]).await;
    let restored = Target { database: copy.name.clone(), ..through };
    let output = client("pg_restore", &restored, &["--jobs=3", "--dbname", &copy.name, &file]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(dump(&Target { database: copy.name.clone(), ..direct }, &["--no-comments"]).await, plain);
}

/// What pg_dump writes, without the line that is another each time.
async fn dump(target: &Target, arguments: &[&str]) -> String {
    let arguments = [arguments, &["--dbname", &target.database]].concat();
    let output = client("pg_dump", target, &arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
        .fold(String::new(), |text, line| text + line + "\n")
}

async fn client(program: &str, target: &Target, arguments: &[&str]) -> Output {
    let program = shared_cluster().await.installation().program(program).unwrap();
    tokio::process::Command::new(program)
        .args(["-h", &target.host, "-p", &target.port.to_string(), "-U", &target.user])
        .args(arguments)
        .env_clear()
        .env("PGPASSWORD", &target.password)
        .output()
        .await
        .unwrap()
}

async fn target(proxy: &Proxy, database: &TestDatabase) -> Target {
    let url = url::Url::parse(&shared_cluster().await.primary().url("postgres", &database.name)).unwrap();
    let password = percent_encoding::percent_decode_str(url.password().unwrap_or_default()).decode_utf8_lossy();
    Target {
        host: "127.0.0.1".to_owned(),
        port: proxy.port,
        user: "postgres".to_owned(),
        password: password.into_owned(),
        database: database.name.clone(),
    }
}

async fn psql(target: &Target, script: &str) -> Output {
    use tokio::io::AsyncWriteExt;
    let program = shared_cluster().await.installation().program("psql").unwrap();
    let mut psql = tokio::process::Command::new(program)
        .args(["-X", "-h", &target.host, "-p", &target.port.to_string(), "-U", &target.user, &target.database])
        .env_clear()
        .env("PGPASSWORD", &target.password)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    psql.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
    psql.wait_with_output().await.unwrap()
}
