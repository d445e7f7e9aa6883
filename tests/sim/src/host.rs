//! The host of a world: the real store, ledger, catalog, embedded broker and workers, over a disk and a
//! clock that are not. Made anew after each power cut.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use brolly_catalog::{Catalog, Precondition};
use brolly_core::{BrokerDefinition, Clock, Name, Nowhere, Queue, Route, Subscription, Topic};
use brolly_dispatch::{Dispatch, Error, Handle, Rooms, Stepped};
use brolly_embedded::Embedded;
use brolly_ledger::Ledger;
use brolly_store::{Messages, Steps, Store, keys};

use crate::{
    disk::{Disk, Rows},
    far::Way,
    names,
    script::Scripts,
    world::{self, World},
};

/// A host that runs.
pub(crate) struct Host {
    pub store: Store,
    pub steps: RefCell<Steps>,
    pub messages: Messages,
    pub ledger: Arc<Ledger>,
    pub embedded: Embedded,
    pub handle: Handle,
    crews: RefCell<BTreeMap<&'static str, Rc<Crew>>>,
}

/// The workers of a subscription.
pub(crate) struct Crew {
    pub stepped: Rc<Stepped>,
    workers: Vec<Worker>,
}

struct Worker {
    /// Waits for a delivery; none while it is awake.
    waiting: RefCell<Option<Ready>>,
    busy: Cell<bool>,
}

type Ready = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

/// A call whose answer is not there yet.
pub(crate) struct Pending {
    pub what: String,
    pub call: Pin<Box<dyn Future<Output = Answer>>>,
}

/// What is done with an answer.
pub(crate) type Answer = Box<dyn FnOnce(&World)>;

/// Polls once; nobody is woken: whoever waits is asked again and again.
pub(crate) fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T>>>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

impl Host {
    /// Starts on what is on the disk.
    pub(crate) fn start(world: &World) -> Rc<Self> {
        let disk = world.disk.borrow().clone();
        let host = Self::open(world, disk);
        for subscription in names::SUBSCRIPTIONS {
            if !host.is_paused(subscription) {
                host.open_crew(subscription);
            }
        }
        host
    }

    fn open(world: &World, disk: Arc<Disk>) -> Rc<Self> {
        let clock: Arc<dyn Clock> = world.clock.clone();
        let (store, steps) = Store::in_steps(world.dir.join("store"), disk).unwrap();
        let messages = Messages::open(&store).unwrap();
        let catalog = Catalog::open(store.clone(), world.dir.join("plugins"), clock.clone()).unwrap();
        let ledger = Arc::new(Ledger::open(store.clone(), messages.clone()).unwrap());
        let config = brolly_embedded::Config::default();
        let embedded = Embedded::open(store.clone(), messages.clone(), clock.clone(), config).unwrap();
        let rooms = Rooms {
            alerts: world.alerts.clone(),
            catalog: Arc::new(catalog),
            ledger: ledger.clone(),
            kinds: Arc::new(Way(world.far.clone())),
            embedded: Arc::new(embedded.clone()),
            plugins: Arc::new(Scripts),
            outside: Arc::new(Nowhere),
            clock,
        };
        let dispatch = Dispatch::new(rooms, brolly_dispatch::Config::default());
        let handle = dispatch.handle();
        let crews = RefCell::default();
        let host = Self { store, steps: RefCell::new(steps), messages, ledger, embedded, handle, crews };
        host.drive(dispatch.prepare()).unwrap();
        Rc::new(host)
    }

    /// What a new data directory becomes once everything is defined.
    pub(crate) fn genesis(world: &World) -> Rows {
        let disk = world.disk.borrow().clone();
        let host = Self::open(world, disk.clone());
        let put = Precondition::None;
        let handle = &host.handle;
        host.drive(handle.put::<BrokerDefinition>(&names::name("elsewhere"), names::far_broker(), put))
            .unwrap();
        for topic in [names::IN, names::CHILD, names::FAR] {
            host.drive(handle.put::<Topic>(&names::name(topic), names::topic(topic), put)).unwrap();
        }
        for queue in names::SUBSCRIPTIONS {
            host.drive(handle.put::<Queue>(&names::name(queue), names::queue(queue), put)).unwrap();
        }
        for (topic, queue) in names::ROUTES {
            let route = names::name(&format!("{topic}-{queue}"));
            host.drive(handle.put::<Route>(&route, names::route(topic, queue), put)).unwrap();
        }
        for version in names::VERSIONS {
            host.drive(handle.upload(&names::name("script"), vec![version], None)).unwrap();
        }
        for name in names::SUBSCRIPTIONS {
            host.change(name, |_| names::subscription(name, 1, names::retry(1)));
        }
        host.flush();
        disk.cut(0)
    }

