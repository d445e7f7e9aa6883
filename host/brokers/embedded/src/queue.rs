//! The index of one queue: what is ready, delayed, in flight, and which key waits for what.
//!
//! Pure memory under one short lock. Rows are written by whoever calls.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use brolly_core::{Clock, Code, Consume, Name, Order, Refusal, Retention, Settlement, Timestamp};
use brolly_store::{Store, keys};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Error, entry::Entry, timer::Timer};

/// The index of one queue.
pub(crate) struct QueueIndex {
    name: Name,
    timer: Arc<Timer>,
    state: Mutex<State>,
    /// Wakes one waiting source whenever something may be taken; the one that takes wakes the next.
    wake: Notify,
}

struct State {
    ready: VecDeque<Entry>,
    delayed: BTreeMap<(Timestamp, u64), Entry>,
    in_flight: HashMap<u64, Entry>,
    /// Under [`Order::Key`]: each key that is being handled or retried, with the entry that holds it.
    holders: HashMap<u64, u64>,
    /// Under [`Order::Key`]: what waits for its key, in the order of publishing.
    blocked: HashMap<u64, VecDeque<Entry>>,
    blocked_count: usize,
    /// All of the above and what is about to be published.
    messages: u64,
    bytes: u64,
    retention: Retention,
    consume: Option<Consume>,
}

/// Builds the indexes of all queues from their rows.
pub(crate) fn read_all(
    store: &Store,
    clock: &Arc<dyn Clock>,
    timer: &Arc<Timer>,
) -> Result<HashMap<Name, Arc<QueueIndex>>, Error> {
    let now = clock.now();
    let mut queues: HashMap<Name, Arc<QueueIndex>> = HashMap::new();
    for row in store.scan(&keys::queues_prefix(), None) {
        let (key, value) = row?;
        let Some((queue, seq)) = keys::parse_queue_entry(&key) else {
            return Err(Error::Row {
                row: key.escape_ascii().to_string(),
                why: "its key has no number".into(),
            });
        };
        let (entry, due) = Entry::from_row(seq, &value)?;
        let index =
            queues.entry(queue.clone()).or_insert_with(|| Arc::new(QueueIndex::new(queue, timer.clone())));
        index.reserve_always(1, u64::from(entry.bytes));
        index.push(entry, due.filter(|due| *due > now));
    }
    Ok(queues)
}

impl QueueIndex {
    pub(crate) fn new(name: Name, timer: Arc<Timer>) -> Self {
        let state = State {
            ready: VecDeque::new(),
            delayed: BTreeMap::new(),
            in_flight: HashMap::new(),
            holders: HashMap::new(),
            blocked: HashMap::new(),
            blocked_count: 0,
            messages: 0,
            bytes: 0,
            retention: Retention::default(),
            consume: None,
        };
        Self { name, timer, state: Mutex::new(state), wake: Notify::new() }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn set_retention(&self, retention: Retention) {
        self.state.lock().retention = retention;
    }

    /// Makes room for messages that are about to be published.
    pub(crate) fn reserve(&self, messages: u64, bytes: u64) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        let full = |what: &str, has: u64, limit: u64| {
            Err(Refusal::new(
                Code::QueueFull,
                format!(
                    "the queue {} holds {has} {what} of at most {limit} and has no room for this publish; publish it \
                     again later, or raise retention.max_{what}",
                    self.name
                ),
            ))
        };
        if state.messages.saturating_add(messages) > state.retention.max_messages {
            return full("messages", state.messages, state.retention.max_messages);
        }
        if state.bytes.saturating_add(bytes) > state.retention.max_bytes {
            return full("bytes", state.bytes, state.retention.max_bytes);
        }
        state.messages += messages;
        state.bytes += bytes;
        Ok(())
    }

    /// Counts messages that belong in the queue whatever its limits say: they have been in it before.
    pub(crate) fn reserve_always(&self, messages: u64, bytes: u64) {
        let mut state = self.state.lock();
        state.messages += messages;
        state.bytes += bytes;
    }

    /// Gives back room that was not used after all.
    pub(crate) fn unreserve(&self, messages: u64, bytes: u64) {
        let mut state = self.state.lock();
        state.messages = state.messages.saturating_sub(messages);
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    /// Adds an entry for which there is room, held back until `due`.
    pub(crate) fn push(&self, entry: Entry, due: Option<Timestamp>) {
        let mut state = self.state.lock();
        match due {
            None => state.ready.push_back(entry),
            Some(due) => self.delay(&mut state, entry, due),
        }
        drop(state);
        self.wake.notify_one();
    }

    fn delay(&self, state: &mut State, entry: Entry, due: Timestamp) {
        if entry.taken && state.is_ordered() && entry.key != 0 {
            state.holders.insert(entry.key, entry.seq);
        }
        state.delayed.insert((due, entry.seq), entry);
        if state.delayed.keys().next() == Some(&(due, entry.seq)) {
            self.timer.wake_at(due, &self.name);
        }
    }

    /// Moves what is due to ready; answers when the next entry is due.
    pub(crate) fn release_due(&self, now: Timestamp) -> Option<Timestamp> {
        let mut state = self.state.lock();
        while let Some(first) = state.delayed.first_entry()
            && first.key().0 <= now
        {
            let entry = first.remove();
            // What comes back goes first: it is older than what waits, and its key may wait for it.
            if entry.taken {
                state.ready.push_front(entry);
            } else {
                state.ready.push_back(entry);
            }
        }
        let next = state.delayed.keys().next().map(|(due, _)| *due);
        drop(state);
        self.wake.notify_one();
        next
    }

    /// Lets a source take; there may be only one.
    pub(crate) fn open(&self, consume: Consume) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if state.consume.is_some() {
            return Err(Refusal::new(
                Code::InUse,
                format!("the queue {} is being consumed already; a queue has one subscription", self.name),
            ));
        }
        state.consume = Some(consume);
        state.rebuild_order();
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.state.lock().consume = None;
        self.wake.notify_waiters();
    }

