//! What a subscription is doing now, as people want to know it.

use std::time::Duration;

use brolly_core::{Clock, Decision, Digest, Timestamp};
use parking_lot::Mutex;

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
}

/// A status that its subscription keeps up to date.
#[derive(Debug)]
pub(crate) struct Board(Mutex<Status>);

impl Board {
    pub(crate) fn new(clock: &dyn Clock) -> Self {
        Self(Mutex::new(Status {
            state: State::Starting,
            since: clock.now(),
            error: None,
            version: None,
            acked: 0,
            retried: 0,
            dead: 0,
            last_failure: None,
        }))
    }

    pub(crate) fn read(&self) -> Status {
        self.0.lock().clone()
    }

    pub(crate) fn set(
        &self,
        state: State,
        version: Option<Digest>,
        error: Option<String>,
        clock: &dyn Clock,
    ) {
        let mut status = self.0.lock();
        if status.state != state || status.error != error {
            status.since = clock.now();
        }
        status.state = state;
        status.version = version;
        status.error = error;
    }

    /// Counts a decision. Answers whether its reason is news: not the same as a moment before.
    pub(crate) fn tell(&self, decision: &Decision, at: Timestamp) -> bool {
        let mut status = self.0.lock();
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
