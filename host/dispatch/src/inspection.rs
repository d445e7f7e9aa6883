//! Looking without touching: where a message would go, what waits in a queue, who changed what.

use brolly_catalog::{Catalog, Definition, Entry, Record, Records};
use brolly_core::{Code, Name, NewMessage, Queue, Refusal, Route, Router, Timestamp, Topic, defaults};
use brolly_ledger::Reasons;

use crate::{Error, Handle, Page, handle::blocking};

/// What a route says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the route's queue.
    Matches,
    /// Its key does not match the pattern.
    KeyDiffers,
    /// The filter is not true for it.
    FilteredOut,
    /// The filter cannot be evaluated for it, for this reason; so the route does not match.
    FilterFails(String),
}

/// A message that waits in a queue, with its place.
pub type Waiting = (u64, brolly_ledger::StoredMessage);

impl Handle {
    /// How many definitions of a kind there are.
    #[must_use]
    pub fn count<T: Definition>(&self) -> usize {
        T::map(&self.catalog().snapshot()).len()
    }

    /// The revision of all definitions together, which grows with every change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.catalog().snapshot().revision
    }

    /// What the host's clock says.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.parts().clock.now()
    }

    /// The most routes that [`Handle::explain`] asks.
    pub const EXPLAINED: usize = 1_000;

    /// Asks every route of a topic about a message that is not published, in the order of their names.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Unsupported`] for a topic with more than [`Handle::EXPLAINED`] routes.
    pub fn explain(
        &self,
        topic: &Name,
        message: &NewMessage,
    ) -> Result<Vec<(Name, Entry<Route>, Verdict)>, Error> {
        self.get::<Topic>(topic)?;
        let snapshot = self.catalog().snapshot();
        let routes: Vec<_> =
            snapshot.routes.iter().filter(|(_, entry)| entry.value.topic == *topic).collect();
        if routes.len() > Self::EXPLAINED {
            let detail =
                format!("the topic {topic} has {} routes; {} can be asked", routes.len(), Self::EXPLAINED);
            return Err(Refusal::new(Code::Unsupported, detail).into());
        }
        let asked = routes.into_iter().map(|(name, entry)| {
            let verdict = verdict(name, &entry.value, message)?;
            Ok((name.clone(), entry.clone(), verdict))
        });
        asked.collect()
    }

    /// The masks of a topic and of some queues together, for a message that is of the topic and in the queues.
    pub fn masks<'a>(&self, topic: &Name, queues: impl IntoIterator<Item = &'a Name>) -> Vec<String> {
        let snapshot = self.catalog().snapshot();
        let of_topic = snapshot.topics.get(topic).map(|entry| &entry.value.mask);
        let of_queues = queues.into_iter().filter_map(|queue| Some(&snapshot.queues.get(queue)?.value.mask));
        of_topic.into_iter().chain(of_queues).flatten().cloned().collect()
    }

    /// What waits in a queue, in flight or not: the oldest first.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Unsupported`] for a queue on a broker elsewhere, where looking at a
    /// message means to take it; a failing store.
    pub async fn peek(&self, queue: &Name, after: Option<u64>, limit: usize) -> Result<Page<Waiting>, Error> {
        let broker = self.get::<Queue>(queue)?.value.broker.clone();
        if broker != defaults::broker() {
            let detail = format!(
                "the queue {queue} lives on the broker {broker}, where a message cannot be looked at without being \
                 taken; search for its messages instead"
            );
            return Err(Refusal::new(Code::Unsupported, detail).into());
        }
        let (ledger, queue) = (self.parts().ledger.clone(), queue.clone());
        let peeked = blocking("looking into a queue", move || ledger.peek(&queue, after, limit + 1)).await?;
        let mut items = peeked?;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(|(seq, _)| seq.to_string()) } else { None };
        Ok(Page { items, next })
    }

    /// What the dead letters of a subscription's queue were given up for.
    ///
    /// # Errors
    /// [`Code::NotFound`]; a failing store.
    pub async fn dead_letter_reasons(&self, subscription: &Name) -> Result<Reasons, Error> {
        let queue = self.get::<brolly_core::Subscription>(subscription)?.value.queue.clone();
        let ledger = self.parts().ledger.clone();
        Ok(blocking("grouping dead letters", move || ledger.dead_letter_reasons(&queue)).await??)
    }

    /// Who changed what, the latest first; see [`Catalog::audit`].
    ///
    /// # Errors
    /// A failing store.
    pub async fn audit(
        &self,
        wanted: Records,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page<Record>, Error> {
        let parts = self.parts().clone();
        let catalog = move || Catalog::audit(&parts.catalog, &wanted, before, limit);
        let (items, next) = blocking("reading the audit log", catalog).await??;
        Ok(Page { items, next: next.map(|number| number.to_string()) })
    }
}

/// Asks one route alone, with the router that messages go through.
fn verdict(name: &Name, route: &Route, message: &NewMessage) -> Result<Verdict, Refusal> {
    let router = Router::new(&Router::default(), [(name, route)])?;
    let routing = router.route(&route.topic, message.id.as_deref().unwrap_or_default(), message);
    if let Some((_, why)) = routing.filter_errors.into_iter().next() {
        return Ok(Verdict::FilterFails(why));
    }
    Ok(if !routing.queues.is_empty() {
        Verdict::Matches
    } else if router.routes_to(&route.topic, &route.queue, &message.key) {
        Verdict::FilteredOut
    } else {
        Verdict::KeyDiffers
    })
}
