//! Pools that are promised more than there is.

use proptest::prelude::*;

use super::super::apportion::QUANTUM;
use super::super::weight::HEAVIEST;
use super::*;

/// Of a host on which nothing is beside the pools.
fn supply(for_pools: usize, open: usize) -> Supply {
    Supply { for_pools, for_promises: for_pools, free: for_pools as isize - open as isize, kept: 0, owed: 0 }
}

/// A pool of one tenant, which waits for all that it needs.
fn wants(pool: usize, weight: u32, needs: usize, least: usize) -> Wants {
    let claim = Claim { pool, weight: 0, needs, least };
    let active = (needs > 0).then(|| (format!("tenant {pool}").into(), weight));
    Wants { claim, active: active.into_iter().collect(), open: 0, lacking: needs, idle_since: Vec::new() }
}

/// As many as a pool may have; [`usize::MAX`] is all that it wants.
fn allowed(plan: &Plan, wants: &[Wants]) -> Vec<usize> {
    let wanted = wants.iter().zip(&plan.least).map(|(wants, least)| wants.claim.needs.max(*least));
    plan.allowed.iter().zip(wanted).map(|(allowed, wanted)| wanted.min(*allowed)).collect()
}

#[test]
fn each_keeps_its_part_of_what_cannot_all_be_kept() {
    for (total, leasts, expected) in [
        (7, vec![2, 4], vec![2, 4]),
        (7, vec![2, 4, 6], vec![1, 2, 3]),
        (7, vec![3, 3, 3], vec![2, 2, 2]),
        // Whoever is promised little has what is left over in his turn.
        (7, vec![1, 20], vec![0, 5]),
        (4, vec![1; 10], vec![0; 10]),
        (1, vec![1], vec![0]),
        (12, vec![5, 5, 5], vec![3, 3, 3]),
        (0, vec![1, 2], vec![0, 0]),
    ] {
        let pools: Vec<_> = leasts.iter().enumerate().map(|(pool, least)| wants(pool, 4, 9, *least)).collect();
        let plan = Keeper::default().plan(supply(total, 0), pools, 0);
        assert_eq!(plan.least, expected, "{leasts:?} of {total}");
        let all = expected.iter().sum();
        assert_eq!(plan.promises, Promises { all, open: all });
    }
}

/// What clients keep for themselves (`LISTEN`, replication) was there before something was promised: until they let it go
/// there is less to be kept, but no more for others like them.
#[test]
fn what_lasts_leaves_one_to_everybody_too() {
    let pools = vec![wants(1, 4, 9, 4), wants(2, 4, 9, 2), wants(3, 4, 9, 0)];
    let supply = Supply { for_pools: 4, ..supply(7, 0) };
    let plan = Keeper::default().plan(supply, pools, 0);
    assert_eq!(plan.least, [2, 1, 0]);
    assert_eq!(plan.promises, Promises { all: 6, open: 3 });
    // What is lost to rounding is theirs.
    let pools = || vec![wants(1, 4, 9, 2), wants(2, 4, 9, 5)];
    let few = |for_pools| Keeper::default().plan(Supply { for_pools, ..supply }, pools(), 0);
    assert_eq!([6, 5].map(|for_pools| few(for_pools).least), [vec![1, 4], vec![0, 3]]);
    assert_eq!(plan.allowed.iter().sum::<usize>(), 4);
}

fn pools() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    proptest::collection::vec((0usize..3, 0usize..9, 0usize..7), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is promised, no more is given than there is, each pool keeps its part, every pool that wants some has its
    /// turn, and none has less for the place that it has in the list.
    #[test]
    fn whatever_is_promised_nobody_starves(
        total in 1usize..12, services in 0usize..4, pools in pools(), turns in 1usize..80, rotated in 0usize..14,
    ) {
        let pools: Vec<_> = pools.iter().enumerate().map(|(pool, (weight, needs, least))| {
            wants(pool, [1, 4, 16][*weight], *needs, *least)
        }).collect();
        let there = Supply { for_pools: total.saturating_sub(services), ..supply(total, 0) };
        let (mut keeper, mut other) = (Keeper::default(), Keeper::default());
        let mut turned = pools.clone();
        turned.rotate_left(rotated % pools.len());
        let mut had = vec![0; pools.len()];
        let weight: u32 = [1, 4, 16].iter().sum::<u32>() * pools.len() as u32;
        for turn in 0..turns.max((weight + HEAVIEST) as usize * 2) {
            let now = turn as u64 * QUANTUM;
            let plan = keeper.plan(there, pools.clone(), now);
            let given = allowed(&plan, &pools);
            prop_assert!(given.iter().sum::<usize>() <= there.for_pools, "{given:?}");
            let mut least: Vec<_> = pools.iter().map(|pool| pool.claim.least).collect();
            for there in [there.for_promises, there.for_pools] {
                let (promised, room) = (least.iter().sum::<usize>(), there.saturating_sub(1));
                least.iter_mut().filter(|_| promised > room).for_each(|least| *least = *least * room / promised);
            }
            prop_assert_eq!(&plan.least, &least);
            for at in 0..pools.len() {
                prop_assert!(plan.allowed[at] >= least[at], "{:?}", plan);
                had[at] += given[at];
            }
            let mut same = other.plan(there, turned.clone(), now);
            for of in [&mut same.allowed, &mut same.least] {
                of.rotate_right(rotated % pools.len());
            }
            prop_assert_eq!(same, plan);
        }
        for (had, pool) in had.iter().zip(&pools) {
            prop_assert!(*had > 0 || pool.claim.needs == 0 || there.for_pools == 0, "{pool:?} had none");
        }
    }
}
