//! The brokers that are open: compares those that are wanted with those that run, and tells each
//! what lives on it. Called by the `Handle` and the supervisor; knows brokers only by their port.

use std::{collections::BTreeMap, sync::Arc};

use brolly_catalog::Snapshot;
use brolly_core::{
    Broker, BrokerDefinition, Brokers, Clock, Code, Connection, Health, Name, Publication, Refusal, Router,
    Timestamp, defaults,
};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::task::{AbortHandle, JoinSet};

use crate::Error;

/// The brokers of this host.
pub(crate) struct Fleet {
    kinds: Arc<dyn Brokers>,
    clock: Arc<dyn Clock>,
    embedded: Arc<dyn Broker>,
    open: RwLock<BTreeMap<Name, Open>>,
    /// Those that cannot even be made, with the reason.
    failed: RwLock<BTreeMap<Name, (Timestamp, String)>>,
    /// What keeps each of them running.
    tasks: Mutex<JoinSet<()>>,
}

struct Open {
    broker: Arc<dyn Broker>,
    /// None for the embedded broker.
    definition: Option<Arc<BrokerDefinition>>,
    task: AbortHandle,
}

impl Fleet {
    pub(crate) fn new(kinds: Arc<dyn Brokers>, embedded: Arc<dyn Broker>, clock: Arc<dyn Clock>) -> Self {
        let (open, failed, tasks) = (RwLock::default(), RwLock::default(), Mutex::default());
        Self { kinds, clock, embedded, open, failed, tasks }
    }

    /// Checks a definition without connecting anywhere.
    pub(crate) fn check(&self, definition: &BrokerDefinition) -> Result<(), Refusal> {
        self.kinds.check(definition)
    }

    /// An open broker.
    pub(crate) fn get(&self, name: &Name) -> Result<Arc<dyn Broker>, Error> {
        if let Some(open) = self.open.read().get(name) {
            return Ok(open.broker.clone());
        }
        let why = self.failed.read().get(name).map(|(_, why)| why.clone());
        let why = why.unwrap_or_else(|| "it is not open yet".to_owned());
        Err(Refusal::new(Code::Unavailable, format!("the broker {name} cannot be used: {why}")).into())
    }

    /// The broker that a queue lives on.
    pub(crate) fn of_queue(&self, snapshot: &Snapshot, queue: &Name) -> Result<Arc<dyn Broker>, Error> {
        let entry = snapshot.queues.get(queue).ok_or_else(|| Refusal::not_found("queue", queue.as_str()))?;
        self.get(&entry.value.broker)
    }

    /// How a broker is doing.
    pub(crate) fn health(&self, name: &Name) -> Health {
        if let Some(open) = self.open.read().get(name) {
            return open.broker.health();
        }
        let (state, since, detail) = match self.failed.read().get(name) {
            Some((since, why)) => (Connection::Failed, *since, Some(why.clone())),
            None => (Connection::Connecting, self.clock.now(), None),
        };
        Health { state, since, detail, server: None, outbox: 0 }
    }

    /// Opens and closes the difference to what is wanted, and tells every broker its topics, queues
    /// and routes. Not to be called twice at once.
    pub(crate) async fn follow(&self, snapshot: &Snapshot, router: Arc<Router>) -> Result<(), Error> {
        self.close_unwanted(snapshot).await;
        if !self.open.read().contains_key(&defaults::broker()) {
            self.start(defaults::broker(), self.embedded.clone(), None);
        }
        for (name, entry) in snapshot.brokers.iter() {
            if self.open.read().contains_key(name) {
                continue;
            }
            match self.kinds.open(name, &entry.value) {
                Ok(broker) => {
                    self.failed.write().remove(name);
                    self.start(name.clone(), broker, Some(entry.value.clone()));
                }
                Err(error) => {
                    tracing::error!(broker = %name, %error, "a broker cannot be used");
                    self.failed.write().insert(name.clone(), (self.clock.now(), error.to_string()));
                }
            }
        }
        let open: Vec<(Name, Arc<dyn Broker>)> =
            self.open.read().iter().map(|(name, open)| (name.clone(), open.broker.clone())).collect();
        let told = open.iter().map(|(name, broker)| broker.configure(publication(snapshot, name, &router)));
        join_all(told).await.into_iter().collect::<Result<(), _>>()?;
        Ok(())
    }

    /// A broker whose definition has changed is closed, too: it is made anew.
    async fn close_unwanted(&self, snapshot: &Snapshot) {
        let wanted = |name: &Name, open: &Open| match &open.definition {
            None => true,
            Some(definition) => snapshot.brokers.get(name).is_some_and(|entry| entry.value == *definition),
        };
        let unwanted: Vec<Name> = {
            let open = self.open.read();
            open.iter().filter(|(name, open)| !wanted(name, open)).map(|(name, _)| name.clone()).collect()
        };
        join_all(unwanted.iter().map(|name| self.close(name))).await;
        self.failed.write().retain(|name, _| snapshot.brokers.contains_key(name));
    }

    fn start(&self, name: Name, broker: Arc<dyn Broker>, definition: Option<Arc<BrokerDefinition>>) {
        let running = broker.clone();
        let task = self.tasks.lock().spawn(async move { running.run().await });
        self.open.write().insert(name, Open { broker, definition, task });
    }

    async fn close(&self, name: &Name) {
        let Some(broker) = self.open.read().get(name).map(|open| open.broker.clone()) else { return };
        broker.close().await;
        if let Some(open) = self.open.write().remove(name) {
            open.task.abort();
        }
    }

    /// Closes them all; nothing can be published or consumed afterwards.
    pub(crate) async fn close_all(&self) {
        let names: Vec<Name> = self.open.read().keys().cloned().collect();
        join_all(names.iter().map(|name| self.close(name))).await;
        self.tasks.lock().abort_all();
    }
}

/// What lives on one broker.
fn publication(snapshot: &Snapshot, broker: &Name, router: &Arc<Router>) -> Publication {
    let on = |of: &Name| of == broker;
    let topics = snapshot.topics.iter().filter(|(_, topic)| on(&topic.value.broker));
    let queues = snapshot.queues.iter().filter(|(_, queue)| on(&queue.value.broker));
    let routes = snapshot.routes.iter().filter(|(_, route)| {
        snapshot.topics.get(&route.value.topic).is_some_and(|topic| on(&topic.value.broker))
    });
    Publication {
        topics: topics.map(|(name, entry)| (name.clone(), entry.value.clone())).collect(),
        queues: queues.map(|(name, entry)| (name.clone(), entry.value.clone())).collect(),
        routes: routes.map(|(name, entry)| (name.clone(), entry.value.clone())).collect(),
        router: router.clone(),
    }
}
