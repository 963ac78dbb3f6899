//! Kinds of transactions. Each leaves its session as it has found it, but for what the model knows of.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::isolation::scene::{TENANTS, asks_everything};
use crate::isolation::visitor::{By, Outcome, Random, Visitor};
use crate::support::primary_only::try_value;

/// What may end a session that has run one.
#[derive(PartialEq, Eq)]
pub enum Then {
    GoesOn,
    /// The driver does not wait until a cancel can strike no more.
    Leaves,
}

/// So many kinds there are, some of them more often than others.
const KINDS: u64 = 29;

impl Visitor {
    /// One transaction, or a few that belong together, of any kind.
    pub async fn does_something(&mut self) -> Outcome<Then> {
        let kind = self.random.below(KINDS);
        if self.identity.tenant().strict && [0, 1, 14, 15, 17, 19].contains(&kind) {
            return self.is_refused_writes().await.map(|()| Then::GoesOn);
        }
        match kind {
            0 => self.writes_and_rolls_back().await,
            1 => self.writes_and_commits().await,
            2 => self.fails().await,
            3 => return self.cancels().await.map(|()| Then::Leaves),
            4 => self.times_out().await,
            5 => self.times_out_at_once().await,
            6 => self.hides().await,
            7 => self.is_refused_its_tenants_settings().await,
            8..=10 => self.makes_settings().await,
            11..=13 => self.makes_settings_in_a_transaction().await,
            14 | 15 => self.writes_what_strays().await,
            16 => self.calls_what_has_settings().await,
            17 => self.sends_much_at_once().await,
            18 => self.fetches().await,
            19 => self.makes_temporary_tables().await,
            20 => self.locks().await,
            21 => self.prepares().await,
            22 => self.counts().await,
            23 => self.works_for_another().await,
            24 => self.listens().await,
            25..=27 => self.reads_constants().await,
            _ => self.checks().await,
        }
        .map(|()| Then::GoesOn)
    }

    /// In the middle of something, mostly without a goodbye.
    pub async fn leaves(mut self) -> Random {
        let (number, mark) = (self.identity.number, self.new_mark());
        let sql = match self.random.below(6) {
            0 => "SELECT id FROM rows".to_owned(),
            1 => "BEGIN; SELECT id FROM rows".to_owned(),
            // The first is ended, the second carried out.
            2 if self.random.one_in(2) => "SELECT pg_sleep(5)".to_owned(),
            2 => "BEGIN; SELECT pg_sleep(0.02)".to_owned(),
            3 => format!("BEGIN; SET application_name = '{mark}'; DECLARE mark{number} CURSOR FOR SELECT * FROM rows"),
            4 => format!("CREATE TEMP TABLE mine_{number} AS SELECT * FROM rows; SELECT pg_advisory_lock({number})"),
            _ => format!("SET mark.own = '{mark}'; LISTEN mark_{number}; PREPARE mine AS SELECT '{mark}'"),
        };
        let patience = Duration::from_micros(self.random.below(5_000));
        // A cancel of its own may come as late as this.
        let _ = tokio::time::timeout(patience, self.tries(&sql)).await;
        if self.random.one_in(4) { Random(self.random.0) } else { self.cut() }
    }

    /// Whoever is strict writes nothing where triggers change what is held.
    async fn is_refused_writes(&mut self) -> Outcome {
        const WRITES: [&str; 5] = [
            "INSERT INTO triggered VALUES ('x')",
            "INSERT INTO ruled VALUES (1); SELECT * FROM rows",
            "UPDATE rows SET id = 9",
            "DELETE FROM things",
            "CREATE TEMP TABLE mine AS SELECT tenant FROM rows",
        ];
        let sql = WRITES[self.random.below(WRITES.len() as u64) as usize];
        self.is_refused(sql, "42501").await?;
        self.checks().await
    }

    async fn writes_and_rolls_back(&mut self) -> Outcome {
        self.begin().await?;
        self.run("INSERT INTO rows (id) VALUES (9)").await?;
        self.run("INSERT INTO things (id) VALUES (9)").await?;
        self.sets_mark("mark.own", false).await?;
        self.checks().await?;
        self.roll_back().await
    }

