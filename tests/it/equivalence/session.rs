//! What a session keeps: settings and their reports, notifications, temporary tables, statements of
//! SQL's own PREPARE, cursors that are held, locks.

use super::say::*;
use super::script::{Script, script};

pub fn scripts() -> Vec<Script> {
    [startup(), reports(), settings(), state()].concat()
}

fn startup() -> Vec<Script> {
    vec![
        script("nothing but the greeting"),
        script("an application's name").startup("application_name", "wire test").query("SHOW application_name"),
        script("an application's name of other characters")
            .startup("application_name", "gr\u{fc}n\u{1}")
            .query("SHOW application_name"),
        script("settings at startup")
            .startup("TimeZone", "Asia/Tokyo")
            .startup("DateStyle", "German")
            .startup("extra_float_digits", "0")
            .query("SELECT '2024-01-02 03:04:05+00'::timestamptz, 0.1::float8 + 0.2")
            .query("SHOW DateStyle"),
        script("options at startup")
            .startup("options", "-c work_mem=5MB --search_path=\"$user\",pg_catalog -cTimeZone=Europe/Berlin")
            .query("SELECT current_setting('work_mem'), current_setting('TimeZone'), current_setting('search_path')"),
        script("an encoding at startup")
            .startup("client_encoding", "LATIN1")
            .query("SELECT U&'\\00fc'")
            .query("SHOW client_encoding")
            .query("RESET client_encoding")
            .query("SHOW client_encoding"),
        script("a statement timeout at startup").startup("statement_timeout", "12s").query("SHOW statement_timeout"),
        script("a setting of one's own at startup").startup("app.tenant", "acme").query("SHOW app.tenant"),
    ]
}

fn reports() -> Vec<Script> {
    vec![
        script("a setting that is reported")
            .query("SET TimeZone = 'Europe/Berlin'")
            .query("SHOW TimeZone")
            .query("SELECT '2024-01-02 03:04:05+00'::timestamptz")
            .query("SET TimeZone = 'Europe/Berlin'")
            .query("RESET TimeZone")
            .query("SHOW TimeZone"),
        script("every setting that is reported")
            .query("SET DateStyle = 'SQL, DMY'")
            .query("SET IntervalStyle = iso_8601; SELECT interval '1 day 2 hours'")
            .query("SET application_name = 'another'")
            .query("SET client_encoding = LATIN1")
            .query("SELECT U&'\\00fc', date '2024-01-02'")
            .query("SET standard_conforming_strings = off; SET standard_conforming_strings = on")
            .query("RESET ALL"),
        script("a setting that is rolled back")
            .query("BEGIN")
            .query("SET TimeZone = 'Europe/Berlin'")
            .query("SHOW TimeZone")
            .query("ROLLBACK")
            .query("SHOW TimeZone"),
        script("a setting whose transaction fails")
            .query("BEGIN; SET TimeZone = 'Europe/Berlin'")
            .query("SELECT 1/0")
            .query("COMMIT")
            .query("SHOW TimeZone"),
        script("a setting in a string that fails")
            .query("SET TimeZone = 'Asia/Tokyo'; SELECT 1/0")
            .query("SHOW TimeZone"),
        script("a setting that is committed")
            .query("BEGIN")
            .query("SET TimeZone = 'Europe/Berlin'")
            .query("COMMIT")
            .query("SHOW TimeZone"),
        script("a local setting")
            .query("BEGIN")
            .query("SET LOCAL TimeZone = 'Europe/Berlin'")
            .query("SHOW TimeZone")
            .query("COMMIT")
            .query("SHOW TimeZone"),
        script("a setting and a savepoint")
            .query("BEGIN")
            .query("SET TimeZone = 'Asia/Tokyo'")
            .query("SAVEPOINT a")
            .query("SET TimeZone = 'Europe/Berlin'; SET DateStyle = German")
            .query("ROLLBACK TO a")
            .query("SHOW TimeZone")
            .query("COMMIT")
            .query("SHOW TimeZone")
            .query("SHOW DateStyle"),
        script("a setting goes back to its startup")
            .startup("TimeZone", "Asia/Tokyo")
            .query("SET TimeZone = 'Europe/Berlin'")
            .query("RESET TimeZone")
            .query("SHOW TimeZone")
            .query("SET TimeZone = 'UTC'; SET DateStyle = German")
            .query("DISCARD ALL")
            .query("SHOW TimeZone")
            .query("SET TimeZone TO DEFAULT"),
        script("a RESET pipelined behind a batch")
            .startup("TimeZone", "Asia/Tokyo")
            .send([batch("INSERT INTO journal VALUES ('x')", &[]), query("RESET TimeZone"), query("SHOW TimeZone")])
            .ready(3),
        script("a RESET pipelined before a COMMIT")
            .startup("TimeZone", "Asia/Tokyo")
            .query("BEGIN")
            .send([query("RESET TimeZone"), query("COMMIT"), query("SHOW TimeZone")])
            .ready(3),
        script("a setting and a COPY")
            .startup("TimeZone", "Asia/Tokyo")
            .send([query("SET work_mem = '5MB'; COPY copied FROM STDIN")])
            .until(b'G', 1)
            .send([copy_data("1\tx\n"), copy_done()])
            .ready(1)
            .send([query("SET work_mem = '6MB'; COPY copied FROM STDIN"), copy_data("1\tx\n"), copy_done()])
            .send([query("RESET ALL"), query("SHOW TimeZone")])
            .ready(3),
        script("a setting and a COPY, extended")
            .startup("TimeZone", "Asia/Tokyo")
            .send([run("SET work_mem = '5MB'", &[]), run("COPY copied FROM STDIN", &[]), sync()])
            .until(b'G', 1)
            .send([copy_data("1\tx\n"), copy_done(), sync()])
            .ready(1)
            .query("SELECT 1"),
        script("settings are pipelined")
            .send([
                query("SET TimeZone = 'Asia/Tokyo'"),
                query("SELECT '2024-01-02 03:04:05+00'::timestamptz"),
                query("SELECT n FROM numbers WHERE n = 1"),
                query("RESET TimeZone"),
                query("SELECT '2024-01-02 03:04:05+00'::timestamptz"),
            ])
            .ready(5),
        script("set_config").query("SELECT set_config('TimeZone', 'Asia/Tokyo', false)").query("SHOW TimeZone"),
        script("set_config for a transaction")
            .query("SELECT set_config('TimeZone', 'Asia/Tokyo', true)")
            .query("SHOW TimeZone"),
        script("a DO block that sets")
            .query("DO $$ BEGIN PERFORM set_config('TimeZone', 'Asia/Tokyo', false); END $$")
            .query("SHOW TimeZone"),
        script("a function that sets").query("SELECT sets_zone('Asia/Tokyo')").query("SHOW TimeZone"),
    ]
}

