//! Every state that one or two deliveries can come to, by every way: published, handled, written, settled,
//! lost, delivered again, replayed, cut off by a power cut before or after any of it. Breadth first; from
//! each state everything must still come to a right end.
//!
//! A state is reached again from the beginning by its way, with the real code. Two ways lead to the same
//! state if disk, queues, the broker elsewhere and what is under way are equal.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
};

use brolly_core::NewMessage;
use bytes::Bytes;

use crate::{
    act::{self, Letters},
    host::Host,
    life::{self, Simulation},
    names::{self, FAR, IN, ORDERED, REMOTE},
    world::World,
};

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// A worker takes a delivery and handles it, or falls asleep.
    Work {
        /// Which of two.
        worker: usize,
    },
    /// What is queued becomes durable.
    Write,
    /// What follows it runs, the settlement among it.
    Follow,
    /// Time passes until something is due.
    Due,
    /// The power is cut, and of what was not flushed nothing is left, or all.
    Cut { keeps: bool },
    /// An operator sends every dead letter back.
    Replay,
    /// A settlement gets lost on the way to the broker elsewhere.
    Lose,
    /// The broker elsewhere delivers a message again.
    Repeat,
}

impl Step {
    const ALL: [Self; 10] = [
        Self::Work { worker: 0 },
        Self::Work { worker: 1 },
        Self::Write,
        Self::Follow,
        Self::Due,
        Self::Cut { keeps: false },
        Self::Cut { keeps: true },
        Self::Replay,
        Self::Lose,
        Self::Repeat,
    ];

    /// How often a way may have it; the others end by themselves.
    fn most(self, elsewhere: bool) -> usize {
        match self {
            // What can go wrong elsewhere multiplies the states.
            Self::Cut { .. } => {
                if elsewhere {
                    1
                } else {
                    2
                }
            }
            Self::Replay => {
                if elsewhere {
                    0
                } else {
                    2
                }
            }
            Self::Lose | Self::Repeat => usize::from(elsewhere),
            Self::Work { .. } | Self::Write | Self::Follow | Self::Due => usize::MAX,
        }
    }
}

/// Which deliveries.
#[derive(Clone, Debug)]
pub struct Start {
    /// What becomes of each attempt at each message: a letter each, as in the scripts of lives.
    pub scripts: Vec<&'static str>,
    /// Whether the messages come from the broker elsewhere.
    pub elsewhere: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Explored {
    /// Different states.
    pub states: usize,
    /// The most steps to one of them.
    pub depth: usize,
    /// What does not hold, with the way to it.
    pub broken: Option<String>,
}

impl Simulation {
    /// Visits every state, up to so many.
    ///
    /// # Panics
    /// When the host cannot be started, or there are more.
    #[must_use]
    pub fn explore(&self, start: &Start, most: usize) -> Explored {
        let (mut known, mut ways) = (HashSet::new(), VecDeque::from([Vec::new()]));
        let mut explored = Explored { states: 0, depth: 0, broken: None };
        while let Some(way) = ways.pop_front() {
            for step in Step::ALL {
                let taken = way.iter().filter(|taken| **taken == step).count();
                if taken >= step.most(start.elsewhere) {
                    continue;
                }
                let mut way = way.clone();
                way.push(step);
                match self.within(0, |world| walk(world, start, &way, &known)) {
                    Ok(None) => {}
                    Ok(Some(state)) => {
                        known.insert(state);
                        explored.states += 1;
                        explored.depth = way.len();
                        ways.push_back(way);
                    }
                    Err(broken) => {
                        explored.broken = Some(format!("{broken}, after {way:?}"));
                        return explored;
                    }
                }
            }
            assert!(known.len() <= most, "more than {most} states");
        }
        explored
    }
}

/// Goes a way; answers with the state at its end if the last step led to a new one.
fn walk(world: &Rc<World>, start: &Start, way: &[Step], known: &HashSet<u64>) -> Result<Option<u64>, String> {
    world.quiet.set(true);
    life::start(world);
    let topic = if start.elsewhere { FAR } else { IN };
    let host = world.host.borrow().clone().ok_or("there is no host")?;
    let messages = start.scripts.iter().enumerate().map(|(number, script)| NewMessage {
        id: Some(format!("m{number}")),
        key: "k1".to_owned(),
        payload: Bytes::from_static(script.as_bytes()),
        ..NewMessage::default()
    });
    act::publish(world, &host, topic, messages.collect());
    drop(host);
    let (mut since_write, mut unfollowed) = (Vec::new(), 0_u32);
    for (number, step) in way.iter().enumerate() {
        let moved = take(world, start, *step);
        if !moved && number + 1 == way.len() {
            return Ok(None);
        }
        match step {
            Step::Write => {
                since_write.clear();
                unfollowed += 1;
            }
            Step::Follow => unfollowed = 0,
            Step::Cut { .. } => (since_write, unfollowed) = (Vec::new(), 0),
            other => since_write.push(*other),
        }
        if let Some(broken) = world.model.borrow_mut().broken.take() {
            return Err(broken);
        }
    }
    let limited = Step::ALL.into_iter().filter(|step| step.most(start.elsewhere) < usize::MAX);
    let taken: Vec<usize> = limited.map(|step| way.iter().filter(|taken| **taken == step).count()).collect();
    let state = fingerprint(world, &taken, &since_write, unfollowed);
    if known.contains(&state) {
        return Ok(None);
    }
    life::end(world)?;
    world.pending.borrow_mut().clear();
    let broken = world.model.borrow_mut().broken.take();
    broken.map_or(Ok(Some(state)), Err)
}

/// Takes a step; answers whether it did anything.
fn take(world: &World, start: &Start, step: Step) -> bool {
    if let Step::Cut { keeps } = step {
        if keeps && world.disk.borrow().unsynced() == 0 {
            return false;
        }
        world.cut_keeping(if keeps { usize::MAX } else { 0 });
        life::go_on(world);
        return true;
    }
    let host: Option<Rc<Host>> = world.host.borrow().clone();
    let Some(host) = host else { return false };
    let host = &*host;
    let subscription = if start.elsewhere { REMOTE } else { ORDERED };
    match step {
        Step::Work { worker } => host.work(world, subscription, worker),
        Step::Write => host.steps.borrow_mut().write(),
        Step::Follow => {
            let mut followed = false;
            while host.steps.borrow_mut().follow() {
                followed = true;
            }
            act::answer(world) || followed
        }
        Step::Due => {
            let due = [host.embedded.release_due(), world.far.release_due()].into_iter().flatten().min();
            if let Some(due) = due {
                world.clock.until(due);
                host.embedded.release_due();
                world.far.release_due();
            }
            due.is_some()
        }
        Step::Cut { .. } => false,
        Step::Replay => act::letters(world, host, Letters::Replay, subscription, |_| true),
        Step::Lose => {
            world.far.lose(1);
            true
        }
        Step::Repeat => {
            world.far.repeat(0);
            true
        }
    }
}

/// What may still happen, `taken`, is part of a state.
fn fingerprint(world: &World, taken: &[usize], since_write: &[Step], unfollowed: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.disk.borrow().fingerprint(&mut hasher);
    world.far.fingerprint(&mut hasher);
    world.model.borrow().fingerprint(&mut hasher);
    (taken, since_write, unfollowed, world.pending.borrow().len()).hash(&mut hasher);
    if let Some(host) = world.host.borrow().as_ref() {
        let counts = host.drive_nothing(host.handle.counts(&names::name(ORDERED)));
        format!("{counts:?}").hash(&mut hasher);
    }
    hasher.finish()
}
