//! How many of a host's server connections each of its pools may have, where they want more than there are. A state
//! machine without a clock of its own.
//!
//! Each pool gets what it is promised, and from there on one after the other, by the weight of its tenants, up to what it
//! needs. A tenant has its weight once on a host, however many of its pools it uses ([`super::weight`]). Where there are more pools than
//! connections they take turns: what a pool has had is kept as time, as in [`super::fair`].

use std::collections::HashMap;
use std::sync::Arc;

use super::weight::{HEAVIEST, Spread, WHOLE, Weight};

/// What is given is kept for as long as this at least, in microseconds: to open a connection takes a hundredth of it.
pub const QUANTUM: u64 = 250_000;

/// Whoever has had more than others is this far ahead at most, in microseconds at the greatest weight.
const DEBT: u64 = 4 * TURN;
/// And whoever has had less, this far behind.
const CREDIT: u64 = 2 * TURN;
/// What one connection for one turn costs the lightest.
const TURN: u64 = QUANTUM * HEAVIEST as u64;

/// What the tenants weigh that are active in each pool ([`Weight::here`]).
pub fn weights(active: &[impl AsRef<[(Arc<str>, u32)]>], spread: &Spread) -> Vec<u64> {
    let part = |(tenant, weight): &(Arc<str>, u32)| Weight::new(*weight, spread.pools(tenant)).here();
    active.iter().map(|pool| pool.as_ref().iter().map(part).sum()).collect()
}

/// What one pool needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claim {
    /// Stays the same for a pool.
    pub pool: usize,
    /// Of its tenants that are active, together, in parts of a [`WHOLE`]: see [`weights`].
    pub weight: u64,
    /// Connections that its tenants hold and wait for, or have lately needed at once.
    pub needs: usize,
    /// What is left to its tenants whoever wants it.
    pub least: usize,
}

/// What each pool has had, as time by weight.
#[derive(Debug, Default)]
pub struct Apportion {
    had: HashMap<usize, u64>,
    /// The least that any has had who wants more.
    level: u64,
    /// What was given last, and when.
    given: Vec<(Claim, usize)>,
    at: u64,
}

impl Apportion {
    /// As many connections for each pool, in the order of the claims; `total` together at most.
    pub fn give(&mut self, total: usize, claims: &[Claim], now: u64) -> Vec<usize> {
        if self.still_holds(total, claims, now) {
            return self.given.iter().map(|(_, given)| *given).collect();
        }
        self.settle(now);
        self.at = now;
        let level = self.level;
        let had = |claim: &Claim| (claim.pool, self.had.get(&claim.pool).copied().unwrap_or(level).min(level + DEBT));
        self.had = claims.iter().map(had).collect();
        let mut given = vec![0; claims.len()];
        let mut left = total;
        for (claim, given) in claims.iter().zip(&mut given) {
            *given = claim.least.min(left);
            left -= *given;
        }
        for _ in 0..left {
            let wants = |at: &usize| given[*at] < claims[*at].needs;
            let rank = |at: &usize| {
                let claim = &claims[*at];
                (self.had[&claim.pool] + parts(given[*at] as u64 * QUANTUM, claim.weight), claim.pool)
            };
            let Some(next) = (0..claims.len()).filter(wants).min_by_key(rank) else { break };
            given[next] += 1;
        }
        // Whoever has all that it needs does not get ahead of others by that.
        let wanting = claims.iter().zip(&given).filter(|(claim, given)| **given < claim.needs);
        self.level = wanting.map(|(claim, _)| self.had[&claim.pool]).min().unwrap_or(level);
        for had in self.had.values_mut() {
            *had = self.level.saturating_sub(CREDIT).max(*had);
        }
        self.given = claims.iter().copied().zip(given.iter().copied()).collect();
        given
    }

    /// A turn is not over, there is as much as was given, and nobody came or has what he does not need while others want more.
    fn still_holds(&self, total: usize, claims: &[Claim], now: u64) -> bool {
        let same = self.given.len() == claims.len()
            && self.given.iter().zip(claims).all(|((before, _), claim)| {
                (before.pool, before.least, before.needs == 0) == (claim.pool, claim.least, claim.needs == 0)
            });
        let pairs = || self.given.iter().map(|(_, given)| *given).zip(claims);
        let unused = pairs().any(|(given, claim)| given > claim.needs.max(claim.least));
        let wanted = pairs().any(|(given, claim)| given < claim.needs);
        let there = self.given.iter().map(|(_, given)| given).sum::<usize>() <= total;
        same && there && now < self.at + QUANTUM && !(unused && wanted)
    }

