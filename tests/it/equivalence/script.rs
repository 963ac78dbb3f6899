//! Conversations as data: what to send, and what to wait for before the next piece is sent.

/// A conversation, from its startup packet to `Terminate` (which is sent at the end of each).
#[derive(Debug, Clone)]
pub struct Script {
    pub name: &'static str,
    /// Beside user and database.
    pub startup: Vec<(&'static str, &'static str)>,
    pub steps: Vec<Step>,
    pub compare: Compare,
}

#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// The `n`th frame of this tag since the last step that waited.
    Until {
        tag: u8,
        n: usize,
    },
    /// The server closes the connection.
    Closed,
}

/// What has to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Every byte.
    Bytes,
    /// As [`Self::Bytes`], save the place in the server's source (fields `F`, `L` and `R`) of errors: some
    /// of them pgweir must say itself.
    BytesSaveSource,
    /// The SQLSTATE of the first error, and that the connection ends there. For frames that are not
    /// PostgreSQL's protocol.
    EndAndSqlstate,
}

/// A conversation without a word.
pub fn script(name: &'static str) -> Script {
    Script { name, startup: Vec::new(), steps: Vec::new(), compare: Compare::Bytes }
}

impl Script {
    pub fn startup(mut self, name: &'static str, value: &'static str) -> Self {
        self.startup.push((name, value));
        self
    }

    pub fn compare(self, compare: Compare) -> Self {
        Self { compare, ..self }
    }

    /// Sends these messages with one write.
    pub fn send<const N: usize>(mut self, messages: [Vec<u8>; N]) -> Self {
        self.steps.push(Step::Send(messages.concat()));
        self
    }

    /// Waits for so many `ReadyForQuery`.
    pub fn ready(self, n: usize) -> Self {
        self.until(b'Z', n)
    }

    pub fn until(mut self, tag: u8, n: usize) -> Self {
        self.steps.push(Step::Until { tag, n });
        self
    }

    pub fn closed(mut self) -> Self {
        self.steps.push(Step::Closed);
        self
    }

    /// A simple query and its answer.
    pub fn query(self, sql: &str) -> Self {
        self.send([super::say::query(sql)]).ready(1)
    }

    /// A batch of the unnamed statement and its answer.
    pub fn batch(self, sql: &str, values: &[&str]) -> Self {
        self.send([super::say::batch(sql, values)]).ready(1)
    }

    /// How many bytes it sends.
    pub fn length(&self) -> usize {
        self.steps.iter().map(|step| if let Step::Send(bytes) = step { bytes.len() } else { 0 }).sum()
    }
}
