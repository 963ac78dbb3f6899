//! Prepared statements of both kinds, SQL's own and the protocol's, which PostgreSQL keeps under the same names
//! (PostgreSQL, "PREPARE", "Extended Query").

use super::say::*;
use super::script::{Script, script};

/// What a session can see of its statements. The plans' counters and the times of preparation are not compared.
const SHOW: &str = "SELECT name, statement, parameter_types, from_sql FROM pg_prepared_statements ORDER BY name";

pub fn scripts() -> Vec<Script> {
    [executed(), deallocated(), all_gone(), one_namespace(), shown(), changing(), in_company()].concat()
}

/// A script whose session has `s`, a read, and `w`, a write, by the protocol.
fn with_statements(name: &'static str) -> Script {
    let write = "INSERT INTO journal VALUES ($1) RETURNING x";
    script(name).send([parse("s", "SELECT $1::int + 1 AS next"), parse("w", write), sync()]).ready(1)
}

fn executed() -> Vec<Script> {
    vec![
        script("SQL's EXECUTE of a protocol's statement")
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .query("EXECUTE s"),
        with_statements("SQL's EXECUTE, and the protocol's")
            .query("EXECUTE s (1)")
            .send([again("s", &["2"])])
            .ready(1)
            .query("EXECUTE w ('one')")
            .batch("EXECUTE s (3)", &[])
            .send([again("w", &["two"])])
            .ready(1)
            .query("SELECT x FROM journal ORDER BY x")
            .query("EXECUTE s")
            .query("EXECUTE s ('x')")
            .send([again("s", &["4"]), again("s", &["5"])])
            .ready(2),
        with_statements("EXECUTE described")
            .send([parse("", "EXECUTE s (1)"), describe_statement(""), bind("", "", &[]), describe_portal("")])
            .send([execute("", 0), sync()])
            .ready(1)
            .send([parse("e", "EXECUTE s (2)"), describe_statement("e"), sync()])
            .ready(1)
            .send([describe_statement("e"), bind("", "e", &[]), describe_portal(""), execute("", 0), sync()])
            .ready(1)
            .send([again("e", &[]), again("e", &[])])
            .ready(2),
        with_statements("EXECUTE in a transaction")
            .query("BEGIN")
            .query("EXECUTE w ('in')")
            .query("EXECUTE s (1)")
            .send([again("s", &["1"])])
            .ready(1)
            .query("SAVEPOINT a")
            .query("EXECUTE s ('x')")
            .query("EXECUTE s (1)")
            .query("ROLLBACK TO a")
            .query("EXECUTE s (2)")
            .query("COMMIT")
            .query("SELECT x FROM journal"),
        script("EXECUTE in the same breath")
            .send([parse("s", "SELECT 7"), sync(), query("EXECUTE s"), again("s", &[]), query("EXECUTE s")])
            .ready(4)
            .send([
                parse("t", "SELECT 8"),
                parse("", "EXECUTE t"),
                bind("", "", &[]),
                describe_portal(""),
                execute("", 0),
                bind("", "t", &[]),
                execute("", 0),
                sync(),
            ])
            .ready(1)
            .send([parse("bad", "SELEC"), sync(), query("EXECUTE bad"), query("EXECUTE t")])
            .ready(3),
        with_statements("EXECUTE behind an error")
            .send([bind("", "nosuch", &[]), parse("", "EXECUTE s (1)"), bind("", "", &[]), execute("", 0), sync()])
            .ready(1)
            .send([
                query("BEGIN"),
                query("SELECT 1/0"),
                query("EXECUTE s (1)"),
                query("ROLLBACK"),
                query("EXECUTE s (1)"),
            ])
            .ready(5),
        with_statements("EXECUTE in a batch that writes and fails")
            .send([
                parse("", "INSERT INTO journal VALUES ('gone')"),
                bind("", "", &[]),
                execute("", 0),
                parse("", "EXECUTE s (1)"),
                bind("", "", &[]),
                execute("", 0),
                parse("", "EXECUTE nosuch"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ])
            .ready(1)
            .query("SELECT x FROM journal"),
        with_statements("EXPLAIN EXECUTE and tables AS EXECUTE")
            .query("EXPLAIN (COSTS OFF) EXECUTE s (1)")
            .query("CREATE TEMP TABLE made AS EXECUTE s (1)")
            .query("SELECT next + 0 FROM made")
            .query("DROP TABLE made")
            .query("EXECUTE s (1); EXECUTE s (2)"),
        script("EXECUTE of odd names")
            .send([parse("a \"b\" \u{e4}", "SELECT 1"), parse("S", "SELECT 2"), parse("pgweir_0", "SELECT 3"), sync()])
            .ready(1)
            .query("EXECUTE \"a \"\"b\"\" \u{e4}\"")
            .query("EXECUTE S")
            .query("EXECUTE \"S\"")
            .query("EXECUTE pgweir_0")
            .query("EXECUTE pgweir_1")
            .query("DEALLOCATE pgweir_1")
            .query("PREPARE pgweir_1 AS SELECT 4")
            .query("EXECUTE pgweir_1")
            .query("DEALLOCATE pgweir_1")
            .send([again("pgweir_0", &[])])
            .ready(1),
    ]
}

fn deallocated() -> Vec<Script> {
    let deallocate = || [parse("", "DEALLOCATE s"), bind("", "", &[]), execute("", 0)].concat();
    vec![
        with_statements("DEALLOCATE of a protocol's statement")
            .query("DEALLOCATE s")
            .send([again("s", &["1"])])
            .ready(1)
            .query("EXECUTE s (1)")
            .query("DEALLOCATE s")
            .query("DEALLOCATE PREPARE w")
            .send([describe_statement("w"), sync()])
            .ready(1)
            .send([parse("s", "SELECT 'anew'"), sync(), again("s", &[])])
            .ready(2),
        with_statements("DEALLOCATE pipelined")
            .send([again("s", &["1"]), query("DEALLOCATE s"), again("s", &["2"]), again("w", &["x"])])
            .ready(4)
            .send([parse("s", "SELECT 'anew'"), sync(), query("DEALLOCATE s"), parse("s", "SELECT 'third'"), sync()])
            .ready(3)
            .send([again("s", &[])])
            .ready(1),
        with_statements("DEALLOCATE within a batch")
            .send([
                bind("", "s", &["1"]),
                execute("", 0),
                deallocate(),
                parse("s", "SELECT 'anew'"),
                bind("", "s", &[]),
                execute("", 0),
                sync(),
            ])
            .ready(1)
            .send([again("s", &[])])
            .ready(1)
            .send([deallocate(), bind("", "s", &[]), execute("", 0), sync()])
            .ready(1)
            .send([again("s", &[])])
            .ready(1),
        with_statements("DEALLOCATE in a transaction that is rolled back")
            .query("BEGIN")
            .send([again("s", &["1"])])
            .ready(1)
            .query("DEALLOCATE s")
            .send([again("w", &["x"])])
            .ready(1)
            .query("ROLLBACK")
            .send([again("s", &["1"])])
            .ready(1)
            .send([again("w", &["x"])])
            .ready(1),
        with_statements("DEALLOCATE and EXECUTE in a transaction that has failed")
            .query("BEGIN")
            .query("DEALLOCATE s")
            .send([again("s", &["1"])])
            .ready(1)
            .query("EXECUTE w ('x')")
            .query("ROLLBACK")
            .query("EXECUTE w ('x')")
            .send([again("s", &["1"])])
            .ready(1),
        with_statements("DEALLOCATE only prepared")
            .send([parse("", "DEALLOCATE s"), sync()])
            .ready(1)
            .send([again("s", &["1"])])
            .ready(1)
            .send([parse("d", "DEALLOCATE s"), describe_statement("d"), sync()])
            .ready(1)
            .send([again("s", &["2"])])
            .ready(1)
            .send([parse("", "DEALLOCATE s"), bind("", "", &[]), sync()])
            .ready(1)
            .send([again("s", &["3"])])
            .ready(1)
            .send([again("d", &[]), again("s", &["4"])])
            .ready(2)
            .send([again("d", &[])])
            .ready(1),
        with_statements("DEALLOCATE with Flush")
            .send([parse("", "DEALLOCATE s"), describe_statement(""), flush()])
            .until(b'n', 1)
            .send([bind("", "", &[]), execute("", 0), bind("", "s", &["1"]), execute("", 0), flush()])
            .until(b'E', 1)
            .send([sync()])
            .ready(1)
            .send([again("s", &["1"])])
            .ready(1),
    ]
}

fn all_gone() -> Vec<Script> {
    vec![
        with_statements("DEALLOCATE ALL only prepared")
            .send([parse("", "DEALLOCATE ALL"), sync()])
            .ready(1)
            .send([again("s", &["1"])])
            .ready(1)
            .send([parse("d", "DISCARD ALL"), sync()])
            .ready(1)
            .send([again("s", &["2"])])
            .ready(1)
            .send([bind("", "d", &[]), sync()])
            .ready(1)
            .send([again("s", &["3"])])
            .ready(1)
            .send([again("d", &[]), again("s", &["4"])])
            .ready(2),
        with_statements("DISCARD ALL that fails")
            .query("BEGIN")
            .query("DISCARD ALL")
            .query("ROLLBACK")
            .send([again("s", &["1"])])
            .ready(1)
            .query("SELECT 1; DISCARD ALL")
            .send([again("s", &["2"])])
            .ready(1)
            .query("BEGIN")
            .send([batch("DISCARD ALL", &[]), query("ROLLBACK"), again("s", &["3"])])
            .ready(3)
            .send([query("SELECT 1/0; DEALLOCATE ALL"), again("s", &["4"])])
            .ready(2),
        with_statements("DEALLOCATE ALL in a transaction that is rolled back")
            .query("BEGIN")
            .query("DEALLOCATE ALL")
            .query("ROLLBACK")
            .send([again("s", &["1"])])
            .ready(1)
            .send([parse("s", "SELECT 'anew'"), sync(), again("s", &[])])
            .ready(2),
        with_statements("DEALLOCATE ALL pipelined")
            .send([query("BEGIN"), query("DEALLOCATE ALL"), again("s", &["1"]), query("ROLLBACK"), again("w", &["1"])])
            .ready(5)
            .send([parse("s", "SELECT 1"), sync(), query("DEALLOCATE ALL"), parse("s", "SELECT 2"), sync()])
            .ready(3)
            .send([again("s", &[])])
            .ready(1),
        with_statements("DEALLOCATE ALL within a batch")
            .send([
                parse("", "DEALLOCATE ALL"),
                bind("", "", &[]),
                execute("", 0),
                parse("s", "SELECT 'anew'"),
                bind("", "s", &[]),
                execute("", 0),
                bind("", "w", &["x"]),
                execute("", 0),
                sync(),
            ])
            .ready(1)
            .send([again("s", &[])])
            .ready(1)
            .send([again("w", &["x"])])
            .ready(1),
        with_statements("DEALLOCATE ALL behind an error")
            .send([bind("", "nosuch", &[]), parse("", "DEALLOCATE ALL"), bind("", "", &[]), execute("", 0), sync()])
            .ready(1)
            .send([again("s", &["1"])])
            .ready(1)
            .send([parse("a", "SELECT 1"), parse("", "DISCARD ALL"), bind("", "", &[]), execute("", 0), sync()])
            .ready(1)
            .send([again("s", &["1"]), again("a", &[])])
            .ready(2),
        with_statements("DEALLOCATE ALL, and SQL's PREPARE of a name that was taken")
            .query("DEALLOCATE ALL; PREPARE s AS SELECT 'mine'")
            .send([again("s", &[])])
            .ready(1)
            .query("EXECUTE s")
            .query("DISCARD ALL")
            .query("EXECUTE s")
            .send([again("s", &[])])
            .ready(1),
    ]
}

fn one_namespace() -> Vec<Script> {
    vec![
        with_statements("a protocol's name is taken for PREPARE")
            .query("PREPARE s AS SELECT 'mine'")
            .query("EXECUTE s (1)")
            .query("BEGIN; PREPARE w AS SELECT 'mine'")
            .query("ROLLBACK")
            .send([again("s", &["1"])])
            .ready(1)
            .batch("PREPARE s AS SELECT 1", &[])
            .query(SHOW),
        script("SQL's name is taken for Parse")
            .query("PREPARE s AS SELECT 'mine'")
            .send([parse("s", "SELECT 2"), sync()])
            .ready(1)
            .send([again("s", &[])])
            .ready(1)
            .send([parse("t", "SELECT 3"), sync(), again("t", &[])])
            .ready(2)
            .query("EXECUTE t")
            .query("DEALLOCATE s")
            .send([parse("s", "SELECT 4"), sync(), again("s", &[])])
            .ready(2)
            .send([again("t", &[])])
            .ready(1),
        script("SQL's name is taken, pipelined")
            .send([query("PREPARE s AS SELECT 'mine'"), parse("s", "SELECT 2"), sync(), again("s", &[])])
            .ready(3)
            .send([query("DEALLOCATE s"), parse("s", "SELECT 3"), sync(), query("PREPARE s AS SELECT 4")])
            .ready(3)
            .send([again("s", &[])])
            .ready(1)
            .send([
                parse("", "PREPARE t AS SELECT 5"),
                bind("", "", &[]),
                execute("", 0),
                parse("t", "SELECT 6"),
                sync(),
                again("t", &[]),
            ])
            .ready(2),
        script("Bind, Describe and Close of SQL's statement")
            .query("PREPARE s (int) AS SELECT $1 + 1 AS next")
            .send([describe_statement("s"), bind("", "s", &["1"]), describe_portal(""), execute("", 0), sync()])
            .ready(1)
            .send([close_statement("s"), bind("", "s", &["1"]), execute("", 0), sync()])
            .ready(1)
            .query("EXECUTE s (1)")
            .send([parse("s", "SELECT 2"), sync(), again("s", &[])])
            .ready(2),
        script("PREPARE in a transaction that is rolled back")
            .query("BEGIN")
            .query("PREPARE q AS SELECT 1")
            .send([parse("p", "SELECT 2"), sync()])
            .ready(1)
            .query("ROLLBACK")
            .query("EXECUTE q")
            .query("EXECUTE p")
            .send([again("p", &[]), again("q", &[])])
            .ready(2)
            .query("DEALLOCATE q")
            .send([again("p", &[])])
            .ready(1)
            .query("BEGIN; PREPARE q AS SELECT 3; SELECT 1/0")
            .query("ROLLBACK")
            .query("EXECUTE q"),
        with_statements("both kinds, made and dropped in turns")
            .query("PREPARE q AS SELECT 'sql'")
            .send([parse("p", "SELECT 'protocol'"), sync(), again("p", &[]), again("q", &[]), query("EXECUTE p")])
            .ready(4)
            .send([close_statement("q"), close_statement("s"), sync()])
            .ready(1)
            .query("PREPARE s AS SELECT 'now sql'")
            .send([again("s", &[])])
            .ready(1)
            .query(SHOW)
            .query("DEALLOCATE s")
            .query(SHOW)
            .send([again("w", &["x"]), again("p", &[])])
            .ready(2)
            .query("DEALLOCATE ALL")
            .query(SHOW),
    ]
}

fn shown() -> Vec<Script> {
    vec![
        script("no prepared statements to be seen")
            .query(SHOW)
            .batch(SHOW, &[])
            .query("SELECT name FROM pg_prepared_statement()"),
        with_statements("prepared statements to be seen")
            .query(SHOW)
            .batch(SHOW, &[])
            .send([parse("l", SHOW), sync(), again("l", &[]), again("s", &["1"]), again("l", &[])])
            .ready(4)
            .query("PREPARE q (text, numeric) AS SELECT $1, $2")
            .query(SHOW)
            .query("COPY (SELECT name FROM pg_catalog.pg_prepared_statements ORDER BY 1) TO STDOUT")
            .query("DEALLOCATE q; DEALLOCATE s")
            .query(SHOW)
            .send([close_statement("l"), sync()])
            .ready(1)
            .query("SELECT name, from_sql FROM pg_prepared_statement() ORDER BY name")
            .send([again("w", &["x"])])
            .ready(1),
        with_statements("prepared statements to be seen in a transaction")
            .query("BEGIN")
            .send([again("w", &["x"])])
            .ready(1)
            .query(SHOW)
            .send([parse("n", "SELECT 'new'"), close_statement("s"), sync()])
            .ready(1)
            .query(SHOW)
            .query("SELECT 1/0")
            .query(SHOW)
            .query("ROLLBACK")
            .query(SHOW)
            .send([again("n", &[])])
            .ready(1),
        with_statements("prepared statements to be seen in a batch")
            .send([
                parse("a", "SELECT 1"),
                parse("", SHOW),
                bind("", "", &[]),
                execute("", 0),
                close_statement("s"),
                parse("b", "SELECT 2"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
                query(SHOW),
            ])
            .ready(2),
        with_statements("a cursor over the prepared statements")
            .query("BEGIN")
            .query(&format!("DECLARE c CURSOR FOR {SHOW}"))
            .send([parse("n", "SELECT 'new'"), sync()])
            .ready(1)
            .query("FETCH 1 FROM c")
            .query("FETCH ALL FROM c")
            .query("COMMIT"),
        with_statements("a view of the prepared statements")
            .query("SELECT name FROM own_statements ORDER BY name")
            .query("SELECT count_statements()")
            .query("SELECT count_statements_by_text()")
            .query("DO $$ BEGIN EXECUTE 'DEALLOCATE w'; END $$")
            .query(SHOW)
            .send([again("w", &["x"])])
            .ready(1)
            .send([again("s", &["1"])])
            .ready(1),
    ]
}

fn changing() -> Vec<Script> {
    vec![
        script("EXECUTE under another search_path")
            .send([
                parse("s", "SELECT count(*) FROM elsewhere"),
                parse("t", "SELECT current_setting('search_path')"),
                sync(),
            ])
            .ready(1)
            .query("SET search_path = other")
            .send([parse("e", "SELECT x FROM elsewhere"), sync()])
            .ready(1)
            .query("EXECUTE e")
            .query("SET search_path = public, other")
            .query("EXECUTE e")
            .send([again("e", &[])])
            .ready(1)
            .query("RESET search_path")
            .query("EXECUTE e")
            .send([again("e", &[])])
            .ready(1)
            .query("SET search_path = other")
            .query("EXECUTE e"),
        with_statements("EXECUTE as somebody else")
            .query("SET ROLE pg_read_all_stats")
            .query("EXECUTE w ('x')")
            .query("RESET ROLE")
            .query("EXECUTE w ('x')"),
        script("EXECUTE of what is gone, and DEALLOCATE")
            .query("BEGIN")
            .query("CREATE TABLE going (a int)")
            .send([parse("a", "SELECT * FROM going"), parse("b", "SELECT 1"), sync()])
            .ready(1)
            .query("ROLLBACK")
            .query("BEGIN")
            .query("DEALLOCATE a")
            .query("SELECT 1")
            .send([again("b", &[])])
            .ready(1)
            .query("COMMIT")
            .query("DEALLOCATE a"),
        script("PREPARE in a transaction that only reads")
            .query("BEGIN READ ONLY")
            .query("PREPARE q AS INSERT INTO journal VALUES ('q') RETURNING x")
            .query("COMMIT")
            .query("EXECUTE q")
            .query("INSERT INTO journal VALUES ('i')")
            .query("BEGIN READ ONLY")
            .query("EXECUTE q")
            .query("COMMIT")
            .query("DEALLOCATE q"),
        script("EXECUTE of what is gone")
            .query("BEGIN")
            .query("CREATE TABLE going (a int)")
            .send([parse("a", "SELECT a + 0 FROM going WHERE a = $1"), sync()])
            .ready(1)
            .query("ROLLBACK")
            .query("EXECUTE a (1)")
            .query("BEGIN")
            .query("EXECUTE a (1)")
            .query("SELECT 1")
            .query("ROLLBACK")
            .query("BEGIN; CREATE TABLE going (a int)")
            .query("EXECUTE a (1)")
            .query("ROLLBACK"),
        script("more statements than are kept, and EXECUTE")
            .send([
                parse("a", &long("a")),
                parse("b", &long("b")),
                parse("c", &long("c")),
                parse("d", &long("d")),
                sync(),
            ])
            .ready(1)
            .query("PREPARE q AS SELECT 'q'")
            .query("SELECT name, length(statement) FROM pg_prepared_statements ORDER BY name")
            .send([again("a", &[]), again("b", &[]), query("EXECUTE c"), again("d", &[])])
            .ready(4)
            .query("DEALLOCATE q")
            .send([parse("e", &long("e")), sync(), query("EXECUTE a"), again("b", &[]), again("e", &[])])
            .ready(4),
    ]
}

/// With settings of the startup, cursors, `COPY`, portals.
fn in_company() -> Vec<Script> {
    let deallocate = || [parse("", "DEALLOCATE s"), bind("", "", &[]), execute("", 0)].concat();
    vec![
        with_statements("DEALLOCATE pipelined under settings of the startup")
            .startup("search_path", "other, public")
            .startup("TimeZone", "Asia/Tokyo")
            .send([again("s", &["1"]), query("DEALLOCATE s"), again("s", &["2"]), again("w", &["x"])])
            .ready(4)
            .send([query("EXECUTE w ('y')"), query("SHOW TimeZone"), query("DISCARD ALL"), query("SHOW TimeZone")])
            .ready(4)
            .send([again("w", &["x"]), parse("w", "SELECT 1"), sync(), query("EXECUTE w"), query(SHOW)])
            .ready(4)
            .send([query("SET work_mem = '5MB'"), query("PREPARE q AS SHOW work_mem"), query("PREPARE q AS SELECT 1")])
            .ready(3)
            .send([query("RESET work_mem; EXECUTE q"), again("w", &[]), query("DEALLOCATE q"), again("w", &[])])
            .ready(4),
        with_statements("EXECUTE pipelined with COMMIT, under settings of the startup")
            .startup("TimeZone", "Asia/Tokyo")
            .send([
                query("BEGIN"),
                query("SET LOCAL TimeZone = 'UTC'"),
                query("EXECUTE w ('in')"),
                query("SHOW TimeZone"),
                query("COMMIT"),
                query("EXECUTE w ('behind')"),
                query("SHOW TimeZone"),
                again("w", &["last"]),
            ])
            .ready(8)
            .query("SELECT x FROM journal ORDER BY x"),
        with_statements("EXECUTE while something is held")
            .query("CREATE TEMP TABLE held (x int)")
            .send([query("EXECUTE s (1)"), again("s", &["2"]), query("DEALLOCATE s"), again("s", &["3"])])
            .ready(4)
            .query(SHOW)
            .send([again("w", &["x"]), parse("s", "SELECT 'anew'"), sync(), again("s", &[])])
            .ready(3)
            .query("DROP TABLE held")
            .send([again("w", &["x"]), again("s", &[])])
            .ready(2),
        with_statements("EXECUTE in the middle of COPY")
            .send([query("COPY copied FROM STDIN"), copy_data("1\tx\n"), query("EXECUTE s (1)"), query("SELECT 1")])
            .ready(2)
            .query("EXECUTE s (1)"),
        with_statements("EXECUTE behind COPY")
            .send([query("COPY copied FROM STDIN"), copy_data("1\tx\n"), copy_done(), query("EXECUTE s (1)")])
            .ready(2),
        with_statements("portals and EXECUTE")
            .query("BEGIN")
            .send([parse("n", "SELECT n FROM numbers ORDER BY n"), bind("p", "n", &[]), execute("p", 3), sync()])
            .ready(1)
            .query("EXECUTE s (1)")
            .send([execute("p", 3), sync()])
            .ready(1)
            .query("DEALLOCATE n")
            .send([execute("p", 3), bind("q", "n", &[]), sync()])
            .ready(1)
            .query("ROLLBACK")
            .query("BEGIN")
            .send([parse("", "EXECUTE s (7)"), bind("e", "", &[]), sync()])
            .ready(1)
            .send([parse("", "DEALLOCATE ALL"), bind("d", "", &[]), sync()])
            .ready(1)
            .send([execute("e", 0), sync()])
            .ready(1)
            .send([execute("d", 0), bind("", "s", &["1"]), sync()])
            .ready(1)
            .query("COMMIT")
            .query(SHOW),
        with_statements("errors and pipelines around DEALLOCATE")
            .send([
                query("SELECT 1/0"),
                query("DEALLOCATE nosuch"),
                deallocate(),
                bind("", "nosuch", &[]),
                sync(),
                again("s", &["1"]),
                parse("s", "SELECT 'anew'"),
                sync(),
                query("DEALLOCATE ALL"),
                deallocate(),
                sync(),
                again("w", &["x"]),
            ])
            .ready(7)
            .query(SHOW),
        with_statements("a statement that drops itself")
            .send([parse("d", "DEALLOCATE d"), sync(), again("d", &[]), again("d", &[])])
            .ready(3)
            .send([parse("e", "EXECUTE e"), sync(), again("w", &["x"])])
            .ready(2)
            .query("DEALLOCATE e"),
    ]
}

/// A statement of which no more than three fit into the smaller of the caches.
fn long(word: &str) -> String {
    format!("SELECT '{word}' AS word /* {} */", word.repeat(20_000))
}
