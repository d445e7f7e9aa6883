//! Accepting messages for a remote broker: an id once for each topic, sent and confirmed before the
//! publisher is answered, or staged in the outbox with a handler's outcome.

use std::{collections::HashSet, sync::Arc, time::Duration};

use brolly_core::{
    Accepted, BrokerError, Code, Commit, MessageId, Moved, Name, NewMessage, Origin, Outgoing, Refusal,
    Routing, whole_ms,
};
use brolly_store::{Claim, Identity, Parent, StoredMessage};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use crate::{
    Inner,
    error::failed,
    outbox::Destination,
    transport::{Parcel, To},
};

/// Rows that one commit of a bulk publish has, about: the store's own batches hold 200.
const COMMIT_ROWS: usize = 150;

/// A message that is new to its topic, and the claim on its id.
struct Fresh {
    stored: StoredMessage,
    delay: Option<Duration>,
    claim: Arc<Claim>,
}

/// Messages of a publish: what is answered, and what is to be sent.
struct Checked {
    accepted: Vec<Accepted>,
    fresh: Vec<Fresh>,
}

/// Accepts messages of a producer, and answers when the other side has confirmed them and their ids
/// are remembered.
pub(crate) async fn publish(
    inner: &Arc<Inner>,
    topic: &Name,
    messages: Vec<NewMessage>,
) -> Result<Vec<Accepted>, BrokerError> {
    let permit = admit(inner, messages.iter().map(|message| message.payload.len() + 1).sum()).await?;
    let (checking, to) = (inner.clone(), topic.clone());
    let checked = tokio::task::spawn_blocking(move || check(&checking, &to, messages));
    let Checked { accepted, fresh } = checked.await.map_err(|error| BrokerError::Failed {
        operation: "publish to",
        subject: topic.to_string(),
        source: Box::new(error),
    })??;
    let wanted = fresh.len();
    let (confirmed, error) = send(inner, fresh).await;
    let count = confirmed.len();
    if count > 0 {
        remember(inner, topic, confirmed, permit).await?;
    }
    match error {
        None => Ok(accepted),
        Some(BrokerError::Refused(refusal)) => Err(Refusal {
            detail: format!(
                "{} ({count} of {wanted} messages were accepted; publish with the same ids again)",
                refusal.detail
            ),
            ..refusal
        }
        .into()),
        Some(failed) => {
            tracing::warn!(%topic, error = %failed, confirmed = count, wanted, "a publish was not confirmed");
            let detail = format!(
                "the broker {} confirmed {count} of {wanted} messages ({failed}); publish again with the same ids: what \
                 has arrived is not handled twice",
                inner.name
            );
            Err(Refusal::new(Code::Unavailable, detail).into())
        }
    }
}

/// Waits until there is room for the payloads of a publish.
async fn admit(inner: &Inner, bytes: usize) -> Result<OwnedSemaphorePermit, BrokerError> {
    let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(crate::PUBLISH_BYTES);
    let permit = inner.admission.clone().acquire_many_owned(permits).await;
    Ok(permit.map_err(|_| Refusal::new(Code::Unavailable, "the broker is stopping"))?)
}

/// Takes a message over from another queue, and answers when the other side has confirmed it and its
/// id is remembered.
pub(crate) async fn forward(inner: &Arc<Inner>, moved: Moved<'_>) -> Result<(), BrokerError> {
    let (topic, message) = (moved.topic, Arc::new(moved.arriving()));
    let permit = admit(inner, message.payload.len() + 1).await?;
    let Routing { queues: routed, filter_errors } = inner.routes()?.route_message(&message);
    let identity = inner.messages.identify(topic, &message.id);
    let claim = match identity.map_err(|error| failed("move to", topic, error))? {
        Identity::Known(_) => None,
        Identity::Pending(_) => return Err(being_published(topic, &message.id).into()),
        Identity::New(claim) | Identity::Met(claim) => Some(claim),
    };
    let mark = Some(moved.mark.to_owned());
    let parcel = Parcel { to: To::Topic, message: message.clone(), routed: routed.clone(), moved: mark };
    inner.transport.send(vec![parcel]).await.pop().unwrap_or(Ok(()))?;
    let Some(claim) = claim else { return Ok(()) };
    let met_at = inner.clock.now();
    let stored = StoredMessage { message, met_at, routed, filter_errors, parent: None };
    remember(inner, topic, vec![Fresh { stored, delay: None, claim }], permit).await
}

