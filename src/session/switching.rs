//! Clients that say for whom they work: an application that serves all tenants by one pool of connections names one, if
//! its user has `may_set_tenant`. By `SET pgweir.tenant` it does for all that follows, and `RESET` goes back to the tenant
//! as whom it has logged in; by `SET LOCAL`, or by a comment (`/*tenant='acme'*/`), for one transaction.
//!
//! A transaction is one tenant's, and whatever is sent before one `Sync`, or in one message, is one transaction's: whose it
//! is, its first statement says, before anything of it is sent. What begins a transaction need not say it. If that was sent
//! by itself the transaction begins once more, on a server connection of that tenant ([`Session::leave_opened`]).

use std::sync::Arc;

use super::batch::Batch;
use super::clock::Ceilings;
use super::ledger::Status;
use super::state::Covered;
use super::{Leased, Opened, Session, longest_query, refusal};
use crate::config::Layout;
use crate::metrics::Limit;
use crate::pool::difference;
use crate::sql::{TxControl, Verdict, commented, commented_before, first_statement, mentions, setting_names};
use crate::tenant::{Taken, Tenant, changes};
use crate::wire::author;
use crate::wire::error::{PgError, Severity};

/// The setting, and the startup option, that name a tenant.
pub const TENANT: &str = "pgweir.tenant";
/// What names one in a comment.
const COMMENTED: &str = "tenant";

/// Finds a tenant by its name, as the configuration of now has it: that of everybody else for a name that is nobody's,
/// unless such are refused. Errors: 57P03 while nobody knows yet.
pub type FindTenant = Arc<dyn Fn(&str) -> Result<Option<Tenant>, PgError> + Send + Sync>;

/// Of a session whose user may.
pub struct Switching {
    find: FindTenant,
    /// Where it is.
    layout: Layout,
    /// As whom it has logged in.
    home: Tenant,
    /// For whom it works where a transaction does not say it.
    standing: Standing,
    /// Who is to be that once the transaction is over.
    asked: Option<Standing>,
    /// Its own settings, while it works for another tenant than at its login.
    covered: Option<Covered>,
    /// Whose the batch is that is being gathered.
    said: Said,
}

struct Standing {
    tenant: Tenant,
    /// As the client has named it.
    name: Arc<str>,
    /// Its place among that tenant's clients; `None` at home, where it has one anyway.
    place: Option<Arc<Taken>>,
}

impl Standing {
    fn at_home(home: &Tenant) -> Self {
        Self { tenant: home.clone(), name: home.name.clone(), place: None }
    }
}

/// Whose a transaction is, by its own word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Said {
    /// Nothing yet, or nothing but its beginning.
    #[default]
    Nothing,
    /// Its first statement names nobody.
    Standing,
    Home,
    Tenant {
        name: String,
        /// Also what follows.
        lasts: bool,
    },
    /// That can't be.
    Refused(PgError),
}

impl Switching {
    pub fn new(find: FindTenant, home: Tenant) -> Box<Self> {
        let standing = Standing::at_home(&home);
        let (asked, covered, said) = Default::default();
        let layout = home.limits.layout.clone();
        Box::new(Self { find, layout, home, standing, asked, covered, said })
    }

    /// Another batch is gathered.
    pub(super) fn gathers(&mut self) {
        self.said = Said::Nothing;
    }

    /// One of its statements, in their order.
    pub(super) fn gathered(&mut self, text: &[u8], verdict: Verdict) {
        let begins = matches!(verdict.tx, TxControl::Begin | TxControl::BeginReadOnly);
        self.is_said(|| says(text).first, begins);
    }

    /// The same of one that is too long to be looked at, save its beginning.
    pub(super) fn gathered_long(&mut self, head: &[u8]) {
        self.is_said(|| said_before(head), false);
    }

