//! What is wanted on the server (exchanges, queues, bindings) and how it is brought about.
//!
//! Called by the session when it begins and whenever something changes. Each thing that the server
//! refuses is a trouble of its own and keeps no other from being made. Whatever has `adopt` is looked
//! for and never touched.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use brolly_core::{Code, Name, Publication, Queue, Refusal, Route, Thing, Topic};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    error::{Error, code},
    session::Session,
};

/// How often RabbitMQ may hand out a message of ours before it gives it up to the dead letters.
const DELIVERY_LIMIT: i64 = 1_000;

/// For queues whose messages are never given up.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// The longest address of a queue of ours: the names of what belongs to it are longer.
pub(crate) const ADDRESS_BYTES: usize = 238;

/// The queue of what RabbitMQ itself gives up.
pub(crate) fn dead_queue(address: &str) -> String {
    format!("{address}.dead")
}

/// What is wanted, and what the server has of it.
#[derive(Default)]
pub(crate) struct Topology {
    wanted: Mutex<Wanted>,
    /// INVARIANT: what stands here was confirmed by the server in this session.
    made: tokio::sync::Mutex<Made>,
    forgotten: Mutex<Vec<String>>,
    troubles: Mutex<HashMap<(Kind, Name), String>>,
    /// Wakes the session when something is to be made anew.
    pub repair: Notify,
}

#[derive(Clone, Default)]
struct Wanted {
    topics: BTreeMap<Name, Arc<Topic>>,
    queues: BTreeMap<Name, Arc<Queue>>,
    routes: BTreeMap<Name, Arc<Route>>,
    /// Topics and queues of earlier publications, for messages that are still on their way.
    old_topics: HashMap<Name, Arc<Topic>>,
    old_queues: HashMap<Name, Arc<Queue>>,
    by_exchange: Arc<HashMap<String, Name>>,
}

