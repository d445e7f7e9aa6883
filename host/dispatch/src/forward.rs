//! The built-in handler that moves messages to a topic, on whichever broker that is. Made by the
//! controller in place of a plugin; what follows, the outcome and the settlement, is the same.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use brolly_catalog::Catalog;
use brolly_core::{Call, Effects, Handled, Handler, Moved, Name, Outcome, Refusal, Verdict};
use brolly_ledger::Ledger;
use tokio::time::sleep;

use crate::{Error, brokers::Fleet, worker::passes};

/// How long a worker waits when its message found no way. The messages behind it would find none either:
/// without a pause each of a long queue would be taken and put back.
const PAUSE: Duration = Duration::from_secs(1);

/// Moves messages to a topic.
pub(crate) struct Forwarder {
    pub topic: Name,
    pub catalog: Arc<Catalog>,
    pub brokers: Arc<Fleet>,
    pub ledger: Arc<Ledger>,
    pub runtime: tokio::runtime::Handle,
}

impl Handler for Forwarder {
    /// Answers when the topic's broker has confirmed the message.
    fn handle(&self, call: &Call<'_>) -> Handled {
        let began = Instant::now();
        let verdict = match self.runtime.block_on(self.forward(call)) {
            Ok(()) => Verdict::Outcome(Outcome::Ack),
            Err(Error::Refused(refusal)) if !passes(&refusal) => {
                let reason = format!("the topic {} does not take it: {}", self.topic, refusal.detail);
                Verdict::Outcome(Outcome::Reject { reason })
            }
            Err(error) => {
                self.runtime.block_on(sleep(PAUSE));
                Verdict::Unavailable(format!("not moved to the topic {}: {error}", self.topic))
            }
        };
        Handled {
            verdict,
            effects: Effects::default(),
            logs: Vec::new(),
            logs_dropped: 0,
            duration: began.elapsed(),
            memory_bytes: 0,
        }
    }
}

impl Forwarder {
    async fn forward(&self, call: &Call<'_>) -> Result<(), Error> {
        let snapshot = self.catalog.snapshot();
        let topic = snapshot.topics.get(&self.topic);
        let topic = topic.ok_or_else(|| Refusal::not_found("topic", self.topic.as_str()))?;
        let broker = self.brokers.get(&topic.value.broker)?;
        self.ledger.returns(&self.topic, &call.message.id).await?;
        let mark = format!("{}#{}", call.idempotency_key, call.attempt);
        let moved = Moved { topic: &self.topic, message: call.message, mark: &mark };
        Ok(broker.forward(moved).await?)
    }
}