    fn is_said(&mut self, said: impl FnOnce() -> Said, begins: bool) {
        if self.said == Said::Nothing {
            self.said = match said() {
                Said::Nothing if !begins => Said::Standing,
                said => said,
            };
        }
    }

    fn name_of<'a>(&'a self, said: &'a Said) -> Result<&'a str, &'a PgError> {
        match said {
            Said::Nothing | Said::Standing => Ok(&self.standing.tenant.name),
            Said::Home => Ok(&self.home.name),
            Said::Tenant { name, .. } => Ok(name),
            Said::Refused(error) => Err(error),
        }
    }

    /// The tenant of this name.
    fn named(&self, name: &str) -> Result<Tenant, PgError> {
        match [&self.home, &self.standing.tenant].into_iter().find(|known| *known.name == *name) {
            Some(known) => Ok(known.clone()),
            None => (self.find)(name)?.ok_or_else(|| refusal::unknown_tenant(name)),
        }
    }

    /// Is that the name of this tenant? A name that is nobody's is that of everybody else.
    fn names(&self, name: &str, tenant: &Tenant) -> bool {
        *name == *tenant.name || self.named(name).is_ok_and(|named| named.name == tenant.name)
    }

    /// The tenant of this name, for a session that works for `now`.
    ///
    /// Errors: 22023 where there is none, 57P03 while that is not known, 0A000 where its sessions need another database or
    /// cluster.
    fn find(&self, name: &str, now: &Tenant) -> Result<Tenant, PgError> {
        let tenant = self.named(name)?;
        if tenant.limits.layout != self.layout {
            return Err(refusal::tenant_of_another_place(&tenant.name, &now.name));
        }
        Ok(tenant)
    }
}

impl Session {
    /// Does the batch that is gathered belong to the tenant for whom the session works now?
    pub(super) fn is_of_this_tenant(&self) -> bool {
        let Some(switching) = &self.switching else { return true };
        switching.name_of(&switching.said).is_ok_and(|name| switching.names(name, &self.tenant))
    }

    /// The session works for the tenant whose the batch is.
    ///
    /// Errors: 22023 for a tenant that there is not, or is not written out, 25001 where several are named, 0A000 for one of
    /// another database or cluster.
    pub(super) fn works_for_its_tenant(&mut self) -> Result<(), PgError> {
        let Some(switching) = &mut self.switching else { return Ok(()) };
        let name = switching.name_of(&switching.said).map_err(PgError::clone)?;
        if *name == *self.tenant.name {
            return Ok(());
        }
        let tenant = switching.find(name, &self.tenant)?;
        if tenant.name != self.tenant.name {
            self.works_for(tenant);
        }
        Ok(())
    }

    /// The same for a transaction that has begun: true where it has to begin once more.
    ///
    /// Errors: as for [`Self::works_for_its_tenant`], and 53400. The session works on for the tenant for whom it has begun.
    pub(super) fn moves_to_its_tenant(&mut self, batch: &Batch) -> Result<bool, PgError> {
        // What began it may have said whose it is.
        let names = |switching: &Switching| !matches!(switching.said, Said::Nothing | Said::Standing);
        if !self.switching.as_deref().is_some_and(names) || self.is_of_this_tenant() {
            return Ok(false);
        }
        let before = self.tenant.clone();
        let outcome = self.works_for_its_tenant().and_then(|()| self.pays_within(batch, true));
        if outcome.is_err() && self.tenant.name != before.name {
            self.works_for(before);
        }
        outcome.map(|()| true)
    }

    /// Before a statement is sent, whatever it is: it is of the tenant for whom the session works.
    ///
    /// Errors: 25001 where it is another one's, 53300 where the session would be one client too many of that for whom it
    /// is to work from now on, and as for [`Self::works_for_its_tenant`].
    pub(super) fn stays_with_tenant(
        &mut self,
        leased: &mut Leased,
        text: &[u8],
        verdict: Verdict,
    ) -> Result<(), PgError> {
        // What ends a transaction may always be said.
        if self.switching.is_none() || verdict.tx == TxControl::End {
            return Ok(());
        }
        self.may_go_on(leased)?;
        let Says { first, later, home } = says(text);
        self.stays_with(&first)?;
        self.stays_with(&later)?;
        if home && let Some(switching) = &mut self.switching {
            switching.asked = Some(Standing::at_home(&switching.home));
        }
        Ok(())
    }

