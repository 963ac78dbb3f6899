//! A pgweir of the test's own, in the process of the tests but on threads of its own, so that a test
//! that blocks does not block it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use pgweir::app::{App, Drained};
use pgweir::config;
use pgweir::sandbox::Sandbox;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::{chain, shared_cluster};

/// A running proxy on free ports. Dropping it ends it at once.
pub struct Proxy {
    /// For clients, on 127.0.0.1.
    pub port: u16,
    /// For `/metrics`, `/healthz` and `/readyz`, on 127.0.0.1.
    pub metrics_port: u16,
    /// The Unix socket, where the configuration asks for one.
    pub socket_path: Option<PathBuf>,
    /// Set until the proxy is shut down.
    app: Option<Arc<App>>,
    runtime: Option<Runtime>,
    /// Holds the configuration file; whatever else a test puts there goes with it.
    directory: tempfile::TempDir,
}

impl Proxy {
    /// Starts a proxy with a configuration whose addresses need not be given: without a `[listen]` or
    /// `[http]` of its own it gets free ports. One that has them writes port 0.
    pub async fn start(config_toml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let config = load(&directory, config_toml);
        let started = runtime.spawn(async move { App::start(config).await });
        let app = started.await.unwrap().unwrap_or_else(|error| panic!("{error}"));
        Self {
            port: app.addresses()[0].port(),
            metrics_port: app.metrics_address().expect("[http] is there").port(),
            socket_path: app.socket_path().map(ToOwned::to_owned),
            app: Some(Arc::new(app)),
            runtime: Some(runtime),
            directory,
        }
    }

    /// In front of the shared cluster, with its superuser as the only user. `more` comes first in
    /// the file, so that it may hold keys of no section as well as sections.
    pub async fn for_shared_cluster(more: &str) -> Self {
        let cluster = shared_cluster().await;
        Self::start(&format!("{more}\n{}", config_for(cluster, &["postgres"]))).await
    }

    /// `postgres://user:password@127.0.0.1:port/database`, by the password that the sandbox knows.
    pub fn url(&self, sandbox: &Sandbox, user: &str, database: &str) -> String {
        let direct = sandbox.primary().url(user, database);
        direct.replace(&format!("127.0.0.1:{}", sandbox.primary().port), &format!("127.0.0.1:{}", self.port))
    }

    /// A client of the shared cluster's superuser.
    pub async fn connect(&self, database: &str) -> tokio_postgres::Client {
        super::connect(&self.url(shared_cluster().await, "postgres", database)).await
    }

    /// What the proxy says to a client that it does not let in.
    pub async fn refusal(&self, url: &str) -> tokio_postgres::error::DbError {
        let error = tokio_postgres::connect(url, tokio_postgres::NoTls).await.err().expect("a refusal");
        error.as_db_error().unwrap_or_else(|| panic!("no refusal but {}", chain(&error))).clone()
    }

    /// Takes over another configuration, as upon SIGHUP.
    pub async fn reload(&self, config_toml: &str) -> Result<(), String> {
        let config = load(&self.directory, config_toml);
        let app = self.app.clone().expect("the proxy runs");
        self.spawn(async move { app.reload(config).await }).await.unwrap().map_err(|error| error.to_string())
    }

    /// Begins to shut down, as upon SIGTERM.
    pub fn shut_down(&mut self) -> JoinHandle<Drained> {
        let app = Arc::into_inner(self.app.take().expect("the proxy runs")).expect("nobody else holds it");
        self.spawn(app.shutdown())
    }

    /// The value of a series such as `pgweir_clients{database="d",user="u",state="idle"}`: the sum of all
    /// series of that name that have at least these labels.
    pub fn metric(&self, series: &str) -> f64 {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels: Vec<_> = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
        let text = self.app.as_ref().expect("the proxy runs").metrics();
        let values = text.lines().filter_map(|line| {
            let (found, value) = line.rsplit_once(' ')?;
            let (found, has) = found.split_once('{').unwrap_or((found, ""));
            let has: Vec<_> = has.trim_end_matches('}').split(',').collect();
            (found == name && labels.iter().all(|label| has.contains(label))).then(|| value.parse::<f64>().unwrap())
        });
        values.sum()
    }

    /// GETs a path of the metrics endpoint: status code and body.
    pub async fn http(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.metrics_port)).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.unwrap_or_else(|| panic!("no HTTP answer: {answer}")), body.to_owned())
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.as_ref().expect("the proxy runs").spawn(work)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A test is asynchronous itself and may not wait for another runtime.
            runtime.shutdown_background();
        }
    }
}

/// The parts of a configuration that name a sandbox's servers and some of its users, by `primary`,
/// `replica1` …; the passwords are in the file.
pub fn config_for(sandbox: &Sandbox, users: &[&str]) -> String {
    let host = |server: &pgweir::sandbox::Server| {
        format!("{{ url = \"postgres://127.0.0.1:{}\", name = \"{}\" }}", server.port, server.name)
    };
    let replicas: Vec<_> = sandbox.replicas().iter().map(host).collect();
    let user = |name: &&str| {
        let url = url::Url::parse(&sandbox.primary().url(name, "postgres")).unwrap();
        let password = percent_encoding::percent_decode_str(url.password().unwrap_or_default()).decode_utf8_lossy();
        format!("[[users]]\nname = \"{name}\"\npassword = \"\"\"{password}\"\"\"\n")
    };
    // The monitor's own login, to which no test's statement can be added up.
    let superuser = url::Url::parse(&sandbox.primary().url("postgres", "postgres")).unwrap();
    let password = superuser.password().unwrap_or_default();
    format!(
        "[clusters.main]\nprimary = {}\nreplicas = [{}]\n\
         monitor = {{ user = \"postgres\", password = \"{password}\" }}\n{}",
        host(sandbox.primary()),
        replicas.join(", "),
        users.iter().map(user).collect::<String>(),
    )
}

fn load(directory: &tempfile::TempDir, config_toml: &str) -> config::Config {
    let has = |section: &str| config_toml.lines().any(|line| line.trim() == section);
    let mut text = config_toml.to_owned();
    for section in ["[listen]", "[http]"] {
        if !has(section) {
            text += &format!("\n{section}\naddress = \"127.0.0.1:0\"\n");
        }
    }
    let path = directory.path().join("pgweir.toml");
    std::fs::write(&path, &text).unwrap();
    let nothing = HashMap::<String, String>::new();
    config::load(&path, &|name| nothing.get(name).cloned()).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}
