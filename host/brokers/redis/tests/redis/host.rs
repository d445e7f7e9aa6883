//! A host's broker on the server: the adapter under the remote broker, in a runtime of its own, so that
//! it can die as a process does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use brolly_core::{
    Broker, BrokerDefinition, BrokerError, Consume, Counts, Delivery, Lease, Name, NewMessage, Order,
    Publication, Queue, Route, Router, Settlement, Source, SystemClock, Topic,
};
use brolly_redis::Redis;
use brolly_remote::Remote;
use brolly_store::{Messages, Store};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::server::{PATIENCE, Server};

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Settings that let a test see in seconds what takes longer otherwise.
pub fn quick() -> Json {
    json!({"worker_timeout_ms": 1_000, "block_ms": 100})
}

/// Each host of these tests is another one.
fn process() -> String {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    STARTED.fetch_add(1, Ordering::Relaxed).to_string()
}

pub struct Host {
    runtime: Option<Runtime>,
    pub broker: Arc<Remote>,
    closed: AtomicBool,
    _dir: TempDir,
}

/// What is consumed, as a worker sees it.
pub struct Taking {
    pub source: Arc<dyn Source>,
}

/// `{"topics": {…}, "queues": {…}, "routes": [[topic, queue, pattern?, filter?], …]}`
pub fn publication(wanted: &Json) -> Publication {
    let named = |what: &str| wanted[what].as_object().cloned().unwrap_or_default().into_iter();
    let parse = |json: Json| serde_json::from_value::<Route>(json).unwrap();
    let routes: Vec<(Name, Arc<Route>)> = wanted["routes"]
        .as_array()
        .cloned()
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(number, route)| {
            let pattern = route.get(2).cloned().unwrap_or(json!("#"));
            let json =
                json!({"topic": route[0], "queue": route[1], "key_pattern": pattern, "filter": route.get(3)});
            (name(&format!("r{number}")), Arc::new(parse(json)))
        })
        .collect();
    let router =
        Router::new(&Router::default(), routes.iter().map(|(name, route)| (name, &**route))).unwrap();
    Publication {
        topics: named("topics")
            .map(|(n, t)| (name(&n), Arc::new(serde_json::from_value::<Topic>(t).unwrap())))
            .collect(),
        queues: named("queues")
            .map(|(n, q)| (name(&n), Arc::new(serde_json::from_value::<Queue>(q).unwrap())))
            .collect(),
        routes,
        router: Arc::new(router),
    }
}

impl Host {
    /// Starts, and waits until it is connected and all is as wanted.
    pub fn start(server: &Server, settings: Json, wanted: &Json) -> Self {
        let host = Self::start_anyhow(&server.definition(settings), wanted);
        host.until("it is connected", || host.broker.health().state.as_str() == "connected");
        host
    }

