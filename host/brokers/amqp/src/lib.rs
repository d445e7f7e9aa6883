//! The way to RabbitMQ, over AMQP 0-9-1.
//!
//! Called by `brolly-remote` through its [`Transport`]. The one crate that knows lapin. It knows
//! nothing of ledger, outbox and handlers.
//!
//! | Brolly | RabbitMQ |
//! | --- | --- |
//! | topic | a durable topic exchange |
//! | queue | a durable quorum queue (or classic), and `{address}.dead` for what RabbitMQ gives up |
//! | route | a binding; the filter is asked when the message arrives |
//! | key | routing key, or the header `x-brolly-key` on a copy |
//! | delivery | a message of a consumer with `prefetch`, and its delivery tag |
//! | ack | `basic.ack`, many at once |
//! | retry | a confirmed copy in `{address}.wait.{ms}`, which expires into the queue; then `basic.ack` |
//! | give back | `basic.nack` with requeue |
//! | publish | mandatory, persistent, confirmed |
//! | `adopt` | looked for, never declared, bound, altered or deleted |
//!
//! **Connections.** Two: one consumes and declares, one publishes, because the server stops reading
//! from connections that publish when it is short of memory or disk. One over which nothing comes is
//! given up after at most 2.5 times `heartbeat_s`. A short third one asks for the server's version
//! before; the server notes in its log that it was closed. RabbitMQ before 3.10 is refused.
//!
//! **Ids.** The property `message-id`; without it, id and source of a CloudEvent (`{source}#{id}`);
//! without these, `sha256-` and 32 digits over exchange, routing key, properties, headers and body,
//! without what changes when the message is handed out again. Such an id is marked as derived.
//!
//! **Headers.** `amqp-correlation-id`, `-reply-to`, `-type`, `-app-id`, `-priority` and
//! `-content-encoding` stand for AMQP's properties, in both directions; `amqp-user-id` and
//! `amqp-expiration` are only read. Values that are no text are written as text. Headers that AMQP
//! cannot carry (longer names than 255 bytes, `CC`, `x-death` and so on) travel as JSON in
//! `x-brolly-headers`.
//!
//! **Waits.** A publish waits 3 s for a connection, 1 s for a server that blocks publishers, and
//! `confirm_timeout_ms` for the confirmation. A message held back waits at most twice as long as it
//! should: RabbitMQ lets it go only when it is the first of its queue. What RabbitMQ gives up
//! (delivery limit, time-to-live by a policy) is handed to the host as unfit.
//!
//! **Counts.** RabbitMQ tells AMQP clients how many messages are ready. Those that are handed out are
//! what this host holds, or with `management` what all consumers hold.
//!
//! **What cannot be read.** Headers that are tables and arrays lie at most 64 levels deep within each other; properties,
//! names of headers and routing keys are UTF-8. A message that is otherwise is unfit, and has what cannot be read as
//! headers of bytes.

mod acks;
mod admission;
#[cfg(test)]
mod codec_tests;
mod connection;
mod counts;
mod decode;
mod desk;
mod encode;
mod error;
mod flight;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guard;
mod health;
mod identity;
mod line;
mod management;
mod parcel;
mod post;
mod publisher;
mod readable;
mod session;
mod settings;
mod sieve;
mod topology;
mod value;
mod waits;
mod way;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use brolly_core::{
    BrokerDefinition, BrokerError, Clock, Code, Counts, Health, Name, Order, Proposal, Publication, Refusal,
    Thing,
};
use brolly_remote::{Inlet, Parcel, Tap, Transport};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use error::Error;

use health::Board;
use line::Line;
use management::Api;
use post::Post;
use session::Session;
use settings::{Authority, Settings};
use topology::Topology;
use waits::Waits;

/// How long `configure` waits for the server.
const CONFIGURE: Duration = Duration::from_secs(5);
/// How long `consume` waits for a connection.
const CONSUME: Duration = Duration::from_secs(5);
/// How long the rest may take after that.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long settlements may take when the broker is closed.
const DRAIN: Duration = Duration::from_secs(10);

/// A RabbitMQ server or cluster.
pub struct Amqp {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    name: Name,
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    board: Board,
    topology: Topology,
    waits: Waits,
    post: Post,
    /// INVARIANT: a session stands here only when all that is wanted was brought about in it.
    session: watch::Sender<Option<Arc<Session>>>,
    lines: Mutex<Vec<Weak<Line>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    api: Option<Api>,
}

/// Checks a definition of the kind `amqp` without connecting anywhere.
///
/// # Errors
/// [`Code::InvalidDefinition`] with all mistakes.
pub fn check(definition: &BrokerDefinition) -> Result<(), Refusal> {
    Settings::of(definition).map(|_| ())
}

