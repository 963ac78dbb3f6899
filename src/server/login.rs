//! From the startup packet to the first ReadyForQuery (PostgreSQL, "Start-up").

use bytes::BytesMut;
use pgwire::messages::startup::Authentication;
use tokio::io::AsyncWriteExt;

use super::connect::Login;
use super::error::ConnectError;
use super::reply::{ReadError, Replies, Reply};
use crate::auth::scram_client::{AwaitSalt, AwaitSignature, Binding, Proof};
use crate::auth::{md5, scram};
use crate::config::{HostConfig, Secret};
use crate::net::Stream;
use crate::wire::author;
use crate::wire::guard::{self, Malformed};

/// We ask for 3.0. All that 3.2 adds is longer cancel keys, and a server's keys never leave this
/// process, while servers before 9.3.21 and some poolers refuse any other minor version.
const MINOR: u16 = 0;

/// The longest message during login, in bytes: libpq's limit for all but errors is 30,000.
const LONGEST: usize = 64 * 1024;

/// How far a login came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The server has not yet said which proof it wants.
    Unasked,
    Asked,
}

/// What the server told on the way.
#[derive(Default)]
pub(super) struct Session {
    pub pid: i32,
    pub key: Vec<u8>,
    pub parameters: Vec<(String, String)>,
}

pub(super) async fn login(
    stream: &mut Stream,
    host: &HostConfig,
    login: &Login,
    binding: Binding,
) -> Result<Session, (ConnectError, Stage)> {
    let mut dialog = Dialog { stream, host, login, replies: Replies::default(), stage: Stage::Unasked };
    match dialog.run(binding).await {
        Ok(session) => Ok(session),
        Err(error) => Err((error, dialog.stage)),
    }
}

struct Dialog<'a> {
    stream: &'a mut Stream,
    host: &'a HostConfig,
    login: &'a Login,
    replies: Replies,
    stage: Stage,
}

impl<'a> Dialog<'a> {
    async fn run(&mut self, binding: Binding) -> Result<Session, ConnectError> {
        let Login { user, database, parameters, .. } = self.login;
        let own = [("user", user.as_str()), ("database", database.as_str())];
        let others = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.send(|out| author::startup_message(out, MINOR, own.into_iter().chain(others))).await?;
        self.prove(binding).await?;
        self.settle().await
    }

    /// Up to AuthenticationOk.
    async fn prove(&mut self, binding: Binding) -> Result<(), ConnectError> {
        match self.authentication().await? {
            Authentication::Ok => return Ok(()),
            Authentication::CleartextPassword => {
                let password = self.password()?;
                if !self.stream.is_tls() && !self.stream.is_unix() {
                    tracing::debug!(host = %self.host.name, user = %self.login.user, "password sent in plain over an unencrypted connection");
                }
                self.send(|out| author::password_message(out, password)).await?;
            }
            Authentication::MD5Password(salt) => {
                let salt = salt.try_into().map_err(|_| self.protocol("an md5 salt of other than 4 bytes"))?;
                let answer = md5::Hash::of(&self.login.user, self.password()?).answer(salt);
                self.send(|out| author::password_message(out, &answer)).await?;
            }
            Authentication::SASL(mechanisms) => self.prove_by_scram(&mechanisms, binding).await?,
            Authentication::SASLContinue(_) | Authentication::SASLFinal(_) => {
                return Err(self.protocol("a SASL message outside of a SASL exchange"));
            }
            _ => return Err(self.auth("the server asks for an authentication method that pgweir does not have")),
        }
        match self.authentication().await? {
            Authentication::Ok => Ok(()),
            _ => Err(self.protocol("a second request for a proof")),
        }
    }

    /// Up to the server's own proof, which AuthenticationOk must not skip.
    async fn prove_by_scram(&mut self, mechanisms: &[String], binding: Binding) -> Result<(), ConnectError> {
        let proof = match (&self.login.password, &self.login.scram_keys) {
            (Some(password), _) => Proof::Password(password.clone()),
            (None, Some(keys)) => Proof::Keys(keys.clone()),
            (None, None) => return Err(self.no_password()),
        };
        let (first, state) =
            AwaitSalt::start(proof, mechanisms, binding, scram::nonce()).map_err(|failure| self.auth(failure))?;
        self.send(|out| author::sasl_initial_response(out, first.mechanism, &first.message)).await?;

        let Authentication::SASLContinue(challenge) = self.authentication().await? else {
            return Err(self.auth("the server cut the SCRAM exchange short"));
        };
        let (last, state) = self.answer_challenge(state, challenge.to_vec()).await?;
        self.send(|out| author::sasl_response(out, &last)).await?;

        let Authentication::SASLFinal(signature) = self.authentication().await? else {
            return Err(self.auth("the server ended the SCRAM exchange without proving itself"));
        };
        state.server_final(&signature).map_err(|failure| self.auth(failure))
    }

