//! What a subscription is doing now, as people want to know it.

use std::time::Duration;

use brolly_core::{Clock, Decision, Digest, Timestamp};
use parking_lot::Mutex;

use crate::{
    breaker::{Breaker, Dependency},
    latency::{Latency, Percentiles},
    streak::Streak,
    versions::Versions,
};

/// A failure with the same reason is no news for so long.
const RECENT: Duration = Duration::from_secs(10);

/// What a subscription is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is about to take deliveries.
    Starting,
    /// It takes deliveries.
    Running,
    /// It is wanted to rest, and does.
    Paused,
    /// It cannot run; it is tried again.
    Failed,
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Failed => "failed",
        }
    }
}

/// A subscription's present state.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Why, where it failed.
    pub error: Option<String>,
    /// The plugin version that takes deliveries.
    pub version: Option<Digest>,
    /// Since this host started: attempts acknowledged.
    pub acked: u64,
    /// Attempts that are tried again.
    pub retried: u64,
    /// Deliveries that became dead letters.
    pub dead: u64,
    /// The latest failed attempt's reason, with its moment.
    pub last_failure: Option<(Timestamp, String)>,
    /// How long attempts of a handler took, of the last minutes.
    pub attempt: Option<Percentiles>,
    /// How long it took from the acceptance of a message to the end of its acknowledged attempt, of the
    /// last minutes.
    pub handled: Option<Percentiles>,
    /// What its handlers cannot reach, and how many deliveries are held back for it.
    pub dependencies: Vec<Dependency>,
}

/// How long one attempt took.
pub(crate) struct Took {
    pub attempt: Duration,
    /// Since the message was accepted, if it is handled now.
    pub handled: Option<Duration>,
}

/// What its subscription keeps up to date.
pub(crate) struct Board {
    /// What its handlers cannot reach.
    pub breaker: Mutex<Breaker>,
    /// Which versions handle it.
    pub versions: Versions,
    /// Whether it does nothing but retry.
    pub streak: Streak,
    status: Mutex<Status>,
    latencies: Mutex<Latencies>,
}

#[derive(Default)]
struct Latencies {
    attempt: Latency,
    handled: Latency,
}

impl Board {
    pub(crate) fn new(clock: &dyn Clock) -> Self {
        let status = Status {
            state: State::Starting,
            since: clock.now(),
            error: None,
            version: None,
            acked: 0,
            retried: 0,
            dead: 0,
            last_failure: None,
            attempt: None,
            handled: None,
            dependencies: Vec::new(),
        };
        Self {
            breaker: Mutex::default(),
            versions: Versions::default(),
            streak: Streak::default(),
            status: Mutex::new(status),
            latencies: Mutex::default(),
        }
    }

    pub(crate) fn read(&self, now: Timestamp) -> Status {
        let mut latencies = self.latencies.lock();
        let (attempt, handled) = (latencies.attempt.read(now), latencies.handled.read(now));
        drop(latencies);
        let dependencies = self.breaker.lock().read();
        Status { attempt, handled, dependencies, ..self.status.lock().clone() }
    }

    /// Notes how long an attempt took that began at a moment.
    pub(crate) fn took(&self, took: &Took, at: Timestamp) {
        let mut latencies = self.latencies.lock();
        latencies.attempt.add(took.attempt, at);
        if let Some(handled) = took.handled {
            latencies.handled.add(handled, at);
        }
    }

    pub(crate) fn set(
        &self,
        state: State,
        version: Option<Digest>,
        error: Option<String>,
        clock: &dyn Clock,
    ) {
        let mut status = self.status.lock();
        if status.state != state || status.error != error {
            status.since = clock.now();
        }
        status.state = state;
        status.version = version;
        status.error = error;
    }

    /// Counts a decision. Answers whether its reason is news: not the same as a moment before.
    pub(crate) fn tell(&self, decision: &Decision, at: Timestamp) -> bool {
        self.streak.tell(decision);
        let mut status = self.status.lock();
        let reason = match decision {
            Decision::Ack => {
                status.acked += 1;
                return false;
            }
            Decision::Retry { reason, .. } => {
                status.retried += 1;
                reason
            }
            Decision::DeadLetter { reason } => {
                status.dead += 1;
                reason
            }
            Decision::Release { reason, .. } => reason,
        };
        let told = |(before, told): &(Timestamp, String)| at.since(*before) < RECENT && told == reason;
        let news = !status.last_failure.as_ref().is_some_and(told);
        status.last_failure = Some((at, reason.clone()));
        news
    }
}
