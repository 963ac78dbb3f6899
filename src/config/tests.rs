//! The configuration from outside: whole files in, a `Config` or the exact errors out.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::report::Report;
use super::secrets::Surroundings;
use super::*;

const REFERENCE: &str = include_str!("../../config/pgweir.toml");

fn environment(name: &str) -> Option<String> {
    matches!(name, "APP_PASSWORD" | "ACME_PASSWORD").then(|| format!("value of {name}"))
}

/// Writes a private file and loads it; what is shown names it `pgweir.toml`.
fn load_text(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    load_in(folder.path(), text)
}

fn load_in(folder: &Path, text: &str) -> Result<Config, String> {
    let path = folder.join("pgweir.toml");
    fs::write(&path, text).unwrap();
    let prefix = format!("{}/", folder.display());
    load(&path, &environment).map_err(|errors| errors.to_string().replace(&prefix, ""))
}

fn warnings(config: &Config) -> Vec<String> {
    config
        .warnings
        .iter()
        .map(|warning| format!("{:?} {}: {}", warning.position, warning.key, warning.message))
        .collect()
}

#[test]
fn the_reference_file_loads() {
    let config = load_text(REFERENCE).unwrap();
    assert_eq!(warnings(&config), Vec::<String>::new());
    assert_eq!(config.http.unwrap().address, "127.0.0.1:9127".parse().unwrap());
    assert_eq!(config.clusters["main"].primary.name, "db1");
    assert_eq!(config.clusters["main"].replicas[1].name, "10.0.0.3:5432");
    assert_eq!(config.databases["app"].pool, PoolSettings { size: 40, ..PoolSettings::default() });
    assert_eq!(config.users["app"].auth, UserAuth::Password(Secret::new("value of APP_PASSWORD")));
    let tenants: Vec<_> = config.tenants.iter().map(|tenant| (&*tenant.name, &*tenant.limits.name)).collect();
    assert_eq!(tenants, [("acme", "enterprise"), ("reports", "professional"), ("nightly", "standard")]);
    let timeouts = [&config.default_tier, &config.tenants[1].limits, &config.tenants[0].limits];
    assert_eq!(timeouts.map(|tier| tier.statement_timeout.map(|timeout| timeout.as_secs())), [15, 30, 60].map(Some));
}

/// The reference file with what its comments offer: `#key = …`, and `# Example: key = …` if asked.
fn uncommented(examples: bool) -> String {
    let line = |line: &'static str| {
        let example = line.strip_prefix("# Example: ").filter(|_| examples);
        let default = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        example.or(default).unwrap_or(line)
    };
    REFERENCE.lines().map(|text| line(text).to_owned() + "\n").collect()
}

#[test]
fn every_documented_default_is_the_default_of_the_code() {
    let (as_shipped, spelled_out) = (load_text(REFERENCE).unwrap(), load_text(&uncommented(false)).unwrap());
    assert!(uncommented(false).len() + 20 < REFERENCE.len(), "nothing was uncommented");
    assert_eq!(format!("{as_shipped:#?}"), format!("{spelled_out:#?}"));
}

