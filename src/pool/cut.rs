//! What is left of promises that cannot all be kept.

/// One connection is left to everybody, whatever is promised. Where all the others are promised, or more, each promise keeps
/// its part of them, rounded down. What that leaves over is everybody's as well: of those whose part is no whole connection
/// none is better off than the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut(Option<Parts>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    kept: usize,
    of: usize,
}

impl Cut {
    /// Of `promised`, all together, where there are so many connections.
    pub fn to(connections: usize, promised: usize) -> Self {
        let kept = connections.saturating_sub(1);
        Self((promised > kept).then_some(Parts { kept, of: promised }))
    }

    /// What is kept of one of the promises.
    pub fn part(self, promise: usize) -> usize {
        self.0.map_or(promise, |parts| promise * parts.kept / parts.of)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_is_left_and_nobody_keeps_more_than_his_part(
            connections in 0usize..200, promises in proptest::collection::vec(0usize..100, 0..20),
        ) {
            let promised = promises.iter().sum::<usize>();
            let cut = Cut::to(connections, promised);
            let kept: usize = promises.iter().map(|promise| cut.part(*promise)).sum();
            prop_assert!(kept < connections.max(1));
            prop_assert_eq!(kept == promised, promised < connections.max(1));
            // Each loses less than one connection to the rounding.
            prop_assert!(kept + promises.len() >= promised.min(connections.saturating_sub(1)));
            prop_assert!(promises.iter().all(|promise| cut.part(*promise) <= *promise));
        }
    }
}
