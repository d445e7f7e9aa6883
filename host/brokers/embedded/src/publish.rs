//! Accepting messages, from producers and from handlers: ids, routing, room, rows.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use brolly_core::{
    Accepted, BrokerError, Code, Commit, Message, MessageId, Moved, Name, NewMessage, Origin, Outgoing,
    Refusal, Routing, Timestamp,
};
use brolly_store::{Parent, StoredMessage, keys};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use crate::{Inner, entry::Entry, error::failed, queue::QueueIndex};

/// Rows that one commit of a bulk publish has, about: the store's own batches hold 200.
pub(crate) const COMMIT_ROWS: usize = 150;
/// Payloads of this size together, and more, are staged on a thread that may block.
const INLINE_BYTES: usize = 64 * 1024;
const INLINE_MESSAGES: usize = 64;

/// What publishers share.
#[derive(Default)]
pub(crate) struct Publishing {
    /// Held from looking an id up until its commit is submitted.
    order: Mutex<()>,
    /// Ids that are accepted and not yet durable, each with the publishers that wait for it. A lock of
    /// its own, held for moments: the store's thread takes it too.
    pending: Mutex<HashMap<(Name, MessageId), Waiting>>,
}

/// Publishers of one id that wait until it is durable.
type Waiting = Vec<oneshot::Sender<()>>;

/// Ids that others are publishing, each with the news that they have. They may yet give up: a handler
/// whose commit does not come to pass.
type Waits = Vec<(MessageId, oneshot::Receiver<()>)>;

/// A message that was checked and routed.
struct Routed {
    id: MessageId,
    message: NewMessage,
    routing: Routing,
}

/// Accepts messages of a producer, and answers when they are durable.
pub(crate) async fn publish(
    inner: &Arc<Inner>,
    topic: &Name,
    messages: Vec<NewMessage>,
) -> Result<Vec<Accepted>, BrokerError> {
    let bytes = messages.iter().map(|message| message.payload.len()).sum::<usize>();
    let permit = admit(inner, bytes + messages.len()).await?;
    let (durable, when_durable) = oneshot::channel();
    let (accepted, waits) = if bytes > INLINE_BYTES || messages.len() > INLINE_MESSAGES {
        let (inner, topic) = (inner.clone(), topic.clone());
        let staged = tokio::task::spawn_blocking(move || accept(&inner, &topic, messages, permit, durable));
        staged.await.map_err(|error| BrokerError::Failed {
            operation: "publish",
            subject: "messages".to_owned(),
            source: Box::new(error),
        })??
    } else {
        accept(inner, topic, messages, permit, durable)?
    };
    when_durable.await.map_err(|_| never_durable(topic))?;
    for (id, durable) in waits {
        durable.await.map_err(|_| being_published(topic, &id))?;
    }
    Ok(accepted)
}

/// Waits until there is room for the payloads of a publish.
async fn admit(inner: &Inner, bytes: usize) -> Result<OwnedSemaphorePermit, BrokerError> {
    inner.disk.check()?;
    let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(inner.config.publish_bytes);
    let permit = inner.admission.clone().acquire_many_owned(permits).await;
    Ok(permit.map_err(|_| Refusal::new(Code::Unavailable, "the broker is stopping"))?)
}

fn never_durable(topic: &Name) -> BrokerError {
    BrokerError::Failed {
        operation: "publish to",
        subject: topic.to_string(),
        source: "the store failed before the messages were durable".into(),
    }
}

