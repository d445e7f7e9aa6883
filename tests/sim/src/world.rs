//! One simulated life of a host: what is going on, and who may interrupt whom. The code under test comes
//! back here ([`meanwhile`], [`handling`]) where in the real world others would go on beside it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    path::PathBuf,
    rc::{Rc, Weak},
    sync::Arc,
};

use brolly_alerts::Alerts;
use brolly_core::{Call, Message};

use crate::{
    act::Action,
    disk::{Disk, Rows},
    far::Far,
    host::{Host, Pending},
    model::Model,
    names,
    script::Act,
    time::Time,
    trace::Trace,
};

thread_local! {
    static WORLD: RefCell<Weak<World>> = const { RefCell::new(Weak::new()) };
}

/// Actions that may lie inside of each other.
const DEPTH: u32 = 3;

/// An attempt that lost so many races runs alone, and no other of its subscription may begin.
const RACES: u32 = 3;

/// Everything of one life.
pub(crate) struct World {
    pub rng: RefCell<fastrand::Rng>,
    pub clock: Arc<Time>,
    pub far: Arc<Far>,
    pub disk: RefCell<Arc<Disk>>,
    pub dir: PathBuf,
    pub alerts: Arc<Alerts>,
    /// The host that runs; none while it is down.
    pub host: RefCell<Option<Rc<Host>>>,
    /// Calls that wait for their answer.
    pub pending: RefCell<Vec<Pending>>,
    pub model: RefCell<Model>,
    pub trace: RefCell<Trace>,
    /// What the power cut left, if it is out.
    pub left: RefCell<Option<Rows>>,
    /// Nothing is interrupted any more.
    pub quiet: Cell<bool>,
    depth: Cell<u32>,
    /// How likely each action is in this life.
    pub likely: Vec<(Action, u32)>,
    /// The deliveries that are being handled, the innermost last.
    stack: RefCell<Vec<Handling>>,
    /// Every delivery that a worker has in hand.
    in_hand: RefCell<BTreeSet<(String, String, String)>>,
}

/// A delivery that is being handled.
struct Handling {
    subscription: &'static str,
    /// Once its handler was called: which delivery it is.
    delivery: Option<(String, String, String)>,
    calls: u32,
}

impl World {
    pub(crate) fn new(seed: u64, dir: PathBuf, alerts: Arc<Alerts>, rows: Rows) -> Rc<Self> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let clock = Arc::new(Time::default());
        let likely = Action::likely(&mut rng);
        let world = Rc::new(Self {
            far: Far::new(clock.clone()),
            clock,
            disk: RefCell::new(Disk::new(rows)),
            dir,
            alerts,
            host: RefCell::default(),
            pending: RefCell::default(),
            model: RefCell::default(),
            trace: RefCell::default(),
            left: RefCell::default(),
            quiet: Cell::new(false),
            depth: Cell::new(0),
            likely,
            stack: RefCell::default(),
            in_hand: RefCell::default(),
            rng: RefCell::new(rng),
        });
        WORLD.with(|current| *current.borrow_mut() = Rc::downgrade(&world));
        world
    }

    /// Whether the power is out: whatever runs, runs into the void.
    pub(crate) fn is_down(&self) -> bool {
        self.left.borrow().is_some()
    }

    /// Cuts the power.
    pub(crate) fn cut(&self) {
        let unsynced = self.disk.borrow().unsynced();
        let kept = self.rng.borrow_mut().usize(..=unsynced);
        self.cut_keeping(kept);
    }

    /// Cuts the power; so many batches that were not flushed are left.
    pub(crate) fn cut_keeping(&self, kept: usize) {
        if self.is_down() {
            return;
        }
        let disk = self.disk.borrow().clone();
        self.say(|| format!("power cut, {kept} of {} batches kept", disk.unsynced()));
        *self.left.borrow_mut() = Some(disk.cut(kept));
    }

    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        self.trace.borrow_mut().say(self.depth.get(), line);
    }

    /// Something that must hold does not.
    pub(crate) fn broken(&self, what: String) {
        self.say(|| format!("BROKEN: {what}"));
        self.model.borrow_mut().broken.get_or_insert(what);
    }

    /// Has a worker handle one delivery; answers whether there was one.
    pub(crate) fn handle_one(&self, host: &Host, subscription: &'static str) -> bool {
        let crew = host.crew(subscription);
        let Some(crew) = crew else { return false };
        self.stack.borrow_mut().push(Handling { subscription, delivery: None, calls: 0 });
        let stepped = crew.stepped.step();
        if let Some(Handling { delivery: Some(delivery), .. }) = self.stack.borrow_mut().pop() {
            self.in_hand.borrow_mut().remove(&delivery);
        }
        match stepped {
            Ok(handled) => handled,
            Err(error) => {
                if !self.is_down() && host.store.is_failed().is_none() {
                    self.broken(format!("the worker of {subscription} ended: {error}"));
                }
                false
            }
        }
    }

    /// Whether a worker of the subscription may begin beside what is being handled.
    pub(crate) fn may_begin(&self, subscription: &str) -> bool {
        let stack = self.stack.borrow();
        let ours = stack.iter().filter(|handling| handling.subscription == subscription);
        // One that would run alone next time loses no race any more if others lie beneath it: it would wait for them, and
        // here they wait for it.
        !ours
            .enumerate()
            .any(|(beneath, handling)| handling.calls > RACES || (handling.calls == RACES && beneath > 0))
    }

    /// Whether a worker has a delivery of this message in hand.
    pub(crate) fn is_in_hand(&self, message: &Message) -> bool {
        let in_hand = self.in_hand.borrow();
        in_hand.iter().any(|(_, topic, id)| topic == message.topic.as_str() && *id == message.id)
    }

    pub(crate) fn is_handling(&self, subscription: &str) -> bool {
        self.stack.borrow().iter().any(|handling| handling.subscription == subscription)
    }

    /// Does something that nobody interrupts.
    pub(crate) fn uninterrupted<T>(&self, work: impl FnOnce() -> T) -> T {
        let depth = self.depth.replace(DEPTH);
        let done = work();
        self.depth.set(depth);
        done
    }
}

