//! `pgweir route`: where a statement would go, and why.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::timeout;

use super::ConfigArgs;
use crate::config::{ClusterConfig, Config, DatabaseConfig, PoolMode, UserAuth, UserConfig};
use crate::router::{Decision, SessionView, Target, route};
use crate::server::{Login, connect, simple_query};
use crate::sql::{CATALOG_QUERIES, Catalog, CatalogRows, Classifier, explain};

/// Tell where a statement would go, and why
///
/// Runs nothing of the statement: it is classified as it would be for a client outside of a
/// transaction, with the catalog of the database.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct RouteArgs {
    #[command(flatten)]
    pub source: ConfigArgs,

    /// The database as clients name it; may be left out where the configuration names only one
    #[arg(long, short, value_name = "NAME")]
    pub database: Option<String>,

    /// The statement, or several separated by semicolons
    #[arg(value_name = "SQL")]
    pub sql: String,
}

const AFTER_HELP: &str = "\
Examples:
  pgweir route --config pgweir.toml \"SELECT * FROM orders WHERE id = 1\"
  pgweir route --config pgweir.toml --database shop \"SELECT next_invoice_number()\"

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments.";

/// For reading the catalog, the connection to the primary included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one answer of the catalog.
const LONGEST_ANSWER: usize = 256 << 20;
/// Nothing is asked twice.
const NO_CACHE: usize = 0;

/// What holds for a session that sets nothing.
const DEFAULTS: &str = "SELECT pg_catalog.current_setting('search_path'), \
    pg_catalog.current_setting('default_transaction_read_only')";

