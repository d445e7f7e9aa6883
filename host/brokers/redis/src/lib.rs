//! Redis as a broker: lists, streams with consumer groups, and pub/sub as a source.
//!
//! Called by the remote broker through its port `Transport`, which adds retries, the outbox, the window
//! and the memory of ids. This is the one crate that knows Redis. Redis 6.2 or later, or Valkey; one
//! server (no Redis Cluster).
//!
//! | Brolly | Redis list (`"type":"list"`, the default) | Redis stream (`"type":"stream"`) |
//! | --- | --- | --- |
//! | topic | a name; Brolly routes | a stream |
//! | queue | a list at `address` | a consumer group named `address` on the stream of its topic |
//! | publish | RPUSH to each routed list | XADD, once, with RPUSH to routed lists in one step |
//! | take | from the head into the hash of a worker | pending for a consumer, who is the worker |
//! | settle | removed from the hash by its tag | XACK |
//! | retry | from the hash to the delayed | XACK, and a copy to the delayed, in one step |
//! | give back | to the head of the list | pending for the consumer `brolly-returned`, taken first |
//! | delayed | zset of due times by the server's clock, hash of values | the same |
//! | route | key pattern and filter are done by Brolly when it publishes | by Brolly when it takes: a change applies to what is in the stream already |
//!
//! # Keys
//! Beside the list `A` there are `A:brolly:workers`, `A:brolly:taken:WORKER`, `A:brolly:delayed`,
//! `A:brolly:held`, `A:brolly:unfit` and `A:brolly:ids…`; beside the group `G` of a stream `S` the same
//! with `S:brolly:G`. `scripts/shared.lua` says what is in them. Every change of more than one key is
//! one script, so that a message is at every moment in exactly one place; each script says what a crash
//! before or after it leaves. A worker is one consumption of one process; its name is never used again.
//! It gives a sign of life every third of `worker_timeout_ms`, or more often. What it holds when its
//! process ends is taken over by the next one of the same host at once, whose memory knows what is decided.
//! One that is silent for longer is taken for dead, for good: what it held comes again, to any host, and it
//! can neither take nor settle any more. Nobody is taken for dead by a process that is connected for less than this time, so that a
//! restart of the server is survived by all.
//!
//! # What a message is
//! A list of Brolly's own holds messages in Brolly's envelope, with id, key, headers and attempts
//! (`envelope.rs`). A list with `"adopt": true` belongs to somebody else: what Brolly puts there is the
//! plain payload, so that its id, key and headers are not known to who takes it, Brolly included.
//! Payloads without an envelope may come in any list; such a message gets its id, `WORKER-TAG`, in the
//! step that takes it, and keeps it from then on, whatever happens: in the worker's hash, in the
//! delayed, and given back into the list. Into a list of somebody else goes the plain payload; its
//! header waits aside for 7 days, under the payload's hash, and meets it again. Equal payloads are
//! different messages. So deduplication is exact from the first taking on; what the producer has pushed
//! twice, or a server brings back that has lost its last writes, is two messages. What breaks a limit
//! of messages is settled as a dead letter; of a list, its original is kept in `A:brolly:unfit`.
//! Entries of streams are described in `entry.rs`.
//!
//! A publish whose answer was lost is sent again under the same id. Each list and stream remembers its
//! last 10,000 ids (`…:brolly:sent`), so that it is there once for programs that are not Brolly, too.
//!
//! # What Redis promises
//! What is confirmed is as durable as the server is set up: with `appendonly yes` and `appendfsync
//! everysec`, a crash of the machine loses the last second, with `always` nothing. Brolly says so where
//! it is less ([`brolly_core::Health`]). A server at its `maxmemory` takes no new messages and can still
//! be drained. A stream of Brolly's own is trimmed to what some consumer group has not settled; a stream
//! or group with `adopt` is never trimmed, made or deleted. A group of Brolly's own begins with the
//! first entry of the stream. Consumers of a group of Brolly's own that are not Brolly's are taken for
//! dead, too, when they are silent; in a group of somebody else they are left alone.
//!
//! What a stream holds is not measurable where entries in its middle were deleted, and before Redis 7
//! for a backlog of more than 100.
//!
//! # Connections and rights
//! One connection for publishing and keeping house, two for each consumption. A user with restricted
//! rights needs the keys above and HELLO, PING, SELECT, TYPE, EVALSHA, SCRIPT LOAD, BLMOVE, XREAD, XINFO,
//! XGROUP, ZRANGE, and what the scripts call; INFO and CONFIG GET for the warnings alone.
//!
//! A dead connection is noticed within `block_ms` and `response_timeout_ms`, 5 s by default, even where
//! nothing flows.

