//! The embedded broker: topics, queues and routes in the host's own store, so that one process
//! needs nothing else.
//!
//! Called by dispatch through the ports of the core. The store has the truth, one row per queue and
//! message; each queue also has an index in memory (about 24 bytes a message) that says what is
//! ready, delayed and in flight. Rows change inside commits, the index changes after them, so a
//! crash at any moment leaves rows from which the index is built again. A lease is nothing but a
//! place in the index: the process that holds it is the process that forgets it.
//!
//! | Brolly | here |
//! | --- | --- |
//! | message | a row of the message table, stored once however many queues it goes to |
//! | queue | rows `q queue seq`, and an index |
//! | settlement | the queue row is removed or rewritten in the commit of the outcome |

mod disk;
mod entry;
mod error;
mod publish;
mod queue;
mod source;
mod timer;

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use brolly_core::{
    Accepted, Broker, BrokerError, Clock, Code, Commit, Connection, Consume, Counts, Health, Message, Moved,
    Name, NewMessage, Origin, Outgoing, Proposal, Publication, Refusal, Router, Source, Thing, Timestamp,
};
use brolly_store::{Messages, Store, keys};
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use error::Error;

use disk::Disk;
use entry::Entry;
use error::failed;
use publish::Publishing;
use queue::QueueIndex;
use source::EmbeddedSource;
use timer::Timer;

/// The limits of the embedded broker.
#[derive(Clone, Debug)]
pub struct Config {
    /// A publish is refused while the disk has less free space than this, in bytes.
    pub min_free_bytes: u64,
    /// Payload bytes of publishes that are not yet durable; further publishers wait.
    pub publish_bytes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_free_bytes: 256 << 20, publish_bytes: 128 << 20 }
    }
}

/// The broker that lives in the host's own store.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    messages: Messages,
    clock: Arc<dyn Clock>,
    /// None until the first [`Broker::configure`]. INVARIANT: nothing is accepted before: a message
    /// that is routed without the routes would be durable and in no queue, for ever.
    router: ArcSwapOption<Router>,
    queues: RwLock<HashMap<Name, Arc<QueueIndex>>>,
    publishing: Publishing,
    admission: Arc<Semaphore>,
    config: Config,
    timer: Arc<Timer>,
    disk: Disk,
    opened_at: Timestamp,
    stop: CancellationToken,
}

impl Embedded {
    /// Opens the broker and builds the index of every queue from its rows.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not understood.
    pub fn open(
        store: Store,
        messages: Messages,
        clock: Arc<dyn Clock>,
        config: Config,
    ) -> Result<Self, Error> {
        let timer = Arc::new(Timer::default());
        let queues = queue::read_all(&store, &clock, &timer)?;
        let opened_at = clock.now();
        let admission = Arc::new(Semaphore::new(config.publish_bytes as usize));
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                messages,
                clock,
                router: ArcSwapOption::empty(),
                queues: RwLock::new(queues),
                publishing: Publishing::default(),
                admission,
                config,
                timer,
                disk: Disk::default(),
                opened_at,
                stop: CancellationToken::new(),
            }),
        })
    }

    /// Releases the delayed deliveries that are due; answers when the next one is. [`Broker::run`] does so
    /// by itself; a simulation, whose time stands still, asks for it.
    pub fn release_due(&self) -> Option<Timestamp> {
        let inner = &self.inner;
        inner.timer.turn(inner.clock.now(), |queue, now| inner.release_due(queue, now))
    }
}

impl Inner {
    fn queue(&self, name: &Name) -> Result<Arc<QueueIndex>, BrokerError> {
        let queues = self.queues.read();
        queues.get(name).cloned().ok_or_else(|| Refusal::not_found("queue", name.as_str()).into())
    }

    /// The routes as they are wanted now.
    fn routes(&self) -> Result<Arc<Router>, BrokerError> {
        let not_yet =
            || Refusal::new(Code::Unavailable, "the host is starting and does not know its routes yet");
        Ok(self.router.load_full().ok_or_else(not_yet)?)
    }

    /// Moves what is due to ready; answers when the queue's next delivery is due.
    fn release_due(&self, queue: &Name, now: brolly_core::Timestamp) -> Option<brolly_core::Timestamp> {
        self.queue(queue).ok().and_then(|queue| queue.release_due(now))
    }
}

#[async_trait]
impl Broker for Embedded {
    /// Releases delayed deliveries when they are due, and watches the disk.
    async fn run(&self) {
        let inner = &self.inner;
        tokio::join!(
            inner.timer.run(&*inner.clock, |queue, now| inner.release_due(queue, now), &inner.stop),
            inner.disk.watch(&inner.store, inner.config.min_free_bytes, &inner.stop),
        );
    }

    async fn close(&self) {
        self.inner.stop.cancel();
    }