    pub fn start_anyhow(definition: &Json, wanted: &Json) -> Self {
        let definition: BrokerDefinition = serde_json::from_value(definition.clone()).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let _guard = runtime.enter();
        let store = Store::open(&brolly_store::Config::new(dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let redis = Redis::open(&name("cache"), &definition, &process(), Arc::new(SystemClock)).unwrap();
        let broker =
            Remote::open(name("cache"), Arc::new(redis), store, messages, Arc::new(SystemClock)).unwrap();
        let broker = Arc::new(broker);
        let running = broker.clone();
        runtime.spawn(async move { running.run().await });
        runtime.block_on(broker.configure(publication(wanted))).unwrap();
        drop(_guard);
        Self { runtime: Some(runtime), broker, closed: AtomicBool::new(false), _dir: dir }
    }

    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .as_ref()
            .unwrap()
            .block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it is done in time") })
    }

    pub fn configure(&self, wanted: &Json) {
        self.run(self.broker.configure(publication(wanted))).unwrap();
    }

    /// Waits for a condition.
    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < until, "in time: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends as a process that is killed.
    pub fn kill(mut self) {
        self.closed.store(true, Ordering::Relaxed);
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Ends as it should.
    pub fn close(self) {
        self.run(self.broker.close());
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn publish(&self, topic: &str, messages: impl IntoIterator<Item = NewMessage>) {
        self.try_publish(topic, messages).unwrap();
    }

    pub fn try_publish(
        &self,
        topic: &str,
        messages: impl IntoIterator<Item = NewMessage>,
    ) -> Result<(), BrokerError> {
        self.run(self.broker.publish(&name(topic), messages.into_iter().collect())).map(drop)
    }

    pub fn consume(&self, queue: &str, order: Order, max_in_flight: u32) -> Taking {
        // What is wrong for a moment only, such as a connection that is still coming, is tried again.
        let until = Instant::now() + PATIENCE;
        loop {
            match self.try_consume(queue, order, max_in_flight) {
                Ok(taking) => return taking,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn try_consume(&self, queue: &str, order: Order, max_in_flight: u32) -> Result<Taking, BrokerError> {
        let source = self.run(self.broker.consume(&name(queue), Consume { order, max_in_flight }))?;
        Ok(Taking { source })
    }

    pub fn counts(&self, queue: &str) -> [Option<u64>; 3] {
        self.try_counts(queue).unwrap()
    }

    pub fn try_counts(&self, queue: &str) -> Result<[Option<u64>; 3], BrokerError> {
        let Counts { ready, in_flight, delayed, .. } = self.run(self.broker.counts(&name(queue)))?;
        Ok([ready, in_flight, delayed])
    }

    #[track_caller]
    pub fn until_counts(&self, queue: &str, expect: [u64; 3]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let counts = self.try_counts(queue);
            if counts.as_ref().is_ok_and(|counts| *counts == expect.map(Some)) {
                return;
            }
            assert!(Instant::now() < until, "{queue}: {counts:?}, not {expect:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the next delivery.
    #[track_caller]
    pub fn next(&self, taking: &Taking) -> Delivery {
        let source = &taking.source;
        self.run(async {
            loop {
                source.ready().await.expect("it is consumed");
                if let Some(delivery) = source.take().unwrap() {
                    return delivery;
                }
            }
        })
    }

    /// The next deliveries.
    #[track_caller]
    pub fn many(&self, taking: &Taking, count: usize) -> Vec<Delivery> {
        (0..count).map(|_| self.next(taking)).collect()
    }

    /// Nothing comes for a while.
    #[track_caller]
    pub fn nothing(&self, taking: &Taking, within: Duration) {
        let next = self.runtime.as_ref().unwrap().block_on(async {
            tokio::time::timeout(within, async {
                loop {
                    taking.source.ready().await.expect("it is consumed");
                    if let Some(delivery) = taking.source.take().unwrap() {
                        return delivery;
                    }
                }
            })
            .await
        });
        if let Ok(delivery) = next {
            panic!("{:?} came", delivery.message);
        }
    }

    /// Waits until the consumption has ended, and says why.
    #[track_caller]
    pub fn until_failed(&self, taking: &Taking) -> String {
        self.run(async {
            loop {
                if let Err(error) = taking.source.ready().await {
                    return error.to_string();
                }
                while let Some(delivery) = taking.source.take().unwrap() {
                    taking.source.settle(delivery.lease, Settlement::Ack);
                }
                tokio::task::yield_now().await;
            }
        })
    }
}

impl Taking {
    pub fn ack(&self, lease: Lease) {
        self.source.settle(lease, Settlement::Ack);
    }

    pub fn retry(&self, lease: Lease, delay_ms: u64, attempts: u32) {
        let delay = Duration::from_millis(delay_ms);
        self.source.settle(lease, Settlement::Retry { delay, attempts });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that has failed need not wait for anything.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn message(id: &str, key: &str, payload: &str) -> NewMessage {
    NewMessage {
        id: Some(id.into()),
        key: key.into(),
        content_type: "application/json".into(),
        payload: payload.to_owned().into(),
        ..NewMessage::default()
    }
}

pub fn payload(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message.payload).unwrap()
}

pub fn payloads(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(payload).collect()
}

pub fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| delivery.message.id.as_str()).collect()
}