    /// Nobody wants more than there is any more.
    pub fn rest(&mut self) {
        *self = Self::default();
    }

    /// Enters what was given for as long as it was.
    fn settle(&mut self, now: u64) {
        let time = now.saturating_sub(self.at);
        for (claim, given) in self.given.drain(..) {
            *self.had.entry(claim.pool).or_default() += parts(given as u64 * time, claim.weight);
        }
    }
}

fn parts(time: u64, weight: u64) -> u64 {
    time * u64::from(HEAVIEST * WHOLE) / weight.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARTS: u64 = WHOLE as u64;

    fn weights(active: &[Vec<(Arc<str>, u32)>]) -> Vec<u64> {
        super::weights(active, &Spread::of(active))
    }

    fn claim(pool: usize, weight: u64, needs: usize, least: usize) -> Claim {
        Claim { pool, weight: weight * PARTS, needs, least }
    }

    #[test]
    fn a_tenant_has_its_weight_once_however_many_pools_it_uses() {
        let [a, b, c] = ["a", "b", "c"].map(Arc::<str>::from);
        let mut active = vec![vec![(a, 4)]; 9];
        active.push(vec![(b.clone(), 4)]);
        let parts = weights(&active);
        assert_eq!((parts[..9].iter().sum::<u64>(), parts[9]), (4 * PARTS, 4 * PARTS));
        let claims: Vec<_> = (0..10).map(|pool| Claim { pool, weight: parts[pool], needs: 50, least: 0 }).collect();
        let given = Apportion::default().give(18, &claims, 0);
        assert_eq!((given[..9].iter().sum::<usize>(), given[9]), (9, 9));
        // Beside others.
        assert_eq!(
            weights(&[vec![(b.clone(), 16), (c.clone(), 1)], vec![(c, 1)], vec![]]),
            [16 * PARTS + PARTS / 2, PARTS / 2, 0]
        );
    }

    #[test]
    fn each_has_what_it_needs_and_the_rest_is_shared_by_weight() {
        for (total, claims, expected) in [
            (20, vec![claim(1, 4, 200, 0), claim(2, 4, 4, 0)], vec![16, 4]),
            (20, vec![claim(1, 4, 200, 0), claim(2, 4, 200, 0)], vec![10, 10]),
            (20, vec![claim(1, 16, 200, 0), claim(2, 4, 200, 0)], vec![16, 4]),
            (20, vec![claim(1, 16, 200, 0), claim(2, 4, 0, 7)], vec![13, 7]),
            (20, vec![claim(1, 4, 3, 0), claim(2, 4, 4, 0)], vec![3, 4]),
            (3, vec![claim(1, 4, 3, 2), claim(2, 4, 4, 2)], vec![2, 1]),
            (0, vec![claim(1, 4, 3, 0)], vec![0]),
        ] {
            assert_eq!(Apportion::default().give(total, &claims, 0), expected, "{total} for {claims:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        /// More pools than connections, all of which always want some: each has its turn, by its weight, and no
        /// connection is given twice or to nobody.
        #[test]
        fn those_who_cannot_all_have_one_take_turns(
            total in 1usize..8, weights in proptest::collection::vec(0usize..3, 2..30), needs in 1usize..10,
        ) {
            let weights: Vec<_> = weights.iter().map(|weight| [1, 4, 16][*weight]).collect();
            let claims: Vec<_> =
                weights.iter().enumerate().map(|(pool, weight)| claim(pool, *weight, needs, 0)).collect();
            let mut apportion = Apportion::default();
            let mut had = vec![0; claims.len()];
            let turns = 4_000;
            for turn in 0..turns {
                let given = apportion.give(total, &claims, turn * QUANTUM);
                prop_assert_eq!(given.iter().sum::<usize>(), total.min(needs * claims.len()));
                had.iter_mut().zip(&given).for_each(|(had, given)| *had += given);
            }
            // By weight, save that none can have more than it needs all the time.
            let cap = needs as f64 * turns as f64;
            let fill = |level: f64| weights.iter().map(|weight| (*weight as f64 * level).min(cap)).sum::<f64>();
            let (mut low, mut high) = (0.0, cap);
            for _ in 0..100 {
                let middle = (low + high) / 2.0;
                if fill(middle) < had.iter().sum::<usize>() as f64 { low = middle } else { high = middle }
            }
            for (had, weight) in had.iter().zip(&weights) {
                let fair = (*weight as f64 * low).min(cap);
                prop_assert!((*had as f64 - fair).abs() < 0.1 * fair + 150.0, "{had} for {fair}, weight {weight}");
            }
        }
    }
}
