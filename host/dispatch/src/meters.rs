//! The numbers of subscriptions and publishes for Prometheus. Each is registered once, so that counting
//! costs nanoseconds. The names that OpenTelemetry has for messaging are used where there are any;
//! docs/metrics.md lists them all.

use std::{
    collections::{HashMap, HashSet},
    sync::OnceLock,
    time::{Duration, Instant},
};

use brolly_core::{Code, Decision, Name};
use brolly_ledger::AttemptOutcome;
use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::{Mutex, RwLock};

/// Names of a kind that have numbers of their own; all further ones share one.
pub const NAMES: usize = 5_000;
/// The same for subscriptions and the time that their handlers take: that is 17 lines for each.
pub(crate) const TIMED: usize = 1_000;

/// What stands for the names beyond those. No name can look like it.
const OTHERS: &str = "(others)";

/// The names that have numbers of their own.
pub(crate) struct Names {
    most: usize,
    known: Mutex<HashSet<Name>>,
}

impl Names {
    /// So many at most.
    pub(crate) fn up_to(most: usize) -> Self {
        Self { most, known: Mutex::default() }
    }

    /// The label of a name.
    pub(crate) fn label(&self, name: &Name) -> String {
        let mut known = self.known.lock();
        if known.contains(name) || (known.len() < self.most && known.insert(name.clone())) {
            name.to_string()
        } else {
            OTHERS.to_owned()
        }
    }
}

/// What a subscription counts.
pub(crate) struct Meters {
    /// Deliveries that a worker has begun with.
    pub consumed: Counter,
    acked: Counter,
    retried: Counter,
    dead: Counter,
    released: Counter,
    /// Attempts run again because others changed the state that they had read.
    pub conflicts: Counter,
    /// Deliveries that were decided before and only settled again.
    pub settled_again: Counter,
    /// Deliveries that rest because what they need cannot be reached.
    pub held_back: Counter,
    timed: [(&'static str, String); 3],
    /// How long handlers took, by what they said; made with the first one that says it.
    seconds: [OnceLock<Histogram>; 4],
}

/// What handlers say that do not acknowledge, as label.
const FAILURES: [Option<&str>; 4] = [None, Some("retry"), Some("reject"), Some("fault")];

impl Meters {
    /// With the labels of a subscription and its queue; `timed` are the same ones for the time that handlers
    /// take.
    pub(crate) fn new(subscription: String, queue: String, timed: [String; 2], system: &'static str) -> Self {
        let outcome = |outcome: &'static str| counter!("brolly_attempts_total", "subscription" => subscription.clone(), "outcome" => outcome);
        let [timed_subscription, timed_queue] = timed;
        Self {
            consumed: counter!(
                "messaging_client_consumed_messages_total", "messaging_system" => system,
                "messaging_operation_name" => "receive", "messaging_destination_name" => queue,
                "messaging_consumer_group_name" => subscription.clone()
            ),
            acked: outcome("ack"),
            retried: outcome("retry"),
            dead: outcome("dead_letter"),
            released: outcome("release"),
            conflicts: counter!("brolly_state_conflicts_total", "subscription" => subscription.clone()),
            settled_again: counter!("brolly_settled_again_total", "subscription" => subscription.clone()),
            held_back: counter!("brolly_deliveries_held_back_total", "subscription" => subscription),
            timed: [
                ("messaging_system", system.to_owned()),
                ("messaging_destination_name", timed_queue),
                ("messaging_consumer_group_name", timed_subscription),
            ],
            seconds: Default::default(),
        }
    }

    pub(crate) fn took(&self, outcome: AttemptOutcome, time: Duration) {
        let said = match outcome {
            AttemptOutcome::Ack => 0,
            AttemptOutcome::Retry => 1,
            AttemptOutcome::Reject => 2,
            AttemptOutcome::Fault => 3,
            // No handler has seen it.
            AttemptOutcome::Expired | AttemptOutcome::Unfit => return,
        };
        if let (Some(seconds), Some(error)) = (self.seconds.get(said), FAILURES.get(said)) {
            seconds.get_or_init(|| self.histogram(*error)).record(time);
        }
    }

    fn histogram(&self, error: Option<&'static str>) -> Histogram {
        let mut labels = self.timed.to_vec();
        labels.push(("messaging_operation_name", "process".to_owned()));
        labels.extend(error.map(|error| ("error_type", error.to_owned())));
        histogram!("messaging_process_duration_seconds", &labels)
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

/// What was published, by topic.
pub(crate) struct Sent {
    topics: RwLock<HashMap<Name, (&'static str, Counter)>>,
    names: Names,
}

impl Default for Sent {
    fn default() -> Self {
        Self { topics: RwLock::default(), names: Names::up_to(NAMES) }
    }
}

impl Sent {
    /// Messages that a topic of a broker of this kind has accepted.
    pub(crate) fn accepted(&self, system: &'static str, topic: &Name, messages: u64) {
        if let Some((of, counter)) = self.topics.read().get(topic)
            && *of == system
        {
            counter.increment(messages);
            return;
        }
        let topics = &mut *self.topics.write();
        let counter = counter!(
            "messaging_client_sent_messages_total", "messaging_system" => system,
            "messaging_operation_name" => "publish", "messaging_destination_name" => self.names.label(topic)
        );
        counter.increment(messages);
        // What is shared by the names beyond the limit is looked up each time.
        if topics.len() < NAMES || topics.contains_key(topic) {
            topics.insert(topic.clone(), (system, counter));
        }
    }

    /// A publish over the API that ended, with the code of a refusal or `failed`.
    pub(crate) fn published(system: &'static str, began: Instant, error: Option<&'static str>) {
        let seconds = match error {
            None => histogram!(
                "messaging_client_operation_duration_seconds", "messaging_system" => system,
                "messaging_operation_name" => "publish"
            ),
            Some(error) => histogram!(
                "messaging_client_operation_duration_seconds", "messaging_system" => system,
                "messaging_operation_name" => "publish", "error_type" => error
            ),
        };
        seconds.record(began.elapsed());
    }

    /// The label of what a publish failed for.
    pub(crate) fn failure(error: &crate::Error) -> &'static str {
        match error {
            crate::Error::Refused(refusal) => refusal.code.as_str(),
            crate::Error::Alerts(_)
            | crate::Error::Broker(_)
            | crate::Error::Ledger(_)
            | crate::Error::Catalog(_)
            | crate::Error::Plugin(_)
            | crate::Error::Task { .. } => Code::Unavailable.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_limit_share_one_label() {
        let names = Names::up_to(3);
        let name = |at: usize| Name::new(&format!("n{at}")).unwrap();
        for at in 0..3 {
            assert_eq!(names.label(&name(at)), format!("n{at}"));
        }
        assert_eq!(names.label(&name(3)), OTHERS);
        assert_eq!(names.label(&name(0)), "n0");
        assert!(Name::new(OTHERS).is_err());
    }
}
