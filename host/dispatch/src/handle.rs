//! The door to everything: what the admin may see and change. It never touches a delivery in flight.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use brolly_alerts::Alerts;
use brolly_capture::Recorders;
use brolly_catalog::{Catalog, Definition, Entry, Grant, Precondition, Put, Rights};
use brolly_core::{
    Accepted, Broker, BrokerDefinition, BrokerError, Brokers, Clock, Connection, Digest, HandledBy, Health,
    Name, NewMessage, Outside, Plugins, Refusal, Router, StateEntry, Subscription, Topic,
};
use brolly_ledger::{DeliveryHistory, Found, History, Ledger, Search, Status as DeliveryStatus};
use parking_lot::RwLock;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    brokers::Fleet,
    controller::{LOADING, Parts},
    feeds,
    meters::{NAMES, Names, Sent, TIMED},
    rates::Rates,
    status::{Board, State, Status},
    supervisor::Supervisor,
    traces::{self, Span, TraceContext, Tracer},
};

/// The settings of dispatch.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long messages and their history are kept, in milliseconds. Also how long an id is
    /// remembered, so that a second publish of it is ignored. What waits or is a dead letter stays
    /// for as long as it does so.
    pub history_ms: u64,
    /// Makes spans of what happens; none where nobody wants traces.
    pub tracer: Option<Tracer>,
    /// The folder that backups are put into; none where none can be made.
    pub backups: Option<PathBuf>,
    /// The folder that captures are kept in; none where a restart forgets them.
    pub captures: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { history_ms: 7 * 24 * 60 * 60 * 1000, tracer: None, backups: None, captures: None }
    }
}

/// What dispatch works with.
#[allow(missing_docs, reason = "the rooms of the house")]
pub struct Rooms {
    pub alerts: Arc<Alerts>,
    pub catalog: Arc<Catalog>,
    pub ledger: Arc<Ledger>,
    /// Makes the brokers that are elsewhere.
    pub kinds: Arc<dyn Brokers>,
    pub embedded: Arc<dyn Broker>,
    pub plugins: Arc<dyn Plugins>,
    pub clock: Arc<dyn Clock>,
    /// What handlers may be granted to reach.
    pub outside: Arc<dyn Outside>,
}

/// The running host.
pub struct Dispatch {
    handle: Handle,
}

impl Dispatch {
    /// Puts the host together; nothing runs yet.
    #[must_use]
    pub fn new(rooms: Rooms, config: Config) -> Self {
        let Rooms { alerts, catalog, ledger, kinds, embedded, plugins, clock, outside } = rooms;
        let brokers = Arc::new(Fleet::new(kinds, embedded, clock.clone()));
        let parts = Arc::new(Parts {
            alerts,
            catalog,
            ledger,
            brokers,
            plugins,
            clock,
            outside,
            recorders: Recorders::default(),
            subscriptions: Names::up_to(NAMES),
            queues: Names::up_to(NAMES),
            timed: Names::up_to(TIMED),
            timed_queues: Names::up_to(TIMED),
            sent: Arc::default(),
            rates: Rates::default(),
            loading: Semaphore::new(LOADING),
            tracer: config.tracer.clone(),
        });
        let inner = Inner {
            parts,
            config,
            boards: RwLock::default(),
            router: Mutex::default(),
            tallying: Mutex::default(),
            trials: Semaphore::new(Handle::TRIALS),
            ears: feeds::Ears::default(),
        };
        Self { handle: Handle { inner: Arc::new(inner), author: None } }
    }

    /// The door to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Opens the brokers and tells them their queues and routes. To be called before anything can be
    /// published: until then it is refused.
    ///
    /// # Errors
    /// When a broker cannot be configured. One that cannot be reached is no error.
    pub async fn prepare(&self) -> Result<(), Error> {
        self.handle.configure_brokers().await
    }

    /// Runs every subscription that is wanted until it is told to stop; comes back when each has
    /// finished what it had in hand.
    ///
    /// # Errors
    /// When the broker cannot be configured.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        Supervisor::new(self.handle).run(stop).await
    }
}

/// The door to everything. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
    /// Whose token changes are made with; none for the host itself.
    author: Option<Name>,
}

