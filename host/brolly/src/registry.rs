//! The kinds of brokers that this program knows: one line for each. The one place that does.

use std::sync::Arc;

use brolly_amqp::Amqp;
use brolly_core::{Broker, BrokerDefinition, BrokerError, Brokers, Clock, Code, Name, Refusal};
use brolly_redis::Redis;
use brolly_remote::{Remote, Transport};
use brolly_store::{Messages, Store};

/// Makes brokers, with what each of them needs of the host.
pub struct Registry {
    store: Store,
    messages: Messages,
    host: String,
    clock: Arc<dyn Clock>,
}

/// Makes the transport of a broker; connects nowhere yet.
type Open = fn(&Name, &BrokerDefinition, &str, Arc<dyn Clock>) -> Result<Arc<dyn Transport>, Refusal>;

/// A kind of broker.
struct Kind {
    name: &'static str,
    check: fn(&BrokerDefinition) -> Result<(), Refusal>,
    open: Open,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "amqp",
        check: brolly_amqp::check,
        open: |name, definition, _, clock| Ok(Arc::new(Amqp::open(name, definition, clock)?)),
    },
    Kind {
        name: "redis",
        check: brolly_redis::check,
        open: |name, definition, host, clock| Ok(Arc::new(Redis::open(name, definition, host, clock)?)),
    },
];

impl Registry {
    /// A registry over the host's own store, for the host of this name.
    pub fn new(store: Store, messages: Messages, host: &str, clock: Arc<dyn Clock>) -> Self {
        Self { store, messages, host: host.to_owned(), clock }
    }
}

fn kind(definition: &BrokerDefinition) -> Result<&'static Kind, Refusal> {
    KINDS.iter().find(|kind| kind.name == definition.kind).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let detail = format!("kind is {:?}; this host knows {}", definition.kind, known.join(", "));
        Refusal::new(Code::InvalidDefinition, detail)
    })
}

impl Brokers for Registry {
    fn check(&self, definition: &BrokerDefinition) -> Result<(), Refusal> {
        (kind(definition)?.check)(definition)
    }

    fn open(&self, name: &Name, definition: &BrokerDefinition) -> Result<Arc<dyn Broker>, BrokerError> {
        let transport = (kind(definition)?.open)(name, definition, &self.host, self.clock.clone())?;
        let remote = Remote::open(
            name.clone(),
            transport,
            self.store.clone(),
            self.messages.clone(),
            self.clock.clone(),
        );
        let remote = remote.map_err(|error| BrokerError::Failed {
            operation: "open",
            subject: name.to_string(),
            source: Box::new(error),
        })?;
        Ok(Arc::new(remote))
    }
}