    /// Of a transaction that was refused to its tenant nothing runs.
    pub(super) fn may_go_on(&self, leased: &mut Leased) -> Result<(), PgError> {
        match std::mem::replace(&mut leased.opened, Opened::No) {
            Opened::Refused(error) => Err(*error),
            opened => {
                leased.opened = opened;
                Ok(())
            }
        }
    }

    /// The same for what is too long to be looked at, save its beginning.
    pub(super) fn stays_with_tenant_of(&mut self, leased: &mut Leased, head: &[u8]) -> Result<(), PgError> {
        if self.switching.is_none() {
            return Ok(());
        }
        self.may_go_on(leased)?;
        self.stays_with(&said_before(head))
    }

    fn stays_with(&mut self, said: &Said) -> Result<(), PgError> {
        let Some(switching) = &self.switching else { return Ok(()) };
        let name = switching.name_of(said).map_err(PgError::clone)?;
        if *said == Said::Nothing {
            return Ok(());
        }
        if !switching.names(name, &self.tenant) {
            // Where there is none of that name, that is what is wrong.
            switching.find(name, &self.tenant)?;
            return Err(refusal::transaction_of_another_tenant(&self.tenant.name, name));
        }
        let lasts = matches!(said, Said::Home | Said::Tenant { lasts: true, .. });
        let Standing { tenant, name: standing, place } = &switching.standing;
        let stands = tenant.name == self.tenant.name;
        if lasts && switching.asked.is_none() && !(stands && *name == **standing) {
            let name = name.into();
            let place = match stands {
                _ if self.tenant.name == switching.home.name => None,
                true => place.clone(),
                false => Some(Arc::new(self.is_one_client_more()?)),
            };
            let asked = Standing { tenant: self.tenant.clone(), name, place };
            if let Some(switching) = &mut self.switching {
                switching.asked = Some(asked);
            }
        }
        Ok(())
    }

    /// Of the tenant for whom it works.
    fn is_one_client_more(&self) -> Result<Taken, PgError> {
        self.tenant.admit().map_err(|error| {
            self.limited(Limit::MaxClients);
            PgError { severity: Severity::Error, ..error }
        })
    }

    /// Everything is answered, and what the session has made is known: for whom it works from now on.
    pub(super) fn stands(&mut self) {
        let Some(switching) = &mut self.switching else { return };
        let asked = switching.asked.take();
        let wanted = self.state.tenant().unwrap_or(&switching.home.name);
        match asked {
            // It may have several names, which are nobody's: the last is what it has said.
            Some(asked) if switching.names(wanted, &asked.tenant) => {
                switching.standing = Standing { name: wanted.into(), ..asked };
            }
            _ if *wanted == *switching.standing.name => {}
            // By code that nobody has seen: it takes no effect.
            _ => {
                let standing = &switching.standing.name;
                let name = (*standing != switching.home.name).then(|| standing.clone());
                self.state.says_tenant(name.as_deref());
            }
        }
        if switching.standing.tenant.name != self.tenant.name {
            let tenant = switching.standing.tenant.clone();
            self.works_for(tenant);
        }
    }

    /// Are the limits still those that the session is held to?
    pub(super) fn has_current_limits(&self) -> bool {
        self.limits_of == changes()
    }

