//! A model of the part of PostgreSQL that decides which messages answer which: `PostgresMain` and
//! `SocketBackend` of `tcop/postgres.c`, and `CopyGetData` of `commands/copyfromparse.c`, as of
//! PostgreSQL 15. Statements are of few kinds, each with the SQL that behaves so on a real server:
//! `tests/it/ledger_model.rs` plays the same scripts there.
//!
//! It uses nothing of the crate, so that the unit tests, the integration tests and the fuzz targets
//! can all include it.

/// What a message of the client is, and how it will fare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A simple query of several statements.
    Query(Vec<Statement>),
    /// `false`: of a function that does not exist.
    FunctionCall(bool),
    /// Of the unnamed statement.
    Parse(Statement),
    /// Of the unnamed statement to the unnamed portal.
    Bind,
    DescribeStatement,
    DescribePortal,
    /// Of the unnamed portal, with a limit on rows; 0 is none.
    Execute(u8),
    /// Of a portal that never exists.
    ExecuteNowhere,
    /// Of a statement with a name of its own, and of one that nothing else uses.
    ParseOther,
    CloseOther,
    CloseStatement,
    ClosePortal,
    Flush,
    Sync,
    /// A row, good or bad.
    CopyData(bool),
    CopyDone,
    CopyFail,
    #[allow(dead_code)] // Scripts do without; the integration test ends them with it.
    Terminate,
}

/// A statement, by what it does to the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    Empty,
    Select(u8),
    /// A command without rows.
    Set,
    Notice,
    /// Fails when it is analysed, planned or run.
    FailsInParse,
    FailsInBind,
    FailsInExecute,
    /// Fails when its transaction commits.
    FailsAtCommit,
    Begin,
    Commit,
    Rollback,
    CopyOut,
    /// Fails before the server asks for data.
    CopyInMissing,
    CopyIn,
    /// Fails once the server has asked for data, before it reads any.
    CopyInRefused,
    /// Fails when all data is read.
    CopyInRejected,
}

impl Statement {
    pub const ALL: [Self; 16] = [
        Self::Empty,
        Self::Select(2),
        Self::Set,
        Self::Notice,
        Self::FailsInParse,
        Self::FailsInBind,
        Self::FailsInExecute,
        Self::FailsAtCommit,
        Self::Begin,
        Self::Commit,
        Self::Rollback,
        Self::CopyOut,
        Self::CopyInMissing,
        Self::CopyIn,
        Self::CopyInRefused,
        Self::CopyInRejected,
    ];

    fn has_rows(self) -> bool {
        matches!(self, Self::Select(_) | Self::FailsInBind | Self::FailsInExecute)
    }

    fn ends_transaction(self) -> bool {
        matches!(self, Self::Commit | Self::Rollback)
    }

    /// `IsTransactionStmt`: these are committed by themselves.
    fn controls_transaction(self) -> bool {
        self.ends_transaction() || self == Self::Begin
    }
}

/// A message of the server: its tag, the status byte of `ReadyForQuery` (else 0), and which message
/// of the client it answers, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub status: u8,
    pub answers: usize,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    CarriedOut,
    Failed,
    /// Discarded unread: the server was skipping to a `Sync`.
    Skipped,
    /// Read as part of a `COPY` that waits for data.
    Eaten,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// Of one message, or of those up to a `Sync`; `bool`: of a query of several statements.
    Implicit(bool),
    Block,
    FailedBlock,
}

#[derive(Debug, Clone, Copy)]
struct Portal {
    statement: Statement,
    state: PortalState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortalState {
    /// With so many rows fetched.
    Ready(u8),
    Done,
    /// Its transaction failed.
    Failed,
}

/// Who waits for the data of a `COPY`.
#[derive(Debug, Clone)]
struct CopyIn {
    answers: usize,
    statement: Statement,
    /// The rest of the simple query; `None` for `Execute`.
    rest: Option<Vec<Statement>>,
}

/// The server, which reads a message at a time and answers it at once.
#[derive(Debug)]
pub struct Server {
    transaction: Transaction,
    fails_at_commit: bool,
    unnamed: Option<Statement>,
    portal: Option<Portal>,
    skipping: bool,
    copy_in: Option<CopyIn>,
    /// Extended messages were read after the last `ReadyForQuery`.
    unsynced: bool,
    ended: bool,
    /// The number of the message that is being read.
    number: usize,
    sent: Vec<Frame>,
}

/// An `ErrorResponse` was sent.
struct Failed;

type Fallible = Result<(), Failed>;

impl Default for Server {
    fn default() -> Self {
        Self {
            transaction: Transaction::None,
            fails_at_commit: false,
            unnamed: None,
            portal: None,
            skipping: false,
            copy_in: None,
            unsynced: false,
            ended: false,
            number: 0,
            sent: Vec::new(),
        }
    }
}

impl Server {
    /// The transaction has failed, and with it what the unnamed portal was running.
    #[allow(dead_code)] // The unit tests and the fuzz targets play to no real server.
    pub fn has_leftover_portal(&self) -> bool {
        let over = |portal: &Portal| matches!(portal.state, PortalState::Done | PortalState::Failed);
        self.transaction == Transaction::FailedBlock && self.portal.as_ref().is_some_and(over)
    }