struct Inner {
    parts: Arc<Parts>,
    config: Config,
    boards: RwLock<HashMap<Name, Arc<Board>>>,
    /// The routes as the broker has them; locked while they are changed.
    router: Mutex<Arc<Router>>,
    /// Held by the one call that counts deliveries.
    tallying: Mutex<()>,
    /// Room for trials of dead letters.
    trials: Semaphore,
    ears: feeds::Ears,
}

/// A part of a listing.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to give as `after` to go on; none at the end.
    pub next: Option<String>,
}

impl Handle {
    /// The same door; what is changed through it stands in the audit log as a change by this token.
    #[must_use]
    pub fn by(&self, author: &Name) -> Self {
        Self { inner: self.inner.clone(), author: Some(author.clone()) }
    }

    pub(crate) fn author(&self) -> Option<&Name> {
        self.author.as_ref()
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.inner.parts.catalog
    }

    pub(crate) fn parts(&self) -> &Arc<Parts> {
        &self.inner.parts
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn ears(&self) -> &feeds::Ears {
        &self.inner.ears
    }

    pub(crate) fn tallying(&self) -> &Mutex<()> {
        &self.inner.tallying
    }

    pub(crate) fn trials(&self) -> &Semaphore {
        &self.inner.trials
    }

    pub(crate) fn boards(&self) -> &RwLock<HashMap<Name, Arc<Board>>> {
        &self.inner.boards
    }

    /// One definition.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`].
    pub fn get<T: Definition>(&self, name: &Name) -> Result<Entry<T>, Error> {
        let snapshot = self.catalog().snapshot();
        let entry = T::map(&snapshot).get(name).cloned();
        entry.ok_or_else(|| Refusal::not_found(T::KIND.word(), name.as_str()).into())
    }

    /// Definitions in the order of their names, from the first after `after` on.
    #[must_use]
    pub fn list<T: Definition>(&self, after: Option<&Name>, limit: usize) -> Page<(Name, Entry<T>)> {
        use std::ops::Bound;
        let snapshot = self.catalog().snapshot();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = T::map(&snapshot).range((from, Bound::Unbounded));
        let items: Vec<_> =
            rest.by_ref().take(limit).map(|(name, entry)| (name.clone(), entry.clone())).collect();
        let next = rest.next().and_then(|_| items.last().map(|(name, _)| name.to_string()));
        Page { items, next }
    }

    /// Creates or replaces a topic, queue or route; the broker follows before this answers.
    ///
    /// # Errors
    /// What the catalog refuses.
    pub async fn put<T: Definition>(
        &self,
        name: &Name,
        value: T,
        only_if: Precondition,
    ) -> Result<Put<T>, Error> {
        self.admit(name, &value).await?;
        let put = self.catalog().put(name, value, only_if, self.author()).await?;
        self.configure_brokers().await?;
        Ok(put)
    }

    /// The catalog's own checks, and then those of the broker that is to honour the definition.
    async fn admit<T: Definition>(&self, name: &Name, value: &T) -> Result<(), Error> {
        let snapshot = self.catalog().snapshot();
        value.check(name, &snapshot)?;
        for (broker, proposal) in value.proposals(&snapshot) {
            // A broker that cannot be used at the moment says nothing against it.
            let Ok(broker) = self.parts().brokers.get(broker) else { continue };
            match broker.admit(name, proposal).await {
                Err(BrokerError::Refused(refusal)) => return Err(refusal.into()),
                Err(error @ BrokerError::Failed { .. }) => {
                    tracing::warn!(%name, %error, "a broker could not be asked whether it can honour a definition");
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Creates or replaces a broker, and waits until it is connected or has failed to, for up to
    /// [`Handle::CONNECTING`]. That it cannot be reached is no error.
    ///
    /// # Errors
    /// What the catalog or the kind of broker refuses.
    pub async fn put_broker(
        &self,
        name: &Name,
        value: BrokerDefinition,
        only_if: Precondition,
    ) -> Result<Put<BrokerDefinition>, Error> {
        self.admit(name, &value).await?;
        let before = self.get::<BrokerDefinition>(name).ok();
        let checked = before.map_or(value.clone(), |before| value.clone().with_password_of(&before.value));
        self.parts().brokers.check(&checked)?;
        let put = self.catalog().put(name, value, only_if, self.author()).await?;
        self.configure_brokers().await?;
        let connecting = async {
            while self.broker_health(name).state == Connection::Connecting {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Self::CONNECTING, connecting).await;
        Ok(put)
    }

    /// How long [`Handle::put_broker`] waits for a connection.
    pub const CONNECTING: Duration = Duration::from_secs(3);

    /// How a broker is doing.
    #[must_use]
    pub fn broker_health(&self, name: &Name) -> Health {
        self.parts().brokers.health(name)
    }

    /// Creates or replaces a subscription, after its plugin was tried within its limits and, where its version is
    /// new to it, has passed its samples.
    ///
    /// # Errors
    /// [`brolly_core::Code::SamplesFailed`]; what the catalog or the plugin runtime refuses.
    pub async fn put_subscription(
        &self,
        name: &Name,
        value: Subscription,
        only_if: Precondition,
    ) -> Result<Put<Subscription>, Error> {
        // These say more than a plugin file that is not there.
        self.admit(name, &value).await?;
        self.try_out(name, &value).await?;
        self.vet_new(name, &value).await?;
        self.announce(name, &value);
        Ok(self.catalog().put(name, value, only_if, self.author()).await?)
    }

    /// Makes an instance of the plugin of a subscription, and of its candidate.
    pub(crate) async fn try_out(&self, name: &Name, value: &Subscription) -> Result<(), Error> {
        for definition in [Some(value.clone()), value.candidate()].into_iter().flatten() {
            let HandledBy::Plugin { version, .. } = definition.handled_by()? else { continue };
            let (plugins, wasm) = (self.parts().plugins.clone(), self.catalog().plugin_file(&version));
            let name = name.clone();
            blocking("trying a plugin", move || plugins.handler(&name, &definition, &version, &wasm))
                .await??;
        }
        Ok(())
    }

    /// Pauses or resumes a subscription; stored, so that it survives a restart.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`].
    pub async fn set_paused(&self, name: &Name, paused: bool) -> Result<Entry<Subscription>, Error> {
        let put = self.catalog().update(
            name,
            Precondition::None,
            self.author(),
            |present: Option<&Subscription>| match present {
                Some(present) => Ok(Subscription { paused: Some(paused), ..present.clone() }),
                None => Err(Refusal::not_found("subscription", name.as_str())),
            },
        );
        Ok(put.await?.entry)
    }

    /// Deletes a topic, route, subscription, plugin or token that nothing uses. The state and the
    /// history of a subscription stay.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`], [`brolly_core::Code::InUse`], [`brolly_core::Code::Changed`].
    pub async fn delete<T: Definition>(&self, name: &Name, only_if: Precondition) -> Result<(), Error> {
        self.catalog().delete::<T>(name, only_if, self.author()).await?;
        self.configure_brokers().await
    }

    /// Opens and closes brokers, and tells each which queues and routes are wanted.
    pub(crate) async fn configure_brokers(&self) -> Result<(), Error> {
        let mut router = self.inner.router.lock().await;
        let snapshot = self.catalog().snapshot();
        let routes = snapshot.routes.iter().map(|(name, entry)| (name, &*entry.value));
        let next = Arc::new(Router::new(&router, routes)?);
        self.parts().brokers.follow(&snapshot, next.clone()).await?;
        *router = next;
        Ok(())
    }

    /// Publishes messages: all of them, durably, or none if one is refused. Those that have no place in a
    /// trace themselves get the one that `context` says.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`] for the topic; what the broker refuses.
    pub async fn publish(
        &self,
        topic: &Name,
        mut messages: Vec<NewMessage>,
        context: &TraceContext,
    ) -> Result<Vec<Accepted>, Error> {
        let parts = self.parts();
        let broker = parts.brokers.get(&self.get::<Topic>(topic)?.value.broker)?;
        let (system, began) = (broker.system(), Instant::now());
        let tracer = parts.tracer.as_ref();
        let mut span = tracer.map_or(Span::NONE, |tracer| tracer.publish(system, topic, &messages, context));
        traces::begin(tracer, &span, context, &mut messages);
        let published = broker.publish(topic, messages).await.map_err(Error::from);
        match &published {
            Ok(accepted) => {
                Sent::published(system, began, None);
                parts.sent.accepted(system, topic, accepted.len() as u64);
                span.outcome("accepted", None);
            }
            Err(error) => {
                let kind = Sent::failure(error);
                Sent::published(system, began, Some(kind));
                span.outcome("refused", Some((kind, &error.to_string())));
            }
        }
        published
    }

    /// What a subscription is doing.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`].
    pub fn status(&self, name: &Name) -> Result<Status, Error> {
        let board = self.boards().read().get(name).cloned();
        match board {
            Some(board) => Ok(board.read(self.now())),
            None => {
                self.get::<Subscription>(name)?;
                Ok(Board::new(&*self.parts().clock).read(self.now()))
            }
        }
    }

    /// Why the host is not ready: each subscription that should run and does not, with the reason.
    #[must_use]
    pub fn not_ready(&self) -> Vec<(Name, String)> {
        let snapshot = self.catalog().snapshot();
        let wanted = snapshot.subscriptions.iter().filter(|(_, entry)| !entry.value.is_paused());
        wanted
            .filter_map(|(name, _)| {
                let status = self.status(name).ok()?;
                let reason = status.error.unwrap_or_else(|| status.state.as_str().to_owned());
                (status.state != State::Running).then(|| (name.clone(), reason))
            })
            .collect()
    }

    /// A plugin's state, in the order of keys.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`]; a failing store.
    pub async fn state(
        &self,
        subscription: &Name,
        prefix: String,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, Error> {
        self.get::<Subscription>(subscription)?;
        let (ledger, name) = (self.parts().ledger.clone(), subscription.clone());
        Ok(blocking("reading state", move || ledger.state_entries(&name, &prefix, after.as_deref(), limit))
            .await??)
    }

    /// The story of one message, with deliveries that nobody has attempted yet.
    ///
    /// # Errors
    /// A failing store.
    pub async fn history(&self, id: String, topic: Option<Name>) -> Result<Option<History>, Error> {
        let ledger = self.parts().ledger.clone();
        let history = blocking("reading history", move || ledger.history(&id, topic.as_ref())).await??;
        let snapshot = self.catalog().snapshot();
        Ok(history.map(|mut history| {
            for (name, entry) in snapshot.subscriptions.iter() {
                let routed = history.stored.routed.contains(&entry.value.queue);
                if routed && history.deliveries.iter().all(|delivery| delivery.subscription != *name) {
                    history.deliveries.push(DeliveryHistory {
                        subscription: name.clone(),
                        status: DeliveryStatus::Waiting,
                        replays: 0,
                        attempts: Vec::new(),
                        published: Vec::new(),
                        published_more: 0,
                    });
                }
            }
            history
        }))
    }

    /// Looks for messages: newest first and older than `cursor`, or `ascending` and newer than it.
    ///
    /// # Errors
    /// A failing store.
    pub async fn search(
        &self,
        search: Search,
        cursor: Option<u64>,
        ascending: bool,
        limit: usize,
    ) -> Result<Found, Error> {
        let ledger = self.parts().ledger.clone();
        Ok(blocking("searching messages", move || ledger.search(&search, cursor, ascending, limit)).await??)
    }

    /// Removes a plugin version that no subscription uses.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`], [`brolly_core::Code::InUse`].
    pub async fn remove_version(&self, plugin: &Name, digest: &Digest) -> Result<(), Error> {
        Ok(self.catalog().remove_version(plugin, digest, self.author()).await?)
    }

    /// Who a token belongs to, and what it allows; none if it is not known.
    #[must_use]
    pub fn authenticate(&self, token: &str) -> Option<(Name, Rights)> {
        self.catalog().authenticate(token)
    }

    /// Makes a token and answers with it, for the only time.
    ///
    /// # Errors
    /// [`brolly_core::Code::Changed`] when the name is taken; what [`Grant::check`] says.
    pub async fn create_token(&self, name: &Name, grant: Grant) -> Result<String, Error> {
        Ok(self.catalog().create_token(name, grant, self.author()).await?)
    }
}

/// Runs slow work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::Task { what, why: error.to_string() })
}
