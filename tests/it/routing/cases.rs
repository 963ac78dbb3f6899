//! Every case of `routing/dev_cases.jsonl`, in each protocol that it can be sent in, against a real
//! primary and standby.

use tokio_postgres::Client;

use super::fixture::{Fixture, Seen};
use super::talk::{Text, Way, run, sqlstate};

const CASES: &str = include_str!("../../routing/dev_cases.jsonl");
const SCHEMA: &str = include_str!("../../routing/schema.sql");

/// Groups every read of which has to run on the standby.
const READ_GROUPS: [&str; 8] = ["django", "rails", "hibernate", "prisma", "sqlalchemy", "orm_misc", "bi", "read_forms"];

/// What must not reach a standby: it fails there, or does there what belongs on the primary.
const DANGEROUS: [&str; 3] = ["fails", "unsafe", "silent"];

/// How often a read is tried that went to the primary because the catalog was being read again.
const TRIES: usize = 5;

#[tokio::test]
async fn every_case_runs_where_it_belongs_as_a_simple_query() {
    every_case_runs_where_it_belongs(Way::Simple).await;
}

#[tokio::test]
async fn every_case_runs_where_it_belongs_as_an_unnamed_statement() {
    every_case_runs_where_it_belongs(Way::Unnamed).await;
}

#[tokio::test]
async fn every_case_runs_where_it_belongs_as_a_named_statement() {
    every_case_runs_where_it_belongs(Way::Named).await;
}

async fn every_case_runs_where_it_belongs(way: Way) {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let direct = fixture.direct().await;
    let mut wrong = Vec::new();
    let (mut dangerous, mut reads) = (0, 0);
    for case in cases().filter(|case| case.ways().contains(&way)) {
        if case.is_dangerous() {
            dangerous += 1;
            let (seen, _) = play(&fixture, &direct, &case, way).await;
            if seen.on_a_standby(&case.sql) {
                wrong.push(format!("on a standby ({}): {}", case.severity, case.sql));
            }
            if !seen.on_primary(&case.sql) {
                wrong.push(format!("nowhere: {}", case.sql));
            }
        } else if case.is_read() {
            reads += 1;
            wrong.extend(play_read(&fixture, &direct, &case, way).await);
        } else {
            drop(play(&fixture, &direct, &case, way).await);
        }
    }
    assert!(wrong.is_empty(), "{} of {dangerous} dangerous and {reads} reads:\n{}", wrong.len(), wrong.join("\n"));
    assert!(dangerous > 80 && reads > 30, "the file has become empty: {dangerous} dangerous, {reads} reads");
}

/// What is wrong with where a read ran, and with its answer.
async fn play_read(fixture: &Fixture, direct: &Client, case: &Case, way: Way) -> Option<String> {
    for _ in 0..TRIES {
        let (seen, outcome) = play(fixture, direct, case, way).await;
        if let (Err(error), false) = (&outcome, case.error_ok) {
            return Some(format!("fails with {error}: {}", case.sql));
        }
        if seen.on_a_standby(&case.sql) && !seen.on_primary(&case.sql) {
            return None;
        }
    }
    Some(format!("read on the primary: {}", case.sql))
}

/// Runs a case on a session of its own. What the servers saw, and the SQLSTATE it ended with.
async fn play(fixture: &Fixture, direct: &Client, case: &Case, way: Way) -> (Seen, Result<(), String>) {
    for sql in &case.pre {
        direct.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    fixture.wait_for_reads().await;
    let client = fixture.connect().await;
    for sql in &case.session_pre {
        let outcome = client.batch_execute(sql.trim_start_matches('?')).await;
        assert!(outcome.is_ok() || sql.starts_with('?'), "{sql}: {outcome:?}");
    }
    let mut watch = fixture.watch();
    let outcome = run(&client, way, &case.sql, &case.params).await;
    let seen = watch.take();
    drop(client);
    for sql in &case.post {
        // The case may have failed, on purpose or because it was sent twice.
        let _ = direct.batch_execute(sql).await;
    }
    (seen, outcome.map_err(|error| format!("{} ({})", sqlstate(&error), crate::support::chain(&error))))
}

struct Case {
    sql: String,
    route: String,
    severity: String,
    group: String,
    proto: String,
    params: Vec<Text>,
    /// On the primary, past the proxy, before and after.
    pre: Vec<String>,
    post: Vec<String>,
    /// On the case's own session; one that may fail begins with `?`.
    session_pre: Vec<String>,
    error_ok: bool,
}

impl Case {
    fn is_dangerous(&self) -> bool {
        self.route == "primary" && DANGEROUS.contains(&self.severity.as_str())
    }

    fn is_read(&self) -> bool {
        self.route == "replica" && READ_GROUPS.contains(&self.group.as_str())
    }

    fn ways(&self) -> &'static [Way] {
        // The extended protocol takes one statement at a time, and rows but not `COPY` in these drivers.
        let copy = self.sql.trim_start().to_ascii_uppercase().starts_with("COPY");
        match self.proto.as_str() {
            "extended" => &[Way::Unnamed, Way::Named],
            "simple" => &[Way::Simple],
            _ if copy => &[Way::Simple],
            _ => &[Way::Simple, Way::Unnamed, Way::Named],
        }
    }
}

fn cases() -> impl Iterator<Item = Case> {
    CASES.lines().map(|line| {
        let case: serde_json::Value = serde_json::from_str(line).expect("a case is one JSON object");
        let text = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
        let texts = |name: &str| -> Vec<String> {
            let list = case[name].as_array().into_iter().flatten();
            list.map(|text| text.as_str().expect("a list of texts").to_owned()).collect()
        };
        Case {
            sql: text("sql"),
            route: text("route"),
            severity: text("severity"),
            group: text("group"),
            proto: text("proto"),
            params: texts("params").into_iter().map(Text).collect(),
            pre: texts("pre"),
            post: texts("post"),
            session_pre: texts("session_pre"),
            error_ok: case["error_ok"].as_bool().unwrap_or(false),
        }
    })
}
