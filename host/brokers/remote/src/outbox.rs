//! The outbox: messages that became durable here together with an outcome and are still to be sent
//! to a remote broker. Filled by publishes of handlers and by replays; one task per broker empties
//! it. A crash at any moment leaves the row, so a message may be sent twice, under the same id, and
//! is handled once.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use brolly_core::{BrokerError, Code, Commit, Name, Refusal};
use brolly_store::{Messages, Store, keys};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{
    Error,
    transport::{Parcel, To, Transport},
};

/// The format of the row; its first byte.
const FORMAT: u8 = 1;

/// Messages that may wait for one broker; then handlers that publish to it wait, too.
pub(crate) const CAPACITY: usize = 100_000;

/// Messages that are sent before the first is confirmed.
const BATCH: usize = 256;

/// The row of a message in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    broker: Name,
    to: Destination,
}

/// Where it is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Destination {
    /// To its topic, from where these queues get it by Brolly's routes.
    Topic { routed: Vec<Name> },
    /// To one queue.
    Queue { queue: Name, delay_ms: u64 },
}

/// The messages on their way to one broker.
pub(crate) struct Outbox {
    broker: Name,
    store: Store,
    messages: Messages,
    waiting: Mutex<VecDeque<Entry>>,
    /// With those whose commit is not yet durable.
    count: Arc<AtomicUsize>,
    wake: Notify,
}

struct Entry {
    seq: u64,
    number: u64,
    to: Destination,
    _place: Place,
}

/// A place in the outbox, free again when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Outbox {
    /// Reads what waits for the broker.
    pub(crate) fn open(broker: Name, store: Store, messages: Messages) -> Result<Self, Error> {
        let outbox = Self {
            broker,
            store,
            messages,
            waiting: Mutex::default(),
            count: Arc::default(),
            wake: Notify::new(),
        };
        for row in outbox.store.scan(&keys::outbox_prefix(), None) {
            let (key, value) = row?;
            let wrong = |why: String| Error::Row { row: key.escape_ascii().to_string(), why };
            let (seq, number) =
                keys::parse_outbox(&key).ok_or_else(|| wrong("its key is none".to_owned()))?;
            let row: Row = match value.split_first() {
                Some((&FORMAT, row)) => {
                    postcard::from_bytes(row).map_err(|error| wrong(error.to_string()))?
                }
                Some((format, _)) => {
                    return Err(wrong(format!("it has format {format}, this version reads {FORMAT}")));
                }
                None => return Err(wrong("it is empty".to_owned())),
            };
            if row.broker == outbox.broker {
                let entry = Entry { seq, number, to: row.to, _place: outbox.place() };
                outbox.waiting.lock().push_back(entry);
            }
        }
        Ok(outbox)
    }

    fn place(&self) -> Place {
        self.count.fetch_add(1, Ordering::Relaxed);
        Place(self.count.clone())
    }

    /// How many messages are on their way.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Refuses what would fill it beyond its capacity.
    pub(crate) fn check_room(&self, more: usize) -> Result<(), Refusal> {
        if self.len() + more <= CAPACITY {
            return Ok(());
        }
        let detail = format!(
            "{} messages wait to be sent to the broker {} already, the limit is {CAPACITY}; they are sent once it can \
             be reached",
            self.len(),
            self.broker
        );
        Err(Refusal::new(Code::QueueFull, detail))
    }

    /// Adds to the commit that the message at `seq` is sent.
    pub(crate) fn stage(
        self: &Arc<Self>,
        seq: u64,
        to: Destination,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let number = self.messages.allocate();
        let row = Row { broker: self.broker.clone(), to };
        let encoded = postcard::to_extend(&row, vec![FORMAT])
            .map_err(|error| Error::Row { row: "to be written".to_owned(), why: error.to_string() })?;
        commit.put(keys::outbox(seq, number), encoded);
        let entry = Entry { seq, number, to: row.to, _place: self.place() };
        let outbox = self.clone();
        commit.then(move || {
            outbox.waiting.lock().push_back(entry);
            outbox.wake.notify_one();
        });
        Ok(())
    }

    /// Sends what waits, for ever.
    pub(crate) async fn run(&self, transport: &dyn Transport) {
        let backoff = || {
            let delays = ExponentialBuilder::new().with_jitter().without_max_times();
            delays.with_min_delay(Duration::from_millis(100)).with_max_delay(Duration::from_secs(10)).build()
        };
        let mut delays = backoff();
        loop {
            let woken = self.wake.notified();
            let batch: Vec<Entry> = {
                let mut waiting = self.waiting.lock();
                let many = waiting.len().min(BATCH);
                waiting.drain(..many).collect()
            };
            if batch.is_empty() {
                woken.await;
                continue;
            }
            match self.send(batch, transport).await {
                Ok(()) => delays = backoff(),
                Err(error) => {
                    let delay = delays.next().unwrap_or(Duration::from_secs(10));
                    metrics::counter!("brolly_outbox_failures_total", "broker" => self.broker.to_string())
                        .increment(1);
                    tracing::warn!(broker = %self.broker, waiting = self.len(), %error, ?delay, "messages could not be sent and wait");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// Sends a batch. What fails goes back to where it came from; what is refused goes behind the
    /// others, so that it does not hold them up.
    async fn send(&self, batch: Vec<Entry>, transport: &dyn Transport) -> Result<(), BrokerError> {
        // The message of a row is kept for as long as the row; one that is gone all the same cannot be sent.
        let mut entries = Vec::with_capacity(batch.len());
        let mut parcels = Vec::with_capacity(batch.len());
        let mut sent = Commit::default();
        for entry in batch {
            match self.messages.message(entry.seq) {
                Ok(Some(message)) => {
                    parcels.push(entry.parcel(message));
                    entries.push(entry);
                }
                Ok(None) => {
                    tracing::error!(broker = %self.broker, seq = entry.seq, "a message that was to be sent is gone");
                    sent.delete(keys::outbox(entry.seq, entry.number));
                }
                Err(error) => {
                    tracing::error!(broker = %self.broker, seq = entry.seq, %error, "a message that is to be sent cannot be read");
                    self.waiting.lock().push_back(entry);
                }
            }
        }
        let results = transport.send(parcels).await;
        let (mut failed, mut refused, mut first) = (Vec::new(), Vec::new(), None);
        for (entry, result) in entries.into_iter().zip(results) {
            match result {
                Ok(()) => sent.delete(keys::outbox(entry.seq, entry.number)),
                Err(error @ BrokerError::Refused(_)) => {
                    refused.push(entry);
                    first.get_or_insert(error);
                }
                Err(error @ BrokerError::Failed { .. }) => {
                    failed.push(entry);
                    first.get_or_insert(error);
                }
            }
        }
        self.store.submit(sent);
        let mut waiting = self.waiting.lock();
        failed.into_iter().rev().for_each(|entry| waiting.push_front(entry));
        waiting.extend(refused);
        drop(waiting);
        first.map_or(Ok(()), Err)
    }
}

impl Entry {
    fn parcel(&self, message: Arc<brolly_core::Message>) -> Parcel {
        match &self.to {
            Destination::Topic { routed } => {
                Parcel { to: To::Topic, message, routed: routed.clone(), moved: None }
            }
            Destination::Queue { queue, delay_ms } => Parcel {
                to: To::Queue { queue: queue.clone(), delay: Duration::from_millis(*delay_ms), attempts: 0 },
                message,
                routed: vec![queue.clone()],
                moved: None,
            },
        }
    }
}