/// Decides, prints, and says so in the exit code.
pub fn main(args: &RouteArgs) -> ExitCode {
    let config = match args.source.load() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    match answer(args, &config) {
        Ok(answer) => {
            print!("{answer}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("pgweir route: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn answer(args: &RouteArgs, config: &Config) -> Result<String, String> {
    let asked = Asked::find(config, args.database.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let known = runtime.map_err(|error| error.to_string())?.block_on(asked.learn(config));
    Ok(asked.explain(&args.sql, known))
}

/// The database that the statement is for.
struct Asked<'a> {
    /// As clients name it.
    name: String,
    database: &'a DatabaseConfig,
    cluster: &'a ClusterConfig,
}

/// What the database itself has to say about a statement.
struct Known {
    catalog: Catalog,
    search_path: Option<String>,
    default_read_only: bool,
}

impl<'a> Asked<'a> {
    fn find(config: &'a Config, name: Option<&str>) -> Result<Self, String> {
        let mut named = config.databases.keys().filter(|name| *name != "*");
        let name = match (name, named.next(), named.next()) {
            (Some(name), ..) => name,
            (None, Some(only), None) => only,
            (None, None, _) => return Err("the configuration names no database: say which with --database".to_owned()),
            (None, Some(_), Some(_)) => {
                let names: Vec<_> = config.databases.keys().map(String::as_str).collect();
                return Err(format!("say which database with --database: one of {}", names.join(", ")));
            }
        };
        let database = config.database(name);
        let database = database.ok_or_else(|| format!("the configuration has no database \"{name}\""))?;
        let cluster = config.clusters.get(&database.cluster);
        let cluster = cluster.ok_or_else(|| format!("the configuration has no cluster \"{}\"", database.cluster))?;
        Ok(Self { name: name.to_owned(), database, cluster })
    }

    /// Reads the catalog from the primary, as a running proxy does.
    ///
    /// Errors: why it cannot be read.
    async fn learn(&self, config: &Config) -> Result<Known, String> {
        let login = self
            .login(config)
            .ok_or("no login with a password is configured for it; give its cluster a `monitor` with a password")?;
        match timeout(PATIENCE, self.ask(&login)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer from {} within {} s", self.cluster.primary.name, PATIENCE.as_secs())),
        }
    }

    async fn ask(&self, login: &Login) -> Result<Known, String> {
        let connected = connect(&self.cluster.primary, login, PATIENCE).await;
        let mut stream = connected.map_err(|error| error.to_string())?.stream;
        let mut results = Vec::new();
        for (_, sql) in CATALOG_QUERIES {
            let answer = simple_query(&mut stream, sql, LONGEST_ANSWER).await.map_err(|error| error.to_string())?;
            results.push(answer.sets.into_iter().next().unwrap_or_default());
        }
        let rows = CatalogRows::from_results(results).map_err(|error| error.to_string())?;
        let answer = simple_query(&mut stream, DEFAULTS, LONGEST_ANSWER).await.map_err(|error| error.to_string())?;
        let mut defaults = answer.sets.into_iter().flatten().flatten();
        Ok(Known {
            catalog: Catalog::build(1, rows),
            search_path: defaults.next().flatten(),
            default_read_only: defaults.next().flatten().as_deref() == Some("on"),
        })
    }

    /// The monitor's, or that of the first user who has a password and may use the database.
    fn login(&self, config: &Config) -> Option<Login> {
        let (user, password) = match &self.cluster.monitor {
            Some(monitor) => (monitor.user.clone(), monitor.password.clone()),
            None => config.users.values().filter(|user| self.admits(user)).find_map(|user| {
                let own = match &user.auth {
                    UserAuth::Password(password) | UserAuth::Md5(password) => Some(password),
                    UserAuth::Scram(_) | UserAuth::Certificate | UserAuth::Trust => None,
                };
                let password = user.server_password.as_ref().or(own)?;
                Some((user.server_user.as_ref().unwrap_or(&user.name).clone(), Some(password.clone())))
            })?,
        };
        let database = self.database.server_name.as_ref().unwrap_or(&self.name).clone();
        Some(Login { user, database, password, scram_keys: None, parameters: Vec::new() })
    }

    fn admits(&self, user: &UserConfig) -> bool {
        user.databases.is_empty() || user.databases.contains(&self.name)
    }

    /// The place, the reason, and what else the classifier saw.
    fn explain(&self, sql: &str, known: Result<Known, String>) -> String {
        let (known, unread) = match known {
            Ok(known) => (known, None),
            Err(reason) => {
                let known = Known { catalog: Catalog::unloaded(), search_path: None, default_read_only: false };
                (known, Some(reason))
            }
        };
        let classifier = Classifier::new(NO_CACHE);
        let verdict = classifier.classify(sql.as_bytes(), &known.catalog, known.search_path.as_deref());
        let view = SessionView {
            default_read_only: known.default_read_only,
            replicas: !self.cluster.replicas.is_empty(),
            ..SessionView::default()
        };
        let mut answer = self.place(route(&verdict, &view));
        for line in explain(verdict).lines() {
            // Writing to a String cannot fail.
            let _ = writeln!(answer, "  {line}");
        }
        if let Some(reason) = unread {
            let name = &self.name;
            let _ = writeln!(
                answer,
                "\nThe catalog of database {name} could not be read: {reason}\nWithout it only statements that name nothing (no \
                 table, no function) are known to be reads. A proxy in this state decides the same; once it has the \
                 catalog, more statements go to replicas."
            );
        }
        answer
    }

    fn place(&self, decision: Decision) -> String {
        let primary = &self.cluster.primary.name;
        if self.database.pool.mode == PoolMode::Session {
            return format!("primary ({primary})\nbecause the pool mode of database {} is session\n\n", self.name);
        }
        let place = match decision.target {
            Target::Primary => format!("primary ({primary})"),
            Target::Replica => {
                let names: Vec<_> = self.cluster.replicas.iter().map(|host| host.name.as_str()).collect();
                format!("replica ({})", names.join(" or "))
            }
        };
        format!("{place}\nbecause {}\n\n", decision.reason.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_env;

    fn config(replicas: &str) -> Config {
        let env = |name: &str| match name {
            "DATABASE_URL" => Some("postgres://u:p@db1:5432/app".to_owned()),
            "DATABASE_REPLICA_URLS" => Some(replicas.to_owned()),
            _ => None,
        };
        from_env(&env).unwrap()
    }

    fn unread() -> Result<Known, String> {
        Err("db1:5432 cannot be reached".to_owned())
    }

    #[test]
    fn what_names_nothing_needs_no_catalog() {
        let config = config("postgres://db2:5432,postgres://db3:5432");
        let answer = Asked::find(&config, None).unwrap().explain("SELECT 1", unread());
        assert!(answer.starts_with("replica (db2:5432 or db3:5432)\nbecause it only reads"), "{answer}");
        assert!(answer.contains("catalog of database app could not be read: db1:5432"), "{answer}");
        let answer = Asked::find(&config, None).unwrap().explain("UPDATE t SET x = 1", unread());
        assert!(answer.starts_with("primary (db1:5432)\nbecause it writes\n"), "{answer}");
    }

    #[test]
    fn the_database_is_asked_for_where_there_is_a_choice() {
        let mut config = config("");
        assert_eq!(Asked::find(&config, None).unwrap().name, "app");
        assert_eq!(Asked::find(&config, Some("other")).unwrap().name, "other");
        let another = DatabaseConfig { name: "second".to_owned(), ..(*config.databases["app"]).clone() };
        config.databases.insert("second".to_owned(), another.into());
        assert!(Asked::find(&config, None).err().unwrap().contains("one of *, app, second"));
        config.databases.retain(|name, _| name == "*");
        assert!(Asked::find(&config, None).err().unwrap().contains("--database"));
    }

    #[test]
    fn a_session_pool_stays_on_the_primary() {
        let mut config = config("postgres://db2:5432");
        let mut app = DatabaseConfig::clone(&config.databases["app"]);
        app.pool.mode = PoolMode::Session;
        config.databases.insert("app".to_owned(), app.into());
        let answer = Asked::find(&config, None).unwrap().explain("SELECT 1", unread());
        assert!(answer.starts_with("primary (db1:5432)\nbecause the pool mode of database app is session"), "{answer}");
    }
}
