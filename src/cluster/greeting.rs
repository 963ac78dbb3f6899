//! What a new client is told: the parameters that PostgreSQL would report to it, given the settings
//! that it asked for at startup. Learned from a server once per distinct set of settings.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::group::{Group, Place};
use crate::pool::{AcquireError, Lease, Settings, difference, probe};
use crate::server::query::QueryError;
use crate::wire::error::PgError;

/// Distinct sets that are remembered; the memory is cleared when there are more.
const REMEMBERED: usize = 4096;

const DEFAULTS: &str = "SELECT pg_catalog.current_setting('search_path'), \
    pg_catalog.current_setting('default_transaction_read_only'), \
    (SELECT setting FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'statement_timeout'), \
    (SELECT setting FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'lock_timeout')";

/// See the module's page.
#[derive(Debug)]
pub struct Greeting {
    /// `ParameterStatus`, name and value, in the server's order.
    pub parameters: Vec<(String, String)>,
    /// Bodies of the `NoticeResponse`s that come before them.
    pub notices: Vec<Vec<u8>>,
    /// The settings as the server spells them.
    pub settings: Arc<Settings>,
    pub defaults: Arc<Defaults>,
}

/// What holds for a session that does not set it itself: `ALTER ROLE … SET` and its like included.
#[derive(Debug)]
pub struct Defaults {
    pub search_path: String,
    pub read_only: bool,
    /// In milliseconds; 0 is none.
    pub statement_timeout: u32,
    /// The same.
    pub lock_timeout: u32,
}

/// Why a client cannot be greeted.
#[derive(Debug)]
pub enum GreetingError {
    /// No server connection to ask on.
    Acquire(AcquireError),
    /// The server refused a setting: what the client would have been told at its startup.
    Refused(PgError),
    /// The server was lost while it was asked.
    Lost(String),
}

impl Group {
    /// The greeting for a client that asked for these settings. An ordinary `application_name` is not
    /// asked about: it is different for many clients, and means what it says.
    pub async fn greeting(self: &Arc<Self>, settings: &Settings) -> Result<Arc<Greeting>, GreetingError> {
        let Some(name) = settings.get("application_name").filter(|name| is_plain(name)) else {
            return self.learned(settings).await;
        };
        let mut others = settings.clone();
        others.remove("application_name");
        let learned = self.learned(&others).await?;
        let mut parameters = learned.parameters.clone();
        update(&mut parameters, ("application_name".into(), name.clone()));
        let mut settings = Settings::clone(&learned.settings);
        settings.insert("application_name".into(), name.clone());
        let settings = Arc::new(settings);
        let (notices, defaults) = (learned.notices.clone(), learned.defaults.clone());
        Ok(Arc::new(Greeting { notices, parameters, settings, defaults }))
    }

    async fn learned(self: &Arc<Self>, settings: &Settings) -> Result<Arc<Greeting>, GreetingError> {
        if let Some(known) = self.greetings.lock().unwrap_or_else(PoisonError::into_inner).get(settings) {
            return Ok(known.clone());
        }
        let greeting = Arc::new(learn(self.any_lease().await?, settings).await?);
        let mut greetings = self.greetings.lock().unwrap_or_else(PoisonError::into_inner);
        if greetings.len() >= REMEMBERED {
            greetings.clear();
        }
        greetings.insert(settings.clone(), greeting.clone());
        Ok(greeting)
    }

    async fn own_lease(&self, place: Place) -> Result<Lease, AcquireError> {
        self.pool(place).join_as_ourselves().wait(Instant::now()).lease().await
    }

    /// On the primary, or on a replica while there is no primary.
    async fn any_lease(self: &Arc<Self>) -> Result<Lease, GreetingError> {
        let patience = Instant::now() + self.failover_wait;
        while self.lacks_primary() && !self.has_live_replica() && !self.is_closed() && Instant::now() < patience {
            self.changes().await;
        }
        let outcome = match self.pick_replica(&super::Wanted::default()) {
            Some(replica) if self.lacks_primary() => self.own_lease(replica).await,
            _ => self.own_lease(Place::Primary).await,
        };
        match (outcome, self.pick_replica(&super::Wanted::default())) {
            (Err(AcquireError::Connect(_)), Some(replica)) => self.own_lease(replica).await,
            (outcome, _) => outcome,
        }
        .map_err(GreetingError::Acquire)
    }
}

async fn learn(mut lease: Lease, settings: &Settings) -> Result<Greeting, GreetingError> {
    let mut parameters = lease.parameters.to_vec();
    // What was left in this server session by another is not this client's. It is undone first, and apart: what
    // becomes what it was is not reported.
    let have = std::mem::take(&mut lease.settings);
    let none = Settings::default();
    let mut notices = Vec::new();
    for (sql, own) in [(difference(&have, &none), false), (difference(&none, settings), true)] {
        let Some(sql) = sql else { continue };
        let answer = lease.ask(&sql).await.map_err(refused)?;
        answer.reports.into_iter().for_each(|report| update(&mut parameters, report));
        notices.extend(answer.notices.into_iter().filter(|_| own));
    }
    let user = lease.pool().key.user.clone();
    let custom = settings.keys().filter(|name| name.contains('.')).cloned().collect();
    let holdings = probe(&mut lease, &user, &custom).await.map_err(refused)?;
    let settings = Arc::new(holdings.settings);
    lease.settings = settings.clone();
    let answer = lease.ask(DEFAULTS).await.map_err(refused)?;
    lease.hand_back();
    let mut values = answer.sets.into_iter().flatten().flatten().flatten();
    let search_path = values.next().unwrap_or_default();
    let read_only = values.next().as_deref() == Some("on");
    let mut timeout = || values.next().and_then(|value| value.parse().ok()).unwrap_or(0);
    let (statement_timeout, lock_timeout) = (timeout(), timeout());
    let defaults = Arc::new(Defaults { search_path, read_only, statement_timeout, lock_timeout });
    Ok(Greeting { notices, parameters, settings, defaults })
}

/// The server takes it as it is (`NAMEDATALEN` bounds it, other bytes than printable ASCII are replaced).
fn is_plain(name: &str) -> bool {
    name.len() < 64 && name.bytes().all(|byte| matches!(byte, 32..=126))
}

fn update(parameters: &mut Vec<(String, String)>, (name, value): (String, String)) {
    match parameters.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => parameters.push((name, value)),
    }
}

/// A lease on which a question failed is dropped, and so closed, with the books it no longer matches.
fn refused(error: QueryError) -> GreetingError {
    match error {
        QueryError::Server { code, message } => GreetingError::Refused(PgError::fatal(code, message)),
        QueryError::Broken(cause) => GreetingError::Lost(cause),
    }
}
