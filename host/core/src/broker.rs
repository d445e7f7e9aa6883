//! The port to a system that keeps messages. Each adapter maps these words to its system's own.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    Commit, Message, MessageId, Name, NewMessage, Order, Outgoing, Queue, Refusal, Router, Settlement,
    Timestamp,
};

/// A connection to a system that keeps messages.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Makes the queues and routes of this broker what they are wanted to be. Called with every
    /// change; queues that are no longer named keep their messages until they are deleted.
    async fn configure(&self, wanted: Publication) -> Result<(), BrokerError>;

    /// Accepts messages: all of them, durably, or none if one breaks a rule or finds no room.
    /// An id that the topic has already is accepted and ignored.
    async fn publish(&self, topic: &Name, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, BrokerError>;

    /// Adds the messages that a handler published to the commit that makes its outcome durable.
    /// Answers with their ids. Nothing is added on an error.
    ///
    /// [`BrokerError::Refused`] with [`crate::Code::Unavailable`], [`crate::Code::QueueFull`] or
    /// [`crate::Code::DiskFull`] means that the same may succeed later.
    fn stage_publish(
        &self,
        outgoing: &[Outgoing],
        origin: &Origin,
        commit: &mut Commit,
    ) -> Result<Vec<Accepted>, BrokerError>;

    /// Adds to the commit that a dead letter goes back to its queue.
    fn stage_replay(
        &self,
        queue: &Name,
        record: u64,
        message: &Message,
        commit: &mut Commit,
    ) -> Result<(), BrokerError>;

    /// Starts to take deliveries from a queue. A queue has one source at a time.
    async fn consume(&self, queue: &Name, consume: Consume) -> Result<Arc<dyn Source>, BrokerError>;

    /// What the queue holds.
    async fn counts(&self, queue: &Name) -> Result<Counts, BrokerError>;

    /// Deletes a queue with what it holds.
    ///
    /// Without `force` a queue that holds messages is refused with [`crate::Code::NotEmpty`].
    async fn delete_queue(&self, queue: &Name, force: bool) -> Result<(), BrokerError>;
}

/// The stream of deliveries of one queue to one subscription.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Waits until [`Source::take`] may have something. May wake without cause.
    async fn ready(&self) -> Result<(), BrokerError>;

    /// Takes the next delivery, if there is one and fewer than `max_in_flight` are taken.
    /// Never waits for a message.
    fn take(&self) -> Result<Option<Delivery>, BrokerError>;

    /// Adds what this broker needs to have written together with the outcome.
    fn stage(&self, delivery: &Delivery, settlement: Settlement, commit: &mut Commit);

    /// Tells the broker what became of a delivery, once the outcome is durable. Must not block.
    fn settle(&self, lease: Lease, settlement: Settlement);

    /// Gives back a delivery that was taken and not handled: unharmed and without costing an attempt.
    fn give_back(&self, lease: Lease);

    /// Stops taking. What is taken can still be settled.
    fn close(&self);
}

/// How a queue is consumed.
#[derive(Clone, Copy, Debug)]
pub struct Consume {
    /// In which order.
    pub order: Order,
    /// The most deliveries taken and not settled.
    pub max_in_flight: u32,
}

/// One message for one subscription, held by a lease until it is settled or given back.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: Arc<Message>,
    /// The claim on it.
    pub lease: Lease,
    /// Where the message table has it already; none for a broker that keeps messages elsewhere.
    pub record: Option<u64>,
    /// Whether the broker knows that no attempt at it was ever finished, so that nobody needs to
    /// look whether it is decided. When in doubt, false.
    pub first: bool,
}

/// The delivery whose handler published a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where the message table has the message that was handled.
    pub record: u64,
    /// The subscription that handled it.
    pub subscription: Name,
}

/// A claim on a delivery, meaningful only to the source that gave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The source's own mark for the delivery.
    pub tag: u64,
}

/// The queues of a broker, and the routes into them.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Queues by name.
    pub queues: Vec<(Name, Queue)>,
    /// All routes, compiled.
    pub router: Arc<Router>,
}

/// The answer to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The message's id.
    pub id: MessageId,
    /// Its topic.
    pub topic: Name,
    /// Whether the topic had a message of this id already, so that nothing was done.
    pub duplicate: bool,
}

/// What a queue holds; none means that the broker cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting to be taken.
    pub ready: Option<u64>,
    /// Taken and not settled.
    pub in_flight: Option<u64>,
    /// Held back until their time.
    pub delayed: Option<u64>,
    /// When the oldest of them was published.
    pub oldest: Option<Timestamp>,
}

/// A broker cannot do what was asked.
#[derive(Debug)]
pub enum BrokerError {
    /// The caller is to mend something.
    Refused(Refusal),
    /// The broker or the way to it failed; trying again later may help.
    Failed {
        /// What was being done.
        operation: &'static str,
        /// To what.
        subject: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerError::Refused(refusal) => refusal.fmt(f),
            BrokerError::Failed { operation, subject, source } => {
                write!(f, "{operation} {subject}: {source}")
            }
        }
    }
}

impl std::error::Error for BrokerError {}

impl From<Refusal> for BrokerError {
    fn from(refusal: Refusal) -> Self {
        BrokerError::Refused(refusal)
    }
}