/// Checks everything before anything is sent. Blocks on the store.
fn check(inner: &Inner, topic: &Name, messages: Vec<NewMessage>) -> Result<Checked, BrokerError> {
    let router = inner.routes()?;
    let mut checked = Checked { accepted: Vec::with_capacity(messages.len()), fresh: Vec::new() };
    let mut own = HashSet::new();
    for (number, message) in messages.into_iter().enumerate() {
        message.check().map_err(|refusal| Refusal {
            detail: format!("message {}: {}; nothing was accepted", number + 1, refusal.detail),
            ..refusal
        })?;
        let id = message.id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        let claim = claim(inner, topic, &id, &mut own)?;
        let duplicate = claim.is_none();
        if let Some(claim) = claim {
            let routing = router.route(topic, &id, &message);
            checked.fresh.push(fresh(inner, topic, &id, message, routing, None, claim));
        }
        checked.accepted.push(Accepted { id, topic: topic.clone(), duplicate });
    }
    Ok(checked)
}

/// The claim on the id of a message; none for one that was accepted before. `own` has the numbers of the
/// messages that are published along with it.
fn claim(
    inner: &Inner,
    topic: &Name,
    id: &str,
    own: &mut HashSet<u64>,
) -> Result<Option<Arc<Claim>>, BrokerError> {
    let identity = inner.messages.identify(topic, id).map_err(|error| failed("publish to", topic, error))?;
    let claim = match identity {
        Identity::Known(_) => {
            metrics::counter!("brolly_messages_duplicate_total", "topic" => topic.to_string()).increment(1);
            return Ok(None);
        }
        Identity::Pending(claim) if own.contains(&claim.seq()) => return Ok(None),
        Identity::Pending(_) => return Err(being_published(topic, id).into()),
        // One that was met has a number from a delivery that was taken. A publish that was cut off may have
        // reached some of its queues: it is sent to all of them, and those that have decided it settle it again.
        Identity::New(claim) | Identity::Met(claim) => claim,
    };
    Ok(own.insert(claim.seq()).then_some(claim))
}

fn being_published(topic: &Name, id: &str) -> Refusal {
    let detail =
        format!("the id {id} of the topic {topic} is being published or handled right now; try again");
    Refusal::new(Code::Unavailable, detail)
}

fn fresh(
    inner: &Inner,
    topic: &Name,
    id: &MessageId,
    message: NewMessage,
    routing: Routing,
    parent: Option<Parent>,
    claim: Arc<Claim>,
) -> Fresh {
    let now = inner.clock.now();
    let delay = message.delay();
    let stored = StoredMessage {
        message: Arc::new(message.accepted(id.clone(), topic.clone(), now)),
        met_at: now,
        routed: routing.queues,
        filter_errors: routing.filter_errors,
        parent,
    };
    Fresh { stored, delay, claim }
}

impl Fresh {
    /// A message that is held back goes to its queues by itself when it is due; any other is routed
    /// by the other side, so that everybody who listens there gets it.
    fn parcels(&self) -> Vec<Parcel> {
        let (message, routed) = (self.stored.message.clone(), self.stored.routed.clone());
        match self.delay {
            None => vec![Parcel { to: To::Topic, message, routed, moved: None }],
            Some(delay) => {
                let to = |queue: &Name| To::Queue { queue: queue.clone(), delay, attempts: 0 };
                let parcel = |queue: &Name| Parcel {
                    to: to(queue),
                    message: message.clone(),
                    routed: vec![queue.clone()],
                    moved: None,
                };
                routed.iter().map(parcel).collect()
            }
        }
    }

    fn destinations(&self) -> Vec<Destination> {
        let routed = self.stored.routed.clone();
        match self.delay {
            None => vec![Destination::Topic { routed }],
            Some(delay) => {
                let delay_ms = whole_ms(delay);
                routed.into_iter().map(|queue| Destination::Queue { queue, delay_ms }).collect()
            }
        }
    }
}

