//! COPY in both directions (PostgreSQL, "COPY Operations"). In the simple protocol its failure ends
//! with `ReadyForQuery` at once, in the extended one at the `Sync` that follows.

use super::say::*;
use super::script::{Compare, Script, script};

const IN: &str = "COPY copied FROM STDIN";
const CLEAR: &str = "DELETE FROM copied";
const COUNT: &str = "SELECT count(*), sum(a) FROM copied";

pub fn scripts() -> Vec<Script> {
    [simple(), extended(), out()].concat()
}

fn simple() -> Vec<Script> {
    vec![
        script("in")
            .query(CLEAR)
            .send([query(IN)])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), copy_data("2\ttwo\n3\tth"), copy_data("ree\n"), copy_done()])
            .ready(1)
            .query(COUNT),
        script("in, all at once")
            .send([query(CLEAR), query(IN), copy_data("1\tone\n"), copy_data("2\ttwo\n"), copy_done(), query(COUNT)])
            .ready(3),
        script("in, with nothing").send([query(IN), copy_done(), query("SELECT 1")]).ready(2),
        script("in, the client fails")
            .send([query(CLEAR)])
            .ready(1)
            .send([query(IN)])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), copy_fail("no more")])
            .ready(1)
            .query(COUNT),
        script("in, the client fails, all at once")
            .send([query(CLEAR), query(IN), copy_data("1\tone\n"), copy_fail("no more"), query(COUNT)])
            .ready(3),
        script("in, the data is bad")
            .send([query(IN)])
            .until(b'G', 1)
            .send([copy_data("x\tone\n"), copy_done()])
            .ready(1)
            .query("SELECT 1"),
        script("in, the data is bad and more of it comes")
            .send([query(IN)])
            .until(b'G', 1)
            .send([copy_data("x\tone\n")])
            .ready(1)
            .send([copy_data("2\ttwo\n"), copy_data("3\tthree\n"), copy_done(), query("SELECT 1")])
            .ready(1),
        script("in, the data is bad, all at once")
            .send([query(IN), copy_data("x\tone\n"), copy_data("2\ttwo\n"), copy_data("3\tthree\n"), copy_done()])
            .send([query("SELECT n FROM numbers WHERE n = 1"), query(COUNT_NONE)])
            .ready(3),
        script("in, the data is bad and the client fails later")
            .send([query(IN), copy_data("x\tone\n"), copy_data("2\ttwo\n"), copy_fail("late"), query("SELECT 1")])
            .ready(2),
        script("in, into nothing")
            .send([query("COPY no_such_table FROM STDIN"), copy_data("1\tone\n"), copy_done(), query("SELECT 1")])
            .ready(2),
        script("stray data").send([copy_data("1\tone\n"), copy_done(), copy_fail("x"), query("SELECT 1")]).ready(1),
        script("in, with Sync and Flush between the data")
            .query(CLEAR)
            .send([query(IN)])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), sync(), flush(), copy_data("2\ttwo\n"), sync(), copy_done(), query(COUNT)])
            .ready(2),
        script("in, in a transaction")
            .query("BEGIN")
            .query(CLEAR)
            .send([query(IN), copy_data("1\tone\n"), copy_done()])
            .ready(1)
            .query(COUNT)
            .send([query(IN), copy_data("x\tone\n"), copy_done()])
            .ready(1)
            .query(COUNT)
            .query("ROLLBACK"),
        script("in a string of statements")
            .query(CLEAR)
            .send([query("SELECT 1; COPY copied FROM STDIN; SELECT count(*) FROM copied")])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), copy_done()])
            .ready(1),
        script("twice in a string of statements")
            .query(CLEAR)
            .send([query("COPY copied FROM STDIN; COPY copied FROM STDIN; SELECT count(*) FROM copied")])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), copy_done()])
            .until(b'G', 1)
            .send([copy_data("2\ttwo\n"), copy_done()])
            .ready(1),
        script("twice in a string of statements, all at once")
            .query(CLEAR)
            .send([query("COPY copied FROM STDIN; COPY copied FROM STDIN; SELECT count(*) FROM copied")])
            .send([copy_data("1\tone\n"), copy_done(), copy_data("2\ttwo\n"), copy_done(), query("SELECT 1")])
            .ready(2),
        script("in, the next statement of the string fails")
            .query(CLEAR)
            .send([query("COPY copied FROM STDIN; SELECT 1/0"), copy_data("1\tone\n"), copy_done(), query(COUNT)])
            .ready(2),
        script("in, a query comes instead of data")
            .compare(Compare::EndAndSqlstate)
            .send([query(IN)])
            .until(b'G', 1)
            .send([query("SELECT 1")])
            .closed(),
        script("in, binary")
            .query(CLEAR)
            .send([query("COPY copied FROM STDIN (FORMAT binary)"), message(b'd', BINARY_ROW), copy_done()])
            .ready(1)
            .query(COUNT),
        script("in, 1 MB in one message")
            .query(CLEAR)
            .send([query(IN), copy_data(&format!("1\t{}\n", "x".repeat(1 << 20))), copy_done()])
            .ready(1)
            .query("SELECT a, length(b) AS l FROM copied"),
        script("in, 1 MB in many messages")
            .query(CLEAR)
            .send([query(IN), std::iter::repeat_n(copy_data("7\tseven\n"), 40_000).flatten().collect(), copy_done()])
            .ready(1)
            .query(COUNT),
    ]
}