const EPOCH: &str = "SELECT extract(epoch FROM timestamptz '2020-01-01')";

fn settings() -> Vec<Script> {
    vec![
        script("settings that are not reported")
            .query("SET work_mem = '5MB'")
            .query("SHOW work_mem")
            .query("SET search_path = other, public")
            .query("SELECT x FROM elsewhere")
            .query("SHOW search_path")
            .query("RESET search_path")
            .query("SELECT x FROM elsewhere"),
        script("settings of one's own")
            // Before somebody has made it on a server connection it would be NULL, and ever after ''.
            .query("SELECT coalesce(current_setting('app.nobody', true), '')")
            .query("SET app.nobody = 'acme'")
            .query("SHOW app.nobody")
            .query("SELECT current_setting('app.nobody')")
            .query("RESET app.nobody")
            .query("SHOW app.nobody"),
        script("a local setting of one's own")
            .query("BEGIN")
            .query("SET LOCAL app.local = 'acme'")
            .query("SELECT current_setting('app.local')")
            .query("COMMIT")
            .query("SELECT current_setting('app.local', true)"),
        script("a local setting that was prepared before")
            .send([parse("s", "SET LOCAL app.prepared = '1'"), sync()])
            .ready(1)
            .query("BEGIN")
            .send([again("s", &[])])
            .ready(1)
            .query("COMMIT")
            .query("SELECT current_setting('app.prepared')"),
        script("wrong settings")
            .query("SET no_such_setting = 1")
            .query("SHOW no_such_setting")
            .query("SET TimeZone = 'nowhere'")
            .query("SET work_mem = '1 parsec'")
            .query("SET shared_buffers = 1"),
        script("quoted settings")
            .query("SET \"TimeZone\" TO 'Asia/Tokyo'")
            .query("SET app.quoted = 'it''s \\ \"q\" \u{e4}'")
            .query("SHOW app.quoted")
            .query("SET TIME ZONE INTERVAL '+02:30' HOUR TO MINUTE")
            .query("SHOW TIME ZONE")
            .query("SELECT '2024-01-02 03:04:05+00'::timestamptz"),
        script("constants are those of their settings")
            .query("SET TimeZone = 'UTC'")
            .batch(EPOCH, &[])
            .query("SET TimeZone = 'Asia/Tokyo'")
            .batch(EPOCH, &[])
            .send([parse("tokyo", EPOCH), sync(), again("tokyo", &[])])
            .ready(2)
            .query("SET TimeZone = 'UTC'")
            .send([parse("utc", EPOCH), sync(), again("utc", &[])])
            .ready(2)
            .query("BEGIN; SET LOCAL TimeZone = 'America/New_York'")
            .send([parse("york", EPOCH), sync(), again("york", &[])])
            .ready(2)
            .query("COMMIT")
            .send([parse("again", EPOCH), sync(), again("again", &[])])
            .ready(2),
        script("constants behind a setting in a long text")
            .query("SET TimeZone = 'UTC'")
            .send([parse("utc", EPOCH), sync(), again("utc", &[])])
            .ready(2)
            .query("BEGIN")
            .send([
                query(&format!("SET TimeZone = 'America/New_York'; SELECT length('{}')", "t".repeat(30_000))),
                parse("york", EPOCH),
                sync(),
                again("york", &[]),
            ])
            .ready(3)
            .query("ROLLBACK"),
        script("settings of planning")
            .query("SET enable_seqscan = off; SET random_page_cost = 1.5")
            .query("SELECT current_setting('enable_seqscan'), current_setting('random_page_cost')"),
        script("a role")
            .query("SET ROLE login_trust")
            .query("SELECT current_user = 'login_trust'")
            .query("RESET ROLE")
            .query("SELECT current_user = session_user")
            .query("SET SESSION AUTHORIZATION DEFAULT"),
    ]
}

