//! Keeps one subscription as it is wanted: starts it, changes it while it runs, tries again when it
//! fails, and lets it finish what it has in hand before it stops.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ExponentialBuilder};
use brolly_alerts::Alerts;
use brolly_capture::Recorders;
use brolly_catalog::Catalog;
use brolly_core::{
    Clock, Consume, Digest, Forward, HandledBy, Handler, Name, Outside, Plugins, Source, Subscription,
};
use brolly_ledger::Ledger;
use parking_lot::RwLock;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    brokers::Fleet,
    forward::Forwarder,
    handle::blocking,
    meters::{Meters, Names, Sent},
    plan::Plan,
    publishing::Publisher,
    status::{Board, State},
    traces::Tracer,
    worker::Worker,
};

/// Plugins loaded at the same time. A host with thousands of subscriptions loads thousands when it starts;
/// a thread for each would take a gigabyte for a moment, and the processors from everybody else.
pub(crate) const LOADING: usize = 8;

/// What every controller works with.
pub(crate) struct Parts {
    pub alerts: Arc<Alerts>,
    pub catalog: Arc<Catalog>,
    pub ledger: Arc<Ledger>,
    pub brokers: Arc<Fleet>,
    pub plugins: Arc<dyn Plugins>,
    pub clock: Arc<dyn Clock>,
    pub outside: Arc<dyn Outside>,
    pub recorders: Recorders,
    /// Subscriptions and queues that have numbers of their own.
    pub subscriptions: Names,
    pub queues: Names,
    /// The same for the time that handlers take.
    pub timed: Names,
    pub timed_queues: Names,
    pub sent: Arc<Sent>,
    /// Turns at loading a plugin.
    pub loading: Semaphore,
    pub tracer: Option<Tracer>,
}

/// A subscription as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub definition: Arc<Subscription>,
    pub max_age: Option<Duration>,
}

impl Wanted {
    fn workers(&self) -> usize {
        let Subscription { workers, max_in_flight, forward, .. } = &*self.definition;
        let fewest = forward.as_ref().map_or(0, |_| Forward::WORKERS.min(*max_in_flight));
        fewest.max(*workers) as usize
    }

    /// Whether a change to `next` needs no more than another plan and another number of workers.
    fn runs_on_as(&self, next: &Self) -> bool {
        let place = |wanted: &Self| {
            let definition = &wanted.definition;
            (definition.queue.clone(), definition.order, definition.max_in_flight)
        };
        !next.definition.is_paused() && place(self) == place(next)
    }
}

/// Keeps one subscription as it is wanted, until it is wanted no more.
pub(crate) struct Controller {
    pub name: Name,
    pub parts: Arc<Parts>,
    pub wanted: watch::Receiver<Option<Wanted>>,
    pub board: Arc<Board>,
}

impl Controller {
    pub(crate) async fn run(mut self) {
        let backoff = || {
            let builder = ExponentialBuilder::new().with_jitter().without_max_times();
            builder.with_min_delay(Duration::from_millis(100)).with_max_delay(Duration::from_secs(30)).build()
        };
        let mut delays = backoff();
        while let Some(wanted) = self.next_wanted() {
            if wanted.definition.is_paused() {
                self.board.set(State::Paused, wanted.definition.version, None, &*self.parts.clock);
                delays = backoff();
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.serve(wanted).await {
                Ok(()) => delays = backoff(),
                Err(error) => {
                    let delay = delays.next().unwrap_or(Duration::from_secs(30));
                    tracing::error!(subscription = %self.name, %error, ?delay, "the subscription failed and is tried again");
                    metrics::counter!("brolly_subscription_failures_total", "subscription" => self.parts.subscriptions.label(&self.name))
                        .increment(1);
                    self.board.set(State::Failed, None, Some(error.to_string()), &*self.parts.clock);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        changed = self.wanted.changed() => if changed.is_err() { return },
                    }
                }
            }
        }
    }

    fn next_wanted(&mut self) -> Option<Wanted> {
        self.wanted.borrow_and_update().clone()
    }

