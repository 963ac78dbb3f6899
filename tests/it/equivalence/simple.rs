//! Simple queries: statement strings, transactions, errors, notices.

use super::say::*;
use super::script::{Script, script};

pub fn scripts() -> Vec<Script> {
    [queries(), strings(), transactions(), read_only(), errors(), large()].concat()
}

fn queries() -> Vec<Script> {
    vec![
        script("one row").query("SELECT 1 AS one, 'two' AS two, NULL AS three"),
        script("rows of a table").query("SELECT n, word FROM numbers ORDER BY n"),
        script("no rows").query("SELECT n FROM numbers WHERE n < 0"),
        script("no columns").query("SELECT FROM numbers WHERE n < 4"),
        script("other forms of reading")
            .query("TABLE numbers ORDER BY n LIMIT 3")
            .query("VALUES (1, 'a'), (2, 'b') ORDER BY 1")
            .query("WITH w AS (SELECT n FROM numbers WHERE n < 3) SELECT * FROM w ORDER BY n")
            .query("EXPLAIN (COSTS OFF) SELECT n FROM numbers WHERE n = 1"),
        script("two queries one after the other").query("SELECT 1").query("SELECT word FROM numbers WHERE n = 2"),
        script("pipelined queries")
            .send([query("SELECT 1"), query("SELECT n FROM numbers ORDER BY n LIMIT 2"), query("SELECT 3")])
            .ready(3),
        script("pipelined reads and writes")
            .send([
                query("DELETE FROM journal WHERE x = 'pipelined'"),
                query("INSERT INTO journal VALUES ('pipelined')"),
                query("SELECT count(*) FROM journal WHERE x = 'pipelined'"),
                query("INSERT INTO journal VALUES ('pipelined') RETURNING x"),
                query("SELECT count(*) FROM journal WHERE x = 'pipelined'"),
                query("SELECT word FROM numbers WHERE n = 2"),
            ])
            .ready(6),
        script("a write in a read")
            .query("DELETE FROM journal WHERE x = 'with'")
            .query("WITH w AS (INSERT INTO journal VALUES ('with') RETURNING x) SELECT x FROM w")
            .query("SELECT count(*) FROM journal WHERE x = 'with'"),
        script("the primary is asked who it is")
            .query("SELECT pg_is_in_recovery()")
            .query("SHOW transaction_read_only")
            .query("SELECT current_setting('transaction_read_only')"),
        script("what only a primary can do in a SELECT")
            .query("SELECT nextval('counter') > 0, txid_current() > 0")
            .query("SELECT n FROM numbers WHERE n = 1 FOR UPDATE"),
        script("goodbye at once").send([terminate()]).closed(),
        script("goodbye behind a query").send([query("SELECT 1"), terminate()]).closed(),
        script("goodbye in a transaction").query("BEGIN").query("INSERT INTO journal VALUES ('left')"),
    ]
}

fn strings() -> Vec<Script> {
    vec![
        script("several statements").query("SELECT 1; SELECT 2; SELECT n FROM numbers WHERE n = 3;"),
        script("an error in the middle").query("SELECT 1; SELECT 1/0; SELECT 3").query("SELECT 4"),
        script("a syntax error in the middle").query("SELECT 1; SELEC 2; SELECT 3").query("SELECT 4"),
        script("an implicit transaction is rolled back")
            .query("DELETE FROM journal WHERE x = 'implicit'")
            .query("INSERT INTO journal VALUES ('implicit'); SELECT 1/0; SELECT 2")
            .query("SELECT count(*) FROM journal WHERE x = 'implicit'"),
        script("empty strings").query("").query(";").query(" ;; ").query("   \n\t "),
        script("comments only").query("-- nothing").query("/* nothing */").query("/* a /* nested */ one */ ;"),
        script("comments around").query("/* first */ SELECT 1 -- last\n; -- the end").query("SELECT 1 /* x */, 2"),
        script("quoting")
            .query("SELECT 'a;b', $$c;d$$, $x$e;$$;f$x$, E'g\\';h', \"n\" FROM numbers WHERE n = 1; SELECT U&'\\0041'")
            .query("SELECT 'it''s' AS \"a;\"\"b\"; SELECT 2"),
        script("unterminated").query("SELECT 'a").query("SELECT /* a").query("SELECT \"a").query("SELECT $x$a"),
        script("a transaction in one string").query("BEGIN; SELECT 1; INSERT INTO journal VALUES ('s'); ROLLBACK"),
        script("a transaction begins inside a string")
            .query("SELECT 1; BEGIN; SELECT 2")
            .query("SELECT 3")
            .query("COMMIT; SELECT 4"),
        script("a transaction ends inside a string and another begins")
            .query("BEGIN")
            .query("COMMIT; BEGIN; SELECT 1")
            .query("ROLLBACK; SELECT n FROM numbers WHERE n = 1"),
        script("COMMIT in an implicit transaction").query("SELECT 1; COMMIT; SELECT 2; ROLLBACK; SELECT 3"),
        script("what may not be in a string").query("SELECT 1; VACUUM numbers").query("VACUUM numbers"),
    ]
}