/// Does something of the world that runs, if one does, and nobody interrupts it.
pub(crate) fn uninterrupted<T>(work: impl FnOnce() -> T) -> T {
    match current() {
        Some(world) => world.uninterrupted(work),
        None => work(),
    }
}

fn current() -> Option<Rc<World>> {
    WORLD.with(|world| world.borrow().upgrade())
}

/// Others go on, if the seed says so.
pub(crate) fn meanwhile() {
    let Some(world) = current() else { return };
    let depth = world.depth.get();
    if world.quiet.get() || depth >= DEPTH || world.host.borrow().is_none() {
        return;
    }
    world.depth.set(depth + 1);
    let actions = match world.rng.borrow_mut().u32(..8) {
        0 | 1 => 1,
        2 => 3,
        _ => 0,
    };
    for _ in 0..actions {
        if !world.is_down() {
            crate::act::any(&world);
        }
    }
    world.depth.set(depth);
}

/// A handler is called: checks that it may be; answers how often it was before for this delivery.
pub(crate) fn handling(call: &Call<'_>) -> usize {
    let Some(world) = current() else { return 0 };
    let message = call.message;
    let delivery = (call.subscription.to_string(), message.topic.to_string(), message.id.clone());
    if let Some(top) = world.stack.borrow_mut().last_mut() {
        top.calls += 1;
        if top.calls == 1 {
            top.delivery = Some(delivery.clone());
            if !world.in_hand.borrow_mut().insert(delivery.clone()) {
                world.broken(format!("{delivery:?} is handled twice at the same time"));
            }
        }
    }
    if !world.is_down() {
        let host = world.host.borrow().clone();
        let checked = host.map_or(Ok(()), |host| world.model.borrow().may_handle(&host, call));
        if let Err(broken) = checked {
            world.broken(broken);
        }
    }
    world.model.borrow_mut().called(delivery)
}

/// Whether the end has come: then every script comes to its end, too.
pub(crate) fn is_quiet() -> bool {
    current().is_some_and(|world| world.quiet.get())
}

/// Notes what an attempt does.
pub(crate) fn acted(call: &Call<'_>, act: Act) {
    let Some(world) = current() else { return };
    let delivery = (call.subscription.to_string(), call.message.topic.to_string(), call.message.id.clone());
    world.model.borrow_mut().acted(delivery, act);
    let id = if call.message.topic.as_str() == names::CHILD { "(child)" } else { &call.message.id };
    world.say(|| format!("{} handles {id} attempt {}: {act:?}", call.subscription, call.attempt));
}
