//! What an administrator may say.

use super::tables::{self, Table};
use crate::config::limited;
use crate::listener::Door;
use crate::sql::{Word, first_word};
use crate::tenant::Tenant;
use crate::wire::error::PgError;

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Show(Show),
    Pause(String),
    Resume(String),
    Kill(String),
    /// `key = value` as in the configuration.
    Limit(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Tenants,
    Clients,
    Pools,
    Hosts,
    Version,
    Help,
}

/// What came of it.
pub(super) enum Outcome {
    /// The tag of its completion.
    Done(String),
    Rows(Table),
}

const SHOWS: [(&str, Show); 6] = [
    ("TENANTS", Show::Tenants),
    ("CLIENTS", Show::Clients),
    ("POOLS", Show::Pools),
    ("HOSTS", Show::Hosts),
    ("VERSION", Show::Version),
    ("HELP", Show::Help),
];

/// Reads a command; its words know no case, and a tenant's name may be quoted as a name or a string of SQL.
///
/// Errors: 42601, which says what there is.
pub(super) fn parse(text: &str) -> Result<Command, PgError> {
    let (verb, rest) = word(text).ok_or_else(|| unknown(text))?;
    let (object, rest) = word(rest).ok_or_else(|| unknown(text))?;
    let (verb, object) = (verb.to_ascii_uppercase(), object.to_ascii_uppercase());
    if verb == "SHOW" && rest.is_empty() {
        let show = SHOWS.iter().find(|(name, _)| *name == object).map(|(_, show)| Command::Show(*show));
        return show.ok_or_else(|| unknown(text));
    }
    if object != "TENANT" {
        return Err(unknown(text));
    }
    let (name, rest) = tenant_name(rest).ok_or_else(|| unknown(text))?;
    match (&*verb, rest) {
        ("PAUSE", "") => Ok(Command::Pause(name)),
        ("RESUME", "") => Ok(Command::Resume(name)),
        ("KILL", "") => Ok(Command::Kill(name)),
        ("LIMIT", limit) if !limit.is_empty() => Ok(Command::Limit(name, limit.to_owned())),
        _ => Err(unknown(text)),
    }
}

impl Command {
    /// Does it do anything?
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Show(_))
    }

    /// Errors: 42704 for a tenant that there is not, 22023 for a limit that cannot be.
    pub fn run(self, door: &Door) -> Result<Outcome, PgError> {
        match self {
            Self::Show(show) => Ok(Outcome::Rows(match show {
                Show::Tenants => tables::tenants(door),
                Show::Clients => tables::clients(door),
                Show::Pools => tables::pools(door),
                Show::Hosts => tables::hosts(door),
                Show::Version => tables::version(),
                Show::Help => tables::help(),
            })),
            Self::Pause(name) => {
                find(door, &name)?.pause();
                Ok(Outcome::Done("PAUSE".to_owned()))
            }
            Self::Resume(name) => {
                find(door, &name)?.resume();
                Ok(Outcome::Done("RESUME".to_owned()))
            }
            Self::Kill(name) => match door.shared.registry.kill(&name) {
                // It may have left the configuration.
                0 => find(door, &name).map(|_| Outcome::Done("KILL 0".to_owned())),
                killed => Ok(Outcome::Done(format!("KILL {killed}"))),
            },
            Self::Limit(name, limit) => {
                let tenant = find(door, &name)?;
                let limits = limited(&tenant.current_limits(), &limit).map_err(|errors| {
                    PgError::error("22023", format!("invalid limit for tenant \"{name}\": {limit}"))
                        .detail(errors.to_string())
                        .hint("Write it as in the configuration: LIMIT TENANT acme max_clients = 5.")
                })?;
                tenant.limit(limits);
                Ok(Outcome::Done("LIMIT".to_owned()))
            }
        }
    }
}

fn find(door: &Door, name: &str) -> Result<Tenant, PgError> {
    door.snapshot().tenants.named(name).cloned().ok_or_else(|| {
        PgError::error("42704", format!("tenant \"{name}\" does not exist")).hint("SHOW TENANTS names those that do.")
    })
}

/// One that is not quoted, and what follows it.
fn word(text: &str) -> Option<(&str, &str)> {
    match first_word(text)? {
        (Word::Plain(word), rest) => Some((word, rest)),
        (Word::Quoted(_), _) => None,
    }
}

fn tenant_name(text: &str) -> Option<(String, &str)> {
    let (name, rest) = first_word(text)?;
    let name = match name {
        Word::Plain(name) => name.to_owned(),
        Word::Quoted(name) => name,
    };
    Some((name, rest))
}

fn unknown(text: &str) -> PgError {
    PgError::error("42601", format!("syntax error in \"{text}\"")).hint("SHOW HELP tells what pgweir's console knows.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_whatever_their_case() {
        for (text, expected) in [
            ("show tenants", Command::Show(Show::Tenants)),
            ("PAUSE  Tenant acme", Command::Pause("acme".into())),
            ("resume tenant \"Acme Inc\"", Command::Resume("Acme Inc".into())),
            ("KILL TENANT Acme", Command::Kill("Acme".into())),
            ("KILL TENANT\"a\"\"b;c\"", Command::Kill("a\"b;c".into())),
            ("PAUSE TENANT 'it''s' -- x", Command::Pause("it's".into())),
            (
                "LIMIT TENANT acme statement_timeout = \"5s\"",
                Command::Limit("acme".into(), "statement_timeout = \"5s\"".into()),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "SHOW",
            "SHOW x",
            "SHOW TENANTS x",
            "PAUSE",
            "PAUSE TENANT",
            "PAUSE TENANT a b",
            "LIMIT TENANT a",
            "PAUSE TENANT \"a",
            "PAUSE TENANT \"a\" b",
            "PAUSE \"TENANT\" a",
            "SELECT 1",
        ] {
            assert_eq!(parse(text).unwrap_err().code, "42601", "{text}");
        }
    }
}
