//! Publishing on behalf of handlers: which broker has the topic, and topics that nobody made yet.

use std::{collections::BTreeMap, sync::Arc};

use brolly_catalog::{Catalog, Precondition};
use brolly_core::{Accepted, Code, Commit, Name, Outgoing, Refusal, Topic, defaults};
use brolly_ledger::{Begun, Ledger};

use crate::{Error, brokers::Fleet, meters::Sent};

/// With so many topics none is made for a handler any more: a plugin that makes up names must not
/// fill the catalog. An operator still can.
const MAX_TOPICS: usize = 10_000;

/// Adds what handlers publish to the commits of their outcomes.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub catalog: Arc<Catalog>,
    pub brokers: Arc<Fleet>,
    /// The queue whose deliveries are handled.
    pub queue: Name,
    pub ledger: Arc<Ledger>,
    pub runtime: tokio::runtime::Handle,
    pub sent: Arc<Sent>,
}

impl Publisher {
    /// Makes topics that a handler publishes to and nobody defined, so that the message has a place
    /// to be seen and routed from. An empty topic is all that stays if the outcome is lost after.
    ///
    /// Refused with [`Code::Unavailable`] where there are [`MAX_TOPICS`] already.
    pub(crate) fn ensure_topics(&self, subscription: &Name, outgoing: &[Outgoing]) -> Result<(), Error> {
        let snapshot = self.catalog.snapshot();
        for outgoing in outgoing.iter().filter(|outgoing| !snapshot.topics.contains_key(&outgoing.topic)) {
            if snapshot.topics.len() >= MAX_TOPICS {
                let detail =
                    format!("there is no topic {}, and there are {MAX_TOPICS} already", outgoing.topic);
                return Err(Refusal::new(Code::Unavailable, detail).into());
            }
            // Where the delivery came from, so that a queue that moves takes them along.
            let home = snapshot.queues.get(&self.queue).map(|queue| queue.value.broker.clone());
            let description = format!("first published to by the subscription {subscription}");
            let topic = Topic::on(home.unwrap_or_else(defaults::broker), description);
            let put = self.catalog.put(&outgoing.topic, topic, Precondition::Absent, None);
            match self.runtime.block_on(put).map_err(Error::from) {
                Ok(_) => tracing::info!(topic = %outgoing.topic, %subscription, "a handler's topic was made"),
                // Another delivery was faster.
                Err(Error::Refused(refusal)) if refusal.code == Code::Changed => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds messages to the commit, each by the broker that has its topic.
    pub(crate) fn stage(
        &self,
        outgoing: &[Outgoing],
        begun: &Begun,
        commit: &mut Commit,
    ) -> Result<Vec<Accepted>, Error> {
        if outgoing.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = self.catalog.snapshot();
        let mut by_broker: BTreeMap<Name, Vec<Outgoing>> = BTreeMap::new();
        for outgoing in outgoing {
            let topic = snapshot.topics.get(&outgoing.topic);
            let topic = topic.ok_or_else(|| Refusal::not_found("topic", outgoing.topic.as_str()))?;
            by_broker.entry(topic.value.broker.clone()).or_default().push(outgoing.clone());
        }
        let mut accepted = Vec::with_capacity(outgoing.len());
        for (broker, outgoing) in by_broker {
            let broker = self.brokers.get(&broker)?;
            accepted.extend(broker.stage_publish(&outgoing, &begun.origin(), commit)?);
        }
        Ok(accepted)
    }

    /// Counts what has been published.
    pub(crate) fn count(&self, outgoing: &[Outgoing]) {
        if outgoing.is_empty() {
            return;
        }
        let snapshot = self.catalog.snapshot();
        for outgoing in outgoing {
            let topic = snapshot.topics.get(&outgoing.topic);
            if let Some(broker) = topic.and_then(|topic| self.brokers.get(&topic.value.broker).ok()) {
                self.sent.accepted(broker.system(), &outgoing.topic, 1);
            }
        }
    }

    /// Hands a commit without an outcome to the store.
    pub(crate) fn submit(&self, stage: impl FnOnce(&mut Commit)) {
        let mut commit = Commit::default();
        stage(&mut commit);
        self.ledger.submit(commit);
    }
}
