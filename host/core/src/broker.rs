//! The port to a system that keeps messages. Each adapter maps these words to its system's own.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    BrokerDefinition, Code, Commit, Feed, Listener, Message, MessageId, Name, NewMessage, Order, Outgoing,
    Queue, Refusal, Route, Router, Seat, Settlement, Timestamp, Topic,
};

/// Makes brokers of the kinds that a host knows.
pub trait Brokers: Send + Sync + 'static {
    /// Checks a definition without connecting anywhere.
    ///
    /// # Errors
    /// [`crate::Code::InvalidDefinition`] or [`crate::Code::Unsupported`], with all mistakes.
    fn check(&self, definition: &BrokerDefinition) -> Result<(), Refusal>;

    /// Makes the broker. It connects by itself, while [`Broker::run`] runs.
    ///
    /// # Errors
    /// As [`Brokers::check`]; [`BrokerError::Failed`] when the host's own store cannot be read.
    fn open(&self, name: &Name, definition: &BrokerDefinition) -> Result<Arc<dyn Broker>, BrokerError>;
}

/// A host that has its embedded broker and no other.
impl Brokers for () {
    fn check(&self, definition: &BrokerDefinition) -> Result<(), Refusal> {
        let detail = format!("this host knows no brokers of the kind {:?}", definition.kind);
        Err(Refusal::new(Code::InvalidDefinition, detail))
    }

    fn open(&self, _: &Name, definition: &BrokerDefinition) -> Result<Arc<dyn Broker>, BrokerError> {
        Err(self.check(definition).err().unwrap_or_else(|| Refusal::not_found("broker", "")).into())
    }
}

/// A system that keeps messages, and the way to it.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Does what time brings (reconnecting, what is due) until [`Broker::close`] has done its work.
    async fn run(&self);

    /// Settles what is still to be settled, within seconds, and disconnects. Sources that are open
    /// fail from now on.
    async fn close(&self);

    /// What kind of system it is, in the words of OpenTelemetry's `messaging.system` where it has one.
    fn system(&self) -> &'static str;

    /// How it is doing.
    fn health(&self) -> Health;

    /// Why a topic or queue is not as it is wanted on this broker, if it is not.
    fn trouble(&self, thing: Thing<'_>) -> Option<String>;

    /// Checks, before a definition is saved, that this broker can honour it. A broker that cannot be
    /// reached says nothing against it.
    async fn admit(&self, name: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError>;

    /// Makes the queues and routes of this broker what they are wanted to be. Called with every
    /// change; queues that are no longer named keep their messages until they are deleted. What
    /// cannot be done for one of them shows as its [`Broker::trouble`] and is tried again.
    async fn configure(&self, wanted: Publication) -> Result<(), BrokerError>;

    /// Accepts messages: all of them, durably, or none if one breaks a rule or finds no room. A broker
    /// elsewhere may have accepted some of them when it answers with an error; to publish all of them
    /// again is then right, and doubles nothing.
    /// An id that the topic has already is accepted and ignored.
    async fn publish(&self, topic: &Name, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, BrokerError>;

    /// Takes a message over from another queue, under its id, and answers when some queue has it durably.
    /// That the topic has had this id says nothing against it: the message may have been moved away and
    /// come back, and each subscription knows what it has handled.
    ///
    /// [`crate::Code::Unavailable`] when no queue takes it; else as [`Broker::stage_publish`].
    async fn forward(&self, moved: Moved<'_>) -> Result<(), BrokerError>;

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

    /// Listens to a feed until `stop`, connecting again for ever; comes back when what was heard is
    /// durable.
    ///
    /// [`Code::Unsupported`] where this broker has no such channels.
    async fn listen(
        &self,
        _feed: &Feed,
        _seat: Seat<'_>,
        _listener: Arc<dyn Listener>,
        _stop: Stop,
    ) -> Result<(), BrokerError> {
        Err(Refusal::no_channels().into())
    }

    /// Whether what was settled on the queue may yet be delivered again, since nobody knows that the
    /// settlement has arrived: while it is not consumed, and until a new consumption has been given all that
    /// an earlier one had in hand. What became of it is remembered meanwhile, however old it is.
    fn may_deliver_again(&self, queue: &Name) -> bool;

    /// What the queue holds.
    async fn counts(&self, queue: &Name) -> Result<Counts, BrokerError>;

    /// Deletes a queue with what it holds.
    ///
    /// Without `force` a queue that holds messages is refused with [`crate::Code::NotEmpty`].
    async fn delete_queue(&self, queue: &Name, force: bool) -> Result<(), BrokerError>;
}

/// Tells something that runs to end.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

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
    /// It may be taken again when the delay has passed.
    fn give_back(&self, lease: Lease, delay: Duration);

    /// Stops taking. What is taken can still be settled.
    fn close(&self);
}

/// How a broker is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What it is doing.
    pub state: Connection,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not connected or blocked, or what an operator should know of it.
    pub detail: Option<String>,
    /// What the other side says it is, such as `RabbitMQ 3.10.8`.
    pub server: Option<String>,
    /// Messages that handlers have published and that are still to be sent to it.
    pub outbox: u64,
}

/// The state of the way to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Not connected yet.
    Connecting,
    /// In use.
    Connected,
    /// Connected, and refuses to take messages for now.
    Blocked,
    /// Not connected; it is tried again.
    Failed,
}

impl Connection {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Connection::Connecting => "connecting",
            Connection::Connected => "connected",
            Connection::Blocked => "blocked",
            Connection::Failed => "failed",
        }
    }
}

/// Something that a broker keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing<'a> {
    /// A topic.
    Topic(&'a Name),
    /// A queue.
    Queue(&'a Name),
}

/// A definition that is about to be saved.
#[derive(Clone, Copy, Debug)]
pub enum Proposal<'a> {
    /// A topic.
    Topic(&'a Topic),
    /// A queue.
    Queue(&'a Queue),
    /// A route, with the queue that it goes to.
    Route(&'a Route, &'a Queue),
    /// A channel that a topic is to get messages from.
    Feed(&'a Feed),
    /// That a queue is consumed in this order.
    Order(&'a Queue, Order),
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
    /// How many attempts were made at it before, where the message itself tells; used if the ledger
    /// does not know it.
    pub attempts: u32,
    /// Why it cannot be handed to any handler, if so: it breaks a limit of messages. It becomes a
    /// dead letter.
    pub unfit: Option<String>,
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

/// What is wanted of a broker: its topics, its queues, and the routes between them.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Topics by name.
    pub topics: Vec<(Name, Arc<Topic>)>,
    /// Queues by name.
    pub queues: Vec<(Name, Arc<Queue>)>,
    /// Routes by name.
    pub routes: Vec<(Name, Arc<Route>)>,
    /// All routes of this host, compiled.
    pub router: Arc<Router>,
}

/// A message that is moved to a topic from a queue, on whichever broker that is.
#[derive(Clone, Copy, Debug)]
pub struct Moved<'a> {
    /// The topic.
    pub topic: &'a Name,
    /// The message, as it was in the queue.
    pub message: &'a Message,
    /// Names this move: the same when it is tried again, because nobody knows whether it was done.
    pub mark: &'a str,
}

impl Moved<'_> {
    /// The message as it is in the topic: the same but for its topic.
    #[must_use]
    pub fn arriving(&self) -> Message {
        Message { topic: self.topic.clone(), ..self.message.clone() }
    }
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
    /// Whether others take from the queue, too, and the broker does not tell what these have in hand: it is
    /// not among what is in flight.
    pub elsewhere: bool,
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