const COUNT_NONE: &str = "SELECT count(*) FROM copied WHERE a < 0";

/// Signature, flags, extension; one row of int4 4 and text "four"; the trailer (PostgreSQL, COPY,
/// "Binary Format").
const BINARY_ROW: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x04\0\0\0\x04\0\0\0\x04four\xff\xff";

fn extended() -> Vec<Script> {
    vec![
        script("in, extended")
            .query(CLEAR)
            .send([run(IN, &[])])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), copy_done(), sync()])
            .ready(1)
            .query(COUNT),
        script("in, extended, all at once")
            .query(CLEAR)
            .send([run(IN, &[]), copy_data("1\tone\n"), copy_data("2\ttwo\n"), copy_done(), sync(), batch(COUNT, &[])])
            .ready(2),
        script("in, extended, with an early Sync")
            .query(CLEAR)
            .send([run(IN, &[]), sync()])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), copy_done(), sync()])
            .ready(1)
            .query(COUNT),
        script("in, extended, with an early Sync, all at once")
            .query(CLEAR)
            .send([run(IN, &[]), sync(), copy_data("1\tone\n"), copy_done(), sync(), batch(COUNT, &[])])
            .ready(2),
        script("in, extended, a second statement in the batch")
            .query(CLEAR)
            .send([run(IN, &[])])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), copy_done(), run(COUNT, &[]), sync()])
            .ready(1),
        script("in, extended, the client fails")
            .send([run(IN, &[])])
            .until(b'G', 1)
            .send([copy_data("1\tone\n"), copy_fail("no more"), run("SELECT 1", &[]), sync(), batch("SELECT 2", &[])])
            .ready(2),
        script("in, extended, the client fails, all at once")
            .send([run(IN, &[]), copy_data("1\tone\n"), copy_fail("no more"), sync(), batch("SELECT 2", &[])])
            .ready(2),
        script("in, extended, the data is bad")
            .send([run(IN, &[])])
            .until(b'G', 1)
            .send([copy_data("x\tone\n")])
            .until(b'E', 1)
            .send([copy_data("2\ttwo\n"), copy_done(), sync(), batch("SELECT 2", &[])])
            .ready(2),
        script("in, extended, the data is bad, all at once")
            .send([run(IN, &[]), copy_data("x\tone\n"), copy_data("2\ttwo\n"), copy_done(), sync()])
            .send([batch("SELECT 2", &[])])
            .ready(2),
        script("in, extended, the data is bad, with an early Sync")
            .send([run(IN, &[]), sync()])
            .until(b'G', 1)
            .send([copy_data("x\tone\n")])
            .until(b'E', 1)
            .send([copy_data("2\ttwo\n"), copy_done(), sync()])
            .ready(1)
            .batch("SELECT 2", &[]),
        script("in, extended, into nothing")
            .send([run("COPY no_such_table FROM STDIN", &[]), copy_data("1\tone\n"), copy_done(), sync()])
            .send([batch("SELECT 2", &[])])
            .ready(2),
        script("in, extended, into nothing, with an early Sync")
            .send([run("COPY no_such_table FROM STDIN", &[]), sync(), copy_data("1\tone\n"), copy_done(), sync()])
            .send([batch("SELECT 2", &[])])
            .ready(3),
        script("in, prepared")
            .query(CLEAR)
            .send([parse("c", IN), sync()])
            .ready(1)
            .send([bind("", "c", &[]), execute("", 0), copy_data("1\tone\n"), copy_done(), sync()])
            .ready(1)
            .send([bind("", "c", &[]), describe_portal(""), execute("", 0), copy_data("2\ttwo\n"), copy_done(), sync()])
            .ready(1)
            .batch(COUNT, &[]),
    ]
}

fn out() -> Vec<Script> {
    let out = "COPY (SELECT n, word FROM numbers ORDER BY n) TO STDOUT";
    vec![
        script("out").query(out).query("SELECT 1"),
        script("out of a table").query("COPY numbers TO STDOUT (FORMAT csv, HEADER)"),
        script("out, binary").query("COPY (SELECT n FROM numbers ORDER BY n) TO STDOUT (FORMAT binary)"),
        script("out, in a string of statements")
            .query(&format!("SELECT 1; {out}; SELECT 2"))
            .query(&format!("{out}; {out}")),
        script("out, fails half-way")
            .query("COPY (SELECT 10 / (n - 4) FROM numbers ORDER BY n) TO STDOUT")
            .query("SELECT 1"),
        script("out, extended").batch(out, &[]).batch("SELECT 1", &[]),
        script("out, extended, fails half-way")
            .send([run("COPY (SELECT 10 / (n - 4) FROM numbers ORDER BY n) TO STDOUT", &[]), run("SELECT 1", &[])])
            .send([sync(), batch("SELECT 1", &[])])
            .ready(2),
        script("out, in a transaction").query("BEGIN").query(out).batch(out, &[]).query("COMMIT"),
        script("out, pipelined with in")
            .send([query(CLEAR), query(IN), copy_data("1\tone\n"), copy_done(), query("COPY copied TO STDOUT")])
            .ready(3),
        script("out, 2 MB").query(
            "COPY (SELECT n, m, repeat('x', 100) FROM numbers, generate_series(1, 1000) m ORDER BY 1, 2) TO STDOUT",
        ),
    ]
}
