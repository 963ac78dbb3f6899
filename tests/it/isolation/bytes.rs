//! Clients that speak the protocol themselves: batches of several statements, portals, and `COPY`, also cut off.

use crate::isolation::model::Model;
use crate::isolation::scene::asks_everything;
use crate::isolation::visitor::{By, Identity, Lost, Outcome, Random, base, says_lost};
use crate::support::raw::{End, Endpoint, Frame, RawClient};
use crate::support::say;

struct Speaker {
    identity: Identity,
    client: RawClient,
    model: Model,
}

/// A connection of this client that says something of each kind, and is cut.
pub async fn speak(identity: &Identity, mut random: Random) -> Outcome {
    let mut speaker = Speaker::arrive(identity).await?;
    // Who writes nothing here.
    let strict = identity.tenant().strict;
    for _ in 0..3 {
        match random.below(5) {
            0 if !strict => speaker.copies_in().await?,
            0 | 1 => speaker.copies_out().await?,
            2 if !strict => speaker.sends_batches_at_once().await?,
            2 | 3 => speaker.suspends_portals().await?,
            _ => speaker.executes_by_name().await?,
        }
        speaker.checks().await?;
    }
    speaker.leaves(random).await
}

impl Speaker {
    async fn arrive(identity: &Identity) -> Outcome<Self> {
        let scene = &identity.scene;
        let endpoint: Endpoint = scene.stage.endpoint(scene.proxy.port);
        let options = format!("-c pgweir.tenant={}", identity.logs_in_as().name);
        let (client, greeting) = RawClient::start(&endpoint, &[("options", &options)]).await;
        let mut speaker = Self { identity: identity.clone(), client, model: Model::new(base()) };
        if greeting.last().and_then(Frame::status) != Some(b'I') {
            check(&greeting)?;
            panic!("not welcome: {greeting:?}");
        }
        let mark = identity.mark();
        let own = identity.text(&format!("SET mark.own = '{mark}'"));
        if identity.by == By::Setting {
            speaker.ask(&say::query(&identity.names_tenant()), 1).await?;
        }
        speaker.ask(&say::query(&own), 1).await?;
        speaker.model.set("mark.own", &mark);
        Ok(speaker)
    }

    /// Sends what is answered by so many `ReadyForQuery`; gives the values of all rows.
    async fn ask(&mut self, bytes: &[u8], ready: usize) -> Outcome<Vec<String>> {
        let frames = self.exchange(bytes, ready).await?;
        let rows = frames.iter().filter(|frame| frame.tag == b'D');
        Ok(rows.flat_map(Frame::values).map(Option::unwrap_or_default).collect())
    }

    /// The same; gives all frames.
    async fn exchange(&mut self, bytes: &[u8], ready: usize) -> Outcome<Vec<Frame>> {
        /// As often nothing may come for a while: whoever waits for a server connection may wait for long.
        const PATIENCE: usize = 6;
        self.client.send(bytes).await.map_err(|_| Lost)?;
        let mut frames = Vec::new();
        for _ in 0..PATIENCE {
            let answered = frames.iter().filter_map(Frame::status).count();
            let (more, end) = self.client.until_ready(ready - answered).await;
            frames.extend(more);
            check(&frames)?;
            match end {
                Some(End::Closed { .. }) => return Err(Lost),
                Some(End::Silent) => {}
                None => return Ok(frames),
            }
        }
        panic!("no answer, but {frames:?}");
    }

    fn text(&self, sql: &str) -> String {
        self.identity.text(sql)
    }

    fn expected(&self) -> String {
        self.identity.scene.expected(self.identity.tenant(), self.model.seen(), [""; 3])
    }

    async fn checks(&mut self) -> Outcome {
        let found = self.ask(&say::query(&self.text(&asks_everything(self.identity.number))), 1).await?;
        assert_eq!(found, [self.expected()]);
        Ok(())
    }

    async fn copies_in(&mut self) -> Outcome {
        let clear = say::query(&self.text("DELETE FROM things WHERE mark = current_setting('mark.own')"));
        let copy = say::query(&self.text("COPY things (id) FROM STDIN"));
        let data = [copy, say::copy_data("1\n2\n"), say::copy_data("3\n"), say::copy_done()].concat();
        self.ask(&clear, 1).await?;
        self.ask(&data, 1).await?;
        let found =
            say::query(&self.text("SELECT tenant FROM things WHERE mark = current_setting('mark.own') AND id = 3"));
        assert_eq!(self.ask(&found, 1).await?, [self.identity.tenant().name]);
        Ok(())
    }

