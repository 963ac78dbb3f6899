//! What the demo plays on: three servers, a database of several tenants, and pgweir in front.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Failure;
use super::metrics::Metrics;
use crate::app::App;
use crate::config;
use crate::sandbox::{Sandbox, SandboxOptions, Target, User};

/// The database that all tenants share.
pub(super) const DATABASE: &str = "shop";
/// pgbench's unit: 100,000 accounts each.
const SCALE: u32 = 5;
/// Server connections of each tenant on each server.
pub(super) const POOL_SIZE: usize = 5;
/// For the standbys to be seen, and the catalog to be read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody who uses the database.
pub(super) struct Tenant {
    /// Also the user's name.
    pub name: &'static str,
    pub tier: &'static str,
    /// As in the configuration: the tier's, or the tenant's own.
    pub timeout: &'static str,
    pub password: String,
}

/// Everything that runs. Dropping it ends and removes it.
pub(super) struct Scene {
    /// Before the servers, so that it is gone before them.
    pub app: App,
    pub sandbox: Sandbox,
    /// Those who bring load.
    pub tenants: Vec<Tenant>,
    /// The one whose statement takes too long.
    pub trial: Tenant,
    pub config_path: PathBuf,
}

impl Scene {
    pub async fn set() -> Result<Self, Failure> {
        let tenant =
            |name, tier, timeout| Tenant { name, tier, timeout, password: format!("{:016x}", rand::random::<u64>()) };
        let tenants = vec![
            tenant("initech", "standard", "15s"),
            tenant("globex", "professional", "30s"),
            tenant("acme", "enterprise", "60s"),
        ];
        let trial = tenant("umbrella", "standard", "1s");
        let sandbox = servers(&tenants, &trial).await?;
        let config_path = sandbox.directory().join("pgweir.toml");
        std::fs::write(&config_path, config_text(&sandbox, &tenants, &trial))?;
        let password_of = |name: &str| {
            let mut everyone = tenants.iter().chain([&trial]);
            match everyone.find(|tenant| variable(tenant.name) == name) {
                Some(tenant) => Some(tenant.password.clone()),
                None => (name == MONITOR_PASSWORD).then(|| superuser_password(&sandbox)).flatten(),
            }
        };
        let app = App::start(config::load(&config_path, &password_of)?).await?;
        let scene = Self { app, sandbox, tenants, trial, config_path };
        scene.fill().await?;
        scene.replicas_take_reads().await?;
        Ok(scene)
    }

    /// Where a tenant connects.
    pub fn target(&self, tenant: &Tenant) -> Target {
        Target {
            host: "127.0.0.1".to_owned(),
            port: self.app.addresses().first().map_or(0, |address| address.port()),
            user: tenant.name.to_owned(),
            password: tenant.password.clone(),
            database: DATABASE.to_owned(),
        }
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::read(&self.app.metrics())
    }

    /// pgbench's tables, filled through pgweir by the first tenant and opened to the others.
    async fn fill(&self) -> Result<(), Failure> {
        let Some(owner) = self.tenants.first() else { return Ok(()) };
        self.sandbox.pgbench_initialize(&self.target(owner), SCALE).await?;
        self.sandbox.primary().psql_in(DATABASE, "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC").await?;
        Ok(self.sandbox.wait_replayed().await?)
    }

    /// The first reads find the standbys not measured yet and the catalog not read: that is over soon,
    /// and not what is to be shown.
    async fn replicas_take_reads(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        let Some(tenant) = self.tenants.first() else { return Ok(()) };
        loop {
            let ups = self.metrics().sum("pgweir_replica_up", &[]);
            let answer = super::load::psql(self, tenant, &["SELECT count(*) FROM pgbench_branches"]).await?;
            let replicas = self.metrics().sum("pgweir_queries_total", &[("role", "replica")]);
            if ups >= 2.0 && replicas > 0.0 && answer.succeeded {
                return Ok(());
            }
            if Instant::now() > deadline {
                let seconds = PATIENCE.as_secs();
                return Err(format!("the standbys took no reads within {seconds} s: {}", answer.text).into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The environment variable of the configuration that stands for the monitor's password.
const MONITOR_PASSWORD: &str = "MONITOR_PASSWORD";

async fn servers(tenants: &[Tenant], trial: &Tenant) -> Result<Sandbox, Failure> {
    let users = tenants.iter().chain([trial]).map(|tenant| User::new(tenant.name, &tenant.password)).collect();
    let options = SandboxOptions { replicas: 2, statement_statistics: true, users, ..SandboxOptions::default() };
    let sandbox = Sandbox::start(options).await?;
    sandbox.primary().psql(&format!("CREATE DATABASE {DATABASE}")).await?;
    sandbox.primary().psql_in(DATABASE, "GRANT CREATE ON SCHEMA public TO PUBLIC").await?;
    sandbox.wait_replayed().await?;
    Ok(sandbox)
}

/// The superuser of a sandbox has a password of its own for TCP.
fn superuser_password(sandbox: &Sandbox) -> Option<String> {
    let url = url::Url::parse(&sandbox.primary().url(crate::sandbox::SUPERUSER, "postgres")).ok()?;
    url.password().map(|password| percent_encoding::percent_decode_str(password).decode_utf8_lossy().into_owned())
}

fn variable(tenant: &str) -> String {
    format!("{}_PASSWORD", tenant.to_uppercase())
}

/// A configuration as a newcomer would write it; the passwords come from the environment.
fn config_text(sandbox: &Sandbox, tenants: &[Tenant], trial: &Tenant) -> String {
    let url = |server: &crate::sandbox::Server| {
        format!("{{ url = \"postgres://127.0.0.1:{}\", name = \"{}\" }}", server.port, server.name)
    };
    let replicas: Vec<_> = sandbox.replicas().iter().map(url).collect();
    let mut text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n\n[http]\naddress = \"127.0.0.1:0\"\n\n[pool]\nsize = {POOL_SIZE}\n\n\
         [clusters.main]\nprimary = {}\nreplicas = [{}]\n\
         monitor = {{ user = \"{}\", password = {{ env = \"{MONITOR_PASSWORD}\" }} }}\n\n[databases.{DATABASE}]\n",
        url(sandbox.primary()),
        replicas.join(", "),
        crate::sandbox::SUPERUSER,
    );
    for tenant in tenants {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n[tiers.{}]\nstatement_timeout = \"{}\"\n", tenant.tier, tenant.timeout);
    }
    for Tenant { name, tier, timeout, .. } in tenants.iter().chain([trial]) {
        let own = if *name == trial.name { format!("statement_timeout = \"{timeout}\"\n") } else { String::new() };
        let _ = write!(
            text,
            "\n[[users]]\nname = \"{name}\"\npassword = {{ env = \"{}\" }}\n\
             \n[[tenants]]\nname = \"{name}\"\ntier = \"{tier}\"\n{own}match = {{ user = \"{name}\" }}\n",
            variable(name)
        );
    }
    text
}
