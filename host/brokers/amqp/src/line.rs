//! One consumption: the way of messages from one queue to the host, and of settlements back.
//!
//! Called by the transport's `consume`; the host holds it as its tap. It has a channel for the queue
//! and one for the dead letters that RabbitMQ makes of it. INVARIANT: a delivery is settled on the
//! channel that brought it; when that is gone, nothing is told to anybody, and the server hands out
//! again what it was not told of.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use brolly_core::{BrokerError, Message, Name};
use brolly_remote::{Inlet, Parcel, Pushed, Tap, To};
use futures::StreamExt;
use lapin::{message::Delivery, options::BasicCancelOptions};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Inner,
    decode::{Arrival, Place, received},
    error::Error,
    session::Session,
    topology::dead_queue,
    way::{Arrivals, Asked, PUTTING_BACK, Way},
};

/// How long the server may take to begin or end a consumption.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether a connection still stands while it is asked something.
const GLANCE: Duration = Duration::from_millis(50);
/// How long settlements wait for one before them.
const GATHER: Duration = Duration::from_millis(5);
/// The most dead letters that are handed out and not settled.
const DEAD_PREFETCH: u16 = 32;
/// Copies that are sent at once.
const RETRIES: usize = 256;
/// How long copies that could not be sent wait.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A consumption.
pub(crate) struct Line {
    inner: Arc<Inner>,
    session: Arc<Session>,
    inlet: Inlet,
    address: String,
    /// First the queue, then its dead letters.
    ways: Vec<Way>,
    retries: Mutex<VecDeque<Retry>>,
    /// Those and the ones that are being sent.
    retrying: AtomicUsize,
    /// Ways that still bring deliveries.
    open: AtomicUsize,
    /// Something is to be told to the server, or is over.
    wake: Notify,
    wake_retries: Notify,
    /// No more deliveries come, and the host was told so: it forgets those that nobody has taken. What
    /// is not settled by now comes again.
    failed: AtomicBool,
    /// No more deliveries are wanted.
    closing: CancellationToken,
    /// Nothing is done any more.
    ended: CancellationToken,
    /// Nor is there anything left of it on the server.
    gone: AtomicBool,
}

struct Retry {
    tag: u64,
    message: Arc<Message>,
    delay: Duration,
    attempts: u32,
}

/// Begins to consume a queue.
pub(crate) async fn open(
    inner: &Arc<Inner>,
    session: Arc<Session>,
    prefetch: u32,
    inlet: Inlet,
) -> Result<Arc<Line>, Error> {
    let prefetch = u16::try_from(prefetch).unwrap_or(u16::MAX).max(1);
    let beginning = Line::begin(inner, session.clone(), prefetch, inlet);
    let (line, sources) = tokio::select! {
        begun = tokio::time::timeout(PATIENCE, beginning) => begun.unwrap_or(Err(Error::Silent(PATIENCE))),
        // What lapin is asked in the moment in which it ends it never answers.
        () = broken(&session.consuming.connection) => Err(Error::Client("the connection broke".to_owned())),
    }?;
    for (number, arrivals) in sources.into_iter().enumerate() {
        let line = line.clone();
        inner.tasks.spawn(async move { line.read(number, arrivals).await });
    }
    let (settling, retrying) = (line.clone(), line.clone());
    inner.tasks.spawn(async move { settling.settle().await });
    inner.tasks.spawn(async move { retrying.retry_all().await });
    Ok(line)
}

/// Waits until a connection is of no use any more.
async fn broken(connection: &lapin::Connection) {
    while connection.status().connected() {
        tokio::time::sleep(GLANCE).await;
    }
}

impl Line {
    /// Has the server hand out messages. Nobody reads them yet.
    async fn begin(
        inner: &Arc<Inner>,
        session: Arc<Session>,
        prefetch: u16,
        inlet: Inlet,
    ) -> Result<(Arc<Self>, Vec<Arrivals>), Error> {
        let address = inner.topology.address_of(inlet.queue());
        let adopted = inner.topology.queue(inlet.queue()).is_some_and(|queue| queue.adopt);
        let connection = &session.consuming.connection;
        let mut opened = vec![Way::open(connection, &address, prefetch, false).await?];
        if !adopted {
            let (dead, prefetch) = (dead_queue(&address), prefetch.min(DEAD_PREFETCH));
            opened.push(Way::open(connection, &dead, prefetch, true).await?);
        }
        let (ways, asked): (Vec<Way>, Vec<Asked>) = opened.into_iter().unzip();
        let line = Arc::new(Self {
            inner: inner.clone(),
            session,
            inlet,
            address,
            open: AtomicUsize::new(ways.len()),
            ways,
            retries: Mutex::default(),
            retrying: AtomicUsize::new(0),
            wake: Notify::new(),
            wake_retries: Notify::new(),
            failed: AtomicBool::new(false),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
            gone: AtomicBool::new(false),
        });
        // Known before the first message is handed out, so that none is counted by nobody.
        inner.add_line(&line);
        let mut sources = Vec::with_capacity(asked.len());
        for (way, asked) in line.ways.iter().zip(asked) {
            sources.push(Arrivals { consumer: way.consume().await?, asked });
        }
        Ok((line, sources))
    }