    async fn copies_out(&mut self) -> Outcome {
        let name = self.identity.tenant().name;
        for sql in ["COPY (SELECT DISTINCT tenant FROM rows) TO STDOUT", "COPY whose TO STDOUT"] {
            let frames = self.exchange(&say::query(&self.text(sql)), 1).await?;
            let data: Vec<_> = frames.iter().filter(|frame| frame.tag == b'd').map(|frame| &frame.body[..]).collect();
            assert_eq!(data, [format!("{name}\n").as_bytes()], "{sql}");
        }
        Ok(())
    }

    /// Several statements to a `Sync`, and what comes behind it in the same write.
    async fn sends_batches_at_once(&mut self) -> Outcome {
        let (name, mark) = (self.identity.tenant().name, format!("{}-batch", self.identity.mark()));
        let asks = self.text(&asks_everything(self.identity.number));
        let whose = self.text("SELECT name FROM whose");
        let bytes = [
            say::run(&self.text("SELECT set_config('mark.own', $1, false)"), &[&mark]),
            say::run(&whose, &[]),
            say::run(&self.text("INSERT INTO triggered VALUES ($1)"), &[&mark]),
            say::sync(),
            say::batch(&asks, &[]),
            say::query("BEGIN"),
            say::batch(&self.text("SET LOCAL datestyle = 'German'"), &[]),
            say::batch(&self.text("INSERT INTO triggered VALUES ($1)"), &[&mark]),
            say::run(&whose, &[]),
            say::run(&asks, &[]),
            say::sync(),
            say::query("COMMIT"),
            say::query(&asks),
        ];
        let found = self.ask(&bytes.concat(), 8).await?;
        self.model.set("mark.own", &mark);
        self.model.set("mark.trigger", &mark);
        let after = self.expected();
        self.model.begin();
        self.model.set_local("datestyle", "German, DMY");
        let within = self.expected();
        self.model.commit();
        assert_eq!(found, [mark.as_str(), name, &after, name, &within, &after]);
        Ok(())
    }

    async fn suspends_portals(&mut self) -> Outcome {
        let name = self.identity.tenant().name;
        let open = [
            say::query("BEGIN"),
            say::parse("", &self.text("SELECT tenant FROM rows")),
            say::bind("own", "", &[]),
            say::execute("own", 1),
            say::sync(),
        ];
        let more = [say::execute("own", 1), say::sync()].concat();
        assert_eq!(self.ask(&open.concat(), 2).await?, [name]);
        assert_eq!(self.ask(&more, 1).await?, [name]);
        self.checks().await?;
        assert_eq!(self.ask(&more, 1).await?, [name]);
        self.ask(&say::query("COMMIT"), 1).await.map(drop)
    }

    /// A name that all clients use, each for a statement of its own.
    async fn executes_by_name(&mut self) -> Outcome {
        let (name, mark) = (self.identity.tenant().name, self.identity.mark());
        let text = self.text(&format!("SELECT name || $1 || '{mark}' FROM whose"));
        self.ask(&[say::close_statement("mine"), say::parse("mine", &text), say::sync()].concat(), 1).await?;
        for _ in 0..3 {
            assert_eq!(self.ask(&say::again("mine", &["!"]), 1).await?, [format!("{name}!{mark}")]);
        }
        Ok(())
    }

    /// In the middle of something.
    async fn leaves(mut self, mut random: Random) -> Outcome {
        let mark = format!("{}-cut", self.identity.mark());
        let copy = [say::query(&self.text("COPY things (id) FROM STDIN")), say::copy_data("7\n8\n")].concat();
        let set = say::query(&self.text(&format!("SET application_name = '{mark}'")));
        let begin = say::query("BEGIN");
        let bytes = match random.below(6) {
            0 => copy,
            1 => [begin, set, copy].concat(),
            2 => [set, say::run(&self.text("SELECT pg_sleep(5)"), &[])].concat(),
            3 => [begin, set, say::run(&self.text("INSERT INTO triggered VALUES ($1)"), &[&mark])].concat(),
            4 => [set, say::batch(&self.text("INSERT INTO triggered VALUES ($1)"), &[&mark])].concat(),
            _ => set[..set.len() / 2].to_vec(),
        };
        self.client.send(&bytes).await.map_err(|_| Lost)?;
        tokio::time::sleep(std::time::Duration::from_micros(random.below(3_000))).await;
        Ok(())
    }
}

/// Fails the test for any error but that of a server connection that is lost.
fn check(frames: &[Frame]) -> Outcome {
    match frames.iter().find_map(Frame::sqlstate) {
        Some(code) if says_lost(&code) => Err(Lost),
        Some(_) => panic!("an error: {frames:?}"),
        None => Ok(()),
    }
}
