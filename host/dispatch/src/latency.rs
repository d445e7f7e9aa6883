//! How long attempts take, and how long messages wait until they are handled: percentiles of the last
//! minutes, in sketches of bounded size. Both together cost an attempt about 80 ns.

use std::time::Duration;

use brolly_core::Timestamp;
use sketches_ddsketch::{Config, DDSketch};

/// Percentiles are of at least this time, and at most twice as much.
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// How far a percentile may be from the true one, as a part of it.
const ERROR: f64 = 0.02;
/// Steps of a sketch: enough for everything from a microsecond to many years at this error.
const STEPS: u32 = 1_024;
/// The smallest value, in microseconds.
const LEAST: f64 = 1.0;

/// Percentiles of durations, in microseconds; each within 2 % of the true one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// How many durations they are of.
    pub count: u64,
    /// Half took at most so long.
    pub p50_us: u64,
    /// 95 of 100 took at most so long.
    pub p95_us: u64,
    /// 99 of 100 took at most so long.
    pub p99_us: u64,
}

/// What is known of durations in the last minutes.
pub(crate) struct Latency {
    since: Timestamp,
    now: DDSketch,
    before: DDSketch,
}

impl Default for Latency {
    fn default() -> Self {
        Self { since: Timestamp::default(), now: sketch(), before: sketch() }
    }
}

fn sketch() -> DDSketch {
    DDSketch::new(Config::new(ERROR, STEPS, LEAST))
}

impl Latency {
    pub(crate) fn add(&mut self, took: Duration, at: Timestamp) {
        self.turn(at);
        self.now.add(took.as_secs_f64() * 1e6);
    }

    /// Begins a new window when the present one is over.
    fn turn(&mut self, at: Timestamp) {
        let age = at.since(self.since);
        if age < WINDOW {
            return;
        }
        let last = std::mem::replace(&mut self.now, sketch());
        self.before = if age < 2 * WINDOW { last } else { sketch() };
        self.since = at;
    }

    /// The percentiles; none if nothing took any time lately.
    pub(crate) fn read(&mut self, at: Timestamp) -> Option<Percentiles> {
        self.turn(at);
        let mut both = self.now.clone();
        // They have the same settings, so they can be merged.
        let _ = both.merge(&self.before);
        let quantile = |q: f64| Some(both.quantile(q).ok()??.round() as u64);
        Some(Percentiles {
            count: both.count() as u64,
            p50_us: quantile(0.5)?,
            p95_us: quantile(0.95)?,
            p99_us: quantile(0.99)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn near(found: u64, expect: u64) {
        let off = found.abs_diff(expect) as f64 / expect as f64;
        assert!(off <= ERROR + 0.001, "{found} is {off} from {expect}");
    }

    #[test]
    fn percentiles_are_within_two_percent_from_a_microsecond_to_a_week() {
        for scale in [1, 1_000, 1_000_000, 7 * 24 * 3_600 * 10_000] {
            let mut latency = Latency::default();
            assert_eq!(latency.read(Timestamp(1)), None);
            for us in 1..=100_u64 {
                latency.add(Duration::from_micros(us * scale), Timestamp(1));
            }
            let read = latency.read(Timestamp(1)).unwrap();
            assert_eq!(read.count, 100);
            near(read.p50_us, 50 * scale);
            near(read.p95_us, 95 * scale);
            near(read.p99_us, 99 * scale);
        }
    }

    #[test]
    fn what_takes_no_time_is_counted() {
        let mut latency = Latency::default();
        latency.add(Duration::ZERO, Timestamp(1));
        let read = latency.read(Timestamp(1)).unwrap();
        assert_eq!((read.count, read.p50_us, read.p99_us), (1, 0, 0));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut latency = Latency::default();
        let start = 100 * MINUTE;
        latency.add(Duration::from_micros(10), Timestamp(start));
        latency.add(Duration::from_micros(10), Timestamp(start + 4 * MINUTE));
        latency.add(Duration::from_micros(1_000), Timestamp(start + 6 * MINUTE));
        assert_eq!(latency.read(Timestamp(start + 9 * MINUTE)).unwrap().count, 3);
        let later = latency.read(Timestamp(start + 11 * MINUTE)).unwrap();
        assert_eq!(later.count, 1);
        near(later.p50_us, 1_000);
        assert_eq!(latency.read(Timestamp(start + 60 * MINUTE)), None);
    }

    #[test]
    fn its_size_is_bounded_whatever_is_added() {
        let mut latency = Latency::default();
        for exponent in 0..60 {
            for part in 0..200_u64 {
                let nanos = (1_u64 << exponent).saturating_mul(200 + part) / 200;
                latency.add(Duration::from_nanos(nanos), Timestamp(1));
            }
        }
        assert!(latency.now.length() <= STEPS as usize, "{} steps", latency.now.length());
    }
}