/// Sends what is new. Answers with what was confirmed, and with the first error.
async fn send(inner: &Inner, fresh: Vec<Fresh>) -> (Vec<Fresh>, Option<BrokerError>) {
    let parcels: Vec<Vec<Parcel>> = fresh.iter().map(Fresh::parcels).collect();
    let counts: Vec<usize> = parcels.iter().map(Vec::len).collect();
    let mut results = inner.transport.send(parcels.into_iter().flatten().collect()).await.into_iter();
    let mut confirmed = Vec::with_capacity(fresh.len());
    let mut first = None;
    for (fresh, count) in fresh.into_iter().zip(counts) {
        let errors: Vec<BrokerError> = results.by_ref().take(count).filter_map(Result::err).collect();
        if errors.is_empty() {
            confirmed.push(fresh);
        }
        first = first.or(errors.into_iter().next());
    }
    (confirmed, first)
}

/// Makes the ids durable. A crash before only means that the same id could be published again, and
/// is then found decided when it is delivered.
async fn remember(
    inner: &Arc<Inner>,
    topic: &Name,
    confirmed: Vec<Fresh>,
    permit: impl Send + 'static,
) -> Result<(), BrokerError> {
    let (durable, when_durable) = oneshot::channel();
    let (storing, to) = (inner.clone(), topic.clone());
    let staged = tokio::task::spawn_blocking(move || -> Result<(), BrokerError> {
        let mut commit = Commit::default();
        for fresh in confirmed {
            stage_message(&storing, &to, fresh.stored, fresh.claim, &mut commit)?;
            if commit.writes().len() >= COMMIT_ROWS {
                storing.store.submit(std::mem::take(&mut commit));
            }
        }
        commit.then(move || {
            drop(permit);
            // The publisher may have gone; its messages are accepted all the same.
            let _ = durable.send(());
        });
        storing.store.submit(commit);
        Ok(())
    });
    let broke_off = |source: Box<dyn std::error::Error + Send + Sync>| BrokerError::Failed {
        operation: "publish to",
        subject: topic.to_string(),
        source,
    };
    staged.await.map_err(|error| broke_off(Box::new(error)))??;
    when_durable.await.map_err(|_| broke_off("the store failed before the messages were durable".into()))
}

fn stage_message(
    inner: &Inner,
    topic: &Name,
    stored: StoredMessage,
    claim: Arc<Claim>,
    commit: &mut Commit,
) -> Result<(), BrokerError> {
    for (route, reason) in &stored.filter_errors {
        metrics::counter!("brolly_filter_errors_total", "route" => route.to_string()).increment(1);
        tracing::debug!(%route, id = stored.message.id, reason, "a filter could not be evaluated");
    }
    let staged = inner.messages.stage(claim.seq(), &stored, commit);
    staged.map_err(|error| failed("publish to", topic, error))?;
    commit.then(move || drop(claim));
    Ok(())
}

/// Adds the messages of a handler to the commit of its outcome; they are sent when that is durable.
pub(crate) fn stage_outgoing(
    inner: &Arc<Inner>,
    outgoing: &[Outgoing],
    origin: &Origin,
    commit: &mut Commit,
) -> Result<Vec<Accepted>, BrokerError> {
    let router = inner.routes()?;
    inner.outbox.check_room(outgoing.len())?;
    let parent = Parent { seq: origin.record, subscription: origin.subscription.clone() };
    let mut own = HashSet::new();
    let (mut accepted, mut all) = (Vec::with_capacity(outgoing.len()), Vec::new());
    for outgoing in outgoing {
        let (topic, message) = (&outgoing.topic, outgoing.message.clone());
        let id = message.id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        let claim = claim(inner, topic, &id, &mut own)?;
        let duplicate = claim.is_none();
        if let Some(claim) = claim {
            let routing = router.route(topic, &id, &message);
            all.push(fresh(inner, topic, &id, message, routing, Some(parent.clone()), claim));
        }
        accepted.push(Accepted { id, topic: topic.clone(), duplicate });
    }
    // Nothing is added to the commit before everything is accepted.
    for fresh in all {
        let topic = fresh.stored.message.topic.clone();
        for to in fresh.destinations() {
            let staged = inner.outbox.stage(fresh.claim.seq(), to, commit);
            staged.map_err(|error| failed("publish to", &topic, error))?;
        }
        stage_message(inner, &topic, fresh.stored, fresh.claim, commit)?;
    }
    Ok(accepted)
}
