//! The embedded broker keeps the contract.

use std::sync::Arc;

use async_trait::async_trait;
use brolly_core::{Broker, Commit, SystemClock};
use brolly_embedded::{Config, Embedded};
use brolly_store::{Messages, Store};
use brolly_tests::contract::{self, Subject};

struct Running {
    store: Store,
    broker: Arc<Embedded>,
}

struct EmbeddedSubject {
    dir: tempfile::TempDir,
    running: Option<Running>,
}

impl EmbeddedSubject {
    async fn new() -> Self {
        let mut subject = Self { dir: tempfile::tempdir().unwrap(), running: None };
        subject.start();
        subject
    }

    fn start(&mut self) {
        let store = Store::open(&brolly_store::Config::new(self.dir.path().join("store"))).unwrap();
        let messages = Messages::open(&store).unwrap();
        let broker =
            Embedded::open(store.clone(), messages, Arc::new(SystemClock), Config::default()).unwrap();
        let broker = Arc::new(broker);
        let runs = broker.clone();
        tokio::spawn(async move { runs.run().await });
        self.running = Some(Running { store, broker });
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }
}

#[async_trait]
impl Subject for EmbeddedSubject {
    fn broker(&self) -> Arc<dyn Broker> {
        self.running().broker.clone()
    }

    async fn commit(&self, commit: Commit) {
        self.running().store.commit(commit).await.unwrap();
    }

    /// Forgets everything in memory. What a killed process leaves on the disk is tested with the
    /// real binary.
    async fn crash(&mut self) {
        let running = self.running.take().unwrap();
        running.broker.close().await;
        running.store.close();
        drop(running);
        self.start();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_keeps_the_contract() {
    contract::check(EmbeddedSubject::new).await;
}
