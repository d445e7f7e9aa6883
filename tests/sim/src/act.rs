//! What can happen next in a world: workers, the disk, time, producers, operators, the far broker and the
//! power cut. Which of them does, and when, the seed says.

use std::time::Duration;

use brolly_core::{
    BrokerError, Clock as _, Code, Commit, Message, MessageId, Name, NewMessage, Refusal, Timestamp,
};
use brolly_dispatch::{Error, TraceContext};
use bytes::Bytes;

use crate::{
    disk::Failure,
    host::{Host, Pending, poll},
    model::Known,
    names::{self, CHILD, EMBEDDED, FAR, IN, LOOSE, REMOTE, SUBSCRIPTIONS, WORKERS},
    script::Act,
    world::World,
};

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Publish,
    PublishAgain,
    PublishChild,
    PublishFar,
    Work,
    Write,
    FailToWrite,
    Follow,
    Time,
    Due,
    Cut,
    Answer,
    Pause,
    Change,
    Replay,
    Discard,
    Edit,
    Forget,
    Lose,
    Repeat,
}

impl Action {
    /// How likely each is, about; of each life some kinds are left out, and others come often.
    const LIKELY: [(Self, u32); 20] = [
        (Self::Publish, 60),
        (Self::PublishAgain, 10),
        (Self::PublishChild, 6),
        (Self::PublishFar, 20),
        (Self::Work, 400),
        (Self::Write, 150),
        (Self::FailToWrite, 2),
        (Self::Follow, 150),
        (Self::Time, 60),
        (Self::Due, 60),
        (Self::Cut, 6),
        (Self::Answer, 40),
        (Self::Pause, 8),
        (Self::Change, 8),
        (Self::Replay, 20),
        (Self::Discard, 4),
        (Self::Edit, 6),
        (Self::Forget, 12),
        (Self::Lose, 10),
        (Self::Repeat, 10),
    ];

    pub(crate) fn likely(rng: &mut fastrand::Rng) -> Vec<(Self, u32)> {
        let varied = |(action, weight): (Self, u32)| {
            let vital = matches!(action, Self::Publish | Self::Work | Self::Write | Self::Follow | Self::Due);
            let factor = match rng.u32(..6) {
                0 if !vital => 0,
                1 => 4,
                _ => 2,
            };
            (action, weight * factor)
        };
        Self::LIKELY.into_iter().map(varied).collect()
    }
}

/// Has something happen.
pub(crate) fn any(world: &World) {
    let Some(host) = world.host.borrow().clone() else { return };
    let action = {
        let all: u32 = world.likely.iter().map(|(_, weight)| weight).sum();
        let mut at = world.rng.borrow_mut().u32(..all);
        let found = world.likely.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        found.map_or(Action::Work, |(action, _)| *action)
    };
    act(world, &host, action);
}

fn act(world: &World, host: &Host, action: Action) {
    match action {
        Action::Publish => publish_new(world, host, IN),
        Action::PublishFar => publish_new(world, host, FAR),
        Action::PublishAgain => publish_again(world, host),
        Action::PublishChild => publish_child(world, host),
        Action::Work => {
            let subscription = one_of(world, &SUBSCRIPTIONS);
            let worker = world.rng.borrow_mut().usize(..WORKERS);
            host.work(world, subscription, worker);
        }
        Action::Write => {
            if let Ok(mut steps) = host.steps.try_borrow_mut()
                && steps.write()
            {
                world.say(|| format!("{} commits are written", host.store.stats().commits));
            }
        }
        Action::FailToWrite => fail_to_write(world, host),
        Action::Follow => {
            if let Ok(mut steps) = host.steps.try_borrow_mut() {
                steps.follow();
            }
        }
        Action::Time => {
            let ms = world.rng.borrow_mut().u64(..400);
            world.clock.pass(Duration::from_millis(ms));
        }
        Action::Due => {
            host.embedded.release_due();
            world.far.release_due();
        }
        Action::Cut => world.cut(),
        Action::Answer => {
            answer(world);
        }
        Action::Pause => pause(world, host),
        Action::Change => change(world, host),
        Action::Replay => {
            let queue = one_of(world, &EMBEDDED);
            letters(world, host, Letters::Replay, queue, |world| world.rng.borrow_mut().bool());
        }
        Action::Discard => {
            let queue = one_of(world, &SUBSCRIPTIONS);
            letters(world, host, Letters::Discard, queue, |world| world.rng.borrow_mut().bool());
        }
        Action::Edit => edit(world, host),
        Action::Forget => forget(world, host),
        Action::Lose => world.far.lose(1),
        Action::Repeat => world.far.repeat(world.rng.borrow_mut().usize(..1_000)),
    }
}