fn transactions() -> Vec<Script> {
    vec![
        script("commit and rollback")
            .query("BEGIN")
            .query("DELETE FROM journal WHERE x = 'tx'")
            .query("INSERT INTO journal VALUES ('tx')")
            .query("SELECT count(*) FROM journal WHERE x = 'tx'")
            .query("COMMIT")
            .query("SELECT count(*) FROM journal WHERE x = 'tx'")
            .query("START TRANSACTION; DELETE FROM journal WHERE x = 'tx'")
            .query("ROLLBACK")
            .query("SELECT count(*) FROM journal WHERE x = 'tx'"),
        script("a pipelined transaction")
            .send([query("BEGIN"), query("SELECT 1"), query("INSERT INTO journal VALUES ('p')"), query("ROLLBACK")])
            .ready(4),
        script("a read, a pipelined transaction, a read")
            .send([
                query("SELECT n FROM numbers WHERE n = 1"),
                query("BEGIN"),
                query("INSERT INTO journal VALUES ('p')"),
                query("SELECT 1/0"),
                query("SELECT 2"),
                query("COMMIT"),
                query("SELECT n FROM numbers WHERE n = 2"),
            ])
            .ready(7),
        script("a failed transaction")
            .query("BEGIN")
            .query("SELECT 1/0")
            .query("SELECT 1")
            .query("INSERT INTO journal VALUES ('failed')")
            .query("")
            .query("ROLLBACK")
            .query("SELECT 2"),
        script("COMMIT of a failed transaction").query("BEGIN").query("SELECT 1/0").query("COMMIT").query("SELECT 2"),
        script("warnings of transactions")
            .query("COMMIT")
            .query("ROLLBACK")
            .query("BEGIN")
            .query("BEGIN")
            .query("END")
            .query("SAVEPOINT s")
            .query("SET LOCAL work_mem = '5MB'"),
        script("chained")
            .query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .query("COMMIT AND CHAIN")
            .query("SHOW transaction_isolation")
            .query("ROLLBACK AND CHAIN")
            .query("COMMIT"),
        script("savepoints")
            .query("BEGIN")
            .query("SAVEPOINT a")
            .query("INSERT INTO journal VALUES ('a')")
            .query("SELECT 1/0")
            .query("SELECT 1")
            .query("ROLLBACK TO a")
            .query("SELECT 2")
            .query("SAVEPOINT b; RELEASE a")
            .query("ROLLBACK TO b")
            .query("ROLLBACK"),
        script("a constraint that fails at COMMIT")
            .query("BEGIN")
            .query("INSERT INTO child VALUES (99)")
            .query("COMMIT")
            .query("SELECT 1"),
        script("a constraint that fails at the end of its statement").query("INSERT INTO child VALUES (99)"),
        script("two phases").query("BEGIN").query("PREPARE TRANSACTION 'x'").query("ROLLBACK PREPARED 'x'"),
        script("a cursor")
            .query("BEGIN")
            .query("DECLARE c CURSOR FOR SELECT n FROM numbers ORDER BY n")
            .query("FETCH 2 FROM c")
            .query("FETCH 3 FROM c; MOVE 2 IN c; FETCH c")
            .query("CLOSE c")
            .query("FETCH c")
            .query("ROLLBACK"),
        script("a cursor outside").query("DECLARE c CURSOR FOR SELECT 1").query("FETCH c"),
    ]
}

