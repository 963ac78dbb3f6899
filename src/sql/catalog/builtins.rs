//! PostgreSQL's own functions, judged by hand, because `pg_proc.provolatile` misleads both ways:
//! `txid_current()` is STABLE and fails on a standby, `random()` is VOLATILE and harmless.
//!
//! [`TAINTED`] is known to be wrong on a standby and holds also before a catalog is loaded. Beyond it, a
//! built-in is harmless only if it is IMMUTABLE, or listed in [`HARMLESS_VOLATILE`] or in
//! `builtin_stable.txt` (the STABLE functions of PostgreSQL 15 without the tainted ones, and later ones that
//! were looked at). So a newer server's unknown functions err to the primary.

use std::collections::HashSet;

use super::rows::BuiltinRow;
use super::{Catalog, Lent, PG_CATALOG, Signature, Taint, TaintedFunction};
use crate::sql::{Effects, Reason};

const STATE: Effects = Effects::STATE;
const NONE: Effects = Effects::NONE;
const SHOWS_STATEMENTS: Effects = Effects::STATEMENTS.with(Effects::SHOWS_STATEMENTS);

/// Reason, effects and names of the built-ins that must not run on a standby. A name may end in `*`.
const TAINTED: &[(Reason, Effects, &[&str])] = &[
    // Advance or depend on a sequence; `currval` and `lastval` live in one server connection.
    (Reason::Sequence, NONE, &["nextval", "setval"]),
    (Reason::Sequence, Effects::READS_SEQUENCES, &["currval", "lastval"]),
    (Reason::Sequence, NONE, &["pg_sequence_last_value", "pg_get_sequence_data"]),
    // Locks of the primary are not seen on a standby and the other way round. Session locks are state.
    (
        Reason::AdvisoryLock,
        STATE.with(Effects::PINS),
        &["pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"],
    ),
    (Reason::AdvisoryLock, STATE, &["pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all"]),
    (
        Reason::AdvisoryLock,
        NONE,
        &[
            "pg_advisory_xact_lock",
            "pg_advisory_xact_lock_shared",
            "pg_try_advisory_xact_lock",
            "pg_try_advisory_xact_lock_shared",
        ],
    ),
    // Assign a transaction id (25006 on a standby), or answer from the standby's own counters.
    (Reason::FunctionWrites, NONE, &["txid_current", "pg_current_xact_id", "pg_export_snapshot", "pg_nextoid"]),
    (
        Reason::ServerState,
        NONE,
        &[
            "txid_current_if_assigned",
            "pg_current_xact_id_if_assigned",
            "txid_current_snapshot",
            "pg_current_snapshot",
            "txid_status",
            "pg_xact_status",
            "pg_xact_commit_timestamp*",
            "pg_last_committed_xact",
            "pg_get_multixact_members",
        ],
    ),
    // Change the session. `setseed` can't be read back or reset.
    (Reason::SessionState, STATE, &["set_config"]),
    (Reason::SessionState, STATE.with(Effects::STICKY).with(Effects::PINS), &["setseed"]),
    // Run SQL, given as text that the classifier doesn't read.
    (
        Reason::RunsText,
        STATE.with(Effects::MAYBE_DDL).with(Effects::HIDDEN),
        &[
            "query_to_xml*",
            "cursor_to_xml*",
            "ts_stat",
            "ts_rewrite",
            "table_to_xml*",
            "schema_to_xml*",
            "database_to_xml*",
        ],
    ),
    // Name a type in such a text.
    (
        Reason::RunsText,
        STATE.with(Effects::MAYBE_DDL),
        &[
            "domain_in",
            "domain_recv",
            "array_in",
            "array_recv",
            "record_in",
            "record_recv",
            "range_in",
            "range_recv",
            "multirange_in",
            "multirange_recv",
            "pg_input_is_valid",
            "pg_input_error_info",
        ],
    ),
    // Large objects: write, or hand out descriptors that live in one transaction.
    (Reason::LargeObject, STATE, &["lo_open", "lo_close"]),
    (Reason::LargeObject, NONE, &["lo_*", "loread", "lowrite"]),
    // Act on the server, its files, its slots, its statistics or another backend.
    (
        Reason::ServerControl,
        STATE,
        &[
            "pg_replication_origin_session_*",
            "pg_replication_origin_xact_*",
            "binary_upgrade_*",
            "pg_stop_making_pinned_objects",
        ],
    ),
    (
        Reason::ServerControl,
        NONE,
        &[
            "pg_backup_*",
            "pg_start_backup",
            "pg_stop_backup",
            "pg_cancel_backend",
            "pg_terminate_backend",
            "pg_reload_conf",
            "pg_rotate_logfile*",
            "pg_promote",
            "pg_switch_wal",
            "pg_create_*",
            "pg_drop_replication_slot",
            "pg_copy_*",
            "pg_replication_slot_advance",
            "pg_replication_origin_*",
            "pg_sync_replication_slots",
            "pg_logical_*",
            "pg_wal_replay_*",
            "pg_log_*",
            "pg_stat_reset*",
            "pg_stat_clear_snapshot",
            "pg_stat_force_next_flush",
            "pg_clear_*",
            "pg_restore_*",
            "pg_set_*",
            "pg_import_system_collations",
            "pg_extension_config_dump",
            "brin_summarize_*",
            "brin_desummarize_range",
            "gin_clean_pending_list",
            "pg_read_file*",
            "pg_read_binary_file",
            "pg_stat_file",
            "pg_ls_*",
        ],
    ),
    (Reason::ServerControl, Effects::NOTIFIES, &["pg_notify"]),
    (Reason::ServerState, SHOWS_STATEMENTS, &["pg_prepared_statement"]),
    // Answer for this server or this connection.
    (Reason::ServerState, Effects::PROCESS.with(Effects::PINS), &["pg_backend_pid"]),
    (Reason::ServerState, STATE.with(Effects::CHANNELS), &["pg_listening_channels"]),
    (
        Reason::ServerState,
        NONE,
        &[
            "pg_is_in_recovery",
            "pg_is_wal_replay_paused",
            "pg_get_wal_*",
            "pg_last_wal_*",
            "pg_last_xact_replay_timestamp",
            "pg_current_wal_*",
            "pg_current_logfile",
            "pg_walfile_name*",
            "pg_control_checkpoint",
            "pg_control_recovery",
            "pg_control_system",
            "pg_conf_load_time",
            "pg_postmaster_start_time",
            "pg_show_*",
            "pg_settings_get_flags",
            "pg_config",
            "pg_hba_file_rules",
            "pg_ident_file_mappings",
            "pg_available_*",
            "pg_extension_update_paths",
            "pg_get_loaded_modules",
            "inet_server_*",
            "inet_client_*",
            "pg_blocking_pids",
            "pg_safe_snapshot_blocking_pids",
            "pg_isolation_test_session_is_blocked",
            "pg_lock_status",
            "pg_cursor",
            "pg_prepared_xact",
            "pg_notification_queue_usage",
            "pg_my_temp_schema",
            "pg_get_replication_slots",
            "pg_get_backend_memory_contexts",
            "pg_get_process_memory_contexts",
            "pg_get_shmem_allocations*",
            "pg_get_aios",
            "pg_stat_get_*",
            "pg_stat_have_stats",
            "pg_collation_actual_version",
            "pg_database_collation_actual_version",
            "pg_jit_available",
            "current_setting",
        ],
    ),
];