impl Amqp {
    /// Makes the transport. It connects while [`Transport::run`] runs.
    ///
    /// # Errors
    /// As [`check`].
    pub fn open(name: &Name, definition: &BrokerDefinition, clock: Arc<dyn Clock>) -> Result<Self, Refusal> {
        let settings = Settings::of(definition)?;
        let pem = match &settings.authority {
            Some(Authority::Pem(pem)) => Some(pem.as_str()),
            Some(Authority::File(_)) | None => None,
        };
        let api = settings.management.clone().map(|at| Api::new(at, &settings.vhost, pem)).transpose();
        let api = api.map_err(|error| {
            Refusal::new(Code::InvalidDefinition, format!("management cannot be used: {error}"))
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                name: name.clone(),
                settings: Arc::new(settings),
                board: Board::new(name.clone(), clock.clone()),
                clock,
                topology: Topology::default(),
                waits: Waits::default(),
                post: Post::new(),
                session: watch::Sender::default(),
                lines: Mutex::default(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
                api,
            }),
        })
    }
}

impl Inner {
    /// The session, waited for a while.
    pub(crate) async fn session(&self, patience: Duration) -> Result<Arc<Session>, Error> {
        let mut sessions = self.session.subscribe();
        let usable =
            |session: &Option<Arc<Session>>| session.as_ref().is_some_and(|it| it.reason().is_none());
        let waiting = sessions.wait_for(usable);
        let waited = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            waited = tokio::time::timeout(patience, waiting) => {
                waited.ok().and_then(Result::ok).and_then(|session| session.clone())
            }
        };
        waited.ok_or_else(|| {
            let detail = self.board.health().detail;
            Error::NotConnected(detail.unwrap_or_else(|| "the connection is being made".to_owned()))
        })
    }

    pub(crate) fn add_line(&self, line: &Arc<Line>) {
        let mut lines = self.lines.lock();
        lines.retain(|line| line.strong_count() > 0);
        lines.push(Arc::downgrade(line));
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        self.lines.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The consumptions of a queue.
    pub(crate) fn lines_of(&self, queue: &Name) -> Vec<Arc<Line>> {
        self.lines().into_iter().filter(|line| line.queue() == queue).collect()
    }

    /// What has arrived at this host of a queue, and the server waits to hear of.
    pub(crate) fn unsettled(&self, queue: &Name) -> u64 {
        self.lines_of(queue).iter().map(|line| line.unsettled()).sum()
    }

    /// Waits until what travels between this host and a queue has arrived, in both directions.
    pub(crate) async fn catch_up(&self, queue: &Name) {
        let lines = self.lines_of(queue);
        futures::future::join_all(lines.iter().map(|line| line.catch_up())).await;
    }
}

#[async_trait]
impl Transport for Amqp {
    fn system(&self) -> &'static str {
        "rabbitmq"
    }

    async fn run(&self) {
        tokio::join!(session::run(&self.inner), publisher::run(&self.inner));
    }

    async fn close(&self) {
        let inner = &self.inner;
        let lines = inner.lines();
        lines.iter().for_each(|line| line.close());
        let drained = async {
            for line in &lines {
                line.ended().await;
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!(broker = %inner.name, "not everything is settled in time; it will come again");
        }
        let session = inner.session.borrow().clone();
        inner.stop.cancel();
        if let Some(session) = session {
            tokio::join!(session.consuming.close(), session.publishing.close());
        }
        inner.tasks.close();
        // They end with their channels.
        let _ = tokio::time::timeout(GOODBYE, inner.tasks.wait()).await;
    }

    /// The server takes a silent connection for dead after twice the time.
    fn notices_within(&self) -> Duration {
        3 * self.inner.settings.heartbeat
    }

    fn health(&self) -> Health {
        self.inner.board.health()
    }

    fn trouble(&self, thing: Thing<'_>) -> Option<String> {
        self.inner.topology.trouble(thing)
    }

    async fn admit(&self, name: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError> {
        self.inner.admit(name, proposal).await
    }

    async fn configure(&self, wanted: Publication) -> Result<(), BrokerError> {
        let inner = &self.inner;
        inner.topology.want(wanted);
        let Some(session) = inner.session.borrow().clone() else { return Ok(()) };
        let bringing = inner.topology.bring_about(&session);
        match tokio::time::timeout(CONFIGURE, bringing).await {
            Ok(Ok(())) => {}
            // The session goes on with it, or the next one does.
            Ok(Err(_)) | Err(_) => inner.topology.repair.notify_one(),
        }
        Ok(())
    }

    async fn send(&self, parcels: Vec<Parcel>) -> Vec<Result<(), BrokerError>> {
        self.inner.send(parcels).await
    }

    async fn consume(
        &self,
        queue: &Name,
        _order: Order,
        prefetch: u32,
        inlet: Inlet,
    ) -> Result<Arc<dyn Tap>, BrokerError> {
        let inner = &self.inner;
        let failed = |error: Error| error.failed("consume", queue);
        let session = inner.session(CONSUME).await.map_err(failed)?;
        match line::open(inner, session, prefetch, inlet).await {
            Ok(line) => Ok(line),
            Err(error) => {
                inner.topology.doubt(&inner.topology.address_of(queue));
                let trouble = inner.topology.trouble(Thing::Queue(queue));
                Err(failed(trouble.map_or(error, Error::Unusable)))
            }
        }
    }

    async fn counts(&self, queue: &Name) -> Result<Counts, BrokerError> {
        self.inner.count(queue).await
    }

    async fn delete_queue(&self, queue: &Name, force: bool) -> Result<(), BrokerError> {
        self.inner.delete(queue, force).await
    }
}
