//! The window on one remote queue: messages that the other side has handed out and waits to hear of.
//!
//! Transports push into it through an [`Inlet`], workers take from it through a source. It decides
//! what may be taken: of one message at most one copy is handled at a time (the other side may well
//! deliver two), and under [`Order::Key`] of one key. It outlives the connection: an attempt that
//! still runs when the connection breaks keeps its message from being handled beside it.
//!
//! Pure memory under one short lock; a settlement is passed on to the [`Tap`] outside of it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use brolly_core::{
    BrokerError, Clock, Code, Consume, Delivery, Lease, Message, Name, Order, Refusal, Router, Settlement,
    Timestamp,
};
use brolly_store::{Claim, Messages};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    ids::Ids,
    transport::{Received, Tap},
};

/// The longest sleep until something held back is due: the machine's clock may be set forward.
const LONGEST: Duration = Duration::from_secs(1);

/// The window on one queue.
pub(crate) struct Window {
    queue: Name,
    clock: Arc<dyn Clock>,
    router: Arc<ArcSwapOption<Router>>,
    messages: Messages,
    ids: Ids,
    /// As [`crate::Transport::notices_within`].
    notices_within: Duration,
    hasher: RandomState,
    state: Mutex<State>,
    /// Wakes one waiting worker whenever something may be taken; the one that takes wakes the next.
    wake: Notify,
    /// Wakes whoever waits for the last delivery to be settled.
    settled: Notify,
}

/// Where a transport hands over what it receives, for as long as one consumption lasts.
#[derive(Clone)]
pub struct Inlet {
    window: Arc<Window>,
    generation: u64,
}

#[derive(Default)]
struct State {
    /// Counts consumptions. What belongs to an earlier one is not settled at the present tap.
    generation: u64,
    /// The order of the latest consumption; it holds for what is still in hand after its end.
    order: Order,
    open: Option<Consume>,
    /// Since when the present consumption can be settled.
    since: Option<Instant>,
    /// Since when it was seen to have room for more.
    room: Option<Instant>,
    /// Whether it has been given all that earlier ones had in hand.
    caught_up: bool,
    /// All that is in the window.
    held: usize,
    failure: Option<String>,
    taps: Vec<(u64, Arc<dyn Tap>)>,
    leases: u64,
    ready: VecDeque<Item>,
    /// Held back here until their time, with the tokens that they hold.
    delayed: BTreeMap<(Timestamp, u64), Item>,
    taken: HashMap<u64, Item>,
    /// Each token with the lease that holds it, and what waits for it.
    holders: HashMap<u64, u64>,
    blocked: HashMap<u64, VecDeque<Item>>,
}

/// A message in the window.
struct Item {
    lease: u64,
    generation: u64,
    tag: u64,
    message: Arc<Message>,
    attempts: u32,
    unfit: Option<String>,
    /// Of one that may have been decided before: what became of it is not forgotten while it is in the window.
    _known: Option<Arc<Claim>>,
    /// Whether its id was derived.
    derived: bool,
    /// What it must hold to be handled, in this order: its key, where keys are ordered, then its own
    /// identity. Hashes: two of one hash only wait for each other needlessly.
    tokens: [Option<u64>; 2],
}

/// What became of a message that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is settled at the tap in its time.
    Held,
    /// By no route was it meant for this queue: the transport settles it at once.
    Filtered,
    /// The consumption has ended: the transport gives it back at once.
    Closed,
}

/// What the window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub taken: u64,
    pub delayed: u64,
}

