//! Settings that a tenant's sessions have and may not change ([`Tier::settings`]), such as those that policies of row-level
//! security read. They are made like those of the client's own startup packet, in the same write as its bytes, and
//! whatever would change one is refused before it is sent.
//!
//! What a text does not show may change one all the same (`DO`, functions): until the next message within the transaction,
//! and no further. A message that undoes what made it again, by the end of the transaction or `ROLLBACK TO`, does not go on
//! behind that. For tenants that are `strict` that is refused too, and so is what runs with the rights of somebody else, or
//! under other values of these settings ([`borrows`]).

use std::cell::OnceCell;

use xxhash_rust::xxh3::xxh3_64;

use super::intake::{may_call, may_reach};
use super::ledger::Status;
use super::state::SEARCH_PATH;
use super::statements::Unnamed;
use super::{Leased, Session, refusal};
use crate::config::Tier;
use crate::sql::{
    Borrowed, Effects, Reason, Scope, SettingNames, Undone, Verdict, borrows, mentions, prepared_names, setting_names,
};
use crate::wire::error::PgError;
use crate::wire::view::BindHead;

impl Session {
    /// Before a statement is sent, whatever it is. `unknown`: what the functions that it may call do as far as anybody knows
    /// while the catalog is being read; `implied`: it may run code that it does not name (triggers, defaults), which those
    /// have allowed who made it, save what it sets by name where the tenant is strict.
    ///
    /// Errors: 42501.
    pub(super) fn guard(
        &mut self,
        text: &[u8],
        verdict: Verdict,
        unknown: Effects,
        implied: bool,
    ) -> Result<(), PgError> {
        let limits = &self.tenant.limits;
        if limits.settings.is_empty() {
            return Ok(());
        }
        let names = OnceCell::new();
        let names = || names.get_or_init(|| setting_names(text));
        let hides = implied || !unknown.is_empty() || hides(verdict, names);
        // Others may change the schema at any time: what was harmless before that is not refused for it.
        let is_known = || {
            !(may_call(text, verdict) || may_reach(text, verdict, &self.catalog))
                || self.group.last_catalog().is_loaded()
        };
        let was_harmless = || !unknown.contains(Effects::HIDDEN) && is_known();
        let code = (limits.strict && !unknown.is_empty() && !was_harmless()).then_some(Touches::Code);
        let unasked = implied.then(|| self.set_unasked(text, verdict)).flatten();
        let touches = guarded(limits, text, verdict, names).or(code).or(unasked);
        let error = match touches.or_else(|| self.borrows(text, verdict).map(Touches::Borrowed)) {
            None => {
                self.state.guards.hides(hides);
                return Ok(());
            }
            Some(Touches::Named(name)) => refusal::guarded(&name, &self.tenant.name),
            Some(Touches::All) => refusal::guards_all(&self.tenant.name),
            Some(Touches::Unknown) => refusal::guards_unknown(&self.tenant.name),
            Some(Touches::Code) => refusal::guards_code(&self.tenant.name),
            Some(Touches::Unasked(name)) => refusal::guards_unasked(name.as_deref(), &self.tenant.name),
            Some(Touches::Borrowed(borrowed)) => refusal::borrows(&borrowed, &self.tenant.name),
        };
        Err(self.guarded(error))
    }

    /// Are there any for its tenant?
    pub(super) fn has_held_settings(&self) -> bool {
        !self.tenant.limits.settings.is_empty()
    }

