//! What all brokers that live elsewhere have in common: the window of messages that the other side
//! has handed out, the outbox of messages that are to be sent to it, and the memory of ids.
//!
//! Called by dispatch through the ports of the core. An adapter implements [`Transport`] and nothing
//! else; [`Remote`] makes a broker of it. The other side keeps the messages; the host's own store
//! keeps what became of them, and what it has promised to send.
//!
//! * `window`: what may be taken, one copy of a message at a time, one key at a time;
//! * `outbox`: a handler's messages, durable with its outcome, sent until they are confirmed;
//! * `publish`: an id once for each topic;
//! * `ids`: what becomes of messages without one.

mod error;
mod ids;
mod outbox;
mod publish;
mod source;
mod transport;
mod window;

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use brolly_core::{
    Accepted, Broker, BrokerError, Clock, Code, Commit, Consume, Counts, Feed, Health, Listener, Message,
    Moved, Name, NewMessage, Order, Origin, Outgoing, Proposal, Publication, Refusal, Router, Seat, Source,
    Stop, Thing, Watched,
};
use brolly_store::{Messages, Store};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use error::Error;
pub use transport::{Parcel, Received, Tap, To, Transport};
pub use window::{Inlet, Pushed};

use error::failed;
use outbox::{Destination, Outbox};
use source::RemoteSource;
use window::Window;

/// Payload bytes of publishes that are not yet confirmed, for each broker; further publishers wait.
pub(crate) const PUBLISH_BYTES: u32 = 128 << 20;

/// The most messages that are held out of the other side's reach while keys are handled in order:
/// those that wait for their key take a place as well.
const ORDERED_PREFETCH: u32 = 2_000;

/// How long a new consumption waits for what an earlier one has in hand.
const DRAIN: Duration = Duration::from_secs(30);

/// A broker that lives elsewhere.
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    name: Name,
    store: Store,
    messages: Messages,
    clock: Arc<dyn Clock>,
    transport: Arc<dyn Transport>,
    /// None until the first [`Broker::configure`]; nothing is accepted before.
    router: Arc<ArcSwapOption<Router>>,
    windows: Mutex<HashMap<Name, Arc<Window>>>,
    outbox: Arc<Outbox>,
    admission: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Remote {
    /// Makes a broker of a transport, and reads what waits to be sent to it.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not understood.
    pub fn open(
        name: Name,
        transport: Arc<dyn Transport>,
        store: Store,
        messages: Messages,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let outbox = Arc::new(Outbox::open(name.clone(), store.clone(), messages.clone())?);
        Ok(Self {
            inner: Arc::new(Inner {
                name,
                store,
                messages,
                clock,
                transport,
                router: Arc::default(),
                windows: Mutex::default(),
                outbox,
                admission: Arc::new(Semaphore::new(PUBLISH_BYTES as usize)),
                stop: CancellationToken::new(),
            }),
        })
    }
}

impl Inner {
    fn window(&self, queue: &Name) -> Arc<Window> {
        let mut windows = self.windows.lock();
        let new = || {
            let (clock, router, messages) = (self.clock.clone(), self.router.clone(), self.messages.clone());
            Arc::new(Window::new(queue.clone(), clock, router, messages, self.transport.notices_within()))
        };
        windows.entry(queue.clone()).or_insert_with(new).clone()
    }

    /// The routes as they are wanted now.
    fn routes(&self) -> Result<Arc<Router>, BrokerError> {
        let not_yet =
            || Refusal::new(Code::Unavailable, "the host is starting and does not know its routes yet");
        Ok(self.router.load_full().ok_or_else(not_yet)?)
    }
}

#[async_trait]
impl Broker for Remote {
    async fn run(&self) {
        let inner = &self.inner;
        tokio::select! {
            () = async { tokio::join!(inner.transport.run(), inner.outbox.run(&*inner.transport)); } => {}
            () = inner.stop.cancelled() => {}
        }
    }