    fn system(&self) -> &'static str {
        "brolly"
    }

    fn health(&self) -> Health {
        let (state, since) = (Connection::Connected, self.inner.opened_at);
        Health { state, since, detail: None, server: None, outbox: 0 }
    }

    fn trouble(&self, _: Thing<'_>) -> Option<String> {
        None
    }

    async fn admit(&self, _: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError> {
        let elsewhere = match proposal {
            Proposal::Topic(topic) => topic.adopt || topic.address.is_some(),
            Proposal::Queue(queue) => queue.adopt || queue.address.is_some() || queue.kind.is_some(),
            Proposal::Feed(_) => return Err(Refusal::no_channels().into()),
            Proposal::Route(..) | Proposal::Order(..) => false,
        };
        if elsewhere {
            let detail =
                "type, address and adopt are for brokers elsewhere; the embedded broker has none of them";
            return Err(Refusal::new(Code::Unsupported, detail).into());
        }
        Ok(())
    }

    async fn configure(&self, wanted: Publication) -> Result<(), BrokerError> {
        let mut queues = self.inner.queues.write();
        for (name, queue) in wanted.queues {
            let index = queues
                .entry(name.clone())
                .or_insert_with(|| Arc::new(QueueIndex::new(name, self.inner.timer.clone())));
            index.set_retention(queue.retention.clone());
        }
        drop(queues);
        self.inner.router.store(Some(wanted.router));
        Ok(())
    }

    async fn publish(&self, topic: &Name, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, BrokerError> {
        publish::publish(&self.inner, topic, messages).await
    }

    async fn forward(&self, moved: Moved<'_>) -> Result<(), BrokerError> {
        publish::forward(&self.inner, moved).await
    }

    fn stage_publish(
        &self,
        outgoing: &[Outgoing],
        origin: &Origin,
        commit: &mut Commit,
    ) -> Result<Vec<Accepted>, BrokerError> {
        publish::stage_outgoing(&self.inner, outgoing, origin, commit)
    }

    fn stage_replay(
        &self,
        queue: &Name,
        record: u64,
        message: &Message,
        commit: &mut Commit,
    ) -> Result<(), BrokerError> {
        let index = self.inner.queue(queue)?;
        let entry = Entry { taken: true, ..Entry::new(record, message) };
        commit.put(
            keys::queue_entry(queue, record),
            entry.to_row(None).map_err(|error| failed("replay", queue, error))?,
        );
        index.reserve_always(1, u64::from(entry.bytes));
        commit.then(move || index.push(entry, None));
        Ok(())
    }

    async fn consume(&self, queue: &Name, consume: Consume) -> Result<Arc<dyn Source>, BrokerError> {
        let index = self.inner.queue(queue)?;
        index.open(consume)?;
        Ok(Arc::new(EmbeddedSource::new(index, self.inner.messages.clone(), self.inner.clock.clone())))
    }

    /// Never: its settlements are in the commits of the outcomes.
    fn may_deliver_again(&self, _: &Name) -> bool {
        false
    }

    async fn counts(&self, queue: &Name) -> Result<Counts, BrokerError> {
        let (ready, in_flight, delayed) = self.inner.queue(queue)?.counts();
        let prefix = keys::queue_prefix(queue);
        let oldest = match self.inner.store.scan(&prefix, None).next() {
            None => None,
            Some(row) => {
                let (key, _) = row.map_err(|error| failed("count", queue, error))?;
                let message = keys::seq_of(&key).map(|seq| self.inner.messages.load(seq)).transpose();
                let message = message.map_err(|error| failed("count", queue, error))?.flatten();
                message.map(|stored| stored.message.published_at)
            }
        };
        let (ready, in_flight, delayed) = (Some(ready), Some(in_flight), Some(delayed));
        Ok(Counts { ready, in_flight, delayed, oldest, elsewhere: false })
    }

    async fn delete_queue(&self, queue: &Name, force: bool) -> Result<(), BrokerError> {
        let Ok(index) = self.inner.queue(queue) else { return Ok(()) };
        let held = index.held();
        if held > 0 && !force {
            return Err(Refusal::new(
                Code::NotEmpty,
                format!("the queue {queue} holds {held} messages; handle them first, or force to drop them"),
            )
            .into());
        }
        self.inner.queues.write().remove(queue);
        let mut commit = Commit::default();
        for row in self.inner.store.scan(&keys::queue_prefix(queue), None) {
            let (key, _) = row.map_err(|error| failed("delete", queue, error))?;
            commit.delete(key.to_vec());
            if commit.writes().len() >= publish::COMMIT_ROWS {
                self.inner.store.submit(std::mem::take(&mut commit));
            }
        }
        self.inner.store.commit(commit).await.map_err(|error| failed("delete", queue, error))
    }
}

#[cfg(test)]
mod tests;
