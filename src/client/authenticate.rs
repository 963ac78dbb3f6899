//! The proof that a client is who it says, over its connection (PostgreSQL, "Start-up" and
//! "SASL Authentication"). What is checked is decided in `auth`; this carries the messages.

use super::HandshakeError;
use super::inbound::Inbound;
use crate::auth::scram_server::{Failure, Offer};
use crate::auth::{Accounts, Check, ScramKeys, md5, scram};
use crate::net::tls::ClientTls;
use crate::wire::error::PgError;
use crate::wire::{author, guard};

/// Who wants to be let in.
pub(super) struct Client<'a> {
    /// As it says.
    pub name: &'a str,
    /// The user among those of the configuration, whose name that is, or its beginning.
    pub account: &'a str,
    pub tls: Option<&'a ClientTls>,
}

/// Succeeds once the client has proved to be the user it names. AuthenticationOk is the caller's;
/// a SCRAM exchange leaves its last message in `inbound.out`.
///
/// Errors: 28P01 for a wrong password and an unknown user alike, 28000, 08P01.
pub(super) async fn authenticate(
    inbound: &mut Inbound,
    accounts: &Accounts,
    client: &Client<'_>,
) -> Result<Option<ScramKeys>, HandshakeError> {
    match accounts.check(client.account) {
        Check::Trust => Ok(None),
        Check::Certificate => certificate(client).map(|()| None).map_err(Into::into),
        Check::Md5 { hash, genuine } => md5(inbound, client, &hash, genuine).await.map(|()| None),
        Check::Scram { verifier, genuine, keep_keys } => {
            let end_point = client.tls.and_then(|tls| tls.end_point.clone());
            let keys = scram(inbound, client, Offer::new(verifier, genuine, end_point)).await?;
            Ok(keep_keys.then_some(keys))
        }
    }
}

/// What a wrong password and an unknown user get.
pub(super) fn failed(user: &str) -> PgError {
    PgError::fatal("28P01", format!("password authentication failed for user \"{user}\""))
}

fn certificate(client: &Client<'_>) -> Result<(), PgError> {
    let Some(name) = client.tls.and_then(|tls| tls.common_name.as_deref()) else {
        return Err(PgError::fatal("28000", "connection requires a valid client certificate")
            .hint("Connect with TLS and a certificate (sslcert, sslkey) whose common name is the user's."));
    };
    if name == client.account {
        return Ok(());
    }
    Err(PgError::fatal("28000", format!("certificate authentication failed for user \"{}\"", client.name))
        .detail("The common name of the client certificate is not the user's."))
}

async fn md5(
    inbound: &mut Inbound,
    client: &Client<'_>,
    hash: &md5::Hash,
    genuine: bool,
) -> Result<(), HandshakeError> {
    let salt = rand::random();
    author::authentication_md5(&mut inbound.out, salt);
    let body = inbound.answer().await?;
    let answer = guard::password(&body).map_err(PgError::from)?;
    if hash.accepts(salt, &answer) & genuine { Ok(()) } else { Err(failed(client.name).into()) }
}

async fn scram(inbound: &mut Inbound, client: &Client<'_>, offer: Offer) -> Result<ScramKeys, HandshakeError> {
    let refused = |failure| match failure {
        Failure::WrongPassword => failed(client.name),
        Failure::Protocol(error) => error,
    };
    author::authentication_sasl(&mut inbound.out, offer.mechanisms());
    let body = inbound.answer().await?;
    let (mechanism, first) = guard::sasl_initial_response(&body).map_err(PgError::from)?;
    let first = match first {
        Some(first) => first,
        // SASL lets a client leave its first message out and send it upon an empty challenge.
        None => {
            author::authentication_sasl_continue(&mut inbound.out, "");
            inbound.answer().await?.freeze()
        }
    };
    let (challenge, state) = offer.client_first(&mechanism, &first, &scram::nonce()).map_err(refused)?;
    author::authentication_sasl_continue(&mut inbound.out, &challenge);
    let last = inbound.answer().await?;
    let (signature, keys) = state.client_final(&last).map_err(refused)?;
    author::authentication_sasl_final(&mut inbound.out, &signature);
    Ok(keys)
}
