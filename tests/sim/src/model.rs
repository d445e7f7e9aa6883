//! What must hold: what producers were promised, what may be handled now, and what must be left at the end.
//! Knows the host by its ledger and its state alone, as an operator does.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
};

use brolly_core::{Call, Timestamp};
use brolly_dispatch::{DeliveryStatus as Status, History};
use brolly_store::StoredMessage;

use crate::{
    host::Host,
    names::{self, CHILD, IN, ORDERED, ROUTES},
    script::Act,
};

/// A delivery: subscription, topic, id.
pub(crate) type Delivery = (String, String, String);

/// What is known from outside.
#[derive(Default)]
pub(crate) struct Model {
    pub messages: BTreeMap<(String, String), Known>,
    /// How often each delivery was given to its handler, and what that did the last time.
    calls: BTreeMap<Delivery, usize>,
    acts: BTreeMap<Delivery, Act>,
    /// Messages that an operator sent back: their place in the order is gone.
    pub replayed: BTreeSet<String>,
    /// What the host has forgotten, by its number, or tried to before a power cut.
    forgotten: BTreeMap<u64, Forgotten>,
    /// Topics and ids that need not be there any more.
    excused: BTreeSet<(String, String)>,
    /// The first thing that did not hold.
    pub broken: Option<String>,
    pub cuts: u64,
}

/// A message that a producer published, or tried to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub key: String,
    /// It was answered with success.
    pub answered: bool,
    /// Calls that were not answered yet, or never will be.
    pub open: u32,
    /// Held back by its producer: it has no place in the order.
    pub delayed: bool,
}

/// A message that was forgotten.
struct Forgotten {
    topic: String,
    id: String,
    key: String,
    payload: String,
    statuses: Vec<(String, Status)>,
}

impl Known {
    fn may_exist(&self) -> bool {
        self.answered || self.open > 0
    }
}

fn decided(status: Status) -> bool {
    match status {
        Status::Waiting => false,
        Status::Acked | Status::Dead | Status::Discarded | Status::Replaced => true,
    }
}

fn history(host: &Host, topic: &str, id: &str) -> Result<Option<History>, String> {
    // What is about to be forgotten is as good as gone.
    let found = host.messages.find(&names::name(topic), id).map_err(|error| error.to_string())?;
    if found.is_none() {
        return Ok(None);
    }
    host.ledger.history(id, Some(&names::name(topic))).map_err(|error| error.to_string())
}

fn status(history: &History, subscription: &str) -> Option<Status> {
    let mut deliveries = history.deliveries.iter();
    Some(deliveries.find(|delivery| delivery.subscription.as_str() == subscription)?.status)
}

/// The number under a key of a subscription's state.
fn number(host: &Host, subscription: &str, key: &str) -> Result<u64, String> {
    let name = names::name(subscription);
    let entries = host.ledger.state_entries(&name, key, None, 1).map_err(|error| error.to_string())?;
    Ok(entries.first().filter(|entry| entry.key == key).map_or(0, |entry| names::number(&entry.value)))
}

impl Model {
    /// Counts a call of a handler; answers how many came before.
    pub(crate) fn called(&mut self, delivery: Delivery) -> usize {
        let calls = self.calls.entry(delivery).or_default();
        *calls += 1;
        *calls - 1
    }

    /// How far the script of each delivery is.
    pub(crate) fn fingerprint(&self, hasher: &mut impl Hasher) {
        self.calls.hash(hasher);
        self.replayed.hash(hasher);
        for known in self.messages.values() {
            (known.answered, known.open).hash(hasher);
        }
    }

    /// Calls of handlers in all.
    pub(crate) fn handled(&self) -> u64 {
        self.calls.values().map(|calls| *calls as u64).sum()
    }

    pub(crate) fn acted(&mut self, delivery: Delivery, act: Act) {
        self.acts.insert(delivery, act);
    }

