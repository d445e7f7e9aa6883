//! The numbers of one subscription for Prometheus, registered once so that counting is cheap.

use brolly_core::{Decision, Name};
use metrics::{Counter, Histogram, counter, histogram};

/// What a subscription counts.
pub(crate) struct Meters {
    acked: Counter,
    retried: Counter,
    dead: Counter,
    released: Counter,
    /// Attempts run again because others changed the state that they had read.
    pub conflicts: Counter,
    /// Deliveries that were decided before and only settled again.
    pub settled_again: Counter,
    /// How long handlers took.
    pub seconds: Histogram,
}

impl Meters {
    pub(crate) fn new(subscription: &Name) -> Self {
        let outcome = |outcome: &'static str| counter!("brolly_attempts_total", "subscription" => subscription.to_string(), "outcome" => outcome);
        Self {
            acked: outcome("ack"),
            retried: outcome("retry"),
            dead: outcome("dead_letter"),
            released: outcome("release"),
            conflicts: counter!("brolly_state_conflicts_total", "subscription" => subscription.to_string()),
            settled_again: counter!("brolly_settled_again_total", "subscription" => subscription.to_string()),
            seconds: histogram!("brolly_handler_duration_seconds", "subscription" => subscription.to_string()),
        }
    }

    pub(crate) fn decided(&self, decision: &Decision) {
        match decision {
            Decision::Ack => &self.acked,
            Decision::Retry { .. } => &self.retried,
            Decision::DeadLetter { .. } => &self.dead,
            Decision::Release { .. } => &self.released,
        }
        .increment(1);
    }
}