    /// Off the runtime's threads: the server says how long it takes.
    async fn answer_challenge(
        &self,
        state: AwaitSalt,
        challenge: Vec<u8>,
    ) -> Result<(String, AwaitSignature), ConnectError> {
        let answered = tokio::task::spawn_blocking(move || state.server_first(&challenge)).await;
        answered.map_err(|error| self.auth(error))?.map_err(|failure| self.auth(failure))
    }

    /// The next message about authentication; others that may come before it are dealt with.
    async fn authentication(&mut self) -> Result<Authentication, ConnectError> {
        loop {
            let Reply { tag, body } = self.next().await?;
            match tag {
                b'R' => {
                    self.stage = Stage::Asked;
                    return guard::authentication(&body).map_err(|_| match body.first_chunk() {
                        Some(code) => {
                            self.auth(format!("authentication method {} is not known", i32::from_be_bytes(*code)))
                        }
                        None => self.protocol("an empty Authentication message"),
                    });
                }
                b'E' => return Err(self.refused(&body)),
                b'N' => {}
                // We asked for the oldest version and no options: there is nothing to negotiate down.
                b'v' => return Err(self.negotiated(&body)),
                _ => return Err(self.unexpected(tag)),
            }
        }
    }

    /// From AuthenticationOk to ReadyForQuery.
    async fn settle(&mut self) -> Result<Session, ConnectError> {
        let mut session = Session::default();
        loop {
            let Reply { tag, body } = self.next().await?;
            let malformed = |kind: Malformed| self.protocol(kind);
            match tag {
                b'S' => session.parameters.push(guard::parameter_status(&body).map_err(malformed)?),
                b'K' => (session.pid, session.key) = guard::backend_key_data(&body).map_err(malformed)?,
                b'Z' => {
                    guard::ready_for_query(&body).map_err(malformed)?;
                    return Ok(session);
                }
                b'E' => return Err(self.refused(&body)),
                b'N' | b'A' => {}
                b'v' => return Err(self.negotiated(&body)),
                _ => return Err(self.unexpected(tag)),
            }
        }
    }

    async fn next(&mut self) -> Result<Reply, ConnectError> {
        self.replies.next(self.stream, LONGEST).await.map_err(|error| match error {
            ReadError::Io(error) => unreachable(self.host, error),
            ReadError::TooLong { .. } => self.protocol(error),
        })
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut)) -> Result<(), ConnectError> {
        let mut out = BytesMut::new();
        write(&mut out);
        let sent = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|error| unreachable(self.host, error))
    }

    fn password(&self) -> Result<&'a str, ConnectError> {
        self.login.password.as_ref().map(Secret::expose).ok_or_else(|| self.no_password())
    }

    fn no_password(&self) -> ConnectError {
        self.auth("the server asks for a password and none is configured (see server_password)")
    }

    fn refused(&self, body: &[u8]) -> ConnectError {
        let Ok(fields) = guard::error_response(body) else { return self.protocol("a malformed ErrorResponse") };
        let field = |tag| fields.iter().find(|(t, _)| *t == tag).map(|(_, text)| text.clone()).unwrap_or_default();
        ConnectError::Refused {
            host: self.host.name.clone(),
            user: self.login.user.clone(),
            code: field(b'C'),
            message: field(b'M'),
        }
    }

    fn negotiated(&self, body: &[u8]) -> ConnectError {
        match guard::negotiate_protocol_version(body) {
            Ok((version, _)) => self.protocol(format!(
                "asked for protocol 3.{MINOR}, the server wants {}.{}",
                version >> 16,
                version & 0xffff
            )),
            Err(malformed) => self.protocol(malformed),
        }
    }

    fn auth(&self, reason: impl ToString) -> ConnectError {
        let (host, user) = (self.host.name.clone(), self.login.user.clone());
        ConnectError::Auth { host, user, reason: reason.to_string() }
    }

    fn protocol(&self, reason: impl ToString) -> ConnectError {
        ConnectError::Protocol { host: self.host.name.clone(), reason: reason.to_string() }
    }

    fn unexpected(&self, tag: u8) -> ConnectError {
        self.protocol(format!("unexpected message of type '{}'", char::from(tag).escape_default()))
    }
}

fn unreachable(host: &HostConfig, error: std::io::Error) -> ConnectError {
    let reason = match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the server closed the connection during login".to_owned(),
        _ => error.to_string(),
    };
    ConnectError::Unreachable { host: host.name.clone(), reason }
}
