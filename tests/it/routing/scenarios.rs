//! Every scenario of `routing/dev_scenarios.jsonl`: statements of several sessions, one after the other,
//! with the rows or the SQLSTATE that each has to get and, where it matters, the server it has to run on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Statement};

use super::fixture::Fixture;
use super::talk::{Rows, Text, pipeline, prepared_rows, rows, sqlstate};
use crate::support::eventually;

const SCENARIOS: &str = include_str!("../../routing/dev_scenarios.jsonl");
const SCHEMA: &str = include_str!("../../routing/schema.sql");

/// Scenarios that cannot pass yet, each with what is missing.
const OPEN: [(&str, &str); 0] = [];

/// No step waits for anything but its own statement.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_scenario_goes_as_it_should() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let mut wrong = Vec::new();
    for line in SCENARIOS.lines() {
        let scenario: Value = serde_json::from_str(line).expect("a scenario is one JSON object");
        let id = scenario["id"].as_str().expect("a scenario has an id");
        fixture.wait_for_reads().await;
        let played = play(&fixture, &scenario).await;
        let open = OPEN.iter().find(|(open, _)| *open == id);
        match (played, open) {
            (Err(what), None) => wrong.push(format!("{id}: {what}")),
            (Ok(()), Some((_, missing))) => wrong.push(format!("{id} passes, although this is missing: {missing}")),
            (Ok(()), None) | (Err(_), Some(_)) => {}
        }
        // A scenario that failed half-way may have left it paused.
        let _ = fixture.sandbox.replicas()[0].resume_replay().await;
        fixture.sandbox.wait_replayed().await.unwrap();
    }
    assert!(wrong.is_empty(), "{} scenarios:\n{}", wrong.len(), wrong.join("\n"));
}

async fn play(fixture: &Fixture, scenario: &Value) -> Result<(), String> {
    let mut talk = Talk { fixture, options: scenario["conn"]["options"].as_str(), sessions: BTreeMap::new() };
    for (number, step) in scenario["steps"].as_array().into_iter().flatten().enumerate() {
        match tokio::time::timeout(PATIENCE, talk.step(step)).await {
            Ok(outcome) => outcome.map_err(|what| format!("step {number}, {step}: {what}"))?,
            Err(_) => return Err(format!("step {number}, {step}: no answer in {PATIENCE:?}")),
        }
    }
    Ok(())
}

/// The sessions of one scenario, opened when they first have something to say.
struct Talk<'a> {
    fixture: &'a Fixture,
    options: Option<&'a str>,
    sessions: BTreeMap<u64, Session>,
}

struct Session {
    client: Client,
    prepared: HashMap<String, Statement>,
    notifications: Arc<Mutex<Vec<String>>>,
}

impl Talk<'_> {
    async fn step(&mut self, step: &Value) -> Result<(), String> {
        if let Some(lag) = step["lag"].as_str() {
            let replica = &self.fixture.sandbox.replicas()[0];
            let done = if lag == "pause" { replica.pause_replay().await } else { replica.resume_replay().await };
            return done.map_err(|error| error.to_string());
        }
        let mut watch = self.fixture.watch();
        let number = step["c"].as_u64().expect("a step has its session");
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.sessions.entry(number) {
            vacant.insert(Session::open(&self.fixture.url(), self.options).await);
        }
        let session = self.sessions.get_mut(&number).expect("it is open");
        let outcome = session.run(step).await;
        let seen = watch.take();
        compare(step, outcome)?;
        let sql = step["sql"].as_str().unwrap_or_default();
        if step["where"] == "primary" && (seen.on_a_standby(sql) || !seen.on_primary(sql)) {
            return Err("it did not run on the primary alone".to_owned());
        }
        if let Some(channel) = step["notify"].as_str() {
            let notified = async || session.notifications.lock().unwrap().iter().any(|heard| heard == channel);
            eventually("the notification arrives", notified).await;
        }
        Ok(())
    }
}

/// What a step got against what it has to get.
fn compare(step: &Value, outcome: Result<Rows, tokio_postgres::Error>) -> Result<(), String> {
    match (outcome, step["sqlstate"].as_str()) {
        (Err(error), Some(expected)) if sqlstate(&error) == expected => Ok(()),
        (Err(error), _) => Err(crate::support::chain(&error)),
        (Ok(rows), Some(_)) => Err(format!("it succeeds with {rows:?}")),
        (Ok(rows), None) => match &step["rows"] {
            Value::Null => Ok(()),
            expected if *expected == serde_json::json!(rows) => Ok(()),
            _ => Err(format!("it gets {rows:?}")),
        },
    }
}

impl Session {
    async fn open(url: &str, options: Option<&str>) -> Self {
        let mut config: Config = url.parse().unwrap();
        if let Some(options) = options {
            config.options(options);
        }
        let (client, mut connection) = config.connect(NoTls).await.unwrap_or_else(|error| panic!("{error}"));
        let notifications = Arc::new(Mutex::new(Vec::new()));
        let heard = notifications.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    heard.lock().unwrap().push(notification.channel().to_owned());
                }
            }
        });
        Self { client, prepared: HashMap::new(), notifications }
    }

    async fn run(&mut self, step: &Value) -> Result<Rows, tokio_postgres::Error> {
        let texts = |list: &Value| -> Vec<String> {
            list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        if step["pipeline"].is_array() {
            return pipeline(&self.client, &texts(&step["pipeline"])).await;
        }
        let sql = step["sql"].as_str().expect("a step has its SQL");
        let Some(name) = step["name"].as_str() else { return rows(&self.client, sql).await };
        if step["parse"] != false {
            self.prepared.insert(name.to_owned(), self.client.prepare(sql).await?);
        }
        let params: Vec<_> = texts(&step["params"]).into_iter().map(Text).collect();
        prepared_rows(&self.client, &self.prepared[name], &params).await
    }
}