    /// Waits until something may be taken, or the source is closed.
    pub(crate) async fn ready(&self) {
        loop {
            let woken = self.wake.notified();
            {
                let state = self.state.lock();
                if state.consume.is_none() || state.may_take() {
                    return;
                }
            }
            woken.await;
        }
    }

    /// Takes the next entry that its key allows.
    pub(crate) fn take(&self) -> Option<Entry> {
        let mut state = self.state.lock();
        let entry = state.take()?;
        let more = state.may_take();
        drop(state);
        if more {
            self.wake.notify_one();
        }
        Some(entry)
    }

    /// The entry of a delivery in flight.
    pub(crate) fn in_flight(&self, seq: u64) -> Option<Entry> {
        self.state.lock().in_flight.get(&seq).copied()
    }

    /// Brings the index to what the rows say since a settlement is durable.
    pub(crate) fn settle(&self, seq: u64, settlement: Settlement, now: Timestamp) {
        let mut state = self.state.lock();
        let Some(mut entry) = state.in_flight.remove(&seq) else { return };
        match settlement {
            Settlement::Ack => {
                state.messages = state.messages.saturating_sub(1);
                state.bytes = state.bytes.saturating_sub(u64::from(entry.bytes));
                state.release_key(entry);
            }
            Settlement::Retry { delay, .. } | Settlement::Release { delay } => {
                entry.taken = true;
                self.put_back(&mut state, entry, delay, now);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Puts a delivery back as if it had never been taken, held back for the delay.
    pub(crate) fn give_back(&self, seq: u64, delay: Duration, now: Timestamp) {
        let mut state = self.state.lock();
        if let Some(entry) = state.in_flight.remove(&seq) {
            self.put_back(&mut state, entry, delay, now);
        }
        drop(state);
        self.wake.notify_one();
    }

    fn put_back(&self, state: &mut State, entry: Entry, delay: Duration, now: Timestamp) {
        if delay.is_zero() {
            state.ready.push_front(entry);
        } else {
            self.delay(state, entry, now.after(delay));
        }
    }

    /// Ready, in flight and delayed.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let state = self.state.lock();
        let ready = state.ready.len() + state.blocked_count;
        (ready as u64, state.in_flight.len() as u64, state.delayed.len() as u64)
    }

    /// Everything that the queue holds.
    pub(crate) fn held(&self) -> u64 {
        let (ready, in_flight, delayed) = self.counts();
        ready + in_flight + delayed
    }
}

impl State {
    fn is_ordered(&self) -> bool {
        self.consume.is_some_and(|consume| consume.order == Order::Key)
    }

    fn may_take(&self) -> bool {
        let room = self.consume.is_some_and(|consume| self.in_flight.len() < consume.max_in_flight as usize);
        room && !self.ready.is_empty()
    }

    fn take(&mut self) -> Option<Entry> {
        while self.may_take() {
            let entry = self.ready.pop_front()?;
            if self.is_ordered() && entry.key != 0 {
                let holder = *self.holders.entry(entry.key).or_insert(entry.seq);
                if holder != entry.seq {
                    self.blocked.entry(entry.key).or_default().push_back(entry);
                    self.blocked_count += 1;
                    continue;
                }
            }
            self.in_flight.insert(entry.seq, entry);
            return Some(entry);
        }
        None
    }

    /// Lets the next of the key go. INVARIANT: of one key at most one entry is in flight or retried.
    fn release_key(&mut self, entry: Entry) {
        if self.holders.get(&entry.key) != Some(&entry.seq) {
            return;
        }
        self.holders.remove(&entry.key);
        if let Some(waiting) = self.blocked.get_mut(&entry.key) {
            if let Some(next) = waiting.pop_front() {
                self.blocked_count -= 1;
                self.holders.insert(next.key, next.seq);
                self.ready.push_front(next);
            }
            if self.blocked.get(&entry.key).is_some_and(VecDeque::is_empty) {
                self.blocked.remove(&entry.key);
            }
        }
    }

    /// Starts the bookkeeping of keys anew for a source that may order differently from the last.
    fn rebuild_order(&mut self) {
        self.holders.clear();
        self.blocked_count = 0;
        let blocked = std::mem::take(&mut self.blocked);
        if !blocked.is_empty() {
            self.ready.extend(blocked.into_values().flatten());
            self.ready.make_contiguous().sort_unstable_by_key(|entry| entry.seq);
        }
        if self.is_ordered() {
            let retried = self.delayed.values().filter(|entry| entry.taken);
            let holding = retried.chain(self.in_flight.values()).filter(|entry| entry.key != 0);
            self.holders.extend(holding.map(|entry| (entry.key, entry.seq)));
        }
    }
}