fn one_of<'a, T: ?Sized>(world: &World, all: &[&'a T]) -> &'a T {
    all[world.rng.borrow_mut().usize(..all.len())]
}

/// Gives those who wait for an answer a chance to get it.
pub(crate) fn answer(world: &World) -> bool {
    let mut waiting = std::mem::take(&mut *world.pending.borrow_mut());
    let mut answered = Vec::new();
    waiting.retain_mut(|pending| match poll(&mut pending.call) {
        Some(answer) => {
            world.say(|| format!("{} is answered", pending.what));
            answered.push(answer);
            false
        }
        None => true,
    });
    let any = !answered.is_empty();
    answered.into_iter().for_each(|answer| answer(world));
    waiting.append(&mut world.pending.borrow_mut());
    *world.pending.borrow_mut() = waiting;
    any
}

fn ask(world: &World, mut pending: Pending) {
    world.say(|| pending.what.clone());
    match poll(&mut pending.call) {
        Some(answer) => answer(world),
        None => world.pending.borrow_mut().push(pending),
    }
}

fn publish_new(world: &World, host: &Host, topic: &'static str) {
    let mut messages = Vec::new();
    let count = world.rng.borrow_mut().usize(1..=3);
    for _ in 0..count {
        let number = world.model.borrow().messages.len() + messages.len();
        let mut rng = world.rng.borrow_mut();
        let key = ["k1", "k1", "k2", "k3", ""][rng.usize(..5)].to_owned();
        let rarely = |rng: &mut fastrand::Rng, ms| (rng.u8(..12) == 0).then_some(ms);
        messages.push(NewMessage {
            id: Some(format!("m{number}")),
            key,
            delay_ms: rarely(&mut rng, 300).filter(|_| topic == IN),
            expires_ms: rarely(&mut rng, 800).filter(|_| topic == IN),
            payload: Bytes::from(Act::script(&mut rng)),
            ..NewMessage::default()
        });
    }
    publish(world, host, topic, messages);
}

/// A producer that did not hear an answer, or does not listen.
fn publish_again(world: &World, host: &Host) {
    let known = {
        let model = world.model.borrow();
        let here: Vec<_> = model.messages.iter().filter(|((topic, _), _)| topic == IN).collect();
        let chosen = here.get(world.rng.borrow_mut().usize(..here.len().max(1)));
        chosen.map(|((_, id), known)| (id.clone(), known.key.clone()))
    };
    let Some((id, key)) = known else { return };
    let payload = Bytes::from(Act::script(&mut world.rng.borrow_mut()));
    publish(world, host, IN, vec![NewMessage { id: Some(id), key, payload, ..NewMessage::default() }]);
}

/// A producer that publishes under the very id that a handler will choose.
fn publish_child(world: &World, host: &Host) {
    let number = world.rng.borrow_mut().usize(..world.model.borrow().messages.len().max(1));
    let id = names::child_of(LOOSE, IN, &format!("m{number}"));
    let payload = Bytes::from_static(b"by a producer");
    publish(world, host, CHILD, vec![NewMessage { id: Some(id), payload, ..NewMessage::default() }]);
}