/// Takes a message over from another queue, and answers when it is durable.
pub(crate) async fn forward(inner: &Arc<Inner>, moved: Moved<'_>) -> Result<(), BrokerError> {
    let (topic, message) = (moved.topic, moved.arriving());
    let permit = admit(inner, message.payload.len() + 1).await?;
    let routing = inner.routes()?.route_message(&message);
    if routing.queues.is_empty() {
        return Err(Refusal::no_queue(topic, &message.key).into());
    }
    let room = Room::reserve(inner, [(&routing, message.payload.len())].into_iter())?;
    let (durable, when_durable) = oneshot::channel();
    {
        let mut commit = Commit::default();
        let _order = inner.publishing.order.lock();
        if pending(inner, topic, &message.id).is_some() {
            return Err(being_published(topic, &message.id).into());
        }
        // Held until what is written of it is durable: its message must not be forgotten meanwhile.
        let held =
            inner.messages.hold(topic, &message.id).map_err(|error| failed("move to", topic, error))?;
        match &held {
            Some(held) => stage_again(inner, held.seq(), &message, &routing, &room, &mut commit)?,
            None => {
                let (message, met_at) = (Arc::new(message), inner.clock.now());
                let Routing { queues: routed, filter_errors } = routing;
                let stored = StoredMessage { message, met_at, routed, filter_errors, parent: None };
                stage_new(inner, stored, None, &room, &mut commit)?;
            }
        }
        commit.then(move || {
            drop((permit, held));
            let _ = durable.send(());
        });
        inner.store.submit(commit);
    }
    when_durable.await.map_err(|_| never_durable(topic))
}

/// Checks everything before it accepts anything; then nothing but the store can fail.
fn accept(
    inner: &Arc<Inner>,
    topic: &Name,
    messages: Vec<NewMessage>,
    permit: OwnedSemaphorePermit,
    durable: oneshot::Sender<()>,
) -> Result<(Vec<Accepted>, Waits), BrokerError> {
    let router = inner.routes()?;
    let mut routed = Vec::with_capacity(messages.len());
    for (number, message) in messages.into_iter().enumerate() {
        message.check().map_err(|refusal| in_message(number, refusal))?;
        let id = message.id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        let routing = router.route(topic, &id, &message);
        routed.push(Routed { id, message, routing });
    }
    let room =
        Room::reserve(inner, routed.iter().map(|routed| (&routed.routing, routed.message.payload.len())))?;
    let mut accepted = Vec::with_capacity(routed.len());
    let mut waits = Waits::new();
    let mut routed = routed.into_iter().peekable();
    loop {
        // INVARIANT: staged and submitted under the lock, so that whoever finds an id of ours stored or
        // pending submits after the commit that brought it, and becomes durable after it.
        let mut commit = Commit::default();
        let _order = inner.publishing.order.lock();
        while let Some(next) = routed.next_if(|_| commit.writes().len() < COMMIT_ROWS) {
            accepted.push(stage(inner, topic, next, None, &room, &mut waits, &mut commit)?);
        }
        if routed.peek().is_none() {
            commit.then(move || {
                drop(permit);
                // The publisher may have gone; its messages are accepted all the same.
                let _ = durable.send(());
            });
            inner.store.submit(commit);
            return Ok((accepted, waits));
        }
        inner.store.submit(commit);
    }
}

/// Adds the messages of a handler to the commit of its outcome.
pub(crate) fn stage_outgoing(
    inner: &Arc<Inner>,
    outgoing: &[Outgoing],
    origin: &Origin,
    commit: &mut Commit,
) -> Result<Vec<Accepted>, BrokerError> {
    if outgoing.is_empty() {
        return Ok(Vec::new());
    }
    inner.disk.check()?;
    let router = inner.routes()?;
    let mut routed = Vec::with_capacity(outgoing.len());
    for outgoing in outgoing {
        let message = outgoing.message.clone();
        let id = message.id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        let routing = router.route(&outgoing.topic, &id, &message);
        routed.push((&outgoing.topic, Routed { id, message, routing }));
    }
    let _order = inner.publishing.order.lock();
    let pending = inner.publishing.pending.lock();
    for (topic, routed) in &routed {
        // The commit that has this id is on its way and this one could overtake it; a moment later
        // the id is simply there.
        if pending.contains_key(&((*topic).clone(), routed.id.clone())) {
            return Err(being_published(topic, &routed.id).into());
        }
    }
    drop(pending);
    let sizes = routed.iter().map(|(_, routed)| (&routed.routing, routed.message.payload.len()));
    let room = Room::reserve(inner, sizes)?;
    let parent = Parent { seq: origin.record, subscription: origin.subscription.clone() };
    let mut accepted = Vec::with_capacity(routed.len());
    for (topic, routed) in routed {
        let (parent, waits) = (Some(parent.clone()), &mut Waits::new());
        accepted.push(stage(inner, topic, routed, parent, &room, waits, commit)?);
    }
    Ok(accepted)
}