fn state() -> Vec<Script> {
    vec![
        script("notifications to oneself")
            .query("LISTEN news")
            .query("NOTIFY news, 'one'")
            .query("NOTIFY news, 'two'; NOTIFY news, 'three'")
            .query("SELECT pg_notify('news', 'four')")
            .query("UNLISTEN news")
            .query("NOTIFY news, 'five'"),
        script("notifications at COMMIT")
            .query("LISTEN later")
            .query("BEGIN")
            .query("NOTIFY later, 'one'")
            .query("SELECT 1")
            .query("COMMIT")
            .query("BEGIN; NOTIFY later, 'two'; ROLLBACK")
            .query("UNLISTEN *"),
        script("LISTEN that is rolled back").query("BEGIN; LISTEN never; ROLLBACK").query("NOTIFY never"),
        script("notifications, extended")
            .batch("LISTEN ext", &[])
            .batch("SELECT pg_notify('ext', $1)", &["payload"])
            .batch("UNLISTEN ext", &[]),
        script("a temporary table")
            .query("CREATE TEMP TABLE mine (x int)")
            .query("INSERT INTO mine VALUES (1), (2)")
            .query("SELECT sum(x) FROM mine")
            .query("SELECT n FROM numbers WHERE n = 1")
            .query("DROP TABLE mine")
            .query("SELECT sum(x) FROM mine"),
        script("a temporary table of a transaction")
            .query("BEGIN")
            .query("CREATE TEMP TABLE passing (x int) ON COMMIT DROP")
            .query("SELECT count(x) AS c FROM passing")
            .query("COMMIT")
            .query("SELECT count(x) AS c FROM passing"),
        script("a temporary table hides another")
            .query("CREATE TEMP TABLE numbers AS SELECT 42 AS n")
            .query("SELECT n + 0 AS n FROM numbers")
            .query("DISCARD TEMP")
            .query("SELECT count(*) FROM numbers"),
        script("SELECT INTO a temporary table")
            .query("SELECT n INTO TEMP few FROM numbers WHERE n < 4")
            .query("SELECT count(*) FROM few")
            .query("DISCARD ALL")
            .query("SELECT count(*) FROM few"),
        script("SQL's PREPARE")
            .query("PREPARE q (int) AS SELECT word FROM numbers WHERE n = $1")
            .query("EXECUTE q (1)")
            .query("EXECUTE q (2)")
            .query("PREPARE q AS SELECT 1")
            .query("DEALLOCATE q")
            .query("EXECUTE q (1)")
            .query("DEALLOCATE q"),
        script("a cursor that is held")
            .query("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT n FROM numbers ORDER BY n; COMMIT")
            .query("FETCH 2 FROM held")
            .query("SELECT n FROM numbers WHERE n = 9")
            .query("FETCH 2 FROM held")
            .query("CLOSE held")
            .query("FETCH 2 FROM held"),
        script("advisory locks")
            .query("SELECT pg_advisory_lock(4711)")
            .query("SELECT n FROM numbers WHERE n = 1")
            .query("SELECT pg_advisory_unlock(4711)")
            .query("SELECT pg_advisory_unlock(4711)")
            .query("SELECT pg_try_advisory_xact_lock(4712)"),
        script("DISCARD")
            .query("SET work_mem = '5MB'; LISTEN x; PREPARE p AS SELECT 1")
            .query("DISCARD ALL")
            .query("SHOW work_mem")
            .query("EXECUTE p")
            .query("BEGIN")
            .query("DISCARD ALL")
            .query("ROLLBACK")
            .query("DISCARD PLANS; DISCARD SEQUENCES"),
        script("currval")
            .query("SELECT nextval('own_counter') > 0")
            .query("SELECT currval('own_counter') > 0, lastval() > 0"),
    ]
}
