//! What is done where pools want more connections than their host may have: which idle ones are closed, and how many each pool
//! may have. A state machine without a clock of its own.

use std::sync::Arc;
use std::time::Instant;

use super::apportion::{Apportion, Claim, weights};
use super::cut::Cut;
use super::places::{Promises, Supply};
use super::weight::Spread;

/// What a pool has and wants of its host.
#[derive(Debug, Clone)]
pub(super) struct Wants {
    /// Without its weight, which depends on the other pools.
    pub claim: Claim,
    /// The tenants that are active, and their weights.
    pub active: Vec<(Arc<str>, u32)>,
    /// Idle, leased and being opened.
    pub open: usize,
    /// Connections that it would open if it had places.
    pub lacking: usize,
    /// When each idle connection was last used, the earliest first.
    pub idle_since: Vec<Instant>,
}

impl Wants {
    /// As many as it is promised and does not have.
    fn promised(&self) -> usize {
        self.claim.least.saturating_sub(self.open)
    }

    /// What it needs, or will, however soon that is.
    fn needed(&self) -> usize {
        self.claim.needs.max(self.claim.least)
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Idle connections to be closed: of which pool, and when it was last used.
    pub close: Vec<(usize, Instant)>,
    /// As many as each pool may have; `usize::MAX` where nothing limits it.
    pub allowed: Vec<usize>,
    /// Where something does, tenants have a part of their weight in each of their pools.
    pub spread: Spread,
    /// As many as each pool is promised, as far as that can be kept.
    pub least: Vec<usize>,
    /// The same of all pools, where `all` is what could be kept without the services that there are.
    pub promises: Promises,
    /// There is less than is wanted.
    pub short: bool,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    apportion: Apportion,
}

impl Keeper {
    /// `now` in microseconds since any one instant.
    ///
    /// Where all that pools may have is promised, or more, each keeps its part, and one is left to all of them ([`Cut`]).
    pub fn plan(&mut self, supply: Supply, mut wants: Vec<Wants>, now: u64) -> Plan {
        let all = cut(&mut wants, supply.for_promises);
        cut(&mut wants, supply.for_pools);
        let open = wants.iter().map(Wants::promised).sum();
        let is_short = supply.owed > 0 || supply.free < open as isize || wants.iter().any(|wants| wants.lacking > 0);
        let allowed = match is_short {
            true => self.apportion(supply.for_pools, &wants, now),
            false => {
                self.apportion.rest();
                None
            }
        };
        let (allowed, spread) = allowed.unwrap_or_else(|| (vec![usize::MAX; wants.len()], Spread::default()));
        Plan {
            close: if is_short { unneeded(supply, &wants) } else { Vec::new() },
            allowed,
            spread,
            least: wants.iter().map(|wants| wants.claim.least).collect(),
            promises: Promises { all, open },
            short: is_short,
        }
    }

    /// `None` where all can have what they need.
    fn apportion(&mut self, total: usize, wants: &[Wants], now: u64) -> Option<(Vec<usize>, Spread)> {
        if wants.iter().map(Wants::needed).sum::<usize>() <= total {
            return None;
        }
        let active: Vec<_> = wants.iter().map(|wants| &*wants.active).collect();
        let claim = |(wants, weight): (&Wants, u64)| Claim { weight, ..wants.claim };
        let spread = Spread::of(&active);
        let claims: Vec<_> = wants.iter().zip(weights(&active, &spread)).map(claim).collect();
        Some((self.apportion.give(total, &claims, now), spread))
    }
}

/// Cuts what is promised to what there is, and says how much of it is kept.
fn cut(wants: &mut [Wants], connections: usize) -> usize {
    let cut = Cut::to(connections, wants.iter().map(|wants| wants.claim.least).sum());
    wants.iter_mut().for_each(|wants| wants.claim.least = cut.part(wants.claim.least));
    wants.iter().map(|wants| wants.claim.least).sum()
}

/// Idle connections that nobody has needed lately, least recently used first, as many as are lacking. What is promised is to
/// be free as well.
fn unneeded(supply: Supply, wants: &[Wants]) -> Vec<(usize, Instant)> {
    let lacking: usize = wants.iter().map(|wants| wants.lacking.max(wants.promised())).sum();
    let missing = ((lacking + supply.kept) as isize - supply.free).max(0) as usize;
    let spare = |(pool, wants): (usize, &Wants)| {
        let idle: Vec<_> = wants.idle_since.iter().take(wants.open.saturating_sub(wants.needed())).copied().collect();
        idle.into_iter().map(move |since| (pool, since))
    };
    let mut unneeded: Vec<_> = wants.iter().enumerate().flat_map(spare).collect();
    unneeded.sort_unstable_by_key(|(_, since)| *since);
    unneeded.truncate(missing);
    unneeded
}

#[cfg(test)]
mod tests;
