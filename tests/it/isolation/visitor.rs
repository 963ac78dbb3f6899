//! A client of a tenant, who knows at any time what its session is to see.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, Statement};

use crate::isolation::model::{Made, Model};
use crate::isolation::scene::{Scene, TENANTS, Tenant, asks_everything};
use crate::support::chain;
use crate::support::primary_only::{sqlstate, try_value};

/// The server connection is lost, by an administrator's doing. Any other error fails the test.
#[derive(Debug)]
pub struct Lost;

pub type Outcome<T = ()> = Result<T, Lost>;

impl From<tokio_postgres::Error> for Lost {
    fn from(error: tokio_postgres::Error) -> Self {
        // Without an SQLSTATE it is the end of the connection.
        assert!(error.code().is_none_or(|code| says_lost(code.code())), "{}", chain(&error));
        Self
    }
}

pub fn says_lost(code: &str) -> bool {
    ["57P01", "08006"].contains(&code)
}

/// How clients say for whom they work. All but the first have logged in as another tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Login,
    /// Of each statement, save what begins and ends transactions.
    Comment,
    Setting,
}

/// Numbers that are the same in each run, for each client.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Who a client is, however often it comes.
#[derive(Clone)]
pub struct Identity {
    pub scene: Arc<Scene>,
    pub number: usize,
    pub by: By,
    /// For whom it works, among [`TENANTS`].
    pub tenant: usize,
}

impl Identity {
    pub fn new(scene: Arc<Scene>, number: usize) -> Self {
        Self {
            scene,
            number,
            by: [By::Login, By::Comment, By::Setting][number / TENANTS.len() % 3],
            tenant: number % 3,
        }
    }

    pub fn tenant(&self) -> &'static Tenant {
        &TENANTS[self.tenant]
    }

    /// As whom it logs in.
    pub fn logs_in_as(&self) -> &'static Tenant {
        &TENANTS[(self.tenant + usize::from(self.by != By::Login)) % 3]
    }

    /// What its own settings hold, and nobody else's.
    pub fn mark(&self) -> String {
        format!("{}-c{}", self.tenant().name, self.number)
    }

    pub fn text(&self, sql: &str) -> String {
        self.text_of(sql, self.tenant())
    }

    pub fn text_of(&self, sql: &str, tenant: &Tenant) -> String {
        if self.by == By::Comment { format!("{sql} /*tenant='{}'*/", tenant.name) } else { sql.to_owned() }
    }

    pub fn names_tenant(&self) -> String {
        format!("SET pgweir.tenant = '{}'", self.tenant().name)
    }
}

/// One connection of a client.
pub struct Visitor {
    pub identity: Identity,
    pub client: Client,
    socket: JoinHandle<()>,
    pub random: Random,
    pub model: Model,
    /// Temporary tables, advisory locks, cursors: what it has of each.
    pub holds: [String; 3],
    /// What `currval` may give.
    pub counted: Option<i64>,
    asks: Option<Statement>,
    /// It keeps its server connection: others are not to wait for that for long.
    pub tarries: bool,
    /// What it has said, for whoever looks for a fault.
    trail: Vec<String>,
}

impl Visitor {
    pub async fn arrive(identity: &Identity, random: Random) -> Outcome<Self> {
        let mark = identity.mark();
        let mut base = base();
        let startup = if identity.number.is_multiple_of(2) {
            base.insert("application_name".into(), mark.clone());
            base.insert("mark.start".into(), mark.clone());
            format!("%20-c%20mark.start%3D{mark}&application_name={mark}")
        } else {
            String::new()
        };
        let url = identity.scene.url(identity.logs_in_as(), &startup);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        let socket = tokio::spawn(async move {
            // How it ends is seen on the client's side.
            let _ = connection.await;
        });
        let mut visitor = Self {
            identity: identity.clone(),
            client,
            socket,
            random,
            model: Model::new(base),
            holds: Default::default(),
            counted: None,
            asks: None,
            tarries: false,
            trail: Vec::new(),
        };
        if identity.by == By::Setting {
            visitor.say(&identity.names_tenant()).await?;
        }
        visitor.checks().await?;
        Ok(visitor)
    }

    pub fn notes(&mut self, said: &str) {
        self.trail.push(said.to_owned());
    }

