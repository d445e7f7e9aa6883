//! Keeps one subscription as it is wanted: starts it, changes it while it runs, tries again when it
//! fails, and lets it finish what it has in hand before it stops.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ExponentialBuilder};
use brolly_alerts::Alerts;
use brolly_capture::Recorders;
use brolly_catalog::Catalog;
use brolly_core::{
    Clock, Consume, Digest, Forward, HandledBy, Handler, Judgement, Name, Outside, Plugins, Rate, Source,
    Subscription,
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
    rates::Rates,
    rollout::{Hand, Rollout},
    shipping::Shipping,
    status::{Board, State},
    tenure::Tenure,
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
    /// Rates that subscriptions share.
    pub rates: Rates,
    /// Turns at loading a plugin.
    pub loading: Semaphore,
    pub tracer: Option<Tracer>,
}

/// A subscription as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub definition: Arc<Subscription>,
    pub max_age: Option<Duration>,
    /// The rate that holds for it, which others that share its name may set.
    pub rate: Option<Rate>,
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
                self.write_versions();
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
        let mut comparing = JoinSet::new();
        let plan = self.plan(&wanted, &mut comparing).await?;
        let definition = &wanted.definition;
        let consume = Consume { order: definition.order, max_in_flight: definition.max_in_flight };
        let broker = self.parts.brokers.of_queue(&self.parts.catalog.snapshot(), &definition.queue)?;
        let source = broker.consume(&definition.queue, consume).await?;
        let worker = Arc::new(self.worker(definition, broker.system(), source.clone(), plan));
        let mut crew = Crew::default();
        self.board.set(State::Running, definition.version, None, &*self.parts.clock);
        tracing::info!(subscription = %self.name, version = definition.version.map(tracing::field::display), "the subscription runs");
        let mut judge = Judge::default();
        let ended = loop {
            crew.resize(wanted.workers(), &worker);
            let plan = worker.plan.load_full();
            tokio::select! {
                Some(failed) = crew.failed() => break Err(failed),
                finding = judge.next(&plan) => self.act(&plan, finding).await,
                () = tokio::time::sleep(self.writing()) => self.write_versions(),
                changed = self.wanted.changed() => {
                    let next = if changed.is_ok() { self.next_wanted() } else { None };
                    let Some(next) = next.filter(|next| wanted.runs_on_as(next)) else { break Ok(()) };
                    match self.plan(&next, &mut comparing).await {
                        Ok(next) => {
                            worker.plan.store(Arc::new(next));
                            plan.tenure.resume();
                        }
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
        drop(worker);
        while comparing.join_next().await.is_some() {}
        self.write_versions();
        ended
    }

    /// How long until the numbers of the versions are written down again.
    fn writing(&self) -> Duration {
        let changing = self.board.versions.is_changing(self.parts.clock.now());
        if changing { Duration::from_secs(1) } else { Duration::from_secs(10) }
    }

    fn write_versions(&self) {
        let (ledger, now) = (&self.parts.ledger, self.parts.clock.now());
        if let Err(error) = self.board.versions.write(&self.name, ledger, now) {
            tracing::error!(subscription = %self.name, %error, "what its versions did could not be written down");
        }
    }

    /// Does what the guard or the rules of a rollout have found.
    async fn act(&self, plan: &Plan, finding: Finding) {
        let door = Shipping { name: &self.name, parts: &self.parts, board: &self.board, author: None };
        let done = match &finding {
            Finding::Tripped(why) => {
                tracing::warn!(subscription = %self.name, version = plan.definition.version.map(tracing::field::display), why, "the version faults too often: the host goes back to the one before");
                door.go_back(plan.definition.version, None, Some(why.clone())).await
            }
            Finding::Judged(Judgement::Promote) => {
                tracing::info!(subscription = %self.name, "the candidate has kept every rule and takes over");
                door.end_rollout(true, Some("it has kept every rule (promote_after)".to_owned())).await
            }
            Finding::Judged(Judgement::Abandon(why)) => {
                tracing::warn!(subscription = %self.name, why, "the candidate is abandoned");
                door.end_rollout(false, Some(why.clone())).await
            }
            Finding::Judged(Judgement::Wait) => return,
        };
        if let Err(error) = done {
            tracing::error!(subscription = %self.name, %error, ?finding, "the version of a subscription could not be changed");
            plan.tenure.resume();
        }
    }

    pub(crate) fn worker(
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

    pub(crate) async fn plan(&self, wanted: &Wanted, comparing: &mut JoinSet<()>) -> Result<Plan, Error> {
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
        let (name, max_age) = (self.name.clone(), wanted.max_age);
        let place = (&name, &*self.parts.ledger, self.parts.clock.now());
        let tenure = self.board.versions.tenure(place, &definition, &handler)?;
        let rollout = self.rollout(&definition, handler.clone(), comparing).await?;
        let pace = wanted.rate.as_ref().map(|rate| self.parts.rates.of(rate));
        let outside = self.parts.outside.clone();
        Ok(Plan { name, definition, handler, outside, tenure, rollout, pace, max_age })
    }

    /// The candidate beside the handler, if one is wanted; what compares the two is added to `comparing`.
    async fn rollout(
        &self,
        definition: &Arc<Subscription>,
        handler: Arc<dyn Handler>,
        comparing: &mut JoinSet<()>,
    ) -> Result<Option<Arc<Rollout>>, Error> {
        let (parts, now) = (&self.parts, self.parts.clock.now());
        let place = (&self.name, &*parts.ledger, now);
        let (Some(wanted), Some(candidate)) = (&definition.rollout, definition.candidate()) else {
            self.board.versions.end_rollout(place, definition, None)?;
            return Ok(None);
        };
        let still = || {
            let snapshot = parts.catalog.snapshot();
            let present = snapshot.subscriptions.get(&self.name).map(|entry| &entry.value);
            present.is_some_and(|it| it.rollout == definition.rollout && it.version == definition.version)
        };
        let of = (wanted, definition.version);
        let Some(report) = self.board.versions.report(place, of, still)? else { return Ok(None) };
        let version = candidate.version;
        let loaded = self.plugin(&Arc::new(candidate), wanted.version).await?;
        let running = Hand { handler, version: definition.version };
        let hands = [running, Hand { handler: loaded, version }];
        let of = (self.name.clone(), parts.clone());
        let (rollout, comparer) = Rollout::new(wanted.clone(), hands, report, of);
        comparing.spawn_blocking(move || comparer.run());
        Ok(Some(rollout))
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

/// What has been found out about the versions of a plan.
#[derive(Debug)]
enum Finding {
    /// The guard has seen too many faults, for this reason.
    Tripped(String),
    /// The rules of a rollout have said something.
    Judged(Judgement),
}

/// Waits for findings, each once.
#[derive(Default)]
struct Judge {
    tripped: Weak<Tenure>,
    judged: Weak<Rollout>,
}

impl Judge {
    async fn next(&mut self, plan: &Plan) -> Finding {
        let guarded = !std::ptr::eq(self.tripped.as_ptr(), Arc::as_ptr(&plan.tenure));
        let rollout =
            plan.rollout.as_ref().filter(|rollout| !std::ptr::eq(self.judged.as_ptr(), Arc::as_ptr(rollout)));
        let judged = async {
            match rollout {
                Some(rollout) => rollout.judged().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            why = plan.tenure.tripped(), if guarded => {
                self.tripped = Arc::downgrade(&plan.tenure);
                Finding::Tripped(why)
            }
            judgement = judged => {
                self.judged = rollout.map(Arc::downgrade).unwrap_or_default();
                Finding::Judged(judgement)
            }
        }
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
