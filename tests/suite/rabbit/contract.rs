//! RabbitMQ keeps the contract, with both kinds of queues.

use std::sync::Arc;

use async_trait::async_trait;
use brolly_amqp::Amqp;
use brolly_core::{Broker, BrokerDefinition, Commit, Name, Queue, SystemClock};
use brolly_remote::Remote;
use brolly_store::{Messages, Store};
use brolly_tests::{
    contract::{self, Bounds, Subject},
    proxy::Proxy,
    rabbit::Rabbit,
};
use serde_json::json;
use tokio::task::AbortHandle;

struct Running {
    store: Store,
    broker: Arc<Remote>,
    task: AbortHandle,
}

struct RabbitSubject {
    dir: tempfile::TempDir,
    kind: &'static str,
    vhost: String,
    proxy: Proxy,
    running: Option<Running>,
}

impl RabbitSubject {
    async fn new(kind: &'static str, rabbit: &Rabbit) -> Self {
        let vhost = rabbit.vhost().await.name;
        let proxy = Proxy::start(rabbit.address()).await;
        let mut subject = Self { dir: tempfile::tempdir().unwrap(), kind, vhost, proxy, running: None };
        subject.start();
        subject
    }

    fn start(&mut self) {
        let store = Store::open(&brolly_store::Config::new(self.dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let (name, clock) = (Name::new("rabbit").unwrap(), Arc::new(SystemClock));
        let url = format!("amqp://guest:guest@{}/{}", self.proxy.address(), self.vhost);
        let definition = json!({"kind": "amqp", "url": url});
        let definition: BrokerDefinition = serde_json::from_value(definition).unwrap();
        let transport = Arc::new(Amqp::open(&name, &definition, clock.clone()).unwrap());
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
impl Subject for RabbitSubject {
    fn broker(&self) -> Arc<dyn Broker> {
        self.running().broker.clone()
    }

    async fn commit(&self, commit: Commit) {
        self.running().store.commit(commit).await.unwrap();
    }

    /// Cuts everything off in the middle; the server learns of it from the sockets.
    async fn crash(&mut self) {
        let running = self.running.take().unwrap();
        running.task.abort();
        self.proxy.cut().await;
        running.store.close();
        drop(running);
        self.start();
    }

    fn queue(&self) -> Queue {
        Queue { kind: Some(self.kind.to_owned()), ..Queue::on(Name::new("rabbit").unwrap()) }
    }

    fn bounds(&self) -> Bounds {
        Bounds::Nothing
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_keeps_the_contract_with_both_kinds_of_queues() {
    let Some(rabbit) = super::rabbit("the contract of brokers over RabbitMQ").await else { return };
    for kind in ["quorum", "classic"] {
        let rabbit = &rabbit;
        contract::check(async || RabbitSubject::new(kind, rabbit).await).await;
    }
}