fn being_published(topic: &Name, id: &str) -> Refusal {
    let detail = format!("the id {id} of the topic {topic} is being published right now");
    Refusal::new(Code::Unavailable, detail)
}

/// How an id is known.
enum Known {
    /// It is accepted and not yet durable; tells when it is.
    Pending(oneshot::Receiver<()>),
    /// The store has its message.
    Stored,
}

fn known(inner: &Inner, topic: &Name, id: &MessageId) -> Result<Option<Known>, BrokerError> {
    // In this order: an id leaves the pending ones only when the store has it.
    if let Some(when_durable) = pending(inner, topic, id) {
        return Ok(Some(Known::Pending(when_durable)));
    }
    let stored = inner.messages.find(topic, id).map_err(|error| failed("publish to", topic, error))?;
    Ok(stored.map(|_| Known::Stored))
}

/// What tells when an id is durable that is accepted and not durable yet.
fn pending(inner: &Inner, topic: &Name, id: &MessageId) -> Option<oneshot::Receiver<()>> {
    let mut pending = inner.publishing.pending.lock();
    let waiting = pending.get_mut(&(topic.clone(), id.clone()))?;
    let (durable, when_durable) = oneshot::channel();
    waiting.push(durable);
    Some(when_durable)
}

/// Adds one message to a commit, unless its topic has the id already.
fn stage(
    inner: &Arc<Inner>,
    topic: &Name,
    routed: Routed,
    parent: Option<Parent>,
    room: &Room,
    waits: &mut Waits,
    commit: &mut Commit,
) -> Result<Accepted, BrokerError> {
    let Routed { id, message, routing } = routed;
    if let Some(known) = known(inner, topic, &id)? {
        if let Known::Pending(when_durable) = known {
            waits.push((id.clone(), when_durable));
        }
        metrics::counter!("brolly_messages_duplicate_total", "topic" => topic.to_string()).increment(1);
        return Ok(Accepted { id, topic: topic.clone(), duplicate: true });
    }
    let now = inner.clock.now();
    let delay = message.delay();
    let stored = StoredMessage {
        message: Arc::new(message.accepted(id.clone(), topic.clone(), now)),
        met_at: now,
        routed: routing.queues,
        filter_errors: routing.filter_errors,
        parent,
    };
    stage_new(inner, stored, delay.map(|delay| now.after(delay)), room, commit)?;
    Ok(Accepted { id, topic: topic.clone(), duplicate: false })
}

/// Adds a message that its topic has not had, for the queues that it goes to.
fn stage_new(
    inner: &Arc<Inner>,
    stored: StoredMessage,
    due: Option<Timestamp>,
    room: &Room,
    commit: &mut Commit,
) -> Result<(), BrokerError> {
    let message = &stored.message;
    let seq = inner.messages.allocate();
    let entry = Entry::new(seq, message);
    for queue in &stored.routed {
        let row = entry.to_row(due).map_err(|error| failed("publish to", queue, error))?;
        commit.put(keys::queue_entry(queue, seq), row);
    }
    for (route, reason) in &stored.filter_errors {
        metrics::counter!("brolly_filter_errors_total", "route" => route.to_string()).increment(1);
        tracing::debug!(%route, id = message.id, reason, "a filter could not be evaluated");
    }
    let staged = inner.messages.stage(seq, &stored, commit);
    staged.map_err(|error| failed("publish to", &message.topic, error))?;
    let pending = (message.topic.clone(), message.id.clone());
    inner.publishing.pending.lock().insert(pending.clone(), Vec::new());
    let bytes = u64::from(entry.bytes);
    let queues = stored.routed.iter().filter_map(|queue| room.claim(queue, bytes)).collect();
    let claim = Claim { inner: inner.clone(), pending, queues, bytes, durable: false };
    commit.then(move || claim.fulfil(entry, due));
    Ok(())
}

