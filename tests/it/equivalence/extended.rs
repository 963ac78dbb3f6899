//! The extended query protocol (PostgreSQL, "Extended Query").

use super::say::*;
use super::script::{Compare, Script, script};

const TEXT: u16 = 0;
const BINARY: u16 = 1;
const INT4: u32 = 23;
const INT8: u32 = 20;

pub fn scripts() -> Vec<Script> {
    [statements(), names(), portals(), batches(), transactions(), formats(), large()].concat()
}

fn statements() -> Vec<Script> {
    let read = "SELECT word FROM numbers WHERE n = $1";
    vec![
        script("the unnamed statement")
            .send([parse("", read), bind("", "", &["3"]), describe_portal(""), execute("", 0), sync()])
            .ready(1),
        script("a named statement")
            .send([parse("s", read), sync()])
            .ready(1)
            .send([again("s", &["1"])])
            .ready(1)
            .send([again("s", &["2"]), again("s", &["3"])])
            .ready(2)
            .send([close_statement("s"), sync()])
            .ready(1),
        script("everything in one batch")
            .send([
                parse("s", read),
                describe_statement("s"),
                bind("p", "s", &["5"]),
                describe_portal("p"),
                execute("p", 0),
                close_portal("p"),
                close_statement("s"),
                sync(),
            ])
            .ready(1),
        script("Describe without Execute")
            .send([parse("s", read), describe_statement("s"), sync()])
            .ready(1)
            .send([describe_statement("s"), sync()])
            .ready(1)
            .send([bind("", "s", &["1"]), describe_portal(""), sync()])
            .ready(1),
        script("Describe of what returns nothing")
            .send([parse("", "DELETE FROM journal WHERE x = $1"), describe_statement(""), bind("", "", &["none"])])
            .send([describe_portal(""), execute("", 0), sync()])
            .ready(1),
        script("an empty statement")
            .send([parse("", ""), describe_statement(""), bind("", "", &[]), describe_portal(""), execute("", 0)])
            .send([sync()])
            .ready(1)
            .batch("-- nothing", &[]),
        script("several statements in one Parse").batch("SELECT 1; SELECT 2", &[]).batch("SELECT 1;", &[]),
        script("types are given")
            .send([parse_typed("s", "SELECT $1, $2", &[INT4, INT8]), describe_statement("s"), sync()])
            .ready(1)
            .send([parse_typed("t", "SELECT $1, $2", &[INT8]), describe_statement("t"), sync()])
            .ready(1)
            .send([parse("u", "SELECT $1, $2"), describe_statement("u"), sync()])
            .ready(1),
        script("the same text with other types")
            .send([parse_typed("s", "SELECT $1 AS v", &[INT4]), parse_typed("t", "SELECT $1 AS v", &[25]), sync()])
            .ready(1)
            .send([describe_statement("s"), describe_statement("t"), sync()])
            .ready(1)
            .send([again("s", &["1"]), again("t", &["x"])])
            .ready(2),
        script("statements that write")
            .send([
                parse("i", "INSERT INTO journal VALUES ($1) RETURNING x"),
                parse("d", "DELETE FROM journal WHERE x = $1"),
            ])
            .send([sync()])
            .ready(1)
            .send([again("d", &["ext"]), again("i", &["ext"]), again("i", &["ext"]), again("d", &["ext"])])
            .ready(4),
        script("a notice of Parse, each time")
            .send([parse("a", LONG_NAME), sync()])
            .ready(1)
            .send([parse("b", LONG_NAME), sync()])
            .ready(1)
            .send([again("a", &[]), again("b", &[])])
            .ready(2),
        script("unsupported in a prepared statement").batch("BEGIN; SELECT 1", &[]).batch("SELECT $2", &["1", "2"]),
        script("VACUUM and other utilities")
            .batch("VACUUM numbers", &[])
            .batch("SHOW work_mem", &[])
            .batch("EXPLAIN (COSTS OFF) SELECT n FROM numbers WHERE n = $1", &["1"])
            .batch("CREATE TEMP TABLE unneeded ON COMMIT DROP AS SELECT 1", &[]),
    ]
}

const LONG_NAME: &str = "SELECT 1 AS a_name_that_is_longer_than_the_sixty_three_bytes_that_postgresql_keeps_of_names";