#[test]
fn the_reference_file_shows_every_key_that_the_code_reads() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["server.crt", "server.key", "clients.crt", "monitor.password", "app_rw.password"] {
        fs::write(folder.path().join(name), "x\n").unwrap();
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = uncommented(true);
    let report = Report::new("pgweir.toml", &text);
    let config = super::load::read(&report, &text, &Surroundings { base: folder.path(), env: &environment });
    let (asked, found) = report.keys();
    assert_eq!(report.finish().map_err(|errors| errors.to_string()), Ok(Vec::new()));
    let config = config.unwrap();
    assert!(config.listen.tls.unwrap().required);
    assert_eq!(config.users["app"].server_password, Some(Secret::new("x")));
    assert_eq!(config.tenants[0].limits.max_clients, Some(200));

    // A list or a single value, and [pool] or a database's own: the same keys.
    let plain = |keys: BTreeSet<String>| -> BTreeSet<String> {
        keys.into_iter().map(|key| key.replace("[]", "").replace("databases.*.pool.", "pool.")).collect()
    };
    let (asked, found) = (plain(asked), plain(found));
    let sources = |key: &&String| !key.ends_with("password.env") && !key.ends_with("password.file");
    // Shown in the comment on what a host may look like.
    assert!(REFERENCE.contains("name = \"db1\", max_server_connections = "));
    let hosts = |key: &&String| !key.ends_with("primary.max_server_connections");
    let missing: Vec<_> = asked.difference(&found).filter(sources).filter(hosts).collect();
    assert_eq!(missing, Vec::<&String>::new());
    assert!(found.contains("pool.prepared_cache") && found.len() > 50);
}

#[test]
fn every_mistake_of_a_file_is_reported_at_once() {
    let text = r#"shutdown_timout = "10s"
default_tier = "gold"

[listen]
address = ["0.0.0.0", "127.0.0.1:6432"]
max_clients = 100
max_unauthenticated = 200
tls = { certificate = "missing.crt" }

[log]
format = "jsn"
level = "info,=,"

[pool]
size = "20"
min_idle = -1
queue_timeout = 5
idle_timeout = "5 sec"
connect_timeout = "0"
prepared_cache = "4mb"
mode = "transactions"

[clusters.main]
primary = "postgres://app:hunter2@10.0.0.1:5432?sslmod=require"
replicas = ["postgres://10.0.0.1:5432", "10.0.0.2:5432"]
max_staleness = "1ms"

[clusters.other]
replica = []

[databases.app]
cluster = "mian"
[databases.app.pool]
size = 5
min_idle = 6

[[users]]
name = "app"
password = { env = "APP_PASWORD" }
databases = ["ap"]

[[users]]
name = "app"
auth = "cert"
password = 12345

[[users]]
name = "boss"
auth = "scram"

[tiers.silver]
statement_timeout = "15m30"

[[tenants]]
name = "default"
tier = "sliver"
match = {}

[[tenants]]
name = "acme"
match = { user = "nobody", databse = "app" }
"#;
    let expected = r#"pgweir.toml:1:1: shutdown_timout: unknown key, did you mean `shutdown_timeout`?
pgweir.toml:2:16: default_tier: there is no tier "gold"
pgweir.toml:5:12: listen.address[0]: expected an IP address and a port such as "0.0.0.0:6432" or "[::]:6432", found "0.0.0.0"
pgweir.toml:7:23: listen.max_unauthenticated: expected at most `max_clients`, which is 100, found 200
pgweir.toml:8:7: listen.tls: `key` is missing: expected the path of a PEM file
pgweir.toml:8:23: listen.tls.certificate: cannot read missing.crt: No such file or directory (os error 2)
pgweir.toml:11:10: log.format: expected "auto", "text" or "json", found "jsn", did you mean "json"?
pgweir.toml:12:9: log.level: expected error, warn, info, debug, trace, or a filter such as "info,pgweir::pool=debug", found "info,=,"
pgweir.toml:15:8: pool.size: expected a whole number from 1 to 10000, found "20"
pgweir.toml:16:12: pool.min_idle: expected a whole number from 0 to 10000, found -1
pgweir.toml:17:17: pool.queue_timeout: expected a duration with a unit (us, ms, s, min, h, d) such as "15s", found 5
pgweir.toml:18:16: pool.idle_timeout: expected a duration with a unit (us, ms, s, min, h, d) such as "15s", or 0 for never, found "5 sec"
pgweir.toml:19:19: pool.connect_timeout: expected a duration from 1ms to 1d, found "0"
pgweir.toml:20:18: pool.prepared_cache: expected a size with a unit (B, kB or KiB, MB or MiB, GB or GiB) such as "4MiB", found "4mb"
pgweir.toml:21:8: pool.mode: expected "transaction", "session" or "statement", found "transactions", did you mean "transaction"?
pgweir.toml:24:11: clusters.main.primary: a cluster's URL holds no login: expected it in [[users]] (or `monitor`)
pgweir.toml:24:11: clusters.main.primary: unknown parameter `sslmod` in the URL: expected host, port, sslmode, sslrootcert, sslcert or sslkey
pgweir.toml:25:13: clusters.main.replicas[0]: expected another server: this address is in the cluster already
pgweir.toml:25:41: clusters.main.replicas[1]: expected a URL that begins with postgres:// or postgresql://
pgweir.toml:26:17: clusters.main.max_staleness: expected at least `poll_interval`, since staleness is known no better than that, found "1ms"
pgweir.toml:28:1: clusters.other: `primary` is missing: expected a URL such as "postgres://10.0.0.1:5432", or `hosts`
pgweir.toml:29:1: clusters.other.replica: unknown key, did you mean `replicas`?
pgweir.toml:32:11: databases.app.cluster: there is no cluster "mian", did you mean "main"?
pgweir.toml:33:1: databases.app.pool: `min_idle` is 6, more than `size`, which is 5
pgweir.toml:39:20: users[0].password.env: the environment variable APP_PASWORD is not set
pgweir.toml:40:14: users[0].databases[0]: there is no database "ap", did you mean "app"?
pgweir.toml:43:8: users[1].name: the user "app" is in the file already
pgweir.toml:44:8: users[1].auth: auth = "cert" needs `listen.tls.client_ca`, the authorities that sign clients' certificates
pgweir.toml:45:12: users[1].password: expected no password with this `auth`; a login to the server takes `server_password`
pgweir.toml:47:1: users[2]: `password` is missing: expected { env = "NAME" }, { file = "path" } or a verifier (or auth = "cert" or "trust")
pgweir.toml:52:21: tiers.silver.statement_timeout: expected a duration with a unit (us, ms, s, min, h, d) such as "15s", or 0 for no ceiling, found "15m30"
pgweir.toml:55:8: tenants[0].name: expected another name: this is the one of clients that no tenant matches, found "default"
pgweir.toml:56:8: tenants[0].tier: there is no tier "sliver", did you mean "silver"?
pgweir.toml:57:9: tenants[0].match: expected at least one of `user`, `database`, `user_suffix`, `option`, `application_name`, `server_name`, `certificate` or `certificate_subject`
pgweir.toml:61:18: tenants[1].match.user: there is no user "nobody"
pgweir.toml:61:28: tenants[1].match.databse: unknown key, did you mean `database`?
"#;
    assert_eq!(load_text(text).map(|_| ()).unwrap_err(), expected.trim_end());
}