/// Adds a message that its topic has had, and that is held, to those queues that it is not in. Where it was
/// handled, the ledger will know it.
fn stage_again(
    inner: &Inner,
    seq: u64,
    message: &Message,
    routing: &Routing,
    room: &Room,
    commit: &mut Commit,
) -> Result<(), BrokerError> {
    let entry = Entry { taken: true, ..Entry::new(seq, message) };
    let stored = inner.messages.load(seq).map_err(|error| failed("publish to", &message.topic, error))?;
    // Its routes may be others than they were; it is forgotten when it waits in none of the queues named here.
    if let Some(mut stored) = stored {
        stored.met_at = inner.clock.now();
        let more = routing.queues.iter().filter(|queue| !stored.routed.contains(queue));
        let more: Vec<_> = more.cloned().collect();
        stored.routed.extend(more);
        let staged = inner.messages.stage(seq, &stored, commit);
        staged.map_err(|error| failed("publish to", &message.topic, error))?;
    }
    for queue in &routing.queues {
        let key = keys::queue_entry(queue, seq);
        if inner.store.get(&key).map_err(|error| failed("publish to", queue, error))?.is_some() {
            continue;
        }
        commit.put(key, entry.to_row(None).map_err(|error| failed("publish to", queue, error))?);
        let Some(index) = room.claim(queue, u64::from(entry.bytes)) else { continue };
        commit.then(move || index.push(entry, None));
    }
    Ok(())
}

/// What an accepted message holds until it is durable: its id, and room in its queues. A commit that
/// is given up drops its claims and with them what they hold.
struct Claim {
    inner: Arc<Inner>,
    pending: (Name, MessageId),
    queues: Vec<Arc<QueueIndex>>,
    bytes: u64,
    durable: bool,
}

impl Claim {
    fn fulfil(mut self, entry: Entry, due: Option<Timestamp>) {
        self.durable = true;
        for index in self.queues.drain(..) {
            index.push(entry, due);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let waiting = self.inner.publishing.pending.lock().remove(&self.pending);
        for waiting in waiting.into_iter().flatten().filter(|_| self.durable) {
            // Whoever waited may have gone.
            let _ = waiting.send(());
        }
        for index in &self.queues {
            index.unreserve(1, self.bytes);
        }
    }
}

/// The place of a mistake in a publish of several messages.
fn in_message(number: usize, refusal: Refusal) -> Refusal {
    Refusal { detail: format!("message {}: {}; nothing was accepted", number + 1, refusal.detail), ..refusal }
}

/// Room in the queues that a publish goes to, taken before anything is written. What nobody claims, for a
/// duplicate or because something failed, is given back.
struct Room {
    queues: BTreeMap<Name, Taken>,
}

/// Room in one queue.
struct Taken {
    index: Arc<QueueIndex>,
    messages: Cell<u64>,
    bytes: Cell<u64>,
}

impl Room {
    fn reserve<'a>(
        inner: &Inner,
        messages: impl Iterator<Item = (&'a Routing, usize)>,
    ) -> Result<Self, BrokerError> {
        let mut wanted: BTreeMap<Name, (Arc<QueueIndex>, u64, u64)> = BTreeMap::new();
        for (routing, bytes) in messages {
            for name in &routing.queues {
                if !wanted.contains_key(name) {
                    wanted.insert(name.clone(), (inner.queue(name)?, 0, 0));
                }
                if let Some((_, count, size)) = wanted.get_mut(name) {
                    *count += 1;
                    *size += bytes as u64;
                }
            }
        }
        let mut room = Self { queues: BTreeMap::new() };
        for (name, (index, messages, bytes)) in wanted {
            index.reserve(messages, bytes)?;
            let taken = Taken { index, messages: Cell::new(messages), bytes: Cell::new(bytes) };
            room.queues.insert(name, taken);
        }
        Ok(room)
    }

    /// The queue, for one message that there is room for; whoever claims it gives the room back.
    fn claim(&self, queue: &Name, bytes: u64) -> Option<Arc<QueueIndex>> {
        let taken = self.queues.get(queue)?;
        taken.messages.set(taken.messages.get().saturating_sub(1));
        taken.bytes.set(taken.bytes.get().saturating_sub(bytes));
        Some(taken.index.clone())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for Taken { index, messages, bytes } in self.queues.values() {
            index.unreserve(messages.get(), bytes.get());
        }
    }
}
