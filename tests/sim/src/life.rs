//! A life from its beginning to its end: some hundred events, then everything is brought to rest, and what
//! is left is compared with what must be.

use std::{rc::Rc, sync::Arc};

use brolly_alerts::Alerts;
use brolly_core::{Clock, Code, NewMessage};
use brolly_dispatch::{Error, TraceContext};
use brolly_store::{Store, keys};

use crate::{
    act,
    disk::{Disk, Rows},
    host::Host,
    names::{self, CHILD, CHILDREN, EMBEDDED, IN, LOOSE, ORDERED, REMOTE, SUBSCRIPTIONS, WORKERS},
    time::Time,
    world::World,
};

/// Rounds in which everything must come to rest.
const ROUNDS: usize = 20_000;

/// Where lives begin.
pub struct Simulation {
    dir: tempfile::TempDir,
    alerts: Arc<Alerts>,
    genesis: Rows,
}

/// What a life came to.
#[derive(Debug)]
pub struct Life {
    /// What did not hold, if anything.
    pub broken: Option<String>,
    /// What happened, in its order.
    pub trace: Vec<String>,
    /// Power cuts.
    pub cuts: u64,
    /// Calls of handlers.
    pub handled: u64,
}

impl Simulation {
    /// Prepares what all lives begin with.
    ///
    /// # Panics
    /// When the temporary folder cannot be used.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::in_steps(dir.path().join("alerts"), Disk::new(Rows::new())).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(Time::default());
        let alerts = Arc::new(Alerts::open(store, "sim", clock).unwrap());
        let mut simulation = Self { dir, alerts, genesis: Rows::new() };
        simulation.genesis = simulation.within(0, |world| Host::genesis(world));
        simulation
    }

    pub(crate) fn within<T>(&self, seed: u64, run: impl FnOnce(&Rc<World>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let guard = runtime.enter();
        // What the code under test draws.
        fastrand::seed(seed);
        let world = World::new(seed, self.dir.path().to_owned(), self.alerts.clone(), self.genesis.clone());
        let result = run(&world);
        drop(world);
        drop(guard);
        runtime.shutdown_background();
        result
    }

    /// Lives the life of a seed, of so many events.
    ///
    /// # Panics
    /// When the host cannot be started, or a call of it never ends.
    #[must_use]
    pub fn live(&self, seed: u64, events: u32) -> Life {
        self.within(seed, |world| {
            start(world);
            for _ in 0..events {
                if world.model.borrow().broken.is_some() {
                    break;
                }
                act::any(world);
                go_on(world);
            }
            let broken = world.model.borrow().broken.is_some();
            if !broken && let Err(broken) = end(world) {
                world.broken(broken);
            }
            world.pending.borrow_mut().clear();
            let host = world.host.borrow_mut().take();
            drop(host);
            let mut model = world.model.borrow_mut();
            let trace = world.trace.borrow_mut().take();
            Life { broken: model.broken.take(), trace, cuts: model.cuts, handled: model.handled() }
        })
    }
}

impl Default for Simulation {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn start(world: &World) {
    let host = Host::start(world);
    *world.host.borrow_mut() = Some(host.clone());
    let checked = host.check_counts(world).and_then(|()| world.model.borrow().check_answered(&host));
    if let Err(broken) = checked {
        world.broken(format!("after a start: {broken}"));
    }
}

/// After a power cut, or when the store has failed, the host starts anew on what is left.
pub(crate) fn go_on(world: &World) {
    let host = world.host.borrow().clone();
    if host.is_some_and(|host| host.store.is_failed().is_some()) {
        world.cut();
    }
    let Some(left) = world.left.borrow_mut().take() else { return };
    world.model.borrow_mut().cuts += 1;
    world.pending.borrow_mut().clear();
    let host = world.host.borrow_mut().take();
    drop(host);
    world.far.cut();
    *world.disk.borrow_mut() = Disk::new(left);
    start(world);
}

/// Lets everything come to its end, and looks at what is left.
pub(crate) fn end(world: &World) -> Result<(), String> {
    world.quiet.set(true);
    if world.disk.borrow().is_broken() {
        world.cut();
        go_on(world);
    }
    let host = world.host.borrow().clone().ok_or("there is no host")?;
    for subscription in SUBSCRIPTIONS {
        if host.is_paused(subscription) {
            host.change(subscription, |_| names::subscription(subscription, 1, names::retry(1)));
            host.open_crew(subscription);
        }
    }
    // A subscription that rests holds up nobody else.
    host.close_crew(ORDERED);
    rest(world, &host, &[LOOSE, CHILDREN, REMOTE])?;
    host.open_crew(ORDERED);
    rest(world, &host, &SUBSCRIPTIONS)?;
    if !world.pending.borrow().is_empty() {
        let waiting: Vec<_> = world.pending.borrow().iter().map(|pending| pending.what.clone()).collect();
        return Err(format!("nobody answers: {waiting:?}"));
    }
    host.check_counts(world)?;
    world.model.borrow().check_end(&host)?;
    for (topic, queue) in [(CHILD, CHILDREN), (IN, ORDERED)] {
        check_room(&host, topic, queue)?;
    }
    Ok(())
}

/// Everybody works until there is nothing left to do.
fn rest(world: &World, host: &Host, subscriptions: &[&'static str]) -> Result<(), String> {
    let mut idle = false;
    for _ in 0..ROUNDS {
        let mut busy = false;
        for subscription in subscriptions {
            for worker in 0..WORKERS {
                busy |= host.work(world, subscription, worker);
            }
        }
        busy |= host.flush();
        busy |= act::answer(world);
        if world.model.borrow().broken.is_some() {
            return Ok(());
        }
        if busy {
            idle = false;
            continue;
        }
        let due = [host.embedded.release_due(), world.far.release_due()];
        match due.into_iter().flatten().min() {
            Some(due) => world.clock.until(due),
            // Whoever was woken just now has had a turn.
            None if idle => return at_rest(world, subscriptions),
            None => idle = true,
        }
    }
    Err("it never comes to rest".to_owned())
}

fn at_rest(world: &World, subscriptions: &[&'static str]) -> Result<(), String> {
    let disk = world.disk.borrow().clone();
    for subscription in subscriptions {
        let held = match EMBEDDED.contains(subscription) {
            true => disk.len(&keys::queue_prefix(&names::name(subscription))),
            false => world.far.held(),
        };
        if held > 0 {
            return Err(format!("the workers of {subscription} sleep, and its queue holds {held}"));
        }
    }
    Ok(())
}

/// An empty queue takes as many as it may hold, and not one more: nothing of its room was lost.
fn check_room(host: &Host, topic: &str, queue: &'static str) -> Result<(), String> {
    for subscription in SUBSCRIPTIONS {
        host.close_crew(subscription);
    }
    let name = names::name(topic);
    for number in 0..=names::room(queue) {
        let message = NewMessage { id: Some(format!("room-{number}")), ..NewMessage::default() };
        let answered = host.drive(host.handle.publish(&name, vec![message], &TraceContext::new()));
        let full = match answered {
            Ok(_) => false,
            Err(Error::Refused(refusal)) if refusal.code == Code::QueueFull => true,
            Err(error) => return Err(format!("an empty queue is not filled: {error}")),
        };
        if full != (number == names::room(queue)) {
            return Err(format!("the empty queue {queue} takes {number} of {} messages", names::room(queue)));
        }
    }
    Ok(())
}