mod connect;
mod consumer;
mod entry;
mod envelope;
mod error;
mod exchange;
mod hold;
mod inspect;
mod plan;
mod publish;
mod pubsub;
mod scripts;
mod server;
mod settings;
mod status;
mod supervisor;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use brolly_core::{
    BrokerDefinition, BrokerError, Clock, Code, Counts, Feed, Health, Listener, Name, Order, Proposal,
    Publication, Refusal, Seat, Stop, Thing,
};
use brolly_remote::{Inlet, Parcel, Tap, Transport};
use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use error::Error;

use connect::{Dialer, Link};
use consumer::Consumer;
use hold::Hold;
use plan::{Place, Plan};
use settings::Settings;
use status::Status;

/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(5);

/// A Redis server.
pub struct Redis {
    inner: Arc<Inner>,
}

/// What all parts share.
pub(crate) struct Inner {
    name: Name,
    settings: Arc<Settings>,
    dialer: Dialer,
    /// Owns every task: consumptions, and the drivers of connections.
    tasks: TaskTracker,
    stop: CancellationToken,
    status: Status,
    /// The first part of the name of every worker of this host.
    host: String,
    /// The first part of the name of every worker of this process and broker.
    process: String,
    workers: AtomicU64,
    plan: RwLock<Arc<Plan>>,
    /// Queues that are no longer named, or can no longer be there, and are not deleted (yet).
    former: Mutex<HashMap<Name, Arc<Place>>>,
    reviewing: tokio::sync::Mutex<()>,
    /// The connection for everything that is not consuming, while there is one.
    control: Mutex<Option<Link>>,
    consumptions: Mutex<HashMap<Name, Weak<Hold>>>,
    /// Workers of this process that ended without saying so to the server.
    orphans: Mutex<HashMap<Name, Vec<String>>>,
}

/// Checks a definition without connecting anywhere.
///
/// # Errors
/// [`Code::InvalidDefinition`] with all mistakes.
pub fn check(definition: &BrokerDefinition) -> Result<(), Refusal> {
    Settings::read(definition).map(drop)
}