    async fn close(&self) {
        let windows: Vec<Arc<Window>> = self.inner.windows.lock().values().cloned().collect();
        for window in windows {
            window.abort("the broker is being closed");
            // What is still in hand after that comes again.
            let _ = tokio::time::timeout(DRAIN, window.drained()).await;
        }
        self.inner.transport.close().await;
        self.inner.stop.cancel();
    }

    fn system(&self) -> &'static str {
        self.inner.transport.system()
    }

    fn health(&self) -> Health {
        Health { outbox: self.inner.outbox.len() as u64, ..self.inner.transport.health() }
    }

    fn trouble(&self, thing: Thing<'_>) -> Option<String> {
        self.inner.transport.trouble(thing)
    }

    async fn admit(&self, name: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError> {
        if let Proposal::Queue(queue) = &proposal
            && queue.alerts.iter().any(|rule| rule.when == Watched::OldestAge)
        {
            let detail =
                "alerts with oldest_age: no broker elsewhere tells how old what waits is; use ready instead";
            return Err(Refusal::new(Code::Unsupported, detail).into());
        }
        self.inner.transport.admit(name, proposal).await
    }

    async fn configure(&self, wanted: Publication) -> Result<(), BrokerError> {
        self.inner.router.store(Some(wanted.router.clone()));
        self.inner.transport.configure(wanted).await
    }

    async fn publish(&self, topic: &Name, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, BrokerError> {
        publish::publish(&self.inner, topic, messages).await
    }

    async fn forward(&self, moved: Moved<'_>) -> Result<(), BrokerError> {
        publish::forward(&self.inner, moved).await
    }

    fn stage_publish(
        &self,
        outgoing: &[Outgoing],
        origin: &Origin,
        commit: &mut Commit,
    ) -> Result<Vec<Accepted>, BrokerError> {
        publish::stage_outgoing(&self.inner, outgoing, origin, commit)
    }

    fn stage_replay(
        &self,
        queue: &Name,
        record: u64,
        _message: &Message,
        commit: &mut Commit,
    ) -> Result<(), BrokerError> {
        self.inner.outbox.check_room(1)?;
        let to = Destination::Queue { queue: queue.clone(), delay_ms: 0 };
        self.inner.outbox.stage(record, to, commit).map_err(|error| failed("replay", queue, error))
    }

    async fn consume(&self, queue: &Name, consume: Consume) -> Result<Arc<dyn Source>, BrokerError> {
        let window = self.inner.window(queue);
        // What an earlier consumption has in hand would not know the keys of this one.
        let _ = tokio::time::timeout(DRAIN, window.drained()).await;
        let inlet = window.open(consume)?;
        let prefetch = match consume.order {
            Order::None => consume.max_in_flight,
            Order::Key => consume.max_in_flight.max(ORDERED_PREFETCH),
        };
        match self.inner.transport.consume(queue, consume.order, prefetch, inlet.clone()).await {
            Ok(tap) => {
                window.attach(&inlet, tap);
                Ok(Arc::new(RemoteSource(window)))
            }
            Err(error) => {
                window.close();
                Err(error)
            }
        }
    }

    async fn listen(
        &self,
        feed: &Feed,
        seat: Seat<'_>,
        listener: Arc<dyn Listener>,
        stop: Stop,
    ) -> Result<(), BrokerError> {
        self.inner.transport.listen(feed, seat, listener, stop).await
    }

    fn may_deliver_again(&self, queue: &Name) -> bool {
        self.inner.window(queue).may_deliver_again()
    }

    async fn counts(&self, queue: &Name) -> Result<Counts, BrokerError> {
        let counts = self.inner.transport.counts(queue).await?;
        let here = self.inner.window(queue).held().delayed;
        // What is held back here is unsettled there.
        Ok(Counts {
            in_flight: counts.in_flight.map(|in_flight| in_flight.saturating_sub(here)),
            delayed: counts.delayed.map(|delayed| delayed + here),
            ..counts
        })
    }

    async fn delete_queue(&self, queue: &Name, force: bool) -> Result<(), BrokerError> {
        self.inner.transport.delete_queue(queue, force).await?;
        self.inner.windows.lock().remove(queue);
        Ok(())
    }
}
