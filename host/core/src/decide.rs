//! What becomes of a delivery: a pure function of what the handler said, the attempt and the policy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Outcome, Verdict};

/// How often and how far apart a failed delivery is tried again.
///
/// The n-th retry waits `initial_delay_ms * 2^(n-1)`, at most `max_delay_ms`, spread by ±20 % so
/// that deliveries which failed together do not come back together. A delay that the handler asks
/// for is kept as it is, up to [`RetryPolicy::MAX_DELAY_MS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts in all, the first included: 1 to 100.
    pub max_attempts: u32,
    /// Milliseconds before the first retry: 0 to 86,400,000.
    pub initial_delay_ms: u64,
    /// The longest delay in milliseconds: 0 to 86,400,000 (one day), not below `initial_delay_ms`.
    pub max_delay_ms: u64,
}

impl RetryPolicy {
    /// The most attempts a policy may ask for.
    pub const MAX_ATTEMPTS: u32 = 100;
    /// The longest delay, in a policy or asked for by a handler: one day.
    pub const MAX_DELAY_MS: u64 = 86_400_000;

    /// The delay before the attempt that follows `attempt`; `spread` is a random number in [0, 1).
    #[must_use]
    pub fn delay(&self, attempt: u32, spread: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(63);
        let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
        let base = Duration::from_millis(self.initial_delay_ms.saturating_mul(factor).min(self.max_delay_ms));
        base.mul_f64(0.8 + 0.4 * spread.clamp(0.0, 1.0))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 5, initial_delay_ms: 200, max_delay_ms: 60_000 }
    }
}

/// What is to be done with a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Handled: its effects take place.
    Ack,
    /// Try again after the delay.
    Retry {
        /// How long to wait.
        delay: Duration,
        /// Why.
        reason: String,
        /// Whether the attempt counts toward the retry policy.
        counts: bool,
    },
    /// Keep it as a dead letter.
    DeadLetter {
        /// Why.
        reason: String,
    },
    /// Try again after the delay as if it had never been taken: the trouble was the host's own, so
    /// no attempt is counted.
    Release {
        /// How long to wait.
        delay: Duration,
        /// Why.
        reason: String,
    },
}

/// What the broker is told of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Remove it: it is handled, or it is kept elsewhere as a dead letter.
    Ack,
    /// Deliver it again after the delay; so many attempts were made at it.
    Retry {
        /// How long to hold it back.
        delay: Duration,
        /// Attempts made so far, this one included.
        attempts: u32,
    },
    /// Deliver it again after the delay, as if it had never been taken.
    Release {
        /// How long to hold it back.
        delay: Duration,
    },
}

impl Decision {
    /// What the broker is told after an attempt with this number.
    #[must_use]
    pub fn settlement(&self, attempt: u32) -> Settlement {
        match self {
            Decision::Ack | Decision::DeadLetter { .. } => Settlement::Ack,
            Decision::Retry { delay, .. } => {
                Settlement::Retry { delay: *delay, attempts: self.counted(attempt) }
            }
            Decision::Release { delay, .. } => Settlement::Release { delay: *delay },
        }
    }

    /// How many attempts count after one with this number.
    #[must_use]
    pub fn counted(&self, attempt: u32) -> u32 {
        match self {
            Decision::Retry { counts: false, .. } => attempt.saturating_sub(1),
            Decision::Retry { counts: true, .. }
            | Decision::Ack
            | Decision::DeadLetter { .. }
            | Decision::Release { .. } => attempt,
        }
    }
}

/// How long a delivery rests after trouble of the host's own, such as a full queue downstream.
const RELEASE_DELAY: Duration = Duration::from_secs(1);

