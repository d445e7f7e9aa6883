//! What queues hold and whether they are as they are wanted, asked of their brokers; and their deletion.

use brolly_catalog::Precondition;
use brolly_core::{Code, Counts, Name, Queue, Refusal, Thing, Topic, whole_ms};

use crate::{Definition, Error, Handle};

/// What a queue holds; none means that the broker cannot tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// Waiting to be taken.
    pub ready: Option<u64>,
    /// Taken and not settled.
    pub in_flight: Option<u64>,
    /// Held back until their time.
    pub delayed: Option<u64>,
    /// Whether others have some in hand, perhaps, of which the broker does not tell.
    pub elsewhere: bool,
    /// Dead letters.
    pub dead: u64,
    /// Age of the oldest message that waits, in milliseconds; none if nothing does, or the broker
    /// cannot tell.
    pub oldest_age_ms: Option<u64>,
    /// Why the queue is not as it is wanted, or cannot be looked at, if so.
    pub trouble: Option<String>,
}

impl Handle {
    /// What a queue holds.
    ///
    /// # Errors
    /// [`Code::NotFound`]. A broker that cannot be asked is the queue's trouble, no error.
    pub async fn counts(&self, queue: &Name) -> Result<QueueCounts, Error> {
        let (counts, trouble) = match self.parts().brokers.get(&self.get::<Queue>(queue)?.value.broker) {
            Ok(broker) => match broker.counts(queue).await {
                Ok(counts) => (counts, broker.trouble(Thing::Queue(queue))),
                Err(error) => {
                    (Counts::default(), broker.trouble(Thing::Queue(queue)).or(Some(error.to_string())))
                }
            },
            Err(error) => (Counts::default(), Some(error.to_string())),
        };
        let now = self.parts().clock.now();
        let age = |at| whole_ms(now.since(at));
        Ok(QueueCounts {
            ready: counts.ready,
            in_flight: counts.in_flight,
            delayed: counts.delayed,
            elsewhere: counts.elsewhere,
            dead: self.parts().ledger.dead_letters().count(queue),
            oldest_age_ms: counts.oldest.map(age),
            trouble,
        })
    }

    /// Why a topic is not on its broker as it is wanted, if it is not.
    #[must_use]
    pub fn topic_trouble(&self, name: &Name) -> Option<String> {
        let broker = self.get::<Topic>(name).ok()?.value.broker.clone();
        match self.parts().brokers.get(&broker) {
            Ok(broker) => broker.trouble(Thing::Topic(name)),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Deletes a queue that nothing uses; `force` drops the messages and dead letters that it holds.
    ///
    /// # Errors
    /// As [`Handle::delete`], and [`Code::NotEmpty`].
    pub async fn delete_queue(&self, name: &Name, only_if: Precondition, force: bool) -> Result<(), Error> {
        let broker = self.parts().brokers.get(&self.get::<Queue>(name)?.value.broker);
        let counts = self.counts(name).await?;
        let waiting = [counts.ready, counts.in_flight, counts.delayed].into_iter().flatten().sum::<u64>();
        if !force && waiting + counts.dead > 0 {
            return Err(Refusal::new(
                Code::NotEmpty,
                format!(
                    "the queue {name} holds {waiting} messages and {} dead letters; handle or delete them first, or \
                     drop them with ?force=true",
                    counts.dead
                ),
            )
            .into());
        }
        Queue::check_unused(name, &self.catalog().snapshot())?;
        match broker {
            Ok(broker) => broker.delete_queue(name, force).await?,
            // Its broker is gone for good, perhaps; what is left there is not ours to judge.
            Err(error) if force => tracing::warn!(queue = %name, %error, "a queue was deleted here only"),
            Err(error) => return Err(error),
        }
        self.catalog().delete::<Queue>(name, only_if, self.author()).await?;
        self.configure_brokers().await?;
        self.discard_all(name).await
    }
}
