//! What a session says in its own name: errors, and the replies to messages that no server saw.

use std::time::Duration;

use bytes::BufMut;

use super::state::CONSISTENCY;
use super::switching::TENANT;
use crate::config::Consistency;
use crate::net::buffer::WriteBuffer;
use crate::pool::AcquireError;
use crate::sql::{Borrowed, Loan};
use crate::wire::author;
use crate::wire::error::PgError;
use crate::wire::frame::backend;

/// `ReadyForQuery`, idle: only when no server owes anything and no transaction is open.
pub(super) fn ready(out: &mut WriteBuffer) {
    author::ready_for_query(out.bytes(), b'I');
}

pub(super) fn close_complete(out: &mut WriteBuffer) {
    out.bytes().put_slice(&[backend::CLOSE_COMPLETE, 0, 0, 0, 4]);
}

/// PostgreSQL's own words (`FetchPreparedStatement`).
pub(super) fn no_such_statement(name: &[u8]) -> PgError {
    PgError::error("26000", format!("prepared statement \"{}\" does not exist", lossy(name)))
}

/// PostgreSQL's own words (`exec_execute_message`).
pub(super) fn transaction_is_aborted() -> PgError {
    PgError::error("25P02", "current transaction is aborted, commands ignored until end of transaction block")
}

/// PostgreSQL's own words, and the function by which drivers know them (`RevalidateCachedQuery`).
pub(super) fn rows_have_changed() -> PgError {
    PgError::error("0A000", "cached plan must not change result type").routine("RevalidateCachedQuery")
}

/// PostgreSQL's own words (`StorePreparedStatement`).
pub(super) fn statement_exists(name: &[u8]) -> PgError {
    PgError::error("42P05", format!("prepared statement \"{}\" already exists", lossy(name)))
}

pub(super) fn statement_too_long(len: usize) -> PgError {
    let limit = super::request::LONGEST_WHOLE;
    PgError::error("54000", "prepared statement is too long")
        .detail(format!("Its message has {len} bytes; that of a statement with a name may have {limit}."))
        .hint("Use the unnamed statement, or send the text as a simple query.")
}

pub(super) fn unnamed_too_long() -> PgError {
    let limit = super::request::LONGEST_WHOLE;
    PgError::error("54000", "the unnamed statement is too long to be kept beyond its batch")
        .detail(format!("Up to {limit} bytes are kept, for use on another server connection."))
        .hint("Send Parse, Bind and Execute before the next Sync, or within one transaction.")
}

pub(super) fn too_many_statements(bytes: usize, limit: usize) -> PgError {
    PgError::error("53200", "too many prepared statements")
        .detail(format!("This connection's statements would take {bytes} bytes; the limit is {limit}."))
        .hint("Close statements that are no longer needed, or raise the driver's reuse of them.")
}

/// A statement that would do the wrong thing on the replica where its transaction is.
pub(super) fn not_on_a_replica(reason: &str) -> PgError {
    PgError::error("0A000", "this statement cannot run in a read-only transaction that was routed to a replica")
        .detail(format!("Reason: {reason}."))
        .hint("Begin the transaction with READ WRITE, or with the comment /* pgweir: primary */.")
}

pub(super) fn no_transactions() -> PgError {
    PgError::error("0A000", "transactions are not allowed in statement pooling mode")
        .hint("Use pool mode \"transaction\" for this database.")
}

pub(super) fn acquire(error: &AcquireError, host: &str) -> PgError {
    match error {
        AcquireError::Timeout { waited, size } => PgError::error("53300", "no server connection became free in time")
            .detail(format!(
                "Waited {:.1} s in the queue; all {size} server connections to {host} are in use.",
                waited.as_secs_f64()
            ))
            .hint("Make transactions shorter, or raise size or queue_timeout of the pool."),
        AcquireError::QueueFull { waited, limit, of_tenant } => {
            let (whose, of_whom, keys) = match of_tenant {
                true => ("the tenant's", "", "queue_length of the tenant or of its tier"),
                false => ("the pool's", " of the tenant that has most there", "queue_length of the pool"),
            };
            PgError::error("53300", "too many clients wait for a server connection")
                .detail(format!(
                    "Waited {:.1} s in {whose} queue to {host}, the closest to its queue_timeout{of_whom}; {limit} may wait.",
                    waited.as_secs_f64()
                ))
                .hint(format!("Try again later, make transactions shorter, or raise {keys}."))
        }
        AcquireError::Connect(error) => error.to_client(),
        AcquireError::Closed => {
            PgError::fatal("57P01", "terminating connection due to a change of configuration").hint("Connect again.")
        }
    }
}

/// The client cancelled while it waited for a server connection.
pub(super) fn cancelled_in_queue() -> PgError {
    PgError::error("57014", "canceling statement due to user request")
        .detail("It was still waiting for a server connection and has not run.")
}