/// Decides what becomes of a delivery. `attempt` counts from 1; `spread` is a random number in [0, 1).
/// `spared` says that faults are held against the version of the handler and not against the delivery.
#[must_use]
pub fn decide(verdict: &Verdict, attempt: u32, policy: &RetryPolicy, spared: bool, spread: f64) -> Decision {
    let (asked, reason) = match verdict {
        Verdict::Outcome(Outcome::Ack) => return Decision::Ack,
        Verdict::Outcome(Outcome::Reject { reason }) => {
            return Decision::DeadLetter { reason: reason.clone() };
        }
        Verdict::Unavailable(reason) => {
            return Decision::Release { delay: RELEASE_DELAY, reason: reason.clone() };
        }
        Verdict::Outcome(Outcome::Retry { reason, delay, .. }) => (*delay, reason.clone()),
        Verdict::Fault(fault) => (None, fault.to_string()),
    };
    let counts = match verdict {
        Verdict::Fault(_) => !spared,
        Verdict::Outcome(Outcome::Retry { dependency, .. }) => dependency.is_none(),
        Verdict::Outcome(Outcome::Ack | Outcome::Reject { .. }) | Verdict::Unavailable(_) => true,
    };
    if counts && attempt >= policy.max_attempts {
        let reason = match attempt {
            1 => format!("the only attempt failed: {reason}"),
            n => format!("all {n} attempts failed; the last: {reason}"),
        };
        return Decision::DeadLetter { reason };
    }
    let delay = asked
        .map(|delay| delay.min(Duration::from_millis(RetryPolicy::MAX_DELAY_MS)))
        .unwrap_or_else(|| policy.delay(attempt, spread));
    Decision::Retry { delay, reason, counts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;

    const POLICY: RetryPolicy = RetryPolicy { max_attempts: 3, initial_delay_ms: 100, max_delay_ms: 250 };

    fn check(verdict: Verdict, attempt: u32, expect: Decision) {
        assert_eq!(decide(&verdict, attempt, &POLICY, false, 0.5), expect);
    }

    #[test]
    fn attempts_that_are_not_the_deliverys_fault_do_not_count() {
        let fault = Verdict::Fault(Fault::TimeOut { limit_ms: 9 });
        let named = Verdict::Outcome(Outcome::Retry {
            reason: "down".into(),
            delay: None,
            dependency: Some("insurer".into()),
        });
        for (verdict, spared) in [(&fault, true), (&named, false)] {
            let decision = decide(verdict, 3, &POLICY, spared, 0.5);
            assert!(matches!(decision, Decision::Retry { counts: false, .. }), "{decision:?}");
            let Settlement::Retry { attempts, .. } = decision.settlement(3) else { panic!("{decision:?}") };
            assert_eq!((attempts, decision.counted(3)), (2, 2));
        }
        let decision = decide(&fault, 2, &POLICY, false, 0.5);
        assert_eq!((decision.counted(2), Decision::Ack.counted(2)), (2, 2));
    }

    fn retry(delay: Option<u64>) -> Verdict {
        let delay = delay.map(Duration::from_millis);
        Verdict::Outcome(Outcome::Retry { reason: "busy".into(), delay, dependency: None })
    }

    fn again(ms: u64, reason: &str) -> Decision {
        Decision::Retry { delay: Duration::from_millis(ms), reason: reason.into(), counts: true }
    }

    #[test]
    fn every_verdict() {
        check(Verdict::Outcome(Outcome::Ack), 3, Decision::Ack);
        check(
            Verdict::Outcome(Outcome::Reject { reason: "no".into() }),
            1,
            Decision::DeadLetter { reason: "no".into() },
        );
        check(retry(None), 1, again(100, "busy"));
        check(retry(None), 2, again(200, "busy"));
        check(retry(Some(7)), 2, again(7, "busy"));
        check(retry(Some(u64::MAX)), 2, again(RetryPolicy::MAX_DELAY_MS, "busy"));
        check(
            retry(None),
            3,
            Decision::DeadLetter { reason: "all 3 attempts failed; the last: busy".into() },
        );
        check(
            Verdict::Fault(Fault::TimeOut { limit_ms: 9 }),
            1,
            again(100, &Fault::TimeOut { limit_ms: 9 }.to_string()),
        );
        let release = Decision::Release { delay: RELEASE_DELAY, reason: "full".into() };
        check(Verdict::Unavailable("full".into()), 3, release);
    }

    #[test]
    fn the_delay_doubles_up_to_its_limit_and_is_spread() {
        let ms = |attempt, spread| POLICY.delay(attempt, spread).as_millis();
        assert_eq!(
            [ms(1, 0.5), ms(2, 0.5), ms(3, 0.5), ms(64, 0.5), ms(u32::MAX, 0.5)],
            [100, 200, 250, 250, 250]
        );
        assert_eq!((ms(1, 0.0), ms(1, 1.0)), (80, 120));
    }
}
