//! The tenants, the database that they share and the code in it that goes astray.

use crate::isolation::model::Made;
use crate::support::primary_only::config;
use crate::support::proxy::Proxy;
use crate::support::stage::Stage;
use crate::support::{shared_cluster, unique};

/// Clients at work at a time.
pub const CLIENTS: usize = 12;

pub struct Tenant {
    pub name: &'static str,
    time_zone: &'static str,
    /// kB
    work_mem: &'static str,
    pub strict: bool,
    /// What its clients make of settings of their own.
    pub style: [(&'static str, &'static str); 6],
}

pub const TENANTS: [Tenant; 3] = [
    Tenant {
        name: "acme",
        time_zone: "Europe/Paris",
        work_mem: "5120",
        strict: false,
        style: [
            ("datestyle", "German, DMY"),
            ("intervalstyle", "sql_standard"),
            ("extra_float_digits", "-1"),
            ("client_encoding", "LATIN1"),
            ("lock_timeout", "9100"),
            ("enable_hashjoin", "off"),
        ],
    },
    Tenant {
        name: "beta",
        time_zone: "Asia/Tokyo",
        work_mem: "6144",
        strict: false,
        style: [
            ("datestyle", "SQL, MDY"),
            ("intervalstyle", "iso_8601"),
            ("extra_float_digits", "-2"),
            ("client_encoding", "LATIN9"),
            ("lock_timeout", "9200"),
            ("enable_mergejoin", "off"),
        ],
    },
    Tenant {
        name: "gamma",
        time_zone: "America/Lima",
        work_mem: "7168",
        strict: true,
        style: [
            ("datestyle", "Postgres, YMD"),
            ("intervalstyle", "postgres_verbose"),
            ("extra_float_digits", "-3"),
            ("client_encoding", "LATIN2"),
            ("lock_timeout", "9300"),
            ("enable_sort", "off"),
        ],
    },
];

pub struct Scene {
    pub stage: Stage,
    pub proxy: Proxy,
    /// What the names of the tenants' roles end with.
    suffix: String,
}

impl Scene {
    pub async fn set() -> Self {
        let suffix = unique().to_string();
        let stage = Stage::set(&schema(&suffix)).await;
        let roles = TENANTS.map(|tenant| role(&tenant, &suffix)).join(", ");
        stage.database.sql(&format!("GRANT {roles} TO {}", stage.user)).await;
        let proxy = Proxy::start(&configuration(&stage.user, &suffix).await).await;
        Self { stage, proxy, suffix }
    }

    pub fn url(&self, tenant: &Tenant, more: &str) -> String {
        let (user, port, database) = (&self.stage.user, self.proxy.port, &self.stage.database.name);
        format!("postgres://{user}@127.0.0.1:{port}/{database}?options=-c%20pgweir.tenant%3D{}{more}", tenant.name)
    }

    /// As many as pgweir has counted.
    pub fn transactions(&self) -> usize {
        self.proxy.metric("pgweir_transactions_total") as usize
    }

    /// Ends one of the server processes, whoever has it: how many.
    pub async fn ends_a_process(&self) -> usize {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM \
             (SELECT pid FROM pg_stat_activity WHERE usename = '{}' ORDER BY random() LIMIT 1) AS one",
            self.stage.user
        );
        self.stage.database.sql(&sql).await.trim().parse().unwrap()
    }

    /// Not one row has come to another tenant's.
    pub async fn is_sound(&self) {
        let things = |tenant: &Tenant| format!("SELECT '{0}' AS own, tenant, mark FROM {0}.things", tenant.name);
        let things = TENANTS.each_ref().map(things).join(" UNION ALL ");
        let sql = format!(
            "SELECT count(*) FROM ({things} UNION ALL SELECT tenant, tenant, mark FROM rows) AS every \
             WHERE tenant <> own OR split_part(mark, '-', 1) <> own"
        );
        assert_eq!(self.stage.database.sql(&sql).await.trim(), "0");
    }

    /// What a session is to see that works for a tenant and has made these settings, and the `others`: its tables, locks,
    /// cursors.
    pub fn expected(&self, tenant: &Tenant, made: &Made, others: [&str; 3]) -> String {
        let mut made = made.clone();
        made.extend(held(tenant, &self.suffix));
        let role = made.remove("role").unwrap_or_default();
        let list = |custom: bool| {
            let pairs = made.iter().filter(|(name, _)| name.contains('.') == custom);
            pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
        };
        let name = tenant.name;
        let [tables, locks, cursors] = others;
        format!(
            "user {} as {role}\nsettings {}\ncustom {}\nrows {name} {name}\ntables {tables}\nlocks {locks}\ncursors {cursors}",
            self.stage.user,
            list(false),
            list(true)
        )
    }
}

