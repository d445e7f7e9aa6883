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

/// What stands for the names beyond [`NAMES`]. No name can look like it.
const OTHERS: &str = "(others)";

/// The names that have numbers of their own.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashSet<Name>>);

impl Names {
    /// The label of a name.
    pub(crate) fn label(&self, name: &Name) -> String {
        let mut known = self.0.lock();
        if known.contains(name) || (known.len() < NAMES && known.insert(name.clone())) {
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
    labels: [(&'static str, String); 3],
    /// How long handlers took that acknowledged.
    seconds: Histogram,
    /// The same of those that did not, by what they said instead.
    failed: [OnceLock<Histogram>; 3],
}

/// What attempts end with that do not acknowledge, as label.
const FAILURES: [&str; 3] = ["retry", "reject", "fault"];

impl Meters {
    pub(crate) fn new(subscription: String, queue: String, system: &'static str) -> Self {
        let outcome = |outcome: &'static str| counter!("brolly_attempts_total", "subscription" => subscription.clone(), "outcome" => outcome);
        let labels = [
            ("messaging_system", system.to_owned()),
            ("messaging_destination_name", queue),
            ("messaging_consumer_group_name", subscription.clone()),
        ];
        let mut received = labels.to_vec();
        received.push(("messaging_operation_name", "receive".to_owned()));
        Self {
            consumed: counter!("messaging_client_consumed_messages_total", &received),
            acked: outcome("ack"),
            retried: outcome("retry"),
            dead: outcome("dead_letter"),
            released: outcome("release"),
            conflicts: counter!("brolly_state_conflicts_total", "subscription" => subscription.clone()),
            settled_again: counter!("brolly_settled_again_total", "subscription" => subscription),
            seconds: Self::histogram(&labels, None),
            failed: Default::default(),
            labels,
        }
    }

    fn histogram(labels: &[(&'static str, String)], error: Option<&'static str>) -> Histogram {
        let mut labels = labels.to_vec();
        labels.push(("messaging_operation_name", "process".to_owned()));
        labels.extend(error.map(|error| ("error_type", error.to_owned())));
        histogram!("messaging_process_duration_seconds", &labels)
    }

    pub(crate) fn took(&self, outcome: AttemptOutcome, time: Duration) {
        let failure = match outcome {
            AttemptOutcome::Ack => None,
            AttemptOutcome::Retry => self.failed.first().zip(FAILURES.first()),
            AttemptOutcome::Reject => self.failed.get(1).zip(FAILURES.get(1)),
            AttemptOutcome::Fault => self.failed.get(2).zip(FAILURES.get(2)),
            // No handler has seen it.
            AttemptOutcome::Expired | AttemptOutcome::Unfit => return,
        };
        match failure {
            None => self.seconds.record(time),
            Some((cell, error)) => {
                cell.get_or_init(|| Self::histogram(&self.labels, Some(error))).record(time);
            }
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

/// What was published, by topic.
#[derive(Default)]
pub(crate) struct Sent {
    topics: RwLock<HashMap<Name, (&'static str, Counter)>>,
    names: Names,
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
        let names = Names::default();
        let name = |at: usize| Name::new(&format!("n{at}")).unwrap();
        for at in 0..NAMES {
            assert_eq!(names.label(&name(at)), format!("n{at}"));
        }
        assert_eq!(names.label(&name(NAMES)), OTHERS);
        assert_eq!(names.label(&name(0)), "n0");
        assert!(Name::new(OTHERS).is_err());
    }
}