    /// Notes that a message goes, which nothing may need any more.
    pub(crate) fn forget(
        &mut self,
        host: &Host,
        seq: u64,
        stored: &StoredMessage,
        cutoff: Timestamp,
        in_hand: bool,
        comes_again: bool,
    ) -> Result<(), String> {
        let message = &stored.message;
        let (topic, id) = (message.topic.to_string(), message.id.clone());
        let what = format!("{id} of {topic} is forgotten");
        if in_hand {
            return Err(format!("{what} while it is in hand"));
        }
        if stored.met_at >= cutoff {
            return Err(format!("{what}, and was met at {}, not before {}", stored.met_at.0, cutoff.0));
        }
        // Not by the id: that is gone already.
        let statuses = host.ledger.deliveries(seq).map_err(|error| error.to_string())?;
        for delivery in &statuses {
            let last = delivery.attempts.last().map_or(0, |attempt| attempt.at.0);
            if delivery.status == Status::Dead || last >= cutoff.0 {
                return Err(format!(
                    "{what}, and is {:?} in {} since {last}",
                    delivery.status, delivery.subscription
                ));
            }
        }
        let statuses: Vec<_> = statuses
            .into_iter()
            .map(|delivery| (delivery.subscription.to_string(), delivery.status))
            .collect();
        if comes_again && statuses.iter().any(|(subscription, _)| subscription == names::REMOTE) {
            return Err(format!("{what}, and comes again"));
        }
        for queue in stored.routed.iter().filter(|queue| queue.as_str() != names::REMOTE) {
            if !statuses
                .iter()
                .any(|(subscription, status)| subscription == queue.as_str() && decided(*status))
            {
                return Err(format!("{what} and not decided in {queue}"));
            }
        }
        self.excused.insert((topic.clone(), id.clone()));
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        self.forgotten.insert(seq, Forgotten { topic, id, key: message.key.clone(), payload, statuses });
        Ok(())
    }

    /// Something was published, and answered with success: if it is there now, it has to be from now on.
    pub(crate) fn answered(&mut self, host: &Host, id: &(String, String)) {
        if matches!(history(host, &id.0, &id.1), Ok(Some(_))) {
            self.excused.remove(id);
        }
    }

    /// Whether this delivery may be handled now.
    pub(crate) fn may_handle(&self, host: &Host, call: &Call<'_>) -> Result<(), String> {
        let (subscription, message) = (call.subscription.as_str(), call.message);
        let (topic, id) = (message.topic.as_str(), message.id.as_str());
        let what = format!("{id} of {topic} in {subscription}");
        if !ROUTES.contains(&(topic, subscription)) {
            return Err(format!("{what} came to a subscription that it does not belong to"));
        }
        let Some(history) = history(host, topic, id)? else { return Ok(()) };
        if let Some(status) = status(&history, subscription).filter(|status| decided(*status)) {
            return Err(format!("{what} is {status:?} and is handled again"));
        }
        let before = history.deliveries.iter().find(|delivery| delivery.subscription == *call.subscription);
        // Attempts that were forgotten still count where the broker counts them.
        let counts_alone = !self.forgotten.values().any(|gone| gone.topic == topic && gone.id == id);
        if let Some(before) = before.filter(|before| before.replays == 0 && counts_alone) {
            let made = u32::try_from(before.attempts.len()).unwrap_or(u32::MAX);
            if call.attempt != made + 1 {
                return Err(format!(
                    "{what} had {made} attempts, and this one has the number {}",
                    call.attempt
                ));
            }
        }
        if subscription == ORDERED && !message.key.is_empty() {
            self.in_order(host, &history, &what)?;
        }
        Ok(())
    }

    /// Of the same key everything published before is decided.
    fn in_order(&self, host: &Host, this: &History, what: &str) -> Result<(), String> {
        let message = &this.stored.message;
        let placed = |id: &str| {
            let known = self.messages.get(&(IN.to_owned(), id.to_owned()));
            known.is_some_and(|known| !known.delayed) && !self.replayed.contains(id)
        };
        if !placed(&message.id) {
            return Ok(());
        }
        for ((topic, id), known) in &self.messages {
            if topic != IN || known.key != message.key || !placed(id) || *id == message.id {
                continue;
            }
            let Some(other) = history(host, IN, id)? else { continue };
            let before =
                other.seq < this.seq && other.stored.routed.iter().any(|queue| queue.as_str() == ORDERED);
            if before && !status(&other, ORDERED).is_some_and(decided) {
                return Err(format!(
                    "{what} is handled before {id}, which was published earlier under its key"
                ));
            }
        }
        Ok(())
    }

