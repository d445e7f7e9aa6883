//! The stream of deliveries from one queue.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use brolly_core::{BrokerError, Clock, Commit, Delivery, Lease, Settlement, Source};
use brolly_store::{Messages, keys};

use crate::{
    error::{Error, failed},
    queue::QueueIndex,
};

/// The one source of a queue.
pub(crate) struct EmbeddedSource {
    index: Arc<QueueIndex>,
    messages: Messages,
    clock: Arc<dyn Clock>,
}

impl EmbeddedSource {
    pub(crate) fn new(index: Arc<QueueIndex>, messages: Messages, clock: Arc<dyn Clock>) -> Self {
        Self { index, messages, clock }
    }
}

#[async_trait]
impl Source for EmbeddedSource {
    async fn ready(&self) -> Result<(), BrokerError> {
        self.index.ready().await;
        Ok(())
    }

    fn take(&self) -> Result<Option<Delivery>, BrokerError> {
        let Some(entry) = self.index.take() else { return Ok(None) };
        let loaded = match self.messages.message(entry.seq) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Error::Missing { seq: entry.seq }),
            Err(error) => Err(Error::from(error)),
        };
        match loaded {
            // An entry that never came back has no outcome: the commit of an outcome removes it.
            Ok(message) => Ok(Some(Delivery {
                message,
                lease: Lease { tag: entry.seq },
                record: Some(entry.seq),
                first: !entry.taken,
                attempts: 0,
                unfit: None,
            })),
            Err(error) => {
                self.index.give_back(entry.seq, Duration::ZERO, self.clock.now());
                Err(failed("take from", self.index.name(), error))
            }
        }
    }

    fn stage(&self, delivery: &Delivery, settlement: Settlement, commit: &mut Commit) {
        let seq = delivery.lease.tag;
        let key = keys::queue_entry(self.index.name(), seq);
        match settlement {
            Settlement::Ack => commit.delete(key),
            Settlement::Retry { delay, .. } | Settlement::Release { delay } => {
                let Some(mut entry) = self.index.in_flight(seq) else { return };
                entry.taken = true;
                let due = (!delay.is_zero()).then(|| self.clock.now().after(delay));
                // A row that cannot be encoded stays as it is: the delivery then comes back after a
                // restart without its delay, which loses nothing.
                if let Ok(row) = entry.to_row(due) {
                    commit.put(key, row);
                }
            }
        }
    }

    fn settle(&self, lease: Lease, settlement: Settlement) {
        self.index.settle(lease.tag, settlement, self.clock.now());
    }

    fn give_back(&self, lease: Lease, delay: Duration) {
        self.index.give_back(lease.tag, delay, self.clock.now());
    }

    fn close(&self) {
        self.index.close();
    }
}