/// The statement, or its transaction, was over its tenant's ceiling. `what`: `statement` or `transaction`.
pub(super) fn over_ceiling(code: &'static str, what: &str, tenant: &str, ceiling: Duration) -> PgError {
    PgError::error(code, format!("canceling statement due to {what} timeout")).detail(of_tenant(tenant, ceiling))
}

/// The transaction was over its tenant's ceiling while nothing ran in it.
pub(super) fn transaction_timeout(tenant: &str, ceiling: Duration) -> PgError {
    PgError::fatal("25P04", "terminating connection due to transaction timeout").detail(of_tenant(tenant, ceiling))
}

/// The transaction has waited for its next statement for longer than its tenant may.
pub(super) fn idle_in_transaction_timeout(tenant: &str, ceiling: Duration) -> PgError {
    PgError::fatal("25P03", "terminating connection due to idle-in-transaction timeout")
        .detail(of_tenant(tenant, ceiling))
}

pub(super) fn of_tenant(tenant: &str, ceiling: Duration) -> String {
    format!("The ceiling of tenant \"{tenant}\" is {} ms.", ceiling.as_millis())
}

/// The server connection was lost.
pub(super) fn server_lost(host: &str, cause: &str, in_transaction: bool) -> PgError {
    let what = if in_transaction {
        "The transaction was rolled back."
    } else {
        "It is not known whether the statement has run."
    };
    PgError::fatal("08006", format!("connection to server {host} was lost"))
        .detail(format!("{cause}. {what}"))
        .hint("Connect again, and check the outcome before you repeat a statement that writes.")
}

/// A client that listens may have missed something.
pub(super) fn notifications_lost(reason: &str) -> PgError {
    PgError::fatal("08006", "notifications may have been missed")
        .detail(format!("{reason}."))
        .hint("Connect and LISTEN again. With lost_notifications = \"notice\" the cluster's clients stay connected.")
}

/// The server sent what could not be assigned to any request.
pub(super) fn server_confused(host: &str, tag: u8) -> PgError {
    PgError::fatal("08P01", format!("unexpected message from server {host}"))
        .detail(format!("A message of type {:?} answers nothing that was asked.", char::from(tag)))
}

/// The session's settings, made elsewhere before, are refused by this server.
pub(super) fn settings_refused(code: &str, message: &str) -> PgError {
    PgError::fatal("08006", "the session's settings cannot be made on a server connection")
        .detail(format!("{message} ({code})"))
        .hint("Check the settings that the application makes, and connect again.")
}

pub(super) fn shutting_down() -> PgError {
    PgError::fatal("57P01", "terminating connection due to administrator command").hint("Connect again.")
}

/// PostgreSQL's words for an enumerated setting (`parse_and_validate_value`).
pub fn unknown_consistency(value: &str) -> PgError {
    let names: Vec<_> = Consistency::NAMES.iter().map(|(name, _)| *name).collect();
    PgError::error("22023", format!("invalid value for parameter \"{CONSISTENCY}\": \"{value}\""))
        .hint(format!("Available values: {}.", names.join(", ")))
}

/// PostgreSQL's own words (`set_config_option`).
pub fn guarded(name: &str, tenant: &str) -> PgError {
    PgError::error("42501", format!("permission denied to set parameter \"{name}\""))
        .detail(format!(
            "It has its value for every session of the tenant \"{tenant}\" (settings in pgweir's configuration)."
        ))
        .hint("Do without the statement: the setting is as it should be.")
}

pub(super) fn guards_replication(tenant: &str) -> PgError {
    PgError::error("42501", "permission denied to start a replication connection")
        .detail(format!("It would see the rows of all tenants, and the sessions of the tenant \"{tenant}\" have settings of their own (settings in pgweir's configuration)."))
        .hint("Replicate as a user who belongs to a tenant without settings, or past pgweir.")
}

/// `held`: the limits.
pub(super) fn holds_replication(tenant: &str, held: &str) -> PgError {
    PgError::error("42501", "permission denied to start a replication connection to a database")
        .detail(format!("It runs SQL, and could not be held to limits of the tenant \"{tenant}\": {held}."))
        .hint("Replicate as a user who belongs to a tenant without them, or past pgweir.")
}

pub(super) fn guards_all(tenant: &str) -> PgError {
    PgError::error("42501", "permission denied to reset all parameters")
        .detail(format!(
            "Some have their values for every session of the tenant \"{tenant}\" (settings in pgweir's configuration)."
        ))
        .hint("Reset the ones that are meant, each by itself, or use DISCARD PLANS, SEQUENCES or TEMP.")
}

pub(super) fn guards_unknown(tenant: &str) -> PgError {
    PgError::error("42501", "permission denied to set a parameter whose name the statement does not show")
        .detail(format!(
            "Some have their values for every session of the tenant \"{tenant}\" (settings in pgweir's configuration)."
        ))
        .hint("Write the name out, as a plain string: set_config('app.name', …).")
}