/// Asks for everything that a session may see of what was made in it or held for it, and for what code has made up for
/// clients other than this one. See [`Scene::expected`].
pub fn asks_everything(number: usize) -> String {
    let others = (0..CLIENTS).filter(|other| *other != number).map(|other| format!(",made.c{other}"));
    let marks: String = (0..CLIENTS).map(|number| format!(",mark.c{number}")).chain(others).collect();
    format!(
        "SELECT format(E'user %s as %s\\nsettings %s\\ncustom %s\\nrows %s %s\\ntables %s\\nlocks %s\\ncursors %s', \
         session_user, current_user, \
         (SELECT string_agg(lower(name) || '=' || setting, '; ' ORDER BY lower(name) COLLATE \"C\") FROM pg_settings \
          WHERE source = 'session' AND setting <> reset_val AND name NOT LIKE 'transaction%'), \
         (SELECT string_agg(n || '=' || current_setting(n, true), '; ' ORDER BY n COLLATE \"C\") \
          FROM unnest('{{app.tenant,app.second,mark.own,mark.start,mark.trigger,mark.hidden{marks}}}'::text[]) AS n \
          WHERE current_setting(n, true) <> ''), \
         (SELECT string_agg(DISTINCT tenant, ',') FROM rows), (SELECT string_agg(name, ',') FROM whose), \
         (SELECT string_agg(relname, ',') FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'), \
         (SELECT string_agg(objid::text, ',') FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
         (SELECT string_agg(name, ',') FROM pg_cursors WHERE name LIKE 'mark%'))"
    )
}

fn role(tenant: &Tenant, suffix: &str) -> String {
    format!("own_{}_{suffix}", tenant.name)
}

/// The settings that are held for a tenant.
fn held(tenant: &Tenant, suffix: &str) -> Made {
    let name = tenant.name;
    let settings = [
        ("app.tenant", name.to_owned()),
        ("app.second", format!("{name}'s second")),
        ("search_path", format!("{name}, public")),
        ("role", role(tenant, suffix)),
        ("timezone", tenant.time_zone.to_owned()),
        ("work_mem", tenant.work_mem.to_owned()),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

async fn configuration(user: &str, suffix: &str) -> String {
    let tenant = |tenant: &Tenant| {
        let held = held(tenant, suffix);
        let settings = held.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"")).collect::<Vec<_>>();
        format!(
            "[[tenants]]\nname = \"{}\"\nsettings = {{ {} }}\nstrict = {}\n",
            tenant.name,
            settings.join(", "),
            tenant.strict
        )
    };
    let more = format!(
        "[tiers.standard]\nstatement_timeout = \"10s\"\n\
         [tenancy]\nidentify = [{{ option = \"*\" }}]\nunknown = \"refuse\"\n\
         {}[pool]\nsize = 2\nqueue_timeout = \"60s\"\n",
        TENANTS.iter().map(tenant).collect::<String>()
    );
    let cluster = config(shared_cluster().await, &more, &[]);
    format!("{cluster}\n[[users]]\nname = \"{user}\"\nauth = \"trust\"\nmay_set_tenant = true\n")
}

/// Everybody may do everything: what is out of place shows, and is not refused.
fn schema(suffix: &str) -> String {
    let own = |tenant: &Tenant| {
        let (name, role) = (tenant.name, role(tenant, suffix));
        format!(
            "CREATE ROLE {role}; CREATE SCHEMA {name}; CREATE TABLE {name}.whose AS SELECT '{name}' AS name; \
             CREATE TABLE {name}.things (id int, tenant text DEFAULT current_setting('app.tenant'), \
              mark text DEFAULT current_setting('mark.own', true)); \
             GRANT ALL ON SCHEMA {name} TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA {name} TO PUBLIC;\n"
        )
    };
    let tenants: String = TENANTS.iter().map(own).collect();
    format!(
        "{tenants}
         CREATE TABLE rows (tenant text NOT NULL DEFAULT current_setting('app.tenant'), id int,
          mark text DEFAULT current_setting('mark.own', true));
         INSERT INTO rows SELECT name, n FROM unnest('{{acme,beta,gamma}}'::text[]) AS name, generate_series(1, 5) AS n;
         ALTER TABLE rows ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON rows USING (tenant = current_setting('app.tenant'));

         CREATE FUNCTION strays() RETURNS text LANGUAGE plpgsql AS $$
         DECLARE
          other text := CASE current_setting('app.tenant') WHEN 'acme' THEN 'beta' ELSE 'acme' END;
         BEGIN
          PERFORM set_config('app.tenant', other, false), set_config('app.second', other || '''s second', true),
           set_config('search_path', other, false), set_config('timezone', 'UTC', false), set_config('work_mem', '64kB', true),
           set_config('role', 'own_' || other || '_{suffix}', false);
          RETURN other;
         END $$;
         CREATE FUNCTION strays_before() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
          PERFORM strays();
          PERFORM set_config('mark.trigger', NEW.mark, false);
          EXECUTE format('SET made.%I = %L', split_part(NEW.mark, '-', 2), NEW.mark);
          RETURN NULL;
         END $$;
         CREATE TABLE triggered (mark text);
         CREATE TRIGGER strays BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION strays_before();
         CREATE TABLE defaulted (id int, other text DEFAULT strays());
         CREATE TABLE ruled (id int);
         CREATE RULE strays AS ON INSERT TO ruled DO INSTEAD SELECT strays();
         CREATE FUNCTION elsewhere() RETURNS text LANGUAGE sql SET search_path = beta SET app.tenant = 'beta'
          SET \"TimeZone\" = 'UTC' AS 'SELECT name FROM whose';
         CREATE SEQUENCE counted;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;"
    )
}
