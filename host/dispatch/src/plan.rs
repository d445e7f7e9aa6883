//! How a subscription handles deliveries at this moment. A change makes a new plan, which the
//! workers take up with their next delivery.

use std::{sync::Arc, time::Duration};

use brolly_core::{Accepted, Call, Decision, Handler, Message, Name, Outside, Subscription, Timestamp};
use brolly_ledger::{Begun, StateView};

use crate::{
    rates::Pace,
    rollout::{Handling, Rollout},
    tenure::Tenure,
};

/// A handler with what belongs to it.
pub(crate) struct Plan {
    pub name: Name,
    pub definition: Arc<Subscription>,
    pub handler: Arc<dyn Handler>,
    pub outside: Arc<dyn Outside>,
    /// What the handler's version has done.
    pub tenure: Arc<Tenure>,
    /// A candidate that shares its deliveries.
    pub rollout: Option<Arc<Rollout>>,
    /// How fast it may go.
    pub pace: Option<Arc<Pace>>,
    /// Older messages of the queue are not handled any more.
    pub max_age: Option<Duration>,
}

impl Plan {
    /// Has the handler make one attempt, or the candidate that shares its deliveries.
    pub(crate) fn handle(&self, message: &Message, begun: &Begun, state: &StateView) -> Handling {
        let call = Call {
            message,
            subscription: &self.name,
            attempt: begun.attempt,
            last_attempt: begun.attempt >= self.definition.retry.max_attempts,
            idempotency_key: &begun.idempotency_key,
            state,
            outside: &*self.outside,
        };
        match &self.rollout {
            None => {
                let (handled, version) = (self.handler.handle(&call), self.definition.version);
                Handling { handled, version, sample: None }
            }
            Some(rollout) => rollout.handle(&call),
        }
    }

    /// Whether its deliveries are moved elsewhere.
    pub(crate) fn forwards(&self) -> bool {
        self.definition.forward.is_some()
    }

    /// What a delivery became elsewhere by being moved.
    pub(crate) fn forwarded(&self, message: &Message, decision: &Decision) -> Option<Accepted> {
        let forward = self.definition.forward.as_ref().filter(|_| *decision == Decision::Ack)?;
        Some(Accepted { id: message.id.clone(), topic: forward.topic.clone(), duplicate: false })
    }

    /// Why the message is too old to be handled, if it is.
    pub(crate) fn expired(&self, message: &Message, now: Timestamp) -> Option<String> {
        let age = now.since(message.published_at);
        if message.expires_at.is_some_and(|moment| moment <= now) {
            return Some(format!(
                "expired: its publisher wanted it handled before it was {} ms old",
                age.as_millis()
            ));
        }
        let limit = self.max_age.filter(|limit| age > *limit)?;
        let (age, limit) = (age.as_millis(), limit.as_millis());
        Some(format!(
            "expired: it is {age} ms old, the queue keeps messages for {limit} ms (retention.max_age_ms)"
        ))
    }
}
