//! Publishing on behalf of handlers: which broker has the topic, and topics that nobody made yet.

use std::sync::Arc;

use brolly_catalog::{Catalog, Precondition};
use brolly_core::{Accepted, Broker, Code, Commit, Name, Outgoing, Refusal, Topic, defaults};
use brolly_ledger::{Begun, Ledger};

use crate::Error;

/// With so many topics none is made for a handler any more: a plugin that makes up names must not
/// fill the catalog. An operator still can.
const MAX_TOPICS: usize = 10_000;

/// Adds what handlers publish to the commits of their outcomes.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub catalog: Arc<Catalog>,
    pub broker: Arc<dyn Broker>,
    pub ledger: Arc<Ledger>,
    pub runtime: tokio::runtime::Handle,
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
            let topic = Topic {
                broker: defaults::broker(),
                description: format!("first published to by the subscription {subscription}"),
                owners: Vec::new(),
            };
            let put = self.catalog.put(&outgoing.topic, topic, Precondition::Absent);
            match self.runtime.block_on(put).map_err(Error::from) {
                Ok(_) => tracing::info!(topic = %outgoing.topic, %subscription, "a handler's topic was made"),
                // Another delivery was faster.
                Err(Error::Refused(refusal)) if refusal.code == Code::Changed => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Adds messages to the commit.
    pub(crate) fn stage(
        &self,
        outgoing: &[Outgoing],
        begun: &Begun,
        commit: &mut Commit,
    ) -> Result<Vec<Accepted>, Error> {
        if outgoing.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.broker.stage_publish(outgoing, &begun.origin(), commit)?)
    }

    /// Hands a commit without an outcome to the store.
    pub(crate) fn submit(&self, stage: impl FnOnce(&mut Commit)) {
        let mut commit = Commit::default();
        stage(&mut commit);
        self.ledger.submit(commit);
    }
}
