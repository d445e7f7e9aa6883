//! A whole host in this process, put together as the binary does it, with one subscription.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use async_trait::async_trait;
use brolly_alerts::Alerts;
use brolly_amqp::Amqp;
use brolly_catalog::Catalog;
use brolly_core::{
    Accepted, Broker, BrokerDefinition, BrokerError, Brokers, Commit, Consume, Counts, Delivery, Health,
    Lease, Message, Moved, Name, NewMessage, Nowhere, Origin, Outgoing, Plugins, Proposal, Publication,
    Queue, Refusal, Route, Settlement, Source, Subscription, SystemClock, Thing, Topic,
};
use brolly_dispatch::{Dispatch, Handle, Precondition, Rooms, TraceContext};
use brolly_embedded::Embedded;
use brolly_ledger::Ledger;
use brolly_remote::Remote;
use brolly_runtime::Runtime;
use brolly_store::{Engine, Messages, Store};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How often a host is asked how far it is.
const POLL: Duration = Duration::from_millis(2);

/// A running host.
pub struct Host {
    pub handle: Handle,
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub settled: Arc<Settled>,
    _stop: DropGuard,
}

/// Where topic and queue are.
pub enum Place {
    /// In the host itself.
    Embedded,
    /// On RabbitMQ; the subscription is paused until it is told to go on.
    Rabbit { url: String, kind: String },
}

/// Makes brokers on RabbitMQ, observed.
struct Rabbits {
    store: Store,
    messages: Messages,
    settled: Arc<Settled>,
}

impl Brokers for Rabbits {
    fn check(&self, definition: &BrokerDefinition) -> Result<(), Refusal> {
        brolly_amqp::check(definition)
    }

    fn open(&self, name: &Name, definition: &BrokerDefinition) -> Result<Arc<dyn Broker>, BrokerError> {
        let clock = Arc::new(SystemClock);
        let transport = Arc::new(Amqp::open(name, definition, clock.clone())?);
        let remote = Remote::open(name.clone(), transport, self.store.clone(), self.messages.clone(), clock);
        let broker = remote.map_err(|error| BrokerError::Failed {
            operation: "open",
            subject: name.to_string(),
            source: Box::new(error),
        })?;
        Ok(Arc::new(Watched { broker: Arc::new(broker), settled: self.settled.clone() }))
    }
}

/// How many deliveries are durably settled, and when, if that is asked.
#[derive(Default)]
pub struct Settled {
    count: AtomicU64,
    changed: Notify,
    moments: OnceLock<Mutex<Vec<Instant>>>,
}

impl Settled {
    /// Waits until so many are settled.
    pub async fn reach(&self, count: u64) {
        loop {
            let changed = self.changed.notified();
            if self.count.load(Ordering::Acquire) >= count {
                return;
            }
            changed.await;
        }
    }

    /// Takes the moments down from now on.
    pub fn watch(&self) {
        self.moments.get_or_init(Mutex::default);
    }

    /// The moments that were taken down.
    pub fn watched(&self) -> Vec<Instant> {
        self.moments.get().map(|moments| moments.lock().clone()).unwrap_or_default()
    }

    fn one_more(&self) {
        if let Some(moments) = self.moments.get() {
            moments.lock().push(Instant::now());
        }
        self.count.fetch_add(1, Ordering::Release);
        self.changed.notify_waiters();
    }
}

impl Host {
    /// Starts a host that hands the messages of the topic `orders.paid` to a plugin.
    pub async fn start(
        dir: &Path,
        engine: Engine,
        wasm: &[u8],
        instances: &str,
        place: Place,
    ) -> anyhow::Result<Self> {
        let host = Self::empty(dir, engine)?;
        host.set_up(wasm, instances, place).await?;
        Ok(host)
    }

