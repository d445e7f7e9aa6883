//! Measures the queues whose owners want to be warned, once a second, and hands what it sees to the alerts;
//! and what of them the admin asks for. Run by the supervisor.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use brolly_alerts::{Alert, Alerts, ChannelHealth, Failure, Seen, Wanted, check_queue};
use brolly_catalog::{Action, Entry, Precondition, Put, Snapshot};
use brolly_core::{Channel, Code, Name, Queue, Refusal, Timestamp, Watched};
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::{Error, Handle, Page, QueueCounts, handle::blocking, status::State};

/// How often rules are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How long a broker may take to tell what a queue holds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Queues asked at the same time.
const AT_ONCE: usize = 32;
/// Over how long failures are counted.
const RECENT: Duration = Duration::from_secs(60);

/// Attempts of one subscription since the host started.
#[derive(Clone, Copy)]
struct Attempts {
    at: Timestamp,
    all: u64,
    failed: u64,
}

/// Looks at the rules.
pub(crate) struct Watch {
    handle: Handle,
    /// Of the last minute, by queue.
    attempts: HashMap<Name, VecDeque<Attempts>>,
    /// The revision whose channels the alerts have.
    followed: Option<u64>,
}

impl Watch {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, attempts: HashMap::new(), followed: None }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut pace = tokio::time::interval(EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = pace.tick() => {}
            }
            let snapshot = self.handle.catalog().snapshot();
            if self.followed != Some(snapshot.revision) {
                self.handle.follow_channels();
                self.followed = Some(snapshot.revision);
            }
            let seen = self.look(&snapshot).await;
            if let Err(error) = self.handle.parts().alerts.observe(&seen).await {
                tracing::error!(%error, "what is to be told to owners of queues cannot be written down");
            }
        }
    }

    /// What every rule sees. A queue that cannot be measured now has rules that see nothing.
    async fn look(&mut self, snapshot: &Snapshot) -> Vec<Seen> {
        let watched = snapshot.queues.iter().filter(|(_, entry)| !entry.value.alerts.is_empty());
        let watched: Vec<(Name, Arc<Queue>)> =
            watched.map(|(name, entry)| (name.clone(), entry.value.clone())).collect();
        self.attempts
            .retain(|name, _| snapshot.queues.get(name).is_some_and(|entry| !entry.value.alerts.is_empty()));
        if watched.is_empty() {
            return Vec::new();
        }
        let handle = &self.handle;
        let counted = stream::iter(watched).map(|(name, definition)| async move {
            let counts = tokio::time::timeout(PATIENCE, handle.counts(&name)).await;
            (name, definition, counts.ok().and_then(Result::ok))
        });
        let counted: Vec<_> = counted.buffered(AT_ONCE).collect().await;
        let now = self.handle.parts().clock.now();
        let subscriptions = snapshot.subscriptions.iter();
        let consumers: HashMap<&Name, &Name> =
            subscriptions.map(|(name, entry)| (&entry.value.queue, name)).collect();
        let measured = counted.into_iter().map(|(queue, definition, counts)| {
            let consumer = consumers.get(&queue).copied();
            let values = definition.alerts.iter();
            let values =
                values.map(|rule| self.value(&queue, rule.when, counts.as_ref(), consumer, now)).collect();
            Seen { queue, definition, values }
        });
        measured.collect()
    }

    fn value(
        &mut self,
        queue: &Name,
        when: Watched,
        counts: Option<&QueueCounts>,
        consumer: Option<&Name>,
        now: Timestamp,
    ) -> Option<u64> {
        // A queue of which nothing can be told is not one in which nothing waits.
        let known = counts.filter(|counts| counts.ready.is_some());
        match when {
            Watched::Ready => known?.ready,
            Watched::OldestAge => known.map(|counts| counts.oldest_age_ms.unwrap_or(0)),
            Watched::Dead => counts.map(|counts| counts.dead),
            Watched::FailureRate => Some(self.failure_rate(queue, consumer, now)),
            Watched::NoConsumer => {
                let takes =
                    |name: &Name| self.handle.status(name).is_ok_and(|status| status.state == State::Running);
                Some(u64::from(!consumer.is_some_and(takes)))
            }
        }
    }

    /// How many in a hundred of the attempts of the last minute failed; rounded up, so that one failure
    /// is more than none.
    fn failure_rate(&mut self, queue: &Name, consumer: Option<&Name>, now: Timestamp) -> u64 {
        let status = consumer.and_then(|name| self.handle.status(name).ok());
        let Some(status) = status else { return 0 };
        let failed = status.retried + status.dead;
        let latest = Attempts { at: now, all: status.acked + failed, failed };
        let recent = self.attempts.entry(queue.clone()).or_default();
        // Another subscription, or the same one made anew, counts from the beginning.
        if recent.back().is_some_and(|last| last.all > latest.all) {
            recent.clear();
        }
        if recent.back().is_none_or(|last| last.at != now) {
            recent.push_back(latest);
        }
        while recent.len() > 1 && recent.get(1).is_some_and(|second| now.since(second.at) >= RECENT) {
            recent.pop_front();
        }
        let first = recent.front().copied().unwrap_or(latest);
        let (all, failed) = (latest.all - first.all, latest.failed.saturating_sub(first.failed));
        (failed * 100).div_ceil(all.max(1))
    }
}

