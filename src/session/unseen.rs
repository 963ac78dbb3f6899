//! What a statement may do to its session that its text does not show: by functions of which nobody knows yet, by what
//! writes run without naming it, by code that catches its own cancellation, and as it is too long to be looked at.

use super::{Leased, Schema, Session, intake, state};
use crate::cluster::Place;
use crate::pool::Unlisted;
use crate::sql::{Class, Effects, Reason, SettingNames, Verdict, mentions, statements};

/// How code speaks of a cancellation that it catches, or of the conditions to which that belongs. Last, a parameter, which may
/// say so too.
const CATCHES: [&[u8]; 5] = [b"query_canceled", b"operator_intervention", b"57014", b"57000", b"$1"];

impl Session {
    /// The same as [`Session::note`] for a message that is too long to be looked at.
    pub(super) fn note_unseen(&mut self, leased: &mut Leased) {
        self.slot.clock.note_stubborn();
        self.slot.clock.note_lifted();
        self.slot.clock.note_savepoint();
        self.slot.clock.note_chain();
        self.note_any_effects(leased);
        self.state.note_environment(&SettingNames { unknown: true, ..SettingNames::default() }, Effects::STATE);
    }

    /// It may do anything to the session and to the schema.
    pub(super) fn note_any_effects(&mut self, leased: &mut Leased) {
        let effects = Effects::STATE | Effects::MAYBE_DDL;
        self.effects |= effects;
        self.state.ask_everything();
        self.state.note_environment(&SettingNames::default(), effects);
        leased.lease.unlisted = Unlisted::Any;
        leased.writes = true;
        leased.schema = leased.schema.max(Schema::Suspected);
    }

    /// While the catalog is being read, nobody knows for sure what functions do to the session; nor of those that its own
    /// transaction, or message, has made. Where the last one knew of nothing the server is asked all the same, if the session
    /// may call something new; where there is none to be had the session stays where it is.
    pub(super) fn unknown_effects(&self, leased: &Leased, text: &[u8], verdict: Verdict) -> Effects {
        let makes = verdict.effects.intersects(Effects::DDL | Effects::MAYBE_DDL);
        if leased.schema != Schema::Same || (makes && statements(text) > 1) {
            return Effects::STATE;
        }
        let is_held = self.has_held_settings();
        let reaches = || intake::may_reach(text, verdict, &self.catalog);
        // Of what is temporary no catalog knows.
        if is_held && self.makes_code && self.keeps_lease() && reaches() {
            return Effects::STATE;
        }
        let names = || intake::may_call(text, verdict) || (verdict.reason != Reason::Ddl && reaches());
        let unread = || is_held && reaches() && !self.group.last_catalog().is_loaded();
        let matters = (self.may_be_new(is_held) && names()) || unread();
        if !matters {
            return Effects::NONE;
        }
        let last = self.group.last_catalog();
        let effects = || self.shared.classifier.classify_in(self.state.scope(), text, &last).effects;
        // By an operator or a cast whoever has no settings that are held reaches what was there before, or what is his own.
        let is_asked = is_held || self.awaits_catalog.is_some() || intake::may_call(text, verdict);
        match last.is_loaded().then(effects) {
            Some(effects) if !is_asked && !effects.contains(Effects::STATE) => Effects::NONE,
            Some(effects) => Effects::STATE | effects,
            None if !is_asked => Effects::NONE,
            None if self.group.catalog_is_failing() => Effects::STATE | Effects::HIDDEN,
            None => Effects::STATE,
        }
    }

    /// Is the catalog being read? Where settings are held for the tenant, also: is it about to be?
    fn may_be_new(&self, is_held: bool) -> bool {
        !self.group.catalog_is_read() || (is_held && !self.group.catalog_is_settled())
    }

    /// What a write may do to the session by what it runs without naming it: triggers, defaults, checks, rules. The catalog
    /// knows of them, save of those that are new or the session's own.
    pub(super) fn implied_effects(&mut self, leased: &mut Leased, text: &[u8], verdict: Verdict) -> Effects {
        if leased.place != Place::Primary || !verdict.may_write() {
            return Effects::NONE;
        }
        let catalog = self.group.catalog();
        let temporary = verdict.effects.contains(Effects::MAYBE_DDL) && mentions(text, b"temp");
        let makes = verdict.effects.contains(Effects::DDL) || temporary;
        let is_held = self.has_held_settings();
        self.makes_code |= makes && state::makes_code(text, temporary || (is_held && self.keeps_lease()));
        let new = leased.schema == Schema::Changed || makes || !catalog.is_loaded();
        let changes = match verdict.reason {
            // While it is read again: as it was before, and as the session has made it.
            // (A strict tenant makes nothing that sets what is held.)
            Reason::Ddl if !catalog.is_loaded() => {
                let made = self.makes_code && !self.tenant.limits.strict;
                self.group.last_catalog().ddl_changes_state() || made
            }
            Reason::Ddl => catalog.ddl_changes_state(),
            _ => catalog.writes_change_state() || self.makes_code || new,
        };
        if !changes {
            return Effects::NONE;
        }
        if catalog.makes_up_settings() || self.makes_code || new {
            leased.lease.unlisted = Unlisted::Any;
        }
        Effects::STATE
    }

    /// A statement may run code that no catalog knows: it may make settings whose names nobody knows.
    pub(super) fn note_unlisted(&self, leased: &mut Leased, verdict: Verdict, unknown: Effects) {
        let makes_and_calls = verdict.effects.contains(Effects::DDL) && verdict.reason != Reason::Ddl;
        if makes_and_calls || !unknown.is_empty() {
            leased.lease.unlisted = Unlisted::Any;
        }
    }

    /// May it run code that catches its own cancellation? Blocks are not looked into, nor are parameters where there is code
    /// that may run them.
    pub(super) fn may_catch_cancels(&self, leased: &Leased, text: &[u8], verdict: Verdict) -> bool {
        const MAY_CARRY_CODE: Effects = Effects::HIDDEN.with(Effects::DDL).with(Effects::MAYBE_DDL);
        let calls = || verdict.class == Class::Primary || intake::may_call(text, verdict);
        let new = leased.schema != Schema::Same || self.makes_code;
        verdict.reason == Reason::Procedure
            || ((new || self.catalog.catches_cancels()) && calls())
            || (verdict.effects.intersects(MAY_CARRY_CODE) && CATCHES.iter().any(|word| mentions(text, word)))
    }
}