    /// The queue that is consumed.
    pub(crate) fn queue(&self) -> &Name {
        self.inlet.queue()
    }

    /// How many messages of the queue the server waits to hear of, or puts back at the moment.
    pub(crate) fn unsettled(&self) -> u64 {
        if self.gone.load(Ordering::Acquire) {
            return 0;
        }
        self.ways.iter().map(Way::unsettled).sum()
    }

    /// How many consumers the server knows of it; none while one of them begins or has ended.
    pub(crate) fn consumers(&self) -> u64 {
        if self.ways.iter().all(Way::stands) { self.ways.len() as u64 } else { 0 }
    }

    /// Whether it is about to end, and not for a reason of the server's.
    pub(crate) fn closes(&self) -> bool {
        self.closing.is_cancelled() && !self.failed.load(Ordering::Acquire)
    }

    /// Waits until everything that the server has handed out by now is counted as unsettled, and
    /// everything that it was told by now is done, or for a while: what travels is counted by nobody.
    pub(crate) async fn catch_up(&self) {
        let asking = futures::future::join_all(self.ways.iter().map(Way::catch_up));
        let _ = tokio::time::timeout(PATIENCE, asking).await;
    }

    /// Waits until nothing is done any more.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Hands what a channel brings to the host, until it brings no more.
    async fn read(self: Arc<Self>, number: usize, arrivals: Arrivals) {
        let Some(way) = self.ways.get(number) else { return };
        let Arrivals { mut consumer, mut asked } = arrivals;
        let mut answers: Vec<oneshot::Sender<()>> = Vec::new();
        let mut cancelled = false;
        let reason = loop {
            tokio::select! {
                biased;
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => self.arrive(way, delivery),
                    Some(Err(error)) => break Error::from(error).to_string(),
                    None => break self.why_cancelled(),
                },
                // Nothing is here that is not counted.
                () = std::future::ready(()), if !answers.is_empty() => {
                    for answer in answers.drain(..) {
                        let _ = answer.send(());
                    }
                }
                Some(answer) = asked.recv() => {
                    let _ = tokio::time::timeout(PATIENCE, way.echo()).await;
                    answers.push(answer);
                }
                () = self.closing.cancelled(), if !cancelled => {
                    cancelled = true;
                    way.ends();
                    let cancel = way.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
                    // On an error the consumer ends by itself.
                    let _ = tokio::time::timeout(PATIENCE, cancel).await;
                }
            }
        };
        way.ends();
        if !self.closing.is_cancelled() {
            self.fail(&reason);
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    fn why_cancelled(&self) -> String {
        self.session
            .reason()
            .unwrap_or_else(|| "the server cancelled the consumer: was the queue deleted?".to_owned())
    }

    fn fail(&self, reason: &str) {
        tracing::warn!(queue = %self.queue(), reason, "no more messages come");
        self.inlet.fail(reason);
        self.failed.store(true, Ordering::Release);
        self.closing.cancel();
        self.wake.notify_one();
        self.inner.topology.doubt(&self.address);
    }

    fn arrive(&self, way: &Way, delivery: Delivery) {
        way.acks.lock().hand_out(delivery.delivery_tag);
        let tag = delivery.delivery_tag << 1 | u64::from(way.dead);
        let arrival = Arrival {
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
            properties: delivery.properties,
            body: delivery.data.into(),
        };
        let topics = self.inner.topology.by_exchange();
        let place = Place {
            queue: self.queue(),
            topics: &topics,
            now: self.inner.clock.now(),
            dead_of: way.dead.then_some(self.address.as_str()),
        };
        match self.inlet.push(received(tag, arrival, place)) {
            Pushed::Held => {}
            Pushed::Filtered => self.ack(tag),
            Pushed::Closed => self.give_back(tag),
        }
    }

    /// The channel that a tag is of, with the server's tag.
    fn way(&self, tag: u64) -> Option<(&Way, u64)> {
        let dead = tag & 1 == 1;
        self.ways.iter().find(|way| way.dead == dead).map(|way| (way, tag >> 1))
    }

    /// Tells the server what is settled, until all is told and nothing more comes.
    async fn settle(self: Arc<Self>) {
        let mut lost = self.session.lost.subscribe();
        let mut stuck_since = None;
        loop {
            let failed = self.failed.load(Ordering::Acquire);
            let all = failed || stuck_since.is_some_and(|since: Instant| since.elapsed() >= GATHER);
            let mut told = false;
            for way in &self.ways {
                told |= way.tell(all).await;
            }
            if told {
                // More may have come meanwhile.
                stuck_since = None;
                continue;
            }
            if failed || self.is_done() {
                break;
            }
            let stuck = self.ways.iter().any(|way| way.acks.lock().stuck() > 0);
            stuck_since = stuck.then(|| stuck_since.unwrap_or_else(Instant::now));
            let due = stuck_since.map(|since| since + GATHER);
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                _ = lost.wait_for(Option::is_some) => break,
            }
        }
        self.ended.cancel();
        self.wake_retries.notify_one();
        for way in &self.ways {
            if way.channel.status().connected() {
                // What is not told by now comes again.
                let _ = tokio::time::timeout(PATIENCE, way.channel.close(200, "OK".into())).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PUTTING_BACK) => {}
            () = self.inner.stop.cancelled() => {}
        }
        self.gone.store(true, Ordering::Release);
    }