    /// Where the tenant is strict: does it reach a function that lends it something, as the catalog was read last?
    fn borrows(&self, text: &[u8], verdict: Verdict) -> Option<Borrowed> {
        let limits = &self.tenant.limits;
        if !limits.strict {
            return None;
        }
        self.group.relies_on_catalog();
        let catalog = self.group.last_catalog();
        let changes = (self.effects | verdict.effects).intersects(Effects::STATE | Effects::LOCAL_SETTING);
        // Whatever it has been set to since the server was asked for it.
        let scope = match changes && !limits.settings.contains_key(SEARCH_PATH) {
            true => Scope::Any,
            false => Scope::Session(Some(self.state.search_path())),
        };
        let held = |name: &str| is_held(limits, name);
        let borrowed = |text: &[u8]| borrows(text, &catalog, scope, held);
        let executes = verdict.effects.contains(Effects::STATEMENTS) && mentions(text, b"execute");
        let executed = || prepared_names(text).unwrap_or_else(|| self.names.all());
        let executed = executes.then(executed).unwrap_or_default();
        let mut executed = executed.iter().filter_map(|name| self.names.get(name));
        borrowed(text).or_else(|| executed.find_map(|named| borrowed(named.statement.text())))
    }

    /// Where the tenant is strict: may a write, by code that it does not name, set what is held, as the catalog was read last?
    fn set_unasked(&self, text: &[u8], verdict: Verdict) -> Option<Touches> {
        const WRITES: [&[u8]; 4] = [b"insert", b"update", b"delete", b"merge"];
        let limits = &self.tenant.limits;
        // What these two run was judged when it was declared or prepared.
        let writes = !matches!(verdict.reason, Reason::Cursor | Reason::PreparedStatement)
            || WRITES.iter().any(|word| mentions(text, word));
        if !limits.strict || !writes {
            return None;
        }
        self.group.relies_on_catalog();
        let catalog = self.group.last_catalog();
        let name = catalog.set_unasked(self.makes_code, |name| is_held(limits, name))?;
        Some(Touches::Unasked(name.map(str::to_owned)))
    }

    /// The same for a call of the function with this OID, without any text.
    pub(super) fn guard_call(&mut self, function: u32) -> Result<(), PgError> {
        /// `pg_proc.dat`.
        const SET_CONFIG: u32 = 2078;
        if function == SET_CONFIG && self.has_held_settings() {
            return Err(self.guarded(refusal::guards_unknown(&self.tenant.name)));
        }
        self.guard_unseen()
    }

    /// The same for what is too long to be looked at.
    pub(super) fn guard_unseen(&mut self) -> Result<(), PgError> {
        let limits = &self.tenant.limits;
        if limits.settings.is_empty() {
            return Ok(());
        }
        if limits.strict {
            return Err(self.guarded(refusal::guards_code(&self.tenant.name)));
        }
        if self.state.guards.undone() != Undone::Nothing {
            return Err(self.guarded(refusal::guards_undone(&self.tenant.name)));
        }
        self.state.guards.hides(true);
        Ok(())
    }

    /// Before a simple query is sent: in a transaction that may have changed them it does not go on behind what it undoes.
    ///
    /// Errors: 42501.
    pub(super) fn guard_undone(&mut self, text: &[u8]) -> Result<(), PgError> {
        let Guards::MadeAgain { undone, .. } = &mut self.state.guards else { return Ok(()) };
        *undone = undone.then(text);
        self.has_not_gone_on()
    }

    /// The same before a portal is executed.
    pub(super) fn guard_portal(&mut self, name: &[u8]) -> Result<(), PgError> {
        let Guards::MadeAgain { undone, bound } = &mut self.state.guards else { return Ok(()) };
        let known = bound.filter(|bound| bound.name == xxh3_64(name));
        // One of an earlier batch may be of any statement.
        let [behind_nothing, behind_something] = known.map_or(Bound::UNKNOWN, |bound| bound.then);
        *undone = if *undone == Undone::Nothing { behind_nothing } else { behind_something };
        self.has_not_gone_on()
    }

    /// A portal is bound to a statement: what that undoes.
    pub(super) fn note_bound(&mut self, head: &BindHead<'_>) {
        let Guards::MadeAgain { bound, .. } = &mut self.state.guards else { return };
        let then = match (head.statement, &self.unnamed) {
            (b"", Unnamed::TooLong) => Bound::UNKNOWN,
            (b"", unnamed) => Bound::then(unnamed.text()),
            // What SQL has prepared is nothing that ends a transaction.
            (name, _) => self.names.get(name).map_or(Bound::RUNS, |named| Bound::then(named.statement.text())),
        };
        *bound = Some(Bound { name: xxh3_64(head.portal), then });
    }