    /// Reads message `number` and gives the answers and what became of it.
    pub fn read(&mut self, number: usize, message: &Message) -> (Vec<Frame>, Outcome) {
        if self.ended {
            return (Vec::new(), Outcome::Skipped);
        }
        self.number = number;
        let outcome = match self.copy_in.take() {
            Some(copy) => self.read_in_copy(copy, message),
            None => self.read_command(message),
        };
        (std::mem::take(&mut self.sent), outcome)
    }

    /// It waits for a command, and nothing that was begun is unfinished.
    pub fn is_settled(&self) -> bool {
        self.copy_in.is_none() && !self.skipping && !self.unsynced
    }

    /// It can be given a command: no `COPY` waits for data.
    pub fn takes_commands(&self) -> bool {
        self.copy_in.is_none() && !self.ended
    }

    /// It has no unnamed statement and no unnamed portal, which a simple query would drop.
    pub fn has_nothing_unnamed(&self) -> bool {
        self.unnamed.is_none() && self.portal.is_none()
    }

    /// The connection is closed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// As `ReadyForQuery` would say.
    pub fn status(&self) -> u8 {
        match self.transaction {
            Transaction::None | Transaction::Implicit(_) => b'I',
            Transaction::Block => b'T',
            Transaction::FailedBlock => b'E',
        }
    }

    fn read_command(&mut self, message: &Message) -> Outcome {
        match message {
            Message::Sync => self.skipping = false,
            Message::Terminate => {
                self.ended = true;
                return Outcome::CarriedOut;
            }
            _ if self.skipping => return Outcome::Skipped,
            _ => {}
        }
        let extended = match message {
            Message::Query(_) | Message::FunctionCall(_) | Message::Sync => false,
            // Accepted and ignored: the client may not know yet that its COPY has failed.
            Message::CopyData(_) | Message::CopyDone | Message::CopyFail => return Outcome::CarriedOut,
            _ => true,
        };
        self.unsynced |= extended && *message != Message::Flush;
        let done = match message {
            Message::Query(statements) => self.query(statements),
            Message::FunctionCall(exists) => self.function_call(*exists),
            Message::Parse(statement) => self.parse(*statement),
            Message::Bind => self.bind(),
            Message::DescribeStatement => self.describe_statement(),
            Message::DescribePortal => self.describe_portal(),
            Message::Execute(limit) => self.execute(*limit),
            Message::ExecuteNowhere => self.fail(),
            Message::ParseOther => self.parse_other(),
            Message::CloseOther => self.closed(),
            Message::CloseStatement => {
                self.unnamed = None;
                self.closed()
            }
            Message::ClosePortal => {
                self.portal = None;
                self.closed()
            }
            Message::Sync => self.finish_command(),
            _ => Ok(()),
        };
        self.after(done, extended)
    }

    /// The end of a turn of `PostgresMain`'s loop.
    fn after(&mut self, done: Fallible, extended: bool) -> Outcome {
        if done.is_err() {
            self.abort();
            self.skipping = extended && self.copy_in.is_none();
        }
        if !extended && self.copy_in.is_none() {
            self.unsynced = false;
            self.send_status(b'Z', self.status());
        }
        if done.is_ok() { Outcome::CarriedOut } else { Outcome::Failed }
    }

    fn query(&mut self, statements: &[Statement]) -> Fallible {
        self.start_command();
        self.unnamed = None;
        let statements: Vec<_> = statements.iter().copied().filter(|s| *s != Statement::Empty).collect();
        if statements.is_empty() {
            self.send(b'I');
            return self.finish_command();
        }
        let several = statements.len() > 1;
        self.run_statements(&statements, several)
    }