    pub(crate) fn definition(&self, subscription: &str) -> Option<Arc<Subscription>> {
        Some(self.handle.get::<Subscription>(&names::name(subscription)).ok()?.value)
    }

    pub(crate) fn is_paused(&self, subscription: &str) -> bool {
        self.definition(subscription).is_some_and(|definition| definition.is_paused())
    }

    /// Changes a definition.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(Option<&Subscription>) -> Subscription) {
        let changed = change(self.definition(name).as_deref());
        let name: Name = names::name(name);
        self.drive(self.handle.put_subscription(&name, changed, Precondition::None)).unwrap();
    }

    pub(crate) fn crew(&self, subscription: &str) -> Option<Rc<Crew>> {
        self.crews.borrow().get(subscription).cloned()
    }

    pub(crate) fn open_crew(&self, subscription: &'static str) {
        let stepped = self.drive(self.handle.stepped(&names::name(subscription))).unwrap();
        let worker = || Worker { waiting: RefCell::default(), busy: Cell::new(false) };
        let workers = std::iter::repeat_with(worker).take(names::WORKERS).collect();
        let crew = Crew { stepped: Rc::new(stepped), workers };
        self.crews.borrow_mut().insert(subscription, Rc::new(crew));
    }

    pub(crate) fn close_crew(&self, subscription: &str) {
        let closed = self.crews.borrow_mut().remove(subscription);
        drop(closed);
    }

    /// Has the running workers take up a changed definition.
    pub(crate) fn follow_definition(&self, subscription: &str) {
        if let Some(crew) = self.crew(subscription) {
            self.drive(crew.stepped.follow(&self.handle)).unwrap();
        }
    }

    /// A step of one worker: it wakes up, or handles a delivery, or falls asleep. Answers whether it did
    /// anything.
    pub(crate) fn work(&self, world: &World, subscription: &'static str, worker: usize) -> bool {
        let Some(crew) = self.crew(subscription) else { return false };
        let Some(worker) = crew.workers.get(worker) else { return false };
        if worker.busy.get() || !world.may_begin(subscription) {
            return false;
        }
        if let Some(waiting) = &mut *worker.waiting.borrow_mut()
            && poll(waiting).is_none()
        {
            return false;
        }
        *worker.waiting.borrow_mut() = None;
        worker.busy.set(true);
        let handled = world.handle_one(self, subscription);
        worker.busy.set(false);
        if !handled {
            let stepped = crew.stepped.clone();
            let mut waiting: Ready = Box::pin(async move { stepped.ready().await });
            let ready = poll(&mut waiting).is_some();
            *worker.waiting.borrow_mut() = (!ready).then_some(waiting);
        }
        handled
    }

    /// Makes everything queued durable and runs what follows it.
    pub(crate) fn flush(&self) -> bool {
        let Ok(mut steps) = self.steps.try_borrow_mut() else { return false };
        let mut any = false;
        loop {
            let wrote = steps.write();
            let followed = steps.follow();
            if !wrote && !followed {
                return any;
            }
            any = true;
        }
    }

    /// Waits for something, while the store does its work and nobody else does anything.
    pub(crate) fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let began = Instant::now();
        world::uninterrupted(|| {
            loop {
                self.flush();
                if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    return done;
                }
                assert!(began.elapsed() < Duration::from_secs(60), "a call of the host never ends");
                std::thread::yield_now();
            }
        })
    }

    /// The answer to a question that needs nobody.
    pub(crate) fn drive_nothing<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    /// The counts of each queue of the host are those of its rows, while nothing is under way.
    pub(crate) fn check_counts(&self, world: &World) -> Result<(), String> {
        let disk = world.disk.borrow().clone();
        for queue in names::EMBEDDED {
            let name = names::name(queue);
            let counts = self.drive(self.handle.counts(&name)).map_err(|error| error.to_string())?;
            let held = [counts.ready, counts.in_flight, counts.delayed];
            let held: u64 = held.into_iter().flatten().sum();
            let rows = disk.len(&keys::queue_prefix(&name)) as u64;
            if held != rows {
                return Err(format!("the queue {queue} says that it holds {held}, and has {rows} rows"));
            }
            let dead = self.ledger.dead_letters().count(&name);
            let rows = disk.len(&keys::dead_letter_prefix(&name)) as u64;
            if dead != rows {
                return Err(format!("{queue} says that it has {dead} dead letters, and has {rows} rows"));
            }
        }
        Ok(())
    }
}