    /// What was answered with success is there, whatever has happened since.
    pub(crate) fn check_answered(&self, host: &Host) -> Result<(), String> {
        for ((topic, id), known) in self.messages.iter().filter(|((topic, _), _)| topic != names::FAR) {
            let history = history(host, topic, id)?;
            if known.answered && history.is_none() && !self.excused.contains(&(topic.clone(), id.clone())) {
                return Err(format!("{id} of {topic} was accepted, and is lost"));
            }
            // A handler may have published the same.
            if !known.may_exist() && history.is_some() && topic != CHILD {
                return Err(format!("{id} of {topic} was refused, and is there"));
            }
            let queues = ROUTES.iter().filter(|(from, _)| from == topic).map(|(_, queue)| *queue);
            let expect: Vec<&str> = queues.collect::<BTreeSet<_>>().into_iter().collect();
            if let Some(history) = history {
                let routed: Vec<&str> = history.stored.routed.iter().map(|queue| queue.as_str()).collect();
                if routed != expect {
                    return Err(format!("{id} of {topic} went to {routed:?}, not to {expect:?}"));
                }
            }
        }
        Ok(())
    }

    /// Everything that must hold when nothing is left to do.
    pub(crate) fn check_end(&self, host: &Host) -> Result<(), String> {
        self.check_answered(host)?;
        let mut totals = Totals::default();
        let gone = self.gone(host)?;
        for forgotten in &gone {
            totals.count_forgotten(forgotten);
        }
        for item in host.messages.oldest(None) {
            let (seq, stored) = item.map_err(|error| error.to_string())?;
            let message = &stored.message;
            let (topic, id) = (message.topic.as_str(), message.id.as_str());
            let Some(history) = history(host, topic, id)? else {
                return Err(format!("{id} of {topic} is stored at {seq} and has no history"));
            };
            for queue in &stored.routed {
                let subscription = queue.as_str();
                let what = format!("{id} of {topic} in {subscription}");
                let Some(status) = status(&history, subscription).filter(|status| decided(*status)) else {
                    return Err(format!("{what} was never decided"));
                };
                totals.count(subscription, &message.key, status, id);
                let took_effect = number(host, subscription, &names::done(message))?;
                let before = gone.iter().filter(|gone| gone.topic == topic && gone.id == id).filter(|gone| {
                    gone.statuses.iter().any(|(of, status)| of == subscription && *status == Status::Acked)
                });
                let before = before.count() as u64;
                if took_effect != u64::from(status == Status::Acked) + before {
                    return Err(format!(
                        "{what} is {status:?} and took effect {took_effect} times, {before} of them before it was \
                         forgotten"
                    ));
                }
                if topic != CHILD {
                    self.check_children(host, subscription, topic, id, status)?;
                }
            }
            if message.topic.as_str() == CHILD {
                *totals
                    .children
                    .entry(String::from_utf8_lossy(&message.payload).into_owned())
                    .or_default() += 1;
            }
        }
        self.check_nameless(&totals)?;
        totals.check(host)
    }

    /// What was forgotten, without what a power cut has brought back.
    fn gone(&self, host: &Host) -> Result<Vec<&Forgotten>, String> {
        let mut gone = Vec::new();
        for (seq, forgotten) in &self.forgotten {
            if host.messages.load(*seq).map_err(|error| error.to_string())?.is_none() {
                gone.push(forgotten);
            }
        }
        Ok(gone)
    }

    fn published(&self, subscription: &str, topic: &str, id: &str, status: Status) -> Option<Act> {
        let delivery = (subscription.to_owned(), topic.to_owned(), id.to_owned());
        self.acts.get(&delivery).copied().filter(|_| status == Status::Acked)
    }

    /// What it published is there if and only if it is acknowledged.
    fn check_children(
        &self,
        host: &Host,
        subscription: &str,
        topic: &str,
        id: &str,
        status: Status,
    ) -> Result<(), String> {
        let child = names::child_of(subscription, topic, id);
        let published = self.published(subscription, topic, id, status) == Some(Act::Child);
        let by_producer = self.messages.get(&(CHILD.to_owned(), child.clone())).is_some_and(Known::may_exist);
        let there = history(host, CHILD, &child)?.is_some();
        let forgotten = |topic: &str, id: &str| {
            self.excused.contains(&(topic.to_owned(), id.to_owned()))
                || self.forgotten.values().any(|gone| gone.topic == topic && gone.id == id)
        };
        if forgotten(CHILD, &child) || forgotten(topic, id) {
            return Ok(());
        }
        match (published, there) {
            (true, false) => Err(format!("{child} was published by an acknowledged attempt, and is lost")),
            (false, true) if !by_producer => Err(format!("{child} is there, and nobody published it")),
            _ => Ok(()),
        }
    }

