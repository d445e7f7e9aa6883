//! What everything is doing now, looked at once a second however many consoles are open, and not at
//! all while none is; and the totals of the last hour, looked at every ten seconds.
//!
//! Reads what the brokers and subscriptions keep in memory anyway: it takes nothing and holds up no
//! message.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use brolly_core::{BrokerDefinition, Name, Queue, Subscription, defaults};
use brolly_dispatch::{Handle, QueueCounts, State};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::subscriptions::LatencyBody;

/// How long a look is good for.
const FRESH: Duration = Duration::from_millis(900);
/// How often totals are kept.
pub(crate) const SAMPLE: Duration = Duration::from_secs(10);
/// Totals kept: one hour.
const SAMPLES: usize = 360;
/// Queues, and subscriptions, that are looked at; of further ones only the number is told.
const MOST: usize = 5_000;
/// Queues asked at the same time: one on a broker that is slow to answer must not hold up the others.
const AT_ONCE: usize = 32;
/// Milliseconds that the oldest message's moment may differ between two looks and still be the same:
/// it is computed from an age.
const SAME_MS: u64 = 1_000;

/// What a queue holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct QueueNow {
    /// Waiting to be taken; null where the broker cannot tell.
    ready: Option<u64>,
    /// Taken and not settled; null where the broker cannot tell.
    in_flight: Option<u64>,
    /// Held back until their time; null where the broker cannot tell.
    delayed: Option<u64>,
    /// Dead letters.
    dead: u64,
    /// When the oldest message that waits was published, in milliseconds since 1970.
    oldest_at_ms: Option<u64>,
    /// Why the queue is not as it is wanted, or cannot be looked at.
    trouble: Option<String>,
}

/// What a subscription is doing. The numbers count since the host started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct SubscriptionNow {
    /// starting, running, paused or failed.
    state: &'static str,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
    /// Why, where it failed.
    error: Option<String>,
    /// The queue that it takes from.
    queue: String,
    /// Attempts acknowledged.
    acked: u64,
    /// Attempts that are tried again.
    retried: u64,
    /// Deliveries that became dead letters.
    dead: u64,
    /// The reason of the latest failed attempt.
    last_failure: Option<String>,
    /// How long attempts, and messages, took.
    latency: LatencyBody,
}

/// How a broker is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct BrokerNow {
    /// connecting, connected, blocked or failed.
    state: &'static str,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
    /// Why it is not connected, or what an operator should know of it.
    detail: Option<String>,
    /// Messages that handlers have published and that are still to be sent to it.
    outbox: u64,
}

/// Totals over everything at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Totals {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Attempts acknowledged since the host started.
    acked: u64,
    /// Attempts tried again since the host started.
    retried: u64,
    /// Deliveries that became dead letters since the host started.
    dead: u64,
    /// Messages that wait to be taken.
    ready: u64,
    /// Messages taken and not settled.
    in_flight: u64,
    /// Messages held back until their time.
    delayed: u64,
    /// Dead letters there are.
    dead_letters: u64,
}

/// One look at everything.
#[derive(Debug, Default)]
pub(crate) struct Now {
    pub totals: Totals,
    /// Grows with every change of a definition.
    pub revision: u64,
    pub queues: BTreeMap<Name, QueueNow>,
    pub subscriptions: BTreeMap<Name, SubscriptionNow>,
    pub brokers: BTreeMap<Name, BrokerNow>,
    /// Queues and subscriptions beyond those that are looked at.
    pub more: usize,
}

/// Looks, and remembers.
#[derive(Default)]
pub(crate) struct Pulse {
    latest: tokio::sync::Mutex<Option<(Instant, Arc<Now>)>>,
    history: Mutex<VecDeque<Totals>>,
}

impl Pulse {
    /// How everything is, as of the last second.
    pub(crate) async fn now(&self, handle: &Handle) -> Arc<Now> {
        let mut latest = self.latest.lock().await;
        if let Some((at, now)) = &*latest
            && at.elapsed() < FRESH
        {
            return now.clone();
        }
        let before = latest.take().map(|(_, now)| now);
        let now = Arc::new(look(handle, before.as_deref()).await);
        *latest = Some((Instant::now(), now.clone()));
        now
    }