#[test]
fn syntax_errors_stand_alone() {
    let errors = load_text("[listen\naddress = 127.0.0.1:6432\n[pool]\nsize = \n").map(|_| ()).unwrap_err();
    let expected = "pgweir.toml:1:8: not TOML: unclosed table, expected `]`\n\
                    pgweir.toml:4:8: not TOML: string values must be quoted, expected literal string";
    assert_eq!(errors, expected);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let errors = load(Path::new("/nonexistent/pgweir.toml"), &environment).map(|_| ()).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "/nonexistent/pgweir.toml: cannot read the file: No such file or directory (os error 2)"
    );
}

#[test]
fn an_empty_file_says_what_is_needed() {
    let expected = "pgweir.toml: `clusters` is missing: expected at least one, such as [clusters.main] with a `primary`\n\
                    pgweir.toml: `users` is missing: expected at least one [[users]] with a `name`: nobody else can log in";
    assert_eq!(load_text("").map(|_| ()).unwrap_err(), expected);
}

const SMALL: &str = r#"
[clusters.main]
primary = "postgres://10.0.0.1"
[[users]]
name = "app"
"#;

#[test]
fn a_small_file_serves_every_database_without_limits() {
    let config = load_text(&format!("{SMALL}password = {{ env = \"APP_PASSWORD\" }}")).unwrap();
    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["*"]);
    assert_eq!(
        *config.default_tier,
        Tier {
            name: "standard".into(),
            statement_timeout: None,
            transaction_timeout: None,
            lock_timeout: None,
            idle_in_transaction_timeout: None,
            max_clients: None,
            consistency: None,
            max_pinned: None,
            pinning: Pinning::Allow,
            rate_limits: Arc::default(),
            priority: Priority::Normal,
            max_server_connections: None,
            min_server_connections: 0,
            queue_length: None,
            settings: BTreeMap::new(),
            strict: false,
            layout: Layout::default(),
        }
    );
    assert_eq!(config.listen.addresses, ["127.0.0.1:6432".parse().unwrap()]);
    assert_eq!(config.shutdown_timeout, Duration::from_secs(30));
    assert!(config.http.is_none() && config.workers > 0);
}