fn names() -> Vec<Script> {
    let twice = "SELECT 'twice'";
    let authored = Compare::BytesSaveSource;
    vec![
        script("a name closed and made anew behind an error")
            .send([parse("a", "SELECT 'old'"), sync()])
            .ready(1)
            .send([
                bind("", "nosuch", &[]),
                close_statement("a"),
                sync(),
                close_statement("a"),
                parse("a", "SELECT 'new'"),
                sync(),
            ])
            .ready(2)
            .send([again("a", &[])])
            .ready(1),
        script("a name that an error ahead leaves taken")
            .compare(authored)
            .send([parse("a", "SELECT 'old'"), sync()])
            .ready(1)
            .send([bind("", "nosuch", &[]), close_statement("a"), sync(), parse("a", "SELECT 'new'"), sync()])
            .ready(2)
            .send([again("a", &[])])
            .ready(1),
        script("a name that an error ahead leaves free")
            .send([
                bind("", "nosuch", &[]),
                parse("a", "SELECT 'old'"),
                sync(),
                close_statement("a"),
                parse("a", "SELECT 'new'"),
                sync(),
            ])
            .ready(2)
            .send([again("a", &[])])
            .ready(1),
        script("the unnamed statement behind an error ahead")
            .send([parse("", "SELECT 1"), sync()])
            .ready(1)
            .send([bind("", "nosuch", &[]), parse("", "SELECT 3"), sync(), parse("", "SELECT 4"), sync()])
            .ready(2)
            .send([again("", &[])])
            .ready(1)
            .send([bind("", "nosuch", &[]), parse("", "SELECT 5"), sync(), again("", &[])])
            .ready(2),
        script("the unnamed statement behind a simple query")
            .send([parse("", "INSERT INTO journal VALUES ('again')"), sync()])
            .ready(1)
            .send([
                bind("p", "nosuch", &[]),
                parse("", "SELECT 2"),
                sync(),
                query("SELECT 1"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ])
            .ready(3)
            .send([again("", &[])])
            .ready(1),
        script("a write that a failing batch would have made a read")
            .send([parse("a", "INSERT INTO journal VALUES ('once')"), sync()])
            .ready(1)
            .send([
                parse("x", "SELECT a FROM nonesuch"),
                close_statement("a"),
                parse("a", "SELECT * FROM journal"),
                sync(),
                again("a", &[]),
            ])
            .ready(2),
        script("a statement that goes on under other settings behind an error ahead")
            .send([parse("c", "SELECT 5 AS x"), sync()])
            .ready(1)
            .query("SET TimeZone = 'Asia/Tokyo'")
            .send([bind("", "nosuch", &[]), parse("a", "SELECT 5 AS x"), sync(), again("c", &[])])
            .ready(2)
            .send([again("c", &[])])
            .ready(1),
        script("DEALLOCATE of what can no longer be prepared")
            .query("BEGIN")
            .query("CREATE TABLE gone (a int)")
            .send([parse("a", "SELECT * FROM gone"), sync()])
            .ready(1)
            .query("ROLLBACK")
            .query("DEALLOCATE a")
            .query("SELECT 1")
            .send([again("a", &[])])
            .ready(1),
        script("DEALLOCATE in a failed transaction")
            .send([parse("a", "SELECT 5"), sync()])
            .ready(1)
            .send([query("BEGIN"), query("SELECT 1/0"), query("DEALLOCATE a"), query("ROLLBACK")])
            .ready(4)
            .send([again("a", &[])])
            .ready(1)
            .query("BEGIN")
            .query("SELECT 1/0")
            .query("DEALLOCATE ALL")
            .query("ROLLBACK")
            .send([again("a", &[])])
            .ready(1)
            .send([bind("", "nosuch", &[]), parse("", "DEALLOCATE a"), bind("", "", &[]), execute("", 0), sync()])
            .ready(1)
            .send([again("a", &[])])
            .ready(1)
            .batch("DEALLOCATE a", &[])
            .send([again("a", &[])])
            .ready(1),
        script("a ROLLBACK bound behind an error ahead")
            .send([
                query("BEGIN"),
                query("SELECT 1 / 0"),
                parse("", "ROLLBACK"),
                bind("", "", &[]),
                sync(),
                execute("", 0),
                sync(),
            ])
            .ready(4),
        script("a name that is taken")
            .compare(authored)
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .send([parse("s", "SELECT 2"), sync()])
            .ready(1)
            .send([again("s", &[])])
            .ready(1),
        script("a name that is taken in the same batch")
            .compare(authored)
            .send([parse("s", "SELECT 1"), parse("s", "SELECT 1"), bind("", "s", &[]), execute("", 0), sync()])
            .ready(1)
            .send([again("s", &[])])
            .ready(1),
        script("a taken name for a statement that is wrong")
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .send([parse("s", "SELEC 2"), sync()])
            .ready(1)
            .send([parse("s", "SELECT nothing"), sync()])
            .ready(1)
            .send([again("s", &[])])
            .ready(1),
        script("a name that stands for nothing")
            .compare(authored)
            .send([again("none", &[])])
            .ready(1)
            .send([describe_statement("none"), sync()])
            .ready(1)
            .send([bind("", "none", &[]), sync()])
            .ready(1)
            .send([close_statement("none"), close_portal("none"), sync()])
            .ready(1),
        script("no unnamed statement")
            .send([again("", &[])])
            .ready(1)
            .send([describe_statement(""), sync()])
            .ready(1)
            .send([close_statement(""), close_portal(""), sync()])
            .ready(1),
        script("a statement and a portal of the same name")
            .compare(authored)
            .query("BEGIN")
            .send([parse("x", twice), bind("x", "x", &[]), sync()])
            .ready(1)
            .send([close_portal("x"), sync()])
            .ready(1)
            .send([bind("x", "x", &[]), close_statement("x"), sync()])
            .ready(1)
            .send([execute("x", 0), sync()])
            .ready(1)
            .send([bind("y", "x", &[]), sync()])
            .ready(1)
            .query("ROLLBACK"),
        script("Parse again after Close")
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .send([close_statement("s"), parse("s", "SELECT 2"), bind("", "s", &[]), execute("", 0), sync()])
            .ready(1)
            .send([close_statement("s"), sync(), parse("s", "SELECT 1"), sync(), again("s", &[])])
            .ready(3),
        script("Parse again after Close, of the same text")
            .send([parse("s", twice), close_statement("s"), parse("s", twice), sync(), again("s", &[])])
            .ready(2)
            .send([close_statement("s"), sync()])
            .ready(1)
            .send([again("", &[])])
            .ready(1)
            .send([parse("s", twice), sync(), again("s", &[])])
            .ready(2),
        script("Parse again after a failed Parse")
            .send([parse("s", "SELEC 1"), sync()])
            .ready(1)
            .send([parse("s", "SELECT nothing"), sync()])
            .ready(1)
            .send([parse("s", "SELECT 1"), sync(), again("s", &[])])
            .ready(2),
        script("a failed Parse and the same name pipelined")
            .send([parse("s", "SELEC 1"), sync(), parse("s", "SELECT 1"), sync(), again("s", &[])])
            .ready(3),
        script("a failed Parse and its use pipelined")
            .compare(authored)
            .send([parse("s", "SELEC 1"), sync(), again("s", &[]), describe_statement("s"), sync()])
            .ready(3)
            .batch("SELECT 1", &[]),
        script("a failed Parse, its use and the same name pipelined")
            .compare(authored)
            .send([parse("s", "SELEC 1"), sync(), again("s", &[]), parse("s", "SELECT 1"), sync(), again("s", &[])])
            .ready(4),
        script("a Close and a use pipelined")
            .compare(authored)
            .send([parse("s", "SELECT 1"), sync(), close_statement("s"), sync(), again("s", &[]), query("SELECT 1")])
            .ready(4),
        script("a Parse that was skipped")
            .compare(authored)
            .send([parse("", "SELEC"), parse("s", "SELECT 1"), sync()])
            .ready(1)
            .send([again("s", &[])])
            .ready(1)
            .send([parse("s", "SELECT 2"), sync(), again("s", &[])])
            .ready(2),
        script("a Close that was skipped")
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .send([parse("", "SELEC"), close_statement("s"), sync(), again("s", &[])])
            .ready(2),
        script("the unnamed statement across batches")
            .send([parse("", "SELECT $1::int + 1"), sync()])
            .ready(1)
            .send([again("", &["1"]), again("", &["2"])])
            .ready(2)
            .send([describe_statement(""), sync()])
            .ready(1)
            .query("SELECT 'this drops it'")
            .send([again("", &["3"])])
            .ready(1),
        script("the unnamed statement after a failed Parse")
            .send([parse("", "SELECT 1"), sync()])
            .ready(1)
            .send([parse("", "SELEC"), sync()])
            .ready(1)
            .send([again("", &[])])
            .ready(1),
        script("the unnamed statement after a Parse of it that was skipped")
            .send([parse("", "SELECT 1"), sync()])
            .ready(1)
            .send([parse("x", "SELEC"), parse("", "SELECT 2"), sync()])
            .ready(1)
            .send([again("", &[])])
            .ready(1),
        script("the unnamed statement after its Bind was skipped")
            .send([parse("", "SELECT 1"), sync()])
            .ready(1)
            .query("SET app.pinned = 'x'; CREATE TEMP TABLE pins ()")
            .send([parse("", "SELECT 2"), sync()])
            .ready(1)
            .send([parse("x", "SELEC"), again("", &[]), again("", &[])])
            .ready(2)
            .query("DISCARD TEMP"),
        script("the unnamed statement after a failed Bind")
            .send([parse("", "SELECT $1::int"), sync()])
            .ready(1)
            .send([again("", &["x"])])
            .ready(1)
            .send([again("", &["7"])])
            .ready(1),
        script("the unnamed statement is closed")
            .send([parse("", "SELECT 1"), close_statement(""), sync()])
            .ready(1)
            .send([again("", &[])])
            .ready(1),
        script("a statement outlives a rolled back transaction")
            .query("BEGIN")
            .send([parse("s", "SELECT 1"), parse("", "SELECT 2"), sync()])
            .ready(1)
            .query("SELECT 1/0")
            .query("ROLLBACK")
            .send([again("s", &[])])
            .ready(1),
        script("odd names")
            .compare(authored)
            .send([
                parse("a \"b\" 'c' \u{e4}", "SELECT 1"),
                parse("pgweir_0", "SELECT 2"),
                parse("S", "SELECT 3"),
                sync(),
            ])
            .ready(1)
            .send([again("a \"b\" 'c' \u{e4}", &[]), again("pgweir_0", &[]), again("S", &[]), again("s", &[])])
            .ready(4)
            .send([parse(&"n".repeat(200), "SELECT 4"), sync(), again(&"n".repeat(200), &[])])
            .ready(2)
            .send([again(&"m".repeat(200), &[])])
            .ready(1),
        script("the client's names are in the server's messages")
            .send([parse("mine", "SELECT $1::int + $2::int"), sync()])
            .ready(1)
            .send([again("mine", &["1"])])
            .ready(1)
            .send([again("mine", &["1", "2", "3"])])
            .ready(1)
            .send([bind_in("", "mine", &[0, 0, 0], &[Some(b"1"), Some(b"2")], &[]), sync()])
            .ready(1)
            .send([again("mine", &["1", "x"])])
            .ready(1),
        script("every statement goes")
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .query("DEALLOCATE ALL")
            .send([close_statement("s"), parse("s", "SELECT 2"), sync(), again("s", &[])])
            .ready(2),
        script("every statement goes, by DISCARD ALL")
            .compare(authored)
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .batch("DISCARD ALL", &[])
            .send([again("s", &[])])
            .ready(1)
            .send([parse("s", "SELECT 2"), sync(), again("s", &[])])
            .ready(2),
        script("one statement goes, by DEALLOCATE")
            .compare(authored)
            .send([parse("s", "SELECT 1"), parse("t", "SELECT 2"), sync()])
            .ready(1)
            .query("DEALLOCATE s")
            .send([again("s", &[])])
            .ready(1)
            .send([again("t", &[])])
            .ready(1)
            .query("DEALLOCATE s"),
        script("more statements than are kept on a server connection")
            .send([
                parse("a", &long("a")),
                parse("b", &long("b")),
                parse("c", &long("c")),
                parse("d", &long("d")),
                sync(),
            ])
            .ready(1)
            .send([parse("e", &long("e")), sync(), again("a", &[]), again("b", &[]), again("e", &[]), again("a", &[])])
            .ready(5)
            .send([bind("", "a", &[]), execute("", 0), bind("", "b", &[]), execute("", 0), again("c", &[])])
            .ready(1)
            .send([
                parse("x", "SELEC"),
                bind("", "d", &[]),
                bind("", "e", &[]),
                sync(),
                again("d", &[]),
                again("e", &[]),
            ])
            .ready(3),
        script("a protocol's Bind of SQL's PREPARE")
            .query("PREPARE s (int) AS SELECT $1 + 1")
            .send([again("s", &["1"])])
            .ready(1)
            .query("EXECUTE s (2)")
            .send([close_statement("s"), sync()])
            .ready(1)
            .query("EXECUTE s (2)"),
    ]
}

fn portals() -> Vec<Script> {
    let rows = "SELECT n FROM numbers ORDER BY n";
    vec![
        script("a limit on rows").send([parse("", rows), bind("", "", &[]), execute("", 5), sync()]).ready(1),
        script("a portal goes on in its batch")
            .send([parse("", rows), bind("", "", &[]), execute("", 5), execute("", 14), execute("", 1), execute("", 1)])
            .send([execute("", 1), sync()])
            .ready(1),
        script("a portal goes on in its transaction")
            .query("BEGIN")
            .send([parse("s", rows), bind("p", "s", &[]), execute("p", 7), sync()])
            .ready(1)
            .send([execute("p", 7), sync()])
            .ready(1)
            .send([execute("p", 7), execute("p", 7), sync()])
            .ready(1)
            .query("COMMIT"),
        script("a portal is read by FETCH")
            .query("BEGIN")
            .send([parse("s", rows), bind("p", "s", &[]), execute("p", 3), sync()])
            .ready(1)
            .query("FETCH 2 FROM p")
            .send([execute("p", 1), sync()])
            .ready(1)
            .query("CLOSE p")
            .send([execute("p", 1), sync()])
            .ready(1)
            .query("ROLLBACK"),
        script("several portals take turns")
            .send([batch("BEGIN", &[]), parse("s", rows), bind("a", "s", &[]), bind("b", "s", &[]), execute("a", 2)])
            .send([
                execute("b", 3),
                execute("a", 2),
                sync(),
                execute("b", 1),
                execute("a", 1),
                close_portal("a"),
                sync(),
            ])
            .send([execute("b", 1), sync(), execute("a", 1), sync(), batch("COMMIT", &[])])
            .ready(6),
        script("a portal ends with its batch")
            .send([parse("s", rows), bind("p", "s", &[]), execute("p", 2), sync()])
            .ready(1)
            .send([execute("p", 2), sync()])
            .ready(1)
            .send([describe_portal("p"), sync()])
            .ready(1),
        script("a portal's name is taken")
            .send([parse("", "SELECT 1"), bind("p", "", &[]), bind("p", "", &[]), sync()])
            .ready(1)
            .send([parse("", "SELECT 1"), bind("", "", &[]), bind("", "", &[]), execute("", 0), sync()])
            .ready(1),
        script("a portal that wrote is executed again")
            .send([run("INSERT INTO journal VALUES ('portal')", &[]), execute("", 0), sync()])
            .ready(1)
            .query("DELETE FROM journal WHERE x = 'portal'"),
        script("a limit on the rows of RETURNING")
            .send([run("DELETE FROM journal WHERE x = 'limited'", &[]), sync()])
            .ready(1)
            .send([parse("", "INSERT INTO journal SELECT 'limited' FROM numbers WHERE n < 6 RETURNING x")])
            .send([bind("", "", &[]), execute("", 2), execute("", 2), execute("", 2), sync()])
            .ready(1)
            .query("SELECT count(*) FROM journal WHERE x = 'limited'"),
        script("a portal that fails half-way")
            .send([parse("", "SELECT 10 / (n - 4) FROM numbers ORDER BY n"), bind("", "", &[]), execute("", 2)])
            .send([execute("", 2), execute("", 2), sync()])
            .ready(1)
            .batch("SELECT 1", &[]),
        script("a portal in a failed transaction")
            .query("BEGIN")
            .send([parse("s", rows), bind("p", "s", &[]), execute("p", 1), sync()])
            .ready(1)
            .query("SAVEPOINT a")
            .query("SELECT 1/0")
            .send([execute("p", 1), sync()])
            .ready(1)
            .query("ROLLBACK TO a")
            .send([execute("p", 1), sync()])
            .ready(1)
            .query("ROLLBACK"),
    ]
}

fn batches() -> Vec<Script> {
    vec![
        script("Flush between the messages")
            .send([parse("", "SELECT n FROM numbers WHERE n < $1 ORDER BY n"), flush()])
            .until(b'1', 1)
            .send([bind("", "", &["4"]), flush()])
            .until(b'2', 1)
            .send([describe_portal(""), flush()])
            .until(b'T', 1)
            .send([execute("", 0), flush()])
            .until(b'C', 1)
            .send([sync()])
            .ready(1),
        script("Flush between the messages of a named statement")
            .send([parse("s", "SELECT $1::int"), describe_statement("s"), flush()])
            .until(b'T', 1)
            .send([bind("", "s", &["4"]), execute("", 0), flush()])
            .until(b'C', 1)
            .send([bind("", "s", &["5"]), execute("", 0), flush()])
            .until(b'C', 1)
            .send([close_statement("s"), flush()])
            .until(b'3', 1)
            .send([sync()])
            .ready(1),
        script("Flush after a write, then an error")
            .send([run("DELETE FROM journal WHERE x = 'flushed'", &[]), sync()])
            .ready(1)
            .send([run("INSERT INTO journal VALUES ('flushed')", &[]), flush()])
            .until(b'C', 1)
            .send([run("SELECT 1/0", &[]), flush()])
            .until(b'E', 1)
            .send([run("SELECT 1", &[]), flush(), flush(), sync()])
            .ready(1)
            .query("SELECT count(*) FROM journal WHERE x = 'flushed'"),
        script("a write after a read that was flushed")
            .send([run("SELECT n FROM numbers WHERE n = 1", &[]), flush()])
            .until(b'C', 1)
            .send([run("INSERT INTO journal VALUES ('flushed')", &[]), sync()])
            .ready(1)
            .query("SELECT x FROM journal"),
        script("prepared with Flush, then a write")
            .send([parse("s", "SELECT n FROM numbers WHERE n = $1"), describe_statement("s"), flush()])
            .until(b'T', 1)
            .query("INSERT INTO journal VALUES ('prepared')")
            .send([again("s", &["2"])])
            .ready(1)
            .send([parse("", "SELECT word FROM numbers WHERE n = 3"), flush(), bind("", "", &[]), flush()])
            .until(b'2', 1)
            .send([execute("", 0), sync(), close_statement("s"), flush(), sync()])
            .ready(2),
        script("prepared with Flush, wrongly")
            .send([parse("s", "SELEC"), describe_statement("s"), flush()])
            .until(b'E', 1)
            .send([parse("s", "SELECT 1"), bind("", "s", &[]), execute("", 0), sync()])
            .ready(1)
            .send([parse("s", "SELECT 1"), flush(), again("s", &[])])
            .ready(1),
        script("prepared with Flush, wrongly, all at once")
            .send([run("SELECT 1/0", &[]), sync(), parse("t", "SELECT 2"), flush(), parse("s", "SELEC"), flush()])
            .send([parse("s", "SELECT 1"), bind("", "s", &[]), query("SELECT 3"), flush(), sync(), again("t", &[])])
            .ready(3),
        script("described with Flush, then executed")
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .send([describe_statement("s"), flush()])
            .until(b'T', 1)
            .send([again("s", &[])])
            .ready(1),
        script("BEGIN, and prepared wrongly with Flush")
            .send([query("BEGIN"), parse("s", "SELEC"), flush(), sync()])
            .ready(2)
            .query("SELECT 1")
            .query("ROLLBACK"),
        script("BEGIN, prepared wrongly with Flush, and executed")
            .send([query("BEGIN"), parse("s", "SELEC"), flush(), bind("", "s", &[]), execute("", 0), sync()])
            .ready(2)
            .query("SELECT 1")
            .query("ROLLBACK"),
        script("a long error behind a Flush")
            .send([parse("", &format!("SELECT '{}'::int", "x".repeat(100_000))), flush(), sync()])
            .ready(1)
            .query("SELECT 1"),
        script("a write, prepared wrongly with Flush, and executed")
            .send([batch("INSERT INTO journal VALUES ('x')", &[]), parse("s", "SELEC"), flush()])
            .send([bind("", "s", &[]), execute("", 0), sync()])
            .ready(2)
            .query("SELECT 1"),
        script("a long unnamed statement prepared with Flush")
            .send([
                parse("", &format!("SELECT length('{}') AS l", "t".repeat(1 << 20))),
                describe_statement(""),
                flush(),
            ])
            .until(b'T', 1)
            .send([bind("", "", &[]), execute("", 0), sync()])
            .ready(1),
        script("DEALLOCATE prepared with Flush")
            .send([parse("s", "SELECT 1"), sync()])
            .ready(1)
            .send([parse("", "DEALLOCATE s"), describe_statement(""), flush()])
            .until(b'n', 1)
            .send([bind("", "", &[]), execute("", 0), sync()])
            .ready(1),
        script("Flush alone").send([flush(), flush()]).query("SELECT 1").send([flush(), sync()]).ready(1),
        script("Sync alone").send([sync()]).ready(1).send([sync(), sync(), sync()]).ready(3),
        script("pipelined reads")
            .send([
                batch("SELECT 1", &[]),
                batch("SELECT word FROM numbers WHERE n = $1", &["4"]),
                batch("SELECT 3", &[]),
            ])
            .ready(3),
        script("pipelined reads and writes")
            .send([
                batch("DELETE FROM journal WHERE x = $1", &["mixed"]),
                batch("SELECT count(*) FROM journal WHERE x = $1", &["mixed"]),
                batch("INSERT INTO journal VALUES ($1)", &["mixed"]),
                batch("SELECT count(*) FROM journal WHERE x = $1", &["mixed"]),
                batch("SELECT word FROM numbers WHERE n = 7", &[]),
                batch("INSERT INTO journal VALUES ($1)", &["mixed"]),
                batch("SELECT count(*) FROM journal WHERE x = $1", &["mixed"]),
            ])
            .ready(7),
        script("pipelined batches of named statements")
            .send([
                parse("r", "SELECT count(*) FROM journal WHERE x = $1"),
                parse("w", "INSERT INTO journal VALUES ($1)"),
                parse("d", "DELETE FROM journal WHERE x = $1"),
                sync(),
                again("d", &["named"]),
                again("r", &["named"]),
                again("w", &["named"]),
                again("r", &["named"]),
                again("d", &["named"]),
            ])
            .ready(6),
        script("simple and extended in turn")
            .send([
                query("SELECT 1"),
                batch("SELECT 2", &[]),
                query("DELETE FROM journal WHERE x = 'turn'"),
                batch("SELECT count(*) FROM journal WHERE x = $1", &["turn"]),
                query("SELECT 5"),
            ])
            .ready(5),
        script("a read and a write in one batch")
            .send([run("SELECT n FROM numbers WHERE n = 1", &[]), run("DELETE FROM journal WHERE x = 'one'", &[])])
            .send([run("SELECT count(*) FROM journal WHERE x = 'one'", &[]), sync()])
            .ready(1),
        script("an error undoes its batch")
            .batch("DELETE FROM journal WHERE x = 'undone'", &[])
            .send([run("INSERT INTO journal VALUES ('undone')", &[]), run("SELECT 1/0", &[]), sync()])
            .ready(1)
            .batch("SELECT count(*) FROM journal WHERE x = 'undone'", &[]),
        script("a constraint that fails at Sync")
            .send([run("INSERT INTO child VALUES (99)", &[]), sync(), batch("SELECT 1", &[])])
            .ready(2),
        script("a query inside a batch")
            .send([run("SELECT 1", &[]), query("SELECT 2"), run("SELECT 3", &[]), sync()])
            .ready(2),
        script("a query inside a batch that failed")
            .send([run("SELECT 1/0", &[]), query("SELECT 2"), run("SELECT 3", &[]), sync(), query("SELECT 4")])
            .ready(2),
        script("a query after a Flush")
            .send([run("DELETE FROM journal WHERE x = 'fl'", &[]), flush()])
            .until(b'C', 1)
            .query("SELECT 2")
            .send([sync()])
            .ready(1),
        failing_at("an error of Parse", [parse("", "SELEC 1"), bind("", "", &[]), describe_portal(""), execute("", 0)]),
        failing_at(
            "an unknown name",
            [parse("", "SELECT nothing"), bind("", "", &[]), describe_portal(""), execute("", 0)],
        ),
        failing_at(
            "an error of Bind",
            [parse("", "SELECT $1::int"), bind("", "", &["x"]), describe_portal(""), execute("", 0)],
        ),
        failing_at(
            "too many parameters",
            [parse("", "SELECT $1::int"), bind("", "", &["1", "2"]), describe_portal(""), execute("", 0)],
        ),
        failing_at(
            "an error of Describe",
            [parse("", "SELECT 1"), bind("", "", &[]), describe_portal("nowhere"), execute("", 0)],
        ),
        failing_at(
            "an error of Execute",
            [parse("", "SELECT 1/0"), bind("", "", &[]), describe_portal(""), execute("", 0)],
        ),
        failing_at(
            "an error after the first rows",
            [
                parse("", "SELECT 10 / (n - 4) FROM numbers ORDER BY n"),
                bind("", "", &[]),
                describe_portal(""),
                execute("", 0),
            ],
        ),
        failing_at(
            "no such portal",
            [parse("", "SELECT 1"), bind("", "", &[]), describe_portal(""), execute("nowhere", 0)],
        ),
        script("errors and batches in turn")
            .send([
                batch("SELECT 1/0", &[]),
                batch("SELECT 1", &[]),
                batch("SELEC", &[]),
                batch("INSERT INTO journal VALUES (1/0)", &[]),
                batch("SELECT 2", &[]),
                batch("SELECT $1::int", &["x"]),
                batch("SELECT 3", &[]),
            ])
            .ready(7),
        script("errors of named statements in turn")
            .send([parse("z", "SELECT 1/$1::int"), parse("w", "INSERT INTO journal VALUES (1/$1::int)"), sync()])
            .ready(1)
            .send([again("z", &["0"]), again("z", &["1"]), again("w", &["0"]), again("z", &["x"]), again("z", &["1"])])
            .ready(5),
    ]
}

/// The batch, something behind the error that is skipped, and a batch that must work again.
fn failing_at(name: &'static str, messages: [Vec<u8>; 4]) -> Script {
    script(name)
        .send(messages)
        .send([parse("skipped", "SELECT 1"), close_statement("skipped"), run("SELECT 1", &[]), sync()])
        .send([batch("SELECT 'later'", &[])])
        .ready(2)
        .batch("SELECT 'last'", &[])
}

fn transactions() -> Vec<Script> {
    vec![
        script("a transaction in the extended protocol")
            .batch("BEGIN", &[])
            .batch("DELETE FROM journal WHERE x = $1", &["etx"])
            .batch("INSERT INTO journal VALUES ($1)", &["etx"])
            .batch("SELECT count(*) FROM journal WHERE x = $1", &["etx"])
            .batch("COMMIT", &[])
            .batch("SELECT count(*) FROM journal WHERE x = $1", &["etx"]),
        script("a pipelined transaction")
            .send([
                batch("SELECT n FROM numbers WHERE n = 1", &[]),
                batch("BEGIN", &[]),
                batch("INSERT INTO journal VALUES ('etx')", &[]),
                batch("SELECT 1/0", &[]),
                batch("SELECT 1", &[]),
                batch("ROLLBACK", &[]),
                batch("SELECT n FROM numbers WHERE n = 2", &[]),
            ])
            .ready(7),
        script("a transaction in one batch")
            .send([run("BEGIN", &[]), run("INSERT INTO journal VALUES ('b')", &[]), run("ROLLBACK", &[]), sync()])
            .ready(1),
        script("a transaction begins in a batch and ends in another")
            .send([run("SELECT n FROM numbers WHERE n = 1", &[]), run("BEGIN", &[]), sync()])
            .ready(1)
            .send([run("INSERT INTO journal VALUES ('b')", &[]), run("ROLLBACK", &[]), run("SELECT 1", &[]), sync()])
            .ready(1),
        script("a failed transaction and a statement that is known")
            .compare(Compare::BytesSaveSource)
            .send([parse("s", "SELECT 'known'"), sync(), again("s", &[])])
            .ready(2)
            .query("BEGIN")
            .query("SELECT 1/0")
            .send([parse("t", "SELECT 'known'"), sync()])
            .ready(1)
            .send([again("s", &[])])
            .ready(1)
            .send([describe_statement("s"), sync()])
            .ready(1)
            .send([parse("", "SELECT 'known'"), sync()])
            .ready(1)
            .batch("ROLLBACK", &[])
            .send([parse("t", "SELECT 'known'"), sync(), again("t", &[]), again("s", &[])])
            .ready(3),
        script("a failed transaction fails on, pipelined")
            .send([parse("s", "SELECT 'known'"), parse("r", "ROLLBACK"), sync()])
            .ready(1)
            .send([
                batch("BEGIN", &[]),
                batch("SELECT 1/0", &[]),
                batch("SELECT 1", &[]),
                again("s", &[]),
                parse("t", "SELECT 'known'"),
                sync(),
                again("r", &[]),
                again("s", &[]),
            ])
            .ready(7),
        script("a read-only transaction")
            .batch("BEGIN READ ONLY", &[])
            .batch("SELECT word FROM numbers WHERE n = $1", &["2"])
            .batch("INSERT INTO journal VALUES ('ro')", &[])
            .batch("COMMIT", &[])
            .batch("SELECT 1", &[]),
        script("a prepared BEGIN")
            .send([parse("b", "BEGIN"), parse("c", "COMMIT"), parse("r", "SELECT n FROM numbers WHERE n = $1"), sync()])
            .ready(1)
            .send([again("b", &[]), again("r", &["1"]), again("c", &[]), again("r", &["2"])])
            .ready(4),
        script("a setting in a batch")
            .batch("SET TimeZone = 'Asia/Tokyo'", &[])
            .batch("SELECT '2024-01-02 03:04:05+00'::timestamptz", &[])
            .batch("SELECT set_config('TimeZone', $1, false)", &["Europe/Berlin"])
            .send([run("SET TimeZone = 'UTC'", &[]), run("SELECT 1/0", &[]), sync()])
            .ready(1)
            .batch("SHOW TimeZone", &[]),
        script("a plan whose table has changed")
            .send([parse("s", "SELECT x + 0 AS y FROM shifting"), sync(), again("s", &[])])
            .ready(2)
            .query("ALTER TABLE shifting ADD COLUMN z int")
            .send([again("s", &[])])
            .ready(1)
            .query("ALTER TABLE shifting DROP COLUMN z")
            .send([again("s", &[]), parse("t", "SELECT x + 0 AS y FROM shifting"), sync(), again("t", &[])])
            .ready(3),
        script("a plan whose type has changed, in a transaction")
            .compare(Compare::BytesSaveSource)
            .query("ALTER TABLE retyped ALTER x TYPE int")
            .send([parse("s", "SELECT x AS y FROM retyped"), describe_statement("s"), sync(), again("s", &[])])
            .ready(2)
            .query("BEGIN")
            .query("ALTER TABLE retyped ALTER x TYPE bigint")
            .send([again("s", &[])])
            .ready(1)
            .query("ROLLBACK")
            .send([again("s", &[])])
            .ready(1),
        script("a plan that replaces one whose rows were told")
            .compare(Compare::BytesSaveSource)
            .send([parse("s", "SELECT x AS a FROM retyped"), describe_statement("s"), close_statement("s")])
            .send([parse("s", "SELECT x AS b FROM retyped"), sync(), again("s", &[])])
            .ready(2)
            .query("ALTER TABLE retyped ADD w int; ALTER TABLE retyped DROP w")
            .send([again("s", &[])])
            .ready(1),
        script("a portal that is described behind another's Bind")
            .compare(Compare::BytesSaveSource)
            .send([parse("s", "SELECT x AS a FROM retyped"), parse("t", "SELECT x AS b FROM retyped")])
            .send([bind("p", "s", &[]), bind("q", "t", &[]), describe_portal("p"), sync(), again("t", &[])])
            .ready(2)
            .query("ALTER TABLE retyped ADD w int; ALTER TABLE retyped DROP w")
            .send([again("t", &[])])
            .ready(1),
        script("a plan whose type changes for good")
            .compare(Compare::BytesSaveSource)
            .query("ALTER TABLE retyped ALTER x TYPE int")
            .send([parse("s", "SELECT x AS z FROM retyped"), describe_statement("s"), sync(), again("s", &[])])
            .ready(2)
            .query("ALTER TABLE retyped ALTER x TYPE bigint")
            .send([again("s", &[])])
            .ready(1)
            .query("ALTER TABLE retyped ALTER x TYPE int")
            .send([again("s", &[])])
            .ready(1),
    ]
}

fn formats() -> Vec<Script> {
    let five = 5i32.to_be_bytes();
    let eight = 8i64.to_be_bytes();
    vec![
        script("binary in and out")
            .send([parse_typed("", "SELECT $1 + 1, $1::text", &[INT4])])
            .send([bind_in("", "", &[BINARY], &[Some(&five)], &[BINARY]), describe_portal(""), execute("", 0), sync()])
            .ready(1),
        script("mixed formats")
            .send([parse_typed("s", "SELECT $1, $2, $3::text", &[INT4, INT8])])
            .send([bind_in(
                "",
                "s",
                &[BINARY, BINARY, TEXT],
                &[Some(&five), Some(&eight), Some(b"text")],
                &[TEXT, BINARY, TEXT],
            )])
            .send([describe_portal(""), execute("", 0), sync()])
            .ready(1),
        script("NULL and empty")
            .send([parse("", "SELECT $1::text IS NULL, $2::text = '', $3::text")])
            .send([bind_in("", "", &[], &[None, Some(b""), None], &[]), execute("", 0), sync()])
            .ready(1),
        script("a binary value of the wrong length")
            .send([parse_typed("", "SELECT $1", &[INT4]), bind_in("", "", &[BINARY], &[Some(b"abc")], &[])])
            .send([execute("", 0), sync(), batch("SELECT 1", &[])])
            .ready(2),
        script("a number of formats that does not fit")
            .send([parse("", "SELECT 1, 2, 3"), bind_in("", "", &[], &[], &[TEXT, TEXT]), execute("", 0), sync()])
            .ready(1)
            .send([parse("", "SELECT 1"), bind_in("", "", &[], &[], &[7]), execute("", 0), sync()])
            .ready(1),
        script("text that is not UTF-8")
            .send([
                parse("", "SELECT $1::text"),
                bind_in("", "", &[], &[Some(b"\xff\xfe")], &[]),
                execute("", 0),
                sync(),
            ])
            .ready(1)
            .send([message(b'Q', b"SELECT '\xff'\0")])
            .ready(1)
            .batch("SELECT 1", &[]),
        script("functions are called")
            .send([function_call(INT4PL, &[Some(&five), Some(&five)])])
            .ready(1)
            .send([function_call(INT4DIV, &[Some(&five), Some(&[0; 4])])])
            .ready(1)
            .send([function_call(INT4PL, &[Some(&five), None])])
            .ready(1)
            .send([function_call(4_000_000_000, &[])])
            .ready(1)
            .query("BEGIN")
            .send([function_call(INT4DIV, &[Some(&five), Some(&[0; 4])])])
            .ready(1)
            .send([function_call(INT4PL, &[Some(&five), Some(&five)])])
            .ready(1)
            .query("ROLLBACK"),
        script("a function is called between Parse and Bind")
            .send([parse("", "SELECT 'kept'"), sync(), function_call(INT4PL, &[Some(&five), Some(&five)])])
            .ready(2)
            .send([again("", &[])])
            .ready(1),
        script("functions are called between batches")
            .send([
                batch("SELECT n FROM numbers WHERE n = 1", &[]),
                function_call(INT4PL, &[Some(&five), Some(&five)]),
                query("SELECT 1"),
                run("SELECT 1", &[]),
                function_call(INT4PL, &[Some(&five), Some(&five)]),
                sync(),
            ])
            .ready(5),
    ]
}

/// `int4pl` and `int4div` in `pg_proc.dat`.
const INT4PL: u32 = 177;
const INT4DIV: u32 = 154;

fn large() -> Vec<Script> {
    let value = "v".repeat(1 << 20);
    let text = format!("SELECT length('{}') AS l", "t".repeat(1 << 20));
    vec![
        script("more messages than anybody counts, before a Sync")
            .send([parse("a", "SELECT 1"), close_statement("a").repeat(6_000), parse("a", "SELECT 2")])
            .send([close_statement("nobody").repeat(6_000), sync(), again("a", &[])])
            .ready(2),
        script("a parameter of 1 MB")
            .send([parse("", "SELECT length($1), $1"), bind("", "", &[&value]), execute("", 0), sync()])
            .ready(1),
        script("a parameter of 1 MB for a named statement")
            .send([parse("s", "SELECT length($1), $1"), sync(), again("s", &[&value]), again("s", &["short"])])
            .ready(3)
            .batch("SELECT 1", &[]),
        script("a parameter of 1 MB that is written")
            .send([batch("BEGIN", &[]), batch("INSERT INTO journal VALUES ($1) RETURNING length(x)", &[&value])])
            .send([batch("SELECT 1", &[]), batch("ROLLBACK", &[])])
            .ready(4),
        script("a large parameter of what fails")
            .send([
                parse("", "SELECT $1::int"),
                bind("", "", &[&value]),
                execute("", 0),
                sync(),
                batch("SELECT 1", &[]),
            ])
            .ready(2),
        script("a text of 1 MB")
            .send([parse("", &text), bind("", "", &[]), execute("", 0), sync()])
            .ready(1)
            .batch("SELECT 1", &[]),
        script("many parameters").send([many_parameters(), execute("", 0), sync()]).ready(1),
        script("many messages in one batch")
            .send([std::iter::repeat_n(run("SELECT n FROM numbers WHERE n = 5", &[]), 300).flatten().collect(), sync()])
            .ready(1),
        script("many batches at once")
            .send([std::iter::repeat_n(batch("SELECT n FROM numbers WHERE n = 5", &[]), 300).flatten().collect()])
            .ready(300),
    ]
}

/// Five of them are more than 64 kB.
fn long(letter: &str) -> String {
    format!("SELECT '{letter}' /* {} */", letter.repeat(15_000))
}

fn many_parameters() -> Vec<u8> {
    let values: Vec<_> = (1..=1000).map(|i| i.to_string()).collect();
    let sum: Vec<_> = (1..=1000).map(|i| format!("${i}::int")).collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    [parse("", &format!("SELECT {}", sum.join("+"))), bind("", "", &values)].concat()
}