    /// Between two transactions: limits that have changed meanwhile hold from now on.
    pub(super) fn follows_limits(&mut self) {
        if self.has_current_limits() {
            return;
        }
        self.limits_of = changes();
        let Some(switching) = &mut self.switching else {
            if let Some(leased) = &mut self.lease {
                leased.lease.counts(&self.tenant.passes());
            }
            let tenant = self.tenant.with_current_limits();
            if tenant.limits != self.tenant.limits {
                // Its own from now on: they are never uncovered.
                drop(self.state.cover(tenant.limits.clone()));
                self.is_held_to(tenant);
            }
            return;
        };
        let (home, tenant) = (switching.home.with_current_limits(), self.tenant.with_current_limits());
        for standing in std::iter::once(&mut switching.standing).chain(&mut switching.asked) {
            standing.tenant = standing.tenant.with_current_limits();
        }
        if home.limits == switching.home.limits && tenant.limits == self.tenant.limits {
            return;
        }
        if let Some(covered) = switching.covered.take() {
            self.state.uncover(covered);
        }
        if home.limits != switching.home.limits {
            drop(self.state.cover(home.limits.clone()));
        }
        switching.home = home;
        self.works_for(tenant);
    }

    fn is_held_to(&mut self, tenant: Tenant) {
        self.consistency = tenant.limits.consistency.unwrap_or(self.usual_consistency);
        self.slot.belongs_to(tenant.name.clone(), Ceilings::of(&tenant.limits));
        self.longest_query = longest_query(&tenant, self.switching.is_some());
        self.tenant = tenant;
        self.joins();
    }

    fn works_for(&mut self, tenant: Tenant) {
        let Some(switching) = &mut self.switching else { return };
        if let Some(covered) = switching.covered.take() {
            self.state.uncover(covered);
        }
        if tenant.name != switching.home.name {
            switching.covered = Some(self.state.cover(tenant.limits.clone()));
        }
        self.is_held_to(tenant);
    }

    /// The server connection that the session keeps gets the settings that the session has now.
    ///
    /// Errors: the server is lost.
    pub(super) async fn brings_up_to_date(&mut self, leased: &mut Leased) -> Result<(), PgError> {
        if leased.lease.settings == self.state.settings {
            return Ok(());
        }
        if let Some(sql) = difference(&leased.lease.settings, &self.state.settings) {
            self.leave_no_cancel(leased).await;
            let answer = leased.lease.ask(&sql).await;
            self.slot.leases(&leased.lease.cancel);
            let answer = answer.map_err(|error| self.lost(leased.place, &error.to_string(), false))?;
            leased.has_unnamed = false;
            self.hear_beside(leased, answer.notifications);
            for (name, value) in &answer.reports {
                author::parameter_status(self.outbound.bytes(), name, value);
            }
        }
        leased.lease.settings = self.state.settings.clone();
        Ok(())
    }

    /// Has to be known whose a batch is before it is sent to where the one before it was?
    pub(super) fn tells_tenants_apart(&self, leased: &Leased) -> bool {
        let over = !self.ledger.settled() && leased.is_ending(&self.ledger);
        self.switching.is_some() && (self.ledger.status() == Status::Idle || over)
    }
}

/// What a text says of the tenant whose it is.
#[derive(Debug, PartialEq, Eq)]
struct Says {
    /// In a comment, or by its first statement.
    first: Said,
    /// By those behind that one, for which it is late.
    later: Said,
    /// `RESET ALL`, `DISCARD ALL`: for whom the session works when the transaction is over.
    home: bool,
}

/// By the text alone: what it says does not depend on the settings of the tenant whose it is.
fn says(text: &[u8]) -> Says {
    let makes = mentions(text, TENANT.as_bytes()) || mentions(text, b"pgweir\"");
    let all = mentions(text, b"reset") || mentions(text, b"discard");
    let home = all && setting_names(text).all;
    let (first, rest) = if makes { first_statement(text) } else { Default::default() };
    let (first, later) = (made(first), made(rest));
    Says { first: agree(commented(text, COMMENTED), first), later, home }
}