/// VOLATILE, and yet the same on a standby: clocks, chance, sleeping, sizes of files that replication keeps
/// equal, checks of the catalog.
const HARMLESS_VOLATILE: &[&str] = &[
    "amvalidate",
    "array_sample",
    "array_shuffle",
    "bernoulli",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_control_init",
    "pg_database_size",
    "pg_indexes_size",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "random",
    "random_normal",
    "system",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

const HARMLESS_STABLE: &str = include_str!("builtin_stable.txt");

/// PostgreSQL's own views that are harmless although they call a tainted function. `information_schema.tables`
/// asks for the session's temporary schema only to mark its temporary tables, and a session that has such
/// tables is pinned.
pub(super) const HARMLESS_VIEWS: &[&str] = &["tables"];

/// Relations of `pg_catalog` that need no look at their definition.
const TAINTED_RELATIONS: &[(Reason, Effects, &str)] =
    &[(Reason::ServerState, NONE, "pg_settings"), (Reason::ServerState, SHOWS_STATEMENTS, "pg_prepared_statements")];

/// Adds what is known without a database.
pub(super) fn add(catalog: &mut Catalog) {
    for (reason, effects, names) in TAINTED {
        for name in names.iter().filter(|name| !name.ends_with('*')) {
            taint(catalog, name, *reason, *effects);
        }
    }
    for (reason, effects, name) in TAINTED_RELATIONS {
        let taint = Taint { schema: PG_CATALOG, reason: *reason, effects: *effects, lent: Lent::NOTHING };
        catalog.names.entry(name.as_bytes()).relations.push(taint);
    }
}

/// Adds what a server's own list of functions tells.
pub(super) fn add_rows(catalog: &mut Catalog, rows: &[BuiltinRow]) {
    let stable: HashSet<&str> = HARMLESS_STABLE.split_whitespace().collect();
    for row in rows {
        let entry = catalog.names.entry(row.name.as_bytes());
        entry.returns_row |= row.returns_row;
        if !entry.functions.is_empty() {
            continue;
        }
        let harmless = (!row.volatile || HARMLESS_VOLATILE.contains(&row.name.as_str()))
            && (!row.stable || row.volatile || stable.contains(row.name.as_str()));
        match known(&row.name) {
            Some((reason, effects)) => taint(catalog, &row.name, reason, effects),
            None if harmless => {}
            None => taint(catalog, &row.name, Reason::UnknownBuiltin, Effects::STATE),
        }
    }
}

/// The judgement of a name that only a pattern in [`TAINTED`] covers.
fn known(name: &str) -> Option<(Reason, Effects)> {
    let matches = |pattern: &&&str| pattern.strip_suffix('*').is_some_and(|prefix| name.starts_with(prefix));
    TAINTED
        .iter()
        .find(|(_, _, names)| names.iter().any(|p| matches(&p)))
        .map(|(reason, effects, _)| (*reason, *effects))
}

fn taint(catalog: &mut Catalog, name: &str, reason: Reason, effects: Effects) {
    let signature = Signature { schema: PG_CATALOG, least: 0, most: None, arguments: Vec::new() };
    let taint = Taint { schema: PG_CATALOG, reason, effects, lent: Lent::NOTHING };
    catalog.names.entry(name.as_bytes()).functions.push(TaintedFunction { taint, signature });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, volatile: bool, stable: bool) -> BuiltinRow {
        BuiltinRow { name: name.into(), volatile, stable, returns_row: false }
    }

    #[test]
    fn lists_are_sorted_and_do_not_contradict_each_other() {
        let stable: Vec<&str> = HARMLESS_STABLE.split_whitespace().collect();
        assert!(stable.is_sorted() && HARMLESS_VOLATILE.is_sorted());
        let exact: Vec<&str> = TAINTED.iter().flat_map(|(_, _, names)| names.iter().copied()).collect();
        for name in stable.iter().chain(HARMLESS_VOLATILE) {
            assert!(known(name).is_none() && !exact.contains(name), "{name} is listed as harmless and as tainted");
        }
    }

    #[test]
    fn unknown_builtins_of_a_newer_server_err_to_the_primary() {
        let mut catalog = Catalog::empty(1);
        add(&mut catalog);
        let rows = [
            row("pg_brand_new", true, false),
            row("pg_new_stable", false, true),
            row("random", true, false),
            row("to_char", false, true),
            row("pg_stat_get_anything", false, true),
        ];
        add_rows(&mut catalog, &rows);
        let tainted: Vec<bool> = rows.iter().map(|row| catalog.is_tainted("pg_catalog", &row.name)).collect();
        assert_eq!(tainted, [true, true, false, false, true]);
    }
}