#[derive(Default)]
struct Made {
    session: u64,
    things: HashSet<Item>,
    /// Bindings of all publications that are not known to be removed.
    bindings: BTreeSet<Binding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Item {
    Exchange { address: String, adopt: bool },
    Queue { address: String, classic: bool, adopt: bool },
    Binding(Binding),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Binding {
    exchange: String,
    queue: String,
    key: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Topic,
    Queue,
}

/// Whether a queue is a classic one.
pub(crate) fn is_classic(queue: &Queue) -> bool {
    queue.kind.as_deref() == Some("classic")
}

impl Topology {
    pub(crate) fn want(&self, publication: Publication) {
        let mut wanted = self.wanted.lock();
        let before = std::mem::take(&mut *wanted);
        let topics: BTreeMap<_, _> = publication.topics.into_iter().collect();
        let by_exchange = topics.iter().map(|(name, topic)| (topic.address(name).to_owned(), name.clone()));
        *wanted = Wanted {
            by_exchange: Arc::new(by_exchange.collect()),
            queues: publication.queues.into_iter().collect(),
            routes: publication.routes.into_iter().collect(),
            topics,
            old_topics: before.old_topics.into_iter().chain(before.topics).collect(),
            old_queues: before.old_queues.into_iter().chain(before.queues).collect(),
        };
        self.troubles.lock().retain(|(kind, name), _| match kind {
            Kind::Topic => wanted.topics.contains_key(name),
            Kind::Queue => wanted.queues.contains_key(name),
        });
    }

    /// Wants a queue no more, so that it is not made anew.
    pub(crate) fn drop_queue(&self, name: &Name) {
        let mut wanted = self.wanted.lock();
        wanted.routes.retain(|_, route| route.queue != *name);
        if let Some(queue) = wanted.queues.remove(name) {
            self.forgotten.lock().push(queue.address(name).to_owned());
            wanted.old_queues.insert(name.clone(), queue);
        }
        self.troubles.lock().remove(&(Kind::Queue, name.clone()));
    }

    /// Keeps everything as it is on the server for as long as the guard lives.
    pub(crate) async fn hold(&self) -> impl Sized + '_ {
        self.made.lock().await
    }

    pub(crate) fn queue(&self, name: &Name) -> Option<Arc<Queue>> {
        let wanted = self.wanted.lock();
        wanted.queues.get(name).or_else(|| wanted.old_queues.get(name)).cloned()
    }

    /// The name of a topic's exchange.
    pub(crate) fn exchange_of(&self, name: &Name) -> String {
        let wanted = self.wanted.lock();
        let topic = wanted.topics.get(name).or_else(|| wanted.old_topics.get(name));
        topic.map_or_else(|| name.to_string(), |topic| topic.address(name).to_owned())
    }

    /// The name of a queue on the server.
    pub(crate) fn address_of(&self, name: &Name) -> String {
        self.queue(name).map_or_else(|| name.to_string(), |queue| queue.address(name).to_owned())
    }

    /// The topics by their exchanges.
    pub(crate) fn by_exchange(&self) -> Arc<HashMap<String, Name>> {
        self.wanted.lock().by_exchange.clone()
    }

    pub(crate) fn trouble(&self, thing: Thing<'_>) -> Option<String> {
        let key = match thing {
            Thing::Topic(name) => (Kind::Topic, name.clone()),
            Thing::Queue(name) => (Kind::Queue, name.clone()),
        };
        self.troubles.lock().get(&key).cloned()
    }

    pub(crate) fn has_troubles(&self) -> bool {
        !self.troubles.lock().is_empty()
    }

    /// An exchange or queue may be gone: it is looked for, or made, again.
    pub(crate) fn doubt(&self, address: &str) {
        let mut forgotten = self.forgotten.lock();
        if !forgotten.iter().any(|known| known == address) {
            forgotten.push(address.to_owned());
        }
        drop(forgotten);
        self.repair.notify_one();
    }

    /// Brings about what is wanted and not there yet.
    ///
    /// # Errors
    /// When the connection failed; what the server refuses becomes a trouble.
    pub(crate) async fn bring_about(&self, session: &Session) -> Result<(), Error> {
        let mut made = self.made.lock().await;
        if made.session != session.generation {
            made.session = session.generation;
            made.things.clear();
        }
        for address in std::mem::take(&mut *self.forgotten.lock()) {
            made.forget(&address);
        }
        let wanted = self.wanted.lock().clone();
        let bindings = wanted.bindings();
        made.bindings.extend(bindings.keys().cloned());
        let mut troubles = HashMap::new();
        for (item, owner) in wanted.items(&bindings) {
            if made.things.contains(&item) {
                continue;
            }
            match item.make(session).await {
                Ok(()) => {
                    made.things.insert(item);
                }
                Err(error) => {
                    if let Item::Binding(Binding { exchange, queue, .. }) = &item
                        && error.code() == Some(code::NOT_FOUND)
                    {
                        // One of them was deleted, maybe in the moment in which it seemed to be there.
                        made.forget(exchange);
                        made.forget(queue);
                    }
                    let Some(refusal) = item.refusal(&error) else { return Err(error) };
                    troubles.entry(owner).or_insert(refusal.detail);
                }
            }
        }
        made.unbind_unwanted(session, &bindings).await?;
        drop(made);
        self.tell(troubles);
        Ok(())
    }

    fn tell(&self, troubles: HashMap<(Kind, Name), String>) {
        let mut told = self.troubles.lock();
        for (thing, trouble) in &troubles {
            if told.get(thing) != Some(trouble) {
                tracing::warn!(?thing, trouble, "the server does not have it as it is wanted");
            }
        }
        *told = troubles;
    }
}

impl Wanted {
    /// Everything, in the order in which it can be made, each with whose trouble it would be.
    fn items(&self, bindings: &BTreeMap<Binding, Name>) -> Vec<(Item, (Kind, Name))> {
        let topics = self.topics.iter().map(|(name, topic)| {
            let address = topic.address(name).to_owned();
            (Item::Exchange { address, adopt: topic.adopt }, (Kind::Topic, name.clone()))
        });
        let queues = self.queues.iter();
        let queues = queues
            .map(|(name, queue)| (Item::queue(queue, queue.address(name)), (Kind::Queue, name.clone())));
        let bindings = bindings.iter();
        let bindings =
            bindings.map(|(binding, queue)| (Item::Binding(binding.clone()), (Kind::Queue, queue.clone())));
        topics.chain(queues).chain(bindings).collect()
    }

    /// The bindings that routes stand for, each with a queue that it is for.
    fn bindings(&self) -> BTreeMap<Binding, Name> {
        let binding = |route: &Arc<Route>| {
            let topic = self.topics.get(&route.topic)?;
            let queue = self.queues.get(&route.queue).filter(|queue| !queue.adopt)?;
            let binding = Binding {
                exchange: topic.address(&route.topic).to_owned(),
                queue: queue.address(&route.queue).to_owned(),
                key: route.key_pattern.clone(),
            };
            Some((binding, route.queue.clone()))
        };
        self.routes.values().filter_map(binding).collect()
    }
}

impl Made {
    /// Removes the bindings that earlier publications stood for and this one does not.
    async fn unbind_unwanted(
        &mut self,
        session: &Session,
        wanted: &BTreeMap<Binding, Name>,
    ) -> Result<(), Error> {
        let unwanted = self.bindings.iter().filter(|binding| !wanted.contains_key(binding));
        for binding in unwanted.cloned().collect::<Vec<_>>() {
            match session.bind((&binding.exchange, &binding.queue, &binding.key), false).await {
                Ok(()) => {}
                Err(error) if error.code() == Some(code::NOT_FOUND) => {}
                Err(error) if error.code().is_some() => {
                    tracing::warn!(?binding, %error, "a binding that is not wanted any more could not be removed");
                }
                Err(error) => return Err(error),
            }
            self.things.remove(&Item::Binding(binding.clone()));
            self.bindings.remove(&binding);
        }
        Ok(())
    }