    fn run_statements(&mut self, statements: &[Statement], several: bool) -> Fallible {
        for (index, &statement) in statements.iter().enumerate() {
            if self.transaction == Transaction::FailedBlock && !statement.ends_transaction() {
                return self.fail();
            }
            self.start_command();
            if several && self.transaction == Transaction::Implicit(false) {
                self.transaction = Transaction::Implicit(true);
            }
            if matches!(statement, Statement::FailsInParse | Statement::FailsInBind) {
                return self.fail();
            }
            // A query runs in the unnamed portal, which is left behind when it fails.
            self.portal = Some(Portal { statement, state: PortalState::Done });
            let rest = &statements[index + 1..];
            if let Statement::Select(_) | Statement::FailsInExecute = statement {
                self.send(b'T');
            }
            self.run(statement, Some(rest))?;
            if self.copy_in.is_some() {
                return Ok(());
            }
            self.end_statement(statement, rest)?;
        }
        Ok(())
    }

    /// What follows a statement of a simple query that has done its work.
    fn end_statement(&mut self, statement: Statement, rest: &[Statement]) -> Fallible {
        self.portal = None;
        if rest.is_empty() || statement.controls_transaction() {
            self.finish_command()?;
        }
        self.send(b'C');
        Ok(())
    }

    /// Does the work of a statement, up to `CommandComplete`. `rest`: what follows in a simple query.
    fn run(&mut self, statement: Statement, rest: Option<&[Statement]>) -> Fallible {
        match statement {
            Statement::Select(rows) => (0..rows).for_each(|_| self.send(b'D')),
            Statement::Notice => self.send(b'N'),
            Statement::FailsInExecute | Statement::CopyInMissing => return self.fail(),
            Statement::FailsAtCommit => self.fails_at_commit = true,
            Statement::CopyOut => [b'H', b'd', b'c'].into_iter().for_each(|tag| self.send(tag)),
            Statement::Begin => self.begin(),
            Statement::Commit => self.commit()?,
            Statement::Rollback => self.rollback(),
            Statement::CopyInRefused => {
                self.send(b'G');
                return self.fail();
            }
            Statement::CopyIn | Statement::CopyInRejected => {
                self.send(b'G');
                self.copy_in = Some(CopyIn { answers: self.number, statement, rest: rest.map(<[_]>::to_vec) });
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self) {
        match self.transaction {
            Transaction::Block => self.send(b'N'),
            _ => self.transaction = Transaction::Block,
        }
    }

    fn commit(&mut self) -> Fallible {
        match self.transaction {
            Transaction::Block => {}
            Transaction::FailedBlock => {
                self.rollback();
                return Ok(());
            }
            _ => self.send(b'N'),
        }
        self.transaction = Transaction::Implicit(false);
        Ok(())
    }

    fn rollback(&mut self) {
        if !matches!(self.transaction, Transaction::Block | Transaction::FailedBlock) {
            self.send(b'N');
        }
        self.fails_at_commit = false;
        self.transaction = Transaction::Implicit(false);
    }

    fn function_call(&mut self, exists: bool) -> Fallible {
        if self.transaction == Transaction::FailedBlock || !exists {
            return self.fail();
        }
        self.start_command();
        self.send(b'V');
        self.finish_command()
    }

    fn parse(&mut self, statement: Statement) -> Fallible {
        self.start_command();
        self.unnamed = None;
        let failed = self.transaction == Transaction::FailedBlock;
        if failed && !statement.ends_transaction() && statement != Statement::Empty {
            return self.fail();
        }
        if statement == Statement::FailsInParse {
            return self.fail();
        }
        self.unnamed = Some(statement);
        self.send(b'1');
        Ok(())
    }

    fn parse_other(&mut self) -> Fallible {
        self.start_command();
        if self.transaction == Transaction::FailedBlock {
            return self.fail();
        }
        self.send(b'1');
        Ok(())
    }

    fn bind(&mut self) -> Fallible {
        let Some(statement) = self.unnamed else { return self.fail() };
        self.start_command();
        if self.transaction == Transaction::FailedBlock && !statement.ends_transaction() {
            return self.fail();
        }
        if statement == Statement::FailsInBind {
            // The portal was made before the statement was planned, and has nothing in it.
            self.portal = Some(Portal { statement: Statement::Empty, state: PortalState::Failed });
            return self.fail();
        }
        self.portal = Some(Portal { statement, state: PortalState::Ready(0) });
        self.send(b'2');
        Ok(())
    }

    fn describe_statement(&mut self) -> Fallible {
        self.start_command();
        let Some(statement) = self.unnamed else { return self.fail() };
        self.describe(statement, true)
    }

    fn describe_portal(&mut self) -> Fallible {
        self.start_command();
        let Some(portal) = self.portal else { return self.fail() };
        self.describe(portal.statement, false)
    }

    fn describe(&mut self, statement: Statement, parameters: bool) -> Fallible {
        if self.transaction == Transaction::FailedBlock && statement.has_rows() {
            return self.fail();
        }
        if parameters {
            self.send(b't');
        }
        self.send(if statement.has_rows() { b'T' } else { b'n' });
        Ok(())
    }

    fn execute(&mut self, limit: u8) -> Fallible {
        let Some(Portal { statement, state }) = self.portal else { return self.fail() };
        if statement == Statement::Empty {
            self.send(b'I');
            return Ok(());
        }
        self.start_command();
        if self.transaction == Transaction::FailedBlock && !statement.ends_transaction() {
            return self.fail();
        }
        match (statement, state) {
            (_, PortalState::Done | PortalState::Failed) => return self.fail(),
            (Statement::Select(rows), PortalState::Ready(fetched)) => {
                return self.fetch(rows, fetched, limit);
            }
            _ => {}
        }
        self.portal = Some(Portal { statement, state: PortalState::Done });
        self.run(statement, None)?;
        if self.copy_in.is_some() {
            return Ok(());
        }
        if statement.controls_transaction() {
            self.finish_command()?;
        }
        self.send(b'C');
        Ok(())
    }

    fn fetch(&mut self, rows: u8, fetched: u8, limit: u8) -> Fallible {
        let left = rows - fetched;
        let count = if limit == 0 { left } else { left.min(limit) };
        (0..count).for_each(|_| self.send(b'D'));
        let state = PortalState::Ready(fetched + count);
        self.portal = Some(Portal { statement: Statement::Select(rows), state });
        // A limit that is just reached leaves the server in doubt whether there is more.
        self.send(if limit == 0 || count < limit { b'C' } else { b's' });
        Ok(())
    }

    fn closed(&mut self) -> Fallible {
        self.send(b'3');
        Ok(())
    }

    /// `CopyGetData`: what is not a message of `COPY` breaks the connection.
    fn read_in_copy(&mut self, copy: CopyIn, message: &Message) -> Outcome {
        let reader = std::mem::replace(&mut self.number, copy.answers);
        let extended = copy.rest.is_none();
        let done = match message {
            Message::Sync | Message::Flush | Message::CopyData(true) => {
                self.copy_in = Some(copy);
                return Outcome::Eaten;
            }
            Message::CopyDone if copy.statement == Statement::CopyIn => self.end_copy(copy),
            Message::CopyDone | Message::CopyFail | Message::CopyData(false) => self.fail(),
            _ => {
                self.number = reader;
                self.send(b'E');
                self.send(b'E');
                self.ended = true;
                return Outcome::Failed;
            }
        };
        self.after(done, extended);
        Outcome::Eaten
    }

    fn end_copy(&mut self, copy: CopyIn) -> Fallible {
        let Some(rest) = copy.rest else {
            self.send(b'C');
            return Ok(());
        };
        self.end_statement(copy.statement, &rest)?;
        // One that has followed others or is followed by others is one of several.
        self.run_statements(&rest, true)
    }

    fn start_command(&mut self) {
        if self.transaction == Transaction::None {
            self.transaction = Transaction::Implicit(false);
        }
    }

    /// `finish_xact_command`: commits what is not inside a block.
    fn finish_command(&mut self) -> Fallible {
        if let Transaction::Implicit(_) = self.transaction {
            self.portal = None;
            if std::mem::take(&mut self.fails_at_commit) {
                return self.fail();
            }
            self.transaction = Transaction::None;
        }
        Ok(())
    }

    fn abort(&mut self) {
        match self.transaction {
            // Nothing more is undone.
            Transaction::FailedBlock => {}
            Transaction::Block => {
                self.transaction = Transaction::FailedBlock;
                if let Some(portal) = &mut self.portal
                    && matches!(portal.state, PortalState::Ready(_))
                {
                    portal.state = PortalState::Failed;
                }
            }
            _ => {
                self.transaction = Transaction::None;
                self.portal = None;
            }
        }
        self.fails_at_commit = false;
    }

    fn fail(&mut self) -> Fallible {
        self.send(b'E');
        Err(Failed)
    }

    fn send(&mut self, tag: u8) {
        self.send_status(tag, 0);
    }

    fn send_status(&mut self, tag: u8, status: u8) {
        self.sent.push(Frame { tag, status, answers: self.number });
    }
}