    /// Starts a host that has no definitions yet; on tokio.
    pub fn empty(dir: &Path, engine: Engine) -> anyhow::Result<Self> {
        let clock = Arc::new(SystemClock);
        let store =
            Store::open(&brolly_store::Config { engine, ..brolly_store::Config::new(dir.join("store")) })?;
        let messages = Messages::open(&store)?;
        let catalog = Arc::new(Catalog::open(store.clone(), dir.join("plugins"), clock.clone())?);
        let ledger = Arc::new(Ledger::open(store.clone(), messages.clone())?);
        let embedded = Embedded::open(
            store.clone(),
            messages.clone(),
            clock.clone(),
            brolly_embedded::Config::default(),
        )?;
        let settled = Arc::new(Settled::default());
        let broker = Arc::new(Watched { broker: Arc::new(embedded), settled: settled.clone() });
        let kinds = Rabbits { store: store.clone(), messages, settled: settled.clone() };
        let runtime = Runtime::new(brolly_runtime::Config::new(dir.join("cache")))?;
        let plugins: Arc<dyn Plugins> = Arc::new(runtime);
        let alerts = Arc::new(Alerts::open(store.clone(), ledger.host(), clock.clone())?);
        let kinds = Arc::new(kinds);
        let rooms = Rooms {
            alerts,
            catalog: catalog.clone(),
            ledger,
            kinds,
            embedded: broker,
            plugins,
            clock,
            outside: Arc::new(Nowhere),
        };
        let dispatch = Dispatch::new(rooms, brolly_dispatch::Config::default());
        let (handle, stop) = (dispatch.handle(), CancellationToken::new());
        tokio::spawn(dispatch.run(stop.clone()));
        Ok(Self { handle, store, catalog, settled, _stop: stop.drop_guard() })
    }

    /// Uploads the plugin, and makes topic, queue, route and subscription.
    pub async fn set_up(&self, wasm: &[u8], instances: &str, place: Place) -> anyhow::Result<()> {
        let name = Name::new("settlement")?;
        let (home, queue, paused) = match place {
            Place::Embedded => (json!({}), json!({}), false),
            Place::Rabbit { url, kind } => {
                let rabbit = Name::new("rabbit")?;
                let broker: BrokerDefinition = definition(json!({"kind": "amqp", "url": url}))?;
                self.handle.put_broker(&rabbit, broker, Precondition::None).await?;
                let queue = json!({"broker": "rabbit", "type": kind});
                (json!({"broker": "rabbit"}), queue, true)
            }
        };
        let version = self.handle.upload(&name, wasm.to_vec(), None).await?.admission.digest;
        let topic = Name::new("orders.paid")?;
        let none = Precondition::None;
        self.handle.put::<Topic>(&topic, definition(home)?, none).await?;
        self.handle.put::<Queue>(&name, definition(queue)?, none).await?;
        let route = definition::<Route>(json!({"topic": topic, "queue": name}))?;
        self.handle.put(&name, route, none).await?;
        let subscription = json!({
            "queue": name, "plugin": name, "version": version, "workers": 2, "instances": instances,
            "max_in_flight": 1_024, "paused": paused,
        });
        self.handle.put_subscription(&name, definition::<Subscription>(subscription)?, none).await?;
        Ok(())
    }

    /// Has the subscription rest, or take what waits.
    pub async fn pause(&self, paused: bool) -> anyhow::Result<()> {
        self.handle.set_paused(&Name::new("settlement")?, paused).await?;
        Ok(())
    }

    /// Adds a subscription `hostile` of a topic of the same name, with one worker and retries without end.
    pub async fn neighbour(
        &self,
        wasm: &[u8],
        home: Value,
        config: Value,
        limits: Value,
    ) -> anyhow::Result<()> {
        let (name, none) = (Name::new("hostile")?, Precondition::None);
        let version = self.handle.upload(&name, wasm.to_vec(), None).await?.admission.digest;
        self.handle.put::<Topic>(&name, definition(home.clone())?, none).await?;
        self.handle.put::<Queue>(&name, definition(home)?, none).await?;
        let route = definition::<Route>(json!({"topic": name, "queue": name}))?;
        self.handle.put(&name, route, none).await?;
        let subscription = json!({
            "queue": name, "plugin": name, "version": version, "config": config, "limits": limits,
            "retry": {"max_attempts": 100, "initial_delay_ms": 0, "max_delay_ms": 0},
        });
        self.handle.put_subscription(&name, definition::<Subscription>(subscription)?, none).await?;
        Ok(())
    }