    /// With an exchange or queue go its bindings.
    fn forget(&mut self, gone: &str) {
        self.things.retain(|item| match item {
            Item::Exchange { address, .. } | Item::Queue { address, .. } => address != gone,
            Item::Binding(binding) => binding.exchange != gone && binding.queue != gone,
        });
    }
}

impl Item {
    fn queue(queue: &Queue, address: &str) -> Self {
        Item::Queue { address: address.to_owned(), classic: is_classic(queue), adopt: queue.adopt }
    }

    async fn make(&self, session: &Session) -> Result<(), Error> {
        match self {
            Item::Exchange { address, adopt } => session.exchange(address, *adopt).await,
            Item::Queue { address, adopt: true, .. } => match session.look(address).await? {
                Some(_) => Ok(()),
                None => Err(Error::Server { code: code::NOT_FOUND, text: format!("no queue '{address}'") }),
            },
            Item::Queue { address, classic, adopt: false } => {
                session.queue(&dead_queue(address), dead_arguments()).await?;
                session.queue(address, queue_arguments(address, *classic)).await
            }
            Item::Binding(binding) => {
                session.bind((&binding.exchange, &binding.queue, &binding.key), true).await
            }
        }
    }

    /// What the server's refusal means for whoever wrote the definition; none if it is no refusal.
    fn refusal(&self, error: &Error) -> Option<Refusal> {
        let (what, address, adopt) = match self {
            Item::Exchange { address, adopt } => ("exchange", address, *adopt),
            Item::Queue { address, adopt, .. } => ("queue", address, *adopt),
            Item::Binding(binding) => ("exchange", &binding.exchange, true),
        };
        if matches!(error, Error::Silent(_)) {
            // It may be that queue alone: one whose servers are down holds up nobody else's.
            return Some(Refusal::new(
                Code::Unavailable,
                format!("{what} {address:?}: {error}; it is tried again"),
            ));
        }
        let (code, detail) = match error.code()? {
            code::NOT_FOUND if adopt => (
                Code::UnknownReference,
                format!(
                    "the server has no {what} {address:?} ({error}); its owner has to make it, or leave out \"adopt\""
                ),
            ),
            code::PRECONDITION_FAILED => (
                Code::InvalidDefinition,
                format!(
                    "the {what} {address:?} exists with other arguments: {error}; delete it, or use \"adopt\": true, or \
                     another address"
                ),
            ),
            code::ACCESS_REFUSED => (
                Code::Forbidden,
                format!("the server does not let this user have the {what} {address:?}: {error}"),
            ),
            code::RESOURCE_LOCKED => {
                (Code::InUse, format!("the {what} {address:?} belongs to another connection alone: {error}"))
            }
            _ => (Code::InvalidDefinition, format!("the server refuses the {what} {address:?}: {error}")),
        };
        Some(Refusal::new(code, detail))
    }
}

/// Makes a topic or queue on the server, to see whether it can be made.
///
/// # Errors
/// `Ok(Err)` with the server's refusal; `Err` when the connection failed.
pub(crate) async fn attempt(
    session: &Session,
    name: &Name,
    thing: Attempt<'_>,
) -> Result<Result<(), Refusal>, Error> {
    let item = match thing {
        Attempt::Topic(topic) => {
            Item::Exchange { address: topic.address(name).to_owned(), adopt: topic.adopt }
        }
        Attempt::Queue(queue) => Item::queue(queue, queue.address(name)),
    };
    match item.make(session).await {
        Ok(()) => Ok(Ok(())),
        Err(error) => item.refusal(&error).map_or(Err(error), |refusal| Ok(Err(refusal))),
    }
}

/// What is to be tried.
#[derive(Clone, Copy)]
pub(crate) enum Attempt<'a> {
    Topic(&'a Topic),
    Queue(&'a Queue),
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let entries = entries.into_iter().map(|(key, value)| (ShortString::from(key), value));
    entries.collect::<BTreeMap<_, _>>().into()
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn queue_arguments(address: &str, classic: bool) -> FieldTable {
    let mut arguments = vec![
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&dead_queue(address))),
        // Were there a limit by a policy, messages would be dropped otherwise.
        ("x-overflow", text("reject-publish")),
    ];
    if classic {
        arguments.push(("x-queue-type", text("classic")));
    } else {
        arguments.push(("x-queue-type", text("quorum")));
        arguments.push(("x-dead-letter-strategy", text("at-least-once")));
        arguments.push(("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)));
    }
    table(arguments)
}

fn dead_arguments() -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", AMQPValue::LongLongInt(NO_DELIVERY_LIMIT)),
    ])
}

/// For a queue whose messages go back to another one when their time is up.
pub(crate) fn wait_arguments(address: &str) -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(address)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ])
}
