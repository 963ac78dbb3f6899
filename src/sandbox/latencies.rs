//! Percentiles of measured times.

use std::time::Duration;

/// Of a set of times, by the nearest-rank method: each is one that was really measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies {
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
    pub max: Duration,
    /// How many times they stand for.
    pub samples: usize,
}

impl Latencies {
    /// From times in microseconds, in any order; `None` of none.
    pub fn from_micros(mut micros: Vec<u64>) -> Option<Self> {
        micros.sort_unstable();
        let samples = micros.len();
        let max = Duration::from_micros(*micros.last()?);
        let at = |percent: usize| Duration::from_micros(micros[(samples * percent).div_ceil(100).max(1) - 1]);
        Some(Self { p50: at(50), p95: at(95), p99: at(99), max, samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let latencies = Latencies::from_micros((1..=100).rev().collect()).unwrap();
        let micros = |n| Duration::from_micros(n);
        assert_eq!((latencies.p50, latencies.p95, latencies.p99), (micros(50), micros(95), micros(99)));
        assert_eq!((latencies.max, latencies.samples), (micros(100), 100));
    }

    #[test]
    fn one_value_is_every_percentile_and_none_is_none() {
        let one = Latencies::from_micros(vec![7]).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (one.max, one.max, Duration::from_micros(7)));
        assert_eq!(Latencies::from_micros(vec![]), None);
    }
}