    /// Runs what says itself whose it is, or need not.
    pub async fn say(&mut self, sql: &str) -> Outcome {
        self.trail.push(sql.to_owned());
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Runs statements of its tenant's.
    pub async fn run(&mut self, sql: &str) -> Outcome {
        self.say(&self.identity.text(sql)).await
    }

    /// The same, whatever comes of it.
    pub async fn tries(&mut self, sql: &str) {
        let text = self.identity.text(sql);
        self.trail.push(text.clone());
        let _ = self.client.batch_execute(&text).await;
    }

    /// The first column of the only row.
    pub async fn value(&mut self, sql: &str) -> Outcome<String> {
        let text = self.identity.text(sql);
        self.trail.push(text.clone());
        Ok(try_value(&self.client, &text).await?)
    }

    pub async fn finds(&mut self, sql: &str, expected: &str) -> Outcome {
        let found = self.value(sql).await?;
        assert_eq!(found, expected, "{sql}");
        Ok(())
    }

    /// Runs what fails so.
    pub async fn is_refused(&mut self, sql: &str, code: &str) -> Outcome {
        let text = self.identity.text(sql);
        self.trail.push(format!("{text} -- {code}"));
        match self.client.batch_execute(&text).await {
            Ok(()) => panic!("{text} was not refused"),
            Err(error) if error.code().is_some_and(|found| found.code() == code) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub async fn begin(&mut self) -> Outcome {
        self.say("BEGIN").await?;
        self.model.begin();
        Ok(())
    }

    pub async fn commit(&mut self) -> Outcome {
        self.say("COMMIT").await?;
        self.model.commit();
        self.checks().await
    }

    pub async fn roll_back(&mut self) -> Outcome {
        self.say("ROLLBACK").await?;
        self.model.roll_back();
        self.checks().await
    }

    /// Looks at everything, by a simple query or a prepared statement.
    pub async fn checks(&mut self) -> Outcome {
        if self.random.one_in(2) {
            let found = self.value(&asks_everything(self.identity.number)).await?;
            self.is_as_expected(&found);
            return Ok(());
        }
        let asks = match &self.asks {
            Some(asks) => asks.clone(),
            None => self
                .asks
                .insert(self.client.prepare(&self.identity.text(&asks_everything(self.identity.number))).await?)
                .clone(),
        };
        self.trail.push("EXECUTE asks".to_owned());
        let row = self.client.query_one(&asks, &[]).await?;
        self.is_as_expected(row.get(0));
        Ok(())
    }

    fn is_as_expected(&self, found: &str) {
        assert_eq!(found, self.expected(self.identity.tenant()));
    }

    /// What is to be seen by its session, working for this tenant.
    pub fn expected(&self, tenant: &Tenant) -> String {
        self.identity.scene.expected(tenant, self.model.seen(), self.holds.each_ref().map(String::as_str))
    }

    /// The texts of the statements that the driver has prepared.
    pub fn prepared(&self) -> Option<String> {
        self.asks.as_ref().map(|_| self.identity.text(&asks_everything(self.identity.number)))
    }

    pub fn forgets_prepared(&mut self) {
        self.asks = None;
    }

    /// Looks once more where a cancel may come late: it strikes what comes next, as with PostgreSQL.
    pub async fn checks_after_cancel(&mut self) -> Outcome {
        match try_value(&self.client, &self.identity.text(&asks_everything(self.identity.number))).await {
            Ok(found) => self.is_as_expected(&found),
            Err(error) if error.code().is_some() && sqlstate(&error) == "57014" => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Its socket is closed without a goodbye.
    pub fn cut(&self) -> Random {
        self.socket.abort();
        Random(self.random.0)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.trail.len().saturating_sub(30);
            let said = self.trail[from..].iter().map(|said| &said[..said.len().min(150)]).collect::<Vec<_>>();
            let Identity { number, by, .. } = self.identity;
            eprintln!("client {number} of {}, by {by:?}, has said\n{}", self.identity.tenant().name, said.join("\n"));
        }
    }
}

/// What every session has, whatever it says at its login.
pub fn base() -> Made {
    // The tier's ceiling.
    [("statement_timeout".to_owned(), "10000".to_owned())].into()
}