    /// What was published without an id is there once for each acknowledged attempt.
    fn check_nameless(&self, totals: &Totals) -> Result<(), String> {
        for (subscription, topic, id) in self.acts.keys() {
            let child = names::child_of(subscription, topic, id);
            let Some(status) = totals.statuses.get(&(subscription.clone(), id.clone())) else { continue };
            let act = self.published(subscription, topic, id, *status);
            let expect = u64::from(matches!(act, Some(Act::Nameless | Act::Child)));
            let by_producer = self.messages.contains_key(&(CHILD.to_owned(), child.clone()));
            let found = totals.children.get(&child).copied().unwrap_or(0);
            let forgotten = self
                .forgotten
                .values()
                .any(|gone| gone.payload == child || (gone.topic == *topic && gone.id == *id));
            if found != expect && !by_producer && !forgotten && topic != CHILD {
                return Err(format!("{child} is there {found} times, not {expect}"));
            }
        }
        Ok(())
    }
}

/// What the rows of deliveries add up to.
#[derive(Default)]
struct Totals {
    acked: BTreeMap<String, u64>,
    /// Acknowledged and forgotten since.
    forgotten: BTreeMap<String, u64>,
    keys: BTreeMap<(String, String), u64>,
    dead: BTreeMap<String, u64>,
    statuses: BTreeMap<(String, String), Status>,
    children: BTreeMap<String, u64>,
}

impl Totals {
    fn count(&mut self, subscription: &str, key: &str, status: Status, id: &str) {
        self.statuses.insert((subscription.to_owned(), id.to_owned()), status);
        let of = subscription.to_owned();
        match status {
            Status::Acked => {
                *self.acked.entry(of.clone()).or_default() += 1;
                if !key.is_empty() {
                    *self.keys.entry((of, key.to_owned())).or_default() += 1;
                }
            }
            Status::Dead => *self.dead.entry(of).or_default() += 1,
            Status::Waiting | Status::Discarded | Status::Replaced => {}
        }
    }

    fn count_forgotten(&mut self, gone: &Forgotten) {
        for (subscription, _) in gone.statuses.iter().filter(|(_, status)| *status == Status::Acked) {
            *self.forgotten.entry(subscription.clone()).or_default() += 1;
            if !gone.key.is_empty() {
                *self.keys.entry((subscription.clone(), gone.key.clone())).or_default() += 1;
            }
        }
    }

    fn check(&self, host: &Host) -> Result<(), String> {
        for subscription in names::SUBSCRIPTIONS {
            let forgotten = self.forgotten.get(subscription).copied().unwrap_or(0);
            let acked = self.acked.get(subscription).copied().unwrap_or(0) + forgotten;
            let all = number(host, subscription, names::ALL)?;
            if all != acked {
                return Err(format!("{subscription} acknowledged {acked}, and its state says {all}"));
            }
            let name = names::name(subscription);
            let letters =
                host.ledger.list_dead_letters(&name, None, 100_000).map_err(|error| error.to_string())?;
            let dead = self.dead.get(subscription).copied().unwrap_or(0);
            if letters.len() as u64 != dead {
                return Err(format!(
                    "{subscription} has {dead} dead deliveries and {} dead letters",
                    letters.len()
                ));
            }
        }
        for ((subscription, key), acked) in &self.keys {
            let found = number(host, subscription, &names::of_key(key))?;
            if found != *acked {
                return Err(format!(
                    "{subscription} acknowledged {acked} of {key}, and its state says {found}"
                ));
            }
        }
        let tally = host.ledger.tally().map_err(|error| error.to_string())?;
        for subscription in names::SUBSCRIPTIONS {
            let tally = tally.get(&names::name(subscription)).copied().unwrap_or_default();
            let acked = self.acked.get(subscription).copied().unwrap_or(0);
            if tally.waiting != 0 || tally.acked != acked {
                return Err(format!("the tally of {subscription} is {tally:?}, {acked} are acknowledged"));
            }
        }
        Ok(())
    }
}