fn read_only() -> Vec<Script> {
    vec![
        script("a read-only transaction")
            .query("BEGIN READ ONLY")
            .query("SELECT n FROM numbers ORDER BY n LIMIT 2")
            .query("SHOW transaction_read_only")
            .query("COMMIT"),
        script("a write in a read-only transaction")
            .query("BEGIN READ ONLY")
            .query("INSERT INTO journal VALUES ('25006')")
            .query("SELECT 1")
            .query("ROLLBACK"),
        script("a read-only transaction in one string").query("BEGIN READ ONLY; SELECT 1; COMMIT"),
        script("a read-only transaction's write in one string").query("BEGIN READ ONLY; DELETE FROM journal; COMMIT"),
        script("read-only transactions of every isolation")
            .query("START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .query("SELECT count(*) FROM numbers")
            .query("COMMIT")
            .query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE")
            .query("SELECT count(*) FROM numbers")
            .query("COMMIT")
            .query("BEGIN TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE")
            .query("SHOW transaction_isolation")
            .query("COMMIT"),
        script("a read-only transaction becomes a writing one")
            .query("BEGIN READ ONLY")
            .query("SET TRANSACTION READ WRITE")
            .query("INSERT INTO journal VALUES ('rw')")
            .query("ROLLBACK"),
        script("what a read-only transaction of a primary may do")
            .query("BEGIN READ ONLY")
            .query("SELECT txid_current() > 0")
            .query("LOCK TABLE numbers IN ACCESS SHARE MODE")
            .query("SELECT pg_is_in_recovery()")
            .query("COMMIT"),
        script("NOTIFY in a read-only transaction").query("BEGIN READ ONLY").query("NOTIFY nobody").query("COMMIT"),
        script("LISTEN in a read-only transaction").query("BEGIN READ ONLY").query("LISTEN l").query("COMMIT"),
        script("a sequence in a read-only transaction")
            .query("BEGIN READ ONLY")
            .query("SELECT nextval('counter')")
            .query("ROLLBACK"),
        script("SET TRANSACTION READ ONLY")
            .query("BEGIN")
            .query("SET TRANSACTION READ ONLY")
            .query("INSERT INTO journal VALUES ('x')"),
        script("a session that is read-only")
            .query("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            .query("INSERT INTO journal VALUES ('x')")
            .query("SELECT count(*) FROM numbers")
            .query("BEGIN READ WRITE")
            .query("INSERT INTO journal VALUES ('x')")
            .query("ROLLBACK")
            .query("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
            .query("DELETE FROM journal WHERE x = 'x'"),
        script("a session that starts read-only")
            .startup("default_transaction_read_only", "on")
            .query("INSERT INTO journal VALUES ('x')")
            .query("SELECT count(*) FROM numbers")
            .query("BEGIN")
            .query("SHOW transaction_read_only")
            .query("ROLLBACK")
            .query("BEGIN READ WRITE; DELETE FROM journal WHERE x = 'x'; COMMIT"),
    ]
}

fn errors() -> Vec<Script> {
    vec![
        script("errors keep their position")
            .query("SELECT nothing FROM numbers")
            .query("SELECT 1;\n\n  SELECT nowhere.x")
            .query("SELECT 'abc'::int")
            .query("SELECT * FROM no_such_table"),
        script("an error with everything").query(
            "DO $$ BEGIN RAISE EXCEPTION 'what happened' USING DETAIL = 'why', HINT = 'what to do', \
             ERRCODE = 'P0042', COLUMN = 'c', CONSTRAINT = 'k', DATATYPE = 'd', TABLE = 't', SCHEMA = 's'; END $$",
        ),
        script("notices and warnings")
            .query("DO $$ BEGIN RAISE NOTICE 'first'; RAISE WARNING 'second'; END $$")
            .query("DROP TABLE IF EXISTS no_such_table")
            .query("SELECT 1; DO $$ BEGIN RAISE NOTICE 'between'; END $$; SELECT 2"),
        script("a notice of the parser")
            .query("SELECT 1 AS a_name_that_is_longer_than_the_sixty_three_bytes_that_postgresql_keeps_of_names"),
        script("fewer notices")
            .query("SET client_min_messages = warning")
            .query("DROP TABLE IF EXISTS no_such_table")
            .query("RESET client_min_messages"),
        script("an error in a function").query("SELECT fails(1)").query("SELECT 1"),
        script("a statement over its own timeout")
            .query("SET statement_timeout = '50ms'")
            .query("SELECT pg_sleep(60)")
            .query("SET statement_timeout = 0"),
        script("unknown function").query("SELECT no_such_function(1)").query("SELECT 1 ~~~~ 2"),
        script("a table that comes and goes")
            .query("CREATE TABLE comes (x int)")
            .query("SELECT count(x) AS c FROM comes")
            .query("DROP TABLE comes")
            .query("SELECT count(x) AS c FROM comes"),
    ]
}

fn large() -> Vec<Script> {
    let literal = "x".repeat(100_000);
    vec![
        script("a long statement").query(&format!("SELECT length('{literal}') AS l")),
        script("a long setting").query(&format!("SET TimeZone = 'Asia/Tokyo' -- {literal}")).query("SHOW TimeZone"),
        script("a long BEGIN").query(&format!("BEGIN /* {literal} */")).query("SELECT 1").query("ROLLBACK"),
        script("a statement of 1 MB").query(&format!("SELECT length('{}') AS l", "y".repeat(1 << 20))),
        script("a row of 1 MB").query("SELECT repeat('x', 1 << 20) AS r").query("SELECT 1"),
        script("rows of 1 MB").query("SELECT n, repeat('x', 100000) AS r FROM numbers ORDER BY n"),
    ]
}