    /// Serves the queue until a change needs a new start, or a worker fails.
    async fn serve(&mut self, mut wanted: Wanted) -> Result<(), Error> {
        let plan = self.plan(&wanted).await?;
        let definition = &wanted.definition;
        let consume = Consume { order: definition.order, max_in_flight: definition.max_in_flight };
        let broker = self.parts.brokers.of_queue(&self.parts.catalog.snapshot(), &definition.queue)?;
        let source = broker.consume(&definition.queue, consume).await?;
        let worker = Arc::new(self.worker(definition, broker.system(), source.clone(), plan));
        let mut crew = Crew::default();
        self.board.set(State::Running, definition.version, None, &*self.parts.clock);
        tracing::info!(subscription = %self.name, version = definition.version.map(tracing::field::display), "the subscription runs");
        let ended = loop {
            crew.resize(wanted.workers(), &worker);
            tokio::select! {
                Some(failed) = crew.failed() => break Err(failed),
                changed = self.wanted.changed() => {
                    let next = if changed.is_ok() { self.next_wanted() } else { None };
                    let Some(next) = next.filter(|next| wanted.runs_on_as(next)) else { break Ok(()) };
                    match self.plan(&next).await {
                        Ok(plan) => worker.plan.store(Arc::new(plan)),
                        Err(error) => break Err(error),
                    }
                    self.board.set(State::Running, next.definition.version, None, &*self.parts.clock);
                    tracing::info!(subscription = %self.name, version = next.definition.version.map(tracing::field::display), "the subscription changed");
                    wanted = next;
                }
            }
        };
        crew.drain().await;
        source.close();
        ended
    }

    fn worker(
        &self,
        definition: &Subscription,
        system: &'static str,
        source: Arc<dyn Source>,
        plan: Plan,
    ) -> Worker {
        let parts = &self.parts;
        Worker {
            name: self.name.clone(),
            queue: definition.queue.clone(),
            source,
            ledger: parts.ledger.clone(),
            publisher: Publisher {
                catalog: parts.catalog.clone(),
                brokers: parts.brokers.clone(),
                queue: definition.queue.clone(),
                ledger: parts.ledger.clone(),
                runtime: tokio::runtime::Handle::current(),
                sent: parts.sent.clone(),
            },
            clock: parts.clock.clone(),
            plan: ArcSwap::from_pointee(plan),
            meters: Meters::new(
                parts.subscriptions.label(&self.name),
                parts.queues.label(&definition.queue),
                [parts.timed.label(&self.name), parts.timed_queues.label(&definition.queue)],
                system,
            ),
            tracer: parts.tracer.clone(),
            system,
            board: self.board.clone(),
            alone: RwLock::new(()),
        }
    }

    async fn plan(&self, wanted: &Wanted) -> Result<Plan, Error> {
        let definition = wanted.definition.clone();
        let handler = match definition.handled_by()? {
            HandledBy::Plugin { version, .. } => self.plugin(&definition, version).await?,
            HandledBy::Forward(forward) => Arc::new(Forwarder {
                topic: forward.topic.clone(),
                catalog: self.parts.catalog.clone(),
                brokers: self.parts.brokers.clone(),
                ledger: self.parts.ledger.clone(),
                runtime: tokio::runtime::Handle::current(),
            }),
        };
        let (name, outside) = (self.name.clone(), self.parts.outside.clone());
        Ok(Plan { name, definition, handler, outside, max_age: wanted.max_age })
    }

    async fn plugin(
        &self,
        definition: &Arc<Subscription>,
        version: Digest,
    ) -> Result<Arc<dyn Handler>, Error> {
        let wasm = self.parts.catalog.plugin_file(&version);
        let (plugins, name, definition) = (self.parts.plugins.clone(), self.name.clone(), definition.clone());
        let loading = definition.clone();
        let load = move || plugins.handler(&name, &loading, &version, &wasm);
        let handler = {
            let _turn = self.parts.loading.acquire().await;
            blocking("loading a plugin", load).await??
        };
        let recorder = self.parts.recorders.of(&self.name);
        Ok(recorder.over(&definition, handler, self.parts.clock.clone()))
    }
}

/// The workers of one subscription.
#[derive(Default)]
struct Crew {
    tasks: JoinSet<Result<(), Error>>,
    stops: Vec<CancellationToken>,
}

impl Crew {
    fn resize(&mut self, workers: usize, worker: &Arc<Worker>) {
        for stop in self.stops.drain(workers.min(self.stops.len())..) {
            stop.cancel();
        }
        while self.stops.len() < workers {
            let stop = CancellationToken::new();
            self.tasks.spawn(worker.clone().run(stop.clone()));
            self.stops.push(stop);
        }
    }

    /// Waits for a worker that ends though nobody told it to.
    async fn failed(&mut self) -> Option<Error> {
        loop {
            match self.tasks.join_next().await? {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Some(error),
                Err(panic) => return Some(Error::Task { what: "a worker", why: panic.to_string() }),
            }
        }
    }

    /// Lets every worker finish the delivery that it has in hand; limits bound how long that takes.
    async fn drain(mut self) {
        for stop in &self.stops {
            stop.cancel();
        }
        while let Some(error) = self.failed().await {
            tracing::error!(%error, "a worker failed while it was stopping");
        }
    }
}