#[test]
fn a_server_has_a_connection_for_clients_beside_those_of_pgweir() {
    let load = |clusters: &str| {
        load_text(&format!(
            "{clusters}\n[databases.\"*\"]\ncluster = \"a\"\n[[users]]\nname = \"app\"\nauth = \"trust\"\n"
        ))
    };
    let one = |name: &str, most: &str, replicas: &str| {
        format!("[clusters.{name}]\nprimary = \"postgres://10.0.0.1\"\nreplicas = [{replicas}]\n{most}\n")
    };
    let replica = "{ url = \"postgres://10.0.0.2\", max_server_connections = 9 }";
    for (clusters, least) in [
        (one("a", "max_server_connections = 1", ""), 2),
        (one("a", "max_server_connections = 2", replica), 3),
        (one("a", "max_server_connections = 3", replica) + &one("b", "max_server_connections = 90", replica), 4),
        (one("a", "max_server_connections = 3", replica) + &one("b", "", replica), 4),
    ] {
        let error = load(&clusters).unwrap_err();
        assert!(error.contains(&format!("\"10.0.0.1:5432\" is {}, expected at least {least}", least - 1)), "{error}");
        load(&clusters.replace(&format!(" = {}\n", least - 1), &format!(" = {least}\n"))).unwrap();
    }
}

#[test]
fn the_form_of_a_password_decides_how_it_is_checked() {
    let scram = "SCRAM-SHA-256$4096:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let md5 = "md5d41d8cd98f00b204e9800998ecf8427e";
    let cases = [
        (format!("password = \"{scram}\""), UserAuth::Scram(Secret::new(scram))),
        (format!("password = \"{md5}\""), UserAuth::Md5(Secret::new(md5))),
        ("password = \"x\"\nauth = \"md5\"".to_owned(), UserAuth::Md5(Secret::new("x"))),
        ("password = \"x\"\nauth = \"scram\"".to_owned(), UserAuth::Password(Secret::new("x"))),
        ("auth = \"trust\"".to_owned(), UserAuth::Trust),
    ];
    for (keys, auth) in cases {
        assert_eq!(load_text(&format!("{SMALL}{keys}")).unwrap().users["app"].auth, auth, "{keys}");
    }
}

