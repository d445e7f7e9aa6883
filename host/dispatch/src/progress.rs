//! How far a forward has come: what it has taken and moved, and what became of that where it went.

use brolly_core::{Code, Name, Refusal, Subscription};
use brolly_ledger::Tally;

use crate::{Error, Handle, QueueCounts, handle::blocking};

/// A forward, reconciled with the queues that it leads to.
#[derive(Debug)]
pub struct Progress {
    /// The queue that it takes from.
    pub queue: Name,
    /// What that still holds.
    pub left: QueueCounts,
    /// What became of the deliveries that it has taken.
    pub taken: Tally,
    /// The topic that it moves them to.
    pub topic: Name,
    /// The queues that a route leads to from there, in the order of their names.
    pub arrivals: Vec<Arrival>,
}

/// One queue that a forward leads to.
#[derive(Debug)]
pub struct Arrival {
    /// The queue.
    pub queue: Name,
    /// What it holds.
    pub counts: QueueCounts,
    /// The subscription that takes from it, with what became of its deliveries.
    pub subscription: Option<(Name, Tally)>,
}

impl Arrival {
    /// The messages that have come to this queue by whatever way; none where its broker cannot tell.
    #[must_use]
    pub fn arrived(&self) -> Option<u64> {
        let QueueCounts { ready, in_flight, delayed, dead, .. } = self.counts;
        let (_, tally) = self.subscription.clone().unzip();
        let Tally { acked, discarded, .. } = tally.unwrap_or_default();
        Some(ready? + in_flight? + delayed? + dead + acked + discarded)
    }
}

impl Handle {
    /// How far a forward has come. Reads the whole ledger: about two seconds for each million
    /// deliveries in it; only one call does so at a time.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Unsupported`] for a subscription that does not forward; a failing
    /// store.
    pub async fn progress(&self, name: &Name) -> Result<Progress, Error> {
        let subscription = self.get::<Subscription>(name)?.value;
        let Some(forward) = &subscription.forward else {
            let detail = format!("the subscription {name} has a plugin and does not forward");
            return Err(Refusal::new(Code::Unsupported, detail).into());
        };
        let tallies = {
            let _one = self.tallying().lock().await;
            let ledger = self.parts().ledger.clone();
            blocking("counting deliveries", move || ledger.tally()).await??
        };
        let tally = |name: &Name| tallies.get(name).copied().unwrap_or_default();
        let snapshot = self.catalog().snapshot();
        let routes = snapshot.routes.values().filter(|route| route.value.topic == forward.topic);
        let mut queues: Vec<&Name> = routes.map(|route| &route.value.queue).collect();
        queues.sort();
        queues.dedup();
        let mut arrivals = Vec::with_capacity(queues.len());
        for queue in queues {
            let consumer = snapshot.subscriptions.iter().find(|(_, entry)| entry.value.queue == *queue);
            arrivals.push(Arrival {
                queue: queue.clone(),
                counts: self.counts(queue).await?,
                subscription: consumer.map(|(name, _)| (name.clone(), tally(name))),
            });
        }
        Ok(Progress {
            left: self.counts(&subscription.queue).await?,
            queue: subscription.queue.clone(),
            taken: tally(name),
            topic: forward.topic.clone(),
            arrivals,
        })
    }
}
