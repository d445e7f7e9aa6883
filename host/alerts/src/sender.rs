//! Gets notices through: of each channel one at a time, to each person in their order, again after a while
//! where that failed, until a day has passed. Called by the supervisor through [`Alerts::run`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use brolly_core::{Name, RetryPolicy, Timestamp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Alerts, Failure, Notice, channels::Sender, notice::Letter};

/// How a notice is tried again that did not get through.
const RETRY: RetryPolicy =
    RetryPolicy { max_attempts: RetryPolicy::MAX_ATTEMPTS, initial_delay_ms: 1_000, max_delay_ms: 300_000 };
/// After so long a notice is given up; it stays in the alert with the reason.
const GIVE_UP: Duration = Duration::from_secs(24 * 60 * 60);
/// Channels used at the same time.
const AT_ONCE: usize = 32;
/// How long nothing is looked for if there is nothing to do.
const IDLE: Duration = Duration::from_secs(60);

/// A notice that is being sent.
struct Task {
    channel: Name,
    alert: u64,
    number: u32,
    result: Result<(), Failure>,
}

impl Alerts {
    /// Sends what is to be sent until it is told to stop; then waits for what is on its way, so that it
    /// is not sent again.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut busy = BTreeSet::new();
        while !stop.is_cancelled() {
            let pause = self.start(&mut tasks, &mut busy);
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.work.notified() => {}
                () = tokio::time::sleep(pause) => {}
                Some(done) = tasks.join_next() => self.ended(done, &mut busy).await,
            }
        }
        while let Some(done) = tasks.join_next().await {
            self.ended(done, &mut busy).await;
        }
    }

    /// Starts what can be started; answers how long until there may be more.
    fn start(&self, tasks: &mut JoinSet<Task>, busy: &mut BTreeSet<Name>) -> Duration {
        let now = self.clock.now();
        let book = self.book.lock();
        let mut next: BTreeMap<(&Name, &str), _> = BTreeMap::new();
        for (alert, notice) in book.waiting() {
            next.entry((&notice.channel, &notice.to)).or_insert((alert, notice));
        }
        // Who cannot be reached holds up nobody else on the same channel.
        let rest = |notice: &Notice| notice.retry_at.map_or(Duration::ZERO, |at| at.since(now));
        let mut next: Vec<_> = next.into_values().collect();
        next.sort_by_key(|(alert, notice)| (rest(notice), alert.number, notice.number));
        let mut pause = IDLE;
        for (alert, notice) in next {
            let channel = &notice.channel;
            if busy.contains(channel) || busy.len() >= AT_ONCE {
                continue;
            }
            let rest = rest(notice);
            if !rest.is_zero() {
                pause = pause.min(rest);
                continue;
            }
            let letter = Letter::new(&self.host, alert, notice);
            let (channel, to) = (channel.clone(), notice.to.clone());
            let (alert, number, sender) = (alert.number, notice.number, self.sender(&channel));
            busy.insert(channel.clone());
            tasks.spawn(async move {
                let result = match sender {
                    Ok(sender) => sender.send(&to, &letter).await,
                    Err(failure) => Err(failure),
                };
                Task { channel, alert, number, result }
            });
        }
        pause
    }

    fn sender(&self, channel: &Name) -> Result<Arc<Sender>, Failure> {
        match self.channels.read().get(channel) {
            Some(open) => open.sender.clone(),
            None => Err(Failure::new(format!("the channel {channel} was deleted"))),
        }
    }

    async fn ended(&self, done: Result<Task, tokio::task::JoinError>, busy: &mut BTreeSet<Name>) {
        let Task { channel, alert, number, result } = match done {
            Ok(task) => task,
            Err(error) => {
                // Which one is not known: none is busy any more that has no task. It is tried again.
                tracing::error!(%error, "a notice could not be sent");
                busy.clear();
                return;
            }
        };
        busy.remove(&channel);
        let label = if result.is_ok() { "sent" } else { "failed" };
        metrics::counter!("brolly_notices_total", "channel" => channel.to_string(), "result" => label)
            .increment(1);
        if let Err(error) = &result {
            tracing::warn!(%channel, alert, %error, "a notice did not get through");
        }
        if let Some(durable) = self.note(&channel, alert, number, result)
            && durable.await.is_err()
        {
            tracing::error!(%channel, alert, "that a notice was sent cannot be written down");
        }
    }

    /// Writes down what became of a notice.
    fn note(
        &self,
        channel: &Name,
        alert: u64,
        number: u32,
        result: Result<(), Failure>,
    ) -> Option<crate::book::Durable> {
        let now = self.clock.now();
        let mut book = self.book.lock();
        book.result(channel, result.clone(), now);
        let notice = book.notice(alert, number)?;
        notice.attempts = notice.attempts.saturating_add(1);
        match result {
            Ok(()) => {
                notice.sent_at = Some(now);
                notice.error = None;
            }
            Err(failure) => {
                let again = now.since(notice.at) < GIVE_UP;
                notice.failed(&failure, again.then(|| retry_at(notice.attempts, now)));
            }
        }
        match book.write(&self.book, &self.store, &[alert]) {
            Ok(durable) => durable,
            Err(error) => {
                tracing::error!(alert, %error, "what became of a notice cannot be written down");
                None
            }
        }
    }
}

fn retry_at(attempts: u32, now: Timestamp) -> Timestamp {
    // Without spread: channels are few, and a test bench for a mail server likes to know when.
    now.after(RETRY.delay(attempts, 0.5))
}