    fn has_not_gone_on(&self) -> Result<(), PgError> {
        match self.state.guards.undone() {
            Undone::Nothing | Undone::Something => Ok(()),
            Undone::GoneOn => Err(self.guarded(refusal::guards_undone(&self.tenant.name))),
        }
    }

    /// Inside a transaction that may have changed them in a way that was not seen: they have their values again.
    pub(super) fn keep_guarded(&mut self, leased: &mut Leased) {
        // As often as anything was said, until it is over: what a ROLLBACK TO undoes may be this.
        if self.state.guards == Guards::Kept {
            return;
        }
        self.state.guards = Guards::MadeAgain { undone: Undone::Nothing, bound: None };
        // One that has failed runs nothing before a message that goes back.
        if self.ledger.status() == Status::Transaction {
            let sql = self.state.guarded_again();
            self.inject_apart(leased, &sql);
        }
    }
}

/// Whether settings that are held for a tenant have their values, as far as was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Guards {
    #[default]
    Kept,
    /// What is under way may have changed them.
    Hidden,
    /// An earlier message of the transaction may have. They were made again behind it, and what undoes that may bring back
    /// what it has set: nothing else runs in the same message, or batch.
    MadeAgain { undone: Undone, bound: Option<Bound> },
}

/// The portal that was bound last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    /// Its name, by a hash.
    name: u64,
    /// What its batch has come to when it is executed: where nothing was undone before it, and where something was.
    then: [Undone; 2],
}

impl Guards {
    fn hides(&mut self, hides: bool) {
        if hides && *self == Self::Kept {
            *self = Self::Hidden;
        }
    }

    fn undone(&self) -> Undone {
        match self {
            Self::Kept | Self::Hidden => Undone::Nothing,
            Self::MadeAgain { undone, .. } => *undone,
        }
    }
}

impl Bound {
    const RUNS: [Undone; 2] = [Undone::Nothing, Undone::GoneOn];
    const UNKNOWN: [Undone; 2] = [Undone::Something, Undone::GoneOn];

    fn then(text: &[u8]) -> [Undone; 2] {
        [Undone::Nothing, Undone::Something].map(|before| before.then(text))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Touches {
    Named(String),
    /// `RESET ALL`, `DISCARD ALL`.
    All,
    /// It may be any.
    Unknown,
    /// It carries code, makes some, or calls some that cannot be read.
    Code,
    /// It may run some unasked that sets this; `None`: any.
    Unasked(Option<String>),
    /// It calls some that lends it something.
    Borrowed(Borrowed),
}

/// May it change settings that its text does not name?
fn hides<'a>(verdict: Verdict, names: impl FnOnce() -> &'a SettingNames) -> bool {
    verdict.effects.contains(Effects::HIDDEN)
        || (verdict.effects.intersects(Effects::STATE | Effects::MAYBE_DDL) && names().code)
}

/// What a statement does to settings that are held for its tenant. `names`: those that its text says.
fn guarded<'a>(
    limits: &Tier,
    text: &[u8],
    verdict: Verdict,
    names: impl FnOnce() -> &'a SettingNames,
) -> Option<Touches> {
    // Nothing changes a setting that does not say one of these, in whatever case, save code.
    let may = [&b"set"[..], b"discard", b"u&", b"load"].iter().any(|word| mentions(text, word));
    if !may && !limits.strict {
        return None;
    }
    let SettingNames { names, unknown, all, code, .. } = names();
    if let Some(name) = names.iter().find(|name| is_held(limits, name)) {
        return Some(Touches::Named(name.clone()));
    }
    if *all {
        return Some(Touches::All);
    }
    if *unknown {
        return Some(Touches::Unknown);
    }
    (limits.strict && (*code || verdict.effects.contains(Effects::HIDDEN))).then_some(Touches::Code)
}

