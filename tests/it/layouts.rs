//! Where tenants' data are: databases and clusters of their own, by the file and by a query.

use pgweir::sandbox::{Sandbox, SandboxOptions, User};
use tokio_postgres::{Client, NoTls};

use crate::support::primary_only::{config, sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::{TestDatabase, connect, eventually, fresh_database, shared_cluster, start, unique};

/// Two clusters with one user, and a database of which each has one; tenants are in another one.
struct Stage {
    user: String,
    eu: Sandbox,
    control: TestDatabase,
    database: TestDatabase,
}

/// What a client sees of its place.
const PLACE: &str = "SELECT current_database() || ' ' || name FROM place";

impl Stage {
    async fn set() -> Self {
        let user = format!("app_{}", unique());
        let eu = start(SandboxOptions::default()).await;
        for cluster in [shared_cluster().await, &eu] {
            cluster.create_users(&[User::new(&user, "secret")]).await.unwrap();
        }
        let place = |name: &str| format!("CREATE TABLE place AS SELECT '{name}' AS name; GRANT ALL ON place TO PUBLIC");
        let control = fresh_database(&format!(
            "CREATE TABLE tenants (name text, database text, cluster text, settings json); \
             GRANT ALL ON tenants TO PUBLIC; {}",
            place("control")
        ))
        .await;
        let database = fresh_database(&place("main")).await;
        for name in [&*database.name, "only_eu"] {
            eu.primary().psql(&format!("CREATE DATABASE {name}")).await.unwrap();
            eu.primary().psql_in(name, &place("eu")).await.unwrap();
        }
        Self { user, eu, control, database }
    }

    /// Clients say whose they are behind their user's name.
    async fn text(&self, databases: &str, tenants: &str) -> String {
        let more = format!(
            "[tiers.standard]\n[clusters.eu]\nprimary = {{ url = \"postgres://127.0.0.1:{port}\", name = \"eu\" }}\n\
             [tenancy]\nidentify = [\"user_suffix\"]\nunknown = \"refuse\"\n\
             tenants_query = {{ query = \"SELECT * FROM tenants\", database = \"{control}\", user = \"{user}\", refresh = \"100ms\" }}\n\
             {databases}{tenants}",
            port = self.eu.primary().port,
            control = self.control.name,
            user = self.user,
        );
        config(shared_cluster().await, &more, &[&self.user])
    }

    fn url(&self, proxy: &Proxy, tenant: &str, database: &str) -> String {
        format!("postgres://{}%40{tenant}:secret@127.0.0.1:{}/{database}", self.user, proxy.port)
    }

    /// A client that asks for the database of the tenants.
    async fn comes(&self, proxy: &Proxy, tenant: &str) -> Option<Client> {
        let (client, connection) =
            tokio_postgres::connect(&self.url(proxy, tenant, &self.control.name), NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    /// The place of a tenant that is known, or will be.
    async fn place(&self, proxy: &Proxy, tenant: &str) -> String {
        eventually("the tenant is known", async || self.comes(proxy, tenant).await.is_some()).await;
        value(&self.comes(proxy, tenant).await.unwrap(), PLACE).await
    }

    async fn adds(&self, name: &str, database: &str, cluster: &str) {
        let text = |value: &str| if value.is_empty() { "NULL".to_owned() } else { format!("'{value}'") };
        let sql = format!("INSERT INTO tenants VALUES ('{name}', {}, {})", text(database), text(cluster));
        self.control.sql(&sql).await;
    }
}

const ANY: &str = "[databases.\"*\"]\ncluster = \"main\"\n";

#[tokio::test]
async fn a_tenant_that_is_new_has_its_database_or_cluster_at_once() {
    let stage = Stage::set().await;
    let (own, control) = (&*stage.database.name, &*stage.control.name);
    let text = stage.text(ANY, "").await;
    let proxy = Proxy::start(&text).await;
    stage.adds("first", "", "").await;
    assert_eq!(stage.place(&proxy, "first").await, format!("{control} control"));
    stage.adds("second", own, "").await;
    assert_eq!(stage.place(&proxy, "second").await, format!("{own} main"));
    stage.adds("third", own, "eu").await;
    assert_eq!(stage.place(&proxy, "third").await, format!("{own} eu"));
    stage.adds("fourth", "", "eu").await;
    eventually("the fourth is known", async || {
        let (code, message) = match tokio_postgres::connect(&stage.url(&proxy, "fourth", "only_eu"), NoTls).await {
            Ok(_) => return true,
            Err(error) => (sqlstate(&error).to_owned(), error.to_string()),
        };
        assert_eq!(code, "28000", "{message}");
        false
    })
    .await;
    let fourth = connect(&stage.url(&proxy, "fourth", "only_eu")).await;
    assert_eq!(value(&fourth, PLACE).await, "only_eu eu");
    let servers = |database: &str, host: &str| {
        proxy.metric(&format!("pgweir_server_connections{{database=\"{database}\",host=\"{host}\"}}"))
    };
    assert_eq!((servers("only_eu", "eu"), servers("only_eu", "primary")), (1.0, 0.0));
    assert!(servers(own, "eu") >= 1.0 && servers(own, "primary") >= 1.0);

    // Pools of tenants are theirs after a reload too.
    let third = stage.comes(&proxy, "third").await.unwrap();
    let pids = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE backend_type = 'client backend' \
        AND application_name <> 'pgweir catalog' AND datname <> 'postgres'";
    let before = stage.eu.primary().psql(pids).await.unwrap();
    proxy.reload(&text).await.unwrap();
    for (client, name) in [(&third, own), (&fourth, "only_eu")] {
        assert_eq!(value(client, PLACE).await, format!("{name} eu"));
    }
    assert_eq!(stage.eu.primary().psql(pids).await.unwrap(), before);
    // And so are those of a cluster whose servers are others.
    proxy.reload(&text.replace("name = \"eu\"", "name = \"eu2\"")).await.unwrap();
    assert_eq!(value(&fourth, PLACE).await, "only_eu eu");
    assert_eq!((servers("only_eu", "eu2"), servers("only_eu", "eu")), (1.0, 0.0));

    // A tenant that moves takes with it who comes from then on.
    stage.control.sql("UPDATE tenants SET cluster = 'eu' WHERE name = 'second'").await;
    eventually("it has moved", async || stage.place(&proxy, "second").await == format!("{own} eu")).await;
    // What cannot be leaves it there.
    stage.control.sql("UPDATE tenants SET cluster = 'mars' WHERE name = 'second'").await;
    stage.adds("fifth", "", "mars").await;
    stage.adds("sixth", own, "").await;
    assert_eq!(stage.place(&proxy, "sixth").await, format!("{own} main"));
    assert_eq!(stage.place(&proxy, "second").await, format!("{own} eu"));
    assert_eq!(proxy.refusal(&stage.url(&proxy, "fifth", own)).await.code().code(), "28000");
}

#[tokio::test]
async fn the_file_says_where_its_tenants_are() {
    let stage = Stage::set().await;
    let (own, control) = (&*stage.database.name, &*stage.control.name);
    let entries = format!(
        "[databases.{control}]\ncluster = \"main\"\n[databases.shop]\ncluster = \"main\"\nserver_name = \"{own}\"\n"
    );
    let tenants = format!(
        "[[tenants]]\nname = \"home\"\n[[tenants]]\nname = \"shop\"\ndatabase = \"shop\"\n\
         [[tenants]]\nname = \"shop_eu\"\ndatabase = \"shop\"\ncluster = \"eu\"\n\
         [[tenants]]\nname = \"own_eu\"\ndatabase = \"{own}\"\ncluster = \"eu\"\n[[tenants]]\nname = \"eu\"\ncluster = \"eu\"\n"
    );
    let text = stage.text(&entries, &tenants).await.replace(
        &format!("name = \"{}\"\n", stage.user),
        &format!("name = \"{}\"\nmay_set_tenant = true\n", stage.user),
    );
    let proxy = Proxy::start(&text).await;
    for (tenant, asked, expected) in [
        ("home", control, format!("{control} control")),
        ("shop", control, format!("{own} main")),
        // Whichever they ask for.
        ("shop", "nothing", format!("{own} main")),
        ("shop_eu", control, format!("{own} eu")),
        ("own_eu", control, format!("{own} eu")),
        ("eu", "shop", format!("{own} eu")),
        ("eu", "only_eu", "only_eu eu".to_owned()),
    ] {
        let client = connect(&stage.url(&proxy, tenant, asked)).await;
        assert_eq!(value(&client, PLACE).await, expected, "{tenant} {asked}");
    }
    let refusal = proxy.refusal(&stage.url(&proxy, "home", "only_eu")).await;
    assert_eq!((refusal.code().code(), refusal.message()), ("3D000", "database \"only_eu\" does not exist"));
    // A database that "*" would serve is none here.
    stage.adds("lost", own, "").await;
    stage.adds("found", "only_eu", "eu").await;
    assert_eq!(stage.place(&proxy, "found").await, "only_eu eu");
    assert_eq!(proxy.refusal(&stage.url(&proxy, "lost", control)).await.code().code(), "28000");
    // Who has logged in for one cluster works for no tenant of another.
    let client = connect(&stage.url(&proxy, "shop_eu", control)).await;
    for other in ["own_eu", "eu", "shop", "home"] {
        let error = client.batch_execute(&format!("SELECT 1 /*tenant='{other}'*/")).await.unwrap_err();
        assert_eq!(sqlstate(&error), "0A000", "{other}");
        assert!(error.as_db_error().unwrap().detail().unwrap().contains("another cluster"), "{error:?}");
    }
    assert_eq!(value(&client, PLACE).await, format!("{own} eu"));
}