pub(crate) fn publish(world: &World, host: &Host, topic: &'static str, messages: Vec<NewMessage>) {
    let of = |message: &NewMessage| (topic.to_owned(), message.id.clone().unwrap_or_default());
    let ids: Vec<_> = messages.iter().map(of).collect();
    for message in &messages {
        let mut model = world.model.borrow_mut();
        let fresh = Known { key: message.key.clone(), ..Known::default() };
        let known = model.messages.entry(of(message)).or_insert(fresh);
        known.open += 1;
        known.delayed |= message.delay_ms.is_some();
    }
    let (handle, name) = (host.handle.clone(), names::name(topic));
    let what = format!(
        "publish to {topic}: {}",
        ids.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>().join(" ")
    );
    let call = async move {
        let answered = handle.publish(&name, messages, &TraceContext::new()).await;
        let answer: crate::host::Answer = Box::new(move |world: &World| published(world, &ids, &answered));
        answer
    };
    ask(world, Pending { what, call: Box::pin(call) });
}

fn published<T>(world: &World, ids: &[(String, String)], answered: &Result<Vec<T>, Error>) {
    let mut model = world.model.borrow_mut();
    for id in ids {
        let Some(known) = model.messages.get_mut(id) else { continue };
        match answered {
            Ok(_) => {
                known.answered = true;
                known.open -= 1;
                if let Some(host) = &*world.host.borrow() {
                    model.answered(host, id);
                }
            }
            Err(Error::Refused(_)) => known.open -= 1,
            // Nobody knows.
            Err(_) => {}
        }
    }
    drop(model);
    let fine = |error: &Error| match error {
        Error::Refused(refusal) => matches!(refusal.code, Code::QueueFull | Code::Unavailable),
        _ => world.is_down(),
    };
    if let Err(error) = answered
        && !fine(error)
        && world.host.borrow().as_ref().is_some_and(|host| host.store.is_failed().is_none())
    {
        world.broken(format!("publishing {ids:?} failed: {error}"));
    }
}

/// The disk is full, or breaks, in the middle of a commit: the host will have to end.
fn fail_to_write(world: &World, host: &Host) {
    let how = if world.rng.borrow_mut().bool() { Failure::Full } else { Failure::Flush };
    if let Ok(mut steps) = host.steps.try_borrow_mut() {
        let disk = world.disk.borrow().clone();
        disk.fail(Some(how));
        let wrote = steps.write();
        disk.fail(None);
        if wrote {
            world.say(|| format!("the disk fails: {how:?}"));
        }
    }
}

/// Whether a call can be waited for now: not while the store is writing.
fn may_drive(world: &World, host: &Host) -> bool {
    host.steps.try_borrow_mut().is_ok() && !world.disk.borrow().is_broken()
}

fn pause(world: &World, host: &Host) {
    let subscription = one_of(world, &SUBSCRIPTIONS);
    if !may_drive(world, host) || world.is_handling(subscription) {
        return;
    }
    let paused = host.is_paused(subscription);
    world.say(|| format!("{subscription} is {}", if paused { "resumed" } else { "paused" }));
    if !paused {
        host.close_crew(subscription);
    }
    host.change(subscription, |now| brolly_core::Subscription {
        paused: Some(!paused),
        ..now.cloned().unwrap_or_else(|| names::subscription(subscription, 1, names::retry(0)))
    });
    if paused {
        host.open_crew(subscription);
    }
}