impl Handle {
    fn alerts(&self) -> &Arc<Alerts> {
        &self.parts().alerts
    }

    /// Tells the alerts which channels there are.
    pub(crate) fn follow_channels(&self) {
        let snapshot = self.catalog().snapshot();
        self.alerts().follow(snapshot.channels.iter().map(|(name, entry)| (name, &entry.value)));
    }

    /// Creates or replaces a queue, as [`Handle::put`], once its alerts can be told to somebody.
    ///
    /// # Errors
    /// As [`Handle::put`].
    pub async fn put_queue(
        &self,
        name: &Name,
        value: Queue,
        only_if: Precondition,
    ) -> Result<Put<Queue>, Error> {
        check_queue(&value)?;
        self.put(name, value, only_if).await
    }

    /// Creates or replaces a channel.
    ///
    /// # Errors
    /// What the catalog refuses; [`Code::InvalidDefinition`] when it cannot be used.
    pub async fn put_channel(
        &self,
        name: &Name,
        value: Channel,
        only_if: Precondition,
    ) -> Result<Put<Channel>, Error> {
        let before = self.get::<Channel>(name).ok();
        let whole =
            before.map_or_else(|| value.clone(), |before| value.clone().with_secrets_of(&before.value));
        whole.check()?;
        self.alerts().check_channel(&whole)?;
        let put = self.catalog().put(name, value, only_if, self.author()).await?;
        self.follow_channels();
        Ok(put)
    }

    /// Deletes a channel that no queue's alerts use.
    ///
    /// # Errors
    /// As [`Handle::delete`].
    pub async fn delete_channel(&self, name: &Name, only_if: Precondition) -> Result<(), Error> {
        self.catalog().delete::<Channel>(name, only_if, self.author()).await?;
        self.follow_channels();
        Ok(())
    }

    /// How a channel is doing.
    #[must_use]
    pub fn channel_health(&self, name: &Name) -> ChannelHealth {
        self.alerts().health(name)
    }

    /// Sends a test by a channel to this person, or to everybody whom the channel names itself; answers for
    /// each whether it got through, or why not.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::InvalidRequest`] when nobody is named.
    pub async fn test_channel(
        &self,
        name: &Name,
        to: Option<String>,
    ) -> Result<Vec<(String, Result<(), Failure>)>, Error> {
        let channel: Entry<Channel> = self.get(name)?;
        let people = match to {
            Some(to) => vec![to],
            None => channel.value.recipients(&[]),
        };
        if people.is_empty() {
            let detail =
                format!("the channel {name} names nobody itself; say whom to tell, with email or phone");
            return Err(Refusal::new(Code::InvalidRequest, detail).into());
        }
        let mut results = Vec::new();
        for person in people {
            let sent = self.alerts().test(name, &person).await?;
            results.push((person, sent));
        }
        Ok(results)
    }

    /// Alerts, the latest first.
    ///
    /// # Errors
    /// A failing store.
    pub async fn list_alerts(
        &self,
        wanted: Wanted,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page<Alert>, Error> {
        let alerts = self.alerts().clone();
        let listed = blocking("listing alerts", move || alerts.list(&wanted, before, limit)).await?;
        let (items, next) = listed?;
        Ok(Page { items, next: next.map(|number| number.to_string()) })
    }

    /// One alert.
    ///
    /// # Errors
    /// [`Code::NotFound`]; a failing store.
    pub async fn alert(&self, number: u64) -> Result<Alert, Error> {
        let alerts = self.alerts().clone();
        let found = blocking("reading an alert", move || alerts.get(number)).await??;
        found.ok_or_else(|| Refusal::not_found("alert", &number.to_string()).into())
    }

    /// The alerts that fire now.
    #[must_use]
    pub fn firing_alerts(&self) -> Vec<Alert> {
        self.alerts().firing()
    }

    /// Notes that somebody has seen an alert that is not over: its owners are not told again.
    ///
    /// # Errors
    /// [`Code::NotFound`]; a failing store.
    pub async fn acknowledge_alert(&self, number: u64) -> Result<Alert, Error> {
        let alert = self.alerts().acknowledge(number, self.author().cloned()).await?;
        let about = serde_json::json!({"alert": number.to_string(), "rule": alert.rule});
        self.catalog().record(self.author(), Action::Acknowledge, "queue", &alert.queue, about).await?;
        Ok(alert)
    }
}