impl Redis {
    /// Makes the transport. It connects while [`Transport::run`] runs. `host` is a name that the host keeps
    /// when it starts anew, and that no other host has: what it held before is its own.
    ///
    /// # Errors
    /// As [`check`].
    pub fn open(
        name: &Name,
        definition: &BrokerDefinition,
        host: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Refusal> {
        let settings = Arc::new(Settings::read(definition)?);
        let tasks = TaskTracker::new();
        let inner = Inner {
            name: name.clone(),
            dialer: Dialer { settings: settings.clone(), tasks: tasks.clone() },
            settings,
            tasks,
            stop: CancellationToken::new(),
            status: Status::new(name.clone(), clock),
            host: format!("brolly-{host}~{name}~"),
            process: format!("brolly-{host}~{name}~{}", Uuid::now_v7().simple()),
            workers: AtomicU64::new(0),
            plan: RwLock::default(),
            former: Mutex::default(),
            reviewing: tokio::sync::Mutex::default(),
            control: Mutex::default(),
            consumptions: Mutex::default(),
            orphans: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn plan(&self) -> Arc<Plan> {
        self.plan.read().clone()
    }

    /// Where a queue is, or was when it last could be there.
    fn place(&self, queue: &Name) -> Result<Arc<Place>, Refusal> {
        let plan = self.plan();
        let former = || self.former.lock().get(queue).cloned();
        if let Some(place) = plan.places.get(queue).cloned().or_else(former) {
            return Ok(place);
        }
        Err(match plan.troubles.queues.get(queue) {
            Some(trouble) => {
                Refusal::new(Code::Unavailable, format!("the queue {queue} cannot be used: {trouble}"))
            }
            None => Refusal::not_found("queue", queue.as_str()),
        })
    }

    fn control(&self) -> Result<Link, Error> {
        if self.stop.is_cancelled() {
            return Err(Error::Closed);
        }
        self.control.lock().clone().ok_or_else(|| self.status.absence())
    }

    /// Something is due then in a queue; if it is consumed here, it is looked for.
    fn nudge(&self, queue: &Name, due: Instant) {
        let hold = self.consumptions.lock().get(queue).and_then(Weak::upgrade);
        if let Some(hold) = hold {
            hold.note_due(due);
        }
    }

    /// A worker of this process ended, and the server does not know.
    fn orphan(&self, queue: &Name, worker: &str) {
        self.orphans.lock().entry(queue.clone()).or_default().push(worker.to_owned());
    }

    fn forget(&self, queue: &Name) {
        self.former.lock().remove(queue);
        self.orphans.lock().remove(queue);
    }

    /// Connects a new worker, which takes over from those of this process that have ended.
    async fn consumer(
        self: &Arc<Self>,
        place: Arc<Place>,
        prefetch: u32,
        inlet: Inlet,
    ) -> Result<Consumer, Error> {
        let (link, bell) =
            tokio::try_join!(self.dialer.dial(Duration::ZERO), self.dialer.dial(self.settings.block))?;
        let before = Mutex::new(self.earlier_workers(&link, &place).await?);
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        let worker = format!("{}-{number}", self.process);
        self.register(&link, &place, &worker).await?;
        let hold = Arc::new(Hold::new(prefetch));
        Ok(Consumer {
            inner: self.clone(),
            place,
            worker,
            before,
            hold,
            inlet,
            link,
            bell,
            began: Instant::now(),
        })
    }
}

#[async_trait]
impl Transport for Redis {
    fn system(&self) -> &'static str {
        "redis"
    }

    async fn run(&self) {
        supervisor::run(&self.inner).await;
    }

    async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        *self.inner.control.lock() = None;
        if timeout(CLOSE, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(broker = %self.inner.name, "not everything could be settled in time; it is handed out anew");
        }
    }

    /// Others look for dead workers when they have been connected for as long as a worker may be silent, and
    /// then three times as often.
    fn notices_within(&self) -> Duration {
        2 * self.inner.settings.worker_timeout
    }

    fn health(&self) -> Health {
        self.inner.status.health()
    }

    fn trouble(&self, thing: Thing<'_>) -> Option<String> {
        self.inner.status.trouble(thing)
    }

    async fn admit(&self, name: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError> {
        inspect::admit(&self.inner, name, proposal).await
    }

    async fn configure(&self, wanted: Publication) -> Result<(), BrokerError> {
        let inner = &self.inner;
        let plan = Arc::new(Plan::new(wanted));
        let before = std::mem::replace(&mut *inner.plan.write(), plan.clone());
        let mut former = std::mem::take(&mut *inner.former.lock());
        former.extend(before.places.iter().map(|(queue, place)| (queue.clone(), place.clone())));
        former.retain(|queue, _| !plan.places.contains_key(queue));
        *inner.former.lock() = former;
        inner.status.found(plan.troubles.clone());
        let consumptions: Vec<_> = inner.consumptions.lock().values().filter_map(Weak::upgrade).collect();
        consumptions.iter().for_each(|hold| hold.take.notify_one());
        if let Ok(link) = inner.control()
            && let Err(error) = supervisor::review(inner, &link).await
        {
            tracing::debug!(broker = %inner.name, %error, "what is wanted is brought about later");
        }
        Ok(())
    }

    async fn send(&self, parcels: Vec<Parcel>) -> Vec<Result<(), BrokerError>> {
        publish::send(&self.inner, parcels).await
    }

    async fn consume(
        &self,
        queue: &Name,
        _order: Order,
        prefetch: u32,
        inlet: Inlet,
    ) -> Result<Arc<dyn Tap>, BrokerError> {
        let inner = &self.inner;
        let failed = |error: Error| error.on("consume", queue.to_string());
        let place = inner.place(queue)?;
        // Its troubles on the server stand in the way now, and may be over in a moment.
        if let Some(trouble) = inner.status.trouble(Thing::Queue(queue)) {
            return Err(Refusal::new(
                Code::Unavailable,
                format!("the queue {queue} cannot be consumed: {trouble}"),
            )
            .into());
        }
        inner.control().map_err(failed)?;
        let consumer = inner.consumer(place, prefetch, inlet).await.map_err(failed)?;
        let hold = consumer.hold.clone();
        inner.consumptions.lock().insert(queue.clone(), Arc::downgrade(&hold));
        inner.tasks.spawn(consumer.run());
        Ok(hold)
    }

    async fn listen(
        &self,
        feed: &Feed,
        seat: Seat<'_>,
        listener: Arc<dyn Listener>,
        stop: Stop,
    ) -> Result<(), BrokerError> {
        pubsub::listen(&self.inner, feed, seat, listener, stop).await;
        Ok(())
    }

    async fn counts(&self, queue: &Name) -> Result<Counts, BrokerError> {
        inspect::counts(&self.inner, queue).await
    }

    async fn delete_queue(&self, queue: &Name, force: bool) -> Result<(), BrokerError> {
        inspect::delete(&self.inner, queue, force).await
    }
}
