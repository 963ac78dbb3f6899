//! Clients that say for whom they work: an application that serves all tenants by one pool of connections sets
//! `pgweir.tenant` between two transactions, if its user has `may_set_tenant`. From then on it is held to that tenant's
//! limits and has its settings; `RESET` goes back to the tenant as whom it has logged in.
//!
//! Whatever is sent behind such a statement waits until it is answered, and within a transaction it is refused: a
//! transaction is one tenant's.

use std::sync::Arc;

use super::ledger::Status;
use super::slot::Ceilings;
use super::{Leased, Session, refusal};
use crate::sql::{Effects, SettingNames, Verdict, statements};
use crate::tenant::{Taken, Tenant};
use crate::wire::error::{PgError, Severity};

/// The setting, and the startup option, that name a tenant.
pub const TENANT: &str = "pgweir.tenant";

/// Finds a tenant by its name, as the configuration of now has it.
pub type FindTenant = Arc<dyn Fn(&str) -> Option<Tenant> + Send + Sync>;

/// Of a session whose user may.
pub struct Switching {
    find: FindTenant,
    /// As whom it has logged in.
    home: Tenant,
    /// Its place among the clients of another tenant.
    _place: Option<Taken>,
    /// What is being asked for.
    asked: Option<Asked>,
}

struct Asked {
    tenant: Tenant,
    /// `None` at home, where it has its place.
    place: Option<Taken>,
}

impl Switching {
    pub fn new(find: FindTenant, home: Tenant) -> Box<Self> {
        Box::new(Self { find, home, _place: None, asked: None })
    }
}

impl Session {
    /// Is the session about to be another tenant's?
    pub(super) fn is_switching(&self) -> bool {
        self.switching.as_ref().is_some_and(|switching| switching.asked.is_some())
    }

    /// Before a statement is sent that makes settings, or any other one behind it in its batch (without a name).
    ///
    /// Errors: 42501 where the user may not, 25001 where it is no time for it, 22023 for a tenant that there is not, 53300
    /// where that has as many clients as it may have.
    pub(super) fn asks_for_tenant(
        &mut self,
        leased: &Leased,
        text: &[u8],
        names: &SettingNames,
    ) -> Result<(), PgError> {
        // The unnamed statement is bound without its text.
        if text.is_empty() {
            return Ok(());
        }
        let asks = names.names.iter().any(|name| name == TENANT);
        let pinned = self.keeps_lease();
        // What was sent before may have begun a transaction.
        let open = self.ledger.status() != Status::Idle || leased.active;
        let Some(switching) = &mut self.switching else {
            return if asks { Err(refusal::may_not_set_tenant()) } else { Ok(()) };
        };
        let value = names.values.iter().rev().find(|(name, _)| name == TENANT).map(|(_, value)| value.as_str());
        let tenant = match value {
            Some(value) if asks => (switching.find)(value).ok_or_else(|| refusal::unknown_tenant(value))?,
            None if (asks && names.resets) || names.all => switching.home.clone(),
            None if asks => return Err(refusal::tenant_not_named()),
            _ if switching.asked.is_some() => return Err(refusal::tenant_is_being_set()),
            _ => return Ok(()),
        };
        if let Some(asked) = &switching.asked {
            // Bound once it was parsed.
            return if asked.tenant.name == tenant.name { Ok(()) } else { Err(refusal::tenant_is_being_set()) };
        }
        if tenant.name == self.tenant.name {
            return Ok(());
        }
        if open || statements(text) != 1 {
            return Err(refusal::tenant_is_being_set());
        }
        if pinned || tenant.limits.database != switching.home.limits.database {
            return Err(refusal::tenant_stays(&self.tenant.name));
        }
        let at_home = tenant.name == switching.home.name;
        let place = if at_home {
            None
        } else {
            Some(tenant.admit().map_err(|error| PgError { severity: Severity::Error, ..error })?)
        };
        switching.asked = Some(Asked { tenant, place });
        Ok(())
    }

    /// Nothing else may run in the batch that makes the session another tenant's.
    pub(super) fn waits_for_tenant(&self, text: &[u8], verdict: Verdict) -> Result<(), PgError> {
        // The unnamed statement is bound without its text; one that makes settings is looked at itself.
        let other = self.is_switching() && !text.is_empty() && !verdict.effects.contains(Effects::STATE);
        if other { Err(refusal::tenant_is_being_set()) } else { Ok(()) }
    }

    /// Everything is answered, and what the session has made is known.
    pub(super) fn switch(&mut self) {
        let Some(switching) = &mut self.switching else { return };
        let asked = switching.asked.take();
        let wanted = self.state.tenant().unwrap_or(&switching.home.name);
        if *wanted == *self.tenant.name {
            return;
        }
        match asked {
            Some(Asked { tenant, place }) if *tenant.name == *wanted => {
                switching._place = place;
                self.belongs_to(tenant);
            }
            // By code that nobody has seen: it takes no effect.
            _ => {
                let now = (self.tenant.name != switching.home.name).then(|| self.tenant.name.clone());
                self.state.says_tenant(now.as_deref());
            }
        }
    }

    fn belongs_to(&mut self, tenant: Tenant) {
        self.tenant_metrics = self.shared.metrics.tenant(&tenant.name);
        self.slot.belongs_to(tenant.name.clone(), Ceilings::of(&tenant.limits));
        self.state.belongs_to(tenant.limits.clone());
        self.consistency = tenant.limits.consistency.unwrap_or(self.consistency);
        self.tenant = tenant;
        self.joins();
    }
}