    /// The totals of the last hour, the oldest first.
    pub(crate) fn history(&self) -> Vec<Totals> {
        self.history.lock().iter().copied().collect()
    }

    /// Keeps totals for as long as it is polled.
    pub(crate) async fn keep(&self, handle: &Handle) {
        let mut pace = tokio::time::interval(SAMPLE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let totals = self.now(handle).await.totals;
            let mut history = self.history.lock();
            if history.len() >= SAMPLES {
                history.pop_front();
            }
            history.push_back(totals);
        }
    }
}

async fn look(handle: &Handle, before: Option<&Now>) -> Now {
    let mut now = Now { revision: handle.revision(), ..Now::default() };
    now.totals.at_ms = handle.now().0;
    let queues = handle.list::<Queue>(None, MOST);
    let subscriptions = handle.list::<Subscription>(None, MOST);
    if queues.next.is_some() || subscriptions.next.is_some() {
        let count = |all: usize| all.saturating_sub(MOST);
        now.more = count(handle.count::<Queue>()) + count(handle.count::<Subscription>());
    }
    let counts = stream::iter(queues.items).map(|(name, _)| async {
        let counts = handle.counts(&name).await.ok();
        counts.map(|counts| (name, counts))
    });
    let mut counts = counts.buffer_unordered(AT_ONCE);
    while let Some(found) = counts.next().await {
        // One that was deleted meanwhile is left out.
        let Some((name, counts)) = found else { continue };
        let same = before.and_then(|before| before.queues.get(&name)?.oldest_at_ms);
        let queue = queue_now(counts, now.totals.at_ms, same);
        now.totals.ready += queue.ready.unwrap_or(0);
        now.totals.in_flight += queue.in_flight.unwrap_or(0);
        now.totals.delayed += queue.delayed.unwrap_or(0);
        now.totals.dead_letters += queue.dead;
        now.queues.insert(name, queue);
    }
    for (name, entry) in subscriptions.items {
        let Some(subscription) = subscription_now(handle, &name, &entry.value) else { continue };
        now.totals.acked += subscription.acked;
        now.totals.retried += subscription.retried;
        now.totals.dead += subscription.dead;
        now.subscriptions.insert(name, subscription);
    }
    let defined = handle.list::<BrokerDefinition>(None, MOST).items.into_iter().map(|(name, _)| name);
    now.brokers = defined.chain([defaults::broker()]).map(|name| broker_now(handle, name)).collect();
    now
}

fn queue_now(counts: QueueCounts, at_ms: u64, same: Option<u64>) -> QueueNow {
    let QueueCounts { ready, in_flight, delayed, dead, oldest_age_ms, trouble, elsewhere: _ } = counts;
    let oldest = oldest_age_ms.map(|age| at_ms.saturating_sub(age));
    let oldest_at_ms = oldest.map(|at| same.filter(|same| at.abs_diff(*same) < SAME_MS).unwrap_or(at));
    QueueNow { ready, in_flight, delayed, dead, oldest_at_ms, trouble }
}

fn subscription_now(handle: &Handle, name: &Name, definition: &Subscription) -> Option<SubscriptionNow> {
    let status = handle.status(name).ok()?;
    // What is wanted counts before what has come of it yet: who presses pause sees that it was pressed.
    let paused = definition.is_paused() && status.state == State::Starting;
    Some(SubscriptionNow {
        latency: LatencyBody::of(&status),
        state: if paused { State::Paused.as_str() } else { status.state.as_str() },
        since_ms: status.since.0,
        error: status.error,
        queue: definition.queue.to_string(),
        acked: status.acked,
        retried: status.retried,
        dead: status.dead,
        last_failure: status.last_failure.map(|(_, reason)| reason),
    })
}

fn broker_now(handle: &Handle, name: Name) -> (Name, BrokerNow) {
    let health = handle.broker_health(&name);
    let now = BrokerNow {
        state: health.state.as_str(),
        since_ms: health.since.0,
        detail: health.detail,
        outbox: health.outbox,
    };
    (name, now)
}