    /// Waits until the neighbour has begun.
    pub async fn neighbour_is_busy(&self) -> anyhow::Result<()> {
        let name = Name::new("hostile")?;
        while self.handle.status(&name)?.retried < 3 {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until so many deliveries of `settlement` are acknowledged.
    pub async fn acked(&self, count: u64) -> anyhow::Result<()> {
        let name = Name::new("settlement")?;
        while self.handle.status(&name)?.acked < count {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Publishes messages to `orders.paid`, and comes back when they are durable.
    pub async fn publish(&self, messages: Vec<NewMessage>) -> anyhow::Result<()> {
        self.publish_to("orders.paid", messages).await
    }

    /// Publishes messages to a topic, and comes back when they are durable.
    pub async fn publish_to(&self, topic: &str, messages: Vec<NewMessage>) -> anyhow::Result<()> {
        let (topic, context) = (Name::new(topic)?, TraceContext::new());
        self.handle.publish(&topic, messages, &context).await.context("publishing")?;
        Ok(())
    }
}

/// A definition as the API takes it.
pub fn definition<T: DeserializeOwned>(json: serde_json::Value) -> anyhow::Result<T> {
    serde_json::from_value(json).context("a definition")
}

/// A broker, observed where it learns that an outcome is durable.
struct Watched {
    broker: Arc<dyn Broker>,
    settled: Arc<Settled>,
}

struct WatchedSource {
    source: Arc<dyn Source>,
    settled: Arc<Settled>,
}

#[async_trait]
impl Broker for Watched {
    async fn run(&self) {
        self.broker.run().await;
    }

    async fn close(&self) {
        self.broker.close().await;
    }

    fn system(&self) -> &'static str {
        self.broker.system()
    }

    fn health(&self) -> Health {
        self.broker.health()
    }

    fn trouble(&self, thing: Thing<'_>) -> Option<String> {
        self.broker.trouble(thing)
    }

    async fn admit(&self, name: &Name, proposal: Proposal<'_>) -> Result<(), BrokerError> {
        self.broker.admit(name, proposal).await
    }

    async fn configure(&self, wanted: Publication) -> Result<(), BrokerError> {
        self.broker.configure(wanted).await
    }

    async fn publish(&self, topic: &Name, messages: Vec<NewMessage>) -> Result<Vec<Accepted>, BrokerError> {
        self.broker.publish(topic, messages).await
    }

    async fn forward(&self, moved: Moved<'_>) -> Result<(), BrokerError> {
        self.broker.forward(moved).await
    }

    fn stage_publish(
        &self,
        outgoing: &[Outgoing],
        origin: &Origin,
        commit: &mut Commit,
    ) -> Result<Vec<Accepted>, BrokerError> {
        self.broker.stage_publish(outgoing, origin, commit)
    }

    fn stage_replay(
        &self,
        queue: &Name,
        record: u64,
        message: &Message,
        commit: &mut Commit,
    ) -> Result<(), BrokerError> {
        self.broker.stage_replay(queue, record, message, commit)
    }

    async fn consume(&self, queue: &Name, consume: Consume) -> Result<Arc<dyn Source>, BrokerError> {
        let source = self.broker.consume(queue, consume).await?;
        Ok(Arc::new(WatchedSource { source, settled: self.settled.clone() }))
    }

    fn may_deliver_again(&self, queue: &Name) -> bool {
        self.broker.may_deliver_again(queue)
    }

    async fn counts(&self, queue: &Name) -> Result<Counts, BrokerError> {
        self.broker.counts(queue).await
    }

    async fn delete_queue(&self, queue: &Name, force: bool) -> Result<(), BrokerError> {
        self.broker.delete_queue(queue, force).await
    }
}

#[async_trait]
impl Source for WatchedSource {
    async fn ready(&self) -> Result<(), BrokerError> {
        self.source.ready().await
    }

    fn take(&self) -> Result<Option<Delivery>, BrokerError> {
        self.source.take()
    }

    fn stage(&self, delivery: &Delivery, settlement: Settlement, commit: &mut Commit) {
        self.source.stage(delivery, settlement, commit);
    }

    fn settle(&self, lease: Lease, settlement: Settlement) {
        self.source.settle(lease, settlement);
        self.settled.one_more();
    }

    fn give_back(&self, lease: Lease, delay: Duration) {
        self.source.give_back(lease, delay);
    }

    fn close(&self) {
        self.source.close();
    }
}