    fn is_done(&self) -> bool {
        let over = self.open.load(Ordering::Acquire) == 0;
        let dead = self.ways.iter().all(|way| !way.channel.status().connected());
        let quiet = dead || self.retrying.load(Ordering::Acquire) == 0;
        over && quiet && self.ways.iter().all(Way::is_done)
    }

    /// Sends the copies of what is to come again; only then is the original settled.
    async fn retry_all(self: Arc<Self>) {
        let mut failing = false;
        loop {
            let batch: Vec<Retry> = {
                let mut retries = self.retries.lock();
                let many = retries.len().min(RETRIES);
                retries.drain(..many).collect()
            };
            if self.ended.is_cancelled() {
                return;
            }
            if batch.is_empty() {
                self.wake_retries.notified().await;
                continue;
            }
            let results = self.inner.send(batch.iter().map(|retry| self.parcel(retry)).collect()).await;
            let error = self.after_retries(batch, results);
            if let Some(error) = &error {
                if !failing {
                    tracing::warn!(queue = %self.queue(), %error, "copies for a later attempt could not be sent and wait");
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            failing = error.is_some();
        }
    }

    fn parcel(&self, retry: &Retry) -> Parcel {
        Parcel {
            to: To::Queue { queue: self.queue().clone(), delay: retry.delay, attempts: retry.attempts },
            message: retry.message.clone(),
            routed: vec![self.queue().clone()],
            moved: None,
        }
    }

    /// Settles the originals of confirmed copies; the others are tried again. Answers with the first
    /// error.
    fn after_retries(&self, batch: Vec<Retry>, results: Vec<Result<(), BrokerError>>) -> Option<BrokerError> {
        let mut first = None;
        let mut again = Vec::new();
        for (retry, result) in batch.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    self.ack(retry.tag);
                    self.retrying.fetch_sub(1, Ordering::AcqRel);
                }
                Err(error) => {
                    again.push(retry);
                    first.get_or_insert(error);
                }
            }
        }
        self.wake.notify_one();
        let mut retries = self.retries.lock();
        again.into_iter().rev().for_each(|retry| retries.push_front(retry));
        first
    }
}

impl Tap for Line {
    fn ack(&self, tag: u64) {
        let Some((way, tag)) = self.way(tag) else { return };
        way.acks.lock().settle(tag);
        self.wake.notify_one();
    }

    fn retry(&self, tag: u64, message: &Arc<Message>, delay: Duration, attempts: u32) {
        if self.ended.is_cancelled() {
            return;
        }
        self.retrying.fetch_add(1, Ordering::AcqRel);
        self.retries.lock().push_back(Retry { tag, message: message.clone(), delay, attempts });
        self.wake_retries.notify_one();
    }

    fn give_back(&self, tag: u64) {
        let Some((way, tag)) = self.way(tag) else { return };
        way.acks.lock().give_back(tag);
        self.wake.notify_one();
    }

    fn close(&self) {
        self.closing.cancel();
    }
}