pub(super) fn guards_code(tenant: &str) -> PgError {
    PgError::error("42501", "permission denied to run or define code that may set parameters")
        .detail(format!(
            "Some have their values for every session of the tenant \"{tenant}\", which is \"strict\": nothing is run for it of \
             which pgweir cannot see that it leaves them alone."
        ))
        .hint("Do without DO, CREATE FUNCTION, functions that set parameters and simple queries of more than 20 KiB, or take \"strict\" from the tenant.")
}

pub(super) fn guards_undone(tenant: &str) -> PgError {
    PgError::error("42501", "permission denied to go on behind the end of a transaction, or ROLLBACK TO, in the same message")
        .detail(format!(
            "Code that this transaction has run may have set what has its value for every session of the tenant \"{tenant}\" \
             (settings in pgweir's configuration), and what ends it, or goes back to a savepoint, may bring that back."
        ))
        .hint("Send what follows in a message of its own: another simple query, or, in the extended protocol, behind a Sync.")
}

/// For strict tenants. `name` is `None` where it may be any.
pub(super) fn guards_unasked(name: Option<&str>, tenant: &str) -> PgError {
    let what = name.map_or_else(|| "any parameter".to_owned(), |name| format!("parameter \"{name}\""));
    PgError::error("42501", format!("permission denied to write where code that runs unasked may set {what}"))
        .detail(format!(
            "A trigger, default, check or rule of this database does so, or a function that it calls, and the tenant \"{tenant}\" \
             is \"strict\": what follows would run under another value than that which its sessions have."
        ))
        .hint("Take set_config() or SET out of that code (a SET clause of the function is undone with it), or take \"strict\" from the tenant.")
}

/// For strict tenants.
pub(super) fn borrows(Borrowed { by, what }: &Borrowed, tenant: &str) -> PgError {
    let reaches = format!("permission denied for \"{by}\", which is or calls a function that");
    match what {
        Loan::Rights => PgError::error("42501", format!("{reaches} is SECURITY DEFINER"))
            .detail(format!("It runs with the rights of its owner, whom policies may not bind, and the tenant \"{tenant}\" is \"strict\"."))
            .hint("Make the function SECURITY INVOKER, have it called by a trigger, a default or a policy, or take \"strict\" from the tenant."),
        Loan::Setting(name) => PgError::error("42501", format!("{reaches} sets parameter \"{name}\""))
            .detail(format!("The parameter has its value for every session of the tenant \"{tenant}\" (settings in pgweir's configuration), which is \"strict\"."))
            .hint(format!("Take the SET clause from the function (ALTER FUNCTION … RESET {name}), or take \"strict\" from the tenant.")),
    }
}

/// PostgreSQL's words for a setting of an extension that does not have it (`find_option`).
pub(super) fn unknown_own_setting(name: &str) -> PgError {
    PgError::error("42602", format!("invalid configuration parameter name \"{name}\""))
        .detail("\"pgweir\" is a reserved prefix.")
        .hint(format!("A session may set \"{CONSISTENCY}\", and \"{TENANT}\" where its user may."))
}

/// PostgreSQL's own words (`set_config_option`).
pub(super) fn may_not_set_tenant() -> PgError {
    PgError::error("42501", format!("permission denied to set parameter \"{TENANT}\"")).hint(
        "Set may_set_tenant = true in the user's entry of pgweir's configuration, or name the tenant at the login.",
    )
}

pub(super) fn transaction_of_another_tenant(now: &str, named: &str) -> PgError {
    PgError::error("25001", format!("the transaction is of the tenant \"{now}\", and cannot become one of \"{named}\""))
        .detail("A transaction, and whatever is sent in one message or before one Sync, is one tenant's: its first statement says whose.")
        .hint("Name the tenant in a comment of the first statement, by SET LOCAL as the first statement, or between two transactions.")
}

pub(super) fn several_tenants() -> PgError {
    PgError::error("25001", "one message names several tenants")
        .detail("A transaction, and whatever is sent in one message, is one tenant's.")
        .hint("Name one tenant, or send several messages.")
}

pub(super) fn tenant_not_named() -> PgError {
    PgError::error("22023", format!("the value of \"{TENANT}\" has to be written out"))
        .hint("SET pgweir.tenant = 'acme', or set_config('pgweir.tenant', 'acme', false).")
}

pub(super) fn unknown_tenant(name: &str) -> PgError {
    PgError::error("22023", format!("invalid value for parameter \"{TENANT}\": \"{name}\""))
        .detail("There is no such tenant.")
        .hint("See [[tenants]] and tenants_query in pgweir's configuration.")
}

pub(super) fn tenant_of_another_place(name: &str, now: &str) -> PgError {
    PgError::error("0A000", format!("a session of the tenant \"{now}\" cannot work for the tenant \"{name}\""))
        .detail("That one has another database, or another cluster.")
        .hint("Connect as the other tenant.")
}

fn lossy(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}