/// Another version and another policy, while deliveries are handled.
fn change(world: &World, host: &Host) {
    let subscription = one_of(world, &SUBSCRIPTIONS);
    if !may_drive(world, host) || host.is_paused(subscription) {
        return;
    }
    let (version, retry) = {
        let mut rng = world.rng.borrow_mut();
        (rng.u8(1..=2), names::retry(rng.usize(..4)))
    };
    world.say(|| format!("{subscription} is swapped to version {version}, {} attempts", retry.max_attempts));
    host.change(subscription, |_| names::subscription(subscription, version, retry));
    host.follow_definition(subscription);
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Letters {
    Replay,
    Discard,
}

/// An operator at the desk; answers whether there was any letter to choose.
pub(crate) fn letters(
    world: &World,
    host: &Host,
    what: Letters,
    queue: &str,
    choose: impl Fn(&World) -> bool,
) -> bool {
    let name = names::name(queue);
    let Ok(found) = host.ledger.list_dead_letters(&name, None, 20) else { return false };
    let chosen: Vec<_> = found.into_iter().filter(|_| choose(world)).collect();
    if chosen.is_empty() {
        return false;
    }
    if matches!(what, Letters::Replay) {
        world.model.borrow_mut().replayed.extend(chosen.iter().map(|letter| letter.message_id.clone()));
    }
    let seqs: Vec<u64> = chosen.iter().map(|letter| letter.seq).collect();
    let says = format!("{what:?} {} dead letters of {queue}", seqs.len());
    let (ledger, broker) = (host.ledger.clone(), host.embedded.clone());
    let call = async move {
        let done = match what {
            Letters::Replay => {
                let stage =
                    |seq, message: &Message, commit: &mut Commit| match brolly_core::Broker::stage_replay(
                        &broker, &name, seq, message, commit,
                    ) {
                        Err(BrokerError::Refused(refusal)) => Ok(Err(refusal)),
                        staged => staged.map(Ok).map_err(Error::from),
                    };
                ledger.replay(&name, &seqs, stage).await.map(drop)
            }
            Letters::Discard => ledger.discard(&name, &seqs).await.map(drop).map_err(Error::from),
        };
        at_the_desk(done.map_err(|error| error.to_string()))
    };
    ask(world, Pending { what: says, call: Box::pin(call) });
    true
}

fn at_the_desk(done: Result<(), String>) -> crate::host::Answer {
    Box::new(move |world: &World| {
        if let Err(error) = done
            && !world.is_down()
            && world.host.borrow().as_ref().is_some_and(|host| host.store.is_failed().is_none())
        {
            world.broken(format!("the desk failed: {error}"));
        }
    })
}

/// An edited copy takes the place of a dead letter.
fn edit(world: &World, host: &Host) {
    let queue: Name = names::name(one_of(world, &EMBEDDED));
    let Ok(found) = host.ledger.list_dead_letters(&queue, None, 20) else { return };
    let Some(letter) = found.get(world.rng.borrow_mut().usize(..found.len().max(1))) else { return };
    let (seq, what) = (letter.seq, format!("edit {} in {queue}", letter.message_id));
    let what = if letter.topic.as_str() == CHILD { format!("edit a child in {queue}") } else { what };
    let (ledger, broker, now) = (host.ledger.clone(), host.embedded.clone(), world.clock.now());
    let call = async move {
        let edited = |original: &Message, id: MessageId| -> Result<Message, Refusal> {
            Ok(Message { id, published_at: now, payload: Bytes::from_static(b"c"), ..original.clone() })
        };
        let stage = |record, message: &Message, commit: &mut Commit| {
            brolly_core::Broker::stage_replay(&broker, &queue, record, message, commit).map_err(Error::from)
        };
        let done = ledger.replace_dead_letter(&queue, seq, edited, stage).await;
        at_the_desk(done.map(drop).map_err(|error| error.to_string()))
    };
    ask(world, Pending { what, call: Box::pin(call) });
}

/// What is old goes, if nothing needs it.
fn forget(world: &World, host: &Host) {
    let now = world.clock.now();
    let cutoff = Timestamp(now.0.saturating_sub(world.rng.borrow_mut().u64(50..1_500)));
    let is_known = |message: &Message| matches!(host.messages.find(&message.topic, &message.id), Ok(Some(_)));
    let known: Vec<_> =
        host.messages.oldest(None).flatten().filter(|(_, stored)| is_known(&stored.message)).collect();
    // What goes can still be read, until that is written.
    let may_deliver_again = |queue: &Name| queue.as_str() == REMOTE && world.far.delivers_more();
    let swept = host.ledger.sweep(cutoff, now, None, may_deliver_again);
    if let Some(error) = swept.unreadable {
        world.broken(format!("old history cannot be read: {error}"));
    }
    world.say(|| format!("{} messages are forgotten", swept.removed));
    for (seq, stored) in known.into_iter().filter(|(_, stored)| !is_known(&stored.message)) {
        let in_hand = world.is_in_hand(&stored.message);
        let comes_again = world.far.delivers(&stored.message);
        let forgotten = world.model.borrow_mut().forget(host, seq, &stored, cutoff, in_hand, comes_again);
        if let Err(broken) = forgotten {
            world.broken(broken);
        }
    }
}