/// What the comment at the beginning of a text says.
fn said_before(head: &[u8]) -> Said {
    agree(commented_before(head, COMMENTED), Said::Nothing)
}

/// What comments say, and what is made.
fn agree(commented: Vec<String>, made: Said) -> Said {
    let name = match (&made, commented.first()) {
        (_, None) => return made,
        (Said::Tenant { name, .. }, Some(_)) | (_, Some(name)) => name,
    };
    let several = commented.iter().any(|other| other != name) || made == Said::Home;
    match made {
        _ if several => Said::Refused(refusal::several_tenants()),
        Said::Nothing => Said::Tenant { name: name.clone(), lasts: false },
        made => made,
    }
}

/// The tenant that statements name by making the setting.
fn made(text: &[u8]) -> Said {
    if text.is_empty() {
        return Said::Nothing;
    }
    let names = setting_names(text);
    let asks = names.names.iter().any(|name| name == TENANT);
    let mut values = names.values.iter().filter(|(name, _)| name == TENANT).map(|(_, value)| value);
    match values.next() {
        _ if !asks => Said::Nothing,
        Some(first) if values.any(|other| other != first) => Said::Refused(refusal::several_tenants()),
        Some(name) => Said::Tenant { name: name.clone(), lasts: names.lasting },
        None if names.resets => Said::Home,
        None => Said::Refused(refusal::tenant_not_named()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_or_the_first_statement_says_whose_a_text_is() {
        let acme = |lasts| Said::Tenant { name: "acme".into(), lasts };
        for (sql, first, later) in [
            ("SELECT 1", Said::Nothing, Said::Nothing),
            ("BEGIN", Said::Nothing, Said::Nothing),
            ("SELECT 1 /*tenant='acme'*/", acme(false), Said::Nothing),
            ("BEGIN /*tenant='acme'*/", acme(false), Said::Nothing),
            ("SET pgweir.tenant = 'acme'", acme(true), Said::Nothing),
            ("SET \"pgweir\".tenant = Acme", acme(true), Said::Nothing),
            ("SET LOCAL pgweir.tenant TO acme", acme(false), Said::Nothing),
            ("BEGIN; SET LOCAL pgweir.tenant = 'acme'; SELECT 1", acme(false), Said::Nothing),
            ("SELECT set_config('PGWEIR.tenant', 'acme', true)", acme(true), Said::Nothing),
            ("SELECT 1; SET pgweir.tenant = 'acme'", Said::Nothing, acme(true)),
            ("SET LOCAL pgweir.tenant = 'acme'; SET pgweir.tenant = 'acme'", acme(false), acme(true)),
            ("SET pgweir.tenant = 'acme' /*tenant='acme'*/", acme(true), Said::Nothing),
            ("RESET pgweir.tenant", Said::Home, Said::Nothing),
            ("SET pgweir.tenant TO DEFAULT", Said::Home, Said::Nothing),
            ("SET LOCAL work_mem = '1MB'", Said::Nothing, Said::Nothing),
        ] {
            assert_eq!(says(sql.as_bytes()), Says { first, later, home: false }, "{sql}");
        }
        for sql in ["RESET ALL", "DISCARD ALL /*tenant='acme'*/", "SELECT 1; RESET ALL"] {
            let Says { later, home, .. } = says(sql.as_bytes());
            assert_eq!((later, home), (Said::Nothing, true), "{sql}");
        }
        for (sql, code) in [
            ("/*tenant='acme'*/ SELECT 1 /*tenant='beta'*/", "25001"),
            ("SET pgweir.tenant = 'acme' /*tenant='beta'*/", "25001"),
            ("RESET pgweir.tenant /*tenant='acme'*/", "25001"),
            ("SELECT set_config('pgweir.tenant', current_user, true)", "22023"),
        ] {
            assert!(matches!(says(sql.as_bytes()).first, Said::Refused(error) if error.code == code), "{sql}");
        }
    }
}
