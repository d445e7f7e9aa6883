//! A broker elsewhere: it delivers at least once, outlives the host, and forgets what it was told. Called by
//! dispatch through the port of brokers; the world decides when it misbehaves.
//!
//! It keeps to what the port asks of every adapter: of one message one copy at a time is in hand.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use brolly_core::{
    Accepted, Broker, BrokerDefinition, BrokerError, Brokers, Clock, Code, Commit, Connection, Consume,
    Counts, Delivery, Health, Lease, Message, Moved, Name, NewMessage, Origin, Outgoing, Proposal,
    Publication, Refusal, Settlement, Source, Thing, Timestamp,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::time::Time;

/// The broker. It has one queue, to which every topic of it goes.
pub(crate) struct Far {
    clock: Arc<Time>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Clone)]
struct Copy {
    message: Arc<Message>,
    attempts: u32,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Copy>,
    delayed: BTreeMap<(Timestamp, u64), Copy>,
    in_hand: HashMap<u64, Copy>,
    next: u64,
    most: usize,
    open: bool,
    /// Settlements that get lost, from the next one on.
    deaf: u32,
    /// Everything that was ever published, to be delivered again.
    past: Vec<Copy>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The next copy of a message of which none is in hand.
    fn free(&self) -> Option<usize> {
        if !self.open || self.in_hand.len() >= self.most {
            return None;
        }
        let held = |copy: &Copy| self.in_hand.values().any(|held| held.message.id == copy.message.id);
        self.ready.iter().position(|copy| !held(copy))
    }
}

impl Far {
    pub(crate) fn new(clock: Arc<Time>) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::default(), wake: Notify::new() })
    }

    /// The connection is gone: whatever was in hand will be delivered again.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock();
        state.open = false;
        let mut lost: Vec<(u64, Copy)> = state.in_hand.drain().collect();
        lost.sort_by_key(|(tag, _)| *tag);
        for (_, copy) in lost.into_iter().rev() {
            state.ready.push_front(copy);
        }
    }

    /// The next settlements get lost.
    pub(crate) fn lose(&self, settlements: u32) {
        self.state.lock().deaf += settlements;
    }

    /// Delivers something again that was published at some time, settled or not.
    pub(crate) fn repeat(&self, which: usize) {
        let mut state = self.state.lock();
        if let Some(copy) = state.past.get(which % state.past.len().max(1)).cloned() {
            state.ready.push_back(copy);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Releases what is due; answers when the next copy is.
    pub(crate) fn release_due(&self) -> Option<Timestamp> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        while let Some(first) = state.delayed.first_entry()
            && first.key().0 <= now
        {
            let copy = first.remove();
            state.ready.push_back(copy);
        }
        let next = state.delayed.keys().next().map(|(due, _)| *due);
        drop(state);
        self.wake.notify_one();
        next
    }

    /// Which copies are where.
    pub(crate) fn fingerprint(&self, hasher: &mut impl Hasher) {
        let state = self.state.lock();
        let of = |copy: &Copy| (copy.message.id.clone(), copy.attempts);
        let delayed = state.delayed.iter().map(|((due, _), copy)| (*due, of(copy)));
        let mut in_hand: Vec<_> = state.in_hand.values().map(of).collect();
        in_hand.sort();
        (state.ready.iter().map(of).collect::<Vec<_>>(), delayed.collect::<Vec<_>>()).hash(hasher);
        (in_hand, state.deaf).hash(hasher);
    }

    /// Copies that are neither handled nor lost.
    pub(crate) fn held(&self) -> usize {
        let state = self.state.lock();
        state.ready.len() + state.delayed.len() + state.in_hand.len()
    }

    /// Whether it will deliver anything beyond what is in hand.
    pub(crate) fn delivers_more(&self) -> bool {
        let state = self.state.lock();
        !state.ready.is_empty() || !state.delayed.is_empty()
    }

    /// Whether it will deliver this message, or another copy of it.
    pub(crate) fn delivers(&self, message: &Message) -> bool {
        let state = self.state.lock();
        let mut copies = state.ready.iter().chain(state.delayed.values());
        copies.any(|copy| copy.message.topic == message.topic && copy.message.id == message.id)
    }

    fn accept(&self, topic: &Name, message: NewMessage) -> Accepted {
        let id = message.id.unwrap_or_default();
        let message = Message {
            id: id.clone(),
            topic: topic.clone(),
            key: message.key,
            content_type: message.content_type,
            headers: message.headers,
            published_at: self.clock.now(),
            expires_at: None,
            payload: message.payload,
        };
        let copy = Copy { message: Arc::new(message), attempts: 0 };
        let mut state = self.state.lock();
        state.past.push(copy.clone());
        state.ready.push_back(copy);
        drop(state);
        self.wake.notify_one();
        Accepted { id, topic: topic.clone(), duplicate: false }
    }
}