impl Window {
    pub(crate) fn new(
        queue: Name,
        clock: Arc<dyn Clock>,
        router: Arc<ArcSwapOption<Router>>,
        messages: Messages,
        notices_within: Duration,
    ) -> Self {
        Self {
            queue,
            clock,
            router,
            ids: Ids::new(messages.clone()),
            messages,
            notices_within,
            hasher: RandomState::new(),
            state: Mutex::default(),
            wake: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// Begins a consumption; there may be one at a time.
    pub(crate) fn open(self: &Arc<Self>, consume: Consume) -> Result<Inlet, Refusal> {
        let mut state = self.state.lock();
        if state.open.is_some() {
            let detail =
                format!("the queue {} is being consumed already; a queue has one subscription", self.queue);
            return Err(Refusal::new(Code::InUse, detail));
        }
        state.generation += 1;
        state.open = Some(consume);
        (state.since, state.room, state.caught_up) = (None, None, false);
        state.order = consume.order;
        state.failure = None;
        Ok(Inlet { window: self.clone(), generation: state.generation })
    }

    /// Lets deliveries be taken: from now on there is a way to settle them.
    pub(crate) fn attach(&self, inlet: &Inlet, tap: Arc<dyn Tap>) {
        let mut state = self.state.lock();
        state.taps.push((inlet.generation, tap));
        if state.generation == inlet.generation {
            state.since = Some(Instant::now());
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Ends the present consumption as [`Window::close`] does, and lets its workers know why.
    pub(crate) fn abort(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.open.is_some() {
            state.failure.get_or_insert_with(|| reason.to_owned());
        }
        drop(state);
        self.close();
    }

    /// Ends the present consumption. What is not taken goes back.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        if state.open.take().is_none() {
            return;
        }
        let back = state.drop_waiting();
        let tap = state.tap(state.generation);
        state.forget_taps();
        drop(state);
        if let Some(tap) = tap {
            back.iter().for_each(|item| tap.give_back(item.tag));
            tap.close();
        }
        self.wake.notify_waiters();
    }

    /// Waits until everything taken is settled.
    pub(crate) async fn drained(&self) {
        loop {
            let settled = self.settled.notified();
            if self.state.lock().taken.is_empty() {
                return;
            }
            settled.await;
        }
    }

    /// Waits until something may be taken, or the consumption has ended.
    pub(crate) async fn ready(&self) -> Result<(), BrokerError> {
        loop {
            let woken = self.wake.notified();
            let due = {
                let mut state = self.state.lock();
                if let Some(reason) = &state.failure {
                    let (subject, source) = (self.queue.to_string(), reason.clone().into());
                    return Err(BrokerError::Failed { operation: "consume", subject, source });
                }
                let now = self.clock.now();
                state.release_due(now);
                if state.open.is_none() || state.may_take() {
                    return Ok(());
                }
                state.delayed.keys().next().map(|(due, _)| due.since(now).min(LONGEST))
            };
            match due {
                Some(due) => tokio::select! { () = woken => {}, () = tokio::time::sleep(due) => {} },
                None => woken.await,
            }
        }
    }

    /// Takes the next message whose tokens are free.
    pub(crate) fn take(&self) -> Option<Delivery> {
        let mut state = self.state.lock();
        if !state.delayed.is_empty() {
            state.release_due(self.clock.now());
        }
        let delivery = state.take()?;
        let more = state.may_take();
        drop(state);
        if more {
            self.wake.notify_one();
        }
        Some(delivery)
    }

    pub(crate) fn settle(&self, lease: Lease, settlement: Settlement) {
        let (delay, attempts) = match settlement {
            Settlement::Ack => return self.leave(lease, |tap, item| tap.ack(item.tag)),
            Settlement::Retry { delay, attempts } => (delay, Some(attempts)),
            Settlement::Release { delay } => (delay, None),
        };
        match attempts {
            // The other side would let later messages of the key overtake it.
            Some(attempts) if self.state.lock().order == Order::Key => {
                self.hold(lease, delay, Some(attempts))
            }
            Some(attempts) => {
                self.leave(lease, |tap, item| tap.retry(item.tag, &item.message, delay, attempts));
            }
            None => self.hold(lease, delay, None),
        }
    }

    /// The delivery leaves the window, by whatever the tap is told.
    fn leave(&self, lease: Lease, tell: impl FnOnce(&dyn Tap, &Item)) {
        let mut state = self.state.lock();
        let Some(item) = state.taken.remove(&lease.tag) else { return };
        state.held -= 1;
        let tap = state.tap(item.generation);
        state.release_tokens(&item);
        state.forget_taps();
        let drained = state.taken.is_empty();
        drop(state);
        if let Some(tap) = tap {
            tell(&*tap, &item);
        }
        self.wake.notify_one();
        if drained {
            self.settled.notify_waiters();
        }
    }

    /// Holds a delivery back, unsettled, with its tokens; one of a consumption that has ended goes
    /// back to the other side instead.
    pub(crate) fn hold(&self, lease: Lease, delay: Duration, attempts: Option<u32>) {
        let mut state = self.state.lock();
        let Some(mut item) = state.taken.remove(&lease.tag) else { return };
        if state.open.is_none() || state.failure.is_some() || item.generation != state.generation {
            state.taken.insert(lease.tag, item);
            drop(state);
            return self.leave(lease, |tap, item| tap.give_back(item.tag));
        }
        item.attempts = attempts.unwrap_or(item.attempts);
        if delay.is_zero() {
            state.ready.push_front(item);
        } else {
            state.delayed.insert((self.clock.now().after(delay), item.lease), item);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// As [`brolly_core::Broker::may_deliver_again`].
    pub(crate) fn may_deliver_again(&self) -> bool {
        let mut state = self.state.lock();
        let Some(consume) = state.open.filter(|_| state.failure.is_none()) else { return true };
        if state.since.is_some() && state.held < consume.max_in_flight as usize {
            // What comes before anything else would have come.
            let room = *state.room.get_or_insert_with(Instant::now);
            state.caught_up |= room.elapsed() >= self.notices_within;
        }
        !state.caught_up
    }

    /// A claim on a message that may have been decided before. A store that cannot be read has other ways to
    /// say so.
    fn known(&self, received: &Received) -> Option<Arc<Claim>> {
        let message = &received.message;
        let again = received.redelivered || self.may_deliver_again();
        again.then(|| self.messages.hold(&message.topic, &message.id).ok().flatten()).flatten()
    }

    pub(crate) fn held(&self) -> Held {
        let state = self.state.lock();
        Held { taken: state.taken.len() as u64, delayed: state.delayed.len() as u64 }
    }

    fn tokens(&self, order: Order, message: &Message) -> [Option<u64>; 2] {
        let key =
            (order == Order::Key && !message.key.is_empty()).then(|| self.hasher.hash_one(&message.key));
        [key, Some(self.hasher.hash_one((&message.topic, &message.id)))]
    }
}

impl Inlet {
    /// Hands a message over.
    #[must_use]
    pub fn push(&self, mut received: Received) -> Pushed {
        let window = &self.window;
        if received.by_route
            && let Some(router) = &*window.router.load()
            && !router.passes(&window.queue, &received.message)
        {
            return Pushed::Filtered;
        }
        if received.derived {
            let message = &mut received.message;
            let derived = std::mem::take(&mut message.id);
            message.id = window.ids.assign(&message.topic, derived, received.redelivered);
        }
        let known = window.known(&received);
        let mut state = window.state.lock();
        let Some(consume) = state.open.filter(|_| state.generation == self.generation) else {
            return Pushed::Closed;
        };
        if !received.redelivered {
            // What an earlier one had in hand comes before what nobody ever had.
            state.caught_up |= state.since.is_some_and(|since| since.elapsed() >= window.notices_within);
        }
        state.leases += 1;
        let item = Item {
            lease: state.leases,
            generation: self.generation,
            tag: received.tag,
            _known: known,
            derived: received.derived,
            tokens: window.tokens(consume.order, &received.message),
            message: Arc::new(received.message),
            attempts: received.attempts,
            unfit: received.unfit,
        };
        state.ready.push_back(item);
        state.held += 1;
        if state.held >= consume.max_in_flight as usize {
            state.room = None;
        }
        drop(state);
        window.wake.notify_one();
        Pushed::Held
    }

    /// Ends the consumption from the other side: the messages that nobody has taken will come again.
    pub fn fail(&self, reason: impl Into<String>) {
        let mut state = self.window.state.lock();
        if state.generation != self.generation || state.failure.is_some() || state.open.is_none() {
            return;
        }
        state.failure = Some(reason.into());
        let waiting = state.drop_waiting();
        let mut adrift: Vec<&Item> =
            waiting.iter().chain(state.taken.values()).filter(|item| item.derived).collect();
        adrift.sort_by_key(|item| item.lease);
        self.window.ids.set_adrift(adrift.into_iter().map(|item| item.message.id.clone()));
        drop(state);
        self.window.wake.notify_waiters();
        self.window.wake.notify_one();
    }

    /// The queue that is consumed.
    #[must_use]
    pub fn queue(&self) -> &Name {
        &self.window.queue
    }
}

impl State {
    fn tap(&self, generation: u64) -> Option<Arc<dyn Tap>> {
        self.taps.iter().find(|(of, _)| *of == generation).map(|(_, tap)| tap.clone())
    }

    /// Lets go of taps that nothing will be settled at any more.
    fn forget_taps(&mut self) {
        let present = self.open.map(|_| self.generation);
        let taken = &self.taken;
        self.taps.retain(|(generation, _)| {
            present == Some(*generation) || taken.values().any(|item| item.generation == *generation)
        });
    }

    fn may_take(&self) -> bool {
        let room = self.open.is_some_and(|consume| self.taken.len() < consume.max_in_flight as usize);
        room && !self.ready.is_empty()
            && self.failure.is_none()
            && self.taps.last().is_some_and(|(generation, _)| *generation == self.generation)
    }

    fn take(&mut self) -> Option<Delivery> {
        while self.may_take() {
            let item = self.ready.pop_front()?;
            if let Some(token) = self.missing_token(&item) {
                self.blocked.entry(token).or_default().push_back(item);
                continue;
            }
            let delivery = Delivery {
                message: item.message.clone(),
                lease: Lease { tag: item.lease },
                record: None,
                first: false,
                attempts: item.attempts,
                unfit: item.unfit.clone(),
            };
            self.taken.insert(item.lease, item);
            return Some(delivery);
        }
        None
    }

    /// Acquires the tokens of an item one by one; answers with the first that another one holds.
    /// An item never waits for its key while it holds its identity, so no two wait for each other.
    fn missing_token(&mut self, item: &Item) -> Option<u64> {
        item.tokens
            .into_iter()
            .flatten()
            .find(|token| *self.holders.entry(*token).or_insert(item.lease) != item.lease)
    }

    /// Passes each token on to the one that has waited for it longest.
    fn release_tokens(&mut self, item: &Item) {
        for token in item.tokens.into_iter().flatten() {
            if self.holders.get(&token) != Some(&item.lease) {
                continue;
            }
            self.holders.remove(&token);
            let Some(waiting) = self.blocked.get_mut(&token) else { continue };
            if let Some(next) = waiting.pop_front() {
                self.holders.insert(token, next.lease);
                self.ready.push_front(next);
            }
            if self.blocked.get(&token).is_some_and(VecDeque::is_empty) {
                self.blocked.remove(&token);
            }
        }
    }

    fn release_due(&mut self, now: Timestamp) {
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            let item = first.remove();
            self.ready.push_front(item);
        }
    }

    /// Empties the window of what is not taken, in the order in which it came.
    fn drop_waiting(&mut self) -> Vec<Item> {
        let mut items: Vec<Item> = self.ready.drain(..).collect();
        items.extend(std::mem::take(&mut self.delayed).into_values());
        items.extend(std::mem::take(&mut self.blocked).into_values().flatten());
        items.sort_by_key(|item| item.lease);
        self.held -= items.len();
        let taken = &self.taken;
        self.holders.retain(|_, lease| taken.contains_key(lease));
        items
    }
}

#[cfg(test)]
mod tests;