fn is_held(limits: &Tier, name: &str) -> bool {
    // With the session's user its role goes, too.
    let users = limits.strict || limits.settings.contains_key("role");
    limits.settings.contains_key(name) || (users && name == "session_authorization")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Catalog, Classifier};

    #[test]
    fn what_would_change_a_guarded_setting_is_told() {
        let mut loose = Tier::unlimited("t");
        for name in ["app.tenant", "search_path", "role", "work_mem", "names.x"] {
            loose.settings.insert(name.into(), "x".into());
        }
        let strict = Tier { strict: true, ..loose.clone() };
        let classifier = Classifier::new(0);
        let touches = |limits: &Tier, sql: &str| {
            let verdict = classifier.classify(sql.as_bytes(), &Catalog::unloaded(), None);
            let names = setting_names(sql.as_bytes());
            guarded(limits, sql.as_bytes(), verdict, || &names)
        };
        for (sql, name) in [
            ("SET app.tenant = 'y'", "app.tenant"),
            ("SELECT 1; set local App.\"tenant\" to y", "app.tenant"),
            ("/* */ RESET app.tenant", "app.tenant"),
            ("SELECT set_config('app.TENANT', $1, true)", "app.tenant"),
            ("PREPARE p AS SELECT pg_catalog.\"set_config\"('search_path', '', false)", "search_path"),
            ("SET SCHEMA 'y'", "search_path"),
            ("SET ROLE none", "role"),
            ("RESET ROLE", "role"),
            ("SET names.x = 1", "names.x"),
            ("SET SESSION AUTHORIZATION y", "role"),
            ("SET session_authorization = y", "session_authorization"),
            ("RESET session_authorization", "session_authorization"),
            ("SELECT set_config('session_authorization', 'y', false)", "session_authorization"),
            ("SET sort_mem = '4GB'", "work_mem"),
            ("SELECT set_config('SORT_MEM', '4GB', true)", "work_mem"),
            ("EXPLAIN ANALYZE SELECT set_config('role', 'y', false)", "role"),
        ] {
            for limits in [&loose, &strict] {
                assert_eq!(touches(limits, sql), Some(Touches::Named(name.into())), "{sql}");
            }
        }
        for sql in ["RESET ALL", "SELECT 1; DISCARD ALL"] {
            assert_eq!(touches(&loose, sql), Some(Touches::All), "{sql}");
        }
        for sql in [
            "SELECT set_config($1, 'y', true)",
            "SELECT set_config('app.' || 'tenant', 'y', true)",
            "SELECT set_config(E'app\\x2etenant', 'y', true)",
            "SELECT U&\"set\\005fconfig\"('app.tenant', 'y', true)",
            "UPDATE pg_settings SET setting = 'y' WHERE name = 'app.' || 'tenant'",
            "LOAD 'x'",
            "CREATE VIEW v AS SELECT name, setting FROM pg_settings",
            "CREATE OR REPLACE TEMP VIEW v AS SELECT * FROM pg_show_all_settings()",
        ] {
            assert_eq!(touches(&loose, sql), Some(Touches::Unknown), "{sql}");
        }
        for sql in [
            "DO $$ BEGIN PERFORM set_config('app.tenant', 'y', true); END $$",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET app.tenant = 'y' AS 'SELECT 1'",
        ] {
            assert_eq!(touches(&loose, sql), None, "{sql}");
            assert_eq!(touches(&strict, sql), Some(Touches::Code), "{sql}");
        }
        for sql in [
            "UPDATE users SET role = 'admin', search_path = 'x'",
            "SET temp_buffers = '5MB'",
            "RESET temp_buffers",
            "SET NAMES 'utf8'",
            "SELECT 'SET app.tenant = y'",
            "SELECT current_setting('app.tenant')",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "DISCARD PLANS",
        ] {
            for limits in [&loose, &strict] {
                assert_eq!(touches(limits, sql), None, "{sql}");
            }
        }
    }
}
