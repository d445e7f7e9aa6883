//! Redis keeps the contract, with lists and with streams.

use std::sync::Arc;

use async_trait::async_trait;
use brolly_core::{Broker, BrokerDefinition, Commit, Name, Queue, SystemClock};
use brolly_redis::Redis;
use brolly_remote::Remote;
use brolly_store::{Messages, Store};
use brolly_tests::{
    contract::{self, Bounds, Subject},
    proxy::Proxy,
    redis::{Options, RedisServer},
    skip,
};
use serde_json::json;
use tokio::task::AbortHandle;

struct Running {
    store: Store,
    broker: Arc<Remote>,
    task: AbortHandle,
}

struct RedisSubject {
    dir: tempfile::TempDir,
    kind: &'static str,
    server: RedisServer,
    proxy: Proxy,
    running: Option<Running>,
}

impl RedisSubject {
    async fn new(kind: &'static str) -> Self {
        let server = RedisServer::with(Options { append_only: true, ..Options::default() }).await;
        let proxy = Proxy::start(server.address()).await;
        let mut subject = Self { dir: tempfile::tempdir().unwrap(), kind, server, proxy, running: None };
        subject.start();
        subject
    }

    fn start(&mut self) {
        let store = Store::open(&brolly_store::Config::new(self.dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let (name, clock) = (Name::new("cache").unwrap(), Arc::new(SystemClock));
        let url = format!("redis://{}/0", self.proxy.address());
        // What a dead process had in hand is taken over soon.
        let definition = json!({"kind": "redis", "url": url, "worker_timeout_ms": 1_000});
        let definition: BrokerDefinition = serde_json::from_value(definition).unwrap();
        let transport = Arc::new(Redis::open(&name, &definition, "host", clock.clone()).unwrap());
        let broker = Arc::new(Remote::open(name, transport, store.clone(), messages, clock).unwrap());
        let runs = broker.clone();
        let task = tokio::spawn(async move { runs.run().await }).abort_handle();
        self.running = Some(Running { store, broker, task });
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }
}

#[async_trait]
impl Subject for RedisSubject {
    fn broker(&self) -> Arc<dyn Broker> {
        self.running().broker.clone()
    }

    async fn commit(&self, commit: Commit) {
        self.running().store.commit(commit).await.unwrap();
    }

    /// The process is gone, and the server is killed on top of it.
    async fn crash(&mut self) {
        let running = self.running.take().unwrap();
        running.task.abort();
        self.proxy.cut().await;
        running.store.close();
        drop(running);
        self.server.kill().await;
        self.server.start_again().await;
        self.start();
    }

    fn queue(&self) -> Queue {
        Queue { kind: Some(self.kind.to_owned()), ..Queue::on(Name::new("cache").unwrap()) }
    }

    fn bounds(&self) -> Bounds {
        if self.kind == "list" { Bounds::Messages } else { Bounds::Nothing }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract_with_lists_and_streams() {
    if let Err(why) = RedisServer::available() {
        return skip("the contract of brokers over Redis", &why);
    }
    for kind in ["list", "stream"] {
        contract::check(async || RedisSubject::new(kind).await).await;
    }
}