    async fn writes_and_commits(&mut self) -> Outcome {
        let mark = self.identity.mark();
        self.begin().await?;
        self.run(&format!("SELECT set_config('mark.own', '{mark}', true)")).await?;
        self.model.set_local("mark.own", &mark);
        self.run("UPDATE rows SET mark = current_setting('mark.own') WHERE id = 1").await?;
        self.run(&format!("DELETE FROM things WHERE mark = '{mark}'; INSERT INTO things (id) VALUES (1), (2)")).await?;
        self.checks().await?;
        self.commit().await?;
        let own = self.identity.tenant().name;
        self.finds("SELECT string_agg(DISTINCT tenant || split_part(mark, '-', 1), ',') FROM things", &own.repeat(2))
            .await
    }

    async fn fails(&mut self) -> Outcome {
        self.begin().await?;
        self.sets_mark("application_name", false).await?;
        self.is_refused("SELECT 1/0", "22012").await?;
        self.is_refused("SELECT 1", "25P02").await?;
        self.roll_back().await
    }

    async fn cancels(&mut self) -> Outcome {
        self.sets_mark("mark.own", false).await?;
        let cancel = self.client.cancel_token();
        let slow = self.identity.text("SELECT pg_sleep(0.02), count(*) FROM rows");
        let (outcome, ()) = tokio::join!(self.client.batch_execute(&slow), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let _ = cancel.cancel_query(NoTls).await;
        });
        if let Err(error) = outcome
            && error.code().is_none_or(|code| code.code() != "57014")
        {
            return Err(error.into());
        }
        self.checks_after_cancel().await
    }

    async fn times_out(&mut self) -> Outcome {
        self.begin().await?;
        self.sets_mark("mark.own", false).await?;
        self.is_refused("SET LOCAL statement_timeout = 5; SELECT pg_sleep(1)", "57014").await?;
        self.roll_back().await
    }

    /// Of the session's own timeout, which is to strike nobody else.
    async fn times_out_at_once(&mut self) -> Outcome {
        self.run("SET statement_timeout = 60").await?;
        self.is_refused("SELECT pg_sleep(1)", "57014").await?;
        // That may take longer itself.
        while let Err(error) = self.client.batch_execute(&self.identity.text("RESET statement_timeout")).await {
            if error.code().is_none_or(|code| code.code() != "57014") {
                return Err(error.into());
            }
        }
        self.checks().await
    }

    /// What the text does not show lasts no longer than its message.
    async fn hides(&mut self) -> Outcome {
        let other = TENANTS[(self.identity.tenant + 1) % TENANTS.len()].name;
        let block = match self.random.below(3) {
            0 => format!("DO $$ BEGIN PERFORM set_config('app.tenant', '{other}', false); END $$"),
            1 => format!("DO $$ BEGIN SET search_path = '{other}'; SET timezone = 'UTC'; SET ROLE NONE; END $$"),
            _ => "SELECT strays()".to_owned(),
        };
        if self.identity.tenant().strict {
            return self.is_refused(&block, "42501").await;
        }
        self.tarries = true;
        self.run(&block).await?;
        self.checks().await?;
        self.begin().await?;
        self.run(&block).await?;
        self.checks().await?;
        self.run("SAVEPOINT s").await?;
        self.run(&block).await?;
        self.run("ROLLBACK TO s").await?;
        self.checks().await?;
        if self.random.one_in(2) { self.commit().await } else { self.roll_back().await }
    }

    async fn is_refused_its_tenants_settings(&mut self) -> Outcome {
        const REFUSED: [&str; 9] = [
            "SET app.tenant = 'beta'",
            "SET LOCAL search_path = beta",
            "SELECT set_config('app.second', 'x', true)",
            "SET TIME ZONE 'UTC'",
            "RESET work_mem",
            "SET ROLE NONE",
            "RESET ALL",
            "DISCARD ALL",
            "SET SESSION AUTHORIZATION DEFAULT",
        ];
        let sql = REFUSED[self.random.below(REFUSED.len() as u64) as usize];
        if self.random.one_in(2) {
            self.is_refused(sql, "42501").await?;
            return self.checks().await;
        }
        self.begin().await?;
        self.sets_mark("mark.own", false).await?;
        self.is_refused(sql, "42501").await?;
        self.is_refused("SELECT 1", "25P02").await?;
        self.roll_back().await
    }

    async fn makes_settings(&mut self) -> Outcome {
        for _ in 0..=self.random.below(3) {
            self.makes_a_setting().await?;
        }
        self.checks().await
    }

    async fn makes_settings_in_a_transaction(&mut self) -> Outcome {
        self.begin().await?;
        for _ in 0..=self.random.below(5) {
            match self.random.below(6) {
                0 => {
                    self.run("SAVEPOINT s").await?;
                    self.model.begin();
                }
                1 if self.model.has_savepoint() => {
                    self.run("ROLLBACK TO s").await?;
                    self.model.roll_back_to();
                }
                2 if self.model.has_savepoint() => {
                    self.run("RELEASE s").await?;
                    self.model.release();
                }
                _ => self.makes_a_setting().await?,
            }
            if self.random.one_in(3) {
                self.checks().await?;
            }
        }
        self.checks().await?;
        if self.random.one_in(2) { self.commit().await } else { self.roll_back().await }
    }

    /// One of its own, in one of the ways.
    async fn makes_a_setting(&mut self) -> Outcome {
        let style = self.identity.tenant().style;
        let own = format!("mark.c{}", self.identity.number);
        let (name, value) = match self.random.below(style.len() as u64 + 3) as usize {
            at if at < style.len() => (style[at].0.to_owned(), style[at].1.to_owned()),
            at => (["application_name", "mark.own", &own][at - style.len()].to_owned(), self.new_mark()),
        };
        match self.random.below(7) {
            0 => self.run(&format!("SET {name} = '{value}'")).await?,
            1 => self.run(&format!("SET SESSION {name} TO '{value}'")).await?,
            2 => self.run(&format!("SELECT set_config('{name}', '{value}', false)")).await?,
            way @ (3 | 4) => {
                let [set, config] =
                    [format!("SET LOCAL {name} = '{value}'"), format!("SELECT set_config('{name}', '{value}', true)")];
                self.run(if way == 3 { &set } else { &config }).await?;
                self.model.set_local(&name, &value);
                return Ok(());
            }
            way => {
                self.run(&if way == 5 { format!("RESET {name}") } else { format!("SET {name} TO DEFAULT") }).await?;
                self.model.reset(&name);
                return Ok(());
            }
        }
        self.model.set(&name, &value);
        Ok(())
    }

    fn new_mark(&mut self) -> String {
        format!("{}-{}", self.identity.mark(), self.random.below(1_000_000))
    }

    async fn sets_mark(&mut self, name: &str, local: bool) -> Outcome {
        let mark = self.new_mark();
        self.run(&format!("SET {} {name} = '{mark}'", if local { "LOCAL" } else { "SESSION" })).await?;
        if local {
            self.model.set_local(name, &mark)
        } else {
            self.model.set(name, &mark)
        }
        Ok(())
    }

    /// Into tables with a trigger, a default or a rule that change what is held for the tenant.
    async fn writes_what_strays(&mut self) -> Outcome {
        let transaction = self.random.one_in(2);
        if transaction {
            self.begin().await?;
        }
        match self.random.below(3) {
            0 => {
                let mark = self.new_mark();
                self.run(&format!("INSERT INTO triggered VALUES ('{mark}')")).await?;
                self.model.set("mark.trigger", &mark);
            }
            1 => self.run("INSERT INTO defaulted (id) VALUES (1)").await?,
            _ => self.run("INSERT INTO ruled VALUES (1)").await?,
        }
        self.checks().await?;
        match transaction {
            true if self.random.one_in(2) => self.roll_back().await,
            true => self.commit().await,
            false => Ok(()),
        }
    }

    async fn calls_what_has_settings(&mut self) -> Outcome {
        match self.identity.tenant().strict {
            true => self.is_refused("SELECT elsewhere()", "42501").await?,
            false => self.finds("SELECT elsewhere()", "beta").await?,
        }
        self.checks().await
    }

    /// Statements that follow each other without waiting for an answer.
    async fn sends_much_at_once(&mut self) -> Outcome {
        let (name, mark, asks) = (self.identity.tenant().name, self.new_mark(), asks_everything(self.identity.number));
        let text = |sql: &str| self.identity.text(sql);
        let [set, insert, whose] = [
            text(&format!("SET mark.own = '{mark}'")),
            text(&format!("INSERT INTO triggered VALUES ('{mark}')")),
            text("SELECT name || $1 FROM whose"),
        ];
        let (asks, local) = (text(&asks), text("SET LOCAL application_name = 'mine'"));
        self.notes(&format!("{set}; {insert}; …"));
        let client = &self.client;
        let begin = if self.random.one_in(2) { "BEGIN" } else { "SELECT 1" };
        let (begun, set, local, written, whose, asked, ended) = tokio::join!(
            client.batch_execute(begin),
            client.batch_execute(&set),
            client.batch_execute(&local),
            client.batch_execute(&insert),
            client.query_typed(&whose, &[(&"!", tokio_postgres::types::Type::TEXT)]),
            client.query_typed(&asks, &[]),
            client.batch_execute("COMMIT"),
        );
        [begun, set, local, written].into_iter().collect::<Result<(), _>>()?;
        assert_eq!(whose?[0].get::<_, String>(0), format!("{name}!"));
        self.model.begin();
        self.model.set("mark.own", &mark);
        self.model.set("mark.trigger", &mark);
        let own_name = self.model.seen().get("application_name").cloned();
        if begin == "BEGIN" {
            self.model.set_local("application_name", "mine");
        }
        assert_eq!(asked?[0].get::<_, String>(0), self.expected(self.identity.tenant()));
        ended?;
        self.model.commit();
        assert_eq!(self.model.seen().get("application_name"), own_name.as_ref());
        self.checks().await
    }

    async fn fetches(&mut self) -> Outcome {
        let name = self.identity.tenant().name;
        let hold = self.random.one_in(3);
        self.begin().await?;
        let declare = if hold { "CURSOR WITH HOLD" } else { "CURSOR" };
        let query = "SELECT rows.tenant || whose.name FROM rows, whose";
        self.run(&format!("DECLARE mark{} {declare} FOR {query}", self.identity.number)).await?;
        self.holds[2] = format!("mark{}", self.identity.number);
        let fetch = format!("FETCH 1 FROM {}", self.holds[2]);
        self.finds(&fetch, &name.repeat(2)).await?;
        self.checks().await?;
        if !hold {
            self.holds[2].clear();
            return self.commit().await;
        }
        self.commit().await?;
        self.finds(&fetch, &name.repeat(2)).await?;
        self.run(&format!("CLOSE {}", self.holds[2])).await?;
        self.holds[2].clear();
        self.checks().await
    }

    async fn makes_temporary_tables(&mut self) -> Outcome {
        let table = format!("mine_{}", self.identity.number);
        if self.random.one_in(2) {
            self.begin().await?;
            self.run(&format!("CREATE TEMP TABLE {table} ON COMMIT DROP AS SELECT tenant FROM rows")).await?;
            self.holds[0] = table;
            self.checks().await?;
            self.holds[0].clear();
            return self.commit().await;
        }
        self.run(&format!("CREATE TEMP TABLE {table} AS SELECT tenant FROM rows")).await?;
        self.holds[0] = table.clone();
        self.checks().await?;
        let name = self.identity.tenant().name;
        self.finds(&format!("SELECT string_agg(DISTINCT tenant, ',') FROM {table}"), name).await?;
        let drops = if self.random.one_in(2) { "DISCARD TEMP".to_owned() } else { format!("DROP TABLE {table}") };
        self.run(&drops).await?;
        self.holds[0].clear();
        self.checks().await
    }

    async fn locks(&mut self) -> Outcome {
        let key = 1000 + self.identity.number;
        if self.random.one_in(2) {
            self.begin().await?;
            self.run(&format!("SELECT pg_advisory_xact_lock({key})")).await?;
            self.holds[1] = key.to_string();
            self.checks().await?;
            self.holds[1].clear();
            return self.roll_back().await;
        }
        self.run(&format!("SELECT pg_advisory_lock({key})")).await?;
        self.holds[1] = key.to_string();
        self.checks().await?;
        self.run(&format!("SELECT pg_advisory_unlock({key})")).await?;
        self.holds[1].clear();
        self.checks().await
    }

    /// Statements under names that all clients use.
    async fn prepares(&mut self) -> Outcome {
        let (name, mark) = (self.identity.tenant().name, self.new_mark());
        let prepare = self.identity.text(&format!("PREPARE mine AS SELECT name || '{mark}' FROM whose"));
        self.say(&prepare).await?;
        self.finds("EXECUTE mine", &format!("{name}{mark}")).await?;
        let mut texts: Vec<_> = self.prepared().into_iter().collect();
        texts.push(prepare);
        let list = "SELECT string_agg(statement, E'\\n' ORDER BY from_sql, statement) FROM pg_prepared_statements";
        self.finds(list, &texts.join("\n")).await?;
        self.checks().await?;
        if self.random.one_in(2) {
            self.run("DEALLOCATE mine").await?;
        } else {
            self.run("DEALLOCATE ALL").await?;
            self.forgets_prepared();
        }
        self.checks().await
    }

    /// What a constant means is settled when its statement is prepared, by its client's settings.
    async fn reads_constants(&mut self) -> Outcome {
        let style = self.identity.tenant().style[0].1;
        if self.random.one_in(2) {
            self.run(&format!("SET datestyle = '{style}'")).await?;
            self.model.set("datestyle", style);
        } else {
            self.run("RESET datestyle").await?;
            self.model.reset("datestyle");
        }
        let date = self.identity.text("SELECT date '01/02/03' - date '2000-01-01'");
        self.notes(&date);
        let row = self.client.query_one(&date, &[]).await?;
        let style = self.model.seen().get("datestyle").map_or("ISO, MDY", String::as_str);
        let expected =
            [("DMY", 1127), ("MDY", 1097), ("YMD", 399)].into_iter().find(|(order, _)| style.ends_with(order));
        assert_eq!((style, Some(row.get(0))), (style, expected.map(|(_, days)| days)));
        self.checks().await
    }

    /// Its own values of sequences, or none.
    async fn counts(&mut self) -> Outcome {
        let current = self.identity.text("SELECT currval('counted')");
        self.notes(&current);
        match self.client.query_typed(&current, &[]).await {
            Ok(rows) => assert_eq!(Some(rows[0].get(0)), self.counted),
            Err(error) if error.code().is_some_and(|code| code.code() == "55000") => {}
            Err(error) => return Err(error.into()),
        }
        self.tarries = true;
        self.begin().await?;
        let next = self.value("SELECT nextval('counted')").await?;
        self.finds("SELECT currval('counted')", &next).await?;
        self.counted = next.parse().ok();
        self.commit().await
    }

    async fn listens(&mut self) -> Outcome {
        let channel = format!("mark_{}", self.identity.number);
        self.run(&format!("LISTEN {channel}")).await?;
        self.run(&format!("NOTIFY {channel}, 'x'")).await?;
        self.finds("SELECT string_agg(c, ',') FROM pg_listening_channels() AS c", &channel).await?;
        self.run("UNLISTEN *").await?;
        self.finds("SELECT string_agg(c, ',') FROM pg_listening_channels() AS c", "NULL").await
    }

    /// Who may say for whom it works may do so for another tenant, with its own settings and that one's.
    async fn works_for_another(&mut self) -> Outcome {
        let other = &TENANTS[(self.identity.tenant + 1) % TENANTS.len()];
        let asks = asks_everything(self.identity.number);
        match self.identity.by {
            By::Login => {
                let local = format!("BEGIN; SET LOCAL pgweir.tenant = '{}'; {asks}", other.name);
                let found = self.value(&local).await?;
                assert_eq!(found, self.expected(other));
                self.say("COMMIT").await?;
            }
            By::Comment => {
                let found = try_value(&self.client, &self.identity.text_of(&asks, other)).await?;
                assert_eq!(found, self.expected(other));
            }
            By::Setting => {
                self.say(&format!("SET pgweir.tenant = '{}'", other.name)).await?;
                self.finds(&asks, &self.expected(other)).await?;
                self.sets_mark("mark.own", false).await?;
                self.say(&self.identity.names_tenant()).await?;
            }
        }
        self.checks().await
    }
}
