//! A broker over a real server, and a foreign client beside it.

use std::{
    fmt::Debug,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use brolly_amqp::Amqp;
use brolly_core::{
    Broker, BrokerDefinition, Connection, Consume, Delivery, Name, NewMessage, Order, Publication, Queue,
    Route, Router, Settlement, Source, SystemClock, Topic,
};
use brolly_remote::Remote;
use brolly_store::{Messages, Store};
use lapin::{
    BasicProperties, Channel,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::task::JoinHandle;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// The server's address, or a note that a test is skipped.
pub async fn server(test: &str) -> Option<String> {
    brolly_tests::rabbit::plain(test).await
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Waits until something is so.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, check: impl Fn() -> F) -> T {
    let trying = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A name that no other test has.
pub fn unique(text: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{text}-{:x}-{}", since.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub struct Bench {
    _dir: tempfile::TempDir,
    pub broker: Arc<Remote>,
    running: JoinHandle<()>,
    /// What is wanted, with addresses of this bench alone.
    pub topics: Vec<(Name, Arc<Topic>)>,
    pub queues: Vec<(Name, Arc<Queue>)>,
    pub routes: Vec<(Name, Arc<Route>)>,
    prefix: String,
    url: String,
}

impl Bench {
    /// A broker that runs, with nothing wanted of it.
    pub fn start(url: &str, settings: serde_json::Value) -> Self {
        let mut json = serde_json::json!({"kind": "amqp", "url": url});
        json.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let definition: BrokerDefinition = serde_json::from_value(json).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&brolly_store::Config::new(dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let clock = Arc::new(SystemClock);
        let transport = Arc::new(Amqp::open(&name("rabbit"), &definition, clock.clone()).unwrap());
        let broker = Arc::new(Remote::open(name("rabbit"), transport, store, messages, clock).unwrap());
        let running = broker.clone();
        Self {
            _dir: dir,
            broker,
            running: tokio::spawn(async move { running.run().await }),
            topics: Vec::new(),
            queues: Vec::new(),
            routes: Vec::new(),
            prefix: unique("t"),
            url: url.to_owned(),
        }
    }

    /// One with a topic `t`, a queue `q` and a route for all keys.
    pub async fn simple(url: &str) -> Self {
        let mut bench = Self::start(url, serde_json::json!({}));
        bench.topic("t");
        bench.queue("q", |_| {});
        bench.route("r", "t", "q", |_| {});
        bench.connected().await;
        bench.configure().await;
        bench
    }

    pub fn address(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub fn topic(&mut self, topic: &str) {
        let mut definition = Topic::on(name("rabbit"), "");
        definition.address = Some(self.address(topic));
        self.topics.push((name(topic), Arc::new(definition)));
    }

    pub fn queue(&mut self, queue: &str, change: impl FnOnce(&mut Queue)) {
        let mut definition = Queue::on(name("rabbit"));
        definition.address = Some(self.address(queue));
        change(&mut definition);
        self.queues.push((name(queue), Arc::new(definition)));
    }

    pub fn route(&mut self, route: &str, topic: &str, queue: &str, change: impl FnOnce(&mut Route)) {
        let mut definition = Route {
            topic: name(topic),
            queue: name(queue),
            key_pattern: "#".into(),
            filter: None,
            description: String::new(),
        };
        change(&mut definition);
        self.routes.push((name(route), Arc::new(definition)));
    }

    pub async fn configure(&self) {
        let routes = self.routes.iter().map(|(name, route)| (name, &**route));
        let router = Arc::new(Router::new(&Router::default(), routes).unwrap());
        let (topics, queues, routes) = (self.topics.clone(), self.queues.clone(), self.routes.clone());
        self.broker.configure(Publication { topics, queues, routes, router }).await.unwrap();
    }

    pub async fn connected(&self) {
        self.health(Connection::Connected).await;
    }

    pub async fn health(&self, state: Connection) -> String {
        eventually(&format!("{state:?}"), || async {
            let health = self.broker.health();
            (health.state == state).then(|| health.detail.unwrap_or_default())
        })
        .await
    }

    pub async fn consume(&self, queue: &str) -> Arc<dyn Source> {
        self.consume_with(queue, 100, Order::None).await
    }

    pub async fn consume_with(&self, queue: &str, max_in_flight: u32, order: Order) -> Arc<dyn Source> {
        self.broker.consume(&name(queue), Consume { order, max_in_flight }).await.unwrap()
    }

    pub async fn publish(&self, ids: &[&str]) {
        let messages = ids.iter().map(|id| message(id)).collect();
        self.broker.publish(&name("t"), messages).await.unwrap();
    }

    /// Ready, in flight, delayed.
    pub async fn counts(&self, queue: &str) -> (u64, u64, u64) {
        let counts = self.broker.counts(&name(queue)).await.unwrap();
        (counts.ready.unwrap(), counts.in_flight.unwrap(), counts.delayed.unwrap())
    }

    pub async fn until_counts(&self, queue: &str, expect: (u64, u64, u64)) {
        eventually(&format!("{queue} holds {expect:?}"), || async {
            (self.counts(queue).await == expect).then_some(())
        })
        .await;
    }

    pub async fn foreign(&self) -> Foreign {
        Foreign::connect(&self.url).await
    }

    /// Ends without a word to the server, as a kill does.
    pub fn kill(&self) {
        self.running.abort();
    }

    /// Deletes what it made, and closes.
    pub async fn end(self) {
        for (queue, _) in &self.queues {
            let _ = self.broker.delete_queue(queue, true).await;
        }
        self.broker.close().await;
        tokio::time::timeout(PATIENCE, self.running).await.expect("it ends").unwrap();
    }
}

pub fn message(id: &str) -> NewMessage {
    NewMessage { id: Some(id.into()), payload: id.as_bytes().to_vec().into(), ..NewMessage::default() }
}

/// The next delivery.
pub async fn next(source: &Arc<dyn Source>) -> Delivery {
    let waiting = async {
        loop {
            source.ready().await.unwrap();
            if let Some(delivery) = source.take().unwrap() {
                return delivery;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("a delivery")
}

/// Takes and settles so many; answers with their ids.
pub async fn drain(source: &Arc<dyn Source>, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let delivery = next(source).await;
        ids.push(delivery.message.id.clone());
        source.settle(delivery.lease, Settlement::Ack);
    }
    ids
}

/// The error that a source ends with.
pub async fn failure(source: &Arc<dyn Source>) -> String {
    let waiting = async {
        loop {
            if let Err(error) = source.ready().await {
                return error.to_string();
            }
            if source.take().is_ok_and(|delivery| delivery.is_some()) {
                continue;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the source fails")
}

pub fn shows<T: Debug>(result: &Result<T, impl std::fmt::Display>, part: &str) {
    match result {
        Ok(value) => panic!("no error with {part:?} but {value:?}"),
        Err(error) => assert!(error.to_string().contains(part), "{part:?} is not in: {error}"),
    }
}

/// Another team's client.
pub struct Foreign {
    pub connection: lapin::Connection,
    pub channel: Channel,
}

impl Foreign {
    pub async fn connect(url: &str) -> Self {
        let connection =
            lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { connection, channel }
    }

    pub async fn publish(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await;
        sent.unwrap().await.unwrap();
    }

    pub async fn declare(&self, queue: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, arguments).await.unwrap();
    }

    /// How many messages of a queue are ready.
    pub async fn count(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        queue.unwrap().message_count()
    }

    pub async fn exists(&self, queue: &str) -> bool {
        let channel = self.connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, FieldTable::default()).await.is_ok()
    }
}