/// The way to the far broker, as the host knows it.
pub(crate) struct Way(pub(crate) Arc<Far>);

impl Brokers for Way {
    fn check(&self, _: &BrokerDefinition) -> Result<(), Refusal> {
        Ok(())
    }

    fn open(&self, _: &Name, _: &BrokerDefinition) -> Result<Arc<dyn Broker>, BrokerError> {
        Ok(Arc::new(Way(self.0.clone())))
    }
}

#[async_trait]
impl Broker for Way {
    async fn run(&self) {}

    async fn close(&self) {}

    fn system(&self) -> &'static str {
        "far"
    }

    fn health(&self) -> Health {
        let (state, since) = (Connection::Connected, Timestamp(0));
        Health { state, since, detail: None, server: None, outbox: 0 }
    }

    fn trouble(&self, _: Thing<'_>) -> Option<String> {
        None
    }

    async fn admit(&self, _: &Name, _: Proposal<'_>) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn configure(&self, _: Publication) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn publish(&self, topic: &Name, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, BrokerError> {
        Ok(messages.into_iter().map(|message| self.0.accept(topic, message)).collect())
    }

    async fn forward(&self, _: Moved<'_>) -> Result<(), BrokerError> {
        Err(not_here().into())
    }

    fn stage_publish(
        &self,
        _: &[Outgoing],
        _: &Origin,
        _: &mut Commit,
    ) -> Result<Vec<Accepted>, BrokerError> {
        Err(not_here().into())
    }

    fn stage_replay(&self, _: &Name, _: u64, _: &Message, _: &mut Commit) -> Result<(), BrokerError> {
        Err(not_here().into())
    }

    async fn consume(&self, _: &Name, consume: Consume) -> Result<Arc<dyn Source>, BrokerError> {
        let mut state = self.0.state.lock();
        (state.open, state.most) = (true, consume.max_in_flight as usize);
        drop(state);
        self.0.wake.notify_one();
        Ok(Arc::new(Way(self.0.clone())))
    }

    fn may_deliver_again(&self, _: &Name) -> bool {
        self.0.delivers_more()
    }

    async fn counts(&self, _: &Name) -> Result<Counts, BrokerError> {
        Ok(Counts::default())
    }

    async fn delete_queue(&self, _: &Name, _: bool) -> Result<(), BrokerError> {
        Err(not_here().into())
    }
}

fn not_here() -> Refusal {
    Refusal::new(Code::Unavailable, "the far broker takes nothing but publishes")
}

#[async_trait]
impl Source for Way {
    async fn ready(&self) -> Result<(), BrokerError> {
        loop {
            let woken = self.0.wake.notified();
            {
                let state = self.0.state.lock();
                if !state.open || state.free().is_some() {
                    return Ok(());
                }
            }
            woken.await;
        }
    }

    fn take(&self) -> Result<Option<Delivery>, BrokerError> {
        let mut state = self.0.state.lock();
        let Some(copy) = state.free().and_then(|at| state.ready.remove(at)) else { return Ok(None) };
        let tag = state.number();
        state.in_hand.insert(tag, copy.clone());
        let more = state.free().is_some();
        drop(state);
        if more {
            self.0.wake.notify_one();
        }
        let Copy { message, attempts } = copy;
        let (lease, record, unfit) = (Lease { tag }, None::<u64>, None::<String>);
        Ok(Some(Delivery { message, lease, record, first: false, attempts, unfit }))
    }

    fn stage(&self, _: &Delivery, _: Settlement, _: &mut Commit) {}

    fn settle(&self, lease: Lease, settlement: Settlement) {
        let mut state = self.0.state.lock();
        let Some(copy) = state.in_hand.remove(&lease.tag) else { return };
        if state.deaf > 0 {
            state.deaf -= 1;
            state.ready.push_back(copy);
        } else {
            let (delay, attempts) = match settlement {
                Settlement::Ack => {
                    drop(state);
                    self.0.wake.notify_one();
                    return;
                }
                Settlement::Retry { delay, attempts } => (delay, attempts),
                Settlement::Release { delay } => (delay, copy.attempts),
            };
            let number = state.number();
            state.delayed.insert((self.0.clock.now().after(delay), number), Copy { attempts, ..copy });
        }
        drop(state);
        self.0.wake.notify_one();
    }

    fn give_back(&self, lease: Lease, delay: Duration) {
        let mut state = self.0.state.lock();
        if let Some(copy) = state.in_hand.remove(&lease.tag) {
            let number = state.number();
            state.delayed.insert((self.0.clock.now().after(delay), number), copy);
        }
        drop(state);
        self.0.wake.notify_one();
    }

    fn close(&self) {
        self.0.state.lock().open = false;
        self.0.wake.notify_waiters();
    }
}