#[test]
fn what_contradicts_itself_about_a_user_is_refused() {
    let md5 = "md5d41d8cd98f00b204e9800998ecf8427e";
    let cases = [
        (String::new(), "4:1: users[0]: `password` is missing"),
        (
            format!("auth = \"scram\"\npassword = \"{md5}\""),
            "7:12: users[0].password: expected a plain password or a SCRAM verifier with",
        ),
        (
            "auth = \"trust\"\npassword = \"x\"".to_owned(),
            "7:12: users[0].password: expected no password with this `auth`",
        ),
        ("auth = \"cert\"".to_owned(), "6:8: users[0].auth: auth = \"cert\" needs `listen.tls.client_ca`"),
        ("password = \"SCRAM-SHA-256$oops\"".to_owned(), "6:12: users[0].password: expected a verifier of the form"),
        ("password = {}".to_owned(), "6:12: users[0].password: expected either `env` or `file`"),
        (
            "password = { env = \"UNSET\" }".to_owned(),
            "6:20: users[0].password.env: the environment variable UNSET is not set",
        ),
        ("password = { file = \"none\" }".to_owned(), "6:21: users[0].password.file: cannot read none: No such file"),
        ("password = \"\"".to_owned(), "6:12: users[0].password: expected a password that is not empty"),
    ];
    for (keys, start) in cases {
        let errors = load_text(&format!("{SMALL}{keys}")).map(|_| ()).unwrap_err();
        assert!(errors.starts_with(&format!("pgweir.toml:{start}")), "{keys}: {errors}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let text = r#"
[clusters.main]
primary = "postgres://app:hunter2@10.0.0.1:99999"
monitor = { user = "m", password = ["hunter2"] }
[[users]]
name = "app"
password = "hunter2"
server_password = { env = "X", file = "hunter2", hunter = 2 }
"#;
    let errors = load_text(text).map(|_| ()).unwrap_err();
    assert!(!errors.contains("hunter2"), "{errors}");
    let config = load_text(&format!("{SMALL}password = \"hunter2\"")).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn what_is_allowed_but_doubtful_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("password"), "from the file\r\n").unwrap();
    fs::set_permissions(folder.path().join("password"), fs::Permissions::from_mode(0o644)).unwrap();
    let text = r#"
[listen]
address = "0.0.0.0:6432"
[clusters.main]
primary = "postgres://10.0.0.1"
[[users]]
name = "a"
password = "plain"
[[users]]
name = "b"
password = { file = "password" }
[[users]]
name = "c"
auth = "trust"
[[tenants]]
name = "all"
match = { user = "a" }
[[tenants]]
name = "none"
match = { user = "a", database = "app" }
[[tenants]]
name = "twice"
match = [{ user = "b" }, { database = "other" }, { user = "b", database = "app" }]
"#;
    let config = load_in(folder.path(), text).unwrap();
    assert_eq!(config.users["b"].auth, UserAuth::Password(Secret::new("from the file")));
    let path = folder.path().join("password").display().to_string();
    let shown: Vec<_> = warnings(&config).into_iter().map(|warning| warning.replace(&path, "FILE")).collect();
    let expected = [
        "Some((8, 12)) users[0].password: a plain password stands in the file; { env = \"NAME\" } or { file = \"path\" } keeps it out",
        "Some((11, 21)) users[1].password.file: every user of this machine can read the secret in FILE (mode 644): chmod o-r FILE",
        "Some((14, 8)) users[2].auth: anyone who reaches 0.0.0.0:6432 can log in as this user without proof",
        "Some((20, 9)) tenants[1].match: never reached: the tenant \"all\" stands before it and matches first",
        "Some((23, 50)) tenants[2].match[2]: never reached: a match of the same tenant stands before it and matches first",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn zero_means_never_only_where_that_is_safe() {
    let keys =
        "password = { env = \"APP_PASSWORD\" }\n[pool]\nmax_lifetime = 0\nidle_timeout = \"0s\"\ncheck_after = \"0\"";
    let pool = load_text(&format!("{SMALL}{keys}")).unwrap().pool;
    assert_eq!((pool.max_lifetime, pool.idle_timeout, pool.check_after), (NEVER, NEVER, Duration::ZERO));
}

/// Two clusters, some databases, and one tenant with these keys.
fn with_layout(databases: &str, keys: &str) -> Result<Config, String> {
    load_text(&format!(
        "[clusters.main]\nprimary = \"postgres://10.0.0.1\"\n[clusters.eu]\nprimary = \"postgres://10.0.0.2\"\n\
         [pool]\nsize = 7\n[[users]]\nname = \"app\"\npassword = {{ env = \"APP_PASSWORD\" }}\n{databases}\
         [[tenants]]\nname = \"acme\"\nmatch = {{ user = \"app\" }}\n{keys}\n"
    ))
}

const ONE: &str = "[databases.app]\ncluster = \"main\"\nserver_name = \"production\"\npool = { size = 5 }\n";
const ANY: &str = "[databases.\"*\"]\ncluster = \"main\"\npool = { size = 6 }\n";

#[test]
fn a_tenants_database_is_found_as_a_clients_and_its_cluster_takes_the_place_of_that() {
    let both = &*format!("{ONE}{ANY}");
    for (databases, keys, asked, expected) in [
        (ONE, "", "app", Some("main production 5")),
        (ONE, "", "acme", None),
        (ONE, "database = \"app\"", "app", Some("main production 5")),
        (both, "database = \"acme\"", "acme", Some("main - 6")),
        (both, "database = \"app\"\ncluster = \"eu\"", "app", Some("eu production 5")),
        (both, "cluster = \"eu\"", "acme", Some("eu - 6")),
        (ONE, "cluster = \"eu\"", "acme", Some("eu - 7")),
        (ONE, "database = \"acme\"\ncluster = \"eu\"", "acme", Some("eu - 7")),
    ] {
        let config = with_layout(databases, keys).unwrap();
        let layout = &config.tenants[0].limits.layout;
        assert_eq!(config.missing(layout), None);
        let found = config.database_in(layout, asked).map(|database| {
            let name = database.server_name.as_deref().unwrap_or("-");
            format!("{} {name} {}", database.cluster, database.pool.size)
        });
        assert_eq!(found.as_deref(), expected, "{databases}{keys} {asked}");
    }
}

#[test]
fn a_subject_that_no_certificate_has_is_an_error() {
    let subject = |text: &str| {
        let tenant = format!("[[tenants]]\nname = \"t\"\nmatch = {{ certificate_subject = '{text}' }}\n");
        load_text(&format!("{SMALL}password = {{ env = \"APP_PASSWORD\" }}\n{tenant}")).map(|_| ())
    };
    assert_eq!(subject("CN=app,OU=acme,O=customers"), Ok(()));
    assert_eq!(subject("CN=*,O=Acme\\, Inc."), Ok(()));
    assert!(subject("CN=app, OU=acme").unwrap_err().contains("RFC 2253"));
    assert!(subject("CN=*,OU=*").unwrap_err().contains("at most one `*`"));
}

/// What each transaction may say for itself, or belongs to nobody but the session's user or driver.
#[test]
fn what_nothing_can_hold_is_no_setting_of_a_tenant() {
    let settings = |setting: &str| {
        let tenant = format!("[[tenants]]\nname = \"t\"\nmatch = {{ user = \"app\" }}\nsettings = {{ {setting} }}\n");
        load_text(&format!("{SMALL}password = {{ env = \"APP_PASSWORD\" }}\n{tenant}")).map(|_| ())
    };
    for held in ["\"app.tenant\" = \"a\"", "search_path = \"a\"", "role = \"a\"", "work_mem = \"8MB\""] {
        assert_eq!(settings(held), Ok(()));
    }
    for (refused, why) in [
        ("Default_Transaction_Read_Only = \"on\"", "default_transaction_read_only cannot be held for a tenant"),
        ("transaction_isolation = \"serializable\"", "transaction_isolation cannot be held for a tenant"),
        ("session_authorization = \"a\"", "expected a user of the server's own"),
        ("statement_timeout = \"1s\"", "expected a key of the tier's own"),
        ("temp_file_limit = \"1MB\"", "expected `strict = true` with it"),
        ("sort_mem = \"1MB\"", "expected its name of today"),
    ] {
        let error = settings(refused).unwrap_err();
        assert!(error.contains(why), "{refused}: {error}");
    }
    assert_eq!(settings("temp_file_limit = \"1MB\" }\nstrict = true # {"), Ok(()));
}

#[test]
fn a_tenants_cluster_and_database_are_known() {
    for (databases, keys, expected) in [
        (ONE, "database = \"ap\"", "tenants[0].database: there is no database \"ap\", did you mean \"app\"?"),
        (ANY, "database = \"*\"", "tenants[0].database: expected the name of one database, found \"*\""),
        (
            ONE,
            "cluster = \"eu\"\ndatabase = \"*\"",
            "tenants[0].database: expected the name of one database, found \"*\"",
        ),
        (ONE, "cluster = \"ue\"", "tenants[0].cluster: there is no cluster \"ue\""),
    ] {
        let error = with_layout(databases, keys).map(|_| ()).unwrap_err();
        assert!(error.ends_with(expected) && error.lines().count() == 1, "{error}");
    }
}

mod from_environment {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Config, String> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        from_env(&find).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_url_is_enough() {
        let config =
            from(&[("DATABASE_URL", "postgres://app:s3cret@db:5433/shop?sslmode=require&schema=public")]).unwrap();
        let cluster = &config.clusters["main"];
        assert_eq!(cluster.primary.address, HostAddress::Tcp { host: "db".into(), port: 5433 });
        assert_eq!(cluster.primary.tls.mode, SslMode::Require);
        assert_eq!(config.users["app"].auth, UserAuth::Password(Secret::new("s3cret")));
        assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["*", "shop"]);
        assert_eq!(config.listen.addresses, ["127.0.0.1:6432".parse().unwrap()]);
        assert_eq!(warnings(&config), ["None DATABASE_URL: the parameter `schema` is ignored"]);
    }

    #[test]
    fn replicas_share_the_login() {
        let config = from(&[
            ("DATABASE_URL", "postgres://app:s@db1/shop"),
            ("DATABASE_REPLICA_URLS", "postgres://app:s@db2/shop, postgres://db3:5433\tpostgres://[::1]"),
            ("PGWEIR_LISTEN", "[::]:7000"),
            ("PGWEIR_HTTP", "localhost:9127"),
        ])
        .unwrap();
        let names: Vec<_> = config.clusters["main"].replicas.iter().map(|host| &*host.name).collect();
        assert_eq!(names, ["db2:5432", "db3:5433", "[::1]:5432"]);
        assert_eq!(config.listen.addresses, ["[::]:7000".parse().unwrap()]);
        assert_eq!(config.http.unwrap().address, "127.0.0.1:9127".parse().unwrap());
    }

    #[test]
    fn what_is_missing_or_differs_is_said() {
        let none = from(&[]).map(|_| ()).unwrap_err();
        assert_eq!(
            none,
            "environment: DATABASE_URL: not set: expected postgres://user:password@host:5432/database (or a file: --config FILE)"
        );
        let wrong = from(&[
            ("DATABASE_URL", "postgres://app@db/shop"),
            ("DATABASE_REPLICA_URLS", "postgres://other:p@db2,postgres://db"),
            ("PGWEIR_LISTEN", "6432"),
        ]);
        let expected = "\
environment: DATABASE_URL: expected a password in the URL, which clients have to prove that they know; for a server that asks for none, write a file with auth = \"trust\"
environment: DATABASE_REPLICA_URLS: expected the same user as in DATABASE_URL, or none
environment: DATABASE_REPLICA_URLS: expected the same password as in DATABASE_URL, or none
environment: DATABASE_REPLICA_URLS: expected another server than the one in DATABASE_URL
environment: PGWEIR_LISTEN: expected an IP address and a port such as \"0.0.0.0:6432\", found \"6432\"";
        assert_eq!(wrong.map(|_| ()).unwrap_err(), expected);
    }
}
