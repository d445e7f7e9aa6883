//! The port to one system elsewhere: what an adapter does itself, in that system's own words.
//! Implemented by each adapter, called by `Remote`. Knows nothing of ledger, outbox and handlers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use brolly_core::{
    BrokerError, Counts, Feed, Health, Listener, Message, Name, Order, Proposal, Publication, Refusal, Seat,
    Stop, Thing,
};

use crate::Inlet;

/// A system elsewhere that keeps messages, and the connection to it.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Keeps the connection, and the topics and queues on the other side as they are wanted, until
    /// [`Transport::close`]. Reconnects for ever, with jittered backoff.
    async fn run(&self);

    /// Settles what the taps were told, within seconds, and disconnects for good.
    async fn close(&self);

    /// As [`brolly_core::Broker::system`].
    fn system(&self) -> &'static str;

    /// How the connection is doing.
    fn health(&self) -> Health;

    /// Why a topic or queue is not on the other side as it is wanted, if it is not.
    fn trouble(&self, thing: Thing<'_>) -> Option<String>;

    /// Refuses what the other side cannot honour. Trying is better than guessing, but a side that
    /// cannot be reached says nothing against it.
    async fn admit(&self, name: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError>;

    /// Brings topics, queues and routes about, within a few seconds if it is connected, and otherwise
    /// once it is. What cannot be done shows as the [`Transport::trouble`] of that thing alone.
    async fn configure(&self, wanted: Publication) -> Result<(), BrokerError>;

    /// Sends messages. Answers for each, in their order, once the other side has confirmed that it
    /// has it durably, or that it never will have; within a documented time-out. Refusals
    /// ([`BrokerError::Refused`]) are those of [`brolly_core::Broker::stage_publish`].
    async fn send(&self, parcels: Vec<Parcel>) -> Vec<Result<(), BrokerError>>;

    /// Begins to take messages from a queue and hands them to the inlet, at most `prefetch` that are
    /// not settled. Ends with [`Inlet::fail`] when the messages stop coming for whatever reason.
    async fn consume(
        &self,
        queue: &Name,
        order: Order,
        prefetch: u32,
        inlet: Inlet,
    ) -> Result<Arc<dyn Tap>, BrokerError>;

    /// As [`brolly_core::Broker::listen`].
    async fn listen(
        &self,
        _feed: &Feed,
        _seat: Seat<'_>,
        _listener: Arc<dyn Listener>,
        _stop: Stop,
    ) -> Result<(), BrokerError> {
        Err(Refusal::no_channels().into())
    }

    /// How long after a new consumption began the other side may still take an earlier one for alive: what that
    /// had in hand is handed out again within this time, as soon as there is room for it, and before anything
    /// else.
    fn notices_within(&self) -> Duration;

    /// What the other side says that the queue holds. In flight are all that it waits for a
    /// settlement of, delayed those that it holds back.
    async fn counts(&self, queue: &Name) -> Result<Counts, BrokerError>;

    /// Deletes a queue of ours with all that belongs to it; leaves one of somebody else alone.
    async fn delete_queue(&self, queue: &Name, force: bool) -> Result<(), BrokerError>;
}

/// A message on its way to the other side.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Where to.
    pub to: To,
    /// What.
    pub message: Arc<Message>,
    /// The queues that it goes to by Brolly's own routes. If there is one and the other side finds
    /// none, sending fails.
    pub routed: Vec<Name>,
    /// It is moved here from another queue ([`brolly_core::Moved`]), with the mark of that: sending
    /// fails unless some queue or stream takes it, and a side that remembers what it has had goes by
    /// the mark, not by the id.
    pub moved: Option<String>,
}

/// Where a message is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// To its topic; the other side routes it.
    Topic,
    /// To one queue, by no route, held back for the delay.
    Queue {
        /// The queue.
        queue: Name,
        /// How long the other side holds it back.
        delay: Duration,
        /// Attempts that were made at it.
        attempts: u32,
    },
}

/// A message as it came from the other side.
#[derive(Clone, Debug)]
pub struct Received {
    /// The adapter's own mark, by which it is settled at the [`Tap`]; unique for its inlet.
    pub tag: u64,
    /// The message.
    pub message: Message,
    /// Attempts that were made at it, as it says itself.
    pub attempts: u32,
    /// Whether the id was derived from the content, so that two equal messages have the same.
    pub derived: bool,
    /// Whether the other side says that it has handed it out before.
    pub redelivered: bool,
    /// Whether the other side's routing brought it, so that filters are still to be asked.
    pub by_route: bool,
    /// Why no handler can be given it, if so: it breaks a limit of messages, and `message` has what
    /// could be kept of it.
    pub unfit: Option<String>,
}

/// The way back to the other side for what came through one inlet. Calls must not block; what they
/// ask for is done soon, in any order. Calls for a connection that is gone do nothing: the other
/// side delivers again what it was not told of.
pub trait Tap: Send + Sync + 'static {
    /// It is settled: remove it.
    fn ack(&self, tag: u64);

    /// Have it come back after the delay, with so many attempts made: whatever copy that takes is
    /// confirmed before the original is removed.
    fn retry(&self, tag: u64, message: &Arc<Message>, delay: Duration, attempts: u32);

    /// It was not handled: let it be delivered anew, at once.
    fn give_back(&self, tag: u64);

    /// Fetch no more. What was handed to the inlet is still settled or given back; after the last of
    /// it the tap ends.
    fn close(&self);
}
